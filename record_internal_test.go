package sessions

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/jsonindex"
	"handover.example/sessions/internal/redisscript"
)

// testToken is a token with a fixed ID, for records that are compared as text.
const testToken = "AAECAwQFBgcICQoLDA0ODw"

// testRecord returns a record with every field set, whose times are whole milliseconds.
func testRecord(keys ...string) *Record {
	r := &Record{
		Token: testToken, Version: 1700000000123456, Created: time.UnixMilli(1700000000000), Idle: time.Hour,
		Expires: time.UnixMilli(4102444800000), Deadline: time.UnixMilli(4102444800001), cookie: defaultCookieName,
	}
	r.ID, _ = TokenID(r.Token)
	for i, k := range keys {
		r.set(k, fmt.Sprint(i))
	}
	return r
}

func TestP10_TokensAre128BitsOfRandom(t *testing.T) {
	seen := map[string]bool{}
	var ones [8 * tokenBytes]int
	const n = 2000
	for range n {
		token := NewToken()
		require.Len(t, token, tokenLength)
		b, err := base64.RawURLEncoding.Strict().DecodeString(token)
		require.NoError(t, err)
		require.Len(t, b, 16)
		for i := range ones {
			ones[i] += int(b[i/8] >> (i % 8) & 1)
		}
		require.False(t, seen[token])
		seen[token] = true
	}
	for i, count := range ones { // 9 standard deviations: never by chance, always if a bit does not move
		require.InDelta(t, n/2, count, 9*math.Sqrt(n)/2, "bit %d", i)
	}
}

func TestP10_TokenIDTakesOneFormOnly(t *testing.T) {
	id, ok := TokenID(testToken)
	require.True(t, ok)
	require.Equal(t, "XSYR1aTdK0Cyd9_bXs9bSQ", id) // SHA-256 of the token's text, the first 16 bytes in base64url
	require.NotEqual(t, testToken, id)

	for _, token := range []string{
		"", "A", testToken[:21], testToken + "A", testToken + "==",
		"AAECAwQFBgcICQoLDA0OD+", "AAECAwQFBgcICQoLDA0OD/", // the other alphabet
		"AAECAwQFBgcICQoLDA0ODx", // loose last bits: the same 16 bytes in another text
		"AAECAwQFBgcICQoLDA0OD\n", "AAECAwQFBgcIC\r\nLDA0ODw", " AAECAwQFBgcICQoLDA0OD", "AAECAwQFBgcICQoLDA0OD\x00",
		"AAECAwQFBgcICQoLDA0O\u00e9", strings.Repeat("=", 22), strings.Repeat("A", 4096),
	} {
		got, ok := TokenID(token)
		require.False(t, ok, "%q", token)
		require.Empty(t, got, "%q", token)
	}
	forms := 0 // of all last characters, four in 64 leave no loose bits
	for _, c := range digitAlphabet {
		if _, ok := TokenID(testToken[:21] + string(c)); ok {
			forms++
		}
	}
	require.Equal(t, 4, forms)
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ in, want int64 }{
		{0, 0}, {1, 1}, {63, 63}, {64, 64}, {1700000000123, 1700000000123}, {maxNumber, maxNumber},
		{-1, 0}, {math.MinInt64, 0}, {maxNumber + 1, maxNumber}, {math.MaxInt64, maxNumber},
	} {
		text := string(appendNumber(nil, c.in))
		require.Len(t, text, numberLength)
		require.Equal(t, c.want, parseDigits(text), "%d", c.in)
	}
	require.Equal(t, 2109, time.UnixMilli(maxNumber).UTC().Year())
	for _, c := range []struct{ in, want int64 }{
		{0, 0}, {1, 1}, {1700000000123456, 1700000000123456}, {maxVersion, maxVersion}, {-1, 0}, {maxVersion + 1, maxVersion}, {math.MaxInt64, maxVersion},
	} {
		text := string(appendVersion(nil, c.in))
		require.Len(t, text, versionLength)
		require.Equal(t, c.want, parseDigits(text), "%d", c.in)
	}
	require.Equal(t, 2540, time.UnixMicro(maxVersion).UTC().Year())
	// The scripts compare numbers as text, so the order of the digits is that of ASCII.
	require.Len(t, digitAlphabet, 64)
	for i := 1; i < len(digitAlphabet); i++ {
		require.Less(t, digitAlphabet[i-1], digitAlphabet[i])
	}
	require.Less(t, string(appendNumber(nil, 1700000000123)), string(appendNumber(nil, 1700000000124)))
}

// The scripts find their places by counting, and know a tombstone by its digit.
func TestHeaderLayoutIsThatOfTheScripts(t *testing.T) {
	lua := func(s string, from, to int) string { return s[from-1 : to] }
	r := testRecord("k")
	r.lineage.past = "abcdefGHIJKL"
	number := func(n int64) string { return string(appendNumber(nil, n)) }
	text := string(r.appendStored(nil))
	require.Equal(t, string(appendVersion(nil, r.Version)), lua(text, 26, 34))
	require.Equal(t, number(r.Created.UnixMilli()), lua(text, 35, 41))
	require.Equal(t, number(r.Idle.Milliseconds()), lua(text, 42, 48))
	require.Equal(t, number(r.Expires.UnixMilli()), lua(text, 49, 55))
	require.Equal(t, number(r.Deadline.UnixMilli()), lua(text, 56, 62))
	require.Equal(t, "abcdefGHIJKL\"", lua(text, 64, 76))
	require.Equal(t, 6, redisscript.MarkLength)

	now := time.UnixMilli(1700000005000)
	stone := r.tombstone(now, now.Add(time.Minute))
	require.Equal(t, "3", lua(string(stone.appendStored(nil)), 63, 63))
	stone.Renewed = true
	require.Equal(t, "4", lua(string(stone.appendStored(nil)), 63, 63))
	for flag := range flagsKnown + 1 {
		o := r.clone()
		o.Persistent, o.Secure, o.CustomIdle = flag&flagPersistent != 0, flag&flagSecure != 0, flag&flagCustomIdle != 0
		require.NotContains(t, "34", lua(string(o.appendStored(nil)), 63, 63))
	}
}

// A record is not to grow: 8 bytes stand around what the header and the values need, and Redis rounds up to the next size.
func TestRecordLength(t *testing.T) {
	require.Len(t, testRecord().appendStored(nil), 8+tokenLength+headerLength)
	require.Equal(t, 68, 8+tokenLength+headerLength)
}

// A token is what strict base64url takes for 16 bytes, and nothing else.
func TestP10_ShapeOfAToken(t *testing.T) {
	for at := range tokenLength {
		for c := range 256 {
			token := []byte(testToken)
			token[at] = byte(c)
			_, ok := TokenID(string(token))
			b, err := base64.RawURLEncoding.Strict().DecodeString(string(token))
			require.Equal(t, err == nil && len(b) == tokenBytes, ok, "%q", token)
		}
	}
	for _, token := range []string{"", testToken[1:], testToken + "A", testToken + "\n", testToken + "=="} {
		_, ok := TokenID(token)
		require.False(t, ok, "%q", token)
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for f := range flagsKnown + 1 {
		if f&^flagsKnown != 0 {
			continue
		}
		r := testRecord("a", "", "日本", "q\"\\\n", "<&>", "\u2028\x7f", "__proto__")
		r.Persistent, r.Secure, r.Revoked, r.CustomIdle = f&flagPersistent != 0, f&flagSecure != 0, f&flagRevoked != 0, f&flagCustomIdle != 0
		r.shortened = f&flagShortened != 0
		if r.Revoked { // a tombstone has no other flag
			r.Renewed = r.Persistent
			r.Persistent, r.Secure, r.CustomIdle, r.shortened = false, false, false, false
		}
		sealed, err := parseSealed(string(r.appendSealed(nil)))
		require.NoError(t, err)
		require.Equal(t, r, sealed)

		r.lineage.past = strings.Repeat("mark-0", f)
		unmarked, err := parseSealed(string(r.appendSealed(nil)))
		require.NoError(t, err)
		require.Equal(t, sealed, unmarked, "marks stay on the server")

		for _, name := range []string{"session", "__Host-session", "a!#$%&'*+-.^_`|~z"} {
			r.cookie = name
			text, err := json.Marshal(r)
			require.NoError(t, err)
			require.NotContains(t, string(text), r.Token)
			var stored Record
			require.NoError(t, json.Unmarshal(text, &stored))
			require.Empty(t, stored.Token)
			stored.Token = r.Token
			require.Equal(t, r, &stored)
		}
	}
}

// The text that a store on a server keeps has neither what the client presents nor what it is made of.
func TestP11_RecordTextHasNoCredential(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		r := testRecord("a", "b")
		r.Presented, r.Revoked, r.Renewed = "what the client presents", revoked, revoked
		r.lineage.mark = newMark()
		text, err := json.Marshal(r)
		require.NoError(t, err)
		require.Contains(t, string(text), r.ID)
		require.NotContains(t, string(text), r.Token)
		require.NotContains(t, string(text), r.Presented)

		read := &Record{Token: "its token", Presented: "not this"}
		require.NoError(t, json.Unmarshal(text, read))
		require.Equal(t, "its token", read.Token)
		require.Empty(t, read.Presented, "it is for Load to set")
		require.Equal(t, revoked, read.Renewed)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", r, r, *r), r.Presented)
		require.NotContains(t, string(r.appendSealed(nil)), r.Presented)
	}
}

func TestRecordCapsWhatDoesNotFit(t *testing.T) {
	r := testRecord()
	r.Version, r.Created, r.Idle = math.MaxInt64, time.Time{}, math.MaxInt64
	r.Expires, r.Deadline = time.Unix(1<<40, 0), time.Unix(1<<40, 0)
	got, err := parseStored(string(r.appendStored(nil)))
	require.NoError(t, err)
	require.EqualValues(t, maxVersion, got.Version)
	require.Equal(t, int64(0), got.Created.UnixMilli())
	require.Equal(t, maxNumber*time.Millisecond, got.Idle)
	require.Equal(t, int64(maxNumber), got.Expires.UnixMilli())
	require.Equal(t, int64(maxNumber), got.Deadline.UnixMilli())
}

func TestP13_RecordsThatAreNotOurs(t *testing.T) {
	good := string(testRecord("k").appendStored(nil))
	_, err := parseStored(good)
	require.NoError(t, err)
	for i := range len(good) { // cut anywhere
		_, err := parseStored(good[:i])
		require.Error(t, err, "%q", good[:i])
	}
	number := func(at int, digits string) string { return good[:at] + digits + good[at+len(digits):] }
	for name, text := range map[string]string{
		"empty":               "",
		"null":                "null",
		"a sealed record":     string(testRecord("k").appendSealed(nil)),
		"trailing bytes":      good + " ",
		"leading space":       " " + good,
		"another format":      number(2, "j"),
		"digit":               number(40, "+"),
		"digit outside ASCII": number(40, "\xff"),
		"version 0":           number(25, "---------"), // which means "new" to a store: it would never be written
		"flags":               number(62, "z"),
		"flag of later":       number(62, "F"),
		"mark too short":      strings.Replace(good, `",{`, `abcde",{`, 1),
		"id with quote":       number(7, `"`),
		"id with newline":     number(7, "\n"),
		"space before values": strings.Replace(good, `",{`, `", {`, 1),
		"values an array":     strings.Replace(good, `{"k":0}`, `["k",0]`, 1),
		"values missing":      strings.Replace(good, `,{"k":0}`, ``, 1),
		"value no JSON":       strings.Replace(good, `:0}`, `:00}`, 1),
		"value missing":       strings.Replace(good, `:0}`, `:}`, 1),
		"no name":             strings.Replace(good, `}]`, `},""]`, 1),
		"name with a space":   strings.Replace(good, `}]`, `},"a b"]`, 1),
		"name with a quote":   strings.Replace(good, `}]`, `},"a\"b"]`, 1),
		"name not ended":      strings.Replace(good, `}]`, `},"a]`, 1),
		"name not begun":      strings.Replace(good, `}]`, `},a"]`, 1),
		"two names":           strings.Replace(good, `}]`, `},"a","b"]`, 1),
		"another element":     strings.Replace(good, `{"k":0}`, `{"k":0},1`, 1),
	} {
		r, err := parseStored(text)
		require.ErrorIs(t, err, errUndecodable, name)
		require.Nil(t, r, name)
		kept := testRecord("kept")
		require.Error(t, kept.UnmarshalJSON([]byte(text)), name)
		require.Equal(t, testRecord("kept"), kept, "a record that cannot be read changes nothing")
	}
	sealed := string(testRecord("k").appendSealed(nil))
	_, err = parseSealed(strings.Replace(sealed, `}]`, `},"name"]`, 1))
	require.Error(t, err)
	loose := strings.Replace(sealed, "ODw", "ODx", 1)
	_, err = parseSealed(loose)
	require.ErrorIs(t, err, errUndecodable, "a token with loose bits")
}

func TestRecordValues(t *testing.T) {
	r := testRecord("a", "b", "c")
	r.SetValue("b", json.RawMessage(`"x"`))
	r.SetValue("d", json.RawMessage(`null`))
	r.delete("a")
	r.delete("nothing")
	var keys []string
	for k, v := range r.Values() {
		keys = append(keys, k+"="+string(v))
	}
	require.Equal(t, []string{`b="x"`, "c=2", "d=null"}, keys)
	for range r.Values() {
		break
	}
	v, ok := r.Value("d")
	require.True(t, ok)
	require.Equal(t, "null", string(v))
	_, ok = r.Value("a")
	require.False(t, ok)

	c := r.clone()
	c.set("b", "1")
	c.delete("c")
	v, _ = r.Value("b")
	require.Equal(t, `"x"`, string(v), "a clone is apart")
	require.Len(t, r.values, 3)
	require.Equal(t, []jsonindex.Entry{{Key: "b", Raw: "1"}, {Key: "d", Raw: "null"}}, c.values)
}

func TestVersionsGrow(t *testing.T) {
	now := time.UnixMilli(1700000000000)
	require.Equal(t, now.UnixMicro(), nextVersion(0, now))
	require.Equal(t, now.UnixMicro()+1, nextVersion(now.UnixMicro(), now))
	require.Equal(t, now.UnixMicro()+11, nextVersion(now.UnixMicro()+10, now), "also when the clock goes back")
}
