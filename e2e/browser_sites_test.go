package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/chromedp/cdproto/network"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

func testTwoTabs(t *testing.T, b *browser) {
	st := startStack(t, stackConfig{Handler: browserApp(nil), CSRF: true})
	p := b.person(t)
	one, two := p.tab(), p.tab()
	one.open(st.URL + "/")
	two.open(st.URL + "/")
	require.Equal(t, one.text("#session"), two.text("#session"))
	require.Equal(t, "2", two.text("#count"))

	one.fill("#save input", "from one")
	one.click("#save button")
	require.Equal(t, "from one", one.text("#value"))
	two.click("#login button")
	require.Equal(t, "ada", two.text("#user"), "two has logged in")
	require.Equal(t, "from one", two.text("#value"), "with what one has saved")
	require.NotEqual(t, one.text("#session"), two.text("#session"), "the login has renewed the session")

	one.open(st.URL + "/look")
	require.Equal(t, two.text("#session"), one.text("#session"), "the cookie is that of both tabs")
	require.Equal(t, "ada", one.text("#user"))
	require.Len(t, p.cookie("session"), 1)

	stranger := b.person(t).tab()
	stranger.open(st.URL + "/look")
	require.Equal(t, "true", stranger.text("#new"), "another browser knows nothing of it")
}

// One tab is saving while another logs out: the save is refused, and nobody is logged in again by it.
func testLogoutInOneTab(t *testing.T, b *browser) {
	h := newHold()
	st := startStack(t, stackConfig{Inner: passes, Handler: browserApp(h), CSRF: true})
	p := b.person(t)
	one, two := p.tab(), p.tab()
	one.open(st.URL + "/")
	one.click("#login button")
	two.open(st.URL + "/look")
	require.Equal(t, "ada", two.text("#user"))
	old := p.cookie("session")
	require.Len(t, old, 1)

	two.open(st.URL + "/held")
	arrive := two.beginClick("#held button")
	select { // the save has loaded the session, and goes on after the logout
	case <-h.arrived:
	case <-deadline(t):
		t.Fatal("POST /held has not arrived")
	}
	out := one.click("#logout button")
	require.Equal(t, 303, out[0].Status)
	require.Equal(t, []string{"session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"}, out[0].SetCookie)
	require.Equal(t, "1", one.text("#count"), "a new session")
	fresh := p.cookie("session")
	require.Len(t, fresh, 1)
	require.NotEqual(t, old[0].Value, fresh[0].Value)

	close(h.release)
	late := arrive()
	require.Len(t, late, 1, "no redirect")
	require.Equal(t, http.StatusConflict, late[0].Status)
	token, _ := sends(late[0].Cookie, "session")
	require.Equal(t, old[0].Value, token, "the late save carried the old cookie")
	require.Empty(t, late[0].SetCookie)
	require.Contains(t, two.text("body"), "Your session has ended")
	require.Contains(t, st.outcomes(), "commit:gone")

	next := two.open(st.URL + "/look")
	token, _ = sends(next[0].Cookie, "session")
	require.Equal(t, fresh[0].Value, token, "the cookie is that of both tabs")
	require.Empty(t, two.text("#user"), "the other tab's next request is anonymous")
	require.Empty(t, two.text("#value"), "and the late change is nowhere")

	// The old cookie is worthless to anyone who kept it.
	st.Clear()
	thief := b.person(t)
	thief.put(old[0])
	tb := thief.tab()
	got := tb.open(st.URL + "/look")
	token, _ = sends(got[0].Cookie, "session")
	require.Equal(t, old[0].Value, token)
	require.Empty(t, tb.text("#user"))
	require.Equal(t, []string{"reject:unknown", "load:none"}, st.outcomes())
}

// From another site: which way of getting there sends the cookie, what comes of a POST, and that the session is untouched.
func testSameSite(t *testing.T, b *browser) {
	type result struct {
		way      string
		sameSite http.SameSite
		sent     bool
		status   int // 0: the page that asked cannot see it
		site     string
	}
	results := []result{
		{"link", http.SameSiteLaxMode, true, 200, "cross-site"},
		{"form GET", http.SameSiteLaxMode, true, 200, "cross-site"},
		{"form POST", http.SameSiteLaxMode, false, 403, "cross-site"},
		{"fetch GET", http.SameSiteLaxMode, false, 0, "cross-site"},
		{"fetch POST", http.SameSiteLaxMode, false, 0, "cross-site"},
		{"iframe", http.SameSiteLaxMode, false, 0, "cross-site"},

		{"link", http.SameSiteStrictMode, false, 200, "cross-site"},
		{"form GET", http.SameSiteStrictMode, false, 200, "cross-site"},
		{"form POST", http.SameSiteStrictMode, false, 403, "cross-site"},
		{"fetch GET", http.SameSiteStrictMode, false, 0, "cross-site"},
		{"fetch POST", http.SameSiteStrictMode, false, 0, "cross-site"},
		{"iframe", http.SameSiteStrictMode, false, 0, "cross-site"},

		// With None the browser sends it on every way: http.CrossOriginProtection alone is what refuses the POST.
		{"link", http.SameSiteNoneMode, true, 200, "cross-site"},
		{"form GET", http.SameSiteNoneMode, true, 200, "cross-site"},
		{"form POST", http.SameSiteNoneMode, true, 403, "cross-site"},
		{"fetch GET", http.SameSiteNoneMode, true, 0, "cross-site"},
		{"fetch POST", http.SameSiteNoneMode, true, 0, "cross-site"},
		{"iframe", http.SameSiteNoneMode, true, 0, "cross-site"},
	}
	names := map[http.SameSite]string{http.SameSiteLaxMode: "Lax", http.SameSiteStrictMode: "Strict", http.SameSiteNoneMode: "None"}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SAMESITE\tFROM ANOTHER SITE\tCOOKIE\tSTATUS\tSEC-FETCH-SITE")
	for _, mode := range []http.SameSite{http.SameSiteLaxMode, http.SameSiteStrictMode, http.SameSiteNoneMode} {
		t.Run(names[mode], func(t *testing.T) {
			seen := &witness{}
			st := startStack(t, stackConfig{
				Inner: passes, Handler: browserApp(nil), Wrap: seen.wrap,
				Config: func(c *sessions.Config) { c.Cookie.SameSite = mode },
			})
			st.SetPage("/", fmt.Sprintf(`<!doctype html><link rel="icon" href="data:,"><title>other</title>
				<a id="link" href="%[1]s/look">a link</a>
				<form id="get" action="%[1]s/look"><button>look</button></form>
				<form id="post" method="post" action="%[1]s/save"><input name="value" value="evil"><button>win</button></form>`, st.URL))
			p := b.person(t)
			mine, tb := p.tab(), p.tab()
			mine.open(st.URL + "/")
			mine.fill("#save input", "mine")
			mine.click("#save button")
			before := p.cookie("session")
			require.Len(t, before, 1)
			for _, want := range results {
				if want.sameSite != mode {
					continue
				}
				tb.open(st.Other + "/")
				st.Clear()
				got := result{way: want.way, sameSite: mode}
				var at arrival
				switch want.way {
				case "link":
					got.status = tb.click("#link")[0].Status
					at = seen.last(t, "GET", "/look")
				case "form GET":
					got.status = tb.click("#get button")[0].Status
					at = seen.last(t, "GET", "/look")
				case "form POST":
					got.status = tb.click("#post button")[0].Status
					at = seen.last(t, "POST", "/save")
				case "fetch GET":
					require.Equal(t, "opaque", tb.js(fmt.Sprintf(`fetch(%q, {credentials: "include", mode: "no-cors"}).then(r => r.type)`, st.URL+"/plain")))
					at = seen.last(t, "GET", "/plain")
				case "fetch POST":
					require.Equal(t, "opaque", tb.js(fmt.Sprintf(`fetch(%q, {method: "POST", body: new URLSearchParams({value: "evil"}), credentials: "include", mode: "no-cors"}).then(r => r.type)`, st.URL+"/save")))
					at = seen.last(t, "POST", "/save")
				case "iframe":
					tb.frame(st.URL + "/plain")
					at = seen.last(t, "GET", "/plain")
				}
				token, sent := sends(at.Cookie, "session")
				got.sent, got.site = sent, at.Site
				if sent {
					require.Equal(t, before[0].Value, token)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", names[mode], got.way, map[bool]string{true: "sent", false: "not sent"}[sent],
					strings.Replace(fmt.Sprint(got.status), "0", "not visible", max(0, 1-got.status)), got.site)
				require.Equal(t, want, got)
				if strings.HasSuffix(want.way, "POST") || want.status == 0 {
					require.Empty(t, st.outcomes(), "the session was touched")
				}
			}
			// Strict is about the way that leads here: the next step within the site sends it again.
			tb.open(st.Other + "/")
			tb.click("#link")
			require.Equal(t, fmt.Sprint(mode == http.SameSiteStrictMode), tb.text("#new"))
			tb.click("#save button")
			require.Equal(t, before, p.cookie("session"), "the same session and the same cookie as before")

			mine.open(st.URL + "/look")
			require.Equal(t, "", mine.text("#value"), "saved by the step before, with an empty field")
		})
	}
	_ = w.Flush()
	t.Logf("What Chromium sends to the app from another site:\n%s", &table)
}

// Two that look like the same site: another host of the domain, whose POST http.CrossOriginProtection refuses all the same,
// and the same host without TLS, which browsers hold to be another site.
func testNeighbours(t *testing.T, b *browser) {
	type result struct {
		from     string
		sameSite http.SameSite
		link     bool // sends the cookie
		post     bool
		status   int // of the POST
		site     string
	}
	results := []result{
		{"https://www.app.test", http.SameSiteLaxMode, true, true, 403, "same-site"},
		{"https://www.app.test", http.SameSiteStrictMode, true, true, 403, "same-site"},
		{"http://app.test", http.SameSiteLaxMode, true, false, 403, "cross-site"},
		{"http://app.test", http.SameSiteStrictMode, false, false, 403, "cross-site"},
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SAMESITE\tFROM\tLINK\tFORM POST\tSTATUS\tSEC-FETCH-SITE")
	for _, mode := range []http.SameSite{http.SameSiteLaxMode, http.SameSiteStrictMode} {
		seen := &witness{}
		st := startStack(t, stackConfig{
			Inner: passes, Handler: browserApp(nil), Wrap: seen.wrap,
			Config: func(c *sessions.Config) { c.Cookie.SameSite = mode },
		})
		p := b.person(t)
		tb := p.tab()
		tb.open(st.URL + "/")
		id := tb.text("#session")
		for _, want := range results {
			if want.sameSite != mode {
				continue
			}
			page := map[string]string{"https://www.app.test": strings.Replace(st.URL, "app.test", "www.app.test", 1), "http://app.test": st.HTTPURL}[want.from] + "/plain"
			got := result{from: want.from, sameSite: mode}
			tb.open(page)
			tb.follow(st.URL + "/look")
			_, got.link = sends(seen.last(t, "GET", "/look").Cookie, "session")
			tb.open(page)
			st.Clear()
			got.status = tb.submit(st.URL + "/save")[0].Status
			at := seen.last(t, "POST", "/save")
			_, got.post = sends(at.Cookie, "session")
			got.site = at.Site
			require.Empty(t, st.outcomes(), "the session was touched")
			sent := map[bool]string{true: "sent", false: "not sent"}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", map[http.SameSite]string{http.SameSiteLaxMode: "Lax", http.SameSiteStrictMode: "Strict"}[mode], got.from, sent[got.link], sent[got.post], got.status, got.site)
			require.Equal(t, want, got)
		}
		tb.open(st.URL + "/look")
		require.Equal(t, id, tb.text("#session"))
		require.Equal(t, "1", tb.text("#count"))
	}
	_ = w.Flush()
	t.Logf("What Chromium sends to https://app.test from its neighbours:\n%s", &table)
}

// A login service sends the browser back by a form POST from its own site (OpenID Connect: response_mode=form_post). Lax
// keeps the cookie back from that POST, so the app does not find what it had stored before the login.
func testLoginService(t *testing.T, b *browser) {
	seen := &witness{}
	st := startStack(t, stackConfig{Inner: passes, Handler: browserApp(nil), Wrap: seen.wrap})
	st.SetPage("/", fmt.Sprintf(`<!doctype html><link rel="icon" href="data:,"><title>login service</title>
		<form id="back" method="post" action="%s/callback"><button>back</button></form>`, st.URL))
	p := b.person(t)
	tb := p.tab()
	tb.open(st.URL + "/")
	tb.fill("#save input", "the state of the login")
	tb.click("#save button")
	before := p.cookie("session")[0].Value

	tb.open(st.Other + "/")
	st.Clear()
	back := tb.click("#back button")
	require.Equal(t, []int{303, 200}, []int{back[0].Status, back[1].Status})
	_, sent := sends(back[0].Cookie, "session")
	require.False(t, sent, "the POST comes without the cookie")
	require.Len(t, back[0].Withheld["session"], 1)
	require.Regexp(t, "SameSiteLax$", back[0].Withheld["session"][0])
	require.Len(t, back[0].SetCookie, 1, "so that the app gives it a new one")
	require.Empty(t, back[0].Refused, "which the browser keeps")
	token, sent := sends(back[1].Cookie, "session")
	require.True(t, sent, "and sends on the redirect after it")
	require.NotEqual(t, before, token)
	require.Equal(t, "from the login service", tb.text("#user"))
	require.Empty(t, tb.text("#value"), "in place of the session from before the login")
	require.Equal(t, "load:none", st.outcomes()[0])
	require.Empty(t, st.Log(), "nothing is wrong with it")
}

// A partitioned cookie is one for each site that embeds the page. One that is not partitioned is the same everywhere, and
// in a browser that holds back the cookies of embedded sites it is nowhere.
func testPartitioned(t *testing.T, b *browser) {
	strict := startBrowser(t, newProfile(t), holdsEmbedded)
	for _, c := range []struct {
		name        string
		browser     *browser
		partitioned bool
		embedded    bool // the embedded page keeps its session
	}{
		{"partitioned", b, true, true},
		{"partitioned, held back", strict, true, true},
		{"not partitioned", b, false, true},
		{"not partitioned, held back", strict, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := &witness{}
			st := startStack(t, stackConfig{
				Inner: passes, Handler: browserApp(nil), Wrap: seen.wrap,
				Config: func(cfg *sessions.Config) {
					cfg.Cookie.SameSite, cfg.Cookie.Partitioned = http.SameSiteNoneMode, c.partitioned
				},
			})
			st.SetPage("/", `<!doctype html><link rel="icon" href="data:,"><title>other</title><p>embeds the app</p>`)
			p := c.browser.person(t)
			tb := p.tab()
			visit := func(top string) (sent string) {
				tb.open(top)
				tb.frame(st.URL + "/")
				sent, _ = sends(seen.last(t, "GET", "/").Cookie, "session")
				return sent
			}
			require.Empty(t, visit(st.Other+"/"), "the first time")
			inOther := p.cookie("session")
			if !c.embedded {
				require.Empty(t, inOther)
				require.Empty(t, visit(st.Other+"/"), "the second time")
				tb.open(st.URL + "/")
				require.Equal(t, "1", tb.text("#count"))
				tb.open(st.URL + "/")
				require.Equal(t, "2", tb.text("#count"), "on its own the page keeps it")
				require.Empty(t, visit(st.Other+"/"), "the third time, with a cookie")
				require.Empty(t, unusual(st), "the server cannot tell it from a new visitor")
				return
			}
			require.Len(t, inOther, 1)
			require.Equal(t, inOther[0].Value, visit(st.Other+"/"), "the second time")

			alone := tb.open(st.URL + "/")
			sent, _ := sends(alone[0].Cookie, "session")
			if !c.partitioned {
				require.Nil(t, inOther[0].PartitionKey)
				require.Equal(t, inOther[0].Value, sent, "one cookie wherever the page is")
				require.Equal(t, "3", tb.text("#count"))
				require.Len(t, p.cookie("session"), 1)
				return
			}
			require.Equal(t, &network.CookiePartitionKey{TopLevelSite: "https://other.test", HasCrossSiteAncestor: true}, inOther[0].PartitionKey)
			require.Empty(t, sent, "not sent to the same page on its own")
			require.Equal(t, "1", tb.text("#count"), "which has a session of its own")
			require.Equal(t, "Path=/; HttpOnly; Secure; SameSite=None; Partitioned", strings.SplitN(alone[0].SetCookie[0], "; ", 2)[1])
			both := p.cookie("session")
			require.Len(t, both, 2)
			i := slices.IndexFunc(both, func(c *network.Cookie) bool { return c.Value != inOther[0].Value })
			require.Equal(t, &network.CookiePartitionKey{TopLevelSite: "https://app.test"}, both[i].PartitionKey)

			www := strings.Replace(st.URL, "app.test", "www.app.test", 1)
			require.Equal(t, both[i].Value, visit(www+"/plain"), "a page of the same site shares it")

			// Logging out on its own leaves the other partition as it was.
			tb.open(st.URL + "/look")
			out := tb.click("#logout button")
			require.Contains(t, out[0].SetCookie[0], "Max-Age=0")
			require.Contains(t, out[0].SetCookie[0], "; Partitioned")
			for _, k := range p.cookie("session") {
				require.NotEqual(t, both[i].Value, k.Value, "the cookie of the session that has ended")
			}
			require.Equal(t, inOther[0].Value, visit(st.Other+"/"))
		})
	}
}
