package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errTest = errors.New("of the test")

// caller is one that stands in the line of a test. The values are texts, and a change adds the caller's name.
type caller struct {
	name  string
	alone bool
	limit time.Duration                  // how long it waits; 0 is as long as it must
	f     func(v string) (string, error) // instead of adding the name
}

// scene is a line whose first turn is over when the test says so.
type scene struct {
	t     *testing.T
	q     Queue[string]
	first *Turn[string]
	wg    sync.WaitGroup
	mu    sync.Mutex
	story []string
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t}
	s.first = s.q.Join("k", false)
	require.True(t, s.first.Begun())
	return s
}

func (s *scene) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.story = append(s.story, fmt.Sprintf(format, args...))
}

func keep(v string) string { return v + "'" }

// join makes a caller stand in line. When its turn comes, it writes what was left to it, with its name and the changes of
// others.
func (s *scene) join(c caller) {
	s.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				s.tell("%s: panic %v", c.name, v)
			}
		}()
		ctx := context.Background()
		if c.limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.limit)
			defer cancel()
		}
		f := c.f
		if f == nil {
			f = func(v string) (string, error) { return v + c.name, nil }
		}
		turn := s.q.Join("k", c.alone)
		require.False(s.t, turn.Begun())
		v, written, err := turn.Wait(ctx, f)
		switch {
		case err != nil:
			s.tell("%s: %v, %v", c.name, written, err)
		case written:
			s.tell("%s: part of %s", c.name, v)
		default:
			v, err = turn.Change(context.Background(), v+c.name, keep)
			s.tell("%s: writes %s", c.name, v)
			turn.Done(v, err)
		}
	})
	synctest.Wait()
}

func TestLine(t *testing.T) {
	fails := func(string) (string, error) { return "", errTest }
	panics := func(string) (string, error) { panic("!") }
	slow := func(v string) (string, error) { time.Sleep(time.Second); return v + "S", nil }
	for _, c := range []struct {
		name string
		line []caller
		want string // what became of each, in any order after the first
	}{
		{"nobody", nil, ""},
		{"one", []caller{{name: "a"}}, "a: writes 0a"},
		{"the first takes along the others, in order", []caller{{name: "a"}, {name: "b"}, {name: "c"}},
			"a: writes 0abc, b: part of 0abc, c: part of 0abc"},
		{"alone", []caller{{name: "a", alone: true}, {name: "b", alone: true}}, "a: writes 0a, b: writes 0ab"},
		{"alone is not taken along", []caller{{name: "a"}, {name: "b", alone: true}, {name: "c"}},
			"a: writes 0ac, c: part of 0ac, b: writes 0acb"},
		{"alone takes nobody along", []caller{{name: "a", alone: true}, {name: "b"}, {name: "c"}},
			"a: writes 0a, b: writes 0abc, c: part of 0abc"},
		{"one fails", []caller{{name: "a"}, {name: "b", f: fails}, {name: "c"}},
			"a: writes 0ac, b: false, of the test, c: part of 0ac"},
		{"one panics", []caller{{name: "a"}, {name: "b", f: panics}, {name: "c"}},
			"a: writes 0ac, b: panic !, c: part of 0ac"},
		{"one has given up", []caller{{name: "a"}, {name: "b", limit: time.Minute}, {name: "c"}},
			"b: false, context deadline exceeded, a: writes 0ac, c: part of 0ac"},
		{"the next has given up", []caller{{name: "a", limit: time.Minute}, {name: "b"}},
			"a: false, context deadline exceeded, b: writes 0b"},
		{"the last has given up", []caller{{name: "a"}, {name: "b", limit: time.Minute}},
			"b: false, context deadline exceeded, a: writes 0a"},
		{"all have given up", []caller{{name: "a", limit: time.Minute}, {name: "b", limit: time.Minute}},
			"a: false, context deadline exceeded, b: false, context deadline exceeded"},
		{"a slow one is left in line with those behind it", []caller{{name: "a"}, {name: "b"}, {name: "s", f: slow}, {name: "c"}},
			"a: writes 0ab', b: part of 0ab', s: writes 0ab'sc, c: part of 0ab'sc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t)
				for _, caller := range c.line {
					s.join(caller)
				}
				time.Sleep(time.Hour)
				require.Equal(t, len(c.line) > 0 && !strings.HasPrefix(c.name, "all"), s.first.Shares())
				s.first.Done("0", nil)
				s.wg.Wait()
				require.ElementsMatch(t, split(c.want), s.story)
				require.Empty(t, s.q.last)
			})
		})
	}
}

// split splits what a table expects: each part begins with a name and a colon.
func split(want string) (parts []string) {
	for part := range strings.SplitSeq(want, ", ") {
		if len(part) > 1 && part[1] == ':' {
			parts = append(parts, part)
		} else if part != "" {
			parts[len(parts)-1] += ", " + part
		}
	}
	return parts
}

// A value that could not be written is given up, and the same group makes its changes on another.
func TestChangeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		calls := 0
		s.join(caller{name: "a"})
		s.join(caller{name: "b", f: func(v string) (string, error) {
			if calls++; calls == 2 {
				return "", errTest
			}
			return v + "b", nil
		}})
		v, err := s.first.Change(context.Background(), "1", keep)
		require.NoError(t, err)
		require.Equal(t, "1ab", v)
		require.True(t, s.first.Leads())
		s.join(caller{name: "c"}) // too late for this group
		v, err = s.first.Change(context.Background(), "2", keep)
		require.NoError(t, err)
		require.Equal(t, "2a", v)
		s.first.Done(v, nil)
		s.wg.Wait()
		require.ElementsMatch(t, []string{"a: part of 2a", "b: false, of the test", "c: writes 2ac"}, s.story)
		require.Empty(t, s.q.last)
	})
}

func TestDoneWithAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.join(caller{name: "a"})
		_, err := s.first.Change(context.Background(), "1", keep)
		require.NoError(t, err)
		s.join(caller{name: "b"})
		s.first.Done("", errTest)
		s.wg.Wait()
		require.ElementsMatch(t, []string{"a: true, of the test", "b: writes b"}, s.story)
	})
}

func TestChangeHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		asked := 0
		slow := func(v string) (string, error) {
			if asked++; asked == 2 {
				time.Sleep(time.Hour)
			}
			return v + "s", nil
		}
		s.join(caller{name: "s", f: slow})
		s.join(caller{name: "a"})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		v, err := s.first.Change(ctx, "1", keep)
		require.NoError(t, err)
		require.Equal(t, "1sa", v)
		_, err = s.first.Change(ctx, "2", keep)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		s.first.Done("", errTest)
		s.wg.Wait()
		require.ElementsMatch(t, []string{"s: true, of the test", "a: true, of the test"}, s.story)
	})
}

// A turn that begins in the moment in which its caller gives up is passed on.
func TestTurnThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		turn := s.q.Join("k", false)
		s.join(caller{name: "b"})
		s.first.Done("0", nil)
		require.Equal(t, begun, turn.state)
		turn.leave()
		s.wg.Wait()
		require.Equal(t, []string{"b: writes 0b"}, s.story)
	})
}

func TestNoLine(t *testing.T) {
	var none *Turn[string]
	v, err := none.Change(context.Background(), "v", keep)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.False(t, none.Leads())
	var q Queue[string]
	require.Equal(t, 1.0, testing.AllocsPerRun(100, func() {
		turn := q.Join("k", false)
		v, _ := turn.Change(context.Background(), "v", keep)
		turn.Done(v, nil)
	}))
	a, b := q.Join("a", false), q.Join("b", false)
	require.True(t, a.Begun() && b.Begun(), "keys do not wait for each other")
	a.Done("", nil)
	require.Len(t, q.last, 1)
	b.Done("", nil)
	require.Empty(t, q.last)
}

// Many callers that count, some of which give up or fail: a value is written by one at a time, and has each change that was
// reported once.
func TestMany(t *testing.T) {
	const callers, rounds = 16, 200
	var q Queue[int]
	var value, made, writes int
	var mu, writing sync.Mutex
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range rounds {
				ctx, cancel := context.WithCancel(context.Background())
				switch rand.IntN(8) {
				case 0:
					cancel()
				case 1:
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(100))*time.Microsecond)
				}
				ok := func() bool {
					turn := q.Join("k", rand.IntN(8) == 0)
					if !turn.Begun() {
						_, written, err := turn.Wait(ctx, func(v int) (int, error) {
							if rand.IntN(8) == 0 {
								return 0, errTest
							}
							runtime.Gosched()
							return v + 1, nil
						})
						if written || err != nil {
							return err == nil
						}
					}
					if !writing.TryLock() {
						t.Error("two write at once")
					}
					v, err := turn.Change(context.Background(), value+1, func(v int) int { return v })
					if rand.IntN(4) == 0 { // it could not be written
						v, err = turn.Change(context.Background(), value+1, func(v int) int { return v })
					}
					value, writes = v, writes+1
					writing.Unlock()
					turn.Done(v, err)
					return err == nil
				}()
				cancel()
				if ok {
					mu.Lock()
					made++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	// One that gave up may have been taken along.
	require.GreaterOrEqual(t, value, made)
	require.LessOrEqual(t, writes, callers*rounds)
	require.Empty(t, q.last)
	t.Log(strconv.Itoa(value), "changes, of which", made, "were reported, in", writes, "writes")
}
