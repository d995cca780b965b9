package sessions_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// The AEAD codec is there because its cookies are a quarter shorter.
func TestAEADIsShorter(t *testing.T) {
	for _, n := range []int{100, 183, 500, 2000} {
		plain := bytes.Repeat([]byte("x"), n)
		older, err := codecWith(t, secretA).Seal("session", plain)
		require.NoError(t, err)
		shorter, err := codecKind(sessions.NewAEADCodec).with(t, secretA).Seal("session", plain)
		require.NoError(t, err)
		require.LessOrEqual(t, float64(len(shorter)), 0.75*float64(len(older)), "%d bytes: %d and %d", n, len(shorter), len(older))
	}
}
