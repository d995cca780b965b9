package movein_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/movein"
)

// Whatever is in a cookie with a valid MAC, Open does not panic, and what it returns can be sealed again without a change.
func FuzzOpen(f *testing.F) {
	cfg := plainConfig()
	cfg.Types = movein.Types{"prefs": Prefs{}, "user": int64(0)}
	gobStore := storeOver(f, cfg)
	cfg.JSON, cfg.Types = true, nil
	jsonStore := storeOver(f, cfg)
	for _, vals := range []any{
		map[any]any{"user": 42, "prefs": Prefs{"dark", 7}, "at": time.Unix(1, 0), 7: int8(1), "f": 2.5, "x": opaque{1}, "c": 1i, "nil": nil},
		map[any]any{"_handover": "AAAAAAAAAAAAAAAAAAAAAA00000000000000000000000000000000000000------------------------0"},
		map[string]any{"a": []any{map[string]any{"b": 1}}}, []string{"a"}, 7,
	} {
		var b bytes.Buffer
		require.NoError(f, gob.NewEncoder(&b).Encode(vals))
		f.Add(b.Bytes(), false)
	}
	f.Add([]byte(`{"user":42,"a":{"b":[1.50,"<"]},"_handover":7}`), true)
	f.Fuzz(func(t *testing.T, plain []byte, isJSON bool) {
		store := gobStore
		if isJSON {
			store = jsonStore
		}
		if len(plain) == 0 || len(plain) > 2200 {
			return
		}
		rec, err := store.Load(t.Context(), cookieName, sealPlain(t, plain))
		var miss *sessions.NotFoundError
		if err != nil {
			require.ErrorAs(t, err, &miss)
			require.Contains(t, []sessions.Outcome{sessions.OutcomeMalformed, sessions.OutcomeUndecodable, sessions.OutcomeExpired}, miss.Outcome)
			return
		}
		text, err := store.Save(t.Context(), cookieName, rec, rec.Version)
		if errors.Is(err, sessions.ErrTooLarge) {
			return
		}
		require.NoError(t, err)
		again, err := store.Load(t.Context(), cookieName, text)
		require.NoError(t, err)
		require.Equal(t, valuesOf(t, rec), valuesOf(t, again))
		require.Equal(t, header(t, rec), header(t, again))
	})
}

// header returns the stored form of a record without its values.
func header(t *testing.T, rec *sessions.Record) string {
	text, err := rec.MarshalJSON()
	require.NoError(t, err)
	var parts []json.RawMessage
	require.NoError(t, json.Unmarshal(text, &parts))
	return string(parts[0])
}
