package sessions

import (
	"crypto/rand"
	"strings"
	"time"

	"handover.example/sessions/internal/redisscript"
)

// lineage records which writes a record was made from. Each commit has a mark, the same for every attempt and every
// store, and leaves it in the records that it writes. The marks show a store or a merge whether a record already
// includes a change: when a client repeats a command whose reply was lost, and when a DualStore has two copies of one
// session.
//
// Stored records include the marks. Sealed ones do not, because no version is compared with the client's copy.
type lineage struct {
	past string // the marks of the last writes that led to the record, oldest first
	mark string // of the write that is being made
	// complete: past has all writes that led to the record. A store must not add the marks that it finds, because the
	// record does not include their changes.
	complete bool
	// fresh: this commit made the token, so no other can have written under it.
	fresh bool
}

const (
	markLength = redisscript.MarkLength
	maxMarks   = redisscript.MaxMarks
)

// newMark returns the mark of a new write.
func newMark() string {
	var b [markLength]byte
	rand.Read(b[:])
	for i := range b {
		b[i] = digitAlphabet[b[i]&63]
	}
	return string(b[:])
}

// markWindow is how long after its first run a repeated write can arrive: longer than any client retries.
const markWindow = time.Minute

// isRecent reports whether a write that led to this version may still be repeated.
func isRecent(version int64, now time.Time) bool {
	return now.UnixMicro()-version <= markWindow.Microseconds()
}

// sign sets the mark of the write that is about to be made on this version of the record. If the version is old, it
// drops the earlier marks: no client repeats a write from so long ago.
func (l *lineage) sign(mark string, version int64, now time.Time) {
	if l.mark != mark {
		l.past = l.marks()
	}
	if !isRecent(version, now) {
		l.past = ""
	}
	l.mark = mark
}

// marks returns the marks to store: those of the versions that the record was made from, and its own.
func (l *lineage) marks() string {
	if l.mark == "" || hasMark(l.past, l.mark) {
		return l.past
	}
	past := l.past
	if over := len(past) - (maxMarks-1)*markLength; over > 0 {
		past = past[over:]
	}
	return past + l.mark
}

// has reports whether a write has led to the record.
func (l *lineage) has(mark string) bool { return mark != "" && hasMark(l.past, mark) }

// lacks reports whether one of the most recent of these writes did not lead to the record. It checks more than the last
// one, because a request that tries again leaves the same mark in records that were made from different ones.
func (l *lineage) lacks(marks string) bool {
	const last = 32 * markLength // fewer than a record keeps, so that marks it had to drop are not reported as missing
	for marks = marks[max(0, len(marks)-last):]; len(marks) >= markLength; marks = marks[markLength:] {
		if !hasMark(l.past, marks[:markLength]) {
			return true
		}
	}
	return false
}

// copied returns the lineage of a copy for another store: all writes that led to the record, and none of its own.
func (l *lineage) copied(complete bool) lineage { return lineage{past: l.marks(), complete: complete} }

func hasMark(marks, mark string) bool {
	for ; len(marks) >= markLength; marks = marks[markLength:] {
		if strings.HasPrefix(marks, mark) {
			return true
		}
	}
	return false
}
