package relay_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

// mint is what the table of refused tokens makes them from.
type mint struct {
	tb        testing.TB
	algorithm relay.Algorithm
	kid       string
	key       crypto.Signer // the edge's, under this kid
	other     crypto.Signer // an attacker's
	now       time.Time
}

func newMint(tb testing.TB, a relay.Algorithm) *mint {
	return &mint{tb: tb, algorithm: a, kid: "k1", key: signerOf(tb, a, 1), other: signerOf(tb, a, 2), now: time.Now()}
}

func (m *mint) header() object { return goodHeader(m.algorithm, m.kid) }
func (m *mint) claims() object { return goodClaims(m.now) }
func (m *mint) good() string   { return m.with(m.header(), m.claims()) }

func (m *mint) with(header, claims any) string {
	return seal(m.tb, m.key, m.text(header), m.text(claims))
}

// text returns the JSON of an object, and a string as it is.
func (m *mint) text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return asJSON(m.tb, v)
}

func (m *mint) header1(name string, value any) string {
	return m.with(m.header().with(name, value), m.claims())
}

func (m *mint) claim(name string, value any) string {
	return m.with(m.header(), m.claims().with(name, value))
}

// raw replaces the value of a claim by any text.
func (m *mint) raw(name, text string) string {
	return m.with(m.header(), strings.Replace(asJSON(m.tb, m.claims().with(name, "@@")), `"@@"`, text, 1))
}

func (m *mint) in(d time.Duration) int64 { return m.now.Add(d).Unix() }

const (
	malformed   = sessions.OutcomeMalformed
	tampered    = sessions.OutcomeTampered
	undecodable = sessions.OutcomeUndecodable
	expired     = sessions.OutcomeExpired
	unknown     = sessions.OutcomeUnknown
)

type refusal struct {
	name    string
	outcome sessions.Outcome
	make    func(m *mint) string
}

func refusals() []refusal {
	all := []refusal{
		// times
		{"no exp", undecodable, func(m *mint) string { return m.claim("exp", missing) }},
		{"exp null", undecodable, func(m *mint) string { return m.claim("exp", nil) }},
		{"exp 0", undecodable, func(m *mint) string { return m.claim("exp", 0) }},
		{"exp negative", undecodable, func(m *mint) string { return m.claim("exp", -1) }},
		{"exp now", expired, func(m *mint) string { return m.claim("exp", m.in(0)) }},
		{"exp a second ago", expired, func(m *mint) string {
			return m.with(m.header(), m.claims().with("iat", m.in(-time.Minute)).with("exp", m.in(-time.Second)))
		}},
		{"exp an hour ago", expired, func(m *mint) string {
			return m.with(m.header(), m.claims().with("iat", m.in(-time.Hour-time.Minute)).with("exp", m.in(-time.Hour)))
		}},
		{"exp over the most", undecodable, func(m *mint) string { return m.claim("exp", m.in(relay.MaxLifetime+time.Second)) }},
		{"exp in a year", undecodable, func(m *mint) string { return m.claim("exp", m.in(365*24*time.Hour)) }},
		{"exp before iat", undecodable, func(m *mint) string {
			return m.with(m.header(), m.claims().with("iat", m.in(2*time.Second)).with("exp", m.in(time.Second)))
		}},
		{"neither iat nor exp", undecodable, func(m *mint) string { return m.with(m.header(), m.claims().with("iat", missing).with("exp", missing)) }},
		{"no iat", undecodable, func(m *mint) string { return m.claim("iat", missing) }},
		{"iat null", undecodable, func(m *mint) string { return m.claim("iat", nil) }},
		{"iat ahead", expired, func(m *mint) string { return m.claim("iat", m.in(relay.ClockSkew+2*time.Second)) }},
		{"a token of tomorrow", expired, func(m *mint) string {
			return m.with(m.header(), m.claims().with("iat", m.in(24*time.Hour)).with("exp", m.in(24*time.Hour+time.Minute)))
		}},
		{"both at the end of time", undecodable, func(m *mint) string {
			return m.with(m.header(), m.claims().with("iat", int64(1<<63-61)).with("exp", int64(1<<63-1)))
		}},
		{"both at the end of the calendar", undecodable, func(m *mint) string {
			return m.with(m.header(), m.claims().with("iat", int64(253402300800)).with("exp", int64(253402300860)))
		}},
		{"iat at the beginning of time", undecodable, func(m *mint) string { return m.claim("iat", int64(-1<<63)) }},
		{"no sid_iat", undecodable, func(m *mint) string { return m.claim("sid_iat", missing) }},
		{"no sid_exp", undecodable, func(m *mint) string { return m.claim("sid_exp", missing) }},

		// who
		{"another issuer", tampered, func(m *mint) string { return m.claim("iss", "https://evil.example") }},
		{"the issuer in another case", tampered, func(m *mint) string { return m.claim("iss", strings.ToUpper(issuerName)) }},
		{"no issuer", tampered, func(m *mint) string { return m.claim("iss", missing) }},
		{"issuer null", tampered, func(m *mint) string { return m.claim("iss", nil) }},
		{"issuer as a number", undecodable, func(m *mint) string { return m.claim("iss", 1) }},
		{"another audience", tampered, func(m *mint) string { return m.claim("aud", "bank") }},
		{"the audience with a slash", tampered, func(m *mint) string { return m.claim("aud", trustDomain+"/") }},
		{"no audience", tampered, func(m *mint) string { return m.claim("aud", missing) }},
		{"audience null", tampered, func(m *mint) string { return m.claim("aud", nil) }},
		{"audience as an array", undecodable, func(m *mint) string { return m.claim("aud", []string{trustDomain}) }},
		{"two audiences", undecodable, func(m *mint) string { return m.claim("aud", []string{"bank", trustDomain}) }},
		{"no subject", undecodable, func(m *mint) string { return m.claim("sub", missing) }},
		{"subject empty", undecodable, func(m *mint) string { return m.claim("sub", "") }},
		{"subject as a number", undecodable, func(m *mint) string { return m.claim("sub", 42) }},
		{"no session", undecodable, func(m *mint) string { return m.claim("sid", missing) }},
		{"no transaction", undecodable, func(m *mint) string { return m.claim("txn", missing) }},
		{"values as an array", undecodable, func(m *mint) string { return m.claim("tctx", []int{1}) }},
		{"values as a string", undecodable, func(m *mint) string { return m.claim("tctx", "user_id") }},

		// claims that readers take in different ways
		{"exp twice", undecodable, func(m *mint) string { return m.raw("exp", fmt.Sprintf(`1,"exp":%d`, m.in(time.Minute))) }},
		{"exp twice, one escaped", undecodable, func(m *mint) string { return m.raw("exp", fmt.Sprintf(`1,"\u0065xp":%d`, m.in(time.Minute))) }},
		{"exp in another case", undecodable, func(m *mint) string {
			return m.with(m.header(), m.claims().with("exp", missing).with("EXP", m.in(time.Minute)))
		}},
		{"aud twice", undecodable, func(m *mint) string { return m.raw("aud", `"bank","aud":"`+trustDomain+`"`) }},
		{"sub twice", undecodable, func(m *mint) string { return m.raw("sub", `"user 1","sub":"user 2"`) }},
		{"an unknown claim twice", undecodable, func(m *mint) string { return m.raw("sub", `"user 1","x":1,"x":2`) }},
		{"a value twice", undecodable, func(m *mint) string { return m.raw("tctx", `{"user_id":1,"user_id":42}`) }},
		{"the values twice", undecodable, func(m *mint) string { return m.raw("tctx", `{"user_id":1},"tctx":{"user_id":42}`) }},

		// payloads
		{"payload empty", undecodable, func(m *mint) string { return m.with(m.header(), "") }},
		{"payload null", tampered, func(m *mint) string { return m.with(m.header(), "null") }}, // no issuer
		{"payload an array", undecodable, func(m *mint) string { return m.with(m.header(), "[]") }},
		{"payload a string", undecodable, func(m *mint) string { return m.with(m.header(), `"claims"`) }},
		{"payload with more behind", undecodable, func(m *mint) string { return m.with(m.header(), asJSON(m.tb, m.claims())+"{}") }},
		{"payload cut", undecodable, func(m *mint) string { s := asJSON(m.tb, m.claims()); return m.with(m.header(), s[:len(s)-1]) }},
		{"payload with a byte order mark", undecodable, func(m *mint) string { return m.with(m.header(), "\ufeff"+asJSON(m.tb, m.claims())) }},

		// type and key ID
		{"no typ", malformed, func(m *mint) string { return m.header1("typ", missing) }},
		{"typ JWT", malformed, func(m *mint) string { return m.header1("typ", "JWT") }},
		{"typ of an access token", malformed, func(m *mint) string { return m.header1("typ", "at+jwt") }},
		{"typ in another case", malformed, func(m *mint) string { return m.header1("typ", "TxnToken+JWT") }},
		{"typ as an array", malformed, func(m *mint) string { return m.header1("typ", []string{relay.TokenType}) }},
		{"no kid", malformed, func(m *mint) string { return m.header1("kid", missing) }},
		{"kid empty", malformed, func(m *mint) string { return m.header1("kid", "") }},
		{"kid null", malformed, func(m *mint) string { return m.header1("kid", nil) }},
		{"kid a number", malformed, func(m *mint) string { return m.header1("kid", 1) }},
		{"kid a path", malformed, func(m *mint) string { return m.header1("kid", "../../dev/null") }},
		{"kid too long", malformed, func(m *mint) string { return m.header1("kid", strings.Repeat("k", 65)) }},
		{"kid unknown", unknown, func(m *mint) string { return m.header1("kid", "k9") }},
		{"kid in another case", unknown, func(m *mint) string { return m.header1("kid", "K1") }},

		// algorithms
		{"no alg", tampered, func(m *mint) string { return m.header1("alg", missing) }},
		{"alg null", tampered, func(m *mint) string { return m.header1("alg", nil) }},
		{"alg none", tampered, func(m *mint) string { return m.header1("alg", "none") }},
		{"alg none without a signature", tampered, func(m *mint) string {
			return b64(asJSON(m.tb, m.header().with("alg", "none"))) + "." + b64(asJSON(m.tb, m.claims())) + "."
		}},
		{"alg nOnE without a signature", tampered, func(m *mint) string {
			return b64(asJSON(m.tb, m.header().with("alg", "nOnE"))) + "." + b64(asJSON(m.tb, m.claims())) + "."
		}},
		{"alg in lower case", tampered, func(m *mint) string { return m.header1("alg", strings.ToLower(string(m.algorithm))) }},
		{"alg Ed25519", tampered, func(m *mint) string { return m.header1("alg", "Ed25519") }},
		{"alg ES384", tampered, func(m *mint) string { return m.header1("alg", "ES384") }},
		{"alg as an array", malformed, func(m *mint) string { return m.header1("alg", []string{string(m.algorithm)}) }},
		{"RS256", tampered, func(m *mint) string {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			require.NoError(m.tb, err)
			input := b64(asJSON(m.tb, m.header().with("alg", "RS256"))) + "." + b64(asJSON(m.tb, m.claims()))
			hash := sha256.Sum256([]byte(input))
			sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, hash[:])
			require.NoError(m.tb, err)
			return input + "." + b64(string(sig))
		}},
		{"the other algorithm with a key of its own", tampered, func(m *mint) string {
			other := relay.ES256
			if m.algorithm == relay.ES256 {
				other = relay.EdDSA
			}
			return seal(m.tb, signerOf(m.tb, other, 1), asJSON(m.tb, goodHeader(other, "k1")), asJSON(m.tb, m.claims()))
		}},

		// what names a key in the header
		{"crit of something unknown", malformed, func(m *mint) string {
			return m.with(m.header().with("crit", []string{"x"}).with("x", true), m.claims())
		}},
		{"crit of exp", malformed, func(m *mint) string { return m.with(m.header().with("crit", []string{"exp"}), m.claims()) }},
		{"crit empty", malformed, func(m *mint) string { return m.header1("crit", []string{}) }},
		{"crit null", malformed, func(m *mint) string { return m.header1("crit", nil) }},
		{"b64 true and critical", malformed, func(m *mint) string {
			return m.with(m.header().with("crit", []string{"b64"}).with("b64", true), m.claims())
		}},
		{"b64 false, payload encoded", malformed, func(m *mint) string {
			return m.with(m.header().with("crit", []string{"b64"}).with("b64", false), m.claims())
		}},
		{"b64 false, as RFC 7797 signs it", malformed, func(m *mint) string {
			header, payload := b64(asJSON(m.tb, m.header().with("crit", []string{"b64"}).with("b64", false))), asJSON(m.tb, m.claims())
			return header + "." + b64(payload) + "." + b64(string(signature(m.tb, m.key, header+"."+payload)))
		}},
		{"b64 false and not critical", malformed, func(m *mint) string { return m.header1("b64", false) }},
		{"a header that is a string", malformed, func(m *mint) string { return m.header1("cty", "JWT") }},
		{"jku, signed by the edge", malformed, func(m *mint) string { return m.header1("jku", "https://evil.example/keys") }},
		{"zip", malformed, func(m *mint) string { return m.header1("zip", "DEF") }},

		// header members that readers take in different ways
		{"alg twice", malformed, func(m *mint) string { return m.twice("alg", "none") }},
		{"kid twice", malformed, func(m *mint) string { return m.twice("kid", "k9") }},
		{"typ twice", malformed, func(m *mint) string { return m.twice("typ", "JWT") }},
		{"ALG as well", malformed, func(m *mint) string { return m.header1("ALG", "none") }},
		{"KID instead", malformed, func(m *mint) string { return m.with(m.header().with("kid", missing).with("KID", "k1"), m.claims()) }},
		{"header null", tampered, func(m *mint) string { return m.with("null", m.claims()) }},
		{"header an array", malformed, func(m *mint) string { return m.with("[]", m.claims()) }},
		{"header empty", malformed, func(m *mint) string { return m.with("", m.claims()) }},
		{"header not JSON", malformed, func(m *mint) string { return m.with("{", m.claims()) }},
		{"header with more behind", malformed, func(m *mint) string { return m.with(asJSON(m.tb, m.header())+"{}", m.claims()) }},
		{"header nested deep", malformed, func(m *mint) string { return m.with(strings.Repeat(`{"a":`, 400), m.claims()) }},

		// signatures
		{"another key under the same kid", tampered, func(m *mint) string {
			return seal(m.tb, m.other, asJSON(m.tb, m.header()), asJSON(m.tb, m.claims()))
		}},
		{"no signature", tampered, func(m *mint) string { return part(m.good(), 2, func(string) string { return "" }) }},
		{"the signature cut", tampered, func(m *mint) string {
			return part(m.good(), 2, func(s string) string { return b64(decode(m.tb, s)[:63]) })
		}},
		{"the signature with a byte more", tampered, func(m *mint) string {
			return part(m.good(), 2, func(s string) string { return b64(decode(m.tb, s) + "\x00") })
		}},
		{"the signature of another token", tampered, func(m *mint) string {
			sig := strings.Split(m.claim("sub", "user 1"), ".")[2]
			return part(m.good(), 2, func(string) string { return sig })
		}},
		{"the signature of zeros", tampered, func(m *mint) string {
			return part(m.good(), 2, func(string) string { return b64(strings.Repeat("\x00", 64)) })
		}},
		{"the payload of another token", tampered, func(m *mint) string {
			payload := strings.Split(m.claim("sub", "user 1"), ".")[1]
			return part(m.good(), 1, func(string) string { return payload })
		}},

		// parts and encoding
		{"nothing", malformed, func(m *mint) string { return "" }},
		{"one part", malformed, func(m *mint) string { return strings.Split(m.good(), ".")[0] }},
		{"two parts", malformed, func(m *mint) string { s := m.good(); return s[:strings.LastIndex(s, ".")] }},
		{"four parts", malformed, func(m *mint) string { return m.good() + "." }},
		{"five parts, as a JWE has", malformed, func(m *mint) string { return m.good() + ".AAAA.AAAA" }},
		{"three empty parts", malformed, func(m *mint) string { return ".." }},
		{"two tokens", malformed, func(m *mint) string { return m.good() + "," + m.good() }},
		{"Bearer before it", malformed, func(m *mint) string { return "Bearer " + m.good() }},
		{"JSON serialization, flattened", malformed, func(m *mint) string {
			p := strings.Split(m.good(), ".")
			return asJSON(m.tb, map[string]any{"protected": p[0], "payload": p[1], "signature": p[2]})
		}},
		{"JSON serialization, general", malformed, func(m *mint) string {
			p := strings.Split(m.good(), ".")
			return asJSON(m.tb, map[string]any{"payload": p[1], "signatures": []any{map[string]any{"protected": p[0], "signature": p[2]}}})
		}},
		{"over the size limit", malformed, func(m *mint) string { return m.claim("x", strings.Repeat("x", relay.DefaultMaxSize)) }},
	}
	for i, where := range []string{"header", "payload", "signature"} {
		change := func(name string, change func(string) string) {
			all = append(all, refusal{name + " in the " + where, malformed, func(m *mint) string { return part(m.good(), i, change) }})
		}
		change("padding", func(s string) string { return s + "=" })
		change("full padding", func(s string) string { return s + strings.Repeat("=", (4-len(s)%4)%4+4) })
		change("a space before", func(s string) string { return " " + s })
		change("a space behind", func(s string) string { return s + " " })
		change("a line break", func(s string) string { return s[:4] + "\n" + s[4:] })
		change("a carriage return", func(s string) string { return s[:4] + "\r\n" + s[4:] })
		change("a line break at the end", func(s string) string { return s + "\n" })
		change("a tab", func(s string) string { return s[:4] + "\t" + s[4:] })
		change("a zero byte", func(s string) string { return s[:4] + "\x00" + s[4:] })
		change("the alphabet of plain base64", func(s string) string { return s[:4] + "+/" + s[6:] })
		change("trailing bits", func(s string) string { return withTrailingBit(s) })
	}
	return all
}

// twice puts a member in front of the one of the same name.
func (m *mint) twice(name, value string) string {
	header := asJSON(m.tb, m.header())
	return m.with(`{"`+name+`":"`+value+`",`+header[1:], m.claims())
}

// part changes one part of a token.
func part(token string, i int, change func(string) string) string {
	parts := strings.Split(token, ".")
	parts[i] = change(parts[i])
	return strings.Join(parts, ".")
}

func decode(tb testing.TB, part string) string {
	b, err := base64.RawURLEncoding.DecodeString(part)
	require.NoError(tb, err)
	return string(b)
}

// withTrailingBit sets a bit that a lenient reader drops. A part without such bits gets a character more that holds
// nothing else.
func withTrailingBit(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(s)%4 == 0 {
		return s + "A"
	}
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + alphabet[last|1:last|1+1]
}

func TestTokens_Refused(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			m := newMint(t, a)
			s := newService(t, func(c *relay.VerifierConfig) {
				c.Algorithm, c.Keys = a, keySet(t, signingKey(t, "k1", m.key).Public())
			})
			s.accepts(m.good()) // what they are made from
			names := map[string]bool{}
			for _, r := range refusals() {
				require.False(t, names[r.name], r.name)
				names[r.name] = true
				t.Run(r.name, func(t *testing.T) {
					m := *m
					m.tb, m.now = t, time.Now()
					s := *s
					s.t = t
					s.refuses(r.outcome, r.make(&m))
					s.refuses(r.outcome, r.make(&m)) // nothing is remembered of it
				})
			}
			require.Equal(t, 1, s.verifier.Remembered(), "only the good one")
		})
	}
}

func TestTokens_BadNumbers(t *testing.T) {
	m := newMint(t, relay.EdDSA)
	s := newService(t)
	for _, claim := range []string{"iat", "exp", "sid_iat", "sid_exp"} {
		for _, text := range []string{
			fmt.Sprintf("%d.5", m.in(30*time.Second)), fmt.Sprintf("%d.0", m.in(30*time.Second)), "1.7e9", "1e300", "-1e300", "9223372036854775807",
			"9223372036854775808", "-9223372036854775808", "18446744073709551615", "-0", "007", "NaN", "Infinity", "-Infinity", "0x10",
			`"1700000000"`, `"NaN"`, "true", "[]", "{}", "[1700000000]", strings.Repeat("9", 400),
		} {
			t.Run(claim+" "+text[:min(20, len(text))], func(t *testing.T) {
				s := *s
				s.t = t
				s.refuses(undecodable, m.raw(claim, text))
			})
		}
	}
}

// TestTokens_TheKeyInTheToken: a token brings the attacker's key and is signed with it.
func TestTokens_TheKeyInTheToken(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			m := newMint(t, a)
			s := newService(t, func(c *relay.VerifierConfig) {
				c.Algorithm, c.Keys = a, keySet(t, signingKey(t, "k1", m.key).Public())
			})
			asked := 0
			keys := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
			jwk := jwkOf(t, m.other.Public(), object{"kid": "k1"})
			cert := certificate(t, m.other)
			for name, header := range map[string]object{
				"jwk":               m.header().with("jwk", jwk),
				"jwk, no kid":       m.header().with("jwk", jwk).with("kid", missing),
				"jwk, kid of its":   m.header().with("jwk", jwk).with("kid", "evil"),
				"jku":               m.header().with("jku", keys.URL),
				"x5u":               m.header().with("x5u", keys.URL),
				"x5c":               m.header().with("x5c", []string{base64.StdEncoding.EncodeToString(cert)}),
				"x5c, nonsense":     m.header().with("x5c", []string{"AAAA"}),
				"x5t":               m.header().with("x5t#S256", "AAAA"),
				"jwk with a secret": m.header().with("jwk", object{"kty": "oct", "k": "AAAA"}),
				"jwk not a key":     m.header().with("jwk", "k1"),
			} {
				t.Run(name, func(t *testing.T) {
					s := *s
					s.t = t
					token := seal(t, m.other, asJSON(t, header), asJSON(t, m.claims()))
					require.Less(t, len(token), relay.DefaultMaxSize)
					s.refuses(malformed, token)
				})
			}
			require.Zero(t, asked)
		})
	}
}

// TestTokens_ThePublicKeyAsASecret: knowing a public key must not help to make a token.
func TestTokens_ThePublicKeyAsASecret(t *testing.T) {
	for _, a := range algorithms {
		m := newMint(t, a)
		s := newService(t, func(c *relay.VerifierConfig) {
			c.Algorithm, c.Keys = a, keySet(t, signingKey(t, "k1", m.key).Public())
		})
		der, err := x509.MarshalPKIXPublicKey(m.key.Public())
		require.NoError(t, err)
		var raw []byte
		switch k := m.key.Public().(type) {
		case ed25519.PublicKey:
			raw = k
		case *ecdsa.PublicKey:
			raw, err = k.Bytes()
			require.NoError(t, err)
		}
		for name, secret := range map[string][]byte{
			"raw": raw, "DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
			"JWK": []byte(asJSON(t, jwkOf(t, m.key.Public(), nil))), "nothing": nil,
		} {
			for alg, hash := range map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New} {
				for _, says := range []string{alg, string(a)} { // honest, and not
					input := b64(asJSON(t, m.header().with("alg", says))) + "." + b64(asJSON(t, m.claims()))
					mac := hmac.New(hash, secret)
					mac.Write([]byte(input))
					t.Run(fmt.Sprintf("%s/%s/%s/%s", a, name, alg, says), func(t *testing.T) {
						s := *s
						s.t = t
						s.refuses(tampered, input+"."+b64(string(mac.Sum(nil))))
					})
				}
			}
		}
	}
}

// TestTokens_AKeyOfTheOtherAlgorithm: the key set has keys of both, the verifier has one algorithm.
func TestTokens_AKeyOfTheOtherAlgorithm(t *testing.T) {
	ed, ec := newMint(t, relay.EdDSA), newMint(t, relay.ES256)
	keys := keySet(t, signingKey(t, "k1", ed.key).Public(), signingKey(t, "k2", ec.key).Public())
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			s := newService(t, func(c *relay.VerifierConfig) { c.Algorithm, c.Keys = a, keys })
			good, bad, kid, foreign := ed, ec, "k1", "k2"
			if a == relay.ES256 {
				good, bad, kid, foreign = ec, ed, "k2", "k1"
			}
			s.accepts(good.header1("kid", kid))
			s.refuses(tampered, bad.header1("kid", foreign))
			s.refuses(tampered, good.header1("kid", foreign)) // our algorithm, a key for the other one
			s.refuses(tampered, bad.with(bad.header().with("kid", foreign).with("alg", string(a)), bad.claims()))
		})
	}
}

// TestTokens_AnyFlippedBit flips each bit of each part, as bytes and as text.
func TestTokens_AnyFlippedBit(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			m := newMint(t, a)
			s := newService(t, func(c *relay.VerifierConfig) {
				c.Algorithm, c.Keys = a, keySet(t, signingKey(t, "k1", m.key).Public())
				c.Logger, c.Observe = slog.New(slog.DiscardHandler), nil
			})
			token := m.claim("tctx", map[string]any{"user_id": 42})
			require.NoError(t, s.verifier.VerifyAt(t.Context(), token, m.now))
			tried := 0
			refused := func(changed string) {
				tried++
				if err := s.verifier.VerifyAt(t.Context(), changed, m.now); changed == token || !errors.As(err, new(*relay.TokenError)) {
					t.Fatalf("%q: %v", changed, err)
				}
			}
			for i, p := range strings.Split(token, ".") {
				bytes := decode(t, p)
				for bit := range 8 * len(bytes) {
					flipped := []byte(bytes)
					flipped[bit/8] ^= 1 << (bit % 8)
					refused(part(token, i, func(string) string { return b64(string(flipped)) }))
				}
			}
			for bit := range 8 * len(token) {
				flipped := []byte(token)
				flipped[bit/8] ^= 1 << (bit % 8)
				refused(string(flipped))
			}
			for i := range len(token) { // and each byte left out
				refused(token[:i] + token[i+1:])
			}
			require.Greater(t, tried, 5000)
			require.Equal(t, 1, s.verifier.Remembered())
		})
	}
}

func TestTokens_SeveralHeaders(t *testing.T) {
	m := newMint(t, relay.EdDSA)
	s := newService(t)
	a, b := m.good(), m.claim("sub", "user 1")
	s.accepts(a)
	s.accepts(b)
	s.refuses(malformed, a, a)
	s.refuses(malformed, a, b)
	s.refuses(malformed, a, "")
	s.refuses(malformed, a+", "+b)
	for name, header := range map[string]http.Header{
		"another case":       {"Txn-Token": {a}, "TXN-TOKEN": {b}},
		"an underscore":      {"Txn-Token": {a}, "Txn_Token": {b}},
		"only underscores":   {"Txn_Token": {a}, "txn_token": {b}},
		"the same one twice": {"Txn-Token": {a}, "txn_token": {a}},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.t = t
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = header
			s.rec.take()
			w, reached := s.serve(nil, r)
			require.False(t, reached)
			require.Equal(t, http.StatusUnauthorized, w.Code)
			require.Equal(t, []string{"reject malformed"}, s.rec.take())
		})
	}
	t.Run("one with an underscore", func(t *testing.T) { // is one
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Txn_Token": {a}}
		_, reached := s.serve(func(_ http.ResponseWriter, r *http.Request) {
			session, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.Equal(t, "a-public-handle", session.ID())
			require.Empty(t, r.Header)
		}, r)
		require.True(t, reached)
	})
	t.Run("a header without a line", func(t *testing.T) { // is none
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Txn-Token": {}}
		s.rec.take()
		_, reached := s.serve(nil, r)
		require.True(t, reached)
		require.Equal(t, []string{"load none"}, s.rec.take())
	})
	t.Run("an empty one", func(t *testing.T) { s.refuses(malformed, "") })
}

// TestTokens_AtTheLimits are those that are just good enough.
func TestTokens_AtTheLimits(t *testing.T) {
	m := newMint(t, relay.EdDSA)
	m.now = time.Unix(2_000_000_000, 0)
	s := newService(t)
	at := func(token string, d time.Duration) error {
		return s.verifier.VerifyAt(t.Context(), token, m.now.Add(d))
	}
	require.NoError(t, at(m.good(), 0))
	require.NoError(t, at(m.good(), time.Minute-time.Nanosecond))
	require.Error(t, at(m.good(), time.Minute))
	require.NoError(t, at(m.good(), -relay.ClockSkew))
	require.Error(t, at(m.good(), -relay.ClockSkew-time.Nanosecond))
	require.NoError(t, at(m.claim("exp", m.in(relay.MaxLifetime)), 0))
	require.Error(t, at(m.claim("exp", m.in(relay.MaxLifetime)), relay.MaxLifetime))
	require.NoError(t, at(m.header1("kid", "k1"), 0))
	require.NoError(t, at(m.claim("tctx", missing), 0))
	require.NoError(t, at(m.claim("tctx", nil), 0))
	require.NoError(t, at(m.claim("a claim of a later version", object{"a": 1}), 0))

	token := m.good()
	for size, ok := range map[int]bool{len(token): true, len(token) - 1: false} {
		s := newService(t, func(c *relay.VerifierConfig) { c.MaxSize = size })
		require.Equal(t, ok, s.verifier.VerifyAt(t.Context(), token, m.now) == nil, size-len(token))
	}
}

// TestTokens_TheCacheIsNoWayAround: a refused token stays refused beside a good one that is remembered.
func TestTokens_TheCacheIsNoWayAround(t *testing.T) {
	m := newMint(t, relay.EdDSA)
	s := newService(t)
	good := m.good()
	for range 3 {
		s.accepts(good)
		s.refuses(malformed, good+"\n")
		s.refuses(malformed, part(good, 2, withTrailingBit))
		s.refuses(malformed, good+"=")
		s.refuses(tampered, part(good, 2, func(s string) string { return strings.Repeat("A", len(s)) }))
	}
}

func TestP11_TokenErrorsHoldNothingOfTheToken(t *testing.T) {
	m := newMint(t, relay.EdDSA)
	s := newService(t)
	for _, r := range refusals() {
		token := r.make(m)
		err := s.verifier.VerifyAt(t.Context(), token, time.Now())
		var refused *relay.TokenError
		require.ErrorAs(t, err, &refused, r.name)
		require.Equal(t, r.outcome, refused.Outcome, r.name)
		require.True(t, strings.HasPrefix(err.Error(), "relay: token rejected: "), err.Error())
		text := fmt.Sprintf("%v %+v %#v %s", err, err, refused, asJSON(t, refused))
		for i := 0; i+10 <= len(token); i++ {
			if strings.Contains(text, token[i:i+10]) {
				t.Fatalf("%s: %q is in %s", r.name, token[i:i+10], text)
			}
		}
		for _, secret := range []string{"evil", "bank", "user 1", "user 42", "a-public-handle", "one-click", "k9", "dev/null"} {
			require.NotContains(t, text, secret, r.name)
		}
	}
}

func jwkOf(tb testing.TB, key crypto.PublicKey, more object) object {
	tb.Helper()
	o := object{}
	switch k := key.(type) {
	case ed25519.PublicKey:
		o = object{"kty": "OKP", "crv": "Ed25519", "x": b64(string(k))}
	case *ecdsa.PublicKey:
		raw, err := k.Bytes() // 4, x, y
		require.NoError(tb, err)
		size := len(raw) / 2
		o = object{"kty": "EC", "crv": k.Curve.Params().Name, "x": b64(string(raw[1 : 1+size])), "y": b64(string(raw[1+size:]))}
	default:
		tb.Fatalf("%T", key)
	}
	for name, value := range more {
		o = o.with(name, value)
	}
	return o
}

func certificate(tb testing.TB, key crypto.Signer) []byte {
	tb.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "evil"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	require.NoError(tb, err)
	return der
}
