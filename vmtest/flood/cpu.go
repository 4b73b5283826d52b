// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cpuClock reads how much CPU time something has had.
type cpuClock func() (time.Duration, error)

func clock(id int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0, fmt.Errorf("flood: clock_gettime(%d): %w", id, err)
	}
	return time.Duration(t.Nano()), nil
}

// process and thread are the clocks of pid and tid: clock_getcpuclockid(3), and the kernel's
// CPUCLOCK_SCHED.
func process(pid int) cpuClock {
	return func() (time.Duration, error) { return clock(^int32(pid)<<3 | 2) }
}

func thread(tid int) cpuClock {
	return func() (time.Duration, error) { return clock(^int32(tid)<<3 | 2 | 4) }
}

// ksoftirqd is the clock of a CPU's kernel thread for softirqs. Where it can't be seen (in a container, say)
// it stands still.
func ksoftirqd(cpu int) cpuClock {
	names, _ := filepath.Glob("/proc/[0-9]*/comm") // the only error is a bad pattern
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && string(text) == fmt.Sprintf("ksoftirqd/%d\n", cpu) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				return process(pid)
			}
		}
	}
	return func() (time.Duration, error) { return 0, nil }
}

// idle is the time that all CPUs together had nothing to do, in steps of 10 ms.
func idle() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("flood: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var user, nice, system, idle, iowait int64
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d", &user, &nice, &system, &idle, &iowait); err != nil {
		return 0, fmt.Errorf("flood: /proc/stat: %q: %w", line, err)
	}
	return time.Duration(idle+iowait) * 10 * time.Millisecond, nil // USER_HZ is 100 everywhere
}
