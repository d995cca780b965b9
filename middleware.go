package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"sync"
	"time"

	"handover.example/sessions/internal/check"
	"handover.example/sessions/internal/handback"
	"handover.example/sessions/internal/loglimit"
	"handover.example/sessions/internal/queue"
	"handover.example/sessions/internal/respwriter"
	"handover.example/sessions/internal/scheme"
)

// Manager is the middleware that gives each request its session. Create one with [New]. It is safe for concurrent use,
// and must not be copied. Several Managers may wrap the same handler, and use the same store, if each has its own cookie
// name: a token belongs to the name of its cookie, and opens nothing under another.
type Manager struct {
	store         Store
	storeName     string
	cookie        Cookie
	limits        limits
	secure        SecureMode
	scheme        scheme.Policy
	commitTimeout time.Duration
	errorHandler  func(http.ResponseWriter, *http.Request, error)
	logger        *slog.Logger
	observe       func(context.Context, Event)

	atClient   bool   // the client holds the records: no network to wait for, no other writer
	plainLine  string // the Set-Cookie line of a cookie that is not persistent, without its value
	secureLine string // the same with Secure

	commits  queue.Queue[*Record] // of existing sessions, by ID
	loglimit loglimit.Limiter
}

// New returns a Manager. It reports all configuration mistakes at once, as an [errors.Join] of [*ConfigError] values.
func New(cfg Config) (*Manager, error) {
	cfg.Cookie = cfg.Cookie.withDefaults()
	if cfg.ProxyHeader == "" {
		cfg.ProxyHeader = "X-Forwarded-Proto"
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m := &Manager{
		store:     cfg.Store,
		storeName: storeName(cfg.Store),
		cookie:    cfg.Cookie,
		secure:    cfg.Secure,
		scheme: scheme.Policy{
			Header:     textproto.CanonicalMIMEHeaderKey(cfg.ProxyHeader),
			Trusted:    slices.Clone(cfg.TrustedProxies),
			UnixSocket: cfg.TrustUnixSocket,
		},
		limits: limits{
			idle:     cmp.Or(cfg.IdleTimeout, defaultIdleTimeout),
			absolute: cmp.Or(cfg.AbsoluteTimeout, defaultAbsoluteTimeout),
			now:      time.Now,
		},
		commitTimeout: cmp.Or(cfg.CommitTimeout, defaultCommitTimeout),
		errorHandler:  cfg.ErrorHandler,
		logger:        cfg.Logger,
		observe:       cfg.Observe,
		plainLine:     cfg.Cookie.header("", 0, false),
		secureLine:    cfg.Cookie.header("", 0, true),
	}
	m.atClient, _ = isClientSide(cfg.Store)
	m.limits.maxIdle = min(m.limits.absolute, maxTTL(cfg.Store))
	m.limits.idle = min(m.limits.idle, m.limits.maxIdle)
	if cfg.TrustedProxies == nil {
		m.scheme.Trusted = scheme.PrivateRanges
	}
	if m.errorHandler == nil {
		m.errorHandler = answerError
	}
	if m.logger == nil {
		m.logger = slog.Default()
	}
	return m, nil
}

// answerError is the default ErrorHandler.
func answerError(w http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, ErrGone) {
		http.Error(w, "Your session has ended. Please reload the page.", http.StatusConflict)
		return
	}
	http.Error(w, "The change could not be saved. Please try again.", http.StatusServiceUnavailable)
}

// Wrap returns a handler that calls next with a session, which next gets with [Get]. A request that never asks for its
// session causes no store call. Changes are committed before the first byte of the response; if that fails, the
// response of next is discarded, and Config.ErrorHandler responds instead.
//
// If next panics, nothing is committed. Middleware that recovers from panics belongs outside Wrap: inside, the handler
// would seem to have returned, and its changes would be committed. So do [http.TimeoutHandler], which inside Wrap would
// answer, and commit, while the handler still makes its changes, and [http.MaxBytesHandler], which inside could not close
// the connection. Middleware that replaces RemoteAddr or Host belongs inside. Wrap panics if next is nil.
func (m *Manager) Wrap(next http.Handler) http.Handler {
	if check.IsNil(next) {
		panic("sessions: Wrap: the handler is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(m) != nil {
			next.ServeHTTP(w, r) // wrapped twice: one session is enough
			return
		}
		rq := &request{Context: r.Context(), m: m, came: r}
		rq.r = r.WithContext(rq)
		defer handback.Request(r, rq.r)
		next.ServeHTTP(rq.writer.Wrap(w, rq), rq.r)
		rq.finish() // not deferred: a panic commits nothing
		rq.writer.End()
	})
}

// Get returns the session that this Manager gives the request with this context; see [Get].
func (m *Manager) Get(ctx context.Context) (Session, error) {
	if r, ok := ctx.Value(m).(*request); ok {
		return r.session(ctx)
	}
	return nil, ErrNoMiddleware
}

// sessionKey is the context key of a session.
type sessionKey struct{}

// Get returns the session of the request with this context; with several Managers, that of the innermost [Manager]. The
// first call loads it; later calls are free. A client without a usable session gets a new one, which is kept only if
// the handler sets a value.
//
// Outside a Manager the error is [ErrNoMiddleware]. Any other error means that the store could not answer, so that it
// is unknown who the client is: do not treat it as logged out.
func Get(ctx context.Context) (Session, error) {
	switch v := ctx.Value(sessionKey{}).(type) {
	case *request:
		return v.session(ctx)
	case Session:
		return v, nil
	}
	return nil, ErrNoMiddleware
}

// NewContext returns a context in which [Get] returns s. It is for tests of handlers, and for sessions that do not come
// from a Manager.
func NewContext(ctx context.Context, s Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// request is what Wrap adds to a request: its context, its response writer and, once asked for, its session. All of it
// is one allocation.
type request struct {
	context.Context
	writer respwriter.Writer
	m      *Manager
	r      *http.Request // as the handler has it: middleware inside may replace RemoteAddr and Host
	came   *http.Request // as it came, for what the proxy says

	mu     sync.Mutex
	asked  bool // the handler has asked for the session
	s      *session
	err    error
	client *clientState // set by the load; behind a pointer because it is secret: see Format
}

// clientState is the state of the client's cookie.
type clientState struct {
	token      string // the accepted one, or the one sent to it since
	sent       bool   // the client sent a cookie of this name, valid or not
	persistent bool
	secure     bool
	loaded     time.Time // when it was loaded
	deletion   string    // the Set-Cookie line of a failed response, if the client should delete its cookie
	renewed    bool      // it named a session that was renewed a moment ago: the client is about to learn its new token
	others     *others
}

// others are the other cookies of the same name, if the client may have some.
type others struct {
	tokens    []string // may name a session as well
	ended     bool     // a logout has ended such a session
	deletions []string // Set-Cookie lines that delete the cookie where else it may be
}

// Format keeps the client's token out of a printed context. If the context is in an unexported field of another value,
// package fmt does not call Format but prints the fields; it does not follow pointers there.
func (r *request) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "sessions.Manager.Wrap") }

func (r *request) Value(key any) any {
	switch k := key.(type) {
	case sessionKey:
		return r
	case *Manager:
		if k == r.m {
			return r
		}
	}
	return r.Context.Value(key)
}

// loading is the context of a load. It carries no session, so that an Observe function, a log handler or a hook of the
// store that asks for one gets ErrNoMiddleware, not a deadlock.
type loading struct {
	context.Context
	m       *Manager
	adopted bool // the store has just adopted the session from another one
}

func (l *loading) Value(key any) any {
	if _, ok := key.(loadingKey); ok {
		return l
	}
	v := l.Context.Value(key)
	if _, ok := v.(*request); ok {
		return nil
	}
	return v
}

// session loads the session on first use.
func (r *request) session(ctx context.Context) (Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.s != nil || r.err != nil {
		if r.err != nil {
			return nil, r.err
		}
		return r.s, nil
	}
	l := &loaded{ctx: loading{Context: ctx, m: r.m}}
	r.client = &l.client
	if !r.asked {
		r.asked = true
		r.checkOrigin(&l.ctx)
	}
	rec, err := r.load(&l.ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.err = err // not if this caller's context has ended: the next caller may get an answer
		}
		return nil, err
	}
	l.session = session{limits: &r.m.limits, response: r, rec: rec, stored: rec != nil, isNew: rec == nil}
	if rec == nil {
		l.session.rec = r.m.limits.newRecord(r.m.limits.now())
	} else {
		r.touchAtLoad(&l.ctx, &l.session)
	}
	r.s = &l.session
	return r.s, nil
}

// loaded is what a load adds to a request, as one allocation.
type loaded struct {
	ctx     loading
	client  clientState
	session session
}

func (r *request) begun() bool { return r.writer.Begun() }

func (r *request) warnLate(what string) {
	r.m.emit(r.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, Store: r.m.storeName, Detail: what})
}

func (r *request) warnMisfit(id string, into reflect.Type) {
	r.m.emit(r.Context, Event{Kind: EventReject, Outcome: OutcomeUndecodable, SessionID: id, Store: r.m.storeName,
		Detail: fmt.Sprintf("a value does not fit %v: its type has changed since it was set, or another program sets it; read the old form as well, or use a key with another name", into)})
}

// load tries the client's cookies in order. It returns nil and no error if none of them names a session.
func (r *request) load(ctx *loading) (*Record, error) {
	m := r.m
	start := m.clock()
	var buf [maxReads]string
	tokens, more := candidates(r.r.Header, m.cookie.Name, buf[:0])
	*r.client = clientState{sent: len(tokens) > 0, loaded: m.limits.now()}
	var opened []bool
	if len(tokens) > 1 {
		opened = m.newestFirst(ctx, tokens)
	}
	reads := 0
	for i, token := range tokens {
		if reads == maxReads {
			more, r.client.others = true, &others{tokens: tokens[i:]}
			break
		}
		rec, err := m.loadToken(ctx, token)
		if err == nil {
			r.client.token, r.client.persistent, r.client.secure = token, rec.Persistent, rec.Secure
			var rest []string
			for j := i + 1; j < len(tokens); j++ {
				if opened[j] || !m.atClient && isToken(tokens[j]) {
					rest = append(rest, tokens[j])
				}
			}
			if rest != nil {
				r.client.others = &others{tokens: rest}
				m.emit(ctx, Event{Kind: EventReject, Outcome: OutcomeAmbiguous, SessionID: rec.ID, Store: m.storeName, Detail: ambiguous})
			}
			outcome := OutcomeLoaded
			if ctx.adopted {
				outcome = OutcomeAdopted
			}
			m.emit(ctx, Event{Kind: EventLoad, Outcome: outcome, SessionID: rec.ID, Store: m.storeName, Duration: m.since(start)})
			return rec, nil
		}
		var miss *NotFoundError
		if !errors.As(err, &miss) {
			m.emit(ctx, Event{Kind: EventLoad, Outcome: OutcomeError, Store: m.storeName, Duration: m.since(start), Err: err})
			return nil, err
		}
		if miss.Outcome != OutcomeMalformed && miss.Outcome != OutcomeTampered {
			reads++
		}
		r.client.renewed = r.client.renewed || miss.renewed
		e := Event{Kind: EventReject, Outcome: miss.Outcome, SessionID: miss.SessionID, Store: m.storeName, Detail: miss.Detail, Duration: m.since(start)}
		switch {
		case i == 0:
			m.emit(ctx, e)
		case m.observe != nil && i < maxReads:
			m.observe(ctx, e) // one line per request is enough
		}
	}
	if more {
		m.emit(ctx, Event{Kind: EventReject, Outcome: OutcomeAmbiguous, Store: m.storeName, Detail: untried})
	}
	m.emit(ctx, Event{Kind: EventLoad, Outcome: OutcomeNone, Store: m.storeName})
	return nil, nil
}

const (
	ambiguous = "the client sent several cookies of this name that may be good: of those that hold their session the newest counts, of others the first. " +
		"A changed Cookie.Domain or Cookie.Path leaves the earlier cookie in the browser; a program on another subdomain can plant one, unless the name begins with __Host-"
	untried = "the client sent so many cookies of this name that some were not tried, and those that were named no session. " +
		"Other paths, domains or programs have left them: use a name of your own, or one that begins with __Host-"
)

// newestFirst puts the cookies that hold their session in order, the newest first, and reports for each place whether
// there is one. If Cookie.Domain or Cookie.Path has changed, a browser has two cookies of a session, and sends the older
// one first.
func (m *Manager) newestFirst(ctx context.Context, tokens []string) (opened []bool) {
	opened = make([]bool, len(tokens))
	store := heldByClient(m.store)
	if store == nil {
		return opened
	}
	type held struct {
		token   string
		version int64
	}
	var all []held
	for i, token := range tokens {
		if rec, err := store.Load(ctx, m.cookie.Name, token); err == nil && !rec.Revoked {
			all, opened[i] = append(all, held{token, rec.Version}), true
		}
	}
	slices.SortStableFunc(all, func(a, b held) int { return cmp.Compare(b.version, a.version) })
	for i := range tokens {
		if opened[i] {
			tokens[i], all = all[0].token, all[1:]
		}
	}
	return opened
}

// heldByClient returns the store that opens the records that clients hold, or nil.
func heldByClient(s Store) Store {
	if atClient, _ := isClientSide(s); atClient {
		return s
	}
	if d, ok := storeAs[*DualStore](s); ok && d.atClient.Load() {
		return d.old.(*countedStore).Store // this read is not one of those that are reported
	}
	return nil
}

// loadToken loads one record and applies the Manager's current timeouts to it. If there is no session, the error is a
// NotFoundError with the reason.
func (m *Manager) loadToken(ctx context.Context, token string) (*Record, error) {
	rec, err := m.store.Load(ctx, m.cookie.Name, token)
	if err != nil {
		var miss *NotFoundError
		if errors.Is(err, ErrNotFound) && !errors.As(err, &miss) {
			return nil, &NotFoundError{Outcome: OutcomeUnknown}
		}
		return nil, err
	}
	if rec.cookie = cmp.Or(rec.cookie, m.cookie.Name); rec.cookie != m.cookie.Name {
		return nil, &NotFoundError{Outcome: OutcomeUnknown, SessionID: rec.ID, Detail: "it names the session of a cookie with another name: another Manager or program uses the same store"}
	}
	now := m.limits.now()
	if rec.Revoked {
		return nil, &NotFoundError{Outcome: OutcomeRevoked, SessionID: rec.ID, Detail: "it was destroyed or renewed",
			renewed: rec.Renewed && now.Sub(rec.Created) < renewalGrace}
	}
	m.limits.apply(rec, now)
	if !rec.alive(now) {
		return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: rec.ID}
	}
	return rec, nil
}
