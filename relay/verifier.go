package relay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/internal/check"
	"handover.example/sessions/internal/handback"
	"handover.example/sessions/internal/loglimit"
)

// VerifierConfig is the configuration of a [Verifier]. It is copied by [NewVerifier].
type VerifierConfig struct {
	_ [0]func()

	// Issuer and TrustDomain are those of the [IssuerConfig]. Both are required.
	Issuer, TrustDomain string

	// Keys are the public keys of the edge, from [NewKeySet] or [NewRemoteKeySet]. Required.
	Keys KeySet

	// Algorithm is the algorithm that the edge signs with. Default [EdDSA]. A token that names another one is rejected.
	Algorithm Algorithm

	// Hosts are the internal hosts to which [Verifier.Transport] passes the token on, as in [IssuerConfig].
	Hosts []string

	// Confirm reports whether the session with a public handle is still alive, such as the method Alive of a
	// [sessions.RedisStore]. Only [Confirm] calls it.
	Confirm func(ctx context.Context, sessionID string) (bool, error)

	// Header is the name of the header that carries the token. Default [DefaultHeader].
	Header string

	// MaxSize is the maximum size of a token in bytes. Default [DefaultMaxSize].
	MaxSize int

	// CacheSize is how many verified tokens are cached until they expire. Default 10,000; a negative size disables the
	// cache.
	CacheSize int

	// ErrorHandler responds to a request whose token is rejected (a [*TokenError]), or cannot be checked because the
	// keys cannot be fetched (any other error). By default, the response is 401 or 503.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)

	// Logger receives a line for each rejected token, and for each attempt to change a read-only session. Default
	// slog.Default().
	Logger *slog.Logger
	// Observe, if set, receives these and all other events.
	Observe func(context.Context, sessions.Event)
}

// Verifier checks tokens at a service. Create one with [NewVerifier]. It is safe for concurrent use, and must not be
// copied.
type Verifier struct {
	reporter
	rules
	keys     KeySet
	hosts    hosts
	confirm  func(context.Context, string) (bool, error)
	header   string
	onError  func(http.ResponseWriter, *http.Request, error)
	verified *cache
}

// NewVerifier returns a Verifier. It reports all configuration mistakes at once, as an [errors.Join] of
// [*sessions.ConfigError] values.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	bad := check.Mistakes{New: configError}
	v := &Verifier{
		reporter: reporter{logger: cfg.Logger, observe: cfg.Observe, limit: new(loglimit.Limiter)},
		rules: rules{
			algorithm: cmp.Or(cfg.Algorithm, EdDSA), issuer: cfg.Issuer, audience: cfg.TrustDomain,
			maxSize: cmp.Or(cfg.MaxSize, DefaultMaxSize),
		},
		keys: cfg.Keys, hosts: newHosts(cfg.Hosts, &bad), confirm: cfg.Confirm,
		header: checkHeader(cfg.Header, &bad), onError: cfg.ErrorHandler,
		verified: newCache(cmp.Or(cfg.CacheSize, 10_000)),
	}
	checkParties(cfg.Issuer, cfg.TrustDomain, &bad)
	if check.IsNil(cfg.Keys) {
		bad.Add("Keys", "required: make one with NewKeySet or NewRemoteKeySet, and check the error it returned")
	}
	if v.algorithm != EdDSA && v.algorithm != ES256 {
		bad.Add("Algorithm", "%q is neither EdDSA nor ES256", string(v.algorithm))
	}
	if v.maxSize < 0 {
		bad.Add("MaxSize", "%d is negative", v.maxSize)
	}
	if v.onError == nil {
		v.onError = v.defaultError
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	return v, nil
}

// Wrap returns a handler that verifies the token of each request, so that in next, [sessions.Get] returns the session
// of the edge: its ID, its times and the shared values, read-only. A request without a token has a session without
// values, like that of an unknown visitor. A request whose token is rejected, or that has several, does not reach next.
//
// Next does not see the header: only [Verifier.Transport] passes it on. Wrap panics if next is nil.
func (v *Verifier) Wrap(next http.Handler) http.Handler {
	if check.IsNil(next) {
		panic("relay: Wrap: the handler is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s, err := v.session(r)
		e := sessions.Event{Kind: sessions.EventLoad, Outcome: sessions.OutcomeLoaded, Store: "relay", Duration: time.Since(start)}
		var refused *TokenError
		switch {
		case errors.As(err, &refused):
			e.Kind, e.Outcome, e.Detail = sessions.EventReject, refused.Outcome, refused.Detail
			v.report(r.Context(), slog.LevelWarn, "a token was rejected", e)
		case err != nil:
			e.Outcome, e.Err = sessions.OutcomeError, err
			v.report(r.Context(), slog.LevelError, "cannot fetch the edge's public keys", e)
		case s.claims == nil:
			e.Outcome = sessions.OutcomeNone
			v.tell(r.Context(), e)
		default:
			e.SessionID = s.claims.Session
			v.tell(r.Context(), e)
		}
		if err != nil {
			v.onError(w, r, err)
			return
		}
		s.ctx = r.Context()
		in := r
		r = withoutHeader(r, v.header, func() {}).WithContext(sessions.NewContext(context.WithValue(s.ctx, relayedKey{}, s), s))
		defer handback.Request(in, r)
		next.ServeHTTP(w, r)
	})
}

// relayedKey is the context key of the relayed session. A service may have a Manager of its own inside, and then
// [sessions.Get] returns that one's session.
type relayedKey struct{}

func (v *Verifier) session(r *http.Request) (*session, error) {
	var token string
	n := 0
	for name, lines := range r.Header {
		if sameHeader(name, v.header) {
			n += len(lines)
			if len(lines) > 0 {
				token = lines[0]
			}
		}
	}
	switch n {
	case 0:
		return &session{verifier: v}, nil
	case 1:
		c, err := v.verify(r.Context(), token, time.Now())
		if err != nil {
			return nil, err
		}
		return &session{verifier: v, claims: c, token: &token}, nil
	}
	return nil, refuse(sessions.OutcomeMalformed, "the request has %d tokens, where at most one is allowed", n)
}

// verify returns the claims of a token if it is one of ours and has not expired.
func (v *Verifier) verify(ctx context.Context, token string, now time.Time) (*claims, error) {
	if len(token) > v.maxSize {
		_, err := v.parse(token)
		return nil, err
	}
	hash := sha256.Sum256([]byte(token))
	if c := v.verified.get(hash); c != nil {
		return c, v.check(c, now)
	}
	p, err := v.parse(token)
	if err != nil {
		return nil, err
	}
	key, err := v.keys.Key(ctx, p.keyID)
	switch {
	case errors.Is(err, ErrUnknownKey):
		return nil, refuse(sessions.OutcomeUnknown, "the edge does not publish its key")
	case err != nil:
		return nil, err
	}
	c, err := v.rules.verify(p, key, now)
	if err != nil {
		return nil, err
	}
	v.verified.put(hash, c)
	return c, nil
}

func (v *Verifier) defaultError(w http.ResponseWriter, _ *http.Request, err error) {
	w.Header().Set("Cache-Control", "no-store")
	if errors.As(err, new(*TokenError)) {
		w.Header().Set("WWW-Authenticate", v.header) // required by RFC 9110, section 15.5.2
		http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
		return
	}
	http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
}

// Transport returns a RoundTripper that passes the token of the request in the context on to the listed hosts,
// unchanged, and to no others. It does for a service what [Issuer.Transport] does for the edge. A call made after the
// token has expired fails here with a [*TokenError], not at the next service.
func (v *Verifier) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = withoutProxy()
	}
	return &transport{base: base, header: v.header, hosts: v.hosts, token: v.Token}
}

// Token returns the token of the request in the context, for calls that do not use [Verifier.Transport], or "" if the
// request had none. The errors are [ErrNotWrapped], and a [*TokenError] if the token has expired.
func (v *Verifier) Token(ctx context.Context) (string, error) {
	r, ok := ctx.Value(relayedKey{}).(*session)
	if !ok || r.verifier != v {
		return "", ErrNotWrapped
	}
	if r.claims == nil {
		return "", nil
	}
	return *r.token, v.check(r.claims, time.Now())
}

// Transaction returns the claim txn of the token of the request in the context, or "" if the request had no token. It
// is the same for all calls that one click leads to, and is meant for logs.
func Transaction(ctx context.Context) string {
	if r, ok := ctx.Value(relayedKey{}).(*session); ok && r.claims != nil {
		return r.claims.Transaction
	}
	return ""
}

// Confirm checks in the store whether the session of the request in the context is still alive, before a step that must
// not happen after a logout, such as a payment or a change of password. It costs one read. The error is
// [sessions.ErrGone] if the session was destroyed or renewed or has expired, [sessions.ErrNotFound] if the request came
// without a session, and [ErrNotWrapped] if the context is not that of a wrapped request. Any other error means that
// the store could not answer: do not take the step.
func Confirm(ctx context.Context) error {
	r, ok := ctx.Value(relayedKey{}).(*session)
	switch {
	case !ok:
		return ErrNotWrapped
	case r.verifier.confirm == nil:
		return errors.New("relay: Confirm needs VerifierConfig.Confirm, which is not set")
	case r.claims == nil:
		return sessions.ErrNotFound
	}
	start := time.Now()
	alive, err := r.verifier.confirm(ctx, r.claims.Session)
	e := sessions.Event{Kind: EventConfirm, Outcome: sessions.OutcomeLoaded, SessionID: r.claims.Session, Store: "relay", Duration: time.Since(start), Err: err}
	switch {
	case err != nil:
		e.Outcome = sessions.OutcomeError
		r.verifier.report(ctx, slog.LevelError, "cannot confirm a session", e)
		return fmt.Errorf("relay: cannot confirm the session: %w", err)
	case !alive:
		e.Outcome = sessions.OutcomeGone
		r.verifier.tell(ctx, e)
		return sessions.ErrGone
	}
	r.verifier.tell(ctx, e)
	return nil
}

// cache holds verified tokens by their hash, in two generations: when the younger one is full, it replaces the older. A
// token that is used again moves to the younger one.
type cache struct {
	limit        int // of a generation
	mu           sync.Mutex
	young, older map[[sha256.Size]byte]*claims
}

func newCache(size int) *cache { return &cache{limit: (max(size, 0) + 1) / 2} }

func (c *cache) get(hash [sha256.Size]byte) *claims {
	if c.limit == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl, ok := c.young[hash]; ok {
		return cl
	}
	cl, ok := c.older[hash]
	if ok {
		c.add(hash, cl)
	}
	return cl
}

func (c *cache) put(hash [sha256.Size]byte, cl *claims) {
	if c.limit == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(hash, cl)
}

func (c *cache) add(hash [sha256.Size]byte, cl *claims) {
	if _, again := c.young[hash]; c.young == nil || len(c.young) >= c.limit && !again {
		c.older, c.young = c.young, make(map[[sha256.Size]byte]*claims)
	}
	c.young[hash] = cl
}
