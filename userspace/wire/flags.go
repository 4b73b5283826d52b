// SPDX-License-Identifier: Apache-2.0

package wire

import "strings"

// Flags are the control bits of a TCP header (RFC 9293, 3.1).
type Flags uint8

// The control bits, in the order of the wire's byte.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// ECN is what the IP header says of congestion (RFC 3168, 5).
type ECN uint8

// The codepoints.
const (
	NotECT ECN = iota // whoever sent it does not speak ECN: congestion drops it
	ECT1
	ECT0 // it may be marked instead
	CE   // it was: congestion experienced
)

var flagNames = [8]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// Has reports whether all bits of want are set.
func (f Flags) Has(want Flags) bool { return f&want == want }

// Any reports whether at least one bit of want is set.
func (f Flags) Any(want Flags) bool { return f&want != 0 }

// String gives the bits' names joined by bars, such as "SYN|ACK"; "none" for no bit.
func (f Flags) String() string {
	if f == 0 {
		return "none"
	}
	var b strings.Builder
	for i, name := range flagNames {
		if f&(1<<i) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('|')
		}
		b.WriteString(name)
	}
	return b.String()
}
