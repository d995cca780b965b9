package movein

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"time"

	"handover.example/sessions"
)

// A sealed record is the JSON text ["t<token><header>",{values}]. Its stored form, which [sessions.Record] reads and
// writes, differs only in the letter and in the ID instead of the token, which is as long.
const (
	sealedStart = `["t`
	storedStart = `["i`
	tokenLength = 22
	headLength  = tokenLength + 38 // of token and header
	nameLength  = 8
	sumLength   = 12
)

// reserved is the key of what a session needs besides its values. In a cookie it has the mark. In a record it has the
// values, as the old program wrote them, whose Go types JSON does not tell.
const reserved = "_handover"

// longestAge is how long browsers keep a cookie at most: RFC 6265bis, section 5.5.
const longestAge = 400 * 24 * time.Hour

// parseRecord returns the record with this plain text, and its token with the header.
func parseRecord(plain []byte) (rec *sessions.Record, head string, err error) {
	start := len(sealedStart)
	if len(plain) < start+headLength || string(plain[:start]) != sealedStart {
		return nil, "", errors.New("movein: not a session record")
	}
	head = string(plain[start:][:headLength])
	rec, err = newRecord(head, plain[start+headLength:])
	return rec, head, err
}

// newRecord returns the record with this token, header, and end of the text.
func newRecord(head string, end []byte) (*sessions.Record, error) {
	token, header := head[:tokenLength], head[tokenLength:]
	id, ok := sessions.TokenID(token)
	if !ok {
		return nil, errors.New("movein: not a session token")
	}
	rec := &sessions.Record{Token: token}
	return rec, rec.UnmarshalJSON([]byte(storedStart + id + header + string(end)))
}

// plainText returns the plain text of a record.
func plainText(rec *sessions.Record) ([]byte, error) {
	stored, err := rec.MarshalJSON()
	if err != nil {
		return nil, err
	}
	copy(stored, sealedStart)
	copy(stored[len(sealedStart):], rec.Token)
	return stored, nil
}

// A mark is what a cookie of the old library has under the reserved key: which session it holds, and what tells whether
// the old program has written it since. Its text is token, header, nameSum, valueSum and the seconds in base 36.
type mark struct {
	head     string // token and header
	nameSum  string // of the name of the cookie: the old program may have copied the values to another one
	valueSum string
	sealed   int64 // when the cookie was sealed, in seconds since 1970
}

func (m mark) String() string {
	return m.head + m.nameSum + m.valueSum + strconv.FormatInt(m.sealed, 36)
}

func parseMark(text string) (m mark, ok bool) {
	if len(text) < headLength+nameLength+sumLength {
		return mark{}, false
	}
	m.head, text = text[:headLength], text[headLength:]
	m.nameSum, text = text[:nameLength], text[nameLength:]
	m.valueSum, text = text[:sumLength], text[sumLength:]
	sealed, err := strconv.ParseInt(text, 36, 64)
	m.sealed = sealed
	return m, err == nil
}

// sum returns the start of a hash as text.
func sum(text []byte, length int) string {
	hash := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(hash[:])[:length]
}

// sumOfValues does not depend on the order of the values, which encoding/gob changes.
func sumOfValues(vals values) (string, error) {
	vals = maps.Clone(vals)
	delete(vals, reserved)
	text, err := json.Marshal(vals)
	return sum(text, sumLength), err
}

// written returns the record with a mark, in a cookie with these values that was sealed at date. It reports false if the
// mark is not of this cookie.
//
// If the values differ, the old program has written them since. The version is then the same on every instance, and
// grows with the date; different values have different versions, with a high probability. If only the date is later, the
// old program has saved the values unchanged. It has used the session in either case.
func (m mark) written(name string, valueSum string, date time.Time) (rec *sessions.Record, ok bool) {
	if m.nameSum != sum([]byte(name), nameLength) {
		return nil, false
	}
	rec, err := newRecord(m.head, []byte(`",{}]`))
	if err != nil || rec.Revoked {
		return nil, false
	}
	changed := m.valueSum != valueSum
	if changed {
		hash := sha256.Sum256([]byte(valueSum))
		rec.Version = max(rec.Version+1, date.UnixMicro()) + int64(hash[0])<<4 + int64(hash[1])>>4
	}
	if changed || date.Unix() > m.sealed+1 { // the second may end while a cookie is sealed
		rec.Expires = date.Add(rec.Idle)
		if rec.Expires.After(rec.Deadline) {
			rec.Expires = rec.Deadline
		}
	}
	return rec, true
}

// adopted returns the record for a cookie that has no mark.
func adopted(token string, date time.Time, maxAge time.Duration) (*sessions.Record, error) {
	id, ok := sessions.TokenID(token)
	if !ok {
		return nil, errors.New("movein: not a session token")
	}
	return &sessions.Record{
		ID: id, Token: token, Version: date.UnixMicro(), Created: date,
		Idle: maxAge, CustomIdle: true, Persistent: true, Expires: date.Add(maxAge), Deadline: date.Add(longestAge),
	}, nil
}
