// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"math/bits"
)

// Sum continues the internet checksum (RFC 1071) over b: it adds b's 16-bit words to initial in one's complement and
// folds the carries in. The result is not complemented. To continue over several slices, all but the last
// must have an even length.
//
// Words are loaded eight bytes at a time in little-endian order, which is the machine's own where it matters; by
// RFC 1071, 2(B) the sum of swapped words is the swapped sum, so one swap at the end puts it right.
func Sum(b []byte, initial uint16) uint16 {
	acc := uint64(bits.ReverseBytes16(initial))
	var c uint64
	for len(b) >= 64 {
		// One carry chain; the slice's fixed end lets the compiler drop the bounds checks.
		w := b[:64:64]
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), c)
		acc += c // cannot overflow: a carry leaves at most 2^64-2 behind
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	if len(b) > 0 {
		// The last bytes, as if zeros followed (RFC 1071, 4.1).
		var last uint64
		for i, x := range b {
			last |= uint64(x) << (8 * i)
		}
		acc, c = bits.Add64(acc, last, 0)
		acc += c
	}
	return bits.ReverseBytes16(fold(acc))
}

// fold brings a sum down to 16 bits, end-around carries included.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// addSum adds three words in one's complement.
func addSum(a, b, c uint16) uint16 { return fold(uint64(a) + uint64(b) + uint64(c)) }

// normal picks one of the two forms of zero that one's complement has.
func normal(sum uint16) uint16 {
	if sum == 0 {
		return 0xffff
	}
	return sum
}
