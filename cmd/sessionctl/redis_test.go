package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	respserver "github.com/alicebob/miniredis/v2/server"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

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
