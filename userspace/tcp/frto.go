// SPDX-License-Identifier: Apache-2.0

package tcp

// frtoState is where forward RTO-recovery stands (RFC 5682): after a time-out and before all else is sent again, it finds out
// whether the first segments have arrived after all. With timestamps the first ACK says so by itself.
type frtoState uint8

const (
	frtoOff   frtoState = iota
	frtoFirst           // the first segment was sent again: its ACK is waited for
	frtoNew             // something new was sent: will what was not sent again arrive?
)

// beginFRTO is RFC 5682, 2.1, step 1. A second time-out for the same segment is no delay any more.
func (c *Conn) beginFRTO() {
	c.flight.frto = frtoOff
	if c.retries == 1 && !c.has(flagTimestamps) {
		c.flight.frto = frtoFirst
	}
}

// frtoSpurious is RFC 5682, 2.1 and 3.1, steps 2 and 3.
func (c *Conn) frtoSpurious(d *delivery) bool {
	f := c.flight
	switch f.frto {
	case frtoFirst:
		f.frto = frtoOff
		if d.acked > 0 && c.sndUna.Less(c.recover) && c.Unsent() > 0 && c.sndUna.Add(int(c.sndWnd)).Sub(c.sndNxt) > 0 {
			f.frto = frtoNew // step 2b: first something new, before any retransmission
		}
	case frtoNew:
		if d.octets == 0 && !d.duplicate {
			return false // says nothing
		}
		f.frto = frtoOff
		if !d.original {
			c.set(flagForceRxt) // step 3a: what is new is in flight, and what is lost goes all the same
		}
		return d.original
	}
	return false
}
