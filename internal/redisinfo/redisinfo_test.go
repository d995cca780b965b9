package redisinfo

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInfo(t *testing.T) {
	for _, c := range []struct {
		text              string
		cluster, sentinel bool
		masters           []string
	}{
		{"", false, false, nil},
		{"# Server\r\nredis_mode:standalone\r\n# Cluster\r\ncluster_enabled:0\r\n", false, false, nil},
		{"redis_mode:cluster\r\n", true, false, nil},
		{"server_mode:cluster\r\n", true, false, nil},
		{"cluster_enabled:1\r\n", true, false, nil},
		{"redis_mode:sentinel\r\nsentinel_masters:0\r\n", false, true, nil},
		{"server_mode:sentinel\r\nmaster0:name=a,status=ok,address=10.0.0.1:6379,slaves=2,sentinels=3\r\nmaster1:name=b,status=ok,address=[fe80::1]:6380\r\n",
			false, true, []string{"10.0.0.1:6379", "[fe80::1]:6380"}},
	} {
		info := Parse(c.text)
		require.Equal(t, c.cluster, info.Cluster(), c.text)
		require.Equal(t, c.sentinel, info.Sentinel(), c.text)
		require.Equal(t, c.masters, info.Masters(), c.text)
	}
	require.Equal(t, "keys=1,expires=0", Parse("# Keyspace\ndb0:keys=1,expires=0\n")["db0"])
}
