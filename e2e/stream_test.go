package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// streams is the app with two endpoints more: GET /sse and GET /ws. Both show that a session can be read before the
// stream, and changed in two ways while it is open.
type streams struct {
	commands chan string // for SSE, whose client cannot speak
}

func (a *streams) wrap(m *sessions.Manager, app http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", app)
	mux.HandleFunc("GET /sse", func(w http.ResponseWriter, r *http.Request) { a.sse(m, w, r) })
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) { a.ws(m, w, r) })
	return m.Wrap(mux)
}

// sse sends one event for each command.
func (a *streams) sse(m *sessions.Manager, w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "The session store does not answer.", http.StatusServiceUnavailable)
		return
	}
	greeting := greet(r, s)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w).Flush
	fmt.Fprintf(w, "data: %s\n\n", greeting)
	_ = flush()
	for {
		select {
		case command := <-a.commands:
			if command == "end" {
				return
			}
			fmt.Fprintf(w, "data: %s\n\n", obey(m, r, s, command))
			_ = flush()
		case <-r.Context().Done():
			return
		}
	}
}

// ws answers each message with one.
func (a *streams) ws(m *sessions.Manager, w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context()) // before the upgrade: afterwards no status and no cookie can be sent
	if err != nil {
		http.Error(w, "The session store does not answer.", http.StatusServiceUnavailable)
		return
	}
	greeting := greet(r, s)
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if conn.Write(ctx, websocket.MessageText, []byte(greeting)) != nil {
		return
	}
	for {
		_, command, err := conn.Read(ctx)
		if err != nil {
			return
		}
		if string(command) == "end" {
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return
		}
		if conn.Write(ctx, websocket.MessageText, []byte(obey(m, r, s, string(command)))) != nil {
			return
		}
	}
}

// greet reads the session before the stream, and changes it if the request asks for that.
func greet(r *http.Request, s sessions.Session) string {
	if v := r.FormValue("value"); v != "" {
		_ = valueKey.Set(s, v)
	}
	v, _ := valueKey.Get(s)
	return servedBy(r.Context()) + " " + v
}

// obey does what a message asks for: "set x" in the session of the stream's own request, "save x" and "read" in a short
// request of their own.
func obey(m *sessions.Manager, r *http.Request, s sessions.Session, command string) (reply string) {
	verb, arg, _ := strings.Cut(command, " ")
	var err error
	switch verb {
	case "set":
		err = valueKey.Set(s, arg)
	case "save":
		err = during(m, r, func(s sessions.Session) error { return valueKey.Set(s, arg) })
	case "read":
		err = during(m, r, func(s sessions.Session) error {
			v, _ := valueKey.Get(s)
			reply = v
			return nil
		})
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimSpace(verb + " " + reply)
}

var errLoggedOut = errors.New("logged out")

// during runs fn on the session as it is now, and saves what fn changes at once: a request of its own within the
// stream's, with the cookie that the client came with. A session that was destroyed or renewed meanwhile is an error,
// which is how a stream notices a logout. fn must not renew: nobody could tell the client the new token. The client must
// have come with its session: a cookie that the stream itself has set is not in its request.
func during(m *sessions.Manager, r *http.Request, fn func(sessions.Session) error) (err error) {
	// Not the context of the stream: in it, the session is the one that was loaded when the stream began.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	w := &nowhere{header: http.Header{}}
	m.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var s sessions.Session
		if s, err = m.Get(r.Context()); err != nil {
			return
		}
		if s.IsNew() {
			err = errLoggedOut
			return
		}
		err = fn(s)
	})).ServeHTTP(w, r.Clone(ctx))
	if err == nil && w.status >= 400 { // Config.ErrorHandler: the session could not be saved
		err = errors.New(http.StatusText(w.status))
	}
	return err
}

// nowhere is the response of a request that has no client.
type nowhere struct {
	header http.Header
	status int
}

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(status int)      { w.status = status }

// stream is the client's side of either kind.
type stream interface {
	greeting() string
	response() *http.Response
	do(command string) string // sends a command, returns the reply
	end()                     // ends it from the server's side, and waits until the client sees it
	broken()                  // waits until the client sees that it has ended by itself
}

type sseStream struct {
	t       testing.TB
	app     *streams
	resp    *http.Response
	lines   *bufio.Reader
	greeted string
}

func openSSE(t testing.TB, _ *stack, app *streams, c *http.Client, target string) stream {
	t.Helper()
	resp, err := c.Get(target)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	s := &sseStream{t: t, app: app, resp: resp, lines: bufio.NewReader(resp.Body)}
	s.greeted = s.next()
	return s
}

func (s *sseStream) greeting() string         { return s.greeted }
func (s *sseStream) response() *http.Response { return s.resp }

func (s *sseStream) next() string {
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return ""
		}
		if data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: "); ok {
			return data
		}
	}
}

func (s *sseStream) do(command string) string {
	s.send(command)
	return s.next()
}

func (s *sseStream) send(command string) {
	select {
	case s.app.commands <- command:
	case <-time.After(20 * time.Second):
		s.t.Fatalf("nobody is there to %q", command)
	}
}

func (s *sseStream) end() {
	s.send("end")
	s.broken()
}

func (s *sseStream) broken() { _, _ = io.Copy(io.Discard, s.lines) }

type wsStream struct {
	ctx     context.Context
	conn    *websocket.Conn
	resp    *http.Response
	greeted string
}

// openWS dials as a browser does, with the client's cookies. HTTP/1.1: nginx has no WebSocket over HTTP/2.
func openWS(t testing.TB, st *stack, _ *streams, c *http.Client, target string) stream {
	t.Helper()
	h1 := st.client(t, false)
	h1.Jar = c.Jar
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	u, err := url.Parse(target)
	require.NoError(t, err)
	conn, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: h1, HTTPHeader: http.Header{"Origin": {u.Scheme + "://" + u.Host}}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.CloseNow() })
	s := &wsStream{ctx: ctx, conn: conn, resp: resp}
	s.greeted = s.next()
	return s
}

func (s *wsStream) greeting() string         { return s.greeted }
func (s *wsStream) response() *http.Response { return s.resp }

func (s *wsStream) next() string {
	_, data, err := s.conn.Read(s.ctx)
	if err != nil {
		return ""
	}
	return string(data)
}

func (s *wsStream) do(command string) string {
	if s.conn.Write(s.ctx, websocket.MessageText, []byte(command)) != nil {
		return ""
	}
	return s.next()
}

func (s *wsStream) end() {
	_ = s.conn.Write(s.ctx, websocket.MessageText, []byte("end"))
	s.broken()
}

func (s *wsStream) broken() {
	for s.next() != "" {
	}
}

// eachStream runs a test with both kinds behind both nginx.
func eachStream(t *testing.T, cfg stackConfig, test func(t *testing.T, st *stack, open func(c *http.Client, query string) stream)) {
	t.Helper()
	cfg.Inner = passes
	for _, kind := range []struct {
		path string
		open func(testing.TB, *stack, *streams, *http.Client, string) stream
	}{{"/sse", openSSE}, {"/ws", openWS}} {
		t.Run(kind.path[1:], func(t *testing.T) {
			app := &streams{commands: make(chan string)}
			cfg := cfg
			cfg.Wrap = app.wrap
			st := startStack(t, cfg)
			test(t, st, func(c *http.Client, query string) stream {
				t.Helper()
				return kind.open(t, st, app, c, st.URL+kind.path+query)
			})
		})
	}
}

// TestP04StreamChangedBeforeItsFirstByte: a stream commits before its first byte, 101 included. The next request, on
// another instance and while the stream is open, sees the change; so does a client that had no session before.
func TestP04StreamChangedBeforeItsFirstByte(t *testing.T) {
	eachStream(t, stackConfig{}, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
		c := st.Client(t)
		s := open(c, "?value=early")
		require.Equal(t, "app-1 early", s.greeting())
		require.Len(t, s.response().Header.Values("Set-Cookie"), 1, "a new session, in the header of the stream")
		require.Equal(t, "no-store", s.response().Header.Get("Cache-Control"))
		next := get(t, c, st.URL+"/")
		require.Equal(t, "app-2", next.Page.ServedBy)
		require.Equal(t, "early", next.Page.Value)
		require.False(t, next.Page.New)
		s.end()

		s = open(c, "")
		require.Equal(t, "app-3 early", s.greeting(), "and a stream reads what requests have written")
		require.Empty(t, s.response().Header.Values("Set-Cookie"))
		s.end()
		require.Empty(t, st.LogLines(""), "nothing to complain about")
	})
}

// TestStreamChangedWhileOpen: what a handler sets in the session of a stream is written when the handler returns, and
// not before.
func TestStreamChangedWhileOpen(t *testing.T) {
	eachStream(t, stackConfig{}, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
		c := st.Client(t)
		before := get(t, c, st.URL+"/") // app-1: the session exists
		s := open(c, "")                // app-2
		require.Equal(t, "set", s.do("set late"))
		during := get(t, c, st.URL+"/") // app-3
		require.Empty(t, during.Page.Value, "not yet")
		require.Equal(t, 2, during.Page.Count)
		st.Clear()
		s.end()
		require.Eventually(t, func() bool { return count(st.outcomes(), "commit:saved") == 1 }, 10*time.Second, time.Millisecond)
		after := get(t, c, st.URL+"/")
		require.Equal(t, "late", after.Page.Value)
		require.Equal(t, 3, after.Page.Count, "and the request in between has lost nothing")
		require.Equal(t, before.Page.Session, after.Page.Session)
		require.Empty(t, st.LogLines("level=WARN"))
	})
}

// TestStreamTooLate: a session that begins within a stream, and a sealed cookie that changes there, cannot be saved: an
// event says so.
func TestStreamTooLate(t *testing.T) {
	t.Run("a new session", func(t *testing.T) {
		eachStream(t, stackConfig{}, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
			c := st.Client(t)
			s := open(c, "")
			require.Equal(t, "set", s.do("set lost"))
			s.end()
			require.Eventually(t, func() bool { return len(st.LogLines("outcome=too_late")) == 1 }, 10*time.Second, time.Millisecond)
			require.Equal(t, 1, count(st.outcomes(), "commit:too_late"))
			next := get(t, c, st.URL+"/")
			require.True(t, next.Page.New)
			require.Empty(t, next.Page.Value)
		})
	})
	t.Run("a sealed cookie", func(t *testing.T) {
		eachStream(t, stackConfig{Config: cookieStore(t)}, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
			c := st.Client(t)
			get(t, c, st.URL+"/")
			s := open(c, "")
			require.Equal(t, "set", s.do("set lost"))
			s.end()
			require.Eventually(t, func() bool { return count(st.outcomes(), "commit:too_late") == 1 }, 10*time.Second, time.Millisecond)
			next := get(t, c, st.URL+"/")
			require.Equal(t, 2, next.Page.Count, "the session is there as it was")
			require.Empty(t, next.Page.Value)
		})
	})
}

// TestStreamShortRequests: what must be seen while the stream is open goes through a request of its own, made within the
// server or by the client. Both sides see each other's changes at once, and a logout.
func TestStreamShortRequests(t *testing.T) {
	eachStream(t, stackConfig{}, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
		c := st.Client(t)
		get(t, c, st.URL+"/")
		s := open(c, "")
		require.Equal(t, "save", s.do("save within"))
		seen := get(t, c, st.URL+"/")
		require.Equal(t, "within", seen.Page.Value, "by the next request, on another instance, while the stream is open")
		require.NotContains(t, s.greeting(), seen.Page.ServedBy)

		post(t, c, st.URL+"/save", url.Values{"value": {"beside"}})
		require.Equal(t, "read beside", s.do("read"), "and the stream sees what the client's other requests change")

		post(t, c, st.URL+"/logout", nil)
		require.Equal(t, "error: logged out", s.do("read"), "also that it has ended")
		require.Equal(t, "error: logged out", s.do("save again"))
		s.end()
	})
}

// TestP08StreamDoesNotUndoALogout: a change that is written when the stream ends does not bring the session back.
func TestP08StreamDoesNotUndoALogout(t *testing.T) {
	eachStream(t, stackConfig{}, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
		c := st.Client(t)
		get(t, c, st.URL+"/")
		u, err := url.Parse(st.URL)
		require.NoError(t, err)
		old := c.Jar.Cookies(u)
		s := open(c, "")
		require.Equal(t, "set", s.do("set undead"))
		post(t, noRedirect(c), st.URL+"/logout", nil)
		st.Clear()
		s.end()
		require.Eventually(t, func() bool { return count(st.outcomes(), "commit:gone") == 1 }, 10*time.Second, time.Millisecond, "%v", st.outcomes())
		c.Jar.SetCookies(u, old)
		require.True(t, get(t, c, st.URL+"/").Page.New)
	})
}

// TestStreamInstanceDies: the stream breaks, the next request is served by another instance, and the session has what
// was saved: before the first byte, or in a request of its own. What waited for the end of the stream is lost with it.
func TestStreamInstanceDies(t *testing.T) {
	cfg := stackConfig{Unix: true, Config: func(c *sessions.Config) { c.TrustUnixSocket = true }}
	eachStream(t, cfg, func(t *testing.T, st *stack, open func(*http.Client, string) stream) {
		c := st.Client(t)
		first := get(t, c, st.URL+"/") // app-1
		s := open(c, "?value=early")   // app-2
		require.Equal(t, "app-2 early", s.greeting())
		require.Equal(t, "set", s.do("set waiting"))
		st.Apps[1].Kill()
		s.broken()
		for i := range 4 { // each third of them tries the dead one first
			a := get(t, c, st.URL+"/")
			require.NotEqual(t, "app-2", a.Page.ServedBy)
			require.Equal(t, "early", a.Page.Value)
			require.Equal(t, first.Page.Session, a.Page.Session)
			require.Equal(t, i+2, a.Page.Count)
		}
		saved := post(t, c, st.URL+"/save", url.Values{"value": {"on"}})
		require.Equal(t, "on", saved.Page.Value)
		st.Apps[1].Start(t)
		by := map[string]bool{}
		for range 3 {
			a := get(t, c, st.URL+"/")
			require.Equal(t, "on", a.Page.Value)
			by[a.Page.ServedBy] = true
		}
		require.Len(t, by, 3, "and it is back in turn")
	})
}
