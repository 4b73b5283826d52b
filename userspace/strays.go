// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"sync"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A flow normally stays on one queue, but not always: the number of queues or the card's hash may
// change under it, and on veth the sender's CPU chooses the queue. So where there are several shards,
// owners says which one has a flow, and a frame that strays to another is handed to it. It is asked when a
// flow is opened or forgotten, and of segments whose flow the shard does not have: not for others.
//
// Flows are known by 38 bits of their hash alone, for the memory's sake: if two have the same one, they have the same owner, and
// the one whose frames come elsewhere is slower for it. Of a million flows, about four share theirs.
type owners struct {
	hash    *flowHash
	shards  []*shard
	stripes *[ownerStripes]ownerStripe // nil if there is only one shard
}

// ownerStripes is how many locks the flows share, so that shards seldom wait for each other.
const ownerStripes = 64

type ownerStripe struct {
	mu     sync.Mutex
	owners map[uint32]owner // by the flow's hash; without pointers, so the garbage collector does not read it
}

type owner struct {
	queue uint16 // of the shard
	flows uint16 // with this hash that it has claimed: mostly one
}

func newOwners(hash *flowHash, shards []*shard) owners {
	o := owners{hash: hash, shards: shards}
	if len(shards) > 1 {
		o.stripes = new([ownerStripes]ownerStripe)
		for i := range o.stripes {
			o.stripes[i].owners = make(map[uint32]owner)
		}
	}
	return o
}

// lock gives a flow's stripe with its lock held, and the flow's hash.
func (o *owners) lock(f *wire.Flow) (*ownerStripe, uint32) {
	hash := o.hash.of(f)
	stripe := &o.stripes[hash>>32%ownerStripes]
	stripe.mu.Lock()
	return stripe, uint32(hash)
}

// claim makes s the owner of a flow that it does not have, unless there is one already. It returns the owner. What s has
// claimed, it must release.
func (o *owners) claim(f *wire.Flow, s *shard) *shard {
	if o.stripes == nil {
		return s
	}
	stripe, hash := o.lock(f)
	defer stripe.mu.Unlock()
	has, ok := stripe.owners[hash]
	if ok && o.shards[has.queue] != s {
		return o.shards[has.queue]
	}
	stripe.owners[hash] = owner{uint16(s.queue), has.flows + 1}
	return s
}

// elsewhere gives the owner of a flow, if there is one and it is not s.
func (o *owners) elsewhere(f *wire.Flow, s *shard) *shard {
	if o.stripes == nil {
		return nil
	}
	stripe, hash := o.lock(f)
	defer stripe.mu.Unlock()
	if has, ok := stripe.owners[hash]; ok && o.shards[has.queue] != s {
		return o.shards[has.queue]
	}
	return nil
}

// release takes back one claim of the owner.
func (o *owners) release(f *wire.Flow) {
	if o.stripes == nil {
		return
	}
	stripe, hash := o.lock(f)
	defer stripe.mu.Unlock()
	if has := stripe.owners[hash]; has.flows > 1 {
		stripe.owners[hash] = owner{has.queue, has.flows - 1}
	} else {
		delete(stripe.owners, hash)
	}
}

// maxStrays bounds the frames that wait for their shard; those beyond are lost as on a wire.
const maxStrays = 1024

// strays are frames that other shards have handed over. There are two lists, so that one can be filled while the other is looked
// at, and the memory of frames is used again: on veth, half of all frames may be strays.
type strays struct {
	mu    sync.Mutex // a leaf: nothing is locked under it
	list  []stray
	taken []stray // those that takeStrays gave last
}

type stray struct {
	frame     []byte
	hasRecord bool
	record    bpf.Handshake
}

// handOver gives a frame to the shard that has its flow. It is called with another shard's lock held.
func (s *shard) handOver(frame []byte, record *bpf.Handshake) bool {
	st := &s.strays
	st.mu.Lock()
	n := len(st.list)
	if n == maxStrays {
		st.mu.Unlock()
		return false
	}
	if n < cap(st.list) {
		st.list = st.list[:n+1]
	} else {
		st.list = append(st.list, stray{})
	}
	item := &st.list[n]
	item.frame = append(item.frame[:0], frame...)
	if item.hasRecord = record != nil; record != nil {
		item.record = *record
	}
	st.mu.Unlock()
	if n == 0 {
		s.link.Wake()
	}
	return true
}

// takeStrays gives what was handed over. It is good until the next call.
func (s *shard) takeStrays() []stray {
	st := &s.strays
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.list) == 0 {
		return nil
	}
	st.list, st.taken = st.taken[:0], st.list
	return st.taken
}

// trim leaves the memory of frames to the garbage collector, where there are none.
func (st *strays) trim() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.list) == 0 {
		st.list, st.taken = nil, nil
	}
}
