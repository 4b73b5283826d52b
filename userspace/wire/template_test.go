// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"
	"testing"
	"unsafe"
)

func TestWhatMarshalWritesParseReads(t *testing.T) {
	blocks := [4]SACKBlock{{10, 20}, {30, 40}, {50, 60}, {70, 80}}
	segments := []struct {
		name    string
		seg     Segment
		options string // in hex, as on the wire
	}{
		{"no option", Segment{Flags: ACK, WScale: -1}, ""},
		{"timestamps", dataSegment(), "0101080a0000000b00000016"},
		{"a Linux SYN/ACK", Segment{Flags: SYN | ACK, MSS: 1460, SACKPermitted: true, Timestamps: true, TSVal: 1, TSEcr: 2, WScale: 7},
			"020405b40402080a000000010000000201030307"},
		{"a SYN/ACK without timestamps", Segment{Flags: SYN | ACK, MSS: 1460, SACKPermitted: true, WScale: 7},
			"020405b40101040201030307"},
		{"one SACK block behind timestamps", Segment{Flags: ACK, WScale: -1, Timestamps: true, TSVal: 1, NSACK: 1, SACK: [4]SACKBlock{{10, 20}}},
			"0101080a00000001000000000101050a0000000a00000014"},
		{"four SACK blocks", Segment{Flags: ACK, WScale: -1, NSACK: 4, SACK: blocks},
			"010105220000000a000000140000001e00000028000000320000003c0000004600000050"},
	}
	for _, f := range []Flow{v4Flow, v6Flow} {
		for _, tags := range [][]uint16{nil, {7}, {7, 8}} {
			for _, tt := range segments {
				for _, payload := range []string{"", "x", "hello, world"} {
					t.Run(fmt.Sprintf("%s, %v, %d VLAN tags, %d bytes", tt.name, f.IsIPv4(), len(tags), len(payload)), func(t *testing.T) {
						seg := tt.seg
						seg.Seq, seg.Ack, seg.Window = 0xfffffff0, 0x80000001, 0xabcd
						frame := build(f, seg, []byte(payload), tags...)
						var p Packet
						if err := Parse(frame, &p); err != nil {
							t.Fatal(err)
						}
						seg.Payload, seg.PayloadLen = []byte(payload), len(payload)
						if !equalSegments(&p.Segment, &seg) {
							t.Errorf("got  %+v\nwant %+v", p.Segment, seg)
						}
						if p.Flow != f {
							t.Errorf("flow %v, want %v", p.Flow, f)
						}
						if !bytes.Equal(p.Link[12:], linkFor(f, tags...)[12:]) {
							t.Errorf("link header %x", p.Link)
						}
						if !bytes.Equal(p.Link[0:6], plainLink[6:12]) || !bytes.Equal(p.Link[6:12], plainLink[0:6]) {
							t.Errorf("MAC addresses did not change sides: %x", p.Link)
						}
						header := len(frame) - len(payload)
						if got := fmt.Sprintf("%x", frame[header-seg.optionsLen():header]); got != tt.options {
							t.Errorf("options %s, want %s", got, tt.options)
						}
						if !p.ChecksumFull() {
							t.Error("the TCP checksum is wrong")
						}
						if f.IsIPv4() && naiveSum(frame[len(p.Link):][:20], 0) != 0xffff {
							t.Error("the IPv4 checksum is wrong")
						}
					})
				}
			}
		}
	}
}

func TestSACKBlocksThatDoNotFitAreLeftOut(t *testing.T) {
	seg := dataSegment()
	seg.NSACK = 4
	seg.SACK = [4]SACKBlock{{10, 20}, {30, 40}, {50, 60}, {70, 80}}
	var p Packet
	if err := Parse(build(v4Flow, seg, nil), &p); err != nil || p.Segment.NSACK != 3 {
		t.Errorf("%d blocks (%v), want 3 beside timestamps", p.Segment.NSACK, err)
	}
}

func TestChecksum(t *testing.T) {
	for _, f := range []Flow{v4Flow, v6Flow} {
		frame := build(f, dataSegment(), []byte("payload"))
		var p Packet
		if err := Parse(frame, &p); err != nil {
			t.Fatal(err)
		}
		if got := p.Checksum(); got != ChecksumValid {
			t.Errorf("%v: a right checksum is %d", f, got)
		}
		for i := range p.tcp {
			p.tcp[i] ^= 0x40
			if got := p.Checksum(); got != ChecksumBad {
				t.Errorf("%v: with a flipped bit in byte %d it is %d", f, i, got)
			}
			p.tcp[i] ^= 0x40
		}
		// As Linux leaves it for hardware: the pseudo-header's folded sum, not complemented.
		var pseudo []byte
		if f.IsIPv4() {
			pseudo = append(append(pseudo, f.Remote[12:]...), f.Local[12:]...)
		} else {
			pseudo = append(append(pseudo, f.Remote[:]...), f.Local[:]...)
		}
		pseudo = append(pseudo, 0, 6, 0, byte(len(p.tcp)))
		sum := naiveSum(pseudo, 0)
		p.tcp[16], p.tcp[17] = byte(sum>>8), byte(sum)
		if got := p.Checksum(); got != ChecksumPartial {
			t.Errorf("%v: the pseudo-header's sum alone is %d", f, got)
		}
		if p.ChecksumFull() {
			t.Errorf("%v: the pseudo-header's sum alone passes for a full one", f)
		}
	}
}

func TestATemplateSharesNothingWithItsFrame(t *testing.T) {
	frame := build(v4Flow, dataSegment(), nil, 7)
	var p Packet
	if err := Parse(frame, &p); err != nil {
		t.Fatal(err)
	}
	tmpl := NewTemplate(&p)
	clear(frame)
	p = Packet{}
	out := make([]byte, 128)
	seg := dataSegment()
	if err := Parse(out[:tmpl.Marshal(out, &seg)], &p); err != nil {
		t.Fatal(err)
	}
	if p.Flow != (Flow{v4Flow.Local, v4Flow.Remote, v4Flow.LocalPort, v4Flow.RemotePort}) {
		t.Errorf("flow %v", p.Flow)
	}
	if size := unsafe.Sizeof(tmpl); size > 64 {
		t.Errorf("a Template has %d bytes", size)
	}
}

func TestFlagsAreNamedInTheOrderOfTheirBits(t *testing.T) {
	for f, want := range map[Flags]string{0: "none", SYN | ACK: "SYN|ACK", FIN: "FIN", CWR | RST: "RST|CWR"} {
		if got := f.String(); got != want {
			t.Errorf("%#x is %q, want %q", uint8(f), got, want)
		}
	}
}

func BenchmarkMarshal1448(b *testing.B) {
	var p Packet
	if err := Parse(build(v4Flow, dataSegment(), nil), &p); err != nil {
		b.Fatal(err)
	}
	tmpl := NewTemplate(&p)
	seg := dataSegment()
	seg.PayloadLen = 1448
	frame := make([]byte, 2048)
	for b.Loop() {
		tmpl.Marshal(frame, &seg)
	}
}

func BenchmarkParse1448(b *testing.B) {
	frame := build(v4Flow, dataSegment(), make([]byte, 1448))
	var p Packet
	for b.Loop() {
		if Parse(frame, &p) != nil {
			b.Fatal("not read")
		}
	}
}
