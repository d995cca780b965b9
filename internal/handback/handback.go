// Package handback returns to a request what a handler left in a copy of it.
package handback

import (
	"net/http"
	"strings"
)

// Request gives the request that came in what the handler, which got a copy, made of it: net/http removes the files of
// an upload that are in its MultipartForm, and middleware outside logs its Pattern or reads its Form.
func Request(in, copied *http.Request) {
	if in.Pattern != copied.Pattern {
		in.Pattern = copied.Pattern
		for name, rest := wildcard(in.Pattern); name != ""; name, rest = wildcard(rest) {
			in.SetPathValue(name, copied.PathValue(name))
		}
	}
	if in.MultipartForm == nil {
		in.MultipartForm = copied.MultipartForm
	}
	if in.Form == nil {
		in.Form, in.PostForm = copied.Form, copied.PostForm
	}
}

// wildcard returns the name of the first wildcard in the pattern of a ServeMux, and what follows it.
func wildcard(pattern string) (name, rest string) {
	_, after, ok := strings.Cut(pattern, "{")
	if !ok {
		return "", ""
	}
	name, rest, _ = strings.Cut(after, "}")
	return strings.TrimSuffix(name, "..."), rest
}
