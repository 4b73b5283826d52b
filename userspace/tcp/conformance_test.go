// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// Requirements of RFC 9293 that no other test is about. RFC9293.md says where each is shown.

func TestPush(t *testing.T) {
	psh := func(g got) bool { return g.Flags.Has(wire.PSH) }
	t.Run("the last of what is queued carries it, and no other", func(t *testing.T) {
		s := newScript(t)
		s.write(2500)
		for i, want := range []bool{false, false, true} {
			if g, ok := s.next(); !ok || psh(g) != want {
				t.Errorf("segment %d: %v", i, g.Flags)
			}
		}
	})
	t.Run("several Writes that go out together have one", func(t *testing.T) {
		s := newScript(t)
		s.wnd = 0
		s.in(wire.ACK, 0, 0, "")
		for range 3 {
			s.write(500)
		}
		s.silent()
		s.wnd = 5000
		s.in(wire.ACK, 0, 0, "")
		if g := s.out(wire.ACK, 0, 0, 1000); psh(g) {
			t.Error("the first has one")
		}
		if g := s.out(wire.ACK, 1000, 0, 500); !psh(g) {
			t.Error("the last has none")
		}
	})
	t.Run("several small segments are sent again as one", func(t *testing.T) {
		s := newScript(t)
		for i := range 5 {
			s.write(100)
			s.out(wire.ACK, i*100, 0, 100)
		}
		s.timeout()
		if g := s.out(wire.ACK, 0, 0, 500); !psh(g) {
			t.Error("without PSH")
		}
	})
	t.Run("a segment without data has none", func(t *testing.T) {
		s := newScript(t)
		s.in(finAck, 0, 0, "")
		if g := s.out(wire.ACK, 0, 1, 0); psh(g) {
			t.Error("an ACK has one")
		}
		s.c.CloseWrite()
		if g := s.out(finAck, 0, 1, 0); psh(g) {
			t.Error("a FIN has one")
		}
	})
	t.Run("what comes is delivered whether it carries one or not", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, "a")
		s.in(wire.ACK|wire.PSH, 1, 0, "b")
		if got := s.read(); got != "ab" {
			t.Errorf("read %q", got)
		}
	})
}

func TestSegmentsAreAsFullAsTheyCanBe(t *testing.T) {
	s := newScript(t)
	s.wnd = 0
	s.in(wire.ACK, 0, 0, "")
	for range 25 {
		s.write(100)
		s.silent()
	}
	s.wnd = 20000
	s.in(wire.ACK, 0, 0, "")
	s.out(wire.ACK, 0, 0, 1000)
	s.out(wire.ACK, 1000, 0, 1000)
	s.out(wire.ACK, 2000, 0, 500)
	s.silent()
}

func TestAWindowThatShrank(t *testing.T) {
	shrunk := func(t *testing.T, to uint16) *script {
		s := flight(t, 4)
		s.wnd = to
		s.in(wire.ACK, 0, 1000, "")
		return s
	}
	t.Run("no new data is sent", func(t *testing.T) {
		s := shrunk(t, 1000)
		s.write(1000)
		s.silent()
	})
	t.Run("what was sent is sent again, within it and beyond", func(t *testing.T) {
		s := shrunk(t, 1000)
		s.timeout()
		s.out(wire.ACK, 1000, 0, 1000)
		s.in(wire.ACK, 0, 2000, "") // the edge has moved on
		s.out(wire.ACK, 2000, 0, 1000)
	})
	t.Run("data beyond the edge does not time out as long as the peer answers", func(t *testing.T) {
		s := shrunk(t, 0)
		for range 10 * s.cfg.Retries {
			s.wait()
			if _, ok := s.next(); !ok {
				t.Fatal("nothing is tried any more")
			}
			s.in(wire.ACK, 0, 1000, "")
		}
		s.state(StateEstablished)
		s.wnd = 65535
		s.in(wire.ACK, 0, 1000, "")
		s.wait()
		s.next()
		s.in(wire.ACK, 0, 4000, "")
		s.idle()
	})
	t.Run("and does when the peer does not", func(t *testing.T) {
		s := shrunk(t, 0)
		s.spend()
		if s.c.Err() != ErrTimeout {
			t.Errorf("error %v", s.c.Err())
		}
	})
}

func TestAShutReceiveWindow(t *testing.T) {
	full := func(t *testing.T) *script {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK, 0, 0, zeros(8000))
		if g := s.out(wire.ACK, 0, 8000, 0); g.Window != 0 {
			t.Fatalf("window %d", g.Window)
		}
		return s
	}
	t.Run("may stay so for ever, and each probe is answered", func(t *testing.T) {
		s := full(t)
		for range 1000 {
			s.now = s.now.Add(time.Minute)
			s.in(wire.ACK, 8000, 0, "p")
			if g := s.out(wire.ACK, 0, 8000, 0); g.Window != 0 {
				t.Fatalf("window %d", g.Window)
			}
		}
		s.idle()
	})
	t.Run("a RST counts all the same", func(t *testing.T) {
		s := full(t)
		s.in(wire.RST, 8000, 0, "")
		s.state(StateClosed)
	})
	t.Run("so does an acknowledgment, on a probe that does not fit", func(t *testing.T) {
		s := full(t)
		s.write(10)
		s.out(wire.ACK, 0, 8000, 10)
		s.in(wire.ACK, 8000, 10, "p")
		if s.c.Unacked() != 0 {
			t.Error("it was not believed")
		}
	})
}

func TestUrgentDataIsReadInItsPlace(t *testing.T) {
	s := newScript(t)
	s.in(wire.ACK, 0, 0, "ab")
	s.in(wire.ACK|wire.URG, 2, 0, "URGENT")
	s.in(wire.ACK, 8, 0, "cd")
	if got := s.read(); got != "abURGENTcd" {
		t.Errorf("read %q", got)
	}
	s.write(1)
	if g, _ := s.next(); g.Flags.Has(wire.URG) {
		t.Error("it was sent as urgent")
	}
}

func TestARSTMayCarryData(t *testing.T) {
	s := newScript(t)
	s.in(wire.ACK, 0, 0, "before")
	s.in(wire.RST|wire.ACK, 6, 0, "the reason")
	s.state(StateClosed)
	if got := s.read(); got != "before" || s.c.Err() != ErrReset {
		t.Errorf("read %q, error %v", got, s.c.Err())
	}
}

func TestNoSegmentHasAnOptionOfTheHandshake(t *testing.T) {
	s := newScript(t, withTimestamps)
	check := func() {
		t.Helper()
		for {
			g, ok := s.next()
			if !ok {
				return
			}
			if g.MSS != 0 || g.WScale != -1 || g.SACKPermitted || !g.Timestamps && !g.Flags.Has(wire.RST) {
				t.Errorf("%v with MSS %d, scale %d, SACK %v, timestamps %v", g.Flags, g.MSS, g.WScale, g.SACKPermitted, g.Timestamps)
			}
		}
	}
	s.write(2500)
	check()
	s.in(wire.ACK, 10, 0, "out of order")
	check()
	s.wait()
	check()
	s.c.Abort()
	check()
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"RecvBuffer":    func(c *Config) { c.RecvBuffer = 100 },
		"RecvBufferMax": func(c *Config) { c.RecvBufferMax = 2 << 30 },
		"SendBuffer":    func(c *Config) { c.SendBuffer = 0 },
		"SendBufferMax": func(c *Config) { c.SendBufferMax = -1 },
		"DelayedAck":    func(c *Config) { c.DelayedAck = 501 * time.Millisecond }, // RFC 9293, MUST-40
		"MinRTO":        func(c *Config) { c.MinRTO = 0 },
		"InitialRTO":    func(c *Config) { c.InitialRTO = time.Hour },
		"Retries":       func(c *Config) { c.Retries = 0 },
		"OrphanRetries": func(c *Config) { c.OrphanRetries = 1000 },
		"TimeWait":      func(c *Config) { c.TimeWait = 0 },
		"FinWait2":      func(c *Config) { c.FinWait2 = 0 },
		"Pool":          func(c *Config) { c.Pool = nil },
	} {
		c := DefaultConfig()
		change(c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
