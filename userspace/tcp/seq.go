// SPDX-License-Identifier: Apache-2.0

package tcp

// Seq is a sequence number: arithmetic is modulo 2^32, and order is only meaningful between numbers less than
// 2^31 apart (RFC 9293, 3.4).
type Seq uint32

// Add gives the number n after s (before it, when n is negative).
func (s Seq) Add(n int) Seq { return s + Seq(uint32(n)) }

// Sub gives how far s is after t; negative when it is before.
func (s Seq) Sub(t Seq) int32 { return int32(s - t) }

// Less reports whether s comes before t.
func (s Seq) Less(t Seq) bool { return int32(s-t) < 0 }

// LessEq reports whether s comes before t or is t.
func (s Seq) LessEq(t Seq) bool { return int32(s-t) <= 0 }

// InWindow reports whether s is one of the size numbers that start at left.
func (s Seq) InWindow(left Seq, size uint32) bool { return uint32(s-left) < size }

// maxSeq is the later of two numbers.
func maxSeq(a, b Seq) Seq {
	if a.Less(b) {
		return b
	}
	return a
}

// minSeq is the earlier of two numbers.
func minSeq(a, b Seq) Seq {
	if b.Less(a) {
		return b
	}
	return a
}
