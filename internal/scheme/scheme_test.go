package scheme

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
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
		{"forwarded", forwarded, request("10.0.0.1:5", "Forwarded", `for=1.2.3.4;proto=https;by=x, proto=http`), Verdict{HTTPS: true, Claim: "https"}},
		{"forwarded, quoted", forwarded, request("10.0.0.1:5", "Forwarded", `for=1.2.3.4; Proto="https"`), Verdict{HTTPS: true, Claim: "https"}},
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

// FuzzDetect checks that no header from a peer that is not trusted makes a request https, and that nothing but the
// leftmost element can.
func FuzzDetect(f *testing.F) {
	for _, s := range []string{"https", "http, https", `proto="https"`, "for=1;proto=https", ",", "\x00", "on"} {
		f.Add("10.0.0.1:1", s, false)
		f.Add("203.0.113.9:1", s, true)
		f.Add("@", s, true)
	}
	f.Fuzz(func(t *testing.T, remote, line string, forwarded bool) {
		p := Policy{Header: "X-Forwarded-Proto", Trusted: PrivateRanges}
		if forwarded {
			p.Header = "Forwarded"
		}
		v := p.Detect(request(remote, p.Header, line))
		if v.HTTPS && v.Ignored {
			t.Fatal("https on the word of an ignored header")
		}
		if v.HTTPS {
			if ap, err := netip.ParseAddrPort(remote); err != nil || ap.Addr().IsGlobalUnicast() && !ap.Addr().Unmap().IsPrivate() {
				t.Fatalf("https on the word of %q", remote)
			}
			first, _, _ := strings.Cut(strings.ToLower(line), ",")
			if !strings.Contains(first, "https") && !strings.Contains(first, "on") {
				t.Fatalf("https from %q", line)
			}
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
