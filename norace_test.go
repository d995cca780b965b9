//go:build !race

package sessions_test

const underRace = false
