package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"handover.example/sessions"
)

// crowd simulates people: each browser knows what was acknowledged to it, and complains about anything less. Thieves
// hold cookies of ended sessions, and try them again and again.
type crowd struct {
	fleet     *fleet
	transport *http.Transport
	browsers  []*browser
	seed      uint64
	logouts   int // logouts per thousand actions of a customer
	lastUser  atomic.Int64
	tally     tally

	mu         sync.Mutex
	ended      []ended
	complaints []string
	started    time.Time
}

// tally counts what the crowd sees.
type tally struct {
	// The promises: each of these stays zero.
	sessionsLost, changesLost, revokedSeen atomic.Int64
	noticed                                atomic.Int64 // failed while Redis was down in DualReadOld
	failed                                 atomic.Int64 // failed while Redis was up, or with a status other than 200 and 503

	requests, refused                 atomic.Int64
	visitors, logins, logouts         atomic.Int64
	adds, tabs                        atomic.Int64 // changes, and those of them that two tabs made at the same time
	unrecorded                        atomic.Int64 // logouts and logins that no instance could record: OldOnly, or Redis was down
	replays, gapReplays, gapSuccesses atomic.Int64
}

// ended is a cookie of a session that was ended, and must stay so.
type ended struct{ cookie, how string }

func newCrowd(f *fleet, browsers int, seed uint64, logouts int) *crowd {
	c := &crowd{
		fleet: f, seed: seed, logouts: logouts, started: time.Now(),
		transport: &http.Transport{MaxIdleConnsPerHost: 2*browsers + 2},
	}
	for id := range browsers {
		b := &browser{crowd: c, rnd: rand.New(rand.NewPCG(seed, uint64(id)))}
		switch {
		case id%10 < 4: // 4 in 10 look around and leave
			b.kind = visitor
		case id%10 < 9: // 5 in 10 have an account
			b.kind = customer
		default: // and one in 10 comes only rarely and only looks: adoption is for these
			b.kind = sleeper
		}
		c.browsers = append(c.browsers, b)
	}
	return c
}

// browse runs the crowd until the context ends, and waits for the last response.
func (c *crowd) browse(ctx context.Context) {
	var wg sync.WaitGroup
	for _, b := range c.browsers {
		wg.Go(func() { b.browse(ctx) })
	}
	for n := range 2 {
		rnd := rand.New(rand.NewPCG(c.seed, 1<<32+uint64(n)))
		wg.Go(func() { c.steal(ctx, rnd) })
	}
	wg.Wait()
}

// rollCall checks everybody once more: a browser with a session must find it, and no ended session may open.
func (c *crowd) rollCall() {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	ask := func(f func()) {
		slots <- struct{}{}
		wg.Go(func() {
			f()
			<-slots
		})
	}
	for _, b := range c.browsers {
		ask(b.look)
	}
	c.mu.Lock()
	all := c.ended
	c.mu.Unlock()
	for _, e := range all {
		ask(func() { c.replay(e) })
	}
	wg.Wait()
	c.transport.CloseIdleConnections()
}

func (c *crowd) complain(count *atomic.Int64, format string, args ...any) {
	count.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.complaints) < 10 {
		at := fmt.Sprintf("%5.1fs  ", time.Since(c.started).Seconds())
		c.complaints = append(c.complaints, at+fmt.Sprintf(format, args...))
	}
}

// reply is a response, and the circumstances in which it was made.
type reply struct {
	answer
	status   int
	instance int
	phase    sessions.Phase // the earliest phase of the instance during the request
	away     bool           // Redis was down during the request
}

func (r reply) ok() bool { return r.status == http.StatusOK }

func (r reply) String() string {
	text := fmt.Sprintf("instance %d, %v", r.instance+1, r.phase)
	if r.away {
		text += ", Redis down"
	}
	return text
}

// knows reports whether this instance can know at a read that a session was ended. Otherwise it is the documented gap.
func (c *crowd) knows(r reply) bool {
	return r.phase >= sessions.DualReadNew && !(c.fleet.fallback && r.away)
}

// records reports whether this instance could record that a session was ended.
func (c *crowd) records(r reply) bool {
	return r.phase >= sessions.DualReadNew || r.phase == sessions.DualReadOld && !r.away
}

// send makes one request through the proxy, and counts it.
func (c *crowd) send(client *http.Client, method, path, cookie string) reply {
	before := c.fleet.outage.count.Load()
	r, err := c.roundTrip(client, method, path, cookie)
	r.away = c.fleet.outage.during(before)
	c.tally.requests.Add(1)
	switch {
	case err != nil:
		c.complain(&c.tally.failed, "%s %s: %v", method, path, err)
	case r.ok(), r.status == http.StatusConflict: // the caller judges these
	case r.status == http.StatusServiceUnavailable && r.away:
		c.tally.refused.Add(1)
		if sessions.Phase(c.fleet.outage.phase.Load()) == sessions.DualReadOld {
			c.complain(&c.tally.noticed, "%s %s: 503 (%v)", method, path, r)
		}
	default:
		c.complain(&c.tally.failed, "%s %s: status %d (%v)", method, path, r.status, r)
	}
	return r
}

func (c *crowd) roundTrip(client *http.Client, method, path, cookie string) (r reply, err error) {
	req, err := http.NewRequest(method, c.fleet.url+path, nil)
	if err != nil {
		return r, err
	}
	if cookie != "" {
		req.Header.Set("Cookie", "session="+cookie)
	}
	resp, err := client.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return r, err
	}
	r.status = resp.StatusCode
	if n, err := strconv.Atoi(resp.Header.Get("X-Served-By")); err == nil && n < len(c.fleet.instances) {
		began, _ := strconv.Atoi(resp.Header.Get("X-Phase"))
		r.instance, r.phase = n, min(sessions.Phase(began), c.fleet.instances[n].dual.Phase())
	}
	if r.ok() {
		err = json.Unmarshal(body, &r.answer)
	}
	return r, err
}

// steal replays cookies of ended sessions.
func (c *crowd) steal(ctx context.Context, rnd *rand.Rand) {
	for pause(ctx, time.Duration(10+rnd.IntN(30))*time.Millisecond) {
		c.mu.Lock()
		var e ended
		if len(c.ended) > 0 {
			e = c.ended[rnd.IntN(len(c.ended))]
		}
		c.mu.Unlock()
		if e.cookie != "" {
			c.replay(e)
		}
	}
}

func (c *crowd) replay(e ended) {
	r := c.send(&http.Client{Transport: c.transport, Timeout: time.Minute}, http.MethodGet, "/", e.cookie)
	switch {
	case !r.ok():
	case !c.knows(r):
		c.tally.gapReplays.Add(1)
		if r.Found {
			c.tally.gapSuccesses.Add(1)
		}
	default:
		c.tally.replays.Add(1)
		if r.Found {
			c.complain(&c.tally.revokedSeen, "a session that was ended by %s came back: user %d (%v)", e.how, r.User, r)
		}
	}
}

// kind is a way of using the shop.
type kind int

const (
	visitor kind = iota
	customer
	sleeper
)

// browser is one person with a browser.
type browser struct {
	crowd *crowd
	kind  kind
	rnd   *rand.Rand
	jar   jar

	// What was acknowledged to it.
	session   bool
	user      int // 0 is not logged in
	low, high int // what must be in the basket, and what may be: a failed request may have been written
	unsure    bool
	lastSeen  time.Time
	earlier   string // an earlier cookie of the same session
	stale     bool   // of two parallel responses, the older cookie may have arrived last
}

func (b *browser) browse(ctx context.Context) {
	if !pause(ctx, time.Duration(b.rnd.IntN(500))*time.Millisecond) {
		return
	}
	for {
		if b.kind != visitor && b.user == 0 {
			if b.kind == customer {
				b.add()
			}
			b.login()
		} else {
			b.act()
		}
		think := time.Duration(40+b.rnd.IntN(100)) * time.Millisecond
		if b.kind == sleeper {
			think *= 25
		}
		if !pause(ctx, think) {
			return
		}
	}
}

func (b *browser) act() {
	n := b.rnd.IntN(1000)
	switch {
	case b.stale:
		b.add()
	case b.kind == sleeper, n < 500:
		b.look()
	case n < 550 && b.session && b.crowd.redisArbitrates():
		b.twoTabs()
	case n < 850:
		b.add()
	case b.kind == visitor:
		b.leave()
	case n < 850+b.crowd.logouts:
		b.logout()
	case n < 950:
		b.jar.closeBrowser() // persistent cookies stay
		b.look()
	default:
		b.add()
	}
}

func (b *browser) send(method, path string) reply {
	client := &http.Client{Transport: b.crowd.transport, Jar: &b.jar, Timeout: time.Minute}
	before := b.jar.session()
	r := b.crowd.send(client, method, path, "")
	if now := b.jar.session(); now != before && before != "" {
		b.earlier = before
	}
	return r
}

// meets checks what a reply says about the session that this browser holds, and reports whether it is as expected.
func (b *browser) meets(r reply, sent time.Time, what string) bool {
	c := b.crowd
	// A touch extends the expiry at most once per eighth of the idle timeout; the rest is for a slow machine.
	expired := b.user == 0 && time.Since(b.lastSeen) > visitorIdle*7/8-500*time.Millisecond
	gone := r.status == http.StatusConflict || r.ok() && (!r.Found || r.User != b.user)
	switch {
	case !b.session && r.status == http.StatusConflict:
		c.complain(&c.tally.failed, "%s: status 409 without a session (%v)", what, r)
	case !b.session && r.ok() && r.Found:
		c.complain(&c.tally.sessionsLost, "%s: a new visitor got another user's session, user %d (%v)", what, r.User, r)
		b.leave()
		return false
	case b.session && gone:
		if !b.unsure && !expired {
			c.complain(&c.tally.sessionsLost, "%s: user %d was no longer known (%v)", what, b.user, r)
		}
		b.leave()
		return false
	}
	if r.ok() {
		b.lastSeen = sent
		b.unsure = b.unsure && r.away
	}
	return r.ok()
}

// basket checks the number of items in a reply that counts this many more.
func (b *browser) basket(r reply, more int, what string) {
	c := b.crowd
	if r.Items < b.low+more || r.Items > b.high+more {
		want := strconv.Itoa(b.low + more)
		if b.high > b.low {
			want += " to " + strconv.Itoa(b.high+more)
		}
		c.complain(&c.tally.changesLost, "%s: user %d has %d items in the basket, not %s (%v)", what, b.user, r.Items, want, r)
		b.low, b.high = r.Items-more, r.Items-more // complain once
	}
}

func (b *browser) look() {
	sent := time.Now()
	r := b.send(http.MethodGet, "/")
	if b.meets(r, sent, "look") && b.session {
		b.basket(r, 0, "look")
	}
}

func (b *browser) add() {
	sent := time.Now()
	r := b.send(http.MethodPost, "/add")
	switch {
	case !b.session && r.ok() && !r.Found:
		b.session, b.low, b.high, b.lastSeen = true, r.Items, r.Items, sent
		b.crowd.tally.visitors.Add(1)
	case b.meets(r, sent, "add"):
		b.basket(r, 1, "add")
		b.low, b.high, b.stale = r.Items, r.Items, false
		b.crowd.tally.adds.Add(1)
	case b.session:
		b.high++
	}
}

// redisArbitrates reports whether two parallel changes are both kept, which a cookie alone cannot do.
func (c *crowd) redisArbitrates() bool {
	if c.fleet.outage.count.Load()%2 == 1 {
		return false
	}
	return !slices.ContainsFunc(c.fleet.instances, func(in *instance) bool { return in.dual.Phase() < sessions.DualReadNew })
}

// twoTabs puts two things into the basket at the same time, most likely at two instances.
func (b *browser) twoTabs() {
	c := b.crowd
	sent := time.Now()
	var replies [2]reply
	var both sync.WaitGroup
	for n := range replies {
		both.Go(func() {
			client := &http.Client{Transport: c.transport, Jar: &b.jar, Timeout: time.Minute}
			replies[n] = c.send(client, http.MethodPost, "/add", "")
		})
	}
	both.Wait()
	b.earlier, b.stale = "", true // until the next change, whose cookie has all of them
	kept, refused, most := 0, 0, b.low
	for _, r := range replies {
		switch {
		case b.meets(r, sent, "add in two tabs"):
			kept++
			most = max(most, r.Items)
		case !b.session:
			return
		default:
			refused++
		}
	}
	if replies[0].away || replies[1].away { // with FallbackOnError there was only the cookie: one of them wins
		b.low, b.high = b.low+min(kept, 1), b.high+2
		return
	}
	if most < b.low+kept || most > b.high+2 {
		c.complain(&c.tally.changesLost, "two tabs: user %d has %d items in the basket, not %d (%v; %v)", b.user, most, b.low+kept, replies[0], replies[1])
	}
	b.low, b.high = most, most+refused
	c.tally.adds.Add(int64(kept))
	c.tally.tabs.Add(int64(kept))
}

func (b *browser) login() {
	id := int(b.crowd.lastUser.Add(1))
	cookie, earlier, had := b.jar.session(), b.earlier, b.session
	sent := time.Now()
	r := b.send(http.MethodPost, "/login?user="+strconv.Itoa(id))
	if !r.ok() || r.Found != had {
		b.unsure = b.unsure || r.status == http.StatusServiceUnavailable
		r.User = 0 // check it as the visitor that it was
		b.meets(r, sent, "login")
		return
	}
	if r.User != id {
		b.crowd.complain(&b.crowd.tally.sessionsLost, "login: user %d became user %d (%v)", id, r.User, r)
		b.leave()
		return
	}
	if had {
		b.basket(r, 0, "login")
		b.end(r, "login", cookie, earlier)
	} else {
		b.low, b.high = r.Items, r.Items
	}
	b.session, b.user, b.unsure, b.lastSeen, b.earlier = true, id, false, sent, ""
	b.crowd.tally.logins.Add(1)
}

func (b *browser) logout() {
	cookie, earlier, session := b.jar.session(), b.earlier, b.user
	sent := time.Now()
	r := b.send(http.MethodPost, "/logout")
	b.unsure = b.unsure || r.status == http.StatusServiceUnavailable
	r.User = session // after a logout it is nobody
	if !b.meets(r, sent, "logout") {
		return
	}
	b.end(r, "logout", cookie, earlier)
	b.crowd.tally.logouts.Add(1)
	b.leave()
}

// end hands the cookies of an ended session to the thieves, if it must stay ended.
func (b *browser) end(r reply, how string, cookies ...string) {
	c := b.crowd
	if !c.records(r) {
		c.tally.unrecorded.Add(1)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cookie := range cookies {
		if cookie != "" {
			c.ended = append(c.ended, ended{cookie, how})
		}
	}
}

// leave turns this browser into a new visitor's, without a cookie.
func (b *browser) leave() {
	b.jar.clear()
	b.session, b.user, b.low, b.high, b.unsure, b.earlier, b.stale = false, 0, 0, 0, false, "", false
}

// pause waits; it reports whether the context is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
