/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is done only so often, and who may connect at all. Events are counted per CPU, in windows of
 * time: no cache line is shared, and the loader divides what the operator allows by the number of
 * CPUs that receive.
 */
#ifndef XDPTCP_LIMITS_H
#define XDPTCP_LIMITS_H

#include "types.h"
#include "config.h"
#include "parse.h"

#define WINDOW_SHIFT 7 /* ticks to windows: 134 ms */

/* All are events per CPU and window. 0: no limit. */
const volatile __u32 cfg_reply_cap;  /* replies to one prefix */
const volatile __u32 cfg_open_cap;   /* flows opened */
const volatile __u32 cfg_shield_on;  /* SYNs at which a shielded service is answered here */
const volatile __u32 cfg_shield_off; /* SYNs below which a window counts as quiet */

#define SHIELD_QUIET  32 /* windows, 4.3 s, that must be quiet before the shield comes down */
#define SHIELD_RAISED 16 /* windows, 2.1 s, in which the kernel's cookies come back: see guard */

/* Replies by destination prefix, /24 or /48, hashed: prefixes that share a cell share the cap. */
#define REPLY_CELLS_LOG 12

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << REPLY_CELLS_LOG);
	__type(key, __u32);
	__type(value, struct window);
} replies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window);
} opened SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shield);
} shields SEC(".maps");

/* Who may connect. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u32);
} lists4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u32);
} lists6 SEC(".maps");

/* Counts an event; true if it is one too many. */
static __always_inline bool beyond(struct window *w, __u32 now, __u32 cap)
{
	__u32 epoch = now >> WINDOW_SHIFT;

	if (w->epoch != epoch) {
		w->epoch = epoch;
		w->count = 0;
	}
	w->count++;
	return w->count > cap;
}

static __always_inline bool replied_enough(const struct segment *s)
{
	__u32 prefix, key;
	struct window *w;

	if (!cfg_reply_cap)
		return false;
	if (s->v6)
		prefix = s->ip6->saddr.in6_u.u6_addr32[0] ^
			 (s->ip6->saddr.in6_u.u6_addr32[1] & bpf_htonl(0xffff0000));
	else
		prefix = s->ip4->saddr & bpf_htonl(0xffffff00);
	key = prefix * LOCAL_MULTIPLIER >> (32 - REPLY_CELLS_LOG);
	w = bpf_map_lookup_elem(&replies, &key);
	return w && beyond(w, s->now, cfg_reply_cap);
}

static __always_inline bool opened_enough(const struct segment *s)
{
	__u32 zero = 0;
	struct window *w;

	if (!cfg_open_cap)
		return false;
	w = bpf_map_lookup_elem(&opened, &zero);
	return w && beyond(w, s->now, cfg_open_cap);
}

/* What becomes of segments for a shielded service that belong to no connection. */
enum guard {
	GUARD_DOWN,   /* the kernel gets them */
	GUARD_RAISED, /* SYNs are answered; the kernel's own cookies may still come back */
	GUARD_UP,     /* all that is not valid is refused */
};

/*
 * Whether SYNs are so many that they are answered here. The shield goes up with the SYN that makes
 * them too many for one window, and down when there were few for long enough; windows without any
 * are quiet ones.
 *
 * A global function, because the verifier looks at those once, and forgets what they returned: it
 * would walk the rest of the program once for each of the answers.
 */
__noinline int shield_guard(__u64 now, __u32 syn, __u64 shielded)
{
	__u32 zero = 0, epoch = now >> WINDOW_SHIFT;
	struct shield *d;
	__u32 passed;

	if (!shielded)
		return GUARD_UP;
	d = bpf_map_lookup_elem(&shields, &zero);
	if (!d)
		return GUARD_UP;
	passed = epoch - d->epoch;
	if (passed) {
		d->quiet = d->syns < cfg_shield_off ? d->quiet + passed : passed - 1;
		d->epoch = epoch;
		d->syns = 0;
	}
	if (d->quiet >= SHIELD_QUIET) {
		d->quiet = SHIELD_QUIET;
		d->up = false;
	}
	if (syn)
		d->syns++;
	if (d->syns >= cfg_shield_on) {
		d->quiet = 0;
		if (!d->up)
			d->since = epoch;
		d->up = true;
	}
	if (!d->up)
		return GUARD_DOWN;
	return epoch - d->since < SHIELD_RAISED ? GUARD_RAISED : GUARD_UP;
}

/* Whether the lists keep this source out. */
static __always_inline bool denied(const struct segment *s)
{
	__u32 *listed;

	if (!cfg_lists)
		return false;
	if (s->v6) {
		struct prefix6 key = { .len = 128 };

		__builtin_memcpy(key.addr, &s->ip6->saddr, sizeof(key.addr));
		listed = bpf_map_lookup_elem(&lists6, &key);
	} else {
		struct prefix4 key = { .len = 32, .addr = s->ip4->saddr };

		listed = bpf_map_lookup_elem(&lists4, &key);
	}
	return listed ? *listed != LIST_ALLOW : cfg_allow_only;
}

#endif
