// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestISN500SYNTakesOneTenBytesFollowTheAcknowledgmentSays511(t *testing.T) {
	var c Conn
	c.Open(DefaultConfig(), Handshake{ISS: 9000, IRS: 500, MSS: 1460, RcvWnd: 65535}, 1)
	c.Input(&wire.Segment{Seq: 501, Ack: 9001, Flags: wire.ACK, Window: 1000, WScale: -1}, 1)
	c.Input(&wire.Segment{Seq: 501, Ack: 9001, Flags: wire.ACK, Window: 1000, WScale: -1, Payload: []byte("0123456789"), PayloadLen: 10}, 1)
	c.Write([]byte("ok"))
	var s wire.Segment
	if !c.Output(&s, 1) || s.Ack != 511 || s.Seq != 9001 {
		t.Fatalf("ack %d seq %d, want 511 and 9001", s.Ack, s.Seq)
	}
}

func TestAcceptability(t *testing.T) {
	const wnd = 60000
	tests := []struct {
		name   string
		shut   bool // RCV.WND is 0
		seq, n int
		want   bool
	}{
		{"an empty segment at RCV.NXT is acceptable", false, 0, 0, true},
		{"an empty segment in the window is acceptable", false, wnd - 1, 0, true},
		{"an empty segment on the right edge is acceptable: its sender's window is all lost", false, wnd, 0, true},
		{"an empty segment beyond the edge is not", false, wnd + 1, 0, false},
		{"an empty segment before RCV.NXT is not: a keep-alive", false, -1, 0, false},
		{"text at RCV.NXT is acceptable", false, 0, 10, true},
		{"text that ends at RCV.NXT is old", false, -10, 10, false},
		{"text that ends just beyond RCV.NXT is acceptable", false, -10, 11, true},
		{"text that begins at the last place of the window is acceptable", false, wnd - 1, 10, true},
		{"text that begins at the edge is not", false, wnd, 10, false},
		{"text that covers the whole window is acceptable", false, -1, wnd + 2, true},
		{"with the window shut, an empty segment at RCV.NXT is acceptable", true, 0, 0, true},
		{"with the window shut, an empty segment behind it is not", true, 1, 0, false},
		{"with the window shut, text at RCV.NXT is looked at for its ACK", true, 0, 1, true},
		{"with the window shut, text elsewhere is not", true, 1, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t)
			if tt.shut {
				s.c.rcvAdv = s.c.rcvNxt
			}
			if got := s.c.acceptable(s.c.rcvNxt.Add(tt.seq), tt.n); got != tt.want {
				t.Errorf("acceptable: %v", got)
			}
		})
	}
}

func TestAnUnacceptableSegmentIsAnsweredAndOtherwiseIgnored(t *testing.T) {
	s := newScript(t)
	s.write(10)
	s.out(wire.ACK, 0, 0, 10)
	s.in(wire.ACK, 70000, 10, "beyond")
	s.out(wire.ACK, 10, 0, 0)
	if s.c.Unacked() != 10 {
		t.Error("its acknowledgment was believed")
	}
}

func TestReset(t *testing.T) {
	tests := []struct {
		name      string
		seq       int
		state     State
		challenge bool
	}{
		{"at RCV.NXT it resets", 0, StateClosed, false},
		{"in the window it is asked about", 1, StateEstablished, true},
		{"at the window's end it is asked about", 59999, StateEstablished, true},
		{"before the window it is ignored", -1, StateEstablished, false},
		{"behind the window it is ignored", 60000, StateEstablished, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t)
			s.in(wire.RST, tt.seq, 0, "")
			s.state(tt.state)
			if tt.challenge {
				s.out(wire.ACK, 0, 0, 0)
			}
			s.silent()
			if closed := tt.state == StateClosed; closed != (s.c.Err() == ErrReset) || closed != (s.ev == Closed) {
				t.Errorf("error %v, event %b", s.c.Err(), s.ev)
			}
		})
	}
}

func TestChallengeACKs(t *testing.T) {
	tests := []struct {
		name  string
		flags wire.Flags
		seq   int
		ack   int
	}{
		{"a SYN in the window gets one", wire.SYN, 10, 0},
		{"a SYN outside of it gets one", wire.SYN, -100000, 0},
		{"an ACK of what was never sent gets one", wire.ACK, 0, 1},
		{"an ACK older than the largest window gets one", wire.ACK, 0, -65536},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t)
			for range challengeLimit {
				s.in(tt.flags, tt.seq, tt.ack, "")
				s.out(wire.ACK, 0, 0, 0)
			}
			s.in(tt.flags, tt.seq, tt.ack, "")
			s.silent() // enough
			s.now = s.now.Add(challengeInterval)
			s.in(tt.flags, tt.seq, tt.ack, "")
			s.out(wire.ACK, 0, 0, 0)
			s.state(StateEstablished)
			if got := s.c.Info().ChallengeAcksOut; got != challengeLimit+1 {
				t.Errorf("%d counted", got)
			}
		})
	}
	t.Run("an old ACK within the largest window gets none", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, -65535, "")
		s.silent()
	})
}

func TestPAWS(t *testing.T) {
	t.Run("a segment with an older timestamp is answered and dropped", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.tsv--
		s.in(wire.ACK, 0, 0, "old")
		if s.c.Buffered() != 0 {
			t.Error("it was received")
		}
		s.out(wire.ACK, 0, 0, 0)
	})
	t.Run("the same timestamp is not old", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.in(wire.ACK, 0, 0, "new")
		if s.read() != "new" {
			t.Error("it was dropped")
		}
	})
	t.Run("timestamps wrap", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.tsv += 1<<31 - 1
		s.in(wire.ACK, 0, 0, "a")
		s.tsv += 1<<31 - 1
		s.in(wire.ACK, 1, 0, "b")
		if got := s.read(); got != "ab" {
			t.Errorf("read %q, want both", got)
		}
	})
	t.Run("after 24 days any timestamp is good", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.tsv--
		s.now = s.now.Add(25 * 24 * time.Hour)
		s.in(wire.ACK, 0, 0, "new")
		if s.read() != "new" {
			t.Error("it was dropped")
		}
	})
	t.Run("a segment without timestamps is dropped without an answer", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		seg := s.segment(wire.ACK, 0, 0, "bare")
		seg.Timestamps = false
		s.feed(seg)
		s.silent()
		if s.c.Buffered() != 0 {
			t.Error("it was received")
		}
	})
	t.Run("a RST needs no timestamps, and is none too old", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		seg := s.segment(wire.RST, 0, 0, "")
		seg.Timestamps = false
		s.feed(seg)
		s.state(StateClosed)
	})
	t.Run("a delayed ACK echoes the timestamp of the first segment it is for", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.tsv = 6000
		s.in(wire.ACK, 0, 0, "a")
		s.tsv = 6001
		s.in(wire.ACK, 1, 0, "b")
		s.wait()
		if g := s.out(wire.ACK, 0, 2, 0); g.TSEcr != 6000 {
			t.Errorf("echo %d, want 6000", g.TSEcr)
		}
	})
	t.Run("the newest segment, when it comes again, is echoed anew", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.in(wire.ACK, 0, 0, "a")
		s.in(wire.ACK, 1, 0, "b")
		s.wait()
		s.out(wire.ACK, 0, 2, 0)
		s.tsv = 9000
		s.in(wire.ACK, 0, 0, "a") // not the newest
		if g := s.out(wire.ACK, 0, 2, 0); g.TSEcr != 5000 {
			t.Errorf("echo %d, want 5000", g.TSEcr)
		}
		s.in(wire.ACK, 1, 0, "b")
		if g := s.out(wire.ACK, 0, 2, 0); g.TSEcr != 9000 {
			t.Errorf("echo %d, want 9000", g.TSEcr)
		}
	})
	t.Run("a segment out of order is not echoed", func(t *testing.T) {
		s := newScript(t, withTimestamps)
		s.tsv = 6000
		s.in(wire.ACK, 5, 0, "a")
		if g := s.out(wire.ACK, 0, 0, 0); g.TSEcr != 5000 {
			t.Errorf("echo %d, want 5000", g.TSEcr)
		}
	})
}

func TestDelayedAck(t *testing.T) {
	t.Run("less than two segments wait for 40 ms", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, "hello")
		s.silent()
		if d := s.wait(); d != 40*time.Millisecond {
			t.Errorf("waited %v", d)
		}
		s.out(wire.ACK, 0, 5, 0)
		s.idle()
	})
	t.Run("two full-size segments do not wait", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, zeros(1000))
		s.silent()
		s.in(wire.ACK, 1000, 0, zeros(1000))
		s.out(wire.ACK, 0, 2000, 0)
		s.silent()
		s.idle()
	})
	t.Run("a batch of ten segments gets one acknowledgment", func(t *testing.T) {
		s := newScript(t)
		for i := range 10 {
			s.in(wire.ACK, i*1000, 0, zeros(1000))
		}
		s.out(wire.ACK, 0, 10000, 0)
		s.silent()
	})
	t.Run("data takes the acknowledgment along", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, zeros(1000))
		s.in(wire.ACK, 1000, 0, zeros(1000))
		s.write(3)
		s.out(wire.ACK, 0, 2000, 3)
		s.silent()
		if i := s.c.Info(); i.PureAcksOut != 0 || i.PiggybackedAcksOut != 1 {
			t.Errorf("%d pure, %d along", i.PureAcksOut, i.PiggybackedAcksOut)
		}
	})
	t.Run("a FIN does not wait", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK|wire.FIN, 0, 0, "bye")
		s.out(wire.ACK, 0, 4, 0)
	})
	t.Run("a duplicate does not wait, and is reported", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, "hello")
		s.in(wire.ACK, 0, 0, "hello")
		g := s.out(wire.ACK, 0, 5, 0)
		if g.NSACK != 1 || g.SACK[0] != (wire.SACKBlock{Left: 500, Right: 505}) {
			t.Errorf("blocks %v", g.SACK[:g.NSACK])
		}
	})
}

func TestReassembly(t *testing.T) {
	const text = "abcdefghij"
	tests := []struct {
		name     string
		segments [][2]int // from, to
		want     string
		blocks   []wire.SACKBlock // of the last segment
	}{
		{"in order", [][2]int{{0, 5}, {5, 10}}, text, nil},
		{"the other way round", [][2]int{{5, 10}, {0, 5}}, text, nil},
		{"a hole keeps what is behind it", [][2]int{{0, 2}, {5, 10}}, "ab", []wire.SACKBlock{{Left: 505, Right: 510}}},
		{"the newest block comes first", [][2]int{{2, 3}, {8, 9}, {5, 6}}, "", []wire.SACKBlock{{Left: 505, Right: 506}, {Left: 508, Right: 509}, {Left: 502, Right: 503}}},
		{"blocks that touch are one", [][2]int{{2, 4}, {6, 8}, {4, 6}}, "", []wire.SACKBlock{{Left: 502, Right: 508}}},
		{"blocks that overlap are one", [][2]int{{2, 5}, {4, 8}}, "", []wire.SACKBlock{{Left: 502, Right: 508}}},
		{"a segment that closes the hole and reaches over two blocks", [][2]int{{2, 3}, {5, 6}, {0, 8}}, "abcdefgh", nil},
		{"a segment that closes the hole and ends inside a block", [][2]int{{2, 8}, {0, 4}}, "abcdefgh", nil},
		{"a segment that begins before RCV.NXT", [][2]int{{0, 5}, {2, 10}}, text, []wire.SACKBlock{{Left: 502, Right: 505}}},
		{"a hole that closes leaves the next", [][2]int{{2, 4}, {8, 10}, {0, 2}}, "abcd", []wire.SACKBlock{{Left: 508, Right: 510}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t)
			for _, seg := range tt.segments {
				s.in(wire.ACK, seg[0], 0, text[seg[0]:seg[1]])
			}
			if g, ok := s.next(); ok {
				if n := len(tt.blocks); g.NSACK != n || string(g.data) != "" {
					t.Errorf("blocks %v, want %v", g.SACK[:g.NSACK], tt.blocks)
				} else {
					for i, b := range tt.blocks {
						if g.SACK[i] != b {
							t.Errorf("blocks %v, want %v", g.SACK[:n], tt.blocks)
						}
					}
				}
			} else if tt.blocks != nil {
				t.Error("no acknowledgment")
			}
			if got := s.read(); got != tt.want {
				t.Errorf("read %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAFINThatOvertakesItsDataWaitsForIt(t *testing.T) {
	s := newScript(t)
	s.in(wire.ACK|wire.FIN, 5, 0, "world")
	s.state(StateEstablished)
	s.in(wire.ACK, 0, 0, "hello")
	s.state(StateCloseWait)
	s.out(wire.ACK, 0, 11, 0)
	if s.c.ReadClosed() {
		t.Error("closed before all was read")
	}
	if got := s.read(); got != "helloworld" || !s.c.ReadClosed() {
		t.Errorf("read %q, closed %v", got, s.c.ReadClosed())
	}
}

func TestReadableIsSaidOnceUntilAllIsRead(t *testing.T) {
	s := newScript(t)
	for i, want := range []Event{Readable, 0, 0} {
		if got := s.in(wire.ACK, i, 0, "x"); got != want {
			t.Errorf("byte %d: event %b, want %b", i, got, want)
		}
	}
	s.read()
	if got := s.in(wire.ACK|wire.FIN, 3, 0, ""); got != Readable {
		t.Errorf("end of stream: event %b", got)
	}
}
