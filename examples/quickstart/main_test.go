package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// browser is a client with cookies, and the page that it has open.
type browser struct {
	t    *testing.T
	base string
	http.Client
	page string
}

func open(t *testing.T, base string) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	b := &browser{t: t, base: base, Client: http.Client{Jar: jar}}
	b.reload()
	return b
}

func (b *browser) read(resp *http.Response, err error) {
	b.t.Helper()
	require.NoError(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	require.Equal(b.t, http.StatusOK, resp.StatusCode, "%s", body)
	b.page = string(body)
}

func (b *browser) reload() { b.t.Helper(); b.read(b.Get(b.base)) }

func (b *browser) post(path, field, value string) {
	b.t.Helper()
	b.read(b.PostForm(b.base+path, url.Values{field: {value}}))
}

// shows returns the text of the element with this id, empty if there is none.
func (b *browser) shows(id string) string {
	m := regexp.MustCompile(`id="` + id + `">([^<]*)<`).FindStringSubmatch(b.page)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

func (b *browser) flash() string {
	m := regexp.MustCompile(`role="status">([^<]*)<`).FindStringSubmatch(b.page)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

func (b *browser) cookie() *http.Cookie {
	u, err := url.Parse(b.base)
	require.NoError(b.t, err)
	cookies := b.Jar.Cookies(u)
	require.Len(b.t, cookies, 1)
	return cookies[0]
}

// start serves the page on a store of this kind, and collects the event log.
func start(t *testing.T, kind string) (base string, events *syncBuffer) {
	store, name, err := openStore(t.Context(), kind, "")
	require.NoError(t, err)
	events = &syncBuffer{}
	handler, err := server{ServedBy: "one:8080", PID: 7, Store: name}.handler(store, log.New(events, "", 0))
	require.NoError(t, err)
	ts := httptest.NewServer(handler)
	t.Cleanup(ts.Close)
	return ts.URL, events
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestVisit(t *testing.T) {
	for _, kind := range []string{"redis", "cookie"} {
		t.Run(kind, func(t *testing.T) {
			base, events := start(t, kind)
			b := open(t, base)
			require.Equal(t, "one:8080, pid 7", b.shows("served-by"))
			require.Equal(t, "1", b.shows("visits"))
			anonymous := b.shows("session-id")
			require.Len(t, anonymous, 22)

			b.reload()
			require.Equal(t, "2", b.shows("visits"))
			require.Equal(t, anonymous, b.shows("session-id"))

			b.post("/note", "note", "  <b>milk</b>\r\n & eggs ")
			require.Equal(t, "Your note is saved.", b.flash())
			require.Equal(t, "<b>milk</b> & eggs", b.shows("note-shown"))
			b.reload()
			require.Empty(t, b.flash(), "a flash message is shown once")
			require.Equal(t, "<b>milk</b> & eggs", b.shows("note-shown"))

			b.post("/login", "name", "Ada")
			require.Contains(t, b.flash(), "Welcome, Ada.")
			require.Equal(t, "Ada", b.shows("user"))
			require.NotEqual(t, anonymous, b.shows("session-id"), "login renews")
			require.Equal(t, "<b>milk</b> & eggs", b.shows("note-shown"), "login keeps the values")
			require.Equal(t, "5", b.shows("visits"))
			known, token := b.shows("session-id"), b.cookie().Value

			b.post("/logout", "", "")
			require.Contains(t, b.flash(), "You are logged out.")
			require.Empty(t, b.shows("user"))
			require.Empty(t, b.shows("note-shown"))
			require.Equal(t, "1", b.shows("visits"))
			require.NotEqual(t, known, b.shows("session-id"))

			require.Contains(t, events.String(), "renew    created")
			require.Contains(t, events.String(), "destroy  deleted    "+known)
			require.NotContains(t, events.String(), token)
			require.NotContains(t, events.String(), "milk")
		})
	}
}

func TestReplayAfterLogout(t *testing.T) {
	base, events := start(t, "redis")
	b := open(t, base)
	b.post("/login", "name", "Ada")
	stolen, id := b.cookie(), b.shows("session-id")
	b.post("/logout", "", "")

	thief := open(t, base)
	u, err := url.Parse(base)
	require.NoError(t, err)
	thief.Jar.SetCookies(u, []*http.Cookie{{Name: stolen.Name, Value: stolen.Value, Path: "/"}})
	thief.reload()
	require.Empty(t, thief.shows("user"))
	require.Equal(t, "1", thief.shows("visits"))
	require.NotEqual(t, stolen.Value, thief.cookie().Value, "a token that is no longer ours is not adopted")
	require.Contains(t, events.String(), "reject   unknown    "+id)
}

func TestPlantedCookieIsWorthNothingAfterLogin(t *testing.T) {
	base, _ := start(t, "redis")
	b := open(t, base)
	planted := b.cookie()
	b.post("/login", "name", "Ada")

	thief := open(t, base)
	u, err := url.Parse(base)
	require.NoError(t, err)
	thief.Jar.SetCookies(u, []*http.Cookie{{Name: planted.Name, Value: planted.Value, Path: "/"}})
	resp, err := thief.Get(base)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusConflict, resp.StatusCode, "for a moment; later, a session of its own")
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NotContains(t, string(body), "Ada")
	b.reload()
	require.Equal(t, "Ada", b.shows("user"))
}

func TestTwoTabsCountBoth(t *testing.T) {
	base, _ := start(t, "redis")
	b := open(t, base)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			resp, err := b.Get(base)
			if err == nil {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	b.reload()
	require.Equal(t, "12", b.shows("visits"))
}

func TestPostFromAnotherSiteIsRefused(t *testing.T) {
	base, events := start(t, "redis")
	post := func(header, value string) *http.Response {
		req, err := http.NewRequest("POST", base+"/login", strings.NewReader("name=Mallory"))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set(header, value)
		resp, err := http.DefaultTransport.RoundTrip(req) // redirects are not followed
		require.NoError(t, err)
		resp.Body.Close()
		return resp
	}
	for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"} {
		resp := post(header, value)
		require.Equal(t, http.StatusForbidden, resp.StatusCode, header)
		require.Empty(t, resp.Cookies())
		require.Empty(t, events.String(), "the session is not even asked for")
	}
	for header, value := range map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": base} {
		resp := post(header, value)
		require.Equal(t, http.StatusSeeOther, resp.StatusCode, header)
		require.Len(t, resp.Cookies(), 1)
	}
}

func TestEmptyAndLongInput(t *testing.T) {
	base, _ := start(t, "cookie")
	b := open(t, base)
	b.post("/login", "name", " \n ")
	require.Equal(t, "Please enter a name.", b.flash())
	require.Empty(t, b.shows("user"))
	b.post("/note", "note", strings.Repeat("é", 5000)+"\xff")
	require.Equal(t, strings.Repeat("é", 120), b.shows("note-shown"))
	b.post("/note", "note", strings.Repeat("x", 1<<20)) // over the limit of a body: nothing is read
	require.Empty(t, b.shows("note-shown"))

	resp, err := http.DefaultTransport.RoundTrip(mustPost(t, base+"/note", strings.Repeat("x", 64<<10))) // with the name, a little more
	require.NoError(t, err)
	resp.Body.Close()
	require.True(t, resp.Close, "the connection of a client that sends too much is closed")
}

func mustPost(t *testing.T, url, note string) *http.Request {
	req, err := http.NewRequest("POST", url, strings.NewReader("note="+note))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

// The page has what its policy lets a browser use: its own style and icon, and forms that lead to itself.
func TestPolicy(t *testing.T) {
	base, _ := start(t, "cookie")
	resp, err := http.Get(base)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	page, header := string(body), resp.Header
	style := regexp.MustCompile("(?s)<style>(.*)</style>").FindStringSubmatch(page)
	require.NotNil(t, style)
	sum := sha256.Sum256([]byte(style[1]))
	require.Contains(t, header.Get("Content-Security-Policy"), "style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	for _, s := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'", "img-src data:"} {
		require.Contains(t, header.Get("Content-Security-Policy"), s)
	}
	require.Equal(t, []string{"nosniff"}, header.Values("X-Content-Type-Options"))
	require.Equal(t, []string{"same-origin"}, header.Values("Referrer-Policy"))
	require.NotRegexp(t, `(?i)<script|\sstyle=|\son\w+=|<style>.*<style>|<(img|iframe|object|base)\b`, page)
	for _, m := range regexp.MustCompile(`<form [^>]*action="([^"]*)"|<link [^>]*href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		require.True(t, strings.HasPrefix(m[1], "/") || strings.HasPrefix(m[2], "data:"), m[0])
	}
}

// What an event says of a request may hold anything.
func TestEventsAreQuoted(t *testing.T) {
	var b bytes.Buffer
	printEvent(log.New(&b, "", 0), sessions.Event{Detail: "a\nforged line", Err: errors.New("\x1b[31m")})
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
	require.Contains(t, b.String(), `"a\nforged line"  "\x1b[31m"`)
}

func TestFlags(t *testing.T) {
	for name, args := range map[string][2]string{
		"unknown store":     {"memcached", ""},
		"cookie with redis": {"cookie", "127.0.0.1:6379"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := openStore(context.Background(), args[0], args[1])
			require.ErrorContains(t, err, "-store must be redis or cookie")
		})
	}
	_, _, err := openStore(context.Background(), "redis", "127.0.0.1:1")
	require.ErrorContains(t, err, "no answer from Redis")

	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	err = run(strings.TrimPrefix(taken.URL, "http://"), "", "cookie")
	require.ErrorContains(t, err, "choose another: -addr")
}
