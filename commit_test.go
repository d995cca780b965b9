package sessions_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// eachRealStore is eachStore without miniredis.
func eachRealStore(t *testing.T, test func(t *testing.T, sc storeCase, store sessions.Store)) {
	t.Helper()
	for _, sc := range []storeCase{memoryStore, cookieStore, redisStore} {
		t.Run(sc.name, func(t *testing.T) { test(t, sc, sc.make(t)) })
	}
}

// bigPage does not fit the buffers of net/http: it is on its way while the handler still runs.
var bigPage = bytes.Repeat([]byte("0123456789abcdef"), 1<<14)

var bigText = string(bigPage)

func bigFile(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "page.txt")
	require.NoError(t, os.WriteFile(name, bigPage, 0o600))
	return name
}

// way is one way to answer.
type way struct {
	name   string
	status int
	answer func(w http.ResponseWriter, r *http.Request)
}

// ways returns all ways to answer, apart from Hijack.
func ways(t *testing.T) []way {
	file := bigFile(t)
	return []way{
		{"Write", 200, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bigPage) }},
		{"WriteString", 200, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, bigText) }},
		{"Fprint", 200, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page") }},
		{"WriteHeader", 201, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }},
		{"WriteHeader 204", 204, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{"WriteHeader 304", 304, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }},
		{"WriteHeader twice", 404, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(200) }},
		{"Flush", 200, func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }},
		{"FlushError", 200, func(w http.ResponseWriter, _ *http.Request) {
			_ = w.(interface{ FlushError() error }).FlushError()
		}},
		{"ResponseController.Flush", 200, func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
		}},
		{"ResponseController.Flush behind a wrapper", 200, func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(unwrapper{w}).Flush()
		}},
		{"deadlines, then Write", 200, func(w http.ResponseWriter, _ *http.Request) {
			rc := http.NewResponseController(w)
			require.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, rc.SetReadDeadline(time.Now().Add(time.Minute)))
			_ = rc.EnableFullDuplex()
			_, _ = w.Write(bigPage)
		}},
		{"io.Copy", 200, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, bytes.NewReader(bigPage)) }},
		{"io.Copy of a plain reader", 200, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, struct{ io.Reader }{bytes.NewReader(bigPage)})
		}},
		{"io.Copy of a file", 200, func(w http.ResponseWriter, _ *http.Request) {
			f, err := os.Open(file)
			if err == nil {
				defer f.Close()
				_, _ = io.Copy(w, f)
			}
		}},
		{"io.Copy of nothing, then an error", 500, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, strings.NewReader(""))
			http.Error(w, "page", 500)
		}},
		{"ServeContent", 200, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "page.txt", time.Time{}, bytes.NewReader(bigPage))
		}},
		{"ServeFile", 200, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }},
		{"Redirect", http.StatusSeeOther, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/next", http.StatusSeeOther) }},
		{"Error", http.StatusTeapot, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "page", http.StatusTeapot) }},
		{"NotFound", 404, http.NotFound},
		{"103, then 200", 200, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(103)
			w.WriteHeader(200)
		}},
		{"103, then Write", 200, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			_, _ = w.Write(bigPage)
		}},
	}
}

type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// The client's next request, sent as soon as the first byte is there and while the handler still runs, sees the change.
func TestP04_CommittedBeforeTheFirstByte(t *testing.T) {
	eachRealStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		eachProto(t, func(t *testing.T, proto string) {
			for i, way := range ways(t) {
				for _, existing := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, existing=%v", way.name, existing), func(t *testing.T) {
						v := serve(t, site, proto)
						if existing {
							v.set("before", true)
						}
						spy.reset()
						release, done := make(chan struct{}), make(chan struct{})
						goOn := sync.OnceFunc(func() { close(release) })
						t.Cleanup(goOn)
						res, err := v.start(context.Background(), http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
							defer close(done)
							if session(t, r).Set("n", i) != nil {
								return
							}
							way.answer(w, r)
							if n := spy.saves.Load(); n != 1 {
								t.Errorf("%d saves after the answer, want 1", n)
							}
							_ = http.NewResponseController(w).Flush()
							<-release
						})
						require.NoError(t, err)
						require.Equal(t, way.status, res.StatusCode)
						select {
						case <-done:
							t.Error("the handler has returned before the headers came")
						default:
						}
						require.Equal(t, strconv.Itoa(i), v.ownConnection(t).get("n"), "the next request, while the handler runs")
						goOn()
						_, err = io.Copy(io.Discard, res.Body)
						require.NoError(t, err)
						_ = res.Body.Close()
						wait(t, done)
						require.EqualValues(t, 1, spy.saves.Load(), "one commit")
						if sc.server && existing {
							require.NotContains(t, res.Header, "Set-Cookie", "same token, same cookie")
						} else {
							require.Len(t, res.Header.Values("Set-Cookie"), 1)
						}
					})
				}
			}
		})
	})
}

// A handler that writes nothing commits when it returns; HEAD and conditional requests commit as any other.
func TestP04_OtherAnswers(t *testing.T) {
	file := bigFile(t)
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		eachProto(t, func(t *testing.T, proto string) {
			for i, c := range []struct {
				name, method string
				lines        []string
				answer       http.HandlerFunc
				status       int
			}{
				{"returns", http.MethodGet, nil, func(http.ResponseWriter, *http.Request) {}, 200},
				{"returns after 103", http.MethodGet, nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103) }, 200},
				{"HEAD, returns", http.MethodHead, nil, func(http.ResponseWriter, *http.Request) {}, 200},
				{"HEAD, Write", http.MethodHead, nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bigPage) }, 200},
				{"HEAD, ServeFile", http.MethodHead, nil, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, 200},
				{"range", http.MethodGet, []string{"Range", "bytes=5-9"}, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, 206},
				{"bad range", http.MethodGet, []string{"Range", "bytes=99999999-"}, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, 416},
				{"not modified", http.MethodGet, []string{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"}, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, 304},
				{"no such file", http.MethodGet, nil, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file+"x") }, 404},
				{"POST", http.MethodPost, nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }, 202},
			} {
				t.Run(c.name, func(t *testing.T) {
					v := serve(t, site, proto)
					spy.reset()
					got := v.method(c.method, func(w http.ResponseWriter, r *http.Request) {
						_ = session(t, r).Set("n", i)
						c.answer(w, r)
					}, c.lines...)
					require.NoError(t, got.err)
					require.Equal(t, c.status, got.status)
					require.Len(t, got.header.Values("Set-Cookie"), 1)
					require.EqualValues(t, 1, spy.saves.Load())
					require.Equal(t, strconv.Itoa(i), v.get("n"))
				})
			}
		})
	})
}

func TestP04_Hijack(t *testing.T) {
	eachRealStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		v := serve(t, site, "h1")
		v.set("before", true)
		for name, hijack := range map[string]func(http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error){
			"Hijacker": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) { return w.(http.Hijacker).Hijack() },
			"ResponseController": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
				return http.NewResponseController(w).Hijack()
			},
			"after 101": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
				w.Header().Set("Upgrade", "test")
				w.Header().Set("Connection", "Upgrade")
				w.WriteHeader(http.StatusSwitchingProtocols)
				return w.(http.Hijacker).Hijack()
			},
		} {
			t.Run(name, func(t *testing.T) {
				spy.reset()
				site.events.reset()
				release, done := make(chan struct{}), make(chan struct{})
				goOn := sync.OnceFunc(func() { close(release) })
				t.Cleanup(goOn)
				res, err := v.start(context.Background(), http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
					defer close(done)
					_ = session(t, r).Set("how", name)
					conn, rw, err := hijack(w)
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					if n := spy.saves.Load(); n != 1 {
						t.Errorf("%d saves after the hijack, want 1", n)
					}
					if name != "after 101" {
						fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: test\r\nConnection: Upgrade\r\n")
						_ = w.Header().Write(rw)
						fmt.Fprint(rw, "\r\n")
						_ = rw.Flush()
					}
					<-release
				}, "Connection", "Upgrade", "Upgrade", "test")
				require.NoError(t, err)
				require.Equal(t, 101, res.StatusCode)
				if sc.server || name == "after 101" {
					require.Equal(t, fmt.Sprintf("%q", name), v.get("how"))
				}
				goOn()
				wait(t, done)
				_ = res.Body.Close()
				require.EqualValues(t, 1, spy.saves.Load())
				late := site.events.with(sessions.OutcomeTooLate)
				if sc.server || name == "after 101" {
					require.Empty(t, late, "there was no cookie to send, or it was sent")
				} else {
					require.Len(t, late, 1, "a cookie that only the hijacker can send")
				}
			})
		}
	})
}

// outside is a middleware outside of Wrap that sets headers.
func outside(s *site, header http.Header) {
	next := s.handler
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for k, v := range header {
			w.Header()[k] = append([]string(nil), v...)
		}
		next.ServeHTTP(w, r)
	})
}

func TestP05_AFailedCommitIsAFailedResponse(t *testing.T) {
	file := bigFile(t)
	all := append(ways(t),
		way{"nothing", 0, func(http.ResponseWriter, *http.Request) {}},
		way{"ServeFile with ETag", 0, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"1"`)
			http.ServeFile(w, r, file)
		}})
	errorHandlers := map[string]struct {
		err    error
		handle func(http.ResponseWriter, *http.Request, error)
		status int
		body   string
	}{
		"default":        {errStore, nil, 503, "The change could not be saved. Please try again.\n"},
		"default, gone":  {sessions.ErrGone, nil, 409, "Your session has ended. Please reload the page.\n"},
		"writes nothing": {errStore, func(http.ResponseWriter, *http.Request, error) {}, 503, "The change could not be saved. Please try again.\n"},
		"custom": {errStore, func(w http.ResponseWriter, r *http.Request, err error) {
			if !errors.Is(err, errStore) || r.URL.Path != "/" {
				panic("not what happened")
			}
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "custom")
		}, 500, "custom"},
		"status only": {errStore, func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(500)
		}, 500, ""},
		"flushes": {errStore, func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(502)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "slow")
		}, 502, "slow"},
		"uses the session": {errStore, func(w http.ResponseWriter, r *http.Request, _ error) {
			s, err := sessions.Get(r.Context())
			if err != nil {
				panic(err)
			}
			_ = s.Set("n", 2)
			s.Renew()
			s.Destroy()
			http.Error(w, "used", 500)
		}, 500, "used\n"},
	}
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		for name, c := range errorHandlers {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				site := newSite(t, spy, func(cfg *sessions.Config) { cfg.ErrorHandler = c.handle })
				outer := http.Header{"X-Outer": {"1", "2"}, "Vary": {"Accept-Encoding"}, "Set-Cookie": {"outer=1"}}
				outside(site, outer)
				eachProto(t, func(t *testing.T, proto string) {
					v := serve(t, site, proto)
					v.set("n", 1)
					old := v.cookie()
					for _, way := range all {
						spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
							if op == "save" {
								return c.err
							}
							return nil
						})
						var late error
						got := v.run(func(w http.ResponseWriter, r *http.Request) {
							_ = session(t, r).Set("n", way.name)
							h := w.Header()
							h.Set("X-Handler", "1")
							h.Set("X-Outer", "changed")
							h.Set("Content-Type", "application/pdf")
							h.Set("Cache-Control", "public, max-age=60")
							h.Add("Set-Cookie", "handler=1")
							if way.status != 204 && way.status != 304 && !strings.HasPrefix(way.name, "Serve") {
								h.Set("Content-Length", strconv.Itoa(len(bigPage)))
							}
							way.answer(w, r)
							if way.name != "nothing" {
								_, late = w.Write([]byte("and more"))
								h.Set(http.TrailerPrefix+"X-Trailer", "1")
								h.Set("X-After", "1")
								w.WriteHeader(299)
								if !errors.Is(late, c.err) {
									t.Errorf("%s: Write returned %v", way.name, late)
								}
							}
						})
						spy.before(nil)
						require.NoError(t, got.err, way.name)
						require.Equal(t, c.status, got.status, way.name)
						require.Equal(t, c.body, got.body, way.name)
						want := http.Header{"X-Outer": {"1", "2"}, "Vary": {"Accept-Encoding", "Cookie"}, "Cache-Control": {"private"}, "Set-Cookie": {"outer=1"}}
						for k := range got.header {
							switch k {
							case "Date", "Content-Type", "Content-Length", "X-Content-Type-Options", "Retry-After":
							default:
								require.Equal(t, want.Values(k), got.header.Values(k), "%s: %s", way.name, k)
							}
						}
						for k := range want {
							require.Equal(t, want.Values(k), got.header.Values(k), "%s: %s", way.name, k)
						}
						require.Contains(t, got.header.Get("Content-Type"), "text/plain", way.name)
						require.Equal(t, old, v.cookie(), "no session cookie was sent: %s", way.name)
						require.Equal(t, "1", v.get("n"), "the store is as it was: %s", way.name)
					}
				})
			})
		}
	})
}

// A hijack that cannot be committed does not happen.
func TestP05_Hijack(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	v := serve(t, newSite(t, spy), "h1")
	spy.fail("save")
	got := v.run(func(w http.ResponseWriter, r *http.Request) {
		_ = session(t, r).Set("n", 1)
		w.Header().Set("X-Handler", "1")
		if _, _, err := w.(http.Hijacker).Hijack(); !errors.Is(err, errStore) {
			t.Errorf("Hijack returned %v", err)
		}
	})
	require.NoError(t, got.err)
	require.Equal(t, 503, got.status)
	require.NotContains(t, got.header, "X-Handler")
	require.NotContains(t, got.header, "Set-Cookie")
}

// A real server that is down, and a real session that is gone.
func TestP05_RealFailures(t *testing.T) {
	eachProto(t, func(t *testing.T, proto string) {
		server := redistest.Start(t)
		site := newSite(t, redisStoreOver(t, server.Client(t)))
		v := serve(t, site, proto)
		v.set("n", 1)
		got := v.run(func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			other := &served{v.clone(), proto, v.log}
			other.use(func(s sessions.Session) { s.Destroy() })
			_ = s.Set("n", 2)
			_, err := w.Write([]byte("page"))
			if !errors.Is(err, sessions.ErrGone) {
				t.Errorf("Write returned %v", err)
			}
		})
		require.NoError(t, got.err)
		require.Equal(t, http.StatusConflict, got.status)
		require.NotContains(t, got.header, "Set-Cookie")

		v.set("n", 1)
		got = v.run(func(w http.ResponseWriter, r *http.Request) {
			_ = session(t, r).Set("n", 3)
			server.Stop()
			_, _ = w.Write([]byte("page"))
		})
		require.NoError(t, got.err)
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.NotContains(t, got.body, "page")
		require.NotContains(t, got.header, "Set-Cookie")
	})
}

// A buffering middleware outside sends the headers long after the handler has returned: what the handler did to them
// after the failure must not be there.
func TestP05_BufferedOutside(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	site := newSite(t, spy)
	site.handler = http.TimeoutHandler(site.handler, waitLimit, "timeout")
	v := serve(t, site, "h1")
	spy.fail("save")
	got := v.run(func(w http.ResponseWriter, r *http.Request) {
		_ = session(t, r).Set("n", 1)
		h := w.Header()
		_, _ = w.Write([]byte("page"))
		h.Set("X-Handler", "1")
		h.Add("Set-Cookie", "handler=1")
	})
	require.NoError(t, got.err)
	require.Equal(t, 503, got.status)
	require.NotContains(t, got.header, "X-Handler")
	require.NotContains(t, got.header, "Set-Cookie")
}

// A panic in the ErrorHandler ends the connection, also where the handler recovers from it: an empty 200 would look like
// success.
func TestP05_ErrorHandlerPanics(t *testing.T) {
	eachProto(t, func(t *testing.T, proto string) {
		for _, value := range []any{http.ErrAbortHandler, "boom"} {
			for _, recovers := range []bool{false, true} {
				spy := &spyStore{Store: sessiontest.NewMemoryStore()}
				v := serve(t, newSite(t, spy, func(cfg *sessions.Config) {
					cfg.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(value) }
				}), proto)
				spy.fail("save")
				got := v.abort(func(w http.ResponseWriter, r *http.Request) {
					if recovers {
						defer func() {
							_ = recover()
							http.Error(w, "recovered", 500)
						}()
					}
					_ = session(t, r).Set("n", 1)
					_, _ = w.Write([]byte("page"))
				})
				require.Error(t, got.err)
			}
		}
	})
}

// ends tells when a handler, and what Wrap does after it, has ended.
type ends struct{ waiting sync.Map }

func noteEnds(s *site) *ends {
	e, next := &ends{}, s.handler
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if c, ok := e.waiting.LoadAndDelete(r.Header.Get("End")); ok {
				close(c.(chan struct{}))
			}
		}()
		next.ServeHTTP(w, r)
	})
	return e
}

// hangUp sends a request and goes away while the handler runs; step follows when the server has noticed. It returns when
// all is over.
func (e *ends) hangUp(t *testing.T, v *served, step http.HandlerFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{})
	e.waiting.Store("1", ended)
	_, err := v.start(ctx, http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
		step(w, r)
	}, "End", "1")
	require.ErrorIs(t, err, context.Canceled)
	wait(t, ended)
}

func TestP06_AClientThatHangsUpLosesNothing(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		ends := noteEnds(site)
		eachProto(t, func(t *testing.T, proto string) {
			for name, answer := range map[string]func(http.ResponseWriter){
				"returns": func(http.ResponseWriter) {},
				"writes":  func(w http.ResponseWriter) { _, _ = w.Write(bigPage) },
				"flushes": func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
			} {
				t.Run(name, func(t *testing.T) {
					v := serve(t, site, proto)
					v.set("n", 1)
					var s sessions.Session
					ends.hangUp(t, v, func(w http.ResponseWriter, r *http.Request) {
						var err error
						if s, err = sessions.Get(context.WithoutCancel(r.Context())); err != nil {
							t.Error(err)
							return
						}
						_ = s.Set("n", 2)
						answer(w)
						_ = s.Set("late", 3)
					})
					require.Equal(t, "2", v.get("n"))
					require.Equal(t, "3", v.get("late"))

					ends.hangUp(t, v, func(w http.ResponseWriter, r *http.Request) {
						s, err := sessions.Get(context.WithoutCancel(r.Context()))
						if err != nil {
							t.Error(err)
							return
						}
						s.Destroy()
						answer(w)
					})
					require.Empty(t, v.get("n"), "a logout, too")
				})
			}
		})
	})
}

type requestValue struct{}

// A store that honours its context is not cut short by the client, but by CommitTimeout; it has the request's values.
func TestP06_TheCommitHasItsOwnTimeout(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	site := newSite(t, spy, func(cfg *sessions.Config) { cfg.CommitTimeout = timeout })
	next := site.handler
	site.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestValue{}, "kept")))
	})
	ends := noteEnds(site)
	eachProto(t, func(t *testing.T, proto string) {
		v := serve(t, site, proto)
		v.set("n", 1)
		type seen struct {
			left  time.Duration
			value any
			err   error
		}
		var commits []seen
		hang := func(ctx context.Context, op string, _ *sessions.Record) error {
			if op != "save" {
				return nil
			}
			deadline, _ := ctx.Deadline()
			s := seen{time.Until(deadline), ctx.Value(requestValue{}), ctx.Err()}
			commits = append(commits, s)
			<-ctx.Done()
			return ctx.Err()
		}
		spy.before(hang)
		got := v.run(func(w http.ResponseWriter, r *http.Request) {
			_ = session(t, r).Set("n", 2)
			if _, err := w.Write([]byte("page")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Write returned %v", err)
			}
		})
		require.NoError(t, got.err)
		require.Equal(t, 503, got.status)
		ends.hangUp(t, v, func(_ http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(context.WithoutCancel(r.Context()))
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Set("n", 3)
		})
		spy.before(nil)
		require.Len(t, commits, 2)
		for _, c := range commits {
			require.NoError(t, c.err)
			require.Equal(t, "kept", c.value)
			require.Greater(t, c.left, time.Duration(0))
			require.LessOrEqual(t, c.left, timeout)
		}
		require.Equal(t, "1", v.get("n"))
	})
}

func TestP17_ASessionCookieIsNeverCached(t *testing.T) {
	for _, c := range []struct {
		name    string
		header  http.Header
		dropped string // what the event names; empty if there is none
	}{
		{"nothing", http.Header{}, ""},
		{"public", http.Header{"Cache-Control": {"public, max-age=60"}}, "Cache-Control"},
		{"max-age", http.Header{"Cache-Control": {"max-age=60"}}, "Cache-Control"},
		{"s-maxage, two lines, odd case", http.Header{"Cache-Control": {"must-revalidate", "S-MaxAge = 60"}}, "Cache-Control"},
		{"CDN", http.Header{"Cdn-Cache-Control": {"max-age=60"}}, "Cdn-Cache-Control"},
		{"CDN as its documentation writes it", http.Header{"CDN-Cache-Control": {"max-age=60"}}, "CDN-Cache-Control"},
		{"CDN of a vendor", http.Header{"Cloudflare-Cdn-Cache-Control": {"public"}, "Netlify-Cdn-Cache-Control": {"public"}}, "Cloudflare-Cdn-Cache-Control, Netlify-Cdn-Cache-Control"},
		{"surrogate", http.Header{"Surrogate-Control": {"max-age=60"}, "Cache-Control": {"no-cache"}}, "Surrogate-Control"},
		{"edge", http.Header{"Edge-Control": {"cache-maxage=1h"}}, "Edge-Control"},
		{"nginx", http.Header{"X-Accel-Expires": {"60"}}, "X-Accel-Expires"},
		{"nginx, at a time", http.Header{"X-Accel-Expires": {"@1700000000"}}, "X-Accel-Expires"},
		{"several", http.Header{"X-Accel-Expires": {"60"}, "Cache-Control": {"public"}, "cdn-cache-control": {"max-age=1"}}, "Cache-Control, X-Accel-Expires, cdn-cache-control"},
		{"Expires", http.Header{"Expires": {"Fri, 01 Jan 2100 00:00:00 GMT"}}, ""},
		{"no-store", http.Header{"Cache-Control": {"no-store"}}, ""},
		{"private", http.Header{"Cache-Control": {"private, max-age=60"}}, ""},
		{"no-cache", http.Header{"Cache-Control": {"public, no-cache"}}, ""},
		{"max-age=0", http.Header{"Cache-Control": {"max-age=0, must-revalidate"}}, ""},
		{"CDN no-store", http.Header{"Cdn-Cache-Control": {"no-store"}}, ""},
		{"nginx off", http.Header{"X-Accel-Expires": {"0"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			site := newSite(t, sessiontest.NewMemoryStore())
			eachProto(t, func(t *testing.T, proto string) {
				v := serve(t, site, proto)
				for _, change := range []struct {
					name string
					fn   func(sessions.Session)
				}{
					{"new", func(s sessions.Session) { _ = s.Set("n", 1) }},
					{"renewed", func(s sessions.Session) { s.Renew() }},
					{"destroyed", func(s sessions.Session) { s.Destroy() }},
				} {
					site.events.reset()
					got := v.run(func(w http.ResponseWriter, r *http.Request) {
						for k, values := range c.header {
							w.Header()[k] = values
						}
						change.fn(session(t, r))
						_, _ = w.Write([]byte("page"))
					})
					require.NoError(t, got.err)
					require.Len(t, got.header.Values("Set-Cookie"), 1, change.name)
					require.Equal(t, []string{"no-store"}, got.header.Values("Cache-Control"), change.name)
					require.Equal(t, []string{"Cookie"}, got.header.Values("Vary"), change.name)
					for k := range c.header {
						if k = textproto.CanonicalMIMEHeaderKey(k); k != "Cache-Control" {
							require.Empty(t, got.header.Values(k), "%s: %s", change.name, k)
						}
					}
					found := site.events.with(sessions.OutcomeOverridden)
					if c.dropped == "" {
						require.Empty(t, found, change.name)
						continue
					}
					require.Len(t, found, 1, change.name)
					require.Equal(t, sessions.EventCache, found[0].Kind)
					require.Contains(t, found[0].Detail, " set "+c.dropped+" on ")
				}

				// A session that is only read leaves caching to the handler, and is private if the handler says nothing.
				v.set("n", 1)
				site.events.reset()
				got := v.run(func(w http.ResponseWriter, r *http.Request) {
					for k, values := range c.header {
						w.Header()[k] = values
					}
					_ = value(t, session(t, r), "n")
				})
				require.NotContains(t, got.header, "Set-Cookie")
				require.Equal(t, []string{"Cookie"}, got.header.Values("Vary"))
				for k, values := range c.header {
					require.Equal(t, values, got.header.Values(k), k)
				}
				if len(c.header) == 0 {
					require.Equal(t, []string{"private"}, got.header.Values("Cache-Control"))
				} else if c.header["Cache-Control"] == nil {
					require.NotContains(t, got.header, "Cache-Control")
				}
				require.Empty(t, site.events.with(sessions.OutcomeOverridden))
			})
		})
	}
}

func TestP17_Vary(t *testing.T) {
	for _, c := range []struct{ name, inside, outside string }{
		{"none", "", ""},
		{"other", "Accept-Encoding", ""},
		{"two lines", "Accept-Encoding|Accept-Language", ""},
		{"outside", "", "Accept-Encoding, Origin"},
		{"there", "Cookie", ""},
		{"there, in a list", "Accept-Encoding, cookie ,Origin", ""},
		{"there, in the second line", "Accept-Encoding|COOKIE", ""},
		{"star", "*", ""},
		{"star in a list", "Origin, *", ""},
		{"a name that only looks alike", "X-Cookie, Cookies, Set-Cookie", ""},
		{"empty", " , ", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			site := newSite(t, sessiontest.NewMemoryStore())
			if c.outside != "" {
				outside(site, http.Header{"Vary": {c.outside}})
			}
			v := serve(t, site, "h1")
			got := v.run(func(w http.ResponseWriter, r *http.Request) {
				if c.inside != "" {
					w.Header()["Vary"] = strings.Split(c.inside, "|")
				}
				session(t, r)
				w.WriteHeader(200)
				w.WriteHeader(200)
			})
			require.NoError(t, got.err)
			var before []string
			for _, part := range []string{c.inside, c.outside} {
				if part != "" {
					before = append(before, strings.Split(part, "|")...)
				}
			}
			n, star := 0, false
			for name := range strings.SplitSeq(strings.Join(got.header.Values("Vary"), ","), ",") {
				name = strings.TrimSpace(name)
				star = star || name == "*"
				if strings.EqualFold(name, "Cookie") {
					n++
				}
			}
			require.True(t, star && n == 0 || !star && n == 1, "Vary: %q", got.header.Values("Vary"))
			for i, line := range before {
				require.Equal(t, strings.TrimSpace(line), strings.TrimSpace(got.header.Values("Vary")[i]), "what was there stays")
			}
		})
	}
}

// A session that could not be had was still asked for: another client may get another answer.
func TestP17_VaryOnErrors(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	v := serve(t, newSite(t, spy), "h1")
	v.set("n", 1)
	spy.fail("load")
	got := v.try(noop)
	require.Equal(t, 503, got.status)
	require.Equal(t, []string{"Cookie"}, got.header.Values("Vary"))
	require.NotContains(t, got.header, "Set-Cookie")
}

// A response that was made from a stored session is for one client, unless the handler, or who wraps it, has said what
// caches may do. One that nobody's session was read for is not.
func TestP17_PrivateIfASessionWasRead(t *testing.T) {
	read := func(t *testing.T) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) { _ = value(t, session(t, r), "n") }
	}
	then := func(first http.HandlerFunc, rest func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { first(w, r); rest(w, r) }
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	private, none := []string{"private"}, []string(nil)
	eachProto(t, func(t *testing.T, proto string) {
		for _, c := range []struct {
			name    string
			method  string
			known   bool // the client has a session
			outside http.Header
			step    http.HandlerFunc
			status  int
			want    []string // Cache-Control
			vary    bool
		}{
			{"read", "GET", true, nil, read(t), 200, private, true},
			{"read, HEAD", "HEAD", true, nil, read(t), 200, private, true},
			{"read, POST", "POST", true, nil, read(t), 200, private, true},
			{"read, 304", "GET", true, nil, then(read(t), status(304)), 304, private, true},
			{"read, 404", "GET", true, nil, then(read(t), func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }), 404, private, true},
			{"asked for, and nothing read of it", "GET", true, nil, func(_ http.ResponseWriter, r *http.Request) { session(t, r) }, 200, private, true},
			{"a file with a time", "GET", true, nil, then(read(t), func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "a.txt", time.Unix(1e9, 0), strings.NewReader("text"))
			}), 200, private, true},
			{"written without effect on the cookie", "GET", true, nil, func(_ http.ResponseWriter, r *http.Request) { _ = session(t, r).Set("m", 1) }, 200, private, true},
			{"the handler says public", "GET", true, nil, then(read(t), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "public, max-age=60")
			}), 200, []string{"public, max-age=60"}, true},
			{"the handler says Expires", "GET", true, nil, then(read(t), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Expires", "0")
			}), 200, none, true},
			{"the handler says Pragma", "GET", true, nil, then(read(t), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Pragma", "cache") // net/http turns no-cache into Cache-Control
			}), 200, none, true},
			{"the handler says it to a CDN", "GET", true, nil, then(read(t), func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["cdn-cache-control"] = []string{"max-age=60"}
			}), 200, none, true},
			{"the handler wants none", "GET", true, nil, then(read(t), func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Cache-Control"] = nil
			}), 200, none, true},
			{"who wraps it says no-cache", "GET", true, http.Header{"Cache-Control": {"no-cache"}}, read(t), 200, []string{"no-cache"}, true},
			{"Vary of others", "GET", true, http.Header{"Vary": {"Origin"}}, read(t), 200, private, true},
			{"ended", "GET", true, nil, func(_ http.ResponseWriter, r *http.Request) { session(t, r).Destroy() }, 200, []string{"no-store"}, true},
			{"never asked for", "GET", true, nil, status(200), 200, none, false},
			{"asked for after the first byte", "GET", true, nil, then(status(200), read(t)), 200, none, false},
			{"nobody's", "GET", false, nil, read(t), 200, none, true},
			{"nobody's, a new one", "GET", false, nil, func(_ http.ResponseWriter, r *http.Request) { _ = session(t, r).Set("n", 1) }, 200, []string{"no-store"}, true},
			{"nobody's, set and destroyed", "GET", false, nil, func(_ http.ResponseWriter, r *http.Request) {
				s := session(t, r)
				_ = s.Set("n", 1)
				s.Destroy()
			}, 200, none, true},
		} {
			site := newSite(t, sessiontest.NewMemoryStore())
			v := serve(t, site, proto)
			if c.known {
				v.set("n", 1)
			}
			if c.outside != nil {
				outside(site, c.outside)
				v = &served{serve(t, site, proto).browser, proto, v.log}
				v.client.Jar = newJar(t)
				v.set("n", 1)
			}
			got := v.method(c.method, c.step)
			require.NoError(t, got.err, c.name)
			require.Equal(t, c.status, got.status, c.name)
			require.Equal(t, c.want, got.header.Values("Cache-Control"), c.name)
			require.Equal(t, c.vary, strings.Contains(strings.Join(got.header.Values("Vary"), ","), "Cookie"), c.name)
		}
	})
}

// The same for an answer of the ErrorHandler, which may say something else.
func TestP17_PrivateErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		known bool
		says  string
		want  []string
	}{
		{"read", true, "", []string{"private"}},
		{"read, and the handler of errors says no-store", true, "no-store", []string{"no-store"}},
		{"nobody's", false, "", nil},
	} {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		b := newSite(t, spy, func(cfg *sessions.Config) {
			cfg.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
				if c.says != "" {
					w.Header().Set("Cache-Control", c.says)
				}
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}).browser()
		if c.known {
			b.set("n", 1)
		}
		spy.fail("save")
		r := b.do(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "public")
			_ = session(t, r).Set("n", 2)
		})
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Equal(t, c.want, r.header.Values("Cache-Control"), c.name)
		require.Equal(t, []string{"Cookie"}, r.header.Values("Vary"), c.name)
	}
}

// What others do with the headers of one response stays in that response.
func TestP17_PrivateIsOfOneResponse(t *testing.T) {
	b := newSite(t, sessiontest.NewMemoryStore()).browser()
	b.set("n", 1)
	for range 2 {
		r := b.do(func(w http.ResponseWriter, r *http.Request) {
			_ = value(t, session(t, r), "n")
			w.WriteHeader(200)
			for _, name := range []string{"Cache-Control", "Vary"} { // as an outer writer may that sends them later
				w.Header()[name] = append(w.Header()[name], "more")
				w.Header()[name][0] += "?"
			}
		})
		require.Equal(t, []string{"private"}, r.header["Cache-Control"])
		require.Equal(t, []string{"Cookie"}, r.header["Vary"])
	}
}

func TestP18_PanicsCommitNothing(t *testing.T) {
	changes := map[string]func(sessions.Session){
		"no change": noop,
		"set":       func(s sessions.Session) { _ = s.Set("n", 2) },
		"renewed":   func(s sessions.Session) { s.Renew(); _ = s.Set("n", 2) },
		"destroyed": func(s sessions.Session) { s.Destroy(); _ = s.Set("n", 2) },
	}
	stops := map[string]func(http.ResponseWriter){
		"panic":       func(http.ResponseWriter) { panic("boom") },
		"nil panic":   func(http.ResponseWriter) { panic(nil) },
		"abort":       func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"Goexit":      func(http.ResponseWriter) { runtime.Goexit() },
		"bad status":  func(w http.ResponseWriter) { w.WriteHeader(0) },
		"after 103":   func(w http.ResponseWriter) { w.WriteHeader(103); panic("boom") },
		"after a set": func(w http.ResponseWriter) { w.Header().Set("X-Handler", "1"); panic("boom") },
	}
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		plain := site.handler
		eachProto(t, func(t *testing.T, proto string) {
			for _, recovers := range []bool{false, true} {
				site.handler = plain
				if recovers {
					site.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer func() {
							if recover() != nil {
								http.Error(w, "recovered", 500)
							}
						}()
						plain.ServeHTTP(w, r)
					})
				}
				v := serve(t, site, proto)
				v.set("n", 1)
				old := v.cookie()
				for what, change := range changes {
					for how, stop := range stops {
						name := fmt.Sprintf("%s, %s, recovers=%v", what, how, recovers)
						spy.reset()
						got := v.abort(func(w http.ResponseWriter, r *http.Request) {
							change(session(t, r))
							stop(w)
						})
						if recovers && how != "Goexit" {
							require.NoError(t, got.err, name)
							require.Equal(t, 500, got.status, name)
							require.NotContains(t, got.header, "Set-Cookie", name)
						} else {
							require.Error(t, got.err, name)
						}
						require.Zero(t, spy.writes(), name)
						require.Equal(t, old, v.cookie(), name)
						require.Equal(t, "1", v.get("n"), name)
					}
				}
			}
		})
	})
}

// What was committed before the first byte stays; what came after it is dropped with the panic.
func TestP18_PanicAfterTheFirstByte(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		eachProto(t, func(t *testing.T, proto string) {
			v := serve(t, newSite(t, store), proto)
			v.set("n", 1)
			_ = v.abort(func(w http.ResponseWriter, r *http.Request) {
				s := session(t, r)
				_ = s.Set("n", 2)
				_ = http.NewResponseController(w).Flush()
				_ = s.Set("n", 3)
				panic(http.ErrAbortHandler)
			})
			require.Equal(t, "2", v.get("n"))
		})
	})
}

// An Update function that panics when it runs again, in the commit, is a panic of the handler.
func TestP18_UpdatePanicsInTheCommit(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	v := serve(t, newSite(t, spy), "h1")
	v.set("n", 1)
	got := v.abort(func(w http.ResponseWriter, r *http.Request) {
		s, runs := session(t, r), 0
		_ = s.Update("n", func(json.RawMessage) (any, error) {
			if runs++; runs > 1 {
				panic(http.ErrAbortHandler)
			}
			return 5, nil
		})
		other := &served{v.clone(), "h1", v.log}
		other.set("m", 1)
		_, _ = w.Write([]byte("page"))
	})
	require.Error(t, got.err)
	require.Equal(t, "1", v.get("n"))
	require.Equal(t, "1", v.get("m"))
}

func TestP04_CookieOnTheFinalResponse_B28(t *testing.T) {
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		eachProto(t, func(t *testing.T, proto string) {
			v := serve(t, newSite(t, store), proto)
			for _, way := range ways(t) {
				var informational []string
				ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
						informational = append(informational, fmt.Sprint(code, h["Set-Cookie"], h["Link"], h["Vary"]))
						return nil
					},
				})
				v.hold("")
				res, err := v.start(ctx, http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
					_ = session(t, r).Set("way", way.name)
					way.answer(w, r)
				})
				require.NoError(t, err, way.name)
				_, err = io.Copy(io.Discard, res.Body)
				require.NoError(t, err, way.name)
				_ = res.Body.Close()
				require.Equal(t, way.status, res.StatusCode, way.name)
				require.Len(t, res.Header.Values("Set-Cookie"), 1, way.name)
				switch way.name {
				case "103, then 200":
					require.Equal(t, []string{"103 [] [</style.css>; rel=preload] []"}, informational)
				case "103, then Write":
					require.Equal(t, []string{"103 [] [] []"}, informational)
				default:
					require.Empty(t, informational)
				}
				require.Equal(t, fmt.Sprintf("%q", way.name), v.get("way"))
			}
			for line := range strings.Lines(v.log.String()) {
				require.Contains(t, line, "superfluous", "the handler's own mistake, and nothing else")
			}
		})
	})
}

func TestP05_StoreFailsAtCommit_B29(t *testing.T) {
	eachProto(t, func(t *testing.T, proto string) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		v := serve(t, newSite(t, spy), proto)
		spy.fail("save")
		got := v.run(func(w http.ResponseWriter, r *http.Request) {
			_ = session(t, r).Set("n", 1)
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Location", "/welcome")
			w.WriteHeader(http.StatusFound)
			_, _ = io.WriteString(w, "<h1>welcome</h1>")
		})
		require.NoError(t, got.err)
		require.Equal(t, 503, got.status)
		require.NotContains(t, got.header, "Location")
		require.NotContains(t, got.header, "Set-Cookie")
		require.Equal(t, "The change could not be saved. Please try again.\n", got.body)
	})
}

func TestP06_ChangeAfterTheFirstByte_B30(t *testing.T) {
	const tooLate = "commit too_late"
	eachRealStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		begins := map[string]func(http.ResponseWriter, *http.Request){
			"Write":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("page")) },
			"WriteHeader": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
			"Flush":       func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() },
		}
		eachProto(t, func(t *testing.T, proto string) {
			for name, begin := range begins {
				t.Run(name, func(t *testing.T) {
					v := serve(t, site, proto)

					// A new session has no cookie, and gets none any more.
					spy.reset()
					site.events.reset()
					got := v.run(func(w http.ResponseWriter, r *http.Request) {
						s := session(t, r)
						begin(w, r)
						_ = s.Set("n", 1)
					})
					require.Equal(t, 200, got.status)
					require.NotContains(t, got.header, "Set-Cookie")
					require.Zero(t, spy.writes(), "nothing is stored")
					require.Equal(t, []string{"load none", tooLate}, site.events.outcomes())
					require.NotEmpty(t, site.events.with(sessions.OutcomeTooLate)[0].Detail)

					// So too if it is first asked for after the first byte.
					site.events.reset()
					got = v.run(func(w http.ResponseWriter, r *http.Request) {
						begin(w, r)
						_ = session(t, r).Set("n", 1)
					})
					require.NotContains(t, got.header, "Set-Cookie")
					require.Zero(t, spy.writes())
					require.Equal(t, []string{"load none", tooLate}, site.events.outcomes())

					// An existing session on the server is saved when the handler returns; a sealed cookie cannot be.
					v.set("n", 1)
					for _, early := range []bool{true, false} {
						n := map[bool]string{true: "2", false: "3"}[early]
						site.events.reset()
						got = v.run(func(w http.ResponseWriter, r *http.Request) {
							if early {
								session(t, r)
							}
							begin(w, r)
							_ = session(t, r).Set("n", json.RawMessage(n))
						})
						require.Equal(t, 200, got.status)
						require.NotContains(t, got.header, "Set-Cookie")
						if sc.server {
							require.Empty(t, site.events.with(sessions.OutcomeTooLate))
							require.Equal(t, n, v.get("n"))
						} else {
							require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
							require.Equal(t, "1", v.get("n"))
						}
					}

					// Early and late changes are two commits.
					spy.reset()
					v.run(func(w http.ResponseWriter, r *http.Request) {
						s := session(t, r)
						_ = s.Set("n", 4)
						begin(w, r)
						_ = s.Set("n", 5)
						_ = s.Set("n", 6)
					})
					require.EqualValues(t, 2, spy.saves.Load())
					require.Equal(t, map[bool]string{true: "6", false: "4"}[sc.server], v.get("n"))

					// A new session that was made in time takes late changes too.
					v.hold("")
					v.run(func(w http.ResponseWriter, r *http.Request) {
						s := session(t, r)
						_ = s.Set("n", 1)
						begin(w, r)
						_ = s.Set("n", 2)
					})
					require.Equal(t, map[bool]string{true: "2", false: "1"}[sc.server], v.get("n"))

					// Renew: the client cannot be given another token. The session stays.
					site.events.reset()
					spy.reset()
					old := v.cookie()
					got = v.run(func(w http.ResponseWriter, r *http.Request) {
						s := session(t, r)
						begin(w, r)
						s.Renew()
					})
					require.NotContains(t, got.header, "Set-Cookie")
					require.Zero(t, spy.writes())
					require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
					require.Equal(t, old, v.cookie())
					require.NotEmpty(t, v.get("n"))

					// Destroy: gone where the server holds it. The client keeps a cookie that is worth nothing.
					site.events.reset()
					got = v.run(func(w http.ResponseWriter, r *http.Request) {
						s := session(t, r)
						begin(w, r)
						s.Destroy()
					})
					require.NotContains(t, got.header, "Set-Cookie")
					require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
					if sc.server {
						require.Empty(t, v.get("n"))
					}
				})
			}
		})
	})
}

// Renewed in time and changed late; destroyed in time and filled late; destroyed late after an early change.
func TestP06_MixedOrders_B30(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		v := serve(t, site, "h1")

		v.set("n", 1)
		old := v.clone()
		v.run(func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			s.Renew()
			_, _ = w.Write([]byte("page"))
			_ = s.Set("n", 2)
		})
		require.Equal(t, "2", v.get("n"))
		require.Empty(t, (&served{old, "h1", v.log}).get("n"), "the old token is dead")

		site.events.reset()
		got := v.run(func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			s.Destroy()
			_, _ = w.Write([]byte("page"))
			_ = s.Set("n", 3)
		})
		require.Equal(t, -1, got.setCookie("session").MaxAge)
		require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
		require.Empty(t, v.get("n"))

		v.set("n", 1)
		late := v.clone()
		v.run(func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			s.Renew()
			_, _ = w.Write([]byte("page"))
			s.Destroy()
			_ = s.Set("n", 4)
		})
		require.Empty(t, v.get("n"), "destroyed under its new token")
		require.Empty(t, (&served{late, "h1", v.log}).get("n"))

		v.run(func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			_ = s.Set("n", 5)
			_, _ = w.Write([]byte("page"))
			s.Destroy()
		})
		require.Empty(t, v.get("n"), "a new session, destroyed late")
	})
}

// A late commit that fails can only be reported.
func TestP06_LateCommitFails_B30(t *testing.T) {
	spy := &spyStore{Store: sessiontest.NewMemoryStore()}
	site := newSite(t, spy)
	v := serve(t, site, "h1")
	v.set("n", 1)
	spy.fail("save")
	site.events.reset()
	got := v.run(func(w http.ResponseWriter, r *http.Request) {
		s := session(t, r)
		_, _ = w.Write([]byte("page"))
		_ = s.Set("n", 2)
	})
	require.NoError(t, got.err)
	require.Equal(t, 200, got.status)
	require.Equal(t, "page", got.body)
	require.Equal(t, []string{"load loaded", "commit error"}, site.events.outcomes())
	require.Empty(t, v.log.String())
}

func TestP06_ClientDisconnects_B31(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		ends := noteEnds(site)
		v := serve(t, site, "h1")
		v.set("n", 1)
		var s sessions.Session
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan struct{})
		ends.waiting.Store("1", ended)
		_, err := v.start(ctx, http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
			s = session(t, r)
			_ = s.Set("n", 2)
			cancel()
			<-r.Context().Done()
		}, "End", "1")
		require.ErrorIs(t, err, context.Canceled)
		wait(t, ended)
		require.Equal(t, "2", v.get("n"))
	})
}

func TestP04_TheHandlersOwnCookies_B32(t *testing.T) {
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store)
		outside(site, http.Header{"Set-Cookie": {"outer=1"}})
		eachProto(t, func(t *testing.T, proto string) {
			v := serve(t, site, proto)
			for _, change := range []func(sessions.Session){
				func(s sessions.Session) { _ = s.Set("n", 1) },
				func(s sessions.Session) { s.Renew() },
				func(s sessions.Session) { s.Destroy() },
			} {
				own := []string{"b=2; Path=/b; HttpOnly", "a=1", "a=1", "sessions=no", "x-session=no"}
				got := v.run(func(w http.ResponseWriter, r *http.Request) {
					for _, c := range own[:2] {
						w.Header().Add("Set-Cookie", c)
					}
					change(session(t, r))
					for _, c := range own[2:] {
						w.Header().Add("Set-Cookie", c)
					}
				})
				lines := got.header.Values("Set-Cookie")
				require.Len(t, lines, 7)
				require.Equal(t, append([]string{"outer=1"}, own...), lines[:6])
				require.True(t, strings.HasPrefix(lines[6], "session="), lines[6])
			}
			got := v.run(func(w http.ResponseWriter, r *http.Request) {
				session(t, r)
				http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
			})
			require.Equal(t, []string{"outer=1", "a=1"}, got.header.Values("Set-Cookie"))
		})
	})
}

func TestP18_HandlerPanics_B33(t *testing.T) {
	eachRealStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		v := serve(t, site, "h1")
		got := v.abort(func(w http.ResponseWriter, r *http.Request) {
			_ = session(t, r).Set("n", 1)
			panic("boom")
		})
		require.Error(t, got.err)
		require.Zero(t, spy.writes())
		require.Empty(t, v.cookie())
		require.Equal(t, []string{"load none"}, site.events.outcomes())
	})
}

// A stream that outlives its handshake: what happens in it is saved when it ends.
func TestWebSocketLikeStream(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		v := serve(t, newSite(t, store), "h1")
		v.client.Timeout = 0 // with one, the body cannot be written to
		v.set("messages", 0)
		ended := make(chan struct{})
		res, err := v.start(context.Background(), http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			w.Header().Set("Upgrade", "echo")
			w.Header().Set("Connection", "Upgrade")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer close(ended)
			defer conn.Close()
			for {
				line, err := rw.ReadString('\n')
				if err != nil {
					return
				}
				_ = s.Update("messages", func(old json.RawMessage) (any, error) {
					n, err := strconv.Atoi(string(old))
					return n + 1, err
				})
				_, _ = rw.WriteString(line)
				_ = rw.Flush()
			}
		}, "Connection", "Upgrade", "Upgrade", "echo")
		require.NoError(t, err)
		require.Equal(t, 101, res.StatusCode)
		stream := res.Body.(io.ReadWriteCloser)
		lines := bufio.NewReader(stream)
		for range 3 {
			_, err := io.WriteString(stream, "hello\n")
			require.NoError(t, err)
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "hello\n", line)
		}
		v.use(func(s sessions.Session) { // the same session, in another tab
			_ = s.Update("messages", func(old json.RawMessage) (any, error) {
				n, err := strconv.Atoi(string(old))
				return n + 10, err
			})
		})
		require.NoError(t, stream.Close())
		wait(t, ended)
		require.Eventually(t, func() bool { return v.get("messages") == "13" }, waitLimit, time.Millisecond)
	})
}

// Several goroutines of one handler use its session while the response is written.
func TestGoroutinesOfOneHandler(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		eachProto(t, func(t *testing.T, proto string) {
			v := serve(t, site, proto)
			v.set("n", 0)
			const workers, rounds = 4, 10
			got := v.run(func(w http.ResponseWriter, r *http.Request) {
				var all sync.WaitGroup
				for i := range workers {
					all.Go(func() {
						s := session(t, r)
						for j := range rounds {
							_ = s.Set(fmt.Sprintf("k%d", i), j)
							_ = s.Update("n", func(old json.RawMessage) (any, error) {
								n, err := strconv.Atoi(string(old))
								return n + 1, err
							})
							for range s.Keys() {
								_, _ = s.Get("n", new(int))
							}
							_, _, _, _ = s.ID(), s.IsNew(), s.CreatedAt(), s.ExpiresAt()
							s.Delete("none")
							if i == 0 && j == 5 {
								s.SetLifetime(time.Hour, false)
							}
						}
					})
				}
				for range 20 {
					_, _ = io.WriteString(w, "line\n")
					_ = http.NewResponseController(w).Flush()
				}
				all.Wait()
			})
			require.NoError(t, got.err)
			require.Equal(t, 200, got.status)
			require.Equal(t, strconv.Itoa(workers*rounds), v.get("n"), "no increment is lost between early and late commit")
			for i := range workers {
				require.Equal(t, strconv.Itoa(rounds-1), v.get(fmt.Sprintf("k%d", i)))
			}
		})
	})
}

// Renew and Destroy in one goroutine, the first byte in another: whichever comes first, the client is left with a token
// that works, or with none.
func TestRenewMeetsTheFirstByte(t *testing.T) {
	for _, destroy := range []bool{false, true} {
		v := serve(t, newSite(t, sessiontest.NewMemoryStore()), "h1")
		for i := range 100 {
			v.set("n", i)
			got := v.run(func(w http.ResponseWriter, r *http.Request) {
				s := session(t, r)
				done := make(chan struct{})
				go func() {
					defer close(done)
					if destroy {
						s.Destroy()
					} else {
						s.Renew()
					}
				}()
				_, _ = w.Write([]byte("page"))
				<-done
			})
			require.NoError(t, got.err)
			if destroy {
				require.Empty(t, v.get("n"))
			} else {
				require.Equal(t, strconv.Itoa(i), v.get("n"))
			}
		}
	}
}

// http.TimeoutHandler inside of Wrap answers while its handler goes on in another goroutine.
func TestTimeoutHandlerInside(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	const requests = 5
	var running sync.WaitGroup
	running.Add(requests)
	server := httptest.NewServer(mgr.Wrap(http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer running.Done()
		s := session(t, r)
		_ = s.Set("n", 1)
		<-r.Context().Done()
		for i := range 100 {
			_ = s.Set("n", i)
			s.Renew()
			_, _ = sessions.Get(r.Context())
		}
	}), time.Millisecond, "timeout")))
	defer server.Close()
	for range requests {
		res, err := server.Client().Get(server.URL)
		require.NoError(t, err)
		_ = res.Body.Close()
		require.Equal(t, 503, res.StatusCode)
	}
	running.Wait()
}

// A touch that failed is not tried again when the handler returns: the store is down, and two timeouts are worse than
// one.
func TestTouchIsTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fail := range []bool{true, false} {
			spy := &spyStore{Store: sessiontest.NewMemoryStore()}
			b := newSite(t, spy).browser()
			b.set("n", 1)
			if fail {
				spy.fail("touch")
			}
			time.Sleep(12 * time.Hour) // half of the idle timeout
			got := b.use(noop)
			require.Equal(t, "done", got.body, "reading goes on")
			require.EqualValues(t, 1, spy.touches.Load())
		}
	})
}

func TestP03_WhatChangesNothingIsNotWritten(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", map[string]int{"a": 1, "b": 2})
		spy.reset()
		token := b.cookie()
		for name, use := range map[string]func(sessions.Session){
			"nothing": noop,
			"reads": func(s sessions.Session) {
				_ = keys(s)
				_, _, _, _ = s.ID(), s.IsNew(), s.CreatedAt(), s.ExpiresAt()
			},
			"the same value": func(s sessions.Session) { require.NoError(t, s.Set("user", map[string]int{"b": 2, "a": 1})) },
			"the same by Update": func(s sessions.Session) {
				require.NoError(t, s.Update("user", func(old json.RawMessage) (any, error) { return old, nil }))
			},
			"deletes what is not there": func(s sessions.Session) { s.Delete("other") },
			"cannot encode":             func(s sessions.Session) { require.Error(t, s.Set("user", make(chan int))) },
			"an Update that fails": func(s sessions.Session) {
				require.Error(t, s.Update("user", func(json.RawMessage) (any, error) { return nil, errStore }))
			},
		} {
			r := b.use(use)
			require.Empty(t, r.header.Values("Set-Cookie"), name)
			require.Zero(t, spy.writes(), name)
		}
		require.Equal(t, token, b.cookie())
	})
}

func TestP03_AnonymousLeavesNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		for name, use := range map[string]func(sessions.Session){
			"asks for its ID":     func(s sessions.Session) { require.NotEmpty(t, s.ID()) },
			"renews":              func(s sessions.Session) { s.Renew() },
			"clears":              func(s sessions.Session) { s.Clear() },
			"a lifetime":          func(s sessions.Session) { s.SetLifetime(time.Hour, true) },
			"a negative lifetime": func(s sessions.Session) { s.SetLifetime(-time.Hour, true) },
			"sets and deletes":    func(s sessions.Session) { _ = s.Set("x", 1); s.Delete("x") },
			"sets and clears":     func(s sessions.Session) { _ = s.Set("x", 1); s.Clear() },
			"sets and destroys":   func(s sessions.Session) { _ = s.Set("x", 1); s.Destroy() },
			"takes":               func(s sessions.Session) { sessions.NewKey[string]("flash").Take(s) },
		} {
			r := b.use(use)
			require.Empty(t, r.header.Values("Set-Cookie"), name)
			require.Zero(t, spy.calls(), name)
		}
	})
}

func TestP03_TouchIsRareAndNeverDataAndNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := sessiontest.NewMemoryStore()
		spy := &spyStore{Store: memory}
		b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout = 8 * time.Hour }).browser()
		b.set("user", 42)
		spy.reset()
		time.Sleep(time.Hour - time.Millisecond)
		b.use(noop)
		require.Zero(t, spy.touches.Load())
		time.Sleep(time.Millisecond)
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
		time.Sleep(time.Hour)
		// A write slides too: no touch beside it.
		b.set("user", 43)
		require.EqualValues(t, 1, spy.touches.Load())
		require.EqualValues(t, 1, spy.saves.Load())
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
	})
}

// The last slide before the deadline counts as one, too.
func TestP03_TouchesNearTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout, c.AbsoluteTimeout = 8*time.Hour, 24*time.Hour }).browser()
		b.set("user", 42)
		for range 24*60 - 1 {
			time.Sleep(time.Minute)
			require.Equal(t, "42", b.get("user"))
		}
		require.EqualValues(t, 16, spy.touches.Load(), "one an hour, until the deadline is reached")
	})
}

func TestP08_NothingBringsADestroyedSessionBack(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for end, finish := range map[string]func(sessions.Session){
			"destroyed": func(s sessions.Session) { s.Destroy() },
			"renewed":   func(s sessions.Session) { s.Renew() },
			"lifetime":  func(s sessions.Session) { s.SetLifetime(-1, false) },
		} {
			for late, use := range map[string]func(sessions.Session){
				"set":      func(s sessions.Session) { _ = s.Set("late", 1) },
				"update":   func(s sessions.Session) { _, _ = sessions.NewKey[int]("n").Update(s, func(n int) int { return n + 1 }) },
				"delete":   func(s sessions.Session) { s.Delete("user") },
				"clear":    func(s sessions.Session) { s.Clear() },
				"lifetime": func(s sessions.Session) { s.SetLifetime(time.Hour, true) },
				"renew":    func(s sessions.Session) { s.Renew() },
			} {
				t.Run(end+"/"+late, func(t *testing.T) {
					site := newSite(t, store)
					b := site.browser()
					b.set("user", 42)
					old := b.cookie()
					tab := b.clone()
					r := tab.try(func(s sessions.Session) {
						b.use(finish)
						use(s)
					})
					require.Equal(t, http.StatusConflict, r.status)
					require.Empty(t, r.header.Values("Set-Cookie"))
					require.NotContains(t, r.body, "done")
					require.NotEmpty(t, site.events.with(sessions.OutcomeGone))
					r = tab.try(func(s sessions.Session) {
						require.True(t, s.IsNew())
						require.Empty(t, keys(s))
					})
					require.Equal(t, http.StatusOK, r.status)
					_, err := store.Load(context.Background(), "session", old)
					if err == nil { // a tombstone
						rec, err := store.Load(context.Background(), "session", old)
						require.NoError(t, err)
						require.True(t, rec.Revoked)
					}
				})
			}
		}
	})
}

func TestP08_ErrGoneReachesTheHandlerAndTheErrorHandler(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		var got error
		b := newSite(t, store, func(c *sessions.Config) {
			c.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
				got = err
				w.WriteHeader(http.StatusTeapot)
			}
		}).browser()
		b.set("user", 42)
		r := b.clone().do(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("x", 1))
			b.use(func(s sessions.Session) { s.Destroy() })
			_, err = w.Write([]byte("page"))
			require.ErrorIs(t, err, sessions.ErrGone)
		})
		require.ErrorIs(t, got, sessions.ErrGone)
		require.Equal(t, http.StatusTeapot, r.status)
		require.Empty(t, r.body)
	})
}

func TestP08_ALateTouchIsNotAResurrection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := sessiontest.NewMemoryStore()
		site := newSite(t, store)
		b := site.browser()
		b.set("user", 42)
		old := b.cookie()
		time.Sleep(12 * time.Hour)
		r := b.clone().use(func(s sessions.Session) {
			b.use(func(s sessions.Session) { s.Destroy() })
		})
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Len(t, site.events.with(sessions.OutcomeGone), 1)
		require.Zero(t, store.Len())
		require.Equal(t, "", site.browser().hold(old).get("user"))
	})
}

func TestP08_ALateTouchIsNotAResurrectionOnRedis(t *testing.T) {
	t.Parallel()
	for _, sc := range []storeCase{redisStore, miniStore} {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			store := sc.make(t)
			site := newSite(t, store, func(c *sessions.Config) { c.IdleTimeout = 8 * time.Second })
			b := site.browser()
			b.set("user", 42)
			old := b.cookie()
			b.clone().use(func(s sessions.Session) {
				b.use(func(s sessions.Session) { s.Destroy() })
				begin := time.Now() // until a touch is due
				require.Eventually(t, func() bool { return time.Since(begin) > 1100*time.Millisecond }, 5*time.Second, 50*time.Millisecond)
			})
			require.Len(t, site.events.with(sessions.OutcomeGone), 1)
			require.Equal(t, "", site.browser().hold(old).get("user"))
		})
	}
}

// A commit that cannot finish leaves the session usable under the token that the client has.
func TestP08_ARenewalThatFailsHalfWay(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		b := site.browser()
		b.set("user", 42)
		old := b.cookie()
		spy.before(func(_ context.Context, op string, rec *sessions.Record) error {
			if op == "save" && rec.Revoked {
				return errStore
			}
			return nil
		})
		r := b.try(func(s sessions.Session) { s.Renew() })
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		spy.before(nil)
		require.Equal(t, old, b.cookie())
		require.Equal(t, "42", b.get("user"))
		b.use(func(s sessions.Session) { s.Renew() })
		require.NotEqual(t, old, b.cookie())
		require.Equal(t, "42", b.get("user"))
	})
}

func TestP14_ATouchThatFailsIsNoReasonToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		site := newSite(t, spy)
		b := site.browser()
		b.set("user", 42)
		time.Sleep(12 * time.Hour)
		spy.fail("touch")
		require.Equal(t, "42", b.get("user"))
		require.EqualValues(t, 1, spy.touches.Load(), "tried once a request")
		require.Len(t, site.events.with(sessions.OutcomeError), 1)
	})
}

// A logout that meets a renewal is no logout: the session lives on under a token that it does not know, and it says so. One
// that meets a change or another logout is.
func TestP08_LogoutBesideOthers(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for name, c := range map[string]struct {
			meanwhile func(s sessions.Session)
			status    int
			lives     bool
		}{
			"renewed":   {func(s sessions.Session) { s.Renew() }, http.StatusConflict, true},
			"written":   {func(s sessions.Session) { _ = s.Set("y", 2) }, http.StatusOK, false},
			"destroyed": {func(s sessions.Session) { s.Destroy() }, http.StatusOK, false},
		} {
			t.Run(name, func(t *testing.T) {
				b := newSite(t, store).browser()
				b.set("user", 42)
				other := b.clone()
				r := b.try(func(s sessions.Session) {
					s.Destroy()
					other.use(c.meanwhile)
				})
				require.Equal(t, c.status, r.status)
				require.Equal(t, c.lives, b.cookie() != "", "the client keeps the cookie of what it has not ended")
				b.clone().use(func(s sessions.Session) { require.True(t, s.IsNew()) })
				other.use(func(s sessions.Session) { require.Equal(t, !c.lives, s.IsNew()) })
			})
		}
	})
}

// Where the tombstone of a logout gets no answer, what is there is looked at before anything is deleted.
func TestP08_LogoutThatGetsNoAnswer(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for name, c := range map[string]struct {
			meanwhile func(s sessions.Session)
			fails     []string
			status    int
		}{
			"renewed":                {sessions.Session.Renew, []string{"save"}, http.StatusConflict},
			"renewed, and no answer": {sessions.Session.Renew, []string{"delete"}, http.StatusServiceUnavailable},
			"destroyed":              {sessions.Session.Destroy, []string{"save"}, http.StatusOK},
			"left alone":             {noop, []string{"save"}, http.StatusOK},
			"and no answer":          {noop, []string{"delete"}, http.StatusServiceUnavailable},
		} {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				b := newSite(t, spy).browser()
				b.set("user", 42)
				other := b.clone()
				r := b.try(func(s sessions.Session) {
					s.Destroy()
					other.use(c.meanwhile)
					spy.fail(c.fails...)
				})
				spy.fail()
				require.Equal(t, c.status, r.status)
				require.Equal(t, c.status != http.StatusOK, b.cookie() != "")
				other.use(func(s sessions.Session) { require.Equal(t, c.status == http.StatusOK, s.IsNew()) })
			})
		}
	})
}

// What an observer waits for in a commit has the time of the commit, also where the store itself waits for nothing.
func TestP06_ObserversHaveADeadline(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		had := false
		mgr, err := sessions.New(sessions.Config{Store: store, CommitTimeout: time.Minute, Observe: func(ctx context.Context, e sessions.Event) {
			if e.Kind == sessions.EventCommit {
				var until time.Time
				until, had = ctx.Deadline()
				require.WithinDuration(t, time.Now().Add(time.Minute), until, 30*time.Second)
			}
		}})
		require.NoError(t, err)
		mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("user", 42))
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		require.True(t, had)
	})
}

// A store may say no more than that there is a conflict: then the record is read again.
func TestP08_AStoreThatOnlySaysConflict(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for name, c := range map[string]struct {
			meanwhile func(s sessions.Session)
			status    int
		}{
			"destroyed": {func(s sessions.Session) { s.Destroy() }, http.StatusConflict},
			"renewed":   {func(s sessions.Session) { s.Renew() }, http.StatusConflict},
			"written":   {func(s sessions.Session) { _ = s.Set("y", 2) }, http.StatusOK},
		} {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				b := newSite(t, spy).browser()
				b.set("user", 42)
				r := b.on(newSite(t, spy)).clone().try(func(s sessions.Session) {
					_ = s.Set("x", 1)
					spy.before(func(context.Context, string, *sessions.Record) error {
						spy.before(nil)
						b.use(c.meanwhile)
						return sessions.ErrConflict
					})
				})
				require.Equal(t, c.status, r.status)
				if c.status == http.StatusOK {
					b.use(func(s sessions.Session) { require.Equal(t, []string{"user", "x", "y"}, keys(s)) })
				}
			})
		}
	})
}

func TestP03_AnonymousReadLeavesNothing_B01(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		r := b.use(func(s sessions.Session) {
			var v any
			ok, err := s.Get("user", &v)
			require.NoError(t, err)
			require.False(t, ok)
			require.True(t, s.IsNew())
		})
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Equal(t, []string{"Cookie"}, r.header.Values("Vary"))
		require.Zero(t, spy.calls())
	})
}

func TestP08_DestroyedThenReplayed_B05(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("user", 42)
		old := b.cookie()
		r := b.use(func(s sessions.Session) { s.Destroy() })
		require.Negative(t, r.setCookie("session").MaxAge)
		require.Empty(t, b.cookie())
		b.hold(old)
		b.use(func(s sessions.Session) {
			require.Empty(t, keys(s))
			require.True(t, s.IsNew())
		})
	})
}

func TestP03_DestroyWithoutCookie_B06(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		r := b.use(func(s sessions.Session) { s.Destroy() })
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Zero(t, spy.calls())
	})
}

func TestP03_EmptySessionPersists_B07(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("flash", "hello")
		token, id := b.cookie(), b.id()
		b.use(func(s sessions.Session) { s.Delete("flash") })
		b.use(func(s sessions.Session) {
			require.False(t, s.IsNew())
			require.Empty(t, keys(s))
			require.Equal(t, id, s.ID())
		})
		if sc.server {
			require.Equal(t, token, b.cookie())
		}
	})
}

func TestP08_RenewKeepsDataAndKillsTheOldToken_B08(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		var created time.Time
		b.use(func(s sessions.Session) { require.NoError(t, s.Set("user", 42)) })
		b.use(func(s sessions.Session) { created = s.CreatedAt() })
		old, oldID := b.cookie(), b.id()
		b.use(func(s sessions.Session) {
			s.Renew()
			require.NoError(t, s.Set("role", "admin"))
		})
		require.NotEqual(t, old, b.cookie())
		b.use(func(s sessions.Session) {
			require.Equal(t, "42", value(t, s, "user"))
			require.Equal(t, `"admin"`, value(t, s, "role"))
			require.NotEqual(t, oldID, s.ID())
			require.Equal(t, created, s.CreatedAt())
			require.False(t, s.IsNew())
		})
		if sc.server {
			b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+old)
			require.Len(t, site.events.with(sessions.OutcomeRevoked), 1)
		}
	})
}

func TestP08_RenewIsTheFirstUse_B09(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("user", 42)
		old := b.cookie()
		b.use(func(s sessions.Session) { s.Renew() })
		require.NotEqual(t, old, b.cookie())
		require.Equal(t, "42", b.get("user"))
	})
}

func TestP08_DestroyBeatsASlowWriter_B10(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		b.set("user", 42)
		old := b.cookie()
		slow := b.clone()
		r := slow.try(func(s sessions.Session) {
			require.NoError(t, s.Set("late", true))
			b.use(func(s sessions.Session) {
				s.Destroy()
				require.NoError(t, s.Set("user", 43)) // logged in again at once, as somebody else
			})
		})
		require.Equal(t, http.StatusConflict, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Len(t, site.events.with(sessions.OutcomeGone), 1)
		require.Equal(t, "43", b.get("user"))
		b.raw(func(s sessions.Session) { require.True(t, s.IsNew()) }, "session="+old)
	})
}

func TestP07_ParallelWritesToDifferentKeys_B11(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, inner := range []bool{false, true} { // who commits first
			b := newSite(t, store).browser()
			b.set("start", 0)
			b.use(func(s sessions.Session) {
				if !inner {
					require.NoError(t, s.Set("x", 1))
				}
				b.clone().set("y", 2)
				if inner {
					require.NoError(t, s.Set("x", 1))
				}
			})
			b.use(func(s sessions.Session) { require.Equal(t, []string{"start", "x", "y"}, keys(s)) })
		}
	})
}

func TestP07_ReaderDoesNotUndoAWrite_B12(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("x", 1)
		b.use(func(s sessions.Session) {
			require.Equal(t, "1", value(t, s, "x"))
			b.clone().set("x", 2)
		})
		require.Equal(t, "2", b.get("x"))
	})
}

func TestP07_HundredIncrements_B13(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		b := site.overNetwork()
		b.set("n", 0)
		n := sessions.NewKey[int]("n")
		var wg sync.WaitGroup
		for range 10 {
			tab := b.clone()
			wg.Go(func() {
				for range 10 {
					r := tab.do(func(w http.ResponseWriter, r *http.Request) {
						s, err := sessions.Get(r.Context())
						if err == nil {
							_, err = n.Update(s, func(n int) int { return n + 1 })
						}
						if err != nil {
							http.Error(w, err.Error(), http.StatusInternalServerError)
						}
					})
					if r.err != nil || r.status != http.StatusOK {
						t.Errorf("increment: %d %q %v", r.status, r.body, r.err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, "100", b.get("n"))
	})
}

func TestP08_RenewBesideAnOldRequest_B14(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, late := range []string{"reads", "writes", "renews"} {
			t.Run(late, func(t *testing.T) {
				b := newSite(t, store).browser()
				b.set("user", 42)
				old := b.cookie()
				inFlight := b.clone()
				r := inFlight.try(func(s sessions.Session) {
					b.use(func(s sessions.Session) { s.Renew() })
					switch late {
					case "writes":
						require.NoError(t, s.Set("late", true))
					case "renews":
						s.Renew()
					}
				})
				require.Empty(t, r.header.Values("Set-Cookie"), "the new cookie would be replaced")
				if late == "reads" {
					require.Equal(t, http.StatusOK, r.status)
				} else {
					require.Equal(t, http.StatusConflict, r.status)
				}
				b.use(func(s sessions.Session) { require.Equal(t, []string{"user"}, keys(s)) })
				b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+old)
			})
		}
	})
}

// A parallel write between the two steps of a renewal goes along to the new token.
func TestP07_RenewTakesAParallelWriteAlong_B14(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", 42)
		tab := b.on(newSite(t, spy)).clone()
		var saves int
		spy.before(func(_ context.Context, op string, rec *sessions.Record) error {
			if saves++; op == "save" && rec.Revoked && saves < 4 {
				spy.before(nil)
				tab.set("cart", []int{1, 2})
			}
			return nil
		})
		b.use(func(s sessions.Session) {
			s.Renew()
			require.NoError(t, s.Set("role", "admin"))
		})
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"cart", "role", "user"}, keys(s))
			require.Equal(t, "[1,2]", value(t, s, "cart"))
		})
	})
}

func TestP03_IdleTimeoutSlides_B16(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spy := &spyStore{Store: sc.make(t)}
				b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout = 30 * time.Minute }).browser()
				b.set("user", 42)
				spy.reset()
				for range 120 {
					time.Sleep(time.Minute)
					require.Equal(t, "42", b.get("user"))
				}
				require.Zero(t, spy.saves.Load())
				require.EqualValues(t, 30, spy.touches.Load(), "each 4 minutes: the first minute that is past 1/8 of 30")
				time.Sleep(30*time.Minute - time.Second - 3*time.Minute)
				require.Equal(t, "42", b.get("user"))
				time.Sleep(30 * time.Minute)
				require.Equal(t, "", b.get("user"))
			})
		})
	}
}

// A renewal that cannot reach the client is not begun, and then nothing else of that request is stored: a login under the
// old token would be a session fixation.
func TestP06_ARenewalThatCannotReachTheClient(t *testing.T) {
	timedOut := func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Second, "too late") }
	with := func(derive func(context.Context) (context.Context, context.CancelFunc)) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := derive(r.Context())
				defer cancel()
				next.ServeHTTP(w, r.WithContext(ctx))
			})
		}
	}
	deadline := with(func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, time.Second)
	})
	hungUp := with(func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		return ctx, cancel
	})
	none := func(next http.Handler) http.Handler { return next }
	login := func(s sessions.Session) {
		s.Renew()
		_ = s.Set("user", 42)
	}
	slow := func(_ http.ResponseWriter, s sessions.Session) {
		time.Sleep(2 * time.Second)
		login(s)
	}
	causes := []struct {
		name    string
		outside func(http.Handler) http.Handler
		inside  func(w http.ResponseWriter, s sessions.Session)
		stored  bool
	}{
		{"in time", none, func(_ http.ResponseWriter, s sessions.Session) { login(s) }, true},
		{"a client that has hung up", hungUp, slow, true}, // some close their sending half and still read
		{"after the first byte", none, func(w http.ResponseWriter, s sessions.Session) {
			_, _ = io.WriteString(w, "x")
			login(s)
		}, false},
		{"after a flush", none, func(w http.ResponseWriter, s sessions.Session) {
			_ = http.NewResponseController(w).Flush()
			login(s)
		}, false},
		{"on a hijacked connection", none, func(w http.ResponseWriter, s sessions.Session) {
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			_ = conn.Close()
			login(s)
		}, false},
		{"after TimeoutHandler has answered", timedOut, slow, false},
		{"after the deadline of the request", deadline, slow, false},
	}
	places := []struct {
		name  string
		ended bool // the planted token opens nothing after a renewal
		make  func(t *testing.T) sessions.Store
	}{
		{"server", true, memoryStore.make},
		{"sealed", false, cookieStore.make},
	}
	for _, phase := range dualPhases {
		places = append(places, struct {
			name  string
			ended bool
			make  func(t *testing.T) sessions.Store
		}{phase.String(), phase >= sessions.DualReadNew, func(t *testing.T) sessions.Store {
			d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookieStore.make(t), New: memoryStore.make(t), Phase: phase})
			require.NoError(t, err)
			return d
		}})
	}
	for _, c := range causes {
		for _, place := range places {
			t.Run(c.name+"/"+place.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var events eventRecorder
					m, err := sessions.New(sessions.Config{Store: place.make(t), Observe: events.observe})
					require.NoError(t, err)
					send := func(h http.Handler, cookie string) string {
						r := httptest.NewRequest(http.MethodGet, "/", nil)
						if cookie != "" {
							r.Header.Set("Cookie", "session="+cookie)
						}
						w := hijackable{httptest.NewRecorder()}
						h.ServeHTTP(w, r)
						synctest.Wait()
						time.Sleep(time.Minute) // until a handler that was given up has ended
						for _, set := range w.Result().Cookies() {
							cookie = set.Value
						}
						return cookie
					}
					handle := func(inside func(http.ResponseWriter, sessions.Session)) http.Handler {
						return m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inside(w, session(t, r)) }))
					}
					read := func(cookie string) (basket, user int) {
						send(handle(func(_ http.ResponseWriter, s sessions.Session) {
							_, _ = s.Get("basket", &basket)
							_, _ = s.Get("user", &user)
						}), cookie)
						return basket, user
					}
					tellsTooLate := func() {
						t.Helper()
						if c.stored {
							require.Empty(t, events.with(sessions.OutcomeTooLate))
						} else {
							require.NotEmpty(t, events.with(sessions.OutcomeTooLate))
						}
					}

					planted := send(handle(func(_ http.ResponseWriter, s sessions.Session) { _ = s.Set("basket", 1) }), "")
					after := send(c.outside(handle(c.inside)), planted)
					require.Equal(t, c.stored, after != planted)
					tellsTooLate()
					basket, user := read(after)
					require.Equal(t, 1, basket, "the session is as it was")
					require.Equal(t, c.stored, user == 42)
					if _, user := read(planted); place.ended || !c.stored {
						require.Zero(t, user, "the planted token is not logged in")
					}

					// Nor is a session begun of which the client cannot learn.
					events.reset()
					first := send(c.outside(handle(c.inside)), "")
					require.Equal(t, c.stored, first != "")
					require.Equal(t, c.stored, len(events.with(sessions.OutcomeCreated)) > 0)
					tellsTooLate()
				})
			})
		}
	}
}

// expiring is a context whose deadline passes when its channel is closed.
type expiring struct {
	context.Context
	passed chan struct{}
}

func (e expiring) Done() <-chan struct{} { return e.passed }

func (e expiring) Err() error {
	select {
	case <-e.passed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestP06_NothingIsBegunAfterTheDeadline(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		for name, change := range map[string]func(s sessions.Session){
			"a new session":          func(s sessions.Session) { require.NoError(t, s.Set("user", 42)) },
			"a renewal":              func(s sessions.Session) { s.Renew(); require.NoError(t, s.Set("user", 42)) },
			"a session after logout": func(s sessions.Session) { s.Destroy(); require.NoError(t, s.Set("user", 42)) },
		} {
			t.Run(name, func(t *testing.T) {
				site := newSite(t, store)
				b := site.browser()
				if name != "a new session" {
					b.set("basket", 1)
				}
				before := b.cookie()
				late := expiring{t.Context(), make(chan struct{})}
				site.events.reset()
				r := b.doContext(late, func(w http.ResponseWriter, r *http.Request) {
					s := session(t, r)
					close(late.passed)
					change(s)
					_, err := io.WriteString(w, "done")
					require.ErrorIs(t, err, context.DeadlineExceeded)
				})
				require.NoError(t, r.err)
				require.Equal(t, http.StatusServiceUnavailable, r.status)
				require.Equal(t, before, b.cookie())
				require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
				require.Empty(t, site.events.with(sessions.OutcomeCreated))
				require.NotEqual(t, "42", b.get("user"))
			})
		}
	})
}

// hijackable is a recorder whose connection can be taken over.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	here, there := net.Pipe()
	_ = there.Close()
	return here, bufio.NewReadWriter(bufio.NewReader(here), bufio.NewWriter(here)), nil
}

// A page polls while its user logs in. A poll with the old token that is served after the login must not begin a session
// of its own: its cookie would log the user out. Five seconds later it may, because a client that never got the answer
// of its login has to begin anew.
func TestP08_ALatePollDoesNotLogOut(t *testing.T) {
	kinds := map[string]func(t *testing.T) sessions.Store{}
	for _, sc := range stores {
		if sc.server {
			kinds[sc.name] = sc.make
		}
	}
	for _, kind := range realKinds(t) {
		for _, phase := range dualPhases {
			if kind.name == "cookie to redis" && phase == sessions.OldOnly {
				continue // a sealed cookie alone has no tombstone
			}
			kinds[fmt.Sprintf("%s, %v", kind.name, phase)] = func(t *testing.T) sessions.Store {
				old, new := kind.make(t)
				d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: new, Phase: phase, CheckRevoked: true})
				require.NoError(t, err)
				return d
			}
		}
	}
	for name, store := range kinds {
		for _, c := range []struct {
			name  string
			poll  func(s sessions.Session)
			wants int // its status right after the login
			sets  bool
		}{
			{"reads", func(s sessions.Session) { require.Empty(t, keys(s)) }, http.StatusOK, false},
			{"writes", func(s sessions.Session) { _ = s.Set("polled", true) }, http.StatusConflict, false},
			{"writes and deletes", func(s sessions.Session) { _ = s.Set("polled", true); s.Delete("polled") }, http.StatusOK, false},
			{"renews", func(s sessions.Session) { s.Renew(); _ = s.Set("polled", true) }, http.StatusOK, true},
			{"writes, then renews", func(s sessions.Session) { _ = s.Set("polled", true); s.Renew() }, http.StatusOK, true},
			{"destroys", func(s sessions.Session) { s.Destroy(); _ = s.Set("polled", true) }, http.StatusOK, true},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				site := newSite(t, store(t))
				b := site.browser()
				b.set("basket", 1)
				old := b.clone()
				b.use(func(s sessions.Session) {
					s.Renew()
					require.NoError(t, s.Set("user", 42))
				})
				late := old.clone().try(c.poll)
				require.Equal(t, c.wants, late.status)
				require.Equal(t, c.sets, late.setCookie("session") != nil)
				if c.wants == http.StatusConflict {
					require.Len(t, site.events.with(sessions.OutcomeGone), 1)
				}
				require.Equal(t, "42", b.get("user"))

				sessions.SetClock(site.mgr, nil, func() time.Time { return time.Now().Add(5 * time.Second) })
				require.Equal(t, http.StatusOK, old.try(c.poll).status)
				if c.wants == http.StatusConflict || c.sets {
					require.Equal(t, "true", old.get("polled"))
				}
				require.Equal(t, "42", b.get("user"))
			})
		}
	}
}

// In DualReadOld without CheckRevoked, a sealed cookie opens although its session has ended, and only the commit finds
// out. A client that never got the answer that has replaced its cookie must not be locked out until the cookie expires.
func TestP08_AClientThatNeverGotItsAnswer(t *testing.T) {
	for _, ended := range []func(sessions.Session){sessions.Session.Renew, sessions.Session.Destroy} {
		for name, change := range map[string]func(s sessions.Session){
			"writes":  func(s sessions.Session) { _ = s.Set("k", 1) },
			"renews":  func(s sessions.Session) { s.Renew(); _ = s.Set("k", 1) },
			"slow":    func(s sessions.Session) { time.Sleep(10 * time.Second); _ = s.Set("k", 1) },
			"renewed": func(s sessions.Session) { _ = s.Set("k", 1); s.Renew() },
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, d := dualSite(t, cookieStore.make(t), memoryStore.make(t), sessions.DualReadOld)
					b := s.browser()
					b.set("basket", 1)
					lost := b.clone()
					b.use(ended) // whose answer lost does not get

					r := lost.clone().try(change)
					require.Equal(t, http.StatusConflict, r.status)
					require.Nil(t, r.setCookie("session"), "the answer may be on its way")
					time.Sleep(6 * time.Second)
					r = lost.try(change)
					require.Equal(t, http.StatusConflict, r.status)
					require.Negative(t, r.setCookie("session").MaxAge)
					require.Contains(t, r.header.Get("Cache-Control"), "no-store")
					lost.use(change)
					require.Equal(t, "1", lost.get("k"))
					require.Empty(t, lost.get("basket"), "it began anew")
					d.SetPhase(sessions.DualReadNew)
					require.Equal(t, "1", lost.get("k"))
				})
			})
		}
	}
}

// Its logout fails as well, as the session lives on elsewhere, and takes the cookie with it.
func TestP08_ALogoutOfWhoNeverGotTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := dualSite(t, cookieStore.make(t), memoryStore.make(t), sessions.DualReadOld)
		b := s.browser()
		b.set("user", 42)
		lost := b.clone()
		b.use(func(s sessions.Session) { s.Renew() })
		require.Nil(t, lost.clone().try(sessions.Session.Destroy).setCookie("session"))
		time.Sleep(6 * time.Second)
		r := lost.try(sessions.Session.Destroy)
		require.Equal(t, http.StatusConflict, r.status)
		require.Negative(t, r.setCookie("session").MaxAge)
		require.Empty(t, lost.get("user"))
		require.Equal(t, "42", b.get("user"))
	})
}

// The time of a renewal is that of the clock, whatever the version of the session was.
func TestP08_TheGraceIsByTheClock(t *testing.T) {
	for _, phase := range dualPhases[1:] {
		synctest.Test(t, func(t *testing.T) {
			d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: memoryStore.make(t), New: memoryStore.make(t), Phase: phase})
			require.NoError(t, err)
			ahead, s := newSite(t, d), newSite(t, d)
			sessions.SetClock(ahead.mgr, nil, func() time.Time { return time.Now().Add(10 * time.Minute) })
			b := ahead.browser()
			b.set("basket", 1)
			old := b.clone().on(s)
			b = b.on(s)
			b.use(func(s sessions.Session) { s.Renew() })
			require.Equal(t, http.StatusConflict, old.clone().on(s).try(addCount).status)
			time.Sleep(6 * time.Second)
			require.Equal(t, http.StatusOK, old.try(addCount).status)
		})
	}
}

// A renewal during whose first write the deadline of the request passes is taken back.
func TestP06_TheDeadlinePassesDuringARenewal(t *testing.T) {
	eachServerStore(t, func(t *testing.T, inner sessions.Store) {
		spy := &spyStore{Store: inner}
		site := newSite(t, spy)
		b := site.browser()
		b.set("basket", 1)
		late := expiring{t.Context(), make(chan struct{})}
		spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
			if op == "save" {
				close(late.passed)
				spy.before(nil)
			}
			return nil
		})
		r := b.doContext(late, func(w http.ResponseWriter, r *http.Request) {
			s := session(t, r)
			s.Renew()
			require.NoError(t, s.Set("user", 42))
			_, err := io.WriteString(w, "welcome")
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		require.NoError(t, r.err)
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Equal(t, "1", b.get("basket"))
		require.Empty(t, b.get("user"))
		require.EqualValues(t, 1, spy.deletes.Load())
	})
}
