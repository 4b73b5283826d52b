// SPDX-License-Identifier: Apache-2.0

package userspace

// A connList is a doubly linked list through the connections themselves. A connection is in one list at a time: in one of
// timers while it lives, in waiting when it is over.
type connList struct{ head, tail *Conn }

func (l *connList) push(c *Conn) {
	c.prev, c.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = c
	} else {
		l.head = c
	}
	l.tail = c
}

func (l *connList) remove(c *Conn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.tail = c.prev
	}
	c.prev, c.next = nil, nil
}
