package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// P02: one load

func TestP02_OneLoadForAHitAndForAMiss(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		b := site.browser()
		b.set("user", 42)
		for name, cookie := range map[string]string{"hit": b.cookie(), "miss": sessions.NewToken()} {
			spy.reset()
			r := site.browser().hold(cookie).do(func(w http.ResponseWriter, r *http.Request) {
				first, err := sessions.Get(r.Context())
				require.NoError(t, err)
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						again, err := sessions.Get(r.Context())
						if err != nil || again != first {
							t.Errorf("%v, %v", again, err)
						}
						_, _ = again.Get("user", new(int))
					})
				}
				wg.Wait()
				again, err := site.mgr.Get(r.Context())
				require.NoError(t, err)
				require.Same(t, first, again)
			})
			require.Equal(t, http.StatusOK, r.status, name)
			require.EqualValues(t, 1, spy.loads.Load(), name)
		}
	})
}

func TestP02_ParallelFirstUseIsOneLoad(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", 42)
		spy.reset()
		b.do(func(w http.ResponseWriter, r *http.Request) {
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					s, err := sessions.Get(r.Context())
					if err != nil {
						t.Error(err)
						return
					}
					if err := s.Set(fmt.Sprint("key", i), i); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
		require.EqualValues(t, 1, spy.loads.Load())
		b.use(func(s sessions.Session) { require.Len(t, keys(s), 21) })
	})
}

func TestP02_AnErrorIsRemembered(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	b := newSite(t, spy).browser()
	b.set("user", 42)
	spy.reset()
	spy.fail("load")
	b.do(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			s, err := sessions.Get(r.Context())
			require.ErrorIs(t, err, errStore)
			require.Nil(t, s)
		}
		spy.fail()
		_, err := sessions.Get(r.Context())
		require.ErrorIs(t, err, errStore, "one request, one answer")
	})
	require.EqualValues(t, 1, spy.loads.Load())
}

func TestP02_ACancelledCallerIsNotRemembered(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	b := newSite(t, spy).browser()
	b.set("user", 42)
	spy.reset()
	r := b.do(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		_, err := sessions.Get(ctx)
		require.ErrorIs(t, err, context.Canceled)
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		require.Equal(t, "42", value(t, s, "user"))
		again, err := sessions.Get(ctx)
		require.NoError(t, err, "what is loaded needs no store")
		require.Same(t, s, again)
	})
	require.Equal(t, http.StatusOK, r.status)
	require.EqualValues(t, 2, spy.loads.Load())
}

// P03: only changes are written

func TestP03_WhatChangesNothingIsNotWritten(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", map[string]int{"a": 1, "b": 2})
		spy.reset()
		token := b.cookie()
		for name, use := range map[string]func(sessions.Session){
			"nothing": noop,
			"reads": func(s sessions.Session) {
				_ = keys(s)
				_, _, _, _ = s.ID(), s.IsNew(), s.CreatedAt(), s.ExpiresAt()
			},
			"the same value": func(s sessions.Session) { require.NoError(t, s.Set("user", map[string]int{"b": 2, "a": 1})) },
			"the same by Update": func(s sessions.Session) {
				require.NoError(t, s.Update("user", func(old json.RawMessage) (any, error) { return old, nil }))
			},
			"deletes what is not there": func(s sessions.Session) { s.Delete("other") },
			"cannot encode":             func(s sessions.Session) { require.Error(t, s.Set("user", make(chan int))) },
			"an Update that fails": func(s sessions.Session) {
				require.Error(t, s.Update("user", func(json.RawMessage) (any, error) { return nil, errStore }))
			},
		} {
			r := b.use(use)
			require.Empty(t, r.header.Values("Set-Cookie"), name)
			require.Zero(t, spy.writes(), name)
		}
		require.Equal(t, token, b.cookie())
	})
}

func TestP03_AnonymousLeavesNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		for name, use := range map[string]func(sessions.Session){
			"asks for its ID":     func(s sessions.Session) { require.NotEmpty(t, s.ID()) },
			"renews":              func(s sessions.Session) { s.Renew() },
			"clears":              func(s sessions.Session) { s.Clear() },
			"a lifetime":          func(s sessions.Session) { s.SetLifetime(time.Hour, true) },
			"a negative lifetime": func(s sessions.Session) { s.SetLifetime(-time.Hour, true) },
			"sets and deletes":    func(s sessions.Session) { _ = s.Set("x", 1); s.Delete("x") },
			"sets and clears":     func(s sessions.Session) { _ = s.Set("x", 1); s.Clear() },
			"sets and destroys":   func(s sessions.Session) { _ = s.Set("x", 1); s.Destroy() },
			"takes":               func(s sessions.Session) { sessions.NewKey[string]("flash").Take(s) },
		} {
			r := b.use(use)
			require.Empty(t, r.header.Values("Set-Cookie"), name)
			require.Zero(t, spy.calls(), name)
		}
	})
}

func TestP03_TouchIsRareAndNeverDataAndNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := sessiontest.NewMemoryStore()
		spy := &spyStore{Store: memory}
		b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout = 8 * time.Hour }).browser()
		b.set("user", 42)
		spy.reset()
		time.Sleep(time.Hour - time.Millisecond)
		b.use(noop)
		require.Zero(t, spy.touches.Load())
		time.Sleep(time.Millisecond)
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
		time.Sleep(time.Hour)
		// A write slides too: no touch beside it.
		b.set("user", 43)
		require.EqualValues(t, 1, spy.touches.Load())
		require.EqualValues(t, 1, spy.saves.Load())
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
	})
}

// The last slide before the deadline counts as one, too.
func TestP03_TouchesNearTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout, c.AbsoluteTimeout = 8*time.Hour, 24*time.Hour }).browser()
		b.set("user", 42)
		for range 24*60 - 1 {
			time.Sleep(time.Minute)
			require.Equal(t, "42", b.get("user"))
		}
		require.EqualValues(t, 16, spy.touches.Load(), "one an hour, until the deadline is reached")
	})
}

// P08: destroyed stays destroyed

func TestP08_NothingBringsADestroyedSessionBack(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for end, finish := range map[string]func(sessions.Session){
			"destroyed": func(s sessions.Session) { s.Destroy() },
			"renewed":   func(s sessions.Session) { s.Renew() },
			"lifetime":  func(s sessions.Session) { s.SetLifetime(-1, false) },
		} {
			for late, use := range map[string]func(sessions.Session){
				"set":      func(s sessions.Session) { _ = s.Set("late", 1) },
				"update":   func(s sessions.Session) { _, _ = sessions.NewKey[int]("n").Update(s, func(n int) int { return n + 1 }) },
				"delete":   func(s sessions.Session) { s.Delete("user") },
				"clear":    func(s sessions.Session) { s.Clear() },
				"lifetime": func(s sessions.Session) { s.SetLifetime(time.Hour, true) },
				"renew":    func(s sessions.Session) { s.Renew() },
			} {
				t.Run(end+"/"+late, func(t *testing.T) {
					site := newSite(t, store)
					b := site.browser()
					b.set("user", 42)
					old := b.cookie()
					tab := b.clone()
					r := tab.try(func(s sessions.Session) {
						b.use(finish)
						use(s)
					})
					require.Equal(t, http.StatusConflict, r.status)
					require.Empty(t, r.header.Values("Set-Cookie"))
					require.NotContains(t, r.body, "done")
					require.NotEmpty(t, site.events.with(sessions.OutcomeGone))
					r = tab.try(func(s sessions.Session) {
						require.True(t, s.IsNew())
						require.Empty(t, keys(s))
					})
					require.Equal(t, http.StatusOK, r.status)
					_, err := store.Load(context.Background(), "session", old)
					if err == nil { // a tombstone
						rec, err := store.Load(context.Background(), "session", old)
						require.NoError(t, err)
						require.True(t, rec.Revoked)
					}
				})
			}
		}
	})
}

func TestP08_ErrGoneReachesTheHandlerAndTheErrorHandler(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		var got error
		b := newSite(t, store, func(c *sessions.Config) {
			c.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
				got = err
				w.WriteHeader(http.StatusTeapot)
			}
		}).browser()
		b.set("user", 42)
		r := b.clone().do(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("x", 1))
			b.use(func(s sessions.Session) { s.Destroy() })
			_, err = w.Write([]byte("page"))
			require.ErrorIs(t, err, sessions.ErrGone)
		})
		require.ErrorIs(t, got, sessions.ErrGone)
		require.Equal(t, http.StatusTeapot, r.status)
		require.Empty(t, r.body)
	})
}

func TestP08_ALateTouchIsNotAResurrection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := sessiontest.NewMemoryStore()
		site := newSite(t, store)
		b := site.browser()
		b.set("user", 42)
		old := b.cookie()
		time.Sleep(12 * time.Hour)
		r := b.clone().use(func(s sessions.Session) {
			b.use(func(s sessions.Session) { s.Destroy() })
		})
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Len(t, site.events.with(sessions.OutcomeGone), 1)
		require.Zero(t, store.Len())
		require.Equal(t, "", site.browser().hold(old).get("user"))
	})
}

func TestP08_ALateTouchIsNotAResurrectionOnRedis(t *testing.T) {
	t.Parallel()
	for _, sc := range []storeCase{redisStore, miniStore} {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			store := sc.make(t)
			site := newSite(t, store, func(c *sessions.Config) { c.IdleTimeout = 8 * time.Second })
			b := site.browser()
			b.set("user", 42)
			old := b.cookie()
			b.clone().use(func(s sessions.Session) {
				b.use(func(s sessions.Session) { s.Destroy() })
				begin := time.Now() // until a touch is due
				require.Eventually(t, func() bool { return time.Since(begin) > 1100*time.Millisecond }, 5*time.Second, 50*time.Millisecond)
			})
			require.Len(t, site.events.with(sessions.OutcomeGone), 1)
			require.Equal(t, "", site.browser().hold(old).get("user"))
		})
	}
}

// A commit that cannot finish leaves the session usable under the token that the client has.
func TestP08_ARenewalThatFailsHalfWay(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		b := site.browser()
		b.set("user", 42)
		old := b.cookie()
		spy.before(func(_ context.Context, op string, rec *sessions.Record) error {
			if op == "save" && rec.Revoked {
				return errStore
			}
			return nil
		})
		r := b.try(func(s sessions.Session) { s.Renew() })
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		spy.before(nil)
		require.Equal(t, old, b.cookie())
		require.Equal(t, "42", b.get("user"))
		b.use(func(s sessions.Session) { s.Renew() })
		require.NotEqual(t, old, b.cookie())
		require.Equal(t, "42", b.get("user"))
	})
}

// P10: strict tokens

func TestP10_NeverAdopted(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		site := newSite(t, store)
		for _, token := range append(impossibleTokens, sessions.NewToken()) {
			b := site.browser()
			b.header["Cookie"] = []string{"session=" + token}
			site.events.reset()
			r := b.set("user", 42)
			got := r.setCookie("session")
			require.NotNil(t, got)
			require.NotEqual(t, token, got.Value)
			require.NotEmpty(t, strings.TrimSpace(got.Value))
			require.Contains(t, site.events.outcomes(), "commit created")
			reasons := map[sessions.EventKind]int{}
			site.events.mu.Lock()
			for _, e := range site.events.events {
				reasons[e.Kind]++
			}
			site.events.mu.Unlock()
			require.Equal(t, 1, reasons[sessions.EventReject], "%q", token)
		}
		for range 50 {
			b := site.browser()
			b.set("user", 1)
			if sc.server {
				_, ok := sessions.TokenID(b.cookie())
				require.True(t, ok)
			}
		}
	})
}

// keysAsked are the keys of the GETs that a client has sent.
type keysAsked struct {
	mu   sync.Mutex
	keys []string
}

func (k *keysAsked) DialHook(next redis.DialHook) redis.DialHook { return next }
func (k *keysAsked) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (k *keysAsked) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "get" {
			k.mu.Lock()
			k.keys = append(k.keys, fmt.Sprint(cmd.Args()[1]))
			k.mu.Unlock()
		}
		return next(ctx, cmd)
	}
}

func TestP10_ShapeIsCheckedBeforeTheStore(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	asked := &keysAsked{}
	rdb.AddHook(asked)
	site := newSite(t, redisStoreOver(t, rdb))
	for _, token := range impossibleTokens {
		site.events.reset()
		site.browser().raw(noop, "session="+token)
		require.Empty(t, asked.keys, "%q", token)
		require.Equal(t, []string{"reject malformed", "load none"}, site.events.outcomes(), "%q", token)
	}

	// Of many cookies of the same name four are tried, on one line or on several.
	var line []string
	for range 50 {
		line = append(line, "session="+sessions.NewToken())
	}
	r := site.browser().raw(noop, strings.Join(line, "; "))
	require.Equal(t, http.StatusOK, r.status)
	require.Len(t, asked.keys, 4)
	asked.keys = nil
	site.browser().raw(noop, line...)
	require.Len(t, asked.keys, 4)
	for _, key := range asked.keys {
		require.NotContains(t, strings.Join(line, ";"), strings.TrimPrefix(key, "session:"), "the key is a hash")
	}
}

// P13: bad input heals

func TestP13_BadInputHeals(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		site := newSite(t, store)
		good := site.browser()
		good.set("user", 42)
		token := good.cookie()
		destroyed := site.browser()
		destroyed.set("user", 1)
		gone := destroyed.cookie()
		destroyed.use(func(s sessions.Session) { s.Destroy() })
		renewed := site.browser()
		renewed.set("user", 1)
		revoked := renewed.cookie()
		renewed.use(func(s sessions.Session) { s.Renew() })

		bad := map[string]string{
			"truncated": token[:len(token)-4],
			"longer":    token + "AAAA",
			"oversized": strings.Repeat("A", 9000),
			"empty":     "",
			"unknown":   sessions.NewToken(),
			"changed":   flipCase(token),
			"quote":     `"`,
			"binary":    "\x80\xff\xfe",
		}
		want := map[string]sessions.Outcome{
			"truncated": sessions.OutcomeTampered, "longer": sessions.OutcomeTampered, "oversized": sessions.OutcomeMalformed,
			"empty": sessions.OutcomeMalformed, "unknown": sessions.OutcomeTampered, "changed": sessions.OutcomeTampered,
			"quote": sessions.OutcomeTampered, "binary": sessions.OutcomeTampered,
		}
		if sc.server {
			bad["destroyed"], bad["revoked"] = gone, revoked
			want["truncated"], want["longer"], want["unknown"] = sessions.OutcomeMalformed, sessions.OutcomeMalformed, sessions.OutcomeUnknown
			want["quote"], want["binary"] = sessions.OutcomeMalformed, sessions.OutcomeMalformed
			want["changed"] = ""
			want["destroyed"], want["revoked"] = sessions.OutcomeUnknown, sessions.OutcomeRevoked
		}
		for name, value := range bad {
			t.Run(name, func(t *testing.T) {
				check := func(user int, lines ...string) {
					t.Helper()
					site.events.reset()
					r := site.browser().raw(func(s sessions.Session) {
						n, _ := sessions.NewKey[int]("user").Get(s)
						require.Equal(t, user, n)
						require.Equal(t, user == 0, s.IsNew())
					}, lines...)
					require.Equal(t, http.StatusOK, r.status)
					require.Empty(t, r.header.Values("Set-Cookie"))
				}
				reason := func(n int) {
					t.Helper()
					if want[name] != "" {
						require.Len(t, site.events.with(want[name]), n, site.events.outcomes())
					}
				}
				check(0, "session="+value)
				reason(1)
				check(42, "session="+value+"; session="+token)
				reason(1)
				check(42, "session="+token+"; session="+value)
				reason(0)
				check(42, "session="+value, "other=1; session="+token)
				check(42, "session="+value+"; session="+value+"; session="+value+"; session="+token)
				check(0, "session="+value+"; session="+value)

				// The next write heals: the loop ends.
				b := site.browser().hold("")
				b.header["Cookie"] = []string{"session=" + value}
				r := b.set("user", 7)
				require.NotEqual(t, value, r.setCookie("session").Value)
				delete(b.header, "Cookie")
				require.Equal(t, "7", b.get("user"))
			})
		}
	})
}

// flipCase changes one letter in the middle.
func flipCase(s string) string {
	b := []byte(s)
	for i := len(b) / 2; ; i++ {
		if b[i] >= 'a' && b[i] <= 'z' || b[i] >= 'A' && b[i] <= 'Z' {
			b[i] ^= ' '
			return string(b)
		}
	}
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

// P14: an outage is not a logout

func TestP14_OutageIsNotALogout(t *testing.T) {
	srv := redistest.Start(t)
	site := newSite(t, redisStoreOver(t, srv.Client(t)))
	b := site.browser()
	b.set("user", 42)
	token := b.cookie()
	srv.Stop()
	called := false
	r := b.do(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.Error(t, err)
		require.NotErrorIs(t, err, sessions.ErrNotFound)
		require.Nil(t, s)
		called = true
		http.Error(w, "try again", http.StatusServiceUnavailable)
	})
	require.True(t, called)
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Equal(t, "try again\n", r.body, "the handler's own answer")
	require.Empty(t, r.header.Values("Set-Cookie"))
	require.Equal(t, token, b.cookie())
	require.Len(t, site.events.with(sessions.OutcomeError), 1)
	require.NotContains(t, site.log.String(), token)

	r = site.browser().use(func(s sessions.Session) { require.True(t, s.IsNew()) })
	require.Equal(t, http.StatusOK, r.status, "who has no cookie needs no store")
}

func TestP14_EveryOperationThatFails(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		b := site.browser()
		b.set("user", 42)
		token := b.cookie()
		for _, c := range []struct {
			op  []string
			use func(sessions.Session)
		}{
			{[]string{"load"}, noop},
			{[]string{"save"}, func(s sessions.Session) { _ = s.Set("user", 43) }},
			{[]string{"save"}, func(s sessions.Session) { s.Renew() }},
			{[]string{"save", "delete"}, func(s sessions.Session) { s.Destroy() }},
			{[]string{"save", "delete"}, func(s sessions.Session) { s.Destroy(); _ = s.Set("user", 1) }},
		} {
			site.events.reset()
			spy.fail(c.op...)
			r := b.try(c.use)
			spy.fail()
			require.Equal(t, http.StatusServiceUnavailable, r.status, c.op)
			require.Empty(t, r.header.Values("Set-Cookie"), c.op)
			require.Len(t, site.events.with(sessions.OutcomeError), 1, c.op)
			require.Equal(t, token, b.cookie())
			require.Equal(t, "42", b.get("user"))
		}
		// A second cookie is no way around an outage.
		spy.fail("load")
		r := b.raw(noop, "session="+token+"; session="+token)
		require.Equal(t, http.StatusServiceUnavailable, r.status)
	})
}

func TestP14_ATouchThatFailsIsNoReasonToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		site := newSite(t, spy)
		b := site.browser()
		b.set("user", 42)
		time.Sleep(12 * time.Hour)
		spy.fail("touch")
		require.Equal(t, "42", b.get("user"))
		require.EqualValues(t, 1, spy.touches.Load(), "tried once a request")
		require.Len(t, site.events.with(sessions.OutcomeError), 1)
	})
}

// The session itself

func TestSession_Values(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		type profile struct {
			Name string
			Tags []string
		}
		var (
			name    = sessions.NewKey[string]("name")
			count   = sessions.NewKey[int]("count")
			person  = sessions.NewKey[profile]("person")
			nothing = sessions.NewKey[*profile]("nothing")
			strange = sessions.NewKey[string]("a \"key\"\\ <&> \u2028 \x00 \x7f ä 𝄞")
			noName  = sessions.NewKey[int]("")
		)
		want := profile{"A", []string{"x", "y"}}
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, name.Set(s, "A <b> \u2028"))
			require.NoError(t, person.Set(s, want))
			require.NoError(t, nothing.Set(s, nil))
			require.NoError(t, strange.Set(s, "v"))
			require.NoError(t, noName.Set(s, 5))
			n, err := count.Update(s, func(n int) int { return n + 1 })
			require.NoError(t, err)
			require.Equal(t, 1, n)
			got, ok := person.Get(s)
			require.True(t, ok)
			require.Equal(t, want, got, "as it will be read")
			want.Tags[0] = "changed" // what was set was encoded then
		})
		b.use(func(s sessions.Session) {
			v, ok := name.Get(s)
			require.True(t, ok)
			require.Equal(t, "A <b> \u2028", v)
			p, ok := person.Get(s)
			require.True(t, ok)
			require.Equal(t, profile{"A", []string{"x", "y"}}, p)
			np, ok := nothing.Get(s)
			require.True(t, ok)
			require.Nil(t, np)
			v, ok = strange.Get(s)
			require.True(t, ok)
			require.Equal(t, "v", v)
			n, ok := noName.Get(s)
			require.True(t, ok)
			require.Equal(t, 5, n)
			require.Len(t, keys(s), 6)

			// Another type: a value, but not one of this type.
			_, ok = sessions.NewKey[int]("name").Get(s)
			require.False(t, ok)
			ok, err := s.Get("name", new(int))
			require.True(t, ok)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "A <b>")
			_, err = sessions.NewKey[int]("name").Update(s, func(int) int { return 0 })
			require.Error(t, err)
			require.NotContains(t, err.Error(), "A <b>")
			v, ok = name.Get(s)
			require.True(t, ok)
			require.Equal(t, "A <b> \u2028", v)

			// Flash
			v, ok = strange.Take(s)
			require.True(t, ok)
			require.Equal(t, "v", v)
			_, ok = strange.Take(s)
			require.False(t, ok)
			count.Delete(s)
		})
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"", "name", "nothing", "person"}, keys(s))
			for key := range s.Keys() { // changing it in the loop is fine, and so is leaving early
				s.Delete(key)
				require.NoError(t, s.Set("new "+key, 1))
			}
			for range s.Keys() {
				break
			}
			require.Len(t, keys(s), 4)
			s.Clear()
			require.Empty(t, keys(s))
			require.NoError(t, name.Set(s, "B"))
		})
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"name"}, keys(s))
			require.Equal(t, `"B"`, value(t, s, "name"))
		})
	})
}

type secretError struct{}

func (secretError) MarshalJSON() ([]byte, error) { return nil, errors.New("hunter2") }

func TestSession_WhatCannotBeEncoded(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		loop := map[string]any{"secret": "hunter2"}
		loop["self"] = loop
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("x", "before"))
			for _, v := range []any{
				make(chan string), func() {}, math.NaN(), math.Inf(1), complex(1, 2), secretError{}, loop,
				json.RawMessage(`{"hunter2":`), json.Number("hunter2"), map[bool]int{true: 1},
			} {
				for _, err := range []error{
					s.Set("x", v),
					s.Update("x", func(json.RawMessage) (any, error) { return v, nil }),
				} {
					require.Error(t, err)
					require.True(t, strings.HasPrefix(err.Error(), "sessions: "), err)
					require.NotContains(t, err.Error(), "hunter2")
					require.NotContains(t, err.Error(), `"x"`)
				}
				require.Equal(t, `"before"`, value(t, s, "x"))
			}
			for _, key := range []string{"\xff", "a\xc3", "\xed\xa0\x80"} {
				err := s.Set(key, 1)
				require.Error(t, err)
				require.NotContains(t, err.Error(), key)
				require.Error(t, s.Update(key, func(json.RawMessage) (any, error) { return 1, nil }))
				s.Delete(key)
				ok, err := s.Get(key, new(int))
				require.NoError(t, err)
				require.False(t, ok)
			}
			require.Equal(t, []string{"x"}, keys(s))
		})
		require.Equal(t, `"before"`, b.get("x"))
	})
}

func TestSession_DeepValues(t *testing.T) {
	// What Set takes must be readable after: encoding/json writes deeper values than it reads.
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, depth := range []int{9000, 9998, 9999, 10000, 10001, 10002, 12000} {
			b := newSite(t, store).browser()
			var v any = 1
			for range depth {
				v = []any{v}
			}
			b.set("user", 42)
			var refused error
			b.use(func(s sessions.Session) { refused = s.Set("deep", v) })
			b.use(func(s sessions.Session) {
				require.Equal(t, "42", value(t, s, "user"), depth)
				if refused == nil {
					var got any
					ok, err := s.Get("deep", &got)
					require.NoError(t, err, depth)
					require.True(t, ok)
				}
			})
		}
	})
}

func TestSession_DestroyThenSetIsANewSession(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(time.Hour, true)
		})
		old, oldID := b.cookie(), b.id()
		r := b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("dropped", 1))
			s.Renew()
			s.Destroy()
			require.True(t, s.IsNew())
			require.Empty(t, keys(s))
			require.NotEqual(t, oldID, s.ID())
			require.NoError(t, s.Set("flash", "bye"))
			s.Renew() // of a new session: nothing more to do
		})
		require.Len(t, r.header.Values("Set-Cookie"), 1)
		require.Zero(t, r.setCookie("session").MaxAge, "the new session has the lifetime of any other")
		require.NotEqual(t, old, b.cookie())
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"flash"}, keys(s))
			require.NotEqual(t, oldID, s.ID())
		})
		if sc.server {
			require.Equal(t, "", b.clone().hold(old).get("user"))
		}
		b.use(func(s sessions.Session) { // twice in one request
			s.Destroy()
			_ = s.Set("a", 1)
			s.Destroy()
		})
		require.Empty(t, b.cookie())
	})
}

func TestSession_RenewTwiceIsOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		r := b.use(func(s sessions.Session) {
			s.Renew()
			require.NoError(t, s.Set("user", 42))
			s.Renew()
		})
		require.Len(t, r.header.Values("Set-Cookie"), 1)
		require.Empty(t, site.events.outcomes()[2:], "none, created: no renewal of what is new")
		id := b.id()
		site.events.reset()
		b.use(func(s sessions.Session) { s.Renew(); s.Renew() })
		require.Equal(t, []string{"load loaded", "renew created"}, site.events.outcomes())
		require.NotEqual(t, id, b.id())
	})
}

func TestSession_IDOfANewSessionStays(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		var id string
		b.use(func(s sessions.Session) {
			id = s.ID()
			require.NoError(t, s.Set("user", 42))
			require.Equal(t, id, s.ID())
		})
		require.Equal(t, id, b.id())
		require.NotContains(t, b.cookie(), id)
	})
}

func TestSession_SetLifetime(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			const hour, day = time.Hour, 24 * time.Hour
			for _, c := range []struct {
				name       string
				idle       time.Duration
				persistent bool
				left       time.Duration // 0: the session ends
				maxAge     int
			}{
				{"own", 2 * hour, false, 2 * hour, 0},
				{"own, persistent", 2 * hour, true, 2 * hour, 7200},
				{"zero is the default", 0, false, day, 0},
				{"zero, persistent", 0, true, day, 86400},
				{"negative", -1, true, 0, -1},
				{"most negative", math.MinInt64, false, 0, -1},
				{"less than can be kept", time.Millisecond - 1, true, 0, -1},
				{"a nanosecond", 1, false, 0, -1},
				{"half a second more", 90*time.Second + 500*time.Millisecond, true, 90*time.Second + 500*time.Millisecond, 90},
				{"less than a second", 500 * time.Millisecond, true, 500 * time.Millisecond, 1},
				{"a hundred years", 100 * 365 * day, true, 14 * day, 14 * 86400},
				{"longest", math.MaxInt64, true, 14 * day, 14 * 86400},
			} {
				t.Run(c.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newSite(t, sc.make(t)).browser()
						b.set("user", 42)
						r := b.use(func(s sessions.Session) {
							s.SetLifetime(c.idle, c.persistent)
							if c.left > 0 {
								require.Equal(t, c.left, time.Until(s.ExpiresAt()))
							}
						})
						if c.maxAge != 0 || sc.name == "cookie" {
							require.Equal(t, c.maxAge, r.setCookie("session").MaxAge)
						} else {
							require.Nil(t, r.setCookie("session"))
						}
						if c.left == 0 {
							require.Empty(t, b.cookie())
							return
						}
						token := b.cookie()
						b.use(func(s sessions.Session) { require.Equal(t, c.left, time.Until(s.ExpiresAt())) })
						time.Sleep(c.left - time.Millisecond)
						b.hold(token) // Max-Age counts in whole seconds
						peek := b.clone()
						require.Equal(t, "42", peek.get("user"))
						time.Sleep(c.left)
						require.Equal(t, "", b.hold(peek.cookie()).get("user"))
					})
				})
			}
		})
	}
}

func TestSession_SetLifetimeBackToDefault(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		r := b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(48*time.Hour, true)
		})
		require.InDelta(t, 48*3600, r.setCookie("session").MaxAge, 2)
		r = b.use(func(s sessions.Session) { s.SetLifetime(0, false) })
		require.NotNil(t, r.setCookie("session"), "the browser must be told")
		require.Zero(t, r.setCookie("session").MaxAge)
		b.use(func(s sessions.Session) {
			require.InDelta(t, 24*time.Hour, time.Until(s.ExpiresAt()), float64(time.Minute))
		})
		// The lifetime goes along with a renewal.
		b.use(func(s sessions.Session) { s.SetLifetime(48*time.Hour, true) })
		r = b.use(func(s sessions.Session) { s.Renew() })
		require.InDelta(t, 48*3600, r.setCookie("session").MaxAge, 2)
	})
}

// A configuration that was lowered holds for the sessions that are there.
func TestSession_LimitsLoweredLater(t *testing.T) {
	const minute, hour, day = time.Minute, time.Hour, 24 * time.Hour
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			for _, c := range []struct {
				name           string
				own            time.Duration // SetLifetime
				idle, absolute time.Duration // the new configuration; it was 24h and 14 days
				dead           time.Duration // when it has ended
			}{
				{"unchanged", 0, day, 14 * day, day},
				{"idle", 0, 30 * minute, 14 * day, 30 * minute},
				{"absolute", 0, day, 20 * hour, 20 * hour},
				{"both", 0, 30 * minute, 20 * hour, 30 * minute},
				{"both, absolute first", 0, 30 * minute, 30 * minute, 30 * minute},
				{"idle raised", 0, 48 * hour, 14 * day, day},
				{"custom idle stays", 7 * day, 30 * minute, 14 * day, 7 * day},
				{"custom idle is capped", 7 * day, day, 2 * day, 2 * day},
			} {
				t.Run(c.name, func(t *testing.T) {
					look := func(after time.Duration) (user string) {
						synctest.Test(t, func(t *testing.T) {
							store := sc.make(t)
							b := newSite(t, store).browser()
							b.use(func(s sessions.Session) {
								require.NoError(t, s.Set("user", 42))
								if c.own != 0 {
									s.SetLifetime(c.own, false)
								}
							})
							time.Sleep(after)
							lowered := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.AbsoluteTimeout = c.idle, c.absolute })
							user = lowered.browser().hold(b.cookie()).get("user")
						})
						return user
					}
					require.Equal(t, "42", look(c.dead-time.Millisecond))
					require.Equal(t, "", look(c.dead))
				})
			}
		})
	}
}

func TestSession_UpdateUsesTheSession(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("base", 10)
		done := make(chan reply, 1)
		go func() {
			done <- b.try(func(s sessions.Session) {
				n := sessions.NewKey[int]("n")
				other := sessions.NewKey[int]("other")
				_, err := n.Update(s, func(old int) int {
					base, _ := sessions.NewKey[int]("base").Get(s)
					for range s.Keys() {
						_ = s.ID()
					}
					// It must have no other effect; if it has one, it must still come to an end.
					_ = s.Set("seen", time.Now().UnixNano())
					_, _ = other.Update(s, func(n int) int { return n + 1 })
					return old + base
				})
				if err != nil {
					t.Error(err)
				}
			})
		}()
		select {
		case r := <-done:
			require.Equal(t, http.StatusOK, r.status)
		case <-time.After(20 * time.Second):
			t.Fatal("Update does not come to an end")
		}
		require.Equal(t, "10", b.get("n"))
	})
}

func TestSession_UpdateError(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("n", 1)
		mine := errors.New("not today")
		b.use(func(s sessions.Session) {
			err := s.Update("n", func(old json.RawMessage) (any, error) {
				require.Equal(t, "1", string(old))
				return 2, mine
			})
			require.ErrorIs(t, err, mine)
			err = s.Update("absent", func(old json.RawMessage) (any, error) {
				require.Nil(t, old)
				return nil, mine
			})
			require.ErrorIs(t, err, mine)
			require.Equal(t, []string{"n"}, keys(s))
		})
		require.Equal(t, "1", b.get("n"))
	})
}

// An Update runs again on what a parallel request has written, and its error then is that of the commit.
func TestSession_UpdateRunsAgain(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("stock", 1)
		take := func(old json.RawMessage) (any, error) {
			var n int
			if err := json.Unmarshal(old, &n); err != nil {
				return nil, err
			}
			if n == 0 {
				return nil, errors.New("sold out")
			}
			return n - 1, nil
		}
		r := b.try(func(s sessions.Session) {
			require.NoError(t, s.Update("stock", take))
			b.clone().use(func(s sessions.Session) { require.NoError(t, s.Update("stock", take)) })
		})
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Equal(t, "0", b.get("stock"))
	})
}

// All kinds of changes, in their order, are made again on top of a parallel one.
func TestSession_MergeKeepsTheOrder(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		n := sessions.NewKey[int]("n")
		add := func(by int) func(int) int { return func(n int) int { return n + by } }
		for name, c := range map[string]struct {
			mine, theirs func(s sessions.Session)
			want         map[string]string
		}{
			"set after update": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)); _ = n.Set(s, 100) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"n": "100", "x": "1"}},
			"update after set": {
				func(s sessions.Session) { _ = n.Set(s, 100); _, _ = n.Update(s, add(1)) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"n": "101", "x": "1"}},
			"two updates": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)); _, _ = n.Update(s, add(2)) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"n": "53", "x": "1"}},
			"delete": {
				func(s sessions.Session) { n.Delete(s) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"x": "1"}},
			"clear, then set": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)); s.Clear(); _ = s.Set("y", 2) },
				func(s sessions.Session) { _ = s.Set("z", 3) }, map[string]string{"y": "2"}},
			"theirs is a clear": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)) },
				func(s sessions.Session) { s.Clear() }, map[string]string{"n": "1"}},
			"theirs renews nothing": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)) },
				func(s sessions.Session) { s.SetLifetime(time.Hour, true) }, map[string]string{"n": "6", "x": "1"}},
			"set to what it was": { // a change of theirs to a key that we left as it was stays
				func(s sessions.Session) { _ = s.Set("x", 1) },
				func(s sessions.Session) { _ = s.Set("x", 7) }, map[string]string{"n": "5", "x": "7"}},
		} {
			t.Run(name, func(t *testing.T) {
				b := newSite(t, store).browser()
				b.use(func(s sessions.Session) {
					require.NoError(t, n.Set(s, 5))
					require.NoError(t, s.Set("x", 1))
				})
				b.use(func(s sessions.Session) {
					c.mine(s)
					b.clone().use(c.theirs)
				})
				got := map[string]string{}
				b.use(func(s sessions.Session) {
					for key := range s.Keys() {
						got[key] = value(t, s, key)
					}
				})
				require.Equal(t, c.want, got)
			})
		}
	})
}

func TestSession_TooLargeForACookie(t *testing.T) {
	site := newSite(t, cookieStore.make(t))
	b := site.browser()
	b.set("user", 42)
	token := b.cookie()
	var failed error
	big := newSite(t, cookieStore.make(t), func(c *sessions.Config) {
		c.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
			failed = err
			w.WriteHeader(http.StatusInsufficientStorage)
		}
	})
	for _, tab := range []*browser{big.browser(), big.browser().hold(token)} {
		big.events.reset()
		r := tab.do(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("big", strings.Repeat("x", 5000)))
			w.Header().Set("X-Handler", "1")
			_, err = w.Write([]byte("page"))
			require.ErrorIs(t, err, sessions.ErrTooLarge)
		})
		require.Equal(t, http.StatusInsufficientStorage, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Empty(t, r.header.Values("X-Handler"))
		require.Empty(t, r.body)
		require.ErrorIs(t, failed, sessions.ErrTooLarge)
		require.Regexp(t, `\b\d{4} bytes\b.*\b4096\b`, failed.Error())
		require.NotContains(t, failed.Error(), "xxx")
		require.Len(t, big.events.with(sessions.OutcomeTooLarge), 1)
	}
	// The largest that fits is sent, one byte more is not; what is sent a browser keeps.
	fits := 0
	for n := 1500; n < 3100; n++ {
		r := site.browser().try(func(s sessions.Session) { _ = s.Set("big", strings.Repeat("x", n)) })
		if r.status == http.StatusOK {
			c := r.setCookie("session")
			require.LessOrEqual(t, len(c.Name)+len(c.Value), 4096)
			fits = n
		} else {
			require.Equal(t, http.StatusServiceUnavailable, r.status)
			require.Equal(t, n-1, fits, "there is one boundary")
			break
		}
	}
	require.NotZero(t, fits)
	// It is read back at that size.
	edge := site.browser()
	edge.set("big", strings.Repeat("x", fits))
	require.Len(t, edge.get("big"), fits+2)
}

func TestSession_LateChanges(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		late := func(b *browser, fn func(s sessions.Session)) reply {
			return b.do(func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte("page"))
				s, err := sessions.Get(r.Context())
				require.NoError(t, err)
				fn(s)
			})
		}
		r := late(b, func(s sessions.Session) { _ = s.Set("user", 1) })
		require.Equal(t, "page", r.body)
		require.Len(t, site.events.with(sessions.OutcomeTooLate), 1, "a new session")
		require.Empty(t, site.events.with(sessions.OutcomeCreated))

		b.set("user", 42)
		for name, fn := range map[string]func(s sessions.Session){
			"renew":    func(s sessions.Session) { s.Renew() },
			"lifetime": func(s sessions.Session) { s.SetLifetime(48*time.Hour, true) },
		} {
			site.events.reset()
			late(b, fn)
			require.Len(t, site.events.with(sessions.OutcomeTooLate), 1, name)
			require.Equal(t, "42", b.get("user"))
		}
		site.events.reset()
		late(b, func(s sessions.Session) { _ = s.Set("user", 43) })
		if sc.server {
			require.Empty(t, site.events.with(sessions.OutcomeTooLate))
			require.Equal(t, "43", b.get("user"))
		} else {
			require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
			require.Equal(t, "42", b.get("user"))
		}
		site.events.reset()
		late(b, func(s sessions.Session) { s.Destroy(); _ = s.Set("user", 44) })
		require.NotEmpty(t, site.events.with(sessions.OutcomeTooLate))
		if sc.server {
			require.Equal(t, "", b.get("user"))
		}
	})
}

func TestSession_ConcurrentUse(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).overNetwork()
		b.set("start", 0)
		for _, first := range []bool{true, false} { // before and beside the first byte
			r := b.do(func(w http.ResponseWriter, r *http.Request) {
				n := sessions.NewKey[int]("n")
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						s, err := sessions.Get(r.Context())
						if err != nil {
							t.Error(err)
							return
						}
						for j := range 20 {
							_, _ = n.Update(s, func(n int) int { return n + 1 })
							_ = s.Set(fmt.Sprint(i), j)
							_, _ = s.Get("n", new(int))
							_, _, _, _ = s.ID(), s.IsNew(), s.CreatedAt(), s.ExpiresAt()
							for range s.Keys() {
							}
							switch {
							case i == 0 && j == 5:
								s.Renew()
							case i == 1 && j == 5:
								s.SetLifetime(time.Hour, false)
							case i == 2:
								s.Delete(fmt.Sprint(i))
							}
						}
					})
				}
				if first {
					wg.Wait()
				}
				_, _ = w.Write([]byte("page"))
				wg.Wait()
			})
			require.NoError(t, r.err)
			require.Equal(t, http.StatusOK, r.status)
		}
	})
}

func TestSession_OutsideOfTheMiddleware(t *testing.T) {
	_, err := sessions.Get(context.Background())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	site := newSite(t, memoryStore.make(t))
	_, err = site.mgr.Get(context.Background())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	other := newSite(t, memoryStore.make(t))
	site.browser().do(func(w http.ResponseWriter, r *http.Request) {
		_, err := other.mgr.Get(r.Context())
		require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	})
}

// Other goroutines of the handler may change the session while it is being written: that is saved by the next commit.
func TestSession_ChangesDuringTheCommit(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		n := sessions.NewKey[int]("n")
		add := func(s sessions.Session) {
			_, err := n.Update(s, func(n int) int { return n + 1 })
			require.NoError(t, err)
		}
		for name, c := range map[string]struct {
			first, during func(s sessions.Session)
			want          map[string]string // nil: the session has ended
		}{
			"changes": {add, func(s sessions.Session) { add(s); _ = s.Set("during", 2) }, map[string]string{"n": "3", "during": "2"}},
			"changes during a renewal": {func(s sessions.Session) { s.Renew(); add(s) },
				func(s sessions.Session) { add(s); _ = s.Set("during", 2) }, map[string]string{"n": "3", "during": "2"}},
			"delete":                   {add, func(s sessions.Session) { n.Delete(s) }, map[string]string{}},
			"renewal":                  {add, func(s sessions.Session) { s.Renew() }, map[string]string{"n": "2"}},
			"destroy":                  {add, func(s sessions.Session) { s.Destroy() }, nil},
			"destroy, then set":        {add, func(s sessions.Session) { s.Destroy(); _ = s.Set("x", 1) }, nil},
			"destroy during a renewal": {func(s sessions.Session) { s.Renew() }, func(s sessions.Session) { s.Destroy() }, nil},
		} {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				b := newSite(t, spy).browser()
				b.use(func(s sessions.Session) { _ = n.Set(s, 1) })
				old := b.cookie()
				r := b.try(func(s sessions.Session) {
					c.first(s)
					spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
						spy.before(nil)
						require.Equal(t, "save", op)
						c.during(s)
						return nil
					})
				})
				require.Equal(t, http.StatusOK, r.status)
				if c.want == nil {
					for _, token := range []string{old, b.cookie()} {
						b.raw(func(s sessions.Session) { require.True(t, s.IsNew()) }, "session="+token)
					}
					return
				}
				got := map[string]string{}
				b.use(func(s sessions.Session) {
					for key := range s.Keys() {
						got[key] = value(t, s, key)
					}
				})
				require.Equal(t, c.want, got)
			})
		}
	})
}

// A client that hangs up is not a store that fails: nobody is to be woken for it.
func TestP14_AHangUpIsNotLoggedAsAnOutage(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	b := site.browser()
	b.set("user", 42)
	b.do(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		_, err := sessions.Get(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
	require.Len(t, site.events.with(sessions.OutcomeError), 1)
	require.Empty(t, site.log.lines("level=ERROR"))
	require.Len(t, site.log.lines("request canceled"), 1)
}

// A logout that meets a renewal is no logout: the session lives on under a token that it does not know, and it says so. One
// that meets a change or another logout is.
func TestP08_LogoutBesideOthers(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for name, c := range map[string]struct {
			meanwhile func(s sessions.Session)
			status    int
			lives     bool
		}{
			"renewed":   {func(s sessions.Session) { s.Renew() }, http.StatusConflict, true},
			"written":   {func(s sessions.Session) { _ = s.Set("y", 2) }, http.StatusOK, false},
			"destroyed": {func(s sessions.Session) { s.Destroy() }, http.StatusOK, false},
		} {
			t.Run(name, func(t *testing.T) {
				b := newSite(t, store).browser()
				b.set("user", 42)
				other := b.clone()
				r := b.try(func(s sessions.Session) {
					s.Destroy()
					other.use(c.meanwhile)
				})
				require.Equal(t, c.status, r.status)
				require.Equal(t, c.lives, b.cookie() != "", "the client keeps the cookie of what it has not ended")
				b.clone().use(func(s sessions.Session) { require.True(t, s.IsNew()) })
				other.use(func(s sessions.Session) { require.Equal(t, !c.lives, s.IsNew()) })
			})
		}
	})
}

// Where the tombstone of a logout gets no answer, what is there is looked at before anything is deleted.
func TestP08_LogoutThatGetsNoAnswer(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for name, c := range map[string]struct {
			meanwhile func(s sessions.Session)
			fails     []string
			status    int
		}{
			"renewed":                {sessions.Session.Renew, []string{"save"}, http.StatusConflict},
			"renewed, and no answer": {sessions.Session.Renew, []string{"delete"}, http.StatusServiceUnavailable},
			"destroyed":              {sessions.Session.Destroy, []string{"save"}, http.StatusOK},
			"left alone":             {noop, []string{"save"}, http.StatusOK},
			"and no answer":          {noop, []string{"delete"}, http.StatusServiceUnavailable},
		} {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				b := newSite(t, spy).browser()
				b.set("user", 42)
				other := b.clone()
				r := b.try(func(s sessions.Session) {
					s.Destroy()
					other.use(c.meanwhile)
					spy.fail(c.fails...)
				})
				spy.fail()
				require.Equal(t, c.status, r.status)
				require.Equal(t, c.status != http.StatusOK, b.cookie() != "")
				other.use(func(s sessions.Session) { require.Equal(t, c.status == http.StatusOK, s.IsNew()) })
			})
		}
	})
}

// What an observer waits for in a commit has the time of the commit, also where the store itself waits for nothing.
func TestP06_ObserversHaveADeadline(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		had := false
		mgr, err := sessions.New(sessions.Config{Store: store, CommitTimeout: time.Minute, Observe: func(ctx context.Context, e sessions.Event) {
			if e.Kind == sessions.EventCommit {
				var until time.Time
				until, had = ctx.Deadline()
				require.WithinDuration(t, time.Now().Add(time.Minute), until, 30*time.Second)
			}
		}})
		require.NoError(t, err)
		mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("user", 42))
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		require.True(t, had)
	})
}

// A store may say no more than that there is a conflict: then the record is read again.
func TestP08_AStoreThatOnlySaysConflict(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for name, c := range map[string]struct {
			meanwhile func(s sessions.Session)
			status    int
		}{
			"destroyed": {func(s sessions.Session) { s.Destroy() }, http.StatusConflict},
			"renewed":   {func(s sessions.Session) { s.Renew() }, http.StatusConflict},
			"written":   {func(s sessions.Session) { _ = s.Set("y", 2) }, http.StatusOK},
		} {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				b := newSite(t, spy).browser()
				b.set("user", 42)
				r := b.clone().try(func(s sessions.Session) {
					_ = s.Set("x", 1)
					spy.before(func(context.Context, string, *sessions.Record) error {
						spy.before(nil)
						b.use(c.meanwhile)
						return sessions.ErrConflict
					})
				})
				require.Equal(t, c.status, r.status)
				if c.status == http.StatusOK {
					b.use(func(s sessions.Session) { require.Equal(t, []string{"user", "x", "y"}, keys(s)) })
				}
			})
		}
	})
}

// A store of somebody else's may make tokens of any length: the manager looks as well.
type longTokens struct{ sessions.Store }

func (s longTokens) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.Store.Save(ctx, name, rec, base)
	return token + strings.Repeat("A", 4096-len("session")-len(token)+1), err
}

func TestSession_TooLargeFromAnyStore(t *testing.T) {
	site := newSite(t, longTokens{sessiontest.NewMemoryStore()})
	r := site.browser().try(func(s sessions.Session) { _ = s.Set("user", 42) })
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Empty(t, r.header.Values("Set-Cookie"))
	tooLarge := site.events.with(sessions.OutcomeTooLarge)
	require.Len(t, tooLarge, 1)
	require.ErrorIs(t, tooLarge[0].Err, sessions.ErrTooLarge)
	require.Contains(t, tooLarge[0].Err.Error(), "4097 bytes")
}

func TestSession_AbsoluteLoweredForASessionInUse(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := sc.make(t)
				b := newSite(t, store).browser()
				b.set("user", 42)
				time.Sleep(15 * time.Hour)
				b.use(noop)
				time.Sleep(15 * time.Hour)
				b.use(noop)
				lowered := newSite(t, store, func(c *sessions.Config) { c.AbsoluteTimeout = 31 * time.Hour })
				lowered.browser().hold(b.cookie()).use(func(s sessions.Session) {
					require.Equal(t, "42", value(t, s, "user"))
					require.Equal(t, time.Hour, time.Until(s.ExpiresAt()))
				})
				lowered = newSite(t, store, func(c *sessions.Config) { c.AbsoluteTimeout = 30 * time.Hour })
				require.Equal(t, "", lowered.browser().hold(b.cookie()).get("user"))
			})
		})
	}
}

// limitedStore keeps no record for longer than an hour, as a Redis store with such a TTL.
type limitedStore struct{ sessions.Store }

func (limitedStore) MaxTTL() time.Duration { return time.Hour }

func TestSession_TTLLoweredBelowItsOwnLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := sessiontest.NewMemoryStore()
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(7*24*time.Hour, true)
		})
		lowered := newSite(t, limitedStore{store}).browser().hold(b.cookie())
		for range 10 {
			time.Sleep(20 * time.Minute)
			lowered.use(func(s sessions.Session) {
				require.Equal(t, "42", value(t, s, "user"))
				require.LessOrEqual(t, time.Until(s.ExpiresAt()), time.Hour)
			})
		}
		time.Sleep(time.Hour)
		require.Equal(t, "", lowered.get("user"))
	})
}
