package sessiontest

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"handover.example/sessions"
)

// MemoryStore keeps sessions in memory. It is for tests, and shows how to write a store. It meets the contract of
// [sessions.Store], but its sessions are lost when the process ends, and no other process sees them.
//
// Create one with [NewMemoryStore]. It is safe for concurrent use, and must not be copied. It starts no goroutine and
// reads the time from [time.Now], so it works in a [testing/synctest] bubble.
type MemoryStore struct {
	mu      sync.Mutex
	records map[string]entry // by ID, because only the client's cookie may hold the token
	sweepAt int
	calls   struct{ loads, saves, touches, deletes int }
}

// entry is a record as text, as a server-side store would have it. It shares nothing with the caller.
type entry struct {
	text    []byte
	expires time.Time
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore { return &MemoryStore{records: map[string]entry{}} }

// Len returns the number of records that have not expired, including tombstones.
func (s *MemoryStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	return len(s.records)
}

// Calls returns how often each method has been called so far. A Load that rejects a token by its shape does not count,
// because it queries no record.
func (s *MemoryStore) Calls() (loads, saves, touches, deletes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls.loads, s.calls.saves, s.calls.touches, s.calls.deletes
}

// Load returns a copy of the record. It implements [sessions.Store].
func (s *MemoryStore) Load(ctx context.Context, _, token string) (*sessions.Record, error) {
	id, ok := sessions.TokenID(token)
	if !ok {
		return nil, &sessions.NotFoundError{Outcome: sessions.OutcomeMalformed, Detail: "not the shape of a session token"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.loads++
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e, ok := s.records[id]
	if !ok {
		return nil, &sessions.NotFoundError{Outcome: sessions.OutcomeUnknown, SessionID: id}
	}
	rec, err := e.record(token)
	if err != nil {
		return nil, &sessions.NotFoundError{Outcome: sessions.OutcomeUndecodable, SessionID: id}
	}
	now := time.Now()
	if !now.Before(rec.Expires) || !rec.Revoked && !now.Before(rec.Deadline) {
		return nil, &sessions.NotFoundError{Outcome: sessions.OutcomeExpired, SessionID: id, Expired: rec}
	}
	return rec, nil
}

// Save writes a copy of the record. It implements [sessions.Store].
func (s *MemoryStore) Save(ctx context.Context, _ string, rec *sessions.Record, base int64) (string, error) {
	id, ok := sessions.TokenID(rec.Token)
	if !ok || rec.ID != id {
		return "", errRecord
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return "", errValue // the error of encoding/json may quote the value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.saves++
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if !time.Now().Before(rec.Expires) {
		return "", sessions.ErrGone
	}
	current := s.current(rec)
	switch {
	case base == 0 && (rec.Revoked || current == nil):
		// new, or a tombstone that overwrites any record
	case current == nil || current.Revoked:
		return "", sessions.ErrGone
	case base != current.Version:
		return "", &sessions.ConflictError{Current: current}
	}
	s.put(id, entry{text, rec.KeepUntil()})
	return rec.Token, nil
}

// Touch extends the expiry. It implements [sessions.Store].
func (s *MemoryStore) Touch(ctx context.Context, _ string, rec *sessions.Record) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.touches++
	if err := ctx.Err(); err != nil {
		return "", err
	}
	current := s.current(rec)
	now := time.Now()
	if current == nil || current.Revoked || !now.Before(rec.Expires) || !now.Before(current.Expires) {
		return "", sessions.ErrGone
	}
	if current.Version != rec.Version {
		return rec.Token, nil // the newer write has extended it
	}
	current.Extend(rec)
	text, err := json.Marshal(current)
	if err != nil {
		return "", errValue
	}
	s.put(rec.ID, entry{text, rec.KeepUntil()})
	return rec.Token, nil
}

// Delete removes the record. If it finds the tombstone of a renewal, it leaves it and returns [sessions.ErrGone]. It
// implements [sessions.Store].
func (s *MemoryStore) Delete(ctx context.Context, _ string, rec *sessions.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.deletes++
	if err := ctx.Err(); err != nil {
		return err
	}
	if current := s.current(rec); current != nil && current.Renewed {
		return sessions.ErrGone
	}
	delete(s.records, rec.ID)
	return nil
}

var (
	errRecord = errors.New("sessiontest: the record has no valid Token, or an ID that is not the token's")
	errValue  = errors.New("sessiontest: the record has a value that is not JSON")
)

// current returns the stored record with the ID of rec, or nil if there is none or it has expired.
func (s *MemoryStore) current(rec *sessions.Record) *sessions.Record {
	e, ok := s.records[rec.ID]
	if !ok || !time.Now().Before(e.expires) {
		return nil
	}
	current, err := e.record(rec.Token)
	if err != nil {
		return nil
	}
	return current
}

func (e entry) record(token string) (*sessions.Record, error) {
	rec := &sessions.Record{Token: token}
	if err := json.Unmarshal(e.text, rec); err != nil {
		return nil, err
	}
	return rec, nil
}

const sweepLeast = 1024

// put writes an entry. Sometimes it also deletes expired entries, so that many writes share the cost.
func (s *MemoryStore) put(id string, e entry) {
	s.records[id] = e
	if len(s.records) > max(sweepLeast, s.sweepAt) {
		s.sweep()
		s.sweepAt = 2 * len(s.records)
	}
}

func (s *MemoryStore) sweep() {
	now := time.Now()
	for id, e := range s.records {
		if !now.Before(e.expires) {
			delete(s.records, id)
		}
	}
}
