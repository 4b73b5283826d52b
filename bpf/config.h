/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is ours: constants set at load time, and the tables of services and addresses. */
#ifndef XDPTCP_CONFIG_H
#define XDPTCP_CONFIG_H

#include "types.h"

/* Set once by the loader before the program is verified: the verifier removes what is dead. */
const volatile __u8 cfg_mac[6];		 /* frames for other MAC addresses are not ours */
const volatile __u16 cfg_mss4 = 1460;	 /* MSS we advertise: MTU - 40 */
const volatile __u16 cfg_mss6 = 1440;	 /* MSS we advertise: MTU - 60 */
const volatile __u8 cfg_wscale = 7;	 /* window scale we offer */
const volatile __u16 cfg_window = 65535; /* window of the SYN/ACK, never 0 */
/* Peers on the same host (veth, virtio) may leave only the pseudo-header's sum in the checksum
 * field, for hardware that never comes. Such a sum is accepted where this is set. */
const volatile bool cfg_partial_checksums = true;
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

/* Open addressing with at most LOCAL_PROBES slots to look at, filled by user space: about 2 ns
 * where a hash map costs 24. */
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

		if (!l || !l->services)
			return 0;
		if (l->addr == addr)
			return l->services;
	}
	return 0;
}

static __always_inline __u64 services_on_addr6(const __be32 addr[4])
{
	__u32 slot = local_slot(addr[0] ^ addr[1] ^ addr[2] ^ addr[3]);

	for (int i = 0; i < LOCAL_PROBES; i++) {
		__u32 key = (slot + i) % LOCAL_SLOTS;
		struct local6 *l = bpf_map_lookup_elem(&locals6, &key);

		if (!l || !l->services)
			return 0;
		if (l->addr[0] == addr[0] && l->addr[1] == addr[1] && l->addr[2] == addr[2] &&
		    l->addr[3] == addr[3])
			return l->services;
	}
	return 0;
}

#endif
