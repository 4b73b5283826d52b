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
#include "flows.h"
#include "parse.h"
#include "reply.h"

/* bpf2go exports a type only if something in the object refers to it. */
const enum reason *export_reason __attribute__((unused));
const enum handshake_flags *export_flags __attribute__((unused));

static __always_inline struct handshake *find_flow(const struct segment *s)
{
	if (s->v6)
		return bpf_map_lookup_elem(&flows6, s->key);
	return bpf_map_lookup_elem(&flows4, s->key);
}

static __always_inline long add_flow(const struct segment *s, const struct handshake *h)
{
	if (s->v6)
		return bpf_map_update_elem(&flows6, s->key, h, BPF_NOEXIST);
	return bpf_map_update_elem(&flows4, s->key, h, BPF_NOEXIST);
}

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
#pragma unroll
	for (__u32 i = 5; i < 15; i++)
		if (i * 4 < s->tcp_hlen && (const void *)(w + i + 1) <= s->end)
			sum += w[i];
	if (csum_fold(sum) == 0xffff)
		return true;
	return cfg_partial_checksums && s->tcp->check == csum_fold(pseudo);
}

static __always_inline enum xdp_action answer_syn(struct xdp_md *ctx, const struct segment *s)
{
	struct options o = {};
	struct cookie_keys *k;
	struct reply r;
	__u32 tsval = 0;

	if (s->v6 ? bad_source6(s->ip6) : bad_source4(s->ip4))
		return drop(DROP_BAD_SOURCE);
	if (!checksum_ok(s))
		return drop(DROP_BAD_CHECKSUM);
	if (!syn_options(ctx, s, &o))
		return drop(DROP_BAD_TCP);
	if (!o.mss)
		o.mss = s->v6 ? MSS_DEFAULT6 : MSS_DEFAULT4;
	k = cookie_keys();
	if (!k)
		return drop(DROP_EXPIRED_KEY);
	r.irs = s->tcp->seq;
	r.iss = cookie_make(k, &s->tuple, r.irs, &o, &tsval);
	reply_options(&r, &o, s->v6 ? cfg_mss6 : cfg_mss4, tsval);
	return send_reply(ctx, s, &r);
}

/* A final ACK, or the first data if that was lost: `ack - 1` is the cookie, `seq - 1` the client's
 * ISN. The flow is recorded before the next packet can arrive: a first flight may be ten segments.
 */
static __always_inline enum xdp_action open_flow(struct xdp_md *ctx, const struct segment *s)
{
	struct handshake h = {};
	struct options o = {};
	struct cookie_keys *k;
	enum reason why;
	long err;

	if (!ack_options(ctx, s, &o))
		return drop(DROP_BAD_TCP);
	k = cookie_keys();
	if (!k)
		return drop(DROP_EXPIRED_KEY);
	why = cookie_check(k, &s->tuple, bpf_ntohl(s->tcp->ack_seq) - 1, bpf_ntohl(s->tcp->seq) - 1,
			   &o, &h);
	if (why != REDIRECT_OPENED)
		return drop(why);
	if (!checksum_ok(s))
		return drop(DROP_BAD_CHECKSUM);
	err = add_flow(s, &h);
	if (err && err != -EEXIST) /* it does exist if another CPU was faster: as good */
		return drop(DROP_TABLE_FULL);
	return to_engine_with(ctx, &h, REDIRECT_OPENED);
}

/* A segment for one of our services. */
static __always_inline enum xdp_action serve(struct xdp_md *ctx, struct segment *s)
{
	struct handshake *h;

	s->flags = tcp_flags(s->tcp);
	s->tcp_hlen = tcp_data_offset(s->tcp);
	if (s->tcp_hlen < sizeof(struct tcphdr) || s->tcp_hlen > s->tcp_len)
		return drop(DROP_BAD_TCP);
	if (s->flags & TCP_SYN && s->flags & (TCP_FIN | TCP_RST))
		return drop(DROP_BAD_FLAGS);

	h = find_flow(s);
	if (h) {
		if ((s->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			return to_engine(ctx, REDIRECT_SYN);
		return known_flow(ctx, h, bpf_ntohl(s->tcp->ack_seq));
	}
	switch (s->flags & (TCP_SYN | TCP_ACK | TCP_RST)) {
	case TCP_SYN:
		return answer_syn(ctx, s);
	case TCP_ACK:
		return open_flow(ctx, s);
	default:
		return drop(DROP_NO_FLOW);
	}
}

static __always_inline enum xdp_action ingress4(struct xdp_md *ctx, struct ethhdr *eth, void *end)
{
	struct segment s = { .v6 = false, .eth = eth, .end = end };
	struct iphdr *ip = (void *)(eth + 1);
	__u32 ip_len, total;
	struct flow4 key;
	__u64 services;

	if ((void *)(ip + 1) > end)
		return pass(PASS_BAD_IP);
	if (ip->protocol != IPPROTO_TCP)
		return pass(PASS_NOT_TCP);
	if (ip->frag_off & bpf_htons(IP4_MORE_FRAGMENTS | IP4_FRAGMENT_OFFSET))
		return pass(PASS_FRAGMENT);
	if (*(__u8 *)ip != 0x45) /* version 4, 5 words */
		return pass(ip->version == 4 && ip->ihl > 5 ? PASS_IP_OPTIONS : PASS_BAD_IP);
	s.tcp = (void *)(ip + 1);
	if ((void *)(s.tcp + 1) > end)
		return pass(PASS_BAD_IP);
	services = services_on_port(s.tcp->dest);
	if (!services)
		return pass(PASS_NO_SERVICE);
	if (!for_us(eth))
		return pass(PASS_OTHER_HOST);
	if (!(services & services_on_addr4(ip->daddr)))
		return pass(PASS_NOT_LOCAL);

	ip_len = bpf_ntohs(ip->tot_len);
	total = end - (void *)ip;
	if (ip_len > total || ip_len < sizeof(*ip) + sizeof(struct tcphdr) ||
	    csum_fold(csum_words((__be32 *)ip, 5)) != 0xffff)
		return pass(PASS_BAD_IP);

	s.ip4 = ip;
	s.tcp_len = ip_len - sizeof(*ip);
	s.addr_sum = (__u64)ip->saddr + ip->daddr;
	s.tuple.v6 = 0;
	s.tuple.word[0] = join(ip->saddr, ip->daddr);
	s.tuple.ports = *(__u32 *)s.tcp;
	key.remote = ip->saddr;
	key.local = ip->daddr;
	key.remote_port = s.tcp->source;
	key.local_port = s.tcp->dest;
	s.key = &key;
	return serve(ctx, &s);
}

static __always_inline enum xdp_action ingress6(struct xdp_md *ctx, struct ethhdr *eth, void *end)
{
	struct segment s = { .v6 = true, .eth = eth, .end = end };
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct flow6 key;
	__u64 services;
	__u32 ip_len;

	if ((void *)(ip + 1) > end)
		return pass(PASS_BAD_IP);
	if (ip->nexthdr != IPPROTO_TCP)
		return pass(PASS_NOT_TCP);
	s.tcp = (void *)(ip + 1);
	if ((void *)(s.tcp + 1) > end)
		return pass(PASS_BAD_IP);
	services = services_on_port(s.tcp->dest);
	if (!services)
		return pass(PASS_NO_SERVICE);
	if (!for_us(eth))
		return pass(PASS_OTHER_HOST);
	if (!(services & services_on_addr6(ip->daddr.in6_u.u6_addr32)))
		return pass(PASS_NOT_LOCAL);

	ip_len = bpf_ntohs(ip->payload_len);
	if (ip_len > (__u32)(end - (void *)s.tcp) || ip_len < sizeof(struct tcphdr) ||
	    ip->version != 6)
		return pass(PASS_BAD_IP);

	s.ip6 = ip;
	s.tcp_len = ip_len;
	s.addr_sum = csum_words(ip->saddr.in6_u.u6_addr32, 8);
	s.tuple.v6 = 1;
	__builtin_memcpy(s.tuple.word, &ip->saddr, sizeof(s.tuple.word));
	s.tuple.ports = *(__u32 *)s.tcp;
	__builtin_memcpy(key.remote, &ip->saddr, sizeof(key.remote));
	__builtin_memcpy(key.local, &ip->daddr, sizeof(key.local));
	key.remote_port = s.tcp->source;
	key.local_port = s.tcp->dest;
	s.key = &key;
	return serve(ctx, &s);
}

SEC("xdp")
int xdptcp(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > end)
		return pass(PASS_NOT_TCP);
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
		return ingress4(ctx, eth, end);
	case bpf_htons(ETH_P_IPV6):
		return ingress6(ctx, eth, end);
	default:
		return pass(PASS_NOT_TCP);
	}
}

char _license[] SEC("license") = "Dual BSD/GPL";
