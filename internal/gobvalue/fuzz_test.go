package gobvalue_test

import (
	"bytes"
	"encoding/gob"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/gobvalue"
)

// FuzzParse reads anything. If encoding/gob can decode it as well, both read the same.
func FuzzParse(f *testing.F) {
	for _, g := range goldenStreams(f) {
		f.Add(g.Stream)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		f.Add(encode(f, map[string]any{"a": value(r, 2), "b": value(r, 2)}))
	}
	f.Add(encode(f, Wide{Any: []any{Prefs{N: 1}}, Anys: []any{moment, nil}}))
	f.Add(encode(f, Node{Name: "a", Next: &Node{}}))
	f.Add(encode(f, Nested{{}, {{}}}))
	f.Add(encode(f, []Empty{{}, {}}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v, _, err := gobvalue.Parse(stream)
		runtime.ReadMemStats(&after)
		require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(256*len(stream)+64<<10))
		exercise(t, stream)
		if err != nil || !v.Equal(v) {
			return // encoding/gob may allocate any amount for a count that Parse refuses
		}
		// encoding/gob rounds what is not a float32, and drops fields that the Go type has not.
		for _, name := range []string{"float32", "complex64", "main.Prefs", "gobvalue_test."} {
			if bytes.Contains(stream, []byte(name)) {
				return
			}
		}
		for _, out := range []any{new(map[string]any), new(map[any]any), new([]any), new(any)} {
			if gob.NewDecoder(bytes.NewReader(stream)).Decode(out) != nil {
				continue
			}
			w, err := gobvalue.Of(out)
			require.NoError(t, err)
			require.True(t, v.Equal(w), "%#v", out)
		}
	})
}

// FuzzRoundTrip makes values from the bytes. Each comes back as it was.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		in := throughGob(t, value(r, 4))
		out := roundTrip(t, in, nil, func(v gobvalue.Value) gobvalue.Value { return v })
		require.True(t, same(t, in, out), "%#v\n%#v", in, out)
	})
}
