package sessions

import (
	"errors"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"handover.example/sessions/internal/check"
)

// Cookie sets the name and the attributes of the session cookie. The zero value means a cookie named "session" with
// Path "/", SameSite=Lax and no Domain, which the browser deletes when it closes. The cookie is always HttpOnly.
//
// If you change Domain or Path, browsers keep the earlier cookie beside the new one. No change is lost: of sealed cookies
// the newest counts, and cookies that name records on the server name the same one. A logout deletes the cookie under
// the Domains and Paths that the request shows, 16 at most. A browser that has only a sealed cookie from an earlier
// Domain or Path keeps it, and stays logged in, unless the earlier Domain was empty and the Path is the same.
type Cookie struct {
	_ [0]func()

	// Name is the name of the cookie. Default "session". On HTTPS, use "__Host-session": then no subdomain, no sibling
	// and nobody on plain HTTP can plant another cookie under this name. Choose it before you start, because changing
	// it later logs everyone out.
	//
	// Browsers accept the prefix "__Host-" only with Secure, Path "/" and no Domain, and the prefix "__Secure-" only with
	// Secure (RFC 6265bis, section 4.1.3); either prefix makes the cookie Secure.
	Name string
	// Path limits the cookie to URLs under this path. Default "/".
	Path string
	// Domain extends the cookie to this domain and its subdomains. Default: only the host that set it.
	Domain string
	// SameSite controls whether the browser sends the cookie with requests from other sites. Default Lax. None makes
	// the cookie Secure, because browsers reject it otherwise.
	SameSite http.SameSite
	// Partitioned gives an embedded page a separate cookie under each top-level site (CHIPS). It makes the cookie
	// Secure.
	Partitioned bool
}

const defaultCookieName = "session"

// maxAttributeBytes is the length of an attribute value that browsers accept (RFC 6265bis, section 5.6).
const maxAttributeBytes = 1024

// withDefaults returns c with the defaults filled in.
func (c Cookie) withDefaults() Cookie {
	if c.Name == "" {
		c.Name = defaultCookieName
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
		c.SameSite = http.SameSiteLaxMode
	}
	return c
}

// check reports every mistake in a cookie whose defaults are filled in.
func (c Cookie) check(secure SecureMode, bad *check.Mistakes) {
	if i := strings.IndexFunc(c.Name, func(r rune) bool { return !isTokenRune(r) }); i >= 0 {
		bad.Add("Cookie.Name", "%q has a character that is not allowed in a cookie name, at %d: use letters, digits, '-' and '_'", c.Name, i)
	}
	if len(c.Name) > maxCookieBytes/4 {
		bad.Add("Cookie.Name", "%d bytes are too long: the name counts towards the %d bytes of a cookie", len(c.Name), maxCookieBytes)
	}
	if c.Path[0] != '/' {
		bad.Add("Cookie.Path", "%q does not start with '/': browsers would ignore it", c.Path)
	}
	if reason := pathMistake(c.Path); reason != "" {
		bad.Add("Cookie.Path", "%q %s", c.Path, reason)
	}
	if len(c.Path) > maxAttributeBytes {
		bad.Add("Cookie.Path", "%d bytes are too long: browsers accept %d", len(c.Path), maxAttributeBytes)
	}
	if reason := domainMistake(c.Domain); reason != "" {
		bad.Add("Cookie.Domain", "%q %s", c.Domain, reason)
	}
	switch c.SameSite {
	case http.SameSiteLaxMode, http.SameSiteStrictMode, http.SameSiteNoneMode:
	default:
		bad.Add("Cookie.SameSite", "unknown mode %d: use a constant of net/http", c.SameSite)
	}
	if hasPrefixFold(c.Name, "__Host-") {
		if c.Domain != "" {
			bad.Add("Cookie.Domain", "must be empty for a __Host- cookie: leave it empty, or use the prefix __Secure-")
		}
		if c.Path != "/" {
			bad.Add("Cookie.Path", "must be \"/\" for a __Host- cookie: leave it empty, or use the prefix __Secure-")
		}
	}
	if secure == DangerouslyNeverSecure {
		if hasSecurePrefix(c.Name) {
			bad.Add("Cookie.Name", "browsers accept %q only with Secure, which DangerouslyNeverSecure forbids", c.Name)
		}
		if c.SameSite == http.SameSiteNoneMode {
			bad.Add("Cookie.SameSite", "browsers accept SameSite=None only with Secure, which DangerouslyNeverSecure forbids")
		}
		if c.Partitioned {
			bad.Add("Cookie.Partitioned", "browsers accept it only with Secure, which DangerouslyNeverSecure forbids")
		}
	}
}

// pathMistake returns what is wrong with the characters of a Path attribute, or "".
func pathMistake(path string) string {
	switch {
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r > '~' || r == ';' }):
		return "has a character that would end or break the cookie: use ASCII without ';' and control characters"
	case strings.ContainsAny(path, " ?#"):
		return "has a space, '?' or '#': no request path has one, so browsers would never send the cookie"
	}
	return ""
}

// domainMistake returns what is wrong with a Domain attribute, or "".
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
	if err == nil || last != "" && strings.Trim(last, "0123456789") == "" { // browsers parse a name that ends in a number as an address
		return "is an IP address: browsers accept only domain names; leave it empty"
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return !isAlphanumeric(r) && r != '-' }) {
			return "is not a domain name: use letters, digits and '-' between dots, and the xn-- form of an international name"
		}
	}
	return ""
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// isTokenRune reports whether a cookie name may contain r (RFC 9110, section 5.6.2).
func isTokenRune(r rune) bool { return isAlphanumeric(r) || strings.ContainsRune("!#$%&'*+-.^_`|~", r) }

// hasPrefixFold ignores case, as browsers do with these prefixes.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hasSecurePrefix(name string) bool {
	return hasPrefixFold(name, "__Host-") || hasPrefixFold(name, "__Secure-") || hasPrefixFold(name, "__Http-")
}

// needsSecure reports whether browsers reject the cookie without Secure.
func (c Cookie) needsSecure() bool {
	return hasSecurePrefix(c.Name) || c.SameSite == http.SameSiteNoneMode || c.Partitioned
}

var errNoCookieValue = errors.New("sessions: the codec or store returned a token with bytes that are not allowed in a cookie value")

// cookieOctet is the set of bytes that a cookie value may contain (RFC 6265, section 4.1.1).
var cookieOctet = func() (may [256]bool) {
	for c := range may {
		may[c] = c > ' ' && c < 0x7f && !strings.ContainsRune("\",;\\", rune(c))
	}
	return may
}()

// fitsCookie reports whether a value consists of cookie-octets only.
func fitsCookie(value string) bool {
	for i := range len(value) {
		if !cookieOctet[value[i]] {
			return false
		}
	}
	return true
}

// maxCookieAge is how long browsers keep a cookie (RFC 6265bis, section 5.5).
const maxCookieAge = 400 * 24 * time.Hour

// header returns the value of the Set-Cookie header. With a zero maxAge the cookie lasts until the browser closes; a
// negative one deletes it.
func (c Cookie) header(value string, maxAge time.Duration, secure bool) string {
	h := http.Cookie{
		Name: c.Name, Path: c.Path, Domain: c.Domain, HttpOnly: true,
		Secure: secure, SameSite: c.SameSite, Partitioned: c.Partitioned,
	}
	switch {
	case maxAge < 0:
		h.MaxAge = -1
	case maxAge > 0:
		h.MaxAge = max(1, int(maxAge.Round(time.Second)/time.Second))
	}
	// Insert the value separately: net/http would check each byte again, which fitsCookie has done.
	return c.withValue(h.String(), value)
}

// withValue inserts the value into a Set-Cookie line without one.
func (c Cookie) withValue(line, value string) string {
	at := len(c.Name) + len("=")
	return line[:at] + value + line[at:]
}

// maxCandidates bounds how many cookies of one name are considered, and maxReads for how many of them the store is read.
// Another path or domain may have left one or two; more reads would only let a client multiply the store's work. A value
// that cannot be ours costs no read.
const (
	maxCandidates = 64
	maxReads      = 4
)

// candidates returns the different cookie values that the client sent under this name, in the client's order, at most
// maxCandidates, and reports whether there are more. Unlike net/http, it also returns values with forbidden bytes, so
// that rejecting them leaves a trace.
func candidates(h http.Header, name string, into []string) (values []string, more bool) {
	for _, line := range h["Cookie"] {
		for len(line) > 0 {
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
			if len(into) == maxCandidates {
				return into, true
			}
			value = textproto.TrimString(value)
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			if !slices.Contains(into, value) {
				into = append(into, value)
			}
		}
	}
	return into, false
}

// maxScopes bounds how many cookies a logout deletes.
const maxScopes = 16

// scopes returns the cookie with each Domain and Path that another cookie of the same name may have: a browser tells
// neither. The first is c itself. The second has no Domain, if c has one: a browser may still have the cookie from before
// it was set. The others are sent only if the client is known to have several cookies. They are for the host of the
// request and its parent domains, and for "/" and the first directories of its path.
func (c Cookie) scopes(host, path string, several bool) []Cookie {
	domains, paths := []string{c.Domain}, []string{c.Path}
	if c.Domain != "" {
		domains = append(domains, "")
	}
	if several && !hasPrefixFold(c.Name, "__Host-") {
		name := hostOf(host)
		for domainMistake(name) == "" && strings.Contains(name, ".") {
			domains = append(domains, name)
			_, name, _ = strings.Cut(name, ".")
		}
		paths = append(paths, "/")
		for end := 1; end < len(path); end++ {
			if i := strings.IndexByte(path[end:], '/'); i >= 0 {
				end += i
			} else {
				end = len(path)
			}
			if prefix := path[:end]; len(prefix) < maxAttributeBytes && strings.HasPrefix(prefix, "/") && pathMistake(prefix) == "" {
				paths = append(paths, prefix)
				if end < len(path) {
					paths = append(paths, prefix+"/")
				}
			}
		}
	}
	var all []Cookie
	for _, p := range paths {
		for _, d := range domains {
			isThere := func(o Cookie) bool { return o.Domain == d && o.Path == p }
			if len(all) < maxScopes && !slices.ContainsFunc(all, isThere) {
				c.Domain, c.Path = d, p
				all = append(all, c)
			}
		}
	}
	return all
}

// hostOf returns the host name of a Host header, in lower case.
func hostOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
