// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

func nsHandle(f *os.File) netns.NsHandle { return netns.NsHandle(f.Fd()) }

// here is the calling thread's namespace.
func here(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// outside is the process's namespace, read before any test runs.
var outside, _ = os.Readlink("/proc/self/ns/net")

// allOutside reports whether no thread but the two homes is in a lab.
func allOutside(t *testing.T, l *Lab) {
	t.Helper()
	for _, h := range []*Host{l.Server, l.Client} {
		eventually(t, "only the home thread of "+h.Name+" is inside", func() bool {
			return len(inside(t, nsOf(t, h))) == 1
		})
	}
}

func TestDoRunsInsideAndTheCallerStaysOutside(t *testing.T) {
	l := ForTest(t, Options{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	failure := errors.New("failure")

	for _, h := range []*Host{l.Server, l.Client} {
		want := nsOf(t, h)
		err := h.Do(func() error {
			if got := here(t); got != want {
				t.Errorf("Do ran in %s, want %s", got, want)
			}
			return failure
		})
		if err != failure {
			t.Errorf("Do returned %v, want f's error as it is", err)
		}
		if got := here(t); got != outside {
			t.Errorf("after Do failed the caller is in %s, want %s", got, outside)
		}
	}

	t.Run("when f panics", func(t *testing.T) {
		func() {
			defer func() {
				p, ok := recover().(*Panic)
				if !ok || p.Value != any(failure) || !errors.Is(p, failure) || !strings.Contains(string(p.Stack), "host_test.go") {
					t.Errorf("recovered %v, want a *Panic of f's value with f's stack", p)
				}
			}()
			l.Server.Do(func() error { panic(failure) })
			t.Error("Do returned")
		}()
		if got := here(t); got != outside {
			t.Errorf("the caller is in %s, want %s", got, outside)
		}
	})

	t.Run("when f ends its goroutine", func(t *testing.T) {
		ended := make(chan bool)
		go func() {
			returned := false
			defer func() { ended <- !returned }()
			l.Server.Do(func() error { runtime.Goexit(); return nil })
			returned = true
		}()
		if !<-ended {
			t.Error("Do returned, although f did not")
		}
	})

	t.Run("when f calls Do of the other host", func(t *testing.T) {
		err := l.Server.Do(func() error {
			return l.Client.Do(func() error {
				if got, want := here(t), nsOf(t, l.Client); got != want {
					t.Errorf("inner Do ran in %s, want %s", got, want)
				}
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
	allOutside(t, l)
}

func TestManyDosAtOnce(t *testing.T) {
	l := ForTest(t, Options{})
	var wg sync.WaitGroup
	for i := range 64 {
		h := []*Host{l.Server, l.Client}[i%2]
		want := nsOf(t, h)
		wg.Go(func() {
			for range 20 {
				h.Do(func() error {
					if got := here(t); got != want {
						t.Errorf("Do ran in %s, want %s", got, want)
					}
					return nil
				})
			}
		})
	}
	wg.Wait()
	allOutside(t, l)
	if main, _ := os.Readlink("/proc/self/ns/net"); main != outside {
		t.Errorf("the main thread is in %s, want %s", main, outside)
	}
}

func TestNSPathLetsAnotherProcessIn(t *testing.T) {
	l := ForTest(t, Options{})
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		need(t, err)
	}
	out, err := exec.Command(nsenter, "--net="+l.Client.NSPath(), "readlink", "/proc/self/ns/net").CombinedOutput()
	if got, want := strings.TrimSpace(string(out)), nsOf(t, l.Client); err != nil || got != want {
		t.Errorf("nsenter came to %s (%v), want %s", got, err, want)
	}
}

func TestDialAndListenRefuseWhatTheyCannotDo(t *testing.T) {
	l := ForTest(t, Options{})
	for _, tc := range []struct{ network, addr, says string }{
		{"tcp", "localhost:80", "no resolver"},
		{"tcp", "192.0.2.1", "missing port"},
		{"unix", "/tmp/x", "unix sockets"},
	} {
		if _, err := l.Client.Dial(context.Background(), tc.network, tc.addr); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("Dial %s %s: %v, want %q", tc.network, tc.addr, err, tc.says)
		}
		if _, err := l.Server.Listen(tc.network, tc.addr); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("Listen %s %s: %v, want %q", tc.network, tc.addr, err, tc.says)
		}
	}
	if _, err := l.Client.Dial(context.Background(), "tcp", "192.0.2.1:9"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Dial of a closed port: %v, want connection refused", err)
	}
}

func TestDialWithKeepsTheDialersSettings(t *testing.T) {
	l := ForTest(t, Options{})
	ln, err := l.Server.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	local := netip.AddrPortFrom(l.Client.Addr4, 12345)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := l.Client.DialWith(ctx, &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}, "tcp", net.JoinHostPort(l.Server.Addr4.String(), port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.LocalAddr().String() != local.String() {
		t.Errorf("dialled from %s, want %s", c.LocalAddr(), local)
	}
}

func TestSysctlsAreTheNamespaces(t *testing.T) {
	l := ForTest(t, Options{})
	const name = "net.ipv4.tcp_syncookies"
	was, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"2", "0"} {
		if err := l.Server.SetSysctl(name, v); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Server.Sysctl(name); err != nil || got != v {
			t.Errorf("%s is %q (%v), want %s", name, got, err, v)
		}
	}
	if is, _ := os.ReadFile(sysctlPath(name)); string(is) != string(was) {
		t.Errorf("the host's %s went from %q to %q", name, was, is)
	}
	if err := l.Server.SetSysctl("net.ipv4.no_such", "1"); err == nil || !strings.Contains(err.Error(), "net.ipv4.no_such=1") {
		t.Errorf("an unknown sysctl: %v", err)
	}
}
