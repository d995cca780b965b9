package sessions_test

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

func TestKey_Name(t *testing.T) {
	require.Equal(t, "user_id", sessions.NewKey[int]("user_id").Name())
	require.Empty(t, sessions.Key[string]{}.Name())
}

// Of parallel requests that use up a value by Update, one gets it; Take gives it to all that have loaded it, as its
// documentation says.
func TestP07_OneOfParallelRequestsRedeems(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		const parallel = 6
		state := sessions.NewKey[string]("oauth_state")
		// ask lets each of parallel requests load the session before one of them goes on, and counts how each ends.
		ask := func(use func(sessions.Session) error) (got, refused int) {
			var failed atomic.Int64
			site := newSite(t, store, func(cfg *sessions.Config) {
				cfg.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
					if errors.Is(err, errUsed) || errors.Is(err, sessions.ErrGone) {
						failed.Add(1)
					}
					w.WriteHeader(http.StatusConflict)
				}
			})
			b := site.browser()
			b.use(func(s sessions.Session) { _ = state.Set(s, "pQ4vR8xT") })
			var loaded, done sync.WaitGroup
			loaded.Add(parallel)
			var ok atomic.Int64
			for range parallel {
				tab := b.clone()
				done.Go(func() {
					r := tab.do(func(w http.ResponseWriter, r *http.Request) {
						s, err := sessions.Get(r.Context())
						loaded.Done()
						loaded.Wait()
						if err == nil {
							err = use(s)
						}
						if err != nil {
							http.Error(w, err.Error(), http.StatusTeapot)
						}
					})
					if r.err == nil && r.status == http.StatusOK {
						ok.Add(1)
					}
				})
			}
			done.Wait()
			return int(ok.Load()), int(failed.Load())
		}

		got, refused := ask(func(s sessions.Session) error { return redeem(s, "pQ4vR8xT") })
		require.Equal(t, [2]int{1, parallel - 1}, [2]int{got, refused})
		got, refused = ask(func(s sessions.Session) error { // a login
			s.Renew()
			return errors.Join(redeem(s, "pQ4vR8xT"), s.Set("user", 42))
		})
		require.Equal(t, [2]int{1, parallel - 1}, [2]int{got, refused})
		got, _ = ask(func(s sessions.Session) error {
			if _, ok := state.Take(s); !ok {
				return errUsed
			}
			return nil
		})
		require.Equal(t, parallel, got, "Take is not for this")
	})
}
