// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// longFat is a path of 100 ms and 20 MB/s: 2 MB are in flight when it is full.
func longFat(size int, change func(*simConfig)) simConfig {
	return oneWay(size, func(sc *simConfig) {
		for i := range 2 {
			sc.cfg[i] = DefaultConfig()
			sc.link[i] = link{delay: 50 * time.Millisecond, bandwidth: 20_000_000, queue: 8 << 20}
		}
		if change != nil {
			change(sc)
		}
	})
}

func TestBuffersGrowWithThePath(t *testing.T) {
	const size = 20_000_000 // 1 s of the path
	for _, tt := range []struct {
		name         string
		change       func(*simConfig)
		atLeast      time.Duration
		within       time.Duration
		recv, sendLo int // the receive buffer's least, and the send buffer's, at the end
	}{
		{"both ends' buffers grow until the path is full", nil, time.Second, 2600 * time.Millisecond, 3_500_000, 3_500_000},
		{"without timestamps too, though the receiver never learns the round-trip time from its own data",
			func(sc *simConfig) { sc.hs.Timestamps = false }, time.Second, 2600 * time.Millisecond, 3_500_000, 3_500_000},
		{"a receive buffer that may not grow is what the path then carries in a round trip",
			func(sc *simConfig) { sc.cfg[0].RecvBufferMax = 0 }, 7 * time.Second, 10 * time.Second, 256 << 10, 256 << 10},
		{"a send buffer that may not grow likewise",
			func(sc *simConfig) { sc.cfg[1].SendBufferMax = 0 }, 7 * time.Second, 10 * time.Second, 256 << 10, 256 << 10},
		{"a window that is not scaled cannot say more than 65,535",
			func(sc *simConfig) { sc.hs.SndWScale, sc.hs.RcvWScale = 0, 0 }, 30 * time.Second, 36 * time.Second, 256 << 10, 256 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, 1, longFat(size, tt.change))
			client, server := s.hosts[0], s.hosts[1]
			for _, h := range s.hosts {
				s.serve(h)
			}
			for client.read < size && s.step() {
			}
			took := s.now.Sub(Time(time.Second))
			recv, send := client.c.Info().RecvBuffer, server.c.Info().SendBuffer
			t.Logf("%v, receive buffer %d, send buffer %d", took, recv, send)
			if took < tt.atLeast || took > tt.within || recv < tt.recv || send < tt.sendLo {
				t.Errorf("took %v, want %v to %v; receive buffer %d, send buffer %d", took, tt.atLeast, tt.within, recv, send)
			}
			s.run()
			if err := s.finished(); err != nil {
				t.Error(err)
			}
		})
	}
}

// On a short path a full buffer waits in a queue: a larger one would only make the queue longer.
func TestBuffersDoNotGrowIntoAQueue(t *testing.T) {
	s := newSim(t, 1, longFat(20_000_000, func(sc *simConfig) {
		for i := range 2 {
			sc.link[i].delay = 100 * time.Microsecond
		}
	}))
	s.run()
	if err := s.finished(); err != nil {
		t.Fatal(err)
	}
	recv, send := s.hosts[0].c.Info().RecvBuffer, s.hosts[1].c.Info().SendBuffer
	t.Logf("receive buffer %d, send buffer %d", recv, send)
	if recv > 256<<10 || send > 512<<10 {
		t.Errorf("receive buffer %d, send buffer %d", recv, send)
	}
}

func TestABufferThatNobodyReadsFromDoesNotGrow(t *testing.T) {
	s := newSim(t, 1, longFat(1_000_000, func(sc *simConfig) {
		sc.readRate[0], sc.pause[0] = 5000, 50*time.Millisecond // 100 kB/s
	}))
	s.run()
	if err := s.finished(); err != nil {
		t.Fatal(err)
	}
	if got := s.hosts[0].c.Info().RecvBuffer; got != 256<<10 {
		t.Errorf("receive buffer %d", got)
	}
}

// fillWindows is a peer that sends all that the window allows, once in a round trip of 10 ms, to an application that reads
// at once.
func fillWindows(s *script, rounds int, sent func(got)) {
	s.t.Helper()
	at := 0
	var buf [1000]byte
	for range rounds {
		s.now = s.now.Add(10 * time.Millisecond)
		for edge := int(s.c.rcvAdv.Sub(s.hs.IRS.Add(1))); at < edge; {
			n := min(1000, edge-at)
			s.in(wire.ACK, at, 0, zeros(n))
			s.c.Read(buf[:])
			at += n
		}
		for {
			g, ok := s.next()
			if !ok {
				break
			}
			if sent != nil {
				sent(g)
			}
		}
	}
}

func TestAReceiveBufferDoesNotGrowWhereMemoryIsShort(t *testing.T) {
	run := func(limit int) int {
		s := newScript(t, func(hs *Handshake, cfg *Config) {
			hs.RcvWScale = 7
			cfg.Pool = NewPool(limit)
		})
		for range 12 {
			s.cfg.Pool.get() // other connections'
		}
		fillWindows(s, 3, nil)
		return s.c.Info().RecvBuffer
	}
	if got := run(15); got != 256<<10 {
		t.Errorf("with three quarters of the pool in use: %d", got)
	}
	if got := run(1000); got <= 256<<10 {
		t.Errorf("with room in the pool: %d", got)
	}
}

func TestAReceiveBufferStaysWithinItsBounds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		scale  uint8
		max    int
		bounds int
	}{
		{"the configuration's", 7, 300_000, 300_000},
		{"the window scale's", 3, 6 << 20, 65535 << 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t, func(hs *Handshake, cfg *Config) { hs.RcvWScale = tt.scale; cfg.RecvBufferMax = tt.max })
			fillWindows(s, 10, func(g got) {
				if int(g.Window)<<tt.scale > tt.bounds {
					t.Fatalf("window %d", int(g.Window)<<tt.scale)
				}
			})
			if got := s.c.Info().RecvBuffer; got != tt.bounds {
				t.Errorf("%d", got)
			}
		})
	}
}
