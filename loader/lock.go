// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir has the lock files: one for each interface that is being attached or detached, and only meanwhile.
const lockDir = "/run/xdptcp"

// lockPatience is longer than an attach with --replace takes.
const lockPatience = queuePatience + 10*time.Second

// A place is an interface, named so that no other on the machine has the same name: an index means something
// within its network namespace only, and an interface's name can change.
type place struct {
	netns uint64 // inode
	index int
}

// placeOf is where an interface of the calling thread's network namespace is.
func placeOf(ifindex int) (place, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return place{}, fmt.Errorf("which network namespace this is: /proc/thread-self/ns/net: %w; is /proc mounted?", err)
	}
	return place{netns: st.Ino, index: ifindex}, nil
}

func (p place) String() string { return fmt.Sprintf("%d-%d", p.netns, p.index) }

// A lock lets one process at a time attach to an interface or detach from it. nil is none.
type lock struct{ file *os.File }

// lockPlace waits for the others that are at it.
func lockPlace(p place, iface string) (*lock, error) {
	if err := os.MkdirAll(lockDir, 0o700); err != nil {
		return nil, fmt.Errorf("lock of interface %q: %w", iface, err)
	}
	path := filepath.Join(lockDir, p.String()+".lock")
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		l, err := tryLock(path)
		switch {
		case err != nil:
			return nil, fmt.Errorf("lock of interface %q: %w", iface, err)
		case l != nil:
			return l, nil
		case time.Now().After(deadline):
			return nil, fmt.Errorf("another xdptcp has been attaching to interface %q or detaching from it for %v: fuser %s names it", iface, lockPatience, path)
		}
	}
}

// tryLock returns nil and no error if another process has the lock.
func tryLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && sameFile(f, path) {
		return &lock{f}, nil
	}
	_ = f.Close() // nothing was written
	if err == nil || errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return nil, fmt.Errorf("flock %s: %w", path, err)
}

// sameFile is false if who had the lock before has deleted the file.
func sameFile(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(ours, there)
}

// release gives the lock back; doing so again does nothing.
func (l *lock) release() {
	if l == nil || l.file == nil {
		return
	}
	_ = os.Remove(l.file.Name()) // before the lock is free: nobody can have opened a file of that name and locked it
	_ = l.file.Close()
	l.file = nil
}
