package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"handover.example/sessions"
	"handover.example/sessions/internal/redisinfo"
	"handover.example/sessions/internal/texttable"
)

const passwordVariable = "SESSIONCTL_PASSWORD"

// server is the Redis that the flags name.
type server struct {
	address string
	file    string
	cluster bool
	prefix  string
	timeout time.Duration

	rdb   redis.UniversalClient
	tls   bool
	label string // the addresses, without user and password
}

func (s *server) register(flags *flag.FlagSet) {
	flags.StringVar(&s.address, "redis", "", "")
	flags.StringVar(&s.file, "redis-file", "", "")
	flags.BoolVar(&s.cluster, "cluster", false, "")
	flags.StringVar(&s.prefix, "prefix", "session:", "")
	flags.DurationVar(&s.timeout, "timeout", 5*time.Second, "")
}

// named reports whether the flags name a server.
func (s *server) named() bool { return s.address != "" || s.file != "" }

// connect creates the client and checks that the server answers and is of the kind that the flags say. Call close
// afterwards.
func (s *server) connect(ctx context.Context) error {
	opts, addrs, err := s.options()
	if err != nil {
		return err
	}
	if s.cluster {
		s.rdb = redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: addrs, Username: opts.Username, Password: opts.Password, TLSConfig: opts.TLSConfig, ClientName: opts.ClientName,
			ContextTimeoutEnabled: true, DialerRetries: 1,
			DialTimeout: s.timeout, ReadTimeout: s.timeout, WriteTimeout: s.timeout,
		})
	} else {
		opts.ContextTimeoutEnabled, opts.DialerRetries = true, 1
		opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = s.timeout, s.timeout, s.timeout
		s.rdb = redis.NewClient(opts)
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	text, err := s.rdb.Info(limited).Result()
	if refused(err) {
		err = s.rdb.Ping(limited).Err()
	}
	if err != nil && !refused(err) {
		s.close()
		if ctx.Err() == nil && limited.Err() != nil {
			err = limited.Err()
		}
		return s.explain(err)
	}
	switch info := redisinfo.Parse(text); {
	case info.Sentinel():
		err = isSentinel(s.label, info.Masters())
	case info.Cluster() && !s.cluster:
		err = misused("Add -cluster: without it, you would see only the sessions of this node.", "%s is a node of a cluster", s.label)
	default:
		return nil
	}
	s.close()
	return err
}

func isSentinel(label string, masters []string) error {
	switch len(masters) {
	case 0:
		return misused("Name a Redis server with -redis.", "%s is a sentinel, which knows no master", label)
	case 1:
		return misused("Use -redis "+texttable.Printable(masters[0])+". After a failover, the master is elsewhere.", "%s is a sentinel; its master is at %s", label, masters[0])
	}
	return misused("Use -redis with the address of one of them. After a failover, a master is elsewhere.", "%s is a sentinel; its masters are at %s", label, strings.Join(masters, ", "))
}

// refused reports whether the server answered but rejected this command.
func refused(err error) bool {
	return redis.HasErrorPrefix(err, "NOPERM") || redis.HasErrorPrefix(err, "ERR unknown command")
}

func (s *server) close() {
	if s.rdb != nil {
		_ = s.rdb.Close()
	}
}

// store returns a store for Check, Audit and Repair.
func (s *server) store(ttl time.Duration) (*sessions.RedisStore, error) {
	return sessions.NewRedisStore(s.rdb, sessions.RedisStoreConfig{TTL: ttl, Prefix: s.prefix})
}

// options interprets the flags. No error shows any part of a URL, because the password may be in an unexpected place.
func (s *server) options() (*redis.Options, []string, error) {
	switch {
	case s.address != "" && s.file != "":
		return nil, nil, misused("", "use -redis or -redis-file, not both")
	case s.prefix == "":
		return nil, nil, misused("An empty prefix would match every key of the database.", "-prefix must not be empty")
	case s.timeout <= 0:
		return nil, nil, misused("", "-timeout must be positive")
	}
	address, flagName, exposed := s.address, "-redis", false
	if s.file != "" {
		text, readable, err := readFile(s.file, nil)
		exposed = readable
		if err != nil {
			return nil, nil, misused("", "-redis-file: %v", err)
		}
		if address, flagName = strings.TrimSpace(string(text)), "the address in -redis-file"; address == "" {
			return nil, nil, misused("", "-redis-file: the file is empty")
		}
	}
	if address == "" {
		address = "127.0.0.1:6379"
	}
	opts := &redis.Options{}
	addrs := strings.Split(address, ",")
	if strings.Contains(address, "://") {
		u, err := url.Parse(address)
		if err == nil {
			opts, err = redis.ParseURL(address)
		}
		if err != nil {
			return nil, nil, misused("A URL looks like redis://user@host:port/0, with rediss:// for TLS. In a password, write / : @ ? # and % as %2F %3A %40 %3F %23 and %25.",
				"%s is not a Redis URL", flagName)
		}
		if _, has := u.User.Password(); has && s.file == "" {
			return nil, nil, misused("Put the URL into a file for -redis-file, or the password into "+passwordVariable+". Other users of this machine could see the password just now.",
				"the URL in -redis contains a password")
		}
		if opts.Password != "" && exposed {
			return nil, nil, misused(makePrivate, "-redis-file: other users of this machine can read the password in the file")
		}
		if s.cluster && opts.DB != 0 {
			return nil, nil, misused("Remove the database number from the URL.", "a cluster has only database 0")
		}
		addrs = []string{opts.Addr}
	} else {
		for i, addr := range addrs {
			addrs[i] = strings.TrimSpace(addr)
			if host, port, err := net.SplitHostPort(addrs[i]); err != nil || host == "" || port == "" || strings.Contains(host, "@") {
				return nil, nil, misused("", "%s must be host:port, such as 127.0.0.1:6379, or a URL", flagName)
			}
		}
		if len(addrs) > 1 && !s.cluster {
			return nil, nil, misused("", "several addresses need -cluster")
		}
		opts.Addr = addrs[0]
	}
	if opts.Password == "" {
		opts.Password = os.Getenv(passwordVariable)
	}
	s.label, s.tls = strings.Join(addrs, ", "), opts.TLSConfig != nil
	return opts, addrs, nil
}

// explain returns an error of the server or the network with a hint on what to do.
func (s *server) explain(err error) error {
	message, hint := cause(err), ""
	var netErr *net.OpError
	var dns *net.DNSError
	var unknownCA x509.UnknownAuthorityError
	var badName x509.HostnameError
	var record tls.RecordHeaderError
	is := func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) }
	has := func(part string) bool { return strings.Contains(message, part) }
	what := "cannot reach Redis at " + s.label
	switch {
	case errors.Is(err, context.Canceled):
		return &problem{code: exitNoAnswer, message: "interrupted"}
	case has("cluster support disabled"), has("unknown command 'cluster'"): // the second from a sentinel
		return misused("Remove -cluster.", "%s is not a cluster", s.label)
	case is("MOVED"), is("ASK"):
		return misused("Add -cluster.", "%s is a node of a cluster", s.label)
	case is("NOAUTH"):
		what, message, hint = "Redis at "+s.label, "it requires a password", "Set "+passwordVariable+", or put the URL into a file for -redis-file."
	case is("WRONGPASS"), has("AUTH"):
		what, message, hint = "Redis at "+s.label, "it rejects the password", "Check "+passwordVariable+" or the URL in -redis-file, and the user in the URL: redis://user@host:port"
	case is("NOPERM"):
		what, hint = "Redis at "+s.label, "This user lacks permissions. check needs INFO; audit needs SCAN and PTTL, with -fix also EVAL and PEXPIRE; show needs GET and PTTL."
	case is("READONLY"):
		what, hint = "Redis at "+s.label, "This is a replica: connect to its master."
	case is("LOADING"), is("CLUSTERDOWN"), is("MASTERDOWN"), is("TRYAGAIN"):
		what, hint = "Redis at "+s.label, "It is starting, or a node is down: try again later."
	case errors.As(err, &unknownCA), errors.As(err, &badName):
		hint = "If the server has a certificate of a private CA, set SSL_CERT_FILE to the file of the CA."
	case errors.As(err, &record):
		hint = "This port does not use TLS: try redis:// instead of rediss://."
	case errors.As(err, &dns):
		hint = "Is the host name right?"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		message = fmt.Sprintf("no answer within %v", s.timeout)
		hint = "Is the address right, and does a firewall block it? A slow server may need a longer -timeout."
		if s.tls {
			hint += " A server without TLS does not answer to rediss:// either: try redis://."
		}
	case has("can't parse"), strings.HasPrefix(message, "redis: ") && strings.ContainsRune(message, '"'):
		message, hint = "the server there does not speak the Redis protocol", "Is it the right port?"
	case errors.Is(err, io.EOF), has("connection reset"):
		hint = "The server closed the connection: if it requires TLS, use a rediss:// URL."
	case errors.As(err, &netErr):
		hint = "Is the server running, and is the address right? Set another one with -redis."
	}
	if s.cluster && errors.As(err, &netErr) && hint != "" {
		hint += " Every node of a cluster must be reachable from here, at the address that it announces."
	}
	return &problem{exitNoAnswer, what + ": " + message, hint}
}

// cause returns the text of an error without what a server quotes of a command, which may contain keys.
func cause(err error) string {
	text, _, _ := strings.Cut(err.Error(), ", with args beginning with")
	for _, prefix := range []string{"sessions: redis: check: ", "sessions: redis: audit: ", "sessions: redis: repair: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

// makePrivate is the hint for a file with a secret that other users can read.
const makePrivate = "Run chmod 600 on it. If others may have read it, replace the secret."

// readFile reads a small file, or stdin if the name is "-" and stdin is not nil, and reports whether other users of this
// machine may read it. Errors show neither the contents nor the name, which may be a cookie or a secret that was given
// instead of a file.
func readFile(name string, stdin io.Reader) (text []byte, isExposed bool, err error) {
	const most = 64 << 10
	r := stdin
	if name != "-" || stdin == nil {
		f, err := os.Open(name)
		if err != nil {
			var path *os.PathError
			if errors.As(err, &path) {
				err = path.Err
			}
			return nil, false, fmt.Errorf("cannot read the file: %w", err)
		}
		defer f.Close()
		r = f
		info, err := f.Stat()
		isExposed = err == nil && exposed(info)
	}
	text, err = io.ReadAll(io.LimitReader(r, most+1))
	switch {
	case err != nil:
		return nil, false, errors.New("cannot read the file")
	case len(text) > most:
		return nil, false, fmt.Errorf("it is larger than %d bytes: is it the right file?", most)
	}
	return text, isExposed, nil
}
