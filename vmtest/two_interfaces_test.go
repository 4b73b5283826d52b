// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// Two interfaces of one host, each with an xdptcp of its own for the same port: the host's addresses are
// both's, and which of them answers depends on where a packet comes in.
func TestTwoInterfacesOfAHostServeTheSamePort(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	second := lab.ForTest(t, lab.Options{}).Client // another client, on the second interface
	near, far := netip.MustParseAddr("198.18.88.1"), netip.MustParseAddr("198.18.88.2")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.Server.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "cli1", PeerNamespace: netlink.NsFd(int(second.NS()))}
		veth.Name = "srv1"
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return plug("srv1", 1500, near)
	}))
	must(second.Do(func() error { return plug("cli1", 1500, far) }))

	first := attach(t, l, "--pin", "")
	other := l.Server.Command(product, "attach", "srv1", "--pin", "", "--mode", "generic", "--metrics", "127.0.0.1:9401")
	out := new(lab.Output)
	other.Stdout, other.Stderr = out, out
	must(other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	for start := time.Now(); !strings.Contains(out.String(), "ready "); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("the second one is not ready: %s", out)
		}
	}

	c, err := dialTo(l, netip.AddrPortFrom(l.Server.Addr4, 8080).String())
	must(err)
	must(c.Close())
	first.eventually("the first client's connection", func(s samples) bool { return s.opened() == 1 })

	d, err := second.Dial(t.Context(), "tcp", netip.AddrPortFrom(near, 8080).String())
	must(err)
	must(d.Close())
	if n := first.scrape().opened(); n != 1 {
		t.Errorf("the first interface's xdptcp opened %v connections", n)
	}
}
