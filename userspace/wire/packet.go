// SPDX-License-Identifier: Apache-2.0

package wire

// A Packet is one parsed frame. Its slices alias the frame.
type Packet struct {
	Link    []byte // the layer-2 header, with up to two VLAN tags
	Flow    Flow   // source is Remote, destination is Local
	Segment Segment

	tcp []byte // TCP header and payload, cut to the IP length: what the checksum covers
}

// ChecksumState is what a received TCP checksum turned out to be.
type ChecksumState uint8

const (
	// ChecksumBad matches nothing: drop the segment.
	ChecksumBad ChecksumState = iota
	// ChecksumValid covers the whole segment and is right.
	ChecksumValid
	// ChecksumPartial is only the pseudo-header's sum. A veth or virtio peer with checksum offload left the rest
	// to hardware that the frame never passed: nothing covers its bytes, and on a path that stays in one
	// host's memory nothing needs to.
	ChecksumPartial
)

// Checksum verifies the TCP checksum of a parsed packet. One valid checksum in 65536 looks partial by chance: on an
// interface where partial ones cannot come, use ChecksumFull.
func (p *Packet) Checksum() ChecksumState {
	// The partial form first: it needs no pass over the bytes.
	field := uint16(p.tcp[16])<<8 | uint16(p.tcp[17])
	if normal(field) == normal(pseudoSum(&p.Flow, protoTCP, len(p.tcp))) {
		return ChecksumPartial
	}
	if p.ChecksumFull() {
		return ChecksumValid
	}
	return ChecksumBad
}

// ChecksumFull reports whether the TCP checksum covers the whole segment and is right.
func (p *Packet) ChecksumFull() bool {
	return normal(Sum(p.tcp, pseudoSum(&p.Flow, protoTCP, len(p.tcp)))) == 0xffff
}

// pseudoSum is the folded sum over the pseudo-header of length bytes of a protocol (RFC 9293, 3.1; RFC 8200, 8.1). A sum
// is commutative, so the direction does not matter.
func pseudoSum(f *Flow, proto uint16, length int) uint16 {
	return addSum(addrSum(f), proto, uint16(length))
}

// addrSum is the part of the pseudo-header's sum that a connection never changes.
func addrSum(f *Flow) uint16 {
	if f.IsIPv4() {
		return Sum(f.Local[12:], Sum(f.Remote[12:], 0))
	}
	return Sum(f.Local[:], Sum(f.Remote[:], 0))
}
