package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions/internal/redisscript"
	"handover.example/sessions/internal/texttable"
)

// RedisHealth is what [RedisStore.Check] found, added up over all masters of a cluster or all shards of a ring. What
// the server does not tell is empty or zero. Print it, or marshal it to JSON.
type RedisHealth struct {
	// Policy is the maxmemory_policy, as INFO shows it. Nodes that differ are separated by commas.
	Policy string `json:"policy"`
	// PolicyVerdict is "ok", "wrong" or "unknown"; see [RedisStore.Check].
	PolicyVerdict string `json:"policy_verdict"`
	// PolicyReason says why, and what to set.
	PolicyReason string `json:"policy_reason"`

	// Version is that of the server, Role "master" or "replica". Nodes that differ are separated by commas.
	Version string `json:"version"`
	Role    string `json:"role"`
	// Nodes is how many servers have answered.
	Nodes int `json:"nodes"`

	// UsedMemory and MaxMemory are in bytes. A MaxMemory of 0 is no limit.
	UsedMemory int64 `json:"used_memory"`
	MaxMemory  int64 `json:"max_memory"`

	// Keys counts the keys of the client's database, those of others among them; KeysWithoutTTL those that never go
	// away by themselves. Where the client does not tell its database, all of them are counted. Both are exact.
	Keys           int64 `json:"keys"`
	KeysWithoutTTL int64 `json:"keys_without_ttl"`
	// EvictedKeys counts the keys evicted because memory was full, since the server started.
	EvictedKeys int64 `json:"evicted_keys"`

	// ReplicaReads reports whether a replica may answer reads: by the options of the client, or because the node is one.
	ReplicaReads bool `json:"replica_reads"`

	// Warnings say what else is wrong, and what to do, in plain words.
	Warnings []string `json:"warnings,omitempty"`
}

// Check checks every node with one INFO command, for use at start and on health pages. It never uses CONFIG, which
// hosted services refuse.
//
// The one maxmemory-policy that is right for sessions is noeviction. Every session has a TTL, so under any other policy
// sessions are what Redis evicts when memory is full, whatever has filled it: people are logged out, and the tombstones
// of sessions that were ended are forgotten. Under noeviction new logins fail while Redis is full; reading and logging
// out go on. The verdict is "unknown" where the host hides the policy: look at its settings, and go on.
//
// The error is that of a node that did not answer. A server that refuses INFO is not an error: its verdict is
// "unknown".
func (s *RedisStore) Check(ctx context.Context) (RedisHealth, error) {
	var h RedisHealth
	var mu sync.Mutex
	policies := map[string]bool{}
	alone := false
	err := s.eachNode(ctx, func(ctx context.Context, node redis.Cmdable) error {
		text, err := node.Info(ctx).Result()
		if redis.HasErrorPrefix(err, "NOPERM") || redis.HasErrorPrefix(err, "ERR unknown command") {
			text, err = "", nil // forbidden, or not there
		}
		if err != nil {
			return err
		}
		info := parseInfo(text)
		mu.Lock()
		defer mu.Unlock()
		h.addNode(info, database(node))
		policies[info["maxmemory_policy"]] = true
		alone = alone || s.seesOneOfMany(info)
		return nil
	})
	if err != nil {
		return h, failedTo("check", err)
	}
	if c, ok := s.rdb.(interface{ Options() *redis.ClusterOptions }); ok {
		o := c.Options()
		h.ReplicaReads = h.ReplicaReads || o.ReadOnly || o.RouteByLatency || o.RouteRandomly
	}
	h.judge(policies)
	if alone {
		h.Warnings = append(h.Warnings, "these are the figures of one node of a cluster: give NewRedisStore the ClusterClient itself to see all")
	}
	return h, nil
}

// eachNode calls fn, possibly at the same time, for each server that holds sessions.
func (s *RedisStore) eachNode(ctx context.Context, fn func(context.Context, redis.Cmdable) error) error {
	each := func(ctx context.Context, c *redis.Client) error { return fn(ctx, c) }
	switch rdb := s.rdb.(type) {
	case interface { // a cluster; it has ForEachShard as well, which visits replicas
		ForEachMaster(context.Context, func(context.Context, *redis.Client) error) error
	}:
		return rdb.ForEachMaster(ctx, each)
	case interface {
		ForEachShard(context.Context, func(context.Context, *redis.Client) error) error
	}:
		return rdb.ForEachShard(ctx, each)
	}
	return fn(ctx, s.rdb)
}

// database returns the number of the client's database, or -1 if the client does not tell.
func database(node redis.Cmdable) int {
	if c, ok := node.(interface{ Options() *redis.Options }); ok {
		return c.Options().DB
	}
	return -1
}

// seesOneOfMany reports whether a client that hides what is behind it, such as an AutoPipeline, stands for a cluster:
// each command without a key then goes to any one of the nodes.
func (s *RedisStore) seesOneOfMany(info map[string]string) bool {
	if info["cluster_enabled"] != "1" && info["redis_mode"] != "cluster" {
		return false
	}
	switch s.rdb.(type) {
	case interface{ Options() *redis.Options }, interface{ Options() *redis.ClusterOptions }, interface{ Options() *redis.RingOptions }:
		return false
	}
	return true
}

func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

func (h *RedisHealth) addNode(info map[string]string, db int) {
	h.Nodes++
	h.UsedMemory += number(info["used_memory"])
	h.MaxMemory += number(info["maxmemory"])
	h.EvictedKeys += number(info["evicted_keys"])
	h.Version = addWord(h.Version, info["redis_version"])
	role := info["role"]
	if role == "slave" {
		role, h.ReplicaReads = "replica", true
	}
	h.Role = addWord(h.Role, role)
	for name, value := range info {
		n, ok := strings.CutPrefix(name, "db")
		if i, err := strconv.Atoi(n); !ok || err != nil || db >= 0 && i != db {
			continue
		}
		var keys, expires int64
		for field := range strings.SplitSeq(value, ",") { // by name: newer servers add fields
			switch k, v, _ := strings.Cut(field, "="); k {
			case "keys":
				keys = number(v)
			case "expires":
				expires = number(v)
			}
		}
		h.Keys += keys
		h.KeysWithoutTTL += max(0, keys-expires)
	}
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// addWord adds a word to a list that does not have it yet.
func addWord(list, word string) string {
	switch {
	case word == "" || slices.Contains(strings.Split(list, ", "), word):
		return list
	case list == "":
		return word
	}
	return list + ", " + word
}

func (h *RedisHealth) judge(policies map[string]bool) {
	h.PolicyVerdict, h.PolicyReason = "unknown", "the server does not show its maxmemory_policy: look it up where it is hosted, it must be noeviction"
	if len(policies) > 0 && !policies[""] {
		h.PolicyVerdict, h.PolicyReason = "ok", "nothing is evicted: when memory is full, new logins fail, and nobody is logged out"
	}
	for p := range policies {
		h.Policy = addWord(h.Policy, p)
	}
	words := strings.Split(h.Policy, ", ")
	slices.Sort(words)
	h.Policy = strings.Join(words, ", ")
	for _, p := range words {
		switch {
		case p == "noeviction" || p == "":
		case strings.HasPrefix(p, "allkeys-"), strings.HasPrefix(p, "volatile-"):
			h.PolicyVerdict = "wrong"
			h.PolicyReason = p + " may evict sessions when memory is full: people are logged out, and sessions that were ended are forgotten as ended. " +
				"Set maxmemory-policy to noeviction, and keep nothing else in this Redis"
		case h.PolicyVerdict != "wrong":
			h.PolicyVerdict, h.PolicyReason = "unknown", "a policy that this version does not know: set maxmemory-policy to noeviction"
		}
	}

	warn := func(format string, args ...any) { h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...)) }
	if strings.Contains(h.Role, "replica") {
		warn("a node is a replica: it refuses writes, and may not have a logout yet; connect to the master")
	} else if h.ReplicaReads {
		warn("the client may read from replicas, which may not have a logout yet: leave ReadOnly, RouteByLatency and RouteRandomly unset")
	}
	if h.EvictedKeys > 0 {
		warn("%d keys were evicted since the server started: those that were sessions ended without a trace", h.EvictedKeys)
	}
	if h.KeysWithoutTTL > 0 {
		warn("%d keys have no TTL and stay until somebody deletes them: Audit tells whether they are sessions", h.KeysWithoutTTL)
	}
	switch {
	case h.MaxMemory == 0 && h.UsedMemory > 0:
		warn("maxmemory is not set: at the end of the machine's memory the server is killed, with every session that it holds; set a limit")
	case h.MaxMemory > 0 && float64(h.UsedMemory) > 0.9*float64(h.MaxMemory):
		warn("more than 90%% of maxmemory is used: at the limit new logins fail")
	}
}

// String returns the figures as a small table for a terminal.
func (h RedisHealth) String() string { return h.table().String() }

// Rows returns the rows of the table that String prints, a name and a value each, to show them in another form. A row
// that continues the one above has an empty name. What the server says of itself is without control characters.
func (h RedisHealth) Rows() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, row := range h.table() {
			if !yield(row[0], row[1]) {
				return
			}
		}
	}
}

func (h RedisHealth) table() (t texttable.Table) {
	limit := "no limit"
	if h.MaxMemory > 0 {
		limit = "of " + megabytes(h.MaxMemory)
	}
	t.Row("redis", "%s, %s, nodes: %d", orUnknown(h.Version), orUnknown(h.Role), h.Nodes)
	t.Row("memory", "%s used, %s", megabytes(h.UsedMemory), limit)
	t.Row("policy", "%s: %s", h.PolicyVerdict, orUnknown(h.Policy))
	t.Row("", "%s", h.PolicyReason)
	t.Row("keys", "%d", h.Keys)
	t.Row("keys without TTL", "%d", h.KeysWithoutTTL)
	t.Row("evicted keys", "%d", h.EvictedKeys)
	t.Row("replica reads", "%s", yesNo(h.ReplicaReads))
	for _, w := range h.Warnings {
		t.Row("warning", "%s", w)
	}
	return t
}

// RedisAudit is what [RedisStore.Audit] and [RedisStore.Repair] found. Print it, or marshal it to JSON.
type RedisAudit struct {
	// Prefix is what the keys that were looked at begin with.
	Prefix string `json:"prefix"`
	// Keys counts them. SCAN may show a key twice while the server resizes its table, and need not show one that came
	// or went meanwhile.
	Keys int64 `json:"keys"`
	// KeysWithoutTTL counts those that never go away by themselves. This library never writes such a key.
	KeysWithoutTTL int64 `json:"keys_without_ttl"`
	// Repaired counts those that Repair has given a TTL.
	Repaired int64 `json:"repaired"`
	// Foreign counts the keys that are not named as this library names its own: something else writes here as well.
	Foreign int64 `json:"foreign"`
	// Skipped counts the keys that were on their way to another node of the cluster. Run it again for those.
	Skipped int64 `json:"skipped"`
	// ShortestTTL and LongestTTL are those among the keys that have one; zero if there is none. In JSON they are texts,
	// such as "1h30m0s".
	ShortestTTL time.Duration `json:"shortest_ttl"`
	LongestTTL  time.Duration `json:"longest_ttl"`
	// SessionIDs are the IDs of up to ten sessions without a TTL. Names that are not ours are not shown: with other
	// libraries the name of the key is the secret.
	SessionIDs []string `json:"session_ids_without_ttl,omitempty"`
}

// redisAuditJSON is a RedisAudit in JSON: its own durations hide those of the RedisAudit.
type redisAuditJSON struct {
	*plainRedisAudit
	ShortestTTL jsonDuration `json:"shortest_ttl"`
	LongestTTL  jsonDuration `json:"longest_ttl"`
}

type plainRedisAudit RedisAudit // without its methods

func (a *RedisAudit) json() redisAuditJSON {
	return redisAuditJSON{(*plainRedisAudit)(a), jsonDuration(a.ShortestTTL), jsonDuration(a.LongestTTL)}
}

// MarshalJSON writes the durations as "1h30m0s".
func (a RedisAudit) MarshalJSON() ([]byte, error) { return json.Marshal(a.json()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (a *RedisAudit) UnmarshalJSON(text []byte) error {
	read := *a
	j := read.json()
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*a = read
	a.ShortestTTL, a.LongestTTL = time.Duration(j.ShortestTTL), time.Duration(j.LongestTTL)
	return nil
}

const (
	auditBatch   = 500 // keys for each SCAN: about a millisecond of the server's time
	auditSamples = 10
)

// Audit looks at the TTL of every key under the prefix, with SCAN and pipelined PTTLs, and changes nothing. It takes
// some 5 seconds of the server for each million keys in its database, in steps of about a millisecond, and little
// memory here. [RedisStore.Check] counts keys without a TTL at once, but not by prefix.
//
// Each progress function is called after each batch with the figures so far. It must be quick: the walk waits for it.
// After an error the figures are those up to it.
func (s *RedisStore) Audit(ctx context.Context, progress ...func(RedisAudit)) (RedisAudit, error) {
	return s.walk(ctx, false, progress)
}

// Repair is an [RedisStore.Audit] that also sets the TTL of the store on each key under the prefix that has none, in
// one step on the server. Existing TTLs become neither longer nor shorter. Foreign keys are repaired as well, and so
// expire one day: run Audit first, and find out whether another program needs them.
func (s *RedisStore) Repair(ctx context.Context, progress ...func(RedisAudit)) (RedisAudit, error) {
	return s.walk(ctx, true, progress)
}

func (s *RedisStore) walk(ctx context.Context, repair bool, progress []func(RedisAudit)) (RedisAudit, error) {
	sum := RedisAudit{Prefix: s.prefix}
	var mu sync.Mutex
	err := s.eachNode(ctx, func(ctx context.Context, node redis.Cmdable) error {
		if database(node) < 0 {
			info, err := node.Info(ctx).Result()
			if err == nil && s.seesOneOfMany(parseInfo(info)) {
				return errors.New("this client shows one node of a cluster at a time: give NewRedisStore the ClusterClient itself")
			}
		}
		return s.scan(ctx, node, repair, func(batch *RedisAudit) {
			mu.Lock()
			defer mu.Unlock()
			sum.add(batch)
			for _, f := range progress {
				seen := sum
				seen.SessionIDs = slices.Clone(sum.SessionIDs)
				f(seen)
			}
		})
	})
	if err != nil {
		what := "audit"
		if repair {
			what = "repair"
		}
		return sum, failedTo(what, err)
	}
	return sum, nil
}

// scan walks the keys of one node.
func (s *RedisStore) scan(ctx context.Context, node redis.Cmdable, repair bool, done func(*RedisAudit)) error {
	match := globEscaper.Replace(s.prefix) + "*"
	for cursor := uint64(0); ; {
		keys, next, err := node.Scan(ctx, cursor, match, auditBatch).Result()
		if err != nil {
			return err
		}
		batch, err := s.audit(ctx, node, keys, repair)
		done(batch)
		if err != nil {
			return err
		}
		if next == 0 {
			return nil
		}
		cursor = next
	}
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// audit looks at a few keys of one node.
func (s *RedisStore) audit(ctx context.Context, node redis.Cmdable, keys []string, repair bool) (*RedisAudit, error) {
	a := &RedisAudit{}
	answers, err := pipelined(ctx, node, keys, func(pipe redis.Pipeliner, key string) {
		_ = pipe.Process(ctx, redis.NewIntCmd(ctx, "pttl", key)) // not PTTL, which cannot hold more than 292 years
	})
	if err != nil {
		return a, err
	}
	var bare []string
	for i, key := range keys {
		ms, err := answers[i].(*redis.IntCmd).Result()
		switch {
		case err != nil:
			a.Skipped++
			continue
		case ms == -2: // gone since
			continue
		}
		a.Keys++
		id, ours := s.sessionID(key)
		if !ours {
			a.Foreign++
		}
		if ms >= 0 {
			ttl := time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
			ttl = max(ttl, 1) // as good as gone, but not without
			a.addTTL(ttl, ttl)
			continue
		}
		a.KeysWithoutTTL++
		bare = append(bare, key)
		if ours && len(a.SessionIDs) < auditSamples {
			a.SessionIDs = append(a.SessionIDs, id)
		}
	}
	if !repair || len(bare) == 0 {
		return a, nil
	}
	answers, err = pipelined(ctx, node, bare, func(pipe redis.Pipeliner, key string) {
		redisscript.GiveTTL.Eval(ctx, pipe, []string{key}, s.ttl.Milliseconds()) // the short text: EVALSHA in a pipeline may miss
	})
	if err != nil {
		return a, err
	}
	for _, answer := range answers {
		switch n, err := answer.(*redis.Cmd).Int64(); {
		case err != nil:
			a.Skipped++
		default:
			a.Repaired += n
		}
	}
	return a, nil
}

// pipelined sends one command for each key. That a key has moved to another node is left to the caller; any other
// error ends the walk.
func pipelined(ctx context.Context, node redis.Cmdable, keys []string, add func(redis.Pipeliner, string)) ([]redis.Cmder, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	pipe := node.Pipeline()
	for _, key := range keys {
		add(pipe, key)
	}
	answers, err := pipe.Exec(ctx)
	if err == nil {
		return answers, nil
	}
	for _, a := range answers {
		if err := a.Err(); err != nil && !redis.HasErrorPrefix(err, "MOVED") && !redis.HasErrorPrefix(err, "ASK") && !redis.HasErrorPrefix(err, "TRYAGAIN") {
			return nil, err
		}
	}
	return answers, nil
}

// sessionID returns the ID of the session that a key holds, and reports whether the key is named as ours are.
func (s *RedisStore) sessionID(key string) (id string, ours bool) {
	id = strings.TrimPrefix(key, s.prefix)
	_, ours = TokenID(id) // an ID has the shape of a token
	return id, ours
}

func (a *RedisAudit) addTTL(shortest, longest time.Duration) {
	if a.ShortestTTL == 0 || shortest < a.ShortestTTL {
		a.ShortestTTL = shortest
	}
	a.LongestTTL = max(a.LongestTTL, longest)
}

func (a *RedisAudit) add(b *RedisAudit) {
	a.Keys += b.Keys
	a.KeysWithoutTTL += b.KeysWithoutTTL
	a.Repaired += b.Repaired
	a.Foreign += b.Foreign
	a.Skipped += b.Skipped
	if b.LongestTTL > 0 {
		a.addTTL(b.ShortestTTL, b.LongestTTL)
	}
	room := auditSamples - len(a.SessionIDs)
	a.SessionIDs = append(a.SessionIDs, b.SessionIDs[:min(room, len(b.SessionIDs))]...)
}

// String returns the figures as a small table for a terminal.
func (a RedisAudit) String() string {
	var t texttable.Table
	t.Row("keys under "+strconv.Quote(a.Prefix), "%d", a.Keys)
	t.Row("keys without TTL", "%d", a.KeysWithoutTTL)
	t.Row("repaired", "%d", a.Repaired)
	t.Row("foreign keys", "%d", a.Foreign)
	if a.Skipped > 0 {
		t.Row("skipped", "%d, on their way to another node: run it again", a.Skipped)
	}
	ttls := "none"
	if a.LongestTTL > 0 {
		ttls = a.ShortestTTL.String() + " to " + a.LongestTTL.String()
	}
	t.Row("TTLs", "%s", ttls)
	for _, id := range a.SessionIDs {
		t.Row("without TTL", "%s", id)
	}
	return t.String()
}

// jsonDuration is a duration that is a text in JSON, such as "1.5ms": people read it, and no unit is in doubt.
type jsonDuration time.Duration

func (d jsonDuration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *jsonDuration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("sessions: %q is not a duration such as \"1.5ms\"", text)
	}
	*d = jsonDuration(v)
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }
