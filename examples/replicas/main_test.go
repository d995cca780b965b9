package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

const atMost = 20 * time.Second // for what takes milliseconds on a machine that is not busy

var program string // built once

const secret = "a secret of the tests: 32 bytes!"

func TestMain(m *testing.M) {
	redistest.Overlap()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "replicas-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "replicas")
		args := []string{"build", "-o", program}
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				if s.Key == "-race" && s.Value == "true" { // its processes are watched as this one is
					args = append(args, "-race")
				}
			}
		}
		if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// process is the program, started by a test.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer  // of its replicas too: read it when all have ended
	allEnd chan struct{} // closed when it and all that it started have ended: then nobody has standard error open
	first  string        // line of the output
	ended  bool
}

// launch starts the program and waits for its first line. It has ended when the test ends.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), allEnd: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that what it leaves behind can be ended too
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p.cmd.Stderr = w
	err = p.cmd.Start()
	w.Close()
	require.NoError(t, err)
	go func() {
		defer close(p.allEnd)
		defer r.Close()
		_, _ = p.stderr.ReadFrom(r)
	}()
	t.Cleanup(func() {
		if !p.ended {
			_ = p.cmd.Process.Kill()
			_ = p.wait()
		}
		if t.Failed() {
			t.Logf("%v\n%s", args, &p.stderr)
		}
	})
	p.first, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "it said nothing")
	return p
}

// end sends a signal and waits for the process and all that it has started.
func (p *process) end(sig os.Signal) error {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(sig))
	return p.wait()
}

func (p *process) wait() error {
	p.t.Helper()
	p.ended = true
	tooLate := time.AfterFunc(atMost, func() { _ = p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	tooLate.Stop()
	select {
	case <-p.allEnd:
	case <-time.After(atMost):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.allEnd
		p.t.Error("a process was left behind")
	}
	if strings.Contains(p.stderr.String(), "DATA RACE") {
		p.t.Error("a data race")
	}
	return err
}

// launchFleet starts the fleet, and stops it as Ctrl-C does when the test ends.
func launchFleet(t *testing.T, args ...string) (*process, string) {
	t.Helper()
	p := launch(t, nil, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	base := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(p.first)
	require.NotEmpty(t, base, p.first)
	t.Cleanup(func() {
		if !p.ended {
			require.NoError(t, p.end(os.Interrupt))
		}
	})
	return p, base
}

// browser is a client with cookies, and the page that it has open.
type browser struct {
	t    *testing.T
	base string
	http.Client
	page string
}

func newBrowser(t *testing.T, base string) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	b := &browser{t: t, base: base, Client: http.Client{Jar: jar, Timeout: atMost, Transport: &http.Transport{}}}
	t.Cleanup(b.CloseIdleConnections)
	return b
}

func (b *browser) read(resp *http.Response, err error) int {
	b.t.Helper()
	require.NoError(b.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	b.page = string(body)
	return resp.StatusCode
}

func (b *browser) reload() int { b.t.Helper(); return b.read(b.Get(b.base)) }

func (b *browser) post(path string, pairs ...string) int {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return b.read(b.PostForm(b.base+path, form))
}

// shows returns the text of the element with this id, empty if there is none.
func (b *browser) shows(id string) string {
	m := regexp.MustCompile(`id="` + id + `">([^<]*)<`).FindStringSubmatch(b.page)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

func TestDemo(t *testing.T) {
	row := regexp.MustCompile(`(?m)(replica-\d) +(\d+) +(\S+) +(ok|LOST)`)
	for name, test := range map[string]struct {
		args  []string
		holds bool
	}{
		"memory":         {args: []string{"-store", "memory"}},
		"memory, sticky": {args: []string{"-store", "memory", "-sticky"}},
		"cookie":         {[]string{"-store", "cookie"}, true},
		"redis":          {nil, true},
		"redis, sticky":  {[]string{"-sticky"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(program, append(test.args, "-demo")...)
			cmd.WaitDelay = atMost
			text, err := cmd.CombinedOutput()
			out := string(text)
			require.NoError(t, err, out)
			require.NotContains(t, out, "DATA RACE")
			rows := row.FindAllStringSubmatch(out, -1)
			require.Len(t, rows, 18, out)
			require.Contains(t, out, "refused)", "a dead replica was tried")
			served := map[string]bool{}
			backwards, before := 0, 0
			for i, r := range rows {
				served[r[1]] = true
				n, err := strconv.Atoi(r[2])
				require.NoError(t, err)
				if n <= before {
					backwards++
				}
				before = n
				if test.holds {
					require.Equal(t, i+1, n, out)
					require.Equal(t, "ok", r[4], out)
				}
				if test.holds && i >= 2 {
					require.Equal(t, "milk", r[3], out)
				}
			}
			last := rows[len(rows)-1]
			if test.holds {
				require.Contains(t, out, "nothing was lost")
				return
			}
			require.Equal(t, []string{"-", "LOST"}, last[3:5], out)
			for i, r := range rows[:4] {
				require.Equal(t, []string{strconv.Itoa(i + 1), "ok"}, []string{r[2], r[4]}, "one replica needs no other\n%s", out)
			}
			if strings.Contains(name, "sticky") {
				require.Equal(t, "8", rows[7][2], "hidden until the replica dies\n%s", out)
				require.Equal(t, []string{"1", "-", "LOST"}, rows[8][2:5], out)
				return
			}
			require.Len(t, served, 3)
			require.Equal(t, []string{"1", "-", "LOST"}, rows[4][2:5], "the second replica does not know the session\n%s", out)
			require.Greater(t, backwards, 5, out)
		})
	}
}

func TestDemoOnARealRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	out, err := exec.Command(program, "-demo", "-redis", server.Addr).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "nothing was lost")
	require.Equal(t, int64(1), server.Client(t).DBSize(t.Context()).Val(), "one session, and it is there")
}

// Visitors reload and save while one replica after the other is killed and brought back, so that two are up at any time.
func TestHoldsWhileReplicasDieAndComeBack(t *testing.T) {
	for _, kind := range []string{"cookie", "redis"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			args := []string{"-store", kind}
			if kind == "redis" {
				args = append(args, "-redis", redistest.Start(t).Addr)
			}
			_, base := launchFleet(t, args...)
			var over atomic.Bool
			var reloads, broken atomic.Int64
			var wg sync.WaitGroup
			for i := range 4 {
				b := newBrowser(t, base)
				wg.Go(func() {
					id, count, saved := "", 0, ""
					for n := 0; !over.Load(); n++ {
						err := b.once(id, &count, saved, kind == "cookie")
						if errors.Is(err, io.ErrUnexpectedEOF) { // it died while it sent the page
							broken.Add(1)
							continue
						}
						if err != nil {
							t.Errorf("visitor %d: %v", i, err)
							return
						}
						id = b.shows("session-id")
						reloads.Add(1)
						for next := fmt.Sprintf("%d of %d", n, i); saved != next; {
							status, err := b.save(next)
							switch {
							case err != nil || status != http.StatusSeeOther && status != http.StatusBadGateway:
								t.Errorf("visitor %d: save: %d, %v", i, status, err)
								return
							case status == http.StatusBadGateway: // it died while it worked on it: nobody knows, so save it again
								broken.Add(1)
							default:
								saved = next
							}
						}
					}
				})
			}
			operator := newBrowser(t, base)
			for round := range 9 {
				n := strconv.Itoa(round%fleetSize + 1)
				require.Equal(t, http.StatusOK, operator.post("/fleet/"+n+"/kill"))
				require.Contains(t, operator.page, "/fleet/"+n+"/start")
				more := reloads.Load() + 10
				require.Eventually(t, func() bool { return t.Failed() || reloads.Load() > more }, atMost, time.Millisecond)
				require.Equal(t, http.StatusOK, operator.post("/fleet/"+n+"/start"))
				require.Contains(t, operator.page, "/fleet/"+n+"/kill")
			}
			over.Store(true)
			wg.Wait()
			t.Logf("%d reloads, 9 kills, %d answers broken by them", reloads.Load(), broken.Load())
		})
	}
}

// once reloads the page and says what is not as it should be.
func (b *browser) once(id string, count *int, saved string, exact bool) error {
	resp, err := b.Get(b.base)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		*count++ // it was counted before the first byte
		return err
	}
	b.page = string(body)
	n, _ := strconv.Atoi(b.shows("visits"))
	// A replica may die between its commit and its answer. The proxy then asks another one, which counts again.
	if n < *count+1 || exact && n != *count+1 {
		return fmt.Errorf("the counter is %d after %d", n, *count)
	}
	*count = n
	if id != "" && b.shows("session-id") != id {
		return errors.New("another session")
	}
	if b.shows("value-shown") != saved {
		return fmt.Errorf("%q is not the value that was saved, %q", b.shows("value-shown"), saved)
	}
	return nil
}

// save sends the form, and does not follow to the page.
func (b *browser) save(value string) (int, error) {
	stay := b.Client
	stay.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := stay.PostForm(b.base+"/value", url.Values{"value": {value}})
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func TestPage(t *testing.T) {
	t.Parallel()
	p, base := launchFleet(t)
	b := newBrowser(t, base)
	served := map[string]bool{}
	for i := range 3 {
		require.Equal(t, http.StatusOK, b.reload())
		require.Equal(t, strconv.Itoa(i+1), b.shows("visits"))
		served[b.shows("served-by")] = true
		require.Contains(t, b.page, "served this page")
	}
	require.Equal(t, map[string]bool{"replica-1": true, "replica-2": true, "replica-3": true}, served)
	id := b.shows("session-id")
	require.Len(t, id, 22)
	require.Contains(t, b.shows("expect"), "nothing is lost")

	require.Equal(t, http.StatusOK, b.post("/value", "value", " <b>milk</b>\n & eggs "))
	require.Equal(t, "<b>milk</b> & eggs", b.shows("value-shown"))
	require.Equal(t, http.StatusOK, b.post("/login", "name", "Ada"))
	require.Equal(t, "Ada", b.shows("user"))
	require.Equal(t, "<b>milk</b> & eggs", b.shows("value-shown"))
	require.NotEqual(t, id, b.shows("session-id"), "login renews")
	known := b.shows("session-id")

	for n := range fleetSize {
		b.post(fmt.Sprintf("/fleet/%d/kill", n+1))
	}
	require.Contains(t, b.page, "found no replica that could answer")
	require.Equal(t, http.StatusBadGateway, b.reload())
	require.Equal(t, http.StatusOK, b.post("/fleet/2/start"), "brought back from the page of the proxy")
	require.Equal(t, "replica-2", b.shows("served-by"))
	require.Equal(t, known, b.shows("session-id"))
	require.Equal(t, "<b>milk</b> & eggs", b.shows("value-shown"))
	require.Equal(t, http.StatusOK, b.post("/fleet/2/start"), "it is up already")

	require.Equal(t, http.StatusOK, b.post("/logout"))
	require.Empty(t, b.shows("user"))
	require.Empty(t, b.shows("value-shown"))
	require.Equal(t, "1", b.shows("visits"))

	require.Equal(t, http.StatusNotFound, b.post("/fleet/4/kill"))
	require.Equal(t, http.StatusNotFound, b.post("/fleet/1/explode"))
	req, err := http.NewRequest("POST", base+"/fleet/2/kill", nil)
	require.NoError(t, err)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, b.read(b.Do(req)), "another site kills nothing")

	require.NoError(t, p.end(os.Interrupt))
	require.Contains(t, p.stderr.String(), "destroy  deleted    "+known)
	require.NotContains(t, p.stderr.String(), "milk")
}

// The page has what its policy lets a browser use: its own style and icon, and forms that lead to itself.
func TestPolicy(t *testing.T) {
	t.Parallel()
	_, base := launchFleet(t, "-store", "cookie")
	b := newBrowser(t, base)
	for _, path := range []string{"/", "/nobody"} {
		if path == "/nobody" { // the page of the proxy
			for n := range fleetSize {
				b.post(fmt.Sprintf("/fleet/%d/kill", n+1))
			}
		}
		resp, err := b.Get(base)
		require.NoError(t, err)
		header := resp.Header
		b.read(resp, nil)
		requirePolicy(t, b.page, header)
	}
}

func requirePolicy(t *testing.T, page string, header http.Header) {
	style := regexp.MustCompile("(?s)<style>(.*)</style>").FindStringSubmatch(page)
	require.NotNil(t, style)
	sum := sha256.Sum256([]byte(style[1]))
	require.Contains(t, header.Get("Content-Security-Policy"), "style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	for _, s := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'", "img-src data:"} {
		require.Contains(t, header.Get("Content-Security-Policy"), s)
	}
	require.Equal(t, []string{"nosniff"}, header.Values("X-Content-Type-Options"))
	require.Equal(t, []string{"same-origin"}, header.Values("Referrer-Policy"))
	require.NotRegexp(t, `(?i)<script|\sstyle=|\son\w+=|<style>.*<style>|<(img|iframe|object|base)\b`, page)
	for _, m := range regexp.MustCompile(`<form [^>]*action="([^"]*)"|<link [^>]*href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		require.True(t, strings.HasPrefix(m[1], "/") || strings.HasPrefix(m[2], "data:"), m[0])
	}
}

// What an event says of a request may hold anything.
func TestEventsAreQuoted(t *testing.T) {
	var b bytes.Buffer
	printEvent(log.New(&b, "", 0), "one", sessions.Event{Detail: "a\nforged line", Err: errors.New("\x1b[31m")})
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
	require.Contains(t, b.String(), `"a\nforged line"  "\x1b[31m"`)
}

func TestAReplicaBelievesNoFleetHeaderFromOutside(t *testing.T) {
	t.Parallel()
	p := launch(t, nil, "-serve", "-store", "memory", "-addr", "127.0.0.1:0", "-health", "", "-name", "pod-x")
	addr := strings.TrimSpace(strings.TrimPrefix(p.first, "listening on "))
	req, err := http.NewRequest("GET", "http://"+addr, nil)
	require.NoError(t, err)
	req.Header.Set(fleetHeader, `{"replicas":[{"number":1,"name":"planted"}]}`)
	b := newBrowser(t, "")
	require.Equal(t, http.StatusOK, b.read(b.Do(req)))
	require.NotContains(t, b.page, "planted")
	require.Equal(t, "pod-x", b.shows("served-by"))
	b.CloseIdleConnections()
	require.NoError(t, p.end(syscall.SIGTERM))
}

func TestReplicasEndWithTheirParent(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM, os.Kill} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			p, base := launchFleet(t, "-store", "memory")
			b := newBrowser(t, base)
			require.Equal(t, http.StatusOK, b.reload())
			b.CloseIdleConnections()
			err := p.end(sig)
			if sig == os.Kill {
				require.Error(t, err)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// serve starts one replica, and gives the addresses of its page and its health.
func serve(t *testing.T, env []string, args ...string) (p *process, page, health string) {
	t.Helper()
	p = launch(t, append(env, "LISTEN_ADDR=127.0.0.1:0", "HEALTH_ADDR=127.0.0.1:0"), append([]string{"-serve"}, args...)...)
	m := regexp.MustCompile(`listening on (\S+), health on (\S+)`).FindStringSubmatch(p.first)
	require.NotNil(t, m, p.first)
	return p, "http://" + m[1], "http://" + m[2]
}

func TestProbes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, page, health := serve(t, []string{"REDIS_ADDR=" + server.Addr})
	b := newBrowser(t, page)
	get := func(url string) int { return b.read(b.Get(url)) }

	require.Equal(t, http.StatusOK, get(health+"/readyz"))
	require.Contains(t, b.page, "ready: Redis answers")
	require.Contains(t, b.page, "noeviction")
	require.Contains(t, b.page, "maxmemory is not set")
	require.Equal(t, http.StatusNotFound, get(page+"/readyz"), "the figures are not for everybody")
	require.Equal(t, http.StatusOK, b.reload())

	server.Stop()
	require.Equal(t, http.StatusServiceUnavailable, get(health+"/readyz"))
	require.Contains(t, b.page, "not ready: Redis does not answer")
	require.Equal(t, http.StatusOK, get(health+"/healthz"), "Redis is away, and this process is well")
	require.Equal(t, http.StatusServiceUnavailable, b.reload())

	server.Restart()
	require.Eventually(t, func() bool { return get(health+"/readyz") == http.StatusOK }, atMost, 10*time.Millisecond)
	require.Equal(t, http.StatusOK, b.reload())

	_, _, health = serve(t, []string{"SESSION_STORE=cookie", "SESSION_SECRET=" + secret})
	require.Equal(t, http.StatusOK, get(health+"/readyz"))
}

// A request that is open when SIGTERM comes is answered, and nothing new is accepted.
func TestShutdownAnswersWhatIsOpen(t *testing.T) {
	t.Parallel()
	p, page, _ := serve(t, []string{"SESSION_STORE=memory"})
	addr := strings.TrimPrefix(page, "http://")
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(atMost)))
	// The handler reads the body, so that it has begun when the server asks for it with 100.
	fmt.Fprintf(conn, "POST /value HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\n")
	answer := bufio.NewReader(conn)
	line, err := answer.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "100 Continue")
	_, err = answer.ReadString('\n')
	require.NoError(t, err)

	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	}, atMost, time.Millisecond)
	fmt.Fprint(conn, "value=milk")
	resp, err := http.ReadResponse(answer, nil)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	require.Len(t, resp.Cookies(), 1)
	require.NoError(t, p.wait())
}

func TestMistakesAreSaid(t *testing.T) {
	t.Parallel()
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	for _, test := range []struct{ args, says string }{
		{"-store memcached", "-store must be memory, cookie or redis"},
		{"-serve -store memcached", "-store must be memory, cookie or redis"},
		{"-store cookie -redis 127.0.0.1:1", "-redis needs -store redis"},
		{"-serve", "REDIS_ADDR"},
		{"-serve -store cookie", "SESSION_SECRET"},
		{"-serve -store memory -log all", "-log must be"},
		{"-addr " + strings.TrimPrefix(taken.URL, "http://"), "choose another: -addr"},
	} {
		cmd := exec.Command(program, strings.Fields(test.args)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, test.args)
		require.Contains(t, string(out), test.says, test.args)
		require.NotContains(t, string(out), "goroutine", test.args)
	}
}

// upstreams makes a fleet of these addresses.
func upstreams(addrs ...string) *fleet {
	f := newFleet("", options{}, "")
	for i, addr := range addrs {
		f.members[i].addr = addr
	}
	return f
}

// refuses returns an address on which nobody listens, and breaks one that hangs up when it has read a request.
func refuses(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func breaks(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestProxyRepeatsOnlyWhatIsSafe(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var bodies []string
	echo := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(body))
	}))
	defer echo.Close()
	good := strings.TrimPrefix(echo.URL, "http://")
	for name, test := range map[string]struct {
		method string
		first  string
		status int
		bodies []string
	}{
		"POST, refused": {"POST", refuses(t), 200, []string{"whole"}},
		"GET, refused":  {"GET", refuses(t), 200, []string{""}},
		"POST, broken":  {"POST", breaks(t), 502, nil},
		"GET, broken":   {"GET", breaks(t), 200, []string{""}},
	} {
		bodies = nil
		proxy := httptest.NewServer(upstreams(test.first, good).handler())
		var body io.Reader
		if test.method == "POST" {
			body = strings.NewReader("whole")
		}
		req, err := http.NewRequest(test.method, proxy.URL, body)
		require.NoError(t, err)
		resp, err := proxy.Client().Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, test.status, resp.StatusCode, name)
		require.Equal(t, test.bodies, bodies, name)
		if test.status == 200 {
			require.Equal(t, "replica-1", resp.Header.Get(refusedHeader), name)
		}
		proxy.Close()
	}
}

// testUser holds what the user of the manifest may do against what the store needs.
func testUser(t *testing.T, addr, password string) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, Username: "app", Password: password})
	t.Cleanup(func() { _ = rdb.Close() })
	ctx, stores := t.Context(), 0
	open := func(t *testing.T) *sessions.RedisStore {
		stores++
		store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: time.Hour, Prefix: fmt.Sprintf("replicas:suite%d:", stores)})
		require.NoError(t, err)
		return store
	}
	sessiontest.TestStore(t, func(t *testing.T) sessions.Store { return open(t) })

	store := open(t)
	health, err := store.Check(ctx)
	require.NoError(t, err)
	require.Empty(t, health.Warnings)
	require.NoError(t, rdb.Set(ctx, fmt.Sprintf("replicas:suite%d:x", stores), "no TTL", 0).Err())
	found, err := store.Audit(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, found.KeysWithoutTTL)
	repaired, err := store.Repair(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, repaired.Repaired)

	for _, command := range []string{
		"FLUSHALL", "FLUSHDB", "CONFIG GET maxmemory", "CONFIG SET maxmemory 1", "KEYS *", "ACL LIST", "SHUTDOWN", "SAVE", "REPLICAOF 127.0.0.1 1",
		"SCRIPT FLUSH", "MONITOR", "CLIENT LIST", "PERSIST replicas:x", "RENAME replicas:x y", "GET other:x", "SET other:x 1", "DEL other:x",
	} {
		var args []any
		for _, arg := range strings.Fields(command) {
			args = append(args, arg)
		}
		require.ErrorContains(t, rdb.Do(ctx, args...).Err(), "NOPERM", command)
	}
	script := redis.NewScript("return redis.call('get', KEYS[1])")
	require.ErrorContains(t, script.Run(ctx, rdb, []string{"other:x"}).Err(), "NOPERM", "nor by a script")
}

// The pods are open to those who need them, and images have full versions.
func TestManifestsClose(t *testing.T) {
	var text string
	for _, name := range []string{"k8s/app.yaml", "k8s/redis.yaml", "Dockerfile"} {
		file, err := os.ReadFile(name)
		require.NoError(t, err)
		text += "\n---\n" + string(file)
	}
	policies := map[string]string{}
	for doc := range strings.SplitSeq(text, "\n---\n") {
		if m := regexp.MustCompile(`(?s)kind: NetworkPolicy\nmetadata:\n  name: (\S+)\n(.*)`).FindStringSubmatch(doc); m != nil {
			policies[m[1]] = m[2]
		}
	}
	require.Len(t, policies, 2)
	for name, policy := range policies {
		require.Contains(t, policy, "policyTypes: [Ingress, Egress]", name)
		require.Contains(t, policy, "podSelector:\n    matchLabels:\n      app.kubernetes.io/name: "+name+"\n", name)
		require.NotRegexp(t, `podSelector: \{\}|namespaceSelector: \{\}|- \{\}|ipBlock`, policy, name)
	}
	ports := func(policy string) (all []string) {
		for _, m := range regexp.MustCompile(`- port: (\S+)`).FindAllStringSubmatch(policy, -1) {
			all = append(all, m[1])
		}
		return all
	}
	require.Equal(t, []string{"http", "redis", "53", "53"}, ports(policies["replicas"]), "not the port for health")
	require.Equal(t, []string{"redis"}, ports(policies["replicas-redis"]))

	images := regexp.MustCompile(`(?m)^(?: *image: |FROM )(\S+)`).FindAllStringSubmatch(text, -1)
	require.Len(t, images, 4)
	for _, m := range images {
		own := m[1] == "scratch" || strings.HasPrefix(m[1], "handover-replicas:")
		require.True(t, own || regexp.MustCompile(`:\d+\.\d+\.\d+`).MatchString(m[1]), "%s: a tag that moves", m[1])
	}
}

// redis.conf and the command of the manifest, with a real server; and the app with the environment of its manifest.
func TestManifestsRunHere(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed: CI must have it")
		}
		t.Skip("redis-server is not installed: this test needs a real one (Debian: apt install redis-server)")
	}
	manifest, err := os.ReadFile("k8s/redis.yaml")
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^  redis\.conf: \|\n((?:    .*\n)+)`).FindSubmatch(manifest)
	require.NotNil(t, m)
	addr := refuses(t)
	_, port, _ := net.SplitHostPort(addr)
	conf := regexp.MustCompile(`(?m)^ {4}`).ReplaceAllString(string(m[1]), "")
	for old, replacement := range map[string]string{"port 6379": "bind 127.0.0.1\nport " + port, "dir /data": "dir " + t.TempDir()} {
		require.Contains(t, conf, old+"\n")
		conf = strings.Replace(conf, old, replacement, 1)
	}
	file := filepath.Join(t.TempDir(), "redis.conf")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	m = regexp.MustCompile(`command: \[sh, -c\]\n +args:\n +- \|\n((?: {14}.*\n)+)`).FindSubmatch(manifest)
	require.NotNil(t, m)
	script := regexp.MustCompile(`(?m)^ {14}`).ReplaceAllString(string(m[1]), "")
	script = strings.Replace(script, "/etc/redis/redis.conf", file, 1)
	require.Contains(t, script, file)

	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	open := exec.CommandContext(ctx, "sh", "-c", script)
	open.Env = append(os.Environ(), "REDIS_PASSWORD=")
	require.Error(t, open.Run(), "not without a password")
	require.NoError(t, ctx.Err(), "not without a password")

	const password = "a \"quoted\" $HOME `pwd` #% \\ pass'word\nEND\nuser default on nopass" // anything
	var log bytes.Buffer
	redis := exec.Command("sh", "-c", script)
	redis.Env = append(os.Environ(), "REDIS_PASSWORD="+password)
	redis.Stdout, redis.Stderr = &log, &log
	redis.WaitDelay = atMost
	require.NoError(t, redis.Start())
	defer func() {
		_ = redis.Process.Kill()
		_ = redis.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	}()

	app, err := os.ReadFile("k8s/app.yaml")
	require.NoError(t, err)
	given := map[string]string{
		"SESSION_STORE": "redis", "REDIS_ADDR": addr, "REDIS_USERNAME": "app", "REDIS_PASSWORD": password,
		"SESSION_SECRET": secret, "REPLICA_NAME": "pod-1",
	}
	var env []string
	for _, m := range regexp.MustCompile(`- name: ([A-Z_]+)\b`).FindAllStringSubmatch(string(app), -1) {
		value, ok := given[m[1]]
		require.True(t, ok, "%s: the program does not know it", m[1])
		env = append(env, m[1]+"="+value)
	}
	require.Len(t, env, len(given))
	_, page, health := serve(t, env)
	b := newBrowser(t, page)
	require.Eventually(t, func() bool { return b.read(b.Get(health+"/readyz")) == http.StatusOK }, atMost, 10*time.Millisecond, "%s", b.page)
	require.Regexp(t, `policy +ok: noeviction`, b.page)
	require.NotContains(t, b.page, "warning")
	require.Equal(t, http.StatusOK, b.reload())
	require.Equal(t, "pod-1", b.shows("served-by"))
	require.NotContains(t, b.page, "The fleet")

	for _, login := range [][]string{{"REDIS_USERNAME=app", "REDIS_PASSWORD=another"}, {"REDIS_USERNAME=default", "REDIS_PASSWORD=" + password}, {}} {
		_, _, health = serve(t, append([]string{"REDIS_ADDR=" + addr}, login...))
		require.Equal(t, http.StatusServiceUnavailable, b.read(b.Get(health+"/readyz")), "a wrong login stops the roll-out")
	}
	probe := regexp.MustCompile(`readinessProbe:\n +exec:\n +command: \[sh, -c, '(.*)'\]\n`).FindStringSubmatch(string(manifest))
	require.NotNil(t, probe)
	for auth, ready := range map[string]bool{password: true, "another": false} {
		ping := exec.Command("sh", "-c", strings.Replace(probe[1], "redis-cli", "redis-cli -p "+port, 1))
		ping.Env = append(os.Environ(), "REDISCLI_AUTH="+auth)
		require.Equal(t, ready, ping.Run() == nil)
	}
	t.Run("user", func(t *testing.T) { testUser(t, addr, password) })

	require.NoError(t, redis.Process.Signal(syscall.SIGTERM))
	require.NoError(t, redis.Wait())
	require.Contains(t, log.String(), "bye bye", "it is told of the end, and has written all")
}

// The build in the Dockerfile shares nothing with that of the tests and takes most of a minute where it is not in the
// build cache: without HANDOVER_LONG only its command is checked.
func TestDockerfileBuilds(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^RUN (.*go build .*) -o /replicas (\S+)$`).FindSubmatch(file)
	require.NotNil(t, m)
	binary := filepath.Join(t.TempDir(), "replicas")
	build := string(m[1])
	long := os.Getenv("HANDOVER_LONG") != ""
	if !long {
		build += " -n"
	}
	cmd := exec.Command("sh", "-c", fmt.Sprintf("%s -o %s %s", build, binary, m[2]))
	cmd.Dir = filepath.Join("..", "..") // the build context
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	if !long {
		return
	}
	if runtime.GOOS == "linux" {
		f, err := elf.Open(binary)
		require.NoError(t, err)
		defer f.Close()
		for _, prog := range f.Progs {
			require.NotEqual(t, elf.PT_INTERP, prog.Type, "it needs a loader, which the image does not have")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	demo, err := exec.CommandContext(ctx, binary, "-demo").CombinedOutput()
	require.NoError(t, err, "%s", demo)
}

// The fleet's state survives the way through a header.
func TestFleetHeader(t *testing.T) {
	f := upstreams()
	var state fleetState
	require.NoError(t, json.Unmarshal([]byte(f.state()), &state))
	require.Equal(t, f.snapshot(), &state)
	require.Equal(t, "replica-3", state.Replicas[2].Name)
}
