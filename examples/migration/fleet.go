package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

const (
	visitorIdle = 6 * time.Second // short, to show that the keys of visitors who have left expire
	userIdle    = 30 * time.Minute
	redisTTL    = 24 * time.Hour
)

// instance is one replica of the app, with its own server, Redis client and phase.
type instance struct {
	dual *sessions.DualStore
	rdb  *redis.Client
	url  *url.URL
}

// fleet is all instances, the proxy in front of them, and Redis behind them.
type fleet struct {
	instances []*instance
	url       string // of the proxy
	fallback  bool
	link      *link
	direct    *redis.Client // not over the link: it works while Redis is down for the app
	keys      *sessions.RedisStore
	prefix    string
	closers   []func()

	outage outage

	adopted, resealed int64 // in earlier phases
}

// newStoreFunc returns the store to move to. The tests pass broken ones.
type newStoreFunc func(redis.Cmdable, string) (sessions.Store, error)

func redisStore(rdb redis.Cmdable, prefix string) (sessions.Store, error) {
	return sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: redisTTL, Prefix: prefix})
}

// startFleet starts n instances in OldOnly. If redisAddr is empty, it also starts a Redis.
func startFleet(ctx context.Context, n int, redisAddr string, fallback bool, newStore newStoreFunc) (_ *fleet, err error) {
	f := &fleet{fallback: fallback, prefix: "migration-example:" + randomHex(6) + ":"}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if redisAddr == "" {
		if redisAddr, err = f.startRedis(); err != nil {
			return nil, err
		}
	}
	f.direct = newClient(redisAddr)
	f.closers = append(f.closers, func() { _ = f.direct.Close() })
	if err := f.direct.Ping(ctx).Err(); err != nil {
		return nil, fmt.Errorf("no answer from Redis at %s: %w", redisAddr, err)
	}
	f.closers = append(f.closers, f.removeKeys)
	if f.keys, err = sessions.NewRedisStore(f.direct, sessions.RedisStoreConfig{TTL: redisTTL, Prefix: f.prefix}); err != nil {
		return nil, err
	}
	if f.link, err = startLink(redisAddr); err != nil {
		return nil, err
	}
	f.closers = append(f.closers, f.link.close)

	secret := make([]byte, 32)
	rand.Read(secret)
	codec, err := sessions.NewSecureCookieCodec(secret)
	if err != nil {
		return nil, err
	}
	for id := range n {
		if err := f.startInstance(id, codec, newStore); err != nil {
			return nil, err
		}
	}
	return f, f.startProxy()
}

// startRedis starts the embedded Redis.
func (f *fleet) startRedis() (addr string, err error) {
	embedded, err := miniredis.Run()
	if err != nil {
		return "", err
	}
	stop := make(chan struct{})
	go func() { // its clock stands still unless it is moved, and keys must expire
		const tick = 100 * time.Millisecond
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case now := <-ticker.C:
				embedded.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	f.closers = append(f.closers, embedded.Close, func() { close(stop) })
	return embedded.Addr(), nil
}

// newClient returns a client with the short timeouts that an app needs when Redis is down: the defaults wait for
// seconds.
func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, ContextTimeoutEnabled: true, DialTimeout: 500 * time.Millisecond, DialerRetries: 1, MaxRetries: 1,
	})
}

func (f *fleet) startInstance(id int, codec sessions.Codec, newStore newStoreFunc) error {
	rdb := newClient(f.link.addr())
	f.closers = append(f.closers, func() { _ = rdb.Close() })
	before, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	if err != nil {
		return err
	}
	after, err := newStore(rdb, f.prefix)
	if err != nil {
		return err
	}
	dual, err := sessions.NewDualStore(sessions.DualStoreConfig{
		Old: before, New: after, Phase: sessions.OldOnly, FallbackOnError: f.fallback, CompareFraction: 1,
	})
	if err != nil {
		return err
	}
	mgr, err := sessions.New(sessions.Config{
		Store:       dual,
		IdleTimeout: userIdle,
		// A real program omits this. Here an outage is part of the story, and its log lines would fill the screen.
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	in := &instance{dual: dual, rdb: rdb}
	handler := mgr.Wrap(app())
	in.url, err = f.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", strconv.Itoa(id))
		w.Header().Set("X-Phase", strconv.Itoa(int(dual.Phase())))
		handler.ServeHTTP(w, r)
	}))
	f.instances = append(f.instances, in)
	return err
}

// serve starts a server on a free port of the loopback address.
func (f *fleet) serve(h http.Handler) (*url.URL, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = srv.Serve(ln) }()
	f.closers = append(f.closers, func() { _ = srv.Close() })
	return &url.URL{Scheme: "http", Host: ln.Addr().String()}, nil
}

// startProxy starts a proxy that sends each request to the next instance, so that no browser stays with one.
func (f *fleet) startProxy() error {
	transport := &http.Transport{MaxIdleConnsPerHost: 1024}
	f.closers = append(f.closers, transport.CloseIdleConnections)
	var next atomic.Uint64
	at, err := f.serve(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(f.instances[next.Add(1)%uint64(len(f.instances))].url)
			r.SetXForwarded()
		},
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0), // the crowd counts the 502s
	})
	if err == nil {
		f.url = at.String()
	}
	return err
}

// close stops everything, in reverse order of starting.
func (f *fleet) close() {
	for i := len(f.closers) - 1; i >= 0; i-- {
		f.closers[i]()
	}
}

// removeKeys removes only what this run has written.
func (f *fleet) removeKeys() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var keys []string
	scan := f.direct.Scan(ctx, 0, f.prefix+"*", 1000).Iterator()
	for more := true; more; {
		if more = scan.Next(ctx); more {
			keys = append(keys, scan.Val())
		}
		if len(keys) == 1000 || !more && len(keys) > 0 {
			f.direct.Del(ctx, keys...)
			keys = keys[:0]
		}
	}
}

// setPhase changes the phase of one instance, and keeps the figures of the phase that ends.
func (f *fleet) setPhase(in *instance, p sessions.Phase) {
	r := in.dual.Report()
	f.adopted += r.Adopted
	f.resealed += r.Resealed
	in.dual.SetPhase(p)
}

// phases returns one digit per instance: 1 for OldOnly to 4 for NewOnly.
func (f *fleet) phases() string {
	var text []byte
	for _, in := range f.instances {
		text = append(text, '1'+byte(in.dual.Phase()))
	}
	return string(text)
}

// outage records whether Redis is down, and in which phase the outage began. The count is odd during an outage.
type outage struct {
	count atomic.Int64
	phase atomic.Int32
}

// during reports whether Redis was down at any time since the count was read.
func (o *outage) during(before int64) bool { return before%2 == 1 || o.count.Load() != before }

func (f *fleet) takeRedisAway() {
	f.outage.phase.Store(int32(f.instances[0].dual.Phase()))
	f.outage.count.Add(1)
	f.link.cut()
}

// giveRedisBack returns when every instance has noticed: a client waits up to a second before it dials again.
func (f *fleet) giveRedisBack(ctx context.Context) error {
	f.link.mend()
	deadline := time.Now().Add(10 * time.Second)
	for _, in := range f.instances {
		for in.rdb.Ping(ctx).Err() != nil {
			if ctx.Err() == nil && time.Now().After(deadline) {
				return errors.New("an instance does not reconnect to Redis")
			}
			if ctx.Err() != nil {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	f.outage.count.Add(1)
	return nil
}

// link is the network between the app and Redis. It passes bytes on, or resets every connection.
type link struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	away  bool
	conns map[net.Conn]bool
}

func startLink(target string) (*link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: ln, target: target, conns: map[net.Conn]bool{}}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.carry(c)
		}
	}()
	return l, nil
}

func (l *link) addr() string { return l.listener.Addr().String() }

// keep registers a connection, so that it can be cut. During an outage it resets the connection and reports false.
func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		reset(c)
		return false
	}
	l.conns[c] = true
	return true
}

func (l *link) carry(app net.Conn) {
	if !l.keep(app) {
		return
	}
	defer l.drop(app)
	server, err := net.Dial("tcp", l.target)
	if err != nil || !l.keep(server) {
		return
	}
	defer l.drop(server)
	go func() {
		_, _ = io.Copy(server, app)
		_ = server.Close()
	}()
	_, _ = io.Copy(app, server)
}

func (l *link) drop(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// reset closes a connection with a reset, as a host does that does not know it.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = true
	for c := range l.conns {
		reset(c)
	}
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = false
}

func (l *link) close() {
	_ = l.listener.Close()
	l.cut()
}

// The values of a session.
var (
	user  = sessions.NewKey[int]("user")
	items = sessions.NewKey[int]("items")
)

// answer is what the app reports about the session, before and after the request's change.
type answer struct {
	Found bool // there was a session
	User  int  // who is logged in; 0 is nobody
	Items int  // the number of items in the basket, as committed
}

// app is the shop: look, add to the basket, log in, log out. It contains nothing about the migration.
func app() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", page(func(*http.Request, sessions.Session) error { return nil }))
	mux.Handle("POST /add", page(func(_ *http.Request, s sessions.Session) error {
		if s.IsNew() {
			s.SetLifetime(visitorIdle, false) // the browser deletes the cookie when it closes; Redis must not wait for that
		}
		_, err := items.Update(s, func(n int) int { return n + 1 })
		return err
	}))
	mux.Handle("POST /login", page(func(r *http.Request, s sessions.Session) error {
		id, err := strconv.Atoi(r.FormValue("user"))
		if err != nil {
			return err
		}
		s.Renew()
		s.SetLifetime(userIdle, true)
		return user.Set(s, id)
	}))
	mux.Handle("POST /logout", page(func(_ *http.Request, s sessions.Session) error {
		s.Destroy()
		return nil
	}))
	return mux
}

func page(do func(*http.Request, sessions.Session) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil { // the store could not answer: this does not mean that nobody is logged in
			http.Error(w, "Please try again in a moment.", http.StatusServiceUnavailable)
			return
		}
		a := answer{Found: !s.IsNew()}
		if err := do(r, s); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK) // commits: from here on the session includes what other requests wrote
		a.User, _ = user.Get(s)
		a.Items, _ = items.Get(s)
		_ = json.NewEncoder(w).Encode(a)
	})
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
