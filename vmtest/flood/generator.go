// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// batch is how many frames the kernel makes before it lets the softirq take them: NAPI's budget, and a
// quarter of a veth ring, so that nothing is lost on the way.
const batch = 64

// A generator sends SYNs out of the client's end of a lab, and counts there what comes back. It knows no
// other interface.
type generator struct {
	lab     *lab.Lab
	objects floodObjects
	syn     *ebpf.Program
	frame   []byte
	context xdpMd
	links   []link.Link // kept: one that the garbage collector takes detaches the program
}

// xdpMd is struct xdp_md of linux/bpf.h.
type xdpMd struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// newGenerator makes a generator for a lab whose client has no XDP program yet.
func newGenerator(l *lab.Lab, v6 bool, port uint16) (_ *generator, err error) {
	g := &generator{lab: l, frame: template(l, v6, port)}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	spec, err := loadFlood()
	if err != nil {
		return nil, fmt.Errorf("flood: read the compiled programs: %w", err)
	}
	var words [12]uint64
	for i, padded := 0, append(g.frame, make([]byte, 8)...); i < len(words) && len(padded) >= 8; i++ {
		words[i], padded = binary.NativeEndian.Uint64(padded), padded[8:]
	}
	var bePort [2]byte
	binary.BigEndian.PutUint16(bePort[:], port)
	for name, value := range map[string]any{
		"cfg_frame":   words,
		"cfg_ifindex": uint32(l.Client.IfIndex),
		"cfg_port":    binary.NativeEndian.Uint16(bePort[:]),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("flood: set %s: %w", name, err)
		}
	}
	if err := spec.LoadAndAssign(&g.objects, nil); err != nil {
		return nil, fmt.Errorf("flood: load the programs: %w", err)
	}
	g.syn = g.objects.Syn4
	if v6 {
		g.syn = g.objects.Syn6
	}
	g.context = xdpMd{DataEnd: uint32(len(g.frame)), IngressIfindex: uint32(l.Client.IfIndex)}
	if err := g.attach(l.Client, l.Client.IfIndex, g.objects.Count, link.XDPDriverMode); err != nil {
		return nil, err
	}
	// A program that is attached nowhere is run at the price of an RCU grace period each time, up to
	// 20 ms asleep. On lo it does nothing.
	const lo = 1
	return g, g.attach(l.Client, lo, g.syn, link.XDPGenericMode)
}

func (g *generator) attach(h *lab.Host, ifindex int, p *ebpf.Program, mode link.XDPAttachFlags) error {
	return h.Do(func() error {
		k, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: mode})
		if err != nil {
			return fmt.Errorf("flood: %s: attach %v to interface %d: %w", h.Name, p, ifindex, err)
		}
		g.links = append(g.links, k)
		return nil
	})
}

func (g *generator) close() {
	for _, k := range g.links {
		_ = k.Close() // the lab takes the interfaces away anyway
	}
	_ = g.objects.Close() // only closes file descriptors
}

// A sender sends. There is one only inside the client's namespace: the kernel takes the number of an interface
// for one of the calling thread's namespace, and in another it is somebody else's.
type sender struct{ *generator }

// inside runs f on a thread in the client's namespace.
func (g *generator) inside(f func(sender) error) error {
	return g.lab.Client.Do(func() error { return f(sender{g}) })
}

// maxCall bounds one system call: not even a slow server makes a second of it.
const maxCall = 1 << 18

// send sends n frames at once, or a few more if a signal comes: the ledger knows. When the system call returns,
// its softirq has seen to most of the frames.
func (g sender) send(n int) error {
	if n < 1 || n > maxCall {
		return fmt.Errorf("flood: send %d frames at once: want 1 to %d", n, maxCall)
	}
	_, err := g.syn.Run(&ebpf.RunOptions{
		Data: g.frame, Context: &g.context, Repeat: uint32(n), BatchSize: batch,
		Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	})
	if err != nil {
		return fmt.Errorf("flood: send %d frames with BPF_PROG_TEST_RUN: %w; live frames need Linux 5.18", n, err)
	}
	return nil
}

// blast sends as fast as it can, until ctx ends or d is over. It returns how long it took.
func (g sender) blast(ctx context.Context, d time.Duration) (time.Duration, error) {
	const call = 20 * time.Millisecond // about how long one system call should take
	n := 1024
	start := time.Now()
	for time.Since(start) < d && ctx.Err() == nil {
		before := time.Now()
		if err := g.send(n); err != nil {
			return 0, err
		}
		if took := time.Since(before); took < call/2 {
			n = min(2*n, maxCall)
		} else if took > 2*call {
			n = max(n/2, batch)
		}
	}
	return time.Since(start), nil
}

// pace sends at a rate, in small bursts, until ctx ends or d is over. What it comes too late for is made up
// for, but only up to some milliseconds' worth at once.
func (g sender) pace(ctx context.Context, rate Rate, d time.Duration) error {
	const late = 10 * time.Millisecond
	tick := burstEvery(rate)
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil { // ns; the thread sleeps 50 µs longer otherwise
		return fmt.Errorf("flood: prctl(PR_SET_TIMERSLACK): %w", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // the default
	start := time.Now()
	owed := func(at time.Duration) int { return int(int64(rate) * at.Nanoseconds() / time.Second.Nanoseconds()) }
	sent := 0
	for at := time.Duration(0); at < d && ctx.Err() == nil; at = time.Since(start) {
		sent = max(sent, owed(at-late))
		if n := min(owed(at)-sent, maxCall); n > 0 {
			if err := g.send(n); err != nil {
				return err
			}
			sent += n
		}
		// Not Go's timers: they are the runtime's, and may be late when it is busy.
		if wait := (at + tick).Truncate(tick) - time.Since(start); wait > 0 {
			ts := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&ts, nil) // a signal only makes the burst smaller
		}
	}
	return nil
}

// burstEvery is the time between two bursts: a millisecond, or less where a burst would fill more than half of
// a veth ring, which has room for 256.
func burstEvery(rate Rate) time.Duration {
	const burst = 128
	return min(time.Millisecond, max(50*time.Microsecond, burst*time.Second/time.Duration(rate)))
}

// A ledger says what became of the frames so far.
type ledger struct {
	sent  uint64
	tally floodTally
	// Frames that a veth ring had no room for.
	lostThere, lostBack uint64
}

func (g *generator) ledger() (l ledger, err error) {
	if err := g.objects.Sent.Get(&l.sent); err != nil {
		return l, fmt.Errorf("flood: read the number sent: %w", err)
	}
	var perCPU []floodTally
	if err := g.objects.Tallies.Lookup(uint32(0), &perCPU); err != nil {
		return l, fmt.Errorf("flood: read the tallies: %w", err)
	}
	for _, t := range perCPU {
		l.tally.Synacks += t.Synacks
		l.tally.Echoes += t.Echoes
		l.tally.Strange += t.Strange
	}
	l.lostThere, l.lostBack, err = g.lab.Client.RingLosses()
	return l, err
}

func (l ledger) answered() uint64 { return l.tally.Synacks + l.tally.Echoes }

// minus is what happened since before.
func (l ledger) minus(before ledger) ledger {
	l.sent -= before.sent
	l.tally.Synacks -= before.tally.Synacks
	l.tally.Echoes -= before.tally.Echoes
	l.tally.Strange -= before.tally.Strange
	l.lostThere -= before.lostThere
	l.lostBack -= before.lostBack
	return l
}
