package sessions

import (
	"errors"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"time"
)

// Cookie says how the session cookie looks. The zero value is a cookie "session" with Path "/", HttpOnly and
// SameSite=Lax, without a Domain, that the browser forgets when it closes; it is always HttpOnly.
type Cookie struct {
	_ [0]func()

	// Name of the cookie. Default "session". With the prefix "__Host-" a browser takes it only with Secure, Path "/" and
	// no Domain, with "__Secure-" only with Secure (RFC 6265bis, section 4.1.3); such a name makes the cookie Secure.
	Name string
	// Path for which the browser sends it. Default "/".
	Path string
	// Domain to whose subdomains the browser sends it as well. Default: only the host that set it.
	Domain string
	// SameSite says when the browser sends it on requests from other sites. Default Lax. None makes the cookie Secure,
	// because browsers refuse it otherwise.
	SameSite http.SameSite
	// Partitioned gives an embedded page a cookie of its own under each top-level site (CHIPS). It makes the cookie
	// Secure.
	Partitioned bool
}

// maxAttributeBytes is what browsers keep of an attribute's value (RFC 6265bis, section 5.6).
const maxAttributeBytes = 1024

// withDefaults fills in what is not set.
func (c Cookie) withDefaults() Cookie {
	if c.Name == "" {
		c.Name = "session"
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
		c.SameSite = http.SameSiteLaxMode
	}
	return c
}

// check reports every mistake in a cookie that has its defaults.
func (c Cookie) check(secure SecureMode, bad *mistakes) {
	if i := strings.IndexFunc(c.Name, func(r rune) bool { return !isTokenRune(r) }); i >= 0 {
		bad.add("Cookie.Name", "%q has a character that a cookie name cannot have, at %d: use letters, digits, '-' and '_'", c.Name, i)
	}
	if len(c.Name) > maxCookieBytes/4 {
		bad.add("Cookie.Name", "%d bytes are too long: it counts towards the %d of a cookie", len(c.Name), maxCookieBytes)
	}
	if c.Path[0] != '/' {
		bad.add("Cookie.Path", "%q does not start with '/': a browser would ignore it", c.Path)
	}
	if strings.ContainsFunc(c.Path, func(r rune) bool { return r < ' ' || r > '~' || r == ';' }) {
		bad.add("Cookie.Path", "%q has a character that ends or breaks the cookie: no ';', no control characters, no bytes outside ASCII", c.Path)
	}
	if len(c.Path) > maxAttributeBytes {
		bad.add("Cookie.Path", "%d bytes, a browser keeps %d", len(c.Path), maxAttributeBytes)
	}
	if reason := domainMistake(c.Domain); reason != "" {
		bad.add("Cookie.Domain", "%q %s", c.Domain, reason)
	}
	switch c.SameSite {
	case http.SameSiteLaxMode, http.SameSiteStrictMode, http.SameSiteNoneMode:
	default:
		bad.add("Cookie.SameSite", "%d is none of the modes of net/http", c.SameSite)
	}
	if hasPrefixFold(c.Name, "__Host-") {
		if c.Domain != "" {
			bad.add("Cookie.Domain", "a __Host- cookie has none: leave it empty, or use the prefix __Secure-")
		}
		if c.Path != "/" {
			bad.add("Cookie.Path", "a __Host- cookie has the path \"/\": leave it empty, or use the prefix __Secure-")
		}
	}
	if secure == DangerouslyNeverSecure {
		if hasSecurePrefix(c.Name) {
			bad.add("Cookie.Name", "browsers take %q only with Secure, which DangerouslyNeverSecure forbids", c.Name)
		}
		if c.SameSite == http.SameSiteNoneMode {
			bad.add("Cookie.SameSite", "browsers take SameSite=None only with Secure, which DangerouslyNeverSecure forbids")
		}
		if c.Partitioned {
			bad.add("Cookie.Partitioned", "browsers take it only with Secure, which DangerouslyNeverSecure forbids")
		}
	}
}

// domainMistake says what is wrong with a Domain attribute; empty if nothing is.
func domainMistake(domain string) string {
	if domain == "" {
		return ""
	}
	if len(domain) > 253 {
		return "is longer than a domain name can be"
	}
	name := strings.TrimPrefix(domain, ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	_, err := netip.ParseAddr(name)
	if err == nil || last != "" && strings.Trim(last, "0123456789") == "" { // a name that ends in a number is read as an address
		return "is an address: a browser takes a Domain only of names; leave it empty"
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return !isAlphanumeric(r) && r != '-' }) {
			return "is not a domain name: letters, digits and '-' between dots; an international name in its xn-- form"
		}
	}
	return ""
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// isTokenRune says whether a cookie name may have r (RFC 9110, section 5.6.2).
func isTokenRune(r rune) bool { return isAlphanumeric(r) || strings.ContainsRune("!#$%&'*+-.^_`|~", r) }

// Browsers compare the prefixes without regard to case.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hasSecurePrefix(name string) bool {
	return hasPrefixFold(name, "__Host-") || hasPrefixFold(name, "__Secure-") || hasPrefixFold(name, "__Http-")
}

// needsSecure says whether a browser drops the cookie without Secure.
func (c Cookie) needsSecure() bool {
	return hasSecurePrefix(c.Name) || c.SameSite == http.SameSiteNoneMode || c.Partitioned
}

var errNoCookieValue = errors.New("sessions: the codec or store made a token with bytes that a cookie value cannot have")

// cookieOctet are the bytes that a cookie value may have (RFC 6265, section 4.1.1).
var cookieOctet = func() (may [256]bool) {
	for c := range may {
		may[c] = c > ' ' && c < 0x7f && !strings.ContainsRune("\",;\\", rune(c))
	}
	return may
}()

// fitsCookie says whether a value is made of cookie-octets alone.
func fitsCookie(value string) bool {
	for i := range len(value) {
		if !cookieOctet[value[i]] {
			return false
		}
	}
	return true
}

// header gives the Set-Cookie line. A zero maxAge makes a cookie for as long as the browser runs, a negative one
// deletes it.
func (c Cookie) header(value string, maxAge time.Duration, secure bool) string {
	h := http.Cookie{
		Name: c.Name, Path: c.Path, Domain: c.Domain, HttpOnly: true,
		Secure: secure, SameSite: c.SameSite, Partitioned: c.Partitioned,
	}
	switch {
	case maxAge < 0:
		h.MaxAge = -1
	case maxAge > 0:
		h.MaxAge = max(1, int(maxAge.Seconds()))
	}
	// The value goes in by itself: net/http would look at each byte of it once more, as fitsCookie has done.
	return c.withValue(h.String(), value)
}

// withValue puts the value into a Set-Cookie line that has none.
func (c Cookie) withValue(line, value string) string {
	at := len(c.Name) + len("=")
	return line[:at] + value + line[at:]
}

// maxCandidates is how many cookies of the same name are tried: another path or domain may have left one or two behind;
// more of them would only let a client multiply the reads of the store.
const maxCandidates = 4

// candidates returns the values that the client sent under this name, in its order, up to maxCandidates. Unlike
// net/http it gives values with bytes that no cookie may have too, so that refusing them leaves a trace.
func candidates(h http.Header, name string, into []string) []string {
	for _, line := range h["Cookie"] {
		for len(line) > 0 && len(into) < maxCandidates {
			var part string
			part, line, _ = strings.Cut(line, ";")
			part, ok := strings.CutPrefix(textproto.TrimString(part), name)
			if !ok {
				continue
			}
			value, ok := strings.CutPrefix(textproto.TrimString(part), "=")
			if !ok {
				continue
			}
			value = textproto.TrimString(value)
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			into = append(into, value)
		}
	}
	return into
}
