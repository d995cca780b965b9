package sessions_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func TestKey_Name(t *testing.T) {
	require.Equal(t, "user_id", sessions.NewKey[int]("user_id").Name())
	require.Empty(t, sessions.Key[string]{}.Name())
}

func TestRedisStore_Alive(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client(t)
	store := redisStoreOver(t, rdb)
	s := newSite(t, store)
	alive := func(id string) bool {
		t.Helper()
		ok, err := store.Alive(t.Context(), id)
		require.NoError(t, err)
		return ok
	}

	b := s.browser()
	var first, second string
	b.use(func(s sessions.Session) {
		require.NoError(t, s.Set("a", 1))
		first = s.ID()
		require.False(t, alive(first), "not written yet")
	})
	require.True(t, alive(first))
	b.use(func(s sessions.Session) { s.Renew() })
	b.use(func(s sessions.Session) { second = s.ID() })
	require.NotEqual(t, first, second)
	require.False(t, alive(first), "renewed")
	require.True(t, alive(second))
	b.use(func(s sessions.Session) { s.Clear() })
	require.True(t, alive(second), "without values it is still there")
	b.use(func(s sessions.Session) { s.Destroy() })
	require.False(t, alive(second), "destroyed")

	t.Run("a tombstone", func(t *testing.T) {
		rec := &sessions.Record{Token: sessions.NewToken(), Version: 1, Created: time.Now(), Idle: time.Hour, Expires: time.Now().Add(time.Hour), Deadline: time.Now().Add(time.Hour), Revoked: true}
		rec.ID, _ = sessions.TokenID(rec.Token)
		_, err := store.Save(t.Context(), "", rec, 0)
		require.NoError(t, err)
		require.False(t, alive(rec.ID))
	})
	t.Run("expired", func(t *testing.T) {
		// The record says when it ends. Its key is still there.
		now := time.Now()
		rec := &sessions.Record{Token: sessions.NewToken(), Version: 1, Created: now, Idle: time.Hour, Expires: now.Add(50 * time.Millisecond), Deadline: now.Add(time.Hour)}
		rec.ID, _ = sessions.TokenID(rec.Token)
		_, err := store.Save(t.Context(), "", rec, 0)
		require.NoError(t, err)
		require.NoError(t, rdb.PExpire(t.Context(), "session:"+rec.ID, time.Hour).Err())
		require.Eventually(t, func() bool { return !alive(rec.ID) }, 10*time.Second, 5*time.Millisecond)
		require.EqualValues(t, 1, rdb.Exists(t.Context(), "session:"+rec.ID).Val())
	})
	t.Run("never there", func(t *testing.T) {
		id, _ := sessions.TokenID(sessions.NewToken())
		for _, id := range []string{id, "", "x", "a b", "*", "a\r\nDEL x", "\x00", strings.Repeat("x", 10_000), "../../x"} {
			require.False(t, alive(id), "%q", id)
		}
	})
	t.Run("a token is no ID", func(t *testing.T) {
		b := s.browser()
		b.set("a", 1)
		token := cookieOf(b)
		require.NotEmpty(t, token)
		require.False(t, alive(token))
	})
	for name, write := range map[string]func(key string) error{
		"garbage": func(key string) error {
			return rdb.Set(t.Context(), key, "a secret value of thirty-two bytes", time.Hour).Err()
		},
		"empty":      func(key string) error { return rdb.Set(t.Context(), key, "", time.Hour).Err() },
		"wrong type": func(key string) error { return rdb.HSet(t.Context(), key, "a", 1).Err() },
		"the record of another session": func(key string) error {
			b := s.browser()
			var id string
			b.use(func(s sessions.Session) { require.NoError(t, s.Set("a", 1)); id = s.ID() })
			return rdb.Copy(t.Context(), "session:"+id, key, 0, true).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			id, _ := sessions.TokenID(sessions.NewToken())
			require.NoError(t, write("session:"+id))
			ok, err := store.Alive(t.Context(), id)
			require.Error(t, err, "nobody knows")
			require.False(t, ok)
			require.NotErrorIs(t, err, sessions.ErrGone)
			require.NotContains(t, err.Error(), "secret")
			require.True(t, strings.HasPrefix(err.Error(), "sessions: redis: alive: "), err.Error())
			require.NoError(t, rdb.Del(t.Context(), "session:"+id).Err())
		})
	}
	t.Run("one GET", func(t *testing.T) {
		b := s.browser()
		var id string
		b.use(func(s sessions.Session) { require.NoError(t, s.Set("a", 1)); id = s.ID() })
		require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
		require.True(t, alive(id))
		stats := rdb.Info(t.Context(), "commandstats").Val()
		require.Contains(t, stats, "cmdstat_get:calls=1,")
		require.NotContains(t, stats, "cmdstat_eval")
		require.NotContains(t, stats, "cmdstat_set:")
		require.NotContains(t, stats, "expire")
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := store.Alive(ctx, first)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("unreachable", func(t *testing.T) {
		server.Stop()
		ok, err := store.Alive(t.Context(), first)
		require.Error(t, err)
		require.False(t, ok)
		require.NotErrorIs(t, err, redis.Nil)
		require.NotContains(t, err.Error(), first)
	})
}

// cookieOf gives the session token that the browser holds.
func cookieOf(b *browser) string {
	for _, c := range b.client.Jar.Cookies(b.base) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}
