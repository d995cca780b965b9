package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/webtest"
	"handover.example/sessions/sessiontest"
)

type middlewares = []func(http.Handler) http.Handler

func routes(step <-chan struct{}, use middlewares) http.Handler {
	r := chi.NewRouter()
	r.Use(use...)
	r.Get("/json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]int{"n": webtest.Count(r)})
	})
	r.Get("/redirect", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		http.Redirect(w, r, "/elsewhere", http.StatusSeeOther)
	})
	r.Get("/empty", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		w.WriteHeader(http.StatusNoContent)
	})
	r.Get("/abort", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		http.Error(w, "no", http.StatusForbidden)
	})
	r.Get("/file", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		http.ServeFileFS(w, r, webtest.Files, "file.txt")
	})
	r.Get("/flush", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "flushed\n")
	})
	r.Get("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		webtest.Stream(r, w, func() { _ = http.NewResponseController(w).Flush() }, step)
	})
	r.Get("/hijack", func(w http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		_ = webtest.Hijacked(w)
	})
	r.Get("/panic", func(_ http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		panic("on purpose")
	})
	r.Get("/slow", func(_ http.ResponseWriter, r *http.Request) {
		webtest.Count(r)
		<-r.Context().Done()
	})
	return r
}

// wrapWriter is a middleware that looks at the response, as loggers do.
func wrapWriter(seen func(middleware.WrapResponseWriter)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
			next.ServeHTTP(ww, r)
			seen(ww)
		})
	}
}

// TestResponses has the middlewares of chi that wrap the response on either side of the sessions.
func TestResponses(t *testing.T) {
	others := middlewares{middleware.Compress(5), wrapWriter(func(middleware.WrapResponseWriter) {}), middleware.Timeout(time.Minute)}
	for name, use := range map[string]func(*sessions.Manager) middlewares{
		"alone":       func(mgr *sessions.Manager) middlewares { return middlewares{mgr.Wrap} },
		"others out":  func(mgr *sessions.Manager) middlewares { return append(others[:3:3], mgr.Wrap) },
		"others in":   func(mgr *sessions.Manager) middlewares { return append(middlewares{mgr.Wrap}, others...) },
		"around both": func(mgr *sessions.Manager) middlewares { return append(append(others[:3:3], mgr.Wrap), others...) },
	} {
		t.Run(name, func(t *testing.T) {
			webtest.Responses(t, func(mgr *sessions.Manager, step <-chan struct{}) http.Handler { return routes(step, use(mgr)) })
		})
	}
}

func TestRecover(t *testing.T) {
	require.False(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler {
		return routes(nil, middlewares{middleware.Recoverer, mgr.Wrap})
	}))
	require.True(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler {
		return routes(nil, middlewares{mgr.Wrap, middleware.Recoverer})
	}), "a panic that is recovered from inside of Wrap is a response like any other")
}

// TestWhatALoggerSees: only from outside it sees what the client got.
func TestWhatALoggerSees(t *testing.T) {
	var inside, outside int
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		return routes(nil, middlewares{
			wrapWriter(func(w middleware.WrapResponseWriter) { outside = w.Status() }),
			mgr.Wrap,
			wrapWriter(func(w middleware.WrapResponseWriter) { inside = w.Status() }),
		})
	})
	f.BreakWrites()
	f.Do("GET", "/redirect", "")
	require.Equal(t, http.StatusServiceUnavailable, f.Status)
	require.Equal(t, http.StatusServiceUnavailable, outside)
	require.Equal(t, http.StatusSeeOther, inside)
}

// TestTimeout: the handler gives up, and the middleware answers. Inside of Wrap, what was changed until then is saved.
// Outside, the deadline is that of the request: no session is begun.
func TestTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		use          func(*sessions.Manager) middlewares
		status, kept int
	}{
		"outside": {func(mgr *sessions.Manager) middlewares { return middlewares{middleware.Timeout(time.Second), mgr.Wrap} }, http.StatusServiceUnavailable, 0},
		"inside":  {func(mgr *sessions.Manager) middlewares { return middlewares{mgr.Wrap, middleware.Timeout(time.Second)} }, http.StatusGatewayTimeout, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := sessiontest.NewMemoryStore()
			mgr, err := sessions.New(sessions.Config{Store: store})
			require.NoError(t, err)
			w := httptest.NewRecorder()
			routes(nil, c.use(mgr)).ServeHTTP(w, httptest.NewRequest("GET", "/slow", nil))
			require.Equal(t, c.status, w.Code, name)
			require.Len(t, w.Result().Header.Values("Set-Cookie"), c.kept, name)
			require.Equal(t, c.kept, store.Len(), name)
		})
	}
}

// TestCompressedStream: a flush reaches the client through the compression, after the session was saved.
func TestCompressedStream(t *testing.T) {
	step := make(chan struct{})
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		return routes(step, middlewares{middleware.Compress(5), mgr.Wrap})
	})
	f.Do("GET", "/json", "", "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", f.Header.Get("Content-Encoding"))
	require.ElementsMatch(t, []string{"Cookie", "Accept-Encoding"}, f.Header.Values("Vary"))

	resp := f.Open("/stream", "Accept-Encoding", "gzip")
	unzip, err := gzip.NewReader(resp.Body)
	require.NoError(t, err)
	line := make([]byte, len("one\n"))
	_, err = io.ReadFull(unzip, line)
	require.NoError(t, err)
	require.Equal(t, "one\n", string(line))
	require.Equal(t, "2", f.Visits())
	step <- struct{}{}
	rest, err := io.ReadAll(unzip)
	require.NoError(t, err)
	require.Equal(t, "more\ntwo\n", string(rest))
	require.Equal(t, "3", f.Visits())
}

// TestRouterAnswers: what chi answers by itself leaves the session alone, and a handler of the program for such cases has it.
func TestRouterAnswers(t *testing.T) {
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		r := chi.NewRouter()
		r.Use(mgr.Wrap)
		r.Get("/known", func(http.ResponseWriter, *http.Request) {})
		r.Route("/sub", func(r chi.Router) {
			r.NotFound(func(w http.ResponseWriter, r *http.Request) {
				webtest.Count(r)
				http.Error(w, "nothing here", http.StatusNotFound)
			})
		})
		return r
	})
	f.Do("GET", "/nothing", "")
	require.Equal(t, http.StatusNotFound, f.Status)
	require.Nil(t, f.Cookie())
	f.Do("POST", "/known", "")
	require.Equal(t, http.StatusMethodNotAllowed, f.Status)
	require.Nil(t, f.Cookie())
	f.Do("GET", "/sub/nothing", "")
	require.Equal(t, http.StatusNotFound, f.Status)
	require.Equal(t, "1", f.Visits())
}

// RealIP writes the address of the client where that of the proxy was. Outside of Wrap the proxy is then not known any
// more, and the event says so; inside, nothing is lost.
func TestRealIP(t *testing.T) {
	realIP := middleware.RealIP //lint:ignore SA1019 deprecated, because clients can lie to it, and in use all the same
	for name, c := range map[string]struct {
		use    func(*sessions.Manager) middlewares
		secure bool
	}{
		"inside":  {func(mgr *sessions.Manager) middlewares { return middlewares{mgr.Wrap, realIP} }, true},
		"outside": {func(mgr *sessions.Manager) middlewares { return middlewares{realIP, mgr.Wrap} }, false},
	} {
		var said []string
		mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Observe: func(_ context.Context, e sessions.Event) {
			if e.Outcome == sessions.OutcomeUntrustedProxy {
				said = append(said, e.Detail)
			}
		}})
		require.NoError(t, err)
		r := httptest.NewRequest("GET", "/json", nil)
		r.RemoteAddr = "10.0.0.5:40000"
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		w := httptest.NewRecorder()
		routes(nil, c.use(mgr)).ServeHTTP(w, r)
		require.Len(t, w.Result().Cookies(), 1)
		require.Equal(t, c.secure, w.Result().Cookies()[0].Secure, name)
		if c.secure {
			require.Empty(t, said, name)
			continue
		}
		require.Len(t, said, 1)
		require.Contains(t, said[0], `RemoteAddr is "203.0.113.9", an address without a port`)
	}
}
