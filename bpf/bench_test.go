// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkXDP tells what the program costs per packet: ns/op is its time alone. The harness
// (testdata/bench.c) puts a fresh packet in place before every run; what it takes around an empty
// program, measured in turns with the program, is subtracted, and shown as harness-ns. One
// iteration is one round of both. The kernel reports a round's mean in whole nanoseconds, so the
// figure is the mean of the middle half of the rounds: as robust as their median, but finer.
//
// After every round the counters must show that each packet met its fate: a benchmark of something
// else fails.
//
// ack_open inserts a flow with every packet: its pool is larger, a round takes every packet of it
// once, and the flows are deleted before the next, outside of what is measured.
//
// With -args -rival FILE each row that has a counterpart there is followed by one of the kernel's selftest
// xdp_synproxy on packets alike: rival_test.go.
func BenchmarkXDP(b *testing.B) {
	needRoot(b)
	const pool, openPool = 1024, 1 << 14
	same := func(syn segment, _ handshake) segment { return syn }
	open := func(syn segment, shake handshake) segment { return shake(syn) }
	established := func(syn segment, shake handshake) segment {
		s := shake(syn)
		s.ack += 1000
		s.flags |= psh
		s.payload = make([]byte, 32)
		return s
	}
	other := func(syn segment, shake handshake) segment {
		s := established(syn, shake)
		s.dst = netip.AddrPortFrom(s.dst.Addr(), 80)
		return s
	}
	for _, c := range []benchmark{
		{name: "syn", pool: pool, packet: same, reason: TxSynAck, rival: xdpTx},
		{name: "ack_open", pool: openPool, packet: open, reason: RedirectOpened, rival: xdpPass},
		{name: "ack_forged", pool: pool, packet: func(syn segment, shake handshake) segment {
			s := shake(syn)
			s.ack ^= 1 << 20
			return s
		}, reason: DropBadCookie, rival: xdpDrop},
		{name: "data", pool: pool, packet: established, reason: RedirectSegment},
		{name: "unrelated", pool: pool, packet: other, reason: PassNoService},
		{name: "unrelated_udp", pool: pool, packet: other, edit: toUDP, reason: PassNotTCP, rival: xdpPass},
	} {
		for i, f := range families {
			name := c.name + []string{"4", "6"}[i]
			b.Run(name, func(b *testing.B) { c.run(b, f) })
			if *rivalObject != "" && c.rival != xdpAborted {
				b.Run(name+"/xdp_synproxy", func(b *testing.B) { c.runRival(b, f) })
			}
		}
	}
	b.Run("siphash24_16", benchmarkSipHash)
}

// A benchmark is a pool of packets that all meet the same fate.
type benchmark struct {
	name   string
	pool   int
	packet func(syn segment, shake handshake) segment // from a SYN of the Linux layout
	edit   func(frame []byte)                         // its frame; may be nil
	reason Reason
	rival  uint32 // xdp_synproxy's verdict; xdpAborted: it has nothing alike
}

// A handshake gets a SYN answered, and returns the ACK that completes it.
type handshake func(syn segment) segment

// ourHandshake uses the cookie's Go twin.
func ourHandshake(s segment) segment {
	o := Offer{MSS: 1460, WScale: 7, SACK: true, Timestamps: true, Remote: s.src, Local: s.dst}
	iss, tsval, _ := MakeCookie(testKeys(), o, s.seq, ticks())
	a := answer(packet{segment: segment{src: s.dst, dst: s.src, to: clientMAC, from: serverMAC, seq: iss}, tsval: tsval}, s.seq+1)
	a.fragment = dontFragment // as Linux clients do
	return a
}

// packets are n packets, and their frames.
func (c benchmark) packets(f family, n int, shake handshake) (segments []segment, frames [][]byte) {
	r := random(4)
	for i := range n {
		s := f.syn(linuxOptions(1460, 7))
		s.src = netip.AddrPortFrom(randomAddr(r, s.src.Addr()), uint16(1024+i))
		s.seq = r.Uint32()
		s = c.packet(s, shake)
		frame := s.frame()
		if c.edit != nil {
			c.edit(frame)
		}
		segments = append(segments, s)
		frames = append(frames, frame)
	}
	return segments, frames
}

// toUDP makes a frame say that it is UDP.
func toUDP(frame []byte) {
	if ip := frame[ethLen:]; ip[0]>>4 == 4 {
		ip[9] = unix.IPPROTO_UDP
		setIP4Checksum(ip)
	} else {
		ip[6] = unix.IPPROTO_UDP
	}
}

func (c benchmark) run(b *testing.B, f family) {
	p := load(b, options{spec: func(s *ebpf.CollectionSpec) {
		s.Maps["flows4"].MaxEntries, s.Maps["flows6"].MaxEntries = 1<<16, 1<<16
		must(b, s.Variables["cfg_reply_cap"].Set(uint32(1<<30))) // never reached, but counted
	}})
	segments, frames := c.packets(f, c.pool, ourHandshake)
	if c.reason == RedirectSegment {
		for _, s := range segments {
			key, table := p.flowKey(s.src, s.dst)
			must(b, table.Put(key, Handshake{Magic: HandshakeMagic, Iss: s.ack - 1001, Irs: s.seq - 1}))
			p.countFlow(s, 1)
		}
	}
	repeat := 1 << 18
	if c.reason == RedirectOpened {
		repeat = c.pool
	}

	var before [ReasonCount]uint64
	h := newHarness(b, frames)
	h.again = func() [][]byte {
		_, frames := c.packets(f, c.pool, ourHandshake)
		return frames
	}
	h.prepare = func() {
		if c.reason == RedirectOpened {
			p.deleteFlows(segments)
		}
		before = p.counters()
	}
	h.check = func() {
		want := before
		want[c.reason] += uint64(repeat)
		if got := p.counters(); got != want {
			b.Fatalf("counters are %v, want %v: not every packet was %s", got, want, reasonNames[c.reason])
		}
	}
	h.measure(p.Xdptcp, repeat)
}

// deleteFlows deletes the flows of these segments that exist: all, or none.
func (p *program) deleteFlows(segments []segment) {
	for _, s := range segments {
		key, table := p.flowKey(s.src, s.dst)
		if err := table.Delete(key); err != nil {
			return
		}
		p.countFlow(s, -1)
	}
}

// countFlow does for the sketch what whoever inserts or deletes a flow has to do.
func (p *program) countFlow(s segment, n int32) {
	c := testControl()
	hash := sketchHash(&c, s.src, s.dst, bits.Len32(p.Sketch.MaxEntries())-1+4)
	var word uint64
	must(p.tb, p.Sketch.Lookup(hash/16, &word))
	must(p.tb, p.Sketch.Put(hash/16, word+uint64(int64(n))<<(hash%16*4)))
}

func sketchHash(c *Control, remote, local netip.AddrPort, bits int) uint32 {
	var words []uint32
	for b := slices.Concat(remote.Addr().AsSlice(), local.Addr().AsSlice()); len(b) > 0; b = b[4:] {
		words = append(words, binary.NativeEndian.Uint32(b))
	}
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, remote.Port()), local.Port())
	return c.SketchHash(words, binary.NativeEndian.Uint32(ports), bits)
}

func benchmarkSipHash(b *testing.B) {
	r := random(5)
	var frames [][]byte
	for range 1024 {
		frame := make([]byte, 64)
		for i := range frame {
			frame[i] = byte(r.Uint32())
		}
		frames = append(frames, frame)
	}
	h := newHarness(b, frames)
	h.check = func() {
		out := make([]byte, 256)
		o := &ebpf.RunOptions{Data: frames[0], DataOut: out}
		_, err := h.Restore.Run(o)
		must(b, err)
		var next uint32
		must(b, h.NextFrame.Get(&next))
		frame := frames[(next-1)%uint32(len(frames))]
		want := siphash(&SiphashKey{}, 2, 4, frame[ethLen:ethLen+16])
		if got := binary.NativeEndian.Uint64(o.DataOut); got != want {
			b.Fatalf("hash %#x, want %#x", got, want)
		}
	}
	h.measure(h.Siphash2416, 1<<18)
}

// A harness times programs on a pool of frames of one length.
type harness struct {
	benchObjects
	b              *testing.B
	input          []byte
	filled         time.Time       // the pool
	again          func() [][]byte // makes its frames anew, if they have cookies, which age; may be nil
	prepare, check func()          // before and after the program's part of a round
}

// fresh is how long cookies are used, of those who give a client a minute to answer.
const fresh = 30 * time.Second

func newHarness(b *testing.B, frames [][]byte) *harness {
	b.Helper()
	spec, err := loadBench()
	must(b, err)
	spec.Maps["pool"].MaxEntries = uint32(len(frames))
	must(b, spec.Variables["pool_mask"].Set(uint32(len(frames)-1)))
	must(b, spec.Variables["frame_len"].Set(uint32(len(frames[0]))))
	h := &harness{b: b, input: frames[0], prepare: func() {}}
	must(b, spec.LoadAndAssign(&h.benchObjects, nil))
	b.Cleanup(func() { h.Close() })
	h.fill(frames)
	return h
}

// fill fills the pool.
func (h *harness) fill(frames [][]byte) {
	h.b.Helper()
	for i, f := range frames {
		var slot benchFrame
		if len(f) != len(h.input) || len(f)%2 != 0 {
			h.b.Fatalf("frame %d has %d bytes, the first one %d", i, len(f), len(h.input))
		}
		must(h.b, binary.Read(bytes.NewReader(slices.Concat(f, make([]byte, 128-len(f)))), binary.NativeEndian, &slot.Word))
		must(h.b, h.Pool.Put(uint32(i), &slot))
	}
	h.filled = time.Now()
}

// measure reports the time of a program per packet.
func (h *harness) measure(program *ebpf.Program, repeat int) {
	defer pin(h.b)()
	var net, alone []float64
	for h.b.Loop() {
		var with, without float64
		if len(net)%2 == 0 { // neither is always the first
			with, without = h.round(program, repeat), h.round(h.Empty, repeat)
		} else {
			without, with = h.round(h.Empty, repeat), h.round(program, repeat)
		}
		net = append(net, with-without)
		alone = append(alone, without)
	}
	h.b.ReportMetric(middle(net), "ns/op")
	h.b.ReportMetric(middle(alone), "harness-ns")
}

func (h *harness) round(program *ebpf.Program, repeat int) float64 {
	h.b.Helper()
	start := func() {
		must(h.b, h.NextFrame.Set(uint32(0)))
		if program == h.Empty {
			return
		}
		if h.again != nil && time.Since(h.filled) > fresh {
			h.fill(h.again())
		}
		h.prepare()
	}
	must(h.b, h.Target.Put(uint32(0), program))
	start()
	_, took, err := h.Restore.Benchmark(h.input, repeat, start) // start again if a signal comes
	must(h.b, err)
	var runs uint32
	must(h.b, h.NextFrame.Get(&runs))
	if runs != uint32(repeat) {
		h.b.Fatalf("%d runs, want %d", runs, repeat)
	}
	if program != h.Empty {
		h.check()
	}
	return float64(took.Nanoseconds())
}

// middle is the mean of the middle half.
func middle(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	v = v[len(v)/4 : len(v)-len(v)/4]
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// pin keeps the calling goroutine on one CPU, the last that it may use, until the function returned
// is called.
func pin(tb testing.TB) (unpin func()) {
	runtime.LockOSThread()
	var old, one unix.CPUSet
	must(tb, unix.SchedGetaffinity(0, &old))
	for cpu := len(old)*64 - 1; cpu >= 0; cpu-- {
		if old.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(tb, unix.SchedSetaffinity(0, &one))
	return func() {
		must(tb, unix.SchedSetaffinity(0, &old))
		runtime.UnlockOSThread()
	}
}

// The C hash computes the reference vector that fits it.
func TestSipHashVectorInBPF(t *testing.T) {
	needRoot(t)
	spec, err := loadBench()
	must(t, err)
	must(t, spec.Variables["hash_key"].Set([2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}))
	var o benchObjects
	must(t, spec.LoadAndAssign(&o, nil))
	defer o.Close()
	run := &ebpf.RunOptions{Data: append(make([]byte, ethLen), siphashMessage(16)...), DataOut: make([]byte, 64)}
	_, err = o.Siphash2416.Run(run)
	must(t, err)
	if got := binary.NativeEndian.Uint64(run.DataOut); got != 0x3f2acc7f57c29bdb {
		t.Errorf("SipHash-2-4 of 16 bytes is %#x", got)
	}
}
