// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/xdptcp/xdptcp/bpf"
)

// serviceTables say which packets are ours, in the form that XDP looks it up: a set of services (bits)
// for each port, and one for each address. A packet is for the services in both.
type serviceTables struct {
	ports   map[uint16]uint64 // by port
	locals4 [bpf.LocalSlots]bpf.Local4
	locals6 [bpf.LocalSlots]bpf.Local6
}

func newServiceTables(services []Service, own []netip.Addr) (*serviceTables, error) {
	t := &serviceTables{ports: map[uint16]uint64{}}
	addrs := map[netip.Addr]uint64{}
	for i, svc := range services {
		bit := uint64(1) << i
		t.ports[svc.Port] |= bit
		if svc.Addr.IsValid() {
			addrs[svc.Addr] |= bit
			continue
		}
		for _, a := range own {
			addrs[a] |= bit
		}
	}
	for a, set := range addrs {
		if !t.put(a, set) {
			return nil, fmt.Errorf("%d local addresses are too many for the lookup table: give fewer with ADDR:PORT", len(addrs))
		}
	}
	return t, nil
}

// put enters an address in one of the LocalProbes slots that XDP looks at; false: they are taken.
func (t *serviceTables) put(a netip.Addr, set uint64) bool {
	for i := range uint32(bpf.LocalProbes) {
		if s4, s6 := t.slot(a, i); s4 != nil && s4.Services == 0 {
			*s4 = bpf.Local4{Services: set, Addr: words(a)[0]}
			return true
		} else if s6 != nil && s6.Services == 0 {
			*s6 = bpf.Local6{Services: set, Addr: [4]uint32(words(a))}
			return true
		}
	}
	return false
}

// slot is the i-th slot that an address may be in; one of the two is nil.
func (t *serviceTables) slot(a netip.Addr, i uint32) (*bpf.Local4, *bpf.Local6) {
	var folded uint32
	for _, w := range words(a) {
		folded ^= w
	}
	i = (bpf.LocalSlot(folded) + i) % bpf.LocalSlots
	if a.Is4() {
		return &t.locals4[i], nil
	}
	return nil, &t.locals6[i]
}

// words are an address's 32-bit words as they lie in a packet: one or four.
func words(a netip.Addr) (list []uint32) {
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		list = append(list, binary.NativeEndian.Uint32(b))
	}
	return list
}

// write enters the tables into the maps: the addresses first, the ports that lead to them last.
func (t *serviceTables) write(m *bpf.Objects) error {
	for i := range uint32(bpf.LocalSlots) {
		if err := m.Locals4.Put(i, t.locals4[i]); err != nil {
			return fmt.Errorf("map locals4: %w", err)
		}
		if err := m.Locals6.Put(i, t.locals6[i]); err != nil {
			return fmt.Errorf("map locals6: %w", err)
		}
	}
	for port, set := range t.ports {
		var be [2]byte
		binary.BigEndian.PutUint16(be[:], port)
		if err := m.Ports.Put(uint32(binary.NativeEndian.Uint16(be[:])), set); err != nil {
			return fmt.Errorf("map ports: %w", err)
		}
	}
	return nil
}
