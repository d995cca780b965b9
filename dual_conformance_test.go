package sessions_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// dualPhases are all phases, in order.
var dualPhases = []sessions.Phase{sessions.OldOnly, sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly}

func TestP15_DualStoreConformsInEachPhase(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	checkTTLs(t, rdb)
	olds := map[string]func(t *testing.T) sessions.Store{
		"cookie": func(t *testing.T) sessions.Store { return cookieStoreWith(t, secretA) },
		"redis":  func(t *testing.T) sessions.Store { return redisWithPrefix(t, rdb, "old:") },
		"memory": func(*testing.T) sessions.Store { return sessiontest.NewMemoryStore() },
	}
	type flags struct{ check, fallback bool }
	for kind, old := range olds {
		for _, phase := range dualPhases {
			variants := []flags{{}}
			switch phase { // the flags mean nothing in the others
			case sessions.DualReadOld:
				variants = append(variants, flags{check: true})
			case sessions.DualReadNew:
				variants = append(variants, flags{fallback: true})
			}
			for _, f := range variants {
				make := func(t *testing.T) sessions.Store {
					d, err := sessions.NewDualStore(sessions.DualStoreConfig{
						Old: old(t), New: redisWithPrefix(t, rdb, "new:"), Phase: phase, CheckRevoked: f.check, FallbackOnError: f.fallback,
					})
					require.NoError(t, err)
					return d
				}
				name := fmt.Sprintf("%s/%v,CheckRevoked=%v,FallbackOnError=%v", kind, phase, f.check, f.fallback)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					sessiontest.TestStore(t, make)
				})
				if kind == "cookie" && phase == sessions.DualReadNew {
					// The new store decides, so that what the suite skips where a cookie is sealed must hold as well.
					t.Run(name+"/by token", func(t *testing.T) {
						t.Parallel()
						sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return byToken{make(t)} })
					})
				}
			}
		}
	}
}

// byToken is a store whose client never takes the sealed cookie and presents the token alone.
type byToken struct{ sessions.Store }

func (s byToken) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.Store.Save(ctx, name, rec, base)
	if err == nil {
		token = rec.Token
	}
	return token, err
}

func (s byToken) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	token, err := s.Store.Touch(ctx, name, rec)
	if err == nil {
		token = rec.Token
	}
	return token, err
}

func redisWithPrefix(t *testing.T, rdb redis.Cmdable, prefix string) *sessions.RedisStore {
	t.Helper()
	s, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour, Prefix: prefix})
	require.NoError(t, err)
	return s
}
