package sessions

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"handover.example/sessions/internal/scheme"
)

// renewedTombstone is how long the tombstone of an ended session, in Redis of a renewed one, stays in a plain server-side
// store: long enough for requests in flight, and for a client library that repeats a command, to see what happened.
// Without it the token is merely unknown, which ends the session just as well.
const renewedTombstone = time.Minute

// renewedKey tells the tombstone of a renewed session from that of a destroyed one.
const renewedKey = "renewed"

// touchShare is the part of the idle timeout that must have passed before it is worth a write to slide it.
const touchShare = 8

// BeforeResponse commits before the first byte. It implements respwriter.Hooks.
func (st *state) BeforeResponse(hijack bool) error {
	st.mu.Lock()
	asked, s := st.asked, st.s
	st.mu.Unlock()
	if !asked {
		return nil
	}
	if s != nil {
		cookie, err := st.commit(s, false)
		if err != nil {
			return err
		}
		if cookie != "" {
			st.setCookie(cookie)
			if hijack {
				st.m.emit(st.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, Store: st.m.storeName,
					Detail: "the connection was hijacked before the headers were sent: take Set-Cookie from the response headers, or change the session before the upgrade"})
			}
		}
	}
	addVary(st.header())
	return nil
}

func (st *state) header() http.Header { return st.writer.Header() }

// Failed answers in place of the handler. It implements respwriter.Hooks.
func (st *state) Failed(w http.ResponseWriter, err error) {
	addVary(w.Header())
	a := &answered{ResponseWriter: w}
	st.m.errorHandler(a, st.r, err)
	if !a.yes {
		answerError(w, st.r, err)
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
func (st *state) finish() {
	if !st.writer.Begun() {
		_ = st.writer.Begin() // on failure the ErrorHandler has answered
		return
	}
	st.mu.Lock()
	s := st.s
	st.mu.Unlock()
	if s != nil && st.writer.Begin() == nil {
		_, _ = st.commit(s, true) // what cannot be saved has been reported by an event
	}
}

// commit writes what has changed and returns the Set-Cookie line that the client needs, if any. A late commit is one
// after the first byte: there the client can be told nothing any more.
func (st *state) commit(s *session, late bool) (cookie string, err error) {
	s.mu.Lock()
	c := change{
		state: st, s: s, late: late,
		rec: s.rec, stored: s.stored, dirty: s.dirty, renew: s.renew, ended: s.ended, forget: s.forget, ops: s.ops,
		touchFailed: s.touchFailed,
	}
	now := st.m.limits.now()
	if c.idle(now) {
		s.mu.Unlock()
		return "", nil
	}
	c.rec = s.rec.clone()
	gen := s.gen
	s.dirty, s.renew, s.ended, s.forget, s.ops = false, false, nil, false, nil
	s.mu.Unlock()

	ctx := context.WithoutCancel(st.Context)
	if !st.m.atClient || st.m.observe != nil { // the client waits for nobody, an observer may
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, st.m.commitTimeout)
		defer cancel()
	}
	if cookie, err = c.run(ctx, now); err != nil {
		return "", err
	}
	return cookie, s.adopt(&c, gen)
}

// adopt takes over what a commit has written, and makes the changes again that came while it ran.
func (s *session) adopt(c *change, gen uint64) error {
	for {
		s.mu.Lock()
		ops, now := append([]*op(nil), s.ops...), s.gen
		if now == gen {
			s.rec, s.stored = c.rec, c.stored
			s.mu.Unlock()
			return nil
		}
		if s.forget { // destroyed meanwhile: the next commit sees to it
			if c.stored {
				s.ended = []*Record{c.rec}
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
	*state
	s      *session
	late   bool
	rec    *Record
	stored bool
	dirty  bool
	renew  bool
	ended  []*Record
	forget bool
	ops    []*op

	touchFailed bool
	mark        string // names this commit in the records that it writes
}

// idle says whether there is nothing to do.
func (c *change) idle(now time.Time) bool {
	if len(c.ended) > 0 || c.forget || c.renew || c.rec.dual.present != "" && !c.late {
		return false
	}
	if !c.stored {
		return len(c.rec.values) == 0
	}
	return !c.dirty && !c.touchDue(now)
}

// touchDue says whether the idle timeout has run for long enough that sliding it is worth a write.
func (c *change) touchDue(now time.Time) bool {
	if c.touchFailed {
		return false
	}
	// Counted without the deadline: the last slide is the one that reaches it, however short.
	return c.rec.Expires.Before(c.rec.Deadline) && now.Add(c.rec.Idle).Sub(c.rec.Expires) >= c.rec.Idle/touchShare
}

func (c *change) run(ctx context.Context, now time.Time) (cookie string, err error) {
	for _, rec := range c.ended {
		if err := c.destroy(ctx, rec); err != nil {
			return "", err
		}
	}
	https := c.https(ctx)
	token := c.client.token
	if len(c.ended) > 0 {
		token = ""
	}
	if c.rec.dual.present != "" && !c.late {
		token, c.rec.dual.present = c.rec.dual.present, ""
	}
	slid := false // the expiry of the cookie has to move as well
	switch {
	case !c.stored && len(c.rec.values) == 0:
		// an anonymous visitor leaves nothing behind
	case !c.stored && c.late:
		c.tooLate("a new session: its cookie can no longer be sent, so nothing was stored")
		return "", nil
	case !c.stored:
		c.rec.Secure = https || c.client.secure // also after Destroy, in a chain that loses the scheme
		token, err = c.create(ctx, now)
		slid = true
	case c.renew:
		c.rec.Secure = c.rec.Secure || https
		token, err = c.renewToken(ctx, now)
		slid = true
	case c.dirty:
		c.rec.Secure = c.rec.Secure || https
		token, err = c.save(ctx, now)
		slid = true
	case c.touchDue(now):
		token, slid = c.touch(ctx, now, token, https)
	}
	if err != nil {
		return "", err
	}
	return c.cookieLine(ctx, token, slid)
}

// cookieLine says what the client must be sent so that it has the token.
func (c *change) cookieLine(ctx context.Context, token string, slid bool) (string, error) {
	m, client := c.m, c.client
	if token == "" {
		if !c.forget || !client.sent || c.late {
			return "", nil
		}
		secure := c.useSecure(client.secure)
		client.token, client.sent = "", false
		c.warnInsecure(ctx, secure)
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
	secure := c.useSecure(c.rec.Secure)
	c.warnInsecure(ctx, secure)
	c.warnDomain(ctx)
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
	return ErrTooLarge.Error() + ": name and value of the cookie are " + strconv.Itoa(e.bytes) + " bytes, a browser keeps " + strconv.Itoa(maxCookieBytes)
}

func (e *tooLargeError) Unwrap() error { return ErrTooLarge }

func (c *change) create(ctx context.Context, now time.Time) (string, error) {
	c.s.mu.Lock()
	c.s.name()
	c.rec.ID, c.rec.Token = c.s.rec.ID, c.s.rec.Token
	c.s.mu.Unlock()
	c.rec.fresh = true
	c.rec.slide(now)
	token, err := c.write(ctx, EventCommit, OutcomeCreated, c.rec, 0)
	c.stored = err == nil
	return token, err
}

// save writes the next version, on top of what parallel requests have written since.
func (c *change) save(ctx context.Context, now time.Time) (string, error) {
	for attempt := 0; ; attempt++ {
		base := c.rec.Version
		c.rec.slide(now)
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
	next.dual, next.marks, next.fresh = dualState{}, "", true
	next.slide(now)
	token, err := c.write(ctx, EventRenew, OutcomeCreated, next, 0)
	if err != nil {
		return "", err
	}
	for attempt := 0; ; attempt++ {
		stone := old.tombstone(now, now.Add(renewedTombstone))
		stone.mark = c.name()
		stone.set(renewedKey, "true")
		_, err = c.m.store.Save(ctx, c.m.cookie.Name, stone, old.Version)
		if err == nil {
			c.rec = next
			return token, nil
		}
		if errors.Is(err, ErrConflict) {
			if old, err = c.merge(ctx, old, err, attempt); err == nil {
				next.values = old.clone().values
				next.CustomIdle, next.Idle, next.Persistent = old.CustomIdle, old.Idle, old.Persistent
				next.Secure = old.Secure // of both
				next.slide(now)
				token, err = c.write(ctx, EventCommit, OutcomeSaved, next, next.Version)
			}
		} else {
			c.failed(ctx, EventRenew, old.ID, err)
		}
		if err != nil {
			// Nobody has its token. The time for the commit may be what ran out.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = c.m.store.Delete(ctx, c.m.cookie.Name, next)
			return "", err
		}
	}
}

// merge waits a little, gets the record that was found in place of ours, and makes our changes again on it.
func (c *change) merge(ctx context.Context, ours *Record, conflict error, attempt int) (*Record, error) {
	m := c.m
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
		if current, err = m.store.Load(ctx, m.cookie.Name, c.client.token); err != nil {
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
	start := c.m.clock()
	next := *c.rec
	next.slide(now)
	next.Secure = next.Secure || https // kept where the client holds the record, and gets it again
	newToken, err := c.m.store.Touch(ctx, c.m.cookie.Name, &next)
	if err != nil {
		c.s.mu.Lock()
		c.s.touchFailed = true
		c.s.mu.Unlock()
		if !errors.Is(err, ErrGone) {
			c.failed(ctx, EventTouch, c.rec.ID, err)
		} else {
			c.m.emit(ctx, Event{Kind: EventTouch, Outcome: OutcomeGone, SessionID: c.rec.ID, Store: c.m.storeName, Duration: c.m.since(start)})
		}
		return token, false
	}
	c.rec.Expires = next.Expires
	if newToken != c.rec.Token {
		c.rec.Secure = next.Secure
	}
	c.m.emit(ctx, Event{Kind: EventTouch, Outcome: OutcomeTouched, SessionID: c.rec.ID, Store: c.m.storeName, Duration: c.m.since(start)})
	return newToken, true
}

func (c *change) destroy(ctx context.Context, rec *Record) error {
	start := c.m.clock()
	if err := c.end(ctx, rec); err != nil {
		return c.failed(ctx, EventDestroy, rec.ID, err)
	}
	c.m.emit(ctx, Event{Kind: EventDestroy, Outcome: OutcomeDeleted, SessionID: rec.ID, Store: c.m.storeName, Duration: c.m.since(start)})
	return nil
}

// end ends a session in the store. If a parallel request has renewed it, it lives on under a token that this request does
// not know, and a logout that reported success would be lost: the error is ErrGone.
func (c *change) end(ctx context.Context, rec *Record) error {
	if s, ok := c.m.store.(*RedisStore); ok {
		return s.end(ctx, rec)
	}
	ended, err := c.entomb(ctx, rec)
	if err != nil || ended && c.m.keepsTombstones {
		return err
	}
	// Where the tombstone could not be written, as in a store that is full, the record can still be deleted.
	if err := c.m.store.Delete(ctx, c.m.cookie.Name, rec); err != nil {
		if !ended {
			return err
		}
		c.failed(ctx, EventDestroy, rec.ID, err)
	}
	return nil
}

// entomb puts a tombstone in the place of a session, with a version check, and says whether that has ended it. Once the
// tombstone is there no renewal can succeed.
func (c *change) entomb(ctx context.Context, rec *Record) (ended bool, err error) {
	for attempt := 0; ; attempt++ {
		now := c.m.limits.now()
		stone := rec.tombstone(now, now.Add(renewedTombstone))
		stone.mark = c.name()
		_, err := c.m.store.Save(ctx, c.m.cookie.Name, stone, rec.Version)
		if err == nil {
			return true, nil
		}
		var found *ConflictError
		if errors.As(err, &found) && found.Current != nil && pause(ctx, attempt) == nil {
			rec = found.Current
			continue
		}
		there, lerr := c.m.store.Load(ctx, c.m.cookie.Name, c.client.token)
		switch {
		case errors.Is(lerr, ErrNotFound):
			return false, nil
		case lerr != nil:
			return false, lerr // it may have been renewed: nobody can tell
		case there.Revoked:
			if _, renewed := there.raw(renewedKey); renewed {
				return false, ErrGone
			}
			return true, nil
		case !errors.Is(err, ErrConflict) || pause(ctx, attempt) != nil:
			return false, nil
		}
		rec = there
	}
}

// name gives the mark of this commit, the same for each attempt and each store: so that what was written in part is not
// taken for somebody else's change.
func (c *change) name() string {
	if c.mark == "" {
		c.mark = newMark()
	}
	return c.mark
}

// write saves one record as the successor of base, and reports how it went.
func (c *change) write(ctx context.Context, kind EventKind, done Outcome, rec *Record, base int64) (string, error) {
	start := c.m.limits.now()
	if !c.m.atClient {
		rec.sign(c.name(), start)
	}
	rec.Version = nextVersion(base, start)
	token, err := c.m.store.Save(ctx, c.m.cookie.Name, rec, base)
	if err != nil {
		rec.Version = base
		if errors.Is(err, ErrConflict) {
			return "", err
		}
		return "", c.failed(ctx, kind, rec.ID, err)
	}
	c.m.emit(ctx, Event{Kind: kind, Outcome: done, SessionID: rec.ID, Store: c.m.storeName, Duration: c.m.since(start)})
	return token, nil
}

// failed reports an error and gives it back.
func (c *change) failed(ctx context.Context, kind EventKind, id string, err error) error {
	outcome := OutcomeError
	switch {
	case errors.Is(err, ErrGone):
		outcome = OutcomeGone
	case errors.Is(err, ErrTooLarge):
		outcome = OutcomeTooLarge
	}
	c.m.emit(ctx, Event{Kind: kind, Outcome: outcome, SessionID: id, Store: c.m.storeName, Err: err})
	return err
}

func (c *change) tooLate(what string) {
	c.m.emit(c.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, SessionID: c.rec.ID, Store: c.m.storeName, Detail: what})
}

// useSecure says whether a cookie of a session is Secure; seen says that the session has been seen on https.
func (c *change) useSecure(seen bool) bool {
	switch c.m.secure {
	case SecureAlways:
		return true
	case DangerouslyNeverSecure:
		return false
	}
	return seen || c.m.cookie.needsSecure() || c.m.scheme.Detect(c.r).HTTPS
}

// https says whether the request came by https, and reports a proxy header that was not believed.
func (c *change) https(ctx context.Context) bool {
	v := c.m.scheme.Detect(c.r)
	if v.Ignored && c.m.secure == SecureAuto {
		c.m.warnOnce(ctx, peerHost(c.r), Event{Kind: EventSecure, Outcome: OutcomeUntrustedProxy,
			Detail: c.m.scheme.Header + " from " + peerHost(c.r) + " was ignored: if that is your proxy, " + howToTrust(peerHost(c.r))})
	}
	return v.HTTPS
}

// warnInsecure reports a Secure cookie on a request that looks like plain http: a browser that is really on plain http
// drops it, and nothing else would say why.
func (c *change) warnInsecure(ctx context.Context, secure bool) {
	if !secure || c.m.scheme.Detect(c.r).HTTPS {
		return
	}
	c.m.warnOnce(ctx, c.r.Host, Event{Kind: EventSecure, Outcome: OutcomeInsecure, SessionID: c.rec.ID,
		Detail: "the cookie is Secure, but the request from " + peerHost(c.r) + " looks like plain http: a browser on plain http drops it, one on https keeps it. " +
			"Behind a proxy that ends TLS, make it send " + c.m.scheme.Header + ": https; without TLS, use https, or localhost in development"})
}

// warnDomain reports a cookie for a domain that the host of the request does not belong to: a browser drops it.
func (c *change) warnDomain(ctx context.Context) {
	domain := c.m.cookie.Domain
	if domain == "" || domainMatches(c.r.Host, domain) {
		return
	}
	c.m.warnOnce(ctx, c.r.Host, Event{Kind: EventSecure, Outcome: OutcomeForeignDomain, SessionID: c.rec.ID,
		Detail: "Cookie.Domain is " + domain + ", but the request is for " + c.r.Host + ": a browser there drops the cookie. " +
			"Leave Cookie.Domain empty, or name a domain of that host; if a proxy rewrites Host, make it pass on the browser's"})
}

// domainMatches says whether a browser at this host, with or without a port, takes a cookie for the domain (RFC 6265,
// section 5.1.3).
func domainMatches(host, domain string) bool {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	host, domain = strings.ToLower(strings.TrimSuffix(host, ".")), strings.ToLower(strings.TrimPrefix(domain, "."))
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// checkOrigin looks for the sign of a proxy chain that loses the scheme: the browser names this host with https, and
// the request looks like http.
func (st *state) checkOrigin(ctx context.Context) {
	origin := st.r.Header.Get("Origin")
	host, ok := strings.CutPrefix(origin, "https://")
	if !ok || st.m.secure != SecureAuto || !strings.EqualFold(strings.TrimSuffix(host, ":443"), strings.TrimSuffix(st.r.Host, ":443")) {
		return
	}
	v := st.m.scheme.Detect(st.r)
	if v.HTTPS {
		return
	}
	mend := "make every proxy pass on " + st.m.scheme.Header + " from the first one, or name the header that it does not overwrite in Config.ProxyHeader, or set Config.Secure to SecureAlways"
	if v.Ignored {
		mend = howToTrust(peerHost(st.r)) + ", or set Config.Secure to SecureAlways"
	}
	st.m.warnOnce(ctx, st.r.Host, Event{Kind: EventSecure, Outcome: OutcomeSchemeMismatch,
		Detail: "Origin says https, the proxy at " + peerHost(st.r) + " " + says(v, st.m.scheme.Header) + ": " + mend})
}

func says(v scheme.Verdict, header string) string {
	switch {
	case v.Ignored:
		return "is not trusted, so its " + header + " is ignored"
	case v.Claim == "":
		return "sends no " + header
	case strings.EqualFold(v.Claim, "http"), strings.EqualFold(v.Claim, "ws"):
		return "says http (" + header + ")"
	}
	return "says neither http nor https (" + header + ")"
}

func howToTrust(peer string) string {
	if peer == unixSocket {
		return "set Config.TrustUnixSocket"
	}
	return "add it to Config.TrustedProxies"
}

// unixSocket is what a peer without an address is called.
const unixSocket = "a Unix socket"

func peerHost(r *http.Request) string {
	switch i := strings.LastIndexByte(r.RemoteAddr, ':'); {
	case scheme.IsUnixSocket(r.RemoteAddr):
		return unixSocket
	case i > 0:
		return r.RemoteAddr[:i]
	}
	return "an address that cannot be read"
}

// setCookie adds the Set-Cookie line beside those of others, and keeps caches away from it.
func (st *state) setCookie(line string) {
	h := st.header()
	h["Set-Cookie"] = append(h["Set-Cookie"], line)
	var dropped []string
	for name, values := range h {
		if !isCacheHeader(name) {
			continue
		}
		if asksForCaching(name, values) {
			dropped = append(dropped, name)
		}
		delete(h, name)
	}
	h.Set("Cache-Control", "no-store")
	if dropped != nil {
		slices.Sort(dropped)
		st.m.emit(st.Context, Event{Kind: EventCache, Outcome: OutcomeOverridden, Store: st.m.storeName,
			Detail: "the handler set " + strings.Join(dropped, ", ") + " on a response that sets the session cookie: it was sent with Cache-Control: no-store. Leave sessions unchanged on pages that are to be cached"})
	}
}

// isCacheHeader knows the headers that a cache obeys, for some before Cache-Control: also the targeted ones of RFC 9213,
// which are those of one CDN or another, and in whatever case a handler wrote them into the map.
func isCacheHeader(name string) bool {
	switch name = textproto.CanonicalMIMEHeaderKey(name); name {
	case "Cache-Control", "Expires", "Surrogate-Control", "Edge-Control", "X-Accel-Expires":
		return true
	}
	return strings.HasSuffix(name, "Cdn-Cache-Control")
}

// asksForCaching says whether a header lets a shared cache keep the response. Expires alone is not worth an event.
func asksForCaching(name string, values []string) bool {
	v := strings.ToLower(strings.Join(values, ","))
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Expires":
		return false
	case "X-Accel-Expires":
		return v != "0"
	}
	asks := false
	for directive := range strings.SplitSeq(v, ",") {
		directive, value, _ := strings.Cut(directive, "=")
		switch strings.TrimSpace(directive) {
		case "private", "no-store", "no-cache":
			return false
		case "public":
			asks = true
		case "max-age", "s-maxage", "cache-maxage":
			asks = asks || strings.Trim(value, `"0 `) != ""
		}
	}
	return asks
}

// addVary says that the response depends on the cookie, once.
func addVary(h http.Header) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			if name == "*" || strings.EqualFold(name, "Cookie") {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"], "Cookie")
}
