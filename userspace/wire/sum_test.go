// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math/rand/v2"
	"testing"
)

// naiveSum is RFC 1071 by the letter: one 16-bit word after another.
func naiveSum(b []byte, initial uint16) uint16 {
	acc := uint32(initial)
	for i, x := range b {
		if i%2 == 0 {
			acc += uint32(x) << 8
		} else {
			acc += uint32(x)
		}
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc>>16 + acc&0xffff)
}

func TestSumIsTheNaiveSumForEveryLengthAndAlignment(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 2048+8)
	for _, fill := range []func() byte{
		func() byte { return byte(r.Uint32()) },
		func() byte { return 0xff }, // all carries
		func() byte { return 0 },
	} {
		for i := range buf {
			buf[i] = fill()
		}
		for n := range 300 {
			b := buf[n%8:][:n]
			initial := uint16(r.Uint32())
			if got, want := Sum(b, initial), naiveSum(b, initial); normal(got) != normal(want) {
				t.Fatalf("%d bytes from %#04x: sum %#04x, want %#04x", n, initial, got, want)
			}
		}
	}
	if got, want := Sum(buf, 0), naiveSum(buf, 0); normal(got) != normal(want) {
		t.Fatalf("sum %#04x, want %#04x", got, want)
	}
}

func TestSumContinuesOverSlices(t *testing.T) {
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7} // the example of RFC 1071, 3
	if got := Sum(b, 0); got != 0xddf2 {
		t.Fatalf("sum %#04x, want 0xddf2", got)
	}
	if got := Sum(b[4:], Sum(b[:4], 0)); got != 0xddf2 {
		t.Fatalf("in two parts: sum %#04x, want 0xddf2", got)
	}
}

func BenchmarkSum1460(b *testing.B) {
	buf := make([]byte, 1460)
	for i := range buf {
		buf[i] = byte(i)
	}
	b.SetBytes(1460)
	var sink uint16
	for b.Loop() {
		sink = Sum(buf, sink)
	}
}
