// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

// A lease is renewed so often, for so long. What a daemon that dies or hangs leaves behind passes packets to
// the kernel when its lease has run out: after at most leaseTime.
const (
	leaseEvery = 100 * time.Millisecond
	leaseTime  = 800 * time.Millisecond
)

// A lease says to XDP that somebody is there to serve. It is renewed as long as the owner stands in the
// control block, and the daemon is healthy.
type lease struct {
	control *controlBlock
	owner   uint64
	healthy func() error // nil: always
	lost    func()       // called once, if another owner is found
	log     *slog.Logger

	sick bool
	stop chan struct{}
	done sync.WaitGroup
	once sync.Once
}

// start renews the lease for the first time, and then until end.
func (l *lease) start() {
	l.stop = make(chan struct{})
	if !l.renew() {
		return
	}
	l.done.Go(func() {
		ticker := time.NewTicker(leaseEvery)
		defer ticker.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-ticker.C:
				if !l.renew() {
					return
				}
			}
		}
	})
}

// renew returns false if the control block has another owner.
func (l *lease) renew() bool {
	if atomic.LoadUint64(&l.control.Owner) != l.owner {
		if l.lost != nil {
			l.lost()
		}
		return false
	}
	if l.isHealthy() {
		l.control.extend(ticks() + uint64(leaseTime>>bpf.TickShift))
	}
	return true
}

func (l *lease) isHealthy() bool {
	if l.healthy == nil {
		return true
	}
	err := l.healthy()
	switch {
	case err != nil && !l.sick:
		l.log.Error("not healthy: packets pass to the kernel until that is over", "because", err)
	case err == nil && l.sick:
		l.log.Info("healthy again")
	}
	l.sick = err != nil
	return err == nil
}

// end stops the renewing; what was last renewed stands.
func (l *lease) end() {
	if l.stop == nil {
		return
	}
	l.once.Do(func() { close(l.stop) })
	l.done.Wait()
}
