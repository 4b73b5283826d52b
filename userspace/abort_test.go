// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestAbortFlowsResetsTheConnectionsOfTheAddressesThatMatch(t *testing.T) {
	p := newPeer(t, 0)
	kept := p.connect()
	denied := netip.MustParseAddr("198.51.100.7")
	p.client = denied
	p.from(40000)
	p.closeActively(p.connect()) // in TIME-WAIT: there is nothing to reset
	p.from(40001)
	c := p.connect()
	p.from(40002)
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", &p.record) // nobody accepts this one
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 4)

	reading := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		reading <- err
	}()
	n := p.engine.AbortFlows(func(remote netip.Addr) bool { return remote == denied })
	if n != 2 {
		t.Errorf("%d connections were reset, want 2", n)
	}
	ports := map[uint16]bool{}
	for range 2 {
		s := p.link.next(t)
		if !s.Segment.Flags.Has(wire.RST) || s.Segment.Seq != peerISS+1 {
			t.Errorf("the engine sent %v seq %d", s.Segment.Flags, s.Segment.Seq)
		}
		ports[s.Flow.LocalPort] = true // the client's, seen from there
	}
	if !ports[40001] || !ports[40002] {
		t.Errorf("resets went to ports %v", ports)
	}
	p.link.quiet(t)
	select {
	case err := <-reading:
		if !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("read: %v", err)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("the reader was not woken, or went on waiting")
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("write: %v", err)
	}
	p.stats("aborted", func(s Stats) uint64 { return s.ClosedAborted }, 2)
	p.stats("open", func(s Stats) uint64 { return uint64(s.Open) }, 1)
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if n := p.engine.AbortFlows(func(remote netip.Addr) bool { return remote == denied }); n != 0 {
		t.Errorf("%d connections were reset a second time", n)
	}
}
