// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"sync"
	"testing"

	"github.com/xdptcp/xdptcp/bpf"
)

// claims counts the flows that have an owner.
func (o *owners) claims() (n int) {
	if o.stripes == nil {
		return 0
	}
	for i := range o.stripes {
		stripe := &o.stripes[i]
		stripe.mu.Lock()
		for _, has := range stripe.owners {
			n += int(has.flows)
		}
		stripe.mu.Unlock()
	}
	return n
}

func TestFlowsThatShareAHashHaveTheSameOwner(t *testing.T) {
	shards := []*shard{{queue: 0}, {queue: 1}}
	o := newOwners(&flowHash{}, shards) // without keys, the hash of all IPv4 flows is 0
	a, b := connOf(t, 1).flow(), connOf(t, 2).flow()
	if o.claim(&a, shards[1]) != shards[1] || o.claim(&b, shards[0]) != shards[1] || o.claim(&b, shards[1]) != shards[1] {
		t.Error("the flow that came second has another owner")
	}
	if n := o.claims(); n != 2 {
		t.Errorf("%d claims", n)
	}
	o.release(&a)
	if o.elsewhere(&b, shards[0]) != shards[1] || o.elsewhere(&b, shards[1]) != nil {
		t.Error("one flow's release has taken the other's owner")
	}
	o.release(&b)
	if o.elsewhere(&b, shards[0]) != nil || o.claims() != 0 {
		t.Error("a flow that is forgotten has an owner")
	}
}

func TestAFlowThatComesOnTwoQueuesAtOnceHasOneOwner(t *testing.T) {
	shards := []*shard{{queue: 0}, {queue: 1}}
	o := newOwners(newFlowHash(), shards)
	for i := range uint32(1000) {
		f := connOf(t, i).flow()
		var got [2]*shard
		var both sync.WaitGroup
		for q := range shards {
			both.Go(func() { got[q] = o.claim(&f, shards[q]) })
		}
		both.Wait()
		if got[0] != got[1] {
			t.Fatal("each shard has claimed it")
		}
	}
	if n := o.claims(); n != 1000 {
		t.Errorf("%d claims", n)
	}
}

func TestAnEngineWithOneQueueKeepsNoOwners(t *testing.T) {
	s := &shard{}
	o := newOwners(newFlowHash(), []*shard{s})
	f := connOf(t, 1).flow()
	if o.claim(&f, s) != s || o.stripes != nil || o.elsewhere(&f, s) != nil {
		t.Error("it does")
	}
	o.release(&f)
}

func TestStraysComeAsTheyWereAndCostNoAllocation(t *testing.T) {
	s := &shard{link: newMemLink()}
	frames := [][]byte{[]byte("a longer frame"), []byte("short"), []byte("another one")}
	record := &bpf.Handshake{Iss: 7}
	round := func() {
		for i, f := range frames {
			r := record
			if i == 1 {
				r = nil
			}
			if !s.handOver(f, r) {
				t.Fatal("a frame was not taken")
			}
		}
		got := s.takeStrays()
		if len(got) != len(frames) {
			t.Fatalf("%d frames, want %d", len(got), len(frames))
		}
		for i := range got {
			if string(got[i].frame) != string(frames[i]) || got[i].hasRecord != (i != 1) || i != 1 && got[i].record != *record {
				t.Fatalf("frame %d came as %q, %v", i, got[i].frame, got[i].record)
			}
		}
		frames[0], frames[1], frames[2] = frames[1], frames[2], frames[0]
	}
	round()
	round()
	round()
	round()
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	s.strays.trim()
	if s.strays.taken != nil {
		t.Error("memory is kept that nobody needs")
	}
}

// BenchmarkOwners opens and forgets flows from all CPUs at once.
func BenchmarkOwners(b *testing.B) {
	shards := []*shard{{queue: 0}, {queue: 1}}
	o := newOwners(newFlowHash(), shards)
	b.RunParallel(func(pb *testing.PB) {
		f := connOf(b, 1).flow()
		for i := uint16(0); pb.Next(); i++ {
			f.RemotePort = i
			if o.claim(&f, shards[0]) == shards[0] {
				o.release(&f)
			}
		}
	})
}
