package redistest

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// StartCluster starts a cluster of n masters without replicas, and stops it when the test ends.
func StartCluster(tb testing.TB, n int) []*Server {
	tb.Helper()
	const slots = 16384
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var servers []*Server
	var clients []*redis.Client
	for i := range n {
		_, bus, _ := net.SplitHostPort(freeAddr(tb))
		s := Start(tb, "--dir", tb.TempDir(), "--cluster-enabled", "yes", "--cluster-port", bus)
		c := s.Client(tb)
		if err := c.ClusterAddSlotsRange(ctx, i*slots/n, (i+1)*slots/n-1).Err(); err != nil {
			tb.Fatal(err)
		}
		if err := c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			tb.Fatal(err)
		}
		if i > 0 {
			host, port, _ := net.SplitHostPort(servers[0].Addr)
			busOfFirst := servers[0].args[len(servers[0].args)-1]
			if err := c.Do(ctx, "CLUSTER", "MEET", host, port, busOfFirst).Err(); err != nil {
				tb.Fatal(err)
			}
		}
		servers, clients = append(servers, s), append(clients, c)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, c := range clients {
		for {
			nodes, _ := c.ClusterShards(ctx).Result()
			v, err := c.ClusterInfo(ctx).Result()
			if err == nil && len(nodes) == n && strings.Contains(v, "cluster_state:ok") {
				break
			}
			select {
			case <-ctx.Done():
				tb.Fatalf("the cluster did not come up: %v\n%s", err, v)
			case <-tick.C:
			}
		}
	}
	return servers
}

// ClusterClient returns a client of the cluster, closed when the test ends.
func ClusterClient(tb testing.TB, servers []*Server, change ...func(*redis.ClusterOptions)) *redis.ClusterClient {
	tb.Helper()
	opts := &redis.ClusterOptions{ContextTimeoutEnabled: true, DialTimeout: 2 * time.Second}
	for _, s := range servers {
		opts.Addrs = append(opts.Addrs, s.Addr)
	}
	for _, f := range change {
		f(opts)
	}
	rdb := redis.NewClusterClient(opts)
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
