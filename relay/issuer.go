package relay

import (
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
)

// IssuerConfig is the configuration of an [Issuer]. It is copied by [NewIssuer].
type IssuerConfig struct {
	_ [0]func()

	// Issuer is who the edge says it is (the claim iss), and TrustDomain who may take its tokens (aud): names that the
	// services are configured with too, such as "https://shop.example" and "shop". Both required.
	Issuer, TrustDomain string

	// Key signs. Required.
	Key SigningKey

	// Published are the further keys that [Issuer.Keys] shows: the next one, before it signs, and the last one, until its
	// tokens have expired.
	Published []PublicKey

	// Hosts are the internal hosts that may have a token: "orders.internal" for each port of it, or
	// "orders.internal:8080". No patterns.
	Hosts []string

	// Share names the values that travel: see [Share]. Default none. Everything else stays at the edge. What travels can be
	// read by whoever sees the token: it is signed, and not encrypted.
	Share []string

	// Subject gives the claim sub: the user, in a form that all services know. Default, and if it returns "", is the public
	// handle of the session.
	Subject func(sessions.Session) string

	// Lifetime is how long a token is good for, so also how long a service goes on after a logout. Default
	// [DefaultLifetime], at most [MaxLifetime], and at least 2 seconds. Tokens count in whole seconds, and never live longer
	// than their session.
	Lifetime time.Duration

	// Confirm asks the store whether a session still lives, by its public handle: the method Alive of a
	// [sessions.RedisStore]. It is asked for requests that go on for longer than half of a Lifetime, as streams do, and
	// for nothing else. Without it such a request has no token any more when a Lifetime has passed: the session that it
	// holds may have been ended by another request.
	Confirm func(ctx context.Context, sessionID string) (bool, error)

	// Header carries the token. Default [DefaultHeader].
	Header string

	// MaxSize is how many bytes a token may have. Default [DefaultMaxSize]. A call with a longer one fails with
	// [sessions.ErrTooLarge].
	MaxSize int

	// Logger gets a line for each copy of the header that a client has sent. Default slog.Default().
	Logger *slog.Logger
	// Observe gets the same as an event.
	Observe func(context.Context, sessions.Event)
}

// Share names the keys whose values a token may carry: relay.Share(userID, tenantID).
func Share(keys ...interface{ Name() string }) []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name()
	}
	return names
}

// Issuer makes the tokens, at the edge. Make it with [NewIssuer]. It is safe for concurrent use and must not be copied.
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

// NewIssuer returns an Issuer. All configuration mistakes are reported at once, as a join of [*sessions.ConfigError].
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	var bad mistakes
	i := &Issuer{
		reporter: reporter{cfg.Logger, cfg.Observe},
		issuer:   cfg.Issuer, audience: cfg.TrustDomain, key: cfg.Key,
		hosts: newHosts(cfg.Hosts, &bad), share: slices.Clone(cfg.Share), subject: cfg.Subject,
		confirm:  cfg.Confirm,
		lifetime: orDefault(cfg.Lifetime, DefaultLifetime), maxSize: orDefault(cfg.MaxSize, DefaultMaxSize),
		header: checkHeader(cfg.Header, &bad),
	}
	checkParties(cfg.Issuer, cfg.TrustDomain, &bad)
	if i.lifetime < minLifetime || i.lifetime > MaxLifetime {
		bad.add("Lifetime", "%v is not between %v and %v", i.lifetime, minLifetime, MaxLifetime)
	}
	if i.maxSize < 0 {
		bad.add("MaxSize", "%d is negative", i.maxSize)
	}
	if len(i.hosts) == 0 && len(cfg.Hosts) == 0 {
		bad.add("Hosts", "required: without a host that may have it nobody gets a token")
	}
	published := slices.Clone(cfg.Published)
	if cfg.Key.signer == nil {
		bad.add("Key", "required: make one with NewSigningKey, and look at the error that it returned")
	} else {
		published = append(published, cfg.Key.public)
	}
	if len(published) > 0 {
		if _, err := newKeyMap(published); err != nil {
			bad.add("Published", "with Key at the end: %v", err)
		} else if i.keys, err = marshalKeys(published); err != nil {
			bad.add("Published", "%v", err)
		}
	}
	if err := bad.join(); err != nil {
		return nil, err
	}
	return i, nil
}

func checkParties(issuer, audience string, bad *mistakes) {
	if issuer == "" {
		bad.add("Issuer", "required: the name of the edge, the same as at the other side")
	}
	if audience == "" {
		bad.add("TrustDomain", "required: the name of what is inside, the same as at the other side")
	}
}

// click is what the calls of one request to the edge have in common.
type click struct {
	asOf    time.Time // what the session says is no older than this
	mu      sync.Mutex
	txn     string
	content string // what the token says, but for its times
	token   string
	renewAt time.Time // half of its life is over
	expires time.Time
}

type clickKey struct{ *Issuer }

// Wrap deletes the header from what comes in, so that nobody outside chooses a token, and lets the calls of one request
// share one. It belongs outside of the session's middleware: issuer.Wrap(mgr.Wrap(mux)). Wrap panics if next is nil.
func (i *Issuer) Wrap(next http.Handler) http.Handler {
	if isNil(next) {
		panic("relay: Wrap: the handler is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = withoutHeader(r, i.header, func() {
			i.report(r.Context(), slog.LevelWarn, "a client has sent a token of its own", sessions.Event{Kind: sessions.EventReject, Outcome: OutcomeInbound,
				Detail: i.header + " was deleted before anybody saw it"})
		})
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clickKey{i}, &click{asOf: time.Now()})))
	})
}

// Transport returns a RoundTripper that attaches the token of the session in the request's context to requests for the
// listed hosts, and to no other, also across redirects. A nil base is http.DefaultTransport without the proxies of the
// environment.
//
// Requests for other hosts lose the header, if they had one. A request for a listed host without a session to speak of
// goes out without a token; one whose session cannot be loaded, or is too large, fails with that error. One whose context
// is not that of a request which has passed [Issuer.Wrap] fails too: http.NewRequest forgets it,
// http.NewRequestWithContext does not.
func (i *Issuer) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = withoutProxy()
	}
	return &transport{base: base, header: i.header, hosts: i.hosts, token: i.Token}
}

// ErrNotWrapped is returned for a context that is not that of a request which has passed Wrap.
var ErrNotWrapped = errors.New("relay: the context is not that of a request which has passed Wrap: is the middleware in place, and was the call made with http.NewRequestWithContext(r.Context(), ...)?")

var errStale = errors.New("relay: the session was read a Lifetime ago, and may have been ended since: set IssuerConfig.Confirm, so that a request which goes on for longer can ask")

// Token returns the token of the session in the context, for calls that are not made over [Issuer.Transport]. It is
// empty for a session without values: that is nobody. The calls of one request get one token, unless the shared values
// change. No token lives longer than a Lifetime after the request began, unless IssuerConfig.Confirm has been asked since:
// another request may have ended the session. Errors are those of [sessions.Get], [sessions.ErrTooLarge], [ErrNotWrapped],
// [sessions.ErrGone] if the session has ended since it was loaded, or does within the second, and those of a signer that
// fails.
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
		cl.Subject = orDefault(i.subject(s), cl.Subject)
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
			return "", fmt.Errorf("relay: the session cannot be confirmed: %w", err)
		case !alive:
			return "", sessions.ErrGone
		}
		c.asOf = now
	}
	// The end of a session that was changed moves on with the clock: that alone makes no other token.
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
		return "", fmt.Errorf("relay: no token would live any longer: %w", sessions.ErrGone)
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

// Keys serves the public keys as a JWK set (RFC 7517), for [NewRemoteKeySet]. Nothing in it is secret. Whoever can answer
// in its place can mint tokens: serve it where only the inside asks.
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
