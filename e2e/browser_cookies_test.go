package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// A __Host- cookie is Secure also where the chain hides https.
func testHostPrefix(t *testing.T, b *browser) {
	st := startStack(t, stackConfig{
		Inner: overwrites, CSRF: true, Handler: browserApp(nil),
		Config: func(c *sessions.Config) { c.Cookie.Name = "__Host-session" },
	})
	p := b.person(t)
	tb := p.tab()
	first := tb.open(st.URL + "/")
	require.Len(t, first[0].SetCookie, 1)
	require.True(t, strings.HasSuffix(first[0].SetCookie[0], "; "+secureLax), first[0].SetCookie[0])
	require.Len(t, p.cookie("__Host-session"), 1)
	require.True(t, p.cookie("__Host-session")[0].Secure)
	tb.fill("#save input", "a note")
	tb.click("#save button")
	require.Equal(t, "a note", tb.text("#value"))
	require.Equal(t, []string{"secure:insecure", "secure:scheme_mismatch"}, unusual(st))

	p.forget()
	plain := tb.open(st.HTTPURL + "/")
	require.Len(t, plain[0].Refused, 1)
	require.Empty(t, p.cookies(), "on plain http there is no such cookie")
}

// What New refuses, Chromium refuses or bends: each row is a configuration, and the Set-Cookie line that it would lead to.
func testRefused(t *testing.T, b *browser) {
	long := "/" + strings.Repeat("p", 1024)
	host := func(change func(*sessions.Cookie)) sessions.Cookie {
		c := sessions.Cookie{Name: "__Host-c"}
		change(&c)
		return c
	}
	never := sessions.DangerouslyNeverSecure
	cases := []struct {
		name   string
		cookie sessions.Cookie
		mode   sessions.SecureMode
		line   string
		field  string // that New complains of; empty: it takes it
		kept   string // what Chromium says: "kept", a reason, or what it makes of it
	}{
		{"__Host-", host(func(*sessions.Cookie) {}), 0, "__Host-c=1; Path=/; HttpOnly; Secure; SameSite=Lax", "", "kept"},
		{"__Host- with a Domain", host(func(c *sessions.Cookie) { c.Domain = "app.test" }), 0, "__Host-c=1; Path=/; Domain=app.test; HttpOnly; Secure", "Cookie.Domain", "InvalidPrefix"},
		{"__Host- with a Path", host(func(c *sessions.Cookie) { c.Path = "/shop" }), 0, "__Host-c=1; Path=/shop; HttpOnly; Secure", "Cookie.Path", "InvalidPrefix"},
		{"__Host- without Secure", host(func(*sessions.Cookie) {}), never, "__Host-c=1; Path=/; HttpOnly", "Cookie.Name", "InvalidPrefix"},
		{"the same in other letters", sessions.Cookie{Name: "__hOST-c"}, never, "__hOST-c=1; Path=/; HttpOnly", "Cookie.Name", "InvalidPrefix"},
		{"__Secure-", sessions.Cookie{Name: "__Secure-c", Domain: "app.test"}, 0, "__Secure-c=1; Path=/; Domain=app.test; HttpOnly; Secure", "", "kept"},
		{"__Secure- without Secure", sessions.Cookie{Name: "__Secure-c"}, never, "__Secure-c=1; Path=/; HttpOnly", "Cookie.Name", "InvalidPrefix"},
		{"__Http-", sessions.Cookie{Name: "__Http-c"}, 0, "__Http-c=1; Path=/; HttpOnly; Secure", "", "kept"},
		{"__Http- without Secure", sessions.Cookie{Name: "__Http-c"}, never, "__Http-c=1; Path=/; HttpOnly", "Cookie.Name", "InvalidPrefix"},
		{"__Host-Http-", sessions.Cookie{Name: "__Host-Http-c"}, 0, "__Host-Http-c=1; Path=/; HttpOnly; Secure", "", "kept"},
		{"__Host-Http- with a Domain", sessions.Cookie{Name: "__Host-Http-c", Domain: "app.test"}, 0, "__Host-Http-c=1; Path=/; Domain=app.test; HttpOnly; Secure", "Cookie.Domain", "InvalidPrefix"},
		{"SameSite=None", sessions.Cookie{Name: "c", SameSite: http.SameSiteNoneMode}, 0, "c=1; Path=/; HttpOnly; Secure; SameSite=None", "", "kept"},
		{"SameSite=None without Secure", sessions.Cookie{Name: "c", SameSite: http.SameSiteNoneMode}, never, "c=1; Path=/; HttpOnly; SameSite=None", "Cookie.SameSite", "SameSiteNoneInsecure"},
		{"Partitioned", sessions.Cookie{Name: "c", Partitioned: true}, 0, "c=1; Path=/; HttpOnly; Secure; Partitioned", "", "kept"},
		{"Partitioned without Secure", sessions.Cookie{Name: "c", Partitioned: true}, never, "c=1; Path=/; HttpOnly; Partitioned", "Cookie.Partitioned", "dropped without a word"},
		{"a Path without /", sessions.Cookie{Name: "c", Path: "shop"}, 0, "c=1; Path=shop; HttpOnly; Secure", "Cookie.Path", "kept with Path=/"},
		{"a Path of 1025 bytes", sessions.Cookie{Name: "c", Path: long}, 0, "c=1; Path=" + long + "; HttpOnly; Secure", "Cookie.Path", "kept with Path=/"},
		{"an address as Domain", sessions.Cookie{Name: "c", Domain: "127.0.0.1"}, 0, "c=1; Path=/; Domain=127.0.0.1; HttpOnly; Secure", "Cookie.Domain", "InvalidDomain"},
		{"a Domain above all", sessions.Cookie{Name: "c", Domain: "test"}, 0, "c=1; Path=/; Domain=test; HttpOnly; Secure", "", "InvalidDomain"},
		{"another's Domain", sessions.Cookie{Name: "c", Domain: "other.test"}, 0, "c=1; Path=/; Domain=other.test; HttpOnly; Secure", "", "InvalidDomain"},
	}
	site := startBare(t)
	p := b.person(t)
	tb := p.tab()
	codec, err := sessions.NewSecureCookieCodec([]byte("a secret of the tests: 32 bytes!"))
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COOKIE\tNEW\tCHROMIUM")
	for _, c := range cases {
		field := ""
		_, err := sessions.New(sessions.Config{Store: store, Cookie: c.cookie, Secure: c.mode})
		var bad *sessions.ConfigError
		if errors.As(err, &bad) {
			field = bad.Field
		} else {
			require.NoError(t, err)
		}
		p.forget()
		h := tb.open(setting(site.URL, c.line))[0]
		kept := strings.Join(h.Refused[c.line], " ")
		if kept == "" {
			kept = "dropped without a word"
		}
		if found := p.cookie(c.cookie.Name); len(found) == 1 {
			kept = "kept"
			if !strings.Contains(c.line, "Path="+found[0].Path+";") {
				kept += " with Path=" + found[0].Path
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.name, map[bool]string{true: "takes it", false: "refuses " + field}[field == ""], kept)
		if field != c.field || kept != c.kept {
			t.Errorf("%s: New %q, Chromium %q; expected %q and %q", c.name, field, kept, c.field, c.kept)
		}
	}
	_ = w.Flush()
	t.Logf("What New and Chromium say of a cookie:\n%s", &table)
}

func testSecureOnHTTP(t *testing.T, b *browser) {
	st := startStack(t, stackConfig{Inner: passes, Mode: sessions.SecureAlways, CSRF: true, Handler: browserApp(nil)})
	p := b.person(t)
	tb := p.tab()
	h := tb.open(st.HTTPURL + "/")[0]
	require.Equal(t, map[string][]string{h.SetCookie[0]: {"SecureOnly"}}, h.Refused)
	require.Empty(t, p.cookies())
	require.Equal(t, []string{"secure:insecure"}, unusual(st))
	lines := st.LogLines("outcome=insecure")
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "a browser on plain HTTP rejects the cookie")

	// localhost is trusted without TLS, and an address of the loopback interface as well.
	for _, host := range []string{"localhost", "127.0.0.1"} {
		p.forget()
		base := strings.Replace(st.HTTPURL, "app.test", host, 1)
		h = tb.open(base + "/")[0]
		require.Empty(t, h.Refused, host)
		require.Len(t, p.cookie("session"), 1, host)
		require.True(t, p.cookie("session")[0].Secure)
		tb.fill("#save input", "kept on "+host)
		tb.click("#save button")
		require.Equal(t, "kept on "+host, tb.text("#value"))
		require.Equal(t, "2", tb.text("#count"))
	}

	// A Secure cookie that the browser has is neither sent nor replaced on plain http, by nobody.
	p.forget()
	tb.open(st.URL + "/")
	before := p.cookie("session")
	require.Len(t, before, 1)
	site := startBare(t)
	h = tb.open(setting(site.HTTPURL, "session=planted; Path=/; HttpOnly"))[0]
	require.Equal(t, []string{"SecureOnly"}, h.Withheld["session"])
	require.Equal(t, map[string][]string{"session=planted; Path=/; HttpOnly": {"OverwriteSecure"}}, h.Refused)
	require.Equal(t, before, p.cookie("session"))
}

// TestBrowserRestart ends Chromium and starts it again with the same profile: a cookie is forgotten unless SetLifetime
// has said to keep it.
func TestBrowserRestart(t *testing.T) {
	const day = 24 * time.Hour
	st := startStack(t, stackConfig{Inner: passes, CSRF: true, Handler: browserApp(nil), Config: func(c *sessions.Config) {
		c.IdleTimeout = 7 * day
	}})
	kept := strings.Replace(st.URL, "app.test", "kept.app.test", 1) // another host, with a cookie of its own
	profile := newProfile(t)

	b := startBrowser(t, profile, keepsEmbedded)
	tb := b.owner(t).tab()
	tb.open(st.URL + "/")
	tb.open(kept + "/")
	id := tb.text("#session")
	h := tb.submit(kept + "/remember")[0]
	require.Regexp(t, `; Max-Age=1209[56][0-9]{2};`, h.SetCookie[0])
	stored := map[string]bool{}
	for _, c := range b.owner(t).cookie("session") {
		stored[c.Domain] = c.Session
	}
	require.Equal(t, map[string]bool{"app.test": true, "kept.app.test": false}, stored)
	b.close(t)

	b = startBrowser(t, profile, keepsEmbedded)
	found := b.owner(t).cookie("session")
	require.Len(t, found, 1)
	require.Equal(t, "kept.app.test", found[0].Domain)
	require.WithinDuration(t, time.Now().Add(14*day), time.Unix(int64(found[0].Expires), 0), time.Hour, "the absolute timeout")
	tb = b.owner(t).tab()
	tb.open(st.URL + "/look")
	require.Equal(t, "true", tb.text("#new"), "a session cookie ends with the browser")
	tb.open(kept + "/look")
	require.Equal(t, id, tb.text("#session"), "a persistent one does not")
}

// A sealed cookie that does not fit is an error before anything is sent, because Chromium would drop it in silence.
func testSize(t *testing.T, b *browser) {
	codec, err := sessions.NewSecureCookieCodec([]byte("a secret of the tests: 32 bytes!"))
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	st := startStack(t, stackConfig{Inner: passes, Handler: browserApp(nil), Config: func(c *sessions.Config) { c.Store = store }})
	p := b.person(t)
	tb := p.tab()
	tb.open(st.URL + "/")
	before := p.cookie("session")
	require.Len(t, before, 1)

	// The largest that fits, found as a user would find it.
	fits, over := 0, 5000
	for over-fits > 1 {
		n := (fits + over) / 2
		a := get(t, st.Client(t), st.URL+"/big?bytes="+strconv.Itoa(n))
		if a.StatusCode == http.StatusOK {
			fits = n
		} else {
			over = n
		}
	}
	st.Clear()
	h := tb.open(fmt.Sprintf("%s/big?bytes=%d", st.URL, over))[0]
	require.Equal(t, http.StatusServiceUnavailable, h.Status)
	require.Empty(t, h.SetCookie, "nothing is sent")
	require.Equal(t, before, p.cookie("session"), "and the browser keeps what it had")
	require.Equal(t, []string{"load:loaded", "commit:too_large"}, st.outcomes())
	e := st.Events()[1]
	require.ErrorIs(t, e.Err, sessions.ErrTooLarge)
	require.Regexp(t, `the cookie's name and value are (409[7-9]|410[0-9]|411[0-9]) bytes; browsers accept 4096`, e.Err.Error())

	p.forget()
	h = tb.open(fmt.Sprintf("%s/big?bytes=%d", st.URL, fits))[0]
	require.Equal(t, http.StatusOK, h.Status)
	require.Empty(t, h.Refused)
	require.Len(t, p.cookie("session"), 1, "one byte of the value less, and Chromium keeps it")
	t.Logf("%d bytes of a value make a cookie of %d", fits, p.cookie("session")[0].Size)
	tb.open(st.URL + "/look")
	require.Equal(t, "false", tb.text("#new"))

	// The limit is Chromium's own: name and value, without the attributes.
	site := startBare(t)
	p.forget()
	var lines []string
	for _, n := range []int{4096, 4097} {
		lines = append(lines, fmt.Sprintf("c%d=%s; Path=/; HttpOnly; Secure; SameSite=Lax", n, strings.Repeat("x", n-len("c4096"))))
	}
	h = tb.open(setting(site.URL, lines...))[0]
	require.Equal(t, map[string][]string{lines[1]: {"NameValuePairExceedsMaxSize"}}, h.Refused)
	require.Len(t, p.cookies(), 1)
	require.EqualValues(t, 4096, p.cookies()[0].Size)
}
