/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the XDP program and user space agree on. bpf2go makes the Go side of it from here. */
#ifndef XDPTCP_TYPES_H
#define XDPTCP_TYPES_H

#include <linux/types.h>

/*
 * Why a packet got its verdict: the index into the `counters` map. The numbers are an interface
 * (scripts and dashboards keep them): add at the end, never renumber, never reuse.
 * The prefix is the verdict; bpf/reasons.go derives the metric's labels from these names.
 */
enum reason {
	/* XDP_PASS: not ours, the kernel gets the packet untouched. */
	PASS_NOT_TCP = 0,    /* neither IPv4 nor IPv6, or not TCP */
	PASS_NO_SERVICE = 1, /* a port that no service listens on */
	PASS_NOT_LOCAL = 2,  /* the port is served, this destination address is not */
	PASS_OTHER_HOST = 3, /* the frame is for another MAC address */
	PASS_FRAGMENT = 4,   /* IPv4 fragment */
	PASS_IP_OPTIONS = 5, /* IPv4 options; IPv6 extension headers count as PASS_NOT_TCP */
	PASS_BAD_IP = 6,     /* IP header: cut short, wrong length or checksum */
	PASS_NO_SOCKET = 7,  /* our flow, but no AF_XDP socket serves this queue */
	/* XDP_TX */
	TX_SYNACK = 8, /* a SYN, answered */
	/* XDP_REDIRECT: to the AF_XDP socket of the queue */
	REDIRECT_OPENED = 9,   /* a final ACK with a valid cookie: the flow is new */
	REDIRECT_SEGMENT = 10, /* a segment of a known flow */
	REDIRECT_SYN = 11,     /* a SYN on a known flow: the engine decides (RFC 5961, RFC 6191) */
	/* XDP_DROP: for one of our services, and refused */
	DROP_BAD_TCP = 12,	 /* TCP header cut short, or data offset below 5 */
	DROP_BAD_FLAGS = 13,	 /* SYN together with FIN or RST */
	DROP_BAD_SOURCE = 14,	 /* can't be answered: zero, loopback, multicast, broadcast, ours */
	DROP_BAD_CHECKSUM = 15,	 /* TCP checksum of a SYN or of a bare final ACK */
	DROP_BAD_COOKIE = 16,	 /* acknowledges an ISN that we did not choose */
	DROP_BAD_TIMESTAMP = 17, /* right cookie, but the echoed timestamp is forged or too old */
	DROP_EXPIRED_KEY = 18,	 /* the cookie names a key generation that is not in use */
	DROP_NO_FLOW = 19,	 /* RST, FIN, SYN/ACK or no flags at all, and no such flow */
	DROP_TABLE_FULL = 20,	 /* a valid final ACK, but the flow table has no room */
	DROP_NO_ROOM = 21, /* the driver gave no room for metadata or for the reply's options */
	REASON_COUNT
};

/* One handshake as XDP agreed it with the client: the flow table's value, and what is put in
 * front of the frame (XDP metadata area) for the engine. Host byte order. A multiple of 4 bytes,
 * at most 32, as bpf_xdp_adjust_meta demands. */
struct handshake {
	__u32 magic;	 /* HANDSHAKE_MAGIC; the reader clears it: no stale record is read twice */
	__u32 iss;	 /* our initial sequence number: the cookie */
	__u32 irs;	 /* the client's */
	__u32 ts_offset; /* our TSval is ts_offset + (CLOCK_MONOTONIC ns >> TICK_SHIFT) */
	__u32 rtt_ticks; /* SYN/ACK to final ACK, up to TS_OPTION_MASK too many; 0: no timestamps */
	__u16 mss;	 /* the client's, rounded down to a class of cookie.h */
	__u8 snd_wscale; /* the client's window scale; meaningful with HS_WSCALE */
	__u8 flags;	 /* HS_* */
};

#define HANDSHAKE_MAGIC 0x58545631u /* "XTV1" */

enum handshake_flags {
	HS_WSCALE = 1,
	HS_SACK = 2,
	HS_TIMESTAMPS = 4,
};

/* Addresses and ports in network byte order, from the server's point of view. */
struct flow4 {
	__be32 remote;
	__be32 local;
	__be16 remote_port;
	__be16 local_port;
};

struct flow6 {
	__be32 remote[4];
	__be32 local[4];
	__be16 remote_port;
	__be16 local_port;
};

/* A slot of the local-address tables (config.h): which services listen on this address, as a
 * bit set. No bits: the slot is empty. */
struct local4 {
	__u64 services;
	__be32 addr;
	__u32 pad;
};

struct local6 {
	__u64 services;
	__be32 addr[4];
};

/* Keys of the cookie. Written so that a reader never sees a half-changed key in use: a new key
 * goes into a slot that is neither current nor valid, then `current` and `valid` change. */
#define KEY_GENERATIONS 4
struct siphash_key {
	__u64 k0, k1;
};
struct cookie_keys {
	__u32 current;				 /* generation that SYN/ACKs are made with */
	__u32 valid;				 /* bit set of generations that ACKs may name */
	struct siphash_key key[KEY_GENERATIONS]; /* by generation */
	struct siphash_key timestamp;		 /* never rotated: see cookie.h */
};

#endif
