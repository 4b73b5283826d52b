// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	goflag "flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var updateGoodput = goflag.Bool("update-goodput", false, "write testdata/goodput.txt anew")

const (
	goodputFile      = "testdata/goodput.txt"
	beforeFile       = "testdata/goodput_rfc6675.txt"
	goodputBandwidth = 2_500_000 // bytes per second: 20 Mbit/s
)

// bulk is a server that sends as long as the test runs, to a client with buffers that are not what limits it.
func bulk(rtt time.Duration, loss float64, queue int) simConfig {
	sc := simConfig{
		hs:   Handshake{ISS: 1, IRS: 1, MSS: 1460, SndWScale: 8, RcvWScale: 8, SACK: true, Timestamps: true, RcvWnd: 65535, RTT: rtt},
		size: [2]int{0, 1 << 30},
	}
	for i := range 2 {
		sc.cfg[i] = DefaultConfig()
		sc.cfg[i].SendBuffer, sc.cfg[i].RecvBuffer = 4<<20, 4<<20
		sc.link[i] = link{delay: rtt / 2, bandwidth: goodputBandwidth, queue: queue}
	}
	sc.link[1].loss = loss
	return sc
}

// goodput is what the client gets in some time, in kB/s, on average over some seeds.
func goodput(t *testing.T, sc simConfig, took time.Duration, seeds uint64) int {
	total := 0
	for seed := range seeds {
		s := newSim(t, seed, sc)
		for _, h := range s.hosts {
			h.trusted = true
			s.serve(h)
		}
		start := s.now
		s.until(start.Add(took))
		total += s.hosts[0].read
	}
	return total / int(seeds) / int(took/time.Millisecond)
}

// goodputTable is one line for each loss rate, round-trip time and bottleneck buffer.
func goodputTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("# kB/s over a bottleneck of 2500 kB/s in 10 s of virtual time (3 s for the short paths), on average. The buffer is in bandwidth-delay products.\n")
	b.WriteString("# loss    rtt     0.25 BDP     1 BDP     4 BDP\n")
	seeds := []uint64{1, 2, 4, 4} // the more is lost, the more is chance
	for i, loss := range []float64{0, 0.001, 0.01, 0.05} {
		for _, rtt := range []time.Duration{1, 10, 50, 200} {
			rtt *= time.Millisecond
			took := 10 * time.Second
			if rtt < 50*time.Millisecond {
				took = 3 * time.Second
			}
			fmt.Fprintf(&b, "%5.1f%%  %5v ", loss*100, rtt)
			for _, buffer := range []float64{0.25, 1, 4} {
				queue := max(int(buffer*rtt.Seconds()*goodputBandwidth), 4*1514)
				fmt.Fprintf(&b, "%10d", goodput(t, bulk(rtt, loss, queue), took, seeds[i]))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

const (
	// A cell may be this much below the file's before the test fails: floating point is not the same on all machines, and a
	// different segment boundary is different luck.
	goodputTolerance = 0.10
	// The same for a line's average against what was before.
	beforeTolerance = 0.03
)

// goodputCells reads a table: what was got for each loss rate and round-trip time.
func goodputCells(t *testing.T, table string) map[string][]int {
	cells := map[string][]int{}
	for _, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		if len(f) != 5 {
			t.Fatalf("%q is no line of the table", line)
		}
		for _, x := range f[2:] {
			n, err := strconv.Atoi(x)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			cells[f[0]+" loss, RTT "+f[1]] = append(cells[f[0]+" loss, RTT "+f[1]], n)
		}
	}
	return cells
}

func TestGoodputHasNotRegressed(t *testing.T) {
	table := goodputTable(t)
	if *updateGoodput {
		if err := os.WriteFile(goodputFile, []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) map[string][]int {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return goodputCells(t, string(b))
	}
	got, want, before := goodputCells(t, table), file(goodputFile), file(beforeFile)
	if len(got) != len(want) || len(got) != len(before) {
		t.Fatalf("%d lines, and there are %d and %d in the files: go test ./userspace/tcp -run %s -update-goodput", len(got), len(want), len(before), t.Name())
	}
	for line, cells := range got {
		sum, sumBefore := 0, 0
		for i, n := range cells {
			if w := want[line]; w == nil || float64(n) < float64(w[i])*(1-goodputTolerance) {
				t.Errorf("%s, column %d: %d kB/s, was %v", line, i+1, n, w)
			}
			sum += n
			sumBefore += before[line][i]
		}
		if float64(sum) < float64(sumBefore)*(1-beforeTolerance) {
			t.Errorf("%s: %v kB/s, less than RFC 6675 and NewReno: %v", line, cells, before[line])
		}
	}
	if t.Failed() {
		t.Logf("now:\n%s", table)
	}
}
