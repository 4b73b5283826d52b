// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"slices"
	"testing"
)

// ext is an extension header of so many units of 8 bytes, the bytes from the third on given.
func ext(kind byte, units int, body ...byte) extension {
	data := make([]byte, 8*units)
	data[1] = byte(units - 1)
	copy(data[2:], body)
	return extension{kind, data}
}

// Extension headers (RFC 8200, 4).
var (
	padN        = []byte{1, 4, 0, 0, 0, 0}
	hopByHop    = ext(0, 1, padN...)
	destination = ext(60, 1, padN...)
	arrived     = ext(43, 1, 0, 0) // a routing header, no segments left
	onItsWay    = ext(43, 1, 0, 1)
	fragmented  = ext(44, 1)
)

func TestIPv6Table(t *testing.T) {
	p := load(t, options{shared: true})
	with := func(e ...extension) func(family, *segment) {
		return func(_ family, s *segment) { s.extensions = e }
	}
	cut := func(n int) change { // to so many bytes of IPv6 packet
		return func(_ family, b []byte) []byte { return b[: ethLen+n : ethLen+n] }
	}
	// TCP starts at this offset behind the start of the IPv6 header.
	offset := func(n int) func(family, *segment) {
		return with(ext(60, 16), ext(60, (n-40-128)/8))
	}
	rows := []row{
		{name: "UDP", raw: setIP(6, 17), want: PassNotTCP},
		{name: "ICMPv6 that is no error", raw: setIP(6, 58), want: PassNotTCP},
		{name: "no next header", raw: setIP(6, 59), want: PassNotTCP},
		{name: "IPv4 in IPv6", raw: setIP(6, 4), want: PassNotTCP},
		{name: "an authentication header", edit: with(ext(51, 3)), want: PassNotTCP},
		{name: "an encrypted payload", edit: with(ext(50, 2)), want: PassNotTCP},
		{name: "mobility", edit: with(ext(135, 1)), want: PassNotTCP},
		{name: "host identity", edit: with(ext(139, 1)), want: PassNotTCP},
		{name: "an experimental header", edit: with(ext(253, 1)), want: PassNotTCP},

		{name: "IP version 4", raw: setIP(0, 0x45), want: PassBadIP},
		{name: "IP version 7", raw: setIP(0, 0x70), want: PassBadIP},
		{name: "a payload length beyond the frame", raw: setIP(4, 0, 41), want: PassBadIP},
		{name: "the greatest payload length", raw: setIP(4, 255, 255), want: PassBadIP},
		{name: "a payload length without room for TCP", raw: setIP(4, 0, 19), want: PassBadIP},
		{name: "a payload length of zero", raw: setIP(4, 0, 0), want: PassBadIP},
		{name: "a payload length that cuts the TCP options", raw: setIP(4, 0, 20), want: DropBadTCP},
		{name: "a hop limit of 1", edit: func(_ family, s *segment) { s.ttl = 1 }, want: TxSynAck},
		{name: "a hop limit of 0", edit: func(_ family, s *segment) { s.ttl = 0 }, want: TxSynAck},
		{name: "traffic class and ECN", edit: func(_ family, s *segment) { s.tos = 0xff }, want: TxSynAck},
		{name: "no flow label", edit: func(_ family, s *segment) { s.label = 0 }, want: TxSynAck},

		{name: "hop-by-hop options", edit: with(hopByHop), want: TxSynAck},
		{name: "destination options", edit: with(destination), want: TxSynAck},
		{name: "a routing header without segments left", edit: with(arrived), want: TxSynAck},
		{name: "a segment routing header, arrived", edit: with(ext(43, 3, 4, 0)), want: TxSynAck},
		{name: "all of them in the order of the RFC", edit: with(hopByHop, destination, arrived, destination), want: TxSynAck},
		{name: "in another order", edit: with(destination, arrived, hopByHop), want: TxSynAck},
		{name: "long destination options", edit: with(ext(60, 32)), want: TxSynAck},
		{name: "six headers", edit: with(slices.Repeat([]extension{destination}, 6)...), want: TxSynAck},
		{name: "extension headers on a SYN without TCP options", edit: func(_ family, s *segment) {
			s.extensions, s.options = []extension{hopByHop}, nil
		}, want: TxSynAck, options: "mss"},
		{name: "extension headers and data", edit: func(_ family, s *segment) {
			s.extensions, s.payload = []extension{hopByHop}, []byte("data")
		}, want: TxSynAck},
		{name: "a port of no service behind extension headers", edit: func(f family, s *segment) {
			s.extensions, s.dst = []extension{hopByHop}, f.closed()
		}, want: PassNoService},

		{name: "seven headers", edit: with(slices.Repeat([]extension{destination}, 7)...), want: PassNotTCP},
		{name: "twelve headers", edit: with(slices.Repeat([]extension{hopByHop}, 12)...), want: PassNotTCP},
		{name: "TCP at 504 bytes", edit: offset(504), want: TxSynAck},
		{name: "TCP at 512 bytes", edit: offset(512), want: PassNotTCP},
		{name: "TCP at 1024 bytes", edit: offset(1024), want: PassNotTCP},
		{name: "the longest header", edit: with(ext(60, 256)), want: PassNotTCP},

		{name: "a routing header with a segment left", edit: with(onItsWay), want: PassIPOptions},
		{name: "a segment routing header on its way", edit: with(ext(43, 3, 4, 1)), want: PassIPOptions},
		{name: "255 segments left", edit: with(ext(43, 1, 0, 255)), want: PassIPOptions},
		{name: "segments left behind destination options", edit: with(destination, onItsWay), want: PassIPOptions},
		{name: "the second routing header has segments left", edit: with(arrived, onItsWay), want: PassIPOptions},
		{name: "the seventh header has segments left", edit: with(append(slices.Repeat([]extension{destination}, 6), onItsWay)...), want: PassIPOptions},
		{name: "destination options that look like segments left", edit: with(ext(60, 1, 1, 4)), want: TxSynAck},

		{name: "a fragment header", edit: with(fragmented), want: PassFragment},
		{name: "an atomic fragment", edit: with(ext(44, 1, 0, 0, 1, 2, 3, 4)), want: PassFragment},
		{name: "a later fragment", edit: with(ext(44, 1, 0x10, 0)), want: PassFragment},
		{name: "a fragment header behind hop-by-hop options", edit: with(hopByHop, fragmented), want: PassFragment},
		{name: "a fragment header before a routing header", edit: with(fragmented, onItsWay), want: PassFragment},
		{name: "a fragment header behind a routing header on its way", edit: with(onItsWay, fragmented), want: PassIPOptions},
		{name: "a fragment header behind six", edit: with(append(slices.Repeat([]extension{destination}, 6), fragmented)...), want: PassFragment},

		{name: "UDP behind an extension header", edit: with(hopByHop), raw: setByte(ethLen+40, 17), want: PassNotTCP},
		{name: "an unknown header behind one that is known", edit: with(hopByHop, ext(51, 1)), want: PassNotTCP},
		{name: "nothing behind an extension header", edit: with(hopByHop), raw: setByte(ethLen+40, 59), want: PassNotTCP},
		{name: "cut before an extension header", edit: with(hopByHop), raw: cut(40), want: PassBadIP},
		{name: "cut inside an extension header's length", edit: with(hopByHop), raw: cut(43), want: PassBadIP},
		{name: "cut inside an extension header", edit: with(hopByHop), raw: cut(46), want: PassBadIP},
		{name: "cut behind an extension header", edit: with(hopByHop), raw: cut(48), want: PassBadIP},
		{name: "cut inside TCP behind an extension header", edit: with(hopByHop), raw: cut(67), want: PassBadIP},
		{name: "an extension header that is longer than the frame", edit: with(hopByHop), raw: setByte(ethLen+41, 12), want: PassBadIP},
		{name: "an extension header that swallows TCP", edit: with(hopByHop), raw: setByte(ethLen+41, 5), want: PassBadIP},
		{name: "an extension header that swallows TCP's first bytes", edit: with(hopByHop), raw: setByte(ethLen+41, 1), want: PassNoService},
		{name: "a payload length that ends in an extension header", edit: with(hopByHop), raw: setIP(4, 0, 7), want: PassBadIP},
		{name: "a payload length that forgets the extension header", edit: with(ext(60, 6)), raw: setIP(4, 0, 40), want: PassBadIP},
	}
	for i := range rows {
		rows[i].only = "IPv6"
	}
	p.table(t, rows)
}
