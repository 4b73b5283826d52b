// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/bpf"
)

// bootTime is when CLOCK_BOOTTIME, which program load times are told in, was zero.
func bootTime() time.Time {
	return time.Now().Add(-time.Duration(readClock(unix.CLOCK_BOOTTIME)))
}

// sharedClock is what makes ticks of this host's CLOCK_MONOTONIC those of every host: ticks since the
// epoch. For CookieKeys.Clock.
func sharedClock() uint64 {
	return uint64(readClock(unix.CLOCK_REALTIME)-readClock(unix.CLOCK_MONOTONIC)) >> bpf.TickShift
}

// readClock reads a clock, in nanoseconds.
func readClock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic("clock_gettime: " + err.Error()) // cannot fail on Linux for the clocks above
	}
	return ts.Nano()
}
