// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

var (
	plainLink = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00}
	v4Flow    = makeFlow("192.0.2.7", "198.51.100.1", 40000, 443)
	v6Flow    = makeFlow("2001:db8::7", "2001:db8:1::1", 40000, 443)
)

func makeFlow(remote, local string, rport, lport uint16) Flow {
	return Flow{netip.MustParseAddr(remote).As16(), netip.MustParseAddr(local).As16(), rport, lport}
}

// linkFor gives a link header with the given tags in front of f's EtherType.
func linkFor(f Flow, tags ...uint16) []byte {
	link := bytes.Clone(plainLink[:12])
	for i, tag := range tags {
		tpid := uint16(etherVLAN)
		if len(tags) == 2 && i == 0 {
			tpid = etherQinQ
		}
		link = binary.BigEndian.AppendUint16(link, tpid)
		link = binary.BigEndian.AppendUint16(link, tag)
	}
	if f.IsIPv4() {
		return binary.BigEndian.AppendUint16(link, etherIPv4)
	}
	return binary.BigEndian.AppendUint16(link, etherIPv6)
}

// build makes a frame as the client of f would send it.
func build(f Flow, s Segment, payload []byte, tags ...uint16) []byte {
	reverse := Flow{f.Local, f.Remote, f.LocalPort, f.RemotePort}
	t := NewTemplate(&Packet{Link: linkFor(f, tags...), Flow: reverse})
	s.PayloadLen = len(payload)
	h := t.HeaderLen(&s)
	frame := make([]byte, h+len(payload))
	copy(frame[h:], payload)
	if n := t.Marshal(frame, &s); n != len(frame) {
		panic("Marshal and HeaderLen disagree")
	}
	return frame
}

func dataSegment() Segment {
	return Segment{Seq: 1, Ack: 2, Flags: ACK | PSH, Window: 501, WScale: -1, Timestamps: true, TSVal: 11, TSEcr: 22}
}
