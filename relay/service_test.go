package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
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

func TestService_TheSessionIsReadOnly(t *testing.T) {
	s := newService(t)
	token := newMint(t, relay.EdDSA).good()
	s.use(token, func(_ context.Context, got sessions.Session) {
		s.rec.take()
		called := false
		require.ErrorIs(t, got.Set("user_id", 1), sessions.ErrReadOnly)
		require.ErrorIs(t, got.Update("user_id", func(json.RawMessage) (any, error) { called = true; return 1, nil }), sessions.ErrReadOnly)
		require.ErrorIs(t, userID.Set(got, 1), sessions.ErrReadOnly)
		_, err := userID.Update(got, func(int64) int64 { called = true; return 1 })
		require.ErrorIs(t, err, sessions.ErrReadOnly)
		require.False(t, called)
		require.Empty(t, s.rec.take(), "the caller has the error")
		require.Empty(t, s.rec.lines())

		for method, change := range map[string]func(){
			"Delete": func() { got.Delete("user_id") }, "Clear": got.Clear, "Renew": got.Renew, "Destroy": got.Destroy,
			"SetLifetime": func() { got.SetLifetime(time.Hour, true) },
		} {
			change()
			events := s.rec.takeEvents()
			require.Len(t, events, 1, method)
			require.Equal(t, sessions.EventCommit, events[0].Kind)
			require.Equal(t, relay.OutcomeReadOnly, events[0].Outcome)
			require.Equal(t, "a-public-handle", events[0].SessionID)
			require.ErrorIs(t, events[0].Err, sessions.ErrReadOnly)
			require.True(t, strings.HasPrefix(events[0].Detail, method+" "), events[0].Detail)
			lines := s.rec.lines()
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], "level=ERROR")
			require.Contains(t, lines[0], method)
		}
		_, ok := userID.Take(got) // reads, and deletes
		require.True(t, ok)
		require.Equal(t, []string{"commit read_only"}, s.rec.take())

		user, ok := userID.Get(got)
		require.True(t, ok)
		require.EqualValues(t, 42, user, "nothing has changed")
	})
	s.use(token, func(_ context.Context, got sessions.Session) {
		require.Equal(t, []string{"tenant", "user_id"}, slices.Sorted(got.Keys()), "nor for the next request")
	})
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

func TestP11_ASessionPrintsNoValue(t *testing.T) {
	s := newService(t)
	token := newMint(t, relay.EdDSA).good()
	s.use(token, func(ctx context.Context, got sessions.Session) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			require.Equal(t, "session a-public-handle", fmt.Sprintf(verb, got), verb)
			fmt.Fprintf(&watch, verb+"\n", []any{got, struct{ S sessions.Session }{got}, struct{ s sessions.Session }{got}})
		}
		fmt.Fprintf(&watch, "%s\n%v\n%+v\n", asJSON(t, got), ctx, ctx)
		for _, h := range []slog.Handler{slog.NewTextHandler(&watch, nil), slog.NewJSONHandler(&watch, nil)} {
			slog.New(h).Info("a session", "session", got, "ctx", ctx)
		}
		require.Equal(t, "{}", asJSON(t, got))
	})
	s.call(func(_ http.ResponseWriter, r *http.Request) {
		got, _ := sessions.Get(r.Context())
		require.Equal(t, "session ", fmt.Sprint(got))
	})
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

// TestService_RequestsDoNotShareValues: those with the same token share what was verified, and no more.
func TestService_RequestsDoNotShareValues(t *testing.T) {
	s := newService(t)
	token := newMint(t, relay.EdDSA).good()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, reached := s.call(func(_ http.ResponseWriter, r *http.Request) {
				got, err := sessions.Get(r.Context())
				require.NoError(t, err)
				for range 5 {
					var v scribbler
					found, err := got.Get("tenant", &v)
					require.True(t, found)
					require.NoError(t, err)
					require.Equal(t, `"`+tenantValue+`"`, v.seen)
				}
			}, token)
			require.True(t, reached)
		})
	}
	wg.Wait()
}

func TestService_ValuesArriveAsTheyWere(t *testing.T) {
	values := map[string]any{
		"null": nil, "true": true, "zero": 0, "big": json.Number("12345678901234567890"), "float": 1.5e300, "empty": "", "html": "<a href='x'>&amp;</a>",
		"unicode": "Grüße, 世界 \u2028\x00\U0001F600", "list": []any{1, "2", nil, []any{}}, "object": map[string]any{"a": map[string]any{"a": 1}}, "": "the empty name",
		"a.b\"c\n": "an odd name", "iss": "not the claim", "tctx": "nor this",
	}
	var names []string
	for name := range values {
		names = append(names, name)
	}
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Share = names })
	s := newService(t)
	e.use(func(_ context.Context, at sessions.Session) {
		for name, value := range values {
			require.NoError(t, at.Set(name, value))
		}
	})
	s.use(e.token(), func(_ context.Context, got sessions.Session) {
		require.ElementsMatch(t, names, slices.Collect(got.Keys()))
		for name, value := range values {
			var raw json.RawMessage
			found, err := got.Get(name, &raw)
			require.True(t, found, name)
			require.NoError(t, err)
			require.JSONEq(t, asJSON(t, value), string(raw), name)
		}
	})
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
