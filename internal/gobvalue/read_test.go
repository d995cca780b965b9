package gobvalue_test

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/gobvalue"
)

var moment = time.Date(2026, 3, 14, 15, 9, 26, 535897123, time.UTC)

type (
	Prefs struct {
		Theme string
		N     int
	}
	Node struct {
		Name string
		Next *Node
		Kids []*Node
	}
	Empty  struct{}
	Nested []Nested
	Wide   struct {
		Bool   bool
		Small  int8
		Byte   uint8
		Single float32
		Bytes  []byte
		Array  [3]uint16
		Map    map[string]int
		Prefs  Prefs
		Times  []time.Time
		Any    any
		Anys   []any
		Keys   map[int]bool
	}
	Level  int
	Tagged struct {
		Theme string `json:"colour"`
		N     int    `json:"n,omitempty"`
	}
)

func init() {
	for _, x := range []any{
		[]any{}, map[string]any{}, map[string]string{}, map[any]any{}, map[int]string{}, time.Time{}, Prefs{}, &Node{}, Empty{}, Nested{},
		Wide{}, Level(0), Tagged{}, []Empty{}, []Prefs{}, []map[string]any{}, [2]int{}, [3]byte{}, big.NewInt(0), &url.URL{}, map[float64]int{},
		map[bool]int{}, map[uint8]int{}, map[time.Time]int{}, map[Prefs]int{}, map[any]int{}, [0]int{},
	} {
		gob.Register(x)
	}
}

// encode returns what encoding/gob writes for x.
func encode(t testing.TB, x any) []byte {
	t.Helper()
	var stream bytes.Buffer
	require.NoError(t, gob.NewEncoder(&stream).Encode(x))
	return stream.Bytes()
}

// parse returns x after encoding/gob and Parse, as the value of an interface.
func parse(t testing.TB, x any) gobvalue.Value {
	t.Helper()
	v, rest, err := gobvalue.Parse(encode(t, &x))
	require.NoError(t, err)
	require.Empty(t, rest)
	return v
}

func TestParse(t *testing.T) {
	amsterdam := time.FixedZone("", 2*60*60)
	loop := &Node{Name: "a", Next: &Node{Name: "b"}, Kids: []*Node{{Name: "c"}, {}}}
	for _, c := range []struct {
		in   any
		kind gobvalue.Kind
		name string
		json string // empty: no JSON
	}{
		{nil, gobvalue.Nil, "", `null`},
		{true, gobvalue.Bool, "bool", `true`},
		{false, gobvalue.Bool, "bool", `false`},
		{0, gobvalue.Int, "int", `0`},
		{-1, gobvalue.Int, "int", `-1`},
		{int8(-128), gobvalue.Int, "int8", `-128`},
		{int64(math.MinInt64), gobvalue.Int, "int64", `-9223372036854775808`},
		{int64(math.MaxInt64), gobvalue.Int, "int64", `9223372036854775807`},
		{uint64(math.MaxUint64), gobvalue.Uint, "uint64", `18446744073709551615`},
		{uint8(200), gobvalue.Uint, "uint8", `200`},
		{0.0, gobvalue.Float, "float64", `0.0`},
		{math.Copysign(0, -1), gobvalue.Float, "float64", `-0.0`},
		{3.0, gobvalue.Float, "float64", `3.0`},
		{0.1, gobvalue.Float, "float64", `0.1`},
		{1e300, gobvalue.Float, "float64", `1e+300`},
		{math.SmallestNonzeroFloat64, gobvalue.Float, "float64", `5e-324`},
		{float32(0.1), gobvalue.Float, "float32", `0.1`},
		{float32(16777216), gobvalue.Float, "float32", `16777216.0`},
		{math.NaN(), gobvalue.Float, "float64", ``},
		{math.Inf(-1), gobvalue.Float, "float64", ``},
		{1i, gobvalue.Complex, "complex128", ``},
		{"", gobvalue.String, "string", `""`},
		{"Ada \"Løvelace\" \x00", gobvalue.String, "string", `"Ada \"Løvelace\" \u0000"`},
		{"\xff", gobvalue.String, "string", ``},
		{[]byte{0, 255}, gobvalue.Bytes, "[]uint8", `"AP8="`},
		{[]byte(nil), gobvalue.Bytes, "[]uint8", `""`},
		{[]int{1, 2, 3}, gobvalue.List, "[]int", `[1,2,3]`},
		{[]int(nil), gobvalue.List, "[]int", `[]`},
		{[]float64{1, 1.5}, gobvalue.List, "[]float64", `[1.0,1.5]`},
		{[2]int{0, 1}, gobvalue.List, "[2]int", `[0,1]`},
		{[0]int{}, gobvalue.List, "[0]int", `[]`},
		{[3]byte{1, 2, 3}, gobvalue.List, "[3]uint8", `[1,2,3]`},
		{[]any{1, "a", nil, []any{}, 2.5}, gobvalue.List, "[]interface {}", `[1,"a",null,[],2.5]`},
		{map[string]any{"b": 1, "a": nil}, gobvalue.Map, "map[string]interface {}", `{"a":null,"b":1}`},
		{map[string]string{}, gobvalue.Map, "map[string]string", `{}`},
		{map[int]string{10: "x", 9: "y"}, gobvalue.Map, "map[int]string", `{"10":"x","9":"y"}`},
		{map[float64]int{0.5: 1}, gobvalue.Map, "map[float64]int", `{"0.5":1}`},
		{map[bool]int{true: 1}, gobvalue.Map, "map[bool]int", `{"true":1}`},
		{map[time.Time]int{moment: 1}, gobvalue.Map, "map[time.Time]int", `{"2026-03-14T15:09:26.535897123Z":1}`},
		{map[any]any{1: "int", "1": "string"}, gobvalue.Map, "map[interface {}]interface {}", ``},
		{map[any]any{"a": 1, uint(2): 2}, gobvalue.Map, "map[interface {}]interface {}", `{"2":2,"a":1}`},
		{map[Prefs]int{{}: 1}, gobvalue.Map, "map[gobvalue_test.Prefs]int", ``},
		{map[any]int{"\xff": 1}, gobvalue.Map, "map[interface {}]int", ``},
		{Prefs{"dark", 7}, gobvalue.Struct, pkg + "Prefs", `{"Theme":"dark","N":7}`},
		{Prefs{N: 7}, gobvalue.Struct, pkg + "Prefs", `{"N":7}`},
		{Empty{}, gobvalue.Struct, pkg + "Empty", `{}`},
		{[]Empty{{}, {}}, gobvalue.List, "[]gobvalue_test.Empty", `[{},{}]`},
		{loop, gobvalue.Struct, "*gobvalue_test.Node", `{"Name":"a","Next":{"Name":"b"},"Kids":[{"Name":"c"},{}]}`},
		{Nested{{}, {{}}}, gobvalue.List, pkg + "Nested", `[[],[[]]]`},
		{Wide{Bool: true, Small: -1, Byte: 2, Single: 0.5, Bytes: []byte("a"), Array: [3]uint16{1}, Map: map[string]int{"x": 0},
			Prefs: Prefs{N: 1}, Times: []time.Time{moment}, Any: Prefs{Theme: "t"}, Anys: []any{int8(1)}, Keys: map[int]bool{1: true}},
			gobvalue.Struct, pkg + "Wide", `{"Bool":true,"Small":-1,"Byte":2,"Single":0.5,"Bytes":"YQ==","Array":[1,0,0],"Map":{"x":0},"Prefs":{"N":1},` +
				`"Times":["2026-03-14T15:09:26.535897123Z"],"Any":{"Theme":"t"},"Anys":[1],"Keys":{"1":true}}`},
		{Level(2), gobvalue.Int, pkg + "Level", `2`},
		{moment, gobvalue.Time, "time.Time", `"2026-03-14T15:09:26.535897123Z"`},
		{moment.In(amsterdam), gobvalue.Time, "time.Time", `"2026-03-14T17:09:26.535897123+02:00"`},
		{time.Time{}, gobvalue.Time, "time.Time", `"0001-01-01T00:00:00Z"`},
		{moment.In(time.FixedZone("", 20*60-28)), gobvalue.Time, "time.Time", ``},
		{moment.AddDate(9000, 0, 0), gobvalue.Time, "time.Time", ``},
		{big.NewInt(5), gobvalue.Opaque, "*big.Int", ``},
		{&url.URL{Host: "a.example"}, gobvalue.Opaque, "*url.URL", ``},
	} {
		t.Run(fmt.Sprintf("%T", c.in), func(t *testing.T) {
			v := parse(t, c.in)
			require.Equal(t, c.kind, v.Kind())
			require.Equal(t, c.name, v.TypeName())
			got, err := v.JSON()
			if c.json == "" {
				require.Error(t, err)
			} else {
				require.NoError(t, err)
				require.Equal(t, c.json, string(got))
			}

			stream, err := v.Encode()
			require.NoError(t, err)
			var back any
			require.NoError(t, gob.NewDecoder(bytes.NewReader(stream)).Decode(&back))
			var once any
			require.NoError(t, gob.NewDecoder(bytes.NewReader(encode(t, &c.in))).Decode(&once))
			if !reflect.DeepEqual(once, once) {
				return // NaN
			}
			require.Equal(t, once, back)
		})
	}
}

const pkg = "handover.example/sessions/internal/gobvalue_test."

// Time is not time.Time, though its name and its bytes are the same.
type Time struct{ time.Time }

func TestParse_anotherTime(t *testing.T) {
	gob.Register(Time{})
	v := parse(t, Time{moment})
	require.Equal(t, pkg+"Time", v.TypeName())
	require.Equal(t, gobvalue.Opaque, v.Kind())
	_, ok := v.Time()
	require.False(t, ok)
	data, err := v.JSONAs(reflect.TypeFor[Time]())
	require.NoError(t, err)
	require.Equal(t, `"2026-03-14T15:09:26.535897123Z"`, string(data))
}

// The name in the definition counts only where no type name is.
func TestParse_timeNames(t *testing.T) {
	kind := func(in any, name, instead string) gobvalue.Kind {
		stream := encode(t, &in)
		require.Equal(t, 1, bytes.Count(stream, []byte(name)))
		v, _, err := gobvalue.Parse(bytes.Replace(stream, []byte(name), []byte(instead), 1))
		require.NoError(t, err)
		if v.Kind() == gobvalue.Struct {
			v, _ = v.Field("Base")
		}
		return v.Kind()
	}
	type times struct{ Base time.Time }
	gob.Register(times{})
	require.Equal(t, gobvalue.Time, kind(moment, "time.Time", "time.Time"))
	require.Equal(t, gobvalue.Opaque, kind(moment, "time.Time", "main.Time"))
	require.Equal(t, gobvalue.Time, kind(moment, "\x04Time", "\x04Date"))
	require.Equal(t, gobvalue.Time, kind(times{moment}, "\x04Time", "\x04Time"))
	require.Equal(t, gobvalue.Opaque, kind(times{moment}, "\x04Time", "\x04Date"))
}

func TestParse_manyLists(t *testing.T) {
	v := parse(t, []any{make([]any, 100), Nested(make([]Nested, 100))})
	data, err := v.JSON()
	require.NoError(t, err)
	require.Equal(t, 100, bytes.Count(data, []byte("[]")))
}

func TestKeyText(t *testing.T) {
	text, err := gobvalue.StringValue("a").KeyText()
	require.NoError(t, err)
	require.Equal(t, "a", text)
	for _, x := range []any{"\xff", math.NaN(), nil, []int{}, Prefs{}, 1i} {
		_, err := parse(t, x).KeyText()
		require.Error(t, err)
	}
}

func TestEqual(t *testing.T) {
	twice, err := of(t, map[string]any{}).WithEntries([]gobvalue.Entry{
		{Key: gobvalue.StringValue("a"), Value: parse(t, 1)}, {Key: gobvalue.StringValue("a"), Value: parse(t, 1)},
	})
	require.NoError(t, err)
	require.False(t, twice.Equal(twice))
	require.False(t, twice.Equal(of(t, map[string]any{"a": 1, "b": 1})))
	require.False(t, of(t, map[string]any{"a": 1, "b": 1}).Equal(twice))
	require.False(t, parse(t, 1).Equal(parse(t, int64(1))))
	require.False(t, parse(t, moment).Equal(parse(t, moment.In(time.FixedZone("", 3600)))))
	require.False(t, parse(t, Prefs{N: 1}).Equal(parse(t, Prefs{Theme: "a"})))
	require.False(t, of(t, struct{ A int }{1}).Equal(of(t, struct{ B int }{1})))
}

func TestParse_rest(t *testing.T) {
	one := encode(t, 1)
	v, rest, err := gobvalue.Parse(append(one, "tail"...))
	require.NoError(t, err)
	require.Equal(t, gobvalue.Int, v.Kind())
	require.Equal(t, "tail", string(rest))

	longer := append([]byte{one[0] + 2}, append(one[1:], 1, 2)...) // in the message of the value
	_, rest, err = gobvalue.Parse(append(longer, 3))
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2, 3}, rest)
}

// message returns a message of less than 128 bytes.
func message(body ...byte) []byte { return append([]byte{byte(len(body))}, body...) }

// sliceOf defines type 65 as a slice of the type with the encoded number.
func sliceOf(number ...byte) []byte {
	return message(join([]byte{0xff, 0x81, 2, 1, 2, 0xff, 0x82, 0, 1}, number, []byte{0, 0})...)
}

// In a stream, the number of a type is doubled.
const (
	intType       = 2 << 1
	complexType   = 7 << 1
	interfaceType = 8 << 1
)

var id65 = []byte{0xff, 0x82}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var huge = []byte{0xf8, 0x01, 0, 0, 0, 0, 0, 0, 0} // 2^56

func TestParse_hostile(t *testing.T) {
	def65 := []byte{0xff, 0x81}
	structOf := func(fields ...byte) []byte {
		return message(join(def65, []byte{3, 1, 2, 0xff, 0x82, 0, 1}, fields, []byte{0, 0})...)
	}
	for _, c := range []struct {
		name   string
		stream []byte
		err    string
	}{
		{"empty", nil, "cut off"},
		{"an empty message", []byte{0}, "cut off"},
		{"a message that is cut off", []byte{9, 4, 0}, "a message is cut off"},
		{"a huge message", huge, "a message is cut off"},
		{"a number of nine bytes", []byte{0xf7}, "more than 64 bits"},
		{"a number that is cut off", []byte{0xf8, 1}, "a number is cut off"},
		{"no value", sliceOf(intType), "cut off"},
		{"type 0", message(0, 0, 0), "undefined type"},
		{"a reserved type", message(16<<1, 0, 0), "undefined type"},
		{"type 257, which is 1 in a byte", message(0xfe, 2, 2, 0, 1), "undefined type"},
		{"a type that nothing defines", message(0xff, 0x90, 0, 0), "undefined type"},
		{"a type of 2^40", message(0xfa, 2, 0, 0, 0, 0, 0, 0, 0), "impossible number"},
		{"a definition of the smallest number", message(0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0), "impossible number"},
		{"a definition of a reserved number", message(3, 2, 1, 2, 4, 0, 1, 4, 0, 0), "reserved number"},
		{"a definition twice", join(sliceOf(intType), sliceOf(intType)), "twice"},
		{"an empty definition", message(0xff, 0x81, 0), "empty"},
		{"a definition of two types", message(0xff, 0x81, 2, 0, 1, 0, 0), "two types"},
		{"an unknown sort of definition", message(0xff, 0x81, 8, 0, 0), "field that its type has not"},
		{"a definition with a field too many", message(0xff, 0x81, 2, 4, 0, 0), "field that its type has not"},
		{"bytes behind a definition", message(0xff, 0x81, 2, 1, 2, 0xff, 0x82, 0, 1, 4, 0, 0, 9), "bytes follow"},
		{"a field without a name", structOf(1, 2, 4, 0), "impossible name"},
		{"a field with a control character", structOf(1, 1, 1, 7, 1, 4, 0), "impossible name"},
		{"two fields of one name", structOf(2, 1, 1, 'A', 1, 4, 0, 1, 1, 'A', 1, 4, 0), "impossible name"},
		{"more fields than bytes", structOf(join(huge)...), "larger than the stream"},
		{"a field beyond the type", join(structOf(1, 1, 1, 'A', 1, 4, 0), message(join(id65, []byte{2, 2, 0})...)), "field that its type has not"},
		{"a field number that overflows", join(structOf(1, 1, 1, 'A', 1, 4, 0), message(join(id65, []byte{1, 2, 0xf8}, bytes.Repeat([]byte{0xff}, 8))...)), "field that its type has not"},
		{"a struct without an end", join(structOf(1, 1, 1, 'A', 1, 4, 0), message(join(id65, []byte{1, 2})...)), "cut off"},
		{"a field number before a value", message(4, 1, 2), "field number"},
		{"more elements than bytes", join(sliceOf(intType), message(join(id65, []byte{0}, huge)...)), "larger than the stream"},
		{"one element more than bytes", join(sliceOf(intType), message(join(id65, []byte{0, 3, 2, 2})...)), "larger than the stream"},
		{"2^56 empty structs", join(message(join(def65, []byte{2, 1, 2, 0xff, 0x82, 0, 1, 0xff, 0x84, 0, 0})...),
			message(0xff, 0x83, 3, 1, 2, 0xff, 0x84, 0, 0, 0), message(join(id65, []byte{0}, huge)...)), "larger than the stream"},
		{"2^56 bytes", message(join([]byte{10, 0}, huge)...), "a string is cut off"},
		{"a list that needs the bytes of another", join(sliceOf(id65...), message(join(id65, []byte{0, 4, 3, 0, 0, 0, 0, 0})...)), "larger than the stream"},
		{"an array of another length", join(message(join(def65, []byte{1, 1, 2, 0xff, 0x82, 0, 1, 4, 1, 4, 0, 0})...), message(join(id65, []byte{0, 1, 2})...)), "not the length"},
		{"an interface in an interface", message(16, 0, 1, 'a', 16, 3, 0, 1, 'b'), "is an interface"},
		{"a type name with a line break", message(16, 0, 1, '\n', 4, 2, 0, 0), "impossible name"},
		{"a type name that is not UTF-8", message(16, 0, 1, 0xff, 4, 2, 0, 0), "impossible name"},
		{"a list of itself, too deep", join(sliceOf(id65...), message(join(id65, []byte{0}, bytes.Repeat([]byte{1}, 70))...)), "too deep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := gobvalue.Parse(c.stream)
			require.ErrorContains(t, err, c.err)
		})
	}
	many := []byte{}
	for i := range 1001 {
		n := 2*(65+i) - 1
		many = append(many, message(0xfe, byte(n>>8), byte(n), 2, 1, 0, 1, intType, 0, 0)...)
	}
	_, _, err := gobvalue.Parse(join(many, message(intType, 0, 2)))
	require.ErrorContains(t, err, "too many types")

	long := bytes.Repeat([]byte{'A'}, 129)
	name := func(n int) []byte { return join([]byte{0xfe, byte(n >> 8), byte(n)}, bytes.Repeat([]byte{'A'}, n)) }
	body := join([]byte{interfaceType, 0}, name(1025), []byte{intType, 2, 0, 0})
	_, _, err = gobvalue.Parse(join([]byte{0xfe, byte(len(body) >> 8), byte(len(body))}, body))
	require.ErrorContains(t, err, "impossible name")
	body = join(def65, []byte{3, 1, 2, 0xff, 0x82, 0, 1, 1, 1}, name(len(long)), []byte{1, 4, 0, 0, 0})
	_, _, err = gobvalue.Parse(join([]byte{0xfe, byte(len(body) >> 8), byte(len(body))}, body))
	require.ErrorContains(t, err, "impossible name")
}

// Every prefix of a stream, and every stream with one byte changed, is read or refused.
func TestParse_damaged(t *testing.T) {
	for _, g := range goldenStreams(t)[:3] {
		for n := range g.Stream {
			_, _, err := gobvalue.Parse(g.Stream[:n])
			require.Error(t, err)
			for _, b := range []byte{0, 1, 0x7f, 0x80, 0xf8, 0xff, g.Stream[n] + 1, g.Stream[n] - 1} {
				damaged := bytes.Clone(g.Stream)
				damaged[n] = b
				exercise(t, damaged)
			}
		}
	}
}

// exercise calls all that reads a value of untrusted bytes. None may panic, and a value that is read can be written.
func exercise(t testing.TB, stream []byte) {
	v, _, err := gobvalue.Parse(stream)
	if err != nil {
		require.NotContains(t, err.Error(), "gob: ")
		return
	}
	if !v.Equal(v) {
		return // a map with a key twice, or with keys that are lists
	}
	_, _ = v.JSON()
	_, _ = v.KeyText()
	again, err := v.Encode()
	if err != nil {
		require.ErrorContains(t, err, "does not define a type")
		return
	}
	w, rest, err := gobvalue.Parse(again)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.True(t, v.Equal(w))
}

func TestParse_memory(t *testing.T) {
	const size = 4 << 10
	pad := func(stream []byte, fill byte) []byte {
		return append(stream, bytes.Repeat([]byte{fill}, size-len(stream))...)
	}
	count := func(n int) []byte { return []byte{0xfe, byte(n >> 8), byte(n)} }
	big := func(body []byte) []byte { return join(count(len(body)), body) }
	rest := func(head []byte, n int, b byte) []byte { return big(join(head, count(n), bytes.Repeat([]byte{b}, n))) }
	var definitions, structs []byte
	for i := range 400 {
		n := 2*(65+i) - 1
		definitions = append(definitions, message(0xfe, byte(n>>8), byte(n), 2, 1, 0, 0, 0)...)
	}
	fields := []byte{}
	for i := range 500 {
		fields = append(fields, join([]byte{1, 2, byte('A' + i%26), byte('A' + i/26), 1, 4, 0})...)
	}
	structs = big(join([]byte{0xff, 0x81, 3, 1, 2, 0xff, 0x82, 0, 1}, count(500), fields, []byte{0, 0}))
	for name, stream := range map[string][]byte{
		"ints":            join(sliceOf(intType), rest(join(id65, []byte{0}), 4000, 2)),
		"nils":            join(sliceOf(interfaceType), rest(join(id65, []byte{0}), 4000, 0)),
		"complex numbers": join(sliceOf(complexType), big(join(id65, []byte{0}, count(2000), bytes.Repeat([]byte{0}, 4000)))),
		"empty lists":     join(sliceOf(id65...), rest(join(id65, []byte{0}), 4000, 0)),
		"lists of many":   join(sliceOf(id65...), big(join(id65, []byte{0}, bytes.Repeat(count(60), 60), make([]byte, 3800)))),
		"definitions":     definitions,
		"fields":          join(structs, make([]byte, 100)),
		"zeros":           pad(nil, 0),
		"large counts":    pad(join(sliceOf(id65...), []byte{0xfe, 0x0f, 0x00}, id65, []byte{0}), 0xfe),
		"interfaces":      join(sliceOf(interfaceType), big(join(id65, []byte{0}, count(500), bytes.Repeat([]byte{1, 'a', 12, 3, 0, 1, 'b'}, 500)))),
		"one string":      join([]byte{0xfe, 0x0f, 0xa5, 12, 0}, count(4000), bytes.Repeat([]byte{'a'}, 4000)),
		"long field names": join(big(join([]byte{0xff, 0x81, 3, 1, 2, 0xff, 0x82, 0, 1, 1, 1}, count(128), bytes.Repeat([]byte{'A'}, 128), []byte{1, 4, 0, 0, 0})),
			message(0xff, 0x83, 2, 1, 2, 0xff, 0x84, 0, 1, 0xff, 0x82, 0, 0),
			big(join([]byte{0xff, 0x84, 0}, count(1250), bytes.Repeat([]byte{1, 2, 0}, 1250)))),
		"many fields": nil,
	} {
		if stream == nil { // a struct of 200 fields, all set, again and again
			f := fields[:200*7]
			body := join([]byte{0}, count(6), bytes.Repeat(join(bytes.Repeat([]byte{1, 2}, 200), []byte{0}), 6))
			stream = join(
				big(join([]byte{0xff, 0x81, 3, 1, 2, 0xff, 0x82, 0, 1}, count(200), f, []byte{0, 0})),
				message(0xff, 0x83, 2, 1, 2, 0xff, 0x84, 0, 1, 0xff, 0x82, 0, 0),
				big(join([]byte{0xff, 0x84}, body)))
		}
		t.Run(name, func(t *testing.T) {
			require.Less(t, len(stream), size+100)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			v, _, err := gobvalue.Parse(stream)
			_, _ = v.JSON()
			_, _ = v.Encode()
			runtime.ReadMemStats(&after)
			allocated := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes for %d, %v, %v", allocated, len(stream), v.Kind(), err)
			require.Less(t, allocated, uint64(1<<20))
		})
	}
}
