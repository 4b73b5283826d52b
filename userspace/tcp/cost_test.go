// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"
	"unsafe"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestAnIdleConnectionIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Conn{}); size > 608 {
		t.Errorf("a Conn has %d bytes", size)
	} else {
		t.Logf("a Conn has %d bytes", size)
	}
	s := newScript(t)
	for i := range 5 {
		s.in(wire.ACK, i*3, i*5, "req")
		s.read()
		s.write(5)
		s.out(wire.ACK, i*5, (i+1)*3, 5)
	}
	s.in(wire.ACK, 15, 25, "")
	if n := s.cfg.Pool.InUse(); n != 0 {
		t.Errorf("it holds %d chunks", n)
	}
	if s.c.flight != nil || s.c.rcv.ooo != nil {
		t.Error("it holds a scoreboard, or what was out of order")
	}
	s.idle()
}

// exchange is a connection that gets requests and answers them.
type exchange struct {
	c        Conn
	in, out  wire.Segment
	now      Time
	req, buf [4096]byte
}

func newExchange() *exchange {
	x := &exchange{now: Time(time.Second)}
	x.c.Open(DefaultConfig(), Handshake{ISS: 1, IRS: 1, MSS: 1460, RcvWnd: 65535, SndWScale: 7, RcvWScale: 7, SACK: true, Timestamps: true}, x.now)
	x.in = wire.Segment{Seq: 2, Ack: 2, Flags: wire.ACK, Window: 512, WScale: -1, Timestamps: true}
	x.c.Input(&x.in, x.now)
	return x
}

// turn is one request of n bytes and an answer of m.
func (x *exchange) turn(n, m int) (segments int) {
	x.now += Time(time.Millisecond)
	x.in.Payload, x.in.PayloadLen = x.req[:n], n
	x.c.Input(&x.in, x.now)
	x.in.Seq += uint32(n)
	x.c.Read(x.buf[:])
	x.c.Write(x.buf[:m])
	for x.c.Output(&x.out, x.now) {
		x.c.CopyPayload(x.buf[:x.out.PayloadLen], &x.out)
		x.in.Ack = x.out.Seq + uint32(x.out.PayloadLen)
		segments++
	}
	return segments
}

func TestASegmentCostsNoAllocation(t *testing.T) {
	x := newExchange()
	x.turn(100, 1000)
	if n := testing.AllocsPerRun(1000, func() { x.turn(100, 1000) }); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
	// Out of order, and back in order.
	hole := func() {
		x.in.Seq += 1000
		x.turn(1000, 0)
		x.in.Seq -= 2000
		x.turn(1000, 0)
		x.in.Seq += 1000
	}
	hole()
	if n := testing.AllocsPerRun(1000, hole); n != 0 {
		t.Errorf("%v allocations for a hole", n)
	}
	if x.c.rcv.ooo != nil || x.c.Buffered() != 0 {
		t.Error("the hole did not close")
	}
}

func TestALossCostsNoAllocation(t *testing.T) {
	x := newExchange()
	x.in.PayloadLen, x.in.Payload = 0, nil
	ack := func(n uint32, blocks ...wire.SACKBlock) {
		x.now += Time(10 * time.Millisecond)
		x.in.Ack = n
		x.in.NSACK = copy(x.in.SACK[:], blocks)
		x.c.Input(&x.in, x.now)
		for x.c.Output(&x.out, x.now) {
			x.c.CopyPayload(x.buf[:x.out.PayloadLen], &x.out)
			x.in.TSEcr = x.out.TSVal
		}
	}
	// The first and the fifth of eight are lost, and part of the sixth is SACKed before the rest of it.
	una := x.in.Ack
	lose := func() {
		x.c.cwnd.Cwnd = 20_000
		for range 8 {
			x.c.Write(x.req[:1448])
		}
		ack(una)
		at := func(n uint32) uint32 { return una + n*724 }
		ack(una, wire.SACKBlock{Left: at(2), Right: at(8)}, wire.SACKBlock{Left: at(10), Right: at(11)})
		ack(una, wire.SACKBlock{Left: at(2), Right: at(8)}, wire.SACKBlock{Left: at(10), Right: at(16)})
		ack(at(8), wire.SACKBlock{Left: at(10), Right: at(16)})
		ack(at(16))
		una = at(16)
	}
	lose()
	before := x.c.Retransmits()
	if n := testing.AllocsPerRun(1000, lose); n != 0 {
		t.Errorf("%v allocations for two losses", n)
	}
	if got := x.c.Retransmits() - before; got != 2*1001 || x.c.Unacked() != 0 {
		t.Errorf("%d retransmissions, %d octets not acknowledged", got, x.c.Unacked())
	}
}

func TestARequestCostsTheServerNoPureAck(t *testing.T) {
	var client, server Conn
	hs, chs := handshakes(Handshake{ISS: 10, IRS: 20, MSS: 1460, RcvWnd: 65535, SACK: true, Timestamps: true, SndWScale: 7, RcvWScale: 7})
	now := Time(time.Second)
	server.Open(DefaultConfig(), hs, now)
	client.Open(DefaultConfig(), chs, now)
	client.sndWnd = hs.RcvWnd
	client.set(flagAckNow) // the handshake's final ACK
	var seg wire.Segment
	var buf [65536]byte
	// deliver has a batch come to its end before anything is answered.
	deliver := func(from, to *Conn) (n int) {
		for ; from.Output(&seg, now); n++ {
			b := make([]byte, seg.PayloadLen)
			from.CopyPayload(b, &seg)
			seg.Payload = b
			to.Input(&seg, now)
		}
		return n
	}
	deliver(&client, &server)
	const requests = 1000
	for range requests {
		client.Write(buf[:120])
		deliver(&client, &server)
		server.Read(buf[:])
		server.Write(buf[:1000])
		now = now.Add(100 * time.Microsecond)
		if n := deliver(&server, &client); n != 1 {
			t.Fatalf("%d segments for one answer", n)
		}
		client.Read(buf[:])
	}
	client.CloseWrite()
	deliver(&client, &server)
	if n := server.Info().PureAcksOut; n != 0 {
		t.Errorf("%d pure ACKs before the end", n)
	}
	deliver(&server, &client) // to the FIN
	if i := server.Info(); i.PureAcksOut != 1 || i.PiggybackedAcksOut != requests || i.SegsOut != requests+1 {
		t.Errorf("%d pure ACKs, %d along with data, %d segments", i.PureAcksOut, i.PiggybackedAcksOut, i.SegsOut)
	}
}

// Each segment arrives by itself here: there are no batches that one ACK would do for.
func TestATransferCostsTheReceiverOnePureAckForTwoSegments(t *testing.T) {
	const size = 4_000_000
	s := newSim(t, 1, oneWay(size, nil))
	s.run()
	if err := s.finished(); err != nil {
		t.Fatal(err)
	}
	acks, segments := s.hosts[0].c.Info().PureAcksOut, s.hosts[1].c.Info().SegsOut
	t.Logf("%d pure ACKs for %d segments, %.0f for a megabyte", acks, segments, float64(acks)/(size/1e6))
	// The handshake's and the FIN's, and the last segment may be an odd one.
	if acks > segments/2+3 {
		t.Errorf("%d pure ACKs for %d segments", acks, segments)
	}
}

func BenchmarkReceiveSegmentAndAcknowledge(b *testing.B) {
	x := newExchange()
	x.in.Payload, x.in.PayloadLen = x.req[:1448], 1448
	for b.Loop() {
		x.now += 1000
		x.c.Input(&x.in, x.now)
		x.in.Seq += 1448
		for x.c.Output(&x.out, x.now) {
		}
		x.c.Read(x.buf[:])
	}
	b.SetBytes(1448)
}

func BenchmarkRequestAndAnswer(b *testing.B) {
	x := newExchange()
	for b.Loop() {
		x.turn(100, 1000)
	}
}

func BenchmarkSendSegmentAndTakeItsAcknowledgment(b *testing.B) {
	x := newExchange()
	x.in.Payload, x.in.PayloadLen = nil, 0
	for b.Loop() {
		x.now += 1000
		x.c.Write(x.req[:1448])
		x.c.Output(&x.out, x.now)
		x.c.CopyPayload(x.buf[:1448], &x.out)
		x.in.Ack = x.out.Seq + 1448
		x.c.Input(&x.in, x.now)
		if x.c.Output(&x.out, x.now) {
			b.Fatal("it sent more")
		}
	}
	b.SetBytes(1448)
}
