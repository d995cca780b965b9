package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// loaded is how a server does under a number of clients that never rest.
type loaded struct {
	Clients   int           `json:"clients"`
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	GoCores   float64       `json:"go_cores"`    // that the server and its clients kept busy
	RedisCore float64       `json:"redis_cores"` // that redis-server kept busy
}

// pool is how many sessions the clients have together: each request takes another one than the last.
const pool = 2048

// load serves the op over loopback HTTP. The clients go on for as long as more says so, which is asked before each request;
// what began before counts is true does not count.
func (s *server) load(x *subject, o op, clients int, more func() bool, counts func(start time.Time) bool) loaded {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	srv := &http.Server{Handler: x.handler(o), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conns := make([]*conn, clients)
	requests := make([][][]byte, clients)
	for i := range conns {
		conns[i] = dial(l.Addr().String())
		for range max(1, pool/clients) {
			requests[i] = append(requests[i], wire(x.create(0, false)))
		}
	}

	goBefore, redisBefore := processTime(), s.cpu()
	begin := time.Now()
	var mu sync.Mutex
	var all []time.Duration
	var first, last time.Time
	parallel(clients, func(i int) {
		took := make([]time.Duration, 0, 1<<14)
		var from, to time.Time
		for n := 0; more(); n++ {
			start := time.Now()
			conns[i].do(requests[i][n%len(requests[i])])
			if !counts(start) {
				continue
			}
			to = time.Now()
			took = append(took, to.Sub(start))
			if from.IsZero() {
				from = start
			}
		}
		if len(took) == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, took...)
		if first.IsZero() || from.Before(first) {
			first = from
		}
		if to.After(last) {
			last = to
		}
	})
	wall := time.Since(begin).Seconds()
	busyGo, busyRedis := (processTime() - goBefore).Seconds(), s.cpu()-redisBefore
	for _, c := range conns {
		_ = c.Close()
	}
	check(srv.Shutdown(context.Background()))
	<-served
	if len(all) == 0 { // interrupted
		return loaded{Clients: clients}
	}
	slices.Sort(all)
	return loaded{
		Clients: clients, PerSecond: float64(len(all)) / last.Sub(first).Seconds(), P50: all[len(all)/2], P99: all[len(all)*99/100],
		GoCores: busyGo / wall, RedisCore: busyRedis / wall,
	}
}

// parallel runs fn so many times at once. A panic goes on in the caller, so that what the caller has started is stopped.
func parallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	var once sync.Once
	var failed any
	for i := range n {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					once.Do(func() { failed = p })
				}
			}()
			fn(i)
		})
	}
	wg.Wait()
	if failed != nil {
		panic(failed)
	}
}

// loadFor is load for a time, after a fifth of it to warm up, and until there is a request that counts.
func (s *server) loadFor(ctx context.Context, x *subject, o op, clients int, d time.Duration) loaded {
	var once sync.Once
	var warm, end time.Time
	var some atomic.Bool
	begin := func() { // when the clients begin, and not when their sessions are made
		warm = time.Now().Add(d / 5)
		end = warm.Add(d)
	}
	return s.load(x, o, clients, func() bool {
		once.Do(begin)
		return ctx.Err() == nil && (time.Now().Before(end) || !some.Load())
	}, func(start time.Time) bool {
		if !start.After(warm) {
			return false
		}
		if !some.Load() {
			some.Store(true)
		}
		return true
	})
}

// conn is a client that does as little as a client can, because it takes its time from the same cores.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func dial(addr string) *conn {
	c := must(net.Dial("tcp", addr))
	return &conn{c, bufio.NewReader(c)}
}

// wire is the request of a client with this cookie.
func wire(cookie string) []byte {
	var b bytes.Buffer
	check(request(cookie).Write(&b))
	return b.Bytes()
}

// do sends a request and reads the answer to its end.
func (c *conn) do(request []byte) {
	must(c.Write(request))
	length := -1
	for n := 0; ; n++ {
		line, err := c.in.ReadSlice('\n')
		check(err)
		if n == 0 && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			panic(fmt.Sprintf("the answer is %q", line))
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length = must(strconv.Atoi(string(bytes.TrimSpace(v))))
		}
		if len(line) == 2 {
			break
		}
	}
	must(c.in.Discard(length))
}

// processTime is the time of the processor that this program has had.
func processTime() time.Duration {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
