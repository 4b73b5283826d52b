// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestLinger(t *testing.T) {
	t.Run("says when the peer has everything, once", func(t *testing.T) {
		s := newScript(t)
		s.write(1000)
		s.c.Close(s.now)
		if !s.c.Linger() {
			t.Fatal("there is something to wait for")
		}
		s.out(finAck, 0, 0, 1000)
		if ev := s.in(wire.ACK, 0, 1000, ""); ev != 0 {
			t.Errorf("event %b before the FIN's acknowledgment", ev)
		}
		if ev := s.in(wire.ACK, 0, 1001, ""); ev != Delivered {
			t.Errorf("event %b", ev)
		}
		if ev := s.in(wire.ACK, 0, 1001, ""); ev != 0 {
			t.Errorf("event %b again", ev)
		}
		if s.c.Linger() {
			t.Error("there is nothing to wait for any more")
		}
	})
	t.Run("in LAST-ACK the end says so too", func(t *testing.T) {
		s, seq, ack := reach(t, StateLastAck)
		if !s.c.Linger() {
			t.Fatal("there is something to wait for")
		}
		if ev := s.in(wire.ACK, seq, ack, ""); ev != Delivered|Closed {
			t.Errorf("event %b", ev)
		}
	})
	t.Run("not asked for, nothing is said", func(t *testing.T) {
		s := newScript(t)
		s.c.CloseWrite()
		s.out(finAck, 0, 0, 0)
		if ev := s.in(wire.ACK, 0, 1, ""); ev != 0 {
			t.Errorf("event %b", ev)
		}
	})
	t.Run("a connection that is over has nothing to wait for", func(t *testing.T) {
		s := newScript(t)
		s.c.Abort()
		if s.c.Linger() {
			t.Error("it would wait for ever")
		}
	})
}
