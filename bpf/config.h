/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is ours: constants set at load time, and the tables of services and addresses. */
#ifndef XDPTCP_CONFIG_H
#define XDPTCP_CONFIG_H

#include "types.h"

/* Set once by the loader before the program is verified: the verifier removes what is dead. */
const volatile __u16 cfg_mac[3];	 /* frames for other MAC addresses are not ours */
const volatile __u16 cfg_mss4 = 1460;	 /* MSS we advertise: MTU - 40 */
const volatile __u16 cfg_mss6 = 1440;	 /* MSS we advertise: MTU - 60 */
const volatile __u8 cfg_wscale = 7;	 /* window scale we offer */
const volatile __u16 cfg_window = 65535; /* window of the SYN/ACK, never 0 */
/* Peers on the same host (veth, virtio) may leave only the pseudo-header's sum in the checksum
 * field, for hardware that never comes. Such a sum is accepted where this is set. */
const volatile bool cfg_partial_checksums = true;
/* Services that the kernel serves, as a bit set; all others are the engine's. */
const volatile __u64 cfg_kernel;
/* What SYN/ACKs for these offer: the window scale that the kernel would choose, and of the options
 * HS_* those that its sysctls allow. */
const volatile __u8 cfg_kernel_wscale = 7;
const volatile __u8 cfg_kernel_options = HS_WSCALE | HS_SACK | HS_TIMESTAMPS | HS_ECN;
/* Services that need no daemon once attached: the lease doesn't count for them. */
const volatile __u64 cfg_outlive;
/* Kernel services whose SYNs are answered only while they are many (limits.h). */
const volatile __u64 cfg_shield;
const volatile bool cfg_prefixes;   /* services on prefixes exist: prefixes4, prefixes6 */
const volatile bool cfg_lists;	    /* lists4, lists6 say who may connect */
const volatile bool cfg_allow_only; /* only who is on the allow list */
const volatile bool cfg_reset;	    /* bad ACKs get a RST instead of silence */
const volatile bool cfg_reply_fib;  /* replies go where the routing table says */
/* The services as the operator gave them: not read here, but by whoever asks what is attached. */
const volatile char cfg_services[4096] __attribute__((used)) = {};

/* Almost every packet of a real host ends at this table, so it is an array (the JIT inlines the
 * lookup). Index: destination port, network byte order. Value: bit set of services. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

/* Open addressing with LOCAL_PROBES slots to look at, filled by user space: about 2 ns
 * where a hash map costs 24. A free slot doesn't end the search, so that addresses come and go
 * without others having to move. */
#define LOCAL_SLOTS_LOG	 10
#define LOCAL_SLOTS	 (1 << LOCAL_SLOTS_LOG)
#define LOCAL_PROBES	 4
#define LOCAL_MULTIPLIER 0x9e3779b1u /* 2^32 / golden ratio: Fibonacci hashing */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOCAL_SLOTS);
	__type(key, __u32);
	__type(value, struct local4);
} locals4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOCAL_SLOTS);
	__type(key, __u32);
	__type(value, struct local6);
} locals6 SEC(".maps");

/* Services on prefixes: the longest match counts. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u64);
} prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u64);
} prefixes6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct control);
} controls SEC(".maps");

static __always_inline struct control *control_block(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&controls, &zero);
}

static __always_inline __u32 local_slot(__u32 word)
{
	return (word * LOCAL_MULTIPLIER) >> (32 - LOCAL_SLOTS_LOG);
}

static __always_inline __u64 services_on_port(__be16 port)
{
	__u32 key = port;
	__u64 *services = bpf_map_lookup_elem(&ports, &key);

	return services ? *services : 0;
}

static __always_inline __u64 services_on_addr4(__be32 addr)
{
	__u32 slot = local_slot(addr);

	for (int i = 0; i < LOCAL_PROBES; i++) {
		__u32 key = (slot + i) % LOCAL_SLOTS;
		struct local4 *l = bpf_map_lookup_elem(&locals4, &key);

		if (l && l->addr == addr && l->services)
			return l->services;
	}
	if (cfg_prefixes) {
		struct prefix4 key = { .len = 32, .addr = addr };
		__u64 *services = bpf_map_lookup_elem(&prefixes4, &key);

		return services ? *services : 0;
	}
	return 0;
}

static __always_inline __u64 services_on_addr6(const __be32 addr[4])
{
	__u32 slot = local_slot(addr[0] ^ addr[1] ^ addr[2] ^ addr[3]);

	for (int i = 0; i < LOCAL_PROBES; i++) {
		__u32 key = (slot + i) % LOCAL_SLOTS;
		struct local6 *l = bpf_map_lookup_elem(&locals6, &key);

		if (l && l->addr[0] == addr[0] && l->addr[1] == addr[1] && l->addr[2] == addr[2] &&
		    l->addr[3] == addr[3] && l->services)
			return l->services;
	}
	if (cfg_prefixes) {
		struct prefix6 key = { .len = 128 };
		__u64 *services;

		__builtin_memcpy(key.addr, addr, sizeof(key.addr));
		services = bpf_map_lookup_elem(&prefixes6, &key);
		return services ? *services : 0;
	}
	return 0;
}

#endif
