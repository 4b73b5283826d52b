// SPDX-License-Identifier: Apache-2.0

// Package tcp is the TCP state machine as pure code: no I/O, no clock, no goroutine, no lock. It starts where XDP's
// handshake ends, in ESTABLISHED.
//
// A [Conn] is driven by whoever holds its shard's lock:
//
//	ev := c.Input(&seg, now)        // for each segment received, before anything is sent
//	ev := c.Tick(now)               // when c.Deadline() has come
//	n := c.Write(b), c.Read(b) …    // for the application
//	for c.Output(&seg, now) {       // after any of these, until it says false
//		frame := …
//		h := template.HeaderLen(&seg)
//		c.CopyPayload(frame[h:h+seg.PayloadLen], &seg)
//		template.Marshal(frame, &seg)
//	}
//
// Output decides what is worth a packet, so it decides when to acknowledge: called once for a batch of input, it
// has all of the batch to go by (RFC 9293, 3.10.7.4: MUST-58, MUST-59).
//
// Time only comes in as an argument, so a test runs a year in a second, and every run of it is the same.
package tcp
