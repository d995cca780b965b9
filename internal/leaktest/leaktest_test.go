package leaktest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoroutinesFindsOne(t *testing.T) {
	end := make(chan struct{})
	go func() { <-end }()
	found := Goroutines(0)
	close(end)
	n := 0
	for _, s := range found {
		if strings.Contains(s, "TestGoroutinesFindsOne.func1") {
			n++
		}
	}
	require.Equal(t, 1, n, strings.Join(found, "\n"))
}
