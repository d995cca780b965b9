package sessiontest_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

const brokenEnv = "SESSIONTEST_BROKEN_STORES" // "all": with all cases of the suite

// TestTestStore_FindsBrokenStores runs the suite on stores that each break one rule, and checks that the case of this
// rule fails. It runs them in another process, where they may fail. Their other cases, of which nothing is expected, and
// many of which wait in vain, run only if HANDOVER_LONG is set.
func TestTestStore_FindsBrokenStores(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBrokenStores$", "-test.v", "-test.parallel=32", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), brokenEnv+"=some")
	if os.Getenv("HANDOVER_LONG") != "" {
		cmd.Env = append(os.Environ(), brokenEnv+"=all")
	}
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	require.ErrorAs(t, err, &failed, "%s", out)
	output := string(out)
	require.NotContains(t, output, "panic:")

	result := func(result, broken, rule string) string {
		return fmt.Sprintf("--- %s: TestBrokenStores/%s%s (", result, underscores(broken), rule)
	}
	require.Contains(t, output, result("PASS", "nothing", ""), "the suite must pass where nothing is broken")
	seen := map[string]bool{}
	for _, b := range brokenStores {
		require.False(t, seen[b.name], "%s is there twice", b.name)
		seen[b.name] = true
		t.Run(b.name, func(t *testing.T) {
			for _, rule := range b.fails {
				if !strings.Contains(output, result("FAIL", b.name, "/"+underscores(rule))) {
					t.Errorf("the suite does not see it in %q; of this store it says:\n%s", rule, about(output, b.name))
				}
			}
		})
	}
}

// TestBrokenStores does nothing by itself: it is what TestTestStore_FindsBrokenStores runs.
func TestBrokenStores(t *testing.T) {
	if os.Getenv(brokenEnv) == "" {
		t.Skip("made to fail: TestTestStore_FindsBrokenStores runs it in another process")
	}
	run := func(name string, alone bool, newStore func(*testing.T) sessions.Store) {
		t.Run(name, func(t *testing.T) {
			if !alone {
				t.Parallel()
			}
			sessiontest.TestStore(t, newStore)
		})
	}
	run("nothing", true, func(*testing.T) sessions.Store { return &broken{MemoryStore: sessiontest.NewMemoryStore()} })
	for _, b := range brokenStores {
		run(b.name, b.races, func(t *testing.T) sessions.Store {
			_, rule, _ := strings.Cut(strings.TrimPrefix(t.Name(), "TestBrokenStores/"), "/")
			if os.Getenv(brokenEnv) != "all" && !slices.ContainsFunc(b.fails, func(fails string) bool { return underscores(fails) == rule }) {
				t.Skip("HANDOVER_LONG is not set, and nothing is expected of this case")
			}
			if b.codec != nil {
				store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: b.codec(t)})
				require.NoError(t, err)
				return store
			}
			if b.cookie != nil {
				return brokenCookie{newCookieStore(t), b.cookie}
			}
			s := &broken{MemoryStore: sessiontest.NewMemoryStore(), kept: map[string]*sessions.Record{}}
			b.breaks(s)
			return s
		})
	}
}

func underscores(s string) string { return strings.ReplaceAll(s, " ", "_") }

// about picks the lines of the output that say how one store did.
func about(output, name string) string {
	var lines []string
	for line := range strings.Lines(output) {
		if strings.Contains(line, "--- FAIL: TestBrokenStores/"+underscores(name)+"/") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if lines == nil {
		return "nothing fails"
	}
	return strings.Join(lines, "\n")
}

type (
	loadFunc  func(ctx context.Context, name, token string) (*sessions.Record, error)
	saveFunc  func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error)
	touchFunc func(ctx context.Context, name string, rec *sessions.Record) (string, error)
)

// broken is a store that works, but for the methods that are replaced.
type broken struct {
	*sessiontest.MemoryStore
	load   loadFunc
	save   saveFunc
	touch  touchFunc
	delete func(ctx context.Context, name string, rec *sessions.Record) error

	mu   sync.Mutex
	kept map[string]*sessions.Record // for stores that remember what they should not
}

func (s *broken) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	if s.load != nil {
		return s.load(ctx, name, token)
	}
	return s.MemoryStore.Load(ctx, name, token)
}

func (s *broken) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	if s.save != nil {
		return s.save(ctx, name, rec, base)
	}
	return s.MemoryStore.Save(ctx, name, rec, base)
}

func (s *broken) Touch(ctx context.Context, name string, rec *sessions.Record) (string, error) {
	if s.touch != nil {
		return s.touch(ctx, name, rec)
	}
	return s.MemoryStore.Touch(ctx, name, rec)
}

func (s *broken) Delete(ctx context.Context, name string, rec *sessions.Record) error {
	if s.delete != nil {
		return s.delete(ctx, name, rec)
	}
	return s.MemoryStore.Delete(ctx, name, rec)
}

// there returns what is in the store under the token of rec; nil if nothing is.
func (s *broken) there(rec *sessions.Record) *sessions.Record {
	found, err := s.MemoryStore.Load(context.Background(), "", rec.Token)
	if err != nil {
		return nil
	}
	return found
}

// force writes rec over whatever is there.
func (s *broken) force(rec *sessions.Record) (string, error) {
	ctx := context.Background()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.MemoryStore.Delete(ctx, "", rec)
	return s.MemoryStore.Save(ctx, "", rec, 0)
}

// keep remembers a record by its token.
func (s *broken) keep(rec *sessions.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[rec.Token] = rec
}

func (s *broken) recall(token string) *sessions.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[token]
}

// loaded changes each record on its way out.
func loaded(change func(*sessions.Record)) func(*broken) {
	return func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err == nil {
				change(rec)
			}
			return rec, err
		}
	}
}

// missed changes the error of a load.
func missed(change func(token string, err error) (*sessions.Record, error)) func(*broken) {
	return func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err != nil {
				return change(token, err)
			}
			return rec, nil
		}
	}
}

// saving changes what is saved, or with which base.
func saving(change func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64)) func(*broken) {
	return func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			rec, base = change(s, rec, base)
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}
}

// saveFails changes the error of a save.
func saveFails(change func(rec *sessions.Record, err error) error) func(*broken) {
	return func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			token, err := s.MemoryStore.Save(ctx, name, rec, base)
			if err != nil {
				err = change(rec, err)
			}
			return token, err
		}
	}
}

// touching replaces Touch.
func touching(touch func(s *broken, rec *sessions.Record) (string, error)) func(*broken) {
	return func(s *broken) {
		s.touch = func(_ context.Context, _ string, rec *sessions.Record) (string, error) { return touch(s, rec) }
	}
}

// copyWith returns a copy with other values.
func copyWith(rec *sessions.Record, value func(key string, raw json.RawMessage) (string, json.RawMessage)) *sessions.Record {
	c := &sessions.Record{
		ID: rec.ID, Token: rec.Token, Version: rec.Version, Created: rec.Created, Idle: rec.Idle, Expires: rec.Expires,
		Deadline: rec.Deadline, CustomIdle: rec.CustomIdle, Persistent: rec.Persistent, Secure: rec.Secure, Revoked: rec.Revoked,
		Renewed: rec.Renewed, Presented: rec.Presented,
	}
	for key, raw := range rec.Values() {
		if key, raw = value(key, raw); raw != nil {
			c.SetValue(key, raw)
		}
	}
	return c
}

func same(key string, raw json.RawMessage) (string, json.RawMessage) { return key, raw }

// lasting makes the lifetime that the first write of a record has set the last one.
func lasting(s *broken, renewedBy string) {
	s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
		if base == 0 || renewedBy == "save" {
			s.keep(copyWith(rec, same))
		}
		return s.MemoryStore.Save(ctx, name, rec, base)
	}
	s.touch = func(ctx context.Context, name string, rec *sessions.Record) (string, error) {
		if renewedBy == "touch" {
			s.keep(copyWith(rec, same))
		}
		return s.MemoryStore.Touch(ctx, name, rec)
	}
	s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
		if rec := s.recall(token); rec != nil && time.Now().After(rec.Expires) {
			return nil, sessions.ErrNotFound
		}
		return s.MemoryStore.Load(ctx, name, token)
	}
}

var brokenStores = []struct {
	name   string
	fails  []string
	breaks func(*broken)
	codec  func(*testing.T) sessions.Codec // of a CookieStore, in place of the other
	cookie func(*sessions.Record)          // changes what a CookieStore loads, in place of the other
	races  bool                            // with -race it must run alone, or others would be blamed
}{
	{name: "Load forgets the ID", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.ID = "" })},
	{name: "Load forgets the token", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Token = "" })},
	{name: "Load forgets Persistent", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Persistent = false })},
	{name: "Load forgets Secure", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Secure = false })},
	{name: "Load forgets CustomIdle", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.CustomIdle = false })},
	{name: "Load forgets the deadline", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Deadline = r.Expires })},
	{name: "Load forgets when it began", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Created = time.Now() })},
	{name: "Load makes versions of its own", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Version = 1 })},
	{name: "Load has one idle timeout for all", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) { r.Idle = 30 * time.Minute })},
	{name: "times are kept to the second", fails: []string{"a saved record is loaded with every field"}, breaks: loaded(func(r *sessions.Record) {
		r.Created = r.Created.Truncate(time.Second)
	})},

	{name: "Load forgets Renewed", fails: []string{"a tombstone of a renewal is kept as one", "Delete of a renewed session is ErrGone and leaves the tombstone"}, breaks: loaded(func(r *sessions.Record) { r.Renewed = false })},
	{name: "Load takes each tombstone for a renewal", fails: []string{"a tombstone of a renewal is kept as one"}, breaks: loaded(func(r *sessions.Record) { r.Renewed = r.Revoked })},
	{name: "Load presents the ID", fails: []string{"Load returns what the client presents"}, breaks: loaded(func(r *sessions.Record) { r.Presented = r.ID })},
	{name: "Load presents another session", fails: []string{"Load returns what the client presents"}, breaks: func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err != nil {
				return nil, err
			}
			other := copyWith(rec, same)
			other.Token = sessions.NewToken()
			other.ID, _ = sessions.TokenID(other.Token)
			rec.Presented, err = s.MemoryStore.Save(ctx, name, other, 0)
			return rec, err
		}
	}},
	{name: "Presented is kept", fails: []string{"Load returns what the client presents"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			token, err := s.MemoryStore.Save(ctx, name, rec, base)
			if err == nil {
				s.keep(copyWith(rec, same))
			}
			return token, err
		}
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err == nil && s.recall(token) != nil {
				rec.Presented = s.recall(token).Presented
			}
			return rec, err
		}
	}},
	{name: "a sealed record is not presented", fails: []string{"Load returns what the client presents"}, cookie: func(r *sessions.Record) { r.Presented = "" }},

	{name: "only the fields are kept", fails: []string{"the whole text of a record is kept"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		return copyWith(rec, same), base
	})},
	{name: "only the fields are kept of the next version", fails: []string{"the whole text of a record is kept"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if base != 0 {
			rec = copyWith(rec, same)
		}
		return rec, base
	})},
	{name: "Touch keeps only the fields", fails: []string{"the whole text of a record is kept"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		there := s.there(rec)
		if there == nil || there.Revoked || there.Version != rec.Version || !time.Now().Before(rec.Expires) {
			return s.MemoryStore.Touch(context.Background(), "", rec)
		}
		there.Expires, there.Idle = rec.Expires, rec.Idle
		return s.force(copyWith(there, same))
	})},
	{name: "a conflict shows only the fields", fails: []string{"the whole text of a record is kept"}, breaks: saveFails(func(_ *sessions.Record, err error) error {
		var found *sessions.ConflictError
		if errors.As(err, &found) {
			return &sessions.ConflictError{Current: copyWith(found.Current, same)}
		}
		return err
	})},

	{name: "numbers become floats", fails: []string{"values come back as they were"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		return copyWith(rec, func(key string, raw json.RawMessage) (string, json.RawMessage) {
			var v any
			_ = json.Unmarshal(raw, &v)
			raw, _ = json.Marshal(v)
			return key, raw
		}), base
	})},
	{name: "null is dropped", fails: []string{"values come back as they were"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		return copyWith(rec, func(key string, raw json.RawMessage) (string, json.RawMessage) {
			if string(raw) == "null" {
				return key, nil
			}
			return key, raw
		}), base
	})},
	{name: "keys are folded", fails: []string{"values come back as they were"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		return copyWith(rec, func(key string, raw json.RawMessage) (string, json.RawMessage) { return strings.ToLower(key), raw }), base
	})},
	{name: "keys are trimmed", fails: []string{"values come back as they were"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		return copyWith(rec, func(key string, raw json.RawMessage) (string, json.RawMessage) { return strings.TrimSpace(key), raw }), base
	})},
	{name: "a record without values is not kept", fails: []string{"a record without values is kept"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			for range rec.Values() {
				return s.MemoryStore.Save(ctx, name, rec, base)
			}
			if rec.Revoked {
				return s.MemoryStore.Save(ctx, name, rec, base)
			}
			return rec.Token, nil
		}
	}},
	{name: "big values are cut", fails: []string{"a big record is kept, or refused with ErrTooLarge"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		return copyWith(rec, func(key string, raw json.RawMessage) (string, json.RawMessage) {
			if len(raw) > 65535 {
				return key, nil
			}
			return key, raw
		}), base
	})},
	{name: "a big record is another error", fails: []string{"a big record is kept, or refused with ErrTooLarge"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if text, _ := json.Marshal(rec); len(text) > 65535 {
				return "", errors.New("too long for its column")
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "a century overflows", fails: []string{"a lifetime of a hundred years does not overflow"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if time.Unix(int64(int32(rec.Expires.Unix())), 0).Before(time.Now()) {
				return "", sessions.ErrGone
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},

	{name: "a malformed token is another error", fails: []string{"a token that cannot be ours is ErrNotFound"}, breaks: missed(func(token string, err error) (*sessions.Record, error) {
		if _, ok := sessions.TokenID(token); !ok {
			return nil, errors.New("bad token")
		}
		return nil, err
	})},
	{name: "a token is trimmed", fails: []string{"a token that cannot be ours is ErrNotFound"}, breaks: func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			return s.MemoryStore.Load(ctx, name, strings.TrimSpace(token))
		}
	}},
	{name: "padding is accepted", fails: []string{"a token that cannot be ours is ErrNotFound"}, breaks: func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			return s.MemoryStore.Load(ctx, name, strings.TrimRight(token, "="))
		}
	}},
	{name: "an unknown token is another error", fails: []string{"an unknown token is ErrNotFound"}, breaks: missed(func(string, error) (*sessions.Record, error) {
		return nil, errors.New("no rows")
	})},
	{name: "an unknown token is nothing at all", fails: []string{"an unknown token is ErrNotFound"}, breaks: missed(func(string, error) (*sessions.Record, error) {
		return nil, nil
	})},
	{name: "an unknown token is an empty record and an error", fails: []string{"an unknown token is ErrNotFound"}, breaks: missed(func(_ string, err error) (*sessions.Record, error) {
		return &sessions.Record{}, err
	})},
	{name: "an unknown token is adopted", fails: []string{"an unknown token is ErrNotFound"}, breaks: missed(func(token string, err error) (*sessions.Record, error) {
		id, ok := sessions.TokenID(token)
		if !ok {
			return nil, err
		}
		return &sessions.Record{ID: id, Token: token, Expires: time.Now().Add(time.Hour), Deadline: time.Now().Add(time.Hour)}, nil
	})},
	{name: "the ID opens the session", fails: []string{"the ID is not a token"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			s.mu.Lock()
			s.kept[rec.ID] = copyWith(rec, same)
			s.mu.Unlock()
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			if rec := s.recall(token); rec != nil {
				token = rec.Token
			}
			return s.MemoryStore.Load(ctx, name, token)
		}
	}},
	{name: "an error holds the token", fails: []string{"an unknown token is ErrNotFound"}, breaks: missed(func(token string, err error) (*sessions.Record, error) {
		return nil, fmt.Errorf("%w: key %s", err, token)
	})},
	{name: "an error holds a value", fails: []string{"Save with base 0 does not replace a record", "Save with another base is ErrConflict"}, breaks: saveFails(func(rec *sessions.Record, err error) error {
		text, _ := json.Marshal(rec)
		return fmt.Errorf("%w: %s", err, text)
	})},
	{name: "a cancelled context is ErrNotFound", fails: []string{"a cancelled context does not look like a missing session"}, breaks: missed(func(string, error) (*sessions.Record, error) {
		return nil, sessions.ErrNotFound
	})},
	{name: "a cancelled context is ErrGone", fails: []string{"a cancelled context does not look like a missing session"}, breaks: saveFails(func(_ *sessions.Record, err error) error {
		if errors.Is(err, context.Canceled) {
			return sessions.ErrGone
		}
		return err
	})},

	{name: "expired records are returned", fails: []string{"an expired record is ErrNotFound"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			token, err := s.MemoryStore.Save(ctx, name, rec, base)
			if err == nil {
				s.keep(copyWith(rec, same))
			}
			return token, err
		}
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			var miss *sessions.NotFoundError
			if errors.As(err, &miss) && miss.Outcome == sessions.OutcomeExpired {
				return copyWith(s.recall(token), same), nil
			}
			return rec, err
		}
	}},
	{name: "an expired record is another error", fails: []string{"an expired record is ErrNotFound"}, breaks: missed(func(_ string, err error) (*sessions.Record, error) {
		var miss *sessions.NotFoundError
		if errors.As(err, &miss) && miss.Outcome == sessions.OutcomeExpired {
			return nil, sessions.ErrGone
		}
		return nil, err
	})},
	{name: "an expired record is kept for ever", fails: []string{"an expired record is not written"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if !time.Now().Before(rec.Expires) {
			rec = copyWith(rec, same)
			rec.Expires = time.Now().Add(1000 * time.Hour)
		}
		return rec, base
	})},
	{name: "an expired record is dropped in silence", fails: []string{"an expired record is not written"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if !time.Now().Before(rec.Expires) {
				return rec.Token, nil
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "Save keeps the caller's record", races: true, fails: []string{"the record given to Save is not kept"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			token, err := s.MemoryStore.Save(ctx, name, rec, base)
			if err == nil {
				s.keep(rec)
			}
			return token, err
		}
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if kept := s.recall(token); err == nil && kept != nil {
				return copyWith(kept, same), nil
			}
			return rec, err
		}
	}},
	{name: "Save changes the caller's record", fails: []string{"a saved record is loaded with every field"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			token, err := s.MemoryStore.Save(ctx, name, rec, base)
			rec.Expires = rec.Expires.Add(time.Second)
			return token, err
		}
	}},
	{name: "Load shares its record", races: true, fails: []string{"the record returned by Load is the caller's"}, breaks: func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err != nil {
				return nil, err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.kept[token] == nil {
				s.kept[token] = rec
			}
			return s.kept[token], nil
		}
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			token, err := s.MemoryStore.Save(ctx, name, rec, base)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.kept, rec.Token)
			return token, err
		}
		s.touch = func(ctx context.Context, name string, rec *sessions.Record) (string, error) {
			token, err := s.MemoryStore.Touch(ctx, name, rec)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.kept, rec.Token)
			return token, err
		}
	}},
	{name: "the name matters", fails: []string{"the cookie name does not matter"}, breaks: func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			if name != "session" {
				return nil, sessions.ErrNotFound
			}
			return s.MemoryStore.Load(ctx, name, token)
		}
	}},

	{name: "Save with base 0 replaces", fails: []string{"Save with base 0 does not replace a record", "Save with base 0 is won by one of many"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if base == 0 && !rec.Revoked {
				if there := s.there(rec); there != nil && !there.Revoked {
					return s.force(rec)
				}
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "Save does not look at the version", fails: []string{"Save with another base is ErrConflict", "parallel writers lose nothing"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if there := s.there(rec); base != 0 && there != nil {
			base = there.Version
		}
		return rec, base
	})},
	{name: "Save takes any older version", fails: []string{"Save with another base is ErrConflict"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if there := s.there(rec); base != 0 && there != nil && base > there.Version {
			base = there.Version
		}
		return rec, base
	})},
	{name: "Save checks first and writes later", fails: []string{"parallel writers lose nothing"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			there := s.there(rec)
			switch {
			case there != nil && there.Revoked || rec.Revoked || !time.Now().Before(rec.Expires) || ctx.Err() != nil:
				return s.MemoryStore.Save(ctx, name, rec, base)
			case base == 0 && there != nil, base != 0 && there != nil && there.Version != base:
				return "", &sessions.ConflictError{Current: there}
			case base != 0 && there == nil:
				return "", sessions.ErrGone
			}
			time.Sleep(time.Millisecond)
			return s.force(rec)
		}
	}},
	{name: "a conflict is another error", fails: []string{"Save with another base is ErrConflict", "Save with base 0 does not replace a record"}, breaks: saveFails(func(_ *sessions.Record, err error) error {
		if errors.Is(err, sessions.ErrConflict) {
			return errors.New("optimistic lock")
		}
		return err
	})},
	{name: "a conflict is ErrGone", fails: []string{"Save with another base is ErrConflict"}, breaks: saveFails(func(_ *sessions.Record, err error) error {
		if errors.Is(err, sessions.ErrConflict) {
			return sessions.ErrGone
		}
		return err
	})},
	{name: "a conflict shows the wrong record", fails: []string{"Save with another base is ErrConflict", "Save with base 0 does not replace a record"}, breaks: saveFails(func(rec *sessions.Record, err error) error {
		if errors.Is(err, sessions.ErrConflict) {
			return &sessions.ConflictError{Current: copyWith(rec, same)}
		}
		return err
	})},
	{name: "a conflict shows a record without its token", fails: []string{"Save with another base is ErrConflict"}, breaks: saveFails(func(_ *sessions.Record, err error) error {
		var found *sessions.ConflictError
		if errors.As(err, &found) {
			found.Current.Token = ""
		}
		return err
	})},
	{name: "Save creates what is gone", fails: []string{"Save over nothing is ErrGone", "Delete removes the record, whatever its version"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if s.there(rec) == nil {
			base = 0
		}
		return rec, base
	})},
	{name: "Save over nothing is ErrNotFound", fails: []string{"Save over nothing is ErrGone"}, breaks: saveFails(func(_ *sessions.Record, err error) error {
		if errors.Is(err, sessions.ErrGone) {
			return sessions.ErrNotFound
		}
		return err
	})},
	{name: "Save brings back what has expired", fails: []string{"Save over an expired record is ErrGone"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		_, err := s.MemoryStore.Load(context.Background(), "", rec.Token)
		var miss *sessions.NotFoundError
		if errors.As(err, &miss) && miss.Outcome == sessions.OutcomeExpired {
			base = 0
		}
		return rec, base
	})},
	{name: "Save merges", fails: []string{"Save with the right base replaces the record"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if there := s.there(rec); there != nil && !rec.Revoked && base != 0 {
			merged := copyWith(rec, same)
			for key, raw := range there.Values() {
				if _, ok := rec.Value(key); !ok {
					merged.SetValue(key, raw)
				}
			}
			rec = merged
		}
		return rec, base
	})},
	{name: "Save makes another token", fails: []string{"a saved record is loaded with every field"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if _, err := s.MemoryStore.Save(ctx, name, rec, base); err != nil {
				return "", err
			}
			return sessions.NewToken(), nil
		}
	}},
	{name: "Save gives no token", fails: []string{"a saved record is loaded with every field"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			_, err := s.MemoryStore.Save(ctx, name, rec, base)
			return "", err
		}
	}},
	{name: "Save does not renew the lifetime", fails: []string{"Save renews the lifetime"}, breaks: func(s *broken) { lasting(s, "touch") }},

	{name: "tombstones do not stop a save", fails: []string{"a tombstone stops every late write", "parallel writers cannot bring back what was destroyed"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if there := s.there(rec); there != nil && there.Revoked && !rec.Revoked {
				return s.force(rec)
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err == nil && rec.Revoked {
				time.Sleep(time.Millisecond) // the writers come between
			}
			return rec, err
		}
	}},
	{name: "tombstones do not stop a create", fails: []string{"a tombstone stops every late write"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if there := s.there(rec); there != nil && there.Revoked && !rec.Revoked && base == 0 {
				return s.force(rec)
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "tombstones do not stop a touch", fails: []string{"a tombstone stops every late write"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if there := s.there(rec); there != nil && there.Revoked {
			return s.force(rec)
		}
		return s.MemoryStore.Touch(context.Background(), "", rec)
	})},
	{name: "tombstones are told by their version alone", fails: []string{"a tombstone stops a late write of the same version"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if there := s.there(rec); there != nil && there.Revoked && base == there.Version {
				return s.force(rec)
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "tombstones are hidden", fails: []string{"a tombstone replaces whatever is there", "a tombstone stops every late write"}, breaks: func(s *broken) {
		s.load = func(ctx context.Context, name, token string) (*sessions.Record, error) {
			rec, err := s.MemoryStore.Load(ctx, name, token)
			if err == nil && rec.Revoked {
				return nil, sessions.ErrNotFound
			}
			return rec, err
		}
	}},
	{name: "tombstones are not marked", fails: []string{"a tombstone replaces whatever is there"}, breaks: loaded(func(r *sessions.Record) { r.Revoked = false })},
	{name: "tombstones are deletions", fails: []string{"a tombstone replaces whatever is there"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if rec.Revoked {
				return rec.Token, s.MemoryStore.Delete(ctx, name, rec)
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "tombstones keep the values", fails: []string{"a tombstone replaces whatever is there"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if there := s.there(rec); rec.Revoked && there != nil {
			rec = copyWith(rec, same)
			for key, raw := range there.Values() {
				rec.SetValue(key, raw)
			}
		}
		return rec, base
	})},
	{name: "tombstones with base 0 are only created", fails: []string{"a tombstone replaces whatever is there"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			if rec.Revoked && base == 0 && s.there(rec) != nil {
				return "", sessions.ErrConflict
			}
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
	}},
	{name: "tombstones replace what is newer", fails: []string{"a tombstone with a base is checked"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if rec.Revoked {
			base = 0
		}
		return rec, base
	})},
	{name: "tombstones never expire", fails: []string{"a tombstone expires"}, breaks: saving(func(_ *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if rec.Revoked {
			rec = copyWith(rec, same)
			rec.Expires = rec.Expires.Add(1000 * time.Hour)
		}
		return rec, base
	})},

	{name: "Touch does nothing", fails: []string{"Touch moves the expiry, and the idle timeout with it, and nothing else"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if there := s.there(rec); there == nil || there.Revoked {
			return "", sessions.ErrGone
		}
		return rec.Token, nil
	})},
	{name: "Touch leaves the idle timeout", fails: []string{"Touch moves the expiry, and the idle timeout with it, and nothing else"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if there := s.there(rec); there != nil {
			rec = copyWith(rec, same)
			rec.Idle = there.Idle
		}
		return s.MemoryStore.Touch(context.Background(), "", rec)
	})},
	{name: "Touch writes the values", fails: []string{"Touch moves the expiry, and the idle timeout with it, and nothing else"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if there := s.there(rec); there == nil || there.Revoked || there.Version != rec.Version {
			return s.MemoryStore.Touch(context.Background(), "", rec)
		}
		return s.MemoryStore.Save(context.Background(), "", rec, rec.Version)
	})},
	{name: "Touch changes the version", fails: []string{"Touch moves the expiry, and the idle timeout with it, and nothing else"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		there := s.there(rec)
		if there == nil || there.Revoked || there.Version != rec.Version {
			return s.MemoryStore.Touch(context.Background(), "", rec)
		}
		there.Version++
		there.Expires, there.Idle = rec.Expires, rec.Idle
		return s.MemoryStore.Save(context.Background(), "", there, rec.Version)
	})},
	{name: "Touch does not renew the lifetime", fails: []string{"Touch renews the lifetime"}, breaks: func(s *broken) { lasting(s, "save") }},
	{name: "Touch into the past is for ever", fails: []string{"Touch into the past keeps nothing alive"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if !time.Now().Before(rec.Expires) {
			rec = copyWith(rec, same)
			rec.Expires = time.Now().Add(1000 * time.Hour)
		}
		return s.MemoryStore.Touch(context.Background(), "", rec)
	})},
	{name: "Touch of a newer record is ErrConflict", fails: []string{"Touch of a newer record is not an error and changes nothing"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if there := s.there(rec); there != nil && !there.Revoked && there.Version != rec.Version {
			return "", sessions.ErrConflict
		}
		return s.MemoryStore.Touch(context.Background(), "", rec)
	})},
	{name: "Touch writes back what it knew", fails: []string{"Touch of a newer record is not an error and changes nothing"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if there := s.there(rec); there == nil || there.Revoked || !time.Now().Before(rec.Expires) {
			return "", sessions.ErrGone
		}
		return s.force(rec)
	})},
	{name: "Touch creates", fails: []string{"Touch never creates"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		if s.there(rec) == nil && time.Now().Before(rec.Expires) {
			return s.force(rec)
		}
		return s.MemoryStore.Touch(context.Background(), "", rec)
	})},
	{name: "Touch of nothing is no error", fails: []string{"Touch never creates"}, breaks: touching(func(s *broken, rec *sessions.Record) (string, error) {
		token, err := s.MemoryStore.Touch(context.Background(), "", rec)
		if errors.Is(err, sessions.ErrGone) && s.there(rec) == nil {
			return rec.Token, nil
		}
		return token, err
	})},

	{name: "Delete does nothing", fails: []string{"Delete removes the record, whatever its version", "Delete of nothing is not an error"}, breaks: func(s *broken) {
		s.delete = func(context.Context, string, *sessions.Record) error { return nil }
	}},
	{name: "Delete looks at the version", fails: []string{"Delete removes the record, whatever its version"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			if there := s.there(rec); there != nil && there.Version != rec.Version {
				return sessions.ErrConflict
			}
			return s.MemoryStore.Delete(ctx, name, rec)
		}
	}},
	{name: "Delete removes everything", fails: []string{"Delete removes the record, whatever its version"}, breaks: func(s *broken) {
		s.save = func(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
			s.keep(copyWith(rec, same))
			return s.MemoryStore.Save(ctx, name, rec, base)
		}
		s.delete = func(ctx context.Context, name string, _ *sessions.Record) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, rec := range s.kept {
				_ = s.MemoryStore.Delete(ctx, name, rec)
			}
			return nil
		}
	}},
	{name: "Delete takes the tombstone of a renewal away", fails: []string{"Delete of a renewed session is ErrGone and leaves the tombstone"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			if there := s.there(rec); there != nil && there.Renewed {
				there.Renewed = false
				_, err := s.MemoryStore.Save(ctx, name, there, 0)
				return err
			}
			return s.MemoryStore.Delete(ctx, name, rec)
		}
	}},
	{name: "Delete of a renewed session is no error", fails: []string{"Delete of a renewed session is ErrGone and leaves the tombstone", "of a Delete and a parallel renewal one is told that it is too late"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			if err := s.MemoryStore.Delete(ctx, name, rec); !errors.Is(err, sessions.ErrGone) {
				return err
			}
			return nil
		}
	}},
	{name: "Delete of a renewed session is ErrGone, and done", fails: []string{"Delete of a renewed session is ErrGone and leaves the tombstone"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			err := s.MemoryStore.Delete(ctx, name, rec)
			if errors.Is(err, sessions.ErrGone) {
				there := s.there(rec)
				there.Renewed = false
				_, _ = s.MemoryStore.Save(ctx, name, there, 0)
			}
			return err
		}
	}},
	{name: "Delete of a destroyed session is ErrGone", fails: []string{"Delete of a destroyed session is not an error"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			if there := s.there(rec); there != nil && there.Revoked {
				return sessions.ErrGone
			}
			return s.MemoryStore.Delete(ctx, name, rec)
		}
	}},
	{name: "Delete checks first and deletes later", fails: []string{"of a Delete and a parallel renewal one is told that it is too late"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			if there := s.there(rec); there != nil && there.Renewed {
				return sessions.ErrGone
			}
			time.Sleep(time.Millisecond)
			if err := s.MemoryStore.Delete(ctx, name, rec); !errors.Is(err, sessions.ErrGone) {
				return err
			}
			return nil
		}
	}},
	{name: "a renewal's tombstone is made of nothing", fails: []string{"of a Delete and a parallel renewal one is told that it is too late"}, breaks: saving(func(s *broken, rec *sessions.Record, base int64) (*sessions.Record, int64) {
		if rec.Renewed && base != 0 && s.there(rec) == nil {
			base = 0
		}
		return rec, base
	})},
	{name: "Delete of nothing is ErrNotFound", fails: []string{"Delete of nothing is not an error"}, breaks: func(s *broken) {
		s.delete = func(ctx context.Context, name string, rec *sessions.Record) error {
			if s.there(rec) == nil {
				return sessions.ErrNotFound
			}
			return s.MemoryStore.Delete(ctx, name, rec)
		}
	}},

	{name: "the seal is only an encoding", fails: []string{"a changed sealed token is ErrNotFound", "a sealed token opens only under its cookie name"}, codec: func(*testing.T) sessions.Codec {
		return encoding{}
	}},
	{name: "the seal is not bound to the name", fails: []string{"a sealed token opens only under its cookie name"}, codec: func(t *testing.T) sessions.Codec {
		codec, err := sessions.NewSecureCookieCodec([]byte("a secret of the tests: 32 bytes!"))
		require.NoError(t, err)
		return oneName{codec}
	}},
}

// brokenCookie is a CookieStore whose records are changed on their way out.
type brokenCookie struct {
	sessions.Store
	change func(*sessions.Record)
}

func (s brokenCookie) Load(ctx context.Context, name, token string) (*sessions.Record, error) {
	rec, err := s.Store.Load(ctx, name, token)
	if err == nil {
		s.change(rec)
	}
	return rec, err
}

// encoding is a Codec that seals nothing.
type encoding struct{}

func (encoding) Seal(_ string, plain []byte) (string, error) {
	return base64.RawURLEncoding.EncodeToString(plain), nil
}

func (encoding) Open(_, sealed string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(sealed)
}

// oneName is a Codec that gives all cookies the same name.
type oneName struct{ sessions.Codec }

func (c oneName) Seal(_ string, plain []byte) (string, error) { return c.Codec.Seal("x", plain) }
func (c oneName) Open(_, sealed string) ([]byte, error)       { return c.Codec.Open("x", sealed) }
