package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Overlap()
	redis.SetLogger(silent{})
	os.Exit(m.Run())
}

// What no output may show: hidden never, private only with -values.
var (
	secretsMu       sync.Mutex
	hidden, private []string
)

// ctl runs the command, and looks for secrets in all that it prints.
func ctl(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return ctlContext(t, context.Background(), stdin, args...)
}

func ctlContext(t *testing.T, ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(ctx, args, strings.NewReader(stdin), &out, &errs)
	all := out.String() + errs.String()
	secretsMu.Lock()
	hidden, private := slices.Clone(hidden), slices.Clone(private)
	secretsMu.Unlock()
	for _, s := range hidden {
		require.NotContains(t, all, s, "a secret was printed")
	}
	if !strings.Contains(strings.Join(args, " "), "-values") {
		for _, s := range private {
			require.NotContains(t, all, s, "a value was printed")
		}
	}
	return code, out.String(), errs.String()
}

// hide returns the text, and fails every later output that contains it.
func hide(secret string) string {
	secretsMu.Lock()
	defer secretsMu.Unlock()
	hidden = append(hidden, secret)
	return secret
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func newRecord(lasts time.Duration) *sessions.Record {
	now := time.Now()
	rec := &sessions.Record{
		Token: sessions.NewToken(), Version: now.UnixMicro(), Created: now.Add(-time.Hour), Idle: 24 * time.Hour,
		Expires: now.Add(lasts), Deadline: now.Add(14 * 24 * time.Hour), Secure: true,
	}
	rec.ID, _ = sessions.TokenID(rec.Token)
	hide(rec.Token)
	return rec
}

// fill writes n sessions that live for an hour, the first few of them without a TTL.
func fill(t *testing.T, rdb redis.UniversalClient, prefix string, n, bare int) (ids []string) {
	ctx := context.Background()
	now := time.Now()
	rec := &sessions.Record{Version: 1, Created: now, Idle: time.Hour, Expires: now.Add(time.Hour), Deadline: now.Add(time.Hour)}
	rec.SetValue("v", json.RawMessage(`"`+strings.Repeat("x", 100)+`"`))
	for n > 0 {
		batch := min(n, 2000)
		n -= batch
		_, err := rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for range batch {
				rec.ID, _ = sessions.TokenID(sessions.NewToken())
				ttl := time.Hour
				if len(ids) < bare {
					ttl = 0
				}
				text, err := rec.MarshalJSON()
				if err != nil {
					return err
				}
				pipe.Set(ctx, prefix+rec.ID, text, ttl)
				ids = append(ids, rec.ID)
			}
			return nil
		})
		require.NoError(t, err)
	}
	return ids
}
