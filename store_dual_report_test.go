package sessions_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

// reported is a DualStore over two stores that a test can spy on.
type reported struct {
	*sessions.DualStore
	t        *testing.T
	old, new *spyStore
}

func newReported(t *testing.T, old, new sessions.Store, phase sessions.Phase, edits ...func(*sessions.DualStoreConfig)) *reported {
	t.Helper()
	recordsMade.Store(0)
	r := &reported{t: t, old: &spyStore{Store: old}, new: &spyStore{Store: new}}
	cfg := sessions.DualStoreConfig{Old: r.old, New: r.new, Phase: phase}
	for _, edit := range edits {
		edit(&cfg)
	}
	var err error
	r.DualStore, err = sessions.NewDualStore(cfg)
	require.NoError(t, err)
	return r
}

func compareAll(c *sessions.DualStoreConfig)      { c.CompareFraction = 1 }
func checkRevoked(c *sessions.DualStoreConfig)    { c.CheckRevoked = true }
func fallbackOnError(c *sessions.DualStoreConfig) { c.FallbackOnError = true }
func readOldHalf(c *sessions.DualStoreConfig)     { c.ReadOldFraction = 0.5 }
func adoptUntil(at time.Time) func(*sessions.DualStoreConfig) {
	return func(c *sessions.DualStoreConfig) { c.AdoptUntil = at }
}

// put writes a new record, and returns the token to present.
func put(t *testing.T, store sessions.Store, rec *sessions.Record) string {
	t.Helper()
	token, err := store.Save(context.Background(), "session", rec, 0)
	require.NoError(t, err)
	return token
}

func (r *reported) loads(token string, times int) {
	r.t.Helper()
	for range times {
		_, err := r.Load(context.Background(), "session", token)
		require.NoError(r.t, err)
	}
}

// recordOf returns a record that was written this long ago.
//
// Its token is the next of a fixed row: the number of sessions is an estimate, which with these few is exact.
func recordOf(age time.Duration, values ...string) *sessions.Record {
	rec := newRedisRecord(24*time.Hour, 14*24*time.Hour)
	rec.Token = fmt.Sprintf("%021dA", recordsMade.Add(1))
	rec.ID, _ = sessions.TokenID(rec.Token)
	rec.Version -= age.Microseconds()
	for i := 0; i+1 < len(values); i += 2 {
		rec.SetValue(values[i], json.RawMessage(values[i+1]))
	}
	return rec
}

var recordsMade atomic.Int64

// bareOf returns a copy of a record without its values.
func bareOf(r *sessions.Record) *sessions.Record {
	return &sessions.Record{ID: r.ID, Token: r.Token, Version: r.Version, Created: r.Created, Idle: r.Idle, Expires: r.Expires, Deadline: r.Deadline}
}

// likeIt returns a copy of a record, changed.
func likeIt(rec *sessions.Record, change func(*sessions.Record)) *sessions.Record {
	d := bareOf(rec)
	for k, v := range rec.Values() {
		d.SetValue(k, v)
	}
	if change != nil {
		change(d)
	}
	return d
}

// requireFigures holds the counts of a report to what they should be; those that are not named must be zero.
func requireFigures(t *testing.T, r sessions.DualReport, want map[string]int64) {
	t.Helper()
	got := map[string]int64{
		"reads": r.Reads, "sessions": r.Sessions, "only in new": r.OnlyInNew, "asked": r.Asked, "found": r.Found,
		"adopted": r.Adopted, "too late": r.TooLate, "resealed": r.Resealed, "revoked": r.RevokedHits, "fallback": r.FallbackReads,
		"token only": r.TokenOnly, "new write errors ignored": r.NewWriteErrorsIgnored, "old write errors ignored": r.OldWriteErrorsIgnored,
		"tombstones": r.TombstonesFailed, "tombstones lost": r.TombstonesLost,
		"old loads": r.Old.Loads, "old load errors": r.Old.LoadErrors, "old writes": r.Old.Writes, "old write errors": r.Old.WriteErrors,
		"new loads": r.New.Loads, "new load errors": r.New.LoadErrors, "new writes": r.New.Writes, "new write errors": r.New.WriteErrors,
		"compared": r.Compared.Reads,
	}
	for name, n := range got {
		if n == 0 {
			delete(got, name)
		}
	}
	require.Equal(t, want, got)
}

func TestP15_ReportCompare(t *testing.T) {
	const secret = `"the secret value"`
	values := []string{"user", secret, "deep", `{"a":[1,2],"b":{"c":12345678901234567}}`}
	for _, c := range []struct {
		name    string
		age     time.Duration                           // of the old copy; the phase is an hour old
		change  func(*sessions.Record) *sessions.Record // makes the new copy
		outcome sessions.Outcome                        // none: equal
		ok      bool                                    // explained
		cookie  bool                                    // with a cookie as the old store it is not
	}{
		{name: "the same", age: time.Minute, change: func(r *sessions.Record) *sessions.Record { return r }},
		{name: "order and spaces", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			bare := bareOf(r)
			bare.SetValue("deep", json.RawMessage(`{"b":{"c":12345678901234567},"a":[1,2]}`))
			bare.SetValue("user", json.RawMessage(`"the secret v\u0061lue"`))
			return bare
		}},
		{name: "missing", age: time.Minute, change: func(*sessions.Record) *sessions.Record { return nil }, outcome: sessions.OutcomeMissing},
		{name: "missing from before the phase", age: 2 * time.Hour, change: func(*sessions.Record) *sessions.Record { return nil }, outcome: sessions.OutcomeMissing, ok: true},
		{name: "missing between two writes", age: time.Second, change: func(*sessions.Record) *sessions.Record { return nil }, outcome: sessions.OutcomeMissing, ok: true, cookie: true},
		{name: "older", age: time.Minute, change: func(r *sessions.Record) *sessions.Record { r.Version--; return r }, outcome: sessions.OutcomeOlder},
		{name: "older from before the phase", age: 2 * time.Hour, change: func(r *sessions.Record) *sessions.Record { r.Version--; return r }, outcome: sessions.OutcomeOlder, ok: true},
		{name: "older between two writes", age: time.Second, change: func(r *sessions.Record) *sessions.Record { r.Version--; return r }, outcome: sessions.OutcomeOlder, ok: true, cookie: true},
		{name: "newer", age: time.Minute, change: func(r *sessions.Record) *sessions.Record { r.Version++; return r }, outcome: sessions.OutcomeNewer, ok: true},
		{name: "another value", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			r.SetValue("user", json.RawMessage(`"another secret value"`))
			return r
		}, outcome: sessions.OutcomeDifferent},
		{name: "a large number, off by one", age: 2 * time.Hour, change: func(r *sessions.Record) *sessions.Record {
			r.SetValue("deep", json.RawMessage(`{"a":[1,2],"b":{"c":12345678901234568}}`))
			return r
		}, outcome: sessions.OutcomeDifferent},
		{name: "one key more", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			r.SetValue("more", json.RawMessage(`1`))
			return r
		}, outcome: sessions.OutcomeDifferent},
		{name: "another key", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			other := bareOf(r)
			other.SetValue("user", json.RawMessage(secret))
			other.SetValue("deeper", json.RawMessage(values[3]))
			return other
		}, outcome: sessions.OutcomeDifferent},
		{name: "expires a touch earlier", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			r.Expires = r.Expires.Add(-3 * time.Hour)
			return r
		}},
		{name: "expires earlier", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			r.Expires = r.Expires.Add(-3*time.Hour - 2*time.Second)
			return r
		}, outcome: sessions.OutcomeExpiryDiffers},
		{name: "expires later", age: time.Minute, change: func(r *sessions.Record) *sessions.Record {
			r.Expires = r.Expires.Add(4 * time.Hour)
			return r
		}, outcome: sessions.OutcomeExpiryDiffers, ok: true},
	} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, cookie=%v", c.name, sealed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var old sessions.Store = sessiontest.NewMemoryStore()
					if sealed {
						old = cookieStoreWith(t, secretA)
					}
					d := newReported(t, old, sessiontest.NewMemoryStore(), sessions.DualReadOld, compareAll)
					time.Sleep(time.Hour) // the phase is that old
					rec := recordOf(c.age, values...)
					token := put(t, old, rec)
					if other := c.change(likeIt(rec, nil)); other != nil {
						put(t, d.new.Store, other)
					}
					s := newSite(t, d.DualStore)
					b := s.browser().hold(token)
					require.JSONEq(t, values[3], strings.Replace(b.get("deep"), "568", "567", 1))

					explained := c.ok && !(sealed && c.cookie)
					r := d.Report()
					want := map[sessions.Outcome]int64{c.outcome: 1}
					require.Equal(t, want[""], r.Compared.Equal)
					require.Equal(t, want[sessions.OutcomeMissing], r.Compared.Missing)
					require.Equal(t, want[sessions.OutcomeOlder], r.Compared.Older)
					require.Equal(t, want[sessions.OutcomeNewer], r.Compared.Newer)
					require.Equal(t, want[sessions.OutcomeDifferent], r.Compared.Different)
					require.Equal(t, want[sessions.OutcomeExpiryDiffers], r.Compared.Expiry)
					require.EqualValues(t, 1, r.Compared.Reads)
					unexplained := int64(0)
					if c.outcome != "" && !explained {
						unexplained = 1
					}
					require.Equal(t, unexplained, r.Compared.Unexplained)
					require.Equal(t, unexplained, r.Recent.Unexplained)
					require.EqualValues(t, 1, r.Recent.Compared)

					if c.outcome == "" {
						require.Equal(t, []string{"load loaded"}, s.events.outcomes())
						return
					}
					events := s.events.with(c.outcome)
					require.Len(t, events, 1)
					require.Equal(t, sessions.EventMismatch, events[0].Kind)
					require.Equal(t, rec.ID, events[0].SessionID)
					require.Len(t, s.log.lines("store differ"), int(unexplained), "%s", s.log)
					for _, line := range s.log.lines("store differ") {
						require.Contains(t, line, "level=WARN")
					}
					for _, text := range []string{s.log.String(), fmt.Sprintf("%+v", events), r.String()} {
						require.NotContains(t, text, "secret")
						require.NotContains(t, text, rec.Token)
					}
				})
			})
		}
	}
}

// That a session was ended in the new store is what a tombstone is for, and no mismatch.
func TestReportComparesNoTombstone(t *testing.T) {
	d := newReported(t, cookieStoreWith(t, secretA), sessiontest.NewMemoryStore(), sessions.DualReadOld, compareAll)
	rec := recordOf(0)
	token := put(t, d, rec)
	require.NoError(t, d.Delete(context.Background(), "session", rec))
	s := newSite(t, d.DualStore)
	require.Empty(t, s.browser().hold(token).get("a"))
	require.Zero(t, d.Report().Compared.Reads)
	require.EqualValues(t, 1, d.Report().RevokedHits)
	require.Equal(t, []string{"reject revoked", "load none"}, s.events.outcomes())
}

// Only the share of reads that was asked for is compared, and only in DualReadOld.
func TestReportCompareFraction(t *testing.T) {
	for _, c := range []struct {
		phase       sessions.Phase
		fraction    float64
		least, most int64
	}{
		{sessions.OldOnly, 1, 0, 0}, {sessions.DualReadOld, 0, 0, 0}, {sessions.DualReadOld, 0.25, 150, 350},
		{sessions.DualReadOld, 1, 1000, 1000}, {sessions.DualReadNew, 1, 0, 0}, {sessions.NewOnly, 1, 0, 0},
	} {
		for _, check := range []bool{false, true} {
			d := newReported(t, sessiontest.NewMemoryStore(), sessiontest.NewMemoryStore(), c.phase, func(cfg *sessions.DualStoreConfig) {
				cfg.CompareFraction, cfg.CheckRevoked = c.fraction, check
			})
			rec := recordOf(0, "a", "1")
			put(t, d.old.Store, rec)
			d.loads(put(t, d.new.Store, rec), 1000)
			n := d.Report().Compared.Reads
			require.GreaterOrEqual(t, n, c.least, "%+v", c)
			require.LessOrEqual(t, n, c.most, "%+v", c)
		}
	}
}

// newStores are those to which a migration goes.
func newStores(t *testing.T, test func(t *testing.T, fresh func(t *testing.T) sessions.Store)) {
	for _, sc := range []storeCase{memoryStore, redisStore} {
		t.Run(sc.name, func(t *testing.T) {
			if !sc.network {
				test(t, sc.make)
				return
			}
			rdb := redistest.Start(t).Client(t)
			checkTTLs(t, rdb)
			test(t, func(t *testing.T) sessions.Store { return redisStoreOver(t, rdb) })
		})
	}
}

func TestP15_ReportFigures(t *testing.T) {
	type M = map[string]int64
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		phase  sessions.Phase
		edit   func(*sessions.DualStoreConfig)
		cookie bool
		do     func(t *testing.T, d *reported, old sessions.Store)
		want   M
	}{
		{"OldOnly", sessions.OldOnly, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			d.loads(put(t, d, recordOf(0)), 3)
			d.loads(put(t, d, recordOf(0)), 1)
			_, err := d.Load(ctx, "session", sessions.NewToken())
			require.ErrorIs(t, err, sessions.ErrNotFound)
			_, err = d.Load(ctx, "session", "malformed")
			require.ErrorIs(t, err, sessions.ErrNotFound)
		}, M{"reads": 6, "sessions": 2, "old loads": 5, "old writes": 2}},
		{"errors of the old store", sessions.OldOnly, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			d.old.fail("load", "save", "touch", "delete")
			_, err := d.Load(ctx, "session", rec.Token)
			require.ErrorIs(t, err, errStore)
			_, err = d.Save(ctx, "session", rec, 0)
			require.ErrorIs(t, err, errStore)
			_, err = d.Touch(ctx, "session", rec)
			require.ErrorIs(t, err, errStore)
			require.ErrorIs(t, d.Delete(ctx, "session", rec), errStore)
		}, M{"reads": 1, "old loads": 1, "old load errors": 1, "old writes": 3, "old write errors": 3}},
		{"a conflict is no error", sessions.NewOnly, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			put(t, d, rec)
			_, err := d.Save(ctx, "session", rec, 0)
			require.ErrorIs(t, err, sessions.ErrConflict)
		}, M{"sessions": 1, "only in new": 1, "new writes": 2}},
		{"a client that hangs up is no error", sessions.NewOnly, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := d.Load(ctx, "session", sessions.NewToken())
			require.ErrorIs(t, err, context.Canceled)
		}, M{"reads": 1, "new loads": 1}},
		{"coverage in DualReadOld", sessions.DualReadOld, checkRevoked, false, func(t *testing.T, d *reported, old sessions.Store) {
			both, oldOnly, newOnly := recordOf(0), recordOf(0), recordOf(0)
			put(t, d, both)
			put(t, d.old.Store, oldOnly)
			put(t, d.new.Store, newOnly)
			d.loads(both.Token, 5)
			d.loads(oldOnly.Token, 2)
			d.loads(newOnly.Token, 1) // says nothing of those that the old store has
			_, err := d.Load(ctx, "session", sessions.NewToken())
			require.ErrorIs(t, err, sessions.ErrNotFound)
		}, M{"reads": 9, "sessions": 3, "only in new": 1, "asked": 7, "found": 5, "old loads": 9, "old writes": 1, "new loads": 9, "new writes": 1}},
		{"adopted in DualReadNew", sessions.DualReadNew, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			d.loads(put(t, old, recordOf(0)), 3)
		}, M{"reads": 3, "sessions": 1, "asked": 3, "found": 2, "adopted": 1, "old loads": 3, "new loads": 3, "new writes": 1}},
		{"adopted from a cookie in NewOnly", sessions.NewOnly, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			d.loads(put(t, old, rec), 2) // two tabs
			d.loads(rec.Token, 1)
		}, M{"reads": 3, "sessions": 1, "only in new": 1, "asked": 3, "found": 2, "adopted": 1, "resealed": 2, "old loads": 2, "new loads": 3, "new writes": 1}},
		{"too late", sessions.NewOnly, adoptUntil(time.Now()), true, func(t *testing.T, d *reported, old sessions.Store) {
			_, err := d.Load(ctx, "session", put(t, old, recordOf(0)))
			require.ErrorIs(t, err, sessions.ErrNotFound)
		}, M{"reads": 1, "too late": 1, "old loads": 1, "new loads": 1}},
		{"resealed", sessions.DualReadNew, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			d.loads(put(t, d.new.Store, recordOf(0)), 2)
		}, M{"reads": 2, "sessions": 1, "asked": 2, "found": 2, "resealed": 2, "old writes": 2, "new loads": 2}},
		{"revoked", sessions.DualReadNew, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			token := put(t, d, rec)
			require.NoError(t, d.Delete(ctx, "session", rec))
			got, err := d.Load(ctx, "session", token)
			require.NoError(t, err)
			require.True(t, got.Revoked)
		}, M{"reads": 1, "sessions": 1, "revoked": 1, "old loads": 1, "old writes": 2, "new loads": 1, "new writes": 2}},
		{"revoked while it is adopted", sessions.NewOnly, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			d.new.before(func(_ context.Context, op string, _ *sessions.Record) error {
				if op == "save" {
					put(t, d.new.Store, likeIt(rec, func(r *sessions.Record) { r.Revoked = true; r.Version++ }))
				}
				return nil
			})
			got, err := d.Load(ctx, "session", put(t, old, rec))
			require.NoError(t, err)
			require.True(t, got.Revoked)
		}, M{"reads": 1, "revoked": 1, "old loads": 1, "new loads": 1, "new writes": 1}},
		{"fallback", sessions.DualReadNew, fallbackOnError, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			token := put(t, d, rec)
			d.new.fail("load", "save")
			d.loads(token, 2)
			rec, err := d.Load(ctx, "session", token)
			require.NoError(t, err)
			base := rec.Version
			rec.Version++
			_, err = d.Save(ctx, "session", rec, base)
			require.NoError(t, err)
		}, M{"reads": 3, "sessions": 1, "fallback": 3, "new write errors ignored": 1, "old loads": 3, "old writes": 2, "new loads": 3, "new load errors": 3, "new writes": 2, "new write errors": 1}},
		{"the new store refuses in DualReadOld", sessions.DualReadOld, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			d.new.fail("save", "touch")
			put(t, d, rec)
			_, err := d.Touch(ctx, "session", rec)
			require.NoError(t, err)
		}, M{"sessions": 1, "new write errors ignored": 2, "old writes": 2, "new writes": 2, "new write errors": 2}},
		{"the new store refuses in DualReadNew", sessions.DualReadNew, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			d.new.fail("save", "touch")
			_, err := d.Save(ctx, "session", recordOf(0), 0)
			require.ErrorIs(t, err, errStore)
		}, M{"old writes": 1, "new writes": 1, "new write errors": 1}},
		{"the old store refuses in DualReadNew", sessions.DualReadNew, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			d.old.fail("save", "delete")
			put(t, d, rec)
			require.NoError(t, d.Delete(ctx, "session", rec))
		}, M{"sessions": 1, "old write errors ignored": 2, "old writes": 2, "old write errors": 2, "new writes": 2}},
		{"a touch of what the new store does not have", sessions.DualReadOld, nil, false, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			put(t, old, rec)
			_, _ = d.Touch(ctx, "session", rec)
			require.Zero(t, d.Report().NewWriteErrorsIgnored, "it answered")
			require.EqualValues(t, 1, d.Report().New.Writes)
			d.SetPhase(sessions.DualReadNew) // the figures begin anew
		}, M{}},
		{"tombstones, not promised", sessions.DualReadOld, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			put(t, d, rec)
			d.new.fail("save")
			require.NoError(t, d.Delete(ctx, "session", rec))
			stone := likeIt(rec, func(r *sessions.Record) { r.Revoked = true; r.Version++ })
			_, err := d.Save(ctx, "session", stone, rec.Version)
			require.NoError(t, err)
		}, M{"sessions": 1, "tombstones": 2, "tombstones lost": 2, "old writes": 3, "new writes": 3, "new write errors": 2}},
		{"tombstones, promised", sessions.DualReadOld, checkRevoked, true, func(t *testing.T, d *reported, old sessions.Store) {
			rec := recordOf(0)
			put(t, d, rec)
			d.new.fail("save")
			require.ErrorIs(t, d.Delete(ctx, "session", rec), errStore)
			stone := likeIt(rec, func(r *sessions.Record) { r.Revoked = true; r.Version++ })
			_, err := d.Save(ctx, "session", stone, rec.Version)
			require.ErrorIs(t, err, errStore)
		}, M{"sessions": 1, "tombstones": 2, "old writes": 2, "new writes": 3, "new write errors": 2}},
		{"too large for a cookie", sessions.DualReadNew, nil, true, func(t *testing.T, d *reported, old sessions.Store) {
			large := recordOf(0, "large", `"`+strings.Repeat("x", 4096)+`"`)
			require.Equal(t, large.Token, put(t, d, large))
		}, M{"sessions": 1, "token only": 1, "old writes": 1, "new writes": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			newStores(t, func(t *testing.T, fresh func(*testing.T) sessions.Store) {
				var old sessions.Store = sessiontest.NewMemoryStore()
				if c.cookie {
					old = cookieStoreWith(t, secretA)
				}
				var edits []func(*sessions.DualStoreConfig)
				if c.edit != nil {
					edits = append(edits, c.edit)
				}
				d := newReported(t, old, fresh(t), c.phase, edits...)
				c.do(t, d, old)
				requireFigures(t, d.Report(), c.want)
			})
		})
	}
}

// A change of the phase begins the figures anew; setting the same phase again does not.
func TestReportSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newReported(t, sessiontest.NewMemoryStore(), sessiontest.NewMemoryStore(), sessions.OldOnly)
		start := time.Now().UTC()
		token := put(t, d, recordOf(0))
		d.loads(token, 2)
		time.Sleep(time.Minute)
		d.SetPhase(sessions.OldOnly)
		r := d.Report()
		require.Equal(t, sessions.OldOnly, r.Phase)
		require.Equal(t, start, r.Since)
		require.Equal(t, start.Add(time.Minute), r.At)
		require.EqualValues(t, 2, r.Reads)

		d.SetPhase(sessions.DualReadOld)
		d.loads(token, 1)
		time.Sleep(time.Minute)
		r = d.Report()
		require.Equal(t, sessions.DualReadOld, r.Phase)
		require.Equal(t, start.Add(time.Minute), r.Since)
		require.EqualValues(t, 1, r.Reads)
		require.EqualValues(t, 1, r.Old.Loads)
	})
}

func TestReportLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newReported(t, sessiontest.NewMemoryStore(), sessiontest.NewMemoryStore(), sessions.NewOnly)
		n := 0
		d.new.before(func(_ context.Context, op string, _ *sessions.Record) error {
			n++
			switch {
			case op == "save":
				time.Sleep(30 * time.Microsecond)
			case n%25 == 0: // 4 in 100
				time.Sleep(80 * time.Millisecond)
			default:
				time.Sleep(2 * time.Millisecond)
			}
			return nil
		})
		d.loads(put(t, d, recordOf(0)), 1000)
		within := func(got, want time.Duration) {
			t.Helper()
			require.GreaterOrEqual(t, got, want)
			require.LessOrEqual(t, got, want*5/4)
		}
		r := d.Report()
		within(r.New.LoadP50, 2*time.Millisecond)
		within(r.New.LoadP99, 80*time.Millisecond)
		within(r.New.WriteP50, 30*time.Microsecond)
		within(r.New.WriteP99, 30*time.Microsecond)
		require.Zero(t, r.Old.LoadP99)
		require.Contains(t, strings.Join(r.Missing, "\n"), "the new store is slow: its load latency has a p99 of 84ms")
	})
}

// What went wrong long ago does not stand in the way for ever.
func TestReportForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newReported(t, sessiontest.NewMemoryStore(), sessiontest.NewMemoryStore(), sessions.DualReadOld, compareAll)
		time.Sleep(time.Hour)
		missing, both := recordOf(time.Minute), recordOf(time.Minute)
		put(t, d.old.Store, missing)
		put(t, d, both)
		d.loads(missing.Token, 100)
		d.loads(both.Token, 9900)
		r := d.Report()
		require.InDelta(t, 0.99, r.Coverage(), 1e-9)
		require.EqualValues(t, 100, r.Recent.Unexplained)
		require.Contains(t, r.String(), "9900 found of 10000 asked; recently 99.00%")
		require.False(t, r.Safe)
		d.loads(both.Token, 9999)
		require.EqualValues(t, 19999, d.Report().Recent.Asked)
		require.False(t, d.Report().Safe)
		d.loads(both.Token, 1)
		r = d.Report()
		require.EqualValues(t, 10000, r.Recent.Asked)
		require.EqualValues(t, 1, r.Coverage())
		require.EqualValues(t, 100, r.Compared.Unexplained, "but nothing is hidden")
		require.EqualValues(t, 20000, r.Asked)
		require.EqualValues(t, 19900, r.Found)
		require.True(t, r.Safe, r.Missing)
	})
}

// constant is a store that answers at once, and without an allocation.
type constant struct{ rec *sessions.Record }

func (s constant) Load(context.Context, string, string) (*sessions.Record, error) { return s.rec, nil }
func (s constant) Save(context.Context, string, *sessions.Record, int64) (string, error) {
	return s.rec.Token, nil
}
func (s constant) Touch(context.Context, string, *sessions.Record) (string, error) {
	return s.rec.Token, nil
}
func (s constant) Delete(context.Context, string, *sessions.Record) error { return nil }

func TestReportSessions(t *testing.T) {
	for _, n := range []int{0, 1, 2, 100, 3000, 20_000, 200_000} {
		rec := recordOf(0)
		d := newReported(t, constant{rec}, constant{recordOf(0)}, sessions.OldOnly)
		for i := range n {
			rec.ID = fmt.Sprintf("session-%d", i)
			d.loads("", 2)
		}
		got := float64(d.Report().Sessions)
		require.LessOrEqual(t, math.Abs(got-float64(n)), 0.05*float64(n), "%v of %d", got, n)
	}
}

// unsealed is a codec without a pool, whose allocations are always as many.
type unsealed struct{}

func (unsealed) Seal(_ string, plain []byte) (string, error) {
	return base64.RawURLEncoding.EncodeToString(plain), nil
}
func (unsealed) Open(_, sealed string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(sealed)
}

// Counting costs no allocation: each call has as many as the store makes by itself.
func TestReportAllocations(t *testing.T) {
	ctx := context.Background()
	old, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: unsealed{}})
	require.NoError(t, err)
	rec := recordOf(0, "a", "1")
	token := put(t, old, rec)
	d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: sessiontest.NewMemoryStore()})
	require.NoError(t, err)
	allocs := func(op func(sessions.Store)) (bare, counted float64) {
		return testing.AllocsPerRun(500, func() { op(old) }), testing.AllocsPerRun(500, func() { op(d) })
	}
	for name, op := range map[string]func(sessions.Store){
		"load":   func(s sessions.Store) { _, _ = s.Load(ctx, "session", token) },
		"save":   func(s sessions.Store) { _, _ = s.Save(ctx, "session", rec, 0) },
		"touch":  func(s sessions.Store) { _, _ = s.Touch(ctx, "session", rec) },
		"delete": func(s sessions.Store) { _ = s.Delete(ctx, "session", rec) },
	} {
		bare, counted := allocs(op)
		require.Equal(t, bare, counted, name)
	}
	require.Positive(t, d.Report().Reads)
}

func TestReportRace(t *testing.T) {
	d := newReported(t, sessiontest.NewMemoryStore(), sessiontest.NewMemoryStore(), sessions.DualReadOld, compareAll)
	token := put(t, d, recordOf(0, "a", "1"))
	const workers, each = 4, 3000
	crowd := func(during func()) {
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					_, _ = d.Load(context.Background(), "session", token)
				}
			})
		}
		wg.Go(during)
		wg.Wait()
	}
	crowd(func() {
		for range 20 {
			if asked := d.Report().Recent.Asked; asked > 2*10_000 {
				t.Errorf("%d of the last 20,000", asked)
			}
		}
	})
	r := d.Report()
	require.EqualValues(t, workers*each, r.Reads)
	require.EqualValues(t, workers*each, r.Asked)
	require.EqualValues(t, workers*each, r.Compared.Equal)
	require.EqualValues(t, workers*each, r.Recent.Compared)
	require.EqualValues(t, 1, r.Sessions)

	crowd(func() {
		for i := range 50 {
			d.SetPhase(sessions.Phase(i % 4))
			if got := d.Report().Phase; got != sessions.Phase(i%4) {
				t.Errorf("phase %v after %v was set", got, sessions.Phase(i%4))
			}
		}
	})
}

func TestReportPhaseEvent(t *testing.T) {
	d := newReported(t, cookieStoreWith(t, secretA), sessiontest.NewMemoryStore(), sessions.DualReadOld)
	s := newSite(t, d.DualStore)
	b := s.browser()
	b.set("a", 1)
	b.get("a")
	require.Empty(t, s.events.with(sessions.OutcomeChanged), "where the program starts is no change")

	d.SetPhase(sessions.DualReadNew)
	_, _ = d.Load(context.Background(), "session", "") // nobody to tell
	b.get("a")
	b.get("a")
	d.SetPhase(sessions.DualReadNew)
	b.get("a")
	events := s.events.with(sessions.OutcomeChanged)
	require.Len(t, events, 1)
	require.Equal(t, sessions.EventPhase, events[0].Kind)
	require.Equal(t, "to DualReadNew", events[0].Detail)
	require.Len(t, s.log.lines("level=INFO msg=\"sessions: the phase of the migration has changed\""), 1)

	d.SetPhase(sessions.DualReadOld)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { b.clone().get("a") })
	}
	wg.Wait()
	require.Len(t, s.events.with(sessions.OutcomeChanged), 2)
}

func TestReportAdoptedEvent(t *testing.T) {
	for _, phase := range []sessions.Phase{sessions.DualReadNew, sessions.NewOnly} {
		d := newReported(t, cookieStoreWith(t, secretA), sessiontest.NewMemoryStore(), sessions.OldOnly)
		s := newSite(t, d.DualStore)
		b := s.browser()
		b.set("a", 1)
		id := b.id()
		d.SetPhase(phase)
		s.events.reset()
		require.Equal(t, "1", b.get("a"))
		require.Equal(t, "1", b.get("a"))
		require.Equal(t, []string{"phase changed", "load adopted", "load loaded"}, s.events.outcomes())
		require.Equal(t, id, s.events.with(sessions.OutcomeAdopted)[0].SessionID)
	}
}

// With two Managers around one handler, each hears of its own store.
func TestReportEventsOfTwoManagers(t *testing.T) {
	d := newReported(t, cookieStoreWith(t, secretA), sessiontest.NewMemoryStore(), sessions.OldOnly)
	outer, inner := &eventRecorder{}, &eventRecorder{}
	a, err := sessions.New(sessions.Config{Store: d.DualStore, Observe: outer.observe})
	require.NoError(t, err)
	b, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Cookie: sessions.Cookie{Name: "other"}, Observe: inner.observe})
	require.NoError(t, err)
	s := newSite(t, sessiontest.NewMemoryStore())
	s.handler = a.Wrap(b.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := a.Get(r.Context())
		require.NoError(t, err)
	})))
	d.SetPhase(sessions.DualReadOld)
	s.browser().hold(put(t, d, recordOf(0))).do(nil)
	require.Equal(t, []string{"phase changed", "load loaded"}, outer.outcomes())
	require.Empty(t, inner.outcomes())
}

// A store that fails the whole time does not fill the log.
func TestReportMismatchLogIsBounded(t *testing.T) {
	d := newReported(t, cookieStoreWith(t, secretA), sessiontest.NewMemoryStore(), sessions.DualReadOld, compareAll)
	s := newSite(t, d.DualStore)
	b := s.browser()
	d.new.fail("save")
	b.set("a", 1)
	for range 1010 {
		b.get("a")
	}
	require.Len(t, s.events.with(sessions.OutcomeMissing), 1010)
	require.Len(t, s.log.lines("store differ"), 1000)
}

// checkedStore is a store that says how it is.
type checkedStore struct {
	sessions.Store
	health sessions.RedisHealth
	err    error
}

func (h *checkedStore) Check(ctx context.Context) (sessions.RedisHealth, error) {
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 2*time.Second {
		return h.health, errNoTimeout
	}
	return h.health, h.err
}

var errNoTimeout = errors.New("asked without a timeout of its own")

// migration is a DualStore in which all that a phase asks for has been done, unless a test does something else first.
type migration struct {
	*sessions.DualStore
	t        *testing.T
	old      sessions.Store
	spy      *spyStore // the new store
	health   *sessions.RedisHealth
	checked  *checkedStore
	sessions []*sessions.Record
}

func newMigration(t *testing.T, phase sessions.Phase, edits ...func(*sessions.DualStoreConfig)) *migration {
	t.Helper()
	recordsMade.Store(0)
	m := &migration{t: t, old: cookieStoreWith(t, secretA), spy: &spyStore{Store: sessiontest.NewMemoryStore()}}
	m.checked = &checkedStore{Store: m.spy, health: sessions.RedisHealth{
		Policy: "noeviction", PolicyVerdict: "ok", PolicyReason: "no key is evicted",
		Version: "7.4.0", Role: "master", Nodes: 1, UsedMemory: 5 << 20, MaxMemory: 100 << 20, Keys: 10_000,
	}}
	m.health = &m.checked.health
	cfg := sessions.DualStoreConfig{Old: m.old, New: m.checked, Phase: phase, CompareFraction: 1, AdoptUntil: time.Now().Add(time.Hour)}
	for _, edit := range edits {
		edit(&cfg)
	}
	var err error
	m.DualStore, err = sessions.NewDualStore(cfg)
	require.NoError(t, err)
	return m
}

// traffic is this many reads of three sessions that have been written in the phase.
func (m *migration) traffic(reads int) {
	m.t.Helper()
	var cookies []string
	for range 3 {
		rec := recordOf(0)
		cookies = append(cookies, put(m.t, m, rec))
		m.sessions = append(m.sessions, rec)
	}
	for i := range reads {
		_, err := m.Load(context.Background(), "session", cookies[i%3])
		require.NoError(m.t, err)
	}
}

func TestP15_ReportVerdict(t *testing.T) {
	const reads = 1200
	ctx := context.Background()
	type edits = []func(*sessions.DualStoreConfig)
	unwritten := func(m *migration) { // a share of 1/301 of the sessions is not in the new store
		token := put(m.t, m.old, recordOf(2*time.Hour))
		for range reads / 300 {
			_, err := m.Load(ctx, "session", token)
			require.NoError(m.t, err)
			rec := recordOf(2 * time.Hour) // DualReadNew adopts the first
			_, err = m.Load(ctx, "session", put(m.t, m.old, rec))
			require.NoError(m.t, err)
		}
	}
	failing := func(op string) func(*migration) {
		return func(m *migration) {
			m.spy.fail(op)
			_, _ = m.Load(ctx, "session", m.sessions[0].Token)
			rec := recordOf(0)
			_, _ = m.Save(ctx, "session", rec, 0)
			m.spy.fail()
		}
	}
	slow := func(op string) func(*migration) {
		return func(m *migration) {
			m.spy.before(func(_ context.Context, what string, _ *sessions.Record) error {
				if what == op {
					time.Sleep(60 * time.Millisecond)
				}
				return nil
			})
			for range 20 {
				put(m.t, m, recordOf(0))
				_, err := m.Load(ctx, "session", m.sessions[0].Token)
				require.NoError(m.t, err)
			}
		}
	}
	until := func(after time.Duration) func(*sessions.DualStoreConfig) {
		return func(c *sessions.DualStoreConfig) { c.AdoptUntil = time.Now().Add(after) }
	}
	noUntil := func(c *sessions.DualStoreConfig) { c.AdoptUntil = time.Time{} }
	noCompare := func(c *sessions.DualStoreConfig) { c.CompareFraction = 0 }
	type row struct {
		name  string
		phase sessions.Phase
		edits edits
		reads int
		do    func(*migration)
		want  []string // what is missing: a part of each sentence; none: safe
	}
	rows := []row{
		{name: "OldOnly", phase: sessions.OldOnly},
		{name: "DualReadOld", phase: sessions.DualReadOld},
		{name: "DualReadNew", phase: sessions.DualReadNew},
		{name: "NewOnly", phase: sessions.NewOnly, edits: edits{until(-time.Second)}},

		{name: "no compare", phase: sessions.DualReadOld, edits: edits{noCompare}, want: []string{"no reads were compared: set CompareFraction"}},
		{name: "no compare, but all asked", phase: sessions.DualReadOld, edits: edits{noCompare, checkRevoked}, want: []string{"no reads were compared: set CompareFraction"}},
		{name: "few compared", phase: sessions.DualReadOld, edits: edits{func(c *sessions.DualStoreConfig) { c.CompareFraction = 0.5 }}, want: []string{"reads were compared: wait until there are 1000, or raise CompareFraction"}},
		{name: "unexplained", phase: sessions.DualReadOld, do: func(m *migration) {
			rec := likeIt(m.sessions[0], func(r *sessions.Record) { r.SetValue("a", json.RawMessage("1")) })
			_, err := m.Load(ctx, "session", put(m.t, m.old, rec))
			require.NoError(m.t, err)
		}, want: []string{"1 of the last 1201 compared reads differ for no known reason"}},
		{name: "coverage in DualReadOld", phase: sessions.DualReadOld, do: unwritten, want: []string{"the new store had 99.33% of the last 1208 sessions it was asked for: wait until it has 99.90%"}},
		{name: "coverage in DualReadNew", phase: sessions.DualReadNew, do: unwritten, want: []string{"the new store had 99.58% of the last 1208 sessions"}},
		{name: "lost logout", phase: sessions.DualReadOld, do: func(m *migration) {
			m.spy.fail("save")
			require.NoError(m.t, m.Delete(ctx, "session", m.sessions[0]))
		}, want: []string{"1 logouts or renewals could not be written to the new store: wait until 2000-01-15T00:00:00Z", "could not answer 1 of the last 4 writes"}},
		{name: "lost logouts", phase: sessions.DualReadOld, do: func(m *migration) {
			m.spy.fail("save")
			require.NoError(m.t, m.Delete(ctx, "session", m.sessions[0]))
			require.NoError(m.t, m.Delete(ctx, "session", newRedisRecord(time.Hour, time.Hour)))
		}, want: []string{"2 logouts or renewals could not be written to the new store: wait until 2000-01-15T00:00:00Z", "could not answer 2 of the last 5 writes"}},
		{name: "lost logouts, long ago", phase: sessions.DualReadOld, do: func(m *migration) {
			m.spy.fail("save")
			require.NoError(m.t, m.Delete(ctx, "session", newRedisRecord(time.Hour, time.Hour)))
			time.Sleep(time.Hour)
		}, want: []string{"could not answer 1 of the last 4 writes"}},
		{name: "few asked", phase: sessions.DualReadNew, edits: edits{fallbackOnError}, reads: 900, do: func(m *migration) {
			m.spy.fail("load")
			for range 100 {
				_, err := m.Load(ctx, "session", put(m.t, m.old, m.sessions[0]))
				require.NoError(m.t, err)
			}
		}, want: []string{"the new store was asked for only 900 sessions: wait until there are 1000", "could not answer 100 of the last 1000 loads"}},
		{name: "a part", phase: sessions.DualReadNew, edits: edits{readOldHalf}, want: []string{"set ReadOldFraction to 0"}},
		{name: "AdoptUntil has passed", phase: sessions.DualReadNew, edits: edits{until(-time.Second)}, want: []string{"AdoptUntil passed at 1999-12-31T23:59:59Z"}},
		{name: "AdoptUntil has no end", phase: sessions.DualReadNew, edits: edits{noUntil}},
		{name: "adoption without end", phase: sessions.NewOnly, edits: edits{noUntil}, want: []string{"adoption of old copies never ends"}},
		{name: "adoption open", phase: sessions.NewOnly, edits: edits{until(time.Hour)}, do: func(m *migration) {
			_, err := m.Load(ctx, "session", put(m.t, m.old, recordOf(0)))
			require.NoError(m.t, err)
		}, want: []string{"adoption of old copies continues until 2000-01-01T01:00:00Z: 1 session adopted so far", "1 of the last 1201 sessions still came with a cookie that only the old store opens"}},
		{name: "old cookies", phase: sessions.NewOnly, edits: edits{until(-time.Second)}, do: func(m *migration) {
			_, err := m.Load(ctx, "session", put(m.t, m.old, m.sessions[0]))
			require.NoError(m.t, err)
		}, want: []string{"1 of the last 1201 sessions still came with a cookie that only the old store opens"}},
	}
	for phase := sessions.OldOnly; phase <= sessions.NewOnly; phase++ {
		e := edits{until(time.Hour)}
		if phase == sessions.NewOnly {
			e = edits{until(-time.Second)}
		}
		in := func(name string, do func(*migration), want ...string) {
			rows = append(rows, row{name: fmt.Sprintf("%s in %v", name, phase), phase: phase, edits: e, do: do, want: want})
		}
		rows = append(rows, row{name: fmt.Sprintf("few reads in %v", phase), phase: phase, edits: e, reads: 999, want: []string{"only 999 reads so far: wait until there are 1000"}})
		in("wrong policy", func(m *migration) { m.health.PolicyVerdict, m.health.PolicyReason = "wrong", "volatile-lru evicts" }, "maxmemory-policy is wrong: volatile-lru evicts")
		in("hidden policy", func(m *migration) { m.health.PolicyVerdict = "unknown" })
		in("no TTL", func(m *migration) { m.health.KeysWithoutTTL = 7 }, "7 keys in the new store have no TTL")
		in("replica", func(m *migration) { m.health.ReplicaReads = true }, "a replica, which may not have a logout yet, may answer reads")
		in("full", func(m *migration) { m.health.UsedMemory = 91 << 20 }, "the new store is nearly full: 91.0 MB of 100.0 MB used")
		in("no limit", func(m *migration) { m.health.UsedMemory, m.health.MaxMemory = 91<<30, 0 })
		in("forecast", func(m *migration) { m.health.UsedMemory, m.health.Keys = 90<<20, 1000 }) // 93 kB for each of 3 sessions
		in("no answer", func(m *migration) { m.checked.err = errStore }, "cannot check the new store: the store is down")
		switch phase {
		case sessions.OldOnly:
			in("new is down", failing("load"))
		case sessions.DualReadOld:
			in("load errors", failing("load"), "the new store could not answer 1 of the last 1201 loads")
		default:
			in("load errors", failing("load"), "the new store could not answer 1 of the last 1201 loads")
		}
		if phase != sessions.OldOnly {
			in("write errors", failing("save"), "the new store could not answer 1 of the last 4 writes")
			in("slow loads", slow("load"), "the new store is slow: its load latency has a p99 of")
			in("slow writes", slow("save"), "the new store is slow: its write latency has a p99 of")
		}
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMigration(t, c.phase, c.edits...)
				if c.reads == 0 {
					c.reads = reads
				}
				m.traffic(c.reads)
				if c.do != nil {
					c.do(m)
				}
				r := m.Report()
				require.Equal(t, min(c.phase+1, sessions.NewOnly), r.Next)
				require.Len(t, r.Missing, len(c.want), "%q", r.Missing)
				for i, want := range c.want {
					require.Contains(t, r.Missing[i], want)
				}
				require.Equal(t, len(c.want) == 0, r.Safe)
				require.NotEmpty(t, r.GoingBack)
			})
		})
	}
}

// An old store on a server sets the measure for the new one.
func TestReportSlowAsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newReported(t, sessiontest.NewMemoryStore(), sessiontest.NewMemoryStore(), sessions.DualReadNew)
		wait := func(took time.Duration) func(context.Context, string, *sessions.Record) error {
			return func(context.Context, string, *sessions.Record) error { time.Sleep(took); return nil }
		}
		rec := newRedisRecord(24*time.Hour, 24*time.Hour)
		put(t, d, rec)
		d.old.before(wait(30 * time.Millisecond))
		d.new.before(wait(80 * time.Millisecond))
		d.loads(rec.Token, 1000)
		require.True(t, d.Report().Safe, d.Report().Missing)
		d.new.before(wait(130 * time.Millisecond))
		d.loads(rec.Token, 100)
		require.Contains(t, strings.Join(d.Report().Missing, ""), "the new store is slow")
	})
}

// Counting hides nothing of a store that the manager has to know.
func TestDualStoreMaxTTL(t *testing.T) {
	short, long := newRedisStore(t, miniClient(t), time.Hour), newRedisStore(t, miniClient(t), 2*time.Hour)
	for _, c := range []struct{ old, new sessions.Store }{{short, long}, {long, short}, {sessiontest.NewMemoryStore(), short}} {
		require.Equal(t, time.Hour, newReported(t, c.old, c.new, sessions.OldOnly).MaxTTL())
	}
}

func TestReportForecast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMigration(t, sessions.OldOnly)
		m.health.Keys, m.health.UsedMemory = 1000, 1<<20+330_000
		for range 20 {
			put(t, m, recordOf(0))
		}
		m.traffic(1000)
		r := m.Report()
		require.EqualValues(t, 330, r.BytesPerSession)
		require.Equal(t, 330*r.Sessions, r.MemoryForecast)
		require.EqualValues(t, 23, r.Sessions)
		require.True(t, r.Safe, r.Missing)

		m.health.MaxMemory, m.health.UsedMemory, m.health.Keys = 15<<20, 11<<20, 10_000 // 1 kB each
		require.True(t, m.Report().Safe)
		for range 15_000 {
			_, err := m.Save(context.Background(), "session", recordOf(0), 0)
			require.NoError(t, err)
		}
		r = m.Report()
		require.InDelta(t, 15_023, r.Sessions, 600)
		require.Len(t, r.Missing, 1)
		require.Contains(t, r.Missing[0], "the sessions seen so far will need")

		m.health.Keys = 999
		require.Zero(t, m.Report().MemoryForecast, "the server's own memory would spoil the average")
	})
}

func TestP15_ReportGoingBack(t *testing.T) {
	for _, c := range []struct {
		phase sessions.Phase
		want  string
	}{
		{sessions.OldOnly, "this is the first phase"},
		{sessions.DualReadOld, "OldOnly: loses sessions that only the new store has (none seen so far) and forgets logouts: copied cookies of ended sessions open again"},
		{sessions.DualReadNew, "DualReadOld: loses nothing, but 1 records are too large for a cookie: writes to these sessions fail there"},
		{sessions.NewOnly, "DualReadNew: loses nothing. OldOnly: loses sessions that only the new store has (about 5 seen so far)"},
	} {
		m := newMigration(t, c.phase)
		m.traffic(3)
		put(t, m, recordOf(0))
		if c.phase >= sessions.DualReadNew {
			put(t, m, recordOf(0, "large", `"`+strings.Repeat("x", 4096)+`"`))
		}
		require.Equal(t, c.want, m.Report().GoingBack)
	}
}

func TestReportGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMigration(t, sessions.DualReadOld)
		time.Sleep(90 * time.Minute)
		m.traffic(1200)
		rec := likeIt(m.sessions[0], func(r *sessions.Record) { r.SetValue("a", json.RawMessage("1")) })
		_, err := m.Load(context.Background(), "session", put(t, m.old, rec))
		require.NoError(t, err)
		m.spy.before(func(context.Context, string, *sessions.Record) error {
			time.Sleep(1500 * time.Microsecond)
			return errStore
		})
		put(t, m, m.sessions[0])
		r := m.Report()
		require.Equal(t, goldenReport, r.String())
		text, err := json.MarshalIndent(r, "", "  ")
		require.NoError(t, err)
		require.Equal(t, goldenReportJSON, string(text)+"\n")
	})
}

const goldenReport = `phase                 DualReadOld, since 2000-01-01T00:00:00Z (1h30m0s)
reads                 1201, of 3 sessions, 0 of them only in the new store
old store             cookie
old loads             1201, errors 0, p50 0s, p99 0s
old writes            4, errors 0, p50 0s, p99 0s
new store             *sessiontest.MemoryStore
new loads             1201, errors 0, p50 0s, p99 0s
new writes            4, errors 1, p50 0s, p99 1.6ms
coverage              1201 found of 1201 asked; recently 100.00%
compared              1201: equal 1200, missing 0, older 0, newer 0, different 1, expiry 0; unexplained 1
adopted               0, too late 0
cookies               resealed 0, record too large 0
revoked hits          0
fallback reads        0
write errors ignored  old 0, new 1
tombstones failed     0, lost 0
memory forecast       0.0 MB, at 419 bytes per session
redis                 7.4.0, master, nodes: 1
memory                5.0 MB used, of 100.0 MB
policy                ok: noeviction
                      no key is evicted
keys                  10000
keys without TTL      0
evicted keys          0
replica reads         no
next                  DualReadNew is not safe yet
missing               1 of the last 1201 compared reads differ for no known reason: see the events of kind "mismatch"
missing               the new store could not answer 1 of the last 4 writes
going back            OldOnly: loses sessions that only the new store has (none seen so far) and forgets logouts: copied cookies of ended sessions open again
`

const goldenReportJSON = `{
  "phase": "DualReadOld",
  "since": "2000-01-01T00:00:00Z",
  "at": "2000-01-01T01:30:00.0015Z",
  "reads": 1201,
  "sessions": 3,
  "only_in_new": 0,
  "old": {
    "store": "cookie",
    "loads": 1201,
    "load_errors": 0,
    "load_p50": "0s",
    "load_p99": "0s",
    "writes": 4,
    "write_errors": 0,
    "write_p50": "0s",
    "write_p99": "0s"
  },
  "new": {
    "store": "*sessiontest.MemoryStore",
    "loads": 1201,
    "load_errors": 0,
    "load_p50": "0s",
    "load_p99": "0s",
    "writes": 4,
    "write_errors": 1,
    "write_p50": "0s",
    "write_p99": "1.6ms"
  },
  "asked": 1201,
  "found": 1201,
  "compared": {
    "reads": 1201,
    "equal": 1200,
    "missing": 0,
    "older": 0,
    "newer": 0,
    "different": 1,
    "expiry": 0,
    "unexplained": 1
  },
  "adopted": 0,
  "too_late": 0,
  "resealed": 0,
  "revoked_hits": 0,
  "fallback_reads": 0,
  "token_only": 0,
  "new_write_errors_ignored": 1,
  "old_write_errors_ignored": 0,
  "tombstones_failed": 0,
  "tombstones_lost": 0,
  "recent": {
    "asked": 1201,
    "not_found": 0,
    "compared": 1201,
    "unexplained": 1,
    "new_loads": 1201,
    "new_load_errors": 0,
    "new_writes": 4,
    "new_write_errors": 1,
    "sessions": 0,
    "old_cookies": 0
  },
  "redis": {
    "policy": "noeviction",
    "policy_verdict": "ok",
    "policy_reason": "no key is evicted",
    "version": "7.4.0",
    "role": "master",
    "nodes": 1,
    "used_memory": 5242880,
    "max_memory": 104857600,
    "keys": 10000,
    "keys_without_ttl": 0,
    "evicted_keys": 0,
    "replica_reads": false
  },
  "bytes_per_session": 419,
  "memory_forecast": 1257,
  "next_phase": "DualReadNew",
  "safe": false,
  "missing": [
    "1 of the last 1201 compared reads differ for no known reason: see the events of kind \"mismatch\"",
    "the new store could not answer 1 of the last 4 writes"
  ],
  "going_back": "OldOnly: loses sessions that only the new store has (none seen so far) and forgets logouts: copied cookies of ended sessions open again"
}
`

// The zero value can be printed: it is what a program has before its first report.
func TestReportZero(t *testing.T) {
	require.Contains(t, sessions.DualReport{}.String(), "OldOnly is not safe yet")
	require.Zero(t, sessions.DualReport{}.Coverage())
	text, err := json.Marshal(sessions.DualReport{})
	require.NoError(t, err)
	require.Contains(t, string(text), `"load_p50":"0s"`)
}

func TestPhaseText(t *testing.T) {
	for p := sessions.OldOnly; p <= sessions.NewOnly; p++ {
		text, err := json.Marshal(p)
		require.NoError(t, err)
		require.Equal(t, `"`+p.String()+`"`, string(text))
		var back sessions.Phase
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, p, back)
	}
	var p sessions.Phase
	var mistake *sessions.ConfigError
	require.ErrorAs(t, p.UnmarshalText([]byte("newonly")), &mistake)
	require.Equal(t, "Phase", mistake.Field)
	require.EqualError(t, mistake, `sessions: Phase: unknown phase "newonly": use OldOnly, DualReadOld, DualReadNew or NewOnly`)
}

func TestReportRedis(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t, "--maxmemory", "100mb")
	rdb := server.Client(t)
	d := newReported(t, cookieStoreWith(t, secretA), sessiontest.NewMemoryStore(), sessions.OldOnly)
	store := newRedisStore(t, rdb, 14*24*time.Hour)
	real, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookieStoreWith(t, secretA), New: store, Phase: sessions.DualReadOld, CompareFraction: 1})
	require.NoError(t, err)
	require.Nil(t, d.Report().Redis, "a store without Check is not asked")

	token := ""
	for range 1100 {
		rec := newRedisRecord(24*time.Hour, 14*24*time.Hour)
		rec.SetValue("user_id", json.RawMessage("42"))
		token = put(t, real, rec)
	}
	for range 1000 {
		_, err := real.Load(ctx, "session", token)
		require.NoError(t, err)
	}
	r := real.Report()
	require.True(t, r.Safe, r.Missing)
	require.Equal(t, "redis", r.New.Store)
	require.Equal(t, "cookie", r.Old.Store)
	require.Equal(t, "ok", r.Redis.PolicyVerdict)
	require.EqualValues(t, 1100, r.Redis.Keys)
	require.EqualValues(t, 1000, r.Compared.Equal)
	require.Positive(t, r.New.LoadP50)
	require.Positive(t, r.Old.LoadP50)
	require.InDelta(t, 330, r.BytesPerSession, 250)
	require.Equal(t, r.BytesPerSession*r.Sessions, r.MemoryForecast)

	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory-policy", "volatile-lru").Err())
	require.NoError(t, rdb.Set(ctx, "leak", 1, 0).Err())
	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "1mb").Err())
	missing := strings.Join(real.Report().Missing, "\n")
	require.Contains(t, missing, "maxmemory-policy is wrong: volatile-lru")
	require.Contains(t, missing, "1 keys in the new store have no TTL")
	require.Contains(t, missing, "the new store is nearly full")

	server.Stop()
	start := time.Now()
	r = real.Report()
	require.Less(t, time.Since(start), 4*time.Second)
	require.Nil(t, r.Redis)
	require.NotEmpty(t, r.RedisError)
	require.Contains(t, strings.Join(r.Missing, "\n"), "cannot check the new store")
	require.Contains(t, r.String(), "no answer")
	_, err = real.Load(ctx, "session", token)
	require.NoError(t, err)
	r = real.Report()
	require.EqualValues(t, 1, r.New.LoadErrors)
	require.EqualValues(t, 1000, r.Compared.Reads, "no answer is no mismatch")
}

// What is marshaled can be read again, by a program that asks all instances.
func TestFiguresJSON(t *testing.T) {
	for _, v := range []any{&sessions.DualReport{}, &sessions.DualSide{}, &sessions.RedisHealth{}, &sessions.RedisAudit{}} {
		t.Run(fmt.Sprintf("%T", v), func(t *testing.T) {
			n := int64(0)
			fillFields(t, reflect.ValueOf(v).Elem(), &n)
			requireNoZero(t, reflect.ValueOf(v).Elem(), "")
			text, err := json.Marshal(v)
			require.NoError(t, err)
			back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			require.NoError(t, json.Unmarshal(text, back))
			require.Equal(t, v, back)
			require.NotContains(t, string(text), "_ns")

			again := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			require.NoError(t, json.Unmarshal([]byte("{}"), again))
			require.Zero(t, reflect.ValueOf(again).Elem().Interface())
			require.NoError(t, json.Unmarshal([]byte("{}"), back))
			require.Equal(t, v, back, "what is not in the text stays")
			require.NoError(t, json.Unmarshal([]byte("null"), back))
			require.Equal(t, v, back)
		})
	}
}

// fillFields sets each field to a different value.
func fillFields(t *testing.T, v reflect.Value, n *int64) {
	t.Helper()
	*n += 3
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Date(2026, 7, 8, 9, 10, 11, int(*n), time.UTC)
		return
	case *time.Duration:
		*x = time.Duration(*n)*time.Hour + 1_234_567
		return
	case *sessions.Phase:
		*x = sessions.OldOnly + 1 + sessions.Phase(*n%3)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillFields(t, v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillFields(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fillFields(t, v.Index(0), n)
		fillFields(t, v.Index(1), n)
	case reflect.String:
		v.SetString(fmt.Sprintf("text <%d> \x1b \u00e9", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	default:
		t.Fatalf("%v: say here what a %v is filled with", v.Type(), v.Kind())
	}
}

func requireNoZero(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	require.False(t, v.IsZero(), "%s is not tested", path)
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
	case v.Kind() == reflect.Pointer:
		requireNoZero(t, v.Elem(), path)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			requireNoZero(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	}
}

func TestFiguresJSON_RealReport(t *testing.T) {
	m := newMigration(t, sessions.DualReadOld)
	m.traffic(10)
	r := m.Report()
	require.NotNil(t, r.Redis)
	require.Positive(t, r.Old.LoadP99)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	var back sessions.DualReport
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, r, back)
	require.Equal(t, r.String(), back.String())
}

func TestFiguresJSON_Durations(t *testing.T) {
	for _, d := range []time.Duration{
		0, 1, 999, 1500, 1_000_001, 1_234_567, 999_999_999, 14 * 24 * time.Hour, time.Hour + 1, math.MaxInt64, math.MinInt64,
	} {
		for _, v := range []any{&sessions.DualSide{LoadP50: d, LoadP99: d, WriteP50: d, WriteP99: d}, &sessions.RedisAudit{ShortestTTL: d, LongestTTL: d}} {
			text, err := json.Marshal(v)
			require.NoError(t, err)
			require.Contains(t, string(text), `"`+d.String()+`"`)
			back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			require.NoError(t, json.Unmarshal(text, back))
			require.Equal(t, v, back)
		}
	}
}

func TestFiguresJSON_BadInput(t *testing.T) {
	for _, c := range []struct {
		into any
		text string
		says string // where the words are ours
	}{
		{&sessions.DualSide{Loads: 7}, `{"load_p50":"fast"}`, `sessions: "fast" is not a duration such as "1.5ms"`},
		{&sessions.DualSide{Loads: 7}, `{"loads":8,"write_p99":"5"}`, `"5" is not a duration`},
		{&sessions.DualSide{Loads: 7}, `{"load_p99":1500}`, ""},
		{&sessions.DualSide{Loads: 7}, `{"loads":"8"}`, ""},
		{&sessions.DualSide{Loads: 7}, `[]`, ""},
		{&sessions.DualReport{Reads: 7}, `{"old":{"load_p50":""}}`, `"" is not a duration`},
		{&sessions.DualReport{Reads: 7}, `{"phase":"newonly"}`, "use OldOnly, DualReadOld, DualReadNew or NewOnly"},
		{&sessions.DualReport{Reads: 7}, `{"next_phase":3}`, ""},
		{&sessions.DualReport{Reads: 7}, `{"since":"yesterday"}`, ""},
		{&sessions.DualReport{Reads: 7}, `{"redis":{"keys":"many"}}`, ""},
		{&sessions.RedisHealth{Keys: 7}, `{"warnings":"one"}`, ""},
		{&sessions.RedisAudit{Keys: 7}, `{"shortest_ttl":"1 hour"}`, `"1 hour" is not a duration`},
		{&sessions.RedisAudit{Keys: 7}, `{"longest_ttl":"9999999h"}`, "is not a duration"},
		{&sessions.RedisAudit{Keys: 7}, `{"keys":8,"longest_ttl":3600}`, ""},
		{&sessions.RedisAudit{Keys: 7}, `{"keys":8.5}`, ""},
		{&sessions.RedisAudit{Keys: 7}, `"{}"`, ""},
	} {
		err := json.Unmarshal([]byte(c.text), c.into)
		require.Error(t, err, c.text)
		require.ErrorContains(t, err, c.says)
		switch v := c.into.(type) {
		case *sessions.DualSide:
			require.Equal(t, sessions.DualSide{Loads: 7}, *v, c.text)
		case *sessions.RedisAudit:
			require.Equal(t, sessions.RedisAudit{Keys: 7}, *v, c.text)
		}
	}
}
