// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A ring is our end of one of the four rings. Indices run freely over all 32 bits and wrap;
// the entry of index i is entries[i&mask]. The zero ring is one without entries.
type ring[T uint64 | Desc] struct {
	producer, consumer, flags *uint32 // shared with the kernel: sync/atomic only
	entries                   []T     // shared with the kernel: a power of two of them
	mask                      uint32

	ours   uint32 // the index that we write, as last published
	theirs uint32 // the kernel's index, as last read
}

// needWakeup reports whether the kernel asks for a system call to go on with this ring.
func (r *ring[T]) needWakeup() bool {
	return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0
}

// pending is how many entries lie between the two shared indices. It touches no private field, so
// any goroutine may call it; the answer is a snapshot.
func (r *ring[T]) pending() uint32 {
	consumer := atomic.LoadUint32(r.consumer)
	return atomic.LoadUint32(r.producer) - consumer
}

// A producer is a ring that we fill: the fill ring and the TX ring.
type producer[T uint64 | Desc] struct{ ring[T] }

// room returns for how many entries there is room, at least want if there is that much.
func (r *producer[T]) room(want int) int {
	size := uint32(len(r.entries))
	if n := int(size - (r.ours - r.theirs)); n >= want {
		return n
	}
	r.theirs = atomic.LoadUint32(r.consumer)
	return int(size - (r.ours - r.theirs))
}

// set writes the entry that is i behind the last published one. There must be room for it.
func (r *producer[T]) set(i int, v T) { r.entries[(r.ours+uint32(i))&r.mask] = v }

// publish hands the n entries that were set to the kernel.
func (r *producer[T]) publish(n int) {
	r.ours += uint32(n)
	atomic.StoreUint32(r.producer, r.ours)
}

// A consumer is a ring that the kernel fills: the RX ring and the completion ring.
type consumer[T uint64 | Desc] struct{ ring[T] }

// pop moves up to len(to) entries out of the ring.
func (r *consumer[T]) pop(to []T) int {
	n := int(r.theirs - r.ours)
	if n < len(to) {
		r.theirs = atomic.LoadUint32(r.producer)
		n = int(r.theirs - r.ours)
	}
	n = min(n, len(to))
	if n == 0 {
		return 0
	}
	m := copy(to[:n], r.entries[r.ours&r.mask:])
	copy(to[m:n], r.entries)
	r.ours += uint32(n)
	atomic.StoreUint32(r.consumer, r.ours)
	return n
}
