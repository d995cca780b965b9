// The variants of the writer, one per set of optional interfaces: F Flusher, H Hijacker, R ReaderFrom, P Pusher, S
// StringWriter. Each adds one method to an earlier one, and each is a single pointer, so that converting it to an
// interface does not allocate.

package respwriter

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// variants is indexed by the bits of the interfaces: F 1, H 2, R 4, P 8, S 16.
var variants = [32]func(*Writer) http.ResponseWriter{
	0:  func(t *Writer) http.ResponseWriter { return base{t} },
	1:  func(t *Writer) http.ResponseWriter { return wF{base{t}} },
	2:  func(t *Writer) http.ResponseWriter { return wH{base{t}} },
	3:  func(t *Writer) http.ResponseWriter { return wFH{wF{base{t}}} },
	4:  func(t *Writer) http.ResponseWriter { return wR{base{t}} },
	5:  func(t *Writer) http.ResponseWriter { return wFR{wF{base{t}}} },
	6:  func(t *Writer) http.ResponseWriter { return wHR{wH{base{t}}} },
	7:  func(t *Writer) http.ResponseWriter { return wFHR{wFH{wF{base{t}}}} },
	8:  func(t *Writer) http.ResponseWriter { return wP{base{t}} },
	9:  func(t *Writer) http.ResponseWriter { return wFP{wF{base{t}}} },
	10: func(t *Writer) http.ResponseWriter { return wHP{wH{base{t}}} },
	11: func(t *Writer) http.ResponseWriter { return wFHP{wFH{wF{base{t}}}} },
	12: func(t *Writer) http.ResponseWriter { return wRP{wR{base{t}}} },
	13: func(t *Writer) http.ResponseWriter { return wFRP{wFR{wF{base{t}}}} },
	14: func(t *Writer) http.ResponseWriter { return wHRP{wHR{wH{base{t}}}} },
	15: func(t *Writer) http.ResponseWriter { return wFHRP{wFHR{wFH{wF{base{t}}}}} },
	16: func(t *Writer) http.ResponseWriter { return wS{base{t}} },
	17: func(t *Writer) http.ResponseWriter { return wFS{wF{base{t}}} },
	18: func(t *Writer) http.ResponseWriter { return wHS{wH{base{t}}} },
	19: func(t *Writer) http.ResponseWriter { return wFHS{wFH{wF{base{t}}}} },
	20: func(t *Writer) http.ResponseWriter { return wRS{wR{base{t}}} },
	21: func(t *Writer) http.ResponseWriter { return wFRS{wFR{wF{base{t}}}} },
	22: func(t *Writer) http.ResponseWriter { return wHRS{wHR{wH{base{t}}}} },
	23: func(t *Writer) http.ResponseWriter { return wFHRS{wFHR{wFH{wF{base{t}}}}} },
	24: func(t *Writer) http.ResponseWriter { return wPS{wP{base{t}}} },
	25: func(t *Writer) http.ResponseWriter { return wFPS{wFP{wF{base{t}}}} },
	26: func(t *Writer) http.ResponseWriter { return wHPS{wHP{wH{base{t}}}} },
	27: func(t *Writer) http.ResponseWriter { return wFHPS{wFHP{wFH{wF{base{t}}}}} },
	28: func(t *Writer) http.ResponseWriter { return wRPS{wRP{wR{base{t}}}} },
	29: func(t *Writer) http.ResponseWriter { return wFRPS{wFRP{wFR{wF{base{t}}}}} },
	30: func(t *Writer) http.ResponseWriter { return wHRPS{wHRP{wHR{wH{base{t}}}}} },
	31: func(t *Writer) http.ResponseWriter { return wFHRPS{wFHRP{wFHR{wFH{wF{base{t}}}}}} },
}

type wF struct{ base }

func (w wF) Flush()            { _ = w.flush() }
func (w wF) FlushError() error { return w.flush() }

type wH struct{ base }

func (w wH) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

type wFH struct{ wF }

func (w wFH) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

type wR struct{ base }

func (w wR) ReadFrom(src io.Reader) (int64, error) { return w.readFrom(src) }

type wFR struct{ wF }

func (w wFR) ReadFrom(src io.Reader) (int64, error) { return w.readFrom(src) }

type wHR struct{ wH }

func (w wHR) ReadFrom(src io.Reader) (int64, error) { return w.readFrom(src) }

type wFHR struct{ wFH }

func (w wFHR) ReadFrom(src io.Reader) (int64, error) { return w.readFrom(src) }

type wP struct{ base }

func (w wP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wFP struct{ wF }

func (w wFP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wHP struct{ wH }

func (w wHP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wFHP struct{ wFH }

func (w wFHP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wRP struct{ wR }

func (w wRP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wFRP struct{ wFR }

func (w wFRP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wHRP struct{ wHR }

func (w wHRP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wFHRP struct{ wFHR }

func (w wFHRP) Push(target string, opts *http.PushOptions) error { return w.push(target, opts) }

type wS struct{ base }

func (w wS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFS struct{ wF }

func (w wFS) WriteString(s string) (int, error) { return w.writeString(s) }

type wHS struct{ wH }

func (w wHS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFHS struct{ wFH }

func (w wFHS) WriteString(s string) (int, error) { return w.writeString(s) }

type wRS struct{ wR }

func (w wRS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFRS struct{ wFR }

func (w wFRS) WriteString(s string) (int, error) { return w.writeString(s) }

type wHRS struct{ wHR }

func (w wHRS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFHRS struct{ wFHR }

func (w wFHRS) WriteString(s string) (int, error) { return w.writeString(s) }

type wPS struct{ wP }

func (w wPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFPS struct{ wFP }

func (w wFPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wHPS struct{ wHP }

func (w wHPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFHPS struct{ wFHP }

func (w wFHPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wRPS struct{ wRP }

func (w wRPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFRPS struct{ wFRP }

func (w wFRPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wHRPS struct{ wHRP }

func (w wHRPS) WriteString(s string) (int, error) { return w.writeString(s) }

type wFHRPS struct{ wFHRP }

func (w wFHRPS) WriteString(s string) (int, error) { return w.writeString(s) }
