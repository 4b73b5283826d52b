// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"testing"
	"time"
)

// jain is Jain's index of fairness: 1 when all have the same, 1/n when one has all.
func jain(shares []int) float64 {
	sum, squares := 0.0, 0.0
	for _, x := range shares {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	return sum * sum / (float64(len(shares)) * squares)
}

func TestFlowsShareABottleneckFairly(t *testing.T) {
	tests := []struct {
		name   string
		flows  int
		rtt    time.Duration
		buffer float64 // in bandwidth-delay products
		cc     []Congestion
		index  float64
		fill   float64 // share of the bandwidth that is used in all
	}{
		{"two", 2, 40 * time.Millisecond, 1, []Congestion{Cubic{}}, 0.95, 0.92},
		{"two with a small buffer", 2, 40 * time.Millisecond, 0.25, []Congestion{Cubic{}}, 0.95, 0.80},
		{"two of NewReno", 2, 40 * time.Millisecond, 1, []Congestion{NewReno{}}, 0.95, 0.90},
		{"one of each kind", 2, 40 * time.Millisecond, 1, []Congestion{Cubic{}, NewReno{}}, 0.80, 0.90},
		{"ten", 10, 40 * time.Millisecond, 1, []Congestion{Cubic{}}, 0.90, 0.92},
		{"ten of both kinds", 10, 40 * time.Millisecond, 1, []Congestion{Cubic{}, NewReno{}}, 0.80, 0.92},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sc := bulk(tt.rtt, 0, int(tt.buffer*tt.rtt.Seconds()*goodputBandwidth))
			up, down := sc.link[0], sc.link[1]
			s := newSim(t, 1, sc)
			s.hosts = nil
			var clients []*host
			for i := range tt.flows {
				sc := bulk(tt.rtt, 0, 0)
				sc.cfg[1].Congestion = tt.cc[i%len(tt.cc)]
				client, server := s.connect(sc, &up, &down)
				clients = append(clients, client)
				client.trusted, server.trusted = true, true
				s.serve(client)
				s.serve(server)
				// They begin one after the other, when the ones before have filled the path.
				s.until(s.now.Add(300 * time.Millisecond))
			}
			s.until(s.now.Add(8 * time.Second)) // what was at the beginning is not what is asked
			before := make([]int, tt.flows)
			for i, c := range clients {
				before[i] = c.read
			}
			const measured = 20 * time.Second
			s.until(s.now.Add(measured))
			shares := make([]int, tt.flows)
			total := 0
			for i, c := range clients {
				shares[i] = c.read - before[i]
				total += shares[i]
			}
			index, fill := jain(shares), float64(total)/measured.Seconds()/goodputBandwidth
			t.Logf("index %.3f, %.0f %% of the bandwidth", index, fill*100)
			if index < tt.index || fill < tt.fill {
				t.Errorf("index %.3f, want %.2f; %.2f of the bandwidth, want %.2f; shares %v", index, tt.index, fill, tt.fill, shares)
			}
		})
	}
}
