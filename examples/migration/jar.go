package main

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// jar keeps cookies as a browser does for one site. Unlike net/http/cookiejar, it can simulate that the browser is
// closed.
type jar struct {
	mu      sync.Mutex // two tabs share it
	cookies map[string]kept
}

type kept struct {
	value, path string
	ends        time.Time // zero: when the browser closes
	secure      bool
}

// SetCookies implements [http.CookieJar].
func (j *jar) SetCookies(u *url.URL, set []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cookies == nil {
		j.cookies = map[string]kept{}
	}
	for _, c := range set {
		k := kept{value: c.Value, path: c.Path, ends: c.Expires, secure: c.Secure}
		if c.MaxAge > 0 { // it has precedence over Expires
			k.ends = time.Now().Add(time.Duration(c.MaxAge) * time.Second)
		}
		switch {
		case c.Secure && u.Scheme != "https": // rejected
		case len(c.Name)+len(c.Value) > 4096: // likewise
		case c.MaxAge < 0, !k.ends.IsZero() && k.ends.Before(time.Now()):
			delete(j.cookies, c.Name)
		default:
			j.cookies[c.Name] = k
		}
	}
}

// Cookies implements [http.CookieJar].
func (j *jar) Cookies(u *url.URL) (send []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.DeleteFunc(j.cookies, func(_ string, k kept) bool { return !k.ends.IsZero() && k.ends.Before(time.Now()) })
	for name, k := range j.cookies {
		if strings.HasPrefix(u.Path, k.path) && (!k.secure || u.Scheme == "https") {
			send = append(send, &http.Cookie{Name: name, Value: k.value})
		}
	}
	return send
}

// session returns the value of the session cookie, or "" if there is none.
func (j *jar) session() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cookies["session"].value
}

// closeBrowser deletes the cookies that are not persistent.
func (j *jar) closeBrowser() {
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.DeleteFunc(j.cookies, func(_ string, k kept) bool { return k.ends.IsZero() })
}

func (j *jar) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cookies = nil
}
