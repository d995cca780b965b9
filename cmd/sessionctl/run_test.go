package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommandLine(t *testing.T) {
	token := hide("tokentokentokentokenAA")
	short, same := file(t, "too short"), file(t, hide(strings.Repeat("s3cret", 6)))
	secret := file(t, hide("a secret of thirty-two bytes, or more"))
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
		{"show -cookie-file - -secret-file " + same, "x", exitUsage, "openssl rand -base64 32"},
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
