package sessions_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// isTombstone reports whether a command writes the tombstone of a renewal.
func isTombstone(args []string) bool {
	return strings.HasPrefix(args[0], "EVAL") && len(args) > 4 && len(args[4]) > 62 && args[4][62] == '4'
}

// A renewal has happened once its tombstone is written, whether or not the server could still say so: the session goes on
// under its new token. If it is not written, the session is as it was.
func TestP07_P08_RenewalWithoutAnAnswer(t *testing.T) {
	servers := [2]*redistest.Server{redistest.Start(t), redistest.Start(t)}
	for _, s := range servers {
		loadScripts(t, s.Client(t))
	}
	cookies := cookieStoreWith(t, []byte("0123456789abcdef0123456789abcdef"))
	type setup struct {
		name    string
		through func(via [2]sessions.Store) sessions.Store
		sides   []int // those that take a tombstone that must not be lost
		open    bool  // the old token opens until it expires: a stated limit of this phase
	}
	setups := []setup{{"RedisStore", func(via [2]sessions.Store) sessions.Store { return via[1] }, []int{1}, false}}
	for phase := sessions.OldOnly; phase <= sessions.NewOnly; phase++ {
		dual := func(old func(via [2]sessions.Store) sessions.Store, check bool) func(via [2]sessions.Store) sessions.Store {
			return func(via [2]sessions.Store) sessions.Store {
				d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old(via), New: via[1], Phase: phase, CheckRevoked: check})
				require.NoError(t, err)
				return d
			}
		}
		first := func(via [2]sessions.Store) sessions.Store { return via[0] }
		sealed := func([2]sessions.Store) sessions.Store { return cookies }
		setups = append(setups,
			setup{"from a server, " + phase.String(), dual(first, false), []int{0, 1}, false},
			setup{"from a server, CheckRevoked, " + phase.String(), dual(first, true), []int{0, 1}, false})
		if phase != sessions.OldOnly {
			setups = append(setups,
				setup{"from a cookie, " + phase.String(), dual(sealed, false), []int{1}, phase == sessions.DualReadOld},
				setup{"from a cookie, CheckRevoked, " + phase.String(), dual(sealed, true), []int{1}, false})
		}
	}
	for _, c := range setups {
		for _, side := range c.sides {
			for _, fault := range []struct {
				name  string
				times int // how many tombstones are lost
				what  redistest.Fault
			}{
				{"one reply", 4, redistest.LoseReply}, // and those to the client's repetitions
				{"all replies", 1 << 30, redistest.LoseReply},
				{"all calls", 1 << 30, redistest.LoseCall},
			} {
				t.Run(c.name+"/"+[]string{"old", "new"}[side]+" loses "+fault.name, func(t *testing.T) {
					var direct, via [2]sessions.Store
					var proxies [2]*redistest.Proxy
					for i, s := range servers {
						proxies[i] = s.Proxy(t)
						via[i] = newRedisStore(t, proxies[i].Client(t), 100*time.Hour)
						direct[i] = newRedisStore(t, s.Client(t), 100*time.Hour)
					}
					app := newRedisApp(t, c.through(via))
					old := app.must("", addHit)
					lost := 0
					proxies[side].SetFault(func(args []string) redistest.Fault {
						if !isTombstone(args) || lost == fault.times {
							return redistest.Pass
						}
						lost++
						return fault.what
					})
					after, status := app.do(old, func(s sessions.Session) { s.Renew(); addHit(s) })
					proxies[side].SetFault(nil)
					seen := newRedisApp(t, c.through(direct))
					if status != http.StatusOK {
						require.Equal(t, redistest.LoseCall, fault.what, "the tombstone is there, and so is the new session")
						require.Equal(t, http.StatusServiceUnavailable, status)
						require.Equal(t, old, after)
						n, ok := seen.hits(old)
						require.True(t, ok, "the session is as it was")
						require.Equal(t, 1, n)
						return
					}
					require.NotEqual(t, old, after)
					n, ok := seen.hits(after)
					require.True(t, ok)
					require.Equal(t, 2, n)
					_, ok = seen.hits(old)
					ignored := lost > 0 && fault.what == redistest.LoseCall // by the rules of the phase
					if !ignored && !c.open {
						require.False(t, ok, "the old token is dead")
					}
					if lost > 0 && fault.times == 4 { // then both sides have it
						for i, store := range direct {
							if rec, err := store.Load(context.Background(), "session", old); err == nil {
								require.True(t, rec.Revoked, "side %d", i)
							}
						}
					}
				})
			}
		}
	}
}

// unanswered is a store that writes the tombstone of a renewal, and then fails.
type unanswered struct {
	sessions.Store
	fail func() error
	down bool
}

func (s *unanswered) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.Store.Save(ctx, name, rec, base)
	if rec.Renewed {
		if failed := s.fail(); failed != nil {
			return "", failed
		}
	}
	return token, err
}

func (s *unanswered) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	if s.down {
		return nil, errors.New("away")
	}
	return s.Store.Load(ctx, name, token)
}

// A store of another kind finds its own tombstone, and says that the session has ended.
func TestP07_P08_RenewalFindsItsOwnTombstone(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, failure := range []error{errors.New("no answer"), context.DeadlineExceeded, sessions.ErrGone} {
			s := &unanswered{Store: store, fail: func() error { return failure }}
			app := newRedisApp(t, s)
			old := app.must("", addHit)
			renewed := app.must(old, sessions.Session.Renew)
			require.NotEqual(t, old, renewed)
			n, ok := app.hits(renewed)
			require.True(t, ok)
			require.Equal(t, 1, n)
			_, ok = app.hits(old)
			require.False(t, ok)
		}
	})
}

// The tombstone of another renewal is no success of this one: only one of two parallel renewals has the session.
func TestP08_RenewalFindsAnothersTombstone(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		other := newRedisApp(t, store)
		app := newRedisApp(t, store)
		old := other.must("", addHit)
		var renewed string
		after, status := app.do(old, func(s sessions.Session) {
			s.Renew()
			renewed = other.must(old, sessions.Session.Renew)
		})
		require.Equal(t, http.StatusConflict, status)
		require.Equal(t, old, after)
		_, ok := other.hits(renewed)
		require.True(t, ok)
	})
}

// If the tombstone may or may not be there, the request fails and no client gets the new token.
func TestP05_RenewalThatStaysUnknown(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		s := &unanswered{Store: store}
		s.fail = func() error { s.down = true; return errors.New("no answer") }
		app := newRedisApp(t, s)
		old := app.must("", addHit)
		after, status := app.do(old, sessions.Session.Renew)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, old, after)
	})
}
