package relay_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/relay"
	"handover.example/sessions/sessiontest"
)

var (
	exampleUser   = sessions.NewKey[int64]("user_id")
	exampleTenant = sessions.NewKey[string]("tenant")

	_, examplePrivate, _ = ed25519.GenerateKey(nil)
	exampleKey, _        = relay.NewSigningKey("2026-11", examplePrivate)
	exampleKeys, _       = relay.NewKeySet(exampleKey.Public())
)

// exampleIssuer is an edge that sends tokens to orders.internal.
func exampleIssuer() *relay.Issuer {
	issuer, err := relay.NewIssuer(relay.IssuerConfig{
		Issuer: "https://shop.example", TrustDomain: "shop", Key: exampleKey, Hosts: []string{"orders.internal"},
		Share: relay.Share(exampleUser), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return issuer
}

func exampleVerifier() *relay.Verifier {
	verifier, err := relay.NewVerifier(relay.VerifierConfig{
		Issuer: "https://shop.example", TrustDomain: "shop", Keys: exampleKeys, Hosts: []string{"stock.internal"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	return verifier
}

// exampleRequest is a request to the edge by user 42.
func exampleRequest() *http.Request {
	r, s := sessiontest.WithSession(httptest.NewRequest("GET", "/", nil))
	_ = exampleUser.Set(s, 42)
	return r
}

// exampleBase replaces the network, and prints which host got a token.
var exampleBase = roundTripper(func(r *http.Request) (*http.Response, error) {
	fmt.Printf("%s: token %v\n", r.URL.Host, r.Header.Get(relay.DefaultHeader) != "")
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
})

// exampleToken is what orders.internal gets for user 42.
func exampleToken() (token string) {
	issuer := exampleIssuer()
	issuer.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ = issuer.Token(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), exampleRequest())
	return token
}

func ExampleNewIssuer() {
	key, err := relay.NewSigningKey("2026-11", examplePrivate)
	if err != nil {
		panic(err)
	}
	_, err = relay.NewIssuer(relay.IssuerConfig{
		Issuer:      "https://shop.example",
		TrustDomain: "shop",
		Key:         key,
		Hosts:       []string{"orders.internal", "stock.internal:8080"},
		Share:       relay.Share(exampleUser, exampleTenant),
	})
	fmt.Println(err)
	// Output: <nil>
}

func ExampleIssuer_Wrap() {
	issuer := exampleIssuer()
	handler := issuer.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%q\n", r.Header.Get("Txn-Token"))
	}))
	r := exampleRequest()
	r.Header.Set("Txn-Token", "a token that the client has made up")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output: ""
}

func ExampleIssuer_Transport() {
	issuer := exampleIssuer()
	client := &http.Client{Transport: issuer.Transport(exampleBase)} // nil for the network
	handler := issuer.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, address := range []string{"https://orders.internal/42", "https://maps.example/"} {
			req, err := http.NewRequestWithContext(r.Context(), "GET", address, nil)
			if err != nil {
				panic(err)
			}
			if res, err := client.Do(req); err == nil {
				res.Body.Close()
			}
		}
	}))
	handler.ServeHTTP(httptest.NewRecorder(), exampleRequest())
	// Output:
	// orders.internal: token true
	// maps.example: token false
}

// A request without the context of the one being served: there is no session to take a token from.
func ExampleIssuer_Transport_incorrect() {
	issuer := exampleIssuer()
	client := &http.Client{Transport: issuer.Transport(exampleBase)}
	handler := issuer.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequest("GET", "https://orders.internal/42", nil) // use http.NewRequestWithContext
		_, err := client.Do(req)
		fmt.Println(errors.Is(err, relay.ErrNotWrapped))
	}))
	handler.ServeHTTP(httptest.NewRecorder(), exampleRequest())
	// Output: true
}

func ExampleIssuer_Token() {
	issuer := exampleIssuer()
	handler := issuer.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := issuer.Token(r.Context()) // for a call that is not HTTP
		fmt.Println(strings.Count(token, ".")+1, "parts,", err)
	}))
	handler.ServeHTTP(httptest.NewRecorder(), exampleRequest())
	// Output: 3 parts, <nil>
}

func ExampleIssuer_Keys() {
	mux := http.NewServeMux() // of a server that only the inside can reach
	mux.Handle("GET /keys", exampleIssuer().Keys())

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/keys", nil))
	var set struct{ Keys []map[string]string }
	_ = json.Unmarshal(w.Body.Bytes(), &set)
	fmt.Println(len(set.Keys), set.Keys[0]["kid"], set.Keys[0]["alg"])
	// Output: 1 2026-11 EdDSA
}

func ExampleNewSigningKey() {
	// openssl genpkey -algorithm ed25519
	const file = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB
-----END PRIVATE KEY-----`
	block, _ := pem.Decode([]byte(file))
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		panic(err)
	}
	key, err := relay.NewSigningKey("2026-11", private.(crypto.Signer))
	fmt.Println(key, err)
	// Output: relay.SigningKey(2026-11) <nil>
}

func ExampleNewKeySet() {
	_, next, _ := ed25519.GenerateKey(nil)
	nextKey, _ := relay.NewSigningKey("2027-05", next)
	// Services get the next key before the edge signs with it.
	keys, err := relay.NewKeySet(exampleKey.Public(), nextKey.Public())
	if err != nil {
		panic(err)
	}
	_, err = keys.Key(context.Background(), "2027-05")
	fmt.Println(err)
	_, err = keys.Key(context.Background(), "2025-01")
	fmt.Println(err)
	// Output:
	// <nil>
	// relay: no such key
}

func ExampleNewRemoteKeySet() {
	edge := httptest.NewServer(exampleIssuer().Keys())
	defer edge.Close()

	keys, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: edge.URL})
	if err != nil {
		panic(err)
	}
	key, err := keys.Key(context.Background(), "2026-11") // what a Verifier does
	fmt.Println(key.ID, err)
	// Output: 2026-11 <nil>
}

func ExampleNewVerifier() {
	_, err := relay.NewVerifier(relay.VerifierConfig{
		Issuer:      "https://shop.example",
		TrustDomain: "shop",
		Keys:        exampleKeys,
		Hosts:       []string{"stock.internal"},
	})
	fmt.Println(err)
	// Output: <nil>
}

func ExampleVerifier_Wrap() {
	handler := exampleVerifier().Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context()) // as at the edge
		if err != nil {
			panic(err)
		}
		user, ok := exampleUser.Get(s)
		fmt.Println(user, ok)
		fmt.Println(exampleUser.Set(s, 1))
	}))
	call := func(token string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Txn-Token", token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	call(exampleToken())
	call("something else")
	// Output:
	// 42 true
	// sessions: the session is read-only
	// 200
	// 401
}

func ExampleVerifier_Transport() {
	verifier := exampleVerifier()
	client := &http.Client{Transport: verifier.Transport(exampleBase)}
	handler := verifier.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, address := range []string{"https://stock.internal/7", "https://maps.example/"} {
			req, _ := http.NewRequestWithContext(r.Context(), "GET", address, nil)
			if res, err := client.Do(req); err == nil {
				res.Body.Close()
			}
		}
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Txn-Token", exampleToken())
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// stock.internal: token true
	// maps.example: token false
}

func ExampleConfirm() {
	loggedIn := true
	verifier, err := relay.NewVerifier(relay.VerifierConfig{
		Issuer: "https://shop.example", TrustDomain: "shop", Keys: exampleKeys,
		// In a program: the method Alive of a sessions.RedisStore.
		Confirm: func(ctx context.Context, sessionID string) (bool, error) { return loggedIn, nil },
	})
	if err != nil {
		panic(err)
	}
	pay := verifier.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch err := relay.Confirm(r.Context()); {
		case errors.Is(err, sessions.ErrGone), errors.Is(err, sessions.ErrNotFound):
			fmt.Println("please log in")
		case err != nil:
			fmt.Println("please try again") // nobody knows
		default:
			fmt.Println("paid")
		}
	}))
	token := exampleToken()
	for range 2 {
		r := httptest.NewRequest("POST", "/pay", nil)
		r.Header.Set("Txn-Token", token)
		pay.ServeHTTP(httptest.NewRecorder(), r)
		loggedIn = false // a logout; the token is good for another minute
	}
	// Output:
	// paid
	// please log in
}

func ExampleTransaction() {
	verifier, err := relay.NewVerifier(relay.VerifierConfig{Issuer: "https://shop.example", TrustDomain: "shop", Keys: exampleKeys})
	if err != nil {
		panic(err)
	}
	handler := verifier.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("in every log line:", relay.Transaction(r.Context()) != "")
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Txn-Token", exampleToken())
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output: in every log line: true
}

func ExampleShare() {
	cfg := relay.IssuerConfig{
		Share:    relay.Share(exampleUser, exampleTenant), // and nothing else of the session
		Lifetime: 30 * time.Second,
	}
	fmt.Println(cfg.Share)
	// Output: [user_id tenant]
}
