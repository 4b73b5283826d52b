// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A link carries segments one way: through a queue, at a bandwidth, with a delay, and with all that can go wrong. Several
// connections may share one.
type link struct {
	delay     time.Duration
	jitter    time.Duration // random extra delay of every segment
	bandwidth int           // bytes per second
	queue     int           // bytes that may wait for the bandwidth: many of them are a bufferbloat
	mtu       int           // a longer IP packet is lost without a word; 0: no bound

	// Probabilities.
	loss    float64
	dup     float64
	corrupt float64 // a bit is flipped
	reorder float64 // held back for reorderBy
	burst   float64 // a run of losses begins, which ends after burstLen segments on average

	reorderBy time.Duration
	burstLen  float64

	freeAt  Time // when the last byte accepted has left
	inBurst bool
}

// linkOverhead is what a segment's payload is carried in: Ethernet, IPv4, TCP with timestamps.
const linkOverhead = 66

// carry gives the times at which copies of a segment with n bytes of payload arrive: none when it is lost.
func (l *link) carry(rng *rand.Rand, n int, now Time) (at [2]Time, copies int) {
	if l.mtu > 0 && n+linkOverhead-14 > l.mtu {
		return at, 0
	}
	start := max(now, l.freeAt)
	backlog := int(start.Sub(now).Seconds() * float64(l.bandwidth))
	if backlog > l.queue || rng.Float64() < l.loss || l.burstLoss(rng) {
		return at, 0
	}
	l.freeAt = start.Add(time.Duration(float64(n+linkOverhead) / float64(l.bandwidth) * 1e9))
	copies = 1
	if rng.Float64() < l.dup {
		copies = 2
	}
	for i := range copies {
		at[i] = l.freeAt.Add(l.delay)
		if l.jitter > 0 {
			at[i] = at[i].Add(time.Duration(rng.Int64N(int64(l.jitter))))
		}
		if l.reorder > 0 && rng.Float64() < l.reorder {
			at[i] = at[i].Add(l.reorderBy)
		}
	}
	return at, copies
}

// burstLoss is Gilbert's model: two states, and in one of them all is lost.
func (l *link) burstLoss(rng *rand.Rand) bool {
	switch {
	case l.inBurst:
		l.inBurst = rng.Float64() >= 1/l.burstLen
	case l.burst > 0:
		l.inBurst = rng.Float64() < l.burst
	}
	return l.inBurst
}

// corrupted sends a segment as bytes, flips one bit behind the link header, and parses it as the engine does. False: it was
// noticed.
func corrupted(rng *rand.Rand, s *wire.Segment, data []byte) (wire.Segment, []byte, bool) {
	p := wire.Packet{Link: make([]byte, 14)}
	p.Link[12] = 8 // IPv4
	p.Flow.Remote = netip.MustParseAddr("192.0.2.1").As16()
	p.Flow.Local = netip.MustParseAddr("192.0.2.2").As16()
	t := wire.NewTemplate(&p)
	h := t.HeaderLen(s)
	frame := make([]byte, h+len(data))
	copy(frame[h:], data)
	out := *s
	out.Payload = nil
	t.Marshal(frame, &out)
	frame[14+rng.IntN(len(frame)-14)] ^= 1 << rng.IntN(8)
	var got wire.Packet
	if wire.Parse(frame, &got) != nil || !got.ChecksumFull() || got.Flow.Local != p.Flow.Remote || got.Flow.Remote != p.Flow.Local {
		return wire.Segment{}, nil, false
	}
	return got.Segment, got.Segment.Payload, true
}
