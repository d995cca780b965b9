package main

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func newTestSuite(tb testing.TB) *suite {
	tb.Helper()
	s, stop, err := newSuite(tb.Context())
	switch {
	case errors.Is(err, errNoRedis) && os.Getenv("CI") == "":
		tb.Skip(err)
	case err != nil:
		tb.Fatal(err)
	}
	tb.Cleanup(stop)
	return s
}

// The benchmarks: what the command measures, one by one. Compare with benchstat, or profile.

func BenchmarkRequest(b *testing.B) {
	s := newTestSuite(b)
	keepTogether(b, s)
	for _, t := range s.tasks() {
		b.Run(fmt.Sprintf("subject=%s/op=%s/size=%s", word(t.subject.name), word(string(t.op)), word(string(t.size))), func(b *testing.B) { t.bench(b, s) })
	}
}

// BenchmarkKeys is a request by the keys of its session.
func BenchmarkKeys(b *testing.B) {
	s := newTestSuite(b)
	keepTogether(b, s)
	for _, name := range growing {
		for _, o := range []op{read, readWrite} {
			for _, keys := range full.keys {
				b.Run(fmt.Sprintf("subject=%s/op=%s/keys=%d", word(name), word(string(o)), keys), func(b *testing.B) {
					newTaskOf(s.named(name), o, "", keys).bench(b, s)
				})
			}
		}
	}
}

func keepTogether(b *testing.B, s *suite) {
	release, err := oneCore(s.server.pid())
	if err != nil {
		b.Logf("Go and Redis are not on one core, so times will vary: %v", err)
		return
	}
	b.Cleanup(release)
}

func (t *task) bench(b *testing.B, s *suite) {
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		n := min(b.N-done, 200)
		b.StopTimer()
		s.flush()
		t.renew()
		requests := t.prepare(n)
		b.StartTimer()
		t.serve(requests)
		done += n
	}
}

// BenchmarkFill is the only one that measures several things at once, because filling Redis takes so long. It gives the
// times of the reads.
func BenchmarkFill(b *testing.B) {
	s := newTestSuite(b)
	for b.Loop() {
		for _, g := range s.growFill(b.Context(), scale{rounds: 1, requests: 10, fill: []int{1_000, 10_000}, probes: 100}, b.Logf) {
			if g.Op == read && g.Of == 10_000 {
				b.ReportMetric(float64(g.Time), word(g.Subject)+"-ns/read")
			}
		}
	}
}

// BenchmarkMemory reports the bytes of Redis memory of a session.
func BenchmarkMemory(b *testing.B) {
	s := newTestSuite(b)
	for _, x := range s.inRedis(false) {
		b.Run("subject="+word(x.name), func(b *testing.B) {
			var m countRow
			for b.Loop() {
				m = s.weigh(x, 2000)
			}
			b.ReportMetric(m.Value, "redis-bytes/session")
		})
	}
}

// BenchmarkLoad is an HTTP server with clients that never rest.
func BenchmarkLoad(b *testing.B) {
	s := newTestSuite(b)
	for _, x := range s.servers() {
		for _, o := range []op{untouched, read, readWrite} {
			if !x.does(o) || o == untouched && x.store != "none" {
				continue
			}
			for _, clients := range full.clients {
				b.Run(fmt.Sprintf("subject=%s/op=%s/clients=%d", word(x.name), word(string(o)), clients), func(b *testing.B) {
					s.flush()
					var begun atomic.Int64
					l := s.server.load(x, o, clients, func() bool { return begun.Add(1) <= int64(b.N) }, func(time.Time) bool { return true })
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(l.PerSecond, "requests/s")
					b.ReportMetric(float64(l.P50), "p50-ns")
					b.ReportMetric(float64(l.P99), "p99-ns")
				})
			}
		}
	}
}

func word(s string) string { return strings.NewReplacer(",", "", " ", "-").Replace(s) }

// The tests.

// keysOf returns the keys of a subject, with what is left of their time.
func (s *suite) keysOf(t *testing.T, prefix string) map[string]time.Duration {
	t.Helper()
	all := map[string]time.Duration{}
	keys, err := s.rdb.Keys(t.Context(), prefix+"*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if all[key], err = s.rdb.PTTL(t.Context(), key).Result(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// A library that did less work than the others would win.
func TestEverySubjectDoesTheWork(t *testing.T) {
	s := newTestSuite(t)
	for _, x := range s.subjects {
		if x.look == nil {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			t.Cleanup(s.flush)
			holds := func(cookie string, visits, keys int) {
				t.Helper()
				want := map[string]any{"user": someUser, "csrf": csrf, "visits": visits}
				for i := range keys {
					key, value := filler(i)
					want[key] = value
				}
				if got := x.look(cookie); !sameJSON(got, want) {
					t.Errorf("the session holds %v, want %v", got, want)
				}
			}
			inRedis := func(n int) {
				t.Helper()
				keys := s.keysOf(t, x.prefix)
				if x.store == "redis" && len(keys) != n {
					t.Errorf("%d keys in Redis, want %d", len(keys), n)
				}
				for key, ttl := range keys {
					if x.store == "redis" && ttl <= 0 {
						t.Errorf("%s has no TTL", key)
					}
				}
			}
			cookie := x.create(3, false)
			holds(cookie, 1, 3)
			inRedis(1)

			cookie = ask(x.handler(untouched), cookie)
			cookie = ask(x.handler(read), cookie)
			holds(cookie, 1, 3)
			cookie = ask(x.handler(readWrite), cookie)
			holds(cookie, 2, 3)
			cookie = ask(x.handler(readWrite), cookie)
			holds(cookie, 3, 3)
			inRedis(1)

			second := ask(x.handler(login), "")
			holds(second, 1, 0)
			inRedis(2)

			ended := ask(x.handler(logout), cookie)
			if got := x.look(ended); len(got) != 0 {
				t.Errorf("after the logout the session holds %v", got)
			}
			if got := x.look(cookie); x.store != "cookie" && len(got) != 0 {
				t.Errorf("after the logout the old cookie gives %v", got)
			}
			holds(second, 1, 0)
			inRedis(1)

			for _, o := range []op{read, readWrite} {
				if !panics(func() { ask(x.handler(o), "") }) {
					t.Errorf("%s without a session does not fail", o)
				}
			}
			if !x.does(slide) {
				return
			}
			s.flush()
			due := x.create(0, true)
			if x.store == "memory" {
				return
			}
			for key := range s.keysOf(t, x.prefix) {
				check(s.rdb.PExpire(t.Context(), key, time.Hour).Err())
			}
			slid := ask(x.handler(slide), due)
			if x.store == "cookie" && slid == due {
				t.Error("the cookie did not slide")
			}
			for key, ttl := range s.keysOf(t, x.prefix) {
				if ttl < 23*time.Hour {
					t.Errorf("%s did not slide: %v", key, ttl)
				}
			}
			holds(slid, 1, 0)
		})
	}
}

// The values went through gob or JSON: their JSON is the same.
func sameJSON(a, b any) bool {
	normal := func(v any) (n any) {
		check(json.Unmarshal(must(json.Marshal(v)), &n))
		return n
	}
	return reflect.DeepEqual(normal(a), normal(b))
}

func panics(fn func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	fn()
	return false
}

// The floor has keys and values as long as ours, and does what it is named for.
func TestFloor(t *testing.T) {
	s := newTestSuite(t)
	ctx := t.Context()
	ours, floor := s.named(oursRedis), s.named(bareCommands)
	shape := func(prefix string) (key, value int) {
		t.Helper()
		keys := s.keysOf(t, prefix)
		if len(keys) != 1 {
			t.Fatalf("keys: %v", keys)
		}
		for k, ttl := range keys {
			if ttl <= 0 {
				t.Errorf("%s has no TTL", k)
			}
			key, value = len(k), int(must(s.rdb.StrLen(ctx, k).Result()))
		}
		return key, value
	}
	for _, make := range map[string]func(x *subject){
		"small": func(x *subject) { x.create(0, false) },
		"large": func(x *subject) { x.create(large.keys(), false) },
		"login": func(x *subject) { newTask(x, login, small).run(1) },
	} {
		s.flush()
		make(ours)
		make(floor)
		k1, v1 := shape(ours.prefix)
		k2, v2 := shape(floor.prefix)
		if k1 != k2 || v1 != v2 {
			t.Errorf("ours has a key of %d bytes and a value of %d, the floor %d and %d", k1, v1, k2, v2)
		}
	}
	s.flush()
	cookie := floor.create(0, false)
	_, before := shape(floor.prefix)
	check(s.rdb.PExpire(ctx, strings.TrimPrefix(cookie, "session="), time.Minute).Err())
	ask(floor.handler(readWrite), cookie)
	if _, after := shape(floor.prefix); after != before {
		t.Errorf("the value had %d bytes, and has %d", before, after)
	}
	for key, ttl := range s.keysOf(t, floor.prefix) {
		if ttl < time.Hour {
			t.Errorf("%s was not written: %v", key, ttl)
		}
	}
	ask(floor.handler(logout), cookie)
	if keys := s.keysOf(t, floor.prefix); len(keys) != 0 {
		t.Errorf("after the logout: %v", keys)
	}
	for _, o := range []op{read, readWrite, slide, logout} {
		if !panics(func() { ask(floor.handler(o), cookie) }) {
			t.Errorf("%s of what is not there does not fail", o)
		}
	}
	for _, x := range s.inRedis(true) {
		if len(x.prefix) != len("session:") {
			t.Errorf("%s has the prefix %q, which is longer or shorter than that of the others", x.name, x.prefix)
		}
	}
}

func TestCommands(t *testing.T) {
	s := newTestSuite(t)
	ctx := t.Context()
	check(s.rdb.Ping(ctx).Err()) // a new connection has commands of its own
	got := s.server.commands(func() {
		for range 3 {
			check(s.rdb.Set(ctx, "a key", `"get" [0 lua] "set"`, time.Minute).Err())
		}
		must(s.rdb.Get(ctx, "a key").Result())
		must(s.rdb.Eval(ctx, `redis.call('GET', KEYS[1]) return redis.call('DEL', KEYS[1])`, []string{"a key"}).Result())
		check(s.rdb.Echo(ctx, "another").Err())
	})
	if want := map[string]int{"SET": 3, "GET": 1, "EVAL": 1, "ECHO": 1}; !maps.Equal(got, want) {
		t.Errorf("commands: %v, want %v", got, want)
	}
	for name, want := range map[string]map[op]string{
		oursRedis:    {untouched: "", read: "GET 1", readWrite: "EVALSHA 1, GET 1", login: "SET 1", slide: "EVALSHA 1, GET 1"},
		bareCommands: {read: "GET 1", readWrite: "EVALSHA 1, GET 1", login: "SET 1", slide: "EVALSHA 1, GET 1", logout: "EVALSHA 1, GET 1"},
		// With an idle timeout scs reads and writes each session of each request, asked for or not.
		scsIdle:      {untouched: "GET 1, SET 1", read: "GET 1, SET 1", readWrite: "GET 1, SET 1", login: "SET 1", slide: "GET 1, SET 1", logout: "DEL 1, GET 1"},
		scsPlain:     {untouched: "GET 1", read: "GET 1", readWrite: "GET 1, SET 1", login: "SET 1", logout: "DEL 1, GET 1"},
		gorillaPlain: {untouched: "", read: "GET 1, PING 1", readWrite: "GET 1, PING 2, SETEX 1", login: "PING 1, SETEX 1", logout: "DEL 1, GET 1, PING 2"},
	} {
		for o, want := range want {
			const n = 3
			row := s.count(s.named(name), o, n)
			var list []string
			total := 0
			for command, c := range row.Names {
				total += c
				list = append(list, fmt.Sprint(command, " ", float64(c)/n))
			}
			slices.Sort(list)
			if got := strings.Join(list, ", "); got != want {
				t.Errorf("%s, %s: %s, want %s", name, o, got, want)
			}
			if row.Value != float64(total)/n {
				t.Errorf("%s, %s: %v in all, for %v", name, o, row.Value, row.Names)
			}
		}
	}
}

// What the bench allocates itself is not counted.
func TestAllocations(t *testing.T) {
	s := newTestSuite(t)
	ctx := t.Context()
	if n, bytes := newTask(s.named(bareHandler), untouched, small).allocations(1000); n > 0.1 || bytes > 100 {
		t.Errorf("a handler that does nothing: %v allocations, %v bytes", n, bytes)
	}
	floor := s.named(bareCommands)
	key := strings.TrimPrefix(floor.create(0, false), "session=")
	want := testing.AllocsPerRun(200, func() { check(s.rdb.Get(ctx, key).Err()) })
	if n, _ := newTask(floor, read, small).allocations(200); n > want+0.5 || n < want-0.5 {
		t.Errorf("a GET in a handler: %v allocations; alone: %v", n, want)
	}
	next := 0
	keys := make([]string, 300)
	for i := range keys {
		keys[i] = fmt.Sprintf("alone:%d", i)
	}
	value := strings.Repeat("v", 200)
	want = testing.AllocsPerRun(200, func() {
		next++
		must(s.rdb.SetNX(ctx, keys[next], value, lifetime).Result())
	})
	if n, _ := newTask(floor, login, small).allocations(200); n > want+0.5 || n < want-0.5 {
		t.Errorf("a SET NX in a handler: %v allocations; alone: %v", n, want)
	}
}

// Each request of an op that changes its session has one of its own; those of the others have the same.
func TestRequests(t *testing.T) {
	s := newTestSuite(t)
	for _, task := range s.tasks() {
		o := task.op
		if o == sign || o == login || task.subject.store == "codec" || task.subject.store == "none" || task.subject.name == "gorilla, CookieStore, signed only" {
			continue // there is nothing to tell them by
		}
		cookies := map[string]bool{}
		for _, r := range task.prepare(3) {
			cookies[r.Header.Get("Cookie")+r.Header.Get("Txn-Token")] = true
		}
		if want := map[bool]int{true: 3, false: 1}[o == readWrite || o == slide || o == logout || o == verify]; len(cookies) != want {
			t.Errorf("%v: %d different requests of 3, want %d", task, len(cookies), want)
		}
	}
}

func TestCodecs(t *testing.T) {
	for _, c := range codecs() {
		for _, sz := range codecSizes {
			x, sealed := codecSubject(c.name, c.it, sz.keys())
			if sealed > 4096 {
				t.Errorf("%s, %s: no cookie holds %d bytes", c.name, sz, sealed)
			}
			for _, o := range x.ops {
				if newTask(x, o, sz).run(1) <= 0 {
					t.Errorf("%s, %s, %s took no time", c.name, sz, o)
				}
			}
		}
	}
	for _, sz := range codecSizes { // the same record for each codec
		var lengths []int
		for _, c := range codecs() {
			spy := &spyCodec{Codec: c.it}
			handoverCookie(c.name, spy).create(sz.keys(), false)
			lengths = append(lengths, len(spy.plain))
		}
		if slices.Min(lengths) != slices.Max(lengths) || sz == medium && (lengths[0] < 1900 || lengths[0] > 2200) {
			t.Errorf("%s: records of %v bytes", sz, lengths)
		}
	}
}

func TestLoad(t *testing.T) {
	s := newTestSuite(t)
	for _, x := range s.servers() {
		for _, o := range x.ops {
			if o != untouched && o != read && o != readWrite {
				continue
			}
			before := s.rdb.Info(t.Context(), "commandstats").Val()
			var begun atomic.Int64
			l := s.server.load(x, o, 4, func() bool { return begun.Add(1) <= 100 }, func(time.Time) bool { return true })
			if l.Clients != 4 || l.PerSecond <= 0 || l.P50 <= 0 || l.P99 < l.P50 {
				t.Errorf("%s, %s: %+v", x.name, o, l)
			}
			gets := calls(s.rdb.Info(t.Context(), "commandstats").Val(), "get") - calls(before, "get")
			if o != untouched && gets < 100 {
				t.Errorf("%s, %s: 100 requests, and %d times GET", x.name, o, gets)
			}
		}
	}
	broken := *s.named(bareHandler)
	broken.handler = func(op) http.Handler { return http.NotFoundHandler() }
	var begun atomic.Int64
	if !panics(func() {
		s.server.load(&broken, untouched, 2, func() bool { return begun.Add(1) <= 100 }, func(time.Time) bool { return true })
	}) {
		t.Error("a server that answers 404 counts as one that works")
	}
	if l := s.server.load(s.named(bareHandler), untouched, 2, func() bool { return false }, func(time.Time) bool { return true }); l.PerSecond != 0 {
		t.Errorf("nothing was asked: %+v", l)
	}
}

// A program that works elsewhere is seen.
func TestBusy(t *testing.T) {
	if busy() == 0 {
		t.Skip("this system does not tell how busy it is")
	}
	before, own := busy(), processTime()
	for deadline := time.Now().Add(20 * time.Second); busy() < before+0.2; {
		if time.Now().After(deadline) {
			t.Fatalf("after %v of work: %v", processTime()-own, busy()-before)
		}
	}
	if r := (&results{Others: 0.5}); !strings.Contains(r.text(), "Other programs") {
		t.Error("nobody is told")
	}
	if r := (&results{Others: 0.05}); strings.Contains(r.text(), "Other programs") {
		t.Error("everybody is told")
	}
}

func calls(stats, command string) int {
	_, rest, _ := strings.Cut(stats, "cmdstat_"+command+":calls=")
	n, _, _ := strings.Cut(rest, ",")
	return must(strconv.Atoi(cmp.Or(n, "0")))
}

func TestSaturation(t *testing.T) {
	for _, c := range []struct {
		perSecond []float64
		want      int
	}{{nil, -1}, {[]float64{100}, -1}, {[]float64{100, 200, 400}, -1}, {[]float64{100, 200, 205, 190}, 1}, {[]float64{100, 90, 200, 180}, 2}, {[]float64{100, 50}, 0}} {
		var rows []loadRow
		for _, v := range c.perSecond {
			rows = append(rows, loadRow{loaded: loaded{PerSecond: v}})
		}
		if got := saturation(rows); got != c.want {
			t.Errorf("%v: %d, want %d", c.perSecond, got, c.want)
		}
	}
}

// good are figures that meet every target.
func good() *results {
	r := &results{Date: "2026-01-31", Machine: "2 cores", Versions: "Go 1.25", Command: "go run .", Rounds: 30, Requests: 200, Sessions: 1000}
	add := func(subject, store string, times map[rowID]float64) {
		for id, us := range times {
			d := time.Duration(us * 1e3)
			r.Costs = append(r.Costs, costRow{subject, store, id.op, id.size, cost{Time: d, Q1: d * 9 / 10, Q3: d * 11 / 10, Allocs: 3}})
		}
	}
	all := func(untouchedTime, factor float64) map[rowID]float64 {
		m := map[rowID]float64{{op: untouched, size: small}: untouchedTime, {op: read, size: large}: 60 * factor, {op: readWrite, size: large}: 150 * factor}
		for i, o := range []op{read, readWrite, login, slide, logout} {
			m[rowID{op: o, size: small}] = factor * (40 + 10*float64(i))
		}
		return m
	}
	r.Costs = append(r.Costs, costRow{bareHandler, "none", untouched, small, cost{Time: 100, Q1: 90, Q3: 110}})
	add(gorillaCrypt, "cookie", all(0.1, 1))
	add(oursCookie, "cookie", all(0.5, 0.12))
	add(scsMem, "memory", all(30, 0.7))
	add(bareCommands, "redis", all(0, 1))
	add(oursRedis, "redis", all(0.5, 1.1))
	add(scsPlain, "redis", all(90, 2.5))
	add(scsIdle, "redis", all(150, 3.5))
	add(gorillaPlain, "redis", all(0.1, 345))
	for o, n := range map[op]float64{untouched: 0, read: 1, readWrite: 2, slide: 2} {
		r.Commands = append(r.Commands, countRow{Subject: oursRedis, Op: o, Value: n})
	}
	r.Memory = []countRow{{Subject: oursRedis, Value: 330}, {Subject: scsPlain, Value: 553}}
	for _, sz := range codecSizes {
		r.Codecs = append(r.Codecs, codecRow{"securecookie", sz, 400, cost{Time: 4000}, cost{Time: 3000}}, codecRow{"AEAD", sz, 300, cost{Time: 2000}, cost{Time: 1500}})
	}
	for i, clients := range full.clients {
		for _, name := range []string{oursRedis, oursPipelined, scsPlain} {
			r.Load = append(r.Load, loadRow{name, read, loaded{Clients: clients, PerSecond: 1000 * float64(min(i+1, 3)), P50: time.Millisecond, P99: 2 * time.Millisecond}})
		}
	}
	for i, name := range growing {
		for _, o := range []op{read, readWrite} {
			for _, n := range full.fill {
				r.Fill = append(r.Fill, growRow{name, o, n, cost{Time: time.Duration(30+i*20+n/100_000) * time.Microsecond}})
			}
			for _, n := range full.keys {
				r.Keys = append(r.Keys, growRow{name, o, n, cost{Time: time.Duration(30+n*(1+i)) * time.Microsecond}})
			}
		}
	}
	return r
}

func missed(r *results) (list []string) {
	for _, t := range r.targets() {
		if !t.met {
			list = append(list, t.what)
		}
	}
	return list
}

func TestTargets(t *testing.T) {
	if list := missed(good()); len(list) != 0 {
		t.Fatalf("missed, but all are met: %v", list)
	}
	costOf := func(r *results, subject string, o op, sz size) *cost {
		for i, c := range r.Costs {
			if c.Subject == subject && c.Op == o && c.Size == sz {
				return &r.Costs[i].cost
			}
		}
		panic("no such cost")
	}
	commands := func(o op, n float64) func(*results) {
		return func(r *results) {
			for i, c := range r.Commands {
				if c.Op == o {
					r.Commands[i].Value = n
				}
			}
		}
	}
	seen := map[string]bool{}
	for _, c := range []struct {
		what  string
		spoil func(*results)
	}{
		{"Session not asked for, more than the bare handler", func(r *results) { costOf(r, oursRedis, untouched, small).Time = 601 }},
		{"The same, allocations", func(r *results) { costOf(r, oursRedis, untouched, small).Allocs = 4 }},
		{"Sealed cookie, read", func(r *results) { costOf(r, oursCookie, read, small).Time = 5001 }},
		{"Sealed cookie, read and write", func(r *results) { costOf(r, oursCookie, readWrite, small).Time *= 2 }},
		{"Redis, read", func(r *results) { costOf(r, oursRedis, read, small).Time = 46_001 }},
		{"Redis, read and write", func(r *results) { costOf(r, oursRedis, readWrite, small).Time = 57_501 }},
		{"Redis commands, untouched", commands(untouched, 0.05)},
		{"Redis commands, read", commands(read, 2)},
		{"Redis commands, read and write", commands(readWrite, 3)},
		{"Redis commands, slide", commands(slide, 3)},
		{"Redis memory of a session", func(r *results) { r.Memory[0].Value = 330.5 }},
		{"One key of a session of 100 keys, 8 KB", func(r *results) { costOf(r, oursRedis, read, large).Time = 88_001 }},
		{"AEAD codec beside securecookie: time of sealing and opening, bytes", func(r *results) { r.Codecs[3].Sealed = 301 }},
		{"AEAD codec beside securecookie: time of sealing and opening, bytes", func(r *results) { r.Codecs[1].Seal.Time = 2001 }},
	} {
		r := good()
		c.spoil(r)
		if list := missed(r); !slices.Equal(list, []string{c.what}) {
			t.Errorf("spoiled %q: missed %v", c.what, list)
		}
		if got := strings.Count(r.text(), missedMark+" "); got != 2 && !strings.HasPrefix(c.what, "AEAD") { // beside the figure, and at the end
			t.Errorf("spoiled %q: marked %d times\n%s", c.what, got, r.text())
		}
		if !strings.Contains(r.markdown(), c.what) || strings.Count(r.markdown(), "**missed**") != 1 {
			t.Errorf("spoiled %q: the README shows\n%s", c.what, r.markdown())
		}
		seen[c.what] = true
	}
	if n := len(good().targets()); n != len(seen) {
		t.Errorf("%d targets, and %d were spoiled", n, len(seen))
	}
	if got, want := len(missed(&results{})), len(seen); got != want {
		t.Errorf("nothing was measured, and %d of %d targets are met", want-got, want)
	}
}

// The charts are XML, and no text is over another or outside.
func TestCharts(t *testing.T) {
	huge := good()
	for i := range huge.Costs {
		huge.Costs[i].Time *= 1000
	}
	for name, r := range map[string]*results{"good": good(), "huge": huge, "empty": {}} {
		for kind, chart := range map[string]string{"bars": r.chart(), "growth": r.growthChart()} {
			boxes, width, height := textBoxes(t, chart)
			if name != "empty" && len(boxes) < 20 {
				t.Errorf("%s, %s: %d texts", name, kind, len(boxes))
			}
			for i, a := range boxes {
				if a.left < 0 || a.right > width || a.top < 0 || a.bottom > height {
					t.Errorf("%s, %s: %q is outside: %+v", name, kind, a.text, a)
				}
				for _, b := range boxes[i+1:] {
					if a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom {
						t.Errorf("%s, %s: %q is over %q", name, kind, a.text, b.text)
					}
				}
			}
			if strings.Contains(chart, "NaN") || strings.Contains(chart, "Inf") {
				t.Errorf("%s, %s: a figure is none\n%s", name, kind, chart)
			}
		}
	}
}

type box struct {
	text                     string
	left, right, top, bottom float64
}

// textBoxes reads an SVG and gives the places of its texts, as far as that can be told without a font.
func textBoxes(t *testing.T, chart string) (boxes []box, width, height float64) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(chart))
	var open *box
	var class string
	for {
		token, err := d.Token()
		if err == io.EOF {
			return boxes, width, height
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, chart)
		}
		switch e := token.(type) {
		case xml.StartElement:
			a := map[string]string{}
			for _, attr := range e.Attr {
				a[attr.Name.Local] = attr.Value
			}
			switch e.Name.Local {
			case "svg":
				if _, err := fmt.Sscanf(a["viewBox"], "0 0 %f %f", &width, &height); err != nil {
					t.Fatal(err)
				}
			case "text":
				x, y := must(strconv.ParseFloat(a["x"], 64)), must(strconv.ParseFloat(a["y"], 64))
				open, class = &box{left: x, top: y - 10, bottom: y + 3}, a["class"]
			}
		case xml.CharData:
			if open != nil {
				open.text += string(e)
			}
		case xml.EndElement:
			if e.Name.Local != "text" {
				continue
			}
			size := 13.0
			switch {
			case strings.Contains(class, "title"):
				size = 15
			case strings.Contains(class, "note"), strings.Contains(class, "axis"):
				size = 12
			}
			w := 0.56 * size * float64(len([]rune(open.text)))
			switch {
			case strings.Contains(class, "end"):
				open.left -= w
			case strings.Contains(class, "mid"):
				open.left -= w / 2
			}
			open.right = open.left + w
			boxes = append(boxes, *open)
			open = nil
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"docs", "bench"} {
		check(os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	readme := filepath.Join(dir, "README.md")
	check(os.WriteFile(readme, []byte("# Before\n\nno marks\n"), 0o644))
	if good().write(dir) == nil {
		t.Error("a README without marks was written to")
	}
	if _, err := os.Stat(filepath.Join(dir, "docs", "bench.svg")); err == nil {
		t.Error("the chart was written all the same")
	}
	check(os.WriteFile(readme, []byte("# Before\n\n"+beginMark+"\n"+endMark+"\n\n## After\n"), 0o644))
	check(good().write(dir))
	first := string(must(os.ReadFile(readme)))
	check(good().write(dir))
	if again := string(must(os.ReadFile(readme))); again != first {
		t.Errorf("the second time it is another one:\n%s", again)
	}
	if !strings.HasPrefix(first, "# Before\n\n"+beginMark+"\n") || !strings.HasSuffix(first, endMark+"\n\n## After\n") || !strings.Contains(first, "| Redis, read |") {
		t.Error(first)
	}
	for _, name := range []string{"docs/bench.svg", "docs/bench-growth.svg", "bench/results.txt"} {
		if !strings.Contains(first, "]("+name+")") {
			t.Errorf("the README does not lead to %s", name)
		}
		if len(must(os.ReadFile(filepath.Join(dir, filepath.FromSlash(name))))) < 100 {
			t.Errorf("%s is empty", name)
		}
	}
}

// All of it, in small: nothing is left out, and figures that were kept show the same.
func TestRun(t *testing.T) {
	if _, stop, err := newSuite(t.Context()); err == nil {
		stop()
	} else if errors.Is(err, errNoRedis) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	tiny := scale{rounds: 2, requests: 4, memory: 2000, load: 20 * time.Millisecond, clients: []int{1, 4}, fill: []int{100, 1000}, probes: 10, keys: []int{1, 10}}
	var progress strings.Builder
	r, err := measureAll(t.Context(), tiny, &progress)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Costs {
		if c.Time <= 0 || c.Q1 > c.Time || c.Q3 < c.Time {
			t.Errorf("%s, %s, %s: %+v", c.Subject, c.Op, c.Size, c.cost)
		}
	}
	if r.Others < 0 || r.Others > float64(runtime.NumCPU()) {
		t.Errorf("others kept %v cores busy", r.Others)
	}
	for _, name := range []string{oursCookie, oursRedis, scsPlain, scsIdle, gorillaCrypt, gorillaPlain, "relay, EdDSA", "relay, ES256"} {
		n := 0
		for _, c := range r.Costs {
			if c.Subject == name {
				n++
			}
		}
		if n < 3 {
			t.Errorf("%s has %d costs", name, n)
		}
	}
	if len(r.Codecs) != 4 || r.Codecs[0].Open.Time <= 0 || r.Codecs[0].Sealed < 200 {
		t.Errorf("codecs: %+v", r.Codecs)
	}
	for _, m := range r.Memory {
		if m.Value < 100 {
			t.Errorf("memory of a session: %+v", m)
		}
	}
	if want := len(tiny.clients) * 11; len(r.Load) != want {
		t.Errorf("%d rows of load, want %d", len(r.Load), want)
	}
	for _, l := range r.Load {
		if l.PerSecond <= 0 || l.P99 < l.P50 {
			t.Errorf("load: %+v", l)
		}
	}
	for kind, rows := range map[string][]growRow{"fill": r.Fill, "keys": r.Keys} {
		for _, name := range growing {
			for _, o := range []op{read, readWrite} {
				for _, of := range sizesOf(rows) {
					if c, _ := grown(rows, name, o, of); c.Time <= 0 {
						t.Errorf("%s: nothing for %s, %s, %d", kind, name, o, of)
					}
				}
			}
		}
	}
	if !strings.Contains(progress.String(), "done") {
		t.Errorf("progress:\n%s", &progress)
	}

	file := filepath.Join(t.TempDir(), "out.json")
	check(os.WriteFile(file, r.json(), 0o644))
	var out strings.Builder
	check(run(t.Context(), &out, io.Discard, false, "", "", file))
	if out.String() != r.text() {
		t.Errorf("measured:\n%s\nkept:\n%s", r.text(), &out)
	}
}

// Ctrl-C ends it, and what it has started.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, stop, err := newSuite(ctx)
	if errors.Is(err, errNoRedis) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	check(err)
	addr := s.server.addr
	cancel()
	measure(ctx, s.tasks(), 3, 10, nil)
	stop()
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("redis-server is still there")
	}
	if _, err := measureAll(ctx, full, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// A machine that is slow for some rounds does not make one look slower than another.
func TestRatioWithinRounds(t *testing.T) {
	of := func(rounds ...time.Duration) cost {
		sorted := slices.Sorted(slices.Values(rounds))
		return cost{Time: sorted[len(sorted)/2], Rounds: rounds}
	}
	one, other := of(10, 30, 10, 30, 11), of(20, 62, 20, 60, 55)
	if got := other.over(one); got != 2 {
		t.Errorf("%v times", got)
	}
	one.Rounds = nil
	if got := other.over(one); got != 5 { // of the medians
		t.Errorf("without rounds: %v times", got)
	}
	text, err := json.Marshal(other)
	if err != nil || !strings.Contains(string(text), `"rounds_ns":"20 62 20 60 55"`) {
		t.Errorf("%s, %v", text, err)
	}
	var again cost
	if err := json.Unmarshal(text, &again); err != nil || !slices.Equal(again.Rounds, other.Rounds) {
		t.Errorf("%v, %v", again, err)
	}
	if json.Unmarshal([]byte(`{"rounds_ns":"1 x"}`), &again) == nil {
		t.Error("a round that is no number was read")
	}
}
