package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

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
