// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// goPatience is how long a daemon may take to close its connections when it is detached.
const goPatience = 8 * time.Second

// Detached is what Detach found.
type Detached struct {
	PID  int  // of the daemon
	Left bool // the daemon was alive, and has ended
	Runs bool // the daemon was alive, and still runs: it serves nobody any more
}

// Detach takes the xdptcp off an interface of the calling thread's network namespace, and removes its pin below a pin
// directory ("": none). A living daemon is told to end, and has some seconds to close its connections; new ones are the
// kernel's at once. ErrNotAttached if there is none; a program of somebody else stays.
func Detach(name, pinDir string) (d Detached, err error) {
	link, err := findLink(name)
	if err != nil {
		return d, err
	}
	if err := checkPrivilege(); err != nil {
		return d, err
	}
	at, err := placeOf(link.Attrs().Index)
	if err != nil {
		return d, err
	}
	lock, err := lockPlace(at, name)
	if err != nil {
		return d, err
	}
	defer lock.release()
	a, err := findAttachedTo(at.index)
	if errors.Is(err, ErrNotAttached) {
		return d, errors.Join(fmt.Errorf("%w to %s", err, name), removeIfStale(pinAt(pinDir, at)))
	}
	if err != nil {
		return d, err
	}
	if err := a.watch(); err != nil {
		a.close()
		return d, err
	}
	h, err := a.take(at.index)
	if err != nil {
		a.close()
		return d, err
	}
	defer h.release()
	d.PID = int(a.control.Pid)
	atomic.StoreUint64(&h.shared.Armed, 0)
	h.dismiss(nobody, os.Getpid())
	if a.living {
		d.Left = awaitEnd(d.PID, goPatience)
		d.Runs = !d.Left
	}
	if err := pinAt(pinDir, at).remove(); err != nil {
		return d, err
	}
	if err := h.link.Detach(); err != nil {
		return d, fmt.Errorf("detach %s: %w", name, err)
	}
	return d, h.detachHandoff()
}

// removeIfStale removes a pin whose link is on no interface.
func removeIfStale(p pin) error {
	if p.exists() && stale(p.path()) {
		return p.remove()
	}
	return nil
}

// awaitEnd returns whether a process has ended in time.
func awaitEnd(pid int, patience time.Duration) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(patience)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline)).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 || time.Now().After(deadline) {
			return n > 0
		}
	}
}
