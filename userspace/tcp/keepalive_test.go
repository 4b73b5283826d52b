// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func watched(t *testing.T) *script {
	s := newScript(t)
	s.c.SetKeepAlive(KeepAlive{Enable: true, Idle: time.Hour, Interval: time.Minute, Count: 3}, s.now)
	return s
}

func TestKeepAlive(t *testing.T) {
	// A probe's number is acknowledged already: -1 when nothing was ever sent.
	probe := func(s *script) { s.t.Helper(); s.out(wire.ACK, -1, 0, 0); s.silent() }
	t.Run("is off unless asked for", func(t *testing.T) {
		newScript(t).idle()
	})
	t.Run("by default would wait two hours", func(t *testing.T) {
		if k := newScript(t).c.KeepAlive(); k.Enable || k.Idle < 2*time.Hour || k.Count < 2 {
			t.Errorf("%+v", k)
		}
	})
	t.Run("probes after the idle time, then at its interval, and gives up after its count", func(t *testing.T) {
		s := watched(t)
		for i, want := range []time.Duration{time.Hour, time.Minute, time.Minute} {
			if d := s.wait(); d != want {
				t.Errorf("probe %d after %v, want %v", i, d, want)
			}
			probe(s)
		}
		if d := s.wait(); d != time.Minute || s.ev != Closed || s.c.Err() != ErrTimeout {
			t.Errorf("after %v: event %b, error %v", d, s.ev, s.c.Err())
		}
		s.out(wire.RST|wire.ACK, 0, 0, 0)
		s.silent()
		s.idle()
		if got := s.c.Info().KeepAlivesOut; got != 3 {
			t.Errorf("%d probes counted", got)
		}
	})
	t.Run("one answer of three is enough", func(t *testing.T) {
		s := watched(t)
		for range 10 {
			for range 3 {
				s.wait()
				probe(s)
			}
			s.in(wire.ACK, 0, 0, "")
			if d := s.c.Deadline().Sub(s.now); d != time.Hour {
				t.Fatalf("the next probe in %v", d)
			}
		}
		s.state(StateEstablished)
	})
	t.Run("whatever comes begins the idle time anew", func(t *testing.T) {
		s := watched(t)
		s.now = s.now.Add(59 * time.Minute)
		s.in(wire.ACK, 0, 0, "data")
		s.wait()
		s.out(wire.ACK, 0, 4, 0)
		if d := s.wait(); d < 59*time.Minute {
			t.Errorf("a probe after %v", d)
		}
		s.out(wire.ACK, -1, 4, 0)
	})
	t.Run("what is not acceptable does not", func(t *testing.T) {
		s := watched(t)
		at := s.c.Deadline()
		s.now = s.now.Add(time.Minute)
		s.in(wire.ACK, 70000, 0, "")
		s.out(wire.ACK, 0, 0, 0)
		s.in(wire.ACK, 0, 1, "") // acknowledges what was never sent
		s.out(wire.ACK, 0, 0, 0)
		if s.c.Deadline() != at {
			t.Error("the probe was put off")
		}
	})
	t.Run("probes are not sent while something is outstanding", func(t *testing.T) {
		s := watched(t)
		s.write(1000)
		s.out(wire.ACK, 0, 0, 1000)
		s.now = s.now.Add(30 * time.Minute)
		for range 3 {
			if d := s.wait(); d > 2*time.Minute {
				t.Errorf("a timer of %v", d)
			}
			if g, ok := s.next(); !ok || g.seq != 0 {
				t.Errorf("sent seq %d", g.seq)
			}
		}
		s.in(wire.ACK, 0, 1000, "")
		if d := s.wait(); d != time.Hour {
			t.Errorf("a probe after %v", d)
		}
		s.out(wire.ACK, 999, 0, 0)
	})
	t.Run("an acknowledgment that is owed goes before the probe", func(t *testing.T) {
		s := newScript(t)
		s.c.SetKeepAlive(KeepAlive{Enable: true, Idle: time.Millisecond, Interval: time.Millisecond, Count: 9}, s.now)
		s.in(wire.ACK, 0, 0, "data")
		s.wait()
		s.out(wire.ACK, 0, 4, 0)
		s.out(wire.ACK, -1, 4, 0)
		s.silent()
	})
	t.Run("an answer that overtakes the probe takes it back", func(t *testing.T) {
		s := watched(t)
		s.wait()
		s.in(wire.ACK, 0, 0, "")
		s.silent()
	})
	t.Run("with a user time-out, time decides and not the count", func(t *testing.T) {
		s := watched(t)
		s.c.SetUserTimeout(time.Hour + 5*time.Minute)
		for range 5 {
			s.wait()
			probe(s)
		}
		s.wait()
		if s.c.Err() != ErrTimeout {
			t.Errorf("error %v", s.c.Err())
		}
	})
	t.Run("can be turned off again", func(t *testing.T) {
		s := watched(t)
		s.wait()
		k := s.c.KeepAlive()
		k.Enable = false
		s.c.SetKeepAlive(k, s.now)
		s.silent()
		s.idle()
		if got := s.c.KeepAlive(); got.Idle != time.Hour || got.Enable {
			t.Errorf("settings %+v", got)
		}
	})
	t.Run("goes on in CLOSE-WAIT and FIN-WAIT-2, and ends in TIME-WAIT", func(t *testing.T) {
		for state, want := range map[State]bool{StateCloseWait: true, StateFinWait2: true, StateTimeWait: false} {
			s, _, _ := reach(t, state)
			s.c.SetKeepAlive(KeepAlive{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}, s.now)
			if got := s.c.keepAliveAt() != Never; got != want {
				t.Errorf("%v: %v", state, got)
			}
		}
	})
	t.Run("a probe of the peer's is answered", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, -1, 0, "")
		s.out(wire.ACK, 0, 0, 0)
		s.in(wire.ACK, -1, 0, "x") // the kind with a garbage octet
		s.out(wire.ACK, 0, 0, 0)
	})
}
