package relay_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
	"handover.example/sessions/sessiontest"
)

// counted is an edge whose signatures are counted.
func counted(t *testing.T, edits ...func(*relay.IssuerConfig)) (*edge, *countingSigner) {
	signer := &countingSigner{signer: edKey(1)}
	e := newEdge(t, newMemory(), append([]func(*relay.IssuerConfig){func(c *relay.IssuerConfig) { c.Key = signingKey(t, "k1", signer) }}, edits...)...)
	e.login()
	return e, signer
}

func TestIssuer_WhatATokenSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(400 * time.Millisecond)
		e, _ := counted(t)
		time.Sleep(time.Hour)
		now := time.Now()
		e.use(func(ctx context.Context, s sessions.Session) {
			token := e.mustToken(ctx)
			claims := claimsOf(t, token)
			number := func(v int64) json.Number { return json.Number(fmt.Sprint(v)) }
			txn, _ := claims["txn"].(string)
			require.Len(t, txn, 26, "crypto/rand.Text: 128 bits or more")
			require.Equal(t, map[string]any{
				"iss": issuerName, "aud": trustDomain, "sub": s.ID(), "sid": s.ID(), "txn": txn,
				"iat": number(now.Unix()), "exp": number(now.Add(relay.DefaultLifetime).Unix()),
				"sid_iat": number(s.CreatedAt().Unix()), "sid_exp": number(s.ExpiresAt().Unix()),
				"tctx": map[string]any{"user_id": json.Number("42"), "tenant": tenantValue},
			}, claims)
			header := map[string]any{}
			require.NoError(t, json.Unmarshal([]byte(decode(t, strings.Split(token, ".")[0])), &header))
			require.Equal(t, map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "txntoken+jwt"}, header)
		})
	})
}

func TestIssuer_Subject(t *testing.T) {
	subject := func(s sessions.Session) string {
		user, ok := userID.Get(s)
		if !ok {
			return ""
		}
		return fmt.Sprintf("user %d", user)
	}
	e, _ := counted(t, func(c *relay.IssuerConfig) { c.Subject, c.Share = subject, nil })
	e.use(func(ctx context.Context, s sessions.Session) {
		claims := claimsOf(t, e.mustToken(ctx))
		require.Equal(t, "user 42", claims["sub"])
		require.Equal(t, s.ID(), claims["sid"])
		require.NotContains(t, claims, "tctx", "nothing is shared by default")
		userID.Delete(s)
		require.Equal(t, s.ID(), claimsOf(t, e.mustToken(ctx))["sub"], "nobody: the handle")
	})
}

func TestIssuer_NobodyGetsNoToken(t *testing.T) {
	base, arrived := anywhere(t, "Txn-Token")
	e, signer := counted(t, func(c *relay.IssuerConfig) { c.Hosts = []string{"orders.internal"} })
	call := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://orders.internal", nil)
		require.NoError(t, err)
		req.Header.Set("Txn-Token", "of the caller")
		res, err := (&http.Client{Transport: e.issuer.Transport(base)}).Do(req)
		require.NoError(t, err)
		_ = res.Body.Close()
	}
	e.use(func(ctx context.Context, s sessions.Session) {
		s.Destroy() // a logout, and then a call
		call(ctx)
		require.Equal(t, []string{""}, arrived())
	})
	require.Empty(t, e.cookies)
	e.use(func(ctx context.Context, s sessions.Session) {
		require.Empty(t, e.mustToken(ctx))
		call(ctx)
		require.Equal(t, []string{""}, arrived())
		require.Zero(t, signer.n.Load())
		require.NoError(t, s.Set("anything", 1)) // a session from now on, though nothing of it is shared
		require.NotEmpty(t, e.mustToken(ctx))
		s.Clear()
		require.Empty(t, e.mustToken(ctx))
	})
}

func TestIssuer_OneTokenForAClick(t *testing.T) {
	e, signer := counted(t)
	var first string
	e.use(func(ctx context.Context, _ sessions.Session) {
		var mu sync.Mutex
		tokens := map[string]int{}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				token, err := e.issuer.Token(ctx)
				require.NoError(t, err)
				mu.Lock()
				tokens[token]++
				mu.Unlock()
			})
		}
		wg.Wait()
		require.Len(t, tokens, 1)
		require.EqualValues(t, 1, signer.n.Load())
		first = e.mustToken(ctx)
		require.Equal(t, 100, tokens[first])
	})
	second := e.token()
	require.EqualValues(t, 2, signer.n.Load())
	require.NotEqual(t, claimsOf(t, first)["txn"], claimsOf(t, second)["txn"], "another click")
}

func TestIssuer_RemadeWhenItsValuesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, signer := counted(t)
		e.use(func(ctx context.Context, s sessions.Session) {
			first := e.mustToken(ctx)
			require.NoError(t, note.Set(s, noteValue+", changed")) // does not travel
			require.Equal(t, first, e.mustToken(ctx))
			time.Sleep(5 * time.Second) // the end of a changed session moves on
			require.Equal(t, first, e.mustToken(ctx))
			require.EqualValues(t, 1, signer.n.Load())
			require.NoError(t, userID.Set(s, 43))
			second := e.mustToken(ctx)
			require.NotEqual(t, first, second)
			require.Equal(t, second, e.mustToken(ctx))
			require.EqualValues(t, 2, signer.n.Load())
			a, b := claimsOf(t, first), claimsOf(t, second)
			require.Equal(t, a["txn"], b["txn"], "still one click")
			require.Equal(t, json.Number("43"), b["tctx"].(map[string]any)["user_id"])
			tenant.Delete(s)
			require.NotContains(t, claimsOf(t, e.mustToken(ctx))["tctx"], "tenant")
		})
	})
}

func TestIssuer_RemadeAtHalfOfItsLife(t *testing.T) {
	for _, lifetime := range []time.Duration{2 * time.Second, 2500 * time.Millisecond, 10 * time.Second, time.Minute, relay.MaxLifetime} {
		t.Run(lifetime.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(900 * time.Millisecond) // tokens count in whole seconds
				e, signer := counted(t, func(c *relay.IssuerConfig) { c.Lifetime, c.Confirm = lifetime, alive })
				s := newService(t)
				e.use(func(ctx context.Context, _ sessions.Session) {
					first := e.mustToken(ctx)
					txn := claimsOf(t, first)["txn"]
					made := time.Now()
					exp, err := claimsOf(t, first)["exp"].(json.Number).Int64()
					require.NoError(t, err)
					life := time.Unix(exp, 0).Sub(made)
					require.Positive(t, life)
					require.LessOrEqual(t, life, lifetime)
					time.Sleep(life/2 - time.Millisecond)
					require.Equal(t, first, e.mustToken(ctx))
					time.Sleep(time.Millisecond)
					e.mustToken(ctx) // the same, if it is of the same second
					require.EqualValues(t, 2, signer.n.Load())
					for range 200 { // whenever it is asked for, it is one that lives
						time.Sleep(lifetime/20 + 7*time.Millisecond)
						token := e.mustToken(ctx)
						require.NoError(t, s.verifier.VerifyAt(ctx, token, time.Now()))
						require.Equal(t, txn, claimsOf(t, token)["txn"])
					}
				})
			})
		})
	}
}

// alive confirms every session.
func alive(context.Context, string) (bool, error) { return true, nil }

// A request may go on for hours. What it says of its session is that of its beginning, unless the store was asked since.
func TestIssuer_ALongRequestDoesNotOutliveTheLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := counted(t)
		s := newService(t)
		e.use(func(ctx context.Context, _ sessions.Session) {
			began := time.Now()
			for at := time.Duration(0); at < relay.DefaultLifetime; at += 7 * time.Second {
				token := e.mustToken(ctx)
				require.NoError(t, s.verifier.VerifyAt(ctx, token, began.Add(relay.DefaultLifetime-time.Second)))
				require.Error(t, s.verifier.VerifyAt(ctx, token, began.Add(relay.DefaultLifetime)))
				time.Sleep(7 * time.Second)
			}
			token, err := e.issuer.Token(ctx)
			require.ErrorContains(t, err, "set IssuerConfig.Confirm")
			require.NotErrorIs(t, err, sessions.ErrGone, "nobody knows")
			require.Empty(t, token)
		})

		var asked []string
		answer, failure := true, error(nil)
		e, _ = counted(t, func(c *relay.IssuerConfig) {
			c.Confirm = func(_ context.Context, id string) (bool, error) {
				asked = append(asked, id)
				return answer, failure
			}
		})
		e.use(func(ctx context.Context, at sessions.Session) {
			e.mustToken(ctx)
			time.Sleep(relay.DefaultLifetime/2 - time.Second)
			e.mustToken(ctx)
			require.Empty(t, asked, "an ordinary request costs nothing")
			for range 20 {
				time.Sleep(relay.DefaultLifetime / 2)
				require.NoError(t, s.verifier.VerifyAt(ctx, e.mustToken(ctx), time.Now().Add(relay.DefaultLifetime/2)))
				e.mustToken(ctx)
			}
			require.Len(t, asked, 20)
			require.Equal(t, at.ID(), asked[0])
			time.Sleep(relay.DefaultLifetime / 2)
			failure = errStore
			_, err := e.issuer.Token(ctx)
			require.ErrorIs(t, err, errStore)
			answer, failure = false, nil
			_, err = e.issuer.Token(ctx)
			require.ErrorIs(t, err, sessions.ErrGone)
		})
	})
}

func TestIssuer_ATokenEndsNoLaterThanItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond)
		e, _ := counted(t, func(c *relay.IssuerConfig) { c.Confirm = alive })
		s := newService(t)
		e.use(func(_ context.Context, s sessions.Session) { s.SetLifetime(40*time.Second, true) })
		time.Sleep(4 * time.Second)                            // under 1/8 of it: the session is not touched
		e.click(func(_ http.ResponseWriter, r *http.Request) { // its commit finds the session gone
			ctx := r.Context()
			at, err := sessions.Get(ctx)
			require.NoError(t, err)
			token := e.mustToken(ctx)
			exp, err := claimsOf(t, token)["exp"].(json.Number).Int64()
			require.NoError(t, err)
			ends := at.ExpiresAt()
			require.Equal(t, ends.Unix(), exp)
			require.Less(t, time.Until(ends), 37*time.Second)
			require.False(t, time.Unix(exp, 0).After(ends))

			time.Sleep(time.Until(time.Unix(exp, 0)) - time.Nanosecond)
			require.NoError(t, s.verifier.VerifyAt(ctx, token, time.Now()))
			time.Sleep(time.Nanosecond)
			require.Error(t, s.verifier.VerifyAt(ctx, token, time.Now()))
			_, err = e.issuer.Token(ctx) // the request goes on, the session does not
			require.ErrorIs(t, err, sessions.ErrGone)
			time.Sleep(time.Hour)
			_, err = e.issuer.Token(ctx)
			require.ErrorIs(t, err, sessions.ErrGone)
			at.SetLifetime(time.Hour, true) // it does now
			require.NoError(t, s.verifier.VerifyAt(ctx, e.mustToken(ctx), time.Now()))
			at.SetLifetime(5*time.Second, true) // a shorter life ends the token with it
			exp, err = claimsOf(t, e.mustToken(ctx))["exp"].(json.Number).Int64()
			require.NoError(t, err)
			require.LessOrEqual(t, time.Until(time.Unix(exp, 0)), 5*time.Second)
		})
	})
}

// failingStore cannot answer.
type failingStore struct{ sessions.Store }

var errStore = errors.New("the store is down")

func (failingStore) Load(context.Context, string, string) (*sessions.Record, error) {
	return nil, errStore
}

func TestP14_AnOutageAtTheEdgeFailsTheCall(t *testing.T) {
	memory := newMemory()
	good := newEdge(t, memory)
	good.login()
	e := newEdge(t, failingStore{memory})
	e.cookies = good.cookies
	nw := newNetwork(t, 1)
	w := e.click(func(_ http.ResponseWriter, r *http.Request) {
		_, err := e.issuer.Token(r.Context())
		require.ErrorIs(t, err, errStore)
		body := &trackedBody{Reader: strings.NewReader("x")}
		req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, nw.servers[0].URL, body)
		require.NoError(t, err)
		client := &http.Client{Transport: e.issuer.Transport(nil)}
		_, err = client.Do(req)
		require.ErrorIs(t, err, errStore)
		require.Equal(t, 1, body.closed)
	})
	require.Equal(t, http.StatusOK, w.Code)
	require.Empty(t, nw.take(), "nobody was called, least of all as nobody")
}

func TestIssuer_WithoutAManager(t *testing.T) {
	e := newEdge(t, newMemory())
	e.issuer.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := e.issuer.Token(r.Context())
		require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	other := newEdge(t, newMemory())
	other.login()
	other.use(func(ctx context.Context, _ sessions.Session) {
		_, err := e.issuer.Token(ctx)
		require.ErrorIs(t, err, relay.ErrNotWrapped, "wrapped by another issuer")
	})
}

func TestIssuer_TooLarge(t *testing.T) {
	e, _ := counted(t, func(c *relay.IssuerConfig) { c.MaxSize = 700 })
	nw := newNetwork(t, 1)
	e.use(func(ctx context.Context, s sessions.Session) {
		e.mustToken(ctx)
		require.NoError(t, tenant.Set(s, strings.Repeat("x", 700)))
		_, err := e.issuer.Token(ctx)
		require.ErrorIs(t, err, sessions.ErrTooLarge)
		require.Regexp(t, `the token is \d{4} bytes, more than MaxSize, 700: share fewer`, err.Error())
		require.NotContains(t, err.Error(), "xx")
		fmt.Fprintln(&watch, err)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, nw.servers[0].URL, nil)
		require.NoError(t, err)
		_, err = e.issuer.Transport(nil).RoundTrip(req)
		require.ErrorIs(t, err, sessions.ErrTooLarge)
		require.Empty(t, nw.take())
		require.NoError(t, tenant.Set(s, "small again"))
		e.mustToken(ctx)
	})
}

func TestIssuer_ASignerThatFails(t *testing.T) {
	e, signer := counted(t)
	e.use(func(ctx context.Context, _ sessions.Session) {
		signer.err = errors.New("the module is locked")
		_, err := e.issuer.Token(ctx)
		require.ErrorIs(t, err, signer.err)
		signer.err = nil
		e.mustToken(ctx) // the failure is not remembered
	})
}

// TestIssuer_Algorithms: both, from keys in memory and from signers that are opaque.
func TestIssuer_Algorithms(t *testing.T) {
	for _, a := range algorithms {
		for name, signer := range map[string]crypto.Signer{"in memory": signerOf(t, a, 1), "opaque": &countingSigner{signer: signerOf(t, a, 1)}} {
			t.Run(string(a)+" "+name, func(t *testing.T) {
				key := signingKey(t, "k1", signer)
				e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Key = key })
				s := newService(t, func(c *relay.VerifierConfig) { c.Algorithm, c.Keys = a, keySet(t, key.Public()) })
				wrong := newService(t, func(c *relay.VerifierConfig) {
					c.Keys = keySet(t, key.Public())
					if a == relay.EdDSA {
						c.Algorithm = relay.ES256
					}
				})
				e.login()
				for range 50 { // numbers of ECDSA that begin with a zero are shorter
					token := e.token()
					s.accepts(token)
					wrong.refuses(tampered, token)
				}
				if c, ok := signer.(*countingSigner); ok {
					require.EqualValues(t, 50, c.n.Load())
				}
			})
		}
	}
}

// TestIssuer_TestDoubles: a handler at the edge is tested with a session of package sessiontest.
func TestIssuer_TestDoubles(t *testing.T) {
	e := newEdge(t, newMemory())
	r, s := sessiontest.WithSession(httptest.NewRequest(http.MethodGet, "/", nil))
	require.NoError(t, userID.Set(s, 42))
	e.issuer.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.Equal(t, s.ID(), claimsOf(t, e.mustToken(r.Context()))["sid"])
	})).ServeHTTP(httptest.NewRecorder(), r)
}

func TestIssuer_Keys(t *testing.T) {
	next, last := signingKey(t, "k2", ecKey(t, 2)).Public(), signingKey(t, "k0", edKey(3)).Public()
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Published = []relay.PublicKey{next, last} })
	get := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		e.issuer.Keys().ServeHTTP(w, httptest.NewRequest(method, "/keys", nil))
		return w
	}
	w := get(http.MethodGet)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "application/jwk-set+json", w.Header().Get("Content-Type"))
	require.Contains(t, w.Header().Get("Cache-Control"), "max-age=")
	var set struct{ Keys []map[string]string }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &set))
	slices.SortFunc(set.Keys, func(a, b map[string]string) int { return strings.Compare(a["kid"], b["kid"]) })
	want := func(k relay.PublicKey, alg string) map[string]string {
		m := map[string]string{"kid": k.ID, "alg": alg, "use": "sig"}
		for name, value := range jwkOf(t, k.Key, nil) {
			m[name] = value.(string)
		}
		return m
	}
	require.Equal(t, []map[string]string{want(last, "EdDSA"), want(signingKey(t, "k1", edKey(1)).Public(), "EdDSA"), want(next, "ES256")}, set.Keys,
		"and nothing private")
	require.Equal(t, http.StatusOK, get(http.MethodHead).Code)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		w := get(method)
		require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	}
}

func TestP11_KeysPrintNoSecret(t *testing.T) {
	seed := string(edKey(1).Seed())
	key := signingKey(t, "k1", edKey(1))
	cfg := relay.IssuerConfig{Issuer: issuerName, TrustDomain: trustDomain, Key: key, Hosts: []string{"a"}}
	issuer, err := relay.NewIssuer(cfg)
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		require.Equal(t, "relay.SigningKey(k1)", fmt.Sprintf(verb, key), verb)
		for _, v := range []any{key, &key, cfg, &cfg, issuer, *issuer, struct{ k relay.SigningKey }{key}} {
			text := fmt.Sprintf(verb, v)
			for _, secret := range []string{seed, fmt.Sprintf("%x", seed[:8]), "1 1 1 1", "0x1, 0x1, 0x1", "PrivateKey{"} {
				require.NotContains(t, text, secret, verb)
			}
		}
	}
	require.NotContains(t, asJSON(t, key), seed)
}
