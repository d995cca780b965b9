package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"sort"
	"strconv"
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

// countingCodec counts what a CookieStore seals and opens: a Save and a Touch are one seal each, a Load is one open.
type countingCodec struct {
	sessions.Codec
	seals, opens atomic.Int64
}

func (c *countingCodec) Seal(name string, plain []byte) (string, error) {
	c.seals.Add(1)
	return c.Codec.Seal(name, plain)
}

func (c *countingCodec) Open(name, sealed string) ([]byte, error) {
	c.opens.Add(1)
	return c.Codec.Open(name, sealed)
}

// pair is an old and a new store with spies around both.
type pair struct {
	cookie bool
	codec  *countingCodec
	old    sessions.Store
	oldSpy *spyStore // nil for a cookie
	new    *spyStore
}

// eachPair runs a subtest for a cookie and for a store on the server as the old store. The new one is what make gives.
func eachPair(t *testing.T, test func(t *testing.T, p *pair)) {
	for _, kind := range []string{"cookie", "server"} {
		t.Run(kind, func(t *testing.T) { test(t, newPair(t, kind == "cookie", sessiontest.NewMemoryStore())) })
	}
}

func newPair(t *testing.T, cookie bool, new sessions.Store) *pair {
	t.Helper()
	p := &pair{cookie: cookie, new: &spyStore{Store: new}}
	if !cookie {
		p.oldSpy = &spyStore{Store: sessiontest.NewMemoryStore()}
		p.old = p.oldSpy
		return p
	}
	codec, err := sessions.NewSecureCookieCodec(secretA)
	require.NoError(t, err)
	p.codec = &countingCodec{Codec: codec}
	p.old, err = sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: p.codec})
	require.NoError(t, err)
	return p
}

func (p *pair) dual(t *testing.T, phase sessions.Phase, edits ...func(*sessions.DualStoreConfig)) *sessions.DualStore {
	t.Helper()
	cfg := sessions.DualStoreConfig{Old: p.old, New: p.new, Phase: phase}
	for _, edit := range edits {
		edit(&cfg)
	}
	d, err := sessions.NewDualStore(cfg)
	require.NoError(t, err)
	return d
}

func withCheck(cfg *sessions.DualStoreConfig)    { cfg.CheckRevoked = true }
func withFallback(cfg *sessions.DualStoreConfig) { cfg.FallbackOnError = true }

// asked says what both stores were asked since the last call, and forgets it.
func (p *pair) asked() string {
	var all []string
	add := func(what string, n int64) {
		if n > 0 {
			all = append(all, fmt.Sprintf("%s %d", what, n))
		}
	}
	side := func(name string, s *spyStore) {
		add(name+".load", s.loads.Load())
		add(name+".save", s.saves.Load())
		add(name+".touch", s.touches.Load())
		add(name+".delete", s.deletes.Load())
		s.reset()
	}
	if p.cookie {
		add("open", p.codec.opens.Swap(0))
		add("seal", p.codec.seals.Swap(0))
	} else {
		side("old", p.oldSpy)
	}
	side("new", p.new)
	return strings.Join(all, ", ")
}

func (p *pair) failOld(ops ...string) { p.oldSpy.fail(ops...) }
func (p *pair) failNew(ops ...string) { p.new.fail(ops...) }

var everything = []string{"load", "save", "touch", "delete"}

// on returns a browser of another site with the same cookie jar.
func (b *browser) on(s *site) *browser {
	c := s.browser()
	c.client.Jar = b.client.Jar
	return c
}

var dualUser, dualCount = sessions.NewKey[string]("user"), sessions.NewKey[int]("count")

// user says whom a request with this browser is for; empty is nobody.
func (b *browser) user() (user string) {
	b.site.t.Helper()
	b.use(func(s sessions.Session) { user, _ = dualUser.Get(s) })
	return user
}

func (b *browser) login(user string) {
	b.site.t.Helper()
	b.use(func(s sessions.Session) {
		s.Renew()
		_ = dualUser.Set(s, user)
	})
}

func addCount(s sessions.Session) { _, _ = dualCount.Update(s, func(n int) int { return n + 1 }) }

func (b *browser) count() (n int) {
	b.site.t.Helper()
	b.use(func(s sessions.Session) { n, _ = dualCount.Get(s) })
	return n
}

// The table of what is written and read.

func TestP15_PhaseTable_WhatIsAsked(t *testing.T) {
	type row struct{ create, read, write, renew, destroy string }
	cookie := map[string]row{
		"OldOnly":              {"seal 1", "open 1", "open 1, seal 1", "open 1, seal 1", "open 1"},
		"DualReadOld":          {"seal 1, new.save 1", "open 1", "open 1, seal 1, new.save 1", "open 1, seal 1, new.save 2", "open 1, new.save 1"},
		"DualReadOld, checked": {"seal 1, new.save 1", "open 1, new.load 1", "open 1, seal 1, new.load 1, new.save 1", "open 1, seal 1, new.load 1, new.save 2", "open 1, new.load 1, new.save 1"},
		"DualReadNew":          {"seal 1, new.save 1", "open 1, new.load 1", "open 1, seal 1, new.load 1, new.save 1", "open 1, seal 1, new.load 1, new.save 2", "open 1, new.load 1, new.save 1"},
		"NewOnly":              {"new.save 1", "new.load 1", "new.load 1, new.save 1", "new.load 1, new.save 2", "new.load 1, new.save 1"},
	}
	// A store on the server has what other instances wrote to it meanwhile, so that a dual phase looks at both copies:
	// the client does not bring the newer one along. What is ended there leaves a tombstone in both.
	both := row{
		create: "old.save 1, new.save 1", read: "old.load 1, new.load 1", write: "old.load 1, old.save 1, new.load 1, new.save 1",
		renew: "old.load 1, old.save 2, new.load 1, new.save 2", destroy: "old.load 1, old.save 1, new.load 1, new.save 1",
	}
	server := map[string]row{
		"OldOnly":              {"old.save 1", "old.load 1", "old.load 1, old.save 1", "old.load 1, old.save 2", "old.load 1, old.save 1"},
		"DualReadOld":          both,
		"DualReadOld, checked": both,
		"DualReadNew":          both,
		"NewOnly":              cookie["NewOnly"],
	}
	eachPair(t, func(t *testing.T, p *pair) {
		table := server
		if p.cookie {
			table = cookie
		}
		for name, want := range table {
			t.Run(name, func(t *testing.T) {
				var edits []func(*sessions.DualStoreConfig)
				phase, checked := strings.CutSuffix(name, ", checked")
				if checked {
					edits = append(edits, withCheck)
				}
				d := p.dual(t, phaseNamed(t, phase), edits...)
				b := newSite(t, d).browser()
				p.asked()
				b.set("a", 1)
				require.Equal(t, want.create, p.asked(), "create")
				require.Equal(t, "1", b.get("a"))
				require.Equal(t, want.read, p.asked(), "read")
				b.set("a", 2)
				require.Equal(t, want.write, p.asked(), "write")
				b.use(func(s sessions.Session) { s.Renew() })
				require.Equal(t, want.renew, p.asked(), "renew")
				b.use(func(s sessions.Session) { s.Destroy() })
				require.Equal(t, want.destroy, p.asked(), "destroy")
				require.Empty(t, b.cookie())
				b.use(noop)
				require.Empty(t, p.asked(), "a visitor without a cookie")
			})
		}
	})
}

func phaseNamed(t *testing.T, name string) sessions.Phase {
	t.Helper()
	for _, p := range dualPhases {
		if p.String() == name {
			return p
		}
	}
	t.Fatalf("no phase %q", name)
	return 0
}

// What one store does not have.

func TestP15_PhaseTable_OnlyTheOldStoreHasIt(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair) {
		for _, c := range []struct {
			phase sessions.Phase
			moves bool // the first read writes it to the new store
		}{{sessions.OldOnly, false}, {sessions.DualReadOld, false}, {sessions.DualReadNew, true}, {sessions.NewOnly, true}} {
			t.Run(c.phase.String(), func(t *testing.T) {
				d := p.dual(t, sessions.OldOnly)
				b := newSite(t, d).browser()
				b.login("alice")
				sealed := b.cookie()
				d.SetPhase(c.phase)
				p.asked()
				require.Equal(t, "alice", b.user())
				if first := p.asked(); c.moves {
					require.Contains(t, first, "new.save 1", "it moves with the first read")
				} else {
					require.NotContains(t, first, "save", "a read writes nothing")
				}
				require.Equal(t, "alice", b.user())
				require.NotContains(t, p.asked(), "save", "once is enough")
				if p.cookie {
					require.Equal(t, c.phase == sessions.NewOnly, isTokenOnly(b.cookie()), "the form of the cookie")
				}

				// In the phases that promise it, what moved can be revoked, and then its old copy is worth nothing.
				old := b.clone()
				b.use(func(s sessions.Session) { s.Destroy() })
				if c.moves || !p.cookie {
					require.Empty(t, old.user(), "logged out")
					require.Empty(t, old.hold(sealed).user(), "logged out: the copy from before the move")
				}
			})
		}
	})
}

func TestP15_PhaseTable_AdoptUntil(t *testing.T) {
	for _, kind := range []string{"cookie", "server"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, kind == "cookie", sessiontest.NewMemoryStore())
				d := p.dual(t, sessions.OldOnly, func(cfg *sessions.DualStoreConfig) { cfg.AdoptUntil = time.Now().Add(time.Hour) })
				s := newSite(t, d)
				early, late, both := s.browser(), s.browser(), s.browser()
				early.login("early")
				late.login("late")
				d.SetPhase(sessions.DualReadOld)
				both.login("both")
				d.SetPhase(sessions.NewOnly)
				time.Sleep(time.Hour - time.Second)
				require.Equal(t, "early", early.user())
				time.Sleep(time.Second)
				require.Equal(t, "early", early.user(), "it has moved")
				require.Equal(t, "both", both.user(), "the new store has it")
				require.Empty(t, late.user(), "only the old store has it")
				d.SetPhase(sessions.DualReadNew)
				require.Equal(t, "late", late.user(), "AdoptUntil is for NewOnly")
			})
		})
	}
}

func TestP15_PhaseTable_OnlyTheNewStoreHasIt(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair) {
		for _, phase := range dualPhases {
			t.Run(phase.String(), func(t *testing.T) {
				d := p.dual(t, sessions.NewOnly)
				b := newSite(t, d).browser()
				b.login("alice")
				d.SetPhase(phase)
				p.asked()
				if phase == sessions.OldOnly {
					require.Empty(t, b.user(), "the one step that is not lossless")
					return
				}
				require.Equal(t, "alice", b.user())
				if p.cookie {
					dual := phase != sessions.NewOnly
					require.Equal(t, !dual, isTokenOnly(b.cookie()), "a token alone is sealed again at once in a dual phase")
					require.NotContains(t, p.asked(), "new.save")
					require.Equal(t, "alice", b.user())
					require.NotContains(t, p.asked(), "seal", "once")
				}
				addOne := b.use(addCount)
				require.Equal(t, http.StatusOK, addOne.status)
				require.Equal(t, 1, b.count())
				if phase != sessions.NewOnly {
					p.failNew(everything...)
					defer p.failNew()
					d.SetPhase(sessions.OldOnly)
					require.Equal(t, 1, b.count(), "the write has brought it to the old store")
				}
			})
		}
	})
}

// A copy that was left behind is not served if the newer one is available, and is repaired by the next write.
func TestP15_NewerCopyCounts(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair) {
		t.Run("the new store is behind", func(t *testing.T) {
			d := p.dual(t, sessions.DualReadOld)
			b := newSite(t, d).browser()
			b.use(addCount)
			p.failNew("save")
			b.use(addCount)
			p.failNew()
			for _, phase := range dualPhases[:3] {
				d.SetPhase(phase)
				require.Equal(t, 2, b.count(), phase)
			}
			if p.cookie { // it brings the newer copy along
				d.SetPhase(sessions.NewOnly)
				require.Equal(t, 2, b.count())
			}
			d.SetPhase(sessions.DualReadNew)
			b.use(addCount)
			p.loseOld()
			d.SetPhase(sessions.NewOnly)
			require.Equal(t, 3, b.count())
		})
		t.Run("the old store is behind", func(t *testing.T) {
			if p.cookie {
				t.Skip("each reader seals a cookie again")
			}
			d := p.dual(t, sessions.DualReadOld)
			b := newSite(t, d).browser()
			b.use(addCount)
			d.SetPhase(sessions.NewOnly)
			b.use(addCount)
			d.SetPhase(sessions.DualReadNew)
			require.Equal(t, 2, b.count())
			d.SetPhase(sessions.DualReadOld)
			require.Equal(t, 2, b.count(), "back from NewOnly to a dual phase is lossless")
			b.use(addCount)
			d.SetPhase(sessions.OldOnly)
			require.Equal(t, 3, b.count(), "the write has repaired the old copy")
		})
		t.Run("logged out where the old store is not asked", func(t *testing.T) {
			if p.cookie {
				t.Skip("the documented gap of DualReadOld")
			}
			d := p.dual(t, sessions.DualReadOld)
			b := newSite(t, d).browser()
			b.login("alice")
			old := b.clone()
			d.SetPhase(sessions.NewOnly)
			b.use(func(s sessions.Session) { s.Destroy() })
			d.SetPhase(sessions.DualReadNew)
			d.SetPhase(sessions.DualReadOld)
			require.Empty(t, old.user())
		})
	})
}

func (p *pair) loseOld() {
	if !p.cookie {
		p.oldSpy.Store = sessiontest.NewMemoryStore()
	}
}

// What fails.

func TestP15_PhaseTable_Failures(t *testing.T) {
	const ok, fails = true, false
	type row struct {
		phase                             sessions.Phase
		check, fallback                   bool
		down                              string // old, new or both
		read, write, login, renew, logout bool
	}
	for _, c := range []row{
		{sessions.OldOnly, false, false, "new", ok, ok, ok, ok, ok},
		{sessions.DualReadOld, false, false, "new", ok, ok, ok, ok, ok},
		{sessions.DualReadOld, true, false, "new", ok, ok, ok, fails, fails},
		{sessions.DualReadNew, false, false, "new", fails, fails, fails, fails, fails},
		{sessions.DualReadNew, false, true, "new", ok, ok, ok, fails, fails},
		{sessions.NewOnly, false, false, "new", fails, fails, fails, fails, fails},
		{sessions.NewOnly, false, true, "new", fails, fails, fails, fails, fails},

		{sessions.OldOnly, false, false, "old", fails, fails, fails, fails, fails},
		{sessions.DualReadOld, false, false, "old", fails, fails, fails, fails, fails},
		{sessions.DualReadNew, false, false, "old", ok, ok, ok, ok, ok},
		{sessions.NewOnly, false, false, "old", ok, ok, ok, ok, ok},

		{sessions.DualReadOld, false, false, "both", fails, fails, fails, fails, fails},
		{sessions.DualReadNew, false, true, "both", fails, fails, fails, fails, fails},
	} {
		for _, kind := range []string{"cookie", "server"} {
			if kind == "cookie" && c.down != "new" {
				continue // a cookie does not fail
			}
			name := fmt.Sprintf("%s/%v,CheckRevoked=%v,FallbackOnError=%v/%s is down", kind, c.phase, c.check, c.fallback, c.down)
			t.Run(name, func(t *testing.T) {
				for op, want := range map[string]bool{"read": c.read, "write": c.write, "login": c.login, "renew": c.renew, "logout": c.logout} {
					// Down for the whole request, and for the commit alone.
					for _, ops := range [][]string{everything, everything[1:]} {
						if len(ops) == 3 && op == "read" {
							continue
						}
						p := newPair(t, kind == "cookie", sessiontest.NewMemoryStore())
						d := p.dual(t, c.phase, func(cfg *sessions.DualStoreConfig) { cfg.CheckRevoked, cfg.FallbackOnError = c.check, c.fallback })
						b := newSite(t, d).browser()
						b.login("alice")
						b.use(addCount)
						before := b.clone()
						if c.down != "new" {
							p.failOld(ops...)
						}
						if c.down != "old" {
							p.failNew(ops...)
						}
						if op == "login" {
							b.hold("")
						}
						r := b.try(func(s sessions.Session) {
							switch op {
							case "write":
								addCount(s)
							case "login":
								s.Renew()
								_ = dualUser.Set(s, "bob")
							case "renew":
								s.Renew()
							case "logout":
								s.Destroy()
							}
						})
						what := fmt.Sprintf("%s, failing %v", op, ops)
						status := http.StatusServiceUnavailable
						if want == ok {
							status = http.StatusOK
						}
						require.NoError(t, r.err)
						require.Equal(t, status, r.status, "%s: %s", what, r.body)
						if want == fails {
							require.Nil(t, r.setCookie("session"), "%s: a failed request changes nothing at the client", what)
						}

						// Both are back: whatever was acknowledged is there, and nobody was logged out.
						if !p.cookie {
							p.failOld()
						}
						p.failNew()
						switch {
						case op == "login" && want == ok:
							require.Equal(t, "bob", b.user(), what)
						case op == "login":
							require.Empty(t, b.user(), what)
						case op == "logout" && want == ok:
							require.Empty(t, b.cookie(), what)
							if c.down == "old" || !p.cookie || c.phase >= sessions.DualReadNew {
								require.Empty(t, before.user(), "%s: the old cookie", what)
							}
						case op == "logout" && c.down != "new":
							// The tombstone may have been written before the old store failed: who asked for the end gets it.
						default:
							require.Equal(t, "alice", b.user(), what)
							least := 1
							if op == "write" && want == ok {
								least = 2
							}
							require.GreaterOrEqual(t, b.count(), least, what)
						}
					}
				}
			})
		}
	}
}

// Where neither store has taken a change, it was not written, whatever errors may be ignored.
func TestP15_FallbackNeedsACopy(t *testing.T) {
	big := strings.Repeat("x", 5000)
	p := newPair(t, true, sessiontest.NewMemoryStore())
	d := p.dual(t, sessions.DualReadNew, withFallback)
	b := newSite(t, d).browser()
	b.login("alice")
	p.failNew(everything...)
	r := b.try(func(s sessions.Session) { require.NoError(t, s.Set("big", big)) })
	require.Equal(t, http.StatusServiceUnavailable, r.status, "too large for a cookie, and the new store is down")
	require.Equal(t, "alice", b.user(), "the session is as it was")
	p.failNew()
	require.Equal(t, "alice", b.user())
	require.Empty(t, b.get("big"))
}

func TestP15_TokenAloneNeedsTheNewStore(t *testing.T) {
	for _, c := range []struct {
		phase sessions.Phase
		edit  func(*sessions.DualStoreConfig)
	}{{sessions.DualReadOld, withCheck}, {sessions.DualReadOld, withFallback}, {sessions.DualReadNew, withFallback}, {sessions.NewOnly, withFallback}} {
		p := newPair(t, true, sessiontest.NewMemoryStore())
		d := p.dual(t, sessions.NewOnly, c.edit)
		b := newSite(t, d).browser()
		b.login("alice")
		d.SetPhase(c.phase)
		p.failNew(everything...)
		require.Equal(t, http.StatusServiceUnavailable, b.try(noop).status, "%v: an outage is not a logout", c.phase)
		p.failNew()
		require.Equal(t, "alice", b.user())
	}
}

// No answer about a tombstone, no adoption.
func TestP15_AdoptionNeedsAnAnswer(t *testing.T) {
	for _, phase := range []sessions.Phase{sessions.DualReadNew, sessions.NewOnly} {
		eachPair(t, func(t *testing.T, p *pair) {
			d := p.dual(t, sessions.OldOnly)
			b := newSite(t, d).browser()
			b.login("alice")
			d.SetPhase(phase)
			p.failNew("load")
			require.Equal(t, http.StatusServiceUnavailable, b.try(noop).status)
			p.failNew()
			p.asked()
			require.Equal(t, "alice", b.user())
			require.Contains(t, p.asked(), "new.save 1", "only now")
		})
	}
}

// Options

func TestP15_ReadOldFraction(t *testing.T) {
	p := newPair(t, true, sessiontest.NewMemoryStore())
	ctx := t.Context()
	var cookies []string
	for range 2000 {
		sealed, err := p.dual(t, sessions.DualReadNew).Save(ctx, "session", hourRecord(), 0)
		require.NoError(t, err)
		cookies = append(cookies, sealed)
	}
	before := make([]bool, len(cookies)) // read from the old store with the fraction before
	for _, c := range []struct{ fraction, min, max float64 }{
		{fraction: 0, min: 0, max: 0}, // the zero value: none, and not all
		{fraction: 0.01, min: 0.001, max: 0.03},
		{fraction: 0.5, min: 0.44, max: 0.56},
		{fraction: 1, min: 1, max: 1},
	} {
		t.Run(fmt.Sprint(c.fraction), func(t *testing.T) {
			edit := func(cfg *sessions.DualStoreConfig) { cfg.ReadOldFraction = c.fraction }
			one, two := p.dual(t, sessions.DualReadNew, edit), p.dual(t, sessions.DualReadNew, edit)
			fromOld := 0
			for i, sealed := range cookies {
				p.asked()
				var seen []bool
				for _, d := range []*sessions.DualStore{one, two, one} {
					_, err := d.Load(ctx, "session", sealed)
					require.NoError(t, err)
					seen = append(seen, !strings.Contains(p.asked(), "new.load"))
				}
				require.Equal(t, []bool{seen[0], seen[0], seen[0]}, seen, "a session stays on one side, on every instance")
				require.False(t, before[i] && !seen[0], "a smaller fraction is a part of a larger one")
				if before[i] = seen[0]; seen[0] {
					fromOld++
				}
			}
			share := float64(fromOld) / float64(len(cookies))
			require.GreaterOrEqual(t, share, c.min)
			require.LessOrEqual(t, share, c.max)
		})
	}

	t.Run("in the other phases it means nothing", func(t *testing.T) {
		for phase, want := range map[sessions.Phase]bool{sessions.OldOnly: false, sessions.DualReadOld: false, sessions.NewOnly: true} {
			d := p.dual(t, phase, func(cfg *sessions.DualStoreConfig) { cfg.ReadOldFraction = 1 })
			p.asked()
			_, err := d.Load(ctx, "session", cookies[0])
			require.NoError(t, err)
			require.Equal(t, want, strings.Contains(p.asked(), "new.load"), phase)
		}
	})
}

func TestP15_CompareFraction(t *testing.T) {
	for _, fraction := range []float64{0, 0.25, 1} {
		const reads = 2000
		p := newPair(t, true, sessiontest.NewMemoryStore())
		d := p.dual(t, sessions.DualReadOld, func(cfg *sessions.DualStoreConfig) { cfg.CompareFraction = fraction })
		sealed, err := d.Save(t.Context(), "session", hourRecord(), 0)
		require.NoError(t, err)
		for range reads {
			_, err := d.Load(t.Context(), "session", sealed)
			require.NoError(t, err)
		}
		share := float64(p.new.loads.Load()) / reads
		require.InDelta(t, fraction, share, 5*math.Sqrt(fraction*(1-fraction)/reads)+1e-9)
		p.failNew("load")
		for range 20 {
			_, err := d.Load(t.Context(), "session", sealed)
			require.NoError(t, err, "a comparison that cannot be made fails nothing")
		}
	}
}

// Mixed fleets

type dualKind struct {
	name string
	make func(t *testing.T) (old, new sessions.Store)
}

// realKinds are the moves that there are, on a real server.
func realKinds(t *testing.T) []dualKind {
	server := redistest.Start(t)
	rdb := server.Client(t)
	checkTTLs(t, rdb)
	return []dualKind{
		{"cookie to redis", func(t *testing.T) (sessions.Store, sessions.Store) {
			return cookieStoreWith(t, secretA), redisWithPrefix(t, rdb, "new:")
		}},
		{"redis to redis", func(t *testing.T) (sessions.Store, sessions.Store) {
			return redisWithPrefix(t, rdb, "old:"), redisWithPrefix(t, rdb, "new:")
		}},
	}
}

func dualSite(t *testing.T, old, new sessions.Store, phase sessions.Phase, edits ...func(*sessions.DualStoreConfig)) (*site, *sessions.DualStore) {
	t.Helper()
	cfg := sessions.DualStoreConfig{Old: old, New: new, Phase: phase}
	for _, edit := range edits {
		edit(&cfg)
	}
	d, err := sessions.NewDualStore(cfg)
	require.NoError(t, err)
	return newSite(t, d), d
}

// eachNeighbours runs a subtest for every ordered pair of adjacent phases, and for each phase beside itself.
func eachNeighbours(t *testing.T, test func(t *testing.T, a, b sessions.Phase)) {
	for _, a := range dualPhases {
		for _, b := range dualPhases {
			if a-b <= 1 && b-a <= 1 {
				t.Run(fmt.Sprintf("%v beside %v", a, b), func(t *testing.T) { test(t, a, b) })
			}
		}
	}
}

func TestP15_MixedFleet(t *testing.T) {
	for _, kind := range realKinds(t) {
		for _, check := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,CheckRevoked=%v", kind.name, check), func(t *testing.T) {
				eachNeighbours(t, func(t *testing.T, pa, pb sessions.Phase) {
					old, new := kind.make(t)
					edit := func(cfg *sessions.DualStoreConfig) { cfg.CheckRevoked = check }
					siteA, dualA := dualSite(t, old, new, pa, edit)
					siteB, dualB := dualSite(t, old, new, pb, edit)
					_, client := old.(*sessions.CookieStore)
					// revokes reports whether what was ended on one instance is refused by another: a sealed cookie that
					// was copied is served by OldOnly, and by DualReadOld that does not check, and OldOnly tells nobody.
					revokes := func(by, at sessions.Phase) bool {
						return !client || by != sessions.OldOnly && (at >= sessions.DualReadNew || at == sessions.DualReadOld && check)
					}
					for range 3 { // forwards, and back
						a := siteA.browser()
						b := a.on(siteB)
						a.login("alice")
						require.Equal(t, "alice", b.user(), "login on A, read on B")
						b.use(addCount)
						require.Equal(t, 1, a.count(), "change on B, read on A")
						a.use(addCount)
						require.Equal(t, 2, b.count(), "change on A, read on B")

						beforeRenew := a.cookie()
						b.use(func(s sessions.Session) { s.Renew() })
						require.NotEqual(t, beforeRenew, a.cookie())
						require.Equal(t, "alice", a.user(), "renew on B, read on A")
						require.Equal(t, 2, a.count())
						require.Equal(t, "alice", b.user())
						if revokes(dualB.Phase(), dualA.Phase()) {
							require.Empty(t, siteA.browser().hold(beforeRenew).user(), "renewed on B, replayed on A")
						}
						if revokes(dualB.Phase(), dualB.Phase()) {
							require.Empty(t, siteB.browser().hold(beforeRenew).user(), "renewed on B, replayed on B")
						}

						a.use(addCount)
						beforeLogout := a.cookie()
						a.use(func(s sessions.Session) { s.Destroy() })
						require.Empty(t, a.cookie())
						require.Empty(t, b.user())
						if revokes(dualA.Phase(), dualB.Phase()) {
							require.Empty(t, siteB.browser().hold(beforeLogout).user(), "logged out on A, replayed on B")
						}
						if revokes(dualA.Phase(), dualA.Phase()) {
							require.Empty(t, siteA.browser().hold(beforeLogout).user(), "logged out on A, replayed on A")
						}
						dualA.SetPhase(dualB.Phase()) // the other takes the step too, and then the first one goes back
						dualA, dualB = dualB, dualA
						siteA, siteB = siteB, siteA
					}
				})
			})
		}
	}
}

func TestP15_MixedFleet_ParallelChanges(t *testing.T) {
	t.Parallel()
	const requests = 24
	for _, kind := range realKinds(t) {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			eachNeighbours(t, func(t *testing.T, pa, pb sessions.Phase) {
				old, new := kind.make(t)
				_, client := old.(*sessions.CookieStore)
				siteA, _ := dualSite(t, old, new, pa)
				siteB, _ := dualSite(t, old, new, pb)
				b := siteA.browser()
				b.login("alice")
				b.use(addCount)
				var wg sync.WaitGroup
				replies := make([]reply, requests)
				tabs := make([]*browser, requests)
				for i := range requests {
					tabs[i] = b.clone().on([]*site{siteA, siteB}[i%2])
					wg.Go(func() {
						replies[i] = tabs[i].try(func(s sessions.Session) {
							addCount(s)
							_ = s.Set(fmt.Sprint("tab ", i), true)
						})
					})
				}
				wg.Wait()
				for i, r := range replies {
					require.Equal(t, http.StatusOK, r.status, "%d: %s", i, r.body)
				}
				if client && (pa == sessions.OldOnly || pb == sessions.OldOnly) {
					for _, tab := range tabs {
						require.Equal(t, "alice", tab.user(), "a cookie alone: the last one counts, but nobody is logged out")
					}
					return
				}
				for _, s := range []*site{siteA, siteB} {
					most := 0
					for _, tab := range tabs {
						most = max(most, tab.on(s).count())
					}
					require.Equal(t, requests+1, most, "no change is lost")
				}
			})
		})
	}
}

// The phase changes while requests run: none is lost, none is refused.
func TestP15_SetPhaseWhileRequestsRun(t *testing.T) {
	const browsers, requests = 8, 60
	for _, kind := range realKinds(t) {
		t.Run(kind.name, func(t *testing.T) {
			old, new := kind.make(t)
			_, client := old.(*sessions.CookieStore)
			s, d := dualSite(t, old, new, sessions.OldOnly)
			stop := make(chan struct{})
			var turning, running sync.WaitGroup
			turning.Go(func() {
				for i := 0; ; i++ {
					// Not back to OldOnly, which does not have what was begun in NewOnly.
					d.SetPhase([]sessions.Phase{1, 2, 3, 2}[i%4])
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			})
			for n := range browsers {
				running.Go(func() {
					b := s.browser()
					b.login(fmt.Sprint(n))
					for i := range requests {
						r := b.try(func(s sessions.Session) {
							if i%10 == 9 {
								s.Renew()
							}
							addCount(s)
						})
						if r.status != http.StatusOK {
							t.Errorf("%d: %s", r.status, r.body)
							return
						}
						if got := b.count(); got != i+1 {
							t.Errorf("browser %d: %d, want %d", n, got, i+1)
							return
						}
					}
				})
			}
			running.Wait()
			if !client {
				b := s.browser()
				b.login("shared")
				var tabs sync.WaitGroup
				for range browsers {
					tab := b.clone()
					tabs.Go(func() {
						for range requests / 4 {
							if r := tab.try(addCount); r.status != http.StatusOK {
								t.Errorf("%d: %s", r.status, r.body)
							}
						}
					})
				}
				tabs.Wait()
				require.Equal(t, browsers*(requests/4), b.count())
			}
			close(stop)
			turning.Wait()
		})
	}
}

// A request that began in one phase ends in the next one, or in the one before.
func TestP15_SetPhaseDuringARequest(t *testing.T) {
	type step struct{ from, to sessions.Phase }
	var steps []step
	for _, p := range dualPhases[:3] {
		steps = append(steps, step{p, p + 1}, step{p + 1, p})
	}
	eachPair(t, func(t *testing.T, p *pair) {
		for _, st := range steps {
			t.Run(fmt.Sprintf("%v to %v", st.from, st.to), func(t *testing.T) {
				d := p.dual(t, st.from)
				s := newSite(t, d)

				b := s.browser()
				b.use(func(s sessions.Session) {
					addCount(s)
					d.SetPhase(st.to)
				})
				require.Equal(t, 1, b.count(), "a first write")

				d.SetPhase(st.from)
				b.hold("")
				b.use(addCount)
				b.use(func(s sessions.Session) {
					addCount(s)
					d.SetPhase(st.to)
				})
				require.Equal(t, 2, b.count(), "a change")
				d.SetPhase(st.from)
				b.use(func(s sessions.Session) {
					s.Renew()
					d.SetPhase(st.to)
				})
				require.Equal(t, 2, b.count(), "a renewal")

				d.SetPhase(st.from)
				b.hold("")
				b.do(func(w http.ResponseWriter, r *http.Request) {
					s, _ := sessions.Get(r.Context())
					addCount(s)
					_, _ = io.WriteString(w, "the first byte: the commit has run")
					d.SetPhase(st.to)
					addCount(s)
				})
				if st.to == sessions.NewOnly || !p.cookie {
					require.Equal(t, 2, b.count(), "a change after the first byte")
				} else {
					require.GreaterOrEqual(t, b.count(), 1)
				}

				old := b.clone()
				d.SetPhase(st.from)
				b.use(func(s sessions.Session) {
					s.Destroy()
					d.SetPhase(st.to)
				})
				require.Empty(t, b.cookie())
				if !p.cookie || st.to >= sessions.DualReadNew {
					require.Zero(t, old.count(), "a logout")
				}
			})
		}
	})
}

// A session that only the new store has, met in DualReadOld, ends in OldOnly: the phase went back meanwhile.
func TestP15_SetPhaseBackDuringARequest(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair) {
		d := p.dual(t, sessions.NewOnly)
		b := newSite(t, d).browser()
		b.login("alice")
		d.SetPhase(sessions.DualReadOld)
		b.use(func(s sessions.Session) {
			addCount(s)
			d.SetPhase(sessions.OldOnly)
		})
		require.Equal(t, 1, b.count())
		require.Equal(t, "alice", b.user())
	})
}

// Each side keeps its own options.

func TestP15_CookieLifetimeStaysWithTheCookie(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client(t)
	checkTTLs(t, rdb)
	ctx := t.Context()
	const idle, ttl, absolute = 30 * time.Minute, time.Hour, 14 * 24 * time.Hour
	for _, phase := range dualPhases[1:] {
		for _, kind := range []string{"cookie", "redis"} {
			t.Run(kind+"/"+phase.String(), func(t *testing.T) {
				require.NoError(t, rdb.FlushDB(ctx).Err())
				old := sessions.Store(cookieStoreWith(t, secretA))
				if kind == "redis" {
					old = redisWithPrefix(t, rdb, "old:")
				}
				d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: redisWithPrefix(t, rdb, "new:"), Phase: phase})
				require.NoError(t, err)
				b := newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.AbsoluteTimeout = idle, absolute }).browser()
				ttls := func(what string, least, most time.Duration) {
					t.Helper()
					keys := rdb.Keys(ctx, "*").Val()
					require.NotEmpty(t, keys)
					for _, k := range keys {
						left := rdb.PTTL(ctx, k).Val()
						require.LessOrEqual(t, left, most, what)
						require.Greater(t, left, least-20*time.Second, what)
					}
				}
				r := b.set("a", 1)
				require.Zero(t, r.setCookie("session").MaxAge, "a browser-session cookie has no Max-Age")
				ttls("a browser-session cookie", idle, idle)

				r = b.use(func(s sessions.Session) { s.SetLifetime(0, true) })
				require.Positive(t, r.setCookie("session").MaxAge)
				ttls("a persistent cookie", idle, idle)

				b.use(func(s sessions.Session) { s.SetLifetime(10*time.Minute, false) })
				ttls("shortened: the record outlives the earlier copies", absolute, absolute)

				b.use(func(s sessions.Session) { s.Renew() }) // whose copies there are none of
				ttls("an idle timeout of its own", 10*time.Minute, absolute)
				require.LessOrEqual(t, rdb.PTTL(ctx, "new:"+b.id()).Val(), 10*time.Minute)

				b.use(func(s sessions.Session) { s.SetLifetime(10*24*time.Hour, true) })
				require.LessOrEqual(t, rdb.PTTL(ctx, "new:"+b.id()).Val(), ttl, "longer than the TTL of Redis")

				// The tombstone lives as long as any cookie of the session could, whatever the TTL is.
				b.use(func(s sessions.Session) { s.Renew() })
				b.use(func(s sessions.Session) { s.Destroy() })
				for _, k := range rdb.Keys(ctx, "new:*").Val() {
					left := rdb.PTTL(ctx, k).Val()
					require.Greater(t, left, absolute-time.Minute, "a tombstone")
					require.LessOrEqual(t, left, absolute)
				}
				require.Len(t, rdb.Keys(ctx, "new:*").Val(), 3, "of the two renewed sessions, and of the destroyed one")
			})
		}
	}
}

// An oversized session.

func TestP15_TooLargeForACookie(t *testing.T) {
	big := strings.Repeat("x", 5000)
	grow := func(s sessions.Session) { _ = s.Set("big", big) }
	for _, phase := range []sessions.Phase{sessions.OldOnly, sessions.DualReadOld} {
		t.Run(phase.String(), func(t *testing.T) {
			p := newPair(t, true, sessiontest.NewMemoryStore())
			s := newSite(t, p.dual(t, phase))
			b := s.browser()
			require.Equal(t, http.StatusServiceUnavailable, b.try(grow).status)
			require.NotContains(t, p.asked(), "new.", "a new one: nothing was written to the new store")
			require.NotEmpty(t, s.events.with(sessions.OutcomeTooLarge))
			b.login("alice")
			p.asked()
			require.Equal(t, http.StatusServiceUnavailable, b.try(grow).status)
			require.NotContains(t, p.asked(), "new.save", "a change: nothing was written to the new store")
			require.Equal(t, "alice", b.user(), "the session is as it was")
			require.Empty(t, b.get("big"))
		})
	}
	t.Run("DualReadNew", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, true, sessiontest.NewMemoryStore())
			d := p.dual(t, sessions.DualReadNew)
			s := newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour })
			b := s.browser()
			b.use(func(s sessions.Session) {
				s.SetLifetime(time.Hour, true)
				_ = dualUser.Set(s, "alice")
			})
			require.False(t, isTokenOnly(b.cookie()))
			b.use(grow)
			require.True(t, isTokenOnly(b.cookie()), "the token alone")
			require.Equal(t, fmt.Sprintf("%q", big), b.get("big"))
			require.Equal(t, "alice", b.user())
			s.events.reset()
			for range 12 { // it slides like any other, in the dual phases
				time.Sleep(30 * time.Minute)
				require.Nil(t, b.use(noop).setCookie("session"), "the token alone reaches the deadline")
			}
			require.Empty(t, s.events.with(sessions.OutcomeTooLarge))
			require.Empty(t, s.events.with(sessions.OutcomeError))
			d.SetPhase(sessions.DualReadOld)
			require.Equal(t, "alice", b.user(), "back in DualReadOld it is asked of the new store")
			for range 12 {
				time.Sleep(30 * time.Minute)
				require.Equal(t, "alice", b.user())
			}
			d.SetPhase(sessions.DualReadNew)
			b.use(func(s sessions.Session) { s.Delete("big") })
			require.False(t, isTokenOnly(b.cookie()), "small again: sealed again")
		})
	})
}

// An expired copy is dead as a copy, and still names its record.

func TestP15_ExpiredCookieStillNamesItsRecord(t *testing.T) {
	for _, phase := range dualPhases[1:] {
		t.Run(phase.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, true, sessiontest.NewMemoryStore())
				d := p.dual(t, sessions.DualReadNew)
				b := newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour }).browser()
				b.login("alice")
				first := b.cookie()
				for range 4 {
					time.Sleep(30 * time.Minute)
					b.use(addCount) // a browser that was given the newer cookies
				}
				d.SetPhase(phase)
				late := b.clone().hold(first)
				require.Equal(t, "alice", late.user(), "the copy has expired an hour ago, the session has not")
				require.Equal(t, 4, late.count())
				require.NotEqual(t, first, late.cookie(), "the client has a living cookie again")

				time.Sleep(61 * time.Minute)
				require.Empty(t, b.clone().hold(first).user(), "now the session has ended")
				require.Empty(t, late.user())
			})
		})
	}
	t.Run("its tombstone is seen", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, true, sessiontest.NewMemoryStore())
			d := p.dual(t, sessions.DualReadOld)
			b := newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour }).browser()
			b.login("alice")
			first := b.cookie()
			b.use(func(s sessions.Session) { s.Destroy() })
			time.Sleep(2 * time.Hour)
			for _, phase := range dualPhases {
				d.SetPhase(phase)
				require.Empty(t, b.clone().hold(first).user(), phase)
			}
		})
	})
}

// A touch in a dual phase renews both copies, and a copy that one side does not have is no reason to fail.
func TestP15_TouchRenewsBoth(t *testing.T) {
	for _, kind := range []string{"cookie", "server"} {
		for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew} {
			t.Run(fmt.Sprintf("%s/%v", kind, phase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, kind == "cookie", sessiontest.NewMemoryStore())
					d := p.dual(t, phase)
					s := newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour })
					b, lonely := s.browser(), s.browser()
					b.login("alice")
					d.SetPhase(sessions.NewOnly)
					lonely.use(func(s sessions.Session) {
						s.SetLifetime(time.Hour, true)
						_ = dualUser.Set(s, "bob")
					})
					d.SetPhase(phase)
					s.events.reset()
					for range 10 {
						time.Sleep(40 * time.Minute)
						require.Equal(t, "alice", b.user())
						r := lonely.use(noop)
						require.Equal(t, p.cookie, r.setCookie("session") != nil, "a sealed cookie slides, also if only one store has its session")
					}
					require.Empty(t, s.events.with(sessions.OutcomeGone))
					require.Empty(t, s.events.with(sessions.OutcomeError))
					d.SetPhase(sessions.OldOnly)
					require.Equal(t, "alice", b.user(), "the old copy")
					d.SetPhase(sessions.NewOnly)
					p.loseOld()
					if p.cookie {
						b.hold(tokenOf(t, p.old, b.cookie()))
					}
					require.Equal(t, "alice", b.user(), "the new copy")
					require.Equal(t, "bob", lonely.user())
				})
			})
		}
	}
}

// tokenOf returns the token in a sealed cookie.
func tokenOf(t *testing.T, store sessions.Store, cookie string) string {
	t.Helper()
	rec, err := store.Load(t.Context(), "session", cookie)
	require.NoError(t, err)
	return rec.Token
}

// A touch that comes after the end of the session gives the client no new cookie.
func TestP15_TouchAfterLogout(t *testing.T) {
	for _, kind := range []string{"cookie", "server"} {
		for _, phase := range dualPhases[1:] {
			t.Run(fmt.Sprintf("%s/%v", kind, phase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, kind == "cookie", sessiontest.NewMemoryStore())
					d := p.dual(t, phase, withCheck)
					b := newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour }).browser()
					b.login("alice")
					time.Sleep(30 * time.Minute)
					other := b.clone()
					r := b.use(func(s sessions.Session) {
						other.use(func(s sessions.Session) { s.Destroy() })
					})
					require.Nil(t, r.setCookie("session"), "it was logged out meanwhile")
				})
			})
		}
	}
}

// A late write that comes after the end of the session is refused with ErrGone, in every mixed pair.
func TestP15_LateWriteAfterLogout(t *testing.T) {
	for _, kind := range realKinds(t) {
		t.Run(kind.name, func(t *testing.T) {
			eachNeighbours(t, func(t *testing.T, pa, pb sessions.Phase) {
				old, new := kind.make(t)
				_, client := old.(*sessions.CookieStore)
				if client && (pa == sessions.OldOnly || pb == sessions.OldOnly) {
					t.Skip("a cookie alone")
				}
				siteA, _ := dualSite(t, old, new, pa)
				siteB, _ := dualSite(t, old, new, pb)
				for _, end := range []func(sessions.Session){sessions.Session.Destroy, sessions.Session.Renew} {
					b := siteA.browser()
					b.login("alice")
					a := b.clone().on(siteB)
					before := b.cookie()
					r := a.try(func(s sessions.Session) {
						addCount(s)
						b.use(end)
					})
					require.Equal(t, http.StatusConflict, r.status)
					require.Nil(t, r.setCookie("session"))
					if !client || pb >= sessions.DualReadNew {
						require.Empty(t, siteB.browser().hold(before).user())
					}
				}
			})
		})
	}
}

// Configuration

func TestNewDualStore_Mistakes(t *testing.T) {
	cookie, memory := cookieStoreWith(t, secretA), sessiontest.NewMemoryStore()
	other := sessiontest.NewMemoryStore()
	var noRedis *sessions.RedisStore
	rdb, too := redis.NewClient(&redis.Options{}), redis.NewClient(&redis.Options{})
	defer rdb.Close()
	defer too.Close()
	type uncomparable struct {
		sessions.Store
		_ []int
	}
	for name, c := range map[string]struct {
		cfg    sessions.DualStoreConfig
		fields []string
	}{
		"nothing":                 {sessions.DualStoreConfig{}, []string{"Old", "New"}},
		"no old":                  {sessions.DualStoreConfig{New: memory}, []string{"Old"}},
		"a nil pointer":           {sessions.DualStoreConfig{Old: cookie, New: noRedis}, []string{"New"}},
		"the same store":          {sessions.DualStoreConfig{Old: memory, New: memory}, []string{"New"}},
		"the same keys":           {sessions.DualStoreConfig{Old: redisWithPrefix(t, rdb, "a:"), New: redisWithPrefix(t, rdb, "a:")}, []string{"New"}},
		"to an embedded cookie":   {sessions.DualStoreConfig{Old: memory, New: struct{ *sessions.CookieStore }{cookie}}, []string{"New"}},
		"another prefix":          {sessions.DualStoreConfig{Old: redisWithPrefix(t, rdb, "a:"), New: redisWithPrefix(t, rdb, "b:")}, nil},
		"another server":          {sessions.DualStoreConfig{Old: redisWithPrefix(t, rdb, "a:"), New: redisWithPrefix(t, too, "a:")}, nil},
		"the same store, wrapped": {sessions.DualStoreConfig{Old: uncomparable{Store: memory}, New: uncomparable{Store: memory}}, []string{"New"}},
		"not to be compared":      {sessions.DualStoreConfig{Old: hides{uncomparable{Store: memory}}, New: hides{uncomparable{Store: memory}}}, nil},
		"to a cookie":             {sessions.DualStoreConfig{Old: memory, New: cookie}, []string{"New"}},
		"a phase before":          {sessions.DualStoreConfig{Old: cookie, New: memory, Phase: -1}, []string{"Phase"}},
		"a phase after":           {sessions.DualStoreConfig{Old: cookie, New: memory, Phase: 4}, []string{"Phase"}},
		"negative ReadOld":        {sessions.DualStoreConfig{Old: cookie, New: memory, ReadOldFraction: -0.1}, []string{"ReadOldFraction"}},
		"ReadOld over 1":          {sessions.DualStoreConfig{Old: cookie, New: memory, ReadOldFraction: 1.1}, []string{"ReadOldFraction"}},
		"ReadOld is no number":    {sessions.DualStoreConfig{Old: cookie, New: memory, ReadOldFraction: math.NaN()}, []string{"ReadOldFraction"}},
		"Compare is infinite":     {sessions.DualStoreConfig{Old: cookie, New: memory, CompareFraction: math.Inf(1)}, []string{"CompareFraction"}},
		"percent":                 {sessions.DualStoreConfig{Old: cookie, New: memory, CompareFraction: 10}, []string{"CompareFraction"}},
		"all at once":             {sessions.DualStoreConfig{Old: memory, New: memory, Phase: 9, ReadOldFraction: 2, CompareFraction: -1}, []string{"New", "Phase", "ReadOldFraction", "CompareFraction"}},
		"fine":                    {sessions.DualStoreConfig{Old: cookie, New: memory}, nil},
		"fine, with every option": {sessions.DualStoreConfig{Old: other, New: memory, Phase: sessions.NewOnly, CheckRevoked: true, FallbackOnError: true, AdoptUntil: time.Now(), ReadOldFraction: 1, CompareFraction: 1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := sessions.NewDualStore(c.cfg)
			if c.fields == nil {
				require.NoError(t, err)
				require.NotNil(t, d)
				return
			}
			require.Nil(t, d)
			require.Equal(t, c.fields, configFields(t, err))
		})
	}
}

func TestPhase_String(t *testing.T) {
	require.Equal(t, "OldOnly DualReadOld DualReadNew NewOnly Phase(7)", strings.Trim(fmt.Sprint(dualPhases), "[]")+" "+sessions.Phase(7).String())
}

func TestDualStore_SetPhaseRefusesUnknown(t *testing.T) {
	d := newPair(t, true, sessiontest.NewMemoryStore()).dual(t, sessions.DualReadNew)
	require.Equal(t, sessions.DualReadNew, d.Phase())
	for phase, text := range map[sessions.Phase]string{
		7:                    "sessions: SetPhase: unknown phase 7: use OldOnly, DualReadOld, DualReadNew or NewOnly",
		-1:                   "sessions: SetPhase: unknown phase -1: use OldOnly, DualReadOld, DualReadNew or NewOnly",
		sessions.NewOnly + 1: "sessions: SetPhase: unknown phase 4: use OldOnly, DualReadOld, DualReadNew or NewOnly",
	} {
		require.PanicsWithValue(t, text, func() { d.SetPhase(phase) })
		require.Equal(t, sessions.DualReadNew, d.Phase())
	}
	_, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookieStoreWith(t, secretA), New: sessiontest.NewMemoryStore(), Phase: 7})
	require.EqualError(t, err, "sessions: Phase: unknown phase 7: use OldOnly, DualReadOld, DualReadNew or NewOnly")
}

// Strict tokens, and nothing asked for what cannot be one.
func TestP15_BadTokensInEachPhase(t *testing.T) {
	eachPair(t, func(t *testing.T, p *pair) {
		for _, phase := range dualPhases {
			d := p.dual(t, phase, withCheck)
			b := newSite(t, d).browser()
			for _, bad := range []string{"x", strings.Repeat("A", 21), strings.Repeat("A", 5000), "../../etc/passwd", strings.Repeat("+", 22)} {
				p.asked()
				_, err := d.Load(t.Context(), "session", bad)
				var miss *sessions.NotFoundError
				require.True(t, errors.As(err, &miss), "%v: %v", phase, err)
				require.NotContains(t, p.asked(), "new.load", "%v: the shape is checked first", phase)
			}
			unknown := sessions.NewToken()
			b.hold(unknown)
			require.Empty(t, b.user())
			b.use(addCount)
			require.NotContains(t, b.cookie(), unknown, "a token that we did not issue is never adopted")
			_, err := p.new.Store.Load(context.Background(), "session", unknown)
			require.ErrorIs(t, err, sessions.ErrNotFound)
		}
	})
}

// The values, their order apart, are the same on both sides.
func TestP15_BothSidesHoldTheSame(t *testing.T) {
	p := newPair(t, false, sessiontest.NewMemoryStore())
	d := p.dual(t, sessions.DualReadNew)
	b := newSite(t, d).browser()
	b.use(func(s sessions.Session) {
		s.SetLifetime(time.Hour, true)
		_ = s.Set("list", []int{1, 2, 3})
		_ = s.Set("text", "é\u2028<>&")
	})
	text := func(s sessions.Store) string {
		rec, err := s.Load(t.Context(), "session", b.cookie())
		require.NoError(t, err)
		values := map[string]json.RawMessage{}
		for k, v := range rec.Values() {
			values[k] = v
		}
		out, _ := json.Marshal(values)
		return fmt.Sprint(rec.ID, rec.Version, rec.Created, rec.Idle, rec.Expires, rec.Deadline, rec.CustomIdle, rec.Persistent, rec.Secure, string(out))
	}
	require.Equal(t, text(p.old), text(p.new))
}

// dualPhases are all phases, in order.
var dualPhases = []sessions.Phase{sessions.OldOnly, sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly}

func TestP15_DualStoreConformsInEachPhase(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	checkTTLs(t, rdb)
	olds := map[string]func(t *testing.T) sessions.Store{
		"cookie": func(t *testing.T) sessions.Store { return cookieStoreWith(t, secretA) },
		"redis":  func(t *testing.T) sessions.Store { return redisWithPrefix(t, rdb, "old:") },
		"memory": func(*testing.T) sessions.Store { return sessiontest.NewMemoryStore() },
	}
	type flags struct{ check, fallback bool }
	for kind, old := range olds {
		for _, phase := range dualPhases {
			variants := []flags{{}}
			switch phase { // the flags mean nothing in the others
			case sessions.DualReadOld:
				variants = append(variants, flags{check: true})
			case sessions.DualReadNew:
				variants = append(variants, flags{fallback: true})
			}
			for _, f := range variants {
				make := func(t *testing.T) sessions.Store {
					d, err := sessions.NewDualStore(sessions.DualStoreConfig{
						Old: old(t), New: redisWithPrefix(t, rdb, "new:"), Phase: phase, CheckRevoked: f.check, FallbackOnError: f.fallback,
					})
					require.NoError(t, err)
					return d
				}
				name := fmt.Sprintf("%s/%v,CheckRevoked=%v,FallbackOnError=%v", kind, phase, f.check, f.fallback)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					sessiontest.TestStore(t, make)
				})
				if kind == "cookie" && phase == sessions.DualReadNew {
					// The new store decides, so that what the suite skips where a cookie is sealed must hold as well.
					t.Run(name+"/by token", func(t *testing.T) {
						t.Parallel()
						sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return byToken{make(t)} })
					})
				}
			}
		}
	}
}

// byToken is a store whose client never takes the sealed cookie and presents the token alone.
type byToken struct{ sessions.Store }

func (s byToken) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.Store.Save(ctx, name, rec, base)
	if err == nil {
		token = rec.Token
	}
	return token, err
}

func (s byToken) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	token, err := s.Store.Touch(ctx, name, rec)
	if err == nil {
		token = rec.Token
	}
	return token, err
}

func redisWithPrefix(t *testing.T, rdb redis.Cmdable, prefix string) *sessions.RedisStore {
	t.Helper()
	s, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour, Prefix: prefix})
	require.NoError(t, err)
	return s
}

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
		name, value, _ := strings.Cut(line, ":")
		switch n, _ := strconv.ParseFloat(value, 64); name {
		case "used_memory":
			l.bytes += n
		case "mem_clients_normal": // a busy machine needs more connections
			l.bytes -= n
		}
	}
	return l
}

// plateau looks at samples that were taken at even intervals, the first before any visitor came, and says what is wrong
// if the store is still filling up. Growth without an end would double it from the middle to the end. A machine that was
// busy in the middle had fewer visitors then: as many keys as expected are always right.
func plateau(samples []load, expected float64) error {
	most := func(from, to int, of func(load) float64) (m float64) {
		for _, l := range samples[from:to] {
			m = max(m, of(l)-of(samples[0]))
		}
		return m
	}
	n := len(samples)
	keys := func(l load) float64 { return l.keys }
	share := max(1, expected/most(n*3/10, n/2, keys))
	for name, of := range map[string]func(load) float64{"keys": keys, "bytes": func(l load) float64 { return l.bytes }} {
		middle, end := most(n*3/10, n/2, of), most(n*8/10, n, of)
		room := map[string]float64{"bytes": 64_000}[name] // that the server takes for itself, and gives back when it likes
		if end > 1.5*share*middle+room {
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
		if err := plateau(samples, float64(perTick*ttl/tick)); leaky {
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
	require.NoError(t, plateau(flat, 10))
	require.ErrorContains(t, plateau(growing, 10), "fills up")
	require.ErrorContains(t, plateau(leaking, 10), "1 of 10 keys have no TTL")
	busy := slices.Clone(flat)
	for i := range 30 {
		busy[i].keys, busy[i].bytes = busy[i].keys/3, 1e6+(busy[i].bytes-1e6)/3
	}
	require.NoError(t, plateau(busy, 10))
	require.ErrorContains(t, plateau(busy, 1), "fills up")
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
							thief.hold(sealed).try(addCount) // of its own, or refused
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

// storeLatency is how long a server-side store takes to answer in these tests: less than any store that is reached over
// a network, and more than a version's tick.
const storeLatency = 20 * time.Microsecond

// versionFleet is two instances over the same stores, in a synctest bubble: time passes only while a store works.
type versionFleet struct {
	t    *testing.T
	pair *pair
	a, b *sessions.DualStore
	on   map[*sessions.DualStore]http.Handler
	of   map[*sessions.DualStore]*sessions.Manager
}

func newVersionFleet(t *testing.T, kind string, a, b sessions.Phase) *versionFleet {
	f := &versionFleet{t: t, pair: newPair(t, kind == "cookie", sessiontest.NewMemoryStore()), on: map[*sessions.DualStore]http.Handler{}, of: map[*sessions.DualStore]*sessions.Manager{}}
	slow := func(context.Context, string, *sessions.Record) error {
		time.Sleep(storeLatency)
		return nil
	}
	f.pair.new.before(slow)
	if f.pair.oldSpy != nil {
		f.pair.oldSpy.before(slow)
	}
	f.a, f.b = f.pair.dual(t, a), f.pair.dual(t, b)
	for _, d := range []*sessions.DualStore{f.a, f.b} {
		m, err := sessions.New(sessions.Config{Store: d})
		require.NoError(t, err)
		f.on[d], f.of[d] = m.Wrap(http.HandlerFunc(versionHandler)), m
	}
	return f
}

// setClock puts the clock of one instance ahead of that of the stores, or behind it.
func (f *versionFleet) setClock(d *sessions.DualStore, ahead time.Duration) {
	sessions.SetClock(f.of[d], d, func() time.Time { return time.Now().Add(ahead) })
}

type allLoaded struct{} // the context key of what parallel requests wait for

// versionHandler changes the session as the path says and answers with all its values, as they were committed.
func versionHandler(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if all, ok := r.Context().Value(allLoaded{}).(*sync.WaitGroup); ok {
		all.Done()
		all.Wait()
	}
	switch r.URL.Path {
	case "/set":
		_ = s.Set(r.URL.RawQuery, 1)
	case "/count":
		_, _ = dualCount.Update(s, func(n int) int { return n + 1 })
	case "/renew":
		s.Renew()
	}
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush() // commits
	}
	values := map[string]int{}
	for key := range s.Keys() {
		var n int
		_, _ = s.Get(key, &n)
		values[key] = n
	}
	_ = json.NewEncoder(w).Encode(values)
}

// fleetReply is what one request got.
type fleetReply struct {
	cookie string // what the browser holds after it, if it comes last
	values map[string]int
	at     time.Time
}

func (f *versionFleet) send(ctx context.Context, d *sessions.DualStore, path, cookie string) fleetReply {
	f.t.Helper()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "http://example.com"+path, nil)
	if cookie != "" {
		r.AddCookie(&http.Cookie{Name: "session", Value: cookie})
	}
	w := httptest.NewRecorder()
	f.on[d].ServeHTTP(w, r)
	require.Equal(f.t, http.StatusOK, w.Code, path)
	out := fleetReply{cookie: cookie, at: time.Now()}
	for _, c := range w.Result().Cookies() {
		out.cookie = c.Value
	}
	require.NoError(f.t, json.Unmarshal(w.Body.Bytes(), &out.values))
	return out
}

func (f *versionFleet) do(d *sessions.DualStore, path, cookie string) fleetReply {
	f.t.Helper()
	return f.send(f.t.Context(), d, path, cookie)
}

// parallel sends requests that have all loaded the session before the first of them commits, and returns their replies in
// the order of the commits.
func (f *versionFleet) parallel(d *sessions.DualStore, cookie string, paths ...string) []fleetReply {
	var loaded, done sync.WaitGroup
	loaded.Add(len(paths))
	ctx := context.WithValue(f.t.Context(), allLoaded{}, &loaded)
	replies := make([]fleetReply, len(paths))
	for i, path := range paths {
		done.Go(func() { replies[i] = f.send(ctx, d, path, cookie) })
	}
	done.Wait()
	sort.SliceStable(replies, func(i, j int) bool { return replies[i].at.Before(replies[j].at) })
	return replies
}

// A browser sends three changes at once to an instance in DualReadOld, and keeps the cookie of one of the answers; the new
// store has them all. What it changes next, at an instance that is still in OldOnly, must outlive the steps to NewOnly,
// however soon it comes.
func TestP15_AChangeInOldOnlyAfterParallelOnes(t *testing.T) {
	for _, kind := range []string{"cookie", "server"} {
		for kept, name := range []string{"the first answer comes last", "the second answer comes last", "in the order of the commits"} {
			for _, between := range []string{"", "/renew"} {
				t.Run(kind+"/"+name+between, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := newVersionFleet(t, kind, sessions.DualReadOld, sessions.OldOnly)
						login := f.do(f.a, "/set?user", "")
						time.Sleep(time.Second)
						got := f.parallel(f.a, login.cookie, "/set?k0", "/count", "/count")[kept]
						if between != "" {
							got = f.do(f.a, between, got.cookie)
						}
						want := got.values
						want["k1"] = 1
						got = f.do(f.b, "/set?k1", got.cookie)
						if kind == "cookie" { // the cookie is all that OldOnly knows
							require.Equal(t, want, got.values)
						}
						for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly} {
							f.a.SetPhase(phase)
							read := f.do(f.a, "/", got.cookie)
							for key := range got.values {
								require.Equal(t, got.values[key], read.values[key], "%s, read in %v", key, phase)
							}
							got.cookie = read.cookie
							if kind == "server" && phase == sessions.DualReadNew { // a change repairs the new store, which NewOnly reads alone
								got = f.do(f.a, "/set?k2", got.cookie)
							}
						}
					})
				})
			}
		}
	}
}

// Two requests at once, to instances in DualReadOld and in OldOnly, and one more to the latter: what it was answered is
// what NewOnly goes on from.
func TestP15_ACountInOldOnlyAfterParallelOnes(t *testing.T) {
	for _, kind := range []string{"cookie", "server"} {
		for _, first := range []string{"DualReadOld", "OldOnly"} {
			t.Run(kind+"/the cookie of "+first, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newVersionFleet(t, kind, sessions.DualReadOld, sessions.OldOnly)
					login := f.do(f.a, "/set?user", "")
					time.Sleep(time.Second - time.Since(time.Now().Truncate(time.Second)) - storeLatency/2) // the two write in two milliseconds
					var both sync.WaitGroup
					var inOld, inDual fleetReply
					both.Go(func() { inOld = f.do(f.b, "/count", login.cookie) })
					both.Go(func() {
						time.Sleep(storeLatency)
						inDual = f.do(f.a, "/count", login.cookie)
					})
					both.Wait()
					got := inOld
					if first == "DualReadOld" {
						got = inDual
					}
					got = f.do(f.b, "/count", got.cookie)
					f.a.SetPhase(sessions.DualReadNew)
					if kind == "cookie" { // of two servers NewOnly reads the new one alone, which a change in DualReadNew repairs
						f.a.SetPhase(sessions.NewOnly)
					}
					after := f.do(f.a, "/count", got.cookie)
					require.Equal(t, got.values["count"]+1, after.values["count"], "after %v", got.values)
				})
			})
		}
	}
}

// Two copies of one version, of different writes: every phase takes the same one. A client brings its copy along, and
// OldOnly, or DualReadOld without CheckRevoked, sees no other; of two servers all phases but OldOnly read the new one.
func TestP15_EqualVersionsAreDecidedInOneWay(t *testing.T) {
	for _, age := range []time.Duration{0, time.Hour} {
		for _, kind := range []string{"cookie", "server"} {
			t.Run(kind+"/written "+age.String()+" ago", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, kind == "cookie", sessiontest.NewMemoryStore())
					now := time.Now()
					token := sessions.NewToken()
					record := func(side, mark string) *sessions.Record {
						r := &sessions.Record{Version: now.UnixMicro(), Created: now, Idle: 24 * time.Hour, Expires: now.Add(24 * time.Hour), Deadline: now.Add(48 * time.Hour)}
						r.Token = token
						r.ID, _ = sessions.TokenID(token)
						r.SetValue("side", json.RawMessage(strconv.Quote(side)))
						text, err := r.MarshalJSON()
						require.NoError(t, err)
						require.NoError(t, r.UnmarshalJSON([]byte(strings.Replace(string(text), `",{`, mark+`",{`, 1))))
						return r
					}
					presented, err := p.old.Save(t.Context(), "session", record("old", "mark-1"), 0)
					require.NoError(t, err)
					_, err = p.new.Save(t.Context(), "session", record("new", "mark-2"), 0)
					require.NoError(t, err)
					time.Sleep(age)
					want := map[string]string{"cookie": `"old"`, "server": `"new"`}[kind]
					for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly} {
						for _, edits := range [][]func(*sessions.DualStoreConfig){nil, {withCheck}, {withFallback}} {
							got, err := p.dual(t, phase, edits...).Load(t.Context(), "session", presented)
							require.NoError(t, err)
							side, _ := got.Value("side")
							require.Equal(t, want, string(side), "%v", phase)
						}
					}
				})
			})
		}
	}
}

// The ticks of versions are shorter than a write to any store takes: writers that meet do not run ahead of the clock.
func TestP15_VersionsKeepUpWithTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newVersionFleet(t, "server", sessions.DualReadNew, sessions.DualReadNew)
		login := f.do(f.a, "/set?user", "")
		time.Sleep(time.Second)
		f.parallel(f.a, login.cookie, slices.Repeat([]string{"/count"}, 30)...)
		rec, err := f.pair.new.Load(t.Context(), "session", login.cookie)
		require.NoError(t, err)
		require.LessOrEqual(t, rec.Version, time.Now().UnixMicro())
	})
}

// The clocks of two instances are apart. What one browser does in sequence is kept whatever they say, because each version
// is above the one that it was made from.
func TestP15_ClocksApart(t *testing.T) {
	for _, kind := range []string{"cookie", "server"} {
		for _, ahead := range []time.Duration{-2 * time.Second, 2 * time.Second} {
			for _, phases := range [][2]sessions.Phase{{sessions.DualReadOld, sessions.OldOnly}, {sessions.DualReadNew, sessions.DualReadOld}, {sessions.NewOnly, sessions.DualReadNew}} {
				t.Run(fmt.Sprintf("%s/%v and %v, the second %v", kind, phases[0], phases[1], ahead), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := newVersionFleet(t, kind, phases[0], phases[1])
						f.setClock(f.b, ahead)
						got := f.do(f.a, "/count", "")
						for n := 2; n < 20; n++ {
							d := f.a
							if n%2 == 0 || n%3 == 0 {
								d = f.b
							}
							if n%7 == 0 {
								got = f.do(d, "/renew", got.cookie)
							}
							got = f.do(d, "/count", got.cookie)
							require.Equal(t, n, got.values["count"])
						}
					})
				})
			}
		}
	}
}

// What clocks that are apart can lose is said in docs/migration.md: a change that OldOnly makes on a cookie which is behind
// the new store, as after parallel requests, and no longer after them than the clocks are apart.
func TestP15_ClocksApart_WhatOldOnlyCanLose(t *testing.T) {
	const apart = 2 * time.Second
	for kept := range 3 {
		for _, wait := range []time.Duration{0, apart + time.Millisecond} {
			t.Run(fmt.Sprintf("cookie %d of 3, after %v", kept+1, wait), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newVersionFleet(t, "cookie", sessions.DualReadOld, sessions.OldOnly)
					f.setClock(f.b, -apart)
					login := f.do(f.a, "/set?user", "")
					time.Sleep(time.Minute)
					got := f.parallel(f.a, login.cookie, "/count", "/count", "/count")[kept]
					time.Sleep(wait)
					got = f.do(f.b, "/set?k1", got.cookie)
					f.a.SetPhase(sessions.DualReadNew)
					read := f.do(f.a, "/", got.cookie)
					lost := kept < 2 && wait < apart
					require.Equal(t, !lost, read.values["k1"] == 1)
				})
			})
		}
	}
}

// A tombstone lives as long as the longest copy of its session could, whatever the timeouts of the instance that wrote it:
// they may have been lowered for a while, or on one of two services that share the cookie.
func TestP15_ALogoutUnderALoweredTimeoutHolds(t *testing.T) {
	for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly} {
		for _, kind := range []string{"cookie", "server"} {
			for _, end := range []string{"logout", "renew", "logout elsewhere after a write", "renew elsewhere after a write"} {
				t.Run(fmt.Sprintf("%v/%s/%s", phase, kind, end), func(t *testing.T) {
					end, write := strings.CutSuffix(end, " elsewhere after a write")
					synctest.Test(t, func(t *testing.T) {
						p := newPair(t, kind == "cookie", sessiontest.NewMemoryStore())
						at := func(absolute time.Duration) *site {
							return newSite(t, p.dual(t, phase, withCheck), func(cfg *sessions.Config) { cfg.AbsoluteTimeout = absolute })
						}
						usual, lowered := at(14*24*time.Hour), at(time.Hour)
						b := usual.browser()
						b.login("alice")
						copied := b.clone()
						other := b.on(lowered)
						require.Equal(t, "alice", other.user())
						if write { // which must not lower the deadline for those who end the session
							other.use(addCount)
							other = b
						}
						other.use(func(s sessions.Session) {
							if end == "renew" {
								s.Renew()
								return
							}
							s.Destroy()
						})
						for range 20 {
							time.Sleep(2 * time.Hour)
							require.Empty(t, copied.clone().user(), "%v after the logout", 2*time.Hour)
						}
					})
				})
			}
		}
	}
}

// A session whose idle timeout was shortened ends when it says, in whatever phase: an earlier copy of its cookie, which
// expires later, does not bring it back.
func TestP15_WhatWasShortenedStaysEnded(t *testing.T) {
	const hour = time.Hour
	idle := func(d time.Duration) func(sessions.Session) {
		return func(s sessions.Session) { s.SetLifetime(d, false) }
	}
	for _, c := range []struct {
		name    string
		timeout []time.Duration // of the instance, at each step
		steps   []func(sessions.Session)
		ends    time.Duration // after the last step
	}{
		{"SetLifetime", []time.Duration{24 * hour, 24 * hour}, []func(sessions.Session){addCount, idle(5 * time.Minute)}, 5 * time.Minute},
		{"SetLifetime, then writes", []time.Duration{24 * hour, 24 * hour, 24 * hour}, []func(sessions.Session){addCount, idle(5 * time.Minute), addCount}, 5 * time.Minute},
		{"SetLifetime, then a touch", []time.Duration{24 * hour, 24 * hour, 24 * hour}, []func(sessions.Session){addCount, idle(5 * time.Minute), noop}, 5 * time.Minute},
		{"SetLifetime that restores the default", []time.Duration{hour, hour, hour}, []func(sessions.Session){idle(24 * hour), idle(0), noop}, hour},
		{"SetLifetime, twice", []time.Duration{hour, hour, hour, hour}, []func(sessions.Session){idle(24 * hour), idle(5 * time.Minute), idle(10 * time.Minute), noop}, 10 * time.Minute},
		{"SetLifetime and Renew", []time.Duration{24 * hour, 24 * hour}, []func(sessions.Session){addCount, func(s sessions.Session) { s.Renew(); idle(5 * time.Minute)(s) }}, 5 * time.Minute},
		{"a lowered timeout", []time.Duration{24 * hour, hour}, []func(sessions.Session){addCount, addCount}, hour},
		{"a lowered timeout, only read", []time.Duration{24 * hour, hour, hour}, []func(sessions.Session){addCount, noop, noop}, hour},
		{"a lowered timeout, read and written", []time.Duration{24 * hour, hour, hour, hour}, []func(sessions.Session){addCount, noop, noop, addCount}, hour},
	} {
		for _, old := range []storeCase{cookieStore, memoryStore} {
			for _, phase := range []sessions.Phase{sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly} {
				for began := max(phase-1, sessions.OldOnly); began <= phase; began++ {
					if c.name == "a lowered timeout, only read" && old.name == "cookie" && began == sessions.OldOnly {
						continue // the new store has never had it
					}
					t.Run(fmt.Sprintf("%s/%s/%v, begun in %v", c.name, old.name, phase, began), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							var copies []string
							oldStore, newStore := old.make(t), memoryStore.make(t)
							instance := func(timeout time.Duration, phase sessions.Phase) *site {
								d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: oldStore, New: newStore, Phase: phase, CheckRevoked: true})
								require.NoError(t, err)
								return newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = timeout })
							}
							b := instance(c.timeout[0], began).browser()
							b.set("user", 42)
							for i, step := range c.steps {
								at := phase
								if i == 0 {
									at = began
								}
								b.site = instance(c.timeout[i], at)
								time.Sleep(4 * time.Minute)
								require.Equal(t, "42", b.get("user"))
								copies = append(copies, b.cookie())
								b.use(step)
								copies = append(copies, b.cookie())
							}
							time.Sleep(c.ends - time.Minute)
							again := instance(c.timeout[0], phase)
							for wait := range 4 { // as it was first, well before the earlier copies have expired
								alive := wait == 0
								thief := again.browser()
								for i, copied := range copies {
									if alive || c.name == "SetLifetime and Renew" && i < len(copies)-1 {
										continue
									}
									thief.hold(copied)
									require.Empty(t, thief.get("user"), "copy %d of %d, %d hours later", i, len(copies), wait)
									require.Empty(t, thief.hold(copied).get("user"), "again")
								}
								if alive {
									time.Sleep(2 * time.Minute)
								} else {
									time.Sleep(hour)
								}
							}
						})
					})
				}
			}
		}
	}
}

// A shortened session that has expired is kept, so that no earlier copy counts. Neither a request that runs for longer nor
// a touch by an instance that has such a copy brings it back.
func TestP15_WhatWasShortenedIsNotExtended(t *testing.T) {
	for _, phase := range []sessions.Phase{sessions.DualReadNew, sessions.NewOnly} {
		for name, change := range map[string]func(sessions.Session){"reads": noop, "writes": addCount, "renews": sessions.Session.Renew} {
			synctest.Test(t, func(t *testing.T) {
				oldStore, newStore := cookieStore.make(t), memoryStore.make(t)
				at := func(phase sessions.Phase, timeout time.Duration) *site {
					d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: oldStore, New: newStore, Phase: phase})
					require.NoError(t, err)
					return newSite(t, d, func(cfg *sessions.Config) { cfg.IdleTimeout = timeout })
				}
				b := at(sessions.DualReadOld, 24*time.Hour).browser()
				b.set("user", 42)
				earlier := b.clone()
				b = b.on(at(phase, time.Hour))
				time.Sleep(30 * time.Minute)
				b.use(noop) // touched, with the lower timeout
				r := b.clone().try(func(s sessions.Session) {
					time.Sleep(2 * time.Hour)
					change(s)
				})
				require.Equal(t, name != "reads", r.status == http.StatusConflict, r.status)
				require.Empty(t, b.get("user"), "%s, in %v", name, phase)
				require.Empty(t, b.on(at(phase, 24*time.Hour)).get("user"))

				time.Sleep(4 * time.Hour)
				earlier.on(at(sessions.DualReadOld, 24*time.Hour)).use(noop) // the cookie opens there, and is due
				time.Sleep(time.Hour)
				require.Empty(t, b.on(at(phase, 24*time.Hour)).get("user"), "%s, in %v, after the copy was used", name, phase)
			})
		}
	}
}
