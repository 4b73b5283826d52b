// SPDX-License-Identifier: Apache-2.0

package tcp

// undo is what it takes to take a recovery back that was for nothing: the segments were late and not lost. Three things can
// tell: the echo of a timestamp from before the retransmission (RFC 3522), a D-SACK for each octet retransmitted (RFC 3708), and
// after a time-out, the arrival of what was not sent again (RFC 5682, frto.go).
type undo struct {
	active bool
	until  Seq    // what was sent before it may still bring a D-SACK, after recovery
	prior  Window // the congestion window before the reduction
	octets int    // sent again, and not yet known to have arrived twice

	echoes bool // the next two are set
	sentTS uint32
	first  Seq // where the first retransmission ended
}

// beginUndo remembers the congestion window that is about to be reduced.
func (c *Conn) beginUndo() {
	c.flight.undo = undo{active: true, prior: c.cwnd}
}

// noteResent counts a retransmission in.
func (c *Conn) noteResent(r *record) {
	u := &c.flight.undo
	u.octets += r.len()
	if !u.echoes && c.has(flagTimestamps) {
		u.echoes, u.sentTS, u.first = true, c.tsOffset+r.at.tick(), r.right
	}
}

// spurious reports whether an ACK proves that the recovery under way was for nothing.
func (c *Conn) spurious(d *delivery) bool {
	u := &c.flight.undo
	if !u.active {
		return false
	}
	// RFC 3522, 3.2, steps 4 and 5: the first octets retransmitted have arrived, and the ACK is older than the retransmission.
	if d.acked > 0 && u.echoes && u.first.LessEq(d.ack) && int32(d.echo-u.sentTS) < 0 {
		return true
	}
	if d.hasDSACK && u.octets > 0 && !d.probeDSACK {
		u.octets -= min(d.dsack.len(), u.octets)
		return u.octets == 0
	}
	return c.frtoSpurious(d)
}

// takeBack ends the recovery, and has the congestion window where it was before. Slow start leads there, if it is far from what is
// in flight by now: a burst would be a poor thing to send into a path that has just been slow (RFC 4015, 3.2, step 6).
func (c *Conn) takeBack() {
	f := c.flight
	f.markNoneLost()
	prior := f.undo.prior
	now := max(c.cwnd.Cwnd, min(prior.Cwnd, c.pipe()+initialWindow(int(c.mss))))
	prior.MSS = c.cwnd.MSS
	prior.Ssthresh = max(prior.Ssthresh, prior.Cwnd)
	prior.Cwnd = now
	c.cwnd = prior
	if c.recovery == recoveryFast {
		c.set(flagReordering) // what else
	}
	f.undo.active, f.reduced = false, false
	c.recover = c.sndUna.Add(-1)
	c.stats.spurious++
	c.backoff, c.retries = 0, 0
	c.leaveRecovery()
}
