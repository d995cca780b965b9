package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

// openStore opens the store, and returns its name for the page. For client settings in production, see the README.
func openStore(ctx context.Context, kind, redisAddr string) (sessions.Store, string, error) {
	name := "Redis at " + redisAddr
	switch {
	case kind == "cookie" && redisAddr == "":
		secret := make([]byte, 32) // a real program loads it, so that sessions survive a restart
		rand.Read(secret)
		codec, err := sessions.NewSecureCookieCodec(secret)
		if err != nil {
			return nil, "", err
		}
		store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
		return store, "a sealed cookie", err
	case kind != "redis":
		return nil, "", errors.New("-store must be redis or cookie, and -redis needs -store redis")
	case redisAddr == "":
		embedded, err := miniredis.Run()
		if err != nil {
			return nil, "", err
		}
		go func() { // its clock stands still unless it is moved, and sessions must expire
			for range time.Tick(time.Second) {
				embedded.FastForward(time.Second)
			}
		}()
		redisAddr, name = embedded.Addr(), "an embedded Redis"
	}
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr, ContextTimeoutEnabled: true, DialTimeout: 500 * time.Millisecond, DialerRetries: 1, MaxRetries: 1})
	if err := rdb.Ping(ctx).Err(); err != nil {
		return nil, "", fmt.Errorf("no answer from Redis: %w", err)
	}
	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour, Prefix: "quickstart:"})
	return store, name, err
}

// printEvent prints one line that says what happened to a session, and why.
func printEvent(l *log.Logger, e sessions.Event) {
	line := fmt.Sprintf("%-8s %-10s %-22s %-6s", e.Kind, e.Outcome, cmp.Or(e.SessionID, "-"), e.Store)
	if e.Duration > 0 {
		line += fmt.Sprintf(" %v", e.Duration.Round(10*time.Microsecond))
	}
	if e.Detail != "" {
		line += fmt.Sprintf("  %q", e.Detail) // part of it may come from a client
	}
	if e.Err != nil {
		line += fmt.Sprintf("  %q", e.Err.Error())
	}
	l.Print(line)
}
