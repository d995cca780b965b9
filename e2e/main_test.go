package e2e

import (
	"testing"

	"handover.example/sessions/internal/leaktest"
)

// TestMain fails the run if goroutines of these modules outlive the tests.
func TestMain(m *testing.M) { leaktest.Main(m) }
