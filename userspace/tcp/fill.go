// SPDX-License-Identifier: Apache-2.0

package tcp

// A Fill is memory of the pool for bytes that come from elsewhere, to be sent without being copied: who has it reads into
// it without the lock, and then hands it over. It belongs to its holder alone: whatever becomes of the connection meanwhile,
// nobody else writes there.
type Fill struct {
	chunks *chunk
	slices [maxFill][]byte
	n      int
}

// maxFill bounds the chunks of a Fill: 64 KiB.
const maxFill = 16

// FillSlice is how much one slice of a Fill holds.
const FillSlice = chunkSize

// Slices is where to read into, one after the other.
func (f *Fill) Slices() [][]byte { return f.slices[:f.n] }

// Reserve gives f room for as many bytes as the connection could take now, but no more than limit. False: there is too little
// to be worth a read, or the connection takes nothing any more; an Input or Tick will say Writable or Closed, as after Write.
func (c *Conn) Reserve(f *Fill, limit int) bool {
	*f = Fill{}
	if !c.takesData() {
		return false
	}
	room := min(limit, c.SendSpace())
	if room < min(limit, c.cfg.SendBuffer/4) {
		c.wantWrite(false)
		return false
	}
	for ; room > 0 && f.n < maxFill; f.n++ {
		k := c.cfg.Pool.get()
		if k == nil {
			break
		}
		k.next = f.chunks
		f.chunks = k
		f.slices[f.n] = k.data[:min(room, chunkSize)]
		room -= len(f.slices[f.n])
	}
	if f.n == 0 {
		c.wantWrite(true)
		return false
	}
	f.chunks = reverse(f.chunks) // into the order of the slices
	return true
}

func reverse(c *chunk) (r *chunk) {
	for c != nil {
		next := c.next
		c.next = r
		r, c = c, next
	}
	return r
}

// Commit sends the first n bytes of what f has room for, and gives the rest of it back. It says how many it took: all of
// them, or none if the connection takes nothing any more.
func (c *Conn) Commit(f *Fill, n int) (took int) {
	pool := c.cfg.Pool
	list := f.chunks
	*f = Fill{}
	if n > 0 && c.takesData() {
		took = n
	}
	for list != nil {
		k := list
		list = k.next
		k.next = nil
		k.n = int32(min(n, chunkSize))
		n -= int(k.n)
		switch tail := c.snd.tail; {
		case took == 0 || k.n == 0:
			pool.put(k)
		case tail != nil && tail.n+k.n <= chunkSize:
			// So little that it fits behind what is there: a chunk of its own would be a waste.
			copy(tail.data[tail.n:], k.data[:k.n])
			tail.n += k.n
			c.snd.size += k.n
			pool.put(k)
		default:
			c.snd.link(k)
		}
	}
	c.stats.bytesOut += uint64(took)
	return took
}
