/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the headers are. Lengths come from the IP header, never from the frame, which may be padded
 * or carry a trailer. What can't be ours is let go as early as possible.
 *
 * Offsets that depend on the packet (VLAN tags, IPv4 options) are computed without branches: a
 * branch would have the verifier walk the rest of the program once for each of its ways.
 */
#ifndef XDPTCP_PARSE_H
#define XDPTCP_PARSE_H

#include "types.h"
#include "checksum.h"
#include "config.h"
#include "cookie.h"

#define VLAN_TAG 4 /* bytes */

#define IP4_MORE_FRAGMENTS  0x2000
#define IP4_FRAGMENT_OFFSET 0x1fff
#define IP4_DONT_FRAGMENT   0x4000
#define IP4_OPTIONS_MAX	    40
#define IP_ECN		    3 /* of the traffic class: RFC 3168, 5 */

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_PSH = 0x08,
	TCP_ACK = 0x10,
	TCP_ECE = 0x40,
	TCP_CWR = 0x80,
};

struct segment {
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	struct tcphdr *tcp;
	void *end;	/* of the packet in memory, for the verifier */
	__u32 link_len; /* Ethernet header and VLAN tags */
	__u32 tcp_len;	/* header and payload, from the IP header */
	__u32 tcp_hlen; /* header and options */
	__u64 addr_sum; /* of the pseudo-header */
	__u64 now;	/* ticks */
	__u64 services; /* that it is for */
	bool kernel;	/* which the kernel serves */
	struct tuple tuple;
	__u8 flags;
	const bool v6;
};

static __always_inline __u8 tcp_flags(const struct tcphdr *tcp)
{
	return ((const __u8 *)tcp)[13];
}

static __always_inline __u32 tcp_data_offset(const struct tcphdr *tcp)
{
	return (((const __u8 *)tcp)[12] >> 4) * 4;
}

/* Whether this may be the first byte of a VLAN tag's protocol: it is for 0x8100 (802.1Q) and 0x88a8
 * (802.1ad), and is not for 0x0800 (IPv4) and 0x86dd (IPv6). 0 or 1. */
static __always_inline __u32 maybe_vlan(__u8 first)
{
	return first >> 7 & ~(first >> 1) & 1;
}

static __always_inline bool is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/*
 * The length of the Ethernet header with up to two VLAN tags, and the protocol behind it: 0 if that
 * is none of ours. The frame is known to be long enough for two tags.
 */
static __always_inline __u32 link_header(const struct ethhdr *eth, __be16 *proto)
{
	/* In halfwords, because struct ethhdr is packed and clang would load it by bytes: the
	 * protocol, then tag control and protocol, twice. */
	const __be16 *p = (const __be16 *)eth + ETH_ALEN;
	__u32 one = maybe_vlan(*(const __u8 *)p);
	__u32 two = one & maybe_vlan(*(const __u8 *)(p + 2));
	__u32 len = ETH_HLEN + VLAN_TAG * (one + two);

	/* From here on neither clang nor the verifier connects len with the branches below. */
	asm volatile("" : "+r"(len));
	*proto = p[0];
	if (one) {
		*proto = two ? p[4] : p[2];
		if (!is_vlan(p[0]) || (two && !is_vlan(p[2])))
			*proto = 0;
	}
	return len;
}

static __always_inline bool for_us(const struct ethhdr *eth)
{
	const __u16 *d = (const __u16 *)eth;

	return d[0] == cfg_mac[0] && d[1] == cfg_mac[1] && d[2] == cfg_mac[2];
}

/* An address that no answer can reach: RFC 1122, 3.2.1.3; RFC 6890. */
static __always_inline bool bad_source4(const struct iphdr *ip)
{
	__u8 first = *(const __u8 *)&ip->saddr;

	return first == 0 || first == 127 || first >= 224;
}

/* Multicast, unspecified, loopback, IPv4-mapped: RFC 4291, 2.7, 2.5.2, 2.5.3, 2.5.5.2 */
static __always_inline bool bad_source6(const struct ipv6hdr *ip)
{
	const __be32 *s = ip->saddr.in6_u.u6_addr32;

	if ((s[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return true;
	if (!s[0] && !s[1] && !s[2] && (!s[3] || s[3] == bpf_htonl(1)))
		return true;
	return !s[0] && !s[1] && s[2] == bpf_htonl(0xffff);
}

static __always_inline bool land6(const struct ipv6hdr *ip)
{
	const __be32 *s = ip->saddr.in6_u.u6_addr32, *d = ip->daddr.in6_u.u6_addr32;

	return s[0] == d[0] && s[1] == d[1] && s[2] == d[2] && s[3] == d[3];
}

/* IPv4 options (RFC 791, 3.1), walked like those of TCP. */
enum ip4_option {
	IP4_OPT_END = 0,
	IP4_OPT_NOP = 1,
	IP4_OPT_LOOSE_ROUTE = 131,
	IP4_OPT_STRICT_ROUTE = 137,
};

struct ip4_walk {
	__u8 bytes[64]; /* zeros (END) behind the last option */
	__u32 at, len;
	enum reason why;
};

static long ip4_option_step(__u32 i __attribute__((unused)), void *ctx)
{
	struct ip4_walk *w = ctx;
	__u32 at = w->at & 63;
	__u8 kind = w->bytes[at], len;

	if (at >= w->len || kind == IP4_OPT_END)
		return 1;
	if (kind == IP4_OPT_NOP) {
		w->at = at + 1;
		return 0;
	}
	len = w->bytes[(at + 1) & 63];
	if (len < 2 || at + len > w->len) {
		w->why = PASS_BAD_IP;
		return 1;
	}
	if (kind == IP4_OPT_LOOSE_ROUTE || kind == IP4_OPT_STRICT_ROUTE) {
		w->why = PASS_IP_OPTIONS;
		return 1;
	}
	w->at = at + len;
	return 0;
}

/*
 * Judges the options of an IPv4 header, whose first 5 words sum up to sum. 0, or why the packet is
 * left to the kernel: a source-routed one may not have arrived yet, and is a matter of its sysctls.
 */
static __noinline int ip4_options(struct xdp_md *ctx, __u32 offset, __u32 len, __u64 sum)
{
	struct ip4_walk w = { .len = len };
	const __be32 *word = (const __be32 *)w.bytes;

	/* As in walk_options: this is how 6.1 learns the bounds. */
	len = (len - 1) & 63;
	asm volatile("" : "+r"(len));
	if (len >= IP4_OPTIONS_MAX || bpf_xdp_load_bytes(ctx, offset, w.bytes, len + 1))
		return PASS_BAD_IP;
	if (csum_fold(sum + csum_words(word, IP4_OPTIONS_MAX / 4)) != 0xffff)
		return PASS_BAD_IP;
	bpf_loop(IP4_OPTIONS_MAX, ip4_option_step, &w, 0);
	return w.why;
}

/* IPv6 extension headers (RFC 8200, 4). */
enum ip6_extension {
	IP6_HOP_BY_HOP = 0,
	IP6_ROUTING = 43,
	IP6_FRAGMENT = 44,
	IP6_DESTINATION = 60,
};

#define IP6_EXTENSIONS_MAX 6   /* more of them than any honest packet has */
#define IP6_OFFSET_MAX	   511 /* bytes of them that are walked, and the IPv6 header */

struct ip6_walk {
	struct xdp_md *ctx;
	__u32 start, at; /* offsets in the frame: of the IPv6 header, of the next header */
	__u32 why;	 /* PASS_NOT_TCP until TCP is found */
	__u8 next;
	bool found;
};

static __always_inline bool is_extension(__u32 next)
{
	return next == IP6_HOP_BY_HOP || next == IP6_ROUTING || next == IP6_FRAGMENT ||
	       next == IP6_DESTINATION;
}

static long ip6_extension_step(__u32 i __attribute__((unused)), void *ctx)
{
	struct ip6_walk *w = ctx;
	__u8 head[4]; /* next header, length, routing type, segments left */

	if (w->next == IPPROTO_TCP) {
		w->found = true;
		return 1;
	}
	if (w->next == IP6_FRAGMENT) {
		w->why = PASS_FRAGMENT;
		return 1;
	}
	if (!is_extension(w->next))
		return 1;
	if (bpf_xdp_load_bytes(w->ctx, w->at, head, sizeof(head))) {
		w->why = PASS_BAD_IP;
		return 1;
	}
	if (w->next == IP6_ROUTING && head[3]) {
		w->why = PASS_IP_OPTIONS;
		return 1;
	}
	w->next = head[0];
	w->at += (head[1] + 1) * 8;
	return 0;
}

/* Walks extension headers from the one at offset; how far TCP is behind the start of the IPv6
 * header, or minus the reason for leaving the packet to the kernel. */
static __noinline int ip6_extensions(struct xdp_md *ctx, __u32 start, __u32 next)
{
	struct ip6_walk w = {
		.ctx = ctx,
		.start = start,
		.at = start + sizeof(struct ipv6hdr),
		.why = PASS_NOT_TCP,
		.next = next,
	};

	bpf_loop(IP6_EXTENSIONS_MAX + 1, ip6_extension_step, &w, 0);
	if (!w.found)
		return -(int)w.why;
	return w.at - start;
}

#endif
