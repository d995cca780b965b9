// Package sessiontest helps to test session stores, and handlers that use sessions.
//
//   - [TestStore] checks that a [sessions.Store] meets its contract. Every store of package sessions passes it.
//   - [NewMemoryStore] returns an in-memory store.
//   - [WithSession] gives a request a session, so that you can test a handler without a Manager.
package sessiontest
