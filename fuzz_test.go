package sessions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// seal returns a sealed text for any record text.
func seal(tb testing.TB, codec Codec, name, plain string) string {
	tb.Helper()
	sealed, err := codec.Seal(name, []byte(plain))
	require.NoError(tb, err)
	return sealed
}

// requireMiss checks that an error is a NotFoundError with one of these outcomes, and holds nothing of the text.
func requireMiss(t *testing.T, err error, text string, outcomes ...Outcome) {
	t.Helper()
	require.ErrorIs(t, err, ErrNotFound)
	var miss *NotFoundError
	require.ErrorAs(t, err, &miss)
	require.Contains(t, outcomes, miss.Outcome)
	if len(text) > 12 {
		require.NotContains(t, err.Error(), text)
	}
}

// requireSame compares what two records hold, but for their marks and what the client presents.
func requireSame(t *testing.T, want, got *Record) {
	t.Helper()
	a, b := *want, *got
	a.lineage.past, b.lineage.past = "", ""
	a.Presented, b.Presented = "", ""
	if len(a.values) == 0 {
		a.values = b.values[:0] // nil or empty
	}
	require.Equal(t, a, b)
}

// FuzzOpenSealed passes any bytes as the value of a cookie: to the codec, to the store, and through the whole middleware.
func FuzzOpenSealed(f *testing.F) { fuzzOpen(f, testCookieStore(f).codec) }

// FuzzOpenAEAD does the same with the other codec.
func FuzzOpenAEAD(f *testing.F) {
	codec, err := NewAEADCodec(goldenSecrets...)
	require.NoError(f, err)
	fuzzOpen(f, codec)
}

func fuzzOpen(f *testing.F, codec Codec) {
	store, err := NewCookieStore(CookieStoreConfig{Codec: codec})
	require.NoError(f, err)
	for _, v := range loadVectors(f, "sealed") {
		f.Add(v.get("cookie"), v.body)
	}
	f.Fuzz(func(t *testing.T, name, sealed string) {
		ctx := context.Background()
		plain, err := codec.Open(name, sealed)
		if err != nil {
			require.Nil(t, plain)
			require.Equal(t, errSeal, err)
		} else {
			again := seal(t, codec, name, string(plain))
			got, err := codec.Open(name, again)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, got))
		}
		kept := sealed
		r, lerr := store.Load(ctx, name, sealed)
		require.Equal(t, kept, sealed)
		if lerr != nil {
			requireMiss(t, lerr, sealed, OutcomeMalformed, OutcomeTampered, OutcomeUndecodable, OutcomeExpired)
			if err != nil {
				requireMiss(t, lerr, sealed, OutcomeMalformed, OutcomeTampered)
			}
			return
		}
		require.NoError(t, err, "loaded, but not opened")
		if r.Revoked {
			return
		}
		token, err := store.Save(ctx, name, r, r.Version)
		if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrGone) {
			return
		}
		require.NoError(t, err)
		again, err := store.Load(ctx, name, token)
		require.NoError(t, err)
		requireSame(t, r, again)
	})
}

// FuzzSealedRecord passes any bytes as what was sealed.
func FuzzSealedRecord(f *testing.F) {
	store := testCookieStore(f)
	for _, v := range loadVectors(f, "sealed") {
		if plain, err := v.codec(f).Open(v.get("cookie"), v.body); err == nil {
			f.Add(string(plain))
		}
	}
	for _, v := range loadVectors(f, "stored") {
		f.Add(strings.Replace(v.body, storedStart+"XSYR1aTdK0Cyd9_bXs9bSQ", sealedStart+testToken, 1))
	}
	f.Fuzz(func(t *testing.T, plain string) {
		r, err := parseSealed(plain)
		if err != nil {
			require.Equal(t, errUndecodable, err)
			require.Nil(t, r)
		} else {
			requireStable(t, plain, r, (*Record).appendSealed, parseSealed)
			id, ok := TokenID(r.Token)
			require.True(t, ok)
			require.Equal(t, id, r.ID)
			require.True(t, strings.HasPrefix(plain, sealedStart+r.Token))
		}
		if len(plain) == 0 || len(plain) > 2000 {
			return
		}
		// The store sees the same, and the manager makes a working session of it, or a new one.
		sealed := seal(t, store.codec, "session", plain)
		loaded, lerr := store.Load(context.Background(), "session", sealed)
		switch {
		case err != nil:
			requireMiss(t, lerr, plain, OutcomeUndecodable)
		case !r.alive(time.Now()):
			requireMiss(t, lerr, plain, OutcomeExpired)
		default:
			require.NoError(t, lerr)
			requireSame(t, r, loaded)
		}
		serve(t, store, "session="+sealed)
	})
}

// FuzzStoredRecord passes any bytes as the value of a session's key in Redis.
func FuzzStoredRecord(f *testing.F) {
	for _, v := range loadVectors(f, "stored") {
		f.Add([]byte(v.body))
	}
	store := &textStore{RedisStore: &RedisStore{}}
	f.Fuzz(func(t *testing.T, text []byte) {
		kept := bytes.Clone(text)
		r := Record{Token: "kept"}
		err := r.UnmarshalJSON(text)
		require.Equal(t, kept, text, "the input is changed")
		if err != nil {
			require.Equal(t, errUndecodable, err)
			require.Equal(t, Record{Token: "kept"}, r)
		} else {
			require.Equal(t, "kept", r.Token)
			r.Token = ""
			requireStable(t, string(text), &r, (*Record).appendStored, parseStored)
			if shallow(text) {
				require.True(t, json.Valid(text), "no JSON, but read: %q", text)
				var head string
				var values map[string]json.RawMessage
				require.NoError(t, json.Unmarshal(text, &[]any{&head, &values}))
				require.True(t, strings.HasPrefix(head, "i"+r.ID))
				require.Len(t, values, len(r.values))
				for key, raw := range r.Values() {
					require.Equal(t, string(values[key]), string(raw))
				}
			}
		}
		store.text = string(text)
		serve(t, store, "session="+testToken)
	})
}

// shallow reports whether a text is nested less than encoding/json allows.
func shallow(text []byte) bool {
	return bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")) < 10000
}

// requireStable checks that what was read is written to the same record again, and that this form does not change.
func requireStable(t *testing.T, text string, r *Record, write func(*Record, []byte) []byte, read func(string) (*Record, error)) {
	t.Helper()
	require.NotZero(t, r.Version)
	require.False(t, r.Expires.Before(time.UnixMilli(0)))
	require.GreaterOrEqual(t, r.Idle, time.Duration(0))
	one := string(write(r, nil))
	again, err := read(one)
	require.NoError(t, err, "written, but not read: %q", one)
	revoked := *r
	if r.Revoked { // which is written alone
		revoked.Persistent, revoked.Secure, revoked.CustomIdle = false, false, false
	}
	requireSame(t, &revoked, again)
	require.Equal(t, one, string(write(again, nil)))
	if shallow([]byte(one)) {
		require.True(t, json.Valid([]byte(one)))
	}
	seen := map[string]bool{}
	for key, raw := range r.Values() {
		require.False(t, seen[key], "%q twice", key)
		seen[key] = true
		require.True(t, json.Valid(raw), "%q", raw)
		require.Contains(t, text, string(raw))
	}
}

// textStore is a Redis store whose one key holds a text.
type textStore struct {
	*RedisStore
	text string
}

func (s *textStore) Load(_ context.Context, _, token string) (*Record, error) {
	id, ok := TokenID(token)
	if !ok {
		return nil, &NotFoundError{Outcome: OutcomeMalformed}
	}
	r, reason := s.parse(id, s.text)
	if r == nil {
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, SessionID: id, Detail: reason}
	}
	r.Token = token
	return r, nil
}

func (s *textStore) Save(_ context.Context, _ string, r *Record, base int64) (string, error) {
	s.text = string(r.appendStored(nil))
	return r.Token, nil
}

func (s *textStore) Touch(ctx context.Context, name string, r *Record) (string, error) {
	return s.Save(ctx, name, r, r.Version)
}

func (s *textStore) Delete(context.Context, string, *Record) error { return nil }

func (s *textStore) MaxTTL() time.Duration { return 1<<63 - 1 }

// serve answers one request with these Cookie lines, whose handler reads every value, writes one and renews. It must be
// answered with 200, or with the error page for a session that does not fit.
func serve(t *testing.T, store Store, lines ...string) {
	t.Helper()
	m, err := New(Config{Store: store, AbsoluteTimeout: 250 * 365 * 24 * time.Hour, Logger: slog.New(slog.DiscardHandler), Observe: func(_ context.Context, e Event) {
		if e.Outcome == OutcomeError {
			t.Errorf("%+v", e)
		}
	}})
	require.NoError(t, err)
	var failed error
	m.errorHandler = func(w http.ResponseWriter, _ *http.Request, err error) { failed = err; w.WriteHeader(599) }
	r := &http.Request{Method: "GET", Host: "example.test", Header: http.Header{"Cookie": lines}, RemoteAddr: "10.0.0.1:1"}
	w := httptest.NewRecorder()
	var id string
	m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := Get(r.Context())
		require.NoError(t, err)
		for key := range s.Keys() {
			var v any
			ok, err := s.Get(key, &v)
			require.True(t, ok)
			if err != nil {
				require.Contains(t, err.Error(), "cannot be decoded")
			}
		}
		require.NoError(t, s.Set("fuzz", 1))
		if len(lines)%2 == 0 {
			s.Renew()
		}
		id = s.ID()
	})).ServeHTTP(w, r)
	if failed != nil {
		require.ErrorIs(t, failed, ErrTooLarge)
		return
	}
	require.Equal(t, http.StatusOK, w.Code)
	_, ok := TokenID(id) // has the shape of one
	require.True(t, ok, "%q", id)
	for _, line := range w.Header()["Set-Cookie"] {
		requireKept(t, line)
	}
}

// FuzzCookieHeader passes any Cookie lines, as a client or another application under the same domain can make them.
func FuzzCookieHeader(f *testing.F) {
	store := testCookieStore(f)
	for i, v := range loadVectors(f, "sealed") {
		if i%8 == 0 {
			f.Add("session="+v.body, "a=b; session="+v.body+"; session=x")
		}
	}
	for _, s := range []string{"", "session", "session=", `session=""`, "session=a; session=b;session=c ;session = d; session=e", " session\t=\t\"a\"", ";;;=;==;session==",
		"session=a,b", "$Version=1; session=a; $Path=/", "session=\x00\r\n", "Session=a; SESSION=b", "session=a=b==", strings.Repeat("session=;", 3000)} {
		f.Add(s, "")
		f.Add("x=1; session=a", s)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		lines := []string{one, two}
		h := http.Header{"Cookie": lines}
		var buf [maxReads]string
		got, more := candidates(h, "session", buf[:0])
		require.LessOrEqual(t, len(got), maxCandidates)
		all := candidatesWithoutLimit(h, "session")
		require.Equal(t, all[:min(len(all), maxCandidates)], append([]string{}, got...))
		require.True(t, more || len(all) == len(got))

		// All that net/http finds, and that could be ours, is among them and in the same order.
		r := &http.Request{Header: h}
		rest, seen := all, []string{}
		for _, c := range r.CookiesNamed("session") {
			if c.Value == "" || !fitsCookie(c.Value) {
				continue
			}
			if slices.Contains(seen, c.Value) {
				continue
			}
			seen = append(seen, c.Value)
			i := slices.Index(rest, c.Value)
			require.GreaterOrEqual(t, i, 0, "%q is in none of %q", c.Value, rest)
			rest = rest[i+1:]
		}
		serve(t, store, lines...)
		serve(t, store, one)
	})
}

// candidatesWithoutLimit is the plain form of candidates.
func candidatesWithoutLimit(h http.Header, name string) []string {
	all := []string{}
	for _, line := range h["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			n, value, ok := strings.Cut(part, "=")
			if ok && strings.Trim(n, " \t\r\n") == name {
				value = strings.Trim(value, " \t\r\n")
				if len(value) >= 2 && strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) {
					value = value[1 : len(value)-1]
				}
				if !slices.Contains(all, value) {
					all = append(all, value)
				}
			}
		}
	}
	return all
}
