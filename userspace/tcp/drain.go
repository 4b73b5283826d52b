// SPDX-License-Identifier: Apache-2.0

package tcp

// A Drain is received bytes on their way to elsewhere, in the memory they were received into: who has it writes them without
// the lock, and then gives it back. They have been read, as far as the connection is concerned.
type Drain struct {
	chunks *chunk
	slices [maxDrain][]byte
	n      int
}

// maxDrain bounds the chunks of a Drain: 64 KiB.
const maxDrain = 16

// Slices are the bytes, in order. They must not be changed.
func (d *Drain) Slices() [][]byte { return d.slices[:d.n] }

// Take moves received bytes to d, and says how many; 0 when there are none.
func (c *Conn) Take(d *Drain) (n int) {
	*d = Drain{}
	for d.n < maxDrain && c.rcv.ready > 0 {
		k, b := c.rcv.take(c.cfg.Pool)
		k.next = d.chunks
		d.chunks = k
		d.slices[d.n] = b
		d.n++
		n += len(b)
	}
	return n
}

// GiveBack ends the use of what Take gave. The connection may be over.
func (c *Conn) GiveBack(d *Drain) {
	c.cfg.Pool.putAll(d.chunks)
	*d = Drain{}
}
