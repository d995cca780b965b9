package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	n := 20_000
	if os.Getenv("HANDOVER_LONG") != "" {
		n = 200_000
	}
	for _, c := range []struct {
		name  string
		nodes int // of a cluster
		n     int
	}{
		{"server", 0, n},
		{"cluster of 1", 1, n},
		{"cluster of 2", 2, 20_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var rdb redis.UniversalClient
			var server []string
			if c.nodes == 0 {
				single := redistest.Start(t)
				rdb, server = single.Client(t), []string{"-redis", single.Addr}
			} else {
				cluster := redistest.StartCluster(t, c.nodes)
				rdb, server = redistest.ClusterClient(t, cluster), []string{"-redis", cluster[c.nodes-1].Addr, "-cluster"}
			}
			const bare = 200
			ctx := context.Background()
			ids := fill(t, rdb, "session:", c.n, bare)
			require.NoError(t, rdb.Set(ctx, "sessionx", 1, 0).Err())
			without := func() (count int) {
				for _, id := range ids[:bare] {
					if rdb.TTL(ctx, "session:"+id).Val() < 0 {
						count++
					}
				}
				return count
			}
			audit := func(more ...string) (int, string) {
				code, out, errs := ctl(t, "", append(append([]string{"audit"}, server...), more...)...)
				require.Empty(t, errs)
				t.Log("\n" + out)
				return code, strings.Join(strings.Fields(out), " ")
			}

			code, out := audit()
			require.Equal(t, exitWrong, code)
			require.Contains(t, out, "keys "+group(int64(c.n))+",")
			require.Contains(t, out, "without TTL 200 ")
			require.Contains(t, out, "Nothing was changed. 200 keys stay")
			require.NotContains(t, out, "foreign")
			require.Contains(t, out, "for example ")
			require.Equal(t, bare, without(), "a dry run changes nothing")

			code, out = audit("-json", "-ttl", "14d")
			require.Equal(t, exitWrong, code)
			var a sessions.RedisAudit
			require.NoError(t, json.Unmarshal([]byte(out), &a))
			require.EqualValues(t, c.n, a.Keys)
			require.EqualValues(t, bare, a.KeysWithoutTTL)
			require.Subset(t, ids[:bare], a.SessionIDs)
			require.Equal(t, bare, without(), "-ttl alone changes nothing")

			code, out = audit("-fix", "-ttl", "14d")
			require.Equal(t, exitOK, code)
			require.Contains(t, out, "without TTL 200 repaired 200, with a TTL of 14 d ")
			require.Contains(t, out, "Every key has a TTL now.")
			for _, id := range ids[:bare] {
				require.InDelta(t, 14*24*time.Hour, rdb.TTL(ctx, "session:"+id).Val(), float64(5*time.Minute))
			}
			for _, id := range ids[bare : 2*bare] {
				require.InDelta(t, time.Hour, rdb.TTL(ctx, "session:"+id).Val(), float64(5*time.Minute), "as it was")
			}
			require.Negative(t, rdb.TTL(ctx, "sessionx").Val(), "not under the prefix")

			code, out = audit()
			require.Equal(t, exitOK, code)
			require.Contains(t, out, "without TTL 0 ")
			require.Contains(t, out, "Every key has a TTL.")
		})
	}
}

func TestAuditOtherPrefix(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := redistest.Start(t)
	rdb := server.Client(t)
	require.NoError(t, rdb.Set(ctx, "s*:"+hide("name-of-another-library"), 1, 0).Err())
	require.NoError(t, rdb.Set(ctx, "sx:y", 1, 0).Err())

	code, out, _ := ctl(t, "", "audit", "-redis", server.Addr)
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "No key has this prefix.")

	code, out, _ = ctl(t, "", "audit", "-redis", server.Addr, "-prefix", "s*:")
	require.Equal(t, exitWrong, code)
	require.Contains(t, out, "1 key is not named by this library")
	require.Contains(t, out, "1 key stays")
}

// A walk that ends early claims nothing about the rest.
func TestAuditEndsEarly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	fill(t, server.Client(t), "session:", 5000, 0)
	for name, broken := range map[string]func(proxy *redistest.Proxy, cancel func()) redistest.Fault{
		"interrupted":  func(_ *redistest.Proxy, cancel func()) redistest.Fault { cancel(); return redistest.Pass },
		"cannot reach": func(*redistest.Proxy, func()) redistest.Fault { return redistest.LoseCall },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			proxy := server.Proxy(t)
			proxy.SetFault(func(args []string) redistest.Fault {
				if args[0] == "SCAN" && args[1] != "0" {
					return broken(proxy, cancel)
				}
				return redistest.Pass
			})
			code, out, errs := ctlContext(t, ctx, "", "audit", "-redis", proxy.Addr)
			require.Equal(t, exitNoAnswer, code, errs)
			require.Contains(t, out, "without TTL  0")
			require.NotContains(t, out, "Every key")
			require.Contains(t, errs, "did not finish")
			require.Contains(t, errs, "sessionctl audit: "+name)
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out)
		for i := range 25 {
			p.show(func() string { return fmt.Sprint("at ", i) })
			time.Sleep(time.Second)
		}
		p.clear()
		require.Equal(t, "at 10\nat 20\n", out.String(), "not a terminal: a line now and then")

		out.Reset()
		p = &progress{w: &out, live: true}
		p.wait()
		for i := range 8 {
			p.show(func() string { return fmt.Sprint("at ", i) })
			time.Sleep(99 * time.Millisecond)
		}
		p.clear()
		require.Equal(t, "\rat 6\x1b[K\r\x1b[K", out.String())

		out.Reset()
		p.wait()
		p.shown = false
		p.show(func() string { panic("too early") })
		p.clear()
		require.Empty(t, out.String(), "a short walk shows no progress")
	})
	require.Equal(t, "1,500 of up to 20,000 keys, 12 without TTL, 3 repaired, 4 s",
		auditProgress(sessions.RedisAudit{Keys: 1500, KeysWithoutTTL: 12, Repaired: 3}, 20000, 4*time.Second))
}
