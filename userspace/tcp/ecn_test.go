// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func withECN(hs *Handshake, _ *Config) { hs.ECN = true }

// marked feeds data that a router has marked.
func (s *script) marked(flags wire.Flags, seq, ack int, data string) {
	s.t.Helper()
	seg := s.segment(flags, seq, ack, data)
	seg.ECN = wire.CE
	s.feed(seg)
}

func TestOnlyNewDataIsECNCapable(t *testing.T) {
	s := newScript(t, withECN)
	s.write(2000)
	for i := range 2 {
		if g := s.out(wire.ACK, 1000*i, 0, 1000); g.ECN != wire.ECT0 {
			t.Errorf("segment %d: codepoint %d", i, g.ECN)
		}
	}
	s.in(wire.ACK|wire.PSH, 0, 0, zeros(1000)) // and to it
	s.in(wire.ACK|wire.PSH, 1000, 0, zeros(1000))
	if g := s.out(wire.ACK, 2000, 2000, 0); g.ECN != wire.NotECT {
		t.Errorf("a pure ACK has codepoint %d", g.ECN)
	}
	for s.c.Retransmits() == 0 {
		s.wait()
		g, ok := s.next()
		if ok && s.c.Retransmits() > 0 && g.ECN != wire.NotECT {
			t.Errorf("a retransmission has codepoint %d", g.ECN)
		}
	}
}

func TestWithoutECNNothingIsSaidOfIt(t *testing.T) {
	s := newScript(t)
	s.marked(wire.ACK|wire.PSH|wire.CWR, 0, 0, zeros(2000))
	s.write(1000)
	if g := s.out(wire.ACK, 0, 2000, 1000); g.ECN != wire.NotECT {
		t.Errorf("codepoint %d", g.ECN)
	}
	before := s.c.Info().Cwnd
	s.in(wire.ACK|wire.ECE, 2000, 1000, "")
	if i := s.c.Info(); i.Cwnd < before || i.ECN || i.CEIn+i.ECEIn > 0 {
		t.Errorf("cwnd was %d: %+v", before, i)
	}
}

func TestAMarkIsEchoedUntilThePeerHasSlowedDown(t *testing.T) {
	s := newScript(t, withECN)
	s.marked(wire.ACK|wire.PSH, 0, 0, zeros(10))
	s.out(wire.ACK|wire.ECE, 0, 10, 0) // at once
	s.in(wire.ACK|wire.PSH, 10, 0, zeros(10))
	s.write(5)
	s.out(wire.ACK|wire.ECE, 0, 20, 5) // and on data
	s.in(wire.ACK|wire.PSH|wire.CWR, 20, 5, zeros(10))
	s.write(5)
	s.out(wire.ACK, 5, 30, 5)
	// A segment that brings CWR and is marked itself: CWR is about the marks before.
	s.marked(wire.ACK|wire.PSH|wire.CWR, 30, 10, zeros(10))
	s.out(wire.ACK|wire.ECE, 10, 40, 0)
	if i := s.c.Info(); !i.ECN || i.CEIn != 2 {
		t.Errorf("%+v", i)
	}
}

func TestAMarkOnWhatIsNotInTheWindowMeansNothing(t *testing.T) {
	s := newScript(t, withECN)
	s.marked(wire.ACK|wire.PSH, 70000, 0, zeros(10))
	s.out(wire.ACK, 0, 0, 0)
	s.marked(wire.ACK, 0, 0, "") // and a pure ACK is not ECN-capable: who marks it does not speak ECN
	s.silent()
}

// cwnd is halved once for a window of data, and the peer hears of it once.
func TestAnECESlowsDownOncePerWindow(t *testing.T) {
	s := newScript(t, withECN, func(_ *Handshake, c *Config) { c.Congestion = NewReno{} })
	s.write(20000)
	for i := range 10 {
		s.out(wire.ACK, 1000*i, 0, 1000)
	}
	s.silent()
	s.in(wire.ACK|wire.ECE, 0, 2000, "")
	if i := s.c.Info(); i.Cwnd > 6000 || i.Cwnd < 4000 || i.ECEIn != 1 {
		t.Fatalf("after ECE: %+v", i)
	}
	s.silent()
	after := s.c.Info().Cwnd
	for _, ack := range []int{4000, 6000} { // of the same window
		s.in(wire.ACK|wire.ECE, 0, ack, "")
	}
	if i := s.c.Info(); i.Cwnd < after || i.ECEIn != 1 {
		t.Errorf("cwnd was %d: %+v", after, i)
	}
	s.out(wire.ACK|wire.CWR, 10000, 0, 1000)
	at := 11000
	for g, ok := s.next(); ok; g, ok = s.next() {
		if g.Flags.Has(wire.CWR) {
			t.Error("CWR again")
		}
		at += g.PayloadLen
	}
	s.in(wire.ACK|wire.ECE, 0, 10000, "") // all of that window, but not our CWR
	if i := s.c.Info(); i.ECEIn != 1 {
		t.Errorf("before our CWR can have arrived: %+v", i)
	}
	for g, ok := s.next(); ok; g, ok = s.next() {
		at += g.PayloadLen
	}
	s.in(wire.ACK|wire.ECE, 0, 11000, "")
	if i := s.c.Info(); i.ECEIn != 2 {
		t.Errorf("of the next window: %+v", i)
	}
	if i := s.c.Info(); i.Retransmits != 0 {
		t.Errorf("nothing was lost: %+v", i)
	}
}

// Whatever made cwnd smaller, the first new data says so.
func TestALossIsToldByCWR(t *testing.T) {
	s := newScript(t, withECN)
	s.write(20000)
	for i := range 10 {
		s.out(wire.ACK, 1000*i, 0, 1000)
	}
	for i := range 3 {
		s.in(wire.ACK, 0, 0, "", 1000, 2000+1000*i)
	}
	told, resent := 0, 0
	for g, ok := s.next(); ok; g, ok = s.next() {
		resent++
		if g.seq < 10000 && (g.Flags.Has(wire.CWR) || g.ECN != wire.NotECT) {
			t.Errorf("the retransmission of %d: %v, codepoint %d", g.seq, g.Flags, g.ECN)
		}
	}
	s.in(wire.ACK, 0, 10000, "")
	for g, ok := s.next(); ok; g, ok = s.next() {
		if g.Flags.Has(wire.CWR) {
			told++
		}
	}
	if told != 1 || resent == 0 {
		t.Errorf("%d segments with CWR, %d sent again", told, resent)
	}
}
