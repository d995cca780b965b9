package sessions

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestMarks(t *testing.T) {
	seen := map[string]bool{}
	var marks string
	for range 1000 {
		mark := newMark()
		require.Len(t, mark, markLength)
		require.False(t, seen[mark])
		seen[mark] = true
		for i := range len(mark) {
			require.GreaterOrEqual(t, digitValue[mark[i]], int8(0))
		}
		marks += mark
		require.True(t, hasMark(marks, mark))
	}
	require.False(t, hasMark("abcdefGHIJKL", "cdefGH"), "a mark stands at its place or nowhere")
	require.False(t, hasMark("abcdefGHI", "GHI"))
	require.False(t, hasMark("", "abcdef"))

	now := time.UnixMilli(1700000000000)
	rest := now.UnixMicro() - markWindow.Microseconds() // the oldest version that still counts
	for _, c := range []struct {
		version int64
		kept    string
	}{
		{rest, "abcdefGHIJKL"},
		{now.UnixMicro() + 5, "abcdefGHIJKL"}, // also when the clock goes back
		{rest - 1, ""},                        // nobody repeats a write of long ago
		{0, ""},                               // a new record has no earlier marks
	} {
		l := lineage{past: "abcdef", mark: "GHIJKL"}
		l.sign("mnopqr", c.version, now)
		require.Equal(t, c.kept, l.past)
		require.Equal(t, c.kept+"mnopqr", l.marks())
		l.sign("mnopqr", c.version, now)
		require.Equal(t, c.kept+"mnopqr", l.marks(), "the same write again")
	}
	full := lineage{past: "first0" + strings.Repeat("abcdef", maxMarks-1), mark: "GHIJKL"}
	require.Equal(t, full.past[markLength:]+"GHIJKL", full.marks(), "the oldest mark makes room")

	r := testRecord("k")
	r.lineage.past = strings.Repeat("abcdef", maxMarks)
	got, err := parseStored(string(r.appendStored(nil)))
	require.NoError(t, err)
	require.Equal(t, r.lineage.past, got.lineage.past)
}

// The header that the save script puts together from two records is one that parses, with the oldest marks gone.
func TestMarksInRedis(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer rdb.Close()
	ctx := context.Background()
	r := testRecord("k")
	r.Version = time.Now().UnixMicro()
	store, err := NewRedisStore(rdb, RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	_, err = store.Save(ctx, "session", r, 0)
	require.NoError(t, err)
	var marks string
	for i := range maxMarks + 20 {
		if i > 0 {
			marks += r.lineage.mark
		}
		r.lineage.past, r.lineage.mark = "", newMark() // as of a writer who has not read the record from Redis
		base := r.Version
		r.Version++
		r.set("k", fmt.Sprint(r.Version))
		_, err = store.Save(ctx, "session", r, base)
		require.NoError(t, err)
	}
	marks += r.lineage.mark
	got, err := store.Load(ctx, "session", r.Token)
	require.NoError(t, err)
	require.Equal(t, marks[len(marks)-maxMarks*markLength:], got.lineage.past)
	require.Equal(t, r.values, got.values)
	require.Equal(t, r.Version, got.Version)

	now := time.Now()
	touched := got.clone()
	touched.Idle, touched.Expires = 30*time.Minute, now.Add(30*time.Minute).Truncate(time.Millisecond)
	_, err = store.Touch(ctx, "session", touched)
	require.NoError(t, err)
	again, err := store.Load(ctx, "session", r.Token)
	require.NoError(t, err)
	require.Equal(t, touched.Expires.UnixMilli(), again.Expires.UnixMilli())
	again.Expires = touched.Expires
	got.Extend(touched)
	require.Equal(t, got, again, "a touch changes the idle timeout and the expiry, and nothing else")
}
