package sessions_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// codecKind is the constructor of a codec.
type codecKind func(...[]byte) (sessions.Codec, error)

var codecKinds = map[string]codecKind{"securecookie": sessions.NewSecureCookieCodec, "AEAD": sessions.NewAEADCodec}

func (k codecKind) with(t testing.TB, secrets ...[]byte) sessions.Codec {
	t.Helper()
	codec, err := k(secrets...)
	require.NoError(t, err)
	return codec
}

// eachCodec runs a test for both codecs.
func eachCodec(t *testing.T, test func(*testing.T, codecKind)) {
	for name, kind := range codecKinds {
		t.Run(name, func(t *testing.T) { test(t, kind) })
	}
}

func TestCodecSealsAndOpens(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		codec := kind.with(t, secretA)
		for _, plain := range [][]byte{[]byte("x"), bytes.Repeat([]byte("long "), 10000), {0, 255, '|', '\n'}} {
			kept := bytes.Clone(plain)
			one, err := codec.Seal("session", plain)
			require.NoError(t, err)
			require.True(t, bytes.Equal(kept, plain), "Seal does not change its input")
			two, err := codec.Seal("session", plain)
			require.NoError(t, err)
			require.NotEqual(t, one, two, "equal texts must not be seen to be equal")
			got, err := codec.Open("session", one)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plain, got))
			for i := range len(one) {
				require.True(t, one[i] > ' ' && one[i] < 0x7f && !strings.ContainsRune(`",;\`, rune(one[i])), "not a cookie value: %q", one)
			}
			if len(plain) > 1 {
				raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(one, "="))
				require.NoError(t, err)
				require.NotContains(t, string(raw), string(plain), "encrypted")
			}
		}
	})
}

// securecookie seals nothing into what it does not open.
func TestCodecRefusesToSealNothing(t *testing.T) {
	_, err := codecWith(t, secretA).Seal("session", nil)
	require.Error(t, err)
}

// Behaviour 26.
func TestP13_SecretsRotate(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		a, b := kind.with(t, secretA), kind.with(t, secretB)
		ba, ab := kind.with(t, secretB, secretA), kind.with(t, secretA, secretB)
		old, err := a.Seal("session", []byte("plain"))
		require.NoError(t, err)
		for name, c := range map[string]struct {
			codec sessions.Codec
			opens bool
		}{
			"the same": {kind.with(t, secretA), true}, "second": {ba, true}, "first of two": {ab, true}, "another": {b, false},
			"joined": {sessions.Codecs(b, a), true}, "joined thrice": {sessions.Codecs(b, sessions.Codecs(b, b), sessions.Codecs(b, a)), true},
			"joined, another": {sessions.Codecs(b, b), false}, "joined alone": {sessions.Codecs(a), true},
		} {
			plain, err := c.codec.Open("session", old)
			if !c.opens {
				require.Error(t, err, name)
				require.NotContains(t, err.Error(), old, name)
				require.Nil(t, plain, name)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, "plain", string(plain), name)
		}
		fresh, err := sessions.Codecs(ba, a).Seal("session", []byte("plain"))
		require.NoError(t, err)
		_, err = b.Open("session", fresh)
		require.NoError(t, err, "the first seals")
		_, err = a.Open("session", fresh)
		require.Error(t, err)

		b1 := newSite(t, storeOver(t, a)).browser()
		b1.set("k", 1)
		sealedByA := b1.cookie()
		next := newSite(t, storeOver(t, ba)).browser().hold(sealedByA)
		require.Equal(t, "1", next.get("k"))
		require.Equal(t, sealedByA, next.cookie(), "reading writes nothing")
		next.set("k", 2)
		_, err = b.Open("session", next.cookie())
		require.NoError(t, err, "the next write seals with the first secret")
	})
}

// A secret or a codec changes in two deploys, (old, new) and then (new, old): however far each of them has got, every
// instance opens what the others seal. One deploy logs out the users whom an instance serves that has not restarted.
func TestP13_SecretsRotateInTwoDeploys(t *testing.T) {
	type change struct{ old, both, next, after sessions.Codec }
	changes := map[string]change{}
	for name, kind := range codecKinds {
		changes["secret of "+name] = change{kind.with(t, secretA), kind.with(t, secretA, secretB), kind.with(t, secretB, secretA), kind.with(t, secretB)}
	}
	older, newer := codecWith(t, secretA), codecKind(sessions.NewAEADCodec).with(t, secretA)
	changes["codec"] = change{older, sessions.Codecs(older, newer), sessions.Codecs(newer, older), newer}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			// deploy restarts one instance after the other. A browser that reaches them in turn counts its visits after
			// each restart; deploy reports whether it is still known.
			deploy := func(next ...sessions.Codec) bool {
				fleet, cookie, n := []sessions.Codec{c.old, c.old}, "", 0
				for _, codec := range next {
					for i := range fleet {
						fleet[i] = codec
						for visit := range 2 * len(fleet) {
							b := newSite(t, storeOver(t, fleet[visit%len(fleet)])).browser().hold(cookie)
							before := n
							b.use(addCount)
							n = b.count()
							if n <= before {
								return false
							}
							cookie = b.cookie()
						}
					}
				}
				return true
			}
			require.True(t, deploy(c.both, c.next, c.after), "two deploys, and a third that drops the old one")
			require.False(t, deploy(c.next), "one deploy")
			require.False(t, deploy(c.both, c.after), "the first deploy, and then the old one is dropped")
		})
	}
}

// Behaviour 25.
func TestP13_SealsAreBoundToTheirName(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		store := storeOver(t, kind.with(t, secretA))
		for _, pair := range [][2]string{{"session", "session2"}, {"session", "Session"}, {"a", "__Host-a"}, {"a", "a|1"}, {"a|1", "a"}, {"session", ""}} {
			for _, p := range [][2]string{pair, {pair[1], pair[0]}} {
				token := sealRecord(t, store, p[0], hourRecord("1"))
				_, err := store.Load(context.Background(), p[0], token)
				require.NoError(t, err)
				requireOutcome(t, sessions.OutcomeTampered, store, p[1], token)
			}
		}
	})
}

// Behaviour 24, for every bit.
func TestP13_EveryFlippedBitIsRefused(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		store := storeOver(t, kind.with(t, secretA))
		token := sealRecord(t, store, "session", hourRecord(`"value"`))
		require.Less(t, len(token), 400)
		for i := range len(token) {
			for bit := range 8 {
				changed := []byte(token)
				changed[i] ^= 1 << bit
				requireOutcome(t, sessions.OutcomeTampered, store, "session", string(changed))
			}
		}
		for i := 1; i < len(token); i++ { // shorter, from either end
			requireOutcome(t, sessions.OutcomeTampered, store, "session", token[:i])
			requireOutcome(t, sessions.OutcomeTampered, store, "session", token[i:])
		}
		encoding := base64.URLEncoding
		if !strings.HasSuffix(token, "=") {
			encoding = base64.RawURLEncoding
		}
		raw, err := encoding.DecodeString(token)
		require.NoError(t, err)
		for i := range raw { // and every byte below the base64
			for _, v := range []byte{0, '|', '0', raw[i] + 1, ^raw[i]} {
				if raw[i] != v {
					changed := bytes.Clone(raw)
					changed[i] = v
					requireOutcome(t, sessions.OutcomeTampered, store, "session", encoding.EncodeToString(changed))
				}
			}
		}
	})
}

// A sealed record has one text: what is remembered of a cookie (as in a log of refused ones) cannot be evaded.
func TestP13_ASealHasOneText(t *testing.T) { eachCodec(t, testASealHasOneText) }

func testASealHasOneText(t *testing.T, kind codecKind) {
	store := storeOver(t, kind.with(t, secretA))
	seen := map[int]bool{}
	for n := 0; len(seen) < 3; n++ {
		token := sealRecord(t, store, "session", hourRecord(`"`+strings.Repeat("x", n)+`"`))
		padding := -len(token) & 3 // written or not
		if strings.HasSuffix(token, "=") {
			padding = len(token) - len(strings.TrimRight(token, "="))
		}
		if seen[padding] {
			continue
		}
		seen[padding] = true
		body := strings.TrimRight(token, "=")
		texts := []string{
			token + "=", token + "==", token + "\n", "\n" + token, token + " ", " " + token, token[:40] + "\r\n" + token[40:],
			token + "\x00", token + "A", token + "AAAA", "A" + token, `"` + token + `"`, strings.ToLower(token), strings.ToUpper(token),
		}
		if padding > 0 {
			texts = append(texts, body+"%3D")
			if body != token {
				texts = append(texts, body)
			}
			last := strings.IndexByte(alphabet, body[len(body)-1])
			loose := map[int]int{1: 3, 2: 15}[padding] // the bits of the last character that no byte uses
			for bits := 1; bits <= loose; bits++ {
				texts = append(texts, body[:len(body)-1]+string(alphabet[last|bits])+token[len(body):])
			}
		}
		if std := strings.NewReplacer("-", "+", "_", "/").Replace(token); std != token {
			texts = append(texts, std)
		}
		for _, text := range texts {
			requireOutcome(t, sessions.OutcomeTampered, store, "session", text)
		}
	}
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func TestCodecIsSafeForConcurrentUse(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		codec := sessions.Codecs(kind.with(t, secretB, secretA), kind.with(t, secretA))
		plain := []byte("the same bytes for all")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					sealed, err := codec.Seal("session", plain)
					if err == nil {
						var got []byte
						if got, err = codec.Open("session", sealed); err == nil && !bytes.Equal(got, plain) {
							err = errors.New("another text")
						}
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// Behaviour 27.
func TestP16_SecretMistakes(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		secretA := sha256.Sum256([]byte("one")) // unlike any word of a message
		secretB := sha256.Sum256([]byte("two"))
		short := []byte("q7#Lw!x0Vz@8kR$tB2^mN5&yH1*jF9(")
		require.Len(t, short, 31)
		for _, c := range []struct {
			name    string
			secrets [][]byte
			want    []string
		}{
			{"none", nil, []string{"secrets"}},
			{"empty list", [][]byte{}, []string{"secrets"}},
			{"nil", [][]byte{nil}, []string{"secrets[0]"}},
			{"empty", [][]byte{{}}, []string{"secrets[0]"}},
			{"short", [][]byte{short}, []string{"secrets[0]"}},
			{"short second", [][]byte{secretA[:], short}, []string{"secrets[1]"}},
			{"twice", [][]byte{secretA[:], secretA[:]}, []string{"secrets[1]"}},
			{"twice with another between", [][]byte{secretA[:], secretB[:], secretA[:]}, []string{"secrets[2]"}},
			{"all at once", [][]byte{short, secretA[:], nil, secretA[:], secretB[:], short}, []string{"secrets[0]", "secrets[2]", "secrets[3]", "secrets[5]"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				codec, err := kind(c.secrets...)
				require.Nil(t, codec)
				require.Equal(t, c.want, configFields(t, err))
				for _, s := range c.secrets {
					requireNothingOf(t, err.Error(), s)
				}
			})
		}
		_, err := kind(append(short, '.'))
		require.NoError(t, err, "32 bytes are enough")

		// The secret is copied: changing it afterwards changes nothing.
		secret := bytes.Clone(secretA[:])
		codec := kind.with(t, secret)
		clear(secret)
		sealed, err := codec.Seal("session", []byte("x"))
		require.NoError(t, err)
		_, err = kind.with(t, secretA[:]).Open("session", sealed)
		require.NoError(t, err)
	})
}

// A secret of few different bytes is a passphrase, a placeholder or an empty buffer: anyone who has one cookie can guess it.
func TestP16_WeakSecrets(t *testing.T) {
	eachCodec(t, func(t *testing.T, kind codecKind) {
		good := sha256.Sum256([]byte("one"))
		for _, c := range []struct {
			name    string
			secrets [][]byte
			want    []string
		}{
			{"one byte", [][]byte{bytes.Repeat([]byte("a"), 32)}, []string{"secrets[0]"}},
			{"zeros", [][]byte{make([]byte, 64)}, []string{"secrets[0]"}},
			{"seven", [][]byte{bytes.Repeat([]byte("abcdefg"), 5)}, []string{"secrets[0]"}},
			{"seven, in no order", [][]byte{[]byte("gfedcbagfedcbaabcdefgabcdefgaaaa")}, []string{"secrets[0]"}},
			{"seven, with zero and 255", [][]byte{bytes.Repeat([]byte{0, 1, 2, 3, 253, 254, 255}, 5)}, []string{"secrets[0]"}},
			{"long", [][]byte{bytes.Repeat([]byte("secret"), 1000)}, []string{"secrets[0]"}},
			{"the second", [][]byte{good[:], bytes.Repeat([]byte("changeme"), 4)}, []string{"secrets[1]"}},
			{"with others", [][]byte{make([]byte, 31), good[:], make([]byte, 32), good[:]}, []string{"secrets[0]", "secrets[2]", "secrets[3]"}},
			{"eight", [][]byte{bytes.Repeat([]byte("abcdefgh"), 4)}, nil},
			{"eight, with zero and 255", [][]byte{bytes.Repeat([]byte{0, 1, 2, 3, 252, 253, 254, 255}, 4)}, nil},
			{"hexadecimal", [][]byte{[]byte(hex.EncodeToString(good[:]))}, nil},
			{"base64", [][]byte{[]byte(base64.StdEncoding.EncodeToString(good[:]))}, nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				codec, err := kind(c.secrets...)
				if c.want == nil {
					require.NoError(t, err)
					return
				}
				require.Nil(t, codec)
				require.Equal(t, c.want, configFields(t, err))
				require.Contains(t, err.Error(), "openssl rand -base64 32")
				for _, s := range c.secrets {
					requireNothingOf(t, err.Error(), s)
				}
			})
		}
	})
}

func TestP16_CodecMistakes(t *testing.T) {
	a := codecWith(t, secretA)
	for name, codec := range map[string]sessions.Codec{
		"nil": nil, "Codecs(nil)": sessions.Codecs(nil), "nil older": sessions.Codecs(a, nil), "nil first": sessions.Codecs(nil, a),
		"nil deep": sessions.Codecs(a, sessions.Codecs(a, nil)), "nil pointer": (*hexCodec)(nil), "nil pointer, older": sessions.Codecs(a, (*hexCodec)(nil)),
	} {
		store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
		require.Nil(t, store, name)
		require.Equal(t, []string{"Codec"}, configFields(t, err), name)
	}
}

// requireNothingOf checks that a text holds no part of a secret in any usual spelling.
func requireNothingOf(t testing.TB, text string, secret []byte) {
	t.Helper()
	if len(secret) < 8 {
		return
	}
	for i := 0; i+8 <= len(secret); i++ {
		part := secret[i : i+8]
		for _, s := range []string{string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), fmt.Sprint(part)} {
			require.False(t, strings.Contains(text, s), "a part of a secret")
		}
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for skip := range 3 {
			require.False(t, strings.Contains(text, enc.EncodeToString(secret[skip:])[:10]), "a part of a secret")
		}
	}
}

// hexCodec is somebody's own codec: hexadecimal, without a seal. Tests only.
type hexCodec struct {
	make func(string) string
	err  error
}

func (c *hexCodec) Seal(name string, plain []byte) (string, error) {
	text := hex.EncodeToString(append([]byte(name+"|"), plain...))
	if c.make != nil {
		text = c.make(text)
	}
	return text, c.err
}

func (c *hexCodec) Open(name, sealed string) ([]byte, error) {
	b, err := hex.DecodeString(sealed)
	if err != nil {
		return nil, err
	}
	plain, ok := bytes.CutPrefix(b, []byte(name+"|"))
	if !ok {
		return nil, errors.New("another name: " + sealed)
	}
	return plain, nil
}

func TestThirdPartyCodec(t *testing.T) {
	b := newSite(t, storeOver(t, &hexCodec{})).browser()
	b.set("k", "v")
	require.Equal(t, `"v"`, b.get("k"))
	raw, err := hex.DecodeString(b.cookie())
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(raw), `session|["t`), "%s", raw)

	moved := newSite(t, storeOver(t, sessions.Codecs(codecWith(t, secretA), &hexCodec{}))).browser().hold(b.cookie())
	require.Equal(t, `"v"`, moved.get("k"))
	moved.set("k", "w")
	_, err = codecWith(t, secretA).Open("session", moved.cookie())
	require.NoError(t, err)
}

// securecookie's own clock of 30 days is off: the record's expiry alone counts.
func TestTheSealHasNoClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := cookieStoreWith(t, secretA)
		r := hourRecord("1")
		year := 366 * 24 * time.Hour
		r.Expires, r.Deadline = r.Created.Add(year), r.Created.Add(year)
		token := sealRecord(t, store, "session", r)
		time.Sleep(year - time.Millisecond)
		_, err := store.Load(t.Context(), "session", token)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		requireOutcome(t, sessions.OutcomeExpired, store, "session", token)
		_, err = store.Save(t.Context(), "session", r, r.Version)
		require.ErrorIs(t, err, sessions.ErrGone, "what has expired is not sealed again")
	})
	// Nor does a seal from the future matter, as when the clocks of replicas differ.
	var future string
	store := cookieStoreWith(t, secretA)
	r := hourRecord("1") // of the real time, which is after that of the bubble
	synctest.Test(t, func(t *testing.T) { future = sealRecord(t, store, "session", r) })
	_, err := store.Load(t.Context(), "session", future)
	require.NoError(t, err)
}

// From one codec to the other: what the older has sealed opens, and is sealed by the newer at the next write.
func TestP13_CodecsChange(t *testing.T) {
	for from, old := range codecKinds {
		for to, next := range codecKinds {
			if from == to {
				continue
			}
			b := newSite(t, storeOver(t, old.with(t, secretA))).browser()
			b.set("k", 1)
			during := newSite(t, storeOver(t, sessions.Codecs(next.with(t, secretA), old.with(t, secretA)))).browser().hold(b.cookie())
			require.Equal(t, "1", during.get("k"))
			during.set("k", 2)
			after := newSite(t, storeOver(t, next.with(t, secretA))).browser().hold(during.cookie())
			require.Equal(t, "2", after.get("k"), "%s to %s", from, to)
			require.Empty(t, newSite(t, storeOver(t, old.with(t, secretA))).browser().hold(during.cookie()).get("k"))
		}
	}
}

func TestP13_SecretsRotate_B26(t *testing.T) {
	oldSite := newSite(t, cookieStoreWith(t, secretA))
	b := oldSite.browser()
	b.set("user", 42)
	first := b.cookie()

	rotated := newSite(t, cookieStoreWith(t, secretB, secretA))
	b2 := rotated.browser().hold(first)
	r := b2.use(func(s sessions.Session) { require.Equal(t, "42", value(t, s, "user")) })
	require.Empty(t, r.header.Values("Set-Cookie"))
	b2.set("user", 43)
	second := b2.cookie()

	newOnly := newSite(t, cookieStoreWith(t, secretB))
	require.Equal(t, "43", newOnly.browser().hold(second).get("user"))
	require.Equal(t, "", newOnly.browser().hold(first).get("user"))
	require.Equal(t, "", oldSite.browser().hold(second).get("user"))
}

func TestP16_BadSecrets_B27(t *testing.T) {
	short := []byte("only thirty-one bytes of secret")
	require.Len(t, short, 31)
	for _, c := range []struct {
		name    string
		secrets [][]byte
		fields  []string
	}{
		{"none", nil, []string{"secrets"}},
		{"nil", [][]byte{nil}, []string{"secrets[0]"}},
		{"short", [][]byte{short}, []string{"secrets[0]"}},
		{"equal twice", [][]byte{secretA, secretA}, []string{"secrets[1]"}},
		{"all at once", [][]byte{short, secretA, {}, secretA}, []string{"secrets[0]", "secrets[2]", "secrets[3]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			codec, err := sessions.NewSecureCookieCodec(c.secrets...)
			require.Nil(t, codec)
			require.Equal(t, c.fields, configFields(t, err))
			for _, secret := range c.secrets {
				if len(secret) > 0 {
					require.NotContains(t, err.Error(), string(secret))
				}
			}
		})
	}
}
