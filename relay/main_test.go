package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
	"handover.example/sessions/internal/leaktest"
)

// quiet drops what go-redis logs about servers that tests take away on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// TestMain fails the run if goroutines of this module outlive the tests, or if anything secret was in what they logged,
// reported or answered (P11).
func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	leaktest.Main(m, func() error {
		if found := watch.leaks(); len(found) > 0 {
			return fmt.Errorf("P11: %s", strings.Join(found, "\nP11: "))
		}
		return nil
	})
}

// watch holds what all tests log, report and answer against what must not be in it.
var watch = leakWatch{secrets: map[string]string{}}

type leakWatch struct {
	mu      sync.Mutex
	text    bytes.Buffer
	secrets map[string]string // what it is
}

const (
	maxWatched = 32 << 20
	maxSecrets = 20_000
	window     = 20 // bytes of a secret in a row that are a leak
)

func (l *leakWatch) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < maxWatched {
		l.text.Write(b)
	}
	return len(b), nil
}

// event takes an event in each way in which it may be printed.
func (l *leakWatch) event(e sessions.Event) {
	text, _ := json.Marshal(e)
	fmt.Fprintf(l, "%v\n%+v\n%#v\n%s\n%v\n", e, e, e, text, e.Err)
}

func (l *leakWatch) secret(what, s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.secrets) < maxSecrets {
		l.secrets[s] = what
	}
}

// token takes the payload and the signature of a token. Its header is in no way secret, and the same for all of a key.
func (l *leakWatch) token(token string) {
	for i, part := range strings.Split(token, ".") {
		if i > 0 && len(part) >= window {
			l.secret("a part of a token", part)
		}
	}
}

func (l *leakWatch) leaks() (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	windows := map[string]string{}
	for s, what := range l.secrets {
		if len(s) < window {
			if strings.Contains(text, s) {
				found = append(found, fmt.Sprintf("%s was logged, reported or answered", what))
			}
			continue
		}
		for i := 0; i+window <= len(s); i += 7 {
			windows[s[i:i+window]] = what
		}
	}
	for i := 0; i+window <= len(text) && len(found) < 10; i++ {
		if what, ok := windows[text[i:i+window]]; ok {
			found = append(found, fmt.Sprintf("%s was logged, reported or answered: ...%q...", what, text[max(0, i-100):min(len(text), i+8)]))
			i += 200
		}
	}
	return found
}

func TestP11_TheWatchFindsALeak(t *testing.T) {
	for name, text := range map[string]string{
		"a part of a token": "before eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.c29tZXRoaW5nLXRoYXQtaXMtc2VjcmV0.x after",
		"its middle":        "token=...dGhhdC1pcy1zZWNyZXQtbG9uZ2Vy...",
		"a short value":     "value=hunter22",
	} {
		t.Run(name, func(t *testing.T) {
			l := leakWatch{secrets: map[string]string{}}
			l.token("eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.c29tZXRoaW5nLXRoYXQtaXMtc2VjcmV0.x")
			l.token("x.YSBzdGFydCBvZiBpdC10aGF0LWlzLXNlY3JldC1sb25nZXI" + "dGhhdC1pcy1zZWNyZXQtbG9uZ2VyLXRoYW4tdGhhdA.x")
			l.secret("a value", "hunter22")
			fmt.Fprintln(&l, "nothing here, eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ")
			if found := l.leaks(); len(found) != 0 {
				t.Fatal(found)
			}
			fmt.Fprintln(&l, text)
			if found := l.leaks(); len(found) != 1 {
				t.Fatalf("found %d: %v", len(found), found)
			}
		})
	}
}

// recorder keeps events and log lines, and hands both to the watch.
type recorder struct {
	mu     sync.Mutex
	events []sessions.Event
	log    bytes.Buffer
}

func (r *recorder) observe(_ context.Context, e sessions.Event) {
	watch.event(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) Write(b []byte) (int, error) {
	_, _ = watch.Write(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *recorder) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// take returns "kind outcome" for each event since the last call.
func (r *recorder) take() (all []string) {
	for _, e := range r.takeEvents() {
		all = append(all, string(e.Kind)+" "+string(e.Outcome))
	}
	return all
}

func (r *recorder) takeEvents() []sessions.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.events
	r.events = nil
	return all
}

// lines returns the log lines since the last call.
func (r *recorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := strings.TrimSuffix(r.log.String(), "\n")
	r.log.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
