// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/vmtest/webtest"
)

// listen makes the engine's listener anew, after a server has closed it.
func (p *inProcess) listen(t *testing.T) *userspace.Listener {
	t.Helper()
	var err error
	if p.listener, err = p.engine.Listen(netip.AddrPortFrom(netip.Addr{}, 8080)); err != nil {
		t.Fatal(err)
	}
	return p.listener
}

func TestGosHTTPAndTLSWorkOnOurListener(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	fams, n := families(p.lab), 0
	webtest.TestListener(t, func(t *testing.T) (net.Listener, webtest.Dial) {
		f := fams[n%len(fams)]
		if n++; n > 1 {
			p.listen(t)
		}
		return p.listener, func(ctx context.Context) (net.Conn, error) { return p.lab.Client.Dial(ctx, "tcp", f.addr(8080)) }
	})
	if st := p.engine.Stats(); st.Opened == 0 || st.BadChecksums+st.BadFrames > 0 {
		t.Errorf("engine: %+v", st)
	}
}

func TestCurlSpeaksTLSAndHTTP2ToOurListener(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	cert, root, _, err := webtest.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rootFile, upFile, down := filepath.Join(dir, "root.pem"), filepath.Join(dir, "up"), filepath.Join(dir, "down")
	const size = 3_000_000
	up := payload(1, size)
	for name, b := range map[string][]byte{rootFile: root, upFile: up} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := &http.Server{Handler: webtest.NewHandler(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(p.listener, "", "") }()
	defer func() {
		server.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	}()
	for i, version := range []string{"--http1.1", "--http2"} {
		for _, f := range families(p.lab) {
			t.Run(version+" "+f.name, func(t *testing.T) {
				tap := record(t, p.lab)
				host := netip.AddrPortFrom(f.server, 8080)
				base := fmt.Sprintf("https://%s:%d", webtest.Host, host.Port())
				resolve := fmt.Sprintf("%s:%d:%s", webtest.Host, host.Port(), host.Addr())
				curl := func(args ...string) string {
					t.Helper()
					args = append([]string{"--silent", "--show-error", "--fail", "--max-time", "30", "--cacert", rootFile, "--resolve", resolve, version}, args...)
					stdout, stderr, code := finish(t, p.lab.Client.Command("curl", args...))
					if code != 0 {
						t.Fatalf("curl %v: exit code %d: %s", args, code, stderr)
					}
					return stdout
				}
				// Three requests; all but the first find a connection. The upload waits for 100 Continue, as curl's do.
				const each = " %{http_version} %{num_connects} %{http_code}\n"
				got := curl("--write-out", each, "--output", down, fmt.Sprintf("%s/bytes?n=%d&seed=%d", base, size, i),
					"--next", "--silent", "--show-error", "--fail", "--cacert", rootFile, "--resolve", resolve, version,
					"--write-out", each, "--data-binary", "@"+upFile, "-H", "Expect: 100-continue", base+"/sum",
					"--next", "--silent", "--show-error", "--fail", "--cacert", rootFile, "--resolve", resolve, version,
					"--write-out", each, "--output", "/dev/null", base+"/bytes?n=1&seed=1")
				v := []string{"1.1", "2"}[i]
				want := fmt.Sprintf(" %s 1 200\n%d %s %s 0 200\n %s 0 200\n", v, size, sum(up), v, v)
				if got != want {
					t.Errorf("curl says %q, want %q", got, want)
				}
				b, err := os.Open(down)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				gotSum, n, err := webtest.Sum(b)
				wantSum, _, _ := webtest.Sum(webtest.Stream(uint64(i), size))
				if err != nil || n != size || gotSum != wantSum {
					t.Errorf("curl has %d bytes with sum %s, want %d with %s: %v", n, gotSum, size, wantSum, err)
				}
				if v == "2" { // many streams of one connection
					args := []string{"--parallel", "--parallel-immediate", "--write-out", "%{num_connects}"}
					for k := range 20 {
						args = append(args, "--output", "/dev/null", fmt.Sprintf("%s/bytes?n=100000&seed=%d", base, k))
					}
					curl(args...)
				}
				tap.rest().checkServer(t)
			})
		}
	}
}
