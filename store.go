package sessions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// Store keeps records. It knows tokens and records, and nothing of HTTP, so that one interface fits both a sealed
// cookie, where the token that the client holds is the record itself, and Redis, where it is only its name.
//
// A Store is safe for concurrent use. The name in each method is the cookie name: a store that seals binds its tokens
// to it, any other ignores it.
//
// A store must keep the whole text of [Record.MarshalJSON]: it holds more than the fields, such as which writes led to the
// record, without which a [DualStore] loses parallel changes. A store may write in it only what Touch changes.
//
// [sessiontest.TestStore] checks an implementation against all that is said here. Any error that is not named below
// means that the store could not answer: it reaches the handler from [Get], or makes the response fail, and nobody
// becomes anonymous because of it. No error may hold a token or a value.
//
// A store may have further methods. The library looks for them in the store, and then in what it wraps: in the Store that
// its method Unwrap returns, or that it embeds.
//
//	Unwrap() Store            // the store that this one wraps, as for metrics
//	MaxTTL() time.Duration    // the longest idle timeout that it can keep; the Manager cuts longer ones to it
//	ClientSide() bool         // whether the client's cookie holds the records: nobody else writes them
//	Keyspace() any            // a comparable value, equal for two stores that write the same keys
//	String() string           // the name of the store in events
//
// [sessiontest.TestStore]: https://pkg.go.dev/handover.example/sessions/sessiontest#TestStore
type Store interface {
	// Load returns the record that the token stands for, with ID and Token set.
	//
	// Where the client presents something else than Token, as with a record that the client holds, Load sets
	// [Record.Presented] to it. If the client should present something else from now on, Load returns that, in Presented or
	// in Token, and the [Manager] sends it.
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
	// the store has it), a tombstone or nothing at all gives [ErrGone]. The check and the write are one step.
	// A tombstone with base 0 replaces whatever is there.
	//
	// A record whose Expires has passed is not written: the error is ErrGone. A record that is too large for the
	// store gives [ErrTooLarge]. A store where the client holds the state cannot compare, and always writes. A store that
	// cannot keep a record for its whole Idle writes the Idle and Expires that it can keep.
	Save(ctx context.Context, name string, rec *Record, base int64) (token string, err error)

	// Touch renews only the expiry of a record, to rec.Expires, and the idle timeout from which it was made, to rec.Idle,
	// if the record is still there with rec.Version; the values in the store stay as they are, and nothing is ever
	// created. A record that is no longer there, or is a tombstone, gives ErrGone; a newer one gives nil, because the
	// write that made it has renewed it too.
	Touch(ctx context.Context, name string, rec *Record) (token string, err error)

	// Delete ends a session wherever the store keeps it: it removes the record, whatever its version, or leaves a
	// tombstone in its place. Deleting a session that does not exist is not an error. A tombstone that a renewal left
	// ([Record.Renewed]) stays, and is ErrGone: the session lives on under a token that the caller does not know.
	Delete(ctx context.Context, name string, rec *Record) error
}

// storeAs looks for a further method in a store and in what it wraps.
func storeAs[T any](s Store) (found T, ok bool) {
	for s != nil {
		if found, ok = s.(T); ok {
			return found, true
		}
		s = unwrap(s)
	}
	return found, false
}

var storeType = reflect.TypeFor[Store]()

// unwrap returns the store that another one wraps; nil if it wraps none that can be seen.
func unwrap(s Store) Store {
	if w, ok := s.(interface{ Unwrap() Store }); ok {
		return w.Unwrap()
	}
	v := reflect.Indirect(reflect.ValueOf(s))
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() { // a struct that embeds the interface has its four methods and hides the others
		if f := v.Type().Field(i); f.Anonymous && f.Type == storeType && f.IsExported() {
			inner, _ := v.Field(i).Interface().(Store)
			return inner
		}
	}
	return nil
}

// maxTTL returns the longest idle timeout that a store can keep.
func maxTTL(s Store) time.Duration {
	if m, ok := storeAs[interface{ MaxTTL() time.Duration }](s); ok {
		return m.MaxTTL()
	}
	return math.MaxInt64
}

// isClientSide reports whether a store says that the client's cookie holds its records.
func isClientSide(s Store) bool {
	c, ok := storeAs[interface{ ClientSide() bool }](s)
	return ok && c.ClientSide()
}

// sameRecords reports whether two stores would write each other's records.
func sameRecords(a, b Store) bool {
	x, okX := storeAs[interface{ Keyspace() any }](a)
	y, okY := storeAs[interface{ Keyspace() any }](b)
	return same(a, b) || okX && okY && same(x.Keyspace(), y.Keyspace())
}

// same compares what may be of a type that cannot be compared.
func same(a, b any) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// storeName returns the name of a store in events.
func storeName(s Store) string {
	if n, ok := storeAs[fmt.Stringer](s); ok {
		return n.String()
	}
	return fmt.Sprintf("%T", s)
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
