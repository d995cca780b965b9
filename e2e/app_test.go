package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"html/template"
	"net/http"
	"strconv"

	"handover.example/sessions"
)

// What a session of the app holds.
var (
	countKey = sessions.NewKey[int]("count")
	valueKey = sessions.NewKey[string]("value")
	userKey  = sessions.NewKey[string]("user")
	bulkKey  = sessions.NewKey[string]("big")
)

// pageTemplate is read by readPage and by a browser: each thing to look at has an id.
var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>app</title></head><body>
<dl>
<dt>Count</dt><dd id="count">{{.Count}}</dd>
<dt>Value</dt><dd id="value">{{.Value}}</dd>
<dt>User</dt><dd id="user">{{.User}}</dd>
<dt>Session</dt><dd id="session">{{.Session}}</dd>
<dt>New</dt><dd id="new">{{.New}}</dd>
<dt>Served by</dt><dd id="served-by">{{.ServedBy}}</dd>
</dl>
<form id="save" method="post" action="/save"><input name="value"><button>Save</button></form>
<form id="login" method="post" action="/login"><input name="user" value="ada"><button>Log in</button></form>
<form id="logout" method="post" action="/logout"><button>Log out</button></form>
</body></html>
`))

// page is what the app shows.
type page struct {
	Count                          int
	Value, User, Session, ServedBy string
	New                            bool
}

// appHandler is the app that most tests put behind the proxies.
//
//	GET  /           the page; counts up
//	GET  /bare       the same without caching headers of its own
//	POST /save       keeps the form value "value", then 303 to /
//	POST /login      new token, keeps "user" (default "ada"), and with "remember" a persistent cookie; then 303 to /
//	POST /logout     ends the session, then 303 to /
//	GET  /plain      never asks for the session
//	GET  /static     the same, and may be kept by any cache
//	GET  /cacheable  asks to be cached although it changes the session
//	GET  /second     sets a cookie of its own beside the session's
//	GET  /big        puts ?bytes= (default 5000) bytes into the session: too many for a cookie, few for Redis
func appHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		w.Header().Set("Cache-Control", "no-store")
		return showPage(w, r, s)
	}))
	mux.Handle("GET /bare", withSession(showPage))
	mux.Handle("POST /save", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		return backHome(w, r, valueKey.Set(s, r.FormValue("value")))
	}))
	mux.Handle("POST /login", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		s.Renew()
		if r.FormValue("remember") != "" {
			s.SetLifetime(0, true)
		}
		name := r.FormValue("user")
		if name == "" {
			name = "ada"
		}
		return backHome(w, r, userKey.Set(s, name))
	}))
	mux.Handle("POST /logout", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		s.Destroy()
		return backHome(w, r, nil)
	}))
	mux.HandleFunc("GET /plain", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "plain, from", servedBy(r.Context()))
	})
	mux.HandleFunc("GET /static", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		fmt.Fprintln(w, "static, from", servedBy(r.Context()))
	})
	mux.Handle("GET /cacheable", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		w.Header().Set("Cache-Control", "public, max-age=60")
		return showPage(w, r, s)
	}))
	mux.Handle("GET /second", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		http.SetCookie(w, &http.Cookie{Name: "lang", Value: "de", Path: "/", MaxAge: 3600})
		return showPage(w, r, s)
	}))
	mux.Handle("GET /big", withSession(func(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
		n, err := strconv.Atoi(r.FormValue("bytes"))
		if err != nil {
			n = 5000
		}
		text := ""
		for len(text) < n {
			text += rand.Text()
		}
		if err := bulkKey.Set(s, text[:n]); err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, "big:", n, "bytes")
		return ignoreWrite(err)
	}))
	return mux
}

// withSession passes a handler its session, and responds if the store could not answer.
func withSession(next func(http.ResponseWriter, *http.Request, sessions.Session) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err == nil {
			err = next(w, r, s)
		}
		if err != nil {
			http.Error(w, "The session store does not answer.", http.StatusServiceUnavailable)
		}
	})
}

func showPage(w http.ResponseWriter, r *http.Request, s sessions.Session) error {
	n, err := countKey.Update(s, func(n int) int { return n + 1 })
	if err != nil {
		return err
	}
	p := page{Count: n, Session: s.ID(), ServedBy: servedBy(r.Context()), New: s.IsNew()}
	p.Value, _ = valueKey.Get(s)
	p.User, _ = userKey.Get(s)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	return ignoreWrite(pageTemplate.Execute(w, p))
}

// ignoreWrite is for writing the response: if the session could not be saved the client has its answer already.
func ignoreWrite(error) error { return nil }

// backHome ends a POST with the redirect that browsers expect.
func backHome(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	return err
}

type instanceKey struct{}

// servedBy returns the name of the instance that has the request.
func servedBy(ctx context.Context) string {
	name, _ := ctx.Value(instanceKey{}).(string)
	return name
}

// named tells the handlers of an instance its name, and shows it to a client that sends "Debug-Served-By: 1".
func named(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Debug-Served-By") == "1" {
			w.Header().Set("Served-By", name)
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), instanceKey{}, name)))
	})
}
