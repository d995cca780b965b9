package e2e

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run if goroutines of these modules outlive the tests.
func TestMain(m *testing.M) {
	code := m.Run()
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
