package sessions_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// startRing starts two shards that keep their keys over a crash, and a ring that soon takes out one that is down.
func startRing(t *testing.T, change ...func(*redis.RingOptions)) (*redis.Ring, [2]*redistest.Server) {
	t.Helper()
	var shards [2]*redistest.Server
	for i := range shards {
		shards[i] = redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	}
	opts := &redis.RingOptions{
		Addrs: map[string]string{"one": shards[0].Addr, "two": shards[1].Addr}, HeartbeatFrequency: 10 * time.Millisecond,
		ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: 5 * time.Second,
	}
	for _, f := range change {
		f(opts)
	}
	ring := redis.NewRing(opts)
	t.Cleanup(func() { _ = ring.Close() })
	return ring, shards
}

func awaitShards(t *testing.T, ring *redis.Ring, n int) {
	t.Helper()
	until(t, 20*time.Second, func() bool { return ring.Len() == n })
}

// until waits for a condition, which it asks on the goroutine of the test.
func until(t *testing.T, limit time.Duration, met func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !met(); <-tick.C {
		require.True(t, time.Now().Before(end), "not met within %v", limit)
	}
}

// tokensOn creates sessions with one hit each, n of which are on a shard.
func tokensOn(t *testing.T, app *redisApp, shard *redistest.Server, n int) (tokens []string) {
	t.Helper()
	rdb := shard.Client(t)
	for len(tokens) < n {
		token := app.must("", addHit)
		if rdb.Exists(context.Background(), redisKey(token)).Val() == 1 {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// go-redis takes a shard that is down out of the ring and looks for its keys on the others, where they are missing. That
// is no answer: nobody is logged out, nothing is created in the wrong place, and no logout is answered that did not
// happen.
func TestP14_P08_RingShardAway(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ring, shards := startRing(t)
	store := newRedisStore(t, struct{ *redis.Ring }{ring}, 100*time.Hour)
	app := newRedisApp(t, store)
	changes := map[string]func(sessions.Session){
		"write":   addHit,
		"renew":   sessions.Session.Renew,
		"destroy": sessions.Session.Destroy,
	}
	here := tokensOn(t, app, shards[0], 2)
	away := tokensOn(t, app, shards[1], 3+len(changes))
	awaitShards(t, ring, 2)
	tombstone := newRedisRecord(time.Hour, time.Hour)
	tombstone.Revoked = true

	goes := func() {
		shards[1].Stop()
		awaitShards(t, ring, 1)
	}
	for name, change := range changes {
		token := away[0]
		away = away[1:]
		after, status := app.do(token, func(s sessions.Session) { change(s); goes() })
		require.Equal(t, http.StatusServiceUnavailable, status, "%s: loaded before the shard left", name)
		require.Equal(t, token, after, name)
		after, status = app.do(token, change)
		require.Equal(t, http.StatusServiceUnavailable, status, name)
		require.Equal(t, token, after, name)
		shards[1].Restart()
		awaitShards(t, ring, 2)
		n, ok := app.hits(token)
		require.True(t, ok, "%s: the session is as it was", name)
		require.Equal(t, 1, n, name)
	}

	age(t, ring, away[0])
	after, status := app.do(away[0], func(s sessions.Session) { redisHits.Get(s); goes() })
	require.Equal(t, http.StatusOK, status, "a touch that fails does not fail a request that reads")
	require.Equal(t, away[0], after)
	require.Zero(t, app.count(sessions.EventTouch, sessions.OutcomeGone))
	require.Equal(t, 1, app.count(sessions.EventTouch, sessions.OutcomeError))

	for _, token := range away {
		after, status := app.do(token, noop)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, token, after)
		id, _ := sessions.TokenID(token)
		_, err := store.Alive(ctx, id)
		require.ErrorContains(t, err, "a shard of the Ring is down")
	}
	for range 10 {
		after, status := app.do("", addHit)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Empty(t, after)
	}
	_, err := store.Save(ctx, "", tombstone, 0)
	require.ErrorContains(t, err, "a shard of the Ring is down")
	n, ok := app.hits(app.must(here[0], addHit))
	require.True(t, ok, "the sessions of the other shard can be used")
	require.Equal(t, 2, n)
	require.Empty(t, app.must(here[1], sessions.Session.Destroy))
	_, status = app.do(here[1], noop)
	require.Equal(t, http.StatusServiceUnavailable, status)

	shards[1].Restart()
	awaitShards(t, ring, 2)
	for _, token := range away {
		n, ok := app.hits(token)
		require.True(t, ok)
		require.Equal(t, 1, n)
		require.Empty(t, app.must(token, sessions.Session.Destroy))
		_, ok = app.hits(token)
		require.False(t, ok)
	}
	_, ok = app.hits(here[1])
	require.False(t, ok)
	app.must("", addHit)
}

// afterCommand calls a function after each command of a client.
type afterCommand struct {
	redis.Hook
	do func()
}

func (h *afterCommand) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *afterCommand) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *afterCommand) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h.do()
		return err
	}
}

// A shard may leave while a command runs, or be back before its answer is looked at.
func TestP14_P08_RingShardComesAndGoes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, comes := range []bool{true, false} {
		ring, shards := startRing(t)
		store := newRedisStore(t, ring, 100*time.Hour)
		app := newRedisApp(t, store)
		token := tokensOn(t, app, shards[1], 1)[0]
		rec, err := store.Load(ctx, "", token)
		require.NoError(t, err)
		loadScripts(t, shards[0].Client(t))
		after := &afterCommand{do: func() {}}
		ring.AddHook(after)
		there := func(yes bool) {
			if yes {
				shards[1].Restart()
				awaitShards(t, ring, 2)
			} else {
				shards[1].Stop()
				awaitShards(t, ring, 1)
			}
		}
		steps := map[string]func() error{
			"load":   func() error { _, err := store.Load(ctx, "", token); return err },
			"alive":  func() error { _, err := store.Alive(ctx, rec.ID); return err },
			"save":   func() error { _, err := store.Save(ctx, "", rec, rec.Version); return err },
			"touch":  func() error { _, err := store.Touch(ctx, "", rec); return err },
			"delete": func() error { return store.Delete(ctx, "", rec) },
		}
		if !comes { // the command itself finds all shards up
			steps = map[string]func() error{
				"create": func() error { _, err := store.Save(ctx, "", newRedisRecord(time.Hour, time.Hour), 0); return err },
				"load":   func() error { _, err := store.Load(ctx, "", sessions.NewToken()); return err },
			}
		}
		for name, step := range steps {
			there(!comes)
			after.do = func() { after.do = func() {}; there(comes) }
			err := step()
			require.Error(t, err, name)
			require.NotErrorIs(t, err, sessions.ErrNotFound, name)
			require.NotErrorIs(t, err, sessions.ErrGone, name)
		}
		if !comes {
			there(true)
		}
		require.Eventually(t, func() bool { // the first command on a connection to the server that was stopped may fail
			_, status := app.do(token, noop)
			return status == http.StatusOK
		}, waitLimit, 5*time.Millisecond)
		_, ok := app.hits(token)
		require.True(t, ok)
	}
}

// With a heartbeat that keeps every shard in the ring, the sessions of the others can be created as well.
func TestP14_RingKeepsItsShards(t *testing.T) {
	t.Parallel()
	ring, shards := startRing(t, func(o *redis.RingOptions) {
		o.HeartbeatFn = func(context.Context, *redis.Client) bool { return true }
	})
	app := newRedisApp(t, newRedisStore(t, ring, 100*time.Hour))
	token := tokensOn(t, app, shards[1], 1)[0]
	shards[1].Stop()
	after, status := app.do(token, noop)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, token, after)
	until(t, 20*time.Second, func() bool { // a token that belongs to the other shard
		_, status := app.do("", addHit)
		return status == http.StatusOK
	})
	shards[1].Restart()
	_, ok := app.hits(token)
	require.True(t, ok)
}

// SetAddrs gives keys to other shards, where they are missing.
func TestP14_RingSetAddrs(t *testing.T) {
	t.Parallel()
	ring, shards := startRing(t)
	app := newRedisApp(t, newRedisStore(t, ring, 100*time.Hour))
	token := tokensOn(t, app, shards[1], 1)[0]
	for _, addrs := range []map[string]string{
		{"one": shards[0].Addr},
		{"three": shards[0].Addr, "four": shards[0].Addr, "five": shards[0].Addr},
	} {
		ring.SetAddrs(addrs)
		after, status := app.do(token, noop)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, token, after)
	}
}

// A replica that has taken over is used at once, not when the client's view of the cluster is a minute old.
func TestP14_ClusterFailover(t *testing.T) {
	t.Parallel()
	if !long() {
		t.Skip("HANDOVER_LONG is not set: a failover takes seconds")
	}
	ctx := context.Background()
	masters := redistest.StartCluster(t, 3, "--cluster-node-timeout", "1000")
	replicas := redistest.StartReplicas(t, masters, "--cluster-node-timeout", "1000")
	rdb := redistest.ClusterClient(t, masters, func(o *redis.ClusterOptions) { o.DialerRetries = 1 })
	app := newRedisApp(t, newRedisStore(t, rdb, 100*time.Hour))
	var tokens []string
	for range 30 {
		tokens = append(tokens, app.must("", addHit))
	}
	require.Positive(t, masters[0].Client(t).Wait(ctx, 1, 10*time.Second).Val())
	promoted := replicas[0].Client(t)
	masters[0].Stop()
	all := func() bool {
		good := true
		for _, token := range tokens {
			after, status := app.do(token, func(s sessions.Session) {
				n, ok := redisHits.Get(s)
				require.True(t, ok, "nobody is logged out")
				require.Equal(t, 1, n)
			})
			require.Equal(t, token, after)
			good = good && status == http.StatusOK
		}
		return good
	}
	start := time.Now()
	until(t, 2*time.Minute, func() bool {
		all()
		return strings.Contains(promoted.Info(ctx, "replication").Val(), "role:master")
	})
	t.Logf("promoted after %v", time.Since(start))
	start = time.Now()
	until(t, 20*time.Second, all) // by itself, go-redis looks once a minute
	t.Logf("in use %v later", time.Since(start))
	for _, token := range tokens {
		app.must(token, addHit)
	}
}

// reloads counts how often a client is asked to look at its cluster again.
type reloads struct {
	*redis.ClusterClient
	n int
}

func (r *reloads) ReloadState(ctx context.Context) {
	r.n++
	r.ClusterClient.ReloadState(ctx)
}

// Only a command without an answer says that the cluster may have changed. A client that hangs up says nothing.
func TestClusterReload(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	servers := redistest.StartCluster(t, 1)
	rdb := &reloads{ClusterClient: redistest.ClusterClient(t, servers, func(o *redis.ClusterOptions) { o.DialerRetries = 1 })}
	store := newRedisStore(t, rdb, 100*time.Hour)
	app := newRedisApp(t, store)
	token := app.must("", addHit)
	require.Empty(t, app.must(app.must(token, sessions.Session.Renew), sessions.Session.Destroy))
	_, ok := app.hits(token)
	require.False(t, ok)
	rec := newRedisRecord(time.Hour, time.Hour)
	require.NoError(t, rdb.LPush(ctx, redisKey(rec.Token), 1).Err())
	_, err := store.Save(ctx, "", rec, rec.Version)
	require.ErrorContains(t, err, "WRONGTYPE")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = store.Load(canceled, "", rec.Token)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, rdb.n)

	servers[0].Stop()
	tombstone := newRedisRecord(time.Hour, time.Hour)
	tombstone.Revoked = true
	for name, op := range map[string]func() error{
		"load":      func() error { _, err := store.Load(ctx, "", rec.Token); return err },
		"alive":     func() error { _, err := store.Alive(ctx, rec.ID); return err },
		"create":    func() error { _, err := store.Save(ctx, "", rec, 0); return err },
		"tombstone": func() error { _, err := store.Save(ctx, "", tombstone, 0); return err },
		"save":      func() error { _, err := store.Save(ctx, "", rec, rec.Version); return err },
		"touch":     func() error { _, err := store.Touch(ctx, "", rec); return err },
		"delete":    func() error { return store.Delete(ctx, "", rec) },
		"check":     func() error { _, err := store.Check(ctx); return err },
		"audit":     func() error { _, err := store.Audit(ctx); return err },
	} {
		rdb.n = 0
		require.Error(t, op(), name)
		require.Equal(t, 1, rdb.n, name)
	}
}
