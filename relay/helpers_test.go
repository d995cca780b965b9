package relay_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
	"handover.example/sessions/sessiontest"
)

const (
	issuerName  = "https://shop.example"
	trustDomain = "shop"
)

var (
	userID = sessions.NewKey[int64]("user_id")
	tenant = sessions.NewKey[string]("tenant")
	note   = sessions.NewKey[string](noteKey) // never shared
)

// What must be in no log, event, error or answer.
const (
	noteKey     = "private_note_key"
	noteValue   = "a note that stays at the edge"
	tenantValue = "the tenant of the test: acme"
)

func init() {
	watch.secret("the name of a key", noteKey)
	watch.secret("a value", noteValue)
	watch.secret("a value", tenantValue)
}

// Keys, the same in each run.

func edKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func ecKey(tb testing.TB, n byte) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	require.NoError(tb, err)
	return key
}

func signingKey(tb testing.TB, id string, signer crypto.Signer) relay.SigningKey {
	tb.Helper()
	k, err := relay.NewSigningKey(id, signer)
	require.NoError(tb, err)
	return k
}

func keySet(tb testing.TB, keys ...relay.PublicKey) relay.KeySet {
	tb.Helper()
	set, err := relay.NewKeySet(keys...)
	require.NoError(tb, err)
	return set
}

// algorithms are both, each with two keys.
var algorithms = []relay.Algorithm{relay.EdDSA, relay.ES256}

func signerOf(tb testing.TB, a relay.Algorithm, n byte) crypto.Signer {
	if a == relay.ES256 {
		return ecKey(tb, n)
	}
	return edKey(n)
}

// countingSigner counts signatures. It is none of the types of the standard library, as a key in hardware.
type countingSigner struct {
	signer crypto.Signer
	n      atomic.Int64
	err    error
}

func (s *countingSigner) Public() crypto.PublicKey { return s.signer.Public() }

func (s *countingSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.n.Add(1)
	if s.err != nil {
		return nil, s.err
	}
	return s.signer.Sign(r, digest, opts)
}

// Tokens made by hand, with nothing but the standard library.

func rawBase64(s string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return string(b), err
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// seal signs a header and a payload as they are.
func seal(tb testing.TB, key crypto.Signer, header, payload string) string {
	tb.Helper()
	input := b64(header) + "." + b64(payload)
	token := input + "." + b64(string(signature(tb, key, input)))
	watch.token(token)
	return token
}

func signature(tb testing.TB, key crypto.Signer, input string) []byte {
	tb.Helper()
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(input))
	case *ecdsa.PrivateKey:
		hash := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, k, hash[:])
		require.NoError(tb, err)
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	tb.Fatalf("no such key: %T", key)
	return nil
}

func asJSON(tb testing.TB, v any) string {
	tb.Helper()
	text, err := json.Marshal(v)
	require.NoError(tb, err)
	return string(text)
}

// object is a JSON object that can be changed by one member.
type object map[string]any

// with returns a copy in which the member has this value; none if it is missing.
func (o object) with(name string, value any) object {
	c := maps.Clone(o)
	c[name] = value
	if value == missing {
		delete(c, name)
	}
	return c
}

var missing any = new(struct{ _ byte })

func goodHeader(a relay.Algorithm, kid string) object {
	return object{"alg": string(a), "kid": kid, "typ": relay.TokenType}
}

func goodClaims(now time.Time) object {
	return object{
		"iss": issuerName, "aud": trustDomain, "sub": "user 42", "sid": "a-public-handle", "txn": "one-click",
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		"sid_iat": now.Add(-time.Hour).Unix(), "sid_exp": now.Add(time.Hour).Unix(),
		"tctx": map[string]any{"user_id": 42, "tenant": tenantValue},
	}
}

// The edge and its one browser

type edge struct {
	t       *testing.T
	issuer  *relay.Issuer
	rec     *recorder
	handler http.Handler
	cookies map[string]string
	steps   sync.Map
	next    atomic.Int64
}

// newEdge is an edge over a store, with keys that all helpers know.
func newEdge(t *testing.T, store sessions.Store, edits ...func(*relay.IssuerConfig)) *edge {
	t.Helper()
	e := &edge{t: t, rec: &recorder{}, cookies: map[string]string{}}
	cfg := relay.IssuerConfig{
		Issuer: issuerName, TrustDomain: trustDomain, Key: signingKey(t, "k1", edKey(1)), Hosts: []string{"127.0.0.1"},
		Share: relay.Share(userID, tenant), Logger: e.rec.logger(), Observe: e.rec.observe,
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	var err error
	e.issuer, err = relay.NewIssuer(cfg)
	require.NoError(t, err)
	mgr, err := sessions.New(sessions.Config{Store: store, Logger: e.rec.logger(), Observe: e.rec.observe})
	require.NoError(t, err)
	e.handler = e.issuer.Wrap(mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if step, ok := e.steps.Load(r.Header.Get("Step")); ok {
			step.(http.HandlerFunc)(w, r)
		}
	})))
	return e
}

// step returns the name under which a request has this step run.
func (e *edge) step(fn http.HandlerFunc) string {
	id := fmt.Sprint(e.next.Add(1))
	e.steps.Store(id, fn)
	return id
}

// click sends a request of the browser, in this goroutine.
func (e *edge) click(fn http.HandlerFunc) *httptest.ResponseRecorder {
	e.t.Helper()
	r := httptest.NewRequestWithContext(e.t.Context(), http.MethodGet, "http://shop.example/", nil)
	r.Header.Set("Step", e.step(fn))
	for name, value := range e.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	e.handler.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(e.cookies, c.Name)
		} else {
			watch.secret("a session token", c.Value)
			e.cookies[c.Name] = c.Value
		}
	}
	return w
}

// use is a click whose handler uses its session.
func (e *edge) use(fn func(ctx context.Context, s sessions.Session)) {
	e.t.Helper()
	w := e.click(func(_ http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(e.t, err)
		fn(r.Context(), s)
	})
	require.Equal(e.t, http.StatusOK, w.Code, w.Body)
}

// login makes a session with what is shared and what is not.
func (e *edge) login() {
	e.t.Helper()
	e.use(func(_ context.Context, s sessions.Session) { fill(e.t, s) })
	e.rec.take()
	e.rec.lines()
}

func fill(t *testing.T, s sessions.Session) {
	require.NoError(t, userID.Set(s, 42))
	require.NoError(t, tenant.Set(s, tenantValue))
	require.NoError(t, note.Set(s, noteValue))
}

// token is that of one click.
func (e *edge) token() (token string) {
	e.t.Helper()
	e.use(func(ctx context.Context, _ sessions.Session) { token = e.mustToken(ctx) })
	return token
}

func (e *edge) mustToken(ctx context.Context) string {
	e.t.Helper()
	token, err := e.issuer.Token(ctx)
	require.NoError(e.t, err)
	watch.token(token)
	return token
}

// on serves the edge over HTTP.
func (e *edge) on(t *testing.T) *httptest.Server { return serve(t, e.handler) }

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// A service

type service struct {
	t        *testing.T
	verifier *relay.Verifier
	rec      *recorder
	header   string
}

func newService(t *testing.T, edits ...func(*relay.VerifierConfig)) *service {
	t.Helper()
	s := &service{t: t, rec: &recorder{}}
	cfg := relay.VerifierConfig{
		Issuer: issuerName, TrustDomain: trustDomain, Hosts: []string{"127.0.0.1"}, Logger: s.rec.logger(), Observe: s.rec.observe,
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	if cfg.Keys == nil {
		cfg.Keys = keySet(t, signingKey(t, "k1", edKey(1)).Public())
	}
	s.header = relay.DefaultHeader
	if cfg.Header != "" {
		s.header = cfg.Header
	}
	var err error
	s.verifier, err = relay.NewVerifier(cfg)
	require.NoError(t, err)
	return s
}

// call sends a request with these tokens, in this goroutine, and reports whether it reached the handler.
func (s *service) call(fn http.HandlerFunc, tokens ...string) (w *httptest.ResponseRecorder, reached bool) {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://orders.internal/", nil)
	if len(tokens) > 0 {
		r.Header[s.header] = tokens
	}
	return s.serve(fn, r)
}

func (s *service) serve(fn http.HandlerFunc, r *http.Request) (w *httptest.ResponseRecorder, reached bool) {
	s.t.Helper()
	for name, lines := range r.Header {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), s.header) {
			for _, token := range lines {
				watch.token(token)
			}
		}
	}
	w = httptest.NewRecorder()
	s.verifier.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached = true
		if fn != nil {
			fn(w, r)
		}
	})).ServeHTTP(w, r)
	if !reached {
		fmt.Fprintln(&watch, w.Code, w.Header(), w.Body)
	}
	return w, reached
}

// use is a call whose handler uses its session.
func (s *service) use(token string, fn func(ctx context.Context, s sessions.Session)) {
	s.t.Helper()
	w, reached := s.call(func(_ http.ResponseWriter, r *http.Request) {
		session, err := sessions.Get(r.Context())
		require.NoError(s.t, err)
		fn(r.Context(), session)
	}, token)
	require.True(s.t, reached, "refused: %d", w.Code)
}

// accepts and refuses say what becomes of a token.
func (s *service) accepts(token string) {
	s.t.Helper()
	s.rec.take()
	s.rec.lines()
	w, reached := s.call(nil, token)
	lines := s.rec.lines()
	require.True(s.t, reached, "%d, %s", w.Code, lines)
	require.Equal(s.t, []string{"load loaded"}, s.rec.take())
	require.Empty(s.t, lines)
}

func (s *service) refuses(outcome sessions.Outcome, tokens ...string) {
	s.t.Helper()
	s.rec.take()
	s.rec.lines()
	w, reached := s.call(nil, tokens...)
	require.False(s.t, reached, "the handler was reached")
	require.Equal(s.t, http.StatusUnauthorized, w.Code)
	require.Equal(s.t, "Unauthorized\n", w.Body.String())
	require.Equal(s.t, "no-store", w.Header().Get("Cache-Control"))
	lines := s.rec.lines()
	require.Equal(s.t, []string{"reject " + string(outcome)}, s.rec.take(), "%s", lines)
	require.Len(s.t, lines, 1)
}

// claimsOf reads a token as anybody can.
func claimsOf(tb testing.TB, token string) (claims map[string]any) {
	tb.Helper()
	parts := strings.Split(token, ".")
	require.Len(tb, parts, 3)
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(tb, err)
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	require.NoError(tb, d.Decode(&claims))
	return claims
}

func newMemory() *sessiontest.MemoryStore { return sessiontest.NewMemoryStore() }
