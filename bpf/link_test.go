// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"slices"
	"testing"
)

// Ethernet and VLAN tags.
func TestLinkTable(t *testing.T) {
	p := load(t, options{shared: true})
	kind := func(v uint16) change { return setByte(12, byte(v>>8), byte(v)) }
	p.table(t, []row{
		{name: "a broadcast frame", edit: func(_ family, s *segment) { s.to = [6]byte{255, 255, 255, 255, 255, 255} }, want: PassOtherHost},
		{name: "a multicast frame", edit: func(_ family, s *segment) { s.to = [6]byte{1, 0, 0x5e, 0, 0, 1} }, want: PassOtherHost},
		{name: "our own frame come back", edit: func(_ family, s *segment) { s.to, s.from = s.from, s.to }, want: PassOtherHost},
		{name: "a MAC address that differs in its first byte", raw: setByte(0, 0), want: PassOtherHost},
		{name: "a MAC address that differs in its second byte", raw: setByte(1, 0), want: PassOtherHost},
		{name: "a MAC address that differs in its third byte", raw: setByte(2, 0), want: PassOtherHost},
		{name: "a MAC address that differs in its fourth byte", raw: setByte(3, 0), want: PassOtherHost},
		{name: "a MAC address that differs in its fifth byte", raw: setByte(4, 0), want: PassOtherHost},
		{name: "a MAC address that differs in its last byte", raw: setByte(5, 0), want: PassOtherHost},
		{name: "any sender's MAC address is answered", edit: func(_ family, s *segment) { s.from = [6]byte{0, 0x1b, 0x21, 9, 8, 7} }, want: TxSynAck},

		{name: "ARP", raw: kind(0x0806), want: PassNotTCP},
		{name: "LLDP", raw: kind(0x88cc), want: PassNotTCP},
		{name: "MPLS", raw: kind(0x8847), want: PassNotTCP},
		{name: "PPPoE", raw: kind(0x8864), want: PassNotTCP},
		{name: "a length instead of a type (802.3)", raw: kind(64), want: PassNotTCP},
		{name: "the type's bytes swapped", raw: func(_ family, b []byte) []byte { b[12], b[13] = b[13], b[12]; return b }, want: PassNotTCP},
		{name: "IPv4 that calls itself IPv6", only: "IPv4", raw: kind(typeIP6), want: PassNotTCP},
		{name: "IPv6 that calls itself IPv4", only: "IPv6", raw: kind(typeIP4), want: PassNotTCP},
		{name: "a tag of the time before 802.1ad", raw: func(_ family, b []byte) []byte { return slices.Insert(b, 12, 0x91, 0, 0, 5) }, want: PassNotTCP},
		{name: "three tags", raw: func(_ family, b []byte) []byte {
			return withTags(b, []tag{{typeQinQ, 1}, {typeVLAN, 2}, {typeVLAN, 3}})
		}, want: PassNotTCP},
		{name: "four tags", raw: func(_ family, b []byte) []byte {
			return withTags(b, []tag{{typeVLAN, 1}, {typeVLAN, 2}, {typeVLAN, 3}, {typeVLAN, 4}})
		}, want: PassNotTCP},

		{name: "a trailer is cut off", raw: func(_ family, b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6, 7) }, want: TxSynAck},
		{name: "a padded frame stays padded to 60 bytes", edit: func(_ family, s *segment) { s.options = nil }, raw: padTo60, want: TxSynAck, options: "mss"},
		{name: "a frame that Ethernet would have padded is not padded", edit: func(_ family, s *segment) { s.options = nil }, want: TxSynAck, options: "mss"},
	})
}

// Any one or two tags of either kind are answered, and come back in their order with all of their bits.
func TestTagsAreKept(t *testing.T) {
	p := load(t, options{shared: true})
	for _, tags := range [][]tag{
		{{typeVLAN, 0}},      // a priority tag without VLAN
		{{typeVLAN, 0xe000}}, // priority 7
		{{typeVLAN, 0x1000}}, // drop eligible
		{{typeVLAN, 0x0fff}},
		{{typeVLAN, 0xffff}},
		{{typeQinQ, 42}},
		{{typeVLAN, 1}, {typeVLAN, 2}},
		{{typeQinQ, 1}, {typeQinQ, 2}},
		{{typeVLAN, 1}, {typeQinQ, 2}},
		{{typeQinQ, 0xb123}, {typeVLAN, 0x5fed}},
		{{typeVLAN, 0x86dd}, {typeQinQ, 0x0800}}, // VLANs that look like types
	} {
		for _, f := range families {
			t.Run(fmt.Sprintf("%x %s", tags, f.name), func(t *testing.T) {
				s := f.syn(linuxOptions(1460, 7))
				s.tags = tags
				checkSynAck(t, f, s, p.with(t).expect(s.frame(), TxSynAck), linuxGets)
			})
		}
	}
}

// Cut short anywhere, a SYN goes to the kernel. Below 14 bytes the kernel's test run takes no frame.
func TestTruncated(t *testing.T) {
	p := load(t, options{shared: true})
	for _, f := range families {
		for _, tagging := range taggings {
			s := f.syn(linuxOptions(1460, 7))
			s.tags = tagging.tags
			whole := s.frame()
			for n := ethLen; n < len(whole); n++ {
				want := PassBadIP
				if n < ethLen+2*4 { // too short for anything
					want = PassNotTCP
				}
				t.Run(fmt.Sprintf("%s, %s, cut to %d bytes", f.name, tagging.name, n), func(t *testing.T) {
					p.with(t).expect(whole[:n:n], want)
				})
			}
		}
	}
}
