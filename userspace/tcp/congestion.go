// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// A Window is one connection's congestion window and what its algorithm remembers. All sizes are in bytes.
type Window struct {
	Cwnd     int // may be in flight
	Ssthresh int // slow start ends here
	MSS      int // payload of a full segment
	Acked    int // NewReno: acknowledged since Cwnd last grew, in congestion avoidance

	cubic   cubicState
	hystart hystartState
}

// An Ack is an acknowledgment of something new while the window was what held the sender back.
type Ack struct {
	Octets    int           // acknowledged
	RTT       time.Duration // that this ACK shows; 0: none
	SRTT      time.Duration
	Una, Next Seq // SND.UNA and SND.NXT: a round trip ends when the one is where the other was
	Now       Time
}

// Congestion is a congestion control algorithm. It has no state of its own: one value serves all connections, and what
// it knows of each is in the Window. What is lost, and when it is sent again, is not its business: see recovery.go.
type Congestion interface {
	// Init sets the initial window. MSS is set.
	Init(w *Window)
	// OnAck grows the window.
	OnAck(w *Window, a Ack)
	// OnLoss reduces Ssthresh and Cwnd, at most once per round trip, for a loss or another sign of congestion. In fast
	// recovery, Cwnd gets there little by little: see prr.go.
	OnLoss(w *Window, flight int, now Time)
	// OnTimeout shrinks the window to one segment. again is set if the same segment timed out before.
	OnTimeout(w *Window, flight int, again bool)
	// OnIdle is called before sending after an idle time of more than an RTO.
	OnIdle(w *Window)
}

// initialWindow is IW10 (RFC 6928, 2).
func initialWindow(mss int) int { return min(10*mss, max(2*mss, 14600)) }

// infiniteSsthresh is that of a connection that has seen no congestion.
const infiniteSsthresh = 1 << 30

// begin sets the window that all algorithms begin with.
func (w *Window) begin() {
	*w = Window{MSS: w.MSS, Cwnd: initialWindow(w.MSS), Ssthresh: infiniteSsthresh}
}

// restart is RFC 5681, 4.1: what was learnt of the path before the silence is worth an initial window at most.
func (w *Window) restart() { w.Cwnd = min(w.Cwnd, initialWindow(w.MSS)) }
