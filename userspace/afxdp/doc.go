// SPDX-License-Identifier: Apache-2.0

// Package afxdp sends and receives Ethernet frames over AF_XDP: one [Socket] on one queue of one
// device, with memory of its own.
//
// It knows frames, not protocols. It does not attach the XDP program and does not fill the XSKMAP
// that sends frames here: its user puts [Socket.FD] into that map. The interface is the kernel's
// Documentation/networking/af_xdp.rst and include/uapi/linux/if_xdp.h; names are the kernel's.
//
// # The way of a chunk
//
// The UMEM is one stretch of memory that the kernel and we share, cut into chunks of
// [Config.FrameSize]. A chunk is always in exactly one place. The UMEM has two halves that never mix:
//
//	RX:   fill ring ──kernel──► RX ring ──Receive──► yours ──Recycle──► fill ring
//	TX:   free list ──Alloc──► yours ──Transmit──► TX ring ──kernel──► completion ring ──► free list
//	                              └──────Free──────► free list
//
// So nothing but the kernel ever writes in front of a received frame, where XDP leaves its metadata
// ([Socket.Meta]). A frame without metadata leaves there what an earlier frame in the same chunk left:
// a reader clears a record once read, so that no later frame inherits it.
//
// No ring can be full, and no chunk waits for room: the RX and completion rings have an entry for every
// chunk of their half. The fill and TX rings have two, because the kernel publishes that it took an
// entry later than it hands on the chunk: a chunk can be back with us, and due for the ring again, while
// its old entry still counts (measured on 6.18: a TX ring of single size runs out within a second).
//
// # A loop
//
//	for {
//		s.Wait(untilNextTimer)     // without the lock
//		lock
//		n := s.Receive(batch)
//		...                        // s.Frame(batch[i]), s.Alloc, s.Transmit
//		s.Recycle(batch[:n])
//		unlock
//		s.Flush()                  // without the lock
//	}
//
// # Concurrency
//
// A Socket has no lock. Its user holds one of its own (the engine's shard lock) around every method
// except [Socket.Wait], [Socket.Flush], [Socket.Wake], [Socket.Stats], [Socket.FD] and [Socket.ZeroCopy], which any
// goroutine may call at any time, also during and after [Socket.Close]. Wait is for one goroutine at
// a time. What makes this sound:
//
//   - Flush reads the TX ring's shared indices only. Of several goroutines one makes the system call, and makes it again if
//     another came meanwhile (turnstile): that one had put its frames on the ring before.
//   - Wait reads no field that the others write, but for Close. It compares the RX ring's and the TX ring's two shared
//     indices, with atomic loads; they may be out of date the moment they are read, which costs one
//     empty turn or one system call, never a lost frame: poll(2) looks again inside the kernel.
//   - In copy mode poll(2) and sendto(2) both send what is on the TX ring. The kernel runs them under the
//     socket's mutex, so it does not matter that Wait polls while another goroutine flushes.
//   - Descriptors put on the TX ring while Wait already sleeps are sent by the Flush of whoever put
//     them there. What a Flush has to leave behind it tells the waiter, which then tries again every
//     200 µs (waiter.retrying: one side stores its word before it loads the other's, so one of them sees).
//   - Close unmaps the rings only after Wait, Flush, Wake and Stats have left, and wakes Wait for that.
//
// # Memory ordering
//
// A ring is an array and two free-running 32-bit indices in memory mapped from the kernel. The producer
// index is written by one side alone, the consumer index by the other alone. The contract, as in the kernel's
// net/xdp/xsk_queue.h:
//
//	producer                              consumer
//	  load-acquire consumer  (A)            load-acquire producer  (C)
//	  if there is room: write entries       if there is any: read entries
//	  store-release producer (B)            store-release consumer (D)
//
// B pairs with C: whoever sees the new producer index sees the entries, and the bytes of the
// frames they name. D pairs with A: whoever sees the new consumer index may overwrite
// the entries, because they have been read. All four go through sync/atomic on the *uint32 itself, which Go defines
// to be sequentially consistent, and so at least acquire and release; entries and frame bytes are plain
// memory, which the compiler and the CPU may not move across them.
//
// Each side keeps its own index in a private copy, the only one it ever reads, and a cached copy of the
// other side's, refreshed only when it says that there is too little: most operations touch
// no cache line that the kernel writes.
//
// The need-wakeup flag is read after the store to producer. Both are sequentially consistent, so if we
// miss the flag, the kernel's look at the ring after it set the flag finds our entries.
package afxdp
