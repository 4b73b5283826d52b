// SPDX-License-Identifier: Apache-2.0

package tcp

// prr is proportional rate reduction (RFC 9937): in fast recovery, what is sent follows what is delivered, so that at its end
// as much is in flight as the congestion control wants, with neither a silence nor a burst before.
type prr struct {
	recoverFS int // octets in flight when recovery began
	delivered int // since
	out       int // sent since
}

// beginReduction is RFC 9937, 6.1: the part for the start of recovery. What this ACK has delivered was in flight just before.
func (c *Conn) beginReduction(d *delivery) {
	f := c.flight
	c.flight.prr = prr{recoverFS: max(c.outstanding()-int(f.sackedOctets)-int(f.dupBytes)+d.octets, 1)}
}

// reduceProportionally is RFC 9937, 6.1: the part for each ACK in recovery. It sets cwnd.
func (c *Conn) reduceProportionally(d *delivery) {
	p := &c.flight.prr
	p.delivered += d.octets
	pipe, mss := c.pipe(), int(c.mss)
	send := 0
	if pipe > c.cwnd.Ssthresh {
		// Proportionally, rounded up.
		send = (p.delivered*c.cwnd.Ssthresh+p.recoverFS-1)/p.recoverFS - p.out
	} else if d.octets > 0 {
		// More was lost than to be reduced. Up to ssthresh again: by what is delivered (PRR-CRB), and one segment more when
		// no further loss shows (PRR-SSRB).
		send = max(p.delivered-p.out, d.octets)
		if d.acked > 0 && !d.lostMore {
			send += mss
		}
		send = min(send, c.cwnd.Ssthresh-pipe)
	}
	if p.out == 0 {
		send = max(send, mss) // the fast retransmit itself
	}
	c.cwnd.Cwnd = max(pipe+max(send, 0), mss)
}

// endReduction sets cwnd at the end of recovery.
func (c *Conn) endReduction() {
	if c.recovery != recoveryFast {
		return
	}
	c.cwnd.Cwnd = max(c.cwnd.Ssthresh, int(c.mss))
	if !c.has(flagSACK) {
		// What was in flight has been a guess: no burst (RFC 6582, 3.2, step 3, option 1).
		c.cwnd.Cwnd = min(c.cwnd.Cwnd, max(c.pipe(), int(c.mss))+int(c.mss))
	}
}
