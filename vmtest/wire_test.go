// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// The bits of a TCP header's flags byte.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
	flagECE
	flagCWR
)

// A segment is one TCP segment as it was on the wire. It is read here byte by byte, and not with the
// product's parser, which is under test.
type segment struct {
	at       time.Time
	outgoing bool // sent by the client
	partial  bool // the client left the checksum to its interface
	v4       bool
	src, dst netip.AddrPort
	ttl      byte
	ecn      byte // the codepoint: RFC 3168, 5
	df       bool // IPv4
	ipOK     bool // IPv4 header checksum
	tcpOK    bool
	seq, ack uint32
	flags    byte
	window   uint16
	payload  []byte

	mss          uint16 // 0: no such option
	wscale       int    // -1: no such option
	sack         bool   // SACK permitted
	sackBlocks   int
	timestamps   bool
	tsval, tsecr uint32
}

// end is the sequence number after the segment's last.
func (s *segment) end() uint32 {
	n := s.seq + uint32(len(s.payload))
	if s.flags&flagSYN != 0 {
		n++
	}
	if s.flags&flagFIN != 0 {
		n++
	}
	return n
}

func (s *segment) pureAck() bool { return s.flags == flagACK && len(s.payload) == 0 }

func (s segment) String() string {
	return fmt.Sprintf("%v > %v flags %#02x seq %d ack %d len %d", s.src, s.dst, s.flags, s.seq, s.ack, len(s.payload))
}

// sum16 is the one's complement sum of RFC 1071, the slow way.
func sum16(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i, x := range b {
			if i%2 == 0 {
				sum += uint32(x) << 8
			} else {
				sum += uint32(x)
			}
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// pseudoHeader is what the TCP checksum covers besides the segment (RFC 9293, 3.1).
func pseudoHeader(src, dst netip.Addr, proto byte, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	if src.Is4() {
		return append(b, 0, proto, byte(length>>8), byte(length))
	}
	return append(b, 0, 0, byte(length>>8), byte(length), 0, 0, 0, proto)
}

// decode reads a frame; ok is false if it has no TCP in it.
func decode(p lab.Packet) (s segment, ok bool) {
	b := p.Data
	for len(b) > 18 && b[12] == 0x81 && b[13] == 0x00 { // a VLAN tag
		b = append(append([]byte{}, b[:12]...), b[16:]...)
	}
	s = segment{at: p.Time, outgoing: p.Outgoing, partial: p.PartialChecksum, wscale: -1}
	var src, dst netip.Addr
	switch {
	case len(b) >= 54 && b[12] == 0x08 && b[13] == 0x00 && b[23] == 6:
		ip := b[14:]
		head := int(ip[0]&15) * 4
		s.v4, s.ttl, s.ecn, s.df = true, ip[8], ip[1]&3, ip[6]&0x40 != 0
		s.ipOK = sum16(ip[:head]) == 0xffff
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		b = ip[head:binary.BigEndian.Uint16(ip[2:])]
	case len(b) >= 74 && b[12] == 0x86 && b[13] == 0xdd && b[20] == 6:
		ip := b[14:]
		s.ttl, s.ecn, s.ipOK, s.df = ip[7], ip[1]>>4&3, true, true
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		b = ip[40 : 40+int(binary.BigEndian.Uint16(ip[4:]))]
	default:
		return s, false
	}
	s.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[0:]))
	s.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	s.seq, s.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	s.flags, s.window = b[13], binary.BigEndian.Uint16(b[14:])
	s.tcpOK = sum16(pseudoHeader(src, dst, 6, len(b)), b) == 0xffff
	head := int(b[12]>>4) * 4
	s.payload = b[head:]
	for o := b[20:head]; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		switch o[0] {
		case 2:
			s.mss = binary.BigEndian.Uint16(o[2:])
		case 3:
			s.wscale = int(o[2])
		case 4:
			s.sack = true
		case 5:
			s.sackBlocks = int(o[1]-2) / 8
		case 8:
			s.timestamps = true
			s.tsval, s.tsecr = binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:])
		}
		o = o[o[1]:]
	}
	return s, true
}

// A recording is a tap on the client's side, where all that xdptcp sends and gets can be seen. When it ends,
// tshark judges it.
type recording struct {
	t        *testing.T
	tap      *lab.Capture
	packets  []lab.Packet
	expected []finding
	host     *lab.Host
	lost     uint64 // in the pair's rings, before the recording
}

// record starts to record. tshark may find what is expected, and nothing else.
func record(t *testing.T, l *lab.Lab, expected ...finding) *recording {
	t.Helper()
	tap, err := l.Client.Capture(lab.CaptureOptions{Buffer: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	r := &recording{t: t, tap: tap, expected: expected, host: l.Client}
	r.lost = r.ringLosses()
	return r
}

// ringLosses are the frames that the pair itself has lost, in either direction: a kernel that sends in bulk to a host that does not get
// the CPU fills its ring.
func (r *recording) ringLosses() uint64 {
	r.t.Helper()
	from, to, err := r.host.RingLosses()
	if err != nil {
		r.t.Fatal(err)
	}
	return from + to
}

// trace is what was recorded: TCP to and from the server's port 8080 or higher.
type trace []segment

// until ends the recording once the last frame that matters has passed, which done recognizes.
func (r *recording) until(what string, done func(segment) bool) trace {
	r.t.Helper()
	var list trace
	timeout := time.After(patience)
	for {
		select {
		case p, ok := <-r.tap.Packets():
			if !ok {
				r.t.Fatalf("the tap ended before: %s", what)
			}
			r.packets = append(r.packets, p)
			s, ok := decode(p)
			if !ok {
				continue
			}
			list = append(list, s)
			if !done(s) {
				continue
			}
			list = append(list, r.rest()...)
			return list
		case <-timeout:
			r.t.Fatalf("never seen on the wire: %s; seen:\n%v", what, list)
		}
	}
}

// rest ends the recording and returns what was not read yet.
func (r *recording) rest() (list trace) {
	r.t.Helper()
	if err := r.tap.Close(); err != nil {
		r.t.Fatal(err)
	}
	for p := range r.tap.Packets() {
		r.packets = append(r.packets, p)
		if s, ok := decode(p); ok {
			list = append(list, s)
		}
	}
	if n := r.tap.Dropped(); n > 0 {
		r.t.Errorf("the tap lost %d frames", n)
		return list
	}
	if n := r.ringLosses() - r.lost; n > 0 {
		r.t.Logf("the pair's rings have lost %d frames: a wire that loses is expected", n)
		r.expected = append(r.expected, lossy...)
	}
	judge(r.t, r.packets, r.expected)
	return list
}

// first returns the first segment that fits.
func (tr trace) first(t *testing.T, what string, fits func(segment) bool) segment {
	t.Helper()
	for _, s := range tr {
		if fits(s) {
			return s
		}
	}
	t.Fatalf("not on the wire: %s; seen:\n%v", what, tr)
	return segment{}
}

// checkServer judges every frame that the server sent, whatever it was about.
func (tr trace) checkServer(t *testing.T) {
	t.Helper()
	last := map[[2]netip.AddrPort]uint32{} // TSval, by connection
	n := 0
	for _, s := range tr {
		key := [2]netip.AddrPort{s.src, s.dst}
		if s.outgoing {
			if s.flags&(flagSYN|flagACK) == flagSYN {
				delete(last, [2]netip.AddrPort{s.dst, s.src}) // a new connection
			}
			continue
		}
		n++
		switch {
		case !s.ipOK:
			t.Errorf("wrong IP header checksum: %v", s)
		case !s.tcpOK || s.partial:
			t.Errorf("wrong TCP checksum: %v", s)
		case s.ttl != 64:
			t.Errorf("TTL %d, want 64: %v", s.ttl, s)
		case !s.df:
			t.Errorf("without DF: %v", s)
		}
		if !s.timestamps {
			if _, had := last[key]; had && s.flags&flagRST == 0 {
				t.Errorf("no timestamp, though agreed on (RFC 7323, 3.2): %v", s)
			}
			continue
		}
		if before, seen := last[key]; seen && int32(s.tsval-before) < 0 {
			t.Errorf("TSval %d after %d (%+d): %v", s.tsval, before, int32(s.tsval-before), s)
		}
		last[key] = s.tsval
	}
	if n == 0 {
		t.Error("the server sent nothing")
	}
}
