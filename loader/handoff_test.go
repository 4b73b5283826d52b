// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
)

func TestAKernelThatCannotTakeConnectionsIsRefusedWithWhatToDo(t *testing.T) {
	builder, err := btf.NewBuilder([]btf.Type{&btf.Func{Name: "tcp_v4_rcv", Type: &btf.FuncProto{Return: (*btf.Void)(nil)}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := builder.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	old, err := btf.LoadSpecFromReader(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	err = canAssign(old)
	if err == nil || !strings.Contains(err.Error(), "kernel services need Linux 6.9 or later: this is ") || !strings.Contains(err.Error(), "use another action") {
		t.Errorf("%v", err)
	}
}

func TestTheShieldsRatesMustFitEachOther(t *testing.T) {
	for _, c := range []struct {
		o       Options
		on, off int
		ok      bool
	}{
		{Options{}, DefaultShieldOn, DefaultShieldOff, true},
		{Options{Shield: ShieldAuto}, DefaultShieldOn, DefaultShieldOff, true},
		{Options{ShieldOn: 500}, 500, 250, true},
		{Options{ShieldOn: 500, ShieldOff: 499}, 500, 499, true},
		{Options{ShieldOn: 500, ShieldOff: 500}, 0, 0, false},
		{Options{ShieldOff: 30_000}, 0, 0, false},
		{Options{ShieldOn: -1}, 0, 0, false},
		{Options{Shield: "sometimes"}, 0, 0, false},
	} {
		o := c.o
		err := checkShield(&o)
		if (err == nil) != c.ok || c.ok && (o.ShieldOn != c.on || o.ShieldOff != c.off) {
			t.Errorf("%+v: on %d, off %d, %v", c.o, o.ShieldOn, o.ShieldOff, err)
		}
	}
}

func TestRatesAreDividedByQueuesAndWindows(t *testing.T) {
	if window != 134217728*time.Nanosecond {
		t.Errorf("a window is %v", window)
	}
	for _, c := range []struct {
		rate, queues int
		want         uint32
	}{{20_000, 1, 2684}, {1, 1, 1}, {1_000_000_000, 1, 134217728}} {
		if got := perWindow(c.rate, c.queues); got != c.want {
			t.Errorf("%d per second on %d queues: %d, want %d", c.rate, c.queues, got, c.want)
		}
	}
	if n := receivers(1); n != 1 {
		t.Errorf("one queue is shared by %d CPUs", n)
	}
	if n := receivers(1 << 20); n != runtime.NumCPU() {
		t.Errorf("a million queues are shared by %d CPUs", n)
	}
}
