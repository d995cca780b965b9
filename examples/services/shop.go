package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

// The values of a session of this shop. User and tenant travel to the services; the basket stays at the edge.
var (
	user   = sessions.NewKey[string]("user")
	tenant = sessions.NewKey[string]("tenant")
	basket = sessions.NewKey[[]string]("basket")
)

// shop is an edge and a chain of services behind it, each with its own server and Redis client.
type shop struct {
	edge  *participant
	chain []*participant // in the order in which a click passes them

	keyFetches atomic.Int64
	lastToken  atomic.Value // string: the token that someone sees who reads the traffic between the services

	closers []func()
}

// participant is the edge or a service. Its handlers are the same with relay and without: they get the session of the
// context.
type participant struct {
	name   string
	url    string
	meter  *meter
	next   *participant // nil for the last one
	client *http.Client // calls the next one
}

func (s *shop) all() []*participant { return append([]*participant{s.edge}, s.chain...) }

func (s *shop) last() *participant { return s.chain[len(s.chain)-1] }

func (s *shop) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// page responds with who the user is, here and at all participants further down the chain.
func (p *participant) page(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "cannot get the session", http.StatusServiceUnavailable)
		return
	}
	name, ok := user.Get(s)
	if !ok {
		http.Error(w, "please log in", http.StatusUnauthorized)
		return
	}
	of, _ := tenant.Get(s)
	answer := fmt.Sprintf("%s: %s of %s\n", p.name, name, of)
	if p.next != nil {
		rest, status, err := p.callOn(r)
		if err != nil || status != http.StatusOK {
			http.Error(w, fmt.Sprintf("%s answers %d to %s: %v", p.next.name, status, p.name, err), http.StatusBadGateway)
			return
		}
		answer += rest
	}
	_, _ = io.WriteString(w, answer)
}

func (p *participant) callOn(r *http.Request) (body string, status int, err error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, p.next.url+r.URL.Path, nil) // the context carries the session
	if err != nil {
		return "", 0, err
	}
	return fetch(p.client, req)
}

// pay is a page for a step that must not happen after a logout: it checks the store.
func (p *participant) pay(w http.ResponseWriter, r *http.Request) {
	switch err := relay.Confirm(r.Context()); {
	case errors.Is(err, sessions.ErrGone), errors.Is(err, sessions.ErrNotFound):
		http.Error(w, "please log in", http.StatusUnauthorized)
	case err != nil: // the store did not answer: do not take the step
		http.Error(w, "try again", http.StatusServiceUnavailable)
	default:
		p.page(w, r)
	}
}

func (p *participant) login(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err == nil {
		s.Renew()
		err = errors.Join(user.Set(s, "ada"), tenant.Set(s, "acme"), basket.Set(s, []string{"tea", "milk"}))
	}
	if err != nil {
		http.Error(w, "cannot get the session", http.StatusServiceUnavailable)
	}
}

func (p *participant) logout(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "cannot get the session", http.StatusServiceUnavailable)
		return
	}
	s.Destroy()
}

// routes are those of every participant; the edge also has a login and a logout, and the last service a step that
// checks the store.
func (s *shop) routes(p *participant, withRelay bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /page", p.page)
	if p.next == nil && withRelay {
		mux.HandleFunc("GET /pay", p.pay)
	} else {
		mux.HandleFunc("GET /pay", p.page)
	}
	if p == s.edge {
		mux.HandleFunc("POST /login", p.login)
		mux.HandleFunc("POST /logout", p.logout)
	}
	return mux
}

// quiet discards the log lines, because the tables show the same. In production, do not set the Logger: by default,
// events that a person can act on are logged.
var quiet = slog.New(slog.DiscardHandler)

// withSessions lets each participant load the session from the store, by the token of the cookie.
func (s *shop) withSessions(p *participant) (*sessions.Manager, *sessions.RedisStore, error) {
	store, err := p.meter.store()
	if err != nil {
		return nil, nil, err
	}
	mgr, err := sessions.New(sessions.Config{Store: store, Logger: quiet})
	return mgr, store, err
}

// openWithout starts the shop in the usual way: each service has the same middleware, and the cookie is passed on.
func openWithout(lab *lab) (*shop, error) {
	s := newShop(lab)
	for _, p := range slices.Backward(s.all()) {
		mgr, _, err := s.withSessions(p)
		if err != nil {
			return s, err
		}
		p.client = s.newClient(passCookieOn{s.newTransport()})
		if err := s.serve(p, keepCookie(mgr.Wrap(s.routes(p, false)))); err != nil {
			return s, err
		}
	}
	return s, nil
}

// openWith starts the shop with package relay: only the edge has sessions, and the services verify its tokens.
func openWith(lab *lab, lifetime time.Duration) (*shop, error) {
	const edgeName, trustDomain = "https://shop.example", "shop"
	s := newShop(lab)

	// The services, from the end of the chain, because an issuer and a verifier list the hosts that may get a token.
	keysAt, keys, err := s.listen()
	if err != nil {
		return s, err
	}
	for _, p := range slices.Backward(s.chain) {
		remote, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: keysAt}) // each service fetches its own
		if err != nil {
			return s, err
		}
		_, store, err := s.withSessions(p)
		if err != nil {
			return s, err
		}
		verifier, err := relay.NewVerifier(relay.VerifierConfig{
			Issuer: edgeName, TrustDomain: trustDomain, Keys: remote, Logger: quiet,
			Hosts:   hostOf(p.next),
			Confirm: store.Alive, // only relay.Confirm calls it
		})
		if err != nil {
			return s, err
		}
		p.client = s.newClient(verifier.Transport(s.newTransport()))
		if err := s.serve(p, s.overhear(verifier.Wrap(s.routes(p, true)))); err != nil {
			return s, err
		}
	}

	// The edge.
	_, private, err := ed25519.GenerateKey(rand.Reader) // a real program loads it, so that all replicas have the same key
	if err != nil {
		return s, err
	}
	key, err := relay.NewSigningKey(time.Now().UTC().Format("2006-01-02"), private)
	if err != nil {
		return s, err
	}
	issuer, err := relay.NewIssuer(relay.IssuerConfig{
		Issuer: edgeName, TrustDomain: trustDomain, Key: key, Logger: quiet,
		Hosts:    hostOf(s.edge.next),
		Share:    relay.Share(user, tenant),
		Lifetime: lifetime,
	})
	if err != nil {
		return s, err
	}
	s.start(keys, s.countFetches(issuer.Keys())) // on its own listener, which clients must not reach
	mgr, _, err := s.withSessions(s.edge)
	if err != nil {
		return s, err
	}
	s.edge.client = s.newClient(issuer.Transport(s.newTransport()))
	return s, s.serve(s.edge, issuer.Wrap(mgr.Wrap(s.routes(s.edge, true))))
}

func newShop(lab *lab) *shop {
	s := &shop{}
	var before *participant
	for _, name := range []string{"edge", "orders", "stock", "payment"} {
		p := &participant{name: name, meter: lab.newMeter()}
		if before == nil {
			s.edge = p
		} else {
			before.next = p
			s.chain = append(s.chain, p)
		}
		before = p
	}
	return s
}

func (s *shop) newTransport() *http.Transport {
	t := &http.Transport{} // no proxy: everything is on this machine
	s.closers = append(s.closers, t.CloseIdleConnections)
	return t
}

func (s *shop) newClient(t http.RoundTripper) *http.Client {
	return &http.Client{Transport: t, Timeout: patience}
}

// serve starts the server of a participant on a free port.
func (s *shop) serve(p *participant, h http.Handler) (err error) {
	var ln net.Listener
	if p.url, ln, err = s.listen(); err == nil {
		s.start(ln, h)
	}
	return err
}

func (s *shop) listen() (url string, ln net.Listener, err error) {
	if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return "", nil, err
	}
	s.closers = append(s.closers, func() { _ = ln.Close() })
	return "http://" + ln.Addr().String(), ln, nil
}

func (s *shop) start(ln net.Listener, h http.Handler) {
	web := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	s.closers = append(s.closers, func() { _ = web.Close() })
	go func() { _ = web.Serve(ln) }()
}

func hostOf(p *participant) []string {
	if p == nil {
		return nil
	}
	return []string{p.url[len("http://"):]}
}

// overhear keeps the last token, like a service that keeps it for work after the click, or someone who reads the
// traffic.
func (s *shop) overhear(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := r.Header.Get(relay.DefaultHeader); token != "" {
			s.lastToken.Store(token)
		}
		next.ServeHTTP(w, r)
	})
}

func (s *shop) countFetches(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.keyFetches.Add(1)
		next.ServeHTTP(w, r)
	})
}

// keepCookie and passCookieOn copy the cookie from a request to the calls made for it.
func keepCookie(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), cookieKey{}, r.Header.Get("Cookie"))))
	})
}

type cookieKey struct{}

type passCookieOn struct{ base http.RoundTripper }

func (t passCookieOn) RoundTrip(req *http.Request) (*http.Response, error) {
	cookie, _ := req.Context().Value(cookieKey{}).(string)
	req = req.Clone(req.Context())
	req.Header.Set("Cookie", cookie)
	return t.base.RoundTrip(req)
}

// fetch sends a request and reads the whole response.
func fetch(client *http.Client, req *http.Request) (body string, status int, err error) {
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return string(text), resp.StatusCode, err
}
