// SPDX-License-Identifier: Apache-2.0

package wire

// A SACKBlock is one received range: Left is its first sequence number, Right the one after its last
// (RFC 2018, 3).
type SACKBlock struct{ Left, Right uint32 }

// MaxSACKBlocks is how many blocks fit beside no other option; timestamps leave room for one less.
const MaxSACKBlocks = 4

// A Segment is one TCP segment in host byte order. Both directions use it, and the caller reuses one value
// for every packet.
type Segment struct {
	Seq, Ack uint32
	Flags    Flags
	Window   uint16 // as on the wire: not yet scaled
	ECN      ECN    // of the IP header

	MSS           uint16 // 0: option absent
	WScale        int8   // -1: option absent (a Segment's zero value says 0: use Clear)
	SACKPermitted bool
	Timestamps    bool // TSVal and TSEcr are there
	TSVal, TSEcr  uint32
	NSACK         int // how many of SACK are there
	SACK          [MaxSACKBlocks]SACKBlock

	Payload    []byte // in a parsed segment: aliases the frame. In one to be sent: nil, see PayloadLen
	PayloadLen int    // bytes of payload, in both directions
}

// Clear makes s an empty segment: no flag, no option, no payload.
func (s *Segment) Clear() { *s = Segment{WScale: -1} }

// Len is the sequence space the segment takes: payload, and one number each for SYN and FIN
// (RFC 9293, 3.4: SEG.LEN).
func (s *Segment) Len() int {
	n := s.PayloadLen
	if s.Flags&SYN != 0 {
		n++
	}
	if s.Flags&FIN != 0 {
		n++
	}
	return n
}
