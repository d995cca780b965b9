package sessions_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

// discard is a ResponseWriter that allocates nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func TestP01_Allocations(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	mgr, err := sessions.New(sessions.Config{Store: spy})
	require.NoError(t, err)
	page := []byte("a page")
	handlers := map[string]http.HandlerFunc{
		"writes":         func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) },
		"writes nothing": func(http.ResponseWriter, *http.Request) {},
		"status only":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	}
	for name, bare := range handlers {
		wrapped := mgr.Wrap(bare)
		for _, outer := range []int{0, 1, 3, 6, 7, 10, 40} {
			for _, values := range []int{1, 3} {
				t.Run(fmt.Sprintf("%s, %d outer headers of %d values", name, outer, values), func(t *testing.T) {
					w := &discard{http.Header{}}
					for i := range outer {
						for range values {
							w.header.Add(fmt.Sprintf("X-Outer-%d", i), "value")
						}
					}
					r := httptest.NewRequest(http.MethodGet, "/", nil)
					r.Header.Set("Cookie", "session=AAECAwQFBgcICQoLDA0ODw")
					without := testing.AllocsPerRun(200, func() { bare.ServeHTTP(w, r) })
					with := testing.AllocsPerRun(200, func() { wrapped.ServeHTTP(w, r) })
					require.LessOrEqual(t, with-without, 3.0)
				})
			}
		}
	}
	require.Zero(t, spy.calls())
}

// What a request costs in allocations, with a small session. The sealed cookie is that of the AEAD codec; the store in
// memory makes a copy of each record, and the Redis client allocates by itself, so that neither would show much. The race
// detector costs a few.
func TestAllocations(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: storeOver(t, codecKind(sessions.NewAEADCodec).with(t, secretA))})
	require.NoError(t, err)
	user, visits := sessions.NewKey[string]("user"), sessions.NewKey[int]("visits")
	handler := func(fn func(sessions.Session)) http.Handler {
		return mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			if err != nil {
				t.Error(err)
				return
			}
			fn(s)
			w.WriteHeader(http.StatusNoContent)
		}))
	}
	b := newSite(t, storeOver(t, codecKind(sessions.NewAEADCodec).with(t, secretA))).browser()
	b.use(func(s sessions.Session) {
		require.NoError(t, user.Set(s, "ada"))
		require.NoError(t, visits.Set(s, 1))
	})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", "session="+b.cookie())
	w := &discard{http.Header{}}
	for _, c := range []struct {
		name string
		most float64
		fn   func(sessions.Session)
	}{
		{"read", 16, func(s sessions.Session) { _, _ = visits.Get(s) }},
		{"read and write", 35, func(s sessions.Session) { _, _ = visits.Update(s, func(n int) int { return n + 1 }) }},
	} {
		h := handler(c.fn)
		got := testing.AllocsPerRun(500, func() {
			clear(w.header)
			h.ServeHTTP(w, r)
		})
		require.LessOrEqual(t, got, c.most, c.name)
	}
}
