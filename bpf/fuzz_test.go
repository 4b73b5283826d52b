// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

var (
	fuzzFrames = flag.Int("fuzz.frames", 400_000, "random frames that TestRandomFrames plays")
	fuzzSeed   = flag.Uint64("fuzz.seed", 1, "what their generator begins from")
)

// The kernel's test run takes frames of an Ethernet header or more, in one page with what XDP has in front
// and behind.
const testRunMax = 3400

// FuzzVerdict lets the Go fuzzer draw frames, which its knowledge of the model's branches guides:
//
//	go test ./bpf -fuzz FuzzVerdict
//
// Its corpus comes from the packet tables: corpus_test.go.
func FuzzVerdict(f *testing.F) {
	t := newTheatre(f)
	out := make([]byte, 4096)
	f.Fuzz(func(test *testing.T, frame []byte, s uint16) {
		if len(frame) < ethLen || len(frame) > testRunMax {
			test.Skip()
		}
		frame = slices.Clone(frame)
		p := t.set(state(s), frame)
		r, err := p.play(frame, out)
		if err != nil {
			test.Fatalf("%v\nframe %x", err, frame)
		}
		if r.reason == RedirectOpened || r.reason == DropNoSocket {
			must(test, p.forgetNew())
		}
	})
}

// forgetNew forgets the flows that the frames opened.
func (p *program) forgetNew() error {
	for f := range p.world.flows {
		if f == families[0].flow() || f == families[1].flow() {
			continue
		}
		if err := p.forget(f); err != nil {
			return err
		}
	}
	return nil
}

// A driver plays frames of a generator, and what follows from them: the client's answer to a SYN/ACK,
// segments and ICMP errors of the flow that is opened by it.
type driver struct {
	generator
	theatre theatre
	state   state
	synacks []segment // answers to SYN/ACKs: final ACKs that are still to be sent
	out     []byte
	seen    [ReasonCount]int
	played  int
}

// Random frames, about half a million a second:
//
//	go test ./bpf -run TestRandomFrames -v -fuzz.frames=10000000 -fuzz.seed=7
func TestRandomFrames(t *testing.T) {
	workers := min(runtime.GOMAXPROCS(0), 4)
	drivers := make([]*driver, workers)
	for i := range drivers {
		drivers[i] = &driver{generator: generator{random(*fuzzSeed<<8 + uint64(i))}, theatre: newTheatre(t), out: make([]byte, 4096)}
	}
	start := time.Now()
	var group sync.WaitGroup
	for _, d := range drivers {
		group.Go(func() {
			for d.played < *fuzzFrames/workers && !t.Failed() {
				if err := d.step(); err != nil {
					t.Errorf("frame %d, state %#x: %v", d.played, d.state, err)
				}
			}
		})
	}
	group.Wait()
	var seen [ReasonCount]int
	played := 0
	for _, d := range drivers {
		played += d.played
		for i, n := range d.seen {
			seen[i] += n
		}
		for _, p := range d.theatre {
			must(t, p.forgetNew())
			if n := p.sketched(); n != len(families) {
				t.Errorf("%d flows are counted in the sketch, %d exist", n, len(families))
			}
		}
	}
	t.Logf("%d frames in %v", played, time.Since(start).Round(time.Millisecond))
	for i, n := range seen {
		if n > 0 {
			t.Logf("%9d %s", n, reasonNames[i])
		} else if *fuzzFrames >= 100_000 && slices.Contains(drawable, Reason(i)) {
			t.Errorf("none of the frames was %s: what is behind it was not tried", reasonNames[i])
		}
	}
}

// drawable are the reasons that the frames come to.
var drawable = []Reason{
	PassNotTCP, PassNoService, PassNotLocal, PassOtherHost, PassFragment, PassIPOptions, PassBadIP, PassNoLease, PassDisarmed,
	PassHandedOver, TxSynAck, TxReset, RedirectOpened, RedirectSegment, RedirectSyn, RedirectICMP, DropBadTCP, DropBadFlags,
	DropBadSource, DropBadChecksum, DropBadCookie, DropBadTimestamp, DropExpiredKey, DropNoFlow, DropLand, DropDenied, DropNoSocket,
}

// sketched is the sum of the sketch's counters.
func (p *program) sketched() (n int) {
	for _, b := range p.mem.sketch {
		n += int(b&15) + int(b>>4)
	}
	return n
}

func (d *driver) step() error {
	if d.once(32) {
		d.turn()
	}
	frame, put := d.frame()
	if len(frame) > testRunMax {
		return nil
	}
	put |= one(d.generator, 0, 0, rightIPSum, rightIPSum|rightTCPSum, rightTCPSum)
	p := d.theatre.set(d.state|put, frame)
	r, err := p.play(frame, d.out)
	d.played++
	if err != nil {
		return fmt.Errorf("%w\nframe %x", err, frame)
	}
	d.seen[r.reason]++
	if r.reason == TxSynAck {
		d.answer(p, frame, r.frame)
	}
	if len(p.world.flows) > 8 {
		return p.forgetNew()
	}
	return nil
}

// turn changes the state and the keys.
func (d *driver) turn() {
	d.state = one[state](d.generator, 0, 0, 0, 1, 1, 2)
	if d.once(8) {
		d.state |= leaseOver
	}
	if d.once(16) {
		d.state |= leaseEnds
	}
	if d.once(8) {
		d.state |= disarmed
	}
	if d.once(4) {
		d.state |= strictCookies
	}
	if d.once(8) {
		k := &d.theatre[d.state&whichProgram].world.keys
		k.Current = d.Uint32N(keyGenerations)
		k.Valid = 1<<k.Current | d.Uint32N(1<<keyGenerations)
		k.Key[d.IntN(keyGenerations)] = SiphashKey{K0: d.Uint64(), K1: d.Uint64()}
		if d.once(8) {
			k.Timestamp = SiphashKey{K0: d.Uint64(), K1: d.Uint64()}
		}
	}
}

// answer notes what a client sends on a SYN/ACK.
func (d *driver) answer(p *program, frame, synack []byte) {
	v, _ := p.world.look(frame)
	o := p.world.offer(v)
	a := segment{to: serverMAC, from: clientMAC, src: v.flow.remote, dst: v.flow.local, flags: ack}
	b, _ := p.world.look(synack) // for its length of the link header
	tcp := b.ip[20:]
	if b.kind == typeIP6 {
		tcp = b.ip[40:]
	}
	a.seq, a.ack = be32(v.tcp[4:])+1, be32(tcp[4:])+1
	if o.Timestamps {
		a.options = slices.Concat(nop, nop, optTS(d.Uint32(), be32(tcp[28:])))
		if d.once(8) { // behind a layout that is read in one glance
			a.options = slices.Concat(a.options, d.options(tcpOptionPieces))
			a.options = a.options[:min(len(a.options), 40)]
		}
	}
	if len(d.synacks) < 8 {
		d.synacks = append(d.synacks, a)
	} else {
		d.synacks[d.IntN(8)] = a
	}
}

// frame draws the next frame, and what is to be put right in it.
func (d *driver) frame() (b []byte, put state) {
	g, flows := d.generator, d.theatre[d.state&whichProgram].world.flows
	var s segment
	switch n := g.IntN(8); {
	case n == 0:
		b = g.quote(d.known(flows))
		if g.once(3) {
			b = g.damage(b)
		}
		return b, 0
	case n <= 2:
		f := d.known(flows)
		s = g.follow(f, flows[f])
	case n == 3:
		s, put = g.final(), rightCookie|rightTCPSum
	case n <= 5 && len(d.synacks) > 0:
		i := g.IntN(len(d.synacks))
		s = d.synacks[i]
		d.synacks = slices.Delete(d.synacks, i, i+1)
	default:
		s = g.syn()
	}
	if g.once(2) {
		s = g.dress(s)
	}
	if g.once(3) {
		s = g.spoil(s)
	}
	b, _, tcp := s.build()
	if g.once(8) { // as a sender on the same host leaves it
		sum := sum16(pseudoHeader(s.src.Addr(), s.dst.Addr(), len(b)-tcp))
		binary.BigEndian.PutUint16(b[tcp+16:], sum)
	}
	if g.once(3) {
		b = g.damage(b)
	}
	return b, put
}

// known draws a flow that exists, or nearly.
func (d *driver) known(flows map[flow]Handshake) flow {
	all := slices.SortedFunc(maps.Keys(flows), func(a, b flow) int {
		if n := a.remote.Compare(b.remote); n != 0 {
			return n
		}
		return a.local.Compare(b.local)
	})
	return one(d.generator, all...)
}
