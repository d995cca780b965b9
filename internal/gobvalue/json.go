package gobvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// JSON returns v as JSON. The result is the same for equal values:
//
//   - Integers are exact. Floats have the fewest digits that give the same number, and always a fraction or an
//     exponent, so that 3.0 does not come back as an integer.
//   - A [Time] is what [time.Time.MarshalJSON] returns, [Bytes] are base64, a [List] is an array.
//   - A [Struct] is an object with the Go names of its fields. Fields that are zero are missing, as in the stream.
//   - A [Map] is an object with [Value.KeyText] as names, in the order of the names.
//
// It is an error if JSON cannot represent v exactly: a float that is infinite or not a number, a string that is not
// UTF-8, a time with seconds in its offset or a year of five digits, two keys of one text, and each value of kind
// [Complex] or [Opaque].
func (v Value) JSON() ([]byte, error) { return v.appendJSON(nil) }

func (v Value) appendJSON(b []byte) ([]byte, error) {
	switch v.kind {
	case Nil:
		return append(b, "null"...), nil
	case Bool:
		return strconv.AppendBool(b, v.num != 0), nil
	case Int:
		return strconv.AppendInt(b, int64(v.num), 10), nil
	case Uint:
		return strconv.AppendUint(b, v.num, 10), nil
	case Float:
		return v.appendFloat(b)
	case Bytes:
		return appendMarshaled(b, []byte(v.text))
	case String:
		return appendString(b, v.text)
	case Time:
		text, err := v.timeText()
		if err != nil {
			return nil, err
		}
		return appendString(b, text)
	case List:
		return v.appendList(b)
	case Map:
		return v.appendMap(b)
	case Struct:
		return v.appendStruct(b)
	case Complex:
		return nil, errors.New("JSON has no complex numbers")
	default:
		return nil, fmt.Errorf("only the Go type can read %s", v.describe())
	}
}

// KeyText returns a key of a map as text: the string itself, or a number, bool or time as JSON has it. Other kinds have
// none. A key that is not a string cannot be told from a string with its text.
func (v Value) KeyText() (string, error) {
	switch v.kind {
	case String:
		if !utf8.ValidString(v.text) {
			return "", errNotUTF8
		}
		return v.text, nil
	case Bool, Int, Uint, Float:
		b, err := v.appendJSON(nil)
		return string(b), err
	case Time:
		return v.timeText()
	default:
		return "", fmt.Errorf("JSON has no keys of kind %s", v.kind)
	}
}

var errNotUTF8 = errors.New("a string is not UTF-8")

func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, errNotUTF8
	}
	return appendMarshaled(b, s)
}

func appendMarshaled(b []byte, x any) ([]byte, error) {
	text, err := json.Marshal(x)
	return append(b, text...), err
}

func (v Value) appendFloat(b []byte) ([]byte, error) {
	f := math.Float64frombits(v.num)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("JSON has no number for a float that is infinite or not a number")
	}
	var x any = f
	if f32 := float32(f); v.name == "float32" && float64(f32) == f {
		x = f32
	}
	start := len(b)
	b, err := appendMarshaled(b, x)
	if !bytes.ContainsAny(b[start:], ".e") {
		b = append(b, ".0"...)
	}
	return b, err
}

func (v Value) timeText() (string, error) {
	t, ok := v.Time()
	_, offset := t.Zone()
	if !ok || offset%60 != 0 {
		return "", errors.New("JSON has no times with seconds in their offset from UTC")
	}
	text, err := t.MarshalText()
	if err != nil {
		return "", errors.New("a time is not in the range of RFC 3339")
	}
	return string(text), nil
}

func (v Value) appendList(b []byte) ([]byte, error) {
	b = append(b, '[')
	for i, e := range v.elems {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = e.appendJSON(b); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func (v Value) appendStruct(b []byte) ([]byte, error) {
	b = append(b, '{')
	for i, f := range v.elems {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, v.def.fields[f.field].name...) // an identifier
		var err error
		if b, err = f.appendJSON(append(b, `":`...)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func (v Value) appendMap(b []byte) ([]byte, error) {
	type member struct {
		name  string
		value Value
	}
	members := make([]member, 0, len(v.elems)/2)
	for e := range v.Entries() {
		text, err := e.Key.KeyText()
		if err != nil {
			return nil, err
		}
		members = append(members, member{text, e.Value})
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	b = append(b, '{')
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
			if members[i-1].name == m.name {
				return nil, errors.New("two keys of a map have the same text")
			}
		}
		var err error
		if b, err = appendString(b, m.name); err != nil {
			return nil, err
		}
		if b, err = m.value.appendJSON(append(b, ':')); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// describe returns the type of v for an error.
func (v Value) describe() string {
	switch {
	case v.name != "":
		return "a value of type " + v.name
	case v.def != nil && v.def.name != "":
		return "a value of type " + v.def.name
	default:
		return "a value of kind " + v.kind.String()
	}
}
