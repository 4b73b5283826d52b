// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// KeepAlive says how a connection on which nothing happens is watched (RFC 9293, 3.8.4).
type KeepAlive struct {
	Enable   bool
	Idle     time.Duration // nothing has come for so long: send the first probe
	Interval time.Duration // … and the next ones, if none is answered
	Count    int           // so many unanswered probes end the connection
}

// DefaultKeepAlive gives what holds until SetKeepAlive is called: off (MUST-25), and the values of RFC 9293, 3.8.4 (MUST-28: at
// least two hours) and, where it has none, of Linux.
func DefaultKeepAlive() KeepAlive {
	return KeepAlive{Idle: 2 * time.Hour, Interval: 75 * time.Second, Count: 9}
}

// A keepAlive is the state of a connection that has settings of its own. Most do not, and spare its memory.
type keepAlive struct {
	KeepAlive
	heard  Time // when the peer last spoke, or the watch began
	probes int  // unanswered
}

// SetKeepAlive begins to watch the connection as k says, or ends it. Times below a millisecond are a millisecond.
func (c *Conn) SetKeepAlive(k KeepAlive, now Time) {
	if c.state == StateClosed {
		return
	}
	c.clear(flagKeepAlive)
	k.Idle = max(k.Idle, time.Millisecond)
	k.Interval = max(k.Interval, time.Millisecond)
	k.Count = max(k.Count, 1)
	c.keep = &keepAlive{KeepAlive: k, heard: now}
}

// KeepAlive gives the settings.
func (c *Conn) KeepAlive() KeepAlive {
	if c.keep == nil {
		return DefaultKeepAlive()
	}
	return c.keep.KeepAlive
}

// keepAliveAt is when the next probe, or the end, is due. RFC 9293, 3.8.4, MUST-26: only while nothing is outstanding and
// nothing comes. What is outstanding, or waits for a window, is watched by its own timer.
func (c *Conn) keepAliveAt() Time {
	if c.keep == nil || !c.keep.Enable || c.outstanding() > 0 || c.Unsent() > 0 || c.state == StateTimeWait || c.state == StateClosed {
		return Never
	}
	return c.keep.heard.Add(c.keep.Idle + time.Duration(c.keep.probes)*c.keep.Interval)
}

// keepAliveTimeout asks the peer whether it is still there, or has asked often enough: one lost answer does not show that it
// is not (MUST-29).
func (c *Conn) keepAliveTimeout(now Time) {
	k := c.keep
	over := k.probes >= k.Count
	if c.userTimeout > 0 {
		over = k.probes > 0 && now.Sub(k.heard) >= c.userTimeout
	}
	if over {
		c.end(ErrTimeout)
		c.set(flagRst) // should it be our packets alone that arrive
		return
	}
	k.probes++
	c.set(flagKeepAlive)
}

// heardFrom notes that an acceptable segment has come.
func (c *Conn) heardFrom(now Time) {
	if c.keep != nil {
		c.keep.heard, c.keep.probes = now, 0
		c.clear(flagKeepAlive)
	}
}
