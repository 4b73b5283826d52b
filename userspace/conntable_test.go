// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// connOf is a connection of client i, in no shard.
func connOf(t testing.TB, i uint32) *Conn {
	var p wire.Packet
	if err := wire.Parse(segmentOf(i, make([]byte, 128), &wire.Segment{Flags: wire.ACK, WScale: -1}), &p); err != nil {
		t.Fatal(err)
	}
	return &Conn{template: wire.NewTemplate(&p), slot: noTimer}
}

// The table is held to Go's map.
func TestATableFindsWhatWasPutIn(t *testing.T) {
	t.Run("with a good hash", func(t *testing.T) { tableAgainstMap(t, newFlowHash(), 40_000) })
	// Without keys, the hash of all IPv4 flows is 0.
	t.Run("with a hash that collides", func(t *testing.T) { tableAgainstMap(t, &flowHash{}, 1000) })
}

func tableAgainstMap(t *testing.T, hash *flowHash, n uint32) {
	table := newConnTable(hash)
	model := map[wire.Flow]*Conn{}
	r := rand.New(rand.NewPCG(1, 2))
	check := func() {
		t.Helper()
		if table.len() != len(model) {
			t.Fatalf("%d connections, want %d", table.len(), len(model))
		}
		for f, c := range model {
			if table.get(&f) != c {
				t.Fatal("one is not found")
			}
		}
	}
	for i := range n {
		c := connOf(t, i)
		f := c.flow()
		if table.get(&f) != nil {
			t.Fatal("one is found that was never put in")
		}
		table.add(c)
		model[f] = c
		if r.IntN(3) == 0 {
			for f, c := range model { // any
				if !table.remove(c) || table.remove(c) || table.get(&f) != nil {
					t.Fatal("one can't be taken out, or twice")
				}
				delete(model, f)
				break
			}
		}
		if i&(i+1) == 0 {
			check()
		}
	}
	check()
	for c := range table.all() {
		if model[c.flow()] != c {
			t.Fatal("one is given twice, or was never put in")
		}
		delete(model, c.flow())
		table.remove(c)
	}
	check()
	if len(model) != 0 {
		t.Errorf("%d were not given", len(model))
	}
}

func TestFlowsHaveHashesOfTheirOwn(t *testing.T) {
	hash := newFlowHash()
	seen := map[uint64]bool{}
	const n = 100_000
	for i := range uint32(n) {
		f := connOf(t, i).flow()
		seen[hash.of(&f)] = true
		f.Local, f.Remote = f.Remote, f.Local
		seen[hash.of(&f)] = true
	}
	if len(seen) != 2*n {
		t.Errorf("%d flows have %d hashes", 2*n, len(seen))
	}
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []uint32{10, 10_000, 1_000_000} {
		table := newConnTable(newFlowHash())
		model := make(map[wire.Flow]*Conn)
		flows := make([]wire.Flow, n)
		for i := range n {
			c := connOf(b, i)
			flows[i] = c.flow()
			table.add(c)
			model[flows[i]] = c
		}
		rand.Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
		b.Run(fmt.Sprintf("table/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if table.get(&flows[i%len(flows)]).shard != nil {
					b.Fatal()
				}
			}
		})
		b.Run(fmt.Sprintf("map/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if model[flows[i%len(flows)]].shard != nil {
					b.Fatal()
				}
			}
		})
	}
}
