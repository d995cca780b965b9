package sessions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	"handover.example/sessions/internal/check"
)

// Store stores records. One interface fits both a sealed cookie, where the client's token is the record itself, and
// Redis, where the token only names it.
//
// A Store must be safe for concurrent use. The name in each method is the cookie name: a store that seals records binds
// them to it, and any other store ignores it.
//
// A store must keep the whole text of [Record.MarshalJSON]. It holds more than the exported fields, such as which
// writes led to the record; without that, a [DualStore] loses parallel changes. A store may change in it only what
// Touch changes.
//
// [sessiontest.TestStore] checks whether an implementation meets this contract. Any error not named below means that
// the store could not answer: [Get] returns it to the handler, or the response fails, and the client does not become
// anonymous. No error may contain a token or a value.
//
// A store may have the optional methods below. The library looks for each in the store itself, and then in the Store
// that it wraps: the one that its Unwrap method returns, or the one that it embeds, itself or in a struct that it embeds.
//
//	Unwrap() Store            // the wrapped store, such as the one that this store adds metrics to
//	MaxTTL() time.Duration    // the longest idle timeout that it can keep; the Manager shortens longer ones
//	ClientSide() bool         // whether the client's cookie holds the records, so that no other request writes them
//	Keyspace() any            // a comparable value, equal for two stores that write the same keys
//	String() string           // the name of the store in events
//
// If ClientSide is missing or hidden, a [DualStore] assumes that the client holds the records of its old store if the
// client presents something other than Token. A server-side store whose clients do so needs a ClientSide method that
// returns false.
//
// [sessiontest.TestStore]: https://pkg.go.dev/handover.example/sessions/sessiontest#TestStore
type Store interface {
	// Load returns the record for a token, with ID and Token set.
	//
	// If the client presents something other than Token, such as a sealed record, Load sets [Record.Presented] to what
	// it presents. If the client should present something else from now on, Load returns that in Presented or Token,
	// and the [Manager] sends it.
	//
	// The error is [ErrNotFound], if possible as a [*NotFoundError] with the reason, if the token is unknown or cannot
	// be one of ours, or if its record has expired or cannot be read. Load checks the shape of the token before it
	// queries anything. It returns a tombstone ([Record.Revoked]) like any other record.
	Load(ctx context.Context, name, token string) (*Record, error)

	// Save writes rec under rec.Token, to live until rec.KeepUntil(), and returns the token that the client must present
	// next.
	//
	// With base 0 the record is new: if the store already has one under its token, the error is [ErrConflict]. With any
	// other base, the stored record must still have this Version: if it has another, the error is ErrConflict (as a
	// [*ConflictError], if the store has the record); if it is a tombstone or missing, the error is [ErrGone]. Save
	// compares and writes in one atomic step. A tombstone with base 0 overwrites any record.
	//
	// If Expires has passed, Save writes nothing and returns ErrGone. If the record is too large for the store, the
	// error is [ErrTooLarge]. A client-side store cannot compare versions, and always writes. A store that cannot keep
	// a record for its whole Idle writes the Idle and Expires that it can keep.
	Save(ctx context.Context, name string, rec *Record, base int64) (token string, err error)

	// Touch sets the expiry of a record to rec.Expires, and the idle timeout from which it was computed to rec.Idle, as
	// [Record.Extend] does, if the stored record still has rec.Version. It never changes values and never creates a
	// record. If the record is missing or a tombstone, the error is ErrGone. If it is newer, Touch does nothing and
	// returns no error, because the newer write has extended it as well.
	Touch(ctx context.Context, name string, rec *Record) (token string, err error)

	// Delete ends a session: it removes the record, whatever its version, or replaces it with a tombstone. Deleting a
	// session that does not exist is not an error. If it finds the tombstone of a renewal ([Record.Renewed]), Delete
	// leaves it and returns ErrGone: the session lives on under a token that the caller does not know.
	Delete(ctx context.Context, name string, rec *Record) error
}

// storeAs looks for an optional method in a store and in the stores that it wraps.
func storeAs[T any](s Store) (found T, ok bool) {
	for wraps := true; wraps; s, wraps = unwrap(s) {
		if found, ok = s.(T); ok {
			return found, true
		}
	}
	return found, false
}

var storeType = reflect.TypeFor[Store]()

// unwrap returns the store that s wraps, and reports whether s shows that it wraps one.
func unwrap(s Store) (inner Store, wraps bool) {
	if w, ok := s.(interface{ Unwrap() Store }); ok {
		return w.Unwrap(), true
	}
	return embedded(reflect.ValueOf(s))
}

// embedded returns the Store that a struct embeds, itself or in a struct that it embeds. Embedding promotes only the
// four methods of Store and hides all others.
func embedded(v reflect.Value) (inner Store, embeds bool) {
	v = reflect.Indirect(v)
	if v.Kind() != reflect.Struct {
		return nil, false
	}
	for i := range v.NumField() {
		f, field := v.Type().Field(i), v.Field(i)
		if !f.Anonymous {
			continue
		}
		isStore := f.Type.Implements(storeType)
		switch {
		case isStore && field.Kind() == reflect.Interface && f.IsExported():
			inner, embeds = field.Interface().(Store)
			return inner, embeds // false if nil: the struct then has the methods that it needs itself, as in a test
		case isStore && field.Kind() == reflect.Pointer && field.IsNil():
			return nil, true
		}
		if inner, embeds = embedded(field); embeds {
			return inner, true
		}
	}
	return nil, false
}

// innermost returns the innermost store that s shows that it wraps, or s itself.
func innermost(s Store) Store {
	for {
		inner, wraps := unwrap(s)
		if !wraps {
			return s
		}
		s = inner
	}
}

// isNilStore reports whether a store, or one that it wraps, is nil.
func isNilStore(s Store) bool {
	for wraps := true; wraps; s, wraps = unwrap(s) {
		if check.IsNil(s) {
			return true
		}
	}
	return false
}

// maxTTL returns the longest idle timeout that s can keep.
func maxTTL(s Store) time.Duration {
	if m, ok := storeAs[interface{ MaxTTL() time.Duration }](s); ok {
		return m.MaxTTL()
	}
	return math.MaxInt64
}

// isClientSide reports whether a store declares that the client's cookie holds its records, and whether it declares
// anything, with a ClientSide method.
func isClientSide(s Store) (clientSide, declared bool) {
	c, declared := storeAs[interface{ ClientSide() bool }](s)
	return declared && c.ClientSide(), declared
}

// sameRecords reports whether two stores write the same records.
func sameRecords(a, b Store) bool {
	x, okX := storeAs[interface{ Keyspace() any }](a)
	y, okY := storeAs[interface{ Keyspace() any }](b)
	return same(innermost(a), innermost(b)) || okX && okY && same(x.Keyspace(), y.Keyspace())
}

// same reports whether a and b are equal; values of types that are not comparable never are.
func same(a, b any) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// storeName returns the name of a store in events: from its String method, or from that of a store that it wraps, or
// else the type of the innermost store.
func storeName(s Store) string {
	if n, ok := storeAs[fmt.Stringer](s); ok {
		return n.String()
	}
	return fmt.Sprintf("%T", innermost(s))
}

// Errors that callers may branch on; test with [errors.Is].
var (
	// ErrNotFound means that a token names no session.
	ErrNotFound = errors.New("sessions: no such session")
	// ErrConflict means that another request has written the record since it was read. A commit then tries again, and
	// fails with ErrConflict only if that goes on until Config.CommitTimeout.
	ErrConflict = errors.New("sessions: the session was changed by a parallel request")
	// ErrGone means that another request has destroyed or renewed the session: the change was not written.
	ErrGone = errors.New("sessions: the session was ended by a parallel request")
	// ErrTooLarge means that the record does not fit the store: for a cookie, name and value exceed 4096 bytes; for a
	// RedisStore, the record exceeds its MaxSize.
	ErrTooLarge = errors.New("sessions: the session is too large for its store")
	// ErrReadOnly means that the session can only be read.
	ErrReadOnly = errors.New("sessions: the session is read-only")
	// ErrNoMiddleware means that no Manager wraps the handler.
	ErrNoMiddleware = errors.New("sessions: no session in this context: wrap the handler with Manager.Wrap, and pass on the context of its request")
)

// NotFoundError is an [ErrNotFound] with a reason.
type NotFoundError struct {
	// Outcome is the reason: unknown, expired, malformed, tampered, undecodable or revoked.
	Outcome Outcome
	// SessionID is the public handle, if the token has one.
	SessionID string
	// Detail explains the reason to a person. It contains nothing of the token or the record.
	Detail string

	// Expired is the record, if it has expired and the store still has it. It tells a [DualStore] which record of the
	// other store it names, and that an earlier copy there must not bring the session back.
	Expired *Record

	renewed bool // the session was renewed less than renewalGrace ago
}

// Error returns the reason, and nothing of the token.
func (e *NotFoundError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%v: %s", ErrNotFound, e.Outcome)
	}
	return fmt.Sprintf("%v: %s: %s", ErrNotFound, e.Outcome, e.Detail)
}

// Is makes every NotFoundError an [ErrNotFound].
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// ConflictError is an [ErrConflict] with the record that the store has instead, so that the caller can merge without
// another read.
type ConflictError struct {
	// Current is what the store has now, with its Token set. The caller may change it.
	Current *Record
}

// Error returns the text of [ErrConflict], and nothing of the record.
func (e *ConflictError) Error() string { return ErrConflict.Error() }

// Is makes every ConflictError an [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }
