// Package respwriter wraps an http.ResponseWriter so that a hook runs once, before the first byte of the response, and
// can still replace the response.
package respwriter

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
)

// Hooks are called before the response and if it fails.
type Hooks interface {
	// BeforeResponse runs once, before anything of the final response reaches the client. The headers can still be
	// changed. If it fails, nothing of the handler's response is sent.
	BeforeResponse(hijack bool) error
	// Failed responds instead of the handler after BeforeResponse has failed. The headers are reset to those from
	// before the handler was called.
	Failed(w http.ResponseWriter, err error)
}

// Writer is the wrapped response. It is meant to be a field of the caller's own state, so that a request costs one
// allocation for both. Like any ResponseWriter, it is used by one goroutine at a time; only Begun is safe for
// concurrent use.
type Writer struct {
	inner http.ResponseWriter
	hooks Hooks
	phase atomic.Uint32
	err   error
	outer []line  // the headers before the handler ran
	few   [2]line // most requests have none this early

	answered bool        // Hooks.Failed has returned
	answer   http.Header // the headers as Hooks.Failed left them
}

const (
	open   = iota // nothing has been sent
	begun         // the handler's response has begun
	failed        // Hooks.Failed has responded
)

// line is one header line. A header without lines is represented by a line without a value: net/http gives such headers
// a meaning ("Date": nil).
type line struct {
	key, value string
	none       bool
}

// Wrap initializes t to wrap w, and returns it with exactly the optional interfaces that w has. When the handler has
// returned, call End.
func (t *Writer) Wrap(w http.ResponseWriter, hooks Hooks) http.ResponseWriter {
	t.inner, t.hooks = w, hooks
	t.keepHeaders()
	set := 0
	if reaches[http.Flusher](w) || reaches[interface{ FlushError() error }](w) {
		set |= 1
	}
	if reaches[http.Hijacker](w) {
		set |= 2
	}
	if _, ok := w.(io.ReaderFrom); ok {
		set |= 4
	}
	if _, ok := w.(http.Pusher); ok {
		set |= 8
	}
	if _, ok := w.(io.StringWriter); ok {
		set |= 16
	}
	return variants[set](t)
}

// reaches reports whether w, or a writer that it unwraps to, is a T. http.ResponseController looks as deep, and would
// bypass a wrapper that did not.
func reaches[T any](w http.ResponseWriter) bool {
	for {
		if _, ok := w.(T); ok {
			return true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = u.Unwrap()
	}
}

// Begin runs the hook if nothing has been sent yet. It reports the error with which the handler's response was dropped.
func (t *Writer) Begin() error { return t.begin(false) }

// Begun reports whether the response has begun, either the handler's or the one that replaced it. It is safe for
// concurrent use.
func (t *Writer) Begun() bool { return t.phase.Load() != open }

func (t *Writer) begin(hijack bool) error {
	if t.phase.Load() != open {
		return t.err
	}
	t.phase.Store(begun)
	if err := t.hooks.BeforeResponse(hijack); err != nil {
		t.err = err
		t.phase.Store(failed)
		t.restoreHeaders()
		t.hooks.Failed(t.inner, err)
		t.answered = true
		t.answer = t.inner.Header().Clone()
		return err
	}
	return nil
}

// End must be called when the handler has returned. If the handler's response was dropped, End also drops what the
// handler has done since to a header map that it kept: trailers are read only now, and an outer writer may send every
// header this late.
func (t *Writer) End() {
	if t.phase.Load() != failed {
		return
	}
	if !t.answered {
		// Failed has panicked, and the handler has recovered: an empty 200 would look like success.
		panic(http.ErrAbortHandler)
	}
	h := t.inner.Header()
	clear(h)
	maps.Copy(h, t.answer)
}

// keepHeaders saves the headers by value, because a handler may write into their slices.
func (t *Writer) keepHeaders() {
	h, n := t.inner.Header(), 0
	if len(h) == 0 {
		return
	}
	for _, values := range h {
		n += max(1, len(values))
	}
	t.outer = t.few[:0]
	if n > len(t.few) {
		t.outer = make([]line, 0, n)
	}
	for k, values := range h {
		if len(values) == 0 {
			t.outer = append(t.outer, line{key: k, none: true})
		}
		for _, v := range values {
			t.outer = append(t.outer, line{key: k, value: v})
		}
	}
}

func (t *Writer) restoreHeaders() {
	h := t.inner.Header()
	clear(h)
	for _, l := range t.outer {
		if l.none {
			h[l.key] = nil
		} else {
			h[l.key] = append(h[l.key], l.value)
		}
	}
}

// base is the part that all variants share.
type base struct{ t *Writer }

func (w base) Header() http.Header {
	if w.t.phase.Load() == failed {
		return http.Header{} // the handler's response was dropped
	}
	return w.t.inner.Header()
}

// Unwrap lets http.ResponseController reach deadlines and full-duplex mode.
func (w base) Unwrap() http.ResponseWriter { return w.t.inner }

func (w base) WriteHeader(code int) {
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		if w.t.phase.Load() != failed {
			w.t.inner.WriteHeader(code) // informational: the response is still to come
		}
		return
	}
	if (code < 100 || code > 999) && !w.t.Begun() {
		panic(fmt.Sprintf("invalid WriteHeader code %v", code)) // as net/http does, but before anything is committed
	}
	if w.t.Begin() == nil {
		w.t.inner.WriteHeader(code)
	}
}

func (w base) Write(b []byte) (int, error) {
	if err := w.t.Begin(); err != nil {
		return 0, err
	}
	return w.t.inner.Write(b)
}

// CloseNotify is deprecated, but some callers assume without a check that it exists (gin's Stream), so every variant
// has it. If the wrapped writer does not, it never notifies.
func (w base) CloseNotify() <-chan bool {
	if n, ok := w.t.inner.(interface{ CloseNotify() <-chan bool }); ok {
		return n.CloseNotify()
	}
	return make(chan bool)
}

func (w base) flush() error {
	if err := w.t.Begin(); err != nil {
		return err
	}
	return http.NewResponseController(w.t.inner).Flush()
}

func (w base) hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.t.begin(true); err != nil {
		return nil, nil, err
	}
	return http.NewResponseController(w.t.inner).Hijack()
}

func (w base) readFrom(src io.Reader) (int64, error) {
	if err := w.t.Begin(); err != nil {
		return 0, err
	}
	return w.t.inner.(io.ReaderFrom).ReadFrom(src)
}

func (w base) push(target string, opts *http.PushOptions) error {
	if w.t.phase.Load() == failed {
		return w.t.err
	}
	return w.t.inner.(http.Pusher).Push(target, opts)
}

func (w base) writeString(s string) (int, error) {
	if err := w.t.Begin(); err != nil {
		return 0, err
	}
	return io.WriteString(w.t.inner, s)
}

// Header returns the headers of the response as they will be sent.
func (t *Writer) Header() http.Header { return t.inner.Header() }
