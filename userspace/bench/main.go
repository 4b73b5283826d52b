// SPDX-License-Identifier: Apache-2.0

// Bench measures the engine beside its rivals: gVisor's netstack and the kernel's TCP, all over the same veth pair, with the
// same server in Go on top and the kernel's TCP as the client. It prints one line a figure:
//
//	NAME STACK VALUE UNIT
//
// Each stack has a lab of its own (two network namespaces, one queue, MTU 1500, no segmentation or checksum offload at
// either end), and its server is a process of its own, so that CPU time and memory can be told apart. Each figure is
// taken in rounds, in which the stacks take turns; the median counts. All of it goes with the process that started it.
//
// It lives in a module of its own, so that xdptcp does not depend on gVisor.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The verbs under which the program starts itself anew, inside a lab.
const (
	verbServe  = "serve"
	verbClient = "client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 1 {
		switch args[0] {
		case verbServe:
			return serve(args[1:], os.Stdin, stdout)
		case verbClient:
			return client(args[1:], stdout)
		}
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	return run(ctx, o, stdout, stderr)
}

type options struct {
	stacks   []string
	figures  []figure
	rounds   int
	duration time.Duration // of one measurement
	idle     int           // connections
	profile  string        // a directory, or nothing
	counters bool
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	all := make([]string, 0, len(figures))
	for _, f := range figures {
		all = append(all, f.name)
	}
	stackList := fs.String("stacks", strings.Join(stackNames, ","), "what to measure")
	figureList := fs.String("figures", strings.Join(all, ","), "what to measure of it")
	short := fs.Bool("short", false, "a moment of everything: to see that it works, not to learn how fast it is")
	fs.IntVar(&o.rounds, "rounds", 5, "how often each figure is taken")
	fs.DurationVar(&o.duration, "duration", time.Second, "how long it is taken each time")
	fs.IntVar(&o.idle, "idle", 4000, "connections for idle_bytes")
	fs.StringVar(&o.profile, "profile", "", "`directory` for a CPU profile of each stack's server over the whole run")
	fs.BoolVar(&o.counters, "counters", false, "say on stderr what the engine counted during each measurement")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("what is %q? There are only flags", fs.Arg(0))
	}
	if *short {
		o.rounds, o.duration, o.idle = 1, 100*time.Millisecond, 100
	}
	if o.rounds < 1 || o.duration < 10*time.Millisecond || o.duration > time.Minute || o.idle < 1 || o.idle > 20000 {
		return nil, errors.New("want at least one round of 10ms to 1m, and 1 to 20000 idle connections")
	}
	for _, name := range strings.Split(*stackList, ",") {
		if !slices.Contains(stackNames, name) {
			return nil, fmt.Errorf("no stack %q: there are %s", name, strings.Join(stackNames, ", "))
		}
		o.stacks = append(o.stacks, name)
	}
	for _, name := range strings.Split(*figureList, ",") {
		i := slices.Index(all, name)
		if i < 0 {
			return nil, fmt.Errorf("no figure %q: there are %s", name, strings.Join(all, ", "))
		}
		o.figures = append(o.figures, figures[i])
	}
	return o, nil
}

// run measures, and prints the lines of a figure as soon as it is through.
func run(ctx context.Context, o *options, stdout, stderr io.Writer) (err error) {
	var rigs []*rig
	defer func() {
		for _, r := range rigs {
			err = errors.Join(err, r.close())
		}
	}()
	for _, stack := range o.stacks {
		r, err := newRig(ctx, stack, o)
		if err != nil {
			return fmt.Errorf("%s: %w", stack, err)
		}
		rigs = append(rigs, r)
	}
	for _, f := range o.figures {
		results := make(map[string][]sample)
		for range f.rounds(o) {
			for _, r := range rigs {
				before, err := r.usage()
				if err != nil {
					return fmt.Errorf("%s %s: %w", f.name, r.stack, err)
				}
				s, err := f.measure(ctx, r, o)
				if err != nil {
					return fmt.Errorf("%s %s: %w; its server said: %s", f.name, r.stack, err, r.stderr.String())
				}
				results[r.stack] = append(results[r.stack], s)
				after, err := r.usage()
				if err != nil {
					return fmt.Errorf("%s %s: %w", f.name, r.stack, err)
				}
				if o.counters && after.Counters != nil {
					fmt.Fprintf(stderr, "%s %s %s\n", f.name, r.stack, after.since(before))
				}
			}
		}
		for i, line := range f.lines {
			for _, r := range rigs {
				fmt.Fprintf(stdout, "%s %s %s %s\n", line.name, r.stack, format(median(results[r.stack], i)), line.unit)
			}
		}
	}
	return nil
}

// median is that of the i-th value of the samples.
func median(samples []sample, i int) float64 {
	values := make([]float64, 0, len(samples))
	for _, s := range samples {
		values = append(values, s[i])
	}
	slices.Sort(values)
	n := len(values)
	return (values[n/2] + values[(n-1)/2]) / 2
}

// format gives a value three significant digits or all before the point.
func format(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}
