// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"os"
	"time"
)

// A linger is how long Close waits for the peer to have everything.
type linger struct {
	limit time.Duration // 0: Close throws away what is not acknowledged, and resets
	over  chan struct{} // closed when there is nothing to wait for any more; nil: Close does not wait yet
}

// maxLinger keeps a number of seconds within a time.Duration.
const maxLinger = 1 << 30

// SetLinger says what Close does about data that the peer has not acknowledged. A negative sec, the default, has it delivered in
// the background. 0 throws it away, and the peer gets a RST. A positive one has Close wait until the peer has
// acknowledged everything, or the connection has failed, or sec seconds are over. Close then says so: with the
// connection's error, or with os.ErrDeadlineExceeded, and in that case delivery goes on in the background.
func (c *Conn) SetLinger(sec int) error {
	return c.do("set", func() {
		if sec < 0 {
			c.linger = nil
			return
		}
		c.linger = &linger{limit: time.Duration(min(sec, maxLinger)) * time.Second}
	})
}

// closeTCP begins what Close says, with the lock held. The result, if there is one, is for lingerUntil.
func (c *Conn) closeTCP() <-chan struct{} {
	if c.linger != nil && c.linger.limit == 0 {
		c.tcp.Abort()
		c.ended = true
		return nil
	}
	c.tcp.Close(c.shard.engine.clock.now())
	if c.linger == nil || !c.tcp.Linger() {
		return nil
	}
	c.linger.over = make(chan struct{})
	return c.linger.over
}

// lingerUntil is the wait of a Close. The lock is not held.
func (c *Conn) lingerUntil(over <-chan struct{}) error {
	timer := time.NewTimer(c.linger.limit) // after Close nobody changes it
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
		return c.opError("close", os.ErrDeadlineExceeded)
	}
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if err := c.tcp.Err(); err != nil {
		return c.opError("close", err)
	}
	return nil
}

// end ends the wait. The lock is held.
func (l *linger) end() {
	if l.over != nil {
		close(l.over)
		l.over = nil
	}
}
