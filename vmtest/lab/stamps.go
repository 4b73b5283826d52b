// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// awaitStamps returns when the kernel stamps packets as they come. It begins to
// when the first socket on the machine asks for it, but not at once: it patches
// its code from a work queue. A packet that comes before gets the time at which
// it is read, and a capture would show an answer before its question.
//
// The way to know is a datagram to oneself, over lo: SO_TIMESTAMPING, unlike
// SO_TIMESTAMPNS, does not make a time up for one that has none. It runs inside.
func awaitStamps() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_RX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE); err != nil {
		return fmt.Errorf("setsockopt(SO_TIMESTAMPING): %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("setsockopt(SO_RCVTIMEO): %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind to 127.0.0.1: %w", err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	oob := make([]byte, 256)
	for start := time.Now(); ; time.Sleep(200 * time.Microsecond) {
		if err := unix.Sendto(fd, []byte{0}, 0, self); err != nil {
			return fmt.Errorf("send a datagram over lo: %w", err)
		}
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, 0)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("receive a datagram over lo: %w", err)
		}
		if n > 0 {
			return nil // nothing but a stamp was asked for
		}
		if time.Since(start) > time.Second {
			return fmt.Errorf("wait for the kernel's timestamps: none after %v", time.Since(start).Round(time.Millisecond))
		}
	}
}
