// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestRepliesToOnePrefixAreLimitedAndOthersGetTheirs(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":7000=echo", "--reply-limit", "100")
	raws := newSender(t, l.Client)
	start := time.Now()
	const flood = 3000
	if err := raws.sendAll(flood, func(i int) raw {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 7, byte(i)}), uint16(1024+i))
		return raw{to: l.Server.MAC, from: l.Client.MAC, src: src, dst: families(l)[0].serverPort(7000), flags: flagSYN, options: synOptions}
	}); err != nil {
		t.Fatal(err)
	}
	s := d.eventually("all SYNs counted", func(s samples) bool {
		return s.packets("tx", "synack")+s.packets("drop", "reply_cap") >= flood
	})
	const window = 134217728 * time.Nanosecond
	// 100 a second are 13.4 a window; the one queue's packets may be received by all CPUs in turn, each of which
	// counts for itself.
	most := 13 * float64(runtime.NumCPU()) * float64(time.Since(start)/window+2)
	if n := s.packets("tx", "synack"); n < 13 || n > most {
		t.Errorf("%v of %d SYNs were answered, want at least 13 and at most %v", n, flood, most)
	}
	for _, f := range families(l) {
		if err := connects(l, f.addr(7000), patience); err != nil {
			t.Errorf("a client of another prefix: %v", err)
		}
	}
}

// Who is refused tries again, and gets in.
func TestOpeningsAreLimited(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":7000=echo", "--open-limit", "40")
	// 5 in a window of 134 ms; the one queue's packets may be received by all CPUs in turn, each of which counts for itself.
	n := 20 * runtime.NumCPU()
	start := time.Now()
	if err := all(n, n, func(i int) error { return connects(l, families(l)[i%2].addr(7000), patience) }); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("%d connections at 40 a second took %v", n, took)
	}
	if s := d.scrape(); s.packets("drop", "rate_limited") == 0 || s.opened() != float64(n) {
		t.Errorf("%v final ACKs dropped, %v connections opened; want some, %d", s.packets("drop", "rate_limited"), s.opened(), n)
	}
}

func TestABadACKGetsWhatTheOperatorSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args            []string
		verdict, reason string
		resets          int
	}{
		{nil, "drop", "bad_cookie", 0},
		{[]string{"--on-bad-ack", "reset"}, "tx", "reset", 1},
	} {
		l := lab.ForTest(t, lab.Options{})
		d := attach(t, l, append(c.args, "--listen", ":7000=echo")...)
		for i, f := range families(l) {
			tap := record(t, l)
			bad := raw{to: l.Server.MAC, from: l.Client.MAC, src: f.from(40000), dst: f.serverPort(7000), flags: flagACK, seq: 5, ack: 0x12345678 + 1}
			if err := newSender(t, l.Client).send(bad.frame()); err != nil {
				t.Fatal(err)
			}
			d.eventually("it counted", func(s samples) bool { return s.packets(c.verdict, c.reason) == float64(i+1) })
			time.Sleep(100 * time.Millisecond)
			n := 0
			for _, s := range tap.rest() {
				if s.flags == flagRST && !s.outgoing && s.seq == bad.ack && s.dst == bad.src {
					n++
				}
			}
			if n != c.resets {
				t.Errorf("%v: %s: %d RSTs, want %d", c.args, f.name, n, c.resets)
			}
		}
	}
}

func TestStrictCookiesGiveUpOptionsOfClientsWithoutTimestamps(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l, "--listen", ":7000=echo", "--strict-cookies")
	for timestamps, options := range map[string]bool{"0": false, "1": true} {
		if err := l.Client.SetSysctl("net.ipv4.tcp_timestamps", timestamps); err != nil {
			t.Fatal(err)
		}
		tap := record(t, l)
		f := families(l)[0]
		if err := echo(dial(t, l, f.addr(7000)), payload(1, 300_000)); err != nil {
			t.Errorf("timestamps %s: %v", timestamps, err)
		}
		s := tap.rest().first(t, "SYN/ACK", func(s segment) bool { return s.flags == flagSYN|flagACK })
		if (s.wscale >= 0) != options || s.sack != options || s.timestamps != options {
			t.Errorf("timestamps %s: the SYN/ACK has window scale %d, SACK %t, timestamps %t", timestamps, s.wscale, s.sack, s.timestamps)
		}
	}
}

// sendFrom has all that a host sends come from another MAC address, as if another router brought it.
func sendFrom(t *testing.T, h *lab.Host, mac net.HardwareAddr) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", AttachType: ebpf.AttachTCXEgress,
		Instructions: asm.Instructions{
			asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint64(append(append([]byte{}, mac...), 0, 0))), asm.DWord),
			asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
			asm.Mov.Imm(asm.R2, 6), // of the frame: the source address
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 6),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnSkbStoreBytes.Call(),
			asm.Mov.Imm(asm.R0, 0), // TC_ACT_OK
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var l link.Link
	if err := h.Do(func() error {
		l, err = link.AttachTCX(link.TCXOptions{Interface: h.IfIndex, Program: prog, Attach: ebpf.AttachTCXEgress})
		return err
	}); err != nil {
		if strings.Contains(err.Error(), "not supported") {
			t.Skip("tcx takes Linux 6.6: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func forward(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		if err := l.Server.SetSysctl("net."+family+".conf.srv0.forwarding", "1"); err != nil {
			t.Fatal(err)
		}
	}
}

// The client's packets come by one router, and the way back is by another.
func TestRepliesGoWhereTheRoutingTableSays(t *testing.T) {
	for _, reply := range []string{"same", "fib"} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			forward(t, l)
			// A client behind the routers; the server's default route leads to the client's host.
			for _, a := range []string{"198.51.100.2/32", "2001:db8:51::2/128"} {
				if err := l.Client.Do(func() error { return changeAddress("lo", a, netlink.AddrAdd) }); err != nil {
					t.Fatal(err)
				}
			}
			sendFrom(t, l.Client, net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 0xaa})
			d := attach(t, l, "--listen", ":7000=echo", "--listen", ":8080=http", "--reply", reply)
			for _, from := range []netip.Addr{l.Client.Addr4, l.Client.Addr6, netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:51::2")} {
				to := families(l)[0].addr(7000)
				if from.Is6() {
					to = families(l)[1].addr(7000)
				}
				limit := patience
				if reply == "same" {
					limit = time.Second
				}
				c, err := dialFrom(l, netip.AddrPortFrom(from, 0), to, limit)
				if reply == "same" { // the router that brought it doesn't take it back: the test is what it claims to be
					if err == nil {
						t.Errorf("from %v: connected through a router that is not there", from)
						c.Close()
					}
					continue
				}
				if err != nil {
					t.Errorf("from %v: %v", from, err)
					continue
				}
				if err := echo(c, payload(3, 500_000)); err != nil {
					t.Errorf("from %v: %v", from, err)
				}
				c.Close()
			}
			if reply == "fib" {
				d.eventually("all connections ended cleanly", func(s samples) bool { return s.closed("clean") == 4 })
				// A client that goes away in the middle, and a port used again at once: the engine's other answers.
				for i := range 3 {
					if err := serverClosesFirst(l, families(l)[0].from(41000), families(l)[0].addr(8080)); err != nil {
						t.Errorf("time %d on one port: %v", i, err)
					}
				}
			}
		})
	}
}

// The engine's sockets are bound to one interface: where the way back leads through another, it says so
// by a counter, and opens nothing.
func TestNothingIsOpenedWhoseWayBackLeadsThroughAnotherInterface(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	secondLink(t, l)
	forward(t, l)
	for _, c := range []struct{ addr, gw string }{{"198.51.100.2/32", "203.0.113.2"}, {"2001:db8:51::2/128", "2001:db8:2::2"}} {
		if err := l.Client.Do(func() error { return changeAddress("lo", c.addr, netlink.AddrAdd) }); err != nil {
			t.Fatal(err)
		}
		p := netip.MustParsePrefix(c.addr)
		if err := l.Server.Do(func() error {
			dev, err := netlink.LinkByName("srv1")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Gw: net.ParseIP(c.gw),
				Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}})
		}); err != nil {
			t.Fatal(err)
		}
	}
	d := attach(t, l, "--listen", ":7000=echo", "--reply", "fib")
	for i, from := range []string{"198.51.100.2", "2001:db8:51::2"} {
		to := families(l)[i].addr(7000)
		before := d.scrape()
		if c, err := dialFrom(l, netip.AddrPortFrom(netip.MustParseAddr(from), 0), to, time.Second); err == nil {
			c.Close()
			t.Errorf("from %s: connected", from)
		}
		if s := d.scrape(); s.packets("drop", "no_route") == before.packets("drop", "no_route") {
			t.Errorf("from %s: no packet counted as no_route", from)
		}
		if err := connects(l, to, patience); err != nil {
			t.Errorf("a client on the link: %v", err)
		}
	}
	if n := flows(t, l.Server); n != 2 {
		t.Errorf("%d flows in the table, want those of the 2 clients on the link", n)
	}
}

func TestLimitsOutOfRangeAreRefusedWithOneSentence(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	for _, c := range []struct {
		args  string
		code  int
		names []string
	}{
		{"--flows 10000001", 2, []string{"--flows 10000001", "10000000"}},
		{"--reply-limit -1", 2, []string{"--reply-limit -1"}},
		{"--open-limit 3000000000", 2, []string{"--open-limit 3000000000"}},
		{"--on-bad-ack ignore", 2, []string{`"ignore"`, "drop or reset"}},
		{"--allow=", 2, []string{"--allow", "name of a file"}},
		{"--deny=", 2, []string{"--deny", "name of a file"}},
		{"--reply best", 2, []string{`"best"`, "same or fib"}},
		{"--reply fib", 1, []string{"sysctl -w net.ipv4.conf.srv0.forwarding=1 net.ipv6.conf.srv0.forwarding=1"}},
		{"--listen 198.51.100.1/24:80=echo", 2, []string{"198.51.100.0/24 would be right"}},
		{"--listen 198.51.100.0/24:80=echo --listen :80=echo", 2, []string{"80", "twice"}},
	} {
		refused(t, l.Server.Command(product, append([]string{"attach", "srv0"}, strings.Fields(c.args)...)...), c.code, c.names...)
	}
	expectNothing(t, l)
}

// The memory is what the kernel says. XDPTCP_FLOWS asks for tables of another size: ten million take 2.6 GB.
func TestTheFlowTablesMemoryIsTold(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	capacity := "300000"
	if n := os.Getenv("XDPTCP_FLOWS"); n != "" {
		capacity = n
	}
	d := attach(t, l, "--listen", ":7000=echo", "--flows", capacity)
	for _, f := range families(l) {
		if err := connects(l, f.addr(7000), patience); err != nil {
			t.Error(err)
		}
	}
	_, line, _ := strings.Cut(d.stderr.String(), "memory of the flow tables")
	line, _, _ = strings.Cut(line, "\n")
	t.Log(line)
	if !regexp.MustCompile(`bytes=[1-9]\d{7,}`).MatchString(line) { // 300,000 flows of each kind take more than 10 MB
		t.Errorf("the log does not tell it:\n%s", d.stderr)
	}
	if r, _ := d.statusJSON(); strconv.Itoa(r.Interfaces[0].FlowCapacity) != capacity {
		t.Errorf("status says %d flows, want %s", r.Interfaces[0].FlowCapacity, capacity)
	}
}
