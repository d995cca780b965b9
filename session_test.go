package sessions_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

// A value whose type has changed between two deploys is no login any more. That must leave a trace.
func TestP13_ValueThatDoesNotFit(t *testing.T) {
	const secret = "the secret value"
	for name, store := range map[string]sessions.Store{"memory": sessiontest.NewMemoryStore(), "cookie": cookieStoreWith(t, secretA)} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, store)
			b := site.browser()
			b.use(func(s sessions.Session) {
				require.NoError(t, s.Set("user_id", secret))
				require.NoError(t, s.Set("cart_id", secret))
				require.NoError(t, s.Set("visits", 1))
			})
			id := b.id()
			misfits := func() []sessions.Event {
				defer site.events.reset()
				return site.events.with(sessions.OutcomeUndecodable)
			}

			userID, cartID, visits := sessions.NewKey[int64]("user_id"), sessions.NewKey[int64]("cart_id"), sessions.NewKey[int]("visits")
			b.use(func(s sessions.Session) {
				for range 3 {
					_, ok := userID.Get(s)
					require.False(t, ok)
					_, ok = cartID.Get(s)
					require.False(t, ok)
				}
				n, ok := visits.Get(s)
				require.True(t, ok)
				require.Equal(t, 1, n)
				_, ok = sessions.NewKey[int64]("nothing").Get(s)
				require.False(t, ok, "which is no misfit")
			})
			got := misfits()
			require.Len(t, got, 1, "one event per request and type")
			require.Equal(t, sessions.EventReject, got[0].Kind)
			require.Equal(t, id, got[0].SessionID)
			require.Contains(t, got[0].Detail, "int64")
			require.NoError(t, got[0].Err)
			lines := site.log.lines("undecodable")
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], "level=WARN")
			require.Contains(t, lines[0], "session="+id)
			require.Contains(t, lines[0], "int64")
			for _, leak := range []string{secret, "user_id", "cart_id"} {
				require.NotContains(t, fmt.Sprintf("%v %+v", lines, got), leak)
			}

			b.use(func(s sessions.Session) {
				var into []string
				_, err := s.Get("user_id", &into)
				require.Error(t, err)
				_, ok := userID.Get(s)
				require.False(t, ok)
			})
			got = misfits()
			require.Len(t, got, 2, "another request, and another type")
			require.Contains(t, got[0].Detail, "[]string")
			require.NotContains(t, got[0].Detail, "*[]string", "the type of the key, not of its pointer")

			b.use(func(s sessions.Session) {
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() { userID.Get(s) })
				}
				wg.Wait()
			})
			require.Len(t, misfits(), 1)
		})
	}
}

// An Update whose function sets its own key would never end: each run finds another value than the one that it was
// given.
func TestUpdateOfItsOwnKey(t *testing.T) {
	b := newSite(t, sessiontest.NewMemoryStore()).browser()
	count := sessions.NewKey[int]("count")
	b.set("count", 0)
	b.use(func(s sessions.Session) {
		runs := 0
		err := s.Update("count", func(json.RawMessage) (any, error) {
			if runs++; runs > 5000 {
				return nil, errors.New("it does not end")
			}
			return -1, count.Set(s, runs)
		})
		require.EqualError(t, err, "sessions: Update: the value changed 1000 times while the function ran: let the function return the new value instead of setting its own key")
		require.Equal(t, 1000, runs)

		n, err := count.Update(s, func(n int) int { return n + 1 })
		require.NoError(t, err, "the session is as good as before")
		require.Equal(t, 1001, n)
	})
	require.Equal(t, "1001", b.get("count"))

	b.use(func(s sessions.Session) { // one that sets what stays the same ends by itself
		n, err := count.Update(s, func(n int) int { _ = count.Set(s, 7); return n + 1 })
		require.NoError(t, err)
		require.Equal(t, 8, n)
	})
}

// Many goroutines of one handler update one key: none of them gives up.
func TestUpdateInManyGoroutines(t *testing.T) {
	b := newSite(t, sessiontest.NewMemoryStore()).browser()
	count := sessions.NewKey[int]("count")
	b.use(func(s sessions.Session) {
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				_, err := count.Update(s, func(n int) int { return n + 1 })
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	require.Equal(t, "200", b.get("count"))
}
