package sessiontest_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

func TestStore_Cookie(t *testing.T) {
	t.Parallel()
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return newCookieStore(t) })
}

func TestStore_Redis(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return newRedisStore(t, rdb) })
	wantTTLs(t, rdb)
}

func TestStore_RedisAutoPipeline(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	pipeline, err := rdb.AutoPipeline()
	require.NoError(t, err)
	t.Cleanup(func() { _ = pipeline.Close() })
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return newRedisStore(t, pipeline) })
	wantTTLs(t, rdb)
}

func TestStore_RedisCluster(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--cluster-enabled", "yes", "--cluster-config-file", t.TempDir()+"/nodes.conf")
	node := server.Client(t)
	require.NoError(t, node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	require.Eventually(t, func() bool {
		info, err := node.ClusterInfo(t.Context()).Result()
		return err == nil && bytes.Contains([]byte(info), []byte("cluster_state:ok"))
	}, 20*time.Second, 10*time.Millisecond)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr}, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = rdb.Close() })
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return newRedisStore(t, rdb) })
	wantTTLs(t, node)
}

func TestStore_Miniredis(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(&clock{server: server, now: time.Now()})
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return newRedisStore(t, rdb) })
}

// clock makes the keys of a miniredis expire as time goes by, which they do not by themselves: it is set before each
// command.
type clock struct {
	server *miniredis.Miniredis

	mu  sync.Mutex
	now time.Time
}

func (c *clock) set() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.server.FastForward(now.Sub(c.now))
	c.now = now
}

func (c *clock) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *clock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.set()
		return next(ctx, cmd)
	}
}

func (c *clock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.set()
		return next(ctx, cmds)
	}
}

// wantTTLs checks that whatever the suite has left behind will go away by itself.
func wantTTLs(t *testing.T, rdb *redis.Client) {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		ttl, err := rdb.PTTL(t.Context(), key).Result()
		require.NoError(t, err)
		require.NotEqual(t, time.Duration(-1), ttl, "a key without a TTL")
		require.LessOrEqual(t, ttl, time.Hour)
	}
}

func newRedisStore(t *testing.T, rdb redis.Cmdable) *sessions.RedisStore {
	t.Helper()
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	return store
}

func newCookieStore(t *testing.T) *sessions.CookieStore {
	t.Helper()
	codec, err := sessions.NewSecureCookieCodec([]byte("a secret of the tests: 32 bytes!"))
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return store
}
