// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A Conn is one connection. It is a net.Conn; any of its methods may be called from any goroutine.
//
// There may be a million of them, and nearly all idle: what few need for a short time is a pointer.
type Conn struct {
	// What finds a connection is in its first two cache lines.
	shard    *shard
	template wire.Template // has the flow, too

	// Covered by the shard's lock, as is all below.
	closed       bool // by Close
	writeClosed  bool // by CloseWrite
	ended        bool // reached CLOSED: nothing more comes or goes
	over         bool // reached CLOSED or TIME-WAIT, and was counted as such
	dirty        bool // in shard.dirty
	stalled      bool // in shard.stalled
	inWaiting    bool // in shard.waiting
	forgotten    bool // the shard has it no more
	readExpired  bool // the deadline has passed
	writeExpired bool
	woken        tcp.Event

	// In a connList: of shard.timers or shard.waiting.
	slot       int16
	prev, next *Conn
	when       tcp.Time

	tcp tcp.Conn

	readDeadline, writeDeadline tcp.Time // tcp.Never: none, or passed

	canRead  sync.Cond
	canWrite *sync.Cond // made for the first Write that waits: most never do

	writing sync.Mutex // one Write at a time, so that their bytes don't mix

	agreed agreed
	opened tcp.Time

	linger *linger // nil: Close does not wait
}

var _ net.Conn = (*Conn)(nil)

func newConn(s *shard, p *wire.Packet, record *bpf.Handshake, now tcp.Time) *Conn {
	c := &Conn{
		shard: s, agreed: newAgreed(record), opened: now, template: wire.NewTemplate(p), slot: noTimer,
		readDeadline: tcp.Never, writeDeadline: tcp.Never,
	}
	c.canRead.L = &s.mu
	return c
}

// flow names the connection.
func (c *Conn) flow() wire.Flow { return c.template.Flow() }

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
		if c.canWrite != nil {
			c.canWrite.Broadcast()
		}
	}
	if c.woken&(tcp.Delivered|tcp.Closed) != 0 && c.linger != nil {
		c.linger.end()
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
		if err := c.mayRead(); err != nil || len(b) == 0 {
			return 0, err
		}
		if n := c.tcp.Read(b); n > 0 {
			c.drive() // the window has opened: perhaps worth telling
			return n, nil
		}
		if err := c.nothingComes(); err != nil {
			return 0, err
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

// mayRead gives the error of a call that reads, whether there is something to read or not; nil: there is none.
func (c *Conn) mayRead() error {
	switch {
	case c.closed:
		return c.opError("read", net.ErrClosed)
	case c.timedOut(c.readDeadline, c.readExpired):
		return c.opError("read", os.ErrDeadlineExceeded)
	}
	return nil
}

// nothingComes gives the error of a call that has read everything: io.EOF, or why the connection ended. nil: more may come.
func (c *Conn) nothingComes() error {
	switch {
	case c.tcp.ReadClosed():
		return io.EOF
	case !c.ended:
		return nil
	case c.tcp.Err() != nil:
		return c.opError("read", c.tcp.Err())
	}
	return io.EOF
}

// waitWrite waits until there may be room for a writer. The lock is held, but not meanwhile.
func (c *Conn) waitWrite() {
	s := c.shard
	if s.owes() {
		s.unlock() // which flushes; then there may be room already
		s.mu.Lock()
		return
	}
	if c.canWrite == nil {
		c.canWrite = sync.NewCond(&s.mu)
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
		if err := c.mayWrite(); err != nil {
			return n, err
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

// mayWrite gives the error of a call that writes; nil: there is none.
func (c *Conn) mayWrite() error {
	switch {
	case c.closed:
		return c.opError("write", net.ErrClosed)
	case c.timedOut(c.writeDeadline, c.writeExpired):
		return c.opError("write", os.ErrDeadlineExceeded)
	case c.ended || c.writeClosed:
		if err := c.tcp.Err(); err != nil {
			return c.opError("write", err)
		}
		return c.opError("write", syscall.EPIPE)
	}
	return nil
}

// drive has what there is to send go out in the caller's own time slice, when unlock is called.
func (c *Conn) drive() {
	c.shard.output(c, c.shard.engine.clock.now())
}

// Close ends both directions. What was written is still delivered in the background, unless SetLinger said otherwise.
func (c *Conn) Close() error {
	var wait <-chan struct{}
	err := c.do("close", func() {
		c.closed = true
		c.readDeadline, c.writeDeadline = tcp.Never, tcp.Never
		wait = c.closeTCP()
		c.notify(tcp.Readable | tcp.Writable)
	})
	if wait != nil {
		return c.lingerUntil(wait)
	}
	return err
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

// LocalAddr is our address: a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow().LocalAddr()) }

// RemoteAddr is the client's address: a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow().RemoteAddr()) }

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
