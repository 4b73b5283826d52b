// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// recovery says how the holes in what was sent are being filled.
type recovery uint8

const (
	recoveryNone recovery = iota
	recoveryFast          // up to recover: losses that RACK has found, or without SACK, the third duplicate ACK (RFC 6582)
	recoveryLoss          // up to recover, in slow start: after a time-out or LowerMSS
)

// inputSACK marks what the peer's blocks say has arrived.
func (c *Conn) inputSACK(s *wire.Segment, d *delivery, now Time) {
	d.hasSACK = true
	blocks := s.SACK[:s.NSACK]
	if r, ok := c.inputDSACK(blocks, d.ack); ok {
		d.hasDSACK, d.dsack = true, r
		blocks = blocks[1:]
	}
	if c.flight == nil {
		return
	}
	for _, b := range blocks {
		left, right := Seq(b.Left), Seq(b.Right)
		// Below SND.UNA it is old, beyond SND.NXT a lie.
		if left.Less(right) && !left.Less(c.sndUna) && !c.sndNxt.Less(right) {
			c.markArrived(left, right, d, now)
		}
	}
}

// inputDSACK gives the first block if it reports a duplicate: it is below the acknowledgment, or within the second block
// (RFC 2883, 4).
func (c *Conn) inputDSACK(blocks []wire.SACKBlock, ack Seq) (seqRange, bool) {
	r := seqRange{Seq(blocks[0].Left), Seq(blocks[0].Right)}
	if !r.left.Less(r.right) || r.left.Less(ack.Add(-int(c.maxSndWnd))) || c.sndNxt.Less(r.right) {
		return r, false
	}
	within := len(blocks) > 1 && Seq(blocks[1].Left).LessEq(r.left) && r.right.LessEq(Seq(blocks[1].Right))
	if !r.right.LessEq(ack) && !within {
		return r, false
	}
	// What we have sent once only was duplicated by the network, and says nothing about us (RFC 3708, 3).
	if c.stats.dsacks >= c.stats.retransmits {
		return r, false
	}
	c.stats.dsacks++
	return r, true
}

// markArrived marks the octets from left up to right as SACKed.
func (c *Conn) markArrived(left, right Seq, d *delivery, now Time) {
	f := c.flight
	var before *record
	for r := f.first; r != nil && r.left.Less(right); r = r.next {
		if r.state != sacked && left.Less(r.right) {
			if (r.left.Less(left) || right.Less(r.right)) && f.crowded(int(c.mss)) {
				before = r // a peer that SACKs in crumbs: it has the rest soon
				continue
			}
			if r.left.Less(left) {
				f.split(r, left, c.cfg.Pool)
				before = r
				continue
			}
			if right.Less(r.right) {
				f.split(r, right, c.cfg.Pool)
			}
			c.arrived(r, d, now)
			f.markSacked(r)
		}
		if r.state == sacked {
			if before != nil && before.state == sacked {
				r = before
				f.join(r, c.cfg.Pool)
			}
			if n := r.next; n != nil && n.state == sacked {
				f.join(r, c.cfg.Pool)
			}
		}
		before = r
	}
}

// recoverLosses is what an ACK means for the recovery under way, or leads to one.
func (c *Conn) recoverLosses(d *delivery, now Time) {
	f := c.flight
	if d.acked > 0 && !d.hasSACK && c.recovery == recoveryNone && f.calm() {
		c.progress(d, now)
		return
	}
	if f.tlp.out {
		c.probed(d, now)
	}
	if d.hasDSACK && !d.probeDSACK && c.has(flagReordering) {
		c.sawDSACK()
	}
	if f.first != nil && f.first.state == sacked {
		c.reneged()
	}
	if c.spurious(d) {
		c.takeBack()
	}
	lostBefore := f.lostOctets
	if c.has(flagSACK) {
		// RFC 6675, 2: a duplicate ACK is one that SACKs something new.
		if d.octets > 0 && d.acked == 0 {
			c.stats.dupAcksIn++
		}
		if d.octets > 0 {
			c.detectByTime(now)
		}
	} else {
		c.detectByDuplicates(d)
	}
	d.lostMore = f.lostOctets > lostBefore

	if c.recovery == recoveryLoss && d.octets > 0 {
		// RFC 3465, 2.3: L = 1 in the slow start after a time-out.
		c.grow(min(d.octets, int(c.mss)), d, now)
	}
	if c.recovery != recoveryNone && c.recover.LessEq(c.sndUna) {
		c.endReduction()
		c.agePersist()
		c.leaveRecovery()
		if f.lostOctets == 0 {
			return // what has filled the hole is no reason to grow
		}
	}
	switch c.recovery {
	case recoveryNone:
		if f.lostOctets > 0 {
			c.enterFastRecovery(d, now)
			c.reduceProportionally(d)
		} else if d.acked > 0 {
			c.progress(d, now)
		}
	case recoveryFast:
		if d.octets > 0 || d.lostMore {
			c.reduceProportionally(d)
		}
	}
}

// progress is an acknowledgment while nothing is lost.
func (c *Conn) progress(d *delivery, now Time) {
	f := c.flight
	f.dupAcks, f.dupBytes = 0, 0
	if f.undo.active && f.undo.until.Less(c.sndUna) {
		f.undo.active = false
	}
	if c.recover.Less(c.sndUna) {
		c.recover = c.sndUna.Add(-1) // lest it comes round
	}
	// RFC 7661, 4.4 in short: a window that is not used must not grow.
	if c.has(flagCwndLimited) {
		c.grow(d.acked, d, now)
	}
}

func (c *Conn) grow(octets int, d *delivery, now Time) {
	c.congestion().OnAck(&c.cwnd, Ack{
		Octets: octets, RTT: d.newest, SRTT: c.rtt.srtt, Una: c.sndUna, Next: c.sndNxt, Now: now,
	})
}

// detectByDuplicates finds losses without SACK: RFC 6582, 3.2.
func (c *Conn) detectByDuplicates(d *delivery) {
	f := c.flight
	if c.recovery == recoveryLoss {
		return
	}
	if d.duplicate {
		c.stats.dupAcksIn++
		f.dupAcks = min(f.dupAcks+1, 100)
		// One more segment has left the network. Before the third this makes limited transmit (RFC 3042), afterwards it is
		// RFC 6582's inflation of cwnd, seen from the other side.
		n := min(c.mss, f.pipe-f.dupBytes)
		f.dupBytes += n
		d.octets += int(n)
	}
	switch {
	case c.recovery == recoveryNone:
		// Step 2: not for duplicates that our own retransmissions have made.
		if d.duplicate && f.dupAcks >= dupThresh && c.recover.Less(c.sndUna) && f.first.state == inFlight {
			f.markLost(f.first)
		}
	case d.acked > 0:
		// What the duplicates stood for is now acknowledged. A partial acknowledgment: the next segment is lost too.
		counted := min(f.dupBytes, max(0, int32(d.acked)-c.mss))
		f.dupBytes -= counted
		d.octets -= min(int(counted), d.octets)
		if c.sndUna.Less(c.recover) && f.first.state == inFlight {
			f.markLost(f.first)
		}
	}
	f.dupBytes = max(0, min(f.dupBytes, f.pipe))
}

// enterFastRecovery is RFC 6675, 5, step 4 and RFC 6582, 3.2, step 2.
func (c *Conn) enterFastRecovery(d *delivery, now Time) {
	c.beginUndo()
	c.beginReduction(d)
	c.recovery = recoveryFast
	if !c.flight.reducedBefore(c.sndUna) {
		c.reduce(c.outstanding()+d.acked, now)
	}
	c.recover = c.sndNxt
	c.set(flagForceRxt)
	c.scheduleProbe(now) // off
}

// congestionEvent reduces the congestion window for a sign of congestion that needs no recovery, once per window of data: false
// if that was done.
func (c *Conn) congestionEvent(d *delivery, now Time) bool {
	f := c.flight
	if f == nil || c.recovery != recoveryNone || f.reducedBefore(c.sndUna) {
		return false
	}
	f.reduced, f.reducedTo = true, c.sndNxt
	c.reduce(c.outstanding()+d.acked, now)
	return true
}

// reduce has the congestion control shrink the window. Limited transmit has sent more than a window (RFC 3042): that is no
// reason to keep more of it.
func (c *Conn) reduce(flight int, now Time) {
	c.congestion().OnLoss(&c.cwnd, min(flight, c.cwnd.Cwnd), now)
	c.tellReduction()
}

// enterLossRecovery is RFC 6298, 5.4 to 5.6, RFC 5681, 3.1, and RFC 8985, 6.3.
func (c *Conn) enterLossRecovery(now Time) {
	f := c.flight
	if c.recovery == recoveryNone {
		c.beginUndo()
	}
	c.congestion().OnTimeout(&c.cwnd, c.outstanding(), c.retries > 1)
	c.tellReduction()
	if c.has(flagSACK) {
		c.lostOnTimeout(now)
	} else {
		f.markAllLost()
	}
	c.retransmitLosses()
	c.beginFRTO()
}

// resend takes all that is outstanding and not SACKed for lost, for another reason than congestion.
func (c *Conn) resend() {
	c.flight.undo.active = false
	c.flight.markAllLost()
	c.retransmitLosses()
}

// retransmitLosses begins the recovery that sends all again that is lost, in slow start.
func (c *Conn) retransmitLosses() {
	f := c.flight
	c.recovery = recoveryLoss
	c.recover = c.sndNxt
	f.dupAcks, f.dupBytes = 0, 0
	f.tlp = tailProbe{}
	f.frto = frtoOff
	f.timerAt, f.timerTLP = Never, false
	c.set(flagForceRxt)
}

// reneged is for an ACK that stops where a SACK said that the peer has more: it has thrown that away (RFC 2018, 8). All goes
// again, as after a time-out.
func (c *Conn) reneged() {
	c.flight.forgetSACK()
	c.resend()
}

func (c *Conn) leaveRecovery() {
	f := c.flight
	c.recovery = recoveryNone
	f.dupAcks, f.dupBytes = 0, 0
	f.frto = frtoOff
	f.undo.until = c.sndNxt
	c.clear(flagForceRxt)
}

// pipe estimates how many octets are in the network (RFC 6675, 4).
func (c *Conn) pipe() int {
	if c.flight == nil {
		return 0
	}
	return int(c.flight.pipe - c.flight.dupBytes)
}
