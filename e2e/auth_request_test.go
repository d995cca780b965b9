package e2e

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// An nginx that asks the app whether a request may pass, and answers it from somewhere else. PassOn is the line of
// docs/proxies.md, or nothing.
const gatewayConfig = `
	server {
		listen 127.0.0.1:{{.Port}};
		location = /nginx-is-up { return 204; }
		location / {
			auth_request /auth;
			{{.PassOn}}
			proxy_pass {{.Page}};
		}
		location = /auth {
			internal;
			proxy_pass {{.App}};
			proxy_pass_request_body off;
			proxy_set_header Content-Length "";
			proxy_set_header Host $http_host;
		}
		location = /login {
			proxy_pass {{.App}};
			proxy_set_header Host $http_host;
		}
	}
`

const passOn = `auth_request_set $session_cookie $upstream_http_set_cookie; add_header Set-Cookie $session_cookie always;`

// TestP03AuthRequest: a user who stays active for three idle timeouts behind such a gateway stays logged in, over Redis as
// it comes, and with a sealed cookie by the line that passes the new one on.
func TestP03AuthRequest(t *testing.T) {
	nginxPath(t)
	const idle = 3 * time.Second
	for _, c := range []struct {
		name   string
		store  func(t *testing.T) sessions.Store
		passOn string
		stays  bool
	}{
		{"Redis", overRedis, "", true},
		{"Redis, and the line", overRedis, passOn, true},
		{"a sealed cookie", sealed, "", false},
		{"a sealed cookie, and the line", sealed, passOn, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mgr, err := sessions.New(sessions.Config{Store: c.store(t), IdleTimeout: idle})
			require.NoError(t, err)
			mux := http.NewServeMux()
			mux.Handle("/login", withSession(func(_ http.ResponseWriter, _ *http.Request, s sessions.Session) error {
				s.Renew()
				s.SetLifetime(0, true)
				return userKey.Set(s, "ada")
			}))
			mux.Handle("/auth", withSession(func(w http.ResponseWriter, _ *http.Request, s sessions.Session) error {
				if _, ok := userKey.Get(s); !ok {
					w.WriteHeader(http.StatusUnauthorized)
				}
				return nil
			}))
			app := httptest.NewServer(mgr.Wrap(mux))
			t.Cleanup(app.Close)
			page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") }))
			t.Cleanup(page.Close)
			in := listen(t, 1)
			url := "http://" + in[0].Addr().String()
			startNginx(t, "gateway", gatewayConfig, map[string]any{"Port": port(in[0]), "App": app.URL, "Page": page.URL, "PassOn": c.passOn}, in...)

			jar, err := cookiejar.New(nil)
			require.NoError(t, err)
			client := &http.Client{Jar: jar, Transport: &http.Transport{}}
			t.Cleanup(client.CloseIdleConnections)
			status := func(path string) int {
				res, err := client.Get(url + path)
				require.NoError(t, err)
				defer res.Body.Close()
				_, _ = io.Copy(io.Discard, res.Body)
				return res.StatusCode
			}
			require.Equal(t, http.StatusUnauthorized, status("/"))
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			var begin, last time.Time
			for ; begin.IsZero() || time.Since(begin) <= 3*idle; <-tick.C {
				if begin.IsZero() { // the first time, and after the machine stood still
					begin = time.Now()
					require.Equal(t, http.StatusOK, status("/login"))
					last = begin
				}
				got := status("/")
				if time.Since(last) > idle/2 {
					begin = time.Time{}
					continue
				}
				last = time.Now()
				if !c.stays && got == http.StatusUnauthorized {
					require.Greater(t, time.Since(begin), idle/2)
					return
				}
				require.Equal(t, http.StatusOK, got, "after %v", time.Since(begin))
			}
			require.True(t, c.stays, "without the line, a sealed cookie cannot")
		})
	}
}

func overRedis(t *testing.T) sessions.Store {
	store, err := sessions.NewRedisStore(redistest.Start(t).Client(t), sessions.RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	return store
}

func sealed(t *testing.T) sessions.Store {
	codec, err := sessions.NewAEADCodec([]byte(strings.Repeat("0123456789abcdef", 2)))
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return store
}
