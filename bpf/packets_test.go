// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Frames are built and judged here with encoding/binary alone: neither the program nor userspace/wire
// has a say in what is right.

const (
	fin, syn, rst, psh, ack, urg, ece, cwr = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80

	ethLen = 14
	tcpLen = 20
)

var (
	serverMAC = [6]byte{0x02, 0xaa, 0x01, 0x02, 0x03, 0x04}
	clientMAC = [6]byte{0x02, 0xbb, 0x05, 0x06, 0x07, 0x08}
)

// A segment is a TCP segment to build a frame from.
type segment struct {
	to, from [6]byte
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
	options  []byte // filled up to whole words with zeros
	payload  []byte
}

func (s segment) ipLen() int {
	if s.src.Addr().Is4() {
		return 20
	}
	return 40
}

// frame is the segment on the wire, checksums and all.
func (s segment) frame() []byte {
	options := slices.Concat(s.options, make([]byte, -len(s.options)&3))
	tcp := make([]byte, tcpLen, tcpLen+len(options)+len(s.payload))
	binary.BigEndian.PutUint16(tcp[0:], s.src.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12] = byte(tcpLen+len(options)) << 2
	tcp[13] = s.flags
	binary.BigEndian.PutUint16(tcp[14:], 29200)
	tcp = slices.Concat(tcp, options, s.payload)
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(pseudoHeader(s.src.Addr(), s.dst.Addr(), len(tcp)), tcp))

	frame := slices.Concat(s.to[:], s.from[:])
	if s.src.Addr().Is4() {
		frame = append(frame, 0x08, 0x00)
		ip := []byte{0x45, 0x10, 0, 0, 0x12, 0x34, 0x40, 0, 57, 6, 0, 0}
		ip = slices.Concat(ip, s.src.Addr().AsSlice(), s.dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		setIP4Checksum(ip)
		return slices.Concat(frame, ip, tcp)
	}
	frame = append(frame, 0x86, 0xdd)
	ip := []byte{0x61, 0x23, 0x45, 0x67, 0, 0, 6, 57}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	return slices.Concat(frame, ip, s.src.Addr().AsSlice(), s.dst.Addr().AsSlice(), tcp)
}

func setIP4Checksum(ip []byte) {
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
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

// A packet is what decode reads out of a frame.
type packet struct {
	segment
	tos, ttl   byte
	id         uint16
	fragment   uint16 // flags and offset
	flow       uint32 // IPv6 flow label
	window     uint16
	urgent     uint16
	text       string // the options in words
	tsval      uint32
	tsecr      uint32
	trailer    []byte // behind the end of the IP packet
	packetSize int    // from the IP header on, without the trailer
}

// decode reads a frame and refuses one with any length or checksum wrong.
func decode(b []byte) (p packet, err error) {
	if len(b) < ethLen+20 {
		return p, fmt.Errorf("%d bytes are no IP packet", len(b))
	}
	copy(p.to[:], b[0:6])
	copy(p.from[:], b[6:12])
	ip := b[14:]
	switch kind := binary.BigEndian.Uint16(b[12:]); kind {
	case 0x0800:
		p.packetSize = int(binary.BigEndian.Uint16(ip[2:]))
		if ip[0] != 0x45 || p.packetSize > len(ip) || p.packetSize < 40 {
			return p, fmt.Errorf("IPv4 header %x in %d bytes", ip[:20], len(b))
		}
		if sum16(ip[:20]) != 0xffff {
			return p, errors.New("IPv4 checksum is wrong")
		}
		p.tos, p.id, p.fragment = ip[1], binary.BigEndian.Uint16(ip[4:]), binary.BigEndian.Uint16(ip[6:])
		p.ttl = ip[8]
		if ip[9] != 6 {
			return p, fmt.Errorf("IP protocol %d", ip[9])
		}
		p.src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0)
		p.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
	case 0x86dd:
		if len(ip) < 60 {
			return p, fmt.Errorf("%d bytes are no TCP over IPv6", len(b))
		}
		p.packetSize = 40 + int(binary.BigEndian.Uint16(ip[4:]))
		first := binary.BigEndian.Uint32(ip)
		if first>>28 != 6 || p.packetSize > len(ip) || p.packetSize < 60 || ip[6] != 6 {
			return p, fmt.Errorf("IPv6 header %x in %d bytes", ip[:40], len(b))
		}
		p.tos, p.flow, p.ttl = byte(first>>20), first&0xfffff, ip[7]
		p.src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])), 0)
		p.dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])), 0)
	default:
		return p, fmt.Errorf("EtherType %#x", kind)
	}
	p.trailer = ip[p.packetSize:]
	tcp := ip[p.ipLen():p.packetSize]
	if sum16(pseudoHeader(p.src.Addr(), p.dst.Addr(), len(tcp)), tcp) != 0xffff {
		return p, errors.New("TCP checksum is wrong")
	}
	p.src = netip.AddrPortFrom(p.src.Addr(), binary.BigEndian.Uint16(tcp[0:]))
	p.dst = netip.AddrPortFrom(p.dst.Addr(), binary.BigEndian.Uint16(tcp[2:]))
	p.seq, p.ack = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	header := int(tcp[12]>>4) * 4
	if header < tcpLen || header > len(tcp) || tcp[12]&15 != 0 {
		return p, fmt.Errorf("TCP data offset byte %#x in %d bytes", tcp[12], len(tcp))
	}
	p.flags, p.window = tcp[13], binary.BigEndian.Uint16(tcp[14:])
	p.urgent = binary.BigEndian.Uint16(tcp[18:])
	p.options, p.payload = tcp[tcpLen:header], tcp[header:]
	return p, p.readOptions()
}

// readOptions puts the options in words, in their order: "mss=1460 sack ts nop ws=7".
func (p *packet) readOptions() error {
	var words []string
	for o := p.options; len(o) > 0; {
		n := 1
		if o[0] > 1 {
			if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
				return fmt.Errorf("options %x: malformed at %x", p.options, o)
			}
			n = int(o[1])
		}
		switch {
		case o[0] == 0:
			words = append(words, "end")
		case o[0] == 1:
			words = append(words, "nop")
		case o[0] == 2 && n == 4:
			words = append(words, fmt.Sprintf("mss=%d", binary.BigEndian.Uint16(o[2:])))
		case o[0] == 3 && n == 3:
			words = append(words, fmt.Sprintf("ws=%d", o[2]))
		case o[0] == 4 && n == 2:
			words = append(words, "sack")
		case o[0] == 8 && n == 10:
			words = append(words, "ts")
			p.tsval, p.tsecr = binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:])
		default:
			words = append(words, fmt.Sprintf("kind %d: %x", o[0], o[2:n]))
		}
		o = o[n:]
	}
	p.text = strings.Join(words, " ")
	return nil
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
	},
	{
		name: "IPv6", ipLen: 40, defaultMSS: 1220, ourMSS: 1432,
		client: netip.MustParseAddrPort("[2001:db8::10]:40000"),
		server: netip.MustParseAddrPort("[2001:db8:1::1]:443"),
		other:  netip.MustParseAddrPort("[2001:db8:1::2]:8443"),
	},
}

func (f family) segment(flags byte, options []byte) segment {
	return segment{
		to: serverMAC, from: clientMAC, src: f.client, dst: f.server,
		seq: 0xfffffffe, flags: flags, options: options,
	}
}

func (f family) syn(options []byte) segment { return f.segment(syn, options) }
