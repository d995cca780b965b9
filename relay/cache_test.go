package relay_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

func TestCache_IsBounded(t *testing.T) {
	for size, most := range map[int]int{0: 10_000, 1: 2, 2: 2, 3: 4, 1000: 1000, -1: 0} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := newService(t, func(c *relay.VerifierConfig) { c.CacheSize = size })
			peak := 0
			for n := range 100 {
				s.verifier.Remember(n*1000, (n+1)*1000)
				peak = max(peak, s.verifier.Remembered())
				require.LessOrEqual(t, s.verifier.Remembered(), most)
			}
			require.Equal(t, most > 0, s.verifier.Remembers(99_999), "the last one")
			require.False(t, s.verifier.Remembers(0))
			require.GreaterOrEqual(t, peak, most/2)
		})
	}
}

func TestCache_KeepsWhatIsUsed(t *testing.T) {
	s := newService(t, func(c *relay.VerifierConfig) { c.CacheSize = 100 })
	s.verifier.Remember(0, 1)
	for n := 1; n < 1000; n++ {
		s.verifier.Remember(n, n+1)
		require.True(t, s.verifier.Remembers(0), n)
		require.LessOrEqual(t, s.verifier.Remembered(), 100)
	}
	// The same one again takes no room: what is there stays.
	s = newService(t, func(c *relay.VerifierConfig) { c.CacheSize = 100 })
	s.verifier.Remember(0, 100)
	s.verifier.Remember(99, 100)
	require.Equal(t, 100, s.verifier.Remembered())
	require.True(t, s.verifier.Remembers(0))
}

// countingKeys counts who asks for a key.
type countingKeys struct {
	relay.KeySet
	n atomic.Int64
}

func (k *countingKeys) Key(ctx context.Context, id string) (relay.PublicKey, error) {
	k.n.Add(1)
	return k.KeySet.Key(ctx, id)
}

func TestCache_AHitNeedsNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{0, -1} {
			keys := &countingKeys{KeySet: keySet(t, signingKey(t, "k1", edKey(1)).Public())}
			s := newService(t, func(c *relay.VerifierConfig) { c.Keys, c.CacheSize = keys, size })
			token := newMint(t, relay.EdDSA).good()
			for range 10 {
				s.accepts(token)
			}
			want := int64(1)
			if size < 0 {
				want = 10
			}
			require.Equal(t, want, keys.n.Load())
			time.Sleep(time.Minute - time.Nanosecond)
			s.accepts(token)
			time.Sleep(time.Nanosecond)
			s.refuses(expired, token) // though it is remembered
			require.Equal(t, 1+size, s.verifier.Remembered())
		}
	})
}

func TestCache_ForgetsNothingThatMatters(t *testing.T) {
	// What is remembered is what the token says, and not what another one with the same key or session says.
	s := newService(t)
	m := newMint(t, relay.EdDSA)
	for range 2 {
		for i := range 20 {
			token := m.with(m.header(), m.claims().with("sub", fmt.Sprint("user ", i)).with("tctx", map[string]any{"user_id": i}))
			s.use(token, func(_ context.Context, got sessions.Session) {
				user, ok := userID.Get(got)
				require.True(t, ok)
				require.EqualValues(t, i, user)
			})
		}
	}
	require.Equal(t, 20, s.verifier.Remembered())
}

func TestCache_Concurrent(t *testing.T) {
	s := newService(t, func(c *relay.VerifierConfig) { c.CacheSize = 8 })
	m := newMint(t, relay.EdDSA)
	tokens := make([]string, 12) // more than there is room for
	for i := range tokens {
		tokens[i] = m.with(m.header(), m.claims().with("tctx", map[string]any{"user_id": i}))
	}
	bad := part(tokens[0], 2, func(string) string { return b64(string(make([]byte, 64))) })
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 60 {
				n := (g*7 + i) % len(tokens)
				s.use(tokens[n], func(_ context.Context, got sessions.Session) {
					if user, ok := userID.Get(got); !ok || int(user) != n {
						t.Errorf("%d, %v for token %d", user, ok, n)
					}
				})
				if s.verifier.VerifyAt(t.Context(), bad, time.Now()) == nil {
					t.Error("accepted")
				}
				if size := s.verifier.Remembered(); size > 8 {
					t.Errorf("%d remembered", size)
				}
			}
		})
	}
	wg.Wait()
}
