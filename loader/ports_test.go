// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNewNetns runs f on a thread in a network namespace of its own, with the loopback up.
func inNewNetns(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("network namespaces take root, and with CI=true nothing is skipped")
		}
		t.Skip("network namespaces take root")
	}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// listen is a kernel listener, as servers make them.
func listen(at netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp", at.String())
}

func TestAHeldPortIsForNobodyButASuccessor(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:7000", "[::1]:7000", "192.0.2.1:7000", "[2001:db8::1]:7000"} {
		at := netip.MustParseAddrPort(addr)
		inNewNetns(t, func() error {
			holder := func(replacing bool) *heldPorts {
				return &heldPorts{replacing: replacing, sockets: map[netip.AddrPort]int{}}
			}
			var taken errTaken
			here := at.Addr().IsLoopback() // only then there can be a listener
			if here {
				ln, err := listen(at)
				if err != nil {
					return err
				}
				for _, replacing := range []bool{false, true} {
					if err := holder(replacing).hold(at); !errors.As(err, &taken) || taken.at != at {
						t.Errorf("%v, replacing %t: held in spite of a listener: %v", at, replacing, err)
					}
				}
				ln.Close()
			}
			first, second := holder(false), holder(true)
			if err := errors.Join(first.hold(at), first.hold(at)); err != nil {
				return err
			}
			if err := holder(false).hold(at); !errors.As(err, &taken) {
				t.Errorf("%v: held twice: %v", at, err)
			}
			if err := second.hold(at); err != nil {
				t.Errorf("%v: the successor: %v", at, err)
			}
			first.release(at)
			if here {
				if ln, err := listen(at); !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("%v: listened on though the successor holds it: %v, %v", at, ln, err)
				}
			}
			second.release(at)
			third := holder(false)
			defer third.release(at)
			return third.hold(at)
		})
	}
}
