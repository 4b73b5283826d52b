/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The internet checksum (RFC 1071), summed in 32-bit words of network byte order into 64 bits. */
#ifndef XDPTCP_CHECKSUM_H
#define XDPTCP_CHECKSUM_H

#include "types.h"

/* Three folds are enough for a sum of fewer than 2^16 words: the first leaves less than
 * 2^32 + 2^16, the second at most 0x1fffe. */
static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* n is a compile-time constant: n 32-bit words whose bounds the caller has checked. */
static __always_inline __u64 csum_words(const __be32 *word, const int n)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < n; i++)
		sum += word[i];
	return sum;
}

/* The part of the pseudo-header that is neither address. RFC 9293, 3.1; RFC 8200, 8.1. */
static __always_inline __u64 csum_pseudo(__u32 tcp_len)
{
	return bpf_htonl(IPPROTO_TCP) + (__u64)bpf_htonl(tcp_len);
}

#endif
