package sessions

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Phase is one step of a migration from one store to another. Every instance may be in the phase before or after any
// other, forwards or back.
type Phase int32

const (
	// OldOnly reads and writes the old store.
	OldOnly Phase = iota
	// DualReadOld writes both stores and reads the old one. What the old one does not have is asked of the new one; so is
	// every session, if the old store is not a [CookieStore]: there may be a newer copy, or the session may have ended.
	DualReadOld
	// DualReadNew writes both stores and reads the new one. What the new one does not have is taken from the old one,
	// if it was not revoked, and written to the new one.
	DualReadNew
	// NewOnly reads and writes the new store, and adopts what only the old one has, until AdoptUntil.
	NewOnly
)

const useAPhase = "use OldOnly, DualReadOld, DualReadNew or NewOnly"

// String returns the name of the constant.
func (p Phase) String() string {
	switch p {
	case OldOnly:
		return "OldOnly"
	case DualReadOld:
		return "DualReadOld"
	case DualReadNew:
		return "DualReadNew"
	case NewOnly:
		return "NewOnly"
	}
	return fmt.Sprintf("Phase(%d)", int32(p))
}

// DualStoreConfig is the configuration of a [DualStore]. It is copied by [NewDualStore].
type DualStoreConfig struct {
	_ [0]func()

	// Old is the store to leave, New the one to move to. Both required. Each keeps its own options.
	Old, New Store

	// Phase is where the migration stands when the program starts. Default [OldOnly].
	Phase Phase

	// CheckRevoked makes DualReadOld ask the new store, for one more read a request, whether the session was revoked.
	// DualReadNew and NewOnly always know. Without it, and in OldOnly, a cookie that was copied before a logout opens
	// until it expires, as it did before the migration.
	CheckRevoked bool

	// FallbackOnError serves the old copy in DualReadNew while the new store cannot answer: it trades revocation for
	// availability. Writes are then carried by the old copy and healed later; Destroy and Renew still fail.
	FallbackOnError bool

	// AdoptUntil ends the adoption of old copies in NewOnly. Set it to the time when the longest session of the last
	// OldOnly or dual instance will have ended. Zero is no end.
	AdoptUntil time.Time

	// ReadOldFraction is the share of the sessions, from 0 to 1, that DualReadNew still reads from the old store, as
	// DualReadOld does; all others are read from the new one. The default, 0, is none of them. A hash of the session
	// decides, so that a session stays on one side, on every instance, and never moves back while the share goes down.
	ReadOldFraction float64

	// CompareFraction is the part of the reads in DualReadOld, from 0 to 1, that are compared with the new store.
	CompareFraction float64
}

// DualStore moves sessions from one store to another while they are in use, in four phases, with nobody logged out. It
// is a [Store]: the [Manager] does not know. It is safe for concurrent use, and must not be copied.
//
// There is one cookie throughout. While both stores are written it is what the old store presents: of a [CookieStore]
// the sealed record, which holds the token that names the record in the new store. In NewOnly it is the token alone.
// From DualReadOld on every phase takes every form.
//
// Each record has a version that only grows. Where both copies are at hand the newer one counts, and the next write
// repairs the other. Destroy and Renew leave a tombstone in the new store that outlives every cookie of the session.
type DualStore struct {
	old, new     Store
	oldIsClient  bool
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

// NewDualStore returns a DualStore. All configuration mistakes are reported at once, as a join of [*ConfigError].
func NewDualStore(cfg DualStoreConfig) (*DualStore, error) {
	var bad mistakes
	if isNil(cfg.Old) {
		bad.add("Old", "required: the store that is in use now")
	}
	if isNil(cfg.New) {
		bad.add("New", "required: the store to move to")
	}
	if !isNil(cfg.Old) && !isNil(cfg.New) && isSameStore(cfg.Old, cfg.New) {
		bad.add("New", "the same store as Old")
	}
	if isClientSide(cfg.New) {
		bad.add("New", "a store that the client keeps cannot hold revocations: move from it, not to it")
	}
	if cfg.Phase < OldOnly || cfg.Phase > NewOnly {
		bad.add("Phase", "unknown phase %d: %s", cfg.Phase, useAPhase)
	}
	for _, f := range [...]struct {
		field string
		value float64
	}{{"ReadOldFraction", cfg.ReadOldFraction}, {"CompareFraction", cfg.CompareFraction}} {
		if !(f.value >= 0 && f.value <= 1) { // also NaN
			bad.add(f.field, "%v is not between 0 and 1", f.value)
		}
	}
	if err := bad.join(); err != nil {
		return nil, err
	}
	d := &DualStore{
		oldIsClient:  isClientSide(cfg.Old),
		checkRevoked: cfg.CheckRevoked, fallback: cfg.FallbackOnError, adoptUntil: cfg.AdoptUntil,
		readOld: cfg.ReadOldFraction, compare: cfg.CompareFraction, now: time.Now,
	}
	d.old, d.new = &countedStore{Store: cfg.Old, d: d}, &countedStore{Store: cfg.New, d: d, isNew: true}
	d.SetPhase(cfg.Phase)
	return d, nil
}

// isClientSide says whether what a store keeps lies at the client, sealed.
func isClientSide(s Store) bool {
	_, ok := s.(interface{ clientSide() })
	return ok
}

// isSameStore says whether two stores would write each other's records: they are one, or have one client and one prefix.
func isSameStore(a, b Store) bool {
	if x, ok := a.(*RedisStore); ok {
		if y, ok := b.(*RedisStore); ok {
			return x.prefix == y.prefix && same(x.rdb, y.rdb)
		}
	}
	return same(a, b)
}

// same compares what may be of a type that cannot be compared.
func same(a, b any) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// Phase returns the phase that is in force.
func (d *DualStore) Phase() Phase { return Phase(d.phase.Load()) }

// SetPhase changes the phase, at run time and from any goroutine; requests that have begun may end in either. Move one
// step at a time, and let every instance take a step before the next: see the runbook. SetPhase panics if p is not a
// defined phase.
func (d *DualStore) SetPhase(p Phase) {
	if p < OldOnly || p > NewOnly {
		panic(fmt.Sprintf("sessions: SetPhase: unknown phase %d: %s", p, useAPhase))
	}
	d.setPhase(p)
}

func (d *DualStore) storeName() string { return "dual" }

// keepsTombstones says that a tombstone is all that a Delete would leave.
func (d *DualStore) keepsTombstones() {}

// MaxTTL returns the lesser of the limits of both stores.
func (d *DualStore) MaxTTL() time.Duration {
	ttl := time.Duration(math.MaxInt64)
	for _, s := range [...]Store{d.old, d.new} {
		if m, ok := s.(interface{ MaxTTL() time.Duration }); ok {
			ttl = min(ttl, m.MaxTTL())
		}
	}
	return ttl
}

// dualState is what a DualStore knows of a record's two copies. It travels in the record, from Load to Save.
type dualState struct {
	present  string // the token that the client should have instead of the one that it sent
	known    bool   // the record has come from a DualStore
	oldVer   int64  // the version in the old store; 0 if there is none, or it is not known
	newVer   int64  // likewise in the new store
	oldSeen  bool   // the old store was asked, and answered
	newSeen  bool   // the new store was asked, and answered
	adopted  bool   // this request has brought the record to the new store
	newMarks string // the last writes that led to the new store's copy; the record has them too
	ended    bool   // this request has put its tombstone into the new store
}

// readsNew reports whether this session is read from the new store.
func (d *DualStore) readsNew(phase Phase, token string) bool {
	if phase != DualReadNew || d.readOld == 0 {
		return phase >= DualReadNew
	}
	h := fnv.New64a()
	id, _ := TokenID(token) // hashed already, so that the share does not depend on how tokens are made
	_, _ = h.Write([]byte(id))
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], h.Sum64())
	return float64(binary.BigEndian.Uint64(b[:])>>11)/(1<<53) >= d.readOld
}

// copies are what the two stores have of one session.
type copies struct {
	token    string // names the session in both; empty if it is not known
	old, new *Record
	oldErr   error // why there is no old copy
	newErr   error
	newSeen  bool
}

// Load reads a record as the phase says. It implements [Store].
func (d *DualStore) Load(ctx context.Context, name, presented string) (*Record, error) {
	phase := d.Phase()
	d.tellPhase(ctx, phase)
	rec, err := d.load(ctx, name, presented, phase)
	d.loaded(phase, presented, rec, err)
	return rec, err
}

func (d *DualStore) load(ctx context.Context, name, presented string, phase Phase) (*Record, error) {
	if phase == OldOnly {
		rec, err := d.old.Load(ctx, name, presented)
		if err == nil {
			rec.dual = dualState{known: true, oldSeen: true, oldVer: rec.Version} // the phase may change before it is written
		}
		return rec, err
	}
	var c copies
	if d.oldIsClient {
		d.openOld(ctx, name, presented, &c)
	} else {
		c.token = presented
		if _, ok := TokenID(presented); !ok {
			return nil, &NotFoundError{Outcome: OutcomeMalformed, Detail: "not the shape of a session token"}
		}
	}
	if d.readsNew(phase, c.token) {
		return d.loadReadNew(ctx, name, presented, phase, &c)
	}
	return d.loadReadOld(ctx, name, presented, &c)
}

// openOld opens what the client presents: a sealed record, alive or expired, or a token alone.
func (d *DualStore) openOld(ctx context.Context, name, presented string, c *copies) {
	if _, ok := TokenID(presented); ok {
		c.token = presented
		c.oldErr = &NotFoundError{Outcome: OutcomeUnknown, Detail: "the cookie is the token alone"}
		return
	}
	c.old, c.oldErr = d.old.Load(ctx, name, presented)
	var miss *NotFoundError
	switch {
	case c.oldErr == nil:
		c.token = c.old.Token
	case errors.As(c.oldErr, &miss) && miss.expired != nil:
		c.token = miss.expired.Token // dead as a copy, but it still names its record in the new store
	}
}

func (d *DualStore) loadReadOld(ctx context.Context, name, presented string, c *copies) (*Record, error) {
	if !d.oldIsClient {
		c.old, c.oldErr = d.old.Load(ctx, name, c.token)
		if c.oldErr != nil && !errors.Is(c.oldErr, ErrNotFound) {
			return nil, c.oldErr
		}
	}
	sampled := d.compare > 0 && rand.Float64() < d.compare
	// A client brings the newest cookie along, also back from a later phase. A store on the server knows nothing of what
	// was written, or ended, where it was not asked.
	ask := c.old == nil || !d.oldIsClient || d.checkRevoked || sampled
	if ask && c.token != "" {
		c.new, c.newErr = d.new.Load(ctx, name, c.token)
		c.newSeen = c.newErr == nil || errors.Is(c.newErr, ErrNotFound)
		if !c.newSeen && c.old == nil {
			return nil, c.newErr // nobody knows: not a logout
		}
		if sampled && c.newSeen && c.old != nil {
			d.compareCopies(ctx, c)
		}
	}
	return d.choose(ctx, name, presented, DualReadOld, c)
}

func (d *DualStore) loadReadNew(ctx context.Context, name, presented string, phase Phase, c *copies) (*Record, error) {
	if c.token == "" {
		return nil, c.oldErr
	}
	c.new, c.newErr = d.new.Load(ctx, name, c.token)
	c.newSeen = c.newErr == nil || errors.Is(c.newErr, ErrNotFound)
	if !c.newSeen && !(d.fallback && phase == DualReadNew) {
		return nil, c.newErr
	}
	if !d.oldIsClient && (phase == DualReadNew || c.new == nil && d.adopts(phase)) {
		c.old, c.oldErr = d.old.Load(ctx, name, c.token)
		if c.oldErr != nil && !errors.Is(c.oldErr, ErrNotFound) && c.new == nil {
			return nil, c.oldErr // the old copy may be the only one
		}
	}
	if !c.newSeen {
		if c.old == nil {
			return nil, c.newErr
		}
		d.figures.Load().fallbackReads.Add(1)
	}
	return d.choose(ctx, name, presented, phase, c)
}

// choose takes the newer of the copies, or adopts the only one there is.
func (d *DualStore) choose(ctx context.Context, name, presented string, phase Phase, c *copies) (*Record, error) {
	for _, rec := range [...]*Record{c.new, c.old} {
		if rec != nil && rec.Revoked {
			return rec, nil
		}
	}
	var rec *Record
	switch {
	case c.old == nil && c.new == nil:
		if c.newErr != nil && (c.oldErr == nil || isToken(presented)) {
			return nil, c.newErr
		}
		return nil, c.oldErr
	case c.old == nil:
		rec = c.new
	case c.new == nil:
		rec = c.old
		if !d.adopts(phase) {
			d.figures.Load().tooLate.Add(1)
			return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: rec.ID, Detail: "only the old store has it, and AdoptUntil has passed"}
		}
	case d.takesNew(phase, c.old, c.new):
		rec = c.new
	default:
		rec = c.old
	}
	s := dualState{known: true, newSeen: c.newSeen, oldSeen: c.old != nil || errors.Is(c.oldErr, ErrNotFound)}
	if c.old != nil {
		s.oldVer = c.old.Version
	}
	if c.new != nil {
		s.newVer, s.newMarks = c.new.Version, c.new.marks
	}
	rec.dual = s
	missing := c.new == nil && c.newSeen && phase >= DualReadNew
	// In NewOnly a cookie is about to lose its newer copy. Between two servers a newer old copy may be half of a parallel
	// request's two writes: there only the next change repairs the new store.
	behind := c.new != nil && rec == c.old && c.new.Version < rec.Version && phase == NewOnly
	if missing || behind {
		if err := d.adopt(ctx, name, rec); err != nil {
			return nil, err
		}
	}
	d.represent(ctx, name, presented, phase, c.old == nil, rec)
	return rec, nil
}

// takesNew reports whether the new store's copy counts where both are there: if it is the newer one. Copies of one version
// are mostly the same write, and then the read side counts. If they are two writes, every phase must decide alike: the
// client's copy counts, because some phases see no other; of two servers, the new one.
func (d *DualStore) takesNew(phase Phase, old, new *Record) bool {
	switch {
	case new.Version > old.Version:
		return true
	case new.Version < old.Version:
		return !d.oldIsClient && diverged(new, old, d.now()) // the other request will find it, and be merged
	case d.oldIsClient:
		return false
	}
	return phase >= DualReadNew || lacks(new.marks, old.marks) || lacks(old.marks, new.marks)
}

// diverged says whether the newer of two copies was not made from the older one, although both are of now: of two
// parallel requests one is between its two writes. The older one is then not a copy that was left behind: an instance in
// the neighbouring phase, which writes that store alone, may have said that it is saved.
func diverged(older, newer *Record, now time.Time) bool {
	return marksCount(older.Version, now) && lacks(newer.marks, older.marks)
}

// lacks says whether one of the last of these writes is not among the marks. All are looked for: a request that tries
// again leaves the same mark in records that were made from different ones.
func lacks(marks, writes string) bool {
	const last = 32 * markLength // fewer than a record keeps, so that those it had to drop are not missed
	for writes = writes[max(0, len(writes)-last):]; len(writes) >= markLength; writes = writes[markLength:] {
		if !hasMark(marks, writes[:markLength]) {
			return true
		}
	}
	return false
}

// adopts says whether an old copy may still be taken over.
func (d *DualStore) adopts(phase Phase) bool {
	return phase != NewOnly || d.adoptUntil.IsZero() || d.now().Before(d.adoptUntil)
}

func isToken(presented string) bool {
	_, ok := TokenID(presented)
	return ok
}

// adopt writes an old copy to the new store, as it is: the same version, the same expiry. Somebody else may have been
// quicker: then theirs counts if it is newer.
func (d *DualStore) adopt(ctx context.Context, name string, rec *Record) error {
	for ctx.Err() == nil {
		_, err := d.new.Save(ctx, name, d.copyOf(rec), rec.dual.newVer)
		switch {
		case err == nil:
			rec.dual.newVer, rec.dual.adopted = rec.Version, true
			return nil
		case errors.Is(err, ErrGone) && rec.dual.newVer != 0:
			rec.dual.newVer = 0 // it has expired, or was evicted, or a tombstone has come: which the next attempt tells
			continue
		case errors.Is(err, ErrGone):
			*rec = *rec.tombstone(d.now(), rec.Deadline) // which has come meanwhile
			return nil
		case !errors.Is(err, ErrConflict):
			if d.fallback && d.Phase() == DualReadNew {
				d.figures.Load().newWriteErrorsIgnored.Add(1)
				rec.dual.newSeen = false
				return nil
			}
			return err
		}
		current, err := currentOf(ctx, name, d.new, rec, err)
		switch {
		case errors.Is(err, ErrGone):
			rec.dual.newVer = 0
		case err != nil:
			return err
		case current.Revoked:
			*rec = *rec.tombstone(d.now(), rec.Deadline) // which has come meanwhile
			return nil
		case current.Version >= rec.Version:
			state := rec.dual
			state.newVer = current.Version
			*rec = *current
			rec.dual = state
			return nil
		default:
			rec.dual.newVer = current.Version
		}
	}
	return ctx.Err()
}

// represent decides whether the client should have another form of its cookie: the sealed record while both stores are
// written, the token alone after that.
func (d *DualStore) represent(ctx context.Context, name, presented string, phase Phase, noCopy bool, rec *Record) {
	if !d.oldIsClient || rec.Revoked {
		return
	}
	switch {
	case phase == NewOnly && presented != rec.Token:
		rec.dual.present = rec.Token
	case phase != NewOnly && noCopy:
		if sealed, err := d.old.Save(ctx, name, rec, rec.Version); err == nil {
			rec.dual.present = sealed
		}
	}
}

// Save writes a record as the phase says. It implements [Store].
func (d *DualStore) Save(ctx context.Context, name string, rec *Record, base int64) (string, error) {
	phase := d.Phase()
	token, err := d.save(ctx, name, rec, base, phase)
	if err == nil {
		rec.dual.known = true
		d.saved(phase, rec, base)
	}
	return token, err
}

func (d *DualStore) save(ctx context.Context, name string, rec *Record, base int64, phase Phase) (string, error) {
	if phase == OldOnly && d.oldIsClient {
		return d.old.Save(ctx, name, rec, base)
	}
	if rec.Revoked && rec.Expires.Before(rec.Deadline) {
		rec = rec.clone()
		rec.Expires = rec.Deadline // as long as any cookie of the session could live
	}
	if rec.mark == "" { // not from a Manager
		rec = rec.clone()
		rec.mark = newMark()
	}
	rec.lineal, rec.fresh = !d.oldIsClient, false // the marks of both copies are compared
	switch {
	case phase == NewOnly:
		_, err := d.saveNew(ctx, name, rec, base, phase, true)
		return rec.Token, err
	case d.newFirst(rec, phase):
		kept, err := d.saveNew(ctx, name, rec, base, phase, false)
		if err != nil {
			return "", err
		}
		token, _, err := d.saveOld(ctx, name, rec, base, phase, !kept)
		return token, err
	}
	token, kept, err := d.saveOld(ctx, name, rec, base, phase, phase != DualReadNew)
	if err != nil || phase == OldOnly {
		return token, err
	}
	if _, err := d.saveNew(ctx, name, rec, base, phase, !kept); err != nil {
		return "", err
	}
	return token, nil
}

// newFirst says whether a tombstone goes to the new store first: where it must not fail there. Of two stores on the
// server the old one would end the session, although the renewal that wanted it has failed.
func (d *DualStore) newFirst(rec *Record, phase Phase) bool {
	return rec.Revoked && !d.oldIsClient && (phase == DualReadNew || phase == DualReadOld && d.checkRevoked)
}

// saveOld writes the old copy, and reports whether it was kept: with must, that it was not is an error. A cookie is only
// sealed here: it reaches the client after the new store was written.
func (d *DualStore) saveOld(ctx context.Context, name string, rec *Record, base int64, phase Phase, must bool) (token string, kept bool, err error) {
	if d.oldIsClient {
		token, err := d.old.Save(ctx, name, rec, base)
		if errors.Is(err, ErrTooLarge) && phase == DualReadNew {
			d.figures.Load().tokenOnly.Add(1)
			return rec.Token, false, nil // the new store must have it
		}
		return token, err == nil, err
	}
	s := side{store: d.old, ver: base, present: true, strict: !rec.dual.known}
	if rec.dual.known {
		s.present = phase != DualReadNew && rec.dual.oldSeen && rec.dual.oldVer != 0
	}
	if rec.dual.oldSeen {
		s.ver = rec.dual.oldVer
	}
	if marksCount(rec.dual.newVer, d.now()) && !rec.Revoked { // a tombstone's own mark is in the new store already
		s.other = rec.dual.newMarks
	}
	err = d.forward(ctx, name, s, rec, base)
	var conflict *ConflictError
	switch {
	case err == nil:
		rec.dual.oldSeen, rec.dual.oldVer = true, rec.Version
		return rec.Token, true, nil
	case errors.As(err, &conflict):
		conflict.Current.dual = dualState{known: true, oldSeen: true, oldVer: conflict.Current.Version, newSeen: rec.dual.newSeen, newVer: rec.dual.newVer, newMarks: rec.dual.newMarks, ended: rec.dual.ended}
		return "", false, err
	case errors.Is(err, ErrGone), must, phase != DualReadNew:
		return "", false, err
	}
	d.figures.Load().oldWriteErrorsIgnored.Add(1)
	return rec.Token, false, nil // in DualReadNew a failure of the old store is counted
}

// saveNew writes the new copy, and reports whether it was kept: with must, that it was not is an error.
func (d *DualStore) saveNew(ctx context.Context, name string, rec *Record, base int64, phase Phase, must bool) (kept bool, err error) {
	if rec.Revoked && rec.dual.ended {
		return true, nil // by the attempt before, which met a parallel write in the old store
	}
	s := side{store: d.new, ver: base, present: true, strict: !rec.dual.known}
	if rec.dual.known {
		s.present = phase >= DualReadNew && rec.dual.newSeen && rec.dual.newVer != 0
	}
	if rec.dual.newSeen {
		s.ver = rec.dual.newVer
	}
	err = d.forward(ctx, name, s, rec, base)
	var conflict *ConflictError
	switch {
	case err == nil:
		rec.dual.newSeen, rec.dual.newVer, rec.dual.newMarks, rec.dual.ended = true, rec.Version, rec.lineage(), rec.Revoked
		return true, nil
	case errors.As(err, &conflict):
		conflict.Current.dual = dualState{known: true, newSeen: true, newVer: conflict.Current.Version, newMarks: conflict.Current.marks, oldSeen: rec.dual.oldSeen, oldVer: rec.dual.oldVer}
		return false, err
	case errors.Is(err, ErrGone):
		return false, err
	case rec.Revoked:
		promised := d.checkRevoked || phase >= DualReadNew
		d.tombstoneFailed(rec, !promised)
		if promised {
			return false, err
		}
		return false, nil
	case !must && (phase == DualReadOld || phase == DualReadNew && d.fallback):
		d.figures.Load().newWriteErrorsIgnored.Add(1)
		return false, nil // counted; the old copy carries the change
	}
	return false, err
}

// side is one store, with what is known of the record's copy in it.
type side struct {
	store   Store
	ver     int64  // the version that is expected there
	present bool   // it is read there, and was seen there, so that its absence means an end
	strict  bool   // nothing is known: an older copy there is a conflict too
	other   string // of two stores on the server, in the old one: the last writes that led to the new store's copy
}

// forward writes rec over what one store has of it: the version that is expected, nothing at all, or an older copy that
// was left behind when a write failed. A copy newer than base is somebody else's change: a conflict.
func (d *DualStore) forward(ctx context.Context, name string, s side, rec *Record, base int64) error {
	put := func() (err error) {
		if s.ver == 0 && rec.Revoked && rec.replaces != nil {
			s.ver, err = d.putBefore(ctx, name, s.store, rec.replaces)
		}
		return err
	}
	if err := put(); err != nil {
		return err
	}
	for {
		_, err := s.store.Save(ctx, name, rec, s.ver)
		switch {
		case errors.Is(err, ErrGone) && s.ver != 0 && !s.present:
			s.ver = 0
			if err := put(); err != nil {
				return err
			}
		case errors.Is(err, ErrConflict):
			current, cerr := currentOf(ctx, name, s.store, rec, err)
			switch {
			case cerr != nil:
				return cerr
			case current.Revoked:
				return ErrGone
			case rec.mark != "" && hasMark(current.marks, rec.mark):
				return nil // made from what this commit wrote to the other store: the change is in it
			case lacks(current.marks, s.other):
				// made without what the new store says: whoever wrote it will find that out there
			case s.strict || current.Version > base || current.Version == s.ver || rec.lineal && s.store == d.new && diverged(current, rec, d.now()):
				return &ConflictError{Current: current}
			}
			s.ver = current.Version
		default:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// copyOf gives a copy for the other store: no write of its own, so that it has no mark that the first one lacks.
func (d *DualStore) copyOf(rec *Record) *Record {
	c := rec.clone()
	c.marks, c.mark, c.lineal, c.fresh = rec.lineage(), "", !d.oldIsClient, false
	return c
}

// putBefore writes the record that a tombstone is about to replace, if there is none, and returns the version that is
// there. A tombstone that is written over nothing has nothing to compare with, and would hide a parallel first write.
func (d *DualStore) putBefore(ctx context.Context, name string, s Store, rec *Record) (int64, error) {
	_, err := s.Save(ctx, name, d.copyOf(rec), 0)
	if errors.Is(err, ErrConflict) {
		return rec.Version, nil // the version check will tell
	}
	return rec.Version, err
}

// currentOf gives the record that a conflict found.
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

// Touch renews the expiry of both copies. It implements [Store].
func (d *DualStore) Touch(ctx context.Context, name string, rec *Record) (string, error) {
	phase := d.Phase()
	if phase == OldOnly {
		return d.old.Touch(ctx, name, rec)
	}
	_, err := d.new.Touch(ctx, name, rec)
	switch {
	case phase == NewOnly:
		return rec.Token, err
	case err != nil && phase == DualReadNew && (errors.Is(err, ErrGone) || !d.fallback):
		return "", err
	case errors.Is(err, ErrGone): // never written there, or ended: then the client must not get a cookie again
		if current, err := d.new.Load(ctx, name, rec.Token); err == nil && current.Revoked {
			return "", ErrGone
		}
	case noAnswer(ctx, err):
		d.figures.Load().newWriteErrorsIgnored.Add(1)
	}
	token, oldErr := d.old.Touch(ctx, name, rec)
	if err == nil && oldErr != nil && (phase == DualReadNew || errors.Is(oldErr, ErrGone) || errors.Is(oldErr, ErrTooLarge)) {
		if noAnswer(ctx, oldErr) {
			d.figures.Load().oldWriteErrorsIgnored.Add(1)
		}
		return rec.Token, nil // the new store has it
	}
	return token, oldErr
}

// Delete ends a session: a tombstone in the new store, then the end of the old copy. It implements [Store].
func (d *DualStore) Delete(ctx context.Context, name string, rec *Record) error {
	phase := d.Phase()
	if phase == OldOnly {
		return d.endOld(ctx, name, rec)
	}
	now := d.now()
	if _, err := d.new.Save(ctx, name, rec.tombstone(now, rec.Deadline), 0); err != nil && !errors.Is(err, ErrGone) {
		promised := phase != DualReadOld || d.checkRevoked
		d.tombstoneFailed(rec, !promised)
		if promised {
			return err
		}
	}
	if phase == NewOnly {
		return nil
	}
	if err := d.endOld(ctx, name, rec); err != nil {
		if phase == DualReadOld {
			return err
		}
		d.figures.Load().oldWriteErrorsIgnored.Add(1)
	}
	return nil
}

// endOld ends the old copy. Where it is on the server a tombstone stays, also in OldOnly: an instance in DualReadOld
// would take what is missing there from the new store.
func (d *DualStore) endOld(ctx context.Context, name string, rec *Record) error {
	if d.oldIsClient {
		return d.old.Delete(ctx, name, rec)
	}
	_, err := d.old.Save(ctx, name, rec.tombstone(d.now(), rec.Deadline), 0)
	if errors.Is(err, ErrGone) { // its time is over in any case
		return nil
	}
	return err
}
