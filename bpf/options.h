/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP options (RFC 9293, 3.1; RFC 7323; RFC 2018). The layouts that nearly every client sends are
 * recognised by comparing whole words; all others are walked byte by byte through bpf_loop, which
 * the verifier checks once and not for each of the walk's 2^n paths.
 */
#ifndef XDPTCP_OPTIONS_H
#define XDPTCP_OPTIONS_H

#include "types.h"

#define OPTIONS_MAX 40

enum option_kind {
	OPT_END = 0,
	OPT_NOP = 1,
	OPT_MSS = 2,
	OPT_WSCALE = 3,
	OPT_SACK_PERMITTED = 4,
	OPT_TIMESTAMPS = 8,
};

#define WSCALE_MAX   14	 /* RFC 7323, 2.3: a larger one is taken as 14 */
#define MSS_DEFAULT4 536 /* RFC 9293, 3.7.1: when the option is absent */
#define MSS_DEFAULT6 1220

struct options {
	__be32 tsval, tsecr;
	__u16 mss; /* 0: absent */
	__u8 wscale;
	__u8 flags; /* HS_* */
};

/* Two options in one word, as they are laid out. */
#define WORD(a, b, c, d) bpf_htonl((__u32)(a) << 24 | (__u32)(b) << 16 | (c) << 8 | (d))
#define WORD_SACK_TS	 WORD(OPT_SACK_PERMITTED, 2, OPT_TIMESTAMPS, 10)
#define WORD_NOP_TS	 WORD(OPT_NOP, OPT_NOP, OPT_TIMESTAMPS, 10)
#define WORD_NOP_SACK	 WORD(OPT_NOP, OPT_NOP, OPT_SACK_PERMITTED, 2)
#define WORD_MSS(mss)	 WORD(OPT_MSS, 4, (mss) >> 8, (mss) & 0xff)
#define WORD_WSCALE(ws)	 WORD(OPT_NOP, OPT_WSCALE, 3, ws)

struct option_walk {
	__u8 bytes[OPTIONS_MAX + 24]; /* zero (END) behind the last option; 64 for the bit mask */
	__u32 at, len;
	struct options *out;
};

static __always_inline __u8 option_byte(const struct option_walk *w, __u32 at)
{
	return w->bytes[at & (sizeof(w->bytes) - 1)];
}

static __always_inline __u32 option_word(const struct option_walk *w, __u32 at)
{
	return (__u32)option_byte(w, at) << 24 | (__u32)option_byte(w, at + 1) << 16 |
	       (__u32)option_byte(w, at + 2) << 8 | option_byte(w, at + 3);
}

/* One option; nonzero ends the walk. A length that can't be ends it too: what was read before
 * stands, what follows can't be told from noise. */
static long option_step(__u32 i __attribute__((unused)), void *ctx)
{
	struct option_walk *w = ctx;
	__u32 at = w->at;
	__u8 kind = option_byte(w, at);
	__u8 len;

	if (at >= w->len || kind == OPT_END)
		return 1;
	if (kind == OPT_NOP) {
		w->at = at + 1;
		return 0;
	}
	len = option_byte(w, at + 1);
	if (len < 2 || at + len > w->len)
		return 1;
	w->at = at + len;
	if (kind == OPT_MSS && len == 4) {
		w->out->mss = option_word(w, at) & 0xffff;
	} else if (kind == OPT_WSCALE && len == 3) {
		w->out->wscale = option_byte(w, at + 2);
		w->out->flags |= HS_WSCALE;
	} else if (kind == OPT_SACK_PERMITTED && len == 2) {
		w->out->flags |= HS_SACK;
	} else if (kind == OPT_TIMESTAMPS && len == 10) {
		w->out->tsval = bpf_htonl(option_word(w, at + 2));
		w->out->tsecr = bpf_htonl(option_word(w, at + 6));
		w->out->flags |= HS_TIMESTAMPS;
	}
	return 0;
}

/* For XDP; the tc program loads its bytes in its own way. */
static __noinline __attribute__((unused)) int walk_options(struct xdp_md *ctx, __u32 offset,
							   __u32 len, struct options *out)
{
	struct option_walk w = { .len = len, .out = out };

	if (!out || len == 0 || len > OPTIONS_MAX)
		return 0;
	/* The verifier of 6.1 does not learn from `len != 0` that len is at least 1, so it is shown
	 * a number from 0 to 63, plus 1; the barrier keeps clang from seeing through that. */
	len = (len - 1) & 63;
	asm volatile("" : "+r"(len));
	if (len >= OPTIONS_MAX || bpf_xdp_load_bytes(ctx, offset, w.bytes, len + 1))
		return -1;
	bpf_loop(OPTIONS_MAX, option_step, &w, 0);
	if (out->wscale > WSCALE_MAX)
		out->wscale = WSCALE_MAX;
	return 0;
}

#endif
