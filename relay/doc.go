// Package relay carries a session from the edge to the services behind it, so that one click costs one store read.
//
// Outside, the browser has a token that can be revoked at once. Inside, each request carries a short-lived signed token,
// which the edge makes and every service verifies by itself. No service needs to query the session store.
//
//	edge    handler := issuer.Wrap(mgr.Wrap(mux))                       // deletes the header from clients' requests
//	        client := &http.Client{Transport: issuer.Transport(nil)}    // attaches the token for the listed hosts
//	        req, err := http.NewRequestWithContext(r.Context(), ...)    // the context carries the session
//
//	service handler := verifier.Wrap(mux)
//	        s, err := sessions.Get(r.Context())                         // as at the edge, but read-only
//	        client := &http.Client{Transport: verifier.Transport(nil)}  // passes the token on unchanged
//
// The token is a JWS in compact form (RFC 7515) with the claims of a JWT (RFC 7519), in its own header, Txn-Token,
// following the OAuth Transaction Tokens draft of the IETF. It names the session by its public handle and contains the
// values that the edge chooses to share. It never contains the session's token. It should not contain anything that a
// service would treat as a permission, because it stays valid for as long as it lives.
//
// # Limitations
//
// A token is valid until it expires, by default after 60 seconds, even after a logout. Where that is too long, check the
// store: see [Confirm]. Anyone who has read a token can use it for that time with every service of the trust domain: it
// identifies the user that a call is made for, not the caller. See docs/relay.md for the threat model.
package relay
