// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"slices"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// The sweep deletes flows from XDP's table that never became a connection: their client fell silent after a final ACK that
// a full ring lost, or an earlier process left them. XDP's table may have millions, the sweep holds none but its suspects.

const (
	// sweepEvery is how often flows that the engine doesn't know are looked for. One that is unknown twice in a row is
	// deleted.
	sweepEvery = 60 * time.Second
	// maxSuspects bounds those that are remembered from one time to the next, in about 8 MiB. Others have to wait.
	maxSuspects = 1 << 17
	// sweepBatch is how many flows are looked up under a shard's lock at a time: for some 20 µs.
	sweepBatch = 256
)

// suspects are flows that the engine did not know at the last sweep.
type suspects map[wire.Flow]struct{}

func (e *Engine) sweep() {
	defer e.loops.Done()
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var before suspects
	for {
		select {
		case <-e.stop:
			return
		case <-ticker.C:
			before = e.sweepOnce(before)
		}
	}
}

// sweepOnce deletes the flows that were suspect before and still are, and gives the new suspects.
func (e *Engine) sweepOnce(before suspects) suspects {
	now := suspects{}
	var condemned []wire.Flow // of those before
	batch := make([]wire.Flow, 0, sweepBatch)
	judge := func() {
		for _, f := range e.unknown(batch) {
			if _, again := before[f]; again {
				condemned = append(condemned, f)
			} else if len(now) < maxSuspects {
				now[f] = struct{}{}
			}
		}
		batch = batch[:0]
	}
	err := e.cfg.Flows.Flows(func(f wire.Flow) bool {
		if batch = append(batch, f); len(batch) == sweepBatch {
			judge()
		}
		select {
		case <-e.stop:
			return false
		default:
			return true
		}
	})
	judge()
	if err != nil {
		e.log.Warn("sweep of the flow table ended early", "err", err)
	}
	// Deleted now, because the table's iterator would lose its place, and looked up once more: some may have come to life
	// while we were reading.
	for batch := range slices.Chunk(condemned, sweepBatch) {
		for _, f := range e.unknown(batch) {
			e.shards[0].sweep(f)
		}
	}
	return now
}

// unknown leaves those flows in the list that no shard has.
func (e *Engine) unknown(list []wire.Flow) []wire.Flow {
	for _, s := range e.shards {
		list = s.unknown(list)
	}
	return list
}

func (s *shard) unknown(list []wire.Flow) []wire.Flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := list[:0]
	for i := range list {
		if s.conns.get(&list[i]) == nil {
			rest = append(rest, list[i])
		}
	}
	return rest
}

// sweep deletes the flow of no connection, unless it may be a successor's.
func (s *shard) sweep(f wire.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.retired {
		s.deleteFlow(f)
		s.stats.Swept++
	}
}
