// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A waiter is what makes Wait return without a frame: one bit, and an eventfd that poll(2) can see.
type waiter struct {
	fd    int
	buf   [8]byte     // what take reads, and drops
	woken atomic.Bool // the eventfd has been written to since Wait last took the bit
	errno atomic.Uint32

	// retrying: the last Wait found descriptors left over, and came or comes back soon for them.
	retrying atomic.Bool
}

// retryEvery is how often Wait has the kernel try again to send what Flush had to leave. poll(2) could tell
// of room (POLLOUT), but does so whenever the TX ring is half empty, full device queue or not: a busy loop.
const retryEvery = 200 * time.Microsecond

var eventfdOne = binary.NativeEndian.AppendUint64(nil, 1)

// signal sets the bit; only the first one to set it pays for a system call.
func (w *waiter) signal() {
	if !w.woken.Swap(true) {
		_, _ = unix.Write(w.fd, eventfdOne) // a full eventfd is readable, which is all it is for
	}
}

// take clears the bit. First the eventfd, then the bit: the other way round, a signal between the two
// would lose its write and leave the bit set for good.
func (w *waiter) take() bool {
	if !w.woken.Load() {
		return false
	}
	_, _ = unix.Read(w.fd, w.buf[:])
	return w.woken.Swap(false)
}

// Wake makes Wait return, the one in progress or the next. Any goroutine may call it, also after Close.
func (s *Socket) Wake() {
	s.open.RLock()
	if !s.closed.Load() {
		s.waiter.signal()
	}
	s.open.RUnlock()
}

// Wait waits until there is something to do: a frame on the RX ring, a Wake, or, when the last Flush left
// descriptors behind, a moment that has passed. It returns false after timeout (negative: never; 0: only
// look, without a system call). It is called without the user's lock, by one goroutine at a time. After it,
// Receive and Flush. The error is net.ErrClosed after Close, or says that the device is gone, which
// is noticed on a timeout.
func (s *Socket) Wait(timeout time.Duration) (ready bool, err error) {
	s.open.RLock()
	defer s.open.RUnlock()
	if s.closed.Load() {
		return false, net.ErrClosed
	}
	if s.rx.pending() > 0 {
		return true, nil
	}
	if timeout == 0 {
		return s.waiter.take(), nil
	}

	fds := [2]unix.PollFd{
		{Fd: int32(s.fd), Events: unix.POLLIN},
		{Fd: int32(s.waiter.fd), Events: unix.POLLIN},
	}
	// Store, then look: Flush publishes, then looks at retrying.
	s.waiter.retrying.Store(false)
	retry := false
	if s.tx.pending() > 0 && s.tx.needWakeup() {
		s.waiter.retrying.Store(true)
		if timeout < 0 || timeout > retryEvery {
			retry, timeout = true, retryEvery
		}
	}
	var ts *unix.Timespec
	if timeout > 0 {
		t := unix.NsecToTimespec(timeout.Nanoseconds())
		ts = &t
	}
	n := 0
	for {
		s.counters.polls.Add(1)
		// The runtime's own signals interrupt this; the kernel leaves the remaining time in ts.
		if n, err = unix.Ppoll(fds[:], ts, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return false, waitError(err)
	}
	if fds[1].Revents != 0 {
		s.waiter.take()
	}
	if s.closed.Load() {
		return false, net.ErrClosed
	}
	if n == 0 || fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
		// poll(2) on an AF_XDP socket says nothing about a device that was unregistered; SO_ERROR does, once.
		if e, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e != 0 {
			s.waiter.errno.Store(uint32(e))
		}
		if e := s.waiter.errno.Load(); e != 0 {
			return false, waitError(unix.Errno(e))
		}
	}
	return n > 0 || retry, nil
}
