// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func kernelService(more ...string) []string {
	return append([]string{"--listen", ":8080=kernel"}, more...)
}

// plainListen listens on the server without MPTCP, which is what Go's listeners take by default.
func plainListen(t *testing.T, l *lab.Lab, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := l.Server.Do(func() (err error) {
		config := &net.ListenConfig{Control: reusePort} // for an outgoing connection from the same port
		config.SetMultipathTCP(false)
		ln, err = config.Listen(context.Background(), "tcp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// plainEcho is an echo service of the server's kernel, without MPTCP.
func plainEcho(t *testing.T, l *lab.Lab, addr string) net.Listener {
	t.Helper()
	ln := plainListen(t, l, addr)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the client's test sees what is wrong
			}()
		}
	}()
	return ln
}

// handedOver is how many connections XDP has passed to the kernel, where all must have arrived.
func (d *daemon) handedOver() float64 {
	d.t.Helper()
	s := d.scrape()
	for _, reason := range []string{"no_listener", "not_assigned"} {
		if n := s.packets("pass", reason); n != 0 {
			d.t.Errorf("%v handshakes were lost: %s", n, reason)
		}
	}
	s.expectNoHonestDrops(d.t)
	return s.packets("pass", "handed_over")
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

// agreed is what ss says on the server of the connection that came from a client's port.
func agreed(t *testing.T, l *lab.Lab, c net.Conn) string {
	t.Helper()
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.Server.Command("ss", "-Htino", "state", "established", "dport = :"+port).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(regexp.MustCompile(`\b(ts|sack|ecn|wscale:\S+|mss:\d+|advmss:\d+|pmtu:\d+)`).FindAllString(string(out), -1), " ")
}

// The kernel goes on with the connection as if it had agreed it itself.
func TestAConnectionHandedToTheKernelIsLikeOneOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, timestamps := range []string{"1", "0"} {
		t.Run("client's tcp_timestamps="+timestamps, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			for _, h := range []*lab.Host{l.Server, l.Client} {
				// Without timestamps, a cookie knows the window scale 8 exactly, and nothing of ECN.
				for name, value := range map[string]string{"tcp_timestamps": timestamps, "tcp_ecn": timestamps, "tcp_rmem": "4096 131072 16777215"} {
					if err := h.SetSysctl("net.ipv4."+name, value); err != nil {
						t.Fatal(err)
					}
				}
				if err := h.Offload(false); err != nil {
					t.Fatal(err)
				}
			}
			plainEcho(t, l, ":8080")
			plainEcho(t, l, ":9090")
			d := attach(t, l, kernelService()...)
			for _, f := range families(l) {
				tap := record(t, l)
				ours, its := dial(t, l, f.addr(8080)), dial(t, l, f.addr(9090))
				for _, c := range []net.Conn{ours, its} {
					if err := echo(c, payload(1, 100_000)); err != nil {
						t.Errorf("%s: %v", f.name, err)
					}
				}
				a, b := agreed(t, l, ours), agreed(t, l, its)
				if a != b || !strings.Contains(a, "wscale:") || strings.Contains(a, "ecn") != (timestamps == "1") {
					t.Errorf("%s: ss says of the connection\n%s, and of one that was the kernel's from the start\n%s", f.name, a, b)
				}
				tr := tap.rest()
				tr.checkServer(t)
				synack := tr.first(t, "the SYN/ACK", func(s segment) bool { return s.flags&(flagSYN|flagACK) == flagSYN|flagACK && s.src.Port() == 8080 })
				if synack.window != 65535 || synack.timestamps != (timestamps == "1") {
					t.Errorf("%s: XDP answers with window %d, timestamps %v", f.name, synack.window, synack.timestamps)
				}
			}
			if n := d.handedOver(); n != 2 {
				t.Errorf("%v connections were handed over, want 2", n)
			}
		})
	}
}

func TestNginxServesLargeTransfersBothWays(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Queues: 2})
	n := nginx(t, l, "8080", "[::]:8080")
	d := attach(t, l, kernelService()...)
	big := payload(7, 40<<20)
	n.put(t, "big", big)
	for _, f := range families(l) {
		out, err := l.Client.Command("curl", "-sS", "-f", "--max-time", "20", f.url("/")).Output()
		if err != nil || string(out) != "hello from nginx\n" {
			t.Errorf("%s: curl: %v: %q", f.name, err, out)
		}
		client := httpClient(t, l, patience)
		got, err := fetch(client, f.url("/big"))
		if err != nil || sum(got) != sum(big) {
			t.Errorf("%s: download: %d bytes with sum %s, %v", f.name, len(got), sum(got), err)
		}
		if err := davPut(client, f.url("/"+f.name), big); err != nil {
			t.Error(err)
		}
		if up, err := os.ReadFile(filepath.Join(n.root, f.name)); err != nil || sum(up) != sum(big) {
			t.Errorf("%s: nginx has %d uploaded bytes, %v; want the %d that were sent", f.name, len(up), err, len(big))
		}
		client.CloseIdleConnections()
	}
	if n := d.handedOver(); n != 4 {
		t.Errorf("%v connections were handed over, want 4", n)
	}
}

// wrk opens connections at once, and keeps them; curl opens one after the other.
func TestEveryKindOfListenerGetsItsConnections(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string][]string{
		"on all addresses":                   {"8080", "[::]:8080"},
		"on an address":                      {"192.0.2.1:8080", "[2001:db8::1]:8080"},
		"of IPv6 for IPv4 too":               {"[::]:8080 ipv6only=off"},
		"one for each worker (SO_REUSEPORT)": {"8080 reuseport", "[::]:8080 reuseport"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			nginx(t, l, listen...)
			d := attach(t, l, kernelService()...)
			for _, f := range families(l) {
				const fresh = 40
				if err := all(fresh, 8, func(int) error {
					client := httpClient(t, l, patience)
					defer client.CloseIdleConnections()
					_, err := fetch(client, f.url("/"))
					return err
				}); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				out, err := l.Client.Command("wrk", "-t1", "-c16", "-d1", f.url("/")).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "Requests/sec") || strings.Contains(string(out), "Socket errors") ||
					strings.Contains(string(out), "Non-2xx") {
					t.Errorf("%s: wrk: %v:\n%s", f.name, err, out)
				}
			}
			if n := d.handedOver(); n != 2*(40+16) && n != 2*(40+17) { // wrk tries the address first
				t.Errorf("%v connections were handed over", n)
			}
		})
	}
}

func TestWithoutAListenerClientsAreReset(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	ln := plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	for _, f := range families(l) {
		if err := echo(dial(t, l, f.addr(8080)), payload(1, 1000)); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
	}
	ln.Close()
	for i, f := range families(l) {
		c, err := dialTo(l, f.addr(8080)) // XDP answers as before
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", f.name, err)
		}
		if n := d.scrape().packets("pass", "no_listener"); n != float64(i+1) {
			t.Errorf("%s: %v times no listener, want %d", f.name, n, i+1)
		}
	}
	plainEcho(t, l, ":8080")
	for _, f := range families(l) {
		if err := echo(dial(t, l, f.addr(8080)), payload(1, 1000)); err != nil {
			t.Errorf("%s: after the listener's return: %v", f.name, err)
		}
	}
}

func TestAKernelServiceThatNobodyListensForIsAWarningOnly(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, kernelService()...)
	if log := d.stderr.String(); !strings.Contains(log, "nothing listens") || !strings.Contains(log, ":8080=kernel") {
		t.Errorf("no warning:\n%s", log)
	}
	plainEcho(t, l, ":8080")
	if err := echo(dial(t, l, families(l)[0].addr(8080)), payload(1, 1000)); err != nil {
		t.Error(err)
	}
}

func TestTheHostsOtherConnectionsAreLeftAlone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	plainEcho(t, l, ":2222")
	d := attach(t, l, kernelService()...)
	for _, f := range families(l) {
		if err := echo(dial(t, l, f.addr(2222)), payload(1, 100_000)); err != nil {
			t.Errorf("%s: another port: %v", f.name, err)
		}
		// An outgoing connection, also one from the service's own port.
		ln, err := l.Client.Listen("tcp", net.JoinHostPort(f.client.String(), "7070"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return // closed
				}
				_, _ = io.Copy(c, c)
				c.Close()
			}
		}()
		for _, from := range []uint16{0, 8080} {
			out := &net.Dialer{Timeout: patience, Control: reusePort, LocalAddr: net.TCPAddrFromAddrPort(f.serverPort(from))}
			c, err := l.Server.DialWith(t.Context(), out, "tcp", ln.Addr().String())
			if err != nil {
				t.Errorf("%s: outgoing from port %d: %v", f.name, from, err)
				continue
			}
			_ = c.SetDeadline(time.Now().Add(patience)) // it is open: this can't fail
			if err := echo(c, payload(2, 100_000)); err != nil {
				t.Errorf("%s: outgoing from port %d: %v", f.name, from, err)
			}
			c.Close()
		}
	}
	if n := d.handedOver(); n != 0 {
		t.Errorf("%v connections were handed over that were none of ours", n)
	}
}

func TestConnectionsOutliveDetachAndAttach(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	var open []net.Conn
	check := func(when string) {
		t.Helper()
		for i, c := range open {
			if err := echo(c, payload(uint64(i), 50_000)); err != nil {
				t.Errorf("%s: connection %d: %v", when, i, err)
			}
		}
	}
	connect := func() {
		t.Helper()
		for _, f := range families(l) {
			open = append(open, dial(t, l, f.addr(8080)))
		}
	}
	connect()
	d := attach(t, l, kernelService()...)
	check("opened before, served under xdptcp")
	connect()
	check("with those of xdptcp")
	d.stop()
	check("without xdptcp")
	connect()
	d = attach(t, l, kernelService()...)
	connect()
	check("with a second xdptcp")
	if n := d.handedOver(); n != 2 {
		t.Errorf("the second handed %v connections over, want 2", n)
	}
	if code := d.signal(unix.SIGKILL); code != -1 {
		t.Errorf("exit code %d", code)
	}
	check("after its death")
}

// Where the server closes first, its kernel keeps TIME-WAIT, and decides on the next SYN.
func TestAPortInTheKernelsTimeWaitIsUsableAgain(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	ln := plainListen(t, l, ":8080")
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return // closed
			}
			_, _ = c.Write([]byte("bye")) // the client misses it
			c.Close()
		}
	}()
	d := attach(t, l, kernelService()...)
	for _, f := range families(l) {
		for round := range 5 {
			var c *net.TCPConn
			var err error
			for start := time.Now(); ; time.Sleep(time.Millisecond) {
				c, err = dialFrom(l, f.from(45678), f.addr(8080), patience)
				if !errors.Is(err, unix.EADDRNOTAVAIL) || time.Since(start) > patience {
					break // else the last one is in LAST-ACK
				}
			}
			if err != nil {
				t.Fatalf("%s, round %d: %v", f.name, round, err)
			}
			got, err := io.ReadAll(c)
			if err != nil || string(got) != "bye" {
				t.Fatalf("%s, round %d: %q, %v", f.name, round, got, err)
			}
			c.Close()
		}
	}
	s := d.scrape()
	if s.packets("tx", "synack") != 2 || s.packets("pass", "handed_over") != 2 {
		t.Errorf("XDP answered %v SYNs and handed %v over, want the first of each family: the others meet TIME-WAIT",
			s.packets("tx", "synack"), s.packets("pass", "handed_over"))
	}
	s.expectNoHonestDrops(t)
}

func TestAHandOverSurvivesTheLossOfAnyPacketOfTheHandshake(t *testing.T) {
	for _, loss := range []struct {
		name      string
		flags     byte
		direction uint32
		within    time.Duration
	}{
		{"the SYN", flagSYN, toServer, 3 * time.Second},
		{"the SYN/ACK", flagSYN | flagACK, toClient, 3 * time.Second},
		{"the final ACK", flagACK, toServer, 800 * time.Millisecond}, // the first data does its work
	} {
		for i, version := range []string{"IPv4", "IPv6"} {
			t.Run(loss.name+" "+version, func(t *testing.T) {
				t.Parallel()
				l := lab.ForTest(t, lab.Options{PlainClient: true})
				f := families(l)[i]
				im := impair(t, l, impairment{v4: i == 0, flags: loss.flags})
				plainEcho(t, l, ":8080")
				d := attach(t, l, kernelService()...)
				im.lose(t, loss.direction, 1)
				start := time.Now()
				c := dial(t, l, f.addr(8080))
				if err := echo(c, payload(1, 50_000)); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > loss.within {
					t.Errorf("took %v, want at most %v", took, loss.within)
				}
				if n := im.dropped(t); n != 1 {
					t.Errorf("%d frames were lost, want 1", n)
				}
				d.handedOver()
			})
		}
	}
}

// A first flight of many segments, none of which acknowledges more than our SYN.
func TestAnUploadThatBeginsAtOnceArrivesWhole(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{Queues: 2})
			plainEcho(t, l, ":8080")
			d := attach(t, l, kernelService("--mode", mode)...)
			for _, f := range families(l) {
				if err := all(200, 16, func(i int) error {
					c, err := dialTo(l, f.addr(8080))
					if err != nil {
						return err
					}
					defer c.Close()
					return echo(c, payload(uint64(i), 40_000))
				}); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
			}
			d.handedOver()
		})
	}
}

func TestAServiceOfTheKernelAndOneOfTheEngineStandSideBySide(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService("--listen", ":8081=echo")...)
	for _, f := range families(l) {
		for _, port := range []uint16{8080, 8081} {
			if err := echo(dial(t, l, f.addr(port)), payload(3, 300_000)); err != nil {
				t.Errorf("%s port %d: %v", f.name, port, err)
			}
		}
	}
	s := d.scrape()
	if s.opened() != 2 || d.handedOver() != 2 || s["xdptcp_handshakes_completed_total"] != 4 {
		t.Errorf("the engine opened %v connections, %v were handed over, %v handshakes", s.opened(), d.handedOver(), s["xdptcp_handshakes_completed_total"])
	}
}

// The other programs of the hook run as before, behind ours.
func TestAnotherTCXProgramStillSeesEveryPacket(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Name: "seen", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Close()
	// It counts the packets with metadata, which are those that ours has a say in.
	const data, dataMeta = 76, 140 // in struct __sk_buff
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "counts", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, dataMeta, asm.Word),
		asm.JEq.Reg(asm.R2, asm.R3, "out"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if err := l.Server.Do(func() error {
		other, err := link.AttachTCX(link.TCXOptions{Program: prog, Attach: ebpf.AttachTCXIngress, Interface: l.Server.IfIndex})
		if err == nil {
			t.Cleanup(func() { other.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	d := attach(t, l, kernelService()...)
	const connections = 10
	for range connections {
		c := dial(t, l, families(l)[0].addr(8080))
		if err := echo(c, payload(1, 10)); err != nil {
			t.Fatal(err)
		}
	}
	var n uint64
	if err := seen.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	if n != connections || d.handedOver() != connections {
		t.Errorf("the other program saw %d final ACKs of %d connections, of which %v were handed over", n, connections, d.handedOver())
	}
	if got := tcxPrograms(t, l.Server); got != 2 {
		t.Errorf("%d tcx programs, want both", got)
	}
	d.stop()
	if got := tcxPrograms(t, l.Server); got != 1 {
		t.Errorf("%d tcx programs after detaching, want the other", got)
	}
}

// tcxPrograms counts the tcx programs at a host's ingress.
func tcxPrograms(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	if err := h.Do(func() error {
		r, err := link.QueryPrograms(link.QueryOptions{Target: h.IfIndex, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			n = len(r.Programs)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatTheKernelCannotTakeOverIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		make  func(t *testing.T, l *lab.Lab)
		names []string
	}{
		{"a listener of MPTCP", func(t *testing.T, l *lab.Lab) {
			config := &net.ListenConfig{}
			config.SetMultipathTCP(true)
			if err := l.Server.Do(func() error {
				ln, err := config.Listen(t.Context(), "tcp", ":8080")
				if err == nil {
					t.Cleanup(func() { ln.Close() })
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}, []string{"MPTCP", "GODEBUG=multipathtcp=0"}},
		{"no SYN cookies", func(t *testing.T, l *lab.Lab) {
			if err := l.Server.SetSysctl("net.ipv4.tcp_syncookies", "0"); err != nil {
				t.Fatal(err)
			}
		}, []string{"net.ipv4.tcp_syncookies=0", "sysctl net.ipv4.tcp_syncookies=1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			c.make(t, l)
			refused(t, l.Server.Command(product, append([]string{"attach", "srv0"}, kernelService()...)...), 1, c.names...)
			if id := xdpProgram(t, l.Server); id != 0 {
				t.Errorf("XDP program %d is attached", id)
			}
			if n := tcxPrograms(t, l.Server); n != 0 {
				t.Errorf("%d tcx programs are attached", n)
			}
		})
	}
}

func TestShieldsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	for _, c := range [][]string{
		{"--shield", "sometimes"}, {"--shield-on", "10000"}, {"--shield-on", "50", "--shield-off", "50"},
		{"--shield-off", "0"}, {"--shield-on", "-1"},
	} {
		refused(t, l.Server.Command(product, append([]string{"attach", "srv0"}, kernelService(c...)...)...), 2, c[0])
	}
	if id := xdpProgram(t, l.Server); id != 0 {
		t.Errorf("XDP program %d is attached", id)
	}
}

// What the host's sysctls forbid, XDP does not offer for it.
func TestOptionsThatTheHostForbidsAreNotOffered(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tcp_timestamps", "tcp_sack", "tcp_window_scaling"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			if err := l.Server.SetSysctl("net.ipv4."+name, "0"); err != nil {
				t.Fatal(err)
			}
			plainEcho(t, l, ":8080")
			d := attach(t, l, kernelService()...)
			for _, f := range families(l) {
				tap := record(t, l)
				if err := echo(dial(t, l, f.addr(8080)), payload(1, 100_000)); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				s := tap.rest().first(t, "the SYN/ACK", func(s segment) bool { return s.flags == flagSYN|flagACK })
				if s.timestamps != (name != "tcp_timestamps") || s.sack != (name != "tcp_sack") || (s.wscale >= 0) != (name != "tcp_window_scaling") {
					t.Errorf("%s: the SYN/ACK has timestamps %v, SACK %v, window scale %d", f.name, s.timestamps, s.sack, s.wscale)
				}
			}
			if n := d.handedOver(); n != 2 {
				t.Errorf("%v connections were handed over, want 2", n)
			}
		})
	}
}

// Clients with an MSS below what the kernel's request sockets take are served all the same.
func TestAClientWithASmallMSSIsServed(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	for _, f := range families(l) {
		out := &net.Dialer{Timeout: patience, Control: smallMSS}
		c, err := l.Client.DialWith(t.Context(), out, "tcp", f.addr(8080))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience)) // it is open: this can't fail
		if err := echo(c, payload(1, 100_000)); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	if n := d.handedOver(); n != 2 {
		t.Errorf("%v connections were handed over, want 2", n)
	}
}

func TestADaemonOfKernelServicesSaysThatItsInterfaceIsGone(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	serverLink(t, l, netlink.LinkDel)
	select {
	case <-d.exited:
	case <-time.After(patience):
		t.Fatalf("it goes on without its interface; stderr:\n%s", d.stderr)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(d.stderr.String(), "interface srv0 is gone") {
		t.Errorf("exit code %d, stderr:\n%s", code, d.stderr)
	}
}

func TestKernelServicesAloneNeedNoSockets(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{MTU: 3400})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	for _, f := range families(l) {
		if err := echo(dial(t, l, f.addr(8080)), payload(1, 1_000_000)); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	if n := d.handedOver(); n != 2 || !strings.Contains(d.ready, "queues=0") {
		t.Errorf("%v connections were handed over, want 2; %s", n, d.ready)
	}
}

// A tag of VLAN 0 carries a priority only (IEEE 802.1Q): the kernel takes such frames as untagged ones, and
// needs no VLAN device for them.
func TestAHandshakeInTaggedFramesIsHandedOver(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	raws := newSender(t, l.Client)
	for i, f := range families(l) {
		c := new(handClient)
		c.vlan = []uint16{5 << 13}
		c.syn(t, l, raws, spoofed(f.server.Is4(), i), f.serverPort(8080))
		c.finish(t, l, raws)
	}
	if n := d.handedOver(); n != 2 {
		t.Errorf("%v connections were handed over, want 2", n)
	}
}

func TestTCPBehindIPOptionsAndExtensionHeadersIsHandedOver(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	raws := newSender(t, l.Client)
	for i, f := range families(l) {
		c := new(handClient)
		c.padded = true
		c.syn(t, l, raws, spoofed(f.server.Is4(), i), f.serverPort(8080))
		c.finish(t, l, raws)
	}
	if n := d.handedOver(); n != 2 {
		t.Errorf("%v connections were handed over, want 2", n)
	}
}

// When the final ACK is lost, the client's first data is as good.
func TestDataWithoutABareACKBeforeItIsHandedOver(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService()...)
	raws := newSender(t, l.Client)
	for i, f := range families(l) {
		c := new(handClient)
		c.syn(t, l, raws, spoofed(f.server.Is4(), i), f.serverPort(8080))
		c.noBareACK = true
		c.finish(t, l, raws)
	}
	if n := d.handedOver(); n != 2 {
		t.Errorf("%v connections were handed over, want 2", n)
	}
}

// A connection is made before, between and after two replacements, with SYNs answered by XDP all along; killed, the daemon
// is not needed; and the services of the next one take the place of these, without a trace.
func TestKernelServicesAreReplacedAndOutliveTheirDaemon(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	plainEcho(t, l, ":8080")
	d := attach(t, l, kernelService("--outlive")...)
	var kept []net.Conn
	say := func(when string) {
		t.Helper()
		for _, f := range families(l) {
			c, err := dialTo(l, f.addr(8080))
			if err != nil {
				t.Fatalf("%s: %s: %v", when, f.name, err)
			}
			t.Cleanup(func() { c.Close() })
			kept = append(kept, c)
		}
		for i, c := range kept {
			if err := echo(c, payload(uint64(i), 1000)); err != nil {
				t.Fatalf("%s: connection %d: %v", when, i, err)
			}
		}
	}
	tcx := func() (n int) {
		t.Helper()
		err := l.Server.Do(func() error {
			dev, err := netlink.LinkByName(l.Server.Iface)
			if err != nil {
				return err
			}
			on, err := link.QueryPrograms(link.QueryOptions{Target: dev.Attrs().Index, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				n = len(on.Programs)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	say("at first")
	for range 2 {
		d = replace(t, l, d, kernelService("--outlive")...)
		say("replaced")
		if got := d.handedOver(); got != 2 {
			t.Errorf("%v connections were handed over, want 2", got)
		}
	}
	if n := tcx(); n != 1 {
		t.Errorf("%d tcx programs, want 1", n)
	}

	d.signal(unix.SIGKILL)
	time.Sleep(1500 * time.Millisecond) // the lease is over
	say("killed")
	if r, code := d.statusJSON(); code != 4 || r.Interfaces[0].Packets["pass"]["handed_over"] != 4 {
		t.Errorf("status %d: %v", code, r.Interfaces[0].Packets)
	}

	attach(t, l, "--listen", ":81=echo")
	say("of another service, which leaves this one to the kernel")
	if n := tcx(); n != 0 {
		t.Errorf("%d tcx programs of a daemon without kernel services", n)
	}
}
