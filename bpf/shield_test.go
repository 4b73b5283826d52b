// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// kernelService is the service on port 443 of the families' servers: see load.
const kernelService = uint64(1 << 3)

// set changes constants before the program is loaded.
func set(tb testing.TB, constants map[string]any) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		tb.Helper()
		for name, value := range constants {
			must(tb, spec.Variables[name].Set(value))
		}
	}
}

// loadShielded has a kernel service whose shield goes up at 10 SYNs in a window, and comes down below 5. The
// test stays on one CPU, so that one value of `shields` is all.
func loadShielded(t *testing.T) *program {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	for cpu := range runtime.NumCPU() {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		must(t, unix.SchedSetaffinity(0, &before))
		runtime.UnlockOSThread()
	})
	return load(t, options{noSocket: true, spec: set(t, map[string]any{
		"cfg_kernel": kernelService, "cfg_shield": kernelService, "cfg_shield_on": uint32(10), "cfg_shield_off": uint32(5),
	})})
}

// ticks64 is the program's clock.
func ticks64() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		panic(err)
	}
	return uint64(ts.Nano()) >> TickShift
}

// newWindow waits for the start of a window of time, and returns its number.
func newWindow() uint32 {
	for ticks64()%(1<<WindowShift) > 40 {
		time.Sleep(time.Millisecond)
	}
	return uint32(ticks64() >> WindowShift)
}

// setShield gives every CPU the same state.
func (p *program) setShield(s Shield) {
	p.tb.Helper()
	list := make([]Shield, ebpf.MustPossibleCPU())
	for i := range list {
		list[i] = s
	}
	must(p.tb, p.Shields.Put(uint32(0), list))
}

// synFrom is a SYN from a port.
func (f family) synFrom(port int) []byte {
	s := f.syn(linuxOptions(1460, 7))
	s.src = netip.AddrPortFrom(s.src.Addr(), uint16(port))
	return s.frame()
}

func TestTheShieldGoesUpWithManySYNsAndDownAfterQuiet(t *testing.T) {
	p := loadShielded(t)
	f := families[0]
	newWindow()
	for i := range 9 {
		p.expect(f.synFrom(1000+i), PassPeace)
	}
	p.expect(f.synFrom(2000), TxSynAck)
	for i := range 5 { // still many
		p.expect(f.synFrom(3000+i), TxSynAck)
	}
	start := time.Now()
	for time.Since(start) < 3*time.Second { // 4 in a window, at most
		p.expect(f.synFrom(4000), TxSynAck)
		time.Sleep(40 * time.Millisecond)
	}
	time.Sleep(3 * time.Second)
	p.expect(f.synFrom(5000), PassPeace)
}

func TestTheShieldsStateDecides(t *testing.T) {
	p := loadShielded(t)
	f := families[1]
	for _, c := range []struct {
		name  string
		state func(now uint32) Shield
		want  Reason
	}{
		{"never used", func(uint32) Shield { return Shield{} }, PassPeace},
		{"one below", func(now uint32) Shield { return Shield{Epoch: now, Syns: 8} }, PassPeace},
		{"enough", func(now uint32) Shield { return Shield{Epoch: now, Syns: 9} }, TxSynAck},
		{"what the last window had does not count", func(now uint32) Shield { return Shield{Epoch: now - 1, Syns: 9} }, PassPeace},
		{"up, and as many as before", func(now uint32) Shield { return Shield{Epoch: now - 1, Syns: 9, Up: 1} }, TxSynAck},
		{"up, and between the rates for ever", func(now uint32) Shield { return Shield{Epoch: now - 1, Syns: 5, Quiet: 31, Up: 1} }, TxSynAck},
		{"up, and quiet for one window too few", func(now uint32) Shield { return Shield{Epoch: now - 1, Syns: 4, Quiet: 30, Up: 1} }, TxSynAck},
		{"up, and quiet for long enough", func(now uint32) Shield { return Shield{Epoch: now - 1, Syns: 4, Quiet: 31, Up: 1} }, PassPeace},
		{"up, and nothing came for long", func(now uint32) Shield { return Shield{Epoch: now - 33, Syns: 100, Up: 1} }, PassPeace},
		{"up, and nothing came for almost long enough", func(now uint32) Shield { return Shield{Epoch: now - 32, Syns: 100, Up: 1} }, TxSynAck},
		{"up, quiet, and many again", func(now uint32) Shield { return Shield{Epoch: now, Syns: 9, Quiet: 32, Up: 1} }, TxSynAck},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p.with(t)
			p.setShield(c.state(newWindow()))
			p.expect(f.synFrom(1), c.want)
		})
	}
}

// Raised says of any state what the program does with the next SYN, unless that one raises the shield.
func TestRaisedIsTheTwinOfTheShield(t *testing.T) {
	p := loadShielded(t)
	random := rand.New(rand.NewPCG(5, 6))
	down := 0
	for i := range 300 {
		now := newWindow()
		s := Shield{Epoch: now - random.Uint32N(40), Syns: random.Uint32N(9), Quiet: random.Uint32N(34), Up: random.Uint32N(2)}
		p.setShield(s)
		want := PassPeace
		if s.Raised(ticks64(), 5) {
			want = TxSynAck
		} else {
			down++
		}
		if r := p.run(families[0].synFrom(i + 1)); r.reason != want {
			t.Fatalf("window %d, %+v: %s, the twin says %s", now, s, reasonNames[r.reason], reasonNames[want])
		}
	}
	if down < 50 || down > 250 {
		t.Errorf("%d of 300 states are down: the test is blind on one eye", down)
	}
}

// A connection begun in one state ends in the other.
func TestTheShieldRefusesNoHonestClient(t *testing.T) {
	p := loadShielded(t)
	k := testKeys()
	for _, f := range families {
		for i, raised := range []struct {
			name  string
			since uint32 // windows that it has been up
			bad   Reason
		}{
			{"has just been raised", 0, PassPeace}, // the kernel's own cookies are on their way back
			{"was raised two seconds ago", 15, PassPeace},
			{"is up", 16, DropBadCookie},
			{"has been up for long", 1 << 20, DropBadCookie},
		} {
			t.Run(fmt.Sprintf("%s: the shield %s", f.name, raised.name), func(t *testing.T) {
				p := p.with(t)
				now := newWindow()
				up := Shield{Epoch: now, Syns: 5, Up: 1, Since: now - raised.since}
				p.setShield(up)
				a, _ := p.finalAck(t, f, linuxOptions(1460, 7), uint16(6000+i))
				bad := a
				bad.ack = (a.ack - 1) ^ 1<<20 + 1

				first := millis()
				r := p.expect(a.frame(), PassHandedOver)
				checkRecord(t, k, a, r.meta, first, millis())
				p.expect(bad.frame(), raised.bad)

				p.setShield(Shield{Epoch: now}) // down
				first = millis()
				r = p.expect(a.frame(), PassHandedOver)
				checkRecord(t, k, a, r.meta, first, millis())
				p.expect(bad.frame(), PassPeace)
			})
		}
	}
}

// Other services have nothing to do with the shield, nor has a service without `--shield auto`.
func TestOnlyShieldedServicesHaveAShield(t *testing.T) {
	p := load(t, options{noSocket: true, spec: set(t, map[string]any{
		"cfg_kernel": kernelService, "cfg_shield_on": uint32(10), "cfg_shield_off": uint32(5),
	})})
	p.expect(families[0].synFrom(1), TxSynAck)
	q := loadShielded(t)
	other := families[0].syn(linuxOptions(1460, 7))
	other.dst = families[0].other
	q.expect(other.frame(), TxSynAck)
}

// The lists hold in peace too.
func TestTheDenyListHoldsWhileTheShieldIsDown(t *testing.T) {
	p := load(t, options{noSocket: true, spec: set(t, map[string]any{
		"cfg_kernel": kernelService, "cfg_shield": kernelService, "cfg_shield_on": uint32(1000), "cfg_shield_off": uint32(5),
		"cfg_lists": true,
	})})
	must(t, p.Lists4.Put(Prefix4{Len: 32, Addr: flowWord(families[0].client.Addr())}, ListDeny))
	p.expect(families[0].synFrom(1), DropDenied)
	p.expect(families[1].synFrom(1), PassPeace)
}

func flowWord(a netip.Addr) uint32 {
	key, _ := (&program{}).flowKey(netip.AddrPortFrom(a, 0), netip.AddrPortFrom(a, 0))
	return key.(Flow4).Remote
}

// A kernel service's SYN/ACK says what the kernel would say, and the engine's what the engine would.
func TestKernelServicesOfferWhatTheKernelOffers(t *testing.T) {
	p := load(t, options{noSocket: true, spec: set(t, map[string]any{
		"cfg_kernel": kernelService, "cfg_kernel_wscale": uint8(11), "cfg_kernel_options": HandshakeWScale | HandshakeSACK,
	})})
	for _, f := range families {
		s := f.syn(linuxOptions(1460, 8))
		r := p.expect(s.frame(), TxSynAck)
		synack, err := decode(r.frame)
		must(t, err)
		if want := fmt.Sprintf("mss=%d nop nop sack nop ws=11", f.ourMSS); synack.text != want {
			t.Errorf("%s: %q, want %q", f.name, synack.text, want)
		}
		// The record has what was granted.
		got := DecodeHandshake(p.expect(answer(synack, s.seq+1).frame(), PassHandedOver).meta)
		if got.Flags != HandshakeWScale|HandshakeSACK || got.SndWscale != 8 {
			t.Errorf("%s: record %+v", f.name, got)
		}
		s.dst = f.other
		synack, err = decode(p.expect(s.frame(), TxSynAck).frame)
		must(t, err)
		if want := fmt.Sprintf("mss=%d sack ts nop ws=7", f.ourMSS); synack.text != want {
			t.Errorf("%s: the engine's service: %q, want %q", f.name, synack.text, want)
		}
	}
}

// millis is the clock of a kernel service's timestamps.
func millis() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		panic(err)
	}
	return uint32(ts.Nano() / 1_000_000)
}

// The kernel goes on with the timestamps, and its clock ticks in milliseconds: a later connection on the same
// ports must not be behind it.
func TestTimestampsForTheKernelAreMilliseconds(t *testing.T) {
	p := load(t, options{noSocket: true, spec: set(t, map[string]any{"cfg_kernel": kernelService})})
	for _, f := range families {
		_, before := p.finalAck(t, f, linuxOptions(1460, 7), 1234)
		start := millis()
		time.Sleep(time.Second)
		_, after := p.finalAck(t, f, linuxOptions(1460, 7), 1234)
		took := int(millis() - start)
		if d := int(after.tsval-before.tsval) - took; d < -12 || d > 12 {
			t.Errorf("%s: TSval grew by %d in %d ms", f.name, after.tsval-before.tsval, took)
		}
	}
}

// A final ACK for the kernel is passed as it came, with the record in front, and leaves no flow.
func TestAHandedOverACKCarriesItsRecordAndLeavesNoFlow(t *testing.T) {
	p := load(t, options{noSocket: true, spec: set(t, map[string]any{"cfg_kernel": kernelService})})
	for _, f := range families {
		for i, options := range [][]byte{linuxOptions(1460, 7), windowsOptions(1460, 8)} {
			a, _ := p.finalAck(t, f, options, uint16(7000+i))
			for _, payload := range [][]byte{nil, []byte("GET / HTTP/1.1\r\n\r\n")} {
				a.payload = payload
				first := millis()
				r := p.expect(a.frame(), PassHandedOver)
				checkRecord(t, testKeys(), a, r.meta, first, millis())
				if !bytes.Equal(r.frame, a.frame()) {
					t.Error("the frame changed")
				}
			}
			if _, found := p.flow(a); found {
				t.Error("there is a flow")
			}
		}
	}
}

// Services that outlive the daemon go on when its lease is over; others pass to the kernel.
func TestServicesThatOutliveTheDaemonNeedNoLease(t *testing.T) {
	for outlive, want := range map[uint64]Reason{kernelService: TxSynAck, 0: PassNoLease} {
		p := load(t, options{noSocket: true, spec: set(t, map[string]any{"cfg_kernel": kernelService, "cfg_outlive": outlive})})
		c := testControl()
		c.Lease = 0
		p.setControl(c)
		p.expect(families[0].synFrom(1), want)
	}
}
