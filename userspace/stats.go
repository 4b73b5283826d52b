// SPDX-License-Identifier: Apache-2.0

package userspace

import "math/bits"

// RTTBuckets are the buckets of Stats.HandshakeRTT: bucket i counts handshakes of less than
// 2^i * 8 ticks (8.4 ms << i); the last one counts all others.
const RTTBuckets = 13

// Stats are an engine's counters since New, and two gauges.
type Stats struct {
	Open    int // gauge: connections that are not closed
	Waiting int // gauge: closed connections kept for their old duplicates (TIME-WAIT and the like)

	BufferBytes int // gauge: memory that connections hold in buffers

	Opened          uint64 // connections made
	ClosedClean     uint64 // ended by FINs
	ClosedReset     uint64 // ended by the peer's RST
	ClosedTimeout   uint64 // ended because the peer fell silent
	ClosedAborted   uint64 // ended by us, with data lost
	RefusedBacklog  uint64 // final ACKs not taken because the accept backlog was full
	RefusedListener uint64 // connections to a port that nobody listens on any more
	SynAcks         uint64 // SYNs answered by the engine: on the flow of a connection that is over
	NoConnection    uint64 // segments of no connection
	LeftAlone       uint64 // segments of no connection that a retired engine left to its successor
	Swept           uint64 // flows deleted that never became a connection

	Strays     uint64 // frames that came on another queue than their connection's, and were handed over
	StraysLost uint64 // of those, the ones that found too many waiting

	SegmentsIn, SegmentsOut uint64
	BytesIn, BytesOut       uint64 // payload, retransmissions included
	PureAcksOut             uint64 // segments that carry nothing but an acknowledgment
	ResetsOut               uint64
	Retransmits             uint64 // segments sent again
	BadFrames               uint64 // frames that are neither a segment nor an ICMP error: cut short, wrong lengths
	BadChecksums            uint64
	MemoryRefused           uint64 // times that the bound on buffer memory was met
	OutOfOrderRefused       uint64 // segments out of order that were not kept: too many holes, or memory was short
	SendBufferFull          uint64 // times that a write had to wait for its connection's send buffer
	ReceiveBufferFull       uint64 // segments that were not taken, or not whole: beyond their connection's window
	TxNoChunk               uint64 // times that output waited because all TX chunks were in flight
	TxErrors                uint64 // failed transmit system calls

	// ICMP errors about segments in flight, by what they say.
	ICMPUnreachable, ICMPTooBig, ICMPTimeExceeded, ICMPParameterProblem uint64
	// ICMP errors refused.
	ICMPBadChecksum  uint64
	ICMPNoConnection uint64 // about a flow that the engine does not have
	ICMPBadSequence  uint64 // about a segment that is not in flight: late, or forged
	ICMPBadMTU       uint64 // too big, for an MTU that is smaller than any path's of today

	// HandshakeRTT counts the handshakes with timestamps by the time from SYN/ACK to final ACK.
	HandshakeRTT      [RTTBuckets]uint64
	HandshakeRTTTicks uint64 // their sum, in ticks
}

func (st *Stats) handshake(ticks uint32) {
	st.HandshakeRTT[min(bits.Len32(ticks/8), RTTBuckets-1)]++
	st.HandshakeRTTTicks += uint64(ticks)
}

func (st *Stats) add(o *Stats) {
	st.Open += o.Open
	st.Waiting += o.Waiting
	st.BufferBytes += o.BufferBytes
	for _, f := range []struct{ to, from *uint64 }{
		{&st.Opened, &o.Opened}, {&st.ClosedClean, &o.ClosedClean}, {&st.ClosedReset, &o.ClosedReset},
		{&st.ClosedTimeout, &o.ClosedTimeout}, {&st.ClosedAborted, &o.ClosedAborted},
		{&st.RefusedBacklog, &o.RefusedBacklog}, {&st.RefusedListener, &o.RefusedListener},
		{&st.SynAcks, &o.SynAcks}, {&st.NoConnection, &o.NoConnection}, {&st.LeftAlone, &o.LeftAlone}, {&st.Swept, &o.Swept}, {&st.Strays, &o.Strays}, {&st.StraysLost, &o.StraysLost},
		{&st.SegmentsIn, &o.SegmentsIn}, {&st.SegmentsOut, &o.SegmentsOut}, {&st.BytesIn, &o.BytesIn},
		{&st.BytesOut, &o.BytesOut}, {&st.PureAcksOut, &o.PureAcksOut}, {&st.ResetsOut, &o.ResetsOut},
		{&st.Retransmits, &o.Retransmits}, {&st.BadFrames, &o.BadFrames},
		{&st.BadChecksums, &o.BadChecksums}, {&st.MemoryRefused, &o.MemoryRefused}, {&st.OutOfOrderRefused, &o.OutOfOrderRefused},
		{&st.SendBufferFull, &o.SendBufferFull}, {&st.ReceiveBufferFull, &o.ReceiveBufferFull}, {&st.TxNoChunk, &o.TxNoChunk}, {&st.TxErrors, &o.TxErrors},
		{&st.ICMPUnreachable, &o.ICMPUnreachable}, {&st.ICMPTooBig, &o.ICMPTooBig}, {&st.ICMPTimeExceeded, &o.ICMPTimeExceeded},
		{&st.ICMPParameterProblem, &o.ICMPParameterProblem}, {&st.ICMPBadChecksum, &o.ICMPBadChecksum},
		{&st.ICMPNoConnection, &o.ICMPNoConnection}, {&st.ICMPBadSequence, &o.ICMPBadSequence}, {&st.ICMPBadMTU, &o.ICMPBadMTU},
		{&st.HandshakeRTTTicks, &o.HandshakeRTTTicks},
	} {
		*f.to += *f.from
	}
	for i, n := range o.HandshakeRTT {
		st.HandshakeRTT[i] += n
	}
}

// Stats sums up all shards.
func (e *Engine) Stats() (sum Stats) {
	for _, s := range e.shards {
		s.count(func(st *Stats) {
			st.Open, st.Waiting = s.conns.len()-s.waiting.n, s.waiting.n
			st.BufferBytes = s.tcp.Pool.InUse() * poolChunk
			r := s.tcp.Pool.Refusals()
			st.MemoryRefused, st.OutOfOrderRefused = r.Memory, r.OutOfOrder
			st.SendBufferFull, st.ReceiveBufferFull = r.SendBuffer, r.ReceiveBuffer
			st.TxErrors = s.txErrors.Load()
			sum.add(st)
		})
	}
	return sum
}
