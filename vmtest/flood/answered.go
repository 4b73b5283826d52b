// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long frames that are still on their way are waited for.
const settle = 20 * time.Millisecond

// answered floods a server from a thread that is pinned to a CPU.
func (o *Options) answered(ctx context.Context, server Server) (_ AnsweredRound, err error) {
	r, err := o.newRig(server)
	if err != nil {
		return AnsweredRound{}, err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	var m measured
	err = r.gen.inside(func(s sender) error {
		cpu, unpin, err := pin()
		if err != nil {
			return err
		}
		defer unpin()
		if _, err := s.blast(ctx, o.Duration/10); err != nil { // warm up
			return err
		}
		time.Sleep(settle)
		// The softirq runs in the thread's system calls, and what it leaves in ksoftirqd.
		watch := meter{gen: r.gen, clocks: []cpuClock{thread(unix.Gettid()), ksoftirqd(cpu)}}
		if err := watch.start(); err != nil {
			return err
		}
		took, err := s.blast(ctx, o.Duration)
		if err != nil {
			return err
		}
		time.Sleep(settle)
		m, err = watch.stop()
		m.took = took
		return err
	})
	if err := errors.Join(err, ctx.Err()); err != nil {
		return AnsweredRound{}, err
	}
	answered := float64(m.ledger.answered())
	return AnsweredRound{
		Seconds: m.took.Seconds(), CPUSeconds: (m.cpu[0] + m.cpu[1]).Seconds(), Fate: m.ledger.fate(),
		PerSecond: answered / m.took.Seconds(), PerCPUSecond: answered / (m.cpu[0] + m.cpu[1]).Seconds(),
	}, nil
}

// pin keeps the calling thread on the last CPU that it may use, until unpin.
func pin() (cpu int, unpin func(), err error) {
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return 0, nil, fmt.Errorf("flood: sched_getaffinity: %w", err)
	}
	for cpu = len(old)*64 - 1; !old.IsSet(cpu); cpu-- {
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return 0, nil, fmt.Errorf("flood: sched_setaffinity: %w", err)
	}
	return cpu, func() { _ = unix.SchedSetaffinity(0, &old) }, nil
}
