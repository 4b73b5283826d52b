// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// holdPorts binds a kernel socket to every address and port that will be ours, and keeps it. It
// finds a kernel listener that has the port, and as long as it is held the kernel gives the port to
// nobody else: not to a later listener, nor to an outgoing connection whose answers we would take.
func holdPorts(services []Service, own []netip.Addr, ifindex int) (release func(), err error) {
	var fds []int
	release = func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // nothing was ever written to it
		}
	}
	for _, svc := range services {
		addrs := own
		if svc.Addr.IsValid() {
			addrs = []netip.Addr{svc.Addr}
		}
		for _, a := range addrs {
			fd, err := bindPort(netip.AddrPortFrom(a, svc.Port), ifindex)
			if errors.Is(err, unix.EADDRINUSE) {
				release()
				return nil, fmt.Errorf("port %d is held by a kernel socket on %v: stop it (ss -tlnp 'sport = %d' names it), or take its new connections with --takeover",
					svc.Port, a, svc.Port)
			}
			if err != nil {
				release()
				return nil, fmt.Errorf("binding %v to see whether it is free: %w", netip.AddrPortFrom(a, svc.Port), err)
			}
			fds = append(fds, fd)
		}
	}
	return release, nil
}

func bindPort(addr netip.AddrPort, ifindex int) (int, error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// An address that is not (yet) the host's may be served too; sockets of ours in TIME_WAIT don't
	// keep the port from us.
	opts := []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.SOL_IP, unix.IP_FREEBIND, 1},
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
