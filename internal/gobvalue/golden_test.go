package gobvalue_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/gobvalue"
)

// golden is a stream that another library stored for a real request.
type golden struct {
	MadeBy string `json:"made_by"`
	Case   string
	Stream []byte
	Values map[string]json.RawMessage
}

func goldenStreams(t testing.TB) (all []golden) {
	t.Helper()
	text, err := os.ReadFile("testdata/streams.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &all))
	require.GreaterOrEqual(t, len(all), 30)
	return all
}

// typeNames are the Go types that the program had which made the streams.
var typeNames = map[string]string{
	"user_id": "int", "visits": "int", "name": "string", "csrf": "string", "nums": "[]int", "prefs": "map[string]interface {}",
	"login_at": "time.Time", "_flash": "[]interface {}", "flash": "string", "__rememberMe": "bool", "7": "string",
}

// values returns the map of session values that is in a record.
func values(t *testing.T, record gobvalue.Value) gobvalue.Value {
	t.Helper()
	if record.Kind() != gobvalue.Struct {
		return record
	}
	deadline, ok := record.Field("Deadline")
	require.True(t, ok)
	at, ok := deadline.Time()
	require.True(t, ok)
	require.Equal(t, 2026, at.Year())
	m, ok := record.Field("Values")
	require.True(t, ok)
	return m
}

func TestParse_golden(t *testing.T) {
	for _, g := range goldenStreams(t) {
		t.Run(g.MadeBy+" "+g.Case, func(t *testing.T) {
			record, rest, err := gobvalue.Parse(g.Stream)
			require.NoError(t, err)
			require.Empty(t, rest)
			require.Empty(t, record.TypeName())

			m := values(t, record)
			require.Equal(t, gobvalue.Map, m.Kind())
			read := 0
			for e := range m.Entries() {
				if e.Key.TypeName() == "github.com/gofiber/fiber/v3/middleware/session.absExpirationKeyType" {
					require.Equal(t, gobvalue.Int, e.Key.Kind())
					require.Equal(t, gobvalue.Time, e.Value.Kind())
					continue // not a value of the handlers
				}
				name, err := e.Key.KeyText()
				require.NoError(t, err)
				got, err := e.Value.JSON()
				require.NoError(t, err)
				require.JSONEq(t, string(g.Values[name]), string(got), name)
				if e.Value.Kind() == gobvalue.Struct {
					require.Equal(t, "main.Prefs", e.Value.TypeName())
				} else {
					require.Equal(t, typeNames[name], e.Value.TypeName(), name)
					require.NoError(t, e.Value.CheckRestorable(nil), name)
				}
				read++
			}
			require.Len(t, g.Values, read)

			again, err := record.Encode()
			require.NoError(t, err)
			same, rest, err := gobvalue.Parse(again)
			require.NoError(t, err)
			require.Empty(t, rest)
			require.True(t, record.Equal(same))
			require.LessOrEqual(t, len(again), len(g.Stream)+4)
		})
	}
}

// The types of the program that made the streams, under the names that they had there.
type (
	mainPrefs            Prefs
	absExpirationKeyType int
)

func init() {
	gob.RegisterName("main.Prefs", mainPrefs{})
	gob.RegisterName("github.com/gofiber/fiber/v3/middleware/session.absExpirationKeyType", absExpirationKeyType(0))
}

// decodeRecord returns the session values of a record as the other library decodes it.
func decodeRecord(t *testing.T, stream []byte) map[any]any {
	t.Helper()
	var scs struct {
		Deadline time.Time
		Values   map[string]any
	}
	m := map[any]any{}
	if gob.NewDecoder(bytes.NewReader(stream)).Decode(&m) == nil {
		return m
	}
	require.NoError(t, gob.NewDecoder(bytes.NewReader(stream)).Decode(&scs))
	require.False(t, scs.Deadline.IsZero())
	for name, v := range scs.Values {
		m[name] = v
	}
	return m
}

// The other library reads a record that Encode wrote: values that nobody changed, and a new one among them.
func TestEncode_forTheOtherLibrary(t *testing.T) {
	for _, g := range goldenStreams(t) {
		t.Run(g.MadeBy+" "+g.Case, func(t *testing.T) {
			record, _, err := gobvalue.Parse(g.Stream)
			require.NoError(t, err)
			m := values(t, record)
			entries := []gobvalue.Entry{}
			for e := range m.Entries() {
				entries = append(entries, e)
			}
			var visit any = map[string]any{"page": "/", "at": moment}
			v, err := gobvalue.Of(&visit)
			require.NoError(t, err)
			m, err = m.WithEntries(append(entries, gobvalue.Entry{Key: gobvalue.StringValue("visit"), Value: v}))
			require.NoError(t, err)

			if record.Kind() == gobvalue.Struct {
				record, err = record.WithField("Values", m)
				require.NoError(t, err)
				deadline, err := gobvalue.Of(moment)
				require.NoError(t, err)
				record, err = record.WithField("Deadline", deadline)
				require.NoError(t, err)
			} else {
				record = m
			}
			stream, err := record.Encode()
			require.NoError(t, err)
			got := decodeRecord(t, stream)
			require.Equal(t, visit, got["visit"])
			delete(got, "visit")
			require.Equal(t, decodeRecord(t, g.Stream), got)
		})
	}
}
