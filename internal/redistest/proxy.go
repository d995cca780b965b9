package redistest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Fault is what a [Proxy] does to one command.
type Fault int

const (
	Pass      Fault = iota // nothing
	LoseReply              // Redis runs the command, and the connection drops before the reply
	LoseCall               // the connection drops before Redis gets the command
)

// Proxy is a proxy between a client and a redis-server that can drop connections.
type Proxy struct {
	Addr string

	upstream string
	listener net.Listener

	mu    sync.Mutex
	fault func(args []string) Fault
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// Proxy starts a proxy in front of the server, and stops it when the test ends.
func (s *Server) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), upstream: s.Addr, listener: l, conns: map[net.Conn]bool{}}
	p.wg.Add(1)
	go p.accept()
	tb.Cleanup(func() {
		p.SetFault(nil)
		_ = l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// SetFault sets the function that decides about each command, given its name in upper case. The function may block, to
// delay a command. With nil, all commands pass.
func (p *Proxy) SetFault(fault func(args []string) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// LoseOnce makes the proxy lose the reply to the next command for which match returns true. If hold is not nil, it runs
// before the repeated command passes. The counter counts how often the command has come.
func (p *Proxy) LoseOnce(match func(args []string) bool, hold func()) (came func() int) {
	var mu sync.Mutex
	n := 0
	var lost string
	p.SetFault(func(args []string) Fault {
		whole := strings.Join(args, "\x00")
		mu.Lock()
		if n == 0 && !match(args) || n > 0 && whole != lost {
			mu.Unlock()
			return Pass
		}
		n++
		first, second := n == 1, n == 2
		lost = whole
		mu.Unlock()
		if first {
			return LoseReply
		}
		if second && hold != nil {
			hold()
		}
		return Pass
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// Cut drops all open connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Client returns a client of the proxy that repeats a command three times, as go-redis does by default, but sooner.
func (p *Proxy) Client(tb testing.TB) *redis.Client {
	tb.Helper()
	rdb := redis.NewClient(&redis.Options{
		Addr: p.Addr, ContextTimeoutEnabled: true, MaxRetries: 3, MinRetryBackoff: time.Millisecond, MaxRetryBackoff: 5 * time.Millisecond,
		DialTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
	})
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.serve(conn)
		}()
	}
}

func (p *Proxy) track(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

// serve passes on commands and their replies, one after the other.
func (p *Proxy) serve(client net.Conn) {
	p.track(client)
	defer p.drop(client)
	server, err := net.Dial("tcp", p.upstream)
	if err != nil {
		return
	}
	p.track(server)
	defer p.drop(server)
	commands, replies := bufio.NewReader(client), bufio.NewReader(server)
	for {
		raw, args, err := readCommand(commands)
		if err != nil {
			return
		}
		p.mu.Lock()
		ask := p.fault
		p.mu.Unlock()
		fault := Pass
		if ask != nil {
			fault = ask(args)
		}
		if fault == LoseCall {
			return
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
		reply, err := readReply(nil, replies)
		if err != nil || fault == LoseReply {
			return
		}
		if _, err := client.Write(reply); err != nil {
			return
		}
	}
}

var errProtocol = errors.New("redistest: not the Redis protocol")

// readCommand reads an array of bulk strings.
func readCommand(r *bufio.Reader) (raw []byte, args []string, err error) {
	line, n, err := readHead(r, '*')
	if err != nil {
		return nil, nil, err
	}
	raw = append(raw, line...)
	for range n {
		line, length, err := readHead(r, '$')
		if err != nil {
			return nil, nil, err
		}
		body := make([]byte, length+2)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, nil, err
		}
		raw = append(append(raw, line...), body...)
		args = append(args, string(body[:length]))
	}
	if len(args) == 0 {
		return nil, nil, errProtocol
	}
	args[0] = strings.ToUpper(args[0])
	return raw, args, nil
}

func readHead(r *bufio.Reader, kind byte) (line []byte, n int, err error) {
	if line, err = r.ReadBytes('\n'); err != nil {
		return nil, 0, err
	}
	if line[0] != kind || len(line) < 4 {
		return nil, 0, errProtocol
	}
	n, err = strconv.Atoi(string(line[1 : len(line)-2]))
	return line, n, err
}

// readReply appends one whole reply, in either version of the protocol, including messages pushed before it.
func readReply(raw []byte, r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	raw = append(raw, line...)
	n := 0
	switch line[0] {
	case '$', '!', '=', '*', '~', '>', '%', '|':
		if n, err = strconv.Atoi(string(line[1 : len(line)-2])); err != nil {
			return nil, err
		}
	default:
		return raw, nil
	}
	switch line[0] {
	case '$', '!', '=':
		if n < 0 {
			return raw, nil
		}
		body := make([]byte, n+2)
		_, err := io.ReadFull(r, body)
		return append(raw, body...), err
	case '%', '|':
		n *= 2
	}
	for range n {
		if raw, err = readReply(raw, r); err != nil {
			return nil, err
		}
	}
	if line[0] == '>' || line[0] == '|' { // the reply itself follows
		return readReply(raw, r)
	}
	return raw, nil
}
