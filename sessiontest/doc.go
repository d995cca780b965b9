// Package sessiontest helps to test stores of sessions, and handlers that use them.
//
//   - [TestStore] checks that a [sessions.Store] keeps the rules. Every store of package sessions passes it.
//   - [NewMemoryStore] makes a store in memory.
//   - [WithSession] gives a request a session, so that a handler can be tested without a Manager.
package sessiontest
