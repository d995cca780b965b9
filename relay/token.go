package relay

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"

	"handover.example/sessions"
)

const (
	// DefaultHeader is the default header for the token, from the OAuth Transaction Tokens draft. It is not
	// Authorization, because services that use that header give it another meaning, and have other rules for logging
	// and forwarding it.
	DefaultHeader = "Txn-Token"

	// DefaultLifetime is the default lifetime of a token, and MaxLifetime the longest that can be configured.
	DefaultLifetime = time.Minute
	MaxLifetime     = 5 * time.Minute
	minLifetime     = 2 * time.Second // tokens count in whole seconds: a shorter one could expire as it is made

	// DefaultMaxSize is the default maximum size of a token in bytes: half of what servers commonly accept for all
	// headers.
	DefaultMaxSize = 4096

	tokenType = "txntoken+jwt"

	// clockSkew is how far the clock of the edge may be ahead of that of a service. It does not extend the expiry,
	// which bounds how long a token outlives a logout.
	clockSkew = 5 * time.Second
)

// claims are the claims of a token. Times are in seconds since 1970, as in every JWT.
type claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	// Session is the public handle: sessions.Session.ID.
	Session string `json:"sid"`
	// Transaction is the same for all calls that a request to the edge leads to.
	Transaction string `json:"txn"`
	IssuedAt    int64  `json:"iat"`
	Expires     int64  `json:"exp"`
	// Began and Ends are those of the session.
	Began int64 `json:"sid_iat"`
	Ends  int64 `json:"sid_exp"`
	// Values are the shared values of the session.
	Values map[string]json.RawMessage `json:"tctx,omitempty"`
}

// TokenError is the reason why a token was rejected. It contains nothing of the token.
type TokenError struct {
	// Outcome is malformed, tampered, expired, undecodable, or unknown for a key that the verifier does not have.
	Outcome sessions.Outcome
	// Detail explains in plain words what is wrong.
	Detail string
}

func (e *TokenError) Error() string { return "relay: token rejected: " + e.Detail }

func refuse(outcome sessions.Outcome, format string, args ...any) error {
	return &TokenError{Outcome: outcome, Detail: fmt.Sprintf(format, args...)}
}

// sign returns a token with these claims.
func sign(key SigningKey, c *claims, maxSize int) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", errors.New("relay: a value of the session is not JSON")
	}
	jws, err := key.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("relay: cannot sign the token: %w", err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("relay: cannot serialize the token: %w", err)
	}
	if len(token) > maxSize {
		return "", fmt.Errorf("%w: relay: the token is %d bytes, more than MaxSize, %d: share fewer or smaller values", sessions.ErrTooLarge, len(token), maxSize)
	}
	return token, nil
}

// rules are what a verifier checks a token against.
type rules struct {
	algorithm        Algorithm
	issuer, audience string
	maxSize          int
}

// parsed is a token of which only the shape has been checked.
type parsed struct {
	jws   *jose.JSONWebSignature
	keyID string
}

// parse checks everything that can be checked without a key. The token's header decides nothing except which of the
// verifier's keys to use, by its ID.
func (r *rules) parse(token string) (parsed, error) {
	if len(token) > r.maxSize {
		return parsed{}, refuse(sessions.OutcomeMalformed, "it is %d bytes, more than MaxSize, %d", len(token), r.maxSize)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return parsed{}, refuse(sessions.OutcomeMalformed, "it has %d parts, a JWS in compact form has 3", len(parts))
	}
	for _, part := range parts {
		// A lenient decoder ignores the last bits of a part: then two tokens would have the same signature.
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return parsed{}, refuse(sessions.OutcomeMalformed, "a part of it is not base64url (RFC 7515, section 2)")
		}
	}
	// A header with anything else is not ours. So nothing else in it is ever interpreted: no key or key URL, no
	// extension, and no member that two parsers understand differently.
	text, _ := base64.RawURLEncoding.DecodeString(parts[0])
	var header map[string]string
	if josejson.Unmarshal(text, &header) != nil || len(header) > 3 {
		return parsed{}, refuse(sessions.OutcomeMalformed, "its header must have alg, kid and typ, once each, and nothing else")
	}
	switch {
	case header["alg"] != string(r.algorithm):
		return parsed{}, refuse(sessions.OutcomeTampered, "its algorithm is not %s", r.algorithm)
	case header["typ"] != tokenType:
		return parsed{}, refuse(sessions.OutcomeMalformed, "its type is not %s", tokenType)
	case !isKeyID(header["kid"]):
		return parsed{}, refuse(sessions.OutcomeMalformed, "it names no key")
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(r.algorithm)})
	if err != nil {
		return parsed{}, refuse(sessions.OutcomeMalformed, "it is not a JWS")
	}
	return parsed{jws: jws, keyID: header["kid"]}, nil
}

// verify checks the signature and the claims.
func (r *rules) verify(p parsed, key PublicKey, now time.Time) (*claims, error) {
	if key.algorithm != r.algorithm {
		return nil, refuse(sessions.OutcomeTampered, "its key is not for %s", r.algorithm)
	}
	payload, err := p.jws.Verify(key.Key)
	if err != nil {
		return nil, refuse(sessions.OutcomeTampered, "the signature does not verify")
	}
	var c claims
	// Not encoding/json, which accepts EXP for exp, and the last of two duplicates: all parsers must read the same
	// claims.
	if err := josejson.Unmarshal(payload, &c); err != nil {
		return nil, refuse(sessions.OutcomeUndecodable, "the signature verifies, but this version cannot read its claims")
	}
	return &c, r.check(&c, now)
}

// check checks the claims of an authentic token against the rules.
func (r *rules) check(c *claims, now time.Time) error {
	issued, expires := time.Unix(c.IssuedAt, 0), time.Unix(c.Expires, 0)
	switch {
	case c.Issuer != r.issuer:
		return refuse(sessions.OutcomeTampered, "it is from another issuer")
	case c.Audience != r.audience:
		return refuse(sessions.OutcomeTampered, "it is for another trust domain")
	case c.Subject == "" || c.Session == "" || c.Transaction == "":
		return refuse(sessions.OutcomeUndecodable, "sub, sid or txn is missing")
	case !isTime(c.IssuedAt) || !isTime(c.Expires) || !isTime(c.Began) || !isTime(c.Ends):
		return refuse(sessions.OutcomeUndecodable, "iat, exp, sid_iat or sid_exp is missing")
	case expires.Sub(issued) > MaxLifetime || expires.Before(issued):
		return refuse(sessions.OutcomeUndecodable, "its lifetime is %v, more than %v", expires.Sub(issued), MaxLifetime)
	case issued.After(now.Add(clockSkew)):
		return refuse(sessions.OutcomeExpired, "it was issued %v in the future: are the clocks in sync?", issued.Sub(now).Round(time.Second))
	case !now.Before(expires):
		return refuse(sessions.OutcomeExpired, "it expired %v ago", now.Sub(expires).Round(time.Second))
	}
	return nil
}

// isTime reports whether the seconds are after 1970 and before the year 10000, so that no sum of them overflows.
func isTime(seconds int64) bool { return 0 < seconds && seconds < 253402300800 }
