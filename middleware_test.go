package sessions_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
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

func TestP01_UntouchedIsFree(t *testing.T) {
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		eachProto(t, func(t *testing.T, proto string) {
			v := serve(t, site, proto)
			for range 2 { // without a cookie, and with one
				for _, way := range append(ways(t), way{"nothing", 200, func(http.ResponseWriter, *http.Request) {}}) {
					spy.reset()
					site.events.reset()
					before := v.cookie()
					got := v.run(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Cache-Control", "public")
						way.answer(w, r)
					})
					require.NoError(t, got.err, way.name)
					require.Equal(t, way.status, got.status, way.name)
					require.NotContains(t, got.header, "Set-Cookie", way.name)
					require.NotContains(t, got.header, "Vary", way.name)
					require.Equal(t, before, v.cookie())
					require.Zero(t, spy.calls(), way.name)
					require.Empty(t, site.events.outcomes())
				}
				v.set("a", 1)
			}
		})
	})
}

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
				if name == "revoked" { // its new token is about to reach the client, unless this request begins anew
					require.Equal(t, http.StatusConflict, b.try(func(s sessions.Session) { _ = s.Set("user", 7) }).status)
				}
				r := b.use(func(s sessions.Session) {
					s.Renew()
					require.NoError(t, s.Set("user", 7))
				})
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

func TestWrapTwice(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	site := newSite(t, spy)
	site.handler = site.mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := session(t, r)
		_ = s.Set("outer", true)
		site.mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if session(t, r) != s {
				t.Error("two sessions in one request")
			}
			_ = s.Set("inner", true)
			_, _ = w.Write([]byte("page"))
		})).ServeHTTP(w, r)
	}))
	eachProto(t, func(t *testing.T, proto string) {
		v := serve(t, site, proto)
		spy.reset()
		got := v.run(func(http.ResponseWriter, *http.Request) {})
		require.NoError(t, got.err)
		require.Len(t, got.header.Values("Set-Cookie"), 1)
		require.Equal(t, []string{"Cookie"}, got.header.Values("Vary"))
		require.EqualValues(t, 1, spy.saves.Load())
	})
}

func TestTwoManagers(t *testing.T) {
	first, second := &spyStore{Store: sessiontest.NewMemoryStore()}, &spyStore{Store: sessiontest.NewMemoryStore()}
	outer := newSite(t, first, func(cfg *sessions.Config) { cfg.Cookie.Name = "outer" })
	inner := newSite(t, second, func(cfg *sessions.Config) { cfg.Cookie.Name = "inner" })
	inner.handler = outer.mgr.Wrap(inner.handler)
	eachProto(t, func(t *testing.T, proto string) {
		v := serve(t, inner, proto)
		both := func(r *http.Request) (o, i sessions.Session) {
			o, err := outer.mgr.Get(r.Context())
			if err != nil {
				t.Error(err)
			}
			i, err = inner.mgr.Get(r.Context())
			if err != nil {
				t.Error(err)
			}
			if s, err := sessions.Get(r.Context()); err != nil || s != i || s == o {
				t.Errorf("Get is not the innermost: %v", err)
			}
			return o, i
		}
		got := v.run(func(w http.ResponseWriter, r *http.Request) {
			o, i := both(r)
			_, _ = o.Set("who", "outer"), i.Set("who", "inner")
			_, _ = w.Write([]byte("page"))
		})
		require.NoError(t, got.err)
		require.Len(t, got.header.Values("Set-Cookie"), 2)
		require.Equal(t, []string{"Cookie"}, got.header.Values("Vary"))
		require.NotEmpty(t, v.cookieNamed("outer"))
		require.NotEmpty(t, v.cookieNamed("inner"))
		v.run(func(_ http.ResponseWriter, r *http.Request) {
			o, i := both(r)
			if a, b := value(t, o, "who"), value(t, i, "who"); a != `"outer"` || b != `"inner"` {
				t.Errorf("%s and %s", a, b)
			}
		})

		// Only one of them is used.
		first.reset()
		second.reset()
		v.run(func(_ http.ResponseWriter, r *http.Request) { _, _ = outer.mgr.Get(r.Context()) })
		require.EqualValues(t, 1, first.calls())
		require.Zero(t, second.calls())

		// One fails: its ErrorHandler answers, without the cookie of either.
		for _, broken := range []*spyStore{first, second} {
			broken.fail("save")
			got := v.run(func(w http.ResponseWriter, r *http.Request) {
				o, i := both(r)
				if broken == first {
					o, i = i, o
				}
				_ = o.Set("n", 1)
				i.Renew()
				w.Header().Set("X-Handler", "1")
				if _, err := w.Write([]byte("page")); !errors.Is(err, errStore) {
					t.Errorf("Write returned %v", err)
				}
			})
			broken.fail()
			require.NoError(t, got.err)
			require.Equal(t, 503, got.status)
			require.NotContains(t, got.header, "X-Handler")
			require.NotContains(t, got.body, "page")
			require.NotContains(t, got.header, "Set-Cookie")
		}
	})
}

func TestGet_outside(t *testing.T) {
	site := newSite(t, sessiontest.NewMemoryStore())
	other := newSite(t, sessiontest.NewMemoryStore())
	_, err := sessions.Get(context.Background())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	_, err = site.mgr.Get(context.Background())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	site.browser().do(func(_ http.ResponseWriter, r *http.Request) {
		_, err := other.mgr.Get(r.Context())
		if !errors.Is(err, sessions.ErrNoMiddleware) {
			t.Errorf("Get of a manager that is not there: %v", err)
		}
	})
}

type contextValue struct{}

// A context derived from the request's still carries the session, and the values set before the middleware.
func TestDerivedContexts(t *testing.T) {
	site := newSite(t, sessiontest.NewMemoryStore())
	next := site.handler
	site.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextValue{}, "outside")))
	})
	v := serve(t, site, "h1")
	got := v.run(func(w http.ResponseWriter, r *http.Request) {
		s := session(t, r)
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), requestValue{}, "inside"), time.Minute)
		defer cancel()
		for _, derived := range []context.Context{ctx, context.WithoutCancel(ctx), r.Clone(ctx).Context()} {
			if got, err := sessions.Get(derived); err != nil || got != s {
				t.Errorf("Get: %v", err)
			}
			if derived.Value(requestValue{}) != "inside" || derived.Value(contextValue{}) != "outside" || derived.Value(http.ServerContextKey) == nil {
				t.Error("a value is lost")
			}
		}
		cancel()
		if ctx.Err() == nil || r.Context().Err() != nil {
			t.Error("cancel goes down, and not up")
		}
		_ = s.Set("n", 1)
	})
	require.NoError(t, got.err)
	require.Equal(t, "1", v.get("n"))
}

// An answer cut short by the caller's own context is no answer: the next Get asks again.
func TestGet_afterACancelledContext(t *testing.T) {
	site := newSite(t, sessiontest.NewMemoryStore())
	v := serve(t, site, "h1")
	v.set("n", 1)
	got := v.run(func(_ http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		if _, err := sessions.Get(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Get: %v", err)
		}
		if value(t, session(t, r), "n") != "1" {
			t.Error("the session is lost")
		}
	})
	require.NoError(t, got.err)
}

func TestP02_ReadOnlyIsOneLoad_B02(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", 42)
		spy.reset()
		r := b.use(func(s sessions.Session) {
			require.Equal(t, "42", value(t, s, "user"))
			require.Equal(t, "42", value(t, s, "user"))
			require.False(t, s.IsNew())
		})
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.EqualValues(t, 1, spy.loads.Load())
		require.Zero(t, spy.writes())
	})
}

func TestP10_UnknownTokenIsNotAdopted_B03(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		theirs := sessions.NewToken()
		b := site.browser().hold(theirs)
		r := b.use(func(s sessions.Session) { require.True(t, s.IsNew()) })
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Zero(t, spy.writes())
		require.Len(t, site.events.with(sessions.OutcomeUnknown), 1)

		b.set("user", 1)
		require.NotEqual(t, theirs, b.cookie())
		require.Equal(t, "1", b.get("user"))
		_, err := store.Load(context.Background(), "session", theirs)
		require.ErrorIs(t, err, sessions.ErrNotFound)
	})
}

func TestP10_ImpossibleTokenIsNotAskedFor_B04(t *testing.T) {
	// The server itself counts what it is asked.
	srv := redistest.Start(t)
	rdb := srv.Client(t)
	checkTTLs(t, rdb)
	b := newSite(t, redisStoreOver(t, rdb)).browser()
	ctx := context.Background()
	require.NoError(t, rdb.ConfigResetStat(ctx).Err())
	for _, token := range impossibleTokens {
		r := b.raw(func(s sessions.Session) { require.True(t, s.IsNew()) }, "session="+token)
		require.Equal(t, http.StatusOK, r.status)
	}
	stats, err := rdb.Info(ctx, "commandstats").Result()
	require.NoError(t, err)
	require.NotContains(t, stats, "cmdstat_get:")
	require.NotContains(t, stats, "cmdstat_set:")
}

// impossibleTokens are values that cannot be one of our tokens, whatever the store.
var impossibleTokens = []string{
	"",
	"short",
	strings.Repeat("A", 21),
	strings.Repeat("A", 23),
	strings.Repeat("A", 21) + "B",  // the last character has bits that no encoder sets
	strings.Repeat("A", 21) + "!",  // outside the alphabet
	strings.Repeat("A", 21) + "+",  // of the other base64 alphabet
	strings.Repeat("A", 20) + "==", // padded
	strings.Repeat("A", 21) + "\n",
	strings.Repeat("A", 11) + "\r\n" + strings.Repeat("A", 11),
	strings.Repeat("A", 21) + "\x00",
	strings.Repeat("A", 21) + "\xff",
	"ÄÄÄÄÄÄÄÄÄÄÄ", // 22 bytes
	strings.Repeat("A", 10<<10),
}

// Too long a cookie is refused before anything is decoded, and a good one behind it still counts.
func TestP13_AnOversizedCookieBesideAGoodOne(t *testing.T) {
	s := newSite(t, cookieStoreWith(t, secretA))
	b := s.browser()
	b.set("k", 1)
	var got string
	r := b.raw(func(s sessions.Session) { got = value(t, s, "k") }, "session="+strings.Repeat("A", 5000), "session="+b.cookie())
	require.Equal(t, http.StatusOK, r.status)
	require.Equal(t, "1", got)
	require.Len(t, s.events.with(sessions.OutcomeMalformed), 1)
}

func TestP16_WrapNil(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore()})
	require.NoError(t, err)
	for _, h := range []http.Handler{nil, http.HandlerFunc(nil), (*http.ServeMux)(nil)} {
		require.Panics(t, func() { mgr.Wrap(h) })
	}
}

// uploads makes uploads that do not fit into memory to a handler, through a real server, and returns the files that are
// left of them.
func uploads(t *testing.T, wrap func(http.Handler) http.Handler) []string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1); err != nil || len(r.MultipartForm.File) != 1 {
			http.Error(w, "no upload", http.StatusBadRequest)
			return
		}
		switch r.URL.Path {
		case "/asked":
			s, err := sessions.Get(r.Context())
			if err == nil {
				_ = s.Set("k", 1)
			}
		case "/panics":
			panic(http.ErrAbortHandler)
		}
	})
	wrapped := wrap(handler)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = recover() }()
		wrapped.ServeHTTP(w, r)
	}))
	for _, path := range []string{"/", "/asked", "/panics"} {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		file, err := form.CreateFormFile("f", "big")
		require.NoError(t, err)
		_, _ = file.Write(bytes.Repeat([]byte("x"), 11<<20)) // over the 10 MB that come on top of the limit
		require.NoError(t, form.Close())
		res, err := http.Post(server.URL+path, form.FormDataContentType(), &body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode, path)
	}
	server.Close() // waits for the handlers
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	return left
}

// net/http removes the files of an upload when the request ends, from the request that it has passed in.
func TestP23_NoUploadLeavesAFile(t *testing.T) {
	m, err := sessions.New(sessions.Config{Store: memoryStore.make(t)})
	require.NoError(t, err)
	require.Empty(t, uploads(t, m.Wrap))
	forget := func(next http.Handler) http.Handler { // as the Manager did
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), t, 1)))
		})
	}
	require.NotEmpty(t, uploads(t, forget), "the test sees what is left")
}

// Middleware outside reads what the router inside has matched, and the form that the handler has parsed.
func TestWrapHandsBackWhatTheHandlerRead(t *testing.T) {
	m, err := sessions.New(sessions.Config{Store: memoryStore.make(t)})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /items/{id}", func(_ http.ResponseWriter, r *http.Request) { _ = r.ParseForm() })
	r := httptest.NewRequest(http.MethodPost, "/items/7", strings.NewReader("a=1"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	m.Wrap(mux).ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, "POST /items/{id}", r.Pattern)
	require.Equal(t, "7", r.PathValue("id"))
	require.Equal(t, "1", r.PostForm.Get("a"))
}

// A flood of odd hosts and cookies costs bounded lines, one per request at most, and each outcome has its own budget.
func TestP23_AFloodSilencesNothing(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	for i := range 500 {
		b := site.browser()
		b.base.Host = fmt.Sprintf("host%d.%s.test", i, strings.Repeat("x", 1000))
		b.header.Set("Origin", "https://"+b.base.Host)
		b.use(noop)
	}
	flooded := site.log.lines("scheme_mismatch")
	require.LessOrEqual(t, len(flooded), 300)
	for _, line := range flooded {
		require.Less(t, len(line), 1000)
	}
	b := site.browser()
	b.header.Set("Cookie", "session=one; session=two; session=three")
	b.use(noop)
	require.Len(t, site.log.lines("outcome=malformed"), 1, "another outcome is logged, once per request")
	require.Len(t, site.events.with(sessions.OutcomeMalformed), 3)
	for range 500 {
		b.use(noop)
	}
	require.LessOrEqual(t, len(site.log.lines("outcome=malformed")), 300)

	b = site.browser()
	b.set("user", 42)
	old := b.clone()
	b.use(func(s sessions.Session) { s.Renew() })
	for range 500 {
		require.Equal(t, http.StatusConflict, old.try(func(s sessions.Session) { _ = s.Set("polled", 1) }).status)
	}
	require.LessOrEqual(t, len(site.log.lines("outcome=gone")), 300)
}

// Cookies that cannot be ours cost no read and do not hide the good one, however many there are.
func TestP13_ForeignCookiesCountForNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, inner sessions.Store) {
		store := &spyStore{Store: inner}
		s := newSite(t, store)
		b := s.browser()
		b.set("user", 42)
		for _, n := range []int{1, 4, 5, 40} {
			var line strings.Builder
			for i := range n {
				fmt.Fprintf(&line, "session=left-by-another-program-%d; ", i)
			}
			line.WriteString("session=" + b.cookie())
			store.reset()
			s.events.reset()
			b.raw(func(s sessions.Session) { require.Equal(t, "42", value(t, s, "user")) }, line.String())
			require.Empty(t, s.events.with(sessions.OutcomeAmbiguous))
		}
	})
}

// What costs a read is tried four times, and then an event says that not all were tried.
func TestP13_CookiesThatWereNotTried(t *testing.T) {
	eachServerStore(t, func(t *testing.T, inner sessions.Store) {
		store := &spyStore{Store: inner}
		s := newSite(t, store)
		b := s.browser()
		b.set("user", 42)
		line := ""
		for range 4 {
			line += "session=" + sessions.NewToken() + "; "
		}
		store.reset()
		b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, line+"session="+b.cookie())
		require.EqualValues(t, 4, store.loads.Load())
		require.Len(t, s.events.with(sessions.OutcomeUnknown), 4)
		require.Len(t, s.events.with(sessions.OutcomeAmbiguous), 1)
		require.Len(t, s.log.lines("several session cookies"), 1)
	})
}

func TestP13_SeveralGoodCookies(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		s := newSite(t, store)
		first, second := s.browser(), s.browser()
		first.set("user", 1)
		second.set("user", 2)
		one, two := "session="+first.cookie(), "session="+second.cookie()
		for _, c := range []struct {
			lines     []string
			server    int // the first
			sealed    int // the newest
			ambiguous int
		}{
			{[]string{one}, 1, 1, 0},
			{[]string{one + "; " + one, one}, 1, 1, 0},
			{[]string{one + "; " + two}, 1, 2, 1},
			{[]string{two + "; " + one}, 2, 2, 1},
			{[]string{"session=x; " + one, "session=y; " + two}, 1, 2, 1},
			{[]string{one + "; session=x"}, 1, 1, 0},
		} {
			s.events.reset()
			want := c.sealed
			if sc.server {
				want = c.server
			}
			s.browser().raw(func(s sessions.Session) { require.Equal(t, strconv.Itoa(want), value(t, s, "user"), c.lines) }, c.lines...)
			require.Len(t, s.events.with(sessions.OutcomeAmbiguous), c.ambiguous, "%q", c.lines)
			require.Len(t, s.events.with(sessions.OutcomeLoaded), 1)
		}
	})
}

// A logout ends every session that the client presented, not the first alone.
func TestP08_ALogoutEndsEverySessionPresented(t *testing.T) {
	eachServerStore(t, func(t *testing.T, inner sessions.Store) {
		store := &spyStore{Store: inner}
		s := newSite(t, store)
		first, second, third := s.browser(), s.browser(), s.browser()
		all := []*browser{first, second, third}
		for range 6 {
			all = append(all, s.browser())
		}
		for i, b := range all {
			b.set("user", i)
		}
		others := ""
		for _, b := range all[3:] {
			others += "session=" + b.cookie() + "; "
		}
		b := s.browser()
		r := b.raw(func(s sessions.Session) { s.Destroy() },
			"session=foreign; session="+first.cookie()+"; session="+second.cookie(),
			"session="+third.cookie()+"; session="+sessions.NewToken(), others)
		require.Equal(t, http.StatusOK, r.status)
		require.Len(t, s.events.with(sessions.OutcomeDeleted), len(all))
		for _, b := range all {
			require.Empty(t, b.get("user"))
		}
		for _, line := range r.header.Values("Set-Cookie") {
			require.Contains(t, line, "Max-Age=0")
		}

		// Those that were not looked at, because four before them named none, are ended all the same.
		for i, b := range all[:2] {
			b.hold("").set("user", i)
		}
		dead := ""
		for range 4 {
			dead += "session=" + sessions.NewToken() + "; "
		}
		r = b.raw(func(s sessions.Session) { s.Destroy() }, dead+"session="+first.cookie()+"; session="+second.cookie())
		require.Equal(t, http.StatusOK, r.status)
		require.Empty(t, first.get("user"))
		require.Empty(t, second.get("user"))

		// What names no session is looked at four times.
		first.hold("").set("user", 1)
		many := "session=" + first.cookie()
		for range 40 {
			many += "; session=" + sessions.NewToken()
		}
		store.reset()
		b.raw(func(s sessions.Session) { s.Destroy() }, many)
		require.EqualValues(t, 5, store.loads.Load())

		// One that cannot be ended is no logout.
		for i, b := range all {
			b.hold("").set("user", i)
		}
		id := second.id()
		store.before(func(_ context.Context, op string, rec *sessions.Record) error {
			if op == "delete" && rec.ID == id {
				return errStore
			}
			return nil
		})
		r = b.raw(func(s sessions.Session) { s.Destroy() }, "session="+first.cookie()+"; session="+second.cookie())
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Equal(t, "1", second.get("user"))
	})
}

// A deploy changes Cookie.Domain or Cookie.Path, and the browser has both cookies from then on. No write, no renewal and
// no logout is lost, while instances of before and after answer in turn.
func TestP08_TheScopeOfTheCookieChanges(t *testing.T) {
	kinds := map[string]func(t *testing.T) sessions.Store{}
	for _, sc := range stores {
		kinds[sc.name] = sc.make
	}
	for _, kind := range realKinds(t) {
		for _, phase := range dualPhases {
			kinds[fmt.Sprintf("%s, %v", kind.name, phase)] = func(t *testing.T) sessions.Store {
				old, new := kind.make(t)
				d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: new, Phase: phase})
				require.NoError(t, err)
				return d
			}
		}
	}
	domain, path := sessions.Cookie{Domain: "example.test"}, sessions.Cookie{Path: "/app"}
	for kind, store := range kinds {
		for _, c := range []struct {
			name          string
			before, after sessions.Cookie
		}{
			{"Domain added", sessions.Cookie{}, domain},
			{"Domain removed", domain, sessions.Cookie{}},
			{"Path narrowed", sessions.Cookie{}, path},
			{"Path widened", path, sessions.Cookie{}},
			{"Path with a slash widened", sessions.Cookie{Path: "/app/"}, sessions.Cookie{}},
			{"both", path, domain},
		} {
			for name, turns := range map[string][]int{"at once": {0, 1, 1, 1, 1}, "rolling": {0, 1, 0, 1, 0}, "rolled back": {0, 1, 0, 0, 0}} {
				t.Run(kind+"/"+c.name+"/"+name, func(t *testing.T) {
					shared := store(t)
					var sites [2]*site
					for i, cookie := range []sessions.Cookie{c.before, c.after} {
						sites[i] = newSite(t, shared, func(cfg *sessions.Config) { cfg.Cookie = cookie })
					}
					b := sites[0].browser()
					b.base.Host, b.base.Path = "www.example.test", "/app/page"
					visit := func(turn int) (n int) {
						b.site = sites[turn]
						b.use(func(s sessions.Session) {
							n, _ = sessions.NewKey[int]("visits").Update(s, func(n int) int { return n + 1 })
						})
						return n
					}
					for i, turn := range turns {
						require.Equal(t, i+1, visit(turn))
					}
					b.site = sites[turns[1]]
					b.use(func(s sessions.Session) {
						s.Renew()
						require.NoError(t, s.Set("user", 42))
					})
					for i, turn := range turns {
						b.site = sites[turn]
						require.Equal(t, "42", b.get("user"))
						require.Equal(t, len(turns)+i+1, visit(turn))
					}
					b.site = sites[turns[4]]
					b.use(func(s sessions.Session) { s.Destroy() })
					for _, turn := range turns {
						b.site = sites[turn]
						require.Empty(t, b.get("user"), "logged out")
					}
				})
			}
		}
	}
}

// The first request after the deploy is a logout: see the documentation of Cookie for the one that is lost.
func TestP08_ALogoutRightAfterTheScopeHasChanged(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		domain, path := sessions.Cookie{Domain: "example.test"}, sessions.Cookie{Path: "/app"}
		for _, c := range []struct {
			name          string
			before, after sessions.Cookie
			lost          bool // with a sealed cookie
		}{
			{"Domain added", sessions.Cookie{}, domain, false},
			{"Domain removed", domain, sessions.Cookie{}, true},
			{"Path narrowed", sessions.Cookie{}, path, true},
			{"Path widened", path, sessions.Cookie{}, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := newSite(t, store, func(cfg *sessions.Config) { cfg.Cookie = c.before })
				b := before.browser()
				b.base.Host, b.base.Path = "www.example.test", "/app/page"
				b.set("user", 42)
				b.site = newSite(t, store, func(cfg *sessions.Config) { cfg.Cookie = c.after })
				b.use(func(s sessions.Session) { s.Destroy() })
				require.Equal(t, c.lost && !sc.server, b.get("user") != "")
			})
		}
	})
}

// A renewal is newer than the copies of the session before it, also if those were written by a clock that is ahead.
func TestP08_ARenewalIsNewerThanWhatItRenews(t *testing.T) {
	store := cookieStore.make(t)
	ahead, s := newSite(t, store), newSite(t, store)
	sessions.SetClock(ahead.mgr, nil, func() time.Time { return time.Now().Add(2 * time.Second) })
	b := ahead.browser()
	b.set("basket", 1)
	before := b.cookie()
	b.site = s
	b.use(func(s sessions.Session) {
		s.Renew()
		require.NoError(t, s.Set("user", 42))
	})
	s.browser().raw(func(s sessions.Session) { require.Equal(t, []string{"basket", "user"}, keys(s)) }, "session="+before+"; session="+b.cookie())
}

func TestP12_ACookieForAnotherPath(t *testing.T) {
	for _, c := range []struct {
		cookiePath, page string
		subject          string // in the event; empty if there is none
	}{
		{"", "/visit", ""},
		{"/app", "/app", ""},
		{"/app", "/app/visit", ""},
		{"/app/", "/app/visit", ""},
		{"/app", "/visit", "/visit"},
		{"/app", "/", "/"},
		{"/app", "/apple/pie", "/apple"},
		{"/app/", "/app", "/app"},
	} {
		t.Run(c.cookiePath+" "+c.page, func(t *testing.T) {
			s := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) { cfg.Cookie.Path = c.cookiePath })
			for range 3 {
				b := s.browser()
				b.base.Path = c.page
				r := b.set("user", 42)
				require.NotNil(t, r.setCookie("session"), "behind a proxy that strips the prefix all is well")
			}
			if c.subject == "" {
				require.Empty(t, s.events.with(sessions.OutcomeForeignPath))
				return
			}
			events := s.events.with(sessions.OutcomeForeignPath)
			require.Len(t, events, 3)
			require.Contains(t, events[0].Detail, "under "+c.subject+":")
			require.Len(t, s.log.lines("a path that the request is not under"), 1)
		})
	}
	t.Run("a client that sends the cookie is under its path", func(t *testing.T) {
		s := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) { cfg.Cookie.Path = "/app" })
		b := s.browser()
		b.set("user", 42)
		s.events.reset()
		b.hold(b.cookie()).use(func(s sessions.Session) { s.Renew() })
		require.Empty(t, s.events.with(sessions.OutcomeForeignPath))
	})
	t.Run("http.StripPrefix outside", func(t *testing.T) {
		s := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) { cfg.Cookie.Path = "/app" })
		s.handler = http.StripPrefix("/app", s.handler)
		b := s.browser()
		b.base.Path = "/app/visit"
		b.set("user", 42)
		require.Empty(t, s.events.with(sessions.OutcomeForeignPath))
	})
}

// A token belongs to the name of its cookie, in every store and phase: what one site has issued opens nothing on another
// that uses the same store.
func TestP10_ATokenBelongsToItsCookieName(t *testing.T) {
	for _, names := range [][2]string{{"shop", "admin"}, {"", "admin"}, {"shop", ""}, {"session", "__Host-session"}} {
		apart := func(t *testing.T, store sessions.Store, between func()) {
			t.Helper()
			named := func(name string) *site {
				return newSite(t, store, func(cfg *sessions.Config) { cfg.Cookie.Name = name })
			}
			shop, admin := named(names[0]), named(names[1])
			nameOf := func(name string) string { return cmp.Or(name, "session") }
			own, other := nameOf(names[0]), nameOf(names[1])
			b := shop.browser().https()
			check := func() {
				t.Helper()
				thief := admin.browser().https()
				admin.events.reset()
				thief.raw(func(s sessions.Session) {
					require.Empty(t, keys(s))
					require.True(t, s.IsNew())
				}, other+"="+b.cookieNamed(own))
				require.Empty(t, admin.events.with(sessions.OutcomeLoaded))
				require.Equal(t, "1", b.get("user"))
			}
			b.set("user", 1)
			check()
			b.set("more", 2)
			check()
			b.use(func(s sessions.Session) { s.Renew() })
			check()
			between()
			check()
			b.set("even more", 3)
			check()
			// A logout of the one does not end a session of the other.
			admin.browser().https().raw(func(s sessions.Session) { s.Destroy() }, other+"="+b.cookieNamed(own))
			check()
		}
		t.Run(names[0]+" and "+names[1], func(t *testing.T) {
			eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) { apart(t, store, func() {}) })
			for _, kind := range realKinds(t) {
				for _, phase := range dualPhases {
					t.Run(fmt.Sprintf("%s, %v", kind.name, phase), func(t *testing.T) {
						old, new := kind.make(t)
						d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: new, Phase: phase})
						require.NoError(t, err)
						apart(t, d, func() { d.SetPhase(min(phase+1, sessions.NewOnly)) })
					})
				}
			}
		})
	}
}

// http.MaxBytesReader closes the connection of a client that sends too much, if its writer is that of net/http: no other
// one can be told. So http.MaxBytesHandler belongs outside of Wrap.
func TestMaxBytesHandlerBelongsOutside(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore()})
	require.NoError(t, err)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, session(t, r).Set("n", 1))
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		}
	})
	const limit = 100
	for name, c := range map[string]struct {
		handler http.Handler
		closes  bool
	}{
		"no sessions": {http.MaxBytesHandler(handlerWithSession(handler), limit), true},
		"outside":     {http.MaxBytesHandler(mgr.Wrap(handler), limit), true},
		"inside":      {mgr.Wrap(http.MaxBytesHandler(handler, limit)), false},
	} {
		server := httptest.NewServer(c.handler)
		for _, size := range []int{limit, limit + 1} {
			res, err := server.Client().Post(server.URL, "text/plain", strings.NewReader(strings.Repeat("x", size)))
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, size > limit, res.StatusCode == http.StatusRequestEntityTooLarge, name)
			require.Equal(t, size > limit && c.closes, res.Close, "%s, %d bytes", name, size)
		}
		server.Close()
	}
}

func handlerWithSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, _ = sessiontest.WithSession(r)
		next.ServeHTTP(w, r)
	})
}

// http.TimeoutHandler answers while its handler goes on. Outside of Wrap, all of the handler's changes are stored, or the
// login that could not reach the client is refused. Inside, Wrap ends with the answer, and half of the changes are stored.
func TestP06_TimeoutHandlerBelongsOutside(t *testing.T) {
	for _, c := range []struct {
		name   string
		inside bool
		hangUp bool // the client does, before the deadline
		want   string
	}{
		{"outside, too slow", false, false, "both"},
		{"outside, the client hangs up", false, true, "both"},
		{"inside, too slow", true, false, "half"},
		{"inside, the client hangs up", true, true, "half"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				cookie := ""
				send := func(ctx context.Context, h http.Handler) int {
					r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
					r.Header.Set("Cookie", cookie)
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					time.Sleep(time.Minute) // until the handler has ended, too
					if set := w.Header().Get("Set-Cookie"); set != "" {
						cookie, _, _ = strings.Cut(set, ";")
					}
					return w.Code
				}
				send(t.Context(), m.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					require.NoError(t, session(t, r).Set("stock", 1))
				})))
				slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					s := session(t, r)
					s.Delete("stock")
					time.Sleep(10 * time.Second)
					_ = s.Set("order", 1)
					_, _ = io.WriteString(w, "ordered")
				})
				h := http.TimeoutHandler(m.Wrap(slow), 2*time.Second, "timeout")
				if c.inside {
					h = m.Wrap(http.TimeoutHandler(slow, 2*time.Second, "timeout"))
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.hangUp {
					time.AfterFunc(time.Second, cancel)
				}
				require.Equal(t, http.StatusServiceUnavailable, send(ctx, h))
				got := ""
				send(t.Context(), m.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					got = strings.Join(keys(session(t, r)), ",")
				})))
				require.Equal(t, map[string]string{"both": "order", "half": ""}[c.want], got)
			})
		})
	}
}
