package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	fleetSize     = 3
	fleetHeader   = "X-Fleet"   // from the proxy to a replica: a fleetState
	refusedHeader = "X-Refused" // from the proxy to the client: the replicas that did not respond before the one that did
	stickyCookie  = "replica"   // the proxy's own cookie, as load balancers have
	patience      = 10 * time.Second
)

// fleetState is what the proxy knows about the replicas, for the page.
type fleetState struct {
	Sticky   bool          `json:"sticky"`
	Replicas []memberState `json:"replicas"`
}

type memberState struct {
	Number int    `json:"number"` // from 1
	Name   string `json:"name"`
	Up     bool   `json:"up"`
	PID    int    `json:"pid"`
	Served int    `json:"served"`
	Here   bool   `json:"-"` // it serves this page
}

// member is one replica, in its own process.
type member struct {
	memberState
	addr  string // empty until the first start; a dead replica keeps it, as in a proxy's list
	cmd   *exec.Cmd
	stdin io.Closer     // closing it asks the process to end
	gone  chan struct{} // closed when the process has ended
}

// fleet is the replicas, and the proxy in front of them.
type fleet struct {
	program   string
	options   options
	secret    string
	transport http.RoundTripper

	change sync.Mutex // held while a replica is started or killed

	mu      sync.Mutex // guards everything below; never held for long
	members [fleetSize]*member
	next    int
}

func newFleet(program string, o options, secret string) *fleet {
	f := &fleet{
		program: program, options: o, secret: secret,
		// Use a new connection per request. A dead replica then refuses the connection before anything of the request
		// is sent; on a reused connection, the proxy could not tell whether the request was carried out.
		transport: &http.Transport{DisableKeepAlives: true},
	}
	for i := range f.members {
		f.members[i] = &member{memberState: memberState{Number: i + 1, Name: "replica-" + strconv.Itoa(i+1)}}
	}
	return f
}

func (f *fleet) startAll() error {
	for n := range f.members {
		if err := f.start(n + 1); err != nil {
			return err
		}
	}
	return nil
}

// start starts replica number n, unless it is up.
func (f *fleet) start(n int) error {
	f.change.Lock()
	defer f.change.Unlock()
	m := f.members[n-1]
	if f.isUp(m) {
		return nil
	}
	what := "events"
	if f.options.demo { // the table shows it
		what = "nothing"
	}
	args := []string{"-serve", "-with-parent", "-addr", "127.0.0.1:0", "-health", "", "-name", m.Name, "-store", f.options.store, "-log", what}
	cmd := exec.Command(f.program, args...)
	// In the environment, because everybody on the machine can read the command line.
	cmd.Env = append(os.Environ(), "SESSION_SECRET="+f.secret, "REDIS_ADDR="+f.options.redis)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	tooLate := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	tooLate.Stop()
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("%s did not start", m.Name)
	}
	gone := make(chan struct{})
	f.mu.Lock()
	m.cmd, m.stdin, m.gone, m.addr, m.Up, m.PID = cmd, stdin, gone, addr, true, cmd.Process.Pid
	f.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		f.mu.Lock()
		m.Up = false
		f.mu.Unlock()
		close(gone)
	}()
	return nil
}

func (f *fleet) isUp(m *member) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.Up
}

// kill kills replica number n, without time to save anything.
func (f *fleet) kill(n int) {
	f.change.Lock()
	defer f.change.Unlock()
	if m := f.members[n-1]; f.isUp(m) {
		_ = m.cmd.Process.Kill()
		<-m.gone
	}
}

// stop ends all replicas, gracefully if possible.
func (f *fleet) stop() {
	f.change.Lock()
	defer f.change.Unlock()
	for _, m := range f.members {
		if m.cmd != nil {
			_ = m.stdin.Close()
		}
	}
	deadline := time.After(3 * time.Second)
	for _, m := range f.members {
		if m.cmd == nil {
			continue
		}
		select {
		case <-m.gone:
		case <-deadline:
			_ = m.cmd.Process.Kill()
			<-m.gone
		}
	}
}

// handler is the proxy, and serves the buttons that kill and restart replicas.
func (f *fleet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /fleet/{number}/{what}", f.button)
	mux.Handle("/", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.Host = r.In.Host // CrossOriginProtection compares it with the Origin
			r.SetXForwarded()
		},
		Transport:    f,
		ErrorHandler: f.nobody,
		ErrorLog:     log.New(io.Discard, "", 0),
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

func (f *fleet) button(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("number"))
	what := r.PathValue("what")
	if err != nil || n < 1 || n > fleetSize || what != "kill" && what != "start" {
		http.NotFound(w, r)
		return
	}
	if what == "kill" {
		f.kill(n)
	} else if err := f.start(n); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// RoundTrip sends a request to the replica whose turn it is. If that replica does not accept the connection, nothing
// was sent, and the next one gets the request, whatever its method. If the connection breaks later, a GET goes to the
// next replica. It is unknown whether any other request was carried out, so it is not repeated.
func (f *fleet) RoundTrip(r *http.Request) (*http.Response, error) {
	err := errors.New("no replica has been started")
	var refused []string
	for _, m := range f.order(r) {
		f.mu.Lock()
		name, addr := m.Name, m.addr
		f.mu.Unlock()
		if addr == "" {
			continue
		}
		try := r.Clone(r.Context())
		try.URL.Host = addr
		try.Header.Set(fleetHeader, f.state())
		if r.Body != nil {
			try.Body = io.NopCloser(r.Body) // keeps the body open for the next replica
		}
		var resp *http.Response
		if resp, err = f.transport.RoundTrip(try); err == nil {
			f.served(m)
			if len(refused) > 0 {
				resp.Header.Set(refusedHeader, strings.Join(refused, ", "))
			}
			if f.options.sticky && pinned(r) != name {
				pin := http.Cookie{Name: stickyCookie, Value: name, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
				resp.Header.Add("Set-Cookie", pin.String())
			}
			return resp, nil
		}
		refused = append(refused, name)
		var op *net.OpError
		notSent := errors.As(err, &op) && op.Op == "dial"
		if !notSent && r.Method != http.MethodGet && r.Method != http.MethodHead || r.Context().Err() != nil {
			break
		}
	}
	return nil, err
}

// order returns the replicas in the order in which to try them: round robin, unless the client is pinned.
func (f *fleet) order(r *http.Request) []*member {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := f.next
	f.next = (f.next + 1) % fleetSize
	if f.options.sticky {
		for i, m := range f.members {
			if m.Name == pinned(r) {
				first = i
			}
		}
	}
	return append(append([]*member(nil), f.members[first:]...), f.members[:first]...)
}

func pinned(r *http.Request) string {
	if c, err := r.Cookie(stickyCookie); err == nil {
		return c.Value
	}
	return ""
}

func (f *fleet) served(m *member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.Served++
}

// state returns the state of the fleet, in the form of fleetHeader.
func (f *fleet) state() string {
	b, _ := json.Marshal(f.snapshot())
	return string(b)
}

func (f *fleet) snapshot() *fleetState {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fleetState{Sticky: f.options.sticky}
	for _, m := range f.members {
		s.Replicas = append(s.Replicas, m.memberState)
	}
	return s
}

// nobody responds when no replica does.
func (f *fleet) nobody(w http.ResponseWriter, _ *http.Request, _ error) {
	var page bytes.Buffer
	if err := templates.ExecuteTemplate(&page, "nobody", view{Fleet: f.snapshot()}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	protect(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = w.Write(page.Bytes())
}
