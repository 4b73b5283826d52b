// SPDX-License-Identifier: Apache-2.0

package tcp

// A sendBuffer holds the bytes from SND.UNA on: first those in flight, then those not yet sent.
//
//	head                          tail
//	[....xxxxxxxx] -> [xxxxxxxxxxxx] -> [xxxxx.......]
//	     ^ first                             ^ first+size
//
// Positions count from the start of the head chunk.
type sendBuffer struct {
	head, tail *chunk
	cur        *chunk // where the last copy was, so that sending on does not walk the list
	curPos     int32  // position of cur's first byte
	first      int32  // position of the first byte held: below chunkSize
	size       int32  // bytes held
}

// append copies as much of b as fits into limit bytes and the pool.
func (sb *sendBuffer) append(b []byte, limit int, pool *Pool) int {
	b = b[:min(len(b), max(0, limit-int(sb.size)))]
	done := 0
	for done < len(b) {
		end := int(sb.first+sb.size) % chunkSize
		if end == 0 {
			// The tail is full, or there is none.
			c := pool.get()
			if c == nil {
				break
			}
			if sb.tail == nil {
				sb.head = c
			} else {
				sb.tail.next = c
			}
			sb.tail = c
		}
		n := copy(sb.tail.data[end:], b[done:])
		done += n
		sb.size += int32(n)
	}
	return done
}

// copyAt copies the bytes that start off after the first one held.
func (sb *sendBuffer) copyAt(dst []byte, off int) {
	pos := int32(off) + sb.first
	if sb.cur == nil || pos < sb.curPos {
		sb.cur, sb.curPos = sb.head, 0
	}
	for len(dst) > 0 {
		for pos >= sb.curPos+chunkSize {
			sb.cur, sb.curPos = sb.cur.next, sb.curPos+chunkSize
		}
		n := copy(dst, sb.cur.data[pos-sb.curPos:])
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
	for sb.first >= chunkSize {
		c := sb.head
		sb.head = c.next
		if sb.cur == c {
			sb.cur = nil
		}
		pool.put(c)
		sb.first -= chunkSize
		sb.curPos -= chunkSize
	}
}

// release gives everything back.
func (sb *sendBuffer) release(pool *Pool) {
	pool.putAll(sb.head)
	*sb = sendBuffer{}
}
