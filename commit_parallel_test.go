package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
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

// fleet is several instances of a site, each with a Manager of its own.
type fleet struct {
	t         testing.TB
	instances []http.Handler
	events    *eventRecorder
	log       *logBuffer
}

func newFleet(t testing.TB, stores ...sessions.Store) *fleet { return newPatientFleet(t, 0, stores...) }

func newPatientFleet(t testing.TB, commitTimeout time.Duration, stores ...sessions.Store) *fleet {
	f := &fleet{t: t, events: &eventRecorder{}, log: &logBuffer{}}
	for _, store := range stores {
		m, err := sessions.New(sessions.Config{Store: store, CommitTimeout: commitTimeout, Observe: f.events.observe, Logger: slog.New(slog.NewTextHandler(f.log, nil))})
		require.NoError(t, err)
		f.instances = append(f.instances, m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(stepKey{}).(http.HandlerFunc)(w, r)
		})))
	}
	return f
}

type stepKey struct{}

// send sends a request to an instance, with a cookie unless it is empty.
func (f *fleet) send(ctx context.Context, at int, cookie string, step http.HandlerFunc) *http.Response {
	r := httptest.NewRequestWithContext(context.WithValue(ctx, stepKey{}, step), http.MethodGet, "/", nil)
	if cookie != "" {
		r.Header.Set("Cookie", "session="+cookie)
	}
	w := httptest.NewRecorder()
	f.instances[at].ServeHTTP(w, r)
	return w.Result()
}

// use sends a request that must be answered with 200, and returns the cookie that the client then has.
func (f *fleet) use(at int, cookie string, step func(s sessions.Session)) string {
	res := f.send(context.Background(), at, cookie, func(_ http.ResponseWriter, r *http.Request) { step(session(f.t, r)) })
	require.Equal(f.t, http.StatusOK, res.StatusCode)
	for _, c := range res.Cookies() {
		cookie = c.Value
	}
	return cookie
}

func (f *fleet) count(at int, cookie string) (n int) {
	f.use(at, cookie, func(s sessions.Session) { n, _ = dualCount.Get(s) })
	return n
}

// together sends n requests of one session to each instance. Each loads the session and does step before the first of them
// commits. It returns how many were answered with each status, and a cookie from each of the answers.
func (f *fleet) together(n int, cookie string, step func(s sessions.Session), committing ...func()) (answers map[int]int, cookies []string) {
	var ready, done sync.WaitGroup
	var once sync.Once
	var mu sync.Mutex
	answers = map[int]int{}
	ready.Add(n * len(f.instances))
	for at := range f.instances {
		for range n {
			done.Go(func() {
				res := f.send(context.Background(), at, cookie, func(w http.ResponseWriter, r *http.Request) {
					arrived := sync.OnceFunc(ready.Done)
					defer arrived() // also if this request has failed the test: the others wait
					step(session(f.t, r))
					arrived()
					ready.Wait()
					once.Do(func() {
						for _, fn := range committing {
							fn()
						}
					})
					w.WriteHeader(http.StatusOK)
				})
				mu.Lock()
				defer mu.Unlock()
				answers[res.StatusCode]++
				for _, c := range res.Cookies() {
					cookies = append(cookies, c.Value)
				}
			})
		}
	}
	done.Wait()
	return answers, cookies
}

// scripts returns how many scripts a server has run.
func scripts(t testing.TB, rdb *redis.Client) (n int) {
	t.Helper()
	info, err := rdb.Info(context.Background(), "commandstats").Result()
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`cmdstat_eval(?:sha)?:calls=(\d+)`).FindAllStringSubmatch(info, -1) {
		calls, _ := strconv.Atoi(m[1])
		n += calls
	}
	return n
}

func TestP23_ParallelWritesOfOneSession(t *testing.T) {
	for _, c := range []struct {
		instances, each, bytes int
		sealed                 bool // the client holds a copy, in DualReadOld
		most                   int  // scripts a write
		long                   bool
	}{
		{instances: 1, each: 400, bytes: 100, most: 1},
		{instances: 1, each: 400, bytes: 50_000, most: 1},
		{instances: 4, each: 100, bytes: 100, most: 1},
		{instances: 4, each: 100, bytes: 50_000, most: 1},
		{instances: 4, each: 400, bytes: 100, most: 1, long: true},
		{instances: 4, each: 400, bytes: 50_000, most: 1, long: true},
		{instances: 1, each: 400, bytes: 100, sealed: true, most: 2},
		{instances: 4, each: 100, bytes: 100, sealed: true, most: 4, long: true},
	} {
		t.Run(fmt.Sprintf("%d instances, %d requests each, %d bytes, sealed=%v", c.instances, c.each, c.bytes, c.sealed), func(t *testing.T) {
			if c.long && !long() {
				t.Skip("HANDOVER_LONG is not set")
			}
			server := redistest.Start(t)
			var stores []sessions.Store
			for range c.instances {
				var store sessions.Store = redisStoreOver(t, server.Client(t))
				if c.sealed {
					d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookieStoreWith(t, secretA), New: store, Phase: sessions.DualReadOld, CheckRevoked: true})
					require.NoError(t, err)
					store = d
				}
				stores = append(stores, store)
			}
			f := newPatientFleet(t, time.Minute, stores...)
			rdb := server.Client(t)
			cookie := f.use(0, "", func(s sessions.Session) { _ = s.Set("text", strings.Repeat("x", c.bytes)) })
			var before int
			answers, _ := f.together(c.each, cookie, addCount, func() { before = scripts(t, rdb) })
			n := c.instances * c.each
			ran := scripts(t, rdb) - before
			t.Logf("%.2f scripts a write", float64(ran)/float64(n))
			require.Equal(t, map[int]int{http.StatusOK: n}, answers)
			if !c.sealed {
				n /= 2 // far fewer than one script a write, because one write carries the changes of all that wait
			}
			require.LessOrEqual(t, ran, c.most*n+2*c.instances, "each instance may load the script")
			require.Equal(t, c.instances*c.each, f.count(0, cookie))
		})
	}
}

// line is a session on one instance whose first save waits until it is let go, so that others stand in line behind it.
// It is for synctest.
type line struct {
	*fleet
	spy    *spyStore
	cookie string
	first  chan struct{}
	replies
}

type replies struct {
	wg      sync.WaitGroup
	mu      sync.Mutex
	got     map[string]int
	cookies map[string]string
}

func newLine(t *testing.T) *line {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	l := &line{fleet: newFleet(t, spy), spy: spy, first: make(chan struct{}), replies: replies{got: map[string]int{}, cookies: map[string]string{}}}
	l.cookie = l.use(0, "", func(s sessions.Session) { _ = s.Set("user", "ada") })
	spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
		if op == "save" {
			spy.before(nil)
			<-l.first
		}
		return nil
	})
	l.join("first", addCount)
	spy.reset()
	return l
}

// join sends a request and returns when it stands in line.
func (l *line) join(name string, step func(s sessions.Session)) {
	l.joinContext(context.Background(), name, step)
}

func (l *line) joinContext(ctx context.Context, name string, step func(s sessions.Session)) {
	l.wg.Go(func() {
		var res http.Response
		defer func() {
			_ = recover() // as a server does
			l.mu.Lock()
			defer l.mu.Unlock()
			l.got[name] = res.StatusCode
			for _, c := range res.Cookies() {
				l.cookies[name] = c.Value
			}
		}()
		res = *l.send(ctx, 0, l.cookie, func(_ http.ResponseWriter, r *http.Request) { step(session(l.t, r)) })
	})
	synctest.Wait()
}

// end lets the first save go, and returns the status of each answer, 0 if there was none.
func (l *line) end() map[string]int {
	close(l.first)
	l.wg.Wait()
	return l.got
}

// status returns the status of the answer to a request, 0 if there is none yet.
func (l *line) status(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got[name]
}

// failsWhen returns a step whose Update succeeds in the handler, and calls fail when it runs again in the commit.
func failsWhen(fail func() error) func(s sessions.Session) {
	return func(s sessions.Session) {
		again := false
		_ = s.Update("count", func(old json.RawMessage) (any, error) {
			if again {
				return 1000, fail()
			}
			again = true
			n, _ := strconv.Atoi(string(old))
			return n + 1, nil
		})
	}
}

func TestP23_OneWriteForAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		for n := range 20 {
			l.join(fmt.Sprint("update ", n), addCount)
		}
		l.join("set", func(s sessions.Session) { _ = s.Set("x", 1) })
		l.join("long-lived", func(s sessions.Session) { s.SetLifetime(time.Hour, true) })
		for name, status := range l.end() {
			require.Equal(t, http.StatusOK, status, name)
		}
		require.EqualValues(t, 1, l.spy.saves.Load(), "beside the first")
		require.Empty(t, l.events.with(sessions.OutcomeMerged))
		require.Len(t, l.events.with(sessions.OutcomeSaved), 23)
		l.use(0, l.cookie, func(s sessions.Session) {
			n, _ := dualCount.Get(s)
			require.Equal(t, 21, n)
			require.Equal(t, []string{"count", "user", "x"}, keys(s))
			require.Equal(t, time.Now().Add(time.Hour), s.ExpiresAt())
		})
	})
}

// A change that fails when it is made again fails its own request alone, whether that one writes for the others or not.
func TestP07_OneOfThoseThatWaitFails(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func() error
		status int
	}{
		"error": {func() error { return errors.New("sold out") }, http.StatusServiceUnavailable},
		"panic": {func() error { panic("a mistake") }, 0},
	} {
		for _, place := range []int{0, 1, 3} {
			t.Run(fmt.Sprintf("%s at place %d", name, place), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLine(t)
					want := map[string]int{"first": http.StatusOK}
					for n := range 4 {
						if name := fmt.Sprint(n); n == place {
							l.join(name, failsWhen(c.fail))
							want[name] = c.status
						} else {
							l.join(name, addCount)
							want[name] = http.StatusOK
						}
					}
					require.Equal(t, want, l.end())
					require.Equal(t, 4, l.count(0, l.cookie))
					require.EqualValues(t, 1, l.spy.saves.Load(), "beside the first")
				})
			})
		}
	}
}

// The request that writes for others meets the write of another instance, and its own change fails when it is made again:
// those of the others are written nevertheless, unless it panics.
func TestP07_TheWriterFailsInAConflict(t *testing.T) {
	for name, c := range map[string]struct {
		fail            func() error
		writer, waiting int
		count           int
	}{
		"error": {func() error { return errors.New("sold out") }, http.StatusServiceUnavailable, http.StatusOK, 4},
		"panic": {func() error { panic("a mistake") }, 0, http.StatusServiceUnavailable, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLine(t)
				other := newFleet(t, l.spy)
				runs := 0
				l.join("writer", func(s sessions.Session) {
					_ = s.Update("count", func(old json.RawMessage) (any, error) {
						if runs++; runs == 3 { // after the handler, and the first save
							return nil, c.fail()
						}
						n, _ := strconv.Atoi(string(old))
						return n + 1, nil
					})
				})
				l.join("a", addCount)
				l.join("b", addCount)
				l.spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
					if op == "save" {
						l.spy.before(nil)
						other.use(0, l.cookie, addCount)
					}
					return nil
				})
				require.Equal(t, map[string]int{"first": http.StatusOK, "writer": c.writer, "a": c.waiting, "b": c.waiting}, l.end())
				require.Equal(t, c.count, l.count(0, l.cookie))
				l.use(0, l.cookie, addCount)
				require.Equal(t, c.count+1, l.count(0, l.cookie), "the line goes on")
			})
		})
	}
}

func TestP08_WhoWaitsForASessionThatEnds(t *testing.T) {
	const ok, gone = http.StatusOK, http.StatusConflict
	for name, c := range map[string]struct {
		line   []string
		want   []int // of "first" and the line
		counts int   // of the renewed session
	}{
		"destroyed": {[]string{"write", "destroy"}, []int{gone, gone, ok}, 0}, // at once: Destroy does not wait for its turn
		"renewed":   {[]string{"renew", "write", "write"}, []int{ok, ok, gone, gone}, 1},
		// The first write takes along the others, and the renewal what they have written.
		"renewed behind a write": {[]string{"write", "renew", "write"}, []int{ok, ok, ok, ok}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLine(t)
				want := map[string]int{"first": c.want[0]}
				ends := ""
				for n, step := range c.line {
					name := fmt.Sprint(n, " ", step)
					want[name] = c.want[n+1]
					switch step {
					case "write":
						l.join(name, addCount)
					case "renew":
						ends = name
						l.join(name, sessions.Session.Renew)
					case "destroy":
						l.join(name, sessions.Session.Destroy)
					}
				}
				require.Equal(t, want, l.end())
				l.use(0, l.cookie, func(s sessions.Session) { require.Empty(t, keys(s)) })
				if ends != "" {
					require.Equal(t, c.counts, l.count(0, l.cookies[ends]))
				}
			})
		})
	}
}

// If the client holds the session, a request must not lose what its own cookie has, although parallel requests have made
// something else of an older one.
func TestP07_ACookieKeepsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: cookieStoreWith(t, secretA)}
		instance := func(old sessions.Store) *fleet {
			d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: sessiontest.NewMemoryStore()})
			require.NoError(t, err)
			return newFleet(t, d)
		}
		f, other := instance(spy), instance(spy.Store)
		older := f.use(0, "", func(s sessions.Session) { _ = s.Set("user", "ada") })
		time.Sleep(time.Second)
		newer := other.use(0, older, func(s sessions.Session) { _ = s.Set("cart", 1) })
		time.Sleep(time.Second)
		held := make(chan struct{})
		spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
			if op == "save" {
				spy.before(nil)
				<-held
			}
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { f.use(0, older, addCount) })
		synctest.Wait()
		wg.Go(func() { f.use(0, older, addCount) })
		synctest.Wait()
		for range 2 {
			wg.Go(func() {
				f.use(0, f.use(0, newer, addCount), func(s sessions.Session) { require.Equal(t, []string{"cart", "count", "user"}, keys(s)) })
			})
			synctest.Wait()
		}
		close(held)
		wg.Wait()
	})
}

// A renewal whose client has got another answer while the renewal waited is not made.
func TestP06_ARenewalThatWaitsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l.joinContext(ctx, "renewal", func(s sessions.Session) {
			s.Renew()
			_ = s.Set("user", "eve")
		})
		l.join("update", addCount)
		time.Sleep(2 * time.Second)
		require.Equal(t, map[string]int{"first": http.StatusOK, "renewal": http.StatusServiceUnavailable, "update": http.StatusOK}, l.end())
		require.Equal(t, 2, l.count(0, l.cookie))
		l.use(0, l.cookie, func(s sessions.Session) { require.Equal(t, `"ada"`, value(t, s, "user")) })
		require.Len(t, l.events.with(sessions.OutcomeTooLate), 1)
	})
}

// A commit waits no longer than CommitTimeout, whether for its turn or for the store, and then says what to do.
func TestP06_WaitingHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		l.join("waits", addCount)
		time.Sleep(5*time.Second - 1)
		synctest.Wait()
		require.Zero(t, l.status("waits"))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, http.StatusServiceUnavailable, l.status("waits"))
		failed := l.events.with(sessions.OutcomeError)
		require.Len(t, failed, 1)
		require.ErrorIs(t, failed[0].Err, context.DeadlineExceeded)
		require.ErrorContains(t, failed[0].Err, "CommitTimeout (5s)")
		require.ErrorContains(t, failed[0].Err, "let fewer requests change one session at once")
		require.Len(t, l.log.lines("beside those of parallel requests"), 1)
		l.join("next", addCount) // behind one that has left
		require.Equal(t, map[string]int{"first": http.StatusServiceUnavailable, "waits": http.StatusServiceUnavailable, "next": http.StatusOK}, l.end())
		require.Equal(t, 1, l.count(0, l.cookie))
	})
}

// A commit that always meets the write of another instance gives up, after few attempts, and tells what to do; its tenth
// conflict is worth a line.
func TestP23_EndlessConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		f := newFleet(t, spy)
		cookie := f.use(0, "", func(s sessions.Session) { _ = s.Set("user", "ada") })
		spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
			if op == "save" {
				return sessions.ErrConflict
			}
			return nil
		})
		spy.reset()
		start := time.Now()
		res := f.send(context.Background(), 0, cookie, func(_ http.ResponseWriter, r *http.Request) { addCount(session(t, r)) })
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Greater(t, spy.saves.Load(), int64(20))
		require.Less(t, spy.saves.Load(), int64(200))
		failed := f.events.with(sessions.OutcomeError)
		require.Len(t, failed, 1)
		require.ErrorIs(t, failed[0].Err, sessions.ErrConflict)
		require.ErrorIs(t, failed[0].Err, context.DeadlineExceeded)
		require.ErrorContains(t, failed[0].Err, "let fewer requests change one session at once")
		var details []int
		for n, e := range f.events.with(sessions.OutcomeMerged) {
			if e.Detail != "" {
				details = append(details, n)
			}
		}
		require.Equal(t, []int{9}, details)
		require.Len(t, f.log.lines("many parallel requests change one session"), 1)
	})
}

// A function of a request that waits may need what the request that writes holds, such as a lock.
func TestP23_AFunctionThatWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		held := make(chan struct{}, 1)
		l.wg.Go(func() {
			held <- struct{}{}
			defer func() { <-held }()
			l.send(context.Background(), 0, l.cookie, func(_ http.ResponseWriter, r *http.Request) { addCount(session(t, r)) })
		})
		synctest.Wait()
		again := false
		l.join("needs it", func(s sessions.Session) {
			_, _ = dualCount.Update(s, func(n int) int {
				if again {
					held <- struct{}{}
					<-held
				}
				again = true
				return n + 1
			})
		})
		l.join("another", addCount)
		start := time.Now()
		require.Equal(t, map[string]int{"first": http.StatusOK, "needs it": http.StatusOK, "another": http.StatusOK}, l.end())
		require.Less(t, time.Since(start), time.Second)
		require.Equal(t, 4, l.count(0, l.cookie))
	})
}

// Parallel writes on several instances lose nothing, in every phase that agrees with a server about them.
func TestP07_ParallelUpdatesInEveryPhase(t *testing.T) {
	const each = 20
	for _, sealed := range []bool{true, false} {
		for _, phase := range dualPhases {
			for _, next := range []sessions.Phase{phase, min(phase+1, sessions.NewOnly)} {
				for _, fallback := range []bool{false, true} {
					t.Run(fmt.Sprintf("sealed=%v, %v beside %v, CheckRevoked and FallbackOnError=%v", sealed, phase, next, fallback), func(t *testing.T) {
						var old sessions.Store = sessiontest.NewMemoryStore()
						if sealed {
							old = cookieStoreWith(t, secretA)
						}
						spy := &spyStore{Store: sessiontest.NewMemoryStore()}
						instance := func(p sessions.Phase) sessions.Store {
							d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: spy, Phase: p, CheckRevoked: fallback, FallbackOnError: fallback})
							require.NoError(t, err)
							return d
						}
						f := newPatientFleet(t, time.Minute, instance(phase), instance(next))
						cookie := f.use(0, "", func(s sessions.Session) { _ = s.Set("user", "ada") })
						var own atomic.Int64
						answers, cookies := f.together(each, cookie, func(s sessions.Session) {
							addCount(s)
							_ = s.Set(fmt.Sprint("own ", own.Add(1)), true)
						})
						require.Equal(t, map[int]int{http.StatusOK: 2 * each}, answers)
						if sealed && phase == sessions.OldOnly {
							return // the client holds the state: this is a stated limit of a sealed cookie
						}
						for _, cookie := range append(cookies, cookie) {
							for at, p := range []sessions.Phase{phase, next} {
								if sealed && p == sessions.DualReadOld && !fallback {
									continue // an older cookie opens
								}
								f.use(at, cookie, func(s sessions.Session) {
									n, _ := dualCount.Get(s)
									require.Equal(t, 2*each, n)
									require.Len(t, keys(s), 2*each+2)
								})
							}
						}
					})
				}
			}
		}
	}
}
