// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// hungAfter is how long a shard may be stuck before it is called hung. A garbage collection or a busy machine costs
// tens of milliseconds; more would only prolong the time in which clients get no answer.
const hungAfter = time.Second

// health is what tells a hung shard.
type health struct {
	turned  atomic.Int64 // tcp.Time of the loop's last turn; it makes one every maxSleep, whether there is work or not
	probing atomic.Int64 // since when (tcp.Time) a probe waits for the shard's lock; 0: none does
}

// Healthy says whether the engine serves: nil, or which shard hangs and how. A shard hangs if its lock cannot be had, or
// its loop does not turn, for about a second. It never blocks. To notice that a lock is held it must be called again and
// again, say every 100 ms: it takes the time from the first call that finds it so.
func (e *Engine) Healthy() error {
	select {
	case <-e.stop:
		return errors.New("engine: closed")
	default:
	}
	now := e.clock.now()
	for _, s := range e.shards {
		if err := s.healthy(now); err != nil {
			return err
		}
	}
	return nil
}

func (s *shard) healthy(now tcp.Time) error {
	h := &s.health
	if s.mu.TryLock() {
		s.mu.Unlock()
	} else if h.probing.CompareAndSwap(0, int64(now)) {
		// Whether one holds the lock for long or many in turn, TryLock can't tell. Who waits for it gets it before long:
		// a mutex serves its waiters in order once they wait for a millisecond.
		go func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			h.probing.Store(0)
		}()
	} else if since := h.probing.Load(); since != 0 {
		if held := now.Sub(tcp.Time(since)); held > hungAfter {
			return fmt.Errorf("queue %d: the shard's lock has been held for %v", s.queue, held.Round(100*time.Millisecond))
		}
	}
	if idle := now.Sub(tcp.Time(h.turned.Load())); idle > maxSleep+hungAfter {
		return fmt.Errorf("queue %d: the shard's loop has made no turn for %v", s.queue, idle.Round(100*time.Millisecond))
	}
	return nil
}
