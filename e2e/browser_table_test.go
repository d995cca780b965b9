package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/chromedp/cdproto/network"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// browserRow says what comes of one browser's walk through the chain: GET /, which makes a session, then a form POST, and
// the redirect after it.
type browserRow struct {
	inner  variant
	mode   sessions.SecureMode
	scheme string // that the browser uses

	set    string // the attributes of the cookie
	stored string // what the browser has of it: "Secure", "plain", or why it has dropped it
	post   string // what the form POST carries: "sent" or "nothing"
	after  string // the session after the POST: "same" or "lost"
	events string // that are more than loading and saving, in order
}

const (
	plainLax       = "Path=/; HttpOnly; SameSite=Lax"
	secureLax      = "Path=/; HttpOnly; Secure; SameSite=Lax"
	schemeMismatch = "secure:scheme_mismatch"
	insecureEvent  = "secure:insecure"
)

// The two rows with schemeMismatch are the first story: the session holds, the cookie lacks Secure, and an event says so.
// In those with insecureEvent on https the browser keeps the cookie all the same; on http it drops it.
var browserTable = []browserRow{
	{overwrites, sessions.SecureAuto, "https", plainLax, "plain", "sent", "same", schemeMismatch},
	{overwrites, sessions.SecureAuto, "http", plainLax, "plain", "sent", "same", ""},
	{overwrites, sessions.SecureAlways, "https", secureLax, "Secure", "sent", "same", insecureEvent},
	{overwrites, sessions.SecureAlways, "http", secureLax, "SecureOnly", "nothing", "lost", insecureEvent},
	{overwrites, sessions.DangerouslyNeverSecure, "https", plainLax, "plain", "sent", "same", ""},
	{overwrites, sessions.DangerouslyNeverSecure, "http", plainLax, "plain", "sent", "same", ""},

	{passes, sessions.SecureAuto, "https", secureLax, "Secure", "sent", "same", ""},
	{passes, sessions.SecureAuto, "http", plainLax, "plain", "sent", "same", ""},
	{passes, sessions.SecureAlways, "https", secureLax, "Secure", "sent", "same", ""},
	{passes, sessions.SecureAlways, "http", secureLax, "SecureOnly", "nothing", "lost", insecureEvent},
	{passes, sessions.DangerouslyNeverSecure, "https", plainLax, "plain", "sent", "same", ""},
	{passes, sessions.DangerouslyNeverSecure, "http", plainLax, "plain", "sent", "same", ""},

	{appends, sessions.SecureAuto, "https", secureLax, "Secure", "sent", "same", ""},
	{appends, sessions.SecureAuto, "http", plainLax, "plain", "sent", "same", ""},
	{appends, sessions.SecureAlways, "https", secureLax, "Secure", "sent", "same", ""},
	{appends, sessions.SecureAlways, "http", secureLax, "SecureOnly", "nothing", "lost", insecureEvent},
	{appends, sessions.DangerouslyNeverSecure, "https", plainLax, "plain", "sent", "same", ""},
	{appends, sessions.DangerouslyNeverSecure, "http", plainLax, "plain", "sent", "same", ""},

	{silent, sessions.SecureAuto, "https", plainLax, "plain", "sent", "same", schemeMismatch},
	{silent, sessions.SecureAuto, "http", plainLax, "plain", "sent", "same", ""},
	{silent, sessions.SecureAlways, "https", secureLax, "Secure", "sent", "same", insecureEvent},
	{silent, sessions.SecureAlways, "http", secureLax, "SecureOnly", "nothing", "lost", insecureEvent},
	{silent, sessions.DangerouslyNeverSecure, "https", plainLax, "plain", "sent", "same", ""},
	{silent, sessions.DangerouslyNeverSecure, "http", plainLax, "plain", "sent", "same", ""},
}

func testTable(t *testing.T, b *browser) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INNER\tMODE\tSCHEME\tSET\tSTORED\tPOST\tSESSION\tEVENTS")
	require.Len(t, browserTable, len(variants)*len(modeNames)*2)
	for _, v := range variants {
		for _, mode := range []sessions.SecureMode{sessions.SecureAuto, sessions.SecureAlways, sessions.DangerouslyNeverSecure} {
			t.Run(string(v)+" "+modeNames[mode], func(t *testing.T) {
				st := startStack(t, stackConfig{Inner: v, Mode: mode, CSRF: true, Handler: browserApp(nil)})
				p := b.person(t)
				tb := p.tab()
				for _, scheme := range []string{"https", "http"} {
					i := slices.IndexFunc(browserTable, func(r browserRow) bool { return r.inner == v && r.mode == mode && r.scheme == scheme })
					require.GreaterOrEqual(t, i, 0, "no row for %s %s %s", v, modeNames[mode], scheme)
					got := walk(t, p, tb, st, browserTable[i])
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", got.inner, modeNames[got.mode], got.scheme, got.set, got.stored, got.post, got.after, got.events)
					require.Equal(t, browserTable[i], got)
				}
			})
		}
	}
	_ = w.Flush()
	t.Logf("GET /, then a form POST and its redirect, in Chromium:\n%s", &table)
}

func walk(t *testing.T, p *person, tb *tab, st *stack, want browserRow) browserRow {
	got := browserRow{inner: want.inner, mode: want.mode, scheme: want.scheme}
	base := map[string]string{"https": st.URL, "http": st.HTTPURL}[want.scheme]
	st.Clear()
	p.forget()

	first := tb.open(base + "/")
	require.Len(t, first, 1)
	require.Equal(t, 200, first[0].Status)
	_, sent := sends(first[0].Cookie, "session")
	require.False(t, sent, "a new browser sends no cookie")
	require.Len(t, first[0].SetCookie, 1)
	pair, attributes, _ := strings.Cut(first[0].SetCookie[0], "; ")
	require.Regexp(t, `^session=[A-Za-z0-9_-]{22,}$`, pair)
	got.set = attributes
	got.stored = storedAs(t, p, first[0], pair)
	id := tb.text("#session")

	tb.fill("#save input", "a note")
	second := tb.click("#save button")
	require.Len(t, second, 2, "a POST and the GET after it: %+v", second)
	require.Equal(t, []string{"POST", "GET"}, []string{second[0].Method, second[1].Method})
	require.Equal(t, []int{303, 200}, []int{second[0].Status, second[1].Status})
	got.post, got.after = "nothing", "lost"
	_, inPost := sends(second[0].Cookie, "session")
	_, inGet := sends(second[1].Cookie, "session")
	require.Equal(t, inPost, inGet, "the redirect carries what the POST did")
	if inPost {
		got.post = "sent"
	}
	if tb.text("#session") == id {
		got.after = "same"
		require.Equal(t, "a note", tb.text("#value"))
		require.Equal(t, "2", tb.text("#count"))
	} else {
		require.Equal(t, "", tb.text("#value"))
		require.Equal(t, "1", tb.text("#count"))
	}
	got.events = strings.Join(unusual(st), " ")
	return got
}

// storedAs says what the browser made of a cookie that it was sent.
func storedAs(t *testing.T, p *person, h hop, pair string) string {
	t.Helper()
	name, token, _ := strings.Cut(pair, "=")
	found := p.cookie(name)
	if len(found) == 0 {
		require.Len(t, h.Refused, 1)
		for _, why := range h.Refused {
			return strings.Join(why, " ")
		}
	}
	require.Empty(t, h.Refused)
	require.Len(t, found, 1)
	c := found[0]
	require.Equal(t, token, c.Value)
	require.True(t, c.HTTPOnly && c.Session && c.SameSite == network.CookieSameSiteLax && c.Path == "/" && c.Domain == "app.test", "%+v", c)
	if c.Secure {
		return "Secure"
	}
	return "plain"
}

// unusual returns the events that are not those of every day, each once.
func unusual(st *stack) (kinds []string) {
	for _, k := range st.outcomes() {
		switch k {
		case "load:none", "load:loaded", "commit:created", "commit:saved":
			continue
		}
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}
