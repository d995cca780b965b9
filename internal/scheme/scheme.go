// Package scheme tells whether a request came by https, also when TLS ended at a proxy.
package scheme

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
)

// Policy says whom to believe. The zero Policy believes TLS alone.
type Policy struct {
	Header     string // the one header that is read, in canonical form
	Trusted    []netip.Prefix
	UnixSocket bool // trust peers without an address
}

// PrivateRanges are the addresses that a proxy of one's own has: loopback (RFC 1122, RFC 4291), private use (RFC 1918)
// and unique local (RFC 4193).
var PrivateRanges = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// Verdict is what Detect found.
type Verdict struct {
	HTTPS bool
	// Ignored says that the header was there, but came from a peer that is not trusted.
	Ignored bool
	// Claim is the scheme that the header names, in the request's own spelling; empty without a header.
	Claim string
}

// Detect applies the policy: TLS on the connection itself, or the leftmost element of the header from a trusted peer,
// because that is what the edge saw that the browser spoke to. The URL of the request is never read: servers leave its
// scheme empty, and clients can fill it.
func (p *Policy) Detect(r *http.Request) Verdict {
	if r.TLS != nil {
		return Verdict{HTTPS: true}
	}
	lines := r.Header[p.Header]
	if p.Header == "" || len(lines) == 0 {
		return Verdict{}
	}
	claim := leftmost(p.Header, lines[0])
	if !p.trusts(r.RemoteAddr) {
		return Verdict{Ignored: true, Claim: claim}
	}
	return Verdict{HTTPS: isSecure(claim), Claim: claim}
}

// isSecure knows the names that proxies give to TLS: Traefik says wss for the handshake of a WebSocket, and some have a
// header that says on.
func isSecure(claim string) bool {
	return strings.EqualFold(claim, "https") || strings.EqualFold(claim, "wss") || strings.EqualFold(claim, "on")
}

// leftmost gives the scheme in the first element of the header: the element itself, or its proto parameter in the
// Forwarded header (RFC 7239).
func leftmost(header, line string) string {
	if header != "Forwarded" {
		element, _, _ := strings.Cut(line, ",")
		return textproto.TrimString(element)
	}
	element, _ := cutUnquoted(line, ',')
	for element != "" {
		var pair string
		pair, element = cutUnquoted(element, ';')
		name, value, _ := strings.Cut(pair, "=")
		if strings.EqualFold(textproto.TrimString(name), "proto") {
			return strings.Trim(textproto.TrimString(value), `"`)
		}
	}
	return ""
}

// cutUnquoted cuts at the first separator that is not inside a quoted string (RFC 9110, section 5.6.4).
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++
		case !quoted && s[i] == separator:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// trusts says whether the direct peer is one of the proxies. What is not an address and a port is not trusted.
func (p *Policy) trusts(remote string) bool {
	if IsUnixSocket(remote) {
		return p.UnixSocket
	}
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := ap.Addr().Unmap().WithZone("")
	for _, prefix := range p.Trusted {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// IsUnixSocket says whether a RemoteAddr is that of a peer without an address.
func IsUnixSocket(remote string) bool {
	return remote == "" || remote[0] == '@' || remote[0] == '/'
}
