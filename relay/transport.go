package relay

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"handover.example/sessions"
	"handover.example/sessions/internal/check"
)

// transport attaches a token to requests for listed hosts, and deletes it from all others. It decides for each request,
// and so for each hop of a redirect: http.Client repeats the headers that its caller set, not those set here.
type transport struct {
	base   http.RoundTripper
	header string
	hosts  hosts
	token  func(context.Context) (string, error) // returns "" if there is none
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		return t.base.RoundTrip(req) // returns the error
	}
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
		// Not Clone: a caller may set its trailers while the body is read, and a copy would not have them.
		req = req.WithContext(req.Context())
		header := req.Header.Clone()
		if header == nil {
			header = http.Header{}
		}
		deleteHeader(header, t.header)
		if token != "" {
			header[t.header] = []string{token}
		}
		req.Header = header
	}
	return t.base.RoundTrip(req)
}

// CloseIdleConnections closes those of the base. http.Client.CloseIdleConnections calls it.
func (t *transport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// withoutProxy returns http.DefaultTransport without the proxies of the environment: those are for the outside world,
// and would see the tokens.
func withoutProxy() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return &http.Transport{}
	}
	t = t.Clone()
	t.Proxy = nil
	return t
}

// hosts are the hosts that may receive a token.
type hosts map[host]bool

// host is a name in canonical form. An empty port stands for every port.
type host struct{ name, port string }

func newHosts(names []string, bad *check.Mistakes) hosts {
	h := hosts{}
	for _, text := range names {
		u, err := url.Parse("//" + text)
		if err != nil || u.Host != text || strings.ContainsAny(text, "*?#/@ ") || strings.HasSuffix(text, ":") {
			bad.Add("Hosts", "%q is not a host name or address, with or without a port", text)
			continue
		}
		name, port := canonicalName(u.Hostname()), u.Port()
		n, err := strconv.ParseUint(port, 10, 16)
		switch {
		case name == "" || strings.Contains(name, ":") && text[0] != '[':
			bad.Add("Hosts", "%q is not a host name or address, with or without a port; an IPv6 address has brackets", text)
		case port != "" && (err != nil || n == 0):
			bad.Add("Hosts", "%q must have a port from 1 to 65535", text)
		case port != "":
			h[host{name, strconv.FormatUint(n, 10)}] = true
		default:
			h[host{name: name}] = true
		}
	}
	return h
}

// canonicalName returns the canonical form of a name or an address.
func canonicalName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.Unmap().String()
	}
	return name
}

func (h hosts) has(u *url.URL) bool {
	name := canonicalName(u.Hostname())
	if h[host{name: name}] {
		return true
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && h[host{name, strconv.FormatUint(n, 10)}]
}

// sameHeader compares header names. It treats '_' as '-', as many backend servers do.
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

// withoutHeader returns a copy of the request without the header, or r itself if it cannot have the header. It does not
// modify r. If the header was there, it calls found once; for a trailer, that may be when the body has been read.
func withoutHeader(r *http.Request, header string, found func()) *http.Request {
	inHeader := hasHeader(r.Header, header)
	if !inHeader && r.Trailer == nil {
		return r
	}
	r2 := new(http.Request)
	*r2 = *r
	if inHeader {
		r2.Header = r.Header.Clone()
		deleteHeader(r2.Header, header)
	}
	if r.Trailer != nil {
		// When the body has been read, the server sets the trailers, also those that were not announced, in a map that
		// copies of its request share.
		inHeader = inHeader || hasHeader(r.Trailer, header)
		r2.Trailer = r.Trailer.Clone()
		deleteHeader(r2.Trailer, header)
		if r.Body != nil {
			r2.Body = &trailerBody{ReadCloser: r.Body, from: r.Trailer, to: r2.Trailer, header: header, found: found, told: inHeader}
		}
	}
	if inHeader {
		found()
	}
	return r2
}

// trailerBody passes the trailers on, except for the header, when the body has ended.
type trailerBody struct {
	io.ReadCloser
	from, to http.Header
	header   string
	found    func()
	told     bool
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name, lines := range b.from {
			if !sameHeader(name, b.header) {
				b.to[name] = lines
			} else if !b.told {
				b.told = true
				b.found()
			}
		}
	}
	return n, err
}

// checkHeader returns the canonical form of the header's name, or the default.
func checkHeader(name string, bad *check.Mistakes) string {
	if name == "" {
		return DefaultHeader
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	for i := range len(name) {
		if c := name[i] | 0x20; !('a' <= c && c <= 'z' || '0' <= name[i] && name[i] <= '9' || name[i] == '-') {
			bad.Add("Header", "must have only letters, digits and '-'")
			return canonical
		}
	}
	switch canonical {
	case "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "Host", "Content-Length", "Content-Type",
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect":
		bad.Add("Header", "%s already has a meaning: choose another name", canonical)
	}
	return canonical
}

// configError returns the error for one mistake in a configuration.
func configError(field, reason string) error {
	return &sessions.ConfigError{Field: field, Reason: reason}
}
