package sessions

import (
	"crypto/rand"
	"strings"
	"time"

	"handover.example/sessions/internal/redisscript"
)

// lineage is which writes a record was made from. Each commit has a mark, the same for every attempt and every store, and
// leaves it in the records that it writes. A store or a merge finds by the marks whether a change is already in a record:
// when a client repeats a command whose reply was lost, and when a DualStore meets two copies of one session.
//
// It is part of the stored form, and not of a sealed one: nothing is compared with the client's copy.
type lineage struct {
	past string // the marks of the last writes that led to the record, oldest first
	mark string // of the write that is being made
	// complete: past is all that led to the record. A store must not add the marks that it finds, as if their changes
	// were in it.
	complete bool
	// fresh: the token was made in this commit, so that nobody else can have written under it.
	fresh bool
}

const (
	markLength = redisscript.MarkLength
	maxMarks   = redisscript.MaxMarks
)

// newMark names one write.
func newMark() string {
	var b [markLength]byte
	rand.Read(b[:])
	for i := range b {
		b[i] = digitAlphabet[b[i]&63]
	}
	return string(b[:])
}

// markWindow is how long a repeated write can arrive after its first run: longer than any client retries.
const markWindow = time.Minute

// isRecent reports whether the marks of a version can still be met again.
func isRecent(version int64, now time.Time) bool {
	return now.UnixMicro()-version <= markWindow.Microseconds()
}

// sign names the write that is about to be made on this version of the record. The marks of a session that rested are
// dropped: nobody repeats a write of long ago.
func (l *lineage) sign(mark string, version int64, now time.Time) {
	if l.mark != mark {
		l.past = l.marks()
	}
	if !isRecent(version, now) {
		l.past = ""
	}
	l.mark = mark
}

// marks returns the marks as they are stored: those of the versions that the record was made from, and its own.
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

// lacks reports whether one of the last of these writes has not led to the record. All are looked for: a request that
// tries again leaves the same mark in records that were made from different ones.
func (l *lineage) lacks(marks string) bool {
	const last = 32 * markLength // fewer than a record keeps, so that those it had to drop are not missed
	for marks = marks[max(0, len(marks)-last):]; len(marks) >= markLength; marks = marks[markLength:] {
		if !hasMark(l.past, marks[:markLength]) {
			return true
		}
	}
	return false
}

// copied returns the lineage of a copy for another store: it has all that led to the record and no write of its own.
func (l *lineage) copied(complete bool) lineage { return lineage{past: l.marks(), complete: complete} }

func hasMark(marks, mark string) bool {
	for ; len(marks) >= markLength; marks = marks[markLength:] {
		if strings.HasPrefix(marks, mark) {
			return true
		}
	}
	return false
}
