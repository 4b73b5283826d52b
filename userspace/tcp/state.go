// SPDX-License-Identifier: Apache-2.0

package tcp

// State is a connection's state (RFC 9293, 3.3.2). Those before ESTABLISHED do not occur: XDP keeps no state for
// them.
type State uint8

// The states.
const (
	StateClosed State = iota
	StateEstablished
	StateCloseWait
	StateLastAck
	StateFinWait1
	StateFinWait2
	StateClosing
	StateTimeWait
)

var stateNames = [...]string{
	StateClosed: "CLOSED", StateEstablished: "ESTABLISHED", StateCloseWait: "CLOSE-WAIT", StateLastAck: "LAST-ACK",
	StateFinWait1: "FIN-WAIT-1", StateFinWait2: "FIN-WAIT-2", StateClosing: "CLOSING", StateTimeWait: "TIME-WAIT",
}

// String gives the RFC's name of the state.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "invalid"
}

// Event says what an Input or Tick changed for the application. Bits are combined.
type Event uint8

const (
	// Readable: there are bytes, or the end of the stream, where there was nothing to read.
	Readable Event = 1 << iota
	// Writable: the send buffer has room again after a Write that was cut short.
	Writable
	// Closed: the connection is over; Err says why. Output may still hold a last RST.
	Closed
	// Delivered: all that was written, and the FIN, is acknowledged. Only after Linger asked for it.
	Delivered
)
