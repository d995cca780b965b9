package sessions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// Session is the session of one request, as [Get] returns it. Changes are kept in the Session and written together,
// just before the first byte of the response, or when the handler returns.
//
// Values are JSON: encoded by Set, decoded by Get. Use a [Key] to give them a type. A Session is safe for concurrent
// use by the goroutines of one handler; it must not be used after the handler has returned.
//
// It is an interface so that sessions from elsewhere, and test doubles, fit.
type Session interface {
	// ID returns a public handle of the session: safe to log and to show, of no use as a credential. It changes when
	// the session is renewed.
	ID() string
	// IsNew reports whether the client came without a session. A new session without values is not kept.
	IsNew() bool
	// CreatedAt returns when the session began. Renew does not change it.
	CreatedAt() time.Time
	// ExpiresAt returns when the session ends if it is not used again.
	ExpiresAt() time.Time

	// Get decodes the value of key into the pointer, and reports whether there is one. The error is that of a value
	// which does not fit the pointer; a [Manager] also reports it, once per request and type, as an event.
	Get(key string, into any) (bool, error)
	// Set encodes the value now. The error is that of a value which cannot be encoded, or of a key that is not UTF-8.
	// Setting what is there already changes nothing.
	Set(key string, value any) error
	// Update replaces the value of key by what fn makes of it; old is nil if there is none. Where the store is on the
	// server, fn runs again on the fresh value if a parallel request has changed it meanwhile, so that nothing is lost:
	// fn must have no other effect. An error from fn leaves the value as it is, and is returned. An fn that sets its own
	// key fails.
	Update(key string, fn func(old json.RawMessage) (any, error)) error
	// Delete removes the key. The session stays, also when it is empty.
	Delete(key string)
	// Clear removes all keys. The session stays, with its token.
	Clear()
	// Keys returns the keys that there are when the loop begins, in no particular order.
	Keys() iter.Seq[string]

	// SetLifetime gives this session an idle timeout of its own, in place of Config.IdleTimeout, and sets whether its
	// cookie outlives the browser. It is kept with the session, and never goes past the absolute timeout. An idle of
	// zero is Config.IdleTimeout; a negative one, or less than a millisecond, ends the session with this request.
	SetLifetime(idle time.Duration, persistent bool)
	// Renew gives the session a new token when it is written, and ends the old one in the same commit. Call it when the
	// rights of the user change, as at login, so that a token planted before is worth nothing after (session fixation;
	// OWASP Session Management Cheat Sheet). The values stay.
	Renew()
	// Destroy ends the session: its values are gone, it is removed from the store, and the client is told to forget the
	// cookie. What is set afterwards belongs to a new session. If a parallel request has renewed the session, it lives on
	// under its new token: the commit fails with [ErrGone], so that the logout is not taken for done.
	Destroy()
}

// session is the Session of a Manager.
type session struct {
	limits   *limits
	response response

	mu     sync.Mutex
	rec    *Record // the session as the handler sees it; private to this request
	stored bool    // rec has come from the store, or has been written to it
	isNew  bool    // there was none when the request began
	gen    uint64  // counts the changes
	pending

	touchFailed bool // once is enough: a store that is down must not be waited for again when the handler returns

	misfits map[reflect.Type]bool // the types that a value did not fit; each is reported once
}

// response is the response that the changes of a session go with.
type response interface {
	// begun reports whether it is too late to tell the client anything.
	begun() bool
	// warnLate reports a change that can no longer be made; what says which.
	warnLate(what string)
	// warnMisfit reports a value of the session with this ID that cannot be decoded into a type.
	warnMisfit(id string, into reflect.Type)
}

// limits are the timeouts that the manager gives to its sessions.
type limits struct {
	idle, absolute, maxIdle time.Duration

	now func() time.Time // the clock of this instance; tests set it apart from that of another
}

// op is one change. Later ones may stand on earlier ones, so they are kept in order.
type op struct {
	kind opKind
	key  string
	raw  string
	fn   func(json.RawMessage) (any, error)
	// for opLifetime
	idle       time.Duration
	persistent bool
}

type opKind uint8

const (
	opSet opKind = iota
	opUpdate
	opDelete
	opClear
	opLifetime
)

func (l *limits) newRecord(now time.Time) *Record {
	now = now.Truncate(time.Millisecond)
	r := &Record{Created: now, Deadline: now.Add(l.absolute)}
	l.slide(r, now)
	return r
}

// slide renews the idle timeout of a session that is in use, with the timeout in force.
func (l *limits) slide(r *Record, now time.Time) {
	if !r.CustomIdle {
		r.Idle = l.idle
	}
	r.slide(now)
}

// apply lowers the timeouts of a record that was loaded to those in force now. One that was raised since, or is longer
// than the store keeps a record, applies when the session is next written or touched.
func (l *limits) apply(r *Record) {
	idle := min(r.Idle, l.idle)
	if r.CustomIdle {
		idle = min(r.Idle, l.maxIdle)
	}
	if idle < r.Idle && r.Expires.Before(r.Deadline) { // the deadline with which it was made
		r.Expires = r.Expires.Add(idle - r.Idle)
	}
	r.Idle = idle
	if d := r.Created.Add(l.absolute); d.Before(r.Deadline) {
		r.Deadline = d
	}
	if r.Expires.After(r.Deadline) {
		r.Expires = r.Deadline
	}
}

func (s *session) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ensureToken()
	return s.rec.ID
}

// Format keeps what prints a session from printing its token and values.
func (s *session) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "session "+s.ID()) }

// ensureToken gives a new session its token, when somebody first needs it.
func (s *session) ensureToken() {
	if s.rec.Token == "" {
		s.rec.Token = NewToken()
		s.rec.ID, _ = TokenID(s.rec.Token)
	}
}

func (s *session) IsNew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isNew
}

func (s *session) CreatedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Created
}

func (s *session) ExpiresAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty {
		r := *s.rec
		s.limits.slide(&r, s.limits.now())
		return r.Expires
	}
	return s.rec.Expires
}

func (s *session) Get(key string, into any) (bool, error) {
	s.mu.Lock()
	raw, ok := s.rec.raw(key)
	s.mu.Unlock()
	if !ok {
		return false, nil
	}
	if json.Unmarshal([]byte(raw), into) != nil {
		s.misfit(into)
		// What encoding/json says may quote the value.
		return true, fmt.Errorf("sessions: a value cannot be decoded into %T", into)
	}
	return true, nil
}

// misfit reports, once per type, that a value could not be decoded. [Key.Get] returns no error: without the report a
// login that no longer fits its type would vanish without a trace.
func (s *session) misfit(into any) {
	t := reflect.TypeOf(into)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s.mu.Lock()
	id, told := s.rec.ID, s.misfits[t]
	if s.misfits == nil {
		s.misfits = map[reflect.Type]bool{}
	}
	s.misfits[t] = true
	s.mu.Unlock()
	if !told {
		s.response.warnMisfit(id, t)
	}
}

func (s *session) Set(key string, value any) error {
	raw, err := encode(key, value)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.rec.raw(key)
	s.record(&op{kind: opSet, key: key, raw: raw}, !ok || old != raw)
	return nil
}

// maxUpdateRounds bounds how often Update runs its function, so that one which sets its own key ends.
const maxUpdateRounds = 1000

var errUpdate = fmt.Errorf("sessions: Update: the value has changed %d times while the function ran: "+
	"let the function return the new value, and not set its own key", maxUpdateRounds)

func (s *session) Update(key string, fn func(old json.RawMessage) (any, error)) error {
	for range maxUpdateRounds {
		s.mu.Lock()
		old, ok := s.rec.raw(key)
		s.mu.Unlock()
		raw, err := runUpdate(key, old, ok, fn) // without the lock: fn may use the session
		if err != nil {
			return err
		}
		s.mu.Lock()
		if now, is := s.rec.raw(key); now == old && is == ok {
			s.record(&op{kind: opUpdate, key: key, raw: raw, fn: fn}, !ok || old != raw)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
	}
	return errUpdate
}

func (s *session) Delete(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.rec.raw(key)
	s.record(&op{kind: opDelete, key: key}, ok)
}

func (s *session) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(&op{kind: opClear}, len(s.rec.values) > 0)
}

func (s *session) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		s.mu.Lock()
		entries := slices.Clone(s.rec.values)
		s.mu.Unlock()
		for _, e := range entries {
			if !yield(e.Key) {
				return
			}
		}
	}
}

func (s *session) SetLifetime(idle time.Duration, persistent bool) {
	if idle < time.Millisecond && idle != 0 {
		s.Destroy()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(&op{kind: opLifetime, idle: idle, persistent: persistent}, true)
}

func (s *session) Renew() {
	s.mu.Lock()
	late := s.response.begun() // with the lock: after this, no commit has overlooked it
	if !late {
		s.renew = s.stored
	}
	s.mu.Unlock()
	if late {
		s.response.warnLate("Renew: the client cannot be given the new token, the old one stays")
	}
}

func (s *session) Destroy() {
	if s.response.begun() {
		s.response.warnLate("Destroy: the client cannot be told to forget its cookie")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stored {
		s.ended = append(s.ended, s.rec)
	}
	s.forget = true
	s.rec = s.limits.newRecord(s.limits.now())
	s.stored, s.isNew, s.pending.dirty, s.pending.renew, s.pending.ops = false, true, false, false, nil
	s.gen++
}

// record makes a change and keeps it for a merge. A change that changes nothing is made again in a merge too, but is no
// reason to write.
func (s *session) record(o *op, changes bool) {
	s.apply(s.rec, o, o.raw)
	if o.kind != opUpdate { // what went before on this key, or this kind, no longer matters
		s.ops = slices.DeleteFunc(s.ops, func(p *op) bool {
			return p.key == o.key && (p.kind == o.kind || isKeyOp(p.kind) && isKeyOp(o.kind)) || o.kind == opClear && isKeyOp(p.kind)
		})
	}
	s.ops = append(s.ops, o)
	if !changes {
		return
	}
	s.gen++
	s.dirty = true
}

func isKeyOp(k opKind) bool { return k == opSet || k == opUpdate || k == opDelete }

// apply makes one change to a record; raw is the new value, which an update has made already.
func (s *session) apply(r *Record, o *op, raw string) {
	switch o.kind {
	case opSet, opUpdate:
		r.set(o.key, raw)
	case opDelete:
		r.delete(o.key)
	case opClear:
		r.values = nil
	case opLifetime:
		r.CustomIdle = o.idle != 0
		r.Idle = s.limits.idle
		if r.CustomIdle {
			r.Idle = min(o.idle, s.limits.maxIdle)
		}
		r.Persistent = o.persistent
	}
}

// rebase makes the changes again on a newer record, with updates run on its values.
func (s *session) rebase(r *Record, ops []*op) error {
	for _, o := range ops {
		raw := o.raw
		if o.kind == opUpdate {
			old, ok := r.raw(o.key)
			var err error
			if raw, err = runUpdate(o.key, old, ok, o.fn); err != nil {
				return err
			}
		}
		s.apply(r, o, raw)
	}
	return nil
}

func runUpdate(key, old string, ok bool, fn func(json.RawMessage) (any, error)) (string, error) {
	var arg json.RawMessage
	if ok {
		arg = json.RawMessage(old)
	}
	value, err := fn(arg)
	if err != nil {
		return "", err
	}
	return encode(key, value)
}

var errKey = errors.New("sessions: a key must be valid UTF-8")

// maxNesting is what package json reads, less the two levels of the record. It writes deeper values than it reads, and
// one of them would make the whole session unreadable.
const maxNesting = 10000 - 2

// encode returns the JSON text of a value. Its errors name the type, and not the value.
func encode(key string, value any) (string, error) {
	if !utf8.ValidString(key) {
		return "", errKey
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("sessions: a value of type %T cannot be encoded as JSON", value)
	}
	if bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) > maxNesting && !json.Valid(slices.Concat([]byte("[["), raw, []byte("]]"))) {
		return "", fmt.Errorf("sessions: a value of type %T is nested deeper than package json reads", value)
	}
	return string(raw), nil
}
