// SPDX-License-Identifier: Apache-2.0

package tcp

// NewReno is the algorithm of RFC 5681 with byte counting (RFC 3465).
type NewReno struct{}

// Init implements Congestion.
func (NewReno) Init(w *Window) { w.begin() }

// OnAck implements Congestion.
func (NewReno) OnAck(w *Window, a Ack) {
	if w.Cwnd < w.Ssthresh {
		// RFC 3465, 2.3: L = 2, which makes up for delayed acknowledgments, and no burst for a stretched one.
		w.Cwnd += min(a.Octets, 2*w.MSS)
		return
	}
	w.Acked += a.Octets
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

// OnIdle implements Congestion.
func (NewReno) OnIdle(w *Window) { w.restart() }
