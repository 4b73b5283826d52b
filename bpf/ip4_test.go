// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"slices"
	"testing"
)

// IPv4 options (RFC 791, 3.1, and the registry of IP option numbers).
var (
	recordRoute  = []byte{7, 7, 4, 0, 0, 0, 0}
	ip4Timestamp = []byte{68, 8, 5, 0, 0, 0, 0, 0}
	routerAlert  = []byte{148, 4, 0, 0}
	security     = []byte{130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	looseRoute   = []byte{131, 7, 4, 203, 0, 113, 1}
	strictRoute  = []byte{137, 7, 4, 203, 0, 113, 1}
)

func TestIPv4Table(t *testing.T) {
	p := load(t, options{shared: true})
	with := func(options ...[]byte) func(family, *segment) {
		return func(_ family, s *segment) { s.ipOptions = slices.Concat(options...) }
	}
	fragment := func(field uint16) func(family, *segment) {
		return func(_ family, s *segment) { s.fragment = field }
	}
	rows := []row{
		{name: "UDP", raw: setIP(9, 17), want: PassNotTCP},
		{name: "an ICMP echo", raw: setIP(9, 1), want: PassNotTCP},
		{name: "GRE", raw: setIP(9, 47), want: PassNotTCP},
		{name: "SCTP", raw: setIP(9, 132), want: PassNotTCP},
		{name: "protocol 0", raw: setIP(9, 0), want: PassNotTCP},
		{name: "UDP in an IP header of four words", raw: func(f family, b []byte) []byte { return setIP(9, 17)(f, setIP(0, 0x44)(f, b)) }, want: PassNotTCP},

		{name: "the first fragment", edit: fragment(moreFragments), want: PassFragment},
		{name: "a later fragment", edit: fragment(moreFragments | 10), want: PassFragment},
		{name: "the last fragment", edit: fragment(0x1fff), want: PassFragment},
		{name: "the smallest offset", edit: fragment(1), want: PassFragment},
		{name: "a fragment that must not be fragmented", edit: fragment(dontFragment | moreFragments), want: PassFragment},
		{name: "a fragment with options", edit: func(_ family, s *segment) { s.fragment, s.ipOptions = 1, looseRoute }, want: PassFragment},
		{name: "a SYN that may be fragmented", edit: fragment(0), want: TxSynAck},
		{name: "the reserved bit of the fragment field", edit: fragment(0x8000), want: TxSynAck},

		{name: "an IP header of no words", raw: setIP(0, 0x40), want: PassBadIP},
		{name: "an IP header of four words", raw: setIP(0, 0x44), want: PassBadIP},
		{name: "an IP header that ends where TCP's does", raw: setIP(0, 0x4f), want: PassBadIP},
		{name: "an IP header with TCP's first word in it", raw: setIP(0, 0x46), want: PassNoService},
		{name: "IP version 6", raw: setIP(0, 0x65), want: PassBadIP},
		{name: "IP version 5", raw: setIP(0, 0x55), want: PassBadIP},
		{name: "IP version 0", raw: setIP(0, 0x05), want: PassBadIP},
		{name: "an IP checksum off by one", raw: func(_ family, b []byte) []byte { b[ethLen+11]++; return b }, want: PassBadIP},
		{name: "an IP checksum of zero", raw: func(_ family, b []byte) []byte { b[ethLen+10], b[ethLen+11] = 0, 0; return b }, want: PassBadIP},
		{name: "a damaged TTL", raw: func(_ family, b []byte) []byte { b[ethLen+8] ^= 1; return b }, want: PassBadIP},
		{name: "a total length beyond the frame", raw: setIP(2, 0, 61), want: PassBadIP},
		{name: "the greatest total length", raw: setIP(2, 255, 255), want: PassBadIP},
		{name: "a total length without room for TCP", raw: setIP(2, 0, 39), want: PassBadIP},
		{name: "a total length of zero", raw: setIP(2, 0, 0), want: PassBadIP},
		{name: "a total length of the IP header alone", raw: setIP(2, 0, 20), want: PassBadIP},
		{name: "a total length that cuts the TCP options", raw: setIP(2, 0, 40), want: DropBadTCP},
		{name: "a TTL of 1", edit: func(_ family, s *segment) { s.ttl = 1 }, want: TxSynAck},
		{name: "a TTL of 0", edit: func(_ family, s *segment) { s.ttl = 0 }, want: TxSynAck},
		{name: "traffic class and ECN", edit: func(_ family, s *segment) { s.tos = 0xff }, want: TxSynAck},

		{name: "NOPs", edit: with(bytes.Repeat(nop, 4)), want: TxSynAck},
		{name: "forty bytes of NOPs", edit: with(bytes.Repeat(nop, 40)), want: TxSynAck},
		{name: "END", edit: with(end), want: TxSynAck},
		{name: "record route", edit: with(recordRoute), want: TxSynAck},
		{name: "timestamp", edit: with(ip4Timestamp), want: TxSynAck},
		{name: "router alert", edit: with(routerAlert), want: TxSynAck},
		{name: "security", edit: with(security), want: TxSynAck},
		{name: "an unknown option", edit: with([]byte{222, 6, 1, 2, 3, 4}), want: TxSynAck},
		{name: "an option of two bytes", edit: with([]byte{222, 2}, nop, nop), want: TxSynAck},
		{name: "several options", edit: with(nop, recordRoute, ip4Timestamp, nop, routerAlert), want: TxSynAck},
		{name: "one option of forty bytes", edit: with([]byte{222, 40}, make([]byte, 38)), want: TxSynAck},
		{name: "a source route behind END", edit: with(nop, end, looseRoute), want: TxSynAck},
		{name: "a source route inside another option", edit: with([]byte{222, 9}, looseRoute), want: TxSynAck},
		{name: "options on a SYN without TCP options", edit: func(_ family, s *segment) { s.ipOptions, s.options = recordRoute, nil }, want: TxSynAck, options: "mss"},

		{name: "a loose source route", edit: with(looseRoute), want: PassIPOptions},
		{name: "a strict source route", edit: with(strictRoute), want: PassIPOptions},
		{name: "a source route that has been followed", edit: with([]byte{131, 7, 8, 203, 0, 113, 1}), want: PassIPOptions},
		{name: "an empty source route", edit: with([]byte{137, 3, 4}), want: PassIPOptions},
		{name: "a source route behind NOPs", edit: with(nop, nop, nop, looseRoute), want: PassIPOptions},
		{name: "a source route behind record route", edit: with(recordRoute, strictRoute), want: PassIPOptions},
		{name: "a source route as the last option of the most", edit: with(bytes.Repeat(nop, 33), looseRoute), want: PassIPOptions},
		{name: "a source route before a malformed option", edit: with(looseRoute, []byte{9, 0}), want: PassIPOptions},

		{name: "an option of length zero", edit: with([]byte{222, 0, 0, 0}), want: PassBadIP},
		{name: "an option of length one", edit: with([]byte{222, 1, 1, 1}), want: PassBadIP},
		{name: "an option one byte beyond the header", edit: with([]byte{222, 5, 1, 1}), want: PassBadIP},
		{name: "an option far beyond the header", edit: with([]byte{222, 255, 1, 1}), want: PassBadIP},
		{name: "an option without length at the end", edit: with(nop, nop, nop, []byte{222}), want: PassBadIP},
		{name: "the same at the end of the most", edit: with(bytes.Repeat(nop, 39), []byte{222}), want: PassBadIP},
		{name: "a source route of length one", edit: with([]byte{131, 1, 1, 1}), want: PassBadIP},
		{name: "a source route beyond the header", edit: with([]byte{131, 11, 4, 1, 1, 1, 1}), want: PassBadIP},
		{name: "a malformed option before a source route", edit: with([]byte{222, 0}, looseRoute), want: PassBadIP},
		{name: "a damaged option", edit: with(recordRoute), raw: func(_ family, b []byte) []byte { b[ethLen+25] ^= 1; return b }, want: PassBadIP},
		{name: "the last byte of the most options damaged", edit: with(bytes.Repeat(nop, 40)), raw: func(_ family, b []byte) []byte { b[ethLen+59] = 0; return b }, want: PassBadIP},
		{name: "options on a port of no service", edit: func(f family, s *segment) { s.ipOptions, s.dst = looseRoute, f.closed() }, want: PassNoService},
	}
	for i := range rows {
		rows[i].only = "IPv4"
	}
	p.table(t, rows)
}
