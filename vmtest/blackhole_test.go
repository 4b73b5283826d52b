// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// The client's end takes 1300 bytes of IP, tells nobody, and offered an MSS of 1460: what a tunnel does whose ICMP errors a
// firewall throws away.
func TestATransferFindsItsWayThroughABlackHole(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{PlainClient: true})
	swallow(t, l, 1300)
	attach(t, l)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			c := httpClient(t, l, patience)
			c.Transport.(*http.Transport).MaxConnsPerHost = 1
			if err := download(c, f, 1_000_000); err != nil {
				t.Fatal(err)
			}
			b, err := fetch(c, f.url("/json"))
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Connection struct {
					MSS         int `json:"mss"`
					SegmentSize int `json:"segment_size"`
				} `json:"connection"`
			}
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			if mss, size := got.Connection.MSS, got.Connection.SegmentSize; mss < 1400 || size != 1220-12 {
				t.Errorf("segments of %d bytes to a client that offered %d, want 1208", size, mss)
			}
		})
	}
}

// swallow makes the client's end lose all packets above an MTU.
func swallow(t *testing.T, l *lab.Lab, mtu int32) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "swallow", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Flags: unix.BPF_F_XDP_HAS_FRAGS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
			asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
			asm.Sub.Reg(asm.R3, asm.R2),
			asm.Mov.Imm(asm.R0, 1), // XDP_DROP
			asm.JGT.Imm(asm.R3, 14+mtu, "drop"),
			asm.Mov.Imm(asm.R0, 2), // XDP_PASS
			asm.Return().WithSymbol("drop"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if err := l.Client.Do(func() error {
		k, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: l.Client.IfIndex, Flags: link.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { k.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
