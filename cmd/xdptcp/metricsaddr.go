// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/loader"
)

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
	for _, file := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			continue // it would be told as held by somebody else, which is refused
		}
		for _, inode := range listening(string(table), tcp.Port) {
			if hasSocket(states[0].PID, inode) {
				return true
			}
		}
	}
	return false
}

// listening finds the inodes of the sockets that listen on a port in a /proc/net/tcp (proc_net_tcp of the kernel's
// documentation). It is read, and not netlink asked, because the module that netlink needs may be missing.
func listening(table string, port int) (inodes []string) {
	const local, state, inode = 1, 3, 9 // columns
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > inode && f[state] == "0A" && strings.HasSuffix(f[local], fmt.Sprintf(":%04X", port)) {
			inodes = append(inodes, f[inode])
		}
	}
	return inodes
}

// hasSocket says whether a process has a socket open.
func hasSocket(pid int, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(dir + fd.Name()); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
