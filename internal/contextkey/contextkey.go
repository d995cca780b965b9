// Package contextkey holds the key under which a request's context has its session.
package contextkey

// Session is the key of the innermost session.
type Session struct{}
