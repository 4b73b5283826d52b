// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// The smallest path MTUs that we believe in. For IPv4, RFC 1191, 3 would go down to 68, and whoever guesses a sequence
// number in flight could have us cut all that we send into packets of that size. No path of today is that narrow; 552 is
// Linux's min_pmtu. For IPv6, a smaller one must be discarded (RFC 8201, 4).
const (
	minPathMTU4 = 552
	minPathMTU6 = 1280
)

// inputICMP takes in a frame that is not TCP: an ICMP error about one of our segments, or nothing of ours.
func (s *shard) inputICMP(frame []byte, now tcp.Time) {
	e := &s.icmp
	switch wire.ParseICMP(frame, e) {
	case nil:
	case wire.ErrICMPChecksum:
		s.stats.ICMPBadChecksum++
		return
	default:
		s.stats.BadFrames++
		return
	}
	c := s.conns.get(&e.Flow)
	if c == nil {
		// The card hashes the router's address, so most errors come on another queue than their connection.
		if owner := s.engine.owners.elsewhere(&e.Flow, s); owner != nil {
			s.stray(owner, frame, nil)
			return
		}
		s.stats.ICMPNoConnection++
		return
	}
	if !c.tcp.Outstanding(e.Seq) {
		s.stats.ICMPBadSequence++
		return
	}
	switch e.Kind {
	case wire.ICMPTooBig:
		s.tooBig(c, e.MTU, now)
		return
	case wire.ICMPUnreachable:
		s.stats.ICMPUnreachable++
	case wire.ICMPTimeExceeded:
		s.stats.ICMPTimeExceeded++
	case wire.ICMPParameterProblem:
		s.stats.ICMPParameterProblem++
	}
	c.tcp.SoftError(e.Kind)
}

// tooBig takes in that the path of a connection has this MTU.
func (s *shard) tooBig(c *Conn, mtu uint32, now tcp.Time) {
	v4 := c.flow().IsIPv4()
	if mtu < minPathMTU4 || !v4 && mtu < minPathMTU6 {
		s.stats.ICMPBadMTU++
		return
	}
	s.stats.ICMPTooBig++
	if c.tcp.LowerMSS(mssOf(int(min(mtu, 1<<16)), v4), now) {
		s.markDirty(c)
	}
}
