// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestAFlowKeyHasTheBytesOfThePacketAndComesBackAsTheSameFlow(t *testing.T) {
	v4 := wire.Flow{
		Remote: netip.MustParseAddr("::ffff:198.18.1.2").As16(), Local: netip.MustParseAddr("::ffff:192.0.2.1").As16(),
		RemotePort: 0x1234, LocalPort: 0x5678,
	}
	v6 := wire.Flow{
		Remote: netip.MustParseAddr("2001:db8::1:2").As16(), Local: netip.MustParseAddr("2001:db8::1").As16(),
		RemotePort: 0x1234, LocalPort: 0x5678,
	}
	if got := fromFlow4(flow4(v4)); got != v4 {
		t.Errorf("IPv4: %v", got)
	}
	if got := fromFlow6(flow6(v6)); got != v6 {
		t.Errorf("IPv6: %v", got)
	}
	if k := flow4(v4); netPort(k.RemotePort) != 0x1234 || k.RemotePort == k.LocalPort {
		t.Errorf("ports: %x", k)
	}
}

func TestABatchDeletesWhatIsThereAndSkipsWhatIsNot(t *testing.T) {
	m := loadProgram(t, nil).Flows4
	key := func(port uint16) bpf.Flow4 { return bpf.Flow4{Remote: 1, Local: 2, RemotePort: port, LocalPort: 80} }
	for _, row := range []struct {
		name                string
		have, delete, stays []uint16
	}{
		{"none", nil, nil, nil},
		{"all", []uint16{1, 2, 3}, []uint16{1, 2, 3}, nil},
		{"some", []uint16{1, 2, 3}, []uint16{3, 1}, []uint16{2}},
		{"one that is not there first", []uint16{1, 2}, []uint16{9, 1, 2}, nil},
		{"some that are not there in the middle", []uint16{1, 2}, []uint16{1, 8, 9, 2}, nil},
		{"one that is not there last", []uint16{1, 2, 3}, []uint16{2, 1, 9}, []uint16{3}},
		{"none that is there", []uint16{1}, []uint16{8, 9}, []uint16{1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, port := range row.have {
				if err := m.Put(key(port), bpf.Handshake{}); err != nil {
					t.Fatal(err)
				}
			}
			var keys []bpf.Flow4
			for _, port := range row.delete {
				keys = append(keys, key(port))
			}
			var gone, stays []uint16
			if err := deleteBatch(m, keys, func(k bpf.Flow4) { gone = append(gone, k.RemotePort) }); err != nil {
				t.Fatal(err)
			}
			for _, port := range row.have {
				if m.Lookup(key(port), new(bpf.Handshake)) == nil {
					stays = append(stays, port)
					if err := m.Delete(key(port)); err != nil {
						t.Fatal(err)
					}
				} else if !slices.Contains(gone, port) {
					t.Errorf("%d is gone, and was not counted", port)
				}
			}
			if !slices.Equal(stays, row.stays) || len(gone)+len(stays) != len(row.have) {
				t.Errorf("%v are gone, %v stay; want %v to stay", gone, stays, row.stays)
			}
		})
	}
}
