package sessions_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
)

// The three programs of docs/migration.md: before, during and after.

func storeBefore(codec sessions.Codec) (sessions.Store, error) {
	return sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
}

func storeDuring(codec sessions.Codec, rdb redis.UniversalClient, phase sessions.Phase) (*sessions.DualStore, error) {
	old, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	if err != nil {
		return nil, err
	}
	fresh, err := sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	if err != nil {
		return nil, err
	}
	return sessions.NewDualStore(sessions.DualStoreConfig{
		Old: old, New: fresh,
		Phase:           phase, // from the configuration, so that a restart does not change it
		CheckRevoked:    true,
		CompareFraction: 0.1,
	})
}

func storeAfter(rdb redis.UniversalClient) (sessions.Store, error) {
	return sessions.NewRedisStore(rdb, sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
}

// phaseHandler shows the report and changes the phase. It is for the people who run the migration: serve it on an
// address that only they can reach.
func phaseHandler(dual *sessions.DualStore) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /phase", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, dual.Report())
	})
	mux.HandleFunc("POST /phase", func(w http.ResponseWriter, r *http.Request) {
		var phase sessions.Phase
		if err := phase.UnmarshalText([]byte(r.FormValue("to"))); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		dual.SetPhase(phase)
	})
	return http.NewCrossOriginProtection().Handler(mux) // no other site's page can change it
}

// The three programs of the runbook, one after the other, with the phases in between: the session survives.
func TestP15_ProgramsOfTheRunbook(t *testing.T) {
	codec, err := sessions.NewSecureCookieCodec(secretA)
	require.NoError(t, err)
	rdb := exampleRedis()
	client := exampleClient{}
	n := 0
	visit := func(store sessions.Store, err error) {
		t.Helper()
		require.NoError(t, err)
		client.handler = exampleManager(store).Wrap(http.HandlerFunc(hello))
		body, err := io.ReadAll(client.get("/").Body)
		require.NoError(t, err)
		n++
		require.True(t, strings.HasPrefix(string(body), fmt.Sprintf("Visit %d of", n)), "%s", body)
	}
	visit(storeBefore(codec))
	dual, err := storeDuring(codec, rdb, sessions.OldOnly)
	visit(dual, err)
	for _, phase := range []string{"DualReadOld", "DualReadNew", "NewOnly"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/phase", strings.NewReader(url.Values{"to": {phase}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		phaseHandler(dual).ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
		visit(dual, nil)

		w = httptest.NewRecorder()
		phaseHandler(dual).ServeHTTP(w, httptest.NewRequest("GET", "/phase", nil))
		require.Contains(t, w.Body.String(), phase)
	}
	visit(storeAfter(rdb))

	w := httptest.NewRecorder()
	phaseHandler(dual).ServeHTTP(w, httptest.NewRequest("POST", "/phase?to=Backwards", nil))
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Equal(t, sessions.NewOnly, dual.Phase())

	forged := httptest.NewRequest("POST", "/phase?to=OldOnly", nil)
	forged.Header.Set("Sec-Fetch-Site", "cross-site")
	w = httptest.NewRecorder()
	phaseHandler(dual).ServeHTTP(w, forged)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Equal(t, sessions.NewOnly, dual.Phase())
}

// exampleMove is a DualStore from a sealed cookie to Redis, and a browser that counts its visits.
func exampleMove(phase sessions.Phase) (*sessions.DualStore, redis.UniversalClient, *exampleClient) {
	codec, err := sessions.NewSecureCookieCodec(secretA) // yours is random, and secret
	if err != nil {
		log.Fatal(err)
	}
	rdb := exampleRedis()
	dual, err := storeDuring(codec, rdb, phase)
	if err != nil {
		log.Fatal(err)
	}
	return dual, rdb, &exampleClient{handler: exampleManager(dual).Wrap(http.HandlerFunc(hello))}
}

// From a sealed cookie to Redis. Each store is configured as it would be by itself.
func ExampleNewDualStore() {
	codec, err := sessions.NewSecureCookieCodec([]byte("CJIbeVXC8n0D4NJGXhpGk1q8dXJTe2iDbRKwM8fuT6w=")) // the secret that is in use
	if err != nil {
		log.Fatal(err)
	}
	old, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	if err != nil {
		log.Fatal(err)
	}
	fresh, err := sessions.NewRedisStore(exampleRedis(), sessions.RedisStoreConfig{TTL: 14 * 24 * time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	dual, err := sessions.NewDualStore(sessions.DualStoreConfig{
		Old: old, New: fresh,
		Phase:           sessions.DualReadOld,
		CheckRevoked:    true,
		CompareFraction: 0.1,
	})
	if err != nil {
		log.Fatal(err)
	}
	mgr, err := sessions.New(sessions.Config{Store: dual})
	fmt.Println(mgr != nil, err, dual.Phase())

	_, err = sessions.NewDualStore(sessions.DualStoreConfig{Old: fresh, New: old, CompareFraction: 10})
	fmt.Println(err)
	// Output:
	// true <nil> DualReadOld
	// sessions: New: its records live in the client's cookie, which cannot hold revocations: move from such a store, not to it
	// sessions: CompareFraction: 10 is not between 0 and 1
}

// The four phases, forwards and back, with one browser that never loses its session.
func ExampleDualStore_SetPhase() {
	dual, rdb, client := exampleMove(sessions.OldOnly)
	for _, phase := range []sessions.Phase{
		sessions.OldOnly, sessions.DualReadOld, sessions.DualReadNew, sessions.NewOnly, sessions.DualReadNew,
	} {
		dual.SetPhase(phase)
		body, _ := io.ReadAll(client.get("/").Body)
		visit, _, _ := strings.Cut(string(body), " of")
		_, tokenAlone := sessions.TokenID(client.cookies["session"])
		fmt.Printf("%-11v  %s, keys in Redis: %d, the cookie is the token alone: %v\n",
			phase, visit, rdb.DBSize(context.Background()).Val(), tokenAlone)
	}
	// Output:
	// OldOnly      Visit 1, keys in Redis: 0, the cookie is the token alone: false
	// DualReadOld  Visit 2, keys in Redis: 1, the cookie is the token alone: false
	// DualReadNew  Visit 3, keys in Redis: 1, the cookie is the token alone: false
	// NewOnly      Visit 4, keys in Redis: 1, the cookie is the token alone: true
	// DualReadNew  Visit 5, keys in Redis: 1, the cookie is the token alone: false
}

// In flags, configuration files and JSON, a phase is its name.
func ExampleDualStore_Phase() {
	var phase sessions.Phase
	flags := flag.NewFlagSet("shop", flag.ContinueOnError)
	flags.TextVar(&phase, "phase", sessions.OldOnly, "the phase of the migration")
	if err := flags.Parse([]string{"-phase", "DualReadOld"}); err != nil {
		log.Fatal(err)
	}
	dual, _, _ := exampleMove(phase)
	status, err := json.Marshal(map[string]any{"phase": dual.Phase()}) // for a health page
	fmt.Println(string(status), err)
	// Output: {"phase":"DualReadOld"} <nil>
}

// The report lists what is missing for the next phase.
func ExampleDualStore_Report() {
	dual, _, client := exampleMove(sessions.DualReadOld)
	for range 3 {
		client.get("/")
	}
	report := dual.Report()
	fmt.Println(report.Phase, "to", report.Next, "is safe:", report.Safe)
	fmt.Println(report.Missing[0])
	// Output:
	// DualReadOld to DualReadNew is safe: false
	// only 2 reads so far: wait until there are 1000
}

// A logout in a dual phase leaves a tombstone in the new store, so that a cookie from before is worthless.
func ExampleDualStore_Delete() {
	dual, _, client := exampleMove(sessions.DualReadOld)
	mux := http.NewServeMux()
	mux.HandleFunc("/", hello)
	mux.HandleFunc("/logout", logout)
	client.handler = exampleManager(dual).Wrap(mux)

	client.get("/")
	thief := exampleClient{handler: client.handler, cookies: map[string]string{"session": client.cookies["session"]}}
	client.get("/logout")
	body, _ := io.ReadAll(thief.get("/").Body)
	visit, _, _ := strings.Cut(string(body), " of")
	fmt.Println(visit)
	// Output: Visit 1
}
