package sessions_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// configFields returns the field of each mistake in a joined error, each of which must be a ConfigError.
func configFields(t *testing.T, err error) (fields []string) {
	t.Helper()
	require.Error(t, err)
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "not a join of errors: %v", err)
	for _, e := range joined.Unwrap() {
		var bad *sessions.ConfigError
		require.True(t, errors.As(e, &bad), "not a ConfigError: %v", e)
		require.NotEmpty(t, bad.Reason)
		require.Equal(t, "sessions: "+bad.Field+": "+bad.Reason, e.Error())
		fields = append(fields, bad.Field)
	}
	return fields
}
