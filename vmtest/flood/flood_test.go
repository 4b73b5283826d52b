// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/xdptcp/xdptcp/userspace/wire"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// families are the two runs of most tests.
var families = []struct {
	name   string
	v6     bool
	length int
	source netip.Prefix
}{
	{"IPv4", false, 74, netip.MustParsePrefix("198.18.0.0/15")},
	{"IPv6", true, 94, netip.MustParsePrefix("2001:db8:f000::/36")},
}

func newTestGenerator(t *testing.T, v6 bool) *generator {
	t.Helper()
	l := lab.ForTest(t, lab.Options{PlainClient: true})
	g, err := newGenerator(l, v6, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return g
}

// run runs a program on a frame as if it had come in on the interface, and returns the verdict and the
// frame afterwards.
func (g *generator) run(t *testing.T, p *ebpf.Program, frame []byte, ifindex int) (verdict uint32, out []byte) {
	t.Helper()
	out = make([]byte, 256)
	o := &ebpf.RunOptions{
		Data: frame, DataOut: out, Context: xdpMd{DataEnd: uint32(len(frame)), IngressIfindex: uint32(ifindex)}, Repeat: 1,
	}
	if err := g.lab.Client.Do(func() (err error) { verdict, err = p.Run(o); return err }); err != nil {
		t.Fatal(err)
	}
	return verdict, o.DataOut
}

func (g *generator) book(t *testing.T) ledger {
	t.Helper()
	l, err := g.ledger()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3
)

// checkSYN checks a frame of the flood with the engine's parser, which shares no code with the
// generator.
func checkSYN(t *testing.T, frame []byte, l *lab.Lab, source netip.Prefix, length int) netip.AddrPort {
	t.Helper()
	var p wire.Packet
	if err := wire.Parse(frame, &p); err != nil {
		t.Fatalf("%v: % x", err, frame)
	}
	to := netip.AddrPortFrom(l.Server.Addr4, port)
	if source.Addr().Is6() {
		to = netip.AddrPortFrom(l.Server.Addr6, port)
	} else if sum := wire.Sum(frame[14:34], 0); sum != 0xffff {
		t.Fatalf("the IP checksum is wrong: sum %#x: % x", sum, frame)
	}
	s := &p.Segment
	switch {
	case len(frame) != length:
		t.Fatalf("%d bytes, want %d", len(frame), length)
	case !bytes.Equal(frame[:6], l.Server.MAC) || !bytes.Equal(frame[6:12], l.Client.MAC):
		t.Fatalf("MAC addresses: % x", frame[:14])
	case !p.ChecksumFull():
		t.Fatalf("the TCP checksum is wrong: % x", frame)
	case !source.Contains(p.Flow.RemoteAddr().Addr()) || p.Flow.RemotePort < 1024 || p.Flow.LocalAddr() != to:
		t.Fatalf("%v, want from %v to %v", p.Flow, source, to)
	case s.Flags != wire.SYN || s.PayloadLen != 0 || s.MSS != 1460 || s.WScale != 7 || !s.SACKPermitted || !s.Timestamps || s.TSEcr != 0:
		t.Fatalf("not the SYN of a Linux client: %+v", s)
	}
	return p.Flow.RemoteAddr()
}

func TestEachFrameIsAnotherValidSYN(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			g := newTestGenerator(t, f.v6)
			used := bytes.Repeat([]byte{0xa5}, f.length) // a frame that something else was written to
			sources, numbers := map[netip.AddrPort]bool{}, map[uint32]bool{}
			const n = 2000
			for range n {
				verdict, frame := g.run(t, g.syn, used, g.lab.Client.IfIndex)
				if verdict != xdpTX {
					t.Fatalf("verdict %d, want XDP_TX", verdict)
				}
				sources[checkSYN(t, frame, g.lab, f.source, f.length)] = true
				numbers[binary.BigEndian.Uint32(frame[f.length-36:])] = true
			}
			if len(sources) != n || len(numbers) < n-5 {
				t.Errorf("%d sources and %d sequence numbers in %d frames", len(sources), len(numbers), n)
			}
			if sent := g.book(t).sent; sent != n {
				t.Errorf("%d counted as sent, want %d", sent, n)
			}
		})
	}
}

func TestOnNoOtherInterfaceIsThereAFlood(t *testing.T) {
	for _, f := range families {
		g := newTestGenerator(t, f.v6)
		const lo = 1
		verdict, out := g.run(t, g.syn, g.frame, lo)
		if verdict != xdpPass || !bytes.Equal(out, g.frame) {
			t.Errorf("%s: on lo: verdict %d, want XDP_PASS and the frame as it was", f.name, verdict)
		}
		if sent := g.book(t).sent; sent != 0 {
			t.Errorf("%s: %d counted as sent", f.name, sent)
		}
	}
}

func TestAnAnswerCountsOnlyIfItAcknowledgesOurSYN(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			g := newTestGenerator(t, f.v6)
			_, syn := g.run(t, g.syn, g.frame, g.lab.Client.IfIndex)
			tcp, addr := f.length-40, f.source.Addr().BitLen()/8 // the addresses are in front of the TCP header
			// answer is a SYN/ACK to the SYN, changed.
			answer := func(change func(frame []byte)) []byte {
				frame := bytes.Clone(syn)
				copy(frame[tcp-2*addr:], syn[tcp-addr:tcp])
				copy(frame[tcp-addr:], syn[tcp-2*addr:tcp-addr])
				copy(frame[tcp:], syn[tcp+2:tcp+4])
				copy(frame[tcp+2:], syn[tcp:tcp+2])
				binary.BigEndian.PutUint32(frame[tcp+8:], binary.BigEndian.Uint32(syn[tcp+4:])+1)
				frame[tcp+13] = byte(wire.SYN | wire.ACK)
				change(frame)
				return frame
			}
			for _, c := range []struct {
				name    string
				frame   []byte
				verdict uint32
				want    floodTally
			}{
				{"a SYN/ACK", answer(func([]byte) {}), xdpDrop, floodTally{Synacks: 1}},
				{"one that acknowledges something else", answer(func(b []byte) { b[tcp+11]++ }), xdpDrop, floodTally{Strange: 1}},
				{"one from another port", answer(func(b []byte) { b[tcp+1]++ }), xdpDrop, floodTally{Strange: 1}},
				{"one to another of our sources", answer(func(b []byte) { b[tcp-1]++ }), xdpDrop, floodTally{Strange: 1}},
				{"a reset", answer(func(b []byte) { b[tcp+13] = byte(wire.RST | wire.ACK) }), xdpDrop, floodTally{Strange: 1}},
				{"our SYN come back", syn, xdpDrop, floodTally{Echoes: 1}},
				{"our SYN come back changed", answer(func(b []byte) { copy(b, syn); b[tcp+4]++ }), xdpDrop, floodTally{Strange: 1}},
				{"what is for a client", answer(func(b []byte) { b[tcp-addr] ^= 0x40 }), xdpPass, floodTally{}},
				{"ARP", make([]byte, 60), xdpPass, floodTally{}},
			} {
				before := g.book(t)
				verdict, _ := g.run(t, g.objects.Count, c.frame, g.lab.Client.IfIndex)
				if got := g.book(t).minus(before).tally; verdict != c.verdict || got != c.want {
					t.Errorf("%s: verdict %d, counted %+v, want %d, %+v", c.name, verdict, got, c.verdict, c.want)
				}
			}
		})
	}
}

// The frames arrive, as they were made, at the other end of the lab; what its kernel says to them is no
// answer.
func TestLiveFramesArriveAndAreAccountedFor(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			g := newTestGenerator(t, f.v6)
			if err := g.attach(g.lab.Server, g.lab.Server.IfIndex, g.objects.Pass, link.XDPDriverMode); err != nil {
				t.Fatal(err)
			}
			tap, err := g.lab.Server.Capture(lab.CaptureOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer tap.Close()
			const n = 500
			if err := g.inside(func(s sender) error { return s.send(n) }); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				l := g.book(t)
				if fate := l.fate(); fate.Unanswered == 0 {
					if l.sent != n || l.tally.Strange+l.lostThere+l.lostBack != n {
						t.Errorf("%+v, want %d sent and refused by the kernel", fate, n)
					}
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("some are not accounted for: %+v", fate)
				}
			}
			if err := tap.Close(); err != nil {
				t.Fatal(err)
			}
			seen := uint64(0)
			for p := range tap.Packets() {
				if !p.Outgoing {
					checkSYN(t, p.Data, g.lab, f.source, f.length)
					seen++
				}
			}
			if want := n - g.book(t).lostThere; seen != want {
				t.Errorf("%d frames arrived, want %d", seen, want)
			}
		})
	}
}

func TestAPacedFloodIsNeverFasterThanItsRate(t *testing.T) {
	g := newTestGenerator(t, false)
	for _, rate := range []Rate{100, 100_000} {
		before := g.book(t).sent
		const d = 150 * time.Millisecond
		start := time.Now()
		if err := g.inside(func(s sender) error { return s.pace(context.Background(), rate, d) }); err != nil {
			t.Fatal(err)
		}
		most := uint64(float64(rate) * time.Since(start).Seconds())
		if sent := g.book(t).sent - before; sent == 0 || sent > most {
			t.Errorf("%d SYNs at %v/s in %v, want at most %d, and some", sent, rate, d, most)
		}
	}
}

func TestAFloodEndsWithItsContext(t *testing.T) {
	g := newTestGenerator(t, false)
	for _, rate := range []Rate{0, 1000, Max} {
		ctx, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer stop()
		done := make(chan error, 1)
		go func() { done <- g.inside(func(s sender) error { return s.flood(ctx, rate) }) }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%v: it goes on", rate)
		}
	}
}

func TestOneCallSendsNoMoreThanASecondsWorth(t *testing.T) {
	g := newTestGenerator(t, false)
	for _, n := range []int{-1, 0, maxCall + 1} {
		if err := g.inside(func(s sender) error { return s.send(n) }); err == nil {
			t.Errorf("%d frames are sent", n)
		}
	}
	if sent := g.book(t).sent; sent != 0 {
		t.Errorf("%d were sent", sent)
	}
}

func TestARateIsReadAndShownAlike(t *testing.T) {
	for text, want := range map[string]Rate{"0": 0, "1": 1, "2500": 2500, "100k": 100_000, "1M": 1_000_000, "100M": 100_000_000, "max": Max} {
		r, err := ParseRate(text)
		if err != nil || r != want || r.String() != text {
			t.Errorf("%q: %d (%v), %v; want %d", text, r, r, err, want)
		}
	}
	for _, text := range []string{"", "-1", "k", "1G", "1.5M", "101M", "4294967295", "99999999999999999999k", "18446744073710k"} {
		if r, err := ParseRate(text); err == nil {
			t.Errorf("%q is read as %v", text, r)
		}
	}
}
