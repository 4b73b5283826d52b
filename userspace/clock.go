// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// A clock reads CLOCK_MONOTONIC, the one that XDP stamps its SYN/ACKs with. Go's own monotonic
// reading is the same clock from another zero, and costs no system call.
type clock struct {
	start time.Time
	zero  tcp.Time
}

func newClock() clock {
	var ts unix.Timespec
	start := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC): " + err.Error()) // cannot fail on Linux
	}
	return clock{start: start, zero: tcp.Time(ts.Nano())}
}

// coarseTicks is XDP's own clock: CLOCK_MONOTONIC as of the last tick of the scheduler. A timestamp of
// the fine clock would be from XDP's future when the final ACK comes within that tick, and be refused.
func coarseTicks() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC_COARSE): " + err.Error()) // cannot fail on Linux
	}
	return uint32(uint64(ts.Nano()) >> bpf.TickShift)
}

func (c *clock) now() tcp.Time { return c.zero + tcp.Time(time.Since(c.start)) }

// time is a reading of the clock for people.
func (c *clock) time(t tcp.Time) time.Time { return c.start.Add(t.Sub(c.zero)) }
