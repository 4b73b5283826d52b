/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flows that exist. Plain hash maps: an attacker can't insert (it takes a valid cookie), and an
 * LRU would evict live connections. XDP inserts, user space deletes. Two maps, so that IPv4 does
 * not pay for IPv6 keys.
 */
#ifndef XDPTCP_FLOWS_H
#define XDPTCP_FLOWS_H

#include "types.h"
#include "stats.h"

#define FLOWS_DEFAULT (1 << 18) /* the loader sets what the operator wants */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_DEFAULT);
	__type(key, struct flow4);
	__type(value, struct handshake);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_DEFAULT);
	__type(key, struct flow6);
	__type(value, struct handshake);
} flows6 SEC(".maps");

/* The AF_XDP socket of each RX queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* To the engine. Without a socket the engine is gone: fail open, the kernel may have it. */
static __always_inline enum xdp_action to_engine(struct xdp_md *ctx, enum reason why)
{
	long verdict = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);

	return count(verdict == XDP_REDIRECT ? why : PASS_NO_SOCKET, verdict);
}

/* The same, with the record of the handshake in front of the frame. */
static __always_inline enum xdp_action to_engine_with(struct xdp_md *ctx, const struct handshake *h,
						      enum reason why)
{
	struct handshake *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*h)))
		return drop(DROP_NO_ROOM);
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return drop(DROP_NO_ROOM);
	*meta = *h;
	return to_engine(ctx, why);
}

/*
 * A segment of a known flow. While the client still acknowledges no more than our SYN, the engine
 * may not have seen this flow yet (the final ACK was lost to a full ring), so the record goes
 * along: no state of "confirmed" is needed, and a segment that acknowledges data doesn't pay for
 * it.
 */
static __always_inline enum xdp_action known_flow(struct xdp_md *ctx, const struct handshake *h,
						  __u32 ack)
{
	if (ack == h->iss + 1)
		return to_engine_with(ctx, h, REDIRECT_SEGMENT);
	return to_engine(ctx, REDIRECT_SEGMENT);
}

#endif
