// SPDX-License-Identifier: Apache-2.0

package tcp

// A sendBuffer holds the bytes from SND.UNA on: first those in flight, then those not yet sent.
//
//	head                          tail
//	[....xxxxxxxx] -> [xxxxxxx.....] -> [xxxxx.......]
//	     ^ first             ^ n              ^ n
//
// Positions count bytes from the start of the head chunk. A chunk need not be full, for bytes that were read straight into one
// (see fill.go) are not moved; but what two neighbours hold is always more than one could.
type sendBuffer struct {
	head, tail *chunk
	cur        *chunk // where the last copy was, so that sending on does not walk the list
	curPos     int32  // position of cur's first byte
	first      int32  // position of the first byte held: in the head chunk
	size       int32  // bytes held
}

// append copies as much of b as fits into limit bytes and the pool.
func (sb *sendBuffer) append(b []byte, limit int, pool *Pool) int {
	b = b[:min(len(b), max(0, limit-int(sb.size)))]
	done := 0
	for done < len(b) {
		if sb.tail == nil || sb.tail.n == chunkSize {
			c := pool.get()
			if c == nil {
				break
			}
			sb.link(c)
		}
		n := copy(sb.tail.data[sb.tail.n:], b[done:])
		done += n
		sb.tail.n += int32(n)
		sb.size += int32(n)
	}
	return done
}

// link puts a chunk at the end, with what it holds.
func (sb *sendBuffer) link(c *chunk) {
	if sb.tail == nil {
		sb.head = c
	} else {
		sb.tail.next = c
	}
	sb.tail = c
	sb.size += c.n
}

// copyAt copies the bytes that start off after the first one held.
func (sb *sendBuffer) copyAt(dst []byte, off int) {
	pos := int32(off) + sb.first
	if sb.cur == nil || pos < sb.curPos {
		sb.cur, sb.curPos = sb.head, 0
	}
	for len(dst) > 0 {
		for pos >= sb.curPos+sb.cur.n {
			sb.curPos += sb.cur.n
			sb.cur = sb.cur.next
		}
		n := copy(dst, sb.cur.data[pos-sb.curPos:sb.cur.n])
		dst = dst[n:]
		pos += int32(n)
	}
}

// drop forgets the first n bytes, and gives back what they filled.
func (sb *sendBuffer) drop(n int, pool *Pool) {
	sb.first += int32(n)
	sb.size -= int32(n)
	if sb.size == 0 {
		sb.release(pool)
		return
	}
	for sb.first >= sb.head.n {
		c := sb.head
		sb.head = c.next
		if sb.cur == c {
			sb.cur = nil
		}
		sb.first -= c.n
		sb.curPos -= c.n
		pool.put(c)
	}
}

// release gives everything back.
func (sb *sendBuffer) release(pool *Pool) {
	pool.putAll(sb.head)
	*sb = sendBuffer{}
}
