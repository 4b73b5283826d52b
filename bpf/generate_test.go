// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// A generator draws frames that know the structure of what they break: random bytes alone would never get
// behind the first header.
type generator struct{ *rand.Rand }

// one draws one of several.
func one[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

// once in n times
func (g generator) once(n int) bool { return g.IntN(n) == 0 }

func (g generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// dress gives a segment what may be around it and in it without changing what it is.
func (g generator) dress(s segment) segment {
	s.tos, s.ttl, s.label = byte(g.Uint32()), byte(g.Uint32()), g.Uint32N(1<<20)
	if g.once(2) {
		s.tos &^= 3 // no ECN: what a SYN that sets it up says
	}
	s.id = one[uint16](g, typeVLAN, typeQinQ, uint16(g.Uint32())) // which may look like a tag
	s.window = uint16(g.Uint32())
	s.fragment = one[uint16](g, 0, dontFragment)
	for range one(g, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3) {
		s.tags = append(s.tags, tag{one[uint16](g, typeVLAN, typeVLAN, typeQinQ), uint16(g.Uint32())})
	}
	if g.once(3) {
		s.ipOptions = g.options(ip4OptionPieces)
	}
	if g.once(3) {
		s.extensions = g.extensions()
	}
	if g.once(4) {
		s.payload = g.bytes(g.IntN(40))
	}
	return s
}

// Options to draw from, and what only looks like some.
var (
	ip4OptionPieces = [][]byte{
		{1}, {1}, {7, 7, 4, 0, 0, 0, 0}, {68, 8, 5, 0, 1, 2, 3, 4}, {148, 4, 0, 0}, {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		{131, 7, 4, 10, 0, 0, 1}, {137, 7, 4, 10, 0, 0, 1}, {222, 2}, {99, 3, 7}, {0}, {5, 0}, {5, 1}, {5, 41}, {7},
	}
	tcpOptionPieces = [][]byte{
		{1}, {1}, {1, 1}, {2, 4, 5, 0xb4}, {2, 4, 0, 0}, {2, 4, 0xff, 0xff}, {3, 3, 7}, {3, 3, 0}, {3, 3, 15}, {4, 2},
		{8, 10, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0}, {5, 10, 1, 2, 3, 4, 5, 6, 7, 8}, {30, 4, 0, 1}, {254, 6, 0xe2, 0xd4, 0xc3, 0xd9},
		{34, 10, 1, 2, 3, 4, 5, 6, 7, 8}, {19, 18, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 3, 9}, {3, 4, 7, 7},
		{8, 9, 1, 2, 3, 4, 5, 6, 7}, {4, 3, 0}, {0}, {3, 0}, {8, 1}, {9, 200}, {3},
	}
)

func (g generator) options(pieces [][]byte) (b []byte) {
	for range g.IntN(8) {
		b = append(b, one(g, pieces...)...)
	}
	return b[:min(len(b), 40)]
}

func (g generator) extensions() (e []extension) {
	for range one(g, 1, 1, 1, 2, 3, 5, 6, 6, 7, 8) {
		kind := one[byte](g, 0, 60, 60, 43, 43, 0)
		if g.once(20) {
			kind = one[byte](g, 44, 50, 51, 135, 58, 6, 59)
		}
		units := one(g, 1, 1, 1, 2, 4, 1+g.IntN(60))
		data := g.bytes(8 * units)
		data[1] = byte(units - 1)
		if !g.once(10) {
			data[3] = 0 // segments left
		}
		e = append(e, extension{kind, data})
	}
	return e
}

// syn draws a SYN that is well, of a client that may be new.
func (g generator) syn() segment {
	f := one(g, families...)
	mss, scale := uint16(g.Uint32N(9200)), byte(g.Uint32N(18))
	o := one(g, linuxOptions(mss, scale), windowsOptions(mss, scale), macOptions(mss, scale), optMSS(uint16(g.Uint32())), nil)
	switch g.IntN(6) {
	case 0, 1:
		o = g.options(tcpOptionPieces)
	case 2: // behind a layout that is read in one glance
		o = slices.Concat(o, g.options(tcpOptionPieces))
		o = o[:min(len(o), 40)]
	}
	s := f.syn(o)
	if g.once(3) {
		s.flags |= one[byte](g, ece|cwr, ece|cwr, ece, cwr)
	}
	s.seq = g.Uint32()
	s.src = netip.AddrPortFrom(one(g, f.client.Addr(), f.established.Addr(), randomAddr(g.Rand, f.client.Addr())), uint16(g.Uint32()))
	if g.once(6) {
		s.dst = f.other
	}
	return s
}

// final draws the ACK of a handshake that the program has not seen begin; its cookie is still to be put in.
func (g generator) final() segment {
	s := g.syn()
	s.flags, s.options = ack, nil
	if g.once(2) {
		s.options = slices.Concat(nop, nop, optTS(g.Uint32(), g.Uint32()))
	}
	return s
}

// follow draws what a client may send when there is a flow.
func (g generator) follow(f flow, h Handshake) segment {
	s := segment{to: serverMAC, from: clientMAC, src: f.remote, dst: f.local}
	s.seq, s.ack = h.Irs+1+one(g, 0, 0, g.Uint32N(1<<16)), h.Iss+1+one(g, 0, 0, 1, g.Uint32N(1<<16))
	s.flags = one[byte](g, ack, ack, ack|psh, ack|fin, rst, rst|ack, syn, syn|ack, fin, 0, byte(g.Uint32()))
	s.options = slices.Concat(nop, nop, optTS(g.Uint32(), g.Uint32()))
	return s
}

// quote draws an ICMP error, or what is nearly one, about a segment that we sent.
func (g generator) quote(f flow) []byte {
	sent := segment{src: f.local, dst: f.remote, ttl: 60, seq: g.Uint32(), flags: ack, payload: g.bytes(g.IntN(64))}
	if g.once(4) {
		sent.src, sent.dst = sent.dst, sent.src
	}
	if g.once(4) {
		sent.ipOptions = g.options(ip4OptionPieces)
	}
	outer := g.dress(segment{to: serverMAC, from: clientMAC, src: f.remote, dst: f.local, seq: 1})
	b, at, _ := sent.build()
	quoted := b[at:]
	if g.once(3) {
		quoted = quoted[:g.IntN(len(quoted))]
	}
	kind, proto, field := one[byte](g, 3, 3, 11, 12, byte(g.Uint32N(16))), byte(1), 9
	if f.local.Addr().Is6() {
		kind, proto, field = one[byte](g, 1, 2, 3, 4, byte(g.Uint32N(8))), 58, 6
		outer.extensions = nil
	}
	icmp := append([]byte{kind, byte(g.IntN(16)), 0, 0, 0, 0, 5, 0}, quoted...)
	frame, at, header := outer.build()
	ip := frame[at:header:header]
	ip[field] = proto
	if proto == 1 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(icmp)))
		setIP4Checksum(ip)
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(icmp)))
	}
	return append(frame[:header:header], icmp...)
}

// damage changes a frame somewhere, mostly in its headers.
func (g generator) damage(b []byte) []byte {
	for range one(g, 1, 1, 1, 2, 3) {
		at := g.IntN(min(len(b), one(g, 14, 40, 80, 200, len(b))))
		switch g.IntN(8) {
		case 0, 1:
			b[at] ^= 1 << g.IntN(8)
		case 2:
			b[at] = one[byte](g, 0, 1, 4, 5, 6, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xff, b[at]+1, b[at]-1)
		case 3:
			b = b[:max(ethLen, g.IntN(len(b)+1))]
		case 4:
			b = append(b, g.bytes(g.IntN(64))...)
		case 5: // bytes are lost in the middle, or said twice
			n := min(one(g, 1, 2, 4, 8, 20), len(b)-at)
			if g.once(2) && len(b)-n >= ethLen {
				b = slices.Delete(b, at, at+n)
			} else {
				b = slices.Insert(b, at, slices.Clone(b[at:at+n])...)
			}
		case 6: // a halfword that is a length or a checksum, most likely
			at = min(at, len(b)-2)
			binary.BigEndian.PutUint16(b[at:], be16(b[at:])+one[uint16](g, 1, 0xffff, 4, 0xfffc, 20, uint16(g.Uint32())))
		case 7:
			copy(b[at:], g.bytes(1+g.IntN(8)))
		}
	}
	return b
}

// spoil changes a segment in what a final ACK or a SYN is judged by.
func (g generator) spoil(s segment) segment {
	switch g.IntN(9) {
	case 0:
		s.seq += one(g, 1, 0xffffffff, g.Uint32())
	case 1:
		s.ack += one(g, 1, 0xffffffff, g.Uint32())
	case 2:
		s.ack = (s.ack - 1) ^ 1<<g.IntN(32) + 1
	case 3:
		s.flags = byte(g.Uint32())
	case 4:
		s.options = g.options(tcpOptionPieces)
	case 5:
		s.options = slices.Clone(s.options)
		if len(s.options) >= 12 {
			binary.BigEndian.PutUint32(s.options[8:], be32(s.options[8:])+one(g, 1, 0xffffffff, 1000, 1<<16, 0xffff0000, 0xffff0001, g.Uint32()))
		}
	case 6:
		s.src = one(g, s.dst, netip.AddrPortFrom(s.dst.Addr(), s.src.Port()), netip.AddrPortFrom(s.dst.Addr().Next(), s.src.Port()), netip.AddrPortFrom(g.source(s.src.Addr()), s.src.Port()))
	case 7:
		s.dst = one(g, netip.AddrPortFrom(s.dst.Addr().Next(), s.dst.Port()), netip.AddrPortFrom(s.dst.Addr(), one[uint16](g, 443, 8443, 80)),
			netip.AddrPortFrom(randomAddr(g.Rand, s.dst.Addr()), s.dst.Port()))
	case 8:
		s.to = one(g, clientMAC, [6]byte{255, 255, 255, 255, 255, 255}, serverMAC)
		s.fragment = uint16(g.Uint32())
	}
	return s
}

// source draws an address that may be none to answer.
func (g generator) source(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.AddrFrom4([4]byte{one[byte](g, 0, 1, 126, 127, 128, 223, 224, 239, 240, 255), one[byte](g, 0, 255), 0, byte(g.IntN(3))})
	}
	return netip.MustParseAddr(one(g, "::", "::1", "::2", "::ffff:192.0.2.1", "::fffe:192.0.2.1", "0:0:0:1:0:ffff::1", "ff02::1", "feff::1", "fe80::1", "fc00::1"))
}
