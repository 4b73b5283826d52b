// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/xdptcp/xdptcp/bpf"
)

// locals are the maps of single addresses, locals4 and locals6, and what is in them: see config.h for how
// XDP looks an address up.
type locals struct {
	map4, map6 *ebpf.Map
	slots4     [bpf.LocalSlots]bpf.Local4
	slots6     [bpf.LocalSlots]bpf.Local6
}

// put makes a set of services the one of an address; none of them takes the address out. XDP reads the
// slots meanwhile, and may see half of what is written. So a slot's address is written while it is free, and
// its services after that: no other address is missed or mistaken for this one.
func (l *locals) put(a netip.Addr, services uint64) error {
	free := -1
	for i := range bpf.LocalProbes {
		i = l.slot(a, i)
		held, at := l.at(a.Is4(), i)
		if held != 0 && at == a {
			return l.write(a, i, services)
		}
		if held == 0 && free < 0 {
			free = i
		}
	}
	if services == 0 {
		return nil
	}
	if free < 0 {
		return fmt.Errorf("no room for %v: its %d slots of the lookup table are taken by other addresses", a, bpf.LocalProbes)
	}
	if err := l.write(a, free, 0); err != nil {
		return err
	}
	return l.write(a, free, services)
}

// slot is the number of the i-th slot that an address may be in.
func (l *locals) slot(a netip.Addr, i int) int {
	var folded uint32
	for _, w := range words(a) {
		folded ^= w
	}
	return (int(bpf.LocalSlot(folded)) + i) % bpf.LocalSlots
}

// at is what a slot holds.
func (l *locals) at(v4 bool, i int) (services uint64, a netip.Addr) {
	if v4 {
		s := &l.slots4[i]
		return s.Services, netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, s.Addr)))
	}
	s := &l.slots6[i]
	var b []byte
	for _, w := range s.Addr {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return s.Services, netip.AddrFrom16([16]byte(b))
}

func (l *locals) write(a netip.Addr, i int, services uint64) error {
	var err error
	if a.Is4() {
		l.slots4[i] = bpf.Local4{Services: services, Addr: words(a)[0]}
		err = l.map4.Put(uint32(i), l.slots4[i])
	} else {
		l.slots6[i] = bpf.Local6{Services: services, Addr: [4]uint32(words(a))}
		err = l.map6.Put(uint32(i), l.slots6[i])
	}
	if err != nil {
		return fmt.Errorf("map of local addresses: %v: %w", a, err)
	}
	return nil
}

// words are an address's 32-bit words as they lie in a packet: one or four.
func words(a netip.Addr) (list []uint32) {
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		list = append(list, binary.NativeEndian.Uint32(b))
	}
	return list
}
