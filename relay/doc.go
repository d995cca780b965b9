// Package relay carries a session from the edge to the services behind it, so that one click costs one store read.
//
// Outside, the browser has a token that can be revoked at once. Inside, each request carries a short-lived signed one,
// made at the edge, that every service verifies by itself: no service asks the session store.
//
//	edge    handler := issuer.Wrap(mgr.Wrap(mux))                       // deletes what clients send of the header
//	        client := &http.Client{Transport: issuer.Transport(nil)}    // attaches the token for the listed hosts
//	        req, err := http.NewRequestWithContext(r.Context(), ...)    // the session is that of the context
//
//	service handler := verifier.Wrap(mux)
//	        s, err := sessions.Get(r.Context())                         // as ever, read-only
//	        client := &http.Client{Transport: verifier.Transport(nil)}  // carries the token on, as it came
//
// The token is a JWS in compact form (RFC 7515) with the claims of a JWT (RFC 7519), in a header of its own, Txn-Token,
// after the OAuth Transaction Tokens draft of the IETF. It names the session by its public handle and holds the values
// that the edge chose to share. It never holds the session's token, and must not hold what a service would take for a
// permission for longer than the token lives.
//
// # What it does not do
//
// A token is worth what it says until it expires, 60 seconds by default, also after a logout. Where that is too long ask
// the store: see [Confirm]. Whoever has read a token can use it for that time against every service of the trust domain:
// it says which user a call is made for, and not who is calling. The package documentation is short of a threat model;
// docs/relay.md has it.
package relay
