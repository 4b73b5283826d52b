// SPDX-License-Identifier: Apache-2.0

package userspace

import "github.com/xdptcp/xdptcp/userspace/tcp"

// The bound of the queue, and how long a connection stays in it.
const (
	maxWaiting  = 16384                  // per shard
	expireBatch = 64                     // by how many it may be exceeded, so that they go together
	waitingTime = tcp.Time(60_000000000) // nearly a cookie's lifetime
)

// waiting is a queue of connections that are over, in TIME-WAIT or closed in any way. They are kept for
// a while, so that old duplicates of their segments meet them and not a new handshake: a late copy of
// the first data would still prove the cookie, and a request would run twice.
//
// The queue is bounded. At the bound the oldest goes first: under load the time gets shorter, the
// memory does not grow. It holds whole connections, whose buffers are given back: a full queue is 11 to 14 MiB. Half of
// each would still be needed (flow, windows, timestamps, how to answer), with a second way through TIME-WAIT to
// go with it.
type waiting struct {
	list connList
	n    int
}

func (w *waiting) push(c *Conn, until tcp.Time) {
	c.when = until
	c.inWaiting = true
	w.list.push(c)
	w.n++
}

func (w *waiting) remove(c *Conn) {
	if !c.inWaiting {
		return
	}
	c.inWaiting = false
	w.list.remove(c)
	w.n--
}

// next is when expired must be called next.
func (w *waiting) next() tcp.Time {
	switch {
	case w.n >= maxWaiting+expireBatch:
		return 0
	case w.n > 0:
		return w.list.head.when
	}
	return tcp.Never
}

// expired is the oldest connection if its time is over or there are too many; nil otherwise.
func (w *waiting) expired(now tcp.Time) *Conn {
	if w.n > maxWaiting || w.n > 0 && w.list.head.when <= now {
		return w.list.head
	}
	return nil
}
