// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"math/bits"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Millions of frames take a test run that costs less than a microsecond. So it is the bare system call
// here, and the maps that change from frame to frame are in memory that the test sees: counters, keys,
// control block and sketch. The program can't tell the difference.

// shareMaps makes them so. A per-CPU array can't be; a plain array serves as well, since one thread at
// a time runs frames through one program.
func shareMaps(spec *ebpf.CollectionSpec) {
	spec.Maps["counters"].Type = ebpf.Array
	for _, name := range []string{"counters", "keys"} {
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
	}
}

// The elements of an array start at multiples of 8 bytes, however small they are.
const arrayStride = 8

// memory is the memory of these maps.
type memory struct {
	counts, keys, control, sketch []byte
}

func (p *program) share() *memory {
	p.tb.Helper()
	open := func(m *ebpf.Map) []byte {
		size := int(m.MaxEntries()) * int((m.ValueSize()+arrayStride-1)/arrayStride*arrayStride)
		b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(p.tb, os.NewSyscallError("mmap", err))
		p.tb.Cleanup(func() { unix.Munmap(b) })
		return b
	}
	return &memory{counts: open(p.Counters), keys: open(p.Keys), control: open(p.Controls), sketch: open(p.Sketch)}
}

func (m *memory) counters() (n [ReasonCount]uint64) {
	for i := range n {
		n[i] = binary.NativeEndian.Uint64(m.counts[8*i:])
	}
	return n
}

func (m *memory) setControl(c Control) {
	*(*Control)(unsafe.Pointer(&m.control[0])) = c // a page of its own, so aligned
}

func (m *memory) setKeys(k CookieKeys) {
	b, err := k.MarshalBinary()
	if err != nil {
		panic(err) // it has no error to return
	}
	copy(m.keys, b)
}

// forget deletes a flow as user space does it: from the table, then from the sketch.
func (p *program) forget(f flow) error {
	key, table := p.flowKey(f.remote, f.local)
	if err := table.Delete(key); err != nil {
		return err
	}
	c := p.world.control
	counter := sketchHash(&c, f.remote, f.local, bits.Len32(p.Sketch.MaxEntries())-1+4)
	word := p.mem.sketch[counter/16*8:]
	binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)-1<<(counter%16*4))
	delete(p.world.flows, f)
	return nil
}

// testRun is BPF_PROG_TEST_RUN for one frame (union bpf_attr, linux/bpf.h). out must have room for what
// the frame may become.
func testRun(fd int, frame []byte, md xdpMD, out []byte) (result, error) {
	attr := struct {
		fd, retval, sizeIn, sizeOut       uint32
		in, out                           unsafe.Pointer
		repeat, duration, ctxIn, ctxOut   uint32
		ctxInAt, ctxOutAt                 unsafe.Pointer
		flags, cpu, batch, alignedTo8Byte uint32
	}{
		fd: uint32(fd), sizeIn: uint32(len(frame)), sizeOut: uint32(len(out)), repeat: 1,
		in: unsafe.Pointer(unsafe.SliceData(frame)), out: unsafe.Pointer(unsafe.SliceData(out)),
		ctxIn: uint32(unsafe.Sizeof(md)), ctxOut: uint32(unsafe.Sizeof(md)),
		ctxInAt: unsafe.Pointer(&md), ctxOutAt: unsafe.Pointer(&md),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return result{}, os.NewSyscallError("BPF_PROG_TEST_RUN", errno)
	}
	return result{verdict: attr.retval, meta: out[:md.Data], frame: out[md.Data:attr.sizeOut]}, nil
}
