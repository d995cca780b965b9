package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"handover.example/sessions"
)

// VerifierConfig is the configuration of a [Verifier]. It is copied by [NewVerifier].
type VerifierConfig struct {
	_ [0]func()

	// Issuer and TrustDomain are those of the [IssuerConfig]. Both required.
	Issuer, TrustDomain string

	// Keys are those of the edge: [NewKeySet] or [NewRemoteKeySet]. Required.
	Keys KeySet

	// Algorithm is the one that the edge signs with. Default [EdDSA]. What a token says of it is held against this, and
	// chooses nothing.
	Algorithm Algorithm

	// Hosts are the internal hosts to which [Verifier.Transport] carries the token on, as in [IssuerConfig].
	Hosts []string

	// Confirm asks the store whether a session still lives, by its public handle: the method Alive of a
	// [sessions.RedisStore]. It is asked by [Confirm] alone.
	Confirm func(ctx context.Context, sessionID string) (bool, error)

	// Header carries the token. Default [DefaultHeader].
	Header string

	// MaxSize is how many bytes a token may have. Default [DefaultMaxSize].
	MaxSize int

	// CacheSize is how many verified tokens are remembered while they live. Default 10,000; negative is none.
	CacheSize int

	// ErrorHandler answers a request whose token is refused (a [*TokenError]) or cannot be checked because the keys cannot
	// be had (any other error). Default: 401, or 503.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)

	// Logger gets a line for each refused token and for each change that a read-only session cannot make. Default
	// slog.Default().
	Logger *slog.Logger
	// Observe gets these and all others as events.
	Observe func(context.Context, sessions.Event)
}

// Verifier checks the tokens, at a service. Make it with [NewVerifier]. It is safe for concurrent use and must not be
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

// NewVerifier returns a Verifier. All configuration mistakes are reported at once, as a join of [*sessions.ConfigError].
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	var bad mistakes
	v := &Verifier{
		reporter: reporter{cfg.Logger, cfg.Observe},
		rules: rules{
			algorithm: orDefault(cfg.Algorithm, EdDSA), issuer: cfg.Issuer, audience: cfg.TrustDomain,
			maxSize: orDefault(cfg.MaxSize, DefaultMaxSize),
		},
		keys: cfg.Keys, hosts: newHosts(cfg.Hosts, &bad), confirm: cfg.Confirm,
		header: checkHeader(cfg.Header, &bad), onError: cfg.ErrorHandler,
		verified: newCache(orDefault(cfg.CacheSize, 10_000)),
	}
	checkParties(cfg.Issuer, cfg.TrustDomain, &bad)
	if isNil(cfg.Keys) {
		bad.add("Keys", "required: make one with NewKeySet or NewRemoteKeySet, and look at the error that it returned")
	}
	if v.algorithm != EdDSA && v.algorithm != ES256 {
		bad.add("Algorithm", "%q is neither EdDSA nor ES256", string(v.algorithm))
	}
	if v.maxSize < 0 {
		bad.add("MaxSize", "%d is negative", v.maxSize)
	}
	if v.onError == nil {
		v.onError = v.defaultError
	}
	if err := bad.join(); err != nil {
		return nil, err
	}
	return v, nil
}

// Wrap verifies the token of each request, so that [sessions.Get] gives the session of the edge to the handler: its ID,
// its times and the values that the edge shares, read-only. A request without a token has a session with nothing in it,
// as that of a visitor whom nobody knows. One whose token is refused, or that has several, does not reach the handler.
//
// The handler no longer sees the header: it goes on over [Verifier.Transport], and to nobody else. Wrap panics if next is
// nil.
func (v *Verifier) Wrap(next http.Handler) http.Handler {
	if isNil(next) {
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
			v.report(r.Context(), slog.LevelWarn, "a token was refused", e)
		case err != nil:
			e.Outcome, e.Err = sessions.OutcomeError, err
			v.report(r.Context(), slog.LevelError, "the keys of the edge cannot be had", e)
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
		r = withoutHeader(r, v.header, func() {})
		next.ServeHTTP(w, r.WithContext(sessions.NewContext(context.WithValue(s.ctx, relayedKey{}, s), s)))
	})
}

// relayedKey is the context key of the session that came by relay: a service may have sessions of its own inside, and then
// [sessions.Get] gives those.
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
	return nil, refuse(sessions.OutcomeMalformed, "there are %d of them, and nobody knows which one was meant", n)
}

// verify gives what a token says, if it is one of ours that lives.
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
		return nil, refuse(sessions.OutcomeUnknown, "its key is none of the edge's")
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
		w.Header().Set("WWW-Authenticate", v.header) // RFC 9110, section 15.5.2, asks for one
		http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
		return
	}
	http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
}

// Transport returns a RoundTripper that carries the token of the request in the context on to the listed hosts, as it
// came, and to no other. It does for a service what [Issuer.Transport] does for the edge. A call that is made after the
// token has expired fails with a [*TokenError], rather than at the next service.
func (v *Verifier) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = withoutProxy()
	}
	return &transport{base: base, header: v.header, hosts: v.hosts, token: v.Token}
}

// Token returns the token that came with the request of the context, for calls that are not made over
// [Verifier.Transport]; it is empty if there was none. Errors are [ErrNotWrapped], and a [*TokenError] if it has expired.
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

// Transaction returns the txn of the token that came with the request of the context, which is the same for all calls
// that one click led to: for logs. It is empty if there was none.
func Transaction(ctx context.Context) string {
	if r, ok := ctx.Value(relayedKey{}).(*session); ok && r.claims != nil {
		return r.claims.Transaction
	}
	return ""
}

// Confirm asks the store whether the session of the context still lives, for a step that must not be taken after a
// logout: a payment, a change of the password. It costs one read. Errors are [sessions.ErrGone] if the session has been
// destroyed or renewed, or has ended; [sessions.ErrNotFound] if the request came without one; [ErrNotWrapped]; and any
// other if the store could not answer: then do not take the step.
func Confirm(ctx context.Context) error {
	r, ok := ctx.Value(relayedKey{}).(*session)
	switch {
	case !ok:
		return ErrNotWrapped
	case r.verifier.confirm == nil:
		return errors.New("relay: VerifierConfig.Confirm is not set: there is no store to ask")
	case r.claims == nil:
		return sessions.ErrNotFound
	}
	start := time.Now()
	alive, err := r.verifier.confirm(ctx, r.claims.Session)
	e := sessions.Event{Kind: EventConfirm, Outcome: sessions.OutcomeLoaded, SessionID: r.claims.Session, Store: "relay", Duration: time.Since(start), Err: err}
	switch {
	case err != nil:
		e.Outcome = sessions.OutcomeError
		r.verifier.report(ctx, slog.LevelError, "a session cannot be confirmed", e)
		return fmt.Errorf("relay: the session cannot be confirmed: %w", err)
	case !alive:
		e.Outcome = sessions.OutcomeGone
		r.verifier.tell(ctx, e)
		return sessions.ErrGone
	}
	r.verifier.tell(ctx, e)
	return nil
}

// cache remembers verified tokens by their hash, in two generations: when the younger is full it takes the place of the
// older. A token that is asked for again goes to the younger one.
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
