// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestRACK(t *testing.T) {
	const rtt = 100 * time.Millisecond
	t.Run("a hole that one segment has overtaken is waited for, a quarter of the round trip", func(t *testing.T) {
		s := flown(t, 4)
		s.in(wire.ACK, 0, 0, "", 1000, 2000)
		s.silent()
		if d := s.wait(); d != rtt/4 {
			t.Errorf("the reordering timer ran for %v", d)
		}
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
	})
	t.Run("a hole that fills in the meantime is no loss", func(t *testing.T) {
		s := flown(t, 4)
		s.in(wire.ACK, 0, 0, "", 1000, 2000)
		s.now = s.now.Add(rtt / 8)
		s.in(wire.ACK, 0, 4000, "")
		s.silent()
		s.idle()
		if i := s.c.Info(); i.Retransmits != 0 || i.Cwnd != 10000 || !s.c.has(flagReordering) {
			t.Errorf("%d retransmits, cwnd %d", i.Retransmits, i.Cwnd)
		}
	})
	t.Run("on a path that has reordered, three segments are waited for, too", func(t *testing.T) {
		s := flown(t, 8)
		s.in(wire.ACK, 0, 0, "", 1000, 2000)
		s.in(wire.ACK, 0, 2000, "") // late
		s.in(wire.ACK, 0, 2000, "", 3000, 8000)
		s.silent()
		if d := s.wait(); d != rtt/4 {
			t.Errorf("the reordering timer ran for %v", d)
		}
		s.out(wire.ACK, 2000, 0, 1000)
	})
	t.Run("what was sent after the segment that has arrived is not lost", func(t *testing.T) {
		s := flown(t, 4)
		s.write(2000)
		s.out(wire.ACK, 4000, 0, 1000)
		s.out(wire.ACK, 5000, 0, 1000)
		s.in(wire.ACK, 0, 0, "", 1000, 4000)
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
	})
	t.Run("a retransmission that is lost is sent once more", func(t *testing.T) {
		s := flown(t, 8)
		s.write(4000)
		s.in(wire.ACK, 0, 0, "", 1000, 8000)
		s.out(wire.ACK, 0, 0, 1000)
		for i := range 3 {
			s.out(wire.ACK, 8000+i*1000, 0, 1000)
		}
		s.silent()
		s.now = s.now.Add(rtt)
		s.in(wire.ACK, 0, 0, "", 1000, 11000) // what was sent after it has arrived
		s.out(wire.ACK, 0, 0, 1000)
		if got := s.c.Info().Timeouts; got != 0 {
			t.Errorf("%d time-outs", got)
		}
	})
	t.Run("each round trip with a D-SACK makes the window wider, and 16 recoveries without forget it", func(t *testing.T) {
		s := flown(t, 8)
		s.c.minRTT, s.c.rtt.srtt = rtt, rtt
		s.c.set(flagReordering)
		s.c.stats.retransmits = 100
		for i, want := range []time.Duration{rtt / 4, rtt / 2, rtt * 3 / 4, rtt, rtt} {
			if got := s.c.reorderingWindow(); got != want {
				t.Errorf("after %d of them it is %v, want %v", i, got, want)
			}
			s.in(wire.ACK, 0, 1000*i, "", 1000*i-10, 1000*i)
			s.in(wire.ACK, 0, 1000*i, "", 1000*i-10, 1000*i) // the same round trip
			s.c.flight.rack.roundEnd = s.c.sndUna
		}
		for range persistRecoveries {
			s.c.agePersist()
		}
		if got := s.c.reorderingWindow(); got != rtt/4 {
			t.Errorf("in the end it is %v", got)
		}
	})
	t.Run("after a time-out, what was sent a moment ago is not taken for lost", func(t *testing.T) {
		s := flown(t, 2)
		s.in(wire.ACK, 0, 1000, "")
		s.now = s.c.rtxAt.Add(-time.Millisecond)
		s.write(2000)
		s.out(wire.ACK, 2000, 0, 1000)
		s.out(wire.ACK, 3000, 0, 1000)
		s.now = s.c.rtxAt
		s.c.flight.timerAt = Never // had the probe been lost
		s.c.Tick(s.now)
		s.out(wire.ACK, 1000, 0, 1000)
		if got := s.c.flight.lostOctets; got != 0 || s.c.pipe() != 3000 {
			t.Errorf("%d octets are taken for lost, %d for in flight", got, s.c.pipe())
		}
		s.sane()
	})
	t.Run("a peer that SACKs in crumbs does not make us keep a record of each", func(t *testing.T) {
		s := newScript(t)
		s.write(10000)
		for i := range 10 {
			s.out(wire.ACK, i*1000, 0, 1000)
		}
		for i := 1; i < 10000; i += 2 {
			s.in(wire.ACK, 0, 0, "", i, i+1)
			s.next()
		}
		if got := s.c.flight.records; got > 64+4*10+2 {
			t.Errorf("%d records", got)
		}
	})
	t.Run("an application that writes in crumbs does not either", func(t *testing.T) {
		s := newScript(t)
		for i := range 2000 {
			s.write(1)
			s.out(wire.ACK, i, 0, 1)
		}
		if got := s.c.flight.records; got > 64+4*2+1 {
			t.Errorf("%d records", got)
		}
		s.now = s.now.Add(rtt)
		s.in(wire.ACK, 0, 1500, "")
		s.in(wire.ACK, 0, 2000, "")
		s.idle()
	})
}

func TestTailLossProbe(t *testing.T) {
	const rtt = 100 * time.Millisecond
	// withRTT has a round trip measured, and n segments in flight.
	withRTT := func(t *testing.T, n int, change ...func(*Handshake, *Config)) *script {
		s := flown(t, 1, change...)
		s.in(wire.ACK, 0, 1000, "")
		s.write(n * 1000)
		for i := range n {
			s.out(wire.ACK, 1000+i*1000, 0, 1000)
		}
		return s
	}
	t.Run("two round trips after the last segment, it goes again", func(t *testing.T) {
		s := withRTT(t, 3)
		if d := s.wait(); d != 2*rtt+probeSlack {
			t.Errorf("after %v", d)
		}
		s.out(wire.ACK, 3000, 0, 1000)
		s.silent()
		if i := s.c.Info(); i.TailProbes != 1 || i.Timeouts != 0 || i.Cwnd != 10000 {
			t.Errorf("%d probes, %d time-outs, cwnd %d", i.TailProbes, i.Timeouts, i.Cwnd)
		}
	})
	t.Run("what has not been sent yet goes instead, whatever cwnd says", func(t *testing.T) {
		s := withRTT(t, 10)
		s.write(1000)
		s.silent()
		s.wait()
		s.out(wire.ACK, 11000, 0, 1000)
		s.silent()
	})
	t.Run("but not beyond the window", func(t *testing.T) {
		s := flown(t, 1)
		s.wnd = 3000
		s.in(wire.ACK, 0, 1000, "")
		s.write(4000)
		for i := range 3 {
			s.out(wire.ACK, 1000+i*1000, 0, 1000)
		}
		s.wait()
		s.out(wire.ACK, 3000, 0, 1000)
	})
	t.Run("for a single segment, the peer's delayed acknowledgment is waited for", func(t *testing.T) {
		s := withRTT(t, 1)
		if d := s.wait(); d != 300*time.Millisecond { // the RTO: earlier than 2*rtt + 200 ms
			t.Errorf("after %v", d)
		}
		s.out(wire.ACK, 1000, 0, 1000)
	})
	t.Run("it goes once, and then the retransmission time-out is waited for", func(t *testing.T) {
		s := withRTT(t, 3)
		s.wait()
		s.out(wire.ACK, 3000, 0, 1000)
		if d := s.wait(); d != 300*time.Millisecond {
			t.Errorf("time-out after %v", d)
		}
		s.out(wire.ACK, 1000, 0, 1000)
		if got := s.c.Info().Timeouts; got != 1 {
			t.Errorf("%d time-outs", got)
		}
	})
	t.Run("its SACK shows what else is lost", func(t *testing.T) {
		s := withRTT(t, 3)
		s.wait()
		s.out(wire.ACK, 3000, 0, 1000)
		s.now = s.now.Add(rtt)
		s.in(wire.ACK, 0, 1000, "", 3000, 4000)
		s.out(wire.ACK, 1000, 0, 1000)
		if got := s.c.Info().Timeouts; got != 0 {
			t.Errorf("%d time-outs", got)
		}
	})
	// after has the probe of three segments sent again, and an ACK come for it. One more segment follows.
	after := func(t *testing.T, blocks ...int) *script {
		s := withRTT(t, 3)
		s.wait()
		s.out(wire.ACK, 3000, 0, 1000)
		s.write(1000)
		s.out(wire.ACK, 4000, 0, 1000)
		s.now = s.now.Add(rtt)
		s.in(wire.ACK, 0, 4000, "", blocks...)
		s.in(wire.ACK, 0, 5000, "")
		return s
	}
	t.Run("a loss that it has repaired reduces cwnd", func(t *testing.T) {
		if i := after(t).c.Info(); i.Cwnd >= 10000 {
			t.Errorf("cwnd %d", i.Cwnd)
		}
	})
	t.Run("a D-SACK says that there was none", func(t *testing.T) {
		s := after(t, 3000, 4000)
		if i := s.c.Info(); i.Cwnd != 10000 || i.DSACKsIn != 1 {
			t.Errorf("cwnd %d, %d D-SACKs", i.Cwnd, i.DSACKsIn)
		}
	})
	t.Run("a SACK that comes just before it is its answer", func(t *testing.T) {
		s := withRTT(t, 3)
		s.wait()
		s.in(wire.ACK, 0, 1000, "", 2000, 4000)
		s.silent()
		if got := s.c.Info().TailProbes; got != 0 {
			t.Errorf("%d probes", got)
		}
	})
	t.Run("without SACK there is none", func(t *testing.T) {
		s := withRTT(t, 3, withoutSACK)
		if d := s.wait(); d != 300*time.Millisecond || s.c.Info().Timeouts != 1 {
			t.Errorf("a timer ran out after %v", d)
		}
	})
	t.Run("while a hole is known there is none", func(t *testing.T) {
		s := withRTT(t, 3)
		s.now = s.now.Add(rtt)
		s.in(wire.ACK, 0, 1000, "", 2000, 3000)
		s.wait()
		s.out(wire.ACK, 1000, 0, 1000)
		s.wait()
		if i := s.c.Info(); i.TailProbes != 0 || i.Timeouts != 1 {
			t.Errorf("%d probes, %d time-outs", i.TailProbes, i.Timeouts)
		}
	})
}
