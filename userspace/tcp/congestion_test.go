// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"math"
	"testing"
	"time"
)

// A pathModel acknowledges a window each round trip.
type pathModel struct {
	w    Window
	cc   Congestion
	now  Time
	una  Seq
	rtt  time.Duration
	srtt time.Duration
}

func newPathModel(cc Congestion, rtt time.Duration) *pathModel {
	m := &pathModel{w: Window{MSS: 1000}, cc: cc, now: Time(time.Hour), rtt: rtt, srtt: rtt}
	cc.Init(&m.w)
	return m
}

// round is one round trip: an ACK for every second segment.
func (m *pathModel) round() {
	next := m.una.Add(m.w.Cwnd)
	n := m.w.Cwnd / 2000
	for range n {
		m.now = m.now.Add(m.rtt / time.Duration(n))
		m.una = m.una.Add(2000)
		m.cc.OnAck(&m.w, Ack{Octets: 2000, RTT: m.rtt, SRTT: m.srtt, Una: m.una, Next: m.una.Add(m.w.Cwnd), Now: m.now})
	}
	m.una = next
}

func TestCubic(t *testing.T) {
	t.Run("a loss leaves 0.7 of what was in flight", func(t *testing.T) {
		w := Window{MSS: 1000, Cwnd: 100_000, Ssthresh: infiniteSsthresh}
		Cubic{}.OnLoss(&w, 100_000, 0)
		if w.Cwnd != 70_000 || w.Ssthresh != 70_000 || w.cubic.wMax != 100_000 {
			t.Errorf("%+v", w)
		}
	})
	t.Run("a second one before it has recovered makes room for others", func(t *testing.T) {
		w := Window{MSS: 1000, Cwnd: 100_000, Ssthresh: infiniteSsthresh}
		Cubic{}.OnLoss(&w, 100_000, 0)
		Cubic{}.OnLoss(&w, 70_000, 0)
		if w.cubic.wMax != 59_500 {
			t.Errorf("W_max %d, want 0.85 of 70,000", w.cubic.wMax)
		}
	})
	t.Run("it is back at W_max after K, with a plateau there, and then goes on", func(t *testing.T) {
		m := newPathModel(Cubic{}, 100*time.Millisecond)
		m.w.Cwnd = 1_000_000
		m.cc.OnLoss(&m.w, m.w.Cwnd, m.now)
		begin := m.now
		k := time.Duration(math.Cbrt(300/cubicC) * float64(time.Second)) // RFC 9438, 4.2, figure 2
		at := func(d time.Duration) int {
			for m.now < begin.Add(d) {
				m.round()
			}
			return m.w.Cwnd
		}
		for _, tt := range []struct {
			at       time.Duration
			from, to int
		}{
			{k / 2, 940_000, 980_000},
			{k, 995_000, 1_005_000},
			{3 * k / 2, 1_020_000, 1_070_000},
			{2 * k, 1_250_000, 1_350_000},
		} {
			if got := at(tt.at); got < tt.from || got > tt.to {
				t.Errorf("after %v of K %v: cwnd %d, want %d to %d", tt.at.Round(time.Millisecond), k, got, tt.from, tt.to)
			}
		}
	})
	t.Run("on a short path it is as fast as Reno is", func(t *testing.T) {
		m := newPathModel(Cubic{}, time.Millisecond)
		m.w.Cwnd = 100_000
		m.cc.OnLoss(&m.w, m.w.Cwnd, m.now)
		for range 60 { // Reno would grow by 50 segments in 50 round trips; 30 segments at 0.53 each take 57
			m.round()
		}
		if m.w.Cwnd < 98_000 || m.w.Cwnd > 106_000 {
			t.Errorf("cwnd %d", m.w.Cwnd)
		}
	})
	t.Run("time in which nothing is sent does not count", func(t *testing.T) {
		m := newPathModel(Cubic{}, 100*time.Millisecond)
		m.w.Cwnd = 1_000_000
		m.cc.OnLoss(&m.w, m.w.Cwnd, m.now)
		m.round()
		before := m.w.Cwnd
		m.now = m.now.Add(time.Hour)
		m.round()
		if grown := m.w.Cwnd - before; grown > 50_000 {
			t.Errorf("it has grown by %d", grown)
		}
	})
	t.Run("after a time-out the first plateau is where slow start ends", func(t *testing.T) {
		m := newPathModel(Cubic{}, 100*time.Millisecond)
		m.w.Cwnd = 100_000
		m.cc.OnTimeout(&m.w, m.w.Cwnd, false)
		if m.w.Cwnd != 1000 || m.w.Ssthresh != 70_000 {
			t.Errorf("%+v", m.w)
		}
		m.w.Cwnd = 70_000
		m.round()
		if m.w.cubic.k != 0 || m.w.cubic.wMax != 70_000 {
			t.Errorf("K %v, W_max %d", m.w.cubic.k, m.w.cubic.wMax)
		}
	})
}

func TestHyStart(t *testing.T) {
	t.Run("while round trips stay as they are, the window doubles", func(t *testing.T) {
		m := newPathModel(Cubic{}, 50*time.Millisecond)
		for range 5 {
			m.round()
		}
		if m.w.Cwnd != 320_000 {
			t.Errorf("cwnd %d", m.w.Cwnd)
		}
	})
	t.Run("a queue that builds up slows it down, and five rounds later ends it", func(t *testing.T) {
		m := newPathModel(Cubic{}, 50*time.Millisecond)
		for range 4 {
			m.round()
		}
		m.rtt += 7 * time.Millisecond // more than an eighth
		m.round()
		m.round()
		if m.w.hystart.baseline == 0 {
			t.Fatal("it was not noticed")
		}
		before := m.w.Cwnd
		m.round()
		if grown := m.w.Cwnd - before; grown < before/5 || grown > before/3 {
			t.Errorf("in a round it grew by %d of %d, want a quarter", grown, before)
		}
		for range 5 {
			m.round()
		}
		if m.w.Ssthresh == infiniteSsthresh {
			t.Error("slow start goes on")
		}
	})
	t.Run("if the queue was somebody else's, it goes on", func(t *testing.T) {
		m := newPathModel(Cubic{}, 50*time.Millisecond)
		for range 4 {
			m.round()
		}
		m.rtt += 7 * time.Millisecond
		m.round()
		m.round()
		m.rtt -= 7 * time.Millisecond
		m.round()
		before := m.w.Cwnd
		m.round()
		if m.w.Cwnd < 19*before/10 || m.w.Ssthresh != infiniteSsthresh {
			t.Errorf("from %d to %d", before, m.w.Cwnd)
		}
	})
	t.Run("a little jitter is no queue", func(t *testing.T) {
		m := newPathModel(Cubic{}, 10*time.Millisecond)
		for i := range 6 {
			m.rtt = 10*time.Millisecond + time.Duration(i%2)*3*time.Millisecond
			m.round()
		}
		if m.w.Cwnd != 640_000 {
			t.Errorf("cwnd %d", m.w.Cwnd)
		}
	})
}
