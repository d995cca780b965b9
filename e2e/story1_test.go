package e2e

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// The first story: TLS ends early, the second proxy overwrites X-Forwarded-Proto with http, and a POST loses its session.

// TestP12Story1ThePostKeepsItsSession is the story step by step, on the chain as it was, with nothing configured.
func TestP12Story1ThePostKeepsItsSession(t *testing.T) {
	st := startStack(t, stackConfig{Inner: overwrites, CSRF: true})
	c := st.Client(t)

	first := get(t, c, st.URL+"/")
	require.Equal(t, 1, first.Page.Count)
	require.True(t, first.Page.New)
	again := get(t, c, st.URL+"/")
	require.Equal(t, 2, again.Page.Count)
	require.Equal(t, first.Page.Session, again.Page.Session, "GET keeps the session, as it did then")
	require.Empty(t, st.LogLines("level=WARN"), "a GET has no Origin: nothing shows the cause yet")

	st.Clear()
	after := post(t, c, st.URL+"/save", url.Values{"value": {"kept"}})
	require.Equal(t, http.StatusOK, after.StatusCode)
	require.Equal(t, st.URL+"/", after.Request.URL.String(), "redirected to the page on the browser's side of the chain")
	require.Equal(t, "kept", after.Page.Value)
	require.Equal(t, first.Page.Session, after.Page.Session, "POST keeps it too")
	require.Equal(t, 3, after.Page.Count, "with what was in it")
	require.NotContains(t, strings.Join(st.outcomes(), " "), "load:none", "no request came up empty")

	// Login, in the same chain: a new token, the same values.
	in := post(t, c, st.URL+"/login", url.Values{"user": {"ada"}})
	require.Equal(t, "ada", in.Page.User)
	require.Equal(t, "kept", in.Page.Value)
	require.NotEqual(t, first.Page.Session, in.Page.Session)
}

// TestStory1OneLogLine: the cause and the fix are in one line, which comes once for each host at each instance, and not
// with each request.
func TestStory1OneLogLine(t *testing.T) {
	st := startStack(t, stackConfig{Inner: overwrites})
	c := st.Client(t)
	for range 9 { // the POST and the redirected GET: 18 requests, six for each instance
		post(t, c, st.URL+"/save", url.Values{"value": {"x"}})
	}
	require.GreaterOrEqual(t, count(st.outcomes(sessions.EventSecure), "secure:scheme_mismatch"), 9, "Observe has each of them")
	for _, app := range st.Apps {
		lines := st.LogLines("instance=" + app.Name + " ")
		require.Len(t, lines, 1, "%s", app.Name)
		for _, part := range []string{
			"level=WARN", "kind=secure", "outcome=scheme_mismatch",
			"Origin says https, the proxy at 127.0.0.1 says http (X-Forwarded-Proto)", // the cause
			"make every proxy pass on X-Forwarded-Proto from the first one",           // three ways out
			"or set Config.ProxyHeader to a header that no proxy overwrites",          //
			"or set Config.Secure to SecureAlways",                                    //
		} {
			require.Contains(t, lines[0], part)
		}
	}
	t.Log(st.LogLines("level=WARN")[0])

	www := strings.Replace(st.URL, "app.test", "www.app.test", 1)
	for range 6 {
		post(t, c, www+"/save", url.Values{"value": {"x"}})
	}
	for _, app := range st.Apps {
		require.Len(t, st.LogLines("instance="+app.Name+" "), 2, "one more for another host")
	}
}

// TestP12Story1WaysOut: each of the three makes the cookie Secure, and ends the warning.
func TestP12Story1WaysOut(t *testing.T) {
	for _, way := range []struct {
		name string
		cfg  stackConfig
		logs int // lines of each instance that makes a session
	}{
		{"the inner proxy is fixed", stackConfig{Inner: passes}, 0},
		{"a header that the inner proxy does not overwrite", stackConfig{Inner: overwrites, Config: func(c *sessions.Config) {
			c.ProxyHeader = "X-Edge-Proto"
		}}, 0},
		// The cookie is right, but the chain still says http, and one line says so: from here nobody can know
		// whether a browser is on plain http.
		{"SecureAlways", stackConfig{Inner: overwrites, Mode: sessions.SecureAlways}, 1},
	} {
		t.Run(way.name, func(t *testing.T) {
			way.cfg.CSRF = true
			st := startStack(t, way.cfg)
			for range 3 { // a session made by each instance: four requests, so that the next one begins elsewhere
				c := st.Client(t)
				first := get(t, c, st.URL+"/")
				require.Equal(t, "Secure", attributes(t, first.SetCookies()[0]))
				require.Equal(t, "https", sentOn(t, c, st))
				after := post(t, c, st.URL+"/save", url.Values{"value": {"kept"}})
				require.Equal(t, page{Count: 2, Value: "kept", Session: first.Page.Session, ServedBy: after.Page.ServedBy}, after.Page)
				get(t, c, st.URL+"/plain")
			}
			require.Zero(t, count(st.outcomes(), "secure:scheme_mismatch"))
			for _, app := range st.Apps {
				require.Len(t, st.LogLines("instance="+app.Name+" "), way.logs)
			}
		})
	}
}

// TestP12Story1FixInARollingDeploy: while one instance does not know better yet, a session that another has seen on https
// is Secure and stays so; one that was made without is made Secure by its next change on an instance that knows.
func TestP12Story1FixInARollingDeploy(t *testing.T) {
	n := 0
	st := startStack(t, stackConfig{Inner: overwrites, Config: func(c *sessions.Config) {
		if n++; n > 1 { // app-2 and app-3 have the fix
			c.ProxyHeader = "X-Edge-Proto"
		}
	}})
	c := st.Client(t)
	var sets []string
	for i := range 6 {
		a := get(t, c, st.URL+"/", "Debug-Served-By", "1")
		require.Equal(t, i+1, a.Page.Count)
		for _, line := range a.SetCookies() {
			sets = append(sets, a.Page.ServedBy+":"+attributes(t, line))
		}
	}
	require.Equal(t, []string{"app-1:", "app-2:Secure"}, sets)
	in := post(t, noRedirect(c), st.URL+"/login", nil, "Debug-Served-By", "1")
	require.Equal(t, "app-1", in.Header.Get("Served-By"))
	require.Equal(t, "Secure", attributes(t, in.SetCookies()[0]), "also in the cookie of an instance that takes the request for http")
}

// TestStory1UntrustedProxy: a proxy that is not in TrustedProxies is not believed, and the log says which it was.
func TestStory1UntrustedProxy(t *testing.T) {
	st := startStack(t, stackConfig{Inner: passes, Config: func(c *sessions.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}
	}})
	a := get(t, st.Client(t), st.URL+"/")
	require.Empty(t, attributes(t, a.SetCookies()[0]))
	require.Equal(t, []string{"secure:untrusted_proxy"}, st.outcomes(sessions.EventSecure))
	lines := st.LogLines("level=WARN")
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "X-Forwarded-Proto from 127.0.0.1 was ignored: if this is your proxy, add it to Config.TrustedProxies")
}

// TestStory1UnixSocket: the last hop has no address. It is believed when asked for.
func TestStory1UnixSocket(t *testing.T) {
	for _, trust := range []bool{false, true} {
		t.Run(map[bool]string{false: "not trusted", true: "trusted"}[trust], func(t *testing.T) {
			st := startStack(t, stackConfig{Inner: passes, Unix: true, Config: func(c *sessions.Config) { c.TrustUnixSocket = trust }})
			c := st.Client(t)
			first := get(t, c, st.URL+"/")
			want := map[bool]string{false: "", true: "Secure"}[trust]
			require.Equal(t, want, attributes(t, first.SetCookies()[0]))
			after := post(t, c, st.URL+"/save", url.Values{"value": {"kept"}})
			require.Equal(t, "kept", after.Page.Value)
			require.Equal(t, first.Page.Session, after.Page.Session)
			require.Equal(t, trust, len(st.outcomes(sessions.EventSecure)) == 0, "%v", st.outcomes())
			if !trust {
				require.Contains(t, st.LogLines("outcome=untrusted_proxy")[0], "X-Forwarded-Proto from a Unix socket was ignored: if this is your proxy, set Config.TrustUnixSocket")
			}
		})
	}
}

// TestStory1CrossOriginProtection: the protection of the standard library needs no scheme. Outside of the sessions it
// lets the form through the broken chain, and refuses other sites before the session is so much as read.
func TestStory1CrossOriginProtection(t *testing.T) {
	for _, inner := range variants {
		t.Run(string(inner), func(t *testing.T) {
			st := startStack(t, stackConfig{Inner: inner, CSRF: true})
			c := st.Client(t)
			mine := post(t, c, st.URL+"/save", url.Values{"value": {"mine"}})
			require.Equal(t, "mine", mine.Page.Value, "a browser of today: Sec-Fetch-Site: same-origin")
			older := post(t, c, st.URL+"/save", url.Values{"value": {"older"}}, "Sec-Fetch-Site", "")
			require.Equal(t, "older", older.Page.Value, "an older one: Origin alone, held against Host with its port")
			onHTTP := post(t, st.Client(t), st.HTTPURL+"/save", url.Values{"value": {"http"}})
			require.Equal(t, http.StatusOK, onHTTP.StatusCode, "and on plain http")

			st.Clear()
			sibling := strings.Replace(st.URL, "app.test", "evil.app.test", 1)
			for _, foreign := range [][]string{
				{"Origin", st.Other, "Sec-Fetch-Site", "cross-site"},
				{"Origin", "", "Sec-Fetch-Site", "cross-site"},
				{"Origin", st.Other, "Sec-Fetch-Site", ""},
				{"Origin", "null", "Sec-Fetch-Site", ""},
				{"Origin", sibling, "Sec-Fetch-Site", "same-site"},
				{"Origin", sibling, "Sec-Fetch-Site", ""},
			} {
				for _, path := range []string{"/save", "/login", "/logout"} {
					a := post(t, c, st.URL+path, url.Values{"value": {"theirs"}}, foreign...)
					require.Equal(t, http.StatusForbidden, a.StatusCode, "%s %v", path, foreign)
					require.Empty(t, a.SetCookies())
				}
			}
			require.Empty(t, st.Events(), "the session was neither read nor written")
			require.Empty(t, st.Log())
			after := get(t, c, st.URL+"/")
			require.Equal(t, page{Count: 3, Value: "older", Session: mine.Page.Session, ServedBy: after.Page.ServedBy}, after.Page)
		})
	}
}

func count(all []string, what string) (n int) {
	for _, s := range all {
		if s == what {
			n++
		}
	}
	return n
}
