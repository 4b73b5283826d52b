// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"container/heap"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// timers orders a shard's connections by when they must be looked at next. A connection's entry is
// only ever moved earlier: when it comes up and the real deadline turns out to be later, it goes
// back in. So restarting a timer for every segment costs a comparison.
type timers []*Conn

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].wakeAt < t[j].wakeAt }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i, j
}
func (t *timers) Push(x any) {
	c := x.(*Conn)
	c.timer = len(*t)
	*t = append(*t, c)
}
func (t *timers) Pop() any {
	old := *t
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	c.timer = -1
	return c
}

// schedule makes sure that c is looked at by its deadline.
func (t *timers) schedule(c *Conn) {
	deadline := c.tcp.Deadline()
	switch {
	case deadline == tcp.Never:
	case c.timer < 0:
		c.wakeAt = deadline
		heap.Push(t, c)
	case deadline < c.wakeAt:
		c.wakeAt = deadline
		heap.Fix(t, c.timer)
	}
}

func (t *timers) remove(c *Conn) {
	if c.timer >= 0 {
		heap.Remove(t, c.timer)
	}
}

// next is when the first connection must be looked at.
func (t timers) next() tcp.Time {
	if len(t) == 0 {
		return tcp.Never
	}
	return t[0].wakeAt
}

// due takes out a connection whose time has come; nil if there is none.
func (t *timers) due(now tcp.Time) *Conn {
	for len(*t) > 0 && (*t)[0].wakeAt <= now {
		c := heap.Pop(t).(*Conn)
		if c.tcp.Deadline() <= now {
			return c
		}
		t.schedule(c)
	}
	return nil
}
