// Package texttable writes tables of two columns for a terminal. What it writes holds no control characters: texts from
// elsewhere, such as those of a server, can neither move the cursor nor pretend to be another line.
package texttable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Table is the rows of a table: a name and a value each. A row that continues the one above has no name.
type Table [][2]string

// Row adds a row. Both texts are made [Printable].
func (t *Table) Row(name, format string, args ...any) {
	*t = append(*t, [2]string{Printable(name), Printable(fmt.Sprintf(format, args...))})
}

// String returns the aligned rows, one line per row.
func (t Table) String() string { return t.Wrapped(0) }

// Wrapped returns the aligned rows in lines of this width, with long values broken between words; a width of 0 is no
// limit.
func (t Table) Wrapped(width int) string {
	left := 0
	for _, row := range t {
		left = max(left, utf8.RuneCountInString(row[0]))
	}
	indent := strings.Repeat(" ", left+2)
	var b strings.Builder
	for _, row := range t {
		b.WriteString(row[0])
		b.WriteString(indent[utf8.RuneCountInString(row[0]):])
		b.WriteString(Wrap(row[1], indent, width)[len(indent):])
		b.WriteByte('\n')
	}
	return b.String()
}

// Wrap breaks a text into lines of this width that begin with the indent; a width of 0 is no limit. A word is never
// broken.
func Wrap(text, indent string, width int) string {
	if width <= 0 {
		return indent + text
	}
	var b strings.Builder
	b.WriteString(indent)
	column := len(indent)
	for i, word := range strings.Split(text, " ") {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// Printable returns the text with everything escaped that is not a letter, a mark, a number, punctuation, a symbol or a
// space: control characters, invalid UTF-8, and what changes the direction of writing. JSON in one line stays the same
// JSON. A text that is printable is returned as it is.
func Printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r != utf8.RuneError && unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b.String()
}
