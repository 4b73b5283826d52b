// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// Output gives the next segment to send now; false when there is none. The caller fills in the payload with CopyPayload
// before it calls anything else.
func (c *Conn) Output(s *wire.Segment, now Time) bool {
	if c.state == StateClosed {
		return c.outputRST(s, now)
	}
	if c.outputData(s, now) || c.outputAck(s, now) {
		c.stats.segsOut++
		return true
	}
	if c.has(flagPoolWait) && c.poolAt == Never {
		c.poolAt = now.Add(poolInterval)
	}
	return false
}

// CopyPayload copies the payload of the segment that Output has just given to dst, which has PayloadLen bytes.
func (c *Conn) CopyPayload(dst []byte, s *wire.Segment) {
	if len(dst) > 0 {
		c.snd.copyAt(dst, int(Seq(s.Seq).Sub(c.sndUna)))
	}
}

func (c *Conn) outputRST(s *wire.Segment, now Time) bool {
	if !c.has(flagRst) {
		return false
	}
	c.clear(flagRst)
	c.header(s, c.sndNxt, now)
	s.Flags |= wire.RST
	s.Window = 0
	c.stats.segsOut++
	return true
}

// outputData gives a segment with bytes or a FIN: a probe, a retransmission, or something new.
func (c *Conn) outputData(s *wire.Segment, now Time) bool {
	if c.has(flagProbe) {
		c.clear(flagProbe)
		if c.outputProbe(s, now) {
			return true
		}
	}
	if c.outstanding() == 0 && c.Unsent() == 0 && !c.finDue() {
		c.clear(flagCwndLimited)
		return false // the usual case, cheaply
	}
	if c.outstanding() == 0 && now.Sub(c.lastSendAt) > c.rtt.rto(c.cfg, 0) {
		c.congestion().OnIdle(&c.cwnd) // RFC 5681, 4.1
	}
	pipe := c.pipe()
	room := c.cwnd.Cwnd - pipe
	if left, right := c.nextRetransmit(room); left.Less(right) {
		c.clear(flagForceRxt)
		c.retransmit(s, left, right, now)
		c.highRxt = maxSeq(c.highRxt, Seq(s.Seq).Add(s.Len()))
		return true
	}
	if c.outputNew(s, pipe, room, now) {
		return true
	}
	if left, right, rescue := c.lateRetransmit(room); left.Less(right) {
		c.retransmit(s, left, right, now)
		if rescue {
			c.set(flagRescued)
		} else {
			c.highRxt = maxSeq(c.highRxt, Seq(s.Seq).Add(s.Len()))
		}
		return true
	}
	return false
}

// finDue reports that a FIN is to be sent as soon as the data is.
func (c *Conn) finDue() bool { return c.has(flagCloseWrite) && !c.has(flagFinSent) }

// maxSegment is how many bytes fit beside the SACK blocks that are due.
func (c *Conn) maxSegment() int {
	blocks := c.sackBlocksDue()
	if blocks == 0 {
		return int(c.mss)
	}
	return int(c.mss) - 4 - 8*blocks
}

// retransmit gives the octets from left up to right, but no more than a segment of them.
func (c *Conn) retransmit(s *wire.Segment, left, right Seq, now Time) {
	dataEnd := c.dataEnd()
	n := min(int(minSeq(right, dataEnd).Sub(left)), c.maxSegment())
	fin := c.has(flagFinSent) && left.Add(n) == dataEnd && dataEnd.Less(right)
	c.segment(s, left, n, fin, now)
	c.rttAt = 0 // Karn: an ACK would not say which of the two it is for
	c.stats.retransmits++
	if c.rtxAt == Never {
		c.rtxAt = now.Add(c.rtt.rto(c.cfg, c.backoff))
	}
}

// outputNew gives a segment of new data, or the FIN, as far as window, cwnd and the silly window rules allow.
func (c *Conn) outputNew(s *wire.Segment, pipe, room int, now Time) bool {
	unsent := c.Unsent()
	finDue := c.finDue()
	if unsent == 0 && !finDue {
		c.clear(flagCwndLimited)
		return false
	}
	usable := int(c.sndUna.Add(int(c.sndWnd)).Sub(c.sndNxt))
	full := c.maxSegment()
	n := max(0, min(unsent, usable, full))
	if !c.worthSending(n, unsent, usable, full) {
		c.clear(flagCwndLimited)
		if c.outstanding() == 0 && c.rtxAt == Never {
			c.set(flagPersist)
			c.rtxAt = now.Add(c.rtt.rto(c.cfg, c.backoff))
		}
		return false
	}
	if n > room && pipe > 0 {
		c.set(flagCwndLimited)
		return false
	}
	c.sendNew(s, n, finDue && n == unsent && n < usable, now)
	return true
}

// worthSending is the sender's silly window avoidance, with Nagle's algorithm in it (RFC 9293, 3.8.6.2.1).
func (c *Conn) worthSending(n, unsent, usable, full int) bool {
	held := c.has(flagNagle) && c.outstanding() > 0 && !c.has(flagCloseWrite)
	switch {
	case usable <= 0:
		return false
	case n == full: // (1)
		return true
	case n == unsent: // (2), and a FIN alone
		return !held
	default: // (3)
		return !held && n >= int(c.maxSndWnd/2)
	}
}

// outputProbe gives the probe of a closed window (RFC 9293, 3.8.6.1), or what does fit a window that is open by less than is
// usually worth sending (3.8.6.2.1, (4)). The probe carries the next octet, but SND.NXT stays: the window did not
// allow it, so unless it is acknowledged, it was not sent.
func (c *Conn) outputProbe(s *wire.Segment, now Time) bool {
	unsent := c.Unsent()
	if c.outstanding() > 0 || unsent == 0 && !c.finDue() {
		return false
	}
	if usable := int(c.sndWnd); usable > 0 {
		n := min(unsent, usable, c.maxSegment())
		backoff, retries := c.backoff, c.retries
		c.sendNew(s, n, c.finDue() && n == unsent && n < usable, now)
		// Until it is acknowledged, this is still the same stall.
		c.backoff, c.retries = backoff, retries
		c.rtxAt = now.Add(c.rtt.rto(c.cfg, c.backoff))
		return true
	}
	c.segment(s, c.sndNxt, min(unsent, 1), unsent == 0, now)
	c.set(flagProbed)
	c.stats.probes++
	return true
}

// sendNew gives n new bytes and moves SND.NXT.
func (c *Conn) sendNew(s *wire.Segment, n int, fin bool, now Time) {
	c.segment(s, c.sndNxt, n, fin, now)
	c.outputECN(s)
	c.sndNxt = c.sndNxt.Add(s.Len())
	if fin {
		c.set(flagFinSent)
	}
	c.clear(flagProbed)
	if c.has(flagPersist) {
		c.clear(flagPersist)
		c.rtxAt = Never
		c.backoff, c.retries = 0, 0
	}
	if c.rtxAt == Never {
		c.rtxAt = now.Add(c.rtt.rto(c.cfg, c.backoff)) // RFC 6298, 5.1
	}
	if c.rttAt == 0 && c.recovery == recoveryNone {
		c.rttAt, c.rttSeq = now, c.sndNxt
	}
	c.lastSendAt = now
}

// segment fills s with n bytes from seq on. It brings an acknowledgment along.
func (c *Conn) segment(s *wire.Segment, seq Seq, n int, fin bool, now Time) {
	if c.has(flagAckNow) || c.lastAckSent != c.rcvNxt {
		c.stats.piggybacked++
	}
	end := seq.Add(n) == c.dataEnd()
	c.header(s, seq, now)
	s.PayloadLen = n
	if n > 0 && end {
		s.Flags |= wire.PSH // RFC 9293, 3.9.1.2: nothing is queued behind it
	}
	if fin {
		s.Flags |= wire.FIN
	}
}

// header fills s with all that does not depend on the payload, and with that an acknowledgment has been sent.
func (c *Conn) header(s *wire.Segment, seq Seq, now Time) {
	s.Clear()
	s.Seq = uint32(seq)
	s.Ack = uint32(c.rcvNxt)
	s.Flags = wire.ACK
	if c.has(flagEchoCE) {
		s.Flags |= wire.ECE
	}
	s.Window = c.advertise()
	if c.has(flagTimestamps) {
		s.Timestamps = true
		s.TSVal = c.tsOffset + now.tick()
		s.TSEcr = c.tsRecent
	}
	c.putSACK(s)
	if c.has(flagChallenge) {
		c.stats.challenges++
	}
	c.clear(flagAckNow | flagChallenge)
	c.ackAt = Never
	c.lastAckSent = c.rcvNxt
}
