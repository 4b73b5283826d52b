// SPDX-License-Identifier: Apache-2.0

// Package userspace is xdptcp's engine: it takes over the connections whose handshake XDP has
// answered, and gives them to Go programs through a net.Listener.
//
//	queue 0 ──► Link ──► shard 0 ─┐                  ┌─► Listener :8080 ─► Conn ─► your code
//	queue 1 ──► Link ──► shard 1 ─┴─ flows, timers ──┴─► Listener :8443 ─► Conn ─► your code
//
// Each RX queue has a Link (an AF_XDP socket) and a shard. A shard's lock covers its link, its
// connections and their timers. Whoever holds it may drive them: the shard's own loop for a batch of
// received frames, or an application goroutine in Write, which then sends in its own time slice.
//
// TCP itself is userspace/tcp, frames are userspace/wire, AF_XDP is userspace/afxdp. How the XDP
// program is attached is the loader's business and unknown here.
package userspace
