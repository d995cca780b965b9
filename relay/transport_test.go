package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

// seen is what a handler at the edge saw of a request.
type seen struct{ header, trailer http.Header }

// TestEdge_InboundCopiesAreDeleted sends raw HTTP to a real server.
func TestEdge_InboundCopiesAreDeleted(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked\r\n"
	for _, tt := range []struct {
		name, header, body string
		inbound            bool
		trailer            http.Header
	}{
		{name: "none"},
		{name: "canonical", header: "Txn-Token: x\r\n", inbound: true},
		{name: "upper case", header: "TXN-TOKEN: x\r\n", inbound: true},
		{name: "lower case", header: "txn-token: x\r\n", inbound: true},
		{name: "underscore", header: "Txn_Token: x\r\n", inbound: true},
		{name: "underscore, lower case", header: "txn_token: x\r\n", inbound: true},
		{name: "underscore, mixed case", header: "tXN_tOKEN: x\r\n", inbound: true},
		{name: "several lines", header: "Txn-Token: x\r\ntxn-token: y\r\nTXN_TOKEN: z\r\nTxn-Token:\r\n", inbound: true},
		{name: "empty", header: "Txn-Token:\r\n", inbound: true},
		{name: "others that look like it", header: "Txn-Tokens: x\r\nX-Txn-Token: x\r\nTxnToken: x\r\nTxn: x\r\n"},
		{name: "trailer", header: chunked + "Trailer: Txn-Token\r\n", body: "2\r\nok\r\n0\r\nTxn-Token: x\r\n\r\n", inbound: true, trailer: http.Header{}},
		{name: "trailer, only announced", header: chunked + "Trailer: Txn-Token\r\n", body: "2\r\nok\r\n0\r\n\r\n", inbound: true, trailer: http.Header{}},
		{name: "trailer, not announced", header: chunked + "Trailer: Checksum\r\n", body: "2\r\nok\r\n0\r\nChecksum: 1\r\nTxn-Token: x\r\n\r\n", inbound: true, trailer: http.Header{"Checksum": {"1"}}},
		{name: "trailer, with an underscore", header: chunked + "Trailer: Checksum\r\n", body: "2\r\nok\r\n0\r\ntxn_TOKEN: x\r\nChecksum: 1\r\n\r\n", inbound: true, trailer: http.Header{"Checksum": {"1"}}},
		{name: "trailer beside others", header: chunked + "Trailer: Checksum, Txn-Token\r\n", body: "2\r\nok\r\n0\r\nTxn-Token: x\r\nChecksum: 1\r\n\r\n", inbound: true, trailer: http.Header{"Checksum": {"1"}}},
		{name: "trailer and header", header: chunked + "Trailer: Checksum, Txn-Token\r\nTxn-Token: x\r\n", body: "2\r\nok\r\n0\r\nTxn-Token: x\r\nChecksum: 1\r\n\r\n", inbound: true, trailer: http.Header{"Checksum": {"1"}}},
		{name: "another trailer", header: chunked + "Trailer: Checksum\r\n", body: "2\r\nok\r\n0\r\nChecksum: 1\r\n\r\n", trailer: http.Header{"Checksum": {"1"}}},
		{name: "no trailers, none announced", header: chunked, body: "2\r\nok\r\n0\r\nTxn-Token: x\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEdge(t, newMemory())
			got := make(chan seen, 1)
			id := e.step(func(w http.ResponseWriter, r *http.Request) {
				before := r.Header.Clone()
				text, err := io.ReadAll(r.Body)
				if err != nil || tt.body != "" && string(text) != "ok" {
					http.Error(w, fmt.Sprint(err, string(text)), http.StatusInternalServerError)
				}
				got <- seen{before, r.Trailer.Clone()}
			})
			conn, err := net.Dial("tcp", e.on(t).Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: shop.example\r\nOther: stays\r\nStep: "+id+"\r\n"+tt.header+"\r\n"+tt.body)
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			g := <-got
			for name := range g.header {
				require.False(t, strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "Txn-Token"), name)
			}
			require.Equal(t, "stays", g.header.Get("Other"))
			require.Equal(t, tt.trailer, g.trailer)
			if !tt.inbound {
				require.Empty(t, e.rec.take())
				require.Empty(t, e.rec.lines())
				return
			}
			events := e.rec.takeEvents()
			require.Len(t, events, 1, "one for each request")
			require.Equal(t, sessions.EventReject, events[0].Kind)
			require.Equal(t, relay.OutcomeInbound, events[0].Outcome)
			require.Len(t, e.rec.lines(), 1)
		})
	}
}

func TestEdge_InboundOverHTTP2(t *testing.T) {
	e := newEdge(t, newMemory())
	server := httptest.NewUnstartedServer(e.handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	got := make(chan seen, 1)
	id := e.step(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got <- seen{r.Header.Clone(), r.Trailer.Clone()}
	})
	req, err := http.NewRequest(http.MethodPost, server.URL, io.NopCloser(strings.NewReader("ok")))
	require.NoError(t, err)
	req.Header = http.Header{"Step": {id}, "Txn-Token": {"x", "y"}, "txn_token": {"z"}}
	req.Trailer = http.Header{"Txn-Token": {"x"}, "Checksum": {"1"}}
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 2, res.ProtoMajor)
	g := <-got
	require.NotContains(t, g.header, "Txn-Token")
	require.NotContains(t, g.header, "Txn_token")
	require.Equal(t, http.Header{"Checksum": {"1"}}, g.trailer)
	require.Equal(t, []string{"reject inbound"}, e.rec.take())
}

func TestEdge_TheCallersRequestIsNotChanged(t *testing.T) {
	e, s := newEdge(t, newMemory()), newService(t)
	for name, wrap := range map[string]func(http.Handler) http.Handler{"edge": e.issuer.Wrap, "service": s.verifier.Wrap} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("ok"))
			r.Header = http.Header{"Txn-Token": {newMint(t, relay.EdDSA).good()}, "Other": {"x"}}
			r.Trailer = http.Header{"Txn-Token": {"t"}, "Checksum": {"1"}}
			before, body := r.Clone(t.Context()), r.Body
			reached := false
			wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				reached = true
				_, err := io.Copy(io.Discard, r.Body)
				require.NoError(t, err)
				require.Equal(t, http.Header{"Other": {"x"}}, r.Header)
				require.Equal(t, http.Header{"Checksum": {"1"}}, r.Trailer)
			})).ServeHTTP(httptest.NewRecorder(), r)
			require.True(t, reached)
			require.Equal(t, before.Header, r.Header)
			require.Equal(t, before.Trailer, r.Trailer)
			require.True(t, body == r.Body)
		})
	}
}

func TestEdge_HeaderOfAnotherName(t *testing.T) {
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Header = "x-internal-SESSION" })
	for _, name := range []string{"X-Internal-Session", "X_internal-session", "X_INTERNAL_SESSION"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{name: {"x"}, "Txn-Token": {"is another one"}, "Step": {e.step(func(_ http.ResponseWriter, r *http.Request) {
			require.Len(t, r.Header, 2)
			require.Equal(t, "is another one", r.Header.Get("Txn-Token"))
		})}}
		e.handler.ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, []string{"reject inbound"}, e.rec.take(), name)
	}
}

// anywhere is a base transport that takes requests for all hosts to one server, and says what arrived.
func anywhere(t *testing.T, header string) (base *http.Transport, arrived func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	server := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, strings.Join(r.Header[header], ","))
	}))
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	base = &http.Transport{DialContext: dial, DialTLSContext: dial, DisableKeepAlives: true} // "TLS" is plain here
	return base, func() []string {
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
}

func TestEdge_Hosts(t *testing.T) {
	for _, tt := range []struct {
		listed string
		yes    []string
		no     []string
	}{
		{listed: "orders.internal",
			yes: []string{"http://orders.internal", "https://orders.internal", "http://orders.internal:8080/x?y=z", "https://orders.internal:8443", "http://ORDERS.Internal",
				"http://orders.internal.", "http://orders.internal.:8080", "http://user:password@orders.internal/"},
			no: []string{"http://orders.internal.evil.example", "http://evil.example/orders.internal", "http://xorders.internal", "http://orders.internal@evil.example/",
				"http://evil.example#@orders.internal", "http://evil.example?orders.internal", "http://orders", "http://internal", "http://sub.orders.internal",
				"http://orders-internal", "http://ordersxinternal", "http://orders.internal..", "http://orders.internal%2eevil.example", "http://127.0.0.1"}},
		{listed: "Orders.INTERNAL.", yes: []string{"http://orders.internal", "http://orders.internal.:99"}, no: []string{"http://orders.internals"}},
		{listed: "orders.internal:8080",
			yes: []string{"http://orders.internal:8080", "https://orders.internal:8080", "http://ORDERS.internal.:8080", "http://orders.internal:08080"},
			no:  []string{"http://orders.internal", "https://orders.internal", "http://orders.internal:80", "http://orders.internal:80800", "http://orders.internal:808"}},
		{listed: "orders.internal:80", yes: []string{"http://orders.internal", "http://orders.internal:80", "http://orders.internal:"},
			no: []string{"https://orders.internal", "http://orders.internal:443"}},
		{listed: "orders.internal:443", yes: []string{"https://orders.internal", "https://orders.internal.", "http://orders.internal:443"},
			no: []string{"http://orders.internal", "https://orders.internal:80"}},
		{listed: "localhost", yes: []string{"http://localhost:1"}, no: []string{"http://127.0.0.1:1", "http://[::1]:1"}},
		{listed: "10.0.0.1", yes: []string{"http://10.0.0.1", "http://10.0.0.1:8080", "http://[::ffff:10.0.0.1]"},
			no: []string{"http://10.0.0.10", "http://10.0.0.1.evil.example", "http://10.0.0.1@evil.example"}},
		{listed: "10.0.0.1:80", yes: []string{"http://10.0.0.1"}, no: []string{"https://10.0.0.1", "http://10.0.0.1:8080"}},
		{listed: "[::1]", yes: []string{"http://[::1]", "http://[::1]:8080", "https://[0:0:0:0:0:0:0:1]", "http://[0000::0001]:1"}, no: []string{"http://[::2]", "http://[::1:1]"}},
		{listed: "[2001:DB8::1]:8080", yes: []string{"http://[2001:db8::1]:8080", "http://[2001:db8:0:0:0:0:0:1]:8080"},
			no: []string{"http://[2001:db8::1]", "http://[2001:db8::1]:80", "http://[2001:db8::1:8080]"}},
		{listed: "orders_1.internal", yes: []string{"http://orders_1.internal"}, no: []string{"http://orders-1.internal"}},
	} {
		t.Run(tt.listed, func(t *testing.T) {
			base, arrived := anywhere(t, "Txn-Token")
			e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Hosts = []string{"first.internal", tt.listed} })
			e.login()
			e.use(func(ctx context.Context, _ sessions.Session) {
				token := e.mustToken(ctx)
				client := &http.Client{Transport: e.issuer.Transport(base)}
				get := func(address string) []string {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
					if err != nil {
						return []string{""} // no such URL
					}
					res, err := client.Do(req)
					require.NoError(t, err, address)
					_ = res.Body.Close()
					return arrived()
				}
				for _, address := range tt.yes {
					require.Equal(t, []string{token}, get(address), "%s must have it", address)
				}
				for _, address := range tt.no {
					require.Equal(t, []string{""}, get(address), "%s must not have it", address)
				}
				require.Equal(t, []string{token}, get("http://first.internal"))
			})
		})
	}
}

// listener is a server that records the tokens of its requests, and redirects as their path says: /to/N to server N.
type network struct {
	servers []*httptest.Server
	mu      sync.Mutex
	got     []string
}

func newNetwork(t *testing.T, n int) *network {
	nw := &network{}
	for i := range n {
		nw.servers = append(nw.servers, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			nw.mu.Lock()
			nw.got = append(nw.got, fmt.Sprintf("%d:%s:%s", i, strings.Join(r.Header["Txn-Token"], ","), body))
			nw.mu.Unlock()
			if next := r.URL.Query()["to"]; len(next) > 0 {
				var to int
				_, _ = fmt.Sscan(next[0], &to)
				http.Redirect(w, r, nw.servers[to].URL+"/?"+url.Values{"to": next[1:]}.Encode(), http.StatusTemporaryRedirect)
			}
		})))
	}
	return nw
}

func (nw *network) host(i int) string { return nw.servers[i].Listener.Addr().String() }

func (nw *network) take() []string {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	got := nw.got
	nw.got = nil
	return got
}

func TestEdge_Redirects(t *testing.T) {
	nw := newNetwork(t, 4) // 0 and 1 are listed, 2 and 3 are not
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Hosts = []string{nw.host(0), nw.host(1)} })
	e.login()
	for _, path := range [][]int{{0, 2}, {2, 0}, {0, 1}, {2, 3}, {0, 2, 1}, {2, 0, 3}, {0, 0}, {0, 1, 2, 3, 0}} {
		for _, own := range []string{"", "of the caller"} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				t.Run(fmt.Sprint(path, own, method), func(t *testing.T) {
					e.use(func(ctx context.Context, _ sessions.Session) {
						token := e.mustToken(ctx)
						query := url.Values{}
						for _, to := range path[1:] {
							query.Add("to", fmt.Sprint(to))
						}
						transport := e.issuer.Transport(nil)
						client := &http.Client{Transport: transport}
						defer client.CloseIdleConnections()
						body := ""
						if method == http.MethodPost {
							body = "the body"
						}
						req, err := http.NewRequestWithContext(ctx, method, nw.servers[path[0]].URL+"/?"+query.Encode(), strings.NewReader(body))
						require.NoError(t, err)
						if own != "" {
							req.Header["Txn-Token"] = []string{own, own}
							req.Header["Txn_token"] = []string{own}
						}
						before := req.Header.Clone()
						res, err := client.Do(req)
						require.NoError(t, err)
						_ = res.Body.Close()
						require.Equal(t, before, req.Header, "the caller's own")
						var want []string
						for _, at := range path {
							if at < 2 {
								want = append(want, fmt.Sprintf("%d:%s:%s", at, token, body))
							} else {
								want = append(want, fmt.Sprintf("%d::%s", at, body))
							}
						}
						require.Equal(t, want, nw.take())
					})
				})
			}
		}
	}
}

// TestEdge_ReverseProxy: an edge that passes requests on as they are.
func TestEdge_ReverseProxy(t *testing.T) {
	nw := newNetwork(t, 2)
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Hosts = []string{nw.host(0)} })
	e.login()
	for i := range 2 {
		target, err := url.Parse(nw.servers[i].URL)
		require.NoError(t, err)
		transport := e.issuer.Transport(nil)
		defer (&http.Client{Transport: transport}).CloseIdleConnections()
		proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
		token := ""
		server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Step", e.step(func(w http.ResponseWriter, r *http.Request) {
				token = e.mustToken(r.Context())
				proxy.ServeHTTP(w, r)
			}))
			e.handler.ServeHTTP(w, r)
		}))
		for _, hop := range []string{"", "Txn-Token"} { // a client may ask a proxy to drop a header
			req, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader("the body"))
			require.NoError(t, err)
			req.Header = http.Header{"Txn-Token": {"of the client"}, "txn_token": {"of the client"}, "Cookie": {"session=" + e.cookies["session"]}}
			if hop != "" {
				req.Header.Set("Connection", hop)
			}
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			_ = res.Body.Close()
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.NotEmpty(t, token)
			require.Equal(t, []string{"private"}, res.Header.Values("Cache-Control"), "the edge has read a session for it")
			if i == 0 {
				require.Equal(t, []string{"0:" + token + ":the body"}, nw.take())
			} else {
				require.Equal(t, []string{"1::the body"}, nw.take())
			}
			require.Contains(t, e.rec.take(), "reject inbound")
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// trackedBody records whether it was closed.
type trackedBody struct {
	io.Reader
	closed int
}

func (b *trackedBody) Close() error { b.closed++; return nil }

func TestTransport_KeepsTheContractOfARoundTripper(t *testing.T) {
	base, arrived := anywhere(t, "Txn-Token")
	e := newEdge(t, newMemory(), func(c *relay.IssuerConfig) { c.Hosts = []string{"orders.internal"} })
	e.login()
	s := newService(t, func(c *relay.VerifierConfig) { c.Hosts = []string{"orders.internal"} })

	t.Run("an error closes the body and sends nothing", func(t *testing.T) {
		for name, transport := range map[string]http.RoundTripper{"edge": e.issuer.Transport(base), "service": s.verifier.Transport(base)} {
			body := &trackedBody{Reader: strings.NewReader("x")}
			req, err := http.NewRequest(http.MethodPost, "http://orders.internal", body) // without the context
			require.NoError(t, err)
			res, err := transport.RoundTrip(req)
			require.ErrorIs(t, err, relay.ErrNotWrapped, name)
			require.Nil(t, res)
			require.Equal(t, 1, body.closed, name)
			require.Empty(t, arrived())
			req, err = http.NewRequest(http.MethodGet, "http://orders.internal", nil)
			require.NoError(t, err)
			_, err = transport.RoundTrip(req)
			require.ErrorIs(t, err, relay.ErrNotWrapped)
		}
	})
	t.Run("other hosts need no context", func(t *testing.T) {
		req, err := http.NewRequest(http.MethodGet, "http://other.example", nil)
		require.NoError(t, err)
		res, err := e.issuer.Transport(base).RoundTrip(req)
		require.NoError(t, err)
		_ = res.Body.Close()
		require.Equal(t, []string{""}, arrived())
	})
	t.Run("the request is not modified", func(t *testing.T) {
		e.use(func(ctx context.Context, _ sessions.Session) {
			for _, header := range []http.Header{nil, {}, {"Other": {"x"}}, {"Txn-Token": {"own"}, "txn_token": {"own"}, "Other": {"x"}}} {
				for _, host := range []string{"orders.internal", "other.example"} {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host, nil)
					require.NoError(t, err)
					req.Header = header
					before, u := maps.Clone(header), *req.URL
					rt := e.issuer.Transport(roundTripper(func(out *http.Request) (*http.Response, error) {
						require.Equal(t, host == "orders.internal", len(out.Header["Txn-Token"]) == 1 && out.Header["Txn-Token"][0] != "own")
						require.NotContains(t, out.Header, "txn_token")
						require.Equal(t, header["Other"], out.Header["Other"])
						return &http.Response{Body: http.NoBody}, nil
					}))
					_, err = rt.RoundTrip(req)
					require.NoError(t, err)
					require.Equal(t, before, req.Header)
					require.Equal(t, u, *req.URL)
				}
			}
		})
	})
	t.Run("without a URL the base says so", func(t *testing.T) {
		for name, transport := range map[string]http.RoundTripper{"edge": e.issuer.Transport(base), "service": s.verifier.Transport(base)} {
			body := &trackedBody{Reader: strings.NewReader("x")}
			_, err := transport.RoundTrip(&http.Request{Header: http.Header{}, Body: body})
			require.ErrorContains(t, err, "nil Request.URL", name)
			require.Equal(t, 1, body.closed)
		}
	})
	t.Run("trailers that are filled in while the body is read", func(t *testing.T) {
		got := make(chan http.Header, 1)
		server := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			got <- r.Trailer.Clone()
		}))
		e := newEdge(t, newMemory())
		e.login()
		e.use(func(ctx context.Context, _ sessions.Session) {
			client := &http.Client{Transport: e.issuer.Transport(nil)}
			defer client.CloseIdleConnections()
			trailer := http.Header{"Checksum": nil}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, &atEnd{strings.NewReader("ok"), func() { trailer.Set("Checksum", "1") }})
			require.NoError(t, err)
			req.Trailer = trailer
			res, err := client.Do(req)
			require.NoError(t, err)
			_ = res.Body.Close()
			require.Equal(t, http.Header{"Checksum": {"1"}}, <-got)
		})
	})
	t.Run("idle connections can be closed", func(t *testing.T) {
		for _, wrap := range []func(http.RoundTripper) http.RoundTripper{e.issuer.Transport, s.verifier.Transport} {
			closed := &idle{}
			(&http.Client{Transport: wrap(closed)}).CloseIdleConnections()
			require.Equal(t, 1, closed.n)
			(&http.Client{Transport: wrap(roundTripper(nil))}).CloseIdleConnections() // one that cannot
		}
	})
	t.Run("an error of the base", func(t *testing.T) {
		broken := errors.New("broken")
		e.use(func(ctx context.Context, _ sessions.Session) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://orders.internal", nil)
			require.NoError(t, err)
			_, err = e.issuer.Transport(roundTripper(func(*http.Request) (*http.Response, error) { return nil, broken })).RoundTrip(req)
			require.Equal(t, broken, err)
		})
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type idle struct {
	roundTripper
	n int
}

func (i *idle) CloseIdleConnections() { i.n++ }

type atEnd struct {
	io.Reader
	fn func()
}

func (a *atEnd) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF {
		a.fn()
	}
	return n, err
}

// TestTransport_NoProxyOfTheEnvironment: what is in HTTP_PROXY would see the tokens.
func TestTransport_NoProxyOfTheEnvironment(t *testing.T) {
	proxied := 0
	proxy := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied++ }))
	proxyURL, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	std := http.DefaultTransport
	defer func() { http.DefaultTransport = std }()
	// What http.ProxyFromEnvironment says cannot be used: it leaves loopback addresses out, and reads the environment once.
	through := &http.Transport{Proxy: http.ProxyURL(proxyURL)}
	defer through.CloseIdleConnections()

	nw := newNetwork(t, 1)
	e := newEdge(t, newMemory())
	s := newService(t)
	e.login()
	for name, def := range map[string]http.RoundTripper{"the usual": through, "another type": roundTripper(func(*http.Request) (*http.Response, error) { proxied++; return nil, errors.New("proxied") })} {
		t.Run(name, func(t *testing.T) {
			http.DefaultTransport = def
			proxied = 0
			_, err := (&http.Client{}).Get(nw.servers[0].URL)
			_ = err
			require.Equal(t, 1, proxied, "the test itself")
			get := func(ctx context.Context, client *http.Client) {
				defer client.CloseIdleConnections()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, nw.servers[0].URL, nil)
				require.NoError(t, err)
				res, err := client.Do(req)
				require.NoError(t, err)
				_ = res.Body.Close()
			}
			e.use(func(ctx context.Context, _ sessions.Session) {
				get(ctx, &http.Client{Transport: e.issuer.Transport(nil)})
			})
			s.use(e.token(), func(ctx context.Context, _ sessions.Session) {
				get(ctx, &http.Client{Transport: s.verifier.Transport(nil)})
			})
			set, err := relay.NewRemoteKeySet(relay.RemoteKeySetConfig{URL: nw.servers[0].URL})
			require.NoError(t, err)
			_, err = set.Key(t.Context(), "k1")
			require.Error(t, err, "that is no JWK set")
			require.Equal(t, 1, proxied)
			require.Len(t, nw.take(), 3)
		})
	}
}

func TestHosts_Listed(t *testing.T) {
	for _, text := range []string{"", ".", ":80", "[]", "[]:80", "::1", "2001:db8::1", "[::1", "::1]", "a:b", "a:0", "a:65536", "a:-1", "a:", "a b", "a/b", "a/", "http://a", "*.a",
		"a?b", "a#b", "user@a", "a\n", " a", "[a]:80:90", "a:80:90", "[::1]:", "[::1]80", "[fe80::1%eth0]", "[fe80::1%25eth0]"} {
		_, err := relay.NewHosts(text)
		require.Error(t, err, "%q", text)
		var mistake *sessions.ConfigError
		require.ErrorAs(t, err, &mistake, "%q", text)
		require.Equal(t, "Hosts", mistake.Field)
	}
	h, err := relay.NewHosts("a", "A.", "b:1", "[::1]", "[0::1]", "1.2.3.4:05")
	require.NoError(t, err)
	require.ElementsMatch(t, [][2]string{{"a", ""}, {"b", "1"}, {"::1", ""}, {"1.2.3.4", "5"}}, h.Spellings())
	for _, u := range []*url.URL{{}, {Host: ":80"}, {Host: "."}, {Host: "b 1"}, {Host: "a b"}, {Host: "b:1:1"}, {Host: "1.2.3.4 5"}} {
		require.False(t, h.Has(u), "%q", u.Host)
	}
}

func TestEdge_DumpsHoldNoToken(t *testing.T) { // what prints the request of a handler prints no token
	s := newService(t)
	token := newMint(t, relay.EdDSA).good()
	_, reached := s.call(func(_ http.ResponseWriter, r *http.Request) {
		dump, err := httputil.DumpRequest(r, true)
		require.NoError(t, err)
		fmt.Fprintf(&watch, "%s\n%v\n%+v\n%#v\n", dump, r, r.Context(), r.Context())
		require.False(t, bytes.Contains(dump, []byte("Txn")))
	}, token)
	require.True(t, reached)
}
