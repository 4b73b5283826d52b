// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"math"
	"time"
)

// Time is a reading of CLOCK_MONOTONIC in nanoseconds. The package never reads a clock: every call that needs
// the time is told it.
type Time int64

// Never is later than every deadline.
const Never Time = math.MaxInt64

// Add gives the time d after t.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub gives the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// tsTickShift makes a timestamp tick 2^20 ns, close to a millisecond: XDP's program gets there with a shift
// where BPF would pay for a division, and RFC 7323, 5.4 allows 1 ms to 1 s.
const tsTickShift = 20

// tick is the timestamp clock at t, before the connection's offset.
func (t Time) tick() uint32 { return uint32(uint64(t) >> tsTickShift) }
