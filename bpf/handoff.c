//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tcx program behind the XDP program: a final ACK for a kernel service comes with the record of
 * its handshake, and is given to the listener with a request socket made of it, as if the kernel
 * had agreed the handshake itself. All other packets go by at the price of one comparison. An
 * object of its own, because what it calls is in Linux since 6.9 only.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "types.h"
#include "stats.h"
#include "options.h"

#define TCX_NEXT (-1) /* include/uapi/linux/bpf.h since 6.6: the next program decides */

#define TCP_STATE_LISTEN   10 /* include/net/tcp_states.h */
#define IP6_EXTENSIONS_MAX 6  /* as many as XDP walks */

/* What the kernel's request_sock_ops take as least: include/net/tcp.h, net/core/filter.c. */
#define KERNEL_MSS_MIN4 536
#define KERNEL_MSS_MIN6 1220

const volatile __u8 cfg_kernel_wscale = 7; /* that XDP's SYN/ACK offered */

/* As in the kernel's BTF, where the loader finds the function; it compares the types of the
 * arguments, but not what is in struct sock. */
struct bpf_tcp_req_attrs {
	__u32 rcv_tsval;
	__u32 rcv_tsecr;
	__u16 mss;
	__u8 rcv_wscale;
	__u8 snd_wscale;
	__u8 ecn_ok;
	__u8 wscale_ok;
	__u8 sack_ok;
	__u8 tstamp_ok;
	__u8 usec_ts_ok;
	__u8 reserved[3];
};

struct sock {
};
extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk,
				   struct bpf_tcp_req_attrs *attrs, int attrs__sz) __ksym;

/* Nobody else writes metadata on this interface: there is one XDP program. Of ours only a final ACK
 * for a kernel service is passed with a record. */
static __always_inline bool read_record(struct __sk_buff *skb, struct handshake *h)
{
	const struct handshake *meta = (void *)(long)skb->data_meta;

	if ((void *)(meta + 1) > (void *)(long)skb->data || meta->magic != HANDSHAKE_MAGIC)
		return false;
	*h = *meta;
	return true;
}

/* Where the TCP header is; 0 if there is none. XDP has found it before, so the headers before it
 * are in order. */
static __always_inline __u32 tcp_offset(struct __sk_buff *skb)
{
	__u32 at = ETH_HLEN;
	__u8 head[2], next;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, at, head, 1))
			return 0;
		return at + (head[0] & 15) * 4;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, at + offsetof(struct ipv6hdr, nexthdr), &next, 1))
		return 0;
	at += sizeof(struct ipv6hdr);
	for (int i = 0; i < IP6_EXTENSIONS_MAX && next != IPPROTO_TCP; i++) {
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return 0;
		next = head[0];
		at += (head[1] + 1) * 8;
	}
	return next == IPPROTO_TCP ? at : 0;
}

/* Timestamps, if there are any. 0, or less if the options can't be read. */
static __always_inline int read_options(struct __sk_buff *skb, __u32 at, const struct tcphdr *tcp,
					struct options *o)
{
	__u32 len = tcp->doff * 4 - sizeof(*tcp);
	struct option_walk w = { .len = len, .out = o };

	if (!len)
		return 0;
	len = (len - 1) & 63; /* as in walk_options */
	asm volatile("" : "+r"(len));
	if (len >= OPTIONS_MAX || bpf_skb_load_bytes(skb, at + sizeof(*tcp), w.bytes, len + 1))
		return -1;
	bpf_loop(OPTIONS_MAX, option_step, &w, 0);
	return 0;
}

/* The socket that the kernel would find for this segment: the connection's, if there is one by now,
 * or a listener on the address, on any address, one of SO_REUSEPORT's, an IPv6 one for IPv4. */
static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb, const struct tcphdr *tcp)
{
	struct bpf_sock_tuple t;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &t.ipv4, 8))
			return NULL;
		t.ipv4.sport = tcp->source;
		t.ipv4.dport = tcp->dest;
		return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), &t.ipv6, 32))
		return NULL;
	t.ipv6.sport = tcp->source;
	t.ipv6.dport = tcp->dest;
	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* The kernel takes no MSS below these; its own cookies know none either. */
static __always_inline __u16 kernel_mss(const struct __sk_buff *skb, __u16 mss)
{
	__u16 least = skb->protocol == bpf_htons(ETH_P_IP) ? KERNEL_MSS_MIN4 : KERNEL_MSS_MIN6;

	return mss < least ? least : mss;
}

/* Gives the segment to the listener with a request socket that says what was agreed. */
static __always_inline bool assign(struct __sk_buff *skb, struct bpf_sock *listener,
				   const struct handshake *h, const struct options *o)
{
	struct bpf_tcp_req_attrs attrs = {
		.mss = kernel_mss(skb, h->mss),
		.sack_ok = !!(h->flags & HS_SACK),
		.ecn_ok = !!(h->flags & HS_ECN),
	};
	struct bpf_sock *full = bpf_sk_fullsock(listener);

	if (h->flags & HS_WSCALE) {
		attrs.wscale_ok = 1;
		attrs.snd_wscale = h->snd_wscale;
		attrs.rcv_wscale = cfg_kernel_wscale;
	}
	if (h->flags & HS_TIMESTAMPS) {
		/* The kernel's timestamps go on from the one that the client echoes. */
		attrs.tstamp_ok = 1;
		attrs.rcv_tsval = bpf_ntohl(o->tsval);
		attrs.rcv_tsecr = bpf_ntohl(o->tsecr);
	}
	return full && !bpf_sk_assign_tcp_reqsk(skb, (struct sock *)full, &attrs, sizeof(attrs));
}

SEC("tcx/ingress")
int handoff(struct __sk_buff *skb)
{
	struct options o = {};
	struct bpf_sock *sk;
	struct handshake h;
	struct tcphdr tcp;
	__u32 at;

	if (!read_record(skb, &h))
		return TCX_NEXT;
	at = tcp_offset(skb);
	if (!at || bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)) ||
	    bpf_ntohl(tcp.ack_seq) != h.iss + 1 || read_options(skb, at, &tcp, &o)) {
		count(PASS_NOT_ASSIGNED, XDP_PASS);
		return TCX_NEXT;
	}
	sk = find_socket(skb, &tcp);
	if (!sk) {
		count(PASS_NO_LISTENER, XDP_PASS);
		return TCX_NEXT;
	}
	/* Anything but a listener is the connection: an earlier segment has made it. */
	if (sk->state == TCP_STATE_LISTEN && !assign(skb, sk, &h, &o))
		count(PASS_NOT_ASSIGNED, XDP_PASS);
	bpf_sk_release(sk);
	return TCX_NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
