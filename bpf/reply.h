/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Replies, built in the frame that they answer: the SYN/ACK, and the RST. Options are written from
 * scratch: nothing that the client sent comes back but its timestamp, so unknown kinds (MPTCP, SMC,
 * fast open) are declined by silence. A reply is never longer than the SYN plus what these options
 * need, and it carries no data. VLAN tags stay, IP options and extension headers don't.
 */
#ifndef XDPTCP_REPLY_H
#define XDPTCP_REPLY_H

#include "types.h"
#include "parse.h"
#include "limits.h"
#include "stats.h"

#define REPLY_TTL     64
#define ETH_FRAME_MIN 60 /* without FCS; a padded SYN stays padded */
#define REPLY_WORDS   5	 /* MSS, SACK + timestamps (3), window scale */

struct reply {
	__u32 seq;
	__u32 ack;
	__be32 option[REPLY_WORDS];
	__u32 options; /* how many words of it */
	__u32 flags;
	__u16 window;
	enum reason why;
};

static __always_inline void reply_options(struct reply *r, const struct options *o, __u16 mss,
					  __u8 wscale, __u32 tsval)
{
	bool sack = o->flags & HS_SACK;
	__u32 n = 0;

	if ((o->flags & (HS_SACK | HS_TIMESTAMPS | HS_WSCALE)) ==
	    (HS_SACK | HS_TIMESTAMPS | HS_WSCALE)) { /* nearly always: no index to compute */
		r->option[0] = WORD_MSS(mss);
		r->option[1] = WORD_SACK_TS;
		r->option[2] = bpf_htonl(tsval);
		r->option[3] = o->tsval;
		r->option[4] = WORD_WSCALE(wscale);
		r->options = 5;
		return;
	}
	r->option[n++] = WORD_MSS(mss);
	if (o->flags & HS_TIMESTAMPS) {
		r->option[n++] = sack ? WORD_SACK_TS : WORD_NOP_TS;
		r->option[n++] = bpf_htonl(tsval);
		r->option[n++] = o->tsval;
	} else if (sack) {
		r->option[n++] = WORD_NOP_SACK;
	}
	if (o->flags & HS_WSCALE)
		r->option[n++] = WORD_WSCALE(wscale);
	r->options = n;
}

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u16 *half = (__u16 *)eth;

#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u16 dest = half[i];

		half[i] = half[3 + i];
		half[3 + i] = dest;
	}
}

/* RFC 791, 3.1. Every field is written: what stood there was the client's. */
static __always_inline void reply_ip4(struct iphdr *ip, __u16 tcp_len, __u64 addr_sum)
{
	__be32 *word = (__be32 *)ip;
	__be32 source = ip->daddr;

	word[0] = bpf_htonl(0x45000000 | (sizeof(*ip) + tcp_len));
	word[1] = bpf_htonl(IP4_DONT_FRAGMENT);
	word[2] = bpf_htonl(REPLY_TTL << 24 | IPPROTO_TCP << 16);
	ip->daddr = ip->saddr;
	ip->saddr = source;
	ip->check = ~csum_fold(addr_sum + word[0] + word[1] + word[2]);
}

/* RFC 8200, 3 */
static __always_inline void reply_ip6(struct ipv6hdr *ip, __u16 tcp_len)
{
	struct in6_addr source = ip->daddr;

	*(__be32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(tcp_len);
	ip->nexthdr = IPPROTO_TCP;
	ip->hop_limit = REPLY_TTL;
	ip->daddr = ip->saddr;
	ip->saddr = source;
}

/* Room for the question to the routing table, struct bpf_fib_lookup (whose unions have no Go side):
 * the stack has none to spare. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__uint(value_size, sizeof(struct bpf_fib_lookup));
} routes SEC(".maps");

/*
 * Asks the routing table for the way to the segment's source; NULL if there is none. It must be
 * enabled to forward on this interface, or the helper refuses. The engine's sockets are bound to
 * this interface, so its services have no other.
 */
static __always_inline struct bpf_fib_lookup *find_route(struct xdp_md *ctx,
							 const struct segment *s)
{
	__u32 zero = 0;
	struct bpf_fib_lookup *fib = bpf_map_lookup_elem(&routes, &zero);

	if (!fib)
		return NULL;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = ctx->ingress_ifindex;
	fib->l4_protocol = IPPROTO_TCP;
	if (s->v6) {
		fib->family = 10; /* AF_INET6 */
		__builtin_memcpy(fib->ipv6_src, &s->ip6->daddr, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, &s->ip6->saddr, sizeof(fib->ipv6_dst));
	} else {
		fib->family = 2; /* AF_INET */
		fib->ipv4_src = s->ip4->daddr;
		fib->ipv4_dst = s->ip4->saddr;
	}
	if (bpf_fib_lookup(ctx, fib, sizeof(*fib), 0))
		return NULL;
	return fib->ifindex == ctx->ingress_ifindex || s->kernel ? fib : NULL;
}

/* The engine answers to the MAC address that a frame came from: make that the next hop's. */
static __always_inline bool come_from_route(struct xdp_md *ctx, const struct segment *s)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	const struct bpf_fib_lookup *fib = find_route(ctx, s);

	if (!fib || (void *)(eth + 1) > (void *)(long)ctx->data_end)
		return false;
	__builtin_memcpy(eth->h_source, fib->dmac, ETH_ALEN);
	return true;
}

static __always_inline enum xdp_action send_reply(struct xdp_md *ctx, const struct segment *s,
						  const struct reply *r)
{
	const __u32 l3 = s->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 tcp_len = sizeof(struct tcphdr) + r->options * 4;
	__u32 len = s->link_len + l3 + tcp_len;
	__u32 old = ctx->data_end - ctx->data;
	__u32 least = old < ETH_FRAME_MIN ? old : ETH_FRAME_MIN;
	const struct bpf_fib_lookup *fib = NULL;
	struct ethhdr *eth;
	void *ip, *end;
	__be32 *word;
	__u64 sum;

	if (replied_enough(s))
		return drop(DROP_REPLY_CAP);
	if (cfg_reply_fib) {
		fib = find_route(ctx, s);
		if (!fib)
			return drop(DROP_NO_ROUTE);
	}
	if (len < least)
		len = least;
	if (len != old && bpf_xdp_adjust_tail(ctx, (int)len - (int)old))
		return drop(DROP_NO_ROOM);
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = (void *)eth + s->link_len;
	/* The verifier needs both checks; without the barrier clang drops the one that the other
	 * implies. */
	asm volatile("" : "+r"(ip));
	word = ip + l3;
	if ((void *)(eth + 1) > end || (void *)(word + 5) > end)
		return drop(DROP_NO_ROOM);

	if (fib) {
		__builtin_memcpy(eth->h_dest, fib->dmac, ETH_ALEN);
		__builtin_memcpy(eth->h_source, fib->smac, ETH_ALEN);
	} else {
		swap_macs(eth);
	}
	if (s->v6)
		reply_ip6(ip, tcp_len);
	else
		reply_ip4(ip, tcp_len, s->addr_sum);

	word[0] = s->tuple.ports >> 16 | s->tuple.ports << 16; /* swapped */
	word[1] = bpf_htonl(r->seq);
	word[2] = bpf_htonl(r->ack);
	word[3] = bpf_htonl(tcp_len << 26 | r->flags << 16 | r->window);
	sum = s->addr_sum + csum_pseudo(tcp_len) + csum_words(word, 4);
	if (r->options == REPLY_WORDS && (void *)(word + 10) <= end) { /* nearly always */
#pragma unroll
		for (__u32 i = 0; i < REPLY_WORDS; i++)
			word[5 + i] = r->option[i];
		sum += csum_words(r->option, REPLY_WORDS);
	} else {
#pragma unroll
		for (__u32 i = 0; i < REPLY_WORDS - 1; i++) {
			if (i >= r->options)
				break;
			if ((void *)(word + 6 + i) > end)
				return drop(DROP_NO_ROOM);
			word[5 + i] = r->option[i];
			sum += r->option[i];
		}
	}
	word[4] = 0; /* urgent pointer; checksum */
	((struct tcphdr *)word)->check = ~csum_fold(sum);
	if (fib && fib->ifindex != ctx->ingress_ifindex) {
		count(r->why == TX_SYNACK ? REDIRECT_SYNACK : r->why, XDP_TX);
		return bpf_redirect(fib->ifindex, 0);
	}
	return count(r->why, XDP_TX);
}

#endif
