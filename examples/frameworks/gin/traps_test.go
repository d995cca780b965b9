package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/web"
	"handover.example/sessions/examples/frameworks/internal/webtest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	webtest.Main(m)
}

func routes(step <-chan struct{}, use ...gin.HandlerFunc) *gin.Engine {
	engine := gin.New()
	engine.Use(use...)
	engine.GET("/json", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"n": webtest.Count(c.Request)}) })
	engine.GET("/redirect", func(c *gin.Context) {
		webtest.Count(c.Request)
		c.Redirect(http.StatusSeeOther, "/elsewhere")
	})
	engine.GET("/empty", func(c *gin.Context) {
		webtest.Count(c.Request)
		c.Status(http.StatusNoContent) // sent by the engine when the handler has returned
	})
	engine.GET("/abort", func(c *gin.Context) {
		webtest.Count(c.Request)
		c.AbortWithStatusJSON(http.StatusForbidden, gin.H{"error": "no"})
	})
	engine.GET("/file", func(c *gin.Context) {
		webtest.Count(c.Request)
		c.FileFromFS("file.txt", http.FS(webtest.Files))
	})
	engine.GET("/flush", func(c *gin.Context) {
		webtest.Count(c.Request)
		c.Writer.Flush()
		c.String(http.StatusOK, "flushed\n")
	})
	engine.GET("/stream", func(c *gin.Context) { webtest.Stream(c.Request, c.Writer, c.Writer.Flush, step) })
	engine.GET("/hijack", func(c *gin.Context) {
		webtest.Count(c.Request)
		_ = webtest.Hijacked(c.Writer)
	})
	engine.GET("/panic", func(c *gin.Context) {
		webtest.Count(c.Request)
		panic("on purpose")
	})
	return engine
}

func TestResponses(t *testing.T) {
	webtest.Responses(t, func(mgr *sessions.Manager, step <-chan struct{}) http.Handler { return mgr.Wrap(routes(step)) })
}

func TestRecover(t *testing.T) {
	quiet := gin.RecoveryWithWriter(io.Discard)
	require.False(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler { return web.Recover(mgr.Wrap(routes(nil))) }))
	require.True(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler { return mgr.Wrap(routes(nil, quiet)) }),
		"a panic that is recovered from inside of Wrap is a response like any other")
	require.False(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler {
		outer := gin.New()
		outer.Use(quiet)
		outer.Any("/*path", gin.WrapH(mgr.Wrap(routes(nil))))
		return outer
	}), "Recovery of an engine outside")
}

// TestRecoveryLogsCookies: gin.Recovery writes the headers of the request to the log, and with them the token: in debug
// mode for any panic, otherwise for a connection that was cut. If this fails, Gin has changed, and the README can lose a
// paragraph.
func TestRecoveryLogsCookies(t *testing.T) {
	defer gin.SetMode(gin.ReleaseMode)
	for _, c := range []struct {
		mode, path string
		logged     bool
	}{
		{gin.DebugMode, "/panic", true},
		{gin.ReleaseMode, "/panic", false},
		{gin.ReleaseMode, "/cut", true},
	} {
		var log bytes.Buffer
		gin.SetMode(c.mode)
		gin.DefaultWriter = io.Discard
		f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
			engine := routes(nil, gin.RecoveryWithWriter(&log))
			engine.GET("/cut", func(*gin.Context) { panic(http.ErrAbortHandler) })
			return mgr.Wrap(engine)
		})
		gin.DefaultWriter = os.Stdout
		f.Do("GET", "/json", "")
		token := f.Cookie().Value
		f.Do("GET", c.path, "")
		require.Equal(t, c.logged, bytes.Contains(log.Bytes(), []byte(token)), "%s, %s", c.mode, c.path)
	}
}

// TestMiddleware: a middleware of gin that hands c.Writer to Wrap and goes on with the old one is the usual adapter, and
// is wrong. The handlers write past the sessions.
func TestMiddleware(t *testing.T) {
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		return routes(nil, func(c *gin.Context) {
			mgr.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				c.Request = r
				c.Next()
			})).ServeHTTP(c.Writer, c.Request)
		})
	})
	f.Do("GET", "/json", "")
	require.Equal(t, http.StatusOK, f.Status)
	require.Nil(t, f.Cookie(), "the response was sent before the session was saved")
}

// TestContext: the session is in the context of the request. That of Gin gives it only if told to.
func TestContext(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		var direct, request error
		f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
			engine := gin.New()
			engine.ContextWithFallback = fallback
			engine.GET("/", func(c *gin.Context) {
				_, direct = sessions.Get(c)
				_, request = sessions.Get(c.Request.Context())
			})
			return mgr.Wrap(engine)
		})
		f.Do("GET", "/", "")
		require.NoError(t, request)
		if fallback {
			require.NoError(t, direct)
		} else {
			require.ErrorIs(t, direct, sessions.ErrNoMiddleware)
		}
	}
}

// TestWhatALoggerSees: the writer of Gin believes what the handler said, also where the session could not be saved and
// the client got 503.
func TestWhatALoggerSees(t *testing.T) {
	var status int
	var before, after bool
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		return mgr.Wrap(routes(nil, func(c *gin.Context) {
			before = c.Writer.Written()
			c.Next()
			status, after = c.Writer.Status(), c.Writer.Written()
		}))
	})
	f.Do("GET", "/json", "")
	require.Equal(t, []any{http.StatusOK, false, true}, []any{status, before, after})
	f.BreakWrites()
	f.Do("GET", "/redirect", "")
	require.Equal(t, http.StatusServiceUnavailable, f.Status)
	require.Equal(t, []any{http.StatusSeeOther, false, true}, []any{status, before, after})
}

// TestStream: c.Stream asks its writer for CloseNotify, and panics at any wrapper that leaves this deprecated method out.
// Ours has it.
func TestStream(t *testing.T) {
	for name, http2 := range map[string]bool{"http1": false, "http2": true} {
		t.Run(name, func(t *testing.T) {
			step := make(chan struct{})
			f := webtest.NewFixture(t, http2, func(mgr *sessions.Manager) http.Handler {
				engine := gin.New()
				wait := func(c *gin.Context) {
					select {
					case <-step:
					case <-c.Request.Context().Done():
					}
				}
				// event sends the visits of this session, and reports whether there is more to come.
				event := func(c *gin.Context) bool {
					n := webtest.Count(c.Request)
					c.SSEvent("visits", n)
					return n%2 == 1
				}
				engine.GET("/flush", func(c *gin.Context) {
					for event(c) {
						c.Writer.Flush()
						wait(c)
					}
				})
				engine.GET("/stream", func(c *gin.Context) {
					first := true
					c.Stream(func(io.Writer) bool {
						if !first {
							wait(c)
						}
						first = false
						return event(c)
					})
				})
				return web.Recover(mgr.Wrap(engine))
			})
			stream := func(path, first, second string) {
				resp := f.Open(path)
				require.Contains(t, resp.Header.Get("Content-Type"), "text/event-stream")
				event := make([]byte, len("event:visits\ndata:1\n\n"))
				_, err := io.ReadFull(resp.Body, event)
				require.NoError(t, err)
				require.Equal(t, "event:visits\ndata:"+first+"\n\n", string(event))
				require.Equal(t, first, f.Visits(), "seen while the stream is open")
				step <- struct{}{}
				rest, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, "event:visits\ndata:"+second+"\n\n", string(rest))
				require.Equal(t, second, f.Visits())
			}
			stream("/flush", "1", "2")
			stream("/stream", "3", "4")
		})
	}
}
