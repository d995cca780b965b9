package sessions

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/jsonindex"
)

// The golden vectors are what earlier versions wrote, and what any version must refuse. They are text:
//
//	comment: what it shows
//	key: value
//
//	body
//
// A body is everything after the first empty line but for the last line break; with "body: quoted" it is a Go string.
//
// Keys of both kinds:
//   - expect: loaded, or the outcome with which it is refused
//   - id, version, created, idle, expires, deadline (of a loaded record; times are milliseconds since 1970)
//   - flags: any of persistent, secure, custom-idle, revoked, renewed, renewed
//   - value: a key in JSON quotes, a space, and the JSON text of its value; once for each
//
// testdata/sealed has cookie values as bodies, with these keys as well:
//   - cookie: the name of the cookie
//   - secret: in hexadecimal; once for each, in order
//   - codec: aead, or nothing for securecookie
//
// testdata/stored has the text of records as bodies, as they stand in Redis:
//   - marks: those that the record holds
var update = flag.Bool("update", false, "write the golden vectors that are missing; what is there is never written again")

// vector is one file.
type vector struct {
	name   string
	keys   []string // in the order of the file
	header map[string][]string
	body   string
}

func (v *vector) add(key, value string) {
	if v.header == nil {
		v.header = map[string][]string{}
	}
	if v.header[key] == nil {
		v.keys = append(v.keys, key)
	}
	v.header[key] = append(v.header[key], value)
}

func (v *vector) get(key string) string {
	if len(v.header[key]) == 0 {
		return ""
	}
	return v.header[key][0]
}

func (v *vector) text() []byte {
	var b bytes.Buffer
	for _, key := range v.keys {
		for _, value := range v.header[key] {
			fmt.Fprintf(&b, "%s: %s\n", key, value)
		}
	}
	body := v.body
	if body != strings.TrimSpace(body) || strings.ContainsFunc(body, func(r rune) bool { return r < ' ' || r > '~' && r < 0xa0 || r == '\ufffd' }) {
		b.WriteString("body: quoted\n")
		body = strconv.QuoteToASCII(body)
	}
	fmt.Fprintf(&b, "\n%s\n", body)
	return b.Bytes()
}

func parseVector(text []byte) (v vector, err error) {
	head, body, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		return v, errors.New("no empty line after the header")
	}
	lines := bufio.NewScanner(strings.NewReader(head))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), ": ")
		if !ok {
			return v, fmt.Errorf("%q is no header", lines.Text())
		}
		v.add(key, value)
	}
	v.body = strings.TrimSuffix(body, "\n")
	if v.get("body") == "quoted" {
		v.body, err = strconv.Unquote(v.body)
	}
	return v, errors.Join(err, lines.Err())
}

// loadVectors reads all vectors of one kind; that there are none is a failure.
func loadVectors(tb testing.TB, kind string) (all []vector) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", kind, "*.txt"))
	require.NoError(tb, err)
	require.NotEmpty(tb, files, "no golden vectors in testdata/%s: a checkout must have them", kind)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(tb, err)
		v, err := parseVector(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))) // as git may have made of it
		require.NoError(tb, err, file)
		v.name = strings.TrimSuffix(filepath.Base(file), ".txt")
		require.NotEmpty(tb, v.get("comment"), file)
		all = append(all, v)
	}
	return all
}

// describe writes down what a record holds.
func (v *vector) describe(r *Record) {
	v.add("id", r.ID)
	v.add("version", fmt.Sprint(r.Version))
	v.add("created", fmt.Sprint(r.Created.UnixMilli()))
	v.add("idle", r.Idle.String())
	v.add("expires", fmt.Sprint(r.Expires.UnixMilli()))
	v.add("deadline", fmt.Sprint(r.Deadline.UnixMilli()))
	var flags []string
	for _, f := range []struct {
		on   bool
		name string
	}{{r.Persistent, "persistent"}, {r.Secure, "secure"}, {r.CustomIdle, "custom-idle"}, {r.Revoked, "revoked"}, {r.Renewed, "renewed"}} {
		if f.on {
			flags = append(flags, f.name)
		}
	}
	if flags != nil {
		v.add("flags", strings.Join(flags, " "))
	}
	if r.lineage.past != "" {
		v.add("marks", r.lineage.past)
	}
	for key, raw := range r.Values() {
		v.add("value", strconv.QuoteToASCII(key)+" "+strconv.QuoteToASCII(string(raw)))
	}
}

var recordKeys = []string{"id", "version", "created", "idle", "expires", "deadline", "flags", "marks", "value"}

// requireRecord checks that a record holds what the vector says, and nothing else.
func (v *vector) requireRecord(t *testing.T, r *Record) {
	t.Helper()
	var got vector
	got.describe(r)
	for _, key := range recordKeys {
		require.Equal(t, v.header[key], got.header[key], key)
	}
}

func (v *vector) codec(tb testing.TB) Codec {
	tb.Helper()
	var secrets [][]byte
	for _, s := range v.header["secret"] {
		b, err := hex.DecodeString(s)
		require.NoError(tb, err)
		secrets = append(secrets, b)
	}
	codec, err := goldenCodecs[v.get("codec")](secrets...)
	require.NoError(tb, err)
	return codec
}

// goldenCodecs are those that have sealed the vectors, by the key "codec" of the file.
var goldenCodecs = map[string]func(...[]byte) (Codec, error){"": NewSecureCookieCodec, "aead": NewAEADCodec}

func TestP13_GoldenSealed(t *testing.T) {
	addMissing(t, "sealed", sealedVectors)
	seen := map[string]int{}
	for _, v := range loadVectors(t, "sealed") {
		t.Run(v.name, func(t *testing.T) {
			seen[v.get("expect")]++
			store, err := NewCookieStore(CookieStoreConfig{Codec: v.codec(t)})
			require.NoError(t, err)
			name := v.get("cookie")
			r, err := store.Load(t.Context(), name, v.body)
			if want := v.get("expect"); want != "loaded" {
				require.ErrorIs(t, err, ErrNotFound)
				var miss *NotFoundError
				require.ErrorAs(t, err, &miss)
				require.Equal(t, want, string(miss.Outcome))
				require.Nil(t, r)
				return
			}
			require.NoError(t, err)
			v.requireRecord(t, r)
			if r.Revoked { // which is not sealed again
				return
			}
			token, err := store.Save(t.Context(), name, r, r.Version)
			require.NoError(t, err)
			again, err := store.Load(t.Context(), name, token)
			require.NoError(t, err)
			again.lineage.past = r.lineage.past // stay behind
			v.requireRecord(t, again)
		})
	}
	for _, outcome := range []string{"loaded", "tampered", "undecodable", "expired", "malformed"} {
		require.NotZero(t, seen[outcome], outcome)
	}
}

func TestP13_GoldenStored(t *testing.T) {
	addMissing(t, "stored", storedVectors)
	seen := map[string]int{}
	for _, v := range loadVectors(t, "stored") {
		t.Run(v.name, func(t *testing.T) {
			seen[v.get("expect")]++
			var r Record
			err := r.UnmarshalJSON([]byte(v.body))
			if v.get("expect") != "loaded" {
				require.Equal(t, "undecodable", v.get("expect"))
				require.ErrorIs(t, err, errUndecodable)
				require.Equal(t, Record{}, r)
				return
			}
			require.NoError(t, err)
			require.True(t, json.Valid([]byte(v.body)), "readable in redis-cli")
			v.requireRecord(t, &r)
			text, err := r.MarshalJSON()
			require.NoError(t, err)
			var again Record
			require.NoError(t, again.UnmarshalJSON(text))
			v.requireRecord(t, &again)
		})
	}
	require.NotZero(t, seen["loaded"])
	require.NotZero(t, seen["undecodable"])
}

// addMissing writes the vectors that are not there yet.
func addMissing(t *testing.T, kind string, make func(*testing.T) []vector) {
	t.Helper()
	if !*update {
		return
	}
	dir := filepath.Join("testdata", kind)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, v := range make(t) {
		file, err := os.OpenFile(filepath.Join(dir, v.name+".txt"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		require.NoError(t, err)
		_, err = file.Write(v.text())
		require.NoError(t, errors.Join(err, file.Close()))
	}
}

// The secrets of the vectors are no secrets.
var goldenSecrets = [][]byte{[]byte("golden secret one, of 32 bytes.."), []byte("golden secret two, which is of a few more bytes")}

const goldenExpiry = 4300000000000 // in the year 2106: the numbers of a record end in 2109

func goldenRecord() *Record {
	r := &Record{
		Token: testToken, Version: 1700000000123456, Created: time.UnixMilli(1700000000000), Idle: 24 * time.Hour,
		Expires: time.UnixMilli(goldenExpiry), Deadline: time.UnixMilli(goldenExpiry + 1000),
	}
	r.ID, _ = TokenID(r.Token)
	return r
}

// goldenRecords are the good ones, with the comment on each.
func goldenRecords() map[string]func(*Record) string {
	return map[string]func(*Record) string{
		"empty": func(*Record) string { return "a session without values, as Clear leaves it" },
		"small": func(r *Record) string {
			r.set("user_id", "42")
			r.set("name", `"Ada"`)
			return "a small session"
		},
		"hundred-keys": func(r *Record) string {
			for i := range 100 {
				r.set(fmt.Sprintf("k%02d", i), fmt.Sprint(i))
			}
			return "a hundred keys"
		},
		"kinds": func(r *Record) string {
			for key, raw := range map[string]string{"null": "null", "true": "true", "false": "false", "zero": "-0", "float": "1.5e-7", "big": "123456789012345678901234567890",
				"string": `"\u00fc\n\"\\\/ \ud83d\ude00"`, "list": `[1,[2,[]],{}]`, "object": `{"a":{"b":[null]},"a":2}`, "spaces": "[ 1 ,\t2 ]"} {
				r.set(key, raw)
			}
			slices.SortFunc(r.values, func(a, b jsonindex.Entry) int { return strings.Compare(a.Key, b.Key) })
			return "every kind of JSON value; the text of a value is kept as it is"
		},
		"keys": func(r *Record) string {
			for i, key := range []string{"", " ", "\u00fc", "\u65e5\u672c\u8a9e", "\U0001f600", `"`, `\`, "\n\t\x00\x1f", "\x7f", "<&>", "\u2028", "a.b/c:d", "h", "s", "id", "__proto__"} {
				r.set(key, fmt.Sprint(i))
			}
			return "keys that need quoting, and keys that look like members of the record"
		},
		"persistent":  func(r *Record) string { r.Persistent = true; return "flag persistent" },
		"secure":      func(r *Record) string { r.Secure = true; return "flag secure" },
		"custom-idle": func(r *Record) string { r.CustomIdle, r.Idle = true, 90*time.Second; return "flag custom-idle" },
		"all-flags": func(r *Record) string {
			r.Persistent, r.Secure, r.CustomIdle, r.Idle = true, true, true, 365*24*time.Hour
			return "all flags of a living session"
		},
		"earliest": func(r *Record) string {
			r.Version, r.Created, r.Idle = 1, time.UnixMilli(0), 0
			return "the least numbers"
		},
		"latest": func(r *Record) string {
			latest := time.UnixMilli(maxNumber)
			r.Version, r.Created, r.Idle, r.Expires, r.Deadline = maxVersion, latest, maxNumber*time.Millisecond, latest, latest
			return "the greatest numbers, in the year 2109"
		},
	}
}

// goldenBroken makes of the text of a record texts that are none.
func goldenBroken(text string) map[string][2]string {
	start := len(storedStart) + tokenLength // of the header
	at := func(i int, s string) string { return text[:start+i] + s + text[start+i+len(s):] }
	swap := func(old, by string) string {
		if strings.Count(text, old) != 1 {
			panic(old)
		}
		return strings.Replace(text, old, by, 1)
	}
	return map[string][2]string{
		"format-unknown":     {"a format of a later version", `["z` + text[3:]},
		"format-object":      {"the members as an object", `{"i":"` + text[len(storedStart):strings.Index(text, `,{`)] + `,"s":{"k":1}}`},
		"digit-plus":         {"a digit of another alphabet", at(3, "+")},
		"digit-quote":        {"a quote among the digits", at(3, `"`)},
		"digit-high":         {"a byte over 127 among the digits", at(3, "\xff")},
		"digit-zero-byte":    {"a zero byte among the digits", at(3, "\x00")},
		"version-0":          {"version 0, which means a new record to a store", at(0, "---------")},
		"flags-unknown":      {"a flag of a later version", at(37, "F")},
		"custom-idle-0":      {"an idle timeout of its own that is none: it could be read, and never written", at(16, "-------"+text[start+23:start+37]+"7")},
		"flags-revoked":      {"a tombstone with flags of a session", at(37, "5")},
		"flags-all-bits":     {"the greatest digit as flags", at(37, "z")},
		"header-short":       {"a header that lacks a digit", text[:start+5] + text[start+6:]},
		"header-empty":       {"no header", text[:start] + text[start+38:]},
		"marks-5":            {"a mark of 5 characters", swap(`",{`, `abcde",{`)},
		"marks-7":            {"a mark and a character", swap(`",{`, `abcdefg",{`)},
		"marks-quote":        {"a quote in a mark", swap(`",{`, `abc"ef",{`)},
		"trailing-space":     {"a space after the record", text + " "},
		"trailing-newline":   {"a line break after the record", text + "\n"},
		"trailing-record":    {"two records", text + text},
		"trailing-bracket":   {"a bracket too many", text + "]"},
		"leading-space":      {"a space before the record", " " + text},
		"leading-bom":        {"a byte order mark before the record", "\ufeff" + text},
		"space-in-record":    {"a space between the elements", swap(`,{`, `, {`)},
		"no-values":          {"no values", swap(`,{"k":1}`, ``)},
		"values-null":        {"null in place of the values", swap(`{"k":1}`, `null`)},
		"values-list":        {"a list in place of the values", swap(`{"k":1}`, `["k",1]`)},
		"element-after":      {"one more element", swap(`{"k":1}`, `{"k":1},1`)},
		"value-no-json":      {"a value that is not JSON", swap(`:1}`, `:yes}`)},
		"value-leading-zero": {"a number that JSON does not have", swap(`:1}`, `:01}`)},
		"value-nan":          {"a number that JSON does not have", swap(`:1}`, `:NaN}`)},
		"value-missing":      {"a key without a value", swap(`:1}`, `:}`)},
		"value-two":          {"two values", swap(`:1}`, `:1 2}`)},
		"value-string-open":  {"a string that does not end", swap(`:1}`, `:"1}`)},
		"value-control":      {"a control character in a string", swap(`:1}`, ":\"\n\"}")},
		"value-escape":       {"an escape that JSON does not have", swap(`:1}`, `:"\x41"}`)},
		"value-too-deep":     {"nested more than 10000 times", swap(`:1}`, `:`+strings.Repeat("[", 10001)+strings.Repeat("]", 10001)+`}`)},
		"key-no-quotes":      {"a key without quotes", swap(`"k"`, `k`)},
		"key-control":        {"a control character in a key", swap(`"k"`, "\"\x01\"")},
		"comma-last":         {"a comma too many", swap(`:1}`, `:1,}`)},
		"name-quote":         {"a quote in the name", text[:10] + `"` + text[11:]},
		"name-high":          {"a byte over 127 in the name", text[:10] + "\xff" + text[11:]},
		"elements-order":     {"the elements in another order", `[{"k":1},` + text[1:strings.Index(text, `,{`)] + `]`},
		"cut":                {"cut in the middle", text[:len(text)/2]},
		"one-byte-less":      {"cut by one byte", text[:len(text)-1]},
		"json-other":         {"JSON of something else", `{"user_id":42}`},
		"text":               {"not JSON", "hello"},
		"one-byte":           {"one byte", "{"},
		"string-of-a-record": {"a record within a string", strconv.Quote(text)},
		"compressed":         {"the start of gzip", "\x1f\x8b\x08\x00"},
	}
}

// goldenLoose makes of the text of a record texts that are read, although nothing here writes them.
func goldenLoose(text string) map[string][2]string {
	return map[string][2]string{
		"keys-twice":        {"of two values of one key the last one counts", strings.Replace(text, `:1}`, `:1,"k":2,"\u006b":3}`, 1)},
		"spaces-in-values":  {"spaces among the values, as a person may have left them", strings.Replace(text, `{"k":1}`, "{ \"k\" :\t1 ,\r\n\"l\": 2 }", 1)},
		"keys-escaped":      {"keys with escapes that nothing needs", strings.Replace(text, `"k"`, `"\u006b\/\u00e4\ud83d\ude00"`, 1)},
		"key-surrogate":     {"half a surrogate pair in a key, as encoding/json reads it", strings.Replace(text, `"k"`, `"\ud83d"`, 1)},
		"key-not-utf8":      {"a key that is not UTF-8, as encoding/json reads it", strings.Replace(text, `"k"`, "\"\xff\"", 1)},
		"number-huge":       {"a number that no machine holds, kept as it is", strings.Replace(text, `:1}`, `:1e999999}`, 1)},
		"nested-to-the-end": {"nested 9000 times", strings.Replace(text, `:1}`, `:`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`}`, 1)},
	}
}

func storedVectors(t *testing.T) (all []vector) {
	addText := func(name, comment, expect, text string) {
		v := vector{name: name, body: text}
		v.add("comment", comment)
		v.add("expect", expect)
		if expect == "loaded" {
			r, err := parseStored(text)
			require.NoError(t, err, name)
			v.describe(r)
		}
		all = append(all, v)
	}
	records := goldenRecords()
	records["marks"] = func(r *Record) string { r.lineage.past = "abcdef-----_zzzzzz"; return "three marks" }
	records["marks-128"] = func(r *Record) string { r.lineage.past = strings.Repeat("0aZ_-9", 128); return "the most marks" }
	records["tombstone"] = func(r *Record) string {
		*r = *r.tombstone(time.UnixMilli(1700000001000), time.UnixMilli(goldenExpiry))
		r.lineage.past = "abcdef"
		return "a tombstone: the session was destroyed"
	}
	records["tombstone-renewed"] = func(r *Record) string {
		*r = *r.tombstone(time.UnixMilli(1700000001000), time.UnixMilli(goldenExpiry))
		r.Renewed = true
		return "a tombstone: the session was renewed"
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		r := goldenRecord()
		comment := records[name](r)
		addText(name, comment, "loaded", string(r.appendStored(nil)))
	}
	r := goldenRecord()
	r.set("k", "1")
	text := string(r.appendStored(nil))
	for name, c := range goldenBroken(text) {
		addText("bad-"+name, c[0], "undecodable", c[1])
	}
	for name, c := range goldenLoose(text) {
		addText("loose-"+name, c[0], "loaded", c[1])
	}
	addText("bad-empty", "nothing", "undecodable", "")
	addText("bad-sealed", "the form of a sealed cookie", "undecodable", string(r.appendSealed(nil)))
	return all
}

func sealedVectors(t *testing.T) []vector {
	return append(sealedVectorsOf(t, ""), sealedVectorsOf(t, "aead")...)
}

// sealedVectorsOf returns those of one codec. What a record can hold is shown with the first one only: it is the same text.
func sealedVectorsOf(t *testing.T, codecName string) (all []vector) {
	first := codecName == ""
	one, two := goldenSecrets[:1], goldenSecrets[1:]
	seal := func(secret []byte, name, plain string) string {
		codec, err := goldenCodecs[codecName](secret)
		require.NoError(t, err)
		sealed, err := codec.Seal(name, []byte(plain))
		require.NoError(t, err)
		return sealed
	}
	addSealed := func(name, comment, cookie string, secrets [][]byte, expect, sealed, plain string) {
		v := vector{name: name, body: sealed}
		v.add("comment", comment)
		v.add("cookie", cookie)
		if !first {
			v.name = codecName + "-" + name
			v.add("codec", codecName)
		}
		for _, s := range secrets {
			v.add("secret", hex.EncodeToString(s))
		}
		v.add("expect", expect)
		if expect == "loaded" {
			r, err := parseSealed(plain)
			require.NoError(t, err, name)
			v.describe(r)
		}
		all = append(all, v)
	}
	for name, edit := range goldenRecords() {
		if !first {
			continue
		}
		r := goldenRecord()
		comment := edit(r)
		plain := string(r.appendSealed(nil))
		addSealed(name, comment, "session", one, "loaded", seal(one[0], "session", plain), plain)
	}
	r := goldenRecord()
	r.set("k", "1")
	plain := string(r.appendSealed(nil))
	for name, c := range goldenBroken(plain) {
		if first && len(c[1]) < 1500 {
			addSealed("bad-"+name, c[0], "session", one, "undecodable", seal(one[0], "session", c[1]), "")
		}
	}
	for name, c := range goldenLoose(plain) {
		if first && len(c[1]) < 1500 {
			addSealed("loose-"+name, c[0], "session", one, "loaded", seal(one[0], "session", c[1]), c[1])
		}
	}
	addSealed("bad-stored", "the form of a record in Redis", "session", one, "undecodable", seal(one[0], "session", string(r.appendStored(nil))), "")
	loose := strings.Replace(plain, testToken, testToken[:21]+"x", 1)
	addSealed("bad-token", "a token with loose bits at its end", "session", one, "undecodable", seal(one[0], "session", loose), "")
	marked := strings.Replace(plain, `",{`, `abcdef",{`, 1)
	addSealed("loose-marks", "marks, which a sealed record does not need", "session", one, "loaded", seal(one[0], "session", marked), marked)
	stone := string(r.tombstone(time.UnixMilli(1700000001000), time.UnixMilli(goldenExpiry)).appendSealed(nil))
	addSealed("tombstone", "a tombstone, which the manager refuses as revoked", "session", one, "loaded", seal(one[0], "session", stone), stone)

	past := goldenRecord()
	past.Expires = time.UnixMilli(1700000001000)
	addSealed("expired-idle", "its idle timeout has passed", "session", one, "expired", seal(one[0], "session", string(past.appendSealed(nil))), "")
	past = goldenRecord()
	past.Deadline = time.UnixMilli(1700000001000)
	addSealed("expired-deadline", "its absolute timeout has passed", "session", one, "expired", seal(one[0], "session", string(past.appendSealed(nil))), "")

	sealed := seal(one[0], "session", plain)
	both := [][]byte{two[0], one[0]}
	addSealed("rotated", "the secret has become the second one", "session", both, "loaded", sealed, plain)
	addSealed("name-host", "another cookie name", "__Host-id", one, "loaded", seal(one[0], "__Host-id", plain), plain)
	addSealed("name-odd", "every kind of character in the name", "!#$%&'*+-.^_`|~", one, "loaded", seal(one[0], "!#$%&'*+-.^_`|~", plain), plain)
	for name, c := range map[string]struct {
		comment, cookie string
		secrets         [][]byte
		sealed          string
	}{
		"dropped-secret": {"its secret is no longer there", "session", two, sealed},
		"wrong-name":     {"sealed for the cookie \"session\"", "session2", one, sealed},
		"flipped-bit":    {"one bit is not as it was", "session", one, sealed[:100] + string(sealed[100]^1) + sealed[101:]},
		"flipped-mac":    {"one bit of the last bytes is not as it was", "session", one, sealed[:len(sealed)-8] + string(sealed[len(sealed)-8]^1) + sealed[len(sealed)-7:]},
		"truncated":      {"the last characters are missing", "session", one, sealed[:len(sealed)-4]},
		"half":           {"the second half is missing", "session", one, sealed[:len(sealed)/2]},
		"longer":         {"something behind it", "session", one, sealed + "AAAA"},
		"line-break":     {"a line break at the end, which base64 would skip", "session", one, sealed + "\n"},
		"quoted":         {"in quotes", "session", one, `"` + sealed + `"`},
		"not-base64":     {"not base64", "session", one, "%%%"},
		"token":          {"a token, as a server-side store gives", "session", one, testToken},
		"plain":          {"a record that is not sealed", "session", one, plain},
		"jwt":            {"a token of another kind", "session", one, "eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9."},
		"high-bytes":     {"bytes that no cookie has", "session", one, "\xff\x00\x01"},
		"4096":           {"as long as a cookie can be", "session", one, strings.Repeat("A", 4096-len("session"))},
	} {
		addSealed("tampered-"+name, c.comment, c.cookie, c.secrets, "tampered", c.sealed, "")
	}
	addSealed("malformed-empty", "nothing", "session", one, "malformed", "", "")
	addSealed("malformed-4097", "longer than a cookie can be", "session", one, "malformed", strings.Repeat("A", 4097-len("session")), "")
	return all
}

// The loader itself: a vector comes back as it was written.
func TestGoldenFormat(t *testing.T) {
	for _, body := range []string{"", "text", " spaces ", "line\nbreak", "\n\n", "\xff\x00", "\u00fc", `"quoted"`} {
		var v vector
		v.add("comment", "c: d")
		v.add("value", "1")
		v.add("value", "2")
		v.body = body
		got, err := parseVector(v.text())
		require.NoError(t, err)
		require.Equal(t, body, got.body)
		require.Equal(t, "c: d", got.get("comment"))
		require.Equal(t, []string{"1", "2"}, got.header["value"])
	}
	for _, text := range []string{"", "comment: x", "comment\n\nbody", "comment: x\nbody: quoted\n\nno quotes"} {
		_, err := parseVector([]byte(text))
		require.Error(t, err, "%q", text)
	}
}
