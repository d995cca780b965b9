package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func TestRedisCheckPolicy(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	rdb := server.Client(t)
	store := newRedisStore(t, rdb, time.Hour)
	for _, c := range []struct{ policy, verdict, says string }{
		{"noeviction", "ok", "nobody is logged out"},
		{"allkeys-lru", "wrong", "noeviction"},
		{"allkeys-lfu", "wrong", "noeviction"},
		{"allkeys-random", "wrong", "noeviction"},
		{"volatile-lru", "wrong", "users are logged out"},
		{"volatile-lfu", "wrong", "noeviction"},
		{"volatile-random", "wrong", "noeviction"},
		{"volatile-ttl", "wrong", "ended"},
	} {
		require.NoError(t, rdb.ConfigSet(ctx, "maxmemory-policy", c.policy).Err())
		h, err := store.Check(ctx)
		require.NoError(t, err)
		require.Equal(t, c.policy, h.Policy)
		require.Equal(t, c.verdict, h.PolicyVerdict, c.policy)
		require.Contains(t, h.PolicyReason, c.says)
	}
}

func TestRedisCheckFigures(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t, "--maxmemory", "100mb")
	rdb := server.Client(t)
	store := newRedisStore(t, rdb, time.Hour)
	_, err := store.Save(ctx, "", newRedisRecord(time.Hour, time.Hour), 0)
	require.NoError(t, err)
	require.NoError(t, rdb.Set(ctx, "leak", 1, 0).Err())
	other := redis.NewClient(&redis.Options{Addr: server.Addr, DB: 3})
	defer other.Close()
	require.NoError(t, other.Set(ctx, "a", 1, 0).Err())
	require.NoError(t, other.Set(ctx, "b", 1, 0).Err())

	h, err := store.Check(ctx)
	require.NoError(t, err)
	require.Equal(t, "master", h.Role)
	require.Equal(t, 1, h.Nodes)
	require.Regexp(t, `^\d+\.\d+`, h.Version)
	require.EqualValues(t, 100<<20, h.MaxMemory)
	require.Positive(t, h.UsedMemory)
	require.EqualValues(t, 2, h.Keys, "of the client's own database")
	require.EqualValues(t, 1, h.KeysWithoutTTL)
	require.Zero(t, h.EvictedKeys)
	require.False(t, h.ReplicaReads)
	require.Len(t, h.Warnings, 1)
	require.Contains(t, h.Warnings[0], "1 keys have no TTL")

	inOther, err := newRedisStore(t, other, time.Hour).Check(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, inOther.KeysWithoutTTL)

	auto, err := rdb.AutoPipeline()
	require.NoError(t, err)
	defer auto.Close()
	all, err := newRedisStore(t, auto, time.Hour).Check(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 4, all.Keys, "of all databases: the client does not tell its own")
	require.EqualValues(t, 3, all.KeysWithoutTTL)

	text, err := json.Marshal(h)
	require.NoError(t, err)
	var back sessions.RedisHealth
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, h, back)
	require.Contains(t, string(text), `"policy_verdict":"ok"`)
	require.Contains(t, fmt.Sprint(h), "policy            ok: noeviction\n")
	require.Contains(t, h.String(), "keys without TTL  1\n")
}

func TestRedisCheckEvicted(t *testing.T) {
	ctx := context.Background()
	rdb := redistest.Start(t, "--maxmemory", "20mb", "--maxmemory-policy", "volatile-lru").Client(t)
	store := newRedisStore(t, rdb, time.Hour)
	for range 400 {
		rec := newRedisRecord(time.Hour, time.Hour)
		rec.SetValue("v", json.RawMessage(`"`+strings.Repeat("x", 100_000)+`"`))
		_, err := store.Save(ctx, "", rec, 0)
		require.NoError(t, err)
	}
	h, err := store.Check(ctx)
	require.NoError(t, err)
	require.Positive(t, h.EvictedKeys)
	require.Equal(t, "wrong", h.PolicyVerdict)
	require.Contains(t, h.String(), "keys have been evicted")
}

func TestRedisCheckUnknown(t *testing.T) {
	ctx := context.Background()
	t.Run("INFO is forbidden", func(t *testing.T) {
		server := redistest.Start(t)
		require.NoError(t, server.Client(t).Do(ctx, "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-info", "-config").Err())
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "pw"})
		defer rdb.Close()
		h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.NoError(t, err)
		require.Equal(t, "unknown", h.PolicyVerdict)
		require.Contains(t, h.PolicyReason, "noeviction")
	})
	t.Run("CONFIG is forbidden", func(t *testing.T) {
		server := redistest.Start(t)
		require.NoError(t, server.Client(t).Do(ctx, "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config").Err())
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "pw"})
		defer rdb.Close()
		h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.NoError(t, err)
		require.Equal(t, "ok", h.PolicyVerdict)
	})
	t.Run("miniredis", func(t *testing.T) {
		rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		defer rdb.Close()
		h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.NoError(t, err)
		require.Equal(t, "unknown", h.PolicyVerdict)
		require.Contains(t, h.String(), "policy            unknown: unknown")
	})
	t.Run("the login fails", func(t *testing.T) {
		server := redistest.Start(t)
		require.NoError(t, server.Client(t).ConfigSet(ctx, "requirepass", "pw").Err())
		for password, says := range map[string]string{"": "NOAUTH", "another": "WRONGPASS"} {
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Password: password})
			defer rdb.Close()
			_, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
			require.ErrorContains(t, err, "sessions: redis: check: "+says)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		server := redistest.Start(t)
		rdb := server.Client(t)
		server.Stop()
		_, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.ErrorContains(t, err, "sessions: redis: check: ")
		_, err = newRedisStore(t, rdb, time.Hour).Audit(ctx)
		require.ErrorContains(t, err, "sessions: redis: audit: ")
	})
}

func TestRedisCheckReplica(t *testing.T) {
	ctx := context.Background()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	rdb := redistest.Start(t, "--replicaof", host+" "+port).Client(t)
	h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
	require.NoError(t, err)
	require.Equal(t, "replica", h.Role)
	require.True(t, h.ReplicaReads)
	require.Contains(t, h.String(), "connect to the master")
}

func TestRedisAuditAndRepair(t *testing.T) {
	t.Parallel()
	const prefix = `a*b?[c]\^{x}-:`
	ctx := context.Background()
	server := redistest.Start(t)
	cluster := redistest.StartCluster(t, 2)
	second := redistest.Start(t)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": server.Addr, "two": second.Addr}, DB: 4})
	defer ring.Close()
	db2 := redis.NewClient(&redis.Options{Addr: server.Addr, DB: 2})
	defer db2.Close()
	auto, err := redistest.Start(t).Client(t).AutoPipeline()
	require.NoError(t, err)
	defer auto.Close()
	for _, c := range []struct {
		name  string
		rdb   redis.Cmdable
		nodes int
	}{
		{"client", db2, 1},
		{"cluster", redistest.ClusterClient(t, cluster), 2},
		{"ring", ring, 2},
		{"auto-pipeline", auto, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, prefix := range []string{"session:", prefix} {
				store, err := sessions.NewRedisStore(c.rdb, sessions.RedisStoreConfig{TTL: 100 * time.Hour, Prefix: prefix})
				require.NoError(t, err)
				auditAndRepair(t, ctx, c.rdb, store, prefix)
			}
			h, err := newRedisStore(t, c.rdb, time.Hour).Check(ctx)
			require.NoError(t, err)
			require.Equal(t, c.nodes, h.Nodes)
			require.EqualValues(t, 2*1211, h.Keys, "both prefixes and their neighbours")
			require.EqualValues(t, 2, h.KeysWithoutTTL)
		})
	}
}

func auditAndRepair(t *testing.T, ctx context.Context, rdb redis.Cmdable, store *sessions.RedisStore, prefix string) {
	var leaked []string
	for i := range 1200 {
		rec := newRedisRecord(time.Hour, 90*time.Hour)
		rec.Expires = time.Now().Add(time.Duration(i+60) * time.Minute)
		_, err := store.Save(ctx, "", rec, 0)
		require.NoError(t, err)
		if i%100 == 50 {
			require.NoError(t, rdb.Persist(ctx, prefix+rec.ID).Err())
			leaked = append(leaked, rec.ID)
		}
	}
	// Ten keys that are not named as ours, and a neighbour whose name would match an unescaped prefix.
	for i := range 10 {
		require.NoError(t, rdb.HSet(ctx, fmt.Sprint(prefix, "other", i), "f", "v").Err())
	}
	neighbour := strings.NewReplacer("*", "zz", "?", "z", "[c]", "c").Replace(prefix) + "n"
	if neighbour == prefix+"n" {
		neighbour = "x" + prefix
	}
	require.NoError(t, rdb.Set(ctx, neighbour, 1, 0).Err())

	calls, last := 0, int64(0)
	a, err := store.Audit(ctx, func(a sessions.RedisAudit) {
		calls++
		require.GreaterOrEqual(t, a.Keys, last)
		last = a.Keys
	})
	require.NoError(t, err)
	require.Greater(t, calls, 1)
	require.EqualValues(t, 1210, last)
	require.EqualValues(t, 1210, a.Keys)
	require.EqualValues(t, 22, a.KeysWithoutTTL)
	require.EqualValues(t, 10, a.Foreign)
	require.Zero(t, a.Repaired)
	require.Zero(t, a.Skipped)
	require.Len(t, a.SessionIDs, 10)
	require.Subset(t, leaked, a.SessionIDs)
	require.InDelta(t, time.Hour, a.ShortestTTL, float64(time.Minute))
	require.InDelta(t, 1259*time.Minute, a.LongestTTL, float64(time.Minute))
	text, err := json.Marshal(a)
	require.NoError(t, err)
	var back sessions.RedisAudit
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, a, back)
	require.Contains(t, a.String(), "22\n")

	kept := time.Duration(0)
	for range 2 {
		a, err = store.Repair(ctx)
		require.NoError(t, err)
		if kept == 0 {
			require.EqualValues(t, 22, a.Repaired)
		} else {
			require.Zero(t, a.Repaired, "a second run finds nothing")
			require.Zero(t, a.KeysWithoutTTL)
			require.InDelta(t, 100*time.Hour, a.LongestTTL, float64(time.Minute), "what was repaired")
			require.InDelta(t, time.Hour, a.ShortestTTL, float64(time.Minute), "the others are as they were")
		}
		ttl, err := rdb.PTTL(ctx, prefix+leaked[0]).Result()
		require.NoError(t, err)
		require.InDelta(t, 100*time.Hour, ttl, float64(time.Minute))
		kept = ttl
	}
	ttl, err := rdb.PTTL(ctx, neighbour).Result()
	require.NoError(t, err)
	require.Negative(t, ttl, "not under the prefix: not ours to change")
}

// Behind an AutoPipeline of a cluster each SCAN would ask another node.
func TestRedisAuditRefusesAHiddenCluster(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	auto, err := redistest.ClusterClient(t, redistest.StartCluster(t, 2)).AutoPipeline()
	require.NoError(t, err)
	defer auto.Close()
	store := newRedisStore(t, auto, time.Hour)
	_, err = store.Audit(ctx)
	require.ErrorContains(t, err, "pass the ClusterClient itself to NewRedisStore")
	h, err := store.Check(ctx)
	require.NoError(t, err)
	require.Contains(t, h.String(), "one node of a cluster")
}

// clusterOfThree starts three masters with a limit of memory each.
func clusterOfThree(t *testing.T) ([]*redistest.Server, *sessions.RedisStore) {
	t.Helper()
	servers := redistest.StartCluster(t, 3)
	for _, s := range servers {
		require.NoError(t, s.Client(t).ConfigSet(context.Background(), "maxmemory", "100mb").Err())
	}
	return servers, newRedisStore(t, redistest.ClusterClient(t, servers), time.Hour)
}

// Each node is judged by itself: a cluster is full when one of its masters is.
func TestRedisCheckEachNode(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	servers, store := clusterOfThree(t)
	h, err := store.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, h.Warnings)
	require.Equal(t, 3, h.Nodes)
	one := servers[1].Client(t)

	require.NoError(t, one.ConfigSet(ctx, "maxmemory", "0").Err())
	h, err = store.Check(ctx)
	require.NoError(t, err)
	require.Len(t, h.Warnings, 1)
	require.Contains(t, h.Warnings[0], "maxmemory is not set on 1 of 3 nodes: ")

	info, err := one.Info(ctx, "memory").Result()
	require.NoError(t, err)
	var used int64
	for line := range strings.Lines(info) {
		_, _ = fmt.Sscanf(line, "used_memory:%d", &used)
	}
	require.Positive(t, used)
	require.NoError(t, one.ConfigSet(ctx, "maxmemory", fmt.Sprint(used*21/20)).Err())
	h, err = store.Check(ctx)
	require.NoError(t, err)
	require.Contains(t, h.Warnings, "more than 90% of maxmemory is used on 1 of 3 nodes: at the limit, new logins fail")

	require.NoError(t, one.ConfigSet(ctx, "maxmemory", "100mb").Err())
	require.NoError(t, one.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	h, err = store.Check(ctx)
	require.NoError(t, err)
	require.Equal(t, "wrong", h.PolicyVerdict)
	require.Equal(t, "allkeys-lru, noeviction", h.Policy)

	require.NoError(t, one.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err())
	require.NoError(t, one.Do(ctx, "ACL", "SETUSER", "default", "-eval").Err())
	h, err = store.Check(ctx)
	require.NoError(t, err)
	require.Len(t, h.Warnings, 1)
	require.Contains(t, h.Warnings[0], "1 of 3 nodes refuse EVAL")

	servers[2].Stop()
	_, err = store.Check(ctx)
	require.ErrorContains(t, err, "connection refused")
}

// A client of one node finds only the sessions of that node.
func TestRedisCheckOneNodeOfACluster(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	servers, _ := clusterOfThree(t)
	rdb := servers[0].Client(t)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": servers[0].Addr, "two": servers[1].Addr}})
	t.Cleanup(func() { _ = ring.Close() })
	for name, rdb := range map[string]redis.Cmdable{"client": rdb, "wrapped": struct{ *redis.Client }{rdb}, "ring": ring} {
		store := newRedisStore(t, rdb, time.Hour)
		h, err := store.Check(ctx)
		require.NoError(t, err, name)
		require.Len(t, h.Warnings, 1, name)
		require.Contains(t, h.Warnings[0], "pass a ClusterClient to NewRedisStore", name)
		_, err = store.Audit(ctx)
		require.ErrorContains(t, err, "pass a ClusterClient to NewRedisStore", name)
		_, err = store.Repair(ctx)
		require.ErrorContains(t, err, "pass a ClusterClient to NewRedisStore", name)
	}
	require.NoError(t, rdb.Do(ctx, "ACL", "SETUSER", "default", "-info").Err())
	until(t, 20*time.Second, func() bool { // the key of a check belongs to another node
		h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.NoError(t, err)
		return strings.Contains(strings.Join(h.Warnings, " "), "pass a ClusterClient to NewRedisStore")
	})
}

// A sentinel answers PING and INFO, and holds no sessions.
func TestRedisCheckSentinel(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	master := redistest.Start(t, "--maxmemory", "100mb")
	sentinel := redistest.StartSentinel(t, master)
	_, err := newRedisStore(t, sentinel.Client(t), time.Hour).Check(ctx)
	require.ErrorContains(t, err, "this is a sentinel, whose master is at "+master.Addr)
	require.ErrorContains(t, err, "NewFailoverClient")

	for name, rdb := range map[string]redis.UniversalClient{
		"one":     redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "master", SentinelAddrs: []string{sentinel.Addr}}),
		"cluster": redis.NewFailoverClusterClient(&redis.FailoverOptions{MasterName: "master", SentinelAddrs: []string{sentinel.Addr}}),
	} {
		t.Cleanup(func() { _ = rdb.Close() })
		h, err := newRedisStore(t, rdb, time.Hour).Check(ctx)
		require.NoError(t, err, name)
		require.Empty(t, h.Warnings, name)
		require.Equal(t, 1, h.Nodes, name)
	}
}

// A shard that is down is counted, also when the ring has taken it out.
func TestRedisCheckRingShardDown(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ring, shards := startRing(t)
	store := newRedisStore(t, ring, time.Hour)
	h, err := store.Check(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, h.Nodes)
	_, err = store.Audit(ctx)
	require.NoError(t, err)
	shards[1].Stop()
	awaitShards(t, ring, 1)
	h, err = store.Check(ctx)
	require.ErrorContains(t, err, "1 of 2 shards answered")
	require.Equal(t, 1, h.Nodes)
	_, err = store.Audit(ctx)
	require.ErrorContains(t, err, "1 of 2 shards answered")
	_, err = store.Repair(ctx)
	require.ErrorContains(t, err, "1 of 2 shards answered")
	shards[0].Stop()
	awaitShards(t, ring, 0)
	_, err = store.Check(ctx)
	require.ErrorContains(t, err, "0 of 2 shards answered")
}

// Check runs each command that sessions need, on a key that does not exist.
func TestRedisCheckRefusedCommands(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := redistest.Start(t, "--maxmemory", "100mb")
	admin := server.Client(t)
	const all = "+get +set +del +eval +evalsha +pexpire +info"
	for rules, refused := range map[string]string{
		"~session:* -@all " + all:               "",
		"~session:* -@all " + all + " -get":     "GET",
		"~session:* -@all " + all + " -set":     "SET",
		"~session:* -@all " + all + " -del":     "DEL",
		"~session:* -@all " + all + " -pexpire": "PEXPIRE",
		"~session:* -@all " + all + " -eval":    "EVAL",
		"~session:* -@all " + all + " -evalsha": "EVALSHA",
		"~* +@all -@scripting":                  "EVAL, EVALSHA",
		"~* +@all -@write":                      "SET, DEL, PEXPIRE",
		"~other:* +@all":                        "GET, SET, DEL, PEXPIRE, EVAL, EVALSHA",
		"~session:* -@all +eval +evalsha +info": "GET, SET, DEL, PEXPIRE",
		"~session:* -@all +info":                "GET, SET, DEL, PEXPIRE, EVAL, EVALSHA",
	} {
		require.NoError(t, admin.ScriptFlush(ctx).Err())
		args := []any{"ACL", "SETUSER", "app", "reset", "on", ">pw"}
		for rule := range strings.FieldsSeq(rules) {
			args = append(args, rule)
		}
		require.NoError(t, admin.Do(ctx, args...).Err())
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "pw"})
		auto, err := rdb.AutoPipeline()
		require.NoError(t, err)
		for _, client := range []redis.Cmdable{rdb, auto} {
			h, err := newRedisStore(t, client, time.Hour).Check(ctx)
			require.NoError(t, err, rules)
			if refused == "" {
				require.Empty(t, h.Warnings, rules)
				continue
			}
			require.Len(t, h.Warnings, 1, rules)
			require.Contains(t, h.Warnings[0], "the server refuses "+refused+", which sessions need: NOPERM", rules)
			require.NotContains(t, h.Warnings[0], "session:")
		}
		require.NoError(t, auto.Close())
		require.NoError(t, rdb.Close())
	}
	require.Zero(t, admin.DBSize(ctx).Val())
	require.Contains(t, admin.Info(ctx, "persistence").Val(), "rdb_changes_since_last_save:0\r\n", "nothing was written")

	for _, command := range []string{"EVAL", "EVALSHA"} {
		without := redistest.Start(t, "--maxmemory", "100mb", "--rename-command", command, "")
		h, err := newRedisStore(t, without.Client(t), time.Hour).Check(ctx)
		require.NoError(t, err)
		require.Len(t, h.Warnings, 1)
		require.Contains(t, h.Warnings[0], "the server refuses "+command+", which sessions need: ERR unknown command")
		require.NotContains(t, h.Warnings[0], "args")
	}
}

func TestRedisAuditStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	rdb := redistest.Start(t).Client(t)
	store := newRedisStore(t, rdb, time.Hour)
	for range 3000 {
		_, err := store.Save(ctx, "", newRedisRecord(time.Hour, time.Hour), 0)
		require.NoError(t, err)
	}
	a, err := store.Audit(ctx, func(sessions.RedisAudit) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, a.Keys, int64(3000))
	require.Positive(t, a.Keys)
}

// What a server says of itself is printed without control characters: it could clear the screen, or write a line that
// looks like one of ours.
func TestRedisHealthPrintsSafely(t *testing.T) {
	const nasty, safely = "7\x1b[2J\u009b31m\u202e\x7f\r\npolicy  ok", `7\u001b[2J\u009b31m\u202e\u007f\u000d\u000apolicy  ok`
	h := sessions.RedisHealth{
		Policy: nasty, PolicyVerdict: "wrong", PolicyReason: nasty + " is wrong", Version: nasty, Role: nasty, Warnings: []string{nasty},
	}
	report := sessions.DualReport{Redis: &h, Missing: []string{nasty}, GoingBack: nasty, Old: sessions.DualSide{Store: nasty}, New: sessions.DualSide{Store: nasty}}
	unreachable := sessions.DualReport{RedisError: nasty}
	audit := sessions.RedisAudit{Prefix: nasty, SessionIDs: []string{nasty}}
	for text, times := range map[string]int{h.String(): 5, report.String(): 9, unreachable.String(): 1, audit.String(): 1} {
		for _, r := range text {
			require.True(t, r == '\n' || unicode.IsPrint(r), "%q in %q", r, text)
		}
		require.Equal(t, times, strings.Count(text, safely), text)
	}

	var rows []string
	for name, value := range h.Rows() {
		rows = append(rows, name+": "+value)
		if name == "" {
			break
		}
	}
	require.Equal(t, []string{
		"redis: " + safely + ", " + safely + ", nodes: 0", "memory: 0.0 MB used, no limit", "policy: wrong: " + safely, ": " + safely + " is wrong",
	}, rows)
}
