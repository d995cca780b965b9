// Command gin shows sessions with Gin: a counter, login, logout and a flash message.
//
//	go run ./gin
package main

import (
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/web"
)

// The values of a session. Everything below uses these keys, so that each type is written once.
var (
	user   = sessions.NewKey[string]("user")
	visits = sessions.NewKey[int]("visits")
	flash  = sessions.NewKey[string]("flash")
)

func main() {
	gin.SetMode(gin.ReleaseMode) // debug mode is verbose
	web.Main(handler)
}

// handler combines what a request passes through, outermost first: recovery from panics, rejection of POSTs from other
// sites, sessions, and inside all of Gin. It uses gin.New and not gin.Default, whose Recovery would turn a panic into
// an ordinary response, so that the session would be saved.
func handler(store sessions.Store) (http.Handler, error) {
	mgr, err := sessions.New(sessions.Config{Store: store, IdleTimeout: 30 * time.Minute})
	if err != nil {
		return nil, err
	}
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.SetHTMLTemplate(web.Templates)
	engine.GET("/", withSession(page))
	engine.POST("/login", withSession(login))
	engine.POST("/logout", withSession(logout))
	engine.POST("/fail", withSession(fail))
	return web.Recover(http.NewCrossOriginProtection().Handler(mgr.Wrap(engine))), nil
}

// withSession passes a handler its session. An error means that the store could not answer, not that nobody is logged
// in: do not continue without the session. Use the context of the request: a *gin.Context does not carry the session.
func withSession(next func(*gin.Context, sessions.Session) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		s, err := sessions.Get(c.Request.Context())
		if err == nil {
			err = next(c, s)
		}
		if err != nil {
			web.Unavailable(c.Writer)
		}
	}
}

func page(c *gin.Context, s sessions.Session) error {
	n, err := visits.Update(s, func(n int) int { return n + 1 }) // not Get and Set: two tabs at the same time both count
	if err != nil {
		return err
	}
	p := web.Page{Title: "Handover with Gin", ID: s.ID(), Visits: n, Created: s.CreatedAt(), Expires: s.ExpiresAt()}
	p.User, _ = user.Get(s)
	p.Flash, _ = flash.Take(s)            // shown once
	c.Header("Cache-Control", "no-store") // so that the back button reloads the page after a logout
	c.HTML(http.StatusOK, "page", p)
	return nil
}

func login(c *gin.Context, s sessions.Session) error {
	name := web.Clean(c.PostForm("name")) // a real program checks a password here
	if name == "" {
		return done(c, s, "Please enter a name.", nil)
	}
	s.Renew() // a token that was planted in this browser before is now worthless
	return done(c, s, "Welcome, "+name+". Your session has a new ID and kept its values.", user.Set(s, name))
}

func logout(c *gin.Context, s sessions.Session) error {
	s.Destroy() // values set from here on belong to a new session
	return done(c, s, "You are logged out. This is a new, empty session.", nil)
}

func fail(_ *gin.Context, s sessions.Session) error {
	_, _ = visits.Update(s, func(n int) int { return n + 100 })
	panic("broken on purpose: the hundred visits are not saved")
}

// done ends a POST with a message for the next page, and redirects there.
func done(c *gin.Context, s sessions.Session, message string, err error) error {
	if err = errors.Join(err, flash.Set(s, message)); err == nil {
		c.Redirect(http.StatusSeeOther, "/")
	}
	return err
}
