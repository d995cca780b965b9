package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

// What a session of this program holds.
var (
	visits = sessions.NewKey[int]("visits")
	value  = sessions.NewKey[string]("value")
	user   = sessions.NewKey[string]("user")
)

//go:embed page.html
var pageHTML string

var templates = template.Must(template.New("page").Parse(pageHTML))

// policy lets a browser use the style in the page and nothing else: no script, no form that leads elsewhere, no frame
// around the page.
var policy = func() string {
	_, style, _ := strings.Cut(pageHTML, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; img-src data:; " +
		"style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// protect sets the headers that every page should have. Referrer-Policy keeps the Origin of a POST, which no-referrer
// would remove.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
}

// replica is one instance of the app. It does not know the others.
type replica struct {
	name, kind string
	inFleet    bool                                                // the proxy of this program is in front, and sends the state of the fleet
	check      func(context.Context) (sessions.RedisHealth, error) // nil if there is no Redis
}

// runReplica serves until it gets a signal or, with -with-parent, until standard input ends.
func runReplica(ctx context.Context, o options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if o.withParent { // the pipe closes when the parent ends, in whatever way: no replica is left behind
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	host, _ := os.Hostname()
	rep := &replica{name: cmp.Or(o.name, host, "replica"), kind: o.store, inFleet: o.withParent}
	store, err := rep.openStore(o)
	if err != nil {
		return err
	}
	cfg := sessions.Config{Store: store, IdleTimeout: 30 * time.Minute}
	switch o.log {
	case "events":
		events := log.New(os.Stderr, "", log.Ltime)
		cfg.Observe = func(_ context.Context, e sessions.Event) { printEvent(events, rep.name, e) }
		fallthrough // the events include everything that the Logger would get
	case "nothing":
		cfg.Logger = slog.New(slog.DiscardHandler)
	case "warnings":
	default:
		return errors.New("-log must be events, warnings or nothing")
	}
	mgr, err := sessions.New(cfg)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cmp.Or(o.addr, ":8080"))
	if err != nil {
		return err
	}
	web := &http.Server{Handler: rep.handler(mgr), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 2)
	listening := fmt.Sprintf("listening on %v", ln.Addr())
	if o.health != "" {
		hln, err := net.Listen("tcp", o.health)
		if err != nil {
			return err
		}
		health := &http.Server{Handler: rep.health(), ReadHeaderTimeout: 5 * time.Second}
		defer health.Close() // last, so that it responds during the shutdown of the page
		go func() { failed <- health.Serve(hln) }()
		listening += fmt.Sprintf(", health on %v", hln.Addr())
	}
	fmt.Println(listening) // the parent reads this line
	go func() { failed <- web.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// Accept nothing new, and finish the requests in progress, within terminationGracePeriodSeconds.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return web.Shutdown(ctx)
}

// openStore opens the store that -store names.
func (rep *replica) openStore(o options) (sessions.Store, error) {
	if err := checkStore(o.store); err != nil {
		return nil, err
	}
	addr := o.redis
	switch {
	case o.store == "cookie":
		var secrets [][]byte
		for secret := range strings.SplitSeq(os.Getenv("SESSION_SECRET"), ",") {
			secrets = append(secrets, []byte(secret))
		}
		codec, err := sessions.NewSecureCookieCodec(secrets...)
		if err != nil {
			return nil, fmt.Errorf("SESSION_SECRET must be the same on every replica: one secret, or several separated by commas, of which the first seals (two deploys change a secret: old,new, then new,old): %w", err)
		}
		return sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	case o.store == "memory": // a Redis that no other replica can reach
		embedded, err := startRedis()
		if err != nil {
			return nil, err
		}
		addr = embedded.Addr()
	case addr == "":
		return nil, errors.New("-store redis needs the address of Redis: -redis, or REDIS_ADDR")
	}
	opts := &redis.Options{
		Addr: addr, ContextTimeoutEnabled: true, DialerRetries: 1, MaxRetries: 1,
		DialTimeout: 500 * time.Millisecond, ReadTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond,
	}
	if o.store == "redis" {
		opts.Username, opts.Password = os.Getenv("REDIS_USERNAME"), os.Getenv("REDIS_PASSWORD")
	}
	store, err := sessions.NewRedisStore(redis.NewClient(opts), sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour, Prefix: "replicas:"})
	if err != nil {
		return nil, err
	}
	rep.check = store.Check
	return store, nil
}

// handler combines what a request passes through.
func (rep *replica) handler(mgr *sessions.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", withSession(rep.page))
	mux.Handle("POST /value", withSession(saveValue))
	mux.Handle("POST /login", withSession(login))
	mux.Handle("POST /logout", withSession(logout))
	app := http.MaxBytesHandler(http.NewCrossOriginProtection().Handler(mgr.Wrap(mux)), 64<<10)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protect(w.Header())
		w.Header().Set("X-Served-By", rep.name) // so that nobody has to join the logs of two machines
		app.ServeHTTP(w, r)
	})
}

// health responds to the probes of an orchestrator.
func (rep *replica) health() http.Handler {
	mux := http.NewServeMux()
	// The process is alive and can respond. The probe checks nothing else: restarting this process repairs no other
	// one.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	// The replica can do its work. A wrong policy is shown here for a person, but takes no replica out of service.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if rep.check == nil {
			fmt.Fprintln(w, "ready: the client holds its session, there is no store to check")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		health, err := rep.check(ctx)
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "not ready: Redis does not answer\n\n%v\n", err)
			return
		}
		fmt.Fprintf(w, "ready: Redis answers\n\n%v", health)
	})
	return mux
}

// withSession passes a handler its session. An error means that the store could not answer, not that nobody is logged
// in: do not continue without the session.
func withSession(next func(http.ResponseWriter, *http.Request, sessions.Session) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err == nil {
			err = next(w, r, s)
		}
		if err != nil {
			http.Error(w, "The session store does not answer. Please try again in a moment.", http.StatusServiceUnavailable)
		}
	})
}

// view is what the page shows; a client that asks for JSON gets only the first part.
type view struct {
	ServedBy string `json:"served_by"`
	ID       string `json:"session"`
	Visits   int    `json:"visits"`
	Value    string `json:"value"`
	User     string `json:"user"`

	PID            int         `json:"-"`
	Store          string      `json:"-"`
	Expect         string      `json:"-"`
	Began, Expires time.Time   `json:"-"`
	Fleet          *fleetState `json:"-"`
}

func (rep *replica) page(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	n, err := visits.Update(s, func(n int) int { return n + 1 }) // not Get and Set: two tabs at the same time both count
	if err != nil {
		return err
	}
	v := view{ServedBy: rep.name, ID: s.ID(), Visits: n, PID: os.Getpid(), Began: s.CreatedAt(), Expires: s.ExpiresAt()}
	v.Value, _ = value.Get(s)
	v.User, _ = user.Get(s)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // if the session cannot be saved, the ErrorHandler responds; a visitor may hang up
		return nil
	}
	v.Fleet = rep.fleet(r)
	v.Store, v.Expect = explain(rep.kind, v.Fleet != nil && v.Fleet.Sticky)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = templates.Execute(w, v)
	return nil
}

// fleet returns what the proxy reports about all replicas, or nil if this one does not run behind the proxy.
func (rep *replica) fleet(r *http.Request) *fleetState {
	if !rep.inFleet {
		return nil
	}
	var state fleetState
	if json.Unmarshal([]byte(r.Header.Get(fleetHeader)), &state) != nil {
		return nil
	}
	for i := range state.Replicas {
		state.Replicas[i].Here = state.Replicas[i].Name == rep.name
	}
	return &state
}

// explain returns where sessions live, and what to expect.
func explain(kind string, sticky bool) (lives, expect string) {
	switch {
	case kind == "cookie":
		return "a sealed cookie", "Your browser sends the session along, so any replica can serve you. Kill one, or two: nothing is lost."
	case kind == "redis":
		return "Redis", "Every replica reads the same session. Kill one, or two: nothing is lost."
	case sticky:
		return "this replica's memory", "You are pinned to one replica, so everything seems to work. Kill that one, and your session is gone."
	}
	return "this replica's memory", "Each reload reaches another replica, which does not know you: the counter falls back to 1, and your value is gone."
}

func saveValue(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	return done(w, r, value.Set(s, clean(r.PostFormValue("value"))))
}

func login(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	name := clean(r.PostFormValue("name")) // a real program checks a password here
	if name == "" {
		return done(w, r, nil)
	}
	s.Renew() // a token that was planted in this browser before is now worthless
	return done(w, r, user.Set(s, name))
}

func logout(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	s.Destroy()
	return done(w, r, nil)
}

func done(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	return err
}

// clean reduces what a person types to one short line.
func clean(s string) string {
	runes := []rune(strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " "))
	return string(runes[:min(len(runes), 120)])
}

// printEvent prints one line that says which replica did what to a session, and why.
func printEvent(l *log.Logger, name string, e sessions.Event) {
	line := fmt.Sprintf("%s  %-8s %-10s %-22s", name, e.Kind, e.Outcome, cmp.Or(e.SessionID, "-"))
	if e.Detail != "" {
		line += fmt.Sprintf("  %q", e.Detail) // part of it may come from a client
	}
	if e.Err != nil {
		line += fmt.Sprintf("  %q", e.Err.Error())
	}
	l.Print(line)
}
