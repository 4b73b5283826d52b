/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flows that exist. Plain hash maps: an attacker can't insert (it takes a valid cookie), and an
 * LRU would evict live connections. XDP inserts, user space deletes. Two maps, so that IPv4 does
 * not pay for IPv6 keys.
 *
 * In front of them a sketch: one counter for all flows of the same hash. Where it is zero there is
 * no flow, and that is what a SYN or a forged ACK finds nearly always: 2 ns where a miss in the
 * hash map costs 20. Who inserts a flow counts up first, who has deleted one counts down after.
 */
#ifndef XDPTCP_FLOWS_H
#define XDPTCP_FLOWS_H

#include "types.h"
#include "parse.h"
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

/* The loader makes it a power of two with as many cells as there may be flows of a family. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS_DEFAULT);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32);
} sketch SEC(".maps");

const volatile __u32 cfg_sketch_shift = 64 - 18; /* 64 - log2(cells) */

/* The AF_XDP socket of each RX queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Addresses and ports as a hash. Whoever finds tuples that collide wins nothing but a lookup, so
 * two multiplications do (the constants are those of splitmix64). */
static __always_inline __u32 *sketch_cell(const struct tuple *t)
{
	__u64 x = t->word[0];
	__u32 key;

	if (t->v6)
		x = (x ^ t->word[2]) * 0xbf58476d1ce4e5b9ull + (t->word[1] ^ t->word[3]);
	x = (x ^ (__u64)t->ports << 16) * 0x94d049bb133111ebull;
	key = x >> (cfg_sketch_shift & 63);
	return bpf_map_lookup_elem(&sketch, &key);
}

static __always_inline struct flow4 flow4_of(const struct tuple *t)
{
	struct flow4 f;

	__builtin_memcpy(&f, t->word, 8);
	__builtin_memcpy(&f.remote_port, &t->ports, 4);
	return f;
}

static __always_inline struct flow6 flow6_of(const struct tuple *t)
{
	struct flow6 f;

	__builtin_memcpy(&f, t->word, 32);
	__builtin_memcpy(&f.remote_port, &t->ports, 4);
	return f;
}

static __always_inline struct handshake *find_flow(const struct tuple *t)
{
	__u32 *flows = sketch_cell(t);

	if (!flows || !*flows)
		return NULL;
	if (t->v6) {
		struct flow6 f = flow6_of(t);

		return bpf_map_lookup_elem(&flows6, &f);
	}
	struct flow4 f = flow4_of(t);

	return bpf_map_lookup_elem(&flows4, &f);
}

/* 0, -EEXIST if another CPU was faster, or another error if the table is full. */
static __always_inline long add_flow(const struct tuple *t, const struct handshake *h)
{
	__u32 *flows = sketch_cell(t);
	long err;

	if (!flows)
		return -1;
	__sync_fetch_and_add(flows, 1);
	if (t->v6) {
		struct flow6 f = flow6_of(t);

		err = bpf_map_update_elem(&flows6, &f, h, BPF_NOEXIST);
	} else {
		struct flow4 f = flow4_of(t);

		err = bpf_map_update_elem(&flows4, &f, h, BPF_NOEXIST);
	}
	if (err)
		__sync_fetch_and_add(flows, -1);
	return err;
}

/* To the engine. The daemon is alive (that was asked before), so a queue without socket is one that
 * it is about to open, or that came later: the client will try again. */
static __always_inline enum xdp_action to_engine(struct xdp_md *ctx, enum reason why)
{
	long verdict = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);

	return count(verdict == XDP_REDIRECT ? why : DROP_NO_SOCKET, verdict);
}

/* Puts the record of the handshake in front of the frame. */
static __always_inline bool attach_record(struct xdp_md *ctx, const struct handshake *h)
{
	struct handshake *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*h)))
		return false;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return false;
	*meta = *h;
	return true;
}

static __always_inline enum xdp_action to_engine_with(struct xdp_md *ctx, const struct handshake *h,
						      enum reason why)
{
	if (!attach_record(ctx, h))
		return drop(DROP_NO_ROOM);
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
