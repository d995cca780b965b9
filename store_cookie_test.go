package sessions_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

func TestP13_ExpiredSealedCookieReplayed_B18(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := newSite(t, cookieStore.make(t), func(c *sessions.Config) { c.IdleTimeout = time.Hour })
		b := site.browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(0, true)
		})
		old := b.cookie()
		time.Sleep(time.Hour)
		require.Empty(t, b.cookie(), "Max-Age has passed")
		r := b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+old)
		require.Equal(t, http.StatusOK, r.status)
		require.Len(t, site.events.with(sessions.OutcomeExpired), 1)
	})
}

func TestP13_FlippedBit_B24(t *testing.T) {
	site := newSite(t, cookieStore.make(t))
	b := site.browser()
	b.set("user", 42)
	text := b.cookie()
	sealed, err := base64.URLEncoding.DecodeString(text)
	require.NoError(t, err)
	for i := range sealed {
		site.events.reset()
		flipped := append([]byte(nil), sealed...)
		flipped[i] ^= 1 << (i % 8)
		r := b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+base64.URLEncoding.EncodeToString(flipped))
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, []string{"reject tampered", "load none"}, site.events.outcomes(), i)
	}
	for i := range text { // and in the text, where other values may decode to the same bytes
		for _, c := range []byte{'A', 'B', '-', '_', '=', ' ', '+'} {
			if text[i] == c {
				continue
			}
			r := b.raw(func(s sessions.Session) { require.Empty(t, keys(s), i) }, "session="+text[:i]+string(c)+text[i+1:])
			require.Equal(t, http.StatusOK, r.status)
		}
	}
}

func TestP10_SealedForAnotherName_B25(t *testing.T) {
	store := cookieStore.make(t)
	other := newSite(t, store, func(c *sessions.Config) { c.Cookie.Name = "other" }).browser()
	other.set("admin", true)
	site := newSite(t, store)
	r := site.browser().raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+other.cookieNamed("other"))
	require.Equal(t, http.StatusOK, r.status)
	require.Len(t, site.events.with(sessions.OutcomeTampered), 1)
}

// sizedCodec seals into a text of a given length, and keeps the record.
type sizedCodec struct {
	length int
	mu     sync.Mutex
	plain  map[string][]byte
}

func (c *sizedCodec) Seal(name string, plain []byte) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plain == nil {
		c.plain = map[string][]byte{}
	}
	text := fmt.Sprintf("%0*d", c.length, len(c.plain))
	c.plain[text] = bytes.Clone(plain)
	return text, nil
}

func (c *sizedCodec) Open(_, sealed string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if plain, ok := c.plain[sealed]; ok {
		return plain, nil
	}
	return nil, errors.New("unknown")
}

func TestP13_FourKilobytes(t *testing.T) {
	ctx := t.Context()
	for _, name := range []string{"session", "__Host-a-much-longer-name-for-the-same-thing"} {
		codec := &sizedCodec{length: 4096 - len(name)}
		store := storeOver(t, codec)
		token, err := store.Save(ctx, name, hourRecord(), 0)
		require.NoError(t, err)
		require.Equal(t, 4096, len(name)+len(token))
		_, err = store.Load(ctx, name, token)
		require.NoError(t, err)

		codec.length++
		_, err = store.Save(ctx, name, hourRecord(), 0)
		require.ErrorIs(t, err, sessions.ErrTooLarge)
		require.ErrorContains(t, err, "4097")
		require.ErrorContains(t, err, "4096")

		// A browser would not have kept it, so it is not from us: the codec is not asked.
		tooLong, _ := codec.Seal(name, codec.plain[token])
		requireOutcome(t, sessions.OutcomeMalformed, store, name, tooLong)
	}

	// The same through the middleware: nothing is sent but the error page, and the old cookie stays.
	s := newSite(t, cookieStoreWith(t, secretA))
	b := s.browser()
	b.set("k", "small")
	before := b.cookie()
	r := b.try(func(s sessions.Session) { _ = s.Set("big", strings.Repeat("x", 4096)) })
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Empty(t, r.header["Set-Cookie"])
	require.Equal(t, before, b.cookie())
	require.Equal(t, `"small"`, b.get("k"))
	require.Len(t, s.events.with(sessions.OutcomeTooLarge), 1)
	require.Len(t, s.log.lines("too large for its store"), 1)

	// The largest value that fits does, and comes back.
	fits := 0
	for low, high := 0, 4096; low < high; {
		n := (low + high + 1) / 2
		if b.try(func(s sessions.Session) { _ = s.Set("big", strings.Repeat("x", n)) }).status == http.StatusOK {
			low, fits = n, n
		} else {
			high = n - 1
		}
	}
	require.Greater(t, fits, 2000, "what is left of 4096 bytes after base64 twice")
	require.Equal(t, `"`+strings.Repeat("x", fits)+`"`, b.get("big"))
}

func TestP16_CookieStore(t *testing.T) {
	good, err := sessions.NewSecureCookieCodec(secretA)
	require.NoError(t, err)
	for name, codec := range map[string]sessions.Codec{
		"nil":             nil,
		"list of nil":     sessions.Codecs(nil),
		"list with a nil": sessions.Codecs(good, nil),
		"first is nil":    sessions.Codecs(nil, good),
		"deeper":          sessions.Codecs(good, sessions.Codecs(good, nil)),
	} {
		store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
		require.Nil(t, store, name)
		require.Equal(t, []string{"Codec"}, configFields(t, err), name)
	}
}

// The limits of a sealed cookie, as they are documented: only a server-side store keeps P08.

// Each use of a copy seals it anew, with a new expiry, until the absolute timeout.
func TestP08_ACopiedSealedCookieLivesUntilTheAbsoluteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle, absolute = 30 * time.Minute, 14 * 24 * time.Hour
		timeouts := func(c *sessions.Config) { c.IdleTimeout, c.AbsoluteTimeout = idle, absolute }
		for _, sc := range []storeCase{cookieStore, memoryStore} {
			site := newSite(t, sc.make(t), timeouts)
			began := time.Now()
			b := site.browser()
			b.set("user", 42)
			used, unused := site.browser().hold(b.cookie()), site.browser().hold(b.cookie())
			b.use(func(s sessions.Session) { s.Destroy() })
			last := time.Duration(0)
			for {
				time.Sleep(20 * time.Minute)
				if used.get("user") != "42" {
					break
				}
				last = time.Since(began)
			}
			require.Empty(t, unused.get("user"), "one that is not used expires by idling")
			if sc.server {
				require.Zero(t, last, "the logout ends it")
				continue
			}
			require.Less(t, last, absolute)
			require.GreaterOrEqual(t, last, absolute-20*time.Minute)
		}
	})
}

// A poll that came before the logout, is due to slide the timeout and is answered after the logout, logs in again.
func TestP08_APollAnsweredAfterTheLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, sc := range []storeCase{cookieStore, memoryStore} {
			for _, due := range []bool{false, true} {
				b := newSite(t, sc.make(t)).browser()
				b.set("user", 42)
				if due {
					time.Sleep(12 * time.Hour)
				}
				poll := b.do(func(_ http.ResponseWriter, r *http.Request) {
					s, err := sessions.Get(r.Context())
					require.NoError(t, err)
					require.Equal(t, "42", value(t, s, "user"))
					b.use(func(s sessions.Session) { s.Destroy() })
					require.Empty(t, b.cookie(), "logged out")
				})
				require.NoError(t, poll.err)
				require.Equal(t, !sc.server && due, b.get("user") == "42", "%s, slide due: %v", sc.name, due)
			}
		}
	})
}

// errorCodec opens nothing.
type errorCodec struct{ err error }

func (errorCodec) Seal(string, []byte) (string, error)   { return "", errors.New("it only opens") }
func (c errorCodec) Open(string, string) ([]byte, error) { return nil, c.err }

// A Codec tells why a cookie has no session, and of several codecs the one that recognized its seal does.
func TestP13_CodecsTellTheReason(t *testing.T) {
	tampered, malformed := errors.New("no"), &sessions.NotFoundError{Outcome: sessions.OutcomeMalformed, Detail: "another form"}
	expired := fmt.Errorf("wrapped: %w", &sessions.NotFoundError{Outcome: sessions.OutcomeExpired, Detail: "too old"})
	foreign := &sessions.NotFoundError{Outcome: sessions.OutcomeTampered, Detail: "as any error"}
	for _, c := range []struct {
		errs []error
		want sessions.Outcome
	}{
		{[]error{tampered}, sessions.OutcomeTampered},
		{[]error{foreign}, sessions.OutcomeTampered},
		{[]error{malformed}, sessions.OutcomeMalformed},
		{[]error{expired}, sessions.OutcomeExpired},
		{[]error{tampered, foreign}, sessions.OutcomeTampered},
		{[]error{tampered, expired}, sessions.OutcomeExpired},
		{[]error{expired, tampered, malformed}, sessions.OutcomeExpired},
		{[]error{malformed, tampered, expired}, sessions.OutcomeExpired},
		{[]error{tampered, malformed}, sessions.OutcomeMalformed},
	} {
		var codecs []sessions.Codec
		for _, err := range c.errs {
			codecs = append(codecs, errorCodec{err})
		}
		site := newSite(t, storeOver(t, sessions.Codecs(codecs[0], codecs[1:]...)))
		r := site.browser().raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session=text")
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, []string{"reject " + string(c.want), "load none"}, site.events.outcomes(), "%v", c.errs)
	}
}
