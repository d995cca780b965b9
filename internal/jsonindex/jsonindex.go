// Package jsonindex finds the members of a JSON object without decoding them.
//
// Most requests read only one key of a session, however many it has. Parse scans the text once, checks that it is valid
// JSON, and records where each member is; the values remain text.
package jsonindex

import (
	"encoding/json"
	"errors"
	"hash/maphash"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// Entry is one member of an object: its decoded key, and its value as it is in the text.
type Entry struct{ Key, Raw string }

// ErrSyntax means that the text is not a JSON object. It contains nothing of the text, which may be secret.
var ErrSyntax = errors.New("not a JSON object")

// maxDepth is the nesting depth that encoding/json accepts for a single value.
const maxDepth = 10000

// Parse indexes the JSON object at the start of src and returns what follows it. Of two members with the same key, the
// last one wins, as in encoding/json. The entries share the memory of src.
func Parse(src string) (entries []Entry, rest string, err error) {
	i := space(src, 0)
	if i >= len(src) || src[i] != '{' {
		return nil, "", ErrSyntax
	}
	i = space(src, i+1)
	if i < len(src) && src[i] == '}' {
		return nil, src[i+1:], nil
	}
	entries = make([]Entry, 0, min(4+len(src)/64, 256))
	seen := keySet{entries: &entries}
	for {
		keyStart := i
		if i = str(src, i); i < 0 {
			return nil, "", ErrSyntax
		}
		key := src[keyStart+1 : i-1]
		if strings.IndexByte(key, '\\') >= 0 || !utf8.ValidString(key) { // encoding/json replaces bytes that are not UTF-8
			if key, err = decode(src[keyStart:i]); err != nil {
				return nil, "", ErrSyntax
			}
		}
		i = space(src, i)
		if i >= len(src) || src[i] != ':' {
			return nil, "", ErrSyntax
		}
		valueStart := space(src, i+1)
		if i = value(src, valueStart, 1); i < 0 {
			return nil, "", ErrSyntax
		}
		seen.put(Entry{key, src[valueStart:i]})
		i = space(src, i)
		if i >= len(src) {
			return nil, "", ErrSyntax
		}
		switch src[i] {
		case ',':
			i = space(src, i+1)
		case '}':
			return entries, src[i+1:], nil
		default:
			return nil, "", ErrSyntax
		}
	}
}

// decode is a separate function so that keys which need no decoding do not escape to the heap.
func decode(quoted string) (key string, err error) {
	err = json.Unmarshal([]byte(quoted), &key)
	return key, err
}

// keySet appends entries, and replaces an earlier entry with the same key. It compares a few members one by one; for
// many it uses a hash table, so that the time does not grow with the square of their number. A map would take as long
// as the rest of Parse, and is not needed afterwards.
type keySet struct {
	entries *[]Entry
	slots   []uint32 // open addressing: the index of an entry plus one, or 0
}

const scanLimit = 32

// seed differs in each process, so that no client can choose keys that collide.
var seed = maphash.MakeSeed()

func (k *keySet) put(e Entry) {
	list := *k.entries
	if k.slots == nil && len(list) < scanLimit {
		for i := range list {
			if list[i].Key == e.Key {
				list[i] = e
				return
			}
		}
		*k.entries = append(list, e)
		return
	}
	if 2*len(list) >= len(k.slots) {
		k.slots = make([]uint32, max(8*scanLimit, 4*len(k.slots)))
		for i := range list {
			*k.slot(list[i].Key) = uint32(i + 1)
		}
	}
	at := k.slot(e.Key)
	if *at != 0 {
		list[*at-1] = e
		return
	}
	*at = uint32(len(list) + 1)
	*k.entries = append(list, e)
}

// slot returns the slot of a key, or the free slot where it belongs. At most half of the slots are in use.
func (k *keySet) slot(key string) *uint32 {
	mask := uint64(len(k.slots) - 1)
	for at := maphash.String(seed, key) & mask; ; at = (at + 1) & mask {
		if i := k.slots[at]; i == 0 || (*k.entries)[i-1].Key == key {
			return &k.slots[at]
		}
	}
}

// The scanners below take the index at which an element starts, and return the index after it, or -1.

func space(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r') {
		i++
	}
	return i
}

func value(s string, i, depth int) int {
	if i < 0 || i >= len(s) {
		return -1
	}
	switch c := s[i]; {
	case c == '"':
		return str(s, i)
	case (c == '{' || c == '[') && depth > maxDepth:
		return -1
	case c == '{':
		return object(s, i, depth)
	case c == '[':
		return array(s, i, depth)
	case c == 't':
		return literal(s, i, "true")
	case c == 'f':
		return literal(s, i, "false")
	case c == 'n':
		return literal(s, i, "null")
	default:
		return number(s, i)
	}
}

func object(s string, i, depth int) int {
	if i = space(s, i+1); i < len(s) && s[i] == '}' {
		return i + 1
	}
	for {
		if i = str(s, i); i < 0 {
			return -1
		}
		if i = space(s, i); i >= len(s) || s[i] != ':' {
			return -1
		}
		if i = value(s, space(s, i+1), depth+1); i < 0 {
			return -1
		}
		if i = space(s, i); i >= len(s) {
			return -1
		}
		if s[i] == '}' {
			return i + 1
		}
		if s[i] != ',' {
			return -1
		}
		i = space(s, i+1)
	}
}

func array(s string, i, depth int) int {
	if i = space(s, i+1); i < len(s) && s[i] == ']' {
		return i + 1
	}
	for {
		if i = value(s, i, depth+1); i < 0 {
			return -1
		}
		if i = space(s, i); i >= len(s) {
			return -1
		}
		if s[i] == ']' {
			return i + 1
		}
		if s[i] != ',' {
			return -1
		}
		i = space(s, i+1)
	}
}

func str(s string, i int) int {
	if i >= len(s) || s[i] != '"' {
		return -1
	}
	for i = plain(s, i+1); i < len(s); i = plain(s, i+1) {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			i++
			if i >= len(s) {
				return -1
			}
			switch s[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(s) {
					return -1
				}
				for _, h := range []byte(s[i+1 : i+5]) {
					if !(h >= '0' && h <= '9' || h >= 'a' && h <= 'f' || h >= 'A' && h <= 'F') {
						return -1
					}
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

// plain skips bytes other than quotes, backslashes and control characters, eight at a time. Most of a record is such
// text. If a byte of w is less than n, w - n*ones borrows from its highest bit. The borrow may also change later bytes,
// but the first byte that shows it is less than n.
func plain(s string, i int) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(s); i += 8 {
		w := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		quote, slash := w^'"'*ones, w^'\\'*ones
		if found := ((w-' '*ones)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & high; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(s) && s[i] >= ' ' && s[i] != '"' && s[i] != '\\' {
		i++
	}
	return i
}

func literal(s string, i int, word string) int {
	if strings.HasPrefix(s[i:], word) {
		return i + len(word)
	}
	return -1
}

func number(s string, i int) int {
	if i < len(s) && s[i] == '-' {
		i++
	}
	switch {
	case i < len(s) && s[i] == '0':
		i++
	case i < len(s) && s[i] >= '1' && s[i] <= '9':
		i = digits(s, i)
	default:
		return -1
	}
	if i < len(s) && s[i] == '.' {
		start := i + 1
		if i = digits(s, start); i == start {
			return -1
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		start := i
		if i = digits(s, start); i == start {
			return -1
		}
	}
	return i
}

func digits(s string, i int) int {
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return i
}
