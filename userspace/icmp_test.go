// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// icmp is a router's error about the segment of p's connection that has the sequence number seq. rest are bytes 4 to 7
// of the ICMP header.
func (p *peer) icmp(icmpType, code byte, rest, seq uint32) []byte {
	local, remote := p.flow.LocalAddr(), p.flow.RemoteAddr()
	tcp := binary.BigEndian.AppendUint16(nil, local.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, remote.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, seq)
	body := binary.BigEndian.AppendUint32([]byte{icmpType, code, 0, 0}, rest)
	body = append(append(body, ipHeader(6, 1500, local.Addr(), remote.Addr())...), tcp...)

	router, proto, sum := netip.MustParseAddr("203.0.113.9"), byte(1), uint16(0)
	etherType := []byte{8, 0}
	if !p.flow.IsIPv4() {
		router, proto, etherType = netip.MustParseAddr("2001:db8:ffff::9"), 58, []byte{0x86, 0xdd}
		sum = wire.Sum([]byte{0, byte(len(body)), 0, 58}, wire.Sum(router.AsSlice(), wire.Sum(local.Addr().AsSlice(), 0)))
	}
	binary.BigEndian.PutUint16(body[2:], ^wire.Sum(body, sum))
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9}, etherType...)
	return append(append(frame, ipHeader(proto, len(body), router, local.Addr())...), body...)
}

// ipHeader is the header in front of n bytes of a protocol.
func ipHeader(proto byte, n int, from, to netip.Addr) []byte {
	h := []byte{0x45, 0, byte((n + 20) >> 8), byte(n + 20), 0, 0, 0, 0, 64, proto, 0, 0}
	if from.Is6() {
		h = []byte{0x60, 0, 0, 0, byte(n >> 8), byte(n), proto, 64}
	}
	return append(append(h, from.AsSlice()...), to.AsSlice()...)
}

// flight opens a connection and has the engine send n bytes, which nobody acknowledges. It gives their segments' lengths.
func (p *peer) flight(n int) (c *Conn, segments []int) {
	p.t.Helper()
	c = p.connect().(*Conn)
	if _, err := c.Write(make([]byte, n)); err != nil {
		p.t.Fatal(err)
	}
	return c, p.segments(n)
}

// segments are the lengths of the segments that bring the next n bytes.
func (p *peer) segments(n int) (list []int) {
	p.t.Helper()
	for sum := 0; sum < n; {
		s := p.link.next(p.t)
		sum += s.Segment.PayloadLen
		list = append(list, s.Segment.PayloadLen)
	}
	return list
}

// newPeer6 is newPeer over IPv6.
func newPeer6(t *testing.T) *peer {
	p := newPeer(t, 0)
	var err error
	if p.listener, err = p.engine.Listen(netip.MustParseAddrPort("[2001:db8::1]:80")); err != nil {
		t.Fatal(err)
	}
	p.client = netip.MustParseAddr("2001:db8::2")
	p.from(40000)
	return p
}

func TestAPacketTooBigIsSentAgainInPiecesThatFit(t *testing.T) {
	for _, tt := range []struct {
		name        string
		peer        func(*testing.T) *peer
		first, then int // MSS before and after
		icmp        [2]byte
		mtu         uint32
	}{
		{"IPv4", func(t *testing.T) *peer { return newPeer(t, 0) }, 1460, 1360, [2]byte{3, 4}, 1400},
		{"IPv4, the smallest MTU", func(t *testing.T) *peer { return newPeer(t, 0) }, 1460, 512, [2]byte{3, 4}, 552},
		{"IPv6", newPeer6, 1440, 1340, [2]byte{2, 0}, 1400},
		{"IPv6, the smallest MTU", newPeer6, 1440, 1220, [2]byte{2, 0}, 1280},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.peer(t)
			c, segments := p.flight(3000)
			if segments[0] != tt.first {
				t.Fatalf("segments of %v bytes, want %d", segments, tt.first)
			}
			p.link.deliver(p.icmp(tt.icmp[0], tt.icmp[1], tt.mtu, peerISS+1), nil)
			p.link.deliver(p.icmp(tt.icmp[0], tt.icmp[1], tt.mtu, peerISS+1+uint32(tt.first)), nil)
			if segments = p.segments(3000); segments[0] != tt.then || len(segments) != (3000+tt.then-1)/tt.then {
				t.Errorf("sent again in segments of %v bytes, want %d", segments, tt.then)
			}
			p.link.quiet(t) // the second error was no news
			p.stats("too big", func(s Stats) uint64 { return s.ICMPTooBig }, 2)
			p.stats("retransmits", func(s Stats) uint64 { return s.Retransmits }, uint64(len(segments)))
			if got := c.Info().MSS; got != tt.then {
				t.Errorf("MSS %d", got)
			}
		})
	}
}

func TestAnICMPErrorThatIsNoRealOneChangesNothing(t *testing.T) {
	v4 := func(t *testing.T) *peer { return newPeer(t, 0) }
	corrupt := func(frame []byte) []byte { frame[len(frame)-1] ^= 1; return frame }
	for _, tt := range []struct {
		name  string
		peer  func(*testing.T) *peer
		frame func(p *peer) []byte
		count func(Stats) uint64
	}{
		{"about what was acknowledged", v4, func(p *peer) []byte { return p.icmp(3, 4, 1400, peerISS) }, func(s Stats) uint64 { return s.ICMPBadSequence }},
		{"about what was not sent yet", v4, func(p *peer) []byte { return p.icmp(3, 4, 1400, peerISS+3001) }, func(s Stats) uint64 { return s.ICMPBadSequence }},
		{"of another connection", v4, func(p *peer) []byte { p.flow.RemotePort++; return p.icmp(3, 4, 1400, peerISS+1) },
			func(s Stats) uint64 { return s.ICMPNoConnection }},
		{"with a bad checksum", v4, func(p *peer) []byte { return corrupt(p.icmp(3, 4, 1400, peerISS+1)) }, func(s Stats) uint64 { return s.ICMPBadChecksum }},
		{"with a bad ICMPv6 checksum", newPeer6, func(p *peer) []byte { return corrupt(p.icmp(2, 0, 1400, peerISS+1)) },
			func(s Stats) uint64 { return s.ICMPBadChecksum }},
		{"with an MTU below 552", v4, func(p *peer) []byte { return p.icmp(3, 4, 551, peerISS+1) }, func(s Stats) uint64 { return s.ICMPBadMTU }},
		{"with an MTU of 0, as before RFC 1191", v4, func(p *peer) []byte { return p.icmp(3, 4, 0, peerISS+1) }, func(s Stats) uint64 { return s.ICMPBadMTU }},
		{"with an MTU below 1280 for IPv6", newPeer6, func(p *peer) []byte { return p.icmp(2, 0, 1279, peerISS+1) },
			func(s Stats) uint64 { return s.ICMPBadMTU }},
		{"with an MTU that is not lower", v4, func(p *peer) []byte { return p.icmp(3, 4, 1500, peerISS+1) }, func(s Stats) uint64 { return s.ICMPTooBig }},
		{"with an MTU beyond reason", newPeer6, func(p *peer) []byte { return p.icmp(2, 0, 0xffffffff, peerISS+1) }, func(s Stats) uint64 { return s.ICMPTooBig }},
		{"that is an echo request", v4, func(p *peer) []byte { return p.icmp(8, 0, 0, peerISS+1) }, func(s Stats) uint64 { return s.BadFrames }},
		{"cut short", v4, func(p *peer) []byte { return p.icmp(3, 4, 1400, peerISS+1)[:50] }, func(s Stats) uint64 { return s.BadFrames }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.peer(t)
			c, segments := p.flight(3000)
			p.link.deliver(tt.frame(p), nil)
			p.stats("counted", tt.count, 1)
			p.link.quiet(t)
			if i := c.Info(); i.MSS != segments[0] || i.SoftErrors != 0 || i.State != tcp.StateEstablished {
				t.Errorf("%+v", i)
			}
		})
	}
}

func TestNoICMPErrorEndsAConnection(t *testing.T) {
	for _, tt := range []struct {
		name  string
		peer  func(*testing.T) *peer
		types [][2]byte
		kind  wire.ICMPKind
		count func(Stats) uint64
	}{
		{"unreachable, hard and soft", func(t *testing.T) *peer { return newPeer(t, 0) }, [][2]byte{{3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 5}, {3, 13}},
			wire.ICMPUnreachable, func(s Stats) uint64 { return s.ICMPUnreachable }},
		{"time exceeded", func(t *testing.T) *peer { return newPeer(t, 0) }, [][2]byte{{11, 0}, {11, 1}},
			wire.ICMPTimeExceeded, func(s Stats) uint64 { return s.ICMPTimeExceeded }},
		{"parameter problem", func(t *testing.T) *peer { return newPeer(t, 0) }, [][2]byte{{12, 0}},
			wire.ICMPParameterProblem, func(s Stats) uint64 { return s.ICMPParameterProblem }},
		{"ICMPv6 unreachable", newPeer6, [][2]byte{{1, 0}, {1, 1}, {1, 4}}, wire.ICMPUnreachable, func(s Stats) uint64 { return s.ICMPUnreachable }},
		{"ICMPv6 time exceeded", newPeer6, [][2]byte{{3, 0}}, wire.ICMPTimeExceeded, func(s Stats) uint64 { return s.ICMPTimeExceeded }},
		{"ICMPv6 parameter problem", newPeer6, [][2]byte{{4, 1}}, wire.ICMPParameterProblem, func(s Stats) uint64 { return s.ICMPParameterProblem }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.peer(t)
			c, segments := p.flight(3000)
			for _, typeAndCode := range tt.types {
				p.link.deliver(p.icmp(typeAndCode[0], typeAndCode[1], 0, peerISS+1), nil)
			}
			p.stats("counted", tt.count, uint64(len(tt.types)))
			p.link.quiet(t)
			i := c.Info()
			if i.State != tcp.StateEstablished || i.MSS != segments[0] {
				t.Errorf("%+v", i)
			}
			if i.SoftErrors != uint64(len(tt.types)) || i.SoftError != tt.kind {
				t.Errorf("%d soft errors, the last of kind %d", i.SoftErrors, i.SoftError)
			}
		})
	}
}

func TestAnICMPErrorOnAnotherQueueReachesItsConnection(t *testing.T) {
	second := newMemLink()
	p := newPeer(t, 0, second)
	p.flight(3000)
	second.deliver(p.icmp(3, 4, 1400, peerISS+1), nil)
	if segments := p.segments(3000); segments[0] != 1360 {
		t.Errorf("sent again in segments of %v bytes", segments)
	}
	p.stats("too big", func(s Stats) uint64 { return s.ICMPTooBig }, 1)
	p.stats("strays", func(s Stats) uint64 { return s.Strays }, 1)

	p.flow.RemotePort++
	second.deliver(p.icmp(3, 4, 1300, peerISS+1), nil)
	p.stats("no connection", func(s Stats) uint64 { return s.ICMPNoConnection }, 1)
	if n := p.engine.owners.claims(); n != 1 {
		t.Errorf("%d flows have an owner: an error about a flow must not claim it", n)
	}
}

func TestAnICMPErrorAboutAConnectionThatIsOverIsRefused(t *testing.T) {
	p := newPeer(t, 0)
	c, _ := p.flight(3000)
	c.abort()
	p.link.next(t) // its RST
	p.link.deliver(p.icmp(3, 4, 1400, peerISS+1), nil)
	p.stats("bad sequence", func(s Stats) uint64 { return s.ICMPBadSequence }, 1)
	p.link.quiet(t)
}
