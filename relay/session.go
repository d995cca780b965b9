package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"time"

	"handover.example/sessions"
)

// session is the read-only Session of a service. It never changes, so it needs no lock.
type session struct {
	verifier *Verifier
	ctx      context.Context // for events
	claims   *claims         // nil if the request came without a token
	token    *string         // as received; a pointer, which package fmt does not follow in a struct around a session
}

func (s *session) ID() string {
	if s.claims == nil {
		return ""
	}
	return s.claims.Session
}

func (s *session) IsNew() bool { return s.claims == nil }

func (s *session) CreatedAt() time.Time {
	if s.claims == nil {
		return time.Time{}
	}
	return time.Unix(s.claims.Began, 0)
}

func (s *session) ExpiresAt() time.Time {
	if s.claims == nil {
		return time.Time{}
	}
	return time.Unix(s.claims.Ends, 0)
}

func (s *session) Get(key string, into any) (bool, error) {
	if s.claims == nil {
		return false, nil
	}
	raw, ok := s.claims.Values[key]
	if !ok {
		return false, nil
	}
	// Copy the value: requests with the same token share it, and an UnmarshalJSON may write to its input.
	if err := json.Unmarshal(bytes.Clone(raw), into); err != nil {
		return true, fmt.Errorf("relay: the value does not fit %T", into)
	}
	return true, nil
}

func (s *session) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		if s.claims == nil {
			return
		}
		for key := range s.claims.Values {
			if !yield(key) {
				return
			}
		}
	}
}

func (s *session) Set(string, any) error { return sessions.ErrReadOnly }

func (s *session) Update(string, func(json.RawMessage) (any, error)) error {
	return sessions.ErrReadOnly
}

func (s *session) Delete(string)                   { s.refuse("Delete") }
func (s *session) Clear()                          { s.refuse("Clear") }
func (s *session) SetLifetime(time.Duration, bool) { s.refuse("SetLifetime") }
func (s *session) Renew()                          { s.refuse("Renew") }
func (s *session) Destroy()                        { s.refuse("Destroy") }

// refuse reports an attempted change for a method that returns no error.
func (s *session) refuse(method string) {
	s.verifier.report(s.ctx, slog.LevelError, "a change was not made", sessions.Event{
		Kind: sessions.EventCommit, Outcome: OutcomeReadOnly, SessionID: s.ID(), Store: "relay", Err: sessions.ErrReadOnly,
		Detail: method + " did nothing, because a relayed session is read-only: change the session at the edge",
	})
}

// Format prints only the public handle, with every verb, so that neither the token nor a value gets into a log.
func (s *session) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "session "+s.ID()) }
