package movein_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gorilla/securecookie"

	"handover.example/sessions"
	"handover.example/sessions/movein"
)

// A program that used gorilla/sessions. Its keys, its cookie and its handlers' types stay.
func ExampleGorilla() {
	// Before: store := sessions.NewCookieStore(hashKey, blockKey)
	codec, err := movein.Gorilla(movein.GorillaConfig{
		KeyPairs: [][]byte{hashKey, blockKey},
		Types:    movein.Types{"login_at": time.Time{}},
	})
	if err != nil {
		log.Fatal(err)
	}
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	if err != nil {
		log.Fatal(err)
	}
	mgr, err := sessions.New(sessions.Config{
		Store:           store,
		Cookie:          sessions.Cookie{Name: "app-session"},
		IdleTimeout:     30 * 24 * time.Hour, // as long as MaxAge
		AbsoluteTimeout: 90 * 24 * time.Hour,
	})
	if err != nil {
		log.Fatal(err)
	}

	visits := sessions.NewKey[int]("visits") // before: session.Values["visits"].(int)
	handler := mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		if err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		n, err := visits.Update(s, func(n int) int { return n + 1 })
		if err != nil {
			http.Error(w, "try again", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "visit %d", n)
	}))

	// A browser comes with a cookie of the old program.
	old := securecookie.CodecsFromPairs(hashKey, blockKey)
	cookie, err := securecookie.EncodeMulti("app-session", map[any]any{"visits": 41}, old...)
	if err != nil {
		log.Fatal(err)
	}
	r := httptest.NewRequest("GET", "https://app.example/", nil)
	r.AddCookie(&http.Cookie{Name: "app-session", Value: cookie})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	body, _ := io.ReadAll(w.Body)
	fmt.Println(string(body))

	// The old program reads what was written.
	values := map[any]any{}
	if err := securecookie.DecodeMulti("app-session", w.Result().Cookies()[0].Value, &values, old...); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%T %[1]v\n", values["visits"])
	// Output:
	// visit 42
	// int 42
}
