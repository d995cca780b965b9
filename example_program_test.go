package sessions_test

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"handover.example/sessions"
)

var visits = sessions.NewKey[int]("visits")

func hello(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil { // the store could not answer; with a sealed cookie it always can
		http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		return
	}
	n, _ := visits.Update(s, func(n int) int { return n + 1 })
	fmt.Fprintf(w, "Visit %d of session %s\n", n, s.ID())
}

// The whole program of the README. It needs a secret in the environment.
func Example() {
	codec, err := sessions.NewSecureCookieCodec([]byte(os.Getenv("SESSION_SECRET")))
	if err != nil {
		log.Fatal(err)
	}
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	if err != nil {
		log.Fatal(err)
	}
	mgr, err := sessions.New(sessions.Config{Store: store}) // on HTTPS, with a cookie named __Host-session: see below
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", mgr.Wrap(http.HandlerFunc(hello))))
}
