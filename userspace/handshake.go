// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"net/netip"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// Handshake tells how a connection came to be.
type Handshake struct {
	Remote, Local netip.AddrPort
	Queue         int // that the final ACK arrived on

	ClientISN, ServerISN uint32
	MSS                  uint16 // what the client offered, as the cookie kept it
	ClientWScale         int    // -1: window scaling was not negotiated
	ServerWScale         int    // -1: likewise
	SACK, Timestamps     bool
	ECN                  bool

	// Duration is the time from SYN/ACK to final ACK, in steps of 8.4 ms (HasDuration: only
	// timestamps tell).
	Duration    time.Duration
	HasDuration bool
	AnsweredBy  string // who sent the SYN/ACK: "xdp", or "engine" if the SYN came on the flow of a connection that was over
	Opened      time.Time
}

// tick is the unit of our timestamps.
const tick = time.Duration(1 << bpf.TickShift)

// Handshake tells how this connection came to be.
func (c *Conn) Handshake() Handshake {
	h := &c.record
	hs := Handshake{
		Remote: c.flow.RemoteAddr(), Local: c.flow.LocalAddr(), Queue: c.shard.queue,
		ClientISN: h.Irs, ServerISN: h.Iss,
		MSS: h.Mss, ClientWScale: -1, ServerWScale: -1,
		SACK:       h.Flags&bpf.HandshakeSACK != 0,
		Timestamps: h.Flags&bpf.HandshakeTimestamps != 0,
		ECN:        h.Flags&bpf.HandshakeECN != 0,
		AnsweredBy: "xdp",
		Opened:     c.opened,
	}
	if h.Flags&bpf.HandshakeWScale != 0 {
		hs.ClientWScale, hs.ServerWScale = int(h.SndWscale), bpf.WindowScale
	}
	if c.byEngine {
		hs.AnsweredBy = "engine"
	}
	if hs.Timestamps {
		hs.Duration, hs.HasDuration = time.Duration(h.RttTicks)*tick, true
	}
	return hs
}

// tcpHandshake is what the TCP core must know of it.
func (c *Conn) tcpHandshake(v4 bool) tcp.Handshake {
	h := &c.record
	hs := tcp.Handshake{
		ISS: tcp.Seq(h.Iss), IRS: tcp.Seq(h.Irs),
		MSS:        min(int(h.Mss), mssOf(c.shard.engine.cfg.MTU-c.template.LinkExcess(), v4)),
		SACK:       h.Flags&bpf.HandshakeSACK != 0,
		Timestamps: h.Flags&bpf.HandshakeTimestamps != 0,
		ECN:        h.Flags&bpf.HandshakeECN != 0,
		TSOffset:   h.TsOffset,
		RcvWnd:     bpf.Window,
		RTT:        time.Duration(h.RttTicks) * tick,
	}
	if h.Flags&bpf.HandshakeWScale != 0 {
		hs.SndWScale, hs.RcvWScale = h.SndWscale, bpf.WindowScale
	}
	return hs
}

// mssOf is the MSS that fits an MTU: without IP options (RFC 9293, 3.7.1).
func mssOf(mtu int, v4 bool) int {
	if v4 {
		return mtu - 40
	}
	return mtu - 60
}

// takeRecord reads the handshake record in front of a frame and clears it, so that a later frame in
// the same chunk does not inherit it. nil: there is none. The result is good until the next call.
func (s *shard) takeRecord(d afxdp.Desc) *bpf.Handshake {
	meta := s.link.Meta(d, bpf.HandshakeSize)
	if meta == nil || !bpf.IsHandshake(meta) {
		return nil
	}
	s.record = bpf.DecodeHandshake(meta)
	clear(meta)
	return &s.record
}

// answerSYN sends the SYN/ACK for a SYN that XDP has left to us because it had the flow of a connection that is over: in
// TIME-WAIT, or an earlier process's. XDP would answer the next one, a second later; clients that reuse ports under load
// should not wait for it.
func (s *shard) answerSYN(p *wire.Packet) {
	in := &p.Segment
	v4 := p.Flow.IsIPv4()
	offer := bpf.Offer{
		MSS: in.MSS, WScale: in.WScale, SACK: in.SACKPermitted,
		Timestamps: in.Timestamps,
		ECN:        in.Flags.Has(wire.ECE|wire.CWR) && in.ECN == wire.NotECT, // RFC 3168, 6.1.1
		Remote:     p.Flow.RemoteAddr(), Local: p.Flow.LocalAddr(),
	}
	if offer.MSS == 0 {
		offer.MSS = 536 // RFC 9293, 3.7.1
		if !v4 {
			offer.MSS = 1220
		}
	}
	iss, tsval, granted := bpf.MakeCookie(s.engine.cfg.Flows.Keys(), offer, in.Seq, coarseTicks())
	out := &s.out
	out.Clear()
	out.Seq, out.Ack, out.Flags, out.Window = iss, in.Seq+1, wire.SYN|wire.ACK, bpf.Window
	out.MSS = uint16(min(mssOf(s.engine.cfg.MTU, v4), 65535))
	out.SACKPermitted = granted.SACK
	if granted.ECN {
		out.Flags |= wire.ECE
	}
	if granted.WScale >= 0 {
		out.WScale = bpf.WindowScale
	}
	if granted.Timestamps {
		out.Timestamps, out.TSVal, out.TSEcr = true, tsval, in.TSVal
	}
	s.stats.SynAcks++
	s.answered[s.stats.SynAcks%uint64(len(s.answered))] = iss
	t := wire.NewTemplate(p)
	s.send(&t, out)
}
