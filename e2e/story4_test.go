package e2e

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// The fourth story: a CDN and a load balancer with a cookie of its own in front of three instances.

// TestStory4OtherCookies: the app's other cookie and the balancer's pass untouched, beside ours and without it.
func TestStory4OtherCookies(t *testing.T) {
	const balancers = `AWSALB=Zm9v/+==; Expires=Sat, 28 Nov 2099 10:00:00 GMT; Path=/`
	const apps = `lang=de; Path=/; Max-Age=3600`
	st := startStack(t, stackConfig{
		Inner:  passes,
		Outer:  `add_header Set-Cookie "` + balancers + `" always;`,
		Config: func(c *sessions.Config) { c.Cookie.Name = "APP_SESSION_ID" },
	})
	c := st.Client(t)
	first := get(t, c, st.URL+"/second")
	require.Len(t, first.SetCookies(), 3)
	ours := slices.IndexFunc(first.SetCookies(), func(line string) bool { return strings.HasPrefix(line, "APP_SESSION_ID=") })
	require.GreaterOrEqual(t, ours, 0)
	require.Regexp(t, `^APP_SESSION_ID=[\w-]{22,}; Path=/; HttpOnly; Secure; SameSite=Lax$`, first.SetCookies()[ours])
	others := slices.Delete(slices.Clone(first.SetCookies()), ours, ours+1)
	require.ElementsMatch(t, []string{apps, balancers}, others)

	again := get(t, c, st.URL+"/second")
	require.ElementsMatch(t, []string{apps, balancers}, again.SetCookies(), "ours has not changed")
	require.Equal(t, first.Page.Session, again.Page.Session, "and is found among the others")
	require.Equal(t, 2, again.Page.Count)

	in := post(t, noRedirect(c), st.URL+"/login", nil)
	require.Len(t, in.SetCookies(), 2, "a new token, and the balancer's")
	out := post(t, noRedirect(c), st.URL+"/logout", nil)
	require.ElementsMatch(t, []string{"APP_SESSION_ID=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax", balancers}, out.SetCookies())
	u, err := url.Parse(st.URL)
	require.NoError(t, err)
	var left []string
	for _, cookie := range c.Jar.Cookies(u) {
		left = append(left, cookie.Name)
	}
	require.ElementsMatch(t, []string{"lang", "AWSALB"}, left)
}

// TestP17Story4SharedCache: a keen cache in front, which keeps whatever it is not told to leave, for all clients.
func TestP17Story4SharedCache(t *testing.T) {
	st := startStack(t, stackConfig{Inner: passes, Cache: true})
	ada, ben := st.Client(t), st.Client(t)

	// The control: this cache does keep things, and serves them to others.
	kept := get(t, ada, st.URL+"/static")
	require.Equal(t, "MISS", kept.Header.Get("X-Cache"))
	served := get(t, ben, st.URL+"/static")
	require.Equal(t, "HIT", served.Header.Get("X-Cache"))
	require.Equal(t, kept.Text, served.Text)
	require.Empty(t, st.Events())

	// Pages of a session, with the app's own no-store, without any caching header, and asking to be cached. On the
	// first visit the cookie is set. Whatever the cache then keeps, it never serves to another.
	for _, path := range []string{"/", "/bare", "/cacheable"} {
		t.Run(path, func(t *testing.T) {
			own := map[*http.Client]string{}
			clients := []*http.Client{st.Client(t), st.Client(t), st.Client(t)}
			for visit := 1; visit <= 3; visit++ {
				for _, c := range clients {
					st.Clear()
					a := get(t, c, st.URL+path)
					require.Equal(t, http.StatusOK, a.StatusCode)
					require.Contains(t, a.Header.Values("Vary"), "Cookie")
					if visit == 1 {
						require.Len(t, a.SetCookies(), 1)
						require.Equal(t, "no-store", a.Header.Get("Cache-Control"))
						require.Equal(t, "MISS", a.Header.Get("X-Cache"))
						require.Equal(t, 1, a.Page.Count)
						for _, other := range own {
							require.NotEqual(t, other, a.Page.Session)
						}
						own[c] = a.Page.Session
						overridden := map[bool][]string{false: {}, true: {"cache:overridden"}}[path == "/cacheable"]
						require.Equal(t, overridden, st.outcomes(sessions.EventCache))
						require.Len(t, st.LogLines("outcome=overridden"), len(overridden))
						continue
					}
					require.Empty(t, a.SetCookies())
					require.Equal(t, own[c], a.Page.Session, "its own page, fresh or not")
					if path != "/cacheable" {
						require.Equal(t, visit, a.Page.Count)
						require.Equal(t, "MISS", a.Header.Get("X-Cache"), "no-store, or private because the app says nothing")
					}
				}
			}
		})
	}

	// A login changes the cookie: the page that the cache may have kept for the old one is not seen with the new one.
	first := get(t, ada, st.URL+"/cacheable")
	get(t, ada, st.URL+"/cacheable")
	kept = get(t, ada, st.URL+"/cacheable")
	require.Equal(t, "HIT", kept.Header.Get("X-Cache"), "the third visit comes from the cache: the app asks for it")
	require.Equal(t, first.Page.Session, kept.Page.Session)
	post(t, noRedirect(ada), st.URL+"/login", nil)
	in := get(t, ada, st.URL+"/cacheable")
	require.Equal(t, "ada", in.Page.User)
	post(t, noRedirect(ada), st.URL+"/logout", nil)
	out := get(t, ada, st.URL+"/cacheable")
	require.Empty(t, out.Page.User)
	require.True(t, out.Page.New)
}

// TestP17Story4ManyClientsOneCache: the same at once, over the page that may be kept.
func TestP17Story4ManyClientsOneCache(t *testing.T) {
	st := startStack(t, stackConfig{Inner: passes, Cache: true})
	const clients, visits = 16, 6
	seen := make([][]string, clients)
	var wg sync.WaitGroup
	for i := range clients {
		c := st.Client(t)
		wg.Go(func() {
			for range visits {
				a, err := try(c, http.MethodGet, st.URL+"/cacheable", nil)
				if err != nil {
					seen[i] = append(seen[i], err.Error())
					return
				}
				seen[i] = append(seen[i], a.Page.Session)
			}
		})
	}
	wg.Wait()
	all := map[string]bool{}
	for i := range clients {
		require.Len(t, slices.Compact(slices.Clone(seen[i])), 1, "client %d: %v", i, seen[i])
		all[seen[i][0]] = true
	}
	require.Len(t, all, clients)
}

// TestStory4CacheThatIgnoresNoStore says what no header can prevent: a cache that is told to ignore them hands one
// client's session to the next. It is also the proof that the tests above would see it.
func TestStory4CacheThatIgnoresNoStore(t *testing.T) {
	st := startStack(t, stackConfig{Inner: passes, Cache: true, Outer: "proxy_ignore_headers Cache-Control Set-Cookie;"})
	ada := get(t, st.Client(t), st.URL+"/")
	ben := get(t, st.Client(t), st.URL+"/")
	require.Equal(t, "HIT", ben.Header.Get("X-Cache"))
	require.Equal(t, ada.Page.Session, ben.Page.Session)
	require.Equal(t, ada.SetCookies(), ben.SetCookies())
}

// TestStory4NotSticky: requests are spread over the instances, and the session holds on all of them; pinned to one it
// holds as well.
func TestStory4NotSticky(t *testing.T) {
	for _, sticky := range []bool{false, true} {
		t.Run(map[bool]string{false: "spread", true: "pinned"}[sticky], func(t *testing.T) {
			st := startStack(t, stackConfig{Inner: passes, Sticky: sticky})
			c := st.Client(t)
			by := map[string]int{}
			for i := 1; i <= 9; i++ {
				a := get(t, c, st.URL+"/")
				require.Equal(t, i, a.Page.Count)
				by[a.Page.ServedBy]++
			}
			if sticky {
				require.Len(t, by, 1)
			} else {
				require.Equal(t, map[string]int{"app-1": 3, "app-2": 3, "app-3": 3}, by)
			}
		})
	}
}

// TestStory4WhoServedThis: on demand in the response, and always in the log.
func TestStory4WhoServedThis(t *testing.T) {
	st := startStack(t, stackConfig{Inner: passes})
	c := st.Client(t)
	require.Empty(t, get(t, c, st.URL+"/").Header.Get("Served-By"), "nobody asked")
	var by []string
	for range 3 {
		st.Clear()
		// A token that the store does not have is worth a log line.
		stranger := get(t, st.Client(t), st.URL+"/", "Debug-Served-By", "1", "Cookie", "session="+sessions.NewToken())
		who := stranger.Header.Get("Served-By")
		require.Equal(t, stranger.Page.ServedBy, who)
		lines := st.LogLines("outcome=unknown")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "instance="+who+" ")
		for _, e := range st.Events() {
			require.Equal(t, who, e.Instance)
		}
		by = append(by, who)
	}
	slices.Sort(by)
	require.Equal(t, []string{"app-1", "app-2", "app-3"}, by)
}

// cookieStore configures every instance with the same sealed cookies.
func cookieStore(t testing.TB) func(*sessions.Config) {
	t.Helper()
	codec, err := sessions.NewSecureCookieCodec([]byte("a secret of the tests: 32 bytes!"))
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return func(c *sessions.Config) { c.Store = store }
}

// TestSealedCookieAndProxyBuffer: a sealed cookie below the 4096 bytes of browsers, with the other headers, does not fit
// the 4k in which nginx reads the headers of a response by default. The client gets 502, and only nginx's log says why.
func TestSealedCookieAndProxyBuffer(t *testing.T) {
	for _, c := range []struct {
		name, more string
		status     int
	}{
		{"nginx's default", "proxy_buffer_size 4k; proxy_buffers 8 4k;", http.StatusBadGateway},
		{"8k", "proxy_buffer_size 8k; proxy_buffers 8 8k;", http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := startStack(t, stackConfig{Inner: passes, Config: cookieStore(t), Outer: c.more})
			a := get(t, st.Client(t), st.URL+"/big?bytes=2100")
			require.Equal(t, c.status, a.StatusCode)
			require.Equal(t, []string{"load:none", "commit:created"}, st.outcomes(), "the app has done its part")
			if c.status == http.StatusOK {
				require.Greater(t, len(a.SetCookies()[0]), 3800)
			}
		})
	}
}

// TestP05SealedCookieTooLarge: over 4096 bytes the client gets an error and no cookie; its session stays what it was.
func TestP05SealedCookieTooLarge(t *testing.T) {
	st := startStack(t, stackConfig{Inner: passes, Config: cookieStore(t)})
	c := st.Client(t)
	first := get(t, c, st.URL+"/")
	st.Clear()
	a := get(t, c, st.URL+"/big")
	require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	require.Empty(t, a.SetCookies())
	require.Contains(t, st.outcomes(), "commit:too_large")
	lines := st.LogLines("outcome=too_large")
	require.Len(t, lines, 1)
	require.Regexp(t, `the cookie's name and value are \d{4} bytes; browsers accept 4096`, lines[0])
	after := get(t, c, st.URL+"/")
	require.Equal(t, first.Page.Session, after.Page.Session)
	require.Equal(t, 2, after.Page.Count)
}
