// Command quickstart serves one page with a session: a counter, a value from a form, login, logout and a flash message.
// It needs only Go:
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"handover.example/sessions"
)

// The values of a session. Everything below uses these keys, so that each type is written once.
var (
	user   = sessions.NewKey[string]("user")
	note   = sessions.NewKey[string]("note")
	visits = sessions.NewKey[int]("visits")
	flash  = sessions.NewKey[string]("flash")
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

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

// server is one instance of the program, and what the page says about it.
type server struct {
	ServedBy, Store string
	PID             int
}

// handler combines what a request passes through: other sites may not POST here, and every request has a session.
func (srv server) handler(store sessions.Store, events *log.Logger) (http.Handler, error) {
	mgr, err := sessions.New(sessions.Config{
		Store:       store,
		IdleTimeout: 30 * time.Minute,
		// The events printed below include everything that the Logger would get. In production, omit both lines: by
		// default, events that a person can act on are logged.
		Logger:  slog.New(slog.DiscardHandler),
		Observe: func(_ context.Context, e sessions.Event) { printEvent(events, e) },
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", withSession(srv.page))
	mux.Handle("POST /note", withSession(saveNote))
	mux.Handle("POST /login", withSession(login))
	mux.Handle("POST /logout", withSession(logout))
	app := http.MaxBytesHandler(http.NewCrossOriginProtection().Handler(mgr.Wrap(mux)), 64<<10)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protect(w.Header())
		app.ServeHTTP(w, r)
	}), nil
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
			http.Error(w, "The session store does not respond. Please try again in a moment.", http.StatusServiceUnavailable)
		}
	})
}

func (srv server) page(w http.ResponseWriter, _ *http.Request, s sessions.Session) error {
	n, err := visits.Update(s, func(n int) int { return n + 1 }) // not Get and Set: two tabs at the same time both count
	if err != nil {
		return err
	}
	data := struct {
		server
		ID, User, Note, Flash string
		Visits                int
		Created, Expires      time.Time
	}{server: srv, ID: s.ID(), Visits: n, Created: s.CreatedAt(), Expires: s.ExpiresAt()}
	data.User, _ = user.Get(s)
	data.Note, _ = note.Get(s)
	data.Flash, _ = flash.Take(s) // shown once
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = pageTemplate.Execute(w, data) // if the session cannot be saved, the ErrorHandler responds; a visitor may hang up
	return nil
}

func saveNote(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	return done(w, r, s, "Your note is saved.", note.Set(s, clean(r.PostFormValue("note"))))
}

func login(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	name := clean(r.PostFormValue("name")) // a real program checks a password here
	if name == "" {
		return done(w, r, s, "Please enter a name.", nil)
	}
	s.Renew() // a token that was planted in this browser before is now worthless
	return done(w, r, s, "Welcome, "+name+". Your session has a new ID and kept its values.", user.Set(s, name))
}

func logout(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	s.Destroy() // values set from here on belong to a new session
	return done(w, r, s, "You are logged out. This is a new, empty session.", nil)
}

// done ends a POST with a message for the next page, and redirects there.
func done(w http.ResponseWriter, r *http.Request, s sessions.Session, message string, err error) error {
	if err = errors.Join(err, flash.Set(s, message)); err == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	return err
}

// clean reduces what a person types to one short line.
func clean(s string) string {
	runes := []rune(strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " "))
	return string(runes[:min(len(runes), 120)])
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`host:port` to listen on")
	redisAddr := flag.String("redis", "", "`host:port` of a Redis server, instead of the embedded one")
	kind := flag.String("store", "redis", "`kind` of store: redis or cookie")
	flag.Parse()
	log.SetFlags(0)
	if err := run(*addr, *redisAddr, *kind); err != nil {
		log.Fatal("quickstart: ", err)
	}
}

func run(addr, redisAddr, kind string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, name, err := openStore(ctx, kind, redisAddr)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w\nIf another program uses this address, choose another: -addr 127.0.0.1:8081", err)
	}
	at := ln.Addr().(*net.TCPAddr)
	host, _ := os.Hostname()
	srv := server{ServedBy: fmt.Sprintf("%s:%d", host, at.Port), PID: os.Getpid(), Store: name}
	handler, err := srv.handler(store, log.New(os.Stderr, "", log.Ltime))
	if err != nil {
		return err
	}
	if at.IP.IsUnspecified() {
		at.IP = net.IPv4(127, 0, 0, 1)
	}
	fmt.Printf("Open http://%v  (sessions in %s; Ctrl-C stops)\n", at, name)

	web := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop() // a second Ctrl-C does not wait
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		return web.Close()
	}
	return nil
}
