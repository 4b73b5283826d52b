// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// SetUserTimeout sets how long what was written may remain unacknowledged, or unsent because the peer's window is shut, before
// the connection ends with ErrTimeout: RFC 9293's R2, as a time (3.8.3, MUST-21). It takes the place of Config.Retries,
// and of a keep-alive's Count. 0 gives them back. Nobody is told: the option of RFC 5482 is not sent.
func (c *Conn) SetUserTimeout(d time.Duration) {
	c.userTimeout = max(d, 0)
	if d > 0 && c.retries > 0 && c.rtxAt != Never {
		c.rtxAt = min(c.rtxAt, c.stalledAt.Add(d))
	}
}

// givesUp reports that the retransmission timer, or the probe's, has run out for the last time.
func (c *Conn) givesUp(now Time) bool {
	switch {
	case c.has(flagOrphan) && int(c.retries) >= min(c.cfg.Retries, c.cfg.OrphanRetries):
		return true
	case c.userTimeout > 0:
		return now.Sub(c.stalledAt) >= c.userTimeout
	default:
		return int(c.retries) >= c.cfg.Retries
	}
}

// startRTO starts the retransmission timer, or the probe's. After a first time-out it runs out no later than the user time-out.
func (c *Conn) startRTO(now Time) {
	c.rtxAt = now.Add(c.rtt.rto(c.cfg, c.backoff))
	if c.userTimeout > 0 && c.retries > 0 {
		c.rtxAt = min(c.rtxAt, max(c.stalledAt.Add(c.userTimeout), now.Add(time.Millisecond)))
	}
}
