package httpcache

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestForbid(t *testing.T) {
	for _, c := range []struct {
		name    string
		header  http.Header
		dropped []string
	}{
		{"nothing said", http.Header{}, nil},
		{"private", http.Header{"Cache-Control": {"private, max-age=60"}}, nil},
		{"no-store", http.Header{"Cache-Control": {"no-store"}}, nil},
		{"public", http.Header{"Cache-Control": {"public"}}, []string{"Cache-Control"}},
		{"max-age", http.Header{"Cache-Control": {"max-age=60"}}, []string{"Cache-Control"}},
		{"max-age of none", http.Header{"Cache-Control": {`max-age="0"`}}, nil},
		{"several lines", http.Header{"Cache-Control": {"s-maxage=1", "private"}}, nil},
		{"Expires", http.Header{"Expires": {"Thu, 01 Jan 2099 00:00:00 GMT"}}, nil},
		{"nginx", http.Header{"X-Accel-Expires": {"60"}}, []string{"X-Accel-Expires"}},
		{"nginx, none", http.Header{"X-Accel-Expires": {"0"}}, nil},
		{"LiteSpeed", http.Header{"X-Litespeed-Cache-Control": {"public, max-age=60"}}, []string{"X-Litespeed-Cache-Control"}},
		{"CDNs, odd case", http.Header{"cdn-cache-control": {"public"}, "Cloudflare-CDN-Cache-Control": {"max-age=1"}, "Surrogate-Control": {"max-age=1"}},
			[]string{"Cloudflare-CDN-Cache-Control", "Surrogate-Control", "cdn-cache-control"}},
	} {
		c.header["X-Other"] = []string{"public"}
		require.Equal(t, c.dropped, Forbid(c.header), c.name)
		require.Equal(t, http.Header{"Cache-Control": {"no-store"}, "X-Other": {"public"}}, c.header, c.name)
	}
}

func TestVaryByCookie(t *testing.T) {
	for _, c := range []struct{ there, want []string }{
		{nil, []string{"Cookie"}},
		{[]string{"Accept"}, []string{"Accept", "Cookie"}},
		{[]string{"Accept, cookie"}, []string{"Accept, cookie"}},
		{[]string{"*"}, []string{"*"}},
	} {
		h := http.Header{"Vary": c.there}
		VaryByCookie(h)
		require.Equal(t, c.want, h["Vary"])
	}
}
