// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// recovery says how the holes in what was sent are being filled.
type recovery uint8

const (
	recoveryNone recovery = iota
	recoveryFast          // after duplicate ACKs, up to recover: RFC 6675, or RFC 6582 without SACK
	recoveryLoss          // after a time-out or LowerMSS, up to recover: all that is not SACKed is taken for lost
)

const dupThresh = 3

// inputSACK adds the peer's blocks to the scoreboard, and says how many octets are new in it.
func (c *Conn) inputSACK(s *wire.Segment) int {
	if !c.has(flagSACK) {
		return 0
	}
	added := 0
	for _, b := range s.SACK[:s.NSACK] {
		left, right := Seq(b.Left), Seq(b.Right)
		// Below SND.UNA it is a D-SACK (RFC 2883), beyond SND.NXT a lie.
		if !left.Less(right) || left.Less(c.sndUna) || c.sndNxt.Less(right) {
			continue
		}
		if c.sacked == nil {
			c.sacked = c.cfg.Pool.getSet()
		}
		n, _ := c.sacked.add(left, right)
		added += n
	}
	return added
}

// detectLoss counts duplicate ACKs, and starts fast recovery when they are enough.
func (c *Conn) detectLoss(newlySacked int, advanced, duplicate bool, now Time) {
	if c.has(flagSACK) {
		// RFC 6675, 2: a duplicate ACK is one that SACKs something new.
		duplicate = newlySacked > 0 && !advanced
	}
	if duplicate {
		c.stats.dupAcksIn++
		c.dupAcks = min(c.dupAcks+1, 100)
		if !c.has(flagSACK) && c.recovery != recoveryLoss {
			// One more segment has left the network. Before the third this makes limited transmit (RFC 3042), afterwards
			// it is RFC 6582's inflation of cwnd, seen from the other side.
			c.dupBytes = min(c.dupBytes+c.mss, int32(c.outstanding()))
		}
	}
	if c.recovery != recoveryNone || c.outstanding() == 0 {
		return
	}
	switch {
	case c.has(flagSACK):
		// RFC 6675, 5, steps 2 and 3.
		if c.dupAcks >= dupThresh || c.sacked != nil && c.lostBelow(0) {
			c.enterFastRecovery(now)
		}
	case c.dupAcks >= dupThresh && c.recover.Less(c.sndUna):
		// RFC 6582, 3.2, step 2: not for duplicates that our own retransmissions have made.
		c.enterFastRecovery(now)
	}
}

// enterFastRecovery is RFC 6675, 5, step 4 and RFC 6582, 3.2, step 2.
func (c *Conn) enterFastRecovery(now Time) {
	c.recovery = recoveryFast
	c.recover = c.sndNxt
	c.highRxt = c.sndUna
	c.congestion().OnLoss(&c.cwnd, c.outstanding(), now)
	c.reduced()
	c.clear(flagRescued)
	c.set(flagForceRxt)
	// The first retransmission gets a whole RTO to be acknowledged.
	c.rtxAt = now.Add(c.rtt.rto(c.cfg, c.backoff))
}

// enterLossRecovery is RFC 6298, 5.4 to 5.6 and RFC 5681, 3.1. Scoreboard and all are forgotten: the peer may have
// (RFC 2018, 8).
func (c *Conn) enterLossRecovery() {
	c.congestion().OnTimeout(&c.cwnd, c.outstanding(), c.retries > 1)
	c.reduced()
	c.releaseSacked()
	c.resend()
}

// resend takes all that is outstanding and not SACKed for lost.
func (c *Conn) resend() {
	c.recovery = recoveryLoss
	c.recover = c.sndNxt
	c.highRxt = c.sndUna
	c.dupAcks, c.dupBytes = 0, 0
	c.rttAt = 0
	c.set(flagForceRxt)
}

// ackInRecovery is what acked new octets mean for the recovery under way and for cwnd. SND.UNA has moved.
func (c *Conn) ackInRecovery(acked int, now Time) {
	switch c.recovery {
	case recoveryNone:
		c.dupAcks, c.dupBytes = 0, 0
		if c.recover.Less(c.sndUna) {
			c.recover = c.sndUna.Add(-1) // lest it comes round
		}
		// RFC 7661, 4.4 in short: a window that is not used must not grow.
		if c.has(flagCwndLimited) {
			c.congestion().OnAck(&c.cwnd, acked, c.rtt.srtt, now)
		}
	case recoveryFast:
		if c.recover.LessEq(c.sndUna) {
			if !c.has(flagSACK) {
				// RFC 6582, 3.2, step 3, full acknowledgment, option 1.
				c.cwnd.Cwnd = min(c.cwnd.Ssthresh, max(c.outstanding(), int(c.mss))+int(c.mss))
			}
			c.leaveRecovery()
			return
		}
		if !c.has(flagSACK) {
			// Partial acknowledgment: the next segment is lost too.
			c.dupBytes = max(0, c.dupBytes-max(0, int32(acked)-c.mss))
			c.highRxt = c.sndUna
			c.set(flagForceRxt)
		}
	case recoveryLoss:
		// RFC 3465, 2.3: L = 1 in the slow start after a time-out.
		c.congestion().OnAck(&c.cwnd, min(acked, int(c.mss)), c.rtt.srtt, now)
		if c.recover.LessEq(c.sndUna) {
			c.leaveRecovery()
		}
	}
}

func (c *Conn) leaveRecovery() {
	c.recovery = recoveryNone
	c.dupAcks, c.dupBytes = 0, 0
	c.clear(flagForceRxt | flagRescued)
}

// lostBelow is RFC 6675's IsLost for the octets just below the scoreboard's range i: enough above them has arrived.
func (c *Conn) lostBelow(i int) bool {
	above := c.sacked.ranges()[i:]
	if len(above) >= dupThresh {
		return true
	}
	octets := 0
	for _, r := range above {
		octets += r.len()
	}
	return octets > (dupThresh-1)*int(c.mss)
}

// hole gives the first run of octets at or after from, and before limit, that are not SACKed, and the index of the range above
// it. It is empty when there is none.
func (c *Conn) hole(from, limit Seq) (left, right Seq, above int) {
	left = from
	ranges := c.sacked.ranges()
	for i, r := range ranges {
		if left.Less(r.left) {
			return left, minSeq(r.left, limit), i
		}
		left = maxSeq(left, r.right)
	}
	return left, limit, len(ranges)
}

// pipe estimates how many octets are in the network.
func (c *Conn) pipe() int {
	if c.recovery != recoveryLoss && c.sacked == nil {
		return max(0, c.outstanding()-int(c.dupBytes)) + c.retransmitted()
	}
	pipe := 0
	for at := c.sndUna; at.Less(c.sndNxt); {
		left, right, above := c.hole(at, c.sndNxt)
		if !left.Less(right) {
			break
		}
		if c.recovery == recoveryLoss {
			// What was sent before is gone, unless it was sent again.
			pipe += overlap(left, right, c.sndUna, c.highRxt)
			pipe += overlap(left, right, maxSeq(c.recover, c.highRxt), c.sndNxt)
		} else {
			// RFC 6675, 4, SetPipe: (a) not lost, (b) sent again.
			if above == c.sacked.n || !c.lostBelow(above) {
				pipe += int(right.Sub(left))
			}
			pipe += overlap(left, right, c.sndUna, c.highRxt)
		}
		at = right
	}
	return pipe
}

// retransmitted is how many octets fast recovery has sent again that may still be on the way, when the scoreboard is empty.
func (c *Conn) retransmitted() int {
	// Without SACK, the duplicate that is missing for the lost segment balances its retransmission.
	if !c.has(flagSACK) || c.recovery != recoveryFast {
		return 0
	}
	return max(0, int(c.highRxt.Sub(c.sndUna)))
}

// overlap is how many numbers two ranges share.
func overlap(l1, r1, l2, r2 Seq) int {
	return max(0, int(minSeq(r1, r2).Sub(maxSeq(l1, l2))))
}

// nextRetransmit gives what to send again before any new data: RFC 6675, 4, NextSeg, rule 1.
func (c *Conn) nextRetransmit(room int) (left, right Seq) {
	switch {
	case c.has(flagForceRxt):
		left, right, _ = c.hole(c.sndUna, c.sndNxt)
	case c.recovery == recoveryLoss && room >= int(c.mss):
		left, right, _ = c.hole(c.highRxt, c.recover)
	case c.recovery == recoveryFast && c.sacked != nil && room >= int(c.mss):
		var above int
		left, right, above = c.hole(c.highRxt, c.highSacked())
		if left.Less(right) && !c.lostBelow(above) {
			right = left
		}
	}
	return left, right
}

// lateRetransmit gives what to send again when there is no new data to send: NextSeg, rules 3 and 4.
func (c *Conn) lateRetransmit(room int) (left, right Seq, rescue bool) {
	if c.recovery != recoveryFast || c.sacked == nil || room < int(c.mss) {
		return 0, 0, false
	}
	left, right, _ = c.hole(c.highRxt, c.highSacked())
	if left.Less(right) || c.has(flagRescued) {
		return left, right, false
	}
	// Once per recovery, the last segment: if it was lost too, nothing else would tell.
	return maxSeq(c.highSacked(), c.sndNxt.Add(-int(c.mss))), c.sndNxt, true
}

// highSacked is the number after the highest one SACKed.
func (c *Conn) highSacked() Seq { return c.sacked.r[c.sacked.n-1].right }
