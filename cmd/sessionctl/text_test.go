package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/texttable"
)

func TestText(t *testing.T) {
	for d, text := range map[time.Duration]string{
		0: "0 ms", 999 * time.Millisecond: "999 ms", -90 * time.Second: "1 min 30 s", time.Hour: "1 h",
		14 * 24 * time.Hour: "14 d", 25*time.Hour + 59*time.Minute: "1 d 1 h", 59 * time.Second: "59 s",
	} {
		require.Equal(t, text, span(d))
	}
	for n, text := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -123: "-123", -1234: "-1,234"} {
		require.Equal(t, text, group(n))
	}
	const nasty = "\"a\x1b[31m\u202e\U000e0001é 日本 b\""
	require.NotContains(t, texttable.Printable(nasty), "\x1b")
	require.Contains(t, texttable.Printable(nasty), "é 日本")
	var back string
	require.NoError(t, json.Unmarshal([]byte(texttable.Printable(nasty)), &back))
	require.Equal(t, "a\x1b[31m\u202e\U000e0001é 日本 b", back, "JSON stays the same JSON")
	long := texttable.Table{{"name", strings.Repeat("word ", 60)}}.Wrapped(lineWidth)
	for line := range strings.Lines(long) {
		require.LessOrEqual(t, len(line), lineWidth+1)
	}
	require.Contains(t, long, "\n      word")
}
