// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	goflag "flag"
	"math/rand/v2"
	"testing"
	"time"
)

// randomSim draws a network and two ends.
func randomSim(seed uint64) simConfig {
	r := rand.New(rand.NewPCG(seed, 99))
	pick := func(xs ...int) int { return xs[r.IntN(len(xs))] }
	sc := simConfig{
		hs: Handshake{
			ISS: Seq(r.Uint32()), IRS: Seq(r.Uint32()),
			MSS: pick(88, 536, 1220, 1460, 8960), SndWScale: uint8(pick(0, 2, 7)), RcvWScale: uint8(pick(0, 2, 7)),
			SACK: r.IntN(4) != 0, Timestamps: r.IntN(4) != 0, TSOffset: r.Uint32(),
			RcvWnd: uint32(pick(4096, 64240, 65535)),
		},
		nagle: r.IntN(4) == 0,
	}
	if r.IntN(4) == 0 {
		sc.hs.ISS = -Seq(r.Uint32N(50000)) // the numbers wrap on the way
		sc.hs.IRS = -Seq(r.Uint32N(50000))
	}
	for i := range 2 {
		cfg := DefaultConfig()
		cfg.RecvBuffer = pick(4096, 16<<10, 64<<10, 256<<10)
		cfg.SendBuffer = pick(4096, 16<<10, 64<<10, 256<<10)
		cfg.Retries = 60             // the network is bad, but it is there
		cfg.TimeWait = 3 * time.Hour // longer than any retransmission of the peer's FIN takes: there is no RST here
		sc.cfg[i] = cfg
		sc.link[i] = link{
			delay:     time.Duration(pick(50, 1000, 20000, 200000)) * time.Microsecond,
			bandwidth: pick(100_000, 1_000_000, 100_000_000),
			queue:     pick(20_000, 200_000),
			loss:      float64(pick(0, 0, 1, 5, 15)) / 100,
			dup:       float64(pick(0, 0, 2, 10)) / 100,
			corrupt:   float64(pick(0, 0, 0, 3)) / 100,
			jitter:    time.Duration(pick(0, 0, 100, 5000, 50000)) * time.Microsecond,
			reorder:   float64(pick(0, 0, 2, 20)) / 100,
			reorderBy: time.Duration(pick(1, 30, 400)) * time.Millisecond,
			burst:     float64(pick(0, 0, 0, 1)) / 100,
			burstLen:  float64(pick(2, 5)),
		}
		if r.IntN(8) == 0 {
			sc.link[i].queue = 5_000_000 // a bufferbloat of seconds
		}
		if r.IntN(4) == 0 {
			cfg.Congestion = NewReno{}
		}
		sc.size[i] = pick(0, 1, 1000, 30_000, 200_000)
		sc.readRate[i] = pick(0, 0, 0, 700, 5000)
		if sc.readRate[i] > 0 {
			sc.pause[i] = time.Duration(pick(1, 20, 300)) * time.Millisecond
		}
	}
	return sc
}

var (
	seeds     = goflag.Uint64("seeds", 2000, "networks to try")
	firstSeed = goflag.Uint64("first-seed", 0, "the first of them")
)

func TestWhateverTheNetworkDoesEveryByteArrivesOnceInOrder(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		s := newSim(t, seed, randomSim(seed))
		s.run()
		if err := s.finished(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
