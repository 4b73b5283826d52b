// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// A recvTuner measures how much the application reads in a round trip (dynamic right-sizing: M. Fisk and W. Feng, 2001). A
// receive buffer of twice that does not hold a sender back that doubles its window with every round trip, while one that
// nobody reads from, or that little comes to, stays small.
//
// A round begins at an arrival, and ends with the first one a round trip later. The round trip is the one that
// our own data has measured, or, if that is shorter or there was none, the time in which a whole window came: what lies beyond the
// edge that was advertised when a round began is allowed by a later acknowledgment only, and so comes a round trip later
// at the least.
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
	t := &c.recvTuner
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
		// A round may have been longer than the round trip: on a short path a window waits in queues for most of its time, and a
		// larger one would only wait longer. Some segments on top, or the growth from a small window would be slow.
		inRTT := int(int64(read.Sub(t.read)) * int64(rtt) / int64(elapsed))
		want := 2*inRTT + 16*int(c.rcvMSS)
		if want > int(c.recvBound) && !c.cfg.Pool.pressed() {
			c.recvBound = int32(min(want, bound))
		}
	}
	t.at, t.read, t.edge = now, read, c.rcvAdv
}

// A sendTuner remembers what the path was like when the send buffer last grew.
type sendTuner struct {
	bound int32         // bytes that the buffer may hold
	rtt   time.Duration // the shortest smoothed round trip at those times; 0: none yet
	at    Time          // before that it is too early to see what the last growth has done to the round trip
}

// tuneSendBuffer lets the send buffer's bound grow, up to twice cwnd and Config.SendBufferMax: what is in flight stays in the
// buffer, and so the bound is one on the rate. acked bytes have just left. It grows only if it was full, and as long as
// round trips do not get longer: when they do, there is a queue somewhere, so the path is full, and more would only wait.
func (c *Conn) tuneSendBuffer(acked int, now Time) {
	t := &c.sendTuner
	srtt := c.rtt.srtt
	bound := min(2*c.cwnd.Cwnd, c.cfg.SendBufferMax)
	if bound <= int(t.bound) || int(c.snd.size)+acked < int(t.bound) || now < t.at || srtt == 0 || c.cfg.Pool.pressed() {
		return
	}
	if t.rtt == 0 || srtt < t.rtt {
		t.rtt = srtt
	}
	if srtt > t.rtt+t.rtt/4 {
		return
	}
	t.bound = int32(min(bound, 2*int(t.bound)))
	t.at = now.Add(4 * srtt) // by then srtt has seen it
}
