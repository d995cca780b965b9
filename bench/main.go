// Command bench does the same work on Handover and on what else a Go program would use for its sessions, side by side in
// one process and in turns, against a redis-server that it starts itself:
//
//	go run .                  all of it, some minutes; the machine should have nothing else to do
//	go run . -quick           a look, half a minute; its figures are not for quoting
//	go run . -write ..        also writes the results, the charts and the table of the README of the repository in ..
//	go run . -json out.json   also keeps the figures
//	go run . -from out.json   shows figures that were kept, and measures nothing
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/boj/redistore"
	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
	"handover.example/sessions/relay"
)

// scale is how much is done.
type scale struct {
	rounds, requests int // of the costs
	memory           int // sessions of each library
	load             time.Duration
	clients          []int
	fill             []int // sessions in Redis
	probes           int   // of those, the most that each library has at each step
	keys             []int // of a session
}

var (
	full = scale{rounds: 60, requests: 200, memory: 100_000, load: 3 * time.Second, clients: []int{1, 16, 64, 256},
		fill: []int{1_000, 100_000, 5_000_000}, probes: 20_000, keys: []int{10, 100, 1000}}
	quick = scale{rounds: 5, requests: 50, memory: 2_000, load: 200 * time.Millisecond, clients: []int{1, 16},
		fill: []int{1_000, 10_000, 50_000}, probes: 500, keys: []int{10, 100, 1000}}
)

// results is all that was measured.
type results struct {
	Date     string     `json:"date"`
	Machine  string     `json:"machine"`
	Versions string     `json:"versions"`
	Command  string     `json:"command"`
	Rounds   int        `json:"rounds"`
	Requests int        `json:"requests_of_a_round"`
	OneCore  bool       `json:"one_core"`    // where one request is made at a time
	Others   float64    `json:"other_cores"` // that other programs kept busy meanwhile, on average
	Costs    []costRow  `json:"costs"`
	Commands []countRow `json:"commands"`
	Memory   []countRow `json:"memory"`
	Sessions int        `json:"memory_sessions"`
	Codecs   []codecRow `json:"codecs"`
	Load     []loadRow  `json:"load"`
	Fill     []growRow  `json:"fill"`
	Keys     []growRow  `json:"keys"`
}

type costRow struct {
	Subject string `json:"subject"`
	Store   string `json:"store"`
	Op      op     `json:"op"`
	Size    size   `json:"size"`
	cost
}

// countRow is a figure for an op, or one for the subject.
type countRow struct {
	Subject string         `json:"subject"`
	Op      op             `json:"op,omitempty"`
	Value   float64        `json:"value"`
	Names   map[string]int `json:"names,omitempty"`
}

type codecRow struct {
	Codec  string `json:"codec"`
	Size   size   `json:"size"`
	Sealed int    `json:"sealed_bytes"`
	Seal   cost   `json:"seal"`
	Open   cost   `json:"open"`
}

type loadRow struct {
	Subject string `json:"subject"`
	Op      op     `json:"op"`
	loaded
}

// growRow is the cost of an op where there is more of something.
type growRow struct {
	Subject string `json:"subject"`
	Op      op     `json:"op"`
	Of      int    `json:"of"`
	cost
}

func main() {
	isQuick := flag.Bool("quick", false, "a look: few rounds, few sessions")
	write := flag.String("write", "", "the `directory` of the repository whose README and docs get the results")
	out := flag.String("json", "", "a `file` for the figures")
	from := flag.String("from", "", "show the figures of this `file`, and measure nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, os.Stderr, *isQuick, *write, *out, *from); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout, progress io.Writer, isQuick bool, write, out, from string) (err error) {
	var res *results
	if from != "" {
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		res = &results{}
		if err := json.Unmarshal(text, res); err != nil {
			return err
		}
	} else {
		sc := full
		if isQuick {
			sc = quick
		}
		if res, err = measureAll(ctx, sc, progress); err != nil {
			return err
		}
		res.Command = "cd bench && go run ."
		if isQuick {
			res.Command += " -quick"
		}
	}
	fmt.Fprint(stdout, res.text())
	if out != "" {
		if err := os.WriteFile(out, res.json(), 0o644); err != nil {
			return err
		}
	}
	if write != "" {
		return res.write(write)
	}
	return nil
}

func (r *results) json() []byte { return append(must(json.MarshalIndent(r, "", " ")), '\n') }

// suite is all subjects, and the server that they share.
type suite struct {
	server   *server
	rdb      *redis.Client
	auto     *redis.AutoPipeliner
	subjects []*subject
	codecs   []*subject // for records of codecSizes, by turns
	sealed   []int      // bytes of the cookie values
}

func newSuite(ctx context.Context) (*suite, func(), error) {
	srv, err := startServer(ctx)
	if err != nil {
		return nil, nil, err
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // writing a log is no part of anybody's session
	rdb := redis.NewClient(&redis.Options{Addr: srv.addr})
	auto := must(redis.NewClient(&redis.Options{Addr: srv.addr}).AutoPipeline())
	connections := rdb.Options().PoolSize
	s := &suite{server: srv, rdb: rdb, auto: auto}
	s.subjects = []*subject{
		bare(),
		scsMemory(),
		gorillaCookie(gorillaCrypt, hashKey, blockKey),
		gorillaCookie("gorilla, CookieStore, signed only", hashKey),
	}
	for i, c := range codecs() {
		name := oursCookie
		if i > 0 {
			name += ", " + c.name
		}
		s.subjects = append(s.subjects, handoverCookie(name, c.it))
		for _, sz := range codecSizes {
			x, sealed := codecSubject(c.name, c.it, sz.keys())
			s.codecs, s.sealed = append(s.codecs, x), append(s.sealed, sealed)
		}
	}
	s.subjects = append(s.subjects,
		bareRedis(rdb, func(keys int) int { return recordLength(rdb, keys) }),
		handoverRedis(oursRedis, rdb),
		scsRedis(scsPlain, "sc:sess:", rdb, 0, scs.GobCodec{}),
		scsRedis(scsIdle, "si:sess:", rdb, 24*time.Hour, scs.GobCodec{}),
		scsRedis("scs, goredisstore, JSON", "sj:sess:", rdb, 0, jsonCodec{}),
		gorillaRedis(gorillaPlain, "go:sess:", srv.addr, connections, true, redistore.GobSerializer{}),
		gorillaRedis("gorilla, redistore, JSON, no PING", "gj:sess:", srv.addr, connections, false, redistore.JSONSerializer{}),
		relayTokens(relay.EdDSA),
		relayTokens(relay.ES256),
	)
	return s, func() {
		_ = auto.Close()
		_ = rdb.Close()
		srv.stop()
	}, nil
}

// The names of those that are held against each other.
const (
	bareHandler   = "bare handler"
	bareCommands  = "bare go-redis"
	oursCookie    = "Handover, cookie"
	oursAEAD      = "Handover, cookie, AEAD"
	oursRedis     = "Handover, Redis"
	scsMem        = "scs, memstore"
	scsPlain      = "scs, goredisstore"
	scsIdle       = "scs, goredisstore, IdleTimeout"
	gorillaCrypt  = "gorilla, CookieStore"
	gorillaPlain  = "gorilla, redistore"
	oursPipelined = "Handover, Redis, AutoPipeline"
)

func (s *suite) named(name string) *subject {
	for _, x := range s.subjects {
		if x.name == name {
			return x
		}
	}
	panic("no subject " + name)
}

// inRedis are the subjects that keep sessions in Redis, and the bare commands if asked for.
func (s *suite) inRedis(floor bool) (list []*subject) {
	for _, x := range s.subjects {
		if x.store == "redis" && (floor || x.library != "floor") {
			list = append(list, x)
		}
	}
	return list
}

func (s *suite) flush() { check(s.rdb.FlushDB(context.Background()).Err()) }

// tasks are the costs that are measured: all ops on small sessions, and those that depend on it on large ones.
func (s *suite) tasks() (tasks []*task) {
	for _, x := range s.subjects {
		for _, o := range x.ops {
			tasks = append(tasks, newTask(x, o, small))
			if x.store == "redis" && (o == read || o == readWrite) {
				tasks = append(tasks, newTask(x, o, large))
			}
		}
	}
	for i, x := range s.codecs {
		for _, o := range x.ops {
			tasks = append(tasks, newTask(x, o, codecSizes[i%2]))
		}
	}
	return tasks
}

var codecSizes = [2]size{small, medium}

func measureAll(ctx context.Context, sc scale, progress io.Writer) (*results, error) {
	s, stop, err := newSuite(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	res := &results{Date: time.Now().Format(time.DateOnly), Machine: machine(), Versions: s.versions(), Rounds: sc.rounds, Requests: sc.requests}
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(progress, "%5.0fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}

	ours := func() float64 { return processTime().Seconds() + s.server.cpu() }
	allBefore, oursBefore := busy(), ours()
	release := func() {}
	keepTogether := func(one bool) {
		release()
		release = func() {}
		if !one {
			return
		}
		r, err := oneCore(s.server.pid())
		if res.OneCore = err == nil; res.OneCore {
			release = r
		} else {
			say("Go and Redis are not on one core, so times will vary: %v", err)
		}
	}
	defer func() { release() }()
	keepTogether(true)
	tasks := s.tasks()
	measure(ctx, tasks, sc.rounds, sc.requests, func(round int) {
		if round%5 == 0 {
			say("costs of a request: round %d of %d", round, sc.rounds)
		}
		s.flush()
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, t := range tasks {
		if t.subject.store != "codec" {
			res.Costs = append(res.Costs, costRow{t.subject.name, t.subject.store, t.op, t.size, t.cost})
			continue
		}
		i := slices.Index(s.codecs, t.subject)
		if t.op == seal {
			res.Codecs = append(res.Codecs, codecRow{Codec: strings.TrimSuffix(t.subject.name, " codec"), Size: t.size, Sealed: s.sealed[i], Seal: t.cost})
		} else {
			res.Codecs[len(res.Codecs)-1].Open = t.cost
		}
	}

	say("Redis commands of a request")
	for _, x := range s.inRedis(true) {
		for _, o := range x.ops {
			res.Commands = append(res.Commands, s.count(x, o, 20))
		}
	}

	keepTogether(false)
	say("Redis memory of %d sessions of each", sc.memory)
	res.Sessions = sc.memory
	for _, x := range s.inRedis(false) {
		res.Memory = append(res.Memory, s.weigh(x, sc.memory))
		say("  %s", x.name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}

	say("servers under load, %v each", sc.load)
	for _, clients := range sc.clients {
		for _, x := range s.servers() {
			for _, o := range []op{untouched, read, readWrite} {
				if !x.does(o) || o == untouched && x.store != "none" {
					continue
				}
				s.flush()
				res.Load = append(res.Load, loadRow{x.name, o, s.server.loadFor(ctx, x, o, clients, sc.load)})
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
			}
		}
		say("  %d clients", clients)
	}

	keepTogether(true)
	say("growth of a session")
	res.Keys = s.growKeys(ctx, sc)
	if ctx.Err() == nil {
		say("growth of the store")
		res.Fill = s.growFill(ctx, sc, say)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	res.Others = max(0, (busy()-allBefore-(ours()-oursBefore))/time.Since(begin).Seconds())
	say("done")
	return res, nil
}

// servers are those that are put under load.
func (s *suite) servers() []*subject {
	return []*subject{s.named(bareHandler), s.named(bareCommands), s.named(oursRedis), handoverRedis(oursPipelined, s.auto), s.named(scsPlain), s.named(gorillaPlain)}
}

// count counts the Redis commands of n requests.
func (s *suite) count(x *subject, o op, n int) countRow {
	t := newTask(x, o, small)
	t.run(1) // the script is there
	requests := t.prepare(n)
	names := s.server.commands(func() { t.serve(requests) })
	total := 0
	for _, c := range names {
		total += c
	}
	return countRow{Subject: x.name, Op: o, Value: float64(total) / float64(n), Names: names}
}

// weigh returns the memory that Redis needs for each of n sessions.
func (s *suite) weigh(x *subject, n int) countRow {
	const writers = 8
	s.flush()
	grow := func(each int) {
		parallel(writers, func(int) {
			for range each {
				x.create(0, false)
			}
		})
	}
	grow(1) // the connections are there
	before := s.server.usedMemory()
	grow(n / writers)
	return countRow{Subject: x.name, Value: (s.server.usedMemory() - before) / float64(n/writers*writers)}
}

var growing = []string{bareCommands, oursRedis, scsPlain, gorillaPlain}

// growKeys measures sessions of more and more keys.
func (s *suite) growKeys(ctx context.Context, sc scale) (rows []growRow) {
	var tasks []*task
	for _, name := range growing {
		for _, o := range []op{read, readWrite} {
			for _, keys := range sc.keys {
				tasks = append(tasks, newTaskOf(s.named(name), o, "", keys))
			}
		}
	}
	measure(ctx, tasks, sc.rounds/4+1, max(sc.requests/4, 10), func(int) { s.flush() })
	for _, t := range tasks {
		rows = append(rows, growRow{t.subject.name, t.op, t.keys, t.cost})
	}
	return rows
}

// growFill measures while more and more sessions are in Redis. Each request is for another session of those, chosen at
// random among many, so that it is in no cache of Redis or the processor.
func (s *suite) growFill(ctx context.Context, sc scale, say func(string, ...any)) (rows []growRow) {
	s.flush()
	template := strings.Repeat("v", recordLength(s.rdb, 0))
	probes := map[string][]string{}
	there := 0
	for _, want := range sc.fill {
		steps := min(want/(2*len(growing)), sc.probes)
		from, next := there, 1_000_000
		for i := range steps {
			for _, name := range growing {
				probes[name] = append(probes[name], s.named(name).create(0, false))
			}
			there += len(growing)
			pipe := s.rdb.Pipeline()
			for ; there < from+(want-from)*(i+1)/steps; there++ {
				pipe.Set(ctx, "ho:sess:"+sessions.NewToken(), template, lifetime)
			}
			if pipe.Len() > 0 {
				if _, err := pipe.Exec(ctx); ctx.Err() != nil {
					return nil
				} else {
					check(err)
				}
			}
			if there >= next {
				say("  %d sessions", next)
				next += 1_000_000
			}
		}
		var tasks []*task
		for _, name := range growing {
			for _, o := range []op{read, readWrite, login} {
				t := newTask(s.named(name), o, small)
				if o != login {
					t.next = func() *http.Request { return request(probes[name][rand.N(len(probes[name]))]) }
				}
				tasks = append(tasks, t)
			}
		}
		measure(ctx, tasks, sc.rounds/4+1, sc.requests, nil)
		for _, t := range tasks {
			rows = append(rows, growRow{t.subject.name, t.op, want, t.cost})
		}
	}
	return rows
}

func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores (%s), %s, Redis on the same machine", runtime.NumCPU(), model, runtime.GOOS)
}

// busy is the time, in seconds, that the machine's processors have worked for programs, or been taken away; 0 where that
// cannot be told. Interrupts are not in it: most are those of the loopback interface, and ours.
func busy() (seconds float64) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		switch i {
		case 1, 2, 3, 8: // user, nice, system, steal
		default:
			continue
		}
		ticks, _ := strconv.ParseFloat(field, 64)
		seconds += ticks / 100
	}
	return seconds
}

// versions names what was measured.
func (s *suite) versions() string {
	list := append([]string{strings.Replace(runtime.Version(), "go", "Go ", 1), "Redis " + s.server.info("server", "redis_version")}, modules()...)
	return strings.Join(list, ", ")
}
