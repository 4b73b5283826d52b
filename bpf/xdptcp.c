//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * xdptcp's XDP program: answers SYNs with cookies, opens a flow for a valid final ACK, hands the
 * segments of flows to user space, and lets everything else go to the kernel untouched.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "types.h"
#include "config.h"
#include "stats.h"
#include "checksum.h"
#include "options.h"
#include "cookie.h"
#include "parse.h"
#include "limits.h"
#include "flows.h"
#include "reply.h"
#include "icmp.h"
#include "kernel.h"

/* bpf2go exports a type only if something in the object refers to it. */
const enum reason *export_reason __attribute__((unused));
const enum handshake_flags *export_flags __attribute__((unused));
const enum listed *export_listed __attribute__((unused));

/*
 * The options of a SYN. Nearly all SYNs of a flood and of Linux and Android look the same: MSS,
 * SACK permitted, timestamps, NOP, window scale.
 */
static __always_inline bool syn_options(struct xdp_md *ctx, const struct segment *s,
					struct options *o)
{
	const __be32 *w = (const __be32 *)(s->tcp + 1);

	if (s->tcp_hlen == 40 && (const void *)(w + 5) <= s->end &&
	    (w[0] & bpf_htonl(0xffff0000)) == WORD(OPT_MSS, 4, 0, 0) && w[1] == WORD_SACK_TS &&
	    (w[4] & bpf_htonl(0xffffff00)) == WORD_WSCALE(0)) {
		__u32 wscale = bpf_ntohl(w[4]) & 0xff;

		o->mss = bpf_ntohl(w[0]) & 0xffff;
		o->tsval = w[2];
		o->tsecr = w[3];
		o->wscale = wscale < WSCALE_MAX ? wscale : WSCALE_MAX;
		o->flags = HS_SACK | HS_TIMESTAMPS | HS_WSCALE;
		return true;
	}
	return !walk_options(ctx, (void *)w - (void *)(long)ctx->data,
			     s->tcp_hlen - sizeof(struct tcphdr), o);
}

/* The options of a segment that is not a SYN: nothing, or NOP NOP timestamps, or else. */
static __always_inline bool ack_options(struct xdp_md *ctx, const struct segment *s,
					struct options *o)
{
	const __be32 *w = (const __be32 *)(s->tcp + 1);

	if (s->tcp_hlen == 20)
		return true;
	if (s->tcp_hlen == 32 && (const void *)(w + 3) <= s->end && w[0] == WORD_NOP_TS) {
		o->tsval = w[1];
		o->tsecr = w[2];
		o->flags = HS_TIMESTAMPS;
		return true;
	}
	return !walk_options(ctx, (void *)w - (void *)(long)ctx->data,
			     s->tcp_hlen - sizeof(struct tcphdr), o);
}

/*
 * The TCP checksum of a segment without payload. One with payload is not summed here: the engine
 * does that when it reads the data anyway, and a corrupted SYN's answer helps nobody to a
 * connection, since the final ACK must still match the cookie.
 */
static __always_inline bool checksum_ok(const struct segment *s)
{
	const __be32 *w = (const __be32 *)s->tcp;
	__u64 pseudo = s->addr_sum + csum_pseudo(s->tcp_len);
	__u64 sum;

	if (s->tcp_len != s->tcp_hlen)
		return true;
	sum = pseudo + csum_words(w, 5);
	if (s->tcp_hlen == 40 && (const void *)(w + 10) <= s->end) { /* nearly all SYNs */
		sum += csum_words(w + 5, 5);
	} else if (s->tcp_hlen != 20) {
#pragma unroll
		for (__u32 i = 5; i < 15; i++)
			if (i * 4 < s->tcp_hlen && (const void *)(w + i + 1) <= s->end)
				sum += w[i];
	}
	if (csum_fold(sum) == 0xffff)
		return true;
	return cfg_partial_checksums && s->tcp->check == csum_fold(pseudo);
}

/* Why a source gets no answer, whatever it sent; 0 if it may. */
static __always_inline enum reason unwelcome(const struct segment *s)
{
	if (s->v6 ? bad_source6(s->ip6) : bad_source4(s->ip4))
		return DROP_BAD_SOURCE;
	if (s->v6 ? land6(s->ip6) : s->ip4->saddr == s->ip4->daddr)
		return DROP_LAND;
	return denied(s) ? DROP_DENIED : 0;
}

/*
 * The clock of a service's timestamps: ticks, or where the kernel goes on with them its
 * milliseconds. On one clock they grow over all connections of the same ports: see cookie.h.
 */
static __always_inline __u32 timestamp_clock(const struct cookie_keys *k, const struct segment *s)
{
	if (s->kernel)
		return (bpf_ktime_get_coarse_ns() + (k->clock << TICK_SHIFT)) / 1000000;
	return s->now + k->clock;
}

/*
 * An ECN-setup SYN (RFC 3168, 6.1.1). Its IP header must say that it knows nothing of ECN: a path
 * that rewrites these bits is none to use them on.
 */
static __always_inline bool offers_ecn(const struct segment *s)
{
	const __u8 ecn = TCP_ECE | TCP_CWR;
	__u8 codepoint = s->v6 ? s->ip6->flow_lbl[0] >> 4 : s->ip4->tos;

	return (s->flags & ecn) == ecn && !(codepoint & IP_ECN);
}

static __always_inline enum xdp_action answer_syn(struct xdp_md *ctx, const struct segment *s)
{
	struct reply r = { .ack = bpf_ntohl(s->tcp->seq) + 1, .why = TX_SYNACK };
	enum reason why = unwelcome(s);
	const struct cookie_keys *k;
	struct options o = {};
	__u32 tsval = 0;

	if (why)
		return drop(why);
	if (!checksum_ok(s))
		return drop(DROP_BAD_CHECKSUM);
	if (!syn_options(ctx, s, &o))
		return drop(DROP_BAD_TCP);
	if (offers_ecn(s))
		o.flags |= HS_ECN;
	if (s->kernel)
		o.flags &= cfg_kernel_options;
	if (!o.mss)
		o.mss = s->v6 ? MSS_DEFAULT6 : MSS_DEFAULT4;
	k = cookie_keys();
	if (!k)
		return drop(DROP_EXPIRED_KEY);
	r.seq = cookie_make(k, &s->tuple, s->tcp->seq, timestamp_clock(k, s), &o, &tsval);
	r.flags = TCP_SYN | TCP_ACK | (o.flags & HS_ECN ? TCP_ECE : 0);
	r.window = cfg_window;
	reply_options(&r, &o, s->v6 ? cfg_mss6 : cfg_mss4,
		      s->kernel ? cfg_kernel_wscale : cfg_wscale, tsval);
	return send_reply(ctx, s, &r);
}

/*
 * What a final ACK, or the first data if that was lost, proves: `ack - 1` is the cookie, `seq - 1`
 * the client's ISN. REDIRECT_OPENED and the handshake, or the reason of the refusal.
 */
static __always_inline enum reason final_ack(struct xdp_md *ctx, const struct segment *s,
					     struct handshake *h)
{
	const struct cookie_keys *k = cookie_keys();
	struct options o = {};
	enum reason why;

	if (!k)
		return DROP_EXPIRED_KEY;
	if (!ack_options(ctx, s, &o))
		return DROP_BAD_TCP;
	why = cookie_check(k, &s->tuple, bpf_ntohl(s->tcp->ack_seq) - 1, bpf_ntohl(s->tcp->seq) - 1,
			   timestamp_clock(k, s), &o, h);
	if (why != REDIRECT_OPENED)
		return why;
	if (!checksum_ok(s))
		return DROP_BAD_CHECKSUM;
	if (denied(s))
		return DROP_DENIED;
	if (opened_enough(s))
		return DROP_RATE_LIMITED;
	return REDIRECT_OPENED;
}

/* An ACK that proves nothing. RFC 9293, 3.10.7.1: <SEQ=SEG.ACK><CTL=RST> */
static __always_inline enum xdp_action refuse(struct xdp_md *ctx, const struct segment *s,
					      enum reason why)
{
	if (cfg_reset &&
	    (why == DROP_BAD_COOKIE || why == DROP_BAD_TIMESTAMP || why == DROP_EXPIRED_KEY) &&
	    !unwelcome(s)) {
		struct reply r = { .seq = bpf_ntohl(s->tcp->ack_seq),
				   .flags = TCP_RST,
				   .why = TX_RESET };

		return send_reply(ctx, s, &r);
	}
	return drop(why);
}

/*
 * A segment for one of our services. Those of a connection that exists go to whoever has it; of all
 * others only a SYN and a final ACK can be worth something.
 */
static __always_inline enum xdp_action serve(struct xdp_md *ctx, const struct segment *s,
					     const struct control *c)
{
	bool armed = s->services & c->armed;
	int guard = GUARD_UP;
	__u8 kind = s->flags & (TCP_SYN | TCP_ACK | TCP_RST);
	struct handshake made = {}, *h;
	enum reason why;
	long err;

	if (s->kernel) {
		if (s->link_len >
		    ETH_HLEN + VLAN_TAG) /* the tc program would not see its IP header */
			return pass(PASS_TWO_TAGS);
		if (kernel_has(ctx, s))
			return pass(PASS_KERNEL_FLOW);
		if (!armed)
			return pass(PASS_DISARMED);
		if (cfg_shield)
			guard = shield_guard(s->now, kind == TCP_SYN, s->services & cfg_shield);
	} else {
		h = find_flow(c, &s->tuple);
		if (cfg_reply_fib && h &&
		    (kind == TCP_SYN || bpf_ntohl(s->tcp->ack_seq) == h->iss + 1) &&
		    !come_from_route(ctx, s))
			return drop(DROP_NO_ROUTE);
		if (h && kind == TCP_SYN)
			return to_engine(ctx, REDIRECT_SYN);
		if (h)
			return known_flow(ctx, h, bpf_ntohl(s->tcp->ack_seq));
	}
	if (kind == TCP_SYN) {
		if (!armed)
			return pass(PASS_DISARMED);
		if (guard == GUARD_DOWN)
			return denied(s) ? drop(DROP_DENIED) : pass(PASS_PEACE);
		return answer_syn(ctx, s);
	}
	why = kind == TCP_ACK ? final_ack(ctx, s, &made) : DROP_NO_FLOW;
	if (why != REDIRECT_OPENED) {
		if (!armed) /* of a connection whose SYN was the kernel's */
			return pass(PASS_DISARMED);
		/* the kernel's own cookies may be on their way back */
		return guard == GUARD_UP ? refuse(ctx, s, why) : pass(PASS_PEACE);
	}
	if (s->kernel)
		return attach_record(ctx, &made) ? pass(PASS_HANDED_OVER) : drop(DROP_NO_ROOM);
	if (cfg_reply_fib && !come_from_route(ctx, s))
		return drop(DROP_NO_ROUTE);
	/* Recorded before the next packet can arrive: a first flight may be ten segments. */
	err = add_flow(c, &s->tuple, &made);
	if (err && err != -EEXIST) /* it does exist if another CPU was faster: as good */
		return drop(DROP_TABLE_FULL);
	return to_engine_with(ctx, &made, REDIRECT_OPENED);
}

/* A segment for one of our services, if anybody is there to serve it. */
static __always_inline enum xdp_action ours(struct xdp_md *ctx, struct segment *s)
{
	const struct control *c = control_block();

	s->now = now_ticks();
	if (!c || (s->now > c->lease && !(s->services & cfg_outlive)))
		return pass(PASS_NO_LEASE);
	s->kernel = s->services & cfg_kernel;
	s->flags = tcp_flags(s->tcp);
	s->tcp_hlen = tcp_data_offset(s->tcp);
	if (s->tcp_hlen < sizeof(struct tcphdr) || s->tcp_hlen > s->tcp_len)
		return drop(DROP_BAD_TCP);
	if (s->flags & TCP_SYN ? s->flags & (TCP_FIN | TCP_RST) : !(s->flags & (TCP_ACK | TCP_RST)))
		return drop(DROP_BAD_FLAGS);
	return serve(ctx, s, c);
}

static __always_inline enum xdp_action ingress4(struct xdp_md *ctx, struct ethhdr *eth,
						__u32 link_len, void *end)
{
	struct segment s = { .v6 = false, .end = end, .link_len = link_len };
	struct iphdr *ip = (void *)eth + link_len;
	__u32 ip_len, total, ip_hlen;
	__u64 sum;

	if ((void *)(ip + 1) > end)
		return pass(PASS_BAD_IP);
	if (ip->protocol != IPPROTO_TCP) {
		if (ip->protocol == IPPROTO_ICMP)
			return icmp4(ctx, eth, ip, end);
		return pass(PASS_NOT_TCP);
	}
	if (ip->frag_off & bpf_htons(IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET))
		return pass(PASS_FRAGMENT);
	ip_hlen = (*(__u8 *)ip & 15) * 4;
	s.tcp = (void *)ip + ip_hlen;
	if (ip_hlen < sizeof(*ip) || ip->version != 4 || (void *)(s.tcp + 1) > end)
		return pass(PASS_BAD_IP);
	s.services = services_on_port(s.tcp->dest);
	if (!s.services)
		return pass(PASS_NO_SERVICE);
	if (!for_us(eth))
		return pass(PASS_OTHER_HOST);
	s.services &= services_on_addr4(ip->daddr);
	if (!s.services)
		return pass(PASS_NOT_LOCAL);

	ip_len = bpf_ntohs(ip->tot_len);
	total = end - (void *)ip;
	if (ip_len > total || ip_len < ip_hlen + sizeof(struct tcphdr))
		return pass(PASS_BAD_IP);
	sum = csum_words((__be32 *)ip, 5);
	if (ip_hlen > sizeof(*ip)) {
		int why = ip4_options(ctx, link_len + sizeof(*ip), ip_hlen - sizeof(*ip), sum);

		if (why)
			return pass(why);
	} else if (csum_fold(sum) != 0xffff) {
		return pass(PASS_BAD_IP);
	}

	s.ip4 = ip;
	s.tcp_len = ip_len - ip_hlen;
	s.addr_sum = (__u64)ip->saddr + ip->daddr;
	s.tuple.v6 = 0;
	s.tuple.word[0] = join(ip->saddr, ip->daddr);
	s.tuple.ports = *(__u32 *)s.tcp;
	return ours(ctx, &s);
}

static __always_inline enum xdp_action ingress6(struct xdp_md *ctx, struct ethhdr *eth,
						__u32 link_len, void *end)
{
	struct segment s = { .v6 = true, .end = end, .link_len = link_len };
	struct ipv6hdr *ip = (void *)eth + link_len;
	__u32 ip_len, headers = sizeof(*ip);

	if ((void *)(ip + 1) > end)
		return pass(PASS_BAD_IP);
	if (ip->nexthdr != IPPROTO_TCP) {
		int found;

		if (ip->nexthdr == IPPROTO_ICMPV6)
			return icmp6(ctx, eth, ip, end);
		if (!is_extension(ip->nexthdr))
			return pass(PASS_NOT_TCP);
		found = ip6_extensions(ctx, link_len, ip->nexthdr);
		if (found <= 0)
			return pass(-found);
		if (found > IP6_OFFSET_MAX)
			return pass(PASS_NOT_TCP);
		headers = found & IP6_OFFSET_MAX;
	}
	s.tcp = (void *)ip + headers;
	if ((void *)(s.tcp + 1) > end)
		return pass(PASS_BAD_IP);
	s.services = services_on_port(s.tcp->dest);
	if (!s.services)
		return pass(PASS_NO_SERVICE);
	if (!for_us(eth))
		return pass(PASS_OTHER_HOST);
	s.services &= services_on_addr6(ip->daddr.in6_u.u6_addr32);
	if (!s.services)
		return pass(PASS_NOT_LOCAL);

	ip_len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (ip_len > (__u32)(end - (void *)ip) || ip_len < headers + sizeof(struct tcphdr) ||
	    ip->version != 6)
		return pass(PASS_BAD_IP);

	s.ip6 = ip;
	s.tcp_len = ip_len - headers;
	s.addr_sum = csum_words(ip->saddr.in6_u.u6_addr32, 8);
	s.tuple.v6 = 1;
	__builtin_memcpy(s.tuple.word, &ip->saddr, sizeof(s.tuple.word));
	s.tuple.ports = *(__u32 *)s.tcp;
	return ours(ctx, &s);
}

SEC("xdp")
int xdptcp(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 link_len;
	__be16 proto;

	if ((void *)(eth + 1) + 2 * VLAN_TAG > end)
		return pass(PASS_NOT_TCP);
	link_len = link_header(eth, &proto);
	switch (proto) {
	case bpf_htons(ETH_P_IP):
		return ingress4(ctx, eth, link_len, end);
	case bpf_htons(ETH_P_IPV6):
		return ingress6(ctx, eth, link_len, end);
	default:
		return pass(PASS_NOT_TCP);
	}
}

char _license[] SEC("license") = "Dual BSD/GPL";
