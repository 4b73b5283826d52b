// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// flight makes a script with n full segments in flight, and the congestion control that halves.
func flight(t *testing.T, n int, change ...func(*Handshake, *Config)) *script {
	s := newScript(t, append([]func(*Handshake, *Config){withNewReno}, change...)...)
	s.write(n * 1000)
	for i := range n {
		s.out(wire.ACK, i*1000, 0, 1000)
	}
	return s
}

// flown is the same after a round trip of 100 ms, when the peer's answers come.
func flown(t *testing.T, n int, change ...func(*Handshake, *Config)) *script {
	s := flight(t, n, change...)
	s.now = s.now.Add(100 * time.Millisecond)
	return s
}

func withNewReno(_ *Handshake, cfg *Config) { cfg.Congestion = NewReno{} }

func TestRTO(t *testing.T) {
	t.Run("it starts at a second, doubles, is bounded, and ends the connection", func(t *testing.T) {
		s := flight(t, 1, withoutSACK)
		for i := range s.cfg.Retries {
			want := min(time.Second<<i, 120*time.Second)
			if d := s.wait(); d != want {
				t.Errorf("time-out %d after %v, want %v", i, d, want)
			}
			n := 1000
			if i >= 2 { // the third tries a smaller size
				n = 536
			}
			s.out(wire.ACK, 0, 0, n)
			if g, ok := s.next(); ok && (n == 1000 || g.seq != n || g.PayloadLen != 1000-n) { // cwnd may have room for its rest
				t.Errorf("then seq %d with %d bytes", g.seq, g.PayloadLen)
			}
			s.silent()
		}
		s.wait()
		s.state(StateClosed)
		if s.c.Err() != ErrTimeout || s.ev != Closed {
			t.Errorf("error %v, event %b", s.c.Err(), s.ev)
		}
		if s.cfg.Pool.InUse() != 0 {
			t.Error("buffers were kept")
		}
	})
	t.Run("it follows the samples of RFC 6298, 2", func(t *testing.T) {
		s := flight(t, 1)
		s.now = s.now.Add(100 * time.Millisecond)
		s.in(wire.ACK, 0, 1000, "")
		if i := s.c.Info(); i.RTT != 100*time.Millisecond || i.RTTVar != 50*time.Millisecond || i.RTO != 300*time.Millisecond {
			t.Errorf("first sample: RTT %v ± %v, RTO %v", i.RTT, i.RTTVar, i.RTO)
		}
		s.write(1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.now = s.now.Add(180 * time.Millisecond)
		s.in(wire.ACK, 0, 2000, "")
		// RTTVAR = 3/4*50 + 1/4*|100-180|, SRTT = 7/8*100 + 1/8*180
		if i := s.c.Info(); i.RTT != 110*time.Millisecond || i.RTTVar != 57500*time.Microsecond || i.RTO != 340*time.Millisecond {
			t.Errorf("second sample: RTT %v ± %v, RTO %v", i.RTT, i.RTTVar, i.RTO)
		}
	})
	t.Run("what was sent twice is not timed", func(t *testing.T) {
		s := flight(t, 1)
		s.wait()
		s.out(wire.ACK, 0, 0, 1000)
		s.now = s.now.Add(time.Millisecond)
		s.in(wire.ACK, 0, 1000, "")
		if got := s.c.Info().RTT; got != 0 {
			t.Errorf("RTT %v", got)
		}
	})
	t.Run("the echoed timestamp tells which of the two it was", func(t *testing.T) {
		s := flight(t, 1, withTimestamps)
		s.wait()
		g := s.out(wire.ACK, 0, 0, 1000)
		s.now = s.now.Add(50 << 20) // 50 ticks
		seg := s.segment(wire.ACK, 0, 1000, "")
		seg.TSEcr = g.TSVal
		s.feed(seg)
		if got := s.c.Info().RTT; got != 50<<20 {
			t.Errorf("RTT %v, want 50 ticks", got)
		}
	})
	t.Run("the handshake is the first sample", func(t *testing.T) {
		s := newScript(t, func(hs *Handshake, _ *Config) { hs.RTT = 30 * time.Millisecond })
		if got := s.c.Info().RTO; got != 230*time.Millisecond {
			t.Errorf("RTO %v", got)
		}
	})
	t.Run("an acknowledgment starts the timer anew, the last one stops it", func(t *testing.T) {
		s := flight(t, 2)
		s.now = s.now.Add(900 * time.Millisecond)
		s.in(wire.ACK, 0, 1000, "")
		if d := s.c.Deadline().Sub(s.now); d < time.Second {
			t.Errorf("%v to go", d)
		}
		s.in(wire.ACK, 0, 2000, "")
		s.idle()
	})
	t.Run("after it, all is sent again in slow start", func(t *testing.T) {
		s := flight(t, 8, withoutSACK)
		s.wait()
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
		s.in(wire.ACK, 0, 1000, "")
		s.out(wire.ACK, 1000, 0, 1000)
		s.out(wire.ACK, 2000, 0, 1000)
		s.silent()
		// These have not been lost after all.
		s.in(wire.ACK, 0, 8000, "")
		s.silent()
		s.idle()
		if got := s.c.cwnd.Ssthresh; got != 4000 {
			t.Errorf("ssthresh %d, want half the flight", got)
		}
	})
	t.Run("a second one for the same segment leaves ssthresh alone", func(t *testing.T) {
		s := flight(t, 8, withoutSACK)
		s.wait()
		s.wait()
		if got := s.c.cwnd.Ssthresh; got != 4000 {
			t.Errorf("ssthresh %d", got)
		}
	})
}

func TestFastRetransmitWithSACK(t *testing.T) {
	t.Run("the third duplicate retransmits the hole, once", func(t *testing.T) {
		s := flown(t, 8)
		s.in(wire.ACK, 0, 0, "", 1000, 2000)
		s.silent()
		s.in(wire.ACK, 0, 0, "", 1000, 3000)
		s.silent()
		s.in(wire.ACK, 0, 0, "", 1000, 4000)
		s.out(wire.ACK, 0, 0, 1000)
		s.in(wire.ACK, 0, 0, "", 1000, 5000)
		if i := s.c.Info(); i.Cwnd != 4000 || i.Retransmits != 1 {
			t.Errorf("cwnd %d, %d retransmits", i.Cwnd, i.Retransmits)
		}
		s.in(wire.ACK, 0, 8000, "")
		s.silent()
		s.idle()
	})
	t.Run("an ACK that SACKs nothing new is no duplicate", func(t *testing.T) {
		s := flown(t, 8)
		for range 5 {
			s.in(wire.ACK, 0, 0, "", 1000, 2000)
		}
		s.silent()
	})
	t.Run("two segments' worth and more above a hole is enough, in one ACK", func(t *testing.T) {
		s := flown(t, 8)
		s.in(wire.ACK, 0, 0, "", 1000, 5000)
		s.out(wire.ACK, 0, 0, 1000)
	})
	t.Run("three separate blocks above a hole are enough, however small", func(t *testing.T) {
		s := flown(t, 8)
		s.in(wire.ACK, 0, 0, "", 1000, 1010, 2000, 2010)
		s.silent()
		s.in(wire.ACK, 0, 0, "", 3000, 3010)
		s.out(wire.ACK, 0, 0, 1000)
	})
	t.Run("what was retransmitted is in the pipe again", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 1000, 2000, 7000, 10000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 2000, 0, 1000)
		s.out(wire.ACK, 3000, 0, 1000)
		s.out(wire.ACK, 4000, 0, 1000)
		s.silent() // four have arrived, so four are sent, and two wait
	})
	t.Run("a hole before a FIN that has arrived is filled without a FIN", func(t *testing.T) {
		s := flown(t, 10)
		s.c.CloseWrite()
		s.out(wire.FIN|wire.ACK, 10000, 0, 0)
		s.in(wire.ACK, 0, 0, "", 1000, 9000, 10000, 10001)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 9000, 0, 1000)
	})
	t.Run("the last segment is lost when a retransmission has overtaken it", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 1000, 9000)
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
		s.now = s.now.Add(100 * time.Millisecond)
		s.in(wire.ACK, 0, 9000, "")
		s.out(wire.ACK, 9000, 0, 1000)
		s.silent()
	})
	t.Run("what it sent twice is not timed", func(t *testing.T) {
		s := flown(t, 8)
		s.in(wire.ACK, 0, 0, "", 1000, 8000)
		s.out(wire.ACK, 0, 0, 1000)
		s.now = s.now.Add(time.Millisecond)
		s.in(wire.ACK, 0, 8000, "")
		if got := s.c.Info().RTT; got != 100*time.Millisecond {
			t.Errorf("RTT %v", got)
		}
	})
	t.Run("each hole is filled as the pipe has room", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 1000, 2000, 3000, 4000, 5000, 10000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 2000, 0, 1000)
		s.out(wire.ACK, 4000, 0, 1000)
		s.silent()
	})
	t.Run("new data is sent when the holes are filled", func(t *testing.T) {
		s := flown(t, 10)
		s.write(2000)
		s.in(wire.ACK, 0, 0, "", 1000, 10000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 10000, 0, 1000)
	})
	t.Run("blocks beyond SND.NXT and below SND.UNA are not believed", func(t *testing.T) {
		s := flown(t, 8)
		s.in(wire.ACK, 0, 1000, "", 0, 500, 20000, 30000, 5000, 4000)
		if got := s.c.flight.sackedOctets; got != 0 {
			t.Errorf("%d octets were", got)
		}
	})
	t.Run("a peer that has thrown away what it had SACKed gets it again", func(t *testing.T) {
		s := flown(t, 4)
		s.in(wire.ACK, 0, 0, "", 1000, 2000)
		s.wait()
		s.out(wire.ACK, 0, 0, 1000)
		s.in(wire.ACK, 0, 1000, "")
		s.out(wire.ACK, 1000, 0, 1000)
	})
}

func TestFastRetransmitWithoutSACK(t *testing.T) {
	duplicates := func(s *script, n, ack int) {
		for range n {
			s.in(wire.ACK, 0, ack, "")
		}
	}
	t.Run("the third duplicate retransmits, and a partial acknowledgment the next", func(t *testing.T) {
		s := flight(t, 8, withoutSACK)
		duplicates(s, 3, 0)
		s.out(wire.ACK, 0, 0, 1000)
		duplicates(s, 3, 0)
		s.silent()
		s.in(wire.ACK, 0, 3000, "")
		s.out(wire.ACK, 3000, 0, 1000)
		s.silent()
		s.in(wire.ACK, 0, 8000, "")
		if i := s.c.Info(); i.Retransmits != 2 || i.Ssthresh != 4000 || s.c.recovery != recoveryNone {
			t.Errorf("%+v", i)
		}
	})
	t.Run("a partial acknowledgment takes back what it covers of the duplicates", func(t *testing.T) {
		s := flight(t, 8, withoutSACK)
		duplicates(s, 6, 0)
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
		s.in(wire.ACK, 0, 3000, "") // 5 in flight, of which 6-(3-1) have left
		s.write(9000)
		s.out(wire.ACK, 3000, 0, 1000)
		for i := range 3 {
			s.out(wire.ACK, 8000+i*1000, 0, 1000)
		}
		s.silent()
	})
	t.Run("a loss in a window that has been reduced already is found, and no reason to reduce it again", func(t *testing.T) {
		s := flown(t, 8, withoutSACK)
		if !s.c.congestionEvent(&delivery{}, s.now) || s.c.congestionEvent(&delivery{}, s.now) {
			t.Error("want one reduction for a window")
		}
		duplicates(s, 3, 0)
		s.out(wire.ACK, 0, 0, 1000)
		if got := s.c.Info().Ssthresh; got != 4000 {
			t.Errorf("ssthresh %d, want half the flight", got)
		}
	})
	t.Run("the first two let new data go (RFC 3042)", func(t *testing.T) {
		s := flight(t, 10, withoutSACK)
		s.write(3000)
		s.silent()
		duplicates(s, 1, 0)
		s.out(wire.ACK, 10000, 0, 1000)
		duplicates(s, 1, 0)
		s.out(wire.ACK, 11000, 0, 1000)
		s.silent()
	})
	for name, change := range map[string]func(s *script) *wire.Segment{
		"one with data":             func(s *script) *wire.Segment { return s.segment(wire.ACK, 0, 0, "x") },
		"a window update":           func(s *script) *wire.Segment { s.wnd--; return s.segment(wire.ACK, 0, 0, "") },
		"an acknowledgment of less": func(s *script) *wire.Segment { return s.segment(wire.ACK, 0, -1, "") },
	} {
		t.Run(name+" is no duplicate", func(t *testing.T) {
			s := flight(t, 8, withoutSACK)
			for range 5 {
				s.feed(change(s))
			}
			if got := s.c.Info(); got.DupAcksIn != 0 || s.c.recovery != recoveryNone {
				t.Errorf("%d counted", got.DupAcksIn)
			}
		})
	}
	t.Run("duplicates that a time-out's retransmissions made do not start it", func(t *testing.T) {
		s := flight(t, 8, withoutSACK)
		s.wait()
		s.out(wire.ACK, 0, 0, 1000)
		s.in(wire.ACK, 0, 8000, "")
		s.write(4000)
		for i := range 2 {
			s.out(wire.ACK, 8000+i*1000, 0, 1000)
		}
		duplicates(s, 3, 8000)
		if s.c.recovery != recoveryNone {
			t.Error("it started")
		}
	})
}

func TestCongestionWindow(t *testing.T) {
	t.Run("it begins with ten segments", func(t *testing.T) {
		s := newScript(t)
		s.write(20000)
		for i := range 10 {
			s.out(wire.ACK, i*1000, 0, 1000)
		}
		s.silent()
	})
	t.Run("it begins with 14600 bytes of large segments", func(t *testing.T) {
		s := newScript(t, func(hs *Handshake, _ *Config) { hs.MSS = 8000 })
		if got := s.c.Info().Cwnd; got != 16000 {
			t.Errorf("cwnd %d, want two segments", got)
		}
	})
	t.Run("slow start lets two go for each acknowledged", func(t *testing.T) {
		s := newScript(t)
		s.write(20000)
		for i := range 10 {
			s.out(wire.ACK, i*1000, 0, 1000)
		}
		s.silent()
		s.in(wire.ACK, 0, 1000, "")
		s.out(wire.ACK, 10000, 0, 1000)
		s.out(wire.ACK, 11000, 0, 1000)
		s.silent()
	})
	t.Run("congestion avoidance adds a segment in a round trip", func(t *testing.T) {
		w := Window{Cwnd: 10000, Ssthresh: 10000, MSS: 1000}
		for range 10 {
			NewReno{}.OnAck(&w, Ack{Octets: 1000})
		}
		if w.Cwnd != 11000 {
			t.Errorf("cwnd %d", w.Cwnd)
		}
	})
	t.Run("it does not grow unless it is used", func(t *testing.T) {
		s := newScript(t)
		for i := range 50 {
			s.write(1000)
			s.out(wire.ACK, i*1000, 0, 1000)
			s.silent()
			s.in(wire.ACK, 0, (i+1)*1000, "")
		}
		if got := s.c.Info().Cwnd; got != 10000 {
			t.Errorf("cwnd %d", got)
		}
	})
	t.Run("idle for longer than an RTO, it begins again", func(t *testing.T) {
		s := newScript(t)
		s.c.cwnd.Cwnd = 50000
		s.now = s.now.Add(2 * time.Second)
		s.write(20000)
		for i := range 10 {
			s.out(wire.ACK, i*1000, 0, 1000)
		}
		s.silent()
	})
}
