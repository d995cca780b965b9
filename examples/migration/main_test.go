package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Overlap()
	redis.SetLogger(silence{})
	os.Exit(m.Run())
}

// tell runs a story with a small crowd.
func tell(t *testing.T, change func(*options)) (*result, string) {
	t.Helper()
	var out bytes.Buffer
	o := options{
		browsers: 40, instances: 3, seed: 1, duration: 3 * time.Second,
		logouts: 60, out: &out, story: wholeStory, newStore: redisStore,
	}
	if change != nil {
		change(&o)
	}
	r, err := run(t.Context(), o)
	require.NoError(t, err)
	return r, out.String()
}

func requireClean(t *testing.T, r *result) {
	t.Helper()
	for _, p := range r.promises() {
		require.Zero(t, p.count, "%s\n%s", p.what, r)
	}
	require.True(t, r.clean())
}

func TestP15_WholeStory(t *testing.T) {
	t.Parallel()
	for _, fallback := range []bool{false, true} {
		t.Run(map[bool]string{false: "refused", true: "FallbackOnError"}[fallback], func(t *testing.T) {
			t.Parallel()
			r, out := tell(t, func(o *options) { o.fallback = fallback })
			requireClean(t, r)

			tally := &r.crowd.tally
			for what, n := range map[string]int64{
				"changes": tally.adds.Load(), "visitors": tally.visitors.Load(), "logins": tally.logins.Load(),
				"replays": tally.replays.Load(), "logouts": tally.logouts.Load(),
				"resealed": r.resealed, "keys": r.keysAtMost,
			} {
				require.Positive(t, n, "%s: the story has not been put to the test\n%s", what, out)
			}
			if !fallback {
				require.Positive(t, tally.refused.Load(), out)
			}
			require.Contains(t, out, "111 211 221 222", "the fleet is mixed on the way")
			require.Contains(t, out, "Everybody kept their session and everything in it.")
			require.NotContains(t, out, clearLine, "not a terminal")
		})
	}
}

func TestP15_WholeStoryOnARealRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := server.Client(t)
	require.NoError(t, direct.Set(t.Context(), "somebody else's", "kept", 0).Err())
	r, _ := tell(t, func(o *options) { o.redis = server.Addr })
	requireClean(t, r)
	require.Positive(t, r.keysAtMost)
	keys, err := direct.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	require.Equal(t, []string{"somebody else's"}, keys, "it cleans up its own keys, and only those")
}

// The rest shows that the zeros are not zero when something is broken.

func TestSkippedPhaseIsSeen(t *testing.T) {
	t.Parallel()
	var r *result
	var out string
	for range 5 { // on a busy machine, a crowd may do nothing in the second that counts
		r, out = tell(t, func(o *options) {
			o.story = []step{{stay, 0, 1, ""}, {roll, sessions.NewOnly, 2, "straight to Redis alone"}, {stay, 0, 1, ""}}
		})
		if r.crowd.tally.sessionsLost.Load() > 0 {
			break
		}
	}
	require.Positive(t, r.crowd.tally.sessionsLost.Load(), out)
	require.False(t, r.clean())
	require.Contains(t, out, "<- promise broken")
	require.Contains(t, out, "was no longer known")
}

// noTombstones deletes where a tombstone should be.
type noTombstones struct{ *sessions.RedisStore }

func (s noTombstones) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	if rec.Revoked {
		return rec.Token, s.Delete(ctx, name, rec)
	}
	return s.RedisStore.Save(ctx, name, rec, base)
}

// forgetful says that it has written, and now and then it has not.
type forgetful struct {
	*sessions.RedisStore
	writes *atomic.Int64
}

func (s forgetful) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	if base != 0 && !rec.Revoked && s.writes.Add(1)%5 == 0 {
		return rec.Token, nil
	}
	return s.RedisStore.Save(ctx, name, rec, base)
}

// forever takes the TTL away, as the cookie's "no expiry" once did.
type forever struct {
	*sessions.RedisStore
	rdb    redis.Cmdable
	prefix string
}

func (s forever) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.RedisStore.Save(ctx, name, rec, base)
	if err == nil {
		s.rdb.Persist(ctx, s.prefix+rec.ID)
	}
	return token, err
}

func TestBrokenStoreIsSeen(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	for what, broken := range map[string]func(*sessions.RedisStore, redis.Cmdable, string) sessions.Store{
		"revoked sessions seen again": func(s *sessions.RedisStore, _ redis.Cmdable, _ string) sessions.Store { return noTombstones{s} },
		"changes lost":                func(s *sessions.RedisStore, _ redis.Cmdable, _ string) sessions.Store { return forgetful{s, &writes} },
		"keys without TTL":            func(s *sessions.RedisStore, c redis.Cmdable, p string) sessions.Store { return forever{s, c, p} },
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			t.Parallel()
			r, out := tell(t, func(o *options) {
				o.newStore = func(rdb redis.Cmdable, prefix string) (sessions.Store, error) {
					s, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: redisTTL, Prefix: prefix})
					if err != nil {
						return nil, err
					}
					return broken(s, rdb, prefix), nil
				}
			})
			for _, p := range r.promises() {
				if p.what == what {
					require.Positive(t, p.count, out)
				}
			}
			require.False(t, r.clean())
			require.Contains(t, out, "Not all promises were kept.")
		})
	}
}

func TestOutageIsNoticedWhereItShows(t *testing.T) {
	t.Parallel()
	f, err := startFleet(t.Context(), 1, "", false, redisStore)
	require.NoError(t, err)
	t.Cleanup(f.close)
	c := newCrowd(f, 1, 1, 0)
	t.Cleanup(c.transport.CloseIdleConnections)
	f.setPhase(f.instances[0], sessions.NewOnly)
	b := c.browsers[0]
	b.add()
	require.True(t, b.session)

	f.takeRedisAway()
	b.look()
	require.EqualValues(t, 1, c.tally.refused.Load())
	require.Zero(t, c.tally.failed.Load())
	require.NoError(t, f.giveRedisBack(t.Context()))
	b.look()
	b.add()
	require.EqualValues(t, 1, c.tally.refused.Load())
	require.Equal(t, 2, b.low)

	f.link.cut() // and nobody said so
	b.look()
	require.EqualValues(t, 1, c.tally.failed.Load())
}

func TestOutageInDualReadOldThatIsNoticedIsSeen(t *testing.T) {
	t.Parallel()
	f, err := startFleet(t.Context(), 2, "", false, redisStore)
	require.NoError(t, err)
	t.Cleanup(f.close)
	c := newCrowd(f, 1, 1, 0)
	t.Cleanup(c.transport.CloseIdleConnections)
	f.setPhase(f.instances[0], sessions.DualReadOld)
	f.setPhase(f.instances[1], sessions.NewOnly) // a phase too far
	b := c.browsers[0]
	b.add()
	f.takeRedisAway()
	b.look()
	b.look() // one of the two at each instance
	require.Positive(t, c.tally.noticed.Load())
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestStoppedEarly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	stop := writerFunc(func(b []byte) (int, error) {
		if strings.Contains(string(b), "stopped while Redis is away") {
			time.AfterFunc(time.Second/2, cancel)
		}
		return out.Write(b)
	})
	r, err := run(ctx, options{
		browsers: 10, instances: 5, seed: 1, duration: time.Hour, out: stop, live: true, newStore: redisStore,
		story: []step{{takeAway, 0, 1, "stopped while Redis is away"}, {roll, sessions.NewOnly, 1, "never"}},
	})
	require.NoError(t, err)
	requireClean(t, r)
	require.Contains(t, out.String(), "Stopped early.")
	require.Contains(t, out.String(), clearLine)
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		o    options
		want string
	}{
		"no browsers":  {options{instances: 1, duration: time.Minute}, "-browsers"},
		"no instances": {options{browsers: 1, duration: time.Minute}, "-instances"},
		"no time":      {options{browsers: 1, instances: 1}, "-duration"},
		"no Redis":     {options{browsers: 1, instances: 1, duration: time.Minute, redis: "127.0.0.1:1", newStore: redisStore}, "no answer from Redis at 127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := run(t.Context(), c.o)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestJar(t *testing.T) {
	site := &url.URL{Scheme: "http", Host: "shop.example", Path: "/"}
	set := func(j *jar, lines ...string) {
		rec := httptest.NewRecorder()
		for _, l := range lines {
			rec.Header().Add("Set-Cookie", l)
		}
		j.SetCookies(site, rec.Result().Cookies())
	}
	var j jar
	set(&j, "session=a; Path=/", "stays=b; Path=/; Max-Age=60", "safe=c; Path=/; Secure", "past=d; Path=/; Expires="+time.Unix(1, 0).UTC().Format(http.TimeFormat))
	require.Len(t, j.Cookies(site), 2)
	require.Equal(t, "a", j.session())
	set(&j, "session=e; Path=/")
	require.Equal(t, "e", j.session())
	j.closeBrowser()
	require.Empty(t, j.session())
	require.Len(t, j.Cookies(site), 1)
	set(&j, "stays=; Path=/; Max-Age=0", "session=f; Path=/account")
	require.Empty(t, j.Cookies(site))
}
