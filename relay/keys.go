package relay

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	josejson "github.com/go-jose/go-jose/v4/json"

	"handover.example/sessions"
	"handover.example/sessions/internal/check"
)

// Algorithm is the signature algorithm of tokens. A deployment has one, and it is never the token that chooses it.
type Algorithm string

const (
	// EdDSA is Ed25519 (RFC 8037), the default.
	EdDSA Algorithm = "EdDSA"
	// ES256 is ECDSA on P-256 with SHA-256 (RFC 7518), for keys in hardware.
	ES256 Algorithm = "ES256"
)

// ErrUnknownKey is the error of a [KeySet] that does not have a key. A token that names the key is rejected. After any
// other error the verifier cannot tell, and responds with 503.
var ErrUnknownKey = errors.New("relay: no such key")

var errNoKeys = errors.New("relay: the edge's keys have not been fetched yet, and the last attempt was a moment ago")

// SigningKey signs tokens. Create one with [NewSigningKey]. It is safe for concurrent use if its signer is, as those of
// the standard library are. Printing it shows no secret.
type SigningKey struct {
	public PublicKey
	signer jose.Signer
}

// NewSigningKey returns a key with this ID, by which verifiers find it. Each key needs its own ID, such as the date on
// which it was made. The signer is an ed25519.PrivateKey for [EdDSA], or an ECDSA key on P-256 for [ES256], in memory
// or in hardware. To read a key from a file, use x509.ParsePKCS8PrivateKey.
func NewSigningKey(id string, signer crypto.Signer) (SigningKey, error) {
	var key crypto.PublicKey
	switch s := signer.(type) {
	case ed25519.PrivateKey:
		if len(s) == ed25519.PrivateKeySize { // Public panics otherwise
			key = s.Public()
		}
	default:
		if !check.IsNil(signer) {
			key = signer.Public()
		}
	}
	public, err := NewPublicKey(id, key)
	if err != nil {
		return SigningKey{}, err
	}
	options := (&jose.SignerOptions{}).WithType(tokenType).WithHeader("kid", id)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(public.algorithm), Key: cryptosigner.Opaque(signer)}, options)
	if err != nil {
		return SigningKey{}, &sessions.ConfigError{Field: "signer", Reason: err.Error()}
	}
	return SigningKey{public: public, signer: s}, nil
}

// Public returns the public key, which verifiers need.
func (k SigningKey) Public() PublicKey { return k.public }

// Format prints the ID of the key, with every verb.
func (k SigningKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "relay.SigningKey(%s)", k.public.ID) }

// PublicKey verifies tokens. Create one with [NewPublicKey] or [SigningKey.Public].
type PublicKey struct {
	// ID is the kid of the tokens that the key signs.
	ID string
	// Key is an ed25519.PublicKey or an *ecdsa.PublicKey on P-256.
	Key crypto.PublicKey

	algorithm Algorithm
}

// NewPublicKey returns a public key with this ID.
func NewPublicKey(id string, key crypto.PublicKey) (PublicKey, error) {
	p := PublicKey{ID: id, Key: key}
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			p.algorithm = EdDSA
		}
	case *ecdsa.PublicKey:
		if k != nil && k.Curve == elliptic.P256() && k.X != nil && k.Y != nil {
			if _, err := k.ECDH(); err == nil { // on the curve
				p.algorithm = ES256
			}
		}
	}
	var bad []error
	if p.algorithm == "" {
		bad = append(bad, &sessions.ConfigError{Field: "key", Reason: fmt.Sprintf("%T is neither an Ed25519 key nor an ECDSA key on P-256", key)})
	}
	if !isKeyID(id) {
		bad = append(bad, &sessions.ConfigError{Field: "id", Reason: "must be 1 to 64 letters, digits, '.', '_' or '-'"})
	}
	return p, errors.Join(bad...)
}

func isKeyID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return 1 <= len(id) && len(id) <= 64
}

// KeySet holds the public keys of the edge. Implementations must be safe for concurrent use.
type KeySet interface {
	// Key returns the key with this ID, or [ErrUnknownKey]. The ID comes from a token, so anyone may have chosen it.
	Key(ctx context.Context, id string) (PublicKey, error)
}

// keyMap is a KeySet that does not change.
type keyMap map[string]PublicKey

// NewKeySet returns a KeySet of these keys. To rotate keys without rejecting a token, first add the new key at all
// services, then let the edge sign with it, and remove the old key when its last token has expired.
func NewKeySet(keys ...PublicKey) (KeySet, error) {
	m, err := newKeyMap(keys)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func newKeyMap(keys []PublicKey) (keyMap, error) {
	m := keyMap{}
	var bad []error
	for i, k := range keys {
		switch k, err := NewPublicKey(k.ID, k.Key); {
		case err != nil:
			bad = append(bad, fmt.Errorf("keys[%d]: %w", i, err))
		case m[k.ID].Key != nil:
			bad = append(bad, &sessions.ConfigError{Field: fmt.Sprintf("keys[%d]", i), Reason: "another key has the same ID"})
		default:
			m[k.ID] = k
		}
	}
	if len(keys) == 0 {
		bad = append(bad, &sessions.ConfigError{Field: "keys", Reason: "at least one is required"})
	}
	return m, errors.Join(bad...)
}

func (m keyMap) Key(_ context.Context, id string) (PublicKey, error) {
	k, ok := m[id]
	if !ok {
		return PublicKey{}, ErrUnknownKey
	}
	return k, nil
}

// marshalKeys encodes the keys as a JWK set (RFC 7517).
func marshalKeys(keys []PublicKey) ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Key, KeyID: k.ID, Algorithm: string(k.algorithm), Use: "sig"})
	}
	return json.Marshal(set)
}

// parseKeys decodes a JWK set. It ignores keys for other uses and of other kinds, as RFC 7517, section 5, requires.
func parseKeys(text []byte) (keyMap, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := josejson.Unmarshal(text, &set); err != nil { // unlike encoding/json, it rejects duplicate members
		return nil, errors.New("not a JWK set")
	}
	var keys []PublicKey
	for _, raw := range set.Keys {
		var jwk jose.JSONWebKey
		if jwk.UnmarshalJSON(raw) != nil || !jwk.IsPublic() || jwk.Use != "" && jwk.Use != "sig" {
			continue
		}
		k, err := NewPublicKey(jwk.KeyID, jwk.Key)
		if err == nil && (jwk.Algorithm == "" || jwk.Algorithm == string(k.algorithm)) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the JWK set has no usable key")
	}
	return newKeyMap(keys)
}

// RemoteKeySetConfig is the configuration of a [RemoteKeySet].
type RemoteKeySetConfig struct {
	_ [0]func()

	// URL is where the edge publishes its keys with [Issuer.Keys]. Required. Use HTTPS unless you trust the network:
	// anyone who can answer in place of the edge can mint tokens.
	URL string
	// Client fetches the keys. The default client has a timeout of 5 seconds, uses no proxy, and follows no redirects.
	Client *http.Client
	// Refresh is how old the keys may become before they are fetched again. Default 5 minutes. A new key must be published
	// for that long before it signs.
	Refresh time.Duration
	// Retry is the minimum time between two fetches, even if tokens name unknown keys. Default 10 seconds.
	Retry time.Duration
	// Keep is how long keys stay valid while the edge does not answer. Default 24 hours. If a key is withdrawn because
	// it was stolen, an attacker who can keep the edge from answering can use the key here for that long.
	Keep time.Duration
}

// RemoteKeySet is a [KeySet] that fetches the keys of the edge over HTTP when a token first needs one, and refreshes
// them when they are needed later. It needs no Close, and is safe for concurrent use.
type RemoteKeySet struct {
	url                  string
	client               *http.Client
	refresh, retry, keep time.Duration

	mu       sync.Mutex
	keys     keyMap
	fetched  time.Time     // when the keys were fetched
	tried    time.Time     // when the last fetch began
	failure  error         // of the last fetch
	fetching chan struct{} // closed when the running fetch ends; nil if none is running
}

const (
	maxKeySetSize = 64 << 10
	fetchTimeout  = 5 * time.Second
)

// NewRemoteKeySet returns a RemoteKeySet. It does not connect. It reports all configuration mistakes at once, as an
// [errors.Join] of [*sessions.ConfigError] values.
func NewRemoteKeySet(cfg RemoteKeySetConfig) (*RemoteKeySet, error) {
	bad := check.Mistakes{New: configError}
	if u, err := url.Parse(cfg.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		bad.Add("URL", "required: an http or https URL without user information")
	}
	for _, d := range [...]struct {
		field string
		value *time.Duration
		std   time.Duration
	}{{"Refresh", &cfg.Refresh, 5 * time.Minute}, {"Retry", &cfg.Retry, 10 * time.Second}, {"Keep", &cfg.Keep, 24 * time.Hour}} {
		if *d.value < 0 {
			bad.Add(d.field, "%v is negative", *d.value)
		}
		if *d.value == 0 {
			*d.value = d.std
		}
	}
	if cfg.Keep < cfg.Refresh {
		bad.Add("Keep", "%v is less than Refresh, %v: keys would expire before they are fetched again", cfg.Keep, cfg.Refresh)
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: fetchTimeout, Transport: withoutProxy(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &RemoteKeySet{url: cfg.URL, client: cfg.Client, refresh: cfg.Refresh, retry: cfg.Retry, keep: cfg.Keep}, nil
}

// Key returns the key with this ID. It implements [KeySet]. A known key is returned at once, and if the keys are older
// than Refresh, they are fetched in the background. If they are twice as old, because no key was needed meanwhile, Key
// waits for the fetch.
func (s *RemoteKeySet) Key(ctx context.Context, id string) (PublicKey, error) {
	for waited := false; ; waited = true { // wait only once: with a slow edge, another fetch is always running
		now := time.Now()
		s.mu.Lock()
		if now.Sub(s.fetched) >= s.keep {
			s.keys = nil
		}
		key, ok := s.keys[id]
		age := now.Sub(s.fetched)
		wanted := !ok || age >= s.refresh
		// After a time without requests, a key may have been withdrawn: wait for the fetch.
		stale := age >= 2*s.refresh
		allowed := now.Sub(s.tried) >= s.retry
		if wanted && allowed && s.fetching == nil && !waited {
			s.tried, s.fetching = now, make(chan struct{})
			go s.fetch(s.fetching)
		}
		running, keys, failure := s.fetching, s.keys, s.failure
		s.mu.Unlock()
		switch {
		case ok && !(stale && running != nil && !waited):
			return key, nil
		case running != nil && !waited:
			select {
			case <-running:
			case <-ctx.Done():
				return PublicKey{}, ctx.Err()
			}
		case failure != nil: // the key may be new
			return PublicKey{}, failure
		case keys == nil:
			return PublicKey{}, errNoKeys
		default:
			return PublicKey{}, ErrUnknownKey
		}
	}
}

// fetch fetches the keys. Several requests may wait for it, so it does not end with the one that started it.
func (s *RemoteKeySet) fetch(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	keys, err := s.get(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = nil
	if err != nil {
		s.failure = fmt.Errorf("relay: cannot fetch the edge's public keys: %w", err)
	} else {
		s.keys, s.fetched = keys, time.Now()
	}
	s.fetching = nil
	close(done)
}

func (s *RemoteKeySet) get(ctx context.Context) (keyMap, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the response is %s", res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxKeySetSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySetSize {
		return nil, fmt.Errorf("the response is larger than %d bytes", maxKeySetSize)
	}
	return parseKeys(text)
}
