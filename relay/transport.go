package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"handover.example/sessions"
)

// transport attaches a token to requests for listed hosts, and takes it off all others. It decides anew for each request,
// so also for each hop of a redirect: http.Client repeats the headers that its caller set, not those that are set here.
type transport struct {
	base   http.RoundTripper
	header string
	hosts  hosts
	token  func(context.Context) (string, error) // empty: none for this request
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token := ""
	if t.hosts.has(req.URL) {
		var err error
		if token, err = t.token(req.Context()); err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
	}
	if token != "" || hasHeader(req.Header, t.header) {
		req = req.Clone(req.Context())
		deleteHeader(req.Header, t.header)
		if token != "" {
			req.Header[t.header] = []string{token}
		}
	}
	return t.base.RoundTrip(req)
}

// withoutProxy is http.DefaultTransport, but for the proxies of the environment: those are for the world outside, and
// would see the tokens.
func withoutProxy() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return &http.Transport{}
	}
	t = t.Clone()
	t.Proxy = nil
	return t
}

// hosts are those that may have a token: a name for every port of it, or a name and a port.
type hosts map[string]bool

func newHosts(names []string, bad *mistakes) hosts {
	h := hosts{}
	for _, name := range names {
		u, err := url.Parse("//" + name)
		if err != nil || u.Host != name || u.Hostname() == "" || u.User != nil || strings.ContainsAny(name, "*?#/@ ") {
			bad.add("Hosts", "%q is not a host name or address, with or without a port", name)
			continue
		}
		h[canonicalHost(u.Hostname(), u.Port())] = true
	}
	return h
}

func canonicalHost(name, port string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if port == "" {
		return name
	}
	return name + " " + port
}

func (h hosts) has(u *url.URL) bool {
	if h[canonicalHost(u.Hostname(), "")] {
		return true
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return port != "" && h[canonicalHost(u.Hostname(), port)]
}

// sameHeader also takes '_' for '-', as many servers behind do.
func sameHeader(name, header string) bool {
	return len(name) == len(header) && strings.EqualFold(strings.ReplaceAll(name, "_", "-"), header)
}

func hasHeader(h http.Header, header string) bool {
	for name := range h {
		if sameHeader(name, header) {
			return true
		}
	}
	return false
}

func deleteHeader(h http.Header, header string) {
	for name := range h {
		if sameHeader(name, header) {
			delete(h, name)
		}
	}
}

// withoutHeader gives a request without the header; the same one if it has none. The caller's own is not changed.
func withoutHeader(r *http.Request, header string) *http.Request {
	if !hasHeader(r.Header, header) && !hasHeader(r.Trailer, header) {
		return r
	}
	r2 := new(http.Request)
	*r2 = *r
	r2.Header = r.Header.Clone()
	deleteHeader(r2.Header, header)
	if hasHeader(r.Trailer, header) {
		r2.Trailer = r.Trailer.Clone()
		deleteHeader(r2.Trailer, header)
	}
	return r2
}

// checkHeader gives the canonical form of the header's name, or the default.
func checkHeader(name string, bad *mistakes) string {
	if name == "" {
		return DefaultHeader
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	for i := range len(name) {
		if c := name[i] | 0x20; !('a' <= c && c <= 'z' || '0' <= name[i] && name[i] <= '9' || name[i] == '-') {
			bad.add("Header", "letters, digits and '-' only")
			return canonical
		}
	}
	switch canonical {
	case "Authorization", "Proxy-Authorization", "Cookie", "Host", "Connection", "Content-Length", "Transfer-Encoding":
		bad.add("Header", "%s has a meaning of its own", canonical)
	}
	return canonical
}

// mistakes collects the configuration errors of one constructor.
type mistakes []error

func (m *mistakes) add(field, format string, args ...any) {
	*m = append(*m, &sessions.ConfigError{Field: field, Reason: fmt.Sprintf(format, args...)})
}

func (m mistakes) join() error { return errors.Join(m...) }

func orDefault[T comparable](v, std T) T {
	var zero T
	if v == zero {
		return std
	}
	return v
}
