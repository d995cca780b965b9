package gobvalue_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/gobvalue"
)

func TestFromJSON(t *testing.T) {
	named := gobvalue.Named
	map64 := map[string]any{"n": int64(1), "f": 2.0, "list": []any{int8(1)}, "at": moment, "raw": []byte("a")}
	for _, c := range []struct {
		json string
		t    any // a value of the type
		was  gobvalue.Value
		want any // an error: its text
	}{
		// Nothing is known.
		{json: `null`, want: nil},
		{json: `"a"`, want: "a"},
		{json: ` true `, want: true},
		{json: `7`, want: 7},
		{json: `-0`, want: 0},
		{json: `7.0`, want: 7.0},
		{json: `7e2`, want: 700.0},
		{json: `0.1`, want: 0.1},
		{json: `9223372036854775807`, want: math.MaxInt64},
		{json: `9223372036854775808`, want: errorText("does not fit type int exactly")},
		{json: `0.30000000000000000004`, want: errorText("does not fit type float64 exactly")},
		{json: `1e400`, want: errorText("does not fit type float64 exactly")},
		{json: `1e-400`, want: errorText("does not fit type float64 exactly")},
		{json: `[1,"a",null,[2.5],{}]`, want: []any{1, "a", nil, []any{2.5}, map[string]any{}}},
		{json: `{"a":{"b":1}}`, want: map[string]any{"a": map[string]any{"b": 1}}},
		{json: `[9223372036854775808]`, want: errorText("does not fit type int exactly")},
		{json: ``, want: errorText("not JSON")},
		{json: `{"a"`, want: errorText("not JSON")},
		{json: "\"\xff\"", want: errorText("not JSON")},
		{json: strings.Repeat("[", 100) + strings.Repeat("]", 100), want: errorText("nested too deeply")},

		// The type of the earlier value is known.
		{json: `7`, was: named("int64"), want: int64(7)},
		{json: `7`, was: named("float64"), want: 7.0},
		{json: `127`, was: named("int8"), want: int8(127)},
		{json: `128`, was: named("int8"), want: errorText("does not fit type int8 exactly")},
		{json: `-1`, was: named("uint"), want: errorText("does not fit type uint exactly")},
		{json: `1.5`, was: named("int"), want: errorText("does not fit type int exactly")},
		{json: `18446744073709551615`, was: named("uint64"), want: uint64(math.MaxUint64)},
		{json: `9007199254740993`, was: named("float64"), want: errorText("does not fit type float64 exactly")},
		{json: `9007199254740992`, was: named("float64"), want: 9007199254740992.0},
		{json: `100000000000000000000`, was: named("float64"), want: 1e20},
		{json: `16777217`, was: named("float32"), want: errorText("does not fit type float32 exactly")},
		{json: `0.1`, was: named("float32"), want: float32(0.1)},
		{json: `1e39`, was: named("float32"), want: errorText("does not fit type float32 exactly")},
		{json: `"YQ=="`, was: named("[]uint8"), want: []byte("a")},
		{json: `"?"`, was: named("[]uint8"), want: errorText("does not fit")},
		{json: `"2026-03-14T15:09:26.535897123Z"`, was: named("time.Time"), want: moment},
		{json: `"yesterday"`, was: named("time.Time"), want: errorText("does not fit type time.Time")},
		{json: `[1,2]`, was: named("[]int"), want: []int{1, 2}},
		{json: `[1,null]`, was: named("[]int"), want: errorText("null does not fit type int")},
		{json: `["a"]`, was: named("[]int"), want: errorText("does not fit type int exactly")},
		{json: `["a"]`, was: named("[]string"), want: []string{"a"}},
		{json: `["a"]`, was: named("[]interface {}"), want: []any{"a"}},
		{json: `{"a":"b"}`, was: named("map[string]string"), want: map[string]string{"a": "b"}},
		{json: `{"a":1}`, was: named("map[string]string"), want: errorText("does not fit")},
		{json: `null`, was: named("[]int"), want: nil},
		{json: `"a"`, was: named("int"), want: "a"}, // the handlers store something else now
		{json: `["a"]`, was: named("time.Time"), want: []any{"a"}},
		{json: `{"Theme":"a"}`, was: named("main.Prefs"), want: errorText("has type main.Prefs: its Go type must be given")},
		{json: `1`, was: named("main.Level"), want: errorText("has type main.Level")},
		{json: `null`, was: named("main.Prefs"), want: nil},

		// The earlier value is known.
		{json: `{"n":2,"f":3,"list":[1,2],"at":"2026-03-14T15:09:26.535897123Z","raw":"YQ==","new":3}`, was: parse(t, map64),
			want: map[string]any{"n": int64(2), "f": 3.0, "list": []any{int8(1), int8(2)}, "at": moment, "raw": []byte("a"), "new": 3}},
		{json: `{"list":"gone","n":2.5}`, was: parse(t, map64), want: errorText("does not fit type int64 exactly")},
		{json: `{"list":"gone"}`, was: parse(t, map64), want: map[string]any{"list": "gone"}},
		{json: `[2,"b",3]`, was: parse(t, []any{uint8(1), "a"}), want: []any{uint8(2), "b", 3}},
		{json: `[{}]`, was: parse(t, []any{Prefs{}}), want: errorText("Prefs: its Go type must be given")},
		{json: `[]`, was: parse(t, []any{}), want: []any{}},

		// The type is given.
		{json: `{"Theme":"dark","N":7}`, t: Prefs{}, want: Prefs{"dark", 7}},
		{json: `{"theme":"dark"}`, t: Prefs{}, want: Prefs{Theme: "dark"}},
		{json: `{"Theme":"dark","X":7}`, t: Prefs{}, want: errorText("does not fit type gobvalue_test.Prefs")},
		{json: `{"N":"secret"}`, t: Prefs{}, want: errorText("does not fit field N of type gobvalue_test.Prefs")},
		{json: `{"Small":300}`, t: Wide{}, want: errorText("does not fit field Small of type gobvalue_test.Wide")},
		{json: `null`, t: Prefs{}, want: errorText("null does not fit type gobvalue_test.Prefs")},
		{json: `null`, t: &Prefs{}, want: errorText("null does not fit type *gobvalue_test.Prefs")},
		{json: `{"Theme":"dark"}`, t: &Prefs{}, want: &Prefs{Theme: "dark"}},
		{json: `null`, t: []int{}, want: []int(nil)},
		{json: `2`, t: Level(0), want: Level(2)},
		{json: `2`, t: 0, was: named("int64"), want: 2},
		{json: `[1,2]`, t: [2]int{}, want: [2]int{1, 2}},
		{json: `[1]`, t: [2]int{}, want: errorText("length of the value does not fit type [2]int")},
		{json: `{"1":"a"}`, t: map[int]string{}, want: map[int]string{1: "a"}},
		{json: `[{"a":1,"b":1.5}]`, t: []map[string]any{}, want: []map[string]any{{"a": 1, "b": 1.5}}},
		{json: `12345678901234567890123`, t: &big.Int{}, want: bigInt("12345678901234567890123")},
		{json: `{"colour":"red","n":1}`, t: Tagged{}, want: Tagged{"red", 1}},
	} {
		t.Run(fmt.Sprintf("%.40s %T %s", c.json, c.t, c.was.TypeName()), func(t *testing.T) {
			var of reflect.Type
			if c.t != nil {
				of = reflect.TypeOf(c.t)
			}
			got, err := gobvalue.FromJSON([]byte(c.json), of, c.was)
			if text, ok := c.want.(errorText); ok {
				require.ErrorContains(t, err, string(text))
				require.NotContains(t, err.Error(), "secret")
				require.NotContains(t, err.Error(), "yesterday")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

type errorText string

func bigInt(s string) *big.Int {
	i, _ := new(big.Int).SetString(s, 10)
	return i
}

func TestJSONAs(t *testing.T) {
	for _, c := range []struct {
		in   any
		as   any
		json string // or an error
	}{
		{Tagged{"red", 0}, Tagged{}, `{"colour":"red"}`},
		{Prefs{"dark", 7}, Prefs{}, `{"Theme":"dark","N":7}`},
		{Prefs{N: 7}, &Prefs{}, `{"Theme":"","N":7}`},
		{big.NewInt(1 << 62), &big.Int{}, `4611686018427387904`},
		{3.0, 0.0, `3.0`},
		{int64(3), 0, `3`},
		{Level(3), Level(0), `3`},
		{nil, []int{}, `null`},
		{nil, 0, `null`},
		{Prefs{Theme: "\xff"}, Prefs{}, "a string is not UTF-8"},
		{Wide{Times: []time.Time{moment.In(time.FixedZone("", 30))}}, Wide{}, "seconds in their offset"},
		{"a", 0, "a value of type string does not fit type int"},
		{int64(300), int8(0), "a value of type int64 does not fit type int8"},
		{math.NaN(), Level(0), "a value of type float64 does not fit"},
		{[]Prefs{{N: 1}}, []Prefs{}, `[{"Theme":"","N":1}]`},
		{Wide{Any: math.NaN()}, Wide{}, "JSON cannot represent values of type gobvalue_test.Wide"},
	} {
		t.Run(fmt.Sprintf("%T as %T", c.in, c.as), func(t *testing.T) {
			got, err := parse(t, c.in).JSONAs(reflect.TypeOf(c.as))
			if !json.Valid([]byte(c.json)) {
				require.ErrorContains(t, err, c.json)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.json, string(got))
		})
	}
	got, err := parse(t, 1).JSONAs(nil)
	require.NoError(t, err)
	require.Equal(t, "1", string(got))
}

func TestCheckType(t *testing.T) {
	type (
		unregistered struct{ A int }
		hidden       struct {
			A int
			B string `json:"-"`
		}
		embedded struct {
			Base
			Name string
		}
		anyField struct {
			Kept string
			Lost any
		}
		private struct {
			//lint:ignore U1000 a field that gob does not see
			a int
		}
		channel struct {
			A int
			C chan int
		}
		clash struct {
			Base
			Other
		}
	)
	for _, x := range []any{hidden{}, embedded{}, anyField{}, channel{}, clash{}, (*Sealed)(nil), Recursive{}, []*Recursive{}, map[string]*Recursive{}, uuid{}} {
		gob.Register(x)
	}
	for _, c := range []struct {
		x   any
		err string
	}{
		{nil, "nil has no type"},
		{1, ""},
		{[]byte{}, ""},
		{[]any{}, ""},
		{map[string]any{}, ""},
		{map[int]string{}, ""},
		{time.Time{}, ""},
		{Prefs{}, ""},
		{&Prefs{}, ""},
		{Tagged{}, ""},
		{Level(0), ""},
		{[]map[string]any{}, ""},
		{[2]int{}, ""},
		{&big.Int{}, ""},
		{Recursive{}, ""},
		{[]*Recursive{}, ""},
		{map[string]*Recursive{}, ""},
		{uuid{}, ""},
		{unregistered{}, "gobvalue_test.unregistered is not registered with encoding/gob"},
		{map[string]int{}, "map[string]int is not registered"},
		{private{}, "private"},
		{hidden{}, "JSON changes values of type gobvalue_test.hidden: its field B"},
		{embedded{}, ""},
		{anyField{}, "JSON changes values of type gobvalue_test.anyField: its field Lost"},
		{channel{}, "JSON cannot represent values of type gobvalue_test.channel"},
		{clash{}, "JSON changes values of type gobvalue_test.clash: its field Base"},
		{&url.URL{}, "url.URL has its own encoding for gob, but none for JSON"},
		{&Sealed{}, "gobvalue_test.Sealed has its own encoding for gob, but none for JSON"},
		{1i, "JSON cannot represent values of type complex128"},
		{func() {}, "func()"},
	} {
		t.Run(fmt.Sprintf("%T", c.x), func(t *testing.T) {
			err := gobvalue.CheckType(c.x)
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.err)
			}
		})
	}
}

type (
	Base   struct{ Group string }
	Other  struct{ Group string }
	Sealed struct{ secret string }
	uuid   [16]byte

	Recursive struct {
		Name string
		Next *Recursive
		Kids []*Recursive
		By   map[string]*Recursive
	}
)

func (s *Sealed) GobEncode() ([]byte, error)   { return []byte(s.secret), nil }
func (s *Sealed) GobDecode(b []byte) error     { s.secret = string(b); return nil }
func (u uuid) MarshalBinary() ([]byte, error)  { return u[:], nil }
func (u *uuid) UnmarshalBinary(b []byte) error { copy(u[:], b); return nil }
func (u uuid) MarshalText() ([]byte, error)    { return fmt.Appendf(nil, "%x", u[:]), nil }
func (u *uuid) UnmarshalText(b []byte) error {
	_, err := hex.Decode(u[:], b)
	return err
}

func TestCheckRestorable(t *testing.T) {
	for _, c := range []struct {
		in  any
		as  any
		err string
	}{
		{map[string]any{"a": int64(1), "b": []any{1.0, 2.5}, "c": moment, "d": []byte{1}, "e": nil}, nil, ""},
		{map[int]string{1: "a"}, nil, "map[int]string: its Go type must be given"},
		{map[int]string{1: "a"}, map[int]string{}, ""},
		{map[any]any{"a": 1}, nil, "map[interface {}]interface {}: its"},
		{map[string]any{"a": map[any]any{}}, nil, "map[interface {}]interface {}: its"},
		{Prefs{"a", 1}, nil, "Prefs: its"},
		{Prefs{"a", 1}, Prefs{}, ""},
		{Wide{Map: map[string]int{"a": 1}, Any: 1}, Wide{}, "is not the same after JSON"},
		{[]any{1i}, nil, "no complex numbers"},
		{[]any{[]any{1, int8(2)}}, nil, ""},
		{"\xff", nil, "not UTF-8"},
		{moment.In(time.FixedZone("", 3600)), nil, ""},
	} {
		t.Run(fmt.Sprintf("%T", c.in), func(t *testing.T) {
			var of reflect.Type
			if c.as != nil {
				of = reflect.TypeOf(c.as)
			}
			err := parse(t, c.in).CheckRestorable(of)
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.err)
			}
		})
	}
	var stranger any = Prefs{}
	stream := bytes.Replace(encode(t, &stranger), []byte(pkg+"Prefs"), []byte(pkg+"Frefs"), 1)
	v, _, err := gobvalue.Parse(stream)
	require.NoError(t, err)
	require.ErrorContains(t, v.CheckRestorable(reflect.TypeFor[Prefs]()), "is not the same after JSON")
}

// nil values, as the old libraries see them.
func TestNil(t *testing.T) {
	stream := encode(t, map[any]any{"nil": nil, "empty": []int(nil), "map": map[string]any(nil), "list": []any{nil}})
	v, _, err := gobvalue.Parse(stream)
	require.NoError(t, err)
	data, err := v.JSON()
	require.NoError(t, err)
	require.Equal(t, `{"empty":[],"list":[null],"map":{},"nil":null}`, string(data))

	var old map[any]any
	require.NoError(t, gob.NewDecoder(bytes.NewReader(stream)).Decode(&old))
	require.Equal(t, map[any]any{"nil": nil, "empty": []int(nil), "map": map[string]any{}, "list": []any{nil}}, old)

	null, err := gobvalue.FromJSON([]byte("null"), nil, gobvalue.Value{})
	require.NoError(t, err)
	none, err := gobvalue.Of(&null)
	require.NoError(t, err)
	require.Equal(t, gobvalue.Nil, none.Kind())
	m, err := v.WithEntries([]gobvalue.Entry{{gobvalue.StringValue("nil"), none}})
	require.NoError(t, err)
	stream, err = m.Encode()
	require.NoError(t, err)
	old = nil
	require.NoError(t, gob.NewDecoder(bytes.NewReader(stream)).Decode(&old))
	require.Equal(t, map[any]any{"nil": nil}, old)
}
