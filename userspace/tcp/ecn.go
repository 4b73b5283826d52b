// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// Explicit congestion notification (RFC 3168). A router that would drop a segment for congestion marks it CE instead, if its
// sender says ECT. The receiver echoes that in the ACKs (ECE), again and again, until it hears that the sender has slowed
// down (CWR).

// inputECN takes what an acceptable segment says of congestion, of either direction. It is called before the ACK counts.
func (c *Conn) inputECN(s *wire.Segment, ack Seq, now Time) {
	if !c.has(flagECN) {
		return
	}
	// RFC 3168, 6.1.3. A segment may carry both: CWR answers the marks before its own.
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
	// RFC 3168, 6.1.2: at most once for a window of data. That window's end must be passed, and not only reached: an ACK of no
	// more has been sent before our CWR arrived.
	if !c.cwrEnd.Less(ack) {
		return
	}
	if s.Flags.Has(wire.ECE) && c.outstanding() > 0 && c.recovery == recoveryNone {
		c.congestion().OnLoss(&c.cwnd, c.outstanding(), now)
		c.stats.eceIn++
		c.reduced()
		return
	}
	c.cwrEnd = ack.Add(-1) // so that it never gets half of the sequence space behind
}

// reduced notes that cwnd was made smaller, for whatever reason: the peer hears of it, and its ECEs for what was sent before are
// answered with that (RFC 3168, 6.1.2).
func (c *Conn) reduced() {
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
