package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"handover.example/sessions/internal/contextkey"
	"handover.example/sessions/internal/respwriter"
	"handover.example/sessions/internal/scheme"
)

// Config is the configuration of a [Manager]. Only Store is required: the zero value of every other field is the safe
// choice. It is copied by [New].
type Config struct {
	_ [0]func()

	// Store keeps the sessions. Required: a [CookieStore], a [RedisStore], or any other [Store].
	Store Store

	// Cookie says how the cookie looks. Default: "session", Path "/", HttpOnly, SameSite=Lax, for as long as the browser
	// runs.
	Cookie Cookie

	// IdleTimeout ends a session that was not used for this long. It slides by a touch when a session is read, at most
	// once in 1/8 of it. Default 24 hours; cut to AbsoluteTimeout and to the TTL of a [RedisStore].
	IdleTimeout time.Duration

	// AbsoluteTimeout ends a session this long after it began, however much it is used. Default 14 days.
	AbsoluteTimeout time.Duration

	// Secure says when the cookie is Secure. Default [SecureAuto].
	Secure SecureMode

	// ProxyHeader is the one header in which a trusted proxy says which scheme the browser used: "https" (or "on") in
	// its leftmost element. Default "X-Forwarded-Proto". "Forwarded" is read as RFC 7239 says. Read only in SecureAuto,
	// and for warnings.
	ProxyHeader string

	// TrustedProxies are the addresses of the direct peers whose ProxyHeader is believed. Nil is the default: loopback
	// and private ranges. An empty list trusts nobody.
	TrustedProxies []netip.Prefix

	// TrustUnixSocket believes the ProxyHeader of peers on a Unix socket as well, who have no address. Default false.
	TrustUnixSocket bool

	// CommitTimeout bounds the writing of a session, which goes on when the client has hung up. Default 5 seconds.
	CommitTimeout time.Duration

	// ErrorHandler answers in place of the handler when the session could not be written. Default: 409 for [ErrGone],
	// 503 for anything else. The error holds nothing secret, but is not meant for the client.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)

	// Logger gets one line for each thing that a person can act on. Default [slog.Default].
	Logger *slog.Logger

	// Observe, if set, is called for each [Event], in the goroutine of the request: it must be quick and safe for
	// concurrent use. The session is not in its context.
	Observe func(context.Context, Event)
}

// SecureMode says when the session cookie is Secure: sent back by the browser over HTTPS only.
type SecureMode int

const (
	// SecureAuto makes the cookie Secure if the request came by https, directly or as a trusted proxy says; if the
	// session was ever seen on https; or if a browser would refuse it otherwise.
	SecureAuto SecureMode = iota
	// SecureAlways makes every cookie Secure, whatever the request looks like.
	SecureAlways
	// DangerouslyNeverSecure sends every cookie over plain http as well, where anyone on the way can read it.
	DangerouslyNeverSecure
)

const useASecureMode = "use SecureAuto, SecureAlways or DangerouslyNeverSecure"

// String returns the name of the constant.
func (m SecureMode) String() string {
	switch m {
	case SecureAuto:
		return "SecureAuto"
	case SecureAlways:
		return "SecureAlways"
	case DangerouslyNeverSecure:
		return "DangerouslyNeverSecure"
	}
	return fmt.Sprintf("SecureMode(%d)", int(m))
}

// MarshalText returns the name of the mode.
func (m SecureMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the name of a mode, so that flags and configuration files can hold one.
func (m *SecureMode) UnmarshalText(text []byte) error {
	for n := SecureAuto; n <= DangerouslyNeverSecure; n++ {
		if n.String() == string(text) {
			*m = n
			return nil
		}
	}
	return &ConfigError{"Secure", fmt.Sprintf("unknown mode %q: %s", text, useASecureMode)}
}

const (
	defaultIdleTimeout     = 24 * time.Hour
	defaultAbsoluteTimeout = 14 * 24 * time.Hour
	defaultCommitTimeout   = 5 * time.Second
)

// Manager gives the requests of a handler their sessions. Make one with [New]. It is safe for concurrent use, and must
// not be copied. Several Managers, each with a cookie name of its own, may wrap the same handler.
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

	atClient        bool   // the store is a CookieStore itself: nothing to wait for, and nobody else who writes
	keepsTombstones bool   // a tombstone is all that a Delete would leave in the store
	plainLine       string // the Set-Cookie line of a cookie for as long as the browser runs, without its value
	secureLine      string // the same with Secure

	warnedMu sync.Mutex
	warned   map[string]bool
}

// New returns a Manager. All configuration mistakes are reported at once, as a join of [*ConfigError].
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
			idle:     orDefault(cfg.IdleTimeout, defaultIdleTimeout),
			absolute: orDefault(cfg.AbsoluteTimeout, defaultAbsoluteTimeout),
			now:      time.Now,
		},
		commitTimeout: orDefault(cfg.CommitTimeout, defaultCommitTimeout),
		errorHandler:  cfg.ErrorHandler,
		logger:        cfg.Logger,
		observe:       cfg.Observe,
		plainLine:     cfg.Cookie.header("", 0, false),
		secureLine:    cfg.Cookie.header("", 0, true),
		warned:        map[string]bool{},
	}
	_, m.atClient = cfg.Store.(*CookieStore)
	_, m.keepsTombstones = cfg.Store.(interface{ keepsTombstones() })
	m.limits.maxIdle = m.limits.absolute
	if s, ok := cfg.Store.(interface{ MaxTTL() time.Duration }); ok {
		m.limits.maxIdle = min(m.limits.maxIdle, s.MaxTTL())
	}
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

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// check reports every mistake in a configuration that has its defaults.
func (cfg *Config) check() error {
	var bad mistakes
	if isNil(cfg.Store) {
		bad.add("Store", "required: make one with NewCookieStore or NewRedisStore, and look at the error that it returned")
	}
	cfg.Cookie.check(cfg.Secure, &bad)
	for _, d := range [...]struct {
		field string
		value time.Duration
	}{{"IdleTimeout", cfg.IdleTimeout}, {"AbsoluteTimeout", cfg.AbsoluteTimeout}, {"CommitTimeout", cfg.CommitTimeout}} {
		if d.value != 0 && d.value < time.Millisecond {
			bad.add(d.field, "%v: leave it zero for the default, or give a millisecond or more", d.value)
		}
	}
	if cfg.Secure < SecureAuto || cfg.Secure > DangerouslyNeverSecure {
		bad.add("Secure", "unknown mode %d: %s", cfg.Secure, useASecureMode)
	}
	if strings.ContainsFunc(cfg.ProxyHeader, func(r rune) bool { return !isTokenRune(r) }) {
		bad.add("ProxyHeader", "%q is not the name of one header", cfg.ProxyHeader)
	}
	for i, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			bad.add("TrustedProxies", "[%d] is not a valid prefix: use netip.MustParsePrefix(\"10.0.0.0/8\")", i)
		} else if p.Addr().Is4In6() {
			bad.add("TrustedProxies", "[%d] %v is an IPv4 range in IPv6 form, which matches no peer: write the IPv4 range", i, p)
		}
	}
	return bad.join()
}

// isNil sees through an interface to a nil pointer, such as that of a constructor whose error was not looked at, or to a
// nil function, such as http.HandlerFunc(nil).
func isNil(v any) bool {
	if v == nil {
		return true
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan:
		return rv.IsNil()
	}
	return false
}

// answerError is the default ErrorHandler.
func answerError(w http.ResponseWriter, _ *http.Request, err error) {
	if errors.Is(err, ErrGone) {
		http.Error(w, "Your session has ended. Please reload the page.", http.StatusConflict)
		return
	}
	http.Error(w, "The change could not be saved. Please try again.", http.StatusServiceUnavailable)
}

// Wrap returns a handler that gives next a session: next asks for it with [Get]. A request that does not ask costs
// nothing. Changes are committed before the first byte of the response; if that fails, nothing of the response that
// next has made is sent, and Config.ErrorHandler answers.
//
// A handler that panics commits nothing. Put a middleware that recovers from panics outside of Wrap, so that it stays
// so. Wrap panics if next is nil.
func (m *Manager) Wrap(next http.Handler) http.Handler {
	if isNil(next) {
		panic("sessions: Wrap: the handler is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(m) != nil {
			next.ServeHTTP(w, r) // wrapped twice: one session is enough
			return
		}
		st := &state{Context: r.Context(), m: m}
		st.r = r.WithContext(st)
		next.ServeHTTP(st.writer.Wrap(w, st), st.r)
		st.finish() // not deferred: a panic commits nothing
		st.writer.End()
	})
}

// Get returns this Manager's session of the request with this context; see [Get].
func (m *Manager) Get(ctx context.Context) (Session, error) {
	if st, ok := ctx.Value(m).(*state); ok {
		return st.session(ctx)
	}
	return nil, ErrNoMiddleware
}

// Get returns the session of the request with this context: that of the innermost [Manager]. It is loaded on first
// use; later calls are free. A client without a session, or with one that cannot be used, gets a new one, which is kept
// only if something is set in it.
//
// Outside of a Manager the error is [ErrNoMiddleware]. Any other error means that the store could not answer, and that
// nobody knows who the client is: do not treat it as logged out.
func Get(ctx context.Context) (Session, error) {
	switch v := ctx.Value(contextkey.Session{}).(type) {
	case *state:
		return v.session(ctx)
	case Session:
		return v, nil
	}
	return nil, ErrNoMiddleware
}

// NewContext returns a context in which [Get] returns s: for tests of handlers, and for sessions that come from
// elsewhere than a Manager.
func NewContext(ctx context.Context, s Session) context.Context {
	return context.WithValue(ctx, contextkey.Session{}, s)
}

// state is what Wrap adds to one request: its context, its response writer and, once asked for, its session. It is one
// allocation.
type state struct {
	context.Context
	writer respwriter.Writer
	m      *Manager
	r      *http.Request

	mu     sync.Mutex
	asked  bool // somebody asked for the session
	s      *session
	err    error
	client *clientState // from the load on; behind a pointer, as all that is secret: see Format
}

// clientState is what the client has.
type clientState struct {
	token      string // the one that was accepted, or that it has been sent since
	sent       bool   // it sent a cookie of this name, good or not
	persistent bool
	secure     bool
}

// Format keeps what prints a context from printing the client's token. Package fmt does not ask for it where the context
// is in an unexported field of something else: there it prints what is here, but follows no pointer.
func (st *state) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "sessions.Manager.Wrap") }

func (st *state) Value(key any) any {
	switch k := key.(type) {
	case contextkey.Session:
		return st
	case *Manager:
		if k == st.m {
			return st
		}
	}
	return st.Context.Value(key)
}

// loading is the context of a load: no session is in it, so that an Observe, a log handler or a hook of the store that
// asks for one gets ErrNoMiddleware, and does not wait for itself.
type loading struct {
	context.Context
	m *Manager
}

func (l loading) Value(key any) any {
	if _, ok := key.(emitterKey); ok {
		return l.m
	}
	v := l.Context.Value(key)
	if _, ok := v.(*state); ok {
		return nil
	}
	return v
}

// session loads the session on first use.
func (st *state) session(ctx context.Context) (Session, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.s != nil || st.err != nil {
		if st.err != nil {
			return nil, st.err
		}
		return st.s, nil
	}
	l := &loaded{ctx: loading{ctx, st.m}}
	st.client = &l.client
	if !st.asked {
		st.asked = true
		st.checkOrigin(&l.ctx)
	}
	rec, err := st.load(&l.ctx)
	if err != nil {
		if ctx.Err() == nil {
			st.err = err // an answer cut short by this caller's context says nothing to the next one
		}
		return nil, err
	}
	l.session = session{limits: &st.m.limits, response: st, rec: rec, stored: rec != nil, isNew: rec == nil}
	if rec == nil {
		l.session.rec = st.m.limits.newRecord(st.m.limits.now())
	}
	st.s = &l.session
	return st.s, nil
}

// loaded is what a load adds to a request. It is one allocation.
type loaded struct {
	ctx     loading
	client  clientState
	session session
}

func (st *state) begun() bool { return st.writer.Begun() }

func (st *state) warnLate(what string) {
	st.m.emit(st.Context, Event{Kind: EventCommit, Outcome: OutcomeTooLate, Store: st.m.storeName, Detail: what})
}

func (st *state) warnMisfit(id string, into reflect.Type) {
	st.m.emit(st.Context, Event{Kind: EventReject, Outcome: OutcomeUndecodable, SessionID: id, Store: st.m.storeName,
		Detail: fmt.Sprintf("a value does not fit %v: its type has changed since it was set, or another program sets it; read the old form as well, or use a key of another name", into)})
}

// load tries the client's cookies in order. It returns nil without an error if none of them stands for a session.
func (st *state) load(ctx context.Context) (*Record, error) {
	m := st.m
	start := m.clock()
	var buf [maxCandidates]string
	tokens := candidates(st.r.Header, m.cookie.Name, buf[:0])
	*st.client = clientState{sent: len(tokens) > 0}
	for _, token := range tokens {
		rec, err := m.loadToken(ctx, token)
		if err == nil {
			st.client.token, st.client.persistent, st.client.secure = token, rec.Persistent, rec.Secure
			outcome := OutcomeLoaded
			if rec.dual.adopted {
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
		m.emit(ctx, Event{Kind: EventReject, Outcome: miss.Outcome, SessionID: miss.SessionID, Store: m.storeName, Detail: miss.Detail, Duration: m.since(start)})
	}
	m.emit(ctx, Event{Kind: EventLoad, Outcome: OutcomeNone, Store: m.storeName})
	return nil, nil
}

// loadToken loads one record and holds it to the limits. Every reason why there is none is a NotFoundError.
func (m *Manager) loadToken(ctx context.Context, token string) (*Record, error) {
	rec, err := m.store.Load(ctx, m.cookie.Name, token)
	if err != nil {
		var miss *NotFoundError
		if errors.Is(err, ErrNotFound) && !errors.As(err, &miss) {
			return nil, &NotFoundError{Outcome: OutcomeUnknown}
		}
		return nil, err
	}
	if rec.Revoked {
		return nil, &NotFoundError{Outcome: OutcomeRevoked, SessionID: rec.ID, Detail: "it was destroyed or renewed"}
	}
	m.limits.apply(rec)
	if !rec.alive(m.limits.now()) {
		return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: rec.ID}
	}
	return rec, nil
}
