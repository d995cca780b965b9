package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"strings"

	"handover.example/sessions"
	"handover.example/sessions/relay"
	"handover.example/sessions/sessiontest"
)

// What is measured beside sessions: relay tokens, and codecs.

// relayTokens signs at the edge and verifies at a service, in the place of another read of the store.
func relayTokens(algorithm relay.Algorithm) *subject {
	var signer crypto.Signer
	switch algorithm {
	case relay.EdDSA:
		_, key, err := ed25519.GenerateKey(nil)
		check(err)
		signer = key
	case relay.ES256:
		signer = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	}
	key := must(relay.NewSigningKey("bench", signer))
	issuer := must(relay.NewIssuer(relay.IssuerConfig{
		Issuer: "https://edge.example", TrustDomain: "bench", Key: key, Hosts: []string{"orders.internal"},
		Share: relay.Share(userKey), Lifetime: relay.MaxLifetime,
	}))
	verifier := must(relay.NewVerifier(relay.VerifierConfig{
		Issuer: "https://edge.example", TrustDomain: "bench", Keys: must(relay.NewKeySet(key.Public())), Algorithm: algorithm,
	}))
	// A request at the edge, its session loaded already. The next call signs: it is the first of its click.
	atEdge := func() *http.Request {
		r, s := sessiontest.WithSession(request(""))
		check(userKey.Set(s, someUser))
		check(visitsKey.Set(s, 1))
		return r
	}
	var last string
	issue := issuer.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last = must(issuer.Token(r.Context()))
		_, _ = w.Write(ok)
	}))
	fresh := func() *http.Request {
		issue.ServeHTTP(&response{header: http.Header{}}, atEdge())
		r := request("")
		r.Header.Set(relay.DefaultHeader, last)
		return r
	}
	service := verifier.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, _ := userKey.Get(session(r)); u != someUser {
			panic(lost)
		}
		_, _ = w.Write(ok)
	}))
	return &subject{
		name: "relay, " + string(algorithm), library: "handover", store: "relay", ops: []op{sign, verify, verifyAgain},
		handler: func(o op) http.Handler {
			if o == sign {
				return issue
			}
			return service
		},
		next: map[op]func() *http.Request{sign: atEdge, verify: fresh, verifyAgain: fresh},
	}
}

// codecs are those that a record can be sealed with.
func codecs() []named[sessions.Codec] {
	return []named[sessions.Codec]{
		{"securecookie", must(sessions.NewSecureCookieCodec(hashKey))},
		{"AEAD", must(sessions.NewAEADCodec(hashKey))},
	}
}

type named[T any] struct {
	name string
	it   T
}

const cookieName = "session"

// codecSubject seals and opens the record that a cookie store gives it, of a session with so many further keys. It also
// gives the length of what it seals it into.
func codecSubject(name string, codec sessions.Codec, keys int) (*subject, int) {
	spy := &spyCodec{Codec: codec}
	cookie := handoverCookie(name, spy).create(keys, false)
	plain, sealed := spy.plain, strings.TrimPrefix(cookie, cookieName+"=")
	return &subject{
		name: name + " codec", library: "handover", store: "codec", ops: []op{seal, open},
		handler: func(o op) http.Handler {
			if o == seal {
				return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { must(codec.Seal(cookieName, plain)) })
			}
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				if len(must(codec.Open(cookieName, sealed))) != len(plain) {
					panic(lost)
				}
			})
		},
		create: func(int, bool) string { return "" },
	}, len(sealed)
}

// spyCodec keeps what it is given to seal.
type spyCodec struct {
	sessions.Codec
	plain []byte
}

func (c *spyCodec) Seal(name string, plain []byte) (string, error) {
	c.plain = append([]byte(nil), plain...)
	return c.Codec.Seal(name, plain)
}
