package sessiontest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"handover.example/sessions"
)

// TestStore checks that a store meets the contract of [sessions.Store]. Each rule is a subtest with its own store from
// newStore, which may close it with t.Cleanup. The stores may share a server, because every subtest uses its own
// tokens.
//
// If the client holds the records, as with a [sessions.CookieStore], nothing on the server can be compared or revoked,
// and those subtests are skipped. TestStore recognizes such a store by its Save, which returns a token other than that
// of the record.
//
// The store must be able to keep a record for an hour. Run the test with -race.
func TestStore(t *testing.T, newStore func(t *testing.T) sessions.Store) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &checked{t: t, store: newStore(t)}
			if c.kind != anyStore {
				probe := newRecord()
				clientSide := s.create(probe) != probe.Token
				if c.kind == onServer && clientSide {
					t.Skip("the client holds the record: there is nothing on the server to compare with or to revoke")
				}
				if c.kind == atClient && !clientSide {
					t.Skip("the record is on the server: the client holds only its name")
				}
			}
			c.run(s)
		})
	}
}

type kind int

const (
	anyStore kind = iota
	onServer
	atClient
)

var cases = []struct {
	name string
	kind kind
	run  func(*checked)
}{
	{"a saved record is loaded with every field", anyStore, testFields},
	{"Load returns what the client presents", anyStore, testPresented},
	{"values come back as they were", anyStore, testValues},
	{"a record without values is kept", anyStore, testNoValues},
	{"a big record is kept, or refused with ErrTooLarge", anyStore, testBig},
	{"a lifetime of a hundred years does not overflow", anyStore, testCentury},
	{"a token that cannot be ours is ErrNotFound", anyStore, testMalformed},
	{"an unknown token is ErrNotFound", anyStore, testUnknown},
	{"the ID is not a token", anyStore, testIDIsNoToken},
	{"an expired record is ErrNotFound", anyStore, testExpires},
	{"an expired record is not written", anyStore, testSaveExpired},
	{"the record given to Save is not kept", anyStore, testSaveCopies},
	{"the record returned by Load is the caller's", anyStore, testLoadCopies},
	{"a store is safe for concurrent use", anyStore, testParallelRecords},
	{"a cancelled context does not look like a missing session", anyStore, testCancelled},

	{"a sealed token opens only under its cookie name", atClient, testSealName},
	{"a changed sealed token is ErrNotFound", atClient, testSealTampered},

	{"the cookie name does not matter", onServer, testIgnoresName},
	{"the whole text of a record is kept", onServer, testText},
	{"Save with base 0 does not replace a record", onServer, testCreateTaken},
	{"Save with base 0 is won by one of many", onServer, testCreateRace},
	{"Save with the right base replaces the record", onServer, testSaveRight},
	{"Save with another base is ErrConflict", onServer, testSaveWrong},
	{"Save over nothing is ErrGone", onServer, testSaveMissing},
	{"Save over an expired record is ErrGone", onServer, testSaveOverExpired},
	{"Save renews the lifetime", onServer, testSaveRenews},
	{"a tombstone replaces whatever is there", onServer, testTombstone},
	{"a tombstone with a base is checked", onServer, testTombstoneChecked},
	{"a tombstone stops every late write", onServer, testTombstoneStops},
	{"a tombstone stops a late write of the same version", onServer, testTombstoneSameVersion},
	{"a tombstone expires", onServer, testTombstoneExpires},
	{"a tombstone of a renewal is kept as one", onServer, testRenewed},
	{"Touch moves the expiry, and the idle timeout with it, and nothing else", onServer, testTouch},
	{"Touch renews the lifetime", onServer, testTouchRenews},
	{"Touch into the past keeps nothing alive", onServer, testTouchPast},
	{"Touch of a newer record is not an error and changes nothing", onServer, testTouchNewer},
	{"Touch never creates", onServer, testTouchMissing},
	{"Delete removes the record, whatever its version", onServer, testDelete},
	{"Delete of nothing is not an error", onServer, testDeleteMissing},
	{"Delete of a destroyed session is not an error", onServer, testDeleteDestroyed},
	{"Delete of a renewed session is ErrGone and leaves the tombstone", onServer, testDeleteRenewed},
	{"of a Delete and a parallel renewal one is told that it is too late", onServer, testDeleteBesideRenewal},
	{"parallel writers lose nothing", onServer, testParallelWriters},
	{"parallel writers cannot bring back what was destroyed", onServer, testParallelDestroy},
}

const cookieName = "session"

// secret is the start of the values that no error may contain.
const secret = "7h15-15-4-v4lu3-0f-4-535510n"

func newRecord() *sessions.Record {
	now := time.Now().Truncate(time.Millisecond)
	token := sessions.NewToken()
	id, _ := sessions.TokenID(token)
	rec := &sessions.Record{
		ID: id, Token: token, Version: now.UnixMicro(), Created: now,
		Idle: 30 * time.Minute, Expires: now.Add(30 * time.Minute), Deadline: now.Add(24 * time.Hour),
	}
	rec.SetValue("who", json.RawMessage(`"`+secret+` who"`))
	return rec
}

// copyOf returns a copy of a record, which may be passed to the store.
func copyOf(rec *sessions.Record) *sessions.Record {
	out := blank(rec)
	for key, value := range rec.Values() {
		out.SetValue(key, value)
	}
	return out
}

// blank returns a record with the same fields and no values.
func blank(rec *sessions.Record) *sessions.Record {
	return &sessions.Record{
		ID: rec.ID, Token: rec.Token, Version: rec.Version, Created: rec.Created, Idle: rec.Idle, Expires: rec.Expires,
		Deadline: rec.Deadline, CustomIdle: rec.CustomIdle, Persistent: rec.Persistent, Secure: rec.Secure, Revoked: rec.Revoked,
		Renewed: rec.Renewed, Presented: rec.Presented,
	}
}

// written returns a record that a Manager has written more than once, for a cookie that has not the default name. Its
// text shows which writes led to it and the name, and its fields do not.
func written(t *testing.T) *sessions.Record {
	t.Helper()
	store := NewMemoryStore()
	s := newSession(store)
	for i := range 3 {
		if err := errors.Join(s.Set("n", i), s.Commit()); err != nil {
			t.Fatalf("a session in memory: %v", err)
		}
	}
	rec, err := store.Load(t.Context(), cookieName, s.cookie.Value)
	if err != nil {
		t.Fatalf("a session in memory: %v", err)
	}
	text, err := rec.MarshalJSON()
	if err == nil {
		err = rec.UnmarshalJSON(append(bytes.TrimSuffix(text, []byte("]")), `,"another-name"]`...))
	}
	if err != nil {
		t.Fatalf("a session in memory: %v", err)
	}
	like := newRecord()
	rec.Idle, rec.Expires, rec.Deadline = like.Idle, like.Expires, like.Deadline
	return rec
}

// presents returns what the client presents for a record.
func presents(rec *sessions.Record) string {
	if rec.Presented != "" {
		return rec.Presented
	}
	return rec.Token
}

// following returns the next version of a record.
func following(rec *sessions.Record) *sessions.Record {
	next := copyOf(rec)
	next.Version++
	return next
}

// tombstone returns the record that replaces a destroyed session.
func tombstone(rec *sessions.Record) *sessions.Record {
	return &sessions.Record{
		ID: rec.ID, Token: rec.Token, Version: rec.Version + 1, Created: rec.Created, Idle: rec.Idle,
		Expires: rec.Expires, Deadline: rec.Deadline, Revoked: true,
	}
}

// checked is a store whose every result is checked.
type checked struct {
	t     *testing.T
	store sessions.Store
}

func (s *checked) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	rec, err := s.store.Load(ctx, name, token)
	s.look("Load", err, token, nil)
	switch {
	case err == nil && rec == nil:
		s.t.Errorf("Load returned neither a record nor an error; want ErrNotFound if there is no record")
		return nil, sessions.ErrNotFound
	case err != nil && rec != nil:
		s.t.Errorf("Load returned a record together with the error %q", err)
	}
	return rec, err
}

func (s *checked) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	given := copyOf(rec)
	token, err := s.store.Save(ctx, name, rec, base)
	s.look("Save", err, given.Token, given)
	if diff := difference(rec, given); diff != "" || rec.Presented != given.Presented {
		s.t.Errorf("Save changed the record that it was given: %s", cmp.Or(diff, "Presented is another"))
	}
	return token, err
}

func (s *checked) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	given := copyOf(rec)
	token, err := s.store.Touch(ctx, name, rec)
	s.look("Touch", err, given.Token, given)
	if diff := difference(rec, given); diff != "" || rec.Presented != given.Presented {
		s.t.Errorf("Touch changed the record that it was given: %s", cmp.Or(diff, "Presented is another"))
	}
	return token, err
}

func (s *checked) Delete(ctx context.Context, name string, rec *sessions.Record) error {
	err := s.store.Delete(ctx, name, rec)
	s.look("Delete", err, rec.Token, rec)
	return err
}

// look checks that an error contains no secret, because errors are logged.
func (s *checked) look(method string, err error, token string, rec *sessions.Record) {
	if err == nil {
		return
	}
	text := err.Error()
	if len(token) >= 16 && strings.Contains(text, token) {
		s.t.Errorf("the error of %s contains the token: errors are logged, and the token is a credential", method)
	}
	if strings.Contains(text, secret) {
		s.t.Errorf("the error of %s contains a value of the session: errors are logged", method)
	}
	if rec != nil && errors.Is(err, sessions.ErrNotFound) {
		s.t.Errorf("%s returned ErrNotFound, which only Load may return; want ErrGone if the record no longer exists", method)
	}
}

// create saves a new record, which must succeed.
func (s *checked) create(rec *sessions.Record) (token string) {
	s.t.Helper()
	token, err := s.Save(s.t.Context(), cookieName, rec, 0)
	if err != nil {
		s.t.Fatalf("Save of a new record: %v", err)
	}
	if token == "" {
		s.t.Fatalf("Save of a new record returned an empty token: the client needs one")
	}
	return token
}

// want checks that the token loads this record, and returns it.
func (s *checked) want(when, token string, want *sessions.Record) *sessions.Record {
	s.t.Helper()
	got, err := s.Load(s.t.Context(), cookieName, token)
	if err != nil {
		s.t.Fatalf("Load %s: %v; want the record", when, err)
	}
	if diff := difference(got, want); diff != "" {
		s.t.Fatalf("Load %s: not the expected record: %s", when, diff)
	}
	return got
}

// wantNone checks that the token loads nothing.
func (s *checked) wantNone(when, token string) {
	s.t.Helper()
	if _, err := s.Load(s.t.Context(), cookieName, token); !errors.Is(err, sessions.ErrNotFound) {
		s.t.Fatalf("Load %s: error %v; want ErrNotFound", when, err)
	}
}

// wantEnded checks that the token names no session: there is no record, or a tombstone, which a store may leave when it
// deletes.
func (s *checked) wantEnded(when, token string) {
	s.t.Helper()
	rec, err := s.Load(s.t.Context(), cookieName, token)
	if err == nil && rec.Revoked {
		s.wantTombstone(when, token)
		return
	}
	if !errors.Is(err, sessions.ErrNotFound) {
		s.t.Fatalf("Load %s: error %v; want ErrNotFound, or a tombstone", when, err)
	}
}

// wantTombstone checks that the token loads a tombstone.
func (s *checked) wantTombstone(when, token string) {
	s.t.Helper()
	rec, err := s.Load(s.t.Context(), cookieName, token)
	switch {
	case err != nil:
		s.t.Fatalf("Load %s: %v; want the tombstone, a record with Revoked set", when, err)
	case !rec.Revoked:
		s.t.Fatalf("Load %s: a live session; want the tombstone: the destroyed session has come back", when)
	}
	for range rec.Values() {
		s.t.Fatalf("Load %s: the tombstone has values; want none", when)
	}
}

// saveErr checks that a save fails with this error.
func (s *checked) saveErr(what string, rec *sessions.Record, base int64, want ...error) error {
	s.t.Helper()
	_, err := s.Save(s.t.Context(), cookieName, rec, base)
	s.wantErr("Save "+what, err, want...)
	return err
}

func (s *checked) touchErr(what string, rec *sessions.Record, want ...error) {
	s.t.Helper()
	_, err := s.Touch(s.t.Context(), cookieName, rec)
	s.wantErr("Touch "+what, err, want...)
}

func (s *checked) wantErr(what string, err error, want ...error) {
	s.t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	s.t.Fatalf("%s: error %v; want %q", what, err, want)
}

// save writes a version, which must succeed.
func (s *checked) save(what string, rec *sessions.Record, base int64) {
	s.t.Helper()
	token, err := s.Save(s.t.Context(), cookieName, rec, base)
	if err != nil {
		s.t.Fatalf("Save %s: %v; want success", what, err)
	}
	if token != rec.Token {
		s.t.Fatalf("Save %s: returned a token other than that of the record, which only Renew changes", what)
	}
}

func (s *checked) touch(what string, rec *sessions.Record) {
	s.t.Helper()
	token, err := s.Touch(s.t.Context(), cookieName, rec)
	if err != nil {
		s.t.Fatalf("Touch %s: %v; want success", what, err)
	}
	if token != rec.Token {
		s.t.Fatalf("Touch %s: returned a token other than that of the record, which only Renew changes", what)
	}
}

// conflict checks that a save fails because of current, and that the error has current, if it has a record.
func (s *checked) conflict(what string, rec *sessions.Record, base int64, current *sessions.Record) {
	s.t.Helper()
	err := s.saveErr(what, rec, base, sessions.ErrConflict)
	var found *sessions.ConflictError
	if errors.As(err, &found) && found.Current != nil {
		if diff := difference(found.Current, current); diff != "" {
			s.t.Fatalf("Save %s: ConflictError.Current is not what is in the store: %s", what, diff)
		}
		found.Current.SetValue("who", json.RawMessage(`"changed"`)) // the caller may change it
		found.Current.Version++
	}
	s.want("after the rejected Save "+what, current.Token, current)
}

// brief saves a new record that expires soon, but not before the store has taken it.
func (s *checked) brief() (rec *sessions.Record, token string) {
	s.t.Helper()
	for ahead := 60 * time.Millisecond; ; ahead *= 2 {
		rec = newRecord()
		rec.Expires = time.Now().Add(ahead).Truncate(time.Millisecond)
		token, err := s.Save(s.t.Context(), cookieName, rec, 0)
		if err == nil && time.Until(rec.Expires) > ahead/2 {
			return rec, token
		}
		if err != nil && !errors.Is(err, sessions.ErrGone) || ahead > 10*time.Second {
			s.t.Fatalf("Save of a record that expires in %v: %v", ahead, err)
		}
	}
}

// awaitGone waits until an expired record no longer exists.
func (s *checked) awaitGone(token string, expires time.Time) {
	s.t.Helper()
	for patience := expires.Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, err := s.Load(s.t.Context(), cookieName, token)
		if errors.Is(err, sessions.ErrNotFound) {
			return
		}
		if err != nil {
			s.t.Fatalf("Load of an expired record: error %v; want ErrNotFound", err)
		}
		if time.Now().After(patience) {
			s.t.Fatalf("Load: the record is still there %v after its expiry; want ErrNotFound", time.Since(expires).Round(time.Millisecond))
		}
	}
}

// await waits until a time has passed, and a little longer in case the store's clock is behind.
func await(when time.Time) { time.Sleep(time.Until(when) + 20*time.Millisecond) }

// difference returns in which fields two records differ, or "". It compares values as JSON, and numbers by their
// digits. It does not compare Presented, which a store sets in Load.
func difference(got, want *sessions.Record) string {
	var diffs []string
	note := func(field string, got, want any) {
		diffs = append(diffs, fmt.Sprintf("%s is %v, want %v", field, got, want))
	}
	if got.ID != want.ID {
		note("ID", got.ID, want.ID)
	}
	if got.Token != want.Token {
		diffs = append(diffs, fmt.Sprintf("Token is another (%d bytes, want %d)", len(got.Token), len(want.Token)))
	}
	if got.Version != want.Version {
		note("Version", got.Version, want.Version)
	}
	if got.Idle.Truncate(time.Millisecond) != want.Idle.Truncate(time.Millisecond) {
		note("Idle", got.Idle, want.Idle)
	}
	for _, f := range [...]struct {
		name      string
		got, want time.Time
	}{{"Created", got.Created, want.Created}, {"Expires", got.Expires, want.Expires}, {"Deadline", got.Deadline, want.Deadline}} {
		if f.got.UnixMilli() != f.want.UnixMilli() {
			note(f.name, f.got.UTC(), f.want.UTC())
		}
	}
	for _, f := range [...]struct {
		name      string
		got, want bool
	}{{"CustomIdle", got.CustomIdle, want.CustomIdle}, {"Persistent", got.Persistent, want.Persistent}, {"Secure", got.Secure, want.Secure}, {"Revoked", got.Revoked, want.Revoked}, {"Renewed", got.Renewed, want.Renewed}} {
		if f.got != f.want {
			note(f.name, f.got, f.want)
		}
	}
	there := map[string]bool{}
	for key, value := range want.Values() {
		there[key] = true
		if found, ok := got.Value(key); !ok {
			diffs = append(diffs, fmt.Sprintf("the value of %q is missing", key))
		} else if !sameJSON(found, value) {
			diffs = append(diffs, fmt.Sprintf("the value of %q is another", key))
		}
	}
	for key := range got.Values() {
		if !there[key] {
			diffs = append(diffs, fmt.Sprintf("there is a value of %q, want none", key))
		}
	}
	return strings.Join(diffs, "; ")
}

func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	decode := func(text json.RawMessage) (v any, err error) {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		err = d.Decode(&v)
		return v, err
	}
	x, errX := decode(a)
	y, errY := decode(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

// The cases for every store.

func testFields(s *checked) {
	for _, set := range []func(*sessions.Record){
		func(*sessions.Record) {},
		func(r *sessions.Record) { r.Persistent = true },
		func(r *sessions.Record) { r.Secure = true },
		func(r *sessions.Record) { r.CustomIdle = true; r.Idle = 90 * time.Second },
		func(r *sessions.Record) { r.Persistent, r.Secure, r.CustomIdle = true, true, true },
		func(r *sessions.Record) { r.Version = 1 },
		func(r *sessions.Record) { r.Created = r.Created.Add(-13*24*time.Hour + 123*time.Millisecond) },
		func(r *sessions.Record) { r.Deadline = r.Expires },
	} {
		rec := newRecord()
		set(rec)
		want := copyOf(rec)
		s.want("of what was saved", s.create(rec), want)
	}
}

// testPresented checks what the Manager relies on: it sends the client what the record presents, if the client has
// presented something else.
func testPresented(s *checked) {
	rec := newRecord()
	check := func(when, token string, want *sessions.Record) {
		s.t.Helper()
		got := s.want(when, token, want)
		switch wanted := presents(got); wanted {
		case token:
		case want.Presented:
			s.t.Fatalf("Load %s: Presented is that of the record passed to Save, but it is not part of the stored form", when)
		default: // the store wants the client to present something else from now on
			again, err := s.Load(s.t.Context(), cookieName, wanted)
			if err != nil || again.ID != got.ID {
				s.t.Fatalf("Load %s: Presented (or Token, if it is empty) is neither what was presented nor anything else that "+
					"loads the record: the Manager would send it to the client, and the session would be lost", when)
			}
		}
		text, err := got.MarshalJSON()
		if err != nil {
			s.t.Fatalf("MarshalJSON of a record that was loaded: %v", err)
		}
		for _, credential := range []string{got.Token, got.Presented, token} {
			if credential != "" && bytes.Contains(text, []byte(credential)) {
				s.t.Fatalf("MarshalJSON of a loaded record contains what the client presents for it: a store would keep a credential")
			}
		}
	}
	token := s.create(copyOf(rec))
	check("of what was saved", token, rec)
	rec.Version++
	rec.Presented = token // as the Manager passes it
	for range 2 {
		next, err := s.Save(s.t.Context(), cookieName, copyOf(rec), rec.Version-1)
		if err != nil {
			s.t.Fatalf("Save of the next version: %v", err)
		}
		check("of what was saved again", next, rec)
		rec.Version++
		rec.Presented = sessions.NewToken() // means nothing
	}
	rec.Version--
	rec.Expires = rec.Expires.Add(time.Minute)
	touched, err := s.Touch(s.t.Context(), cookieName, copyOf(rec))
	if err != nil {
		s.t.Fatalf("Touch: %v", err)
	}
	check("of what was touched", touched, rec)
}

func testValues(s *checked) {
	rec := newRecord()
	for key, value := range map[string]string{
		"null":             `null`,
		"false":            `false`,
		"zero":             `0`,
		"int64":            `9223372036854775807`,
		"uint64":           `18446744073709551615`,
		"odd":              `9007199254740993`,
		"float":            `0.1`,
		"exponent":         `1.5e-7`,
		"empty":            `""`,
		"list":             `[1,[2,{"a":null}],"x"]`,
		"object":           `{"b":1,"a":{"c":[]}}`,
		"spaced":           `{ "a" : [ 1 , 2 ] }`,
		"escapes":          `"\"\\\/\b\f\n\r\t\u0000\u001f"`,
		"unicode":          `"日本 éß \u2028 🙂 \ud83d\ude42"`,
		"html":             `"<script>&amp;'</script>"`,
		"raw html":         `"\u003cb\u003e"`,
		"like a record":    `["ix",{}]`,
		"":                 `"the empty key"`,
		" space ":          `1`,
		"quote\"back\\":    `2`,
		"line\nzero\x00":   `3`,
		"日本語 🙂":            `4`,
		"<b>&amp;</b>":     `5`,
		"a.b.c":            `6`,
		"$set":             `7`,
		"__proto__":        `8`,
		"Who":              `"not who"`,
		"%s%d{{.}}'; --":   `9`,
		"del\x7f\u2028é\t": `10`,
	} {
		rec.SetValue(key, json.RawMessage(value))
	}
	want := copyOf(rec)
	s.want("of values that are hard to keep", s.create(rec), want)
}

func testNoValues(s *checked) {
	rec := blank(newRecord())
	s.want("of a record without values", s.create(rec), copyOf(rec))
}

func testBig(s *checked) {
	for _, size := range []int{1000, 20_000, 300_000} {
		rec := newRecord()
		rec.SetValue("big", json.RawMessage(`"`+secret+strings.Repeat("x", size)+`"`))
		want := copyOf(rec)
		token, err := s.Save(s.t.Context(), cookieName, rec, 0)
		switch {
		case err == nil:
			s.want(fmt.Sprintf("of a record with a value of %d bytes", size), token, want)
		case size <= 1000 || !errors.Is(err, sessions.ErrTooLarge):
			s.t.Fatalf("Save of a record with a value of %d bytes: %v; want success, or ErrTooLarge if it is over 1000 bytes", size, err)
		default:
			s.wantNone("after ErrTooLarge", rec.Token)
		}
	}
}

func testCentury(s *checked) {
	rec := newRecord()
	century := 100 * 365 * 24 * time.Hour
	rec.Idle, rec.Expires, rec.Deadline = century, rec.Created.Add(century), rec.Created.Add(century)
	token := s.create(rec)
	got, err := s.Load(s.t.Context(), cookieName, token)
	if err != nil {
		s.t.Fatalf("Load of a record that lives for a hundred years: %v", err)
	}
	if got.Expires.Before(rec.Created.Add(time.Hour)) {
		s.t.Fatalf("a record that lives for a hundred years is loaded with Expires %v", got.Expires)
	}
}

func testMalformed(s *checked) {
	rec := newRecord()
	token := s.create(rec)
	for name, bad := range map[string]string{
		"empty":             "",
		"short":             "x",
		"one byte short":    rec.Token[:len(rec.Token)-1],
		"one byte long":     rec.Token + "A",
		"padded":            rec.Token + "==",
		"with a line break": rec.Token + "\n",
		"ending in a break": rec.Token[:len(rec.Token)-2] + "\r\n",
		"with a NUL":        rec.Token[:5] + "\x00" + rec.Token[6:],
		"standard base64":   strings.Repeat("+/", 11),
		"a path":            "../../../../etc/passwd",
		"a pattern":         "**********************",
		"not text":          strings.Repeat("\xff", 22),
		"in another script": strings.Repeat("é", 11),
		"with a space":      " " + rec.Token,
		"loose last bits":   strings.Repeat("A", 21) + "B",
		"huge":              strings.Repeat("A", 1<<20),
		"cut off":           token[:len(token)/2],
		"twice":             token + token,
		"quoted":            `"` + token + `"`,
	} {
		if _, err := s.Load(s.t.Context(), cookieName, bad); !errors.Is(err, sessions.ErrNotFound) {
			s.t.Errorf("Load of a token that is %s: error %v; want ErrNotFound (check it with sessions.TokenID first)", name, err)
		}
	}
}

func testUnknown(s *checked) {
	s.create(newRecord())
	s.wantNone("of a token that was never saved", sessions.NewToken())
}

func testIDIsNoToken(s *checked) {
	rec := newRecord()
	s.create(rec)
	s.wantNone("of the ID, which is public: it must not be a credential", rec.ID)
}

func testExpires(s *checked) {
	rec, token := s.brief()
	want := copyOf(rec)
	got, err := s.Load(s.t.Context(), cookieName, token)
	if time.Now().Before(rec.Expires) { // otherwise the store took too long
		if err != nil {
			s.t.Fatalf("Load before the expiry: %v; want the record", err)
		}
		if diff := difference(got, want); diff != "" {
			s.t.Fatalf("Load before the expiry: %s", diff)
		}
	}
	await(rec.Expires)
	s.awaitGone(token, rec.Expires)
}

func testSaveExpired(s *checked) {
	for name, expires := range map[string]time.Time{
		"expired a second ago":   time.Now().Add(-time.Second),
		"expired a year ago":     time.Now().Add(-365 * 24 * time.Hour),
		"expired in 1970":        time.UnixMilli(0),
		"has the zero time":      {},
		"expires at this moment": time.Now(),
	} {
		rec := newRecord()
		rec.Expires = expires
		s.saveErr("of a new record that "+name, rec, 0, sessions.ErrGone)
		s.wantNone("after the rejected Save of a record that "+name, rec.Token)
	}
}

func testSaveCopies(s *checked) {
	rec := newRecord()
	rec.SetValue("list", json.RawMessage(`[1,2,3]`))
	want := copyOf(rec)
	token := s.create(rec)
	rec.SetValue("who", json.RawMessage(`"changed"`))
	rec.SetValue("more", json.RawMessage(`1`))
	rec.Version, rec.Expires, rec.Persistent = rec.Version+7, rec.Expires.Add(-time.Hour), true
	s.want("after the caller has changed the record that it had saved", token, want)
}

func testLoadCopies(s *checked) {
	rec := newRecord()
	want := copyOf(rec)
	token := s.create(rec)
	got, err := s.Load(s.t.Context(), cookieName, token)
	if err != nil {
		s.t.Fatalf("Load of what was saved: %v", err)
	}
	got.SetValue("who", json.RawMessage(`"changed"`))
	got.SetValue("more", json.RawMessage(`1`))
	got.Version, got.Expires, got.Secure = got.Version+7, got.Expires.Add(-time.Hour), true
	s.want("after the caller has changed the record that it had loaded", token, want)
}

func testParallelRecords(s *checked) {
	parallel(50, func(i int) {
		rec := newRecord()
		rec.SetValue("i", json.RawMessage(fmt.Sprint(i)))
		want := copyOf(rec)
		token, err := s.Save(s.t.Context(), cookieName, rec, 0)
		if err != nil {
			s.t.Errorf("Save of one of 50 records: %v", err)
			return
		}
		got, err := s.Load(s.t.Context(), cookieName, token)
		if err != nil {
			s.t.Errorf("Load of one of 50 records: %v", err)
			return
		}
		if diff := difference(got, want); diff != "" {
			s.t.Errorf("Load of one of 50 records that were saved in parallel: %s", diff)
		}
	})
}

func testCancelled(s *checked) {
	rec := newRecord()
	token := s.create(rec)
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	check := func(method string, err error) {
		for _, wrong := range []error{sessions.ErrNotFound, sessions.ErrGone, sessions.ErrConflict, sessions.ErrTooLarge} {
			if errors.Is(err, wrong) {
				s.t.Errorf("%s with a cancelled context: %v; want success, or an error that means that the store could not answer", method, err)
			}
		}
	}
	_, err := s.store.Load(ctx, cookieName, token)
	check("Load", err)
	next := following(rec)
	_, err = s.store.Touch(ctx, cookieName, copyOf(rec))
	check("Touch", err)
	_, err = s.store.Save(ctx, cookieName, next, rec.Version)
	check("Save", err)
	_, err = s.store.Save(ctx, cookieName, newRecord(), 0)
	check("Save of a new record", err)
}

// The cases for stores where the client holds the record.

func testSealName(s *checked) {
	token := s.create(newRecord())
	for _, name := range []string{"", "Session", "session2", "__Host-session"} {
		if _, err := s.Load(s.t.Context(), name, token); !errors.Is(err, sessions.ErrNotFound) {
			s.t.Errorf("Load under the cookie name %q of a token that was saved under %q: error %v; want ErrNotFound", name, cookieName, err)
		}
	}
}

func testSealTampered(s *checked) {
	token := s.create(newRecord())
	for i := range len(token) {
		b := []byte(token)
		if b[i] ^= 1; b[i] <= ' ' || b[i] == '"' || b[i] == ',' || b[i] == ';' || b[i] == '\\' || b[i] > '~' {
			b[i] = 'A'
		}
		if b[i] == token[i] {
			continue
		}
		if _, err := s.Load(s.t.Context(), cookieName, string(b)); !errors.Is(err, sessions.ErrNotFound) {
			s.t.Fatalf("Load of a token whose byte %d of %d was changed: error %v; want ErrNotFound", i, len(token), err)
		}
	}
	for i := range len(token) {
		s.wantNone(fmt.Sprintf("of the first %d of %d bytes of a token", i, len(token)), token[:i])
	}
}

// The cases for stores on a server.

func testIgnoresName(s *checked) {
	rec := newRecord()
	token := s.create(rec)
	if _, err := s.Load(s.t.Context(), "another", token); err != nil {
		s.t.Fatalf("Load under another cookie name: %v; want the record: a store that does not seal ignores the name", err)
	}
}

// testText compares what the fields do not show.
func testText(s *checked) {
	rec := written(s.t)
	// text returns the two parts of the text, as if the record had not been touched.
	text := func(of *sessions.Record) (head, values string) {
		s.t.Helper()
		c := *of
		c.Idle, c.Expires = rec.Idle, rec.Expires
		all, err := c.MarshalJSON()
		var parts [2]json.RawMessage
		if err = errors.Join(err, json.Unmarshal(all, &parts), json.Unmarshal(parts[0], &head)); err != nil {
			s.t.Fatalf("MarshalJSON: %v", err)
		}
		return head, string(parts[1])
	}
	check := func(when string, got, want *sessions.Record) {
		s.t.Helper()
		head, values := text(got)
		wantHead, wantValues := text(want)
		// A RedisStore adds to the writes that led to the record one that it has made itself.
		if !strings.HasPrefix(head, wantHead) || values != wantValues {
			s.t.Fatalf("the text of %s is not the one that was saved: keep the whole text of Record.MarshalJSON, which holds more than the "+
				"fields; without it a DualStore loses changes", when)
		}
	}
	given := *rec
	s.create(&given)
	got := s.want("of a record that was written several times", rec.Token, rec)
	check("a record that was loaded", got, rec)

	touched := copyOf(rec) // of the fields alone
	touched.Idle, touched.Expires = 31*time.Minute, rec.Expires.Add(time.Minute)
	s.touch("of that record", touched)
	next := s.want("after Touch", rec.Token, touched)
	check("a record that was touched", next, got)

	base := next.Version
	next.Version++
	next.SetValue("n", json.RawMessage(`"`+secret+`"`))
	given = *next
	s.save("of what was loaded", &given, base)
	got = s.want("after the second Save", rec.Token, next)
	check("a record that was saved again", got, next)

	err := s.saveErr("with a base that was replaced", following(rec), rec.Version, sessions.ErrConflict)
	var found *sessions.ConflictError
	if errors.As(err, &found) && found.Current != nil {
		check("ConflictError.Current", found.Current, got)
	}
}

func testCreateTaken(s *checked) {
	first := newRecord()
	s.create(first)
	second := following(first)
	second.SetValue("who", json.RawMessage(`"`+secret+` second"`))
	s.conflict("with base 0 over a record", second, 0, first)
}

func testCreateRace(s *checked) {
	first := newRecord()
	var mu sync.Mutex
	var won []*sessions.Record
	parallel(20, func(i int) {
		rec := copyOf(first)
		rec.SetValue("i", json.RawMessage(fmt.Sprint(i)))
		want := copyOf(rec)
		_, err := s.Save(s.t.Context(), cookieName, rec, 0)
		switch {
		case err == nil:
			mu.Lock()
			defer mu.Unlock()
			won = append(won, want)
		case !errors.Is(err, sessions.ErrConflict):
			s.t.Errorf("Save with base 0, one of 20 with the same token: %v; want success or ErrConflict", err)
		}
	})
	if len(won) != 1 {
		s.t.Fatalf("%d of 20 parallel Saves with base 0 and the same token succeeded, want 1: check and write must be one atomic step", len(won))
	}
	s.want("after the race", first.Token, won[0])
}

func testSaveRight(s *checked) {
	first := newRecord()
	first.SetValue("old", json.RawMessage(`1`))
	s.create(first)
	second := blank(following(first))
	second.Version, second.Expires = first.Version+1000, first.Expires.Add(time.Minute)
	second.Persistent, second.Secure, second.CustomIdle, second.Idle = true, true, true, time.Minute
	second.SetValue("new", json.RawMessage(`"`+secret+`"`))
	want := copyOf(second)
	s.save("with the stored version as its base", second, first.Version)
	s.want("after the second Save", first.Token, want)
	third := following(want)
	s.save("with the version of the second Save as its base", third, want.Version)
	s.want("after the third Save", first.Token, following(want))
}

func testSaveWrong(s *checked) {
	first := newRecord()
	s.create(first)
	second := following(first)
	second.SetValue("second", json.RawMessage(`true`))
	there := copyOf(second)
	s.save("of the second version", second, first.Version)

	late := following(first)
	late.Version += 5
	late.SetValue("late", json.RawMessage(`"`+secret+`"`))
	for what, base := range map[string]int64{
		"with the base of a version that was replaced":   first.Version,
		"with the base of a version that does not exist": first.Version - 1,
		"with the base of a later version":               there.Version + 1,
		"with base 1":                                    1,
	} {
		s.conflict(what, copyOf(late), base, there)
	}
	again := following(late)
	s.save("with the right base, after conflicts", again, there.Version)
}

func testSaveMissing(s *checked) {
	rec := newRecord()
	s.saveErr("with a base, of a record that was never there", following(rec), rec.Version, sessions.ErrGone)
	s.wantNone("after Save over nothing: it must not create", rec.Token)
}

func testSaveOverExpired(s *checked) {
	rec, token := s.brief()
	rec = copyOf(rec)
	await(rec.Expires)
	s.awaitGone(token, rec.Expires)
	late := following(rec)
	late.Expires = time.Now().Add(time.Minute)
	s.saveErr("with the right base, over a record that has expired", late, rec.Version, sessions.ErrGone)
	s.wantNone("after Save over an expired record: it must not bring it back", token)
}

func testSaveRenews(s *checked) {
	rec, token := s.brief()
	rec = copyOf(rec)
	next := following(rec)
	next.Expires = rec.Created.Add(30 * time.Minute)
	want := copyOf(next)
	_, err := s.Save(s.t.Context(), cookieName, next, rec.Version)
	if errors.Is(err, sessions.ErrGone) && !time.Now().Before(rec.Expires) {
		s.t.Skip("the store took so long that the record expired before it was saved again")
	}
	if err != nil {
		s.t.Fatalf("Save with a later expiry: %v", err)
	}
	await(rec.Expires)
	s.want("after the first expiry, when Save has set a later one", token, want)
}

func testTombstone(s *checked) {
	over := func(what string, rec *sessions.Record) {
		if _, err := s.Save(s.t.Context(), cookieName, tombstone(rec), 0); err != nil {
			s.t.Fatalf("Save of a tombstone with base 0 over %s: %v; want success", what, err)
		}
		s.wantTombstone("after Save of a tombstone over "+what, rec.Token)
	}
	rec := newRecord()
	over("nothing", rec)
	over("another tombstone", rec)

	rec = newRecord()
	s.create(rec)
	over("a record", rec)

	rec = newRecord()
	s.create(rec)
	newer := following(rec)
	newer.Version += 1000
	s.save("of a newer version", newer, rec.Version)
	over("a record that is newer than the tombstone", rec)

	got, err := s.Load(s.t.Context(), cookieName, rec.Token)
	if err != nil || got.ID != rec.ID || got.Token != rec.Token || got.Version != rec.Version+1 {
		s.t.Fatalf("Load of a tombstone: error %v; want it with the ID, Token and Version that it was saved with", err)
	}
}

func testTombstoneChecked(s *checked) {
	rec := newRecord()
	s.saveErr("of a tombstone with a base, over nothing", tombstone(rec), rec.Version, sessions.ErrGone)
	s.wantNone("after Save of a tombstone with a base over nothing", rec.Token)

	rec = newRecord()
	s.create(rec)
	newer := following(rec)
	newer.SetValue("newer", json.RawMessage(`true`))
	there := copyOf(newer)
	s.save("of a newer version", newer, rec.Version)
	s.conflict("of a tombstone whose base was replaced by a parallel write", tombstone(rec), rec.Version, there)

	s.save("of a tombstone with the right base", tombstone(there), there.Version)
	s.wantTombstone("after Save of a tombstone with the right base", rec.Token)
}

func testTombstoneStops(s *checked) {
	rec := newRecord()
	s.create(rec)
	dead := tombstone(rec)
	dead.Version += 1000
	if _, err := s.Save(s.t.Context(), cookieName, copyOf(dead), 0); err != nil {
		s.t.Fatalf("Save of a tombstone with base 0: %v", err)
	}
	late := following(rec)
	late.Version += 2000
	s.saveErr("with the base that was destroyed", copyOf(late), rec.Version, sessions.ErrGone)
	s.wantTombstone("after a late Save", rec.Token)
	s.saveErr("with base 0, over a tombstone", copyOf(late), 0, sessions.ErrGone, sessions.ErrConflict)
	s.wantTombstone("after a late Save with base 0", rec.Token)
	s.touchErr("of what was destroyed", copyOf(rec), sessions.ErrGone)
	s.wantTombstone("after a late Touch", rec.Token)
	again := copyOf(rec)
	again.Version = dead.Version
	s.touchErr("with the version of the tombstone", again, sessions.ErrGone)
	s.wantTombstone("after a Touch with the version of the tombstone", rec.Token)
}

// A version is usually the time in microseconds, so a write and the tombstone that replaces it can have the same one.
func testTombstoneSameVersion(s *checked) {
	rec := newRecord()
	s.create(rec)
	dead := tombstone(rec)
	dead.Version = rec.Version
	if _, err := s.Save(s.t.Context(), cookieName, dead, 0); err != nil {
		s.t.Fatalf("Save of a tombstone with base 0: %v", err)
	}
	s.saveErr("over a tombstone with the version of the base", following(rec), rec.Version, sessions.ErrGone)
	s.wantTombstone("after a late Save with the tombstone's version as its base", rec.Token)
	s.touchErr("of a tombstone with the same version", copyOf(rec), sessions.ErrGone)
	s.wantTombstone("after a late Touch with the tombstone's version", rec.Token)
}

func testTombstoneExpires(s *checked) {
	rec := newRecord()
	s.create(rec)
	dead := tombstone(rec)
	for ahead := 60 * time.Millisecond; ; ahead *= 2 { // a busy machine may be too late
		dead.Expires = time.Now().Add(ahead)
		dead.Deadline = dead.Expires // a store may keep a tombstone for as long as the session could have lived
		_, err := s.Save(s.t.Context(), cookieName, copyOf(dead), 0)
		if err == nil {
			break
		}
		if !errors.Is(err, sessions.ErrGone) || ahead > 10*time.Second {
			s.t.Fatalf("Save of a tombstone for %v: %v", ahead, err)
		}
	}
	await(dead.Expires)
	s.awaitGone(rec.Token, dead.Expires)
}

// renewal returns the tombstone of a renewed session.
func renewal(rec *sessions.Record) *sessions.Record {
	stone := tombstone(rec)
	stone.Renewed = true
	return stone
}

// wantRenewal checks that the token loads the tombstone of a renewal.
func (s *checked) wantRenewal(when, token string, want bool) {
	s.t.Helper()
	s.wantTombstone(when, token)
	rec, err := s.Load(s.t.Context(), cookieName, token)
	if err != nil || rec.Renewed != want {
		s.t.Fatalf("Load %s: a tombstone with Renewed %v, error %v; want %v", when, rec != nil && rec.Renewed, err, want)
	}
}

func testRenewed(s *checked) {
	for _, based := range []bool{false, true} {
		for renewed, stone := range map[bool]func(*sessions.Record) *sessions.Record{false: tombstone, true: renewal} {
			rec := newRecord()
			s.create(rec)
			var base int64
			if based {
				base = rec.Version
			}
			what := fmt.Sprintf("of a tombstone with Renewed %v and base %d", renewed, base)
			s.save(what, stone(rec), base)
			s.wantRenewal("after Save "+what, rec.Token, renewed)
		}
	}
}

func testTouch(s *checked) {
	rec := newRecord()
	rec.Persistent, rec.CustomIdle = true, true
	s.create(rec)
	want := copyOf(rec)
	want.Expires, want.Idle = rec.Expires.Add(time.Minute), 31*time.Minute

	given := blank(rec) // its other fields and its values must not reach the store
	given.Expires, given.Idle, given.Persistent, given.Secure, given.CustomIdle = want.Expires, want.Idle, false, true, false
	given.SetValue("who", json.RawMessage(`"`+secret+` of a touch"`))
	given.SetValue("more", json.RawMessage(`1`))
	s.touch("of a record", given)
	s.want("after Touch: only Expires and Idle may have changed", rec.Token, want)

	next := following(want)
	s.save("with the version that was touched as its base: Touch does not change it", next, want.Version)
}

func testTouchRenews(s *checked) {
	rec, token := s.brief()
	rec = copyOf(rec)
	later := copyOf(rec)
	later.Expires = rec.Created.Add(30 * time.Minute)
	_, err := s.Touch(s.t.Context(), cookieName, copyOf(later))
	if errors.Is(err, sessions.ErrGone) && !time.Now().Before(rec.Expires) {
		s.t.Skip("the store took so long that the record expired before it was touched")
	}
	if err != nil {
		s.t.Fatalf("Touch with a later expiry: %v", err)
	}
	await(rec.Expires)
	s.want("after the first expiry, when Touch has set a later one", token, later)

	soon := copyOf(later)
	soon.Expires = time.Now().Add(60 * time.Millisecond)
	if _, err := s.Touch(s.t.Context(), cookieName, copyOf(soon)); err != nil && !errors.Is(err, sessions.ErrGone) {
		s.t.Fatalf("Touch with an earlier expiry: %v", err)
	} else if err == nil && time.Now().Before(soon.Expires) { // a store of two may else have touched only one in time
		await(soon.Expires)
		s.awaitGone(token, soon.Expires)
	}
}

func testTouchPast(s *checked) {
	for name, expires := range map[string]time.Time{"a second ago": time.Now().Add(-time.Second), "in 1970": time.UnixMilli(0), "at the zero time": {}} {
		rec := newRecord()
		s.create(rec)
		past := copyOf(rec)
		past.Expires = expires
		if _, err := s.Touch(s.t.Context(), cookieName, past); err == nil {
			s.wantNone("after Touch with an expiry "+name+", which returned no error", rec.Token)
		} else if !errors.Is(err, sessions.ErrGone) {
			s.t.Fatalf("Touch with an expiry %s: error %v; want ErrGone", name, err)
		} else if got, err := s.Load(s.t.Context(), cookieName, rec.Token); err == nil && got.Expires.After(rec.Expires) {
			s.t.Fatalf("Touch with an expiry %s has moved the expiry to %v", name, got.Expires)
		}
	}
}

func testTouchNewer(s *checked) {
	rec := newRecord()
	s.create(rec)
	newer := following(rec)
	newer.SetValue("newer", json.RawMessage(`"`+secret+`"`))
	newer.Expires = rec.Expires.Add(time.Minute)
	there := copyOf(newer)
	s.save("of a newer version", newer, rec.Version)
	late := copyOf(rec)
	late.Expires = rec.Expires.Add(time.Second)
	s.touch("of a version that a parallel write has replaced: that write has renewed the expiry too", late)
	s.want("after Touch of an older version: the parallel write must survive", rec.Token, there)
}

func testTouchMissing(s *checked) {
	rec := newRecord()
	s.touchErr("of a record that was never there", rec, sessions.ErrGone)
	s.wantNone("after Touch of nothing: it must not create", rec.Token)

	gone := newRecord()
	s.create(gone)
	if err := s.Delete(s.t.Context(), cookieName, copyOf(gone)); err != nil {
		s.t.Fatalf("Delete: %v", err)
	}
	s.touchErr("of a record that was deleted", copyOf(gone), sessions.ErrGone)
	s.wantEnded("after Touch of a deleted record: it must not bring it back", gone.Token)

	brief, token := s.brief()
	brief = copyOf(brief)
	await(brief.Expires)
	s.awaitGone(token, brief.Expires)
	late := copyOf(brief)
	late.Expires = time.Now().Add(time.Minute)
	s.touchErr("of a record that has expired", late, sessions.ErrGone)
	s.wantNone("after Touch of an expired record: it must not bring it back", token)
}

func testDelete(s *checked) {
	other := newRecord()
	s.create(other)
	for what, than := range map[string]int64{"an older version": -1, "the version that is there": 0, "a newer version": 1} {
		rec := newRecord()
		s.create(rec)
		there := following(rec)
		s.save("of a newer version", there, rec.Version)
		given := copyOf(there)
		given.Version += than
		if err := s.Delete(s.t.Context(), cookieName, given); err != nil {
			s.t.Fatalf("Delete with %s: %v; want success: Delete must ignore the version", what, err)
		}
		s.wantEnded("after Delete with "+what, rec.Token)
		s.want("of another record, after Delete", other.Token, other)

		late := following(there)
		s.saveErr("with a base, after Delete", late, there.Version, sessions.ErrGone)
		s.wantEnded("after a late Save of a deleted record", rec.Token)
	}
}

func testDeleteDestroyed(s *checked) {
	rec := newRecord()
	s.create(rec)
	s.save("of a tombstone", tombstone(rec), rec.Version)
	for range 2 {
		if err := s.Delete(s.t.Context(), cookieName, copyOf(rec)); err != nil {
			s.t.Fatalf("Delete of a session that was destroyed: %v; want success: it has ended, as intended", err)
		}
		s.wantEnded("after Delete of a session that was destroyed", rec.Token)
	}
}

func testDeleteRenewed(s *checked) {
	rec := newRecord()
	s.create(rec)
	stone := renewal(rec)
	s.save("of the tombstone of a renewal", copyOf(stone), rec.Version)
	for what, given := range map[string]*sessions.Record{"the version before": rec, "the version of the tombstone": stone, "a later version": following(stone)} {
		err := s.Delete(s.t.Context(), cookieName, copyOf(given))
		s.wantErr("Delete of a session that was renewed, with "+what, err, sessions.ErrGone)
		s.wantRenewal("after Delete of a session that was renewed", rec.Token, true)
	}
}

// testDeleteBesideRenewal races a logout against a renewal. If both succeeded, the session would live on under its new
// token, although the user seems to be logged out.
func testDeleteBesideRenewal(s *checked) {
	for round := range 50 {
		rec := newRecord()
		s.create(rec)
		var deleted, renewed error
		parallel(2, func(i int) {
			if i == round%2 { // the goroutine started last usually runs first
				deleted = s.Delete(s.t.Context(), cookieName, copyOf(rec))
			} else {
				_, renewed = s.Save(s.t.Context(), cookieName, renewal(rec), rec.Version)
			}
		})
		switch {
		case deleted == nil && errors.Is(renewed, sessions.ErrGone), renewed == nil && errors.Is(deleted, sessions.ErrGone):
		default:
			s.t.Fatalf("Delete concurrent with Save of the tombstone of a renewal: %v, and %v; want success for one of them, and ErrGone for the "+
				"other: each must check and write in one atomic step", deleted, renewed)
		}
		s.wantEnded("after Delete concurrent with a renewal", rec.Token)
	}
}

func testDeleteMissing(s *checked) {
	rec := newRecord()
	if err := s.Delete(s.t.Context(), cookieName, copyOf(rec)); err != nil {
		s.t.Fatalf("Delete of a record that was never there: %v; want success", err)
	}
	s.wantEnded("after Delete of a record that was never there", rec.Token)
	rec = newRecord() // if Delete leaves a tombstone, the first session has ended for good
	s.create(rec)
	for range 2 {
		if err := s.Delete(s.t.Context(), cookieName, copyOf(rec)); err != nil {
			s.t.Fatalf("Delete, then Delete again: %v; want success both times", err)
		}
	}
	s.wantEnded("after two Deletes", rec.Token)
}

const writers = 50

// change loads a record, changes it and saves it, until that succeeds.
func (s *checked) change(token string, fn func(*sessions.Record)) error {
	ctx := s.t.Context()
	var rec *sessions.Record
	for range 20 * writers { // each conflict means that another writer got through, so this is more than enough
		if rec == nil {
			var err error
			if rec, err = s.Load(ctx, cookieName, token); err != nil {
				return err
			}
			if rec.Revoked {
				return sessions.ErrGone
			}
		}
		base := rec.Version
		rec.Version++
		fn(rec)
		_, err := s.Save(ctx, cookieName, rec, base)
		if !errors.Is(err, sessions.ErrConflict) {
			return err
		}
		rec = nil
		var found *sessions.ConflictError
		if errors.As(err, &found) {
			rec = found.Current
		}
	}
	return errors.New("Save returned ErrConflict more often than there are writers")
}

func testParallelWriters(s *checked) {
	rec := newRecord()
	rec.SetValue("count", json.RawMessage(`0`))
	s.create(rec)

	stop := make(chan struct{})
	var touching sync.WaitGroup
	for range 2 { // requests that only read, and extend the expiry
		touching.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				got, err := s.Load(s.t.Context(), cookieName, rec.Token)
				if err != nil {
					s.t.Errorf("Load while others write: %v", err)
					return
				}
				got.Expires = got.Expires.Add(time.Millisecond)
				if _, err := s.Touch(s.t.Context(), cookieName, got); err != nil {
					s.t.Errorf("Touch while others write: %v", err)
					return
				}
			}
		})
	}
	var loaded sync.WaitGroup
	loaded.Add(writers)
	parallel(writers, func(i int) {
		ready := sync.OnceFunc(loaded.Done)
		err := s.change(rec.Token, func(rec *sessions.Record) {
			ready()
			loaded.Wait() // all of them have the first version before any of them saves
			var n int
			count, _ := rec.Value("count")
			if json.Unmarshal(count, &n) != nil {
				s.t.Errorf("the value of count is not the number that was saved")
			}
			rec.SetValue("count", json.RawMessage(fmt.Sprint(n+1)))
			rec.SetValue(fmt.Sprint("writer ", i), json.RawMessage(`true`))
		})
		ready()
		if err != nil {
			s.t.Errorf("one of %d writers that load, change, save and try again: %v", writers, err)
		}
	})
	close(stop)
	touching.Wait()

	got, err := s.Load(s.t.Context(), cookieName, rec.Token)
	if err != nil {
		s.t.Fatalf("Load after %d parallel writers: %v", writers, err)
	}
	if count, _ := got.Value("count"); string(count) != fmt.Sprint(writers) {
		s.t.Errorf("%d writers each added 1, but the sum is %s: in Save and Touch, version check and write must be one atomic step", writers, count)
	}
	for i := range writers {
		if _, ok := got.Value(fmt.Sprint("writer ", i)); !ok {
			s.t.Errorf("the write of writer %d of %d is lost", i, writers)
		}
	}
}

func testParallelDestroy(s *checked) {
	rec := newRecord()
	s.create(rec)
	destroyed := make(chan struct{})
	var started, ended sync.WaitGroup
	for i := range 10 {
		started.Add(1)
		begun := sync.OnceFunc(started.Done)
		ended.Go(func() {
			defer begun()
			for {
				late := false
				select {
				case <-destroyed:
					late = true
				default:
				}
				err := s.change(rec.Token, func(rec *sessions.Record) {
					begun()
					if i%2 == 0 { // these have a live version, and save it when it is too late; the others just continue
						<-destroyed
						late = true
					}
					rec.SetValue(fmt.Sprint("writer ", i), json.RawMessage(`true`))
				})
				switch {
				case errors.Is(err, sessions.ErrGone):
					return
				case err != nil:
					s.t.Errorf("a writer while the session is destroyed: %v; want success before, and ErrGone after", err)
					return
				case late:
					s.t.Errorf("a writer succeeded after the session was destroyed; want ErrGone")
					return
				}
			}
		})
	}
	started.Wait()
	if _, err := s.Save(s.t.Context(), cookieName, tombstone(rec), 0); err != nil {
		s.t.Errorf("Save of a tombstone with base 0, while others write: %v", err)
	}
	close(destroyed)
	ended.Wait()
	s.wantTombstone("after the writers have ended", rec.Token)
}

// parallel runs fn n times concurrently, and waits.
func parallel(n int, fn func(i int)) {
	var done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		done.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	done.Wait()
}
