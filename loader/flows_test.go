// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

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

func TestAllFlowsOfBothTablesAreGiven(t *testing.T) {
	objects := loadProgram(t, nil)
	table := &flowTable{flows4: objects.Flows4, flows6: objects.Flows6}
	want := map[wire.Flow]bool{}
	for i := range 1 << 10 { // all that the tables hold
		v4 := wire.Flow{Remote: netip.MustParseAddr("::ffff:198.18.1.2").As16(), Local: netip.MustParseAddr("::ffff:192.0.2.1").As16(), RemotePort: uint16(i), LocalPort: 80}
		v6 := wire.Flow{Remote: netip.MustParseAddr("2001:db8::1:2").As16(), Local: netip.MustParseAddr("2001:db8::1").As16(), RemotePort: uint16(i), LocalPort: 80}
		binary.BigEndian.PutUint16(v4.Remote[14:], uint16(i*7919))
		k4, k6 := flow4(v4), flow6(v6)
		if err := table.flows4.Put(&k4, bpf.Handshake{}); err != nil {
			t.Fatal(err)
		}
		if err := table.flows6.Put(&k6, bpf.Handshake{}); err != nil {
			t.Fatal(err)
		}
		want[v4], want[v6] = true, true
	}
	seen := 0
	if err := table.Flows(func(f wire.Flow) bool {
		seen++
		if !want[f] {
			t.Errorf("%v was given twice, or is in no table", f)
		}
		delete(want, f)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(want) > 0 {
		t.Errorf("%d of %d flows were not given", len(want), seen+len(want))
	}
	calls := 0
	if err := table.Flows(func(wire.Flow) bool { calls++; return calls < 3 }); err != nil || calls != 3 {
		t.Errorf("%d calls after the third said that it is enough, %v", calls, err)
	}
}

func TestFlowsAreReadInMoreThanOneBatch(t *testing.T) {
	loadProgram(t, nil) // which says what happens without root
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 12, ValueSize: bpf.HandshakeSize, MaxEntries: 5 * flowBatch})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range uint32(5 * flowBatch) {
		if err := m.Put(bpf.Flow4{Remote: i}, bpf.Handshake{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[wire.Flow]bool{}
	more, err := eachFlow(m, fromFlow4, func(f wire.Flow) bool { seen[f] = true; return true })
	if err != nil || !more || len(seen) != 5*flowBatch {
		t.Errorf("%d flows, more %v, %v", len(seen), more, err)
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
