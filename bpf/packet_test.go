// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

func TestSynAck(t *testing.T) {
	p := load(t, options{})
	for _, c := range []struct {
		name    string
		options []byte
		edit    func(family, *segment)
		raw     func(family, []byte) []byte
		want    string // the reply's options; MSS is "mss"
	}{
		{name: "Linux and Android get everything", options: linuxOptions(1460, 7), want: "mss sack ts nop ws=7"},
		{name: "Windows keeps window scale and SACK without timestamps", options: windowsOptions(1460, 8), want: "mss nop nop sack nop ws=7"},
		{name: "macOS and iOS get everything", options: macOptions(1460, 6), want: "mss sack ts nop ws=7"},
		{name: "a bare SYN learns our MSS", want: "mss"},
		{name: "MSS alone is answered by MSS alone", options: optMSS(1460), want: "mss"},
		{name: "timestamps without SACK", options: slices.Concat(optMSS(1460), nop, nop, optTS(clientTSVal, 0)), want: "mss nop nop ts"},
		{name: "timestamps and window scale without SACK", options: slices.Concat(optTS(clientTSVal, 0), nop, nop, optWS(2), nop, optMSS(1400)), want: "mss nop nop ts nop ws=7"},
		{name: "SACK alone", options: slices.Concat(optMSS(1460), nop, nop, optSACK), want: "mss nop nop sack"},
		{name: "timestamps without MSS", options: slices.Concat(optTS(clientTSVal, 0), optSACK), want: "mss sack ts"},
		{name: "the TSecr of a SYN means nothing", options: slices.Concat(optMSS(1460), optSACK, optTS(clientTSVal, 99), nop, optWS(7)), want: "mss sack ts nop ws=7"},
		{name: "MPTCP is not echoed", options: slices.Concat(linuxOptions(1460, 7), []byte{30, 12, 0, 0x81, 1, 2, 3, 4, 5, 6, 7, 8}), want: "mss sack ts nop ws=7"},
		{name: "SMC is not echoed", options: slices.Concat(linuxOptions(1460, 7), []byte{254, 6, 0xe2, 0xd4, 0xc3, 0xd9}, nop, nop), want: "mss sack ts nop ws=7"},
		{name: "a fast open cookie is not echoed", options: slices.Concat([]byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8}, nop, nop, linuxOptions(1460, 7)), want: "mss sack ts nop ws=7"},
		{name: "MD5 is not echoed", options: slices.Concat([]byte{19, 18}, make([]byte, 16), optMSS(1460)), want: "mss"},
		{name: "forty bytes of NOPs", options: bytes.Repeat(nop, 40), want: "mss"},
		{name: "options end at END", options: slices.Concat(optMSS(1460), end, optSACK, nop, optTS(clientTSVal, 0)), want: "mss"},
		{name: "a length of zero ends the options", options: slices.Concat(optMSS(1460), nop, nop, optSACK, []byte{3, 0, 7, 1}, optTS(clientTSVal, 0)), want: "mss nop nop sack"},
		{name: "a length of one ends the options", options: slices.Concat(optMSS(1460), []byte{5, 1}, optSACK), want: "mss"},
		{name: "a length beyond the header ends the options", options: slices.Concat(optMSS(1460), optSACK, []byte{8, 10, 1, 2, 3, 4}), want: "mss nop nop sack"},
		{name: "a length just beyond the header ends the options", options: slices.Concat(optMSS(1460), nop, nop, nop, optTS(clientTSVal, 0)[:9]), want: "mss"},
		{name: "a kind without length at the end", options: slices.Concat(optMSS(1460), nop, nop, nop, []byte{3}), want: "mss"},
		{name: "known kinds of the wrong length count as unknown", options: slices.Concat([]byte{2, 3, 9}, []byte{3, 4, 7, 7}, []byte{4, 3, 1}, []byte{8, 9, 1, 2, 3, 4, 5, 6, 7}, nop), want: "mss"},
		{name: "almost the Linux layout: 11 instead of 10 for the timestamps' length", options: slices.Concat(optMSS(1460), optSACK, []byte{8, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9}, optWS(7)), want: "mss nop nop sack nop ws=7"},
		{name: "window scale 15 is no reason to refuse", options: linuxOptions(1460, 15), want: "mss sack ts nop ws=7"},
		{name: "window scale 0 with timestamps is an offer", options: linuxOptions(1460, 0), want: "mss sack ts nop ws=7"},
		{name: "window scale 0 without timestamps is declined", options: windowsOptions(1460, 0), want: "mss nop nop sack"},
		{name: "window scale 1 without timestamps is declined", options: windowsOptions(1460, 1), want: "mss nop nop sack"},
		{name: "window scale 2 without timestamps is granted", options: windowsOptions(1460, 2), want: "mss nop nop sack nop ws=7"},
		{name: "data in a SYN is not acknowledged", options: linuxOptions(1460, 7), edit: func(_ family, s *segment) { s.payload = make([]byte, 100) }, want: "mss sack ts nop ws=7"},
		{name: "data in a SYN is not read as options", edit: func(_ family, s *segment) { s.payload = linuxOptions(1460, 7) }, want: "mss"},
		{name: "an ECN-setup SYN gets no ECN", options: linuxOptions(1460, 7), edit: func(_ family, s *segment) { s.flags |= ece | cwr }, want: "mss sack ts nop ws=7"},
		{name: "PSH and URG on a SYN are ignored", options: linuxOptions(1460, 7), edit: func(_ family, s *segment) { s.flags |= psh | urg }, want: "mss sack ts nop ws=7"},
		{name: "the acknowledgment field of a SYN means nothing", options: linuxOptions(1460, 7), edit: func(_ family, s *segment) { s.ack = 0xdeadbeef }, want: "mss sack ts nop ws=7"},
		{name: "the client's ISN may be the last number", options: linuxOptions(1460, 7), edit: func(_ family, s *segment) { s.seq = 0xffffffff }, want: "mss sack ts nop ws=7"},
		{name: "another service on another address", options: linuxOptions(1460, 7), edit: func(f family, s *segment) { s.dst = f.other }, want: "mss sack ts nop ws=7"},
		{name: "a trailer is cut off", options: linuxOptions(1460, 7), raw: func(_ family, b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6, 7) }, want: "mss sack ts nop ws=7"},
		{name: "a padded frame stays padded to 60 bytes", raw: padTo60, want: "mss"},
		{name: "a partial checksum is taken, since the peer may be local", options: linuxOptions(1460, 7), raw: partialChecksum, want: "mss sack ts nop ws=7"},
		{name: "a partial checksum with data", options: linuxOptions(1460, 7), edit: func(_ family, s *segment) { s.payload = []byte("odd") }, raw: partialChecksum, want: "mss sack ts nop ws=7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					s := f.syn(c.options)
					if c.edit != nil {
						c.edit(f, &s)
					}
					in := s.frame()
					if c.raw != nil {
						in = c.raw(f, in)
					}
					r := p.with(t).expect(in, TxSynAck)
					checkSynAck(t, f, s, r, c.want)
					// As long as it must be, and padded only where Ethernet would do it.
					if want := max(ethLen+f.ipLen+tcpLen+optionsLen(c.want), min(len(in), 60)); len(r.frame) != want {
						t.Errorf("the SYN has %d bytes, the reply %d, want %d", len(in), len(r.frame), want)
					}
				})
			}
		})
	}
}

// optionsLen is how long the options are that readOptions puts in these words.
func optionsLen(text string) (n int) {
	for word := range strings.FieldsSeq(text) {
		name, _, _ := strings.Cut(word, "=")
		n += map[string]int{"nop": 1, "mss": 4, "ws": 3, "sack": 2, "ts": 10}[name]
	}
	return n
}

// checkSynAck judges a reply in all that does not depend on the cookie.
func checkSynAck(t *testing.T, f family, s segment, r result, want string) packet {
	t.Helper()
	p, err := decode(r.frame)
	if err != nil {
		t.Fatalf("the reply is malformed: %v\n%x", err, r.frame)
	}
	if len(r.meta) != 0 {
		t.Errorf("the reply has metadata in front: %x", r.meta)
	}
	if p.to != s.from || p.from != s.to {
		t.Errorf("MAC addresses: from %x to %x", p.from, p.to)
	}
	if p.src != s.dst || p.dst != s.src {
		t.Errorf("from %v to %v, want from %v to %v", p.src, p.dst, s.dst, s.src)
	}
	fragment := uint16(0x4000) // don't fragment
	if f.name == "IPv6" {
		fragment = 0
	}
	if p.ttl != 64 || p.tos != 0 || p.id != 0 || p.label != 0 || p.fragment != fragment {
		t.Errorf("IP header: ttl %d tos %d id %d flow label %d fragment field %#x", p.ttl, p.tos, p.id, p.label, p.fragment)
	}
	if p.ack != s.seq+1 {
		t.Errorf("acknowledges %#x, want %#x", p.ack, s.seq+1)
	}
	if p.flags != syn|ack {
		t.Errorf("flags %#x, want SYN and ACK alone", p.flags)
	}
	if p.window != 65535 || p.urgent != 0 {
		t.Errorf("window %d, urgent pointer %d", p.window, p.urgent)
	}
	if len(p.payload) != 0 {
		t.Errorf("carries %d bytes of data", len(p.payload))
	}
	want = fmt.Sprintf("mss=%d", f.ourMSS) + want[len("mss"):]
	if p.text != want {
		t.Errorf("options %q, want %q", p.text, want)
	}
	if bytes.Contains([]byte(want), []byte("ts")) && p.tsecr != clientTSVal {
		t.Errorf("TSecr %#x is not the SYN's TSval", p.tsecr)
	}
	return p
}

func padTo60(_ family, b []byte) []byte {
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

// partialChecksum is what a peer on this host sends: the sum of the pseudo-header, not complemented.
func partialChecksum(f family, b []byte) []byte {
	tcp := len(b) - ethLen - f.ipLen
	sum := sum16(pseudoHeader(f.client.Addr(), f.server.Addr(), tcp))
	binary.BigEndian.PutUint16(b[ethLen+f.ipLen+16:], sum)
	return b
}

// A change is made to a frame that is built already.
type change = func(f family, b []byte) []byte

// setByte writes at an offset from the start of the frame; setIP and setTCP from these headers.
func setByte(at int, v byte) change {
	return func(_ family, b []byte) []byte { b[at] = v; return b }
}

func setIP(at int, v ...byte) change {
	return func(f family, b []byte) []byte {
		copy(b[ethLen+at:], v)
		if f.ipLen == 20 {
			setIP4Checksum(b[ethLen:])
		}
		return b
	}
}

func flipTCP(at int) change {
	return func(f family, b []byte) []byte { b[ethLen+f.ipLen+at] ^= 0x10; return b }
}

// setDataOffset keeps the checksum right.
func setDataOffset(words byte) change {
	return func(f family, b []byte) []byte {
		tcp := b[ethLen+f.ipLen:]
		tcp[12] = words << 4
		tcp[16], tcp[17] = 0, 0
		sum := sum16(pseudoHeader(f.client.Addr(), f.server.Addr(), len(tcp)), tcp)
		binary.BigEndian.PutUint16(tcp[16:], ^sum)
		return b
	}
}

func TestRefusals(t *testing.T) {
	p := load(t, options{})
	from := func(v4, v6 string) func(family, *segment) {
		return func(f family, s *segment) {
			a := v4
			if f.ipLen == 40 {
				a = v6
			}
			s.src = netip.AddrPortFrom(netip.MustParseAddr(a), s.src.Port())
		}
	}
	flags := func(flags byte) func(family, *segment) {
		return func(_ family, s *segment) { s.flags = flags }
	}
	// Whether an ACK that is nobody's names a valid key is chance; these do.
	stray := func(flags byte) func(family, *segment) {
		return func(_ family, s *segment) { s.flags, s.ack = flags, 0x12345679+1 }
	}
	for _, c := range []struct {
		name   string
		only   string // one family
		edit   func(family, *segment)
		raw    change
		reason Reason
	}{
		{name: "a port of no service", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr(), 80) }, reason: PassNoService},
		{name: "the port's bytes swapped", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr(), 443>>8|443&0xff<<8) }, reason: PassNoService},
		{name: "an address that is not ours", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr().Next().Next(), 443) }, reason: PassNotLocal},
		{name: "our address, where another service listens", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr(), 8443) }, reason: PassNotLocal},
		{name: "a broadcast frame", edit: func(_ family, s *segment) { s.to = [6]byte{255, 255, 255, 255, 255, 255} }, reason: PassOtherHost},
		{name: "a MAC address that differs in its first byte", raw: setByte(0, 0), reason: PassOtherHost},
		{name: "a MAC address that differs in its second byte", raw: setByte(1, 0), reason: PassOtherHost},
		{name: "a MAC address that differs in its third byte", raw: setByte(2, 0), reason: PassOtherHost},
		{name: "a MAC address that differs in its fourth byte", raw: setByte(3, 0), reason: PassOtherHost},
		{name: "a MAC address that differs in its fifth byte", raw: setByte(4, 0), reason: PassOtherHost},
		{name: "a MAC address that differs in its last byte", raw: setByte(5, 0), reason: PassOtherHost},

		{name: "UDP", only: "IPv4", raw: setIP(9, 17), reason: PassNotTCP},
		{name: "UDP", only: "IPv6", raw: setIP(6, 17), reason: PassNotTCP},
		{name: "ICMP", only: "IPv4", raw: setIP(9, 1), reason: PassNotTCP},
		{name: "ICMPv6", only: "IPv6", raw: setIP(6, 58), reason: PassNotTCP},
		{name: "ARP", only: "IPv4", raw: setByte(13, 6), reason: PassNotTCP},
		{name: "a VLAN tag", raw: func(_ family, b []byte) []byte { return slices.Insert(b, 12, 0x81, 0, 0, 5) }, reason: PassNotTCP},
		{name: "an Ethernet header alone", raw: func(_ family, b []byte) []byte { return b[:14:14] }, reason: PassBadIP},

		{name: "the first fragment", only: "IPv4", raw: setIP(6, 0x20, 0), reason: PassFragment},
		{name: "a later fragment", only: "IPv4", raw: setIP(6, 0x20, 10), reason: PassFragment},
		{name: "the last fragment", only: "IPv4", raw: setIP(6, 0x1f, 0xff), reason: PassFragment},
		{name: "a fragment header", only: "IPv6", raw: setIP(6, 44), reason: PassNotTCP},
		{name: "a hop-by-hop header", only: "IPv6", raw: setIP(6, 0), reason: PassNotTCP},
		{name: "IP options", only: "IPv4", raw: setIP(0, 0x46), reason: PassIPOptions},
		{name: "the most IP options", only: "IPv4", raw: setIP(0, 0x4f), reason: PassIPOptions},
		{name: "an IP header of four words", only: "IPv4", raw: setIP(0, 0x44), reason: PassBadIP},
		{name: "IP version 6 in an IPv4 frame", only: "IPv4", raw: setIP(0, 0x65), reason: PassBadIP},
		{name: "IP version 4 in an IPv6 frame", only: "IPv6", raw: setIP(0, 0x45), reason: PassBadIP},
		{name: "an IP checksum off by one", only: "IPv4", raw: func(_ family, b []byte) []byte { b[ethLen+11]++; return b }, reason: PassBadIP},
		{name: "an IP checksum of zero", only: "IPv4", raw: func(_ family, b []byte) []byte { b[ethLen+10], b[ethLen+11] = 0, 0; return b }, reason: PassBadIP},
		{name: "a total length beyond the frame", only: "IPv4", raw: setIP(2, 0, 61), reason: PassBadIP},
		{name: "a total length beyond the frame", only: "IPv6", raw: setIP(4, 0, 41), reason: PassBadIP},
		{name: "a total length without room for TCP", only: "IPv4", raw: setIP(2, 0, 39), reason: PassBadIP},
		{name: "a total length without room for TCP", only: "IPv6", raw: setIP(4, 0, 19), reason: PassBadIP},
		{name: "a total length of zero", only: "IPv4", raw: setIP(2, 0, 0), reason: PassBadIP},
		{name: "a total length of zero", only: "IPv6", raw: setIP(4, 0, 0), reason: PassBadIP},

		{name: "data offset 0", raw: setDataOffset(0), reason: DropBadTCP},
		{name: "data offset 4", raw: setDataOffset(4), reason: DropBadTCP},
		{name: "data offset one word beyond the segment", raw: setDataOffset(11), reason: DropBadTCP},
		{name: "data offset 15 in a segment of 10 words", raw: setDataOffset(15), reason: DropBadTCP},
		{name: "a trailer does not count as header", raw: func(f family, b []byte) []byte { return append(setDataOffset(11)(f, b), 0, 0, 0, 0) }, reason: DropBadTCP},

		{name: "SYN and FIN", edit: flags(syn | fin), reason: DropBadFlags},
		{name: "SYN and RST", edit: flags(syn | rst), reason: DropBadFlags},
		{name: "SYN, ACK and FIN", edit: flags(syn | ack | fin), reason: DropBadFlags},
		{name: "all flags", edit: flags(255), reason: DropBadFlags},
		{name: "SYN and ACK", edit: stray(syn | ack), reason: DropNoFlow},
		{name: "no flags", edit: flags(0), reason: DropNoFlow},
		{name: "Xmas", edit: flags(fin | psh | urg), reason: DropNoFlow},
		{name: "a bare RST", edit: flags(rst), reason: DropNoFlow},
		{name: "RST and ACK", edit: stray(rst | ack), reason: DropNoFlow},
		{name: "a bare FIN", edit: flags(fin), reason: DropNoFlow},
		{name: "an ACK that is nobody's", edit: stray(ack), reason: DropBadCookie},
		{name: "FIN and ACK that are nobody's", edit: stray(fin | ack), reason: DropBadCookie},

		{name: "land", edit: func(_ family, s *segment) { s.src = s.dst }, reason: DropBadSource},
		{name: "our own address from another port", edit: from("198.51.100.1", "2001:db8:1::1"), reason: DropBadSource},
		{name: "a source of zero", edit: from("0.0.0.0", "::"), reason: DropBadSource},
		{name: "a source in this network", edit: from("0.1.2.3", "::"), reason: DropBadSource},
		{name: "loopback", edit: from("127.0.0.1", "::1"), reason: DropBadSource},
		{name: "the far end of loopback", edit: from("127.255.255.254", "::1"), reason: DropBadSource},
		{name: "a multicast source", edit: from("224.0.0.1", "ff02::1"), reason: DropBadSource},
		{name: "the last multicast source", edit: from("239.255.255.255", "ffff::1"), reason: DropBadSource},
		{name: "a reserved source", edit: from("240.0.0.1", "ff00::"), reason: DropBadSource},
		{name: "the broadcast address", edit: from("255.255.255.255", "ff0e::1"), reason: DropBadSource},
		{name: "an IPv4-mapped source", only: "IPv6", edit: from("", "::ffff:192.0.2.1"), reason: DropBadSource},

		{name: "the TCP checksum is wrong", raw: flipTCP(16), reason: DropBadChecksum},
		{name: "the source port was damaged", raw: flipTCP(0), reason: DropBadChecksum},
		{name: "the sequence number was damaged", raw: flipTCP(7), reason: DropBadChecksum},
		{name: "the first option was damaged", raw: flipTCP(22), reason: DropBadChecksum},
		{name: "the last option was damaged", raw: flipTCP(39), reason: DropBadChecksum},
		{name: "the last of the most options was damaged", edit: func(_ family, s *segment) { s.options = bytes.Repeat(nop, 40) }, raw: flipTCP(59), reason: DropBadChecksum},
		{name: "the source address was damaged", only: "IPv4", raw: setIP(15, 9), reason: DropBadChecksum},
		{name: "the source address was damaged", only: "IPv6", raw: setIP(23, 9), reason: DropBadChecksum},
		{name: "one word of the source address was damaged", only: "IPv6", raw: setIP(12, 9), reason: DropBadChecksum},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range families {
				if c.only != "" && c.only != f.name {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					s := f.syn(linuxOptions(1460, 7))
					if c.edit != nil {
						c.edit(f, &s)
					}
					in := s.frame()
					if c.raw != nil {
						in = c.raw(f, in)
					}
					p.with(t).expect(in, c.reason)
				})
			}
		})
	}
}

// Sources at the edges of what can't be answered are answered.
func TestGoodSources(t *testing.T) {
	p := load(t, options{})
	for _, a := range []string{
		"1.0.0.0", "126.255.255.255", "128.0.0.1", "223.255.255.255", "10.0.0.1", "169.254.1.1",
		"fe80::1", "fc00::1", "::2", "::1:0:0:1", "64:ff9b::c000:201", "feff::1",
	} {
		t.Run(a, func(t *testing.T) {
			src := netip.AddrPortFrom(netip.MustParseAddr(a), 40000)
			f := families[0]
			if src.Addr().Is6() {
				f = families[1]
			}
			s := f.syn(linuxOptions(1460, 7))
			s.src = src
			checkSynAck(t, f, s, p.with(t).expect(s.frame(), TxSynAck), "mss sack ts nop ws=7")
		})
	}
}

// Cut short anywhere, a SYN goes to the kernel. Below 14 bytes the kernel's test run takes no frame.
func TestTruncated(t *testing.T) {
	p := load(t, options{})
	for _, f := range families {
		whole := f.syn(linuxOptions(1460, 7)).frame()
		for n := ethLen; n < len(whole); n++ {
			t.Run(fmt.Sprintf("%s cut to %d bytes", f.name, n), func(t *testing.T) {
				p.with(t).expect(whole[:n:n], PassBadIP)
			})
		}
	}
}

// Without partial checksums, the pseudo-header's sum alone is as wrong as any other.
func TestPartialChecksumsOff(t *testing.T) {
	p := load(t, options{spec: func(s *ebpf.CollectionSpec) {
		must(t, s.Variables["cfg_partial_checksums"].Set(false))
	}})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := p.with(t)
			s := f.syn(linuxOptions(1460, 7))
			p.expect(partialChecksum(f, s.frame()), DropBadChecksum)
			p.expect(s.frame(), TxSynAck)
		})
	}
}

// What the loader configures arrives in the SYN/ACK.
func TestSynAckIsConfigurable(t *testing.T) {
	p := load(t, options{spec: func(s *ebpf.CollectionSpec) {
		must(t, s.Variables["cfg_mss4"].Set(uint16(8960)))
		must(t, s.Variables["cfg_mss6"].Set(uint16(8940)))
		must(t, s.Variables["cfg_wscale"].Set(uint8(11)))
		must(t, s.Variables["cfg_window"].Set(uint16(12345)))
	}})
	for _, f := range families {
		r := p.expect(f.syn(linuxOptions(1460, 7)).frame(), TxSynAck)
		got, err := decode(r.frame)
		must(t, err)
		want := fmt.Sprintf("mss=%d sack ts nop ws=11", 8980-f.ipLen)
		if got.text != want || got.window != 12345 {
			t.Errorf("%s: %q, window %d, want %q, 12345", f.name, got.text, got.window, want)
		}
	}
}

// An address is found in each slot that user space may have put it into, also where the table wraps
// around, and not in the slot behind.
func TestLocalAddressSlots(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := netip.AddrPortFrom(lastSlotAddr(t, f.server.Addr()), 443)
			s := f.syn(linuxOptions(1460, 7))
			s.dst = a
			for probe := range uint32(LocalProbes + 1) {
				p := load(t, options{noSocket: true})
				filler := f.server.Addr()
				for before := range probe { // other addresses sit in the slots before it
					filler = filler.Next()
					word, _, _ := localEntry(a.Addr(), 0, p)
					_, table, slot := localEntry(filler, 1<<3, p)
					must(t, table.Put((LocalSlot(word)+before)%LocalSlots, slot))
				}
				p.serve(a, 1<<3, probe)
				want := TxSynAck
				if probe == LocalProbes {
					want = PassNotLocal
				}
				p.expect(s.frame(), want)
			}
		})
	}
}

// An address that falls into a slot where another one is, is not ours: every bit counts.
func TestAnotherAddressInTheSlot(t *testing.T) {
	p := load(t, options{noSocket: true})
	for _, f := range families {
		for bit := range 8 * len(f.server.Addr().AsSlice()) {
			t.Run(fmt.Sprintf("%s differs in bit %d", f.name, bit), func(t *testing.T) {
				b := f.server.Addr().AsSlice()
				b[bit/8] ^= 0x80 >> (bit % 8)
				a, _ := netip.AddrFromSlice(b)
				word, _, _ := localEntry(a, 0, p)
				_, table, slot := localEntry(f.server.Addr(), 1<<3, p)
				must(t, table.Put(LocalSlot(word), slot))
				s := f.syn(linuxOptions(1460, 7))
				s.dst = netip.AddrPortFrom(a, 443)
				p.with(t).expect(s.frame(), PassNotLocal)
			})
		}
	}
}

// lastSlotAddr finds an address whose first slot is the last but one.
func lastSlotAddr(t *testing.T, a netip.Addr) netip.Addr {
	for range 1 << 20 {
		a = a.Next()
		var word uint32
		for b := a.AsSlice(); len(b) > 0; b = b[4:] {
			word ^= binary.NativeEndian.Uint32(b)
		}
		if LocalSlot(word) == LocalSlots-2 {
			return a
		}
	}
	t.Fatal("no address falls into the last but one slot")
	return a
}

// A flow goes to the socket of the queue that its packet came in on. The loopback device of the other
// tests has one queue, so this test makes a device with two.
func TestQueueChoosesSocket(t *testing.T) {
	p := load(t, options{noSocket: true})
	inNewNetns(t, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "peer"}
		veth.Name, veth.NumRxQueues, veth.NumTxQueues = "queues", 2, 2
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		link, err := netlink.LinkByName(veth.Name)
		if err != nil {
			return err
		}
		ifindex := link.Attrs().Index
		if err := p.insertSocket(1, ifindex, 1); err != nil {
			return err
		}
		for queue, want := range []uint32{xdpPass, xdpRedirect} {
			s, _ := p.finalAck(t, families[0], linuxOptions(1460, 7), uint16(1000+queue))
			md := xdpMD{IngressIfindex: uint32(ifindex), RxQueueIndex: uint32(queue)}
			if r := p.runUncounted(s.frame(), md); r.verdict != want {
				t.Errorf("queue %d: verdict %s, want %s", queue, verdictNames[r.verdict], verdictNames[want])
			}
		}
		return nil
	})
}
