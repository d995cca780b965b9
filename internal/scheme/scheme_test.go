package scheme

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func request(remote string, header string, lines ...string) *http.Request {
	r := &http.Request{RemoteAddr: remote, Header: http.Header{}}
	for _, l := range lines {
		r.Header.Add(header, l)
	}
	return r
}

func TestDetect(t *testing.T) {
	std := Policy{Header: "X-Forwarded-Proto", Trusted: PrivateRanges}
	forwarded := Policy{Header: "Forwarded", Trusted: PrivateRanges}
	unix := std
	unix.UnixSocket = true
	for _, c := range []struct {
		name   string
		policy Policy
		r      *http.Request
		want   Verdict
	}{
		{"no header", std, request("10.0.0.1:5", "X-Forwarded-Proto"), Verdict{}},
		{"trusted https", std, request("10.0.0.1:5", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"case and space", std, request("10.0.0.1:5", "X-Forwarded-Proto", " HTTPS "), Verdict{HTTPS: true, Claim: "HTTPS"}},
		{"trusted http", std, request("10.0.0.1:5", "X-Forwarded-Proto", "http"), Verdict{Claim: "http"}},
		{"leftmost of a list", std, request("10.0.0.1:5", "X-Forwarded-Proto", "https, http"), Verdict{HTTPS: true, Claim: "https"}},
		{"leftmost of a list, http", std, request("10.0.0.1:5", "X-Forwarded-Proto", "http, https"), Verdict{Claim: "http"}},
		{"leftmost of lines", std, request("10.0.0.1:5", "X-Forwarded-Proto", "http", "https"), Verdict{Claim: "http"}},
		{"empty leftmost", std, request("10.0.0.1:5", "X-Forwarded-Proto", ", https"), Verdict{}},
		{"untrusted", std, request("203.0.113.9:5", "X-Forwarded-Proto", "https"), Verdict{Ignored: true, Claim: "https"}},
		{"loopback", std, request("127.0.0.1:5", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"loopback v6", std, request("[::1]:5", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"v4-mapped", std, request("[::ffff:10.0.0.1]:5", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"zone", std, request("[fc00::1%eth0]:5", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"public v6", std, request("[2001:db8::1]:5", "X-Forwarded-Proto", "https"), Verdict{Ignored: true, Claim: "https"}},
		{"garbled peer", std, request("10.0.0.1", "X-Forwarded-Proto", "https"), Verdict{Ignored: true, Claim: "https"}},
		{"unix socket", std, request("@", "X-Forwarded-Proto", "https"), Verdict{Ignored: true, Claim: "https"}},
		{"unix socket asked for", unix, request("@", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"empty peer asked for", unix, request("", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
		{"another header is not read", std, request("10.0.0.1:5", "X-Forwarded-Scheme", "https"), Verdict{}},
		{"on", Policy{Header: "X-Forwarded-Ssl", Trusted: PrivateRanges}, request("10.0.0.1:5", "X-Forwarded-Ssl", "on"), Verdict{HTTPS: true, Claim: "on"}},
		{"wss", std, request("10.0.0.1:5", "X-Forwarded-Proto", "wss"), Verdict{HTTPS: true, Claim: "wss"}},
		{"ws", std, request("10.0.0.1:5", "X-Forwarded-Proto", "ws"), Verdict{Claim: "ws"}},
		{"forwarded", forwarded, request("10.0.0.1:5", "Forwarded", `for=1.2.3.4;proto=https;by=x, proto=http`), Verdict{HTTPS: true, Claim: "https"}},
		{"forwarded, quoted", forwarded, request("10.0.0.1:5", "Forwarded", `for=1.2.3.4; Proto="https"`), Verdict{HTTPS: true, Claim: "https"}},
		{"forwarded, separators in quotes", forwarded, request("10.0.0.1:5", "Forwarded", `for="a,b;proto=http\";c";proto=https, proto=http`), Verdict{HTTPS: true, Claim: "https"}},
		{"forwarded, quotes left open", forwarded, request("10.0.0.1:5", "Forwarded", `for="a;proto=https`), Verdict{}},
		{"forwarded, without", forwarded, request("10.0.0.1:5", "Forwarded", `for=1.2.3.4`), Verdict{}},
		{"no policy", Policy{}, request("10.0.0.1:5", "X-Forwarded-Proto", "https"), Verdict{}},
		{"custom prefix", Policy{Header: "X-Forwarded-Proto", Trusted: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
			request("203.0.113.9:5", "X-Forwarded-Proto", "https"), Verdict{HTTPS: true, Claim: "https"}},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, c.policy.Detect(c.r)) })
	}
	t.Run("TLS", func(t *testing.T) {
		r := request("203.0.113.9:5", "X-Forwarded-Proto", "http")
		r.TLS = &tls.ConnectionState{}
		require.Equal(t, Verdict{HTTPS: true}, std.Detect(r))
	})
	t.Run("URL is never read", func(t *testing.T) {
		r := request("10.0.0.1:5", "X-Forwarded-Proto")
		r.URL = mustURL("https://example.com/")
		require.False(t, std.Detect(r).HTTPS)
	})
}

func TestPeerOf(t *testing.T) {
	for remote, want := range map[string]Peer{
		"10.0.0.1:5": {Network, netip.MustParseAddr("10.0.0.1")}, "[::ffff:10.0.0.1]:5": {Network, netip.MustParseAddr("10.0.0.1")},
		"[fe80::1%eth0]:5": {Network, netip.MustParseAddr("fe80::1")}, "@": {Kind: UnixSocket}, "": {Kind: UnixSocket}, "/run/x": {Kind: UnixSocket},
		"10.0.0.1": {Kind: Bare}, "2001:db8::1": {Kind: Bare}, "[2001:db8::1]": {Kind: Bare}, "fe80::1%eth0": {Kind: Bare},
		"10.0.0.1:": {Kind: Other}, "10.0.0.1, 10.0.0.2": {Kind: Other}, "unknown": {Kind: Other}, " ": {Kind: Other},
	} {
		require.Equal(t, want, PeerOf(remote), remote)
	}
}

// FuzzDetect holds the verdict against a plain reading of the rules: the peer decides whether the header counts, and then
// nothing but its leftmost element does.
func FuzzDetect(f *testing.F) {
	for _, s := range []string{"https", "http, https", " HTTPS\t,x", "on", "https ", "httpsx", `proto="https"`, "for=1;proto=https", `for="[2001:db8::1]:8";Proto=https, proto=http`,
		"wss", "ws", "proto=http;proto=https", ",https", "", "\x00", `"`, ";;=;proto", "proto=\"\"", `for="a,b;c";proto=https,proto=http`, `for="\",";proto=https`} {
		for _, peer := range []string{"10.0.0.1:1", "203.0.113.9:1", "@", "", "/run/app.sock", "[::1]:1", "[::ffff:192.168.0.1]:1", "[fe80::1%eth0]:1", "[fc00::1%eth0]:1",
			"127.0.0.1", "10.0.0.1:", "169.254.169.254:80", "0.0.0.0:1", "[::]:1", "172.32.0.1:1"} {
			f.Add(peer, s, true)
			f.Add(peer, s, false)
		}
	}
	f.Fuzz(func(t *testing.T, remote, line string, forwarded bool) {
		p := Policy{Header: "X-Forwarded-Proto", Trusted: PrivateRanges}
		if forwarded {
			p.Header = "Forwarded"
		}
		trusted := false
		if ap, err := netip.ParseAddrPort(remote); err == nil {
			addr := ap.Addr().Unmap()
			trusted = addr.IsLoopback() || addr.IsPrivate()
		}
		first, _, _ := strings.Cut(line, ",")
		if forwarded && strings.Contains(line, `"`) {
			first = line // a comma in quotes does not end the element
		}
		v := p.Detect(request(remote, p.Header, line))
		require.Equal(t, !trusted, v.Ignored)
		require.Contains(t, first, v.Claim)
		says := slices.Contains([]string{"https", "wss", "on"}, strings.ToLower(v.Claim))
		require.Equal(t, trusted && says, v.HTTPS)
		if forwarded {
			require.True(t, !says || strings.Contains(strings.ToLower(first), "proto"), "https from %q", line)
		} else {
			require.Equal(t, strings.Trim(first, " \t\r\n"), v.Claim)
		}

		require.Equal(t, v, p.Detect(request(remote, p.Header, line, "https")), "a second line counts")
		if !strings.Contains(line, ",") {
			require.Equal(t, v, p.Detect(request(remote, p.Header, line+",https;proto=https")), "a second element counts")
		}
		p.Trusted = nil
		require.False(t, p.Detect(request(remote, p.Header, line)).HTTPS, "trusted by nobody")
		p.UnixSocket = true
		if p.Detect(request(remote, p.Header, line)).HTTPS {
			require.True(t, remote == "" || remote[0] == '@' || remote[0] == '/', "%q is no Unix socket", remote)
		}
	})
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}
