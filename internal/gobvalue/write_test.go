package gobvalue_test

import (
	"bytes"
	"encoding/gob"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/gobvalue"
)

func of(t testing.TB, x any) gobvalue.Value {
	t.Helper()
	v, err := gobvalue.Of(x)
	require.NoError(t, err)
	return v
}

func entries(values ...gobvalue.Value) (all []gobvalue.Entry) {
	for i, v := range values {
		all = append(all, gobvalue.Entry{Key: gobvalue.StringValue(string(rune('a' + i))), Value: v})
	}
	return all
}

func TestEncode_deterministic(t *testing.T) {
	m, err := of(t, map[string]any{}).WithEntries(entries(parse(t, 1), parse(t, moment), parse(t, []int{1})))
	require.NoError(t, err)
	one, err := m.Encode()
	require.NoError(t, err)
	two, err := m.Encode()
	require.NoError(t, err)
	require.Equal(t, one, two)
}

// Values of several streams have their types defined once each.
func TestEncode_definitions(t *testing.T) {
	many := []gobvalue.Value{}
	for range 20 {
		many = append(many, parse(t, moment), parse(t, Prefs{N: 1}), parse(t, &Node{Name: "a"}), parse(t, []map[string]any{{"a": moment}}))
	}
	m, err := of(t, map[string]any{}).WithEntries(entries(many...))
	require.NoError(t, err)
	stream, err := m.Encode()
	require.NoError(t, err)
	require.Equal(t, 1+20+20, bytes.Count(stream, []byte("Time")), "one definition, and a type name for each time")
	require.Equal(t, 1, bytes.Count(stream, []byte("Theme")))
	var out map[string]any
	require.NoError(t, gob.NewDecoder(bytes.NewReader(stream)).Decode(&out))
	require.Len(t, out, 80)
	require.Equal(t, moment, out["a"])
	require.Equal(t, Prefs{N: 1}, out["b"])
}

func TestEncode_misplaced(t *testing.T) {
	replace := func(in any, v gobvalue.Value) error {
		m, err := of(t, in).WithEntries(entries(v))
		require.NoError(t, err)
		_, err = m.Encode()
		return err
	}
	require.NoError(t, replace(map[string]int{}, of(t, 1)))
	require.NoError(t, replace(map[string]int{}, parse(t, int8(1)))) // the same in the stream
	require.NoError(t, replace(map[string]any{}, gobvalue.Value{}))
	require.ErrorContains(t, replace(map[string]int{}, gobvalue.Value{}), "does not have the type of its place")
	require.ErrorContains(t, replace(map[string]int{}, parse(t, "a")), "a value of type string does not have")
	require.ErrorContains(t, replace(map[string]Prefs{}, parse(t, moment)), "a value of type time.Time does not have")
	require.ErrorContains(t, replace(map[string]any{}, of(t, 1)), "a value of kind int has no type name")
	require.ErrorContains(t, replace(map[int]any{}, parse(t, 1)), "a value of type string does not have")

	require.ErrorContains(t, replace(map[string][]int{}, parse(t, []string{"a"})), "a value of type []string does not have")

	undefined, _, err := gobvalue.Parse(join(sliceOf(0xff, 0x90), message(0xff, 0x82, 0, 0))) // a list of none
	require.NoError(t, err)
	_, err = undefined.Encode()
	require.ErrorContains(t, err, "does not define a type")

	deep := of(t, map[string]any{})
	for range 70 {
		var in any = map[string]any{}
		m, err := of(t, &in).WithEntries(entries(deep))
		require.NoError(t, err)
		deep = m
	}
	_, err = deep.Encode()
	require.ErrorContains(t, err, "nested too deeply")

	_, err = of(t, 1).WithEntries(nil)
	require.ErrorContains(t, err, "a value of kind int has no entries")
	_, err = of(t, 1).WithField("A", gobvalue.Value{})
	require.ErrorContains(t, err, "has no fields")
	_, err = of(t, Prefs{}).WithField("A", gobvalue.Value{})
	require.ErrorContains(t, err, "no field A")
}

func TestWithField(t *testing.T) {
	before := of(t, Prefs{Theme: "dark"})
	after, err := before.WithField("N", of(t, 7))
	require.NoError(t, err)
	after, err = after.WithField("Theme", of(t, "light"))
	require.NoError(t, err)
	require.True(t, after.Equal(of(t, Prefs{"light", 7})))
	require.True(t, before.Equal(of(t, Prefs{Theme: "dark"})))
	_, err = after.WithField("N", of(t, 8))
	require.NoError(t, err)
	require.True(t, after.Equal(of(t, Prefs{"light", 7})))

	// The arrays of two results from one value are not shared.
	type letters struct{ A, B, C, D, E int }
	three := of(t, letters{A: 1, B: 1, C: 1})
	d, err := three.WithField("D", of(t, 1))
	require.NoError(t, err)
	_, err = three.WithField("E", of(t, 1))
	require.NoError(t, err)
	require.True(t, d.Equal(of(t, letters{A: 1, B: 1, C: 1, D: 1})))
	_, ok := before.Field("N")
	require.False(t, ok)
	_, ok = of(t, 1).Field("N")
	require.False(t, ok)

	stream, err := after.Encode()
	require.NoError(t, err)
	var out Prefs
	require.NoError(t, gob.NewDecoder(bytes.NewReader(stream)).Decode(&out))
	require.Equal(t, Prefs{"light", 7}, out)
}
