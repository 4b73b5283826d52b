// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// secondClient gives the client more addresses, and returns them.
func secondClient(t *testing.T, l *lab.Lab) (v4, v6 netip.Addr) {
	t.Helper()
	for _, a := range []string{"192.0.2.3/24", "2001:db8::3/64"} {
		if err := l.Client.Do(func() error { return changeAddress("cli0", a, netlink.AddrAdd) }); err != nil {
			t.Fatal(err)
		}
		ip := netip.MustParsePrefix(a).Addr()
		if err := l.Server.Do(func() error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Server.IfIndex, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: l.Client.MAC})
		}); err != nil {
			t.Fatal(err)
		}
	}
	return netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")
}

// mayConnect says whether a client gets through; one that may not hears nothing.
func mayConnect(t *testing.T, l *lab.Lab, from netip.Addr, to string) bool {
	t.Helper()
	c, err := dialFrom(l, netip.AddrPortFrom(from, 0), to, 700*time.Millisecond)
	if err == nil {
		c.Close()
		return true
	}
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("from %v: %v, want no answer at all", from, err)
	}
	return false
}

func TestListsSayWhoMayConnectAndAreFollowed(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	other4, other6 := secondClient(t, l)
	dir := t.TempDir()
	allow, deny := filepath.Join(dir, "allow"), filepath.Join(dir, "deny")
	write(t, allow, "# the lab\n192.0.2.0/24\n2001:db8::/64\n")
	write(t, deny, "192.0.2.3 # but not this one\n2001:db8::3\n")
	d := attach(t, l, "--listen", ":7000=echo", "--allow", allow, "--deny", deny)
	expect := func(when string, want map[netip.Addr]bool) {
		t.Helper()
		for from, may := range want {
			to := "192.0.2.1:7000"
			if from.Is6() {
				to = "[2001:db8::1]:7000"
			}
			if got := mayConnect(t, l, from, to); got != may {
				t.Errorf("%s: %v may connect: %t, want %t", when, from, got, may)
			}
		}
	}
	me4, me6 := l.Client.Addr4, l.Client.Addr6
	expect("at first", map[netip.Addr]bool{me4: true, me6: true, other4: false, other6: false})
	s := d.scrape()
	if s[`xdptcp_list_entries{list="allow"}`] != 2 || s[`xdptcp_list_entries{list="deny"}`] != 2 || s.packets("drop", "denied") == 0 {
		t.Errorf("%v allowed, %v denied, %v packets dropped as denied", s[`xdptcp_list_entries{list="allow"}`], s[`xdptcp_list_entries{list="deny"}`], s.packets("drop", "denied"))
	}

	write(t, deny, "192.0.2.2\n")
	d.eventually("the new list", func(s samples) bool { return s[`xdptcp_list_entries{list="deny"}`] == 1 })
	expect("other clients denied", map[netip.Addr]bool{me4: false, me6: true, other4: true, other6: true})

	write(t, deny, "192.0.2.2\nnobody\n")
	d.eventually("the failure", func(s samples) bool { return s["xdptcp_list_failures_total"] == 1 })
	expect("after a bad list", map[netip.Addr]bool{me4: false, me6: true, other4: true})
	if log := d.stderr.String(); strings.Count(log, `deny:2: \"nobody\"`) != 1 {
		t.Errorf("the log does not name file and line once:\n%s", log)
	}

	write(t, allow, "2001:db8::3\n")
	write(t, deny, "")
	d.eventually("the new lists", func(s samples) bool { return s[`xdptcp_list_entries{list="allow"}`] == 1 })
	expect("one allowed", map[netip.Addr]bool{me4: false, me6: false, other4: false, other6: true})
}

func TestABadListIsRefusedWithItsFileAndLine(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	file := filepath.Join(t.TempDir(), "clients")
	write(t, file, "192.0.2.0/24\n\n192.0.2.1/24\n")
	for _, flag := range []string{"--allow", "--deny"} {
		refused(t, l.Server.Command(product, "attach", "srv0", flag, file), 1, file+":3:", "192.0.2.0/24 would be right")
		refused(t, l.Server.Command(product, "attach", "srv0", flag, file+"x"), 1, file+"x", "no such file")
	}
	if id := xdpProgram(t, l.Server); id != 0 {
		t.Errorf("XDP program %d is attached", id)
	}
}
