package handback

import (
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRequest(t *testing.T) {
	in := httptest.NewRequest(http.MethodPost, "/", nil)
	copied := in.WithContext(t.Context())
	copied.Pattern = "POST /"
	copied.MultipartForm = &multipart.Form{}
	copied.Form, copied.PostForm = url.Values{"a": {"1"}}, url.Values{"a": {"2"}}
	Request(in, copied)
	require.Equal(t, copied.Pattern, in.Pattern)
	require.Same(t, copied.MultipartForm, in.MultipartForm)
	require.Equal(t, copied.Form, in.Form)
	require.Equal(t, copied.PostForm, in.PostForm)

	form := in.MultipartForm
	Request(in, httptest.NewRequest(http.MethodPost, "/", nil))
	require.Same(t, form, in.MultipartForm, "what was parsed outside stays")
	require.Equal(t, url.Values{"a": {"1"}}, in.Form)
}
