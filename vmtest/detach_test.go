// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestDetachEndsALivingDaemonPolitely(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	dir := ownPins(t)
	d := attach(t, l, "--pin", dir)
	c := dial(t, l, families(l)[0].addr(8080))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := run(t, l.Server, "detach", "srv0", "--pin", dir)
	if want := fmt.Sprintf("detached from srv0: its daemon, pid %d, has ended\n", d.cmd.Process.Pid); code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	select {
	case <-d.exited:
	case <-time.After(time.Second):
		t.Fatal("the daemon goes on")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 || !strings.Contains(d.stderr.String(), "detached by pid ") {
		t.Errorf("the daemon's exit code: %d; stderr:\n%s", code, d.stderr)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("an open connection ended with %v, want a FIN", err)
	}
	if list := pinned(t, dir); len(list) != 0 {
		t.Errorf("still pinned: %v", list)
	}
	expectNothing(t, l)
	refused(t, l.Server.Command(product, "detach", "srv0", "--pin", dir), 3, "not attached", "srv0")
	attach(t, l, "--pin", dir) // at once, on the same addresses
}

func TestDetachTakesOffWhatADeadDaemonLeft(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	dir := ownPins(t)
	d := attach(t, l, "--pin", dir)
	d.signal(unix.SIGKILL)
	stdout, _, code := run(t, l.Server, "detach", "srv0", "--pin", dir)
	if want := fmt.Sprintf("detached from srv0: its daemon, pid %d, was dead\n", d.cmd.Process.Pid); code != 0 || stdout != want {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	if list := pinned(t, dir); len(list) != 0 {
		t.Errorf("still pinned: %v", list)
	}
	expectNothing(t, l)
}

func TestDetachTakesAHungDaemonsProgramOff(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	if err := d.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := run(t, l.Server, "detach", "srv0", "--pin", pinDir); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if id := xdpProgram(t, l.Server); id != 0 {
		t.Errorf("XDP program %d is attached", id)
	}
	if err := d.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.exited:
	case <-time.After(patience):
		t.Error("it goes on, with nothing to serve")
	}
}

func TestDetachAndArmLeaveAProgramOfSomebodyElseAlone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	for _, verb := range []string{"detach", "arm", "disarm"} {
		refused(t, l.Server.Command(product, verb, "srv0"), 3, "not attached", "srv0")
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var theirs link.Link
	if err := l.Server.Do(func() (err error) {
		theirs, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Server.IfIndex})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	id := xdpProgram(t, l.Server)
	for _, args := range [][]string{{"detach", "srv0"}, {"arm", "srv0"}, {"disarm", "srv0"}, {"attach", "srv0", "--replace"}} {
		refused(t, l.Server.Command(product, args...), 1, `"srv0"`, `"foreign"`)
	}
	if got := xdpProgram(t, l.Server); got != id {
		t.Errorf("XDP program %d is attached, was %d", got, id)
	}
}

func TestDisarmLeavesNewConnectionsToTheKernelAndArmTakesThemBack(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	f := families(l)[0]
	d := attach(t, l, "--listen", ":8080=http", "--listen", ":7=echo")
	old := dial(t, l, f.addr(7))
	id := xdpProgram(t, l.Server)
	says := func(want string, args ...string) {
		t.Helper()
		if stdout, stderr, code := run(t, l.Server, args...); code != 0 || stdout != want || stderr != "" {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q; want %q", args, code, stdout, stderr, want)
		}
	}
	expect := func(port uint16, refused bool) {
		t.Helper()
		c, err := dialTo(l, f.addr(port))
		if err == nil {
			c.Close()
		}
		if errors.Is(err, unix.ECONNREFUSED) != refused || (err != nil) != refused {
			t.Errorf("connect to port %d: %v, refused by the kernel: %t", port, err, refused)
		}
	}
	armed := func(want ...string) {
		t.Helper()
		r, code := d.statusJSON()
		if got := r.Interfaces[0].Armed; code != 0 || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("armed, says status: %v, want %v", got, want)
		}
		s := d.scrape()
		for _, svc := range []string{":8080=http", ":7=echo"} {
			is := 0.0
			if strings.Contains(strings.Join(want, " "), svc) {
				is = 1
			}
			if got := s[`xdptcp_service_armed{service="`+svc+`"}`]; got != is {
				t.Errorf("xdptcp_service_armed of %s is %v, want %v", svc, got, is)
			}
		}
	}

	armed(":8080=http", ":7=echo")
	says(":7=echo: already armed\n", "arm", "srv0", "7")
	says(":7=echo: disarmed\n", "disarm", "srv0", "7")
	armed(":8080=http")
	expect(7, true)
	expect(8080, false)
	if err := echo(old, payload(1, 1000)); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
	if stdout, _, _ := run(t, l.Server, "status"); !strings.Contains(stdout, "disarmed") {
		t.Errorf("status does not tell of it:\n%s", stdout)
	}
	refused(t, l.Server.Command(product, "disarm", "srv0", "9"), 1, "port 9", ":8080=http :7=echo")
	says(":8080=http: disarmed\n:7=echo: already disarmed\n", "disarm", "srv0")
	armed()
	expect(8080, true)
	says(":8080=http: armed\n", "arm", "srv0", "8080")
	expect(8080, false)

	// What the operator has disarmed stays so when the daemon is replaced.
	d = replace(t, l, d, "--listen", ":7=echo", "--listen", ":8080=http")
	armed(":8080=http")
	expect(7, true)
	if id == xdpProgram(t, l.Server) {
		t.Error("nothing was replaced")
	}
	says(":7=echo: armed\n:8080=http: already armed\n", "arm", "srv0")
	expect(7, false)
	d.stop()

	attach(t, l, "--listen", ":8080=http", "--listen", ":7=echo", "--disarmed")
	expect(7, true)
	expect(8080, true)
	says(":8080=http: armed\n:7=echo: armed\n", "arm", "srv0")
	expect(8080, false)
}

// Attached idle, beside a server of the kernel's: its connections are made and go on as if nobody were there. Armed, new ones
// are ours, by a write into a map: the link is the same.
func TestAttachedIdleTheKernelServesUntilArmed(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	addr := families(l)[0].addr(8080)
	kernelEcho(t, l, addr)
	attach(t, l, "--takeover", "--disarmed", "--listen", ":8080=discard")
	id := xdpProgram(t, l.Server)
	for range 3 {
		if !echoes(l, addr) {
			t.Fatal("the kernel's server is not reached")
		}
	}
	for _, step := range []struct {
		verb   string
		kernel bool
	}{{"arm", false}, {"disarm", true}} {
		if _, stderr, code := run(t, l.Server, step.verb, "srv0"); code != 0 {
			t.Fatalf("%s: exit code %d: %s", step.verb, code, stderr)
		}
		if echoes(l, addr) != step.kernel {
			t.Errorf("after %s, the kernel's server is reached: %t", step.verb, !step.kernel)
		}
	}
	if xdpProgram(t, l.Server) != id {
		t.Error("the program is another one")
	}
}
