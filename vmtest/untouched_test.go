// SPDX-License-Identifier: Apache-2.0

package vmtest

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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// A passer is a frame that is not ours, for one reason or another.
type passer struct {
	name  string
	frame []byte
}

// ethernet is a frame of any protocol.
func ethernet(to, from net.HardwareAddr, proto uint16, payload []byte) []byte {
	b := slices.Concat(to, from)
	return append(binary.BigEndian.AppendUint16(b, proto), payload...)
}

// tagged puts VLAN tags into a frame: protocol and id, the outer one first.
func tagged(frame []byte, tags ...[2]uint16) []byte {
	b := slices.Clone(frame[:12])
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, t[0]), t[1])
	}
	return append(b, frame[12:]...)
}

// ipFrame is an IP packet of any protocol; fragment is the IPv4 header's word of flags and offset.
func ipFrame(to, from net.HardwareAddr, src, dst netip.Addr, proto byte, fragment uint16, payload []byte) []byte {
	if !src.Is4() {
		ip := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), proto, 255}
		return ethernet(to, from, 0x86dd, slices.Concat(ip, src.AsSlice(), dst.AsSlice(), payload))
	}
	ip := []byte{0x45, 0, 0, 0, 0x77, 0x77, byte(fragment >> 8), byte(fragment), 64, proto, 0, 0}
	ip = slices.Concat(ip, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
	return ethernet(to, from, 0x0800, append(ip, payload...))
}

// passers are all kinds of frames that xdptcp with a service on port 7000 of the host's own addresses has
// nothing to do with. Where it can be, the port is that of the service.
func passers(l *lab.Lab) (list []passer) {
	to, from := l.Server.MAC, l.Client.MAC
	add := func(name string, frame []byte) { list = append(list, passer{name, frame}) }
	for _, f := range families(l) {
		syn := raw{to: to, from: from, src: f.from(40000), dst: f.serverPort(7000), flags: flagSYN, seq: 7, options: synOptions}
		v4 := f.server.Is4()
		elsewhere := spoofed(v4, 77).Addr()
		udp := slices.Concat([]byte{0x9c, 0x40, 0x1b, 0x58, 0, 108, 0, 0}, payload(1, 100)) // to port 7000
		tcp := syn.frame()[len(syn.frame())-40:]

		r := syn
		r.to = net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 99}
		add(f.name+": for another MAC address", r.frame())
		r.to = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		add(f.name+": broadcast on the link", r.frame())
		r = syn
		r.dst = f.serverPort(7001)
		add(f.name+": for another port", r.frame())
		r.dst = f.serverPort(7000>>8 | 7000&0xff<<8)
		add(f.name+": for the port's bytes swapped", r.frame())
		r.dst, r.flags, r.payload = f.serverPort(22), flagPSH|flagACK, payload(2, 1000)
		add(f.name+": data of another service", r.frame())
		r = syn
		r.dst = netip.AddrPortFrom(elsewhere, 7000)
		add(f.name+": for another address", r.frame())
		add(f.name+": padded far behind its end", append(r.frame(), payload(3, 600)...))
		add(f.name+": UDP to the port", ipFrame(to, from, f.client, f.server, 17, 0, udp))
		add(f.name+": GRE", ipFrame(to, from, f.client, f.server, 47, 0, payload(4, 60)))
		r = syn
		r.dst = f.serverPort(7001)
		add(f.name+": in a VLAN", tagged(r.frame(), [2]uint16{0x8100, 42}))
		add(f.name+": in two VLANs", tagged(r.frame(), [2]uint16{0x88a8, 42}, [2]uint16{0x8100, 43 | 5<<13}))
		add(f.name+": for our port in three VLANs", tagged(syn.frame(), [2]uint16{0x88a8, 42}, [2]uint16{0x8100, 43}, [2]uint16{0x8100, 44}))
		if v4 {
			icmp := append([]byte{8, 0, 0, 0, 1, 2, 3, 4}, payload(5, 56)...)
			binary.BigEndian.PutUint16(icmp[2:], ^sum16(icmp))
			add("ICMP echo", ipFrame(to, from, f.client, f.server, 1, 0, icmp))
			quoted := syn // of no flow of ours
			quoted.src, quoted.dst = syn.dst, syn.src
			unreachable := append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, quoted.frame()[14:]...)
			binary.BigEndian.PutUint16(unreachable[2:], ^sum16(unreachable))
			add("ICMP error about no flow", ipFrame(to, from, f.client, f.server, 1, 0, unreachable))
			add("IPv4: first fragment", ipFrame(to, from, f.client, f.server, 6, 0x2000, tcp))
			add("IPv4: last fragment", ipFrame(to, from, f.client, f.server, 6, 0x00b9, tcp))
			bad := syn.frame()
			bad[24] ^= 0xff
			add("IPv4: wrong header checksum", bad)
			short := syn.frame()
			add("IPv4: cut short", short[:40])
			continue
		}
		ns := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, f.server.AsSlice()...)
		ns = slices.Concat(ns, []byte{1, 1}, from)
		binary.BigEndian.PutUint16(ns[2:], ^sum16(pseudoHeader(f.client, f.server, 58, len(ns)), ns))
		add("IPv6 neighbour solicitation", ipFrame(to, from, f.client, f.server, 58, 0, ns))
		echo := append([]byte{128, 0, 0, 0, 1, 2, 3, 4}, payload(6, 56)...)
		binary.BigEndian.PutUint16(echo[2:], ^sum16(pseudoHeader(f.client, f.server, 58, len(echo)), echo))
		add("ICMPv6 echo", ipFrame(to, from, f.client, f.server, 58, 0, echo))
		add("IPv6: fragment", ipFrame(to, from, f.client, f.server, 44, 0, append([]byte{6, 0, 0, 1, 0, 0, 0, 9}, tcp...)))
		add("IPv6: routing header with segments left", ipFrame(to, from, f.client, f.server, 43, 0, append([]byte{6, 0, 253, 1, 0, 0, 0, 0}, tcp...)))
	}
	arp := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, from, l.Client.Addr4.AsSlice(), make([]byte, 6), l.Server.Addr4.AsSlice())
	add("ARP", ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from, 0x0806, arp))
	add("LLDP", ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}, from, 0x88cc, payload(7, 80)))
	add("no protocol that anybody knows", ethernet(to, from, 0x88b5, payload(8, 1500)))
	add("802.3 with a length", ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, from, 38, payload(9, 46)))
	add("the shortest frame", ethernet(to, from, 0x88b5, nil))
	return list
}

// What is not ours reaches the kernel as it was sent.
func TestWhatIsNotOursReachesTheKernelBitForBit(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			d := attach(t, l, "--mode", mode, "--listen", ":7000=echo", "--listen", "198.51.100.0/24:7001=echo")
			tap, err := l.Server.Capture(lab.CaptureOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer tap.Close()
			raws := newSender(t, l.Client)
			list := passers(l)
			for _, p := range list {
				if err := raws.send(p.frame); err != nil {
					t.Fatalf("%s: %v", p.name, err)
				}
				if !arrives(tap, p.frame) {
					t.Fatalf("%s: it did not reach the kernel as it was sent", p.name)
				}
			}
			s := d.scrape()
			if n := s.packets("drop", "bad_cookie") + s.packets("tx", "synack") + s.packets("drop", "no_flow"); n != 0 {
				t.Errorf("%v of them were taken for ours", n)
			}
			// One that is ours, to see that the tap would have missed it.
			f := families(l)[0]
			ours := raw{to: l.Server.MAC, from: l.Client.MAC, src: f.from(40001), dst: f.serverPort(7000), flags: flagSYN, options: synOptions}.frame()
			if err := raws.send(ours); err != nil {
				t.Fatal(err)
			}
			d.eventually("the SYN/ACK", func(s samples) bool { return s.packets("tx", "synack") == 1 })
			if err := raws.send(list[0].frame); err != nil {
				t.Fatal(err)
			}
			for p := range tap.Packets() {
				if bytes.Equal(p.Data, ours) {
					t.Fatal("a SYN of ours reached the kernel")
				}
				if bytes.Equal(p.Data, list[0].frame) {
					break
				}
			}
		})
	}
}

// arrives waits until the tap has seen a frame come in, bit for bit.
func arrives(tap *lab.Capture, frame []byte) bool {
	timeout := time.After(2 * time.Second)
	for {
		select {
		case p := <-tap.Packets():
			if !p.Outgoing && bytes.Equal(p.Data, frame) {
				return true
			}
		case <-timeout:
			return false
		}
	}
}

// secondLink joins the server's host to the client's by another pair of veths, srv1 and cli1, with
// 203.0.113.1, .2 and 2001:db8:2::1, ::2. It returns the index of cli1.
func secondLink(t *testing.T, l *lab.Lab) (cli1 int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	macs := map[string]net.HardwareAddr{"srv1": {2, 0, 0x5e, 0, 0x53, 0x11}, "cli1": {2, 0, 0x5e, 0, 0x53, 0x12}}
	must(l.Server.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "srv1", macs["srv1"]
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = "cli1", macs["cli1"], netlink.NsFd(l.Client.NS())
		return netlink.LinkAdd(veth)
	}))
	for _, end := range []struct {
		h          *lab.Host
		name, peer string
		me, other  int
	}{{l.Server, "srv1", "cli1", 1, 2}, {l.Client, "cli1", "srv1", 2, 1}} {
		must(end.h.Do(func() error {
			for _, a := range []string{fmt.Sprintf("203.0.113.%d/24", end.me), fmt.Sprintf("2001:db8:2::%d/64", end.me)} {
				if err := changeAddress(end.name, a, netlink.AddrAdd); err != nil {
					return err
				}
			}
			dev, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			if end.name == "cli1" {
				cli1 = dev.Attrs().Index
			}
			if err := netlink.LinkSetUp(dev); err != nil {
				return err
			}
			for _, a := range []string{fmt.Sprintf("203.0.113.%d", end.other), fmt.Sprintf("2001:db8:2::%d", end.other)} {
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: macs[end.peer]}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return cli1
}

// A packetTap sees what arrives at an interface.
type packetTap struct{ *os.File }

func newPacketTap(t *testing.T, h *lab.Host, ifindex int) packetTap {
	t.Helper()
	var tap packetTap
	if err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		tap.File = os.NewFile(uintptr(fd), "tap")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: ifindex}) // ETH_P_ALL
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

// collect returns the frames to a MAC address that arrive until one is the last.
func (p packetTap) collect(t *testing.T, to net.HardwareAddr, last func([]byte) bool) (list [][]byte) {
	t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience)) // it is open: this can't fail
	for {
		b := make([]byte, 4096)
		n, err := p.Read(b)
		if err != nil {
			t.Fatalf("after %d frames: %v", len(list), err)
		}
		if b = b[:n]; !bytes.Equal(b[:6], to) || b[12] != 0x08 && b[12] != 0x86 {
			continue
		}
		list = append(list, b)
		if last(b) {
			return list
		}
	}
}

// What a forwarding host forwards, it forwards the same with xdptcp and without, whatever its ports.
func TestTransitThroughAForwardingHostIsTheSameAsWithoutXdptcp(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			cli1 := secondLink(t, l)
			for _, s := range []string{"net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding"} {
				if err := l.Server.SetSysctl(s, "1"); err != nil {
					t.Fatal(err)
				}
			}
			// Forwarding drops a frame that says it needs no checksum and has none: these are finished.
			far := newPacketTap(t, l.Client, cli1)
			raws := newSender(t, l.Client)
			send := func() [][]byte {
				t.Helper()
				var marker []byte
				for _, dst := range []string{"203.0.113.99", "2001:db8:2::99"} {
					addr := netip.MustParseAddr(dst)
					f := families(l)[0]
					if addr.Is6() {
						f = families(l)[1]
					}
					if err := l.Server.Do(func() error {
						dev, err := netlink.LinkByName("srv1")
						if err != nil {
							return err
						}
						return netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(),
							HardwareAddr: net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 0x12}})
					}); err != nil {
						t.Fatal(err)
					}
					for i, flags := range []byte{flagSYN, flagACK, flagACK | flagPSH, flagRST, flagFIN | flagACK, flagSYN | flagACK} {
						r := raw{to: l.Server.MAC, from: l.Client.MAC, src: f.from(40000), dst: netip.AddrPortFrom(addr, 7000),
							seq: uint32(i), ack: 99, flags: flags, payload: payload(uint64(i), i*200)}
						if flags == flagSYN {
							r.options = synOptions
						}
						if err := raws.send(r.frame()); err != nil {
							t.Fatal(err)
						}
					}
					udp := ipFrame(l.Server.MAC, l.Client.MAC, f.client, addr, 17, 0, slices.Concat([]byte{0x9c, 0x40, 0x1b, 0x58, 0, 108, 0xab, 0xcd}, payload(1, 100)))
					if err := raws.send(udp); err != nil {
						t.Fatal(err)
					}
					marker = udp[len(udp)-100:]
					if addr.Is4() {
						marker = nil
					}
				}
				return far.collect(t, net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 0x12}, func(b []byte) bool {
					return marker != nil && b[12] == 0x86 && bytes.HasSuffix(b, marker)
				})
			}
			without := send()
			d := attach(t, l, "--mode", mode, "--listen", ":7000=echo")
			with := send()
			if len(without) != 14 {
				t.Fatalf("%d frames were forwarded without xdptcp, want 14", len(without))
			}
			if !slices.EqualFunc(with, without, bytes.Equal) {
				t.Errorf("with xdptcp %d frames arrived:\n%x\nwithout %d:\n%x", len(with), with, len(without), without)
			}
			if s := d.scrape(); s.packets("pass", "not_local") < 12 {
				t.Errorf("%v packets passed as not local, want 12: the test shows nothing", s.packets("pass", "not_local"))
			}
		})
	}
}
