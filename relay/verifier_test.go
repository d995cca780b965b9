package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

func TestService_TheSessionOfTheEdge(t *testing.T) {
	e, s := newEdge(t, newMemory()), newService(t)
	e.login()
	var id string
	var began, ends time.Time
	var token string
	e.use(func(ctx context.Context, at sessions.Session) {
		id, began, ends, token = at.ID(), at.CreatedAt(), at.ExpiresAt(), e.mustToken(ctx)
	})
	s.use(token, func(ctx context.Context, got sessions.Session) {
		require.Equal(t, claimsOf(t, token)["txn"], relay.Transaction(ctx))
		require.Empty(t, relay.Transaction(context.Background()))
		require.Equal(t, id, got.ID())
		require.False(t, got.IsNew())
		require.Equal(t, began.Unix(), got.CreatedAt().Unix())
		require.Equal(t, ends.Unix(), got.ExpiresAt().Unix())
		require.Equal(t, []string{"tenant", "user_id"}, slices.Sorted(got.Keys()))
		for range got.Keys() {
			break // a loop may end early
		}
		user, ok := userID.Get(got)
		require.True(t, ok)
		require.EqualValues(t, 42, user)
		name, ok := tenant.Get(got)
		require.True(t, ok)
		require.Equal(t, tenantValue, name)

		// what was not shared
		_, ok = note.Get(got)
		require.False(t, ok)
		found, err := got.Get(noteKey, new(any))
		require.False(t, found)
		require.NoError(t, err)

		// what does not fit
		_, ok = sessions.NewKey[[]int]("user_id").Get(got)
		require.False(t, ok)
		for _, into := range []any{new([]int), nil, 42, (*int)(nil)} {
			found, err = got.Get("user_id", into)
			require.True(t, found)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "42")
		}
		_, err = got.Get("tenant", new(int))
		require.Error(t, err)
		fmt.Fprintln(&watch, err)
	})
	require.NotContains(t, fmt.Sprint(claimsOf(t, token)), noteValue)
	require.NotContains(t, fmt.Sprint(claimsOf(t, token)), noteKey)
	require.NotContains(t, fmt.Sprint(claimsOf(t, token)), e.cookies["session"], "P11: the session token")
}

func TestService_WithoutAToken(t *testing.T) {
	s := newService(t, func(c *relay.VerifierConfig) {
		c.Confirm = func(context.Context, string) (bool, error) { t.Error("there is nothing to ask for"); return true, nil }
	})
	w, reached := s.call(func(_ http.ResponseWriter, r *http.Request) {
		got, err := sessions.Get(r.Context())
		require.NoError(t, err)
		require.True(t, got.IsNew())
		require.Empty(t, got.ID())
		require.True(t, got.CreatedAt().IsZero())
		require.True(t, got.ExpiresAt().IsZero())
		require.Empty(t, slices.Collect(got.Keys()))
		_, ok := userID.Get(got)
		require.False(t, ok)
		require.ErrorIs(t, got.Set("user_id", 1), sessions.ErrReadOnly)
		token, err := s.verifier.Token(r.Context())
		require.NoError(t, err)
		require.Empty(t, token)
		require.Equal(t, sessions.ErrNotFound, relay.Confirm(r.Context()))
	})
	require.True(t, reached)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "load none", s.rec.take()[0])
	require.Empty(t, s.rec.lines())
}

// TestService_WithoutTheMiddleware: that it is missing is never taken for a visitor whom nobody knows.
func TestService_WithoutTheMiddleware(t *testing.T) {
	s := newService(t)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Txn-Token", newMint(t, relay.EdDSA).good())
	_, err := sessions.Get(r.Context())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	_, err = s.verifier.Token(r.Context())
	require.ErrorIs(t, err, relay.ErrNotWrapped)
	require.ErrorIs(t, relay.Confirm(r.Context()), relay.ErrNotWrapped)

	// A session of another kind is none that came by relay.
	e := newEdge(t, newMemory())
	e.login()
	e.use(func(ctx context.Context, _ sessions.Session) {
		_, err = s.verifier.Token(ctx)
		require.ErrorIs(t, err, relay.ErrNotWrapped)
		require.ErrorIs(t, relay.Confirm(ctx), relay.ErrNotWrapped)
	})

	// Nor is that of another verifier.
	other := newService(t)
	other.use(r.Header.Get("Txn-Token"), func(ctx context.Context, _ sessions.Session) {
		_, err = s.verifier.Token(ctx)
		require.ErrorIs(t, err, relay.ErrNotWrapped)
	})
}

// TestService_WithSessionsOfItsOwn: sessions.Get gives those, and the token goes on.
func TestService_WithSessionsOfItsOwn(t *testing.T) {
	s := newService(t, func(c *relay.VerifierConfig) {
		c.Confirm = func(context.Context, string) (bool, error) { return true, nil }
	})
	mgr, err := sessions.New(sessions.Config{Store: newMemory(), Cookie: sessions.Cookie{Name: "own"}})
	require.NoError(t, err)
	token := newMint(t, relay.EdDSA).good()
	_, reached := s.call(func(w http.ResponseWriter, r *http.Request) {
		mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			own, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, own.Set("a", 1))
			require.NotEqual(t, "a-public-handle", own.ID())
			got, err := s.verifier.Token(r.Context())
			require.NoError(t, err)
			require.Equal(t, token, got)
			require.NoError(t, relay.Confirm(r.Context()))
		})).ServeHTTP(w, r)
	}, token)
	require.True(t, reached)
}

// scribbler writes over what it is given to read.
type scribbler struct{ seen string }

func (s *scribbler) UnmarshalJSON(text []byte) error {
	s.seen = string(text)
	for i := range text {
		text[i] = 'x'
	}
	return nil
}

func TestService_ErrorHandler(t *testing.T) {
	broken := errors.New("the key set is broken")
	var got error
	handler := func(w http.ResponseWriter, r *http.Request, err error) {
		got = err
		http.Error(w, "mine", http.StatusTeapot)
	}
	s := newService(t, func(c *relay.VerifierConfig) { c.ErrorHandler = handler })
	w, reached := s.call(nil, "x")
	require.False(t, reached)
	require.Equal(t, http.StatusTeapot, w.Code)
	require.ErrorAs(t, got, new(*relay.TokenError))

	s = newService(t, func(c *relay.VerifierConfig) {
		c.ErrorHandler, c.Keys = handler, keyFunc(func(context.Context, string) (relay.PublicKey, error) { return relay.PublicKey{}, broken })
	})
	_, reached = s.call(nil, newMint(t, relay.EdDSA).good())
	require.False(t, reached)
	require.ErrorIs(t, got, broken)
	require.NotErrorIs(t, got, relay.ErrUnknownKey)
}

type keyFunc func(context.Context, string) (relay.PublicKey, error)

func (f keyFunc) Key(ctx context.Context, id string) (relay.PublicKey, error) { return f(ctx, id) }

// TestService_KeysOfAnotherKind: a KeySet that somebody else has written, with mistakes.
func TestService_KeysOfAnotherKind(t *testing.T) {
	m := newMint(t, relay.EdDSA)
	good := signingKey(t, "k1", m.key).Public()
	for name, keys := range map[string]keyFunc{
		"not made with NewPublicKey": func(context.Context, string) (relay.PublicKey, error) {
			return relay.PublicKey{ID: "k1", Key: good.Key}, nil
		},
		"none, without an error": func(context.Context, string) (relay.PublicKey, error) { return relay.PublicKey{}, nil },
		"a secret": func(context.Context, string) (relay.PublicKey, error) {
			k := good
			k.Key = []byte("secret")
			return k, nil
		},
		"nil":           func(context.Context, string) (relay.PublicKey, error) { k := good; k.Key = nil; return k, nil },
		"a private key": func(context.Context, string) (relay.PublicKey, error) { k := good; k.Key = m.key; return k, nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, func(c *relay.VerifierConfig) { c.Keys = keys })
			s.refuses(tampered, m.good())
		})
	}
}
