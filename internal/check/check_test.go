package check

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsNil(t *testing.T) {
	var slice []int
	for _, v := range []any{nil, (*int)(nil), (func())(nil), http.HandlerFunc(nil), map[string]int(nil), slice, (chan int)(nil)} {
		require.True(t, IsNil(v), "%T", v)
	}
	for _, v := range []any{0, "", new(int), func() {}, map[string]int{}, []int{}, struct{}{}} {
		require.False(t, IsNil(v), "%T", v)
	}
}

func TestMistakes(t *testing.T) {
	m := Mistakes{New: func(field, reason string) error { return errors.New(field + ": " + reason) }}
	require.NoError(t, m.Join())
	m.Add("A", "%d is wrong", 1)
	m.Add("B", "required")
	require.EqualError(t, m.Join(), "A: 1 is wrong\nB: required")
}
