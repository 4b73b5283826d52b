// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// Outstanding reports whether SND.UNA <= seq < SND.NXT. An ICMP error that quotes any other number is a late or a
// forged one, and is not for SoftError or LowerMSS (RFC 5927, 4.1; RFC 9293, 3.9.2.2).
func (c *Conn) Outstanding(seq uint32) bool {
	return c.state != StateClosed && Seq(seq).InWindow(c.sndUna, uint32(c.sndMax().Sub(c.sndUna)))
}

// SoftError notes an ICMP error, and no more. The path may recover, and if not, the retransmissions run out. Those that
// RFC 9293, 3.9.2.2 calls hard are no different once a connection is synchronized (RFC 5927, 5.2): protocol and port
// did exist, so it is more likely that somebody wants to end the connection.
func (c *Conn) SoftError(kind wire.ICMPKind) {
	c.softError = kind
	c.stats.softErrors++
}

// LowerMSS tells that the path takes segments of mss octets only, counted as in Handshake, and sends again what it has
// dropped. It reports whether that is news: one window of too large segments brings many an error, and only the first of
// them may make us retransmit (RFC 1191, 6.4).
func (c *Conn) LowerMSS(mss int, now Time) bool {
	if c.has(flagTimestamps) {
		mss -= 12
	}
	mss = max(mss, minMSS)
	if c.trial == trialSmall {
		c.otherMSS = min(c.otherMSS, int32(mss)) // it is known now which size is full
	}
	if c.state == StateClosed || mss >= int(c.mss) {
		return false
	}
	c.trial = trialNone
	c.setMSS(int32(mss))
	if c.outstanding() == 0 {
		return true
	}
	// Which of the segments in flight were too large is not known, but when one is, most are. What the peer has SACKed is
	// not sent again. This was no congestion, so slow start leads back to where cwnd was; but it does begin anew,
	// because the hop behind may be narrower still (RFC 1191, 6.4; it would have one segment to begin with, we take the
	// window that every connection begins with).
	c.cwnd.Ssthresh = max(c.cwnd.Ssthresh, c.cwnd.Cwnd)
	c.congestion().OnIdle(&c.cwnd)
	c.resend()
	c.startRTO(now)
	return true
}
