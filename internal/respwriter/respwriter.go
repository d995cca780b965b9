// Package respwriter wraps an http.ResponseWriter so that something can happen once, before the first byte of the
// response, and can still replace the response.
package respwriter

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// Hooks is what happens around the response.
type Hooks interface {
	// BeforeResponse runs once, before anything of the final response reaches the client. The headers can still be
	// changed. If it fails, nothing that the handler made of the response is sent.
	BeforeResponse(hijack bool) error
	// Failed answers in place of the handler, after BeforeResponse has failed. The headers are again what they were
	// when the handler was called.
	Failed(w http.ResponseWriter, err error)
}

// Writer is the wrapped response. It is meant to be a field of the caller's own state, so that a request costs one
// allocation for both. It is used by one goroutine at a time, as any ResponseWriter.
type Writer struct {
	inner   http.ResponseWriter
	hooks   Hooks
	phase   phase
	err     error
	outer   [maxOuter]header // the headers before the handler ran
	nOuter  int
	manyOut http.Header // the same, where they are more than the array holds
}

type phase uint8

const (
	open   phase = iota // nothing has been sent
	begun               // the response is the handler's
	failed              // the response is that of Hooks.Failed
)

type header struct {
	key    string
	values []string
}

const maxOuter = 6

// Wrap sets t up over w and returns it with the optional interfaces that w has, no more and no fewer.
func (t *Writer) Wrap(w http.ResponseWriter, hooks Hooks) http.ResponseWriter {
	t.inner, t.hooks = w, hooks
	if h := w.Header(); len(h) > maxOuter {
		t.manyOut = h.Clone()
	} else {
		for k, v := range h {
			t.outer[t.nOuter] = header{k, v[:len(v):len(v)]}
			t.nOuter++
		}
	}
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

// reaches says whether w, or a writer that it unwraps to, is a T. http.ResponseController looks that deep too, and
// would pass by a wrapper that did not.
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

// Begun says whether the response has begun, the handler's or the one that took its place.
func (t *Writer) Begun() bool { return t.phase != open }

func (t *Writer) begin(hijack bool) error {
	if t.phase != open {
		return t.err
	}
	t.phase = begun
	if err := t.hooks.BeforeResponse(hijack); err != nil {
		t.phase, t.err = failed, err
		t.restoreHeaders()
		t.hooks.Failed(t.inner, err)
		return err
	}
	return nil
}

func (t *Writer) restoreHeaders() {
	h := t.inner.Header()
	clear(h)
	for _, o := range t.outer[:t.nOuter] {
		h[o.key] = o.values
	}
	for k, v := range t.manyOut {
		h[k] = v
	}
}

// base is the part that every variant has.
type base struct{ t *Writer }

func (w base) Header() http.Header {
	if w.t.phase == failed {
		return http.Header{} // the response that was sent is not the handler's
	}
	return w.t.inner.Header()
}

// Unwrap lets http.ResponseController reach deadlines and full duplex.
func (w base) Unwrap() http.ResponseWriter { return w.t.inner }

func (w base) WriteHeader(code int) {
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		if w.t.phase != failed {
			w.t.inner.WriteHeader(code) // informational: the response is still to come
		}
		return
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
	return w.t.inner.(http.Pusher).Push(target, opts)
}

func (w base) writeString(s string) (int, error) {
	if err := w.t.Begin(); err != nil {
		return 0, err
	}
	return io.WriteString(w.t.inner, s)
}

// Header gives the headers of the response as they will be sent.
func (t *Writer) Header() http.Header { return t.inner.Header() }
