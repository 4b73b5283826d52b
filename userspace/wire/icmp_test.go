// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

var (
	router4 = makeFlow("203.0.113.9", "198.51.100.1", 0, 0) // an error goes from the router to us
	router6 = makeFlow("2001:db8:ffff::9", "2001:db8:1::1", 0, 0)
)

// sent is the IP packet of one of our segments, as a router meets it.
func sent(f Flow) []byte {
	return build(Flow{f.Local, f.Remote, f.LocalPort, f.RemotePort},
		Segment{Seq: 0x01020304, Ack: 2, Flags: ACK, WScale: -1}, []byte("payload"))[etherHeaderLen:]
}

// buildICMP is the frame of an error from a router to us. rest are bytes 4 to 7 of the ICMP header.
func buildICMP(router Flow, icmpType, code byte, rest uint32, quote []byte, tags ...uint16) []byte {
	body := binary.BigEndian.AppendUint32([]byte{icmpType, code, 0, 0}, rest)
	body = append(body, quote...)
	frame := linkFor(router, tags...)
	if router.IsIPv4() {
		binary.BigEndian.PutUint16(body[2:], ^naiveSum(body, 0))
		frame = append(frame, 0x45, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(ipv4HeaderLen+len(body)))
		frame = append(frame, 0, 0, 0, 0, 64, 1, 0, 0)
		frame = append(append(frame, router.Remote[12:]...), router.Local[12:]...)
	} else {
		pseudo := append(append(bytes.Clone(router.Remote[:]), router.Local[:]...), 0, 0, byte(len(body)>>8), byte(len(body)), 0, 0, 0, 58)
		binary.BigEndian.PutUint16(body[2:], ^naiveSum(body, naiveSum(pseudo, 0)))
		frame = append(frame, 0x60, 0, 0, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(body)))
		frame = append(frame, 58, 64)
		frame = append(append(frame, router.Remote[:]...), router.Local[:]...)
	}
	return append(frame, body...)
}

// insert puts bytes into b at a place.
func insert(b []byte, at int, more ...byte) []byte {
	return append(append(bytes.Clone(b[:at]), more...), b[at:]...)
}

// change gives b with one byte changed.
func change(b []byte, at int, to byte) []byte {
	b = bytes.Clone(b)
	b[at] = to
	return b
}

func TestParseICMP(t *testing.T) {
	quote4, quote6 := sent(v4Flow), sent(v6Flow)
	withIPOptions := change(insert(quote4, 20, 1, 1, 1, 0), 0, 0x46)
	withExtensions := change(insert(quote6, 40, 60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0), 6, 0)
	plain4, plain6 := buildICMP(router4, 3, 1, 0, quote4), buildICMP(router6, 1, 0, 0, quote6)
	outerOptions := change(insert(plain4, etherHeaderLen+20, 1, 1, 1, 0), etherHeaderLen, 0x46)
	outerOptions[etherHeaderLen+3] += 4
	outerExtension := change(insert(plain6, etherHeaderLen+40, 58, 0, 1, 4, 0, 0, 0, 0), etherHeaderLen+6, 0)
	outerExtension[etherHeaderLen+5] += 8
	tests := []struct {
		name  string
		frame []byte
		kind  ICMPKind
		mtu   uint32
		err   error
	}{
		{"host unreachable", plain4, ICMPUnreachable, 0, nil},
		{"port unreachable", buildICMP(router4, 3, 3, 0, quote4), ICMPUnreachable, 0, nil},
		{"fragmentation needed", buildICMP(router4, 3, 4, 1400, quote4), ICMPTooBig, 1400, nil},
		{"fragmentation needed, with RFC 4884's length above the MTU", buildICMP(router4, 3, 4, 0x0020_0578, quote4), ICMPTooBig, 1400, nil},
		{"fragmentation needed, of an old router", buildICMP(router4, 3, 4, 0, quote4), ICMPTooBig, 0, nil},
		{"time exceeded", buildICMP(router4, 11, 0, 0, quote4), ICMPTimeExceeded, 0, nil},
		{"parameter problem", buildICMP(router4, 12, 0, 0x14000000, quote4), ICMPParameterProblem, 0, nil},
		{"ICMPv6 unreachable", plain6, ICMPUnreachable, 0, nil},
		{"ICMPv6 packet too big", buildICMP(router6, 2, 0, 1280, quote6), ICMPTooBig, 1280, nil},
		{"ICMPv6 packet too big, with a nonsense MTU", buildICMP(router6, 2, 0, 0xffffffff, quote6), ICMPTooBig, 0xffffffff, nil},
		{"ICMPv6 time exceeded", buildICMP(router6, 3, 1, 0, quote6), ICMPTimeExceeded, 0, nil},
		{"ICMPv6 parameter problem", buildICMP(router6, 4, 1, 40, quote6), ICMPParameterProblem, 0, nil},
		{"one VLAN tag", buildICMP(router4, 3, 1, 0, quote4, 7), ICMPUnreachable, 0, nil},
		{"two VLAN tags", buildICMP(router6, 1, 0, 0, quote6, 7, 8), ICMPUnreachable, 0, nil},
		{"IPv4 options outside", outerOptions, ICMPUnreachable, 0, nil},
		{"IPv4 options in the quote", buildICMP(router4, 3, 1, 0, withIPOptions), ICMPUnreachable, 0, nil},
		{"an IPv6 extension header outside", outerExtension, ICMPUnreachable, 0, nil},
		{"IPv6 extension headers in the quote", buildICMP(router6, 1, 0, 0, withExtensions), ICMPUnreachable, 0, nil},
		{"eight bytes of TCP are enough", buildICMP(router4, 3, 1, 0, quote4[:28]), ICMPUnreachable, 0, nil},
		{"of IPv6 too", buildICMP(router6, 1, 0, 0, quote6[:48]), ICMPUnreachable, 0, nil},
		{"the padding of a short frame is not covered by the checksum", append(buildICMP(router4, 3, 1, 0, quote4[:28]), 1, 2, 3), ICMPUnreachable, 0, nil},

		{"seven bytes of TCP are not", buildICMP(router4, 3, 1, 0, quote4[:27]), 0, 0, ErrICMPQuote},
		{"of IPv6 neither", buildICMP(router6, 1, 0, 0, quote6[:47]), 0, 0, ErrICMPQuote},
		{"a quote that ends inside the IPv4 header", buildICMP(router4, 3, 1, 0, quote4[:19]), 0, 0, ErrICMPQuote},
		{"a quote that ends inside the IPv4 options", buildICMP(router4, 3, 1, 0, withIPOptions[:22]), 0, 0, ErrICMPQuote},
		{"a quoted IPv4 header of 16 bytes", buildICMP(router4, 3, 1, 0, change(quote4, 0, 0x44)), 0, 0, ErrICMPQuote},
		{"a quote that ends inside the IPv6 header", buildICMP(router6, 1, 0, 0, quote6[:39]), 0, 0, ErrICMPQuote},
		{"a quote that ends inside an extension header", buildICMP(router6, 1, 0, 0, withExtensions[:50]), 0, 0, ErrICMPQuote},
		{"no quote", buildICMP(router4, 3, 1, 0, nil), 0, 0, ErrICMPQuote},
		{"a quote of the other IP version", buildICMP(router4, 3, 1, 0, change(quote4, 0, 0x65)), 0, 0, ErrICMPQuote},
		{"an IPv6 quote of the other version", buildICMP(router6, 1, 0, 0, change(quote6, 0, 0x45)), 0, 0, ErrICMPQuote},
		{"a quoted fragment", buildICMP(router4, 3, 1, 0, change(quote4, 6, 0x20)), 0, 0, ErrICMPQuote},
		{"a quoted IPv6 fragment", buildICMP(router6, 1, 0, 0, change(insert(quote6, 40, 6, 0, 0, 0, 0, 0, 0, 0), 6, 44)), 0, 0, ErrICMPQuote},
		{"a quote of UDP", buildICMP(router4, 3, 1, 0, change(quote4, 9, 17)), 0, 0, ErrICMPQuote},
		{"a quote that somebody else has sent", buildICMP(router4, 3, 1, 0, change(quote4, 15, 77)), 0, 0, ErrICMPQuote},
		{"an IPv6 quote that somebody else has sent", buildICMP(router6, 1, 0, 0, change(quote6, 23, 77)), 0, 0, ErrICMPQuote},
		{"a wrong checksum", change(plain4, len(plain4)-1, 'x'), 0, 0, ErrICMPChecksum},
		{"a wrong ICMPv6 checksum", change(plain6, len(plain6)-1, 'x'), 0, 0, ErrICMPChecksum},
		{"an ICMPv6 checksum that does not cover the addresses", change(plain6, etherHeaderLen+8, 0x3f), 0, 0, ErrICMPChecksum},
		{"an echo request", buildICMP(router4, 8, 0, 0, quote4), 0, 0, ErrICMPType},
		{"source quench (RFC 6633)", buildICMP(router4, 4, 0, 0, quote4), 0, 0, ErrICMPType},
		{"an ICMPv6 echo request", buildICMP(router6, 128, 0, 0, quote6), 0, 0, ErrICMPType},
		{"a fragment of an error", change(plain4, etherHeaderLen+6, 0x20), 0, 0, ErrFragment},
		{"an ICMP header cut short", change(plain4[:etherHeaderLen+27], etherHeaderLen+3, 27), 0, 0, ErrTruncated},
		{"a segment", build(v4Flow, dataSegment(), nil), 0, 0, ErrNotTCP},
		{"an empty frame", nil, 0, 0, ErrTruncated},
		{"ARP", change(plain4, 13, 6), 0, 0, ErrLinkType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := ICMPError{MTU: 7} // of the frame before
			if err := ParseICMP(tt.frame, &e); !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if tt.err != nil {
				return
			}
			if err := Parse(tt.frame, new(Packet)); err != ErrNotTCP {
				t.Errorf("Parse says %v, want ErrNotTCP", err)
			}
			if e.Kind != tt.kind || e.MTU != tt.mtu || e.Seq != 0x01020304 {
				t.Errorf("%+v, want kind %d and MTU %d", e, tt.kind, tt.mtu)
			}
			if e.Flow != v4Flow && e.Flow != v6Flow {
				t.Errorf("flow %v", e.Flow)
			}
		})
	}
}

func FuzzParseICMP(f *testing.F) {
	quote4, quote6 := sent(v4Flow), sent(v6Flow)
	f.Add(buildICMP(router4, 3, 4, 1400, quote4))
	f.Add(buildICMP(router4, 11, 0, 0, change(insert(quote4, 20, 1, 1, 1, 0), 0, 0x46), 7))
	f.Add(buildICMP(router6, 2, 0, 1280, quote6))
	f.Add(buildICMP(router6, 1, 4, 0, change(insert(quote6, 40, 6, 0, 1, 4, 0, 0, 0, 0), 6, 0), 7, 8))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var e ICMPError
		if ParseICMP(frame, &e) != nil {
			return
		}
		if e.Kind < ICMPUnreachable || e.Kind > ICMPParameterProblem || e.MTU != 0 && e.Kind != ICMPTooBig {
			t.Fatalf("%+v", e)
		}
		// What was read of the quote, an error that is built of it says again.
		router := Flow{Remote: e.Flow.Remote, Local: e.Flow.Local}
		if router.IsIPv4() != ([12]byte(router.Remote[:12]) == mappedPrefix) {
			return // a mapped address on the IPv6 wire: no flow has it
		}
		segment := build(Flow{e.Flow.Local, e.Flow.Remote, e.Flow.LocalPort, e.Flow.RemotePort}, Segment{Seq: e.Seq, WScale: -1}, nil)
		var again ICMPError
		if err := ParseICMP(buildICMP(router, 3, 0, 0, segment[etherHeaderLen:]), &again); err != nil {
			t.Fatal(err)
		}
		if again.Flow != e.Flow || again.Seq != e.Seq {
			t.Fatalf("read  %+v\nagain %+v", e, again)
		}
	})
}
