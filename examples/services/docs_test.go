package main_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
	"handover.example/sessions/sessiontest"
)

// The code of docs/relay.md.

var (
	userID = sessions.NewKey[int64]("user_id")
	tenant = sessions.NewKey[string]("tenant")
)

func loadKey(id, file string) (relay.SigningKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return relay.SigningKey{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return relay.SigningKey{}, fmt.Errorf("%s is not a PEM file", file)
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return relay.SigningKey{}, err
	}
	signer, _ := private.(crypto.Signer)
	return relay.NewSigningKey(id, signer)
}

func edge(mgr *sessions.Manager, mux http.Handler, key relay.SigningKey) (outside, keys http.Handler, client *http.Client, err error) {
	issuer, err := relay.NewIssuer(relay.IssuerConfig{
		Issuer:      "https://shop.example",
		TrustDomain: "shop",
		Key:         key,
		Hosts:       []string{"orders.internal:8080", "stock.internal:8080"},
		Share:       relay.Share(userID, tenant),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	client = &http.Client{Transport: issuer.Transport(nil), Timeout: 5 * time.Second}
	return issuer.Wrap(mgr.Wrap(mux)), issuer.Keys(), client, nil
}

func service(mux http.Handler, store *sessions.RedisStore) (http.Handler, *http.Client, error) {
	keys, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: "https://edge.internal/keys"})
	if err != nil {
		return nil, nil, err
	}
	verifier, err := relay.NewVerifier(relay.VerifierConfig{
		Issuer:      "https://shop.example",
		TrustDomain: "shop",
		Keys:        keys,
		Hosts:       []string{"stock.internal:8080"}, // those that it calls itself
		Confirm:     store.Alive,                     // asked by relay.Confirm alone
	})
	if err != nil {
		return nil, nil, err
	}
	client := &http.Client{Transport: verifier.Transport(nil), Timeout: 5 * time.Second}
	return verifier.Wrap(mux), client, nil
}

func orders(client *http.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		id, ok := userID.Get(s)
		if !ok { // nobody is logged in
			http.Error(w, "please log in", http.StatusUnauthorized)
			return
		}
		// The context carries the session: with http.NewRequest, the call would fail.
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, fmt.Sprintf("http://stock.internal:8080/reserved/%d", id), nil)
		if err != nil {
			http.Error(w, "try again", http.StatusInternalServerError)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			http.Error(w, "try again", http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}
}

func pay(w http.ResponseWriter, r *http.Request) {
	switch err := relay.Confirm(r.Context()); {
	case errors.Is(err, sessions.ErrGone), errors.Is(err, sessions.ErrNotFound):
		http.Error(w, "please log in", http.StatusUnauthorized)
		return
	case err != nil: // the store did not answer: do not take the step
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "paid")
}

func relayPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/relay.md")
	require.NoError(t, err)
	return string(page)
}

// What the page shows is what compiles here, and what the other tests run.
func TestRelayPage_Code(t *testing.T) {
	source, err := os.ReadFile("docs_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(relayPage(t), -1)
	require.Len(t, blocks, 6)
	for _, b := range blocks {
		require.Contains(t, string(source), "\n\n"+b[1])
	}
}

func TestRelayPage_Runs(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "relay-2026-11.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	key, err := loadKey("2026-11", file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte("nothing"), 0o600))
	_, err = loadKey("2026-11", file)
	require.Error(t, err)

	mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore()})
	require.NoError(t, err)
	outside, keys, _, err := edge(mgr, http.NotFoundHandler(), key)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, answer(outside).Code)
	require.Contains(t, answer(keys).Body.String(), `"kid":"2026-11"`)

	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // not asked
	t.Cleanup(func() { _ = rdb.Close() })
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	mux := http.NewServeMux()
	inside, client, err := service(mux, store)
	require.NoError(t, err)
	mux.HandleFunc("GET /{$}", orders(client))
	require.Equal(t, http.StatusUnauthorized, answer(inside).Code, "no token: nobody")
	mux.HandleFunc("GET /pay", pay)
	w := httptest.NewRecorder()
	inside.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/pay", nil))
	require.Equal(t, http.StatusUnauthorized, w.Code)
}

func answer(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w
}

// Fields, defaults and claims have the names and values that the package gives them.
func TestRelayPage_Names(t *testing.T) {
	page := relayPage(t)
	source := ""
	for _, file := range []string{"issuer.go", "keys.go", "token.go", "verifier.go", "event.go"} {
		text, err := os.ReadFile(filepath.Join("../../relay", file))
		require.NoError(t, err)
		source += string(text)
	}
	types := map[string]reflect.Type{
		"IssuerConfig": reflect.TypeFor[relay.IssuerConfig](), "VerifierConfig": reflect.TypeFor[relay.VerifierConfig](),
		"RemoteKeySetConfig": reflect.TypeFor[relay.RemoteKeySetConfig](),
	}
	fields := regexp.MustCompile(`(\w+Config)\.([A-Z]\w+)`).FindAllStringSubmatch(page, -1)
	require.NotEmpty(t, fields)
	for _, f := range fields {
		require.Contains(t, types, f[1])
		_, ok := types[f[1]].FieldByName(f[2])
		require.True(t, ok, f[0])
	}
	for _, name := range []string{"Refresh", "Retry", "Keep", "CacheSize", "Lifetime", "MaxSize", "Published", "Algorithm"} {
		require.True(t, strings.Contains(page, "`"+name), "the page does not speak of %s", name)
		found := false
		for _, typ := range types {
			_, ok := typ.FieldByName(name)
			found = found || ok
		}
		require.True(t, found, "%s: there is no such field", name)
	}

	for _, claim := range regexp.MustCompile(`json:"(\w+)[",]`).FindAllStringSubmatch(source[strings.Index(source, "type claims"):], -1)[:10] {
		row := regexp.MustCompile("(?m)^\\| `([a-z_]+`, `)?" + claim[1] + "`")
		require.True(t, row.MatchString(page), "the claim %s is not in the table", claim[1])
	}

	// A default that changes is to change here as well.
	require.Equal(t, time.Minute, relay.DefaultLifetime)
	require.Equal(t, 5*time.Minute, relay.MaxLifetime)
	require.Equal(t, 4096, relay.DefaultMaxSize)
	require.Equal(t, "Txn-Token", relay.DefaultHeader)
	for _, s := range []string{`{"Refresh", &cfg.Refresh, 5 * time.Minute}`, `{"Retry", &cfg.Retry, 10 * time.Second}`,
		`{"Keep", &cfg.Keep, 24 * time.Hour}`, `clockSkew = 5 * time.Second`, `max-age=60`, `"txntoken+jwt"`} {
		require.True(t, strings.Contains(source, s), "package relay no longer has %s: what does docs/relay.md say?", s)
	}
}
