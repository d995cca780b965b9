// Package loglimit bounds what is logged because of what clients send, so that they can neither fill the log nor silence
// it: each kind of line has a budget of its own, which comes back, and a subject such as a host is named once per hour. A
// subject for which there was no budget is named later.
package loglimit

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	burst       = 256              // lines of one kind at once
	refill      = 10 * time.Second // for each line after that
	repeat      = time.Hour        // until a subject is named again
	maxSubjects = 256              // per kind; the oldest is forgotten
)

// Limiter has the budgets. The zero Limiter is ready to use. It is safe for concurrent use, and must not be copied.
type Limiter struct {
	mu   sync.Mutex
	seed maphash.Seed
	of   map[string]*budget
}

type budget struct {
	lines   float64 // that may be logged now
	filled  time.Time
	dropped int // since the last line
	named   map[uint64]time.Time
	order   []uint64 // of naming
}

// Allow reports whether a line of this kind may be logged, and how many were not since the last one. An empty subject is
// not remembered. There must be few kinds: a client must not choose them.
func (l *Limiter) Allow(kind, subject string, now time.Time) (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of, l.seed = map[string]*budget{}, maphash.MakeSeed()
	}
	b := l.of[kind]
	if b == nil {
		b = &budget{lines: burst, filled: now, named: map[uint64]time.Time{}}
		l.of[kind] = b
	}
	hash := uint64(0)
	if subject != "" {
		hash = maphash.String(l.seed, subject)
		if at, named := b.named[hash]; named && now.Sub(at) < repeat {
			return false, 0
		}
	}
	b.lines = min(burst, b.lines+float64(max(0, now.Sub(b.filled)))/float64(refill))
	b.filled = now
	if b.lines < 1 {
		b.dropped++
		return false, 0
	}
	b.lines--
	dropped, b.dropped = b.dropped, 0
	if subject != "" {
		b.name(hash, now)
	}
	return true, dropped
}

func (b *budget) name(hash uint64, now time.Time) {
	if _, named := b.named[hash]; !named {
		if len(b.order) == maxSubjects {
			delete(b.named, b.order[0])
			b.order = append(b.order[:0], b.order[1:]...)
		}
		b.order = append(b.order, hash)
	}
	b.named[hash] = now
}

// maxSubject is the length of the longest host name. What is longer is cut: it says no more, and costs memory.
const maxSubject = 253

// Cut returns the subject, cut to that length.
func Cut(subject string) string { return subject[:min(len(subject), maxSubject)] }
