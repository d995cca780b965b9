package sessions_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions/internal/redistest"
)

// quiet drops what go-redis logs about servers that tests take away on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// long reports whether HANDOVER_LONG is set in the environment, as in CI (HANDOVER_LONG=1 go test ./...). Then the tests
// that take more time than a plain go test should run in full. Without it they do less of the same, or leave it to
// another test of the same promise.
func long() bool { return os.Getenv("HANDOVER_LONG") != "" }

// TestMain fails the run if goroutines of this module outlive the tests, or if a token was in anything that they logged.
func TestMain(m *testing.M) {
	redistest.Overlap()
	redis.SetLogger(quiet{})
	code := m.Run()
	if err := checkCapturedLogs(); err != nil { // P11, over the whole suite
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if left := leaked(5 * time.Second); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines are left after the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// leaked gives the stacks of the goroutines that run our code, or were started by it, apart from the one that calls. It
// waits up to the grace period for them to end.
func leaked(grace time.Duration) (left []string) {
	for deadline := time.Now().Add(grace); ; time.Sleep(5 * time.Millisecond) {
		left = left[:0]
		for i, stack := range allStacks() {
			if i > 0 && strings.Contains(stack, "handover.example/sessions") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// allStacks gives the stacks of all goroutines; the first is that of the caller.
func allStacks() []string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return strings.Split(string(buf[:n]), "\n\n")
		}
	}
}

func TestLeakedFindsAGoroutine(t *testing.T) {
	end := make(chan struct{})
	go func() { <-end }()
	found := leaked(0)
	close(end)
	var stacks []string
	for _, s := range found {
		if strings.Contains(s, "TestLeakedFindsAGoroutine.func1") {
			stacks = append(stacks, s)
		}
	}
	if len(stacks) != 1 {
		t.Fatalf("found %d of 1:\n%s", len(stacks), strings.Join(found, "\n\n"))
	}
}
