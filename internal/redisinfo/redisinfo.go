// Package redisinfo reads the reply of INFO.
package redisinfo

import (
	"cmp"
	"fmt"
	"strings"
)

// Info is what a server reports of itself, by the names of the fields.
type Info map[string]string

// Parse parses the text of a reply.
func Parse(text string) Info {
	info := Info{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

// Cluster reports whether the server is a node of a cluster.
func (i Info) Cluster() bool { return i.mode() == "cluster" || i["cluster_enabled"] == "1" }

// Sentinel reports whether the server is a sentinel.
func (i Info) Sentinel() bool { return i.mode() == "sentinel" }

func (i Info) mode() string { return cmp.Or(i["redis_mode"], i["server_mode"]) } // Valkey uses the second name

// Masters returns the addresses of the masters that a sentinel watches.
func (i Info) Masters() (addrs []string) {
	for n := 0; i[fmt.Sprintf("master%d", n)] != ""; n++ {
		for field := range strings.SplitSeq(i[fmt.Sprintf("master%d", n)], ",") {
			if addr, ok := strings.CutPrefix(field, "address="); ok {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}
