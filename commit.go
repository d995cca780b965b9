package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"handover.example/sessions/internal/httpcache"
	"handover.example/sessions/internal/queue"
)

// tombstoneGrace is how long a server-side store keeps the tombstone of a renewed session: long enough for requests in
// flight, and for a client library that repeats a command. Afterwards the token is unknown, which ends the session just
// as well.
const tombstoneGrace = time.Minute

// renewalGrace is for how long after a renewal a request with the old token cannot begin a session: its cookie would
// replace the one that the client is about to get, and so log the user out. A client that never got its new cookie has
// to begin anew, so it is short.
const renewalGrace = 5 * time.Second

// touchShare is the inverse of the part of the idle timeout that must have passed before extending it is worth a write.
const touchShare = 8

// maxTouchWait is how long a session is in use at most before it is touched, however long its idle timeout, and before a
// persistent cookie that does not reach the deadline is sent again.
const maxTouchWait = 30 * 24 * time.Hour

// pending is what a session still has to write. A commit takes all of it.
type pending struct {
	dirty  bool      // values or the lifetime have changed
	renew  bool      // the session gets a new token, which a new session has anyway
	forget bool      // Destroy was called: the client must delete its cookie
	ended  []*Record // stored sessions that this request destroyed
	ops    opList    // the changes since the load, to be made again on a newer record
}

// step is what a commit does with the record.
type step int

const (
	stepNone    step = iota
	stepCreate       // write the record of a new session
	stepTooLate      // nothing: it is too late to send the client a token
	stepGone         // nothing: the client has another session by now
	stepRenew        // write the record under a new token, and a tombstone under the old one
	stepSave         // write the next version
	stepTouch        // extend the expiry only
)

// afterTheEnd returns what a commit does if the session has expired while the request ran. A store may still have the
// record, for a DualStore.
func (s step) afterTheEnd() step {
	switch s {
	case stepRenew, stepSave:
		return stepGone
	case stepTouch:
		return stepNone
	}
	return s
}

// circumstances are what a plan depends on besides the session itself.
type circumstances struct {
	stored  bool // the store has the record
	late    bool // the response has begun
	renewed bool // the client's session was renewed a moment ago, by another request
	expired bool // the request's deadline has passed, so somebody else has answered, as http.TimeoutHandler does
	slides  bool // a touch may extend the idle timeout
}

// plan decides what a commit does with a record. A new session after the first byte, or a renewal that cannot reach the
// client, is not begun; without the renewal nothing else is stored either: a login under the old token would be a session
// fixation.
func (p *pending) plan(rec *Record, at circumstances, now time.Time) step {
	switch {
	case !at.stored && len(rec.values) == 0:
		return stepNone // nothing is stored for an anonymous visitor
	case !at.stored && (at.late || at.expired):
		return stepTooLate
	case !at.stored && at.renewed && !p.renew && !p.forget:
		return stepGone
	case !at.stored:
		return stepCreate
	case p.renew && (at.late || at.expired):
		return stepTooLate
	case p.renew:
		return stepRenew
	case p.dirty:
		return stepSave
	case at.slides && touchDue(rec, now):
		return stepTouch
	}
	return stepNone
}

// touchDue reports whether enough of the idle timeout has passed that extending it is worth a write. It ignores how
// close the deadline is, so the last touch, which reaches the deadline, may extend the session by very little. An expiry
// that is further away than the timeout, as a clock that was ahead has left it, is due as well.
func touchDue(rec *Record, now time.Time) bool {
	used, worth := now.Add(rec.Idle).Sub(rec.Expires), min(rec.Idle/touchShare, maxTouchWait)
	return rec.Expires.Before(rec.Deadline) && (used >= worth || used <= -worth)
}

// endsSoon reports whether a touch is due that must not wait for the commit: less than half of the idle timeout is left,
// and the request might run across its end. A request that runs for less than half of the idle timeout never does, then,
// and a request that writes costs one more command only if the session was not used for half of it.
func endsSoon(rec *Record, now time.Time) bool {
	return touchDue(rec, now) && rec.Expires.Sub(now) < rec.Idle/2
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
					Detail: "the connection was hijacked before the headers were sent: copy Set-Cookie from the response headers, or change the session before the upgrade"})
			}
		}
	}
	r.markCaching(r.header(), s != nil)
	return nil
}

// markCaching sets the headers for caches of a response whose handler has asked for the session: it is for one client if a
// stored session was loaded.
func (r *request) markCaching(h http.Header, loaded bool) {
	if loaded && r.client.token != "" {
		httpcache.Personal(h)
	} else {
		httpcache.VaryByCookie(h)
	}
}

func (r *request) header() http.Header { return r.writer.Header() }

// setCookie adds the Set-Cookie line to those of the handler, and forbids caching of the response.
func (r *request) setCookie(line string) {
	h := r.header()
	if o := r.client.others; o != nil {
		h["Set-Cookie"] = append(h["Set-Cookie"], o.deletions...)
	}
	h["Set-Cookie"] = append(h["Set-Cookie"], line)
	if dropped := httpcache.Forbid(h); dropped != nil {
		r.m.emit(r.Context, Event{Kind: EventCache, Outcome: OutcomeOverridden, Store: r.m.storeName,
			Detail: "the handler set " + strings.Join(dropped, ", ") + " on a response that sets the session cookie: it was sent with Cache-Control: no-store. Do not change sessions on pages that should be cached"})
	}
}

// Failed responds instead of the handler. It implements respwriter.Hooks.
func (r *request) Failed(w http.ResponseWriter, err error) {
	r.markCaching(w.Header(), true) // only a commit fails
	if r.client.deletion != "" {
		w.Header()["Set-Cookie"] = append(w.Header()["Set-Cookie"], r.client.deletion)
		httpcache.Forbid(w.Header())
	}
	a := &answered{ResponseWriter: w}
	r.m.errorHandler(a, r.r, err)
	if !a.yes {
		answerError(w, r.r, err)
	}
}

// answered records whether an ErrorHandler has responded: if it writes nothing, the client must not get an empty 200.
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

// finish commits when the handler has returned: for the first time if it wrote nothing, and otherwise once more for
// changes made after the first byte.
func (r *request) finish() {
	if !r.writer.Begun() {
		_ = r.writer.Begin() // on failure, the ErrorHandler has responded
		return
	}
	r.mu.Lock()
	s := r.s
	r.mu.Unlock()
	if s != nil && r.writer.Begin() == nil {
		_, _ = r.commit(s, true) // an event reports what cannot be saved
	}
}

// commit writes the changes and returns the Set-Cookie line that the client needs, if any. A late commit is one after
// the first byte, when no cookie can be sent any more.
func (r *request) commit(s *session, late bool) (cookie string, err error) {
	s.mu.Lock()
	now := r.m.limits.now()
	resend := s.stored && !late && s.rec.presents() != r.client.token
	step := s.pending.plan(s.rec, circumstances{
		stored: s.stored, late: late, renewed: r.client.renewed, expired: r.expired(),
		slides: !s.touchFailed,
	}, now)
	if step == stepNone && !resend && !s.pending.forget && len(s.pending.ended) == 0 {
		s.mu.Unlock()
		return "", nil
	}
	c := &change{pending: s.pending, r: r, s: s, late: late, rec: s.rec.clone(), stored: s.stored, resend: resend}
	s.pending = pending{}
	gen := s.gen
	s.mu.Unlock()

	ctx := context.WithoutCancel(r.Context)
	if !r.m.atClient || r.m.observe != nil { // sealing cannot block, but an observer may use the context
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.m.commitTimeout)
		defer cancel()
	}
	if cookie, err = c.run(ctx, step, now); err != nil {
		if errors.Is(err, ErrGone) && !late {
			c.deleteIfEnded(ctx)
		}
		return "", err
	}
	return cookie, s.adopt(c, gen)
}

// expired reports whether the deadline of the request has passed, so that somebody else has answered.
func (r *request) expired() bool { return errors.Is(r.Context.Err(), context.DeadlineExceeded) }

// deleteIfEnded makes the client delete its cookie, if the session had ended well before the request began, and only the
// commit has found out: in DualReadOld, a sealed cookie opens although its session has ended. The client then never got
// the answer that has replaced the cookie, and each of its changes would fail until the cookie expires.
func (c *change) deleteIfEnded(ctx context.Context) {
	m, client := c.r.m, c.r.client
	d, ok := storeAs[*DualStore](m.store)
	if !ok || !d.atClient.Load() {
		return
	}
	rec := c.rec
	if len(c.ended) > 0 {
		rec = c.ended[0]
	}
	stone, err := d.new.Load(ctx, m.cookie.Name, rec.Token)
	if err == nil && stone.Revoked && client.loaded.Sub(stone.Created) >= renewalGrace {
		client.deletion = m.cookie.header("", -1, c.r.useSecure(client.secure))
	}
}

// adopt takes over what a commit has written, and makes the changes again that were made while it ran.
func (s *session) adopt(c *change, gen uint64) error {
	for range maxUpdateRounds {
		s.mu.Lock()
		ops, now := slices.Clone(s.pending.ops.all), s.gen
		if now == gen {
			s.rec, s.stored = c.rec, c.stored
			s.mu.Unlock()
			return nil
		}
		if s.pending.forget { // destroyed meanwhile: the next commit ends it
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
	return errUpdate
}

// change is one commit.
type change struct {
	pending
	r      *request
	s      *session
	late   bool
	rec    *Record
	stored bool
	resend bool   // the client should present something else from now on
	mark   string // identifies this commit in the records that it writes

	upgrades bool // this commit is the first on HTTPS that is kept in the record

	turn *queue.Turn[*Record] // nil if the client holds the record
	own  error                // the error of our own change, while those of others are written
}

// run carries out the plan. It ends destroyed sessions first, so that a failed logout fails the whole commit, then
// writes the record, and then makes the cookie.
func (c *change) run(ctx context.Context, step step, now time.Time) (cookie string, err error) {
	for _, rec := range c.ended {
		if err := c.destroy(ctx, rec); err != nil {
			return "", err
		}
	}
	if c.forget {
		if err := c.destroyOthers(ctx); err != nil {
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
	due := cookieDue(c.rec, now)
	slid := false
	c.upgrades = https && !c.rec.Secure
	if c.rec.shortened && c.stored && !c.r.m.atClient && !c.rec.alive(now) {
		step = step.afterTheEnd()
	}
	switch step {
	case stepTooLate:
		if !c.late {
			return "", c.refuse()
		}
		if !c.renew { // of which Renew has told
			c.tooLate("the cookie of a new session can no longer be sent, so nothing was stored")
		}
		return "", nil
	case stepGone:
		return "", c.failed(ctx, EventCommit, c.rec.ID, ErrGone)
	case stepCreate:
		c.rec.Secure = https || c.r.client.secure // client.secure: after Destroy, in a chain that loses the scheme
		token, err = c.create(ctx, now)
	case stepRenew:
		c.rec.Secure = c.rec.Secure || https
		token, err = c.inTurn(ctx, now, c.renewToken)
	case stepSave:
		c.rec.Secure = c.rec.Secure || https
		token, err = c.inTurn(ctx, now, c.save)
		slid = true
	case stepTouch:
		token, slid = c.touch(ctx, now, token, https)
	}
	if err != nil {
		return "", err
	}
	if c.upgrades && c.rec.Secure && (step == stepSave || step == stepTouch) {
		c.r.warnUpgraded(ctx, c.rec.ID)
	}
	return c.cookieLine(ctx, now, token, slid && due)
}

// refuse reports a change that must reach the client, and cannot, because the deadline of the request has passed.
func (c *change) refuse() error {
	c.tooLate("the deadline of the request has passed, and the client has another answer: nothing was stored")
	return errDeadline
}

// errDeadline fails the response of a request whose deadline has passed.
var errDeadline = fmt.Errorf("sessions: nothing was stored: the client could no longer be given its token: %w", context.DeadlineExceeded)

// cookieLine returns the Set-Cookie line that gives the client the token, or "" if it has it and need not get it again.
func (c *change) cookieLine(ctx context.Context, now time.Time, token string, again bool) (string, error) {
	m, client := c.r.m, c.r.client
	if c.forget && client.sent && !c.late {
		c.deleteElsewhere()
	}
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
	if same && !(again && c.rec.Persistent) {
		return "", nil
	}
	if c.late {
		if token != client.token {
			c.tooLate("the session was changed, but its cookie can no longer be sent")
		} else if c.rec.Persistent != client.persistent {
			c.tooLate("SetLifetime: the lifetime was stored, but the browser can no longer be told whether to keep the cookie")
		}
		return "", nil
	}
	if n := len(m.cookie.Name) + len(token); n > maxCookieBytes {
		return "", c.failed(ctx, EventCommit, c.rec.ID, errCookieTooLarge(n))
	}
	if !fitsCookie(token) { // net/http would drop the forbidden bytes, and so lose the session
		return "", c.failed(ctx, EventCommit, c.rec.ID, errNoCookieValue)
	}
	asked := client.sent // with a cookie, so its path matches
	client.token, client.persistent, client.secure, client.sent = token, c.rec.Persistent, c.rec.Secure, true
	secure := c.r.useSecure(c.rec.Secure)
	c.r.warnInsecure(ctx, c.rec.ID, secure)
	c.r.warnDomain(ctx, c.rec.ID)
	if !asked {
		c.r.warnPath(ctx, c.rec.ID)
	}
	switch {
	case c.rec.Persistent:
		return m.cookie.header(token, m.cookieAge(c.rec, now), secure), nil
	case secure:
		return m.cookie.withValue(m.secureLine, token), nil
	}
	return m.cookie.withValue(m.plainLine, token), nil
}

// deleteElsewhere makes the lines that delete the cookie under another Domain or Path, where a logout would leave it.
func (c *change) deleteElsewhere() {
	m, client := c.r.m, c.r.client
	scopes := m.cookie.scopes(c.r.came.Host, requestPath(c.r.came), client.others != nil && client.others.ended)
	if len(scopes) == 1 {
		return
	}
	if client.others == nil {
		client.others = &others{}
	}
	for _, scope := range scopes[1:] {
		client.others.deletions = append(client.others.deletions, scope.header("", -1, c.r.useSecure(client.secure)))
	}
}

// cookieAge returns the Max-Age of a persistent cookie. It reaches the deadline, so that no slide needs a new cookie, which
// a gateway may drop; the server ends the session earlier if it is idle. If only the client has the record, the cookie
// lasts until the record expires, because each slide sends a new one.
func (m *Manager) cookieAge(rec *Record, now time.Time) time.Duration {
	ends := rec.Deadline
	if m.atClient {
		ends = rec.Expires
	}
	return min(max(time.Second, ends.Sub(now)), maxCookieAge)
}

// cookieDue reports whether a persistent cookie must be sent again when its session slides: once in each period of
// maxTouchWait, unless the cookie that the client has already lasts until the deadline; and each time if the client
// presents something other than the token, because such a cookie may have any Max-Age.
func cookieDue(rec *Record, now time.Time) bool {
	used := rec.Expires.Add(-rec.Idle)
	period := func(at time.Time) time.Duration { return at.Sub(rec.Created) / maxTouchWait }
	ends := rec.Deadline.Sub(used) <= maxCookieAge-maxTouchWait
	return rec.Persistent && (rec.Presented != "" || !ends && period(used) != period(now))
}

func (c *change) create(ctx context.Context, now time.Time) (string, error) {
	c.s.mu.Lock()
	c.s.ensureToken()
	c.rec.ID, c.rec.Token = c.s.rec.ID, c.s.rec.Token
	c.s.mu.Unlock()
	c.rec.cookie, c.rec.lineage.fresh, c.rec.shortened = c.r.m.cookie.Name, true, false // there are no earlier copies
	c.r.m.limits.slide(c.rec, now)
	token, err := c.write(ctx, EventCommit, OutcomeCreated, c.rec, 0)
	c.stored = err == nil
	return token, err
}

// inTurn writes an existing session. The commits of one session in this process take turns, so that they do not meet in
// the store: each begins with the record that the one before it has written. A save takes along the changes of those that
// wait, so that one write is enough for all. A commit that waits holds no connection of the store.
func (c *change) inTurn(ctx context.Context, now time.Time, write func(context.Context, time.Time) (string, error)) (token string, err error) {
	m, id := c.r.m, c.rec.ID
	if m.atClient { // no other request writes the client's record
		return write(ctx, now)
	}
	c.turn = m.commits.Join(id, c.renew || c.rec.Presented != "")
	var left *Record
	if !c.turn.Begun() {
		var written bool
		if left, written, err = c.wait(ctx); written || err != nil {
			return c.rec.presents(), err
		}
	}
	next, result := left, errWriter // what the others get, also if an Update function panics
	defer func() { c.turn.Done(next, result) }()
	if c.renew && c.r.expired() {
		return "", c.refuse()
	}
	if left != nil && follows(left, c.rec) {
		if c.rec, err = c.onto(ctx, left, c.rec); err != nil {
			return "", err
		}
	}
	next = nil
	token, result = write(ctx, now)
	if result == nil && c.rec.ID == id && c.turn.Shares() {
		next = c.rec.clone()
	}
	return token, cmp.Or(result, c.own)
}

// errWriter is the error of a change that was taken along by a commit that has panicked.
var errWriter = errors.New("sessions: not stored: the parallel request that was to write the change as well has panicked")

// follows reports whether the changes of a commit can be made on what the one before it has written, instead of on what
// was loaded. If the client holds the record, what this client presents need not be part of the other record.
func follows(left, loaded *Record) bool {
	return left.Version > loaded.Version && left.Presented == "" && loaded.Presented == ""
}

// wait waits for the turn of the commit and returns the record that the one before has left, if any; or until a parallel
// commit has taken the changes along and written them.
func (c *change) wait(ctx context.Context) (left *Record, written bool, err error) {
	m, id := c.r.m, c.rec.ID
	var failure error
	rec, written, err := c.turn.Wait(ctx, func(rec *Record) (next *Record, err error) {
		next, failure = c.onto(ctx, rec, c.rec)
		return next, failure
	})
	switch {
	case failure != nil:
		return nil, false, failure
	case written && err == nil:
		c.rec = rec.clone()
		m.emit(ctx, Event{Kind: EventCommit, Outcome: OutcomeSaved, SessionID: id, Store: m.storeName})
	case written:
		err = c.failed(ctx, EventCommit, id, err)
	case err != nil:
		err = c.failed(ctx, EventConflict, id, c.waited("the parallel requests of the session that came first were written", err))
	}
	return rec, written, err
}

// waited returns the error of a commit that has waited in vain.
func (c *change) waited(until string, err error) error {
	return fmt.Errorf("sessions: not stored: CommitTimeout (%v) had passed before %s: check that the store and the functions given to Update are fast, and %s: %w",
		c.r.m.commitTimeout, until, fewer, err)
}

const fewer = "let fewer requests change one session at once, or raise CommitTimeout"

// manyAttempts is how many conflicts of one commit are worth a log line.
const manyAttempts = 10

// save writes the next version, merged with what parallel requests have written since, and with the changes of those that
// wait for their turn.
func (c *change) save(ctx context.Context, now time.Time) (string, error) {
	for attempt := 0; ; attempt++ {
		rec, err := c.turn.Change(ctx, c.rec, (*Record).clone)
		if err != nil {
			return "", c.failed(ctx, EventConflict, rec.ID, c.waited("the functions of parallel requests had returned", err))
		}
		base := rec.Version
		c.r.m.limits.slide(rec, now)
		token, err := c.write(ctx, EventCommit, OutcomeSaved, rec, base)
		if !errors.Is(err, ErrConflict) {
			c.rec = rec
			return token, err
		}
		if c.rec, err = c.merge(ctx, rec, err, attempt); err != nil {
			return "", err
		}
	}
}

// renewToken writes the session under a new token, and then replaces the old record with a tombstone. The order
// matters: the tombstone's version check finds a parallel write that came in between, which is then merged, not lost.
func (c *change) renewToken(ctx context.Context, now time.Time) (string, error) {
	old := c.rec
	next := old.clone()
	next.Token = NewToken()
	next.ID, _ = TokenID(next.Token)
	next.origin, next.lineage, next.Presented = nil, lineage{fresh: true}, ""
	next.shortened = false // the tombstone ends the earlier copies
	c.r.m.limits.slide(next, now)
	token, err := c.write(ctx, EventRenew, OutcomeCreated, next, 0)
	if err != nil {
		return "", err
	}
	if c.r.expired() { // while it was written: nothing has ended yet
		_ = c.r.m.store.Delete(ctx, c.r.m.cookie.Name, next)
		return "", c.refuse()
	}
	for attempt := 0; ; attempt++ {
		stone := old.tombstone(now, now.Add(tombstoneGrace))
		stone.Renewed, stone.lineage.mark = true, c.commitMark()
		_, err = c.r.m.store.Save(ctx, c.r.m.cookie.Name, stone, old.Version)
		if err == nil {
			c.rec = next
			return token, nil
		}
		conflict := errors.Is(err, ErrConflict)
		if conflict {
			if old, err = c.merge(ctx, old, err, attempt); err == nil {
				next.values, next.index = old.clone().values, nil
				next.CustomIdle, next.Idle, next.Persistent = old.CustomIdle, old.Idle, old.Persistent
				next.Secure = old.Secure // merge has combined both
				c.r.m.limits.slide(next, now)
				if token, err = c.write(ctx, EventCommit, OutcomeSaved, next, next.Version); err == nil {
					continue
				}
			}
		}
		// The cause may be that the commit timed out: what follows has a time limit of its own.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if !conflict {
			if c.renewed(last, stone, old.Version, err) {
				c.rec = next
				return token, nil
			}
			c.failed(ctx, EventRenew, old.ID, err)
		}
		_ = c.r.m.store.Delete(last, c.r.m.cookie.Name, next) // no client has the new token
		return "", err
	}
}

// renewed reports whether the tombstone of this renewal was written, although Save returned an error: then the old token
// is dead, and the session goes on under the new one. It writes the tombstone again, which a store that has it takes for
// a repetition, and which ends the other copy of a DualStore as well. Some stores only say that the session has ended.
func (c *change) renewed(ctx context.Context, stone *Record, base int64, failure error) bool {
	m := c.r.m
	if !errors.Is(failure, ErrGone) {
		if _, failure = m.store.Save(ctx, m.cookie.Name, stone, base); failure == nil {
			return true
		}
	}
	if _, dual := storeAs[*DualStore](m.store); dual && errors.Is(failure, ErrGone) {
		return false // another request has ended it, in one of the two stores at least, and may have been told so
	}
	there, err := m.store.Load(ctx, m.cookie.Name, stone.Token)
	return err == nil && there.Renewed && there.lineage.has(stone.lineage.mark)
}

// merge waits a little, gets the record that the store has instead of ours, and makes our changes again on it.
func (c *change) merge(ctx context.Context, ours *Record, conflict error, attempt int) (*Record, error) {
	m := c.r.m
	e := Event{Kind: EventConflict, Outcome: OutcomeMerged, SessionID: ours.ID, Store: m.storeName}
	if attempt+1 == manyAttempts {
		e.Detail = fmt.Sprintf("%d attempts to write the session have met the write of another instance: change it in fewer requests at once, or keep elsewhere what they change", manyAttempts)
	}
	m.emit(ctx, e)
	if err := pause(ctx, attempt); err != nil {
		return nil, c.failed(ctx, EventConflict, ours.ID, fmt.Errorf("%w: in each of %d attempts until CommitTimeout (%v) had passed: %s: %w", ErrConflict, attempt+1, m.commitTimeout, fewer, err))
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
	m.limits.apply(current, m.limits.now())
	if current.Revoked || !current.alive(m.limits.now()) {
		return nil, c.failed(ctx, EventConflict, ours.ID, ErrGone)
	}
	next, err := c.onto(ctx, current, ours)
	if err != nil && c.turn.Leads() { // the changes of others must still be written
		c.own, c.ops = err, opList{}
		return current, nil
	}
	return next, err
}

// onto makes our changes again on a copy of another record.
func (c *change) onto(ctx context.Context, rec, ours *Record) (*Record, error) {
	next := rec.clone()
	c.upgrades = c.upgrades && !rec.Secure
	next.Secure = next.Secure || ours.Secure
	if err := c.s.rebase(next, c.ops.all); err != nil {
		return nil, c.failed(ctx, EventConflict, ours.ID, err)
	}
	return next, nil
}

// maxPause is the longest pause between two attempts, on which an instance whose writes keep conflicting ends up.
const maxPause = 250 * time.Millisecond

// longestPause returns how long a commit waits at most after an attempt has met a parallel write; the first is attempt 0.
// Every other attempt comes at once, because only then is the record that it was made from likely to be the newest.
func longestPause(attempt int) time.Duration {
	if attempt%2 == 0 {
		return 0
	}
	return min(maxPause, time.Millisecond<<min(attempt/2, 8))
}

// pause spreads out instances whose writes keep conflicting.
func pause(ctx context.Context, attempt int) error {
	longest := longestPause(attempt)
	if longest == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(rand.N(longest) + 1)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// touchAtLoad makes the touch that must not wait for the commit; see endsSoon. The expiry counts as extended if that is all:
// if the client must be told something as well, the commit touches again, because the session may have ended meanwhile.
func (r *request) touchAtLoad(ctx context.Context, s *session) {
	m, now := r.m, r.m.limits.now()
	if m.atClient || !endsSoon(s.rec, now) { // what the client holds does not end while the request runs
		return
	}
	next := *s.rec
	m.limits.slide(&next, now)
	bounded, cancel := context.WithTimeout(ctx, m.commitTimeout)
	defer cancel()
	switch token, err := m.touch(bounded, &next); {
	case err != nil:
		s.touchFailed = ctx.Err() == nil // not if the caller has given up: the commit has its own time
	case token == s.rec.presents() && !cookieDue(s.rec, now):
		s.rec.Expires, s.rec.Idle = next.Expires, next.Idle
	}
}

// touch extends the expiry. Its failure does not fail a request that only reads: the session is still there.
func (c *change) touch(ctx context.Context, now time.Time, token string, https bool) (newToken string, slid bool) {
	if c.late && token != c.rec.Token {
		return token, false // the client holds the record, and can no longer be sent another
	}
	next := *c.rec
	c.r.m.limits.slide(&next, now)
	next.Secure = next.Secure || https // only a sealed record keeps this, as it is sent again
	newToken, err := c.r.m.touch(ctx, &next)
	if err != nil {
		c.s.mu.Lock()
		c.s.touchFailed = true
		c.s.mu.Unlock()
		return token, false
	}
	c.rec.Expires, c.rec.Idle = next.Expires, next.Idle
	if newToken != c.rec.Token {
		c.rec.Secure = next.Secure
	}
	c.rec.presentedAs(newToken)
	return newToken, true
}

// touch writes the expiry of a record, and returns what the client presents for it from now on.
func (m *Manager) touch(ctx context.Context, rec *Record) (token string, err error) {
	start := m.clock()
	token, err = m.store.Touch(ctx, m.cookie.Name, rec)
	e := Event{Kind: EventTouch, Outcome: OutcomeTouched, SessionID: rec.ID, Store: m.storeName, Duration: m.since(start)}
	if err != nil {
		if e.Outcome = failure(err); e.Outcome != OutcomeGone {
			e.Err = err
		}
	}
	m.emit(ctx, e)
	return token, err
}

// destroy ends a session in the store. If a parallel request has renewed the session, it lives on under a token that
// this request does not know. The error is then ErrGone: reporting success would hide a logout that did not happen.
func (c *change) destroy(ctx context.Context, rec *Record) error {
	m := c.r.m
	start := m.clock()
	if err := m.store.Delete(ctx, m.cookie.Name, rec); err != nil {
		return c.failed(ctx, EventDestroy, rec.ID, err)
	}
	m.emit(ctx, Event{Kind: EventDestroy, Outcome: OutcomeDeleted, SessionID: rec.ID, Store: m.storeName, Duration: m.since(start)})
	return nil
}

// destroyOthers ends the other sessions whose cookies the client presented: a logout ends them all. It gives up when
// maxReads of the cookies have named none.
func (c *change) destroyOthers(ctx context.Context) error {
	rest := c.r.client.others
	if rest == nil {
		return nil
	}
	for misses := 0; len(rest.tokens) > 0 && misses < maxReads; rest.tokens = rest.tokens[1:] {
		rec, err := c.r.m.loadToken(ctx, rest.tokens[0])
		switch {
		case errors.Is(err, ErrNotFound):
			misses++
			continue
		case err != nil:
			return c.failed(ctx, EventDestroy, "", err)
		}
		rest.ended = true
		if err := c.destroy(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// commitMark returns the mark of this commit, the same for each attempt and each store, so that a partial write is not
// mistaken for the change of another request.
func (c *change) commitMark() string {
	if c.mark == "" {
		c.mark = newMark()
	}
	return c.mark
}

// write saves a record as the successor of base, and emits the event for it.
func (c *change) write(ctx context.Context, kind EventKind, done Outcome, rec *Record, base int64) (string, error) {
	m := c.r.m
	start := m.limits.now()
	if !m.atClient {
		rec.lineage.sign(c.commitMark(), rec.Version, start)
	}
	was := rec.Version // of a renewal, that of the session before: its copies must not be newer
	rec.Version = nextVersion(was, start)
	token, err := m.store.Save(ctx, m.cookie.Name, rec, base)
	if err != nil {
		rec.Version = was
		if errors.Is(err, ErrConflict) {
			return "", err
		}
		return "", c.failed(ctx, kind, rec.ID, err)
	}
	rec.presentedAs(token)
	m.emit(ctx, Event{Kind: kind, Outcome: done, SessionID: rec.ID, Store: m.storeName, Duration: m.since(start)})
	return token, nil
}

// failed emits the event for an error and returns the error.
func (c *change) failed(ctx context.Context, kind EventKind, id string, err error) error {
	c.r.m.emit(ctx, Event{Kind: kind, Outcome: failure(err), SessionID: id, Store: c.r.m.storeName, Err: err})
	return err
}

// failure returns the outcome that an error is.
func failure(err error) Outcome {
	switch {
	case errors.Is(err, ErrGone):
		return OutcomeGone
	case errors.Is(err, ErrTooLarge):
		return OutcomeTooLarge
	}
	return OutcomeError
}

func (c *change) tooLate(what string) {
	c.r.m.emit(c.r.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, SessionID: c.rec.ID, Store: c.r.m.storeName, Detail: what})
}
