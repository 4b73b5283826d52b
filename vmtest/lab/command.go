// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cmd is an exec.Cmd whose process starts inside a host's namespace. Use its own
// Start, Run, Output, CombinedOutput and Wait, not those of the embedded Cmd,
// which start outside. The rest (fields, StdoutPipe …) is as ever.
//
// The process leads a group of its own, and gets SIGKILL when the process that
// owns the lab dies; what it starts in turn does not, unless it dies with it.
// Lab.Close kills the whole group.
type Cmd struct {
	*exec.Cmd
	host    *Host
	waiting sync.Once
	waitErr error
}

// Command prepares a process inside the namespace.
func (h *Host) Command(name string, args ...string) *Cmd {
	return h.CommandContext(context.Background(), name, args...)
}

// CommandContext is Command with a context whose end kills the process and its
// group.
func (h *Host) CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), host: h}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = c.kill
	return c
}

// Start starts the process. It is forked on the thread that lives in the
// namespace: a child inherits its thread's.
func (c *Cmd) Start() error {
	h := c.host
	err := h.home.do(func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.closed {
			return ErrClosed
		}
		if err := c.Cmd.Start(); err != nil {
			return err
		}
		h.cmds[c] = struct{}{}
		h.groups[c.Process.Pid] = struct{}{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: start %s: %w", h.Name, c.Path, err)
	}
	return nil
}

// Wait waits as exec.Cmd.Wait does. Called again, it returns the same.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return c.Cmd.Wait() // which says that it was not started
	}
	c.waiting.Do(func() {
		c.waitErr = c.Cmd.Wait()
		c.host.mu.Lock()
		delete(c.host.cmds, c)
		c.host.mu.Unlock()
	})
	return c.waitErr
}

// Run starts the process and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns what it printed. If Stderr is not set,
// what it said there is in the *exec.ExitError.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, fmt.Errorf("%s: output of %s: Stdout is set already", c.host.Name, c.Path)
	}
	var out, complaint bytes.Buffer
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &complaint
	}
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		exit.Stderr = complaint.Bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput runs the process and returns what it printed on standard output
// and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, fmt.Errorf("%s: combined output of %s: Stdout or Stderr is set already", c.host.Name, c.Path)
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// kill kills the process and, while it is a zombie at least (so the number can't
// be another's), its group.
func (c *Cmd) kill() error {
	if err := c.Process.Kill(); err != nil {
		return err
	}
	_ = unix.Kill(-c.Process.Pid, unix.SIGKILL) // ESRCH: the caller undid Setpgid
	return nil
}

// stopWithin bounds the wait for killed processes to go.
const stopWithin = 5 * time.Second

// stop refuses all further use of the host, and ends its captures and processes.
func (h *Host) stop() error {
	h.mu.Lock()
	h.closed = true
	var captures []*Capture
	for c := range h.captures {
		captures = append(captures, c)
	}
	var cmds []*Cmd
	for c := range h.cmds {
		cmds = append(cmds, c)
	}
	h.mu.Unlock()

	var errs []error
	for _, c := range captures {
		errs = append(errs, c.Close())
	}
	for _, c := range cmds {
		_ = c.kill() // gone already is fine
	}
	deadline := time.Now().Add(stopWithin)
	// What the commands started in turn, and left behind: found by group and
	// namespace together, so that a number used anew harms nobody.
	left := h.strays()
	for ; len(left) > 0 && time.Now().Before(deadline); left = h.strays() {
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
	for _, pid := range left {
		errs = append(errs, fmt.Errorf("%s: process %d is still alive %v after SIGKILL", h.Name, pid, stopWithin))
	}
	for _, c := range cmds {
		reaped := make(chan struct{})
		go func() { _ = c.Wait(); close(reaped) }()
		select {
		case <-reaped:
		case <-time.After(time.Until(deadline)):
			errs = append(errs, fmt.Errorf("%s: %s (process %d) was killed, but something else keeps its output open", h.Name, c.Path, c.Process.Pid))
		}
	}
	return errors.Join(errs...)
}

// strays lists the living processes of this namespace that belong to the group
// of a command.
func (h *Host) strays() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.groups) == 0 {
		return nil
	}
	var ours, theirs unix.Stat_t
	if unix.Fstat(int(h.home.ns), &ours) != nil {
		return nil
	}
	paths, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, p := range paths {
		// A zombie has no namespace: the Stat fails, and it does not count.
		if unix.Stat(p+"/ns/net", &theirs) != nil || theirs.Ino != ours.Ino || theirs.Dev != ours.Dev {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if pgid, err := unix.Getpgid(pid); err == nil {
			if _, ok := h.groups[pgid]; ok {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
