// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A burstLink is a Link that may have segments cut by the kernel, if Burst is not nil: *afxdp.Socket.
type burstLink interface {
	Burst() []byte
	TransmitBurst(b afxdp.Burst, segments int) error
}

// A burst collects consecutive full segments of one connection, to be sent as one frame. The TCP core knows nothing of it:
// it gives segments one by one, and those that differ in nothing but sequence number and payload go together.
type burst struct {
	link     burstLink // nil: this link can't
	first    wire.Segment
	headers  int  // length of each segment's
	size     int  // payload of each segment but the last
	payload  int  // of all of them
	segments int  // 0: there is no burst
	closed   bool // nothing may follow
}

// burstWorth is how many segments must be to come for a burst to begin: for fewer, the TX ring is as good.
const burstWorth = 4

// add takes a segment that the core has just given into the burst; false: it is none for a burst, or not for this one.
func (b *burst) add(c *Conn, s *wire.Segment) bool {
	switch {
	case b.link == nil || s.PayloadLen == 0 || s.NSACK != 0 || s.Flags&^wire.PSH != wire.ACK:
		return false
	case b.segments == 0:
		if c.tcp.Unsent() < (burstWorth-1)*s.PayloadLen || c.template.IsTagged() {
			return false
		}
		b.first, b.headers, b.size, b.payload, b.closed = *s, c.template.HeaderLen(s), s.PayloadLen, 0, false
	case b.closed || s.PayloadLen > b.size || s.Seq != b.first.Seq+uint32(b.payload) || s.Ack != b.first.Ack ||
		s.Window != b.first.Window || s.ECN != b.first.ECN || s.TSVal != b.first.TSVal || s.TSEcr != b.first.TSEcr ||
		b.headers+b.payload+s.PayloadLen > afxdp.MaxBurst:
		return false
	}
	at := b.headers + b.payload
	c.tcp.CopyPayload(b.link.Burst()[at:at+s.PayloadLen], s)
	b.payload += s.PayloadLen
	b.segments++
	b.first.Flags |= s.Flags // PSH is the last one's: the kernel takes it off the others
	b.closed = s.PayloadLen < b.size || s.Flags.Has(wire.PSH)
	return true
}

// collect takes segments from the core and sends them in bursts, until there is one in s.out that is for the TX ring, or none.
func (s *shard) collect(c *Conn, now tcp.Time) (single bool) {
	for c.tcp.Output(&s.out, now) {
		if s.burst.add(c, &s.out) {
			continue
		}
		s.sendBurst(c)
		if !s.burst.add(c, &s.out) {
			return true
		}
	}
	s.sendBurst(c)
	return false
}

// sendBurst sends what was collected, behind what the connection has on the TX ring.
func (s *shard) sendBurst(c *Conn) {
	b := &s.burst
	if b.segments == 0 {
		return
	}
	n := b.segments
	b.segments = 0
	seg := b.first
	seg.PayloadLen = b.payload
	headers, at := c.template.MarshalHeaders(b.link.Burst(), &seg)
	flow := c.flow()
	err := b.link.TransmitBurst(afxdp.Burst{
		Len: headers + b.payload, Headers: headers, TCP: at, MSS: b.size, IPv6: !flow.IsIPv4(),
	}, n)
	if err == nil {
		s.stats.SegmentsOut += uint64(n)
		s.stats.BytesOut += uint64(b.payload)
		return
	}
	s.sendCut(c)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		// No room now, in a queue of the device or in memory, is not for ever.
	default:
		s.engine.log.Warn("the kernel refuses to cut segments: they go out one by one from now on", "queue", s.queue, "err", err)
		b.link = nil
	}
}

// sendCut sends, segment by segment, what the kernel did not take as a whole. Those for which there is no chunk are lost as on
// a wire: the core has given them, and will send them again.
func (s *shard) sendCut(c *Conn) {
	b := &s.burst
	next := s.out
	defer func() { s.out = next }()
	s.out = b.first
	s.out.Flags &^= wire.PSH
	payload := b.link.Burst()[b.headers : b.headers+b.payload]
	for len(payload) > 0 {
		n := min(b.size, len(payload))
		d, ok := s.link.Alloc()
		if !ok {
			s.stats.TxNoChunk++
			return
		}
		if n == len(payload) {
			s.out.Flags = b.first.Flags
		}
		s.out.PayloadLen = n
		frame := s.link.Frame(d)
		copy(frame[b.headers:], payload[:n])
		s.transmit(d, c.template.Marshal(frame, &s.out))
		s.out.Seq += uint32(n)
		payload = payload[n:]
	}
}
