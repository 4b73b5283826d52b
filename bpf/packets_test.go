// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Frames are built here with encoding/binary alone, and judged by another's decoder (decode_test.go):
// neither the program nor userspace/wire has a say in what is right.

const (
	fin, syn, rst, psh, ack, urg, ece, cwr = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80

	ethLen = 14
	tcpLen = 20

	dontFragment  = 0x4000
	moreFragments = 0x2000

	typeIP4  = 0x0800
	typeIP6  = 0x86dd
	typeVLAN = 0x8100 // 802.1Q
	typeQinQ = 0x88a8 // 802.1ad
)

var (
	serverMAC = [6]byte{0x02, 0xaa, 0x01, 0x02, 0x03, 0x04}
	clientMAC = [6]byte{0x02, 0xbb, 0x05, 0x06, 0x07, 0x08}
)

// A tag is a VLAN's: which kind, and priority (3 bits), drop eligibility (1), VLAN (12).
type tag struct{ tpid, tci uint16 }

// An extension is an IPv6 extension header; the first byte of data is overwritten with what comes next.
type extension struct {
	kind byte
	data []byte
}

// A segment is a TCP segment to build a frame from.
type segment struct {
	to, from   [6]byte
	tags       []tag
	src, dst   netip.AddrPort
	tos, ttl   byte
	id         uint16      // IPv4
	fragment   uint16      // IPv4: flags and offset
	label      uint32      // IPv6: the flow label
	ipOptions  []byte      // IPv4, filled up to whole words with zeros
	extensions []extension // IPv6
	seq, ack   uint32
	flags      byte
	window     uint16
	options    []byte // filled up to whole words with zeros
	payload    []byte
}

// frame is the segment on the wire, checksums and all.
func (s segment) frame() []byte {
	frame, _, _ := s.build()
	return frame
}

// build also tells where the IP and the TCP header start.
func (s segment) build() (frame []byte, ipAt, tcpAt int) {
	options := slices.Concat(s.options, make([]byte, -len(s.options)&3))
	tcp := make([]byte, tcpLen, tcpLen+len(options)+len(s.payload))
	binary.BigEndian.PutUint16(tcp[0:], s.src.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12] = byte(tcpLen+len(options)) << 2
	tcp[13] = s.flags
	binary.BigEndian.PutUint16(tcp[14:], s.window)
	tcp = slices.Concat(tcp, options, s.payload)
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(pseudoHeader(s.src.Addr(), s.dst.Addr(), len(tcp)), tcp))

	kind, ip := uint16(typeIP4), []byte(nil)
	if s.src.Addr().Is4() {
		ip = s.ip4(len(tcp))
	} else {
		kind, ip = typeIP6, s.ip6(len(tcp))
	}
	frame = slices.Concat(s.to[:], s.from[:])
	for _, t := range s.tags {
		frame = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(frame, t.tpid), t.tci)
	}
	frame = binary.BigEndian.AppendUint16(frame, kind)
	return slices.Concat(frame, ip, tcp), len(frame), len(frame) + len(ip)
}

func (s segment) ip4(tcp int) []byte {
	ip := make([]byte, 20, 60)
	options := slices.Concat(s.ipOptions, make([]byte, -len(s.ipOptions)&3))
	ip[0] = byte(0x45 + len(options)/4)
	ip[1] = s.tos
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(options)+tcp))
	binary.BigEndian.PutUint16(ip[4:], s.id)
	binary.BigEndian.PutUint16(ip[6:], s.fragment)
	ip[8], ip[9] = s.ttl, 6
	copy(ip[12:], s.src.Addr().AsSlice())
	copy(ip[16:], s.dst.Addr().AsSlice())
	ip = append(ip, options...)
	setIP4Checksum(ip)
	return ip
}

func (s segment) ip6(tcp int) []byte {
	ip := make([]byte, 40)
	binary.BigEndian.PutUint32(ip, 6<<28|uint32(s.tos)<<20|s.label)
	copy(ip[8:], s.src.Addr().AsSlice())
	copy(ip[24:], s.dst.Addr().AsSlice())
	next := 6 // where the number of the next header goes
	for _, e := range s.extensions {
		ip[next] = e.kind
		next = len(ip)
		ip = append(ip, e.data...)
	}
	ip[next] = 6
	ip[7] = s.ttl
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40+tcp))
	return ip
}

func setIP4Checksum(ip []byte) {
	ip[10], ip[11] = 0, 0
	header := min(max(int(ip[0]&15)*4, 20), len(ip))
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:header]))
}

func pseudoHeader(src, dst netip.Addr, n int) []byte {
	b := slices.Concat(src.AsSlice(), dst.AsSlice())
	return append(b, 0, 6, byte(n>>8), byte(n))
}

// sum16 is RFC 1071 as the RFC says it: sixteen bits at a time, carries around the end.
func sum16(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for i := range p {
			if i%2 == 0 {
				sum += uint32(p[i]) << 8
			} else {
				sum += uint32(p[i])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// The options of SYNs, written out. clientTSVal is the TSval in all of them.
const clientTSVal = 0x11223344

func optMSS(mss uint16) []byte { return []byte{2, 4, byte(mss >> 8), byte(mss)} }
func optWS(scale byte) []byte  { return []byte{3, 3, scale} }
func optTS(val, ecr uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{8, 10}, val), ecr)
}

var (
	nop     = []byte{1}
	end     = []byte{0}
	optSACK = []byte{4, 2}
)

// linuxOptions are what Linux and Android send.
func linuxOptions(mss uint16, scale byte) []byte {
	return slices.Concat(optMSS(mss), optSACK, optTS(clientTSVal, 0), nop, optWS(scale))
}

// windowsOptions are what Windows sends: no timestamps.
func windowsOptions(mss uint16, scale byte) []byte {
	return slices.Concat(optMSS(mss), nop, optWS(scale), nop, nop, optSACK)
}

func macOptions(mss uint16, scale byte) []byte {
	return slices.Concat(optMSS(mss), nop, optWS(scale), nop, nop, optTS(clientTSVal, 0), optSACK, end, end)
}

// A family is one of the two worlds that every test is run in.
type family struct {
	name                  string
	client, server, other netip.AddrPort // other: ours too, with other services
	established           netip.AddrPort // where there is a client of a flow, its end
	tags                  []tag
	ipLen                 int
	defaultMSS            uint16
	ourMSS                uint16
}

var families = []family{
	{
		name: "IPv4", ipLen: 20, defaultMSS: 536, ourMSS: 1452,
		client: netip.MustParseAddrPort("192.0.2.10:40000"),
		server: netip.MustParseAddrPort("198.51.100.1:443"),
		other:  netip.MustParseAddrPort("198.51.100.2:8443"),

		established: netip.MustParseAddrPort("192.0.2.20:50000"),
	},
	{
		name: "IPv6", ipLen: 40, defaultMSS: 1220, ourMSS: 1432,
		client: netip.MustParseAddrPort("[2001:db8::10]:40000"),
		server: netip.MustParseAddrPort("[2001:db8:1::1]:443"),
		other:  netip.MustParseAddrPort("[2001:db8:1::2]:8443"),

		established: netip.MustParseAddrPort("[2001:db8::20]:50000"),
	},
}

// tagged are the families in the VLANs that every test is run in.
func tagged() (all []family) {
	for _, f := range families {
		for _, t := range taggings {
			f.tags = t.tags
			f.name = t.name + " " + f.name
			all = append(all, f)
			f.name = f.name[len(t.name)+1:]
		}
	}
	return all
}

func (f family) segment(flags byte, options []byte) segment {
	return segment{
		to: serverMAC, from: clientMAC, tags: f.tags, src: f.client, dst: f.server,
		tos: 0x10, ttl: 57, id: 0x1234, fragment: dontFragment, label: 0x34567,
		seq: 0xfffffffe, flags: flags, window: 29200, options: options,
	}
}

// flow is the one that exists where there is one.
func (f family) flow() flow { return flow{f.established, f.server} }

// closed is a port of the server's where no service is.
func (f family) closed() netip.AddrPort { return netip.AddrPortFrom(f.server.Addr(), 80) }

// next is the port behind.
func next(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+1) }

func (f family) syn(options []byte) segment { return f.segment(syn, options) }
