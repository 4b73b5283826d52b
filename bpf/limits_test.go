// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// loadWith loads the program with constants other than usual.
func loadWith(t *testing.T, constants map[string]any) *program {
	t.Helper()
	return load(t, options{spec: func(spec *ebpf.CollectionSpec) {
		for name, value := range constants {
			must(t, spec.Variables[name].Set(value))
		}
	}})
}

// inOneWindow runs f on one CPU, at a moment when the window of time that XDP counts in has just begun; f
// must take less than 100 ms.
func inOneWindow(t *testing.T, f func()) {
	t.Helper()
	defer pin(t)()
	for range 20 {
		for start := ticks(); ticks()>>windowShift == start>>windowShift; {
			time.Sleep(time.Millisecond)
		}
		epoch := ticks() >> windowShift
		f()
		if ticks()>>windowShift == epoch {
			return
		}
		t.Log("the machine was too slow for one window: once more")
	}
	t.Fatal("never done within one window")
}

const windowShift = 7 // limits.h

// sentBy makes the segment another client's.
func (s segment) sentBy(a netip.Addr) segment {
	s.src = netip.AddrPortFrom(a, s.src.Port())
	return s
}

// forged is an ACK that names a key in use, and proves nothing.
func (f family) forged() segment {
	s := f.segment(ack, nil)
	s.ack = 0x12345678 + 1 // generation 0
	return s
}

// prefixCell is the cell that counts replies to an address: the twin of replied_enough.
func prefixCell(a netip.Addr) uint32 {
	b := a.AsSlice()
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(b[i:]) }
	if a.Is4() {
		b[3] = 0
		return word(0) * 0x9e3779b1 >> 20
	}
	b[6], b[7] = 0, 0
	return (word(0) ^ word(4)) * 0x9e3779b1 >> 20
}

func TestRepliesToOnePrefixAreCappedInAWindow(t *testing.T) {
	p := loadWith(t, map[string]any{"cfg_reply_cap": uint32(5)})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := p.with(t)
			// Neighbours share /24 or /48; another prefix must not share the cell.
			near := f.client.Addr().Next().Next()
			far := netip.MustParseAddr("203.0.113.1")
			if f.client.Addr().Is6() {
				b := f.client.Addr().As16()
				b[6], b[15] = 0xff, 0x99 // the same /48
				near = netip.AddrFrom16(b)
				far = netip.MustParseAddr("2001:db8:77::1")
			}
			if prefixCell(near) != prefixCell(f.client.Addr()) || prefixCell(far) == prefixCell(near) {
				t.Fatal("the addresses are badly chosen")
			}
			for range 2 { // the second time in another window, which starts anew
				var got []Reason
				inOneWindow(t, func() {
					got = nil
					for i := range 8 {
						s := f.syn(linuxOptions(1460, 7))
						if i%2 == 1 {
							s = s.sentBy(near)
						}
						got = append(got, p.run(s.frame()).reason)
					}
					for range 5 {
						got = append(got, p.run(f.syn(nil).sentBy(far).frame()).reason)
					}
				})
				want := slices.Concat(slices.Repeat([]Reason{TxSynAck}, 5), slices.Repeat([]Reason{DropReplyCap}, 3), slices.Repeat([]Reason{TxSynAck}, 5))
				if !slices.Equal(got, want) {
					t.Errorf("reasons %v, want 5 replies, 3 refusals, 5 replies to another prefix", names(got))
				}
			}
		})
	}
}

func names(list []Reason) (words []string) {
	for _, r := range list {
		words = append(words, reasonNames[r])
	}
	return words
}

func TestResetsAreCappedLikeSYNACKs(t *testing.T) {
	p := loadWith(t, map[string]any{"cfg_reply_cap": uint32(3), "cfg_reset": true})
	f := families[0]
	var got []Reason
	inOneWindow(t, func() {
		got = []Reason{p.run(f.syn(nil).frame()).reason}
		for range 4 {
			got = append(got, p.run(f.forged().frame()).reason)
		}
		got = append(got, p.run(f.syn(nil).frame()).reason)
	})
	if want := []Reason{TxSynAck, TxReset, TxReset, DropReplyCap, DropReplyCap, DropReplyCap}; !slices.Equal(got, want) {
		t.Errorf("reasons %v, want %v", names(got), names(want))
	}
}

func TestOpenedFlowsAreCappedInAWindow(t *testing.T) {
	p := loadWith(t, map[string]any{"cfg_open_cap": uint32(4)})
	port := uint16(20000)
	for range 2 { // the second time in another window
		var got []Reason
		var last segment
		inOneWindow(t, func() {
			got = nil
			for i := range 7 { // both families count together
				port++
				last, _ = p.finalAck(t, families[i%2], linuxOptions(1460, 7), port)
				got = append(got, p.run(last.frame()).reason)
			}
			// Forged ACKs use nothing up, and flows that are open don't either.
			p.run(families[0].forged().frame())
		})
		want := slices.Concat(slices.Repeat([]Reason{RedirectOpened}, 4), slices.Repeat([]Reason{DropRateLimited}, 3))
		if !slices.Equal(got, want) {
			t.Errorf("reasons %v, want %v", names(got), names(want))
		}
		if _, found := p.flow(last); found {
			t.Error("a flow was recorded for an ACK that was dropped")
		}
		// Who was refused is let in when he tries again.
		inOneWindow(t, func() {})
		if r := p.run(last.frame()); r.reason != RedirectOpened {
			t.Errorf("in the next window: %s", reasonNames[r.reason])
		}
	}
}

func TestTheLongestListedPrefixDecides(t *testing.T) {
	for _, allowOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("allow only %t", allowOnly), func(t *testing.T) {
			p := loadWith(t, map[string]any{"cfg_lists": true, "cfg_allow_only": allowOnly, "cfg_reset": true})
			for prefix, says := range map[string]uint32{
				"10.0.0.0/8": ListDeny, "10.1.0.0/16": ListAllow, "10.1.2.0/24": ListDeny, "10.1.2.3/32": ListAllow,
				"2001:db8::/32": ListDeny, "2001:db8:1::/48": ListAllow, "2001:db8:1::5/128": ListDeny,
			} {
				p.list(netip.MustParsePrefix(prefix), says)
			}
			for _, c := range []struct {
				client string
				may    bool
			}{
				{"10.0.0.1", false}, {"10.1.0.1", true}, {"10.1.2.1", false}, {"10.1.2.3", true}, {"10.1.2.2", false},
				{"11.0.0.1", !allowOnly}, {"9.255.255.255", !allowOnly},
				{"2001:db8:2::1", false}, {"2001:db8:1::2", true}, {"2001:db8:1::5", false}, {"2001:db9::1", !allowOnly},
			} {
				a := netip.MustParseAddr(c.client)
				f := families[0]
				if a.Is6() {
					f = families[1]
				}
				want, wantAck := DropDenied, DropDenied
				if c.may {
					want, wantAck = TxSynAck, RedirectOpened
				}
				syn := f.syn(linuxOptions(1460, 7)).sentBy(a)
				if r := p.run(syn.frame()); r.reason != want {
					t.Errorf("%s: SYN: %s, want %s", c.client, reasonNames[r.reason], reasonNames[want])
				}
				// Who was denied after his SYN gets no further; the twin makes his cookie.
				final := f.segment(ack, nil).sentBy(a)
				iss, _, _ := MakeCookie(testKeys(), Offer{MSS: 1460, WScale: -1, Remote: final.src, Local: final.dst}, final.seq-1, ticks())
				final.ack = iss + 1
				if r := p.run(final.frame()); r.reason != wantAck {
					t.Errorf("%s: final ACK: %s, want %s", c.client, reasonNames[r.reason], reasonNames[wantAck])
				}
			}
			// No RST tells those who are denied that somebody is here.
			if r := p.run(families[0].forged().sentBy(netip.MustParseAddr("10.0.0.1")).frame()); r.reason != DropBadCookie {
				t.Errorf("a bad ACK of somebody denied: %s, want silence", reasonNames[r.reason])
			}
		})
	}
}

// A RST has the shape of RFC 9293, 3.10.7.1, and is never larger than what it answers.
func TestABadACKIsAnsweredWithAReset(t *testing.T) {
	p := loadWith(t, map[string]any{"cfg_reset": true})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := p.with(t)
			timestamps := slices.Concat(nop, nop, optTS(7, 8))
			for _, c := range []struct {
				name string
				in   segment
			}{
				{"bare", f.segment(ack, nil)},
				{"with timestamps", f.segment(ack, timestamps)},
				{"with data", func() segment { s := f.segment(ack|psh, nil); s.payload = make([]byte, 900); return s }()},
				{"with FIN", f.segment(ack|fin, nil)},
			} {
				c.in.ack = 0x89abcdee
				frame := c.in.frame()
				r := p.expect(frame, TxReset)
				out, err := decode(r.frame)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				switch {
				case len(r.frame) > len(frame):
					t.Errorf("%s: %d bytes answer %d", c.name, len(r.frame), len(frame))
				case out.seq != 0x89abcdee || out.ack != 0 || out.flags != rst || out.window != 0 || out.urgent != 0:
					t.Errorf("%s: seq %#x ack %#x flags %#x window %d urgent %d, want <SEQ=SEG.ACK><CTL=RST>", c.name, out.seq, out.ack, out.flags, out.window, out.urgent)
				case len(out.options) != 0 || len(out.payload) != 0:
					t.Errorf("%s: options %x, payload %x", c.name, out.options, out.payload)
				case out.src != c.in.dst || out.dst != c.in.src || out.to != clientMAC || out.from != serverMAC:
					t.Errorf("%s: it goes from %v %x to %v %x", c.name, out.src, out.from, out.dst, out.to)
				}
			}
			// Other keys, or a cookie whose generation has no key.
			a, _ := p.finalAck(t, f, linuxOptions(1460, 7), 41000)
			a.options = slices.Concat(nop, nop, optTS(clientTSVal, 12345))
			p.expect(a.frame(), TxReset) // a timestamp that we did not choose
			a, _ = p.finalAck(t, f, nil, 41001)
			keys := testKeys()
			keys.Valid = 0b1000
			p.setKeys(keys)
			p.expect(a.frame(), TxReset)
			p.setKeys(testKeys())

			for _, flags := range []byte{rst, rst | ack, syn | ack, fin} { // FIN alone is no segment at all
				if r := p.run(f.segment(flags, nil).frame()); r.verdict != xdpDrop {
					t.Errorf("flags %#x are answered: %s", flags, reasonNames[r.reason])
				}
			}
			bad := []string{"127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", f.server.Addr().String()}
			if f.server.Addr().Is6() {
				bad = []string{"::1", "ff02::1", "::", "::ffff:192.0.2.1", f.server.Addr().String()}
			}
			for _, source := range bad {
				p.expect(f.forged().sentBy(netip.MustParseAddr(source)).frame(), DropBadCookie)
			}
		})
	}
	p = load(t, options{})
	p.expect(families[0].forged().frame(), DropBadCookie) // without cfg_reset
}

// network is a namespace with two veth pairs whose ends a0 and b0 have addresses, forward, and know their
// neighbours: the families' servers are there, the clients are behind the gateway of the interface route.
func network(t *testing.T, route string, do func(a0, b0 int) error) {
	t.Helper()
	inNewNetns(t, func() error {
		index := map[string]int{}
		for _, name := range []string{"a", "b"} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name + "0"
			veth := netlink.NewVeth(attrs)
			veth.PeerName = name + "1"
			if err := netlink.LinkAdd(veth); err != nil {
				return fmt.Errorf("veth: %w", err)
			}
			for _, end := range []string{"0", "1"} {
				dev, err := netlink.LinkByName(name + end)
				if err != nil {
					return err
				}
				if err := netlink.LinkSetUp(dev); err != nil {
					return err
				}
				index[name+end] = dev.Attrs().Index
			}
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			for _, name := range []string{"a0", "b0"} {
				if err := os.WriteFile("/proc/sys/net/"+family+"/conf/"+name+"/forwarding", []byte("1"), 0o644); err != nil {
					return err
				}
			}
		}
		for _, c := range []struct{ dev, addr, gw, to string }{
			{"a0", "10.1.0.1/24", "10.1.0.2", "192.0.2.0/24"}, {"a0", "2001:db8:a::1/64", "2001:db8:a::2", "2001:db8::/64"},
			{"b0", "10.2.0.1/24", "10.2.0.2", "192.0.2.0/24"}, {"b0", "2001:db8:b::1/64", "2001:db8:b::2", "2001:db8::/64"},
		} {
			dev, err := netlink.LinkByName(c.dev)
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr(c.addr)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = 0x02 // IFA_F_NODAD
			}
			if err := netlink.AddrAdd(dev, addr); err != nil {
				return fmt.Errorf("%s: %w", c.addr, err)
			}
			if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(c.gw), HardwareAddr: routerMAC(c.dev)}); err != nil {
				return err
			}
			if c.dev != route {
				continue
			}
			_, dst, err := net.ParseCIDR(c.to)
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Gw: net.ParseIP(c.gw), Dst: dst}); err != nil {
				return fmt.Errorf("route by %s: %w", c.gw, err)
			}
		}
		// The test run needs an interface whose driver has XDP queues: one with a program.
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
		})
		if err != nil {
			return err
		}
		defer pass.Close()
		l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: index["a0"], Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		defer l.Close()
		return do(index["a0"], index["b0"])
	})
}

// routerMAC is the next hop's on an interface.
func routerMAC(dev string) net.HardwareAddr { return net.HardwareAddr{2, 0xcc, 0, 0, 0, dev[0]} }

func TestRepliesByTheRoutingTableGoToItsNextHop(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := loadWith(t, map[string]any{"cfg_reply_fib": true})
			network(t, "a0", func(a0, _ int) error {
				md := xdpMD{IngressIfindex: uint32(a0)}
				run := func(s segment, want Reason) []byte {
					t.Helper()
					before := p.counters()
					r := p.runUncounted(s.frame(), md)
					if p.counters()[want] != before[want]+1 {
						t.Fatalf("%s, want %s", verdictNames[r.verdict], reasonNames[want])
					}
					return r.frame
				}
				gateway := routerMAC("a0")
				out, err := decode(run(f.syn(linuxOptions(1460, 7)), TxSynAck))
				if err != nil {
					return err
				}
				if !bytes.Equal(out.to[:], gateway) {
					t.Errorf("the SYN/ACK goes to %x, want the route's next hop %x", out.to, gateway)
				}
				if out.from == serverMAC || out.from == clientMAC {
					t.Errorf("the SYN/ACK comes from %x, want the interface's address", out.from)
				}
				// The engine answers to where a frame came from: frames with a record come from the next hop.
				final := answer(out, f.syn(nil).seq+1)
				final.to, final.from = serverMAC, clientMAC
				for _, c := range []struct {
					name string
					s    segment
					want Reason
					turn bool
				}{
					{"the final ACK", final, RedirectOpened, true},
					{"its duplicate", final, RedirectSegment, true},
					{"a SYN on the flow", f.syn(nil), RedirectSyn, true},
					{"a later segment", func() segment { s := final; s.ack += 100; return s }(), RedirectSegment, false},
				} {
					in := c.s.frame()
					want := slices.Clone(in)
					if c.turn {
						copy(want[6:], gateway)
					}
					if got := run(c.s, c.want); !bytes.Equal(got, want) {
						t.Errorf("%s came to the engine as\n%x, want\n%x", c.name, got, want)
					}
				}
				return nil
			})
		})
	}
}

func TestRepliesByTheRoutingTableMayLeaveThroughAnotherInterface(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			engine := loadWith(t, map[string]any{"cfg_reply_fib": true})
			kernel := loadWith(t, map[string]any{"cfg_reply_fib": true, "cfg_kernel": ^uint64(0)})
			same := loadWith(t, nil)
			final, _ := same.finalAck(t, f, nil, f.client.Port())
			for _, c := range []struct {
				name, route string
				p           *program
				s           segment
				want        Reason
			}{
				{"a kernel service's SYN/ACK", "b0", kernel, f.syn(nil), RedirectSynAck},
				{"an engine service's", "b0", engine, f.syn(nil), DropNoRoute},
				{"an engine service's final ACK", "b0", engine, final, DropNoRoute},
				{"no route at all", "", engine, f.syn(nil), DropNoRoute},
				{"no route at all, for the kernel", "", kernel, f.syn(nil), DropNoRoute},
			} {
				network(t, c.route, func(a0, _ int) error {
					before := c.p.counters()
					r := c.p.runUncounted(c.s.frame(), xdpMD{IngressIfindex: uint32(a0)})
					if c.p.counters()[c.want] != before[c.want]+1 {
						t.Errorf("%s: %s, want %s", c.name, verdictNames[r.verdict], reasonNames[c.want])
					}
					if c.want != RedirectSynAck {
						return nil
					}
					out, err := decode(r.frame)
					if err != nil {
						return err
					}
					if !bytes.Equal(out.to[:], routerMAC("b0")) {
						t.Errorf("%s goes to %x, want the route's next hop %x", c.name, out.to, routerMAC("b0"))
					}
					return nil
				})
			}
			if _, found := engine.flow(final); found {
				t.Error("a flow was recorded whose answers have no way")
			}
		})
	}
}
