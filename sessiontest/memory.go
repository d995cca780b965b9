package sessiontest

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"handover.example/sessions"
)

// MemoryStore keeps sessions in the memory of the process: for tests, and as a model of how to write a store. It holds
// to all that [sessions.Store] asks for, but its sessions are gone when the process ends, and no other process sees them.
//
// Make one with [NewMemoryStore]. It is safe for concurrent use, must not be copied, starts no goroutine, and takes the
// time from the clock of [time.Now], so that it fits a [testing/synctest] bubble.
type MemoryStore struct {
	mu      sync.Mutex
	records map[string]entry // by ID: the token is in the client's cookie and nowhere else
	sweepAt int
	calls   struct{ loads, saves, touches, deletes int }
}

// entry is a record as text, so that nothing is shared with the caller, and as a store on a server would have it.
type entry struct {
	text    []byte
	expires time.Time
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore { return &MemoryStore{records: map[string]entry{}} }

// Len returns how many records there are that have not expired. Tombstones count.
func (s *MemoryStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	return len(s.records)
}

// Calls returns how often each method has been called so far. A token that is refused by its shape alone is not a load:
// the records were not asked.
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
	if !now.Before(e.expires) || !rec.Revoked && !now.Before(rec.Deadline) {
		return nil, &sessions.NotFoundError{Outcome: sessions.OutcomeExpired, SessionID: id}
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
		return "", errValue // what encoding/json says may quote the value
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
		// new, or a tombstone in place of whatever is there
	case current == nil || current.Revoked:
		return "", sessions.ErrGone
	case base != current.Version:
		return "", &sessions.ConflictError{Current: current}
	}
	s.put(id, entry{text, rec.Expires})
	return rec.Token, nil
}

// Touch renews the expiry. It implements [sessions.Store].
func (s *MemoryStore) Touch(ctx context.Context, _ string, rec *sessions.Record) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.touches++
	if err := ctx.Err(); err != nil {
		return "", err
	}
	current := s.current(rec)
	if current == nil || current.Revoked || !time.Now().Before(rec.Expires) {
		return "", sessions.ErrGone
	}
	if current.Version != rec.Version {
		return rec.Token, nil // the write that made it has renewed it
	}
	current.Expires, current.Idle = rec.Expires, rec.Idle
	text, err := json.Marshal(current)
	if err != nil {
		return "", errValue
	}
	s.put(rec.ID, entry{text, rec.Expires})
	return rec.Token, nil
}

// Delete removes the record, but not the tombstone of a renewal, which is ErrGone. It implements [sessions.Store].
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

// current returns what is there in place of rec; nil if nothing is, or if it has expired.
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

// put writes an entry. Now and then it drops what has expired, so that the cost of doing so is shared by many writes.
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
