// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// Whose a segment is, TCP's header, flags, checksum, and sources.
func TestTCPTable(t *testing.T) {
	p := load(t, options{shared: true})
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
	offset := func(words byte) change { return setTCP(12, words<<4) }
	p.table(t, []row{
		{name: "a port of no service", edit: func(f family, s *segment) { s.dst = f.closed() }, want: PassNoService},
		{name: "the port's bytes swapped", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr(), 443>>8|443&0xff<<8) }, want: PassNoService},
		{name: "port 0", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr(), 0) }, want: PassNoService},
		{name: "an address that is not ours", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr().Next().Next(), 443) }, want: PassNotLocal},
		{name: "our address, where another service listens", edit: func(_ family, s *segment) { s.dst = netip.AddrPortFrom(s.dst.Addr(), 8443) }, want: PassNotLocal},
		{name: "another service on another address", edit: func(f family, s *segment) { s.dst = f.other }, want: TxSynAck},
		{name: "from port 0", edit: func(_ family, s *segment) { s.src = netip.AddrPortFrom(s.src.Addr(), 0) }, want: TxSynAck},

		{name: "data offset 0", raw: offset(0), want: DropBadTCP},
		{name: "data offset 1", raw: offset(1), want: DropBadTCP},
		{name: "data offset 4", raw: offset(4), want: DropBadTCP},
		{name: "data offset 5 makes data of the options", raw: offset(5), want: TxSynAck, options: "mss"},
		{name: "data offset one word beyond the segment", raw: offset(11), want: DropBadTCP},
		{name: "data offset 15 in a segment of 10 words", raw: offset(15), want: DropBadTCP},
		{name: "a trailer does not count as header", raw: func(f family, b []byte) []byte { return append(offset(11)(f, b), 0, 0, 0, 0) }, want: DropBadTCP},
		{name: "a bad data offset on a port of no service", edit: func(f family, s *segment) { s.dst = f.closed() }, raw: offset(0), want: PassNoService},
		{name: "reserved bits", raw: setTCP(12, 0xaf), want: TxSynAck},
		{name: "an urgent pointer", raw: setTCP(18, 1, 2), want: TxSynAck},
		{name: "a window of zero", edit: func(_ family, s *segment) { s.window = 0 }, want: TxSynAck},

		{name: "SYN and FIN", edit: flags(syn | fin), want: DropBadFlags},
		{name: "SYN and RST", edit: flags(syn | rst), want: DropBadFlags},
		{name: "SYN, ACK and FIN", edit: flags(syn | ack | fin), want: DropBadFlags},
		{name: "SYN, ACK and RST", edit: flags(syn | ack | rst), want: DropBadFlags},
		{name: "SYN, FIN, RST and PSH", edit: flags(syn | fin | rst | psh), want: DropBadFlags},
		{name: "all flags", edit: flags(255), want: DropBadFlags},
		{name: "no flags (null)", edit: flags(0), want: DropBadFlags},
		{name: "FIN, PSH and URG (Xmas)", edit: flags(fin | psh | urg), want: DropBadFlags},
		{name: "a bare FIN", edit: flags(fin), want: DropBadFlags},
		{name: "a bare PSH", edit: flags(psh), want: DropBadFlags},
		{name: "a bare URG", edit: flags(urg), want: DropBadFlags},
		{name: "ECN bits alone", edit: flags(ece | cwr), want: DropBadFlags},
		{name: "a bare RST", edit: flags(rst), want: DropNoFlow},
		{name: "RST and FIN", edit: flags(rst | fin), want: DropNoFlow},
		{name: "SYN and ACK", edit: stray(syn | ack), want: DropNoFlow},
		{name: "RST and ACK", edit: stray(rst | ack), want: DropNoFlow},
		{name: "an ACK that is nobody's", edit: stray(ack), want: DropBadCookie},
		{name: "FIN and ACK that are nobody's", edit: stray(fin | ack), want: DropBadCookie},
		{name: "data that are nobody's", edit: func(_ family, s *segment) {
			s.flags, s.ack, s.payload = ack|psh, 0x12345679+1, []byte("data")
		}, want: DropBadCookie},
		{name: "an ACK with an unused key", edit: func(_ family, s *segment) { s.flags, s.ack = ack, 0x1234567a+1 }, want: DropExpiredKey},
		{name: "PSH and URG on a SYN", edit: flags(syn | psh | urg), want: TxSynAck},
		{name: "an ECN-setup SYN gets ECN", edit: flags(syn | ece | cwr), want: TxSynAck},
		{name: "an ECN-setup SYN without timestamps gets none", edit: func(_ family, s *segment) { s.flags, s.options = syn|ece|cwr, windowsOptions(1460, 8) }, want: TxSynAck, options: "mss nop nop sack nop ws=7"},
		{name: "ECE alone on a SYN is no offer of ECN", edit: flags(syn | ece), want: TxSynAck},
		{name: "CWR alone on a SYN is no offer of ECN", edit: flags(syn | cwr), want: TxSynAck},
		{name: "an ECN-setup SYN marked ECT(0) was changed on its way", edit: func(_ family, s *segment) { s.flags, s.tos = syn|ece|cwr, 0xfe }, want: TxSynAck},
		{name: "an ECN-setup SYN marked ECT(1) was changed on its way", edit: func(_ family, s *segment) { s.flags, s.tos = syn|ece|cwr, 1 }, want: TxSynAck},
		{name: "an ECN-setup SYN marked CE was changed on its way", edit: func(_ family, s *segment) { s.flags, s.tos = syn|ece|cwr, 3 }, want: TxSynAck},
		{name: "an ECN-setup SYN with a traffic class", edit: func(_ family, s *segment) { s.flags, s.tos = syn|ece|cwr, 0xb8 }, want: TxSynAck},

		{name: "from itself (land)", edit: func(_ family, s *segment) { s.src = s.dst }, want: DropLand},
		{name: "from our own address, another port", edit: func(_ family, s *segment) { s.src = netip.AddrPortFrom(s.dst.Addr(), 9) }, want: DropLand},
		{name: "from another address of ours", edit: func(f family, s *segment) { s.src = f.other }, want: TxSynAck},
		{name: "a source of zero", edit: from("0.0.0.0", "::"), want: DropBadSource},
		{name: "a source in this network", edit: from("0.1.2.3", "::"), want: DropBadSource},
		{name: "loopback", edit: from("127.0.0.1", "::1"), want: DropBadSource},
		{name: "the far end of loopback", edit: from("127.255.255.254", "::1"), want: DropBadSource},
		{name: "a multicast source", edit: from("224.0.0.1", "ff02::1"), want: DropBadSource},
		{name: "the last multicast source", edit: from("239.255.255.255", "ffff::1"), want: DropBadSource},
		{name: "a reserved source", edit: from("240.0.0.1", "ff00::"), want: DropBadSource},
		{name: "the broadcast address", edit: from("255.255.255.255", "ff0e::1"), want: DropBadSource},
		{name: "an IPv4-mapped source", only: "IPv6", edit: from("", "::ffff:192.0.2.1"), want: DropBadSource},
		{name: "a bad source with a bad checksum", edit: from("0.0.0.0", "::"), raw: flipTCP(16), want: DropBadSource},
		{name: "an ACK is not judged by its source, but by its cookie", edit: func(f family, s *segment) {
			from("127.0.0.1", "::1")(f, s)
			stray(ack)(f, s)
		}, want: DropBadCookie},
		{name: "the first address above this network", edit: from("1.0.0.0", "::2"), want: TxSynAck},
		{name: "the last before loopback", edit: from("126.255.255.255", "::1:0:0:1"), want: TxSynAck},
		{name: "the first behind loopback", edit: from("128.0.0.0", "::fffe:c000:201"), want: TxSynAck},
		{name: "the last before multicast", edit: from("223.255.255.255", "feff::1"), want: TxSynAck},
		{name: "a private source", edit: from("10.0.0.1", "fc00::1"), want: TxSynAck},
		{name: "a link-local source", edit: from("169.254.1.1", "fe80::1"), want: TxSynAck},
		{name: "a translated source", edit: from("192.0.0.8", "64:ff9b::c000:201"), want: TxSynAck},
		{name: "nearly an IPv4-mapped source", only: "IPv6", edit: from("", "0:0:0:1:0:ffff:c000:201"), want: TxSynAck},

		{name: "the TCP checksum is wrong", raw: flipTCP(16), want: DropBadChecksum},
		{name: "a TCP checksum of zero", raw: func(f family, b []byte) []byte { copy(b[ethLen+f.ipLen+16:], []byte{0, 0}); return b }, want: DropBadChecksum},
		{name: "the source port was damaged", raw: flipTCP(0), want: DropBadChecksum},
		{name: "the sequence number was damaged", raw: flipTCP(7), want: DropBadChecksum},
		{name: "the urgent pointer was damaged", raw: flipTCP(19), want: DropBadChecksum},
		{name: "the first option was damaged", raw: flipTCP(22), want: DropBadChecksum},
		{name: "the last option was damaged", raw: flipTCP(39), want: DropBadChecksum},
		{name: "the only option was damaged", edit: func(_ family, s *segment) { s.options = optMSS(1460) }, raw: flipTCP(23), want: DropBadChecksum},
		{name: "the last of seven words was damaged", edit: func(_ family, s *segment) { s.options = windowsOptions(1460, 8)[:8] }, raw: flipTCP(27), want: DropBadChecksum},
		{name: "the last of the most options was damaged", edit: func(_ family, s *segment) { s.options = bytes.Repeat(nop, 40) }, raw: flipTCP(59), want: DropBadChecksum},
		{name: "the source address was damaged", only: "IPv4", raw: setIP(15, 9), want: DropBadChecksum},
		{name: "the source address was damaged", only: "IPv6", raw: setIP(23, 9), want: DropBadChecksum},
		{name: "one word of the source address was damaged", only: "IPv6", raw: setIP(12, 9), want: DropBadChecksum},
		{name: "the checksum of a SYN with data is not asked", edit: func(_ family, s *segment) { s.payload = []byte("data") }, raw: flipTCP(16), want: TxSynAck},
		{name: "a partial checksum is taken, since the peer may be local", raw: partialChecksum, want: TxSynAck},
		{name: "a partial checksum with data", edit: func(_ family, s *segment) { s.payload = []byte("odd") }, raw: partialChecksum, want: TxSynAck},
		{name: "nearly a partial checksum", raw: func(f family, b []byte) []byte { b = partialChecksum(f, b); b[ethLen+f.ipLen+17]++; return b }, want: DropBadChecksum},
		{name: "a checksum over extension headers and options is the segment's alone", edit: func(_ family, s *segment) {
			s.ipOptions, s.extensions = recordRoute, []extension{hopByHop, destination}
		}, want: TxSynAck},
		{name: "a wrong checksum behind extension headers and options", edit: func(_ family, s *segment) {
			s.ipOptions, s.extensions = recordRoute, []extension{hopByHop, destination}
		}, raw: func(_ family, b []byte) []byte { b[len(b)-1] ^= 1; return b }, want: DropBadChecksum},
	})
}

// Without partial checksums, the pseudo-header's sum alone is as wrong as any other.
func TestPartialChecksumsOff(t *testing.T) {
	p := load(t, options{shared: true, spec: func(s *ebpf.CollectionSpec) {
		must(t, s.Variables["cfg_partial_checksums"].Set(false))
	}})
	p.table(t, []row{
		{name: "a partial checksum", raw: partialChecksum, want: DropBadChecksum},
		{name: "a full checksum", want: TxSynAck},
	})
}
