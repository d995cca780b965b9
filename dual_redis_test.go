package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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

// Visitors who pass by: SCENARIOS 2, the store that filled up.

// leakyStore does what the dual writer of that story did: it hands the options of the cookie to Redis, and a cookie
// without an expiry becomes a key without a TTL.
type leakyStore struct {
	*sessions.RedisStore
	rdb *redis.Client
}

func (s leakyStore) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.RedisStore.Save(ctx, name, rec, base)
	if err == nil && !rec.Persistent {
		err = s.rdb.Persist(ctx, "session:"+rec.ID).Err()
	}
	return token, err
}

// load is how full a server is.
type load struct{ keys, withoutTTL, bytes float64 }

func loadOf(t *testing.T, rdb *redis.Client) (l load) {
	t.Helper()
	text, err := rdb.Info(t.Context(), "keyspace", "memory").Result()
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if fields, ok := strings.CutPrefix(line, "db0:"); ok {
			var expires float64
			for f := range strings.SplitSeq(fields, ",") {
				name, value, _ := strings.Cut(f, "=")
				n, _ := strconv.ParseFloat(value, 64)
				switch name {
				case "keys":
					l.keys = n
				case "expires":
					expires = n
				}
			}
			l.withoutTTL = l.keys - expires
		}
		if value, ok := strings.CutPrefix(line, "used_memory:"); ok {
			l.bytes, _ = strconv.ParseFloat(value, 64)
		}
	}
	return l
}

// plateau looks at samples that were taken at even intervals, the first before any visitor came, and says what is wrong
// if the store is still filling up. Growth without an end would double it from the middle to the end.
func plateau(samples []load) error {
	most := func(from, to int, of func(load) float64) (m float64) {
		for _, l := range samples[from:to] {
			m = max(m, of(l)-of(samples[0]))
		}
		return m
	}
	n := len(samples)
	for name, of := range map[string]func(load) float64{"keys": func(l load) float64 { return l.keys }, "bytes": func(l load) float64 { return l.bytes }} {
		middle, end := most(n*3/10, n/2, of), most(n*8/10, n, of)
		if end > 1.5*middle {
			return fmt.Errorf("%s: %.0f in the middle, %.0f at the end: the store fills up", name, middle, end)
		}
	}
	if l := samples[n-1]; l.withoutTTL != 0 {
		return fmt.Errorf("%.0f of %.0f keys have no TTL", l.withoutTTL, l.keys)
	}
	return nil
}

// passers returns a site for visitors who pass by, each with a first page that is remembered for a TTL.
func passers(t *testing.T, phase sessions.Phase, ttl time.Duration, leaky bool) (rdb *redis.Client, visit func()) {
	t.Helper()
	rdb = redistest.Start(t).Client(t)
	redisStore, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: ttl})
	require.NoError(t, err)
	var new sessions.Store = redisStore
	if leaky {
		new = leakyStore{redisStore, rdb}
	}
	s, _ := dualSite(t, cookieStoreWith(t, secretA), new, phase)
	return rdb, func() {
		r := s.browser().set("seen", strings.Repeat("the first page ", 20))
		require.Zero(t, r.setCookie("session").MaxAge, "a browser-session cookie")
	}
}

// eachPassing runs a test for each phase that writes to Redis, and once for the store that leaked.
func eachPassing(t *testing.T, test func(t *testing.T, phase sessions.Phase, leaky bool)) {
	for _, phase := range dualPhases[1:] {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			test(t, phase, false)
		})
	}
	t.Run("the leak of the story is seen", func(t *testing.T) {
		t.Parallel()
		test(t, sessions.DualReadOld, true)
	})
}

// Visitors come in waves. When the TTL of a wave is over nothing is left of it, in keys and in bytes.
func TestP09_NothingIsLeftOfPassingVisitors(t *testing.T) {
	t.Parallel()
	const (
		ttl     = time.Second
		waves   = 3
		perWave = 200
		room    = 64_000 // bytes that the server takes for its connections, and gives back when it likes
	)
	eachPassing(t, func(t *testing.T, phase sessions.Phase, leaky bool) {
		rdb, visit := passers(t, phase, ttl, leaky)
		var first load
		for wave := range waves {
			for range perWave {
				visit()
			}
			come := loadOf(t, rdb)
			if leaky {
				require.EqualValues(t, perWave, come.withoutTTL)
				return
			}
			require.Zero(t, come.withoutTTL)
			require.Eventually(t, func() bool {
				l := loadOf(t, rdb)
				if l.keys == 0 && wave == 0 {
					first = l
				}
				return l.keys == 0 && l.bytes <= first.bytes+room
			}, 30*time.Second, 20*time.Millisecond, "wave %d is still there", wave)
		}
	})
}

// Visitors come at a rate, for a while: the store does not fill up.
func TestP09_PassingVisitorsReachAPlateau(t *testing.T) {
	if !long() {
		t.Skip("HANDOVER_LONG is not set: TestP09_NothingIsLeftOfPassingVisitors looks at the same with fewer visitors")
	}
	t.Parallel()
	const (
		ttl     = time.Second
		tick    = 100 * time.Millisecond
		ticks   = 60
		perTick = 20
	)
	eachPassing(t, func(t *testing.T, phase sessions.Phase, leaky bool) {
		rdb, visit := passers(t, phase, ttl, leaky)
		visit() // to warm up
		samples := []load{loadOf(t, rdb)}
		beat := time.NewTicker(tick)
		defer beat.Stop()
		for range ticks {
			<-beat.C // visitors come at a rate: the time is what this test is about
			for range perTick {
				visit()
			}
			samples = append(samples, loadOf(t, rdb))
		}
		t.Logf("%v: after %d visitors %.0f keys (%.0f without TTL), %.0f KB more than before", phase, ticks*perTick,
			samples[ticks].keys, samples[ticks].withoutTTL, (samples[ticks].bytes-samples[0].bytes)/1000)
		if err := plateau(samples); leaky {
			require.ErrorContains(t, err, "fills up")
		} else {
			require.NoError(t, err)
		}
	})
}

func TestPlateau(t *testing.T) {
	flat, growing, leaking := make([]load, 50), make([]load, 50), make([]load, 50)
	for i := range 50 {
		flat[i] = load{keys: float64(min(i, 10)), bytes: 1e6 + 300*float64(min(i, 10))}
		growing[i] = load{keys: float64(i), bytes: 1e6 + 300*float64(i)}
		leaking[i] = flat[i]
	}
	leaking[49].withoutTTL = 1
	require.NoError(t, plateau(flat))
	require.ErrorContains(t, plateau(growing), "fills up")
	require.ErrorContains(t, plateau(leaking), "1 of 10 keys have no TTL")
}

// A server that is full.

func TestP15_RedisIsFull(t *testing.T) {
	t.Parallel()
	const ok, fails, gone = "ok", "503", "logged out"
	type row struct {
		policy          string
		phase           sessions.Phase
		check, fallback bool
		// What the users see. Known is a session that the new store had before it was full, early is one of OldOnly.
		readKnown, readEarly, write, login, logout string
	}
	for _, c := range []row{
		// noeviction: what is there can be read and ended, and nothing can be added.
		{"noeviction", sessions.OldOnly, false, false, ok, ok, ok, ok, ok},
		{"noeviction", sessions.DualReadOld, false, false, ok, ok, ok, ok, ok},
		{"noeviction", sessions.DualReadOld, true, false, ok, ok, ok, ok, ok},
		{"noeviction", sessions.DualReadNew, false, false, ok, fails, fails, fails, ok},
		{"noeviction", sessions.DualReadNew, false, true, ok, ok, ok, ok, ok},
		{"noeviction", sessions.NewOnly, false, false, ok, fails, fails, fails, ok},

		// volatile-lru, filled by keys without a TTL that something else writes: the sessions are what is evicted, and
		// after that nothing can be written either. Only NewOnly has no other copy.
		{"volatile-lru", sessions.OldOnly, false, false, ok, ok, ok, ok, ok},
		{"volatile-lru", sessions.DualReadOld, false, false, ok, ok, ok, ok, ok},
		{"volatile-lru", sessions.DualReadOld, true, false, ok, ok, ok, ok, fails},
		{"volatile-lru", sessions.DualReadNew, false, false, fails, fails, fails, fails, fails},
		{"volatile-lru", sessions.DualReadNew, false, true, ok, ok, ok, ok, fails},
		{"volatile-lru", sessions.NewOnly, false, false, gone, fails, gone, fails, gone},
	} {
		t.Run(fmt.Sprintf("%s/%v,CheckRevoked=%v,FallbackOnError=%v", c.policy, c.phase, c.check, c.fallback), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			rdb := redistest.Start(t, "--maxmemory-policy", c.policy).Client(t)
			new := redisWithPrefix(t, rdb, "session:")
			s, d := dualSite(t, cookieStoreWith(t, secretA), new, sessions.OldOnly, func(cfg *sessions.DualStoreConfig) {
				cfg.CheckRevoked, cfg.FallbackOnError = c.check, c.fallback
			})
			early, earlyToo := s.browser(), s.browser()
			early.login("early")
			earlyToo.login("early too")
			d.SetPhase(c.phase)
			readers, writer, leaver := s.browser(), s.browser(), s.browser()
			for _, b := range []*browser{readers, writer, leaver} {
				b.login("known")
				b.use(addCount)
			}
			for i := range 600 {
				require.NoError(t, rdb.Set(ctx, fmt.Sprint("junk:", i), strings.Repeat("x", 10_000), 0).Err())
			}
			require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "4mb").Err())
			require.ErrorContains(t, rdb.Set(ctx, "junk:last", "x", 0).Err(), "OOM")

			sees := func(b *browser, fn func(sessions.Session)) string {
				user := ""
				r := b.try(func(s sessions.Session) {
					user, _ = dualUser.Get(s)
					fn(s)
				})
				require.NoError(t, r.err)
				switch {
				case r.status == http.StatusServiceUnavailable:
					return fails
				case user == "":
					return gone
				}
				require.Equal(t, http.StatusOK, r.status)
				return ok
			}
			require.Equal(t, c.readKnown, sees(readers, noop), "read")
			require.Equal(t, c.readEarly, sees(early, noop), "read of a session from before the migration")
			writes := func(s sessions.Session) {
				if _, known := dualUser.Get(s); known {
					addCount(s)
				}
			}
			require.Equal(t, c.write, sees(writer, writes), "write")
			login := sees(s.browser(), func(s sessions.Session) {
				s.Renew()
				_ = dualUser.Set(s, "newcomer")
			})
			if login == gone {
				login = ok // there was nobody before
			}
			require.Equal(t, c.login, login, "login")
			require.Equal(t, c.logout, sees(leaver, func(s sessions.Session) { s.Destroy() }), "logout")
			require.Equal(t, http.StatusOK, s.browser().use(noop).status, "a visitor who does nothing is never disturbed")

			// There is room again: nobody was logged out, apart from those whose only copy was evicted.
			require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "0").Err())
			for _, b := range []*browser{early, earlyToo} {
				require.Contains(t, b.user(), "early")
			}
			if c.readKnown == gone {
				return
			}
			require.Equal(t, "known", readers.user())
			require.Equal(t, "known", writer.user())
			want := 1
			if c.write == ok {
				want = 2
			}
			require.Equal(t, want, writer.count(), "what was acknowledged is there")
			if c.logout == fails {
				require.Equal(t, "known", leaver.user(), "a logout that failed can be tried again")
				leaver.use(func(s sessions.Session) { s.Destroy() })
			}
			require.Empty(t, leaver.cookie())
		})
	}
}

// What volatile-lru evicts comes back from the cookie, as long as both are written.
func TestP15_EvictedRecordComesBack(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew} {
		s, _ := dualSite(t, cookieStoreWith(t, secretA), redisWithPrefix(t, rdb, "session:"), phase)
		b := s.browser()
		b.login("alice")
		require.NoError(t, rdb.FlushDB(t.Context()).Err())
		require.Equal(t, "alice", b.user())
		b.use(addCount)
		require.Equal(t, 1, b.count())
		require.EqualValues(t, 1, rdb.DBSize(t.Context()).Val())
		r := b.try(func(s sessions.Session) {
			addCount(s)
			require.NoError(t, rdb.FlushDB(t.Context()).Err()) // between the read and the write
		})
		if phase == sessions.DualReadOld {
			require.Equal(t, http.StatusOK, r.status, "the new store decides nothing yet")
		}
		require.Equal(t, "alice", b.user())
	}
}

// Redis to Redis, another server: through all phases and back.
func TestP15_RedisToRedis(t *testing.T) {
	t.Parallel()
	oldServer, newServer := redistest.Start(t), redistest.Start(t)
	oldRDB, newRDB := oldServer.Client(t), newServer.Client(t)
	checkTTLs(t, oldRDB)
	checkTTLs(t, newRDB)
	const users = 30
	old, new := redisWithPrefix(t, oldRDB, "app:"), redisWithPrefix(t, newRDB, "session:")
	plain := newSite(t, old) // how it was before
	var fleet []*site
	var duals []*sessions.DualStore
	for range 3 {
		s, d := dualSite(t, old, new, sessions.OldOnly)
		fleet, duals = append(fleet, s), append(duals, d)
	}
	browsers := make([]*browser, users)
	want := make([]int, users)
	for i := range browsers {
		browsers[i] = plain.browser()
		browsers[i].login(fmt.Sprint("user ", i))
	}
	type ended struct{ cookie, user string }
	var replays []ended
	turn := 0
	round := func(what string) {
		t.Helper()
		for i, b := range browsers {
			turn++
			b := b.on(fleet[turn%len(fleet)])
			require.Equal(t, fmt.Sprint("user ", i), b.user(), "%s: user %d was logged out", what, i)
			require.Equal(t, want[i], b.count(), "%s: user %d lost a change", what, i)
			switch (turn + i) % 5 {
			case 0, 1:
				b.use(addCount)
				want[i]++
			case 2:
				replays = append(replays, ended{b.cookie(), what})
				b.use(func(s sessions.Session) { s.Renew() })
			case 3:
				replays = append(replays, ended{b.cookie(), what})
				b.use(func(s sessions.Session) { s.Destroy() })
				b.login(fmt.Sprint("user ", i))
				want[i] = 0
			}
		}
		for n, r := range replays {
			require.Empty(t, fleet[(n+turn)%len(fleet)].browser().hold(r.cookie).user(), "%s: ended in %s, and seen again", what, r.user)
		}
	}
	round("OldOnly")
	for _, phase := range []sessions.Phase{1, 2, 3, 2, 1, 2, 3} {
		for n, d := range duals {
			from := d.Phase()
			d.SetPhase(phase)
			round(fmt.Sprintf("%d of 3 from %v to %v", n+1, from, phase))
		}
		round(phase.String())
	}
	oldServer.Stop() // nobody needs it any more
	late := newSite(t, new)
	for i, b := range browsers {
		require.Equal(t, fmt.Sprint("user ", i), b.on(late).user())
		require.Equal(t, want[i], b.on(late).count())
	}
}

// What one phase has ended stays ended in all that follow, and back.
func TestP15_RevokedInOnePhaseIsRevokedInAll(t *testing.T) {
	for _, kind := range realKinds(t) {
		for _, check := range []bool{false, true} {
			for _, by := range dualPhases {
				t.Run(fmt.Sprintf("%s,CheckRevoked=%v/%v", kind.name, check, by), func(t *testing.T) {
					old, new := kind.make(t)
					_, client := old.(*sessions.CookieStore)
					s, d := dualSite(t, old, new, sessions.DualReadOld, func(cfg *sessions.DualStoreConfig) { cfg.CheckRevoked = check })
					for _, end := range []func(sessions.Session){sessions.Session.Destroy, sessions.Session.Renew} {
						d.SetPhase(sessions.DualReadOld)
						b := s.browser()
						b.login("alice")
						b.use(addCount)
						sealed := b.cookie()
						d.SetPhase(by)
						b.use(end)
						for _, at := range []sessions.Phase{1, 2, 3, 2, 1, 0} {
							if client && (by == sessions.OldOnly || at == sessions.OldOnly || at == sessions.DualReadOld && !check) {
								continue // a sealed cookie that was copied: see DualStoreConfig.CheckRevoked
							}
							if !client && (by == sessions.NewOnly && at == sessions.OldOnly || by == sessions.OldOnly && at == sessions.NewOnly) {
								continue // each knows one store: between them lies the longest life of a session
							}
							d.SetPhase(at)
							thief := s.browser().hold(sealed)
							require.Empty(t, thief.user(), "in %v", at)
							thief.hold(sealed).use(addCount)
							require.Empty(t, thief.user(), "in %v, after a write", at)
						}
					}
				})
			}
		}
	}
}

// copyStore is a store of somebody else's that keeps records as they are.
type copyStore struct {
	mu   sync.Mutex
	kept map[string]sessions.Record
}

func (s *copyStore) Load(_ context.Context, _, token string) (*sessions.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _ := sessions.TokenID(token)
	rec, ok := s.kept[id]
	if !ok {
		return nil, sessions.ErrNotFound
	}
	return &rec, nil
}

func (s *copyStore) Save(_ context.Context, _ string, rec *sessions.Record, base int64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[rec.ID].Version != base {
		return "", sessions.ErrConflict
	}
	s.kept[rec.ID] = *rec
	return rec.Token, nil
}

func (s *copyStore) Touch(_ context.Context, _ string, rec *sessions.Record) (string, error) {
	return rec.Token, nil
}

func (s *copyStore) Delete(context.Context, string, *sessions.Record) error { return nil }

// A new session needs no mark in Redis, but for a DualStore, which compares the marks of both copies: what it creates has
// one, and what it adopts has those of the old store, also if that gives back the very record that it was given.
func TestP15_WhatADualStoreWritesHasItsMarks(t *testing.T) {
	ctx := t.Context()
	rdb := redistest.Start(t).Client(t)
	old := &copyStore{kept: map[string]sessions.Record{}}
	dual, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: newRedisStore(t, rdb, time.Hour), Phase: sessions.DualReadNew})
	require.NoError(t, err)
	marks := func(token string) int {
		var head string
		require.NoError(t, json.Unmarshal([]byte(rdb.Get(ctx, redisKey(token)).Val()), &[]any{&head}))
		return (len(head) - len("i") - 22 - 38) / 6
	}
	require.Equal(t, 1, marks(newRedisApp(t, dual).must("", addHit)), "created")

	before := newRedisApp(t, old)
	token := before.must("", addHit)
	_, err = dual.Load(ctx, "session", token)
	require.NoError(t, err)
	require.Equal(t, 1, marks(token), "adopted")
}

// Two requests that take over the same session at once write the same bytes, from one server to another. One of them has
// adopted it.
func TestP15_AdoptedOnceBySameBytes(t *testing.T) {
	oldServer, newServer := redistest.Start(t), redistest.Start(t)
	proxy := newServer.Proxy(t)
	old := newRedisStore(t, oldServer.Client(t), time.Hour)
	rec := newRedisRecord(time.Hour, time.Hour)
	_, err := old.Save(t.Context(), "session", rec, 0)
	require.NoError(t, err)
	dual, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: newRedisStore(t, proxy.Client(t), time.Hour), Phase: sessions.DualReadNew})
	require.NoError(t, err)
	proxy.SetFault(func(args []string) redistest.Fault {
		if args[0] == "SET" {
			proxy.SetFault(nil)
			_, err := dual.Load(t.Context(), "session", rec.Token) // the other request is quicker
			if err != nil {
				t.Error(err)
			}
		}
		return redistest.Pass
	})
	_, err = dual.Load(t.Context(), "session", rec.Token)
	require.NoError(t, err)
	require.EqualValues(t, 1, dual.Report().Adopted)
}
