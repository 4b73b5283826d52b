// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A delivery is what one ACK says.
type delivery struct {
	ack    Seq
	acked  int // octets that SND.UNA moves by
	octets int // delivered: acknowledged or SACKed for the first time

	// How long segments took that were sent once only: the newest of them, which the peer answered at once, and the one that
	// waited longest. 0: there was none.
	newest, oldest time.Duration

	duplicate bool // as in RFC 5681, 2
	resent    bool // octets have arrived that were sent more than once
	original  bool // octets have arrived that recovery has not sent again
	lostMore  bool // octets turned out to be lost

	hasSACK, hasDSACK bool
	probeDSACK        bool // the D-SACK is for a tail loss probe
	dsack             seqRange

	echoed bool // echo is a timestamp of ours
	echo   uint32
}

// inputAck is the fifth step of RFC 9293, 3.10.7.4, for an ACK that RFC 5961 believes.
func (c *Conn) inputAck(s *wire.Segment, ack Seq, now Time) {
	if ack.Less(c.sndUna) {
		return // an old one, overtaken
	}
	wnd := uint32(s.Window) << c.sndWScale
	d := delivery{ack: ack, echoed: c.has(flagTimestamps), echo: s.TSEcr}
	d.duplicate = ack == c.sndUna && c.outstanding() > 0 && s.Len() == 0 && wnd == c.sndWnd
	fin := false
	if c.sndUna.Less(ack) {
		fin = c.newAck(&d, now)
	}
	if c.has(flagSACK) && s.NSACK > 0 {
		c.inputSACK(s, &d, now)
	}
	if c.flight != nil {
		c.sampleRTT(&d, now)
		c.recoverLosses(&d, now)
		c.inputECE(s, &d, now)
	}
	if d.acked > 0 {
		c.sizeAcked(d.acked)
		c.restartTimers(now)
	}
	if fin {
		c.finAcked(now)
		if c.state == StateClosed {
			return
		}
	}

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

// newAck moves SND.UNA. It reports whether our FIN is acknowledged.
func (c *Conn) newAck(d *delivery, now Time) (fin bool) {
	if c.sndNxt.Less(d.ack) {
		// The probe's octet has got in; now it counts as sent.
		if c.Unsent() == 0 {
			c.set(flagFinSent)
		}
		c.sndNxt = d.ack
	}
	c.clear(flagProbed)

	d.acked = int(d.ack.Sub(c.sndUna))
	data := min(d.acked, int(c.snd.size))
	c.snd.drop(data, c.cfg.Pool)
	c.sndUna = d.ack
	if d.acked > data {
		c.set(flagFinAcked)
		fin = true
	}
	f := c.flight
	if f == nil {
		return fin // it was a window probe
	}
	for r := f.first; r != nil && r.right.LessEq(d.ack); r = f.first {
		if r.state != sacked {
			c.arrived(r, d, now)
		}
		f.dropFirst(c.cfg.Pool)
	}
	if r := f.first; r != nil && r.left.Less(d.ack) {
		if r.state != sacked {
			d.octets += int(d.ack.Sub(r.left))
		}
		f.trimFirst(d.ack)
	}
	return fin
}

// restartTimers is RFC 6298, 5.2 and 5.3, after SND.UNA has moved. Progress ends the back-off too.
func (c *Conn) restartTimers(now Time) {
	c.backoff, c.retries, c.stalledAt = 0, 0, now
	c.clear(flagPersist)
	if c.outstanding() == 0 {
		c.rtxAt = Never
		c.releaseFlight()
		return
	}
	c.rtxAt = now.Add(c.rtt.rto(c.cfg, 0))
	c.scheduleProbe(now)
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

// sampleRTT gives the estimator one measurement per round trip. Our own clock is finer than timestamps are; but what was
// sent twice is not timed by it (Karn's rule), and then the echoed timestamp says which of the two has arrived (RFC 7323, 4.1).
func (c *Conn) sampleRTT(d *delivery, now Time) {
	f := c.flight
	if c.sndUna.Less(f.rttSeq) {
		return
	}
	switch {
	case !d.resent && d.oldest > 0:
		c.rtt.sample(d.oldest)
	case d.resent && d.acked > 0 && d.echoed:
		ticks := now.tick() + c.tsOffset - d.echo
		// More than minutes ago we have not sent it: the peer echoes nonsense.
		if ticks >= 1<<18 {
			return
		}
		c.rtt.sample(time.Duration(ticks) << tsTickShift)
	default:
		return
	}
	f.rttSeq = c.sndNxt
}
