// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A sample is the values of one measurement, one for each line.
type sample []float64

type line struct{ name, unit string }

// A figure is what is measured together.
type figure struct {
	name    string
	lines   []line
	measure func(context.Context, *rig, *options) (sample, error)
	once    bool // it is not a matter of luck: one round does
}

var figures = []figure{
	{name: "bulk_down", measure: bulkDown, lines: []line{{"bulk_down", "Gbit/s"}, {"cpu_s_per_GB", "s"}}},
	{name: "bulk_up", measure: bulkUp, lines: []line{{"bulk_up", "Gbit/s"}, {"cpu_s_per_GB_up", "s"}}},
	{name: "conns", measure: conns, lines: []line{{"conns", "1/s"}, {"cpu_us_per_conn", "us"}}},
	{name: "requests", measure: requests, lines: []line{{"requests", "1/s"}, {"cpu_us_per_request", "us"}}},
	{name: "ping", measure: ping, lines: []line{{"ping_p50", "us"}, {"ping_p99", "us"}}},
	{name: "idle", measure: idle, lines: []line{{"idle_bytes", "B"}}, once: true},
}

func (f *figure) rounds(o *options) int {
	if f.once {
		return 1
	}
	return o.rounds
}

// bulkDown is one stream to the client: what its application reads in a second, and the server's CPU time for it. (With the
// server's time goes some of the client's kernel: on veth, who sends does the receiver's softirq work, too. It is so on
// all stacks.)
func bulkDown(ctx context.Context, r *rig, o *options) (sample, error) {
	return bulk(ctx, r, "down", o.duration)
}

// bulkUp is one stream from the client: what its kernel has taken, less what is in buffers.
func bulkUp(ctx context.Context, r *rig, o *options) (sample, error) {
	return bulk(ctx, r, "up", o.duration)
}

func bulk(ctx context.Context, r *rig, way string, d time.Duration) (sample, error) {
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	var got transferred
	if err := r.client(ctx, &got, way, d.String()); err != nil {
		return nil, err
	}
	after, err := r.usage()
	if err != nil {
		return nil, err
	}
	gigabytes := float64(got.Total) / 1e9
	return sample{
		float64(got.Bytes) * 8 / float64(got.Nanoseconds),
		(after.CPU - before.CPU).Seconds() / gigabytes,
	}, nil
}

// conns is connections in a second: connect, a request, its answer, close; 16 at a time.
func conns(ctx context.Context, r *rig, o *options) (sample, error) {
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	var got served
	if err := r.client(ctx, &got, "conns", o.duration.String()); err != nil {
		return nil, err
	}
	after, err := r.usage()
	if err != nil {
		return nil, err
	}
	return sample{
		float64(got.Served) * 1e9 / float64(got.Nanoseconds),
		(after.CPU - before.CPU).Seconds() * 1e6 / float64(got.Served),
	}, nil
}

// requests is wrk's: 32 connections, each with one request at a time.
func requests(ctx context.Context, r *rig, o *options) (sample, error) {
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	// wrk knows whole seconds only.
	seconds := max(1, int(o.duration.Seconds()+0.5))
	cmd := r.lab.Client.CommandContext(ctx, "wrk", "-t1", "-c32", "-d"+strconv.Itoa(seconds)+"s",
		fmt.Sprintf("http://%s/", r.address(portHTTP)))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := r.usage()
	if err != nil {
		return nil, err
	}
	text := string(out)
	if strings.Contains(text, "Socket errors") || strings.Contains(text, "Non-2xx") {
		return nil, fmt.Errorf("wrk had errors: %s", text)
	}
	_, rest, _ := strings.Cut(text, "Requests/sec:")
	var rate float64
	var total int
	if _, err := fmt.Sscan(rest, &rate); err != nil {
		return nil, fmt.Errorf("wrk gives no rate: %s", text)
	}
	for _, l := range strings.Split(text, "\n") {
		if strings.Contains(l, "requests in") {
			_, _ = fmt.Sscan(l, &total)
		}
	}
	if total == 0 {
		return nil, fmt.Errorf("wrk gives no total: %s", text)
	}
	return sample{rate, (after.CPU - before.CPU).Seconds() * 1e6 / float64(total)}, nil
}

// ping is a byte there and a byte back, one at a time.
func ping(ctx context.Context, r *rig, o *options) (sample, error) {
	var got pinged
	if err := r.client(ctx, &got, "ping", o.duration.String()); err != nil {
		return nil, err
	}
	return sample{float64(got.P50) / 1e3, float64(got.P99) / 1e3}, nil
}

// idle is the memory that an accepted connection takes on which nothing happens: heap and stacks of the server's process after
// a garbage collection, and on the kernel's stack also the kernel's own, which is half of what its slabs grew by (the
// other half is the client's end).
func idle(ctx context.Context, r *rig, o *options) (sample, error) {
	slabs, err := slabBytes()
	if err != nil {
		return nil, err
	}
	before, err := r.ask(askMemory)
	if err != nil {
		return nil, err
	}
	var during, slabsDuring uint64
	var got served
	err = r.clientUntil(ctx, &got, func() error {
		// The last connections may still be on their way through Accept.
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			u, err := r.ask(askMemory)
			if err != nil {
				return err
			}
			if u.Held == o.idle {
				during = u.Memory
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("the server has %d of %d connections", u.Held, o.idle)
			}
		}
		slabsDuring, err = slabBytes()
		return err
	}, "idle", strconv.Itoa(o.idle))
	if err != nil {
		return nil, err
	}
	bytes := float64(during) - float64(before.Memory)
	if r.stack == stackKernel {
		bytes += (float64(slabsDuring) - float64(slabs)) / 2
	}
	return sample{bytes / float64(o.idle)}, nil
}

// slabBytes is the kernel's memory for its objects.
func slabBytes() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for _, l := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(l, "Slab:"); ok {
			var kib uint64
			_, err := fmt.Sscan(rest, &kib)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no line Slab")
}

func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	return nil
}
