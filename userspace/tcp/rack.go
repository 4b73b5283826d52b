// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// rack is RFC 8985's "recent acknowledgment": of what has arrived, the segment that was sent last. What was sent a good while
// before it and has not arrived is lost.
type rack struct {
	at  Time          // RACK.xmit_ts
	end Seq           // RACK.end_seq
	rtt time.Duration // RACK.rtt: the time that it took

	fack Seq // RACK.fack: highest number that has arrived, plus one

	// RACK.dsack_round: the reordering window grows once per round trip.
	inRound  bool
	roundEnd Seq
}

// dupThresh is how many segments must have arrived out of order before one is taken for lost on a path that does not
// reorder (RFC 5681, 3.2; RFC 8985, 6.2, step 4).
const dupThresh = 3

// persistRecoveries is for how many recoveries without a D-SACK the reordering window stays large (RFC 8985, 6.2, step 4).
const persistRecoveries = 16

// sentAfter is RFC 8985's RACK_sent_after: what was sent in one go is told apart by sequence numbers.
func sentAfter(t1 Time, end1 Seq, t2 Time, end2 Seq) bool {
	return t1 > t2 || t1 == t2 && end2.Less(end1)
}

// arrived takes note of a record that has just been acknowledged or SACKed (RFC 8985, 6.2, steps 1 to 3).
func (c *Conn) arrived(r *record, d *delivery, now Time) {
	f := c.flight
	d.octets += r.len()
	rtt := now.Sub(r.at)
	if !r.resent {
		if r.right.LessEq(c.recover) {
			d.original = true
		}
		if !r.blurred {
			if d.newest == 0 || rtt < d.newest {
				d.newest = max(rtt, 1)
			}
			d.oldest = max(d.oldest, rtt)
			if c.minRTT == 0 || rtt < c.minRTT {
				c.minRTT = max(rtt, 1)
			}
		}
		if f.rack.fack.Less(r.right) {
			f.rack.fack = r.right
		} else if r.right.Less(f.rack.fack) {
			c.set(flagReordering)
		}
	} else {
		d.resent = true
		// It may be the earlier transmission that has arrived: an echo from before this one says so, or less time than any
		// round trip has taken.
		if d.echoed && int32(d.echo-(r.at.tick()+c.tsOffset)) < 0 || rtt < c.minRTT {
			return
		}
	}
	if r.blurred {
		return // it is not known how long the first of them took
	}
	f.rack.rtt = rtt
	if sentAfter(r.at, r.right, f.rack.at, f.rack.end) {
		f.rack.at, f.rack.end = r.at, r.right
	}
}

// reorderingWindow is RFC 8985's RACK_update_reo_wnd: how much longer a segment may take than the one sent after it.
func (c *Conn) reorderingWindow() time.Duration {
	if !c.has(flagReordering) && (c.recovery != recoveryNone || c.flight.sackedSegs >= dupThresh) {
		return 0
	}
	return min(time.Duration(c.reoWndMult+1)*c.minRTT/4, c.rtt.srtt)
}

// sawDSACK makes the reordering window wider: something was sent again that was not lost. Once per round trip, by a
// quarter of one (RFC 8985, 6.2, step 4).
func (c *Conn) sawDSACK() {
	f := c.flight
	if f != nil {
		if f.rack.inRound && c.sndUna.Less(f.rack.roundEnd) {
			return
		}
		f.rack.inRound, f.rack.roundEnd = true, c.sndNxt
	}
	c.reoWndMult = min(c.reoWndMult+1, 250)
	c.reoWndPersist = persistRecoveries
}

// agePersist narrows the reordering window after enough recoveries in which no D-SACK came.
func (c *Conn) agePersist() {
	if c.reoWndPersist > 0 {
		c.reoWndPersist--
		if c.reoWndPersist == 0 {
			c.reoWndMult = 0
		}
	}
}

// detectByTime is RFC 8985's RACK_detect_loss. What is not yet lost but will be soon sets the reordering timer.
func (c *Conn) detectByTime(now Time) {
	f := c.flight
	if !f.timerTLP {
		f.timerAt = Never
	}
	if f.oldest == nil || !sentAfter(f.rack.at, f.rack.end, f.oldest.at, f.oldest.right) {
		return // the usual case, cheaply
	}
	wnd := f.rack.rtt + c.reorderingWindow()
	for r := f.oldest; r != nil && sentAfter(f.rack.at, f.rack.end, r.at, r.right); {
		newer := r.newer
		if due := r.at.Add(wnd); due <= now {
			f.markLost(r)
		} else {
			f.timerAt, f.timerTLP = due, false
		}
		r = newer
	}
}

// lostOnTimeout is RFC 8985's RACK_mark_losses_on_RTO: what was sent so recently that its ACK may be on the way is not lost
// by that.
func (c *Conn) lostOnTimeout(now Time) {
	f := c.flight
	wnd := f.rack.rtt + c.reorderingWindow()
	if f.first.state == inFlight {
		f.markLost(f.first)
	}
	for f.oldest != nil && f.oldest.at.Add(wnd) <= now {
		f.markLost(f.oldest)
	}
}
