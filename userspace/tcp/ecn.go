// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// Explicit congestion notification (RFC 3168). A router that would drop a segment for congestion marks it CE instead, if its
// sender says ECT. The receiver echoes that in the ACKs (ECE), again and again, until it hears that the sender has slowed
// down (CWR).

// inputCE is the receiver's half: what an acceptable segment says of its own way (RFC 3168, 6.1.3).
func (c *Conn) inputCE(s *wire.Segment) {
	if !c.has(flagECN) {
		return
	}
	// A segment may carry both: CWR answers the marks before its own.
	if s.Flags.Has(wire.CWR) {
		c.clear(flagEchoCE)
	}
	if s.ECN == wire.CE && s.Len() > 0 {
		if !c.has(flagEchoCE) {
			c.set(flagAckNow) // the sooner the peer knows, the better
		}
		c.set(flagEchoCE)
		c.stats.ceIn++
	}
}

// inputECE is the sender's half: what an ACK says of the way of our data (RFC 3168, 6.1.2). It counts at most once for a window,
// whose end must be passed and not only reached: an ACK of no more has been sent before our CWR arrived.
func (c *Conn) inputECE(s *wire.Segment, d *delivery, now Time) {
	if !c.has(flagECN) || !c.cwrEnd.Less(d.ack) {
		return
	}
	if s.Flags.Has(wire.ECE) && c.congestionEvent(d, now) {
		c.stats.eceIn++
		return
	}
	c.cwrEnd = d.ack.Add(-1) // so that it never gets half of the sequence space behind
}

// tellReduction has the peer told that cwnd was made smaller, for whatever reason. That answers its ECEs for all that was sent
// before.
func (c *Conn) tellReduction() {
	if c.has(flagECN) {
		c.set(flagOweCWR)
		c.cwrEnd = c.sndNxt
	}
}

// outputECN marks a segment of new data: retransmissions, probes and pure ACKs are not to be marked (RFC 3168, 6.1.4 to 6.1.6).
func (c *Conn) outputECN(s *wire.Segment) {
	if !c.has(flagECN) || s.PayloadLen == 0 {
		return
	}
	s.ECN = wire.ECT0
	if c.has(flagOweCWR) {
		c.clear(flagOweCWR)
		s.Flags |= wire.CWR
	}
}
