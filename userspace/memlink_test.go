// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"sync"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// memLink is a Link in memory: tests put frames in and take out what the engine sends. Chunks are
// 2 KiB; the lower half of them is for receiving.
type memLink struct {
	mu      sync.Mutex
	umem    []byte
	freeRx  []uint64
	freeTx  []uint64
	pending []afxdp.Desc
	sent    chan []byte
	wake    chan struct{}
}

const memChunk, memChunks, memHeadroom = 2048, 256, 256

func newMemLink() *memLink {
	l := &memLink{
		umem: make([]byte, memChunk*memChunks), sent: make(chan []byte, 4096),
		wake: make(chan struct{}, 1),
	}
	for i := range uint64(memChunks / 2) {
		l.freeRx = append(l.freeRx, i*memChunk)
		l.freeTx = append(l.freeTx, (i+memChunks/2)*memChunk)
	}
	return l
}

// deliver puts a frame into the RX ring, with the handshake record in front of it if there is one.
func (l *memLink) deliver(frame []byte, record *bpf.Handshake) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr := l.freeRx[0] + memHeadroom
	l.freeRx = l.freeRx[1:]
	copy(l.umem[addr:], frame)
	if record != nil {
		bpf.EncodeHandshake(l.umem[addr-bpf.HandshakeSize:addr], record)
	}
	l.pending = append(l.pending, afxdp.Desc{Addr: addr, Len: uint32(len(frame))})
	l.Wake()
}

// room says whether there is a chunk for another frame.
func (l *memLink) room() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.freeRx) > 1
}

func (l *memLink) Receive(d []afxdp.Desc) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := copy(d, l.pending)
	l.pending = l.pending[n:]
	return n
}

func (l *memLink) Frame(d afxdp.Desc) []byte {
	return l.umem[d.Addr : d.Addr+uint64(d.Len) : d.Addr+uint64(d.Len)]
}

func (l *memLink) Meta(d afxdp.Desc, n int) []byte { return l.umem[d.Addr-uint64(n) : d.Addr] }

func (l *memLink) Recycle(d []afxdp.Desc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range d {
		// To the front: the next frame comes into the same chunk, and would meet what was left there.
		l.freeRx = append([]uint64{d.Addr &^ (memChunk - 1)}, l.freeRx...)
	}
}

func (l *memLink) Alloc() (afxdp.Desc, bool) {
	if len(l.freeTx) == 0 {
		return afxdp.Desc{}, false
	}
	addr := l.freeTx[len(l.freeTx)-1]
	l.freeTx = l.freeTx[:len(l.freeTx)-1]
	return afxdp.Desc{Addr: addr, Len: memChunk}, true
}

func (l *memLink) Free(d afxdp.Desc) { l.freeTx = append(l.freeTx, d.Addr) }

func (l *memLink) Transmit(list []afxdp.Desc) int {
	for _, d := range list {
		l.sent <- append([]byte(nil), l.Frame(d)...)
		l.freeTx = append(l.freeTx, d.Addr)
	}
	return len(list)
}

func (l *memLink) Flush() error { return nil }
func (l *memLink) Pending() int { return 0 }

func (l *memLink) Wait(timeout time.Duration) (bool, error) {
	select {
	case <-l.wake:
		return true, nil
	case <-time.After(timeout):
		return false, nil
	}
}

func (l *memLink) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next is the next segment that the engine sent.
func (l *memLink) next(t *testing.T) wire.Packet {
	t.Helper()
	select {
	case frame := <-l.sent:
		var p wire.Packet
		if err := wire.Parse(frame, &p); err != nil {
			t.Fatalf("the engine sent a bad frame: %v", err)
		}
		if p.Checksum() != wire.ChecksumValid {
			t.Fatal("the engine sent a bad checksum")
		}
		return p
	case <-time.After(2 * time.Second):
		t.Fatal("the engine sent nothing")
		panic("unreachable")
	}
}

// quiet fails if the engine sends anything within a moment.
func (l *memLink) quiet(t *testing.T) {
	t.Helper()
	select {
	case frame := <-l.sent:
		var p wire.Packet
		err := wire.Parse(frame, &p)
		t.Fatalf("the engine sent %v seq %d ack %d (%v), want nothing", p.Segment.Flags, p.Segment.Seq, p.Segment.Ack, err)
	case <-time.After(100 * time.Millisecond):
	}
}

// memFlows is a FlowTable in memory.
type memFlows struct {
	mu    sync.Mutex
	flows map[wire.Flow]bool
	keys  bpf.CookieKeys
}

func (m *memFlows) Delete(f wire.Flow) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flows, f)
	return nil
}

func (m *memFlows) Flows(f func(wire.Flow) bool) error {
	m.mu.Lock()
	var all []wire.Flow
	for flow := range m.flows {
		all = append(all, flow)
	}
	m.mu.Unlock()
	for _, flow := range all {
		if !f(flow) {
			break
		}
	}
	return nil
}

func (m *memFlows) Keys() *bpf.CookieKeys { return &m.keys }

func (m *memFlows) add(f wire.Flow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flows[f] = true
}

func (m *memFlows) has(f wire.Flow) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flows[f]
}
