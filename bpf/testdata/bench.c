/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The harness of bench_test.go. BPF_PROG_TEST_RUN with repeat > 1 feeds a program its own output,
 * so `restore` puts a fresh packet in place before every run and tail-calls the program under test.
 * The same with `empty` is what the harness itself costs.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "../types.h"
#include "../siphash.h"

#define FRAME_MAX 128

struct frame {
	__u64 word[FRAME_MAX / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct frame);
} pool SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

/* Constants, so that the verifier unrolls and prunes: the harness is a copy and a few helpers. */
const volatile __u32 frame_len = 64; /* of all frames of the pool */
const volatile __u32 pool_mask = 1023;

__u32 next_frame;

SEC("xdp")
int restore(struct xdp_md *ctx)
{
	__u32 key = next_frame++ & pool_mask;
	const struct frame *from = bpf_map_lookup_elem(&pool, &key);
	__u32 len = ctx->data_end - ctx->data;
	__u8 *to;

	if (!from)
		return XDP_ABORTED;
	/* Or clang folds the two subtractions into an addition to a packet pointer's low half. */
	asm volatile("" : "+r"(len));
	/* Always called, also with 0, so that it costs the same around every program. */
	if (bpf_xdp_adjust_meta(ctx, ctx->data - ctx->data_meta) ||
	    bpf_xdp_adjust_tail(ctx, frame_len - len))
		return XDP_ABORTED;
	to = (void *)(long)ctx->data;
	if (to + frame_len > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (__u32 i = 0; i < FRAME_MAX / 8; i++)
		if (8 * i + 8 <= frame_len)
			*(__u64 *)(to + 8 * i) = from->word[i];
	if (frame_len % 8 >= 4)
		*(__u32 *)(to + frame_len / 8 * 8) = *(__u32 *)((void *)from + frame_len / 8 * 8);
	if (frame_len % 4 >= 2)
		*(__u16 *)(to + frame_len / 4 * 4) = *(__u16 *)((void *)from + frame_len / 4 * 4);
	bpf_tail_call(ctx, &target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int empty(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

/* A bare SipHash-2-4 of the 16 bytes behind the Ethernet header, written over the MAC addresses. */
__u64 hash_key[2];

SEC("xdp")
int siphash24_16(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u64 words[3];

	if (data + ETH_HLEN + 16 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	words[0] = *(__u64 *)(data + ETH_HLEN);
	words[1] = *(__u64 *)(data + ETH_HLEN + 8);
	words[2] = 16ull << 56;
	struct sipstate key = {
		.v0 = hash_key[0] ^ 0x736f6d6570736575ull, /* "somepseudorandomlygeneratedbytes" */
		.v1 = hash_key[1] ^ 0x646f72616e646f6dull,
		.v2 = hash_key[0] ^ 0x6c7967656e657261ull,
		.v3 = hash_key[1] ^ 0x7465646279746573ull,
	};
	*(__u64 *)data = siphash(&key, words, 3, 2, 4);
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
