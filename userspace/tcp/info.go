// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// stats are the counters behind Info.
type stats struct {
	bytesIn, bytesOut uint64
	segsIn, segsOut   uint64

	retransmits, timeouts, probes     uint32
	pureAcks, piggybacked, challenges uint32
	dupAcksIn, outOfOrder, poolDrops  uint32
	ceIn, eceIn                       uint32
	softErrors                        uint32
}

// Info is a snapshot of a connection for people and metrics.
type Info struct {
	State            State
	MSS              int           // payload of a full segment
	RTT, RTTVar, RTO time.Duration // RTT 0: not measured
	Cwnd, Ssthresh   int           // bytes
	SndWnd, RcvWnd   int           // bytes, unscaled
	InFlight         int           // sequence numbers sent and not acknowledged

	BytesIn  uint64 // delivered in order to the receive buffer
	BytesOut uint64 // accepted by Write
	SegsIn   uint64
	SegsOut  uint64

	Retransmits        uint64 // segments
	Timeouts           uint64 // of the retransmission timer
	Probes             uint64 // of a closed window
	PureAcksOut        uint64 // segments with nothing but an acknowledgment
	PiggybackedAcksOut uint64 // data or FIN segments that acknowledged something new
	ChallengeAcksOut   uint64 // RFC 5961
	DupAcksIn          uint64
	OutOfOrderIn       uint64 // segments
	PoolDropsIn        uint64 // segments dropped because the pool was at its bound

	ECN   bool   // negotiated (RFC 3168)
	CEIn  uint64 // segments that the network marked on their way to us
	ECEIn uint64 // windows of ours with a marked segment, for which the sender slowed down

	SoftErrors uint64        // ICMP errors that said why segments may not arrive
	SoftError  wire.ICMPKind // the last of them; 0: none
}

// State gives the connection's state.
func (c *Conn) State() State { return c.state }

// Err says why the connection ended; nil while it has not, and after a clean end.
func (c *Conn) Err() error { return c.err }

// Info takes a snapshot.
func (c *Conn) Info() Info {
	i := Info{
		State: c.state, MSS: int(c.mss),
		RTT: c.rtt.srtt, RTTVar: c.rtt.rttvar,
		Cwnd: c.cwnd.Cwnd, Ssthresh: c.cwnd.Ssthresh,
		SndWnd: int(c.sndWnd), RcvWnd: int(c.rcvWnd()), InFlight: c.outstanding(),
		BytesIn: c.stats.bytesIn, BytesOut: c.stats.bytesOut,
		SegsIn: c.stats.segsIn, SegsOut: c.stats.segsOut,
		Retransmits: uint64(c.stats.retransmits), Timeouts: uint64(c.stats.timeouts), Probes: uint64(c.stats.probes),
		PureAcksOut: uint64(c.stats.pureAcks), PiggybackedAcksOut: uint64(c.stats.piggybacked),
		ChallengeAcksOut: uint64(c.stats.challenges),
		DupAcksIn:        uint64(c.stats.dupAcksIn), OutOfOrderIn: uint64(c.stats.outOfOrder),
		PoolDropsIn: uint64(c.stats.poolDrops),
		ECN:         c.has(flagECN), CEIn: uint64(c.stats.ceIn), ECEIn: uint64(c.stats.eceIn),
		SoftErrors: uint64(c.stats.softErrors), SoftError: c.softError,
	}
	if c.cfg != nil {
		i.RTO = c.rtt.rto(c.cfg, c.backoff)
	}
	return i
}

// Retransmits is how many segments were sent again.
func (c *Conn) Retransmits() uint64 { return uint64(c.stats.retransmits) }
