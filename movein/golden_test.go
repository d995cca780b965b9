package movein_test

import (
	"encoding/gob"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/movein"
)

// Prefs is a value as programs store them.
type Prefs struct {
	Theme string `json:"theme"`
	N     int    `json:"n"`
}

func init() {
	gob.Register(time.Time{})
	gob.Register(map[string]any{})
	gob.Register(Prefs{})
}

// golden is a cookie that a library has made.
type golden struct {
	Name    string
	MadeAt  time.Time `json:"made_at"`
	Cookie  string    `json:"cookie_name"`
	Secrets []struct{ Base64 []byte }
	Value   string          `json:"cookie_value"`
	Values  json.RawMessage `json:"values_as_json"`
}

func (g golden) keyPairs() (keys [][]byte) {
	for _, s := range g.Secrets {
		keys = append(keys, s.Base64)
	}
	return keys
}

func (g golden) config() movein.GorillaConfig {
	cfg := movein.GorillaConfig{KeyPairs: g.keyPairs(), JSON: strings.HasPrefix(g.Name, "json")}
	if strings.HasSuffix(g.Name, "maxage-3600") {
		cfg.MaxAge = time.Hour
	}
	return cfg
}

// eachGolden runs a test for each cookie in testdata, at the time when the cookie was made.
func eachGolden(t *testing.T, test func(*testing.T, golden)) {
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var file struct {
			System string
			Cases  []golden
		}
		require.NoError(t, json.Unmarshal(text, &file))
		require.NotEmpty(t, file.Cases)
		for _, g := range file.Cases {
			t.Run(file.System+"/"+g.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					time.Sleep(time.Until(g.MadeAt))
					test(t, g)
				})
			})
		}
	}
}

// decode opens a cookie as the old program does.
func decode(t *testing.T, g golden, cookie string) any {
	codecs := securecookie.CodecsFromPairs(g.keyPairs()...)
	if g.config().JSON {
		text := []byte{}
		for _, c := range codecs {
			c.(*securecookie.SecureCookie).SetSerializer(securecookie.NopEncoder{})
		}
		require.NoError(t, securecookie.DecodeMulti(g.Cookie, cookie, &text, codecs...))
		var vals map[string]any
		require.NoError(t, json.Unmarshal(text, &vals))
		delete(vals, "_handover")
		return vals
	}
	vals := map[any]any{}
	require.NoError(t, securecookie.DecodeMulti(g.Cookie, cookie, &vals, codecs...))
	delete(vals, "_handover")
	return vals
}

// The cookies of the old program open, and what is sealed again is the same for it, with each Go type.
func TestGolden(t *testing.T) {
	eachGolden(t, func(t *testing.T, g golden) {
		for _, types := range []movein.Types{nil, {"login_at": time.Time{}, "nums": []int{}, "user_id": 0}} {
			cfg := g.config()
			if cfg.Types = types; types != nil && cfg.JSON {
				continue
			}
			store := storeOver(t, cfg)
			rec, err := store.Load(t.Context(), g.Cookie, g.Value)
			require.NoError(t, err)
			require.JSONEq(t, string(g.Values), valuesOf(t, rec))
			age := cfg.MaxAge
			if age == 0 {
				age = 30 * 24 * time.Hour
			}
			made := g.MadeAt.Truncate(time.Second)
			require.Equal(t, made.UnixMicro(), rec.Version)
			require.Equal(t, made.UnixMilli(), rec.Created.UnixMilli())
			require.Equal(t, age, rec.Idle)
			require.Equal(t, made.Add(age).UnixMilli(), rec.Expires.UnixMilli())
			require.True(t, rec.Persistent && rec.CustomIdle)

			time.Sleep(time.Minute)
			rec.Version++
			sealed, err := store.Save(t.Context(), g.Cookie, rec, rec.Version-1)
			require.NoError(t, err)
			require.Equal(t, decode(t, g, g.Value), decode(t, g, sealed))
			again, err := store.Load(t.Context(), g.Cookie, sealed)
			require.NoError(t, err)
			require.Equal(t, rec.Token, again.Token)
			require.Equal(t, rec.Version, again.Version)
			require.Equal(t, rec.Expires.UnixMilli(), again.Expires.UnixMilli())
			require.Equal(t, valuesOf(t, rec), valuesOf(t, again))
			t.Logf("%d bytes, then %d", len(g.Value), len(sealed))

			_, err = store.Load(t.Context(), "other", g.Value)
			requireMiss(t, sessions.OutcomeTampered, err)
		}
		time.Sleep(31 * 24 * time.Hour)
		_, err := storeOver(t, g.config()).Load(t.Context(), g.Cookie, g.Value)
		requireMiss(t, sessions.OutcomeExpired, err)
	})
}

func requireMiss(t *testing.T, want sessions.Outcome, err error) {
	t.Helper()
	var miss *sessions.NotFoundError
	require.ErrorAs(t, err, &miss)
	require.Equal(t, want, miss.Outcome)
}

func storeOver(t testing.TB, cfg movein.GorillaConfig) *sessions.CookieStore {
	codec, err := movein.Gorilla(cfg)
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	return store
}

// valuesOf returns the values of a record as a JSON object, without the reserved one.
func valuesOf(t testing.TB, rec *sessions.Record) string {
	vals := map[string]json.RawMessage{}
	for key, text := range rec.Values() {
		if key != "_handover" {
			vals[key] = text
		}
	}
	text, err := json.Marshal(vals)
	require.NoError(t, err)
	return string(text)
}
