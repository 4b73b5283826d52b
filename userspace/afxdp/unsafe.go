// SPDX-License-Identifier: Apache-2.0

package afxdp

// All of this package's unsafe code. It is sound because
//
//   - what mapRing looks at is memory from mmap(2), outside the Go heap: the collector neither moves nor
//     frees it, and it stays mapped until Close has taken every pointer to it out of use;
//   - every offset is checked against the length of the mapping, and the kernel's types have
//     the same size and alignment as ours (asserted below);
//   - pointers given to system calls are converted in the call itself, as unsafe.Pointer's rule 4 asks.

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Desc is struct xdp_desc: 16 bytes, nothing in between.
var _ [0]struct{} = [unsafe.Sizeof(Desc{}) - 16]struct{}{}

// viewRing lays a ring with n entries over the mapping mem, as off describes it.
func viewRing[T uint64 | Desc](mem []byte, off unix.XDPRingOffset, n int) (ring[T], error) {
	var entry T
	var r ring[T]
	size := uint64(len(mem))
	if off.Desc+uint64(n)*uint64(unsafe.Sizeof(entry)) > size || off.Desc%8 != 0 {
		return r, fmt.Errorf("the kernel's ring layout does not fit its mapping: %+v, %d entries, %d bytes", off, n, size)
	}
	for _, o := range [...]uint64{off.Producer, off.Consumer, off.Flags} {
		if o+4 > size || o%4 != 0 {
			return r, fmt.Errorf("the kernel's ring layout does not fit its mapping: %+v, %d bytes", off, size)
		}
	}
	r.producer = (*uint32)(unsafe.Pointer(&mem[off.Producer]))
	r.consumer = (*uint32)(unsafe.Pointer(&mem[off.Consumer]))
	r.flags = (*uint32)(unsafe.Pointer(&mem[off.Flags]))
	r.entries = unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), n)
	r.mask = uint32(n - 1)
	return r, nil
}

// ringBytes is the length of the mapping that holds a ring of n entries of type T.
func ringBytes[T uint64 | Desc](off unix.XDPRingOffset, n int) int {
	var entry T
	return int(off.Desc) + n*int(unsafe.Sizeof(entry))
}

func setUmemReg(fd int, umem []byte, chunk int) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(&umem[0]))),
		Len:  uint64(len(umem)),
		Size: uint32(chunk),
	}
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	return errnoOrNil(e)
}

// getXDPOption reads a socket option whose value is a T. An older kernel may fill in less of it.
func getXDPOption[T unix.XDPMmapOffsets | unix.XDPStatistics](fd, opt int) (T, error) {
	var v T
	n := uint32(unsafe.Sizeof(v))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&n)), 0)
	return v, errnoOrNil(e)
}

// kickTx asks the kernel to go on with the TX ring. In copy mode it sends there and then.
func kickTx(fd int) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return e
}

// kickRx asks the driver to look at the fill ring.
func kickRx(fd int) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return e
}

func errnoOrNil(e unix.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}
