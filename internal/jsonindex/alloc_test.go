package jsonindex

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Finding the members allocates for their list, and for the table of a long one, and not for each.
func TestParseAllocations(t *testing.T) {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, `,"key%03d":"%075d"`, i, i)
	}
	for _, c := range []struct {
		text string
		most float64
	}{{`{"a":1,"b":"2","c":{}}`, 1}, {"{" + b.String()[1:] + "}", 2}} {
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _, _ = Parse(c.text) }), c.most)
	}
}
