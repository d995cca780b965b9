package sessions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// configFields returns the field of each mistake in a joined error, each of which must be a ConfigError.
func configFields(t *testing.T, err error) (fields []string) {
	t.Helper()
	require.Error(t, err)
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "not a join of errors: %v", err)
	for _, e := range joined.Unwrap() {
		var bad *sessions.ConfigError
		require.True(t, errors.As(e, &bad), "not a ConfigError: %v", e)
		require.NotEmpty(t, bad.Reason)
		require.Equal(t, "sessions: "+bad.Field+": "+bad.Reason, e.Error())
		fields = append(fields, bad.Field)
	}
	var first *sessions.ConfigError
	require.True(t, errors.As(err, &first))
	return fields
}

func TestP16_ConfigFields(t *testing.T) {
	store := sessiontest.NewMemoryStore()
	const tooLong = time.Duration(1<<63 - 1)
	for _, c := range []struct {
		name   string
		cfg    sessions.Config
		fields []string // none: it is right
	}{
		{"the zero value with a store", sessions.Config{}, nil},
		{"everything", sessions.Config{
			Cookie:      sessions.Cookie{Name: "__Secure-sid", Path: "/app", Domain: "example.test", SameSite: http.SameSiteNoneMode, Partitioned: true},
			IdleTimeout: time.Millisecond, AbsoluteTimeout: tooLong, CommitTimeout: time.Second, Secure: sessions.SecureAlways,
			ProxyHeader: "forwarded", TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::/0")}, Logger: slog.Default(),
		}, nil},
		{"idle over absolute is cut", sessions.Config{IdleTimeout: 48 * time.Hour, AbsoluteTimeout: time.Hour}, nil},
		{"default SameSite", sessions.Config{Cookie: sessions.Cookie{SameSite: http.SameSiteDefaultMode}}, nil},
		{"strict", sessions.Config{Cookie: sessions.Cookie{SameSite: http.SameSiteStrictMode}}, nil},
		{"host prefix", sessions.Config{Cookie: sessions.Cookie{Name: "__Host-session"}}, nil},
		{"no proxies", sessions.Config{TrustedProxies: []netip.Prefix{}}, nil},

		{"idle negative", sessions.Config{IdleTimeout: -1}, []string{"IdleTimeout"}},
		{"idle below a millisecond", sessions.Config{IdleTimeout: time.Microsecond}, []string{"IdleTimeout"}},
		{"absolute negative", sessions.Config{AbsoluteTimeout: -time.Hour}, []string{"AbsoluteTimeout"}},
		{"absolute below a millisecond", sessions.Config{AbsoluteTimeout: 1}, []string{"AbsoluteTimeout"}},
		{"commit negative", sessions.Config{CommitTimeout: -time.Second}, []string{"CommitTimeout"}},
		{"mode", sessions.Config{Secure: 3}, []string{"Secure"}},
		{"mode negative", sessions.Config{Secure: -1}, []string{"Secure"}},
		{"two headers", sessions.Config{ProxyHeader: "X-Forwarded-Proto, Forwarded"}, []string{"ProxyHeader"}},
		{"header with a colon", sessions.Config{ProxyHeader: "X-Forwarded-Proto:"}, []string{"ProxyHeader"}},
		{"header with a line break", sessions.Config{ProxyHeader: "X\r\nY"}, []string{"ProxyHeader"}},
		{"zero prefix", sessions.Config{TrustedProxies: []netip.Prefix{{}}}, []string{"TrustedProxies"}},
		{"each zero prefix", sessions.Config{TrustedProxies: []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8"), {}}}, []string{"TrustedProxies", "TrustedProxies"}},
		{"mapped prefix", sessions.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}, []string{"TrustedProxies"}},

		{"name with a space", sessions.Config{Cookie: sessions.Cookie{Name: "my session"}}, []string{"Cookie.Name"}},
		{"name with =", sessions.Config{Cookie: sessions.Cookie{Name: "a=b"}}, []string{"Cookie.Name"}},
		{"name with ;", sessions.Config{Cookie: sessions.Cookie{Name: "a;b"}}, []string{"Cookie.Name"}},
		{"name with CR LF", sessions.Config{Cookie: sessions.Cookie{Name: "a\r\nb"}}, []string{"Cookie.Name"}},
		{"name outside ASCII", sessions.Config{Cookie: sessions.Cookie{Name: "sitzüng"}}, []string{"Cookie.Name"}},
		{"name too long", sessions.Config{Cookie: sessions.Cookie{Name: strings.Repeat("a", 5000)}}, []string{"Cookie.Name"}},
		{"relative path", sessions.Config{Cookie: sessions.Cookie{Path: "app"}}, []string{"Cookie.Path"}},
		{"path with ;", sessions.Config{Cookie: sessions.Cookie{Path: "/a; Domain=evil.test"}}, []string{"Cookie.Path"}},
		{"path with CR LF", sessions.Config{Cookie: sessions.Cookie{Path: "/a\r\nSet-Cookie: x=y"}}, []string{"Cookie.Path"}},
		{"path outside ASCII", sessions.Config{Cookie: sessions.Cookie{Path: "/ä"}}, []string{"Cookie.Path"}},
		{"path too long", sessions.Config{Cookie: sessions.Cookie{Path: "/" + strings.Repeat("a", 1024)}}, []string{"Cookie.Path"}},
		{"domain with CR LF", sessions.Config{Cookie: sessions.Cookie{Domain: "a.test\r\nX: y"}}, []string{"Cookie.Domain"}},
		{"domain with ;", sessions.Config{Cookie: sessions.Cookie{Domain: "a.test; Secure"}}, []string{"Cookie.Domain"}},
		{"domain with a port", sessions.Config{Cookie: sessions.Cookie{Domain: "a.test:8080"}}, []string{"Cookie.Domain"}},
		{"domain is a URL", sessions.Config{Cookie: sessions.Cookie{Domain: "https://a.test"}}, []string{"Cookie.Domain"}},
		{"domain is an address", sessions.Config{Cookie: sessions.Cookie{Domain: "127.0.0.1"}}, []string{"Cookie.Domain"}},
		{"domain is an IPv6 address", sessions.Config{Cookie: sessions.Cookie{Domain: "::1"}}, []string{"Cookie.Domain"}},
		{"domain is a dot", sessions.Config{Cookie: sessions.Cookie{Domain: "."}}, []string{"Cookie.Domain"}},
		{"domain with an empty label", sessions.Config{Cookie: sessions.Cookie{Domain: "a..test"}}, []string{"Cookie.Domain"}},
		{"domain too long", sessions.Config{Cookie: sessions.Cookie{Domain: strings.Repeat("a.", 200) + "test"}}, []string{"Cookie.Domain"}},
		{"SameSite", sessions.Config{Cookie: sessions.Cookie{SameSite: 9}}, []string{"Cookie.SameSite"}},
		{"host prefix with a domain", sessions.Config{Cookie: sessions.Cookie{Name: "__Host-s", Domain: "a.test"}}, []string{"Cookie.Domain"}},
		{"host prefix with a path", sessions.Config{Cookie: sessions.Cookie{Name: "__Host-s", Path: "/app"}}, []string{"Cookie.Path"}},
		{"host prefix in other letters", sessions.Config{Cookie: sessions.Cookie{Name: "__hOST-s", Path: "/app"}}, []string{"Cookie.Path"}},
		{"host prefix, never Secure", sessions.Config{Secure: sessions.DangerouslyNeverSecure, Cookie: sessions.Cookie{Name: "__Host-s"}}, []string{"Cookie.Name"}},
		{"secure prefix, never Secure", sessions.Config{Secure: sessions.DangerouslyNeverSecure, Cookie: sessions.Cookie{Name: "__secure-s"}}, []string{"Cookie.Name"}},
		{"None, never Secure", sessions.Config{Secure: sessions.DangerouslyNeverSecure, Cookie: sessions.Cookie{SameSite: http.SameSiteNoneMode}}, []string{"Cookie.SameSite"}},
		{"Partitioned, never Secure", sessions.Config{Secure: sessions.DangerouslyNeverSecure, Cookie: sessions.Cookie{Partitioned: true}}, []string{"Cookie.Partitioned"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Store = store
			mgr, err := sessions.New(c.cfg)
			if c.fields == nil {
				require.NoError(t, err)
				require.NotNil(t, mgr)
				return
			}
			require.Nil(t, mgr)
			require.Equal(t, c.fields, configFields(t, err))
			require.Equal(t, len(c.fields)-1, strings.Count(err.Error(), "\n"), "one line for each mistake")
		})
	}
}

func TestP16_AllMistakesAtOnce(t *testing.T) {
	_, err := sessions.New(sessions.Config{
		Cookie:      sessions.Cookie{Name: "__Host-a b", Path: "x;", Domain: "a b", SameSite: 7, Partitioned: true},
		IdleTimeout: -1, AbsoluteTimeout: -1, CommitTimeout: -1, Secure: 9, ProxyHeader: "a b", TrustedProxies: []netip.Prefix{{}},
	})
	fields := configFields(t, err)
	for _, field := range []string{"Store", "Cookie.Name", "Cookie.Path", "Cookie.Domain", "Cookie.SameSite", "IdleTimeout",
		"AbsoluteTimeout", "CommitTimeout", "Secure", "ProxyHeader", "TrustedProxies"} {
		require.Contains(t, fields, field)
	}
}

func TestP16_NilStores(t *testing.T) {
	for name, store := range map[string]sessions.Store{
		"nil":             nil,
		"nil cookie":      (*sessions.CookieStore)(nil),
		"nil redis":       (*sessions.RedisStore)(nil),
		"nil memory":      (*sessiontest.MemoryStore)(nil),
		"of another kind": nilFuncStore(nil),
	} {
		_, err := sessions.New(sessions.Config{Store: store})
		require.Equal(t, []string{"Store"}, configFields(t, err), name)
	}
}

// nilFuncStore is a store that is a function.
type nilFuncStore func() sessions.Store

func (f nilFuncStore) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	return f().Load(ctx, name, token)
}
func (f nilFuncStore) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	return f().Save(ctx, name, rec, base)
}
func (f nilFuncStore) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	return f().Touch(ctx, name, rec)
}
func (f nilFuncStore) Delete(ctx context.Context, name string, rec *sessions.Record) error {
	return f().Delete(ctx, name, rec)
}

func TestP16_SecretsAreInNoError(t *testing.T) {
	for _, secrets := range [][][]byte{
		{[]byte("hunter2")},
		{secretA, secretA},
		{secretA, []byte("hunter2"), secretB, secretB, []byte("hunter2")},
	} {
		_, err := sessions.NewSecureCookieCodec(secrets...)
		require.Error(t, err)
		configFields(t, err)
		for _, secret := range secrets {
			require.NotContains(t, err.Error(), string(secret))
			require.False(t, bytes.Contains([]byte(err.Error()), secret[:6]))
		}
	}
}

// A configuration is copied: what the caller does with it later changes nothing.
func TestP16_ConfigIsCopied(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	secret := bytes.Clone(secretA)
	store := cookieStoreWith(t, secret)
	site := newSite(t, store, func(c *sessions.Config) { c.TrustedProxies = proxies })
	proxies[0] = netip.MustParsePrefix("203.0.113.0/24")
	clear(secret)
	b := site.browser()
	b.peer = "203.0.113.1:1"
	b.header.Set("X-Forwarded-Proto", "https")
	require.False(t, b.set("user", 42).setCookie("session").Secure)
	require.Equal(t, "42", newSite(t, cookieStoreWith(t, secretA)).browser().hold(b.cookie()).get("user"))
}

// The idle timeout never goes past what the store keeps.
func TestP16_IdleIsCut(t *testing.T) {
	for _, c := range []struct{ idle, absolute, ttl, want time.Duration }{
		{0, 0, 365 * 24 * time.Hour, 24 * time.Hour},
		{0, time.Hour, 365 * 24 * time.Hour, time.Hour},
		{48 * time.Hour, 0, time.Hour, time.Hour},
		{48 * time.Hour, 36 * time.Hour, 1<<63 - 1, 36 * time.Hour},
	} {
		rdb := miniClient(t)
		store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: c.ttl})
		require.NoError(t, err)
		b := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.AbsoluteTimeout = c.idle, c.absolute }).browser()
		b.set("user", 42)
		b.use(func(s sessions.Session) {
			require.InDelta(t, c.want, time.Until(s.ExpiresAt()), float64(10*time.Second))
			s.SetLifetime(1<<63-1, true)
			require.LessOrEqual(t, time.Until(s.ExpiresAt()), min(c.ttl, 14*24*time.Hour))
		})
	}
}

func TestSecureModeText(t *testing.T) {
	for mode, name := range map[sessions.SecureMode]string{
		sessions.SecureAuto: "SecureAuto", sessions.SecureAlways: "SecureAlways", sessions.DangerouslyNeverSecure: "DangerouslyNeverSecure",
	} {
		require.Equal(t, name, mode.String())
		text, err := json.Marshal(mode)
		require.NoError(t, err)
		require.Equal(t, `"`+name+`"`, string(text))
		back := sessions.SecureMode(7)
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, mode, back)
	}
	require.Equal(t, "SecureMode(7)", sessions.SecureMode(7).String())

	const use = "use SecureAuto, SecureAlways or DangerouslyNeverSecure"
	for _, text := range []string{"", "secureauto", "Secure", "0", "SecureMode(7)"} {
		mode := sessions.SecureAlways
		err := mode.UnmarshalText([]byte(text))
		var mistake *sessions.ConfigError
		require.ErrorAs(t, err, &mistake)
		require.Equal(t, "Secure", mistake.Field)
		require.EqualError(t, err, "sessions: Secure: unknown mode "+strconv.Quote(text)+": "+use)
		require.Equal(t, sessions.SecureAlways, mode, "what cannot be read changes nothing")
	}
	_, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Secure: 7})
	require.EqualError(t, err, "sessions: Secure: unknown mode 7: "+use)
}

// CommitTimeout bounds a commit through a client that obeys contexts. An AutoPipeline sends batches on a context of its
// own, and Get is bounded by the client's timeouts alone: both as documented at CommitTimeout.
func TestCommitTimeout_WhatItBounds(t *testing.T) {
	t.Parallel()
	const readTimeout = time.Second
	server := redistest.Start(t)
	for name, c := range map[string]struct {
		auto, get, bounded bool
	}{
		"commit":                 {bounded: true},
		"commit by AutoPipeline": {auto: true},
		"Get":                    {get: true},
		"Get by AutoPipeline":    {auto: true, get: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := server.Proxy(t)
			client := redis.NewClient(&redis.Options{Addr: proxy.Addr, ContextTimeoutEnabled: true, ReadTimeout: readTimeout, MaxRetries: -1})
			t.Cleanup(func() { _ = client.Close() })
			var rdb redis.Cmdable = client
			if c.auto {
				auto, err := client.AutoPipeline()
				require.NoError(t, err)
				t.Cleanup(func() { _ = auto.Close() })
				rdb = auto
			}
			store := redisStoreOver(t, rdb)
			patient := newSite(t, store).browser()
			patient.set("user", 42)
			b := newSite(t, store, func(cfg *sessions.Config) { cfg.CommitTimeout = 20 * time.Millisecond }).browser().hold(patient.cookie())
			silent := make(chan struct{})
			proxy.SetFault(func(args []string) redistest.Fault {
				if c.get || args[0] != "GET" {
					<-silent
				}
				return redistest.Pass
			})
			began := time.Now()
			r := b.try(func(s sessions.Session) { _ = s.Set("user", 43) })
			took := time.Since(began)
			close(silent)
			require.NoError(t, r.err)
			require.Equal(t, http.StatusServiceUnavailable, r.status)
			require.Equal(t, c.bounded, took < readTimeout, took)
		})
	}
}
