package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is a redis-server of our own, on a free port, without persistence.
type server struct {
	addr string
	rdb  *redis.Client
	cmd  *exec.Cmd
	life io.Closer
}

// guard runs a server until its own standard input ends, which it does when we end, in whatever way. Its name is the
// directory of the server.
const guard = `"$@" </dev/null & cat >/dev/null; kill -9 $!; wait $! 2>/dev/null; rm -rf "$0"`

var errNoRedis = errors.New("redis-server is not installed (Debian: apt install redis-server)")

func startServer(ctx context.Context) (*server, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errNoRedis
	}
	for range 5 { // another process may take the free port first
		s, err := tryServer(ctx, path)
		if err != nil {
			return nil, err
		}
		if s != nil {
			return s, nil
		}
	}
	return nil, errors.New("redis-server did not answer")
}

func tryServer(ctx context.Context, path string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	_ = l.Close()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &server{addr: addr}
	s.cmd = exec.Command("sh", "-c", guard, dir, path, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", dir)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	if s.life, err = s.cmd.StdinPipe(); err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	s.rdb = redis.NewClient(&redis.Options{Addr: addr})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case <-tick.C:
			c, err := net.Dial("tcp", addr) // a ping that fails would be logged
			if err != nil {
				continue
			}
			_ = c.Close()
			if s.rdb.Ping(ctx).Err() == nil && s.rdb.ConfigGet(ctx, "dir").Val()["dir"] == dir {
				return s, nil
			}
			continue
		case <-deadline:
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		}
		s.stop()
		return nil, nil
	}
}

func (s *server) stop() {
	_ = s.rdb.Close()
	_ = s.life.Close()
	_ = s.cmd.Wait()
}

// info returns one figure of INFO.
func (s *server) info(section, name string) string {
	for line := range strings.Lines(must(s.rdb.Info(context.Background(), section).Result())) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return v
		}
	}
	panic("INFO has no " + name)
}

func (s *server) number(section, name string) float64 {
	return must(strconv.ParseFloat(s.info(section, name), 64))
}

func (s *server) pid() int { return int(s.number("server", "process_id")) }

// usedMemory is in bytes.
func (s *server) usedMemory() float64 { return s.number("memory", "used_memory") }

// cpu is the time of the processor that the server has had, in seconds.
func (s *server) cpu() float64 {
	return s.number("cpu", "used_cpu_user") + s.number("cpu", "used_cpu_sys")
}

// commands returns the names of the commands that clients send while fn runs, as MONITOR shows them; those that a
// script calls are not among them.
func (s *server) commands(fn func()) map[string]int {
	conn := must(net.Dial("tcp", s.addr))
	defer conn.Close()
	must(conn.Write([]byte("MONITOR\r\n")))
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	lines.Scan() // +OK
	fn()
	const end = "bench: no more"
	check(s.rdb.Echo(context.Background(), end).Err())
	seen := map[string]int{}
	for lines.Scan() {
		// +1700000000.000000 [0 127.0.0.1:4711] "get" "key"
		_, rest, _ := strings.Cut(lines.Text(), "[")
		source, rest, ok := strings.Cut(rest, "] ")
		if !ok || strings.HasSuffix(source, " lua") {
			continue
		}
		name, args, _ := strings.Cut(strings.TrimPrefix(rest, `"`), `"`)
		name = strings.ToUpper(name)
		if name == "ECHO" && strings.Contains(args, end) {
			return seen
		}
		seen[name]++
	}
	panic(fmt.Sprint("MONITOR ended: ", lines.Err()))
}
