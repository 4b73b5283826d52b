// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

const (
	// tsRecentLife is how long a timestamp is good for PAWS: longer, and the peer's clock may have wrapped
	// (RFC 7323, 5.5).
	tsRecentLife = 24 * 24 * time.Hour

	// A connection sends at most challengeLimit challenge ACKs in challengeInterval (RFC 5961, 7).
	challengeLimit    = 10
	challengeInterval = 5 * time.Second
)

// input is RFC 9293, 3.10.7.4 with the additions of RFC 7323, 5.3 and RFC 5961.
func (c *Conn) input(s *wire.Segment, now Time) {
	seq, n := Seq(s.Seq), s.Len()

	// Second in the RFC, but its check of the sequence number is a stricter one of its own.
	if s.Flags.Has(wire.RST) {
		c.inputRST(seq, now)
		return
	}
	// Fourth. RFC 5961, 4.2: whatever its sequence number, a SYN is asked about. A peer that has restarted answers
	// with a RST that fits. (In TIME-WAIT the caller has asked AcceptsSYN before.)
	if s.Flags.Has(wire.SYN) {
		c.challenge(now)
		return
	}

	if c.has(flagTimestamps) {
		// RFC 7323, 3.2: once negotiated, a segment without them is dropped.
		if !s.Timestamps {
			return
		}
		// RFC 7323, 5.3, R1.
		if c.tooOld(s.TSVal, now) {
			c.reject(s, now)
			return
		}
	}
	// First.
	if !c.acceptable(seq, n) {
		c.reject(s, now)
		return
	}
	// Fifth.
	if !s.Flags.Has(wire.ACK) {
		return
	}
	// RFC 5961, 5.2: an ACK is believed only between SND.UNA - MAX.SND.WND and SND.NXT.
	ack := Seq(s.Ack)
	if c.sndMax().Less(ack) || ack.Less(c.sndUna.Add(-int(c.maxSndWnd))) {
		c.challenge(now)
		return
	}
	// RFC 7323, 5.3, R3.
	if c.has(flagTimestamps) {
		c.updateTSRecent(seq, s.TSVal, now)
	}
	c.inputECN(s, ack, now)
	c.inputAck(s, ack, now)
	if c.state == StateClosed {
		return
	}
	// Sixth, the urgent pointer: ignored; what it points at is ordinary data. Seventh and eighth.
	c.inputText(s, seq, now)
}

// acceptable is the test of RFC 9293, 3.10.7.4, table 6, with two allowances. A segment without length may sit on the right edge:
// that is where a sender is whose full window was lost, and its ACKs count. And at a window of zero, the
// segment at RCV.NXT is looked at for its ACK, though its text will not fit.
func (c *Conn) acceptable(seq Seq, n int) bool {
	switch {
	case n == 0:
		return seq.InWindow(c.rcvNxt, c.rcvWnd()+1)
	case c.rcvWnd() == 0:
		return seq == c.rcvNxt
	default:
		return seq.Less(c.rcvAdv) && c.rcvNxt.Less(seq.Add(n))
	}
}

// reject answers an unacceptable segment with an ACK. A segment that takes sequence space is a retransmission, and its
// sender waits for the answer; an empty one may be part of an argument with another confused end, so these are counted.
func (c *Conn) reject(s *wire.Segment, now Time) {
	if s.Len() == 0 {
		c.challenge(now)
		return
	}
	c.set(flagAckNow)
	seq := Seq(s.Seq)
	end := seq.Add(s.PayloadLen)
	if s.PayloadLen > 0 && end.LessEq(c.rcvNxt) {
		c.dsack = seqRange{seq, end} // RFC 2883, 4.1
	}
	// The newest segment again: our ACK of it was lost. Echo the copy's timestamp, or the peer would take the time that it
	// waited for its time-out for a round trip. (RFC 7323, 5.3 would not, the segment being outside of the window.)
	if c.has(flagTSValid) && !c.tooOld(s.TSVal, now) && seq.Add(s.Len()) == c.rcvNxt {
		c.updateTSRecent(seq, s.TSVal, now)
	}
	// RFC 9293, 3.10.7.4, eighth: the FIN again, in TIME-WAIT: our ACK of it was lost, so begin to wait anew.
	if c.state == StateTimeWait && s.Flags.Has(wire.FIN) {
		c.stateAt = now.Add(c.cfg.TimeWait)
	}
}

// inputRST is RFC 5961, 3.2: only the exact sequence number resets. One that merely fits the window is asked about.
func (c *Conn) inputRST(seq Seq, now Time) {
	switch {
	case seq == c.rcvNxt:
		// RFC 9293, 3.10.7.4, second: in these states both ends have closed, and an answer is nobody's loss, unless
		// bytes were on the way.
		switch c.state {
		case StateClosing, StateLastAck, StateTimeWait:
			if c.snd.size == 0 {
				c.end(nil)
				return
			}
		}
		c.end(ErrReset)
	case seq.InWindow(c.rcvNxt, c.rcvWnd()):
		c.challenge(now)
	}
}

// challenge owes the peer an ACK, unless it has had too many.
func (c *Conn) challenge(now Time) {
	if now.Sub(c.challengeAt) >= challengeInterval {
		c.challengeAt = now
		c.challenges = 0
	}
	if c.challenges < challengeLimit {
		c.challenges++
		c.set(flagAckNow | flagChallenge)
	}
}

// tooOld is PAWS (RFC 7323, 5.3, R1).
func (c *Conn) tooOld(tsval uint32, now Time) bool {
	return c.has(flagTSValid) && int32(tsval-c.tsRecent) < 0 && now.Sub(c.tsRecentAt) < tsRecentLife
}

// updateTSRecent is RFC 7323, 4.3: the timestamp to echo is that of the segment that our last ACK was for, so a delayed
// ACK counts into the peer's RTT. Before there is one, anything is better to echo than nothing, but PAWS does
// not go by it: it may come from a segment that overtook others.
func (c *Conn) updateTSRecent(seq Seq, tsval uint32, now Time) {
	inOrder := seq.LessEq(c.lastAckSent)
	if inOrder || !c.has(flagTSValid) {
		c.tsRecent = tsval
		c.tsRecentAt = now
	}
	if inOrder {
		c.set(flagTSValid)
	}
}

// sndMax is the largest acceptable ACK: SND.NXT, or after a window probe, the octet that it carried.
func (c *Conn) sndMax() Seq {
	if c.has(flagProbed) {
		return c.sndNxt.Add(1)
	}
	return c.sndNxt
}
