package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

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
