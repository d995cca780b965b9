// Package httpcache sets the response headers that caches obey.
package httpcache

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// Forbid forbids every cache to store the response: it replaces all caching headers with Cache-Control: no-store. It
// returns the names of the headers that asked a shared cache to store the response, in order.
func Forbid(h http.Header) (dropped []string) {
	for name, values := range h {
		if !isCacheHeader(name) {
			continue
		}
		if asksForCaching(name, values) {
			dropped = append(dropped, name)
		}
		delete(h, name)
	}
	h["Cache-Control"] = []string{"no-store"}
	slices.Sort(dropped)
	return dropped
}

// VaryByCookie adds Cookie to Vary, unless it is there, because the response depends on the cookie.
func VaryByCookie(h http.Header) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			if name == "*" || strings.EqualFold(name, "Cookie") {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"], "Cookie")
}

// Personal marks a response that was made for one client: it depends on the cookie, and is private if nobody has said
// what caches may do with it.
func Personal(h http.Header) {
	switch {
	case saysAnything(h):
		VaryByCookie(h)
	case h["Vary"] == nil: // as usual: one allocation for both
		values := []string{"Cookie", "private"}
		h["Vary"], h["Cache-Control"] = values[:1:1], values[1:]
	default:
		VaryByCookie(h)
		h["Cache-Control"] = []string{"private"}
	}
}

// saysAnything reports whether there is any header about caching, even one without a value.
func saysAnything(h http.Header) bool {
	for name := range h {
		if isCacheHeader(name) || strings.EqualFold(name, "Pragma") {
			return true
		}
	}
	return false
}

// isCacheHeader reports whether a cache obeys the header, sometimes in preference to Cache-Control: also those of one
// cache or CDN alone (RFC 9213, X-LiteSpeed-Cache-Control), in whatever case a handler wrote them into the map.
func isCacheHeader(name string) bool {
	switch name = textproto.CanonicalMIMEHeaderKey(name); name {
	case "Expires", "Surrogate-Control", "Edge-Control", "X-Accel-Expires":
		return true
	}
	return strings.HasSuffix(name, "Cache-Control")
}

// asksForCaching reports whether a header allows a shared cache to store the response. Expires alone is not worth an
// event.
func asksForCaching(name string, values []string) bool {
	v := strings.ToLower(strings.Join(values, ","))
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Expires":
		return false
	case "X-Accel-Expires":
		return v != "0"
	}
	asks := false
	for directive := range strings.SplitSeq(v, ",") {
		directive, value, _ := strings.Cut(directive, "=")
		switch strings.TrimSpace(directive) {
		case "private", "no-store", "no-cache":
			return false
		case "public":
			asks = true
		case "max-age", "s-maxage", "cache-maxage":
			asks = asks || strings.Trim(value, `"0 `) != ""
		}
	}
	return asks
}
