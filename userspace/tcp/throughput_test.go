// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// oneWay is a transfer from the server to the client over 20 ms of round trip and 10 MB/s.
func oneWay(size int, change func(*simConfig)) simConfig {
	sc := simConfig{
		hs:   Handshake{ISS: 1, IRS: 1, MSS: 1460, SndWScale: 7, RcvWScale: 7, SACK: true, Timestamps: true, RcvWnd: 65535},
		size: [2]int{0, size},
	}
	for i := range 2 {
		sc.cfg[i] = DefaultConfig()
		sc.cfg[i].RecvBufferMax, sc.cfg[i].SendBufferMax = 0, 0 // their growth is autotune_test.go's subject
		sc.link[i] = link{delay: 10 * time.Millisecond, bandwidth: 10_000_000, queue: 200_000}
	}
	if change != nil {
		change(&sc)
	}
	return sc
}

// The bounds are a little above what was measured: a change that makes transfers slower fails here, without a network.
func TestThroughput(t *testing.T) {
	loss := func(p float64) func(*simConfig) { return func(sc *simConfig) { sc.link[1].loss = p } }
	tests := []struct {
		name     string
		size     int
		change   func(*simConfig)
		within   time.Duration
		timeouts uint64
	}{
		{"a clean path is filled", 10_000_000, nil, 1200 * time.Millisecond, 0},
		{"a clean path without SACK is filled", 10_000_000, func(sc *simConfig) { sc.hs.SACK = false }, 1200 * time.Millisecond, 0},
		{"a queue of 20 kB overflows, and no time-out is needed", 5_000_000, func(sc *simConfig) { sc.link[1].queue = 20_000 }, 1300 * time.Millisecond, 0},
		{"one segment in a thousand is lost, and no time-out is needed", 5_000_000, loss(0.001), 1200 * time.Millisecond, 0},
		{"one segment in a hundred is lost, and no time-out is needed", 2_000_000, loss(0.01), 1500 * time.Millisecond, 0},
		{"one segment in twenty is lost, and a time-out is rare", 2_000_000, loss(0.05), 9 * time.Second, 2},
		{"reordering by one or two segments is no loss", 5_000_000, func(sc *simConfig) { sc.link[1].jitter = 300 * time.Microsecond }, 800 * time.Millisecond, 0},
		{"reordering by seven segments is no loss", 5_000_000, func(sc *simConfig) { sc.link[1].jitter = time.Millisecond }, 800 * time.Millisecond, 0},
		{"reordering by half a round trip is found to be none, too", 5_000_000, func(sc *simConfig) { sc.link[1].reorder, sc.link[1].reorderBy = 0.02, 10*time.Millisecond }, 900 * time.Millisecond, 0},
		{"a burst of losses costs one reduction", 5_000_000, func(sc *simConfig) { sc.link[1].burst, sc.link[1].burstLen = 0.001, 5 }, 1500 * time.Millisecond, 2},
		{"a hop that drops long packets without a word is found", 5_000_000, func(sc *simConfig) { sc.link[1].mtu = 1300 }, 12 * time.Second, 6},
		{"a bufferbloat does no harm", 10_000_000, func(sc *simConfig) { sc.link[1].queue = 20_000_000 }, 1300 * time.Millisecond, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, 1, oneWay(tt.size, tt.change))
			server, client := s.hosts[1], s.hosts[0]
			for _, h := range s.hosts {
				s.serve(h)
			}
			for client.read < tt.size && s.step() {
			}
			took := s.now.Sub(Time(time.Second))
			i := server.c.Info()
			t.Logf("%v, %d retransmits, %d time-outs, %d segments, %d ACKs", took.Round(time.Millisecond), i.Retransmits, i.Timeouts, i.SegsOut, client.c.Info().PureAcksOut)
			if took > tt.within || i.Timeouts > tt.timeouts {
				t.Errorf("took %v, want at most %v; %d time-outs, want at most %d", took, tt.within, i.Timeouts, tt.timeouts)
			}
			s.run()
			if err := s.finished(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A lost segment of the tail, and the loss of each single segment of a short transfer, are where state machines get stuck.
func TestTheLossOfAnyOneSegmentIsSurvived(t *testing.T) {
	for n := 0; ; n++ {
		sc := oneWay(30_000, func(sc *simConfig) { sc.size[0] = 3_000; sc.hs.SACK = n%2 == 0 })
		s := newSim(t, 1, sc)
		sent := -1
		s.drop = func(*host, *wire.Segment) bool { sent++; return sent == n }
		s.run()
		if err := s.finished(); err != nil {
			t.Fatalf("without segment %d: %v", n, err)
		}
		if took := s.now.Sub(0); took > 70*time.Second { // TIME-WAIT is a minute of it
			t.Errorf("without segment %d: took %v", n, took)
		}
		if sent < n {
			if n < 20 {
				t.Errorf("only %d segments were sent", n)
			}
			return
		}
	}
}

func TestBothCloseAtOnce(t *testing.T) {
	s := newSim(t, 1, oneWay(0, nil))
	s.run()
	if err := s.finished(); err != nil {
		t.Fatal(err)
	}
	for _, h := range s.hosts {
		if i := h.c.Info(); i.Retransmits != 0 || i.SegsOut > 4 {
			t.Errorf("%s: %d segments, %d retransmits", h.name, i.SegsOut, i.Retransmits)
		}
	}
}
