package sessions

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"handover.example/sessions/internal/check"
)

// Config is the configuration of a [Manager]. Only Store is required: the zero value of every other field is the safe
// choice. It is copied by [New].
type Config struct {
	_ [0]func()

	// Store keeps the sessions. Required: a [CookieStore], a [RedisStore], or any other [Store].
	Store Store

	// Cookie sets the name and the attributes of the session cookie. Default: "session", Path "/", HttpOnly,
	// SameSite=Lax, until the browser closes. On HTTPS, set the name to "__Host-session": see [Cookie].
	Cookie Cookie

	// IdleTimeout is how long a session lives without use. Asking for a session counts as use, and so does writing it.
	// Reading extends it by a touch, at most once per eighth of the timeout. A request that runs for less than half of
	// the timeout finds its session alive when it commits; a longer one may find that it has expired, unless other
	// requests have used it. Default 24 hours; shortened to AbsoluteTimeout and to the TTL of a [RedisStore].
	IdleTimeout time.Duration

	// AbsoluteTimeout is how long a session lives in total, however much it is used. Default 14 days.
	//
	// Both defaults are for sites whose users come back each day, such as a shop, and within level AAL1 of NIST SP
	// 800-63B-4 (30 days in total). For AAL2, it recommends at most 24 hours in total and an hour without use: set both.
	AbsoluteTimeout time.Duration

	// Secure decides when the cookie is Secure. Default [SecureAuto].
	Secure SecureMode

	// ProxyHeader is the one header that tells which scheme the browser used, if a trusted proxy sent it: "https" or
	// "on" in its leftmost element means HTTPS. Default "X-Forwarded-Proto". "Forwarded" is parsed as in RFC 7239. The
	// header is read only in SecureAuto, and for warnings.
	ProxyHeader string

	// TrustedProxies are the addresses of the direct peers whose ProxyHeader is trusted. Nil means the default:
	// loopback and private ranges. An empty, non-nil list trusts no peer.
	TrustedProxies []netip.Prefix

	// TrustUnixSocket also trusts the ProxyHeader of peers on a Unix socket, which have no address. Default false.
	TrustUnixSocket bool

	// CommitTimeout bounds the commit of a session, which continues after the client has hung up. It includes the time
	// that a request waits while others write the same session. Default 5 seconds. A Redis client obeys it only with
	// ContextTimeoutEnabled, and an AutoPipeline of go-redis never, because it sends its batches on a context of its own.
	// What bounds those, and every Get, are the timeouts of the client.
	CommitTimeout time.Duration

	// ErrorHandler responds instead of the handler if the session could not be written. The default responds with 409
	// to [ErrGone], and with 503 to any other error. The error contains no secret, but is not meant for the client.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)

	// Logger receives a line for each [Event] that a person can act on. Default [slog.Default].
	Logger *slog.Logger

	// Observe, if set, is called for each [Event], in the goroutine of the request. It must be fast and safe for
	// concurrent use. Its context carries no session: Get returns [ErrNoMiddleware] there.
	Observe func(context.Context, Event)
}

// SecureMode decides when the session cookie is Secure, so that browsers return it over HTTPS only.
type SecureMode int

const (
	// SecureAuto makes the cookie Secure if the request came over HTTPS, directly or according to a trusted proxy; if
	// the session has ever been seen on HTTPS; or if browsers would otherwise reject the cookie.
	SecureAuto SecureMode = iota
	// SecureAlways makes every cookie Secure. It does not look at the request.
	SecureAlways
	// DangerouslyNeverSecure makes no cookie Secure. Browsers then send it over plain HTTP too, where anyone on the
	// path can read it.
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

// UnmarshalText parses the name of a mode, for flags and configuration files.
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

// check reports every mistake in a configuration whose defaults are filled in.
func (cfg *Config) check() error {
	bad := check.Mistakes{New: configError}
	if isNilStore(cfg.Store) {
		bad.Add("Store", "required: make one with NewCookieStore or NewRedisStore, and check the error it returned")
	}
	cfg.Cookie.check(cfg.Secure, &bad)
	for _, d := range [...]struct {
		field string
		value time.Duration
	}{{"IdleTimeout", cfg.IdleTimeout}, {"AbsoluteTimeout", cfg.AbsoluteTimeout}, {"CommitTimeout", cfg.CommitTimeout}} {
		if d.value != 0 && d.value < time.Millisecond {
			bad.Add(d.field, "%v is less than a millisecond: use zero for the default, or 1ms or more", d.value)
		}
	}
	if cfg.Secure < SecureAuto || cfg.Secure > DangerouslyNeverSecure {
		bad.Add("Secure", "unknown mode %d: %s", cfg.Secure, useASecureMode)
	}
	if strings.ContainsFunc(cfg.ProxyHeader, func(r rune) bool { return !isTokenRune(r) }) {
		bad.Add("ProxyHeader", "%q is not a header name: set the name of one header", cfg.ProxyHeader)
	}
	for i, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			bad.Add("TrustedProxies", "[%d] is not a valid prefix: use netip.MustParsePrefix(\"10.0.0.0/8\")", i)
		} else if p.Addr().Is4In6() {
			bad.Add("TrustedProxies", "[%d] %v is an IPv4 range in IPv6 form, which matches no peer: use the IPv4 range", i, p)
		}
	}
	return bad.Join()
}

// ConfigError is one mistake in a configuration. [New] and the constructors report all of them at once, joined by
// [errors.Join].
type ConfigError struct {
	// Field is the name of the field, such as "Cookie.Domain".
	Field string
	// Reason explains what is wrong with the field and what to do. It never contains a secret.
	Reason string
}

// Error returns Field and Reason in one line.
func (e *ConfigError) Error() string { return "sessions: " + e.Field + ": " + e.Reason }

// configError returns the error for one mistake in a configuration.
func configError(field, reason string) error { return &ConfigError{Field: field, Reason: reason} }
