package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
	"handover.example/sessions/internal/texttable"
)

const showHelp = `sessionctl show: show a session

  sessionctl show -redis redis.internal:6379 ID
                    by its public ID, as found in logs: what Redis has
  sessionctl show -secret-file secret.key -cookie-file -
                    by its cookie, from standard input: what is sealed in it
  sessionctl show -secret-file secret.key -cookie-file - -redis redis.internal:6379
                    both copies, during a migration, and which is newer

It prints times, flags, and the names and sizes of the values. It never prints a cookie, a token or a secret, and
prints values only with -values. Exit code 1 if there is no such session, or if it has expired or was ended.

Which session
  ID                22 characters; the prefix, as in Redis, may come first
  -cookie-file FILE the value of the cookie, or the whole Cookie header line; - is standard input
  -cookie-name NAME the name of the cookie (default "session")
  -secret-file FILE the secret that seals the cookies: the contents of the file, with or without the final line break,
                    or decoded from base64 or hex. May be given several times, as while a secret is rotated (in
                    two deploys: README.md, "Changing a secret"). Refused if other users can read it
  -values           print the values, too

` + redisHelp + `  With -cookie-file, Redis is queried only if -redis or -redis-file is given, or the cookie holds only a token.

` + exitHelp

type names []string

func (n *names) String() string     { return strings.Join(*n, ",") }
func (n *names) Set(s string) error { *n = append(*n, s); return nil }

// view is one copy of a session.
type view struct {
	title string
	rec   *sessions.Record // nil if there is none, or it cannot be read
	why   string           // why there is none, or why it is not valid
	rows  texttable.Table  // details about where it was found
	bytes int
}

func (v *view) alive(now time.Time) bool {
	return v.rec != nil && v.why == "" && !v.rec.Revoked && now.Before(v.rec.Expires) && now.Before(v.rec.Deadline)
}

func show(ctx context.Context, c *call) error {
	flags := flag.NewFlagSet("show", flag.ContinueOnError)
	var s server
	var secretFiles names
	s.register(flags)
	cookieFile := flags.String("cookie-file", "", "")
	cookieName := flags.String("cookie-name", "session", "")
	flags.Var(&secretFiles, "secret-file", "")
	values := flags.Bool("values", false, "")
	rest, err := c.parse(flags)
	switch {
	case err != nil:
		return err
	case len(rest) == 0 && *cookieFile == "":
		return misused("", "which session? pass its ID or -cookie-file")
	case len(rest) > 0 && *cookieFile != "":
		return misused("", "pass an ID or -cookie-file, not both")
	case len(rest) > 1:
		return misused("", "pass one ID at a time")
	case len(rest) == 1:
		return showID(ctx, c, &s, rest[0], *values)
	}

	secrets, err := readSecrets(secretFiles)
	if err != nil {
		return err
	}
	texts, err := readCookies(c, *cookieFile, *cookieName)
	if err != nil {
		return err
	}
	var views []*view
	var found *view
	id, bare := "", false
	for _, text := range texts { // a browser may send two with the same name: use the first that opens
		if id, bare = sessions.TokenID(text); bare {
			break
		}
		if len(secrets) == 0 {
			return misused("Pass the file with the secret as -secret-file.", "the cookie is not a bare token: it is sealed, or damaged")
		}
		v := openCookie(ctx, secrets, *cookieName, text)
		if found == nil || found.rec == nil {
			found = v
		}
		if found.rec != nil {
			break
		}
	}
	if found != nil && !bare {
		views = append(views, found)
		if found.rec != nil {
			id = found.rec.ID
		}
	}
	if id != "" && (bare || s.named()) {
		if err := s.connect(ctx); err != nil {
			return err
		}
		defer s.close()
		v, err := s.load(ctx, id)
		if err != nil {
			return err
		}
		views = append(views, v)
	}
	return print(c, id, views, *values)
}

func showID(ctx context.Context, c *call, s *server, arg string, values bool) error {
	id := strings.TrimPrefix(arg, s.prefix)
	hash, ok := sessions.TokenID(id)
	if !ok { // the argument is not shown: it may be a cookie
		return misused("An ID has 22 characters of base64url, as returned by Session.ID and found in logs. For a cookie, use -cookie-file.", "this is not the ID of a session")
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.close()
	v, err := s.load(ctx, id)
	if err != nil {
		return err
	}
	if v.rec == nil {
		// A token has the shape of an ID. Report it if it is one, but do not show it.
		if n, err := s.rdb.Exists(ctx, s.prefix+hash).Result(); err == nil && n > 0 {
			return misused("Anyone who has it can act as this visitor: remove it from the shell history, and use -cookie-file from now on. The ID of the session is "+hash+".",
				"this is not an ID but the token of a session: a secret")
		}
		id = "" // it may still be the token of a session that has ended
	}
	return print(c, id, []*view{v}, values)
}

// load loads a session from Redis.
func (s *server) load(ctx context.Context, id string) (*view, error) {
	v := &view{title: "in Redis"}
	key := s.prefix + id
	text, err := s.rdb.Get(ctx, key).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		v.why = fmt.Sprintf("there is no such key under the prefix %q: it expired, or was deleted or evicted", s.prefix)
		return v, nil
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		v.why = "the key holds another type: something else writes under the prefix of the sessions"
		return v, nil
	case err != nil:
		return nil, s.explain(err)
	}
	v.bytes = len(text)
	rec := &sessions.Record{}
	switch {
	case rec.UnmarshalJSON(text) != nil:
		v.why = "the value is not a session record that this version can read"
	case rec.ID != id:
		v.why = "the value is the record of another session"
	default:
		v.rec = rec
	}
	ms, err := s.rdb.Do(ctx, "pttl", key).Int64()
	switch {
	case err != nil:
		return nil, s.explain(err)
	case ms == -1:
		v.rows.Row("TTL", "none: the key stays until it is deleted; sessionctl audit -fix gives it one")
	case ms >= 0:
		v.rows.Row("TTL", "%s", span(time.Duration(min(ms, 1<<42))*time.Millisecond))
	}
	return v, nil
}

// secret is the secret in one file, in each form in which an application may have read it.
type secret struct {
	file   string
	codecs []sessions.Codec
}

func readSecrets(files []string) ([]secret, error) {
	var all []secret
	for _, file := range files {
		text, exposed, err := readFile(file, nil)
		switch {
		case err != nil:
			return nil, misused("", "-secret-file: %v", err)
		case exposed:
			return nil, misused(makePrivate, "-secret-file: other users of this machine can read %q", file)
		}
		line := bytes.TrimRight(text, "\r\n")
		forms := [][]byte{text, line}
		for _, decode := range []func(string) ([]byte, error){
			base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
			base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString, hex.DecodeString,
		} {
			if b, err := decode(string(line)); err == nil {
				forms = append(forms, b)
			}
		}
		s := secret{file: file}
		for _, form := range forms {
			for _, newCodec := range []func(...[]byte) (sessions.Codec, error){sessions.NewAEADCodec, sessions.NewSecureCookieCodec} {
				if codec, err := newCodec(form); err == nil { // else it is too short, or has too few different bytes
					s.codecs = append(s.codecs, codec)
				}
			}
		}
		if len(s.codecs) == 0 {
			return nil, misused("A secret has 32 bytes or more from a random source, such as: openssl rand -base64 32", "-secret-file: the secret in %q is too short, or has too few different bytes", file)
		}
		all = append(all, s)
	}
	return all, nil
}

// readCookies reads the value of the cookie, or the values of all cookies with that name in a Cookie header.
func readCookies(c *call, file, name string) ([]string, error) {
	var text []byte
	var err error
	if file == "-" && isTerminal(c.stdin) {
		fmt.Fprintln(c.stderr, "Paste the value of the cookie, then press Enter:")
		line, rerr := bufio.NewReader(io.LimitReader(c.stdin, 64<<10)).ReadString('\n')
		if text = []byte(line); rerr != nil && !errors.Is(rerr, io.EOF) {
			err = errors.New("cannot read from the terminal")
		}
	} else {
		text, _, err = readFile(file, c.stdin)
	}
	if err != nil {
		return nil, misused("", "-cookie-file: %v", err)
	}
	line := strings.TrimSpace(string(text))
	if len(line) >= 7 && strings.EqualFold(line[:7], "cookie:") {
		line = strings.TrimSpace(line[7:])
	}
	if line == "" {
		return nil, misused("", "-cookie-file: it has no cookie")
	}
	var found []string
	for part := range strings.SplitSeq(line, ";") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(part), name+"="); ok {
			found = append(found, value)
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case strings.Contains(line, ";") || strings.Contains(strings.TrimRight(line, "="), "="):
		return nil, misused("Set the name with -cookie-name.", "-cookie-file: it has no cookie with that name")
	}
	return []string{line}, nil
}

// openCookie opens a sealed record with the first secret that opens it.
func openCookie(ctx context.Context, secrets []secret, name, sealed string) *view {
	v := &view{title: "in the cookie", bytes: len(name) + len(sealed)}
	for i, s := range secrets {
		for _, codec := range s.codecs {
			store, err := sessions.NewCookieStore(sessions.CookieStoreConfig{Codec: codec})
			if err != nil {
				continue // cannot happen: the codec is not nil
			}
			rec, err := store.Load(ctx, name, sealed)
			var not *sessions.NotFoundError
			if errors.As(err, &not) && not.Outcome != sessions.OutcomeTampered {
				v.why = string(not.Outcome)
				if not.Detail != "" {
					v.why += ": " + not.Detail
				}
				if not.Outcome == sessions.OutcomeExpired {
					v.why = ""
					rec = openExpired(codec, name, sealed, not.SessionID)
				}
			} else if err != nil {
				continue
			}
			v.rec = rec
			switch {
			case not != nil && not.Outcome == sessions.OutcomeMalformed: // no secret was tried
			case len(secrets) == 1:
				v.rows.Row("sealed by", "%q", s.file)
			case i == 0:
				v.rows.Row("sealed by", "%q, the first secret", s.file)
			default:
				v.rows.Row("sealed by", "%q, secret %d of %d", s.file, i+1, len(secrets))
			}
			return v
		}
	}
	v.why = "the seal does not verify: the cookie was changed, sealed by another secret (-secret-file), or sealed for another cookie name (-cookie-name)"
	return v
}

// openExpired decodes an expired sealed record, which no store returns. With its ID in place of its token, it is a
// stored record.
func openExpired(codec sessions.Codec, name, sealed, id string) *sessions.Record {
	rec := &sessions.Record{}
	plain, err := codec.Open(name, sealed)
	if rest, ok := bytes.CutPrefix(plain, []byte(`["t`)); err == nil && ok && len(rest) > len(id) {
		if rec.UnmarshalJSON(append([]byte(`["i`+id), rest[len(id):]...)) == nil {
			return rec
		}
	}
	return &sessions.Record{ID: id, Expires: time.Unix(0, 0)}
}

// print prints all copies, and whether the session is alive.
func print(c *call, id string, views []*view, values bool) error {
	now := time.Now()
	if id != "" {
		fmt.Fprintf(c.stdout, "session %s\n", id)
	}
	alive, revoked := false, false
	for _, v := range views {
		alive = alive || v.alive(now)
		revoked = revoked || v.rec != nil && v.rec.Revoked
		if v.rec == nil {
			fmt.Fprintf(c.stdout, "\n%s\n%s\n", v.title, wrap(v.why, "  "))
			continue
		}
		fmt.Fprintf(c.stdout, "\n%s\n%s", v.title, v.text(now, values))
	}
	if len(views) == 2 && views[0].rec != nil && views[1].rec != nil && !revoked {
		fmt.Fprintf(c.stdout, "\n%s\n", compare(views[0].rec, views[1].rec))
	}
	fmt.Fprintln(c.stdout)
	switch {
	case revoked:
		fmt.Fprintln(c.stdout, "The session has ended: it was destroyed, or renewed under another token.")
	case alive:
		fmt.Fprintln(c.stdout, "The session is alive.")
		return nil
	case id != "" && views[len(views)-1].rec != nil:
		fmt.Fprintln(c.stdout, "The session has expired.")
	default:
		fmt.Fprintln(c.stdout, "No such session.")
	}
	return errWrong
}

func compare(cookie, stored *sessions.Record) string {
	switch d := cookie.Version - stored.Version; {
	case d == 0:
		return "Both copies have the same version."
	case d > 0:
		return "The cookie is newer: the next write brings Redis up to date."
	default:
		return "Redis is newer: the next write brings the cookie up to date."
	}
}

func (v *view) text(now time.Time, values bool) string {
	r, t := v.rec, texttable.Table{}
	if r.Version == 0 { // expired, and in a form that can no longer be read
		t.Row("  state", "expired")
		return t.Wrapped(lineWidth)
	}
	switch {
	case r.Revoked:
		t.Row("  state", "revoked: a tombstone, so that no old copy brings it back")
	case v.alive(now):
		t.Row("  state", "alive")
	default:
		t.Row("  state", "expired")
	}
	t.Row("  created", "%s", moment(r.Created, now))
	t.Row("  version", "%d, of %s", r.Version, moment(time.UnixMicro(r.Version), now))
	t.Row("  idle timeout", "%s", span(r.Idle))
	t.Row("  expires", "%s", moment(r.Expires, now))
	t.Row("  deadline", "%s", moment(r.Deadline, now))
	for _, row := range v.rows {
		t.Row("  "+row[0], "%s", row[1])
	}
	if !r.Revoked {
		t.Row("  flags", "%s", flagNames(r))
	}
	t.Row("  size", "%s", count(int64(v.bytes), "byte", "bytes"))
	n := int64(0)
	var list [][2]string
	width := 0
	for key, value := range r.Values() {
		n++
		text := count(int64(len(value)), "byte", "bytes")
		if values {
			text = texttable.Printable(string(value))
		}
		key = "    " + texttable.Printable(key)
		width = max(width, utf8.RuneCountInString(key))
		list = append(list, [2]string{key, text})
	}
	if n == 0 {
		t.Row("  values", "none")
		return t.Wrapped(lineWidth)
	}
	t.Row("  values", "%s", group(n))
	text := t.Wrapped(lineWidth)
	for _, l := range list { // not wrapped, so that a value can be copied as one line
		text += l[0] + strings.Repeat(" ", width-utf8.RuneCountInString(l[0])+2) + l[1] + "\n"
	}
	return text
}

func flagNames(r *sessions.Record) string {
	var on []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{r.Secure, "secure (seen on HTTPS)"},
		{r.Persistent, "persistent (outlives the browser)"},
		{r.CustomIdle, "custom idle timeout (SetLifetime)"},
	} {
		if f.set {
			on = append(on, f.name)
		}
	}
	if len(on) == 0 {
		return "none"
	}
	return strings.Join(on, ", ")
}
