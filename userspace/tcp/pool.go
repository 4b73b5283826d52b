// SPDX-License-Identifier: Apache-2.0

package tcp

// chunkSize is the payload of a chunk. With its link, its length and the word that the Go runtime puts in front of objects
// with pointers, a chunk is one 4 KiB page, which wastes nothing of the allocator's size class. Smaller ones would
// make a full window a longer list to walk; larger ones would cost more for the usual request of a few
// hundred bytes.
const chunkSize = 4096 - 24

// A chunk is a link in a buffer's list.
type chunk struct {
	next *chunk
	n    int32 // in a sendBuffer: how many bytes it has
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

	unused     int  // chunks that have been free ever since TrimUnused was last called
	setsWanted bool // a rangeSet was wanted since then

	refused Refusals
}

// Refusals are the times that a bound was met.
type Refusals struct {
	Memory        uint64 // no chunk was given: the pool was at its bound
	OutOfOrder    uint64 // a segment was not kept: it came out of order, and holes were too many or memory was short
	SendBuffer    uint64 // a Write was cut short: its connection's send buffer was full
	ReceiveBuffer uint64 // a segment was not taken, or not all of it: it was beyond the window, for which there is a buffer
}

// NewPool makes a pool that hands out at most limit chunks of 4 KiB at a time; 0 is no bound. At the bound a
// connection accepts no more bytes from its application, and drops what its peer sends.
func NewPool(limit int) *Pool { return &Pool{limit: limit} }

// InUse is the number of chunks that connections hold.
func (p *Pool) InUse() int { return p.inUse }

// Free is the number of chunks that wait to be used again.
func (p *Pool) Free() int { return p.nfree }

// Refusals says how often connections met the bounds of this pool, and their own.
func (p *Pool) Refusals() Refusals { return p.refused }

// maxTrim bounds what TrimUnused does at a time: each chunk may be a cache miss.
const maxTrim = 1024

// TrimUnused leaves to the garbage collector what nobody has needed since it was last called, 4 MiB at most.
func (p *Pool) TrimUnused() {
	p.Trim(p.nfree - min(p.unused, maxTrim))
	p.unused = p.nfree
	if !p.setsWanted {
		p.freeSets = nil
	}
	p.setsWanted = false
}

// Trim leaves free chunks beyond keep to the garbage collector, and as many of the records that go with them.
func (p *Pool) Trim(keep int) {
	for ; p.nfree > max(keep, 0); p.nfree-- {
		p.free = p.free.next
	}
	for ; p.nfreeRecords > 4*keep; p.nfreeRecords-- { // a chunk is three segments, or four
		p.freeRecords = p.freeRecords.next
	}
}

// full reports whether get would refuse.
func (p *Pool) full() bool { return p.limit > 0 && p.inUse >= p.limit }

// pressed reports that memory is so short that no connection should be allowed more than it has.
func (p *Pool) pressed() bool { return p.limit > 0 && p.inUse >= p.limit-p.limit/4 }

// get gives a chunk whose bytes are undefined, or nil at the bound.
func (p *Pool) get() *chunk {
	if p.full() {
		p.refused.Memory++
		return nil
	}
	p.inUse++
	c := p.free
	if c == nil {
		return new(chunk)
	}
	p.free = c.next
	p.nfree--
	p.unused = min(p.unused, p.nfree)
	c.next, c.n = nil, 0
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
	p.setsWanted = true
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
