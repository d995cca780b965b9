// Command nethttp shows sessions with net/http alone: a counter, login, logout and a flash message.
//
//	go run ./nethttp
package main

import (
	"errors"
	"net/http"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/web"
)

// The values of a session. Everything below uses these keys, so that each type is written once.
var (
	user   = sessions.NewKey[string]("user")
	visits = sessions.NewKey[int]("visits")
	flash  = sessions.NewKey[string]("flash")
)

func main() { web.Main(handler) }

// handler combines what a request passes through, outermost first: recovery from panics, rejection of POSTs from other
// sites, sessions, routes.
func handler(store sessions.Store) (http.Handler, error) {
	mgr, err := sessions.New(sessions.Config{Store: store, IdleTimeout: 30 * time.Minute})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", withSession(page))
	mux.Handle("POST /login", withSession(login))
	mux.Handle("POST /logout", withSession(logout))
	mux.Handle("POST /fail", withSession(fail))
	return web.Recover(http.NewCrossOriginProtection().Handler(mgr.Wrap(mux))), nil
}

// withSession passes a handler its session. An error means that the store could not answer, not that nobody is logged
// in: do not continue without the session.
func withSession(next func(http.ResponseWriter, *http.Request, sessions.Session) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err == nil {
			err = next(w, r, s)
		}
		if err != nil {
			web.Unavailable(w)
		}
	}
}

func page(w http.ResponseWriter, _ *http.Request, s sessions.Session) error {
	n, err := visits.Update(s, func(n int) int { return n + 1 }) // not Get and Set: two tabs at the same time both count
	if err != nil {
		return err
	}
	p := web.Page{Title: "Handover with net/http", ID: s.ID(), Visits: n, Created: s.CreatedAt(), Expires: s.ExpiresAt()}
	p.User, _ = user.Get(s)
	p.Flash, _ = flash.Take(s) // shown once
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")     // so that the back button reloads the page after a logout
	_ = web.Templates.ExecuteTemplate(w, "page", p) // if the session cannot be saved, the ErrorHandler responds
	return nil
}

func login(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	name := web.Clean(r.PostFormValue("name")) // a real program checks a password here
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

func fail(_ http.ResponseWriter, _ *http.Request, s sessions.Session) error {
	_, _ = visits.Update(s, func(n int) int { return n + 100 })
	panic("broken on purpose: the hundred visits are not saved")
}

// done ends a POST with a message for the next page, and redirects there.
func done(w http.ResponseWriter, r *http.Request, s sessions.Session, message string, err error) error {
	if err = errors.Join(err, flash.Set(s, message)); err == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	return err
}
