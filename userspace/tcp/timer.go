// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// poolInterval is how often a connection whose Write was refused by the pool looks again.
const poolInterval = 20 * time.Millisecond

// Deadline is when Tick must be called next; Never if nothing is waited for.
func (c *Conn) Deadline() Time {
	if c.cfg == nil {
		return Never
	}
	at := min(c.rtxAt, c.ackAt, c.stateAt, c.poolAt, c.keepAliveAt())
	if c.flight != nil {
		at = min(at, c.flight.timerAt)
	}
	return at
}

// Tick runs the timers that are due, and says what that changed for the application.
func (c *Conn) Tick(now Time) Event {
	if c.state == StateClosed {
		return 0
	}
	readable := c.readable()
	if c.ackAt <= now {
		c.ackAt = Never
		c.set(flagAckNow)
	}
	if c.poolAt <= now {
		c.poolAt = Never // Output sets it again
		if !c.cfg.Pool.full() {
			c.clear(flagPoolWait)
		}
	}
	if c.flight != nil && c.flight.timerAt <= now {
		c.lossTimeout(now)
	}
	if c.rtxAt <= now {
		c.rtxTimeout(now)
	}
	if c.keepAliveAt() <= now {
		c.keepAliveTimeout(now)
	}
	if c.stateAt <= now {
		c.end(nil) // TIME-WAIT is over, or nobody waits in FIN-WAIT-2 any more
	}
	return c.events(readable)
}

// rtxTimeout is the time-out of a retransmission (RFC 6298, 5.4 to 5.7) or of the closed window's probe (RFC 9293, 3.8.6.1).
func (c *Conn) rtxTimeout(now Time) {
	if c.givesUp(now) {
		c.end(ErrTimeout) // RFC 9293, 3.8.3, R2
		return
	}
	c.retries = min(c.retries, 254) + 1
	c.backoff = min(c.backoff+1, 60)
	c.startRTO(now)
	if c.has(flagPersist) {
		c.set(flagProbe)
		return
	}
	c.stats.timeouts++
	c.enterLossRecovery(now)
	c.suspectSize()
}
