package sessions

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"handover.example/sessions/internal/httpcache"
)

// tombstoneGrace is how long the tombstone of a renewed session stays in a plain server-side store: long enough for
// requests in flight, and for a client library that repeats a command, to see what happened. Without it the token is
// merely unknown, which ends the session just as well.
const tombstoneGrace = time.Minute

// touchShare is the part of the idle timeout that must have passed before it is worth a write to slide it.
const touchShare = 8

// pending is what a session has still to write. A commit takes it whole.
type pending struct {
	dirty  bool      // values or the lifetime have changed
	renew  bool      // the session gets a new token
	forget bool      // Destroy was called: the client's cookie must go
	ended  []*Record // stored sessions that were destroyed in this request
	ops    []*op     // the changes since the record was loaded, to be made again on a newer one
}

// step is what a commit does with the record.
type step int

const (
	stepNone    step = iota
	stepCreate       // a record of a new session
	stepTooLate      // that, but the client can no longer be told its token
	stepRenew        // the record under a new token, and a tombstone under the old one
	stepSave         // the next version
	stepTouch        // the expiry alone
)

// plan decides what a commit does with a record: stored reports whether the store has it, late whether the response has
// begun, slides whether the idle timeout may be renewed by a touch.
func (p *pending) plan(rec *Record, stored, late, slides bool, now time.Time) step {
	switch {
	case !stored && len(rec.values) == 0:
		return stepNone // an anonymous visitor leaves nothing behind
	case !stored && late:
		return stepTooLate
	case !stored:
		return stepCreate
	case p.renew:
		return stepRenew
	case p.dirty:
		return stepSave
	case slides && touchDue(rec, now):
		return stepTouch
	}
	return stepNone
}

// touchDue reports whether the idle timeout has run for long enough that sliding it is worth a write. It is counted
// without the deadline: the last slide is the one that reaches it, however short.
func touchDue(rec *Record, now time.Time) bool {
	return rec.Expires.Before(rec.Deadline) && now.Add(rec.Idle).Sub(rec.Expires) >= rec.Idle/touchShare
}

// BeforeResponse commits before the first byte. It implements respwriter.Hooks.
func (r *request) BeforeResponse(hijack bool) error {
	r.mu.Lock()
	asked, s := r.asked, r.s
	r.mu.Unlock()
	if !asked {
		return nil
	}
	if s != nil {
		cookie, err := r.commit(s, false)
		if err != nil {
			return err
		}
		if cookie != "" {
			r.setCookie(cookie)
			if hijack {
				r.m.emit(r.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, Store: r.m.storeName,
					Detail: "the connection was hijacked before the headers were sent: take Set-Cookie from the response headers, or change the session before the upgrade"})
			}
		}
	}
	httpcache.VaryByCookie(r.header())
	return nil
}

func (r *request) header() http.Header { return r.writer.Header() }

// setCookie adds the Set-Cookie line beside those of others, and keeps caches away from it.
func (r *request) setCookie(line string) {
	h := r.header()
	h["Set-Cookie"] = append(h["Set-Cookie"], line)
	if dropped := httpcache.Forbid(h); dropped != nil {
		r.m.emit(r.Context, Event{Kind: EventCache, Outcome: OutcomeOverridden, Store: r.m.storeName,
			Detail: "the handler set " + strings.Join(dropped, ", ") + " on a response that sets the session cookie: it was sent with Cache-Control: no-store. Leave sessions unchanged on pages that are to be cached"})
	}
}

// Failed answers in place of the handler. It implements respwriter.Hooks.
func (r *request) Failed(w http.ResponseWriter, err error) {
	httpcache.VaryByCookie(w.Header())
	a := &answered{ResponseWriter: w}
	r.m.errorHandler(a, r.r, err)
	if !a.yes {
		answerError(w, r.r, err)
	}
}

// answered notes whether an ErrorHandler has answered: one that forgets must not become an empty 200.
type answered struct {
	http.ResponseWriter
	yes bool
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answered) WriteHeader(code int) {
	a.yes = a.yes || code >= 200
	a.ResponseWriter.WriteHeader(code)
}

func (a *answered) Write(b []byte) (int, error) {
	a.yes = true
	return a.ResponseWriter.Write(b)
}

// finish commits when the handler has returned: for the first time if it wrote nothing, and once more for what changed
// after the first byte.
func (r *request) finish() {
	if !r.writer.Begun() {
		_ = r.writer.Begin() // on failure the ErrorHandler has answered
		return
	}
	r.mu.Lock()
	s := r.s
	r.mu.Unlock()
	if s != nil && r.writer.Begin() == nil {
		_, _ = r.commit(s, true) // what cannot be saved has been reported by an event
	}
}

// commit writes what has changed and returns the Set-Cookie line that the client needs, if any. A late commit is one
// after the first byte: there the client can be told nothing any more.
func (r *request) commit(s *session, late bool) (cookie string, err error) {
	s.mu.Lock()
	now := r.m.limits.now()
	c := change{r: r, s: s, late: late, rec: s.rec, stored: s.stored, resend: s.stored && !late && s.rec.presents() != r.client.token}
	step := s.pending.plan(s.rec, s.stored, late, !s.touchFailed, now)
	if step == stepNone && !c.resend && !s.pending.forget && len(s.pending.ended) == 0 {
		s.mu.Unlock()
		return "", nil
	}
	c.rec, c.pending = s.rec.clone(), s.pending
	s.pending = pending{}
	gen := s.gen
	s.mu.Unlock()

	ctx := context.WithoutCancel(r.Context)
	if !r.m.atClient || r.m.observe != nil { // the client waits for nobody, an observer may
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.m.commitTimeout)
		defer cancel()
	}
	if cookie, err = c.run(ctx, step, now); err != nil {
		return "", err
	}
	return cookie, s.adopt(&c, gen)
}

// adopt takes over what a commit has written, and makes the changes again that came while it ran.
func (s *session) adopt(c *change, gen uint64) error {
	for {
		s.mu.Lock()
		ops, now := append([]*op(nil), s.pending.ops...), s.gen
		if now == gen {
			s.rec, s.stored = c.rec, c.stored
			s.mu.Unlock()
			return nil
		}
		if s.pending.forget { // destroyed meanwhile: the next commit sees to it
			if c.stored {
				s.pending.ended = []*Record{c.rec}
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		rec := c.rec.clone()
		if err := s.rebase(rec, ops); err != nil {
			return err
		}
		s.mu.Lock()
		if s.gen == now {
			s.rec, s.stored = rec, c.stored
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
	}
}

// change is one commit.
type change struct {
	pending
	r      *request
	s      *session
	late   bool
	rec    *Record
	stored bool
	resend bool   // the store wants the client to present something else
	mark   string // names this commit in the records that it writes
}

// run does what the plan says: first the sessions that were destroyed, so that nothing is promised to a client whose logout
// failed, then the record, then the cookie.
func (c *change) run(ctx context.Context, step step, now time.Time) (cookie string, err error) {
	for _, rec := range c.ended {
		if err := c.destroy(ctx, rec); err != nil {
			return "", err
		}
	}
	https := c.r.isHTTPS(ctx)
	token := c.r.client.token
	if len(c.ended) > 0 {
		token = ""
	}
	if c.resend {
		token = c.rec.presents()
	}
	slid := false // the expiry of the cookie has to move as well
	switch step {
	case stepTooLate:
		c.tooLate("a new session: its cookie can no longer be sent, so nothing was stored")
		return "", nil
	case stepCreate:
		c.rec.Secure = https || c.r.client.secure // also after Destroy, in a chain that loses the scheme
		token, err = c.create(ctx, now)
		slid = true
	case stepRenew:
		c.rec.Secure = c.rec.Secure || https
		token, err = c.renewToken(ctx, now)
		slid = true
	case stepSave:
		c.rec.Secure = c.rec.Secure || https
		token, err = c.save(ctx, now)
		slid = true
	case stepTouch:
		token, slid = c.touch(ctx, now, token, https)
	}
	if err != nil {
		return "", err
	}
	return c.cookieLine(ctx, token, slid)
}

// cookieLine returns what the client must be sent so that it has the token.
func (c *change) cookieLine(ctx context.Context, token string, slid bool) (string, error) {
	m, client := c.r.m, c.r.client
	if token == "" {
		if !c.forget || !client.sent || c.late {
			return "", nil
		}
		secure := c.r.useSecure(client.secure)
		client.token, client.sent = "", false
		c.r.warnInsecure(ctx, c.rec.ID, secure)
		return m.cookie.header("", -1, secure), nil
	}
	same := token == client.token && c.rec.Persistent == client.persistent && c.rec.Secure == client.secure
	if same && !(slid && c.rec.Persistent) {
		return "", nil
	}
	if c.late {
		if token != client.token {
			c.tooLate("the session was changed, but the cookie that carries it can no longer be sent")
		} else if c.rec.Persistent != client.persistent {
			c.tooLate("SetLifetime: the lifetime is stored, but the browser cannot be told whether to keep the cookie")
		}
		return "", nil
	}
	if n := len(m.cookie.Name) + len(token); n > maxCookieBytes {
		err := &tooLargeError{n}
		m.emit(ctx, Event{Kind: EventCommit, Outcome: OutcomeTooLarge, SessionID: c.rec.ID, Store: m.storeName, Err: err})
		return "", err
	}
	if !fitsCookie(token) { // net/http would drop the bytes, and the session with them
		return "", c.failed(ctx, EventCommit, c.rec.ID, errNoCookieValue)
	}
	client.token, client.persistent, client.secure, client.sent = token, c.rec.Persistent, c.rec.Secure, true
	secure := c.r.useSecure(c.rec.Secure)
	c.r.warnInsecure(ctx, c.rec.ID, secure)
	c.r.warnDomain(ctx, c.rec.ID)
	switch {
	case c.rec.Persistent:
		return m.cookie.header(token, max(time.Second, c.rec.Expires.Sub(m.limits.now())), secure), nil
	case secure:
		return m.cookie.withValue(m.secureLine, token), nil
	}
	return m.cookie.withValue(m.plainLine, token), nil
}

type tooLargeError struct{ bytes int }

func (e *tooLargeError) Error() string {
	return ErrTooLarge.Error() + ": name and value of the cookie are " + strconv.Itoa(e.bytes) + " bytes; browsers accept " + strconv.Itoa(maxCookieBytes)
}

func (e *tooLargeError) Unwrap() error { return ErrTooLarge }

func (c *change) create(ctx context.Context, now time.Time) (string, error) {
	c.s.mu.Lock()
	c.s.ensureToken()
	c.rec.ID, c.rec.Token = c.s.rec.ID, c.s.rec.Token
	c.s.mu.Unlock()
	c.rec.lineage.fresh = true
	c.r.m.limits.slide(c.rec, now)
	token, err := c.write(ctx, EventCommit, OutcomeCreated, c.rec, 0)
	c.stored = err == nil
	return token, err
}

// save writes the next version, on top of what parallel requests have written since.
func (c *change) save(ctx context.Context, now time.Time) (string, error) {
	for attempt := 0; ; attempt++ {
		base := c.rec.Version
		c.r.m.limits.slide(c.rec, now)
		token, err := c.write(ctx, EventCommit, OutcomeSaved, c.rec, base)
		if !errors.Is(err, ErrConflict) {
			return token, err
		}
		if c.rec, err = c.merge(ctx, c.rec, err, attempt); err != nil {
			return "", err
		}
	}
}

// renewToken writes the session under a new token and then puts a tombstone in the place of the old one. A parallel
// write that comes between is found by the tombstone's version check, and merged.
func (c *change) renewToken(ctx context.Context, now time.Time) (string, error) {
	old := c.rec
	next := old.clone()
	next.Token = NewToken()
	next.ID, _ = TokenID(next.Token)
	next.origin, next.lineage, next.Presented = nil, lineage{fresh: true}, ""
	c.r.m.limits.slide(next, now)
	token, err := c.write(ctx, EventRenew, OutcomeCreated, next, 0)
	if err != nil {
		return "", err
	}
	for attempt := 0; ; attempt++ {
		stone := old.tombstone(now, now.Add(tombstoneGrace))
		stone.Renewed, stone.lineage.mark = true, c.commitMark()
		_, err = c.r.m.store.Save(ctx, c.r.m.cookie.Name, stone, old.Version)
		if err == nil {
			c.rec = next
			return token, nil
		}
		if errors.Is(err, ErrConflict) {
			if old, err = c.merge(ctx, old, err, attempt); err == nil {
				next.values = old.clone().values
				next.CustomIdle, next.Idle, next.Persistent = old.CustomIdle, old.Idle, old.Persistent
				next.Secure = old.Secure // of both
				c.r.m.limits.slide(next, now)
				token, err = c.write(ctx, EventCommit, OutcomeSaved, next, next.Version)
			}
		} else {
			c.failed(ctx, EventRenew, old.ID, err)
		}
		if err != nil {
			// Nobody has its token. The time for the commit may be what ran out.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = c.r.m.store.Delete(ctx, c.r.m.cookie.Name, next)
			return "", err
		}
	}
}

// merge waits a little, gets the record that was found in place of ours, and makes our changes again on it.
func (c *change) merge(ctx context.Context, ours *Record, conflict error, attempt int) (*Record, error) {
	m := c.r.m
	m.emit(ctx, Event{Kind: EventConflict, Outcome: OutcomeMerged, SessionID: ours.ID, Store: m.storeName})
	if err := pause(ctx, attempt); err != nil {
		return nil, c.failed(ctx, EventConflict, ours.ID, err)
	}
	var found *ConflictError
	var current *Record
	if errors.As(conflict, &found) && found.Current != nil {
		current = found.Current
	} else {
		var err error
		if current, err = m.store.Load(ctx, m.cookie.Name, c.r.client.token); err != nil {
			if errors.Is(err, ErrNotFound) {
				err = ErrGone
			}
			return nil, c.failed(ctx, EventConflict, ours.ID, err)
		}
	}
	m.limits.apply(current)
	if current.Revoked || !current.alive(m.limits.now()) {
		return nil, c.failed(ctx, EventConflict, ours.ID, ErrGone)
	}
	current.Secure = current.Secure || ours.Secure
	if err := c.s.rebase(current, c.ops); err != nil {
		return nil, c.failed(ctx, EventConflict, ours.ID, err)
	}
	return current, nil
}

// pause spreads out writers that keep meeting. The first attempts follow at once.
func pause(ctx context.Context, attempt int) error {
	if attempt < 2 {
		return ctx.Err()
	}
	longest := min(20*time.Millisecond, time.Millisecond<<min(attempt-2, 5))
	t := time.NewTimer(rand.N(longest) + 1)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// touch slides the expiry. That it cannot is no reason to fail a request that only read: the session is still there.
func (c *change) touch(ctx context.Context, now time.Time, token string, https bool) (newToken string, slid bool) {
	if c.late && token != c.rec.Token {
		return token, false // the client holds the record: it can no longer be given another
	}
	start := c.r.m.clock()
	next := *c.rec
	c.r.m.limits.slide(&next, now)
	next.Secure = next.Secure || https // kept where the client holds the record, and gets it again
	newToken, err := c.r.m.store.Touch(ctx, c.r.m.cookie.Name, &next)
	if err != nil {
		c.s.mu.Lock()
		c.s.touchFailed = true
		c.s.mu.Unlock()
		if !errors.Is(err, ErrGone) {
			c.failed(ctx, EventTouch, c.rec.ID, err)
		} else {
			c.r.m.emit(ctx, Event{Kind: EventTouch, Outcome: OutcomeGone, SessionID: c.rec.ID, Store: c.r.m.storeName, Duration: c.r.m.since(start)})
		}
		return token, false
	}
	c.rec.Expires, c.rec.Idle = next.Expires, next.Idle
	if newToken != c.rec.Token {
		c.rec.Secure = next.Secure
	}
	c.rec.presentedAs(newToken)
	c.r.m.emit(ctx, Event{Kind: EventTouch, Outcome: OutcomeTouched, SessionID: c.rec.ID, Store: c.r.m.storeName, Duration: c.r.m.since(start)})
	return newToken, true
}

// destroy ends a session in the store. If a parallel request has renewed it, it lives on under a token that this request
// does not know, and a logout that reported success would be lost: the error is ErrGone.
func (c *change) destroy(ctx context.Context, rec *Record) error {
	m := c.r.m
	start := m.clock()
	if err := m.store.Delete(ctx, m.cookie.Name, rec); err != nil {
		return c.failed(ctx, EventDestroy, rec.ID, err)
	}
	m.emit(ctx, Event{Kind: EventDestroy, Outcome: OutcomeDeleted, SessionID: rec.ID, Store: m.storeName, Duration: m.since(start)})
	return nil
}

// commitMark returns the mark of this commit, the same for each attempt and each store: so that what was written in part
// is not taken for somebody else's change.
func (c *change) commitMark() string {
	if c.mark == "" {
		c.mark = newMark()
	}
	return c.mark
}

// write saves one record as the successor of base, and reports how it went.
func (c *change) write(ctx context.Context, kind EventKind, done Outcome, rec *Record, base int64) (string, error) {
	m := c.r.m
	start := m.limits.now()
	if !m.atClient {
		rec.lineage.sign(c.commitMark(), rec.Version, start)
	}
	rec.Version = nextVersion(base, start)
	token, err := m.store.Save(ctx, m.cookie.Name, rec, base)
	if err != nil {
		rec.Version = base
		if errors.Is(err, ErrConflict) {
			return "", err
		}
		return "", c.failed(ctx, kind, rec.ID, err)
	}
	rec.presentedAs(token)
	m.emit(ctx, Event{Kind: kind, Outcome: done, SessionID: rec.ID, Store: m.storeName, Duration: m.since(start)})
	return token, nil
}

// failed reports an error and returns it.
func (c *change) failed(ctx context.Context, kind EventKind, id string, err error) error {
	outcome := OutcomeError
	switch {
	case errors.Is(err, ErrGone):
		outcome = OutcomeGone
	case errors.Is(err, ErrTooLarge):
		outcome = OutcomeTooLarge
	}
	c.r.m.emit(ctx, Event{Kind: kind, Outcome: outcome, SessionID: id, Store: c.r.m.storeName, Err: err})
	return err
}

func (c *change) tooLate(what string) {
	c.r.m.emit(c.r.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, SessionID: c.rec.ID, Store: c.r.m.storeName, Detail: what})
}
