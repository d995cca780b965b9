package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

// The random walk drives a fleet of instances, each in a phase of its own beside its neighbour's, with browsers that
// log in, read, count, renew, log out, send requests in parallel and replay old cookies, while Redis is slow, refuses,
// loses replies, repeats commands, runs them long after it was given up, and is killed and started again. In half of the
// walks the clocks of the instances are up to two seconds apart. A model says after each step what may be seen. What it
// allows beyond "nothing is lost" is what the documentation says that a sealed cookie cannot do: see the comments that
// begin with "A cookie alone".
//
// The walk ends when its time is over, and is longer with HANDOVER_LONG and shorter with -short. HANDOVER_WALK_STEPS sets
// the number of steps of all kinds of walk together; then time is not bounded. The seed is drawn, unless HANDOVER_WALK_SEED
// sets it; in CI there is a walk from a fixed seed first, so that what it finds it finds again. A failure prints the
// command that repeats it.

const (
	walkInstances = 3
	walkBrowsers  = 4
	walkLength    = 2500 // steps from one fresh start

	// of all kinds of walk together, from each seed
	walkTime      = 10 * time.Second
	walkTimeShort = 2 * time.Second
	walkTimeLong  = 60 * time.Second

	walkFixedSeed  = 20261128
	walkShrinkTime = 20 * time.Second
)

// fault is how an instance's connection to Redis behaves.
type fault int32

const (
	healthy fault = iota
	refusing
	losing    // runs the command, and then reports an error
	repeating // runs the command twice, as a client does that lost the first reply
	slow      // answers late, but in time
	late      // answers too late: the client has given up, and the command runs some steps after that
	faults
)

func (f fault) String() string {
	return [...]string{"healthy", "refusing", "losing", "repeating", "slow", "late"}[f]
}

// fails reports whether commands can fail at all.
func (f fault) fails() bool { return f == refusing || f == losing || f == late }

var errInjected = errors.New("injected: the server did not answer")

type faultHook struct {
	mode atomic.Int32

	mu   sync.Mutex
	held [][]any // commands that will run late
}

func (h *faultHook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *faultHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *faultHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch fault(h.mode.Load()) {
		case refusing:
			cmd.SetErr(errInjected)
			return errInjected
		case losing:
			_ = next(ctx, cmd)
			cmd.SetErr(errInjected)
			return errInjected
		case repeating:
			_ = next(ctx, cmd)
		case slow:
			time.Sleep(rand.N(200 * time.Microsecond))
			defer func() { time.Sleep(rand.N(200 * time.Microsecond)) }()
		case late:
			h.mu.Lock()
			h.held = append(h.held, cmd.Args())
			h.mu.Unlock()
			cmd.SetErr(errInjected)
			return errInjected
		}
		return next(ctx, cmd)
	}
}

// takeHeld returns the commands that are still to run, and forgets them.
func (h *faultHook) takeHeld() [][]any {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.held
	h.held = nil
	return held
}

type walkInstance struct {
	manager *sessions.Manager
	dual    *sessions.DualStore
	hook    *faultHook
	handler http.Handler
	rdb     *redis.Client
	down    *bool // the server that all instances share
}

func (i *walkInstance) fault() fault {
	if *i.down {
		return refusing
	}
	return fault(i.hook.mode.Load())
}

// walkAnswer is what the handler of the walk says about the session.
type walkAnswer struct {
	Anonymous bool
	User      int
	Count     int
	status    int
	cookie    *string // the cookie that the response sets; empty if it deletes it
}

func walkHandler(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "", http.StatusServiceUnavailable)
		return
	}
	user, count := sessions.NewKey[int]("user"), sessions.NewKey[int]("count")
	var a walkAnswer
	if r.URL.Path == "/login" {
		n, _ := strconv.Atoi(r.URL.RawQuery)
		_ = user.Set(s, n)
	}
	var ok bool
	if a.User, ok = user.Get(s); !ok {
		a.Anonymous = true
	} else {
		switch r.URL.Path {
		case "/count":
			a.Count, _ = count.Update(s, func(n int) int { return n + 1 })
		case "/renew":
			s.Renew()
		case "/logout":
			s.Destroy()
		case "/brief":
			s.SetLifetime(30*time.Millisecond, false)
		}
		a.Count, _ = count.Get(s)
	}
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/count" && !a.Anonymous {
		// The count that is committed is known only after the commit: a parallel request may have been merged.
		w.WriteHeader(http.StatusOK)
		a.Count, _ = count.Get(s)
	}
	_ = json.NewEncoder(w).Encode(a)
}

// walkSession is what the model knows of one logged-in session.
type walkSession struct {
	user      int
	low, high int            // the bounds of the count: acknowledged, and perhaps written
	unsure    bool           // a failed logout or renewal may have ended it
	seen      map[string]int // the count that each cookie of it carries, for those that are sealed
	behind    bool           // the new store may have missed a change, because it did not answer
	ahead     bool           // the old store has missed a change, because NewOnly does not write it
	newer     bool           // the new store may have a newer copy than any cookie of the session
}

type walkBrowser struct {
	cookie  string
	session *walkSession
	old     []replay
}

// replay is a cookie whose session was ended, or renewed, with a promise that it stays so.
type replay struct {
	cookie string
	user   int
}

type walkStep struct{ kind, browser, instance, other, arg int }

const (
	stepRead = iota
	stepCount
	stepRenew
	stepLogout
	stepReplay
	stepParallel
	stepPhase
	stepFault
	stepBrief
	stepCrash
)

func (s walkStep) String() string {
	name := [...]string{"read", "count", "renew", "logout", "replay", "parallel", "phase", "fault", "brief", "crash"}[s.kind]
	return fmt.Sprintf("%s browser=%d instance=%d other=%d arg=%d", name, s.browser, s.instance, s.other, s.arg)
}

// walkConfig is one kind of walk.
type walkConfig struct {
	old             string // "cookie" or "redis"
	lowest, highest sessions.Phase
	check, fallback bool
}

func (c walkConfig) String() string {
	return fmt.Sprintf("%s,%v-%v,CheckRevoked=%v,FallbackOnError=%v", c.old, c.lowest, c.highest, c.check, c.fallback)
}

type walk struct {
	walkConfig
	instances []*walkInstance
	browsers  []*walkBrowser
	users     int
	server    *redistest.Server
	servers   []*redis.Client // the server that fails, and the old one
	down      bool
	upAfter   int  // steps
	apart     bool // the clocks of the instances are
	story     []string
	tell      bool
	err       error
}

func newWalk(t testing.TB, server, oldServer *redistest.Server, cfg walkConfig) *walk {
	w := &walk{walkConfig: cfg, server: server, servers: []*redis.Client{server.Client(t), oldServer.Client(t)}}
	codec, err := sessions.NewSecureCookieCodec(secretA)
	require.NoError(t, err)
	for range walkInstances {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, DialerRetries: 1})
		t.Cleanup(func() { _ = rdb.Close() })
		i := &walkInstance{hook: &faultHook{}, rdb: rdb, down: &w.down}
		rdb.AddHook(i.hook)
		var old sessions.Store
		if w.old == "cookie" {
			old, err = sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
		} else {
			old, err = sessions.NewRedisStore(w.servers[1], sessions.RedisStoreConfig{TTL: time.Hour, Prefix: "old:"})
		}
		require.NoError(t, err)
		new, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour})
		require.NoError(t, err)
		i.dual, err = sessions.NewDualStore(sessions.DualStoreConfig{Old: old, New: new, Phase: w.lowest, CheckRevoked: w.check, FallbackOnError: w.fallback, CompareFraction: 0.1})
		require.NoError(t, err)
		m, err := sessions.New(sessions.Config{Store: i.dual, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		i.manager, i.handler = m, m.Wrap(http.HandlerFunc(walkHandler))
		w.instances = append(w.instances, i)
	}
	w.reset()
	return w
}

func (w *walk) reset() {
	w.restart()
	for _, rdb := range w.servers {
		rdb.FlushDB(context.Background())
	}
	w.browsers, w.users, w.story, w.err = nil, 0, nil, nil
	for range walkBrowsers {
		w.browsers = append(w.browsers, &walkBrowser{})
	}
	for n, i := range w.instances {
		now := time.Now
		if w.apart {
			ahead := time.Duration(n-1) * time.Second
			now = func() time.Time { return time.Now().Add(ahead) }
		}
		sessions.SetClock(i.manager, i.dual, now)
		i.dual.SetPhase(w.lowest)
		i.hook.mode.Store(int32(healthy))
		i.hook.takeHeld()
	}
}

// crash kills the server, for some steps. What it has acknowledged is in its log.
func (w *walk) crash(steps int) {
	w.server.Stop()
	w.down, w.upAfter = true, steps
}

func (w *walk) restart() {
	if !w.down {
		return
	}
	w.server.Restart()
	w.down = false
	for _, i := range w.instances { // a connection that died with the server is noticed when it is used
		mode := i.hook.mode.Swap(int32(healthy))
		for i.rdb.Ping(context.Background()).Err() != nil {
			runtime.Gosched()
		}
		i.hook.mode.Store(mode)
	}
	for w.servers[0].Ping(context.Background()).Err() != nil {
		runtime.Gosched()
	}
}

// deliver runs the commands that were given up. Nobody looks at their replies.
func (w *walk) deliver() {
	for _, i := range w.instances {
		for _, args := range i.hook.takeHeld() {
			w.servers[0].Do(context.Background(), args...)
		}
	}
}

func (w *walk) say(format string, args ...any) {
	if w.tell {
		w.story = append(w.story, fmt.Sprintf(format, args...))
	}
}

func (w *walk) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// send makes one request, as a browser that holds this cookie.
func (w *walk) send(i *walkInstance, path, cookie string) walkAnswer {
	r := httptest.NewRequest(http.MethodGet, "http://example.com"+path, nil)
	if cookie != "" {
		r.Header.Set("Cookie", "session="+cookie)
	}
	rec := httptest.NewRecorder()
	i.handler.ServeHTTP(rec, r)
	res := rec.Result()
	var a walkAnswer
	body, _ := io.ReadAll(res.Body)
	_ = json.Unmarshal(body, &a)
	a.status = res.StatusCode
	for _, c := range res.Cookies() {
		if c.Name == "session" {
			v := c.Value
			a.cookie = &v
		}
	}
	return a
}

func isTokenOnly(cookie string) bool {
	_, ok := sessions.TokenID(cookie)
	return ok
}

// accept puts the cookie of a response into the browser, and notes what it carries.
func (w *walk) accept(b *walkBrowser, a walkAnswer) {
	if a.cookie == nil {
		return
	}
	b.cookie = *a.cookie
	if b.session != nil && b.cookie != "" {
		b.session.seen[b.cookie] = a.Count
	}
}

// carried is the count that a browser's cookie is known to carry: what a read of the cookie alone gives.
func (w *walk) carried(b *walkBrowser) int {
	if w.old == "redis" {
		return b.session.low
	}
	if n, ok := b.session.seen[b.cookie]; ok {
		return n
	}
	return b.session.low
}

// visits reports whether a browser can be sent to an instance: in OldOnly a cookie that is the token alone means nothing,
// which the report says before that step back is taken.
//
// Between two servers each phase sees only what its read side has. A session that the new store has missed while it was
// away is repaired there at its next change, which the report waits for before NewOnly; one that NewOnly has changed is
// newer in the new store, which DualReadOld asks, if it answers.
func (w *walk) visits(b *walkBrowser, i *walkInstance) bool {
	phase := i.dual.Phase()
	if w.old == "cookie" {
		return !(phase == sessions.OldOnly && isTokenOnly(b.cookie))
	}
	if b.session.behind && phase == sessions.NewOnly {
		return false
	}
	return !(b.session.ahead && i.fault().fails() && phase != sessions.NewOnly)
}

// wrote notes which of two servers may have missed a change, or has caught up.
func (w *walk) wrote(b *walkBrowser, i *walkInstance, write bool) {
	s, phase := b.session, i.dual.Phase()
	switch {
	case s == nil || w.old == "cookie":
	case write && phase == sessions.NewOnly:
		s.ahead = true
	case write && i.fault().fails():
		s.behind = true
	case i.fault().fails():
	case write && (phase == sessions.DualReadOld || phase == sessions.DualReadNew):
		s.behind, s.ahead = false, false
	case write && phase == sessions.OldOnly:
		s.behind = true
	}
}

// arbitrated reports whether an answer of 200 from this instance was agreed with a server.
func (w *walk) arbitrated(i *walkInstance) bool {
	if w.old == "redis" {
		return true
	}
	switch i.dual.Phase() {
	case sessions.OldOnly:
		return false
	case sessions.DualReadOld:
		return !i.fault().fails()
	case sessions.DualReadNew:
		return !(w.fallback && i.fault().fails())
	}
	return true
}

// mayFail reports whether an instance may answer 503.
func (w *walk) mayFail(b *walkBrowser, i *walkInstance, ending bool) bool {
	if !i.fault().fails() {
		return false
	}
	switch i.dual.Phase() {
	case sessions.OldOnly:
		return false
	case sessions.DualReadOld:
		return isTokenOnly(b.cookie) || ending && w.check
	case sessions.DualReadNew:
		return !w.fallback || ending || isTokenOnly(b.cookie)
	}
	return true
}

// promised reports whether a logout or a renewal that was acknowledged has left a tombstone.
func (w *walk) promised(i *walkInstance) bool {
	switch i.dual.Phase() {
	case sessions.OldOnly:
		return w.old == "redis"
	case sessions.DualReadOld:
		return w.check || !i.fault().fails()
	}
	return true
}

func (w *walk) login(b *walkBrowser, i *walkInstance) {
	w.users++
	user := w.users
	b.cookie = ""
	a := w.send(i, "/login?"+strconv.Itoa(user), "")
	w.say("  login as %d: %d", user, a.status)
	if a.status != http.StatusOK {
		if !w.mayFail(b, i, false) {
			w.fail("login failed with %d in %v, redis %v", a.status, i.dual.Phase(), i.fault())
		}
		return
	}
	b.session = &walkSession{user: user, seen: map[string]int{}}
	w.accept(b, a)
	w.wrote(b, i, true)
	if b.cookie == "" {
		w.fail("login gave no cookie")
	}
}

// judge checks an answer for a browser that has a session; it reports whether the session was there.
func (w *walk) judge(b *walkBrowser, i *walkInstance, a walkAnswer, what string) bool {
	s := b.session
	where := fmt.Sprintf("%s in %v, redis %v", what, i.dual.Phase(), i.fault())
	switch {
	case a.status == http.StatusConflict:
		if !s.unsure {
			w.fail("%s: 409, but nobody ended the session", where)
		}
		b.session, b.cookie = nil, ""
		return false
	case a.status != http.StatusOK:
		if !w.mayFail(b, i, what != "read" && what != "count") {
			w.fail("%s: status %d", where, a.status)
		}
		return false
	case a.Anonymous:
		if !s.unsure {
			w.fail("%s: the session was lost", where)
		}
		b.session, b.cookie = nil, ""
		return false
	case a.User != s.user:
		w.fail("%s: user %d got the session of %d", where, s.user, a.User)
		return false
	}
	return true
}

func (w *walk) bounds(i *walkInstance, b *walkBrowser, got, added int, what string) {
	s := b.session
	low := w.carried(b) // A cookie alone: after parallel requests the browser may hold the older of two.
	if w.arbitrated(i) && (i.dual.Phase() != sessions.DualReadOld || what == "count" || w.check) {
		low = s.low
	}
	if w.apart && s.newer { // see stepCount
		low = min(low, s.low)
	}
	if got < low+added || got > s.high+added {
		w.fail("%s in %v, redis %v: count %d, want %d to %d", what, i.dual.Phase(), i.fault(), got, low+added, s.high+added)
	}
}

func (w *walk) step(st walkStep) {
	b, i := w.browsers[st.browser], w.instances[st.instance]
	w.say("%v  [%v, redis %v]", st, i.dual.Phase(), i.fault())
	switch st.kind {
	case stepPhase:
		moves := 1
		if st.arg%7 == 0 { // a fleet that moves on while nobody visits
			moves = 12
		}
		for n := range moves {
			w.movePhase(w.instances[(st.instance+n)%walkInstances], st.arg)
		}
		return
	case stepFault:
		i.hook.mode.Store(int32(st.arg % int(faults)))
		return
	case stepCrash:
		if !w.down {
			w.crashDuring(b, i, w.instances[st.other], st.arg)
		}
		return
	case stepReplay:
		w.replayOld(b, i, st.arg)
		return
	}
	if b.session == nil {
		w.login(b, i)
		return
	}
	if !w.visits(b, i) {
		return
	}
	s := b.session
	switch st.kind {
	case stepRead:
		a := w.send(i, "/", b.cookie)
		w.say("  %d anonymous=%v count=%d", a.status, a.Anonymous, a.Count)
		if w.judge(b, i, a, "read") {
			w.bounds(i, b, a.Count, 0, "read")
			w.accept(b, a)
			w.wrote(b, i, false)
		}
	case stepCount:
		a := w.send(i, "/count", b.cookie)
		w.say("  %d anonymous=%v count=%d", a.status, a.Anonymous, a.Count)
		if w.judge(b, i, a, "count") {
			w.bounds(i, b, a.Count, 1, "count")
			if w.apart && s.newer && !w.arbitrated(i) {
				// A cookie alone, and clocks that are apart: the new store's copy may be taken for the newer one.
				s.low, s.high = min(s.low, a.Count), max(s.high, a.Count)
			} else {
				s.low, s.high, s.newer = a.Count, a.Count, false
			}
			w.accept(b, a)
			w.wrote(b, i, true)
		} else if a.status == http.StatusServiceUnavailable {
			s.high++
			s.behind = true // the old store may have it
			s.newer = true
		}
	case stepRenew:
		before := b.cookie
		a := w.send(i, "/renew", b.cookie)
		w.say("  %d anonymous=%v", a.status, a.Anonymous)
		if w.judge(b, i, a, "renew") {
			if a.cookie == nil || *a.cookie == before {
				w.fail("renew: no new cookie")
				return
			}
			if w.promised(i) {
				b.old = append(b.old, replay{before, s.user})
			}
			if w.arbitrated(i) && a.Count < s.low && i.dual.Phase() >= sessions.DualReadNew {
				w.fail("renew in %v: count %d, want %d or more", i.dual.Phase(), a.Count, s.low)
			}
			if !w.arbitrated(i) {
				s.low = min(s.low, a.Count)
			}
			s.seen = map[string]int{}
			w.accept(b, a)
			if w.apart && s.newer { // see stepCount: what was renewed may be the new store's copy
				s.seen[b.cookie] = s.low
			}
			s.newer = false
			w.wrote(b, i, true)
		} else if a.status == http.StatusServiceUnavailable {
			s.unsure = true
		}
	case stepLogout:
		before := b.cookie
		a := w.send(i, "/logout", b.cookie)
		w.say("  %d anonymous=%v", a.status, a.Anonymous)
		if w.judge(b, i, a, "logout") {
			if a.cookie == nil || *a.cookie != "" {
				w.fail("logout did not delete the cookie")
			}
			if w.promised(i) {
				b.old = append(b.old, replay{before, s.user})
			}
			b.session, b.cookie = nil, ""
		} else if a.status == http.StatusServiceUnavailable {
			s.unsure = true
		}
	case stepBrief:
		if p := i.dual.Phase(); w.apart || i.fault() != healthy || p == sessions.OldOnly || p == sessions.NewOnly && w.old == "redis" {
			return // a phase that writes one server cannot tell the other; 30 ms are nothing to clocks that are apart
		}
		a := w.send(i, "/brief", b.cookie)
		if a.status == http.StatusConflict { // a busy machine: the 30 ms were over before the session was written
			b.session, b.cookie = nil, ""
			return
		}
		if w.judge(b, i, a, "read") {
			w.accept(b, a)
			cookie := b.cookie
			b.session, b.cookie = nil, ""
			time.Sleep(35 * time.Millisecond) // the real clock of a real server: there is nothing to await but the time
			for n, j := range w.instances {
				if j.fault().fails() {
					continue
				}
				if a := w.send(j, "/", cookie); a.status != http.StatusOK || !a.Anonymous {
					w.fail("an expired session was served by instance %d in %v: %d", n, j.dual.Phase(), a.status)
				}
			}
		}
	case stepParallel:
		w.parallel(b, i, w.instances[st.other], st.arg)
	}
}

// parallel sends two requests at once.
func (w *walk) parallel(b *walkBrowser, i, j *walkInstance, arg int) {
	if !w.visits(b, j) {
		return
	}
	if w.old == "redis" {
		defer func() {
			w.wrote(b, i, true)
			w.wrote(b, j, true)
			if b.session != nil && (i.dual.Phase() != j.dual.Phase() || i.fault().fails() || j.fault().fails()) {
				// Which of the two was the last to write both is not known.
				b.session.behind, b.session.ahead = true, i.dual.Phase() == sessions.NewOnly || j.dual.Phase() == sessions.NewOnly
			}
		}()
	}
	paths := [2]string{"/count", [...]string{"/count", "/count", "/", "/renew", "/logout"}[arg%5]}
	s := b.session
	newer := s.newer
	s.newer = true
	before := b.cookie
	var answers [2]walkAnswer
	var wg sync.WaitGroup
	for n, in := range [2]*walkInstance{i, j} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			answers[n] = w.send(in, paths[n], before)
		}()
	}
	wg.Wait()
	w.say("  %s at %v: %d anonymous=%v count=%d; %s at %v, redis %v: %d anonymous=%v count=%d", paths[0], i.dual.Phase(), answers[0].status, answers[0].Anonymous, answers[0].Count,
		paths[1], j.dual.Phase(), j.fault(), answers[1].status, answers[1].Anonymous, answers[1].Count)
	ending := paths[1] == "/renew" || paths[1] == "/logout"
	wasUnsure := s.unsure
	if ending {
		s.unsure = true // the first request may find the session ended
	}
	order := [2]int{0, 1}
	if !ending && arg/5%2 == 1 {
		order = [2]int{1, 0}
	}
	// A cookie alone: of two parallel writers, one counts.
	agreed := w.arbitrated(i) && w.arbitrated(j)
	counted, low, high := 0, s.low, s.high
	base := min(s.low, w.carried(b))
	var least = -1
	alive := true
	for _, n := range order {
		in := [2]*walkInstance{i, j}[n]
		a := answers[n]
		what := map[string]string{"/count": "count", "/": "read"}[paths[n]]
		if b.session == nil {
			break
		}
		there := w.judgeParallel(b, in, a, what, before)
		if paths[n] == "/count" {
			high++
			if there {
				counted++
				if least < 0 || a.Count < least {
					least = a.Count
				}
				low = max(low, a.Count)
			}
		}
		if there && paths[n] != "/logout" {
			w.accept(b, a)
		}
		alive = alive && there
	}
	switch {
	case w.err != nil:
		return
	case paths[1] == "/logout":
		if answers[1].status == http.StatusOK && !answers[1].Anonymous {
			if w.promised(j) {
				b.old = append(b.old, replay{before, s.user})
				if c := answers[0].cookie; c != nil && *c != "" && answers[0].status == http.StatusOK {
					b.old = append(b.old, replay{*c, s.user})
				}
			}
			b.session, b.cookie = nil, ""
			return
		}
	case paths[1] == "/renew":
		if answers[1].status == http.StatusOK && !answers[1].Anonymous {
			if w.promised(j) {
				b.old = append(b.old, replay{before, s.user})
			}
			s.unsure = wasUnsure
			b.cookie = *answers[1].cookie
			if !agreed {
				s.seen = map[string]int{}
				s.low, s.high = min(base, answers[1].Count), high
				s.seen[b.cookie] = s.low
				return
			}
			// What was counted before the renewal is in it; what came after got 409.
			s.seen = map[string]int{b.cookie: s.low + counted}
			s.low, s.high = s.low+counted, high
			return
		}
	default:
		s.unsure = wasUnsure
	}
	if agreed {
		s.low = max(s.low, min(low, high))
		if !ending && counted == 2 && low < base+2 {
			w.fail("parallel in %v and %v: two were counted, the higher is %d, want %d or more", i.dual.Phase(), j.dual.Phase(), low, base+2)
		}
	} else {
		s.low = base
		if counted > 0 && least >= 0 && !(w.apart && newer) { // see stepCount
			s.low = min(max(base, least), low)
		}
		if n, ok := s.seen[b.cookie]; ok && w.old == "cookie" {
			s.low = min(s.low, n) // the other answer came last, and took the place of the cookie that counted
		}
	}
	s.high = high
	for c, n := range s.seen { // what an earlier cookie carries may be less than what is known now
		s.seen[c] = min(n, s.low)
		_ = c
	}
}

// crashDuring kills the server while two requests are on their way.
func (w *walk) crashDuring(b *walkBrowser, i, j *walkInstance, arg int) {
	// From here on the model takes the server for one that may not answer.
	var killed sync.WaitGroup
	w.down = true
	killed.Go(func() {
		time.Sleep(rand.N(time.Millisecond))
		w.server.Stop()
	})
	if b.session != nil && w.visits(b, i) {
		w.parallel(b, i, j, arg)
	}
	killed.Wait()
	w.crash(1 + arg%4)
}

// judgeParallel is judge for one of two requests at once: the other one may have ended the session, or have given the
// browser another cookie.
func (w *walk) judgeParallel(b *walkBrowser, i *walkInstance, a walkAnswer, what, sent string) bool {
	now := b.cookie
	b.cookie = sent
	session := b.session
	if what == "" {
		what = "renew"
	}
	there := w.judge(b, i, a, what)
	b.session = session
	b.cookie = now
	return there
}

// replayOld sends a cookie whose session was ended, with a promise.
func (w *walk) replayOld(b *walkBrowser, i *walkInstance, arg int) {
	if len(b.old) == 0 {
		return
	}
	r := b.old[arg%len(b.old)]
	phase := i.dual.Phase()
	if phase == sessions.OldOnly && w.old == "cookie" || phase == sessions.DualReadOld && (!w.check || i.fault().fails()) || phase == sessions.DualReadNew && w.fallback && i.fault().fails() {
		// The documented gap: what is served there is the cookie alone. Let the attacker write too: it must not help later.
		a := w.send(i, "/count", r.cookie)
		w.say("  attacker in the gap: %d", a.status)
		if a.status == http.StatusOK && a.cookie != nil && *a.cookie != "" && !a.Anonymous && len(b.old) < 20 {
			b.old = append(b.old, replay{*a.cookie, r.user})
		}
		return
	}
	a := w.send(i, [...]string{"/", "/count", "/renew"}[arg%3], r.cookie)
	w.say("  replay of user %d: %d anonymous=%v", r.user, a.status, a.Anonymous)
	switch {
	case a.status == http.StatusOK && a.Anonymous, a.status == http.StatusConflict:
	case a.status == http.StatusServiceUnavailable && i.fault().fails():
	default:
		w.fail("replay in %v, redis %v: a revoked session was seen again (status %d, user %d)", phase, i.fault(), a.status, a.User)
	}
}

// movePhase takes an instance one step, if it stays beside all others.
func (w *walk) movePhase(i *walkInstance, arg int) {
	next := i.dual.Phase() + 1
	if arg%5 < 2 {
		next = i.dual.Phase() - 1
	}
	if next < w.lowest || next > w.highest {
		return
	}
	for _, j := range w.instances {
		if d := next - j.dual.Phase(); j != i && (d > 1 || d < -1) {
			return
		}
	}
	i.dual.SetPhase(next)
	w.say("  -> %v", next)
}

// keysWithoutTTL asks the server for their exact number.
func (w *walk) keysWithoutTTL() int {
	without := 0
	for _, rdb := range w.servers {
		info := rdb.Info(context.Background(), "keyspace").Val()
		var keys, expires int
		for line := range strings.Lines(info) {
			if _, err := fmt.Sscanf(line, "db0:keys=%d,expires=%d", &keys, &expires); err == nil {
				without += keys - expires
			}
		}
	}
	return without
}

func randomStep(rnd *rand.Rand) walkStep {
	st := walkStep{browser: rnd.IntN(walkBrowsers), instance: rnd.IntN(walkInstances), other: rnd.IntN(walkInstances), arg: rnd.IntN(1 << 20)}
	switch n := rnd.IntN(1000); {
	case n < 250:
		st.kind = stepRead
	case n < 550:
		st.kind = stepCount
	case n < 640:
		st.kind = stepRenew
	case n < 700:
		st.kind = stepLogout
	case n < 770:
		st.kind = stepReplay
	case n < 880:
		st.kind = stepParallel
	case n < 940:
		st.kind = stepPhase
	case n < 998:
		st.kind = stepFault
		if rnd.IntN(2) == 0 {
			st.arg = 0
		}
	case n < 999:
		st.kind = stepBrief
	default: // a server takes a while to come back
		st.kind = [...]int{stepRead, stepCrash}[rnd.IntN(2)]
	}
	return st
}

// run walks the steps from a fresh start, until a time if it is not zero. It returns how many it has made, with the one
// that failed, and whether one did.
func (w *walk) run(steps []walkStep, until time.Time) (made int, failed bool) {
	w.reset()
	for n, st := range steps {
		if !until.IsZero() && !time.Now().Before(until) {
			return n, false
		}
		if w.down {
			if w.upAfter--; w.upAfter < 0 {
				w.restart()
			}
		} else if st.arg%4 == 0 {
			w.deliver()
		}
		w.step(st)
		if w.err == nil && n%64 == 0 {
			if k := w.keysWithoutTTL(); k != 0 {
				w.fail("%d keys without TTL", k)
			}
		}
		if w.err != nil {
			return n + 1, true
		}
	}
	return len(steps), false
}

// shrink looks for a short story that fails as well.
func (w *walk) shrink(steps []walkStep) []walkStep {
	fails := func(s []walkStep) bool {
		for range 3 {
			if _, failed := w.run(s, time.Time{}); failed {
				return true
			}
		}
		return false
	}
	deadline := time.Now().Add(walkShrinkTime)
	for chunk := len(steps) / 2; chunk >= 1 && time.Now().Before(deadline); {
		removed := false
		for at := 0; at+chunk <= len(steps) && time.Now().Before(deadline); {
			shorter := append(append([]walkStep(nil), steps[:at]...), steps[at+chunk:]...)
			if fails(shorter) {
				steps, removed = shorter, true
			} else {
				at += chunk
			}
		}
		if !removed || chunk > len(steps) {
			chunk = min(chunk/2, len(steps)/2)
			if chunk == 0 && len(steps) > 1 && removed {
				chunk = 1
			}
		}
	}
	return steps
}

// walkNumber returns the number in an environment variable; ok is false if it is not set.
func walkNumber(t *testing.T, variable string) (n uint64, ok bool) {
	text := os.Getenv(variable)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 63)
	require.NoError(t, err, variable)
	return n, true
}

// walkSeeds returns the seeds to walk from.
func walkSeeds(t *testing.T) []uint64 {
	if seed, ok := walkNumber(t, "HANDOVER_WALK_SEED"); ok {
		return []uint64{seed}
	}
	drawn := uint64(time.Now().UnixNano())
	if os.Getenv("CI") != "" {
		return []uint64{walkFixedSeed, drawn}
	}
	return []uint64{drawn}
}

func TestP15_RandomWalk(t *testing.T) {
	t.Parallel()
	bound := walkTime
	switch {
	case testing.Short():
		bound = walkTimeShort
	case long():
		bound = walkTimeLong
	}
	total, exact := walkNumber(t, "HANDOVER_WALK_STEPS")
	seeds := walkSeeds(t)
	// What was acknowledged is handed to the system before the reply, so that a killed process loses nothing.
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-min-size", "4mb")
	oldServer := redistest.Start(t)
	configs := []walkConfig{
		{"cookie", sessions.OldOnly, sessions.NewOnly, false, false},
		{"cookie", sessions.OldOnly, sessions.NewOnly, true, false},
		{"cookie", sessions.OldOnly, sessions.NewOnly, false, true},
		{"cookie", sessions.OldOnly, sessions.NewOnly, true, true},
		// Between two servers the dual store always checks.
		{"redis", sessions.OldOnly, sessions.DualReadNew, true, true},
		{"redis", sessions.OldOnly, sessions.DualReadNew, true, false},
		{"redis", sessions.DualReadOld, sessions.NewOnly, true, false},
	}
	for n, c := range configs {
		t.Run(c.String(), func(t *testing.T) {
			var command string
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("to repeat it: %s", command)
				}
			})
			repeat := func(seed uint64, steps int) {
				command = fmt.Sprintf("HANDOVER_WALK_SEED=%d HANDOVER_WALK_STEPS=%d go test -run '%s' .", seed, steps*len(configs), t.Name())
			}
			w := newWalk(t, server, oldServer, c)
			defer w.restart() // for the next walk, if the time is up while the server is down
			for _, seed := range seeds {
				begin := time.Now()
				until := begin.Add(bound / time.Duration(len(configs)))
				share := math.MaxInt
				if exact {
					until, share = time.Time{}, int(total)/len(configs)
				}
				done := 0
				for done < share && (exact || time.Now().Before(until)) {
					from := seed + uint64(done)
					rnd := rand.New(rand.NewPCG(from+uint64(n)<<40, 0))
					w.apart = rnd.IntN(2) == 1
					steps := make([]walkStep, min(walkLength, share-done))
					for k := range steps {
						steps[k] = randomStep(rnd)
					}
					repeat(from, len(steps))
					made, failed := w.run(steps, until)
					done += made
					if failed {
						repeat(from, made)
						w.explain(t, steps[:made])
					}
					if done/walkLength%100 == 99 {
						t.Logf("%d steps, %v", done, time.Since(begin).Round(time.Second))
					}
				}
				t.Logf("seed %d: %d steps in %v", seed, done, time.Since(begin).Round(time.Millisecond))
			}
		})
	}
}

// explain fails the test after steps of which the last one has failed, with a short story that fails as well.
func (w *walk) explain(t *testing.T, steps []walkStep) {
	first := w.err
	short := w.shrink(steps)
	w.tell = true
	for range 20 {
		if _, failed := w.run(short, time.Time{}); failed {
			break
		}
	}
	t.Fatalf("step %d: %v\nshrunk to %d steps (%v):\n%s", len(steps), first, len(short), w.err, strings.Join(w.story, "\n"))
}
