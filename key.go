package sessions

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
)

// Key gives the value of one session key its type. Make it once, as a package variable, with [NewKey]. A Key is safe
// for concurrent use and may be copied; the zero Key is the key with the empty name.
type Key[T any] struct{ name string }

// NewKey returns the key with this name. Two keys of the same name are the same value in the session.
func NewKey[T any](name string) Key[T] { return Key[T]{name} }

// Name returns the name of the key.
func (k Key[T]) Name() string { return k.name }

// Get returns the value, and reports whether there is one that fits T. One that does not fit, as after a deploy that
// changed T, is an event of a [Manager]: [EventReject] with [OutcomeUndecodable].
func (k Key[T]) Get(s Session) (T, bool) {
	var v T
	if ok, err := s.Get(k.name, &v); !ok || err != nil {
		var zero T // a value that does not fit may have been decoded in part
		return zero, false
	}
	return v, true
}

// Set sets the value. The only error is that of a value which cannot be encoded.
func (k Key[T]) Set(s Session, v T) error { return s.Set(k.name, v) }

// Update sets the value to what fn makes of the old one, the zero value if there is none, and returns the new one. See
// [Session.Update]: fn may run again, on the value of a parallel request, and must have no other effect. A stored value
// that does not fit T is an error, and stays.
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

// Take returns the value and deletes it: what a flash message is for.
func (k Key[T]) Take(s Session) (T, bool) {
	v, ok := k.Get(s)
	if ok {
		s.Delete(k.name)
	}
	return v, ok
}

// Delete removes the value.
func (k Key[T]) Delete(s Session) { s.Delete(k.name) }
