// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// An address is found in each slot that user space may have put it into, also where the table wraps
// around, and not in the slot behind.
func TestLocalAddressSlots(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a := netip.AddrPortFrom(lastSlotAddr(t, f.server.Addr()), 443)
			s := f.syn(linuxOptions(1460, 7))
			s.dst = a
			for probe := range uint32(LocalProbes + 1) {
				p := load(t, options{noSocket: true})
				want := TxSynAck
				if probe == LocalProbes {
					want = PassNotLocal
				}
				p.serve(a, 1<<3, probe) // with free slots before it
				p.expect(s.frame(), want)
				filler := f.server.Addr()
				for before := range probe { // and with other addresses there
					filler = filler.Next()
					word, _, _ := localEntry(a.Addr(), 0, p)
					_, table, slot := localEntry(filler, 1<<3, p)
					must(t, table.Put((LocalSlot(word)+before)%LocalSlots, slot))
				}
				p.expect(s.frame(), want)
			}
		})
	}
}

// An address that falls into a slot where another one is, is not ours: every bit counts.
func TestAnotherAddressInTheSlot(t *testing.T) {
	p := load(t, options{noSocket: true})
	for _, f := range families {
		for bit := range 8 * len(f.server.Addr().AsSlice()) {
			t.Run(fmt.Sprintf("%s differs in bit %d", f.name, bit), func(t *testing.T) {
				b := f.server.Addr().AsSlice()
				b[bit/8] ^= 0x80 >> (bit % 8)
				a, _ := netip.AddrFromSlice(b)
				word, _, _ := localEntry(a, 0, p)
				_, table, slot := localEntry(f.server.Addr(), 1<<3, p)
				must(t, table.Put(LocalSlot(word), slot))
				s := f.syn(linuxOptions(1460, 7))
				s.dst = netip.AddrPortFrom(a, 443)
				p.with(t).expect(s.frame(), PassNotLocal)
			})
		}
	}
}

// lastSlotAddr finds an address whose first slot is the last but one.
func lastSlotAddr(t *testing.T, a netip.Addr) netip.Addr {
	for range 1 << 20 {
		a = a.Next()
		var word uint32
		for b := a.AsSlice(); len(b) > 0; b = b[4:] {
			word ^= binary.NativeEndian.Uint32(b)
		}
		if LocalSlot(word) == LocalSlots-2 {
			return a
		}
	}
	t.Fatal("no address falls into the last but one slot")
	return a
}

// A flow goes to the socket of the queue that its packet came in on. The loopback device of the other
// tests has one queue, so this test makes a device with two.
func TestQueueChoosesSocket(t *testing.T) {
	p := load(t, options{noSocket: true})
	inNewNetns(t, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "peer"}
		veth.Name, veth.NumRxQueues, veth.NumTxQueues = "queues", 2, 2
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		link, err := netlink.LinkByName(veth.Name)
		if err != nil {
			return err
		}
		ifindex := link.Attrs().Index
		if err := p.insertSocket(1, ifindex, 1); err != nil {
			return err
		}
		for queue, want := range []uint32{xdpDrop, xdpRedirect} {
			s, _ := p.finalAck(t, families[0], linuxOptions(1460, 7), uint16(1000+queue))
			md := xdpMD{IngressIfindex: uint32(ifindex), RxQueueIndex: uint32(queue)}
			if r := p.runUncounted(s.frame(), md); r.verdict != want {
				t.Errorf("queue %d: verdict %s, want %s", queue, verdictNames[r.verdict], verdictNames[want])
			}
		}
		return nil
	})
}
