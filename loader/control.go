// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
)

// nobody owns an interface whose daemon was told to end without a successor.
const nobody = 0

// A controlBlock is the one value of a `controls` map, in memory that XDP and its daemon share, and for a
// while another daemon too: see struct control in bpf/types.h. Fields that change are changed by atomic
// operations only.
type controlBlock struct {
	*bpf.Control
	memory []byte
}

// openControl maps a control block. Sound: the mapping lives until close, is a page long and page-aligned,
// and the kernel has checked that the value is as large as the struct.
func openControl(m *ebpf.Map) (*controlBlock, error) {
	if m.ValueSize() < uint32(unsafe.Sizeof(bpf.Control{})) {
		return nil, fmt.Errorf("map controls: %d bytes: of another version of xdptcp", m.ValueSize())
	}
	memory, err := unix.Mmap(m.FD(), 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map controls: mmap: %w", err)
	}
	return &controlBlock{Control: (*bpf.Control)(unsafe.Pointer(&memory[0])), memory: memory}, nil
}

func (c *controlBlock) close() error {
	c.Control = nil
	return unix.Munmap(c.memory)
}

// readControl reads a control block by system call: for whoever looks once, or when nobody knows how long
// the map is there.
func readControl(m *ebpf.Map) (c bpf.Control, err error) {
	if err := m.Lookup(uint32(0), &c); err != nil {
		return c, fmt.Errorf("map controls: %w", err)
	}
	return c, nil
}

// dismiss tells the daemon that renews this block's lease to end, in favour of the owner, a process pid.
func (c *controlBlock) dismiss(owner uint64, pid int) {
	atomic.StoreUint64(&c.Pid, uint64(pid))
	atomic.StoreUint64(&c.Owner, owner)
}

// extend moves the lease to a later end, never to an earlier one: two daemons may do so at once.
func (c *controlBlock) extend(until uint64) {
	for {
		now := atomic.LoadUint64(&c.Lease)
		if now >= until || atomic.CompareAndSwapUint64(&c.Lease, now, until) {
			return
		}
	}
}

// ticks is the time in the unit of leases: CLOCK_MONOTONIC in steps of 2^bpf.TickShift ns.
func ticks() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC): " + err.Error()) // cannot fail on Linux
	}
	return uint64(ts.Nano()) >> bpf.TickShift
}

// leaseAge is how long ago a lease ran out; below or at zero it holds.
func leaseAge(lease uint64) time.Duration {
	return time.Duration(int64(ticks())-int64(lease)) << bpf.TickShift
}

// randomOwner is a number that no other daemon has.
func randomOwner() (uint64, error) {
	var n uint64
	for n == nobody {
		if err := binary.Read(rand.Reader, binary.NativeEndian, &n); err != nil {
			return 0, fmt.Errorf("random number: %w", err)
		}
	}
	return n, nil
}
