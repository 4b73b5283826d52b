// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// Kinds and lengths of the options (RFC 9293, 3.2; RFC 7323; RFC 2018).
const (
	optEnd           = 0
	optNOP           = 1
	optMSS           = 2
	optWScale        = 3
	optSACKPermitted = 4
	optSACK          = 5
	optTimestamps    = 8

	lenMSS           = 4
	lenWScale        = 3
	lenSACKPermitted = 2
	lenSACKBlock     = 8
	lenTimestamps    = 10

	maxOptions = 40

	// paddedTimestamps is the usual start: NOP NOP kind length, which leaves the numbers aligned (RFC 7323, appendix A).
	paddedTimestamps = optNOP<<24 | optNOP<<16 | optTimestamps<<8 | lenTimestamps
)

// parseOptions reads what it knows and skips what it does not. From a malformed length on nothing can be
// trusted, so the options behind it are ignored, and those before it stand.
func parseOptions(b []byte, s *Segment) {
	// Nearly every segment of a running connection has just these twelve bytes.
	if len(b) == 12 && binary.BigEndian.Uint32(b) == paddedTimestamps {
		s.Timestamps = true
		s.TSVal = binary.BigEndian.Uint32(b[4:])
		s.TSEcr = binary.BigEndian.Uint32(b[8:])
		return
	}
	for len(b) > 0 {
		kind := b[0]
		if kind == optEnd {
			return
		}
		if kind == optNOP {
			b = b[1:]
			continue
		}
		if len(b) < 2 {
			return
		}
		n := int(b[1])
		if n < 2 || n > len(b) {
			return
		}
		if !parseOption(kind, b[2:n], s) {
			return
		}
		b = b[n:]
	}
}

// parseOption reads one option's value; false if its length does not suit its kind.
func parseOption(kind byte, v []byte, s *Segment) bool {
	switch kind {
	case optMSS:
		if len(v) != lenMSS-2 {
			return false
		}
		s.MSS = binary.BigEndian.Uint16(v)
	case optWScale:
		if len(v) != lenWScale-2 {
			return false
		}
		// RFC 7323, 2.3: a shift above 14 counts as 14.
		s.WScale = int8(min(v[0], 14))
	case optSACKPermitted:
		if len(v) != lenSACKPermitted-2 {
			return false
		}
		s.SACKPermitted = true
	case optTimestamps:
		if len(v) != lenTimestamps-2 {
			return false
		}
		s.Timestamps = true
		s.TSVal = binary.BigEndian.Uint32(v)
		s.TSEcr = binary.BigEndian.Uint32(v[4:])
	case optSACK:
		if len(v) == 0 || len(v)%lenSACKBlock != 0 {
			return false
		}
		s.NSACK = min(len(v)/lenSACKBlock, MaxSACKBlocks)
		for i := range s.NSACK {
			block := v[i*lenSACKBlock:]
			s.SACK[i] = SACKBlock{binary.BigEndian.Uint32(block), binary.BigEndian.Uint32(block[4:])}
		}
	}
	return true
}

// optionsLen is the length of s's options on the wire: a multiple of four.
func (s *Segment) optionsLen() int {
	n := 0
	if s.MSS != 0 {
		n += 4
	}
	if s.SACKPermitted || s.Timestamps {
		n += optionPairLen(s)
	}
	if s.WScale >= 0 {
		n += 4
	}
	if blocks := s.sackBlocks(n); blocks > 0 {
		n += 4 + blocks*lenSACKBlock
	}
	return n
}

// optionPairLen is what SACK-permitted and timestamps take: the first is where the second's padding would be.
func optionPairLen(s *Segment) int {
	if s.Timestamps {
		return 12
	}
	return 4
}

// sackBlocks is how many of s's blocks fit beside n bytes of other options.
func (s *Segment) sackBlocks(n int) int {
	return min(s.NSACK, (maxOptions-4-n)/lenSACKBlock)
}

// putOptions writes s's options to b, which has optionsLen bytes.
func putOptions(b []byte, s *Segment) {
	n := 0
	if s.MSS != 0 {
		binary.BigEndian.PutUint32(b, optMSS<<24|lenMSS<<16|uint32(s.MSS))
		n += 4
	}
	switch {
	case s.Timestamps:
		head := uint32(paddedTimestamps)
		if s.SACKPermitted {
			head = optSACKPermitted<<24 | lenSACKPermitted<<16 | optTimestamps<<8 | lenTimestamps
		}
		binary.BigEndian.PutUint32(b[n:], head)
		binary.BigEndian.PutUint32(b[n+4:], s.TSVal)
		binary.BigEndian.PutUint32(b[n+8:], s.TSEcr)
		n += 12
	case s.SACKPermitted:
		binary.BigEndian.PutUint32(b[n:], optNOP<<24|optNOP<<16|optSACKPermitted<<8|lenSACKPermitted)
		n += 4
	}
	if s.WScale >= 0 {
		binary.BigEndian.PutUint32(b[n:], optNOP<<24|optWScale<<16|lenWScale<<8|uint32(s.WScale))
		n += 4
	}
	if blocks := s.sackBlocks(n); blocks > 0 {
		binary.BigEndian.PutUint32(b[n:], optNOP<<24|optNOP<<16|optSACK<<8|uint32(2+blocks*lenSACKBlock))
		n += 4
		for _, block := range s.SACK[:blocks] {
			binary.BigEndian.PutUint32(b[n:], block.Left)
			binary.BigEndian.PutUint32(b[n+4:], block.Right)
			n += lenSACKBlock
		}
	}
}
