// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// A tailProbe is RFC 8985, 7: when the last segments of a flight are lost, nothing comes back that could tell. One segment more
// makes the peer say what it has, long before the retransmission time-out.
type tailProbe struct {
	out    bool // TLP.end_seq is set: the probe's answer is waited for
	again  bool // TLP.is_retrans: it was a retransmission
	due    bool // Output is to send it
	endSeq Seq
}

// probeSlack is added to the wait for the answer, like the few milliseconds of a timer that other stacks wait at least: on a
// path of microseconds, 2 SRTT are nothing to a peer that another process keeps from its CPU.
const probeSlack = 2 * time.Millisecond

// scheduleProbe is RFC 8985, 7.2. Called after new data was sent, and when some of it was acknowledged.
func (c *Conn) scheduleProbe(now Time) {
	f := c.flight
	if !c.has(flagSACK) || c.recovery != recoveryNone || f.sackedOctets > 0 || f.tlp.out {
		if f.timerTLP {
			f.timerAt, f.timerTLP = Never, false
		}
		return
	}
	if f.timerAt != Never && !f.timerTLP {
		return // the reordering timer comes first
	}
	pto := c.cfg.InitialRTO
	if c.rtt.srtt != 0 {
		pto = 2*c.rtt.srtt + probeSlack
		if f.records == 1 {
			pto += c.cfg.MinRTO // the peer may delay its ACK, and that is what MinRTO covers
		}
	}
	f.timerAt, f.timerTLP = min(now.Add(pto), c.rtxAt), true
}

// lossTimeout is the expiry of the flight's timer: the reordering timer's, or the probe's.
func (c *Conn) lossTimeout(now Time) {
	f := c.flight
	f.timerAt = Never
	if f.timerTLP {
		f.timerTLP = false
		f.tlp.due = true
		c.startRTO(now) // RFC 8985, 7.3: after the probe, the RTO is waited for
		return
	}
	c.detectByTime(now)
	if f.lostOctets > 0 && c.recovery == recoveryNone {
		c.enterFastRecovery(&delivery{}, now)
	}
	if c.recovery == recoveryFast {
		c.reduceProportionally(&delivery{})
	}
}

// probed is RFC 8985, 7.4: what an ACK says about the probe. A probe that repaired a loss has hidden it from the loss
// detection, and not from the congestion control.
func (c *Conn) probed(d *delivery, now Time) {
	t := &c.flight.tlp
	switch {
	case d.ack.Less(t.endSeq):
		return
	case !t.again:
	case d.hasDSACK && d.dsack.right == t.endSeq:
		d.probeDSACK = true // both have arrived
	case t.endSeq.Less(d.ack):
		c.congestionEvent(d, now)
	case d.duplicate && !d.hasSACK:
		// Both have arrived at a peer that does not say so.
	default:
		return // only one of them has: wait for more
	}
	t.out = false
}
