/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Services that the host's own stack serves: which connections are the kernel's already. */
#ifndef XDPTCP_KERNEL_H
#define XDPTCP_KERNEL_H

#include "types.h"
#include "parse.h"

#define TCP_STATE_LISTEN 10 /* include/net/tcp_states.h */

/* Whether the kernel has a socket for this connection: established, half open or in TIME-WAIT. */
static __always_inline bool kernel_has(struct xdp_md *ctx, const struct segment *s)
{
	struct bpf_sock_tuple t;
	struct bpf_sock *sk;
	bool has;

	if (s->v6) {
		__builtin_memcpy(t.ipv6.saddr, &s->tuple.word[0], sizeof(t.ipv6.saddr));
		__builtin_memcpy(t.ipv6.daddr, &s->tuple.word[2], sizeof(t.ipv6.daddr));
		__builtin_memcpy(&t.ipv6.sport, &s->tuple.ports, 4);
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(&t.ipv4.saddr, &s->tuple.word[0], 8);
		__builtin_memcpy(&t.ipv4.sport, &s->tuple.ports, 4);
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	has = sk->state != TCP_STATE_LISTEN;
	bpf_sk_release(sk);
	return has;
}

#endif
