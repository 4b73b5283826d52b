// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is when CLOCK_BOOTTIME, which program load times are told in, was zero.
func bootTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // cannot fail on Linux
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}
