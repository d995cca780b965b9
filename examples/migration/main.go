// Command migration moves a shop's sessions from a sealed cookie to Redis and back while a crowd uses it, with a Redis
// outage in the middle. At the end, a table shows what was lost: nothing. It needs only Go:
//
//	go run ./examples/migration
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

type options struct {
	browsers, instances int
	seed                uint64
	duration            time.Duration
	redis               string
	fallback            bool

	out  io.Writer
	live bool // out is a terminal

	logouts  int          // logouts per thousand actions of a customer
	story    []step       // tests use other stories
	newStore newStoreFunc // tests use other stores
}

func main() {
	o := options{out: os.Stdout, logouts: 6, story: wholeStory, newStore: redisStore}
	flag.IntVar(&o.browsers, "browsers", 200, "`how many` people use the shop")
	flag.IntVar(&o.instances, "instances", 4, "`how many` instances of the app serve them")
	flag.Uint64Var(&o.seed, "seed", 1, "`seed` of the crowd's random habits")
	flag.DurationVar(&o.duration, "duration", 24*time.Second, "`how long` the whole story takes")
	flag.StringVar(&o.redis, "redis", "", "`host:port` of a Redis server, instead of the embedded one; only keys of this run are written, and they are removed at the end")
	flag.BoolVar(&o.fallback, "fallback", false, "set FallbackOnError: while Redis is down in DualReadNew, serve the cookie's copy")
	flag.Parse()
	log.SetFlags(0)
	redis.SetLogger(silence{}) // connection failures are expected during the outages
	if info, err := os.Stdout.Stat(); err == nil {
		o.live = info.Mode()&os.ModeCharDevice != 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, o)
	if err != nil {
		log.Fatal("migration: ", err)
	}
	if !r.clean() {
		os.Exit(1)
	}
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// step is one line of the story.
type step struct {
	do    action
	to    sessions.Phase // for roll
	share float64        // share of the duration
	what  string
}

const clearLine = "\r\x1b[K"

type action int

const (
	stay action = iota
	roll        // one instance after the other
	takeAway
	giveBack
)

var wholeStory = []step{
	{stay, 0, 2, "a cookie, and no Redis"},
	{roll, sessions.DualReadOld, 1.5, "write both, read the cookie"},
	{stay, 0, 2, ""},
	{takeAway, 0, 1.5, "Redis is down: nobody may notice"},
	{giveBack, 0, 1, "Redis is back"},
	{roll, sessions.DualReadNew, 1.5, "write both, read Redis"},
	{stay, 0, 1.5, ""},
	{takeAway, 0, 1.5, "Redis is down"},
	{giveBack, 0, 1.5, "Redis is back"},
	{roll, sessions.NewOnly, 1.5, "Redis alone"},
	{stay, 0, 1.5, ""},
	{roll, sessions.DualReadNew, 1, "second thoughts: back"},
	{roll, sessions.DualReadOld, 1, "and back again"},
	{stay, 0, 1.5, ""},
	{roll, sessions.DualReadNew, 1, "forward again, for good"},
	{stay, 0, 1.5, ""},
	{roll, sessions.NewOnly, 1, "Redis alone"},
	{stay, 0, 1, ""},
}

// result is what the final table shows.
type result struct {
	crowd             *crowd
	adopted, resealed int64
	keysWithoutTTL    int64
	keysAtMost, keys  int64
	took              time.Duration
	stopped           bool
	fallback          bool
}

func run(ctx context.Context, o options) (*result, error) {
	switch {
	case o.browsers < 1 || o.instances < 1:
		return nil, fmt.Errorf("-browsers and -instances must be 1 or more")
	case o.duration < time.Second:
		return nil, fmt.Errorf("-duration must be a second or more")
	}
	f, err := startFleet(ctx, o.instances, o.redis, o.fallback, o.newStore)
	if err != nil {
		return nil, err
	}
	defer f.close()
	t := &teller{options: o, fleet: f, crowd: newCrowd(f, o.browsers, o.seed, o.logouts)}
	t.result = &result{crowd: t.crowd, fallback: o.fallback}

	browsing, goHome := context.WithCancel(ctx)
	var crowd sync.WaitGroup
	crowd.Go(func() { t.crowd.browse(browsing) })
	err = t.tell(ctx)
	goHome()
	crowd.Wait()
	if err != nil {
		return nil, err
	}
	t.result.stopped = ctx.Err() != nil
	t.finish()
	return t.result, nil
}

// teller takes the fleet through the story, and prints one line per step.
type teller struct {
	options
	fleet  *fleet
	crowd  *crowd
	result *result

	since             time.Time // of the step
	requests, refused int64     // before the step
}

func (t *teller) tell(ctx context.Context) error {
	t.opening()
	var whole float64
	for _, s := range t.story {
		whole += s.share
	}
	due := time.Now()
	for _, s := range t.story {
		if ctx.Err() != nil {
			break
		}
		share := time.Duration(s.share / whole * float64(t.duration))
		due = due.Add(share)
		lasts := max(time.Until(due), share/2) // the next steps make up for one that takes too long
		if err := t.step(ctx, s, lasts); err != nil {
			return err
		}
	}
	if t.fleet.outage.count.Load()%2 == 1 { // the story was stopped during an outage
		return t.fleet.giveRedisBack(context.WithoutCancel(ctx))
	}
	return nil
}

func (t *teller) step(ctx context.Context, s step, lasts time.Duration) error {
	in := t.fleet.instances
	if s.do == roll && s.to > in[0].dual.Phase() {
		t.report(in[0].dual.Report())
	}
	end := time.Now().Add(lasts)
	t.since, t.requests, t.refused = time.Now(), t.crowd.tally.requests.Load(), t.crowd.tally.refused.Load()
	seen := []string{t.fleet.phases()}
	switch s.do {
	case takeAway:
		t.fleet.takeRedisAway()
	case giveBack:
		if err := t.fleet.giveRedisBack(ctx); err != nil {
			return err
		}
	case roll:
		for n, i := range in {
			t.fleet.setPhase(i, s.to)
			seen = append(seen, t.fleet.phases())
			t.wait(ctx, time.Until(end)/time.Duration(len(in)-n), s)
		}
	}
	if len(in) > 4 && len(seen) > 1 {
		seen = []string{seen[0], "...", seen[len(seen)-1]}
	}
	t.wait(ctx, time.Until(end), s)
	return t.line(strings.Join(seen, " "), t.describe(s))
}

func (t *teller) describe(s step) string {
	switch {
	case s.do != takeAway || t.fleet.instances[0].dual.Phase() == sessions.DualReadOld:
		return s.what
	case t.fallback:
		return s.what + ": the cookie's copy is served"
	}
	return s.what + ": requests fail, nothing is lost"
}

// wait lets the crowd continue; on a terminal, the last line shows what it does.
func (t *teller) wait(ctx context.Context, d time.Duration, s step) {
	end := time.Now().Add(d)
	for left := d; left > 0; left = time.Until(end) {
		if !t.live {
			pause(ctx, left)
			return
		}
		if !pause(ctx, min(left, 200*time.Millisecond)) {
			return
		}
		line := t.figures(t.fleet.phases(), "", t.describe(s))
		fmt.Fprint(t.out, clearLine, line[:min(len(line), 79)]) // a wrapped line cannot be overwritten
	}
}

func (t *teller) opening() {
	where := "an embedded Redis"
	if t.redis != "" {
		where = "the Redis at " + t.redis
	}
	fmt.Fprintf(t.out, "%d browsers at %s, %d instances behind it, a cookie and %s (seed %d)\n\n", t.browsers, t.fleet.url, t.instances, where, t.seed)
	away := "FallbackOnError is off: while Redis is down in DualReadNew, requests fail."
	if t.fallback {
		away = "FallbackOnError is on: while Redis is down in DualReadNew, the cookie's copy is served; logins and logouts fail."
	}
	fmt.Fprintf(t.out, "%s\nOne digit per instance: 1 OldOnly, 2 DualReadOld, 3 DualReadNew, 4 NewOnly.\n"+
		"Before each step forward, one instance reports. A team waits until all say that it is safe; this story does not.\n\n", away)
	fmt.Fprintf(t.out, "%6s  %-*s  %7s  %7s  %7s\n", "time", t.width(), "instances", "req/s", "failed", "keys")
}

// width is the width of the column of phases.
func (t *teller) width() int {
	if t.instances > 4 {
		return 2*t.instances + 5
	}
	return max(len("instances"), (t.instances+1)*(t.instances+1)-1)
}

func (t *teller) figures(phases, keys, what string) string {
	requests := t.crowd.tally.requests.Load() - t.requests
	refused := t.crowd.tally.refused.Load() - t.refused
	took := max(time.Since(t.since), time.Millisecond)
	return fmt.Sprintf("%5.1fs  %-*s  %7.0f  %7d  %7s  %s", time.Since(t.crowd.started).Seconds(), t.width(), phases,
		float64(requests)/took.Seconds(), refused, keys, what)
}

// line prints the line of a finished step, for which it also counts the keys.
func (t *teller) line(phases, what string) error {
	if err := t.countKeys(); err != nil {
		return err
	}
	line := t.figures(phases, fmt.Sprint(t.result.keys), what)
	if t.live {
		line = clearLine + line
	}
	fmt.Fprintln(t.out, strings.TrimRight(line, " "))
	return nil
}

func (t *teller) countKeys() error {
	audit, err := t.fleet.keys.Audit(context.Background())
	if err != nil {
		return err
	}
	r := t.result
	r.keys = audit.Keys
	r.keysAtMost = max(r.keysAtMost, audit.Keys)
	r.keysWithoutTTL = max(r.keysWithoutTTL, audit.KeysWithoutTTL)
	return nil
}

// report prints a summary of what one instance reports about the next phase. The story continues either way; a team
// would wait.
func (t *teller) report(r sessions.DualReport) {
	if t.live {
		fmt.Fprint(t.out, clearLine)
	}
	fmt.Fprintf(t.out, "\n        Instance 1 reports:\n")
	missing := 0
	for line := range strings.Lines(r.String()) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "missing" {
			missing++
		}
		if name == "coverage" || name == "next" || name == "compared" && r.Phase == sessions.DualReadOld || name == "missing" && missing <= 3 {
			rest = strings.TrimSpace(rest)
			if len(rest) > 100 {
				rest = rest[:97] + "..."
			}
			fmt.Fprintf(t.out, "        | %-8s  %s\n", name, rest)
		}
	}
	if missing > 3 {
		fmt.Fprintf(t.out, "        | %-8s  and %d more\n", "", missing-3)
	}
}

// finish checks everybody once more, and prints the table.
func (t *teller) finish() {
	r := t.result
	r.took = time.Since(t.crowd.started)
	t.crowd.rollCall()
	_ = t.countKeys()
	r.adopted, r.resealed = t.fleet.adopted, t.fleet.resealed
	for _, in := range t.fleet.instances {
		last := in.dual.Report()
		r.adopted += last.Adopted
		r.resealed += last.Resealed
	}
	if t.live {
		fmt.Fprint(t.out, clearLine)
	}
	fmt.Fprint(t.out, "\n", r)
}

// promise is a figure that must stay zero.
type promise struct {
	what  string
	count int64
}

func (r *result) promises() []promise {
	t := &r.crowd.tally
	return []promise{
		{"sessions lost", t.sessionsLost.Load()},
		{"changes lost", t.changesLost.Load()},
		{"revoked sessions seen again", t.revokedSeen.Load()},
		{"keys without TTL", r.keysWithoutTTL},
		{"failed in DualReadOld", t.noticed.Load()},
		{"failed while Redis was up", t.failed.Load()},
	}
}

// clean reports whether every promise was kept.
func (r *result) clean() bool {
	return !slices.ContainsFunc(r.promises(), func(p promise) bool { return p.count != 0 })
}

func (r *result) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	t := &r.crowd.tally
	row := func(what string, n int64, note string) {
		if note != "" {
			note = "\t" + note
		}
		fmt.Fprintf(w, "  %-28s\t%9d%s\n", what, n, note)
	}
	for _, p := range r.promises() {
		note := ""
		if p.count != 0 {
			note = "<- promise broken"
		}
		row(p.what, p.count, note)
	}
	_ = w.Flush()
	b.WriteString("\n")
	row("requests", t.requests.Load(), fmt.Sprintf("in %v", r.took.Round(100*time.Millisecond)))
	fallback := "in DualReadNew, FallbackOnError off"
	if r.fallback {
		fallback = "in DualReadNew, FallbackOnError on: logins and logouts only"
	}
	row("failed, Redis down", t.refused.Load(), fallback)
	row("changes acknowledged", t.adds.Load(), fmt.Sprintf("%d of them by two tabs at the same time, from DualReadNew on", t.tabs.Load()))
	row("visitors' sessions", t.visitors.Load(), fmt.Sprintf("they end after %v, in the cookie and in Redis", visitorIdle))
	row("logins", t.logins.Load(), "each renews the session")
	row("logouts", t.logouts.Load(), fmt.Sprintf("%d of both at an instance that could not record it", t.unrecorded.Load()))
	row("old cookies replayed", t.replays.Load(), "where revocations are known: DualReadNew, NewOnly")
	row("and where they are not", t.gapReplays.Load(), fmt.Sprintf("OldOnly, DualReadOld: %d were served, as before the migration", t.gapSuccesses.Load()))
	row("sessions adopted", r.adopted, "only the cookie had them")
	row("cookies resealed", r.resealed, "converted to the form of the phase")
	row("keys at most", r.keysAtMost, fmt.Sprintf("%d at the end", r.keys))
	_ = w.Flush()
	if len(r.crowd.complaints) > 0 {
		b.WriteString("\nThe first complaints:\n")
		for _, c := range r.crowd.complaints {
			b.WriteString("  " + c + "\n")
		}
	}
	switch {
	case !r.clean():
		b.WriteString("\nNot all promises were kept.\n")
	case r.stopped:
		b.WriteString("\nStopped early. Nothing has been lost so far.\n")
	default:
		b.WriteString("\nEverybody kept their session and everything in it.\n")
	}
	return b.String()
}
