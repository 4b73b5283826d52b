// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// The kernel at the other end answers for a client that says nothing, until nothing of it is left.
func TestKeepAliveTellsASilentClientFromOneThatIsGone(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	for _, f := range families(p.lab) {
		ours, theirs, err := p.pipe(f)
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		defer theirs.Close()
		// Patient enough that no answer comes too late on a busy machine.
		if err := ours.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 200 * time.Millisecond, Interval: time.Second, Count: 5}); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); ours.Info().KeepAlivesOut < 5; time.Sleep(50 * time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("%s: %d probes", f.name, ours.Info().KeepAlivesOut)
			}
		}
		if err := echoFrom(ours, theirs); err != nil {
			t.Errorf("%s: after the probes: %v", f.name, err)
		}
	}

	ours, _, err := p.pipe(families(p.lab)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 100 * time.Millisecond, Interval: 100 * time.Millisecond, Count: 3}); err != nil {
		t.Fatal(err)
	}
	l := p.lab.Client
	if err := l.Do(func() error {
		addrs, err := netlink.AddrList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: l.IfIndex}}, netlink.FAMILY_V4)
		for i := range addrs {
			err = errors.Join(err, netlink.AddrDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: l.IfIndex}}, &addrs[i]))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_ = ours.SetReadDeadline(time.Now().Add(patience)) // Read would tell
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("Read when the client is gone: %v, want ETIMEDOUT", err)
	}
}

// echoFrom sends a byte each way.
func echoFrom(a, b net.Conn) error {
	var got [1]byte
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := way[0].Write([]byte{'x'}); err != nil {
			return err
		}
		_ = way[1].SetReadDeadline(time.Now().Add(patience)) // Read would tell
		if _, err := way[1].Read(got[:]); err != nil {
			return err
		}
	}
	return nil
}
