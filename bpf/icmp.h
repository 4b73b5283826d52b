/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors: those that quote a packet of one of our flows go to the engine, which checks them
 * further (RFC 5927). Anybody can send them, so all that is decided here is whose they are.
 */
#ifndef XDPTCP_ICMP_H
#define XDPTCP_ICMP_H

#include "types.h"
#include "parse.h"
#include "flows.h"

#define ICMP_HEADER 8 /* RFC 792; RFC 4443, 2.1 */

/* RFC 792: destination unreachable, time exceeded, parameter problem */
static __always_inline bool icmp4_error(__u8 type)
{
	return type == 3 || type == 11 || type == 12;
}

/* RFC 4443: destination unreachable, packet too big, time exceeded, parameter problem */
static __always_inline bool icmp6_error(__u8 type)
{
	return type >= 1 && type <= 4;
}

/* An IPv4 header of the right version, and not shorter than one is. */
static __always_inline bool is_ip4(const struct iphdr *ip)
{
	__u8 first = *(const __u8 *)ip;

	return first >= 0x45 && first <= 0x4f;
}

static __always_inline enum xdp_action quoted(struct xdp_md *ctx, struct ethhdr *eth,
					      const struct tuple *t)
{
	const struct control *c = control_block();

	if (!for_us(eth) || !c || !find_flow(c, t) || now_ticks() > c->lease)
		return pass(PASS_NOT_TCP);
	return to_engine(ctx, REDIRECT_ICMP);
}

/* What is quoted went from us to the client: its source is the flow's local end. */
static __always_inline enum xdp_action icmp4(struct xdp_md *ctx, struct ethhdr *eth,
					     struct iphdr *ip, void *end)
{
	__u8 *icmp = (void *)ip + (*(__u8 *)ip & 15) * 4;
	struct tuple t = { .v6 = 0 };
	struct iphdr *inner;
	__be16 *ports;

	if (!is_ip4(ip) || ip->frag_off & bpf_htons(IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET))
		return pass(PASS_NOT_TCP);
	inner = (void *)icmp + ICMP_HEADER;
	if ((void *)(inner + 1) > end || !icmp4_error(icmp[0]) || !is_ip4(inner) ||
	    inner->protocol != IPPROTO_TCP)
		return pass(PASS_NOT_TCP);
	ports = (void *)inner + (*(__u8 *)inner & 15) * 4;
	if ((void *)(ports + 4) > end)
		return pass(PASS_NOT_TCP);
	t.word[0] = join(inner->daddr, inner->saddr);
	t.ports = join16(ports[1], ports[0]);
	return quoted(ctx, eth, &t);
}

/* Quoted extension headers are not looked behind: we don't send any. */
static __always_inline enum xdp_action icmp6(struct xdp_md *ctx, struct ethhdr *eth,
					     struct ipv6hdr *ip, void *end)
{
	__u8 *icmp = (void *)(ip + 1);
	struct ipv6hdr *inner = (void *)icmp + ICMP_HEADER;
	__be16 *ports = (void *)(inner + 1);
	struct tuple t = { .v6 = 1 };

	if (ip->version != 6 || (void *)(ports + 4) > end || !icmp6_error(icmp[0]) ||
	    inner->version != 6 || inner->nexthdr != IPPROTO_TCP)
		return pass(PASS_NOT_TCP);
	__builtin_memcpy(&t.word[0], &inner->daddr, sizeof(inner->daddr));
	__builtin_memcpy(&t.word[2], &inner->saddr, sizeof(inner->saddr));
	t.ports = join16(ports[1], ports[0]);
	return quoted(ctx, eth, &t);
}

#endif
