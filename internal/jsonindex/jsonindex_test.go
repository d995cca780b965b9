package jsonindex

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	entries, rest, err := Parse(`{"a":1,"b":{"x":[1,2,"}"]},"c\u0041":"q\"","a":true}tail`)
	require.NoError(t, err)
	require.Equal(t, "tail", rest)
	require.Equal(t, []Entry{{"a", "true"}, {"b", `{"x":[1,2,"}"]}`}, {"cA", `"q\""`}}, entries)
}

func TestParseManyKeysKeepsTheLastOfEach(t *testing.T) {
	var b strings.Builder
	b.WriteByte('{')
	for i := range 500 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"k%d":%d`, i%100, i)
	}
	b.WriteByte('}')
	entries, _, err := Parse(b.String())
	require.NoError(t, err)
	require.Len(t, entries, 100)
	for i, e := range entries {
		require.Equal(t, fmt.Sprintf("k%d", i), e.Key)
		require.Equal(t, fmt.Sprint(400+i), e.Raw)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, src := range []string{
		``, ` `, `[]`, `"a"`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a":01}`, `{"a":1.}`,
		`{"a":-}`, `{"a":1e}`, `{"a":tru}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, "{\"a\":\"\n\"}", `{"a":[1,]}`, `{"a":[1 2]}`,
		`{"a":{"b"}}`, `{"a":{"b":1,}}`, `{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	} {
		_, _, err := Parse(src)
		require.ErrorIs(t, err, ErrSyntax, "%.40q", src)
	}
}

// A value that encoding/json makes must be read again, however it is nested.
func TestParseReadsWhatCanBeSet(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + "1" + strings.Repeat("]", n) }
	require.True(t, json.Valid([]byte(nested(10000))))
	require.False(t, json.Valid([]byte(nested(10001))))
	_, _, err := Parse(`{"a":` + nested(10000) + `}`)
	require.NoError(t, err)
	_, _, err = Parse(`{"a":` + nested(10001) + `}`)
	require.ErrorIs(t, err, ErrSyntax)
	_, _, err = Parse(`{"a":` + strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000) + `}`)
	require.NoError(t, err)
}

// Keys that are not UTF-8 are read as encoding/json reads them, so that writing them again does not change them.
func TestParseKeysThatAreNotUTF8(t *testing.T) {
	entries, _, err := Parse("{\"\xff\":1,\"a\xfe\":2,\"\xfe\":3}")
	require.NoError(t, err)
	require.Equal(t, []Entry{{"\ufffd", "3"}, {"a\ufffd", "2"}}, entries)
}

// FuzzParse holds the index against encoding/json: both take the same texts and see the same members.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, ` { "a" : [1, {"b":null}] , "\u0041":"x" } `, `{"a":1e5,"b":-0.1}`, `{"a":"\ud800"}`, "{\"\xff\":1}"} {
		f.Add(s)
	}
	f.Add(`{"a":"\\`) // texts that end inside something
	f.Add(`{"a":"\\u00`)
	f.Add(`{"a":[{"b":[`)
	f.Add(`{"a":-`)
	f.Add(`{"\ud83d\ude00":"\ud83d","\u0000":"","":0}{"rest":1}`)
	f.Add(`{"a":1E+5,"a":2,"\u0061":3.0}`)
	f.Fuzz(func(t *testing.T, src string) {
		entries, rest, err := Parse(src)
		var want map[string]json.RawMessage
		if err != nil {
			if json.Unmarshal([]byte(src), &want) == nil && want != nil {
				t.Fatalf("encoding/json takes %q, Parse does not", src)
			}
			return
		}
		text := src[:len(src)-len(rest)]
		if strings.Count(text, "[")+strings.Count(text, "{") > maxDepth {
			return // the depth of each value is limited here, and not that of the whole
		}
		if uerr := json.Unmarshal([]byte(text), &want); uerr != nil {
			t.Fatalf("Parse takes %q, encoding/json says %v", text, uerr)
		}
		if len(want) != len(entries) {
			t.Fatalf("%q: %d members, want %d", text, len(entries), len(want))
		}
		for _, e := range entries {
			if string(want[e.Key]) != e.Raw {
				t.Fatalf("%q: member %q is %q, want %q", text, e.Key, e.Raw, want[e.Key])
			}
		}
	})
}

// Eight bytes at a time or one by one: the same is found, wherever it stands and whatever is around it.
func TestPlain(t *testing.T) {
	for _, fill := range []byte{' ', '!', '#', '[', ']', 'a', '~', 0x7f, 0x80, 0xa2, 0xdc, 0xff} {
		for n := range 40 {
			text := bytes.Repeat([]byte{fill}, n)
			for from := range n + 1 {
				require.Equal(t, n, plain(string(text), from))
			}
			for at := range n {
				for _, special := range []byte{0, 1, '\n', 0x1f, '"', '\\'} {
					for _, next := range []byte{fill, special, 0x1f, 0x80} {
						s := bytes.Clone(text)
						s[at] = special
						if at+1 < n {
							s[at+1] = next
						}
						for from := range at + 1 {
							require.Equal(t, at, plain(string(s), from), "%q from %d", s, from)
						}
					}
				}
			}
		}
	}
}
