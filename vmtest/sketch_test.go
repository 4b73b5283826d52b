// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// sketched adds up the counters of the sketch in front of the flow tables.
func sketched(t *testing.T, h *lab.Host) (n uint32) {
	t.Helper()
	if err := h.Do(func() error {
		dev, err := netlink.LinkByName(h.Iface)
		if err != nil {
			return err
		}
		prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(dev.Attrs().Xdp.ProgId))
		if err != nil {
			return err
		}
		defer prog.Close()
		info, err := prog.Info()
		if err != nil {
			return err
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return err
			}
			defer m.Close()
			if mi, err := m.Info(); err != nil || mi.Name != "sketch" {
				continue
			}
			var key uint32
			var word uint64
			it := m.Iterate()
			for it.Next(&key, &word) {
				for ; word != 0; word >>= 4 {
					n += uint32(word & 15)
				}
			}
			return it.Err()
		}
		t.Error("the program has no map sketch")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// The retired daemon deletes its flows, and the program of its successor is still there to look at.
func TestTheSketchCountsTheFlowsThatThereAre(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	const each = 20
	for _, f := range families(l) {
		for range each {
			client := httpClient(t, l, patience)
			if _, err := fetch(client, f.url("/")); err != nil {
				t.Fatal(err)
			}
			client.CloseIdleConnections()
		}
	}
	if n, m := sketched(t, l.Server), flows(t, l.Server); n != 2*each || m != 2*each {
		t.Errorf("%d flows, %d in the sketch; want %d", m, n, 2*each)
	}
	d = replace(t, l, d)
	if n, m := sketched(t, l.Server), flows(t, l.Server); n != 0 || m != 0 {
		t.Errorf("after the flows were deleted: %d flows, %d in the sketch", m, n)
	}
	d.signal(unix.SIGTERM)
}
