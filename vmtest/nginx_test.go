// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// nginxServer is a running nginx in the server's namespace, with a folder that it serves and takes
// uploads into.
type nginxServer struct {
	root   string
	cmd    *lab.Cmd
	stderr *lab.Output
	exited chan struct{}
}

// nginxPath finds the program: the system's, or the one that deps.sh has unpacked.
func nginxPath(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/sbin/nginx", "/usr/local/lib/xdptcp-vmtest/usr/sbin/nginx"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("no nginx: make deps installs it")
	return ""
}

// nginx runs an nginx, where listen is the value of its directives: "8080 reuseport".
func nginx(t *testing.T, l *lab.Lab, listen ...string) *nginxServer {
	t.Helper()
	prefix := t.TempDir()
	n := &nginxServer{root: filepath.Join(prefix, "root"), stderr: new(lab.Output), exited: make(chan struct{})}
	if err := os.MkdirAll(n.root, 0o755); err != nil {
		t.Fatal(err)
	}
	config := `daemon off; user root; worker_processes 2; error_log stderr; pid ` + prefix + `/pid;
events { }
http {
	access_log off; client_max_body_size 1g; keepalive_requests 1000000;
	client_body_temp_path ` + prefix + `/body; proxy_temp_path ` + prefix + `/proxy; fastcgi_temp_path ` + prefix + `/fcgi;
	uwsgi_temp_path ` + prefix + `/uwsgi; scgi_temp_path ` + prefix + `/scgi;
	server { root ` + n.root + `; location / { dav_methods PUT; } `
	for _, where := range listen {
		config += "listen " + where + "; "
	}
	config += "}\n}\n"
	path := filepath.Join(prefix, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	n.put(t, "index.html", []byte("hello from nginx\n"))
	n.cmd = l.Server.Command(nginxPath(t), "-p", prefix, "-c", path, "-e", "stderr")
	n.cmd.Stderr = n.stderr
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = n.cmd.Wait() // whether it ended is all that matters
		close(n.exited)
	}()
	t.Cleanup(func() { n.stop(t) })
	waitForListener(t, l.Server, 8080)
	return n
}

// stop ends nginx, connections and all.
func (n *nginxServer) stop(t *testing.T) {
	t.Helper()
	_ = n.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	select {
	case <-n.exited:
	case <-time.After(patience):
		t.Errorf("nginx does not end; it says:\n%s", n.stderr)
	}
}

// put makes a file that nginx serves.
func (n *nginxServer) put(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.root, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// waitForListener waits until somebody listens on a port.
func waitForListener(t *testing.T, h *lab.Host, port int) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		out, err := h.Command("ss", "-Htln", fmt.Sprintf("sport = :%d", port)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > 0 {
			return
		}
		if time.Since(start) > patience {
			t.Fatalf("nobody listens on port %d", port)
		}
	}
}
