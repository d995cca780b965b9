package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// row is what happens in one chain to a visitor who opens the page, sends the form and is sent back to the page.
type row struct {
	inner  variant
	mode   sessions.SecureMode
	scheme string // that the client speaks

	set      string // attributes of the cookie that arrives, beside Path=/; HttpOnly; SameSite=Lax
	sentOn   string // the schemes on which a client sends it back
	survives bool   // the page after the POST is that of the same session, and has the value
	events   string // kind:outcome of all three requests
}

// The events of a visit in which all goes well: made on the first page, changed by the POST and by the last page.
const (
	allWell = "load:none commit:created | load:loaded commit:saved | load:loaded commit:saved"
	// A Secure cookie on plain http: the client does not send it back, and each request makes a session of its own.
	dropped = "load:none commit:created secure:insecure | load:none commit:created secure:insecure | load:none commit:created secure:insecure"
	// SecureAlways where the chain says http on https: the cookie is right, and the log asks for the chain to be put right.
	suspect = "load:none commit:created secure:insecure | load:loaded commit:saved | load:loaded commit:saved"
	// SecureAuto where the chain says http on https: the session holds, without Secure, and the POST shows the cause.
	mismatch = "load:none commit:created | secure:scheme_mismatch load:loaded commit:saved | load:loaded commit:saved"
)

var table = []row{
	{overwrites, sessions.SecureAuto, "https", "", "https http", true, mismatch},
	{overwrites, sessions.SecureAuto, "http", "", "https http", true, allWell},
	{overwrites, sessions.SecureAlways, "https", "Secure", "https", true, suspect},
	{overwrites, sessions.SecureAlways, "http", "Secure", "https", false, dropped},
	{overwrites, sessions.DangerouslyNeverSecure, "https", "", "https http", true, allWell},
	{overwrites, sessions.DangerouslyNeverSecure, "http", "", "https http", true, allWell},

	{passes, sessions.SecureAuto, "https", "Secure", "https", true, allWell},
	{passes, sessions.SecureAuto, "http", "", "https http", true, allWell},
	{passes, sessions.SecureAlways, "https", "Secure", "https", true, allWell},
	{passes, sessions.SecureAlways, "http", "Secure", "https", false, dropped},
	{passes, sessions.DangerouslyNeverSecure, "https", "", "https http", true, allWell},
	{passes, sessions.DangerouslyNeverSecure, "http", "", "https http", true, allWell},

	{appends, sessions.SecureAuto, "https", "Secure", "https", true, allWell},
	{appends, sessions.SecureAuto, "http", "", "https http", true, allWell},
	{appends, sessions.SecureAlways, "https", "Secure", "https", true, allWell},
	{appends, sessions.SecureAlways, "http", "Secure", "https", false, dropped},
	{appends, sessions.DangerouslyNeverSecure, "https", "", "https http", true, allWell},
	{appends, sessions.DangerouslyNeverSecure, "http", "", "https http", true, allWell},

	{silent, sessions.SecureAuto, "https", "", "https http", true, mismatch},
	{silent, sessions.SecureAuto, "http", "", "https http", true, allWell},
	{silent, sessions.SecureAlways, "https", "Secure", "https", true, suspect},
	{silent, sessions.SecureAlways, "http", "Secure", "https", false, dropped},
	{silent, sessions.DangerouslyNeverSecure, "https", "", "https http", true, allWell},
	{silent, sessions.DangerouslyNeverSecure, "http", "", "https http", true, allWell},
}

var modeNames = map[sessions.SecureMode]string{
	sessions.SecureAuto: "SecureAuto", sessions.SecureAlways: "SecureAlways", sessions.DangerouslyNeverSecure: "DangerouslyNeverSecure",
}

func TestVariants(t *testing.T) {
	seen := []row{}
	for _, inner := range variants {
		for mode := sessions.SecureAuto; mode <= sessions.DangerouslyNeverSecure; mode++ {
			t.Run(string(inner)+"/"+modeNames[mode], func(t *testing.T) {
				st := startStack(t, stackConfig{Inner: inner, Mode: mode})
				for _, scheme := range []string{"https", "http"} {
					seen = append(seen, visit(t, st, row{inner: inner, mode: mode, scheme: scheme}))
				}
			})
		}
	}
	t.Log("\n" + aligned(seen))
	require.Equal(t, aligned(table), aligned(seen))
}

// visit fills in what happens.
func visit(t *testing.T, st *stack, r row) row {
	t.Helper()
	base := map[string]string{"https": st.URL, "http": st.HTTPURL}[r.scheme]
	c := st.Client(t)
	st.Clear()

	first := get(t, c, base+"/")
	require.Len(t, first.SetCookies(), 1)
	var events []string
	events = append(events, strings.Join(st.outcomes(), " "))
	r.set, r.sentOn = attributes(t, first.SetCookies()[0]), sentOn(t, c, st)

	// The redirect is followed by hand, so that each half has its own events, and because the client would keep Origin,
	// which no browser sends with the GET.
	st.Clear()
	posted := post(t, noRedirect(c), base+"/save", url.Values{"value": {"kept"}})
	require.Equal(t, http.StatusSeeOther, posted.StatusCode)
	require.Equal(t, "/", posted.Header.Get("Location"))
	events = append(events, strings.Join(st.outcomes(), " "))

	st.Clear()
	last := get(t, c, base+posted.Header.Get("Location"))
	require.Equal(t, http.StatusOK, last.StatusCode)
	events = append(events, strings.Join(st.outcomes(), " "))

	r.survives = last.Page.Value == "kept" && last.Page.Count == 2 && last.Page.Session == first.Page.Session
	r.events = strings.Join(events, " | ")
	return r
}

// attributes returns what a Set-Cookie line says beyond what every line of ours says.
func attributes(t *testing.T, line string) string {
	t.Helper()
	name, rest, _ := strings.Cut(line, "=")
	require.Equal(t, "session", name)
	_, rest, _ = strings.Cut(rest, "; ")
	others := []string{}
	for attribute := range strings.SplitSeq(rest, "; ") {
		switch attribute {
		case "Path=/", "HttpOnly", "SameSite=Lax":
		default:
			others = append(others, attribute)
		}
	}
	require.Len(t, strings.Split(rest, "; "), len(others)+3, line)
	return strings.Join(others, "; ")
}

// sentOn asks the cookie jar.
func sentOn(t *testing.T, c *http.Client, st *stack) string {
	t.Helper()
	var schemes []string
	for _, base := range []string{st.URL, st.HTTPURL} {
		u, err := url.Parse(base)
		require.NoError(t, err)
		for _, cookie := range c.Jar.Cookies(u) {
			if cookie.Name == "session" {
				schemes = append(schemes, u.Scheme)
			}
		}
	}
	return strings.Join(schemes, " ")
}

func aligned(rows []row) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INNER NGINX\tMODE\tCLIENT\tSET\tSENT BACK ON\tSURVIVES\tEVENTS: GET | POST | GET")
	for _, r := range rows {
		set := r.set
		if set == "" {
			set = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.inner, modeNames[r.mode], r.scheme, set, r.sentOn,
			map[bool]string{true: "yes", false: "NO"}[r.survives], r.events)
	}
	_ = w.Flush()
	return b.String()
}
