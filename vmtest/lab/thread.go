// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A home is a namespace and the one thread that lives in it from birth to the
// lab's end. Children are forked there: they inherit the thread's namespace, and
// the signal they ask to get when their parent dies is sent when this thread
// does, which is neither too early (a thread of the Go pool may end while the
// process goes on) nor too late.
type home struct {
	ns   netns.NsHandle
	tid  int
	jobs chan func()
	quit chan struct{}
	gone chan struct{}
}

func newHome() (*home, error) {
	h := &home{
		jobs: make(chan func()),
		quit: make(chan struct{}),
		gone: make(chan struct{}),
	}
	born := make(chan error)
	lockedOffMain(func() {
		defer close(h.gone)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread() // nothing has changed
			born <- fmt.Errorf("make a network namespace: unshare(CLONE_NEWNET): %w%s", err, advice(err))
			return
		}
		h.tid = unix.Gettid()
		ns, err := netns.Get()
		if err != nil {
			born <- fmt.Errorf("open the new network namespace: /proc/self/task/%d/ns/net: %w; is /proc mounted?", h.tid, err)
			return // still locked: the runtime ends the thread
		}
		h.ns = ns
		born <- nil
		for {
			select {
			case job := <-h.jobs:
				job()
			case <-h.quit:
				return // still locked: the runtime ends the thread
			}
		}
	})
	if err := <-born; err != nil {
		return nil, err
	}
	return h, nil
}

// do runs f on the home's thread, when that is free. f must be short.
func (h *home) do(f func() error) error {
	res := make(chan error, 1)
	select {
	case h.jobs <- func() { res <- f() }:
		return <-res
	case <-h.gone:
		return ErrClosed
	}
}

// leave ends the thread and closes the namespace's descriptor. It is called once.
func (h *home) leave() error {
	close(h.quit)
	<-h.gone
	// The thread's end is what frees the namespace, and the runtime ends it in its
	// own time: usually some microseconds.
	task := "/proc/self/task/" + strconv.Itoa(h.tid)
	for start := time.Now(); time.Since(start) < time.Second; time.Sleep(100 * time.Microsecond) {
		if _, err := os.Stat(task); err != nil {
			break
		}
	}
	return h.ns.Close()
}

// lockedOffMain runs f in a goroutine locked to a thread that is not the
// process's main one. f unlocks the thread, or returns without, and then the
// thread ends. The main thread would not end (the runtime parks it, in whatever
// namespace it is), and /proc/self/ns/net, which others read, is the main
// thread's.
func lockedOffMain(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// Sit on the main thread until the other goroutine has one of its own.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}
