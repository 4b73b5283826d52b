// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// spend lets the timers run until the connection is closed, and says how long that took.
func (s *script) spend() time.Duration {
	s.t.Helper()
	from := s.now
	for n := 0; s.c.State() != StateClosed; n++ {
		if n > 1000 {
			s.t.Fatal("it does not end")
		}
		s.wait()
		for {
			if _, ok := s.next(); !ok {
				break
			}
		}
	}
	return s.now.Sub(from)
}

func TestUserTimeout(t *testing.T) {
	t.Run("by default the number of time-outs decides, after more than 100 s", func(t *testing.T) {
		if took := flight(t, 1).spend(); took < 100*time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("it ends a connection whose data is not acknowledged, to the moment", func(t *testing.T) {
		s := flight(t, 3)
		s.c.SetUserTimeout(10 * time.Second)
		if took := s.spend(); took != 10*time.Second || s.c.Err() != ErrTimeout {
			t.Errorf("took %v, error %v", took, s.c.Err())
		}
	})
	t.Run("it may be longer than the number of time-outs would take", func(t *testing.T) {
		s := flight(t, 1)
		s.c.SetUserTimeout(12 * time.Hour)
		if took := s.spend(); took != 12*time.Hour {
			t.Errorf("took %v", took)
		}
	})
	t.Run("it begins with the last progress", func(t *testing.T) {
		s := flight(t, 3)
		s.c.SetUserTimeout(10 * time.Second)
		s.wait()
		s.wait()
		s.next()
		s.in(wire.ACK, 0, 1000, "")
		for {
			if _, ok := s.next(); !ok {
				break
			}
		}
		if took := s.spend(); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("it is no shorter than one RTO", func(t *testing.T) {
		s := flight(t, 1, withoutSACK) // without a tail loss probe
		s.c.SetUserTimeout(time.Millisecond)
		if took := s.spend(); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("an idle connection is none of its business", func(t *testing.T) {
		s := newScript(t)
		s.c.SetUserTimeout(time.Second)
		s.idle()
	})
	t.Run("set in the middle of a stall, it counts from the stall's beginning", func(t *testing.T) {
		s := flight(t, 1, withoutSACK)
		s.wait() // 1 s
		s.wait() // 3 s
		s.c.SetUserTimeout(5 * time.Second)
		if took := s.spend(); took != 2*time.Second {
			t.Errorf("took %v more", took)
		}
	})
	t.Run("it ends the wait for a window that stays shut, though the peer answers", func(t *testing.T) {
		s := newScript(t)
		s.c.SetUserTimeout(20 * time.Second)
		s.wnd = 0
		s.in(wire.ACK, 0, 0, "")
		s.write(1500)
		s.silent()
		from := s.now
		for s.c.State() != StateClosed {
			s.wait()
			if _, ok := s.next(); ok {
				s.in(wire.ACK, 0, 0, "")
			}
		}
		if took := s.now.Sub(from); took != 20*time.Second || s.c.Err() != ErrTimeout {
			t.Errorf("took %v, error %v", took, s.c.Err())
		}
	})
	t.Run("an orphan is given up by number, if that is sooner", func(t *testing.T) {
		a, b := flight(t, 1), flight(t, 1)
		a.c.SetUserTimeout(12 * time.Hour)
		a.c.Close(a.now)
		b.c.Close(b.now)
		if with, without := a.spend(), b.spend(); with > without {
			t.Errorf("%v with a user time-out, %v without", with, without)
		}
	})
	t.Run("0 gives the number of time-outs back", func(t *testing.T) {
		a, b := flight(t, 1), flight(t, 1)
		a.c.SetUserTimeout(time.Second)
		a.c.SetUserTimeout(0)
		if with, without := a.spend(), b.spend(); with != without {
			t.Errorf("%v and %v", with, without)
		}
	})
}
