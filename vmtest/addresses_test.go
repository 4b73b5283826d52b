// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// address adds an address to an interface of the server, or takes it off.
func address(t *testing.T, l *lab.Lab, iface, addr string, change func(netlink.Link, *netlink.Addr) error) {
	t.Helper()
	if err := l.Server.Do(func() error { return changeAddress(iface, addr, change) }); err != nil {
		t.Fatalf("%s on %s: %v", addr, iface, err)
	}
}

func changeAddress(iface, addr string, change func(netlink.Link, *netlink.Addr) error) error {
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if strings.Contains(addr, ":") {
		a.Flags = unix.IFA_F_NODAD
	}
	return change(link, a)
}

// viaServer has the client send what is for a prefix to the server.
func viaServer(t *testing.T, l *lab.Lab, prefixes ...string) {
	t.Helper()
	for _, p := range prefixes {
		dst := netip.MustParsePrefix(p)
		gw := l.Server.Addr4
		if dst.Addr().Is6() {
			gw = l.Server.Addr6
		}
		if err := l.Client.Do(func() error {
			return netlink.RouteAdd(&netlink.Route{
				LinkIndex: l.Client.IfIndex, Gw: gw.AsSlice(),
				Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
			})
		}); err != nil {
			t.Fatalf("route to %s: %v", p, err)
		}
	}
}

// connects tries once.
func connects(l *lab.Lab, addr string, limit time.Duration) error {
	c, err := dialFrom(l, netip.AddrPort{}, addr, limit)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit)) // it is open: this can't fail
	return echo(c, []byte("whose are you?"))
}

// soon waits until a connection's outcome is as it should be, and says how long that took.
func soon(t *testing.T, l *lab.Lab, what, addr string, ok func(error) bool) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := connects(l, addr, 700*time.Millisecond) // shorter than the client's time to try again
		if ok(err) {
			return time.Since(start)
		}
		if time.Since(start) > patience {
			t.Fatalf("after %v still not: %s: %v", patience, what, err)
		}
	}
}

func isNil(err error) bool { return err == nil }

func TestAddressesAreServedAsTheyComeAndGo(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	// The client has no neighbour to look for: it would wait a second where there was none before.
	viaServer(t, l, "198.51.100.0/24", "2001:db8:51::/48", "192.0.2.77/32", "2001:db8::77/128")
	d := attach(t, l, "--listen", ":7000=echo")
	for _, c := range []struct{ iface, addr string }{
		{"srv0", "192.0.2.77/24"}, {"srv0", "2001:db8::77/64"},
		{"lo", "198.51.100.77/32"}, {"lo", "2001:db8:51::77/128"}, // as hosts behind a balancer have them
	} {
		ip := netip.MustParsePrefix(c.addr).Addr()
		at := netip.AddrPortFrom(ip, 7000).String()
		for range 2 {
			address(t, l, c.iface, c.addr, netlink.AddrAdd)
			// Some milliseconds. What is allowed is for busy machines, and less than the 10 s after which addresses
			// are read without a notification.
			if took := soon(t, l, c.addr+" is served", at, isNil); took > 5*time.Second {
				t.Errorf("%s was served %v after it came, want within 5 s", c.addr, took)
			} else {
				t.Logf("%s was served %v after it came", c.addr, took)
			}
			address(t, l, c.iface, c.addr, netlink.AddrDel)
			// The kernel doesn't have it any more and, as no router, says nothing.
			soon(t, l, c.addr+" is not served", at, func(err error) bool { return err != nil })
		}
	}
	// An address that is on two interfaces stays until it has left both.
	address(t, l, "srv0", "198.51.100.78/32", netlink.AddrAdd)
	address(t, l, "lo", "198.51.100.78/32", netlink.AddrAdd)
	soon(t, l, "198.51.100.78 is served", "198.51.100.78:7000", isNil)
	address(t, l, "lo", "198.51.100.78/32", netlink.AddrDel)
	time.Sleep(300 * time.Millisecond)
	if err := connects(l, "198.51.100.78:7000", patience); err != nil {
		t.Errorf("an address that one interface still has: %v", err)
	}
	for _, f := range families(l) {
		if err := connects(l, f.addr(7000), patience); err != nil {
			t.Errorf("an address that was there all the time: %v", err)
		}
	}
	if s := d.scrape(); s.packets("pass", "not_local") == 0 {
		t.Error("no packet passed as not local")
	}
}

// The port of a new address belongs to whoever was there first.
func TestANewAddressWhosePortTheKernelHasIsLeftToIt(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		t.Run(fmt.Sprintf("takeover %t", takeover), func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			args := []string{"--listen", ":7000=discard"} // which echoes nothing
			if takeover {
				args = append(args, "--takeover")
			}
			d := attach(t, l, args...)
			before := d.scrape().opened()
			// The address must be there to be bound, so its coming is noticed at once; to be first, the
			// kernel's listener binds freely.
			ln := freeListener(t, l, "192.0.2.77:7000")
			defer ln.Close()
			address(t, l, "srv0", "192.0.2.77/24", netlink.AddrAdd)
			time.Sleep(500 * time.Millisecond)
			if takeover {
				dial(t, l, "192.0.2.77:7000")
				d.eventually("our connection", func(s samples) bool { return s.opened() == before+1 })
				return
			}
			for range 3 {
				if err := connects(l, "192.0.2.77:7000", patience); err != nil {
					t.Fatalf("the kernel's listener on the new address: %v", err)
				}
			}
			log := d.stderr.String()
			if n := strings.Count(log, "is not served"); n != 1 || !strings.Contains(log, "192.0.2.77") || !strings.Contains(log, "--takeover") {
				t.Errorf("the log says %d times that it is not served; want once, with the address and --takeover:\n%s", n, log)
			}
			if s := d.scrape(); s.opened() != before {
				t.Errorf("%v connections are ours", s.opened()-before)
			}
			// When the listener has gone, the address is served without a new notification.
			ln.Close()
			ours := func() bool {
				if c, err := dialFrom(l, netip.AddrPort{}, "192.0.2.77:7000", time.Second); err == nil {
					c.Close()
				}
				return d.scrape().opened() > before
			}
			for start := time.Now(); !ours(); time.Sleep(200 * time.Millisecond) {
				if time.Since(start) > 2*patience {
					t.Fatal("the address was never served after the kernel's listener had gone")
				}
			}
		})
	}
}

// freeListener is an echo service of the server's kernel, on an address that it need not have.
func freeListener(t *testing.T, l *lab.Lab, addr string) net.Listener {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	var ln net.Listener
	if err := l.Server.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "listener")
		defer f.Close()
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 16); err != nil {
			return err
		}
		ln, err = net.FileListener(f)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go serveEcho(ln)
	return ln
}

// Once served, a port is nobody else's, on new addresses as on old ones.
func TestTheKernelGivesAHeldPortToNobodyElse(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l, "--listen", ":7000=echo")
	address(t, l, "srv0", "192.0.2.77/24", netlink.AddrAdd)
	soon(t, l, "192.0.2.77 is served", "192.0.2.77:7000", isNil)
	for _, addr := range []string{"192.0.2.1:7000", "[2001:db8::1]:7000", "192.0.2.77:7000", ":7000"} {
		ln, err := l.Server.Listen("tcp", addr)
		if err == nil {
			ln.Close()
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("the kernel on %s: %v, want that it is in use", addr, err)
		}
	}
	address(t, l, "srv0", "192.0.2.77/24", netlink.AddrDel)
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ln := tryFreeListener(l, "192.0.2.77:7000")
		if ln == nil {
			break
		}
		if time.Since(start) > patience {
			t.Fatalf("the port of an address that has gone is not given back: %v", ln)
		}
	}
}

// tryFreeListener says why the server's kernel can't bind an address that it need not have.
func tryFreeListener(l *lab.Lab, addr string) error {
	at := netip.MustParseAddrPort(addr)
	return l.Server.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())})
	})
}

func TestNoConnectionFailsWhileOtherAddressesComeAndGo(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":7000=echo")
	stop := make(chan struct{})
	churned := make(chan error, 1)
	rounds := 0
	go func() {
		churned <- l.Server.Do(func() error {
			for {
				for _, change := range []func(netlink.Link, *netlink.Addr) error{netlink.AddrAdd, netlink.AddrDel} {
					for i := range 100 {
						for _, addr := range []string{fmt.Sprintf("10.9.0.%d/32", i+1), fmt.Sprintf("2001:db8:9::%x/128", i+1)} {
							if err := changeAddress("srv0", addr, change); err != nil {
								return fmt.Errorf("%s: %w", addr, err)
							}
						}
					}
				}
				rounds++
				select {
				case <-stop:
					return nil
				default:
				}
			}
		})
	}()
	tried := 0
	for start := time.Now(); time.Since(start) < 5*time.Second && !t.Failed(); tried++ {
		for _, f := range families(l) {
			if err := connects(l, f.addr(7000), patience); err != nil {
				t.Errorf("connection %d to %s: %v", tried, f.addr(7000), err)
			}
		}
	}
	close(stop)
	if err := <-churned; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections to each address, while 200 others came and went %d times", tried, rounds)
	if rounds < 2 || tried < 20 {
		t.Errorf("%d rounds, %d connections: the test was too slow to show anything", rounds, tried)
	}
	s := d.scrape()
	if n := s.packets("pass", "not_local"); n != 0 {
		t.Errorf("%v packets passed as not local", n)
	}
	// Nothing was missed in all that: what comes now is served.
	address(t, l, "srv0", "192.0.2.78/24", netlink.AddrAdd)
	soon(t, l, "192.0.2.78 is served", "192.0.2.78:7000", isNil)
}
