package redistest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// StartCluster starts a cluster of n masters without replicas, and stops it when the test ends. It passes args on to each
// redis-server.
func StartCluster(tb testing.TB, n int, args ...string) []*Server {
	tb.Helper()
	const slots = 16384
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var servers []*Server
	var clients []*redis.Client
	for i := range n {
		s := startNode(tb, args)
		c := s.Client(tb)
		if err := c.ClusterAddSlotsRange(ctx, i*slots/n, (i+1)*slots/n-1).Err(); err != nil {
			tb.Fatal(err)
		}
		if err := c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(); err != nil {
			tb.Fatal(err)
		}
		if i > 0 {
			meet(ctx, tb, c, servers[0])
		}
		servers, clients = append(servers, s), append(clients, c)
	}
	for _, c := range clients {
		await(ctx, tb, "the cluster did not come up", func() (bool, string) {
			nodes, _ := c.ClusterShards(ctx).Result()
			v, err := c.ClusterInfo(ctx).Result()
			return err == nil && len(nodes) == n && strings.Contains(v, "cluster_state:ok"), fmt.Sprint(v, err)
		})
	}
	return servers
}

// StartReplicas adds one replica to each master of a cluster, in the same order, and stops them when the test ends. It
// passes args on to each redis-server.
func StartReplicas(tb testing.TB, masters []*Server, args ...string) []*Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var replicas []*Server
	for _, master := range masters {
		s := startNode(tb, args)
		c := s.Client(tb)
		id, err := master.Client(tb).ClusterMyID(ctx).Result()
		if err != nil {
			tb.Fatal(err)
		}
		meet(ctx, tb, c, masters[0])
		await(ctx, tb, "the replica does not know its master", func() (bool, string) {
			err := c.ClusterReplicate(ctx, id).Err()
			return err == nil, fmt.Sprint(err)
		})
		await(ctx, tb, "the replica does not follow its master", func() (bool, string) {
			v, err := c.Info(ctx, "replication").Result()
			return strings.Contains(v, "master_link_status:up"), fmt.Sprint(v, err)
		})
		replicas = append(replicas, s)
	}
	for _, s := range masters { // each must know all replicas, or it does not vote for one
		c := s.Client(tb)
		await(ctx, tb, "a master does not know all replicas", func() (bool, string) {
			v, err := c.ClusterNodes(ctx).Result()
			return strings.Count(v, " connected") == 2*len(masters) && strings.Count(v, "slave ") == len(masters), fmt.Sprint(v, err)
		})
	}
	return replicas
}

func startNode(tb testing.TB, args []string) *Server {
	tb.Helper()
	_, bus, _ := net.SplitHostPort(freeAddr(tb))
	own := []string{"--dir", tb.TempDir(), "--cluster-enabled", "yes", "--cluster-port", bus}
	return Start(tb, append(append([]string{}, args...), own...)...)
}

func meet(ctx context.Context, tb testing.TB, c *redis.Client, first *Server) {
	tb.Helper()
	host, port, _ := net.SplitHostPort(first.Addr)
	if err := c.Do(ctx, "CLUSTER", "MEET", host, port, first.args[len(first.args)-1]).Err(); err != nil {
		tb.Fatal(err)
	}
}

func await(ctx context.Context, tb testing.TB, otherwise string, done func() (ok bool, seen string)) {
	tb.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, seen := done()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("%s: %s", otherwise, seen)
		case <-tick.C:
		}
	}
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
