package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/internal/texttable"
)

const auditHelp = `sessionctl audit: check whether every session key has a TTL

  sessionctl audit -redis redis.internal:6379               check; change nothing
  sessionctl audit -redis redis.internal:6379 -fix -ttl 14d give the keys without a TTL one of 14 days

It walks the keys under the prefix in small steps: about 5 seconds of server time per million keys in the database,
never more than about a millisecond at once. Exit code 1 if keys without a TTL are left.

What to do
  -fix              give each key under the prefix that has no TTL the one of -ttl; existing TTLs do not change.
                    Keys of other programs under the same prefix get one too, and so will expire
  -ttl TIME         the TTL to set, such as 14d, 36h or 30m: the longest that a session may live
  -json             print the figures as JSON

` + redisHelp + "\n" + exitHelp

func audit(ctx context.Context, c *call) error {
	flags := flag.NewFlagSet("audit", flag.ContinueOnError)
	var s server
	s.register(flags)
	fix := flags.Bool("fix", false, "")
	asJSON := flags.Bool("json", false, "")
	var ttl days
	flags.Var(&ttl, "ttl", "")
	if rest, err := c.parse(flags); err != nil {
		return err
	} else if len(rest) > 0 {
		return misused("", "audit takes only flags")
	}
	ttlGiven := false
	flags.Visit(func(f *flag.Flag) { ttlGiven = ttlGiven || f.Name == "ttl" })
	switch {
	case *fix && !ttlGiven:
		return misused("Give the longest that a session may live, such as -ttl 14d.", "-fix needs -ttl")
	case ttlGiven && time.Duration(ttl) < time.Second:
		return misused("Such a TTL would end the sessions at once.", "-ttl must be at least a second")
	case !ttlGiven:
		ttl = days(time.Hour) // Audit does not use it
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.close()
	store, err := s.store(time.Duration(ttl))
	if err != nil {
		return err
	}

	most := int64(0) // the number of keys, with any prefix
	if h, err := store.Check(ctx); err == nil {
		most = h.Keys
	}
	walk, began, p := store.Audit, time.Now(), newProgress(c.stderr)
	if *fix {
		walk = store.Repair
	}
	a, err := walk(ctx, func(a sessions.RedisAudit) {
		p.show(func() string { return auditProgress(a, most, time.Since(began)) })
	})
	p.clear()
	if err != nil {
		if a.Keys == 0 {
			return s.explain(err)
		}
		fmt.Fprintln(c.stderr, "The audit did not finish: the figures are those up to that point.")
	}

	left := a.KeysWithoutTTL - a.Repaired
	if *asJSON {
		if err := writeJSON(c, a); err != nil {
			return err
		}
	} else {
		printAudit(c, a, *fix, time.Duration(ttl), time.Since(began))
	}
	if err != nil {
		return s.explain(err)
	}
	if !*asJSON {
		printAuditVerdict(c, a, *fix)
	}
	if left > 0 || a.Skipped > 0 {
		return errWrong
	}
	return nil
}

func auditProgress(a sessions.RedisAudit, most int64, took time.Duration) string {
	text := group(a.Keys)
	if most >= a.Keys {
		text += " of up to " + group(most)
	}
	text += " keys, " + group(a.KeysWithoutTTL) + " without TTL, "
	if a.Repaired > 0 {
		text += group(a.Repaired) + " repaired, "
	}
	return text + span(took)
}

func printAudit(c *call, a sessions.RedisAudit, fix bool, ttl, took time.Duration) {
	var t texttable.Table
	t.Row("prefix", "%q", a.Prefix)
	t.Row("keys", "%s, seen in %s", group(a.Keys), span(took))
	t.Row("without TTL", "%s", group(a.KeysWithoutTTL))
	if fix {
		t.Row("repaired", "%s, with a TTL of %s", group(a.Repaired), span(ttl))
	}
	if a.LongestTTL > 0 {
		ttls := span(a.ShortestTTL)
		if longest := span(a.LongestTTL); longest != ttls {
			ttls += " to " + longest
		}
		t.Row("TTLs", "%s", ttls)
	}
	if a.Foreign > 0 {
		t.Row("foreign", "%s not named by this library: another program uses the prefix as well", count(a.Foreign, "key is", "keys are"))
	}
	if a.Skipped > 0 {
		t.Row("skipped", "%s moving to another node: run it again", count(a.Skipped, "key was", "keys were"))
	}
	if !fix || a.Repaired < a.KeysWithoutTTL {
		for i, id := range a.SessionIDs {
			name := ""
			if i == 0 {
				name = "for example"
			}
			t.Row(name, "%s", id)
		}
	}
	fmt.Fprintln(c.stdout, t.Wrapped(lineWidth))
}

func printAuditVerdict(c *call, a sessions.RedisAudit, fix bool) {
	left := a.KeysWithoutTTL - a.Repaired
	switch {
	case a.Keys == 0:
		fmt.Fprintln(c.stdout, "No key has this prefix. Are -prefix and the database number right?")
	case a.KeysWithoutTTL == 0:
		fmt.Fprintln(c.stdout, "Every key has a TTL.")
	case left <= 0:
		fmt.Fprintln(c.stdout, "Every key has a TTL now.")
	case fix:
		fmt.Fprintln(c.stdout, wrap(count(left, "key", "keys")+" did not get a TTL, or had one by then. Run it again to see.", ""))
	default:
		fmt.Fprintln(c.stdout, wrap("Nothing was changed. "+count(left, "key stays", "keys stay")+" until deleted; -fix -ttl 14d sets a TTL of 14 days.", ""))
	}
}
