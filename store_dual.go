package sessions

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"handover.example/sessions/internal/check"
)

// Phase is a phase of a migration from one store to another. Each instance may be one phase ahead of or behind any
// other, moving forwards or back.
type Phase int32

const (
	// OldOnly reads and writes the old store.
	OldOnly Phase = iota
	// DualReadOld writes both stores and reads the old one. It also reads the new store for sessions that the old store
	// does not have. If the old store is server-side, it does so for every session, because the new store may have a
	// newer copy, or the session may have ended.
	DualReadOld
	// DualReadNew writes both stores and reads the new one. A session that the new store does not have is read from the
	// old store and, unless it was revoked, written to the new one.
	DualReadNew
	// NewOnly reads and writes the new store. Until AdoptUntil, it adopts sessions that only the old store has.
	NewOnly
)

// DualStoreConfig is the configuration of a [DualStore]. It is copied by [NewDualStore].
type DualStoreConfig struct {
	_ [0]func()

	// Old is the store to move from, New the store to move to. Both are required. Each keeps its own options.
	Old, New Store

	// Phase is the phase in which the program starts. Default [OldOnly].
	Phase Phase

	// CheckRevoked makes DualReadOld check in the new store whether the session was revoked, at the cost of one more
	// read per request. DualReadNew and NewOnly always check. Without it, and in OldOnly, a cookie copied before a
	// logout opens as it did before the migration: up to the absolute timeout, because each use seals it anew.
	CheckRevoked bool

	// FallbackOnError makes DualReadNew serve the old copy while the new store cannot answer: it trades revocation for
	// availability. Changes are then written to the old copy only, and repaired in the new store later. Destroy and
	// Renew still fail.
	FallbackOnError bool

	// AdoptUntil is when NewOnly stops adopting old copies. Set it to the time when the longest session of the last
	// OldOnly or dual-phase instance will have ended. Zero means that adoption never stops.
	AdoptUntil time.Time

	// ReadOldFraction is the fraction of sessions, from 0 to 1, that DualReadNew still reads from the old store, as
	// DualReadOld does. It reads all others from the new one. The default, 0, means none. A hash of the session
	// decides, so that a session is on the same side on every instance, and never moves back while the fraction is
	// lowered.
	ReadOldFraction float64

	// CompareFraction is the fraction of reads in DualReadOld, from 0 to 1, that compare the old copy with the new one.
	// Default 0.
	CompareFraction float64
}

// DualStore moves sessions from one store to another while they are in use, in four phases, and logs nobody out. It is
// a [Store] like any other. It is safe for concurrent use, and must not be copied.
//
// The client has one cookie throughout. While both stores are written, it is the cookie of the old store: with a
// [CookieStore], the sealed record, which contains the token that names the record in the new store. In NewOnly it is
// the token alone. From DualReadOld on, every phase accepts both forms.
//
// Each record has a version that only grows. When both copies are available, the newer one wins, and the next write
// repairs the other. Destroy and Renew leave a tombstone in the new store that outlives every cookie of the session.
type DualStore struct {
	old, new     Store
	sized        sized       // the new store, if it can tell before a write that a record is too large
	declared     bool        // the old store has a ClientSide method, so nothing has to be learned
	atClient     atomic.Bool // the client holds the old store's records, so no other request writes them
	onServer     atomic.Bool // the old store was seen to keep its records itself
	phase        atomic.Int32
	checkRevoked bool
	fallback     bool
	adoptUntil   time.Time
	readOld      float64
	compare      float64
	now          func() time.Time // the clock of this instance, as in limits

	phaseMu sync.Mutex // a change of the phase, with its figures; requests do not take it
	figures atomic.Pointer[figures]
}

// NewDualStore returns a DualStore. It reports all configuration mistakes at once, as an [errors.Join] of
// [*ConfigError] values.
func NewDualStore(cfg DualStoreConfig) (*DualStore, error) {
	bad := check.Mistakes{New: configError}
	noOld, noNew := isNilStore(cfg.Old), isNilStore(cfg.New)
	if noOld {
		bad.Add("Old", "required: the store that is in use now")
	} else if movesFromClient(cfg.Old) {
		bad.Add("Old", fromClient)
	}
	if noNew {
		bad.Add("New", "required: the store to move to")
	} else if atClient, _ := isClientSide(cfg.New); atClient {
		bad.Add("New", newAtClient)
	} else if movesFromClient(cfg.New) {
		bad.Add("New", fromClient)
	}
	if !noOld && !noNew && sameRecords(cfg.Old, cfg.New) {
		bad.Add("New", "the same store as Old")
	}
	if !cfg.Phase.valid() {
		bad.Add("Phase", "unknown phase %d: %s", cfg.Phase, useAPhase)
	}
	for _, f := range [...]struct {
		field string
		value float64
	}{{"ReadOldFraction", cfg.ReadOldFraction}, {"CompareFraction", cfg.CompareFraction}} {
		if !(f.value >= 0 && f.value <= 1) { // also NaN
			bad.Add(f.field, "%v is not between 0 and 1", f.value)
		}
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	d := &DualStore{
		checkRevoked: cfg.CheckRevoked, fallback: cfg.FallbackOnError, adoptUntil: cfg.AdoptUntil,
		readOld: cfg.ReadOldFraction, compare: cfg.CompareFraction, now: time.Now,
	}
	atClient, declared := isClientSide(cfg.Old)
	d.atClient.Store(atClient)
	d.declared = declared
	d.old, d.new = &countedStore{Store: cfg.Old, d: d}, &countedStore{Store: cfg.New, d: d, isNew: true}
	d.sized, _ = storeAs[sized](cfg.New)
	d.SetPhase(cfg.Phase)
	return d, nil
}

type sized interface{ fits(*Record) error }

const (
	newAtClient = "its records live in the client's cookie, which cannot hold revocations: move from such a store, not to it"
	hiddenNew   = newAtClient + " (add an Unwrap() sessions.Store method to its wrapper, so that NewDualStore rejects it)"
	fromClient  = "a DualStore that moves records out of the client's cookie: finish that move, and use its New here"
)

// movesFromClient reports whether a store is a DualStore whose records may be in the client's cookie or on a server, so
// that it cannot be treated as either.
func movesFromClient(s Store) bool {
	d, ok := storeAs[*DualStore](s)
	return ok && d.atClient.Load()
}

// Phase returns the current phase.
func (d *DualStore) Phase() Phase { return Phase(d.phase.Load()) }

// SetPhase changes the phase at run time, from any goroutine. Requests in flight may finish in either phase. Move one
// step at a time, and wait until every instance has taken it before the next: see docs/migration.md. SetPhase panics if
// p is not a defined phase.
func (d *DualStore) SetPhase(p Phase) {
	if !p.valid() {
		panic(fmt.Sprintf("sessions: SetPhase: unknown phase %d: %s", p, useAPhase))
	}
	d.setPhase(p)
}

// String returns "dual", the name of the store in events.
func (d *DualStore) String() string { return "dual" }

// MaxTTL returns the smaller limit of the two stores.
func (d *DualStore) MaxTTL() time.Duration { return min(maxTTL(d.old), maxTTL(d.new)) }

func (d *DualStore) rules(p Phase) rules { return rulesOf(p, d.checkRevoked, d.fallback) }

// readRules returns the rules for reading a session: in DualReadNew, those of DualReadOld for the ReadOldFraction.
func (d *DualStore) readRules(p Phase, token string) rules {
	r := d.rules(p)
	if d.readOld > 0 && r.dual() && r.readNew {
		h := fnv.New64a()
		id, _ := TokenID(token) // hashed already, so that the share does not depend on how tokens are made
		_, _ = h.Write([]byte(id))
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], h.Sum64())
		if 1-float64(binary.BigEndian.Uint64(b[:])>>11)/(1<<53) <= d.readOld {
			return d.rules(DualReadOld)
		}
	}
	return r
}

// seen is what a DualStore knows about the two copies of a record. The record carries it from Load to Save, as its
// origin.
type seen struct {
	by       *DualStore
	oldVer   int64  // the version in the old store; 0 if none or unknown
	newVer   int64  // the version in the new store; likewise
	oldSeen  bool   // the old store was asked, and answered
	newSeen  bool   // the new store was asked, and answered
	newMarks string // the last writes that led to the new store's copy; the record has them too
	ended    bool   // this request has put its tombstone into the new store
}

// seenOf returns what is known about a record that was made from the version base, and reports whether it came from
// this store.
func (d *DualStore) seenOf(rec *Record, base int64) (s seen, known bool) {
	switch o := rec.origin.(type) {
	case *seen:
		if o.by == d {
			return *o, true
		}
	case *DualStore: // loaded in OldOnly: without an allocation
		if o == d {
			return seen{by: d, oldSeen: true, oldVer: base}, true
		}
	}
	return seen{by: d}, false
}

// learnOld records where the old store keeps its records, if it shows no ClientSide method: what the client presents for
// one is the token, or else the sealed record. rec was loaded from the old store or written to it.
func (d *DualStore) learnOld(rec *Record, presents string) {
	switch {
	case d.declared || presents == "" || d.atClient.Load() || d.onServer.Load():
	case presents == rec.Token:
		d.onServer.Store(true)
	default:
		d.atClient.Store(true)
	}
}

// Load reads a record according to the phase. It implements [Store].
func (d *DualStore) Load(ctx context.Context, name, presented string) (*Record, error) {
	phase := d.Phase()
	d.tellPhase(ctx, phase)
	rec, adopted, err := d.load(ctx, name, presented, phase)
	if adopted {
		loadAdopted(ctx)
	}
	d.loaded(phase, presented, rec, adopted, err)
	return rec, err
}

func (d *DualStore) load(ctx context.Context, name, presented string, phase Phase) (rec *Record, adopted bool, err error) {
	if !d.rules(phase).writeNew {
		rec, err := d.old.Load(ctx, name, presented)
		if err == nil {
			d.learnOld(rec, rec.presents())
			rec.origin = d // the phase may change before it is written
		}
		return rec, false, err
	}
	var c copies
	d.openOld(ctx, name, presented, &c)
	r := d.readRules(phase, c.token)
	read := d.readOldFirst
	if r.readNew {
		read = d.readNewFirst
	}
	if err := read(ctx, name, r, &c); err != nil {
		return nil, false, err
	}
	return d.choose(ctx, name, presented, r, &c)
}

// openOld determines which session the client presents: by a token alone, or by a record that the client holds, which
// may have expired.
func (d *DualStore) openOld(ctx context.Context, name, presented string, c *copies) {
	if isToken(presented) {
		c.token = presented
		if d.atClient.Load() {
			c.oldErr = &NotFoundError{Outcome: OutcomeUnknown, Detail: "the cookie is the token alone"}
		}
		return
	}
	c.old, c.oldErr = d.old.Load(ctx, name, presented)
	c.oldExpired = expiredOf(c.oldErr)
	named := c.old
	if named == nil {
		named = c.oldExpired // dead as a copy, but it still names its record in the new store
	}
	if named != nil {
		c.token = named.Token
		d.learnOld(named, presented)
	}
}

func isToken(presented string) bool {
	_, ok := TokenID(presented)
	return ok
}

// loadOld reads the old copy, unless the client has presented it.
func (d *DualStore) loadOld(ctx context.Context, name string, c *copies) {
	if c.old != nil || c.oldErr != nil {
		return
	}
	if c.old, c.oldErr = d.old.Load(ctx, name, c.token); c.oldErr == nil {
		d.learnOld(c.old, c.token)
	}
	c.oldExpired = expiredOf(c.oldErr)
}

// expiredOf returns the expired record that a store still has, or nil.
func expiredOf(err error) *Record {
	var miss *NotFoundError
	if errors.As(err, &miss) {
		return miss.Expired
	}
	return nil
}

func (d *DualStore) loadNew(ctx context.Context, name string, c *copies) {
	c.new, c.newErr = d.new.Load(ctx, name, c.token)
	c.newSeen = c.newErr == nil || errors.Is(c.newErr, ErrNotFound)
	c.newExpired = expiredOf(c.newErr)
}

func (d *DualStore) readOldFirst(ctx context.Context, name string, r rules, c *copies) error {
	d.loadOld(ctx, name, c)
	if c.oldErr != nil && !errors.Is(c.oldErr, ErrNotFound) {
		return c.oldErr
	}
	sampled := d.compare > 0 && rand.Float64() < d.compare
	// A client presents its newest cookie, even when the fleet is back from a later phase. A server-side store does not
	// know what was written or ended in the other store.
	ask := c.old == nil || !d.atClient.Load() || r.revoke || sampled
	if !ask || c.token == "" {
		return nil
	}
	d.loadNew(ctx, name, c)
	if !c.newSeen && c.old == nil {
		return c.newErr // unknown is not a logout
	}
	if sampled && c.newSeen && c.old != nil {
		d.compareCopies(ctx, c)
	}
	return nil
}

func (d *DualStore) readNewFirst(ctx context.Context, name string, r rules, c *copies) error {
	if c.token == "" {
		return c.oldErr
	}
	d.loadNew(ctx, name, c)
	if !c.newSeen && r.needNew {
		return c.newErr
	}
	if r.writeOld || c.new == nil && d.mayAdopt(r) {
		d.loadOld(ctx, name, c)
		if c.oldErr != nil && !errors.Is(c.oldErr, ErrNotFound) && c.new == nil {
			return c.oldErr // the old copy may be the only one
		}
	}
	if !c.newSeen {
		if c.old == nil {
			return c.newErr
		}
		d.figures.Load().fallbackReads.Add(1)
	}
	return nil
}

// mayAdopt reports whether an old copy may still be adopted.
func (d *DualStore) mayAdopt(r rules) bool {
	return r.writeOld || d.adoptUntil.IsZero() || d.now().Before(d.adoptUntil)
}

// choose returns the copy that wins, and writes it to the new store if that must have it.
func (d *DualStore) choose(ctx context.Context, name, presented string, r rules, c *copies) (rec *Record, adopted bool, err error) {
	atClient := d.atClient.Load()
	p := pick(r, atClient, c, d.mayAdopt(r), d.now())
	switch {
	case p.late:
		d.figures.Load().tooLate.Add(1)
		return nil, false, &NotFoundError{Outcome: OutcomeExpired, SessionID: c.old.ID, Detail: "only the old store has it, and AdoptUntil has passed"}
	case p.rec == nil:
		if c.newErr != nil && (c.oldErr == nil || isToken(presented)) {
			return nil, false, c.newErr
		}
		return nil, false, c.oldErr
	case p.rec.Revoked:
		return p.rec, false, nil
	}
	rec = p.rec
	s := seen{by: d, newSeen: c.newSeen, oldSeen: c.old != nil || errors.Is(c.oldErr, ErrNotFound)}
	if c.old != nil {
		s.oldVer = c.old.Version
	}
	if c.new != nil {
		s.newVer, s.newMarks = c.new.Version, c.new.lineage.past
	}
	if p.adopt {
		if rec, adopted, err = d.adopt(ctx, name, rec, r, &s); err != nil || rec.Revoked {
			return rec, adopted, err
		}
	}
	rec.origin = &s
	rec.presentedAs(d.present(ctx, name, presented, r, c, rec))
	return rec, adopted, nil
}

// adopt writes an old copy to the new store with the same version and expiry. If another request was quicker, its copy
// wins if it is newer.
func (d *DualStore) adopt(ctx context.Context, name string, rec *Record, r rules, s *seen) (_ *Record, adopted bool, err error) {
	ended := func() *Record { return rec.tombstone(d.now(), rec.madeDeadline()) } // another request has written one meanwhile
	for ctx.Err() == nil {
		_, err := d.saveTo(ctx, name, newSide, d.copyOf(rec), s.newVer)
		var wrong *ConfigError
		switch {
		case err == nil:
			s.newVer = rec.Version
			return rec, true, nil
		case errors.As(err, &wrong):
			return nil, false, err
		case errors.Is(err, ErrGone) && s.newVer != 0:
			s.newVer = 0 // expired, evicted, or replaced by a tombstone: the next attempt finds out which
			continue
		case errors.Is(err, ErrGone):
			return ended(), false, nil
		case !errors.Is(err, ErrConflict):
			if !r.needNew || r.writeOld && errors.Is(err, ErrTooLarge) {
				d.figures.Load().newWriteErrorsIgnored.Add(1)
				s.newSeen = false
				return rec, false, nil
			}
			return nil, false, err
		}
		current, err := currentOf(ctx, name, d.new, rec, err)
		switch {
		case errors.Is(err, ErrGone):
			s.newVer = 0
		case err != nil:
			return nil, false, err
		case current.Revoked:
			return ended(), false, nil
		case current.Version >= rec.Version:
			s.newVer = current.Version
			return current, false, nil
		default:
			s.newVer = current.Version
		}
	}
	return nil, false, ctx.Err()
}

// present returns what the client should present for a record: what the old store wants while both stores are written,
// and the token alone after that. Until it is known where the old store keeps its records, it is asked to touch one that
// it does not have: it returns the record sealed only if the client holds them. Touch creates nothing.
func (d *DualStore) present(ctx context.Context, name, presented string, r rules, c *copies, rec *Record) string {
	switch {
	case !r.writeOld:
		return rec.Token
	case c.old != nil:
		return c.old.presents()
	case d.atClient.Load():
		if sealed, err := d.old.Save(ctx, name, rec, rec.Version); err == nil {
			return sealed
		}
	case !d.declared && !d.onServer.Load() && errors.Is(c.oldErr, ErrNotFound):
		sealed, err := d.old.Touch(ctx, name, rec)
		if err == nil {
			d.learnOld(rec, sealed)
			return sealed
		}
		if errors.Is(err, ErrGone) {
			d.onServer.Store(true)
		}
	}
	return presented
}

// Save writes a record according to the phase. It implements [Store].
func (d *DualStore) Save(ctx context.Context, name string, rec *Record, base int64) (string, error) {
	phase := d.Phase()
	token, err := d.save(ctx, name, rec, base, d.rules(phase))
	if err == nil {
		d.saved(phase, rec, base)
	}
	return token, err
}

func (d *DualStore) save(ctx context.Context, name string, rec *Record, base int64, r rules) (token string, err error) {
	atClient := d.atClient.Load()
	if !r.writeNew && atClient {
		rec.origin = d
		return d.old.Save(ctx, name, rec, base)
	}
	shallow := *rec
	out := &shallow
	if out.Revoked && out.Expires.Before(out.Deadline) {
		out.Expires = out.Deadline // as long as any cookie of the session could live
	}
	if out.lineage.mark == "" { // not from a Manager
		out.lineage.mark = newMark()
	}
	// The marks of both copies are compared. Another DualStore may already have set complete.
	out.lineage.complete, out.lineage.fresh = out.lineage.complete || !atClient, false
	if d.sized != nil && r.dual() && !mayFail(r, newSide, rec.Revoked, false) {
		if err := d.sized.fits(out); err != nil {
			return "", err // before the old store is written
		}
	}
	s, known := d.seenOf(rec, base)
	token = rec.Token
	kept := false
	sides := order(r, rec.Revoked, atClient)
	for i, to := range sides {
		last := i == len(sides)-1
		var ok bool
		if to == newSide {
			ok, err = d.saveNew(ctx, name, out, base, r, &s, known, last && !kept)
		} else {
			var text string
			text, ok, err = d.saveOld(ctx, name, out, base, r, &s, known, last && !kept)
			if ok {
				token = text
			}
		}
		if err != nil {
			break
		}
		kept = kept || ok
	}
	if rec.lineage.mark != "" { // from a Manager, which may write it again
		rec.origin = &s
	}
	if err != nil {
		return "", err
	}
	return token, nil
}

// saveOld writes the old copy, and reports whether it was kept. alone reports whether no other store has the record.
func (d *DualStore) saveOld(ctx context.Context, name string, rec *Record, base int64, r rules, s *seen, known, alone bool) (token string, kept bool, err error) {
	if d.atClient.Load() {
		token, err := d.old.Save(ctx, name, rec, base)
		if errors.Is(err, ErrTooLarge) && !r.needOld {
			d.figures.Load().tokenOnly.Add(1)
			return "", false, nil // the new store must have it
		}
		return token, err == nil, err
	}
	w := write{to: oldSide, rec: rec, base: base, expect: base, seen: !known || r.needOld && s.oldSeen && s.oldVer != 0, strict: !known}
	if s.oldSeen {
		w.expect = s.oldVer
	}
	if isRecent(s.newVer, d.now()) {
		w.beside = s.newMarks
	}
	token, err = d.forward(ctx, name, w)
	var conflict *ConflictError
	switch {
	case err == nil:
		s.oldSeen, s.oldVer = true, rec.Version
		d.learnOld(rec, token)
		return token, true, nil
	case errors.As(err, &conflict):
		found := *s
		found.oldSeen, found.oldVer = true, conflict.Current.Version
		conflict.Current.origin = &found
		return "", false, err
	case !mayIgnore(err, r, oldSide, rec.Revoked, alone):
		return "", false, err
	}
	d.figures.Load().oldWriteErrorsIgnored.Add(1)
	return "", false, nil
}

// saveNew writes the new copy, and reports whether it was kept. alone reports whether no other store has the record.
func (d *DualStore) saveNew(ctx context.Context, name string, rec *Record, base int64, r rules, s *seen, known, alone bool) (kept bool, err error) {
	if rec.Revoked && s.ended {
		return true, nil // by the previous attempt, which met a parallel write in the old store
	}
	w := write{to: newSide, rec: rec, base: base, expect: base, seen: !known || r.readNew && s.newSeen && s.newVer != 0, strict: !known}
	if s.newSeen {
		w.expect = s.newVer
	}
	_, err = d.forward(ctx, name, w)
	var conflict *ConflictError
	switch {
	case err == nil:
		s.newSeen, s.newVer, s.ended = true, rec.Version, rec.Revoked
		if !rec.Revoked { // a tombstone ends what led to it: its own mark is in no other copy
			s.newMarks = rec.lineage.marks()
		}
		return true, nil
	case errors.As(err, &conflict):
		found := *s
		found.newSeen, found.newVer, found.newMarks = true, conflict.Current.Version, conflict.Current.lineage.past
		conflict.Current.origin = &found
		return false, err
	case errors.Is(err, ErrGone):
		return false, err
	}
	ignore := mayIgnore(err, r, newSide, rec.Revoked, alone)
	if rec.Revoked {
		d.tombstoneFailed(rec, ignore)
	} else if ignore {
		d.figures.Load().newWriteErrorsIgnored.Add(1) // the old copy carries the change
	}
	if ignore {
		return false, nil
	}
	return false, err
}

// keepShortened makes the stores keep a record whose timeout was shortened until its earlier copies have expired.
func keepShortened(rec *Record) {
	if rec.shortened && !rec.Revoked {
		rec.keep = rec.madeDeadline()
	}
}

// saveTo writes a record to one side. If the new store returns something other than the token, the client holds its
// records, which a wrapper has hidden from NewDualStore.
func (d *DualStore) saveTo(ctx context.Context, name string, to side, rec *Record, base int64) (token string, err error) {
	rec.cookie = cmp.Or(rec.cookie, name)
	keepShortened(rec)
	token, err = d.side(to).Save(ctx, name, rec, base)
	if err == nil && to == newSide && token != rec.Token {
		return "", &ConfigError{"New", hiddenNew}
	}
	return token, err
}

// mayIgnore reports whether a request goes on although this side has answered a write with an error.
func mayIgnore(err error, r rules, s side, revoked, alone bool) bool {
	var wrong *ConfigError
	return !errors.Is(err, ErrGone) && !errors.As(err, &wrong) && mayFail(r, s, revoked, alone)
}

func (d *DualStore) side(s side) Store {
	if s == newSide {
		return d.new
	}
	return d.old
}

// forward writes a record over what one store has of it: the expected version, nothing, or an older copy that was left
// behind when a write failed. A copy newer than base is the change of another request: a conflict.
func (d *DualStore) forward(ctx context.Context, name string, w write) (token string, err error) {
	for ctx.Err() == nil {
		if w.expect == 0 && w.base != 0 && w.rec.Revoked {
			if w.expect, err = d.putPlaceholder(ctx, name, w); err != nil {
				return "", err
			}
		}
		token, err = d.saveTo(ctx, name, w.to, w.rec, w.expect)
		switch {
		case errors.Is(err, ErrGone) && w.expect != 0 && !w.seen:
			w.expect = 0
		case errors.Is(err, ErrConflict):
			current, err := currentOf(ctx, name, d.side(w.to), w.rec, err)
			if err != nil {
				return "", err
			}
			switch onConflict(w, current, d.now()) {
			case actDone:
				return w.rec.Token, nil
			case actGone:
				return "", ErrGone
			case actConflict:
				return "", &ConflictError{Current: current}
			}
			w.expect = current.Version
		default:
			return token, err
		}
	}
	return "", ctx.Err()
}

// copyOf returns a copy for the other store.
func (d *DualStore) copyOf(rec *Record) *Record {
	c := rec.clone()
	c.lineage = rec.lineage.copied(!d.atClient.Load())
	return c
}

// putPlaceholder writes a record for a tombstone to replace, if there is none, and returns the version to expect.
// Without a record there would be no version check, and the tombstone would hide a parallel first write. The
// placeholder is older than any record, so that it wins over no copy, and any writer overwrites it.
func (d *DualStore) putPlaceholder(ctx context.Context, name string, w write) (int64, error) {
	p := w.rec.clone()
	p.lineage = lineage{}
	p.Revoked, p.Renewed, p.Version = false, false, 1
	_, err := d.saveTo(ctx, name, w.to, p, 0)
	if errors.Is(err, ErrConflict) {
		return w.base, nil // the version check will find out
	}
	return p.Version, err
}

// currentOf returns the record that caused a conflict.
func currentOf(ctx context.Context, name string, s Store, rec *Record, conflict error) (*Record, error) {
	var found *ConflictError
	if errors.As(conflict, &found) && found.Current != nil {
		return found.Current, nil
	}
	current, err := s.Load(ctx, name, rec.Token)
	if errors.Is(err, ErrNotFound) {
		return nil, ErrGone
	}
	return current, err
}

// Touch extends the expiry of both copies. It implements [Store].
func (d *DualStore) Touch(ctx context.Context, name string, rec *Record) (string, error) {
	r := d.rules(d.Phase())
	if rec.shortened {
		rec = rec.clone()
		keepShortened(rec)
	}
	if !r.writeNew {
		return d.old.Touch(ctx, name, rec)
	}
	_, err := d.new.Touch(ctx, name, rec)
	gone := errors.Is(err, ErrGone)
	switch {
	case !r.writeOld:
		return rec.Token, err
	case err != nil && r.readNew && (gone || r.needNew):
		return "", err
	case gone: // never written there, or ended: then the client must not get a cookie again
		if current, err := d.new.Load(ctx, name, rec.Token); err == nil && current.Revoked {
			return "", ErrGone
		}
	case noAnswer(ctx, err):
		d.figures.Load().newWriteErrorsIgnored.Add(1)
	}
	token, oldErr := d.old.Touch(ctx, name, rec)
	if err == nil && oldErr != nil && (!r.needOld || errors.Is(oldErr, ErrGone) || errors.Is(oldErr, ErrTooLarge)) {
		if noAnswer(ctx, oldErr) {
			d.figures.Load().oldWriteErrorsIgnored.Add(1)
		}
		return rec.Token, nil // the new store has it
	}
	return token, oldErr
}

// Delete ends a session in every store that the phase writes. It leaves a tombstone in the new store, and in a
// server-side old store. It does so in OldOnly as well, because an instance in DualReadOld would read a session that is
// missing there from the new store. It implements [Store].
func (d *DualStore) Delete(ctx context.Context, name string, rec *Record) error {
	r := d.rules(d.Phase())
	atClient := d.atClient.Load()
	sides := order(r, true, false)
	for _, to := range sides {
		var err error
		if to == oldSide && atClient {
			err = d.old.Delete(ctx, name, rec)
		} else {
			err = d.end(ctx, name, to, rec)
		}
		if err == nil {
			continue
		}
		ignore := mayIgnore(err, r, to, true, len(sides) == 1)
		if to == newSide && !errors.Is(err, ErrGone) {
			d.tombstoneFailed(rec, ignore)
		} else if ignore {
			d.figures.Load().oldWriteErrorsIgnored.Add(1)
		}
		if !ignore {
			return err
		}
	}
	return nil
}

// end replaces a record with a tombstone, whatever its version. If there is a tombstone already, the session has ended;
// end returns ErrGone if that tombstone is of a renewal.
func (d *DualStore) end(ctx context.Context, name string, to side, rec *Record) error {
	stone := rec.tombstone(d.now(), rec.madeDeadline())
	stone.lineage.mark = newMark()
	stone.lineage.complete = !d.atClient.Load()
	w := write{to: to, rec: stone, base: rec.Version, expect: rec.Version}
	s, _ := d.seenOf(rec, rec.Version)
	switch {
	case to == newSide && s.newSeen:
		w.expect = s.newVer
	case to == oldSide && s.oldSeen:
		w.expect = s.oldVer
	}
	for {
		_, err := d.forward(ctx, name, w)
		var conflict *ConflictError
		switch {
		case errors.As(err, &conflict):
			w.base, w.expect = conflict.Current.Version, conflict.Current.Version
			stone.Version = nextVersion(w.base, d.now())
			continue
		case !errors.Is(err, ErrGone):
			return err
		}
		there, err := d.side(to).Load(ctx, name, rec.Token)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err != nil:
			return err
		case there.Renewed:
			return ErrGone
		case there.Revoked:
			return nil
		}
		w.base, w.expect = there.Version, there.Version
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
