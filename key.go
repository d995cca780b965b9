package sessions

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
)

// Key is a session key whose value has type T. Create it once, as a package variable, with [NewKey]. A Key is safe for
// concurrent use and may be copied; the zero Key has an empty name.
type Key[T any] struct{ name string }

// NewKey returns the key with this name. Two keys with the same name share one value in the session.
func NewKey[T any](name string) Key[T] { return Key[T]{name} }

// Name returns the name of the key.
func (k Key[T]) Name() string { return k.name }

// Get returns the value, and reports whether there is one that fits T. If the value does not fit, such as after a
// deploy that changed T, a [Manager] emits an event: [EventReject] with [OutcomeUndecodable].
func (k Key[T]) Get(s Session) (T, bool) {
	var v T
	if ok, err := s.Get(k.name, &v); !ok || err != nil {
		var zero T // v may have been decoded in part
		return zero, false
	}
	return v, true
}

// Set sets the value. It returns an error only if the value cannot be encoded.
func (k Key[T]) Set(s Session, v T) error { return s.Set(k.name, v) }

// Update replaces the value with the result of fn and returns it; fn gets the zero value if there is none. As in
// [Session.Update], fn may run again on the value that a parallel request has written, and must have no side effects.
// If the stored value does not fit T, Update leaves it alone and returns an error.
func (k Key[T]) Update(s Session, fn func(T) T) (T, error) {
	var latest atomic.Pointer[T] // fn may run again at commit, in another goroutine
	err := s.Update(k.name, func(old json.RawMessage) (any, error) {
		var v T
		if old != nil && json.Unmarshal(old, &v) != nil {
			return nil, fmt.Errorf("sessions: a value cannot be decoded into %T", v)
		}
		v = fn(v)
		latest.Store(&v)
		return v, nil
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return *latest.Load(), nil
}

// Take returns the value and deletes it, such as for a flash message.
//
// It is not for a value that may be used only once, such as the state of an OAuth login: if two parallel requests have
// loaded it, both get it. Use [Session.Update] with a function that fails if the value was used, as in the example: with
// a server-side store, the second request then fails when it is committed. With a sealed cookie, both succeed.
func (k Key[T]) Take(s Session) (T, bool) {
	v, ok := k.Get(s)
	if ok {
		s.Delete(k.name)
	}
	return v, ok
}

// Delete removes the value.
func (k Key[T]) Delete(s Session) { s.Delete(k.name) }
