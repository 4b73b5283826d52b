// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestSendWindow(t *testing.T) {
	t.Run("no more is sent than the window has room for", func(t *testing.T) {
		s := newScript(t)
		s.wnd = 2000
		s.in(wire.ACK, 0, 0, "")
		s.write(5000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.silent()
		s.in(wire.ACK, 0, 1000, "")
		s.out(wire.ACK, 2000, 0, 1000)
		s.silent()
	})
	t.Run("it is scaled", func(t *testing.T) {
		s := newScript(t, func(hs *Handshake, _ *Config) { hs.SndWScale = 7 })
		if got := s.c.Info().SndWnd; got != 65535<<7 {
			t.Errorf("window %d", got)
		}
	})
	t.Run("an older segment does not change it", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 0, 0, "abc") // SND.WL1 is 0
		s.in(wire.ACK, 3, 0, "def") // SND.WL1 is 3
		s.wnd = 10
		s.c.rcvNxt = s.c.rcvNxt.Add(-6) // so that the old one is acceptable
		s.in(wire.ACK, 1, 0, "")
		if s.c.sndWnd != 65535 {
			t.Errorf("window %d", s.c.sndWnd)
		}
	})
	t.Run("a segment with the same number and an older ACK does not change it", func(t *testing.T) {
		s := newScript(t)
		s.write(2000)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.in(wire.ACK, 0, 2000, "")
		s.wnd = 10
		s.in(wire.ACK, 0, 1000, "")
		if s.c.sndWnd != 65535 {
			t.Errorf("window %d", s.c.sndWnd)
		}
	})
	t.Run("it may shrink, even below what is in flight", func(t *testing.T) {
		s := newScript(t)
		s.write(4000)
		for i := range 4 {
			s.out(wire.ACK, i*1000, 0, 1000)
		}
		s.wnd = 500
		s.in(wire.ACK, 0, 1000, "")
		s.write(1)
		s.silent()
	})
}

func TestSillyWindowsAreNotFilled(t *testing.T) {
	s := newScript(t)
	s.c.maxSndWnd = 4000
	s.wnd = 1500
	s.in(wire.ACK, 0, 0, "")
	s.write(3000)
	s.out(wire.ACK, 0, 0, 1000)
	s.silent() // 500 are allowed: neither a segment, nor all there is, nor half the largest window
	s.wnd = 100
	s.in(wire.ACK, 0, 1000, "")
	s.silent()
	s.wait() // until the override
	s.out(wire.ACK, 1000, 0, 100)
	s.silent()
}

func TestNagle(t *testing.T) {
	t.Run("off, small segments go at once", func(t *testing.T) {
		s := newScript(t)
		s.write(1)
		s.out(wire.ACK, 0, 0, 1)
		s.write(1)
		s.out(wire.ACK, 1, 0, 1)
	})
	t.Run("on, they wait for the acknowledgment", func(t *testing.T) {
		s := newScript(t)
		s.c.SetNoDelay(false)
		s.write(1)
		s.out(wire.ACK, 0, 0, 1)
		s.write(1)
		s.write(1)
		s.silent()
		s.in(wire.ACK, 0, 1, "")
		s.out(wire.ACK, 1, 0, 2)
	})
	t.Run("on, full segments do not wait", func(t *testing.T) {
		s := newScript(t)
		s.c.SetNoDelay(false)
		s.write(2500)
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 1000)
		s.silent()
	})
	t.Run("on, the end does not wait", func(t *testing.T) {
		s := newScript(t)
		s.c.SetNoDelay(false)
		s.write(1500)
		s.c.CloseWrite()
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK|wire.FIN, 1000, 0, 500)
	})
}

func smallBuffer(hs *Handshake, cfg *Config) { cfg.RecvBuffer = 8000; hs.RcvWnd = 8000 }

func TestReceiveWindow(t *testing.T) {
	t.Run("what is not read comes off", func(t *testing.T) {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK, 0, 0, zeros(1000))
		s.in(wire.ACK, 1000, 0, zeros(1000))
		if g := s.out(wire.ACK, 0, 2000, 0); g.Window != 6000 {
			t.Errorf("window %d", g.Window)
		}
	})
	t.Run("text beyond the window is cut off", func(t *testing.T) {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK|wire.FIN, 0, 0, zeros(8001))
		if s.c.Buffered() != 8000 {
			t.Errorf("%d bytes received", s.c.Buffered())
		}
		s.state(StateEstablished) // the FIN was beyond it too
		if g := s.out(wire.ACK, 0, 8000, 0); g.Window != 0 {
			t.Errorf("window %d", g.Window)
		}
	})
	t.Run("a read of a byte is not worth an update, a read of two segments is", func(t *testing.T) {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK, 0, 0, zeros(8000))
		s.out(wire.ACK, 0, 8000, 0)
		b := make([]byte, 8000)
		s.c.Read(b[:1])
		s.silent()
		s.c.Read(b[:1998])
		s.silent()
		s.c.Read(b[:1])
		if g := s.out(wire.ACK, 0, 8000, 0); g.Window != 2000 {
			t.Errorf("window %d", g.Window)
		}
		s.silent()
	})
	t.Run("a byte's worth of room is not offered along with data", func(t *testing.T) {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK, 0, 0, zeros(8000))
		s.out(wire.ACK, 0, 8000, 0)
		s.c.Read(make([]byte, 999))
		s.write(1)
		if g := s.out(wire.ACK, 0, 8000, 1); g.Window != 0 {
			t.Errorf("window %d", g.Window)
		}
	})
	t.Run("while half a window is left, no update is sent", func(t *testing.T) {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK, 0, 0, zeros(2000))
		s.out(wire.ACK, 0, 2000, 0)
		s.read()
		s.silent()
	})
	t.Run("after CloseRead, text is acknowledged and thrown away", func(t *testing.T) {
		s := newScript(t, smallBuffer)
		s.in(wire.ACK, 0, 0, "unread")
		s.c.CloseRead()
		for i := range 10 {
			s.in(wire.ACK, 6+i*2000, 0, zeros(2000))
			if g := s.out(wire.ACK, 0, 6+(i+1)*2000, 0); g.Window < 6000 {
				t.Fatalf("window %d", g.Window)
			}
		}
		if s.c.Buffered() != 0 || s.cfg.Pool.InUse() != 0 {
			t.Error("it was kept")
		}
	})
	t.Run("it is scaled, and the first one of the handshake is not", func(t *testing.T) {
		s := newScript(t, func(hs *Handshake, _ *Config) { hs.RcvWScale = 7 })
		if got := s.c.Info().RcvWnd; got != 60000 {
			t.Errorf("at first %d", got)
		}
		s.write(1)
		if g := s.out(wire.ACK, 0, 0, 1); g.Window != 256<<10>>7 {
			t.Errorf("field %d", g.Window)
		}
	})
}

func TestPersist(t *testing.T) {
	shut := func(t *testing.T) *script {
		s := newScript(t)
		s.wnd = 0
		s.in(wire.ACK, 0, 0, "")
		s.write(1500)
		s.silent()
		return s
	}
	t.Run("a closed window is probed with one octet, ever more slowly", func(t *testing.T) {
		s := shut(t)
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 120, 120} {
			if d := s.wait(); d != want*time.Second {
				t.Errorf("probe %d after %v, want %v", i, d, want*time.Second)
			}
			s.out(wire.ACK, 0, 0, 1)
			s.silent()
			if s.c.outstanding() != 0 {
				t.Error("the probe counts as sent")
			}
		}
	})
	t.Run("when it opens, all is sent", func(t *testing.T) {
		s := shut(t)
		s.wait()
		s.out(wire.ACK, 0, 0, 1)
		s.wnd = 5000
		s.in(wire.ACK, 0, 0, "")
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 500)
	})
	t.Run("a probe that is taken counts as sent", func(t *testing.T) {
		s := shut(t)
		s.wait()
		s.out(wire.ACK, 0, 0, 1)
		s.in(wire.ACK, 0, 1, "")
		s.silent()
		if s.c.Unacked() != 1499 {
			t.Errorf("%d unacknowledged", s.c.Unacked())
		}
		s.wait()
		s.out(wire.ACK, 1, 0, 1)
	})
	t.Run("once the octet has been sent for real, the probe does not count", func(t *testing.T) {
		s := shut(t)
		s.wait()
		s.out(wire.ACK, 0, 0, 1)
		s.wnd = 5000
		s.in(wire.ACK, 0, 0, "")
		s.out(wire.ACK, 0, 0, 1000)
		s.out(wire.ACK, 1000, 0, 500)
		s.in(wire.ACK, 0, 1501, "")
		if s.c.Unacked() != 1500 {
			t.Error("an ACK beyond SND.NXT was believed")
		}
	})
	t.Run("a FIN behind a closed window is the probe itself", func(t *testing.T) {
		s := newScript(t)
		s.wnd = 0
		s.in(wire.ACK, 0, 0, "")
		s.c.CloseWrite()
		s.silent()
		s.wait()
		s.out(wire.ACK|wire.FIN, 0, 0, 0)
		s.state(StateFinWait1)
		s.in(wire.ACK, 0, 1, "")
		s.state(StateFinWait2)
	})
	t.Run("as long as the peer answers, it may stay closed", func(t *testing.T) {
		s := shut(t)
		for range 100 {
			s.wait()
			s.out(wire.ACK, 0, 0, 1)
			s.in(wire.ACK, 0, 0, "")
			s.silent()
		}
		s.state(StateEstablished)
	})
	t.Run("a peer that does not answer is given up", func(t *testing.T) {
		s := shut(t)
		for range s.cfg.Retries {
			s.wait()
			s.out(wire.ACK, 0, 0, 1)
		}
		s.wait()
		if s.c.Err() != ErrTimeout || s.ev != Closed {
			t.Errorf("error %v, event %b", s.c.Err(), s.ev)
		}
	})
	t.Run("for an application that has gone, it may not stay closed for ever", func(t *testing.T) {
		s := shut(t)
		s.c.Close(s.now)
		for range s.cfg.OrphanRetries {
			s.wait()
			s.out(wire.ACK, 0, 0, 1)
			s.in(wire.ACK, 0, 0, "")
		}
		s.wait()
		s.state(StateClosed)
	})
}

func TestWriteIsCutShortAndWritableFollows(t *testing.T) {
	s := newScript(t, func(_ *Handshake, cfg *Config) { cfg.SendBuffer, cfg.SendBufferMax = 8000, 0 })
	if n := s.c.Write(make([]byte, 10000)); n != 8000 {
		t.Fatalf("took %d", n)
	}
	for i := range 8 {
		s.out(wire.ACK, i*1000, 0, 1000)
	}
	if ev := s.in(wire.ACK, 0, 1000, ""); ev != 0 {
		t.Errorf("event %b for an eighth of the buffer", ev)
	}
	if ev := s.in(wire.ACK, 0, 2000, ""); ev != Writable {
		t.Errorf("event %b for a quarter of the buffer", ev)
	}
	if ev := s.in(wire.ACK, 0, 3000, ""); ev != 0 {
		t.Errorf("event %b again", ev)
	}
}

func TestThePoolsBound(t *testing.T) {
	bound := func(_ *Handshake, cfg *Config) { cfg.Pool = NewPool(1) }
	t.Run("cuts a Write short, and Writable comes when there is room", func(t *testing.T) {
		s := newScript(t, bound)
		other := s.cfg.Pool.get()
		if n := s.c.Write([]byte("x")); n != 0 {
			t.Fatalf("took %d", n)
		}
		s.silent()
		s.wait()
		s.silent()
		if s.ev != 0 {
			t.Fatalf("event %b without room", s.ev)
		}
		s.cfg.Pool.put(other)
		s.wait()
		if s.ev != Writable {
			t.Fatalf("event %b with room", s.ev)
		}
	})
	t.Run("drops text, which comes again", func(t *testing.T) {
		s := newScript(t, bound)
		other := s.cfg.Pool.get()
		s.in(wire.ACK, 0, 0, "hello")
		s.in(wire.ACK, 5, 0, "world")
		s.cfg.Pool.put(other)
		s.in(wire.ACK, 0, 0, "hello")
		if got := s.read(); got != "hello" {
			t.Errorf("read %q", got)
		}
		if got := s.c.Info().PoolDropsIn; got != 2 {
			t.Errorf("%d drops counted", got)
		}
	})
}
