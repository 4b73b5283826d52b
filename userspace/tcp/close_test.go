// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

const finAck = wire.FIN | wire.ACK

// reach brings a fresh connection into a state by the shortest way. It says what the next numbers are.
func reach(t *testing.T, state State) (s *script, seq, ack int) {
	s = newScript(t)
	closeOurs := func() {
		s.c.CloseWrite()
		g, _ := s.next()
		if !g.Flags.Has(wire.FIN) {
			t.Fatal("no FIN")
		}
		ack = 1
	}
	closeTheirs := func() {
		s.in(finAck, 0, 0, "")
		s.out(wire.ACK, ack, 1, 0)
		seq = 1
	}
	switch state {
	case StateCloseWait:
		closeTheirs()
	case StateLastAck:
		closeTheirs()
		closeOurs()
	case StateFinWait1:
		closeOurs()
	case StateFinWait2:
		closeOurs()
		s.in(wire.ACK, 0, 1, "")
	case StateClosing:
		closeOurs()
		closeTheirs()
	case StateTimeWait:
		closeOurs()
		s.in(wire.ACK, 0, 1, "")
		closeTheirs()
	}
	s.state(state)
	s.silent()
	return s, seq, ack
}

var openStates = []State{StateEstablished, StateCloseWait, StateLastAck, StateFinWait1, StateFinWait2, StateClosing, StateTimeWait}

func TestWhatEachSegmentDoesInEachState(t *testing.T) {
	type verdict struct {
		state State
		reply bool
	}
	tests := []struct {
		name  string
		flags wire.Flags
		ours  bool // it acknowledges our FIN
		want  map[State]verdict
	}{
		{"a FIN", finAck, false, map[State]verdict{
			StateEstablished: {StateCloseWait, true},
			StateFinWait1:    {StateClosing, true},
			StateFinWait2:    {StateTimeWait, true},
		}},
		{"a FIN that acknowledges ours", finAck, true, map[State]verdict{
			StateFinWait1: {StateTimeWait, true},
			StateFinWait2: {StateTimeWait, true},
		}},
		{"the acknowledgment of our FIN", wire.ACK, true, map[State]verdict{
			StateFinWait1: {StateFinWait2, false},
			StateFinWait2: {StateFinWait2, false},
			StateClosing:  {StateTimeWait, false},
			StateLastAck:  {StateClosed, false},
			StateTimeWait: {StateTimeWait, false},
		}},
		{"an acknowledgment of nothing new", wire.ACK, false, map[State]verdict{
			StateEstablished: {StateEstablished, false},
			StateCloseWait:   {StateCloseWait, false},
			StateLastAck:     {StateLastAck, false},
			StateFinWait1:    {StateFinWait1, false},
			StateFinWait2:    {StateFinWait2, false},
			StateClosing:     {StateClosing, false},
			StateTimeWait:    {StateTimeWait, false},
		}},
		{"a SYN", wire.SYN, false, map[State]verdict{
			StateEstablished: {StateEstablished, true},
			StateCloseWait:   {StateCloseWait, true},
			StateLastAck:     {StateLastAck, true},
			StateFinWait1:    {StateFinWait1, true},
			StateFinWait2:    {StateFinWait2, true},
			StateClosing:     {StateClosing, true},
			StateTimeWait:    {StateTimeWait, true},
		}},
		{"a RST", wire.RST, false, map[State]verdict{
			StateEstablished: {StateClosed, false},
			StateCloseWait:   {StateClosed, false},
			StateLastAck:     {StateClosed, false},
			StateFinWait1:    {StateClosed, false},
			StateFinWait2:    {StateClosed, false},
			StateClosing:     {StateClosed, false},
			StateTimeWait:    {StateClosed, false},
		}},
		{"a segment without ACK", 0, false, map[State]verdict{
			StateEstablished: {StateEstablished, false},
			StateFinWait1:    {StateFinWait1, false},
		}},
	}
	for _, tt := range tests {
		for from, want := range tt.want {
			t.Run(tt.name+" in "+from.String(), func(t *testing.T) {
				s, seq, ack := reach(t, from)
				if !tt.ours {
					ack = 0
				}
				s.in(tt.flags, seq, ack, "")
				s.state(want.state)
				if _, reply := s.next(); reply != want.reply {
					t.Errorf("replied: %v", reply)
				}
				s.silent()
				if s.c.State() == StateClosed && (s.ev != Closed || s.c.Deadline() != Never) {
					t.Errorf("event %b, deadline %v", s.ev, s.c.Deadline())
				}
			})
		}
	}
}

func TestAnEndByResetIsAnErrorUnlessBothHaveClosed(t *testing.T) {
	for _, from := range openStates {
		s, seq, _ := reach(t, from)
		s.in(wire.RST, seq, 0, "")
		want := ErrReset
		if from == StateClosing || from == StateLastAck || from == StateTimeWait {
			want = nil
		}
		if s.c.Err() != want {
			t.Errorf("%v: %v, want %v", from, s.c.Err(), want)
		}
	}
}

func TestTheFINFollowsTheDataAndIsSentAgain(t *testing.T) {
	s := newScript(t)
	s.write(1500)
	s.c.CloseWrite()
	s.out(wire.ACK, 0, 0, 1000)
	s.out(finAck, 1000, 0, 500)
	s.silent()
	s.in(wire.ACK, 0, 1500, "") // all but the FIN
	s.state(StateFinWait1)
	s.wait()
	s.out(finAck, 1500, 0, 0)
	s.wait()
	s.out(finAck, 1500, 0, 0)
	s.in(wire.ACK, 0, 1501, "")
	s.state(StateFinWait2)
	s.idle()
	if s.c.Write([]byte("x")) != 0 {
		t.Error("Write after CloseWrite")
	}
}

func TestHalfClose(t *testing.T) {
	t.Run("after our FIN we still receive", func(t *testing.T) {
		s, _, _ := reach(t, StateFinWait2)
		if s.in(wire.ACK, 0, 1, "late") != Readable || s.read() != "late" {
			t.Error("it was lost")
		}
	})
	t.Run("after the peer's FIN we still send", func(t *testing.T) {
		s, _, _ := reach(t, StateCloseWait)
		s.write(10)
		s.out(wire.ACK, 0, 1, 10)
		s.in(wire.ACK, 1, 10, "")
		s.idle()
	})
}

func TestTimeWait(t *testing.T) {
	t.Run("ends by itself", func(t *testing.T) {
		s, _, _ := reach(t, StateTimeWait)
		if d := s.wait(); d != s.cfg.TimeWait {
			t.Errorf("after %v", d)
		}
		if s.ev != Closed || s.c.Err() != nil {
			t.Errorf("event %b, error %v", s.ev, s.c.Err())
		}
	})
	t.Run("begins anew with the FIN", func(t *testing.T) {
		s, _, _ := reach(t, StateTimeWait)
		s.now = s.now.Add(50 * time.Second)
		s.in(finAck, 0, 1, "")
		s.out(wire.ACK, 1, 1, 0)
		if d := s.wait(); d != s.cfg.TimeWait {
			t.Errorf("after %v", d)
		}
	})
	t.Run("keeps what was not read", func(t *testing.T) {
		s, _, _ := reach(t, StateFinWait2)
		s.in(finAck, 0, 1, "last words")
		s.state(StateTimeWait)
		if got := s.read(); got != "last words" || !s.c.ReadClosed() {
			t.Errorf("read %q", got)
		}
	})
}

func TestAcceptsSYN(t *testing.T) {
	tests := []struct {
		name  string
		state State
		ts    bool // on the old connection
		flags wire.Flags
		seq   int // relative to RCV.NXT
		synTS bool
		tsval int // relative to TS.Recent
		want  bool
	}{
		{"a later sequence number will do", StateTimeWait, false, wire.SYN, 1, false, 0, true},
		{"the same sequence number will not", StateTimeWait, false, wire.SYN, 0, false, 0, false},
		{"an earlier one will not", StateTimeWait, false, wire.SYN, -1, false, 0, false},
		{"with timestamps, a later one will do for any sequence number", StateTimeWait, true, wire.SYN, -1000, true, 1, true},
		{"the same timestamp needs a later sequence number", StateTimeWait, true, wire.SYN, -1, true, 0, false},
		{"the same timestamp and a later sequence number will do", StateTimeWait, true, wire.SYN, 1, true, 0, true},
		{"an earlier timestamp will not, whatever the number", StateTimeWait, true, wire.SYN, 1000, true, -1, false},
		{"without timestamps where there were some, the number decides", StateTimeWait, true, wire.SYN, 1, false, 0, true},
		{"in FIN-WAIT-2 nothing will do", StateFinWait2, false, wire.SYN, 1, false, 0, false},
		{"a SYN with RST will not", StateTimeWait, false, wire.SYN | wire.RST, 1, false, 0, false},
		{"a SYN/ACK will not", StateTimeWait, false, wire.SYN | wire.ACK, 1, false, 0, false},
		{"no SYN will not", StateTimeWait, false, wire.ACK, 1, false, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _, _ := reach(t, tt.state)
			if tt.ts {
				s.c.set(flagTimestamps | flagTSValid)
				s.c.tsRecent = 7000
			}
			seg := &wire.Segment{Flags: tt.flags, Seq: uint32(s.c.rcvNxt.Add(tt.seq)), Timestamps: tt.synTS, TSVal: uint32(7000 + tt.tsval)}
			if got := s.c.AcceptsSYN(seg); got != tt.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestClose(t *testing.T) {
	t.Run("with all read, sends what was written, then a FIN", func(t *testing.T) {
		s := newScript(t)
		s.write(10)
		s.c.Close(s.now)
		s.out(finAck, 0, 0, 10)
		s.in(wire.ACK, 0, 11, "")
		s.state(StateFinWait2)
		if d := s.wait(); d != s.cfg.FinWait2 || s.ev != Closed || s.c.Err() != nil {
			t.Errorf("after %v: event %b, error %v", d, s.ev, s.c.Err())
		}
	})
	t.Run("in FIN-WAIT-2 starts the clock", func(t *testing.T) {
		s, _, _ := reach(t, StateFinWait2)
		s.idle()
		s.c.Close(s.now)
		if d := s.wait(); d != s.cfg.FinWait2 {
			t.Errorf("after %v", d)
		}
		s.state(StateClosed)
	})
	t.Run("with unread data, resets (RFC 2525, 2.17)", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, "unread")
		s.c.Close(s.now)
		s.state(StateClosed)
		s.out(wire.RST|wire.ACK, 0, 6, 0)
		s.silent()
		s.idle()
		if s.cfg.Pool.InUse() != 0 {
			t.Error("buffers were kept")
		}
	})
	t.Run("then data that still comes resets (RFC 1122, 4.2.2.13)", func(t *testing.T) {
		for _, state := range []State{StateEstablished, StateFinWait1, StateFinWait2} {
			s, seq, ack := reach(t, state)
			s.c.Close(s.now)
			s.next()
			if s.in(wire.ACK, seq, ack, "more") != Closed {
				t.Errorf("%v: event %b", state, s.ev)
			}
			g, ok := s.next()
			if !ok || !g.Flags.Has(wire.RST) || s.c.Err() != ErrAborted {
				t.Errorf("%v: sent %v, error %v", state, g.Flags, s.c.Err())
			}
		}
	})
	t.Run("then old data does not", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, "old")
		s.read()
		s.c.Close(s.now)
		s.out(finAck, 0, 3, 0)
		s.in(wire.ACK, 0, 0, "old")
		s.out(wire.ACK, 1, 3, 0)
		s.state(StateFinWait1)
	})
	t.Run("an orphan is given up sooner", func(t *testing.T) {
		s := newScript(t)
		s.c.Close(s.now)
		s.out(finAck, 0, 0, 0)
		s.wait()
		s.out(finAck, 0, 0, 0) // the tail loss probe is no try
		for range s.cfg.OrphanRetries {
			s.wait()
			s.out(finAck, 0, 0, 0)
		}
		s.wait()
		s.state(StateClosed)
	})
	t.Run("in every state, and twice, does no harm", func(t *testing.T) {
		for _, state := range append([]State{StateClosed}, openStates...) {
			s, _, _ := reach(t, max(state, StateEstablished))
			if state == StateClosed {
				s.c.Abort()
			}
			for range 2 {
				s.c.Close(s.now)
				s.c.CloseWrite()
				s.c.CloseRead()
				s.sane()
			}
		}
		var zero Conn
		zero.Close(1)
		zero.CloseRead()
		zero.CloseWrite()
		zero.Abort()
		if zero.Deadline() != Never {
			t.Error("a connection that was never opened has a deadline")
		}
	})
}

func TestAbort(t *testing.T) {
	for _, state := range openStates {
		t.Run("in "+state.String(), func(t *testing.T) {
			s, seq, ack := reach(t, state)
			s.c.Abort()
			s.state(StateClosed)
			if state != StateTimeWait {
				s.out(wire.RST|wire.ACK, ack, seq, 0)
			}
			s.silent()
			s.idle()
			if s.c.Err() != ErrAborted {
				t.Errorf("error %v", s.c.Err())
			}
			if s.in(wire.ACK, seq, ack, "x") != 0 {
				t.Errorf("event %b afterwards", s.ev)
			}
		})
	}
}

func TestWhatWasReceivedBeforeAResetCanBeRead(t *testing.T) {
	s := newScript(t)
	s.in(wire.ACK, 0, 0, "hello")
	s.in(wire.RST, 5, 0, "")
	if got := s.read(); got != "hello" {
		t.Errorf("read %q", got)
	}
	if s.cfg.Pool.InUse() != 0 {
		t.Error("buffers were kept")
	}
}

func TestAnEndGivesBackWhatArrivedOutOfOrder(t *testing.T) {
	s := newScript(t)
	s.in(wire.ACK, 10, 0, "later")
	s.in(wire.RST, 0, 0, "")
	if s.cfg.Pool.InUse() != 0 || s.c.rcv.ooo != nil {
		t.Error("buffers were kept")
	}
}

func TestResetOfASegmentWithoutConnection(t *testing.T) {
	tests := []struct {
		name string
		in   wire.Segment
		want wire.Segment
		ok   bool
	}{
		{"a RST gets none", wire.Segment{Flags: wire.RST | wire.ACK, Seq: 1, Ack: 2}, wire.Segment{}, false},
		{"with ACK, it takes its sequence number from there", wire.Segment{Flags: wire.ACK, Seq: 1, Ack: 2, PayloadLen: 5},
			wire.Segment{Flags: wire.RST, Seq: 2}, true},
		{"without, it acknowledges all of the segment", wire.Segment{Flags: wire.SYN | wire.FIN, Seq: 0xffffffff, PayloadLen: 5},
			wire.Segment{Flags: wire.RST | wire.ACK, Ack: 6}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out wire.Segment
			ok := Reset(&tt.in, &out)
			if ok != tt.ok || out.Flags != tt.want.Flags || out.Seq != tt.want.Seq || out.Ack != tt.want.Ack {
				t.Errorf("%v %+v", ok, out)
			}
			if ok && (out.PayloadLen != 0 || out.WScale != -1) {
				t.Errorf("%+v", out)
			}
		})
	}
}
