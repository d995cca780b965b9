package movein

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/gob"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/securecookie"

	"handover.example/sessions"
	"handover.example/sessions/internal/check"
	"handover.example/sessions/internal/gobvalue"
)

// Types has, for a key of a session, any value of the Go type that the handlers of the old program expect there, such as
// time.Time{}. Keys whose values are strings, bools, ints, or []any or map[string]any of such values, need no entry. Those
// with float64s do, because a new value of 2.0 is 2 in JSON, and so an int.
//
// Without an entry, a value that replaces one of the old program gets the type of that one, if it is a basic type, a slice
// of a basic type, a map[string]string or a time.Time. The type of a struct must be in Types.
type Types map[string]any

// GorillaConfig is the configuration of [Gorilla]. It is copied.
type GorillaConfig struct {
	_ [0]func()

	// KeyPairs are the keys of the old program in the order in which it passes them to sessions.NewCookieStore: hash key,
	// block key, hash key, block key and so on. A nil block key means that cookies are signed and not encrypted; the last
	// one may be missing. The first pair seals, and all of them open: as in the old program, new keys take two deploys.
	// Required.
	KeyPairs [][]byte

	// MaxAge is how long the old program accepts a cookie after it was written, at most 400 days. That is the age of its
	// codecs, which CookieStore.MaxAge sets, and Options does not. Default 30 days, as in gorilla/sessions.
	MaxAge time.Duration

	// Types are the Go types of the values. Each must be registered with encoding/gob, as in the old program.
	Types Types

	// JSON reports whether the old program has a serializer that stores the values as a JSON object. Default: gob.
	JSON bool
}

// longestCookie is how long a cookie may be for securecookie and for browsers.
const longestCookie = 4096

const defaultMaxAge = 30 * 24 * time.Hour

// Gorilla returns a Codec for the cookies of gorilla/sessions, which are also those of the cookie stores of
// gin-contrib/sessions and labstack/echo-contrib. It opens what the old program has sealed, and the old program opens
// what it seals. It reports all configuration mistakes at once, as an [errors.Join] of [*sessions.ConfigError] values.
//
// A cookie that the old program has sealed becomes a session that began when it was sealed. Its token is derived from the
// cookie and the hash key, so that each instance finds the same one. It has an idle timeout of its own, MaxAge, and a
// cookie that outlives the browser. It ends after Config.AbsoluteTimeout, which should not be shorter than MaxAge, and
// after 400 days at the latest. Until then a DualStore keeps the tombstone of such a session.
func Gorilla(cfg GorillaConfig) (sessions.Codec, error) {
	bad := check.Mistakes{New: func(field, reason string) error { return &sessions.ConfigError{Field: field, Reason: reason} }}
	c := &gorilla{maxAge: cfg.MaxAge, form: jsonForm{}}
	if len(cfg.KeyPairs) == 0 {
		bad.Add("KeyPairs", "required: the arguments of sessions.NewCookieStore in the old program")
	}
	for pair := range slices.Chunk(cfg.KeyPairs, 2) {
		i := 2 * len(c.pairs)
		if len(pair[0]) == 0 {
			bad.Add(fmt.Sprintf("KeyPairs[%d]", i), "the hash key is empty")
		}
		var block []byte
		if len(pair) == 2 {
			block = bytes.Clone(pair[1])
		}
		if n := len(block); block != nil && n != 16 && n != 24 && n != 32 {
			bad.Add(fmt.Sprintf("KeyPairs[%d]", i+1), "a block key has 16, 24 or 32 bytes, not %d: use nil if the old program does not encrypt", n)
		}
		p, err := newKeyPair(bytes.Clone(pair[0]), block)
		if err != nil {
			return nil, err
		}
		c.pairs = append(c.pairs, p)
	}
	switch {
	case cfg.MaxAge == 0:
		c.maxAge = defaultMaxAge
	case cfg.MaxAge < time.Second || cfg.MaxAge > longestAge:
		bad.Add("MaxAge", "%v is not between 1s and 400 days (9600h): use the MaxAge of the codecs of the old program, or zero for 30 days", cfg.MaxAge)
	}
	types := map[string]reflect.Type{}
	for _, key := range slices.Sorted(maps.Keys(cfg.Types)) {
		field := fmt.Sprintf("Types[%q]", key)
		if key == reserved {
			bad.Add(field, "the key is reserved")
		} else if err := gobvalue.CheckType(cfg.Types[key]); err != nil && !cfg.JSON {
			bad.Add(field, "%v", err)
		}
		types[key] = reflect.TypeOf(cfg.Types[key])
	}
	if cfg.JSON && len(types) > 0 {
		bad.Add("Types", "only for gob: JSON has no Go types")
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	if !cfg.JSON {
		gob.Register([]any{}) // as gorilla/sessions does, for flashes
		c.form = gobForm{types}
	}
	return c, nil
}

// gorilla is the Codec of [Gorilla].
type gorilla struct {
	pairs  []keyPair
	maxAge time.Duration
	form   form
}

// A keyPair seals cookies, and makes tokens for those that it has sealed.
type keyPair struct {
	seal     *securecookie.SecureCookie
	tokenKey []byte
}

func newKeyPair(hash, block []byte) (keyPair, error) {
	seal := securecookie.New(hash, block).SetSerializer(securecookie.NopEncoder{})
	seal.MaxAge(0)    // the record has an expiry
	seal.MaxLength(0) // checked here
	key, err := hkdf.Key(sha256.New, hash, nil, "handover.example/sessions movein token", 32)
	return keyPair{seal, key}, err
}

// token returns the token for a cookie that has none.
func (p keyPair) token(cookie []byte) string {
	mac := hmac.New(sha256.New, p.tokenKey)
	mac.Write(cookie)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// Seal implements [sessions.Codec].
func (c *gorilla) Seal(name string, plain []byte) (string, error) {
	rec, head, err := parseRecord(plain)
	if err != nil {
		return "", err
	}
	vals := values{}
	for key, text := range rec.Values() {
		vals[key] = text
	}
	text, err := c.form.write(vals, func(vals values) (string, error) {
		valueSum, err := sumOfValues(vals)
		return mark{head, sum([]byte(name), nameLength), valueSum, time.Now().Unix()}.String(), err
	})
	if err != nil {
		return "", fmt.Errorf("movein: the old format cannot keep the session: %w", err)
	}
	sealed, err := c.pairs[0].seal.Encode(name, text)
	if err != nil {
		return "", errors.New("movein: the record cannot be sealed")
	}
	if len(sealed) > longestCookie {
		return "", fmt.Errorf("%w: the cookie's value is %d bytes; securecookie accepts %d", sessions.ErrTooLarge, len(sealed), longestCookie)
	}
	return sealed, nil
}

// Open implements [sessions.Codec].
func (c *gorilla) Open(name, sealed string) ([]byte, error) {
	if len(sealed) > longestCookie {
		return nil, miss(sessions.OutcomeMalformed, "it is longer than securecookie accepts")
	}
	cookie, date, ok := parseCookie(sealed)
	if !ok {
		return nil, miss(sessions.OutcomeMalformed, "it has not the form of a cookie of gorilla/sessions")
	}
	for _, p := range c.pairs {
		var plain []byte
		if p.seal.Decode(name, sealed, &plain) == nil {
			return c.open(name, plain, date, p.token(cookie))
		}
	}
	return nil, errSeal
}

var errSeal = errors.New("movein: the seal does not verify")

func miss(outcome sessions.Outcome, detail string) error {
	return &sessions.NotFoundError{Outcome: outcome, Detail: detail}
}

// open returns the record in the plain text of a cookie that was sealed at date. token is for one that has none.
func (c *gorilla) open(name string, plain []byte, date time.Time, token string) ([]byte, error) {
	vals, text, err := c.form.read(plain)
	if err != nil {
		return nil, miss(sessions.OutcomeUndecodable, "the seal verifies, but its values cannot be read")
	}
	valueSum, err := sumOfValues(vals)
	if err != nil {
		return nil, err
	}
	m, ok := parseMark(text)
	var rec *sessions.Record
	if ok {
		rec, ok = m.written(name, valueSum, date)
	}
	if !ok {
		if rec, err = adopted(token, date, c.maxAge); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(vals)) {
		rec.SetValue(key, vals[key])
	}
	return plainText(rec)
}

// parseCookie returns the bytes of a cookie, date|value|MAC, and its date. It does not verify the MAC. A text that differs
// only in what base64 ignores has the same bytes.
func parseCookie(sealed string) (cookie []byte, date time.Time, ok bool) {
	cookie, err := base64.URLEncoding.DecodeString(sealed)
	if err != nil || bytes.Count(cookie, []byte("|")) < 2 {
		return nil, time.Time{}, false
	}
	seconds, _, _ := bytes.Cut(cookie, []byte("|"))
	n, err := strconv.ParseUint(string(seconds), 10, 32) // until 2106: a record knows times until 2109
	return cookie, time.Unix(int64(n), 0), err == nil
}
