// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// A Window is one connection's congestion window and what its algorithm remembers. All sizes are in bytes.
type Window struct {
	Cwnd     int // may be in flight
	Ssthresh int // slow start ends here
	MSS      int // payload of a full segment
	Acked    int // acknowledged since Cwnd last grew, in congestion avoidance
}

// Congestion is a congestion control algorithm. It has no state of its own: one value serves all connections, and what
// it knows of each is in the Window.
type Congestion interface {
	// Init sets the initial window. MSS is set.
	Init(w *Window)
	// OnAck grows the window: acked bytes left the network while the window was what held the sender back.
	OnAck(w *Window, acked int, srtt time.Duration, now Time)
	// OnLoss shrinks the window once per round trip with loss; flight bytes were outstanding.
	OnLoss(w *Window, flight int, now Time)
	// OnTimeout shrinks the window to one segment. again is set if the same segment timed out before.
	OnTimeout(w *Window, flight int, again bool)
	// OnIdle is called before sending after an idle time of more than an RTO.
	OnIdle(w *Window)
}

// NewReno is the algorithm of RFC 5681 with byte counting (RFC 3465). How it retransmits is not its business: see
// recovery.go.
type NewReno struct{}

// initialWindow is IW10 (RFC 6928, 2).
func initialWindow(mss int) int { return min(10*mss, max(2*mss, 14600)) }

const infiniteSsthresh = 1 << 30

// Init implements Congestion.
func (NewReno) Init(w *Window) {
	w.Cwnd = initialWindow(w.MSS)
	w.Ssthresh = infiniteSsthresh
	w.Acked = 0
}

// OnAck implements Congestion.
func (NewReno) OnAck(w *Window, acked int, _ time.Duration, _ Time) {
	if w.Cwnd < w.Ssthresh {
		// RFC 3465, 2.3: L = 2, which makes up for delayed acknowledgments, and no burst for a stretched one.
		w.Cwnd += min(acked, 2*w.MSS)
		return
	}
	w.Acked += acked
	if w.Acked >= w.Cwnd {
		w.Acked -= w.Cwnd
		w.Cwnd += w.MSS
	}
}

// OnLoss implements Congestion (RFC 5681, 3.2, equation 4).
func (NewReno) OnLoss(w *Window, flight int, _ Time) {
	w.Ssthresh = max(flight/2, 2*w.MSS)
	w.Cwnd = w.Ssthresh
	w.Acked = 0
}

// OnTimeout implements Congestion (RFC 5681, 3.1).
func (NewReno) OnTimeout(w *Window, flight int, again bool) {
	if !again {
		w.Ssthresh = max(flight/2, 2*w.MSS)
	}
	w.Cwnd = w.MSS
	w.Acked = 0
}

// OnIdle implements Congestion (RFC 5681, 4.1).
func (NewReno) OnIdle(w *Window) { w.Cwnd = min(w.Cwnd, initialWindow(w.MSS)) }
