package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/web"
	"handover.example/sessions/examples/frameworks/internal/webtest"
	"handover.example/sessions/sessiontest"
)

func routes(step <-chan struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]int{"n": webtest.Count(r)})
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		http.Redirect(w, r, "/elsewhere", http.StatusSeeOther)
	})
	mux.HandleFunc("/empty", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		http.Error(w, "no", http.StatusForbidden)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		http.ServeFileFS(w, r, webtest.Files, "file.txt")
	})
	mux.HandleFunc("/flush", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "flushed\n")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		webtest.Stream(r, w, func() { _ = http.NewResponseController(w).Flush() }, step)
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		_ = webtest.Hijacked(w)
	})
	mux.HandleFunc("/panic", func(_ http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		panic("on purpose")
	})
	return mux
}

func TestResponses(t *testing.T) {
	webtest.Responses(t, func(mgr *sessions.Manager, step <-chan struct{}) http.Handler { return mgr.Wrap(routes(step)) })
}

func TestRecover(t *testing.T) {
	require.False(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler { return web.Recover(mgr.Wrap(routes(nil))) }))
	require.True(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler { return mgr.Wrap(web.Recover(routes(nil))) }),
		"a panic that is recovered from inside of Wrap is a response like any other")
}

// TestTimeoutHandler shows where http.TimeoutHandler belongs: outside of Wrap. Inside, it saves half of what a handler does.
func TestTimeoutHandler(t *testing.T) {
	first, second := sessions.NewKey[int]("first"), sessions.NewKey[int]("second")
	ask := func(wrap func(*sessions.Manager, http.Handler) http.Handler) (both bool) {
		synctest.Test(t, func(t *testing.T) {
			mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore()})
			require.NoError(t, err)
			session := func(r *http.Request) sessions.Session {
				s, err := sessions.Get(r.Context())
				require.NoError(t, err)
				return s
			}
			cookie := ""
			send := func(h http.Handler) int {
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("Cookie", cookie)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				time.Sleep(time.Minute) // until the handler has ended, too
				for _, c := range w.Result().Cookies() {
					cookie = c.Name + "=" + c.Value
				}
				return w.Code
			}
			send(mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { webtest.Count(r) })))
			require.Equal(t, http.StatusServiceUnavailable, send(wrap(mgr, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				s := session(r)
				require.NoError(t, first.Set(s, 1))
				time.Sleep(10 * time.Second)
				require.NoError(t, second.Set(s, 2))
			}))))
			send(mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, one := first.Get(session(r))
				_, two := second.Get(session(r))
				require.True(t, one)
				both = two
			})))
		})
		return both
	}
	require.True(t, ask(func(mgr *sessions.Manager, slow http.Handler) http.Handler {
		return http.TimeoutHandler(mgr.Wrap(slow), time.Second, "timeout")
	}))
	require.False(t, ask(func(mgr *sessions.Manager, slow http.Handler) http.Handler {
		return mgr.Wrap(http.TimeoutHandler(slow, time.Second, "timeout"))
	}))
}
