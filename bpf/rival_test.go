// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"flag"
	"testing"

	"github.com/cilium/ebpf"
)

var rivalObject = flag.String("rival", "", "BPF object of the kernel's selftest xdp_synproxy, for BenchmarkXDP; vmtest/rivals.sh makes it")

// A rival is the XDP program of the kernel's selftest xdp_synproxy, which answers SYNs to one port with
// the kernel's own cookies, and checks final ACKs. It does less than ours: it makes no flow, but passes a
// valid ACK up, and netfilter's SYNPROXY checks the cookie once more. And it is stricter: what is TCP, to
// whatever port, and neither SYN nor valid ACK nor of a connection in conntrack is dropped. So what it has
// no part in is UDP here.
type rival struct {
	b       *testing.B
	program *ebpf.Program
	values  *ebpf.Map
}

func loadRival(b *testing.B, port uint16) *rival {
	b.Helper()
	spec, err := ebpf.LoadCollectionSpec(*rivalObject)
	if err != nil {
		b.Fatalf("-rival %s: %v", *rivalObject, err)
	}
	var o struct {
		Program *ebpf.Program `ebpf:"syncookie_xdp"`
		Values  *ebpf.Map     `ebpf:"values"`
		Ports   *ebpf.Map     `ebpf:"allowed_ports"`
	}
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		b.Fatalf("-rival %s: load it: %v; it needs conntrack in the kernel (modprobe nf_conntrack)", *rivalObject, err)
	}
	b.Cleanup(func() {
		o.Program.Close()
		o.Values.Close()
		o.Ports.Close()
	})
	const mss4, wscale, ttl, mss6 = 1460, 7, 64, 1440 // as in its selftest
	must(b, o.Values.Put(uint32(0), uint64(mss4|wscale<<16|ttl<<24|mss6<<32)))
	must(b, o.Ports.Put(uint32(0), port))
	return &rival{b: b, program: o.Program, values: o.Values}
}

// synacks is how many SYNs it says to have answered.
func (r *rival) synacks() (n uint64) {
	r.b.Helper()
	must(r.b, r.values.Lookup(uint32(1), &n))
	return n
}

func (r *rival) run(frame []byte) result {
	r.b.Helper()
	out, err := testRun(r.program.FD(), frame, xdpMD{DataEnd: uint32(len(frame))}, make([]byte, len(frame)+512))
	must(r.b, err)
	return out
}

func (r *rival) handshake(s segment) segment {
	r.b.Helper()
	got := r.run(s.frame())
	if got.verdict != xdpTx {
		r.b.Fatalf("xdp_synproxy: a SYN is not answered: %s", verdictNames[got.verdict])
	}
	synack, err := decode(got.frame)
	must(r.b, err)
	a := answer(synack, s.seq+1)
	a.fragment = dontFragment // it drops what may be fragmented
	r.expect([][]byte{a.frame()}, xdpPass)
	return a
}

// expect checks the verdict of each frame by itself.
func (r *rival) expect(frames [][]byte, verdict uint32) {
	r.b.Helper()
	for i, frame := range frames {
		if got := r.run(frame).verdict; got != verdict {
			r.b.Fatalf("xdp_synproxy: frame %d: %s, want %s", i, verdictNames[got], verdictNames[verdict])
		}
	}
}

// runRival is run for the rival. It counts SYN/ACKs only, so of other verdicts each packet's is looked at
// before and after every round: the program keeps nothing, so it is the same in between.
func (c benchmark) runRival(b *testing.B, f family) {
	const pool, repeat = 1024, 1 << 18
	r := loadRival(b, f.server.Port())
	_, frames := c.packets(f, pool, r.handshake)

	var before uint64
	h := newHarness(b, frames)
	h.again = func() [][]byte {
		_, frames = c.packets(f, pool, r.handshake)
		return frames
	}
	h.prepare = func() {
		r.expect(frames, c.rival)
		before = r.synacks()
	}
	h.check = func() {
		want := before
		if c.rival == xdpTx {
			want += repeat
		}
		if got := r.synacks(); got != want {
			b.Fatalf("xdp_synproxy counts %d SYN/ACKs, want %d", got, want)
		}
		r.expect(frames, c.rival)
	}
	h.measure(r.program, repeat)
}
