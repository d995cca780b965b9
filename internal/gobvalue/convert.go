package gobvalue

import (
	"bytes"
	"encoding"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// plainTypes are the Go types that a type name is enough for, by the name that [gob.Register] gives them.
var plainTypes = func() map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for _, x := range []any{
		false, "", time.Time{}, float32(0), float64(0),
		int(0), int8(0), int16(0), int32(0), int64(0), uint(0), uint8(0), uint16(0), uint32(0), uint64(0), uintptr(0),
		[]bool{}, []string{}, []byte{}, []float32{}, []float64{},
		[]int{}, []int8{}, []int16{}, []int32{}, []int64{}, []uint{}, []uint16{}, []uint32{}, []uint64{}, []uintptr{},
		[]any{}, map[string]any{}, map[string]string{},
	} {
		t := reflect.TypeOf(x)
		m[t.String()] = t
	}
	return m
}()

var (
	anyType   = reflect.TypeFor[any]()
	bytesType = reflect.TypeFor[[]byte]()
	timeType  = reflect.TypeFor[time.Time]()
)

// Of returns the tree of what encoding/gob writes for x. As with [gob.Encoder.Encode], the value has a type name if x
// is a pointer to an interface: for a value of a session, pass a pointer to an any.
func Of(x any) (Value, error) {
	var stream bytes.Buffer
	if err := gob.NewEncoder(&stream).Encode(x); err != nil {
		return Value{}, err
	}
	v, _, err := Parse(stream.Bytes())
	return v, err
}

// JSONAs returns v as [encoding/json] writes it if v has the Go type t: with the JSON names of fields, and with what
// types with methods for JSON write. So it can also read values of kind [Opaque]. With t nil, it is [Value.JSON].
func (v Value) JSONAs(t reflect.Type) ([]byte, error) {
	if t == nil || t == plainTypes[v.name] {
		return v.JSON()
	}
	if v.kind == Nil {
		return []byte("null"), nil
	}
	if err := v.checkText(); err != nil {
		return nil, err
	}
	stored := v.describe()
	v.name = "" // so that the type needs no registration
	stream, err := v.Encode()
	if err != nil {
		return nil, err
	}
	x := reflect.New(t)
	if err := gob.NewDecoder(bytes.NewReader(stream)).DecodeValue(x); err != nil {
		return nil, fmt.Errorf("%s does not fit type %s", stored, t)
	}
	data, err := json.Marshal(x.Elem().Interface())
	if err != nil {
		return nil, fmt.Errorf("JSON cannot represent values of type %s", t)
	}
	return data, nil
}

// checkText returns an error for what encoding/json changes without one: strings that are not UTF-8, and times.
func (v Value) checkText() error {
	if v.kind == String || v.kind == Time {
		_, err := v.KeyText()
		return err
	}
	for _, e := range v.elems {
		if err := e.checkText(); err != nil {
			return err
		}
	}
	return nil
}

// FromJSON returns the value of data in the Go type that the other library's handlers expect, for encoding/gob or [Of].
// With t nil, it is the type that was has, the value which the new one replaces: Value{} if there was none, [Named] if
// only its type is known. Inside a map[string]any or []any, the elements of was tell the types in the same way. An
// element that was not there, or was of another form than now, gets a plain type:
//
//   - a string string, true and false bool, null a nil interface
//   - a number int, or float64 if it has a fraction or an exponent
//   - an array []any, an object map[string]any
//
// It is an error if the value would change: a number that does not fit the type or would lose digits, an array of
// another length than the type, a field that the struct has not, null for a type that cannot be nil. Without t, it is
// also an error if was has a type that is not among those of the basic kinds, their slices, []any, map[string]any,
// map[string]string and time.Time.
//
// encoding/gob writes a nil interface as such, and the other library reads nil. A nil slice or map becomes an empty one
// of its type.
func FromJSON(data []byte, t reflect.Type, was Value) (any, error) {
	if !json.Valid(data) || !utf8.Valid(data) {
		return nil, errors.New("the value is not JSON in UTF-8")
	}
	if t == nil {
		t = anyType
	}
	out := reflect.New(t).Elem()
	if err := assign(out, bytes.TrimSpace(data), was, maxDepth); err != nil {
		return nil, err
	}
	return out.Interface(), nil
}

// assign sets out to the value of data.
func assign(out reflect.Value, data []byte, was Value, depth int) error {
	t := out.Type()
	switch {
	case t == anyType:
		return assignAny(out, data, was, depth)
	case string(data) == "null":
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			return nil
		}
		return fmt.Errorf("null does not fit type %s", t)
	case marshals[json.Unmarshaler](t) || marshals[encoding.TextUnmarshaler](t):
		return unmarshal(out, data)
	case depth == 0:
		return errors.New("the value is nested too deeply")
	}
	ok := false
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(string(data), 10, t.Bits())
		out.SetInt(i)
		ok = err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		u, err := strconv.ParseUint(string(data), 10, t.Bits())
		out.SetUint(u)
		ok = err == nil
	case reflect.Float32, reflect.Float64:
		var f float64
		f, ok = parseFloat(string(data), t.Bits())
		out.SetFloat(f)
	case reflect.Slice, reflect.Array:
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
			return unmarshal(out, data) // base64
		}
		return assignList(out, data, was, depth-1)
	case reflect.Map:
		if t.Key().Kind() != reflect.String || marshals[encoding.TextUnmarshaler](t.Key()) {
			return unmarshal(out, data)
		}
		return assignMap(out, data, was, depth-1)
	case reflect.Pointer:
		out.Set(reflect.New(t.Elem()))
		return assign(out.Elem(), data, was, depth-1)
	default:
		return unmarshal(out, data)
	}
	if !ok {
		return fmt.Errorf("the value does not fit type %s exactly", t)
	}
	return nil
}

func assignAny(out reflect.Value, data []byte, was Value, depth int) error {
	if string(data) == "null" {
		return nil
	}
	t, known := plainTypes[was.name]
	if was.name != "" && !known {
		return fmt.Errorf("the stored value has type %s: its Go type must be given", was.name)
	}
	if plain := plainType(data); !known || form(t) != form(plain) {
		t = plain
	}
	x := reflect.New(t).Elem()
	if err := assign(x, data, was, depth); err != nil {
		return err
	}
	out.Set(x)
	return nil
}

// plainType returns the type for JSON of which nothing else is known.
func plainType(data []byte) reflect.Type {
	var x any
	switch data[0] {
	case '"':
		x = ""
	case 't', 'f':
		x = false
	case '[':
		x = []any{}
	case '{':
		x = map[string]any{}
	default:
		if x = 0; bytes.ContainsAny(data, ".eE") {
			x = 0.0
		}
	}
	return reflect.TypeOf(x)
}

// form returns the kind of Go type that stands for all of the plain types with the same form in JSON.
func form(t reflect.Type) reflect.Kind {
	switch {
	case t == timeType || t == bytesType:
		return reflect.String
	case t.ConvertibleTo(reflect.TypeFor[float64]()):
		return reflect.Float64
	default:
		return t.Kind()
	}
}

func assignList(out reflect.Value, data []byte, was Value, depth int) error {
	var elems []json.RawMessage
	if json.Unmarshal(data, &elems) != nil {
		return fmt.Errorf("the value does not fit type %s", out.Type())
	}
	if out.Kind() == reflect.Slice {
		out.Set(reflect.MakeSlice(out.Type(), len(elems), len(elems)))
	}
	if out.Len() != len(elems) {
		return fmt.Errorf("the length of the value does not fit type %s", out.Type())
	}
	for i, e := range elems {
		var old Value
		if n := len(was.elems); was.kind == List && n > 0 {
			old = was.elems[min(i, n-1)] // a new one is like the last one
		}
		if err := assign(out.Index(i), e, old, depth); err != nil {
			return err
		}
	}
	return nil
}

func assignMap(out reflect.Value, data []byte, was Value, depth int) error {
	var elems map[string]json.RawMessage
	if json.Unmarshal(data, &elems) != nil {
		return fmt.Errorf("the value does not fit type %s", out.Type())
	}
	old := make(map[string]Value, len(was.elems)/2)
	for e := range was.Entries() {
		if e.Key.kind == String {
			old[e.Key.text] = e.Value
		}
	}
	t := out.Type()
	out.Set(reflect.MakeMapWithSize(t, len(elems)))
	for name, e := range elems {
		x := reflect.New(t.Elem()).Elem()
		if err := assign(x, e, old[name], depth); err != nil {
			return err
		}
		out.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), x)
	}
	return nil
}

func unmarshal(out reflect.Value, data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(out.Addr().Interface())
	if typeErr := (*json.UnmarshalTypeError)(nil); errors.As(err, &typeErr) && typeErr.Field != "" {
		return fmt.Errorf("the value does not fit field %s of type %s", typeErr.Field, out.Type())
	}
	if err != nil {
		return fmt.Errorf("the value does not fit type %s", out.Type())
	}
	return nil
}

// parseFloat reports whether number is what a float of that many bits is written as, in any notation.
func parseFloat(number string, bits int) (f float64, ok bool) {
	f, err := strconv.ParseFloat(number, bits)
	if err != nil {
		return 0, false
	}
	// JSON has a float32 in the digits of a float64 if it was inside another value.
	want := decimal(number)
	return f, decimal(strconv.FormatFloat(f, 'e', -1, bits)) == want || decimal(strconv.FormatFloat(f, 'e', -1, 64)) == want
}

// decimal returns a number in the one form d.ddde±n, without zeros at the ends of the digits.
func decimal(number string) string {
	number, negative := strings.CutPrefix(number, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	e, err := strconv.Atoi(exponent)
	if err != nil {
		e = 0
	}
	e += len(whole) - (len(whole+fraction) - len(digits))
	if digits = strings.TrimRight(digits, "0"); digits == "" {
		e = 0
	}
	return fmt.Sprint(negative, digits, "e", e)
}

// marshals reports whether values of type t that can be addressed implement the interface.
func marshals[I any](t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[I]())
}
