package sessiontest_test

import (
	"testing"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

func TestStore_Memory(t *testing.T) {
	t.Parallel()
	sessiontest.TestStore(t, func(*testing.T) sessions.Store { return sessiontest.NewMemoryStore() })
}
