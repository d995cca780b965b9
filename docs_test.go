package sessions_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

const proxiesPage = "docs/proxies.md"

func behindProxies(store sessions.Store) (*sessions.Manager, error) {
	return sessions.New(sessions.Config{
		Store:       store,
		ProxyHeader: "CloudFront-Forwarded-Proto",
		TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"),    // the balancer: the list replaces the default
			netip.MustParsePrefix("100.64.0.0/10"), // pods that have addresses of this range
		},
	})
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	page, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(page)
}

// The page names events and fields as the library does.
func TestProxiesPage_Names(t *testing.T) {
	page, source := readPage(t, proxiesPage), readPage(t, "event.go")
	named := func(typ string) map[string]bool {
		all := map[string]bool{}
		for _, m := range regexp.MustCompile(`\w+ +`+typ+` += "(\w+)"`).FindAllStringSubmatch(source, -1) {
			all[m[1]] = true
		}
		require.NotEmpty(t, all)
		return all
	}
	kinds, outcomes := named("EventKind"), named("Outcome")

	pairs := regexp.MustCompile("[`\"]([a-z]+) ([a-z_]+)[`\"<]").FindAllStringSubmatch(page, -1)
	checked := 0
	for _, p := range pairs {
		if !kinds[p[1]] {
			continue // a directive of a proxy
		}
		checked++
		require.True(t, outcomes[p[2]], "%s %s: there is no such outcome", p[1], p[2])
	}
	require.Greater(t, checked, 20)

	config, cookie := reflect.TypeFor[sessions.Config](), reflect.TypeFor[sessions.Cookie]()
	fields := regexp.MustCompile(`(Config|Cookie)\.([A-Z]\w+)`).FindAllStringSubmatch(page, -1)
	settings := regexp.MustCompile("`(ProxyHeader|TrustUnixSocket|TrustedProxies|Secure)\\b").FindAllStringSubmatch(page, -1)
	require.NotEmpty(t, fields)
	require.NotEmpty(t, settings)
	for _, f := range fields {
		of := map[string]reflect.Type{"Config": config, "Cookie": cookie}[f[1]]
		_, ok := of.FieldByName(f[2])
		require.True(t, ok, "%s: there is no such field", f[0])
	}
	for _, f := range settings {
		_, ok := config.FieldByName(f[1])
		require.True(t, ok, "Config.%s: there is no such field", f[1])
	}
}

// The texts that the page quotes are those that the library writes.
func TestProxiesPage_Quotes(t *testing.T) {
	cookies := cookieStoreWith(t, secretA)
	change := func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		addCount(s)
		_, _ = w.Write([]byte("ok"))
	}
	const proxy, pod = "10.0.0.5:443", "100.64.1.7:443"
	origin := http.Header{"Origin": {"https://shop.example"}}
	says := func(proto string) http.Header {
		h := origin.Clone()
		h.Set("X-Forwarded-Proto", proto)
		return h
	}
	known := func(token string) http.Header { return http.Header{"Cookie": {"session=" + token}} }
	for _, c := range []struct {
		name    string
		config  sessions.Config
		handler http.HandlerFunc
		peer    string
		host    string
		header  http.Header
		want    sessions.Outcome
		quote   string // of the event's detail, as it is on the page
		redis   bool
	}{
		{name: "a Secure cookie on http", config: sessions.Config{Secure: sessions.SecureAlways}, want: sessions.OutcomeInsecure,
			quote: "the cookie is Secure, but the request from 10.0.0.5 looks like plain HTTP: a browser on plain HTTP rejects the cookie, one on HTTPS keeps it."},
		{name: "another domain", config: sessions.Config{Cookie: sessions.Cookie{Domain: "shop.example"}}, host: "app:8080", want: sessions.OutcomeForeignDomain,
			quote: "Cookie.Domain is shop.example, but the request is for app:8080: browsers reject the cookie."},
		{name: "another path", config: sessions.Config{Cookie: sessions.Cookie{Path: "/app"}}, want: sessions.OutcomeForeignPath,
			quote: "Cookie.Path is /app, but the request is for a page under /: browsers send the cookie only under Cookie.Path"},
		{name: "too late", handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("ok"))
			change(w, r)
		}, want: sessions.OutcomeTooLate, quote: "the cookie of a new session can no longer be sent, so nothing was stored"},
		{name: "overwritten", header: says("http"), want: sessions.OutcomeSchemeMismatch,
			quote: "Origin says https, the proxy at 10.0.0.5 says http (X-Forwarded-Proto)"},
		{name: "removed", header: origin, want: sessions.OutcomeSchemeMismatch, quote: "sends no X-Forwarded-Proto"},
		{name: "not trusted", peer: pod, header: says("https"), want: sessions.OutcomeUntrustedProxy,
			quote: "X-Forwarded-Proto from 100.64.1.7 was ignored: if this is your proxy, add it to Config.TrustedProxies"},
		{name: "replaced", peer: "203.0.113.9", header: says("https"), want: sessions.OutcomeUntrustedProxy,
			quote: `X-Forwarded-Proto was ignored: RemoteAddr is "203.0.113.9", an address without a port: something outside Wrap has replaced the address of the proxy`},
		{name: "not in Redis", redis: true, header: known(sessions.NewToken()), want: sessions.OutcomeUnknown,
			quote: "there is no such key: it expired, or was deleted or evicted"},
		{name: "another secret", header: known("AAAA"), want: sessions.OutcomeTampered,
			quote: "it was changed, sealed by another secret, or sealed for another cookie name"},
		{name: "another shape", redis: true, header: known("AAAA"), want: sessions.OutcomeMalformed,
			quote: "not the shape of a session token"},
		{name: "caching", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "public, max-age=60")
			change(w, r)
		}, want: sessions.OutcomeOverridden, quote: "the handler set Cache-Control on a response that sets the session cookie"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var details []string
			cfg := c.config
			cfg.Store = cookies
			if c.redis {
				cfg.Store = redisStoreOver(t, redistest.Start(t).Client(t))
			}
			cfg.Observe = func(_ context.Context, e sessions.Event) {
				if e.Outcome == c.want {
					details = append(details, e.Detail)
				}
			}
			mgr, err := sessions.New(cfg)
			require.NoError(t, err)
			r := httptest.NewRequest("POST", "http://shop.example/", nil)
			r.RemoteAddr = proxy
			if c.peer != "" {
				r.RemoteAddr = c.peer
			}
			if c.host != "" {
				r.Host = c.host
			}
			if c.header != nil {
				r.Header = c.header
			}
			handler := http.HandlerFunc(change)
			if c.handler != nil {
				handler = c.handler
			}
			mgr.Wrap(handler).ServeHTTP(httptest.NewRecorder(), r)
			require.Len(t, details, 1)
			require.Contains(t, details[0], c.quote)
			require.Contains(t, readPage(t, proxiesPage), `"`+c.quote)
		})
	}
}

// A header that CloudFront adds is read behind a balancer that writes its own scheme, and in the addresses that are given.
func TestProxiesPage_Code(t *testing.T) {
	mgr, err := behindProxies(cookieStoreWith(t, secretA))
	require.NoError(t, err)
	for peer, secure := range map[string]bool{"10.1.2.3:80": true, "100.64.1.7:80": true, "192.168.1.1:80": false} {
		r := httptest.NewRequest("GET", "http://shop.example/", nil)
		r.RemoteAddr = peer
		r.Header.Set("CloudFront-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Proto", "http")
		w := httptest.NewRecorder()
		mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			addCount(s)
		})).ServeHTTP(w, r)
		require.Equal(t, secure, strings.Contains(w.Header().Get("Set-Cookie"), "; Secure"), peer)
	}

	here := strings.Join(strings.Fields(readPage(t, "docs_test.go")), " ")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readPage(t, proxiesPage), -1)
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		require.Contains(t, here, strings.Join(strings.Fields(b[1]), " "), "this code of the page is not compiled here")
	}
}

// The handshake of a WebSocket is a GET: protection from other sites is the application's, as the page says.
func TestProxiesPage_Handshake(t *testing.T) {
	site := newSite(t, cookieStoreWith(t, secretA))
	b := site.browser()
	b.set("user", 42)
	for method, status := range map[string]int{http.MethodGet: http.StatusOK, http.MethodPost: http.StatusForbidden} {
		mgr, err := sessions.New(sessions.Config{Store: cookieStoreWith(t, secretA)})
		require.NoError(t, err)
		user := ""
		handler := http.NewCrossOriginProtection().Handler(mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			user = value(t, s, "user")
		})))
		r := httptest.NewRequest(method, "https://app.example/socket", nil)
		r.Header = http.Header{
			"Cookie": {"session=" + b.cookie()}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Origin": {"https://www.app.example"}, "Sec-Fetch-Site": {"same-site"}, "Sec-Fetch-Mode": {"websocket"},
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Equal(t, status, w.Code, method)
		require.Equal(t, status == http.StatusOK, user == "42", method)
	}
}

// Links within the repository lead to a file and a heading that exist.
func TestProxiesPage_Links(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)\s:]+)\)`).FindAllStringSubmatch(readPage(t, proxiesPage), -1)
	require.Greater(t, len(links), 5)
	for _, link := range links {
		file, anchor, _ := strings.Cut(link[1], "#")
		target := proxiesPage
		if file != "" {
			target = filepath.Join(filepath.Dir(proxiesPage), file)
		}
		text := readPage(t, target)
		found := anchor == ""
		for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
			words := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(h[1]), "")
			found = found || anchor == strings.ReplaceAll(words, " ", "-")
		}
		require.True(t, found, "%s: there is no such heading", link[1])
	}
}

// rotation finds what speaks of rotating a secret.
var rotation = regexp.MustCompile(`(?is)` + strings.Join([]string{
	`\brotat\w*\b[^.]*\bsecret`, `\bsecrets?\b[^.]*\brotat`, `\bfirst\b( \w+)? seals\b`,
	`\bchang\w+ (a |the |your |session-)secret`, `\bold (one|secret)s? (still )?in the list`, `\bold ones?\b[^.|]*\bin the list`,
}, "|"))

// eachParagraph calls visit with each paragraph, row of a table and comment that users read, on one line.
func eachParagraph(t *testing.T, visit func(path, text string)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == "testdata" || name != "." && name[0] == '.'):
			return filepath.SkipDir
		case d.IsDir() || strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "example"):
			return nil
		case !slices.Contains([]string{".go", ".md", ".yaml", ".template", ".html"}, filepath.Ext(name)):
			return nil
		}
		text := regexp.MustCompile(`(?m)^[ \t]*(//|#)[ \t]*`).ReplaceAllString(readPage(t, path), "")
		for part := range strings.SplitSeq(strings.ReplaceAll(text, "\n|", "\n\n|"), "\n\n") {
			if part = strings.Join(strings.Fields(part), " "); part != "" && part[0] != '#' { // a heading says nothing by itself
				visit(path, part)
			}
		}
		return nil
	}))
}

// Any text that speaks of rotating a secret says that it takes two deploys, or leads to where that is said, and names them
// in the order in which nobody is logged out.
func TestP13_RotationTakesTwoDeploysInEveryText(t *testing.T) {
	said := map[string]int{}
	eachParagraph(t, func(path, text string) {
		if !rotation.MatchString(text) {
			return
		}
		said[path]++
		if !strings.Contains(strings.ToLower(text), "two deploys") {
			t.Errorf("%s: it does not say that this takes two deploys: %q", path, text)
		}
		first, second := strings.Index(text, "(old, new)"), strings.Index(text, "(new, old)")
		if (first < 0) != (second < 0) || second >= 0 && second < first {
			t.Errorf("%s: (old, new) comes first, and then (new, old): %q", path, text)
		}
	})
	for _, path := range []string{
		"README.md", "SECURITY.md", "docs/proxies.md", "docs/migration.md", "codec.go", "codec_aead.go", "example_test.go",
		"cmd/sessionctl/show.go", "examples/replicas/README.md", "examples/replicas/replica.go", "examples/replicas/k8s/secret.yaml.template",
	} {
		require.NotZero(t, said[path], "%s says nothing of it any more, or not in words that this test knows", path)
	}
}

// A copied sealed cookie that is used does not end with the expiry that is in it.
func TestP08_NoTextPromisesThatACopyExpires(t *testing.T) {
	promise := regexp.MustCompile(`(?i)\b(copy|copied|cookie|cookies)\b[^.|;]*\buntil (it expires|they expire|the expiry)`)
	eachParagraph(t, func(path, text string) {
		if at := promise.FindString(text); at != "" {
			t.Errorf("%s: each use seals it anew, up to the absolute timeout: %q", path, at)
		}
	})
}

// unwanted are words that a reader stumbles over; CONTRIBUTING.md asks for plain English. A letter of each is in brackets,
// so that this file has none of them.
var unwanted = regexp.MustCompile(`(?i)\b(` + strings.ReplaceAll(strings.Join([]string{
	"says? whethe[r]", // reports whether
	"at han[d]",       // available
	"entom[b]\\w*",    // write a tombstone
	"passed ove[r]",   // ignored
	"held to the limit[s]",
	"mende[d]",              // fixed, repaired
	"whoeve[r]",             // anyone who, or the name of the actor
	"is ha[d]",              // exists
	"(can|cannot) be ha[d]", // cannot get, cannot fetch
}, "|"), " ", `[\s/]+`) + `)\b`)

// The prose says "reports whether" and "returns", and does without some words.
func TestProse(t *testing.T) {
	files := 0
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == "testdata" || name != "." && name[0] == '.'):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go" && filepath.Ext(name) != ".md":
			return nil
		}
		files++
		text := readPage(t, path)
		for _, at := range unwanted.FindAllStringIndex(text, -1) {
			t.Errorf("%s:%d: %q", path, 1+strings.Count(text[:at[0]], "\n"), text[at[0]:at[1]])
		}
		if filepath.Ext(path) == ".go" {
			requireReturns(t, path, text)
		}
		return nil
	}))
	require.Greater(t, files, 100)
}

// requireReturns fails if the comment of a function that returns something begins with its name and "gives".
func requireReturns(t *testing.T, path, text string) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	check := func(doc *ast.CommentGroup, name string, typ *ast.FuncType) {
		if doc != nil && typ.Results != nil && strings.HasPrefix(doc.Text(), name+" gives ") {
			t.Errorf("%v: %s returns", set.Position(doc.Pos()), name)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			check(n.Doc, n.Name.Name, n.Type)
		case *ast.InterfaceType:
			for _, m := range n.Methods.List {
				if typ, ok := m.Type.(*ast.FuncType); ok {
					check(m.Doc, m.Names[0].Name, typ)
				}
			}
		}
		return true
	})
}
