package sessions

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The rules of each phase, as one line: what is written, which side is read, which must answer, and whether a lost
// tombstone fails the request.
func TestP15_Rules(t *testing.T) {
	for _, c := range []struct {
		phase           Phase
		check, fallback bool
		want            string
	}{
		{OldOnly, false, false, "old"},
		{OldOnly, true, true, "old"},
		{DualReadOld, false, false, "old+new"},
		{DualReadOld, true, false, "old+new revoke"},
		{DualReadOld, false, true, "old+new"},
		{DualReadNew, false, false, "new+old need-new revoke"},
		{DualReadNew, true, false, "new+old need-new revoke"},
		{DualReadNew, false, true, "new+old revoke"},
		{NewOnly, false, false, "new need-new revoke"},
		{NewOnly, true, true, "new need-new revoke"},
	} {
		r := rulesOf(c.phase, c.check, c.fallback)
		var sides []string
		if r.writeOld {
			sides = append(sides, "old")
		}
		if r.writeNew {
			sides = append(sides, "new")
		}
		if r.readNew && r.writeOld {
			sides = []string{"new", "old"} // the read side comes first
		}
		got := strings.Join(sides, "+")
		if r.needNew {
			got += " need-new"
		}
		if r.revoke {
			got += " revoke"
		}
		require.Equal(t, c.want, got, "%v, CheckRevoked=%v, FallbackOnError=%v", c.phase, c.check, c.fallback)
		require.Equal(t, !r.readNew, r.needOld, "the read side of the first two phases must answer")
		require.Equal(t, r.writeOld && r.writeNew, r.dual())
	}
}

// A copy in the tests of pick: its version, and the marks of the writes that led to it.
func copyWith(version int64, marks string) *Record {
	r := testRecord()
	r.Version, r.lineage.past = version, marks
	return r
}

func TestP15_Pick(t *testing.T) {
	now := time.UnixMicro(testRecord().Version)
	v := testRecord().Version
	ended := copyWith(v, "")
	ended.Revoked = true
	for _, c := range []struct {
		name     string
		phase    Phase
		atClient bool
		old, new *Record
		unknown  bool // the new store did not answer
		late     bool // AdoptUntil has passed
		want     string
	}{
		{"nothing", DualReadNew, true, nil, nil, false, false, "none"},
		{"only new", DualReadOld, true, nil, copyWith(v, ""), false, false, "new"},
		{"only new", NewOnly, false, nil, copyWith(v, ""), false, false, "new"},
		{"only old", DualReadOld, true, copyWith(v, ""), nil, false, false, "old"},
		{"only old", DualReadNew, true, copyWith(v, ""), nil, false, false, "old, adopt"},
		{"only old", NewOnly, false, copyWith(v, ""), nil, false, false, "old, adopt"},
		{"only old, and new did not answer", DualReadNew, true, copyWith(v, ""), nil, true, false, "old"},
		{"only old, too late", NewOnly, true, copyWith(v, ""), nil, false, true, "late"},
		{"a tombstone in new", DualReadOld, true, copyWith(v+9, ""), ended, false, false, "revoked"},
		{"a tombstone in old", DualReadNew, false, ended, copyWith(v+9, ""), false, false, "revoked"},
		{"new is newer", DualReadOld, true, copyWith(v, ""), copyWith(v+1, ""), false, false, "new"},
		{"old is newer", DualReadNew, true, copyWith(v+1, ""), copyWith(v, ""), false, false, "old"},
		{"old is newer, and loses its cookie", NewOnly, true, copyWith(v+1, ""), copyWith(v, ""), false, false, "old, adopt"},
		{"one write", DualReadOld, false, copyWith(v, "mark-1"), copyWith(v, "mark-1"), false, false, "old"},
		{"one write", DualReadNew, false, copyWith(v, "mark-1"), copyWith(v, "mark-1"), false, false, "new"},
		{"one version, two writes", DualReadOld, false, copyWith(v, "mark-1"), copyWith(v, "mark-2"), false, false, "new"},
		{"one version, two writes", DualReadNew, false, copyWith(v, "mark-1"), copyWith(v, "mark-2"), false, false, "new"},
		{"one version", DualReadOld, true, copyWith(v, ""), copyWith(v, "mark-2"), false, false, "old"},
		{"one version", DualReadNew, true, copyWith(v, ""), copyWith(v, "mark-2"), false, false, "old"},
		{"one version", NewOnly, true, copyWith(v, ""), copyWith(v, "mark-2"), false, false, "old"},
		{"old is half of a parallel request's writes", DualReadNew, false, copyWith(v+1, "mark-1"), copyWith(v, "mark-2"), false, false, "new"},
		{"old was made from new", DualReadNew, false, copyWith(v+1, "mark-1mark-2"), copyWith(v, "mark-1"), false, false, "old"},
		{"old was not made from new, long ago", DualReadNew, false, copyWith(v+1-markWindow.Microseconds(), "mark-1"), copyWith(v-1-markWindow.Microseconds(), "mark-2"), false, false, "old"},
	} {
		p := pick(phaseRules[c.phase], c.atClient, &copies{old: c.old, new: c.new, newSeen: !c.unknown}, !c.late, now)
		got := "none"
		switch {
		case p.late:
			got = "late"
		case p.rec == nil:
		case p.rec.Revoked:
			got = "revoked"
		case p.rec == c.old:
			got = "old"
		case p.rec == c.new:
			got = "new"
		}
		if p.adopt {
			got += ", adopt"
		}
		require.Equal(t, c.want, got, "%s in %v, atClient=%v", c.name, c.phase, c.atClient)
	}
}

func TestP15_PickWhatWasShortened(t *testing.T) {
	v := testRecord().Version
	expired := func(version int64, shortened bool) *Record {
		r := copyWith(version, "")
		r.Idle, r.shortened = time.Minute, shortened
		return r
	}
	for _, c := range []struct {
		name  string
		alive *Record
		ended *Record
		want  bool // the live copy counts
	}{
		{"nothing has expired", copyWith(v, ""), nil, true},
		{"an earlier copy", copyWith(v, ""), expired(v+1, true), false},
		{"an earlier copy, by a touch", copyWith(v, ""), expired(v, true), false},
		{"a later copy", copyWith(v+2, ""), expired(v+1, true), true},
		{"the same copy, touched since", expired(v, true), expired(v, true), true},
		{"never shortened", copyWith(v, ""), expired(v+1, false), true},
	} {
		for phase := range phaseRules {
			for _, atClient := range []bool{false, true} {
				old := copies{old: c.alive, newExpired: c.ended, newSeen: true}
				require.Equal(t, c.want, pick(phaseRules[phase], atClient, &old, true, time.UnixMicro(v)).rec == c.alive, "old: %s", c.name)
				new := copies{new: c.alive, oldExpired: c.ended, newSeen: true}
				require.Equal(t, c.want, pick(phaseRules[phase], atClient, &new, true, time.UnixMicro(v)).rec == c.alive, "new: %s", c.name)
			}
		}
	}
}

func TestP15_Order(t *testing.T) {
	for _, c := range []struct {
		phase                    Phase
		check, revoked, atClient bool
		want                     []side
	}{
		{OldOnly, true, true, false, onlyOld},
		{OldOnly, false, false, true, onlyOld},
		{DualReadOld, false, false, false, oldThenNew},
		{DualReadOld, false, true, false, oldThenNew},
		{DualReadOld, true, true, false, newThenOld},
		{DualReadOld, true, true, true, oldThenNew},
		{DualReadOld, true, false, false, oldThenNew},
		{DualReadNew, false, false, false, oldThenNew},
		{DualReadNew, false, true, false, newThenOld},
		{DualReadNew, false, true, true, oldThenNew},
		{NewOnly, false, true, false, onlyNew},
		{NewOnly, false, false, true, onlyNew},
	} {
		require.Equal(t, c.want, order(rulesOf(c.phase, c.check, false), c.revoked, c.atClient), "%+v", c)
	}
}

func TestP15_OnConflict(t *testing.T) {
	v := testRecord().Version
	now := time.UnixMicro(v)
	ended := copyWith(v, "")
	ended.Revoked = true
	mine := func(to side, complete, strict bool, beside string) write {
		rec := copyWith(v+1, "mark-1")
		rec.lineage.mark, rec.lineage.complete = "mark-2", complete
		return write{to: to, rec: rec, base: v, expect: v - 5, strict: strict, beside: beside}
	}
	for _, c := range []struct {
		name  string
		write write
		found *Record
		want  action
	}{
		{"a tombstone", mine(newSide, false, false, ""), ended, actGone},
		{"what this commit wrote", mine(newSide, false, false, ""), copyWith(v+9, "mark-2"), actDone},
		{"a newer record", mine(newSide, false, false, ""), copyWith(v+1, "mark-3"), actConflict},
		{"an older record, left behind", mine(newSide, false, false, ""), copyWith(v, "mark-3"), actRetry},
		{"an older record, and nothing is known", mine(newSide, false, true, ""), copyWith(v, "mark-3"), actConflict},
		{"the version that was expected", mine(newSide, false, false, ""), copyWith(v-5, "mark-3"), actConflict},
		{"an older one in new, not among ours", mine(newSide, true, false, ""), copyWith(v, "mark-3"), actConflict},
		{"an older one in new, among ours", mine(newSide, true, false, ""), copyWith(v, "mark-1"), actRetry},
		{"an older one in old, not among ours", mine(oldSide, true, false, ""), copyWith(v, "mark-3"), actRetry},
		{"a newer one in old, made without new's", mine(oldSide, true, false, "mark-1"), copyWith(v+9, "mark-3"), actRetry},
		{"a newer one in old, made from new's", mine(oldSide, true, false, "mark-1"), copyWith(v+9, "mark-1mark-3"), actConflict},
	} {
		require.Equal(t, c.want, onConflict(c.write, c.found, now), c.name)
	}
}

func TestP15_MayFail(t *testing.T) {
	for _, c := range []struct {
		phase           Phase
		check, fallback bool
		want            string // old, new, tombstone: which of them may fail
	}{
		{OldOnly, false, false, ""},
		{DualReadOld, false, false, "new tombstone"},
		{DualReadOld, true, false, "new"},
		{DualReadNew, false, false, "old"},
		{DualReadNew, false, true, "old new"},
		{NewOnly, false, true, ""},
	} {
		r := rulesOf(c.phase, c.check, c.fallback)
		var got []string
		if r.writeOld && mayFail(r, oldSide, false, false) {
			got = append(got, "old")
		}
		if r.writeNew && mayFail(r, newSide, false, false) {
			got = append(got, "new")
		}
		if r.writeNew && mayFail(r, newSide, true, false) {
			got = append(got, "tombstone")
		}
		require.Equal(t, c.want, strings.Join(got, " "), "%+v", c)
		require.False(t, mayFail(r, oldSide, false, true), "nobody else has it")
		require.False(t, mayFail(r, newSide, false, true), "nobody else has it")
	}
}

func TestPhaseNames(t *testing.T) {
	for p := range Phase(len(phaseRules)) {
		require.True(t, p.valid())
		require.NotEmpty(t, p.String())
		require.Equal(t, min(p+1, NewOnly), p.next())
	}
	require.Len(t, phaseNames, len(phaseRules))
	require.False(t, Phase(-1).valid())
	require.False(t, Phase(len(phaseRules)).valid())
	require.Equal(t, "Phase(7)", Phase(7).String())
}

// The table of phases in docs/migration.md is what these rules print.
func TestPhaseRules_Table(t *testing.T) {
	var table strings.Builder
	row := func(name string, cell func(Phase, rules) string) {
		fmt.Fprintf(&table, "| %s |", name)
		for p := range Phase(len(phaseRules)) {
			fmt.Fprintf(&table, " %s |", cell(p, rulesOf(p, false, false)))
		}
		table.WriteString("\n")
	}
	// byRules chooses among the four kinds of rules.
	byRules := func(oldAlone, oldFirst, newFirst, newAlone string) func(Phase, rules) string {
		return func(_ Phase, r rules) string {
			switch {
			case !r.writeNew:
				return oldAlone
			case !r.writeOld:
				return newAlone
			case r.readNew:
				return newFirst
			}
			return oldFirst
		}
	}

	row("", func(p Phase, _ rules) string { return "`" + p.String() + "`" })
	table.WriteString("|---|---|---|---|---|\n")
	row("Writes", func(_ Phase, r rules) string {
		switch {
		case r.dual():
			return "both"
		case r.writeNew:
			return "new"
		}
		return "old"
	})
	row("Reads", func(_ Phase, r rules) string {
		if r.readNew {
			return "new"
		}
		return "old"
	})
	row("Also reads", byRules(
		"-",
		"new: if old has no session, with `CheckRevoked`, and for `CompareFraction`; between two servers always",
		"old: the cookie brings it along; between two servers always",
		"old: if new has no session, until `AdoptUntil`"))
	row("Read side has no session", byRules(
		"none",
		"uses new's, and writes nothing",
		"uses old's unless it was revoked, and writes it to new at once",
		"the same, until `AdoptUntil`"))
	row("New store fails", func(p Phase, r rules) string {
		if !r.writeNew {
			return "not used"
		}
		cell := "503"
		if !r.needNew {
			cell = "the request goes on, counted; 503 for a session that old does not have"
		}
		if !r.revoke && rulesOf(p, true, false).revoke {
			cell += ". With `CheckRevoked`, `Destroy` and `Renew` fail"
		}
		if f := rulesOf(p, false, true); r.needNew && !f.needNew {
			cell += ". With `FallbackOnError`, reads and writes go on with the old copy"
			if f.revoke {
				cell += ", and `Destroy` and `Renew` fail"
			}
		}
		return cell
	})
	row("Old store fails", func(_ Phase, r rules) string {
		switch {
		case r.needOld:
			return "503"
		case r.writeOld:
			return "the request goes on, counted; 503 for a session that new does not have"
		}
		return "not noticed; 503 for a session that new does not have, until `AdoptUntil`"
	})
	row("`Destroy`, `Renew`", byRules(
		"tombstone on an old server; a cookie as without a `DualStore`",
		"tombstone in new, and on an old server",
		"tombstone in new, and on an old server",
		"tombstone in new"))
	row("The cookie of a `CookieStore`", func(_ Phase, r rules) string {
		switch {
		case r.needOld:
			return "sealed record"
		case r.writeOld:
			return "sealed record, or the token alone if that is too large"
		}
		return "the token alone"
	})

	page, err := os.ReadFile("docs/migration.md")
	require.NoError(t, err)
	require.Contains(t, string(page), "\n"+strings.ReplaceAll(table.String(), "|  |", "| |")+"\n")
}

// What is not in the table: no option changes which stores a phase writes, or which one it reads.
func TestPhaseRules_Options(t *testing.T) {
	for p := range Phase(len(phaseRules)) {
		plain := phaseRules[p]
		for _, options := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
			r := rulesOf(p, options[0], options[1])
			require.Equal(t, plain.writeOld, r.writeOld, "%v", p)
			require.Equal(t, plain.writeNew, r.writeNew, "%v", p)
			require.Equal(t, plain.readNew, r.readNew, "%v", p)
			require.Equal(t, plain.needOld, r.needOld, "%v", p)
			require.True(t, r.revoke || !plain.revoke, "%v: an option must not give up revocation", p)
			require.True(t, r.writeOld || r.needNew, "%v: without the old store, the new one is needed", p)
		}
	}
}
