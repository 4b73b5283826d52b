/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cookie: everything we must remember of a handshake, put where the client sends it back.
 * The Go twin is bpf/cookie.go; a differential test holds the two together.
 *
 *  ISN, 32 bits:      31                     8 7       2 1    0
 *                    +------------------------+---------+------+
 *                    |        MAC, 24         | opts, 6 | gen  |    opts is masked by 6 more bits
 *                    +------------------------+---------+------+    of the hash, gen is plain
 *
 *  opts:             5..3 class of the MSS, 2..1 window scale (see below), 0 SACK permitted
 *  TSval, 32 bits:   offset + now, where now counts ticks of 2^20 ns (1.05 ms), or milliseconds
 *                    where the kernel goes on with them, and its three lowest bits are replaced by
 *                    ECN and the two low bits of the window scale, never ahead of now. Hosts that
 *                    share their keys must agree on the time too: they count from the epoch
 *                    (keys.clock) instead of from their boot.
 *
 * peer: SipHash-1-3 over addresses and ports, 64 bits, under a key that never rotates. Its low half
 * is the offset. That must not depend on the client's ISN nor on the generation: a client that
 * reuses a port out of its TIME-WAIT drops a SYN/ACK whose TSval is older than the last one it saw
 * (PAWS, RFC 7323, 5.2), so our timestamps must grow over all connections of the same ports. 1-3,
 * because it only adds to what the MAC already demands.
 *
 * MAC: SipHash-2-4 over one block, peer with the client's ISN XORed into its other half, under the
 * key of generation gen. 2-4, because this is the only thing between a forger and a connection; one
 * block, without the usual one for the length, because the length never varies. Hashing peer
 * instead of all addresses saves IPv6 more than half of the rounds. Two connections with the same
 * block would share their cookie: a chance of 2^-64, and nobody can look for them without the key.
 * The MAC sits in the high bits of the ISN, so that a blind attacker who must hit a window of 2^16
 * in our sequence space (RFC 5961, 1.1) still has to try all of 2^16 windows.
 *
 * What a forged connection costs, in expected ACKs, when addresses are spoofed:
 *   without timestamps  2^24                    (the MAC; the generation is known or tried thrice)
 *   with timestamps     2^24 * 2^32/2^16 = 2^40 (MAC, and a TSecr that decodes to the last 2^16
 *                                                ticks; all values of its option bits count)
 *   A forger is free to choose the cheaper one, whatever the service's clients use. Strict cookies
 *   make that one dearer, 2^27: without timestamps, window scale and SACK are given up, and their
 *   bits must come back as zeros.
 *
 * The handshake without timestamps uses other bits of the same hash, so that an ACK whose
 * timestamps were stripped on the way does not pass for the other kind.
 *
 * The classes of MSS and window scale are part of what a cookie means. Changing them means
 * changing keys with them.
 */
#ifndef XDPTCP_COOKIE_H
#define XDPTCP_COOKIE_H

#include "types.h"
#include "siphash.h"
#include "options.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cookie_keys);
} keys SEC(".maps");

#define TICK_SHIFT	  20 /* ns to ticks */
#define TS_WSCALE_BITS	  2
#define TS_WSCALE_MASK	  ((1 << TS_WSCALE_BITS) - 1)
#define TS_ECN		  (1 << TS_WSCALE_BITS)
#define TS_OPTION_MASK	  (TS_ECN | TS_WSCALE_MASK)
#define COOKIE_LIFE_TICKS 64512 /* 67.6 s: longer than a client retries its first data */
#define COOKIE_SKEW_TICKS 1024	/* 1.07 s by which clocks of hosts with the same keys may differ */

/* MSS, rounded down to the class. The lowest is what a hostile or broken client gets. */
#define MSS_CLASSES 8
static const __u16 mss_class[MSS_CLASSES] = { 64, 536, 1220, 1360, 1400, 1440, 1460, 8960 };

static __always_inline __u32 mss_to_class(__u16 mss)
{
	__u32 class = MSS_CLASSES - 1;

	/* From above: most clients are near the top. */
#pragma unroll
	for (int i = MSS_CLASSES - 1; i > 0; i--) {
		if (mss >= mss_class[i])
			break;
		class --;
	}
	return class;
}

static __always_inline __u16 class_to_mss(__u32 class)
{
	/* Two registers instead of a load from a table. */
	const __u64 low = 64ull | 536ull << 16 | 1220ull << 32 | 1360ull << 48;
	const __u64 high = 1400ull | 1440ull << 16 | 1460ull << 32 | 8960ull << 48;

	return (class & 4 ? high : low) >> (class & 3) * 16;
}

/* With timestamps, window scale + 1 fits whole: two bits in the ISN, two in the TSval.
 * Without, two bits must do: none, 2, 6 or 8, rounded down. A scale of 0 or 1 becomes none, which
 * is as if the client had not offered it: the SYN/ACK then does not offer it either. */
static __always_inline __u32 wscale_to_class(__u8 wscale)
{
	return (wscale >= 2) + (wscale >= 6) + (wscale >= 8);
}

static __always_inline __u8 class_to_wscale(__u32 class)
{
	return 0x8620 >> class * 4 & 15;
}

/* Addresses and ports, as words for SipHash. */
struct tuple {
	__u64 word[4]; /* IPv4: remote and local in word[0]. IPv6: remote, then local */
	__u32 ports;   /* remote port, local port, as in the segment */
	__u32 v6;      /* compile-time constant after inlining */
};

static __always_inline __u64 cookie_peer(const struct sipstate *k, const struct tuple *t)
{
	if (t->v6) {
		__u64 w[5] = { t->word[0], t->word[1], t->word[2], t->word[3],
			       t->ports | 36ull << 56 };
		return siphash(k, w, 5, 1, 3);
	}
	__u64 w[2] = { t->word[0], t->ports | 12ull << 56 };
	return siphash(k, w, 2, 1, 3);
}

static __always_inline __u64 cookie_hash(const struct sipstate *k, __u64 peer, __be32 irs)
{
	__u64 block = peer ^ (__u64)irs << 32;

	return siphash(k, &block, 1, 2, 4);
}

static __always_inline struct cookie_keys *cookie_keys(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&keys, &zero);
}

/* CLOCK_MONOTONIC; its coarse edition costs a tenth of the fine one and never runs ahead of it. */
static __always_inline __u64 now_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* The MAC's 24 bits and the 6 bits that mask opts, in the ISN's positions. */
static __always_inline __u32 cookie_mac(__u64 hash, bool timestamps)
{
	return (timestamps ? hash : hash >> 32) & ~3u;
}

/*
 * Makes ISN and TSval for a SYN. o says what the client offered, and is changed to what it gets
 * (window scale, SACK and ECN without timestamps). irs is in network byte order, now as TSval
 * counts.
 */
static __always_inline __u32 cookie_make(const struct cookie_keys *k, const struct tuple *t,
					 __be32 irs, __u32 now, struct options *o, __u32 *tsval)
{
	__u32 generation = k->current & (KEY_GENERATIONS - 1);
	__u64 peer = cookie_peer(&k->timestamp, t);
	__u64 hash = cookie_hash(&k->key[generation], peer, irs);
	bool timestamps = o->flags & HS_TIMESTAMPS;
	__u32 opts = mss_to_class(o->mss) << 3 | !!(o->flags & HS_SACK);

	if (timestamps) {
		__u32 scale = o->flags & HS_WSCALE ? o->wscale + 1 : 0;
		__u32 ticks = (now & ~TS_OPTION_MASK) | (scale & TS_WSCALE_MASK);

		if (o->flags & HS_ECN)
			ticks |= TS_ECN;
		if ((__s32)(ticks - now) > 0)
			ticks -= TS_OPTION_MASK + 1;
		*tsval = (__u32)peer + ticks;
		opts |= scale >> TS_WSCALE_BITS << 1;
	} else {
		__u32 class = o->flags & HS_WSCALE ? wscale_to_class(o->wscale) : 0;

		o->flags &= ~HS_ECN;
		if (k->strict) {
			class = 0;
			opts &= ~1u;
			o->flags &= ~HS_SACK;
		}
		if (!class)
			o->flags &= ~HS_WSCALE;
		opts |= class << 1;
	}
	return (cookie_mac(hash, timestamps) ^ opts << 2) | generation;
}

/*
 * Checks a final ACK: iss is what it acknowledges, irs what its own number says the client's ISN
 * was. Fills *h and returns REDIRECT_OPENED, or the reason of the refusal.
 */
static __always_inline enum reason cookie_check(const struct cookie_keys *k, const struct tuple *t,
						__u32 iss, __u32 irs, __u32 now,
						const struct options *o, struct handshake *h)
{
	__u32 generation = iss & (KEY_GENERATIONS - 1);
	bool timestamps = o->flags & HS_TIMESTAMPS;
	__u64 peer, hash;
	__u32 opts, scale;

	if (!(k->valid >> generation & 1))
		return DROP_EXPIRED_KEY;
	peer = cookie_peer(&k->timestamp, t);
	hash = cookie_hash(&k->key[generation], peer, bpf_htonl(irs));
	opts = cookie_mac(hash, timestamps) ^ iss;
	if (opts >> 8)
		return DROP_BAD_COOKIE;
	opts >>= 2;
	if (k->strict && !timestamps && opts & 7)
		return DROP_BAD_COOKIE;

	h->magic = HANDSHAKE_MAGIC;
	h->iss = iss;
	h->irs = irs;
	h->mss = class_to_mss(opts >> 3 & 7);
	h->flags = opts & 1 ? HS_SACK : 0;
	h->ts_offset = 0;
	h->rtt_ticks = 0;
	scale = opts >> 1 & 3;
	if (timestamps) {
		__u32 sent = bpf_ntohl(o->tsecr) - (__u32)peer;
		__s32 age = now - sent;

		if (age < -COOKIE_SKEW_TICKS || age >= COOKIE_LIFE_TICKS)
			return DROP_BAD_TIMESTAMP;
		h->ts_offset = (__u32)peer + (__u32)k->clock;
		if (age < 0) { /* made by a host whose clock is ahead: ours must not fall behind */
			h->ts_offset -= age;
			age = 0;
		}
		h->rtt_ticks = age;
		h->flags |= HS_TIMESTAMPS;
		if (sent & TS_ECN)
			h->flags |= HS_ECN;
		scale = scale << TS_WSCALE_BITS | (sent & TS_WSCALE_MASK);
		if (scale)
			h->flags |= HS_WSCALE;
		h->snd_wscale = scale ? scale - 1 : 0;
	} else {
		if (scale)
			h->flags |= HS_WSCALE;
		h->snd_wscale = class_to_wscale(scale);
	}
	return REDIRECT_OPENED;
}

#endif
