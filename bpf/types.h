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
	PASS_FRAGMENT = 4,   /* fragment of IPv4 or IPv6 */
	PASS_IP_OPTIONS =
		5,	 /* source route, or routing header with segments left: not arrived yet */
	PASS_BAD_IP = 6, /* IP header: cut short, wrong length, checksum or options */
	PASS_NO_SOCKET = 7, /* no longer given: DROP_NO_SOCKET */
	/* XDP_TX */
	TX_SYNACK = 8, /* a SYN, answered */
	/* XDP_REDIRECT: to the AF_XDP socket of the queue */
	REDIRECT_OPENED = 9,   /* a final ACK with a valid cookie: the flow is new */
	REDIRECT_SEGMENT = 10, /* a segment of a known flow */
	REDIRECT_SYN = 11,     /* a SYN on a known flow: the engine decides (RFC 5961, RFC 6191) */
	/* XDP_DROP: for one of our services, and refused */
	DROP_BAD_TCP = 12,	 /* TCP header cut short, or data offset below 5 */
	DROP_BAD_FLAGS = 13,	 /* SYN with FIN or RST; none of SYN, ACK and RST (null, Xmas) */
	DROP_BAD_SOURCE = 14,	 /* can't be answered: zero, loopback, multicast, broadcast */
	DROP_BAD_CHECKSUM = 15,	 /* TCP checksum of a SYN or of a bare final ACK */
	DROP_BAD_COOKIE = 16,	 /* acknowledges an ISN that we did not choose */
	DROP_BAD_TIMESTAMP = 17, /* right cookie, but the echoed timestamp is forged or too old */
	DROP_EXPIRED_KEY = 18,	 /* the cookie names a key generation that is not in use */
	DROP_NO_FLOW = 19,	 /* RST, FIN, SYN/ACK or no flags at all, and no such flow */
	DROP_TABLE_FULL = 20,	 /* a valid final ACK, but the flow table has no room */
	DROP_NO_ROOM = 21, /* the driver gave no room for metadata or for the reply's options */
	/* More of XDP_PASS: for one of our services, and yet the kernel's. */
	PASS_NO_LEASE = 22,    /* the daemon is dead or hung: see struct control */
	PASS_DISARMED = 23,    /* of no connection of ours, for a service that is not armed */
	PASS_PEACE = 24,       /* a SYN for a kernel service, below the shield's rate */
	PASS_KERNEL_FLOW = 25, /* of a connection that the kernel has */
	PASS_HANDED_OVER = 26, /* a valid final ACK for a kernel service, with its record */
	/* More of XDP_REDIRECT */
	REDIRECT_ICMP = 27,   /* an ICMP error that quotes one of our flows */
	REDIRECT_SYNACK = 28, /* a SYN, answered through another interface (cfg_reply_fib) */
	/* More of XDP_TX */
	TX_RESET = 29, /* a bad ACK, answered with RST (cfg_reset) */
	/* More of XDP_DROP */
	DROP_LAND = 30,		/* source and destination address are the same */
	DROP_DENIED = 31,	/* the source is on the deny list, or not on the allow list */
	DROP_REPLY_CAP = 32,	/* enough replies to this prefix (cfg_reply_cap) */
	DROP_RATE_LIMITED = 33, /* a valid final ACK, but enough flows were opened (cfg_open_cap) */
	DROP_NO_ROUTE = 34,	/* the routing table has no way for the reply (cfg_reply_fib) */
	DROP_NO_SOCKET = 35,	/* our flow, but no AF_XDP socket serves this queue */
	/* Of the tc program, behind PASS_HANDED_OVER */
	PASS_NO_LISTENER = 36,	/* nobody listens: the kernel answers with RST */
	PASS_NOT_ASSIGNED = 37, /* the kernel refused the request socket */
	/* And one more of XDP_PASS */
	PASS_TWO_TAGS = 38, /* for a kernel service, with two VLAN tags: can't be handed over */
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
	HS_ECN = 8, /* only with HS_TIMESTAMPS */
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
 * bit set. No bits: the slot is free. */
struct local4 {
	__u64 services;
	__be32 addr;
	__u32 pad;
};

struct local6 {
	__u64 services;
	__be32 addr[4];
};

/* Keys of the LPM tries: len in bits, counted from the address's first. */
struct prefix4 {
	__u32 len;
	__be32 addr;
};

struct prefix6 {
	__u32 len;
	__be32 addr[4];
};

/* What a prefix of the lists says of sources in it; the longest match counts. */
enum listed { LIST_ALLOW = 1, LIST_DENY = 2 };

/*
 * What changes while the program runs, shared with the daemon through its memory. Fields keep
 * their places: a daemon must be able to replace one of another version.
 *
 * lease: until when the daemon vouches for itself, in ticks of CLOCK_MONOTONIC. Later than that our
 * packets are the kernel's again: nobody is there to serve them.
 */
struct control {
	__u64 lease;
	__u64 armed;	     /* services whose SYNs are answered, as a bit set */
	__u64 owner;	     /* the daemon's random number; it ends when another one stands here */
	__u64 pid;	     /* the daemon's, for people */
	__u64 sketch_key[3]; /* random: flows.h */
};

/* Events of one CPU in the current window of time (limits.h). */
struct window {
	__u32 epoch;
	__u32 count;
};

/* Whether SYNs of one CPU are many enough to be answered here (limits.h). */
struct shield {
	__u32 epoch;
	__u32 syns;  /* in the window */
	__u32 quiet; /* windows in a row below cfg_shield_off */
	__u32 up;
	__u32 since; /* epoch in which it went up */
};

/* Keys of the cookie. Written so that a reader never sees a half-changed key in use: a new key
 * goes into a slot that is neither current nor valid, then `current` and `valid` change. */
#define KEY_GENERATIONS 4
/* A key in the form that is ready for use: SipHash's state before the first block, which is the key
 * XORed with constants. */
struct sipstate {
	__u64 v0, v1, v2, v3;
};
struct cookie_keys {
	__u32 current;			      /* generation that SYN/ACKs are made with */
	__u32 valid;			      /* bit set of generations that ACKs may name */
	__u64 strict;			      /* nonzero: see cookie.h */
	__u64 clock;			      /* ticks to add to CLOCK_MONOTONIC: see cookie.h */
	struct sipstate key[KEY_GENERATIONS]; /* by generation */
	struct sipstate timestamp;	      /* never rotated: see cookie.h */
};

#endif
