package relay_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/relay"
)

// chain is an edge and three services over HTTP, each of which calls the next one.
type chain struct {
	edge     *edge
	services []*service
	front    string // the address of the edge

	mu  sync.Mutex
	got []string // the tokens that arrived
	at  []string // who the user is, as each service sees it
}

func newChain(t *testing.T, store sessions.Store, confirm func(context.Context, string) (bool, error)) *chain {
	c := &chain{}
	c.edge = newEdge(t, store)
	keys := serve(t, c.edge.issuer.Keys())
	next := ""
	for i := 2; i >= 0; i-- {
		set, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: keys.URL})
		require.NoError(t, err)
		s := newService(t, func(cfg *relay.VerifierConfig) { cfg.Keys, cfg.Confirm = set, confirm })
		client := &http.Client{Transport: s.verifier.Transport(nil)}
		t.Cleanup(client.CloseIdleConnections)
		to := next
		handler := s.verifier.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session, err := sessions.Get(r.Context())
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			user, _ := userID.Get(session)
			c.mu.Lock()
			c.at = append(c.at, fmt.Sprintf("%c: %d", 'A'+i, user))
			c.mu.Unlock()
			if to != "" {
				call(w, r.Context(), client, to)
			}
		}))
		server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.got = append(c.got, r.Header["Txn-Token"]...)
			c.mu.Unlock()
			handler.ServeHTTP(w, r)
		}))
		next = server.URL
		c.services = append([]*service{s}, c.services...)
	}
	client := &http.Client{Transport: c.edge.issuer.Transport(nil)}
	t.Cleanup(client.CloseIdleConnections)
	c.edge.steps.Store("click", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { call(w, r.Context(), client, next) }))
	c.edge.steps.Store("twelve", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() { call(discard{}, r.Context(), client, next) })
		}
		wg.Wait()
	}))
	c.front = c.edge.on(t).URL
	return c
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// call passes on what the next one answers.
func call(w http.ResponseWriter, ctx context.Context, client *http.Client, address string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	res, err := client.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
}

// click is one of the browser, over HTTP.
func (c *chain) click(t *testing.T, step string) {
	t.Helper()
	c.mu.Lock()
	c.got, c.at = nil, nil
	c.mu.Unlock()
	req, err := http.NewRequest(http.MethodGet, c.front, nil)
	require.NoError(t, err)
	req.Header.Set("Step", step)
	req.AddCookie(&http.Cookie{Name: "session", Value: c.edge.cookies["session"]})
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", body)
}

func TestChain_OneTokenAndOneRead(t *testing.T) {
	store := newMemory()
	c := newChain(t, store, nil)
	c.edge.login()
	for range 3 {
		loads, saves, touches, deletes := store.Calls()
		c.click(t, "click")
		l, s, to, d := store.Calls()
		require.Equal(t, []int{1, 0, 0, 0}, []int{l - loads, s - saves, to - touches, d - deletes}, "one read for one click")
		require.Equal(t, []string{"A: 42", "B: 42", "C: 42"}, c.at)
		require.Len(t, c.got, 3)
		require.Equal(t, c.got[0], c.got[1], "byte for byte")
		require.Equal(t, c.got[0], c.got[2])
		watch.token(c.got[0])
	}
	loads, _, _, _ := store.Calls()
	c.click(t, "twelve")
	l, _, _, _ := store.Calls()
	require.Equal(t, 1, l-loads)
	require.Len(t, c.got, 36)
	for _, token := range c.got {
		require.Equal(t, c.got[0], token)
	}
}

func TestChain_OneReadOfRedis(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	c := newChain(t, store, store.Alive)
	c.edge.login()
	require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
	c.click(t, "twelve")
	require.Len(t, c.at, 36)
	require.Equal(t, map[string]string{"get": "1"}, commands(t, rdb))
}

// commands returns how often each command was called that touches a key.
func commands(t *testing.T, rdb *redis.Client) map[string]string {
	t.Helper()
	text, err := rdb.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	found := map[string]string{}
	for line := range strings.Lines(text) {
		if name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls="); ok {
			switch name {
			case "info", "hello", "client", "client|setinfo", "client|maint_notifications", "client|setname", "config|resetstat", "ping", "select", "auth", "command":
			default:
				found[name], _, _ = strings.Cut(rest, ",")
			}
		}
	}
	return found
}

// TestChain_ACallAfterTheEnd: the next service would refuse it, and this one can say why.
func TestChain_ACallAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		token := newMint(t, relay.EdDSA).good()
		s.use(token, func(ctx context.Context, got sessions.Session) {
			sent := 0
			rt := s.verifier.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
				sent++
				require.Equal(t, []string{token}, r.Header["Txn-Token"])
				return &http.Response{Body: http.NoBody}, nil
			}))
			do := func() error {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1/", nil)
				require.NoError(t, err)
				_, err = rt.RoundTrip(req)
				return err
			}
			time.Sleep(59 * time.Second)
			require.NoError(t, do())
			time.Sleep(time.Second)
			var refused *relay.TokenError
			require.ErrorAs(t, do(), &refused)
			require.Equal(t, expired, refused.Outcome)
			require.Equal(t, 1, sent)
			_, ok := userID.Get(got) // what this request knows, it knows
			require.True(t, ok)
		})
	})
}

// TestChain_ForwardsToListedHostsOnly is TestEdge_Redirects for a service.
func TestChain_ForwardsToListedHostsOnly(t *testing.T) {
	nw := newNetwork(t, 3)
	s := newService(t, func(c *relay.VerifierConfig) { c.Hosts = []string{nw.host(0), nw.host(1)} })
	token := newMint(t, relay.EdDSA).good()
	client := &http.Client{Transport: s.verifier.Transport(nil)}
	defer client.CloseIdleConnections()
	for _, tokens := range [][]string{{token}, nil} {
		with := strings.Join(tokens, "")
		for path, want := range map[string][]string{
			"0 2": {"0:" + with + ":", "2::"}, "2 0": {"2::", "0:" + with + ":"}, "0 1": {"0:" + with + ":", "1:" + with + ":"}, "2 2": {"2::", "2::"},
		} {
			_, reached := s.call(func(w http.ResponseWriter, r *http.Request) {
				hops := strings.Fields(path)
				var first int
				_, _ = fmt.Sscan(hops[0], &first)
				req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, nw.servers[first].URL+"/?"+url.Values{"to": hops[1:]}.Encode(), nil)
				require.NoError(t, err)
				req.Header.Set("Txn-Token", "of the caller")
				res, err := client.Do(req)
				require.NoError(t, err)
				_ = res.Body.Close()
			}, tokens...)
			require.True(t, reached)
			require.Equal(t, want, nw.take(), path)
		}
	}
}

// Revocation

func TestRevocation_ATokenOutlivesALogoutByItsLifeAndNoLonger(t *testing.T) {
	for _, lifetime := range []time.Duration{2 * time.Second, time.Minute, relay.MaxLifetime} {
		t.Run(lifetime.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Lifetime = lifetime })
				s := newService(t)
				e.login()
				token := e.token()
				old := e.cookies["session"]
				e.use(func(_ context.Context, s sessions.Session) { s.Destroy() })
				e.cookies["session"] = old // the browser was told to forget it; a thief was not
				require.Empty(t, e.token(), "the edge knows at once")

				time.Sleep(lifetime - time.Nanosecond)
				s.accepts(token)
				time.Sleep(time.Nanosecond)
				s.refuses(expired, token)
				time.Sleep(time.Hour)
				s.refuses(expired, token)
			})
		})
	}
}

func TestRevocation_ConfirmSeesALogoutAtOnce(t *testing.T) {
	server := redistest.Start(t)
	store, err := sessions.NewRedisStore(server.Client(t), sessions.RedisStoreConfig{TTL: time.Hour})
	require.NoError(t, err)
	e := newEdge(t, store)
	s := newService(t, func(c *relay.VerifierConfig) { c.Confirm = store.Alive })
	confirm := func(token string) (err error) {
		s.use(token, func(ctx context.Context, _ sessions.Session) {
			s.rec.take()
			err = relay.Confirm(ctx)
		})
		if err != nil {
			fmt.Fprintf(&watch, "%v %+v\n", err, err)
		}
		return err
	}

	e.login()
	before := e.token()
	require.NoError(t, confirm(before))
	require.Equal(t, []string{"confirm loaded"}, s.rec.take())
	e.use(func(_ context.Context, s sessions.Session) { s.Renew() })
	after := e.token()
	require.ErrorIs(t, confirm(before), sessions.ErrGone, "renewed")
	require.Equal(t, []string{"confirm gone"}, s.rec.take())
	require.NoError(t, confirm(after))
	e.use(func(_ context.Context, s sessions.Session) { s.Destroy() })
	s.accepts(after) // still
	require.ErrorIs(t, confirm(after), sessions.ErrGone, "logged out")

	e.login()
	token := e.token()
	require.NoError(t, confirm(token))
	server.Stop()
	s.rec.lines()
	err = confirm(token)
	require.Error(t, err)
	require.NotErrorIs(t, err, sessions.ErrGone, "an outage is not a logout")
	require.NotErrorIs(t, err, sessions.ErrNotFound)
	events := s.rec.takeEvents()
	require.Len(t, events, 1)
	require.Equal(t, relay.EventConfirm, events[0].Kind)
	require.Equal(t, sessions.OutcomeError, events[0].Outcome)
	require.Error(t, events[0].Err)
	require.Len(t, s.rec.lines(), 1)
	server.Restart()
	require.ErrorIs(t, confirm(token), sessions.ErrGone, "it has lost its memory")
}

func TestRevocation_ConfirmWithoutAStore(t *testing.T) {
	s := newService(t)
	s.use(newMint(t, relay.EdDSA).good(), func(ctx context.Context, _ sessions.Session) {
		err := relay.Confirm(ctx)
		require.ErrorContains(t, err, "Confirm needs VerifierConfig.Confirm")
		require.NotErrorIs(t, err, sessions.ErrGone)
	})
}
