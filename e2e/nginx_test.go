package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// nginxPath finds nginx, which Debian keeps out of the PATH of ordinary users.
func nginxPath(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("nginx is not installed: CI must have it")
	}
	t.Skip("nginx is not installed: this test needs a real one (Debian: apt install nginx)")
	return ""
}

// nginxHead keeps everything that nginx writes in its own directory.
const nginxHead = `
daemon off;
worker_processes 1; # so that round robin is exact
{{with .User}}user {{.}};{{end}}
pid {{.Dir}}/nginx.pid;
error_log stderr notice;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path       {{.Dir}}/proxy;
	fastcgi_temp_path     {{.Dir}}/fastcgi;
	uwsgi_temp_path       {{.Dir}}/uwsgi;
	scgi_temp_path        {{.Dir}}/scgi;
	map $http_upgrade $connection_upgrade { default upgrade; '' close; }
`

// listen opens n listeners of the loopback interface, for an nginx to take over.
func listen(t testing.TB, n int) []*net.TCPListener {
	t.Helper()
	var all []*net.TCPListener
	for range n {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// startNginx runs an nginx with this configuration (what comes after nginxHead, and its closing brace) and stops it
// when the test ends. The listeners are those that the configuration names: nginx inherits them, as it does when its
// binary is replaced, so that no other process can take a port between.
func startNginx(t testing.TB, name, config string, data map[string]any, listeners ...*net.TCPListener) {
	t.Helper()
	path := nginxPath(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	logPath := filepath.Join(dir, "error.log")
	data["Dir"], data["User"] = dir, ""
	if os.Geteuid() == 0 { // the worker would be "nobody", who may not read the directory
		data["User"] = "root"
		if me, err := user.Current(); err == nil {
			data["User"] = me.Username
		}
	}
	var text bytes.Buffer
	if err := template.Must(template.New(name).Parse(nginxHead+config+"\n}\n")).Execute(&text, data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(path, "-p", dir, "-e", "stderr", "-c", conf)
	cmd.Stdout, cmd.Stderr = log, log
	inherited := ""
	for i, l := range listeners {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		inherited += fmt.Sprintf("%d;", 3+i)
	}
	cmd.Env = append(os.Environ(), "NGINX="+inherited)
	err = cmd.Start()
	for _, f := range cmd.ExtraFiles {
		_ = f.Close() // so that a connection breaks when nginx ends
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the master ends its worker
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
			t.Errorf("the %s nginx did not end in 10 seconds", name)
		}
		if t.Failed() {
			out, _ := os.ReadFile(logPath)
			t.Logf("error log of the %s nginx:\n%s", name, out)
		}
	})
	for _, l := range listeners {
		addr := l.Addr().String()
		_ = l.Close() // nginx has its own
		if err := awaitHTTP(addr, done); err != nil {
			out, _ := os.ReadFile(logPath)
			t.Fatalf("the %s nginx: %v\n%s\n%s", name, err, out, text.Bytes())
		}
	}
}

// awaitHTTP waits until somebody answers at the address: with anything, because a TLS port answers plain HTTP with 400.
// The connection alone would not tell, as the listener was there before nginx.
func awaitHTTP(addr string, ended chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			answered <- err
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		_, _ = io.WriteString(conn, "GET /nginx-is-up HTTP/1.0\r\n\r\n")
		head, err := io.ReadAll(io.LimitReader(conn, 5))
		if err == nil && !strings.HasPrefix(string(head), "HTTP/") {
			err = fmt.Errorf("answered %q", head)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		return err
	case err := <-ended:
		ended <- err // for the cleanup
		cancel()
		<-answered
		return fmt.Errorf("ended: %v", err)
	}
}
