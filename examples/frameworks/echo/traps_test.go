package main

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/examples/frameworks/internal/web"
	"handover.example/sessions/examples/frameworks/internal/webtest"
)

func routes(step <-chan struct{}, use ...echo.MiddlewareFunc) *echo.Echo {
	e := echo.New()
	e.Logger = slog.New(slog.DiscardHandler)
	e.Filesystem = webtest.Files
	e.Use(use...)
	e.GET("/json", func(c *echo.Context) error {
		return c.JSON(http.StatusOK, map[string]int{"n": webtest.Count(c.Request())})
	})
	e.GET("/redirect", func(c *echo.Context) error {
		webtest.Count(c.Request())
		return c.Redirect(http.StatusSeeOther, "/elsewhere")
	})
	e.GET("/empty", func(c *echo.Context) error {
		webtest.Count(c.Request())
		return c.NoContent(http.StatusNoContent)
	})
	e.GET("/abort", func(c *echo.Context) error { // answered by the error handler
		webtest.Count(c.Request())
		return echo.NewHTTPError(http.StatusForbidden, "no")
	})
	e.GET("/file", func(c *echo.Context) error {
		webtest.Count(c.Request())
		return c.File("file.txt")
	})
	e.GET("/flush", func(c *echo.Context) error {
		webtest.Count(c.Request())
		_ = http.NewResponseController(c.Response()).Flush()
		_, err := io.WriteString(c.Response(), "flushed\n")
		return err
	})
	e.GET("/stream", func(c *echo.Context) error {
		response, err := echo.UnwrapResponse(c.Response())
		if err != nil {
			return err
		}
		webtest.Stream(c.Request(), response, response.Flush, step)
		return nil
	})
	e.GET("/hijack", func(c *echo.Context) error {
		webtest.Count(c.Request())
		return webtest.Hijacked(c.Response())
	})
	e.GET("/panic", func(c *echo.Context) error {
		webtest.Count(c.Request())
		panic("on purpose")
	})
	return e
}

// TestResponses has the sessions around Echo, as the program does, and as a middleware in it.
func TestResponses(t *testing.T) {
	for name, build := range map[string]func(*sessions.Manager, <-chan struct{}) http.Handler{
		"around": func(mgr *sessions.Manager, step <-chan struct{}) http.Handler { return mgr.Wrap(routes(step)) },
		"around, with Gzip": func(mgr *sessions.Manager, step <-chan struct{}) http.Handler {
			return mgr.Wrap(routes(step, middleware.Gzip()))
		},
		"WrapMiddleware": func(mgr *sessions.Manager, step <-chan struct{}) http.Handler {
			return routes(step, echo.WrapMiddleware(mgr.Wrap))
		},
	} {
		t.Run(name, func(t *testing.T) { webtest.Responses(t, build) })
	}
}

func TestRecover(t *testing.T) {
	require.False(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler { return web.Recover(mgr.Wrap(routes(nil))) }))
	require.True(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler {
		return mgr.Wrap(routes(nil, middleware.Recover()))
	}), "a panic that is recovered from inside of Wrap is a response like any other")
	require.True(t, webtest.Panic(t, func(mgr *sessions.Manager) http.Handler {
		return routes(nil, middleware.Recover(), echo.WrapMiddleware(mgr.Wrap))
	}), "outside of WrapMiddleware it is no better: the error handler answers through the writer that WrapMiddleware left")
}

// TestErrorHandler: around Echo, what its error handler changes is saved. With WrapMiddleware it comes too late.
func TestErrorHandler(t *testing.T) {
	for name, saved := range map[string]string{"around": "1", "WrapMiddleware": "0"} {
		f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
			e := echo.New()
			e.HTTPErrorHandler = func(c *echo.Context, err error) {
				webtest.Count(c.Request())
				_ = c.String(http.StatusTeapot, err.Error())
			}
			e.GET("/", func(c *echo.Context) error {
				if _, err := sessions.Get(c.Request().Context()); err != nil {
					return err
				}
				return errors.New("failed")
			})
			if name == "around" {
				return mgr.Wrap(e)
			}
			e.Use(echo.WrapMiddleware(mgr.Wrap))
			return e
		})
		f.Do("GET", "/", "")
		require.Equal(t, http.StatusTeapot, f.Status, name)
		require.Equal(t, saved, f.Visits(), name)
	}
}

// TestBefore: a Before hook runs at WriteHeader, before the session is saved. A flush or a hijack that comes first passes
// by the hook.
func TestBefore(t *testing.T) {
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		e := routes(nil, func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c *echo.Context) error {
				response, err := echo.UnwrapResponse(c.Response())
				if err != nil {
					return err
				}
				response.Before(func() { webtest.Count(c.Request()) })
				return next(c)
			}
		})
		e.GET("/plain", func(c *echo.Context) error { return c.String(http.StatusOK, "plain") })
		e.GET("/flushed", func(c *echo.Context) error {
			response, err := echo.UnwrapResponse(c.Response())
			if err != nil {
				return err
			}
			response.Flush()
			if response.Committed {
				return errors.New("Flush now counts as a commit")
			}
			return nil
		})
		return mgr.Wrap(e)
	})
	f.Do("GET", "/plain", "")
	require.Equal(t, "1", f.Visits())
	f.Do("GET", "/flushed", "")
	require.Equal(t, http.StatusOK, f.Status)
	require.Equal(t, "1", f.Visits())
}

// TestWhatALoggerSees: the Response of Echo believes what the handler said, also where the session could not be saved and
// the client got 503. Only a handler that writes a body gets an error.
func TestWhatALoggerSees(t *testing.T) {
	var status int
	var committed bool
	var failed error
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		return mgr.Wrap(routes(nil, func(next echo.HandlerFunc) echo.HandlerFunc {
			return func(c *echo.Context) error {
				failed = next(c)
				response, err := echo.UnwrapResponse(c.Response())
				if err != nil {
					return err
				}
				status, committed = response.Status, response.Committed
				return failed
			}
		}))
	})
	f.BreakWrites()
	f.Do("GET", "/redirect", "")
	require.Equal(t, http.StatusServiceUnavailable, f.Status)
	require.Equal(t, []any{http.StatusSeeOther, true}, []any{status, committed})
	require.NoError(t, failed)
	f.Do("GET", "/json", "")
	require.Equal(t, http.StatusServiceUnavailable, f.Status)
	require.Equal(t, []any{http.StatusOK, true}, []any{status, committed})
	require.Error(t, failed)
}

// TestResponseHijack takes a connection over by the method of the Response itself, as older libraries do.
func TestResponseHijack(t *testing.T) {
	f := webtest.NewFixture(t, false, func(mgr *sessions.Manager) http.Handler {
		e := echo.New()
		e.GET("/", func(c *echo.Context) error {
			webtest.Count(c.Request())
			conn, _, err := c.Response().(http.Hijacker).Hijack()
			if err != nil {
				return err
			}
			defer conn.Close()
			// The cookie of a new session is in the header map, and nobody else will send it.
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\nSet-Cookie: "+
				c.Response().Header().Get("Set-Cookie")+"\r\n\r\n")
			return err
		})
		return mgr.Wrap(e)
	})
	f.Do("GET", "/", "")
	require.NotNil(t, f.Cookie())
	require.Equal(t, "1", f.Visits())
}
