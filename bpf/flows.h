/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flows that exist. Plain hash maps: an attacker can't insert (it takes a valid cookie), and an
 * LRU would evict live connections. XDP inserts, user space deletes. Two maps, so that IPv4 does
 * not pay for IPv6 keys.
 *
 * In front of them a sketch: a counter of 4 bits for all flows of the same hash. Where it is zero
 * there is no flow, and that is what a SYN or a forged ACK finds nearly always, in memory that the
 * CPU's cache holds: 2 ns where a miss in the hash map costs 20. Who inserts a flow counts up
 * first, who has deleted one counts down after.
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

/* Sixteen counters to a word of 8 bytes (values of an array lie no closer); the loader makes them a
 * power of two, as many as there may be flows of a family. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS_DEFAULT / 16);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} sketch SEC(".maps");

const volatile __u32 cfg_sketch_shift = 64 - 18; /* 64 - log2(counters) */

#define SKETCH_BITS 4
/* A counter stops here: a flow more is refused as if the table were full. In a table that is full,
 * one counter of a billion gets so far; and between the look at a counter and its change, so many
 * CPUs would have to open flows of the same hash to carry it over. */
#define SKETCH_MAX 12

/* The AF_XDP socket of each RX queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* A multilinear hash of addresses and ports (Lemire, Kaser: "Strongly universal string hashing is
 * fast"), under random multipliers: nobody can choose tuples that collide. */
static __always_inline __u32 sketch_hash(const struct control *c, const struct tuple *t)
{
	__u64 x = t->word[0] * c->sketch_key[0];

	if (t->v6)
		x += t->word[1] * c->sketch_key[1] + (t->ports + t->word[3]) * c->sketch_key[2] +
		     t->word[2];
	else
		x += t->ports * c->sketch_key[2];
	return x >> (cfg_sketch_shift & 63);
}

static __always_inline __u64 *sketch_word(__u32 hash)
{
	__u32 key = hash / 16;

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

static __always_inline struct handshake *find_flow(const struct control *c, const struct tuple *t)
{
	__u32 hash = sketch_hash(c, t);
	__u64 *word = sketch_word(hash);

	if (!word || !(*word >> hash % 16 * SKETCH_BITS & 15))
		return NULL;
	if (t->v6) {
		struct flow6 f = flow6_of(t);

		return bpf_map_lookup_elem(&flows6, &f);
	}
	struct flow4 f = flow4_of(t);

	return bpf_map_lookup_elem(&flows4, &f);
}

/* 0, -EEXIST if another CPU was faster, or another error if the table is full. */
static __always_inline long add_flow(const struct control *c, const struct tuple *t,
				     const struct handshake *h)
{
	__u32 hash = sketch_hash(c, t), shift = hash % 16 * SKETCH_BITS;
	__u64 *word = sketch_word(hash);
	long err;

	if (!word || (*word >> shift & 15) >= SKETCH_MAX)
		return -E2BIG;
	__sync_fetch_and_add(word, 1ull << shift);
	if (t->v6) {
		struct flow6 f = flow6_of(t);

		err = bpf_map_update_elem(&flows6, &f, h, BPF_NOEXIST);
	} else {
		struct flow4 f = flow4_of(t);

		err = bpf_map_update_elem(&flows4, &f, h, BPF_NOEXIST);
	}
	if (err)
		__sync_fetch_and_add(word, -(1ull << shift));
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
