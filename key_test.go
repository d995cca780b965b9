package sessions_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

func TestKey_Name(t *testing.T) {
	require.Equal(t, "user_id", sessions.NewKey[int]("user_id").Name())
	require.Empty(t, sessions.Key[string]{}.Name())
}
