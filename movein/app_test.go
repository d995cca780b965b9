package movein_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/movein"
	"handover.example/sessions/sessiontest"
)

// oldApp is an app with gorilla/sessions: its CookieStore opens the cookie with securecookie.DecodeMulti into a
// map[any]any, and Save seals it with securecookie.EncodeMulti.
func oldApp() http.Handler {
	codecs := securecookie.CodecsFromPairs(hashKey, blockKey)
	page := func(handle func(vals map[any]any, age *int) any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			vals := map[any]any{}
			if c, err := r.Cookie(cookieName); err == nil {
				if securecookie.DecodeMulti(cookieName, c.Value, &vals, codecs...) != nil {
					vals = map[any]any{}
				}
			}
			age := 30 * 86400
			answer := handle(vals, &age)
			if r.Method == http.MethodPost {
				text, err := securecookie.EncodeMulti(cookieName, vals, codecs...)
				if err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
				http.SetCookie(w, &http.Cookie{Name: cookieName, Value: text, Path: "/", MaxAge: age, HttpOnly: true})
			}
			_ = json.NewEncoder(w).Encode(answer)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("POST /login", page(func(vals map[any]any, _ *int) any {
		vals["user_id"], vals["prefs"], vals["login_at"] = 42, Prefs{"dark", 7}, time.Now()
		return nil
	}))
	mux.Handle("POST /visit", page(func(vals map[any]any, _ *int) any {
		n, _ := vals["visits"].(int64)
		vals["visits"] = n + 1
		return nil
	}))
	mux.Handle("POST /save", page(func(vals map[any]any, _ *int) any { return nil }))
	mux.Handle("POST /clear", page(func(vals map[any]any, _ *int) any { clear(vals); return nil }))
	mux.Handle("POST /flash", page(func(vals map[any]any, _ *int) any {
		list, _ := vals["_flash"].([]any)
		vals["_flash"] = append(list, "from the old app")
		return nil
	}))
	mux.Handle("POST /logout", page(func(_ map[any]any, age *int) any { *age = -1; return nil }))
	mux.Handle("GET /who", page(func(vals map[any]any, _ *int) any {
		w := who{}
		w.User, _ = vals["user_id"].(int) // as handlers do
		w.Visits, _ = vals["visits"].(int64)
		w.Prefs, _ = vals["prefs"].(Prefs)
		at, _ := vals["login_at"].(time.Time)
		w.LoggedIn = !at.IsZero()
		list, _ := vals["_flash"].([]any)
		for _, f := range list {
			w.Flashes = append(w.Flashes, f.(string))
		}
		return w
	}))
	return mux
}

// who is what both apps know of a session.
type who struct {
	User     int
	Visits   int64
	Prefs    Prefs
	LoggedIn bool
	Flashes  []string
}

var (
	userID  = sessions.NewKey[int]("user_id")
	visits  = sessions.NewKey[int64]("visits")
	prefs   = sessions.NewKey[Prefs]("prefs")
	loginAt = sessions.NewKey[time.Time]("login_at")
	flashes = sessions.NewKey[[]string]("_flash")
)

var appTypes = movein.Types{"prefs": Prefs{}, "login_at": time.Time{}, "visits": int64(0)}

// newApp is the same app with package sessions.
func newApp(t *testing.T, store sessions.Store, observe func(context.Context, sessions.Event)) http.Handler {
	mgr, err := sessions.New(sessions.Config{
		Store: store, Cookie: sessions.Cookie{Name: cookieName}, Observe: observe,
		IdleTimeout: 30 * 24 * time.Hour, AbsoluteTimeout: 60 * 24 * time.Hour,
	})
	require.NoError(t, err)
	page := func(handle func(s sessions.Session) any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			_ = json.NewEncoder(w).Encode(handle(s))
		}
	}
	mux := http.NewServeMux()
	mux.Handle("POST /login", page(func(s sessions.Session) any {
		s.Renew()
		require.NoError(t, errors.Join(userID.Set(s, 42), prefs.Set(s, Prefs{"dark", 7}), loginAt.Set(s, time.Now())))
		return nil
	}))
	mux.Handle("POST /visit", page(func(s sessions.Session) any {
		_, err := visits.Update(s, func(n int64) int64 { return n + 1 })
		require.NoError(t, err)
		return nil
	}))
	mux.Handle("POST /flash", page(func(s sessions.Session) any {
		_, err := flashes.Update(s, func(f []string) []string { return append(f, "from the new app") })
		require.NoError(t, err)
		return nil
	}))
	mux.Handle("POST /renew", page(func(s sessions.Session) any { s.Renew(); return nil }))
	mux.Handle("POST /logout", page(func(s sessions.Session) any { s.Destroy(); return nil }))
	mux.Handle("GET /who", page(func(s sessions.Session) any {
		w := who{}
		w.User, _ = userID.Get(s)
		w.Visits, _ = visits.Get(s)
		w.Prefs, _ = prefs.Get(s)
		_, w.LoggedIn = loginAt.Get(s)
		w.Flashes, _ = flashes.Get(s)
		return w
	}))
	return mgr.Wrap(mux)
}

// browser is a browser with one cookie.
type browser struct {
	t      *testing.T
	cookie string
	set    int // how many cookies it was sent
}

func (b *browser) do(app http.Handler, line string) string {
	b.t.Helper()
	var method, path string
	_, err := fmt.Sscan(line, &method, &path)
	require.NoError(b.t, err)
	r := httptest.NewRequest(method, "https://app.example"+path, nil)
	if b.cookie != "" {
		r.AddCookie(&http.Cookie{Name: cookieName, Value: b.cookie})
	}
	w := httptest.NewRecorder()
	app.ServeHTTP(w, r)
	require.Equal(b.t, http.StatusOK, w.Code, "%s: %s", line, w.Body)
	for _, c := range w.Result().Cookies() {
		b.set++
		if b.cookie = c.Value; c.MaxAge < 0 {
			b.cookie = ""
		}
	}
	return w.Body.String()
}

func (b *browser) who(app http.Handler) (w who) {
	b.t.Helper()
	require.NoError(b.t, json.Unmarshal([]byte(b.do(app, "GET /who")), &w))
	return w
}

// with returns another browser that has copied a cookie.
func (b *browser) with(cookie string) *browser { return &browser{t: b.t, cookie: cookie} }

func appStore(t *testing.T) *sessions.CookieStore {
	cfg := plainConfig()
	cfg.Types = appTypes
	return storeOver(t, cfg)
}

// Old and new instances share the sessions, and a session of the old one that is only read gets no other cookie.
func TestSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, app := oldApp(), newApp(t, appStore(t), nil)
		b := &browser{t: t}
		b.do(old, "POST /login")
		require.Equal(t, 1, b.set)
		want := who{User: 42, Prefs: Prefs{"dark", 7}, LoggedIn: true}
		for range 10 {
			time.Sleep(time.Hour)
			require.Equal(t, want, b.who(app))
		}
		require.Equal(t, 1, b.set, "reading sets no cookie")

		for i, line := range []string{"POST /visit", "POST /flash"} {
			for _, a := range []http.Handler{app, old, app, app, old, old} {
				b.do(a, line)
				if i == 0 {
					want.Visits++
				} else if a == old {
					want.Flashes = append(want.Flashes, "from the old app")
				} else {
					want.Flashes = append(want.Flashes, "from the new app")
				}
				require.Equal(t, want, b.who(old))
				require.Equal(t, want, b.who(app))
			}
		}
		b.do(app, "POST /renew")
		require.Equal(t, want, b.who(old))
		require.Equal(t, want, b.who(app))

		for _, out := range []http.Handler{old, app} {
			b.do(out, "POST /logout")
			require.Empty(t, b.cookie)
			require.Equal(t, who{}, b.who(old))
			require.Equal(t, who{}, b.who(app))
			b.do(app, "POST /login")
			require.Equal(t, who{User: 42, Prefs: Prefs{"dark", 7}, LoggedIn: true}, b.who(old))
		}
		b.do(old, "POST /clear")
		require.Equal(t, who{}, b.who(app))
	})
}

// A session that is in use stays, for longer than MaxAge, whichever app is used; the absolute timeout ends it. One that is
// not used ends with MaxAge.
func TestDailyUsersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		old, app := oldApp(), newApp(t, appStore(t), nil)
		b := &browser{t: t}
		b.do(old, "POST /login")
		for d := range 59 {
			time.Sleep(day)
			require.Equal(t, 42, b.who(app).User, "day %d", d)
			require.Equal(t, 42, b.who(old).User, "day %d", d)
		}
		require.Less(t, b.set, 59/3+2, "a cookie for each eighth of the idle timeout")
		time.Sleep(2 * day)
		require.Zero(t, b.who(app).User)

		b = &browser{t: t}
		b.do(app, "POST /login")
		for d := range 58 { // only the old app is used
			time.Sleep(day)
			b.do(old, "POST /save")
			require.Equal(t, 42, b.who(old).User, "day %d", d)
		}
		require.Equal(t, 42, b.who(app).User)
		time.Sleep(31 * day)
		require.Zero(t, b.who(app).User)
		require.Zero(t, b.who(old).User)
	})
}

// From the old program to another store, with copies of the cookie from before and after each step.
func TestMoveToAnotherStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := oldApp()
		fresh := sessiontest.NewMemoryStore()
		dual, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: appStore(t), New: fresh, CheckRevoked: true})
		require.NoError(t, err)
		var mu sync.Mutex
		var outcomes []sessions.Outcome
		app := newApp(t, dual, func(_ context.Context, e sessions.Event) {
			mu.Lock()
			defer mu.Unlock()
			outcomes = append(outcomes, e.Outcome)
		})
		phases := []sessions.Phase{sessions.OldOnly, sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly}
		users := make([]*browser, 3*len(phases))
		var want who
		for i := range users {
			users[i] = &browser{t: t}
			users[i].do(old, "POST /login")
		}
		copies := map[*browser][]string{}
		want = who{User: 42, Prefs: Prefs{"dark", 7}, LoggedIn: true}
		ended := map[*browser]bool{}
		walk := append(phases, sessions.DualReadNew, sessions.DualReadOld, sessions.OldOnly, sessions.DualReadOld, sessions.DualReadNew)
		n := int64(0) // visits of each user
		for step, phase := range walk {
			dual.SetPhase(phase)
			time.Sleep(time.Hour)
			for _, b := range users {
				if ended[b] {
					continue
				}
				want.Visits = n
				require.Equal(t, want, b.who(app), "%v", phase)
				copies[b] = append(copies[b], b.cookie)
				b.do(app, "POST /visit")
				copies[b] = append(copies[b], b.cookie)
				want.Visits++
				require.Equal(t, want, b.who(app), "%v", phase)
				if phase == sessions.OldOnly { // the old program reads what was written
					require.Equal(t, want, b.who(old), "%v", phase)
					b.do(old, "POST /visit") // and writes what the next phases must not take for stale
					want.Visits++
				}
			}
			n = want.Visits
			if phase != sessions.OldOnly {
				b := users[step]
				b.do(app, "POST /logout")
				ended[b] = true
				b = users[len(users)-1]
				last := b.cookie
				b.do(app, "POST /renew")
				require.Zero(t, b.with(last).who(app).User, "%v: the old token", phase)
				require.Equal(t, want, b.who(app))
				copies[b] = nil
			}
			if phase != sessions.OldOnly {
				for b := range ended {
					for i, text := range copies[b] {
						require.Zero(t, b.with(text).who(app).User, "%v: copy %d opens after the logout", phase, i)
					}
				}
			}
		}
		require.NotEmpty(t, ended)
		require.NotContains(t, outcomes, sessions.OutcomeTampered)
		require.NotContains(t, outcomes, sessions.OutcomeUndecodable)
		require.NotContains(t, outcomes, sessions.OutcomeError)
	})
}
