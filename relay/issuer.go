package relay

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/internal/check"
	"handover.example/sessions/internal/handback"
	"handover.example/sessions/internal/loglimit"
)

// IssuerConfig is the configuration of an [Issuer]. It is copied by [NewIssuer].
type IssuerConfig struct {
	_ [0]func()

	// Issuer is the name of the edge (the claim iss), and TrustDomain that of the services which accept its tokens
	// (aud). The services are configured with the same names, such as "https://shop.example" and "shop". Both are
	// required.
	Issuer, TrustDomain string

	// Key signs the tokens. Required.
	Key SigningKey

	// Published are additional keys that [Issuer.Keys] serves: the next key, before it signs, and the previous one,
	// until its tokens have expired.
	Published []PublicKey

	// Hosts are the internal hosts that may receive a token: "orders.internal" for every port, or
	// "orders.internal:8080" for one. Patterns are not supported. Required.
	Hosts []string

	// Share lists the names of the values that tokens contain: see [Share]. Default none. Everything else stays at the
	// edge. Anyone who sees a token can read its values: it is signed, not encrypted.
	Share []string

	// Subject returns the claim sub: the user, in a form that all services know. The default is the public handle of
	// the session, which is also used if Subject returns "".
	Subject func(sessions.Session) string

	// Lifetime is how long a token is valid, and so how long a service may go on after a logout. Default
	// [DefaultLifetime], at most [MaxLifetime], at least 2 seconds. Tokens count in whole seconds, and never outlive
	// their session.
	Lifetime time.Duration

	// Confirm reports whether the session with a public handle is still alive, such as the method Alive of a
	// [sessions.RedisStore]. It is called only for requests that run for longer than half a Lifetime, such as streams.
	// Without it, such a request gets no token once a Lifetime has passed, because another request may have ended its
	// session.
	Confirm func(ctx context.Context, sessionID string) (bool, error)

	// Header is the name of the header that carries the token. Default [DefaultHeader].
	Header string

	// MaxSize is the maximum size of a token in bytes. Default [DefaultMaxSize]. A call that needs a larger one fails
	// with [sessions.ErrTooLarge].
	MaxSize int

	// Logger receives a line for each request in which a client has sent the header. Default slog.Default().
	Logger *slog.Logger
	// Observe, if set, receives the same as an event.
	Observe func(context.Context, sessions.Event)
}

// Share returns the names of keys whose values a token may contain: relay.Share(userID, tenantID).
func Share(keys ...interface{ Name() string }) []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name()
	}
	return names
}

// Issuer makes tokens at the edge. Create one with [NewIssuer]. It is safe for concurrent use, and must not be copied.
type Issuer struct {
	reporter
	issuer, audience string
	key              SigningKey
	keys             []byte // the JWK set
	hosts            hosts
	share            []string
	subject          func(sessions.Session) string
	lifetime         time.Duration
	confirm          func(context.Context, string) (bool, error)
	header           string
	maxSize          int
}

// NewIssuer returns an Issuer. It reports all configuration mistakes at once, as an [errors.Join] of
// [*sessions.ConfigError] values.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	bad := check.Mistakes{New: configError}
	i := &Issuer{
		reporter: reporter{logger: cfg.Logger, observe: cfg.Observe, limit: new(loglimit.Limiter)},
		issuer:   cfg.Issuer, audience: cfg.TrustDomain, key: cfg.Key,
		hosts: newHosts(cfg.Hosts, &bad), share: slices.Clone(cfg.Share), subject: cfg.Subject,
		confirm:  cfg.Confirm,
		lifetime: cmp.Or(cfg.Lifetime, DefaultLifetime), maxSize: cmp.Or(cfg.MaxSize, DefaultMaxSize),
		header: checkHeader(cfg.Header, &bad),
	}
	checkParties(cfg.Issuer, cfg.TrustDomain, &bad)
	if i.lifetime < minLifetime || i.lifetime > MaxLifetime {
		bad.Add("Lifetime", "%v is not between %v and %v", i.lifetime, minLifetime, MaxLifetime)
	}
	if i.maxSize < 0 {
		bad.Add("MaxSize", "%d is negative", i.maxSize)
	}
	if len(i.hosts) == 0 && len(cfg.Hosts) == 0 {
		bad.Add("Hosts", "required: without hosts, no call gets a token")
	}
	published := slices.Clone(cfg.Published)
	if cfg.Key.signer == nil {
		bad.Add("Key", "required: make one with NewSigningKey, and check the error it returned")
	} else {
		published = append(published, cfg.Key.public)
	}
	if len(published) > 0 {
		if _, err := newKeyMap(published); err != nil {
			bad.Add("Published", "with Key as the last one: %v", err)
		} else if i.keys, err = marshalKeys(published); err != nil {
			bad.Add("Published", "%v", err)
		}
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	return i, nil
}

func checkParties(issuer, audience string, bad *check.Mistakes) {
	if issuer == "" {
		bad.Add("Issuer", "required: the name of the edge, the same for issuer and verifiers")
	}
	if audience == "" {
		bad.Add("TrustDomain", "required: the name of the group of services, the same for issuer and verifiers")
	}
}

// click is what the calls made for one request to the edge share.
type click struct {
	asOf    time.Time // the session was alive at this time or later
	mu      sync.Mutex
	txn     string
	content string // the claims of the token, except for its times
	token   string
	renewAt time.Time // when half of its life is over
	expires time.Time
}

type clickKey struct{ *Issuer }

// Wrap returns a handler that deletes the header from incoming requests, so that no client can choose a token, and lets
// the calls made for one request share a token. It belongs outside the session middleware: issuer.Wrap(mgr.Wrap(mux)).
// Wrap panics if next is nil.
func (i *Issuer) Wrap(next http.Handler) http.Handler {
	if check.IsNil(next) {
		panic("relay: Wrap: the handler is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		r := withoutHeader(in, i.header, func() {
			i.report(in.Context(), slog.LevelWarn, "a client has sent a token", sessions.Event{Kind: sessions.EventReject, Outcome: OutcomeInbound,
				Detail: i.header + " was deleted before any handler saw it"})
		})
		r = r.WithContext(context.WithValue(r.Context(), clickKey{i}, &click{asOf: time.Now()}))
		defer handback.Request(in, r)
		next.ServeHTTP(w, r)
	})
}

// Transport returns a RoundTripper that attaches the token of the session in the request's context to requests for the
// listed hosts, and to no others, also across redirects. A nil base means http.DefaultTransport without the proxies of
// the environment.
//
// The header is deleted from requests for other hosts. A request for a listed host is sent without a token if the
// session has no values. It fails if the session cannot be loaded or the token is too large. It also fails if its
// context is not that of a request that passed through [Issuer.Wrap]: http.NewRequest drops the context,
// http.NewRequestWithContext keeps it.
func (i *Issuer) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = withoutProxy()
	}
	return &transport{base: base, header: i.header, hosts: i.hosts, token: i.Token}
}

// ErrNotWrapped means that a context is not that of a request that passed through Wrap.
var ErrNotWrapped = errors.New("relay: not the context of a request that passed through Wrap: install the middleware, and make calls with http.NewRequestWithContext(r.Context(), ...)")

var errStale = errors.New("relay: the session was read a Lifetime ago and may have ended since: set IssuerConfig.Confirm, so that a long request can check")

// Token returns the token of the session in the context, for calls that do not use [Issuer.Transport]. It returns ""
// for a session without values, which is nobody's. All calls made for one request get the same token, unless the shared
// values change. No token lives longer than a Lifetime after the request began, unless IssuerConfig.Confirm has
// confirmed the session since, because another request may have ended it.
//
// The errors are those of [sessions.Get], [sessions.ErrTooLarge], [ErrNotWrapped], [sessions.ErrGone] if the session
// has ended since it was loaded or ends within the second, and those of the signer.
func (i *Issuer) Token(ctx context.Context) (string, error) {
	c, ok := ctx.Value(clickKey{i}).(*click)
	if !ok {
		return "", ErrNotWrapped
	}
	s, err := sessions.Get(ctx)
	if err != nil {
		return "", err
	}
	empty := true
	for range s.Keys() {
		empty = false
		break
	}
	if empty {
		return "", nil
	}
	cl := claims{
		Issuer: i.issuer, Audience: i.audience, Session: s.ID(), Subject: s.ID(),
		Began:  s.CreatedAt().Unix(),
		Values: make(map[string]json.RawMessage, len(i.share)),
	}
	if i.subject != nil {
		cl.Subject = cmp.Or(i.subject(s), cl.Subject)
	}
	for _, name := range i.share {
		var raw json.RawMessage
		if ok, err := s.Get(name, &raw); err != nil {
			return "", err
		} else if ok {
			cl.Values[name] = raw
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.txn == "" {
		c.txn = rand.Text()
	}
	cl.Transaction = c.txn
	content, err := json.Marshal(&cl)
	if err != nil {
		return "", errors.New("relay: a value of the session is not JSON")
	}
	now := time.Now()
	if now.Sub(c.asOf) >= i.lifetime/2 && i.confirm != nil && !s.IsNew() {
		alive, err := i.confirm(ctx, cl.Session)
		switch {
		case err != nil:
			return "", fmt.Errorf("relay: cannot confirm the session: %w", err)
		case !alive:
			return "", sessions.ErrGone
		}
		c.asOf = now
	}
	// The expiry of a changed session moves with the clock; that alone must not change the token.
	ends, latest := s.ExpiresAt(), c.asOf.Add(i.lifetime)
	if string(content) == c.content && now.Before(c.renewAt) && !ends.Before(c.expires) {
		return c.token, nil
	}
	if now.Unix() >= latest.Unix() {
		return "", errStale
	}
	cl.IssuedAt, cl.Ends = now.Unix(), ends.Unix()
	cl.Expires = min(latest.Unix(), cl.Ends)
	expires := time.Unix(cl.Expires, 0)
	if !now.Before(expires) {
		return "", fmt.Errorf("relay: the session expires too soon to issue a token: %w", sessions.ErrGone)
	}
	token, err := sign(i.key, &cl, i.maxSize)
	if err != nil {
		return "", err
	}
	c.content, c.token, c.renewAt, c.expires = string(content), token, expires, expires
	if i.confirm != nil {
		c.renewAt = now.Add(expires.Sub(now) / 2)
	}
	return token, nil
}

// Keys returns a handler that serves the public keys as a JWK set (RFC 7517), for [NewRemoteKeySet]. The set contains
// no secret, but anyone who can answer in its place can mint tokens: serve it only on the internal network.
func (i *Issuer) Keys() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "public, max-age=60")
		_, _ = w.Write(i.keys)
	})
}
