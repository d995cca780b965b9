package respwriter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// log is the order in which hooks and methods of the inner writer were called.
type log []string

func (l *log) add(s string) { *l = append(*l, s) }

// inner is a ResponseWriter with every optional interface, which notes each call.
type inner struct {
	*log
	header http.Header
	body   strings.Builder
	status int
	sent   http.Header // the headers as they were at WriteHeader
}

func newInner() *inner { return &inner{log: &log{}, header: http.Header{}} }

func (in *inner) Header() http.Header { return in.header }

func (in *inner) WriteHeader(code int) {
	in.add(fmt.Sprint("WriteHeader ", code))
	if code >= 200 || code == http.StatusSwitchingProtocols {
		in.send(code)
	}
}

func (in *inner) send(code int) {
	if in.sent == nil {
		in.status, in.sent = code, in.header.Clone()
	}
}

func (in *inner) Write(b []byte) (int, error) {
	in.add("Write")
	in.send(200)
	return in.body.Write(b)
}

func (in *inner) WriteString(s string) (int, error) {
	in.add("WriteString")
	in.send(200)
	return in.body.WriteString(s)
}

func (in *inner) ReadFrom(src io.Reader) (int64, error) {
	in.add("ReadFrom")
	in.send(200)
	return io.Copy(&in.body, src)
}

func (in *inner) Flush() { in.add("Flush"); in.send(200) }

func (in *inner) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	in.add("Hijack")
	return nil, nil, errHijacked
}

func (in *inner) Push(target string, _ *http.PushOptions) error {
	in.add("Push " + target)
	return nil
}

func (in *inner) SetReadDeadline(time.Time) error  { in.add("SetReadDeadline"); return nil }
func (in *inner) SetWriteDeadline(time.Time) error { in.add("SetWriteDeadline"); return nil }
func (in *inner) EnableFullDuplex() error          { in.add("EnableFullDuplex"); return nil }

var (
	errHijacked = errors.New("what the inner Hijack returns")
	errCommit   = errors.New("the hook failed")
)

// hooks notes its calls in the same log.
type hooks struct {
	*log
	err    error
	failed func(http.ResponseWriter) // default: 503 and "sorry"
	before func()
}

func (h *hooks) BeforeResponse(hijack bool) error {
	h.add(map[bool]string{false: "hook", true: "hook hijack"}[hijack])
	if h.before != nil {
		h.before()
	}
	return h.err
}

func (h *hooks) Failed(w http.ResponseWriter, err error) {
	h.add("failed " + err.Error())
	if h.failed != nil {
		h.failed(w)
		return
	}
	w.WriteHeader(503)
	_, _ = w.Write([]byte("sorry"))
}

func wrap(w http.ResponseWriter, h Hooks) (*Writer, http.ResponseWriter) {
	t := new(Writer)
	return t, t.Wrap(w, h)
}

const (
	bitF = 1 << iota
	bitH
	bitR
	bitP
	bitS
)

func TestWrap_hasTheInterfacesOfTheInnerWriter(t *testing.T) {
	for set := range 32 {
		in := newInner()
		_, w := wrap(in.with(set), &hooks{log: in.log})
		_, f := w.(http.Flusher)
		_, fe := w.(interface{ FlushError() error })
		_, h := w.(http.Hijacker)
		_, r := w.(io.ReaderFrom)
		_, p := w.(http.Pusher)
		_, s := w.(io.StringWriter)
		_, u := w.(interface{ Unwrap() http.ResponseWriter })
		require.Equal(t, set&bitF != 0, f, "Flusher, %05b", set)
		require.Equal(t, set&bitF != 0, fe, "FlushError, %05b", set)
		require.Equal(t, set&bitH != 0, h, "Hijacker, %05b", set)
		require.Equal(t, set&bitR != 0, r, "ReaderFrom, %05b", set)
		require.Equal(t, set&bitP != 0, p, "Pusher, %05b", set)
		require.Equal(t, set&bitS != 0, s, "StringWriter, %05b", set)
		require.True(t, u, "Unwrap, %05b", set)
		require.Empty(t, *in.log, "wrapping must call nothing")
	}
}

// methods are the ways to begin a response, with what reaches the inner writer.
var methods = []struct {
	name  string
	needs int
	call  func(http.ResponseWriter) error
	inner string
	hook  string
}{
	{"Write", 0, func(w http.ResponseWriter) error { _, err := w.Write([]byte("x")); return err }, "Write", "hook"},
	{"WriteHeader", 0, func(w http.ResponseWriter) error { w.WriteHeader(201); return nil }, "WriteHeader 201", "hook"},
	{"WriteHeader 101", 0, func(w http.ResponseWriter) error { w.WriteHeader(101); return nil }, "WriteHeader 101", "hook"},
	{"Flush", bitF, func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil }, "Flush", "hook"},
	{"FlushError", bitF, func(w http.ResponseWriter) error { return w.(interface{ FlushError() error }).FlushError() }, "Flush", "hook"},
	{"Hijack", bitH, func(w http.ResponseWriter) error { _, _, err := w.(http.Hijacker).Hijack(); return err }, "Hijack", "hook hijack"},
	{"ReadFrom", bitR, func(w http.ResponseWriter) error {
		_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("x"))
		return err
	}, "ReadFrom", "hook"},
	{"io.Copy", bitR, func(w http.ResponseWriter) error {
		_, err := io.Copy(w, struct{ io.Reader }{strings.NewReader("x")})
		return err
	}, "ReadFrom", "hook"},
	{"WriteString", bitS, func(w http.ResponseWriter) error { _, err := io.WriteString(w, "x"); return err }, "WriteString", "hook"},
	{"io.WriteString without StringWriter", -bitS, func(w http.ResponseWriter) error { _, err := io.WriteString(w, "x"); return err }, "Write", "hook"},
	{"io.Copy without ReaderFrom", -bitR, func(w http.ResponseWriter) error {
		_, err := io.Copy(w, struct{ io.Reader }{strings.NewReader("x")})
		return err
	}, "Write", "hook"},
	{"ResponseController.Flush", bitF, func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }, "Flush", "hook"},
	{"ResponseController.Hijack", bitH, func(w http.ResponseWriter) error {
		_, _, err := http.NewResponseController(w).Hijack()
		return err
	}, "Hijack", "hook hijack"},
}

// applies reports whether a set of interfaces has what a method needs; a negative need is one that must be missing.
func applies(set, needs int) bool {
	if needs < 0 {
		return set&-needs == 0
	}
	return set&needs == needs
}

func TestMethods_reachTheInnerWriterOnceAfterTheHook(t *testing.T) {
	for set := range 32 {
		for _, m := range methods {
			if !applies(set, m.needs) {
				continue
			}
			in := newInner()
			tw, w := wrap(in.with(set), &hooks{log: in.log})
			require.False(t, tw.Begun())
			err := m.call(w)
			if m.inner == "Hijack" {
				require.ErrorIs(t, err, errHijacked)
			} else {
				require.NoError(t, err)
			}
			require.True(t, tw.Begun())
			require.Equal(t, log{m.hook, m.inner}, *in.log, "%s, %05b", m.name, set)

			_ = m.call(w)
			require.Equal(t, log{m.hook, m.inner, m.inner}, *in.log, "the hook runs once: %s, %05b", m.name, set)
			require.NoError(t, tw.Begin())
			require.Len(t, *in.log, 3)
		}
		if set&bitP != 0 {
			in := newInner()
			tw, w := wrap(in.with(set), &hooks{log: in.log})
			require.NoError(t, w.(http.Pusher).Push("/style.css", nil))
			require.Equal(t, log{"Push /style.css"}, *in.log, "a push is a response of its own")
			require.False(t, tw.Begun())
		}
	}
}

func TestInformational(t *testing.T) {
	in := newInner()
	tw, w := wrap(in, &hooks{log: in.log})
	w.WriteHeader(103)
	w.WriteHeader(100)
	w.WriteHeader(199)
	require.False(t, tw.Begun())
	w.WriteHeader(204)
	w.WriteHeader(102) // too late, but that is for the inner writer to say
	require.Equal(t, log{"WriteHeader 103", "WriteHeader 100", "WriteHeader 199", "hook", "WriteHeader 204", "WriteHeader 102"}, *in.log)

	in = newInner()
	_, w = wrap(in, &hooks{log: in.log, err: errCommit})
	w.WriteHeader(103)
	w.WriteHeader(200)
	w.WriteHeader(103)
	require.Equal(t, log{"WriteHeader 103", "hook", "failed the hook failed", "WriteHeader 503", "Write"}, *in.log)
}

// A code that net/http panics on must do so before anything is committed.
func TestInvalidStatusCode(t *testing.T) {
	for _, code := range []int{-1, 0, 99, 1000} {
		in := newInner()
		tw, w := wrap(httptest.NewRecorder(), &hooks{log: in.log})
		require.Panics(t, func() { w.WriteHeader(code) })
		require.Empty(t, *in.log)
		require.False(t, tw.Begun())
	}
}

// onion hides a writer behind its Unwrap.
type onion struct{ http.ResponseWriter }

func (o onion) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func TestResponseController(t *testing.T) {
	for name, outer := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"direct": func(w http.ResponseWriter) http.ResponseWriter { return w },
		"behind Unwrap": func(w http.ResponseWriter) http.ResponseWriter {
			return onion{onion{w}}
		},
		"wrapped twice": func(w http.ResponseWriter) http.ResponseWriter {
			_, w = wrap(w, &hooks{log: &log{}})
			return w
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := newInner()
			tw, w := wrap(outer(in), &hooks{log: in.log})
			rc := http.NewResponseController(w)
			require.NoError(t, rc.SetReadDeadline(time.Time{}))
			require.NoError(t, rc.SetWriteDeadline(time.Time{}))
			require.NoError(t, rc.EnableFullDuplex())
			require.Equal(t, log{"SetReadDeadline", "SetWriteDeadline", "EnableFullDuplex"}, *in.log)
			require.False(t, tw.Begun(), "deadlines are no response")

			*in.log = nil
			require.NoError(t, rc.Flush())
			require.Equal(t, log{"hook", "Flush"}, *in.log)

			*in.log = nil
			tw, w = wrap(outer(in), &hooks{log: in.log})
			_, _, err := http.NewResponseController(w).Hijack()
			require.ErrorIs(t, err, errHijacked)
			require.Equal(t, log{"hook hijack", "Hijack"}, *in.log)
			require.True(t, tw.Begun())
		})
	}
	t.Run("not supported", func(t *testing.T) {
		in := newInner()
		_, w := wrap(in.with(0), &hooks{log: in.log})
		rc := http.NewResponseController(w)
		require.ErrorIs(t, rc.Flush(), http.ErrNotSupported)
		_, _, err := rc.Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
		require.ErrorIs(t, rc.SetReadDeadline(time.Time{}), http.ErrNotSupported)
		require.Empty(t, *in.log, "what cannot be done is no reason to commit")
	})
}

// flushErrorOnly is a writer that can tell why a flush failed, and has no Flush.
type flushErrorOnly struct {
	http.ResponseWriter
	err error
}

func (f flushErrorOnly) FlushError() error { return f.err }

func TestFlushError(t *testing.T) {
	broken := errors.New("broken pipe")
	in := newInner()
	_, w := wrap(flushErrorOnly{in.with(0), broken}, &hooks{log: in.log})
	require.ErrorIs(t, w.(interface{ FlushError() error }).FlushError(), broken)
	require.ErrorIs(t, http.NewResponseController(w).Flush(), broken)
	w.(http.Flusher).Flush()
	require.Equal(t, log{"hook"}, *in.log)
}

// outerHeaders returns n headers that a middleware outside has set.
func outerHeaders(n int) http.Header {
	h := http.Header{}
	for i := range n {
		h[fmt.Sprintf("X-Outer-%d", i)] = []string{fmt.Sprint("outer ", i)}
	}
	if n > 2 {
		h["X-Outer-0"] = []string{"a", "b", "c"}
		h["X-Outer-1"] = nil // net/http leaves out such a header, Date for one
		h["x-lower-case"] = h["X-Outer-2"]
		delete(h, "X-Outer-2")
	}
	return h
}

var outerCounts = []int{0, 1, 3, 6, 7, 20}

func TestFailedHook_dropsTheResponse(t *testing.T) {
	meddle := map[string]func(http.Header){
		"adds": func(h http.Header) {
			h.Set("Content-Length", "100")
			h.Add("Set-Cookie", "handler=1")
			h.Set("X-Handler", "1")
		},
		"replaces": func(h http.Header) {
			for k := range h {
				h[k] = []string{"changed"}
			}
		},
		"appends": func(h http.Header) {
			for k := range h {
				h[k] = append(h[k], "more")
			}
		},
		"writes into the values": func(h http.Header) {
			for _, v := range h {
				for i := range v {
					v[i] = "changed"
				}
			}
		},
		"deletes": func(h http.Header) { clear(h) },
	}
	for _, n := range outerCounts {
		for _, change := range slices.Sorted(maps.Keys(meddle)) {
			for _, m := range methods {
				in := newInner()
				in.header = outerHeaders(n)
				set := 31
				if m.needs < 0 {
					set &^= -m.needs
				}
				tw, w := wrap(in.with(set), &hooks{log: in.log, err: errCommit})
				kept := w.Header() // a handler may well keep the map
				meddle[change](kept)
				err := m.call(w)
				if !strings.HasPrefix(m.name, "WriteHeader") && m.name != "Flush" {
					require.ErrorIs(t, err, errCommit)
				}
				answered := log{m.hook, "failed the hook failed", "WriteHeader 503", "Write"}
				require.Equal(t, answered, *in.log)
				require.Equal(t, outerHeaders(n), in.sent, "%s, %d headers, %s", change, n, m.name)

				// Nothing that the handler does now reaches the client.
				for _, again := range methods {
					if applies(set, again.needs) {
						err := again.call(w)
						if !strings.HasPrefix(again.name, "WriteHeader") && again.name != "Flush" {
							require.ErrorIs(t, err, errCommit, again.name)
						}
					}
				}
				require.ErrorIs(t, w.(http.Pusher).Push("/x", nil), errCommit)
				require.Equal(t, answered, *in.log)
				require.Equal(t, "sorry", in.body.String())
				w.Header().Set("X-Late", "1")
				require.NotContains(t, in.header, "X-Late")
				kept.Set(http.TrailerPrefix+"X-Late", "1")
				require.ErrorIs(t, tw.Begin(), errCommit)
				tw.End()
				require.Equal(t, outerHeaders(n), in.header, "%s, %d headers, %s", change, n, m.name)
			}
		}
	}
}

// What Failed has set on purpose stays, also a trailer.
func TestFailedHook_headersOfTheAnswer(t *testing.T) {
	in := newInner()
	in.header.Set("X-Outer", "1")
	tw, w := wrap(in, &hooks{log: in.log, err: errCommit, failed: func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(503)
		w.Header().Set(http.TrailerPrefix+"X-Answer", "1")
	}})
	kept := w.Header()
	kept.Set("X-Handler", "1")
	_, err := w.Write([]byte("page"))
	require.ErrorIs(t, err, errCommit)
	kept.Set("Retry-After", "2")
	tw.End()
	require.Equal(t, http.Header{"X-Outer": {"1"}, "Retry-After": {"1"}, http.TrailerPrefix + "X-Answer": {"1"}}, in.header)
}

// A handler that recovers from a panic of Failed has no answer, and no way to make one.
func TestFailedHook_panics(t *testing.T) {
	in := newInner()
	tw, w := wrap(in, &hooks{log: in.log, err: errCommit, failed: func(http.ResponseWriter) { panic("boom") }})
	require.PanicsWithValue(t, "boom", func() { w.WriteHeader(200) })
	w.WriteHeader(500)
	_, err := w.Write([]byte("recovered"))
	require.ErrorIs(t, err, errCommit)
	require.Equal(t, log{"hook", "failed the hook failed"}, *in.log)
	require.PanicsWithValue(t, http.ErrAbortHandler, tw.End)
}

// End has no business with a response that went well: its trailers may only now be there.
func TestEnd_leavesGoodResponsesAlone(t *testing.T) {
	in := newInner()
	tw, w := wrap(in, &hooks{log: in.log})
	w.WriteHeader(200)
	w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
	tw.End()
	require.Equal(t, "1", in.header.Get(http.TrailerPrefix+"X-Sum"))
}

// The headers that the hook sees and changes are those which are sent.
func TestHook_changesTheHeaders(t *testing.T) {
	for _, m := range methods {
		if m.inner == "Hijack" {
			continue
		}
		in := newInner()
		h := &hooks{log: in.log}
		set := 31
		if m.needs < 0 {
			set &^= -m.needs
		}
		tw, w := wrap(in.with(set), h)
		h.before = func() {
			require.Equal(t, "1", tw.Header().Get("X-Handler"))
			tw.Header().Set("X-Hook", "1")
		}
		w.Header().Set("X-Handler", "1")
		require.NoError(t, m.call(w))
		require.Equal(t, http.Header{"X-Handler": {"1"}, "X-Hook": {"1"}}, in.sent, m.name)
	}
}

// A hook that panics ran, and does not run again for a middleware that recovers and answers.
func TestHook_panics(t *testing.T) {
	in := newInner()
	_, w := wrap(in, &hooks{log: in.log, before: func() { panic("boom") }})
	require.PanicsWithValue(t, "boom", func() { w.WriteHeader(200) })
	w.WriteHeader(500)
	require.Equal(t, log{"hook", "WriteHeader 500"}, *in.log)
}

type noHooks struct{}

func (noHooks) BeforeResponse(bool) error         { return nil }
func (noHooks) Failed(http.ResponseWriter, error) {}

func TestWrap_allocates(t *testing.T) {
	for _, n := range outerCounts {
		for set := range 32 {
			in := newInner()
			in.header = outerHeaders(n)
			inner := in.with(set)
			var sink http.ResponseWriter
			allocs := testing.AllocsPerRun(100, func() {
				w := new(Writer)
				sink = w.Wrap(inner, noHooks{})
				_ = w.Begin()
				w.End()
			})
			_ = sink
			want := 1.0 // the Writer, which callers have as a field of something else
			if n > 1 {
				want = 2 // the outer headers that do not fit it
			}
			require.LessOrEqual(t, allocs, want, "%d headers, %05b", n, set)
		}
	}
}

// notifying is an inner writer with the deprecated method.
type notifying struct {
	*inner
	gone chan bool
}

func (n notifying) CloseNotify() <-chan bool { return n.gone }

func TestCloseNotify(t *testing.T) {
	asked := func(w http.ResponseWriter) <-chan bool {
		return new(Writer).Wrap(w, nil).(interface{ CloseNotify() <-chan bool }).CloseNotify()
	}
	n := notifying{newInner(), make(chan bool, 1)}
	n.gone <- true
	require.True(t, <-asked(n))
	select {
	case <-asked(newInner()):
		t.Fatal("nobody has gone")
	default:
	}
}
