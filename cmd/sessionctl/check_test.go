package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

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
	check(exitWrong, []string{"policy unknown", "the server refuses GET, DEL, PEXPIRE, EVAL, EVALSHA, which sessions need", "NOPERM", "1 problem to fix"},
		"-redis-file", file(t, "redis://writer:"+escaped+"@"+server.Addr))
	code, out, errs := ctl(t, "", "audit", "-redis-file", file(t, "redis://writer:"+escaped+"@"+server.Addr))
	require.Equal(t, exitNoAnswer, code, out)
	require.Contains(t, errs, "audit needs SCAN and PTTL")

	sentinel := redistest.StartSentinel(t, server)
	for _, command := range []string{"check", "audit"} {
		code, out, errs := ctl(t, "", command, "-redis", sentinel.Addr)
		require.Equal(t, exitUsage, code, out)
		require.Contains(t, errs, sentinel.Addr+" is a sentinel; its master is at "+server.Addr)
		require.Contains(t, errs, "Use -redis "+server.Addr)
	}
	check(exitUsage, []string{"is not a cluster"}, "-redis", sentinel.Addr, "-cluster")
	require.NoError(t, cluster[1].Client(t).ConfigSet(ctx, "maxmemory", "1mb").Err())
	check(exitWrong, []string{"more than 90% of maxmemory is used on 1 of 2 nodes"}, "-redis", cluster[0].Addr, "-cluster")

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
