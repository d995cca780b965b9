package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"handover.example/sessions/internal/tally"
	"handover.example/sessions/internal/texttable"
)

// DualReport contains the figures of one [DualStore] since the program started or the phase last changed, and whether
// the next phase is safe as far as this instance can tell. Each instance has its own report: check all of them. Print
// it, or marshal it to JSON and back.
type DualReport struct {
	Phase Phase     `json:"phase"`
	Since time.Time `json:"since"` // the start of the figures
	At    time.Time `json:"at"`    // the end of the figures

	// Reads is the number of loads. Sessions is the number of distinct sessions seen, and OnlyInNew the number of those
	// that only the new store had, without a copy for the old one in the client's cookie: going back to OldOnly loses
	// them. Both are estimates, accurate to about 2 percent, and cumulative: ended sessions stay counted, and a renewed
	// session counts twice.
	Reads     int64 `json:"reads"`
	Sessions  int64 `json:"sessions"`
	OnlyInNew int64 `json:"only_in_new"`

	Old DualSide `json:"old"`
	New DualSide `json:"new"`

	// Asked is the number of reads of live sessions for which the new store was asked and answered. Found is the number
	// of those for which it had the session: the coverage. In DualReadOld, only sessions that the old store has count.
	Asked int64 `json:"asked"`
	Found int64 `json:"found"`

	// Compared counts the reads in DualReadOld whose two copies were compared. The copy in the new store is equal, or
	// missing, or older or newer by its version, or different in its values with the same version, or equal with a
	// different expiry. Unexplained counts the differences that cannot come from sessions last written before this
	// phase, from parallel requests, or from a response that did not reach the client.
	Compared struct {
		Reads       int64 `json:"reads"`
		Equal       int64 `json:"equal"`
		Missing     int64 `json:"missing"`
		Older       int64 `json:"older"`
		Newer       int64 `json:"newer"`
		Different   int64 `json:"different"`
		Expiry      int64 `json:"expiry"`
		Unexplained int64 `json:"unexplained"`
	} `json:"compared"`

	Adopted               int64 `json:"adopted"`                  // old copies written to the new store
	TooLate               int64 `json:"too_late"`                 // old copies rejected because AdoptUntil had passed
	Resealed              int64 `json:"resealed"`                 // cookies converted to the form of the phase
	RevokedHits           int64 `json:"revoked_hits"`             // reads of sessions that were destroyed or renewed
	FallbackReads         int64 `json:"fallback_reads"`           // old copies served because the new store could not answer
	TokenOnly             int64 `json:"token_only"`               // cookies that are the token alone because the record is too large
	NewWriteErrorsIgnored int64 `json:"new_write_errors_ignored"` // failed writes to the new store whose request went on
	OldWriteErrorsIgnored int64 `json:"old_write_errors_ignored"` // failed writes to the old store whose request went on

	// TombstonesFailed counts the revocations that could not be written to the new store. TombstonesLost counts those
	// whose request went on: until their deadline, these sessions can come back.
	TombstonesFailed int64 `json:"tombstones_failed"`
	TombstonesLost   int64 `json:"tombstones_lost"`

	// Recent counts the last 10,000 to 20,000 operations of each kind. The verdict uses only recent operations, so that
	// fixed problems age out.
	Recent struct {
		Asked       int64 `json:"asked"` // the coverage
		NotFound    int64 `json:"not_found"`
		Compared    int64 `json:"compared"`
		Unexplained int64 `json:"unexplained"`
		NewLoads    int64 `json:"new_loads"`
		LoadErrors  int64 `json:"new_load_errors"`
		NewWrites   int64 `json:"new_writes"`
		WriteErrors int64 `json:"new_write_errors"`
		Sessions    int64 `json:"sessions"`    // reads that found a session, in NewOnly
		OldCookies  int64 `json:"old_cookies"` // those whose cookie only the old store opens
	} `json:"recent"`

	// Redis is the result of Check, if the new store is a [RedisStore] or has the same Check method. RedisError is the
	// error if Check failed.
	Redis      *RedisHealth `json:"redis,omitempty"`
	RedisError string       `json:"redis_error,omitempty"`

	// BytesPerSession is the average memory per key on the server, over all keys; zero while there are fewer than
	// 1,000. MemoryForecast is the memory in bytes for all Sessions.
	BytesPerSession int64 `json:"bytes_per_session"`
	MemoryForecast  int64 `json:"memory_forecast"`

	// Next is the phase that follows, and Safe reports whether this instance found nothing against it. In NewOnly, Next
	// is NewOnly as well, and Safe reports whether the old store can be removed. Missing lists in plain words what is
	// still needed. GoingBack describes what going back costs.
	Next      Phase    `json:"next_phase"`
	Safe      bool     `json:"safe"`
	Missing   []string `json:"missing"`
	GoingBack string   `json:"going_back"`
}

// DualSide counts the calls of one of the two stores.
type DualSide struct {
	Store string // the kind of store, such as "cookie" or "redis"

	// Loads and Writes count the calls, LoadErrors and WriteErrors those that the store could not answer. A missing
	// session and a conflict with a parallel request are answers. Save, Touch and Delete are writes.
	Loads, LoadErrors   int64
	Writes, WriteErrors int64

	// Latencies are upper bounds, at most a quarter too high, rounded to two digits.
	LoadP50, LoadP99   time.Duration
	WriteP50, WriteP99 time.Duration
}

// dualSideJSON is the JSON form of a DualSide.
type dualSideJSON struct {
	Store       string       `json:"store"`
	Loads       int64        `json:"loads"`
	LoadErrors  int64        `json:"load_errors"`
	LoadP50     jsonDuration `json:"load_p50"`
	LoadP99     jsonDuration `json:"load_p99"`
	Writes      int64        `json:"writes"`
	WriteErrors int64        `json:"write_errors"`
	WriteP50    jsonDuration `json:"write_p50"`
	WriteP99    jsonDuration `json:"write_p99"`
}

func (s DualSide) json() dualSideJSON {
	return dualSideJSON{
		s.Store,
		s.Loads, s.LoadErrors, jsonDuration(s.LoadP50), jsonDuration(s.LoadP99),
		s.Writes, s.WriteErrors, jsonDuration(s.WriteP50), jsonDuration(s.WriteP99),
	}
}

// MarshalJSON encodes durations as strings, such as "1.5ms".
func (s DualSide) MarshalJSON() ([]byte, error) { return json.Marshal(s.json()) }

// UnmarshalJSON decodes the output of MarshalJSON.
func (s *DualSide) UnmarshalJSON(text []byte) error {
	j := s.json() // fields missing from the text keep their values
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*s = DualSide{
		Store: j.Store,
		Loads: j.Loads, LoadErrors: j.LoadErrors, LoadP50: time.Duration(j.LoadP50), LoadP99: time.Duration(j.LoadP99),
		Writes: j.Writes, WriteErrors: j.WriteErrors, WriteP50: time.Duration(j.WriteP50), WriteP99: time.Duration(j.WriteP99),
	}
	return nil
}

// Coverage returns the fraction of recent reads for which the new store had the session; 0 if it was never asked.
func (r DualReport) Coverage() float64 {
	if r.Recent.Asked == 0 {
		return 0
	}
	return float64(r.Recent.Asked-r.Recent.NotFound) / float64(r.Recent.Asked)
}

const (
	checkTimeout    = 2 * time.Second
	enoughReads     = 1000
	enoughCoverage  = 0.999
	slowStore       = 50 * time.Millisecond // a p99 up to this is fine, whatever the old store's is
	slowFactor      = 3
	fullShare       = 0.9     // of maxmemory
	enoughKeys      = 1000    // so that the server's own memory does not distort the average
	emptyRedis      = 1 << 20 // bytes that an empty server uses, about
	versionsInDoubt = 5 * time.Second
)

// Report returns the figures since the program started or the phase last changed, and the verdict. It checks a Redis
// with its Check method, for at most two seconds. It never fails: problems are in the report. A report
// contains no token and no value.
func (d *DualStore) Report() DualReport {
	d.phaseMu.Lock()
	phase, f := d.Phase(), d.figures.Load()
	d.phaseMu.Unlock()
	r := f.report()
	r.Phase, r.At = phase, time.Now().UTC().Round(0)
	r.Old.Store, r.New.Store = storeName(d.old), storeName(d.new)
	if c, ok := storeAs[interface {
		Check(context.Context) (RedisHealth, error)
	}](d.new); ok {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		defer cancel()
		health, err := c.Check(ctx)
		if err != nil {
			r.RedisError = err.Error()
		} else {
			r.Redis = &health
			r.forecast()
		}
	}
	d.judge(&r, time.Unix(0, f.comeBackUntil.Load()))
	return r
}

func (r *DualReport) forecast() {
	if r.Redis.Keys < enoughKeys {
		return
	}
	r.BytesPerSession = max(0, r.Redis.UsedMemory-emptyRedis*int64(max(1, r.Redis.Nodes))) / r.Redis.Keys
	r.MemoryForecast = r.BytesPerSession * r.Sessions
}

// judge adds the verdict.
func (d *DualStore) judge(r *DualReport, comeBackUntil time.Time) {
	r.Missing = []string{}
	missing := func(format string, args ...any) { r.Missing = append(r.Missing, fmt.Sprintf(format, args...)) }

	r.Next = r.Phase.next()
	few := r.Reads < enoughReads
	if few {
		missing("only %d reads so far: wait until there are %d", r.Reads, enoughReads)
	}
	need[r.Phase](d, r, few, comeBackUntil, missing)
	needAnswers(r, missing)
	needHealth(r, missing)
	r.Safe = len(r.Missing) == 0
}

// need has, for each phase, what must be true before the next one, and what going back costs.
var need = [...]func(d *DualStore, r *DualReport, few bool, comeBackUntil time.Time, missing func(string, ...any)){
	OldOnly: func(_ *DualStore, r *DualReport, _ bool, _ time.Time, _ func(string, ...any)) {
		r.GoingBack = "this is the first phase"
	},
	DualReadOld: func(_ *DualStore, r *DualReport, few bool, comeBackUntil time.Time, missing func(string, ...any)) {
		r.GoingBack = "OldOnly: loses sessions that only the new store has (" + about(r.OnlyInNew) + " seen so far) and forgets logouts: copied cookies of ended sessions open again"
		needCompared(r, few, missing)
		needCoverage(r, true, missing) // another line reports too few reads
		if r.At.Before(comeBackUntil) {
			missing("%d logouts or renewals could not be written to the new store: wait until %s, because these sessions can come back until then",
				r.TombstonesLost, comeBackUntil.UTC().Format(time.RFC3339))
		}
	},
	DualReadNew: func(d *DualStore, r *DualReport, few bool, _ time.Time, missing func(string, ...any)) {
		r.GoingBack = "DualReadOld: loses nothing"
		if r.TokenOnly > 0 {
			r.GoingBack += fmt.Sprintf(", but %d records are too large for a cookie: writes to these sessions fail there", r.TokenOnly)
		}
		needCoverage(r, few, missing)
		if d.readOld > 0 {
			missing("some sessions are still read from the old store: set ReadOldFraction to 0")
		}
		if until := d.adoptUntil; !until.IsZero() && !r.At.Before(until) {
			missing("AdoptUntil passed at %s: sessions that only the old store has would be logged out; set it to when the longest session will have ended", until.UTC().Format(time.RFC3339))
		}
	},
	NewOnly: func(d *DualStore, r *DualReport, _ bool, _ time.Time, missing func(string, ...any)) {
		r.GoingBack = "DualReadNew: loses nothing. OldOnly: loses sessions that only the new store has (" + about(r.OnlyInNew) + " seen so far)"
		switch until := d.adoptUntil; {
		case until.IsZero():
			missing("adoption of old copies never ends: set AdoptUntil to when the longest session of the previous phase will have ended")
		case r.At.Before(until):
			missing("adoption of old copies continues until %s: %s adopted so far", until.UTC().Format(time.RFC3339), counted(r.Adopted, "session"))
		}
		if r.Recent.OldCookies > 0 {
			missing("%d of the last %d sessions still came with a cookie that only the old store opens", r.Recent.OldCookies, r.Recent.Sessions)
		}
	},
}

func needCompared(r *DualReport, few bool, missing func(string, ...any)) {
	switch {
	case r.Recent.Compared == 0:
		missing("no reads were compared: set CompareFraction")
	case r.Recent.Compared < enoughReads && !few:
		missing("only %d reads were compared: wait until there are %d, or raise CompareFraction", r.Recent.Compared, enoughReads)
	}
	if n := r.Recent.Unexplained; n > 0 {
		missing("%d of the last %d compared reads differ for no known reason: see the events of kind %q", n, r.Recent.Compared, EventMismatch)
	}
}

func needCoverage(r *DualReport, few bool, missing func(string, ...any)) {
	switch {
	case r.Recent.Asked < enoughReads:
		if !few { // otherwise another line reports it
			missing("the new store was asked for only %d sessions: wait until there are %d", r.Recent.Asked, enoughReads)
		}
	case r.Coverage() < enoughCoverage:
		missing("the new store had %s of the last %d sessions it was asked for: wait until it has %s", percent(r.Coverage()), r.Recent.Asked, percent(enoughCoverage))
	}
}

func needAnswers(r *DualReport, missing func(string, ...any)) {
	if n := r.Recent.LoadErrors; n > 0 {
		missing("the new store could not answer %d of the last %d loads", n, r.Recent.NewLoads)
	}
	if n := r.Recent.WriteErrors; n > 0 {
		missing("the new store could not answer %d of the last %d writes", n, r.Recent.NewWrites)
	}
	for _, l := range [...]struct {
		what     string
		old, new time.Duration
	}{{"load", r.Old.LoadP99, r.New.LoadP99}, {"write", r.Old.WriteP99, r.New.WriteP99}} {
		if l.new > max(slowStore, slowFactor*l.old) {
			missing("the new store is slow: its %s latency has a p99 of %v (old store: %v)", l.what, l.new, l.old)
		}
	}
}

func needHealth(r *DualReport, missing func(string, ...any)) {
	if r.RedisError != "" {
		missing("cannot check the new store: %s", r.RedisError)
	}
	h := r.Redis
	if h == nil {
		return
	}
	if h.PolicyVerdict == "wrong" {
		missing("maxmemory-policy is wrong: %s", h.PolicyReason)
	}
	if h.KeysWithoutTTL > 0 {
		missing("%d keys in the new store have no TTL: find them with Audit, and give them one with Repair", h.KeysWithoutTTL)
	}
	if h.ReplicaReads {
		missing("a replica, which may not have a logout yet, may answer reads: connect to the master, and leave ReadOnly, RouteByLatency and RouteRandomly unset")
	}
	limit := fullShare * float64(h.MaxMemory)
	switch {
	case h.MaxMemory == 0:
	case float64(h.UsedMemory) > limit:
		missing("the new store is nearly full: %s of %s used", megabytes(h.UsedMemory), megabytes(h.MaxMemory))
	case float64(r.MemoryForecast) > limit:
		missing("the sessions seen so far will need %s of %s: raise maxmemory", megabytes(r.MemoryForecast), megabytes(h.MaxMemory))
	}
}

// String returns the report as a table for a terminal.
func (r DualReport) String() string {
	var t texttable.Table
	t.Row("phase", "%v, since %s (%v)", r.Phase, r.Since.Format(time.RFC3339), r.At.Sub(r.Since).Round(time.Second))
	t.Row("reads", "%d, of %s, %d of them only in the new store", r.Reads, counted(r.Sessions, "session"), r.OnlyInNew)
	for _, s := range [...]struct {
		name string
		DualSide
	}{{"old", r.Old}, {"new", r.New}} {
		t.Row(s.name+" store", "%s", s.Store)
		t.Row(s.name+" loads", "%d, errors %d, p50 %v, p99 %v", s.Loads, s.LoadErrors, s.LoadP50, s.LoadP99)
		t.Row(s.name+" writes", "%d, errors %d, p50 %v, p99 %v", s.Writes, s.WriteErrors, s.WriteP50, s.WriteP99)
	}
	coverage := "new not asked"
	if r.Asked > 0 {
		coverage = fmt.Sprintf("%d found of %d asked; recently %s", r.Found, r.Asked, percent(r.Coverage()))
	}
	t.Row("coverage", "%s", coverage)
	t.Row("compared", "%d: equal %d, missing %d, older %d, newer %d, different %d, expiry %d; unexplained %d",
		r.Compared.Reads, r.Compared.Equal, r.Compared.Missing, r.Compared.Older, r.Compared.Newer, r.Compared.Different, r.Compared.Expiry, r.Compared.Unexplained)
	t.Row("adopted", "%d, too late %d", r.Adopted, r.TooLate)
	t.Row("cookies", "resealed %d, record too large %d", r.Resealed, r.TokenOnly)
	t.Row("revoked hits", "%d", r.RevokedHits)
	t.Row("fallback reads", "%d", r.FallbackReads)
	t.Row("write errors ignored", "old %d, new %d", r.OldWriteErrorsIgnored, r.NewWriteErrorsIgnored)
	t.Row("tombstones failed", "%d, lost %d", r.TombstonesFailed, r.TombstonesLost)
	switch {
	case r.RedisError != "":
		t.Row("redis", "no answer: %s", r.RedisError)
	case r.Redis != nil:
		forecast := "unknown: too few keys"
		if r.BytesPerSession > 0 {
			forecast = fmt.Sprintf("%s, at %d bytes per session", megabytes(r.MemoryForecast), r.BytesPerSession)
		}
		t.Row("memory forecast", "%s", forecast)
		for name, value := range r.Redis.Rows() {
			t.Row(name, "%s", value)
		}
	}
	switch {
	case r.Phase.next() == r.Phase && r.Safe:
		t.Row("next", "the old store can be removed, as far as this instance knows")
	case r.Phase.next() == r.Phase:
		t.Row("next", "keep the old store")
	case r.Safe:
		t.Row("next", "%v is safe, as far as this instance knows", r.Next)
	default:
		t.Row("next", "%v is not safe yet", r.Next)
	}
	for _, what := range r.Missing {
		t.Row("missing", "%s", what)
	}
	t.Row("going back", "%s", r.GoingBack)
	return t.String()
}

func about(n int64) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("about %d", n)
}

func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// percent rounds down, so that it never shows a goal that has not been reached.
func percent(share float64) string { return fmt.Sprintf("%.2f%%", math.Floor(share*1e4)/100) }

// figures are updated while a request waits: with atomics, without locks or allocations.
type figures struct {
	since time.Time
	told  atomic.Bool // the event for this phase has been emitted

	old, new sideFigures

	reads, asked, found                                       atomic.Int64
	compared, equal, missing, older, newer, different, expiry atomic.Int64
	unexplained                                               atomic.Int64
	adopted, tooLate, resealed, revokedHits, fallbackReads    atomic.Int64
	tokenOnly, newWriteErrorsIgnored, oldWriteErrorsIgnored   atomic.Int64
	tombstonesFailed, tombstonesLost, comeBackUntil           atomic.Int64
	recentCoverage, recentCompared, recentLoads, recentWrites tally.Window
	recentCookies                                             tally.Window
	sessions, onlyInNew                                       tally.Sketch
}

func newFigures(told bool) *figures {
	f := &figures{since: time.Now().UTC()}
	f.told.Store(told)
	return f
}

func (f *figures) report() DualReport {
	r := DualReport{
		Since: f.since.Round(0), // without the monotonic clock, which JSON cannot keep
		Reads: f.reads.Load(), Sessions: f.sessions.Count(), OnlyInNew: f.onlyInNew.Count(),
		Old: f.old.report(), New: f.new.report(),
		Asked: f.asked.Load(), Found: f.found.Load(),
		Adopted: f.adopted.Load(), TooLate: f.tooLate.Load(), Resealed: f.resealed.Load(), RevokedHits: f.revokedHits.Load(),
		FallbackReads: f.fallbackReads.Load(), TokenOnly: f.tokenOnly.Load(),
		NewWriteErrorsIgnored: f.newWriteErrorsIgnored.Load(), OldWriteErrorsIgnored: f.oldWriteErrorsIgnored.Load(),
		TombstonesFailed: f.tombstonesFailed.Load(), TombstonesLost: f.tombstonesLost.Load(),
	}
	c := &r.Compared
	c.Reads, c.Equal, c.Missing, c.Older, c.Newer = f.compared.Load(), f.equal.Load(), f.missing.Load(), f.older.Load(), f.newer.Load()
	c.Different, c.Expiry, c.Unexplained = f.different.Load(), f.expiry.Load(), f.unexplained.Load()
	n := &r.Recent
	n.Asked, n.NotFound = f.recentCoverage.Counts()
	n.Compared, n.Unexplained = f.recentCompared.Counts()
	n.NewLoads, n.LoadErrors = f.recentLoads.Counts()
	n.NewWrites, n.WriteErrors = f.recentWrites.Counts()
	n.Sessions, n.OldCookies = f.recentCookies.Counts()
	return r
}

// setPhase changes the phase, and resets the figures if it is another one.
func (d *DualStore) setPhase(p Phase) {
	d.phaseMu.Lock()
	defer d.phaseMu.Unlock()
	before := d.figures.Load()
	if before == nil || d.Phase() != p {
		d.figures.Store(newFigures(before == nil)) // the initial phase is not a change
	}
	d.phase.Store(int32(p))
}

// tellPhase emits one event per change of the phase.
func (d *DualStore) tellPhase(ctx context.Context, phase Phase) {
	f := d.figures.Load()
	if f.told.Load() || managerOf(ctx) == nil || !f.told.CompareAndSwap(false, true) {
		return
	}
	emitFrom(ctx, Event{Kind: EventPhase, Outcome: OutcomeChanged, Detail: "to " + phase.String()})
}

// loaded counts the result of a Load.
func (d *DualStore) loaded(phase Phase, presented string, rec *Record, adopted bool, err error) {
	f := d.figures.Load()
	f.reads.Add(1)
	if err != nil {
		if missedAs(err, OutcomeRevoked) {
			f.revokedHits.Add(1)
		}
		return
	}
	if rec.Revoked {
		f.revokedHits.Add(1)
		return
	}
	f.sessions.Add(rec.ID)
	r := d.rules(phase)
	if !r.writeNew {
		return
	}
	s, _ := d.seenOf(rec, rec.Version)
	resealed := rec.presents() != presented
	if resealed {
		f.resealed.Add(1)
	}
	if adopted {
		f.adopted.Add(1)
	}
	if !r.writeOld {
		f.recentCookies.Add(d.atClient.Load() && presented != rec.Token)
	}
	if !r.writeOld || s.newVer != 0 && s.oldSeen && s.oldVer == 0 && !resealed {
		f.onlyInNew.Add(rec.ID)
	}
	if s.newSeen && (r.readNew || s.oldVer != 0) {
		found := s.newVer != 0 && !adopted
		f.asked.Add(1)
		if found {
			f.found.Add(1)
		}
		f.recentCoverage.Add(!found)
	}
}

// saved counts a new session.
func (d *DualStore) saved(phase Phase, rec *Record, base int64) {
	if base != 0 || rec.Revoked {
		return
	}
	f := d.figures.Load()
	f.sessions.Add(rec.ID)
	if !d.rules(phase).writeOld {
		f.onlyInNew.Add(rec.ID)
	}
}

// tombstoneFailed counts a revocation that the new store did not take. If the request went on, the session can come
// back.
func (d *DualStore) tombstoneFailed(rec *Record, wentOn bool) {
	f := d.figures.Load()
	f.tombstonesFailed.Add(1)
	if !wentOn {
		return
	}
	f.tombstonesLost.Add(1)
	until := rec.madeDeadline().UnixNano()
	for {
		before := f.comeBackUntil.Load()
		if until <= before || f.comeBackUntil.CompareAndSwap(before, until) {
			return
		}
	}
}

// maxMismatchEvents bounds the log lines per phase. Report counts all mismatches.
const maxMismatchEvents = 1000

// compareCopies compares the copy in the new store with that in the old one, and counts the result. Its event contains
// no value.
func (d *DualStore) compareCopies(ctx context.Context, c *copies) {
	if c.new != nil && c.new.Revoked {
		return // a tombstone is meant to be newer than any copy
	}
	f := d.figures.Load()
	outcome, detail, explained := f.compare(c.old, c.new)
	if !explained && !d.atClient.Load() && (outcome == OutcomeMissing || outcome == OutcomeOlder) {
		// A parallel request writes the old copy first, and may be between its two writes.
		explained = time.Now().UnixMicro()-c.old.Version < versionsInDoubt.Microseconds()
	}
	f.compared.Add(1)
	f.recentCompared.Add(outcome != "" && !explained)
	if outcome == "" {
		f.equal.Add(1)
		return
	}
	f.countMismatch(outcome)
	m := managerOf(ctx)
	e := Event{Kind: EventMismatch, Outcome: outcome, SessionID: c.old.ID, Store: storeName(d.new), Detail: detail}
	switch {
	case explained:
		if m != nil && m.observe != nil { // not logged: there is nothing to do
			m.observe(ctx, e)
		}
	case f.unexplained.Add(1) <= maxMismatchEvents:
		emitFrom(ctx, e)
	case m != nil && m.observe != nil:
		m.observe(ctx, e)
	}
}

func (f *figures) countMismatch(o Outcome) {
	switch o {
	case OutcomeMissing:
		f.missing.Add(1)
	case OutcomeOlder:
		f.older.Add(1)
	case OutcomeNewer:
		f.newer.Add(1)
	case OutcomeDifferent:
		f.different.Add(1)
	case OutcomeExpiryDiffers:
		f.expiry.Add(1)
	}
}

// compare returns how the new copy differs from the old one. The outcome is empty if the two are equal.
func (f *figures) compare(old, new *Record) (o Outcome, detail string, explained bool) {
	before := old.Version < f.since.UnixMicro() // versions follow the clock: written before this phase, maybe by OldOnly
	switch {
	case new == nil && before:
		return OutcomeMissing, "the new store does not have it: it was last written before this instance entered the phase", true
	case new == nil:
		return OutcomeMissing, "the new store does not have it, although it was written in this phase: a write failed, it was evicted, or an instance still writes only the old store", false
	case new.Version < old.Version && before:
		return OutcomeOlder, "the new store has an older copy: the newer one was written before this instance entered the phase", true
	case new.Version < old.Version:
		return OutcomeOlder, "the new store has an older copy: a write failed, or an instance still writes only the old store", false
	case new.Version > old.Version:
		// The newer copy wins wherever both are read.
		return OutcomeNewer, "the new store has a newer copy: a parallel request wrote it, or the client did not get a response", true
	case !sameValues(old, new):
		return OutcomeDifferent, "the copies have the same version but different values", false
	}
	tolerance := min(old.Idle, new.Idle)/touchShare + time.Second
	switch late := new.Expires.Sub(old.Expires); {
	case late > tolerance:
		return OutcomeExpiryDiffers, "the copy in the new store lives longer: the client did not get the cookie of the last touch", true
	case -late > tolerance:
		return OutcomeExpiryDiffers, "the copy in the new store expires earlier: a touch failed", false
	}
	return "", "", false
}

// sameValues reports whether two records have equal values. The order of keys and white space in the JSON do not
// matter.
func sameValues(a, b *Record) bool {
	if len(a.values) != len(b.values) {
		return false
	}
	for _, e := range a.values {
		raw, ok := b.raw(e.Key)
		if !ok || raw != e.Raw && !sameJSON(raw, e.Raw) {
			return false
		}
	}
	return true
}

func sameJSON(a, b string) bool {
	x, errX := decodeJSON(a)
	y, errY := decodeJSON(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func decodeJSON(text string) (v any, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber() // 64-bit integers stay exact
	err = dec.Decode(&v)
	return v, err
}

// countedStore counts the calls of one side of a DualStore.
type countedStore struct {
	Store
	d     *DualStore
	isNew bool
}

// Unwrap returns the store whose calls are counted.
func (s *countedStore) Unwrap() Store { return s.Store }

func (s *countedStore) side(f *figures) *sideFigures {
	if s.isNew {
		return &f.new
	}
	return &f.old
}

func (s *countedStore) Load(ctx context.Context, name, token string) (*Record, error) {
	start := time.Now()
	rec, err := s.Store.Load(ctx, name, token)
	if missedAs(err, OutcomeMalformed) {
		return rec, err // the store was not asked
	}
	f := s.d.figures.Load()
	failed := noAnswer(ctx, err)
	s.side(f).loads.add(time.Since(start), failed)
	if s.isNew {
		f.recentLoads.Add(failed)
	}
	return rec, err
}

func (s *countedStore) Save(ctx context.Context, name string, rec *Record, base int64) (string, error) {
	start := time.Now()
	token, err := s.Store.Save(ctx, name, rec, base)
	s.wrote(ctx, start, err)
	return token, err
}

func (s *countedStore) Touch(ctx context.Context, name string, rec *Record) (string, error) {
	start := time.Now()
	token, err := s.Store.Touch(ctx, name, rec)
	s.wrote(ctx, start, err)
	return token, err
}

func (s *countedStore) Delete(ctx context.Context, name string, rec *Record) error {
	start := time.Now()
	err := s.Store.Delete(ctx, name, rec)
	s.wrote(ctx, start, err)
	return err
}

func (s *countedStore) wrote(ctx context.Context, start time.Time, err error) {
	f := s.d.figures.Load()
	failed := noAnswer(ctx, err)
	s.side(f).writes.add(time.Since(start), failed)
	if s.isNew {
		f.recentWrites.Add(failed)
	}
}

func missedAs(err error, o Outcome) bool {
	if err == nil {
		return false
	}
	var miss *NotFoundError
	return errors.As(err, &miss) && miss.Outcome == o
}

// noAnswer reports whether the store failed to answer. A client that hung up is not a failure of the store.
func noAnswer(ctx context.Context, err error) bool {
	return err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrGone) &&
		!errors.Is(err, ErrTooLarge) && !errors.Is(ctx.Err(), context.Canceled)
}

// sideFigures counts the calls of one store.
type sideFigures struct{ loads, writes callFigures }

func (s *sideFigures) report() DualSide {
	return DualSide{
		Loads: s.loads.calls.Load(), LoadErrors: s.loads.errors.Load(),
		Writes: s.writes.calls.Load(), WriteErrors: s.writes.errors.Load(),
		LoadP50: s.loads.took.Quantile(50), LoadP99: s.loads.took.Quantile(99),
		WriteP50: s.writes.took.Quantile(50), WriteP99: s.writes.took.Quantile(99),
	}
}

// callFigures counts the calls of one kind and their latencies.
type callFigures struct {
	calls, errors atomic.Int64
	took          tally.Histogram
}

func (c *callFigures) add(took time.Duration, failed bool) {
	c.calls.Add(1)
	if failed {
		c.errors.Add(1)
	}
	c.took.Add(took)
}
