package relay_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

func TestP16_AllMistakesAtOnce(t *testing.T) {
	twice := signingKey(t, "k1", edKey(2)).Public()
	_, err := relay.NewIssuer(relay.IssuerConfig{
		Lifetime: time.Hour, MaxSize: -1, Header: "a b", Hosts: []string{"http://a", "ok", ""}, Published: []relay.PublicKey{twice, twice},
	})
	require.ElementsMatch(t, []string{"Issuer", "TrustDomain", "Key", "Published", "Lifetime", "MaxSize", "Header", "Hosts", "Hosts"}, mistakes(t, err))
	_, err = relay.NewVerifier(relay.VerifierConfig{Algorithm: "HS256", MaxSize: -1, Header: "Cookie", Hosts: []string{"*.internal"}})
	require.ElementsMatch(t, []string{"Issuer", "TrustDomain", "Keys", "Algorithm", "MaxSize", "Header", "Hosts"}, mistakes(t, err))
	_, err = relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: "edge.internal/keys", Refresh: -1, Retry: -1, Keep: -2})
	require.ElementsMatch(t, []string{"URL", "Refresh", "Retry", "Keep", "Keep"}, mistakes(t, err))
}

func TestP16_EachMistake(t *testing.T) {
	key := signingKey(t, "k1", edKey(1))
	issuer := func(edit func(*relay.IssuerConfig)) error {
		cfg := relay.IssuerConfig{Issuer: issuerName, TrustDomain: trustDomain, Key: key, Hosts: []string{"a"}}
		if edit != nil {
			edit(&cfg)
		}
		_, err := relay.NewIssuer(cfg)
		return err
	}
	verifier := func(edit func(*relay.VerifierConfig)) error {
		cfg := relay.VerifierConfig{Issuer: issuerName, TrustDomain: trustDomain, Keys: keySet(t, key.Public())}
		if edit != nil {
			edit(&cfg)
		}
		_, err := relay.NewVerifier(cfg)
		return err
	}
	remote := func(edit func(*relay.RemoteKeySetConfig)) error {
		cfg := relay.RemoteKeySetConfig{URL: "https://edge.internal/keys"}
		if edit != nil {
			edit(&cfg)
		}
		_, err := relay.NewRemoteKeySet(cfg)
		return err
	}
	require.NoError(t, issuer(nil))
	require.NoError(t, verifier(nil))
	require.NoError(t, remote(nil))

	for _, ok := range []time.Duration{0, 2 * time.Second, relay.MaxLifetime} {
		require.NoError(t, issuer(func(c *relay.IssuerConfig) { c.Lifetime = ok }))
	}
	for _, bad := range []time.Duration{-time.Second, 1, 2*time.Second - 1, relay.MaxLifetime + 1} {
		require.Equal(t, []string{"Lifetime"}, mistakes(t, issuer(func(c *relay.IssuerConfig) { c.Lifetime = bad })), bad)
	}
	require.Equal(t, []string{"Hosts"}, mistakes(t, issuer(func(c *relay.IssuerConfig) { c.Hosts = nil })))
	require.Equal(t, []string{"Key"}, mistakes(t, issuer(func(c *relay.IssuerConfig) { c.Key = relay.SigningKey{} })))
	require.Equal(t, []string{"Published"}, mistakes(t, issuer(func(c *relay.IssuerConfig) { c.Published = []relay.PublicKey{{}} })))
	require.Equal(t, []string{"Published"}, mistakes(t, issuer(func(c *relay.IssuerConfig) { c.Published = []relay.PublicKey{key.Public()} })))

	for name, ok := range map[string]bool{
		"": true, "Txn-Token": true, "x-session": true, "X1": true,
		"a b": false, "a_b": false, "a:": false, "ä": false, "a\r\nb": false, " a": false,
		"Authorization": false, "authorization": false, "proxy-authorization": false, "cookie": false, "Set-Cookie": false, "host": false,
		"Connection": false, "Keep-Alive": false, "TE": false, "Trailer": false, "Upgrade": false, "Content-Length": false, "Transfer-Encoding": false, "Expect": false,
	} {
		errs := []error{issuer(func(c *relay.IssuerConfig) { c.Header = name }), verifier(func(c *relay.VerifierConfig) { c.Header = name })}
		for _, err := range errs {
			if ok {
				require.NoError(t, err, name)
			} else {
				require.Equal(t, []string{"Header"}, mistakes(t, err), name)
			}
		}
	}

	var none *relay.RemoteKeySet // of a constructor whose error was not looked at
	for _, keys := range []relay.KeySet{nil, none, keyFunc(nil)} {
		require.Equal(t, []string{"Keys"}, mistakes(t, verifier(func(c *relay.VerifierConfig) { c.Keys = keys })))
	}
	for _, a := range []relay.Algorithm{"none", "HS256", "RS256", "eddsa", "ES384"} {
		require.Equal(t, []string{"Algorithm"}, mistakes(t, verifier(func(c *relay.VerifierConfig) { c.Algorithm = a })))
	}
	for _, bad := range []string{"", "edge.internal", "/keys", "ftp://edge.internal", "file:///keys", "https://", "https://user:password@edge.internal", "https://edge.internal\n", ":"} {
		err := remote(func(c *relay.RemoteKeySetConfig) { c.URL = bad })
		require.Equal(t, []string{"URL"}, mistakes(t, err), bad)
		require.NotContains(t, err.Error(), "user:password")
	}
	require.Equal(t, []string{"Keep"}, mistakes(t, remote(func(c *relay.RemoteKeySetConfig) { c.Keep = time.Minute })))
}

func TestConfig_IsCopied(t *testing.T) {
	hosts, share := []string{"orders.internal"}, relay.Share(userID)
	published := []relay.PublicKey{signingKey(t, "k0", edKey(3)).Public()}
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Hosts, c.Share, c.Published = hosts, share, published })
	hosts[0], share[0], published[0] = "evil.example", noteKey, relay.PublicKey{}
	e.login()
	require.Equal(t, map[string]any{"user_id": claimsOf(t, e.token())["tctx"].(map[string]any)["user_id"]}, claimsOf(t, e.token())["tctx"])
	_, err := e.issuer.Transport(nil).RoundTrip(mustRequest(t, "http://orders.internal"))
	require.ErrorIs(t, err, relay.ErrNotWrapped, "still listed")
}

func mustRequest(t *testing.T, address string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	require.NoError(t, err)
	return req
}

func TestWrap_PanicsForNil(t *testing.T) {
	e, s := newEdge(t, newMemory()), newService(t)
	for _, wrap := range []func(http.Handler) http.Handler{e.issuer.Wrap, s.verifier.Wrap} {
		require.Panics(t, func() { wrap(nil) })
		require.Panics(t, func() { wrap(http.HandlerFunc(nil)) })
		require.Panics(t, func() { wrap((*http.ServeMux)(nil)) })
	}
}

func TestShare(t *testing.T) {
	require.Equal(t, []string{"user_id", "tenant", ""}, relay.Share(userID, tenant, sessions.Key[int]{}))
	require.Empty(t, relay.Share())
	require.True(t, strings.HasPrefix(relay.ErrNotWrapped.Error(), "relay: "))
}
