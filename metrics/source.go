// SPDX-License-Identifier: Apache-2.0

package metrics

import (
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
	// About says what is running. Its Interface must not change.
	About() About
}

// About says what is running, and how.
type About struct {
	Interface    string // that the program is attached to
	Mode         string // "native" or "generic"
	Queues       int    // RX queues served
	ZeroCopy     bool   // the driver reads and writes our memory itself
	Version      string // xdptcp's
	FlowCapacity int    // of XDP's flow table, for each of IPv4 and IPv6
	ShieldUp     bool   // the automatic shield of kernel services is up: their SYNs are answered by XDP
}
