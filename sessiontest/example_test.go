package sessiontest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

var userID = sessions.NewKey[int64]("user_id")

func login(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	s.Renew()
	_ = userID.Set(s, 42)
	fmt.Fprintln(w, "welcome")
}

// Testing a handler with a session that shows what the handler has done.
func ExampleWithSession() {
	r, s := sessiontest.WithSession(httptest.NewRequest("POST", "/login", nil))
	w := httptest.NewRecorder()
	login(w, r)

	id, _ := userID.Get(s)
	fmt.Print(w.Body)
	fmt.Println("user:", id, "renewed:", s.Renewed())
	// Output:
	// welcome
	// user: 42 renewed: true
}

// Values set before Commit are those of a returning client.
func ExampleSession_Commit() {
	s := sessiontest.NewSession()
	_ = userID.Set(s, 42)
	_ = s.Commit()
	fmt.Println("new:", s.IsNew())

	before := s.ID()
	s.Renew()
	_ = s.Commit()
	id, _ := userID.Get(s)
	fmt.Println("user:", id, "another ID:", s.ID() != before)
	// Output:
	// new: false
	// user: 42 another ID: true
}

// The store counts its calls: a request whose handler does not ask for its session causes none.
func ExampleNewMemoryStore() {
	store := sessiontest.NewMemoryStore()
	manager, err := sessions.New(sessions.Config{Store: store})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", login)
	mux.HandleFunc("GET /static", func(http.ResponseWriter, *http.Request) {})
	app := manager.Wrap(mux)

	app.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/static", nil))
	loads, saves, _, _ := store.Calls()
	fmt.Println("static:", loads, "loads,", saves, "saves,", store.Len(), "records")

	app.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/login", nil))
	loads, saves, _, _ = store.Calls()
	fmt.Println("login:", loads, "loads,", saves, "saves,", store.Len(), "records")
	// Output:
	// static: 0 loads, 0 saves, 0 records
	// login: 0 loads, 1 saves, 1 records
}

// One call tests your own store. Put it in a test function.
func ExampleTestStore() {
	_ = func(t *testing.T) { // func TestMyStore(t *testing.T)
		sessiontest.TestStore(t, func(t *testing.T) sessions.Store {
			return sessiontest.NewMemoryStore() // your store, empty
		})
	}
}
