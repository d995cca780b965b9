package loglimit

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestP23_WarningsComeBack(t *testing.T) {
	w, now := new(Limiter), time.Unix(0, 0)
	allowed := func(kind, subject string) bool {
		ok, _ := w.Allow(kind, subject, now)
		return ok
	}
	require.True(t, allowed("insecure", "our.host"))
	require.False(t, allowed("insecure", "our.host"), "once per hour")
	lines := 1
	for i := range 10_000 {
		if allowed("insecure", fmt.Sprint(i, ".attacker.example")) {
			lines++
		}
	}
	require.Equal(t, burst, lines)
	require.True(t, allowed("schememismatch", "our.host"), "each outcome has a budget of its own")
	require.True(t, allowed("tampered", ""))

	require.False(t, allowed("insecure", "other.host"))
	now = now.Add(refill)
	ok, dropped := w.Allow("insecure", "other.host", now)
	require.True(t, ok, "it comes back")
	require.Equal(t, 10_000-(burst-1)+1, dropped)
	now = now.Add(repeat)
	require.True(t, allowed("insecure", "our.host"))

	now = now.Add(-24 * time.Hour) // a clock that goes back adds nothing
	for range 2 * burst {
		allowed("insecure", "")
	}
	require.False(t, allowed("insecure", ""))
}

func TestP23_WarningsTakeBoundedMemory(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	w, now := new(Limiter), time.Unix(0, 0)
	before := heap()
	for i := range 5_000 {
		now = now.Add(refill) // so that each is remembered
		for _, o := range []string{"a", "b", "c", "d"} {
			w.Allow(o, fmt.Sprint(i)+strings.Repeat("x", 10_000), now)
		}
	}
	require.Less(t, int64(heap())-int64(before), int64(1<<20))
	runtime.KeepAlive(w)
}
