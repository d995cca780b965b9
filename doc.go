// Package sessions provides HTTP sessions that survive replicas, proxies, restarts and a change of store. They live in
// a sealed cookie, in Redis, or in both while you move from one to the other, behind one small interface.
//
// # Getting started
//
// Choose a [Store], create a [Manager] with [New], and wrap a handler with it. The zero value of every other field of
// [Config] is the safe choice.
//
//	store, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
//	mgr, err := sessions.New(sessions.Config{Store: store})
//	http.ListenAndServe("127.0.0.1:8080", mgr.Wrap(mux))
//
// Handlers get the session of their request with [Get], and use a [Key] for each value:
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
// At login, call [Session.Renew] and store the user's ID; at logout, call [Session.Destroy].
//
// There is no Save. Changes are committed once, just before the first byte of the response or when the handler returns,
// so the client's next request sees them on any replica. If the commit fails, the client gets the response of
// Config.ErrorHandler instead of the handler's. A request that never asks for its session costs no store call and sets
// no cookie; one that only reads writes nothing.
//
// An error from [Get] means that the store could not answer. It does not mean that the client is logged out: respond
// with 503, not with the login page.
//
// # Stores
//
// [CookieStore] keeps the whole session sealed in the client's cookie. There is nothing to run, but cookies are limited
// to 4096 bytes, a copied cookie opens even after a logout, up to the absolute timeout, and one of two parallel writes is
// lost.
//
// [RedisStore] keeps sessions in Redis or Valkey, one string key per session, named by the hash of the token. Parallel
// requests lose no changes, a destroyed session stays destroyed, and every key gets its TTL from the command that
// writes it. A failover of open-source Redis may lose an acknowledged write, such as a logout.
//
// [DualStore] combines two stores while you move; see below.
//
// A [Store] of your own has four methods; package sessiontest checks it.
//
// # Moving from one store to another
//
// A [DualStore] moves sessions while they are in use, from a sealed cookie to Redis or from one Redis to another, and
// logs nobody out. It has four phases: [OldOnly], [DualReadOld], [DualReadNew] and [NewOnly].
//
//	dual, err := sessions.NewDualStore(sessions.DualStoreConfig{Old: cookies, New: redis})
//	mgr, err := sessions.New(sessions.Config{Store: dual})
//	dual.SetPhase(sessions.DualReadOld) // while serving requests
//
// Each instance may be one phase ahead of or behind any other, moving forwards or back. Each record has a version: the
// newer copy wins, and the next write repairs the other one. Destroy and Renew leave a tombstone in the new store until
// the session's deadline, so that neither an old copy nor a late write brings the session back.
//
// Limitations: a cookie copied before a logout still opens in OldOnly, and in DualReadOld without
// DualStoreConfig.CheckRevoked or while Redis is down. Going back to OldOnly loses sessions that exist only in the new
// store.
//
// [DualStore.Report] compares the copies, and reports whether the next phase is safe and, if not, what is missing.
// docs/migration.md describes what to check before each step, how long to wait, and how to go back.
//
// # Lifetime
//
// A session ends after Config.IdleTimeout without use (default 24 hours), and in any case Config.AbsoluteTimeout after
// it began (default 14 days). Use extends the idle timeout, with at most one write per eighth of the timeout. The
// cookie has no Max-Age: the browser drops it when it closes, and the server ends the session either way.
// [Session.SetLifetime] gives one session its own idle timeout and, if asked, a persistent cookie, which lasts as long as
// the session can.
//
// # Security
//
// Tokens are 128 bits from crypto/rand. Only the cookie holds the token: stores hold a hash of it, and logs and events
// hold the ID, which is that hash. A token that the library did not issue is never adopted. The cookie is HttpOnly,
// SameSite=Lax and, over HTTPS, Secure. Behind a proxy that terminates TLS, Config.ProxyHeader and
// Config.TrustedProxies decide when a forwarded scheme is trusted; [SecureAlways] does not look at the request.
//
// For CSRF protection, wrap the Manager in [net/http.CrossOriginProtection]:
//
//	handler := http.NewCrossOriginProtection().Handler(mgr.Wrap(mux))
//
// Whenever a client's session comes up empty, an [Event] says why. Config.Observe receives every event, and
// Config.Logger those that a person can act on. No event holds a token, a key or a value.
//
// # Concurrency
//
// A [Manager], a [Key], the stores and the codecs are safe for concurrent use. A [Session] is safe for concurrent use
// by the goroutines of its handler, until the handler returns.
//
// Two requests of the same client may write at the same time. With a server-side store, changes to different keys are
// both kept, and [Session.Update] and [Key.Update] run their function again on the fresh value. A Get followed by a Set
// is not run again. If another request has destroyed or renewed the session, the late write fails with [ErrGone] (409
// by default), and the session does not come back.
//
// # Compatibility
//
// Nothing has been released yet. From the first release on, each release reads the sealed cookies and the stored
// records of all earlier ones; the golden vectors in testdata check this.
//
// From v1.0.0 on, the module follows semantic versioning:
//
//   - Other packages may implement [Session] and [Store], so these gain no methods in a minor version. A new capability
//     comes as an optional interface, and values without it keep working.
//   - A minor version may add values of [EventKind] and [Outcome]. A switch over them needs a default case.
//   - A minor version may add fields to structs. Use keyed literals, and do not compare structs with ==.
//   - The texts of errors, log lines and Event.Detail may change at any time. Use errors.Is and the outcome.
//
// Before v1.0.0, a minor version may change the API; the changelog lists the changes.
//
// # Testing
//
// Package sessiontest has an in-memory store, a helper that gives a request a session in the tests of your handlers,
// and the conformance suite that every [Store] passes.
package sessions
