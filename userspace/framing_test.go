// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// raw is the next frame that the engine sent.
func (l *memLink) raw(t *testing.T) []byte {
	t.Helper()
	select {
	case frame := <-l.sent:
		return frame
	case <-time.After(2 * time.Second):
		t.Fatal("the engine sent nothing")
		panic("unreachable")
	}
}

// insertAt puts bytes into a frame, and adds their length to the 16-bit field at lengthAt, all behind the link header.
func insertAt(frame []byte, link, at, lengthAt int, more ...byte) []byte {
	out := append(append(bytes.Clone(frame[:link+at]), more...), frame[link+at:]...)
	field := out[link+lengthAt:]
	binary.BigEndian.PutUint16(field, binary.BigEndian.Uint16(field)+uint16(len(more)))
	return out
}

// TestRepliesKeepTheTagsAndNothingElse sends frames with VLAN tags, IP options and extension headers. What comes back has
// the same tags in the same order, a bare IP header, and segments as long as the MTU allows.
func TestRepliesKeepTheTagsAndNothingElse(t *testing.T) {
	one, two := []byte{0x81, 0, 0, 7}, []byte{0x88, 0xa8, 0, 9, 0x81, 0, 0x20, 7}
	for _, tt := range []struct {
		name string
		tags []byte
		v6   bool
		ip   bool // with options or extension headers
		full int  // bytes of a full segment: what two tags take beyond the room for one comes off the MTU of 1500
	}{
		{"IPv4 with one tag", one, false, false, 1460},
		{"IPv4 with two tags", two, false, false, 1456},
		{"IPv4 with options", nil, false, true, 1460},
		{"IPv4 with options and two tags", two, false, true, 1456},
		{"IPv6 with one tag", one, true, false, 1440},
		{"IPv6 with two tags", two, true, false, 1436},
		{"IPv6 with extension headers", nil, true, true, 1440},
		{"IPv6 with extension headers and one tag", one, true, true, 1440},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p *peer
			if tt.v6 {
				p = newPeer6(t)
			} else {
				p = newPeer(t, 0)
			}
			p.tags = tt.tags
			link := 14 + len(tt.tags)
			switch {
			case tt.ip && tt.v6: // hop-by-hop, then destination options
				p.mangle = func(frame []byte) []byte {
					frame = insertAt(frame, link, 40, 4, 60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0)
					frame[link+6] = 0
					return frame
				}
			case tt.ip:
				p.mangle = func(frame []byte) []byte {
					frame = insertAt(frame, link, 20, 2, 1, 1, 1, 0)
					frame[link] = 0x46
					return frame
				}
			}
			check := func(what string) wire.Segment {
				t.Helper()
				frame := p.link.raw(t)
				var w wire.Packet
				if err := wire.Parse(frame, &w); err != nil || !w.ChecksumFull() {
					t.Fatalf("%s: bad frame (%v): %x", what, err, frame)
				}
				want := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, tt.tags...) // from server to client
				if !bytes.Equal(frame[:link-2], want) {
					t.Errorf("%s: link header %x, want %x", what, frame[:link], want)
				}
				if tt.v6 && frame[link+6] != 6 || !tt.v6 && frame[link] != 0x45 {
					t.Errorf("%s: there is something between IP and TCP: %x", what, frame[link:])
				}
				return w.Segment
			}

			p.from(40009)
			p.flows.add(p.flow)
			p.send(wire.ACK, 7, 77, "", nil)
			if s := check("the reset"); s.Flags != wire.RST {
				t.Errorf("the engine sent %v", s.Flags)
			}
			p.send(wire.SYN, 7, 0, "", nil)
			if s := check("the SYN/ACK"); s.Flags != wire.SYN|wire.ACK {
				t.Errorf("the engine sent %v", s.Flags)
			}
			p.from(40000)
			c := p.connect()
			if _, err := c.Write(make([]byte, 1600)); err != nil {
				t.Fatal(err)
			}
			if s := check("the first segment"); s.PayloadLen != tt.full {
				t.Errorf("a segment of %d bytes, want %d", s.PayloadLen, tt.full)
			}
			if s := check("the second segment"); s.PayloadLen != 1600-tt.full {
				t.Errorf("a segment of %d bytes", s.PayloadLen)
			}
			p.send(wire.ACK|wire.PSH, 501, peerISS+1601, "hello", nil)
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
				t.Errorf("read %q, %v", b, err)
			}
			check("the delayed ACK")
		})
	}
}
