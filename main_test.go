package sessions_test

import (
	"context"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions/internal/leaktest"
	"handover.example/sessions/internal/redistest"
)

// quiet drops what go-redis logs about servers that tests take away on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// long reports whether HANDOVER_LONG is set in the environment, as in CI (HANDOVER_LONG=1 go test ./...). Then the tests
// that take more time than a plain go test should run in full. Without it they do less of the same, or leave it to
// another test of the same promise.
func long() bool { return os.Getenv("HANDOVER_LONG") != "" }

// TestMain fails the run if goroutines of this module outlive the tests, or if a token was in anything that they logged
// (P11).
func TestMain(m *testing.M) {
	redistest.Overlap()
	redis.SetLogger(quiet{})
	leaktest.Main(m, checkCapturedLogs)
}
