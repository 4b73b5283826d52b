// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// sketchBits is how many bits choose one of the sketch's counters, of which there are as many as there may
// be flows of a family, and at least a page full.
func sketchBits(flows int) int {
	return max(bits.Len(uint(flows-1)), bits.Len(uint(16*512-1)))
}

// A sketch is XDP's count of flows by hash, in memory that XDP and we share: see bpf/flows.h.
type sketch struct {
	control *controlBlock // its SketchKey
	words   []uint64
	memory  []byte
	bits    int
}

// openSketch maps the sketch's memory. Sound: the mapping lives until close, is as long as the map says,
// and page-aligned; both sides change words by atomic operations only.
func openSketch(m *ebpf.Map, control *controlBlock) (*sketch, error) {
	size := int(m.MaxEntries()) * 8
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map sketch: mmap: %w", err)
	}
	return &sketch{
		control: control, memory: memory,
		words: unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), m.MaxEntries()),
		bits:  bits.Len32(m.MaxEntries()-1) + 4,
	}, nil
}

// gone counts a flow down, after it was deleted from its table.
func (s *sketch) gone(f wire.Flow) {
	remote, local := f.Remote[:], f.Local[:]
	if f.IsIPv4() {
		remote, local = remote[12:], local[12:]
	}
	var words []uint32
	for _, addr := range [][]byte{remote, local} {
		for ; len(addr) > 0; addr = addr[4:] {
			words = append(words, binary.NativeEndian.Uint32(addr))
		}
	}
	var ports [4]byte
	binary.BigEndian.PutUint16(ports[:], f.RemotePort)
	binary.BigEndian.PutUint16(ports[2:], f.LocalPort)
	hash := s.control.SketchHash(words, binary.NativeEndian.Uint32(ports[:]), s.bits)
	atomic.AddUint64(&s.words[hash/16], -(uint64(1) << (hash % 16 * 4)))
}

func (s *sketch) close() error { return unix.Munmap(s.memory) }
