// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestADeadlineForEveryRequestCostsNoAllocation(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestADeadlineWakesWhoeverWaits(t *testing.T) {
	p := newPeer(t, 0) // that acknowledges nothing
	c := p.connect()
	errs := make(chan error, 3)
	for range 2 {
		go func() {
			_, err := c.Read(make([]byte, 1))
			errs <- err
		}()
	}
	go func() {
		_, err := c.Write(make([]byte, p.engine.cfg.TCP.SendBuffer+1))
		errs <- err
	}()
	if err := c.SetDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		select {
		case err := <-errs:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("somebody still waits")
		}
	}
}

func TestADeadlineWithdrawnOrPutOffHasNoEffect(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	for _, then := range []time.Time{{}, time.Now().Add(time.Hour), time.Unix(1<<40, 0)} {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(then); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Millisecond)
	}
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "x", nil)
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestADeadlinePassesAfterTheConnectionIsOver(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	p.send(wire.FIN|wire.ACK, 501, peerISS+1, "", nil)
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read %d, %v", n, err)
	}
	if err := c.(*Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for s := p.link.next(t); !s.Segment.Flags.Has(wire.FIN); s = p.link.next(t) {
	}
	p.send(wire.ACK, 502, peerISS+2, "", nil)
	p.stats("waiting", func(s Stats) uint64 { return uint64(s.Waiting) }, 1)
	deadline := time.Now().Add(500 * time.Millisecond)
	if err := c.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read before it: %d, %v", n, err)
	}
	time.Sleep(time.Until(deadline) + time.Millisecond)
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after it: %d, %v", n, err)
	}
	if conn := c.(*Conn); conn.slot != noTimer {
		t.Error("a connection that is over is in the wheel")
	}
}

// A loop that sleeps is woken for a deadline only if it would sleep on when that comes.
func TestAFarDeadlineDoesNotWakeTheLoop(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	s := c.shard
	s.mu.Lock()
	s.sleepUntil = s.engine.clock.now().Add(maxSleep)
	s.schedule(c, s.engine.clock.now())
	before := s.sleepUntil
	c.readDeadline = before.Add(time.Minute)
	s.schedule(c, s.engine.clock.now())
	if s.sleepUntil != before {
		t.Error("a deadline a minute away wakes it")
	}
	c.readDeadline = before - tcp.Time(900*time.Millisecond)
	s.schedule(c, s.engine.clock.now())
	if s.sleepUntil >= before {
		t.Error("a deadline before it wakes by itself does not wake it")
	}
	s.mu.Unlock()
}
