// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

const (
	etherHeaderLen = 14
	vlanTagLen     = 4
	ipv4HeaderLen  = 20
	ipv6HeaderLen  = 40
	tcpHeaderLen   = 20

	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100 // 802.1Q
	etherQinQ = 0x88a8 // 802.1ad

	protoICMP   = 1
	protoTCP    = 6
	protoICMPv6 = 58

	// IPv6 extension headers (RFC 8200, 4).
	extHopByHop  = 0
	extRouting   = 43
	extFragment  = 44
	extDestOpts  = 60
	maxExtension = 6 // more of them than any honest packet has
)

// Parse reads a frame into p without allocating. All of p aliases frame. Lengths come from the IP header, so padding and
// trailers are cut off. On an error p is in no defined state.
func Parse(frame []byte, p *Packet) error {
	etherType, off, err := parseLink(frame)
	if err != nil {
		return err
	}
	p.Link = frame[:off:off]

	var tcp []byte
	var ecn byte
	ip := frame[off:]
	switch etherType {
	case etherIPv4:
		if tcp, err = parseIPv4(ip, protoTCP, &p.Flow); err == nil {
			ecn = ip[1] & 3
		}
	case etherIPv6:
		if tcp, err = parseIPv6(ip, protoTCP, &p.Flow); err == nil {
			ecn = ip[1] >> 4 & 3
		}
	default:
		return ErrLinkType
	}
	if err != nil {
		return err
	}
	return parseTCP(tcp, ECN(ecn), p)
}

// parseLink gives the EtherType behind up to two VLAN tags, and the length of the link header with them.
func parseLink(frame []byte) (etherType uint16, off int, err error) {
	if len(frame) < etherHeaderLen {
		return 0, 0, ErrTruncated
	}
	off = etherHeaderLen
	etherType = binary.BigEndian.Uint16(frame[12:])
	for tags := 0; tags < 2 && (etherType == etherVLAN || etherType == etherQinQ); tags++ {
		if len(frame) < off+vlanTagLen {
			return 0, 0, ErrTruncated
		}
		etherType = binary.BigEndian.Uint16(frame[off+2:])
		off += vlanTagLen
	}
	return etherType, off, nil
}

// parseIPv4 fills the addresses and gives the bytes behind the header and its options (RFC 791, 3.1), which must be of
// protocol proto.
func parseIPv4(b []byte, proto byte, f *Flow) ([]byte, error) {
	if len(b) < ipv4HeaderLen {
		return nil, ErrTruncated
	}
	if b[0]>>4 != 4 {
		return nil, ErrVersion
	}
	header := int(b[0]&0xf) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4HeaderLen || total < header || total > len(b) {
		return nil, ErrIPLength
	}
	// More fragments to come, or not the first one.
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return nil, ErrFragment
	}
	if b[9] != proto {
		return nil, ErrNotTCP
	}
	putMapped(&f.Remote, b[12:16])
	putMapped(&f.Local, b[16:20])
	return b[header:total:total], nil
}

// putMapped writes the 4-in-6 form of the IPv4 address b. (In place: a copy of it, made at once, would wait for both writes.)
func putMapped(addr *[16]byte, b []byte) {
	copy(addr[:12], mappedPrefix[:])
	copy(addr[12:], b)
}

// parseIPv6 fills the addresses and gives the bytes behind the last extension header (RFC 8200, 3 and 4), which must be
// of protocol proto.
func parseIPv6(b []byte, proto byte, f *Flow) ([]byte, error) {
	if len(b) < ipv6HeaderLen {
		return nil, ErrTruncated
	}
	if b[0]>>4 != 6 {
		return nil, ErrVersion
	}
	end := ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	if end > len(b) {
		return nil, ErrIPLength
	}
	copy(f.Remote[:], b[8:24])
	copy(f.Local[:], b[24:40])
	// A mapped address on the IPv6 wire would be taken for an IPv4 flow, and answered in IPv4 (RFC 4942, 2.2).
	if f.IsIPv4() || [12]byte(f.Remote[:12]) == mappedPrefix {
		return nil, ErrLinkType
	}
	return upperLayer(b[6], b[ipv6HeaderLen:end:end], proto)
}

// upperLayer walks the extension headers that start with next (RFC 8200, 4), up to the header of protocol proto.
func upperLayer(next byte, rest []byte, proto byte) ([]byte, error) {
	for range maxExtension {
		switch next {
		case proto:
			return rest, nil
		case extFragment:
			return nil, ErrFragment
		case extHopByHop, extRouting, extDestOpts:
		default:
			return nil, ErrNotTCP
		}
		if len(rest) < 8 {
			return nil, ErrIPLength
		}
		size := (int(rest[1]) + 1) * 8
		if size > len(rest) {
			return nil, ErrIPLength
		}
		// With segments left, the packet has not arrived: its destination address is a stop on the way.
		if next == extRouting && rest[3] != 0 {
			return nil, ErrExtension
		}
		next = rest[0]
		rest = rest[size:]
	}
	return nil, ErrExtension
}

// parseTCP reads the header and options (RFC 9293, 3.1).
func parseTCP(b []byte, ecn ECN, p *Packet) error {
	if len(b) < tcpHeaderLen {
		return ErrTruncated
	}
	header := int(b[12]>>4) * 4
	if header < tcpHeaderLen || header > len(b) {
		return ErrTCPLength
	}
	p.tcp = b
	p.Flow.RemotePort = binary.BigEndian.Uint16(b)
	p.Flow.LocalPort = binary.BigEndian.Uint16(b[2:])
	p.Segment = Segment{
		Seq:        binary.BigEndian.Uint32(b[4:]),
		Ack:        binary.BigEndian.Uint32(b[8:]),
		Flags:      Flags(b[13]),
		Window:     binary.BigEndian.Uint16(b[14:]),
		ECN:        ecn,
		WScale:     -1,
		Payload:    b[header:],
		PayloadLen: len(b) - header,
	}
	parseOptions(b[tcpHeaderLen:header], &p.Segment)
	return nil
}
