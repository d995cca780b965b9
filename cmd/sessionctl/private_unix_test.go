//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/redistest"
)

// A secret that other users of the machine can read is refused, as ssh refuses such a key.
func TestFilesWithSecretsArePrivate(t *testing.T) {
	secret := hide("a secret of thirty-two bytes, or more")
	cookie := seal(t, secret, "session", newRecord(time.Hour))
	server := redistest.Start(t)
	require.NoError(t, server.Client(t).ConfigSet(t.Context(), "requirepass", hide("pa55word")).Err())
	secretFile, plainFile := file(t, secret), file(t, server.Addr)
	redisFile := file(t, "redis://:pa55word@"+server.Addr)
	t.Setenv(passwordVariable, "pa55word")
	show := []string{"show", "-cookie-file", "-", "-secret-file", secretFile}
	check := func(file string) []string { return []string{"check", "-redis-file", file} }
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(secretFile, link))

	for mode, private := range map[os.FileMode]bool{
		0o600: true, 0o400: true, 0o700: true, 0o644: false, 0o640: false, 0o604: false, 0o660: false, 0o602: false, 0o601: false,
	} {
		for _, c := range []struct {
			file   string
			args   []string
			secret bool
		}{
			{secretFile, show, true},
			{secretFile, []string{"show", "-cookie-file", "-", "-secret-file", link}, true}, // what it leads to counts
			{redisFile, check(redisFile), true},
			{plainFile, check(plainFile), false}, // an address is no secret
		} {
			require.NoError(t, os.Chmod(c.file, mode))
			code, out, errs := ctl(t, cookie, c.args...)
			if private || !c.secret {
				require.NotContains(t, errs, "other users", "%v %v", mode, c.args)
				require.Contains(t, []int{exitOK, exitWrong}, code, "%v %v\n%s%s", mode, c.args, out, errs)
				continue
			}
			require.Equal(t, exitUsage, code, "%v %v\n%s%s", mode, c.args, out, errs)
			require.Contains(t, errs, "other users of this machine", mode)
			require.Contains(t, errs, "chmod 600")
		}
	}

	t.Run("a pipe", func(t *testing.T) { // as of -secret-file <(vault read ...)
		fifo := filepath.Join(t.TempDir(), "fifo")
		require.NoError(t, syscall.Mkfifo(fifo, 0o644))
		require.NoError(t, os.Chmod(fifo, 0o644))
		go func() { _ = os.WriteFile(fifo, []byte(secret), 0) }()
		code, out, errs := ctl(t, cookie, "show", "-cookie-file", "-", "-secret-file", fifo)
		require.Equal(t, exitOK, code, "%s%s", out, errs)
	})
	t.Run("of another user", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root can give a file to another user")
		}
		require.NoError(t, os.Chmod(secretFile, 0o644))
		require.NoError(t, os.Chown(secretFile, 65534, -1))
		code, out, errs := ctl(t, cookie, show...)
		require.Equal(t, exitOK, code, "%s%s", out, errs)
	})
}
