package sessions

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPlan(t *testing.T) {
	now := time.UnixMilli(4102440000000)
	rested := func(since time.Duration, keys ...string) *Record { // an idle timeout of an hour, last used so long ago
		r := testRecord(keys...)
		r.Idle, r.Expires, r.Deadline = time.Hour, now.Add(time.Hour-since), now.Add(24*time.Hour)
		return r
	}
	atDeadline := rested(30*time.Minute, "k")
	atDeadline.Deadline = atDeadline.Expires
	for _, c := range []struct {
		name                string
		pending             pending
		rec                 *Record
		stored, late, stays bool // stays: the idle timeout is not to slide
		want                step
	}{
		{"a visitor who writes nothing", pending{}, rested(0), false, false, false, stepNone},
		{"a visitor who clears what is empty", pending{dirty: true}, rested(0), false, false, false, stepNone},
		{"a new session", pending{dirty: true}, rested(0, "k"), false, false, false, stepCreate},
		{"a new session after the first byte", pending{dirty: true}, rested(0, "k"), false, true, false, stepTooLate},
		{"a read", pending{}, rested(0, "k"), true, false, false, stepNone},
		{"a read of a session without values", pending{}, rested(0), true, false, false, stepNone},
		{"a read within the eighth", pending{}, rested(time.Hour/8-time.Millisecond, "k"), true, false, false, stepNone},
		{"a read after the eighth", pending{}, rested(time.Hour/8, "k"), true, false, false, stepTouch},
		{"a read after the eighth, late", pending{}, rested(time.Hour/8, "k"), true, true, false, stepTouch},
		{"a read after a touch that failed", pending{}, rested(time.Hour/2, "k"), true, false, true, stepNone},
		{"a read of a session at its deadline", pending{}, atDeadline, true, false, false, stepNone},
		{"a write", pending{dirty: true}, rested(0, "k"), true, false, false, stepSave},
		{"a write, late", pending{dirty: true}, rested(0, "k"), true, true, false, stepSave},
		{"a write of a session without values", pending{dirty: true}, rested(0), true, false, false, stepSave},
		{"a renewal", pending{renew: true}, rested(0, "k"), true, false, false, stepRenew},
		{"a renewal and a write", pending{renew: true, dirty: true}, rested(time.Hour/2, "k"), true, false, false, stepRenew},
		{"a logout", pending{forget: true, ended: []*Record{rested(0)}}, rested(0), false, false, false, stepNone},
		{"a logout and a new session", pending{forget: true, dirty: true, ended: []*Record{rested(0)}}, rested(0, "k"), false, false, false, stepCreate},
	} {
		require.Equal(t, c.want, c.pending.plan(c.rec, circumstances{stored: c.stored, late: c.late, slides: !c.stays}, now), c.name)
	}
	for _, c := range []struct {
		name    string
		pending pending
		at      circumstances
		want    step
	}{
		{"a renewal after the first byte", pending{renew: true, dirty: true}, circumstances{stored: true, late: true}, stepTooLate},
		{"a renewal that somebody else has answered", pending{renew: true, dirty: true}, circumstances{stored: true, expired: true}, stepTooLate},
		{"a write that somebody else has answered", pending{dirty: true}, circumstances{stored: true, expired: true}, stepSave},
	} {
		require.Equal(t, c.want, c.pending.plan(rested(0, "k"), c.at, now), c.name)
	}
}

func TestCookieDue(t *testing.T) {
	const day = 24 * time.Hour
	born := time.UnixMilli(4102440000000)
	for _, c := range []struct {
		name         string
		used, now    time.Duration // since the session began
		ends         time.Duration
		other, plain bool // the client presents something else; the cookie is not persistent
		want         bool
	}{
		{"until the deadline", 13 * day, 14 * day, 15 * day, false, false, false},
		{"until the deadline, in the next month", 29 * day, 31 * day, 300 * day, false, false, false},
		{"longer than a cookie, in the same month", 30 * day, 60*day - 1, 800 * day, false, false, false},
		{"longer than a cookie, in the next month", 60*day - 1, 60 * day, 800 * day, false, false, true},
		{"longer than a cookie, months later", 0, 250 * day, 800 * day, false, false, true},
		{"near the deadline", 430 * day, 460 * day, 800 * day, false, false, false},
		{"not near enough", 430*day - 1, 460 * day, 800 * day, false, false, true},
		{"another library's cookie", day, 2 * day, 15 * day, true, false, true},
		{"not persistent", 0, 250 * day, 800 * day, true, true, false},
	} {
		rec := &Record{Created: born, Idle: 10 * day, Expires: born.Add(c.used + 10*day), Deadline: born.Add(c.ends), Persistent: !c.plain}
		if c.other {
			rec.Presented = "something else"
		}
		require.Equal(t, c.want, cookieDue(rec, born.Add(c.now)), c.name)
	}
}

func TestP23_PausesGrow(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for attempt, want := range []time.Duration{0, ms(1), 0, ms(2), 0, ms(4), 0, ms(8), 0, ms(16), 0, ms(32), 0, ms(64), 0, ms(128), 0, ms(250), 0, ms(250)} {
		require.Equal(t, want, longestPause(attempt), attempt)
	}
	require.Equal(t, ms(250), longestPause(1_000_001))
}
