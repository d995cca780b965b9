package redisscript_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/redisscript"
	"handover.example/sessions/internal/redistest"
)

// record is a stored record: its version, idle timeout, expiry, flag and marks, and its values.
func record(version, idle, expires, flag, marks, values string) string {
	return `["i` + strings.Repeat("i", 22) + version + "created" + idle + expires + "deadlin" + flag + marks + `",{` + values + `}]`
}

func TestSave(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	many := strings.Repeat("older.", 128)
	stored := func(version, flag, marks, values string) string {
		return record(version, "idle...", "expires", flag, marks, values)
	}
	for _, c := range []struct {
		name  string
		there string // empty: nothing
		given string // the marks of the record to write
		keep  int
		want  any    // "": the record that is there
		after string // the marks afterwards; empty: nothing was written
	}{
		{"nothing there", "", "mark-2", 1, int64(redisscript.Missing), ""},
		{"next version", stored("version..", "-", "mark-1", `"a":1`), "mark-1mark-2", 1, int64(redisscript.Done), "mark-1mark-2"},
		{"marks that the writer had not seen", stored("version..", "-", "mark-0mark-1", `"a":1`), "mark-1mark-2", 1, int64(redisscript.Done), "mark-0mark-1mark-2"},
		{"none of them seen", stored("version..", "-", "mark-0mark-1", `"a":1`), "mark-2", 1, int64(redisscript.Done), "mark-0mark-1mark-2"},
		{"no marks yet", stored("version..", "-", "", `"a":1`), "mark-2", 1, int64(redisscript.Done), "mark-2"},
		{"too old to matter", stored("version..", "-", "mark-1", `"a":1`), "mark-2", 0, int64(redisscript.Done), "mark-2"},
		{"as many as there may be", stored("version..", "-", many, `"a":1`), "mark-2", 1, int64(redisscript.Done), many[6:] + "mark-2"},
		{"another version", stored("newer....", "-", "mark-1", `"a":1`), "mark-2", 1, "", ""},
		{"another version, the mark in a value", stored("newer....", "-", "mark-1", `"mark-2":"mark-2"`), "mark-2", 1, "", ""},
		{"another version, across two marks", stored("newer....", "-", "xxxmarxk-2xxx", `"a":1`), "mark-2", 1, "", ""},
		{"own first run, last", stored("newer....", "-", "mark-1mark-2", `"b":2`), "mark-2", 1, int64(redisscript.Done), ""},
		{"own first run, covered", stored("newest...", "-", "mark-2"+many[6:], `"a":1`), "mark-2", 1, int64(redisscript.Done), ""},
		{"own first run, before a tombstone", stored("newest...", "3", "mark-2mark-3", ``), "mark-2", 1, int64(redisscript.Done), ""},
		{"a tombstone", stored("newer....", "3", "mark-1", ""), "mark-2", 1, "", ""},
		{"a tombstone of the same version", stored("version..", "3", "mark-1", ""), "mark-2", 1, "", ""},
		{"a tombstone of a renewal, of the same version", stored("version..", "4", "mark-1", ""), "mark-2", 1, "", ""},
		{"garbage", "x", "mark-2", 1, "", ""},
		{"long garbage", strings.Repeat("x", 100_000), "mark-2", 1, "", ""},
		{"no mark of its own", stored("version..", "-", "mark-1", `"a":1`), "mark-1", 0, int64(redisscript.Done), "mark-1"},
		{"no mark of its own, another version", stored("newer....", "-", "mark-1", `"a":1`), "mark-1", 0, "", ""},
	} {
		require.NoError(t, rdb.FlushDB(ctx).Err())
		if c.there != "" {
			require.NoError(t, rdb.Set(ctx, "k", c.there, time.Minute).Err())
		}
		mine := stored("version..", "-", c.given, `"b":2`)
		args := []any{mine, 3_600_000, "version.." + "mark-2"}
		if strings.HasPrefix(c.name, "no mark of its own") {
			args[2] = "version.."
		}
		if c.keep == 1 {
			args = append(args, "keep")
		}
		got, err := redisscript.Save.Run(ctx, rdb, []string{"k"}, args...).Result()
		require.NoError(t, err, c.name)
		want := c.want
		if want == "" {
			want = c.there
		}
		require.Equal(t, want, got, c.name)
		after, ttl := stored("version..", "-", c.after, `"b":2`), time.Hour
		if c.after == "" {
			after, ttl = c.there, time.Minute
		}
		require.Equal(t, after, rdb.Get(ctx, "k").Val(), c.name)
		if c.there != "" {
			require.InDelta(t, ttl, rdb.PTTL(ctx, "k").Val(), float64(5*time.Second), c.name)
		}
	}
}

func TestTouch(t *testing.T) {
	t.Setenv("LC_ALL", "en_US.UTF-8") // as of a service: Lua compares strings in the order of the locale, if there is one
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	for _, c := range []struct {
		name, there string
		want        int64
		after       string
	}{
		{"nothing there", "", redisscript.Missing, ""},
		{"same version", record("version..", "idle...", "expires", "-", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "V", "mark-1", `"a":1`)},
		{"shortened before", record("version..", "idle...", "now---0", "f", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "f", "mark-1", `"a":1`)},
		{"shortened and expired", record("version..", "idle...", "now----", "f", "mark-1", `"a":1`), redisscript.Missing, ""},
		{"not shortened", record("version..", "IDLE...", "expires", "A", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "A", "mark-1", `"a":1`)},
		{"lengthened", record("version..", "-DLE...", "expires", "2", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "2", "mark-1", `"a":1`)},
		{"newer", record("newer....", "idle...", "expires", "-", "mark-1", `"a":1`), redisscript.Newer, ""},
		{"shortened, in the order of bytes", record("version..", "IDLE_..", "expires", "-", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "V", "mark-1", `"a":1`)},
		{"shortened, in the order of bytes", record("version..", "_DLE...", "expires", "-", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "V", "mark-1", `"a":1`)},
		{"lengthened, in the order of bytes", record("version..", "9zle...", "expires", "-", "mark-1", `"a":1`), redisscript.Done, record("version..", "IDLE...", "EXPIRES", "-", "mark-1", `"a":1`)},
		{"a tombstone", record("version..", "idle...", "expires", "3", "mark-1", ""), redisscript.Missing, ""},
		{"a tombstone of a renewal", record("version..", "idle...", "expires", "4", "mark-1", ""), redisscript.Missing, ""},
		{"garbage", "x", redisscript.Newer, ""},
	} {
		after, ttl := c.after, time.Hour
		require.NoError(t, rdb.FlushDB(ctx).Err())
		if c.there != "" {
			require.NoError(t, rdb.Set(ctx, "k", c.there, time.Minute).Err())
		}
		got, err := redisscript.Touch.Run(ctx, rdb, []string{"k"}, "version..", 3_600_000, "IDLE...EXPIRESnow----").Int64()
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, got, c.name)
		if after == "" {
			after, ttl = c.there, time.Minute
		}
		require.Equal(t, after, rdb.Get(ctx, "k").Val(), c.name)
		if c.there != "" {
			require.InDelta(t, ttl, rdb.PTTL(ctx, "k").Val(), float64(5*time.Second), c.name)
		}
	}
}

func TestDelete(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	for _, c := range []struct {
		name, there string
		want        any // "": the record that is there, and stays
	}{
		{"nothing there", "", int64(redisscript.Missing)},
		{"a record", record("version..", "idle...", "expires", "-", "mark-1", `"a":1`), int64(redisscript.Done)},
		{"a tombstone", record("version..", "idle...", "expires", "3", "mark-1", ""), ""},
		{"a tombstone of a renewal", record("version..", "idle...", "expires", "4", "mark-1", ""), ""},
		{"garbage", "x", int64(redisscript.Done)},
	} {
		require.NoError(t, rdb.FlushDB(ctx).Err())
		if c.there != "" {
			require.NoError(t, rdb.Set(ctx, "k", c.there, time.Minute).Err())
		}
		got, err := redisscript.Delete.Run(ctx, rdb, []string{"k"}).Result()
		require.NoError(t, err, c.name)
		if c.want == "" {
			require.Equal(t, c.there, got, c.name)
			require.Equal(t, c.there, rdb.Get(ctx, "k").Val(), c.name)
			continue
		}
		require.Equal(t, c.want, got, c.name)
		require.Zero(t, rdb.Exists(ctx, "k").Val(), c.name)
	}
}

func TestGiveTTL(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(t)
	require.NoError(t, rdb.Set(ctx, "bare", 1, 0).Err())
	require.NoError(t, rdb.RPush(ctx, "list", 1).Err())
	require.NoError(t, rdb.Set(ctx, "short", 1, time.Minute).Err())
	require.NoError(t, rdb.Set(ctx, "long", 1, 10*time.Hour).Err())
	for key, want := range map[string]struct {
		answer int64
		ttl    time.Duration
	}{"bare": {1, time.Hour}, "list": {1, time.Hour}, "short": {0, time.Minute}, "long": {0, 10 * time.Hour}} {
		got, err := redisscript.GiveTTL.Run(ctx, rdb, []string{key}, time.Hour.Milliseconds()).Int64()
		require.NoError(t, err)
		require.Equal(t, want.answer, got, key)
		require.InDelta(t, want.ttl, rdb.PTTL(ctx, key).Val(), float64(5*time.Second), key)
	}
	got, err := redisscript.GiveTTL.Run(ctx, rdb, []string{"nothing"}, 1000).Int64()
	require.NoError(t, err)
	require.Zero(t, got)
	require.Zero(t, rdb.Exists(ctx, "nothing").Val())
}
