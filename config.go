package sessions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"time"
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

// ConfigError is one mistake in a configuration. [New] and the constructors report all of them at once, joined by
// [errors.Join].
type ConfigError struct {
	// Field names what is wrong, as the caller wrote it: "Cookie.Domain".
	Field string
	// Reason says what is wrong with it, and what to do. It never holds a secret.
	Reason string
}

// Error is Field and Reason in one line.
func (e *ConfigError) Error() string { return "sessions: " + e.Field + ": " + e.Reason }

// mistakes collects the configuration errors of one constructor.
type mistakes []error

func (m *mistakes) add(field, format string, args ...any) {
	*m = append(*m, &ConfigError{Field: field, Reason: fmt.Sprintf(format, args...)})
}

func (m mistakes) join() error { return errors.Join(m...) }
