// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	kernelTxBudget = 32  // frames per send in copy mode: the kernel's TX_BATCH_SIZE
	txBudget       = 256 // what we ask for
	reapEvery      = 16  // Allocs between two looks at the completion ring
	idleKicks      = 4   // sends in a row without visible progress before Flush leaves the rest
)

// Alloc takes a free TX chunk. Its Len is the whole chunk: Frame gives all of it to be written, and
// the writer then sets Len. false: all chunks are in flight or in the caller's hands.
func (s *Socket) Alloc() (Desc, bool) {
	// Chunks that were sent lately are still in the cache: have them be the next ones used.
	if s.reapIn--; s.reapIn <= 0 || len(s.umem.freeTx) == 0 {
		s.reapIn = reapEvery
		s.reap()
		if len(s.umem.freeTx) == 0 {
			return Desc{}, false
		}
	}
	last := len(s.umem.freeTx) - 1
	addr := s.umem.freeTx[last]
	s.umem.freeTx = s.umem.freeTx[:last]
	s.txHeld++
	return Desc{Addr: addr, Len: uint32(s.umem.chunk)}, true
}

// Free gives back an allocated chunk that will not be sent. It panics if the chunk cannot be one.
func (s *Socket) Free(d Desc) {
	if s.closed.Load() {
		return
	}
	if !s.umem.isTx(d.Addr) || s.txHeld == 0 {
		panic(fmt.Sprintf("afxdp: Free of %+v: not an allocated chunk", d))
	}
	s.txHeld--
	s.umem.freeTx = append(s.umem.freeTx, s.umem.base(d.Addr))
}

// reap moves sent chunks from the completion ring to the free list.
func (s *Socket) reap() {
	if s.closed.Load() {
		return
	}
	free := s.umem.freeTx
	n := s.comp.pop(free[len(free):cap(free)])
	back := free[len(free) : len(free)+n]
	for i := range back {
		back[i] = s.umem.base(back[i])
	}
	s.umem.freeTx = free[:len(free)+n]
}

// Transmit puts allocated chunks, with Len set, on the TX ring and returns how many: all, unless the
// socket is closed. There is no system call: Flush makes the kernel send. A frame may start anywhere in
// its chunk (add to Addr). It panics on a descriptor that the kernel would refuse, because its
// chunk would never come back.
func (s *Socket) Transmit(d []Desc) int {
	if len(d) == 0 || s.closed.Load() {
		return 0
	}
	if s.txHeld < len(d) {
		panic(fmt.Sprintf("afxdp: Transmit of %d chunks, but only %d are out", len(d), s.txHeld))
	}
	if room := s.tx.room(len(d)); room < len(d) {
		panic(fmt.Sprintf("afxdp: TX ring has room for %d of %d chunks: its indices are corrupt", room, len(d)))
	}
	n, bytes := len(d), uint64(0)
	for i := range d {
		if !s.umem.sendable(d[i]) {
			panic(fmt.Sprintf("afxdp: Transmit of %+v: not a frame inside one TX chunk", d[i]))
		}
		bytes += uint64(d[i].Len)
		s.tx.set(i, d[i])
	}
	s.tx.publish(n)
	s.txHeld -= n
	s.counters.txFrames.Add(uint64(n))
	s.counters.txBytes.Add(bytes)
	return n
}

// Pending returns how many descriptors on the TX ring the kernel has not taken yet, as far as it says.
func (s *Socket) Pending() int {
	if s.closed.Load() {
		return 0
	}
	return int(s.tx.pending())
}

// Flush makes the kernel send what is on the TX ring, with as few system calls as it takes: none when the driver is at it
// already, or another goroutine, whose Flush then sends ours too. Any goroutine may call it, without the user's lock: a send
// takes long, and on veth it does the receiver's work as well. What the kernel cannot take now (the device's queue is full)
// stays on the ring, for Wait or the next Flush to go on with. An error is one that trying again does not cure by itself
// (ENETDOWN: device down; ENXIO: device gone).
func (s *Socket) Flush() error {
	s.open.RLock()
	defer s.open.RUnlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	if s.tx.pending() == 0 || !s.tx.needWakeup() || !s.flushing.enter() {
		return nil
	}
	var err error
	if !s.flushing.do(flushRounds, func() { err = s.kick() }) {
		s.leave() // enough done for others: the waiter comes back for what is left
	}
	return err
}

// flushRounds bounds what a Flush does for goroutines that come meanwhile: the one inside may be a receive loop, which has
// other things to do.
const flushRounds = 16

// A turnstile lets one goroutine at a time do what one can do for all. Who comes meanwhile goes away, and the one inside does
// it once more: what the other wanted done had come about before it asked.
type turnstile struct{ state atomic.Uint32 }

const (
	turnstileFree = iota
	turnstileTaken
	turnstileAgain // taken, and somebody came
)

// enter reports whether the caller is the one; it then calls leave.
func (t *turnstile) enter() bool {
	for {
		switch {
		case t.state.CompareAndSwap(turnstileFree, turnstileTaken):
			return true
		case t.state.Load() == turnstileAgain, t.state.CompareAndSwap(turnstileTaken, turnstileAgain):
			return false
		}
	}
}

// leave reports whether the caller is through; otherwise it has to do it once more.
func (t *turnstile) leave() bool {
	if t.state.CompareAndSwap(turnstileTaken, turnstileFree) {
		return true
	}
	t.state.Store(turnstileTaken)
	return false
}

// do is for who has entered: it calls f, and again for those who came meanwhile, but only so many times. It reports whether nobody
// is left.
func (t *turnstile) do(times int, f func()) bool {
	for range times {
		if f(); t.leave() {
			return true
		}
	}
	t.state.Store(turnstileFree)
	return false
}

func (t *turnstile) taken() bool { return t.state.Load() != turnstileFree }

// kick is Flush, by one goroutine at a time.
func (s *Socket) kick() error {
	for idle := 0; ; {
		pending := s.tx.pending()
		if pending == 0 || !s.tx.needWakeup() {
			return nil
		}
		if idle >= idleKicks+int(pending)/kernelTxBudget {
			s.leave()
			return nil
		}
		s.counters.txKicks.Add(1)
		switch e := kickTx(s.fd); e {
		case 0:
			return nil // copy mode: all sent; zero-copy: the driver is at it
		case unix.EAGAIN, unix.EBUSY, unix.ENOBUFS, unix.EINTR:
			// EAGAIN: the budget of one call, or no room further down. EBUSY: the device dropped one, which
			// counts as sent. Older kernels publish no progress here until the ring is empty, so "idle" may
			// also mean 32 frames on.
			if s.tx.pending() == pending {
				idle++
			} else {
				idle = 0
			}
		default:
			s.leave()
			return flushError(e)
		}
	}
}

// leave sees to it that the waiter comes back for descriptors that are left on the TX ring.
func (s *Socket) leave() {
	if !s.waiter.retrying.Load() {
		s.waiter.signal()
	}
}
