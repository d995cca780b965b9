// Command services shows what package relay saves and what it costs, with an edge and a chain of three services, with
// relay and without. It counts the reads of the session store per click, measures how long a click takes, and shows
// what a logout does. It needs only Go:
//
//	go run ./examples/services
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"handover.example/sessions/relay"
)

const patience = 5 * time.Second // with one request

type options struct {
	redis           string
	clicks          int
	delay, lifetime time.Duration

	out  io.Writer
	live bool // out is a terminal
}

func main() {
	o := options{out: os.Stdout}
	flag.StringVar(&o.redis, "redis", "", "`host:port` of a Redis server, instead of the embedded one; only keys of this run are written, and they are removed at the end")
	flag.IntVar(&o.clicks, "clicks", 300, "`how many` clicks are measured, each way and at each distance; fewer if they take over 2 seconds")
	flag.DurationVar(&o.delay, "delay", 500*time.Microsecond, "`how much` longer each Redis read takes, to imitate a network; 0 for none")
	flag.DurationVar(&o.lifetime, "lifetime", 3*time.Second, "`how long` a token is valid, from 2s to 5m; the default of the library is a minute")
	flag.Parse()
	log.SetFlags(0)
	if info, err := os.Stdout.Stat(); err == nil {
		o.live = info.Mode()&os.ModeCharDevice != 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		if ctx.Err() != nil {
			err = errors.New("stopped")
		}
		log.Fatal("services: ", err)
	}
}

func run(ctx context.Context, o options) (err error) {
	switch {
	case o.clicks < 1:
		return errors.New("-clicks must be 1 or more")
	case o.delay < 0 || o.delay > time.Second:
		return errors.New("-delay must be between 0 and 1s")
	case o.lifetime < 2*time.Second || o.lifetime > relay.MaxLifetime: // tokens count in whole seconds
		return fmt.Errorf("-lifetime must be between 2s and %v", relay.MaxLifetime)
	}
	lab, err := openLab(ctx, o.redis)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = errors.Join(err, lab.close(ctx))
	}()
	t := &teller{options: o, lab: lab}
	t.without, err = openWithout(lab)
	defer t.without.close()
	if err != nil {
		return err
	}
	t.with, err = openWith(lab, o.lifetime)
	defer t.with.close()
	if err != nil {
		return err
	}
	if t.browser, err = newBrowser(); err != nil {
		return err
	}
	defer t.browser.CloseIdleConnections()
	return t.tell(ctx)
}

func newBrowser() (*http.Client, error) {
	jar, err := cookiejar.New(nil)
	return &http.Client{Jar: jar, Transport: &http.Transport{}, Timeout: patience}, err
}

// teller is a person with a browser, who prints the results. Both shops share Redis and the browser's cookie, so that
// both have the same session.
type teller struct {
	options
	lab           *lab
	without, with *shop
	browser       *http.Client
}

func (t *teller) tell(ctx context.Context) error {
	t.say("An edge and three services: edge -> orders -> stock -> payment. Sessions in %s.", t.lab.name)
	t.say("Ada logs in and clicks. All four call sessions.Get to learn who she is, with the same handlers either way.")
	if err := t.post(ctx, "/login"); err != nil {
		return err
	}
	for _, chapter := range []func(context.Context) error{t.countReads, t.takeTimes, t.logOut} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// countReads shows who reads the store per click.
func (t *teller) countReads(ctx context.Context) error {
	t.say("\n1. Reads of the store per click\n")
	t.say("%-28s %6s %7s %6s %8s %6s", "", "edge", "orders", "stock", "payment", "all")
	for _, way := range []struct {
		name string
		shop *shop
		path string
		want [4]int64
	}{
		{"each service asks the store", t.without, "/page", [4]int64{1, 1, 1, 1}},
		{"with relay", t.with, "/page", [4]int64{1, 0, 0, 0}},
		{"with relay, to pay", t.with, "/pay", [4]int64{1, 0, 0, 1}},
	} {
		var before, reads [4]int64
		for i, p := range way.shop.all() {
			before[i] = p.meter.reads.Load()
		}
		if err := t.click(ctx, way.shop, way.path); err != nil {
			return err
		}
		var all int64
		for i, p := range way.shop.all() {
			reads[i] = p.meter.reads.Load() - before[i]
			all += reads[i]
		}
		t.say("%-28s %6d %7d %6d %8d %6d", way.name, reads[0], reads[1], reads[2], reads[3], all)
		if reads != way.want {
			return fmt.Errorf("%s: the reads are %v, want %v", way.name, reads, way.want)
		}
	}
	token, _ := t.with.lastToken.Load().(string)
	t.say("\nInstead of the cookie, a service gets a signed token of %d bytes, which contains user and tenant.", len(token))
	t.say("The keys of the edge were fetched %d times, once by each service. Before a payment, a service", t.with.keyFetches.Load())
	t.say("checks the store on purpose (relay.Confirm).")
	if n := t.with.keyFetches.Load(); n != int64(len(t.with.chain)) {
		return fmt.Errorf("the keys were fetched %d times", n)
	}
	return nil
}

// takeTimes shows how long a click takes. Both ways take turns, so that a busy machine is equally busy for both.
func (t *teller) takeTimes(ctx context.Context) error {
	t.say("\n2. Time for one click, median\n")
	t.say("%-28s %10s %10s %7s   %s", "", "each asks", "with relay", "ratio", "measured")
	distances := []time.Duration{0}
	if t.delay > 0 {
		distances = append(distances, t.delay)
	}
	for _, delay := range distances {
		t.lab.delay.Store(int64(delay))
		t.lab.takeReadTimes()
		var took [2][]time.Duration
		for begin := time.Now(); len(took[1]) < t.clicks && (len(took[1]) == 0 || time.Since(begin) < 2*time.Second); {
			for i, s := range []*shop{t.without, t.with} {
				start := time.Now()
				if err := t.click(ctx, s, "/page"); err != nil {
					return err
				}
				took[i] = append(took[i], time.Since(start))
			}
			if n := len(took[1]); n%10 == 0 {
				t.progress("%d of %d clicks", n, t.clicks)
			}
		}
		t.progress("")
		name := "Redis here"
		if delay > 0 {
			name = fmt.Sprintf("Redis %v farther away", delay)
		}
		without, with := median(took[0]), median(took[1])
		t.say("%-28s %10s %10s %7.2f   %d clicks each, a read took %s", name, ms(without), ms(with),
			float64(with)/float64(without), len(took[1]), ms(median(t.lab.takeReadTimes())))
	}
	if t.delay > 0 {
		t.say("\nThe second line adds %v to each read, as a network would (-delay).", t.delay)
	}
	t.say("With relay, a click signs once and verifies at each service. That takes CPU time, while a read mostly waits.")
	t.say("If Redis is close, relay may save reads but no time.")
	return nil
}

// logOut shows what remains after a logout for someone who has kept a token: a service that still has work to do, or a
// thief.
func (t *teller) logOut(ctx context.Context) error {
	t.say("\n3. After a logout, with a token that someone has kept (valid for %v at most)\n", t.lifetime)
	t.say("%-12s %-14s %-22s %s", "", "the edge", "a service", "a service that checks the store")
	if err := t.click(ctx, t.with, "/page"); err != nil {
		return err
	}
	dies := time.Now().Add(t.lifetime) // or sooner: tokens count in whole seconds
	token, _ := t.with.lastToken.Load().(string)
	before, err := t.ask(ctx, token)
	if err != nil {
		return err
	}
	t.say("%-12s %s", "before", before)
	if before != (answers{true, true, true}) {
		return errors.New("a request was rejected before the logout")
	}
	if err := t.post(ctx, "/logout"); err != nil {
		return err
	}
	logout := time.Now()

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	now, at := before, [3]time.Duration{} // when each has rejected
	for nextRow := time.Duration(0); now.token; {
		begin := time.Now()
		asked, err := t.ask(ctx, token)
		if err != nil {
			return err
		}
		since := time.Since(logout)
		for i, changed := range [3]bool{now.edge != asked.edge, now.token != asked.token, now.confirm != asked.confirm} {
			if changed {
				at[i] = since
			}
		}
		if asked != now || since >= nextRow {
			t.say("%-12s %s", fmt.Sprintf("+ %.2f s", since.Seconds()), asked)
			nextRow = since.Truncate(time.Second/2) + time.Second/2
		}
		if asked.edge || asked.confirm {
			return errors.New("those who check the store did not see the logout at once")
		}
		if asked.token && begin.After(dies) {
			return fmt.Errorf("the token is valid for longer than %v", t.lifetime)
		}
		now = asked
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	t.say("\nThe logout took effect at once at the edge, and at a service that checks the store (%s, at the first", ms(at[0]))
	t.say("request). The token alone stayed valid for %.2f s more: only its expiry ends it.", at[1].Seconds())
	return nil
}

// answers reports who still accepts requests as before the logout.
type answers struct{ edge, token, confirm bool }

func (a answers) String() string {
	word := func(ok bool) string {
		if ok {
			return "accepts"
		}
		return "rejects"
	}
	return fmt.Sprintf("%-14s %-22s %s", word(a.edge), word(a.token), word(a.confirm))
}

// ask asks the edge with the cookie, and the last service with a token.
func (t *teller) ask(ctx context.Context, token string) (a answers, err error) {
	last := t.with.last()
	for _, q := range []struct {
		url, token string
		ok         *bool
	}{
		{t.with.edge.url + "/page", "", &a.edge},
		{last.url + "/page", token, &a.token},
		{last.url + "/pay", token, &a.confirm},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.url, nil)
		if err != nil {
			return a, err
		}
		client := t.browser
		if q.token != "" {
			client = &http.Client{Transport: t.browser.Transport, Timeout: patience} // it has the token, but no cookie
			req.Header.Set(relay.DefaultHeader, q.token)
		}
		_, status, err := fetch(client, req)
		switch {
		case err != nil:
			return a, err
		case status == http.StatusOK:
			*q.ok = true
		case status != http.StatusUnauthorized:
			return a, fmt.Errorf("%s answers %d", q.url, status)
		}
	}
	return a, nil
}

// click requests a page as the browser, and compares the response with what Ada should see.
func (t *teller) click(ctx context.Context, s *shop, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.edge.url+path, nil)
	if err != nil {
		return err
	}
	body, status, err := fetch(t.browser, req)
	if err != nil {
		return err
	}
	want := ""
	for _, p := range s.all() {
		want += p.name + ": ada of acme\n"
	}
	if status != http.StatusOK || body != want {
		return fmt.Errorf("the page answers %d: %s", status, strings.TrimSpace(body))
	}
	return nil
}

func (t *teller) post(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.with.edge.url+path, nil)
	if err != nil {
		return err
	}
	if _, status, err := fetch(t.browser, req); err != nil || status != http.StatusOK {
		return fmt.Errorf("%s answers %d: %v", path, status, err)
	}
	return nil
}

func (t *teller) say(format string, args ...any) {
	fmt.Fprintln(t.out, strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// progress overwrites a line on a terminal; an empty text removes it.
func (t *teller) progress(format string, args ...any) {
	if t.live {
		fmt.Fprintf(t.out, "\r\x1b[K"+format, args...)
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
