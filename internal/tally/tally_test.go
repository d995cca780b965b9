package tally

import (
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHistogramQuantile(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		add     map[time.Duration]int
		percent int64
		want    time.Duration
	}{
		"nothing":               {nil, 99, 0},
		"zero":                  {map[time.Duration]int{0: 3}, 50, 0},
		"below 8 ns is exact":   {map[time.Duration]int{7: 1}, 50, 7},
		"negative":              {map[time.Duration]int{-5: 1}, 99, 0},
		"one":                   {map[time.Duration]int{2 * ms: 1}, 50, 2100 * time.Microsecond},
		"half":                  {map[time.Duration]int{3: 50, 5: 50}, 50, 3},
		"just over half":        {map[time.Duration]int{3: 49, 5: 51}, 50, 5},
		"one in a hundred":      {map[time.Duration]int{3: 99, 80 * ms: 1}, 99, 3},
		"two in a hundred":      {map[time.Duration]int{3: 98, 80 * ms: 2}, 99, 84 * ms},
		"all":                   {map[time.Duration]int{3: 99, 80 * ms: 1}, 100, 84 * ms},
		"the last bucket":       {map[time.Duration]int{18 * time.Minute: 1}, 50, 1100 * time.Second},
		"longer than it counts": {map[time.Duration]int{math.MaxInt64: 1}, 50, 1100 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var h Histogram
			for d, n := range c.add {
				for range n {
					h.Add(d)
				}
			}
			require.Equal(t, c.want, h.Quantile(c.percent))
		})
	}
}

// The buckets leave no gap, and none is wider than a quarter of what it holds.
func TestHistogramBuckets(t *testing.T) {
	buckets := len(Histogram{}.buckets)
	for i := range buckets {
		longest := longestIn(i)
		require.Equal(t, i, bucketOf(longest))
		if i == buckets-1 {
			require.EqualValues(t, 1<<maxBits-1, longest)
			break
		}
		shortestOfNext := longest + 1
		require.Equal(t, i+1, bucketOf(shortestOfNext))
		require.LessOrEqual(t, float64(longestIn(i+1)), 1.25*float64(shortestOfNext))
	}
}

func TestWindowCounts(t *testing.T) {
	for _, c := range []struct{ good, thenBad, thenGood, all, bad int64 }{
		{0, 0, 0, 0, 0},
		{1, 0, 0, 1, 0},
		{0, 1, 0, 1, 1},
		{3, 2, 5, 10, 2},
		{WindowSize - 1, 0, 0, WindowSize - 1, 0},
		{WindowSize - 1, 1, 0, WindowSize, 1},
		{0, 100, WindowSize - 100, WindowSize, 100},
		{0, 100, 2*WindowSize - 101, 2*WindowSize - 1, 100}, // the last moment in which they count
		{0, 100, 2*WindowSize - 100, WindowSize, 0},
		{0, 3 * WindowSize, 0, WindowSize, WindowSize},
		{5 * WindowSize, 0, 7, WindowSize + 7, 0},
	} {
		var w Window
		add(&w, c.good, false)
		add(&w, c.thenBad, true)
		add(&w, c.thenGood, false)
		all, bad := w.Counts()
		require.Equal(t, []int64{c.all, c.bad}, []int64{all, bad}, "%+v", c)
	}
}

func add(w *Window, n int64, bad bool) {
	for range n {
		w.Add(bad)
	}
}

func TestWindowParallel(t *testing.T) {
	const workers, each = 8, 30_000
	var w Window
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { add(&w, each, true) })
	}
	for range 1000 {
		all, bad := w.Counts()
		require.Equal(t, all, bad)
	}
	wg.Wait()
	all, bad := w.Counts()
	require.Equal(t, all, bad)
	require.GreaterOrEqual(t, all, int64(WindowSize))
	require.Less(t, all, int64(3*WindowSize), "it forgets")
}

func TestSketchCount(t *testing.T) {
	for _, c := range []struct {
		n      int
		within float64 // of the number
	}{{0, 0}, {1, 0}, {2, 0}, {10, 0}, {100, 0.02}, {3000, 0.05}, {20_000, 0.05}, {200_000, 0.05}} {
		var s Sketch
		for i := range c.n {
			s.Add("session-" + strconv.Itoa(i))
			s.Add("session-" + strconv.Itoa(i/2)) // has been there
		}
		require.InDelta(t, c.n, s.Count(), c.within*float64(c.n), "%d", c.n)
	}
	var s Sketch
	s.Add("")
	require.EqualValues(t, 1, s.Count())
}

func TestSketchParallel(t *testing.T) {
	var one, many Sketch
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 5000 {
				many.Add(strconv.Itoa(i))
			}
		})
	}
	for i := range 5000 {
		one.Add(strconv.Itoa(i))
	}
	wg.Wait()
	require.Equal(t, one.Count(), many.Count())
}

func TestNoAllocations(t *testing.T) {
	var h Histogram
	var w Window
	var s Sketch
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h.Add(time.Millisecond)
		w.Add(true)
		s.Add("session")
	}))
}
