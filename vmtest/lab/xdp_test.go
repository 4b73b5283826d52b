// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

func TestXDPTXArrivesThanksToTheClientsProgram(t *testing.T) {
	for _, o := range []Options{{}, {Queues: 2}, {PlainClient: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			l := ForTest(t, o)
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Type:         ebpf.XDP,
				AttachType:   ebpf.AttachXDP,
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 3), asm.Return()}, // XDP_TX
				License:      "MIT",
			})
			if err != nil {
				t.Fatal(err)
			}
			defer prog.Close()
			frame := bytes.Join([][]byte{l.Client.MAC, l.Server.MAC, {0x88, 0xb5}, bytes.Repeat([]byte{0xa5}, 46)}, nil)

			tap, err := l.Client.Capture(CaptureOptions{})
			if err != nil {
				t.Fatal(err)
			}
			err = l.Server.Do(func() error {
				k, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Server.IfIndex, Flags: link.XDPDriverMode})
				if err == nil {
					t.Cleanup(func() { k.Close() })
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			err = l.Client.Do(func() error {
				fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Client.IfIndex})
			})
			if err != nil {
				t.Fatal(err)
			}
			wait := 2 * time.Second
			if o.PlainClient {
				wait = 50 * time.Millisecond
			}
			back := false
			for late := time.After(wait); !back; {
				select {
				case p := <-tap.Packets():
					back = !p.Outgoing && bytes.Equal(p.Data, frame)
					continue
				case <-late:
				}
				break
			}
			if back == o.PlainClient {
				t.Errorf("the frame came back: %t, want %t", back, !o.PlainClient)
			}
		})
	}
}
