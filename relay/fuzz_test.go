package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

// The golden vectors are what any version must accept or refuse. They are text:
//
//	comment: what it shows
//	expect: accepted, or the outcome with which it is refused
//
//	body
//
// A body is everything after the first empty line but for the last line break, as a Go string with quotes.
//
// testdata/tokens has tokens, with "algorithm". All verifiers have the keys k1 and k2 of testdata/keys.json, whose private
// parts are edKey(1) and ecKey(1), and the clock says goldenNow.
//
// testdata/keysets has JWK sets; expect lists the IDs of the keys that can be used, or is "refused".
var update = flag.Bool("update", false, "write the golden vectors that are missing; what is there is never written again")

var goldenNow = time.Unix(1_800_000_000, 0)

type vector struct {
	name, comment, expect, algorithm, body string
}

func (v vector) text() string {
	head := "comment: " + v.comment + "\nexpect: " + v.expect + "\n"
	if v.algorithm != "" {
		head += "algorithm: " + v.algorithm + "\n"
	}
	return head + "\n" + strconv.QuoteToASCII(v.body) + "\n"
}

// loadVectors reads all vectors of one kind; that there are none is a failure.
func loadVectors(tb testing.TB, kind string) (all []vector) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", kind, "*.txt"))
	require.NoError(tb, err)
	require.NotEmpty(tb, files, "no golden vectors in testdata/%s: a checkout must have them", kind)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(tb, err)
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) // as git may have made of it
		head, body, ok := strings.Cut(string(text), "\n\n")
		require.True(tb, ok, file)
		v := vector{name: strings.TrimSuffix(filepath.Base(file), ".txt")}
		for line := range strings.Lines(head) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch key {
			case "comment":
				v.comment = value
			case "expect":
				v.expect = value
			case "algorithm":
				v.algorithm = value
			default:
				tb.Fatalf("%s: %q", file, line)
			}
		}
		v.body, err = strconv.Unquote(strings.TrimSuffix(body, "\n"))
		require.NoError(tb, err, file)
		require.NotEmpty(tb, v.comment, file)
		require.NotEmpty(tb, v.expect, file)
		all = append(all, v)
	}
	return all
}

// addMissing writes vectors that are not there, with -update.
func addMissing(t *testing.T, kind string, make func(add func(vector))) {
	t.Helper()
	if !*update {
		return
	}
	make(func(v vector) {
		file := filepath.Join("testdata", kind, v.name+".txt")
		if _, err := os.Stat(file); err == nil {
			return
		}
		require.NoError(t, os.WriteFile(file, []byte(v.text()), 0o644))
	})
}

// fileName makes one of a description.
func fileName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '-' }), "-")
}

// goldenVerifiers are those that the vectors are for: one for each algorithm, with keys for both.
func goldenVerifiers(tb testing.TB) map[relay.Algorithm]*relay.Verifier {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "keys.json"))
	require.NoError(tb, err)
	keys, err := relay.ParseKeys(text)
	require.NoError(tb, err)
	require.Len(tb, keys, 2)
	all := map[relay.Algorithm]*relay.Verifier{}
	for _, a := range algorithms {
		all[a], err = relay.NewVerifier(relay.VerifierConfig{
			Issuer: issuerName, TrustDomain: trustDomain, Algorithm: a, Logger: slog.New(slog.DiscardHandler),
			Keys: keySet(tb, slices.Collect(maps.Values(keys))...), Observe: func(_ context.Context, e sessions.Event) { watch.event(e) },
		})
		require.NoError(tb, err)
	}
	return all
}

func TestGolden_Tokens(t *testing.T) {
	addMissing(t, "tokens", func(add func(vector)) {
		for _, a := range algorithms {
			m := newMint(t, a)
			m.now = goldenNow
			if a == relay.ES256 {
				m.kid = "k2"
			}
			good := func(name, comment string, claims any) {
				add(vector{fileName(string(a) + " good " + name), comment, "accepted", string(a), m.with(m.header(), claims)})
			}
			good("all", "all that a token says", m.claims())
			good("no values", "nothing is shared", m.claims().with("tctx", missing))
			good("a later version", "a claim that this version does not know", m.claims().with("req_wl", "edge"))
			good("the longest life", "five minutes", m.claims().with("exp", goldenNow.Add(relay.MaxLifetime).Unix()))
			good("made a moment ahead", "the clock of the edge is five seconds ahead", m.claims().with("iat", goldenNow.Add(relay.ClockSkew).Unix()))
			good("odd values", "values of all kinds", m.claims().with("tctx", json.RawMessage(`{"":null,"n":12345678901234567890,"s":"\u003c\u2028\ud83d\ude00","d":{"a":[1,{"a":2}]}}`)))
			for _, r := range refusals() {
				if r.name == "kid in another case" || r.name == "over the size limit" || a == relay.ES256 && !slices.Contains(es256Vectors, r.name) {
					continue
				}
				token := r.make(m)
				add(vector{fileName(string(a) + " bad " + r.name), r.name, string(r.outcome), string(a), token})
			}
		}
	})
	verifiers := goldenVerifiers(t)
	seen := map[string]int{}
	for _, v := range loadVectors(t, "tokens") {
		t.Run(v.name, func(t *testing.T) {
			seen[v.expect+" "+v.algorithm]++
			for range 2 { // and from the cache
				err := verifiers[relay.Algorithm(v.algorithm)].VerifyAt(t.Context(), v.body, goldenNow)
				if v.expect == "accepted" {
					require.NoError(t, err)
					continue
				}
				var refused *relay.TokenError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, v.expect, string(refused.Outcome))
			}
			for a, other := range verifiers {
				if string(a) != v.algorithm {
					require.Error(t, other.VerifyAt(t.Context(), v.body, goldenNow), "at the other algorithm")
				}
			}
		})
	}
	for _, a := range algorithms {
		for _, o := range []string{"accepted", "malformed", "tampered", "undecodable", "expired", "unknown"} {
			require.NotZero(t, seen[o+" "+string(a)], "%s %s", o, a)
		}
	}
}

// es256Vectors are the ones that the other algorithm has as files as well: for the rest it makes no difference.
var es256Vectors = []string{"no exp", "exp now", "another issuer", "another audience", "alg none without a signature", "another key under the same kid", "no signature",
	"the signature cut", "the signature with a byte more", "the signature of zeros", "trailing bits in the signature",
	"kid unknown", "no typ", "b64 false, as RFC 7797 signs it", "ALG as well", "exp twice"}

func TestGolden_KeySets(t *testing.T) {
	addMissing(t, "keysets", func(add func(vector)) {
		ed, ec := jwk(t, "k1", edKey(1)), jwk(t, "k2", ecKey(t, 1))
		foreign := object{"kty": "RSA", "kid": "r", "n": b64(strings.Repeat("n", 256)), "e": "AQAB"}
		for _, v := range []vector{
			{name: "both", comment: "a key for each algorithm", expect: "k1 k2", body: jwks(t, ed, ec)},
			{name: "with-use-and-alg", comment: "as the edge publishes them", expect: "k1 k2", body: jwks(t, ed.with("use", "sig").with("alg", "EdDSA"), ec.with("use", "sig").with("alg", "ES256"))},
			{name: "foreign", comment: "an RSA key is ignored", expect: "k1", body: jwks(t, foreign, ed)},
			{name: "only-foreign", comment: "no key that can be used", expect: "refused", body: jwks(t, foreign)},
			{name: "symmetric", comment: "a secret is never a key, whatever it says", expect: "k1", body: jwks(t, object{"kty": "oct", "kid": "s", "alg": "EdDSA", "k": b64(strings.Repeat("k", 32))}, ed)},
			{name: "private", comment: "nor is a private key", expect: "k2", body: jwks(t, ed.with("d", b64(strings.Repeat("d", 32))), ec)},
			{name: "encryption", comment: "nor one for encryption", expect: "k2", body: jwks(t, ed.with("use", "enc"), ec)},
			{name: "duplicate", comment: "two keys of one ID", expect: "refused", body: jwks(t, ed, ec.with("kid", "k1"))},
			{name: "keys-twice", comment: "two lists of keys", expect: "refused", body: `{"keys":[` + asJSON(t, ed) + `],"keys":[` + asJSON(t, ec) + `]}`},
			{name: "off-the-curve", comment: "no point of P-256", expect: "k1", body: jwks(t, ed, ec.with("y", ec["x"]))},
			{name: "p384", comment: "another curve", expect: "k1", body: jwks(t, ed, ec.with("crv", "P-384"))},
			{name: "no-kid", comment: "a key without an ID", expect: "k2", body: jwks(t, ed.with("kid", missing), ec)},
			{name: "empty", comment: "an empty list", expect: "refused", body: `{"keys":[]}`},
			{name: "one-key", comment: "a key and not a set", expect: "refused", body: asJSON(t, ed)},
			{name: "not-json", comment: "a page", expect: "refused", body: "<!doctype html>"},
			{name: "nothing", comment: "an empty answer", expect: "refused", body: ""},
		} {
			add(v)
		}
	})
	for _, v := range loadVectors(t, "keysets") {
		t.Run(v.name, func(t *testing.T) {
			keys, err := relay.ParseKeys([]byte(v.body))
			if v.expect == "refused" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, v.expect, strings.Join(slices.Sorted(maps.Keys(keys)), " "))
		})
	}
}

var outcomes = []sessions.Outcome{malformed, tampered, undecodable, expired, unknown}

// FuzzVerify passes any bytes as the header. Only what the edge has issued is accepted.
func FuzzVerify(f *testing.F) {
	verifiers := goldenVerifiers(f)
	issued := map[string]bool{}
	for _, v := range loadVectors(f, "tokens") {
		f.Add(v.body)
		if v.expect == "accepted" {
			issued[v.body] = true
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		for a, v := range verifiers {
			first := v.VerifyAt(t.Context(), token, goldenNow)
			again := v.VerifyAt(t.Context(), token, goldenNow)
			require.Equal(t, first, again, "the cache changes nothing")
			if first == nil {
				require.True(t, issued[token], "%s: accepted, but not issued", a)
			} else {
				requireTokenError(t, first, token)
			}
			// As a header, at today's date, nothing of this is good.
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header["Txn-Token"] = []string{token}
			w := httptest.NewRecorder()
			v.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") })).ServeHTTP(w, r)
			require.Equal(t, http.StatusUnauthorized, w.Code)
			require.Equal(t, "Unauthorized\n", w.Body.String())
		}
	})
}

func requireTokenError(t *testing.T, err error, token string) {
	t.Helper()
	var refused *relay.TokenError
	if !errors.As(err, &refused) || !slices.Contains(outcomes, refused.Outcome) || refused.Detail == "" {
		t.Fatalf("%#v", err)
	}
	for i := 0; i+24 <= len(token); i += 8 {
		if strings.Contains(err.Error(), token[i:i+24]) {
			t.Fatalf("%q is in %q", token[i:i+24], err)
		}
	}
}

// FuzzSigned passes any bytes as the header and the claims of a token that is signed with the right key: what is behind the
// signature. A reader that knows nothing of ours must agree to all that is accepted.
func FuzzSigned(f *testing.F) {
	v := goldenVerifiers(f)[relay.EdDSA]
	key := edKey(1)
	for _, g := range loadVectors(f, "tokens") {
		if parts := strings.Split(g.body, "."); len(parts) == 3 {
			header, err1 := rawBase64(parts[0])
			payload, err2 := rawBase64(parts[1])
			if err1 == nil && err2 == nil {
				f.Add(header, payload)
			}
		}
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		input := b64(header) + "." + b64(payload)
		token := input + "." + b64(string(signature(t, key, input)))
		err := v.VerifyAt(t.Context(), token, goldenNow)
		if err != nil {
			requireTokenError(t, err, token)
			return
		}
		var h map[string]any
		require.NoError(t, json.Unmarshal([]byte(header), &h))
		require.Equal(t, map[string]any{"alg": "EdDSA", "typ": "txntoken+jwt", "kid": "k1"}, h)
		d := json.NewDecoder(strings.NewReader(payload))
		d.UseNumber()
		var c map[string]any
		require.NoError(t, d.Decode(&c))
		require.Equal(t, issuerName, c["iss"])
		require.Equal(t, trustDomain, c["aud"])
		for _, name := range []string{"sub", "sid", "txn"} {
			require.NotEmpty(t, c[name], name)
		}
		number := func(name string) int64 {
			n, err := strconv.ParseInt(fmt.Sprint(c[name]), 10, 64)
			require.NoError(t, err, name)
			return n
		}
		iat, exp := number("iat"), number("exp")
		require.Greater(t, exp, goldenNow.Unix())
		require.LessOrEqual(t, iat, goldenNow.Add(relay.ClockSkew).Unix())
		require.LessOrEqual(t, exp-iat, int64(relay.MaxLifetime/time.Second))
		require.Positive(t, number("sid_iat"))
		require.Positive(t, number("sid_exp"))
		if c["tctx"] != nil {
			require.IsType(t, map[string]any{}, c["tctx"])
		}
	})
}

// FuzzParseKeys passes any bytes as a JWK set.
func FuzzParseKeys(f *testing.F) {
	for _, v := range loadVectors(f, "keysets") {
		f.Add([]byte(v.body))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		kept := bytes.Clone(text)
		keys, err := relay.ParseKeys(text)
		require.Equal(t, kept, text, "the input is changed")
		if err != nil {
			require.Less(t, len(err.Error()), 10_000)
			return
		}
		require.NotEmpty(t, keys)
		var all []relay.PublicKey
		for id, k := range keys {
			require.Equal(t, id, k.ID)
			again, err := relay.NewPublicKey(k.ID, k.Key)
			require.NoError(t, err)
			require.Equal(t, again, k)
			require.Contains(t, algorithms, relay.AlgorithmOf(k))
			all = append(all, k)
		}
		keySet(t, all...)

		// What is published of them is read as the same keys.
		issuer, err := relay.NewIssuer(relay.IssuerConfig{Issuer: "i", TrustDomain: "d", Key: signingKey(t, "the-key-of-the-fuzzer", edKey(9)), Hosts: []string{"a"}, Published: all})
		if keys["the-key-of-the-fuzzer"].Key != nil {
			return
		}
		require.NoError(t, err)
		w := httptest.NewRecorder()
		issuer.Keys().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		published, err := relay.ParseKeys(w.Body.Bytes())
		require.NoError(t, err)
		delete(published, "the-key-of-the-fuzzer")
		require.Equal(t, keys, published)
	})
}

// FuzzHosts lists one host, and asks for another address: it may have the token only if it is the same host.
func FuzzHosts(f *testing.F) {
	for _, s := range [][2]string{
		{"orders.internal", "http://orders.internal/"}, {"orders.internal:80", "http://orders.internal"}, {"a", "http://b"}, {"[::1]", "https://[::1]:443/"},
		{"orders.internal", "http://orders.internal@evil.example/"}, {"a.", "http://A"}, {"10.0.0.1", "http://[::ffff:10.0.0.1]"}, {"a:443", "https://a.:443"},
		{"a", "http://a:80:80"}, {"::1", "http://[::1]"}, {"A:08", "http://a:8"}, {"\u212a", "http://k"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, listed, address string) {
		u, err := url.Parse(address)
		h, bad := relay.NewHosts(listed)
		if bad != nil {
			var mistake *sessions.ConfigError
			require.ErrorAs(t, bad, &mistake)
			return
		}
		require.Len(t, h.Spellings(), 1)
		// A listed host has its own token.
		self := &url.URL{Scheme: "http", Host: listed}
		require.True(t, h.Has(self), "%q", listed)
		if err != nil || !h.Has(u) {
			return
		}
		// Reckoned in another way: by what a dialer would make of it.
		name, port := spelling(u.Hostname()), u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		require.Equal(t, spelling(self.Hostname()), name, "%q may not have the token of %q", address, listed)
		if want := self.Port(); want != "" {
			a, err := strconv.Atoi(want)
			require.NoError(t, err)
			b, err := strconv.Atoi(port)
			require.NoError(t, err)
			require.Equal(t, a, b, "%q may not have the token of %q", address, listed)
		}
	})
}

func spelling(name string) string {
	if addr, err := netip.ParseAddr(strings.ToLower(strings.TrimSuffix(name, "."))); err == nil {
		b := addr.As16()
		return fmt.Sprint(b, addr.Zone())
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
