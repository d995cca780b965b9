package respwriter

import (
	"io"
	"net/http"
)

// with returns in with the chosen optional interfaces, and no others: F 1, H 2, R 4, P 8, S 16.
func (in *inner) with(set int) http.ResponseWriter {
	switch set {
	case 0:
		return struct{ http.ResponseWriter }{in}
	case 1:
		return struct {
			http.ResponseWriter
			http.Flusher
		}{in, in}
	case 2:
		return struct {
			http.ResponseWriter
			http.Hijacker
		}{in, in}
	case 3:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
		}{in, in, in}
	case 4:
		return struct {
			http.ResponseWriter
			io.ReaderFrom
		}{in, in}
	case 5:
		return struct {
			http.ResponseWriter
			http.Flusher
			io.ReaderFrom
		}{in, in, in}
	case 6:
		return struct {
			http.ResponseWriter
			http.Hijacker
			io.ReaderFrom
		}{in, in, in}
	case 7:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			io.ReaderFrom
		}{in, in, in, in}
	case 8:
		return struct {
			http.ResponseWriter
			http.Pusher
		}{in, in}
	case 9:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Pusher
		}{in, in, in}
	case 10:
		return struct {
			http.ResponseWriter
			http.Hijacker
			http.Pusher
		}{in, in, in}
	case 11:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			http.Pusher
		}{in, in, in, in}
	case 12:
		return struct {
			http.ResponseWriter
			io.ReaderFrom
			http.Pusher
		}{in, in, in}
	case 13:
		return struct {
			http.ResponseWriter
			http.Flusher
			io.ReaderFrom
			http.Pusher
		}{in, in, in, in}
	case 14:
		return struct {
			http.ResponseWriter
			http.Hijacker
			io.ReaderFrom
			http.Pusher
		}{in, in, in, in}
	case 15:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			io.ReaderFrom
			http.Pusher
		}{in, in, in, in, in}
	case 16:
		return struct {
			http.ResponseWriter
			io.StringWriter
		}{in, in}
	case 17:
		return struct {
			http.ResponseWriter
			http.Flusher
			io.StringWriter
		}{in, in, in}
	case 18:
		return struct {
			http.ResponseWriter
			http.Hijacker
			io.StringWriter
		}{in, in, in}
	case 19:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			io.StringWriter
		}{in, in, in, in}
	case 20:
		return struct {
			http.ResponseWriter
			io.ReaderFrom
			io.StringWriter
		}{in, in, in}
	case 21:
		return struct {
			http.ResponseWriter
			http.Flusher
			io.ReaderFrom
			io.StringWriter
		}{in, in, in, in}
	case 22:
		return struct {
			http.ResponseWriter
			http.Hijacker
			io.ReaderFrom
			io.StringWriter
		}{in, in, in, in}
	case 23:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			io.ReaderFrom
			io.StringWriter
		}{in, in, in, in, in}
	case 24:
		return struct {
			http.ResponseWriter
			http.Pusher
			io.StringWriter
		}{in, in, in}
	case 25:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Pusher
			io.StringWriter
		}{in, in, in, in}
	case 26:
		return struct {
			http.ResponseWriter
			http.Hijacker
			http.Pusher
			io.StringWriter
		}{in, in, in, in}
	case 27:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			http.Pusher
			io.StringWriter
		}{in, in, in, in, in}
	case 28:
		return struct {
			http.ResponseWriter
			io.ReaderFrom
			http.Pusher
			io.StringWriter
		}{in, in, in, in}
	case 29:
		return struct {
			http.ResponseWriter
			http.Flusher
			io.ReaderFrom
			http.Pusher
			io.StringWriter
		}{in, in, in, in, in}
	case 30:
		return struct {
			http.ResponseWriter
			http.Hijacker
			io.ReaderFrom
			http.Pusher
			io.StringWriter
		}{in, in, in, in, in}
	case 31:
		return struct {
			http.ResponseWriter
			http.Flusher
			http.Hijacker
			io.ReaderFrom
			http.Pusher
			io.StringWriter
		}{in, in, in, in, in, in}
	}
	panic("no such combination")
}
