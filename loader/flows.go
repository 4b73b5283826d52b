// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// flowTable gives the engine XDP's two flow tables as one: userspace.FlowTable.
type flowTable struct {
	flows4, flows6 *ebpf.Map
	sketch         *sketch
	keys           *keyring
}

// Delete forgets a flow; that there is none is not an error.
func (t *flowTable) Delete(f wire.Flow) error {
	var err error
	if f.IsIPv4() {
		key := flow4(f)
		err = t.flows4.Delete(&key)
	} else {
		key := flow6(f)
		err = t.flows6.Delete(&key)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err == nil {
		t.sketch.gone(f)
	}
	return err
}

// DeleteAll forgets many flows, with a system call for each of the two tables and not for each flow.
func (t *flowTable) DeleteAll(flows []wire.Flow) error {
	var keys4 []bpf.Flow4
	var keys6 []bpf.Flow6
	for _, f := range flows {
		if f.IsIPv4() {
			keys4 = append(keys4, flow4(f))
		} else {
			keys6 = append(keys6, flow6(f))
		}
	}
	return errors.Join(
		deleteBatch(t.flows4, keys4, func(k bpf.Flow4) { t.sketch.gone(fromFlow4(k)) }),
		deleteBatch(t.flows6, keys6, func(k bpf.Flow6) { t.sketch.gone(fromFlow6(k)) }),
	)
}

// deleteBatch deletes the keys from m, and calls gone for each that was there. The kernel stops at one that was not.
func deleteBatch[K any](m *ebpf.Map, keys []K, gone func(K)) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for _, k := range keys[:n] {
			gone(k)
		}
		if err == nil {
			return nil
		}
		keys = keys[min(n+1, len(keys)):]
	}
	return nil
}

// Flows calls f for each flow. Flows that come or go meanwhile may be seen or not.
func (t *flowTable) Flows(f func(wire.Flow) bool) error {
	more, err := eachFlow(t.flows4, fromFlow4, f)
	if err != nil {
		return fmt.Errorf("map flows4: %w", err)
	}
	if !more {
		return nil
	}
	if _, err := eachFlow(t.flows6, fromFlow6, f); err != nil {
		return fmt.Errorf("map flows6: %w", err)
	}
	return nil
}

// flowBatch is how many flows are read with one system call: one by one, millions of them would take seconds. The kernel reads
// whole buckets, so it must not be smaller than one: which hold one or two.
const flowBatch = 4096

// eachFlow calls f for the flows of one table until it returns false, and says whether it has not.
func eachFlow[K any](m *ebpf.Map, from func(K) wire.Flow, f func(wire.Flow) bool) (more bool, err error) {
	keys, records := make([]K, flowBatch), make([]bpf.Handshake, flowBatch)
	for cursor := new(ebpf.MapBatchCursor); ; {
		n, err := m.BatchLookup(cursor, keys, records, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, err
		}
		for _, k := range keys[:n] {
			if !f(from(k)) {
				return false, nil
			}
		}
		if err != nil { // that was the last batch
			return true, nil
		}
	}
}

// Keys are the cookie keys in use; not to be changed.
func (t *flowTable) Keys() *bpf.CookieKeys { return t.keys.current.Load() }

// netPort is a port as it lies in a packet.
func netPort(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func flow4(f wire.Flow) bpf.Flow4 {
	return bpf.Flow4{
		Remote: binary.NativeEndian.Uint32(f.Remote[12:]), Local: binary.NativeEndian.Uint32(f.Local[12:]),
		RemotePort: netPort(f.RemotePort), LocalPort: netPort(f.LocalPort),
	}
}

func fromFlow4(k bpf.Flow4) (f wire.Flow) {
	for _, side := range []struct {
		addr *[16]byte
		word uint32
	}{{&f.Remote, k.Remote}, {&f.Local, k.Local}} {
		side.addr[10], side.addr[11] = 0xff, 0xff
		binary.NativeEndian.PutUint32(side.addr[12:], side.word)
	}
	f.RemotePort, f.LocalPort = netPort(k.RemotePort), netPort(k.LocalPort)
	return f
}

func flow6(f wire.Flow) bpf.Flow6 {
	k := bpf.Flow6{RemotePort: netPort(f.RemotePort), LocalPort: netPort(f.LocalPort)}
	for i := range k.Remote {
		k.Remote[i] = binary.NativeEndian.Uint32(f.Remote[4*i:])
		k.Local[i] = binary.NativeEndian.Uint32(f.Local[4*i:])
	}
	return k
}

func fromFlow6(k bpf.Flow6) (f wire.Flow) {
	for i := range k.Remote {
		binary.NativeEndian.PutUint32(f.Remote[4*i:], k.Remote[i])
		binary.NativeEndian.PutUint32(f.Local[4*i:], k.Local[i])
	}
	f.RemotePort, f.LocalPort = netPort(k.RemotePort), netPort(k.LocalPort)
	return f
}
