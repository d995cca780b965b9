// Package tally counts on the path of a request: with atomics, without locks and without allocations. Its types are
// ready to use as their zero values, safe for concurrent use, and must not be copied.
package tally

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets, four for each power of two, up to 18 minutes.
type Histogram struct {
	buckets [4*(maxBits-2) + 4]atomic.Int64
}

const maxBits = 40

// Add counts one duration. One that is negative counts as zero, one that is too long goes to the last bucket.
func (h *Histogram) Add(d time.Duration) { h.buckets[bucketOf(d)].Add(1) }

// Quantile returns the duration that this many percent of those added did not exceed: the longest in its bucket, which
// is at most a quarter too long, rounded to two digits. It returns 0 if there are none.
func (h *Histogram) Quantile(percent int64) time.Duration {
	var n int64
	for i := range h.buckets {
		n += h.buckets[i].Load()
	}
	rank := (n*percent + 99) / 100
	if rank == 0 {
		return 0
	}
	for i := range h.buckets {
		if rank -= h.buckets[i].Load(); rank <= 0 {
			d, unit := longestIn(i), time.Duration(1)
			for d >= 100*unit {
				unit *= 10
			}
			return d.Round(unit)
		}
	}
	return longestIn(len(h.buckets) - 1)
}

func bucketOf(d time.Duration) int {
	n := uint64(min(max(d, 0), 1<<maxBits-1))
	length := bits.Len64(n)
	if length <= 3 {
		return int(n)
	}
	return 4*(length-2) + int(n>>(length-3)&3)
}

// longestIn returns the longest duration in a bucket.
func longestIn(bucket int) time.Duration {
	if bucket < 8 {
		return time.Duration(bucket)
	}
	return time.Duration(bucket%4+5)<<(bucket/4-1) - 1
}

// Window counts the most recent events, and how many of them were bad: the last [WindowSize] to about twice as many.
// Both counts share one word, so that they always fit each other.
type Window struct{ current, last atomic.Uint64 }

// WindowSize is the number of events after which a [Window] forgets those before the last WindowSize.
const WindowSize = 10_000

// Add counts one event.
func (w *Window) Add(bad bool) {
	one := uint64(1) << 32
	if bad {
		one++
	}
	// If another caller has added meanwhile, it is the one that swaps.
	if v := w.current.Add(one); v>>32 >= WindowSize && w.current.CompareAndSwap(v, 0) {
		w.last.Store(v)
	}
}

// Counts returns the number of recent events, and how many of them were bad.
func (w *Window) Counts() (all, bad int64) {
	a, b := w.current.Load(), w.last.Load()
	return int64(a>>32 + b>>32), int64(a&math.MaxUint32 + b&math.MaxUint32)
}

// Sketch estimates how many different texts were added, to about 2 percent (HyperLogLog, with linear counting while
// they are few).
type Sketch struct {
	registers [1 << sketchBits]atomic.Uint32
}

const sketchBits = 12

// Add adds a text. Adding it again changes nothing.
func (s *Sketch) Add(text string) {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd // FNV alone leaves the upper bits uneven
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	rank := uint32(bits.LeadingZeros64(h<<sketchBits|1<<(sketchBits-1))) + 1
	r := &s.registers[h>>(64-sketchBits)]
	for {
		before := r.Load()
		if rank <= before || r.CompareAndSwap(before, rank) {
			return
		}
	}
}

// Count returns the estimate.
func (s *Sketch) Count() int64 {
	const m = float64(1 << sketchBits)
	sum, empty := 0.0, 0.0
	for i := range s.registers {
		rank := s.registers[i].Load()
		sum += math.Ldexp(1, -int(rank))
		if rank == 0 {
			empty++
		}
	}
	n := 0.7213 / (1 + 1.079/m) * m * m / sum
	if n <= 2.5*m && empty > 0 {
		n = m * math.Log(m/empty)
	}
	return int64(math.Round(n))
}
