package sessions

import (
	"fmt"
	"time"
)

// What a DualStore does, as functions on values: no store, no clock and no counter is reached from here, and no other
// place compares phases. store_dual.go has the loops around it, which do the I/O.

// rules is what a DualStore does in one phase: a row of the table in docs/migration.md.
type rules struct {
	writeOld, writeNew bool // the stores that are written
	readNew            bool // the new store is read, and the old one for what it lacks; else the other way round
	needOld, needNew   bool // a request fails if this store cannot be read or written
	revoke             bool // a tombstone that the new store does not take fails the request
}

var phaseRules = [...]rules{
	OldOnly:     {writeOld: true, needOld: true},
	DualReadOld: {writeOld: true, needOld: true, writeNew: true},
	DualReadNew: {writeOld: true, writeNew: true, readNew: true, needNew: true, revoke: true},
	NewOnly:     {writeNew: true, readNew: true, needNew: true, revoke: true},
}

// rulesOf returns the rules of a phase, as CheckRevoked and FallbackOnError change them.
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
	token    string // names the session in both; empty if it is not known
	old, new *Record
	oldErr   error // why there is no old copy
	newErr   error
	newSeen  bool // the new store was asked, and answered
}

// picked is the copy that counts.
type picked struct {
	rec *Record // nil: there is none
	// adopt: the copy is to be written to the new store, which lacks it, or has an older one that no write will repair.
	adopt bool
	// late: only the old store has the session, and the time for adoption is over.
	late bool
}

// pick chooses between two copies. atClient reports whether the client holds the old one, mayAdopt whether the new store
// may still take over what only the old one has.
func pick(r rules, atClient bool, c *copies, mayAdopt bool, now time.Time) picked {
	switch {
	case c.new != nil && c.new.Revoked:
		return picked{rec: c.new}
	case c.old != nil && c.old.Revoked:
		return picked{rec: c.old}
	case c.old == nil:
		return picked{rec: c.new}
	case c.new == nil && !mayAdopt:
		return picked{late: true}
	case c.new == nil:
		return picked{rec: c.old, adopt: r.readNew && c.newSeen}
	case newCounts(r, atClient, c.old, c.new, now):
		return picked{rec: c.new}
	}
	// In NewOnly a cookie is about to lose its newer copy. Between two servers a newer old copy may be half of a parallel
	// request's two writes: there only the next change repairs the new store.
	return picked{rec: c.old, adopt: !r.writeOld && c.new.Version < c.old.Version}
}

// newCounts reports whether the new store's copy counts where both are there: if it is the newer one. Copies of one
// version are mostly the same write, and then the read side counts. If they are two writes, every phase must decide
// alike: the client's copy counts, because some phases see no other; of two servers, the new one.
func newCounts(r rules, atClient bool, old, new *Record, now time.Time) bool {
	switch {
	case new.Version > old.Version:
		return true
	case new.Version < old.Version:
		return !atClient && diverged(new, old, now) // the other request will find it, and be merged
	case atClient:
		return false
	}
	return r.readNew || old.lineage.lacks(new.lineage.past) || new.lineage.lacks(old.lineage.past)
}

// diverged reports whether the newer of two copies was not made from the older one, although both are recent: of two
// parallel requests one is between its two writes. The older one is then not a copy that was left behind: an instance in
// the neighbouring phase, which writes that store alone, may have said that it is saved.
func diverged(older, newer *Record, now time.Time) bool {
	return isRecent(older.Version, now) && newer.lineage.lacks(older.lineage.past)
}

// order returns the stores that a record is written to, in order. A tombstone goes to the new store first where it must
// not fail there: of two stores on the server the old one would end the session, although the renewal that wanted it has
// failed. A cookie is only sealed here: it reaches the client after the new store was written.
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

// write is the write of one record to one side, with what is known of the copy there.
type write struct {
	to     side
	rec    *Record
	base   int64  // the version that rec was made from: a newer one there is somebody else's change
	expect int64  // the version that is expected there; 0 is none
	seen   bool   // it is read there, and was seen there, so that its absence means an end
	strict bool   // nothing is known: an older copy there is a conflict too
	beside string // of two stores on the server, in the old one: the last writes that led to the new store's copy
}

// action is what a write does next.
type action int

const (
	actDone     action = iota // the change is in the record that was found
	actRetry                  // over the version that was found: it was left behind when a write failed
	actConflict               // somebody else's change is to be merged
	actGone                   // the session has ended
)

// onConflict decides what a write does about the record that it found in place of the one that it expected.
func onConflict(w write, found *Record, now time.Time) action {
	switch {
	case found.Revoked:
		return actGone
	case found.lineage.has(w.rec.lineage.mark):
		return actDone // made from what this commit wrote to the other store
	case found.lineage.lacks(w.beside):
		return actRetry // made without what the new store has: whoever wrote it will find that out there
	case w.strict, found.Version > w.base, found.Version == w.expect:
		return actConflict
	case w.to == newSide && w.rec.lineage.complete && diverged(found, w.rec, now):
		return actConflict
	}
	return actRetry
}

// mayFail reports whether a request goes on although this side did not take a write. alone reports whether no other side
// has taken it, or will.
func mayFail(r rules, s side, revoked, alone bool) bool {
	switch {
	case s == newSide && revoked:
		return !r.revoke
	case s == newSide:
		return !alone && !r.needNew
	}
	return !alone && !r.needOld
}

// useAPhase ends the messages about what is no phase.
const useAPhase = "use OldOnly, DualReadOld, DualReadNew or NewOnly"

func (p Phase) valid() bool { return p >= 0 && int(p) < len(phaseRules) }

// next returns the phase that follows; of the last, itself.
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

// UnmarshalText implements [encoding.TextUnmarshaler]: it reads the name of a constant.
func (p *Phase) UnmarshalText(text []byte) error {
	for q, name := range phaseNames {
		if string(text) == name {
			*p = Phase(q)
			return nil
		}
	}
	return &ConfigError{"Phase", fmt.Sprintf("unknown phase %q: %s", text, useAPhase)}
}
