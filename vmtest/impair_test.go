// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/perf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// An impairment says which frames an impaired wire may harm: TCP of one IP version that fits all
// that is given.
type impairment struct {
	v4         bool
	clientPort uint16 // 0: any
	flags      byte   // the flags of a segment without payload; 0: any segment
}

// A wire is the cable between the two hosts, with a fault at the client's end: an XDP program (for
// what the server sends) and a tcx program (for what the client sends) that lose frames at random, put them
// aside for a while, so that others overtake them, or let a copy of them follow.
//
// The host kernels of test machines lack netem; this needs only BPF.
type wire struct {
	faults *ebpf.Map // see set: probabilities and counts, for each direction
}

// The directions, and the words of the fault map for each.
const (
	toClient = iota
	toServer
	directions
)

const (
	wordDrop    = iota // probability of loss, in units of 2^-32
	wordDelay          // of being put aside
	wordDouble         // of being followed by a copy
	wordBudget         // how many frames may be harmed at all
	wordDropped        // how many were
	wordDelayed
	wordDoubled
	words
)

// impair makes a wire, faultless until set or lose is called. The lab must be one with PlainClient.
func impair(t *testing.T, l *lab.Lab, im impairment) *wire {
	t.Helper()
	w := &wire{}
	faults, err := ebpf.NewMap(&ebpf.MapSpec{Name: "faults", Type: ebpf.Array, KeySize: 4, ValueSize: 8 * words, MaxEntries: directions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { faults.Close() })
	w.faults = faults
	aside, err := ebpf.NewMap(&ebpf.MapSpec{Name: "aside", Type: ebpf.PerfEventArray})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { aside.Close() })
	w.reinject(t, l, aside)

	in := w.program(t, &ebpf.ProgramSpec{Name: "wire_in", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Flags: unix.BPF_F_XDP_HAS_FRAGS}, toClient, im, aside)
	out := w.program(t, &ebpf.ProgramSpec{Name: "wire_out", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXEgress}, toServer, im, aside)
	var inLink, outLink link.Link
	t.Cleanup(func() {
		for _, k := range []link.Link{inLink, outLink} {
			if k != nil {
				k.Close()
			}
		}
	})
	if err := l.Client.Do(func() (err error) {
		// Or the tcx program would see, and lose, bundles of up to 64 KiB that are cut behind it.
		if err = netlink.LinkSetGSOMaxSegs(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: l.Client.IfIndex}}, 1); err != nil {
			return err
		}
		if inLink, err = link.AttachXDP(link.XDPOptions{Program: in, Interface: l.Client.IfIndex, Flags: link.XDPDriverMode}); err != nil {
			return err
		}
		outLink, err = link.AttachTCX(link.TCXOptions{Program: out, Attach: ebpf.AttachTCXEgress, Interface: l.Client.IfIndex})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// harm gives both directions the probabilities for frames to be lost, to be put aside, and to be doubled.
func (w *wire) harm(t *testing.T, drop, delay, double float64) {
	t.Helper()
	w.put(t, toClient, drop, delay, double, math.MaxInt64)
	w.put(t, toServer, drop, delay, double, math.MaxInt64)
}

// set is harm that doubles nothing.
func (w *wire) set(t *testing.T, drop, delay float64) {
	t.Helper()
	w.harm(t, drop, delay, 0)
}

// lose makes the next n frames in one direction get lost.
func (w *wire) lose(t *testing.T, direction uint32, n uint64) {
	t.Helper()
	w.put(t, direction, 1, 0, 0, n)
}

func (w *wire) put(t *testing.T, direction uint32, drop, delay, double float64, budget uint64) {
	t.Helper()
	chance := func(p float64) uint64 { return uint64(p * (1 << 32)) }
	if err := w.faults.Put(direction, [words]uint64{
		wordDrop: chance(drop), wordDelay: chance(delay), wordDouble: chance(double), wordBudget: budget,
	}); err != nil {
		t.Fatal(err)
	}
}

func (w *wire) count(t *testing.T, word int) (n uint64) {
	t.Helper()
	for d := range uint32(directions) {
		var v [words]uint64
		if err := w.faults.Lookup(d, &v); err != nil {
			t.Fatal(err)
		}
		n += v[word]
	}
	return n
}

// dropped is how many frames were lost since the last set or lose, both directions together.
func (w *wire) dropped(t *testing.T) uint64 { t.Helper(); return w.count(t, wordDropped) }

// delayed is how many were put aside.
func (w *wire) delayed(t *testing.T) uint64 { t.Helper(); return w.count(t, wordDelayed) }

// doubled is how many were followed by a copy.
func (w *wire) doubled(t *testing.T) uint64 { t.Helper(); return w.count(t, wordDoubled) }

// program writes the fault down for one of the two hooks. Both contexts begin alike enough: data and
// data_end are at the offsets below.
func (w *wire) program(t *testing.T, spec *ebpf.ProgramSpec, direction int32, im impairment, aside *ebpf.Map) *ebpf.Program {
	t.Helper()
	// struct xdp_md and struct __sk_buff of linux/bpf.h; XDP_DROP, XDP_PASS and TCX_NEXT.
	data, dataEnd, pass := int16(0), int16(4), int32(2)
	lose := asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
	output := asm.FnPerfEventOutput
	if spec.Type == ebpf.SchedCLS {
		data, dataEnd, pass = 76, 80, -1
		// Not TCX_DROP: the kernel's TCP would be told, and count the segment as never sent. What is redirected to an
		// interface that there is not has left, as far as it knows.
		lose = asm.Instructions{asm.Mov.Imm(asm.R1, math.MaxInt32), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return()}
	}
	lose[0] = lose[0].WithSymbol("lose")
	etherType, tcp, protoAt := int32(0x0008), int16(34), int16(23)
	if !im.v4 {
		etherType, tcp, protoAt = 0xdd86, 54, 20
	}
	port := tcp
	if direction == toClient {
		port += 2 // its destination
	}
	is := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, data, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, dataEnd, asm.Word),
		asm.Mov.Reg(asm.R7, asm.R3),
		asm.Sub.Reg(asm.R7, asm.R2), // length; of a tcx frame only what is in the skb's head
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, int32(tcp)+20),
		asm.JGT.Reg(asm.R4, asm.R3, "pass"),
		asm.LoadMem(asm.R4, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R4, etherType, "pass"),
		asm.LoadMem(asm.R4, asm.R2, protoAt, asm.Byte),
		asm.JNE.Imm(asm.R4, 6, "pass"),
	}
	if im.clientPort != 0 {
		is = append(is, asm.LoadMem(asm.R4, asm.R2, port, asm.Half),
			asm.JNE.Imm(asm.R4, int32(im.clientPort>>8|im.clientPort<<8), "pass"))
	}
	if im.flags != 0 {
		is = append(is, asm.LoadMem(asm.R4, asm.R2, tcp+13, asm.Byte),
			asm.JNE.Imm(asm.R4, int32(im.flags), "pass"),
			// No payload: the frame ends with the TCP header.
			asm.LoadMem(asm.R4, asm.R2, tcp+12, asm.Byte),
			asm.RSh.Imm(asm.R4, 4), asm.LSh.Imm(asm.R4, 2),
			asm.Add.Imm(asm.R4, int32(tcp)),
			asm.JNE.Reg(asm.R4, asm.R7, "pass"))
	}
	if spec.Type == ebpf.SchedCLS {
		is = append(is, asm.LoadMem(asm.R7, asm.R6, 0, asm.Word)) // skb->len
	}
	is = append(is,
		asm.StoreImm(asm.RFP, -4, int64(direction), asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, w.faults.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.FnGetPrandomU32.Call(),
		asm.Mov.Reg(asm.R9, asm.R0), // a random number
		asm.LoadMem(asm.R4, asm.R8, 8*wordDrop, asm.DWord),
		asm.LoadMem(asm.R5, asm.R8, 8*wordDelay, asm.DWord),
		asm.Add.Reg(asm.R5, asm.R4),
		asm.LoadMem(asm.R3, asm.R8, 8*wordDouble, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R5),
		asm.JGE.Reg(asm.R9, asm.R3, "pass"), // none of these
		// One of the budget. It is not below zero long: the frame then passes.
		asm.Mov.Imm(asm.R1, -1),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, 8*wordBudget),
		asm.LoadMem(asm.R1, asm.R8, 8*wordBudget, asm.DWord),
		asm.JSLT.Imm(asm.R1, 0, "pass"),
		asm.Mov.Imm(asm.R1, 1),
		asm.JGE.Reg(asm.R9, asm.R5, "double"),
		asm.JGE.Reg(asm.R9, asm.R4, "delay"),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, 8*wordDropped),
		asm.Ja.Label("lose"),

		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, 8*wordDoubled).WithSymbol("double"),
		asm.Mov.Imm(asm.R9, 1), // it goes on, too
		asm.Ja.Label("aside"),
		asm.AddAtomic.Mem(asm.R8, asm.R1, asm.DWord, 8*wordDelayed).WithSymbol("delay"),
		asm.Mov.Imm(asm.R9, 0),
		// The frame, or its copy, goes to user space with its direction in front, and comes back later.
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("aside"),
		asm.LoadMapPtr(asm.R2, aside.FD()),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.LSh.Imm(asm.R3, 32), // BPF_F_CTXLEN_MASK: how much of the frame
		asm.LoadImm(asm.R4, 0xffffffff, asm.DWord),
		asm.Or.Reg(asm.R3, asm.R4), // BPF_F_CURRENT_CPU
		asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, -4),
		asm.Mov.Imm(asm.R5, 4),
		output.Call(),
		asm.JEq.Imm(asm.R9, 0, "lose"),

		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return(),
	)
	is = append(is, lose...)
	spec.Instructions, spec.License = is, "GPL" // perf_event_output is for GPL programs
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// asideFor is how long a frame is put aside: dozens overtake it.
const asideFor = 2 * time.Millisecond

// reinject sends what was put aside, late. From the client it goes out past the tcx program; from the
// server it may meet the XDP program again, and its luck.
func (w *wire) reinject(t *testing.T, l *lab.Lab, aside *ebpf.Map) {
	t.Helper()
	reader, err := perf.NewReader(aside, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	senders := [directions]*sender{toClient: newSender(t, l.Server), toServer: newSender(t, l.Client)}
	type late struct {
		at        time.Time
		direction uint32
		frame     []byte
		length    int
	}
	queue, done := make(chan late, 1<<14), make(chan struct{})
	t.Cleanup(func() {
		reader.Close()
		<-done
	})
	go func() {
		defer close(queue)
		for {
			r, err := reader.Read()
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("frames put aside: %v", err)
				return
			}
			if len(r.RawSample) > 4 {
				queue <- late{time.Now(), binary.NativeEndian.Uint32(r.RawSample), bytes.Clone(r.RawSample[4:]), 0}
			}
		}
	}()
	go func() {
		defer close(done)
		for f := range queue {
			time.Sleep(asideFor - time.Since(f.at))
			if n := frameLen(f.frame); n <= len(f.frame) { // perf pads
				_ = senders[f.direction].send(f.frame[:n]) // lost, then
			}
		}
	}()
}

// frameLen is the length of an IP frame by its own header.
func frameLen(b []byte) int {
	if len(b) < 54 {
		return len(b) + 1
	}
	if b[12] == 0x08 {
		return 14 + int(binary.BigEndian.Uint16(b[16:]))
	}
	return 54 + int(binary.BigEndian.Uint16(b[18:]))
}
