package sessions

import (
	"context"
	"fmt"
	"time"
)

// maxCookieBytes is what browsers keep of a cookie, name and value together (RFC 6265bis, section 5.6).
const maxCookieBytes = 4096

// CookieStoreConfig is the configuration of a [CookieStore]. It is copied by [NewCookieStore].
type CookieStoreConfig struct {
	_ [0]func()

	// Codec seals and opens the records. Required.
	Codec Codec
}

// CookieStore keeps each record sealed in the client's cookie: nothing is kept on the server. It is safe for
// concurrent use, and must not be copied.
//
// Two limits follow from where the record lives. Of two parallel requests that both write, the cookie that the browser
// receives last counts. And a cookie that was copied before a logout opens until it expires: only a server-side store
// can revoke. Name and sealed record together must fit 4096 bytes.
type CookieStore struct{ codec Codec }

// NewCookieStore returns a CookieStore. All configuration mistakes are reported at once, as a join of [*ConfigError].
func NewCookieStore(cfg CookieStoreConfig) (*CookieStore, error) {
	var bad mistakes
	if isNil(cfg.Codec) {
		bad.add("Codec", "required: make one with NewSecureCookieCodec")
	} else if hasNilCodec(cfg.Codec) {
		bad.add("Codec", "one of those given to Codecs is nil: look at the error of its constructor")
	}
	if err := bad.join(); err != nil {
		return nil, err
	}
	return &CookieStore{codec: cfg.Codec}, nil
}

// String returns "cookie", the name of the store in events.
func (s *CookieStore) String() string { return "cookie" }

// ClientSide reports true: the client's cookie holds the records.
func (s *CookieStore) ClientSide() bool { return true }

// Load opens a sealed record. It implements [Store].
func (s *CookieStore) Load(_ context.Context, name, token string) (*Record, error) {
	if token == "" {
		return nil, &NotFoundError{Outcome: OutcomeMalformed, Detail: "the cookie is empty"}
	}
	if n := len(name) + len(token); n > maxCookieBytes {
		return nil, &NotFoundError{Outcome: OutcomeMalformed, Detail: fmt.Sprintf("name and value are %d bytes; browsers accept %d", n, maxCookieBytes)}
	}
	plain, err := s.codec.Open(name, token)
	if err != nil {
		return nil, &NotFoundError{Outcome: OutcomeTampered, Detail: "it was changed, sealed by another secret, or sealed for another cookie name"}
	}
	rec, err := parseSealed(string(plain))
	if err != nil {
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, Detail: "the seal fits, but this version cannot read the record"}
	}
	if !rec.alive(time.Now()) {
		return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: rec.ID, expired: rec}
	}
	rec.Presented = token
	return rec, nil
}

// Save seals a record. It implements [Store]; nothing is there to compare base with.
func (s *CookieStore) Save(_ context.Context, name string, rec *Record, _ int64) (string, error) {
	if rec.Revoked {
		return "", nil // the client cannot be made to keep a tombstone
	}
	if !rec.alive(time.Now()) {
		return "", ErrGone
	}
	token, err := s.codec.Seal(name, rec.appendSealed(nil))
	if err != nil {
		return "", err
	}
	if n := len(name) + len(token); n > maxCookieBytes {
		return "", fmt.Errorf("%w: name and value of the cookie are %d bytes; browsers accept %d", ErrTooLarge, n, maxCookieBytes)
	}
	return token, nil
}

// Touch seals the record again, with its new expiry. It implements [Store].
func (s *CookieStore) Touch(ctx context.Context, name string, rec *Record) (string, error) {
	return s.Save(ctx, name, rec, rec.Version)
}

// Delete does nothing: the manager tells the client to forget the cookie. It implements [Store].
func (s *CookieStore) Delete(context.Context, string, *Record) error { return nil }
