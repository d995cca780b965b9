// Command echo shows sessions with Echo: a counter, login, logout and a flash message.
//
//	go run ./echo
package main

import (
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v5"

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
// sites, sessions, and inside all of Echo, with its error handler. It does not use middleware.Recover, which would turn
// a panic into an ordinary response, so that the session would be saved.
func handler(store sessions.Store) (http.Handler, error) {
	mgr, err := sessions.New(sessions.Config{Store: store, IdleTimeout: 30 * time.Minute})
	if err != nil {
		return nil, err
	}
	e := echo.New()
	e.Renderer = &echo.TemplateRenderer{Template: web.Templates}
	e.GET("/", withSession(page))
	e.POST("/login", withSession(login))
	e.POST("/logout", withSession(logout))
	e.POST("/fail", withSession(fail))
	return web.Recover(http.NewCrossOriginProtection().Handler(mgr.Wrap(e))), nil
}

// withSession passes a handler its session. An error means that the store could not answer, not that nobody is logged
// in: do not continue without the session.
func withSession(next func(*echo.Context, sessions.Session) error) echo.HandlerFunc {
	return func(c *echo.Context) error {
		s, err := sessions.Get(c.Request().Context())
		if err != nil {
			web.Unavailable(c.Response())
			return nil
		}
		return next(c, s)
	}
}

func page(c *echo.Context, s sessions.Session) error {
	n, err := visits.Update(s, func(n int) int { return n + 1 }) // not Get and Set: two tabs at the same time both count
	if err != nil {
		return err
	}
	p := web.Page{Title: "Handover with Echo", ID: s.ID(), Visits: n, Created: s.CreatedAt(), Expires: s.ExpiresAt()}
	p.User, _ = user.Get(s)
	p.Flash, _ = flash.Take(s)                             // shown once
	c.Response().Header().Set("Cache-Control", "no-store") // so that the back button reloads the page after a logout
	return c.Render(http.StatusOK, "page", p)
}

func login(c *echo.Context, s sessions.Session) error {
	name := web.Clean(c.FormValue("name")) // a real program checks a password here
	if name == "" {
		return done(c, s, "Please enter a name.", nil)
	}
	s.Renew() // a token that was planted in this browser before is now worthless
	return done(c, s, "Welcome, "+name+". Your session has a new ID and kept its values.", user.Set(s, name))
}

func logout(c *echo.Context, s sessions.Session) error {
	s.Destroy() // values set from here on belong to a new session
	return done(c, s, "You are logged out. This is a new, empty session.", nil)
}

func fail(_ *echo.Context, s sessions.Session) error {
	_, _ = visits.Update(s, func(n int) int { return n + 100 })
	panic("broken on purpose: the hundred visits are not saved")
}

// done ends a POST with a message for the next page, and redirects there.
func done(c *echo.Context, s sessions.Session, message string, err error) error {
	if err = errors.Join(err, flash.Set(s, message)); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/")
}
