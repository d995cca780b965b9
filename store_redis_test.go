package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// A touch writes the idle timeout beside the expiry that was made of it. Otherwise a later reader, with the shorter
// timeout, takes off the difference a second time and finds a session that was just used expired.
func TestRedisTouchKeepsIdle(t *testing.T) {
	ctx := context.Background()
	store := newRedisStore(t, redistest.Start(t).Client(t), time.Hour*100)
	rec := newRedisRecord(24*time.Hour, 14*24*time.Hour)
	_, err := store.Save(ctx, "session", rec, 0)
	require.NoError(t, err)

	rec.Idle = time.Hour // the configuration has changed
	rec.Expires = time.Now().Add(time.Hour)
	_, err = store.Touch(ctx, "session", rec)
	require.NoError(t, err)

	got, err := store.Load(ctx, "session", rec.Token)
	require.NoError(t, err)
	require.Equal(t, time.Hour, got.Idle)
	require.Equal(t, rec.Expires.UnixMilli(), got.Expires.UnixMilli())
}

// sentCommands is a hook that keeps what a client sends.
type sentCommands struct {
	mu   sync.Mutex
	sent [][]string
}

func (c *sentCommands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *sentCommands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.keep(cmd)
		return next(ctx, cmd)
	}
}

func (c *sentCommands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			c.keep(cmd)
		}
		return next(ctx, cmds)
	}
}

func (c *sentCommands) keep(cmd redis.Cmder) {
	var args []string
	for _, a := range cmd.Args() {
		if b, ok := a.([]byte); ok {
			a = string(b)
		}
		args = append(args, fmt.Sprint(a))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, args)
}

func (c *sentCommands) take() [][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := c.sent
	c.sent = nil
	return sent
}

const hundredYears = 100 * 365 * 24 * time.Hour

// strangeDurations are what a computation may come to.
var strangeDurations = []time.Duration{
	0, -1, -time.Millisecond, -5 * time.Second, -hundredYears, math.MinInt64,
	1, 999 * time.Microsecond, time.Millisecond, 1500 * time.Microsecond, time.Second - 1, 1500 * time.Millisecond, time.Hour, hundredYears, math.MaxInt64,
}

// Every path that writes, with every strange duration in every place that takes one: whatever comes of it, no key is
// without a TTL, none has more than the store's, and each SET asked for one itself.
func TestP09_RedisEveryPathHasATTL(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	rdb, admin := server.Client(t), server.Client(t)
	hook := &sentCommands{}
	rdb.AddHook(hook)

	written := 0
	check := func(t *testing.T, most time.Duration) {
		t.Helper()
		for _, args := range hook.take() {
			switch name := strings.ToLower(args[0]); name {
			case "set":
				written++
				i := len(args) - 2
				if strings.EqualFold(args[len(args)-1], "nx") {
					i--
				}
				unit := strings.ToLower(args[i])
				require.Contains(t, []string{"px", "ex"}, unit, "%q", args)
				n, err := strconv.ParseInt(args[i+1], 10, 64)
				require.NoError(t, err)
				require.Positive(t, n)
			case "evalsha", "eval":
				written++
				// Save: script, 1, key, record, lifetime, ...; touch: script, 1, key, version, lifetime, ...; end: without.
				if len(args) == 4 {
					continue
				}
				n, err := strconv.ParseInt(args[5], 10, 64)
				require.NoError(t, err)
				require.Positive(t, n)
			case "get", "del", "hello", "client":
			default:
				require.Fail(t, "a command that this test does not know", "%q", args)
			}
		}
		for keys := admin.Scan(ctx, 0, "*", 1000).Iterator(); keys.Next(ctx); {
			ms, err := admin.Do(ctx, "PTTL", keys.Val()).Int64()
			require.NoError(t, err)
			require.NotEqual(t, int64(-1), ms, "a key without a TTL")
			if ms > 0 {
				require.LessOrEqual(t, ms, most.Milliseconds())
			}
		}
		require.NoError(t, admin.FlushDB(ctx).Err())
	}

	paths := func(app *redisApp) {
		token, _ := app.do("", addHit)
		token, _ = app.do(token, addHit)
		age(t, admin, token)
		token, _ = app.do(token, func(s sessions.Session) { redisHits.Get(s) })
		token, _ = app.do(token, func(s sessions.Session) { s.Renew(); addHit(s) })
		token, _ = app.do(token, func(s sessions.Session) { s.Renew() })
		token, _ = app.do(token, func(s sessions.Session) { s.Clear() })
		token, _ = app.do(token, func(s sessions.Session) { s.Destroy(); addHit(s) })
		_, _ = app.do(token, addHit)
	}

	t.Run("TTL", func(t *testing.T) {
		for _, d := range strangeDurations {
			store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: d})
			if d < time.Millisecond {
				var bad *sessions.ConfigError
				require.ErrorAs(t, err, &bad, "%v", d)
				require.Equal(t, "TTL", bad.Field)
				continue
			}
			require.NoError(t, err)
			paths(newRedisApp(t, store))
			check(t, max(d, time.Minute)) // a minute: the tombstone of a renewal
		}
	})
	t.Run("IdleTimeout and AbsoluteTimeout", func(t *testing.T) {
		store := newRedisStore(t, rdb, 48*time.Hour)
		for _, idle := range strangeDurations {
			for _, absolute := range strangeDurations {
				_, err := sessions.New(sessions.Config{Store: store, IdleTimeout: idle, AbsoluteTimeout: absolute})
				if idle != 0 && idle < time.Millisecond || absolute != 0 && absolute < time.Millisecond {
					require.Error(t, err, "%v %v", idle, absolute)
					continue
				}
				require.NoError(t, err)
				paths(newRedisApp(t, store, func(c *sessions.Config) { c.IdleTimeout, c.AbsoluteTimeout = idle, absolute }))
				most := 48 * time.Hour
				if absolute != 0 {
					most = min(most, max(absolute, time.Minute))
				}
				check(t, most)
			}
		}
	})
	t.Run("SetLifetime", func(t *testing.T) {
		app := newRedisApp(t, newRedisStore(t, rdb, 48*time.Hour))
		for _, d := range strangeDurations {
			live := func(s sessions.Session) { s.SetLifetime(d, true); addHit(s) }
			token, _ := app.do("", live)
			check(t, 48*time.Hour)
			token, _ = app.do(token, addHit)
			token, _ = app.do(token, live)
			token, _ = app.do(token, addHit)
			_, _ = app.do(token, func(s sessions.Session) { s.Renew(); live(s) })
			check(t, 48*time.Hour)
		}
	})
	t.Run("Expires of a record", func(t *testing.T) {
		store := newRedisStore(t, rdb, 48*time.Hour)
		for _, d := range strangeDurations {
			for _, revoked := range []bool{false, true} {
				most := 48 * time.Hour
				if revoked {
					most = math.MaxInt64
				}
				rec := newRedisRecord(time.Hour, time.Hour)
				rec.Expires, rec.Revoked = time.Now().Add(d), revoked
				_, err := store.Save(ctx, "", rec, 0)
				if d <= 0 {
					require.ErrorIs(t, err, sessions.ErrGone, "%v", d)
				}
				check(t, most)

				rec = newRedisRecord(time.Hour, time.Hour)
				_, err = store.Save(ctx, "", rec, 0)
				require.NoError(t, err)
				base := rec.Version
				rec.Version++
				rec.Expires, rec.Revoked = time.Now().Add(d), revoked
				_, err = store.Save(ctx, "", rec, base)
				if d <= 0 {
					require.ErrorIs(t, err, sessions.ErrGone, "%v", d)
				}
				check(t, most)

				rec = newRedisRecord(time.Hour, time.Hour)
				_, err = store.Save(ctx, "", rec, 0)
				require.NoError(t, err)
				rec.Expires = time.Now().Add(d)
				_, err = store.Touch(ctx, "", rec)
				if d <= 0 {
					require.ErrorIs(t, err, sessions.ErrGone, "%v", d)
				}
				check(t, 48*time.Hour)
			}
		}
		rec := newRedisRecord(time.Hour, time.Hour)
		rec.Expires = time.Time{}
		_, err := store.Save(ctx, "", rec, 0)
		require.ErrorIs(t, err, sessions.ErrGone)
		check(t, 0)
	})
	require.Greater(t, written, 500)
}

// However a session slides, its key does not outlive the absolute deadline.
func TestP09_RedisNotPastTheDeadline(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, 48*time.Hour), func(c *sessions.Config) {
		c.IdleTimeout, c.AbsoluteTimeout = time.Hour, 2*time.Hour
	})
	began := time.Now()
	token := app.must("", addHit)
	left := func() time.Duration {
		return time.Until(began) + rdb.PTTL(ctx, redisKey(token)).Val() + 2*time.Since(began)
	}
	for _, step := range []func(sessions.Session){
		func(s sessions.Session) { s.SetLifetime(hundredYears, true) },
		addHit,
		func(s sessions.Session) { s.Renew() },
		func(s sessions.Session) { redisHits.Get(s) },
	} {
		token = app.must(token, step)
		require.LessOrEqual(t, left(), 2*time.Hour+time.Second)
		require.Greater(t, left(), time.Hour)
	}
}

// The token is in the cookie, and nowhere in Redis.
func TestP11_RedisHoldsNoToken(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, time.Hour))
	type user struct {
		Name string `json:"name"`
	}
	var tokens []string
	for i := range 20 {
		token := app.must("", func(s sessions.Session) { _ = s.Set("user", user{"Ada"}) })
		tokens = append(tokens, token)
		if i%2 == 0 {
			tokens = append(tokens, app.must(token, func(s sessions.Session) { s.Renew() }))
		}
	}
	var dump strings.Builder
	for _, key := range rdb.Keys(ctx, "*").Val() {
		text := rdb.Get(ctx, key).Val()
		fmt.Fprintln(&dump, key, text)
		require.Regexp(t, `^session:[0-9A-Za-z_-]{22}$`, key)

		// Anybody can read it.
		var head string // the ID and the header
		var values map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(text), &[]any{&head, &values}))
		require.Equal(t, strings.TrimPrefix(key, "session:"), head[1:23])
		if head[1+22+37] != '4' { // the tombstone of a renewal
			require.JSONEq(t, `{"name":"Ada"}`, string(values["user"]))
			require.Len(t, head, 1+22+38, "a new session needs no mark")
		}
	}
	for _, token := range tokens {
		require.NotContains(t, dump.String(), token)
		require.Contains(t, dump.String(), redisKey(token))
	}
}

// A record that somebody copies to another key is refused there.
func TestP11_RedisRecordUnderAnotherKey(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, time.Hour))
	mine, theirs := app.must("", addHit), app.must("", func(s sessions.Session) { addHit(s); addHit(s) })
	require.NoError(t, rdb.Copy(ctx, redisKey(theirs), redisKey(mine), 0, true).Err())
	_, ok := app.hits(mine)
	require.False(t, ok)
	require.Equal(t, 1, app.count(sessions.EventReject, sessions.OutcomeUndecodable))
	n, _ := app.hits(theirs)
	require.Equal(t, 2, n)

	// Also by a write that had read its own before.
	mine = app.must("", addHit)
	rec := newRedisRecord(time.Hour, time.Hour)
	rec.Version += 1000 // certainly another than ours
	_, err := newRedisStore(t, rdb, time.Hour).Save(ctx, "", rec, 0)
	require.NoError(t, err)
	theirs = rec.Token
	_, status := app.do(mine, func(s sessions.Session) {
		require.NoError(t, rdb.Copy(ctx, redisKey(theirs), redisKey(mine), 0, true).Err())
		addHit(s)
	})
	require.Equal(t, http.StatusServiceUnavailable, status)
	_, ok = app.hits(theirs)
	require.False(t, ok)
}

// What else may stand under a key of ours: a fresh session, and no error to the client.
func TestP13_RedisStrangeValues(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, time.Hour))
	for name, put := range map[string]func(key string) error{
		"list": func(key string) error { return rdb.RPush(ctx, key, "x").Err() },
		"hash": func(key string) error { return rdb.HSet(ctx, key, "f", "v").Err() },
		"set":  func(key string) error { return rdb.SAdd(ctx, key, "v").Err() },
		"stream": func(key string) error {
			return rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"a", "b"}}).Err()
		},
		"empty":  func(key string) error { return rdb.Set(ctx, key, "", time.Hour).Err() },
		"text":   func(key string) error { return rdb.Set(ctx, key, "{}", time.Hour).Err() },
		"bytes":  func(key string) error { return rdb.Set(ctx, key, "\x00\xff", time.Hour).Err() },
		"number": func(key string) error { return rdb.Incr(ctx, key).Err() },
		"large":  func(key string) error { return rdb.Set(ctx, key, strings.Repeat("1", 1<<20), time.Hour).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			token := app.must("", addHit)
			require.NoError(t, rdb.Del(ctx, redisKey(token)).Err())
			require.NoError(t, put(redisKey(token)))
			after := app.must(token, addHit)
			require.NotEqual(t, token, after)
			n, _ := app.hits(after)
			require.Equal(t, 1, n)

			// It comes while a request is on its way.
			_, status := app.do(after, func(s sessions.Session) {
				require.NoError(t, rdb.Del(ctx, redisKey(after)).Err())
				require.NoError(t, put(redisKey(after)))
				addHit(s)
			})
			require.Equal(t, http.StatusServiceUnavailable, status)
			// Logging out removes it, whatever it is.
			require.NoError(t, rdb.Del(ctx, redisKey(after)).Err())
			token = app.must("", addHit)
			gone := app.must(token, func(s sessions.Session) {
				require.NoError(t, rdb.Del(ctx, redisKey(token)).Err())
				require.NoError(t, put(redisKey(token)))
				s.Destroy()
			})
			require.Empty(t, gone)
			require.Zero(t, rdb.Exists(ctx, redisKey(token)).Val())
		})
	}
}

// commandStats returns how often the server ran each command since the last call.
func commandStats(t testing.TB, rdb *redis.Client) map[string]int {
	t.Helper()
	ctx := context.Background()
	text, err := rdb.Info(ctx, "commandstats").Result()
	require.NoError(t, err)
	require.NoError(t, rdb.ConfigResetStat(ctx).Err())
	stats := map[string]int{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cmdstat_"), ":calls=")
		count, _, _ := strings.Cut(rest, ",")
		if n, err := strconv.Atoi(count); ok && err == nil && !slices.Contains([]string{"hello", "info", "ping", "config", "client"}, strings.SplitN(name, "|", 2)[0]) {
			stats[name] = n
		}
	}
	return stats
}

func TestP03_RedisCommands(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client(t)
	admin := server.Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, time.Hour*48))
	loadScripts(t, admin)
	untouched := newRedisApp(t, newRedisStore(t, rdb, time.Hour*48))
	m, err := sessions.New(sessions.Config{Store: newRedisStore(t, rdb, time.Hour*48)})
	require.NoError(t, err)
	untouched.handler = m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) }))
	token := app.must("", addHit)
	commandStats(t, admin)
	read := func(s sessions.Session) { redisHits.Get(s); redisHits.Get(s) }
	for _, c := range []struct {
		name string
		do   func()
		want map[string]int
	}{
		{"untouched", func() { untouched.must(token, nil) }, map[string]int{}},
		{"no cookie, read", func() { app.must("", read) }, map[string]int{}},
		{"malformed, write nothing", func() { app.must("x", read) }, map[string]int{}},
		{"read", func() { app.must(token, read) }, map[string]int{"get": 1}},
		{"read what is not there", func() { app.must(sessions.NewToken(), read) }, map[string]int{"get": 1}},
		{"read and write", func() { app.must(token, addHit) }, map[string]int{"get": 2, "evalsha": 1, "set": 1}},
		{"write what is there", func() {
			app.must(token, func(s sessions.Session) { n, _ := redisHits.Get(s); _ = redisHits.Set(s, n) })
		}, map[string]int{"get": 1}},
		{"create", func() { app.must("", addHit) }, map[string]int{"set": 1}},
		{"slide", func() { age(t, admin, token); commandStats(t, admin); app.must(token, read) }, map[string]int{"get": 2, "evalsha": 1, "set": 1}},
		{"not again", func() { app.must(token, read) }, map[string]int{"get": 1}},
		{"renew", func() { token = app.must(token, sessions.Session.Renew) }, map[string]int{"get": 2, "evalsha": 1, "set": 2}},
		{"destroy", func() { app.must(token, sessions.Session.Destroy) }, map[string]int{"get": 2, "evalsha": 1, "del": 1}},
	} {
		c.do()
		require.Equal(t, c.want, commandStats(t, admin), c.name) // a script runs one get and one set inside
	}
}

// A session slides once in 1/8 of its idle timeout, however often it is read.
func TestP03_RedisSlideOncePerEighth(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	loadScripts(t, rdb)
	const idle = 8 * time.Second
	app := newRedisApp(t, newRedisStore(t, rdb, time.Hour), func(c *sessions.Config) { c.IdleTimeout = idle })
	began := time.Now()
	token := app.must("", addHit)
	commandStats(t, rdb)
	reads := 0
	for reads <= 100 || time.Since(began) < 2500*time.Millisecond {
		_, ok := app.hits(token)
		require.True(t, ok)
		reads++
	}
	stats := commandStats(t, rdb)
	require.LessOrEqual(t, stats["evalsha"], int(time.Since(began)/(idle/8)))
	require.GreaterOrEqual(t, stats["evalsha"], 1)
	require.Equal(t, reads+stats["evalsha"], stats["get"])
}

func TestRedisScriptFlushHeals(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	auto, err := rdb.AutoPipeline()
	require.NoError(t, err)
	defer auto.Close()
	for _, c := range []redis.Cmdable{rdb, auto} {
		app := newRedisApp(t, newRedisStore(t, c, 100*time.Hour))
		token := app.must("", addHit)
		for i := range 3 {
			require.NoError(t, rdb.ScriptFlush(ctx).Err())
			app.must(token, addHit)
			require.NoError(t, rdb.ScriptFlush(ctx).Err())
			age(t, rdb, token)
			n, _ := app.hits(token)
			require.Equal(t, i+2, n)
			require.Equal(t, i+1, app.count(sessions.EventTouch, sessions.OutcomeTouched))
		}
	}
}

// Redis comes back without its data: nobody's late write brings a session back.
func TestP08_RedisRestartsEmpty(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, 100*time.Hour))
	write, read, renew := app.must("", addHit), app.must("", addHit), app.must("", addHit)
	age(t, rdb, read)

	_, status := app.do(write, func(s sessions.Session) { addHit(s); server.Restart() })
	require.Equal(t, http.StatusConflict, status)
	_, status = app.do(renew, func(s sessions.Session) { s.Renew() })
	require.Equal(t, http.StatusOK, status, "loaded after the restart: a fresh session")
	require.Zero(t, rdb.DBSize(context.Background()).Val())

	for _, do := range []func(sessions.Session){
		addHit,
		sessions.Session.Renew,
		func(s sessions.Session) { s.Renew(); addHit(s) },
	} {
		token := app.must("", addHit)
		_, status = app.do(token, func(s sessions.Session) { do(s); server.Restart() })
		require.Equal(t, http.StatusConflict, status)
		require.Zero(t, rdb.DBSize(context.Background()).Val(), "nothing came back")
	}
	token := app.must("", addHit)
	age(t, rdb, token)
	_, status = app.do(token, func(s sessions.Session) { redisHits.Get(s); server.Restart() })
	require.Equal(t, http.StatusOK, status, "a request that only read is not failed")
	require.Zero(t, rdb.DBSize(context.Background()).Val(), "a touch creates nothing")
	_, ok := app.hits(token)
	require.False(t, ok)
	require.Positive(t, app.count(sessions.EventReject, sessions.OutcomeUnknown))
}

func TestP14_RedisAway(t *testing.T) {
	server := redistest.Start(t)
	app := newRedisApp(t, newRedisStore(t, server.Client(t), 100*time.Hour))
	token := app.must("", addHit)
	server.Stop()
	after, status := app.do(token, addHit)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, token, after, "nobody is told to forget the cookie")
	_, status = app.do("", addHit)
	require.Equal(t, http.StatusServiceUnavailable, status)
}

// At maxmemory with noeviction reads, touches and logouts go on; what needs memory fails, and fails whole.
func TestRedisFull(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction").Client(t)
	app := newRedisApp(t, newRedisStore(t, rdb, 100*time.Hour))
	token, other := app.must("", addHit), app.must("", addHit)
	age(t, rdb, other)
	var err error
	for i := 0; err == nil; i++ {
		err = rdb.Set(ctx, fmt.Sprint("fill", i), strings.Repeat("x", 10_000), time.Hour).Err()
	}
	require.True(t, redis.IsOOMError(err), err)
	for err = nil; err == nil; {
		err = rdb.Set(ctx, fmt.Sprint("small", time.Now().UnixNano()), "x", time.Hour).Err()
	}

	n, ok := app.hits(token)
	require.True(t, ok)
	require.Equal(t, 1, n)
	before := rdb.PTTL(ctx, redisKey(other)).Val()
	_, ok = app.hits(other)
	require.True(t, ok)
	require.Equal(t, 1, app.count(sessions.EventTouch, sessions.OutcomeTouched), "idle timeouts slide")
	require.Greater(t, rdb.PTTL(ctx, redisKey(other)).Val(), before)

	fresh, status := app.do("", addHit)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Empty(t, fresh)
	after, status := app.do(token, addHit)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, token, after)
	after, status = app.do(token, sessions.Session.Renew)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, token, after)
	n, ok = app.hits(token)
	require.True(t, ok, "the session is as it was")
	require.Equal(t, 1, n)

	require.Empty(t, app.must(token, sessions.Session.Destroy))
	require.Zero(t, rdb.Exists(ctx, redisKey(token)).Val())
}

// Small sessions cost 330 bytes each or less, all told.
func TestRedisMemory(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 50,000 sessions")
	}
	n := 50_000 // which fill their hash tables as far as 100,000 do theirs
	if long() {
		n = 100_000
	}
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	auto, err := rdb.AutoPipeline()
	require.NoError(t, err)
	defer auto.Close()
	app := newRedisApp(t, newRedisStore(t, auto, 14*24*time.Hour), func(c *sessions.Config) { c.Observe = nil })
	type user struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	}
	used := func() int64 {
		h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.NoError(t, err)
		return h.UsedMemory
	}
	create := func(i int) string {
		return app.must("", func(s sessions.Session) {
			_ = s.Set("user", user{100_000 + i, "Ada Lovelace"})
			_ = s.Set("csrf", strings.Repeat("0123456789abcdef", 2))
			_ = s.Set("visits", i%100)
		})
	}
	token := create(0)
	length := rdb.StrLen(ctx, redisKey(token)).Val()
	before := used()
	var all sync.WaitGroup
	for worker := range 50 {
		all.Go(func() {
			for i := worker; i < n; i += 50 {
				create(i)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, n+1, rdb.DBSize(ctx).Val())
	// The server moves its hash tables to their new size bit by bit; until it is done it holds both.
	var each float64
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if each = float64(used()-before) / float64(n); each <= 330 {
			break
		}
	}
	t.Logf("%.0f bytes a session; a value of %d bytes; key of %d bytes", each, length, len(redisKey(token)))
	require.LessOrEqual(t, each, 330.0)
}

// Every kind of client that go-redis has.
func TestRedisClients(t *testing.T) {
	t.Parallel()
	server, second := redistest.Start(t), redistest.Start(t)
	cluster := redistest.StartCluster(t, 1)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": server.Addr, "two": second.Addr}})
	defer ring.Close()
	universal := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{server.Addr}})
	defer universal.Close()
	universalCluster := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{cluster[0].Addr}, IsClusterMode: true})
	defer universalCluster.Close()
	auto, err := server.Client(t).AutoPipeline()
	require.NoError(t, err)
	defer auto.Close()
	deferred, err := server.Client(t).AsyncAutoPipeline()
	require.NoError(t, err)
	defer deferred.Close()
	clusterClient := redistest.ClusterClient(t, cluster)
	clusterAuto, err := clusterClient.AutoPipeline()
	require.NoError(t, err)
	defer clusterAuto.Close()
	oldProtocol := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2, DisableIdentity: true})
	defer oldProtocol.Close()
	for name, rdb := range map[string]redis.Cmdable{
		"Client":                    server.Client(t),
		"Client, RESP2":             oldProtocol,
		"ClusterClient":             clusterClient,
		"Ring":                      ring,
		"UniversalClient":           universal,
		"UniversalClient, cluster":  universalCluster,
		"AutoPipeline":              auto,
		"AutoPipeline, deferred":    deferred,
		"AutoPipeline of a cluster": clusterAuto,
	} {
		t.Run(name, func(t *testing.T) {
			app := newRedisApp(t, newRedisStore(t, rdb, 100*time.Hour))
			for range 20 { // several slots and shards
				token := app.must("", addHit)
				app.must(token, addHit)
				age(t, rdb, token)
				n, _ := app.hits(token)
				require.Equal(t, 2, n)
				renewed := app.must(token, func(s sessions.Session) { s.Renew(); addHit(s) })
				_, ok := app.hits(token)
				require.False(t, ok)
				n, _ = app.hits(renewed)
				require.Equal(t, 3, n)
				require.Empty(t, app.must(renewed, sessions.Session.Destroy))
				_, ok = app.hits(renewed)
				require.False(t, ok)
			}
			require.Equal(t, 20, app.count(sessions.EventTouch, sessions.OutcomeTouched))
			token := app.must("", addHit)
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() { app.must(token, addHit) })
			}
			all.Wait()
			n, _ := app.hits(token)
			require.Equal(t, 21, n)
		})
	}
}

func TestP16_RedisStoreConfig(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: net.JoinHostPort("127.0.0.1", "1")})
	defer rdb.Close()
	for name, c := range map[string]struct {
		rdb    redis.Cmdable
		ttl    time.Duration
		fields []string
	}{
		"good":                 {rdb, time.Hour, nil},
		"least":                {rdb, time.Millisecond, nil},
		"nothing":              {nil, 0, []string{"rdb", "TTL"}},
		"typed nil":            {(*redis.Client)(nil), time.Hour, []string{"rdb"}},
		"typed nil of cluster": {(*redis.ClusterClient)(nil), time.Hour, []string{"rdb"}},
		"pipeline":             {rdb.Pipeline(), time.Hour, []string{"rdb"}},
		"transaction":          {rdb.TxPipeline(), -1, []string{"rdb", "TTL"}},
		"negative":             {rdb, -time.Hour, []string{"TTL"}},
		"too short":            {rdb, time.Millisecond - 1, []string{"TTL"}},
	} {
		store, err := sessions.NewRedisStore(c.rdb, sessions.RedisStoreConfig{TTL: c.ttl})
		require.Equal(t, c.fields == nil, err == nil, name)
		require.Equal(t, c.fields == nil, store != nil, name)
		var fields []string
		if err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var bad *sessions.ConfigError
				require.ErrorAs(t, e, &bad)
				fields = append(fields, bad.Field)
			}
		}
		require.Equal(t, c.fields, fields, name)
	}
}

// A replica may not have a logout yet: a client that lets one answer is refused where its options show it.
func TestP16_RedisReadsFromReplicas(t *testing.T) {
	cluster := func(o redis.ClusterOptions) redis.Cmdable {
		o.Addrs = []string{"127.0.0.1:1"}
		return redis.NewClusterClient(&o)
	}
	failover := func(o redis.FailoverOptions) redis.Cmdable {
		o.MasterName, o.SentinelAddrs = "m", []string{"127.0.0.1:1"}
		return redis.NewFailoverClusterClient(&o)
	}
	universal := func(o redis.UniversalOptions) redis.Cmdable {
		o.Addrs, o.IsClusterMode = []string{"127.0.0.1:1"}, true
		return redis.NewUniversalClient(&o)
	}
	for name, c := range map[string]struct {
		rdb redis.Cmdable
		ok  bool
	}{
		"cluster":                       {cluster(redis.ClusterOptions{}), true},
		"cluster, ReadOnly":             {cluster(redis.ClusterOptions{ReadOnly: true}), false},
		"cluster, RouteByLatency":       {cluster(redis.ClusterOptions{RouteByLatency: true}), false},
		"cluster, RouteRandomly":        {cluster(redis.ClusterOptions{RouteRandomly: true}), false},
		"cluster, wrapped":              {struct{ *redis.ClusterClient }{cluster(redis.ClusterOptions{ReadOnly: true}).(*redis.ClusterClient)}, false},
		"Sentinel":                      {failover(redis.FailoverOptions{}), true},
		"Sentinel, RouteByLatency":      {failover(redis.FailoverOptions{RouteByLatency: true}), false},
		"Sentinel, RouteRandomly":       {failover(redis.FailoverOptions{RouteRandomly: true}), false},
		"Sentinel, ReplicaOnly":         {failover(redis.FailoverOptions{ReplicaOnly: true}), false},
		"UniversalClient":               {universal(redis.UniversalOptions{}), true},
		"UniversalClient, ReadOnly":     {universal(redis.UniversalOptions{ReadOnly: true}), false},
		"UniversalClient, both, master": {universal(redis.UniversalOptions{MasterName: "m", RouteRandomly: true}), false},
	} {
		t.Cleanup(func() { _ = c.rdb.(interface{ Close() error }).Close() })
		_, err := sessions.NewRedisStore(c.rdb, sessions.RedisStoreConfig{TTL: time.Hour})
		if c.ok {
			require.NoError(t, err, name)
			continue
		}
		require.Error(t, err, name)
		require.Equal(t, []string{"rdb"}, configFields(t, err), name)
		require.ErrorContains(t, err, "leave ReadOnly, RouteByLatency, RouteRandomly and ReplicaOnly unset", name)
	}
}

func newRedisStore(t testing.TB, rdb redis.Cmdable, ttl time.Duration) *sessions.RedisStore {
	t.Helper()
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: ttl})
	require.NoError(t, err)
	return store
}

func newRedisRecord(idle, absolute time.Duration) *sessions.Record {
	now := time.Now()
	rec := &sessions.Record{Token: sessions.NewToken(), Version: now.UnixMicro(), Created: now, Idle: idle,
		Expires: now.Add(idle), Deadline: now.Add(absolute)}
	rec.ID, _ = sessions.TokenID(rec.Token)
	return rec
}

// quoting is an error that quotes, as that of crypto/x509 on an unknown authority does.
type quoting struct{}

func (quoting) Error() string {
	return `certificate signed by an unknown authority (possibly because of "rsa")`
}

// What is left out of an error is what it quotes of a session, and not its causes: errors.Is and As find them.
func TestP14_RedisErrorsKeepTheirCauses(t *testing.T) {
	failover := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{"127.0.0.1:1"}, MaxRetries: -1, DialerRetries: 1,
		Dialer: func(context.Context, string, string) (net.Conn, error) { return nil, quoting{} }})
	defer failover.Close()
	_, err := newRedisStore(t, failover, time.Hour).Load(t.Context(), "", sessions.NewToken())
	require.ErrorAs(t, err, new(quoting))

	server := redistest.Start(t, "--rename-command", "GET", "")
	_, err = newRedisStore(t, server.Client(t), time.Hour).Load(t.Context(), "", sessions.NewToken())
	require.ErrorAs(t, err, new(redis.Error))
	require.True(t, redis.HasErrorPrefix(err, "unknown command"), "%v", err)

	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	_, err = newRedisStore(t, redistest.Start(t).Client(t), time.Hour).Load(ctx, "", sessions.NewToken())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestP13_StoredGarbage(t *testing.T) {
	for _, sc := range []string{"redis", "miniredis"} {
		t.Run(sc, func(t *testing.T) {
			var rdb *redis.Client
			if sc == "redis" {
				rdb = redistest.Start(t).Client(t)
			} else {
				rdb = miniClient(t)
			}
			site := newSite(t, redisStoreOver(t, rdb))
			ctx := context.Background()
			b := site.browser()
			b.set("user", 42)
			key := "session:" + b.id()
			good, err := rdb.Get(ctx, key).Result()
			require.NoError(t, err)
			other := site.browser()
			other.set("user", 1)
			theirs, err := rdb.Get(ctx, "session:"+other.id()).Result()
			require.NoError(t, err)
			put := func(v string) func() error { return func() error { return rdb.Set(ctx, key, v, time.Hour).Err() } }
			for name, spoil := range map[string]func() error{
				"empty":     put(""),
				"text":      put("hello"),
				"json":      put("{}"),
				"truncated": put(good[:len(good)-2]),
				"longer":    put(good + "x"),
				"format":    put(strings.Replace(good, `["i`, `["j`, 1)),
				"values":    put(strings.Replace(good, `"user":42`, `"user":4x2`, 1)),
				"another":   put(theirs),
				"a hash": func() error {
					return errors.Join(rdb.Del(ctx, key).Err(), rdb.HSet(ctx, key, "a", "b").Err(), rdb.Expire(ctx, key, time.Hour).Err())
				},
			} {
				require.NoError(t, rdb.Del(ctx, key).Err())
				require.NoError(t, spoil(), name)
				site.events.reset()
				r := b.clone().use(func(s sessions.Session) {
					require.True(t, s.IsNew(), name)
					require.Empty(t, keys(s), name)
				})
				require.Empty(t, r.header.Values("Set-Cookie"))
				require.Equal(t, []string{"reject undecodable", "load none"}, site.events.outcomes(), name)
				healed := b.clone()
				healed.set("user", 7)
				require.Equal(t, "7", healed.get("user"))
			}
		})
	}
}

func TestP09_EveryKeyHasATTL_B15(t *testing.T) {
	// The check itself is in checkTTLs, at the end of every test on Redis. Here are the durations that tempt.
	for _, c := range []struct {
		name           string
		idle, absolute time.Duration
		own            time.Duration
	}{
		{"defaults", 0, 0, 0},
		{"least", time.Millisecond, time.Millisecond, 0},
		{"a hundred years", 100 * 365 * 24 * time.Hour, 100 * 365 * 24 * time.Hour, 0},
		{"longest", 1<<63 - 1, 1<<63 - 1, 1<<63 - 1},
		{"own zero", 0, 0, 0},
		{"own negative", 0, 0, -time.Hour},
		{"own most negative", 0, 0, -1 << 63},
		{"own below a millisecond", 0, 0, time.Microsecond},
		{"own a nanosecond", 0, 0, 1},
		{"own of a second and a half", 0, 0, 1500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			rdb := redistest.Start(t).Client(t)
			checkTTLs(t, rdb)
			b := newSite(t, redisStoreOver(t, rdb), func(cfg *sessions.Config) {
				cfg.IdleTimeout, cfg.AbsoluteTimeout = c.idle, c.absolute
			}).browser()
			r := b.try(func(s sessions.Session) {
				require.NoError(t, s.Set("user", 1))
				if c.own != 0 || c.name == "own zero" {
					s.SetLifetime(c.own, true)
				}
			})
			require.Less(t, r.status, 500)
			if cookie := r.setCookie("session"); cookie != nil && cookie.MaxAge != 0 {
				require.LessOrEqual(t, cookie.MaxAge, 400*24*60*60, "browsers keep it no longer")
			}
			r = b.try(func(s sessions.Session) { s.Renew(); _ = s.Set("user", 2) })
			require.Less(t, r.status, 500)
			r = b.try(func(s sessions.Session) { _ = s.Set("user", 3) })
			require.Less(t, r.status, 500)
			keys, err := rdb.Keys(context.Background(), "*").Result()
			require.NoError(t, err)
			for _, key := range keys {
				ttl, err := rdb.PTTL(context.Background(), key).Result()
				require.NoError(t, err)
				require.NotEqual(t, time.Duration(-1), ttl)
				require.LessOrEqual(t, ttl, 14*24*time.Hour)
			}
		})
	}
}

func TestP03_IdleTimeoutSlidesOnRedis_B16(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	spy := &spyStore{Store: redisStoreOver(t, rdb)}
	b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout = 3 * time.Second }).browser()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var begin, last time.Time
	for ; begin.IsZero() || time.Since(begin) <= 4*time.Second; <-tick.C {
		if time.Since(last) > 2*time.Second { // the first time, and when the machine stood still: begin again
			begin = time.Now()
			b.set("user", 42)
			spy.reset()
		} else {
			require.Equal(t, "42", b.get("user"))
		}
		last = time.Now()
	}
	require.Zero(t, spy.saves.Load())
	require.GreaterOrEqual(t, spy.touches.Load(), int64(2))
	require.LessOrEqual(t, spy.touches.Load(), int64(time.Since(begin)/(375*time.Millisecond)))
	key := "session:" + b.id()
	require.Eventually(t, func() bool {
		n, err := rdb.Exists(context.Background(), key).Result()
		return err == nil && n == 0
	}, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, "", b.get("user"))
}

func TestP09_NoTTLPastTheDeadline_B17(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	b := newSite(t, redisStoreOver(t, rdb), func(c *sessions.Config) {
		c.IdleTimeout, c.AbsoluteTimeout = time.Hour, 4*time.Second
	}).browser()
	b.set("user", 42)
	begin := time.Now()
	key := "session:" + b.id()
	b.set("user", 43)
	b.use(func(s sessions.Session) { s.SetLifetime(time.Hour, true) })
	left := 4*time.Second - time.Since(begin)
	ttl, err := rdb.PTTL(context.Background(), key).Result()
	require.NoError(t, err)
	require.LessOrEqual(t, ttl, left+100*time.Millisecond)
	require.Eventually(t, func() bool { return b.clone().get("user") == "" }, 10*time.Second, 20*time.Millisecond)
}

// The values are JSON that a person can read with redis-cli GET, and the token is nowhere in Redis.
func TestP11_StoredFormIsReadable_B15(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	b := newSite(t, redisStoreOver(t, rdb)).browser()
	b.set("user", map[string]any{"name": "A <b> \"c\"", "n": 1})
	text, err := rdb.Get(context.Background(), "session:"+b.id()).Result()
	require.NoError(t, err)
	require.NotContains(t, text, b.cookie())
	var head string
	var values map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(text), &[]any{&head, &values}))
	require.Contains(t, values, "user")
	require.NotContains(t, fmt.Sprint(allKeys(t, rdb)), b.cookie())
}

func TestP16_RedisStore(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	for _, c := range []struct {
		name   string
		rdb    redis.Cmdable
		cfg    sessions.RedisStoreConfig
		fields []string
	}{
		{"right", rdb, sessions.RedisStoreConfig{TTL: time.Millisecond}, nil},
		{"longest", rdb, sessions.RedisStoreConfig{TTL: 1<<63 - 1, Prefix: "a:"}, nil},
		{"nothing", nil, sessions.RedisStoreConfig{}, []string{"rdb", "TTL"}},
		{"nil client", (*redis.Client)(nil), sessions.RedisStoreConfig{TTL: time.Hour}, []string{"rdb"}},
		{"nil cluster", (*redis.ClusterClient)(nil), sessions.RedisStoreConfig{TTL: time.Hour}, []string{"rdb"}},
		{"pipeline", rdb.Pipeline(), sessions.RedisStoreConfig{TTL: time.Hour}, []string{"rdb"}},
		{"negative", rdb, sessions.RedisStoreConfig{TTL: -1}, []string{"TTL"}},
		{"keep", rdb, sessions.RedisStoreConfig{TTL: redis.KeepTTL}, []string{"TTL"}},
		{"below a millisecond", rdb, sessions.RedisStoreConfig{TTL: time.Millisecond - 1}, []string{"TTL"}},
		{"pipeline and TTL", rdb.TxPipeline(), sessions.RedisStoreConfig{TTL: -1}, []string{"rdb", "TTL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, err := sessions.NewRedisStore(c.rdb, c.cfg)
			if c.fields == nil {
				require.NoError(t, err)
				return
			}
			require.Nil(t, store)
			require.Equal(t, c.fields, configFields(t, err))
		})
	}
}

func TestRedisStore_Alive(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client(t)
	store := redisStoreOver(t, rdb)
	s := newSite(t, store)
	alive := func(id string) bool {
		t.Helper()
		ok, err := store.Alive(t.Context(), id)
		require.NoError(t, err)
		return ok
	}

	b := s.browser()
	var first, second string
	b.use(func(s sessions.Session) {
		require.NoError(t, s.Set("a", 1))
		first = s.ID()
		require.False(t, alive(first), "not written yet")
	})
	require.True(t, alive(first))
	b.use(func(s sessions.Session) { s.Renew() })
	b.use(func(s sessions.Session) { second = s.ID() })
	require.NotEqual(t, first, second)
	require.False(t, alive(first), "renewed")
	require.True(t, alive(second))
	b.use(func(s sessions.Session) { s.Clear() })
	require.True(t, alive(second), "without values it is still there")
	b.use(func(s sessions.Session) { s.Destroy() })
	require.False(t, alive(second), "destroyed")

	t.Run("a tombstone", func(t *testing.T) {
		rec := &sessions.Record{Token: sessions.NewToken(), Version: 1, Created: time.Now(), Idle: time.Hour, Expires: time.Now().Add(time.Hour), Deadline: time.Now().Add(time.Hour), Revoked: true}
		rec.ID, _ = sessions.TokenID(rec.Token)
		_, err := store.Save(t.Context(), "", rec, 0)
		require.NoError(t, err)
		require.False(t, alive(rec.ID))
	})
	t.Run("expired", func(t *testing.T) {
		// The record says when it ends. Its key is still there.
		now := time.Now()
		rec := &sessions.Record{Token: sessions.NewToken(), Version: 1, Created: now, Idle: time.Hour, Expires: now.Add(50 * time.Millisecond), Deadline: now.Add(time.Hour)}
		rec.ID, _ = sessions.TokenID(rec.Token)
		_, err := store.Save(t.Context(), "", rec, 0)
		require.NoError(t, err)
		require.NoError(t, rdb.PExpire(t.Context(), "session:"+rec.ID, time.Hour).Err())
		require.Eventually(t, func() bool { return !alive(rec.ID) }, 10*time.Second, 5*time.Millisecond)
		require.EqualValues(t, 1, rdb.Exists(t.Context(), "session:"+rec.ID).Val())
	})
	t.Run("never there", func(t *testing.T) {
		id, _ := sessions.TokenID(sessions.NewToken())
		for _, id := range []string{id, "", "x", "a b", "*", "a\r\nDEL x", "\x00", strings.Repeat("x", 10_000), "../../x"} {
			require.False(t, alive(id), "%q", id)
		}
	})
	t.Run("a token is no ID", func(t *testing.T) {
		b := s.browser()
		b.set("a", 1)
		token := cookieOf(b)
		require.NotEmpty(t, token)
		require.False(t, alive(token))
	})
	for name, write := range map[string]func(key string) error{
		"garbage": func(key string) error {
			return rdb.Set(t.Context(), key, "a secret value of thirty-two bytes", time.Hour).Err()
		},
		"empty":      func(key string) error { return rdb.Set(t.Context(), key, "", time.Hour).Err() },
		"wrong type": func(key string) error { return rdb.HSet(t.Context(), key, "a", 1).Err() },
		"the record of another session": func(key string) error {
			b := s.browser()
			var id string
			b.use(func(s sessions.Session) { require.NoError(t, s.Set("a", 1)); id = s.ID() })
			return rdb.Copy(t.Context(), "session:"+id, key, 0, true).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			id, _ := sessions.TokenID(sessions.NewToken())
			require.NoError(t, write("session:"+id))
			ok, err := store.Alive(t.Context(), id)
			require.Error(t, err, "nobody knows")
			require.False(t, ok)
			require.NotErrorIs(t, err, sessions.ErrGone)
			require.NotContains(t, err.Error(), "secret")
			require.True(t, strings.HasPrefix(err.Error(), "sessions: redis: alive: "), err.Error())
			require.NoError(t, rdb.Del(t.Context(), "session:"+id).Err())
		})
	}
	t.Run("one GET", func(t *testing.T) {
		b := s.browser()
		var id string
		b.use(func(s sessions.Session) { require.NoError(t, s.Set("a", 1)); id = s.ID() })
		require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
		require.True(t, alive(id))
		stats := rdb.Info(t.Context(), "commandstats").Val()
		require.Contains(t, stats, "cmdstat_get:calls=1,")
		require.NotContains(t, stats, "cmdstat_eval")
		require.NotContains(t, stats, "cmdstat_set:")
		require.NotContains(t, stats, "expire")
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := store.Alive(ctx, first)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("unreachable", func(t *testing.T) {
		server.Stop()
		ok, err := store.Alive(t.Context(), first)
		require.Error(t, err)
		require.False(t, ok)
		require.NotErrorIs(t, err, redis.Nil)
		require.NotContains(t, err.Error(), first)
	})
}

// cookieOf returns the session token that the browser holds.
func cookieOf(b *browser) string {
	for _, c := range b.client.Jar.Cookies(b.base) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}
