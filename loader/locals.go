package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/xdptcp/xdptcp/bpf"
)

// services says which packets are ours, in the form that XDP looks it up: a set of services (bits)
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

// put enters an address in one of the LocalProbes slots that XDP looks at.
func (t *serviceTables) put(a netip.Addr, set uint64) bool {
	if a.Is4() {
		b := a.As4()
		word := binary.NativeEndian.Uint32(b[:])
		for i := range uint32(bpf.LocalProbes) {
			slot := &t.locals4[(bpf.LocalSlot(word)+i)%bpf.LocalSlots]
			if slot.Services == 0 {
				*slot = bpf.Local4{Services: set, Addr: word}
				return true
			}
		}
		return false
	}
	var words [4]uint32
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	for i := range uint32(bpf.LocalProbes) {
		slot := &t.locals6[(bpf.LocalSlot(words[0]^words[1]^words[2]^words[3])+i)%bpf.LocalSlots]
		if slot.Services == 0 {
			*slot = bpf.Local6{Services: set, Addr: words}
			return true
		}
	}
	return false
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
