// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

// A Source is what metrics are made from: one interface that xdptcp serves. It is read at each
// scrape, by several goroutines at once if there are several scrapers.
type Source interface {
	// Reasons are XDP's counters, by bpf.Reason, summed over all CPUs.
	Reasons() ([bpf.ReasonCount]uint64, error)
	// Engine are the counters of the TCP engine.
	Engine() userspace.Stats
	// Sockets are the counters of the AF_XDP sockets, by queue.
	Sockets() []afxdp.Stats
	// Keys say which of the cookie's keys are in use; never what they are.
	Keys() Keys
	// Lists are the lists of clients; ok is false if there are none.
	Lists() (l Lists, ok bool)
	// About says what is running. Its Interface must not change.
	About() About
}

// Lists says what is on the lists of clients that may connect, or may not.
type Lists struct {
	Allowed, Denied int    // addresses and prefixes
	Failures        uint64 // times that a list changed, and could not be taken
}

// About says what is running, and how.
type About struct {
	Interface    string // that the program is attached to
	Mode         string // "native" or "generic"
	Queues       int    // RX queues served
	ZeroCopy     bool   // the driver reads and writes our memory itself
	Version      string // xdptcp's
	FlowCapacity int    // of XDP's flow table, for each of IPv4 and IPv6

	Lease bool            // it holds; if not, packets pass to the kernel
	Armed map[string]bool // by service: its SYNs are answered
}

// Keys say which of the cookie's keys are in use.
type Keys struct {
	Generation int           // of the key that SYN/ACKs are made with
	Accepted   int           // keys whose cookies are accepted
	Age        time.Duration // how long this process has used the key of Generation
	Loads      uint64        // times that the key file changed, and was taken
	Failures   uint64        // times that it was refused, or that a rotation failed
}
