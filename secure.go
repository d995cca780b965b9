package sessions

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"handover.example/sessions/internal/loglimit"
	"handover.example/sessions/internal/scheme"
)

// useSecure reports whether a cookie of a session is Secure; seen reports whether the session has been seen over HTTPS.
func (r *request) useSecure(seen bool) bool {
	switch r.m.secure {
	case SecureAlways:
		return true
	case DangerouslyNeverSecure:
		return false
	}
	return seen || r.m.cookie.needsSecure() || r.m.scheme.Detect(r.came).HTTPS
}

// isHTTPS reports whether the request came over HTTPS. It emits an event if a proxy header was not trusted.
func (r *request) isHTTPS(ctx context.Context) bool {
	v := r.m.scheme.Detect(r.came)
	if v.Ignored && r.m.secure == SecureAuto {
		p := peerOf(r.came)
		detail := r.m.scheme.Header + " from " + p.name + " was ignored: if this is your proxy, " + p.fix
		if p.name == "" {
			detail = r.m.scheme.Header + " was ignored: " + p.fix + ", or set Config.Secure to SecureAlways"
		}
		r.m.warnOnce(ctx, cmp.Or(p.name, "replaced"), Event{Kind: EventSecure, Outcome: OutcomeUntrustedProxy, Detail: detail})
	}
	return v.HTTPS
}

// warnInsecure reports a Secure cookie on a request that looks like plain HTTP: a browser that really uses plain HTTP
// rejects it, and nothing else would say why.
func (r *request) warnInsecure(ctx context.Context, id string, secure bool) {
	if !secure {
		return
	}
	v := r.m.scheme.Detect(r.came)
	if v.HTTPS {
		return
	}
	p := peerOf(r.came)
	fix := "make it send " + r.m.scheme.Header + ": https"
	if v.Ignored {
		fix = p.fix
	}
	r.m.warnOnce(ctx, loglimit.Cut(r.came.Host), Event{Kind: EventSecure, Outcome: OutcomeInsecure, SessionID: id,
		Detail: "the cookie is Secure, but the request" + p.after(" from ") + " looks like plain HTTP: a browser on plain HTTP rejects the cookie, one on HTTPS keeps it. " +
			"Behind a proxy that terminates TLS, " + fix + "; without TLS, use HTTPS, or localhost in development"})
}

// warnUpgraded reports a session that continues on HTTPS with a token that was sent over plain HTTP. It is not renewed by
// itself, because the parallel requests of the first page would fail.
func (r *request) warnUpgraded(ctx context.Context, id string) {
	if r.m.secure != SecureAuto || r.m.cookie.needsSecure() {
		return // the cookie was Secure all along, or is not meant to be
	}
	r.m.warnOnce(ctx, loglimit.Cut(r.came.Host), Event{Kind: EventSecure, Outcome: OutcomeUpgraded, SessionID: id,
		Detail: "the session began on plain HTTP, where others could read its token, and keeps that token: call Renew when a user logs in, and redirect to HTTPS before a session begins. " +
			"If all users are on HTTPS, a proxy loses the scheme at times: set Config.Secure to SecureAlways"})
}

// warnDomain reports a cookie for a domain that the request's host does not belong to: browsers reject it.
func (r *request) warnDomain(ctx context.Context, id string) {
	domain := r.m.cookie.Domain
	if domain == "" || domainMatches(r.came.Host, domain) {
		return
	}
	r.m.warnOnce(ctx, loglimit.Cut(r.came.Host), Event{Kind: EventSecure, Outcome: OutcomeForeignDomain, SessionID: id,
		Detail: "Cookie.Domain is " + domain + ", but the request is for " + loglimit.Cut(r.came.Host) + ": browsers reject the cookie. " +
			"Leave Cookie.Domain empty, or set it to a domain of that host; if a proxy rewrites Host, make it pass on the browser's"})
}

// warnPath reports a cookie for a path that the request is not under: the browser keeps it, in place of the one that it
// has there, and does not send it with the next request for this page. A proxy that strips a prefix of the path looks the
// same from here, so the cookie is sent.
func (r *request) warnPath(ctx context.Context, id string) {
	path := requestPath(r.came)
	if r.m.cookie.Path == "/" || pathMatches(path, r.m.cookie.Path) {
		return
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	first = "/" + loglimit.Cut(first)
	r.m.warnOnce(ctx, first, Event{Kind: EventSecure, Outcome: OutcomeForeignPath, SessionID: id,
		Detail: "Cookie.Path is " + r.m.cookie.Path + ", but the request is for a page under " + first + ": browsers send the cookie only under Cookie.Path, " +
			"and keep this one in place of the one they have there. Use sessions under Cookie.Path alone, or leave it empty. If a proxy strips " + r.m.cookie.Path + " from the path, all is well"})
}

// requestPath returns the path that the client asked for, before any handler has changed it.
func requestPath(r *http.Request) string {
	if path, _, _ := strings.Cut(r.RequestURI, "?"); strings.HasPrefix(path, "/") {
		return path
	}
	if r.URL == nil {
		return "/"
	}
	return r.URL.Path
}

// pathMatches reports whether a browser sends a cookie for a path with a request for another (RFC 6265, section 5.1.4).
func pathMatches(request, cookie string) bool {
	rest, ok := strings.CutPrefix(request, cookie)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(cookie, "/"))
}

// domainMatches reports whether a browser accepts a cookie for the domain from this host, given with or without a port
// (RFC 6265, section 5.1.3).
func domainMatches(host, domain string) bool {
	host, domain = hostOf(host), strings.ToLower(strings.TrimPrefix(domain, "."))
	// A single label, such as "com", is no domain that a browser lets a site set a cookie for.
	return host == domain || strings.Contains(domain, ".") && strings.HasSuffix(host, "."+domain)
}

// checkOrigin detects a proxy chain that loses the scheme: the browser's Origin is this host with https, but the
// request looks like HTTP.
func (r *request) checkOrigin(ctx context.Context) {
	origin := r.came.Header.Get("Origin")
	host, ok := strings.CutPrefix(origin, "https://")
	if !ok || r.m.secure != SecureAuto || !strings.EqualFold(strings.TrimSuffix(host, ":443"), strings.TrimSuffix(r.came.Host, ":443")) {
		return
	}
	v := r.m.scheme.Detect(r.came)
	if v.HTTPS {
		return
	}
	p := peerOf(r.came)
	fix := "make every proxy pass on " + r.m.scheme.Header + " from the first one, or set Config.ProxyHeader to a header that no proxy overwrites, or set Config.Secure to SecureAlways"
	if v.Ignored {
		fix = p.fix + ", or set Config.Secure to SecureAlways"
	}
	r.m.warnOnce(ctx, loglimit.Cut(r.came.Host), Event{Kind: EventSecure, Outcome: OutcomeSchemeMismatch,
		Detail: "Origin says https, the proxy" + p.after(" at ") + " " + says(v, r.m.scheme.Header) + ": " + fix})
}

func says(v scheme.Verdict, header string) string {
	switch {
	case v.Ignored:
		return "is not trusted, so its " + header + " was ignored"
	case v.Claim == "":
		return "sends no " + header
	case strings.EqualFold(v.Claim, "http"), strings.EqualFold(v.Claim, "ws"):
		return "says http (" + header + ")"
	}
	return "says neither http nor https (" + header + ")"
}

// peer is the direct peer of a request, for events.
type peer struct {
	name string // "" if something has replaced its address
	fix  string // how to make its proxy header count
}

// after returns the name after a word, or "" if there is no name.
func (p peer) after(word string) string {
	if p.name == "" {
		return ""
	}
	return word + p.name
}

func peerOf(r *http.Request) peer {
	is := "not an address and a port"
	switch p := scheme.PeerOf(r.RemoteAddr); p.Kind {
	case scheme.Network:
		return peer{p.Addr.String(), "add it to Config.TrustedProxies"}
	case scheme.UnixSocket:
		return peer{"a Unix socket", "set Config.TrustUnixSocket"}
	case scheme.Bare:
		is = "an address without a port"
	}
	return peer{fix: fmt.Sprintf("RemoteAddr is %q, %s: something outside Wrap has replaced the address of the proxy; put Wrap outside of it", loglimit.Cut(r.RemoteAddr), is)}
}
