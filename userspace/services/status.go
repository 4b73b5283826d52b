// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"sync"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
)

// Counters are what the status page shows.
type Counters interface {
	// Reasons are XDP's counters, by bpf.Reason, summed over all CPUs.
	Reasons() ([bpf.ReasonCount]uint64, error)
	// Engine are the engine's.
	Engine() userspace.Stats
}

const (
	sampleEvery = time.Second
	samplesKept = 120
	// maxAge is how old a reading may be when it is shown. It bounds what page requests cost,
	// however many they are, and is a little more than the sampler's period.
	maxAge = sampleEvery + sampleEvery/2
)

// A Status keeps the rates of the last two minutes. The counters are read once a second, by Run.
type Status struct {
	src Counters

	mu      sync.Mutex
	last    Reading
	samples []Sample // oldest first, at most samplesKept
}

// NewStatus makes a Status. Without Run it has counters, but no rates.
func NewStatus(src Counters) *Status { return &Status{src: src} }

// A Reading is all counters at one moment.
type Reading struct {
	Time    time.Time
	Reasons [bpf.ReasonCount]uint64
	Err     error // of reading Reasons, which then are those of the reading before
	Engine  userspace.Stats
}

// SynAcks are the SYNs answered, by XDP or by the engine.
func (r *Reading) SynAcks() uint64 { return r.Reasons[bpf.TxSynAck] + r.Engine.SynAcks }

// Completed are the final ACKs with a valid cookie.
func (r *Reading) Completed() uint64 { return r.Reasons[bpf.RedirectOpened] }

// Dropped are the packets that XDP refused.
func (r *Reading) Dropped() (sum uint64) {
	for i, n := range r.Reasons {
		if verdict, _ := bpf.ReasonLabels(bpf.Reason(i)); verdict == "drop" {
			sum += n
		}
	}
	return sum
}

// A Sample is what happened in about one second.
type Sample struct {
	Time                        time.Time
	SynAcks, Completed, Dropped float64 // per second
	BytesIn, BytesOut           float64 // payload, per second
	Open                        int     // connections, at Time
}

// Run samples until ctx ends.
func (s *Status) Run(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	s.sample()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.sample()
		}
	}
}

func (s *Status) sample() {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.last
	s.read()
	now := &s.last
	elapsed := now.Time.Sub(before.Time).Seconds()
	if before.Time.IsZero() || elapsed <= 0 || now.Err != nil || before.Err != nil {
		return // a gap, not a zero
	}
	rate := func(a, b uint64) float64 {
		if b < a { // the program was replaced and counts from 0
			return 0
		}
		return float64(b-a) / elapsed
	}
	if len(s.samples) == samplesKept {
		copy(s.samples, s.samples[1:])
		s.samples = s.samples[:samplesKept-1]
	}
	s.samples = append(s.samples, Sample{
		Time:      now.Time,
		SynAcks:   rate(before.SynAcks(), now.SynAcks()),
		Completed: rate(before.Completed(), now.Completed()),
		Dropped:   rate(before.Dropped(), now.Dropped()),
		BytesIn:   rate(before.Engine.BytesIn, now.Engine.BytesIn),
		BytesOut:  rate(before.Engine.BytesOut, now.Engine.BytesOut),
		Open:      now.Engine.Open,
	})
}

// read renews s.last. The lock is held.
func (s *Status) read() {
	reasons, err := s.src.Reasons()
	if err != nil {
		reasons = s.last.Reasons
	}
	s.last = Reading{Time: time.Now(), Reasons: reasons, Err: err, Engine: s.src.Engine()}
}

// Read gives the counters as they were at most 1.5 seconds ago.
func (s *Status) Read() Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last.Time) > maxAge {
		s.read()
	}
	return s.last
}

// Samples are the last n seconds, oldest first; fewer if there are not so many.
func (s *Status) Samples(n int) []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.samples))
	return append([]Sample(nil), s.samples[len(s.samples)-n:]...)
}
