// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"math"
	"time"
)

// Cubic is the algorithm of RFC 9438, with HyStart++ (RFC 9406) for the first slow start. After a reduction the window grows
// as a cubic function of time, and not of round trips: fast to near where the loss was, slowly past it, then faster and faster.
//
//	      W_max                         _
//	........|.....________________.....| .
//	   loss |   /                 K
//	cwnd ___|_/
//	        0                     t
type Cubic struct{}

// RFC 9438, 4.6 and 4.2, and what makes W_est as fast as Reno on average (4.3).
const (
	cubicBeta  = 0.7
	cubicC     = 0.4 // segments per second cubed
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta)
)

// cubicState is what Cubic knows of a connection, in bytes.
type cubicState struct {
	epoch Time    // when this congestion avoidance began; 0: it has not
	last  Time    // of the last growth
	k     float32 // seconds from epoch to when the window is wMax again
	wMax  int32   // window before the last reduction; 0: unknown
	prior int32   // cwnd_prior
	wEst  float64 // the window that Reno would have
}

// Init implements Congestion.
func (Cubic) Init(w *Window) { w.begin() }

// OnAck implements Congestion.
func (Cubic) OnAck(w *Window, a Ack) {
	if w.Cwnd < w.Ssthresh {
		w.hystart.onAck(w, a)
		return
	}
	s := &w.cubic
	if s.epoch == 0 {
		s.begin(w, a.Now)
	}
	// RFC 9438, 5.8: time in which the window held nobody back is not part of t.
	if gap := a.Now.Sub(s.last); gap > a.SRTT {
		s.epoch = s.epoch.Add(gap - a.SRTT)
	}
	s.last = a.Now

	// 4.3: as fast as Reno since the reduction, and from where that was, faster.
	alpha := cubicAlpha
	if s.wEst >= float64(s.prior) {
		alpha = 1
	}
	cwnd := float64(w.Cwnd)
	s.wEst += alpha * float64(a.Octets) * float64(w.MSS) / cwnd

	t := a.Now.Sub(s.epoch)
	if s.at(t, w.MSS) < s.wEst {
		w.Cwnd = max(w.Cwnd, min(int(s.wEst), infiniteSsthresh))
		return
	}
	// 4.4 and 4.5.
	target := min(max(s.at(t+a.SRTT, w.MSS), cwnd), 1.5*cwnd)
	w.Cwnd = min(w.Cwnd+int((target-cwnd)*float64(a.Octets)/cwnd), infiniteSsthresh)
}

// begin is the start of congestion avoidance (RFC 9438, 4.2; after slow start and after a time-out, 4.8 and 4.10).
func (s *cubicState) begin(w *Window, now Time) {
	s.epoch, s.last = now, now
	s.wEst = float64(w.Cwnd)
	s.k = 0
	if int(s.wMax) > w.Cwnd {
		s.k = float32(math.Cbrt(float64(int(s.wMax)-w.Cwnd) / float64(w.MSS) / cubicC))
	} else {
		s.wMax = int32(w.Cwnd)
	}
}

// at is W_cubic (RFC 9438, 4.2, figure 1).
func (s *cubicState) at(t time.Duration, mss int) float64 {
	d := t.Seconds() - float64(s.k)
	return float64(s.wMax) + cubicC*d*d*d*float64(mss)
}

// OnLoss implements Congestion (RFC 9438, 4.6).
func (Cubic) OnLoss(w *Window, flight int, _ Time) {
	wMax := w.Cwnd
	if wMax < int(w.cubic.wMax) {
		// 4.7: it has been more before, so somebody else needs room.
		wMax = int(float64(wMax) * (1 + cubicBeta) / 2)
	}
	w.cubic = cubicState{wMax: int32(wMax), prior: int32(w.Cwnd)}
	w.Ssthresh = max(int(float64(flight)*cubicBeta), 2*w.MSS)
	w.Cwnd = w.Ssthresh
}

// OnTimeout implements Congestion (RFC 9438, 4.8).
func (Cubic) OnTimeout(w *Window, flight int, again bool) {
	w.cubic = cubicState{prior: int32(w.Cwnd)}
	if !again {
		w.Ssthresh = max(int(float64(flight)*cubicBeta), 2*w.MSS)
	}
	w.Cwnd = w.MSS
}

// OnIdle implements Congestion. The cubic's time stands still meanwhile: see OnAck.
func (Cubic) OnIdle(w *Window) { w.restart() }
