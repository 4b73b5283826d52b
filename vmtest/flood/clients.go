// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

const (
	atOnce  = 16              // connections
	timeOut = 3 * time.Second // for all of a connection
	small   = 64              // bytes of the answer's body
)

var request = fmt.Appendf(nil, "GET /bytes?n=%d HTTP/1.1\r\nHost: flood\r\nConnection: close\r\n\r\n", small)

// clients are honest: the kernel's TCP, 16 connections at a time, each with one request. One thread
// drives them all, by epoll. They have 256 addresses (none that floods), so that no port is needed twice
// within a minute.
type clients struct {
	server netip.AddrPort
	epoll  int
	conns  [atOnce]conn
	open   int
	opened uint32
	result clientsResult
}

type clientsResult struct {
	served  []time.Duration // how long each took that was served in time
	late    int             // served after the end of the measurement
	failed  int             // no connection, or one that broke
	stuck   int             // connected, and then nothing until the time-out
	failure error           // one example
}

// A conn is a place for one connection.
type conn struct {
	fd        int // 0: free
	began     time.Time
	connected bool
	answer    [1024]byte
	length    int
}

// The clients' addresses: networks of the client's own loopback.
func clientNet(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix("2001:db8:c11e::/120")
	}
	return netip.MustParsePrefix("203.0.113.0/24") // RFC 5737
}

// prepareClients gives the host the clients' addresses. It runs inside.
func prepareClients(h *lab.Host, v6 bool) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("flood: %s: look lo up: %w", h.Name, err)
	}
	n, err := netlink.ParseIPNet(clientNet(v6).String())
	if err != nil {
		return err
	}
	err = netlink.RouteAdd(&netlink.Route{Dst: n, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL})
	if err != nil {
		return fmt.Errorf("flood: %s: add the clients' addresses %v: %w", h.Name, n, err)
	}
	return nil
}

// run opens connections until d is over, and waits for those that are open then. It runs in the client's
// namespace.
func (c *clients) run(ctx context.Context, d time.Duration) (err error) {
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("flood: epoll_create1: %w", err)
	}
	defer unix.Close(c.epoll)
	defer func() {
		for i := range c.conns {
			c.release(&c.conns[i])
		}
	}()
	end := time.Now().Add(d)
	var events [atOnce]unix.EpollEvent
	var looked time.Time // when time-outs were last looked for
	for {
		now := time.Now()
		for i := range c.conns {
			if k := &c.conns[i]; k.fd == 0 && now.Before(end) && ctx.Err() == nil {
				if err := c.start(k, i, now); err != nil {
					return err
				}
			}
		}
		if c.open == 0 {
			return ctx.Err()
		}
		n, err := unix.EpollWait(c.epoll, events[:], 10)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("flood: epoll_wait: %w", err)
		}
		now = time.Now()
		for _, e := range events[:max(n, 0)] {
			c.event(&c.conns[e.Fd], now, end)
		}
		if now.Sub(looked) > 10*time.Millisecond {
			looked = now
			c.timeOuts(now)
		}
	}
}

// start connects from the next address. An error is one of the machine's, not of the connection.
func (c *clients) start(k *conn, slot int, now time.Time) (err error) {
	v6 := c.server.Addr().Is6()
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	*k = conn{began: now}
	if k.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		k.fd = 0
		return fmt.Errorf("flood: socket: %w", err)
	}
	c.open++
	addr := clientNet(v6).Addr().AsSlice()
	addr[len(addr)-1] = byte(c.opened)
	c.opened++
	from, _ := netip.AddrFromSlice(addr)
	// The port is chosen when connecting, so that each address has all of them.
	if err := unix.SetsockoptInt(k.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("flood: setsockopt(IP_BIND_ADDRESS_NO_PORT): %w", err)
	}
	if v6 { // IPv6 wants to be told, even if there is a local route
		if err := unix.SetsockoptInt(k.fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return fmt.Errorf("flood: setsockopt(IPV6_FREEBIND): %w", err)
		}
	}
	if err := unix.Bind(k.fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		return fmt.Errorf("flood: bind to %v: %w", from, err)
	}
	err = unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, k.fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET&0xffffffff, Fd: int32(slot),
	})
	if err != nil {
		return fmt.Errorf("flood: epoll_ctl: %w", err)
	}
	if err := unix.Connect(k.fd, sockaddr(c.server)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		c.fail(k, fmt.Errorf("connect: %w", err))
	}
	return nil
}

// event goes on with a connection on which something happened.
func (c *clients) event(k *conn, now, end time.Time) {
	if k.fd == 0 {
		return
	}
	if !k.connected {
		switch _, err := unix.Write(k.fd, request); {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			c.fail(k, fmt.Errorf("connect, or the request: %w", err))
			return
		}
		k.connected = true
		return // the answer is an event of its own
	}
	for {
		n, err := unix.Read(k.fd, k.answer[k.length:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			c.fail(k, fmt.Errorf("the answer: %w", err))
			return
		case n > 0:
			k.length += n
			continue
		}
		answer := k.answer[:k.length]
		if _, body, _ := bytes.Cut(answer, []byte("\r\n\r\n")); !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || len(body) != small {
			c.fail(k, fmt.Errorf("the answer is not as expected: %q", answer))
			return
		}
		if now.After(end) {
			c.result.late++
		} else {
			c.result.served = append(c.result.served, now.Sub(k.began))
		}
		c.release(k)
		return
	}
}

// timeOuts gives up on connections that take too long.
func (c *clients) timeOuts(now time.Time) {
	for i := range c.conns {
		k := &c.conns[i]
		if k.fd == 0 || now.Sub(k.began) < timeOut {
			continue
		}
		if !k.connected {
			c.fail(k, errors.New("no connection in time"))
			continue
		}
		c.result.stuck++
		c.release(k)
	}
}

func (c *clients) fail(k *conn, err error) {
	c.result.failed++
	c.result.failure = err
	c.release(k)
}

func (c *clients) release(k *conn) {
	if k.fd != 0 {
		unix.Close(k.fd)
		k.fd = 0
		c.open--
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
