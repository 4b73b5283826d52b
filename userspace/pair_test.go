// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/wire"
	"github.com/xdptcp/xdptcp/vmtest/webtest"
)

// A pair is two engines joined by a cable. An engine never opens a connection: so each of them is told, in a handshake
// record, that the other has just finished opening one.
type pair struct {
	t       *testing.T
	options uint8 // of the handshakes: bpf.HandshakeSACK …
	server  *end
	client  *end
	dialled atomic.Uint32
	dialing sync.Mutex
	done    chan struct{}
	pumps   sync.WaitGroup
}

// An end is one of the two engines.
type end struct {
	links     []*memLink
	delivery  sync.Mutex // whoever has it may deliver
	flows     *memFlows
	records   sync.Map // by flow
	engine    *Engine
	listener  *Listener
	cableLost atomic.Uint64 // frames that found no free chunk
}

// The addresses: clients are told apart by theirs, and all have one port.
var (
	pairServer  = netip.MustParseAddrPort("192.0.2.1:80")
	pairClients = netip.MustParsePrefix("10.0.0.0/8")
)

const pairClientPort = 40000

// newPair makes two engines of so many queues each. With several, frames come in turn on all of them.
func newPair(t *testing.T, queues int, options uint8) *pair {
	t.Helper()
	p := &pair{t: t, options: options, server: newEnd(t, queues), client: newEnd(t, queues), done: make(chan struct{})}
	t.Cleanup(func() {
		p.client.engine.Close(0)
		p.server.engine.Close(0)
		close(p.done)
		p.pumps.Wait()
	})
	for q := range queues {
		p.pumps.Go(func() { p.pump(p.server.links[q], p.client) })
		p.pumps.Go(func() { p.pump(p.client.links[q], p.server) })
	}
	var err error
	if p.client.listener, err = p.client.engine.ListenPrefix(pairClients, pairClientPort); err != nil {
		t.Fatal(err)
	}
	p.listen(t)
	return p
}

func newEnd(t *testing.T, queues int) *end {
	t.Helper()
	e := &end{flows: &memFlows{flows: map[wire.Flow]bool{}}}
	cfg := Config{Flows: e.flows, MTU: 1500}
	for range queues {
		l := newMemLink()
		e.links = append(e.links, l)
		cfg.Links = append(cfg.Links, l)
	}
	var err error
	if e.engine, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return e
}

// listen makes the server's listener; anew, when it has been closed.
func (p *pair) listen(t *testing.T) *Listener {
	t.Helper()
	var err error
	if p.server.listener, err = p.server.engine.Listen(pairServer); err != nil {
		t.Fatal(err)
	}
	return p.server.listener
}

// pump is one fibre of the cable.
func (p *pair) pump(from *memLink, to *end) {
	for n := 0; ; n++ {
		select {
		case frame := <-from.sent:
			to.deliver(to.links[n%len(to.links)], frame, to.recordOf(frame))
		case <-p.done:
			return
		}
	}
}

// recordOf is the record that XDP would put in front of a frame: there is one as long as no more than the SYN is acknowledged.
func (e *end) recordOf(frame []byte) *bpf.Handshake {
	var w wire.Packet
	if err := wire.Parse(frame, &w); err != nil {
		return nil
	}
	if r, ok := e.records.Load(w.Flow); ok && w.Segment.Flags.Has(wire.ACK) && w.Segment.Ack == r.(*bpf.Handshake).Iss+1 {
		return r.(*bpf.Handshake)
	}
	return nil
}

// deliver waits for a free chunk, but not for long: both ends may be waiting for each other. Then the frame is lost.
func (e *end) deliver(l *memLink, frame []byte, record *bpf.Handshake) bool {
	e.delivery.Lock()
	defer e.delivery.Unlock()
	for start := time.Now(); !l.hasRoom(); time.Sleep(50 * time.Microsecond) {
		if time.Since(start) > 20*time.Millisecond {
			e.cableLost.Add(1)
			return false
		}
	}
	l.deliver(frame, record)
	return true
}

func (l *memLink) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.freeRx) > 0
}

// dial opens a connection: the server's end goes to its listener, the client's is returned.
func (p *pair) dial(context.Context) (net.Conn, error) {
	p.dialing.Lock()
	defer p.dialing.Unlock()
	n := p.dialled.Add(1)
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), pairClientPort)
	// What the server's XDP has agreed, and the same seen from the other side.
	up := bpf.Handshake{
		Magic: bpf.HandshakeMagic, Iss: n * 0x9e3779b1, Irs: n * 0x85ebca6b, TsOffset: n * 0xc2b2ae35, Mss: 1460,
		SndWscale: bpf.WindowScale, Flags: p.options,
	}
	down := up
	down.Iss, down.Irs, down.TsOffset = up.Irs, up.Iss, ^up.TsOffset
	for _, o := range []struct {
		to        *end
		record    *bpf.Handshake
		src, dst  netip.AddrPort
		timestamp uint32 // the sender's offset
	}{
		{p.server, &up, client, pairServer, down.TsOffset},
		{p.client, &down, pairServer, client, up.TsOffset},
	} {
		frame, flow := opening(o.src, o.dst, o.record, o.timestamp)
		o.to.flows.add(flow)
		o.to.records.Store(flow, o.record)
		if !o.to.deliver(o.to.links[int(n)%len(o.to.links)], frame, o.record) {
			return nil, errors.New("the final ACK was lost on the cable")
		}
	}
	c, err := p.client.listener.Accept()
	if err != nil {
		return nil, err
	}
	if c.LocalAddr().String() != client.String() {
		return nil, fmt.Errorf("the client's engine opened %v, want %v", c.LocalAddr(), client)
	}
	return c, nil
}

// opening is the final ACK of a handshake, and its flow as the receiver sees it.
func opening(src, dst netip.AddrPort, record *bpf.Handshake, tsOffset uint32) ([]byte, wire.Flow) {
	s := wire.Segment{Seq: record.Irs + 1, Ack: record.Iss + 1, Flags: wire.ACK, Window: 65535, WScale: -1}
	if record.Flags&bpf.HandshakeWScale != 0 {
		s.Window = bpf.Window >> bpf.WindowScale
	}
	if record.Flags&bpf.HandshakeTimestamps != 0 {
		s.Timestamps, s.TSVal, s.TSEcr = true, tsOffset+coarseTicks(), record.TsOffset+coarseTicks()
	}
	frame := make([]byte, 128)
	back := parsed(dst, src)
	template := wire.NewTemplate(&back)
	frame = frame[:template.Marshal(frame, &s)]
	return frame, parsed(src, dst).Flow
}

// parsed is a frame between two addresses, with an empty segment.
func parsed(src, dst netip.AddrPort) (w wire.Packet) {
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0}
	frame = append(append(frame, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	frame = binary.BigEndian.AppendUint16(frame, src.Port())
	frame = binary.BigEndian.AppendUint16(frame, dst.Port())
	frame = append(frame, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0)
	if err := wire.Parse(frame, &w); err != nil {
		panic(err) // the frame is ours
	}
	return w
}

// pipe is a connection with both its ends.
func (p *pair) pipe() (server, client net.Conn, err error) {
	client, err = p.dial(context.Background())
	if err != nil {
		return nil, nil, err
	}
	if server, err = p.server.listener.Accept(); err != nil {
		return nil, nil, err
	}
	if server.RemoteAddr().String() != client.LocalAddr().String() {
		return nil, nil, fmt.Errorf("the server accepted %v, want %v", server.RemoteAddr(), client.LocalAddr())
	}
	return server, client, nil
}

// pairs are the ways for two engines to be joined.
var pairs = []struct {
	name    string
	queues  int
	options uint8
}{
	{"all options", 1, bpf.HandshakeWScale | bpf.HandshakeSACK | bpf.HandshakeTimestamps},
	{"no options", 1, 0},
	{"three queues, each frame on the next", 3, bpf.HandshakeWScale | bpf.HandshakeSACK},
}

func TestTwoEnginesGiveConnsThatAreNetConnsToTheLetter(t *testing.T) {
	for _, kind := range pairs {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, kind.queues, kind.options)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				server, client, err := p.pipe()
				if err != nil {
					return nil, nil, nil, err
				}
				return server, client, func() { server.Close(); client.Close() }, nil
			})
			p.check(t, kind.queues)
		})
	}
}

func TestTwoEnginesCarryHTTPAndTLS(t *testing.T) {
	for _, kind := range pairs {
		if kind.options == 0 {
			continue // HTTP does not see the difference
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, kind.queues, kind.options)
			first := true
			webtest.TestListener(t, func(t *testing.T) (net.Listener, webtest.Dial) {
				if !first {
					p.listen(t) // the last server has closed its listener
				}
				first = false
				return p.server.listener, p.dial
			})
			p.check(t, kind.queues)
		})
	}
}

// check looks whether the engines are content.
func (p *pair) check(t *testing.T, queues int) {
	t.Helper()
	for _, e := range []*end{p.server, p.client} {
		st := e.engine.Stats()
		if st.Opened == 0 || st.BadFrames+st.BadChecksums+st.MemoryRefused > 0 {
			t.Errorf("engine: %+v", st)
		}
		if (queues > 1) != (st.Strays > 0) {
			t.Errorf("%d frames came on a queue that was not their connection's, with %d queues", st.Strays, queues)
		}
		t.Logf("%d connections, %d segments in, %d sent again, %d lost on the cable, %d strays lost", st.Opened, st.SegmentsIn, st.Retransmits, e.cableLost.Load(), st.StraysLost)
	}
}
