// Package redistest starts real redis-servers for tests.
package redistest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server for one test.
type Server struct {
	Addr string

	tb   testing.TB
	dir  string
	args []string
	conf string // of a sentinel
	cmd  *exec.Cmd
	log  *bytes.Buffer

	waited chan error
}

// Start starts a redis-server on a free port of the loopback interface, without persistence, and stops it when the test
// ends. It passes args on to redis-server. If there is no redis-server, the test is skipped; if CI is set in the
// environment, it fails.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal("redis-server is not installed: CI must have it")
		}
		tb.Skip("redis-server is not installed: this test needs a real one (Debian: apt install redis-server)")
	}
	return start(tb, func(addr string) *Server { return &Server{Addr: addr, tb: tb, dir: tb.TempDir(), args: args} })
}

// StartSentinel starts a sentinel that watches a master, under the name "master", and stops it when the test ends.
func StartSentinel(tb testing.TB, master *Server) *Server {
	tb.Helper()
	host, port, _ := net.SplitHostPort(master.Addr)
	return start(tb, func(addr string) *Server {
		dir := tb.TempDir()
		conf := filepath.Join(dir, "sentinel.conf")
		_, own, _ := net.SplitHostPort(addr)
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor master %s %s 1\n", own, dir, host, port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		return &Server{Addr: addr, tb: tb, dir: dir, conf: conf}
	})
}

func start(tb testing.TB, at func(addr string) *Server) *Server {
	tb.Helper()
	var err error
	for range 5 { // another process may take the free port first
		s := at(freeAddr(tb))
		if err = s.start(); err == nil {
			tb.Cleanup(s.Stop)
			return s
		}
	}
	tb.Fatal(err)
	return nil
}

// Overlap lets eight tests run in parallel, unless -parallel sets another number. Tests that call t.Parallel mostly
// wait for servers and clocks, and on a machine with two processors only two would wait at a time. Call it from
// TestMain.
func Overlap() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given && runtime.GOMAXPROCS(0) < 8 {
		_ = flag.Set("test.parallel", "8")
	}
}

// freeAddr picks a port below the ephemeral range, so that no other program gets it while a server is stopped and
// before it is restarted.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	tb.Fatal(err)
	return ""
}

func (s *Server) start() error {
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", s.dir, "--daemonize", "no"}, s.args...)
	if s.conf != "" {
		args = []string{s.conf, "--sentinel"}
	}
	s.log = &bytes.Buffer{}
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	cmd := s.cmd
	go func() { done <- cmd.Wait() }()
	rdb := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	defer rdb.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			s.cmd = nil
			return fmt.Errorf("redis-server ended: %v\n%s", err, s.log)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-done
			s.cmd = nil
			return fmt.Errorf("redis-server did not answer\n%s", s.log)
		case <-tick.C:
			conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
			if err != nil { // the client would log it
				continue
			}
			_ = conn.Close()
			if isAnswering(ctx, rdb, cmd.Process.Pid) {
				s.waited = done
				return nil
			}
		}
	}
}

// isAnswering reports whether the server of this process answers. Another one may have taken the port: then ours is about
// to end.
func isAnswering(ctx context.Context, rdb *redis.Client, pid int) bool {
	info, err := rdb.Info(ctx, "server").Result()
	if redis.HasErrorPrefix(err, "ERR unknown command") { // a test has renamed it
		return rdb.Ping(ctx).Err() == nil
	}
	return strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", pid))
}

// Stop kills the server, as in a crash. Restart starts it again.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.waited
	s.cmd = nil
}

// Restart starts the server again at the same address. It is empty, unless its arguments enable persistence.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	if err := s.start(); err != nil {
		s.tb.Fatal(err)
	}
}

// Client returns a client with short timeouts, closed when the test ends.
func (s *Server) Client(tb testing.TB) *redis.Client {
	tb.Helper()
	rdb := redis.NewClient(&redis.Options{
		Addr: s.Addr, ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 1,
		DialTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
	})
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
