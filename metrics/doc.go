// SPDX-License-Identifier: Apache-2.0

// Package metrics exports xdptcp's counters to Prometheus.
//
// Nothing polls: a scrape reads the XDP program's counters, the engine's and the sockets' once, and
// all metrics of that scrape come from that one reading, so that they agree with one another.
//
//	scrape ──► Handler ──► collector ──► Source ─┬─ Reasons: XDP, per packet
//	                                             ├─ Engine:  connections
//	                                             └─ Sockets: AF_XDP rings, by queue
//
// Every metric has the label interface, so that several Sources fit into one registry. The queries
// that operators want first:
//
//	rate(xdptcp_synacks_total[1m])                 SYNs answered per second
//	rate(xdptcp_handshakes_completed_total[1m])    clients that were real, per second
//	rate(xdptcp_handshakes_refused_total[1m])      by reason
//
// dashboard.json is a Grafana dashboard, alerts.yaml holds Prometheus rules. The tests check that both
// name only metrics that exist.
package metrics
