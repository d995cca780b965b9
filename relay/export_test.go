package relay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/url"
	"slices"
	"time"

	"handover.example/sessions/internal/check"
)

// What the tests see of the inside.

const (
	TokenType = tokenType
	ClockSkew = clockSkew
)

// VerifyAt is what Wrap does with a token, at a time.
func (v *Verifier) VerifyAt(ctx context.Context, token string, now time.Time) error {
	_, err := v.verify(ctx, token, now)
	return err
}

// Remembered is how many tokens are in the cache.
func (v *Verifier) Remembered() int {
	v.verified.mu.Lock()
	defer v.verified.mu.Unlock()
	return len(v.verified.young) + len(v.verified.older)
}

// Remember puts tokens with these numbers into the cache.
func (v *Verifier) Remember(from, to int) {
	for n := from; n < to; n++ {
		v.verified.put(numbered(n), &claims{})
	}
}

// Remembers looks for one of them.
func (v *Verifier) Remembers(n int) bool { return v.verified.get(numbered(n)) != nil }

func numbered(n int) (hash [sha256.Size]byte) {
	binary.BigEndian.PutUint64(hash[:], uint64(n))
	return hash
}

// ParseKeys returns the keys of a JWK set, by ID.
func ParseKeys(text []byte) (map[string]PublicKey, error) { return parseKeys(text) }

// AlgorithmOf returns the one algorithm that a key is for.
func AlgorithmOf(k PublicKey) Algorithm { return k.algorithm }

// Hosts are listed hosts.
type Hosts struct{ hosts }

func NewHosts(names ...string) (Hosts, error) {
	bad := check.Mistakes{New: configError}
	h := newHosts(names, &bad)
	return Hosts{h}, bad.Join()
}

func (h Hosts) Has(u *url.URL) bool { return h.has(u) }

// Spellings returns the listed names and ports, as they are compared.
func (h Hosts) Spellings() (all [][2]string) {
	for _, k := range slices.Collect(maps.Keys(h.hosts)) {
		all = append(all, [2]string{k.name, k.port})
	}
	return all
}
