package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cost is what one request costs. The times are of the rounds: half of them lie between the quartiles.
type cost struct {
	Time   time.Duration `json:"ns"` // the median
	Q1     time.Duration `json:"q1_ns"`
	Q3     time.Duration `json:"q3_ns"`
	Allocs float64       `json:"allocs"`
	Bytes  float64       `json:"bytes"`
	Rounds series        `json:"rounds_ns,omitempty"` // in their order
}

// over returns how many times as long as the other it takes: the median of the rounds' ratios. A slow moment of the
// machine is one for both of a round; in the ratio of two medians it is for one of them.
func (c cost) over(other cost) float64 {
	if len(c.Rounds) != len(other.Rounds) || len(c.Rounds) == 0 {
		return float64(c.Time) / float64(other.Time)
	}
	ratios := make([]float64, len(c.Rounds))
	for i := range ratios {
		ratios[i] = float64(c.Rounds[i]) / float64(other.Rounds[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// series is one line of JSON, and not one for each number.
type series []time.Duration

func (s series) MarshalText() ([]byte, error) {
	var b []byte
	for i, d := range s {
		if i > 0 {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, int64(d), 10)
	}
	return b, nil
}

func (s *series) UnmarshalText(text []byte) error {
	for word := range strings.FieldsSeq(string(text)) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return err
		}
		*s = append(*s, time.Duration(n))
	}
	return nil
}

// task is one op of one subject, ready to be measured.
type task struct {
	subject *subject
	op      op
	size    size
	keys    int
	cost    cost
	rounds  []time.Duration

	handler http.Handler
	next    func() *http.Request // makes the next request; what it takes is not measured
	reset   func()               // makes what all requests share, after Redis has been emptied
	w       response
}

func newTask(s *subject, o op, sz size) *task { return newTaskOf(s, o, sz, sz.keys()) }

func newTaskOf(s *subject, o op, sz size, keys int) *task {
	t := &task{subject: s, op: o, size: sz, keys: keys, handler: s.handler(o), w: response{header: http.Header{}}}
	next := s.next[o]
	switch {
	case o == verifyAgain:
		var r *http.Request
		t.next = func() *http.Request { return r }
		t.reset = func() {
			r = next()
			t.handler.ServeHTTP(&t.w, r) // it has been seen
		}
	case next != nil:
		t.next = next
	case o == login:
		t.next = func() *http.Request { return request("") }
	case o.changes():
		t.next = func() *http.Request { return request(s.create(keys, o == slide)) }
	default:
		var cookie string
		t.next = func() *http.Request { return request(cookie) }
		t.reset = func() { cookie = s.create(keys, false) }
	}
	t.renew()
	return t
}

func (t *task) renew() {
	if t.reset != nil {
		t.reset()
	}
}

func (t *task) prepare(n int) []*http.Request {
	requests := make([]*http.Request, n)
	for i := range requests {
		requests[i] = t.next()
	}
	return requests
}

func (t *task) serve(requests []*http.Request) {
	for _, r := range requests {
		clear(t.w.header)
		t.handler.ServeHTTP(&t.w, r)
	}
}

// long is a time long enough to be measured.
const long = 2 * time.Millisecond

// run sends n requests and gives the time that one took. What it takes to make them is not in it, nor what the garbage
// collector does for those before.
func (t *task) run(n int) time.Duration {
	requests := t.prepare(n)
	runtime.GC()
	passes := 0
	start := time.Now()
	for {
		t.serve(requests)
		passes++
		if took := time.Since(start); took >= long || !t.op.quickly() {
			return took / time.Duration(passes*n)
		}
	}
}

// measure runs the tasks in turns, each round in another order, so that what else the machine does hits all alike; those of
// the same op, which are held against each other, follow one another. Before each round, between is called if there is
// one, and the tasks make what they share.
func measure(ctx context.Context, tasks []*task, rounds, requests int, between func(round int)) {
	for round := range rounds + 1 {
		if between != nil {
			between(round)
			for _, t := range tasks {
				t.renew()
			}
		}
		order, rank := rand.Perm(len(tasks)), map[op]int{}
		for _, i := range order {
			if _, ok := rank[tasks[i].op]; !ok {
				rank[tasks[i].op] = len(rank)
			}
		}
		slices.SortStableFunc(order, func(a, b int) int { return rank[tasks[a].op] - rank[tasks[b].op] })
		for _, i := range order {
			if ctx.Err() != nil {
				return
			}
			t := tasks[i]
			took := t.run(requests)
			if round > 0 { // the first one warms up
				t.rounds = append(t.rounds, took)
			}
		}
	}
	for _, t := range tasks {
		t.cost.Rounds = slices.Clone(t.rounds)
		slices.Sort(t.rounds)
		n := len(t.rounds)
		t.cost.Q1, t.cost.Time, t.cost.Q3 = t.rounds[n/4], t.rounds[n/2], t.rounds[n*3/4]
		t.cost.Allocs, t.cost.Bytes = t.allocations(requests)
	}
}

// allocations counts those of the requests alone.
func (t *task) allocations(n int) (count, bytes float64) {
	requests := t.prepare(n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	t.serve(requests)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}

func (t *task) String() string { return fmt.Sprintf("%s, %s, %s", t.subject.name, t.op, t.size) }

// request is as a server makes it of what a browser sends: the session's cookie is not the only one.
func request(cookie string) *http.Request {
	r, err := http.NewRequest(http.MethodGet, "http://bench.example/", nil)
	check(err)
	r.RemoteAddr, r.RequestURI = "127.0.0.1:4711", "/"
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	r.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	r.Header.Set("Accept-Language", "en-GB,en;q=0.5")
	r.Header.Set("Accept-Encoding", "gzip, deflate, br")
	others := "theme=dark; lang=en"
	if cookie != "" {
		others += "; " + cookie
	}
	r.Header.Set("Cookie", others)
	return r
}

// response is a ResponseWriter that keeps nothing but the headers. It has the optional interfaces of that of net/http, so
// that a middleware has to do what it does in a server.
type response struct {
	header http.Header
}

func (w *response) Header() http.Header               { return w.header }
func (w *response) Write(b []byte) (int, error)       { return len(b), nil }
func (w *response) WriteString(s string) (int, error) { return len(s), nil }
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(io.Discard, r)
}
func (w *response) Flush() {}
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.ErrUnsupported
}

// WriteHeader panics if a handler responds with an error.
func (w *response) WriteHeader(status int) {
	if status != http.StatusOK {
		panic(fmt.Sprintf("the answer is %d", status))
	}
}
