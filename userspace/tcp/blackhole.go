// SPDX-License-Identifier: Apache-2.0

package tcp

// A router that drops what is too large for its next hop, and whose ICMP errors do not arrive, is a black hole (RFC 2923,
// 2.1): full-size segments vanish, small ones pass. A time-out does not tell that from an outage, so both sizes are tried:
//
//	blackHoleTimeouts time-outs in a row ─► the segment goes in small pieces
//	a piece is acknowledged ──────────────► the next segment is a full one again
//	the full one is acknowledged ─────────► it was an outage: nothing has changed
//	the full one times out ───────────────► it is a black hole: small from now on
//
// So an outage costs nothing, and a black hole one time-out more than the least that there can be. Larger segments are
// not tried again, as after an ICMP error (LowerMSS). This is less than RFC 4821, which searches for the exact size.
const blackHoleTimeouts = 3

// blackHoleSteps are the sizes of the pieces, as in Handshake.MSS: what IPv6 carries everywhere (RFC 8200, 5), which suits
// most tunnels, and what every host takes over IPv4 (RFC 9293, 3.7.1). No path of today is narrower.
var blackHoleSteps = [...]int32{1220, 536}

// trial says which size is being tried. otherMSS is the one that is not.
type trial uint8

const (
	trialNone trial = iota
	trialSmall
	trialFull
)

// suspectSize is what a time-out may say about the path's MTU. c.retries counts it already.
func (c *Conn) suspectSize() {
	if c.trial == trialFull {
		if c.headLen() > c.otherMSS {
			c.setMSS(c.otherMSS)
			c.trial = trialNone
			c.stats.blackHoles++
		}
		return
	}
	small := c.smallerMSS()
	if c.retries%blackHoleTimeouts != 0 || small == 0 || c.headLen() <= small {
		return
	}
	if c.trial == trialNone {
		c.otherMSS = c.mss
	}
	c.trial = trialSmall
	c.setMSS(small)
}

// sizeAcked is what the acknowledgment of new octets says about it.
func (c *Conn) sizeAcked(acked int) {
	switch {
	case c.trial == trialSmall:
		full := c.otherMSS
		c.trial, c.otherMSS = trialFull, c.mss
		c.setMSS(full)
	case c.trial == trialFull && acked > int(c.otherMSS):
		c.trial = trialNone
	}
}

// smallerMSS is the next step below the MSS in use; 0: there is none.
func (c *Conn) smallerMSS() int32 {
	for _, step := range blackHoleSteps {
		if c.has(flagTimestamps) {
			step -= 12
		}
		if step < c.mss {
			return step
		}
	}
	return 0
}

// headLen is the payload of the oldest segment in flight, as it is sent again.
func (c *Conn) headLen() int32 {
	return min(c.mss, minSeq(c.sndNxt, c.dataEnd()).Sub(c.sndUna))
}

func (c *Conn) setMSS(mss int32) {
	c.mss = mss
	c.cwnd.MSS = int(mss)
	c.cwnd.Cwnd = max(c.cwnd.Cwnd, int(mss))
}
