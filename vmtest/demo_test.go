// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestTheDemoShowsAHandshakeAndLeavesNothing(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	// It starts in a namespace of this test, so that nobody else's interfaces come and go there.
	interfaces := func() (names []string) {
		if err := l.Client.Do(func() error {
			links, err := netlink.LinkList()
			for _, k := range links {
				names = append(names, k.Attrs().Name)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return names
	}
	before := interfaces()
	named, _ := filepath.Glob("/run/netns/*") // the only error is a bad pattern
	var running sync.WaitGroup
	for range 2 { // twice at once
		running.Go(func() {
			c := l.Client.Command(product, "demo", "--once")
			stdout, stderr, code := finish(t, c)
			if code != 0 || stderr != "" {
				t.Errorf("exit code %d, stderr:\n%s", code, stderr)
			}
			for _, want := range []string{
				"192.0.2.1:8080", "[2001:db8::1]:8080", // the ladders' heads
				"SYN seq", "SYN|ACK seq", "XDP: cookie as ISN", "XDP: cookie valid, flow opened", "the ACK rides on it",
				"200 OK", "tx synack", "redirect opened", "opened",
			} {
				if !strings.Contains(stdout, want) {
					t.Errorf("want %q in:\n%s", want, stdout)
				}
			}
			if err := unix.Kill(-c.Process.Pid, 0); err != unix.ESRCH {
				t.Errorf("processes of the demo are left: %v", err)
			}
		})
	}
	running.Wait()
	if after := interfaces(); !slices.Equal(after, before) {
		t.Errorf("interfaces %v, before it were %v", after, before)
	}
	if after, _ := filepath.Glob("/run/netns/*"); !slices.Equal(after, named) {
		t.Errorf("named namespaces %v, before it were %v", after, named)
	}
}
