package sessions_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// A touch writes the idle timeout beside the expiry that was made of it. Otherwise a later reader, with the shorter
// timeout, takes off the difference a second time and finds a session that was just used expired.
func TestRedisTouchKeepsIdle(t *testing.T) {
	ctx := context.Background()
	store := newRedisStore(t, redistest.Start(t).Client(t), time.Hour*100)
	rec := newRedisRecord(24*time.Hour, 14*24*time.Hour)
	_, err := store.Save(ctx, "session", rec, 0)
	require.NoError(t, err)

	rec.Idle = time.Hour // the configuration has changed
	rec.Expires = time.Now().Add(time.Hour)
	_, err = store.Touch(ctx, "session", rec)
	require.NoError(t, err)

	got, err := store.Load(ctx, "session", rec.Token)
	require.NoError(t, err)
	require.Equal(t, time.Hour, got.Idle)
	require.Equal(t, rec.Expires.UnixMilli(), got.Expires.UnixMilli())
}

func newRedisStore(t testing.TB, rdb redis.Cmdable, ttl time.Duration) *sessions.RedisStore {
	t.Helper()
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: ttl})
	require.NoError(t, err)
	return store
}

func newRedisRecord(idle, absolute time.Duration) *sessions.Record {
	now := time.Now()
	rec := &sessions.Record{Token: sessions.NewToken(), Version: now.UnixMilli(), Created: now, Idle: idle,
		Expires: now.Add(idle), Deadline: now.Add(absolute)}
	rec.ID, _ = sessions.TokenID(rec.Token)
	return rec
}
