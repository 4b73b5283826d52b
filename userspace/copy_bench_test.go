// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"io"
	"net/netip"
	"testing"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A bulk is a Link with one client behind it, which acknowledges all at once, or sends as much as it may.
type bulk struct {
	crowd        // for its memory
	sends        bool
	opened       bool
	seq, ack     uint32 // of its next segment
	acked        uint32 // the last ack that it sent
	edge         uint32 // of the engine's window
	transmitting wire.Packet
}

const bulkChunk = 2048

func newBulk(sends bool) *bulk {
	l := &bulk{sends: sends, seq: peerIRS + 1, ack: peerISS + 1, edge: peerIRS + 1 + bpf.Window}
	l.umem = make([]byte, (batchSize+1)*bulkChunk)
	l.wake = make(chan struct{}, 1)
	return l
}

func (l *bulk) Receive(list []afxdp.Desc) (n int) {
	if !l.listens.Load() {
		return 0
	}
	for ; n < len(list); n++ {
		payload := 0
		switch {
		case !l.opened:
		case l.sends && int32(l.edge-l.seq) >= 1460:
			payload = 1460
		case !l.sends && l.acked != l.ack:
		default:
			return n
		}
		at := uint64(n * bulkChunk)
		chunk := l.umem[at : at+bulkChunk]
		if !l.opened {
			l.opened = true
			bpf.EncodeHandshake(chunk[:bpf.HandshakeSize], &bpf.Handshake{Magic: bpf.HandshakeMagic, Iss: peerISS, Irs: peerIRS,
				Mss: 1460, SndWscale: 7, Flags: bpf.HandshakeSACK | bpf.HandshakeWScale})
		}
		s := wire.Segment{Seq: l.seq, Ack: l.ack, Flags: wire.ACK, Window: 65535, PayloadLen: payload, WScale: -1}
		frame := segmentOf(1, chunk[bpf.HandshakeSize:], &s)
		l.seq += uint32(payload)
		l.acked = l.ack
		list[n] = afxdp.Desc{Addr: at + bpf.HandshakeSize, Len: uint32(len(frame))}
	}
	return n
}

func (l *bulk) Alloc() (afxdp.Desc, bool) {
	return afxdp.Desc{Addr: batchSize * bulkChunk, Len: bulkChunk}, true
}

func (l *bulk) Transmit(list []afxdp.Desc) int {
	for _, d := range list {
		if wire.Parse(l.Frame(d), &l.transmitting) == nil {
			s := &l.transmitting.Segment
			l.ack = s.Seq + uint32(s.Len())
			l.edge = s.Ack + uint32(s.Window)<<bpf.WindowScale
		}
	}
	l.Wake()
	return len(list)
}

// bulkConn is the server's end of a connection over a bulk.
func bulkConn(b *testing.B, sends bool) *Conn {
	link := newBulk(sends)
	engine, err := New(Config{Links: []Link{link}, Flows: &memFlows{flows: map[wire.Flow]bool{}}, MTU: 1500, PartialChecksums: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { engine.Close(0) })
	l, err := engine.Listen(netip.MustParseAddrPort("192.0.2.1:80"))
	if err != nil {
		b.Fatal(err)
	}
	link.listens.Store(true)
	c, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return c.(*Conn)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// perIteration is how many bytes are copied in one.
const perIteration = 8 << 20

// A milestone says whenever perIteration bytes more have been written to it.
type milestone struct {
	n       int
	reached chan struct{}
}

func newMilestone() *milestone { return &milestone{reached: make(chan struct{}, 1<<16)} }

func (m *milestone) Write(b []byte) (int, error) {
	if m.n += len(b); m.n >= perIteration {
		m.n -= perIteration
		m.reached <- struct{}{}
	}
	return len(b), nil
}

// BenchmarkCopy compares ReadFrom and WriteTo with a loop of Read and Write and a buffer of 32 KiB, as io.Copy has it.
func BenchmarkCopy(b *testing.B) {
	plainly := func(w io.Writer, r io.Reader) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 32<<10))
		return err
	}
	straight := func(w io.Writer, r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	}
	for _, how := range []struct {
		name string
		copy func(io.Writer, io.Reader) error
	}{{"straight", straight}, {"Read and Write", plainly}} {
		b.Run("from memory/"+how.name, func(b *testing.B) {
			copyFrom(b, endless{}, how.copy)
		})
		b.Run("from a kernel socket/"+how.name, func(b *testing.B) {
			near, far := kernelPair(b)
			go func() { _, _ = io.CopyBuffer(struct{ io.Writer }{far}, endless{}, make([]byte, 256<<10)) }()
			copyFrom(b, near, how.copy)
		})
		b.Run("to memory/"+how.name, func(b *testing.B) {
			m := newMilestone()
			copyTo(b, m, m, how.copy)
		})
		b.Run("to a kernel socket/"+how.name, func(b *testing.B) {
			near, far := kernelPair(b)
			m := newMilestone()
			go func() { _, _ = io.CopyBuffer(m, struct{ io.Reader }{far}, make([]byte, 256<<10)) }()
			copyTo(b, near, m, how.copy)
		})
	}
}

func copyFrom(b *testing.B, r io.Reader, how func(io.Writer, io.Reader) error) {
	c := bulkConn(b, false)
	b.SetBytes(perIteration)
	for b.Loop() {
		if err := how(c, io.LimitReader(r, perIteration)); err != nil {
			b.Fatal(err)
		}
	}
}

func copyTo(b *testing.B, w io.Writer, m *milestone, how func(io.Writer, io.Reader) error) {
	c := bulkConn(b, true)
	b.SetBytes(perIteration)
	go func() { _ = how(w, c) }()
	for b.Loop() {
		<-m.reached
	}
}
