// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const atOnce = 16 // connections

var request = []byte("GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")

// A caller opens one connection after the other, 16 at a time, by epoll on one thread: connect, request, answer, close.
type caller struct {
	server netip.Addr
	epoll  int
	calls  [atOnce]call
	opened uint32
	served int64
}

type call struct {
	fd        int // 0: free
	connected bool
	got       int
}

func clientConns(addr netip.Addr, d time.Duration) (s served, err error) {
	c := &caller{server: addr}
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return s, fmt.Errorf("epoll_create1: %w", err)
	}
	defer unix.Close(c.epoll)
	start := time.Now()
	for i := range c.calls {
		if err := c.start(i); err != nil {
			return s, err
		}
	}
	var events [atOnce]unix.EpollEvent
	for time.Since(start) < d {
		n, err := unix.EpollWait(c.epoll, events[:], 5000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return s, fmt.Errorf("epoll_wait: %w", err)
		}
		if n == 0 {
			return s, errors.New("nothing happens on any connection for 5 seconds")
		}
		for _, e := range events[:max(n, 0)] {
			if err := c.event(int(e.Fd)); err != nil {
				return s, err
			}
		}
	}
	return served{c.served, int64(time.Since(start))}, nil
}

// start connects from the next of the client's addresses.
func (c *caller) start(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.calls[i] = call{fd: fd}
	from := clientNet.Addr().As4()
	from[3] = byte(c.opened)
	c.opened++
	// The port is chosen when connecting, so that each address has all of them.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("setsockopt(IP_BIND_ADDRESS_NO_PORT): %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET&0xffffffff, Fd: int32(i)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: portClose, Addr: c.server.As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// event goes on with a connection on which something happened; when it is through, with the next one.
func (c *caller) event(i int) error {
	k := &c.calls[i]
	if !k.connected {
		switch _, err := unix.Write(k.fd, request); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("connect, or the request: %w", err)
		}
		k.connected = true
		return nil
	}
	var b [1024]byte
	for {
		n, err := unix.Read(k.fd, b[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("the answer: %w", err)
		case n > 0:
			if k.got == 0 && !bytes.HasPrefix(b[:n], []byte("HTTP/1.1 200 ")) {
				return fmt.Errorf("the answer is not as expected: %q", b[:n])
			}
			k.got += n
			continue
		}
		if k.got != len(answer) {
			return fmt.Errorf("the answer has %d of %d bytes", k.got, len(answer))
		}
		if err := unix.Close(k.fd); err != nil {
			return err
		}
		c.served++
		return c.start(i)
	}
}
