package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"handover.example/sessions/internal/check"
)

// maxCookieBytes is the size of a cookie that browsers accept, name and value together (RFC 6265bis, section 5.6).
const maxCookieBytes = 4096

// CookieStoreConfig is the configuration of a [CookieStore]. It is copied by [NewCookieStore].
type CookieStoreConfig struct {
	_ [0]func()

	// Codec seals and opens the records. Required.
	Codec Codec
}

// CookieStore keeps each record sealed in the client's cookie, and nothing on the server. It is safe for concurrent
// use, and must not be copied.
//
// It has limits, because the client holds the record; only a server-side store has none of them:
//
//   - If two parallel requests both write, the cookie that the browser receives last wins.
//   - A cookie copied before a logout or a renewal still opens. Each use seals it anew, with a new expiry, so a copy that
//     is used lives until the session's absolute timeout, and can be written to.
//   - A request that loaded the session before a logout and is answered after it, such as that of a page that polls, logs
//     in again if it writes, or if its extension of the idle timeout is due: its response sets the cookie anew.
//
// The cookie name and the sealed record together must fit in 4096 bytes.
type CookieStore struct{ codec Codec }

// NewCookieStore returns a CookieStore. It reports all configuration mistakes at once, as an [errors.Join] of
// [*ConfigError] values.
func NewCookieStore(cfg CookieStoreConfig) (*CookieStore, error) {
	bad := check.Mistakes{New: configError}
	if check.IsNil(cfg.Codec) {
		bad.Add("Codec", "required: make one with NewSecureCookieCodec or NewAEADCodec")
	} else if hasNilCodec(cfg.Codec) {
		bad.Add("Codec", "one of the codecs passed to Codecs is nil: check the error its constructor returned")
	}
	if err := bad.Join(); err != nil {
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
		return nil, &NotFoundError{Outcome: OutcomeMalformed, Detail: fmt.Sprintf("the cookie's name and value are %d bytes; browsers accept %d", n, maxCookieBytes)}
	}
	plain, err := s.codec.Open(name, token)
	if err != nil {
		var miss *NotFoundError
		if errors.As(err, &miss) {
			return nil, miss
		}
		return nil, &NotFoundError{Outcome: OutcomeTampered, Detail: "it was changed, sealed by another secret, or sealed for another cookie name"}
	}
	rec, err := parseSealed(string(plain))
	if err != nil {
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, Detail: "the seal verifies, but this version cannot read the record"}
	}
	rec.cookie = name // to which it was sealed
	if !rec.alive(time.Now()) {
		return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: rec.ID, Expired: rec}
	}
	rec.Presented = token
	return rec, nil
}

// Save seals a record. It implements [Store]; there is no stored version to compare base with.
func (s *CookieStore) Save(_ context.Context, name string, rec *Record, _ int64) (string, error) {
	if rec.Revoked {
		return "", nil // a client cannot be forced to keep a tombstone
	}
	if !rec.alive(time.Now()) {
		return "", ErrGone
	}
	token, err := s.codec.Seal(name, rec.appendSealed(nil))
	if err != nil {
		return "", err
	}
	if n := len(name) + len(token); n > maxCookieBytes {
		return "", errCookieTooLarge(n)
	}
	return token, nil
}

func errCookieTooLarge(n int) error {
	return fmt.Errorf("%w: the cookie's name and value are %d bytes; browsers accept %d", ErrTooLarge, n, maxCookieBytes)
}

// Touch seals the record again with its new expiry. It implements [Store].
func (s *CookieStore) Touch(ctx context.Context, name string, rec *Record) (string, error) {
	return s.Save(ctx, name, rec, rec.Version)
}

// Delete does nothing: the [Manager] tells the client to delete the cookie. It implements [Store].
func (s *CookieStore) Delete(context.Context, string, *Record) error { return nil }
