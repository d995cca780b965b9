package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redisscript"
	"handover.example/sessions/internal/redistest"
)

var redisHits = sessions.NewKey[int]("hits")

func addHit(s sessions.Session) { _, _ = redisHits.Update(s, func(n int) int { return n + 1 }) }

// redisApp is one replica of an application whose handler is given with each request.
type redisApp struct {
	t       testing.TB
	handler http.Handler
	mu      sync.Mutex
	events  []sessions.Event
}

type redisDo struct{}

func newRedisApp(t testing.TB, store sessions.Store, change ...func(*sessions.Config)) *redisApp {
	t.Helper()
	a := &redisApp{t: t}
	cfg := sessions.Config{Store: store, CommitTimeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler), Observe: func(_ context.Context, e sessions.Event) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.events = append(a.events, e)
	}}
	for _, f := range change {
		f(&cfg)
	}
	m, err := sessions.New(cfg)
	require.NoError(t, err)
	a.handler = m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		r.Context().Value(redisDo{}).(func(sessions.Session))(s)
	}))
	return a
}

// do makes a request and returns the status and the token that the client has afterwards.
func (a *redisApp) do(token string, fn func(sessions.Session)) (after string, status int) {
	r := httptest.NewRequest("GET", "/", nil)
	if token != "" {
		r.AddCookie(&http.Cookie{Name: "session", Value: token})
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), redisDo{}, fn)))
	res := w.Result()
	for _, c := range res.Cookies() {
		if c.Name == "session" {
			token = c.Value
		}
	}
	return token, res.StatusCode
}

func (a *redisApp) must(token string, fn func(sessions.Session)) (after string) {
	a.t.Helper()
	after, status := a.do(token, fn)
	require.Equal(a.t, http.StatusOK, status)
	return after
}

func (a *redisApp) hits(token string) (n int, ok bool) {
	a.t.Helper()
	a.must(token, func(s sessions.Session) { n, ok = redisHits.Get(s) })
	return n, ok
}

func (a *redisApp) count(kind sessions.EventKind, outcome sessions.Outcome) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Kind == kind && e.Outcome == outcome {
			n++
		}
	}
	return n
}

// turns gives the calls to the store of two requests an order: each waits for its letter.
type turns struct {
	mu    sync.Mutex
	moved *sync.Cond
	order string
}

func newTurns(order string) *turns {
	t := &turns{order: order}
	t.moved = sync.NewCond(&t.mu)
	return t
}

func (t *turns) call(name byte, do func()) {
	t.mu.Lock()
	defer t.mu.Unlock() // calls after the order has ended still run one by one
	for t.order != "" && t.order[0] != name {
		t.moved.Wait()
	}
	do()
	if t.order != "" {
		t.order = t.order[1:]
	}
	t.moved.Broadcast()
}

// done takes a request that has ended out of the order.
func (t *turns) done(name byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.order = strings.ReplaceAll(t.order, string(name), "")
	t.moved.Broadcast()
}

// inTurn is a store whose calls wait for their turn.
type inTurn struct {
	sessions.Store
	turns *turns
	name  byte
}

func (s inTurn) Load(ctx context.Context, name, token string) (rec *sessions.Record, err error) {
	s.turns.call(s.name, func() { rec, err = s.Store.Load(ctx, name, token) })
	return
}

func (s inTurn) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (token string, err error) {
	s.turns.call(s.name, func() { token, err = s.Store.Save(ctx, name, rec, base) })
	return
}

func (s inTurn) Touch(ctx context.Context, name string, rec *sessions.Record) (token string, err error) {
	s.turns.call(s.name, func() { token, err = s.Store.Touch(ctx, name, rec) })
	return
}

func (s inTurn) Delete(ctx context.Context, name string, rec *sessions.Record) (err error) {
	s.turns.call(s.name, func() { err = s.Store.Delete(ctx, name, rec) })
	return
}

// orders returns every order of a calls of A and b of B.
func orders(a, b int) []string {
	if a == 0 || b == 0 {
		return []string{strings.Repeat("A", a) + strings.Repeat("B", b)}
	}
	var all []string
	for _, rest := range orders(a-1, b) {
		all = append(all, "A"+rest)
	}
	for _, rest := range orders(a, b-1) {
		all = append(all, "B"+rest)
	}
	return all
}

// Two requests with the same token, in every order of their calls to the store.
func TestP07_P08_RedisEveryOrder(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	store := newRedisStore(t, rdb, 100*time.Hour)
	user, a, b := sessions.NewKey[string]("user"), sessions.NewKey[string]("a"), sessions.NewKey[string]("b")
	type result struct {
		token  string
		status int
	}
	for _, c := range []struct {
		name   string
		a, b   func(sessions.Session)
		orders []string
		check  func(t *testing.T, old string, a, b result, live []string)
	}{
		{
			name: "renew and write",
			a:    func(s sessions.Session) { s.Renew(); addHit(s); _ = a.Set(s, "a") },
			b:    func(s sessions.Session) { addHit(s); _ = b.Set(s, "b") },
			// load, create, tombstone, save, tombstone; load, save, save
			orders: orders(5, 3),
			check: func(t *testing.T, old string, ra, rb result, live []string) {
				require.Equal(t, http.StatusOK, ra.status)
				require.NotEqual(t, old, ra.token)
				require.Equal(t, []string{ra.token}, live)
				wrote := rb.status == http.StatusOK && rb.token == old
				require.True(t, wrote || rb.status == http.StatusConflict || rb.token != old)
				newRedisApp(t, store).must(ra.token, func(s sessions.Session) {
					va, _ := a.Get(s)
					vb, ok := b.Get(s)
					hits, _ := redisHits.Get(s)
					require.Equal(t, "a", va)
					require.Equal(t, wrote, ok, "kept if, and only if, its request was told so: %q", vb)
					require.Equal(t, map[bool]int{false: 2, true: 3}[wrote], hits)
				})
			},
		},
		{
			name:   "renew twice",
			a:      sessions.Session.Renew,
			b:      sessions.Session.Renew,
			orders: orders(3, 4),
			check: func(t *testing.T, old string, ra, rb result, live []string) {
				require.Len(t, live, 1)
				require.NotEqual(t, old, live[0])
				require.Contains(t, []string{ra.token, rb.token}, live[0])
			},
		},
		{
			name:   "destroy and write",
			a:      sessions.Session.Destroy,
			b:      func(s sessions.Session) { addHit(s) },
			orders: orders(4, 3), // load, end, perhaps load and delete
			check: func(t *testing.T, old string, ra, rb result, live []string) {
				require.Equal(t, http.StatusOK, ra.status)
				require.Empty(t, ra.token)
				require.Empty(t, live)
			},
		},
		{
			name:   "renew and destroy",
			a:      sessions.Session.Renew,
			b:      sessions.Session.Destroy,
			orders: orders(4, 3),
			check: func(t *testing.T, old string, ra, rb result, live []string) {
				renewed := ra.status == http.StatusOK && ra.token != old
				switch {
				case rb.status == http.StatusConflict: // the session lives on: the logout must not look like one
					require.True(t, renewed)
					require.Equal(t, old, rb.token)
					require.Equal(t, []string{ra.token}, live)
				case renewed && len(live) > 0: // it came after the renewal, with a token that was dead already
					require.Empty(t, rb.token)
					require.Equal(t, []string{ra.token}, live)
				default:
					require.Empty(t, rb.token)
					require.Empty(t, live)
				}
			},
		},
		{
			name:   "destroy twice",
			a:      sessions.Session.Destroy,
			b:      sessions.Session.Destroy,
			orders: orders(4, 4),
			check: func(t *testing.T, old string, ra, rb result, live []string) {
				require.Empty(t, live)
				require.Equal(t, []int{200, 200}, []int{ra.status, rb.status})
			},
		},
	} {
		for _, order := range c.orders {
			t.Run(c.name+" "+order, func(t *testing.T) {
				require.NoError(t, rdb.FlushDB(context.Background()).Err())
				old := newRedisApp(t, store).must("", func(s sessions.Session) { addHit(s); _ = user.Set(s, "u") })
				tokens := map[string]string{} // by the ID in the store
				turns := newTurns(order)
				var both sync.WaitGroup
				run := func(name byte, do func(sessions.Session), r *result) {
					both.Go(func() {
						r.token, r.status = newRedisApp(t, inTurn{store, turns, name}).do(old, do)
						turns.done(name)
					})
				}
				var ra, rb result
				run('A', c.a, &ra)
				run('B', c.b, &rb)
				both.Wait()
				for _, token := range []string{old, ra.token, rb.token} {
					id, _ := sessions.TokenID(token)
					tokens[id] = token
				}
				var live []string // the tokens that open the session of this user
				for _, key := range rdb.Keys(context.Background(), "session:*").Val() {
					id := strings.TrimPrefix(key, "session:")
					rec := &sessions.Record{}
					text, err := rdb.Get(context.Background(), key).Bytes()
					require.NoError(t, err)
					require.NoError(t, json.Unmarshal(text, rec))
					if _, ok := rec.Value("user"); ok && !rec.Revoked {
						require.Contains(t, tokens, id, "a session that nobody can open")
						live = append(live, tokens[id])
					}
				}
				require.NotContains(t, live, old)
				c.check(t, old, ra, rb, live)
				noKeyWithoutTTL(t, rdb)
			})
		}
	}
}

func TestP07_RedisDifferentKeys(t *testing.T) {
	store := newRedisStore(t, redistest.Start(t).Client(t), 100*time.Hour)
	app := newRedisApp(t, store)
	for _, first := range []string{"a", "b"} {
		token := app.must("", addHit)
		// Both have loaded before either commits; then they commit in this order.
		loaded := make(chan string, 2)
		turn := map[string]chan bool{"a": make(chan bool), "b": make(chan bool)}
		done := make(chan bool, 2)
		for name := range turn {
			go func() {
				_, status := app.do(token, func(s sessions.Session) {
					_ = s.Set(name, name)
					loaded <- name
					<-turn[name]
				})
				done <- status == http.StatusOK
			}()
		}
		<-loaded
		<-loaded
		turn[first] <- true
		require.True(t, <-done)
		turn[map[string]string{"a": "b", "b": "a"}[first]] <- true
		require.True(t, <-done)
		app.must(token, func(s sessions.Session) {
			for name := range turn {
				var got string
				ok, err := s.Get(name, &got)
				require.NoError(t, err)
				require.True(t, ok, "%s after %s", name, first)
				require.Equal(t, name, got)
			}
		})
	}
}

func TestP07_RedisHundredUpdates(t *testing.T) {
	server := redistest.Start(t)
	defaults := func(c *sessions.Config) { c.CommitTimeout = 0 } // all of them must come through in time
	a := newRedisApp(t, newRedisStore(t, server.Client(t), 100*time.Hour), defaults)
	b := newRedisApp(t, newRedisStore(t, server.Client(t), 100*time.Hour), defaults) // another replica
	token := a.must("", addHit)
	const n = 100
	var all sync.WaitGroup
	start := make(chan bool)
	var failed atomic.Int32
	var slowest atomic.Int64
	for i := range n {
		app := []*redisApp{a, b}[i%2]
		all.Go(func() {
			<-start
			began := time.Now()
			if _, status := app.do(token, addHit); status != http.StatusOK {
				failed.Add(1)
			}
			for d := int64(time.Since(began)); ; {
				if old := slowest.Load(); old >= d || slowest.CompareAndSwap(old, d) {
					break
				}
			}
		})
	}
	close(start)
	all.Wait()
	require.Zero(t, failed.Load())
	got, _ := a.hits(token)
	require.Equal(t, 1+n, got)
	t.Logf("slowest of %d: %v; conflicts: %d", n, time.Duration(slowest.Load()), a.count(sessions.EventConflict, sessions.OutcomeMerged)+b.count(sessions.EventConflict, sessions.OutcomeMerged))
}

// Each reply is lost again and again, at random places, while 100 requests count.
func TestP07_RedisHundredUpdatesWithLostReplies(t *testing.T) {
	proxy := redistest.Start(t).Proxy(t)
	app := newRedisApp(t, newRedisStore(t, proxy.Client(t), 100*time.Hour))
	token := app.must("", addHit)
	var calls atomic.Int64
	proxy.SetFault(func(args []string) redistest.Fault {
		if n := calls.Add(1); args[0] == "EVALSHA" && n%5 == 0 {
			return redistest.LoseReply
		}
		return redistest.Pass
	})
	const n = 100
	var all sync.WaitGroup
	var failed atomic.Int32
	slots := make(chan bool, 20)
	for range n {
		all.Go(func() {
			slots <- true
			defer func() { <-slots }()
			if _, status := app.do(token, addHit); status != http.StatusOK {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	proxy.SetFault(nil)
	got, _ := app.hits(token)
	// A request that failed had lost every one of its replies: whether it counted is not known.
	require.GreaterOrEqual(t, got, 1+n-int(failed.Load()))
	require.LessOrEqual(t, got, 1+n)
	require.Less(t, failed.Load(), int32(n/4))
}

// The reply to one command is lost, go-redis sends the command again, and it counts once: alone, and when 50 other
// requests have written to the session between the first run and the second.
func TestP07_RedisLostReply(t *testing.T) {
	server := redistest.Start(t)
	proxy := server.Proxy(t)
	slow := newRedisApp(t, newRedisStore(t, proxy.Client(t), 100*time.Hour))
	fast := newRedisApp(t, newRedisStore(t, server.Client(t), 100*time.Hour))

	loadScripts(t, server.Client(t))
	isCreate := func(args []string) bool { return args[0] == "SET" }
	isScript := func(args []string) bool { return strings.HasPrefix(args[0], "EVAL") && len(args) > 7 }
	isTouch := func(args []string) bool { return strings.HasPrefix(args[0], "EVAL") && len(args) == 7 }
	// In a renewal the script comes once, for the tombstone.
	for _, c := range []struct {
		name  string
		match func([]string) bool
		do    func(sessions.Session)
		hits  int // that the request adds
		touch bool
		gone  bool // the old token, afterwards
		ended bool // the session, afterwards
	}{
		{name: "save", match: isScript, do: addHit, hits: 1},
		{name: "touch", match: isTouch, do: func(s sessions.Session) { redisHits.Get(s) }, touch: true},
		{name: "renew: create", match: isCreate, do: func(s sessions.Session) { s.Renew(); addHit(s) }, hits: 1, gone: true},
		{name: "renew: tombstone", match: isScript, do: func(s sessions.Session) { s.Renew(); addHit(s) }, hits: 1, gone: true},
		{name: "delete", match: func(args []string) bool { return strings.HasPrefix(args[0], "EVAL") && len(args) == 4 }, do: sessions.Session.Destroy, gone: true, ended: true},
	} {
		for _, others := range []int{0, 1, 50} {
			t.Run(fmt.Sprint(c.name, " and ", others, " others"), func(t *testing.T) {
				token := fast.must("", addHit)
				if c.touch {
					age(t, server.Client(t), token)
				}
				written := 0
				came := proxy.LoseOnce(c.match, func() {
					for range others {
						if same, status := fast.do(token, addHit); same == token && status == http.StatusOK {
							written++
						}
					}
				})
				after, status := slow.do(token, c.do)
				require.Equal(t, http.StatusOK, status)
				require.Equal(t, 2, came(), "the client has sent it twice")
				if c.gone {
					_, ok := fast.hits(token)
					require.False(t, ok, "the old token opens nothing")
				}
				if c.ended {
					require.Empty(t, after)
					require.Zero(t, server.Client(t).Exists(context.Background(), redisKey(token)).Val())
					return
				}
				require.Equal(t, c.gone, token != after)
				if c.name == "renew: tombstone" {
					require.Zero(t, written, "the first run has ended the old session: others began a new one")
				} else {
					require.Equal(t, others, written)
				}
				got, _ := fast.hits(after)
				require.Equal(t, 1+c.hits+written, got)
			})
		}
	}
	t.Run("create", func(t *testing.T) {
		came := proxy.LoseOnce(isCreate, nil)
		token := slow.must("", addHit)
		require.Equal(t, 2, came())
		got, ok := fast.hits(token)
		require.True(t, ok)
		require.Equal(t, 1, got)
	})
	t.Run("create, every reply lost", func(t *testing.T) {
		proxy.SetFault(func(args []string) redistest.Fault {
			if args[0] == "SET" {
				return redistest.LoseReply
			}
			return redistest.Pass
		})
		token, status := slow.do("", addHit)
		proxy.SetFault(nil)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Empty(t, token)
	})
	noKeyWithoutTTL(t, server.Client(t))
}

// A logout that gets no answer is none: the session may have been renewed meanwhile, and then it lives on.
func TestP08_RedisLogoutWithoutAnAnswer(t *testing.T) {
	server := redistest.Start(t)
	proxy := server.Proxy(t)
	slow := newRedisApp(t, newRedisStore(t, proxy.Client(t), time.Hour))
	fast := newRedisApp(t, newRedisStore(t, server.Client(t), time.Hour))
	loadScripts(t, server.Client(t))
	for _, command := range []string{"EVAL", "DEL", "GET"} { // the last two are those of a second thought
		old := fast.must("", addHit)
		var renewed string
		after, status := slow.do(old, func(s sessions.Session) {
			s.Destroy()
			renewed = fast.must(old, sessions.Session.Renew)
			proxy.SetFault(func(args []string) redistest.Fault {
				if strings.HasPrefix(args[0], command) {
					return redistest.LoseReply
				}
				return redistest.Pass
			})
		})
		proxy.SetFault(nil)
		require.Equal(t, old, after, "the client keeps what it has not ended")
		if command == "EVAL" {
			require.Equal(t, http.StatusServiceUnavailable, status)
		} else {
			require.Equal(t, http.StatusConflict, status, command)
		}
		got, ok := fast.hits(renewed)
		require.True(t, ok, "the renewed session lives")
		require.Equal(t, 1, got)
	}
}

// loadScripts spares the first calls their detour.
func loadScripts(t testing.TB, rdb *redis.Client) {
	t.Helper()
	for _, s := range []*redis.Script{redisscript.Save, redisscript.Touch, redisscript.Delete} {
		require.NoError(t, s.Load(context.Background(), rdb).Err())
	}
}

func redisKey(token string) string {
	id, _ := sessions.TokenID(token)
	return "session:" + id
}

// age makes a session one that was last used long enough ago to be touched, if it is still there.
func age(t testing.TB, rdb redis.Cmdable, token string) {
	t.Helper()
	ctx := context.Background()
	text, err := rdb.Get(ctx, redisKey(token)).Result()
	if errors.Is(err, redis.Nil) {
		return
	}
	require.NoError(t, err)
	rec := &sessions.Record{}
	require.NoError(t, json.Unmarshal([]byte(text), rec))
	rec.Expires = rec.Expires.Add(-rec.Idle / 4)
	text2, err := json.Marshal(rec)
	require.NoError(t, err)
	require.NoError(t, rdb.Set(ctx, redisKey(token), text2, max(time.Until(rec.Expires), time.Millisecond)).Err())
}

func noKeyWithoutTTL(t testing.TB, rdb redis.Cmdable) {
	t.Helper()
	ctx := context.Background()
	for keys := rdb.Scan(ctx, 0, "*", 1000).Iterator(); keys.Next(ctx); {
		ttl, err := rdb.PTTL(ctx, keys.Val()).Result()
		require.NoError(t, err)
		require.NotEqual(t, time.Duration(-1), ttl, keys.Val())
	}
}
