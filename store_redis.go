package sessions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions/internal/redisscript"
)

// RedisStoreConfig is the configuration of a [RedisStore]. It is copied by [NewRedisStore].
type RedisStoreConfig struct {
	_ [0]func()

	// TTL is the longest that a key lives after it was last written or touched, at least a millisecond. Required:
	// there is no "forever". A session that expires earlier takes its own expiry; an idle timeout of the manager that is
	// longer is cut to TTL. A tombstone is not: that of a [DualStore] lives until the deadline of its session, because it
	// must outlive whatever it revokes.
	TTL time.Duration

	// Prefix starts every key. Default "session:".
	Prefix string
}

// RedisStore keeps each session as one string key: the prefix and [TokenID]. The value is JSON, readable with
// redis-cli GET; the token is not in it. Every key has a TTL from the command that wrote it.
//
// A read is one GET, a save one SET or one EVALSHA, a touch or a logout one EVALSHA; each uses one key, so that a cluster works.
// Replicas must not be read from: they may not have a change, or a logout, yet.
//
// A RedisStore is safe for concurrent use, and must not be copied.
type RedisStore struct {
	rdb    redis.Cmdable
	ttl    time.Duration
	prefix string
}

// NewRedisStore returns a RedisStore over any go-redis client: Client, ClusterClient, Ring, a Sentinel client or
// an AutoPipeline. It does not connect. All configuration mistakes are reported at once, as a join of [*ConfigError].
func NewRedisStore(rdb redis.Cmdable, cfg RedisStoreConfig) (*RedisStore, error) {
	var bad mistakes
	if isNil(rdb) {
		bad.add("rdb", "required: pass a go-redis client")
	} else if _, ok := rdb.(*redis.Pipeline); ok {
		bad.add("rdb", "a Pipeline answers only at Exec: pass the client itself")
	}
	switch {
	case cfg.TTL == 0:
		bad.add("TTL", "required: no key is written without one; try 14 * 24 * time.Hour")
	case cfg.TTL < time.Millisecond:
		bad.add("TTL", "%v is less than a millisecond, the least that Redis keeps a key for", cfg.TTL)
	}
	if err := bad.join(); err != nil {
		return nil, err
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "session:"
	}
	return &RedisStore{rdb: rdb, ttl: cfg.TTL, prefix: cfg.Prefix}, nil
}

// String returns "redis", the name of the store in events.
func (s *RedisStore) String() string { return "redis" }

// Keyspace returns a value that is equal for two stores over one client with one prefix.
func (s *RedisStore) Keyspace() any { return redisKeyspace{s.rdb, s.prefix} }

type redisKeyspace struct {
	rdb    redis.Cmdable
	prefix string
}

// MaxTTL returns the configured TTL, to which the manager cuts longer idle timeouts.
func (s *RedisStore) MaxTTL() time.Duration { return s.ttl }

func (s *RedisStore) key(id string) string { return s.prefix + id }

// lifetime gives the milliseconds that the key of a record may live for: what is left until it expires, and no more than
// the TTL. It is zero if the expiry has passed, or is less than a millisecond away. A tombstone is not cut to the TTL:
// it must outlive whatever it revokes.
func (s *RedisStore) lifetime(rec *Record) int64 {
	left := time.Until(rec.Expires)
	if !rec.Revoked {
		left = min(left, s.ttl)
	}
	return max(0, left.Milliseconds())
}

// limited returns the record with no longer an idle timeout than its key lives. A Manager asks for none, unless something
// between has hidden MaxTTL.
func (s *RedisStore) limited(rec *Record) *Record {
	if rec.Revoked || rec.Idle <= s.ttl {
		return rec
	}
	c := *rec
	c.Idle = s.ttl
	if until := time.Now().Add(s.ttl); until.Before(c.Expires) {
		c.Expires = until
	}
	return &c
}

// Load reads a record with one GET. It implements [Store].
func (s *RedisStore) Load(ctx context.Context, _, token string) (*Record, error) {
	id, ok := TokenID(token)
	if !ok {
		return nil, &NotFoundError{Outcome: OutcomeMalformed, Detail: "not the shape of a session token"}
	}
	text, err := s.rdb.Get(ctx, s.key(id)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, &NotFoundError{Outcome: OutcomeUnknown, SessionID: id, Detail: "there is no such key: it has expired, was deleted, or was evicted"}
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, SessionID: id, Detail: "the key holds another type: something else writes under the prefix of the sessions"}
	case err != nil:
		return nil, failedTo("load", err)
	}
	rec, reason := s.parse(id, text)
	if rec == nil {
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, SessionID: id, Detail: reason}
	}
	rec.Token = token
	if !rec.Revoked && !rec.alive(time.Now()) {
		return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: id}
	}
	return rec, nil
}

// Alive reports whether the session with this public ID, as of [Session.ID], is there: it has not expired, and was neither
// destroyed nor renewed. It costs one GET. An error says that Redis could not answer, or that the key is not a session.
func (s *RedisStore) Alive(ctx context.Context, id string) (bool, error) {
	text, err := s.rdb.Get(ctx, s.key(id)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return false, nil
	case err != nil:
		return false, failedTo("look", err)
	}
	rec, reason := s.parse(id, text)
	if rec == nil {
		return false, fmt.Errorf("sessions: redis: look: %s", reason)
	}
	return !rec.Revoked && rec.alive(time.Now()), nil
}

// parse reads a stored record and checks that it is the one of this key.
func (s *RedisStore) parse(id, text string) (rec *Record, reason string) {
	rec, err := parseStored(text)
	if err != nil {
		return nil, "the value is not a session record that this version reads"
	}
	if rec.ID != id {
		return nil, "the value is the record of another session"
	}
	return rec, ""
}

// Save writes a record with SET NX (new), SET (tombstone) or one script (next version). It implements [Store].
func (s *RedisStore) Save(ctx context.Context, _ string, rec *Record, base int64) (string, error) {
	rec = s.limited(rec)
	ms := s.lifetime(rec)
	if ms < 1 {
		return "", ErrGone
	}
	if rec.lineage.mark == "" && !rec.lineage.complete { // not from a Manager
		rec = rec.clone()
		rec.lineage.mark = newMark()
	}
	mark, marks := rec.lineage.mark, rec.lineage.marks()
	if base == 0 && rec.lineage.fresh {
		marks = "" // what is there already can only come from the first run of this very command
	}
	text := rec.append(nil, storedStart, rec.ID, marks)
	key := s.key(rec.ID)
	ttl := time.Duration(ms) * time.Millisecond
	switch {
	case base == 0 && rec.Revoked:
		if err := s.rdb.Set(ctx, key, text, ttl).Err(); err != nil {
			return "", failedTo("save", err)
		}
		return rec.Token, nil
	case base == 0:
		created, err := s.rdb.SetNX(ctx, key, text, ttl).Result()
		if err != nil {
			return "", failedTo("save", err)
		}
		if created {
			return rec.Token, nil
		}
		return s.exists(ctx, rec, text)
	}
	args := []any{text, ms, string(append(appendVersion(make([]byte, 0, versionLength+markLength), base), mark...)), "keep"}
	if !isRecent(base, time.Now()) || rec.lineage.complete {
		args = args[:3] // the marks that are there are too old to matter, or in the record
	}
	answer, err := redisscript.Save.Run(ctx, s.rdb, []string{key}, args...).Result()
	if err != nil {
		return "", failedTo("save", err)
	}
	switch answer := answer.(type) {
	case int64:
		if answer == redisscript.Done {
			return rec.Token, nil
		}
		return "", ErrGone
	case string:
		return "", s.conflict(rec, answer)
	}
	return "", fmt.Errorf("sessions: redis: save: unexpected answer of type %T", answer)
}

// exists sorts out a SET NX that found a key: it may be what the first run of this very command wrote, if the reply was
// lost and the client sent it again.
func (s *RedisStore) exists(ctx context.Context, rec *Record, sent []byte) (string, error) {
	text, err := s.rdb.Get(ctx, s.key(rec.ID)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", ErrGone
	case err != nil:
		return "", failedTo("save", err)
	}
	current, _ := s.parse(rec.ID, text)
	if rec.lineage.fresh && text == string(sent) || current != nil && current.lineage.has(rec.lineage.mark) {
		return rec.Token, nil
	}
	return "", s.conflict(rec, text)
}

// conflict gives the error for a save that found another version.
func (s *RedisStore) conflict(rec *Record, text string) error {
	current, reason := s.parse(rec.ID, text)
	switch {
	case current == nil:
		return fmt.Errorf("sessions: redis: save: %s", reason)
	case current.Revoked:
		return ErrGone
	}
	current.Token = rec.Token
	return &ConflictError{Current: current}
}

// redisError says what failed, and why.
type redisError struct {
	op    string
	cause error
}

func (e *redisError) Error() string { return "sessions: redis: " + e.op + ": " + e.cause.Error() }

func (e *redisError) Unwrap() error { return e.cause }

// failedTo gives the error for what Redis or its client answered, without what they quote of the command or the reply:
// session keys and values may be in it.
func failedTo(op string, cause error) error {
	text := cause.Error()
	var number *strconv.NumError // the reply is none, and quoted
	if before, _, cut := strings.Cut(text, ", with args beginning with"); cut {
		cause = refusal(before)
	} else if errors.As(cause, &number) || strings.HasPrefix(text, "redis: ") && strings.ContainsRune(text, '"') && errors.Unwrap(cause) == nil {
		cause = errors.New("the reply cannot be understood")
	}
	return &redisError{op, cause}
}

// refusal is an error that Redis has answered with, cut before what it quotes.
type refusal string

func (e refusal) Error() string { return string(e) }

// RedisError makes it a [redis.Error].
func (e refusal) RedisError() {}

// Touch renews the expiry, in the record and of the key, with one script. It implements [Store].
func (s *RedisStore) Touch(ctx context.Context, _ string, rec *Record) (string, error) {
	rec = s.limited(rec)
	ms := s.lifetime(rec)
	if ms < 1 {
		return "", ErrGone
	}
	answer, err := redisscript.Touch.Run(ctx, s.rdb, []string{s.key(rec.ID)},
		string(appendVersion(nil, rec.Version)), ms,
		string(appendNumber(appendNumber(nil, rec.Idle.Milliseconds()), rec.Expires.UnixMilli()))).Int64()
	if err != nil {
		return "", failedTo("touch", err)
	}
	if answer == redisscript.Missing {
		return "", ErrGone
	}
	return rec.Token, nil
}

// Delete deletes a record with one script, whatever its version. It leaves no tombstone: whoever writes later finds no key,
// and no script makes one. That of a renewal stays, and is ErrGone. It implements [Store].
func (s *RedisStore) Delete(ctx context.Context, _ string, rec *Record) error {
	key := s.key(rec.ID)
	answer, err := redisscript.Delete.Run(ctx, s.rdb, []string{key}).Result()
	text, found := answer.(string)
	switch {
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return s.drop(ctx, key) // nothing of ours
	case err != nil:
		return failedTo("delete", err)
	case !found: // deleted, now or before
		return nil
	}
	stone, _ := s.parse(rec.ID, text)
	switch {
	case stone == nil:
		return s.drop(ctx, key)
	case stone.Renewed:
		return ErrGone
	}
	return nil
}

func (s *RedisStore) drop(ctx context.Context, key string) error {
	if err := s.rdb.Del(ctx, key).Err(); err != nil {
		return failedTo("delete", err)
	}
	return nil
}
