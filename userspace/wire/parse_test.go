// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	const ip4 = etherHeaderLen
	const ip6 = etherHeaderLen
	payload := []byte("hello")
	edit4 := func(f func(b []byte) []byte) []byte { return f(build(v4Flow, dataSegment(), payload)) }
	edit6 := func(f func(b []byte) []byte) []byte { return f(build(v6Flow, dataSegment(), payload)) }
	// extend puts extension headers between IPv6 and TCP.
	extend := func(first byte, ext ...byte) []byte {
		return edit6(func(b []byte) []byte {
			out := append(bytes.Clone(b[:ip6+40]), ext...)
			out = append(out, b[ip6+40:]...)
			out[ip6+6] = first
			binary.BigEndian.PutUint16(out[ip6+4:], uint16(len(out)-ip6-40))
			return out
		})
	}
	tests := []struct {
		name  string
		frame []byte
		want  error
	}{
		{"IPv4 is read", build(v4Flow, dataSegment(), payload), nil},
		{"IPv6 is read", build(v6Flow, dataSegment(), payload), nil},
		{"one VLAN tag is skipped", build(v4Flow, dataSegment(), payload, 7), nil},
		{"two VLAN tags are skipped", build(v6Flow, dataSegment(), payload, 7, 8), nil},
		{"padding behind the IP packet is not payload", append(build(v4Flow, dataSegment(), payload), 0, 0, 0, 0), nil},
		{"a trailer behind the IPv6 packet is not payload", append(build(v6Flow, dataSegment(), payload), 1, 2, 3), nil},
		{"IPv4 options are skipped", edit4(func(b []byte) []byte {
			out := append(bytes.Clone(b[:ip4+20]), 1, 1, 1, 0)
			out = append(out, b[ip4+20:]...)
			out[ip4] = 0x46
			binary.BigEndian.PutUint16(out[ip4+2:], uint16(len(out)-ip4))
			return out
		}), nil},
		{"hop-by-hop options are skipped", extend(0, 6, 0, 1, 4, 0, 0, 0, 0), nil},
		{"hop-by-hop, then destination options are skipped", extend(0, 60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0), nil},
		{"a routing header that is used up is skipped", extend(43, 6, 0, 4, 0, 0, 0, 0, 0), nil},
		{"a routing header with segments left is refused", extend(43, 6, 0, 4, 1, 0, 0, 0, 0), ErrExtension},
		{"an extension header longer than the packet is refused", extend(0, 6, 200, 1, 4, 0, 0, 0, 0), ErrIPLength},
		{"an endless chain of extension headers is refused", extend(60, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 9)...), ErrExtension},
		{"an IPv6 fragment is refused", extend(44, 6, 0, 0, 1, 0, 0, 0, 0), ErrFragment},
		{"an IPv4 first fragment is refused", edit4(func(b []byte) []byte { b[ip4+6] = 0x20; return b }), ErrFragment},
		{"an IPv4 later fragment is refused", edit4(func(b []byte) []byte { b[ip4+7] = 1; return b }), ErrFragment},
		{"an empty frame is truncated", nil, ErrTruncated},
		{"a link header alone is truncated", plainLink, ErrTruncated},
		{"half a VLAN tag is truncated", build(v4Flow, dataSegment(), payload, 7)[:16], ErrTruncated},
		{"ARP is not ours", edit4(func(b []byte) []byte { b[13] = 6; return b }), ErrLinkType},
		{"a third VLAN tag is not ours", edit4(func(b []byte) []byte {
			tags := []byte{0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3}
			return append(append(bytes.Clone(b[:12]), tags...), b[12:]...)
		}), ErrLinkType},
		{"UDP is not TCP", edit4(func(b []byte) []byte { b[ip4+9] = 17; return b }), ErrNotTCP},
		{"UDP over IPv6 is not TCP", edit6(func(b []byte) []byte { b[ip6+6] = 17; return b }), ErrNotTCP},
		{"version 5 behind IPv4's EtherType is refused", edit4(func(b []byte) []byte { b[ip4] = 0x55; return b }), ErrVersion},
		{"an IPv4 header of 16 bytes is refused", edit4(func(b []byte) []byte { b[ip4] = 0x44; return b }), ErrIPLength},
		{"an IPv4 length beyond the frame is refused", edit4(func(b []byte) []byte { b[ip4+2] = 5; return b }), ErrIPLength},
		{"an IPv6 length beyond the frame is refused", edit6(func(b []byte) []byte { b[ip6+4] = 5; return b }), ErrIPLength},
		{"an IP length inside the TCP header is truncated", edit4(func(b []byte) []byte { b[ip4+3] = 30; return b }), ErrTruncated},
		{"a data offset of 16 is refused", edit4(func(b []byte) []byte { b[ip4+20+12] = 0x40; return b }), ErrTCPLength},
		{"a data offset beyond the packet is refused", edit4(func(b []byte) []byte { b[ip4+20+12] = 0xf0; return b }), ErrTCPLength},
		{"a mapped address on the IPv6 wire is refused", edit6(func(b []byte) []byte {
			copy(b[ip6+24:], v4Flow.Local[:])
			return b
		}), ErrLinkType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p Packet
			if err := Parse(tt.frame, &p); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want != nil {
				return
			}
			if got := string(p.Segment.Payload); got != "hello" || p.Segment.PayloadLen != 5 {
				t.Errorf("payload %q", got)
			}
			if p.Flow != v4Flow && p.Flow != v6Flow {
				t.Errorf("flow %v", p.Flow)
			}
			if p.Segment.TSVal != 11 || p.Segment.TSEcr != 22 || p.Segment.Flags != ACK|PSH || p.Segment.Window != 501 {
				t.Errorf("segment %+v", p.Segment)
			}
			if got := p.Checksum(); got != ChecksumValid {
				t.Errorf("checksum %v", got)
			}
		})
	}
}

func TestParseReadsTheECNBits(t *testing.T) {
	b4, b6 := build(v4Flow, dataSegment(), nil), build(v6Flow, dataSegment(), nil)
	b4[etherHeaderLen+1] = 0xb8 | 3
	b6[etherHeaderLen+1] = 2 << 4
	for _, tt := range []struct {
		frame []byte
		want  ECN
	}{{b4, CE}, {b6, ECT0}} {
		var p Packet
		if err := Parse(tt.frame, &p); err != nil || p.Segment.ECN != tt.want {
			t.Errorf("ECN %d (%v), want %d", p.Segment.ECN, err, tt.want)
		}
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want Segment
	}{
		{"an unknown kind is skipped", []byte{254, 4, 1, 1, 2, 4, 5, 0xb4}, Segment{MSS: 1460, WScale: -1}},
		{"nothing is read behind the end of the list", []byte{0, 2, 4, 5, 0xb4, 0, 0, 0}, Segment{WScale: -1}},
		{"a length of zero ends the reading, what came before stands", []byte{4, 2, 254, 0, 2, 4, 5, 0xb4}, Segment{WScale: -1, SACKPermitted: true}},
		{"a length beyond the options ends the reading", []byte{4, 2, 254, 9, 2, 4, 5, 0xb4}, Segment{WScale: -1, SACKPermitted: true}},
		{"an MSS of three bytes ends the reading", []byte{2, 3, 5, 4, 2, 0, 0, 0}, Segment{WScale: -1}},
		{"a kind without length at the very end is nothing", []byte{1, 1, 1, 2}, Segment{WScale: -1}},
		{"a window scale above 14 is 14", []byte{1, 3, 3, 200}, Segment{WScale: 14}},
		{"a window scale of 0 is not its absence", []byte{1, 3, 3, 0}, Segment{WScale: 0}},
		{"two SACK blocks are read", []byte{1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4},
			Segment{WScale: -1, NSACK: 2, SACK: [4]SACKBlock{{1, 2}, {3, 4}}}},
		{"half a SACK block ends the reading", []byte{5, 6, 0, 0, 0, 1, 4, 2}, Segment{WScale: -1}},
		{"timestamps without the usual padding are read", []byte{8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1}, Segment{WScale: -1, Timestamps: true, TSVal: 1, TSEcr: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Segment{WScale: -1}
			parseOptions(tt.b, &got)
			tt.want.Payload, got.Payload = nil, nil
			if !equalSegments(&got, &tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func equalSegments(a, b *Segment) bool {
	x, y := *a, *b
	if !bytes.Equal(x.Payload, y.Payload) {
		return false
	}
	x.Payload, y.Payload = nil, nil
	return x.Seq == y.Seq && x.Ack == y.Ack && x.Flags == y.Flags && x.Window == y.Window && x.MSS == y.MSS &&
		x.WScale == y.WScale && x.SACKPermitted == y.SACKPermitted && x.Timestamps == y.Timestamps &&
		x.TSVal == y.TSVal && x.TSEcr == y.TSEcr && x.NSACK == y.NSACK && x.SACK == y.SACK && x.PayloadLen == y.PayloadLen
}

func TestParseDoesNotAllocate(t *testing.T) {
	frame := build(v6Flow, dataSegment(), []byte("x"), 1, 2)
	var p Packet
	if n := testing.AllocsPerRun(100, func() {
		if Parse(frame, &p) != nil || p.Checksum() != ChecksumValid {
			t.Error("not read")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(build(v4Flow, dataSegment(), []byte("hello")))
	f.Add(build(v6Flow, dataSegment(), []byte("hello"), 7, 8))
	syn := Segment{Flags: SYN, MSS: 1460, SACKPermitted: true, Timestamps: true, WScale: 7}
	f.Add(build(v4Flow, syn, nil, 7))
	sack := Segment{Flags: ACK, WScale: -1, NSACK: 4, SACK: [4]SACKBlock{{1, 2}, {3, 4}, {5, 6}, {7, 8}}}
	f.Add(build(v6Flow, sack, nil))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		if Parse(frame, &p) != nil {
			return
		}
		s := &p.Segment
		if s.PayloadLen != len(s.Payload) || s.PayloadLen > len(frame) || s.NSACK > MaxSACKBlocks || s.WScale > 14 {
			t.Fatalf("%+v", s)
		}
		p.Checksum()
		// What was read can be written, and is read the same.
		tmpl := NewTemplate(&p)
		out := *s
		out.NSACK = out.sackBlocks(out.optionsLen() - sackLen(&out))
		for i := out.NSACK; i < MaxSACKBlocks; i++ {
			out.SACK[i] = SACKBlock{}
		}
		h := tmpl.HeaderLen(&out)
		again := make([]byte, h+out.PayloadLen)
		copy(again[h:], s.Payload)
		tmpl.Marshal(again, &out)
		var q Packet
		if err := Parse(again, &q); err != nil {
			t.Fatal(err)
		}
		if !equalSegments(&q.Segment, &out) || !q.ChecksumFull() {
			t.Fatalf("read  %+v\nagain %+v", out, q.Segment)
		}
		if q.Flow.Remote != p.Flow.Local || q.Flow.LocalPort != p.Flow.RemotePort {
			t.Fatalf("flow %v came back as %v", p.Flow, q.Flow)
		}
	})
}

// sackLen is the part of optionsLen that is for SACK.
func sackLen(s *Segment) int {
	none := *s
	none.NSACK = 0
	return s.optionsLen() - none.optionsLen()
}
