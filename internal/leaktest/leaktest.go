// Package leaktest fails a test run that leaves something behind.
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Main runs the tests and exits. The run fails if a check fails, or if goroutines that run code of this repository, or
// were started by it, outlive the tests.
func Main(m *testing.M, checks ...func() error) {
	code := m.Run()
	for _, check := range checks {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if left := Goroutines(5 * time.Second); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines are left after the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// Goroutines returns the stacks of the goroutines that run code of this repository, or were started by it, apart from
// the caller's. It waits up to the grace period for them to end.
func Goroutines(grace time.Duration) (left []string) {
	for deadline := time.Now().Add(grace); ; time.Sleep(5 * time.Millisecond) {
		left = left[:0]
		for i, stack := range stacks() {
			if i > 0 && strings.Contains(stack, "handover.example/sessions") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// stacks returns the stacks of all goroutines; the first is that of the caller.
func stacks() []string {
	for size := 1 << 20; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return strings.Split(string(buf[:n]), "\n\n")
		}
	}
}
