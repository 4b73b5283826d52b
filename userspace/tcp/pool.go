// SPDX-License-Identifier: Apache-2.0

package tcp

// chunkSize is the payload of a chunk. With its link and the word that the Go runtime puts in front of objects
// with pointers, a chunk is one 4 KiB page, which wastes nothing of the allocator's size class. Smaller ones would
// make a full window a longer list to walk; larger ones would cost more for the usual request of a few
// hundred bytes.
const chunkSize = 4096 - 16

// A chunk is a link in a buffer's list.
type chunk struct {
	next *chunk
	data [chunkSize]byte
}

// A Pool hands out buffer memory to the connections of one shard, and takes it back when they have drained. It has no
// lock: the shard's lock covers it.
type Pool struct {
	limit int // chunks; 0: none
	inUse int
	free  *chunk
	nfree int

	freeSets        *rangeSet
	freeScoreboards *scoreboard
	freeRecords     *record
	nfreeRecords    int
	refused         uint64
}

// NewPool makes a pool that hands out at most limit chunks of 4 KiB at a time; 0 is no bound. At the bound a
// connection accepts no more bytes from its application, and drops what its peer sends.
func NewPool(limit int) *Pool { return &Pool{limit: limit} }

// InUse is the number of chunks that connections hold.
func (p *Pool) InUse() int { return p.inUse }

// Free is the number of chunks that wait to be used again.
func (p *Pool) Free() int { return p.nfree }

// Refused is how often the bound was reached.
func (p *Pool) Refused() uint64 { return p.refused }

// Trim leaves free chunks beyond keep to the garbage collector, and as many of the records that go with them.
func (p *Pool) Trim(keep int) {
	for ; p.nfree > keep; p.nfree-- {
		p.free = p.free.next
	}
	for ; p.nfreeRecords > 4*keep; p.nfreeRecords-- { // a chunk is three segments, or four
		p.freeRecords = p.freeRecords.next
	}
}

// full reports whether get would refuse.
func (p *Pool) full() bool { return p.limit > 0 && p.inUse >= p.limit }

// pressed reports that memory is so short that no connection should be allowed more than it has.
func (p *Pool) pressed() bool { return p.limit > 0 && p.inUse >= p.limit/4*3 }

// get gives a chunk whose bytes are undefined, or nil at the bound.
func (p *Pool) get() *chunk {
	if p.full() {
		p.refused++
		return nil
	}
	p.inUse++
	c := p.free
	if c == nil {
		return new(chunk)
	}
	p.free = c.next
	p.nfree--
	c.next = nil
	return c
}

// put takes one chunk back.
func (p *Pool) put(c *chunk) {
	c.next = p.free
	p.free = c
	p.nfree++
	p.inUse--
}

// putAll takes a whole list back.
func (p *Pool) putAll(c *chunk) {
	for c != nil {
		next := c.next
		p.put(c)
		c = next
	}
}

// getSet gives an empty rangeSet.
func (p *Pool) getSet() *rangeSet {
	s := p.freeSets
	if s == nil {
		return new(rangeSet)
	}
	p.freeSets = s.next
	s.next = nil
	return s
}

// putSet takes a rangeSet back.
func (p *Pool) putSet(s *rangeSet) {
	s.n, s.nrecent = 0, 0
	s.next = p.freeSets
	p.freeSets = s
}
