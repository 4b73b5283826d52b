// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// outputAck gives a pure acknowledgment, if one is worth a packet of its own and no data has gone that carried it.
func (c *Conn) outputAck(s *wire.Segment, now Time) bool {
	switch {
	case c.has(flagAckNow) || c.windowUpdateDue():
		c.header(s, c.sndNxt, now)
		c.stats.pureAcks++
	case c.has(flagKeepAlive):
		// RFC 9293, 3.8.4, SHLD-12: no data, and a number that is acknowledged already, so the peer must answer. It need not
		// take in what such a segment acknowledges, so that goes first.
		if c.lastAckSent != c.rcvNxt {
			c.set(flagAckNow)
			return c.outputAck(s, now)
		}
		c.clear(flagKeepAlive)
		c.header(s, c.sndNxt.Add(-1), now)
		c.stats.keepAlives++
	default:
		return false
	}
	return true
}

// freeWindow is the window that the receive buffer has room for, in whole units of the scaled field.
func (c *Conn) freeWindow() uint32 {
	free := uint32(c.recvBound)
	free -= min(free, uint32(c.rcv.ready))
	return min(free>>c.rcvWScale, 65535) << c.rcvWScale
}

// windowUpdateDue reports that the application has read so much that the peer should hear of it (RFC 9293, 3.8.6.2.2). A
// peer with more than half of a window to go has no use for that yet, and its next data will bring it an ACK anyway.
func (c *Conn) windowUpdateDue() bool {
	if c.has(flagEOF) {
		return false
	}
	wnd, free := c.rcvWnd(), c.freeWindow()
	if free <= wnd || wnd > c.wndPeak/2 {
		return false
	}
	return free-wnd >= min(uint32(c.recvBound)/2, 2*uint32(c.mss))
}

// advertise moves the window's right edge, if by enough (RFC 9293, 3.8.6.2.2), and gives the field for the header. The edge
// in rcvAdv never moves left. The field may say less than that by a fraction of its unit, which RFC 7323, 2.4
// foresees: what was once promised is still accepted.
func (c *Conn) advertise() uint16 {
	wnd, free := c.rcvWnd(), c.freeWindow()
	if free > wnd && free-wnd >= min(uint32(c.recvBound)/2, uint32(c.mss)) {
		c.rcvAdv = c.rcvNxt.Add(int(free))
		wnd = free
	}
	c.wndPeak = max(c.wndPeak, wnd)
	return uint16(min(wnd>>c.rcvWScale, 65535))
}

// sackRoom is how many blocks fit beside the other options (RFC 2018, 3).
func (c *Conn) sackRoom() int {
	if c.has(flagTimestamps) {
		return 3
	}
	return 4
}

// sackBlocksDue is at least the number of blocks that putSACK would put.
func (c *Conn) sackBlocksDue() int {
	if !c.has(flagSACK) {
		return 0
	}
	n := len(c.rcv.ooo.ranges())
	if c.dsack.left != c.dsack.right {
		n++
	}
	return min(n, c.sackRoom())
}

// putSACK reports what has arrived out of order: a duplicate first (RFC 2883, 4), then as in RFC 2018, 4.
func (c *Conn) putSACK(s *wire.Segment) {
	if !c.has(flagSACK) || c.rcv.ooo == nil && c.dsack.left == c.dsack.right {
		return
	}
	var blocks [wire.MaxSACKBlocks]seqRange
	n := 0
	if c.dsack.left != c.dsack.right {
		blocks[0] = c.dsack
		n = 1
		c.dsack = seqRange{}
	}
	if c.rcv.ooo != nil {
		n += c.rcv.ooo.report(blocks[n:c.sackRoom()])
	}
	for i, r := range blocks[:n] {
		s.SACK[i] = wire.SACKBlock{Left: uint32(r.left), Right: uint32(r.right)}
	}
	s.NSACK = n
}
