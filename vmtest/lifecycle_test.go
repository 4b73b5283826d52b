// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// xdpProgram is the id of the XDP program on the server's interface; 0: none.
func xdpProgram(t *testing.T, h *lab.Host) (id uint32) {
	t.Helper()
	if err := h.Do(func() error {
		dev, err := netlink.LinkByName(h.Iface)
		if err == nil && dev.Attrs().Xdp != nil && dev.Attrs().Xdp.Attached {
			id = dev.Attrs().Xdp.ProgId
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return id
}

// expectNothing checks that the interface is as before any xdptcp: no program, and the ports are the kernel's.
func expectNothing(t *testing.T, l *lab.Lab) {
	t.Helper()
	if id := xdpProgram(t, l.Server); id != 0 {
		t.Errorf("XDP program %d is on %s", id, l.Server.Iface)
	}
	for _, f := range families(l) {
		c, err := dialTo(l, f.addr(8080))
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connect to %s: %v, want the kernel's refusal", f.addr(8080), err)
		}
		ln, err := l.Server.Listen("tcp", f.addr(8080))
		if err != nil {
			t.Errorf("the port is not free: %v", err)
			continue
		}
		go func() {
			if c, err := ln.Accept(); err == nil {
				c.Close()
			}
		}()
		if c, err := dialFrom(l, f.from(0), f.addr(8080), time.Second); err != nil {
			t.Errorf("connect to a kernel listener: %v", err)
		} else {
			c.Close()
		}
		ln.Close()
	}
}

func TestASignalEndsConnectionsPolitelyAndDetaches(t *testing.T) {
	for _, s := range []struct {
		name   string
		signal os.Signal
	}{{"SIGTERM", unix.SIGTERM}, {"SIGINT", unix.SIGINT}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=echo", "--listen", ":8082=discard")
			if xdpProgram(t, l.Server) == 0 {
				t.Fatal("no XDP program while attached")
			}
			tap := record(t, l)
			var idle []io.ReadCloser
			for _, f := range families(l) {
				for _, port := range []uint16{8080, 8081, 8082} {
					c := dial(t, l, f.addr(port))
					if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
						t.Fatal(err)
					}
					r := bufio.NewReader(c)
					if port != 8082 {
						if _, err := r.ReadString('\n'); err != nil {
							t.Fatal(err)
						}
					}
					idle = append(idle, struct {
						io.Reader
						io.Closer
					}{r, c})
				}
			}
			d.eventually("all connections open", func(s samples) bool { return s.open() == float64(len(idle)) })
			ended := make(chan error, len(idle))
			for _, r := range idle {
				go func() {
					_, err := io.Copy(io.Discard, r)
					ended <- errors.Join(err, r.Close())
				}()
			}
			start := time.Now()
			if code := d.signal(s.signal); code != 0 {
				t.Errorf("exit code %d, want 0; stderr:\n%s", code, d.stderr)
			}
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
			for range idle {
				select {
				case err := <-ended:
					if err != nil {
						t.Errorf("an open connection ended with %v, want a FIN", err)
					}
				case <-time.After(patience):
					t.Fatal("an open connection got no FIN")
				}
			}
			tr := tap.rest()
			tr.checkServer(t)
			fins := map[string]bool{}
			for _, s := range tr {
				if !s.outgoing && s.flags&flagFIN != 0 {
					fins[s.dst.String()] = true
				}
				if !s.outgoing && s.flags&flagRST != 0 {
					t.Errorf("a RST: %v", s)
				}
			}
			if len(fins) != len(idle) {
				t.Errorf("%d of %d connections got a FIN", len(fins), len(idle))
			}
			expectNothing(t, l)
		})
	}
}

func TestAKilledDaemonThatIsNotPinnedLeavesNothing(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--pin", "")
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Fatal(err)
	}
	id := xdpProgram(t, l.Server)
	if id == 0 {
		t.Fatal("no XDP program while attached")
	}
	d.signal(unix.SIGKILL)
	// The kernel takes the link down in its own time; a second is promised.
	for start := time.Now(); xdpProgram(t, l.Server) != 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Second {
			t.Fatal("still attached a second after SIGKILL")
		}
	}
	expectNothing(t, l)
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // not pinned: then the program itself is gone
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err == nil {
			p.Close()
		}
		if time.Since(start) > patience {
			t.Fatalf("program %d is still there: %v", id, err)
		}
	}
	// And it starts again.
	attach(t, l)
	if _, err := fetch(httpClient(t, l, patience), families(l)[1].url("/")); err != nil {
		t.Fatal(err)
	}
}

// refused runs a command that must fail, with one line on stderr that names the thing.
func refused(t *testing.T, c *lab.Cmd, code int, names ...string) {
	t.Helper()
	stdout, stderr, got := finish(t, c)
	if got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	if stdout != "" {
		t.Errorf("on stdout: %q", stdout)
	}
	if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "xdptcp: ") {
		t.Errorf("on stderr, want one line that begins with \"xdptcp: \":\n%s", stderr)
	}
	for _, name := range names {
		if !strings.Contains(stderr, name) {
			t.Errorf("on stderr, want %q in it: %s", name, stderr)
		}
	}
}

func TestBadInputIsRefusedWithOneSentence(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	for _, c := range []struct {
		name  string
		args  []string
		code  int
		names []string
	}{
		{"no such interface", []string{"attach", "eth9"}, 1, []string{`"eth9"`, "srv0"}},
		{"the loopback", []string{"attach", "lo"}, 1, []string{`"lo"`, "Ethernet"}},
		{"no interface", []string{"attach"}, 2, []string{"usage"}},
		{"two interfaces", []string{"attach", "srv0", "srv1"}, 2, []string{"usage"}},
		{"unknown action", []string{"attach", "srv0", "--listen", ":8080=htpp"}, 2, []string{"htpp", "discard, echo, http"}},
		{"no action", []string{"attach", "srv0", "--listen", ":8080"}, 2, []string{":8080", "ACTION"}},
		{"no port", []string{"attach", "srv0", "--listen", "8080=http"}, 2, []string{"8080=http", "PORT"}},
		{"port 0", []string{"attach", "srv0", "--listen", ":0=http"}, 2, []string{`"0"`}},
		{"port 65536", []string{"attach", "srv0", "--listen", ":65536=http"}, 2, []string{`"65536"`}},
		{"not an address", []string{"attach", "srv0", "--listen", "1.2.3:80=http"}, 2, []string{"1.2.3"}},
		{"multicast", []string{"attach", "srv0", "--listen", "[ff02::1]:80=http"}, 2, []string{"multicast"}},
		{"port twice", []string{"attach", "srv0", "--listen", ":8080=http", "--listen", "192.0.2.1:8080=echo"}, 2, []string{"8080", "twice"}},
		{"unknown mode", []string{"attach", "srv0", "--mode", "offload"}, 2, []string{"offload", "native"}},
		{"unknown flag", []string{"attach", "srv0", "--foo"}, 2, []string{"--foo"}},
		{"no flows", []string{"attach", "srv0", "--flows", "0"}, 2, []string{"--flows 0"}},
		{"metrics address nonsense", []string{"attach", "srv0", "--metrics", "nonsense"}, 1, []string{"nonsense", "--metrics"}},
		{"metrics address not here", []string{"attach", "srv0", "--metrics", "203.0.113.1:9400"}, 1, []string{"203.0.113.1:9400", "--metrics"}},
		{"unknown command", []string{"atach"}, 2, []string{"atach"}},
		{"status of no such interface", []string{"status", "eth9"}, 1, []string{`"eth9"`}},
		{"status of two", []string{"status", "srv0", "srv1"}, 2, []string{"usage"}},
		{"log level", []string{"attach", "srv0", "--log-level", "loud"}, 2, []string{"loud"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, l.Server.Command(product, c.args...), c.code, c.names...)
			if id := xdpProgram(t, l.Server); id != 0 {
				t.Errorf("XDP program %d is attached", id)
			}
		})
	}
	expectNothing(t, l)
}

func TestASecondAttachIsRefusedAndTheFirstGoesOn(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	id := xdpProgram(t, l.Server)
	refused(t, l.Server.Command(product, "attach", "srv0", "--listen", ":8081=http"), 1, `"srv0"`, "already", fmt.Sprint("pid ", d.cmd.Process.Pid), "--replace")
	if got := xdpProgram(t, l.Server); got != id {
		t.Errorf("XDP program %d is attached, was %d", got, id)
	}
	if _, err := fetch(httpClient(t, l, patience), families(l)[0].url("/")); err != nil {
		t.Error(err)
	}
	if !d.running() {
		t.Error("the first has ended")
	}
}

func TestAnXDPProgramOfSomebodyElseIsLeftInPlace(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	for _, mode := range []struct {
		name  string
		flags link.XDPAttachFlags
	}{{"native", link.XDPDriverMode}, {"generic", link.XDPGenericMode}} {
		t.Run(mode.name, func(t *testing.T) {
			var theirs link.Link
			if err := l.Server.Do(func() (err error) {
				theirs, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Server.IfIndex, Flags: mode.flags})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			id := xdpProgram(t, l.Server)
			for _, args := range [][]string{nil, {"--mode", "generic"}, {"--takeover"}} {
				refused(t, l.Server.Command(product, append([]string{"attach", "srv0"}, args...)...), 1, `"srv0"`, `"foreign"`)
			}
			if got := xdpProgram(t, l.Server); got != id || id == 0 {
				t.Errorf("XDP program %d is attached, was %d", got, id)
			}
			if _, _, code := run(t, l.Server, "status", "srv0"); code != 3 {
				t.Errorf("status: exit code %d, want 3: it is not ours", code)
			}
		})
	}
	expectNothing(t, l)
}

func TestAPortOfAKernelListenerIsTakenOnlyWhenTold(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	fams := families(l)
	for _, addr := range []string{fams[0].addr(8080), fams[1].addr(8080), ":8080"} {
		ln, err := l.Server.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, l.Server.Command(product, "attach", "srv0"), 1, "8080", "--takeover")
		ln.Close()
	}
	expectNothing(t, l)

	kernelEcho(t, l, fams[0].addr(8080))
	old := dial(t, l, fams[0].addr(8080))
	if err := echo(old, payload(1, 1000)); err != nil {
		t.Fatal(err)
	}
	d := attach(t, l, "--takeover")
	if _, err := fetch(httpClient(t, l, patience), fams[0].url("/")); err != nil {
		t.Errorf("with --takeover: %v", err)
	}
	if s := d.scrape(); s.opened() != 1 {
		t.Errorf("%v connections are ours, want 1", s.opened())
	}
	d.stop()
	if err := echo(dial(t, l, fams[0].addr(8080)), payload(1, 1000)); err != nil {
		t.Errorf("the kernel's listener afterwards: %v", err)
	}
}

func TestATakenMetricsAddressIsRefused(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	ln, err := l.Server.Listen("tcp", "127.0.0.1:9400")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	refused(t, l.Server.Command(product, "attach", "srv0"), 1, "127.0.0.1:9400", "--metrics")
	expectNothing(t, l)
	d := attach(t, l, "--metrics", "127.0.0.1:9401")
	if !strings.Contains(d.ready, "metrics=http://127.0.0.1:9401/metrics") {
		t.Errorf("ready line: %q", d.ready)
	}
	d.stop()
	if d := attach(t, l, "--metrics", ""); strings.Contains(d.ready, "metrics=") {
		t.Errorf("ready line without metrics: %q", d.ready)
	}
}

// copyForNobody is the path of a copy of the product that any user may run: the product's own file is
// deleted, and this process's alone.
func copyForNobody(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "xdptcp")
	src, err := os.Open(product)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithoutPrivilegeItSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	path := copyForNobody(t)
	for _, args := range [][]string{{"attach", "srv0"}, {"demo", "--once"}} {
		t.Run(args[0], func(t *testing.T) {
			c := l.Server.Command(path, args...)
			c.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
			_, stderr, code := finish(t, c)
			if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "root") {
				t.Errorf("exit code %d, want 1, and one line on stderr that says to run as root:\n%s", code, stderr)
			}
		})
	}
	expectNothing(t, l)
}
