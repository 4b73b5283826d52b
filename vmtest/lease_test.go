// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// Who answers on the port: xdptcp's discard, or the kernel's echo.
func echoes(l *lab.Lab, addr string) bool {
	c, err := dialTo(l, addr)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return false
	}
	return echo(c, []byte("hello")) == nil
}

// pinned lists what is pinned below a directory.
func pinned(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "v1", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// ownPins is a pin directory that no other test uses.
func ownPins(t *testing.T) string {
	return filepath.Join(filepath.Dir(pinDir), strings.ToLower(t.Name()))
}

func TestWithinASecondOfADaemonsDeathOrHangPacketsAreTheKernelsAgain(t *testing.T) {
	for _, s := range []struct {
		name   string
		signal syscall.Signal
	}{{"SIGKILL", unix.SIGKILL}, {"SIGSTOP", unix.SIGSTOP}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			addr := families(l)[0].addr(8080)
			kernelEcho(t, l, addr)
			d := attach(t, l, "--takeover", "--listen", ":8080=discard")
			id := xdpProgram(t, l.Server)
			if echoes(l, addr) {
				t.Fatal("the kernel answers while the daemon lives")
			}
			start := time.Now()
			if err := d.cmd.Process.Signal(s.signal); err != nil {
				t.Fatal(err)
			}
			for !echoes(l, addr) {
				if time.Since(start) > patience {
					t.Fatal("the kernel's listener gets nothing")
				}
			}
			took := time.Since(start)
			if t.Logf("the kernel's listener answered after %v", took); took > 1300*time.Millisecond { // a lease, and a dial that was too early
				t.Errorf("%v", took)
			}
			if got := xdpProgram(t, l.Server); got != id {
				t.Errorf("XDP program %d is attached, was %d: it is pinned", got, id)
			}
			r, code := d.statusJSON()
			if i := r.Interfaces[0]; code != 4 || !i.Degraded || i.Daemon.Alive || i.Daemon.PID != d.cmd.Process.Pid || i.Daemon.DeadFor <= 0 || i.Daemon.DeadFor > 10 {
				t.Errorf("status: exit code %d, %+v", code, i)
			}
			if stdout, _, code := run(t, l.Server, "status"); code != 4 || !strings.Contains(stdout, "dead for ") {
				t.Errorf("status: exit code %d:\n%s", code, stdout)
			}
			if s.signal == unix.SIGSTOP {
				if err := d.cmd.Process.Signal(unix.SIGCONT); err != nil {
					t.Fatal(err)
				}
				eventually(t, "served by xdptcp again", func() bool { return !echoes(l, addr) })
				return
			}
			if _, stderr, code := run(t, l.Server, "detach", "srv0", "--pin", pinDir); code != 0 {
				t.Errorf("detach: exit code %d: %s", code, stderr)
			}
		})
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

func TestAnAttachAfterACrashTakesOverUnasked(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		shared bool
	}{
		{"as before", nil, true},
		{"with tables of another size", []string{"--flows", "1000"}, false},
		{"in another mode", []string{"--mode", "generic"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			services := []string{"--listen", ":8080=http", "--listen", ":7=echo"}
			first := attach(t, l, services...)
			fresh := dial(t, l, families(l)[0].addr(7)) // has sent nothing yet
			used := dial(t, l, families(l)[0].addr(7))
			hello := []byte("hello")
			if err := echo(used, hello); err != nil {
				t.Fatal(err)
			}
			first.signal(unix.SIGKILL)
			second := attach(t, l, append(services, c.args...)...) // at once: the lease may still hold, but who renewed it is dead
			r, _ := second.statusJSON()
			if i := r.Interfaces[0]; !i.Daemon.Alive || i.Daemon.PID != second.cmd.Process.Pid || i.Pin == "" {
				t.Errorf("status: %+v", i)
			}
			if n := flows(t, l.Server); (n == 2) != c.shared {
				t.Errorf("%d flows are known after the crash", n)
			}
			for _, f := range families(l) {
				if _, err := fetch(httpClient(t, l, patience), f.url("/")); err != nil {
					t.Error(err)
				}
			}
			if err := echo(fresh, hello); err != nil {
				t.Errorf("a connection that the dead daemon had seen nothing of: %v", err)
			}
			if c.shared {
				if err := echo(used, hello); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("a connection that the dead daemon has used: %v, want a reset", err)
				}
			}
			second.stop()
			expectNothing(t, l)
		})
	}
}

func TestAfterAnOrderlyEndNothingIsPinned(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	dir := ownPins(t)
	d := attach(t, l, "--pin", dir)
	if list := pinned(t, dir); len(list) != 1 || !strings.HasSuffix(list[0], "/link") {
		t.Errorf("pinned while it runs: %v", list)
	}
	d.stop()
	if list := pinned(t, dir); len(list) != 0 {
		t.Errorf("still pinned: %v", list)
	}
	expectNothing(t, l)
}

func TestThePinOfAVanishedInterfaceIsRemovedByTheNextAttach(t *testing.T) {
	t.Parallel()
	dir := ownPins(t)
	gone := lab.ForTest(t, lab.Options{})
	attach(t, gone, "--pin", dir).signal(unix.SIGKILL)
	if len(pinned(t, dir)) != 1 {
		t.Fatal("no pin")
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--pin", dir)
	if list := pinned(t, dir); len(list) != 1 {
		t.Errorf("pinned: %v, want the new one's alone", list)
	}
	d.stop()
}

func TestAPinDirectoryThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	dir := t.TempDir()
	refused(t, l.Server.Command(product, "attach", "srv0", "--pin", filepath.Join(dir, "x")), 1, dir, "mount -t bpf bpf /sys/fs/bpf", "--pin ''")
	refused(t, l.Server.Command(product, "attach", "srv0", "--pin", "relative"), 1, `"relative"`, "absolute")
	expectNothing(t, l)
}

// In a mount namespace of its own, so that a machine without BPF filesystem stays so.
func TestWithoutAPinDirectoryGivenItIsTheUsualOneMountedIfNeeded(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := &daemon{t: t, lab: l, stderr: new(lab.Output), exited: make(chan struct{})}
	d.cmd = l.Server.Command("unshare", "--mount", product, "attach", "srv0")
	d.run()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	inside := "/proc/" + strconv.Itoa(d.cmd.Process.Pid) + "/root/sys/fs/bpf/xdptcp"
	if list := pinned(t, inside); len(list) == 0 {
		t.Errorf("nothing is pinned below %s", inside)
	}
	after, err := os.ReadFile("/proc/self/mounts")
	if err != nil || string(after) != string(mounts) {
		t.Errorf("mounts have changed: %v\n%s", err, after)
	}
	d.stop()
}
