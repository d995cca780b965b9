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

func TestPersonal(t *testing.T) {
	private := []string{"private"}
	for _, c := range []struct {
		there       http.Header
		vary, cache []string
	}{
		{http.Header{}, []string{"Cookie"}, private},
		{http.Header{"Vary": {}}, []string{"Cookie"}, private},
		{http.Header{"Vary": {"Origin"}}, []string{"Origin", "Cookie"}, private},
		{http.Header{"Vary": {"*"}}, []string{"*"}, private},
		{http.Header{"Etag": {"x"}, "Last-Modified": {"x"}}, []string{"Cookie"}, private},
		{http.Header{"Cache-Control": {"public"}}, []string{"Cookie"}, []string{"public"}},
		{http.Header{"Cache-Control": {}}, []string{"Cookie"}, []string{}},
		{http.Header{"Cache-Control": nil}, []string{"Cookie"}, nil},
		{http.Header{"Expires": {"0"}}, []string{"Cookie"}, nil},
		{http.Header{"pragma": {"no-cache"}}, []string{"Cookie"}, nil},
		{http.Header{"X-Accel-Expires": {"60"}}, []string{"Cookie"}, nil},
		{http.Header{"Surrogate-Control": {"max-age=1"}}, []string{"Cookie"}, nil},
		{http.Header{"CDN-Cache-Control": {"max-age=1"}, "Vary": {"cookie"}}, []string{"cookie"}, nil},
	} {
		was := c.there.Clone()
		Personal(c.there)
		require.Equal(t, c.vary, c.there["Vary"], "%v", was)
		require.Equal(t, c.cache, c.there["Cache-Control"], "%v", was)
		c.there["Vary"] = append(c.there["Vary"], "more")
		require.Equal(t, c.cache, c.there["Cache-Control"], "%v", was)
	}
	h := http.Header{}
	require.EqualValues(t, 1, testing.AllocsPerRun(100, func() {
		clear(h)
		Personal(h)
	}))
}
