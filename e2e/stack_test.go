// Package e2e runs the library behind real proxies, on several instances, with a real Redis:
//
//	client -> nginx (TLS) -> nginx (plain) -> three instances of an app, in turn -> Redis
//
// It needs nginx and redis-server, and skips its tests where they are not installed.
package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// variant says what the inner nginx does to the X-Forwarded-Proto that the outer one has set.
type variant string

const (
	overwrites variant = "overwrites" // with its own scheme, which is http
	passes     variant = "passes"     // passes it on
	appends    variant = "appends"    // "https, http"
	silent     variant = "silent"     // removes it
)

var variants = []variant{overwrites, passes, appends, silent}

// innerHeader is the value that the inner nginx gives to X-Forwarded-Proto.
var innerHeader = map[variant]string{
	overwrites: "$scheme",
	passes:     "$http_x_forwarded_proto",
	appends:    `"$http_x_forwarded_proto, $scheme"`,
	silent:     `""`,
}

// stackConfig says what to start. The zero value is the chain of the first story with the library as it comes.
type stackConfig struct {
	Inner   variant                // default: overwrites
	Mode    sessions.SecureMode    // of each instance's Manager
	Config  func(*sessions.Config) // may change anything more of it, also the Store; called for each instance
	Handler http.Handler           // the app, which all instances run; default: appHandler()
	CSRF    bool                   // http.CrossOriginProtection outside of the sessions
	Cache   bool                   // a keen proxy_cache in the outer nginx, which shows X-Cache
	Outer   string                 // more directives for the app's location in the outer nginx
	Sticky  bool                   // the inner nginx pins a client to an instance, by its address
	Unix    bool                   // the inner nginx reaches the instances by Unix sockets

	// Wrap, in place of Manager.Wrap, puts the app and its sessions together.
	Wrap func(*sessions.Manager, http.Handler) http.Handler
}

// stack is a running chain.
type stack struct {
	URL     string // https://app.test:port
	HTTPURL string // http://app.test:port, the same outer nginx without TLS
	Other   string // https://other.test:port: another site on the same nginx, with the pages of SetPage

	CA    *x509.CertPool
	CAPEM []byte
	Redis *redistest.Server
	Apps  []*instance

	mu     sync.Mutex
	events []event
	log    bytes.Buffer
	pages  map[string]string
}

// event is an Event with the instance that emitted it.
type event struct {
	Instance string
	sessions.Event
}

// startStack starts a chain and stops it when the test ends.
func startStack(t testing.TB, cfg stackConfig) *stack {
	t.Helper()
	nginxPath(t) // skip before anything is started
	if cfg.Inner == "" {
		cfg.Inner = overwrites
	}
	if cfg.Handler == nil {
		cfg.Handler = appHandler()
	}
	cert, err := theCertificate()
	if err != nil {
		t.Fatal(err)
	}
	st := &stack{CA: cert.CA, CAPEM: cert.CAPEM, pages: map[string]string{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the instances:\n%s", st.Log())
		}
	})
	st.Redis = redistest.Start(t)
	sockets := ""
	if cfg.Unix {
		if sockets, err = os.MkdirTemp("", "e2e"); err != nil { // t.TempDir() is too long for a socket
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	}
	var upstreams []string
	for i := range 3 {
		app := &instance{Name: fmt.Sprintf("app-%d", i+1), stack: st, cfg: &cfg, conns: map[net.Conn]bool{}}
		if cfg.Unix {
			app.network, app.addr = "unix", filepath.Join(sockets, app.Name)
		} else {
			app.network, app.addr = "tcp", "127.0.0.1:0"
		}
		app.Start(t)
		t.Cleanup(app.stop)
		st.Apps = append(st.Apps, app)
		upstreams = append(upstreams, map[bool]string{false: app.addr, true: "unix:" + app.addr}[cfg.Unix])
	}
	other := st.serveOther(t)

	in := listen(t, 1)
	startNginx(t, "inner", innerConfig, map[string]any{
		"Port": port(in[0]), "Apps": upstreams, "Proto": innerHeader[cfg.Inner], "Sticky": cfg.Sticky,
	}, in...)
	out := listen(t, 2)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, content := range map[string][]byte{certFile: cert.Leaf, keyFile: cert.Key} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startNginx(t, "outer", outerConfig, map[string]any{
		"TLS": port(out[0]), "Plain": port(out[1]), "Inner": port(in[0]), "Other": other, "More": cfg.Outer,
		"Cert": certFile, "Key": keyFile, "Cache": cfg.Cache,
	}, out...)
	st.URL = fmt.Sprintf("https://app.test:%d", port(out[0]))
	st.HTTPURL = fmt.Sprintf("http://app.test:%d", port(out[1]))
	st.Other = fmt.Sprintf("https://other.test:%d", port(out[0]))
	return st
}

// The outer nginx sets what edges set. X-Edge-Proto stands for a header that no proxy behind it knows, as
// CloudFront-Forwarded-Proto is. The default proxy_buffer_size is too small for a cookie of 4096 bytes.
const outerConfig = `
	{{if .Cache}}proxy_cache_path {{.Dir}}/cache keys_zone=keen:1m;{{end}}
	proxy_http_version 1.1;
	proxy_buffer_size 16k;
	proxy_buffers 8 16k;
	server {
		listen 127.0.0.1:{{.TLS}} ssl http2;
		listen 127.0.0.1:{{.Plain}};
		server_name app.test *.app.test;
		location = /nginx-is-up { return 204; }
		ssl_certificate {{.Cert}};
		ssl_certificate_key {{.Key}};
		location / {
			proxy_pass http://127.0.0.1:{{.Inner}};
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_set_header X-Edge-Proto $scheme;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
			{{if .Cache}}
			proxy_cache keen;
			proxy_cache_key $scheme$http_host$request_uri;
			proxy_cache_valid any 10m;
			add_header X-Cache $upstream_cache_status always;
			{{end}}
			{{.More}}
		}
	}
	server {
		listen 127.0.0.1:{{.TLS}} ssl http2;
		listen 127.0.0.1:{{.Plain}};
		server_name other.test;
		ssl_certificate {{.Cert}};
		ssl_certificate_key {{.Key}};
		location / {
			proxy_pass http://{{.Other}};
			proxy_set_header Host $http_host;
		}
	}
`

// An instance that does not answer is tried again in its next turn, so that it is back as soon as it is up.
const innerConfig = `
	proxy_http_version 1.1;
	proxy_buffer_size 16k;
	proxy_buffers 8 16k;
	upstream app {
		{{if .Sticky}}hash $http_x_forwarded_for consistent;{{end}}
		{{range .Apps}}server {{.}} max_fails=0;
		{{end}}
	}
	server {
		listen 127.0.0.1:{{.Port}};
		location = /nginx-is-up { return 204; }
		location / {
			proxy_pass http://app;
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-Proto {{.Proto}};
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
		}
	}
`

// SetPage sets what GET of the path on the other site answers.
func (st *stack) SetPage(path, html string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pages[path] = html
}

func (st *stack) serveOther(t testing.TB) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st.mu.Lock()
		html, ok := st.pages[r.URL.Path]
		st.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, html)
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-ended })
	return l.Addr().String()
}

// Events returns what all instances have emitted, in order of arrival.
func (st *stack) Events() []event {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.events)
}

// Log returns what all instances have logged.
func (st *stack) Log() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.log.String()
}

// LogLines returns the log lines that contain what, such as "level=WARN".
func (st *stack) LogLines(what string) []string {
	var lines []string
	for line := range strings.Lines(st.Log()) {
		if strings.Contains(line, what) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// Clear forgets the events and the log so far.
func (st *stack) Clear() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.events = nil
	st.log.Reset()
}

// outcomes returns the events of the kinds, or of all, as "kind:outcome".
func (st *stack) outcomes(kinds ...sessions.EventKind) []string {
	all := []string{}
	for _, e := range st.Events() {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			all = append(all, string(e.Kind)+":"+string(e.Outcome))
		}
	}
	return all
}

// Write appends to the log. It is for the loggers of the instances.
func (st *stack) Write(line []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.log.Write(line)
}

// instance is one instance of the app: a Manager over a store and a client of Redis of its own, and a listener.
type instance struct {
	Name    string
	stack   *stack
	cfg     *stackConfig
	network string
	addr    string

	rdb   *redis.Client
	srv   *http.Server
	ended chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]bool // http.Server forgets those that were hijacked
}

// Start starts the instance, or starts it again after Kill, on the same address. Use Unix sockets for that: another
// process may have taken the port meanwhile.
func (a *instance) Start(t testing.TB) {
	t.Helper()
	a.rdb = redis.NewClient(&redis.Options{
		Addr: a.stack.Redis.Addr, ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 1,
		DialTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
	})
	store, err := sessions.NewRedisStore(a.rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	cfg := sessions.Config{
		Store:  store,
		Secure: a.cfg.Mode,
		Logger: slog.New(slog.NewTextHandler(a.stack, nil)).With("instance", a.Name),
		Observe: func(_ context.Context, e sessions.Event) {
			a.stack.mu.Lock()
			defer a.stack.mu.Unlock()
			a.stack.events = append(a.stack.events, event{a.Name, e})
		},
	}
	if a.cfg.Config != nil {
		a.cfg.Config(&cfg)
	}
	mgr, err := sessions.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	wrap := a.cfg.Wrap
	if wrap == nil {
		wrap = (*sessions.Manager).Wrap
	}
	handler := wrap(mgr, a.cfg.Handler)
	if a.cfg.CSRF {
		handler = http.NewCrossOriginProtection().Handler(handler)
	}
	l, err := net.Listen(a.network, a.addr)
	if err != nil {
		t.Fatal(err)
	}
	a.addr = l.Addr().String()
	a.srv = &http.Server{Handler: named(a.Name, handler), ErrorLog: slog.NewLogLogger(slog.NewTextHandler(a.stack, nil), slog.LevelError)}
	a.ended = make(chan struct{})
	srv, ended := a.srv, a.ended
	go func() { defer close(ended); _ = srv.Serve(trackingListener{l, a}) }()
}

// Kill ends the instance as a crash would: its connections break, and nothing that its handlers still do reaches Redis.
func (a *instance) Kill() {
	_ = a.rdb.Close()
	a.stop()
}

func (a *instance) stop() {
	_ = a.srv.Close()
	<-a.ended
	a.mu.Lock()
	for c := range a.conns {
		_ = c.Close()
	}
	a.mu.Unlock()
	_ = a.rdb.Close()
}

// trackingListener notes the connections of an instance.
type trackingListener struct {
	net.Listener
	a *instance
}

func (l trackingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.a.mu.Lock()
	defer l.a.mu.Unlock()
	l.a.conns[c] = true
	return &trackedConn{c, l.a}, nil
}

type trackedConn struct {
	net.Conn
	a *instance
}

func (c *trackedConn) Close() error {
	c.a.mu.Lock()
	delete(c.a.conns, c.Conn)
	c.a.mu.Unlock()
	return c.Conn.Close()
}

// dial resolves every *.test name to the loopback interface, and nothing else.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(host, ".test") {
		return nil, fmt.Errorf("%s is not a name of this test", host)
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

// Client returns a client with a cookie jar of its own, which speaks HTTP/2 over TLS as browsers do.
func (st *stack) Client(t testing.TB) *http.Client {
	t.Helper()
	return st.client(t, true)
}

func (st *stack) client(t testing.TB, http2 bool) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: st.CA}, ForceAttemptHTTP2: http2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Jar: jar, Timeout: 30 * time.Second}
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	Text string
	Page page // where the app's page came
}

// SetCookies returns the Set-Cookie lines in order.
func (a answer) SetCookies() []string { return a.Header.Values("Set-Cookie") }

func get(t testing.TB, c *http.Client, target string, header ...string) answer {
	t.Helper()
	return do(t, c, http.MethodGet, target, nil, header...)
}

// post sends a form as a browser on the same site does: with Origin, and Sec-Fetch-Site where the page is trustworthy.
// More headers come as name, value, and an empty value removes one.
func post(t testing.TB, c *http.Client, target string, form url.Values, header ...string) answer {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"Content-Type", "application/x-www-form-urlencoded", "Origin", u.Scheme + "://" + u.Host}
	if u.Scheme == "https" {
		all = append(all, "Sec-Fetch-Site", "same-origin")
	}
	return do(t, c, http.MethodPost, target, form, append(all, header...)...)
}

func do(t testing.TB, c *http.Client, method, target string, form url.Values, header ...string) answer {
	t.Helper()
	a, err := try(c, method, target, form, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// try is do for goroutines other than the test's.
func try(c *http.Client, method, target string, form url.Values, header ...string) (answer, error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	a := answer{Response: resp, Text: string(text)}
	if err == nil && resp.StatusCode == http.StatusOK && strings.Contains(a.Text, `<dd id="count">`) {
		a.Page, err = readPage(a.Text)
	}
	return a, err
}

// noRedirect returns the client without following redirects, with the same cookie jar.
func noRedirect(c *http.Client) *http.Client {
	c2 := *c
	c2.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c2
}

var pageItem = regexp.MustCompile(`<dd id="([a-z-]+)">([^<]*)</dd>`)

func readPage(html string) (page, error) {
	found := map[string]string{}
	for _, m := range pageItem.FindAllStringSubmatch(html, -1) {
		found[m[1]] = m[2]
	}
	n, err := strconv.Atoi(found["count"])
	if err != nil {
		return page{}, errors.New("not the app's page: " + html)
	}
	return page{Count: n, Value: found["value"], User: found["user"], Session: found["session"],
		ServedBy: found["served-by"], New: found["new"] == "true"}, nil
}

func TestStack(t *testing.T) {
	st := startStack(t, stackConfig{})
	c := st.Client(t)
	for i := 1; i <= 4; i++ {
		a := get(t, c, st.URL+"/")
		if a.StatusCode != http.StatusOK || a.Page.Count != i {
			t.Fatalf("visit %d: %s %+v\n%s", i, a.Status, a.Page, a.Text)
		}
		if want := fmt.Sprintf("app-%d", (i-1)%3+1); a.Page.ServedBy != want {
			t.Fatalf("visit %d was served by %s, not by %s", i, a.Page.ServedBy, want)
		}
		if a.ProtoMajor != 2 {
			t.Fatalf("over %s", a.Proto)
		}
	}
	if a := get(t, st.Client(t), st.HTTPURL+"/plain"); a.StatusCode != http.StatusOK {
		t.Fatal(a.Status)
	}
	st.SetPage("/hello", "<p>hello</p>")
	if a := get(t, st.Client(t), st.Other+"/hello"); a.Text != "<p>hello</p>" {
		t.Fatal(a.Status, a.Text)
	}
}
