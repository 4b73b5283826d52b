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
	goodputBandwidth = 2_500_000 // bytes per second: 20 Mbit/s
	goodputTime      = 10 * time.Second
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

// goodput is what the client gets, in kB/s, on average over some seeds.
func goodput(t *testing.T, sc simConfig, seeds uint64) int {
	total := 0
	for seed := range seeds {
		s := newSim(t, seed, sc)
		for _, h := range s.hosts {
			s.serve(h)
		}
		start := s.now
		s.until(start.Add(goodputTime))
		total += s.hosts[0].read
	}
	return total / int(seeds) / int(goodputTime/time.Millisecond)
}

// goodputTable is one line for each loss rate, round-trip time and bottleneck buffer.
func goodputTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("# kB/s over a bottleneck of 2500 kB/s in 10 s of virtual time, on average. The buffer is in bandwidth-delay products.\n")
	b.WriteString("# loss    rtt     0.25 BDP     1 BDP     4 BDP\n")
	for _, loss := range []float64{0, 0.001, 0.01, 0.05} {
		for _, rtt := range []time.Duration{10, 50, 200} {
			rtt *= time.Millisecond
			fmt.Fprintf(&b, "%5.1f%%  %5v ", loss*100, rtt)
			for _, buffer := range []float64{0.25, 1, 4} {
				queue := max(int(buffer*rtt.Seconds()*goodputBandwidth), 4*1514)
				seeds := uint64(5)
				if loss == 0 {
					seeds = 1
				}
				fmt.Fprintf(&b, "%10d", goodput(t, bulk(rtt, loss, queue), seeds))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// A cell may be this much below the file's before the test fails: floating point is not the same on all machines, and a
// different segment boundary is different luck.
const goodputTolerance = 0.10

func TestGoodputHasNotRegressed(t *testing.T) {
	got := goodputTable(t)
	if *updateGoodput {
		if err := os.WriteFile(goodputFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(goodputFile)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(file), "\n")
	if len(gotLines) != len(wantLines) {
		t.Fatalf("%s has %d lines, want %d: go test -run %s ./userspace/tcp -update-goodput", goodputFile, len(wantLines), len(gotLines), t.Name())
	}
	for i := range gotLines {
		g, w := strings.Fields(gotLines[i]), strings.Fields(wantLines[i])
		if len(g) != 5 || g[0] == "#" {
			continue
		}
		for col := 2; col < 5; col++ {
			have, _ := strconv.Atoi(g[col])
			want, err := strconv.Atoi(w[col])
			if err != nil || g[0] != w[0] || g[1] != w[1] {
				t.Fatalf("%s: cannot compare %q", goodputFile, wantLines[i])
			}
			if float64(have) < float64(want)*(1-goodputTolerance) {
				t.Errorf("loss %s, RTT %s, column %d: %d kB/s, was %d", g[0], g[1], col-1, have, want)
			}
		}
	}
	if t.Failed() {
		t.Logf("now:\n%s", got)
	}
}
