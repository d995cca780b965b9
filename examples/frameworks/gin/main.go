// Command gin has sessions with Gin: a counter, log in, log out and a flash message.
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

// What a session of this program holds. Everything below uses these keys, so that a type is written once.
var (
	user   = sessions.NewKey[string]("user")
	visits = sessions.NewKey[int]("visits")
	flash  = sessions.NewKey[string]("flash")
)

func main() {
	gin.SetMode(gin.ReleaseMode) // the debug mode is talkative
	web.Main(handler)
}

// handler puts together what a request passes through, outermost first: what answers for a panic, what refuses POSTs from
// other sites, the sessions, and inside of them the whole of Gin. It is gin.New and not gin.Default: the Recovery of Gin
// would turn a panic into a response like any other, and the session would be saved.
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

// withSession gives a handler its session. An error says that the store could not answer, and not that nobody is logged
// in: do not go on without the session. The context is that of the request: a *gin.Context knows nothing of it.
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
	n, err := visits.Update(s, func(n int) int { return n + 1 }) // not Get and Set: two tabs at once both count
	if err != nil {
		return err
	}
	p := web.Page{Title: "Handover with Gin", ID: s.ID(), Visits: n, Created: s.CreatedAt(), Expires: s.ExpiresAt()}
	p.User, _ = user.Get(s)
	p.Flash, _ = flash.Take(s)            // shown once
	c.Header("Cache-Control", "no-store") // so that the back button asks again after a logout
	c.HTML(http.StatusOK, "page", p)
	return nil
}

func login(c *gin.Context, s sessions.Session) error {
	name := web.Clean(c.PostForm("name")) // a real program checks a password here
	if name == "" {
		return done(c, s, "Please enter a name.", nil)
	}
	s.Renew() // what somebody may have planted in this browser before is worth nothing from now on
	return done(c, s, "Welcome, "+name+". Your session has a new ID and kept its values.", user.Set(s, name))
}

func logout(c *gin.Context, s sessions.Session) error {
	s.Destroy() // what is set from here on belongs to a new session
	return done(c, s, "You are logged out. This is a new, empty session.", nil)
}

func fail(_ *gin.Context, s sessions.Session) error {
	_, _ = visits.Update(s, func(n int) int { return n + 100 })
	panic("broken on purpose: the hundred visits are not saved")
}

// done ends a POST: a message for the next page, and the way there.
func done(c *gin.Context, s sessions.Session, message string, err error) error {
	if err = errors.Join(err, flash.Set(s, message)); err == nil {
		c.Redirect(http.StatusSeeOther, "/")
	}
	return err
}
