/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The SYN/ACK, built in the SYN's own frame. Its options are written from scratch: nothing that the
 * client sent comes back but its timestamp, so unknown kinds (MPTCP, SMC, fast open) are declined
 * by silence. It is never longer than the SYN plus what these options need, and it carries no data.
 */
#ifndef XDPTCP_REPLY_H
#define XDPTCP_REPLY_H

#include "types.h"
#include "parse.h"

#define REPLY_TTL     64
#define ETH_FRAME_MIN 60 /* without FCS; a padded SYN stays padded */
#define REPLY_WORDS   5	 /* MSS, SACK + timestamps (3), window scale */

struct reply {
	__be32 option[REPLY_WORDS];
	__u32 options; /* how many words of it */
	__u32 iss;
	__be32 irs;
};

static __always_inline void reply_options(struct reply *r, const struct options *o, __u16 mss,
					  __u32 tsval)
{
	bool sack = o->flags & HS_SACK;
	__u32 n = 0;

	r->option[n++] = WORD_MSS(mss);
	if (o->flags & HS_TIMESTAMPS) {
		r->option[n++] = sack ? WORD_SACK_TS : WORD_NOP_TS;
		r->option[n++] = bpf_htonl(tsval);
		r->option[n++] = o->tsval;
	} else if (sack) {
		r->option[n++] = WORD_NOP_SACK;
	}
	if (o->flags & HS_WSCALE)
		r->option[n++] = WORD_WSCALE(cfg_wscale);
	r->options = n;
}

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
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
	ip->hop_limit = REPLY_TTL;
	ip->daddr = ip->saddr;
	ip->saddr = source;
}

static __always_inline enum xdp_action send_reply(struct xdp_md *ctx, const struct segment *s,
						  const struct reply *r)
{
	const __u32 l3 = s->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 tcp_len = sizeof(struct tcphdr) + r->options * 4;
	__u32 len = ETH_HLEN + l3 + tcp_len;
	__u32 old = ctx->data_end - ctx->data;
	__u32 least = old < ETH_FRAME_MIN ? old : ETH_FRAME_MIN;
	struct ethhdr *eth;
	void *ip, *end;
	__be32 *word;
	__u64 sum;

	if (len < least)
		len = least;
	if (len != old && bpf_xdp_adjust_tail(ctx, (int)len - (int)old))
		return drop(DROP_NO_ROOM);
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = eth + 1;
	word = ip + l3;
	if ((void *)(word + 5) > end)
		return drop(DROP_NO_ROOM);

	swap_macs(eth);
	if (s->v6)
		reply_ip6(ip, tcp_len);
	else
		reply_ip4(ip, tcp_len, s->addr_sum);

	word[0] = word[0] >> 16 | word[0] << 16; /* ports, swapped */
	word[1] = bpf_htonl(r->iss);
	word[2] = bpf_htonl(bpf_ntohl(r->irs) + 1);
	word[3] = bpf_htonl(tcp_len << 26 | (TCP_SYN | TCP_ACK) << 16 | cfg_window);
	sum = s->addr_sum + csum_pseudo(tcp_len) + csum_words(word, 4);
#pragma unroll
	for (__u32 i = 0; i < REPLY_WORDS; i++) {
		if (i >= r->options)
			break;
		if ((void *)(word + 6 + i) > end)
			return drop(DROP_NO_ROOM);
		word[5 + i] = r->option[i];
		sum += r->option[i];
	}
	word[4] = 0; /* urgent pointer; checksum */
	((struct tcphdr *)word)->check = ~csum_fold(sum);
	return count(TX_SYNACK, XDP_TX);
}

#endif
