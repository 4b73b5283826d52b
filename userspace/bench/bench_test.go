// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// TestMain lets the program start itself anew, inside a lab.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == verbServe || os.Args[1] == verbClient) {
		main()
		return
	}
	os.Exit(m.Run())
}

// Every figure of every stack, for a moment: that there is a value, not which.
func TestEveryFigureHasALineForEveryStack(t *testing.T) {
	lab.Need(t)
	if _, err := exec.LookPath("wrk"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var stdout, stderr bytes.Buffer
	if err := command(context.Background(), []string{"-short", "-counters"}, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, l := range strings.Split(strings.TrimSpace(stdout.String()), "\n") {
		f := strings.Fields(l)
		if len(f) != 4 {
			t.Fatalf("%q: want NAME STACK VALUE UNIT", l)
		}
		v, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		values[f[0]+" "+f[1]] = v
	}
	for _, f := range figures {
		for _, line := range f.lines {
			for _, stack := range stackNames {
				key := fmt.Sprintf("%s %s", line.name, stack)
				if v, ok := values[key]; !ok || v <= 0 && line.name != "idle_bytes" {
					t.Errorf("%s: %v", key, v)
				}
			}
		}
	}
	if !strings.Contains(stderr.String(), "engine.SegmentsIn=") {
		t.Errorf("no counters of the engine: %s", &stderr)
	}
}

func TestMedian(t *testing.T) {
	for _, row := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 2, 3}, 2.5},
	} {
		var samples []sample
		for _, v := range row.values {
			samples = append(samples, sample{0, v})
		}
		if got := median(samples, 1); got != row.want {
			t.Errorf("of %v: %v, want %v", row.values, got, row.want)
		}
	}
}

func TestBadFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-stacks", "lwip"}, {"-figures", "beauty"}, {"-rounds", "0"}, {"-duration", "1h"}, {"-idle", "0"}, {"word"},
	} {
		if _, err := parse(args, new(bytes.Buffer)); err == nil {
			t.Errorf("%q are taken", args)
		}
	}
}
