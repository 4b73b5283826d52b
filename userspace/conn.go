// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A Conn is one connection. It is a net.Conn; any of its methods may be called from any goroutine.
type Conn struct {
	shard    *shard
	flow     wire.Flow
	record   bpf.Handshake
	byEngine bool // the SYN/ACK was the engine's
	opened   time.Time
	template wire.Template

	writing sync.Mutex // one Write at a time, so that their bytes don't mix

	// Covered by the shard's lock.
	tcp           tcp.Conn
	canRead       sync.Cond
	canWrite      sync.Cond
	readDeadline  deadline
	writeDeadline deadline
	closed        bool // by Close
	writeClosed   bool // by CloseWrite
	ended         bool // reached CLOSED: nothing more comes or goes
	over          bool // reached CLOSED or TIME-WAIT, and was counted as such
	dirty         bool // in shard.dirty
	stalled       bool // in shard.stalled
	woken         tcp.Event
	timer         int // index in shard.timers; -1: not there
	wakeAt        tcp.Time

	inWaiting    bool // in shard.waiting
	waitingUntil tcp.Time
	prev, next   *Conn
}

var _ net.Conn = (*Conn)(nil)

func newConn(s *shard, p *wire.Packet, record *bpf.Handshake) *Conn {
	c := &Conn{
		shard: s, flow: p.Flow, record: *record, opened: time.Now(),
		template: wire.NewTemplate(p), timer: -1,
	}
	c.canRead.L, c.canWrite.L = &s.mu, &s.mu
	return c
}

// notify notes whom to wake when the lock is released.
func (c *Conn) notify(ev tcp.Event) {
	if c.woken == 0 {
		c.shard.wake = append(c.shard.wake, c)
	}
	c.woken |= ev
}

func (c *Conn) wakeUp() {
	if c.woken&(tcp.Readable|tcp.Closed) != 0 {
		c.canRead.Broadcast()
		c.shard.recall(c)
	}
	if c.woken&(tcp.Writable|tcp.Closed) != 0 {
		c.canWrite.Broadcast()
	}
	c.woken = 0
}

// reusable says whether a SYN may start a new connection in this one's place.
func (c *Conn) reusable(s *wire.Segment) bool {
	if c.inWaiting && c.tcp.State() == tcp.StateClosed {
		return true // after a passive close the peer knows that all is over
	}
	return c.tcp.AcceptsSYN(s)
}

// Read reads what has arrived, waiting if there is nothing.
func (c *Conn) Read(b []byte) (int, error) {
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readDeadline.expired:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		}
		if n := c.tcp.Read(b); n > 0 {
			c.drive() // the window has opened: perhaps worth telling
			return n, nil
		}
		if c.tcp.ReadClosed() {
			return 0, io.EOF
		}
		if c.ended {
			if err := c.tcp.Err(); err != nil {
				return 0, c.opError("read", err)
			}
			return 0, io.EOF
		}
		c.waitRead()
	}
}

// waitRead waits until there may be something for a reader. The lock is held, but not meanwhile.
func (c *Conn) waitRead() {
	switch s := c.shard; {
	case s.owes():
		s.unlock() // and then there may be something already
		s.mu.Lock()
	case s.mayPoll(c):
		s.poll(c)
	default:
		c.canRead.Wait()
	}
}

// waitWrite waits until there may be room for a writer. The lock is held, but not meanwhile.
func (c *Conn) waitWrite() {
	if s := c.shard; s.owes() {
		s.unlock() // and then there may be room already
		s.mu.Lock()
		return
	}
	c.canWrite.Wait()
}

// Write sends b. It returns when all of b is in the send buffer.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	for {
		switch {
		case c.closed:
			return n, c.opError("write", net.ErrClosed)
		case c.writeDeadline.expired:
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case c.ended || c.writeClosed:
			err := c.tcp.Err()
			if err == nil {
				err = syscall.EPIPE
			}
			return n, c.opError("write", err)
		}
		if took := c.tcp.Write(b[n:]); took > 0 {
			n += took
			c.drive()
		}
		if n == len(b) {
			return n, nil
		}
		c.waitWrite()
	}
}

// drive has what there is to send go out in the caller's own time slice, when unlock is called.
func (c *Conn) drive() {
	c.shard.output(c, c.shard.engine.clock.now())
}

// Close ends both directions. What was written is still delivered in the background.
func (c *Conn) Close() error {
	return c.do("close", func() {
		c.closed = true
		c.readDeadline.stop()
		c.writeDeadline.stop()
		c.tcp.Close(c.shard.engine.clock.now())
		c.notify(tcp.Readable | tcp.Writable)
	})
}

// CloseWrite ends our direction: the peer reads EOF after what was written.
func (c *Conn) CloseWrite() error {
	return c.do("close", func() {
		c.writeClosed = true
		c.tcp.CloseWrite()
		c.notify(tcp.Writable)
	})
}

// CloseRead throws away what arrives from now on.
func (c *Conn) CloseRead() error {
	return c.do("close", func() {
		c.tcp.CloseRead()
		c.notify(tcp.Readable)
	})
}

// SetNoDelay with false turns on Nagle's algorithm, which is off by default.
func (c *Conn) SetNoDelay(noDelay bool) error {
	return c.do("set", func() { c.tcp.SetNoDelay(noDelay) })
}

// abort resets the connection.
func (c *Conn) abort() {
	_ = c.do("close", func() { // an error says that it is closed already
		c.closed = true
		c.tcp.Abort()
		c.notify(tcp.Readable | tcp.Writable | tcp.Closed)
	})
}

func (c *Conn) do(op string, f func()) error {
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	if c.closed {
		return c.opError(op, net.ErrClosed)
	}
	f()
	c.drive()
	return nil
}

// Info is a snapshot of the connection's TCP.
func (c *Conn) Info() tcp.Info {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	return c.tcp.Info()
}

// LocalAddr is our address: a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow.LocalAddr()) }

// RemoteAddr is the client's address: a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow.RemoteAddr()) }

// A deadline makes the blocking calls of one direction fail from a moment on.
type deadline struct {
	timer   *time.Timer
	expired bool
	set     int // counts the settings, so that a timer of an earlier one has no effect
}

func (d *deadline) stop() {
	d.set++
	d.expired = false
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) isSet() bool { return d.timer != nil || d.expired }

// SetDeadline sets both deadlines; the zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets when Read fails with os.ErrDeadlineExceeded; the zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDeadline, &c.canRead, t)
}

// SetWriteDeadline sets when Write fails with os.ErrDeadlineExceeded; the zero time means never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDeadline, &c.canWrite, t)
}

func (c *Conn) setDeadline(d *deadline, cond *sync.Cond, t time.Time) error {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	d.stop()
	c.shard.recall(c)
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.expired = true
		cond.Broadcast()
		return nil
	}
	set := d.set
	d.timer = time.AfterFunc(wait, func() {
		c.shard.mu.Lock()
		defer c.shard.mu.Unlock()
		if d.set == set {
			d.expired = true
			cond.Broadcast()
		}
	})
	return nil
}

// opError gives an error the form that users of package net know.
func (c *Conn) opError(op string, err error) error {
	switch {
	case errors.Is(err, tcp.ErrReset):
		err = os.NewSyscallError(op, syscall.ECONNRESET)
	case errors.Is(err, tcp.ErrTimeout):
		err = os.NewSyscallError(op, syscall.ETIMEDOUT)
	case errors.Is(err, tcp.ErrAborted):
		err = os.NewSyscallError(op, syscall.ECONNABORTED)
	case errors.Is(err, syscall.EPIPE):
		err = os.NewSyscallError(op, syscall.EPIPE)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
