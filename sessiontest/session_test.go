package sessiontest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

// operations are steps on one session; nil ends the request, and the same client comes again.
var operations = []struct {
	name  string
	steps []func(sessions.Session) any
}{
	{"nothing", steps(nil, nil)},
	{"set and get", steps(set("a", 1), get[int]("a"), get[string]("a"), get[int]("b"), nil, get[int]("a"), nil, get[int]("a"))},
	{"set what cannot be encoded", steps(set("a", func() {}), set("a", make(chan int)), set("\xff", 1), keys, nil, keys)},
	{"set what is secret and cannot be encoded", steps(set("a", secretJSON{}), get[int]("a"))},
	{"html and unicode", steps(set("<日>", "<b>&日本\u2028"), get[string]("<日>"), nil, get[string]("<日>"), keys)},
	{"set is encoded at once", steps(func(s sessions.Session) any {
		list := []int{1, 2}
		err := s.Set("list", list)
		list[0] = 9
		return err
	}, get[[]int]("list"), nil, get[[]int]("list"))},
	{"null", steps(set("a", nil), get[*int]("a"), keys, nil, get[*int]("a"), keys)},
	{"delete", steps(set("a", 1), set("b", 2), del("a"), del("c"), keys, nil, keys, del("b"), nil, keys, nil, set("c", 1), nil, keys)},
	{"clear", steps(set("a", 1), set("b", 2), nil, clearAll, set("c", 3), keys, nil, keys, clearAll, nil, keys)},
	{"clear a new one", steps(clearAll, nil, clearAll, del("a"), nil)},
	{"update", steps(increment, increment, get[int]("n"), nil, increment, nil, get[int]("n"))},
	{"update that fails", steps(increment, update("n", func(json.RawMessage) (any, error) { return 7, errors.New("no") }), get[int]("n"), nil, get[int]("n"))},
	{"update that cannot be encoded", steps(increment, update("n", func(json.RawMessage) (any, error) { return func() {}, nil }), get[int]("n"))},
	{"update of what is not there", steps(update("n", func(old json.RawMessage) (any, error) { return old == nil, nil }), get[bool]("n"))},
	{"update that uses the session", steps(func(s sessions.Session) any {
		return s.Update("n", func(json.RawMessage) (any, error) {
			_, err := s.Get("n", new(int))
			return 5, err
		})
	}, get[int]("n"), nil, get[int]("n"))},
	{"typed key", steps(func(s sessions.Session) any { return userID.Set(s, 42) }, func(s sessions.Session) any {
		id, ok := userID.Get(s)
		return fmt.Sprint(id, ok)
	}, nil, func(s sessions.Session) any {
		id, ok := userID.Take(s)
		return fmt.Sprint(id, ok)
	}, keys, nil, keys, func(s sessions.Session) any {
		id, err := userID.Update(s, func(n int64) int64 { return n + 1 })
		return fmt.Sprint(id, err)
	})},
	{"typed key of another type", steps(set("user_id", "x"), func(s sessions.Session) any {
		_, err := userID.Update(s, func(n int64) int64 { return n + 1 })
		return err
	}, get[string]("user_id"))},
	{"renew", steps(set("a", 1), nil, renew, get[int]("a"), set("b", 2), nil, keys, get[int]("a"), nil, renew, nil, keys)},
	{"renew a new one", steps(renew, nil, renew, set("a", 1), nil, keys)},
	{"destroy", steps(set("a", 1), nil, destroy, get[int]("a"), keys, nil, keys)},
	{"destroy a new one", steps(destroy, nil, set("a", 1), destroy, nil, keys)},
	{"destroy and begin again", steps(set("a", 1), nil, destroy, set("b", 2), nil, keys, renew, destroy, renew, nil, keys)},
	{"time passes", steps(set("a", 1), nil, pass(time.Hour), nil, pass(10*time.Hour), nil, set("b", 1), pass(time.Minute), nil, pass(23*time.Hour), get[int]("a"), nil, keys)},
	{"lifetime", steps(set("a", 1), lifetime(time.Hour, true), nil, pass(59*time.Minute), keys, nil, pass(30*time.Minute), lifetime(0, false), nil, keys)},
	{"lifetime past the absolute timeout", steps(set("a", 1), lifetime(1000*24*time.Hour, true), nil, pass(24*time.Hour), nil, keys)},
	{"negative lifetime", steps(set("a", 1), nil, lifetime(-1, true), keys, nil, keys)},
	{"lifetime of one without values", steps(lifetime(time.Hour, true), nil, keys)},
}

func steps(fns ...func(sessions.Session) any) []func(sessions.Session) any { return fns }

func set(key string, v any) func(sessions.Session) any {
	return func(s sessions.Session) any { return s.Set(key, v) }
}

func get[T any](key string) func(sessions.Session) any {
	return func(s sessions.Session) any {
		var v T
		ok, err := s.Get(key, &v)
		return fmt.Sprintf("%v %v %v", v, ok, err)
	}
}

func del(key string) func(sessions.Session) any {
	return func(s sessions.Session) any { s.Delete(key); return nil }
}

func update(key string, fn func(json.RawMessage) (any, error)) func(sessions.Session) any {
	return func(s sessions.Session) any { return s.Update(key, fn) }
}

func pass(d time.Duration) func(sessions.Session) any {
	return func(sessions.Session) any { time.Sleep(d); return nil }
}

func lifetime(idle time.Duration, persistent bool) func(sessions.Session) any {
	return func(s sessions.Session) any { s.SetLifetime(idle, persistent); return nil }
}

func keys(s sessions.Session) any     { return strings.Join(slices.Sorted(s.Keys()), ",") }
func clearAll(s sessions.Session) any { s.Clear(); return nil }
func renew(s sessions.Session) any    { s.Renew(); return nil }
func destroy(s sessions.Session) any  { s.Destroy(); return nil }

func increment(s sessions.Session) any {
	return s.Update("n", func(old json.RawMessage) (any, error) {
		n := 0
		if old != nil {
			if err := json.Unmarshal(old, &n); err != nil {
				return nil, err
			}
		}
		return n + 1, nil
	})
}

// secretJSON fails to encode, and tells why too much.
type secretJSON struct{}

func (secretJSON) MarshalJSON() ([]byte, error) { return nil, errors.New("hunter2") }

// trace notes what can be seen of a session after a step.
type trace struct {
	lines []string
	ids   []string
}

func (tr *trace) note(s sessions.Session, result any) {
	id := s.ID()
	if !slices.Contains(tr.ids, id) {
		tr.ids = append(tr.ids, id)
	}
	tr.lines = append(tr.lines, fmt.Sprintf("%v | id %d new %v created %v expires %v", result, slices.Index(tr.ids, id),
		s.IsNew(), s.CreatedAt().UnixMilli(), s.ExpiresAt().UnixMilli()))
}

// Each table of operations is run on the double and on a session of a Manager, and must look the same at each step.
func TestSession_BehavesAsTheRealOne(t *testing.T) {
	for _, c := range operations {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var double trace
				s := sessiontest.NewSession()
				double.note(s, "start")
				for _, step := range c.steps {
					if step == nil {
						double.note(s, s.Commit())
						continue
					}
					double.note(s, step(s))
				}
				took := time.Since(start)

				// The clock cannot be turned back: the times of the second run are later by as much as the first took.
				var real trace
				manager, err := sessions.New(sessions.Config{Store: sessiontest.NewMemoryStore(), Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				jar := map[string]string{}
				first := true
				for rest := c.steps; first || len(rest) > 0; {
					i := slices.IndexFunc(rest, func(step func(sessions.Session) any) bool { return step == nil })
					now := rest
					if rest = nil; i >= 0 {
						now, rest = now[:i], now[i+1:]
					}
					request(t, manager, jar, func(s sessions.Session) {
						if first {
							real.note(s, "start")
						} else {
							real.note(s, nil)
						}
						for _, step := range now {
							real.note(s, step(s))
						}
					})
					if first = false; i >= 0 && len(rest) == 0 {
						request(t, manager, jar, func(s sessions.Session) { real.note(s, nil) })
					}
				}
				require.NotEmpty(t, double.lines)
				require.Equal(t, later(t, double.lines, took), real.lines)
			})
		})
	}
}

// later moves the times in a trace.
func later(t *testing.T, lines []string, by time.Duration) []string {
	t.Helper()
	var out []string
	for _, line := range lines {
		at := strings.LastIndex(line, " created ")
		var created, expires int64
		_, err := fmt.Sscanf(line[at:], " created %d expires %d", &created, &expires)
		require.NoError(t, err)
		out = append(out, fmt.Sprintf("%s created %d expires %d", line[:at], created+by.Milliseconds(), expires+by.Milliseconds()))
	}
	return out
}

// request serves one request of a client with these cookies.
func request(t *testing.T, manager *sessions.Manager, jar map[string]string, fn func(sessions.Session)) {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	for _, name := range slices.Sorted(maps.Keys(jar)) {
		r.AddCookie(&http.Cookie{Name: name, Value: jar[name]})
	}
	w := httptest.NewRecorder()
	manager.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		fn(s)
	})).ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	for _, c := range w.Result().Cookies() {
		if delete(jar, c.Name); c.MaxAge >= 0 {
			jar[c.Name] = c.Value
		}
	}
}

func TestSession_TellsRenewAndDestroy(t *testing.T) {
	s := sessiontest.NewSession()
	require.False(t, s.Renewed())
	require.False(t, s.Destroyed())
	s.Renew()
	require.True(t, s.Renewed(), "also on a new session")
	require.NoError(t, s.Commit())
	require.False(t, s.Renewed(), "in the next request")

	require.NoError(t, s.Set("a", 1))
	s.Destroy()
	require.True(t, s.Destroyed())
	require.Empty(t, slices.Collect(s.Keys()))
	require.NoError(t, s.Commit())
	require.False(t, s.Destroyed())

	s.SetLifetime(time.Hour, true)
	require.False(t, s.Destroyed())
	s.SetLifetime(-time.Second, true)
	require.True(t, s.Destroyed())
	require.NoError(t, s.Commit())
	s.SetLifetime(time.Millisecond/2, true)
	require.True(t, s.Destroyed(), "less than a millisecond ends the session too")
}

func TestSession_CommitTellsWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.NewSession()
		require.NoError(t, s.Set("a", 1))
		require.NoError(t, s.Commit())
		time.Sleep(30 * 24 * time.Hour)
		require.NoError(t, s.Set("a", 2))
		require.ErrorIs(t, s.Commit(), sessions.ErrGone, "the session has expired during the request")
		require.True(t, s.IsNew())
		require.NoError(t, s.Set("a", 3))
		require.NoError(t, s.Commit())
		require.False(t, s.IsNew())
	})
}

func TestSession_ErrorsHoldNoValues(t *testing.T) {
	s := sessiontest.NewSession()
	require.NoError(t, s.Set("a", "hunter2"))
	_, err := s.Get("a", new(int))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	err = s.Set("a", secretJSON{})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

func TestSession_IsSafeForConcurrentUse(t *testing.T) {
	r, s := sessiontest.WithSession(httptest.NewRequest("GET", "/", nil))
	var done sync.WaitGroup
	for i := range 20 {
		done.Go(func() {
			got, err := sessions.Get(r.Context())
			if err != nil {
				t.Error(err)
				return
			}
			increment(got)
			_ = got.Set(fmt.Sprint(i), i)
			_, _ = got.ID(), got.ExpiresAt()
			for range got.Keys() {
			}
			got.Renew()
			_ = s.Renewed()
		})
	}
	done.Wait()
	var n int
	_, err := s.Get("n", &n)
	require.NoError(t, err)
	require.Equal(t, 20, n)
	require.Len(t, slices.Collect(s.Keys()), 21)
}

func TestWithSession(t *testing.T) {
	type key struct{}
	outer := httptest.NewRequest("POST", "/path?q=1", strings.NewReader("body"))
	outer = outer.WithContext(context.WithValue(t.Context(), key{}, 7))
	r, s := sessiontest.WithSession(outer)
	got, err := sessions.Get(r.Context())
	require.NoError(t, err)
	require.Same(t, s, got)
	require.Equal(t, 7, r.Context().Value(key{}), "the rest of the request stays")
	require.Equal(t, "/path?q=1", r.URL.String())
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, "body", string(body))

	_, other := sessiontest.WithSession(outer)
	require.NotEqual(t, s.ID(), other.ID(), "two requests share nothing")
}
