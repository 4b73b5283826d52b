// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

var stranger4, stranger6 = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:9::9")

// served says whether the program answers a SYN to an address.
func served(t *testing.T, objects *bpf.Objects, addr netip.Addr, port uint16) bool {
	t.Helper()
	from := stranger4
	if addr.Is6() {
		from = stranger6
	}
	switch v := synMeets(t, objects, from, netip.AddrPortFrom(addr, port)); v {
	case xdpTX:
		return true
	case xdpPass:
		return false
	default:
		t.Fatalf("a SYN to %v: verdict %d", addr, v)
		return false
	}
}

// newLocals are the program's tables, with service 0 on port 80.
func newLocals(t *testing.T) (*locals, *bpf.Objects) {
	t.Helper()
	objects := loadProgram(t, nil)
	if err := objects.Ports.Put(uint32(netPort(80)), uint64(1)); err != nil {
		t.Fatal(err)
	}
	return &locals{map4: objects.Locals4, map6: objects.Locals6}, objects
}

func TestTheTableHoldsTwoHundredAddressesOfEachKind(t *testing.T) {
	l, objects := newLocals(t)
	var all []netip.Addr
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for range 200 {
		all = append(all, a4, a6)
		a4, a6 = a4.Next(), a6.Next()
	}
	for _, a := range all {
		if err := l.put(a, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range all {
		if !served(t, objects, a, 80) {
			t.Errorf("%v is not found", a)
		}
	}
}

func TestAnAddressThatFindsNoSlotIsRefused(t *testing.T) {
	l, _ := newLocals(t)
	a := netip.MustParseAddr("198.18.0.0")
	for range 1100 { // more than there are slots
		if l.put(a, 1) != nil {
			return
		}
		a = a.Next()
	}
	t.Error("1100 addresses were taken into a table of 1024 slots")
}

// Addresses come and go in any order, and what XDP finds is always what is there.
func TestTheTableIsRightAfterEveryChange(t *testing.T) {
	l, objects := newLocals(t)
	random := rand.New(rand.NewPCG(3, 4))
	is := map[netip.Addr]bool{}
	for range 3000 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.UintN(200))})
		if random.UintN(2) == 0 {
			b := netip.MustParseAddr("2001:db8::").As16()
			b[15] = byte(random.UintN(200))
			a = netip.AddrFrom16(b)
		}
		set := uint64(random.UintN(2))
		if err := l.put(a, set); err != nil {
			t.Fatal(err)
		}
		is[a] = set != 0
		for _, other := range []netip.Addr{a, a.Next()} {
			if got := served(t, objects, other, 80); got != is[other] {
				t.Fatalf("%v served: %t, want %t", other, got, is[other])
			}
		}
	}
}

// While others come and go in the slots around it, an address is never missed, nor is one found that
// is not there.
func TestAnAddressIsFoundWhileOthersComeAndGo(t *testing.T) {
	l, objects := newLocals(t)
	stays, never := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if err := l.put(stays, 1); err != nil {
		t.Fatal(err)
	}
	// Others that may be in the same slots.
	var others []netip.Addr
	for a := netip.MustParseAddr("10.1.0.0"); len(others) < 6; a = a.Next() {
		if d := l.slot(a, 0) - l.slot(stays, 0); d >= -1 && d <= 1 {
			others = append(others, a)
		}
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = l.put(others[i%len(others)], uint64(i/len(others)%2)) // there may be no room: as good
		}
	})
	for start := time.Now(); time.Since(start) < 2*time.Second; {
		if !served(t, objects, stays, 80) {
			t.Error("the address was missed")
			break
		}
		if served(t, objects, never, 80) {
			t.Error("an address was found that nobody put there")
			break
		}
	}
	close(stop)
	writer.Wait()
}
