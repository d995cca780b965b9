package sessions_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// leakWatch collects what was logged, reported or returned as an error, and what must not be in it (P11).
type leakWatch struct {
	mu      sync.Mutex
	text    bytes.Buffer
	secrets map[string]string // what it is
	from    map[string]string // where it was seen first
}

// suiteLeaks watches all tests that use newSite: TestMain asks checkCapturedLogs at the end.
var suiteLeaks leakWatch

// maxCaptured bounds the memory that a long run takes.
const maxCaptured = 64 << 20

// Write takes log lines.
func (l *leakWatch) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < maxCaptured {
		l.text.Write(b)
	}
	return len(b), nil
}

// logged takes a value as it may come into a log.
func (l *leakWatch) logged(v any) {
	text, _ := json.Marshal(v)
	fmt.Fprintf(l, "%v\n%+v\n%#v\n%s\n", v, v, v, text)
	if err, ok := v.(error); ok {
		fmt.Fprintln(l, err.Error())
		if cause := errors.Unwrap(err); cause != nil {
			l.logged(cause)
		}
	}
}

// minSecret is the length of the shortest secret. What is shorter could be in a log by chance.
const minSecret = 12

// secret notes what must not be found, in every spelling in which it might come. What is too short is left out.
func (l *leakWatch) secret(where, what, secret string) {
	if len(strings.TrimRight(secret, "=")) < minSecret {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.secrets == nil {
		l.secrets, l.from = map[string]string{}, map[string]string{}
	}
	for _, s := range spellings(secret) {
		if _, ok := l.secrets[s]; !ok {
			l.secrets[s], l.from[s] = what, where
		}
	}
}

// spellings returns a secret as it is, in hex and in both alphabets of base64, each without padding.
func spellings(secret string) []string {
	b := []byte(secret)
	return []string{strings.TrimRight(secret, "="), hex.EncodeToString(b), base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b)}
}

// check looks for every window of this many bytes of each secret; zero looks for whole secrets.
func (l *leakWatch) check(window int) error {
	found, _ := l.search(window)
	return errors.Join(found...)
}

// search is check, and returns its number of steps as well: it goes once over the text and once over the secrets, and
// does not look for each of them by itself.
func (l *leakWatch) search(window int) (found []error, steps int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	whole := map[string][]string{}   // the secrets to be found whole, by how they end: many begin alike
	windows := map[string][]string{} // the secrets that each window is a part of
	for s := range l.secrets {
		if window == 0 || len(s) < window {
			end := s[len(s)-minSecret:]
			whole[end] = append(whole[end], s)
			steps++
			continue
		}
		for i := 0; i+window <= len(s); i++ {
			steps++
			w := s[i : i+window]
			if of := windows[w]; len(of) == 0 || of[len(of)-1] != s { // it may repeat itself
				windows[w] = append(of, s)
			}
		}
	}
	text := l.text.String()
	reported := map[string]bool{}
	report := func(s string, at int) {
		if reported[s] {
			return
		}
		reported[s] = true
		found = append(found, fmt.Errorf("%s: %s of %s in what was logged: ...%q...", l.from[s], l.secrets[s], strings.ToValidUTF8(s[:min(8, len(s))], "?"),
			text[max(0, at-80):min(len(text), at+80)]))
	}
	for i := range len(text) {
		read := text[:i+1]
		if len(whole) > 0 && len(read) >= minSecret {
			steps++
			for _, s := range whole[read[len(read)-minSecret:]] {
				steps++
				if strings.HasSuffix(read, s) {
					report(s, len(read)-len(s))
				}
			}
		}
		if len(windows) > 0 && len(read) >= window {
			steps++
			w := read[len(read)-window:]
			for _, s := range windows[w] {
				steps++
				report(s, len(read)-window)
			}
			delete(windows, w) // once is enough
		}
	}
	return found, steps
}

// checkCapturedLogs fails if anything secret was logged, reported in an event or given to an ErrorHandler by any test
// that uses newSite.
func checkCapturedLogs() error { return suiteLeaks.check(0) }

// config makes a configuration report to the watch as well, as text and as JSON.
func (l *leakWatch) config(cfg *sessions.Config) {
	logger := cfg.Logger
	if logger == nil {
		logger = slog.Default()
	}
	all := &slog.HandlerOptions{Level: slog.LevelDebug - 100, AddSource: true}
	cfg.Logger = slog.New(teeHandler{logger.Handler(), slog.NewTextHandler(l, all), slog.NewJSONHandler(l, all)})
	observe := cfg.Observe
	cfg.Observe = func(ctx context.Context, e sessions.Event) {
		l.logged(e)
		if e.Err != nil {
			l.logged(e.Err)
		}
		if observe != nil {
			observe(ctx, e)
		}
	}
	if answer := cfg.ErrorHandler; answer != nil {
		cfg.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
			l.logged(err)
			answer(w, r, err)
		}
	}
}

// handler notes the tokens that come and go under this cookie name.
func (l *leakWatch) handler(where, name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, line := range r.Header["Cookie"] {
			l.cookies(where, "presented token", name, strings.Split(line, ";"))
		}
		defer func() {
			for _, line := range w.Header()["Set-Cookie"] {
				l.cookies(where, "issued token", name, strings.SplitN(line, ";", 2)[:1])
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func (l *leakWatch) cookies(where, what, name string, pairs []string) {
	for _, pair := range pairs {
		if value, ok := strings.CutPrefix(strings.TrimSpace(pair), name+"="); ok {
			l.secret(where, what, value)
		}
	}
}

// teeHandler is a log that goes to several handlers.
type teeHandler []slog.Handler

func (t teeHandler) Enabled(context.Context, slog.Level) bool { return true }

func (t teeHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	for _, h := range t {
		if h.Enabled(ctx, r.Level) {
			err = errors.Join(err, h.Handle(ctx, r.Clone()))
		}
	}
	return err
}

func (t teeHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := make(teeHandler, len(t))
	for i, h := range t {
		with[i] = h.WithAttrs(attrs)
	}
	return with
}

func (t teeHandler) WithGroup(name string) slog.Handler {
	with := make(teeHandler, len(t))
	for i, h := range t {
		with[i] = h.WithGroup(name)
	}
	return with
}

func TestLeakWatchFinds(t *testing.T) {
	for _, c := range []struct {
		logged string
		window int
		found  bool
	}{
		{"nothing", 0, false}, {"nothing", 8, false},
		{"a s3cr3t-t0ken-of-ours b", 0, true}, {"a s3cr3t-t0ken-of-ours b", 8, true},
		{"only t0ken-of of it", 0, false}, {"only t0ken-of of it", 8, true}, {"only t0ken-o of it", 9, false},
		{"hex " + hex.EncodeToString([]byte("s3cr3t-t0ken-of-ours")), 0, true},
		{"base64 " + base64.StdEncoding.EncodeToString([]byte("s3cr3t-t0ken-of-ours")), 0, true},
	} {
		var l leakWatch
		l.secret("here", "a token", "s3cr3t-t0ken-of-ours")
		l.secret("here", "too short", "nothing")
		fmt.Fprintln(&l, c.logged)
		require.Equal(t, c.found, l.check(c.window) != nil, "%+v", c)
	}
	var l leakWatch
	cfg := sessions.Config{Store: cookieStoreWith(t, secretA), Logger: slog.New(slog.DiscardHandler)}
	l.config(&cfg)
	cfg.Logger.With("a", "w1th-attribute").WithGroup("g").Debug("x", "token", "s3cr3t-t0ken-of-ours")
	cfg.Observe(t.Context(), sessions.Event{Detail: "s3cr3t-event-d3tail"})
	text := l.text.String()
	require.Equal(t, 2, strings.Count(text, "s3cr3t-t0ken-of-ours"))
	require.Equal(t, 2, strings.Count(text, "w1th-attribute"))
	require.Contains(t, text, "s3cr3t-event-d3tail")
}

func TestLeakWatchFindsEverySpelling(t *testing.T) {
	for _, secret := range []string{"twelve bytes", "s3cr3t-t0ken-of-ours", "\xfb\xff\xfe which base64 spells in two ways?>", "padded already=", "and with two=="} {
		for _, s := range append(spellings(secret), base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret))) {
			for _, text := range []string{s, s + " at the beginning", "at the end " + s, "in the " + s + " middle"} {
				for _, window := range []int{0, 10} {
					var l leakWatch
					l.secret("here", "another", "another s3cr3t, which is not there")
					l.secret("here", "a token", secret)
					_, _ = io.WriteString(&l, text)
					require.ErrorContains(t, l.check(window), "here: a token of", "window %d, %q", window, text)
				}
			}
		}
	}
}

// The check takes one look at the text, however many secrets there are.
func TestLeakWatchIsLinear(t *testing.T) {
	for _, window := range []int{0, 10} {
		var l leakWatch
		size := 0
		for i := range 1000 {
			secret := fmt.Sprintf("all-secrets-begin-like-this-%020d", i)
			l.secret("here", "a token", secret)
			for _, s := range spellings(secret) {
				size += len(s)
			}
		}
		for range 2000 {
			fmt.Fprintln(&l, "all-secrets-begin-like-this, and then they go another way")
		}
		found, steps := l.search(window)
		require.Equal(t, window == 0, len(found) == 0)
		require.LessOrEqual(t, steps, 2*(size+l.text.Len()), "window %d", window)
	}
}

// canary returns a word that nothing else holds.
func canary(what string) string { return what + rand.Text()[:20] }

// noisy is a value that cannot be encoded, and says why with what it holds.
type noisy struct{ Held string }

func (n noisy) MarshalJSON() ([]byte, error) { return nil, errors.New("cannot encode " + n.Held) }

// UnmarshalJSON quotes what it was given.
func (n *noisy) UnmarshalJSON(text []byte) error { return fmt.Errorf("cannot decode %s", text) }

// leakSite is a site whose traffic is watched.
type leakSite struct {
	*site
	watch      *leakWatch
	key, value string
	renewsLate bool // each request calls Renew after its first byte
}

func newLeakSite(t *testing.T, l *leakWatch, store sessions.Store, edits ...func(*sessions.Config)) *leakSite {
	t.Helper()
	s := &leakSite{watch: l, key: canary("key"), value: canary("value")}
	l.secret(t.Name(), "a key", s.key)
	l.secret(t.Name(), "a value", s.value)
	edits = append(edits, func(cfg *sessions.Config) {
		cfg.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) { http.Error(w, "failed", 599) }
		l.config(cfg)
	})
	s.site = newSite(t, store, edits...)
	s.handler = l.handler(t.Name(), "session", s.handler)
	return s
}

// use makes a request whose handler does with its session what may go wrong, and logs what it gets.
func (s *leakSite) use(b *browser, fn func(sessions.Session)) {
	b.do(func(w http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r.Context())
		if err != nil {
			s.watch.logged(err)
			http.Error(w, "no session", http.StatusServiceUnavailable)
			return
		}
		s.watch.logged(sess)
		s.watch.logged(r.Context())
		fn(sess)
		s.watch.logged(sess)
		_, err = io.WriteString(w, "page")
		if err != nil {
			s.watch.logged(err)
		}
		// after the first byte
		_ = sess.Set(s.key+"late", s.value)
		if s.renewsLate {
			sess.Renew()
		}
	})
}

// traffic is what all sites see.
func (s *leakSite) traffic() {
	note := func(err error) {
		if err != nil {
			s.watch.logged(err)
		}
	}
	b := s.browser()
	s.use(b, func(sessions.Session) {})
	s.use(b, func(v sessions.Session) { note(v.Set(s.key, s.value)) })
	s.use(b, func(v sessions.Session) {
		var n int
		_, err := v.Get(s.key, &n)
		note(err)
		var x noisy
		_, err = v.Get(s.key, &x)
		note(err)
		note(v.Set(s.key, noisy{s.value}))
		note(v.Set(s.key, map[string]any{s.value: make(chan int)}))
		note(v.Set(s.key+"\xff", s.value))
		_, err = sessions.NewKey[int](s.key).Update(v, func(n int) int { return n })
		note(err)
		note(v.Update(s.key, func(json.RawMessage) (any, error) { return noisy{s.value}, nil }))
	})
	renewed := b.clone()
	s.use(b, func(v sessions.Session) { v.Renew() })
	s.use(renewed, func(sessions.Session) {}) // replayed
	s.renewsLate = true
	s.use(b, func(sessions.Session) {})
	s.renewsLate = false
	s.use(b, func(v sessions.Session) { v.SetLifetime(time.Hour, true) })
	old := b.clone()
	s.use(b, func(v sessions.Session) { v.Destroy() })
	s.use(old, func(v sessions.Session) { note(v.Set(s.key, s.value)) }) // replayed

	// a request that loses against a logout, and two that meet
	s.use(b, func(v sessions.Session) { note(v.Set(s.key, s.value)) })
	for _, other := range []func(sessions.Session){sessions.Session.Destroy, sessions.Session.Renew, func(v sessions.Session) { note(v.Set(s.key+"2", s.value)) }} {
		b = s.browser()
		s.use(b, func(v sessions.Session) { note(v.Set(s.key, s.value)) })
		tab := b.clone()
		s.use(b, func(v sessions.Session) {
			s.use(tab, other)
			note(v.Set(s.key, s.value+"again"))
		})
	}

	// too large for a cookie, and a panic
	big := canary("big") + strings.Repeat(s.value, 200)
	s.use(b, func(v sessions.Session) { note(v.Set(s.key, big)) })
	s.use(b, func(v sessions.Session) { _ = v.Set(s.key, s.value); panic(http.ErrAbortHandler) })

	// what clients send
	s.use(b, func(v sessions.Session) { note(v.Set(s.key, s.value)) })
	good := b.cookie()
	for _, bad := range []string{
		canary("garbage"), good[:len(good)/2], good + canary("more"), strings.ToUpper(good), sessions.NewToken(), `"` + good + `"`,
		canary("bytes") + "\xff\x01", strings.Repeat(canary("long"), 300), good + "\t" + canary("x"),
	} {
		for _, line := range []string{"session=" + bad, "session=" + bad + "; session=" + canary("second")} {
			c := b.clone()
			c.client.Jar = nil
			c.header["Cookie"] = []string{line}
			s.use(c, func(v sessions.Session) { note(v.Set(s.key, s.value)) })
		}
	}

	// what proxies send
	b.header.Set("X-Forwarded-Proto", canary("proto"))
	b.header.Set("Origin", "https://example.test")
	s.use(b, func(v sessions.Session) { note(v.Set(s.key, 1)) })
	b.peer = "203.0.113.9:1"
	s.use(b, func(v sessions.Session) { note(v.Set(s.key, 2)) })
}

func TestP11_NothingSecretIsLogged(t *testing.T) {
	var l leakWatch
	std := log.Writer() // of net/http, and of slog.Default
	log.SetOutput(io.MultiWriter(std, &l))
	t.Cleanup(func() { log.SetOutput(std) })
	secrets := [][]byte{[]byte(canary("secret one of 32 bytes or more ")), []byte(canary("secret two of 32 bytes or more "))}
	for _, s := range secrets {
		l.secret(t.Name(), "a secret", string(s))
		l.secret(t.Name(), "the random part of a secret", string(s[len(s)-20:]))
	}
	outcomes := map[sessions.Outcome]bool{}
	seen := func(s *leakSite) {
		s.events.mu.Lock()
		defer s.events.mu.Unlock()
		for _, e := range s.events.events {
			outcomes[e.Outcome] = true
		}
	}

	t.Run("cookie", func(t *testing.T) {
		codec := codecWith(t, secrets...)
		s := newLeakSite(t, &l, storeOver(t, &spyCodec{Codec: codec, watch: &l}))
		s.traffic()
		for _, plain := range []string{`["t` + s.value, s.value, `{"user":"` + s.value + `"}`} { // authentic, but not a record
			sealed, err := codec.Seal("session", []byte(plain))
			require.NoError(t, err)
			s.use(s.browser().hold(sealed), func(v sessions.Session) { require.True(t, v.IsNew()) })
		}
		r := hourRecord(`"` + s.value + `"`)
		r.Expires = time.Now().Add(time.Millisecond)
		l.secret(t.Name(), "the token in a sealed record", r.Token)
		b := s.browser().hold(sealRecord(t, storeOver(t, codec), "session", r))
		require.Eventually(t, func() bool { return !time.Now().Before(r.Expires) }, waitLimit, time.Millisecond)
		s.use(b, func(v sessions.Session) { require.True(t, v.IsNew()) })
		seen(s)
	})
	t.Run("codec that fails", func(t *testing.T) {
		s := newLeakSite(t, &l, storeOver(t, panicCodec{}))
		s.use(s.browser(), func(v sessions.Session) { _ = v.Set(s.key, s.value) })
		s.use(s.browser().hold(canary("garbage")), func(v sessions.Session) {})
		seen(s)
	})
	t.Run("memory", func(t *testing.T) {
		store := &spyStore{Store: memoryStore.make(t)}
		s := newLeakSite(t, &l, store)
		s.traffic()
		b := s.browser()
		s.use(b, func(v sessions.Session) { _ = v.Set(s.key, s.value) })
		for _, op := range []string{"load", "save", "touch", "delete"} {
			store.fail(op)
			s.use(b, func(v sessions.Session) { _ = v.Set(s.key, s.value+"3") })
			s.use(b, sessions.Session.Destroy)
			store.fail()
		}
		seen(s)
	})
	t.Run("redis", func(t *testing.T) {
		server := redistest.Start(t)
		rdb := server.Client(t)
		s := newLeakSite(t, &l, redisStoreOver(t, rdb))
		s.traffic()
		b := s.browser()
		s.use(b, func(v sessions.Session) { _ = v.Set(s.key, s.value) })
		id := b.id()
		key := "session:" + id
		good, err := rdb.Get(t.Context(), key).Result()
		require.NoError(t, err)
		require.Contains(t, good, s.value)
		token := b.cookie()
		require.NotContains(t, good, token, "the token is not in Redis")
		require.NotContains(t, key, token)
		other := s.browser()
		s.use(other, func(v sessions.Session) { _ = v.Set(s.key, s.value) })
		stolen, err := rdb.Get(t.Context(), "session:"+other.id()).Result()
		require.NoError(t, err)
		for _, text := range []string{"", s.value, good[:len(good)-1], stolen, strings.Replace(good, `["i`, `["j`, 1)} {
			require.NoError(t, rdb.Set(t.Context(), key, text, time.Minute).Err())
			s.use(b.clone(), func(v sessions.Session) { require.True(t, v.IsNew()) })
			// and while a request is under way
			require.NoError(t, rdb.Set(t.Context(), key, good, time.Minute).Err())
			s.use(b.clone(), func(v sessions.Session) {
				require.NoError(t, rdb.Set(t.Context(), key, text, time.Minute).Err())
				_ = v.Set(s.key, s.value+"4")
			})
		}
		require.NoError(t, rdb.Del(t.Context(), key).Err())
		require.NoError(t, rdb.HSet(t.Context(), key, s.key, s.value).Err())
		require.NoError(t, rdb.Expire(t.Context(), key, time.Minute).Err())
		s.use(b.clone(), func(v sessions.Session) { require.True(t, v.IsNew()) })
		require.NoError(t, rdb.Set(t.Context(), key, good, time.Minute).Err())
		s.use(b.clone(), func(v sessions.Session) {
			require.NoError(t, rdb.Del(t.Context(), key).Err())
			require.NoError(t, rdb.HSet(t.Context(), key, s.key, s.value).Err())
			require.NoError(t, rdb.Expire(t.Context(), key, time.Minute).Err())
			_ = v.Set(s.key, s.value+"5")
		})
		server.Stop()
		s.use(b.clone(), func(sessions.Session) { t.Error("a session without a store") })
		seen(s)
	})
	// Redis quotes the command in some of its errors, and the client the reply.
	for _, command := range []string{"GET", "SET", "EVALSHA", "DEL"} {
		t.Run("redis without "+command, func(t *testing.T) {
			server := redistest.Start(t, "--rename-command", command, "")
			s := newLeakSite(t, &l, redisStoreOver(t, server.Client(t)))
			// The beginning of the command is quoted, so the values have to be near to it.
			s.key = canary("k")[:8]
			l.secret(t.Name(), "a key in a record", `",{"`+s.key)
			b := s.browser()
			s.use(b, func(v sessions.Session) { _ = v.Set(s.key, s.value) })
			s.use(b, func(v sessions.Session) { _ = v.Set(s.key, 1) })
			s.use(b, sessions.Session.Renew)
			s.use(b, sessions.Session.Destroy)
			s.use(s.browser().hold(sessions.NewToken()), func(v sessions.Session) { _ = v.Set(s.key, s.value) })
			text := strings.Join(append(s.log.lines("unknown command"), s.log.lines("Unknown Redis command")...), "") // the second in a script
			require.NotEmpty(t, text)
			require.NotContains(t, l.text.String(), "beginning with")
			seen(s)
		})
	}
	t.Run("redis that talks nonsense", func(t *testing.T) {
		reply := canary("reply")
		l.secret(t.Name(), "what a broken connection says", reply)
		for _, text := range []string{reply, ":" + reply, "$" + reply, "*2\r\n$3\r\n" + reply, "+" + reply, "_" + reply, "#" + reply, "," + reply, "(" + reply,
			fmt.Sprintf("$%d\r\n%s", len(reply), reply), fmt.Sprintf("*1\r\n$%d\r\n%s", len(reply), reply)} {
			r := hourRecord("1")
			r.Expires = r.Expires.Add(-r.Idle / 2) // which is due
			good, err := json.Marshal(r)
			require.NoError(t, err)
			for name, said := range map[string]map[string]string{
				"always":           {},
				"in a session":     {"hello": "-ERR unknown command"},
				"after the record": {"hello": "-ERR unknown command", "get": fmt.Sprintf("$%d\r\n%s", len(good), good)},
			} {
				rdb := redis.NewClient(&redis.Options{Addr: nonsense(t, text, said), MaxRetries: -1, DialerRetries: 1, Protocol: 2, DisableIdentity: true,
					ContextTimeoutEnabled: true, ReadTimeout: time.Second})
				s := newLeakSite(t, &l, redisStoreOver(t, rdb), func(cfg *sessions.Config) { cfg.CommitTimeout = 2 * time.Second })
				s.use(s.browser(), func(v sessions.Session) { _ = v.Set(s.key, s.value) })
				for _, do := range []func(sessions.Session){
					func(sessions.Session) {},
					func(v sessions.Session) { _ = v.Set(s.key, s.value) },
					sessions.Session.Renew,
					sessions.Session.Destroy,
				} {
					s.use(s.browser().hold(r.Token), func(v sessions.Session) {
						require.Equal(t, name == "after the record", v.ID() == r.ID)
						do(v)
					})
				}
				_ = rdb.Close()
				seen(s)
			}
		}
	})
	t.Run("configuration", func(t *testing.T) {
		_, err := sessions.NewSecureCookieCodec(secrets[0], secrets[0], secrets[1][:31], secrets[0][:31], nil)
		require.Error(t, err)
		l.logged(err)
		_, err = sessions.New(sessions.Config{Cookie: sessions.Cookie{Name: "a b", Path: "x", Domain: "1"}, IdleTimeout: -1})
		require.Error(t, err)
		l.logged(err)
		l.logged(codecWith(t, secrets...))
	})

	for _, want := range []sessions.Outcome{sessions.OutcomeNone, sessions.OutcomeLoaded, sessions.OutcomeUnknown, sessions.OutcomeExpired, sessions.OutcomeMalformed,
		sessions.OutcomeTampered, sessions.OutcomeUndecodable, sessions.OutcomeRevoked, sessions.OutcomeError, sessions.OutcomeSaved, sessions.OutcomeCreated,
		sessions.OutcomeDeleted, sessions.OutcomeMerged, sessions.OutcomeGone, sessions.OutcomeTooLarge, sessions.OutcomeTooLate,
		sessions.OutcomeUntrustedProxy, sessions.OutcomeSchemeMismatch} {
		require.True(t, outcomes[want], "the traffic has no %s", want)
	}
	require.Greater(t, l.text.Len(), 10000)
	require.Greater(t, len(l.secrets), 200)
	require.NoError(t, l.check(10))
}

// spyCodec notes the tokens inside of what it seals.
type spyCodec struct {
	sessions.Codec
	watch *leakWatch
}

func (c *spyCodec) Seal(name string, plain []byte) (string, error) {
	var head string
	if json.Unmarshal(plain, &[]any{&head}) == nil {
		c.watch.secret("a seal", "the token in a sealed record", head[1:min(len(head), 23)]) // the header follows it
	}
	return c.Codec.Seal(name, plain)
}

// panicCodec fails in the worst way, with all that it knows.
type panicCodec struct{}

func (panicCodec) Seal(_ string, plain []byte) (string, error) { panic(string(plain)) }
func (panicCodec) Open(_, sealed string) ([]byte, error) {
	return nil, errors.New("cannot open " + sealed)
}

// nonsense is a server that answers every command with the same text, but for some, and gives its address.
func nonsense(t *testing.T, text string, but map[string]string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	ended, end := context.WithCancel(t.Context())
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ended, func() { _ = conn.Close() })
			wg.Go(func() {
				defer stop()
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() { // a command is the number of its words, and each of them after its length
					words, _ := strconv.Atoi(strings.TrimPrefix(lines.Text(), "*"))
					answer := text
					for i := range words {
						lines.Scan() // the length
						if !lines.Scan() {
							return
						}
						if i == 0 {
							if is, ok := but[strings.ToLower(lines.Text())]; ok {
								answer = is
							}
						}
					}
					if _, err := io.WriteString(conn, answer+"\r\n"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { end(); _ = listener.Close(); wg.Wait() })
	return listener.Addr().String()
}
