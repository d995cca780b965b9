package sessions_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

func TestP12_DefaultAttributes_B20(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		r := b.set("user", 42)
		require.Len(t, r.header.Values("Set-Cookie"), 1)
		require.Equal(t, "session="+b.cookie()+"; Path=/; HttpOnly; SameSite=Lax", r.header.Get("Set-Cookie"))
		require.Equal(t, "no-store", r.header.Get("Cache-Control"))
	})
}

func TestP12_SameSiteNoneIsSecure_B23(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store, func(c *sessions.Config) { c.Cookie.SameSite = http.SameSiteNoneMode })
		b := site.browser()
		r := b.set("user", 42)
		require.True(t, r.setCookie("session").Secure)
		require.Equal(t, http.SameSiteNoneMode, r.setCookie("session").SameSite)
		require.Len(t, site.events.with(sessions.OutcomeInsecure), 1)
		b.https().set("user", 42)
		r = b.use(func(s sessions.Session) { s.Destroy() })
		require.True(t, r.setCookie("session").Secure, "also the line that deletes it")
	})
	_, err := sessions.New(sessions.Config{Store: memoryStore.make(t), Secure: sessions.DangerouslyNeverSecure,
		Cookie: sessions.Cookie{SameSite: http.SameSiteNoneMode}})
	require.ErrorContains(t, err, "Cookie.SameSite")
}

// What a codec or store hands out that no cookie can hold is an error, and not a session that is lost in silence.
func TestP12_TokensThatNoCookieCanHold(t *testing.T) {
	for _, bad := range []string{" ", ",", ";", `"`, `\`, "\r\n", "\x00", "\x7f", "\u00e9"} {
		s := newSite(t, storeOver(t, &hexCodec{make: func(text string) string { return text[:9] + bad + text[9:] }}))
		r := s.browser().try(func(s sessions.Session) { _ = s.Set("k", 1) })
		require.Equal(t, http.StatusServiceUnavailable, r.status, "%q", bad)
		require.Empty(t, r.header["Set-Cookie"])
		require.Len(t, s.events.with(sessions.OutcomeError), 1)
	}
	// A codec that cannot seal fails the response (P05).
	s := newSite(t, storeOver(t, &hexCodec{err: errors.New("no key")}))
	r := s.browser().try(func(s sessions.Session) { _ = s.Set("k", 1) })
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Empty(t, r.header["Set-Cookie"])
}
