package main

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/boj/redistore"
	"github.com/gomodule/redigo/redis"
	gorilla "github.com/gorilla/sessions"
	goredis "github.com/redis/go-redis/v9"

	"handover.example/sessions"
)

// An op is what a request does.
type op string

const (
	untouched op = "untouched" // the handler does not ask for its session
	read      op = "read"      // one key
	readWrite op = "read and write"
	login     op = "login" // a visitor without a session gets one, with a user, a CSRF token and a counter
	slide     op = "slide" // a read that is due to renew the expiry
	logout    op = "logout"

	sign        op = "sign"           // a relay token at the edge
	verify      op = "verify"         // one that a service sees for the first time
	verifyAgain op = "verified again" // one that it has seen

	seal op = "seal" // a record into a cookie value
	open op = "open"
)

// ops are those of a session.
var ops = []op{untouched, read, readWrite, login, slide, logout}

// changes says that a request leaves its session as another one, so that each needs one of its own. A session that is
// written hundreds of times in a minute is none that anybody has.
func (o op) changes() bool { return o == readWrite || o == slide || o == logout }

// quickly says that an op is so short that it is repeated until there is a time to speak of; the same requests serve
// again, and find everything as it was.
func (o op) quickly() bool { return o == untouched || o == verifyAgain || o == seal || o == open }

// size is how much is in a session.
type size string

const (
	small  size = "small" // a user, a CSRF token and a counter
	medium size = "2 KB"  // that, and 21 keys: as much as a cookie well holds
	large  size = "8 KB"  // that, and 100 keys
)

func (s size) keys() int { return map[size]int{medium: 21, large: 100}[s] }

type user struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	Role string `json:"role"`
}

var (
	someUser = user{ID: 4711, Name: "Ada Lovelace", Role: "editor"}
	csrf     = strings.Repeat("0123456789abcdef", 2)
)

const field = 75 // bytes of each further value

func filler(i int) (key, value string) {
	return fmt.Sprintf("key%03d", i), fmt.Sprintf("%0*d", field, i)
}

// subject is one library on one store. All do the same work, each as its own README says.
type subject struct {
	name    string
	library string // "handover", "scs", "gorilla", or "floor" for what no library can save
	store   string // "none", "memory", "cookie" or "redis"; or what else is measured: "relay", "codec"
	prefix  string // of its keys in Redis; all have one of the same length, that of the library's default

	ops []op
	// handler does the op. The session, if there is one, comes by the cookie of the request.
	handler func(op) http.Handler
	// create stores a session with so many further keys, and gives its cookie. One that is due slides at its next read.
	create func(keys int, due bool) (cookie string)
	// look gives what a session holds, for the tests.
	look func(cookie string) map[string]any
	// next makes a request for an op that needs something else than the cookie of a session.
	next map[op]func() *http.Request
}

func (s *subject) does(o op) bool {
	for _, x := range s.ops {
		if x == o {
			return true
		}
	}
	return false
}

// without are the ops of a session but for one.
func without(o op) (list []op) {
	for _, x := range ops {
		if x != o {
			list = append(list, x)
		}
	}
	return list
}

// ask sends a request to a handler and gives the session cookie that a browser would have after the answer.
func ask(h http.Handler, cookie string) string {
	w := &response{header: http.Header{}}
	h.ServeHTTP(w, request(cookie))
	for _, line := range w.header["Set-Cookie"] {
		c := must(http.ParseSetCookie(line))
		switch {
		case c.Name != cookieName:
		case c.MaxAge < 0:
			cookie = ""
		default:
			cookie = cookieName + "=" + c.Value
		}
	}
	return cookie
}

var ok = []byte("ok")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

const lost = "the session is not there"

// Ours

var (
	visitsKey = sessions.NewKey[int]("visits")
	userKey   = sessions.NewKey[user]("user")
	csrfKey   = sessions.NewKey[string]("csrf")
)

func session(r *http.Request) sessions.Session { return must(sessions.Get(r.Context())) }

func handover(name, store string, st sessions.Store, prefix string) *subject {
	mgr := must(sessions.New(sessions.Config{Store: st, IdleTimeout: 24 * time.Hour}))
	return &subject{
		name: name, library: "handover", store: store, prefix: prefix, ops: ops,
		handler: func(o op) http.Handler {
			return mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch o {
				case read, slide:
					if n, _ := visitsKey.Get(session(r)); n == 0 {
						panic(lost)
					}
				case readWrite:
					if n := must(visitsKey.Update(session(r), func(n int) int { return n + 1 })); n == 1 {
						panic(lost)
					}
				case login:
					s := session(r)
					s.Renew()
					check(userKey.Set(s, someUser))
					check(csrfKey.Set(s, csrf))
					check(visitsKey.Set(s, 1))
				case logout:
					session(r).Destroy()
				}
				_, _ = w.Write(ok)
			}))
		},
		create: func(keys int, due bool) string {
			cookie := ask(mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := session(r)
				check(userKey.Set(s, someUser))
				check(csrfKey.Set(s, csrf))
				check(visitsKey.Set(s, 1))
				for i := range keys {
					key, value := filler(i)
					check(s.Set(key, value))
				}
			})), "")
			if due { // as if it was last used four hours ago
				rec := must(st.Load(context.Background(), cookieName, strings.TrimPrefix(cookie, cookieName+"=")))
				rec.Expires = rec.Expires.Add(-4 * time.Hour)
				cookie = cookieName + "=" + must(st.Touch(context.Background(), cookieName, rec))
			}
			return cookie
		},
		look: func(cookie string) map[string]any {
			held := map[string]any{}
			ask(mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := session(r)
				for key := range s.Keys() {
					var v any
					must(s.Get(key, &v))
					held[key] = v
				}
			})), cookie)
			return held
		},
	}
}

func handoverCookie(name string, codec sessions.Codec) *subject {
	return handover(name, "cookie", must(sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})), "")
}

func handoverRedis(name string, rdb goredis.Cmdable) *subject {
	const prefix = "ho:sess:"
	return handover(name, "redis", must(sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: lifetime, Prefix: prefix})), prefix)
}

const lifetime = 14 * 24 * time.Hour

// scs

func init() { gob.Register(user{}) } // as scs and gorilla ask for

func scsSubject(name, store string, st scs.Store, prefix string, idle time.Duration, codec scs.Codec) *subject {
	mgr := scs.New()
	mgr.Store, mgr.IdleTimeout, mgr.Lifetime, mgr.Codec = st, idle, lifetime, codec
	s := &subject{
		name: name, library: "scs", store: store, prefix: prefix, ops: ops,
		handler: func(o op) http.Handler {
			return mgr.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx := r.Context()
				switch o {
				case read, slide:
					if number(mgr.Get(ctx, "visits")) == 0 {
						panic(lost)
					}
				case readWrite:
					n := number(mgr.Get(ctx, "visits"))
					if n == 0 {
						panic(lost)
					}
					mgr.Put(ctx, "visits", n+1)
				case login:
					check(mgr.RenewToken(ctx))
					mgr.Put(ctx, "user", someUser)
					mgr.Put(ctx, "csrf", csrf)
					mgr.Put(ctx, "visits", 1)
				case logout:
					check(mgr.Destroy(ctx))
				}
				_, _ = w.Write(ok)
			}))
		},
		create: func(keys int, _ bool) string {
			return ask(mgr.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx := r.Context()
				mgr.Put(ctx, "user", someUser)
				mgr.Put(ctx, "csrf", csrf)
				mgr.Put(ctx, "visits", 1)
				for i := range keys {
					key, value := filler(i)
					mgr.Put(ctx, key, value)
				}
			})), "")
		},
		look: func(cookie string) map[string]any {
			held := map[string]any{}
			ask(mgr.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for _, key := range mgr.Keys(r.Context()) {
					held[key] = mgr.Get(r.Context(), key)
				}
			})), cookie)
			return held
		},
	}
	if idle == 0 {
		s.ops = without(slide) // it has no idle timeout
	}
	return s
}

// number is what GetInt does, also for a codec that knows no integers.
func number(v any) int {
	switch n := v.(type) {
	case int:
		return n
	case float64:
		return int(n)
	}
	return 0
}

func scsMemory() *subject {
	return scsSubject("scs, memstore", "memory", memstore.NewWithCleanupInterval(0), "", 0, scs.GobCodec{})
}

func scsRedis(name, prefix string, rdb *goredis.Client, idle time.Duration, codec scs.Codec) *subject {
	return scsSubject(name, "redis", goredisstore.NewWithPrefix(rdb, prefix), prefix, idle, codec)
}

// jsonCodec is the quicker codec that a user of scs may write, at the price of the types: it gives back a map for a struct.
type jsonCodec struct{}

type jsonRecord struct {
	Deadline time.Time
	Values   map[string]any
}

func (jsonCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	return json.Marshal(jsonRecord{deadline, values})
}

func (jsonCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	var r jsonRecord
	err := json.Unmarshal(b, &r)
	return r.Deadline, r.Values, err
}

// gorilla

func gorillaSubject(name, store, prefix string, st gorilla.Store) *subject {
	get := func(r *http.Request) *gorilla.Session { return must(st.Get(r, "session")) }
	return &subject{
		name: name, library: "gorilla", store: store, prefix: prefix,
		ops: without(slide), // only a handler that saves it does
		handler: func(o op) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch o {
				case read:
					if number(get(r).Values["visits"]) == 0 {
						panic(lost)
					}
				case readWrite:
					s := get(r)
					n := number(s.Values["visits"])
					if n == 0 {
						panic(lost)
					}
					s.Values["visits"] = n + 1
					check(s.Save(r, w))
				case login:
					s := get(r)
					s.Values["user"], s.Values["csrf"], s.Values["visits"] = someUser, csrf, 1
					check(s.Save(r, w))
				case logout:
					s := get(r)
					s.Options.MaxAge = -1
					check(s.Save(r, w))
				}
				_, _ = w.Write(ok)
			})
		},
		create: func(keys int, _ bool) string {
			return ask(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := get(r)
				s.Values["user"], s.Values["csrf"], s.Values["visits"] = someUser, csrf, 1
				for i := range keys {
					key, value := filler(i)
					s.Values[key] = value
				}
				check(s.Save(r, w))
			}), "")
		},
		look: func(cookie string) map[string]any {
			held := map[string]any{}
			ask(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for key, value := range get(r).Values {
					held[key.(string)] = value
				}
			}), cookie)
			return held
		},
	}
}

var (
	hashKey  = []byte("the hash key of all, of 32 bytes")
	blockKey = []byte("the block key of all of 32 bytes")
)

// gorillaCookie encrypts if it gets a second key: ours always does.
func gorillaCookie(name string, keys ...[]byte) *subject {
	return gorillaSubject(name, "cookie", "", gorilla.NewCookieStore(keys...))
}

// gorillaRedis has as many connections as the client of the others, and waits for one as that does. Its own constructor
// closes those for which there is no place, and asks each with a PING before it is used.
func gorillaRedis(name, prefix, addr string, connections int, ping bool, serializer redistore.SessionSerializer) *subject {
	pool := &redis.Pool{
		MaxIdle: connections, MaxActive: connections, Wait: true, IdleTimeout: 240 * time.Second,
		Dial: func() (redis.Conn, error) { return redis.Dial("tcp", addr) },
	}
	if ping {
		pool.TestOnBorrow = func(c redis.Conn, _ time.Time) error {
			_, err := c.Do("PING")
			return err
		}
	}
	st := must(redistore.NewRediStoreWithPool(pool, hashKey))
	st.SetKeyPrefix(prefix)
	st.SetMaxLength(0)
	st.SetSerializer(serializer)
	return gorillaSubject(name, "redis", prefix, st)
}

// The floor: what no library can save.

func bare() *subject {
	return &subject{
		name: "bare handler", library: "floor", store: "none", ops: []op{untouched},
		handler: func(op) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(ok) })
		},
		create: func(int, bool) string { return "session=" },
	}
}

// bareRedis asks of Redis what ours must ask at least, with keys and values as long as ours: length tells those of a
// session with so many further keys.
func bareRedis(rdb *goredis.Client, length func(keys int) int) *subject {
	const prefix = "ba:sess:"
	ctx := context.Background()
	write := goredis.NewScript(`if not redis.call('GET', KEYS[1]) then return 0 end redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1`)
	remove := goredis.NewScript(`if not redis.call('GET', KEYS[1]) then return 0 end return redis.call('DEL', KEYS[1])`)
	for _, s := range []*goredis.Script{write, remove} {
		check(s.Load(ctx, rdb).Err())
	}
	var made atomic.Int64
	newKey := func() string { return fmt.Sprintf("%s%022d", prefix, made.Add(1)) }
	values := map[int]string{}
	value := func(keys int) string {
		v := values[keys]
		if v == "" {
			v = strings.Repeat("v", length(keys))
			values[keys] = v
		}
		return v
	}
	fresh := value(0)
	return &subject{
		name: "bare go-redis", library: "floor", store: "redis", prefix: prefix, ops: without(untouched),
		handler: func(o op) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, key, _ := strings.Cut(r.Header.Get("Cookie"), "session=")
				switch o {
				case read:
					check(rdb.Get(ctx, key).Err())
				case readWrite, slide:
					text := must(rdb.Get(ctx, key).Result())
					if must(write.Run(ctx, rdb, []string{key}, text, lifetime.Milliseconds()).Int()) != 1 {
						panic(lost)
					}
				case login:
					if !must(rdb.SetNX(ctx, key, fresh, lifetime).Result()) {
						panic("the key is taken")
					}
				case logout:
					check(rdb.Get(ctx, key).Err())
					if must(remove.Run(ctx, rdb, []string{key}).Int()) != 1 {
						panic(lost)
					}
				}
				_, _ = w.Write(ok)
			})
		},
		create: func(keys int, _ bool) string {
			key := newKey()
			check(rdb.Set(ctx, key, value(keys), lifetime).Err())
			return "session=" + key
		},
		next: map[op]func() *http.Request{login: func() *http.Request { return request("session=" + newKey()) }},
	}
}

// recordLength returns the bytes that our Redis store keeps of a session with so many further keys.
func recordLength(rdb *goredis.Client, keys int) int {
	ctx := context.Background()
	token := strings.TrimPrefix(handoverRedis("", rdb).create(keys, false), "session=")
	id, _ := sessions.TokenID(token)
	n := must(rdb.StrLen(ctx, "ho:sess:"+id).Result())
	if n == 0 {
		panic("no record to measure")
	}
	check(rdb.Del(ctx, "ho:sess:"+id).Err())
	return int(n)
}
