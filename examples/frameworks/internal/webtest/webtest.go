// Package webtest has the tests that all programs of this module share: what their sessions must do, from outside, over
// real connections, with the cookies of a browser.
package webtest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/web"
	"handover.example/sessions/internal/redistest"
)

// NewHandler is what each program has: a handler with its sessions in this store.
type NewHandler = func(sessions.Store) (http.Handler, error)

// Run checks a program, with both protocols, on the embedded Redis with which it begins and on a real one.
func Run(t *testing.T, newHandler NewHandler) {
	for _, kind := range []struct {
		name  string
		http2 bool
		start func(*testing.T) *Backend
	}{
		{"http1 embedded", false, Embedded},
		{"http2 embedded", true, Embedded},
		{"http1 redis", false, realRedis},
	} {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			for _, c := range []struct {
				name string
				test func(*testing.T, *site)
			}{
				{"visit", visit},
				{"two browsers", twoBrowsers},
				{"two tabs at once", twoTabs},
				{"old cookie after logout", oldCookie},
				{"planted cookie after login", plantedCookie},
				{"pages without a session", noSession},
				{"panic", panics},
				{"store cannot be read", unreadable},
				{"store cannot be written", unwritable},
				{"POST from another site", crossSite},
				{"empty and long input", input},
			} {
				t.Run(c.name, func(t *testing.T) {
					b.SetFault(nil)
					require.NoError(t, b.Rdb.FlushAll(t.Context()).Err())
					store := &counting{RedisStore: b.Store}
					handler, err := newHandler(store)
					require.NoError(t, err)
					c.test(t, &site{Backend: b, store: store, Server: Serve(t, handler, kind.http2)})
				})
			}
		})
	}
	t.Run("program", func(t *testing.T) { program(t, newHandler) })
}

// Serve serves the handler until the test ends: over TLS with HTTP/2, or without.
func Serve(t *testing.T, handler http.Handler, http2 bool) *httptest.Server {
	ts := httptest.NewUnstartedServer(handler)
	ts.EnableHTTP2 = http2
	if http2 {
		ts.StartTLS()
	} else {
		ts.Start()
	}
	t.Cleanup(ts.Close)
	return ts
}

// Backend is a store, the Redis behind it, and a way to break it.
type Backend struct {
	Store *sessions.RedisStore
	Rdb   *redis.Client // passes by the faults
	// SetFault says which commands, named in upper case, fail from now on. Nil: none.
	SetFault func(func(command string) bool)
}

func (b *Backend) open(t *testing.T, addr string) *Backend {
	store, err := web.OpenStore(t.Context(), addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	b.Store = store.RedisStore
	return b
}

// Embedded is the Redis with which the programs begin.
func Embedded(t *testing.T) *Backend {
	m := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	return (&Backend{
		Rdb: rdb,
		SetFault: func(fault func(string) bool) {
			m.Server().SetPreHook(func(p *server.Peer, command string, _ ...string) bool {
				if fault == nil || !fault(strings.ToUpper(command)) {
					return false
				}
				p.WriteError("ERR broken by the test")
				return true
			})
		},
	}).open(t, m.Addr())
}

// realRedis breaks by losing connections.
func realRedis(t *testing.T) *Backend {
	s := redistest.Start(t)
	p := s.Proxy(t)
	return (&Backend{
		Rdb: s.Client(t),
		SetFault: func(fault func(string) bool) {
			if fault == nil {
				p.SetFault(nil)
				return
			}
			p.SetFault(func(args []string) redistest.Fault {
				if fault(args[0]) {
					return redistest.LoseCall
				}
				return redistest.Pass
			})
		},
	}).open(t, p.Addr)
}

// counting is the store, and how often it was asked for anything.
type counting struct {
	*sessions.RedisStore
	calls atomic.Int64
}

func (s *counting) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	s.calls.Add(1)
	return s.RedisStore.Load(ctx, name, token)
}

func (s *counting) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	s.calls.Add(1)
	return s.RedisStore.Save(ctx, name, rec, base)
}

func (s *counting) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	s.calls.Add(1)
	return s.RedisStore.Touch(ctx, name, rec)
}

func (s *counting) Delete(ctx context.Context, name string, rec *sessions.Record) error {
	s.calls.Add(1)
	return s.RedisStore.Delete(ctx, name, rec)
}

// site is a program that runs.
type site struct {
	*Backend
	*httptest.Server
	store *counting
}

func (s *site) keys(t *testing.T) int64 {
	n, err := s.Rdb.DBSize(t.Context()).Result()
	require.NoError(t, err)
	return n
}

func (s *site) browser(t *testing.T) *Browser { return NewBrowser(t, s.Server) }

// Browser is a client with cookies, and the answer that it looks at.
type Browser struct {
	*http.Client
	t    *testing.T
	base *url.URL

	Status int
	Header http.Header
	Body   string
}

// NewBrowser returns a browser without cookies. Like a real one it follows redirects.
func NewBrowser(t *testing.T, ts *httptest.Server) *Browser {
	base, err := url.Parse(ts.URL)
	require.NoError(t, err)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := *ts.Client() // it trusts the server's certificate
	client.Jar = jar
	client.Timeout = time.Minute // a handler that hangs is to be seen as such
	return &Browser{Client: &client, t: t, base: base}
}

// Do sends a request with a form and more headers, and reads the answer.
func (b *Browser) Do(method, path, form string, headers ...string) *Browser {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base.String()+path, strings.NewReader(form))
	require.NoError(b.t, err)
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.Client.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	b.Status, b.Header, b.Body = resp.StatusCode, resp.Header, string(body)
	return b
}

func (b *Browser) load() *Browser {
	b.t.Helper()
	b.Do("GET", "/", "")
	require.Equal(b.t, http.StatusOK, b.Status, "%s", b.Body)
	return b
}

func (b *Browser) post(path, form string) *Browser {
	b.t.Helper()
	b.Do("POST", path, form, "Sec-Fetch-Site", "same-origin", "Origin", b.base.String())
	require.Equal(b.t, http.StatusOK, b.Status, "%s", b.Body)
	return b
}

// Cookie returns the session cookie, nil if there is none.
func (b *Browser) Cookie() *http.Cookie {
	for _, c := range b.Jar.Cookies(b.base) {
		if c.Name == "session" {
			return c
		}
	}
	return nil
}

// plant puts a session cookie into the browser.
func (b *Browser) plant(c *http.Cookie) *Browser {
	b.Jar.SetCookies(b.base, []*http.Cookie{{Name: c.Name, Value: c.Value, Path: "/"}})
	return b
}

// shows returns the text of an element by its attribute, empty if there is none.
func (b *Browser) shows(attribute string) string {
	m := regexp.MustCompile(attribute + `">([^<]*)<`).FindStringSubmatch(b.Body)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

func (b *Browser) flash() string  { return b.shows(`role="status`) }
func (b *Browser) user() string   { return b.shows(`id="user`) }
func (b *Browser) visits() string { return b.shows(`id="visits`) }
func (b *Browser) id() string     { return b.shows(`id="session-id`) }

func visit(t *testing.T, s *site) {
	b := s.browser(t).load()
	require.Equal(t, "1", b.visits())
	require.Empty(t, b.user())
	anonymous := b.id()
	require.Len(t, anonymous, 22)
	require.Equal(t, "text/html; charset=utf-8", strings.ToLower(b.Header.Get("Content-Type")))
	require.Equal(t, "no-store", b.Header.Get("Cache-Control"))
	require.Equal(t, []string{"Cookie"}, b.Header.Values("Vary"))
	first := b.Cookie().Value
	require.NotContains(t, b.Body, first, "the page shows no token")

	b.load()
	require.Equal(t, "2", b.visits())
	require.Equal(t, anonymous, b.id())

	b.post("/login", "name=Ada")
	require.Equal(t, "Welcome, Ada. Your session has a new ID and kept its values.", b.flash())
	require.Equal(t, "Ada", b.user())
	require.Equal(t, "3", b.visits(), "login keeps the values")
	require.NotEqual(t, anonymous, b.id(), "login renews")
	require.NotEqual(t, first, b.Cookie().Value, "login renews")
	known := b.id()

	b.load()
	require.Empty(t, b.flash(), "a flash message is shown once")
	require.Equal(t, "Ada", b.user())
	require.Equal(t, "4", b.visits())

	b.post("/logout", "")
	require.Equal(t, "You are logged out. This is a new, empty session.", b.flash())
	require.Empty(t, b.user())
	require.Equal(t, "1", b.visits())
	require.NotEqual(t, known, b.id())
	b.load()
	require.Empty(t, b.flash())
	require.Empty(t, b.user())
}

func twoBrowsers(t *testing.T, s *site) {
	ada, bob := s.browser(t).load(), s.browser(t).load()
	ada.post("/login", "name=Ada")
	bob.post("/login", "name=Bob")
	require.Equal(t, "Ada", ada.load().user())
	require.Equal(t, "Bob", bob.load().user())
	bob.post("/logout", "")
	require.Equal(t, "Ada", ada.load().user())
}

func twoTabs(t *testing.T, s *site) {
	b := s.browser(t).load()
	var tabs sync.WaitGroup
	for range 10 {
		tabs.Go(func() {
			if resp, err := b.Get(s.URL + "/"); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	tabs.Wait()
	require.Equal(t, "12", b.load().visits())
}

// oldCookie is the back button, and the thief.
func oldCookie(t *testing.T, s *site) {
	b := s.browser(t)
	b.post("/login", "name=Ada")
	old := b.Cookie()
	b.post("/logout", "")

	again := s.browser(t).plant(old).load()
	require.Empty(t, again.user())
	require.Equal(t, "1", again.visits())
	require.NotEqual(t, old.Value, again.Cookie().Value, "a token that is no longer ours is not adopted")
}

func plantedCookie(t *testing.T, s *site) {
	b := s.browser(t).load()
	planted := b.Cookie()
	b.post("/login", "name=Ada")

	thief := s.browser(t).plant(planted).Do("GET", "/", "")
	require.Equal(t, http.StatusConflict, thief.Status, "for a moment; later, a session of its own")
	require.NotContains(t, thief.Body, "Ada")
	require.Equal(t, "Ada", b.load().user())
}

// noSession asks for what no handler answers.
func noSession(t *testing.T, s *site) {
	known := s.browser(t)
	known.post("/login", "name=Ada")
	for name, b := range map[string]*Browser{"stranger": s.browser(t), "known": known} {
		for request, want := range map[string]int{
			"GET /nothing":  http.StatusNotFound,
			"POST /nothing": http.StatusNotFound,
			"GET /login":    http.StatusMethodNotAllowed,
			"PUT /":         http.StatusMethodNotAllowed,
		} {
			method, path, _ := strings.Cut(request, " ")
			before := s.store.calls.Load()
			b.Do(method, path, "")
			require.Equal(t, want, b.Status, "%s, %s", name, request)
			require.Equal(t, before, s.store.calls.Load(), "%s, %s: the store was asked", name, request)
			require.Empty(t, b.Header.Values("Set-Cookie"), "%s, %s", name, request)
			require.NotContains(t, b.Header.Values("Vary"), "Cookie", "%s, %s", name, request)
		}
	}
	require.Equal(t, "Ada", known.load().user())
}

func panics(t *testing.T, s *site) {
	stranger := s.browser(t).Do("POST", "/fail", "")
	require.Equal(t, http.StatusInternalServerError, stranger.Status)
	require.Contains(t, stranger.Body, "Nothing of it was saved.")
	require.Nil(t, stranger.Cookie())
	require.Zero(t, s.keys(t), "nothing is stored")

	b := s.browser(t)
	b.post("/login", "name=Ada")
	require.Equal(t, "1", b.visits())
	cookie := b.Cookie().Value
	b.Do("POST", "/fail", "")
	require.Equal(t, http.StatusInternalServerError, b.Status)
	require.Empty(t, b.Header.Values("Set-Cookie"))
	require.Equal(t, "2", b.load().visits(), "the hundred visits of the handler that failed are not there")
	require.Equal(t, "Ada", b.user())
	require.Equal(t, cookie, b.Cookie().Value)
}

func everything(string) bool { return true }

// writes are the commands with which a session is written or ended.
func writes(command string) bool {
	switch command {
	case "SET", "EVAL", "EVALSHA", "DEL", "UNLINK":
		return true
	}
	return false
}

func unreadable(t *testing.T, s *site) {
	b := s.browser(t)
	b.post("/login", "name=Ada")
	cookie := b.Cookie().Value
	s.SetFault(everything)
	for _, request := range []string{"GET /", "POST /login", "POST /logout"} {
		method, path, _ := strings.Cut(request, " ")
		b.Do(method, path, "")
		require.Equal(t, http.StatusServiceUnavailable, b.Status, request)
		require.Contains(t, b.Body, "Nobody was logged out.", request)
		require.Empty(t, b.visits(), "%s: no page", request)
		require.Empty(t, b.Header.Values("Set-Cookie"), request)
	}
	s.SetFault(nil)
	require.Equal(t, "Ada", b.load().user(), "an outage is not a logout")
	require.Equal(t, "2", b.visits())
	require.Equal(t, cookie, b.Cookie().Value)
}

func unwritable(t *testing.T, s *site) {
	b := s.browser(t)
	b.post("/login", "name=Ada")
	cookie := b.Cookie().Value
	s.SetFault(writes)
	for _, request := range []string{"GET /", "POST /login", "POST /logout"} {
		method, path, _ := strings.Cut(request, " ")
		for who, b := range map[string]*Browser{"known": b, "stranger": s.browser(t)} {
			b.Do(method, path, "")
			require.Equal(t, http.StatusServiceUnavailable, b.Status, "%s, %s", who, request)
			require.Equal(t, "The change could not be saved. Please try again.\n", b.Body, "%s, %s: and nothing else", who, request)
			require.Equal(t, "text/plain; charset=utf-8", b.Header.Get("Content-Type"), "%s, %s", who, request)
			require.Empty(t, b.Header.Values("Set-Cookie"), "%s, %s", who, request)
			require.Empty(t, b.Header.Values("Location"), "%s, %s", who, request)
		}
	}
	s.SetFault(nil)
	require.Equal(t, "Ada", b.load().user())
	require.Equal(t, "2", b.visits())
	require.Equal(t, cookie, b.Cookie().Value)
}

func crossSite(t *testing.T, s *site) {
	b := s.browser(t)
	b.post("/login", "name=Ada")
	before := s.store.calls.Load()
	for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"} {
		for _, path := range []string{"/logout", "/login", "/fail", "/nothing"} {
			b.Do("POST", path, "name=Mallory", header, value)
			require.Equal(t, http.StatusForbidden, b.Status, "%s, %s", header, path)
			require.Empty(t, b.Header.Values("Set-Cookie"), "%s, %s", header, path)
		}
	}
	require.Equal(t, before, s.store.calls.Load(), "the session is not even asked for")
	require.Equal(t, "Ada", b.load().user())
}

func input(t *testing.T, s *site) {
	b := s.browser(t)
	b.post("/login", "name=+%0A+")
	require.Equal(t, "Please enter a name.", b.flash())
	require.Empty(t, b.user())
	b.post("/login", url.Values{"name": {"  <b>Ada</b>\r\n & " + strings.Repeat("é", 100) + "\xff"}}.Encode())
	require.Equal(t, "<b>Ada</b> & "+strings.Repeat("é", 47), b.user())
}

// program starts the whole program, as main does, and stops it.
func program(t *testing.T, newHandler NewHandler) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, printed := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(ctx, printed, "127.0.0.1:0", "", newHandler) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	address := regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(line)
	require.NotNil(t, address, line)

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(address[0])
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Contains(t, string(body), `<b id="visits">1</b>`)

	err = web.Serve(ctx, io.Discard, address[1], "", newHandler)
	require.ErrorContains(t, err, "choose another: -addr")
	err = web.Serve(ctx, io.Discard, "127.0.0.1:0", "127.0.0.1:1", newHandler)
	require.ErrorContains(t, err, "no store in Redis at 127.0.0.1:1")

	stop()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the program does not stop")
	}
}

// Main runs the tests, and fails if goroutines of this module outlive them.
func Main(m *testing.M) {
	code := m.Run()
	if left := leaked(5 * time.Second); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines are left after the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

func leaked(grace time.Duration) (left []string) {
	for deadline := time.Now().Add(grace); ; time.Sleep(5 * time.Millisecond) {
		left = left[:0]
		buf := make([]byte, 4<<20)
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "handover.example/sessions") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}
