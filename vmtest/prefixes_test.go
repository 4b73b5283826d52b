// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// who finds out which action is at an address: it says something to it, and sees what comes back.
func who(l *lab.Lab, addr string) string {
	c, err := dialFrom(l, netip.AddrPort{}, addr, time.Second)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case err != nil:
		return "nobody"
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err.Error()
	}
	_ = c.SetDeadline(time.Now().Add(700 * time.Millisecond)) // it is open: this can't fail
	line, _ := bufio.NewReader(c).ReadString('\n')
	switch {
	case strings.HasPrefix(line, "GET / "):
		return "echo"
	case strings.HasPrefix(line, "HTTP/1.1 200"):
		return "http"
	case line == "":
		return "discard"
	}
	return line
}

func TestServicesOnPrefixesReachTheirOwnActions(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	viaServer(t, l, "198.51.0.0/16", "203.0.113.0/24", "2001:db8:51::/48")
	address(t, l, "lo", "198.51.100.9/32", netlink.AddrAdd)
	listen := []string{
		":8080=http", "198.51.100.0/24:443=echo", "198.51.0.0/16:443=http", "198.51.0.0/16:81=http",
		"198.51.100.7:443=discard", "203.0.113.5:443=echo", // which this host doesn't have
		"[2001:db8:51::/48]:443=echo", "[2001:db8:51:1::/64]:443=http",
	}
	var args []string
	for _, s := range listen {
		args = append(args, "--listen", s)
	}
	d := attach(t, l, args...)
	for _, c := range []struct{ addr, want string }{
		{"198.51.100.1:443", "echo"},
		{"198.51.100.255:443", "echo"},
		{"198.51.101.1:443", "http"},
		{"198.51.100.1:81", "http"}, // only the shorter prefix has it
		{"198.51.100.7:443", "discard"},
		{"198.51.100.7:81", "http"},
		{"198.51.100.9:443", "echo"}, // an own address in the prefix
		{"198.51.100.9:81", "http"},
		{"198.51.100.9:8080", "http"},
		{"203.0.113.5:443", "echo"},
		{"203.0.113.6:443", "nobody"},
		{"198.51.100.1:8080", "nobody"},
		{"192.0.2.1:8080", "http"},
		{"192.0.2.1:443", "refused"}, // by the kernel
		{"[2001:db8:51::1]:443", "echo"},
		{"[2001:db8:51:1::1]:443", "http"},
		{"[2001:db8:51:2::1]:8080", "nobody"},
	} {
		if got := who(l, c.addr); got != c.want {
			t.Errorf("%s: %s, want %s", c.addr, got, c.want)
		}
	}
	r, _ := d.statusJSON()
	if got := fmt.Sprint(r.Interfaces[0].Services); got != fmt.Sprint(listen) {
		t.Errorf("status --json: services %s, want %s", got, listen)
	}
	stdout, _, _ := run(t, l.Server, "status", "srv0")
	for _, s := range listen {
		if !strings.Contains(stdout, s) || !strings.Contains(d.ready, s) {
			t.Errorf("%s is not in status or not in the ready line:\n%s\n%s", s, stdout, d.ready)
		}
	}
	// An own address that goes is still in the prefix, but has no other service.
	address(t, l, "lo", "198.51.100.9/32", netlink.AddrDel)
	time.Sleep(500 * time.Millisecond)
	for _, c := range []struct{ addr, want string }{
		{"198.51.100.9:443", "echo"}, {"198.51.100.9:8080", "nobody"},
	} {
		if got := who(l, c.addr); got != c.want {
			t.Errorf("after the address has gone: %s: %s, want %s", c.addr, got, c.want)
		}
	}
}

// An own address keeps what the kernel serves on it, though it is in a prefix that is served.
func TestTheKernelsPortOnAnAddressInAServedPrefixIsLeftToIt(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	viaServer(t, l, "198.51.100.0/24")
	args := []string{"attach", "srv0", "--listen", "192.0.2.0/24:7000=discard", "--listen", "198.51.100.0/24:7000=discard"}
	ln, err := l.Server.Listen("tcp", "192.0.2.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, l.Server.Command(product, args...), 1, "192.0.2.1", "7000", "--takeover")
	ln.Close()

	attach(t, l, args[2:]...)
	freeListener(t, l, "198.51.100.77:7000") // nobody holds it yet
	if got := who(l, "198.51.100.77:7000"); got != "discard" {
		t.Errorf("an address of the prefix that the host doesn't have: %s", got)
	}
	address(t, l, "lo", "198.51.100.77/32", netlink.AddrAdd)
	time.Sleep(500 * time.Millisecond)
	for addr, want := range map[string]string{"198.51.100.77:7000": "echo", "198.51.100.78:7000": "discard"} {
		if got := who(l, addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	address(t, l, "lo", "198.51.100.77/32", netlink.AddrDel)
	time.Sleep(500 * time.Millisecond)
	if got := who(l, "198.51.100.77:7000"); got != "discard" {
		t.Errorf("the address has gone, and is one like all others of the prefix: %s", got)
	}
}
