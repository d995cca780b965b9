package sessions_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

func TestP12_SecureMatrix(t *testing.T) {
	const trusted, untrusted = "10.0.0.7:4000", "203.0.113.7:4000"
	modes := map[sessions.SecureMode]string{sessions.SecureAuto: "auto", sessions.SecureAlways: "always", sessions.DangerouslyNeverSecure: "never"}
	kinds := map[string]sessions.Cookie{
		"plain":       {},
		"host":        {Name: "__Host-session"},
		"secure":      {Name: "__Secure-session"},
		"none":        {SameSite: http.SameSiteNoneMode},
		"partitioned": {Partitioned: true, SameSite: http.SameSiteNoneMode},
	}
	headers := map[string]struct {
		lines []string
		https bool
	}{
		"absent":              {nil, false},
		"https":               {[]string{"https"}, true},
		"capitals":            {[]string{" HTTPS "}, true},
		"on":                  {[]string{"on"}, true},
		"http":                {[]string{"http"}, false},
		"https, http":         {[]string{"https, http"}, true},
		"http, https":         {[]string{"http, https"}, false},
		"two lines, https":    {[]string{"https", "http"}, true},
		"two lines, http":     {[]string{"http", "https"}, false},
		"empty":               {[]string{""}, false},
		"empty, https":        {[]string{", https"}, false},
		"wss":                 {[]string{"wss"}, true},
		"prefix":              {[]string{"httpsx"}, false},
		"quoted":              {[]string{`"https"`}, false},
		"of another language": {[]string{"proto=https"}, false},
	}
	for mode, modeName := range modes {
		for kind, cookie := range kinds {
			if mode == sessions.DangerouslyNeverSecure && kind != "plain" {
				_, err := sessions.New(sessions.Config{Store: memoryStore.make(t), Secure: mode, Cookie: cookie})
				require.Error(t, err, "browsers would refuse it: New must")
				continue
			}
			for _, onTLS := range []bool{false, true} {
				for _, peer := range []string{trusted, untrusted} {
					for header, h := range headers {
						name := fmt.Sprintf("%s/%s/tls=%v/%s/%s", modeName, kind, onTLS, peer, header)
						site := newSite(t, memoryStore.make(t), func(c *sessions.Config) { c.Secure, c.Cookie = mode, cookie })
						b := site.browser()
						if onTLS {
							b.https()
						}
						b.peer = peer
						b.header["X-Forwarded-Proto"] = h.lines
						r := b.set("user", 42)
						https := onTLS || peer == trusted && h.https
						want := https || kind != "plain"
						switch mode {
						case sessions.SecureAlways:
							want = true
						case sessions.DangerouslyNeverSecure:
							want = false
						}
						set := (&http.Response{Header: r.header}).Cookies()
						require.Len(t, set, 1, name)
						require.Equal(t, want, set[0].Secure, name)
						require.True(t, set[0].HttpOnly, name)

						// What a browser on http would drop has an event; and only that.
						dropped := 0
						if want && !https {
							dropped = 1
						}
						require.Len(t, site.events.with(sessions.OutcomeInsecure), dropped, name)
						ignored := 0
						if mode == sessions.SecureAuto && !onTLS && peer == untrusted && h.lines != nil {
							ignored = 1
						}
						require.Len(t, site.events.with(sessions.OutcomeUntrustedProxy), ignored, name)
					}
				}
			}
		}
	}
}

func TestP12_WhoIsTrusted(t *testing.T) {
	list := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	unix := func(c *sessions.Config) { c.TrustUnixSocket = true }
	for _, c := range []struct {
		peer   string
		proxy  []netip.Prefix
		edit   func(*sessions.Config)
		header string
		value  string
		secure bool
	}{
		{"127.0.0.1:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"[::1]:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"172.16.9.9:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"192.168.1.1:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"[fd00::1]:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"[::ffff:10.1.1.1]:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"[fd00::1%eth0]:1", nil, nil, "X-Forwarded-Proto", "https", true},
		{"172.32.0.1:1", nil, nil, "X-Forwarded-Proto", "https", false},
		{"[::ffff:8.8.8.8]:1", nil, nil, "X-Forwarded-Proto", "https", false},
		{"198.51.100.9:1", list, nil, "X-Forwarded-Proto", "https", true},
		{"[2001:db8::9]:1", list, nil, "X-Forwarded-Proto", "https", true},
		{"127.0.0.1:1", list, nil, "X-Forwarded-Proto", "https", false},
		{"127.0.0.1:1", []netip.Prefix{}, nil, "X-Forwarded-Proto", "https", false},
		{"@", nil, nil, "X-Forwarded-Proto", "https", false},
		{"@", nil, unix, "X-Forwarded-Proto", "https", true},
		{"", nil, unix, "X-Forwarded-Proto", "https", true},
		{"not an address", nil, unix, "X-Forwarded-Proto", "https", false},
		{"10.0.0.1", nil, nil, "X-Forwarded-Proto", "https", false},
		{"10.0.0.1:1", nil, nil, "X-Forwarded-Proto", "wss", true}, // Traefik, for a WebSocket
		{"10.0.0.1:1", nil, nil, "X-Forwarded-Proto", "ws", false},
		{"10.0.0.1:1", nil, nil, "X-Forwarded-Scheme", "https", false}, // one header, no guessing
		{"10.0.0.1:1", nil, nil, "Forwarded", "proto=https", false},
		{"10.0.0.1:1", nil, func(c *sessions.Config) { c.ProxyHeader = "x-url-scheme" }, "X-Url-Scheme", "https", true},
		{"10.0.0.1:1", nil, func(c *sessions.Config) { c.ProxyHeader = "Front-End-Https" }, "Front-End-Https", "on", true},
		{"10.0.0.1:1", nil, func(c *sessions.Config) { c.ProxyHeader = "Forwarded" }, "Forwarded", `for=192.0.2.1;Proto="https", for=10.0.0.2;proto=http`, true},
		{"10.0.0.1:1", nil, func(c *sessions.Config) { c.ProxyHeader = "forwarded" }, "Forwarded", `for=192.0.2.1;proto=http, proto=https`, false},
		{"10.0.0.1:1", nil, func(c *sessions.Config) { c.ProxyHeader = "Forwarded" }, "Forwarded", `for=192.0.2.1`, false},
	} {
		site := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) {
			cfg.TrustedProxies = c.proxy
			if c.edit != nil {
				c.edit(cfg)
			}
		})
		b := site.browser()
		b.peer = c.peer
		b.header.Set(c.header, c.value)
		r := b.set("user", 42)
		require.Equal(t, c.secure, r.setCookie("session").Secure, "%+v", c)
		for _, e := range site.events.with(sessions.OutcomeUntrustedProxy) {
			_, err := netip.ParseAddrPort(c.peer)
			require.Equal(t, c.peer == "@", strings.Contains(e.Detail, "Config.TrustUnixSocket"), e.Detail)
			require.Equal(t, err == nil, strings.Contains(e.Detail, "Config.TrustedProxies"), e.Detail)
		}
	}
}

// net/http sets an address and a port. What has none was put there by something outside Wrap, such as chi's RealIP,
// gorilla's ProxyHeaders or the adapter of a cloud function: no list of proxies helps, and the events say what does.
func TestP12_WhatHasReplacedTheAddressOfTheProxy(t *testing.T) {
	const bare, other = "an address without a port", "not an address and a port"
	for _, c := range []struct{ peer, from, fix, quoted string }{
		{"203.0.113.9:5000", " from 203.0.113.9 ", "add it to Config.TrustedProxies", ""},
		{"[2001:db8::1]:5000", " from 2001:db8::1 ", "add it to Config.TrustedProxies", ""},
		{"[::ffff:203.0.113.9]:5000", " from 203.0.113.9 ", "add it to Config.TrustedProxies", ""}, // as the list is compared
		{"@", " from a Unix socket ", "set Config.TrustUnixSocket", ""},
		{"/run/app.sock", " from a Unix socket ", "set Config.TrustUnixSocket", ""},
		{"", " from a Unix socket ", "set Config.TrustUnixSocket", ""}, // as on macOS
		{"203.0.113.9", " ", bare, `"203.0.113.9"`},
		{"10.0.0.9", " ", bare, `"10.0.0.9"`},
		{"2001:db8::1", " ", bare, `"2001:db8::1"`},
		{"2001:db8::", " ", bare, `"2001:db8::"`},
		{"[2001:db8::1]", " ", bare, `"[2001:db8::1]"`},
		{"fe80::1%eth0", " ", bare, `"fe80::1%eth0"`},
		{"::ffff:10.0.0.9", " ", bare, `"::ffff:10.0.0.9"`},
		{"2001:db8::1:443", " ", bare, `"2001:db8::1:443"`}, // reads as an address
		{"203.0.113.9, 10.0.0.1", " ", other, `"203.0.113.9, 10.0.0.1"`},
		{"203.0.113.9:", " ", other, `"203.0.113.9:"`},
		{"203.0.113.9:port", " ", other, `"203.0.113.9:port"`},
		{"203.0.113.9:99999", " ", other, `"203.0.113.9:99999"`},
		{"client.example:80", " ", other, `"client.example:80"`},
		{"unknown", " ", other, `"unknown"`},
		{":80", " ", other, `":80"`},
		{"x\ny\x1b[31m", " ", other, `"x\ny\x1b[31m"`},
		{strings.Repeat("x", 10_000), " ", other, `"` + strings.Repeat("x", 253) + `"`},
	} {
		ask := func(mode sessions.SecureMode, outcome sessions.Outcome) string {
			site := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) { cfg.Secure = mode })
			b := site.browser()
			b.peer = c.peer
			b.header.Set("X-Forwarded-Proto", "https")
			b.header.Set("Origin", "https://example.test")
			b.set("user", 42)
			events := site.events.with(outcome)
			require.Len(t, events, 1, c.peer)
			return events[0].Detail
		}
		for outcome, detail := range map[string]string{
			"untrusted": ask(sessions.SecureAuto, sessions.OutcomeUntrustedProxy),
			"mismatch":  ask(sessions.SecureAuto, sessions.OutcomeSchemeMismatch),
			"insecure":  ask(sessions.SecureAlways, sessions.OutcomeInsecure),
		} {
			require.Contains(t, detail, c.fix, outcome)
			switch outcome {
			case "untrusted":
				require.Contains(t, detail, "X-Forwarded-Proto"+c.from+"was ignored")
			case "mismatch":
				require.Contains(t, detail, "Config.Secure to SecureAlways")
			case "insecure":
				require.Contains(t, detail, "the request"+c.from+"looks like plain HTTP")
				require.NotContains(t, detail, "make it send", "it does")
			}
			if c.quoted == "" {
				require.NotContains(t, detail, "RemoteAddr")
				continue
			}
			require.Contains(t, detail, "RemoteAddr is "+c.quoted)
			require.Contains(t, detail, "put Wrap outside of it")
			require.NotContains(t, detail, "TrustedProxies")
			require.NotContains(t, detail, "TrustUnixSocket")
		}
	}
}

// Inside Wrap, middleware may replace the address and the host: what the proxy said is judged by the request as it came.
func TestP12_ReplacedInsideWrap(t *testing.T) {
	for _, mode := range []sessions.SecureMode{sessions.SecureAuto, sessions.SecureAlways} {
		site := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) {
			cfg.Secure, cfg.Cookie.Domain = mode, "example.test"
		})
		b := site.browser()
		b.peer = "10.0.0.7:4000"
		b.header.Set("X-Forwarded-Proto", "https")
		b.header.Set("Origin", "https://example.test")
		r := b.do(func(_ http.ResponseWriter, r *http.Request) {
			r.RemoteAddr, r.Host = "203.0.113.9", "app:8080"
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("user", 42))
		})
		require.NoError(t, r.err)
		require.True(t, r.setCookie("session").Secure)
		for _, outcome := range []sessions.Outcome{sessions.OutcomeUntrustedProxy, sessions.OutcomeSchemeMismatch, sessions.OutcomeInsecure, sessions.OutcomeForeignDomain} {
			require.Empty(t, site.events.with(outcome), outcome)
		}
	}
}

// Such an address is that of a client: a line for each would be a flood that says nothing new.
func TestP12_ReplacedAddressesAreOneLine(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	for i := range 300 {
		b := site.browser()
		b.peer = fmt.Sprintf("2001:db8::%x:0", i)
		b.header.Set("X-Forwarded-Proto", "https")
		b.set("user", 42)
	}
	require.Len(t, site.events.with(sessions.OutcomeUntrustedProxy), 300)
	require.Len(t, site.log.lines("a proxy header was ignored"), 1)
}

// The URL of a request is the client's to fill: it says nothing about the scheme.
func TestP12_TheURLSaysNothing(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	b := site.browser()
	r := b.do(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Scheme = "https"
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		require.NoError(t, s.Set("user", 42))
	})
	require.False(t, r.setCookie("session").Secure)
}

// A session born on https keeps Secure on every later cookie, whatever a later request looks like.
func TestP12_BornOnHTTPS(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		b.header.Set("X-Forwarded-Proto", "https")
		b.base.Scheme = "https" // so that the jar sends it
		require.True(t, b.set("user", 42).setCookie("session").Secure)

		plain := b.clone() // the same session in a chain that loses the scheme
		plain.base.Scheme = "http"
		plain.header.Set("X-Forwarded-Proto", "http")
		send := func(fn func(sessions.Session)) *http.Cookie {
			r := plain.use(fn)
			c := r.setCookie("session")
			require.NotNil(t, c)
			require.True(t, c.Secure)
			plain.hold(c.Value) // the browser is on https, and keeps it
			return c
		}
		send(func(s sessions.Session) { s.Renew() })
		send(func(s sessions.Session) { s.SetLifetime(time.Hour, true) })
		send(func(s sessions.Session) { s.Renew(); _ = s.Set("x", 1) })
		send(func(s sessions.Session) { s.SetLifetime(0, false) })
		send(func(s sessions.Session) { s.Destroy(); _ = s.Set("x", 2) })
		c := send(func(s sessions.Session) { s.Destroy() })
		require.Negative(t, c.MaxAge)
		require.Len(t, site.events.with(sessions.OutcomeInsecure), 6)
		require.Len(t, site.log.lines("a Secure cookie was sent"), 1, "logged once for each host")
	})
}

// A session born on http becomes Secure with the first cookie on https, and stays so.
func TestP12_UpgradedOnHTTPS(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		require.False(t, b.set("user", 42).setCookie("session").Secure)
		b.https()
		c := b.set("user", 43).setCookie("session")
		require.NotNil(t, c)
		require.True(t, c.Secure)
		lost := b.clone()
		lost.base.Scheme = "http"
		lost.hold(c.Value)
		require.True(t, lost.use(func(s sessions.Session) { s.Renew() }).setCookie("session").Secure)
	})
}

// A touch is enough for it where the client holds the record: it gets a cookie anyway.
func TestP12_UpgradedByATouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSite(t, cookieStore.make(t)).browser()
		b.set("user", 42)
		time.Sleep(4 * time.Hour)
		c := b.https().use(noop).setCookie("session")
		require.NotNil(t, c)
		require.True(t, c.Secure)
		time.Sleep(4 * time.Hour)
		lost := b.clone()
		lost.base.Scheme = "http"
		c = lost.hold(c.Value).use(noop).setCookie("session")
		require.NotNil(t, c)
		require.True(t, c.Secure)
	})
}

// A token that went over http and is used on https is said once, in an event: somebody on the network may know it. It is said
// when the session becomes Secure, so that no later request says it again.
func TestP12_ATokenOfHTTPOnHTTPS(t *testing.T) {
	write := func(s sessions.Session) { addCount(s) }
	renew := func(s sessions.Session) { s.Renew(); addCount(s) }
	login := func(s sessions.Session) { s.Destroy(); addCount(s) }
	type visit struct {
		proto string // what the proxy says; "" is no proxy, and plain http
		fn    func(sessions.Session)
		said  int // so far
	}
	always := func(cfg *sessions.Config) { cfg.Secure = sessions.SecureAlways }
	never := func(cfg *sessions.Config) { cfg.Secure = sessions.DangerouslyNeverSecure }
	prefix := func(cfg *sessions.Config) { cfg.Cookie.SameSite = http.SameSiteNoneMode } // always Secure
	for name, c := range map[string]struct {
		edit   func(*sessions.Config)
		visits []visit
	}{
		"read, write, and again":     {nil, []visit{{"http", write, 0}, {"https", noop, 0}, {"https", write, 1}, {"https", write, 1}, {"https", noop, 1}}},
		"without a proxy at first":   {nil, []visit{{"", write, 0}, {"https", write, 1}}},
		"and back":                   {nil, []visit{{"http", write, 0}, {"https", write, 1}, {"http", write, 1}, {"https", write, 1}, {"https", renew, 1}}},
		"born on https":              {nil, []visit{{"https", write, 0}, {"http", write, 0}, {"https", write, 0}, {"http", noop, 0}, {"https", noop, 0}}},
		"renewed on https":           {nil, []visit{{"http", write, 0}, {"https", renew, 0}, {"https", write, 0}}},
		"renewed on http":            {nil, []visit{{"http", write, 0}, {"http", renew, 0}, {"https", write, 1}, {"https", write, 1}}},
		"another session on https":   {nil, []visit{{"http", write, 0}, {"https", login, 0}, {"https", write, 0}}},
		"http only":                  {nil, []visit{{"http", write, 0}, {"http", write, 0}, {"http", noop, 0}}},
		"SecureAlways":               {always, []visit{{"http", write, 0}, {"https", write, 0}}},
		"DangerouslyNeverSecure":     {never, []visit{{"http", write, 0}, {"https", write, 0}}},
		"a cookie that must be so":   {prefix, []visit{{"http", write, 0}, {"https", write, 0}}},
		"a lifetime alone, no value": {nil, []visit{{"http", write, 0}, {"https", func(s sessions.Session) { s.SetLifetime(time.Hour, true) }, 1}, {"https", write, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
				site := newSite(t, store, func(cfg *sessions.Config) {
					if c.edit != nil {
						c.edit(cfg)
					}
				})
				b, cookie := site.browser(), ""
				b.base.Scheme = "https" // so that the jar keeps Secure cookies, and sends them
				b.client.Transport = stripTLS{b.client.Transport}
				for i, v := range c.visits {
					b.header.Del("X-Forwarded-Proto")
					if v.proto != "" {
						b.header.Set("X-Forwarded-Proto", v.proto)
					}
					r := b.use(v.fn)
					found := site.events.with(sessions.OutcomeUpgraded)
					require.Len(t, found, v.said, "visit %d", i)
					if set := r.setCookie("session"); set != nil {
						cookie = set.Value
					}
					for _, e := range found {
						require.Equal(t, sessions.EventSecure, e.Kind)
						require.NotEmpty(t, e.SessionID)
						require.Contains(t, e.Detail, "call Renew")
						require.NotContains(t, e.Detail, cookie)
					}
				}
				lines := site.log.lines("outcome=upgraded")
				require.Len(t, lines, c.visits[len(c.visits)-1].said)
			})
		})
	}
}

// stripTLS sends requests as a proxy that terminates TLS does.
type stripTLS struct{ http.RoundTripper }

func (s stripTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "http"
	return s.RoundTripper.RoundTrip(r)
}

// A touch says it where it is kept: in a sealed cookie.
func TestP12_ATokenOfHTTPTouchedOnHTTPS(t *testing.T) {
	for _, sc := range []storeCase{cookieStore, memoryStore} {
		synctest.Test(t, func(t *testing.T) {
			site := newSite(t, sc.make(t))
			b := site.browser()
			b.set("user", 42)
			for range 3 {
				time.Sleep(20 * time.Hour)
				b.https().use(noop)
			}
			want := 1
			if sc.server {
				want = 0 // a touch writes the expiry alone, so that each would say it
			}
			require.Len(t, site.events.with(sessions.OutcomeUpgraded), want, sc.name)
		})
	}
}

// In a migration as well, where a touch keeps it in the sealed copy alone; and the session stays Secure in a chain that
// loses the scheme.
func TestP12_ATokenOfHTTPTouchedInAMigration(t *testing.T) {
	for _, phase := range dualPhases {
		t.Run(phase.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				site := newSite(t, newPair(t, true, sessiontest.NewMemoryStore()).dual(t, phase))
				b := site.browser()
				b.set("user", 42)
				for range 3 {
					time.Sleep(4 * time.Hour)
					b.https().use(noop)
				}
				said := 1
				if phase == sessions.NewOnly {
					said = 0
				}
				require.Len(t, site.events.with(sessions.OutcomeUpgraded), said)
				lost := b.clone()
				lost.base.Scheme = "http"
				r := lost.hold(b.cookie()).use(func(s sessions.Session) { s.Renew() })
				require.Equal(t, said == 1, r.setCookie("session").Secure)
			})
		})
	}
}

// The first page on https sends requests in parallel: of those that write, one says it.
func TestP12_ATokenOfHTTPInParallelOnHTTPS(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		b.set("user", 42)
		var wg, loaded sync.WaitGroup
		const parallel = 8
		loaded.Add(parallel)
		for range parallel {
			tab := b.clone()
			tab.https().hold(b.cookie())
			wg.Go(func() {
				r := tab.try(func(s sessions.Session) {
					addCount(s)
					loaded.Done()
					loaded.Wait()
				})
				if r.status != http.StatusOK {
					t.Errorf("%d: %s", r.status, r.body)
				}
			})
		}
		wg.Wait()
		require.Equal(t, parallel, b.count())
		require.Len(t, site.events.with(sessions.OutcomeUpgraded), 1)
	})
}

// Many such sessions of one host are one line an hour.
func TestP12_UpgradesAreBounded(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	for range 20 {
		b := site.browser()
		b.set("user", 42)
		b.https().set("user", 43)
	}
	require.Len(t, site.events.with(sessions.OutcomeUpgraded), 20)
	require.Len(t, site.log.lines("outcome=upgraded"), 1)
}

// Of a renewal and a parallel write on https, the write may be the one that saw https.
func TestP12_RenewedBesideAWriteOnHTTPS(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	b := newSite(t, spy).browser()
	b.set("user", 42)
	tab := b.on(newSite(t, spy)).clone()
	tab.https().hold(b.cookie())
	spy.before(func(_ context.Context, op string, rec *sessions.Record) error {
		if op == "save" && rec.Revoked {
			spy.before(nil)
			require.True(t, tab.set("x", 1).setCookie("session").Secure)
		}
		return nil
	})
	require.True(t, b.use(func(s sessions.Session) { s.Renew() }).setCookie("session").Secure)
}

// Every other way in which a browser would drop the cookie.
func TestP12_ForeignDomain(t *testing.T) {
	for _, c := range []struct {
		domain, host string
		fits         bool
	}{
		{"", "anything.test", true},
		{"example.test", "example.test", true},
		{"example.test", "Example.TEST:8080", true},
		{"example.test", "app.example.test", true},
		{".example.test", "app.example.test.", true},
		{"example.test", "badexample.test", false},
		{"app.example.test", "example.test", false},
		{"example.test", "localhost:8080", false},
		{"example.test", "10.1.2.3", false},
		{"example.test", "[::1]:8080", false},
	} {
		site := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) { cfg.Cookie.Domain = c.domain })
		b := site.browser()
		b.base.Host = c.host
		for range 2 {
			b.client.Jar = newJar(t)
			b.use(func(s sessions.Session) { _ = s.Set("user", 42) })
		}
		want := 0
		if !c.fits {
			want = 1
		}
		require.Len(t, site.events.with(sessions.OutcomeForeignDomain), 2*want, "%+v", c)
		require.Len(t, site.log.lines("for a domain that does not match the request's host"), want, "%+v", c)
	}
}

// SCENARIOS 1: the browser is on https, and the proxy chain says http. One line says what to change.
func TestP12_SchemeMismatchIsLoggedOncePerHost(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		b.peer = "10.0.0.7:4000"
		b.header.Set("X-Forwarded-Proto", "http")
		b.header.Set("Origin", "https://example.test")
		for range 3 {
			b.use(noop)
		}
		require.Len(t, site.events.with(sessions.OutcomeSchemeMismatch), 3)
		lines := site.log.lines("scheme_mismatch")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "Origin says https, the proxy at 10.0.0.7 says http (X-Forwarded-Proto)")
		for _, fix := range []string{"Config.ProxyHeader", "SecureAlways", "pass on X-Forwarded-Proto"} {
			require.Contains(t, lines[0], fix)
		}
		other := b.clone()
		other.base.Host = "other.test"
		other.header.Set("Origin", "https://other.test")
		other.use(noop)
		require.Len(t, site.log.lines("scheme_mismatch"), 2)

		// The session itself does not suffer.
		b.set("user", 42)
		require.Equal(t, "42", b.get("user"))
	})
}

func TestP12_SchemeMismatch(t *testing.T) {
	for _, c := range []struct {
		name, host, origin, proto, peer string
		edit                            func(*sessions.Config)
		https                           bool
		says                            string // empty: no event
	}{
		{"no proxy header", "example.test", "https://example.test", "", "10.0.0.7:1", nil, false, "sends no X-Forwarded-Proto"},
		{"untrusted", "example.test", "https://example.test", "https", "203.0.113.1:1", nil, false, "is not trusted, so its X-Forwarded-Proto was ignored: add it to Config.TrustedProxies, or set"},
		{"other word", "example.test", "https://example.test", "tcp", "10.0.0.7:1", nil, false, "says neither http nor https"},
		{"default port", "example.test:443", "https://example.test", "http", "10.0.0.7:1", nil, false, "says http"},
		{"case", "Example.Test", "https://example.test", "http", "10.0.0.7:1", nil, false, "says http"},
		{"port", "example.test:8443", "https://example.test:8443", "http", "10.0.0.7:1", nil, false, "says http"},
		{"believed", "example.test", "https://example.test", "https", "10.0.0.7:1", nil, false, ""},
		{"tls", "example.test", "https://example.test", "", "203.0.113.1:1", nil, true, ""},
		{"another site", "example.test", "https://evil.test", "http", "10.0.0.7:1", nil, false, ""},
		{"another port", "example.test:8080", "https://example.test", "http", "10.0.0.7:1", nil, false, ""},
		{"http", "example.test", "http://example.test", "http", "10.0.0.7:1", nil, false, ""},
		{"null", "example.test", "null", "http", "10.0.0.7:1", nil, false, ""},
		{"none", "example.test", "", "http", "10.0.0.7:1", nil, false, ""},
		{"always", "example.test", "https://example.test", "http", "10.0.0.7:1", func(c *sessions.Config) { c.Secure = sessions.SecureAlways }, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			site := newSite(t, memoryStore.make(t), func(cfg *sessions.Config) {
				if c.edit != nil {
					c.edit(cfg)
				}
			})
			b := site.browser()
			b.base.Host, b.peer = c.host, c.peer
			if c.https {
				b.https()
			}
			if c.proto != "" {
				b.header.Set("X-Forwarded-Proto", c.proto)
			}
			if c.origin != "" {
				b.header.Set("Origin", c.origin)
			}
			b.use(noop)
			found := site.events.with(sessions.OutcomeSchemeMismatch)
			if c.says == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Contains(t, found[0].Detail, c.says)
		})
	}
}

// A request that never asks for its session is not looked at either.
func TestP12_SchemeMismatchOnlyWhereTheSessionIsAskedFor(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	b := site.browser()
	b.header.Set("Origin", "https://example.test")
	b.do(func(http.ResponseWriter, *http.Request) {})
	require.Empty(t, site.events.outcomes())
}

// What a client can vary must not fill the memory, or the log.
func TestP12_WarningsAreBounded(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	for i := range 1000 {
		b := site.browser()
		b.base.Host = fmt.Sprintf("host%d.test", i)
		b.header.Set("Origin", "https://"+b.base.Host)
		b.use(noop)
	}
	require.Len(t, site.events.with(sessions.OutcomeSchemeMismatch), 1000)
	require.LessOrEqual(t, len(site.log.lines("scheme_mismatch")), 256)
}

func TestP12_UntrustedProxyIsLoggedOncePerPeer(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	for range 3 {
		for _, peer := range []string{"203.0.113.1:1000", "203.0.113.1:2000", "203.0.113.2:1000"} {
			b := site.browser()
			b.peer = peer
			b.header.Set("X-Forwarded-Proto", "https")
			b.set("user", 42)
		}
	}
	require.Len(t, site.events.with(sessions.OutcomeUntrustedProxy), 9)
	lines := site.log.lines("untrusted_proxy")
	require.Len(t, lines, 2)
	require.Contains(t, strings.Join(lines, ""), "203.0.113.1 was ignored: if this is your proxy, add it to Config.TrustedProxies")
}

func TestP12_NeverSecureMeansNever(t *testing.T) {
	site := newSite(t, memoryStore.make(t), func(c *sessions.Config) { c.Secure = sessions.DangerouslyNeverSecure })
	b := site.browser().https()
	require.False(t, b.set("user", 42).setCookie("session").Secure)
	require.False(t, b.use(func(s sessions.Session) { s.Renew() }).setCookie("session").Secure)
	require.False(t, b.use(func(s sessions.Session) { s.Destroy() }).setCookie("session").Secure)
}

func TestP12_SecureAlwaysOverHTTP_B21(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store, func(c *sessions.Config) { c.Secure = sessions.SecureAlways })
		r := site.browser().set("user", 42)
		require.True(t, r.setCookie("session").Secure)
		require.Len(t, site.events.with(sessions.OutcomeInsecure), 1)
		require.Contains(t, site.events.with(sessions.OutcomeInsecure)[0].Detail, "X-Forwarded-Proto: https")
	})
}

func TestP12_TrustedProxy_B22(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		for _, c := range []struct {
			peer, header string
			secure       bool
			untrusted    int
		}{
			{"10.1.2.3:5000", "https", true, 0},
			{"203.0.113.9:5000", "https", false, 1},
			{"10.1.2.3:5000", "https, http", true, 0},
			{"10.1.2.3:5000", "http, https", false, 0},
			{"10.1.2.3:5000", "http", false, 0},
		} {
			site := newSite(t, store)
			b := site.browser()
			b.peer = c.peer
			b.header.Set("X-Forwarded-Proto", c.header)
			r := b.set("user", 42)
			require.Equal(t, c.secure, r.setCookie("session").Secure, c)
			require.Len(t, site.events.with(sessions.OutcomeUntrustedProxy), c.untrusted, c)
		}
	})
}

// A proxy chain that loses the scheme on a POST must not cost the session after a logout its Secure attribute.
func TestP12_SecureOutlivesDestroy(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(_ http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		require.NoError(t, s.Set("user", 42))
	})
	mux.HandleFunc("POST /logout", func(_ http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		s.Destroy()
		require.NoError(t, s.Set("flash", "Good bye."))
	})
	visit := func(method, path, proto, token string) *http.Cookie {
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr = "10.0.0.7:4711"
		r.Header.Set("X-Forwarded-Proto", proto)
		if token != "" {
			r.AddCookie(&http.Cookie{Name: "session", Value: token})
		}
		w := httptest.NewRecorder()
		mgr.Wrap(mux).ServeHTTP(w, r)
		require.Len(t, w.Result().Cookies(), 1)
		return w.Result().Cookies()[0]
	}

	born := visit("GET", "/", "https", "")
	require.True(t, born.Secure)
	next := visit("POST", "/logout", "http", born.Value)
	require.NotEqual(t, born.Value, next.Value)
	require.True(t, next.Secure)

	require.False(t, visit("GET", "/", "http", "").Secure, "a session that never saw https")
}
