package gobvalue_test

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/gobvalue"
)

// makers make random values of the types that need no entry in a table of types.
var makers = []func(r *rand.Rand) any{
	func(r *rand.Rand) any { return r.IntN(2) == 0 },
	func(r *rand.Rand) any { return text(r) },
	func(r *rand.Rand) any { return at(r) },
	func(r *rand.Rand) any { return int(number(r)) },
	func(r *rand.Rand) any { return int8(number(r)) },
	func(r *rand.Rand) any { return int16(number(r)) },
	func(r *rand.Rand) any { return int32(number(r)) },
	func(r *rand.Rand) any { return int64(number(r)) },
	func(r *rand.Rand) any { return uint(number(r)) },
	func(r *rand.Rand) any { return uint8(number(r)) },
	func(r *rand.Rand) any { return uint16(number(r)) },
	func(r *rand.Rand) any { return uint32(number(r)) },
	func(r *rand.Rand) any { return uint64(number(r)) },
	func(r *rand.Rand) any { return uintptr(number(r)) },
	func(r *rand.Rand) any { return float32(fraction(r)) },
	func(r *rand.Rand) any { return fraction(r) },
	func(r *rand.Rand) any { return []byte(text(r)) },
	func(r *rand.Rand) any { return list(r, text) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) bool { return r.IntN(2) == 0 }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) int { return int(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) int8 { return int8(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) int16 { return int16(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) int32 { return int32(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) int64 { return int64(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) uint { return uint(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) uint16 { return uint16(number(r)) }) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) uint32 { return uint32(number(r)) }) },
	func(r *rand.Rand) any { return list(r, number) },
	func(r *rand.Rand) any { return list(r, func(r *rand.Rand) float32 { return float32(fraction(r)) }) },
	func(r *rand.Rand) any { return list(r, fraction) },
	func(r *rand.Rand) any {
		m := map[string]string{}
		for range r.IntN(4) {
			m[text(r)] = text(r)
		}
		return m
	},
}

func number(r *rand.Rand) uint64 { return r.Uint64() >> r.IntN(64) }

func fraction(r *rand.Rand) float64 {
	for {
		f := math.Float64frombits(r.Uint64())
		if r.IntN(2) == 0 {
			f = float64(r.IntN(1000)) / float64(1+r.IntN(100))
		}
		if !math.IsNaN(f) && math.Abs(f) <= math.MaxFloat32 {
			return f
		}
	}
}

func text(r *rand.Rand) string {
	runes := make([]rune, r.IntN(12))
	for i := range runes {
		runes[i] = []rune{'a', 'Z', '0', '"', '\\', '<', 0, '\n', 'é', '\u2028', '😀', '\ufffd'}[r.IntN(12)]
	}
	return string(runes)
}

func at(r *rand.Rand) time.Time {
	t := time.Unix(r.Int64N(1<<33), r.Int64N(1e9)).UTC()
	if r.IntN(2) == 0 {
		t = t.In(time.FixedZone("", 60*(1+r.IntN(14*60))))
	}
	return t
}

func list[T any](r *rand.Rand, element func(*rand.Rand) T) []T {
	var l []T // nil if it is empty, as encoding/gob decodes it
	for range r.IntN(5) {
		l = append(l, element(r))
	}
	return l
}

// value makes a random value, which may hold others.
func value(r *rand.Rand, depth int) any {
	if depth > 0 && r.IntN(3) == 0 {
		if r.IntN(2) == 0 {
			return list(r, func(r *rand.Rand) any { return value(r, depth-1) })
		}
		m := map[string]any{}
		for range r.IntN(5) {
			m[text(r)] = value(r, depth-1)
		}
		return m
	}
	if r.IntN(len(makers)+1) == 0 {
		return nil
	}
	return makers[r.IntN(len(makers))](r)
}

// roundTrip returns in after all steps: encoding/gob, Parse, JSON, FromJSON, encoding/gob.
func roundTrip(t testing.TB, in any, of reflect.Type, was func(gobvalue.Value) gobvalue.Value) any {
	t.Helper()
	v := parse(t, in)
	data, err := v.JSONAs(of)
	require.NoError(t, err)
	x, err := gobvalue.FromJSON(data, of, was(v))
	require.NoError(t, err, string(data))
	return throughGob(t, x)
}

func throughGob(t testing.TB, x any) any {
	t.Helper()
	var out map[any]any
	require.NoError(t, gob.NewDecoder(bytes.NewReader(encode(t, map[any]any{"key": x}))).Decode(&out))
	return out["key"]
}

// same is reflect.DeepEqual, but times are equal if the instant and the offset are.
func same(t testing.TB, want, got any) bool {
	t.Helper()
	v, w := parse(t, want), parse(t, got)
	return v.Equal(w) && (reflect.DeepEqual(want, got) || containsTime(want))
}

func containsTime(x any) bool { return bytes.Contains(fmt.Appendf(nil, "%#v", x), []byte("time.Date")) }

func TestRoundTrip(t *testing.T) {
	earlier := func(v gobvalue.Value) gobvalue.Value { return v }
	name := func(v gobvalue.Value) gobvalue.Value { return gobvalue.Named(v.TypeName()) }
	none := func(gobvalue.Value) gobvalue.Value { return gobvalue.Value{} }
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		in := throughGob(t, value(r, 3))
		if out := roundTrip(t, in, nil, earlier); !same(t, in, out) {
			t.Fatalf("%#v\n%#v", in, out)
		}
		require.NoError(t, parse(t, in).CheckRestorable(nil))
	}
	for range 200 {
		for _, make := range makers {
			in := throughGob(t, make(r))
			if out := roundTrip(t, in, nil, name); !same(t, in, out) {
				t.Fatalf("%#v\n%#v", in, out)
			}
			if out := roundTrip(t, in, reflect.TypeOf(in), none); !same(t, in, out) {
				t.Fatalf("%#v\n%#v", in, out)
			}
			// What nothing is known about: the value alone decides.
			switch in.(type) {
			case string, bool, int, float64:
				if out := roundTrip(t, in, nil, none); !same(t, in, out) {
					t.Fatalf("%#v\n%#v", in, out)
				}
			}
		}
	}
	for range 500 {
		in := throughGob(t, Wide{
			Bool: r.IntN(2) == 0, Small: int8(number(r)), Byte: uint8(number(r)), Single: float32(fraction(r)), Bytes: []byte(text(r)),
			Array: [3]uint16{uint16(number(r))}, Map: map[string]int{text(r): int(number(r))}, Prefs: Prefs{text(r), int(number(r))},
			Times: list(r, at), Keys: map[int]bool{int(number(r)): true},
		})
		if out := roundTrip(t, in, reflect.TypeOf(in), none); !same(t, in, out) {
			t.Fatalf("%#v\n%#v", in, out)
		}
	}
}
