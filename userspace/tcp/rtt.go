// SPDX-License-Identifier: Apache-2.0

package tcp

import "time"

// An rttEstimator is RFC 6298: a smoothed round-trip time, its variation, and the time-out that follows.
type rttEstimator struct {
	srtt, rttvar time.Duration // 0: no sample yet
	seeded       bool          // they are the handshake's
}

// seed takes in the duration of the handshake. It comes from an echoed timestamp of XDP's, which may be up to 3 ticks too
// high: nothing to a time-out, but on a short path many times the truth. So the first sample replaces it.
func (e *rttEstimator) seed(r time.Duration) {
	e.sample(r)
	e.seeded = true
}

// sample takes a measurement in (RFC 6298, 2.2 and 2.3).
func (e *rttEstimator) sample(r time.Duration) {
	r = max(r, 1)
	if e.srtt == 0 || e.seeded {
		e.seeded = false
		e.srtt = r
		e.rttvar = r / 2
		return
	}
	delta := e.srtt - r
	if delta < 0 {
		delta = -delta
	}
	e.rttvar += (delta - e.rttvar) / 4
	e.srtt = max(e.srtt+(r-e.srtt)/8, 1)
}

// rto is the time-out after backoff doublings. The floor is under the variance term and not under the sum: what it covers is
// the peer's delayed acknowledgment, which comes on top of the path, however long that is. RFC 6298, 2.4 would have a
// second; no stack in use waits that long.
func (e *rttEstimator) rto(cfg *Config, backoff uint8) time.Duration {
	rto := cfg.InitialRTO
	if e.srtt != 0 {
		rto = e.srtt + max(cfg.MinRTO, 4*e.rttvar)
	}
	// RFC 6298, 5.5. Beyond 2^20 every time-out is past MaxRTO's bound.
	return min(rto<<min(backoff, 20), cfg.MaxRTO)
}
