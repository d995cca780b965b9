package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

// lab is the Redis that all participants share, and its simulated distance.
type lab struct {
	addr, name, prefix string
	delay              atomic.Int64 // added to each read
	embedded           *miniredis.Miniredis
	meters             []*meter
}

// openLab connects to Redis. For client settings in production, see the README.
func openLab(ctx context.Context, addr string) (*lab, error) {
	l := &lab{addr: addr, name: "Redis at " + addr, prefix: "services-example:" + strings.ToLower(rand.Text()[:12]) + ":"}
	if addr == "" {
		embedded, err := miniredis.Run()
		if err != nil {
			return nil, err
		}
		l.addr, l.name, l.embedded = embedded.Addr(), "an embedded Redis", embedded
	}
	m := l.newMeter()
	if err := m.rdb.Ping(ctx).Err(); err != nil {
		l.disconnect()
		return nil, fmt.Errorf("no answer from Redis: %w", err)
	}
	return l, nil
}

// close removes only what this run has written.
func (l *lab) close(ctx context.Context) error {
	defer l.disconnect()
	if l.embedded != nil {
		return nil
	}
	rdb := l.meters[0].rdb
	scan := rdb.Scan(ctx, 0, l.prefix+"*", 1000).Iterator()
	for scan.Next(ctx) {
		if err := rdb.Del(ctx, scan.Val()).Err(); err != nil {
			return err
		}
	}
	return scan.Err()
}

func (l *lab) disconnect() {
	for _, m := range l.meters {
		_ = m.rdb.Close()
	}
	if l.embedded != nil {
		l.embedded.Close()
	}
}

// meter is a Redis client that counts the reads of one participant.
type meter struct {
	lab   *lab
	rdb   *redis.Client
	reads atomic.Int64

	mu   sync.Mutex
	took []time.Duration
}

func (l *lab) newMeter() *meter {
	m := &meter{lab: l, rdb: redis.NewClient(&redis.Options{
		Addr: l.addr, ContextTimeoutEnabled: true, DialTimeout: 500 * time.Millisecond, DialerRetries: 1, MaxRetries: 1,
	})}
	m.rdb.AddHook(m)
	l.meters = append(l.meters, m)
	return m
}

func (m *meter) store() (*sessions.RedisStore, error) {
	return sessions.NewRedisStore(m.rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour, Prefix: m.lab.prefix})
}

// ProcessHook counts the reads, and makes each as slow as a read from another machine. It implements [redis.Hook].
func (m *meter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "get" {
			return next(ctx, cmd)
		}
		start := time.Now()
		m.reads.Add(1)
		wait(time.Duration(m.lab.delay.Load()))
		err := next(ctx, cmd)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.took = append(m.took, time.Since(start))
		return err
	}
}

// wait sleeps accurately for short times as well: time.Sleep takes a millisecond or more for them if the program is
// idle.
func wait(d time.Duration) {
	until := time.Now().Add(d)
	time.Sleep(d - 2*time.Millisecond)
	for time.Now().Before(until) {
		runtime.Gosched()
	}
}

// DialHook implements [redis.Hook].
func (m *meter) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (m *meter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// takeReadTimes returns how long the reads of all participants have taken since the last call.
func (l *lab) takeReadTimes() (all []time.Duration) {
	for _, m := range l.meters {
		m.mu.Lock()
		all = append(all, m.took...)
		m.took = nil
		m.mu.Unlock()
	}
	return all
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}
