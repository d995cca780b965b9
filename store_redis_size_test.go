package sessions_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func sizedStore(t *testing.T, server *redistest.Server, size int) *sessions.RedisStore {
	t.Helper()
	store, err := sessions.NewRedisStore(server.Client(t), sessions.RedisStoreConfig{TTL: 100 * time.Hour, MaxSize: size})
	require.NoError(t, err)
	return store
}

func TestRedisMaxSize(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	rdb := server.Client(t)
	sent := &sentCommands{}
	rdb.AddHook(sent)
	for _, c := range []struct{ config, limit int }{{0, 1 << 20}, {1 << 20, 1 << 20}, {4000, 4000}} {
		store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 100 * time.Hour, MaxSize: c.config})
		require.NoError(t, err)
		rec := newRedisRecord(time.Hour, time.Hour)
		fill := func(n int) { rec.SetValue("v", json.RawMessage(`"`+strings.Repeat("x", n)+`"`)) }
		fill(1000)
		_, err = store.Save(ctx, "", rec, 0)
		require.NoError(t, err)
		over := int(rdb.StrLen(ctx, redisKey(rec.Token)).Val()) - 1000

		fill(c.limit - over)
		rec.Token = sessions.NewToken()
		rec.ID, _ = sessions.TokenID(rec.Token)
		_, err = store.Save(ctx, "", rec, 0)
		require.NoError(t, err, "as large as allowed")
		require.EqualValues(t, c.limit, rdb.StrLen(ctx, redisKey(rec.Token)).Val())

		fill(c.limit - over + 1)
		sent.take()
		for _, base := range []int64{0, rec.Version} {
			_, err = store.Save(ctx, "", rec, base)
			require.ErrorIs(t, err, sessions.ErrTooLarge)
			require.Regexp(t, `\b\d+ bytes, and RedisStoreConfig.MaxSize is \d+: store less`, err.Error())
			require.NotContains(t, err.Error(), "xxx")
		}
		require.Empty(t, sent.take(), "nothing is sent")
		_, err = store.Touch(ctx, "", rec)
		require.NoError(t, err)
		require.NoError(t, store.Delete(ctx, "", rec))
	}
	tiny := sizedStore(t, server, 1)
	rec := newRedisRecord(time.Hour, time.Hour)
	rec.Revoked = true
	_, err := tiny.Save(ctx, "", rec, 0)
	require.NoError(t, err, "a tombstone is always written")
	_, err = sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour, MaxSize: -1})
	require.Equal(t, []string{"MaxSize"}, configFields(t, err))
}

// A session that became too large is as it was, and can be made smaller, renewed and ended.
func TestP05_RedisTooLarge(t *testing.T) {
	app := newRedisApp(t, sizedStore(t, redistest.Start(t), 10_000))
	token := app.must("", addHit)
	grow := func(s sessions.Session) { addHit(s); _ = s.Set("big", strings.Repeat("x", 10_000)) }
	after, status := app.do("", grow)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Empty(t, after)
	for _, change := range []func(sessions.Session){grow, func(s sessions.Session) { s.Renew(); grow(s) }} {
		after, status = app.do(token, change)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, token, after)
	}
	require.Equal(t, 3, app.count(sessions.EventCommit, sessions.OutcomeTooLarge)+app.count(sessions.EventRenew, sessions.OutcomeTooLarge))
	n, ok := app.hits(token)
	require.True(t, ok)
	require.Equal(t, 1, n)
	require.Empty(t, app.must(app.must(token, sessions.Session.Renew), sessions.Session.Destroy))
}

// During a migration to a store with a lower limit, a session that is too large for it is either kept by the old store,
// and counted, or refused before anything is written.
func TestP15_NewStoreHasALowerLimit(t *testing.T) {
	old, new := redistest.Start(t), redistest.Start(t)
	grow := func(s sessions.Session) { addHit(s); _ = s.Set("big", strings.Repeat("x", 10_000)) }
	shrink := func(s sessions.Session) { addHit(s); s.Delete("big") }
	for _, c := range []struct {
		phase    sessions.Phase
		fallback bool
		kept     bool
	}{
		{sessions.OldOnly, false, true},
		{sessions.DualReadOld, false, true},
		{sessions.DualReadNew, true, true},
		{sessions.DualReadNew, false, false},
		{sessions.NewOnly, false, false},
	} {
		name := c.phase.String()
		if c.fallback {
			name += ", FallbackOnError"
		}
		t.Run(name, func(t *testing.T) {
			dual, err := sessions.NewDualStore(sessions.DualStoreConfig{
				Old: sizedStore(t, old, 0), New: sizedStore(t, new, 5_000), Phase: c.phase, FallbackOnError: c.fallback,
			})
			require.NoError(t, err)
			app := newRedisApp(t, dual)
			var first *redistest.Server
			if c.phase != sessions.NewOnly {
				first = old
			} else {
				first = new
			}
			token := app.must("", addHit)
			rdb := first.Client(t)
			before := rdb.Get(context.Background(), redisKey(token)).Val()
			_, status := app.do(token, grow)
			if !c.kept {
				require.Equal(t, http.StatusServiceUnavailable, status)
				require.True(t, before == rdb.Get(context.Background(), redisKey(token)).Val(), "nothing is half written")
				after, status := app.do(token, func(s sessions.Session) { s.Renew(); grow(s) })
				require.Equal(t, http.StatusServiceUnavailable, status)
				require.Equal(t, token, after)
				size := rdb.DBSize(context.Background()).Val()
				_, status = app.do("", grow)
				require.Equal(t, http.StatusServiceUnavailable, status)
				require.Equal(t, size, rdb.DBSize(context.Background()).Val())
				n, _ := app.hits(app.must(token, addHit))
				require.Equal(t, 2, n)
				return
			}
			require.Equal(t, http.StatusOK, status)
			n, ok := app.hits(token)
			require.True(t, ok)
			require.Equal(t, 2, n)
			big := app.must("", grow)
			if c.phase != sessions.OldOnly {
				report := dual.Report()
				require.EqualValues(t, 2, report.NewWriteErrorsIgnored)
				require.False(t, report.Safe)
			}

			// One phase later the session is still there, and a change that makes it fit moves it.
			if c.phase == sessions.DualReadOld {
				dual.SetPhase(sessions.DualReadNew)
			}
			for _, token := range []string{token, big} {
				n, ok := app.hits(token)
				require.True(t, ok)
				_, status = app.do(token, addHit)
				if dual.Phase() == sessions.DualReadNew && !c.fallback {
					require.Equal(t, http.StatusServiceUnavailable, status)
				} else {
					require.Equal(t, http.StatusOK, status)
					n++
				}
				token = app.must(token, shrink)
				got, _ := app.hits(token)
				require.Equal(t, n+1, got)
				if c.phase != sessions.OldOnly {
					require.EqualValues(t, 1, new.Client(t).Exists(context.Background(), redisKey(token)).Val())
				}
			}
		})
	}
}
