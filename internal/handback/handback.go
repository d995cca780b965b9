// Package handback returns to a request what a handler left in a copy of it.
package handback

import "net/http"

// Request gives the request that came in what the handler, which got a copy, made of it: net/http removes the files of
// an upload that are in its MultipartForm, and middleware outside logs its Pattern or reads its Form.
func Request(in, copied *http.Request) {
	in.Pattern = copied.Pattern
	if in.MultipartForm == nil {
		in.MultipartForm = copied.MultipartForm
	}
	if in.Form == nil {
		in.Form, in.PostForm = copied.Form, copied.PostForm
	}
}
