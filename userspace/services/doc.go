// SPDX-License-Identifier: Apache-2.0

// Package services are the actions that xdptcp has built in: what answers a connection when no
// program of the user's own does.
//
//	http     a page about the connection itself, the same as JSON, and bytes for transfer tests
//	echo     sends back what it receives (RFC 862)
//	discard  throws away what it receives (RFC 863)
//
// Each takes a net.Listener and knows nothing of XDP; only the page of http asks a connection how its
// handshake went, and says so if it can't tell. What one client may hold is bounded by idle
// time-outs, and an idle connection of echo or discard holds no large buffer.
package services
