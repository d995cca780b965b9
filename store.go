package sessions

import (
	"context"
	"errors"
	"fmt"
)

// Store keeps records. It knows tokens and records, and nothing of HTTP, so that one interface fits both a sealed
// cookie, where the token that the client holds is the record itself, and Redis, where it is only its name.
//
// A Store is safe for concurrent use. The name in each method is the cookie name: a store that seals binds its tokens
// to it, any other ignores it.
//
// [sessiontest.TestStore] checks an implementation against all that is said here. Any error that is not named below
// means that the store could not answer: it reaches the handler from [Get], or makes the response fail, and nobody
// becomes anonymous because of it. No error may hold a token or a value.
//
// [sessiontest.TestStore]: https://pkg.go.dev/handover.example/sessions/sessiontest#TestStore
type Store interface {
	// Load returns the record that the token stands for, with ID and Token set.
	//
	// A token that cannot be one of ours, an unknown one, and one whose record has expired or cannot be read all give
	// an error that is [ErrNotFound], if possible a [*NotFoundError] that says which. The shape of the token is checked
	// before anything is asked. A tombstone ([Record.Revoked]) is returned like any other record.
	Load(ctx context.Context, name, token string) (*Record, error)

	// Save writes rec under rec.Token, to live until rec.Expires, and returns the token that the client must present
	// next.
	//
	// With base 0 the record is new: if there is one under its token already, the error is [ErrConflict]. With any other
	// base, what is in the store must still have this Version: a newer record gives ErrConflict (a [*ConflictError] if
	// what was found is at hand), a tombstone or nothing at all gives [ErrGone]. The check and the write are one step.
	// A tombstone with base 0 replaces whatever is there.
	//
	// A record whose Expires has passed is not written: the error is ErrGone. A record that is too large for the
	// store gives [ErrTooLarge]. A store where the client holds the state cannot compare, and always writes.
	Save(ctx context.Context, name string, rec *Record, base int64) (token string, err error)

	// Touch renews only the expiry of a record, to rec.Expires, and the idle timeout from which it was made, to rec.Idle,
	// if the record is still there with rec.Version; the values in the store stay as they are, and nothing is ever
	// created. A record that is no longer there, or is a tombstone, gives ErrGone; a newer one gives nil, because the
	// write that made it has renewed it too.
	Touch(ctx context.Context, name string, rec *Record) (token string, err error)

	// Delete ends a session: it removes the record, whatever its version, or leaves a tombstone in its place. That there
	// is none is not an error.
	Delete(ctx context.Context, name string, rec *Record) error
}

// The errors on which callers branch; test with [errors.Is].
var (
	// ErrNotFound says that a token stands for no session.
	ErrNotFound = errors.New("sessions: no such session")
	// ErrConflict says that the record was written by another request since it was read.
	ErrConflict = errors.New("sessions: the session was changed by a parallel request")
	// ErrGone says that the session was destroyed or renewed by another request: the change was not written.
	ErrGone = errors.New("sessions: the session was ended by a parallel request")
	// ErrTooLarge says that the record does not fit the store: for a cookie, name and value over 4096 bytes.
	ErrTooLarge = errors.New("sessions: the session is too large for its store")
	// ErrReadOnly says that the session can only be read.
	ErrReadOnly = errors.New("sessions: the session is read-only")
	// ErrNoMiddleware says that no Manager wraps the handler.
	ErrNoMiddleware = errors.New("sessions: no session in this context: wrap the handler with Manager.Wrap, and pass on the context of its request")
)

// NotFoundError is an [ErrNotFound] with its reason.
type NotFoundError struct {
	// Outcome is the reason: unknown, expired, malformed, tampered, undecodable or revoked.
	Outcome Outcome
	// SessionID is the public handle, if the token has one.
	SessionID string
	// Detail says more, for a person; it holds nothing of the token or the record.
	Detail string

	expired *Record // a copy that is authentic but dead: it still names its record in another store
}

// Error says which reason it was, and nothing of the token.
func (e *NotFoundError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%v: %s", ErrNotFound, e.Outcome)
	}
	return fmt.Sprintf("%v: %s: %s", ErrNotFound, e.Outcome, e.Detail)
}

// Is makes every NotFoundError an [ErrNotFound].
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// ConflictError is an [ErrConflict] with the record that was found instead, so that the caller can merge without
// another read.
type ConflictError struct {
	// Current is what the store has now, with its Token set. It is the caller's to change.
	Current *Record
}

// Error is the text of [ErrConflict]: nothing of the record is in it.
func (e *ConflictError) Error() string { return ErrConflict.Error() }

// Is makes every ConflictError an [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// ConfigError is one mistake in a configuration. [New] and the constructors report all of them at once, joined by
// [errors.Join].
type ConfigError struct {
	// Field names what is wrong, as the caller wrote it: "Cookie.Domain".
	Field string
	// Reason says what is wrong with it, and what to do. It never holds a secret.
	Reason string
}

// Error is Field and Reason in one line.
func (e *ConfigError) Error() string { return "sessions: " + e.Field + ": " + e.Reason }

// mistakes collects the configuration errors of one constructor.
type mistakes []error

func (m *mistakes) add(field, format string, args ...any) {
	*m = append(*m, &ConfigError{Field: field, Reason: fmt.Sprintf(format, args...)})
}

func (m mistakes) join() error { return errors.Join(m...) }

// storeName gives the name of a store for events.
func storeName(s Store) string {
	if n, ok := s.(interface{ storeName() string }); ok {
		return n.storeName()
	}
	return fmt.Sprintf("%T", s)
}
