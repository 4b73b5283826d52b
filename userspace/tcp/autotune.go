// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// A recvTuner measures how much the application reads in a round trip (dynamic right-sizing: M. Fisk and W. Feng, 2001). A
// receive buffer of twice that does not hold a sender back that doubles its window with every round trip, while one that
// nobody reads from, or that little comes to, stays small.
//
// A round begins at an arrival, and ends with the first one a round trip later. The round trip is the sender's estimate, if
// there is one; the time until what arrives lies beyond the window that was open when the round began is never less than
// one, because that is allowed by a later acknowledgment only.
type recvTuner struct {
	at   Time
	read Seq           // the first number that was not read at that time
	edge Seq           // the window's right edge at that time
	rtt  time.Duration // the shortest time in which a window came; 0: none has
}

// tuneRecvBuffer lets the receive buffer's bound grow, up to Config.RecvBufferMax and what the window's scale can tell. It never
// shrinks: what was advertised is promised (RFC 9293, 3.8.6, SHLD-14). Memory is taken when bytes arrive, not before.
func (c *Conn) tuneRecvBuffer(now Time) {
	bound := min(c.cfg.RecvBufferMax, 65535<<c.rcvWScale)
	if int(c.recvBound) >= bound {
		return
	}
	t := &c.tuner
	read := c.rcvNxt.Add(-int(c.rcv.ready))
	if t.at != 0 {
		elapsed := max(now.Sub(t.at), 1)
		window := t.edge.Less(c.rcvNxt)
		if window && (t.rtt == 0 || elapsed < t.rtt) {
			t.rtt = elapsed
		}
		rtt := t.rtt
		if srtt := c.rtt.srtt; srtt != 0 && (rtt == 0 || srtt < rtt) {
			rtt = srtt
		}
		if !window && (rtt == 0 || elapsed < rtt) {
			return // the round goes on
		}
		// Some segments on top, or the growth from a small window would be slow.
		want := 2*int(read.Sub(t.read)) + 16*int(c.rcvMSS)
		if want > int(c.recvBound) && !c.cfg.Pool.pressed() {
			c.recvBound = int32(min(want, bound))
		}
	}
	t.at, t.read, t.edge = now, read, c.rcvAdv
}

// sendBound is how many bytes the send buffer may hold: twice cwnd, so that there is a window to send while the one in flight
// is not acknowledged, within the configuration's bounds. cwnd grows only while it is what holds the sender back, so this
// needs no measurement of its own.
func (c *Conn) sendBound() int {
	bound := c.cfg.SendBuffer
	if want := min(2*c.cwnd.Cwnd, c.cfg.SendBufferMax); want > bound && !c.cfg.Pool.pressed() {
		bound = want
	}
	return bound
}
