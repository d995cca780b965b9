package sessions_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// behaviours names the test of each black-box case that a session system must pass.
var behaviours = []struct {
	number int
	words  string
	test   string
}{
	{1, "an anonymous read leaves no record and no cookie", "TestBehaviour01_AnonymousReadLeavesNothing"},
	{2, "a read is one load and nothing else", "TestBehaviour02_ReadOnlyIsOneLoad"},
	{3, "an unknown token is not adopted", "TestBehaviour03_UnknownTokenIsNotAdopted"},
	{4, "a token that cannot be ours is not asked for", "TestBehaviour04_ImpossibleTokenIsNotAskedFor"},
	{5, "a destroyed session, replayed, is empty", "TestBehaviour05_DestroyedThenReplayed"},
	{6, "destroying what the client never had sends nothing", "TestBehaviour06_DestroyWithoutCookie"},
	{7, "a session that was emptied stays, with its token", "TestBehaviour07_EmptySessionPersists"},
	{8, "a renewal keeps the data and ends the old token", "TestBehaviour08_RenewKeepsDataAndKillsTheOldToken"},
	{9, "a renewal may be the first use", "TestBehaviour09_RenewIsTheFirstUse"},
	{10, "a late write does not bring a destroyed session back", "TestBehaviour10_DestroyBeatsASlowWriter"},
	{11, "parallel writes to different keys are both kept", "TestBehaviour11_ParallelWritesToDifferentKeys"},
	{12, "a reader that ends last undoes nothing", "TestBehaviour12_ReaderDoesNotUndoAWrite"},
	{13, "a hundred parallel increments add a hundred", "TestBehaviour13_HundredIncrements"},
	{14, "a request in flight with the old token harms no renewal", "TestBehaviour14_RenewBesideAnOldRequest"},
	{15, "every key has a TTL", "TestBehaviour15_EveryKeyHasATTL"},
	{16, "the idle timeout slides, by few touches", "TestBehaviour16_IdleTimeoutSlides"},
	{17, "the absolute timeout does not slide", "TestBehaviour17_AbsoluteDeadline"},
	{18, "a sealed cookie that has expired is worth nothing", "TestBehaviour18_ExpiredSealedCookieReplayed"},
	{19, "a lifetime of one session is its own", "TestBehaviour19_OwnLifetime"},
	{20, "the default cookie is the safe one", "TestBehaviour20_DefaultAttributes"},
	{21, "SecureAlways on http does not fail in silence", "TestBehaviour21_SecureAlwaysOverHTTP"},
	{22, "the scheme is believed of trusted peers, leftmost first", "TestBehaviour22_TrustedProxy"},
	{23, "SameSite=None is never without Secure", "TestBehaviour23_SameSiteNoneIsSecure"},
	{24, "one flipped bit gives a fresh session", "TestBehaviour24_FlippedBit"},
	{25, "a cookie sealed for another name gives a fresh session", "TestBehaviour25_SealedForAnotherName"},
	{26, "secrets rotate: all open, the first seals", "TestBehaviour26_SecretsRotate"},
	{27, "bad secrets are refused at start", "TestBehaviour27_BadSecrets"},
	{28, "the cookie is on the final response, however it is written", "TestBehaviour28_CookieOnTheFinalResponse"},
	{29, "a commit that fails shows nothing of the handler's page", "TestBehaviour29_StoreFailsAtCommit"},
	{30, "a change after the first byte is saved, or reported", "TestBehaviour30_ChangeAfterTheFirstByte"},
	{31, "a client that hangs up loses nothing", "TestBehaviour31_ClientDisconnects"},
	{32, "the handler's own cookies stay", "TestBehaviour32_TheHandlersOwnCookies"},
	{33, "a panic commits nothing", "TestBehaviour33_HandlerPanics"},
}

func TestBehaviours_AreAllTested(t *testing.T) {
	var tests []string
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	fset := token.NewFileSet()
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, f.Name(), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				tests = append(tests, fn.Name.Name)
			}
		}
	}
	require.NotEmpty(t, tests)
	for i, b := range behaviours {
		require.Equal(t, i+1, b.number)
		require.Contains(t, tests, b.test, "behaviour %d: %s", b.number, b.words)
	}
	require.Len(t, behaviours, 33)
}
