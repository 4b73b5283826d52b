// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"sync"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A flow normally stays on one queue, but not always: the number of queues or the card's hash may
// change under it, and on veth the sender's CPU chooses the queue. So where there are several shards,
// owners says which one has a flow, and a frame that strays to another is handed to it.
type owners struct {
	mu     sync.Mutex
	shards map[wire.Flow]*shard // nil if there is only one shard
}

// claim makes s the owner of a flow, unless there is one already. It returns the owner.
func (o *owners) claim(f wire.Flow, s *shard) *shard {
	if o.shards == nil {
		return s
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if owner := o.shards[f]; owner != nil {
		return owner
	}
	o.shards[f] = s
	return s
}

// elsewhere gives the owner of a flow, if there is one and it is not s.
func (o *owners) elsewhere(f wire.Flow, s *shard) *shard {
	if o.shards == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if owner := o.shards[f]; owner != s {
		return owner
	}
	return nil
}

func (o *owners) release(f wire.Flow) {
	if o.shards == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.shards, f)
}

// maxStrays bounds the frames that wait for their shard; those beyond are lost as on a wire.
const maxStrays = 1024

// strays are frames that other shards have handed over.
type strays struct {
	mu   sync.Mutex // a leaf: nothing is locked under it
	list []stray
}

type stray struct {
	frame  []byte
	record *bpf.Handshake // nil: there was none
}

// handOver gives a frame to the shard that has its flow. It is called with another shard's lock held.
func (s *shard) handOver(frame []byte, record *bpf.Handshake) (ok bool) {
	item := stray{frame: append([]byte(nil), frame...)}
	if record != nil {
		r := *record
		item.record = &r
	}
	s.strays.mu.Lock()
	if ok = len(s.strays.list) < maxStrays; ok {
		s.strays.list = append(s.strays.list, item)
	}
	first := len(s.strays.list) == 1
	s.strays.mu.Unlock()
	if first {
		s.link.Wake()
	}
	return ok
}

func (s *shard) takeStrays() []stray {
	s.strays.mu.Lock()
	defer s.strays.mu.Unlock()
	list := s.strays.list
	s.strays.list = nil
	return list
}
