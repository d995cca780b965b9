package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions/internal/redistest"
)

var program string // built once

func TestMain(m *testing.M) {
	redistest.Overlap()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "services-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "services")
		args := []string{"build", "-o", program}
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				if s.Key == "-race" && s.Value == "true" { // it is watched as the tests are
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

// start runs the program, which is killed when the test ends.
func start(t *testing.T, args ...string) (cmd *exec.Cmd, stdout *bufio.Reader, stderr *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, stderr = exec.CommandContext(ctx, program, args...), &bytes.Buffer{}
	cmd.Stderr = stderr
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewReader(pipe), stderr
}

// requireTables holds what the program prints against what it is there to show.
func requireTables(t *testing.T, out string) {
	t.Helper()
	for name, reads := range map[string]string{
		"each service asks the store": "1 1 1 1 4",
		"with relay":                  "1 0 0 0 1",
		"with relay, to pay":          "1 0 0 1 2",
	} {
		row := regexp.MustCompile(`(?m)^` + name + `  +(\d.*)$`).FindStringSubmatch(out)
		require.NotNil(t, row, "%s\n%s", name, out)
		require.Equal(t, reads, strings.Join(strings.Fields(row[1]), " "), name)
	}

	rows := regexp.MustCompile(`(?m)^Redis .*? ([\d.]+) ms +([\d.]+) ms +([\d.]+) +(\d+) clicks each, a read took ([\d.]+) ms$`).FindAllStringSubmatch(out, -1)
	require.Len(t, rows, 2, out)
	number := func(s string) float64 {
		f, err := strconv.ParseFloat(s, 64)
		require.NoError(t, err)
		return f
	}
	for _, row := range rows {
		require.Positive(t, number(row[4]), row[0])
		requireRatio(t, number(row[1]), number(row[2]), number(row[3]))
	}
	require.GreaterOrEqual(t, number(rows[1][5]), 5.0, "the delay is in the reads that it is said to be in")
	require.GreaterOrEqual(t, number(rows[1][1]), 20.0, "and a click waits for four of them")

	_, story, _ := strings.Cut(out, "\n3. ")
	var what []string
	for _, row := range regexp.MustCompile(`(?m)^(?:before|\+ [\d.]+ s) +(\w+) +(\w+) +(\w+)$`).FindAllStringSubmatch(story, -1) {
		if now := strings.Join(row[1:], " "); len(what) == 0 || what[len(what)-1] != now {
			what = append(what, now)
		}
	}
	require.Equal(t, []string{"accepts accepts accepts", "rejects accepts rejects", "rejects rejects rejects"}, what, out)
	age := regexp.MustCompile(`stayed valid for ([\d.]+) s more`).FindStringSubmatch(story)
	require.NotNil(t, age, out)
	require.Positive(t, number(age[1]))
}

// requireRatio requires that ratio is b/a, where all three were rounded to two decimals.
func requireRatio(t require.TestingT, a, b, ratio float64) {
	const half = 0.005 + 1e-9
	require.GreaterOrEqual(t, ratio, (b-half)/(a+half)-half, "%g / %g", b, a)
	require.LessOrEqual(t, ratio, (b+half)/(a-half)+half, "%g / %g", b, a)
}

func TestRequireRatio(t *testing.T) {
	for _, c := range []struct {
		a, b, ratio float64
		ok          bool
	}{
		{20, 100, 5, true}, {20, 100, 5.01, false}, {20, 100, 4.99, false},
		{0.42, 2.36, 5.62, true}, {0.42, 2.36, 5.67, true}, {0.42, 2.36, 5.72, false}, {0.42, 2.36, 5.52, false},
		{20, 100, 0.2, false},
	} {
		failed := new(failures)
		requireRatio(failed, c.a, c.b, c.ratio)
		require.Equal(t, c.ok, *failed == 0, "%+v", c)
	}
}

// failures counts what require reports.
type failures int

func (f *failures) Errorf(string, ...any) { *f++ }
func (f *failures) FailNow()              {}

func TestTables(t *testing.T) {
	t.Parallel()
	cmd, stdout, stderr := start(t, "-clicks", "20", "-delay", "5ms", "-lifetime", "4s")
	out, err := io.ReadAll(stdout)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait(), "%s\n%s", out, stderr)
	require.Empty(t, stderr.String())
	require.NotContains(t, string(out), "\x1b", "not a terminal")
	require.Contains(t, string(out), "Sessions in an embedded Redis.")
	requireTables(t, string(out))
}

func TestTablesOnARealRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := server.Client(t)
	require.NoError(t, direct.Set(t.Context(), "somebody else's", "kept", 0).Err())
	cmd, stdout, stderr := start(t, "-clicks", "20", "-delay", "5ms", "-lifetime", "4s", "-redis", server.Addr)

	var out strings.Builder
	seen := []string{} // keys, once somebody is logged in
	for {
		line, err := stdout.ReadString('\n')
		out.WriteString(line)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if strings.HasPrefix(line, "with relay  ") {
			seen = keysOf(t, direct)
		}
	}
	require.NoError(t, cmd.Wait(), "%s\n%s", &out, stderr)
	require.Empty(t, stderr.String())
	require.Contains(t, out.String(), "Sessions in Redis at "+server.Addr)
	requireTables(t, out.String())
	require.Len(t, seen, 2, "the session was there: %v", seen)
	require.Equal(t, []string{"somebody else's"}, keysOf(t, direct), "it removes its own keys, and only those")
}

func keysOf(t *testing.T, rdb *redis.Client) []string {
	keys, err := rdb.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	return keys
}

// Ctrl-C in the middle leaves nothing behind.
func TestStop(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := server.Client(t)
	cmd, stdout, stderr := start(t, "-clicks", "10000", "-delay", "100ms", "-redis", server.Addr)
	for { // until it takes times, so before the logout
		line, err := stdout.ReadString('\n')
		require.NoError(t, err, "%s", stderr)
		if strings.HasPrefix(line, "2. ") {
			break
		}
	}
	require.Len(t, keysOf(t, direct), 1)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_, err := io.Copy(io.Discard, stdout)
	require.NoError(t, err)
	require.Error(t, cmd.Wait())
	require.Equal(t, "services: stopped\n", stderr.String())
	require.Empty(t, keysOf(t, direct))
}

func TestMistakesAreSaid(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"-clicks 0":            "services: -clicks must be 1 or more\n",
		"-delay -1ms":          "services: -delay must be between 0 and 1s\n",
		"-lifetime 1s":         "services: -lifetime must be between 2s and 5m0s\n",
		"-lifetime 6m":         "services: -lifetime must be between 2s and 5m0s\n",
		"-redis 127.0.0.1:1":   "no answer from Redis",
		"-redis=:0 -clicks=10": "no answer from Redis",
	} {
		cmd := exec.Command(program, strings.Fields(args)...)
		out, err := cmd.CombinedOutput()
		require.Error(t, err, args)
		require.Contains(t, string(out), want, args)
	}
}

// The rest shows that the tables are not what the program would like to see.

func newTeller(t *testing.T) *teller {
	t.Helper()
	tell := &teller{options: options{clicks: 1, lifetime: 4 * time.Second, out: io.Discard}}
	var err error
	tell.lab, err = openLab(t.Context(), "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tell.lab.close(context.Background())) })
	tell.without, err = openWithout(tell.lab)
	t.Cleanup(func() { tell.without.close() })
	require.NoError(t, err)
	tell.with, err = openWith(tell.lab, tell.lifetime)
	t.Cleanup(func() { tell.with.close() })
	require.NoError(t, err)
	tell.browser, err = newBrowser()
	require.NoError(t, err)
	t.Cleanup(tell.browser.CloseIdleConnections)
	require.NoError(t, tell.post(t.Context(), "/login"))
	return tell
}

func TestReadsThatShouldNotBeAreSeen(t *testing.T) {
	t.Parallel()
	tell := newTeller(t)
	require.NoError(t, tell.countReads(t.Context()))
	tell.with = tell.without
	require.ErrorContains(t, tell.countReads(t.Context()), "with relay: the reads are [1 1 1 1], want [1 0 0 0]")
}

// A logout that does not reach the edge.
func TestALogoutThatDoesNotCountIsSeen(t *testing.T) {
	t.Parallel()
	tell := newTeller(t)
	edge, err := url.Parse(tell.with.edge.url)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(edge)
	transport := &http.Transport{}
	proxy.Transport = transport
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/logout" {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { between.Close(); transport.CloseIdleConnections() })
	tell.with.edge.url = between.URL
	require.ErrorContains(t, tell.logOut(t.Context()), "did not see the logout at once")
}
