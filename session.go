package sessions

import (
	"bytes"
	"encoding"
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

// Session is the session of one request, as returned by [Get]. It collects changes, which are written together just
// before the first byte of the response, or when the handler returns.
//
// Values are JSON: Set encodes them, Get decodes them. Use a [Key] to give them a type. A Session is safe for
// concurrent use by the goroutines of one handler, and must not be used after the handler has returned.
//
// It is an interface so that other packages can provide sessions and test doubles.
type Session interface {
	// ID returns a public handle of the session. It is safe to log and to show, useless as a credential, and changes
	// when the session is renewed.
	ID() string
	// IsNew reports whether the client came without a session. A new session without values is not kept.
	IsNew() bool
	// CreatedAt returns when the session began. Renew does not change it.
	CreatedAt() time.Time
	// ExpiresAt returns when the session ends if it is not used again.
	ExpiresAt() time.Time

	// Get decodes the value of key into a pointer, and reports whether there is one. It returns an error if the value
	// does not fit the pointer; a [Manager] also reports that as an event, once per request and type.
	Get(key string, into any) (bool, error)
	// Set encodes the value and stores it in the session. It returns an error if the value cannot be encoded, or if the
	// key or a string in the value is not UTF-8, which JSON would change. Setting a value that is equal to the current
	// one changes nothing. Package json does not give back everything: unexported fields, and integers beyond 2^53 that
	// are read into an interface.
	Set(key string, value any) error
	// Update replaces the value of key with the result of fn; old is nil if there is no value. With a server-side
	// store, fn runs again on the fresh value if a parallel request has changed it, so that no change is lost: fn must
	// have no side effects, and must not wait for another request of the session. If fn returns an error, Update leaves
	// the value alone and returns the error. An fn that sets its own key fails.
	Update(key string, fn func(old json.RawMessage) (any, error)) error
	// Delete removes the key. The session stays, even if it is empty.
	Delete(key string)
	// Clear removes all keys. The session stays, with its token.
	Clear()
	// Keys iterates over the keys that exist when the loop begins, in no particular order.
	Keys() iter.Seq[string]

	// SetLifetime sets the idle timeout of this session, replacing Config.IdleTimeout, and whether its cookie outlives
	// the browser. Both are stored with the session, and the absolute timeout still applies. An idle of zero restores
	// Config.IdleTimeout; a negative one, or one below a millisecond, ends the session with this request.
	//
	// Browsers keep a cookie for 400 days, which is the longest idle timeout of a session with a persistent one. With a
	// [CookieStore], the cookie lasts for one idle timeout, and each use sends another. With any other store it lasts
	// until the absolute timeout, the server enforces the idle timeout, and it is sent again only if it must be.
	SetLifetime(idle time.Duration, persistent bool)
	// Renew gives the session a new token when it is written, and ends the old token in the same commit. The values
	// stay. Call Renew when the user's privileges change, such as at login, so that a token planted before is worthless
	// afterwards (session fixation; OWASP Session Management Cheat Sheet).
	//
	// Call it before the first byte of the response. If the client can no longer be told its new token, because the
	// response has begun or the deadline of the request has passed, nothing more of the request is stored, because a login
	// under the old token would be a session fixation.
	Renew()
	// Destroy ends the session: it discards the values, removes the session from the store, and tells the client to
	// delete the cookie. If the client presented other sessions under the name of the cookie, it ends those as well. Values
	// set afterwards belong to a new session. If a parallel request has renewed the session, it lives on under its new
	// token, and the commit fails with [ErrGone], so a logout that did not happen is not reported as done.
	Destroy()
}

// session is the Session of a Manager.
type session struct {
	limits   *limits
	response response

	mu     sync.Mutex
	rec    *Record // the session as the handler sees it; private to this request
	stored bool    // rec was loaded from the store or written to it
	isNew  bool    // the client came without a session
	gen    uint64  // counts the changes
	pending

	touchFailed bool // do not try again when the handler returns: the store may be down, and waiting twice is too long

	misfits map[reflect.Type]bool // types that a value did not fit; each is reported once
}

// response is the response that carries the changes of a session.
type response interface {
	// begun reports whether it is too late to tell the client anything.
	begun() bool
	// warnLate reports a change that can no longer be made, described by what.
	warnLate(what string)
	// warnMisfit reports a value of the session with this ID that cannot be decoded into a type.
	warnMisfit(id string, into reflect.Type)
}

// limits are the timeouts that a Manager applies to its sessions.
type limits struct {
	idle, absolute, maxIdle time.Duration

	now func() time.Time // the clock of this instance; tests make it differ from another's
}

// op is one change. Later ones may depend on earlier ones, so they are kept in order.
type op struct {
	kind opKind
	key  string
	raw  string
	fn   func(json.RawMessage) (any, error)
	// for opList
	at     int // where it is
	before *op // the one before it on the same key
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

// slide extends a session that is in use by the current idle timeout.
func (l *limits) slide(r *Record, now time.Time) {
	if !r.CustomIdle {
		r.Idle = l.longestIdle(r)
	}
	r.slide(now)
}

// longestIdle returns the idle timeout that a session has, or the longest that it may have if it has its own. For a
// persistent cookie it is at most the 400 days that browsers keep one.
func (l *limits) longestIdle(r *Record) time.Duration {
	longest := l.idle
	if r.CustomIdle {
		longest = l.maxIdle
	}
	if r.Persistent {
		longest = min(longest, maxCookieAge)
	}
	return longest
}

// apply applies the Manager's current timeouts to a loaded record, if they are shorter. A longer one takes effect when
// the session is next written or touched.
func (l *limits) apply(r *Record, now time.Time) {
	idle := min(r.Idle, l.longestIdle(r))
	switch until := now.Add(idle - idle/touchShare); {
	case idle >= r.Idle:
	case r.Expires.Before(r.Deadline): // the deadline with which it was made
		r.Expires = r.Expires.Add(idle - r.Idle)
	case until.Before(r.Expires): // it does not tell when the session was last used: the timeout begins now, with a touch
		r.Expires = until
	}
	r.shortened = r.shortened || idle < r.Idle
	r.Idle = idle
	if d := r.Created.Add(l.absolute); d.Before(r.Deadline) {
		r.made, r.Deadline = r.madeDeadline(), d
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

// Format prints only the ID: no token and no value gets into a log.
func (s *session) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "session "+s.ID()) }

// ensureToken makes the token of a new session when it is first needed.
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
		// The error of encoding/json may quote the value.
		return true, fmt.Errorf("sessions: a value cannot be decoded into %T", into)
	}
	return true, nil
}

// misfit reports, once per type, that a value could not be decoded. [Key.Get] returns no error: without this report, a
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

// maxUpdateRounds bounds how often Update runs its function, in case the function sets its own key.
const maxUpdateRounds = 1000

var errUpdate = fmt.Errorf("sessions: Update: the value changed %d times while the function ran: "+
	"let the function return the new value instead of setting its own key", maxUpdateRounds)

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
	late := s.response.begun() // under the lock: if it has not begun, its commit will see the renewal
	s.renew = true
	s.mu.Unlock()
	if late {
		s.response.warnLate("Renew: the client can no longer get a new token, so nothing more of this request is stored")
	}
}

func (s *session) Destroy() {
	if s.response.begun() {
		s.response.warnLate("Destroy: the client can no longer be told to delete its cookie")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stored {
		s.ended = append(s.ended, s.rec)
	}
	s.forget = true
	s.rec = s.limits.newRecord(s.limits.now())
	s.stored, s.isNew, s.pending.dirty, s.pending.renew, s.pending.ops = false, true, false, false, opList{}
	s.gen++
}

// record makes a change and keeps it for a merge. A change without effect is also made again in a merge, but does not
// cause a write.
func (s *session) record(o *op, changes bool) {
	s.apply(s.rec, o, o.raw)
	s.ops.add(o)
	if !changes {
		return
	}
	s.gen++
	s.dirty = true
}

// opList is the changes of a request, in order. What a later change makes pointless leaves it, so that it is not longer
// than it must be, and n changes cost O(n).
type opList struct {
	all    []*op          // nil where one has left
	gone   int            // how many have
	newest map[string]*op // of each key, once there are many
}

// manyOps is the number of changes above which they are indexed by key.
const manyOps = 32

func (l *opList) add(o *op) {
	switch {
	case o.kind == opUpdate: // it is made of those before
	case isKeyOp(o.kind) && l.newest != nil:
		for p := l.newest[o.key]; p != nil; p = p.before {
			l.all[p.at] = nil
			l.gone++
		}
		delete(l.newest, o.key)
	default:
		for i, p := range l.all {
			if p != nil && (p.kind == o.kind && p.key == o.key || isKeyOp(p.kind) && (o.kind == opClear || isKeyOp(o.kind) && p.key == o.key)) {
				l.all[i] = nil
				l.gone++
			}
		}
		if o.kind == opClear {
			l.newest = nil
		}
	}
	if l.gone > len(l.all)/2 {
		l.all = slices.DeleteFunc(l.all, func(p *op) bool { return p == nil })
		l.gone = 0
		for i, p := range l.all {
			p.at = i
		}
	}
	l.append(o)
	if len(l.all) > manyOps && l.newest == nil {
		all := l.all
		l.newest, l.all, l.gone = map[string]*op{}, make([]*op, 0, 2*len(all)), 0
		for _, p := range all {
			if p != nil {
				l.append(p)
			}
		}
	}
}

func (l *opList) append(o *op) {
	o.at, o.before = len(l.all), nil
	if l.newest != nil && isKeyOp(o.kind) {
		o.before = l.newest[o.key]
		l.newest[o.key] = o
	}
	l.all = append(l.all, o)
}

func isKeyOp(k opKind) bool { return k == opSet || k == opUpdate || k == opDelete }

// apply makes one change to a record; raw is the new value, which an update has already computed.
func (s *session) apply(r *Record, o *op, raw string) {
	switch o.kind {
	case opSet, opUpdate:
		r.set(o.key, raw)
	case opDelete:
		r.delete(o.key)
	case opClear:
		r.values, r.index = nil, nil
	case opLifetime:
		before := r.Idle
		r.CustomIdle, r.Persistent = o.idle != 0, o.persistent
		r.Idle = s.limits.longestIdle(r)
		if r.CustomIdle {
			r.Idle = min(r.Idle, o.idle)
		}
		r.shortened = r.shortened || r.Idle < before
	}
}

// rebase makes the changes again on a newer record, and runs updates on its values.
func (s *session) rebase(r *Record, ops []*op) error {
	for _, o := range ops {
		if o == nil {
			continue
		}
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

// maxNesting is the depth that package json can read, less the two levels of the record. It writes deeper values than
// it reads, and one such value would make the whole session unreadable.
const maxNesting = 10000 - 2

// encode returns the JSON text of a value. Its errors name the type, not the value.
func encode(key string, value any) (string, error) {
	if !utf8.ValidString(key) {
		return "", errKey
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("sessions: a value of type %T cannot be encoded as JSON", value)
	}
	if !utf8.Valid(raw) || bytes.Contains(raw, []byte(`\ufffd`)) && hasInvalidUTF8(reflect.ValueOf(value), 0) {
		return "", fmt.Errorf("sessions: a value of type %T has a string that is not UTF-8, which JSON would change: store it as []byte", value)
	}
	if bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) > maxNesting && !json.Valid(slices.Concat([]byte("[["), raw, []byte("]]"))) {
		return "", fmt.Errorf("sessions: a value of type %T is nested too deeply for package json to read back", value)
	}
	return string(raw), nil
}

// hasInvalidUTF8 reports whether a value that package json has encoded has a string or a map key that is not UTF-8. The
// text of a value that encodes itself is checked as well, but not its JSON.
func hasInvalidUTF8(v reflect.Value, depth int) bool {
	if !v.IsValid() || depth > maxNesting {
		return false
	}
	if v.CanInterface() {
		switch m := v.Interface().(type) {
		case json.Marshaler:
			return false
		case encoding.TextMarshaler:
			text, err := m.MarshalText()
			return err == nil && !utf8.Valid(text)
		}
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return hasInvalidUTF8(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if hasInvalidUTF8(v.Index(i), depth+1) {
				return true
			}
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			if hasInvalidUTF8(key, depth+1) || hasInvalidUTF8(value, depth+1) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if (f.IsExported() || f.Anonymous) && f.Tag.Get("json") != "-" && hasInvalidUTF8(v.Field(i), depth+1) {
				return true
			}
		}
	}
	return false
}
