package sessions_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

func TestP11_PrintingARecord(t *testing.T) {
	rec := hourRecord()
	rec.SetValue("card", []byte(`"4000 1234"`))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{rec, *rec, []*sessions.Record{rec}, struct{ R *sessions.Record }{rec}} {
			text := fmt.Sprintf(verb, v)
			require.NotContains(t, text, rec.Token, verb)
			require.NotContains(t, text, "4000", verb)
		}
	}
	require.Equal(t, "sessions.Record("+rec.ID+")", fmt.Sprint(rec))
}
