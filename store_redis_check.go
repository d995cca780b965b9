package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions/internal/redisinfo"
	"handover.example/sessions/internal/redisscript"
	"handover.example/sessions/internal/texttable"
)

// RedisHealth is the result of [RedisStore.Check], summed over all masters of a cluster or all shards of a ring. A
// field that the server does not report is empty or zero. Print it, or marshal it to JSON.
type RedisHealth struct {
	// Policy is the maxmemory_policy as reported by INFO. If nodes differ, the values are separated by commas.
	Policy string `json:"policy"`
	// PolicyVerdict is "ok", "wrong" or "unknown"; see [RedisStore.Check].
	PolicyVerdict string `json:"policy_verdict"`
	// PolicyReason explains the verdict, and what to set.
	PolicyReason string `json:"policy_reason"`

	// Version is the server version, and Role is "master" or "replica". If nodes differ, the values are separated by
	// commas.
	Version string `json:"version"`
	Role    string `json:"role"`
	// Nodes is the number of servers that answered.
	Nodes int `json:"nodes"`

	// UsedMemory and MaxMemory are in bytes. A MaxMemory of 0 means no limit. Warnings judge each node by its own limit.
	UsedMemory int64 `json:"used_memory"`
	MaxMemory  int64 `json:"max_memory"`

	// Keys is the number of keys in the client's database, including those of other programs, and KeysWithoutTTL the
	// number of those that never expire. If the client does not report its database, both count all databases. Both are
	// exact.
	Keys           int64 `json:"keys"`
	KeysWithoutTTL int64 `json:"keys_without_ttl"`
	// EvictedKeys is the number of keys evicted because memory was full, since the server started.
	EvictedKeys int64 `json:"evicted_keys"`

	// ReplicaReads reports whether a replica answers reads, because a node is one.
	ReplicaReads bool `json:"replica_reads"`

	// Warnings list what else is wrong and what to do, in plain words.
	Warnings []string `json:"warnings,omitempty"`
}

// Check checks every node with one pipeline: INFO, and the commands that sessions need, on a key that does not exist. It
// writes nothing. Use it at start and for health pages. It never uses CONFIG, which hosted services refuse.
//
// The only maxmemory-policy that suits sessions is noeviction. Every session has a TTL, so any other policy lets Redis
// evict sessions when memory is full, whatever filled it: users are logged out, and the tombstones of ended sessions
// are lost. Under noeviction, new logins fail while Redis is full; reads and logouts still work. The verdict is
// "unknown" if the host hides the policy: look it up in the host's settings.
//
// A command that a server or its ACL refuses is a warning, and so is a client that reaches only one node of a cluster.
// Check returns an error if a node did not answer, if a shard of a Ring is down, and if the server is a sentinel. A
// server that refuses INFO is not an error: its verdict is "unknown".
func (s *RedisStore) Check(ctx context.Context) (RedisHealth, error) {
	var h RedisHealth
	var mu sync.Mutex
	var nodes []nodeHealth
	err := s.eachNode(ctx, func(ctx context.Context, node redis.Cmdable) error {
		n, err := s.look(ctx, node)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, n)
		h.addNode(n.info, database(node))
		return nil
	})
	if err != nil {
		return h, s.failed(ctx, "check", err)
	}
	h.judge(nodes)
	if slices.ContainsFunc(nodes, func(n nodeHealth) bool { return n.cluster }) && s.oneNode() != "" {
		h.Warnings = append(h.Warnings, s.oneNode())
	}
	return h, nil
}

// nodeHealth is what one server reports.
type nodeHealth struct {
	info    redisinfo.Info
	cluster bool
	refused []string // commands that sessions need
	reason  string   // why it refuses the first of them
}

// look asks one server.
func (s *RedisStore) look(ctx context.Context, node redis.Cmdable) (nodeHealth, error) {
	id, _ := TokenID(NewToken()) // of no session
	keys := []string{s.key(id)}
	pipe := node.Pipeline()
	info := pipe.Info(ctx)
	needed := []redis.Cmder{
		pipe.Get(ctx, keys[0]),
		pipe.SetArgs(ctx, keys[0], "", redis.SetArgs{Mode: "XX", TTL: time.Second}),
		pipe.Del(ctx, keys[0]),
		pipe.PExpire(ctx, keys[0], time.Second),
		redisscript.Delete.Eval(ctx, pipe, keys),
		redisscript.Delete.EvalSha(ctx, pipe, keys),
	}
	if _, err := exec(ctx, pipe); err != nil {
		return nodeHealth{}, err
	}
	text, err := info.Result()
	if err != nil && !redis.HasErrorPrefix(err, "NOPERM") && !redis.HasErrorPrefix(err, "ERR unknown command") { // INFO is neither forbidden nor missing
		return nodeHealth{}, err
	}
	n := nodeHealth{info: redisinfo.Parse(text)}
	if n.info.Sentinel() {
		return n, errSentinel(n.info)
	}
	n.cluster = n.info.Cluster()
	for _, cmd := range needed {
		err, name := cmd.Err(), strings.ToUpper(cmd.Name())
		var answer redis.Error
		switch {
		case err == nil, errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "NOSCRIPT"): // EVAL did not load it
		case !errors.As(err, &answer):
			return n, err
		case redis.HasErrorPrefix(err, "MOVED"), redis.HasErrorPrefix(err, "ASK"):
			n.cluster = true
		case redis.HasErrorPrefix(err, "READONLY") && n.info["role"] == "slave":
		case slices.Contains(n.refused, "GET") && strings.Contains(err.Error(), "script"): // the GET in the script is refused
		default:
			if n.refused = append(n.refused, name); n.reason == "" {
				n.reason = unquoted(err).Error()
			}
		}
	}
	return n, nil
}

// exec sends a pipeline. Its error is not that of a command: go-redis assigns the refusal of a login to no command.
func exec(ctx context.Context, pipe redis.Pipeliner) ([]redis.Cmder, error) {
	answers, err := pipe.Exec(ctx)
	if slices.ContainsFunc(answers, func(a redis.Cmder) bool { return a.Err() != nil }) {
		return answers, nil
	}
	return answers, err
}

func errSentinel(info redisinfo.Info) error {
	master := "unknown"
	if addrs := info.Masters(); len(addrs) > 0 {
		master = strings.Join(addrs, ", ")
	}
	return fmt.Errorf("this is a sentinel, whose master is at %s: use redis.NewFailoverClient with its address", master)
}

// eachNode calls fn, possibly concurrently, for each server that holds sessions.
func (s *RedisStore) eachNode(ctx context.Context, fn func(context.Context, redis.Cmdable) error) error {
	var visited atomic.Int64
	each := func(ctx context.Context, c *redis.Client) error {
		visited.Add(1)
		return fn(ctx, c)
	}
	switch rdb := s.rdb.(type) {
	case interface { // a cluster; it has ForEachShard as well, which visits replicas
		ForEachMaster(context.Context, func(context.Context, *redis.Client) error) error
	}:
		return rdb.ForEachMaster(ctx, each)
	case interface { // a ring: it leaves out the shards that are down
		ring
		ForEachShard(context.Context, func(context.Context, *redis.Client) error) error
	}:
		err := rdb.ForEachShard(ctx, each)
		if all := len(rdb.Options().Addrs); err == nil && int(visited.Load()) != all {
			return fmt.Errorf("%d of %d shards answered: %w", visited.Load(), all, errShardAway)
		}
		return err
	}
	return fn(ctx, s.rdb)
}

// database returns the number of the client's database, or -1 if the client does not report it.
func database(node redis.Cmdable) int {
	if c, ok := node.(interface{ Options() *redis.Options }); ok {
		return c.Options().DB
	}
	return -1
}

// oneNode returns what is wrong if the servers turn out to be nodes of a cluster, or "" if this is a client of clusters. A
// client that hides its server, such as an AutoPipeline, may be one: each command without a key then goes to an
// arbitrary node.
func (s *RedisStore) oneNode() string {
	switch s.rdb.(type) {
	case interface{ Options() *redis.ClusterOptions }:
		return ""
	case interface{ Options() *redis.Options }, interface{ Options() *redis.RingOptions }:
		return "this is a node of a cluster, and the client does not reach the others: sessions there fail; pass a ClusterClient to NewRedisStore"
	}
	return "these figures are from one node of a cluster: pass the ClusterClient itself to NewRedisStore to see all nodes"
}

func (h *RedisHealth) addNode(info redisinfo.Info, db int) {
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
		for field := range strings.SplitSeq(value, ",") { // match by name: newer servers add fields
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

// addWord adds a word to a list unless the list has it.
func addWord(list, word string) string {
	switch {
	case word == "" || slices.Contains(strings.Split(list, ", "), word):
		return list
	case list == "":
		return word
	}
	return list + ", " + word
}

func (h *RedisHealth) judge(nodes []nodeHealth) {
	policies := map[string]bool{}
	var unlimited, full int
	refusals := map[string]int{}
	for _, n := range nodes {
		policies[n.info["maxmemory_policy"]] = true
		used, limit := number(n.info["used_memory"]), number(n.info["maxmemory"])
		switch {
		case limit == 0 && used > 0:
			unlimited++
		case limit > 0 && float64(used) > 0.9*float64(limit):
			full++
		}
		if n.refused != nil {
			refusals[strings.Join(n.refused, ", ")+", which sessions need: "+n.reason]++
		}
	}
	h.PolicyVerdict, h.PolicyReason = "unknown", "the server does not report its maxmemory_policy: look it up in the host's settings; it must be noeviction"
	if len(policies) > 0 && !policies[""] {
		h.PolicyVerdict, h.PolicyReason = "ok", "no key is evicted: when memory is full, new logins fail, but nobody is logged out"
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
			h.PolicyReason = p + " may evict sessions when memory is full: users are logged out, and ended sessions can come back. " +
				"Set maxmemory-policy to noeviction, and keep nothing else in this Redis"
		case h.PolicyVerdict != "wrong":
			h.PolicyVerdict, h.PolicyReason = "unknown", "unknown policy: set maxmemory-policy to noeviction"
		}
	}

	warn := func(format string, args ...any) { h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...)) }
	if strings.Contains(h.Role, "replica") {
		warn("a node is a replica: it refuses writes, and may not have a logout yet; connect to the master")
	}
	if h.EvictedKeys > 0 {
		warn("%d keys have been evicted since the server started: any sessions among them were lost without a trace", h.EvictedKeys)
	}
	if h.KeysWithoutTTL > 0 {
		warn("%d keys have no TTL and stay until they are deleted: run Audit to see whether they are sessions", h.KeysWithoutTTL)
	}
	on := func(n int) string {
		if len(nodes) == 1 {
			return ""
		}
		return fmt.Sprintf(" on %d of %d nodes", n, len(nodes))
	}
	if unlimited > 0 {
		warn("maxmemory is not set%s: when the machine runs out of memory, the server is killed and its sessions may be lost; set a limit", on(unlimited))
	}
	if full > 0 {
		warn("more than 90%% of maxmemory is used%s: at the limit, new logins fail", on(full))
	}
	for _, what := range slices.Sorted(maps.Keys(refusals)) {
		if who := fmt.Sprintf("%d of %d nodes refuse", refusals[what], len(nodes)); len(nodes) > 1 {
			warn("%s %s", who, what)
		} else {
			warn("the server refuses %s", what)
		}
	}
}

// String returns the figures as a table for a terminal.
func (h RedisHealth) String() string { return h.table().String() }

// Rows iterates over the rows of the table that String returns, as names and values, to show them in another form. A
// row that continues the previous one has an empty name. Text from the server has no control characters.
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

// RedisAudit is the result of [RedisStore.Audit] and [RedisStore.Repair]. Print it, or marshal it to JSON.
type RedisAudit struct {
	// Prefix is the prefix of the audited keys.
	Prefix string `json:"prefix"`
	// Keys is the number of keys. SCAN may return a key twice while the server resizes its table, and may miss a key
	// that is created or deleted meanwhile.
	Keys int64 `json:"keys"`
	// KeysWithoutTTL is the number of keys that never expire. This library never writes such a key.
	KeysWithoutTTL int64 `json:"keys_without_ttl"`
	// Repaired is the number of keys to which Repair gave a TTL.
	Repaired int64 `json:"repaired"`
	// Foreign is the number of keys that this library did not name: another program uses the prefix as well.
	Foreign int64 `json:"foreign"`
	// Skipped is the number of keys that were moving to another node of the cluster. Run the audit again for those.
	Skipped int64 `json:"skipped"`
	// ShortestTTL and LongestTTL are the extremes among the keys that have a TTL; zero if there are none. In JSON they
	// are strings, such as "1h30m0s".
	ShortestTTL time.Duration `json:"shortest_ttl"`
	LongestTTL  time.Duration `json:"longest_ttl"`
	// SessionIDs are the IDs of up to ten sessions without a TTL. Foreign keys are not shown: other libraries use the
	// secret itself as the name of the key.
	SessionIDs []string `json:"session_ids_without_ttl,omitempty"`
}

// redisAuditJSON is the JSON form of a RedisAudit: its durations shadow those of the RedisAudit.
type redisAuditJSON struct {
	*plainRedisAudit
	ShortestTTL jsonDuration `json:"shortest_ttl"`
	LongestTTL  jsonDuration `json:"longest_ttl"`
}

type plainRedisAudit RedisAudit // without its methods

func (a *RedisAudit) json() redisAuditJSON {
	return redisAuditJSON{(*plainRedisAudit)(a), jsonDuration(a.ShortestTTL), jsonDuration(a.LongestTTL)}
}

// MarshalJSON encodes durations as strings, such as "1h30m0s".
func (a RedisAudit) MarshalJSON() ([]byte, error) { return json.Marshal(a.json()) }

// UnmarshalJSON decodes the output of MarshalJSON.
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
	auditBatch   = 500 // keys per SCAN: about a millisecond of the server's time
	auditSamples = 10
)

// Audit checks the TTL of every key under the prefix, with SCAN and pipelined PTTLs, and changes nothing. It takes
// about 5 seconds of server time per million keys in the database, in steps of about a millisecond, and little client
// memory. [RedisStore.Check] counts keys without a TTL at once, but not by prefix.
//
// Audit calls each progress function after each batch with the figures so far, and waits for it to return. If Audit
// returns an error, the figures are those up to that point.
func (s *RedisStore) Audit(ctx context.Context, progress ...func(RedisAudit)) (RedisAudit, error) {
	return s.walk(ctx, false, progress)
}

// Repair is like [RedisStore.Audit], but also gives the store's TTL to each key under the prefix that has none,
// checking and setting it in one atomic step. It does not change existing TTLs. It repairs foreign keys as well, so
// these will expire: run Audit first, and find out whether another program needs them.
func (s *RedisStore) Repair(ctx context.Context, progress ...func(RedisAudit)) (RedisAudit, error) {
	return s.walk(ctx, true, progress)
}

func (s *RedisStore) walk(ctx context.Context, repair bool, progress []func(RedisAudit)) (RedisAudit, error) {
	sum := RedisAudit{Prefix: s.prefix}
	var mu sync.Mutex
	err := s.eachNode(ctx, func(ctx context.Context, node redis.Cmdable) error {
		if why := s.oneNode(); why != "" {
			if info, err := node.Info(ctx).Result(); err == nil && redisinfo.Parse(info).Cluster() {
				return errors.New(why)
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
		return sum, s.failed(ctx, what, err)
	}
	return sum, nil
}

// scan audits the keys of one node.
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

// audit audits one batch of keys of one node.
func (s *RedisStore) audit(ctx context.Context, node redis.Cmdable, keys []string, repair bool) (*RedisAudit, error) {
	a := &RedisAudit{}
	answers, err := pipelined(ctx, node, keys, func(pipe redis.Pipeliner, key string) {
		_ = pipe.Process(ctx, redis.NewIntCmd(ctx, "pttl", key)) // not pipe.PTTL: a time.Duration ends at 292 years
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
			ttl = max(ttl, 1) // about to expire, but it has a TTL
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
		redisscript.GiveTTL.Eval(ctx, pipe, []string{key}, s.ttl.Milliseconds()) // EVAL: an EVALSHA in a pipeline may find no script
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

// pipelined sends one command per key. The caller handles keys that have moved to another node; any other error ends
// the audit.
func pipelined(ctx context.Context, node redis.Cmdable, keys []string, add func(redis.Pipeliner, string)) ([]redis.Cmder, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	pipe := node.Pipeline()
	for _, key := range keys {
		add(pipe, key)
	}
	answers, err := exec(ctx, pipe)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		if err := a.Err(); err != nil && !redis.HasErrorPrefix(err, "MOVED") && !redis.HasErrorPrefix(err, "ASK") && !redis.HasErrorPrefix(err, "TRYAGAIN") {
			return nil, err
		}
	}
	return answers, nil
}

// sessionID returns the ID of the session that a key holds, and reports whether this library names its keys like that.
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

// String returns the figures as a table for a terminal.
func (a RedisAudit) String() string {
	var t texttable.Table
	t.Row("keys under "+strconv.Quote(a.Prefix), "%d", a.Keys)
	t.Row("keys without TTL", "%d", a.KeysWithoutTTL)
	t.Row("repaired", "%d", a.Repaired)
	t.Row("foreign keys", "%d", a.Foreign)
	if a.Skipped > 0 {
		t.Row("skipped", "%d were moving to another node: run it again", a.Skipped)
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

// jsonDuration is a duration that is a string in JSON, such as "1.5ms": readable, and with its unit.
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
