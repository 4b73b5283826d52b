// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// A client behind a router whose link to it takes no more than 1300 bytes, though the client's own
// end would take 1500 and says so: the router tells the server in ICMP, and the engine listens.
func TestAConnectionShrinksItsSegmentsToAPathThatNarrows(t *testing.T) {
	t.Parallel()
	const narrow = 1300
	l := lab.ForTest(t, lab.Options{})
	far := behind(t, l, narrow)
	d := attach(t, l)
	for _, f := range families(l) {
		tr := &http.Transport{DialContext: far.Dial, DisableCompression: true}
		t.Cleanup(tr.CloseIdleConnections)
		if err := download(&http.Client{Transport: tr, Timeout: patience}, f, 3_000_000); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	s := d.scrape()
	if n := s[`xdptcp_icmp_errors_total{kind="too_big"}`]; n < 2 {
		t.Errorf("%v ICMP errors said that a segment was too big, want one for each family at least", n)
	}
	if n := s[`xdptcp_packets_total{reason="icmp",verdict="redirect"}`]; n < 2 {
		t.Errorf("XDP gave %v ICMP errors to the engine", n)
	}

	// Others pass: the server's kernel hears that a datagram of its own was too big.
	c, err := l.Server.Dial(t.Context(), "udp", netip.AddrPortFrom(farAddr4, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 100 {
		_, _ = c.Write(make([]byte, 1400)) // refused, once the kernel has heard
		out, err := l.Server.Command("ip", "route", "get", farAddr4.String()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if strings.Contains(string(out), fmt.Sprintf("mtu %d", narrow)) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the kernel did not hear that its datagram was too big")
}

var (
	farAddr4 = netip.MustParseAddr("198.18.77.2")
	farAddr6 = netip.MustParseAddr("2001:db8:77::2")
)

// behind makes a third host that reaches the lab's server through the lab's client, which forwards
// to it over a link of the given MTU; the third host's own end takes 1500 bytes.
func behind(t *testing.T, l *lab.Lab, mtu int) *lab.Host {
	t.Helper()
	far := lab.ForTest(t, lab.Options{}).Client
	router4, router6 := netip.MustParseAddr("198.18.77.1"), netip.MustParseAddr("2001:db8:77::1")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.Client.Do(func() error {
		near := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "far0", PeerNamespace: netlink.NsFd(int(far.NS()))}
		near.Name = "near0"
		if err := netlink.LinkAdd(near); err != nil {
			return err
		}
		return plug("near0", mtu, router4, router6)
	}))
	must(far.Do(func() error { return plug("far0", 1500, farAddr4, farAddr6) }))
	for name, value := range map[string]string{"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"} {
		must(l.Client.SetSysctl(name, value))
	}
	must(far.Do(func() error {
		if err := routeVia(l.Server.Addr4, router4, farAddr4); err != nil {
			return err
		}
		return routeVia(l.Server.Addr6, router6, farAddr6)
	}))
	return far
}

// plug gives an interface addresses and brings it up.
func plug(name string, mtu int, addrs ...netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return err
	}
	for _, a := range addrs {
		bits := 24
		addr := &netlink.Addr{}
		if a.Is6() {
			bits = 64
			addr.Flags = 2 // IFA_F_NODAD of linux/if_addr.h: usable at once
		}
		addr.IPNet = &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: %v: %w", name, a, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// routeVia leads to one address through a router, from an address of our own.
func routeVia(to, router, from netip.Addr) error {
	err := netlink.RouteAdd(&netlink.Route{
		Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}, Gw: router.AsSlice(), Src: from.AsSlice(),
	})
	if err != nil {
		return fmt.Errorf("route to %v via %v: %w", to, router, err)
	}
	return nil
}
