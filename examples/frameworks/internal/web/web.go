// Package web is what the programs of this module share, none of it about sessions: the page, a store to begin with, and
// the server.
package web

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"html/template"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

//go:embed page.html
var pageHTML string

// Templates has "page", which takes a Page, and "problem".
var Templates = template.Must(template.New("").Parse(pageHTML))

// Page is what the page shows.
type Page struct {
	Title, ID, User, Flash string
	Visits                 int
	Created, Expires       time.Time
}

// Clean keeps what a person types to one short line.
func Clean(s string) string {
	runes := []rune(strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " "))
	return string(runes[:min(len(runes), 60)])
}

// Unavailable answers when the session store does not. Nobody is logged out by it.
func Unavailable(w http.ResponseWriter) {
	problem(w, http.StatusServiceUnavailable, "Please try again in a moment", "The session store does not answer. Nobody was logged out.")
}

func problem(w http.ResponseWriter, code int, title, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = Templates.ExecuteTemplate(w, "problem", struct{ Title, Text string }{title, text})
}

// Recover answers for a handler that panics. It is plain net/http, so that it can stand outside of a whole framework,
// and of the sessions: they are gone by the time it writes, and commit nothing.
func Recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler: // a handler that wants the connection closed
				panic(v)
			default:
				log.Printf("panic: %v\n%s", v, debug.Stack())
				problem(w, http.StatusInternalServerError, "Something went wrong", "Nothing of it was saved.")
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// Main serves what newHandler makes, until the program is interrupted.
func Main(newHandler func(sessions.Store) (http.Handler, error)) {
	addr := flag.String("addr", "127.0.0.1:8080", "`host:port` to listen on")
	redisAddr := flag.String("redis", "", "`host:port` of a Redis server, in place of the embedded one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := Serve(ctx, os.Stdout, *addr, *redisAddr, newHandler); err != nil {
		log.SetFlags(0)
		log.Fatal(err)
	}
}

// Serve is Main without the flags.
func Serve(ctx context.Context, out io.Writer, addr, redisAddr string, newHandler func(sessions.Store) (http.Handler, error)) error {
	if redisAddr == "" {
		embedded, err := miniredis.Run()
		if err != nil {
			return err
		}
		defer embedded.Close()
		defer keepTime(embedded)()
		redisAddr = embedded.Addr()
	}
	store, err := OpenStore(ctx, redisAddr)
	if err != nil {
		return err
	}
	defer store.Close()
	handler, err := newHandler(store)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w\nIf another program has this address, choose another: -addr 127.0.0.1:8081", err)
	}
	fmt.Fprintf(out, "Open http://%v  (Ctrl-C stops)\n", ln.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		return server.Close()
	}
	return nil
}

// keepTime moves the clock of an embedded Redis, which stands still by itself, so that sessions expire.
func keepTime(embedded *miniredis.Miniredis) (stop func()) {
	tick, done := time.NewTicker(time.Second), make(chan struct{})
	go func() {
		for {
			select {
			case <-tick.C:
				embedded.FastForward(time.Second)
			case <-done:
				return
			}
		}
	}()
	return func() {
		tick.Stop()
		close(done)
	}
}

// Store is a RedisStore with the connection that it uses.
type Store struct {
	*sessions.RedisStore
	io.Closer
}

// OpenStore opens a store in this Redis. The programs begin with an embedded one, and not with a sealed cookie that needs
// no server at all: after a logout they say that the old cookie is worth nothing, and only a store on the server side
// can keep that.
func OpenStore(ctx context.Context, redisAddr string) (*Store, error) {
	rdb := redis.NewClient(&redis.Options{
		Addr: redisAddr, ContextTimeoutEnabled: true, DialTimeout: 500 * time.Millisecond, DialerRetries: 1, MaxRetries: 1,
	})
	err := rdb.Ping(ctx).Err()
	if err == nil {
		var store *sessions.RedisStore
		if store, err = sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 24 * time.Hour, Prefix: "frameworks:"}); err == nil {
			return &Store{store, rdb}, nil
		}
	}
	_ = rdb.Close()
	return nil, fmt.Errorf("no store in Redis at %s: %w", redisAddr, err)
}
