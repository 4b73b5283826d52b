// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		victim()
	}
	os.Exit(m.Run())
}

// echo serves one line, with its host's name in front, to whoever connects.
func echo(t *testing.T, h *Host, ip netip.Addr, says string) netip.AddrPort {
	t.Helper()
	ln, err := h.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s to %s", says, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	return netip.AddrPortFrom(ip, uint16(ln.Addr().(*net.TCPAddr).Port))
}

func ask(t *testing.T, h *Host, to netip.AddrPort) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestKernelTCPConnectsBothWaysOverBothFamilies(t *testing.T) {
	for _, o := range []Options{
		{},
		{Queues: 4, MTU: 9000},
		{PlainClient: true},
		{MTU: 1280},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			l := ForTest(t, o)
			for _, way := range []struct{ from, to *Host }{{l.Client, l.Server}, {l.Server, l.Client}} {
				for _, a := range []struct{ from, to netip.Addr }{
					{way.from.Addr4, way.to.Addr4},
					{way.from.Addr6, way.to.Addr6},
				} {
					at := echo(t, way.to, a.to, "hello")
					if got, want := ask(t, way.from, at), "hello to "+a.from.String(); got != want {
						t.Errorf("%s to %s: got %q, want %q", way.from.Name, at, got, want)
					}
				}
			}
		})
	}
}

func TestTheFirstFrameOnTheWireIsTheCallers(t *testing.T) {
	l := ForTest(t, Options{})
	tap, err := l.Server.Capture(CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if n := len(tap.Packets()); n > 0 {
		t.Errorf("%d frames before the first connection", n)
	}
	ask(t, l.Client, echo(t, l.Server, l.Server.Addr4, "hi"))
	ask(t, l.Client, echo(t, l.Server, l.Server.Addr6, "hi"))
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	for p := range tap.Packets() {
		if typ := binary.BigEndian.Uint16(p.Data[12:]); typ == unix.ETH_P_ARP {
			t.Errorf("an ARP packet: %x", p.Data)
		} else if typ == unix.ETH_P_IPV6 && (p.Data[20] == 58 || p.Data[20] == 0) {
			t.Errorf("an ICMPv6 packet: %x", p.Data)
		}
	}
}

func TestTheInterfacesAreAsAskedFor(t *testing.T) {
	l := ForTest(t, Options{Queues: 3, MTU: 9000})
	for _, h := range []*Host{l.Server, l.Client} {
		err := h.Do(func() error {
			links, err := netlink.LinkList()
			if err != nil {
				return err
			}
			if len(links) != 2 {
				t.Errorf("%s has %d interfaces, want lo and %s", h.Name, len(links), h.Iface)
			}
			for _, k := range links {
				a := k.Attrs()
				if a.Flags&net.FlagUp == 0 {
					t.Errorf("%s: %s is down", h.Name, a.Name)
				}
				if a.Name == "lo" {
					continue
				}
				if a.Name != h.Iface || a.Index != h.IfIndex || a.HardwareAddr.String() != h.MAC.String() {
					t.Errorf("%s: the interface is %s, %d, %s; the Host says %s, %d, %s", h.Name, a.Name, a.Index, a.HardwareAddr, h.Iface, h.IfIndex, h.MAC)
				}
				if a.MTU != 9000 || a.NumRxQueues != 3 || a.NumTxQueues != 3 {
					t.Errorf("%s: MTU %d, %d rx and %d tx queues; want 9000, 3, 3", h.Name, a.MTU, a.NumRxQueues, a.NumTxQueues)
				}
				if want := h == l.Client; (a.Xdp != nil && a.Xdp.Attached) != want {
					t.Errorf("%s: XDP attached: %t, want %t", h.Name, !want, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestXDPPassOutlivesTheGarbageCollector(t *testing.T) {
	l := ForTest(t, Options{})
	for range 3 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond) // finalizers have a goroutine of their own
	}
	err := l.Client.Do(func() error {
		k, err := netlink.LinkByName(l.Client.Iface)
		if err == nil && (k.Attrs().Xdp == nil || !k.Attrs().Xdp.Attached) {
			t.Error("the program is gone")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBadOptionsAreRefusedWithAdvice(t *testing.T) {
	for _, o := range []Options{{Queues: -1}, {Queues: 257}, {MTU: 1279}, {MTU: 65536}} {
		l, err := New(o)
		if err == nil {
			l.Close()
			t.Errorf("%+v was accepted", o)
		} else if !strings.Contains(err.Error(), "give ") {
			t.Errorf("%+v: %v: no advice", o, err)
		}
	}
}

func TestParallelLabsDoNotDisturbOneAnother(t *testing.T) {
	Need(t)
	const labs = 4
	var wg sync.WaitGroup
	for i := range labs {
		wg.Go(func() {
			l, err := New(Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			// The same address and port in each.
			name := "lab " + strconv.Itoa(i)
			ln, err := l.Server.Listen("tcp", "192.0.2.1:80")
			if err != nil {
				t.Error(err)
				return
			}
			defer ln.Close()
			go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
			c := http.Client{Transport: &http.Transport{DialContext: l.Client.Dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
			for range 20 {
				r, err := c.Get("http://192.0.2.1/")
				if err != nil {
					t.Error(err)
					return
				}
				b, _ := io.ReadAll(r.Body)
				r.Body.Close()
				if string(b) != name {
					t.Errorf("%s was answered by %s", name, b)
				}
			}
		})
	}
	wg.Wait()
}

// openFiles lists what this process's descriptors point to.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]string)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			m[fd.Name()] = to
		}
	}
	return m
}

// inside lists the tasks (threads, of all processes) whose namespace is ns, such
// as "net:[4026532300]".
func inside(t *testing.T, ns string) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var in []string
	for _, task := range tasks {
		if to, _ := os.Readlink(task + "/ns/net"); to == ns {
			in = append(in, task)
		}
	}
	return in
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Errorf("not within 5 s: %s", what)
			return
		}
	}
}

func nsOf(t *testing.T, h *Host) string {
	t.Helper()
	ns, err := os.Readlink(h.NSPath())
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func hostLinks(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestCloseLeavesNothing(t *testing.T) {
	Need(t) // opens the runtime's poller, and so on
	before, linksBefore := openFiles(t), hostLinks(t)

	l, err := New(Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	if got := hostLinks(t); got != linksBefore {
		t.Errorf("links in the host's namespace: %s; before the lab: %s", got, linksBefore)
	}
	// Held, so that their numbers can't become those of another's namespaces.
	spaces := []string{nsOf(t, l.Server), nsOf(t, l.Client)}
	for _, h := range []*Host{l.Server, l.Client} {
		f, err := os.Open(h.NSPath())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		before[strconv.Itoa(int(f.Fd()))] = nsOf(t, h)
	}
	tap, err := l.Client.Capture(CaptureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// One process that is left running, and one that has left another behind.
	running := l.Server.Command("sleep", "1000")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.Client.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 &").Run(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{2, 2} { // the home thread and a sleep
		if got := inside(t, spaces[i]); len(got) != want {
			t.Errorf("%d tasks inside %s before Close, want %d: %v", len(got), spaces[i], want, got)
		}
	}
	started := time.Now()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(started); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	if err := running.Process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process is left: %v", err)
	}
	if _, open := <-tap.Packets(); open {
		for range tap.Packets() {
		}
	}
	for _, ns := range spaces {
		if in := inside(t, ns); len(in) > 0 {
			t.Errorf("tasks still inside %s: %v", ns, in)
		}
	}
	for fd, to := range openFiles(t) {
		if before[fd] != to && !strings.HasPrefix(to, "/proc/") {
			t.Errorf("descriptor %s is left open: %s", fd, to)
		}
	}
	if got := hostLinks(t); got != linksBefore {
		t.Errorf("links in the host's namespace: %s; before the lab: %s", got, linksBefore)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if err := l.Server.Do(func() error { t.Error("ran"); return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do after Close: %v, want ErrClosed", err)
	}
	if err := l.Server.Command("true").Run(); !errors.Is(err, ErrClosed) {
		t.Errorf("Command after Close: %v, want ErrClosed", err)
	}
	if _, err := l.Server.Capture(CaptureOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Capture after Close: %v, want ErrClosed", err)
	}
}

func TestCloseTakesTheVethFromUnderAForgottenSocket(t *testing.T) {
	l := ForTest(t, Options{})
	ns, err := os.Open(l.Server.NSPath()) // keeps the namespace, as a socket does
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandleAt(nsHandle(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 {
		t.Errorf("%d interfaces left in the namespace, want lo alone", len(links))
	}
}

func TestConcurrentCloseIsOne(t *testing.T) {
	l := ForTest(t, Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			err := l.Server.Command("sleep", "1000").Run()
			if err == nil {
				t.Error("sleep 1000 came to its end")
			}
		})
		wg.Go(func() {
			if err := l.Client.Do(func() error { return nil }); err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

const victimEnv = "XDPTCP_LAB_TEST_VICTIM"

// victim is the child of the next test: it makes a lab, starts a process in it,
// says where it is, and waits for its death.
func victim() {
	l, err := New(Options{})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	c := l.Server.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	ns, _ := os.Readlink(l.Server.NSPath())
	fmt.Println(ns)
	fmt.Println(c.Process.Pid)
	select {}
}

func TestSIGKILLLeavesNothing(t *testing.T) {
	Need(t)
	before := hostLinks(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), victimEnv+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	var server string
	var pid int
	if _, err := fmt.Fscanln(out, &server); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	sleeper, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil || sleeper != server {
		t.Fatalf("the child's process is in %s (%v), want %s", sleeper, err, server)
	}
	orphan, err := os.FindProcess(pid) // by pidfd
	if err != nil {
		t.Fatal(err)
	}
	defer orphan.Kill() // should the test find that it lives
	// A descriptor of ours keeps the server's namespace: its number stays its own,
	// and one can look inside. When the kernel destroys the client's, cli0 goes with
	// it, and then srv0 does.
	hold, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	in, err := netlink.NewHandleAt(nsHandle(hold))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	links := func() int {
		ls, err := in.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		return len(ls)
	}
	if n := links(); n != 2 {
		t.Fatalf("the child's server has %d interfaces, want 2", n)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	eventually(t, "the child's process dies", func() bool {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return to != server
	})
	eventually(t, "nobody is in the server's namespace", func() bool { return len(inside(t, server)) == 0 })
	eventually(t, "the client's namespace is destroyed, and the veth pair with it", func() bool { return links() == 1 })
	if got := hostLinks(t); got != before {
		t.Errorf("links in the host's namespace: %s; before: %s", got, before)
	}
}
