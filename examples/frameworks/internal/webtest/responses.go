package webtest

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// Visits is what the handlers of these tests change before they answer.
var Visits = sessions.NewKey[int]("visits")

// Count adds one to the visits of a request's session.
func Count(r *http.Request) int {
	s, err := sessions.Get(r.Context())
	if err != nil {
		panic(err)
	}
	n, err := Visits.Update(s, func(n int) int { return n + 1 })
	if err != nil {
		panic(err)
	}
	return n
}

// Stream writes three lines, and flushes after each, by the means of a framework. Before the third it waits for step, and
// counts another visit. A flush that failed says nothing in most frameworks, so the error of the next write must be
// looked at: without it a handler would go on for nobody.
func Stream(r *http.Request, w io.Writer, flush func(), step <-chan struct{}) {
	Count(r)
	for _, line := range []string{"one\n", "more\n", "two\n"} {
		if line == "two\n" {
			select {
			case <-step:
			case <-r.Context().Done():
				return
			}
			Count(r)
		}
		if _, err := io.WriteString(w, line); err != nil {
			return
		}
		flush()
	}
}

// Files has a file.txt.
var Files = fstest.MapFS{"file.txt": {Data: []byte("a file\n")}}

// Hijacked writes the answer of a handler that has taken over its connection.
func Hijacked(w http.ResponseWriter) error {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhijacked\n")
	return rw.Flush()
}

// Fixture is a server with sessions in an embedded Redis, and a browser that looks at it.
type Fixture struct {
	*Backend
	*Browser
	Manager *sessions.Manager
	server  *httptest.Server
}

// NewFixture serves what build makes. The browser does not follow redirects.
func NewFixture(t *testing.T, http2 bool, build func(*sessions.Manager) http.Handler) *Fixture {
	b := Embedded(t)
	mgr, err := sessions.New(sessions.Config{Store: b.Store})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/", build(mgr))
	mux.Handle("/visits", mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			panic(err)
		}
		n, _ := Visits.Get(s)
		fmt.Fprint(w, n)
	})))
	ts := Serve(t, mux, http2)
	f := &Fixture{Backend: b, Browser: NewBrowser(t, ts), Manager: mgr, server: ts}
	f.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return f
}

// Open begins to read an answer, which ends with the test.
func (f *Fixture) Open(path string, headers ...string) *http.Response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), "GET", f.base.String()+path, nil)
	require.NoError(f.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := f.Client.Do(req)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// Visits asks for the visits of this browser, by a request that passes by the framework.
func (f *Fixture) Visits() string {
	f.t.Helper()
	other := *f.Browser
	other.Do("GET", "/visits", "")
	require.Equal(f.t, http.StatusOK, other.Status)
	return other.Body
}

// BreakWrites lets sessions be read, and no longer written.
func (f *Fixture) BreakWrites() { f.SetFault(writes) }

// Responses checks each way in which a framework can answer. In the handler of build each of these paths counts a visit,
// and answers by the means of the framework: /json with {"n":1}, /redirect to /elsewhere, /empty with 204, /abort with
// 403, /file with Files, /flush with a flush before its body, /stream with Stream, /hijack with Hijacked.
func Responses(t *testing.T, build func(mgr *sessions.Manager, step <-chan struct{}) http.Handler) {
	answers := []struct {
		path, body string
		status     int
	}{
		{"/json", `{"n":%s}`, http.StatusOK},
		{"/redirect", "", http.StatusSeeOther},
		{"/empty", "", http.StatusNoContent},
		{"/abort", "", http.StatusForbidden},
		{"/file", "a file\n", http.StatusOK},
		{"/flush", "flushed\n", http.StatusOK},
	}
	for name, http2 := range map[string]bool{"http1": false, "http2": true} {
		t.Run(name, func(t *testing.T) {
			step := make(chan struct{})
			start := func(t *testing.T) *Fixture {
				return NewFixture(t, http2, func(mgr *sessions.Manager) http.Handler { return build(mgr, step) })
			}
			t.Run("saved before the answer", func(t *testing.T) {
				for _, a := range answers {
					f := start(t)
					for _, n := range []string{"1", "2"} {
						f.Do("GET", a.path, "")
						require.Equal(t, a.status, f.Status, a.path)
						if a.path == "/json" {
							require.JSONEq(t, fmt.Sprintf(a.body, n), f.Body)
						} else if a.body != "" {
							require.Equal(t, a.body, f.Body, a.path)
						}
						require.Contains(t, f.Header.Values("Vary"), "Cookie", a.path)
						require.Equal(t, n, f.Visits(), a.path)
					}
				}
			})
			t.Run("not saved, so not answered", func(t *testing.T) {
				f := start(t)
				f.Do("GET", "/json", "")
				cookie := f.Cookie().Value
				f.BreakWrites()
				paths := []string{"/json", "/redirect", "/empty", "/abort", "/file", "/flush", "/stream"}
				if !http2 {
					paths = append(paths, "/hijack")
				}
				for _, path := range paths {
					f.Do("GET", path, "")
					require.Equal(t, http.StatusServiceUnavailable, f.Status, path)
					require.Equal(t, "The change could not be saved. Please try again.\n", f.Body, path)
					require.Equal(t, "text/plain; charset=utf-8", f.Header.Get("Content-Type"), path)
					require.Empty(t, f.Header.Values("Location"), path)
					require.Empty(t, f.Header.Values("Set-Cookie"), path)
				}
				f.SetFault(nil)
				require.Equal(t, "1", f.Visits())
				require.Equal(t, cookie, f.Cookie().Value)
			})
			t.Run("stream", func(t *testing.T) {
				f := start(t)
				body := bufio.NewReader(f.Open("/stream").Body)
				line, err := body.ReadString('\n')
				require.NoError(t, err)
				require.Contains(t, line, "one")
				require.Equal(t, "1", f.Visits(), "seen while the stream is open")
				step <- struct{}{}
				rest, err := io.ReadAll(body)
				require.NoError(t, err)
				require.Contains(t, string(rest), "two")
				require.Equal(t, "2", f.Visits(), "a change during the stream is saved when it ends")
			})
			if http2 {
				return // a connection of HTTP/2 cannot be taken over
			}
			t.Run("hijack", func(t *testing.T) {
				f := start(t)
				f.Do("GET", "/json", "")
				f.Do("GET", "/hijack", "")
				require.Equal(t, "hijacked\n", f.Body)
				require.Equal(t, "2", f.Visits())
			})
		})
	}
}

// Panic asks a handler that counts a visit at /json, and at /panic counts one and panics. It reports whether the visit of
// the handler that panicked was saved; the answer must be 500 in any case.
func Panic(t *testing.T, build func(*sessions.Manager) http.Handler) (saved bool) {
	f := NewFixture(t, false, build)
	f.Do("GET", "/json", "")
	require.Equal(t, http.StatusOK, f.Status)
	f.Do("GET", "/panic", "")
	require.Equal(t, http.StatusInternalServerError, f.Status)
	switch n := f.Visits(); n {
	case "1":
		return false
	case "2":
		return true
	default:
		t.Fatalf("%s visits", n)
		return false
	}
}
