// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// heldPorts are bound, never listening kernel sockets on the addresses and ports that are ours. Binding
// finds a kernel listener that has the port, and as long as it is held the kernel gives the port to
// nobody else: not to a later listener, nor to an outgoing connection whose answers we would take.
type heldPorts struct {
	ifindex   int
	replacing bool                   // what another xdptcp holds is to be ours
	sockets   map[netip.AddrPort]int // file descriptors
}

// errTaken says that a kernel socket has an address and port.
type errTaken struct{ at netip.AddrPort }

func (e errTaken) Error() string {
	return fmt.Sprintf("port %d is held by a kernel socket on %v: stop it (ss -tlnp 'sport = %d' names it), or take its new connections with --takeover",
		e.at.Port(), e.at.Addr(), e.at.Port())
}

// hold binds an address and port, unless it is held already, in the calling thread's network namespace.
func (h *heldPorts) hold(at netip.AddrPort) error {
	if _, held := h.sockets[at]; held {
		return nil
	}
	// Where SO_REUSEADDR was set on both sides, a later listener gets the port in spite of us. So it is
	// set only where that is what it takes: sockets in TIME_WAIT don't keep the port from us.
	fd, err := bindPort(at, h.ifindex, 0)
	if errors.Is(err, unix.EADDRINUSE) {
		fd, err = bindPort(at, h.ifindex, unix.SO_REUSEADDR)
	}
	if errors.Is(err, unix.EADDRINUSE) && h.replacing {
		fd, err = bindPort(at, h.ifindex, unix.SO_REUSEPORT)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return errTaken{at}
	}
	if err != nil {
		return fmt.Errorf("binding %v to see whether it is free: %w", at, err)
	}
	h.sockets[at] = fd
	// For an xdptcp that takes our place: both may be bound then, if both have this set, and are of the same user.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return fmt.Errorf("SO_REUSEPORT on %v: %w", at, err)
	}
	return nil
}

// release gives an address and port back to the kernel.
func (h *heldPorts) release(at netip.AddrPort) {
	if fd, held := h.sockets[at]; held {
		_ = unix.Close(fd) // nothing was ever written to it
		delete(h.sockets, at)
	}
}

// bindPort binds a new socket, with SO_REUSEADDR or SO_REUSEPORT if reuse is one of them.
func bindPort(addr netip.AddrPort, ifindex, reuse int) (int, error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// An address that is not (yet) the host's may be served too.
	opts := []struct{ level, name, value int }{{unix.SOL_IP, unix.IP_FREEBIND, 1}}
	if reuse != 0 {
		opts = append(opts, struct{ level, name, value int }{unix.SOL_SOCKET, reuse, 1})
	}
	if family == unix.AF_INET6 {
		opts = append(opts, struct{ level, name, value int }{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1})
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	var sa unix.Sockaddr
	if family == unix.AF_INET {
		sa = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	} else {
		sa6 := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
		if addr.Addr().IsLinkLocalUnicast() {
			sa6.ZoneId = uint32(ifindex)
		}
		sa = sa6
	}
	if err := unix.Bind(fd, sa); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
