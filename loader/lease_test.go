// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

// holds says whether the lease in a control block holds for about as long as it should.
func holds(c *controlBlock) bool {
	left := -leaseAge(atomic.LoadUint64(&c.Lease))
	return left > 0 && left <= leaseTime
}

func TestALeaseIsHeldByTheHealthyOwnerAlone(t *testing.T) {
	control := &controlBlock{Control: &bpf.Control{Owner: 7}}
	var sick error
	var log strings.Builder
	lost := 0
	l := &lease{control: control, owner: 7, healthy: func() error { return sick }, lost: func() { lost++ },
		log: slog.New(slog.NewTextHandler(&log, nil))}
	if !l.renew() || !holds(control) {
		t.Fatal("the owner does not get the lease")
	}
	sick = errors.New("queue 3 hangs")
	control.Lease = 0
	for range 2 {
		if !l.renew() || control.Lease != 0 {
			t.Error("the lease was renewed, though nothing is served")
		}
	}
	sick = nil
	if !l.renew() || !holds(control) {
		t.Error("the lease was not renewed after all was well again")
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "queue 3 hangs") {
		t.Errorf("want one line for each change in the log:\n%s", &log)
	}
	control.dismiss(8, 123)
	control.Lease = 0
	if l.renew() || control.Lease != 0 || lost != 1 {
		t.Errorf("another owner: the lease ends at %d, told %d times", control.Lease, lost)
	}
}

func TestALeaseIsRenewedUntilItsEnd(t *testing.T) {
	control := &controlBlock{Control: &bpf.Control{Owner: 7}}
	l := &lease{control: control, owner: 7}
	l.end() // never started
	l = &lease{control: control, owner: 7}
	l.start()
	first := atomic.LoadUint64(&control.Lease)
	if first == 0 {
		t.Error("there is no lease after start")
	}
	for start := time.Now(); atomic.LoadUint64(&control.Lease) == first; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the lease is not renewed")
		}
	}
	l.end()
	l.end()
	last := control.Lease
	time.Sleep(3 * leaseEvery)
	if control.Lease != last {
		t.Error("the lease was renewed after the end")
	}
}

func TestALeaseNeverMovesBack(t *testing.T) {
	control := &controlBlock{Control: &bpf.Control{Lease: 100}}
	for _, until := range []uint64{99, 100, 101, 50} {
		control.extend(until)
	}
	if control.Lease != 101 {
		t.Errorf("the lease ends at %d, want 101", control.Lease)
	}
}

func TestServicesAreChosenByTheirPort(t *testing.T) {
	services := []string{":80=http", "192.0.2.1:7=echo", "[2001:db8::1]:80=discard"}
	for _, c := range []struct {
		ports []uint16
		want  uint64
		err   string
	}{
		{nil, ^uint64(0), ""}, {[]uint16{80}, 0b101, ""}, {[]uint16{7, 80}, 0b111, ""}, {[]uint16{7, 7}, 0b010, ""},
		{[]uint16{7, 9}, 0, "no service on port 9: there are :80=http 192.0.2.1:7=echo"},
	} {
		got, err := serviceBits(services, c.ports)
		if c.err == "" && (err != nil || got != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("ports %v: %b, %v; want %b, %q", c.ports, got, err, c.want, c.err)
		}
	}
}
