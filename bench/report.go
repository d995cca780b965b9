package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// modules names the libraries beside ours, with their versions.
func modules() (list []string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	names := map[string]string{
		"github.com/alexedwards/scs/v2": "scs", "github.com/gorilla/sessions": "gorilla/sessions", "github.com/boj/redistore": "redistore",
		"github.com/redis/go-redis/v9": "go-redis",
	}
	for _, m := range info.Deps {
		if name, ok := names[m.Path]; ok {
			list = append(list, name+" "+m.Version)
		}
	}
	slices.Sort(list)
	return list
}

func (r *results) cost(subject string, o op, s size) (cost, bool) {
	for _, c := range r.Costs {
		if c.Subject == subject && c.Op == o && c.Size == s {
			return c.cost, true
		}
	}
	return cost{}, false
}

func find(rows []countRow, subject string, o op) (float64, bool) {
	for _, c := range rows {
		if c.Subject == subject && c.Op == o {
			return c.Value, true
		}
	}
	return 0, false
}

// target is one of the aims of the design, held against what was measured. All are ratios or counts of one run.
type target struct {
	row    rowID // beside which it stands in the table
	what   string
	figure string
	aim    string
	others string
	met    bool
}

// rowID names a row of the table. The row of a memory has no op.
type rowID struct {
	subject string
	op      op
	size    size
}

func (r *results) targets() (list []target) {
	add := func(row rowID, what, aim, others string, met bool, figure string, args ...any) {
		list = append(list, target{row, what, fmt.Sprintf(figure, args...), aim, others, met})
	}
	// What was not measured is not met: NaN is neither less nor more than anything.
	ns := func(subject string, o op, s size) float64 {
		if c, ok := r.cost(subject, o, s); ok {
			return float64(c.Time)
		}
		return nan
	}
	ratio := func(a, b rowID) float64 {
		one, ok := r.cost(a.subject, a.op, a.size)
		other, also := r.cost(b.subject, b.op, b.size)
		if !ok || !also {
			return nan
		}
		return one.over(other)
	}
	over := func(subject string) float64 {
		return (ns(subject, untouched, small) - ns(bareHandler, untouched, small)) / 1e3
	}
	count := func(subject string, o op) float64 { return orNaN(find(r.Commands, subject, o)) }
	memory := func(subject string) float64 { return orNaN(find(r.Memory, subject, "")) }

	row := rowID{oursRedis, untouched, small}
	add(row, "Session not asked for, more than the bare handler", "less than 0.5 µs",
		fmt.Sprintf("scs %.1f µs, on Redis %.0f µs; gorilla has no middleware", over(scsMem), over(scsPlain)), over(oursRedis) < 0.5, "%.2f µs", over(oursRedis))
	allocs := nan
	if ours, ok := r.cost(oursRedis, untouched, small); ok {
		floor, _ := r.cost(bareHandler, untouched, small)
		allocs = ours.Allocs - floor.Allocs
	}
	peer, _ := r.cost(scsMem, untouched, small)
	add(row, "The same, allocations", "3 or fewer", fmt.Sprintf("scs %.0f", peer.Allocs), allocs < 3.05, "%.0f", allocs)

	for _, o := range []op{read, readWrite} {
		beside := func(subject string) float64 { return ratio(rowID{subject, o, small}, rowID{gorillaCrypt, o, small}) }
		// What securecookie takes for itself is a floor under the figure.
		codec, _ := r.firstCodec(small)
		floor := codec.Open.Time
		if o == readWrite {
			floor += codec.Seal.Time
		}
		add(rowID{oursCookie, o, small}, "Sealed cookie, "+string(o), "0.125 of gorilla or less",
			fmt.Sprintf("securecookie by itself %.3f", float64(floor)/ns(gorillaCrypt, o, small)),
			beside(oursCookie) <= 0.125, "%.3f of gorilla, %.3f with the AEAD codec", beside(oursCookie), beside(oursAEAD))
	}
	for _, o := range []op{read, readWrite} {
		times := func(subject string) float64 { return ratio(rowID{subject, o, small}, rowID{bareCommands, o, small}) }
		add(rowID{oursRedis, o, small}, "Redis, "+string(o), "1.15 of the bare commands or less",
			fmt.Sprintf("scs %.2f, gorilla %.2f", times(scsPlain), times(gorillaPlain)), times(oursRedis) <= 1.15, "%.2f of the bare commands", times(oursRedis))
	}
	for _, c := range []struct {
		op   op
		want float64
		aim  string
	}{{untouched, 0, "0"}, {read, 1, "1"}, {readWrite, 2, "2"}, {slide, 2, "2, once in 1/8 of the timeout"}} {
		others := fmt.Sprintf("scs %.0f, with IdleTimeout %.0f", count(scsPlain, c.op), count(scsIdle, c.op))
		if c.op == slide {
			others = fmt.Sprintf("scs with IdleTimeout %.0f, each time", count(scsIdle, c.op))
		}
		add(rowID{oursRedis, c.op, small}, "Redis commands, "+string(c.op), c.aim, others, count(oursRedis, c.op) == c.want, "%.3g", count(oursRedis, c.op))
	}
	add(rowID{subject: oursRedis}, "Redis memory of a session", "330 bytes or less",
		fmt.Sprintf("scs %.0f, gorilla %.0f", memory(scsPlain), memory(gorillaPlain)), memory(oursRedis) <= 330, "%.0f bytes", memory(oursRedis))

	times := func(subject string) float64 { return ratio(rowID{subject, read, large}, rowID{subject, read, small}) }
	add(rowID{oursRedis, read, large}, "One key of a session of 100 keys, 8 KB", "less than 2 times the small session",
		fmt.Sprintf("scs %.1f, gorilla %.1f", times(scsPlain), times(gorillaPlain)), times(oursRedis) < 2, "%.2f times", times(oursRedis))

	slowest, biggest := nan, nan
	var figures []string
	for _, c := range r.Codecs {
		first, ok := r.firstCodec(c.Size)
		if ok && first.Codec != c.Codec {
			time, bytes := c.beside(first)
			if len(figures) == 0 {
				slowest, biggest = time, bytes
			}
			slowest, biggest = max(slowest, time), max(biggest, bytes)
			figures = append(figures, fmt.Sprintf("%.2f and %.2f (%s)", time, bytes, c.Size))
		}
	}
	add(rowID{subject: "codec"}, "AEAD codec beside securecookie: time of sealing and opening, bytes", "0.5 and 0.75 or less, to be worth it", "",
		slowest <= 0.5 && biggest <= 0.75, "%s", strings.Join(figures, "; "))
	return list
}

// firstCodec is the one with which the others are compared.
func (r *results) firstCodec(s size) (codecRow, bool) {
	for _, c := range r.Codecs {
		if c.Size == s {
			return c, true
		}
	}
	return codecRow{}, false
}

func (c codecRow) beside(first codecRow) (time, bytes float64) {
	return float64(c.Seal.Time+c.Open.Time) / float64(first.Seal.Time+first.Open.Time), float64(c.Sealed) / float64(first.Sealed)
}

// us formats a duration in microseconds.
func us(d time.Duration) string {
	switch v := float64(d) / 1e3; {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// group is a part of the table: the rows of one op.
type group struct {
	title string
	op    op
	size  size
}

var groups = []group{
	{"Session not asked for", untouched, small},
	{"Read one key", read, small},
	{"Read and write one key", readWrite, small},
	{"Login: a new session", login, small},
	{"A read that slides the idle timeout", slide, small},
	{"Logout", logout, small},
	{"Read one key of 100, 8 KB", read, large},
	{"Read and write one key of 100, 8 KB", readWrite, large},
	{"Relay: sign a token", sign, small},
	{"Relay: verify a token", verify, small},
	{"Relay: verify a token that was seen before", verifyAgain, small},
}

// reference is what a row is compared with.
func (r *results) reference(c costRow) (label string, base cost) {
	name, o := "", c.Op
	switch {
	case c.Op == untouched:
		name, label = bareHandler, "the bare handler"
	case c.Store == "redis":
		name, label = bareCommands, "bare"
	case c.Store == "cookie":
		name, label = gorillaCrypt, "gorilla"
	case c.Store == "relay":
		name, label, o = bareCommands, "a GET", read
	}
	if name == c.Subject {
		return "", cost{}
	}
	base, _ = r.cost(name, o, c.Size)
	return label, base
}

// text is all of it, for a terminal.
func (r *results) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s\n%s\n%s\n", r.Date, r.Machine, r.Versions, r.Command)
	if r.Others > 0.1 {
		fmt.Fprintf(&b, "Other programs kept %.1f cores busy meanwhile: not figures to quote\n", r.Others)
	}
	r.table(&b)
	r.codecTable(&b)
	r.loadTable(&b)
	growTable(&b, "Time of a request in µs, by the keys of its session (75 bytes each)", "keys", r.Keys)
	growTable(&b, "Time of a request in µs, by the sessions in Redis (each request another session)", "sessions", r.Fill)
	missed := 0
	targets := r.targets()
	for _, t := range targets {
		if !t.met {
			missed++
			fmt.Fprintf(&b, "\n%s %s: %s; the target is %s", missedMark, t.what, t.figure, t.aim)
		}
	}
	fmt.Fprintf(&b, "\n%d of %d targets met\n", len(targets)-missed, len(targets))
	return b.String()
}

const missedMark = "MISSED"

func columns(b *strings.Builder) *tabwriter.Writer { return tabwriter.NewWriter(b, 0, 0, 2, ' ', 0) }

// table has a row for each subject and op, and the targets beside them.
func (r *results) table(b *strings.Builder) {
	where := "Go and Redis on one core"
	if !r.OneCore {
		where = "on cores that the system chose"
	}
	fmt.Fprintf(b, "\nOne request at a time, without the network to the client, %s: median of %d rounds of %d requests, and the quartiles.\nA ratio is the median of those of the rounds.\n\n", where, r.Rounds, r.Requests)
	w := columns(b)
	targets := r.targets()
	aims := func(id rowID) string {
		var list []string
		for _, t := range targets {
			if t.row == id {
				mark := "ok"
				if !t.met {
					mark = missedMark
				}
				list = append(list, fmt.Sprintf("%s %s", mark, t.aim))
			}
		}
		return strings.Join(list, "; ")
	}
	fmt.Fprintln(w, "\tµs\tquartiles\tbeside\tallocs\tbytes\tRedis commands\ttarget")
	for _, g := range groups {
		fmt.Fprintf(w, "%s\t\t\t\t\t\t\t\n", g.title)
		for _, c := range r.Costs {
			if c.Op != g.op || c.Size != g.size {
				continue
			}
			beside := ""
			if label, base := r.reference(c); base.Time > 0 && c.Op == untouched {
				beside = fmt.Sprintf("%+.2f µs", float64(c.Time-base.Time)/1e3)
			} else if base.Time > 0 {
				beside = fmt.Sprintf("%.2f x %s", c.over(base), label)
			}
			commands := ""
			if n, ok := find(r.Commands, c.Subject, c.Op); ok && c.Store == "redis" {
				commands = fmt.Sprintf("%.3g", n)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s - %s\t%s\t%.0f\t%.0f\t%s\t%s\n", c.Subject, us(c.Time), us(c.Q1), us(c.Q3), beside, c.Allocs, c.Bytes, commands,
				aims(rowID{c.Subject, c.Op, c.Size}))
		}
	}
	fmt.Fprintf(w, "Redis memory of one of %d sessions, bytes\t\t\t\t\t\t\t\n", r.Sessions)
	for _, m := range r.Memory {
		fmt.Fprintf(w, "  %s\t%.0f\t\t\t\t\t\t%s\n", m.Subject, m.Value, aims(rowID{subject: m.Subject}))
	}
	_ = w.Flush()
}

// codecTable compares the codecs with the first one.
func (r *results) codecTable(b *strings.Builder) {
	fmt.Fprint(b, "\nSealing a record into a cookie value\n\n")
	w := columns(b)
	fmt.Fprintln(w, "\tseal µs\tquartiles\tallocs\topen µs\tquartiles\tallocs\tboth\tbytes of value\tof the first")
	for _, c := range r.Codecs {
		both, size := "", ""
		if first, _ := r.firstCodec(c.Size); first.Codec != c.Codec {
			t, n := c.beside(first)
			both, size = fmt.Sprintf("%.2f x", t), fmt.Sprintf("%.2f x", n)
		}
		fmt.Fprintf(w, "%s, %s\t%s\t%s - %s\t%.0f\t%s\t%s - %s\t%.0f\t%s\t%d\t%s\n", c.Codec, c.Size, us(c.Seal.Time), us(c.Seal.Q1), us(c.Seal.Q3), c.Seal.Allocs,
			us(c.Open.Time), us(c.Open.Q1), us(c.Open.Q3), c.Open.Allocs, both, c.Sealed, size)
	}
	_ = w.Flush()
}

// loadTable shows how far each server gets: it is saturated where more clients get no more than a twentieth more.
func (r *results) loadTable(b *strings.Builder) {
	fmt.Fprint(b, "\nUnder load: server, clients and Redis on the same cores, over loopback HTTP; each request another session\n\n")
	w := columns(b)
	fmt.Fprintln(w, "\tclients\trequests/s\tp50 ms\tp99 ms\tcores busy: Go\tRedis\t")
	titles := map[op]string{untouched: "No session", read: "Read one key", readWrite: "Read and write one key"}
	for _, o := range []op{untouched, read, readWrite} {
		fmt.Fprintf(w, "%s\t\t\t\t\t\t\n", titles[o])
		var names []string
		for _, l := range r.Load {
			if l.Op == o && !slices.Contains(names, l.Subject) {
				names = append(names, l.Subject)
			}
		}
		for _, name := range names {
			rows := r.loadOf(name, o)
			at := saturation(rows)
			for i, l := range rows {
				mark := ""
				if i == at {
					mark = "saturated"
				}
				fmt.Fprintf(w, "  %s\t%d\t%.0f\t%.2f\t%.2f\t%.1f\t%.1f\t%s\n", l.Subject, l.Clients, l.PerSecond, ms(l.P50), ms(l.P99), l.GoCores, l.RedisCore, mark)
			}
		}
	}
	_ = w.Flush()
}

func (r *results) loadOf(subject string, o op) (rows []loadRow) {
	for _, l := range r.Load {
		if l.Subject == subject && l.Op == o {
			rows = append(rows, l)
		}
	}
	return rows
}

// saturation is the first row after which more clients get no more than a twentieth more; -1 if there is none.
func saturation(rows []loadRow) int {
	for i := range max(0, len(rows)-1) {
		most := 0.0
		for _, l := range rows[i+1:] {
			most = max(most, l.PerSecond)
		}
		if most <= 1.05*rows[i].PerSecond {
			return i
		}
	}
	return -1
}

func growTable(b *strings.Builder, title, of string, rows []growRow) {
	fmt.Fprintf(b, "\n%s\n\n", title)
	w := columns(b)
	sizes := sizesOf(rows)
	fmt.Fprint(w, "\t\t")
	for _, n := range sizes {
		fmt.Fprintf(w, "%s %s\tquartiles\t", short(n), of)
	}
	fmt.Fprintln(w)
	done := map[rowID]bool{}
	for _, g := range rows {
		id := rowID{g.Subject, g.Op, ""}
		if done[id] {
			continue
		}
		done[id] = true
		fmt.Fprintf(w, "%s\t%s\t", g.Subject, g.Op)
		for _, n := range sizes {
			if c, ok := grown(rows, g.Subject, g.Op, n); ok {
				fmt.Fprintf(w, "%s\t%s - %s\t", us(c.Time), us(c.Q1), us(c.Q3))
			} else {
				fmt.Fprint(w, "-\t\t")
			}
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
}

func grown(rows []growRow, subject string, o op, of int) (cost, bool) {
	for _, g := range rows {
		if g.Subject == subject && g.Op == o && g.Of == of {
			return g.cost, true
		}
	}
	return cost{}, false
}

func sizesOf(rows []growRow) (sizes []int) {
	for _, g := range rows {
		if !slices.Contains(sizes, g.Of) {
			sizes = append(sizes, g.Of)
		}
	}
	return sizes
}

// short writes 100 K for 100000.
func short(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%d M", n/1_000_000)
	case n >= 1_000 && n%1_000 == 0:
		return fmt.Sprintf("%d K", n/1_000)
	}
	return fmt.Sprint(n)
}

const (
	beginMark = "<!-- bench: made by the command below, not by hand -->"
	endMark   = "<!-- /bench -->"
)

// write puts the table into the README, between its marks, the charts beside the docs, and all figures beside the bench.
func (r *results) write(dir string) error {
	path := filepath.Join(dir, "README.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("README.md has no %q and %q", beginMark, endMark)
	}
	for name, content := range map[string]string{
		"docs/bench.svg":        r.chart(),
		"docs/bench-growth.svg": r.growthChart(),
		"bench/results.txt":     r.text(),
		"bench/results.json":    string(r.json()),
		"README.md":             before + beginMark + "\n\n" + r.markdown() + "\n" + endMark + after,
	} {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// markdown is the table of the README.
func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintln(&b, "| | Handover | target | others, in the same run |\n|---|---|---|---|")
	for _, t := range r.targets() {
		mark := ""
		if !t.met {
			mark = ": **missed**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s%s | %s |\n", t.what, t.figure, t.aim, mark, t.others)
	}
	where := ""
	if r.OneCore {
		where = ", one request at a time, Go and Redis on one core"
	}
	fmt.Fprintf(&b, `
![Time of a request with its session in Redis, beside others](docs/bench.svg)

![Time of a request by the sessions in Redis and by the keys of a session](docs/bench-growth.svg)

%s, %s. %s. Medians of %d rounds, in turns, and of their ratios%s. All figures, with quartiles, allocations, codecs, relay tokens and servers
under load: [bench/results.txt](bench/results.txt).
`, r.Date, r.Machine, r.Versions, r.Rounds, where)
	return b.String()
}

var nan = math.NaN()

func orNaN(v float64, ok bool) float64 {
	if !ok {
		return nan
	}
	return v
}
