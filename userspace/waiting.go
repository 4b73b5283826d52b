// SPDX-License-Identifier: Apache-2.0

package userspace

import "github.com/xdptcp/xdptcp/userspace/tcp"

// The bound of the queue, and how long a connection stays in it.
const (
	maxWaiting  = 16384                  // per shard
	waitingTime = tcp.Time(60_000000000) // nearly a cookie's lifetime
)

// waiting is a queue of connections that are over, in TIME-WAIT or closed in any way. They are kept for
// a while, so that old duplicates of their segments meet them and not a new handshake: a late copy of
// the first data would still prove the cookie, and a request would run twice.
//
// The queue is bounded. At the bound the oldest goes first: under load the time gets shorter, the
// memory does not grow.
type waiting struct {
	head, tail *Conn
	n          int
}

func (w *waiting) push(c *Conn, until tcp.Time) {
	c.waitingUntil = until
	c.inWaiting = true
	c.prev, c.next = w.tail, nil
	if w.tail != nil {
		w.tail.next = c
	} else {
		w.head = c
	}
	w.tail = c
	w.n++
}

func (w *waiting) remove(c *Conn) {
	if !c.inWaiting {
		return
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		w.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		w.tail = c.prev
	}
	c.prev, c.next, c.inWaiting = nil, nil, false
	w.n--
}

// expired is the oldest connection if its time is over or there are too many; nil otherwise.
func (w *waiting) expired(now tcp.Time) *Conn {
	if w.head != nil && (w.n > maxWaiting || w.head.waitingUntil <= now) {
		return w.head
	}
	return nil
}
