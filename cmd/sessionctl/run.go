package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/internal/texttable"
)

// The exit codes, the same for every command.
const (
	exitOK       = 0
	exitWrong    = 1
	exitUsage    = 2
	exitNoAnswer = 3
)

const usage = `sessionctl inspects sessions in Redis and session cookies.

Usage
  sessionctl check [flags]          check whether a Redis is set up for sessions
  sessionctl audit [flags]          check whether every session key has a TTL; -fix sets missing ones
  sessionctl show  [flags] ID       show a session, by its ID or its cookie

Run 'sessionctl COMMAND -h' for the flags of a command.

` + exitHelp

const exitHelp = `Exit codes
  0  all is well
  1  there is a problem: see the output
  2  the command line is wrong
  3  no answer: Redis cannot be reached, rejects the login, or the command was interrupted
`

const redisHelp = `Redis
  -redis ADDRESS    host:port or a URL, redis://user@host:port/db; rediss:// for TLS (default 127.0.0.1:6379)
                    with -cluster, several may be given, separated by commas
  -redis-file FILE  read ADDRESS from a file, in which the URL may contain the password; with one, the file
                    is refused if other users can read it
  -cluster          the server is a cluster: query all its masters
  -prefix PREFIX    the prefix of the session keys (default "session:")
  -timeout TIME     for connecting, and for each command (default 5s)
  The environment variable SESSIONCTL_PASSWORD is the password, unless the URL has one. On the command line, the
  password would be visible in the process list.
`

var commands = map[string]struct {
	help string
	run  func(context.Context, *call) error
}{
	"check": {checkHelp, check},
	"audit": {auditHelp, audit},
	"show":  {showHelp, show},
}

// call is one run of a command.
type call struct {
	args   []string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// problem is an error with its exit code and a hint on what to do. Neither text contains a secret, a token, or an
// argument that may be one.
type problem struct {
	code    int
	message string
	hint    string
}

func (p *problem) Error() string { return p.message }

// errWrong is exit code 1 when the output has said everything.
var errWrong = &problem{code: exitWrong}

func misused(hint, format string, args ...any) error {
	return &problem{exitUsage, fmt.Sprintf(format, args...), hint}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	name, rest := args[0], args[1:]
	if name == "help" && len(rest) > 0 {
		name, rest = rest[0], []string{"-h"}
	}
	if name == "help" || name == "-h" || name == "-help" || name == "--help" {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	command, ok := commands[name]
	if !ok {
		fmt.Fprint(stderr, "sessionctl: unknown command: use check, audit or show; see sessionctl -h\n")
		return exitUsage
	}
	err := command.run(ctx, &call{rest, stdin, stdout, stderr})
	var p *problem
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, command.help)
		return exitOK
	case !errors.As(err, &p):
		p = &problem{code: exitWrong, message: err.Error()}
	}
	if p.message != "" { // part of it may come from the server
		message := strings.ReplaceAll(p.message, "\n", "; ")
		fmt.Fprintf(stderr, "sessionctl %s: %s\n", name, texttable.Printable(message))
	}
	if p.hint != "" {
		fmt.Fprintln(stderr, wrap(p.hint, "  "))
	}
	if p.code == exitUsage {
		fmt.Fprintf(stderr, "  All flags: sessionctl %s -h\n", name)
	}
	return p.code
}

// parse parses the flags, which may come before and after other arguments, and returns the others.
func (c *call) parse(flags *flag.FlagSet) (rest []string, err error) {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	for args := c.args; len(args) > 0; {
		if _, isID := sessions.TokenID(args[0]); isID || !strings.HasPrefix(args[0], "-") {
			rest, args = append(rest, args[0]), args[1:] // an ID may begin with a dash
			continue
		}
		if args[0] == "-" || args[0] == "--" {
			return append(rest, args[1:]...), nil
		}
		// A flag with a value takes the next argument; parse one flag at a time.
		n := 1
		if name := strings.TrimLeft(args[0], "-"); !strings.Contains(name, "=") && takesValue(flags, name) && len(args) > 1 {
			n = 2
		}
		if err := flags.Parse(args[:n]); err != nil {
			return nil, badFlag(err)
		}
		args = args[n:]
	}
	return rest, nil
}

func takesValue(flags *flag.FlagSet, name string) bool {
	f := flags.Lookup(name)
	if f == nil {
		return false
	}
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return !ok || !b.IsBoolFlag()
}

func badFlag(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	hint := ""
	name, undefined := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	switch strings.TrimLeft(name, "-") {
	case "cookie", "token", "value":
		hint = "A cookie on the command line would stay in the shell history: use -cookie-file, with - for standard input."
	case "secret", "key":
		hint = "A secret on the command line would stay in the shell history: use -secret-file."
	case "password", "pass", "a":
		hint = "A password on the command line would be visible in the process list: set SESSIONCTL_PASSWORD, or use -redis-file."
	}
	if undefined {
		if len(name) > 16 { // longer than any flag: it may be something else
			return misused(hint, "unknown flag")
		}
		return misused(hint, "unknown flag -%s", name)
	}
	return misused(hint, "%v", err)
}

// days is a duration that may also be given in days, such as 14d.
type days time.Duration

func (d *days) String() string { return time.Duration(*d).String() }

func (d *days) Set(s string) error {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(n, 10, 16); err == nil {
			*d = days(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("not a duration such as 14d, 36h or 30m")
	}
	*d = days(v)
	return nil
}
