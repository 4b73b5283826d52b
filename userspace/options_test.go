// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// tcpConn is what callers of net.TCPConn's methods may ask a net.Conn for.
type tcpConn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	SetKeepAlive(bool) error
	SetKeepAliveConfig(net.KeepAliveConfig) error
	SetKeepAlivePeriod(time.Duration) error
	SetLinger(int) error
	SetNoDelay(bool) error
}

var (
	_ tcpConn = (*net.TCPConn)(nil)
	_ tcpConn = (*Conn)(nil)
)

func TestAfterCloseNoMethodWorks(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"Read":               func() error { _, err := c.Read(make([]byte, 1)); return err },
		"Write":              func() error { _, err := c.Write(make([]byte, 1)); return err },
		"Close":              c.Close,
		"CloseRead":          c.CloseRead,
		"CloseWrite":         c.CloseWrite,
		"SetDeadline":        func() error { return c.SetDeadline(time.Now()) },
		"SetReadDeadline":    func() error { return c.SetReadDeadline(time.Now()) },
		"SetWriteDeadline":   func() error { return c.SetWriteDeadline(time.Now()) },
		"SetNoDelay":         func() error { return c.SetNoDelay(true) },
		"SetLinger":          func() error { return c.SetLinger(0) },
		"SetKeepAlive":       func() error { return c.SetKeepAlive(true) },
		"SetKeepAlivePeriod": func() error { return c.SetKeepAlivePeriod(time.Hour) },
		"SetKeepAliveConfig": func() error { return c.SetKeepAliveConfig(net.KeepAliveConfig{}) },
		"SetUserTimeout":     func() error { return c.SetUserTimeout(time.Hour) },
	} {
		err := f()
		var op *net.OpError
		if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) || op.Timeout() || op.Net != "tcp" || op.Addr == nil || op.Source == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c.Info().Handshake.ClientISN != peerIRS || c.RemoteAddr() == nil {
		t.Error("what it was is forgotten")
	}
}

func TestSetLinger(t *testing.T) {
	const sent = "what was written"
	written := func(t *testing.T, sec int) (*peer, *Conn) {
		p := newPeer(t, 0)
		c := p.connect().(*Conn)
		if err := c.SetLinger(sec); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		p.want(p.link.next(t), wire.ACK|wire.PSH, peerISS+1, peerIRS+1, sent)
		return p, c
	}
	fin := peerISS + 1 + uint32(len(sent))
	closing := func(c *Conn) chan error {
		done := make(chan error, 1)
		go func() { done <- c.Close() }()
		return done
	}
	t.Run("negative: Close does not wait, and the data is still delivered", func(t *testing.T) {
		p, c := written(t, 5)
		if err := errors.Join(c.SetLinger(-1), c.Close()); err != nil {
			t.Fatal(err)
		}
		p.want(p.link.next(t), wire.FIN|wire.ACK, fin, peerIRS+1, "")
	})
	t.Run("0: Close resets, and what is not acknowledged is lost", func(t *testing.T) {
		p, c := written(t, 0)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		p.want(p.link.next(t), wire.RST|wire.ACK, fin, peerIRS+1, "")
		p.link.quiet(t)
		p.stats("aborted", func(s Stats) uint64 { return s.ClosedAborted }, 1)
	})
	t.Run("positive: Close waits until the peer has acknowledged everything", func(t *testing.T) {
		p, c := written(t, 60)
		done := closing(c)
		p.want(p.link.next(t), wire.FIN|wire.ACK, fin, peerIRS+1, "")
		p.send(wire.ACK, peerIRS+1, fin, "", nil) // all but the FIN
		select {
		case err := <-done:
			t.Fatalf("Close did not wait: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read meanwhile: %v", err)
		}
		p.send(wire.ACK, peerIRS+1, fin+1, "", nil)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("positive, and the peer resets: Close says so", func(t *testing.T) {
		p, c := written(t, 60)
		done := closing(c)
		p.link.next(t)
		p.send(wire.RST, peerIRS+1, 0, "", nil)
		if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	})
	t.Run("positive, and its time is over: Close says so, and delivery goes on", func(t *testing.T) {
		p, c := written(t, 1)
		err := <-closing(c)
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Error(err)
		}
		p.want(p.link.next(t), wire.FIN|wire.ACK, fin, peerIRS+1, "")
		p.stats("open", func(s Stats) uint64 { return uint64(s.Open) }, 1)
	})
	t.Run("positive, and the engine ends: Close does not wait any longer", func(t *testing.T) {
		p, c := written(t, 60)
		done := closing(c)
		p.link.next(t)
		p.engine.Close(0)
		if err := <-done; !errors.Is(err, syscall.ECONNABORTED) {
			t.Error(err)
		}
	})
	t.Run("positive, with nothing to wait for", func(t *testing.T) {
		p, c := written(t, 60)
		p.send(wire.RST, peerIRS+1, 0, "", nil)
		p.stats("reset", func(s Stats) uint64 { return s.ClosedReset }, 1)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestKeepAliveOptions(t *testing.T) {
	def := tcp.DefaultKeepAlive()
	second := time.Second
	for _, tt := range []struct {
		name string
		set  func(*Conn) error
		want tcp.KeepAlive
	}{
		{"off by default", func(*Conn) error { return nil }, def},
		{"on, at the RFC's pace", func(c *Conn) error { return c.SetKeepAlive(true) },
			tcp.KeepAlive{Enable: true, Idle: def.Idle, Interval: def.Interval, Count: def.Count}},
		{"a period alone does not turn it on", func(c *Conn) error { return c.SetKeepAlivePeriod(time.Minute) },
			tcp.KeepAlive{Idle: time.Minute, Interval: def.Interval, Count: def.Count}},
		{"a period is remembered", func(c *Conn) error {
			return errors.Join(c.SetKeepAlivePeriod(time.Minute), c.SetKeepAlive(true), c.SetKeepAlive(false), c.SetKeepAlive(true))
		}, tcp.KeepAlive{Enable: true, Idle: time.Minute, Interval: def.Interval, Count: def.Count}},
		{"zero fields are package net's defaults", func(c *Conn) error { return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) },
			tcp.KeepAlive{Enable: true, Idle: 15 * second, Interval: 15 * second, Count: 9}},
		{"negative fields stay", func(c *Conn) error {
			return errors.Join(c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 3 * second, Interval: 2 * second, Count: 5}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}))
		}, tcp.KeepAlive{Enable: true, Idle: 3 * second, Interval: 2 * second, Count: 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newPeer(t, 0).connect().(*Conn)
			if err := tt.set(c); err != nil {
				t.Fatal(err)
			}
			c.shard.mu.Lock()
			defer c.shard.mu.Unlock()
			if got := c.tcp.KeepAlive(); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestASilentPeerIsAskedAndThenGivenUp(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	if err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 50 * time.Millisecond, Interval: 50 * time.Millisecond, Count: 2}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p.want(p.link.next(t), wire.ACK, peerISS, peerIRS+1, "")
	}
	_, err := c.Read(make([]byte, 1))
	var ne net.Error
	if !errors.Is(err, syscall.ETIMEDOUT) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("read: %v", err)
	}
	p.want(p.link.next(t), wire.RST|wire.ACK, peerISS+1, peerIRS+1, "")
	if i := c.Info(); i.KeepAlivesOut != 2 || i.State != tcp.StateClosed {
		t.Errorf("info %+v", i)
	}
	p.stats("timed out", func(s Stats) uint64 { return s.ClosedTimeout }, 1)
}

func TestAUserTimeoutEndsAStall(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	if err := c.SetUserTimeout(1500 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("is anybody there?")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("write: %v", err)
	}
}

// How each way of ending looks to a Read and a Write that come after it.
func TestErrorsOfAConnectionThatIsOver(t *testing.T) {
	for _, tt := range []struct {
		name        string
		end         func(*peer, *Conn)
		read, write error
	}{
		{"the peer closed and took our FIN", func(p *peer, c *Conn) {
			p.send(wire.FIN|wire.ACK, peerIRS+1, peerISS+1, "", nil)
			if err := c.CloseWrite(); err != nil {
				p.t.Fatal(err)
			}
			p.send(wire.ACK, peerIRS+2, peerISS+2, "", nil)
			p.stats("closed", func(s Stats) uint64 { return s.ClosedClean }, 1)
		}, io.EOF, syscall.EPIPE},
		{"the peer reset", func(p *peer, c *Conn) {
			p.send(wire.RST, peerIRS+1, 0, "", nil)
			p.stats("reset", func(s Stats) uint64 { return s.ClosedReset }, 1)
		}, syscall.ECONNRESET, syscall.ECONNRESET},
		{"we closed our half", func(p *peer, c *Conn) {
			if err := errors.Join(c.CloseWrite(), c.SetReadDeadline(time.Now())); err != nil {
				p.t.Fatal(err)
			}
		}, os.ErrDeadlineExceeded, syscall.EPIPE},
		{"we closed for reading", func(p *peer, c *Conn) {
			if err := c.CloseRead(); err != nil {
				p.t.Fatal(err)
			}
		}, io.EOF, nil},
		{"the engine ended", func(p *peer, c *Conn) { p.engine.Close(0) }, net.ErrClosed, net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t, 0)
			c := p.connect().(*Conn)
			tt.end(p, c)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, tt.read) {
				t.Errorf("read: %v, want %v", err, tt.read)
			}
			if _, err := c.Write(make([]byte, 1)); !errors.Is(err, tt.write) {
				t.Errorf("write: %v, want %v", err, tt.write)
			}
		})
	}
}

func TestInfoTellsTheHandshakeAndBothWindows(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	i := c.Info()
	if i.State != tcp.StateEstablished || i.BytesOut != 5 || i.InFlight != 5 || i.SndWnd != 65535 || i.RcvWnd < 65535 ||
		i.Cwnd < i.MSS || i.RecvBuffer < i.RcvWnd || i.SendBuffer == 0 || i.RTO == 0 || i.Handshake.AnsweredBy != "xdp" || i.Handshake.ServerISN != peerISS {
		t.Errorf("%+v", i)
	}
}
