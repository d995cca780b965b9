package sessions_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

// exampleClient is a browser: it keeps the cookies that a handler sends.
type exampleClient struct {
	handler http.Handler
	cookies map[string]string
}

func (c *exampleClient) get(path string) *http.Response {
	r := httptest.NewRequest("GET", path, nil)
	for name, value := range c.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	for _, set := range w.Result().Cookies() {
		if c.cookies == nil {
			c.cookies = map[string]string{}
		}
		c.cookies[set.Name] = set.Value
		if set.MaxAge < 0 {
			delete(c.cookies, set.Name)
		}
	}
	return w.Result()
}

// show makes a request and prints the response.
func (c *exampleClient) show(path string) {
	body, _ := io.ReadAll(c.get(path).Body)
	fmt.Printf("%s", body)
}

func exampleManager(store sessions.Store) *sessions.Manager {
	mgr, err := sessions.New(sessions.Config{Store: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	return mgr
}

// exampleSession runs handlers with a session, one after the other, for the same client.
func exampleSession(steps ...func(sessions.Session)) {
	mgr := exampleManager(sessiontest.NewMemoryStore())
	c := exampleClient{}
	for _, step := range steps {
		c.handler = mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			if err != nil {
				log.Fatal(err)
			}
			step(s)
		}))
		c.get("/")
	}
}

func exampleRedis() redis.UniversalClient {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	return redis.NewClient(&redis.Options{Addr: server.Addr()})
}

// New reports every mistake at once.
func ExampleNew() {
	_, err := sessions.New(sessions.Config{
		Store:       sessiontest.NewMemoryStore(),
		Cookie:      sessions.Cookie{Name: "__Host-shop", Path: "/shop"},
		IdleTimeout: -time.Minute,
	})
	fmt.Println(err)
	var first *sessions.ConfigError
	fmt.Println(errors.As(err, &first), first.Field)
	// Output:
	// sessions: Cookie.Path: must be "/" for a __Host- cookie: leave it empty, or use the prefix __Secure-
	// sessions: IdleTimeout: -1m0s is less than a millisecond: use zero for the default, or 1ms or more
	// true Cookie.Path
}

// A server behind a proxy that terminates TLS, with JSON logs.
func ExampleNew_production() {
	store, err := sessions.NewRedisStore(exampleRedis(), sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	_, err = sessions.New(sessions.Config{
		Store:       store,
		Cookie:      sessions.Cookie{Name: "__Host-session"},
		IdleTimeout: 2 * time.Hour,
		Secure:      sessions.SecureAlways,
		Logger:      slog.New(slog.NewJSONHandler(io.Discard, nil)),
	})
	fmt.Println(err)
	// Output: <nil>
}

// On HTTPS, a cookie whose name begins with __Host- is the server's own.
func ExampleCookie() {
	store := sessiontest.NewMemoryStore()
	mgr, err := sessions.New(sessions.Config{
		Store:  store,
		Cookie: sessions.Cookie{Name: "__Host-session"}, // no subdomain, and nobody on plain HTTP, can plant one
		Secure: sessions.SecureAlways,
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		_ = s.Set("seen", true)
	}))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "https://shop.example/", nil))
	cookie := w.Result().Cookies()[0]
	cookie.Value = "..."
	fmt.Println(cookie)
	// Output: __Host-session=...; Path=/; HttpOnly; Secure; SameSite=Lax
}

func ExampleManager_Wrap() {
	mgr := exampleManager(sessiontest.NewMemoryStore())
	visits := sessions.NewKey[int]("visits")

	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "ok") // no session asked for: no read, no cookie
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		n, _ := visits.Update(s, func(n int) int { return n + 1 })
		fmt.Fprintln(w, "visit", n)
	})

	// Limit what clients send, reject cross-origin POSTs, and give the rest their sessions.
	handler := http.MaxBytesHandler(http.NewCrossOriginProtection().Handler(mgr.Wrap(mux)), 1<<20)

	client := exampleClient{handler: handler}
	client.show("/health")
	fmt.Println("cookies:", len(client.cookies))
	client.show("/")
	client.show("/")
	// Output:
	// ok
	// cookies: 0
	// visit 1
	// visit 2
}

func ExampleGet() {
	cart := sessions.NewKey[[]string]("cart")
	handler := func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context()) // reads the store now; later calls are free
		if err != nil {
			// The store could not answer: it is unknown who the client is.
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		items, _ := cart.Update(s, func(c []string) []string { return append(c, r.URL.Query().Get("add")) })
		fmt.Fprintln(w, items) // committed before this first byte
	}
	client := exampleClient{handler: exampleManager(sessiontest.NewMemoryStore()).Wrap(http.HandlerFunc(handler))}
	client.show("/?add=tea")
	client.show("/?add=milk")
	// Output:
	// [tea]
	// [tea milk]
}

// brokenStore is a store that does not answer.
type brokenStore struct{ sessions.Store }

func (brokenStore) Load(context.Context, string, string) (*sessions.Record, error) {
	return nil, errors.New("connection refused")
}

// The most likely mistake is to treat an error from Get as "not logged in". While the store is down, every user would
// be sent to the login page and asked for a password for no reason.
func ExampleGet_incorrect() {
	user := sessions.NewKey[string]("user")

	wrong := func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Redirect(w, r, "/login", http.StatusSeeOther) // wrong: an outage is not a logout
			return
		}
		if _, ok := user.Get(s); !ok {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		}
	}
	right := func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		if _, ok := user.Get(s); !ok {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		}
	}

	mgr := exampleManager(brokenStore{})
	for _, handler := range []http.HandlerFunc{wrong, right} {
		client := exampleClient{handler: mgr.Wrap(handler), cookies: map[string]string{"session": sessions.NewToken()}}
		fmt.Println(client.get("/").Status)
	}
	// Output:
	// 303 See Other
	// 503 Service Unavailable
}

// Two managers around one handler, each with its own cookie: call Get of the one whose session you need.
func ExampleManager_Get() {
	shop, err := sessions.New(sessions.Config{
		Store: sessiontest.NewMemoryStore(), Cookie: sessions.Cookie{Name: "shop"},
	})
	if err != nil {
		log.Fatal(err)
	}
	admin, err := sessions.New(sessions.Config{
		Store: sessiontest.NewMemoryStore(), Cookie: sessions.Cookie{Name: "admin", Path: "/admin"}, IdleTimeout: 10 * time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		a, _ := shop.Get(r.Context())
		b, _ := admin.Get(r.Context())
		inner, _ := sessions.Get(r.Context())
		fmt.Fprintln(w, a == b, inner == b)
	}
	client := exampleClient{handler: shop.Wrap(admin.Wrap(http.HandlerFunc(handler)))}
	client.show("/admin")
	// Output: false true
}

// Passing the session of one handler to code that expects it in a context.
func ExampleNewContext() {
	user := sessions.NewKey[string]("user")
	greet := func(ctx context.Context) {
		s, err := sessions.Get(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		name, _ := user.Get(s)
		fmt.Println("hello,", name)
	}
	exampleSession(func(s sessions.Session) {
		_ = user.Set(s, "Ada")
		greet(sessions.NewContext(context.Background(), s))
	})
	greet(context.Background())
	// Output:
	// hello, Ada
	// sessions: no session in this context: wrap the handler with Manager.Wrap, and pass on the context of its request
}

// Create keys once, as package variables, so that the name and the type of a value are in one place.
func ExampleNewKey() {
	type address struct{ Street, City string }
	home := sessions.NewKey[address]("home")

	exampleSession(func(s sessions.Session) {
		_ = home.Set(s, address{"12 St James's Square", "London"})
	}, func(s sessions.Session) {
		a, ok := home.Get(s)
		fmt.Println(a.City, ok)
	})
	// Output: London true
}

func ExampleKey_Get() {
	size := sessions.NewKey[int]("page_size")
	exampleSession(func(s sessions.Session) {
		n, ok := size.Get(s)
		fmt.Println(n, ok)
		_ = size.Set(s, 0)
		n, ok = size.Get(s)
		fmt.Println(n, ok)
	})
	// Output:
	// 0 false
	// 0 true
}

func ExampleKey_Set() {
	theme := sessions.NewKey[string]("theme")
	callback := sessions.NewKey[func()]("callback")
	exampleSession(func(s sessions.Session) {
		fmt.Println(theme.Set(s, "dark"))
		fmt.Println(callback.Set(s, func() {})) // JSON has no functions
	})
	// Output:
	// <nil>
	// sessions: a value of type func() cannot be encoded as JSON
}

// Get followed by Set loses one of two parallel increments. Update runs its function again on the fresh value.
func ExampleKey_Update() {
	visits := sessions.NewKey[int]("visits")
	count := func(s sessions.Session) {
		n, err := visits.Update(s, func(n int) int { return n + 1 })
		fmt.Println(n, err)
	}
	exampleSession(count, count)
	// Output:
	// 1 <nil>
	// 2 <nil>
}

// A flash message, which is shown on the next page and only there.
func ExampleKey_Take() {
	flash := sessions.NewKey[string]("flash")
	page := func(s sessions.Session) {
		text, ok := flash.Take(s)
		fmt.Printf("%q %v\n", text, ok)
	}
	exampleSession(func(s sessions.Session) { _ = flash.Set(s, "Saved.") }, page, page)
	// Output:
	// "Saved." true
	// "" false
}

var errUsed = errors.New("this login was not begun here, or has ended")

// redeem uses up the state of an OAuth login. If two parallel requests redeem the same state, the second gets errUsed:
// from here, or from the commit, which then calls Config.ErrorHandler.
func redeem(s sessions.Session, state string) error {
	return s.Update("oauth_state", func(old json.RawMessage) (any, error) {
		var want string
		if json.Unmarshal(old, &want) != nil || want == "" || state != want {
			return nil, errUsed
		}
		return "", nil // used
	})
}

// A value that may be used only once, such as the state of an OAuth login, needs an Update that refuses the second
// request. Take would give it to both of two parallel requests.
func ExampleKey_Take_once() {
	exampleSession(func(s sessions.Session) {
		_ = s.Set("oauth_state", "pQ4vR8xT")
	}, func(s sessions.Session) {
		fmt.Println(redeem(s, "guessed"))
		fmt.Println(redeem(s, "pQ4vR8xT"))
	}, func(s sessions.Session) {
		fmt.Println(redeem(s, "pQ4vR8xT"))
	})
	// Output:
	// this login was not begun here, or has ended
	// <nil>
	// this login was not begun here, or has ended
}

func ExampleKey_Delete() {
	coupon := sessions.NewKey[string]("coupon")
	exampleSession(func(s sessions.Session) {
		_ = coupon.Set(s, "SPRING")
	}, func(s sessions.Session) {
		coupon.Delete(s)
		_, ok := coupon.Get(s)
		fmt.Println(ok)
	})
	// Output: false
}

// The ID is for logs and for people. The token, which is the credential, is only in the cookie.
func ExampleSession_iD() {
	mgr := exampleManager(sessiontest.NewMemoryStore())
	client := exampleClient{handler: mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		_ = s.Set("seen", true)
		fmt.Fprint(w, s.ID())
	}))}
	body, _ := io.ReadAll(client.get("/").Body)
	token := client.cookies["session"]
	id, ok := sessions.TokenID(token)
	fmt.Println(string(body) == token, string(body) == id, ok)
	// Output: false true true
}

// Without a [sessions.Key]: any value that JSON can encode, under a name that is known only at run time.
func ExampleSession_set() {
	exampleSession(func(s sessions.Session) {
		if err := s.Set("filter", map[string]any{"colour": "blue", "max": 20}); err != nil {
			fmt.Println(err)
		}
	}, func(s sessions.Session) {
		var filter struct {
			Colour string
			Max    int
		}
		ok, err := s.Get("filter", &filter)
		fmt.Println(filter, ok, err)

		var wrong []string
		ok, err = s.Get("filter", &wrong)
		fmt.Println(ok, err)
	})
	// Output:
	// {blue 20} true <nil>
	// true sessions: a value cannot be decoded into *[]string
}

// A function that can fail, on the stored JSON.
func ExampleSession_update() {
	add := func(s sessions.Session, n int) error {
		return s.Update("quota", func(old json.RawMessage) (any, error) {
			var used int
			if old != nil {
				if err := json.Unmarshal(old, &used); err != nil {
					return nil, err
				}
			}
			if used+n > 10 {
				return nil, errors.New("quota is used up")
			}
			return used + n, nil
		})
	}
	exampleSession(func(s sessions.Session) {
		fmt.Println(add(s, 7))
		fmt.Println(add(s, 7))
	}, func(s sessions.Session) {
		var used int
		_, _ = s.Get("quota", &used)
		fmt.Println(used)
	})
	// Output:
	// <nil>
	// quota is used up
	// 7
}

func ExampleSession_keys() {
	exampleSession(func(s sessions.Session) {
		_ = s.Set("user", 42)
		_ = s.Set("theme", "dark")
		s.Delete("user")
		_ = s.Set("lang", "eo")
		fmt.Println(slices.Sorted(s.Keys()))
	})
	// Output: [lang theme]
}

// Clear empties a session but keeps it; Destroy ends it.
func ExampleSession_clear() {
	var id string
	exampleSession(func(s sessions.Session) {
		id = s.ID()
		_ = s.Set("user", 42)
	}, func(s sessions.Session) {
		s.Clear()
	}, func(s sessions.Session) {
		fmt.Println(s.ID() == id, len(slices.Collect(s.Keys())))
	})
	// Output: true 0
}

// At login the session gets a new token, so that one planted in this browser before is worthless.
func ExampleSession_renew() {
	user := sessions.NewKey[int64]("user")
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		id, ok := user.Get(s)
		fmt.Fprintln(w, id, ok)
	})
	mux.HandleFunc("/cart", func(w http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		_ = s.Set("cart", []string{"tea"})
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		s.Renew()
		_ = user.Set(s, 42)
	})
	client := exampleClient{handler: exampleManager(sessiontest.NewMemoryStore()).Wrap(mux)}
	client.get("/cart")
	planted := client.cookies["session"]
	client.get("/login")
	client.show("/")

	thief := exampleClient{handler: client.handler, cookies: map[string]string{"session": planted}}
	thief.show("/")
	// Output:
	// 42 true
	// 0 false
}

// A logout with a message for the next page: values set after Destroy belong to a new session.
func ExampleSession_destroy() {
	user := sessions.NewKey[string]("user")
	flash := sessions.NewKey[string]("flash")
	exampleSession(func(s sessions.Session) {
		_ = user.Set(s, "Ada")
	}, func(s sessions.Session) {
		s.Destroy()
		_ = flash.Set(s, "Good bye.")
	}, func(s sessions.Session) {
		_, known := user.Get(s)
		text, _ := flash.Get(s)
		fmt.Println(known, text)
	})
	// Output: false Good bye.
}

// "Remember me": this session has an idle timeout of a week, and its cookie outlives the browser. Other sessions keep
// Config.IdleTimeout.
func ExampleSession_setLifetime() {
	exampleSession(func(s sessions.Session) {
		s.SetLifetime(7*24*time.Hour, true)
		_ = s.Set("user", 42)
	}, func(s sessions.Session) {
		days := time.Until(s.ExpiresAt()).Hours() / 24
		fmt.Printf("%.0f days\n", days)
	})
	// Output: 7 days
}

func ExampleSession_isNew() {
	look := func(s sessions.Session) {
		fmt.Println(s.IsNew(), time.Since(s.CreatedAt()) < time.Minute, time.Until(s.ExpiresAt()) > 23*time.Hour)
	}
	exampleSession(look, func(s sessions.Session) {
		_ = s.Set("seen", true)
	}, look)
	// Output:
	// true true true
	// false true true
}

// A sealed cookie needs only a secret on the server.
func ExampleNewCookieStore() {
	secret, err := base64.StdEncoding.DecodeString("CJIbeVXC8n0D4NJGXhpGk1q8dXJTe2iDbRKwM8fuT6w=") // from your configuration
	if err != nil {
		log.Fatal(err)
	}
	codec, err := sessions.NewSecureCookieCodec(secret)
	if err != nil {
		log.Fatal(err)
	}
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	if err != nil {
		log.Fatal(err)
	}
	mgr, err := sessions.New(sessions.Config{Store: store})
	fmt.Println(mgr != nil, err)
	// Output: true <nil>
}

func ExampleNewRedisStore() {
	rdb := exampleRedis() // redis.NewClient, NewClusterClient, NewFailoverClient, ...
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{
		TTL:    14 * 24 * time.Hour,
		Prefix: "shop:session:",
	})
	if err != nil {
		log.Fatal(err)
	}
	client := exampleClient{handler: exampleManager(store).Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		_ = s.Set("user", 42)
	}))}
	client.get("/")

	id, _ := sessions.TokenID(client.cookies["session"])
	ctx := context.Background()
	ttl := rdb.PTTL(ctx, "shop:session:"+id).Val()
	value := rdb.Get(ctx, "shop:session:"+id).Val()
	fmt.Println("has a TTL:", ttl > 0 && ttl <= 24*time.Hour)
	fmt.Println("is JSON:", json.Valid([]byte(value)))

	_, err = sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{})
	fmt.Println(err)
	// Output:
	// has a TTL: true
	// is JSON: true
	// sessions: TTL: required, because every key has a TTL: try 14 * 24 * time.Hour
}

// With its defaults, go-redis waits seconds for a server that is down. A web page cannot.
func ExampleNewRedisStore_production() {
	rdb := redis.NewClient(&redis.Options{
		Addr:                  "redis.internal:6379",
		ContextTimeoutEnabled: true, // off by default: go-redis ignores the deadline of a context
		DialTimeout:           500 * time.Millisecond,
		ReadTimeout:           300 * time.Millisecond,
		WriteTimeout:          300 * time.Millisecond,
		DialerRetries:         1,
		MaxRetries:            1,
	})
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	fmt.Println(store != nil, err)
	// Output: true <nil>
}

// At start and for a health page, check whether this Redis is fit for sessions.
func ExampleRedisStore_Check() {
	store, err := sessions.NewRedisStore(exampleRedis(), sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	health, err := store.Check(ctx)
	if err != nil {
		log.Fatal(err) // Redis does not answer
	}
	if health.PolicyVerdict == "wrong" || len(health.Warnings) > 0 {
		log.Print(health)
	}
	fmt.Println("keys without a TTL:", health.KeysWithoutTTL)
	// Output: keys without a TTL: 0
}

// Another program has written keys that would stay forever: Audit finds them, and Repair gives them a TTL.
func ExampleRedisStore_Audit() {
	rdb := exampleRedis()
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	_ = rdb.Set(ctx, "session:by-another-program", "", 0).Err() // 0 is no TTL

	found, err := store.Audit(ctx)
	fmt.Println(found.KeysWithoutTTL, found.Foreign, err)
	repaired, err := store.Repair(ctx)
	fmt.Println(repaired.Repaired, err)
	// Output:
	// 1 1 <nil>
	// 1 <nil>
}

// Behind a proxy that terminates TLS, ProxyHeader and TrustedProxies decide when a forwarded scheme is trusted.
func ExampleConfig_behindProxies() {
	store := sessiontest.NewMemoryStore()
	mgr, err := sessions.New(sessions.Config{
		Store:          store,
		ProxyHeader:    "X-Forwarded-Proto",
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		_ = s.Set("seen", true)
	}))
	for _, peer := range []string{"10.20.0.9:50123", "203.0.113.8:50123"} {
		r := httptest.NewRequest("GET", "http://shop.example/", nil)
		r.RemoteAddr = peer
		r.Header.Set("X-Forwarded-Proto", "https")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Result().Cookies()[0].Secure)
	}
	// Output:
	// true
	// false
}

// A rolling deploy changes a secret in two deploys: (old, new) everywhere, then (new, old). At every moment, each
// instance opens what any other one seals.
func ExampleNewSecureCookieCodec() {
	old := []byte("CJIbeVXC8n0D4NJGXhpGk1q8dXJTe2iDbRKwM8fuT6w=")   // from your configuration
	fresh := []byte("mT1v8Jr0aYw4cKQx6LhZ2oUe9NfBs7DgVtXpRiEk3WA=") // made by: openssl rand -base64 32
	before, err := sessions.NewSecureCookieCodec(old)
	if err != nil {
		log.Fatal(err)
	}
	first, _ := sessions.NewSecureCookieCodec(old, fresh)
	second, _ := sessions.NewSecureCookieCodec(fresh, old)

	open := func(when string, codec sessions.Codec, sealed string) {
		plain, err := codec.Open("session", sealed)
		fmt.Printf("%s: %q %v\n", when, plain, err)
	}
	sealed, _ := first.Seal("session", []byte("data"))
	open("during the first deploy", before, sealed)
	sealed, _ = second.Seal("session", []byte("data"))
	open("during the second deploy", first, sealed)
	open("in one deploy", before, sealed)

	_, err = sessions.NewSecureCookieCodec([]byte("hunter2"))
	fmt.Println(err)
	// Output:
	// during the first deploy: "data" <nil>
	// during the second deploy: "data" <nil>
	// in one deploy: "" sessions: the seal does not verify
	// sessions: secrets[0]: 7 bytes are too short: use 32 or more from a random source; make one with: openssl rand -base64 32
}

func ExampleNewAEADCodec() {
	secret := []byte("CJIbeVXC8n0D4NJGXhpGk1q8dXJTe2iDbRKwM8fuT6w=") // from your configuration
	before, err := sessions.NewSecureCookieCodec(secret)
	if err != nil {
		log.Fatal(err)
	}
	after, err := sessions.NewAEADCodec(secret)
	if err != nil {
		log.Fatal(err)
	}
	during := sessions.Codecs(after, before)

	sealed, _ := before.Seal("session", []byte("data"))
	plain, err := during.Open("session", sealed)
	fmt.Println(string(plain), err)

	shorter, _ := during.Seal("session", []byte("data"))
	plain, err = after.Open("session", shorter)
	fmt.Println(string(plain), err, len(shorter) < len(sealed))
	// Output:
	// data <nil>
	// data <nil> true
}

// plainCodec shows the shape of a Codec. It neither encrypts nor authenticates.
type plainCodec struct{}

func (plainCodec) Seal(name string, plain []byte) (string, error) {
	return base64.RawURLEncoding.EncodeToString(append([]byte(name+"\n"), plain...)), nil
}

func (plainCodec) Open(name, sealed string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(sealed)
	plain, ok := bytes.CutPrefix(b, []byte(name+"\n"))
	if err != nil || !ok {
		return nil, errors.New("not ours")
	}
	return plain, nil
}

// Changing codecs without logging anyone out, in two deploys: the first codec seals, and all of them open. This is the
// second deploy. The first is Codecs(old, fresh), on every instance.
func ExampleCodecs() {
	var old sessions.Codec = plainCodec{}
	fresh, err := sessions.NewSecureCookieCodec([]byte("CJIbeVXC8n0D4NJGXhpGk1q8dXJTe2iDbRKwM8fuT6w=")) // from your configuration
	if err != nil {
		log.Fatal(err)
	}
	both := sessions.Codecs(fresh, old)

	sealed, _ := old.Seal("session", []byte("data"))
	plain, err := both.Open("session", sealed)
	fmt.Println(string(plain), err)

	sealed, _ = both.Seal("session", []byte("data"))
	_, err = old.Open("session", sealed)
	fmt.Println(err)
	// Output:
	// data <nil>
	// not ours
}

// Count why sessions come up empty.
func ExampleConfig_observe() {
	counts := map[sessions.Outcome]int{} // use a metric that is safe for concurrent use
	mgr, err := sessions.New(sessions.Config{
		Store:  sessiontest.NewMemoryStore(),
		Logger: slog.New(slog.DiscardHandler),
		Observe: func(_ context.Context, e sessions.Event) {
			if e.Kind == sessions.EventLoad || e.Kind == sessions.EventReject {
				counts[e.Outcome]++
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	handler := mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = sessions.Get(r.Context())
	}))
	for _, cookie := range []string{sessions.NewToken(), "<script>"} {
		client := exampleClient{handler: handler, cookies: map[string]string{"session": cookie}}
		client.get("/")
	}
	fmt.Println(counts[sessions.OutcomeUnknown], counts[sessions.OutcomeMalformed])
	// Output: 1 1
}

// slowStore wraps another Store. Use such a wrapper to measure, to log or to fail on purpose.
type slowStore struct {
	sessions.Store
	loads int
}

func (s *slowStore) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	s.loads++
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	return s.Store.Load(ctx, name, token)
}

func ExampleStore() {
	store := &slowStore{Store: sessiontest.NewMemoryStore()}
	client := exampleClient{handler: exampleManager(store).Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			s, _ := sessions.Get(r.Context())
			_ = s.Set("seen", true)
		}
	}))}
	client.get("/") // no cookie: nothing to load
	client.get("/")
	fmt.Println(store.loads)
	// Output: 1
}

// Respond in your own words when a session could not be written.
func ExampleConfig_errorHandler() {
	store := sessiontest.NewMemoryStore()
	mgr, err := sessions.New(sessions.Config{
		Store:  store,
		Logger: slog.New(slog.DiscardHandler),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, sessions.ErrGone) {
				http.Error(w, "You have logged out in another tab.", http.StatusConflict)
				return
			}
			http.Error(w, "We cannot save right now.", http.StatusServiceUnavailable)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	var client exampleClient
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		_ = s.Set("page", r.URL.Path)
		if r.URL.Path == "/slow" {
			other := exampleClient{handler: client.handler, cookies: maps.Clone(client.cookies)}
			other.get("/logout") // meanwhile, in another tab
		}
		fmt.Fprintln(w, "saved")
	})
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		s, _ := sessions.Get(r.Context())
		s.Destroy()
	})
	client.handler = mgr.Wrap(mux)
	client.show("/")
	client.show("/slow")
	// Output:
	// saved
	// You have logged out in another tab.
}
