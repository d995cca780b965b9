package texttable

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	var table Table
	require.Empty(t, table.String())
	table.Row("name", "%d of %s", 1, "two")
	table.Row("größer", "é")
	table.Row("", "goes on")
	table.Row("empty", "")
	const want = "" +
		"name    1 of two\n" +
		"größer  é\n" +
		"        goes on\n" +
		"empty   \n"
	require.Equal(t, want, table.String())
	require.Equal(t, want, table.Wrapped(80))
	require.Equal(t, [2]string{"name", "1 of two"}, table[0])
}

func TestWrapped(t *testing.T) {
	for _, c := range []struct {
		value string
		width int
		want  string
	}{
		{"one two three", 0, "a  one two three\n"},
		{"one two three", 16, "a  one two three\n"},
		{"one two three", 15, "a  one two\n   three\n"},
		{"one two three", 6, "a  one\n   two\n   three\n"},
		{"one two three", 1, "a  one\n   two\n   three\n"},
		{"ééé ééé", 10, "a  ééé ééé\n"},
		{"", 10, "a  \n"},
	} {
		require.Equal(t, c.want, Table{{"a", c.value}}.Wrapped(c.width), "%+v", c)
	}
	for line := range strings.Lines(Table{{"name", strings.Repeat("word ", 60)}}.Wrapped(100)) {
		require.LessOrEqual(t, len(line), 101)
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "",
		"plain, é 日本 😀":        "plain, é 日本 😀",
		`{"a":"\u001b"}`:       `{"a":"\u001b"}`,
		"\x1b[31mred":          `\u001b[31mred`,
		"\u009b31m":            `\u009b31m`, // the same in one character
		"a\r\nb\tc\x00\x07\b":  `a\u000d\u000ab\u0009c\u0000\u0007\u0008`,
		"\x7f":                 `\u007f`,
		"\u202eleft\u2066":     `\u202eleft\u2066`,
		"\u2028\u200b\ufeff":   `\u2028\u200b\ufeff`,
		"\xff\xc0":             `\ufffd\ufffd`,
		"\U000e0001":           `\udb40\udc01`,
		"no-break\u00a0spaces": `no-break\u00a0spaces`,
	} {
		require.Equal(t, want, Printable(text))
		require.Equal(t, want, Printable(want), "once is enough")
	}
	const nasty = "\"a\x1b[31m\u202e\U000e0001é 日本 b\""
	var back string
	require.NoError(t, json.Unmarshal([]byte(Printable(nasty)), &back))
	require.Equal(t, "a\x1b[31m\u202e\U000e0001é 日本 b", back, "JSON stays the same JSON")
}

func FuzzTable(f *testing.F) {
	f.Add("name", "value\x1b]0;title\x07", 10)
	f.Add("\n", "\u009b", 0)
	f.Fuzz(func(t *testing.T, name, value string, width int) {
		var table Table
		table.Row(name, "%s", value)
		text := table.Wrapped(width)
		for _, r := range text {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("%q in %q", r, text)
			}
		}
	})
}
