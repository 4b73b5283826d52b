// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestOnlyWhatIsInFlightIsOutstanding(t *testing.T) {
	s := flight(t, 3)
	s.in(wire.ACK, 0, 1000, "")
	for _, tt := range []struct {
		seq  int
		want bool
	}{{999, false}, {1000, true}, {2999, true}, {3000, false}, {1000 - 1<<31, false}} {
		if got := s.c.Outstanding(uint32(s.hs.ISS.Add(1 + tt.seq))); got != tt.want {
			t.Errorf("number %d: %v", tt.seq, got)
		}
	}
	s.in(wire.ACK, 0, 3000, "")
	if s.c.Outstanding(uint32(s.hs.ISS.Add(3000))) || s.c.Outstanding(uint32(s.hs.ISS.Add(3001))) {
		t.Error("with all acknowledged, nothing is outstanding")
	}
	s.write(1000)
	s.out(wire.ACK, 3000, 0, 1000)
	s.c.Abort()
	if s.c.Outstanding(uint32(s.hs.ISS.Add(3001))) {
		t.Error("after the end, nothing is outstanding")
	}
}

func TestAWindowProbesOctetIsOutstanding(t *testing.T) {
	s := newScript(t)
	s.wnd = 0
	s.in(wire.ACK, 0, 0, "")
	s.write(1000)
	s.silent()
	s.wait()
	s.out(wire.ACK, 0, 0, 1)
	if !s.c.Outstanding(uint32(s.hs.ISS.Add(1))) || s.c.Outstanding(uint32(s.hs.ISS.Add(2))) {
		t.Error("the probe's octet alone must be outstanding")
	}
}

func TestASoftErrorIsNotedAndChangesNothing(t *testing.T) {
	s := flight(t, 2)
	before := s.c.Info()
	s.c.SoftError(wire.ICMPUnreachable)
	s.c.SoftError(wire.ICMPTimeExceeded)
	s.sane()
	s.silent()
	s.state(StateEstablished)
	after := s.c.Info()
	if after.SoftErrors != 2 || after.SoftError != wire.ICMPTimeExceeded {
		t.Errorf("%d soft errors, the last one %d", after.SoftErrors, after.SoftError)
	}
	after.SoftErrors, after.SoftError = 0, 0
	if after != before {
		t.Errorf("got  %+v\nwant %+v", after, before)
	}
}

func TestLowerMSS(t *testing.T) {
	t.Run("what is in flight is sent again in segments that fit", func(t *testing.T) {
		s := flight(t, 3)
		if !s.c.LowerMSS(600, s.now) {
			t.Fatal("600 is less than 1000")
		}
		s.sane()
		for i := range 5 {
			s.out(wire.ACK, i*600, 0, 600)
		}
		s.silent()
		s.in(wire.ACK, 0, 3000, "")
		s.silent()
		s.idle()
		s.write(1000)
		s.out(wire.ACK, 3000, 0, 600)
		s.out(wire.ACK, 3600, 0, 400)
		if i := s.c.Info(); i.MSS != 600 || i.Retransmits != 5 || i.Timeouts != 0 {
			t.Errorf("MSS %d, %d retransmits, %d time-outs", i.MSS, i.Retransmits, i.Timeouts)
		}
	})
	t.Run("one that is not lower is ignored", func(t *testing.T) {
		s := flight(t, 3)
		for _, mss := range []int{1000, 1400} {
			if s.c.LowerMSS(mss, s.now) {
				t.Errorf("%d was taken", mss)
			}
		}
		s.silent()
		s.c.LowerMSS(600, s.now)
		s.out(wire.ACK, 0, 0, 600)
		s.c.LowerMSS(600, s.now) // the second segment's error
		s.out(wire.ACK, 600, 0, 600)
		if got := s.c.Info().MSS; got != 600 {
			t.Errorf("MSS %d", got)
		}
	})
	t.Run("timestamps come off it", func(t *testing.T) {
		s := newScript(t, withTimestamps) // an MSS of 1012
		if s.c.LowerMSS(1012, s.now) {
			t.Error("the MSS in use was taken for a lower one")
		}
		s.c.LowerMSS(612, s.now)
		s.write(1000)
		s.out(wire.ACK, 0, 0, 600)
		s.out(wire.ACK, 600, 0, 400)
	})
	t.Run("however low, there is room for data", func(t *testing.T) {
		s := flight(t, 1)
		s.c.LowerMSS(-40, s.now)
		s.out(wire.ACK, 0, 0, minMSS)
	})
	t.Run("what the peer has SACKed is not sent again", func(t *testing.T) {
		s := newScript(t)
		s.write(3000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.out(wire.ACK, 2000, 0, 1000)
		s.now = s.now.Add(100 * time.Millisecond)
		s.in(wire.ACK, 0, 0, "", 1000, 2000)
		s.silent()
		s.c.LowerMSS(600, s.now)
		s.sane()
		s.out(wire.ACK, 0, 0, 600)
		s.out(wire.ACK, 600, 0, 400)
		s.out(wire.ACK, 2000, 0, 600)
		s.out(wire.ACK, 2600, 0, 400)
		s.silent()
	})
	t.Run("the window comes back by slow start, without a burst", func(t *testing.T) {
		s := newScript(t)
		s.c.cwnd.Cwnd, s.c.cwnd.Ssthresh = 50000, 20000
		s.write(50000)
		for i := range 50 {
			s.out(wire.ACK, i*1000, 0, 1000)
		}
		s.c.LowerMSS(500, s.now)
		if i := s.c.Info(); i.Cwnd != 5000 || i.Ssthresh != 50000 {
			t.Errorf("cwnd %d, ssthresh %d: want an initial window, and what cwnd was", i.Cwnd, i.Ssthresh)
		}
		for i := range 10 {
			s.out(wire.ACK, i*500, 0, 500)
		}
		s.silent()
	})
	t.Run("after an RTO it begins again at the start", func(t *testing.T) {
		s := flight(t, 3)
		s.timeout()
		s.out(wire.ACK, 0, 0, 1000)
		s.c.LowerMSS(600, s.now)
		s.sane()
		s.out(wire.ACK, 0, 0, 600)
		s.in(wire.ACK, 0, 600, "")
		s.out(wire.ACK, 600, 0, 600)
	})
	t.Run("a lost retransmission has its time-out", func(t *testing.T) {
		s := flight(t, 1)
		s.now = s.now.Add(900 * time.Millisecond)
		s.c.LowerMSS(600, s.now)
		s.out(wire.ACK, 0, 0, 600)
		s.out(wire.ACK, 600, 0, 400)
		if d := s.wait(); d != time.Second {
			t.Errorf("time-out after %v, want a whole RTO", d)
		}
		s.out(wire.ACK, 0, 0, 600)
	})
	t.Run("a FIN goes along", func(t *testing.T) {
		s := newScript(t)
		s.write(1000)
		s.c.CloseWrite()
		s.out(wire.FIN|wire.ACK, 0, 0, 1000)
		s.c.LowerMSS(600, s.now)
		s.out(wire.ACK, 0, 0, 600)
		s.out(wire.FIN|wire.ACK, 600, 0, 400)
		s.silent()
	})
	t.Run("SACK blocks come off it too", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 1000, 0, zeros(100))
		s.out(wire.ACK, 0, 0, 0)
		s.c.LowerMSS(600, s.now)
		s.write(1000)
		s.out(wire.ACK, 0, 0, 600-12)
	})
	t.Run("a connection that is over has none", func(t *testing.T) {
		s := flight(t, 1)
		s.in(wire.RST, 0, 0, "")
		if s.c.LowerMSS(600, s.now) {
			t.Error("it was taken")
		}
	})
}

// A tooBig is a router's error on its way back.
type tooBig struct {
	at  Time
	to  *Conn
	seq uint32
	mss int
}

// TestATransferCrossesANarrowHop puts routers into the path that drop what is too large, and say so a little later.
func TestATransferCrossesANarrowHop(t *testing.T) {
	for _, sack := range []bool{false, true} {
		sc := simConfig{
			hs:   Handshake{ISS: 0xffff0000, IRS: 77, MSS: 1460, SACK: sack, Timestamps: true, RcvWnd: 65535, SndWScale: 7, RcvWScale: 7},
			size: [2]int{2_000_000, 2_000_000},
		}
		for i := range 2 {
			sc.cfg[i] = DefaultConfig()
			sc.link[i] = link{delay: 10 * time.Millisecond, bandwidth: 10_000_000, queue: 1 << 20}
		}
		s := newSim(t, 1, sc)
		var errors []tooBig
		sent, refused, late := 0, 0, 0
		s.drop = func(from *host, seg *wire.Segment) bool {
			sent++
			hop := 1460
			switch {
			case sent > 1000:
				hop = 700
			case sent > 500:
				hop = 1200
			}
			if seg.PayloadLen+12 <= hop {
				return false
			}
			refused++
			errors = append(errors, tooBig{s.now.Add(5 * time.Millisecond), &from.c, seg.Seq, hop})
			return true
		}
		for _, h := range s.hosts {
			s.serve(h)
		}
		for s.step() {
			for len(errors) > 0 && errors[0].at <= s.now {
				e := errors[0]
				errors = errors[1:]
				if !e.to.Outstanding(e.seq) {
					late++
				} else {
					e.to.LowerMSS(e.mss, s.now)
				}
			}
		}
		if err := s.finished(); err != nil {
			t.Fatalf("SACK %v: %v", sack, err)
		}
		for _, h := range s.hosts {
			if i := h.c.Info(); i.MSS != 700-12 || i.Timeouts > 0 {
				t.Errorf("SACK %v: %s ends with MSS %d after %d time-outs", sack, h.name, i.MSS, i.Timeouts)
			}
		}
		if refused < 20 || late > 0 {
			t.Errorf("SACK %v: %d segments were too large, %d errors late", sack, refused, late)
		}
	}
}
