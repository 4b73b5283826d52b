// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// ICMPKind is what an ICMP error says, whatever the IP version.
type ICMPKind uint8

// The kinds of error.
const (
	// ICMPUnreachable is ICMP type 3 but for code 4 (RFC 792), and ICMPv6 type 1 (RFC 4443, 3.1).
	ICMPUnreachable ICMPKind = iota + 1
	// ICMPTooBig is ICMP type 3, code 4 (RFC 1191, 4), and ICMPv6 type 2 (RFC 4443, 3.2).
	ICMPTooBig
	// ICMPTimeExceeded is ICMP type 11 (RFC 792), and ICMPv6 type 3 (RFC 4443, 3.3).
	ICMPTimeExceeded
	// ICMPParameterProblem is ICMP type 12 (RFC 792), and ICMPv6 type 4 (RFC 4443, 3.4).
	ICMPParameterProblem
)

const (
	icmpHeaderLen = 8
	// minQuote is how much of a segment an error quotes at least: ports and sequence number (RFC 792).
	minQuote = 8

	codeFragmentationNeeded = 4 // of ICMP type 3
)

// An ICMPError is a parsed ICMP or ICMPv6 error about a segment that we have sent. It says what it likes: only the
// quoted sequence number shows that its sender has seen the segment (RFC 5927, 4.1).
type ICMPError struct {
	Kind ICMPKind
	Flow Flow   // of the quoted segment; as in a Packet, Local is us
	Seq  uint32 // of the quoted segment
	MTU  uint32 // of ICMPTooBig: the next hop's, in bytes; 0 from a router older than RFC 1191
}

// ParseICMP reads a frame that Parse has refused with ErrNotTCP into e, without allocating. The checksum is verified in
// full: ICMP's is nowhere left to hardware. On an error e is in no defined state.
func ParseICMP(frame []byte, e *ICMPError) error {
	etherType, off, err := parseLink(frame)
	if err != nil {
		return err
	}
	switch etherType {
	case etherIPv4:
		return e.parse4(frame[off:])
	case etherIPv6:
		return e.parse6(frame[off:])
	}
	return ErrLinkType
}

func (e *ICMPError) parse4(ip []byte) error {
	var outer Flow
	b, err := parseIPv4(ip, protoICMP, &outer)
	if err != nil {
		return err
	}
	if err := checkICMP(b, 0); err != nil {
		return err
	}
	e.MTU = 0
	switch {
	case b[0] == 3 && b[1] == codeFragmentationNeeded:
		e.Kind = ICMPTooBig
		e.MTU = uint32(binary.BigEndian.Uint16(b[6:])) // RFC 1191, 4
	case b[0] == 3:
		e.Kind = ICMPUnreachable
	case b[0] == 11:
		e.Kind = ICMPTimeExceeded
	case b[0] == 12:
		e.Kind = ICMPParameterProblem
	default:
		return ErrICMPType
	}

	// The quoted total length is not looked at: the quote is cut short, and routers are known to change the field.
	quote := b[icmpHeaderLen:]
	if len(quote) < ipv4HeaderLen || quote[0]>>4 != 4 {
		return ErrICMPQuote
	}
	header := int(quote[0]&0xf) * 4
	if header < ipv4HeaderLen || header > len(quote) {
		return ErrICMPQuote
	}
	// We set DF, so no router has cut it.
	if binary.BigEndian.Uint16(quote[6:])&0x3fff != 0 || quote[9] != protoTCP {
		return ErrICMPQuote
	}
	putMapped(&e.Flow.Local, quote[12:16])
	putMapped(&e.Flow.Remote, quote[16:20])
	return e.parseTCP(quote[header:], &outer)
}

func (e *ICMPError) parse6(ip []byte) error {
	var outer Flow
	b, err := parseIPv6(ip, protoICMPv6, &outer)
	if err != nil {
		return err
	}
	if err := checkICMP(b, pseudoSum(&outer, protoICMPv6, len(b))); err != nil {
		return err
	}
	e.MTU = 0
	switch b[0] {
	case 1:
		e.Kind = ICMPUnreachable
	case 2:
		e.Kind = ICMPTooBig
		e.MTU = binary.BigEndian.Uint32(b[4:])
	case 3:
		e.Kind = ICMPTimeExceeded
	case 4:
		e.Kind = ICMPParameterProblem
	default:
		return ErrICMPType
	}

	quote := b[icmpHeaderLen:]
	if len(quote) < ipv6HeaderLen || quote[0]>>4 != 6 {
		return ErrICMPQuote
	}
	copy(e.Flow.Local[:], quote[8:24])
	copy(e.Flow.Remote[:], quote[24:40])
	tcp, err := upperLayer(quote[6], quote[ipv6HeaderLen:], protoTCP)
	if err != nil {
		return ErrICMPQuote
	}
	return e.parseTCP(tcp, &outer)
}

// checkICMP checks length and checksum; sum is that of the pseudo-header, where there is one.
func checkICMP(b []byte, sum uint16) error {
	if len(b) < icmpHeaderLen {
		return ErrTruncated
	}
	if normal(Sum(b, sum)) != 0xffff {
		return ErrICMPChecksum
	}
	return nil
}

// parseTCP reads the quoted start of a TCP header. An error goes to the source of what it quotes.
func (e *ICMPError) parseTCP(b []byte, outer *Flow) error {
	if len(b) < minQuote || e.Flow.Local != outer.Local {
		return ErrICMPQuote
	}
	e.Flow.LocalPort = binary.BigEndian.Uint16(b)
	e.Flow.RemotePort = binary.BigEndian.Uint16(b[2:])
	e.Seq = binary.BigEndian.Uint32(b[4:])
	return nil
}
