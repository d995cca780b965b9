package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	respserver "github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/internal/texttable"
)

func TestMain(m *testing.M) {
	redistest.Overlap()
	redis.SetLogger(silent{})
	os.Exit(m.Run())
}

// What no output may show: hidden never, private only with -values.
var (
	secretsMu       sync.Mutex
	hidden, private []string
)

// ctl runs the command, and looks for secrets in all that it prints.
func ctl(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return ctlContext(t, context.Background(), stdin, args...)
}

func ctlContext(t *testing.T, ctx context.Context, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(ctx, args, strings.NewReader(stdin), &out, &errs)
	all := out.String() + errs.String()
	secretsMu.Lock()
	hidden, private := slices.Clone(hidden), slices.Clone(private)
	secretsMu.Unlock()
	for _, s := range hidden {
		require.NotContains(t, all, s, "a secret was printed")
	}
	if !strings.Contains(strings.Join(args, " "), "-values") {
		for _, s := range private {
			require.NotContains(t, all, s, "a value was printed")
		}
	}
	return code, out.String(), errs.String()
}

// hide returns the text, and fails every later output that contains it.
func hide(secret string) string {
	secretsMu.Lock()
	defer secretsMu.Unlock()
	hidden = append(hidden, secret)
	return secret
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func newRecord(lasts time.Duration) *sessions.Record {
	now := time.Now()
	rec := &sessions.Record{
		Token: sessions.NewToken(), Version: now.UnixMicro(), Created: now.Add(-time.Hour), Idle: 24 * time.Hour,
		Expires: now.Add(lasts), Deadline: now.Add(14 * 24 * time.Hour), Secure: true,
	}
	rec.ID, _ = sessions.TokenID(rec.Token)
	hide(rec.Token)
	return rec
}

func TestCommandLine(t *testing.T) {
	token := hide("tokentokentokentokenAA")
	short := file(t, "too short")
	secret := file(t, hide(strings.Repeat("s3cret..", 4)))
	empty := file(t, "\n")
	for _, c := range []struct {
		args  string
		stdin string
		code  int
		says  string
	}{
		{"", "", exitUsage, "Usage"},
		{"-h", "", exitOK, "Exit codes"},
		{"help", "", exitOK, "Exit codes"},
		{"--help", "", exitOK, "sessionctl audit"},
		{"help show", "", exitOK, "-cookie-file FILE"},
		{"help nothing", "", exitUsage, "unknown command"},
		{token, "", exitUsage, "unknown command"},
		{"check -h", "", exitOK, "check whether a Redis is set up for sessions"},
		{"audit --help", "", exitOK, "-fix"},
		{"check more", "", exitUsage, "only flags"},
		{"audit " + token, "", exitUsage, "only flags"},
		{"check -nothing", "", exitUsage, "unknown flag -nothing"},
		{"check -x" + token, "", exitUsage, "unknown flag"},
		{"check -redis", "", exitUsage, "-redis"},
		{"check -redis localhost", "", exitUsage, "host:port"},
		{"check -redis a:1,b:2", "", exitUsage, "need -cluster"},
		{"check -redis a:1 -redis-file " + short, "", exitUsage, "-redis or -redis-file, not both"},
		{"check -redis-file " + short, "", exitUsage, "the address in -redis-file must be host:port"},
		{"check -redis-file " + empty, "", exitUsage, "the file is empty"},
		{"check -redis-file /no/such/file", "", exitUsage, "no such file"},
		{"check -redis-file redis://:" + token + "@a:1", "", exitUsage, "no such file"},
		{"check -redis " + token + "@a:1", "", exitUsage, "host:port"},
		{"check -redis http://a:1", "", exitUsage, "not a Redis URL"},
		{"check -redis redis://:" + token + "@a:1", "", exitUsage, "contains a password"},
		{"check -redis redis://:" + token + "/x@a:1", "", exitUsage, "%2F"},
		{"check -redis redis://a/" + token, "", exitUsage, "not a Redis URL"},
		{"check -redis redis://a/2 -cluster", "", exitUsage, "only database 0"},
		{"check -password=" + token, "", exitUsage, "SESSIONCTL_PASSWORD"},
		{"check -timeout 5", "", exitUsage, "-timeout"},
		{"check -timeout 0s", "", exitUsage, "-timeout must be positive"},
		{"check -prefix=", "", exitUsage, "-prefix must not be empty"},
		{"audit -fix", "", exitUsage, "-ttl 14d"},
		{"audit -fix -ttl 14", "", exitUsage, "14d"},
		{"audit -fix -ttl 0s", "", exitUsage, "at least a second"},
		{"audit -fix -ttl -5h", "", exitUsage, "at least a second"},
		{"audit -fix -ttl 0d", "", exitUsage, "at least a second"},
		{"show", "", exitUsage, "which session?"},
		{"show x", "", exitUsage, "22 characters"},
		{"show " + token + "A", "", exitUsage, "22 characters"},
		{"show " + token + " " + token, "", exitUsage, "one ID"},
		{"show " + token + " -cookie-file x", "", exitUsage, "not both"},
		{"show -cookie " + token, "", exitUsage, "shell history"},
		{"show -secret=" + token, "", exitUsage, "-secret-file"},
		{"show -cookie-file -", "", exitUsage, "it has no cookie"},
		{"show -cookie-file -", "sealed" + token, exitUsage, "-secret-file"},
		{"show -cookie-file - -secret-file " + secret, "a=b; c=" + token, exitUsage, "no cookie with that name"},
		{"show -cookie-file - -secret-file " + secret, "other=" + token, exitUsage, "-cookie-name"},
		{"show -cookie-file - -secret-file " + secret, strings.Repeat("x", 70000), exitUsage, "is it the right file?"},
		{"show -cookie-file - -secret-file " + short, "x", exitUsage, "too short"},
		{"show -cookie-file - -secret-file /no/such/file", "x", exitUsage, "no such file"},
		{"show -cookie-file " + token + " -secret-file " + secret, "", exitUsage, "no such file"},
		{"show -cookie-file - -secret-file " + token, "x", exitUsage, "no such file"},
		{"show -cookie-file - -secret-file " + secret + " -cookie-name " + token, "a=b", exitUsage, "-cookie-name"},
		{"show -cookie-file - -secret-file " + strings.Repeat(token, 20), "x", exitUsage, "too long"},
		{"show -cookie-file /no/such/file -secret-file " + secret, "", exitUsage, "no such file"},
		{"show -cookie-file - -secret-file " + secret, "broken" + token, exitWrong, "the seal does not verify"},
		{"show -cookie-file - -secret-file " + secret, strings.Repeat(token, 300), exitWrong, "browsers accept 4096"},
		{"check -redis 127.0.0.1:1", "", exitNoAnswer, "connection refused"},
		{"audit -redis 127.0.0.1:1", "", exitNoAnswer, "Is the server running"},
		{"audit -redis 127.0.0.1:1 -cluster", "", exitNoAnswer, "at the address that it announces"},
		{"show " + token + " -redis 127.0.0.1:1", "", exitNoAnswer, "connection refused"},
		{"show -" + token[1:] + " -redis 127.0.0.1:1", "", exitNoAnswer, "connection refused"},
	} {
		name := strings.ReplaceAll(c.args, token, "TOKEN")
		code, out, errs := ctl(t, c.stdin, strings.Fields(c.args)...)
		require.Equal(t, c.code, code, "%s\n%s%s", name, out, errs)
		require.Contains(t, out+errs, c.says, name)
		if code == exitOK {
			require.Empty(t, errs, name)
		} else if code != exitWrong {
			require.Empty(t, out, name)
		}
	}
}

// Each help names the flags that its command takes, and no others.
func TestHelpNamesEveryFlag(t *testing.T) {
	inHelp := func(help string) map[string]bool {
		names := map[string]bool{}
		for line := range strings.Lines(help) {
			if name, ok := strings.CutPrefix(line, "  -"); ok {
				names[strings.Fields(name)[0]] = true
			}
		}
		return names
	}
	all := map[string]bool{}
	for _, c := range commands {
		for name := range inHelp(c.help) {
			all[name] = true
		}
	}
	require.Len(t, all, 12)
	for name, c := range commands {
		for flag := range all {
			_, _, errs := ctl(t, "", name, "-"+flag+"=?", "-h")
			require.Equal(t, !inHelp(c.help)[flag], strings.Contains(errs, "unknown flag"), "%s -%s", name, flag)
		}
		for line := range strings.Lines(c.help) {
			require.LessOrEqual(t, len(line), 121, line)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	password := hide("p:a/s s@w#o%r?d")
	server := redistest.Start(t, "--maxmemory", "100mb")
	rdb := server.Client(t)
	require.NoError(t, rdb.Do(ctx, "ACL", "SETUSER", "app", "on", ">"+password, "~*", "+@all", "-info", "-config").Err())
	require.NoError(t, rdb.Do(ctx, "ACL", "SETUSER", "writer", "on", ">"+password, "~*", "+set").Err())
	cluster := redistest.StartCluster(t, 2)
	for _, s := range cluster {
		require.NoError(t, s.Client(t).ConfigSet(ctx, "maxmemory", "50mb").Err())
	}
	replicaOf := strings.Replace(server.Addr, ":", " ", 1)
	replica := redistest.Start(t, "--dir", t.TempDir(), "--maxmemory", "100mb", "--replicaof", replicaOf)
	locked := redistest.Start(t) // and without a limit
	open := locked.Client(t)
	require.NoError(t, open.ConfigSet(ctx, "requirepass", password).Err())

	escaped := "p%3Aa%2Fs%20s%40w%23o%25r%3Fd"
	hide(escaped)
	check := func(code int, says []string, args ...string) {
		t.Helper()
		got, out, errs := ctl(t, "", append([]string{"check"}, args...)...)
		require.Equal(t, code, got, "%v\n%s%s", args, out, errs)
		for _, s := range says {
			require.Contains(t, strings.Join(strings.Fields(out+errs), " "), s)
		}
	}
	check(exitOK, []string{"policy ok: noeviction", "keys without TTL 0", "All is well."}, "-redis", server.Addr)
	check(exitOK, []string{"All is well."}, "-redis", "redis://"+server.Addr+"/3")
	check(exitOK, []string{"nodes: 2", "of 100.0 MB", "All is well."}, "-redis", cluster[1].Addr, "-cluster")
	check(exitOK, []string{"nodes: 2"}, "-redis", cluster[0].Addr+", "+cluster[1].Addr, "-cluster")
	check(exitOK, []string{"nodes: 2"}, "-redis", "redis://"+cluster[0].Addr, "-cluster")
	check(exitOK, []string{"policy unknown", "look up the policy"}, "-redis-file", file(t, "redis://app:"+escaped+"@"+server.Addr+"\n"))
	check(exitUsage, []string{"is a node of a cluster", "Add -cluster"}, "-redis", cluster[0].Addr)
	check(exitUsage, []string{"is not a cluster", "Remove -cluster"}, "-redis", server.Addr, "-cluster")
	check(exitWrong, []string{"warning maxmemory is not set", "1 problem to fix"}, "-redis-file", file(t, "redis://:"+escaped+"@"+locked.Addr))
	check(exitWrong, []string{"connect to the master"}, "-redis", replica.Addr)
	check(exitNoAnswer, []string{"requires a password", "SESSIONCTL_PASSWORD"}, "-redis", locked.Addr)
	check(exitNoAnswer, []string{"rejects the password"}, "-redis-file", file(t, "redis://:wrong@"+locked.Addr))
	check(exitNoAnswer, []string{"no answer within 1s", "try redis://"}, "-redis", "rediss://"+server.Addr, "-timeout", "1s")
	check(exitOK, []string{"policy unknown"}, "-redis-file", file(t, "redis://writer:"+escaped+"@"+server.Addr))
	code, out, errs := ctl(t, "", "audit", "-redis-file", file(t, "redis://writer:"+escaped+"@"+server.Addr))
	require.Equal(t, exitNoAnswer, code, out)
	require.Contains(t, errs, "audit needs SCAN and PTTL")

	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory-policy", "volatile-lru").Err())
	require.NoError(t, rdb.Set(ctx, "leak", 1, 0).Err())
	check(exitWrong, []string{"policy wrong: volatile-lru", "keys without TTL 1", "2 problems to fix"}, "-redis", server.Addr)

	code, out, _ = ctl(t, "", "check", "-json", "-redis", server.Addr)
	require.Equal(t, exitWrong, code)
	var h sessions.RedisHealth
	require.NoError(t, json.Unmarshal([]byte(out), &h))
	require.Equal(t, "wrong", h.PolicyVerdict)
	require.EqualValues(t, 1, h.KeysWithoutTTL)
}

func TestPasswordFromTheEnvironment(t *testing.T) {
	ctx := context.Background()
	password := hide("another p:a/s s@w#o%r?d")
	t.Setenv(passwordVariable, password)
	server := redistest.Start(t)
	rdb := server.Client(t)
	require.NoError(t, rdb.Do(ctx, "ACL", "SETUSER", "app", "on", ">"+password, "~*", "+@all", "-info", "-config").Err())
	code, _, errs := ctl(t, "", "check", "-redis", "redis://app@"+server.Addr)
	require.Equal(t, exitOK, code, errs)

	require.NoError(t, rdb.ConfigSet(ctx, "requirepass", password).Err())
	code, out, errs := ctl(t, "", "check", "-redis", server.Addr)
	require.Equal(t, exitWrong, code, errs)
	require.Contains(t, out, "maxmemory is not set")
}

// fill writes n sessions that live for an hour, the first few of them without a TTL.
func fill(t *testing.T, rdb redis.UniversalClient, prefix string, n, bare int) (ids []string) {
	ctx := context.Background()
	now := time.Now()
	rec := &sessions.Record{Version: 1, Created: now, Idle: time.Hour, Expires: now.Add(time.Hour), Deadline: now.Add(time.Hour)}
	rec.SetValue("v", json.RawMessage(`"`+strings.Repeat("x", 100)+`"`))
	for n > 0 {
		batch := min(n, 2000)
		n -= batch
		_, err := rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for range batch {
				rec.ID, _ = sessions.TokenID(sessions.NewToken())
				ttl := time.Hour
				if len(ids) < bare {
					ttl = 0
				}
				text, err := rec.MarshalJSON()
				if err != nil {
					return err
				}
				pipe.Set(ctx, prefix+rec.ID, text, ttl)
				ids = append(ids, rec.ID)
			}
			return nil
		})
		require.NoError(t, err)
	}
	return ids
}

func TestAudit(t *testing.T) {
	t.Parallel()
	n := 20_000
	if os.Getenv("HANDOVER_LONG") != "" {
		n = 200_000
	}
	for _, c := range []struct {
		name  string
		nodes int // of a cluster
		n     int
	}{
		{"server", 0, n},
		{"cluster of 1", 1, n},
		{"cluster of 2", 2, 20_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var rdb redis.UniversalClient
			var server []string
			if c.nodes == 0 {
				single := redistest.Start(t)
				rdb, server = single.Client(t), []string{"-redis", single.Addr}
			} else {
				cluster := redistest.StartCluster(t, c.nodes)
				rdb, server = redistest.ClusterClient(t, cluster), []string{"-redis", cluster[c.nodes-1].Addr, "-cluster"}
			}
			const bare = 200
			ctx := context.Background()
			ids := fill(t, rdb, "session:", c.n, bare)
			require.NoError(t, rdb.Set(ctx, "sessionx", 1, 0).Err())
			without := func() (count int) {
				for _, id := range ids[:bare] {
					if rdb.TTL(ctx, "session:"+id).Val() < 0 {
						count++
					}
				}
				return count
			}
			audit := func(more ...string) (int, string) {
				code, out, errs := ctl(t, "", append(append([]string{"audit"}, server...), more...)...)
				require.Empty(t, errs)
				t.Log("\n" + out)
				return code, strings.Join(strings.Fields(out), " ")
			}

			code, out := audit()
			require.Equal(t, exitWrong, code)
			require.Contains(t, out, "keys "+group(int64(c.n))+",")
			require.Contains(t, out, "without TTL 200 ")
			require.Contains(t, out, "Nothing was changed. 200 keys stay")
			require.NotContains(t, out, "foreign")
			require.Contains(t, out, "for example ")
			require.Equal(t, bare, without(), "a dry run changes nothing")

			code, out = audit("-json", "-ttl", "14d")
			require.Equal(t, exitWrong, code)
			var a sessions.RedisAudit
			require.NoError(t, json.Unmarshal([]byte(out), &a))
			require.EqualValues(t, c.n, a.Keys)
			require.EqualValues(t, bare, a.KeysWithoutTTL)
			require.Subset(t, ids[:bare], a.SessionIDs)
			require.Equal(t, bare, without(), "-ttl alone changes nothing")

			code, out = audit("-fix", "-ttl", "14d")
			require.Equal(t, exitOK, code)
			require.Contains(t, out, "without TTL 200 repaired 200, with a TTL of 14 d ")
			require.Contains(t, out, "Every key has a TTL now.")
			for _, id := range ids[:bare] {
				require.InDelta(t, 14*24*time.Hour, rdb.TTL(ctx, "session:"+id).Val(), float64(5*time.Minute))
			}
			for _, id := range ids[bare : 2*bare] {
				require.InDelta(t, time.Hour, rdb.TTL(ctx, "session:"+id).Val(), float64(5*time.Minute), "as it was")
			}
			require.Negative(t, rdb.TTL(ctx, "sessionx").Val(), "not under the prefix")

			code, out = audit()
			require.Equal(t, exitOK, code)
			require.Contains(t, out, "without TTL 0 ")
			require.Contains(t, out, "Every key has a TTL.")
		})
	}
}

func TestAuditOtherPrefix(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := redistest.Start(t)
	rdb := server.Client(t)
	require.NoError(t, rdb.Set(ctx, "s*:"+hide("name-of-another-library"), 1, 0).Err())
	require.NoError(t, rdb.Set(ctx, "sx:y", 1, 0).Err())

	code, out, _ := ctl(t, "", "audit", "-redis", server.Addr)
	require.Equal(t, exitOK, code)
	require.Contains(t, out, "No key has this prefix.")

	code, out, _ = ctl(t, "", "audit", "-redis", server.Addr, "-prefix", "s*:")
	require.Equal(t, exitWrong, code)
	require.Contains(t, out, "1 key is not named by this library")
	require.Contains(t, out, "1 key stays")
}

// A walk that ends early claims nothing about the rest.
func TestAuditEndsEarly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	fill(t, server.Client(t), "session:", 5000, 0)
	for name, broken := range map[string]func(proxy *redistest.Proxy, cancel func()) redistest.Fault{
		"interrupted":  func(_ *redistest.Proxy, cancel func()) redistest.Fault { cancel(); return redistest.Pass },
		"cannot reach": func(*redistest.Proxy, func()) redistest.Fault { return redistest.LoseCall },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			proxy := server.Proxy(t)
			proxy.SetFault(func(args []string) redistest.Fault {
				if args[0] == "SCAN" && args[1] != "0" {
					return broken(proxy, cancel)
				}
				return redistest.Pass
			})
			code, out, errs := ctlContext(t, ctx, "", "audit", "-redis", proxy.Addr)
			require.Equal(t, exitNoAnswer, code, errs)
			require.Contains(t, out, "without TTL  0")
			require.NotContains(t, out, "Every key")
			require.Contains(t, errs, "did not finish")
			require.Contains(t, errs, "sessionctl audit: "+name)
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out)
		for i := range 25 {
			p.show(func() string { return fmt.Sprint("at ", i) })
			time.Sleep(time.Second)
		}
		p.clear()
		require.Equal(t, "at 10\nat 20\n", out.String(), "not a terminal: a line now and then")

		out.Reset()
		p = &progress{w: &out, live: true}
		p.wait()
		for i := range 8 {
			p.show(func() string { return fmt.Sprint("at ", i) })
			time.Sleep(99 * time.Millisecond)
		}
		p.clear()
		require.Equal(t, "\rat 6\x1b[K\r\x1b[K", out.String())

		out.Reset()
		p.wait()
		p.shown = false
		p.show(func() string { panic("too early") })
		p.clear()
		require.Empty(t, out.String(), "a short walk shows no progress")
	})
	require.Equal(t, "1,500 of up to 20,000 keys, 12 without TTL, 3 repaired, 4 s",
		auditProgress(sessions.RedisAudit{Keys: 1500, KeysWithoutTTL: 12, Repaired: 3}, 20000, 4*time.Second))
}

func TestText(t *testing.T) {
	for d, text := range map[time.Duration]string{
		0: "0 ms", 999 * time.Millisecond: "999 ms", -90 * time.Second: "1 min 30 s", time.Hour: "1 h",
		14 * 24 * time.Hour: "14 d", 25*time.Hour + 59*time.Minute: "1 d 1 h", 59 * time.Second: "59 s",
	} {
		require.Equal(t, text, span(d))
	}
	for n, text := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -123: "-123", -1234: "-1,234"} {
		require.Equal(t, text, group(n))
	}
	const nasty = "\"a\x1b[31m\u202e\U000e0001é 日本 b\""
	require.NotContains(t, texttable.Printable(nasty), "\x1b")
	require.Contains(t, texttable.Printable(nasty), "é 日本")
	var back string
	require.NoError(t, json.Unmarshal([]byte(texttable.Printable(nasty)), &back))
	require.Equal(t, "a\x1b[31m\u202e\U000e0001é 日本 b", back, "JSON stays the same JSON")
	long := texttable.Table{{"name", strings.Repeat("word ", 60)}}.Wrapped(lineWidth)
	for line := range strings.Lines(long) {
		require.LessOrEqual(t, len(line), lineWidth+1)
	}
	require.Contains(t, long, "\n      word")
}

// What a server says of itself is a text from elsewhere, also for a terminal.
func TestHostileServer(t *testing.T) {
	const nasty = "\x1b[2J\x1b]0;title\x07\u009b31m\u202e\x7f\r\nAll is well."
	safe := func(text string) {
		t.Helper()
		for _, r := range text {
			require.True(t, r == '\n' || unicode.IsPrint(r), "%q in %q", r, text)
		}
	}
	fake := func(info func(*respserver.Peer)) string {
		s, err := respserver.NewServer("127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(s.Close)
		require.NoError(t, s.Register("INFO", func(c *respserver.Peer, _ string, _ []string) { info(c) }))
		require.NoError(t, s.Register("SCAN", func(c *respserver.Peer, _ string, _ []string) { c.WriteError("ERR " + nasty) }))
		return s.Addr().String()
	}

	lines := "redis_version:7" + strings.ReplaceAll(nasty, "\r\n", "") + "\r\nrole:" + nasty + "\r\nmaxmemory_policy:allkeys-\x1b[31m\r\n"
	told := fake(func(c *respserver.Peer) { c.WriteBulk(lines) })
	code, out, errs := ctl(t, "", "check", "-redis", told)
	require.Equal(t, exitWrong, code, errs)
	require.Contains(t, out, `7\u001b[2J\u001b]0;title\u0007\u009b31m\u202e\u007fAll is well.`)
	require.Contains(t, out, `wrong: allkeys-\u001b[31m`)
	safe(out + errs)

	code, out, errs = ctl(t, "", "check", "-json", "-redis", told)
	require.Equal(t, exitWrong, code, errs)
	safe(out + errs)
	var h sessions.RedisHealth
	require.NoError(t, json.Unmarshal([]byte(out), &h))
	require.Equal(t, "allkeys-\x1b[31m", h.Policy, "JSON is for programs: nothing is lost")

	refused := fake(func(c *respserver.Peer) { c.WriteError("ERR no " + strings.ReplaceAll(nasty, "\r\n", "")) })
	for _, command := range []string{"check", "audit"} {
		code, out, errs = ctl(t, "", command, "-redis", refused)
		require.Equal(t, exitNoAnswer, code, out)
		require.Contains(t, errs, `\u001b[2J`)
		safe(out + errs)
	}
}
