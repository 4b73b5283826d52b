// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"testing"
)

func TestListenersAreFoundWithWhatTheyTake(t *testing.T) {
	for _, c := range []struct {
		network, addr string
		mptcp         bool
		want          listener
	}{
		{"tcp4", "127.0.0.1:0", false, listener{addr: netip.MustParseAddrPort("127.0.0.1:0")}},
		{"tcp4", "0.0.0.0:0", false, listener{addr: netip.MustParseAddrPort("0.0.0.0:0")}},
		{"tcp6", "[::1]:0", false, listener{addr: netip.MustParseAddrPort("[::1]:0"), v6only: true}},
		{"tcp6", "[::]:0", false, listener{addr: netip.MustParseAddrPort("[::]:0"), v6only: true}},
		{"tcp", "[::]:0", false, listener{addr: netip.MustParseAddrPort("[::]:0")}},
		{"tcp4", "127.0.0.1:0", true, listener{addr: netip.MustParseAddrPort("127.0.0.1:0"), mptcp: true}},
	} {
		config := &net.ListenConfig{}
		config.SetMultipathTCP(c.mptcp)
		ln, err := config.Listen(t.Context(), c.network, c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
		c.want.addr = netip.AddrPortFrom(c.want.addr.Addr(), port)
		found, err := listeners(port)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) != 1 || found[0] != c.want {
			t.Errorf("%s %s, MPTCP %v: found %+v, want %+v", c.network, c.addr, c.mptcp, found, c.want)
		}
	}
}

func TestAListenerServesTheAddressesThatTheKernelGivesIt(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	for _, c := range []struct {
		listener, service string
		v6only, want      bool
	}{
		{"0.0.0.0:80", ":80", false, true},
		{"0.0.0.0:81", ":80", false, false},
		{"[::]:80", "192.0.2.1:80", false, true},
		{"[::]:80", "192.0.2.1:80", true, false},
		{"[::]:80", ":80", true, true},
		{"0.0.0.0:80", "[2001:db8::1]:80", false, false},
		{"192.0.2.1:80", ":80", false, true},
		{"192.0.2.2:80", ":80", false, false},
		{"192.0.2.2:80", "192.0.2.2:80", false, true},
	} {
		s, err := ParseService(c.service + "=kernel")
		if err != nil {
			t.Fatal(err)
		}
		l := listener{addr: netip.MustParseAddrPort(c.listener), v6only: c.v6only}
		if got := l.serves(s, own); got != c.want {
			t.Errorf("a listener on %s (IPv6 only: %v) serves %s: %v", c.listener, c.v6only, c.service, got)
		}
	}
}
