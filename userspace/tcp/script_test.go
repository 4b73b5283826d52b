// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A script plays the peer of one connection, segment by segment. Sequence numbers are relative: 0 is the first octet after
// each side's SYN.
type script struct {
	t   *testing.T
	c   Conn
	cfg *Config
	now Time
	hs  Handshake
	wnd uint16 // the window that the peer's segments carry
	tsv uint32 // the peer's timestamp
	ev  Event  // of the last input or tick
}

func newScript(t *testing.T, change ...func(*Handshake, *Config)) *script {
	s := &script{t: t, cfg: DefaultConfig(), now: Time(time.Hour), wnd: 65535, tsv: 5000}
	s.hs = Handshake{ISS: 0xfffffff0, IRS: 499, MSS: 1000, RcvWnd: 60000, SACK: true}
	for _, f := range change {
		f(&s.hs, s.cfg)
	}
	s.c.Open(s.cfg, s.hs, s.now)
	s.in(wire.ACK, 0, 0, "")
	s.silent()
	return s
}

func withTimestamps(hs *Handshake, _ *Config) { hs.Timestamps = true; hs.MSS += 12 }
func withoutSACK(hs *Handshake, _ *Config)    { hs.SACK = false }

func (s *script) segment(flags wire.Flags, seq, ack int, data string) *wire.Segment {
	seg := &wire.Segment{
		Seq: uint32(s.hs.IRS.Add(1 + seq)), Ack: uint32(s.hs.ISS.Add(1 + ack)), Flags: flags, Window: s.wnd, WScale: -1,
		Payload: []byte(data), PayloadLen: len(data),
	}
	if s.hs.Timestamps {
		seg.Timestamps, seg.TSVal = true, s.tsv
	}
	return seg
}

// in feeds a segment.
func (s *script) in(flags wire.Flags, seq, ack int, data string, blocks ...int) Event {
	s.t.Helper()
	seg := s.segment(flags, seq, ack, data)
	for i := 0; i < len(blocks); i += 2 {
		seg.SACK[seg.NSACK] = wire.SACKBlock{Left: uint32(s.hs.ISS.Add(1 + blocks[i])), Right: uint32(s.hs.ISS.Add(1 + blocks[i+1]))}
		seg.NSACK++
	}
	return s.feed(seg)
}

func (s *script) feed(seg *wire.Segment) Event {
	s.t.Helper()
	s.ev = s.c.Input(seg, s.now)
	s.sane()
	return s.ev
}

func (s *script) sane() {
	s.t.Helper()
	if err := s.c.invariants(); err != nil {
		s.t.Fatal(err)
	}
}

// A got is a segment that came out, in relative numbers.
type got struct {
	wire.Segment
	seq, ack int
	data     string
}

// next pulls one segment.
func (s *script) next() (got, bool) {
	s.t.Helper()
	var g got
	if !s.c.Output(&g.Segment, s.now) {
		return g, false
	}
	b := make([]byte, g.PayloadLen)
	s.c.CopyPayload(b, &g.Segment)
	g.data = string(b)
	g.seq = int(Seq(g.Seq).Sub(s.hs.ISS.Add(1)))
	g.ack = int(Seq(g.Ack).Sub(s.hs.IRS.Add(1)))
	s.sane()
	return g, true
}

// out wants one segment with these flags, sequence number, acknowledgment and length.
func (s *script) out(flags wire.Flags, seq, ack, length int) got {
	s.t.Helper()
	g, ok := s.next()
	if !ok {
		s.t.Fatalf("nothing to send, want %v seq %d ack %d with %d bytes", flags, seq, ack, length)
	}
	if g.Flags&^wire.PSH != flags || g.seq != seq || g.ack != ack || g.PayloadLen != length {
		s.t.Fatalf("sent %v seq %d ack %d with %d bytes, want %v seq %d ack %d with %d bytes",
			g.Flags, g.seq, g.ack, g.PayloadLen, flags, seq, ack, length)
	}
	return g
}

// silent wants nothing to be sent.
func (s *script) silent() {
	s.t.Helper()
	if g, ok := s.next(); ok {
		s.t.Fatalf("sent %v seq %d ack %d with %d bytes, want nothing", g.Flags, g.seq, g.ack, g.PayloadLen)
	}
}

func (s *script) state(want State) {
	s.t.Helper()
	if s.c.State() != want {
		s.t.Fatalf("state %v, want %v", s.c.State(), want)
	}
}

func (s *script) write(n int) {
	s.t.Helper()
	if got := s.c.Write([]byte(strings.Repeat("w", n))); got != n {
		s.t.Fatalf("Write took %d of %d bytes", got, n)
	}
}

func (s *script) read() string {
	b := make([]byte, 1<<20)
	return string(b[:s.c.Read(b)])
}

// wait lets the next timer come, and says how long that took.
func (s *script) wait() time.Duration {
	s.t.Helper()
	at := s.c.Deadline()
	if at == Never {
		s.t.Fatal("no timer runs")
	}
	d := at.Sub(s.now)
	s.now = max(s.now, at)
	s.ev = s.c.Tick(s.now)
	s.sane()
	return d
}

// timeout lets the retransmission timer run out. A tail loss probe that comes first is lost too.
func (s *script) timeout() {
	s.t.Helper()
	for before := s.c.Info().Timeouts; s.c.Info().Timeouts == before; {
		s.wait()
		if s.c.Info().Timeouts == before {
			s.next()
		}
	}
}

func (s *script) idle() {
	s.t.Helper()
	if at := s.c.Deadline(); at != Never {
		s.t.Fatalf("a timer runs, for %v", at.Sub(s.now))
	}
}

func zeros(n int) string { return strings.Repeat("z", n) }
