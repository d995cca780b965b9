package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
	"handover.example/sessions/sessiontest"
)

// What docs/relay.md says of a token is all that another JOSE library needs: golang-jwt has no code in common with the
// one that package relay uses, and the keys are read from the JWK set by hand, after RFC 7518 and RFC 8037.

const relayIssuer, relayDomain = "https://shop.example", "shop"

var (
	relayUser  = sessions.NewKey[int64]("user_id")
	relayNames = sessions.NewKey[[]string]("names")
	relayNote  = sessions.NewKey[string]("note") // stays at the edge
)

// party is a key, and the two names of its algorithm.
type party struct {
	algorithm relay.Algorithm
	method    jwt.SigningMethod
	private   crypto.Signer
}

func relayParties(t *testing.T) map[string]party {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return map[string]party{
		"EdDSA": {relay.EdDSA, jwt.SigningMethodEdDSA, ed},
		"ES256": {relay.ES256, jwt.SigningMethodES256, ec},
	}
}

func relayIssuerOf(t *testing.T, p party) *relay.Issuer {
	key, err := relay.NewSigningKey("2026-11", p.private)
	require.NoError(t, err)
	issuer, err := relay.NewIssuer(relay.IssuerConfig{
		Issuer: relayIssuer, TrustDomain: relayDomain, Key: key, Hosts: []string{"orders.internal"},
		Share: relay.Share(relayUser, relayNames),
	})
	require.NoError(t, err)
	return issuer
}

// relayToken returns a token for a session, as the edge makes it.
func relayToken(t *testing.T, issuer *relay.Issuer) (token string, s *sessiontest.Session) {
	r, s := sessiontest.WithSession(httptest.NewRequest(http.MethodGet, "/", nil))
	require.NoError(t, relayUser.Set(s, 42))
	require.NoError(t, relayNames.Set(s, []string{"Ada", "<&\u2028>", "é", "世界"}))
	require.NoError(t, relayNote.Set(s, "stays here"))
	issuer.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var err error
		token, err = issuer.Token(r.Context())
		require.NoError(t, err)
	})).ServeHTTP(httptest.NewRecorder(), r)
	require.NotEmpty(t, token)
	return token, s
}

// publishedKeys reads the JWK set of the edge.
func publishedKeys(t *testing.T, url string) map[string]crypto.PublicKey {
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "application/jwk-set+json", resp.Header.Get("Content-Type"))
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(text, &set))
	keys := map[string]crypto.PublicKey{}
	for _, k := range set.Keys {
		x, err := base64.RawURLEncoding.DecodeString(k["x"])
		require.NoError(t, err)
		require.Len(t, x, 32)
		require.Equal(t, "sig", k["use"])
		require.NotContains(t, k, "d", "that is the private key")
		switch k["kty"] + " " + k["crv"] + " " + k["alg"] {
		case "OKP Ed25519 EdDSA": // RFC 8037, section 2
			keys[k["kid"]] = ed25519.PublicKey(x)
		case "EC P-256 ES256": // RFC 7518, section 6.2.1
			y, err := base64.RawURLEncoding.DecodeString(k["y"])
			require.NoError(t, err)
			require.Len(t, y, 32)
			keys[k["kid"]] = &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}
		default:
			t.Fatalf("what key is that: %s", text)
		}
	}
	return keys
}

func TestRelayInterop_TheirsVerifiesOurs(t *testing.T) {
	for name, p := range relayParties(t) {
		t.Run(name, func(t *testing.T) {
			issuer := relayIssuerOf(t, p)
			server := httptest.NewServer(issuer.Keys())
			t.Cleanup(func() { server.Close(); http.DefaultClient.CloseIdleConnections() })
			keys := publishedKeys(t, server.URL)
			before := time.Now().Truncate(time.Second)
			token, s := relayToken(t, issuer)

			claims := jwt.MapClaims{}
			parse := func(token string, options ...jwt.ParserOption) (*jwt.Token, error) {
				options = append(options, jwt.WithValidMethods([]string{name}), jwt.WithStrictDecoding(),
					jwt.WithExpirationRequired(), jwt.WithIssuedAt())
				clear(claims)
				return jwt.ParseWithClaims(token, claims, func(token *jwt.Token) (any, error) {
					id, _ := token.Header["kid"].(string)
					key, ok := keys[id]
					if !ok {
						return nil, errors.New("no such key")
					}
					return key, nil
				}, options...)
			}
			parsed, err := parse(token, jwt.WithIssuer(relayIssuer), jwt.WithAudience(relayDomain), jwt.WithSubject(s.ID()))
			require.NoError(t, err)
			require.True(t, parsed.Valid)
			require.Equal(t, map[string]any{"alg": name, "typ": "txntoken+jwt", "kid": "2026-11"}, parsed.Header)

			names := []string{}
			for c := range claims {
				names = append(names, c)
			}
			slices.Sort(names)
			require.Equal(t, []string{"aud", "exp", "iat", "iss", "sid", "sid_exp", "sid_iat", "sub", "tctx", "txn"}, names)
			require.Equal(t, relayDomain, claims["aud"], "one, and not a list")
			require.Equal(t, s.ID(), claims["sid"])
			require.Equal(t, map[string]any{"user_id": 42.0, "names": []any{"Ada", "<&\u2028>", "é", "世界"}}, claims["tctx"])
			require.NotEmpty(t, claims["txn"])
			seconds := func(claim string) time.Time {
				n, ok := claims[claim].(float64)
				require.True(t, ok, claim)
				return time.Unix(int64(n), 0)
			}
			require.False(t, seconds("iat").Before(before))
			require.Equal(t, time.Minute, seconds("exp").Sub(seconds("iat")))
			require.Equal(t, s.CreatedAt().Unix(), seconds("sid_iat").Unix())
			require.Equal(t, s.ExpiresAt().Unix(), seconds("sid_exp").Unix())

			// It looks at what it has verified.
			_, err = parse(token, jwt.WithAudience("another"))
			require.ErrorIs(t, err, jwt.ErrTokenInvalidAudience)
			_, err = parse(token, jwt.WithTimeFunc(func() time.Time { return time.Now().Add(time.Minute + time.Second) }))
			require.ErrorIs(t, err, jwt.ErrTokenExpired)
			other := relayParties(t)[name]
			forged, _ := relayToken(t, relayIssuerOf(t, other))
			_, err = parse(forged)
			require.ErrorIs(t, err, jwt.ErrTokenSignatureInvalid)
			_, err = parse(flipped(token))
			require.Error(t, err)
		})
	}
}

// flipped changes a byte of the claims.
func flipped(token string) string {
	b, dot := []byte(token), strings.IndexByte(token, '.')
	b[dot+10] ^= 1
	return string(b)
}

// theirClaims are those of the table in docs/relay.md.
func theirClaims(now time.Time) jwt.MapClaims {
	return jwt.MapClaims{
		"iss": relayIssuer, "aud": relayDomain, "sub": "user-42", "sid": "a-handle", "txn": "97053963-771d-49cc-a4e3-20aad399c312",
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		"sid_iat": now.Add(-time.Hour).Unix(), "sid_exp": now.Add(time.Hour).Unix(),
		"tctx": map[string]any{"user_id": 42, "names": []string{"Ada"}},
	}
}

func TestRelayInterop_OursVerifiesTheirs(t *testing.T) {
	for name, p := range relayParties(t) {
		t.Run(name, func(t *testing.T) {
			public, err := relay.NewPublicKey("2026-11", p.private.Public())
			require.NoError(t, err)
			keys, err := relay.NewKeySet(public)
			require.NoError(t, err)
			var last sessions.Event
			verifier, err := relay.NewVerifier(relay.VerifierConfig{
				Issuer: relayIssuer, TrustDomain: relayDomain, Keys: keys, Algorithm: p.algorithm,
				Logger:  slog.New(slog.DiscardHandler),
				Observe: func(_ context.Context, e sessions.Event) { last = e },
			})
			require.NoError(t, err)

			now := time.Now()
			send := func(t *testing.T, key any, change func(h map[string]any, c jwt.MapClaims)) (status int, served bool) {
				token := jwt.NewWithClaims(p.method, theirClaims(now))
				token.Header["typ"], token.Header["kid"] = "txntoken+jwt", "2026-11"
				if change != nil {
					change(token.Header, token.Claims.(jwt.MapClaims))
				}
				signed, err := token.SignedString(key)
				require.NoError(t, err)
				r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
				r.Header.Set(relay.DefaultHeader, signed)
				verifier.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					served = true
					s, err := sessions.Get(r.Context())
					require.NoError(t, err)
					require.Equal(t, "a-handle", s.ID())
					require.Equal(t, now.Add(-time.Hour).Unix(), s.CreatedAt().Unix())
					require.Equal(t, now.Add(time.Hour).Unix(), s.ExpiresAt().Unix())
					require.ElementsMatch(t, []string{"user_id", "names"}, slices.Collect(s.Keys()))
					id, ok := relayUser.Get(s)
					require.True(t, ok)
					require.EqualValues(t, 42, id)
					names, _ := relayNames.Get(s)
					require.Equal(t, []string{"Ada"}, names)
					on, err := verifier.Token(r.Context())
					require.NoError(t, err)
					require.Equal(t, signed, on, "what goes on is what came")
				})).ServeHTTP(w, r)
				return w.Code, served
			}

			status, served := send(t, p.private, nil)
			require.True(t, served, "%+v", last)
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, sessions.OutcomeLoaded, last.Outcome)
			require.Equal(t, "a-handle", last.SessionID)

			status, served = send(t, p.private, func(h map[string]any, c jwt.MapClaims) {
				c["scope"], c["req_wl"], c["rctx"] = "a", "edge", map[string]any{}
			})
			require.True(t, served, "claims of the draft that are not ours are ignored: %+v", last)
			require.Equal(t, http.StatusOK, status)

			// What the page says must be there, one at a time.
			for what, change := range map[string]func(h map[string]any, c jwt.MapClaims){
				"typ JWT":             func(h map[string]any, _ jwt.MapClaims) { h["typ"] = "JWT" },
				"no typ":              func(h map[string]any, _ jwt.MapClaims) { delete(h, "typ") },
				"no kid":              func(h map[string]any, _ jwt.MapClaims) { delete(h, "kid") },
				"another kid":         func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "2025-11" },
				"crit":                func(h map[string]any, _ jwt.MapClaims) { h["crit"], h["b64"] = []string{"b64"}, true },
				"no iss":              func(_ map[string]any, c jwt.MapClaims) { delete(c, "iss") },
				"another iss":         func(_ map[string]any, c jwt.MapClaims) { c["iss"] = "https://other.example" },
				"another aud":         func(_ map[string]any, c jwt.MapClaims) { c["aud"] = "other" },
				"aud in a list":       func(_ map[string]any, c jwt.MapClaims) { c["aud"] = []string{relayDomain} },
				"no sub":              func(_ map[string]any, c jwt.MapClaims) { delete(c, "sub") },
				"no sid":              func(_ map[string]any, c jwt.MapClaims) { delete(c, "sid") },
				"no sid_iat":          func(_ map[string]any, c jwt.MapClaims) { delete(c, "sid_iat") },
				"no sid_exp":          func(_ map[string]any, c jwt.MapClaims) { delete(c, "sid_exp") },
				"a fourth header":     func(h map[string]any, _ jwt.MapClaims) { h["cty"] = "JWT" },
				"EXP for exp":         func(_ map[string]any, c jwt.MapClaims) { c["EXP"] = c["exp"]; delete(c, "exp") },
				"no txn":              func(_ map[string]any, c jwt.MapClaims) { delete(c, "txn") },
				"no iat":              func(_ map[string]any, c jwt.MapClaims) { delete(c, "iat") },
				"no exp":              func(_ map[string]any, c jwt.MapClaims) { delete(c, "exp") },
				"a past exp":          func(_ map[string]any, c jwt.MapClaims) { c["iat"], c["exp"] = now.Unix()-60, now.Unix() },
				"from the future":     func(_ map[string]any, c jwt.MapClaims) { c["iat"], c["exp"] = now.Unix()+60, now.Unix()+90 },
				"good for over 5 min": func(_ map[string]any, c jwt.MapClaims) { c["exp"] = now.Unix() + 301 },
			} {
				status, served := send(t, p.private, change)
				require.False(t, served, what)
				require.Equal(t, http.StatusUnauthorized, status, what)
				require.Equal(t, sessions.EventReject, last.Kind, what)
			}
			status, served = send(t, relayParties(t)[name].private, nil)
			require.False(t, served, "another key under the same name")
			require.Equal(t, http.StatusUnauthorized, status)
			require.Equal(t, sessions.OutcomeTampered, last.Outcome)
		})
	}
}
