// Package sessions keeps HTTP sessions that survive replicas, proxies, restarts and a change of store: in a sealed
// cookie, in Redis, or in both while you move from one to the other, behind one small interface.
//
// # Getting started
//
// Choose a [Store], make a [Manager] with [New], and wrap a handler with it. The zero value of every other field of
// [Config] is the safe choice.
//
//	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
//	mgr, err := sessions.New(sessions.Config{Store: store})
//	http.ListenAndServe("127.0.0.1:8080", mgr.Wrap(mux))
//
// Handlers ask for the session of their request with [Get], and use a [Key] for each value:
//
//	var visits = sessions.NewKey[int]("visits")
//
//	func page(w http.ResponseWriter, r *http.Request) {
//		s, err := sessions.Get(r.Context())
//		if err != nil {
//			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
//			return
//		}
//		n, err := visits.Update(s, func(n int) int { return n + 1 })
//		// ...
//	}
//
// At login call [Session.Renew] and set who it is; at logout call [Session.Destroy].
//
// There is no Save. What has changed is committed once, just before the first byte of the response or when the handler
// returns, so the client's next request sees it on any replica. If it cannot be committed, the client gets the answer
// of Config.ErrorHandler in place of the handler's. A request that never asks for its session costs no store call and
// no cookie; one that only reads writes nothing.
//
// An error from [Get] means that the store could not answer. It does not mean that the client is logged out: answer
// with 503, and not with the login page.
//
// # Stores
//
// [CookieStore] keeps the whole session sealed in the client's cookie: nothing to run, 4096 bytes at most, and no
// logout on the server's side. A copy of the cookie opens until it expires, and of two parallel writers one wins.
//
// [RedisStore] keeps it in Redis or Valkey, one string key a session, under the hash of the token. Parallel requests
// lose nothing, a session that was destroyed stays so, and every key has a TTL from the command that wrote it.
//
// [DualStore] holds two of them while you move; see below.
//
// A [Store] of your own is four methods; package sessiontest checks it.
//
// # Moving from one store to another
//
// A [DualStore] moves sessions while they are in use, from a sealed cookie to Redis or from one Redis to another, with
// nobody logged out. It has four phases: [OldOnly], [DualReadOld], [DualReadNew] and [NewOnly].
//
//	dual, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookies, New: redis})
//	mgr, err := sessions.New(sessions.Config{Store: dual})
//	dual.SetPhase(sessions.DualReadOld) // while requests run
//
// Every instance may be in the phase before or after any other, forwards or back. Each record has a version, the newer
// copy counts, and the next write repairs the other. Destroy and Renew leave a tombstone in the new store that lives
// until the session's deadline, so that no old copy and no late write brings the session back.
//
// What cannot be had: OldOnly opens a cookie that was copied before a logout, and so does DualReadOld without
// DualStoreConfig.CheckRevoked, or while Redis is away. And back to OldOnly there is no way for sessions that only the
// new store has.
//
// [DualStore.Report] compares the copies and says whether the next phase is safe, and what is missing if not. What to
// check before each step, how long to wait and how to go back is in docs/migration.md.
//
// # Lifetime
//
// A session ends when it was not used for Config.IdleTimeout (default 24 hours), and in any case
// Config.AbsoluteTimeout after it began (default 14 days). The idle timeout slides when the session is used, by a
// write at most once in 1/8 of it. The cookie itself has no Max-Age: the browser forgets it when it closes, and the
// server ends the session either way. [Session.SetLifetime] gives one session an idle timeout of its own and a
// persistent cookie.
//
// # Security
//
// Tokens are 128 bits of crypto/rand. Only the cookie holds the token: a store has its hash, logs and events have the
// ID, which is a hash too. A token that is not ours is never adopted. The cookie is HttpOnly and SameSite=Lax, and
// Secure on https. Behind a proxy that ends TLS, Config.ProxyHeader and Config.TrustedProxies say whose word about the
// scheme counts; [SecureAlways] asks nobody.
//
// CSRF is the task of [net/http.CrossOriginProtection], which goes outside:
//
//	handler := http.NewCrossOriginProtection().Handler(mgr.Wrap(mux))
//
// Every way in which a session can come up empty makes an [Event] with its reason. Config.Observe gets all of them,
// Config.Logger those on which a person can act. None holds a token, a key or a value.
//
// # Concurrency
//
// A [Manager], the stores, the codecs and a [Key] are safe for concurrent use. So is a [Session], by the goroutines of
// its handler, until that returns.
//
// Two requests of the same client may write at the same time. With a store on the server, changes of different keys
// both stay, and [Session.Update] and [Key.Update] run their function again on the fresh value. Get followed by Set has
// no such second chance. If the session was destroyed or renewed meanwhile, the late writer fails with [ErrGone] (409),
// and nothing comes back to life.
//
// # Compatibility
//
// Nothing has been released yet. From the first release on, each release reads the sealed cookies and the stored
// records of all earlier ones; the golden vectors in testdata check this.
//
// From v1.0.0 on, the module follows semantic versioning:
//
//   - [Session] and [Store] are for other packages to implement too, so they gain no methods in a minor version. A new
//     capability comes as an optional interface, and values that do not have it keep working.
//   - A minor version may add values of [EventKind] and [Outcome]. A switch over them needs a default case.
//   - A minor version may add fields to structs. Use keyed literals, and do not compare structs with ==.
//   - Texts of errors, of log lines and of Event.Detail may change at any time. Use errors.Is and the outcome.
//
// Before v1.0.0, a minor version may change the API; the changelog lists how.
//
// # Testing
//
// Package sessiontest has a store in memory, a way to give a request a session in the tests of your handlers, and the
// suite that every [Store] passes.
package sessions
