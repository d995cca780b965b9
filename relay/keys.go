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
)

// Algorithm is how tokens are signed: one for each deployment, never what a token asks for.
type Algorithm string

const (
	// EdDSA is Ed25519 (RFC 8037), the default.
	EdDSA Algorithm = "EdDSA"
	// ES256 is ECDSA on P-256 with SHA-256 (RFC 7518), for keys in hardware.
	ES256 Algorithm = "ES256"
)

// ErrUnknownKey is what a [KeySet] returns for a key that it does not have. A token that names it is refused; after any
// other error the verifier cannot tell, and answers 503.
var ErrUnknownKey = errors.New("relay: no such key")

var errNoKeys = errors.New("relay: the keys of the edge were not fetched yet, and it was tried a moment ago")

// SigningKey signs tokens. Make it with [NewSigningKey]. It is safe for concurrent use if the key that it was made from
// is, as those of the standard library are, and prints no secret.
type SigningKey struct {
	public PublicKey
	signer jose.Signer
}

// NewSigningKey returns the key under its ID, by which verifiers find it: give each key another one, such as the date
// on which it was made. The signer is an ed25519.PrivateKey for [EdDSA], or an ECDSA key on P-256 for [ES256], in memory
// or in hardware. A key from a file comes from x509.ParsePKCS8PrivateKey.
func NewSigningKey(id string, signer crypto.Signer) (SigningKey, error) {
	var key crypto.PublicKey
	switch s := signer.(type) {
	case ed25519.PrivateKey:
		if len(s) == ed25519.PrivateKeySize { // Public panics otherwise
			key = s.Public()
		}
	default:
		if !isNil(signer) {
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

// Public returns what verifiers need of the key.
func (k SigningKey) Public() PublicKey { return k.public }

// Format prints the ID of the key, with every verb.
func (k SigningKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "relay.SigningKey(%s)", k.public.ID) }

// PublicKey verifies tokens. Make it with [NewPublicKey], or with [SigningKey.Public].
type PublicKey struct {
	// ID is the kid of the tokens that the key has signed.
	ID string
	// Key is an ed25519.PublicKey or an *ecdsa.PublicKey on P-256.
	Key crypto.PublicKey

	algorithm Algorithm
}

// NewPublicKey returns the key under its ID.
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
		bad = append(bad, &sessions.ConfigError{Field: "id", Reason: "1 to 64 letters, digits, '.', '_' or '-'"})
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

// KeySet has the public keys of the edge. Implementations are safe for concurrent use.
type KeySet interface {
	// Key returns the key with this ID, or [ErrUnknownKey]. The ID is what a token says: anybody may have chosen it.
	Key(ctx context.Context, id string) (PublicKey, error)
}

// keyMap is a KeySet that does not change.
type keyMap map[string]PublicKey

// NewKeySet returns a KeySet of these keys. To change keys without a refused token give the new one to all services
// first, then let the edge sign with it, and take the old one away when its last token has expired.
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

// marshalKeys gives the keys as a JWK set (RFC 7517).
func marshalKeys(keys []PublicKey) ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Key, KeyID: k.ID, Algorithm: string(k.algorithm), Use: "sig"})
	}
	return json.Marshal(set)
}

// parseKeys reads a JWK set. Keys for other uses and of other kinds are passed over, as RFC 7517, section 5, asks.
func parseKeys(text []byte) (keyMap, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := josejson.Unmarshal(text, &set); err != nil { // which refuses a member that is there twice
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
		return nil, errors.New("no key that can be used is in it")
	}
	return newKeyMap(keys)
}

// RemoteKeySetConfig is the configuration of a [RemoteKeySet].
type RemoteKeySetConfig struct {
	_ [0]func()

	// URL is where the edge publishes its keys: [Issuer.Keys]. Required. Use https, unless the network can be trusted not
	// to answer in the place of the edge: whoever answers mints tokens.
	URL string
	// Client fetches it. Default: one that waits 5 seconds, uses no proxy and follows no redirect.
	Client *http.Client
	// Refresh is how old the keys may become before they are fetched again. Default 5 minutes. A new key must be published
	// for that long before it signs.
	Refresh time.Duration
	// Retry is the least time between two fetches, also if tokens name keys that are not there. Default 10 seconds.
	Retry time.Duration
	// Keep is how long keys stay good while the edge does not answer. Default 24 hours. A key that was withdrawn because it
	// was stolen stays good here for as long, for whoever can keep the edge from answering.
	Keep time.Duration
}

// RemoteKeySet is a [KeySet] that fetches the keys of the edge over HTTP when a token first needs one, and again from
// time to time. It starts nothing that must be stopped, and is safe for concurrent use.
type RemoteKeySet struct {
	url                  string
	client               *http.Client
	refresh, retry, keep time.Duration

	mu       sync.Mutex
	keys     keyMap
	fetched  time.Time     // when the keys were fetched
	tried    time.Time     // when the last fetch began
	failure  error         // of the last fetch
	fetching chan struct{} // closed when the fetch that runs has ended; nil if none runs
}

const (
	maxKeySetSize = 64 << 10
	fetchTimeout  = 5 * time.Second
)

// NewRemoteKeySet returns a RemoteKeySet. It does not connect. All mistakes are reported at once, as a join of
// [*sessions.ConfigError].
func NewRemoteKeySet(cfg RemoteKeySetConfig) (*RemoteKeySet, error) {
	var bad mistakes
	if u, err := url.Parse(cfg.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		bad.add("URL", "required: an http or https address without a password")
	}
	for _, d := range [...]struct {
		field string
		value *time.Duration
		std   time.Duration
	}{{"Refresh", &cfg.Refresh, 5 * time.Minute}, {"Retry", &cfg.Retry, 10 * time.Second}, {"Keep", &cfg.Keep, 24 * time.Hour}} {
		if *d.value < 0 {
			bad.add(d.field, "%v is negative", *d.value)
		}
		if *d.value == 0 {
			*d.value = d.std
		}
	}
	if cfg.Keep < cfg.Refresh {
		bad.add("Keep", "%v is less than Refresh, %v: keys would be gone before they are fetched again", cfg.Keep, cfg.Refresh)
	}
	if err := bad.join(); err != nil {
		return nil, err
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: fetchTimeout, Transport: withoutProxy(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &RemoteKeySet{url: cfg.URL, client: cfg.Client, refresh: cfg.Refresh, retry: cfg.Retry, keep: cfg.Keep}, nil
}

// Key returns the key with this ID. A key that is there is returned at once; if the keys are due, they are fetched beside
// that. When they are twice as old as Refresh, because nothing was asked for meanwhile, the fetch is waited for. It implements [KeySet].
func (s *RemoteKeySet) Key(ctx context.Context, id string) (PublicKey, error) {
	for waited := false; ; waited = true { // once: with a slow edge there is always a next fetch
		now := time.Now()
		s.mu.Lock()
		if now.Sub(s.fetched) >= s.keep {
			s.keys = nil
		}
		key, ok := s.keys[id]
		age := now.Sub(s.fetched)
		wanted := !ok || age >= s.refresh
		// After a time without requests a key may have been withdrawn: then the fetch is waited for.
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
		case failure != nil: // the key may be a new one
			return PublicKey{}, failure
		case keys == nil:
			return PublicKey{}, errNoKeys
		default:
			return PublicKey{}, ErrUnknownKey
		}
	}
}

// fetch gets the keys. Requests wait for it, so it does not end with the one that began it.
func (s *RemoteKeySet) fetch(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	keys, err := s.get(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = nil
	if err != nil {
		s.failure = fmt.Errorf("relay: the keys of the edge cannot be fetched: %w", err)
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
		return nil, fmt.Errorf("the answer is %s", res.Status)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxKeySetSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySetSize {
		return nil, fmt.Errorf("the answer is over %d bytes", maxKeySetSize)
	}
	return parseKeys(text)
}
