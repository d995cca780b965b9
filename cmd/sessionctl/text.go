package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"handover.example/sessions/internal/texttable"
)

const lineWidth = 100

// wrap breaks a text into lines that start with indent.
func wrap(text, indent string) string { return texttable.Wrap(text, indent, lineWidth) }

// group formats a number with commas: 200,000.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// count formats a number with its noun: "1 key", "200 keys".
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return group(n) + " " + many
}

// span formats a duration for people, in the two largest units.
func span(d time.Duration) string {
	d = d.Abs()
	switch day := 24 * time.Hour; {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return two(d, time.Minute, "min", time.Second, "s")
	case d < day:
		return two(d, time.Hour, "h", time.Minute, "min")
	default:
		return two(d, day, "d", time.Hour, "h")
	}
}

func two(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	if rest := d % large / small; rest > 0 {
		return fmt.Sprintf("%d %s %d %s", d/large, largeName, rest, smallName)
	}
	return fmt.Sprintf("%d %s", d/large, largeName)
}

// moment formats a time, and how far away it is.
func moment(t, now time.Time) string {
	text := t.UTC().Format("2006-01-02 15:04:05 UTC")
	if d := t.Sub(now); d > 0 {
		return text + ", in " + span(d)
	} else {
		return text + ", " + span(d) + " ago"
	}
}

// isTerminal reports whether stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// progress shows how far a long audit is: on a terminal in one line that changes, elsewhere with a line every 10
// seconds.
type progress struct {
	w     io.Writer
	live  bool
	next  time.Time
	shown bool
}

const (
	liveAfter, liveEvery   = 500 * time.Millisecond, 100 * time.Millisecond
	plainAfter, plainEvery = 10 * time.Second, 10 * time.Second
)

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, live: isTerminal(w) && os.Getenv("TERM") != "dumb"}
	p.wait()
	return p
}

func (p *progress) wait() {
	after := plainAfter
	if p.live {
		after = liveAfter
	}
	p.next = time.Now().Add(after)
}

// show prints what text returns, if enough time has passed. It is not safe for concurrent use.
func (p *progress) show(text func() string) {
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	if !p.live {
		p.next = now.Add(plainEvery)
		fmt.Fprintln(p.w, text())
		return
	}
	p.next, p.shown = now.Add(liveEvery), true
	fmt.Fprint(p.w, "\r"+text()+eraseRest)
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r"+eraseRest)
	}
}

const eraseRest = "\x1b[K"
