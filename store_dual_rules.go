package sessions

import (
	"fmt"
	"time"
)

// This file decides what a DualStore does, as functions on values. They use no store, no clock and no counter, and no
// other file compares phases. The loops around them, which do the I/O, are in store_dual.go.

// rules is what a DualStore does in one phase: a column of the table in docs/migration.md.
type rules struct {
	writeOld, writeNew bool // write this store
	readNew            bool // read the new store, and the old one for what it lacks; otherwise the other way round
	needOld, needNew   bool // fail the request if this store cannot be read or written
	revoke             bool // fail the request if the new store does not take a tombstone
}

var phaseRules = [...]rules{
	OldOnly:     {writeOld: true, needOld: true},
	DualReadOld: {writeOld: true, needOld: true, writeNew: true},
	DualReadNew: {writeOld: true, writeNew: true, readNew: true, needNew: true, revoke: true},
	NewOnly:     {writeNew: true, readNew: true, needNew: true, revoke: true},
}

// rulesOf returns the rules of a phase, as modified by CheckRevoked and FallbackOnError.
func rulesOf(p Phase, checkRevoked, fallback bool) rules {
	r := phaseRules[p]
	r.revoke = r.revoke || checkRevoked && r.writeNew
	r.needNew = r.needNew && !(fallback && r.writeOld)
	return r
}

// dual reports whether both stores are written.
func (r rules) dual() bool { return r.writeOld && r.writeNew }

// side is one of the two stores.
type side int

const (
	oldSide side = iota
	newSide
)

// copies are what the two stores have of one session.
type copies struct {
	token    string // names the session in both stores; empty if unknown
	old, new *Record
	oldErr   error // why there is no old copy
	newErr   error
	newSeen  bool // the new store was asked, and answered

	oldExpired, newExpired *Record // expired copies that the stores still have
}

// picked is the copy that wins.
type picked struct {
	rec *Record // nil if there is none
	// adopt: the copy must be written to the new store, which lacks it or has an older one that no write will repair.
	adopt bool
	// late: only the old store has the session, and adoption has ended.
	late bool
}

// pick chooses between two copies. atClient reports whether the client holds the old one, and mayAdopt whether the new
// store may still adopt a session that only the old one has.
func pick(r rules, atClient bool, c *copies, mayAdopt bool, now time.Time) picked {
	switch {
	case c.new != nil && c.new.Revoked:
		return picked{rec: c.new}
	case c.old != nil && c.old.Revoked:
		return picked{rec: c.old}
	case c.old == nil && c.new != nil && outlives(c.new, c.oldExpired), c.new == nil && c.old != nil && outlives(c.old, c.newExpired):
		return picked{}
	case c.old == nil:
		return picked{rec: c.new}
	case c.new == nil && !mayAdopt:
		return picked{late: true}
	case c.new == nil:
		return picked{rec: c.old, adopt: r.readNew && c.newSeen}
	case newCounts(r, atClient, c.old, c.new, now):
		return picked{rec: c.new}
	}
	// In NewOnly, the newer copy must be adopted, because the client's cookie is about to become the token alone.
	// Between two servers, a newer old copy may be the first of a parallel request's two writes: there, the next change
	// repairs the new store.
	return picked{rec: c.old, adopt: !r.writeOld && c.new.Version < c.old.Version}
}

// outlives reports whether a copy is still alive only because it was made before the idle timeout of the session was
// shortened: its expired successor shows that the session has ended.
func outlives(rec, expired *Record) bool {
	return expired != nil && expired.shortened &&
		(rec.Version < expired.Version || rec.Version == expired.Version && rec.Idle > expired.Idle)
}

// newCounts reports whether the new store's copy wins when both exist, which it does if it is newer. Copies of the same
// version are usually the same write, and then the copy of the store that is read wins. If they are two writes, every
// phase must decide alike: the client's copy wins, because some phases see no other; between two servers, the new one.
func newCounts(r rules, atClient bool, old, new *Record, now time.Time) bool {
	switch {
	case new.Version > old.Version:
		return true
	case new.Version < old.Version:
		return !atClient && diverged(new, old, now) // the request that wrote old will find new, and merge
	case atClient:
		return false
	}
	return r.readNew || old.lineage.lacks(new.lineage.past) || new.lineage.lacks(old.lineage.past)
}

// diverged reports whether the newer of two copies was not made from the older one, although both are recent: one of
// two parallel requests is between its two writes. The older copy is then not one that a failed write left behind: an
// instance in the neighboring phase, which writes only that store, may have acknowledged it.
func diverged(older, newer *Record, now time.Time) bool {
	return isRecent(older.Version, now) && newer.lineage.lacks(older.lineage.past)
}

// order returns the stores that a record is written to, in order. A tombstone that the new store must take goes there
// first: between two servers, the old store would otherwise end the session although the renewal failed. Writing a
// cookie only seals it here; it reaches the client after the new store has been written.
func order(r rules, revoked, atClient bool) []side {
	switch {
	case !r.writeNew:
		return onlyOld
	case !r.writeOld:
		return onlyNew
	case revoked && r.revoke && !atClient:
		return newThenOld
	}
	return oldThenNew
}

var (
	onlyOld    = []side{oldSide}
	onlyNew    = []side{newSide}
	oldThenNew = []side{oldSide, newSide}
	newThenOld = []side{newSide, oldSide}
)

// write is the write of one record to one side, with what is known about the copy there.
type write struct {
	to     side
	rec    *Record
	base   int64  // the version that rec was made from: a newer one there is the change of another request
	expect int64  // the version that is expected there; 0 if none
	seen   bool   // this side is read and had the session, so that its absence means that the session has ended
	strict bool   // nothing is known about the copies: an older one there is a conflict too
	beside string // for the old one of two servers: the last writes that led to the new store's copy
}

// action is what a write does next.
type action int

const (
	actDone     action = iota // the record that was found includes the change
	actRetry                  // write over the version that was found: a failed write left it behind
	actConflict               // the change of another request must be merged
	actGone                   // the session has ended
)

// onConflict decides what a write does about a record that it found instead of the one that it expected.
func onConflict(w write, found *Record, now time.Time) action {
	switch {
	case found.Revoked:
		return actGone
	case found.lineage.has(w.rec.lineage.mark):
		return actDone // made from what this commit wrote to the other store
	case found.lineage.lacks(w.beside):
		return actRetry // made without the new store's copy: the request that wrote it will find that one there
	case w.strict, found.Version > w.base, found.Version == w.expect:
		return actConflict
	case w.to == newSide && w.rec.lineage.complete && diverged(found, w.rec, now):
		return actConflict
	}
	return actRetry
}

// mayFail reports whether a request goes on although this side did not take a write. alone reports whether no other
// side has taken it or will take it.
func mayFail(r rules, s side, revoked, alone bool) bool {
	switch {
	case s == newSide && revoked:
		return !r.revoke
	case s == newSide:
		return !alone && !r.needNew
	}
	return !alone && !r.needOld
}

// useAPhase is the end of the messages about unknown phases.
const useAPhase = "use OldOnly, DualReadOld, DualReadNew or NewOnly"

func (p Phase) valid() bool { return p >= 0 && int(p) < len(phaseRules) }

// next returns the phase after p, or p if it is the last.
func (p Phase) next() Phase { return min(p+1, Phase(len(phaseRules)-1)) }

var phaseNames = [...]string{OldOnly: "OldOnly", DualReadOld: "DualReadOld", DualReadNew: "DualReadNew", NewOnly: "NewOnly"}

// String returns the name of the constant.
func (p Phase) String() string {
	if !p.valid() {
		return fmt.Sprintf("Phase(%d)", int32(p))
	}
	return phaseNames[p]
}

// MarshalText implements [encoding.TextMarshaler].
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. It parses the name of a constant.
func (p *Phase) UnmarshalText(text []byte) error {
	for q, name := range phaseNames {
		if string(text) == name {
			*p = Phase(q)
			return nil
		}
	}
	return &ConfigError{"Phase", fmt.Sprintf("unknown phase %q: %s", text, useAPhase)}
}
