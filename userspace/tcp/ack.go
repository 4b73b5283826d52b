// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// inputAck is the fifth step of RFC 9293, 3.10.7.4, for an ACK that RFC 5961 believes.
func (c *Conn) inputAck(s *wire.Segment, ack Seq, now Time) {
	if ack.Less(c.sndUna) {
		return // an old one, overtaken
	}
	wnd := uint32(s.Window) << c.sndWScale
	advanced := c.sndUna.Less(ack)
	duplicate := !advanced && c.outstanding() > 0 && s.Len() == 0 && wnd == c.sndWnd
	if advanced {
		c.newAck(s, ack, now)
		if c.state == StateClosed {
			return
		}
	}
	c.detectLoss(c.inputSACK(s), advanced, duplicate, now)

	// Segments may be reordered, so only the newest speaks for the window (RFC 9293, 3.10.7.4).
	seq := Seq(s.Seq)
	if c.sndWL1.Less(seq) || c.sndWL1 == seq && c.sndWL2.LessEq(ack) {
		c.sndWnd = wnd
		c.maxSndWnd = max(c.maxSndWnd, wnd)
		c.sndWL1, c.sndWL2 = seq, ack
	}
	// RFC 9293, 3.8.6.1, MUST-37: as long as it answers, a peer may keep its window shut. But when our application has
	// gone, nobody wants that any more, and the retries count.
	if (c.has(flagPersist) || c.sndWnd == 0) && !c.has(flagOrphan) {
		c.retries = 0
	}
}

// newAck moves SND.UNA.
func (c *Conn) newAck(s *wire.Segment, ack Seq, now Time) {
	if c.sndNxt.Less(ack) {
		// The probe's octet has got in; now it counts as sent.
		if c.Unsent() == 0 {
			c.set(flagFinSent)
		}
		c.sndNxt = ack
	}
	c.clear(flagProbed)

	c.sampleRTT(s, ack, now)
	acked := int(ack.Sub(c.sndUna))
	data := min(acked, int(c.snd.size))
	c.snd.drop(data, c.cfg.Pool)
	c.sndUna = ack
	c.highRxt = maxSeq(c.highRxt, ack)
	if c.sacked != nil {
		c.sacked.cut(ack)
		if c.sacked.n == 0 {
			c.releaseSacked()
		}
	}
	c.ackInRecovery(acked, now)
	c.sizeAcked(acked)
	c.tuneSendBuffer(data, now)

	// RFC 6298, 5.2 and 5.3. Progress ends the back-off too.
	c.backoff, c.retries, c.stalledAt = 0, 0, 0
	c.clear(flagPersist)
	c.rtxAt = Never
	if c.outstanding() > 0 {
		c.rtxAt = now.Add(c.rtt.rto(c.cfg, 0))
	}
	if acked > data {
		c.set(flagFinAcked)
		c.finAcked(now)
	}
}

// finAcked is what the acknowledgment of our FIN means in each state (RFC 9293, 3.10.7.4, fifth).
func (c *Conn) finAcked(now Time) {
	switch c.state {
	case StateFinWait1:
		c.state = StateFinWait2
		if c.has(flagOrphan) {
			// Nobody reads what may still come, so do not wait for ever.
			c.stateAt = now.Add(c.cfg.FinWait2)
		}
	case StateClosing:
		c.timeWait(now)
	case StateLastAck:
		c.end(nil)
	}
}

// timeWait begins the wait for old duplicates to die out.
func (c *Conn) timeWait(now Time) {
	c.state = StateTimeWait
	c.releaseSend()
	c.rtxAt = Never
	c.stateAt = now.Add(c.cfg.TimeWait)
}

// sampleRTT takes a measurement from an ACK that moves SND.UNA. One segment per round trip is timed by our own clock, which
// is finer than timestamps are. Karn's rule takes it away when anything is retransmitted; then the echoed timestamp
// says which transmission arrived (RFC 7323, 4.1).
func (c *Conn) sampleRTT(s *wire.Segment, ack Seq, now Time) {
	if c.rttAt != 0 {
		if c.rttSeq.LessEq(ack) {
			c.rtt.sample(now.Sub(c.rttAt))
			c.rttAt = 0
		}
		return
	}
	if c.recovery == recoveryNone || !c.has(flagTimestamps) {
		return
	}
	ticks := now.tick() + c.tsOffset - s.TSEcr
	// More than minutes ago we have not sent it: the peer echoes nonsense.
	if ticks < 1<<18 {
		c.rtt.sample(time.Duration(ticks) << tsTickShift)
	}
}
