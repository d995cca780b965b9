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
	// DefaultHeader carries the token, after the OAuth Transaction Tokens draft. It is not Authorization: services that
	// read that one have a meaning of their own for it, and log and forward it by other rules.
	DefaultHeader = "Txn-Token"

	// DefaultLifetime is how long a token is good for, and MaxLifetime how long it may be made to be.
	DefaultLifetime = time.Minute
	MaxLifetime     = 5 * time.Minute
	minLifetime     = 2 * time.Second // tokens count in whole ones: a shorter one could be over when it is made

	// DefaultMaxSize is how many bytes a token may have: half of what servers commonly take for all headers.
	DefaultMaxSize = 4096

	tokenType = "txntoken+jwt"

	// clockSkew is how far the clock of the edge may be ahead of that of a service. An expiry is not extended by it: a
	// logout counts on it.
	clockSkew = 5 * time.Second
)

// claims is what a token says. Times are in seconds since 1970, as in every JWT.
type claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	// Session is the public handle: sessions.Session.ID.
	Session string `json:"sid"`
	// Transaction is one for all the calls that a request to the edge leads to.
	Transaction string `json:"txn"`
	IssuedAt    int64  `json:"iat"`
	Expires     int64  `json:"exp"`
	// Began and Ends are those of the session.
	Began int64 `json:"sid_iat"`
	Ends  int64 `json:"sid_exp"`
	// Values are the shared values of the session.
	Values map[string]json.RawMessage `json:"tctx,omitempty"`
}

// TokenError says why a token was refused. It holds nothing of the token.
type TokenError struct {
	// Outcome is malformed, tampered, expired, or unknown for a key that the verifier does not have.
	Outcome sessions.Outcome
	// Detail says in plain words what is wrong.
	Detail string
}

func (e *TokenError) Error() string { return "relay: token refused: " + e.Detail }

func refuse(outcome sessions.Outcome, format string, args ...any) error {
	return &TokenError{Outcome: outcome, Detail: fmt.Sprintf(format, args...)}
}

// sign makes a token of the claims.
func sign(key SigningKey, c *claims, maxSize int) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", errors.New("relay: a value of the session is not JSON")
	}
	jws, err := key.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("relay: the token cannot be signed: %w", err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("relay: the token cannot be written: %w", err)
	}
	if len(token) > maxSize {
		return "", fmt.Errorf("%w: relay: the token is %d bytes, MaxSize is %d: share fewer or smaller values", sessions.ErrTooLarge, len(token), maxSize)
	}
	return token, nil
}

// rules are what a verifier holds a token against.
type rules struct {
	algorithm        Algorithm
	issuer, audience string
	maxSize          int
}

// parsed is a token whose shape is right, and nothing more.
type parsed struct {
	jws   *jose.JSONWebSignature
	keyID string
}

// parse checks all that can be checked without a key. What the token says of itself chooses nothing but the key, by its
// ID, from those that the verifier has.
func (r *rules) parse(token string) (parsed, error) {
	if len(token) > r.maxSize {
		return parsed{}, refuse(sessions.OutcomeMalformed, "it is %d bytes, MaxSize is %d", len(token), r.maxSize)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return parsed{}, refuse(sessions.OutcomeMalformed, "it has %d parts, a JWS in compact form has 3", len(parts))
	}
	for _, part := range parts {
		// A lenient reader drops the last bits of a part: then two tokens have one signature.
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return parsed{}, refuse(sessions.OutcomeMalformed, "a part of it is not base64url (RFC 7515, section 2)")
		}
	}
	// A header with anything else is none of ours. So nothing of it is ever interpreted: no key or address of a key that it
	// brings, no extension, and no member that one reader takes for another.
	text, _ := base64.RawURLEncoding.DecodeString(parts[0])
	var header map[string]string
	if josejson.Unmarshal(text, &header) != nil || len(header) > 3 {
		return parsed{}, refuse(sessions.OutcomeMalformed, "its header is not one of alg, kid and typ, once each")
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

// verify checks the signature and what the token says.
func (r *rules) verify(p parsed, key PublicKey, now time.Time) (*claims, error) {
	if key.algorithm != r.algorithm {
		return nil, refuse(sessions.OutcomeTampered, "its key is not one for %s", r.algorithm)
	}
	payload, err := p.jws.Verify(key.Key)
	if err != nil {
		return nil, refuse(sessions.OutcomeTampered, "the signature does not fit")
	}
	var c claims
	// Not encoding/json, which takes EXP for exp, and the last of two: readers must not differ in what a token says.
	if err := josejson.Unmarshal(payload, &c); err != nil {
		return nil, refuse(sessions.OutcomeUndecodable, "the signature fits, but its claims are not those of this version")
	}
	return &c, r.check(&c, now)
}

// check holds the claims of an authentic token against the rules.
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
		return refuse(sessions.OutcomeUndecodable, "it would live for %v, the most is %v", expires.Sub(issued), MaxLifetime)
	case issued.After(now.Add(clockSkew)):
		return refuse(sessions.OutcomeExpired, "it is of %v from now: do the clocks agree?", issued.Sub(now).Round(time.Second))
	case !now.Before(expires):
		return refuse(sessions.OutcomeExpired, "it has expired %v ago", now.Sub(expires).Round(time.Second))
	}
	return nil
}

// isTime reports whether the seconds are after 1970 and before the year 10000, so that no sum of them overflows.
func isTime(seconds int64) bool { return 0 < seconds && seconds < 253402300800 }
