package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// witness notes the requests that reach the instances, before anything else sees them.
type witness struct {
	mu   sync.Mutex
	seen []arrival
}

// arrival is one request as it reached an instance.
type arrival struct {
	Method, Path, Cookie, Origin, Site string
}

// wrap puts the app together as its users do, with the protection against other sites outside, and the witness before
// it. POST /callback is open to other sites, as that of a login service has to be.
func (w *witness) wrap(mgr *sessions.Manager, app http.Handler) http.Handler {
	csrf := http.NewCrossOriginProtection()
	csrf.AddInsecureBypassPattern("POST /callback")
	next := csrf.Handler(mgr.Wrap(app))
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.seen = append(w.seen, arrival{r.Method, r.URL.Path, r.Header.Get("Cookie"), r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")})
		w.mu.Unlock()
		next.ServeHTTP(rw, r)
	})
}

// last returns the latest request of this method and path.
func (w *witness) last(t testing.TB, method, path string) arrival {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.seen) - 1; i >= 0; i-- {
		if a := w.seen[i]; a.Method == method && a.Path == path {
			return a
		}
	}
	t.Fatalf("no %s %s has arrived: %v", method, path, w.seen)
	return arrival{}
}

// hold lets a test hold a request of the browser back.
type hold struct {
	arrived chan struct{} // gets one when the handler has its session
	release chan struct{} // closed to let it go on
}

func newHold() *hold { return &hold{make(chan struct{}, 1), make(chan struct{})} }

// browserApp is the app with what only a browser needs.
//
//	GET  /look      shows the session and changes nothing
//	GET  /held      a form for POST /held
//	POST /held      loads the session, waits, and then keeps a value
//	POST /callback  logs in, and may be called by other sites
//	POST /remember  makes the cookie a persistent one
func browserApp(h *hold) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", appHandler())
	mux.Handle("GET /look", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		p := page{ServedBy: servedBy(r.Context()), New: s.IsNew()}
		if !s.IsNew() {
			p.Session = s.ID()
		}
		p.Count, _ = countKey.Get(s)
		p.Value, _ = valueKey.Get(s)
		p.User, _ = userKey.Get(s)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		return ignoreWrite(pageTemplate.Execute(w, p))
	}))
	mux.HandleFunc("GET /held", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><title>held</title><form id="held" method="post"><button>Save</button></form>`)
	})
	mux.Handle("POST /held", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		if err := waitFor(r.Context(), h); err != nil {
			return err
		}
		return backHome(w, r, valueKey.Set(s, "too late"))
	}))
	mux.Handle("POST /callback", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		s.Renew()
		return backHome(w, r, userKey.Set(s, "from the login service"))
	}))
	mux.Handle("POST /remember", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		s.SetLifetime(0, true)
		return backHome(w, r, nil)
	}))
	return mux
}

func waitFor(ctx context.Context, h *hold) error {
	h.arrived <- struct{}{}
	select {
	case <-h.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bare is a server without proxies that sets the cookies it is asked to set: the same site as the app, because ports do
// not count.
type bare struct {
	URL, HTTPURL, Localhost string
}

func startBare(t testing.TB) bare {
	t.Helper()
	cert, err := theCertificate()
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(cert.Leaf, cert.Key)
	require.NoError(t, err)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, line := range r.URL.Query()["set"] {
			w.Header().Add("Set-Cookie", line)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><title>bare</title><p>bare</p>`)
	})
	secure := httptest.NewUnstartedServer(h)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(h)
	t.Cleanup(plain.Close)
	return bare{
		URL:       fmt.Sprintf("https://app.test:%d", port(secure.Listener)),
		HTTPURL:   fmt.Sprintf("http://app.test:%d", port(plain.Listener)),
		Localhost: fmt.Sprintf("http://localhost:%d", port(plain.Listener)),
	}
}

// setting returns the address that sets these cookies.
func setting(base string, lines ...string) string {
	return base + "/?" + url.Values{"set": lines}.Encode()
}

// sends returns the value of the cookie with this name in a Cookie header, and reports whether there is one.
func sends(cookieHeader, name string) (value string, ok bool) {
	for part := range strings.SplitSeq(cookieHeader, ";") {
		if n, v, found := strings.Cut(strings.TrimSpace(part), "="); found && n == name {
			return v, true
		}
	}
	return "", false
}
