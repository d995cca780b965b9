package sessions_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

// A proxy chain that loses the scheme on a POST must not cost the session after a logout its Secure attribute.
func TestP12_SecureOutlivesDestroy(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(_ http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		require.NoError(t, s.Set("user", 42))
	})
	mux.HandleFunc("POST /logout", func(_ http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		s.Destroy()
		require.NoError(t, s.Set("flash", "Good bye."))
	})
	visit := func(method, path, proto, token string) *http.Cookie {
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr = "10.0.0.7:4711"
		r.Header.Set("X-Forwarded-Proto", proto)
		if token != "" {
			r.AddCookie(&http.Cookie{Name: "session", Value: token})
		}
		w := httptest.NewRecorder()
		mgr.Wrap(mux).ServeHTTP(w, r)
		require.Len(t, w.Result().Cookies(), 1)
		return w.Result().Cookies()[0]
	}

	born := visit("GET", "/", "https", "")
	require.True(t, born.Secure)
	next := visit("POST", "/logout", "http", born.Value)
	require.NotEqual(t, born.Value, next.Value)
	require.True(t, next.Secure)

	require.False(t, visit("GET", "/", "http", "").Secure, "a session that never saw https")
}
