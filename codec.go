package sessions

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gorilla/securecookie"
	"handover.example/sessions/internal/check"
)

// Codec seals and opens the records that a [CookieStore] keeps in the client's cookie. It encrypts and authenticates
// them, and binds them to the cookie name. A Codec must be safe for concurrent use.
type Codec interface {
	// Seal returns plain in sealed form, made only of bytes that a cookie value may contain. It does not modify plain.
	Seal(name string, plain []byte) (string, error)
	// Open returns what was sealed under the same name. Any other text is an error, which contains nothing of the text. A
	// [*NotFoundError] tells the reason, such as [OutcomeMalformed] for a text that has not the form of what Seal returns,
	// or [OutcomeExpired] for one that is too old; any other error means [OutcomeTampered].
	Open(name, sealed string) ([]byte, error)
}

// minSecret is the minimum length of a secret in bytes: that of the keys derived from it.
const minSecret = 32

// minDifferent is how many different bytes a secret must have. One of 32 random bytes has about 30, and fewer than 8 not
// once in 2^120; a passphrase that repeats, a placeholder or an empty buffer is found by trying.
const minDifferent = 8

// howToMakeSecret ends the message about a secret that is missing or bad.
const howToMakeSecret = "make one with: openssl rand -base64 32"

// NewSecureCookieCodec returns a Codec that uses [github.com/gorilla/securecookie]: AES-256-CTR, then HMAC-SHA-256,
// with keys derived from the secrets by HKDF. The 30-day limit of securecookie is off: the record has its own expiry.
//
// Each secret must have 32 bytes or more, at least 8 of them different, from a random source such as
//
//	openssl rand -base64 32
//
// Missing, short, repeated and weak secrets are reported together, as an [errors.Join] of [*ConfigError] values.
//
// The first secret seals, and all of them open. A rolling deploy changes a secret in two deploys: (old, new) on every
// instance, and only then (new, old). In one deploy, an instance that still has (old) rejects what the others seal, and
// its users are logged out. Drop the old secret in a later deploy, one Config.AbsoluteTimeout after the second.
//
// A seal is bound to the cookie name and to nothing else: two programs with the same secret and the same cookie name
// open each other's sessions. Give each program a secret of its own.
func NewSecureCookieCodec(secrets ...[]byte) (Codec, error) {
	return codecOf(newSecureCookie, secrets)
}

// codecOf returns a Codec with one codec per secret.
func codecOf(newCodec func(secret []byte) (Codec, error), secrets [][]byte) (Codec, error) {
	bad := check.Mistakes{New: configError}
	if len(secrets) == 0 {
		bad.Add("secrets", "none: pass a random secret of %d bytes or more; %s", minSecret, howToMakeSecret)
	}
	var codecs []Codec
	for i, secret := range secrets {
		field := fmt.Sprintf("secrets[%d]", i)
		if len(secret) < minSecret {
			bad.Add(field, "%d bytes are too short: use %d or more from a random source; %s", len(secret), minSecret, howToMakeSecret)
			continue
		}
		if n := differentBytes(secret); n < minDifferent {
			bad.Add(field, "only %d different bytes, so it is not random; %s", n, howToMakeSecret)
			continue
		}
		for j := range i {
			if bytes.Equal(secrets[j], secret) {
				bad.Add(field, "the same as secrets[%d]: pass each secret once", j)
			}
		}
		c, err := newCodec(secret)
		if err != nil {
			bad.Add(field, "%v", err)
			continue
		}
		codecs = append(codecs, c)
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	return Codecs(codecs[0], codecs[1:]...), nil
}

func differentBytes(secret []byte) int {
	n, seen := 0, [256]bool{}
	for _, b := range secret {
		if !seen[b] {
			seen[b] = true
			n++
		}
	}
	return n
}

// Codecs returns a Codec that seals with first and opens with each of them, in this order. Use it to change codecs. That
// takes two deploys, as when you rotate a secret: Codecs(old, new) on every instance, and only then Codecs(new, old).
// If none of them opens a text, the error is the one that tells the most: a [*NotFoundError], if there is one, and rather
// one of a Codec that recognized its seal.
func Codecs(first Codec, older ...Codec) Codec {
	if len(older) == 0 {
		return first
	}
	return codecList(append([]Codec{first}, older...))
}

type codecList []Codec

func (l codecList) Seal(name string, plain []byte) (string, error) { return l[0].Seal(name, plain) }

func (l codecList) Open(name, sealed string) ([]byte, error) {
	told := errSeal
	for _, c := range l {
		plain, err := c.Open(name, sealed)
		if err == nil {
			return plain, nil
		}
		if telling(err) > telling(told) {
			told = err
		}
	}
	return nil, told
}

// telling returns how much the error of a Codec tells about a text: most if the seal verified.
func telling(err error) int {
	var miss *NotFoundError
	switch {
	case !errors.As(err, &miss), miss.Outcome == OutcomeTampered:
		return 0
	case miss.Outcome == OutcomeMalformed:
		return 1
	}
	return 2
}

func hasNilCodec(c Codec) bool {
	list, ok := c.(codecList)
	return check.IsNil(c) || ok && slices.ContainsFunc(list, hasNilCodec)
}

var errSeal = errors.New("sessions: the seal does not verify")

// hasLineBreak reports whether s has a line break, which package base64 ignores even in strict mode.
func hasLineBreak(s string) bool {
	return strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0
}

type secureCookie struct{ sc *securecookie.SecureCookie }

func newSecureCookie(secret []byte) (Codec, error) {
	derive := func(use string) ([]byte, error) {
		return hkdf.Key(sha256.New, secret, nil, "handover.example/sessions securecookie "+use, 32)
	}
	hashKey, err := derive("hash")
	if err != nil {
		return nil, err
	}
	blockKey, err := derive("block")
	if err != nil {
		return nil, err
	}
	sc := securecookie.New(hashKey, blockKey)
	sc.SetSerializer(securecookie.NopEncoder{})
	sc.MaxAge(0)    // the record has its own expiry
	sc.MaxLength(0) // CookieStore checks the length, with that of the name
	return &secureCookie{sc}, nil
}

func (c *secureCookie) Seal(name string, plain []byte) (string, error) {
	if len(plain) == 0 {
		return "", errors.New("sessions: nothing to seal") // securecookie would seal it, but not open it again
	}
	sealed, err := c.sc.Encode(name, bytes.Clone(plain)) // Encode encrypts in place
	if err != nil {
		return "", errors.New("sessions: the record cannot be sealed")
	}
	return sealed, nil
}

func (c *secureCookie) Open(name, sealed string) ([]byte, error) {
	// securecookie ignores line breaks and unused bits in the last four characters. Reject them, so that each value has
	// one sealed form.
	if hasLineBreak(sealed) || len(sealed) < 4 {
		return nil, errSeal
	}
	if _, err := base64.URLEncoding.Strict().DecodeString(sealed[len(sealed)-4:]); err != nil {
		return nil, errSeal
	}
	var plain []byte
	if err := c.sc.Decode(name, sealed, &plain); err != nil {
		return nil, errSeal
	}
	return plain, nil
}
