// Package scheme detects whether a request came over HTTPS, even if a proxy terminated TLS.
package scheme

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
)

// Policy decides which proxies are trusted. The zero Policy trusts only TLS on the connection itself.
type Policy struct {
	Header     string // the one header that is read, in canonical form
	Trusted    []netip.Prefix
	UnixSocket bool // trust peers without an address
}

// PrivateRanges are the addresses from which your own proxies usually connect: loopback (RFC 1122, RFC 4291), private
// use (RFC 1918) and unique local (RFC 4193).
var PrivateRanges = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// Verdict is the result of Detect.
type Verdict struct {
	HTTPS bool
	// Ignored reports whether the header came from a peer that is not trusted.
	Ignored bool
	// Claim is the scheme that the header names, spelled as in the request; empty without a header.
	Claim string
}

// Detect applies the policy: TLS on the connection itself, or the leftmost element of the header from a trusted peer.
// The leftmost element is what the edge saw, to which the browser connected. Detect never reads the URL of the request:
// servers leave its scheme empty, and clients can set it.
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

// isSecure recognizes the values that proxies send for TLS: Traefik sends wss for the handshake of a WebSocket, and
// some proxies have a header with the value on.
func isSecure(claim string) bool {
	return strings.EqualFold(claim, "https") || strings.EqualFold(claim, "wss") || strings.EqualFold(claim, "on")
}

// leftmost returns the scheme in the first element of the header: the element itself, or its proto parameter in the
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

// trusts reports whether the direct peer is one of the proxies.
func (p *Policy) trusts(remote string) bool {
	peer := PeerOf(remote)
	if peer.Kind == UnixSocket {
		return p.UnixSocket
	}
	for _, prefix := range p.Trusted {
		if prefix.Contains(peer.Addr) {
			return true
		}
	}
	return false
}

// Peer is what a RemoteAddr says about the direct peer.
type Peer struct {
	Kind PeerKind
	Addr netip.Addr // of a Network peer, as a Policy compares it: IPv4 not in IPv6 form, and without a zone
}

// PeerKind is the kind of a Peer.
type PeerKind int

const (
	// Network is an address and a port, as net/http sets for TCP.
	Network PeerKind = iota
	// UnixSocket is a peer without an address.
	UnixSocket
	// Bare is an address without a port, and Other is anything else. net/http sets neither, so something in front of the
	// handler has replaced the address of the peer, mostly by that of the client. They are never trusted.
	Bare
	Other
)

// PeerOf parses the RemoteAddr of a request.
func PeerOf(remote string) Peer {
	if remote == "" || remote[0] == '@' || remote[0] == '/' {
		return Peer{Kind: UnixSocket}
	}
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return Peer{Kind: Network, Addr: ap.Addr().Unmap().WithZone("")}
	}
	if _, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(remote, "["), "]")); err == nil {
		return Peer{Kind: Bare}
	}
	return Peer{Kind: Other}
}
