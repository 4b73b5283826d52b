// SPDX-License-Identifier: Apache-2.0

package tcp

// A recvBuffer holds received bytes that the application has not read. A segment that arrives out of order is
// copied to where it belongs, so when the hole before it closes, nothing moves.
//
//	head                               tail
//	[....xxxxxxxx] -> [xxx......xxx] -> [xx...........]
//	     ^ first          ^ first+ready = RCV.NXT
//	                            ^^^     ^^ in ooo
//
// Positions count from the start of the head chunk.
type recvBuffer struct {
	head, tail *chunk
	cur        *chunk // where the last write was
	curPos     int32  // position of cur's first byte
	chunks     int32
	first      int32     // position of the first unread byte: below chunkSize
	ready      int32     // bytes that Read may take
	ooo        *rangeSet // what has arrived beyond RCV.NXT; nil when nothing has
}

// write copies b to the place off after the first unread byte. It fails when the pool is at its bound, and then nothing
// has been written that counts.
func (rb *recvBuffer) write(off int, b []byte, pool *Pool) bool {
	pos := rb.first + int32(off)
	for rb.chunks*chunkSize < pos+int32(len(b)) {
		c := pool.get()
		if c == nil {
			rb.releaseIfEmpty(pool)
			return false
		}
		if rb.tail == nil {
			rb.head = c
		} else {
			rb.tail.next = c
		}
		rb.tail = c
		rb.chunks++
	}
	if rb.cur == nil || pos < rb.curPos {
		rb.cur, rb.curPos = rb.head, 0
	}
	for len(b) > 0 {
		for pos >= rb.curPos+chunkSize {
			rb.cur, rb.curPos = rb.cur.next, rb.curPos+chunkSize
		}
		n := copy(rb.cur.data[pos-rb.curPos:], b)
		b = b[n:]
		pos += int32(n)
	}
	return true
}

// read moves ready bytes to dst, and gives back the chunks it has emptied.
func (rb *recvBuffer) read(dst []byte, pool *Pool) int {
	dst = dst[:min(len(dst), int(rb.ready))]
	done := 0
	for done < len(dst) {
		n := copy(dst[done:], rb.head.data[rb.first:])
		done += n
		rb.first += int32(n)
		rb.ready -= int32(n)
		if rb.first == chunkSize {
			pool.put(rb.unlink())
		}
	}
	rb.releaseIfEmpty(pool)
	return done
}

// unlink takes the head chunk out, of which nothing is unread.
func (rb *recvBuffer) unlink() *chunk {
	c := rb.head
	rb.head = c.next
	if rb.tail == c {
		rb.tail = nil
	}
	if rb.cur == c {
		rb.cur = nil
	}
	rb.first = 0
	rb.chunks--
	rb.curPos -= chunkSize
	c.next = nil
	return c
}

// take moves ready bytes out, up to the end of their chunk, with the chunk they are in. There must be some.
func (rb *recvBuffer) take(pool *Pool) (*chunk, []byte) {
	n := min(rb.ready, chunkSize-rb.first)
	b := rb.head.data[rb.first : rb.first+n]
	rb.first += n
	rb.ready -= n
	switch {
	case rb.first == chunkSize:
		c := rb.unlink()
		rb.releaseIfEmpty(pool)
		return c, b
	case rb.ready == 0 && rb.ooo == nil:
		// Nothing that comes later is in the chunk. The next bytes start a new one.
		c := rb.unlink()
		rb.release(pool)
		return c, b
	}
	// What has arrived out of order stays in the chunk.
	c := pool.get()
	if c == nil {
		c = new(chunk) // for a moment, above the bound
		pool.inUse++
	}
	return c, c.data[:copy(c.data[:], b)]
}

// releaseIfEmpty gives the chunks back if no byte in them counts.
func (rb *recvBuffer) releaseIfEmpty(pool *Pool) {
	if rb.ready == 0 && rb.ooo == nil {
		rb.release(pool)
	}
}

// release gives everything back.
func (rb *recvBuffer) release(pool *Pool) {
	rb.releaseOOO(pool)
	pool.putAll(rb.head)
	*rb = recvBuffer{}
}

// releaseOOO forgets what has arrived out of order.
func (rb *recvBuffer) releaseOOO(pool *Pool) {
	if rb.ooo != nil {
		pool.putSet(rb.ooo)
		rb.ooo = nil
	}
}
