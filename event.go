package sessions

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Event describes one thing that happened to a session; [Config.Observe] receives it. It answers the question that
// every user of sessions asks one day: why did my session vanish?
//
// An Event never contains a token, a session key or a value. It is safe to log, to count and to show.
type Event struct {
	// Kind is the operation.
	Kind EventKind
	// Outcome is its result.
	Outcome Outcome
	// SessionID is the public handle of the session, as in [Session.ID]; empty if there is none.
	SessionID string
	// Store is the kind of store that was used, such as "cookie" or "redis"; empty if none was.
	Store string
	// Detail describes in plain words what was seen and, if a person can fix it, what to change.
	Detail string
	// Duration is the time that the store took; zero if it was not used.
	Duration time.Duration
	// Err is set if the store or the configuration failed.
	Err error
}

// EventKind is the operation that an [Event] is about.
type EventKind string

// The kinds of events.
const (
	EventLoad     EventKind = "load"     // a handler asked for its session
	EventCommit   EventKind = "commit"   // a session was written, or could not be
	EventTouch    EventKind = "touch"    // the idle timeout was extended
	EventDestroy  EventKind = "destroy"  // a session was destroyed
	EventRenew    EventKind = "renew"    // a session got a new token
	EventReject   EventKind = "reject"   // a token, or a value in its session, was rejected; the outcome is the reason
	EventConflict EventKind = "conflict" // a parallel request wrote first: the changes were merged, or could not be
	EventSecure   EventKind = "secure"   // the scheme of a request, or a cookie that browsers may reject
	EventCache    EventKind = "cache"    // a response that sets the cookie had asked to be cached
	EventPhase    EventKind = "phase"    // a DualStore has changed phase; emitted once, by the first load that finds out
	EventMismatch EventKind = "mismatch" // a DualStore's copies of a session differ; the outcome is the difference
)

// Outcome is the result of the operation that an [Event] is about.
type Outcome string

// The outcomes. The first group is what became of a load: a session, or the reason why there is none.
const (
	OutcomeNone        Outcome = "none"        // the client sent no token
	OutcomeLoaded      Outcome = "loaded"      // the session exists
	OutcomeAdopted     Outcome = "adopted"     // the session exists: a DualStore has just adopted it from the old store
	OutcomeUnknown     Outcome = "unknown"     // well-formed token, not in the store: logged out, evicted, or never issued
	OutcomeExpired     Outcome = "expired"     // idle or absolute timeout
	OutcomeMalformed   Outcome = "malformed"   // not the shape of our tokens; the store was not asked
	OutcomeTampered    Outcome = "tampered"    // the seal does not verify: changed, another secret, or another cookie name
	OutcomeUndecodable Outcome = "undecodable" // authentic or stored, but this version cannot read the record; or a value does not fit its type
	OutcomeRevoked     Outcome = "revoked"     // destroyed or renewed
	OutcomeAmbiguous   Outcome = "ambiguous"   // several cookies of the name may be sessions: one was chosen, or not all were tried
	OutcomeError       Outcome = "error"       // the store could not answer

	OutcomeSaved    Outcome = "saved"     // an existing session was written
	OutcomeCreated  Outcome = "created"   // a new session was written
	OutcomeTouched  Outcome = "touched"   // only the expiry was extended
	OutcomeDeleted  Outcome = "deleted"   // the session was removed from the store
	OutcomeMerged   Outcome = "merged"    // the changes were applied to what a parallel request wrote
	OutcomeGone     Outcome = "gone"      // a parallel request destroyed or renewed the session
	OutcomeTooLarge Outcome = "too_large" // the record does not fit the store, or the cookie would exceed 4096 bytes
	OutcomeTooLate  Outcome = "too_late"  // the response had begun or the request's deadline had passed, so the client cannot be told

	OutcomeUntrustedProxy Outcome = "untrusted_proxy" // a proxy header from a peer that is not in TrustedProxies
	OutcomeSchemeMismatch Outcome = "scheme_mismatch" // the browser says https, the proxy chain says http
	OutcomeInsecure       Outcome = "insecure"        // a Secure cookie on a request that looks like plain HTTP
	OutcomeUpgraded       Outcome = "upgraded"        // a session that began on plain HTTP continues on HTTPS with the same token
	OutcomeForeignDomain  Outcome = "foreign_domain"  // Cookie.Domain does not match the host of the request
	OutcomeForeignPath    Outcome = "foreign_path"    // Cookie.Path does not match the path of the request
	OutcomeOverridden     Outcome = "overridden"      // no-store replaced the caching headers of the handler

	OutcomeChanged       Outcome = "changed"        // the phase of a migration
	OutcomeMissing       Outcome = "missing"        // the new store does not have the session
	OutcomeOlder         Outcome = "older"          // the new store has an older version
	OutcomeNewer         Outcome = "newer"          // the new store has a newer version, which wins
	OutcomeDifferent     Outcome = "different"      // the same version has different values
	OutcomeExpiryDiffers Outcome = "expiry_differs" // the copies are equal, but expire at different times
)

// emit passes an event to Observe and, if a person can act on it, to the log.
func (m *Manager) emit(ctx context.Context, e Event) {
	if m.observe != nil {
		m.observe(ctx, e)
	}
	m.logEvent(ctx, e)
}

// clock and since measure the Duration of an event, if there is an Observe function.
func (m *Manager) clock() (now time.Time) {
	if m.observe != nil {
		now = time.Now()
	}
	return now
}

func (m *Manager) since(start time.Time) (d time.Duration) {
	if m.observe != nil {
		d = time.Since(start)
	}
	return d
}

// loadingKey is the context key of the load for which a store is called.
type loadingKey struct{}

// managerOf returns the Manager whose load calls a store, or nil.
func managerOf(ctx context.Context) *Manager {
	if l, ok := ctx.Value(loadingKey{}).(*loading); ok {
		return l.m
	}
	return nil
}

// emitFrom lets a store emit an event through the Manager that calls it.
func emitFrom(ctx context.Context, e Event) {
	if m := managerOf(ctx); m != nil {
		m.emit(ctx, e)
	}
}

// loadAdopted lets a store tell the Manager that calls it that it has just adopted the session from another store.
func loadAdopted(ctx context.Context) {
	if l, ok := ctx.Value(loadingKey{}).(*loading); ok {
		l.adopted = true
	}
}

func (m *Manager) logEvent(ctx context.Context, e Event) { m.logAbout(ctx, "", e) }

// logAbout logs an event if a person can act on it. What a client can cause is limited.
func (m *Manager) logAbout(ctx context.Context, subject string, e Event) {
	level, message := e.logLine()
	if message == "" || !m.logger.Enabled(ctx, level) {
		return
	}
	dropped := 0
	if e.isByClient() {
		var ok bool
		if ok, dropped = m.loglimit.Allow(string(e.Outcome), subject, m.limits.now()); !ok {
			return
		}
	}
	args := make([]any, 0, 14)
	args = append(args, "kind", string(e.Kind), "outcome", string(e.Outcome))
	for _, a := range [...]struct{ key, value string }{{"session", e.SessionID}, {"store", e.Store}, {"detail", e.Detail}} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	if e.Err != nil {
		args = append(args, "error", e.Err.Error())
	}
	if dropped > 0 {
		args = append(args, "suppressed", dropped)
	}
	m.logger.Log(ctx, level, message, args...)
}

// isByClient reports whether a client can cause the event as often as it likes. A store that fails is not limited, and a
// DualStore limits its own lines.
func (e Event) isByClient() bool {
	switch e.Kind {
	case EventMismatch, EventPhase:
		return false
	case EventConflict:
		return true
	}
	return e.Outcome != OutcomeError || errors.Is(e.Err, context.Canceled)
}

// warnOnce passes the event to Observe each time, and logs it once per hour for each outcome and subject.
func (m *Manager) warnOnce(ctx context.Context, subject string, e Event) {
	if m.observe != nil {
		m.observe(ctx, e)
	}
	m.logAbout(ctx, subject, e)
}

// logLine returns the log line of an event, or "" if there is nothing for a person to do.
func (e Event) logLine() (slog.Level, string) {
	switch e.Outcome {
	case OutcomeError:
		if errors.Is(e.Err, context.Canceled) { // a commit is never canceled: this was a load
			return slog.LevelInfo, "sessions: request canceled before its session was loaded"
		}
		if e.Kind == EventConflict {
			return slog.LevelError, "sessions: a change could not be stored beside those of parallel requests"
		}
		return slog.LevelError, "sessions: the store failed"
	case OutcomeUnknown:
		return slog.LevelInfo, "sessions: the client's session is not in the store"
	case OutcomeExpired:
		return slog.LevelInfo, "sessions: the client's session has expired"
	case OutcomeRevoked:
		return slog.LevelInfo, "sessions: the client presented a session that was destroyed or renewed"
	case OutcomeAmbiguous:
		return slog.LevelWarn, "sessions: the client sent several session cookies"
	case OutcomeMalformed:
		return slog.LevelInfo, "sessions: the client's cookie is not one of ours"
	case OutcomeTampered:
		return slog.LevelWarn, "sessions: the client's cookie was not sealed by these secrets under this name"
	case OutcomeUndecodable:
		return slog.LevelWarn, "sessions: the client's session, or a value in it, cannot be read"
	case OutcomeMerged:
		if e.Detail != "" {
			return slog.LevelWarn, "sessions: many parallel requests change one session"
		}
	case OutcomeGone:
		return slog.LevelWarn, "sessions: a change was rejected: a parallel request destroyed or renewed the session"
	case OutcomeTooLarge:
		return slog.LevelError, "sessions: the session is too large for its store"
	case OutcomeTooLate:
		return slog.LevelWarn, "sessions: a change came too late to reach the client"
	case OutcomeUntrustedProxy:
		return slog.LevelWarn, "sessions: a proxy header was ignored"
	case OutcomeSchemeMismatch:
		return slog.LevelWarn, "sessions: the browser uses HTTPS, but the request looks like HTTP"
	case OutcomeInsecure:
		return slog.LevelWarn, "sessions: a Secure cookie was sent over what looks like plain HTTP"
	case OutcomeUpgraded:
		return slog.LevelWarn, "sessions: a token that was sent over plain HTTP is used on HTTPS"
	case OutcomeForeignDomain:
		return slog.LevelWarn, "sessions: a cookie was sent for a domain that does not match the request's host"
	case OutcomeForeignPath:
		return slog.LevelWarn, "sessions: a cookie was sent for a path that the request is not under"
	case OutcomeOverridden:
		return slog.LevelWarn, "sessions: caching was disabled for a response that sets the session cookie"
	case OutcomeChanged:
		return slog.LevelInfo, "sessions: the phase of the migration has changed"
	case OutcomeMissing, OutcomeOlder, OutcomeNewer, OutcomeDifferent, OutcomeExpiryDiffers:
		return slog.LevelWarn, "sessions: the copies of a session in the old and the new store differ"
	}
	return 0, ""
}
