package sessions_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/sessiontest"
)

var userID = sessions.NewKey[int64]("user_id")

func login(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		return
	}
	id, ok := checkPassword(r) // yours
	if !ok {
		http.Error(w, "Wrong name or password.", http.StatusForbidden)
		return
	}
	s.Renew() // a new token; the values stay
	if err := userID.Set(s, id); err != nil {
		http.Error(w, "Please try again.", http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func logout(w http.ResponseWriter, r *http.Request) {
	s, err := sessions.Get(r.Context())
	if err != nil {
		http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		return
	}
	s.Destroy()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func checkPassword(r *http.Request) (int64, bool) { return 42, r.PostFormValue("password") == "sesame" }

func TestLogin(t *testing.T) {
	form := strings.NewReader("name=ada&password=sesame")
	r, s := sessiontest.WithSession(httptest.NewRequest("POST", "/login", form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()

	login(w, r)

	if id, _ := userID.Get(s); id != 42 || !s.Renewed() {
		t.Errorf("user %d, renewed %v; status %d", id, s.Renewed(), w.Code)
	}
}

func TestLogout(t *testing.T) {
	r, s := sessiontest.WithSession(httptest.NewRequest("POST", "/logout", nil))
	logout(httptest.NewRecorder(), r)
	require.True(t, s.Destroyed())
}

// docs are the pages with code, commands and links.
var docs = []string{"README.md", "docs/migration.md"}

// Every block of Go in the README and the runbook is code that is compiled and run here, or in the examples.
func TestReadmeCode(t *testing.T) {
	var compiled strings.Builder
	for _, name := range []string{"example_program_test.go", "example_test.go", "example_dual_test.go", "readme_test.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		compiled.WriteString(strings.Join(strings.Fields(string(text)), " "))
	}
	for _, page := range docs {
		page, err := os.ReadFile(page)
		require.NoError(t, err)
		blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
		require.NotEmpty(t, blocks)
		for i, block := range blocks {
			t.Run(fmt.Sprint(i+1), func(t *testing.T) {
				text := strings.NewReplacer(
					"package main", "package sessions_test",
					"func main() {", "// The whole program of the README. It needs a secret in the environment.\nfunc Example() {",
				).Replace(block[1])
				require.Contains(t, compiled.String(), strings.Join(strings.Fields(text), " "))
			})
		}
	}
}

// Links within the repository lead to a file and a heading that exist, and commands to a program.
func TestReadmeLinks(t *testing.T) {
	notInAnchor := regexp.MustCompile(`[^a-z0-9 -]`)
	links := 0
	for _, name := range append([]string{"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md"}, docs...) {
		page, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)\s"]+)\)`).FindAllStringSubmatch(string(page), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(link[1], "#")
			target := filepath.Join(filepath.Dir(name), file)
			if file == "" {
				target = name
			}
			text, err := os.ReadFile(target)
			require.NoError(t, err, "%s: %s", name, link[1])
			found := anchor == ""
			for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
				words := notInAnchor.ReplaceAllString(strings.ToLower(heading[1]), "")
				found = found || anchor == strings.ReplaceAll(words, " ", "-")
			}
			require.True(t, found, "%s: %s: there is no such heading", name, link[1])
		}
		for _, run := range regexp.MustCompile(`go run \./([\w/]+)`).FindAllStringSubmatch(string(page), -1) {
			require.FileExists(t, filepath.Join(run[1], "main.go"), "%s: %s", name, run[0])
		}
	}
	require.Greater(t, links, 5)
}

// The README has every outcome that a log can have.
func TestReadmeOutcomes(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("event.go")
	require.NoError(t, err)
	outcomes := regexp.MustCompile(`Outcome\w+ +Outcome += "(\w+)"`).FindAllSubmatch(source, -1)
	require.Greater(t, len(outcomes), 20)
	for _, o := range outcomes {
		require.True(t, strings.Contains(string(readme), "`"+string(o[1])+"`"), "%s is not in the README", o[1])
	}
}

// The README names a test pattern for each promise: there must be such tests.
func TestReadmePromises(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var tests strings.Builder
	for _, glob := range []string{"*_test.go", "*/*_test.go", "internal/*/*_test.go"} {
		names, err := filepath.Glob(glob)
		require.NoError(t, err)
		for _, name := range names {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			tests.Write(text)
		}
	}
	patterns := regexp.MustCompile("`(TestP[0-9]{2})`").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, patterns, 20)
	for _, p := range patterns {
		require.True(t, strings.Contains(tests.String(), "func "+p[1]+"_"), "%s: the README names it, and there is none", p[1])
	}
}

// A promise that has exceptions names them in its own row.
func TestReadmePromises_Exceptions(t *testing.T) {
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^(\\|.*)`(TestP[0-9]{2})` \\|$").FindAllStringSubmatch(readPage(t, "README.md"), -1) {
		rows[m[2]] = m[1]
	}
	for promise, exceptions := range map[string][]string{
		"TestP04": {"after the first byte"}, "TestP05": {"after the first byte"}, "TestP06": {"sealed cookie"},
		"TestP07": {"Sealed cookies", "failover"}, "TestP08": {"Sealed cookies", "failover", "relay token", "AbsoluteTimeout"},
		"TestP12": {"DangerouslyNeverSecure"}, "TestP14": {"without its keys"}, "TestP15": {"gaps"}, "TestP17": {"ignore"}, "TestP18": {"first byte"},
	} {
		for _, e := range exceptions {
			require.Contains(t, rows[promise], e, promise)
		}
	}
}

// The 33 cases that any session library must pass are tested under the promises. The names end in their numbers.
func TestBehaviours_AreAllTested(t *testing.T) {
	names, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	tested := map[string]bool{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, test := range regexp.MustCompile(`(?m)^func TestP\d\d_\w+_B(\d\d)\(t \*testing\.T\)`).FindAllSubmatch(text, -1) {
			tested[string(test[1])] = true
		}
	}
	for n := 1; n <= 33; n++ {
		require.True(t, tested[fmt.Sprintf("%02d", n)], "no test of case %d", n)
	}
	require.Len(t, tested, 33)
}
