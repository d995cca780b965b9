package sessiontest

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"handover.example/sessions"
)

// Session is a session for testing handlers. It is the session of a [sessions.Manager] with default timeouts and its
// own [MemoryStore], and it records whether the handler calls Renew or Destroy.
//
// It starts as the session of a new client. To test with an existing session, set its values and call Commit. Create
// one with [NewSession] or [WithSession]. It is safe for concurrent use, except for Commit, and must not be copied. It
// implements [sessions.Session].
type Session struct {
	current
	renewed   atomic.Bool
	destroyed atomic.Bool

	manager  *sessions.Manager
	cookie   *http.Cookie // the client's cookie; nil if it has none
	writer   http.ResponseWriter
	recorder *httptest.ResponseRecorder
}

// current is the session of the current request.
type current = sessions.Session

// WithSession returns the request with a new Session, which [sessions.Get] finds in its context. [sessions.Manager.Get]
// does not: to test a handler that calls it, use Manager.Wrap and a [MemoryStore].
func WithSession(r *http.Request) (*http.Request, *Session) {
	s := NewSession()
	return r.WithContext(sessions.NewContext(r.Context(), s)), s
}

// NewSession returns a new Session. It is for testing code that takes a [sessions.Session] and no request.
func NewSession() *Session { return newSession(NewMemoryStore()) }

func newSession(store *MemoryStore) *Session {
	manager, err := sessions.New(sessions.Config{Store: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err) // cannot happen: the configuration is valid
	}
	s := &Session{manager: manager}
	s.begin()
	return s
}

// Commit ends the request, as writing a response does, and begins the next one of the same client. Changes are kept, a
// renewed session has its new ID, a destroyed one is gone, IsNew reports what the next request would find, and Renewed
// and Destroyed report false again. Commit returns the error of the commit.
func (s *Session) Commit() error {
	_, err := s.writer.Write(nil) // a session is committed before the first byte
	for _, c := range s.recorder.Result().Cookies() {
		if s.cookie = c; c.MaxAge < 0 {
			s.cookie = nil
		}
	}
	s.renewed.Store(false)
	s.destroyed.Store(false)
	s.begin()
	return err
}

// Renewed reports whether Renew was called in this request.
func (s *Session) Renewed() bool { return s.renewed.Load() }

// Destroyed reports whether Destroy was called in this request, or SetLifetime with a timeout that is negative or below a
// millisecond, which does the same.
func (s *Session) Destroyed() bool { return s.destroyed.Load() }

// Renew implements [sessions.Session].
func (s *Session) Renew() {
	s.renewed.Store(true)
	s.current.Renew()
}

// Destroy implements [sessions.Session].
func (s *Session) Destroy() {
	s.destroyed.Store(true)
	s.current.Destroy()
}

// SetLifetime implements [sessions.Session].
func (s *Session) SetLifetime(idle time.Duration, persistent bool) {
	if idle < time.Millisecond && idle != 0 {
		s.destroyed.Store(true)
	}
	s.current.SetLifetime(idle, persistent)
}

// begin takes the session from a request that stays open: a handler that panics ends neither the response nor the
// session, and commits nothing.
func (s *Session) begin() {
	type stop struct{}
	defer func() {
		if v := recover(); v != (stop{}) {
			panic(v)
		}
	}()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if s.cookie != nil {
		r.AddCookie(s.cookie)
	}
	s.recorder = httptest.NewRecorder()
	s.manager.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := sessions.Get(r.Context())
		if err != nil {
			panic(err) // a MemoryStore always answers
		}
		s.current, s.writer = got, w
		panic(stop{})
	})).ServeHTTP(s.recorder, r)
}
