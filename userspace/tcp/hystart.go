// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"math"
	"time"
)

// hystartState is HyStart++ (RFC 9406): when round trips get longer, a queue builds up, and the first slow start ends before it
// has overflowed by half a window. In between, it goes on at a quarter of the speed for some rounds (Conservative Slow
// Start), in case that was a mistake.
type hystartState struct {
	last, current micros // smallest RTT of the last round and of this one; 0: none
	baseline      micros // smallest RTT of the round that began Conservative Slow Start; 0: not in it
	end           Seq    // SND.NXT when the round began
	begun         bool
	samples       uint8
	rounds        uint8 // of Conservative Slow Start
}

// micros is a round-trip time in microseconds: fine enough here, and half the size.
type micros uint32

// RFC 9406, 4.3.
const (
	hystartMinThresh = micros(4000)
	hystartMaxThresh = micros(16000)
	hystartSamples   = 8
	cssDivisor       = 4
	cssRounds        = 5
	hystartL         = 8
)

// onAck grows the window in slow start (RFC 9406, 4.2).
func (h *hystartState) onAck(w *Window, a Ack) {
	if w.Ssthresh != infiniteSsthresh {
		w.Cwnd += min(a.Octets, 2*w.MSS) // RFC 9406, 4.2: for the first slow start only; RFC 3465, 2.3: L = 2
		return
	}
	if !h.begun || h.end.LessEq(a.Una) {
		if h.baseline != 0 {
			if h.rounds++; h.rounds >= cssRounds {
				w.Ssthresh = w.Cwnd
				return
			}
		}
		h.begun, h.end = true, a.Next
		h.last, h.current, h.samples = h.current, 0, 0
	}
	if a.RTT > 0 {
		if rtt := micros(min(max(a.RTT/time.Microsecond, 1), math.MaxUint32)); h.current == 0 || rtt < h.current {
			h.current = rtt
		}
		h.samples = min(h.samples+1, hystartSamples)
	}
	if h.samples >= hystartSamples {
		switch {
		case h.baseline == 0 && h.last != 0:
			if h.current >= h.last+min(max(h.last/8, hystartMinThresh), hystartMaxThresh) {
				h.baseline, h.rounds = h.current, 0
			}
		case h.baseline != 0 && h.current < h.baseline:
			h.baseline = 0 // it was a mistake
		}
	}
	grow := min(a.Octets, hystartL*w.MSS)
	if h.baseline != 0 {
		grow /= cssDivisor
	}
	w.Cwnd += grow
}
