// SPDX-License-Identifier: Apache-2.0

package afxdp

import "golang.org/x/sys/unix"

// A umem is the frame memory of one socket: the chunks for receiving, then those for sending.
// Chunks are named by their offset, as in the rings.
type umem struct {
	mem    []byte
	chunk  uint64 // bytes in a chunk, a power of two
	tx     uint64 // offset of the first TX chunk
	freeTx []uint64
}

// newUmem maps the memory. It is not the Go heap's: the kernel pins the pages and writes to them, and they
// must outlive no Socket.
func newUmem(chunk, rxChunks, txChunks int) (*umem, error) {
	mem, err := unix.Mmap(-1, 0, chunk*(rxChunks+txChunks), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	// Fewer TLB misses, where it is to be had. No MAP_POPULATE: registering the UMEM pins, and so populates it.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	u := &umem{mem: mem, chunk: uint64(chunk), tx: uint64(chunk) * uint64(rxChunks), freeTx: make([]uint64, txChunks)}
	for i := range u.freeTx {
		// A stack: the lowest chunk goes out first.
		u.freeTx[i] = u.tx + uint64(txChunks-1-i)*u.chunk
	}
	return u, nil
}

// base returns the chunk that addr lies in. Received addresses point behind the headroom.
func (u *umem) base(addr uint64) uint64 { return addr &^ (u.chunk - 1) }

// isRx and isTx tell whose half addr is in.
func (u *umem) isRx(addr uint64) bool { return addr < u.tx }
func (u *umem) isTx(addr uint64) bool { return addr >= u.tx && addr < uint64(len(u.mem)) }

// sendable tells whether the kernel would take the descriptor. One that it refuses
// never shows up on the completion ring: its chunk would be lost.
func (u *umem) sendable(d Desc) bool {
	return u.isTx(d.Addr) && d.Len > 0 && d.Options == 0 &&
		d.Addr&(u.chunk-1)+uint64(d.Len) <= u.chunk
}

func (u *umem) unmap() error {
	mem := u.mem
	u.mem, u.freeTx = nil, nil
	return unix.Munmap(mem)
}
