// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"runtime"
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// manyFlows is XDP's table of n flows, without holding them.
type manyFlows struct {
	memFlows
	n       uint64
	deleted int
	heap    uint64 // the most that was in use while they were read
}

func (m *manyFlows) Flows(f func(wire.Flow) bool) error {
	for i := range m.n {
		var flow wire.Flow
		flow.RemotePort, flow.LocalPort = uint16(i), 80
		flow.Remote = [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: byte(i >> 32), 14: byte(i >> 24), 15: byte(i >> 16)}
		flow.Local = [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 1}
		if !f(flow) {
			return nil
		}
		if i%(1<<20) == 0 {
			var st runtime.MemStats
			runtime.ReadMemStats(&st)
			m.heap = max(m.heap, st.HeapInuse)
		}
	}
	return nil
}

func (m *manyFlows) Delete(wire.Flow) error {
	m.deleted++
	return nil
}

func TestTheSweepHoldsOnlySoManySuspects(t *testing.T) {
	flows := &manyFlows{n: 3_000_000}
	flows.keys.Valid = 1
	p := newPeer(t, 0)
	p.engine.cfg.Flows = flows // before any connection is made
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	suspects := p.engine.sweepOnce(nil)
	if len(suspects) != maxSuspects || flows.deleted != 0 {
		t.Fatalf("%d suspects, %d deleted", len(suspects), flows.deleted)
	}
	next := p.engine.sweepOnce(suspects)
	if flows.deleted != maxSuspects || len(next) != maxSuspects {
		t.Errorf("%d deleted, then %d suspects", flows.deleted, len(next))
	}
	for f := range next {
		if _, again := suspects[f]; again {
			t.Fatal("a flow that was deleted is suspected again")
		}
	}
	// All of them would be over 200 MB.
	if grown := flows.heap - min(flows.heap, before.HeapInuse); grown > 64<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
	p.stats("swept", func(s Stats) uint64 { return s.Swept }, maxSuspects)
}

// BenchmarkSweep prints what ten million flows of connections cost to look at.
func BenchmarkSweep(b *testing.B) {
	hash := newFlowHash()
	s := &shard{conns: newConnTable(hash)}
	e := &Engine{shards: []*shard{s}, stop: make(chan struct{})}
	flows := &manyFlows{n: 10_000_000}
	e.cfg.Flows = flows
	for b.Loop() {
		e.sweepOnce(nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(flows.n), "ns/flow")
}
