// SPDX-License-Identifier: Apache-2.0

package tcp

// Linger asks for one Delivered event, and reports whether to wait for it: whether something that was written, or the FIN, is
// still to be acknowledged. It is the core's half of SO_LINGER: who closes, may wait until the peer has everything.
func (c *Conn) Linger() bool {
	if c.state == StateClosed || c.has(flagFinAcked) {
		return false
	}
	c.set(flagLinger)
	return true
}
