// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// Reset fills out with the RST that answers a segment of no connection (RFC 9293, 3.10.7.1). A RST gets none: false.
func Reset(in, out *wire.Segment) bool {
	if in.Flags.Has(wire.RST) {
		return false
	}
	out.Clear()
	if in.Flags.Has(wire.ACK) {
		out.Seq = in.Ack
		out.Flags = wire.RST
		return true
	}
	out.Ack = in.Seq + uint32(in.Len())
	out.Flags = wire.RST | wire.ACK
	return true
}

// AcceptsSYN reports whether this connection is in TIME-WAIT and a new one may take its place, begun by s: no old
// duplicate could then be taken for part of the new one (RFC 6191, 2; RFC 9293, 3.6.1, MAY-2). If so, the caller
// forgets this connection and treats s as if it had none.
func (c *Conn) AcceptsSYN(s *wire.Segment) bool {
	if c.state != StateTimeWait || !s.Flags.Has(wire.SYN) || s.Flags.Any(wire.RST|wire.ACK|wire.FIN) {
		return false
	}
	higher := c.rcvNxt.Less(Seq(s.Seq))
	if !s.Timestamps || !c.has(flagTimestamps) || !c.has(flagTSValid) {
		return higher
	}
	newer := int32(s.TSVal - c.tsRecent)
	return newer > 0 || newer == 0 && higher
}
