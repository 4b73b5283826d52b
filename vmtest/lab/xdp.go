// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attachPass puts an XDP program that passes everything on the host's interface,
// natively. It is there for what it makes the driver do: a veth end with a
// program has a NAPI receive loop, and only then does XDP_TX from the other end
// get through. The link returned must be kept: when the garbage collector takes
// it, the program goes.
func (h *Host) attachPass() (link.Link, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:       "lab_pass",
		Type:       ebpf.XDP,
		AttachType: ebpf.AttachXDP,
		// xdp.frags: without it the program would cap the other end's MTU at 3506.
		Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), // XDP_PASS, linux/bpf.h
			asm.Return(),
		},
		License: "MIT",
	})
	if err != nil {
		return nil, fmt.Errorf("%s: load XDP_PASS: %w%s", h.Name, err, advice(err))
	}
	defer prog.Close() // the link holds it

	var l link.Link
	err = h.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{
			Program:   prog,
			Interface: h.IfIndex, // an index of the calling thread's namespace
			Flags:     link.XDPDriverMode,
		})
		return err
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("%s: attach XDP_PASS to %s: %w; XDP links and frags need Linux 5.18", h.Name, h.Iface, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: attach XDP_PASS to %s: %w%s", h.Name, h.Iface, err, advice(err))
	}
	return l, nil
}
