package jsonindex

import (
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

// FuzzParse holds the index against encoding/json: both take the same texts and see the same members.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, ` { "a" : [1, {"b":null}] , "\u0041":"x" } `, `{"a":1e5,"b":-0.1}`, `{"a":"\ud800"}`, "{\"\xff\":1}"} {
		f.Add(s)
	}
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
		if uerr := json.Unmarshal([]byte(text), &want); uerr != nil {
			t.Fatalf("Parse takes %q, encoding/json says %v", text, uerr)
		}
		if strings.ToValidUTF8(text, "") != text {
			return // encoding/json replaces invalid bytes in keys, so the keys differ
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
