// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// serverLink does something to the server's interface.
func serverLink(t *testing.T, l *lab.Lab, f func(netlink.Link) error) {
	t.Helper()
	if err := l.Server.Do(func() error {
		link, err := netlink.LinkByName(l.Server.Iface)
		if err != nil {
			return err
		}
		return f(link)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestADaemonWhoseInterfaceIsDeletedSaysSoAndEnds(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Queues: 2})
	d := attach(t, l)
	serverLink(t, l, netlink.LinkDel)
	select {
	case <-d.exited:
	case <-time.After(patience):
		t.Fatalf("it goes on without its interface; stderr:\n%s", d.stderr)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if log := d.stderr.String(); !strings.Contains(log, "xdptcp: interface "+l.Server.Iface+": queue ") || !strings.Contains(log, "gone") {
		t.Errorf("stderr does not say that the interface is gone:\n%s", log)
	}
}

func TestADaemonGoesOnWhenItsInterfaceComesBackUp(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	client, f := httpClient(t, l, patience), families(l)[0] // IPv6 addresses do not outlive "down"
	if _, err := fetch(client, f.url("/")); err != nil {
		t.Fatal(err)
	}
	serverLink(t, l, netlink.LinkSetDown)
	time.Sleep(1500 * time.Millisecond) // longer than the engine sleeps
	serverLink(t, l, netlink.LinkSetUp)
	client.CloseIdleConnections()
	if _, err := fetch(client, f.url("/")); err != nil {
		t.Fatal(err)
	}
}
