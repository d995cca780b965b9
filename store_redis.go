package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions/internal/check"
	"handover.example/sessions/internal/redisscript"
)

// RedisStoreConfig is the configuration of a [RedisStore]. It is copied by [NewRedisStore].
type RedisStoreConfig struct {
	_ [0]func()

	// TTL is how long a key lives at most after it was last written or touched, at least 1ms. Required: no key lives
	// forever. A session that expires earlier keeps its own expiry; the [Manager] shortens a longer idle timeout to
	// TTL. Tombstones are exempt: that of a [DualStore] lives until the session's deadline, because it must outlive
	// every copy that it revokes.
	TTL time.Duration

	// Prefix is the prefix of every key. Default "session:". Programs with the same server, prefix and cookie name share
	// their sessions: if they should not, give each its own prefix.
	Prefix string

	// MaxSize is the largest record in bytes, as stored: its values as JSON, and up to 900 bytes and the name of the
	// cookie more. A larger one is [ErrTooLarge] from Save, and is not sent. Default 1 MiB. While a [DualStore] moves sessions to this store, a larger
	// one stays in the old store in DualReadOld, which its report counts; from DualReadNew on, its change fails.
	MaxSize int
}

// RedisStore keeps each session as one string key, named by the prefix and the [TokenID]. The value is JSON, readable
// with redis-cli GET; it does not contain the token. Every key gets its TTL from the command that writes it.
//
// Load is one GET, Save one SET or EVALSHA, Touch and Delete one EVALSHA each. Every command uses one key, so clusters
// work. Do not read from replicas: they may not have a change, or a logout, yet.
//
// A RedisStore is safe for concurrent use, and must not be copied.
type RedisStore struct {
	rdb    redis.Cmdable
	ring   ring // nil for any other client
	ttl    time.Duration
	prefix string
	max    int // bytes of a record
}

// NewRedisStore returns a RedisStore that uses any go-redis client: a Client, a ClusterClient, a Ring, a Sentinel
// client or an AutoPipeline. It does not connect. It reports all configuration mistakes at once, as an [errors.Join] of
// [*ConfigError] values.
//
// When a command gets no answer, the store asks a ClusterClient to look at its cluster again, so that a replica that takes
// over is used at once. An AutoPipeline hides its ClusterClient: set ClusterOptions.ClusterStateReloadInterval to 1s there.
// Nor does it obey Config.CommitTimeout: only the timeouts of the client below it bound its commands.
//
// A Ring takes a shard that is down out, and looks for its keys on the other shards. Until it is back, a session that is
// not found is an error and not a logout, and no session can be created. To keep the other shards fully usable, set
// RingOptions.HeartbeatFn to a function that always returns true. Do not call SetAddrs: sessions do not move to other
// shards, and if the number of shards changes, it is as if one were down.
func NewRedisStore(rdb redis.Cmdable, cfg RedisStoreConfig) (*RedisStore, error) {
	bad := check.Mistakes{New: configError}
	if check.IsNil(rdb) {
		bad.Add("rdb", "required: pass a go-redis client")
	} else if _, ok := rdb.(*redis.Pipeline); ok {
		bad.Add("rdb", "a Pipeline returns nothing before Exec: pass the client itself")
	} else if c, ok := rdb.(interface{ Options() *redis.ClusterOptions }); ok && readsReplicas(c.Options()) {
		bad.Add("rdb", "it reads from replicas, which may not have a change, or a logout, yet: "+
			"leave ReadOnly, RouteByLatency, RouteRandomly and ReplicaOnly unset")
	}
	switch {
	case cfg.TTL == 0:
		bad.Add("TTL", "required, because every key has a TTL: try 14 * 24 * time.Hour")
	case cfg.TTL < time.Millisecond:
		bad.Add("TTL", "%v: must be at least 1ms, the shortest expiry of Redis", cfg.TTL)
	}
	if cfg.MaxSize < 0 {
		bad.Add("MaxSize", "%d: must not be negative; 0 means 1 MiB", cfg.MaxSize)
	}
	if err := bad.Join(); err != nil {
		return nil, err
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "session:"
	}
	s := &RedisStore{rdb: rdb, ttl: cfg.TTL, prefix: cfg.Prefix, max: cmp.Or(cfg.MaxSize, 1<<20)}
	s.ring, _ = rdb.(ring)
	return s, nil
}

func readsReplicas(o *redis.ClusterOptions) bool {
	return o.ReadOnly || o.RouteByLatency || o.RouteRandomly
}

// ring is a [redis.Ring], or a type that embeds one.
type ring interface {
	Len() int // the shards that are up
	Options() *redis.RingOptions
}

// whole reports whether the ring has all its shards, so that it looks for each key where it was written.
func (s *RedisStore) whole() bool {
	return s.ring == nil || s.ring.Len() == len(s.ring.Options().Addrs)
}

// missed returns answer, the result of a command that found no key or created one, unless the ring may have used the
// wrong shard: one was down before the command (before is what whole returned then), or is down now. Then it returns an
// error.
//
// It does not see a shard that leaves and returns during one command. That takes several heartbeats, and the command
// must reach the other shard in between.
func (s *RedisStore) missed(op string, before bool, answer error) error {
	if before && s.whole() {
		return answer
	}
	return failedTo(op, errShardAway)
}

var errShardAway = errors.New("a shard of the Ring is down, or SetAddrs has changed the shards: keys are looked for in the wrong place until all are back; see NewRedisStore")

// String returns "redis", the name of the store in events.
func (s *RedisStore) String() string { return "redis" }

// Keyspace returns a value that is equal for two stores with the same client and prefix.
func (s *RedisStore) Keyspace() any { return redisKeyspace{s.rdb, s.prefix} }

type redisKeyspace struct {
	rdb    redis.Cmdable
	prefix string
}

// MaxTTL returns the configured TTL, to which the [Manager] shortens longer idle timeouts.
func (s *RedisStore) MaxTTL() time.Duration { return s.ttl }

func (s *RedisStore) key(id string) string { return s.prefix + id }

// lifetime returns how many milliseconds the key of a record may live: until the record expires, but no longer than the
// TTL. It returns 0 if the expiry has passed or is less than a millisecond away. What must outlive the copies of a session
// is not limited to the TTL: tombstones, and records that a DualStore needs for longer.
func (s *RedisStore) lifetime(rec *Record) int64 {
	now := time.Now()
	left := rec.Expires.Sub(now)
	if left < time.Millisecond {
		return 0
	}
	if !rec.Revoked {
		left = max(min(left, s.ttl), rec.keep.Sub(now))
	}
	return left.Milliseconds()
}

// limited returns the record with its idle timeout limited to the TTL. A Manager exceeds that only if a wrapper hides
// MaxTTL.
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
	whole := s.whole()
	text, err := s.rdb.Get(ctx, s.key(id)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, s.missed("load", whole, &NotFoundError{Outcome: OutcomeUnknown, SessionID: id, Detail: "there is no such key: it expired, or was deleted or evicted"})
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, SessionID: id, Detail: "the key holds another type: something else writes under the prefix of the sessions"}
	case err != nil:
		return nil, s.failed(ctx, "load", err)
	}
	rec, reason := s.parse(id, text)
	if rec == nil {
		return nil, &NotFoundError{Outcome: OutcomeUndecodable, SessionID: id, Detail: reason}
	}
	rec.Token = token
	if !rec.Revoked && !rec.alive(time.Now()) {
		return nil, &NotFoundError{Outcome: OutcomeExpired, SessionID: id, Expired: rec}
	}
	return rec, nil
}

// Alive reports whether the session with this public ID, as returned by [Session.ID], is alive: it has not expired, and
// was neither destroyed nor renewed. It costs one GET. An error means that Redis could not answer, or that the key is
// not a session.
func (s *RedisStore) Alive(ctx context.Context, id string) (bool, error) {
	whole := s.whole()
	text, err := s.rdb.Get(ctx, s.key(id)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return false, s.missed("alive", whole, nil)
	case err != nil:
		return false, s.failed(ctx, "alive", err)
	}
	rec, reason := s.parse(id, text)
	if rec == nil {
		return false, fmt.Errorf("sessions: redis: alive: %s", reason)
	}
	return !rec.Revoked && rec.alive(time.Now()), nil
}

// parse decodes a stored record and checks that it belongs to this key. If not, reason says why.
func (s *RedisStore) parse(id, text string) (rec *Record, reason string) {
	rec, err := parseStored(text)
	if err != nil {
		return nil, "the value is not a session record that this version can read"
	}
	if rec.ID != id {
		return nil, "the value is the record of another session"
	}
	return rec, ""
}

// Save writes a new record with SET NX, and the next version of one with a script. It implements [Store].
//
// If SET NX finds a key, a GET follows, to see whether an earlier run of the same command wrote it. A tombstone with
// base 0 is a SET.
func (s *RedisStore) Save(ctx context.Context, name string, rec *Record, base int64) (string, error) {
	rec = s.limited(rec)
	ms := s.lifetime(rec)
	if ms < 1 {
		return "", ErrGone
	}
	if rec.lineage.mark == "" && !rec.lineage.complete { // the record does not come from a Manager
		rec = rec.clone()
		rec.lineage.mark = newMark()
		rec.cookie = cmp.Or(rec.cookie, name)
	}
	mark, marks := rec.lineage.mark, rec.lineage.marks()
	if base == 0 && rec.lineage.fresh {
		marks = "" // a key that exists can only come from an earlier run of this command
	}
	text := rec.append(nil, storedStart, rec.ID, marks)
	if err := s.checkSize(rec, len(text)); err != nil {
		return "", err
	}
	if base == 0 {
		return s.create(ctx, rec, text, time.Duration(ms)*time.Millisecond)
	}
	args := []any{text, ms, string(append(appendVersion(make([]byte, 0, versionLength+markLength), base), mark...)), "keep"}
	if !isRecent(base, time.Now()) || rec.lineage.complete {
		args = args[:3] // the stored marks are too old to matter, or already in the record
	}
	whole := s.whole()
	answer, err := redisscript.Save.Run(ctx, s.rdb, []string{s.key(rec.ID)}, args...).Result()
	if err != nil {
		return "", s.failed(ctx, "save", err)
	}
	switch answer := answer.(type) {
	case int64:
		if answer == redisscript.Done {
			return rec.Token, nil
		}
		return "", s.missed("save", whole, ErrGone)
	case string:
		return "", s.conflict(rec, answer)
	}
	return "", fmt.Errorf("sessions: redis: save: unexpected answer of type %T", answer)
}

// checkSize returns [ErrTooLarge] for a record of this size in bytes. A tombstone is never too large.
func (s *RedisStore) checkSize(rec *Record, size int) error {
	if size <= s.max || rec.Revoked {
		return nil
	}
	return fmt.Errorf("%w: the record has %d bytes, and RedisStoreConfig.MaxSize is %d: store less in the session, or raise MaxSize",
		ErrTooLarge, size, s.max)
}

// fits returns the error with which Save would refuse the record for its size. A [DualStore] asks before it writes the
// record to its old store.
func (s *RedisStore) fits(rec *Record) error {
	const longest = 6 // bytes in JSON for one in a key
	if longest*(80+maxMarks*markLength+len(rec.cookie)+rec.valuesLength()) <= s.max {
		return nil
	}
	return s.checkSize(rec, len(rec.appendStored(nil)))
}

// create writes a record or a tombstone that need not replace another.
func (s *RedisStore) create(ctx context.Context, rec *Record, text []byte, ttl time.Duration) (string, error) {
	whole := s.whole()
	if !whole {
		return "", failedTo("save", errShardAway)
	}
	key := s.key(rec.ID)
	created, err := true, error(nil)
	if rec.Revoked {
		err = s.rdb.Set(ctx, key, text, ttl).Err()
	} else {
		created, err = s.rdb.SetNX(ctx, key, text, ttl).Result()
	}
	switch {
	case err != nil:
		return "", s.failed(ctx, "save", err)
	case !created:
		return s.exists(ctx, rec, text)
	}
	if err := s.missed("save", whole, nil); err != nil {
		return "", err
	}
	return rec.Token, nil
}

// exists handles a SET NX that found a key. An earlier run of the same command may have written it, if its reply was
// lost and the client sent it again.
func (s *RedisStore) exists(ctx context.Context, rec *Record, sent []byte) (string, error) {
	whole := s.whole()
	text, err := s.rdb.Get(ctx, s.key(rec.ID)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", s.missed("save", whole, ErrGone)
	case err != nil:
		return "", s.failed(ctx, "save", err)
	}
	current, _ := s.parse(rec.ID, text)
	if rec.lineage.fresh && text == string(sent) || current != nil && current.lineage.has(rec.lineage.mark) {
		return rec.Token, nil
	}
	return "", s.conflict(rec, text)
}

// conflict returns the error for a save that found another version.
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

// redisError is a failed operation with its cause.
type redisError struct {
	op    string
	cause error
}

func (e *redisError) Error() string { return "sessions: redis: " + e.op + ": " + e.cause.Error() }

func (e *redisError) Unwrap() error { return e.cause }

// failed returns the error for a failed operation. If no server has answered, the cluster may have changed: go-redis would
// notice that a replica has taken over only when its view of the cluster is a minute old, so it is asked to look again.
// It does so in the background, once for all who ask meanwhile.
func (s *RedisStore) failed(ctx context.Context, op string, cause error) error {
	var answer redis.Error
	if c, ok := s.rdb.(interface{ ReloadState(context.Context) }); ok && !errors.As(cause, &answer) && !errors.Is(cause, context.Canceled) {
		c.ReloadState(ctx)
	}
	return failedTo(op, cause)
}

// failedTo returns the error for a failed operation. It omits what Redis or its client quotes of a command or a reply,
// which may contain session keys and values.
func failedTo(op string, cause error) error { return &redisError{op, unquoted(cause)} }

func unquoted(cause error) error {
	text := cause.Error()
	var number *strconv.NumError // quotes a reply that is not a number
	if before, _, cut := strings.Cut(text, ", with args beginning with"); cut {
		cause = refusal(before)
	} else if errors.As(cause, &number) || strings.HasPrefix(text, "redis: ") && strings.ContainsRune(text, '"') && errors.Unwrap(cause) == nil {
		cause = errors.New("cannot parse the reply")
	}
	return cause
}

// refusal is an error reply of Redis, cut before what it quotes.
type refusal string

func (e refusal) Error() string { return string(e) }

// RedisError marks it as a [redis.Error].
func (e refusal) RedisError() {}

// Touch extends the expiry, in the record and of the key, with one script. It implements [Store].
func (s *RedisStore) Touch(ctx context.Context, _ string, rec *Record) (string, error) {
	rec = s.limited(rec)
	ms := s.lifetime(rec)
	if ms < 1 {
		return "", ErrGone
	}
	whole := s.whole()
	answer, err := redisscript.Touch.Run(ctx, s.rdb, []string{s.key(rec.ID)},
		string(appendVersion(nil, rec.Version)), ms,
		string(appendNumber(rec.appendExpiry(make([]byte, 0, 3*numberLength)), time.Now().UnixMilli()))).Int64()
	if err != nil {
		return "", s.failed(ctx, "touch", err)
	}
	if answer == redisscript.Missing {
		return "", s.missed("touch", whole, ErrGone)
	}
	return rec.Token, nil
}

// Delete deletes a record with one script, whatever its version. It leaves no tombstone: a late write finds no key, and
// no script creates one. The tombstone of a renewal stays, and Delete returns [ErrGone]. It implements [Store].
func (s *RedisStore) Delete(ctx context.Context, _ string, rec *Record) error {
	key := s.key(rec.ID)
	whole := s.whole()
	answer, err := redisscript.Delete.Run(ctx, s.rdb, []string{key}).Result()
	text, found := answer.(string)
	switch {
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return s.drop(ctx, key) // not a session
	case err != nil:
		return s.failed(ctx, "delete", err)
	case answer == int64(redisscript.Missing):
		return s.missed("delete", whole, nil)
	case !found: // deleted now
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
		return s.failed(ctx, "delete", err)
	}
	return nil
}
