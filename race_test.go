//go:build race

package sessions_test

// underRace reports whether the race detector runs, which makes a search several times as long.
const underRace = true
