package sessions_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// Stores

// storeCase is one kind of store under test.
type storeCase struct {
	name    string
	server  bool // the state is on the server: changes are merged, and what is destroyed stays so
	network bool // not for synctest
	make    func(t *testing.T) sessions.Store
}

var (
	memoryStore = storeCase{name: "memory", server: true, make: func(*testing.T) sessions.Store { return sessiontest.NewMemoryStore() }}
	cookieStore = storeCase{name: "cookie", make: func(t *testing.T) sessions.Store { return cookieStoreWith(t, secretA) }}
	redisStore  = storeCase{name: "redis", server: true, network: true, make: func(t *testing.T) sessions.Store {
		rdb := redistest.Start(t).Client(t)
		checkTTLs(t, rdb)
		return redisStoreOver(t, rdb)
	}}
	miniStore = storeCase{name: "miniredis", server: true, network: true, make: func(t *testing.T) sessions.Store {
		return redisStoreOver(t, miniClient(t))
	}}

	stores = []storeCase{memoryStore, cookieStore, redisStore, miniStore}
)

// eachStore runs a subtest for every kind of store.
func eachStore(t *testing.T, test func(t *testing.T, sc storeCase, store sessions.Store)) {
	t.Helper()
	for _, sc := range stores {
		t.Run(sc.name, func(t *testing.T) { test(t, sc, sc.make(t)) })
	}
}

// eachServerStore runs a subtest for every kind of store that keeps its state on the server.
func eachServerStore(t *testing.T, test func(t *testing.T, store sessions.Store)) {
	t.Helper()
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		if !sc.server {
			t.Skip("the client holds the state: this is a stated limit of a sealed cookie")
		}
		test(t, store)
	})
}

var (
	secretA = []byte("a test secret of thirty-two bytes")
	secretB = []byte("another secret of thirty-two byte")
)

func cookieStoreWith(t *testing.T, secrets ...[]byte) *sessions.CookieStore {
	t.Helper()
	codec, err := sessions.NewSecureCookieCodec(secrets...)
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return store
}

func redisStoreOver(t *testing.T, rdb redis.Cmdable) *sessions.RedisStore {
	t.Helper()
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	require.NoError(t, err)
	return store
}

// checkTTLs fails the test at its end if a key has no TTL (P09).
func checkTTLs(t *testing.T, rdb *redis.Client) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		keys := rdb.Scan(ctx, 0, "*", 100).Iterator()
		for keys.Next(ctx) {
			ttl, err := rdb.PTTL(ctx, keys.Val()).Result()
			if err == nil && ttl == -1 {
				t.Errorf("P09: key %q has no TTL", keys.Val())
			}
		}
		if err := keys.Err(); err != nil {
			t.Logf("P09 not checked: %v", err) // the test has stopped the server
		}
	})
}

var errStore = errors.New("the store is down")

// spyStore counts the calls of a store, and can make them fail, or wait.
type spyStore struct {
	sessions.Store
	loads, saves, touches, deletes atomic.Int64

	mu   sync.Mutex
	hook func(ctx context.Context, op string, rec *sessions.Record) error
}

// before calls hook before each operation ("load", "save", "touch", "delete"); its error is the operation's. The record
// is nil for a load. A nil hook takes it away.
func (s *spyStore) before(hook func(ctx context.Context, op string, rec *sessions.Record) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// fail makes these operations fail; none make all succeed again.
func (s *spyStore) fail(ops ...string) {
	s.before(func(_ context.Context, op string, _ *sessions.Record) error {
		if slices.Contains(ops, op) {
			return errStore
		}
		return nil
	})
}

func (s *spyStore) call(ctx context.Context, n *atomic.Int64, op string, rec *sessions.Record) error {
	n.Add(1)
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, op, rec)
}

// writes is how often the store was asked to change something.
func (s *spyStore) writes() int64 { return s.saves.Load() + s.touches.Load() + s.deletes.Load() }

// calls is how often the store was asked anything.
func (s *spyStore) calls() int64 { return s.loads.Load() + s.writes() }

func (s *spyStore) reset() {
	for _, n := range []*atomic.Int64{&s.loads, &s.saves, &s.touches, &s.deletes} {
		n.Store(0)
	}
}

func (s *spyStore) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	if err := s.call(ctx, &s.loads, "load", nil); err != nil {
		return nil, err
	}
	return s.Store.Load(ctx, name, token)
}

func (s *spyStore) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	if err := s.call(ctx, &s.saves, "save", rec); err != nil {
		return "", err
	}
	return s.Store.Save(ctx, name, rec, base)
}

func (s *spyStore) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	if err := s.call(ctx, &s.touches, "touch", rec); err != nil {
		return "", err
	}
	return s.Store.Touch(ctx, name, rec)
}

func (s *spyStore) Delete(ctx context.Context, name string, rec *sessions.Record) error {
	if err := s.call(ctx, &s.deletes, "delete", rec); err != nil {
		return err
	}
	return s.Store.Delete(ctx, name, rec)
}

// Events and log lines

// eventRecorder keeps what Config.Observe was given.
type eventRecorder struct {
	mu     sync.Mutex
	events []sessions.Event
}

func (r *eventRecorder) observe(_ context.Context, e sessions.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *eventRecorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = nil
}

// with returns the events of this outcome.
func (r *eventRecorder) with(o sessions.Outcome) (found []sessions.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Outcome == o {
			found = append(found, e)
		}
	}
	return found
}

// outcomes returns "kind outcome" of each event.
func (r *eventRecorder) outcomes() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		all = append(all, string(e.Kind)+" "+string(e.Outcome))
	}
	return all
}

// logBuffer is a log that a test can read.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines returns the log lines that contain the text.
func (l *logBuffer) lines(with string) (found []string) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, with) {
			found = append(found, line)
		}
	}
	return found
}

// A site and its browsers

// site is a Manager around a handler that runs, for each request, the function that the browser came with.
type site struct {
	t       *testing.T
	mgr     *sessions.Manager
	handler http.Handler
	events  *eventRecorder
	log     *logBuffer

	steps sync.Map
	next  atomic.Int64
}

func newSite(t *testing.T, store sessions.Store, edits ...func(*sessions.Config)) *site {
	t.Helper()
	s := &site{t: t, events: &eventRecorder{}, log: &logBuffer{}}
	cfg := sessions.Config{Store: store, Observe: s.events.observe, Logger: slog.New(slog.NewTextHandler(s.log, nil)),
		CommitTimeout: time.Minute} // a busy machine may need more than the default
	for _, edit := range edits {
		edit(&cfg)
	}
	var err error
	suiteLeaks.config(&cfg)
	s.mgr, err = sessions.New(cfg)
	require.NoError(t, err)
	name := cfg.Cookie.Name
	if name == "" {
		name = "session"
	}
	s.handler = suiteLeaks.handler(t.Name(), name, s.mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if step, ok := s.steps.LoadAndDelete(r.Header.Get("Step")); ok {
			step.(http.HandlerFunc)(w, r)
		}
	})))
	return s
}

// browser keeps cookies as a browser does, and speaks to a site.
type browser struct {
	site   *site
	base   *url.URL
	client *http.Client
	peer   string      // RemoteAddr of its requests; in process only
	header http.Header // sent with each request
}

// browser returns one that calls the handler in the goroutine of the test, without a network. It starts on plain http;
// see https.
func (s *site) browser() *browser {
	b := &browser{site: s, base: &url.URL{Scheme: "http", Host: "example.test", Path: "/"}, peer: "127.0.0.1:1234", header: http.Header{}}
	b.client = &http.Client{Jar: newJar(s.t), Transport: inProcess{b}}
	return b
}

// overNetwork returns one that speaks to the site on a real server.
func (s *site) overNetwork() *browser {
	server := httptest.NewServer(s.handler)
	s.t.Cleanup(server.Close)
	base, err := url.Parse(server.URL + "/")
	require.NoError(s.t, err)
	b := &browser{site: s, base: base, client: server.Client(), header: http.Header{}}
	b.client.Jar = newJar(s.t)
	return b
}

func newJar(t *testing.T) http.CookieJar {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return jar
}

// https makes the browser use https from now on.
func (b *browser) https() *browser {
	b.base.Scheme = "https"
	return b
}

// inProcess calls the handler of a site as a server would.
type inProcess struct{ b *browser }

func (p inProcess) RoundTrip(out *http.Request) (_ *http.Response, err error) {
	in := out.Clone(out.Context())
	in.RequestURI, in.Host, in.RemoteAddr = out.URL.RequestURI(), out.URL.Host, p.b.peer
	in.URL = &url.URL{Path: out.URL.Path, RawQuery: out.URL.RawQuery}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	if out.URL.Scheme == "https" {
		in.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	defer func() {
		if v := recover(); v != nil {
			err = io.ErrUnexpectedEOF // a server ends the connection
		}
	}()
	w := httptest.NewRecorder()
	p.b.site.handler.ServeHTTP(w, in)
	return w.Result(), nil
}

// reply is a response that has been read.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // there was no response
}

// setCookie returns the cookie that the response sets, by name; nil if it sets none.
func (r reply) setCookie(name string) *http.Cookie {
	for _, c := range (&http.Response{Header: r.header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// do sends one request, which the handler answers as step says.
func (b *browser) do(step http.HandlerFunc) reply {
	return b.doContext(context.Background(), step)
}

func (b *browser) doContext(ctx context.Context, step http.HandlerFunc) reply {
	id := strconv.FormatInt(b.site.next.Add(1), 10)
	b.site.steps.Store(id, step)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base.String(), nil)
	if err != nil {
		return reply{err: err}
	}
	req.Header = b.header.Clone()
	req.Header.Set("Step", id)
	res, err := b.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body), err}
}

// use sends one request whose handler uses its session; it must be answered with 200.
func (b *browser) use(fn func(s sessions.Session)) reply {
	b.site.t.Helper()
	r := b.try(fn)
	require.NoError(b.site.t, r.err)
	require.Equal(b.site.t, http.StatusOK, r.status, r.body)
	return r
}

// try is use for requests that may fail. If the session cannot be loaded, the response is 503 with the error.
func (b *browser) try(fn func(s sessions.Session)) reply {
	return b.do(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fn(s)
		_, _ = io.WriteString(w, "done")
	})
}

// set sets one value.
func (b *browser) set(key string, value any) reply {
	b.site.t.Helper()
	return b.use(func(s sessions.Session) { require.NoError(b.site.t, s.Set(key, value)) })
}

// get returns one value as JSON text; empty if there is none.
func (b *browser) get(key string) string {
	b.site.t.Helper()
	var raw []byte
	b.use(func(s sessions.Session) { raw = []byte(value(b.site.t, s, key)) })
	return string(raw)
}

// value returns one value as JSON text; empty if there is none.
func value(t *testing.T, s sessions.Session, key string) string {
	t.Helper()
	var raw rawText
	_, err := s.Get(key, &raw)
	require.NoError(t, err)
	return string(raw)
}

type rawText string

func (r *rawText) UnmarshalJSON(text []byte) error {
	*r = rawText(text)
	return nil
}

// keys returns the keys of a session, sorted.
func keys(s sessions.Session) []string { return slices.Sorted(s.Keys()) }

// id returns the public handle of the browser's session.
func (b *browser) id() (id string) {
	b.site.t.Helper()
	b.use(func(s sessions.Session) { id = s.ID() })
	return id
}

// cookie returns the value of the session cookie that the browser holds; empty if it holds none.
func (b *browser) cookie() string { return b.cookieNamed("session") }

func (b *browser) cookieNamed(name string) string {
	for _, c := range b.client.Jar.Cookies(b.base) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// hold makes the browser hold this session cookie; empty takes it away.
func (b *browser) hold(value string) *browser {
	c := &http.Cookie{Name: "session", Value: value, Path: "/"}
	if value == "" {
		c.MaxAge = -1
	}
	b.client.Jar.SetCookies(b.base, []*http.Cookie{c})
	return b
}

// clone returns another tab: a browser with a cookie jar of its own that holds the same session cookie.
func (b *browser) clone() *browser {
	c := *b
	c.header = b.header.Clone()
	base := *b.base
	c.base = &base
	client := *b.client
	client.Jar = newJar(b.site.t)
	c.client = &client
	if _, ok := client.Transport.(inProcess); ok {
		client.Transport = inProcess{&c}
	}
	if v := b.cookie(); v != "" {
		c.hold(v)
	}
	return &c
}

// raw sends one request with exactly these Cookie header lines, beside no jar.
func (b *browser) raw(fn func(s sessions.Session), lines ...string) reply {
	c := b.clone()
	c.client.Jar = nil
	c.header["Cookie"] = lines
	return c.try(fn)
}

func noop(sessions.Session) {}

// miniClient returns a client of a miniredis of its own.
func miniClient(t *testing.T) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	checkTTLs(t, rdb)
	return rdb
}

const waitLimit = 30 * time.Second

// served is a browser of a site on a real server, with what net/http complains of.
type served struct {
	*browser
	proto string
	log   *logBuffer
}

// serve puts a site on a real server and returns a browser for it: "h1" is HTTP/1.1, "h2" is HTTP/2, which is over TLS.
func serve(t *testing.T, s *site, proto string) *served {
	t.Helper()
	complaints := &logBuffer{}
	server := httptest.NewUnstartedServer(s.handler)
	server.Config.ErrorLog = log.New(complaints, "", 0)
	if proto == "h2" {
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL + "/")
	require.NoError(t, err)
	client := server.Client()
	client.Jar = newJar(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Timeout = 2 * waitLimit
	return &served{&browser{site: s, base: base, client: client, header: http.Header{}}, proto, complaints}
}

// ownConnection returns another tab that shares no connection with v, where an answer without a body may leave one to the
// next request before the handler has returned.
func (v *served) ownConnection(t *testing.T) *served {
	c := v.clone()
	transport := v.client.Transport.(*http.Transport).Clone()
	c.client.Transport = transport
	t.Cleanup(transport.CloseIdleConnections)
	return &served{c, v.proto, v.log}
}

// eachProto runs a subtest for HTTP/1.1 and one for HTTP/2.
func eachProto(t *testing.T, test func(t *testing.T, proto string)) {
	t.Helper()
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) { test(t, proto) })
	}
}

// start sends a request and returns as soon as the headers are there.
func (v *served) start(ctx context.Context, method string, step http.HandlerFunc, lines ...string) (*http.Response, error) {
	id := strconv.FormatInt(v.site.next.Add(1), 10)
	v.site.steps.Store(id, step)
	req, err := http.NewRequestWithContext(ctx, method, v.base.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Step", id)
	for i := 0; i+1 < len(lines); i += 2 {
		req.Header.Set(lines[i], lines[i+1])
	}
	return v.client.Do(req)
}

// run sends a request and reads the response. Trailers are among the headers, as "Trailer:X".
func (v *served) run(step http.HandlerFunc) reply { return v.method(http.MethodGet, step) }

// abort is run for a handler that answers nothing: unlike a GET, a POST is not sent again when the connection ends.
func (v *served) abort(step http.HandlerFunc) reply { return v.method(http.MethodPost, step) }

func (v *served) method(method string, step http.HandlerFunc, lines ...string) reply {
	res, err := v.start(context.Background(), method, step, lines...)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	for k, values := range res.Trailer {
		res.Header["Trailer:"+k] = values
	}
	return reply{res.StatusCode, res.Header, string(body), err}
}

// session is Get for handlers of tests.
func session(t testing.TB, r *http.Request) sessions.Session {
	s, err := sessions.Get(r.Context())
	if err != nil {
		t.Errorf("Get: %v", err)
		panic(http.ErrAbortHandler)
	}
	return s
}

// wait fails the test if nothing comes.
func wait[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(waitLimit):
		t.Fatal("waited in vain")
	}
	return v
}

func allKeys(t *testing.T, rdb *redis.Client) []string {
	t.Helper()
	keys, err := rdb.Keys(context.Background(), "*").Result()
	require.NoError(t, err)
	return keys
}

func codecWith(t testing.TB, secrets ...[]byte) sessions.Codec {
	t.Helper()
	return codecKind(sessions.NewSecureCookieCodec).with(t, secrets...)
}

func storeOver(t testing.TB, codec sessions.Codec) *sessions.CookieStore {
	t.Helper()
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return store
}

// hourRecord returns a record that lives for an hour.
func hourRecord(values ...string) *sessions.Record {
	now := time.Now().Truncate(time.Millisecond)
	r := &sessions.Record{Token: sessions.NewToken(), Version: now.UnixMicro(), Created: now, Idle: time.Hour,
		Expires: now.Add(time.Hour), Deadline: now.Add(2 * time.Hour)}
	r.ID, _ = sessions.TokenID(r.Token)
	for i, v := range values {
		r.SetValue(fmt.Sprint("k", i), []byte(v))
	}
	return r
}

func sealRecord(t testing.TB, store *sessions.CookieStore, name string, r *sessions.Record) string {
	t.Helper()
	token, err := store.Save(context.Background(), name, r, 0)
	require.NoError(t, err)
	return token
}

// requireOutcome checks that a token is refused, for this reason.
func requireOutcome(t testing.TB, want sessions.Outcome, store sessions.Store, name, token string) {
	t.Helper()
	rec, err := store.Load(context.Background(), name, token)
	require.ErrorIs(t, err, sessions.ErrNotFound)
	var miss *sessions.NotFoundError
	require.ErrorAs(t, err, &miss)
	require.Equal(t, want, miss.Outcome)
	require.Nil(t, rec)
	if len(token) > 5 {
		require.NotContains(t, err.Error(), token)
	}
}
