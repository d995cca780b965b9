package movein_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/movein"
	"handover.example/sessions/sessiontest"
)

var (
	hashKey  = []byte("a hash key of the old program...")
	blockKey = []byte("the block key of the old program")
)

const cookieName = "app-session"

// seal seals values as the old program does.
func seal(t testing.TB, vals any) string {
	t.Helper()
	text, err := securecookie.EncodeMulti(cookieName, vals, securecookie.CodecsFromPairs(hashKey, blockKey)...)
	require.NoError(t, err)
	return text
}

// sealPlain seals a text that need not be gob.
func sealPlain(t testing.TB, plain []byte) string {
	t.Helper()
	text, err := securecookie.New(hashKey, blockKey).SetSerializer(securecookie.NopEncoder{}).Encode(cookieName, bytes.Clone(plain))
	require.NoError(t, err)
	return text
}

// unseal opens a cookie as the old program does.
func unseal(t testing.TB, text string) map[any]any {
	t.Helper()
	vals := map[any]any{}
	require.NoError(t, securecookie.DecodeMulti(cookieName, text, &vals, securecookie.CodecsFromPairs(hashKey, blockKey)...))
	return vals
}

func plainConfig() movein.GorillaConfig {
	return movein.GorillaConfig{KeyPairs: [][]byte{hashKey, blockKey}}
}

func load(t testing.TB, store sessions.Store, text string) *sessions.Record {
	t.Helper()
	rec, err := store.Load(t.Context(), cookieName, text)
	require.NoError(t, err)
	return rec
}

func save(t testing.TB, store sessions.Store, rec *sessions.Record) string {
	t.Helper()
	rec.Version++
	text, err := store.Save(t.Context(), cookieName, rec, rec.Version-1)
	require.NoError(t, err)
	return text
}

func TestP16_GorillaMistakes(t *testing.T) {
	for _, c := range []struct {
		cfg  movein.GorillaConfig
		want []string
	}{
		{movein.GorillaConfig{}, []string{"KeyPairs"}},
		{movein.GorillaConfig{KeyPairs: [][]byte{nil}}, []string{"KeyPairs[0]"}},
		{movein.GorillaConfig{KeyPairs: [][]byte{hashKey, blockKey[:15], {}, {}}, MaxAge: -1, Types: movein.Types{"_handover": 0, "a": nil, "b": struct{ X int }{}}},
			[]string{"KeyPairs[1]", "KeyPairs[2]", "KeyPairs[3]", "MaxAge", `Types["_handover"]`, `Types["a"]`, `Types["b"]`}},
		{movein.GorillaConfig{KeyPairs: [][]byte{hashKey}, MaxAge: 401 * 24 * time.Hour}, []string{"MaxAge"}},
		{movein.GorillaConfig{KeyPairs: [][]byte{hashKey}, MaxAge: time.Millisecond}, []string{"MaxAge"}},
		{movein.GorillaConfig{KeyPairs: [][]byte{hashKey}, JSON: true, Types: movein.Types{"a": 1}}, []string{"Types"}},
		{movein.GorillaConfig{KeyPairs: [][]byte{hashKey, nil, hashKey}}, nil},
		{movein.GorillaConfig{KeyPairs: [][]byte{hashKey, blockKey[:16], hashKey, blockKey[:24]}, MaxAge: 400 * 24 * time.Hour}, nil},
	} {
		_, err := movein.Gorilla(c.cfg)
		var fields []string
		if err != nil {
			for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
				var mistake *sessions.ConfigError
				require.ErrorAs(t, err, &mistake)
				fields = append(fields, mistake.Field)
				require.NotContains(t, err.Error(), string(blockKey[:15]))
			}
		}
		require.Equal(t, c.want, fields)
	}
}

// The configuration is copied.
func TestP16_GorillaKeysAreCopied(t *testing.T) {
	cfg := movein.GorillaConfig{KeyPairs: [][]byte{bytes.Clone(hashKey), bytes.Clone(blockKey)}}
	store := storeOver(t, cfg)
	clear(cfg.KeyPairs[0])
	clear(cfg.KeyPairs[1])
	load(t, store, seal(t, map[any]any{"a": 1}))
}

type level string

type opaque struct{ n int }

func (o opaque) GobEncode() ([]byte, error)   { return []byte{byte(o.n)}, nil }
func (o *opaque) GobDecode(data []byte) error { o.n = int(data[0]); return nil }

func init() {
	gob.Register(level(""))
	gob.Register(opaque{})
	gob.Register([3]int{})
	gob.Register([]map[string]int{})
}

// A value that nobody changes keeps its Go type, whatever it is and wherever it is, and so does its key.
func TestUnchangedValuesGoBackAsTheyWere(t *testing.T) {
	vals := map[any]any{
		"string": "a", "bool": true, "int": 42, "int64": int64(1 << 60), "uint8": uint8(7), "float": 3.0, "float32": float32(0.1),
		"time": time.Date(2026, 3, 14, 15, 9, 26, 535897123, time.FixedZone("", 3600)), "bytes": []byte("raw"), "strings": []string{"a"},
		"_flash": []any{"hello", 7}, "map": map[string]any{"n": int64(1), "f": 2.0, "at": time.Unix(1, 0).UTC(), "list": []any{int8(1), Prefs{"dark", 1}}},
		"prefs": Prefs{"dark", 7}, "level": level("high"), "array": [3]int{1, 2, 3}, "maps": []map[string]int{{"a": 1}},
		7: "a key that is a number", level("key"): "a key of another type", "nan": math.NaN(), "complex": 1i, "opaque": opaque{3}, "nil": nil,
	}
	store := storeOver(t, plainConfig())
	rec := load(t, store, seal(t, vals))
	for key, want := range map[string]string{
		"int64": `1152921504606846976`, "float": `3.0`, "_flash": `["hello",7]`, "prefs": `{"Theme":"dark","N":7}`,
		"7": `"a key that is a number"`, "key": `"a key of another type"`, "nan": "null", "opaque": "null", "bytes": `"cmF3"`,
	} {
		got, ok := rec.Value(key)
		require.True(t, ok, key)
		require.Equal(t, want, string(got), key)
	}
	for range 3 {
		rec.SetValue("visits", json.RawMessage("1"))
		text := save(t, store, rec)
		got := unseal(t, text)
		delete(got, "_handover")
		require.True(t, math.IsNaN(got["nan"].(float64)))
		require.True(t, vals["time"].(time.Time).Equal(got["time"].(time.Time)))
		want := map[any]any{"visits": 1}
		for k, v := range vals {
			want[k] = v
		}
		for _, key := range []string{"nan", "time"} {
			delete(want, key)
			delete(got, key)
		}
		require.Equal(t, want, got)
		version := rec.Version
		rec = load(t, store, text)
		require.Equal(t, version, rec.Version)
	}
}

// A value that replaces another has its Go type, or that of Types; one that has neither gets a plain type.
func TestChangedValuesHaveTheTypeOfTheirKey(t *testing.T) {
	cfg := plainConfig()
	cfg.Types = movein.Types{"prefs": Prefs{}, "since": time.Time{}, "big": uint64(0), "typed": map[string]any{}}
	moment := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	vals := map[any]any{
		"int64": int64(1), "time": moment, "map": map[string]any{"n": int64(1)}, "scores": []any{1.5}, "bytes": []byte("a"), "names": []string{"a"}, "prefs": Prefs{"dark", 7},
		"free": "text", "float": 1.5, "typed": map[string]any{"f": 1.5}, 7: int8(1), "big": 5,
	}
	store := storeOver(t, cfg)
	rec := load(t, store, seal(t, vals))
	for key, text := range map[string]string{
		"int64": "2", "time": `"2026-03-14T15:09:27Z"`, "map": `{"n":2,"new":3}`, "scores": `[2,3]`, "bytes": `"Yg=="`, "names": `["a","b"]`, "prefs": `{"theme":"light","n":8}`,
		"free": "7", "float": "2", "7": "2", "since": `"2026-03-14T15:09:26Z"`, "_flash": `["hello"]`, "new": `{"a":[1,2.5]}`, "big": "6", "typed": `{"f":2}`,
	} {
		rec.SetValue(key, json.RawMessage(text))
	}
	got := unseal(t, save(t, store, rec))
	delete(got, "_handover")
	require.Equal(t, map[any]any{
		"int64": int64(2), "time": moment.Add(time.Second), "map": map[string]any{"n": int64(2), "new": 3}, "scores": []any{2.0, 3.0}, "bytes": []byte("b"), "names": []string{"a", "b"},
		"prefs": Prefs{"light", 8}, "free": 7, "float": 2.0, 7: int8(2), "since": moment, "_flash": []any{"hello"}, "new": map[string]any{"a": []any{1, 2.5}},
		"big": uint64(6), "typed": map[string]any{"f": 2.0},
	}, got)
}

// What the old program would read as another value, or not at all, is not written.
func TestValuesThatCannotGoBack(t *testing.T) {
	cfg := plainConfig()
	cfg.Types = movein.Types{"count": int8(0)}
	store := storeOver(t, cfg)
	for key, text := range map[string]string{
		"prefs":  `{"theme":"light"}`, // a struct that is not in Types
		"opaque": `7`, "count": `200`, "int": `18446744073709551616`, "small": `300`,
		"_handover": `"secret-value"`,
	} {
		rec := load(t, store, seal(t, map[any]any{"prefs": Prefs{"dark", 7}, "opaque": opaque{1}, "small": int8(1)}))
		rec.SetValue(key, json.RawMessage(text))
		rec.Version++
		_, err := store.Save(t.Context(), cookieName, rec, 1)
		require.ErrorContains(t, err, key)
		require.NotContains(t, err.Error(), "secret-value")
	}
	// The others of such a session can be written, once the value is as it was, or gone.
	rec := load(t, store, seal(t, map[any]any{"small": int8(1)}))
	rec.SetValue("small", json.RawMessage("1"))
	require.Equal(t, int8(1), unseal(t, save(t, store, rec))["small"])
}

// The types travel with a record, whatever stores it between Open and Seal.
func TestTypesSurviveAnotherStore(t *testing.T) {
	store, other := storeOver(t, plainConfig()), sessiontest.NewMemoryStore()
	rec := load(t, store, seal(t, map[any]any{"n": int64(1), "prefs": Prefs{"dark", 7}}))
	token := rec.Token
	_, err := other.Save(t.Context(), cookieName, rec, 0)
	require.NoError(t, err)
	rec, err = other.Load(t.Context(), cookieName, token)
	require.NoError(t, err)
	rec.SetValue("n", json.RawMessage("2"))
	got := unseal(t, save(t, store, rec))
	require.Equal(t, int64(2), got["n"])
	require.Equal(t, Prefs{"dark", 7}, got["prefs"])
}

func TestPlainSessionsHaveNothingMore(t *testing.T) {
	store := storeOver(t, plainConfig())
	rec := load(t, store, seal(t, map[any]any{"s": "a", "i": 1, "b": true, "_flash": []any{"x"}, "nil": nil}))
	_, ok := rec.Value("_handover")
	require.False(t, ok)
}

// oldChanges writes a cookie as the old program does after it has changed its values.
func oldChanges(t *testing.T, text string, change func(map[any]any)) string {
	vals := unseal(t, text)
	change(vals)
	return seal(t, vals)
}

// Each writer sees what the other has written, and every instance finds the same version.
func TestTheOldProgramWritesInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storeOver(t, plainConfig())
		first := load(t, store, seal(t, map[any]any{"user": 42}))
		time.Sleep(time.Hour)
		first.Version, first.Expires = time.Now().UnixMicro(), time.Now().Add(first.Idle)
		mine := save(t, store, first)
		rec := load(t, store, mine)
		require.Equal(t, first.Version, rec.Version)

		// In the same second
		theirs := oldChanges(t, mine, func(v map[any]any) { v["visits"] = 1 })
		others := oldChanges(t, mine, func(v map[any]any) { v["visits"] = 2 })
		a, b := load(t, store, theirs), load(t, store, others)
		require.Greater(t, a.Version, rec.Version)
		require.NotEqual(t, a.Version, b.Version)
		require.Equal(t, a.Version, load(t, storeOver(t, plainConfig()), theirs).Version)
		require.Equal(t, rec.Token, a.Token)
		require.True(t, rec.Created.Equal(a.Created))
		require.JSONEq(t, `{"user":42,"visits":1}`, valuesOf(t, a))

		// Later: each later write is newer, and renews the expiry.
		time.Sleep(10 * 24 * time.Hour)
		later := load(t, store, oldChanges(t, theirs, func(v map[any]any) { v["visits"] = 3 }))
		require.Greater(t, later.Version, a.Version)
		require.GreaterOrEqual(t, later.Version, time.Now().UnixMicro())
		require.Equal(t, time.Now().Add(30*24*time.Hour).UnixMilli(), later.Expires.UnixMilli())

		// The same values: the same version, renewed.
		same := load(t, store, oldChanges(t, mine, func(map[any]any) {}))
		require.Equal(t, rec.Version, same.Version)
		require.Equal(t, later.Expires, same.Expires)

		// The session began when it was adopted.
		require.Equal(t, first.Deadline.UnixMilli(), later.Deadline.UnixMilli())
	})
}

// A mark that the old program copied to another cookie, or that nobody can have made, is not believed; neither is one
// that it has cleared.
func TestMarksOfOthers(t *testing.T) {
	store := storeOver(t, plainConfig())
	rec := load(t, store, seal(t, map[any]any{"user": 42}))
	mine := save(t, store, rec)
	mark := unseal(t, mine)["_handover"].(string)
	for _, vals := range []map[any]any{
		{"user": 42}, {"_handover": 7}, {"_handover": ""}, {"_handover": mark[:len(mark)-6]}, {"_handover": "!" + mark[1:]},
		{"_handover": mark[:40] + "!" + mark[41:]}, {"_handover": strings.Repeat("_", 100)},
	} {
		got := load(t, store, seal(t, vals))
		require.NotEqual(t, rec.Token, got.Token)
		require.True(t, got.CustomIdle)
		_, ok := got.Value("_handover")
		require.False(t, ok)
	}
	other, err := securecookie.EncodeMulti("another", unseal(t, mine), securecookie.CodecsFromPairs(hashKey, blockKey)...)
	require.NoError(t, err)
	got, err := store.Load(t.Context(), "another", other)
	require.NoError(t, err)
	require.NotEqual(t, rec.Token, got.Token)
}

// Each instance, also during a rotation of the keys and however base64 is written, derives the same token for a cookie;
// another cookie has another one.
func TestTokensOfAdoptedSessions(t *testing.T) {
	text := seal(t, map[any]any{"user": 42})
	token := load(t, storeOver(t, plainConfig()), text).Token
	for _, keys := range [][][]byte{{hashKey, blockKey, []byte("other"), nil}, {[]byte("other"), nil, hashKey, blockKey}} {
		require.Equal(t, token, load(t, storeOver(t, movein.GorillaConfig{KeyPairs: keys}), text).Token)
	}
	require.Equal(t, token, load(t, storeOver(t, plainConfig()), text[:10]+"\n"+text[10:]).Token)
	require.NotEqual(t, token, load(t, storeOver(t, plainConfig()), seal(t, map[any]any{"user": 42})).Token)
	require.NotContains(t, text, token)
}

// A cookie that nobody with a key has made costs little, and tells why it was refused.
func TestHostileCookies(t *testing.T) {
	store := storeOver(t, plainConfig())
	good := seal(t, map[any]any{"user": 42})
	deep := append(append([]byte{}, bytes.Repeat([]byte{0x0c, 0xff, 0x81, 0x02, 0x01, 0x02}, 200)...), 0x04)
	for _, c := range []struct {
		name, text string
		want       sessions.Outcome
	}{
		{"text", "not a cookie of the old program", sessions.OutcomeMalformed},
		{"token", sessions.NewToken(), sessions.OutcomeMalformed},
		{"no date", "fHx8", sessions.OutcomeMalformed},
		{"long", strings.Repeat("A", 4097), sessions.OutcomeMalformed},
		{"truncated", good[:len(good)-4], sessions.OutcomeTampered},
		{"forged", good[:len(good)-4] + "AAAA", sessions.OutcomeTampered},
		{"not gob", sealPlain(t, []byte("not gob at all, and long enough")), sessions.OutcomeUndecodable},
		{"huge", sealPlain(t, []byte{0xf8, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), sessions.OutcomeUndecodable},
		{"deep", sealPlain(t, deep), sessions.OutcomeUndecodable},
		{"another type", seal(t, []string{"a"}), sessions.OutcomeUndecodable},
		{"ambiguous keys", seal(t, map[any]any{7: 1, "7": 2}), sessions.OutcomeUndecodable},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := store.Load(t.Context(), cookieName, c.text)
		runtime.ReadMemStats(&after)
		t.Run(c.name, func(t *testing.T) { requireMiss(t, c.want, err) })
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), c.name)
	}
}

// To stay with cookies, the codec is exchanged: the next write leaves the old format.
func TestCodecsLeaveTheOldFormat(t *testing.T) {
	aead, err := sessions.NewAEADCodec([]byte("CJIbeVXC8n0D4NJGXhpGk1q8dXJTe2iDbRKwM8fuT6w="))
	require.NoError(t, err)
	gorilla, err := movein.Gorilla(plainConfig())
	require.NoError(t, err)
	stores := make([]*sessions.CookieStore, 2)
	for i, codec := range []sessions.Codec{sessions.Codecs(gorilla, aead), sessions.Codecs(aead, gorilla)} {
		stores[i], err = sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
		require.NoError(t, err)
	}
	text := seal(t, map[any]any{"n": int64(7)})
	token := load(t, stores[1], text).Token
	for _, store := range []sessions.Store{stores[1], stores[0], stores[1]} {
		rec := load(t, store, text)
		require.Equal(t, token, rec.Token)
		require.JSONEq(t, `{"n":7}`, valuesOf(t, rec))
		text = save(t, store, rec)
	}
	require.Equal(t, int64(7), unseal(t, save(t, stores[0], load(t, stores[0], text)))["n"], "and back")
	_, err = stores[1].Load(t.Context(), cookieName, sealPlain(t, []byte("neither gob nor a record")))
	requireMiss(t, sessions.OutcomeUndecodable, err)
}

func TestTooLargeForTheOldProgram(t *testing.T) {
	store := storeOver(t, plainConfig())
	rec := load(t, store, seal(t, map[any]any{}))
	for size, fits := range map[int]bool{1800: true, 2400: false} {
		rec.SetValue("big", json.RawMessage(`"`+strings.Repeat("x", size)+`"`))
		text, err := store.Save(t.Context(), cookieName, rec, 1)
		if fits {
			require.NoError(t, err)
			require.Len(t, unseal(t, text)["big"], size)
		} else {
			require.ErrorIs(t, err, sessions.ErrTooLarge)
		}
	}
}

// A CookieStore over the Codec is a Store like any other. With gob, there are two exceptions: an integer that is too large
// for an int needs an entry in Types, and the record has one more value, for the types of the others.
func TestP16_GorillaStore(t *testing.T) {
	t.Run("json", func(t *testing.T) {
		cfg := plainConfig()
		cfg.JSON = true
		sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return storeOver(t, cfg) })
	})
	t.Run("gob", func(t *testing.T) {
		cfg := plainConfig()
		cfg.Types = movein.Types{"uint64": uint64(0)}
		sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return withoutReserved{storeOver(t, cfg)} })
	})
}

// withoutReserved hides the reserved value.
type withoutReserved struct{ sessions.Store }

func (s withoutReserved) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	rec, err := s.Store.Load(ctx, name, token)
	if err != nil {
		return nil, err
	}
	out := &sessions.Record{
		ID: rec.ID, Token: rec.Token, Version: rec.Version, Created: rec.Created, Idle: rec.Idle, Expires: rec.Expires, Deadline: rec.Deadline,
		CustomIdle: rec.CustomIdle, Persistent: rec.Persistent, Secure: rec.Secure, Presented: rec.Presented,
	}
	for key, value := range rec.Values() {
		if key != "_handover" {
			out.SetValue(key, value)
		}
	}
	return out, nil
}
