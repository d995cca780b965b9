package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// Ways to wrap a store, as for metrics.
type (
	embeds       struct{ sessions.Store }
	embedsDeeper struct{ *embeds }
	// hides has the four methods and nothing else.
	hides struct{ inner sessions.Store }
	// unwraps is hides with an Unwrap.
	unwraps struct{ hides }
)

func (s hides) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	return s.inner.Load(ctx, name, token)
}

func (s hides) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	return s.inner.Save(ctx, name, rec, base)
}

func (s hides) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	return s.inner.Touch(ctx, name, rec)
}

func (s hides) Delete(ctx context.Context, name string, rec *sessions.Record) error {
	return s.inner.Delete(ctx, name, rec)
}

func (s unwraps) Unwrap() sessions.Store { return s.inner }

type wrapping struct {
	name   string
	opaque bool // the library cannot see what is wrapped
	extra  bool // left to HANDOVER_LONG where a test is slow
	wrap   func(sessions.Store) sessions.Store
}

var wrappings = []wrapping{
	{"bare", false, false, func(s sessions.Store) sessions.Store { return s }},
	{"struct{Store}", false, false, func(s sessions.Store) sessions.Store { return struct{ sessions.Store }{s} }},
	{"pointer to a struct that embeds Store", false, true, func(s sessions.Store) sessions.Store { return &embeds{s} }},
	{"struct that embeds such a pointer", false, true, func(s sessions.Store) sessions.Store { return &embedsDeeper{embeds: &embeds{s}} }},
	{"Unwrap", false, false, func(s sessions.Store) sessions.Store { return unwraps{hides{s}} }},
	{"several", false, true, func(s sessions.Store) sessions.Store { return &embeds{unwraps{hides{embeds{s}}}} }},
	{"opaque", true, false, func(s sessions.Store) sessions.Store { return hides{s} }},
}

func eachWrapping(t *testing.T, test func(t *testing.T, w wrapping)) {
	t.Helper()
	for _, w := range wrappings {
		t.Run(w.name, func(t *testing.T) { test(t, w) })
	}
}

// wrappedKind is one of our stores, to be wrapped.
type wrappedKind struct {
	name string
	// sealed: the client presents a sealed record, so that the store cannot be the new one of a DualStore.
	sealed bool
	// moves: a DualStore from a cookie, which can be neither side of another.
	moves bool
	// alone: nobody else has the record, so that nothing can be merged or revoked.
	alone bool
	// instances returns a function that makes a store for each instance of a fleet, over the same records.
	instances func(t *testing.T) func() sessions.Store
}

var wrappedPrefixes atomic.Int64

// wrappedKinds returns our stores, the last of them nested.
func wrappedKinds(t *testing.T) []wrappedKind {
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	one := func(s sessions.Store) func() sessions.Store { return func() sessions.Store { return s } }
	newRedis := func(t *testing.T) sessions.Store {
		return redisWithPrefix(t, rdb, fmt.Sprintf("%d:", wrappedPrefixes.Add(1)))
	}
	dual := func(t *testing.T, old, new sessions.Store, phase sessions.Phase) func() sessions.Store {
		return func() sessions.Store {
			d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: new, Phase: phase, CheckRevoked: true})
			require.NoError(t, err)
			return d
		}
	}
	kinds := []wrappedKind{
		{"cookie", true, false, true, func(t *testing.T) func() sessions.Store { return one(cookieStoreWith(t, secretA)) }},
		{"redis", false, false, false, func(t *testing.T) func() sessions.Store { return one(newRedis(t)) }},
		{"memory", false, false, false, func(*testing.T) func() sessions.Store { return one(sessiontest.NewMemoryStore()) }},
	}
	for _, phase := range dualPhases {
		kinds = append(kinds, wrappedKind{"dual from cookie in " + phase.String(), phase != sessions.NewOnly, true, phase == sessions.OldOnly,
			func(t *testing.T) func() sessions.Store {
				return dual(t, cookieStoreWith(t, secretB), newRedis(t), phase)
			}})
		kinds = append(kinds, wrappedKind{"dual of servers in " + phase.String(), false, false, false,
			func(t *testing.T) func() sessions.Store {
				return dual(t, sessiontest.NewMemoryStore(), newRedis(t), phase)
			}})
	}
	return kinds
}

// A pair of instances, and what their stores promise.
type wrappedPair struct {
	a, b *site
	// revokes reports whether what one of them ends is refused by the other, and by itself.
	revokes bool
	// merges reports whether parallel changes are merged.
	merges bool
}

// live is the life of one user on two instances.
func (p wrappedPair) live(t *testing.T) {
	t.Helper()
	a := p.a.browser()
	b := a.on(p.b)
	a.login("alice")
	require.Equal(t, "alice", b.user(), "login on A, read on B")
	require.Equal(t, "alice", a.user(), "login on A, read on A")
	b.use(addCount)
	require.Equal(t, 1, a.count(), "change on B, read on A")
	a.use(addCount)
	require.Equal(t, 2, b.count(), "change on A, read on B")

	renewed := a.cookie()
	b.use(func(s sessions.Session) { s.Renew() })
	require.NotEqual(t, renewed, a.cookie())
	require.Equal(t, "alice", a.user(), "renewed on B, read on A")
	require.Equal(t, 2, b.count())
	p.refuses(t, renewed, "renewed")

	p.increment(t, a)
	last := a.cookie()
	require.Equal(t, "alice", a.user(), "after the parallel changes")
	a.use(func(s sessions.Session) { s.Destroy() })
	require.Empty(t, a.cookie())
	require.Empty(t, b.user())
	p.refuses(t, last, "destroyed")
	require.Empty(t, p.a.events.with(sessions.OutcomeError))
	require.Empty(t, p.b.events.with(sessions.OutcomeError))
}

// increment makes parallel changes on both instances.
func (p wrappedPair) increment(t *testing.T, b *browser) {
	t.Helper()
	const requests = 8
	before := b.count()
	tabs := make([]*browser, requests)
	replies := make([]reply, requests)
	var wg sync.WaitGroup
	for i := range requests {
		tabs[i] = b.clone().on([]*site{p.a, p.b}[i%2])
		wg.Go(func() { replies[i] = tabs[i].try(addCount) })
	}
	wg.Wait()
	for i, r := range replies {
		require.Equal(t, http.StatusOK, r.status, "%d: %s", i, r.body)
		require.Equal(t, "alice", tabs[i].user())
	}
	if !p.merges {
		return
	}
	for _, s := range []*site{p.a, p.b} {
		most := 0
		for _, tab := range tabs {
			most = max(most, tab.on(s).count())
		}
		require.Equal(t, before+requests, most, "no change is lost")
	}
	for _, tab := range tabs { // the browser has the last of them
		if tab.count() == before+requests {
			b.hold(tab.cookie())
		}
	}
}

func (p wrappedPair) refuses(t *testing.T, cookie, why string) {
	t.Helper()
	if p.revokes {
		require.Empty(t, p.a.browser().hold(cookie).user(), "%s, replayed on A", why)
		require.Empty(t, p.b.browser().hold(cookie).user(), "%s, replayed on B", why)
	}
}

func TestP19_WrappedStoreOfAManager(t *testing.T) {
	t.Parallel()
	for _, kind := range wrappedKinds(t) {
		t.Run(kind.name, func(t *testing.T) {
			eachWrapping(t, func(t *testing.T, w wrapping) {
				instance := kind.instances(t)
				a, b := newSite(t, w.wrap(instance())), newSite(t, w.wrap(instance()))
				wrappedPair{a, b, !kind.alone, !kind.alone}.live(t)
			})
		})
	}
}

// A DualStore conforms whatever is around its stores, and whatever it has to find out by itself.
func TestP19_DualStoreConformsOverWrappedStores(t *testing.T) {
	t.Parallel()
	for _, w := range wrappings {
		if w.name == "bare" || w.extra {
			continue
		}
		for kind, old := range map[string]func(t *testing.T) sessions.Store{
			"cookie": func(t *testing.T) sessions.Store { return cookieStoreWith(t, secretA) },
			"memory": func(*testing.T) sessions.Store { return sessiontest.NewMemoryStore() },
		} {
			for _, phase := range dualPhases {
				t.Run(fmt.Sprintf("%s/%s/%v", w.name, kind, phase), func(t *testing.T) {
					t.Parallel()
					sessiontest.TestStore(t, func(t *testing.T) sessions.Store {
						d, err := newDual(w.wrap(old(t)), w.wrap(sessiontest.NewMemoryStore()), phase)
						require.NoError(t, err)
						return w.wrap(d)
					})
				})
			}
		}
	}
}

// eachWrappedPair runs a subtest for each pair of stores and each way to wrap both. Unless HANDOVER_LONG is set, one of
// them is not nested, a test that is slow gets none that is, and fewer ways to wrap them.
func eachWrappedPair(t *testing.T, slow bool, test func(t *testing.T, old, new wrappedKind, w wrapping)) {
	kinds := wrappedKinds(t)
	for _, old := range kinds {
		for _, new := range kinds {
			nested := 0
			for _, k := range []wrappedKind{old, new} {
				if strings.HasPrefix(k.name, "dual") {
					nested++
				}
			}
			if new.sealed || old.moves || new.moves { // TestP19_WhatCannotBeMoved
				continue
			}
			if !long() && (nested > 1 || nested > 0 && slow) {
				continue
			}
			t.Run(old.name+" to "+new.name, func(t *testing.T) {
				t.Parallel()
				for _, w := range wrappings {
					if long() || !slow || !w.extra {
						t.Run(w.name, func(t *testing.T) { test(t, old, new, w) })
					}
				}
			})
		}
	}
}

// wrappedFleet makes instances of a DualStore whose two stores are wrapped.
type wrappedFleet struct {
	t        *testing.T
	old, new func() sessions.Store
	kind     wrappedKind // of the old store
	w        wrapping
}

func newWrappedFleet(t *testing.T, old, new wrappedKind, w wrapping) *wrappedFleet {
	return &wrappedFleet{t, old.instances(t), new.instances(t), old, w}
}

func (f *wrappedFleet) instance(phase sessions.Phase) (*site, *sessions.DualStore) {
	f.t.Helper()
	return dualSite(f.t, f.w.wrap(f.old()), f.w.wrap(f.new()), phase, withCheck)
}

// pair returns two instances that are in these phases, with what may be expected of them.
func (f *wrappedFleet) pair(a, b *site, pa, pb sessions.Phase) wrappedPair {
	served := !f.kind.alone || pa != sessions.OldOnly && pb != sessions.OldOnly
	return wrappedPair{a, b, served, served}
}

func TestP19_WrappedStoresInEachPhase(t *testing.T) {
	t.Parallel()
	eachWrappedPair(t, false, func(t *testing.T, old, new wrappedKind, w wrapping) {
		for _, phase := range dualPhases {
			t.Run(phase.String(), func(t *testing.T) {
				f := newWrappedFleet(t, old, new, w)
				a, _ := f.instance(phase)
				b, _ := f.instance(phase)
				f.pair(a, b, phase, phase).live(t)
			})
		}
	})
}

// A fleet of two goes through all phases and back, one instance after the other, by SetPhase or by a restart. A restarted
// instance has yet to learn what its stores are.
func TestP19_WrappedStoresThroughAllPhases(t *testing.T) {
	t.Parallel()
	way := []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly, sessions.DualReadNew, sessions.DualReadOld, sessions.OldOnly}
	eachWrappedPair(t, true, func(t *testing.T, old, new wrappedKind, w wrapping) {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
				f := newWrappedFleet(t, old, new, w)
				var sites [2]*site
				var duals [2]*sessions.DualStore
				for i := range sites {
					sites[i], duals[i] = f.instance(sessions.OldOnly)
				}
				reader, writer := sites[0].browser(), sites[0].browser() // one never writes
				reader.login("reader")
				writer.login("writer")
				count := 0
				for _, phase := range way {
					for i := range sites {
						if restart {
							sites[i], duals[i] = f.instance(phase)
						} else {
							duals[i].SetPhase(phase)
						}
						when := fmt.Sprintf("instance %d in %v", i, phase)
						// The cookies of the phase before come first to the instance that has moved, then to the other one.
						for _, s := range []*site{sites[i], sites[1-i]} {
							require.Equal(t, "reader", reader.on(s).user(), when)
						}
						writer.on(sites[i]).use(addCount)
						count++
						require.Equal(t, count, writer.on(sites[1-i]).count(), when)
						writer.on(sites[1-i]).use(addCount)
						count++
						require.Equal(t, count, writer.on(sites[i]).count(), when)
						require.Equal(t, "writer", writer.on(sites[1-i]).user(), when)
						f.pair(sites[i], sites[1-i], duals[0].Phase(), duals[1].Phase()).live(t)
					}
				}
				for _, s := range sites {
					require.Equal(t, "reader", reader.on(s).user(), "after the way back")
					require.Equal(t, count, writer.on(s).count(), "after the way back")
				}
			})
		}
	})
}

// Going back, a restarted instance meets cookies that are the token alone before anything has shown it that the client
// holds the old store's records. They are sealed again all the same, or OldOnly would not know them.
func TestP19_ReadsAloneSealAgain(t *testing.T) {
	eachWrapping(t, func(t *testing.T, w wrapping) {
		kinds := map[string]sessions.Store{"cookie": cookieStoreWith(t, secretA), "memory": sessiontest.NewMemoryStore()}
		for name, old := range kinds {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: old}
				new := sessiontest.NewMemoryStore()
				at := func(phase sessions.Phase) *site {
					s, _ := dualSite(t, w.wrap(spy), w.wrap(new), phase)
					return s
				}
				b := at(sessions.DualReadNew).browser()
				b.login("alice")
				c := at(sessions.NewOnly).browser()
				c.login("bob") // the old store has nothing of it
				require.Equal(t, "alice", b.on(at(sessions.NewOnly)).user())
				back := at(sessions.DualReadNew)
				spy.reset()
				require.Equal(t, "alice", b.on(back).user())
				require.Equal(t, "bob", c.on(back).user())
				require.Equal(t, "bob", c.on(back).user())
				if name == "memory" {
					require.LessOrEqual(t, spy.writes(), int64(1), "asked once where it keeps its records")
				}
				for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.OldOnly} {
					require.Equal(t, "alice", b.on(at(phase)).user(), phase)
					if name == "cookie" {
						require.Equal(t, "bob", c.on(at(phase)).user(), phase)
					}
				}
			})
		}
	})
}

// An expired copy is dead as a copy, but shows that the client holds it.
func TestP19_ExpiredCopyIsSealedAgain(t *testing.T) {
	eachWrapping(t, func(t *testing.T, w wrapping) {
		synctest.Test(t, func(t *testing.T) {
			cookies, new := cookieStoreWith(t, secretA), sessiontest.NewMemoryStore()
			at := func(phase sessions.Phase) *site {
				s, _ := dualSite(t, w.wrap(cookies), w.wrap(new), phase)
				return s
			}
			b := at(sessions.DualReadNew).browser()
			b.login("alice")
			old := b.cookie()
			time.Sleep(23 * time.Hour)
			require.Equal(t, "alice", b.user()) // slides
			time.Sleep(2 * time.Hour)
			b.hold(old)
			require.Equal(t, "alice", b.on(at(sessions.DualReadNew)).user())
			require.Equal(t, "alice", b.on(at(sessions.OldOnly)).user())
		})
	})
}

func newDual(old, new sessions.Store, phase sessions.Phase) (*sessions.DualStore, error) {
	return sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: new, Phase: phase})
}

// requireConfigError checks that one of the errors is about this field, and returns its reason.
func requireConfigError(t *testing.T, err error, field string) string {
	t.Helper()
	var found *sessions.ConfigError
	require.ErrorAs(t, err, &found)
	require.Equal(t, field, found.Field)
	return found.Reason
}

// What cannot be a side of a DualStore is refused at once where it can be seen, and else before anything is lost.
func TestP19_WhatCannotBeMoved(t *testing.T) {
	for _, kind := range wrappedKinds(t) {
		if !kind.sealed && !kind.moves {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			eachWrapping(t, func(t *testing.T, w wrapping) {
				wrapped := w.wrap(kind.instances(t)())
				if !w.opaque {
					_, err := newDual(sessiontest.NewMemoryStore(), wrapped, sessions.OldOnly)
					requireConfigError(t, err, "New")
					if kind.moves {
						_, err := newDual(wrapped, sessiontest.NewMemoryStore(), sessions.OldOnly)
						requireConfigError(t, err, "Old")
					}
					return
				}
				for _, phase := range dualPhases[1:] {
					t.Run(phase.String(), func(t *testing.T) {
						memory := sessiontest.NewMemoryStore()
						b := newSite(t, memory).browser()
						b.login("alice")
						var failed error
						d, err := newDual(memory, w.wrap(kind.instances(t)()), phase)
						require.NoError(t, err)
						s := newSite(t, d, func(cfg *sessions.Config) {
							cfg.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
								failed = err
								w.WriteHeader(http.StatusServiceUnavailable)
							}
						})
						for _, change := range []func(sessions.Session){addCount, sessions.Session.Renew, sessions.Session.Destroy} {
							failed = nil
							r := b.on(s).do(func(w http.ResponseWriter, r *http.Request) {
								var session sessions.Session
								if session, failed = sessions.Get(r.Context()); failed != nil {
									http.Error(w, "", http.StatusServiceUnavailable)
									return
								}
								change(session)
							})
							if !kind.sealed {
								require.Equal(t, http.StatusOK, r.status)
								continue
							}
							require.Equal(t, http.StatusServiceUnavailable, r.status)
							require.Contains(t, requireConfigError(t, failed, "New"), "Unwrap() sessions.Store")
							require.NotEmpty(t, b.cookie())
						}
					})
				}
			})
		})
	}
}

func TestP19_StoresOfTheSameRecords(t *testing.T) {
	rdb := miniClient(t)
	cookies, memory := cookieStoreWith(t, secretA), sessiontest.NewMemoryStore()
	servers, err := newDual(redisWithPrefix(t, rdb, "a:"), redisWithPrefix(t, rdb, "b:"), sessions.OldOnly)
	require.NoError(t, err)
	for name, pair := range map[string][2]sessions.Store{
		"one Redis and prefix": {redisWithPrefix(t, rdb, "a:"), redisWithPrefix(t, rdb, "a:")},
		"one MemoryStore":      {memory, memory},
		"one CookieStore":      {cookies, cookies},
		"one DualStore":        {servers, servers},
	} {
		for _, v := range wrappings {
			for _, w := range wrappings {
				if v.opaque || w.opaque {
					continue
				}
				_, err := newDual(v.wrap(pair[0]), w.wrap(pair[1]), sessions.OldOnly)
				require.Error(t, err, "%s: %s and %s", name, v.name, w.name)
				require.Equal(t, "New", configFields(t, err)[0])
			}
		}
	}
	for _, w := range wrappings {
		_, err := newDual(w.wrap(redisWithPrefix(t, rdb, "a:")), w.wrap(redisWithPrefix(t, rdb, "b:")), sessions.OldOnly)
		require.NoError(t, err, "another prefix")
		_, err = newDual(w.wrap(redisWithPrefix(t, rdb, "a:")), w.wrap(redisWithPrefix(t, miniClient(t), "a:")), sessions.OldOnly)
		require.NoError(t, err, "another Redis")
	}
}

// A constructor whose error nobody looked at returns nil, which a wrapper hides from a comparison with nil.
func TestP19_NilInAWrapper(t *testing.T) {
	ours := sessiontest.NewMemoryStore()
	var redisStore *sessions.RedisStore
	var cookies *sessions.CookieStore
	for name, s := range map[string]sessions.Store{
		"nil RedisStore":               &embeds{redisStore},
		"nil CookieStore":              embeds{cookies},
		"nil pointer":                  (*embeds)(nil),
		"nil embedded RedisStore":      struct{ *sessions.RedisStore }{},
		"nil RedisStore behind Unwrap": unwraps{hides{redisStore}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sessions.New(sessions.Config{Store: s})
			require.Equal(t, []string{"Store"}, configFields(t, err))
			_, err = newDual(s, ours, sessions.OldOnly)
			require.Equal(t, []string{"Old"}, configFields(t, err))
			_, err = newDual(ours, s, sessions.OldOnly)
			require.Equal(t, []string{"New"}, configFields(t, err))
			_, err = newDual(s, s, sessions.OldOnly)
			require.Equal(t, []string{"Old", "New"}, configFields(t, err))
		})
	}
}

// wrappedRedis returns a RedisStore with a TTL of an hour on a server of its own, and what is sent to it.
func wrappedRedis(t *testing.T) (*sessions.RedisStore, *redis.Client, *sentCommands) {
	t.Helper()
	server := redistest.Start(t)
	rdb, admin := server.Client(t), server.Client(t)
	checkTTLs(t, admin)
	sent := &sentCommands{}
	rdb.AddHook(sent)
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	return store, admin, sent
}

// sentNames returns the names of the commands that were sent since the last call.
func sentNames(sent *sentCommands) (names []string) {
	for _, args := range sent.take() {
		names = append(names, strings.ToLower(args[0]))
	}
	return names
}

// A store keeps records for an hour, an idle timeout is five: nobody is told that the session lives longer than it does,
// and no read of a young session is taken for one that must slide.
func TestP19_MaxTTL(t *testing.T) {
	store, rdb, sent := wrappedRedis(t)
	fiveHours := func(cfg *sessions.Config) { cfg.IdleTimeout = 5 * time.Hour }
	requireAnHour := func(t *testing.T, b *browser, fn func(sessions.Session)) {
		t.Helper()
		b.use(func(s sessions.Session) {
			fn(s)
			require.WithinDuration(t, time.Now().Add(time.Hour), s.ExpiresAt(), 10*time.Second)
		})
	}
	for name, over := range map[string]func(t *testing.T, s sessions.Store) sessions.Store{
		"alone": func(_ *testing.T, s sessions.Store) sessions.Store { return s },
		"old": func(t *testing.T, s sessions.Store) sessions.Store {
			d, err := newDual(s, sessiontest.NewMemoryStore(), sessions.DualReadNew)
			require.NoError(t, err)
			return d
		},
		"new": func(t *testing.T, s sessions.Store) sessions.Store {
			d, err := newDual(cookieStoreWith(t, secretA), s, sessions.NewOnly)
			require.NoError(t, err)
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachWrapping(t, func(t *testing.T, w wrapping) {
				require.NoError(t, rdb.FlushAll(t.Context()).Err())
				b := newSite(t, over(t, w.wrap(store)), fiveHours).browser()
				if w.opaque {
					b.use(addCount)
				} else {
					requireAnHour(t, b, addCount)
				}
				keys := allKeys(t, rdb)
				require.Len(t, keys, 1)
				ttl, err := rdb.PTTL(t.Context(), keys[0]).Result()
				require.NoError(t, err)
				require.LessOrEqual(t, ttl, time.Hour)
				if name == "old" && w.opaque {
					return // the new store has it for five hours
				}
				sentNames(sent)
				for range 3 {
					requireAnHour(t, b, noop)
					require.Equal(t, []string{"get"}, sentNames(sent), "a read, and no touch")
				}
				b.use(addCount)
				requireAnHour(t, b, noop)
				b.use(func(s sessions.Session) { s.SetLifetime(3*time.Hour, false) })
				requireAnHour(t, b, noop)
				sentNames(sent)
				requireAnHour(t, b, noop)
				require.Equal(t, []string{"get"}, sentNames(sent))
			})
		})
	}
}

// Reads keep a session alive with one touch in an eighth of what the store can keep, also where that is hidden.
func TestP19_SlidesInAWrapper(t *testing.T) {
	eachWrapping(t, func(t *testing.T, w wrapping) {
		synctest.Test(t, func(t *testing.T) {
			short := &shortStore{MemoryStore: sessiontest.NewMemoryStore()}
			b := newSite(t, w.wrap(short), func(cfg *sessions.Config) { cfg.IdleTimeout = 5 * time.Hour }).browser()
			b.login("alice")
			for range 10 {
				time.Sleep(50 * time.Minute)
				require.Equal(t, "alice", b.user())
			}
			_, _, before, _ := short.Calls()
			for range 5 {
				time.Sleep(time.Minute)
				b.user()
			}
			_, _, after, _ := short.Calls()
			require.Equal(t, before, after, "no touch within an eighth")
			time.Sleep(time.Hour)
			require.Empty(t, b.user())
		})
	})
}

// shortStore keeps a record for no more than an hour, as a RedisStore does.
type shortStore struct{ *sessiontest.MemoryStore }

func (s *shortStore) MaxTTL() time.Duration { return time.Hour }

func (s *shortStore) limited(rec *sessions.Record) *sessions.Record {
	if rec.Revoked || rec.Idle <= time.Hour {
		return rec
	}
	c := *rec
	c.Idle = time.Hour
	if until := time.Now().Add(time.Hour); until.Before(c.Expires) {
		c.Expires = until
	}
	return &c
}

func (s *shortStore) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	return s.MemoryStore.Save(ctx, name, s.limited(rec), base)
}

func (s *shortStore) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	return s.MemoryStore.Touch(ctx, name, s.limited(rec))
}

func TestP19_CommandsOfAWrappedStore(t *testing.T) {
	store, _, sent := wrappedRedis(t)
	steps := []struct {
		do   func(sessions.Session)
		want []string
	}{
		{addCount, []string{"set"}},
		{noop, []string{"get"}},
		{addCount, []string{"get", "evalsha"}},
		{sessions.Session.Renew, []string{"get", "set", "evalsha"}},
		{sessions.Session.Destroy, []string{"get", "evalsha"}},
	}
	first := newSite(t, store).browser() // connects, and makes the scripts known to the server
	for _, step := range steps {
		first.use(step.do)
	}
	eachWrapping(t, func(t *testing.T, w wrapping) {
		b := newSite(t, w.wrap(store)).browser()
		sentNames(sent)
		for i, step := range steps {
			b.use(step.do)
			require.Equal(t, step.want, sentNames(sent), "step %d", i)
		}
	})
}

// What the client holds is seen through every wrapper: the runbook says of OldOnly that nothing changes.
func TestP19_CookieInOldOnly(t *testing.T) {
	eachWrapping(t, func(t *testing.T, w wrapping) {
		cookies := cookieStoreWith(t, secretA)
		before := newSite(t, cookies)
		during, _ := dualSite(t, w.wrap(cookies), sessiontest.NewMemoryStore(), sessions.OldOnly)
		b := during.browser()
		b.login("alice") // the first request that this instance has
		require.Greater(t, len(b.cookie()), 100, "the sealed record")
		require.Equal(t, "alice", b.user())
		require.Equal(t, "alice", b.on(before).user())
		b = before.browser()
		b.login("bob")
		for _, phase := range dualPhases {
			moved, _ := dualSite(t, w.wrap(cookies), sessiontest.NewMemoryStore(), phase)
			require.Equal(t, "bob", b.clone().on(moved).user(), phase)
		}
	})
}

func TestP19_NamesInEvents(t *testing.T) {
	rdb := miniClient(t)
	servers, err := newDual(redisWithPrefix(t, rdb, "a:"), redisWithPrefix(t, rdb, "b:"), sessions.OldOnly)
	require.NoError(t, err)
	eachWrapping(t, func(t *testing.T, w wrapping) {
		for name, s := range map[string]sessions.Store{
			"cookie": cookieStoreWith(t, secretA), "redis": redisWithPrefix(t, rdb, "c:"), "dual": servers,
			"*sessiontest.MemoryStore": sessiontest.NewMemoryStore(),
		} {
			if w.opaque {
				name = "sessions_test.hides"
			}
			site := newSite(t, w.wrap(s))
			site.browser().use(addCount)
			for _, e := range site.events.events {
				require.Equal(t, name, e.Store)
			}
			require.NotEmpty(t, site.events.events)
			if name == "cookie" {
				continue
			}
			d, err := newDual(cookieStoreWith(t, secretA), w.wrap(s), sessions.OldOnly)
			require.NoError(t, err)
			require.Equal(t, name, d.Report().New.Store)
			require.Equal(t, "cookie", d.Report().Old.Store)
		}
		require.Equal(t, "mine", storeNameOf(t, named{w.wrap(sessiontest.NewMemoryStore())}), "a wrapper may have a name of its own")
	})
}

type named struct{ sessions.Store }

func (named) String() string { return "mine" }

func storeNameOf(t *testing.T, s sessions.Store) string {
	t.Helper()
	site := newSite(t, s)
	site.browser().use(noop)
	return site.events.events[0].Store
}

func TestP19_ReportChecksAWrappedRedis(t *testing.T) {
	store, _, _ := wrappedRedis(t)
	eachWrapping(t, func(t *testing.T, w wrapping) {
		d, err := newDual(cookieStoreWith(t, secretA), w.wrap(store), sessions.DualReadOld)
		require.NoError(t, err)
		r := d.Report()
		require.Empty(t, r.RedisError)
		require.Equal(t, !w.opaque, r.Redis != nil)
	})
}

// What a store wants the client to present instead.

// reissues is a store on a server that gives a token of the old kind another one, as when tokens are to be longer. The old
// one still names the session.
type reissues struct {
	*sessiontest.MemoryStore
	mu   sync.Mutex
	next map[string]string // by the old token
	// bare keeps conflicts from showing what is there.
	bare bool
}

func (s *reissues) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, isOld := s.next[token]
	if next != "" {
		token = next
	}
	rec, err := s.MemoryStore.Load(ctx, name, token)
	if err != nil || !isOld || next != "" {
		return rec, err
	}
	s.next[token] = sessions.NewToken()
	rec.Token = s.next[token]
	rec.ID, _ = sessions.TokenID(rec.Token)
	_, err = s.MemoryStore.Save(ctx, name, rec, 0)
	return rec, err
}

func (s *reissues) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.MemoryStore.Save(ctx, name, rec, base)
	if s.bare && errors.Is(err, sessions.ErrConflict) {
		err = sessions.ErrConflict
	}
	return token, err
}

// old makes the token of a browser one of the old kind, and returns it.
func (s *reissues) old(b *browser) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next[b.cookie()] = ""
	return b.cookie()
}

// holdsNothing is a store of somebody else's that seals records into the client's cookie.
type holdsNothing struct {
	codec  sessions.Codec
	reseal sessions.Codec // what Load opens with codec alone is to be sealed by this one
}

func newHoldsNothing(t *testing.T) *holdsNothing {
	t.Helper()
	codec, err := sessions.NewAEADCodec(secretA)
	require.NoError(t, err)
	return &holdsNothing{codec: codec}
}

func (s *holdsNothing) Load(_ context.Context, name, presented string) (*sessions.Record, error) {
	if s.reseal != nil {
		if rec, err := s.open(s.reseal, name, presented); err == nil {
			return rec, nil
		}
	}
	rec, err := s.open(s.codec, name, presented)
	if err == nil && s.reseal != nil {
		rec.Presented, err = s.seal(s.reseal, name, rec)
	}
	return rec, err
}

func (s *holdsNothing) open(codec sessions.Codec, name, presented string) (*sessions.Record, error) {
	if len(presented) > 4096 {
		return nil, sessions.ErrNotFound
	}
	plain, err := codec.Open(name, presented)
	if err != nil {
		return nil, sessions.ErrNotFound
	}
	token, text, _ := strings.Cut(string(plain), " ")
	rec := &sessions.Record{Token: token, Presented: presented}
	if err := rec.UnmarshalJSON([]byte(text)); err != nil || !time.Now().Before(rec.Expires) {
		return nil, sessions.ErrNotFound
	}
	rec.Presented = presented
	return rec, nil
}

func (s *holdsNothing) seal(codec sessions.Codec, name string, rec *sessions.Record) (string, error) {
	text, err := rec.MarshalJSON()
	if err != nil {
		return "", err
	}
	sealed, err := codec.Seal(name, []byte(rec.Token+" "+string(text)))
	if len(name)+len(sealed) > 4096 {
		return "", sessions.ErrTooLarge
	}
	return sealed, err
}

func (s *holdsNothing) Save(_ context.Context, name string, rec *sessions.Record, _ int64) (string, error) {
	if rec.Revoked {
		return "", nil
	}
	if !time.Now().Before(rec.Expires) {
		return "", sessions.ErrGone
	}
	if s.reseal != nil {
		return s.seal(s.reseal, name, rec)
	}
	return s.seal(s.codec, name, rec)
}

func (s *holdsNothing) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	return s.Save(ctx, name, rec, rec.Version)
}

func (s *holdsNothing) Delete(context.Context, string, *sessions.Record) error { return nil }

func TestP19_AnotherClientSideStoreConforms(t *testing.T) {
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return newHoldsNothing(t) })
}

// sentCookies returns the session cookies that a response sets.
func sentCookies(r reply) (values []string) {
	for _, c := range (&http.Response{Header: r.header}).Cookies() {
		if c.Name == "session" {
			values = append(values, c.Value)
		}
	}
	return values
}

func TestP19_AnotherTokenIsSent(t *testing.T) {
	test := func(name string, run func(t *testing.T, store *reissues, b *browser, old string)) {
		t.Run(name, func(t *testing.T) {
			eachWrapping(t, func(t *testing.T, w wrapping) {
				synctest.Test(t, func(t *testing.T) {
					store := &reissues{MemoryStore: sessiontest.NewMemoryStore(), next: map[string]string{}}
					b := newSite(t, w.wrap(store)).browser()
					b.login("alice")
					require.Empty(t, sentCookies(b.use(noop)), "nothing has changed")
					run(t, store, b, store.old(b))
					require.Empty(t, b.site.events.with(sessions.OutcomeError))
				})
			})
		})
	}
	// last checks that this response sends the new token, once, and that the client goes on with it.
	last := func(t *testing.T, store *reissues, b *browser, old string, r reply) {
		t.Helper()
		require.Equal(t, http.StatusOK, r.status, r.body)
		require.Equal(t, []string{store.next[old]}, sentCookies(r))
		require.Equal(t, store.next[old], b.cookie())
		require.Empty(t, sentCookies(b.use(noop)))
		require.Equal(t, "alice", b.user())
	}
	test("a read", func(t *testing.T, store *reissues, b *browser, old string) {
		last(t, store, b, old, b.use(noop))
	})
	test("a change", func(t *testing.T, store *reissues, b *browser, old string) {
		last(t, store, b, old, b.use(addCount))
		require.Equal(t, 1, b.count())
	})
	test("a touch", func(t *testing.T, store *reissues, b *browser, old string) {
		time.Sleep(12 * time.Hour)
		last(t, store, b, old, b.use(noop))
		time.Sleep(23 * time.Hour)
		require.Equal(t, "alice", b.user())
	})
	test("untouched", func(t *testing.T, store *reissues, b *browser, old string) {
		require.Empty(t, sentCookies(b.do(func(http.ResponseWriter, *http.Request) {})))
		last(t, store, b, old, b.use(noop))
	})
	test("changes before and after the first byte", func(t *testing.T, store *reissues, b *browser, old string) {
		r := b.do(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			addCount(s)
			_ = http.NewResponseController(w).Flush()
			addCount(s)
			_, _ = io.WriteString(w, "more")
		})
		last(t, store, b, old, r)
		require.Equal(t, 2, b.count())
	})
	test("late", func(t *testing.T, store *reissues, b *browser, old string) {
		r := b.do(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "first")
			_, err := sessions.Get(r.Context())
			require.NoError(t, err)
		})
		require.Empty(t, sentCookies(r))
		last(t, store, b, old, b.use(noop))
	})
	test("a late change", func(t *testing.T, store *reissues, b *browser, old string) {
		r := b.do(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "first")
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			addCount(s)
		})
		require.Empty(t, sentCookies(r))
		last(t, store, b, old, b.use(noop))
		require.Equal(t, 1, b.count(), "it is stored all the same")
	})
	test("a renewal", func(t *testing.T, store *reissues, b *browser, old string) {
		r := b.use(func(s sessions.Session) { s.Renew() })
		require.Len(t, sentCookies(r), 1)
		require.NotContains(t, []string{old, store.next[old]}, b.cookie())
		require.Equal(t, "alice", b.user())
		require.Empty(t, b.site.browser().hold(old).user())
		require.Empty(t, b.site.browser().hold(store.next[old]).user())
	})
	test("a logout", func(t *testing.T, store *reissues, b *browser, old string) {
		r := b.use(func(s sessions.Session) { s.Destroy() })
		require.Equal(t, []string{""}, sentCookies(r))
		require.Empty(t, b.site.browser().hold(old).user())
		require.Empty(t, b.site.browser().hold(store.next[old]).user())
	})
	test("a failed change", func(t *testing.T, store *reissues, b *browser, old string) {
		r := b.try(func(s sessions.Session) {
			addCount(s)
			require.NoError(t, store.Delete(t.Context(), "", &sessions.Record{ID: s.ID()}))
		})
		require.Equal(t, http.StatusConflict, r.status)
		require.Empty(t, sentCookies(r))
	})
	for _, bare := range []bool{false, true} {
		test(fmt.Sprintf("a conflict, bare=%v", bare), func(t *testing.T, store *reissues, b *browser, old string) {
			store.bare = bare
			tab := b.clone()
			r := b.use(func(s sessions.Session) {
				addCount(s)
				tab.use(addCount)
			})
			last(t, store, b, old, r)
			require.Equal(t, 2, b.count())
		})
	}
	test("the cookie keeps its attributes", func(t *testing.T, store *reissues, b *browser, _ string) {
		b.use(func(s sessions.Session) { s.SetLifetime(0, true) })
		b.https().use(addCount)
		old := store.old(b)
		c := b.use(noop).setCookie("session")
		require.Equal(t, store.next[old], c.Value)
		require.True(t, c.Secure)
		require.Positive(t, c.MaxAge)
	})
}

// A store of somebody else's that the client holds, which has none of the further methods.
func TestP19_PresentedIsNotSentAgain(t *testing.T) {
	eachWrapping(t, func(t *testing.T, w wrapping) {
		synctest.Test(t, func(t *testing.T) {
			b := newSite(t, w.wrap(newHoldsNothing(t))).browser()
			b.login("alice")
			require.Empty(t, sentCookies(b.use(noop)), "nothing has changed")
			first := b.cookie()
			r := b.use(addCount)
			require.Equal(t, []string{b.cookie()}, sentCookies(r))
			require.NotEqual(t, first, b.cookie())
			require.Equal(t, 1, b.count())
			second := b.cookie()
			r = b.do(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "first")
				s, err := sessions.Get(r.Context())
				require.NoError(t, err)
				addCount(s)
			})
			require.Empty(t, sentCookies(r))
			require.Equal(t, second, b.cookie())
			require.Len(t, b.site.events.with(sessions.OutcomeTooLate), 1)
			time.Sleep(12 * time.Hour)
			require.Len(t, sentCookies(b.use(noop)), 1, "a touch")
			require.Empty(t, sentCookies(b.use(noop)))
			time.Sleep(23 * time.Hour)
			require.Equal(t, "alice", b.user())
			b.use(func(s sessions.Session) { s.Destroy() })
			require.Empty(t, b.cookie())
		})
	})
}

// A store that seals records wants what an older secret has sealed to be replaced at the next read: also as the old store
// of a DualStore, as long as its form is the one that clients present.
func TestP19_PresentedIsReplaced(t *testing.T) {
	eachWrapping(t, func(t *testing.T, w wrapping) {
		store := newHoldsNothing(t)
		newer, err := sessions.NewAEADCodec(secretB)
		require.NoError(t, err)
		rotated := &holdsNothing{codec: store.codec, reseal: newer}
		alone := func() *site { return newSite(t, w.wrap(rotated)) }
		in := func(phase sessions.Phase) func() *site {
			return func() *site {
				s, _ := dualSite(t, w.wrap(rotated), w.wrap(sessiontest.NewMemoryStore()), phase)
				return s
			}
		}
		for name, site := range map[string]func() *site{
			"alone": alone, "OldOnly": in(sessions.OldOnly), "DualReadOld": in(sessions.DualReadOld), "DualReadNew": in(sessions.DualReadNew),
		} {
			b := newSite(t, w.wrap(store)).browser()
			b.login("alice")
			before := b.cookie()
			b = b.on(site())
			r := b.use(noop)
			require.Equal(t, []string{b.cookie()}, sentCookies(r), name)
			require.NotEqual(t, before, b.cookie(), name)
			_, err = rotated.open(newer, "session", b.cookie())
			require.NoError(t, err, name)
			require.Empty(t, sentCookies(b.use(noop)), name)
			require.Equal(t, "alice", b.user(), name)
		}
	})
}
