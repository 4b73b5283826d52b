//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the flood needs in the kernel. `syn4` and `syn6` make the SYNs: BPF_PROG_TEST_RUN runs them
 * on live frames, and XDP_TX sends each out of the client's end of the lab. `count` is the XDP
 * program of that end: it counts what comes back, and drops it. `swap` and `pass` are for the
 * server's end.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "../../bpf/checksum.h"

#define FRAME4 74
#define FRAME6 94

#define TCP_SYN 0x02
#define TCP_ACK 0x10

/* The sources: 198.18.0.0/15 (RFC 2544), and 4096 /48s of 2001:db8::/32 (RFC 3849): a responder may
 * limit what it sends to one. */
#define SOURCE4	     0xc6120000
#define SOURCE4_MASK 0xfffe0000
#define SOURCE6	     0x20010db8
#define SOURCE6_SITE 0xf0000000u /* 2001:db8:f000::/36 */
#define SOURCE6_MASK 0xf0000000u

/* The client's interface. Frames of any other are not for us: the program is on lo, too. */
const volatile __u32 cfg_ifindex;
const volatile __be16 cfg_port;	    /* the server's */
const volatile __u64 cfg_frame[12]; /* a SYN of the first source address, port 0, number 0 */

__u64 sent; /* by the one thread that floods */

struct tally {
	__u64 synacks; /* answers to our SYNs */
	__u64 echoes;  /* our SYNs, sent back as they are */
	__u64 strange; /* to one of our sources, or from one, and neither */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

/* bpf2go exports a type only if something in the object refers to it. */
const struct tally *export_tally __attribute__((unused));

/* The number of who sends from this address (its last word) and port, so that answers can be
 * checked. */
static __always_inline __u32 isn(__u32 addr, __u16 port)
{
	return (addr ^ (__u32)port << 16) * 0x9e3779b1;
}

/* A checksum after `more` has been put where there were zeros: RFC 1624. */
static __always_inline __sum16 amend(__sum16 check, __u64 more)
{
	return ~csum_fold((__u16)~check + more);
}

/* `addr` is the last word of the source address, `host` what of it is not in the template. */
static __always_inline void set_source(struct tcphdr *tcp, __be32 addr, __be32 host, __u64 random)
{
	__u16 port = random >> 16 | 0x8000;

	tcp->source = bpf_htons(port);
	tcp->seq = bpf_htonl(isn(bpf_ntohl(addr), port));
	tcp->check = amend(tcp->check, (__u64)host + tcp->source + tcp->seq);
}

/* Each number once, and no two that follow each other alike. */
static __always_inline __u64 next_random(void)
{
	return sent++ * 0x9e3779b97f4a7c15;
}

/* The whole frame, every time: it may be one that an answer was written over. */
static __always_inline void copy_template(void *to, int len)
{
#pragma unroll
	for (int i = 0; i < len / 8; i++)
		((__u64 *)to)[i] = cfg_frame[i];
	if (len % 8 >= 4)
		*(__u32 *)(to + len / 8 * 8) = *(const volatile __u32 *)&cfg_frame[len / 8];
	if (len % 4 >= 2)
		*(__u16 *)(to + len / 4 * 4) =
			*(const volatile __u16 *)((const volatile char *)cfg_frame + len / 4 * 4);
}

SEC("xdp")
int syn4(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__u64 random;
	__be32 host;

	if (ctx->ingress_ifindex != cfg_ifindex)
		return XDP_PASS;
	if (data + FRAME4 > end)
		return XDP_ABORTED;
	copy_template(data, FRAME4);
	random = next_random();
	host = bpf_htonl(random >> 32 & ~SOURCE4_MASK);
	ip->saddr |= host;
	ip->check = amend(ip->check, host);
	set_source((void *)(ip + 1), ip->saddr, host, random);
	return XDP_TX;
}

SEC("xdp")
int syn6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);
	__be32 site, host;
	__u64 random;

	if (ctx->ingress_ifindex != cfg_ifindex)
		return XDP_PASS;
	if (data + FRAME6 > end)
		return XDP_ABORTED;
	copy_template(data, FRAME6);
	random = next_random();
	host = bpf_htonl(random >> 32);
	site = bpf_htonl(random >> 28 & ~SOURCE6_MASK & 0xffff0000);
	ip->saddr.in6_u.u6_addr32[1] |= site;
	ip->saddr.in6_u.u6_addr32[3] = host;
	tcp->check = amend(tcp->check, site);
	set_source(tcp, host, host, random);
	return XDP_TX;
}

static __always_inline bool source4(__be32 addr)
{
	return (addr & bpf_htonl(SOURCE4_MASK)) == bpf_htonl(SOURCE4);
}

static __always_inline bool source6(const __be32 *addr)
{
	return addr[0] == bpf_htonl(SOURCE6) &&
	       (addr[1] & bpf_htonl(SOURCE6_MASK)) == bpf_htonl(SOURCE6_SITE);
}

/* A segment of the flood comes back. `from` and `to` are the last words of its addresses. */
static __always_inline int tally(const struct tcphdr *tcp, __be32 from, __be32 to, bool answer)
{
	__u8 flags = ((const __u8 *)tcp)[13];
	struct tally *t;
	__u32 zero = 0;

	t = bpf_map_lookup_elem(&tallies, &zero);
	if (!t)
		return XDP_ABORTED;
	if (answer && flags == (TCP_SYN | TCP_ACK) && tcp->source == cfg_port &&
	    bpf_ntohl(tcp->ack_seq) == isn(bpf_ntohl(to), bpf_ntohs(tcp->dest)) + 1)
		t->synacks++;
	else if (!answer && flags == TCP_SYN && tcp->dest == cfg_port &&
		 bpf_ntohl(tcp->seq) == isn(bpf_ntohl(from), bpf_ntohs(tcp->source)))
		t->echoes++;
	else
		t->strange++;
	return XDP_DROP;
}

SEC("xdp.frags")
int count(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		struct tcphdr *tcp = (void *)(ip + 1);
		bool answer;

		if ((void *)(tcp + 1) > end || ip->protocol != IPPROTO_TCP || ip->ihl != 5)
			return XDP_PASS;
		answer = source4(ip->daddr);
		if (answer || source4(ip->saddr))
			return tally(tcp, ip->saddr, ip->daddr, answer);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		struct tcphdr *tcp = (void *)(ip + 1);
		const __be32 *saddr = ip->saddr.in6_u.u6_addr32, *daddr = ip->daddr.in6_u.u6_addr32;
		bool answer;

		if ((void *)(tcp + 1) > end || ip->nexthdr != IPPROTO_TCP)
			return XDP_PASS;
		answer = source6(daddr);
		if (answer || source6(saddr))
			return tally(tcp, saddr[3], daddr[3], answer);
	}
	return XDP_PASS;
}

/* The least that sends a frame back: the floor that a responder is compared with. */
SEC("xdp")
int swap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return XDP_TX;
}

/* In front of a kernel listener: veth takes XDP frames only where there is a program. */
SEC("xdp")
int pass(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
