/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the headers are. Lengths come from the IP header, never from the frame, which may be padded
 * or carry a trailer. What can't be ours is let go as early as possible.
 */
#ifndef XDPTCP_PARSE_H
#define XDPTCP_PARSE_H

#include "types.h"
#include "checksum.h"
#include "config.h"
#include "cookie.h"

#define IP4_MORE_FRAGMENTS  0x2000
#define IP4_FRAGMENT_OFFSET 0x1fff
#define IP4_DONT_FRAGMENT   0x4000

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_PSH = 0x08,
	TCP_ACK = 0x10,
};

struct segment {
	struct ethhdr *eth;
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	struct tcphdr *tcp;
	void *end;	/* of the packet in memory, for the verifier */
	__u32 tcp_len;	/* header and payload, from the IP header */
	__u32 tcp_hlen; /* header and options */
	__u64 addr_sum; /* of the pseudo-header */
	struct tuple tuple;
	const void *key; /* struct flow4 or flow6 */
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

/* By bytes: wider loads, for which cfg_mac would have to be aligned, were not faster. */
static __always_inline bool for_us(const struct ethhdr *eth)
{
	const __u8 *d = eth->h_dest;

	return d[0] == cfg_mac[0] && d[1] == cfg_mac[1] && d[2] == cfg_mac[2] &&
	       d[3] == cfg_mac[3] && d[4] == cfg_mac[4] && d[5] == cfg_mac[5];
}

/* An address that no answer can reach: RFC 1122, 3.2.1.3; RFC 6890. */
static __always_inline bool bad_source4(const struct iphdr *ip)
{
	__u8 first = bpf_ntohl(ip->saddr) >> 24;

	return first == 0 || first == 127 || first >= 224 || ip->saddr == ip->daddr;
}

/* Multicast, unspecified, loopback, IPv4-mapped: RFC 4291, 2.7, 2.5.2, 2.5.3, 2.5.5.2 */
static __always_inline bool bad_source6(const struct ipv6hdr *ip)
{
	const __be32 *s = ip->saddr.in6_u.u6_addr32, *d = ip->daddr.in6_u.u6_addr32;

	if ((s[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return true;
	if (!s[0] && !s[1] && !s[2] && (!s[3] || s[3] == bpf_htonl(1)))
		return true;
	if (!s[0] && !s[1] && s[2] == bpf_htonl(0xffff))
		return true;
	return s[0] == d[0] && s[1] == d[1] && s[2] == d[2] && s[3] == d[3];
}

#endif
