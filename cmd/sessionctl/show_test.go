package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func seal(t *testing.T, secret, name string, rec *sessions.Record) string {
	t.Helper()
	return sealWith(t, sessions.NewSecureCookieCodec, secret, name, rec)
}

func sealWith(t *testing.T, newCodec func(...[]byte) (sessions.Codec, error), secret, name string, rec *sessions.Record) string {
	t.Helper()
	codec, err := newCodec([]byte(secret))
	require.NoError(t, err)
	store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
	require.NoError(t, err)
	sealed, err := store.Save(context.Background(), name, rec, 0)
	require.NoError(t, err)
	return hide(sealed)
}

func withValue(rec *sessions.Record) *sessions.Record {
	const value = `"pa55 in the session"`
	rec.SetValue("user_id", json.RawMessage(value))
	secretsMu.Lock()
	defer secretsMu.Unlock()
	private = append(private, "pa55")
	return rec
}

// words makes an output easy to compare: one space between words.
func words(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestShowByID(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	single, cluster := redistest.Start(t), redistest.StartCluster(t, 2)
	for _, c := range []struct {
		name  string
		rdb   redis.UniversalClient
		flags []string
	}{
		{"server", single.Client(t), []string{"-redis", single.Addr}},
		{"cluster", redistest.ClusterClient(t, cluster), []string{"-redis", cluster[0].Addr, "-cluster"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, err := sessions.NewRedisStore(c.rdb, sessions.RedisStoreConfig{TTL: 300 * time.Hour})
			require.NoError(t, err)
			save := func(rec *sessions.Record) *sessions.Record {
				_, err := store.Save(ctx, "", rec, 0)
				require.NoError(t, err)
				return rec
			}
			show := func(code int, args ...string) string {
				t.Helper()
				got, out, errs := ctl(t, "", append(append([]string{"show"}, args...), c.flags...)...)
				require.Equal(t, code, got, "%s%s", out, errs)
				return words(out + errs)
			}

			rec := withValue(newRecord(10 * time.Hour))
			rec.CustomIdle, rec.Persistent = true, true
			save(rec)
			out := show(exitOK, rec.ID)
			for _, s := range []string{
				"session " + rec.ID, "state alive", "created " + rec.Created.UTC().Format("2006-01-02 15:04:05 UTC") + ", 1 h",
				"idle timeout 1 d", "in 9 h 59 min", "deadline", "TTL 9 h 59 min", "secure (seen on HTTPS), persistent", "custom idle timeout",
				"values 1 user_id 21 bytes", "The session is alive.",
			} {
				require.Contains(t, out, s)
			}
			require.Contains(t, show(exitOK, "session:"+rec.ID), "session "+rec.ID+" in Redis state alive", "as the key is named")
			require.Contains(t, show(exitOK, rec.ID, "-values"), `user_id "pa55 in the session"`)
			require.Contains(t, show(exitWrong, rec.ID, "-prefix", "other:"), `under the prefix "other:"`)

			require.Contains(t, show(exitUsage, rec.Token), "The ID of the session is "+rec.ID, "a token, which is not printed")
			ended := newRecord(time.Hour)
			require.Contains(t, show(exitWrong, ended.Token), "No such session.", "nor is that of a session that has ended")
			require.Contains(t, show(exitWrong, ended.ID), "No such session.")

			dash := newRecord(time.Hour)
			for !strings.HasPrefix(dash.ID, "-") {
				dash.Token = sessions.NewToken()
				dash.ID, _ = sessions.TokenID(dash.Token)
			}
			hide(dash.Token)
			save(dash)
			require.Contains(t, show(exitOK, dash.ID), "session "+dash.ID)
			require.Contains(t, show(exitOK, dash.ID, "-values"), "values none")

			tomb := newRecord(time.Hour)
			tomb.Revoked = true
			out = show(exitWrong, save(tomb).ID)
			require.Contains(t, out, "state revoked")
			require.Contains(t, out, "The session has ended")

			require.NoError(t, c.rdb.Persist(ctx, "session:"+rec.ID).Err())
			require.Contains(t, show(exitOK, rec.ID), "TTL none: the key stays")

			old := newRecord(time.Hour)
			old.Expires = time.Now().Add(-2 * time.Hour)
			text, err := old.MarshalJSON()
			require.NoError(t, err)
			require.NoError(t, c.rdb.Set(ctx, "session:"+old.ID, text, time.Hour).Err())
			out = show(exitWrong, old.ID)
			require.Contains(t, out, "state expired")
			require.Contains(t, out, "2 h ago")
			require.Contains(t, out, "The session has expired.")

			require.NoError(t, c.rdb.Set(ctx, "session:"+ended.ID, text, time.Hour).Err())
			require.Contains(t, show(exitWrong, ended.ID), "record of another session")
			require.NoError(t, c.rdb.Set(ctx, "session:"+ended.ID, hide("not a record"), time.Hour).Err())
			require.Contains(t, show(exitWrong, ended.ID), "not a session record")
			require.NoError(t, c.rdb.Del(ctx, "session:"+ended.ID).Err())
			require.NoError(t, c.rdb.HSet(ctx, "session:"+ended.ID, "f", "v").Err())
			require.Contains(t, show(exitWrong, ended.ID), "another type")
		})
	}
}

func TestShowCookie(t *testing.T) {
	old, current := hide("the old secret of thirty-two bytes"), hide("the new secret+of thirty-two bytes")
	oldFile, currentFile := file(t, old), file(t, current+"\n")
	rec := withValue(newRecord(10 * time.Hour))
	cookie := seal(t, current, "session", rec)
	var late string
	synctest.Test(t, func(t *testing.T) { // where it is still the year 2000
		late = seal(t, current, "session", withValue(newRecord(10*time.Hour)))
	})
	binary := hide("\x01binary secret of 32 bytes or so\n\x02")
	plain := hide("a secret that the program decodes")
	hide(base64.StdEncoding.EncodeToString([]byte(plain)))
	hide(hex.EncodeToString([]byte(plain)))

	for _, c := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		says  []string
	}{
		{"value", cookie, []string{"-secret-file", currentFile}, exitOK, []string{"session " + rec.ID, "in the cookie", "state alive", "user_id 21 bytes", "The session is alive."}},
		{"values", cookie, []string{"-secret-file", currentFile, "-values"}, exitOK, []string{`"pa55 in the session"`}},
		{"file", "", []string{"-secret-file", currentFile, "-cookie-file", file(t, cookie+"\n")}, exitOK, []string{rec.ID}},
		{"header", "Cookie: a=b; session=" + cookie + "; c=d\r\n", []string{"-secret-file", currentFile}, exitOK, []string{rec.ID}},
		{"two of one name", "session=broken; session=" + cookie, []string{"-secret-file", currentFile}, exitOK, []string{rec.ID}},
		{"another name", "sid=" + seal(t, current, "sid", rec), []string{"-secret-file", currentFile, "-cookie-name", "sid"}, exitOK, []string{rec.ID}},
		{"sealed for another name", seal(t, current, "sid", rec), []string{"-secret-file", currentFile}, exitWrong, []string{"the seal does not verify", "-cookie-name"}},
		{"another secret", cookie, []string{"-secret-file", oldFile}, exitWrong, []string{"the seal does not verify", "No such session."}},
		{"new secret", cookie, []string{"-secret-file", currentFile, "-secret-file", oldFile}, exitOK, []string{"the first secret"}},
		{"old secret", cookie, []string{"-secret-file", oldFile, "-secret-file", currentFile}, exitOK, []string{"secret 2 of 2"}},
		{"the other codec", sealWith(t, sessions.NewAEADCodec, current, "session", rec), []string{"-secret-file", currentFile}, exitOK, []string{rec.ID}},
		{"binary secret", seal(t, binary, "session", rec), []string{"-secret-file", file(t, binary)}, exitOK, []string{rec.ID}},
		{"base64 secret", seal(t, plain, "session", rec), []string{"-secret-file", file(t, base64.StdEncoding.EncodeToString([]byte(plain))+"\r\n")}, exitOK, []string{rec.ID}},
		{"hex secret", seal(t, plain, "session", rec), []string{"-secret-file", file(t, hex.EncodeToString([]byte(plain))+"\n")}, exitOK, []string{rec.ID}},
		{"expired", late, []string{"-secret-file", currentFile}, exitWrong, []string{"state expired", "expires 2000-01-01 10:00:00 UTC", "user_id 21 bytes", "The session has expired."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"show"}, c.args...)
			if c.stdin != "" {
				args = append(args, "-cookie-file", "-")
			}
			code, out, errs := ctl(t, c.stdin, args...)
			require.Equal(t, c.code, code, "%s%s", out, errs)
			for _, s := range c.says {
				require.Contains(t, words(out), s)
			}
			require.NotContains(t, out, "in Redis", "which was not named")
		})
	}
}

// During a migration there are two copies.
func TestShowBothCopies(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	store, err := sessions.NewRedisStore(server.Client(t), sessions.RedisStoreConfig{TTL: 300 * time.Hour})
	require.NoError(t, err)
	secret := hide("a secret of thirty-two bytes, or more")
	secretFile := file(t, secret)
	rec := withValue(newRecord(10 * time.Hour))
	cookie := seal(t, secret, "session", rec)
	show := func(code int, cookie string, args ...string) string {
		t.Helper()
		got, out, errs := ctl(t, cookie, append([]string{"show", "-cookie-file", "-", "-redis", server.Addr}, args...)...)
		require.Equal(t, code, got, "%s%s", out, errs)
		return words(out)
	}

	out := show(exitOK, cookie, "-secret-file", secretFile)
	require.Contains(t, out, "in Redis there is no such key")
	require.Contains(t, out, "The session is alive.", "in the cookie")
	require.Contains(t, show(exitWrong, rec.Token), "No such session.", "with the token alone there is no copy")

	_, err = store.Save(ctx, "", rec, 0)
	require.NoError(t, err)
	require.Contains(t, show(exitOK, cookie, "-secret-file", secretFile), "Both copies have the same version.")
	require.Contains(t, show(exitOK, "session="+rec.Token), "session "+rec.ID+" in Redis state alive")

	base := rec.Version
	rec.Version += 10
	_, err = store.Save(ctx, "", rec, base)
	require.NoError(t, err)
	require.Contains(t, show(exitOK, cookie, "-secret-file", secretFile), "Redis is newer")
	rec.Version += 10
	require.Contains(t, show(exitOK, seal(t, secret, "session", rec), "-secret-file", secretFile), "The cookie is newer")

	tomb := newRecord(time.Hour)
	tomb.ID, tomb.Token, tomb.Revoked = rec.ID, rec.Token, true
	_, err = store.Save(ctx, "", tomb, 0)
	require.NoError(t, err)
	out = show(exitWrong, cookie, "-secret-file", secretFile)
	require.Contains(t, out, "The session has ended")
	require.NotContains(t, out, "The session is alive.")
}
