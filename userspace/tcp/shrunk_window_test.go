// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A peer takes window back that we have used already. What we acknowledge must still reach it: it takes no segment from
// beyond its window (RFC 9293, 3.10.7.4, first).
func TestAnAcknowledgmentFitsAWindowThatWasTakenBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		scale  uint8
		window uint16 // after 2000 of 4000 octets were acknowledged
		seq    int    // of our acknowledgment
	}{
		{"not taken back", 0, 2000, 4000},
		{"taken back in part", 0, 1500, 3500},
		{"taken back as a whole", 0, 0, 2000},
		{"smaller by what its unit rounds off", 7, 15, 4000}, // 1920
		{"smaller by a unit", 7, 14, 3792},
	} {
		s := newScript(t, func(hs *Handshake, _ *Config) { hs.SndWScale = c.scale })
		s.write(4000)
		for i := range 4 {
			s.out(wire.ACK, 1000*i, 0, 1000)
		}
		s.wnd = c.window
		s.in(wire.ACK, 0, 2000, "0123456789")
		s.wait() // the delayed-ACK time-out
		g, ok := s.next()
		if !ok || g.Flags != wire.ACK || g.PayloadLen != 0 || g.seq != c.seq || g.ack != 10 {
			t.Errorf("%s: sent %v seq %d ack %d with %d bytes, want an ACK of 10 with seq %d", c.name, g.Flags, g.seq, g.ack, g.PayloadLen, c.seq)
		}
	}
}
