package sessions_test

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

// A client that hangs up is not a store that fails: nobody is to be woken for it.
func TestP14_AHangUpIsNotLoggedAsAnOutage(t *testing.T) {
	site := newSite(t, memoryStore.make(t))
	b := site.browser()
	b.set("user", 42)
	b.do(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		_, err := sessions.Get(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
	require.Len(t, site.events.with(sessions.OutcomeError), 1)
	require.Empty(t, site.log.lines("level=ERROR"))
	require.Len(t, site.log.lines("request canceled"), 1)
}

// lookup is a log handler that adds who is logged in, as many an application has one.
type lookup struct {
	slog.Handler
	mgr **sessions.Manager
	n   *atomic.Int64
}

func (l lookup) Handle(ctx context.Context, rec slog.Record) error {
	l.n.Add(1)
	_, _ = sessions.Get(ctx)
	_, _ = (*l.mgr).Get(ctx)
	return l.Handler.Handle(ctx, rec)
}

// Functions that are called while a session is loaded or committed may ask for the session, and must not deadlock.
func TestObserveAsksForTheSession(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	var mgr, inner *sessions.Manager
	var logged, observed atomic.Int64
	ask := func(ctx context.Context) {
		observed.Add(1)
		for _, m := range []*sessions.Manager{mgr, inner} {
			if _, err := m.Get(ctx); err == nil {
				t.Error("a session in the context of an event")
			}
		}
		_, _ = sessions.Get(ctx)
	}
	edit := func(cfg *sessions.Config) {
		cfg.Observe = func(ctx context.Context, _ sessions.Event) { ask(ctx) }
		cfg.Logger = slog.New(lookup{slog.DiscardHandler, &mgr, &logged})
	}
	site := newSite(t, spy, edit)
	mgr = site.mgr
	innerSite := newSite(t, spy, edit, func(cfg *sessions.Config) { cfg.Cookie.Name = "inner" })
	inner = innerSite.mgr
	spy.before(func(ctx context.Context, _ string, _ *sessions.Record) error { _, _ = sessions.Get(ctx); return nil })
	b := site.browser()
	b.header.Set("Origin", "https://example.test")
	b.header.Set("Cookie", "session=AAECAwQFBgcICQoLDA0ODw") // rejected, with an event
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.set("n", 1)
		b.use(func(s sessions.Session) { s.Destroy() })
	}()
	wait(t, done)
	require.NotZero(t, observed.Load())
}
