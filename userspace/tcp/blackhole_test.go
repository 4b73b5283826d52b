// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func largeMSS(hs *Handshake, _ *Config) { hs.MSS = 1460 }

// stall writes n bytes, and lets the timer run out k times.
func stall(t *testing.T, n, k int) *script {
	s := newScript(t, largeMSS)
	s.write(n)
	for {
		if _, ok := s.next(); !ok {
			break
		}
	}
	for range k {
		s.timeout()
		s.out(wire.ACK, 0, 0, min(n, int(s.c.mss)))
	}
	return s
}

func TestBlackHole(t *testing.T) {
	t.Run("after three time-outs the segment goes in smaller pieces, after six in smaller ones yet", func(t *testing.T) {
		s := newScript(t, largeMSS)
		s.write(3000)
		for range 3 {
			s.next()
		}
		for i, want := range []int{1460, 1460, 1220, 1220, 1220, 536, 536, 536, 536, 536} {
			s.timeout()
			if g, ok := s.next(); !ok || g.PayloadLen != want {
				t.Errorf("time-out %d: %d bytes, want %d", i+1, g.PayloadLen, want)
			}
			for { // a smaller piece leaves room in cwnd for another
				if _, ok := s.next(); !ok {
					break
				}
			}
		}
	})
	t.Run("if a piece gets through and then a full segment, it was an outage", func(t *testing.T) {
		s := stall(t, 8000, 3)
		s.in(wire.ACK, 0, 1220, "")
		s.out(wire.ACK, 1220, 0, 1460)
		s.in(wire.ACK, 0, 1220+1460, "")
		for range 2 {
			if g, ok := s.next(); !ok || g.PayloadLen != 1460 {
				t.Errorf("%d bytes", g.PayloadLen)
			}
		}
		if i := s.c.Info(); i.MSS != 1460 || i.BlackHoles != 0 || s.c.trial != trialNone {
			t.Errorf("MSS %d, %d black holes", i.MSS, i.BlackHoles)
		}
	})
	t.Run("if a piece gets through and the full segment does not, pieces it is", func(t *testing.T) {
		s := stall(t, 8000, 3)
		s.in(wire.ACK, 0, 1220, "")
		s.out(wire.ACK, 1220, 0, 1460)
		s.wait()
		s.out(wire.ACK, 1220, 0, 1220)
		s.in(wire.ACK, 0, 2440, "")
		s.out(wire.ACK, 2440, 0, 1220)
		if i := s.c.Info(); i.MSS != 1220 || i.BlackHoles != 1 {
			t.Errorf("MSS %d, %d black holes", i.MSS, i.BlackHoles)
		}
	})
	t.Run("a small segment that times out says nothing", func(t *testing.T) {
		s := stall(t, 400, 9)
		if got := s.c.Info().MSS; got != 1460 {
			t.Errorf("MSS %d", got)
		}
	})
	t.Run("a shut window says nothing", func(t *testing.T) {
		s := newScript(t, largeMSS)
		s.wnd = 0
		s.in(wire.ACK, 0, 0, "")
		s.write(8000)
		for range 9 {
			s.silent()
			s.wait()
			s.out(wire.ACK, 0, 0, 1)
		}
		if got := s.c.Info().MSS; got != 1460 {
			t.Errorf("MSS %d", got)
		}
	})
	t.Run("a router's word counts more than the trial", func(t *testing.T) {
		s := stall(t, 8000, 3)
		s.c.LowerMSS(1400, s.now) // about one of the full ones
		s.in(wire.ACK, 0, 1220, "")
		if g, ok := s.next(); !ok || g.PayloadLen != 1400 {
			t.Errorf("%d bytes", g.PayloadLen)
		}
		s.c.LowerMSS(900, s.now)
		if i := s.c.Info(); i.MSS != 900 || s.c.trial != trialNone {
			t.Errorf("MSS %d, trial %d", i.MSS, s.c.trial)
		}
	})
	t.Run("timestamps come off the size", func(t *testing.T) {
		s := newScript(t, func(hs *Handshake, _ *Config) { hs.MSS = 1460; hs.Timestamps = true })
		if got := s.c.smallerMSS(); got != 1208 {
			t.Errorf("%d", got)
		}
	})
}

// TestATransferGetsThroughABlackHole drops what is too large, and says nothing.
func TestATransferGetsThroughABlackHole(t *testing.T) {
	for _, tt := range []struct {
		name        string
		hop         int
		from, until time.Duration
		mss         int
		holes       uint64
		within      time.Duration
	}{
		{"a tunnel's, from the beginning", 1300, 0, time.Hour, 1208, 1, 15 * time.Second},
		{"one of 576 octets", 536, 0, time.Hour, 524, 1, 90 * time.Second},
		{"one that opens in the middle", 1300, 100 * time.Millisecond, time.Hour, 1208, 1, 15 * time.Second},
		{"an outage of ten seconds", 0, 100 * time.Millisecond, 10 * time.Second, 1448, 0, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, 1, oneWay(3_000_000, nil))
			start := s.now
			s.drop = func(from *host, seg *wire.Segment) bool {
				now := s.now.Sub(start)
				return now >= tt.from && now < tt.until && from == s.hosts[1] && seg.PayloadLen+12 > tt.hop
			}
			for _, h := range s.hosts {
				s.serve(h)
			}
			for s.hosts[0].read < 3_000_000 && s.step() {
			}
			took := s.now.Sub(start)
			s.run()
			if err := s.finished(); err != nil {
				t.Fatal(err)
			}
			i := s.hosts[1].c.Info()
			t.Logf("%v, %d time-outs", took, i.Timeouts)
			if i.MSS != tt.mss || i.BlackHoles != tt.holes || took > tt.within {
				t.Errorf("MSS %d, want %d; %d black holes, want %d; took %v", i.MSS, tt.mss, i.BlackHoles, tt.holes, took)
			}
		})
	}
}
