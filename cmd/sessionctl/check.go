package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/internal/texttable"
)

const checkHelp = `sessionctl check: check whether a Redis is set up for sessions

  sessionctl check -redis redis.internal:6379

It sends INFO to every master, and the commands that sessions need, on a key that does not exist. It writes nothing,
and needs neither CONFIG nor a walk over the keys. Use the user of the application.
Exit code 1 if maxmemory-policy is not noeviction, or if there is any warning. A policy that the host hides is not
an error: look it up in the host's settings.

Output
  -json             print the figures as JSON

` + redisHelp + "\n" + exitHelp

func check(ctx context.Context, c *call) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	var s server
	s.register(flags)
	asJSON := flags.Bool("json", false, "")
	if rest, err := c.parse(flags); err != nil {
		return err
	} else if len(rest) > 0 {
		return misused("", "check takes only flags")
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.close()
	store, err := s.store(time.Hour) // Check does not use the TTL
	if err != nil {
		return err
	}
	h, err := store.Check(ctx)
	if err != nil {
		return s.explain(err)
	}
	wrong := len(h.Warnings)
	if h.PolicyVerdict == "wrong" {
		wrong++
	}
	if *asJSON {
		if err := writeJSON(c, h); err != nil {
			return err
		}
	} else {
		printHealth(c, h, wrong)
	}
	if wrong > 0 {
		return errWrong
	}
	return nil
}

func printHealth(c *call, h sessions.RedisHealth, wrong int) {
	var t texttable.Table
	for name, value := range h.Rows() {
		t.Row(name, "%s", value)
	}
	fmt.Fprintln(c.stdout, t.Wrapped(lineWidth))
	switch {
	case wrong > 0:
		fmt.Fprintf(c.stdout, "%s to fix before you use this Redis for sessions.\n", count(int64(wrong), "problem", "problems"))
	case h.PolicyVerdict == "ok":
		fmt.Fprintln(c.stdout, "All is well.")
	default:
		fmt.Fprintln(c.stdout, "No problems found, but look up the policy.")
	}
}

// writeJSON writes indented JSON that is safe on a terminal, like the tables: package json does not escape all control
// characters.
func writeJSON(c *call, v any) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(c.stdout, texttable.Printable(strings.TrimSuffix(line, "\n")))
	}
	return nil
}
