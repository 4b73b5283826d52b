// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestARecoveryThatWasForNothingIsTakenBack(t *testing.T) {
	const rtt = 100 * time.Millisecond
	echo := func(s *script, at Time, ack int, blocks ...int) {
		s.t.Helper()
		seg := s.segment(wire.ACK, 0, ack, "")
		seg.TSEcr = at.tick() + s.hs.TSOffset
		for i := 0; i < len(blocks); i += 2 {
			seg.SACK[seg.NSACK] = wire.SACKBlock{Left: uint32(s.hs.ISS.Add(1 + blocks[i])), Right: uint32(s.hs.ISS.Add(1 + blocks[i+1]))}
			seg.NSACK++
		}
		s.feed(seg)
	}
	whole := func(t *testing.T, s *script, cwnd int) {
		t.Helper()
		if i := s.c.Info(); i.SpuriousRecoveries != 1 || i.Cwnd != cwnd || s.c.recovery != recoveryNone {
			t.Errorf("%d recoveries taken back, cwnd %d, recovery %d", i.SpuriousRecoveries, i.Cwnd, s.c.recovery)
		}
	}
	reduced := func(t *testing.T, s *script) {
		t.Helper()
		if i := s.c.Info(); i.SpuriousRecoveries != 0 || i.Cwnd >= 10000 {
			t.Errorf("%d recoveries taken back, cwnd %d", i.SpuriousRecoveries, i.Cwnd)
		}
	}
	t.Run("the echo is older than the fast retransmit: it was late", func(t *testing.T) {
		s := flown(t, 10, withTimestamps)
		sent := s.now.Add(-rtt)
		echo(s, sent, 0, 1000, 4000)
		s.out(wire.ACK, 0, 0, 1000)
		echo(s, sent, 4000)
		whole(t, s, 10000)
		if !s.c.has(flagReordering) {
			t.Error("the path does not count as one that reorders")
		}
	})
	t.Run("the echo is the fast retransmit's: it was lost", func(t *testing.T) {
		s := flown(t, 10, withTimestamps)
		echo(s, s.now.Add(-rtt), 0, 1000, 4000)
		s.out(wire.ACK, 0, 0, 1000)
		at := s.now
		s.now = s.now.Add(rtt)
		echo(s, at, 10000)
		reduced(t, s)
	})
	t.Run("an old echo for what is in front of the retransmission says nothing", func(t *testing.T) {
		s := flown(t, 10, withTimestamps)
		sent := s.now.Add(-rtt)
		echo(s, sent, 0, 1000, 4000)
		s.out(wire.ACK, 0, 0, 1000)
		s.c.flight.undo.first = s.c.sndUna.Add(6000) // had the first ones been in flight still
		echo(s, sent, 4000)
		reduced(t, s)
	})
	t.Run("every retransmission comes back as a D-SACK", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 2000, 8000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.in(wire.ACK, 0, 8000, "")
		s.in(wire.ACK, 0, 8000, "", 0, 1000)
		reduced(t, s)
		s.in(wire.ACK, 0, 8000, "", 1000, 2000)
		whole(t, s, 10000)
	})
	t.Run("one of them does not", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 2000, 8000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.in(wire.ACK, 0, 10000, "", 0, 1000)
		reduced(t, s)
	})
	t.Run("a D-SACK of what was sent once is the network's doing", func(t *testing.T) {
		s := flown(t, 10)
		for range 5 {
			s.in(wire.ACK, 0, 1000, "", 0, 1000)
		}
		if got := s.c.Info().DSACKsIn; got != 0 {
			t.Errorf("%d counted", got)
		}
	})
	t.Run("a D-SACK within what is SACKed is one, too", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 2000, 8000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.in(wire.ACK, 0, 0, "", 1000, 2000, 1000, 8000)
		if got := s.c.Info().DSACKsIn; got != 1 {
			t.Errorf("%d counted", got)
		}
	})
	t.Run("a time-out during a delay, with timestamps", func(t *testing.T) {
		s := flight(t, 10, withTimestamps)
		sent := s.now
		s.timeout()
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
		echo(s, sent, 1000)
		whole(t, s, 10000)
		s.silent() // nothing is lost
		s.sane()
	})
	t.Run("a real time-out, with timestamps", func(t *testing.T) {
		s := flight(t, 10, withTimestamps)
		s.timeout()
		s.out(wire.ACK, 0, 0, 1000)
		at := s.now
		s.now = s.now.Add(rtt)
		echo(s, at, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		reduced(t, s)
	})
	for name, opt := range map[string]func(*Handshake, *Config){"without SACK": withoutSACK, "with SACK": func(*Handshake, *Config) {}} {
		t.Run("a time-out during a delay, without timestamps, "+name, func(t *testing.T) {
			s := flight(t, 10, opt)
			s.write(4000)
			s.timeout()
			s.out(wire.ACK, 0, 0, 1000)
			s.silent()
			s.in(wire.ACK, 0, 1000, "")
			g, ok := s.next() // something new comes before any retransmission
			if !ok || g.seq < 10000 {
				t.Fatalf("sent %d", g.seq)
			}
			s.next()
			s.in(wire.ACK, 0, 2000, "") // the second, which was not sent again
			if i := s.c.Info(); i.SpuriousRecoveries != 1 {
				t.Errorf("%d recoveries taken back", i.SpuriousRecoveries)
			}
			s.sane()
		})
		t.Run("a real time-out, without timestamps, "+name, func(t *testing.T) {
			s := flight(t, 10, opt)
			s.write(4000)
			s.timeout()
			s.out(wire.ACK, 0, 0, 1000)
			s.in(wire.ACK, 0, 1000, "")
			g, ok := s.next()
			if !ok || g.seq < 10000 {
				t.Fatalf("sent %d", g.seq)
			}
			s.next()
			s.in(wire.ACK, 0, 1000, "", g.seq, g.seq+1000) // only what is new has arrived
			s.out(wire.ACK, 1000, 0, 1000)
			reduced(t, s)
		})
	}
}

func TestPRR(t *testing.T) {
	// RFC 9937, 6.1: segments of 1000, of which the first one of the flight is lost, and an ACK comes for each of the others.
	t.Run("with one loss, cwnd goes down while the round trip lasts", func(t *testing.T) {
		s := flown(t, 10)
		s.write(20000)
		ack := func(right int) {
			s.in(wire.ACK, 0, 0, "", 1000, right)
			s.now = s.now.Add(5 * time.Millisecond)
		}
		ack(2000)
		s.out(wire.ACK, 10000, 0, 1000) // limited transmit
		ack(3000)
		s.out(wire.ACK, 11000, 0, 1000)
		ack(4000)
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
		sent := 1
		for right := 5000; right <= 12000; right += 1000 {
			ack(right)
			for {
				if _, ok := s.next(); !ok {
					break
				}
				sent++
			}
			if pipe := s.c.pipe(); pipe > s.c.Info().Cwnd {
				t.Fatalf("pipe %d, cwnd %d", pipe, s.c.Info().Cwnd)
			}
		}
		// Ten were in flight when it began, and half of that is wanted.
		if pipe := s.c.pipe(); pipe != 5000 || sent != 5 {
			t.Errorf("pipe %d in the end, %d segments were sent", pipe, sent)
		}
		s.in(wire.ACK, 0, 12000, "")
		if got := s.c.Info().Cwnd; got != 5000 {
			t.Errorf("cwnd %d in the end", got)
		}
	})
	t.Run("when most of the flight is lost, it is sent again as fast as by slow start, and not at once", func(t *testing.T) {
		s := flown(t, 10)
		s.in(wire.ACK, 0, 0, "", 9000, 10000)
		s.wait() // one segment may be reordering
		s.out(wire.ACK, 0, 0, 1000)
		s.silent()
		for i := range 2 { // each acknowledgment of one lets two go
			s.now = s.now.Add(100 * time.Millisecond)
			s.in(wire.ACK, 0, (i+1)*1000, "", 9000, 10000)
			s.out(wire.ACK, (2*i+1)*1000, 0, 1000)
			s.out(wire.ACK, (2*i+2)*1000, 0, 1000)
			s.silent()
		}
	})
}
