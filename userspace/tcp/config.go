// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"fmt"
	"time"
)

// Config is what the connections of one shard share.
type Config struct {
	// RecvBuffer bounds a connection's received, unread bytes, and with that its receive window. A fast connection's bound grows
	// up to RecvBufferMax; if that is not more, it stays.
	RecvBuffer, RecvBufferMax int
	// SendBuffer bounds a connection's written, unacknowledged bytes. A fast connection's bound grows up to SendBufferMax; if
	// that is not more, it stays.
	SendBuffer, SendBufferMax int

	// DelayedAck is the longest an acknowledgment waits for data to ride on (RFC 9293, 3.8.6.3: < 500 ms).
	DelayedAck time.Duration

	// InitialRTO is the retransmission time-out before the first RTT sample (RFC 6298, 2.1).
	InitialRTO time.Duration
	// MinRTO is the floor under the RTO's variance term: see rtt.go.
	MinRTO time.Duration
	// MaxRTO bounds the back-off of retransmissions and of window probes.
	MaxRTO time.Duration

	// Retries is how many time-outs in a row end a connection with ErrTimeout.
	Retries int
	// OrphanRetries is the same for a connection that the application has closed.
	OrphanRetries int

	// TimeWait is how long a connection stays in TIME-WAIT (RFC 9293 says 2 MSL = 4 min; like others, we wait 60 s).
	TimeWait time.Duration
	// FinWait2 is how long a connection that the application has closed waits for the peer's FIN.
	FinWait2 time.Duration

	// Congestion is the congestion control algorithm; nil is Cubic.
	Congestion Congestion

	// Pool is where buffers come from. Its user's lock covers it.
	Pool *Pool
}

// DefaultConfig gives the values to use unless there is a reason not to. It has a Pool of its own, without a bound.
func DefaultConfig() *Config {
	return &Config{
		RecvBuffer:    256 << 10,
		RecvBufferMax: 6 << 20,
		SendBuffer:    256 << 10,
		SendBufferMax: 4 << 20,
		DelayedAck:    40 * time.Millisecond,
		InitialRTO:    time.Second,
		MinRTO:        200 * time.Millisecond,
		MaxRTO:        120 * time.Second,
		Retries:       15,
		OrphanRetries: 8,
		TimeWait:      60 * time.Second,
		FinWait2:      60 * time.Second,
		Congestion:    Cubic{},
		Pool:          NewPool(0),
	}
}

// Bounds of the configuration. The upper one of a buffer is the largest window that RFC 7323, 2.3 can advertise.
const (
	minBuffer = 4 << 10
	maxBuffer = 1 << 30
)

// Validate reports the first value that a connection could not work with.
func (c *Config) Validate() error {
	switch {
	case c.RecvBuffer < minBuffer || c.RecvBuffer > maxBuffer:
		return fmt.Errorf("tcp: RecvBuffer %d: want %d to %d bytes", c.RecvBuffer, minBuffer, maxBuffer)
	case c.SendBuffer < minBuffer || c.SendBuffer > maxBuffer:
		return fmt.Errorf("tcp: SendBuffer %d: want %d to %d bytes", c.SendBuffer, minBuffer, maxBuffer)
	case c.RecvBufferMax < 0 || c.RecvBufferMax > maxBuffer:
		return fmt.Errorf("tcp: RecvBufferMax %d: want 0 to %d bytes", c.RecvBufferMax, maxBuffer)
	case c.SendBufferMax < 0 || c.SendBufferMax > maxBuffer:
		return fmt.Errorf("tcp: SendBufferMax %d: want 0 to %d bytes", c.SendBufferMax, maxBuffer)
	case c.DelayedAck <= 0 || c.DelayedAck > 500*time.Millisecond:
		return fmt.Errorf("tcp: DelayedAck %v: want more than 0 and at most 500ms (RFC 9293, 3.8.6.3)", c.DelayedAck)
	case c.MinRTO <= 0 || c.MinRTO > c.MaxRTO:
		return fmt.Errorf("tcp: MinRTO %v: want more than 0 and at most MaxRTO %v", c.MinRTO, c.MaxRTO)
	case c.InitialRTO < c.MinRTO || c.InitialRTO > c.MaxRTO:
		return fmt.Errorf("tcp: InitialRTO %v: want MinRTO %v to MaxRTO %v", c.InitialRTO, c.MinRTO, c.MaxRTO)
	case c.Retries < 1 || c.Retries > 100:
		return fmt.Errorf("tcp: Retries %d: want 1 to 100", c.Retries)
	case c.OrphanRetries < 1 || c.OrphanRetries > 100:
		return fmt.Errorf("tcp: OrphanRetries %d: want 1 to 100", c.OrphanRetries)
	case c.TimeWait <= 0:
		return fmt.Errorf("tcp: TimeWait %v: want more than 0", c.TimeWait)
	case c.FinWait2 <= 0:
		return fmt.Errorf("tcp: FinWait2 %v: want more than 0", c.FinWait2)
	case c.Pool == nil:
		return fmt.Errorf("tcp: Pool is nil: buffers have nowhere to come from")
	}
	return nil
}
