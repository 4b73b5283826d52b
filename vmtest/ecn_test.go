// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// The codepoints of RFC 3168, 5.
const (
	ecnECT0 = 2
	ecnCE   = 3
)

// congest makes the wire a congested router for IPv6: of the segments whose sender speaks ECN it marks one of 32, and loses
// none. The lab must be one with PlainClient. The function returned says how many were marked in a direction.
func congest(t *testing.T, l *lab.Lab) (marked func(direction uint32) uint64) {
	t.Helper()
	marks, err := ebpf.NewMap(&ebpf.MapSpec{Name: "marks", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: directions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { marks.Close() })
	program := func(spec *ebpf.ProgramSpec, direction int32, data, dataEnd int16, pass int32) *ebpf.Program {
		const ethLen, class, proto, tcp = 14, 15, 20, 54
		spec.License = "GPL"
		spec.Instructions = asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, dataEnd, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R6), asm.Add.Imm(asm.R4, tcp),
			asm.JGT.Reg(asm.R4, asm.R3, "pass"),
			asm.LoadMem(asm.R4, asm.R6, ethLen-2, asm.Half), asm.JNE.Imm(asm.R4, 0xdd86, "pass"),
			asm.LoadMem(asm.R4, asm.R6, proto, asm.Byte), asm.JNE.Imm(asm.R4, 6, "pass"),
			asm.LoadMem(asm.R7, asm.R6, class, asm.Byte), // no checksum covers it
			asm.Mov.Reg(asm.R4, asm.R7), asm.And.Imm(asm.R4, 0x30), asm.JEq.Imm(asm.R4, 0, "pass"),
			asm.FnGetPrandomU32.Call(),
			asm.And.Imm(asm.R0, 31), asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.Or.Imm(asm.R7, 0x30), asm.StoreMem(asm.R6, class, asm.R7, asm.Byte),
			asm.StoreImm(asm.RFP, -4, int64(direction), asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, marks.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return(),
		}
		p, err := ebpf.NewProgram(spec)
		if err != nil {
			t.Fatalf("%+v", err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	// data and data_end in struct xdp_md and struct __sk_buff; XDP_PASS and TCX_NEXT.
	in := program(&ebpf.ProgramSpec{Name: "mark_in", Type: ebpf.XDP, AttachType: ebpf.AttachXDP}, toClient, 0, 4, 2)
	out := program(&ebpf.ProgramSpec{Name: "mark_out", Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXEgress}, toServer, 76, 80, -1)
	if err := l.Client.Do(func() error {
		// Or the tcx program would see few segments, of up to 64 KiB, that are cut behind it.
		if err := netlink.LinkSetGSOMaxSegs(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: l.Client.IfIndex}}, 1); err != nil {
			return err
		}
		inLink, err := link.AttachXDP(link.XDPOptions{Program: in, Interface: l.Client.IfIndex, Flags: link.XDPDriverMode})
		if err != nil {
			return err
		}
		t.Cleanup(func() { inLink.Close() })
		outLink, err := link.AttachTCX(link.TCXOptions{Program: out, Attach: ebpf.AttachTCXEgress, Interface: l.Client.IfIndex})
		if err != nil {
			return err
		}
		t.Cleanup(func() { outLink.Close() })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return func(direction uint32) (n uint64) {
		t.Helper()
		if err := marks.Lookup(direction, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// A congested router tells, and both ends hear it and slow down: nothing has to be lost for that (RFC 3168).
func TestCongestionIsToldWithoutLoss(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{PlainClient: true})
	// On a busy machine a SYN may time out; without the second the client would then ask for no ECN (RFC 3168, 6.1.1.1).
	for name, value := range map[string]string{"net.ipv4.tcp_ecn": "1", "net.ipv4.tcp_ecn_fallback": "0"} {
		if err := l.Client.SetSysctl(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Client.Offload(false); err != nil {
		t.Fatal(err)
	}
	marked := congest(t, l)
	d := attach(t, l)
	f := families(l)[1]
	tap := record(t, l)
	const size = 4_000_000
	if err := download(httpClient(t, l, time.Minute), f, size); err != nil {
		t.Error(err)
	}
	if err := upload(httpClient(t, l, time.Minute), f, payload(5, size)); err != nil {
		t.Error(err)
	}
	if marked(toClient) == 0 || marked(toServer) == 0 {
		t.Fatalf("%d segments were marked on the way to the client, %d to the server: want some", marked(toClient), marked(toServer))
	}
	if n, known := d.scrape()["xdptcp_retransmitted_segments_total"]; n > 20 || !known { // a stalled CPU is worth a tail loss probe
		t.Errorf("%v segments were sent again (%t)", n, known)
	}
	tr := tap.rest()
	tr.checkServer(t)
	tr.first(t, "an ECN-setup SYN", func(s segment) bool { return s.outgoing && s.flags == flagSYN|flagECE|flagCWR })
	tr.first(t, "a SYN/ACK that agrees", func(s segment) bool { return !s.outgoing && s.flags == flagSYN|flagACK|flagECE && s.ecn == 0 })
	later := func(s segment) bool { return s.flags&flagSYN == 0 }
	tr.first(t, "ECN-capable data of ours", func(s segment) bool { return !s.outgoing && s.ecn == ecnECT0 && len(s.payload) > 0 })
	tr.first(t, "the client's ECE", func(s segment) bool { return s.outgoing && later(s) && s.flags&flagECE != 0 })
	tr.first(t, "our CWR", func(s segment) bool { return !s.outgoing && later(s) && s.flags&flagCWR != 0 })
	tr.first(t, "our ECE", func(s segment) bool { return !s.outgoing && later(s) && s.flags&flagECE != 0 })
	tr.first(t, "the client's CWR", func(s segment) bool { return s.outgoing && later(s) && s.flags&flagCWR != 0 })
	for _, s := range tr {
		if !s.outgoing && len(s.payload) == 0 && s.ecn != 0 && s.ecn != ecnCE {
			t.Errorf("without data, but ECN-capable: %v", s)
		}
	}
}
