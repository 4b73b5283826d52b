/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012). The rounds c and d are
 * compile-time constants; the message is given as 64-bit words, the last of which holds the tail
 * bytes and, in its top byte, the message's length.
 */
#ifndef XDPTCP_SIPHASH_H
#define XDPTCP_SIPHASH_H

#include "types.h"

/* Two words that follow each other in memory, as one load of 64 bits would see them. */
static __always_inline __u64 join(__u32 first, __u32 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u64)second << 32;
#else
	return second | (__u64)first << 32;
#endif
}

/* The same for halfwords. */
static __always_inline __u32 join16(__u16 first, __u16 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u32)second << 16;
#else
	return second | (__u32)first << 16;
#endif
}

static __always_inline __u64 rotl(__u64 x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static __always_inline void sipround(struct sipstate *s)
{
	s->v0 += s->v1;
	s->v2 += s->v3;
	s->v1 = rotl(s->v1, 13) ^ s->v0;
	s->v3 = rotl(s->v3, 16) ^ s->v2;
	s->v0 = rotl(s->v0, 32);
	s->v2 += s->v1;
	s->v0 += s->v3;
	s->v1 = rotl(s->v1, 17) ^ s->v2;
	s->v3 = rotl(s->v3, 21) ^ s->v0;
	s->v2 = rotl(s->v2, 32);
}

static __always_inline __u64 siphash(const struct sipstate *key, const __u64 *words, int n,
				     const int c, const int d)
{
	struct sipstate s = *key;

#pragma unroll
	for (int i = 0; i < n; i++) {
		s.v3 ^= words[i];
#pragma unroll
		for (int r = 0; r < c; r++)
			sipround(&s);
		s.v0 ^= words[i];
	}
	s.v2 ^= 0xff;
#pragma unroll
	for (int r = 0; r < d; r++)
		sipround(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

#endif
