// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/loader"
)

const tcpListen = 10 // TCP_LISTEN of the kernel's include/net/tcp_states.h

// metricsPatience is how long the daemon before may take to give the metrics' address up, after its sockets.
const metricsPatience = 5 * time.Second

// reserveMetrics listens on the metrics' address. nil and no error: the daemon that this one is to replace has it, and
// awaitMetrics will get it. So an address that nobody gives up is refused while nothing has been touched yet.
func reserveMetrics(opts daemonOptions) (net.Listener, error) {
	if opts.metrics == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", opts.metrics)
	if err != nil && errors.Is(err, unix.EADDRINUSE) && opts.loader.Replace && heldByDaemon(opts.loader.Interface, opts.metrics) {
		return nil, nil
	}
	if err != nil {
		return nil, metricsError(opts.metrics, err)
	}
	return ln, nil
}

// awaitMetrics listens on the metrics' address once it is free.
func awaitMetrics(addr string) (net.Listener, error) {
	for deadline := time.Now().Add(metricsPatience); ; time.Sleep(20 * time.Millisecond) {
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return ln, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
			return nil, metricsError(addr, err)
		}
	}
}

func metricsError(addr string, err error) error {
	return fmt.Errorf("metrics address %s: %w: choose another with --metrics ADDR:PORT, or none with --metrics ''", addr, err)
}

// heldByDaemon says whether the daemon on an interface listens on an address's port.
func heldByDaemon(iface, addr string) bool {
	states, err := loader.Inspect(iface)
	if err != nil {
		return false
	}
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return false
	}
	proc, err := procfs.NewFS("/proc/thread-self") // and not netlink: the module that it needs may be missing
	if err != nil {
		return false
	}
	for _, list := range []func() (procfs.NetTCP, error){proc.NetTCP, proc.NetTCP6} {
		sockets, err := list()
		if err != nil {
			continue // it would be told as held by somebody else, which is refused
		}
		for _, s := range sockets {
			if s.St == tcpListen && int(s.LocalPort) == tcp.Port && hasSocket(states[0].PID, s.Inode) {
				return true
			}
		}
	}
	return false
}

// hasSocket says whether a process has a socket open.
func hasSocket(pid int, inode uint64) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(dir + fd.Name()); err == nil && to == fmt.Sprintf("socket:[%d]", inode) {
			return true
		}
	}
	return false
}
