// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	stderr *output
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
	n := &nginxServer{root: filepath.Join(prefix, "root"), stderr: new(output), exited: make(chan struct{})}
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

func kernelService(more ...string) []string { return append([]string{"--listen", ":8080=kernel"}, more...) }

func TestNginxServesConnectionsThatXDPAgreed(t *testing.T) {
	t.Parallel()
	for _, timestamps := range []string{"1", "0"} {
		t.Run("client's tcp_timestamps="+timestamps, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			for h, off := range map[*lab.Host]bool{l.Server: false, l.Client: false} {
				if err := h.Offload(off); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Client.SetSysctl("net.ipv4.tcp_timestamps", timestamps); err != nil {
				t.Fatal(err)
			}
			n := nginx(t, l, "8080", "[::]:8080")
			d := attach(t, l, kernelService()...)
			big := payload(7, 20<<20)
			n.put(t, "big", big)
			for _, f := range families(l) {
				before := d.scrape()
				tap := record(t, l)
				out, err := l.Client.Command("curl", "-sS", "-f", "--max-time", "20", f.url("/")).Output()
				if err != nil || string(out) != "hello from nginx\n" {
					t.Errorf("%s: curl: %v: %q", f.name, err, out)
				}
				client := httpClient(t, l, patience)
				got, err := fetch(client, f.url("/big"))
				if err != nil || !bytes.Equal(got, big) {
					t.Errorf("%s: download: %d bytes with sum %s, %v", f.name, len(got), sum(got), err)
				}
				if err := davPut(client, f.url("/up-"+f.name), big); err != nil {
					t.Error(err)
				}
				if up, err := os.ReadFile(filepath.Join(n.root, "up-"+f.name)); err != nil || sum(up) != sum(big) {
					t.Errorf("%s: nginx has %d uploaded bytes, %v; want the %d that were sent", f.name, len(up), err, len(big))
				}
				state, err := l.Server.Command("ss", "-Htino", "state", "established", "sport = :8080").Output()
				if err != nil {
					t.Fatal(err)
				}
				want := []string{"wscale:7,7", " sack ", " ts "}
				if timestamps == "0" {
					want = []string{"wscale:6,7", " sack "}
				}
				for _, w := range want {
					if !strings.Contains(string(state)+" ", w) {
						t.Errorf("%s: ss says of the connection, want %q:\n%s", f.name, w, state)
					}
				}
				client.CloseIdleConnections()
				s := d.scrape()
				t.Log(f.name, s.packets("pass", "handed_over")-before.packets("pass", "handed_over"), string(state))
				if n := s.packets("pass", "handed_over") - before.packets("pass", "handed_over"); n < 2 {
					t.Errorf("%s: %v connections were handed over", f.name, n)
				}
				s.expectNoHonestDrops(t)
				tap.rest().checkServer(t)
			}
		})
	}
}

// davPut uploads b.
func davPut(c *http.Client, url string, b []byte) error {
	req, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // for the connection to be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("PUT %s: %s", url, resp.Status)
	}
	return nil
}

var (
	_ = context.Background
	_ = sha256.New
	_ = hex.EncodeToString
	_ = errors.Is
	_ = net.Dial
	_ netip.Addr
	_ syscall.RawConn
)
