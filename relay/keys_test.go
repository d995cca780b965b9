package relay_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

// keyServer publishes keys, over HTTP or as a RoundTripper, and counts who asks.
type keyServer struct {
	mu      sync.Mutex
	answer  http.HandlerFunc
	fetches atomic.Int64
}

func (k *keyServer) publish(answer http.HandlerFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answer = answer
}

func (k *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.fetches.Add(1)
	k.mu.Lock()
	answer := k.answer
	k.mu.Unlock()
	answer(w, r)
}

// text answers with a JWK set.
func text(set any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, set.(string)) }
}

func jwks(tb testing.TB, keys ...object) string { return asJSON(tb, object{"keys": keys}) }

func jwk(tb testing.TB, id string, key crypto.Signer) object {
	return jwkOf(tb, key.Public(), object{"kid": id})
}

// inMemory is a client for tests of time. A nil response is an outage.
type inMemory struct {
	fetches atomic.Int64
	mu      sync.Mutex
	set     string
	err     error
	delay   time.Duration
}

func (m *inMemory) is(set string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set, m.err = set, err
}

func (m *inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.fetches.Add(1)
	m.mu.Lock()
	set, err, delay := m.set, m.err, m.delay
	m.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(set)), Request: r}, nil
}

func (m *inMemory) keySet(t *testing.T, edits ...func(*relay.RemoteKeySetConfig)) *relay.RemoteKeySet {
	t.Helper()
	cfg := relay.RemoteKeySetConfig{URL: "http://edge.internal/keys", Client: &http.Client{Transport: m}}
	for _, edit := range edits {
		edit(&cfg)
	}
	set, err := relay.NewRemoteKeySet(cfg)
	require.NoError(t, err)
	return set
}

var errDown = errors.New("the edge is down")

// After a time without requests nobody knows what was withdrawn meanwhile: the first request waits for the keys.
func TestKeys_WithdrawnWhileNobodyAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1))), delay: time.Second}
		set := m.keySet(t)
		_, err := set.Key(t.Context(), "k1")
		require.NoError(t, err)
		m.is("", errDown)
		time.Sleep(time.Hour)
		start := time.Now()
		_, err = set.Key(t.Context(), "k1")
		require.NoError(t, err, "an outage takes no key away")
		require.Equal(t, time.Second, time.Since(start))
		_, err = set.Key(t.Context(), "k1")
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start), "nobody waits again until Retry")
		m.is(jwks(t, jwk(t, "k2", edKey(2))), nil)
		time.Sleep(time.Hour)
		_, err = set.Key(t.Context(), "k1")
		require.ErrorIs(t, err, relay.ErrUnknownKey)
	})
}

// TestKeys_Rotation walks through a change of keys over real HTTP: the next key is published, signs, and the old one goes.
func TestKeys_Rotation(t *testing.T) {
	store := newMemory()
	old, next := signingKey(t, "k1", edKey(1)), signingKey(t, "k2", edKey(2))
	edgeWith := func(key relay.SigningKey, published ...relay.PublicKey) *edge {
		return newEdge(t, store, func(c *relay.IssuerConfig) { c.Key, c.Published = key, published })
	}
	server := &keyServer{}
	const refresh = 20 * time.Millisecond // 5 minutes at work
	set, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: serve(t, server).URL, Refresh: refresh, Retry: time.Millisecond})
	require.NoError(t, err)
	s := newService(t, func(c *relay.VerifierConfig) { c.Keys, c.CacheSize = set, -1 })

	step := func(e *edge, cookies map[string]string, still ...string) (token string, all map[string]string) {
		server.publish(e.issuer.Keys().ServeHTTP)
		e.cookies = cookies
		if cookies == nil {
			e.cookies = map[string]string{}
			e.login()
		}
		for begin := time.Now(); time.Since(begin) < 3*refresh; {
			token = e.token()
			s.accepts(token)
			for _, old := range still {
				s.accepts(old)
			}
		}
		return token, e.cookies
	}
	first, cookies := step(edgeWith(old), nil)
	second, cookies := step(edgeWith(old, next.Public()), cookies, first)
	third, cookies := step(edgeWith(next, old.Public()), cookies, second)
	fourth, _ := step(edgeWith(next), cookies, third)
	s.accepts(fourth)
	require.Eventually(t, func() bool { // the old key is gone at the next refresh
		_, reached := s.call(nil, first)
		return !reached
	}, 10*time.Second, refresh)
	s.accepts(fourth)
	s.refuses(unknown, first)
}

// TestKeys_ANewKeyIsFetchedAtOnce: one that signs before it was published for long is found, if Retry allows it.
func TestKeys_ANewKeyIsFetchedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1)))}
		set := m.keySet(t)
		_, err := set.Key(t.Context(), "k1")
		require.NoError(t, err)
		m.is(jwks(t, jwk(t, "k1", edKey(1)), jwk(t, "k2", edKey(2))), nil)
		_, err = set.Key(t.Context(), "k2")
		require.ErrorIs(t, err, relay.ErrUnknownKey, "asked a moment ago")
		time.Sleep(10 * time.Second)
		k, err := set.Key(t.Context(), "k2")
		require.NoError(t, err)
		require.Equal(t, "k2", k.ID)
		require.EqualValues(t, 2, m.fetches.Load())
		synctest.Wait()
	})
}

func TestKeys_OneFetchForManyTokens(t *testing.T) {
	server := &keyServer{answer: text(jwks(t, jwk(t, "k1", edKey(1))))}
	set, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: serve(t, server).URL})
	require.NoError(t, err)
	s := newService(t, func(c *relay.VerifierConfig) { c.Keys = set })
	m := newMint(t, relay.EdDSA)
	require.Zero(t, server.fetches.Load(), "none before a token asks for it")
	var tokens []string
	for i := range 100 {
		tokens = append(tokens, m.claim("txn", fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for _, token := range tokens {
		wg.Go(func() {
			_, reached := s.call(nil, token)
			require.True(t, reached)
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, server.fetches.Load())
}

func TestKeys_RefreshedBesideTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1))), delay: time.Second}
		set := m.keySet(t)
		start := time.Now()
		_, err := set.Key(t.Context(), "k1")
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start), "the first one waits")
		for i := range 5 {
			time.Sleep(5*time.Minute - time.Nanosecond)
			_, err = set.Key(t.Context(), "k1")
			require.NoError(t, err)
			require.EqualValues(t, 1+i, m.fetches.Load(), "not due")
			time.Sleep(time.Nanosecond)
			start = time.Now()
			for range 10 {
				_, err = set.Key(t.Context(), "k1")
				require.NoError(t, err)
			}
			require.Zero(t, time.Since(start), "nobody waits for a key that is there")
			synctest.Wait()
			require.EqualValues(t, 2+i, m.fetches.Load())
			time.Sleep(time.Second) // fetched
		}
		// a key that was withdrawn
		m.is(jwks(t, jwk(t, "k2", edKey(2))), nil)
		time.Sleep(5 * time.Minute)
		_, err = set.Key(t.Context(), "k1")
		require.NoError(t, err, "this request has begun the fetch")
		time.Sleep(time.Second)
		synctest.Wait()
		_, err = set.Key(t.Context(), "k1")
		require.ErrorIs(t, err, relay.ErrUnknownKey)
	})
}

func TestKeys_UnknownKeysCauseOneFetchEachRetry(t *testing.T) {
	for _, delay := range []time.Duration{0, 3 * time.Second, 4900 * time.Millisecond} {
		for _, retry := range []time.Duration{time.Second, 10 * time.Second} {
			t.Run(fmt.Sprint(delay, retry), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1))), delay: delay}
					set := m.keySet(t, func(c *relay.RemoteKeySetConfig) { c.Retry = retry })
					start := time.Now()
					for round := range 5 {
						var wg sync.WaitGroup
						for i := range 5 { // few: many goroutines in a bubble can make the race detector fail itself (golang/go#78156)
							wg.Go(func() {
								_, err := set.Key(t.Context(), fmt.Sprintf("unknown-%d-%d", round, i))
								require.ErrorIs(t, err, relay.ErrUnknownKey)
							})
						}
						wg.Wait() // a slow edge does not keep them for longer than one fetch
						require.LessOrEqual(t, time.Since(start), time.Duration(round+1)*max(delay, retry)+time.Duration(round)*retry+delay)
						require.EqualValues(t, round+1, m.fetches.Load())
						_, err := set.Key(t.Context(), "k1")
						require.NoError(t, err)
						time.Sleep(retry)
					}
				})
			})
		}
	}
}

func TestKeys_UnknownKeysInParallel(t *testing.T) {
	m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1)))}
	set := m.keySet(t, func(c *relay.RemoteKeySetConfig) { c.Retry = time.Hour })
	for range 3 {
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				_, err := set.Key(t.Context(), fmt.Sprintf("unknown-%d", i))
				if !errors.Is(err, relay.ErrUnknownKey) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		_, err := set.Key(t.Context(), "k1")
		require.NoError(t, err)
		require.EqualValues(t, 1, m.fetches.Load())
	}
}

func TestKeys_AnOutageOfTheEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{err: errDown}
		set := m.keySet(t, func(c *relay.RemoteKeySetConfig) { c.Keep = time.Hour })
		s := newService(t, func(c *relay.VerifierConfig) { c.Keys, c.CacheSize = set, -1 })
		mint := func() *mint { m := newMint(t, relay.EdDSA); return m }
		outage := func(token string) {
			t.Helper()
			s.rec.take()
			s.rec.lines()
			w, reached := s.call(nil, token)
			require.False(t, reached)
			require.Equal(t, http.StatusServiceUnavailable, w.Code, "not 401: nobody knows")
			require.Equal(t, "Service Unavailable\n", w.Body.String())
			require.Empty(t, w.Header().Get("WWW-Authenticate"))
			require.Equal(t, []string{"load error"}, s.rec.take())
			require.Len(t, s.rec.lines(), 1)
		}
		outage(mint().good()) // down from the beginning
		outage(mint().good()) // and within Retry
		require.EqualValues(t, 1, m.fetches.Load())
		s.refuses(malformed, "x") // needs no key
		m.is(jwks(t, jwk(t, "k1", edKey(1))), nil)
		outage(mint().good()) // still within Retry
		time.Sleep(10 * time.Second)
		s.accepts(mint().good())

		m.is("", errDown)
		begin := time.Now()
		for time.Since(begin) < time.Hour {
			s.accepts(mint().good())
			synctest.Wait()
			time.Sleep(time.Minute)
		}
		require.Less(t, m.fetches.Load(), int64(70), "tried again from time to time")
		outage(mint().good()) // Keep is over
		time.Sleep(time.Hour)
		outage(mint().good())
		m.is(jwks(t, jwk(t, "k1", edKey(1))), nil)
		time.Sleep(10 * time.Second)
		s.accepts(mint().good())
		synctest.Wait()
	})
}

func TestKeys_AnUnknownKeyInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1)))}
		set := m.keySet(t)
		_, err := set.Key(t.Context(), "k1")
		require.NoError(t, err)
		m.is("", errDown)
		time.Sleep(10 * time.Second)
		for range 3 {
			_, err = set.Key(t.Context(), "k2")
			require.ErrorIs(t, err, errDown, "it may be a new one")
			require.NotErrorIs(t, err, relay.ErrUnknownKey)
		}
		require.EqualValues(t, 2, m.fetches.Load())
		m.is(jwks(t, jwk(t, "k1", edKey(1))), nil)
		time.Sleep(10 * time.Second)
		for range 3 {
			_, err = set.Key(t.Context(), "k2")
			require.ErrorIs(t, err, relay.ErrUnknownKey, "now it is known that it is none")
		}
	})
}

// TestKeys_NobodyWaitsTwice: with a slow edge there is always a fetch that runs.
func TestKeys_NobodyWaitsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1))), delay: 3 * time.Second}
		set := m.keySet(t, func(c *relay.RemoteKeySetConfig) { c.Retry = time.Second })
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				for range 20 {
					start := time.Now()
					_, err := set.Key(t.Context(), fmt.Sprintf("unknown-%d", i))
					if took := time.Since(start); took > m.delay || !errors.Is(err, relay.ErrUnknownKey) {
						t.Errorf("%v after %v", err, took)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestKeys_ARequestThatIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1))), delay: 4 * time.Second}
		set := m.keySet(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := set.Key(ctx, "k1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		_, err = set.Key(t.Context(), "k1") // the fetch went on for the others
		require.NoError(t, err)
		require.Equal(t, 4*time.Second, time.Since(start))
		require.EqualValues(t, 1, m.fetches.Load())
	})
}

func TestKeys_ASlowEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &inMemory{set: jwks(t, jwk(t, "k1", edKey(1))), delay: time.Hour}
		set := m.keySet(t, func(c *relay.RemoteKeySetConfig) { c.Retry = time.Second })
		start := time.Now()
		_, err := set.Key(t.Context(), "k1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 5*time.Second, time.Since(start))
		require.EqualValues(t, 1, m.fetches.Load())
	})
}

// TestKeys_BadEndpoints are real ones that answer with anything but keys.
func TestKeys_BadEndpoints(t *testing.T) {
	good := jwks(t, jwk(t, "k1", edKey(1)))
	elsewhere := &keyServer{answer: text(good)}
	elsewhereURL := serve(t, elsewhere).URL
	for name, answer := range map[string]http.HandlerFunc{
		"500":            func(w http.ResponseWriter, _ *http.Request) { http.Error(w, good, http.StatusInternalServerError) },
		"404":            http.NotFound,
		"204":            func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"203":            func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(203); _, _ = io.WriteString(w, good) },
		"empty":          text(""),
		"garbage":        text("<html>"),
		"an array":       text("[" + good + "]"),
		"null":           text("null"),
		"no keys":        text(`{"keys":[]}`),
		"keys null":      text(`{"keys":null}`),
		"keys an object": text(`{"keys":{}}`),
		"two documents":  text(good + good),
		"huge":           text(good[:len(good)-1] + `,"x":"` + strings.Repeat("x", 64<<10) + `"}`),
		"endless":        endless,
		"cut":            cut(good),
		"a redirect":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhereURL, http.StatusFound) },
		"a permanent redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhereURL, http.StatusPermanentRedirect)
		},
		"no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			server := &keyServer{answer: answer}
			set, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: serve(t, server).URL, Retry: time.Nanosecond})
			require.NoError(t, err)
			_, err = set.Key(t.Context(), "k1")
			require.Error(t, err)
			require.NotErrorIs(t, err, relay.ErrUnknownKey)
			require.ErrorContains(t, err, "cannot fetch the edge's public keys")
			require.Less(t, len(err.Error()), 300, "it does not repeat what it was sent")
			server.publish(text(good))
			_, err = set.Key(t.Context(), "k1")
			require.NoError(t, err)
			server.publish(answer) // what is there stays
			_, err = set.Key(t.Context(), "k2")
			require.Error(t, err)
			_, err = set.Key(t.Context(), "k1")
			require.NoError(t, err)
		})
	}
	require.Zero(t, elsewhere.fetches.Load(), "a redirect was followed")
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

func cut(set string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(set)+10))
		_, _ = io.WriteString(w, set)
	}
}

func TestKeys_SizeLimitOfTheSet(t *testing.T) {
	good := jwks(t, jwk(t, "k1", edKey(1)))
	for pad, ok := range map[int]bool{64<<10 - len(good): true, 64<<10 - len(good) + 1: false} {
		m := &inMemory{set: good + strings.Repeat(" ", pad)}
		_, err := m.keySet(t).Key(t.Context(), "k1")
		require.Equal(t, ok, err == nil, "%v", err)
	}
}

// TestKeys_ForeignKeys are in one set with ours.
func TestKeys_ForeignKeys(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	rsaJWK := object{"kty": "RSA", "n": b64(string(rsaKey.N.Bytes())), "e": "AQAB"}
	ed, ec := jwk(t, "k1", edKey(1)), jwk(t, "k2", ecKey(t, 1))
	x := ec["x"].(string)
	notOurs := map[string]object{
		"RSA":                     rsaJWK.with("kid", "f"),
		"RSA without a kid":       rsaJWK,
		"RSA, broken":             {"kty": "RSA", "kid": "f"},
		"P-384":                   jwk(t, "f", p384),
		"X25519":                  {"kty": "OKP", "crv": "X25519", "kid": "f", "x": b64(strings.Repeat("x", 32))},
		"an unknown type":         {"kty": "AKP", "alg": "ML-DSA-44", "kid": "f", "pub": "AAAA"},
		"no type":                 {"kid": "f", "x": "AAAA"},
		"empty":                   {},
		"symmetric":               {"kty": "oct", "kid": "f", "k": b64(strings.Repeat("k", 32))},
		"symmetric, says EdDSA":   {"kty": "oct", "kid": "f", "alg": "EdDSA", "use": "sig", "k": b64(strings.Repeat("k", 32))},
		"symmetric, says HS256":   {"kty": "oct", "kid": "f", "alg": "HS256", "use": "sig", "k": b64(strings.Repeat("k", 32))},
		"for encryption":          jwk(t, "f", edKey(2)).with("use", "enc"),
		"for another algorithm":   jwk(t, "f", edKey(2)).with("alg", "ES256"),
		"EC for EdDSA":            jwk(t, "f", ecKey(t, 2)).with("alg", "EdDSA"),
		"EC for key agreement":    jwk(t, "f", ecKey(t, 2)).with("alg", "ECDH-ES"),
		"private, Ed25519":        jwk(t, "f", edKey(2)).with("d", b64(string(edKey(2).Seed()))),
		"private, P-256":          jwk(t, "f", ecKey(t, 2)).with("d", b64(strings.Repeat("\x02", 32))),
		"without a kid":           jwk(t, "f", edKey(2)).with("kid", missing),
		"kid empty":               jwk(t, "", edKey(2)),
		"kid a number":            jwk(t, "f", edKey(2)).with("kid", 7),
		"kid that is none":        jwk(t, "a b", edKey(2)),
		"kid too long":            jwk(t, strings.Repeat("k", 65), edKey(2)),
		"Ed25519, too short":      jwk(t, "f", edKey(2)).with("x", b64(strings.Repeat("x", 31))),
		"Ed25519, too long":       jwk(t, "f", edKey(2)).with("x", b64(strings.Repeat("x", 33))),
		"P-256, not on it":        jwk(t, "f", ecKey(t, 2)).with("x", x),
		"P-256, half of it":       jwk(t, "f", ecKey(t, 2)).with("y", missing),
		"P-256, at infinity":      jwk(t, "f", ecKey(t, 2)).with("x", b64(strings.Repeat("\x00", 32))).with("y", b64(strings.Repeat("\x00", 32))),
		"with a broken x5c":       jwk(t, "f", edKey(2)).with("x5c", []string{"AAAA"}),
		"with another's x5c":      jwk(t, "f", edKey(2)).with("x5c", []string{x5c(t, edKey(3))}),
		"a member twice, by case": jwk(t, "f", edKey(2)).with("KTY", "oct").with("kty", missing),
	}
	for name, foreign := range notOurs {
		t.Run(name, func(t *testing.T) {
			for _, set := range []string{jwks(t, ed, foreign, ec), jwks(t, foreign, ec, ed)} {
				keys, err := relay.ParseKeys([]byte(set))
				require.NoError(t, err)
				require.Equal(t, []string{"k1", "k2"}, slices.Sorted(maps.Keys(keys)))
				require.Equal(t, relay.EdDSA, relay.AlgorithmOf(keys["k1"]))
				require.Equal(t, relay.ES256, relay.AlgorithmOf(keys["k2"]))
			}
			_, err := relay.ParseKeys([]byte(jwks(t, foreign)))
			require.Error(t, err)
			require.NotContains(t, err.Error(), "kkkk")
		})
	}
	for name, set := range map[string]string{
		"a string":       `{"keys":["k1",` + asJSON(t, ed) + `,null,1,[],` + asJSON(t, ec) + `]}`,
		"other members":  jwks(t, ed.with("use", "sig").with("key_ops", []string{"verify"}).with("x", ed["x"]), ec.with("alg", "ES256")),
		"of the set too": `{"cache":1,"keys":[` + asJSON(t, ed) + `,` + asJSON(t, ec) + `]}`,
	} {
		keys, err := relay.ParseKeys([]byte(set))
		require.NoError(t, err, name)
		require.Len(t, keys, 2, name)
	}

	// Two keys of one ID: nobody knows which one is meant, and the set is refused.
	for name, set := range map[string]string{
		"two keys":              jwks(t, ed, jwk(t, "k1", edKey(2))),
		"of two algorithms":     jwks(t, ed, jwk(t, "k1", ecKey(t, 1))),
		"the same one":          jwks(t, ed, ed),
		"the keys member twice": `{"keys":[` + asJSON(t, ed) + `],"keys":[` + asJSON(t, ec) + `]}`,
	} {
		_, err := relay.ParseKeys([]byte(set))
		require.Error(t, err, name)
	}
	// A foreign key of the same ID does not count.
	keys, err := relay.ParseKeys([]byte(jwks(t, rsaJWK.with("kid", "k1"), ed)))
	require.NoError(t, err)
	require.Len(t, keys, 1)
}

func x5c(t *testing.T, key crypto.Signer) string {
	return base64.StdEncoding.EncodeToString(certificate(t, key))
}

func TestKeys_Constructors(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	fields := func(err error) []string { return mistakes(t, err) }
	for name, signer := range map[string]crypto.Signer{
		"nil": nil, "a nil pointer": (*ecdsa.PrivateKey)(nil), "an empty Ed25519 key": ed25519.PrivateKey{}, "half an Ed25519 key": edKey(1)[:32],
		"P-384": p384, "RSA": rsaKey, "a nil pointer to RSA": (*rsa.PrivateKey)(nil), "opaque P-384": &countingSigner{signer: p384},
	} {
		_, err := relay.NewSigningKey("a b", signer)
		require.Equal(t, []string{"key", "id"}, fields(err), name)
	}
	on := ecKey(t, 1).PublicKey
	for name, key := range map[string]crypto.PublicKey{
		"nil": nil, "a nil pointer": (*ecdsa.PublicKey)(nil), "empty": &ecdsa.PublicKey{}, "a curve without a point": &ecdsa.PublicKey{Curve: elliptic.P256()},
		"half a point": &ecdsa.PublicKey{Curve: elliptic.P256(), X: on.X}, "off the curve": &ecdsa.PublicKey{Curve: elliptic.P256(), X: on.Y, Y: on.X},
		"infinity": &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)}, "short": ed25519.PublicKey{1, 2}, "no Ed25519 key": ed25519.PublicKey{},
		"a private key": edKey(1), "a secret": []byte("secret"), "a string": "key", "by value": on, "RSA": &rsaKey.PublicKey,
	} {
		_, err := relay.NewPublicKey("", key)
		require.Equal(t, []string{"key", "id"}, fields(err), name)
		require.NotContains(t, err.Error(), "secret")
	}
	for id, ok := range map[string]bool{
		"a": true, "2026-11-21": true, "a_B.9-": true, strings.Repeat("k", 64): true,
		"": false, strings.Repeat("k", 65): false, "a b": false, "a/b": false, "ä": false, "a\n": false, "a\"": false,
	} {
		_, err := relay.NewPublicKey(id, edKey(1).Public())
		require.Equal(t, ok, err == nil, "%q", id)
	}

	a, b := signingKey(t, "a", edKey(1)).Public(), signingKey(t, "a", edKey(2)).Public()
	_, err = relay.NewKeySet()
	require.Equal(t, []string{"keys"}, fields(err))
	_, err = relay.NewKeySet(a, b, relay.PublicKey{}, relay.PublicKey{ID: "c", Key: rsaKey.Public()})
	require.Equal(t, []string{"keys[1]", "key", "id", "key"}, fields(err))
	set, err := relay.NewKeySet(a, relay.PublicKey{ID: "literal", Key: ecKey(t, 1).Public()})
	require.NoError(t, err)
	k, err := set.Key(t.Context(), "literal")
	require.NoError(t, err)
	require.Equal(t, relay.ES256, relay.AlgorithmOf(k))
	_, err = set.Key(t.Context(), "b")
	require.Equal(t, relay.ErrUnknownKey, err)
	require.Equal(t, a, signingKey(t, "a", edKey(1)).Public())
}

// mistakes returns the fields of all that is wrong, in order.
func mistakes(t *testing.T, err error) (fields []string) {
	t.Helper()
	require.Error(t, err)
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
			return
		}
		var mistake *sessions.ConfigError
		require.ErrorAs(t, err, &mistake)
		require.NotEmpty(t, mistake.Reason)
		if inner := errors.Unwrap(err); inner != nil {
			walk(inner)
			return
		}
		fields = append(fields, mistake.Field)
	}
	walk(err)
	return fields
}
