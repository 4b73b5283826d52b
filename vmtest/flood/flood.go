// SPDX-License-Identifier: Apache-2.0

// Package flood measures what a SYN flood does to a server, live: real frames on a veth pair,
// the kernel's softirq, real clients in between.
//
// It measures two things, each of several servers in turns:
//
//   - Answered: how many SYNs one CPU sends, answers and counts in a second. The thread that floods is
//     pinned, and all else happens in the softirq of the same CPU.
//   - Legit: how many connections honest clients get (connect, one small request, close) while a
//     flood of a given rate goes on, with all CPUs for everybody.
//
// # Safety
//
// A flood can't leave the machine. Nothing that a caller gives names an interface or an address: each
// measurement makes a [lab.Lab], two anonymous network namespaces joined by a veth pair, and floods one
// end of that. The program that makes the frames drops out for any other interface. The sources are of
// ranges that nobody has (RFC 2544, RFC 3849). A measurement is bounded in time and in frames, and
// everything in the kernel, a rival's netfilter rules too, belongs to this process and its children or to the
// lab's namespaces, so that the kernel takes it away however they end.
package flood

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A Server is what is flooded.
type Server string

// The servers.
const (
	// Swap is an XDP program that swaps the MAC addresses and sends the frame back: the floor.
	Swap Server = "swap"
	// Xdptcp is `xdptcp attach` with its http service.
	Xdptcp Server = "xdptcp"
	// Kernel is the same http service on a listener of the kernel's, with SYN cookies.
	Kernel Server = "kernel"
	// Synproxy is netfilter's SYNPROXY before that.
	Synproxy Server = "synproxy"
	// XDPSynproxy is the XDP program of the kernel's selftest xdp_synproxy before SYNPROXY: it answers SYNs and
	// drops forged ACKs, so that SYNPROXY gets the valid ones only.
	XDPSynproxy Server = "xdp_synproxy"
)

// MaxDuration bounds one measurement.
const MaxDuration = time.Minute

// Options say what Run measures.
type Options struct {
	// Binary is the path of xdptcp: servers are processes of their own, `attach` and `bench serve`.
	Binary   string
	Duration time.Duration // of each measurement: up to MaxDuration
	Rounds   int           // how often each is repeated
	Rates    []Rate        // of the floods that Legit is measured under; none: it is not
	IPv6     bool          // instead of IPv4
	Rivals   []Rival       // are measured, too; each once
	Progress func(string)  // is told what is being done; may be nil
}

func (o *Options) check() error {
	switch {
	case o.Binary == "":
		return errors.New("flood: no path of the xdptcp binary")
	case o.Duration <= 0 || o.Duration > MaxDuration:
		return fmt.Errorf("flood: duration %v: want more than nothing, and at most %v", o.Duration, MaxDuration)
	case o.Rounds < 1:
		return fmt.Errorf("flood: %d rounds: want at least 1", o.Rounds)
	}
	have := map[Server]bool{}
	for _, r := range o.Rivals {
		if have[r.Server] {
			return fmt.Errorf("flood: the rival %s is given twice", r.Server)
		}
		have[r.Server] = true
		if err := r.check(o.IPv6); err != nil {
			return err
		}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

func (o *Options) servers(floor bool) (list []Server) {
	if floor {
		list = append(list, Swap)
	}
	list = append(list, Xdptcp)
	for _, r := range o.Rivals {
		list = append(list, r.Server)
	}
	return list
}

// Run measures. It needs root, and takes the machine for itself: what else runs falsifies the figures.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &Report{
		Family: "ipv4", CPUs: runtime.NumCPU(), Kernel: kernelRelease(),
		DurationSeconds: o.Duration.Seconds(), Rounds: o.Rounds, Legit: []Legit{},
	}
	if o.IPv6 {
		r.Family = "ipv6"
	}
	if err := o.measureAnswered(ctx, r); err != nil {
		return nil, err
	}
	return r, o.measureLegit(ctx, r)
}

func (o *Options) measureAnswered(ctx context.Context, r *Report) error {
	for _, s := range o.servers(true) {
		r.Answered = append(r.Answered, Answered{Server: s})
	}
	for round := range o.Rounds {
		for i := range inTurns(len(r.Answered), round) {
			a := &r.Answered[i]
			o.Progress(fmt.Sprintf("answered: round %d of %d, %s", round+1, o.Rounds, a.Server))
			one, err := o.answered(ctx, a.Server)
			if err != nil {
				return err
			}
			a.Measured = append(a.Measured, one)
		}
	}
	for i := range r.Answered {
		r.Answered[i].summarize(r.Answered[0].PerCPUSecond)
	}
	return nil
}

func (o *Options) measureLegit(ctx context.Context, r *Report) error {
	for _, rate := range o.Rates {
		for _, s := range o.servers(false) {
			r.Legit = append(r.Legit, Legit{Server: s, Flood: rate})
		}
	}
	for round := range o.Rounds {
		for i := range inTurns(len(r.Legit), round) {
			l := &r.Legit[i]
			o.Progress(fmt.Sprintf("connections: round %d of %d, %s, flood %v", round+1, o.Rounds, l.Server, l.Flood))
			one, err := o.legit(ctx, l.Server, l.Flood)
			if err != nil {
				return err
			}
			l.Measured = append(l.Measured, one)
		}
	}
	for i := range r.Legit {
		r.Legit[i].summarize()
	}
	return nil
}

// inTurns counts up to n, and down in every other round: none is always the first.
func inTurns(n, round int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if round%2 == 1 {
				i = n - 1 - i
			}
			if !yield(i) {
				return
			}
		}
	}
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// median of at least one value; of an even number, the lower of the two in the middle.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[(len(v)-1)/2]
}
