// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

const (
	maxLinkLen = etherHeaderLen + 2*vlanTagLen
	hopLimit   = 64 // of both IP versions
	ipDF       = 0x4000
)

// A Template holds what the headers of one connection's replies have in common. It is a value of some sixty
// bytes that shares nothing with the frame it was made from.
type Template struct {
	flow    Flow
	addrs   uint16 // the addresses' part of the checksums
	linkLen uint8
	ipv4    bool
	link    [maxLinkLen]byte // MAC addresses already swapped
}

// NewTemplate prepares the replies to p: MAC addresses, IP addresses and ports change sides, VLAN tags stay.
func NewTemplate(p *Packet) Template {
	t := Template{flow: p.Flow, addrs: addrSum(&p.Flow), ipv4: p.Flow.IsIPv4(), linkLen: uint8(len(p.Link))}
	copy(t.link[:], p.Link)
	copy(t.link[0:6], p.Link[6:12])
	copy(t.link[6:12], p.Link[0:6])
	return t
}

// Flow is the flow that the replies belong to.
func (t *Template) Flow() Flow { return t.flow }

// Replies says whether the replies to a flow are made with this template.
func (t *Template) Replies(f *Flow) bool { return t.flow == *f }

// HeaderLen is the length of all headers in front of s's payload.
func (t *Template) HeaderLen(s *Segment) int {
	return int(t.linkLen) + t.ipLen() + tcpHeaderLen + s.optionsLen()
}

// LinkExcess is by how much the link header is longer than a device has room for on top of its MTU: an Ethernet header
// with one VLAN tag (Linux's is_skb_forwardable). It comes off the MTU.
func (t *Template) LinkExcess() int {
	return max(0, int(t.linkLen)-etherHeaderLen-vlanTagLen)
}

// IsTagged reports whether there is a VLAN tag in the link header.
func (t *Template) IsTagged() bool { return t.linkLen != etherHeaderLen }

func (t *Template) ipLen() int {
	if t.ipv4 {
		return ipv4HeaderLen
	}
	return ipv6HeaderLen
}

// Marshal writes the headers of s in front of its payload, which already lies at
// frame[HeaderLen(s):HeaderLen(s)+s.PayloadLen], with both checksums in full. It returns the frame's length. The
// frame must be long enough: the caller asked HeaderLen.
func (t *Template) Marshal(frame []byte, s *Segment) int {
	copy(frame, t.link[:t.linkLen])
	ip := frame[t.linkLen:]
	tcpLen := tcpHeaderLen + s.optionsLen() + s.PayloadLen
	if t.ipv4 {
		t.putIPv4(ip, tcpLen, s.ECN)
		t.putTCP(ip[ipv4HeaderLen:ipv4HeaderLen+tcpLen], s)
		return int(t.linkLen) + ipv4HeaderLen + tcpLen
	}
	t.putIPv6(ip, tcpLen, s.ECN)
	t.putTCP(ip[ipv6HeaderLen:ipv6HeaderLen+tcpLen], s)
	return int(t.linkLen) + ipv6HeaderLen + tcpLen
}

// MarshalHeaders writes the headers of s alone, for somebody else to cut and to sum: the TCP checksum is the pseudo-header's
// sum. It returns their length, and where TCP's starts. s may have more payload than one packet, up to IP's length field.
func (t *Template) MarshalHeaders(b []byte, s *Segment) (length, tcp int) {
	copy(b, t.link[:t.linkLen])
	ip := b[t.linkLen:]
	header := tcpHeaderLen + s.optionsLen()
	if t.ipv4 {
		t.putIPv4(ip, header+s.PayloadLen, s.ECN)
	} else {
		t.putIPv6(ip, header+s.PayloadLen, s.ECN)
	}
	tcp = int(t.linkLen) + t.ipLen()
	length = tcp + header
	t.putHeader(b[tcp:length], s)
	binary.BigEndian.PutUint16(b[tcp+16:], t.pseudoSum(header+s.PayloadLen))
	return length, tcp
}

// pseudoSum is the pseudo-header's sum for a TCP length.
func (t *Template) pseudoSum(length int) uint16 { return addSum(t.addrs, protoTCP, uint16(length)) }

func (t *Template) putIPv4(b []byte, tcpLen int, ecn ECN) {
	b = b[:ipv4HeaderLen]
	b[0] = 4<<4 | ipv4HeaderLen/4
	b[1] = byte(ecn)
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4HeaderLen+tcpLen))
	// With DF the identification means nothing, and 0 is as good as any (RFC 6864, 4.1).
	binary.BigEndian.PutUint16(b[4:], 0)
	binary.BigEndian.PutUint16(b[6:], ipDF)
	b[8] = hopLimit
	b[9] = protoTCP
	copy(b[12:], t.flow.Local[12:])
	copy(b[16:], t.flow.Remote[12:])
	// The sum of the header's words is known but for the addresses' share, which is known too.
	sum := fold(uint64(t.addrs) + (4<<4|ipv4HeaderLen/4)<<8 + uint64(ecn) + uint64(ipv4HeaderLen+tcpLen) + ipDF + hopLimit<<8 + protoTCP)
	binary.BigEndian.PutUint16(b[10:], ^sum)
}

func (t *Template) putIPv6(b []byte, tcpLen int, ecn ECN) {
	b = b[:ipv6HeaderLen]
	binary.BigEndian.PutUint32(b, 6<<28|uint32(ecn)<<20)
	binary.BigEndian.PutUint16(b[4:], uint16(tcpLen))
	b[6] = protoTCP
	b[7] = hopLimit
	copy(b[8:], t.flow.Local[:])
	copy(b[24:], t.flow.Remote[:])
}

// putTCP writes header and checksum of b, which is the whole of the segment.
func (t *Template) putTCP(b []byte, s *Segment) {
	t.putHeader(b[:len(b)-s.PayloadLen], s)
	binary.BigEndian.PutUint16(b[16:], ^Sum(b, t.pseudoSum(len(b))))
}

// putHeader writes the TCP header, which b has the length of, with a checksum of zero.
func (t *Template) putHeader(b []byte, s *Segment) {
	binary.BigEndian.PutUint16(b, t.flow.LocalPort)
	binary.BigEndian.PutUint16(b[2:], t.flow.RemotePort)
	binary.BigEndian.PutUint32(b[4:], s.Seq)
	binary.BigEndian.PutUint32(b[8:], s.Ack)
	b[12] = uint8(len(b)/4) << 4
	b[13] = uint8(s.Flags)
	binary.BigEndian.PutUint16(b[14:], s.Window)
	binary.BigEndian.PutUint32(b[16:], 0) // checksum, for now, and urgent pointer
	putOptions(b[tcpHeaderLen:], s)
}
