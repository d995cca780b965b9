package sessions

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"handover.example/sessions/internal/check"
)

// fields lists the fields that a configuration error names, in order and each once.
func fields(err error) (list []string) {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	for _, e := range joined.Unwrap() {
		var c *ConfigError
		if !errors.As(e, &c) {
			return append(list, e.Error())
		}
		if !slices.Contains(list, c.Field) {
			list = append(list, c.Field)
		}
	}
	return list
}

func checkCookie(c Cookie, mode SecureMode) error {
	bad := check.Mistakes{New: configError}
	c.withDefaults().check(mode, &bad)
	return bad.Join()
}

func TestP16_CookieRules(t *testing.T) {
	const never = DangerouslyNeverSecure
	for _, c := range []struct {
		name   string
		cookie Cookie
		mode   SecureMode
		want   []string // the fields that are wrong
	}{
		{"zero", Cookie{}, SecureAuto, nil},
		{"zero, never secure", Cookie{}, never, nil},
		{"all set", Cookie{Name: "id", Path: "/app", Domain: "example.com", SameSite: http.SameSiteStrictMode, Partitioned: true}, SecureAuto, nil},

		{"every character of a name", Cookie{Name: "az09AZ!#$%&'*+-.^_`|~"}, SecureAuto, nil},
		{"name with space", Cookie{Name: "my session"}, SecureAuto, []string{"Cookie.Name"}},
		{"name with =", Cookie{Name: "a=b"}, SecureAuto, []string{"Cookie.Name"}},
		{"name with ;", Cookie{Name: "a;b"}, SecureAuto, []string{"Cookie.Name"}},
		{"name with quote", Cookie{Name: `"a"`}, SecureAuto, []string{"Cookie.Name"}},
		{"name with line break", Cookie{Name: "a\r\nSet-Cookie: b"}, SecureAuto, []string{"Cookie.Name"}},
		{"name outside ASCII", Cookie{Name: "sitzung\u00fc"}, SecureAuto, []string{"Cookie.Name"}},
		{"name not UTF-8", Cookie{Name: "a\xff"}, SecureAuto, []string{"Cookie.Name"}},
		{"name of 1024", Cookie{Name: strings.Repeat("n", 1024)}, SecureAuto, nil},
		{"name of 1025", Cookie{Name: strings.Repeat("n", 1025)}, SecureAuto, []string{"Cookie.Name"}},

		{"path without slash", Cookie{Path: "app"}, SecureAuto, []string{"Cookie.Path"}},
		{"path with ;", Cookie{Path: "/a; Domain=evil.example"}, SecureAuto, []string{"Cookie.Path"}},
		{"path with CR", Cookie{Path: "/a\r"}, SecureAuto, []string{"Cookie.Path"}},
		{"path with LF", Cookie{Path: "/a\nb"}, SecureAuto, []string{"Cookie.Path"}},
		{"path with DEL", Cookie{Path: "/a\x7f"}, SecureAuto, []string{"Cookie.Path"}},
		{"path outside ASCII", Cookie{Path: "/\u00fc"}, SecureAuto, []string{"Cookie.Path"}},
		{"path not UTF-8", Cookie{Path: "/\xff"}, SecureAuto, []string{"Cookie.Path"}},
		{"path of 1024", Cookie{Path: "/" + strings.Repeat("p", 1023)}, SecureAuto, nil},
		{"path of 1025", Cookie{Path: "/" + strings.Repeat("p", 1024)}, SecureAuto, []string{"Cookie.Path"}},

		{"domain with dot", Cookie{Domain: ".example.com"}, SecureAuto, nil},
		{"domain, international", Cookie{Domain: "xn--bcher-kva.example"}, SecureAuto, nil},
		{"domain of digits and letters", Cookie{Domain: "1and1.4u"}, SecureAuto, nil},
		{"domain of one label", Cookie{Domain: "localhost"}, SecureAuto, nil},
		{"domain with port", Cookie{Domain: "example.com:8080"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with scheme", Cookie{Domain: "https://example.com"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with ;", Cookie{Domain: "example.com; Path=/x"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with line break", Cookie{Domain: "example.com\r\n"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with underscore", Cookie{Domain: "my_host.example"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain outside ASCII", Cookie{Domain: "b\u00fccher.example"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, only a dot", Cookie{Domain: "."}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with two dots", Cookie{Domain: "a..b"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with two dots first", Cookie{Domain: "..example.com"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with last dot", Cookie{Domain: "example.com."}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with first dash", Cookie{Domain: "-a.example"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain with last dash", Cookie{Domain: "a-.example"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, star", Cookie{Domain: "*.example.com"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, label of 63", Cookie{Domain: strings.Repeat("a", 63) + ".example"}, SecureAuto, nil},
		{"domain, label of 64", Cookie{Domain: strings.Repeat("a", 64) + ".example"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain of 254", Cookie{Domain: strings.Repeat("abcdefghi.", 25) + "abcd"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, IPv4", Cookie{Domain: "192.0.2.1"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, IPv4 with dot", Cookie{Domain: ".192.0.2.1"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, IPv6", Cookie{Domain: "2001:db8::1"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, number", Cookie{Domain: "12345"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain, two numbers", Cookie{Domain: "1.2"}, SecureAuto, []string{"Cookie.Domain"}},
		{"domain that ends in a number", Cookie{Domain: "example.1"}, SecureAuto, []string{"Cookie.Domain"}},

		{"SameSite unknown", Cookie{SameSite: 9}, SecureAuto, []string{"Cookie.SameSite"}},
		{"SameSite negative", Cookie{SameSite: -1}, SecureAuto, []string{"Cookie.SameSite"}},
		{"SameSite default", Cookie{SameSite: http.SameSiteDefaultMode}, SecureAuto, nil},
		{"SameSite None", Cookie{SameSite: http.SameSiteNoneMode}, SecureAuto, nil},
		{"SameSite None, never secure", Cookie{SameSite: http.SameSiteNoneMode}, never, []string{"Cookie.SameSite"}},
		{"Partitioned, never secure", Cookie{Partitioned: true}, never, []string{"Cookie.Partitioned"}},

		{"__Host-", Cookie{Name: "__Host-s"}, SecureAuto, nil},
		{"__Host- always", Cookie{Name: "__Host-s"}, SecureAlways, nil},
		{"__Host- never", Cookie{Name: "__Host-s"}, never, []string{"Cookie.Name"}},
		{"__hOST- never", Cookie{Name: "__hOST-s"}, never, []string{"Cookie.Name"}},
		{"__Secure- never", Cookie{Name: "__Secure-s"}, never, []string{"Cookie.Name"}},
		{"__secure- never", Cookie{Name: "__secure-s"}, never, []string{"Cookie.Name"}},
		{"__Http- never", Cookie{Name: "__Http-s"}, never, []string{"Cookie.Name"}},
		{"__Host-Http- never", Cookie{Name: "__Host-Http-s"}, never, []string{"Cookie.Name"}},
		{"__Host- with Path", Cookie{Name: "__Host-s", Path: "/app"}, SecureAuto, []string{"Cookie.Path"}},
		{"__host- with Path", Cookie{Name: "__host-s", Path: "/app"}, SecureAuto, []string{"Cookie.Path"}},
		{"__Host- with Domain", Cookie{Name: "__Host-s", Domain: "example.com"}, SecureAuto, []string{"Cookie.Domain"}},
		{"__HOST- with Domain", Cookie{Name: "__HOST-s", Domain: "example.com"}, SecureAuto, []string{"Cookie.Domain"}},
		{"__Secure- with Path and Domain", Cookie{Name: "__Secure-s", Path: "/app", Domain: "example.com"}, SecureAuto, nil},
		{"prefix elsewhere", Cookie{Name: "my__Host-s", Path: "/app", Domain: "example.com"}, never, nil},
		{"prefix without dash", Cookie{Name: "__Host", Path: "/app", Domain: "example.com"}, never, nil},

		{"everything at once", Cookie{Name: "__Host- s", Path: "a;b", Domain: "1.2.3.4", SameSite: 7, Partitioned: true}, never,
			[]string{"Cookie.Name", "Cookie.Path", "Cookie.Domain", "Cookie.SameSite", "Cookie.Partitioned"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, fields(checkCookie(c.cookie, c.mode)))
		})
	}
}

// New reports the mistakes of the cookie together with all others.
func TestP16_CookieMistakesComeWithTheOthers(t *testing.T) {
	_, err := New(Config{Cookie: Cookie{Name: "a b", Path: "x", Domain: "1.2"}, IdleTimeout: -1, Secure: 9})
	require.Equal(t, []string{"Store", "Cookie.Name", "Cookie.Path", "Cookie.Domain", "IdleTimeout", "Secure"}, fields(err))
}

func TestCookieHeader(t *testing.T) {
	for _, c := range []struct {
		cookie Cookie
		maxAge time.Duration
		secure bool
		want   string
	}{
		{Cookie{}, 0, false, "session=v; Path=/; HttpOnly; SameSite=Lax"},
		{Cookie{}, 0, true, "session=v; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{Cookie{}, time.Hour, false, "session=v; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"},
		{Cookie{}, time.Hour + 499*time.Millisecond, false, "session=v; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"},
		{Cookie{}, time.Hour + 500*time.Millisecond, false, "session=v; Path=/; Max-Age=3601; HttpOnly; SameSite=Lax"},
		{Cookie{}, time.Millisecond, false, "session=v; Path=/; Max-Age=1; HttpOnly; SameSite=Lax"}, // 0 would delete it
		{Cookie{}, -1, false, "session=v; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"},
		{Cookie{Domain: ".example.com", Path: "/a b"}, 0, false, `session=v; Path=/a b; Domain=example.com; HttpOnly; SameSite=Lax`},
		{Cookie{Name: "__Host-s", SameSite: http.SameSiteStrictMode}, 0, true, "__Host-s=v; Path=/; HttpOnly; Secure; SameSite=Strict"},
		{Cookie{SameSite: http.SameSiteNoneMode, Partitioned: true}, 0, true, "session=v; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"},
	} {
		require.Equal(t, c.want, c.cookie.withDefaults().header("v", c.maxAge, c.secure))
	}
}

// What passes the check reaches the browser as it was written: net/http leaves out or changes what it does not like.
func FuzzCookieConfig(f *testing.F) {
	f.Add("session", "/", "", 0, false)
	f.Add("__Host-s", "/", "", 4, true)
	f.Add("__secure-s", "/a b", ".example.com", 3, true)
	f.Add("a", "/;", "1.2.3.4", 2, false)
	f.Add("a", "//", "12", 2, false)
	f.Fuzz(func(t *testing.T, name, path, domain string, sameSite int, partitioned bool) {
		c := Cookie{Name: name, Path: path, Domain: domain, SameSite: http.SameSite(sameSite), Partitioned: partitioned}.withDefaults()
		if checkCookie(c, SecureAuto) != nil {
			return
		}
		secure := c.needsSecure()
		want := c.Name + "=v; Path=" + c.Path
		if domain != "" {
			want += "; Domain=" + strings.TrimPrefix(domain, ".")
		}
		line := c.header("v", 0, secure)
		require.True(t, strings.HasPrefix(line, want+"; HttpOnly"), "%q does not start with %q", line, want)
		requireKept(t, line)
	})
}

// requireKept checks a Set-Cookie line against the rules by which browsers drop cookies (RFC 6265bis, section 5.7; CHIPS).
func requireKept(t *testing.T, line string) {
	t.Helper()
	require.NotContains(t, line, "\n")
	require.NotContains(t, line, "\r")
	pair, rest, _ := strings.Cut(line, ";")
	name, value, ok := strings.Cut(pair, "=")
	require.True(t, ok, line)
	require.LessOrEqual(t, len(name)+len(value), 4096)
	attrs := map[string]string{}
	for a := range strings.SplitSeq(rest, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(a), "=")
		require.NotContains(t, attrs, strings.ToLower(k), "twice: %s", line)
		require.LessOrEqual(t, len(v), 1024)
		attrs[strings.ToLower(k)] = v
	}
	_, secure := attrs["secure"]
	_, domain := attrs["domain"]
	_, partitioned := attrs["partitioned"]
	require.Contains(t, attrs, "httponly")
	lower := strings.ToLower(name)
	if strings.HasPrefix(lower, "__host-") {
		require.True(t, secure && !domain && attrs["path"] == "/", line)
	}
	if strings.HasPrefix(lower, "__secure-") || strings.HasPrefix(lower, "__http-") || attrs["samesite"] == "None" || partitioned {
		require.True(t, secure, line)
	}
}

// Behaviour 23: no combination of settings that New takes sends what a browser drops, and a deletion names the same cookie.
func TestP12_NoCookieThatABrowserDrops(t *testing.T) {
	store := testCookieStore(t)
	n := 0
	for _, name := range []string{"", "__Host-s", "__host-s", "__Secure-s", "__SECURE-s", "__Http-s"} {
		for _, path := range []string{"", "/app"} {
			for _, domain := range []string{"", "example.com"} {
				for _, sameSite := range []http.SameSite{0, http.SameSiteLaxMode, http.SameSiteStrictMode, http.SameSiteNoneMode} {
					for _, partitioned := range []bool{false, true} {
						for _, mode := range []SecureMode{SecureAuto, SecureAlways, DangerouslyNeverSecure} {
							m, err := New(Config{Store: store, Secure: mode, Logger: slog.New(slog.DiscardHandler),
								Cookie: Cookie{Name: name, Path: path, Domain: domain, SameSite: sameSite, Partitioned: partitioned}})
							if err != nil {
								continue
							}
							n++
							set := setCookieLine(t, m, "", func(s Session) { require.NoError(t, s.Set("k", 1)) })
							requireKept(t, set)
							pair, attributes, _ := strings.Cut(set, ";")
							lines := setCookieLines(t, m, pair, func(s Session) { s.Destroy() })
							for _, line := range lines {
								requireKept(t, line)
							}
							gone := lines[len(lines)-1]
							cookie, _, _ := strings.Cut(pair, "=")
							require.Equal(t, cookie+"=;"+strings.Replace(attributes, "; HttpOnly", "; Max-Age=0; HttpOnly", 1), gone)
							if mode == DangerouslyNeverSecure {
								require.NotContains(t, set, "Secure")
							}
						}
					}
				}
			}
		}
	}
	require.Greater(t, n, 100)
}

// testCookieStore returns a store with one fixed secret.
func testCookieStore(t testing.TB) *CookieStore {
	t.Helper()
	codec, err := NewSecureCookieCodec([]byte("golden secret one, of 32 bytes.."))
	require.NoError(t, err)
	store, err := NewCookieStore(CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return store
}

// setCookieLine returns the one Set-Cookie line of a request that comes with this cookie and uses its session.
func setCookieLine(t *testing.T, m *Manager, cookie string, use func(Session)) string {
	t.Helper()
	lines := setCookieLines(t, m, cookie, use)
	require.Len(t, lines, 1)
	return lines[0]
}

func setCookieLines(t *testing.T, m *Manager, cookie string, use func(Session)) []string {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	w := httptest.NewRecorder()
	m.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s, err := Get(r.Context())
		require.NoError(t, err)
		use(s)
	})).ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	return w.Header()["Set-Cookie"]
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"none", nil, nil},
		{"empty line", []string{""}, nil},
		{"one", []string{"session=a"}, []string{"a"}},
		{"others around", []string{"x=1; session=a; y=2"}, []string{"a"}},
		{"no space", []string{"x=1;session=a;y=2"}, []string{"a"}},
		{"two, in their order", []string{"session=a; session=b"}, []string{"a", "b"}},
		{"two lines", []string{"session=a", "session=b"}, []string{"a", "b"}},
		{"the same twice", []string{"session=a; session=b; session=a"}, []string{"a", "b"}},
		{"quoted", []string{`session="a"`}, []string{"a"}},
		{"one quote", []string{`session="`}, []string{`"`}},
		{"empty", []string{"session="}, []string{""}},
		{"empty, quoted", []string{`session=""`}, []string{""}},
		{"padding", []string{"session=a=="}, []string{"a=="}},
		{"no =", []string{"session"}, nil},
		{"another case", []string{"Session=a"}, nil},
		{"a longer name", []string{"session2=a; xsession=b"}, nil},
		{"spaces and tabs", []string{" session \t=\t a "}, []string{"a"}},
		{"other blanks", []string{"\u2000session=a; \u00a0session=b; \vsession=c"}, nil},
		{"bytes that no cookie has", []string{"session=a\x00\xff\x7f,b"}, []string{"a\x00\xff\x7f,b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, more := candidates(http.Header{"Cookie": c.lines}, "session", nil)
			require.Equal(t, c.want, got)
			require.False(t, more)
		})
	}
}

func TestP23_CandidatesAreBounded(t *testing.T) {
	var line strings.Builder
	for i := range maxCandidates {
		fmt.Fprintf(&line, "session=%d; ", i)
	}
	got, more := candidates(http.Header{"Cookie": {line.String(), "session=0"}}, "session", nil)
	require.Len(t, got, maxCandidates)
	require.False(t, more && len(got) < maxCandidates)
	got, more = candidates(http.Header{"Cookie": {line.String(), "session=one more"}}, "session", nil)
	require.Len(t, got, maxCandidates)
	require.True(t, more)
}

func TestScopes(t *testing.T) {
	type scope struct{ domain, path string }
	for _, c := range []struct {
		name       string
		cookie     Cookie
		host, path string
		several    bool
		want       []scope
	}{
		{"one cookie", Cookie{}, "app.example", "/a/b", false, []scope{{"", "/"}}},
		{"a domain", Cookie{Domain: "app.example"}, "app.example", "/a/b", false, []scope{{"app.example", "/"}, {"", "/"}}},
		{"several", Cookie{}, "www.app.example:8080", "/", true, []scope{{"", "/"}, {"www.app.example", "/"}, {"app.example", "/"}}},
		{"several, a domain", Cookie{Domain: "app.example"}, "WWW.app.example.", "/", true,
			[]scope{{"app.example", "/"}, {"", "/"}, {"www.app.example", "/"}}},
		{"several, a path", Cookie{Path: "/app"}, "localhost", "/app/users/1", true,
			[]scope{{"", "/app"}, {"", "/"}, {"", "/app/"}, {"", "/app/users"}, {"", "/app/users/"}, {"", "/app/users/1"}}},
		{"several, a long path", Cookie{}, "localhost", "/" + strings.Repeat("x", maxAttributeBytes), true, []scope{{"", "/"}}},
		{"an address", Cookie{}, "127.0.0.1:80", "/", true, []scope{{"", "/"}}},
		{"an IPv6 address", Cookie{}, "[::1]:80", "/", true, []scope{{"", "/"}}},
		{"a host that is none", Cookie{}, "a b.example", "/", true, []scope{{"", "/"}, {"example", "/"}}[:1]},
		{"a path that no cookie has", Cookie{}, "localhost", "/a;b/c d/e", true, []scope{{"", "/"}}},
		{"a path that is none", Cookie{}, "localhost", "*", true, []scope{{"", "/"}}},
		{"__Host-", Cookie{Name: "__Host-session"}, "www.app.example", "/a", true, []scope{{"", "/"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []scope
			for _, s := range c.cookie.withDefaults().scopes(c.host, c.path, c.several) {
				got = append(got, scope{s.Domain, s.Path})
			}
			require.Equal(t, c.want, got)
		})
	}
	require.Len(t, Cookie{}.withDefaults().scopes("a.b.c.d.e.f.example", "/1/2/3/4/5/6", true), maxScopes)
}

func TestPathMatches(t *testing.T) {
	for _, c := range []struct {
		request, cookie string
		want            bool
	}{
		{"/", "/", true},
		{"/a", "/", true},
		{"/app", "/app", true},
		{"/app/", "/app", true},
		{"/app/x", "/app", true},
		{"/app/x", "/app/", true},
		{"/app", "/app/", false},
		{"/apple", "/app", false},
		{"/", "/app", false},
		{"/x/app", "/app", false},
		{"*", "/", false},
	} {
		require.Equal(t, c.want, pathMatches(c.request, c.cookie), "%s, a cookie for %s", c.request, c.cookie)
	}
}
