/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every packet is counted once, by what became of it and why. */
#ifndef XDPTCP_STATS_H
#define XDPTCP_STATS_H

#include "types.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline enum xdp_action count(enum reason why, enum xdp_action verdict)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&counters, &key);

	if (n)
		(*n)++;
	return verdict;
}

/*
 * Out of line and marked cold, so that clang keeps the refusals out of the way of the packets that
 * go through: 2 ns for each SYN. The section is named because libbpf wants all functions in one.
 */
#define COLD static __noinline __attribute__((cold, section(".text")))

__attribute__((unused)) COLD int pass(enum reason why)
{
	return count(why, XDP_PASS);
}

__attribute__((unused)) COLD int drop(enum reason why)
{
	return count(why, XDP_DROP);
}

#endif
