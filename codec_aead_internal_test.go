package sessions

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
)

// The vectors of the specification, c2sp.org/XAES-256-GCM.
func TestXAES_Vectors(t *testing.T) {
	for _, c := range []struct {
		key        byte
		data, want string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x, err := xaesOf(bytes.Repeat([]byte{c.key}, 32))
		require.NoError(t, err)
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		aead, err := x.message(nonce, make([]byte, xaesKey))
		require.NoError(t, err)
		require.Equal(t, c.want, hex.EncodeToString(aead.Seal(nil, nonce[gcmNonce:], []byte("XAES-256-GCM"), []byte(c.data))))
	}
}
