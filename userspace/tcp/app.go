// SPDX-License-Identifier: Apache-2.0

package tcp

// Write copies as much of b as the send buffer has room for, and says how much. When that is not all, an Input or Tick
// will say Writable. After CloseWrite, and in CLOSED, it takes nothing.
func (c *Conn) Write(b []byte) (n int) {
	if c.has(flagCloseWrite) || c.state != StateEstablished && c.state != StateCloseWait {
		return 0
	}
	n = c.snd.append(b, c.sendBound(), c.cfg.Pool)
	c.stats.bytesOut += uint64(n)
	if n < len(b) {
		c.set(flagWantWrite)
		if c.SendSpace() > 0 {
			c.set(flagPoolWait)
		}
	}
	return n
}

// Read moves received bytes to b, and says how many: 0 when there are none.
func (c *Conn) Read(b []byte) (n int) { return c.rcv.read(b, c.cfg.Pool) }

// ReadClosed reports that there is nothing to read any more: the peer's FIN was reached and all before it read, or
// CloseRead was called.
func (c *Conn) ReadClosed() bool { return c.has(flagEOF|flagCloseRead) && c.rcv.ready == 0 }

// Buffered is how many bytes Read can give.
func (c *Conn) Buffered() int { return int(c.rcv.ready) }

// SendSpace is how many bytes the send buffer has room for.
func (c *Conn) SendSpace() int { return max(0, c.sendBound()-int(c.snd.size)) }

// Unacked is how many bytes have been written and not yet acknowledged, sent or not.
func (c *Conn) Unacked() int { return int(c.snd.size) }

// Unsent is how many bytes have been written and not yet sent.
func (c *Conn) Unsent() int {
	if c.has(flagFinSent) || c.state == StateClosed {
		return 0
	}
	return int(c.dataEnd().Sub(c.sndNxt))
}

// SetNoDelay with false turns Nagle's algorithm on (RFC 9293, 3.7.4). It is off by default, as in Go's net.
func (c *Conn) SetNoDelay(on bool) {
	if on {
		c.clear(flagNagle)
	} else {
		c.set(flagNagle)
	}
}

// CloseWrite sends a FIN after what is queued (RFC 9293, 3.10.4). Reading goes on.
func (c *Conn) CloseWrite() {
	switch c.state {
	case StateEstablished:
		c.state = StateFinWait1
	case StateCloseWait:
		c.state = StateLastAck
	default:
		return
	}
	c.set(flagCloseWrite)
	c.clear(flagWantWrite | flagPoolWait)
}

// CloseRead throws away what has been received and not read. What comes later is acknowledged and thrown away.
func (c *Conn) CloseRead() {
	c.set(flagCloseRead)
	if c.cfg != nil {
		c.rcv.release(c.cfg.Pool)
	}
}

// Close ends both directions for an application that will not call again. What it wrote is still sent, followed by a
// FIN. But bytes that it never read are lost, and the peer must not take them for delivered: then, and when more
// arrive later, there is a RST instead (RFC 2525, 2.17; RFC 1122, 4.2.2.13).
func (c *Conn) Close(now Time) {
	if c.has(flagOrphan) || c.cfg == nil {
		return
	}
	unread := c.rcv.ready > 0
	c.set(flagOrphan)
	c.CloseRead()
	switch {
	case c.state == StateClosed:
	case unread && c.state != StateTimeWait:
		c.abort(ErrAborted)
	default:
		c.CloseWrite()
		if c.state == StateFinWait2 {
			c.stateAt = now.Add(c.cfg.FinWait2)
		}
	}
}

// Abort goes to CLOSED at once; Output gives the RST for the peer (RFC 9293, 3.10.5).
func (c *Conn) Abort() {
	switch c.state {
	case StateClosed:
		if c.cfg != nil {
			c.rcv.release(c.cfg.Pool)
		}
	case StateTimeWait:
		// Both ends have all they will get.
		c.end(ErrAborted)
		c.rcv.release(c.cfg.Pool)
	default:
		c.abort(ErrAborted)
	}
}
