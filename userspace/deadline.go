// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"net"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// The deadlines of Read and Write are times that the connection must be looked at, like those of its TCP, and stand in the
// same wheel. A server that sets one for every request pays for a comparison.

// SetDeadline sets both deadlines; the zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, tcp.Readable|tcp.Writable)
}

// SetReadDeadline sets when Read fails with os.ErrDeadlineExceeded; the zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, tcp.Readable) }

// SetWriteDeadline sets when Write fails with os.ErrDeadlineExceeded; the zero time means never.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, tcp.Writable) }

// setDeadlines sets the deadlines of the calls that wait for these events.
func (c *Conn) setDeadlines(t time.Time, of tcp.Event) error {
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	now, deadline := s.engine.clock.now(), tcp.Never
	expired := false
	if !t.IsZero() {
		// time.Until knows whether t is of the wall clock. Centuries away it overflows nothing.
		wait := time.Until(t)
		if expired = wait <= 0; !expired {
			deadline = now + min(tcp.Time(wait), tcp.Never-1-now)
		}
	}
	if of&tcp.Readable != 0 {
		c.readDeadline, c.readExpired = deadline, expired
	}
	if of&tcp.Writable != 0 {
		c.writeDeadline, c.writeExpired = deadline, expired
	}
	switch {
	case expired:
		c.notify(of)
	case !c.over: // if it is, nobody waits, and it is not in timers any more
		s.schedule(c, now)
	}
	return nil
}

// deadline is when the connection must be looked at next.
func (c *Conn) deadline() tcp.Time {
	return min(c.tcp.Deadline(), c.readDeadline, c.writeDeadline)
}

// expire lets deadlines pass, and says whom to wake.
func (c *Conn) expire(now tcp.Time) (ev tcp.Event) {
	if c.readDeadline <= now {
		c.readDeadline, c.readExpired = tcp.Never, true
		ev |= tcp.Readable
	}
	if c.writeDeadline <= now {
		c.writeDeadline, c.writeExpired = tcp.Never, true
		ev |= tcp.Writable
	}
	return ev
}

// timedOut says whether one of the deadlines has passed. Of a connection that is over, only the calls ask.
func (c *Conn) timedOut(deadline tcp.Time, expired bool) bool {
	return expired || c.over && deadline != tcp.Never && deadline <= c.shard.engine.clock.now()
}
