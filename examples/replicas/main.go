// Command replicas serves one page with a session on three replicas behind a round-robin proxy, and lets you kill them
// while you reload. It needs only Go:
//
//	go run ./examples/replicas                  # sessions in Redis: nothing is lost
//	go run ./examples/replicas -store memory    # in the memory of each replica: see it break
//	go run ./examples/replicas -demo            # the same without a browser, as a table
//
// With -serve it is one such replica, which is what the container in k8s/ runs.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

type options struct {
	addr, health, store, redis, name, log string

	serve, withParent, sticky, demo bool
}

func main() {
	var o options
	flag.StringVar(&o.addr, "addr", "", "`host:port` to listen on (default 127.0.0.1:8080; with -serve :8080)")
	flag.StringVar(&o.store, "store", "redis", "`kind` of store: memory, cookie or redis")
	flag.StringVar(&o.redis, "redis", "", "`host:port` of a Redis server, instead of the embedded one; the password is in REDIS_PASSWORD")
	flag.BoolVar(&o.sticky, "sticky", false, "let the proxy pin each browser to a replica, with its own cookie")
	flag.BoolVar(&o.demo, "demo", false, "run without a browser: reload while replicas are killed and restarted, print a table, exit")
	flag.BoolVar(&o.serve, "serve", false, "be one replica; LISTEN_ADDR, HEALTH_ADDR, SESSION_STORE, REDIS_ADDR and REPLICA_NAME replace flags that are not set, SESSION_SECRET seals cookies")
	flag.StringVar(&o.health, "health", ":8081", "with -serve: `host:port` for /healthz and /readyz, separate from the page because the figures are not public; empty for none")
	flag.StringVar(&o.name, "name", "", "with -serve: `name` on the page (default: the host's)")
	flag.StringVar(&o.log, "log", "warnings", "with -serve: `what` to print about sessions: events (everything that happens), warnings (what a person can act on) or nothing")
	flag.BoolVar(&o.withParent, "with-parent", false, "with -serve: end when standard input does, and take the state of the fleet from the proxy")
	flag.Parse()
	log.SetFlags(0)
	if o.serve {
		o.fromEnvironment()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	run := runFleet
	if o.serve {
		run = runReplica
	}
	if err := run(ctx, o); err != nil {
		log.Fatal("replicas: ", err)
	}
}

// fromEnvironment fills in the flags that are not set.
func (o *options) fromEnvironment() {
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, v := range map[string]struct {
		env  string
		into *string
	}{
		"addr": {"LISTEN_ADDR", &o.addr}, "health": {"HEALTH_ADDR", &o.health}, "store": {"SESSION_STORE", &o.store},
		"redis": {"REDIS_ADDR", &o.redis}, "name": {"REPLICA_NAME", &o.name},
	} {
		if value, ok := os.LookupEnv(v.env); ok && !given[name] {
			*v.into = value
		}
	}
}

// runFleet starts the replicas as separate processes, and the proxy in front of them.
func runFleet(ctx context.Context, o options) error {
	if o.store != "redis" && o.redis != "" {
		return errors.New("-redis needs -store redis")
	}
	if err := checkStore(o.store); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	lives := map[string]string{"memory": "the memory of each replica", "cookie": "a sealed cookie", "redis": "Redis at " + o.redis}[o.store]
	if o.store == "redis" && o.redis == "" {
		embedded, err := startRedis()
		if err != nil {
			return err
		}
		defer embedded.Close()
		o.redis, lives = embedded.Addr(), "one embedded Redis"
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	f := newFleet(program, o, base64.StdEncoding.EncodeToString(secret))
	defer f.stop()

	if o.addr == "" {
		o.addr = "127.0.0.1:8080"
		if o.demo {
			o.addr = "127.0.0.1:0"
		}
	}
	ln, err := net.Listen("tcp", o.addr)
	if err != nil {
		return fmt.Errorf("%w\nIf another program uses this address, choose another: -addr 127.0.0.1:8081", err)
	}
	at := ln.Addr().(*net.TCPAddr)
	if at.IP.IsUnspecified() {
		at.IP = net.IPv4(127, 0, 0, 1)
	}
	web := &http.Server{Handler: f.handler(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(ln) }()
	defer web.Close()

	if o.demo {
		return demo(ctx, f, "http://"+at.String(), lives, os.Stdout)
	}
	if err := f.startAll(); err != nil {
		return err
	}
	fmt.Printf("Open http://%v  (sessions in %s; Ctrl-C stops)\n", at, lives)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_ = web.Shutdown(ctx)
	return nil
}

func checkStore(kind string) error {
	switch kind {
	case "memory", "cookie", "redis":
		return nil
	}
	return errors.New("-store must be memory, cookie or redis")
}

// startRedis starts an embedded Redis.
func startRedis() (*miniredis.Miniredis, error) {
	embedded, err := miniredis.Run()
	if err != nil {
		return nil, err
	}
	go func() { // its clock stands still unless it is moved, and sessions must expire
		for range time.Tick(time.Second) {
			embedded.FastForward(time.Second)
		}
	}()
	return embedded, nil
}
