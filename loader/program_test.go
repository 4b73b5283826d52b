// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"math"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/xdptcp/xdptcp/bpf"
)

// loadProgram loads the real program and its maps, attached to nothing.
func loadProgram(t *testing.T, constants map[string]any) *bpf.Objects {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("loading BPF programs takes root, and with CI=true nothing is skipped")
		}
		t.Skip("loading BPF programs takes root")
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.Load()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []string{"flows4", "flows6"} {
		spec.Maps[m].MaxEntries = 1 << 10
	}
	spec.Maps["lists4"].MaxEntries, spec.Maps["lists6"].MaxEntries = listRoom, listRoom
	objects := new(bpf.Objects)
	if err := spec.LoadAndAssign(objects, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { objects.Close() })
	if err := objects.Controls.Put(uint32(0), bpf.Control{Lease: math.MaxUint64, Armed: math.MaxUint64}); err != nil {
		t.Fatal(err)
	}
	return objects
}

// XDP's verdicts, from linux/bpf.h.
const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3
)

// synMeets gives the program a SYN, and returns its verdict.
func synMeets(t *testing.T, objects *bpf.Objects, from netip.Addr, to netip.AddrPort) uint32 {
	t.Helper()
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	tcp[12], tcp[13] = 5<<4, 2
	var ip []byte
	proto := []byte{0x86, 0xdd}
	if to.Addr().Is4() {
		proto = []byte{0x08, 0}
		ip = append([]byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0}, from.AsSlice()...)
		ip = append(ip, to.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
	} else {
		ip = append([]byte{0x60, 0, 0, 0, 0, 20, 6, 64}, from.AsSlice()...)
		ip = append(ip, to.Addr().AsSlice()...)
	}
	pseudo := append(append(from.AsSlice(), to.Addr().AsSlice()...), 0, 6, 0, 20)
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(append(pseudo, tcp...)))
	frame := append(make([]byte, 12, 100), proto...) // from and to the MAC address 0
	frame = append(append(frame, ip...), tcp...)
	verdict, err := objects.Xdptcp.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, 256)})
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}

func sum16(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
