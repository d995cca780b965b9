// Package movein reads and writes the sessions of other libraries, so that a program can move to package sessions while
// instances of the old program still run, and nobody is logged out.
//
// [Gorilla] is for the cookie stores of gorilla/sessions, gin-contrib/sessions and labstack/echo-contrib. It returns a
// [sessions.Codec]. A [sessions.CookieStore] with this Codec keeps the name and the form of the cookie: instances of both
// programs open what the other has written, and you can go back to the old program at any time.
//
// # Steps
//
//  1. Replace the library in your program, with a CookieStore over Gorilla and the name, path and domain of the old
//     cookie. Let IdleTimeout be MaxAge, and AbsoluteTimeout longer. Deploy it instance by instance.
//  2. When no old instance is left, and none will come back, leave the old format: pass this CookieStore as Old to
//     [sessions.NewDualStore] to move to another store, or use sessions.Codecs to stay with cookies.
//
// To go back, take the steps in reverse.
//
// # Values
//
// The values of a session are JSON in this library, and have Go types in the old one, whose handlers use them as
// v.(int). Integers are exact. A time.Time is its RFC 3339 text, a []byte is base64, a struct is an object with its Go
// field names, or its JSON names if its type is in [Types]. Flashes are the key "_flash": use NewKey[[]string]("_flash").
// A value that JSON cannot represent, such as a NaN, is null.
//
// What nobody changes goes back as it was, whatever its Go type, even if this program does not know the type. A new value
// gets the type of Types, or that of the value that it replaces, or the plain type of its JSON: string, bool, int (float64
// if it has a fraction or an exponent), []any or map[string]any. If that would change the value, the commit fails. Set
// Types for each key to which your handlers write a float64 or a type that is not plain: new sessions have no value whose
// type could be taken.
//
// For this, the record has one more value, under the key "_handover": the old values whose Go types do not follow from
// their JSON. Clear drops it. In the cookie, that key has the token of the session, its timeouts and a hash of the values.
// The old program ignores it and keeps it. It takes about 210 bytes of the 4096.
//
// # Sessions of both programs
//
// The hash shows whether the old program has written the cookie since. Its values then count, and that write has used the
// session, as a request here does. Nothing else can be compared: of two parallel changes, the cookie that the browser
// receives last wins, as it did before.
//
// A session that only the old program has written begins here when it was last saved. Each save there makes another cookie,
// and thus another session, until this program has written it once. A logout ends the session, in the new store of a
// DualStore with all cookies that come after the first one read here. Cookies saved before that one, and any copy that is
// presented to the old program, still open for MaxAge.
//
// Whether such a session began on HTTPS is not known. In SecureAuto, its first change on HTTPS makes its cookie Secure, and
// is reported as [sessions.OutcomeUpgraded], which you can ignore for as long as old cookies arrive.
//
// As in the old program, cookies without a block key are signed, not encrypted: the client can read the values.
package movein
