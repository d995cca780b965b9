package sessions

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"handover.example/sessions/internal/jsonindex"
)

// Record is a stored session: what a [Store] loads and saves. Handlers use a [Session] instead.
//
// Times have millisecond precision. A Record is not safe for concurrent use, and a store does not retain a Record after
// the call that received it.
type Record struct {
	// ID is the public handle: a hash of Token, safe to log and to use as a key in a store.
	ID string
	// Token is the secret that names the session: 128 bits from crypto/rand in base64url. A store that keeps records on
	// the server must not keep it: only the client's cookie holds it.
	Token string
	// Version grows with each write. It is the time in microseconds since 1970, or one more than the previous version
	// if that is larger.
	Version int64
	// Created is when the session began. Renewing does not change it.
	Created time.Time
	// Idle is the idle timeout with which the record was written.
	Idle time.Duration
	// Expires is when the session ends if it is not used again; never after Deadline.
	Expires time.Time
	// Deadline is when the session ends in any case.
	Deadline time.Time
	// CustomIdle reports whether [Session.SetLifetime] has set Idle for this session.
	CustomIdle bool
	// Persistent reports whether the cookie outlives the browser.
	Persistent bool
	// Secure reports whether the session has been seen on HTTPS.
	Secure bool
	// Revoked reports whether the record is a tombstone: the session was destroyed or renewed, and must not come back.
	Revoked bool
	// Renewed reports whether the session of a tombstone lives on under another token.
	Renewed bool
	// Presented is what the client presents for this record if that is not Token, such as the sealed record or a token
	// of another library. Load sets it. The [Manager] sends Presented, or Token if Presented is empty, to the client if
	// it differs from what Load was given. Presented is a secret like Token, and not part of the stored form.
	Presented string

	// shortened reports whether the idle timeout was longer once, so that earlier copies may expire later than this one.
	shortened bool
	keep      time.Time // for a DualStore: when the last of those copies expires; zero if it does not matter

	cookie  string // the name of the cookie that the token belongs to; empty if the record does not say
	values  []jsonindex.Entry
	index   map[string]int // of values by their keys, once there are many; see find
	made    time.Time      // the Deadline with which it was made, if a Manager has a lower one; zero if not
	lineage lineage
	origin  any // what the store that loaded or saved the record needs at the next Save; opaque to all others
}

// KeepUntil returns until when a store keeps the record: until Expires, unless a [DualStore] needs it for longer. It does
// if the idle timeout was shortened: while the expired record is there, an earlier copy in the other store does not bring
// the session back.
func (r *Record) KeepUntil() time.Time {
	if r.keep.After(r.Expires) {
		return r.keep
	}
	return r.Expires
}

// Extend sets what [Store.Touch] changes in a stored record, Expires and Idle, to what rec has. It also records whether
// that shortens Idle: see KeepUntil.
func (r *Record) Extend(rec *Record) {
	r.shortened = r.shortened || rec.Idle < r.Idle
	r.Expires, r.Idle, r.keep = rec.Expires, rec.Idle, rec.keep
}

// presents returns what the client presents for the record.
func (r *Record) presents() string {
	if r.Presented != "" {
		return r.Presented
	}
	return r.Token
}

// Format prints only the ID of the record, with every verb, so that neither its token nor a value gets into a log.
func (r Record) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "sessions.Record(%s)", r.ID) }

// Value returns the JSON text of the value of a key, and reports whether there is one.
func (r *Record) Value(key string) (json.RawMessage, bool) {
	raw, ok := r.raw(key)
	if !ok {
		return nil, false
	}
	return json.RawMessage(raw), true
}

// Values iterates over all keys and the JSON texts of their values.
func (r *Record) Values() iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		for _, e := range r.values {
			if !yield(e.Key, json.RawMessage(e.Raw)) {
				return
			}
		}
	}
}

// SetValue sets the value of a key to a JSON text. It does not check the text.
func (r *Record) SetValue(key string, value json.RawMessage) { r.set(key, string(value)) }

func (r *Record) raw(key string) (string, bool) {
	if i := r.find(key); i >= 0 {
		return r.values[i].Raw, true
	}
	return "", false
}

// manyValues is the number of values above which a record keeps an index of their keys, so that n changes cost O(n).
const manyValues = 32

// find returns the place of a key among the values, or -1.
func (r *Record) find(key string) int {
	if len(r.values) <= manyValues {
		r.index = nil
		return slices.IndexFunc(r.values, func(e jsonindex.Entry) bool { return e.Key == key })
	}
	if len(r.index) != len(r.values) {
		r.index = make(map[string]int, 2*len(r.values))
		for i, e := range r.values {
			r.index[e.Key] = i
		}
	}
	if i, ok := r.index[key]; ok {
		return i
	}
	return -1
}

func (r *Record) set(key, raw string) {
	if i := r.find(key); i >= 0 {
		r.values[i].Raw = raw
		return
	}
	if r.index != nil {
		r.index[key] = len(r.values)
	}
	r.values = append(r.values, jsonindex.Entry{Key: key, Raw: raw})
}

func (r *Record) delete(key string) {
	i := r.find(key)
	if i < 0 {
		return
	}
	if r.index == nil {
		r.values = slices.Delete(r.values, i, i+1)
		return
	}
	last := len(r.values) - 1 // of many values, the last one takes the place
	r.values[i] = r.values[last]
	r.index[r.values[i].Key] = i
	delete(r.index, key)
	r.values[last] = jsonindex.Entry{}
	r.values = r.values[:last]
}

// presentedAs sets what the client presents for the record from now on.
func (r *Record) presentedAs(token string) {
	r.Presented = ""
	if token != r.Token {
		r.Presented = token
	}
}

// clone returns a copy that can be changed without changing r.
func (r *Record) clone() *Record {
	c := *r
	c.values, c.index = slices.Clone(r.values), nil
	return &c
}

// madeDeadline returns the deadline with which the record was made, whatever a Manager makes of it today. It is what is
// stored, and until when a tombstone must live: no copy of the session lives longer.
func (r *Record) madeDeadline() time.Time {
	if r.made.IsZero() {
		return r.Deadline
	}
	return r.made
}

// alive reports whether the session has not ended at the given time.
func (r *Record) alive(now time.Time) bool { return now.Before(r.Expires) && now.Before(r.Deadline) }

// slide moves the expiry to one idle timeout from now, but not past the deadline.
func (r *Record) slide(now time.Time) {
	r.Expires = now.Add(r.Idle)
	if r.Expires.After(r.Deadline) {
		r.Expires = r.Deadline
	}
}

// tombstone returns the record that replaces a session that was destroyed or renewed. It was created now: its version
// may be ahead of the time.
func (r *Record) tombstone(now, until time.Time) *Record {
	return &Record{
		ID: r.ID, Token: r.Token, Version: nextVersion(r.Version, now),
		Created: now.Truncate(time.Millisecond), Idle: r.Idle, cookie: r.cookie, Expires: until, Deadline: r.madeDeadline(), Revoked: true, Presented: r.Presented,
		lineage: lineage{past: r.lineage.past}, origin: r.origin,
	}
}

// nextVersion returns a version that grows with each write and with the clock, so that the newer of two independent
// copies can be told. It counts microseconds: no store can be written twice in one, so writers that meet do not run
// ahead of the clock.
func nextVersion(base int64, now time.Time) int64 { return max(base+1, now.UnixMicro()) }

// A token is 16 bytes from crypto/rand; its ID is 16 bytes of its SHA-256. Both are base64url without padding.
const (
	tokenBytes  = 16
	tokenLength = 22
)

var base64url = base64.RawURLEncoding

// NewToken returns a new session token: 128 bits from crypto/rand.
func NewToken() string {
	var b [tokenBytes]byte
	rand.Read(b[:])
	return base64url.EncodeToString(b[:])
}

// TokenID returns the public handle of a token: 128 bits of its SHA-256. It reports false for a text that cannot be one
// of our tokens, so that no store needs to be asked.
func TokenID(token string) (id string, ok bool) {
	// The last character carries two of the 128 bits. Its unused bits must be zero, so that each token has one text.
	if len(token) != tokenLength || !allDigits(token) || strings.IndexByte("AQgw", token[tokenLength-1]) < 0 {
		return "", false
	}
	sum := sha256.Sum256([]byte(token))
	var text [tokenLength]byte
	base64url.Encode(text[:], sum[:tokenBytes])
	return string(text[:]), true
}

// The stored form is JSON without spaces, so that a script finds what it needs at fixed offsets and a person can read
// the rest:
//
//	["i<ID><header><marks>",{<values>}]
//	["i<ID><header><marks>",{<values>},"<name of the cookie>"]
//
// Without a name, the cookie has the default one. A sealed cookie has "t" and the token instead of "i" and the ID, which
// follows from the token, and no name, because its seal is bound to it. This first letter names the format: another
// format would get another letter. The header is fixed-width text: the version in
// microseconds (9 digits of base 64, in ASCII order), then creation, idle timeout, expiry and deadline in milliseconds
// (7 digits each), then the flags (1). The marks are 6 characters for each of the last writes.
const (
	storedStart   = `["i`
	sealedStart   = `["t`
	versionLength = 9
	maxVersion    = 1<<(6*versionLength) - 1 // as microseconds since 1970: the year 2540
	numberLength  = 7
	maxNumber     = 1<<(6*numberLength) - 1 // as milliseconds since 1970: the year 2109
	headerLength  = versionLength + 4*numberLength + 1
	digitAlphabet = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
)

const (
	flagPersistent = 1 << iota
	flagSecure
	flagRevoked
	flagCustomIdle
	_ // free
	flagShortened

	flagsKnown = flagPersistent | flagSecure | flagRevoked | flagCustomIdle | flagShortened

	flagsRenewed = flagRevoked | flagPersistent // free for this use, because a tombstone has no cookie
)

var digitValue = func() (v [256]int8) {
	for i := range v {
		v[i] = -1
	}
	for i := range len(digitAlphabet) {
		v[digitAlphabet[i]] = int8(i)
	}
	return v
}()

var errUndecodable = errors.New("sessions: not a session record that this version can read")

// MarshalJSON encodes the record in the form that [RedisStore] keeps, without the token.
func (r *Record) MarshalJSON() ([]byte, error) { return r.appendStored(nil), nil }

// UnmarshalJSON decodes the output of MarshalJSON. It leaves Token unchanged.
func (r *Record) UnmarshalJSON(text []byte) error {
	got, err := parseStored(string(text))
	if err != nil {
		return err
	}
	got.Token = r.Token
	*r = *got
	return nil
}

func (r *Record) appendStored(b []byte) []byte {
	return r.append(b, storedStart, r.ID, r.lineage.marks())
}

// A sealed record has no marks: no store compares its version with a client's copy.
func (r *Record) appendSealed(b []byte) []byte { return r.append(b, sealedStart, r.Token, "") }

func (r *Record) append(b []byte, start, name, marks string) []byte {
	b = slices.Grow(b, 83+len(marks)+len(r.cookie)+r.valuesLength())
	b = append(b, start...)
	b = append(b, name...)
	b = appendVersion(b, r.Version)
	b = appendNumber(b, r.Created.UnixMilli())
	b = r.appendExpiry(b)
	b = appendNumber(b, r.madeDeadline().UnixMilli())
	b = append(b, digitAlphabet[r.flags()])
	b = append(b, marks...)
	b = append(b, `",{`...)
	for i, e := range r.values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendKey(b, e.Key)
		b = append(b, ':')
		b = append(b, e.Raw...)
	}
	b = append(b, '}')
	if start == storedStart && r.cookie != "" && r.cookie != defaultCookieName {
		b = append(b, `,"`...)
		b = append(b, r.cookie...) // of characters that need no escape: see isTokenRune
		b = append(b, '"')
	}
	return append(b, ']')
}

// appendExpiry appends the part of the header that Touch writes.
func (r *Record) appendExpiry(b []byte) []byte {
	return appendNumber(appendNumber(b, r.Idle.Milliseconds()), r.Expires.UnixMilli())
}

func (r *Record) valuesLength() (n int) {
	for _, e := range r.values {
		n += len(e.Key) + len(e.Raw) + 4
	}
	return n
}

func (r *Record) flags() (f int) {
	if r.Revoked { // a tombstone has no other flags: the scripts recognize it by these digits
		if r.Renewed {
			return flagsRenewed
		}
		return flagRevoked
	}
	if r.Persistent {
		f |= flagPersistent
	}
	if r.Secure {
		f |= flagSecure
	}
	if r.CustomIdle {
		f |= flagCustomIdle
	}
	if r.shortened {
		f |= flagShortened
	}
	return f
}

func parseStored(text string) (*Record, error) {
	r, id, err := parse(text, storedStart)
	if err != nil {
		return nil, err
	}
	r.ID = id
	return r, nil
}

func parseSealed(text string) (*Record, error) {
	r, token, err := parse(text, sealedStart)
	if err != nil {
		return nil, err
	}
	id, ok := TokenID(token)
	if !ok {
		return nil, errUndecodable
	}
	r.ID, r.Token = id, token
	return r, nil
}

// parse decodes a record that begins with start, and returns the ID or the token that names it.
func parse(text, start string) (r *Record, name string, err error) {
	head, rest, ok := strings.Cut(text, `",`)
	head, isOurs := strings.CutPrefix(head, start)
	if !ok || !isOurs || len(head) < tokenLength+headerLength || !allDigits(head) || !strings.HasPrefix(rest, "{") {
		return nil, "", errUndecodable
	}
	name, header, marks := head[:tokenLength], head[tokenLength:tokenLength+headerLength], head[tokenLength+headerLength:]
	version := parseDigits(header[:versionLength])
	number := func(i int) int64 {
		return parseDigits(header[versionLength+i*numberLength:][:numberLength])
	}
	flags := digitValue[header[headerLength-1]]
	idle := number(1)
	if len(marks)%markLength != 0 || flags&^flagsKnown != 0 || version == 0 || idle == 0 && flags&flagCustomIdle != 0 || flags&flagRevoked != 0 && flags > flagsRenewed {
		return nil, "", errUndecodable
	}
	values, rest, err := jsonindex.Parse(rest)
	cookie, ok := parseCookieName(rest)
	if err != nil || !ok || start == sealedStart && rest != "]" {
		return nil, "", errUndecodable
	}
	revoked := flags&flagRevoked != 0
	return &Record{
		Version:    version,
		Created:    time.UnixMilli(number(0)),
		Idle:       time.Duration(idle) * time.Millisecond,
		Expires:    time.UnixMilli(number(2)),
		Deadline:   time.UnixMilli(number(3)),
		Persistent: !revoked && flags&flagPersistent != 0,
		Secure:     flags&flagSecure != 0,
		Revoked:    revoked,
		Renewed:    flags == flagsRenewed,
		CustomIdle: flags&flagCustomIdle != 0,
		shortened:  !revoked && flags&flagShortened != 0,
		cookie:     cookie,
		values:     values,
		lineage:    lineage{past: marks},
	}, name, nil
}

// parseCookieName returns the name of the cookie from the end of a stored record.
func parseCookieName(end string) (name string, ok bool) {
	if end == "]" {
		return defaultCookieName, true
	}
	rest, begins := strings.CutPrefix(end, `,"`)
	name, ends := strings.CutSuffix(rest, `"]`)
	if strings.ContainsRune(name, '\\') { // json.Marshal escapes an ampersand
		name = unquote(name)
	}
	return name, begins && ends && name != "" && !strings.ContainsFunc(name, func(r rune) bool { return !isTokenRune(r) })
}

// unquote is a separate function so that names which need no decoding do not escape to the heap.
func unquote(text string) (s string) {
	_ = json.Unmarshal([]byte(`"`+text+`"`), &s)
	return s
}

// allDigits reports whether s has only base-64 digits, which are the characters of base64url.
func allDigits(s string) bool {
	for i := range len(s) {
		if digitValue[s[i]] < 0 {
			return false
		}
	}
	return true
}

// appendVersion and appendNumber append a number of fixed width. A number that does not fit is capped: a time after
// 2109 becomes 2109.
func appendVersion(b []byte, n int64) []byte {
	return appendDigits(b, min(n, maxVersion), versionLength)
}

func appendNumber(b []byte, n int64) []byte { return appendDigits(b, min(n, maxNumber), numberLength) }

func appendDigits(b []byte, n int64, width int) []byte {
	n = max(n, 0)
	for shift := 6 * (width - 1); shift >= 0; shift -= 6 {
		b = append(b, digitAlphabet[n>>shift&63])
	}
	return b
}

func parseDigits(s string) (n int64) {
	for i := range len(s) {
		n = n<<6 | int64(digitValue[s[i]])
	}
	return n
}

func appendKey(b []byte, key string) []byte {
	plain := true
	for i := range len(key) {
		if c := key[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		b = append(b, '"')
		b = append(b, key...)
		return append(b, '"')
	}
	quoted, _ := json.Marshal(key) // cannot fail: key is a string
	return append(b, quoted...)
}
