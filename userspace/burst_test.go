// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// cuttingLink is a memLink whose kernel cuts bursts: into the frames that a kernel makes of them (Linux's tcp_gso_segment).
type cuttingLink struct {
	*memLink
	buf     [afxdp.MaxBurst]byte
	bursts  int
	refusal error // nil: it cuts them
}

func (l *cuttingLink) Burst() []byte { return l.buf[:] }

func (l *cuttingLink) TransmitBurst(b afxdp.Burst, segments int) error {
	if l.refusal != nil {
		return l.refusal
	}
	l.bursts++
	// The headers alone, and the length of all of it, make a valid packet once it is summed; so parse a copy.
	whole := append([]byte(nil), l.buf[:b.Len]...)
	var p wire.Packet
	if err := wire.Parse(whole, &p); err != nil {
		return err
	}
	if p.Checksum() != wire.ChecksumPartial || len(p.Segment.Payload) != b.Len-b.Headers {
		return unix.EINVAL
	}
	back := wire.Packet{Link: append(append(append([]byte(nil), whole[6:12]...), whole[:6]...), whole[12:14]...)}
	back.Flow = wire.Flow{Remote: p.Flow.Local, Local: p.Flow.Remote, RemotePort: p.Flow.LocalPort, LocalPort: p.Flow.RemotePort}
	t := wire.NewTemplate(&back)
	seg, payload := p.Segment, p.Segment.Payload
	for n := 0; len(payload) > 0; n++ {
		seg.PayloadLen = min(b.MSS, len(payload))
		seg.Flags = p.Segment.Flags
		if seg.PayloadLen < len(payload) {
			seg.Flags &^= wire.PSH
		}
		frame := make([]byte, 1514)
		copy(frame[t.HeaderLen(&seg):], payload[:seg.PayloadLen])
		l.sent <- frame[:t.Marshal(frame, &seg)]
		seg.Seq += uint32(seg.PayloadLen)
		payload = payload[seg.PayloadLen:]
		segments--
	}
	if segments != 0 {
		return unix.EINVAL
	}
	return nil
}

func TestBulkGoesOutInBurstsThatArriveAsSegments(t *testing.T) {
	for _, row := range []struct {
		name    string
		client  string
		size    int
		refusal error
		bursts  int
	}{
		{"IPv4", "192.0.2.2", 10 * 1460, nil, 1},
		{"IPv6", "2001:db8::2", 10 * 1440, nil, 1},
		{"a last segment that is not full goes along", "192.0.2.2", 9*1460 + 7, nil, 1},
		{"too little for a burst", "192.0.2.2", 3 * 1460, nil, 0},
		{"no room now: segment by segment", "192.0.2.2", 10 * 1460, unix.EAGAIN, 0},
		{"a kernel that can't: segment by segment", "192.0.2.2", 10 * 1460, unix.EINVAL, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPeer(t, 0)
			l := &cuttingLink{memLink: p.link, refusal: row.refusal}
			s := p.engine.shards[0]
			s.mu.Lock()
			s.burst.link = l
			s.mu.Unlock()
			p.client = netip.MustParseAddr(row.client)
			if p.client.Is6() {
				var err error
				if p.listener, err = p.engine.Listen(netip.MustParseAddrPort("[2001:db8::1]:80")); err != nil {
					t.Fatal(err)
				}
			}
			p.from(40000)
			c := p.connect()
			data := make([]byte, row.size)
			for i := range data {
				data[i] = byte(i * i >> 8)
			}
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			var got []byte
			for len(got) < len(data) {
				g := p.link.next(t)
				last := len(got)+len(g.Segment.Payload) == len(data)
				if g.Segment.Seq != peerISS+1+uint32(len(got)) || g.Segment.Flags.Has(wire.PSH) != last {
					t.Fatalf("after %d bytes: seq %d, flags %v", len(got), g.Segment.Seq, g.Segment.Flags)
				}
				got = append(got, g.Segment.Payload...)
			}
			if !bytes.Equal(got, data) {
				t.Error("the bytes are not those that were written")
			}
			p.link.quiet(t)
			if l.bursts != row.bursts {
				t.Errorf("%d bursts, want %d", l.bursts, row.bursts)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if gaveUp := s.burst.link == nil; gaveUp != (row.refusal == unix.EINVAL) {
				t.Errorf("the engine has given bursts up: %v", gaveUp)
			}
		})
	}
}
