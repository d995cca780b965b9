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

// TestTimeoutHandler shows where http.TimeoutHandler belongs: inside of Wrap.
func TestTimeoutHandler(t *testing.T) {
	ask := func(wrap func(*sessions.Manager, http.Handler) http.Handler) (status int, cookies []string, stored int) {
		synctest.Test(t, func(t *testing.T) {
			store := sessiontest.NewMemoryStore()
			mgr, err := sessions.New(sessions.Config{Store: store})
			require.NoError(t, err)
			slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				webtest.Count(r)
				<-r.Context().Done()
				_, _ = w.Write([]byte("too late"))
			})
			w := httptest.NewRecorder()
			wrap(mgr, slow).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			synctest.Wait()
			status, cookies, stored = w.Code, w.Result().Header.Values("Set-Cookie"), store.Len()
		})
		return status, cookies, stored
	}
	status, cookies, stored := ask(func(mgr *sessions.Manager, slow http.Handler) http.Handler {
		return mgr.Wrap(http.TimeoutHandler(slow, time.Second, "timeout"))
	})
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Len(t, cookies, 1)
	require.Equal(t, 1, stored)

	status, cookies, stored = ask(func(mgr *sessions.Manager, slow http.Handler) http.Handler {
		return http.TimeoutHandler(mgr.Wrap(slow), time.Second, "timeout")
	})
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Empty(t, cookies, "the session is saved, and the client never gets its cookie")
	require.Equal(t, 1, stored)
}
