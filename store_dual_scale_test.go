package sessions_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// TestScale_Migration moves many sessions through all phases on a real server, and prints what that costs. It runs only
// where HANDOVER_SCALE says how many: 1000000 take some minutes.
func TestScale_Migration(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("HANDOVER_SCALE"))
	if n == 0 {
		t.Skip("set HANDOVER_SCALE to a number of sessions")
	}
	rdb := redistest.Start(t).Client(t)
	codec, err := sessions.NewSecureCookieCodec(secretA)
	require.NoError(t, err)
	cookies, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	redisStore := redisWithPrefix(t, rdb, "session:")
	d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookies, New: redisStore})
	require.NoError(t, err)

	clients := make([]string, n)
	before := loadOf(t, rdb)
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-12s %10s %10s %12s %12s\n", "phase", "keys", "no TTL", "bytes each", "moved in")
	for _, phase := range dualPhases {
		d.SetPhase(phase)
		start := time.Now()
		var workers sync.WaitGroup
		const parallel = 8
		for w := range parallel {
			workers.Go(func() {
				for i := w; i < n; i += parallel {
					token, err := visitStore(t.Context(), d, clients[i], i, phase)
					if err != nil {
						t.Errorf("session %d in %v: %v", i, phase, err)
						return
					}
					clients[i] = token
				}
			})
		}
		workers.Wait()
		if t.Failed() {
			return
		}
		l := loadOf(t, rdb)
		require.Zero(t, l.withoutTTL)
		each := "-"
		if l.keys > 0 {
			each = fmt.Sprintf("%.0f", (l.bytes-before.bytes)/l.keys)
			require.EqualValues(t, n, l.keys)
		}
		fmt.Fprintf(&table, "%-12v %10.0f %10.0f %12s %12v\n", phase, l.keys, l.withoutTTL, each, time.Since(start).Round(100*time.Millisecond))
	}

	fmt.Fprintf(&table, "\n%-24s %26s %26s\n%-24s %8s %8s %8s %8s %8s %8s\n", "median of a request", "read", "read and write", "", "us", "/cookie", "/redis", "us", "/cookie", "/redis")
	costs := requestCosts(t, rdb, cookies, redisStore)
	base := map[string][2]time.Duration{}
	for _, c := range costs {
		base[c.name] = c.median
	}
	for _, c := range costs {
		fmt.Fprintf(&table, "%-24s", c.name)
		for i, m := range c.median {
			fmt.Fprintf(&table, " %8.0f %8.2f %8.2f", float64(m)/1e3, float64(m)/float64(base["cookie only"][i]), float64(m)/float64(base["redis only"][i]))
		}
		fmt.Fprintln(&table)
	}
	t.Log(table.String())
}

// visitStore is one visit of a session that must still be there: loaded, changed in every other phase, and saved.
func visitStore(ctx context.Context, d *sessions.DualStore, token string, i int, phase sessions.Phase) (string, error) {
	const name = "session"
	if token == "" {
		rec := hourRecord()
		rec.SetValue("user_id", []byte(strconv.Itoa(i)))
		rec.SetValue("csrf", []byte(`"`+sessions.NewToken()+`"`))
		return d.Save(ctx, name, rec, 0)
	}
	rec, err := d.Load(ctx, name, token)
	if err != nil {
		return "", err
	}
	if v, _ := rec.Value("user_id"); string(v) != strconv.Itoa(i) {
		return "", fmt.Errorf("it has become another: %q", v)
	}
	rec.SetValue("visits", []byte(strconv.Itoa(int(phase))))
	base := rec.Version
	rec.Version = max(base+1, time.Now().UnixMicro())
	return d.Save(ctx, name, rec, base)
}

type requestCost struct {
	name   string
	median [2]time.Duration // of a read, and of a read and a write
}

// requestCosts measures requests in turn, each round in another order: what else the machine does hits all of them alike,
// and so does what the one before has left in the caches and the scheduler.
func requestCosts(t *testing.T, rdb *redis.Client, cookies, redisStore sessions.Store) []requestCost {
	type subject struct {
		name string
		b    *browser
		took [2][]time.Duration
	}
	var subjects []*subject
	add := func(name string, s sessions.Store) {
		b := newSite(t, s).browser()
		b.login("somebody")
		subjects = append(subjects, &subject{name: name, b: b})
	}
	add("cookie only", cookies)
	add("redis only", redisStore)
	for _, phase := range dualPhases {
		for _, check := range []bool{false, true} {
			if check && phase != sessions.DualReadOld {
				continue
			}
			d, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookies, New: redisStore, Phase: phase, CheckRevoked: check})
			require.NoError(t, err)
			name := phase.String()
			if check {
				name += ", CheckRevoked"
			}
			add(name, d)
		}
	}
	for i := range 2200 {
		for _, at := range rand.Perm(len(subjects)) {
			s := subjects[at]
			for kind, fn := range [2]func(sessions.Session){func(s sessions.Session) { _, _ = dualUser.Get(s) }, addCount} {
				start := time.Now()
				s.b.use(fn)
				if i >= 200 { // the first ones warm up
					s.took[kind] = append(s.took[kind], time.Since(start))
				}
			}
		}
	}
	var costs []requestCost
	for _, s := range subjects {
		c := requestCost{name: s.name}
		for kind, took := range s.took {
			slices.Sort(took)
			c.median[kind] = took[len(took)/2]
		}
		costs = append(costs, c)
	}
	require.Zero(t, loadOf(t, rdb).withoutTTL)
	return costs
}
