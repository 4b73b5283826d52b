// SPDX-License-Identifier: Apache-2.0

package tcp

// maxRanges bounds a rangeSet: a peer decides how many holes there are.
const maxRanges = 32

// A seqRange is the sequence numbers from left up to, not including, right.
type seqRange struct{ left, right Seq }

func (r seqRange) len() int { return int(r.right.Sub(r.left)) }

// A rangeSet is a bounded set of sequence numbers, kept as sorted ranges that neither overlap nor touch: what has arrived out of
// order. (What the peer says has arrived of ours is in the scoreboard.)
type rangeSet struct {
	n int
	r [maxRanges]seqRange

	// A number out of each of the ranges that last grew, newest first: the order in which to report them
	// (RFC 2018, 4).
	nrecent int
	recent  [4]Seq

	next *rangeSet // in the pool
}

// ranges is the set, in order.
func (s *rangeSet) ranges() []seqRange {
	if s == nil {
		return nil
	}
	return s.r[:s.n]
}

// add puts a range in, and says how many numbers are new. At the bound it refuses: ok is false.
func (s *rangeSet) add(left, right Seq) (added int, ok bool) {
	if !left.Less(right) {
		return 0, true
	}
	// r[i:j] are those that overlap or touch it.
	i := 0
	for i < s.n && s.r[i].right.Less(left) {
		i++
	}
	j := i
	added = int(right.Sub(left))
	for ; j < s.n && s.r[j].left.LessEq(right); j++ {
		overlap := seqRange{maxSeq(s.r[j].left, left), minSeq(s.r[j].right, right)}
		added -= overlap.len()
	}
	if i == j {
		if s.n == maxRanges {
			return 0, false
		}
		copy(s.r[i+1:s.n+1], s.r[i:s.n])
		s.r[i] = seqRange{left, right}
		s.n++
		return added, true
	}
	s.r[i] = seqRange{minSeq(s.r[i].left, left), maxSeq(s.r[j-1].right, right)}
	copy(s.r[i+1:], s.r[j:s.n])
	s.n -= j - i - 1
	return added, true
}

// cut takes out everything before left.
func (s *rangeSet) cut(left Seq) {
	i := 0
	for i < s.n && s.r[i].right.LessEq(left) {
		i++
	}
	copy(s.r[:], s.r[i:s.n])
	s.n -= i
	if s.n > 0 {
		s.r[0].left = maxSeq(s.r[0].left, left)
	}
}

// touch remembers that the range around seq has just grown.
func (s *rangeSet) touch(seq Seq) {
	copy(s.recent[1:], s.recent[:])
	s.recent[0] = seq
	s.nrecent = min(s.nrecent+1, len(s.recent))
}

// find gives the range that holds seq.
func (s *rangeSet) find(seq Seq) (seqRange, bool) {
	for _, r := range s.ranges() {
		if r.left.LessEq(seq) && seq.Less(r.right) {
			return r, true
		}
	}
	return seqRange{}, false
}

// report fills dst with ranges in the order of RFC 2018, 4: first the one that the newest segment is in, then those
// reported most recently, then any.
func (s *rangeSet) report(dst []seqRange) int {
	n := 0
	for _, seq := range s.recent[:s.nrecent] {
		if r, ok := s.find(seq); ok {
			n = appendNew(dst, n, r)
		}
	}
	for _, r := range s.ranges() {
		n = appendNew(dst, n, r)
	}
	return n
}

// appendNew puts r behind dst[:n], unless it is there or there is no room.
func appendNew(dst []seqRange, n int, r seqRange) int {
	if n == len(dst) {
		return n
	}
	for _, have := range dst[:n] {
		if have == r {
			return n
		}
	}
	dst[n] = r
	return n + 1
}
