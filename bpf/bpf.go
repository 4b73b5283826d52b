// SPDX-License-Identifier: Apache-2.0

// Package bpf holds xdptcp's XDP program and what user space must know of it: its maps, its
// constants, the record of a handshake, the reasons for its verdicts, and a Go twin of its cookie.
//
// The program is C, one header per idea: parse.h (where the headers are), options.h (TCP options),
// cookie.h and siphash.h (what the ISN and the timestamp carry), checksum.h, reply.h (the SYN/ACK),
// flows.h (flow tables, AF_XDP sockets), config.h (services and addresses), stats.h (counters),
// limits.h (caps, lists, shield), icmp.h, kernel.h (what the host's stack has), types.h (what both
// sides agree on). xdptcp.c puts them together. It knows nothing of TCP after the handshake.
//
// handoff.c is a second program, behind it at tc: it gives connections that XDP has agreed to the
// kernel's listeners.
//
// The compiled objects for both byte orders are committed, so that building needs no clang.
package bpf

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
)

// The Go sides of types.h.
type (
	// Handshake is what XDP agreed with a client: the flow table's value, and the record in front
	// of the frames that may be the first the engine sees of a flow.
	Handshake = objectHandshake
	// Flow4 and Flow6 are the keys of the flow tables, in network byte order.
	Flow4 = objectFlow4
	Flow6 = objectFlow6
	// Local4 and Local6 are slots of the local-address tables.
	Local4 = objectLocal4
	Local6 = objectLocal6
	// Prefix4 and Prefix6 are keys of the LPM tries.
	Prefix4 = objectPrefix4
	Prefix6 = objectPrefix6
	// Control is what changes while the program runs: the one value of the `controls` map.
	Control = objectControl
	// Shield is one CPU's value in the `shields` map.
	Shield = objectShield
	// Objects are the loaded program and its maps.
	Objects = objectObjects
	// HandoffObjects are the loaded tcx program that hands connections to the kernel, and its maps.
	HandoffObjects = handoffObjects
)

// Constants shared with the C side; a test compares them.
const (
	HandshakeMagic = 0x58545631 // Handshake.Magic, types.h
	HandshakeSize  = 24         // bytes of the record in front of a frame
	TickShift      = 20         // CLOCK_MONOTONIC nanoseconds to timestamp ticks: 1 tick = 2^20 ns
	LocalSlots     = 1024       // slots of locals4 and of locals6, config.h
	LocalProbes    = 4          // slots in a row that an address may be in
	MaxServices    = 64         // bits of a service set
	MaxQueues      = 256        // sockets map, flows.h
	Window         = 65535      // of the SYN/ACK, unscaled
	WindowScale    = 7          // that the SYN/ACK offers
)

// Handshake.Flags.
const (
	HandshakeWScale     = uint8(objectHandshakeFlagsHS_WSCALE)
	HandshakeSACK       = uint8(objectHandshakeFlagsHS_SACK)
	HandshakeTimestamps = uint8(objectHandshakeFlagsHS_TIMESTAMPS)
	HandshakeECN        = uint8(objectHandshakeFlagsHS_ECN)
)

// What a prefix of the lists says: values of lists4 and lists6.
const (
	ListAllow = uint32(objectListedLIST_ALLOW)
	ListDeny  = uint32(objectListedLIST_DENY)
)

// Load reads the compiled program for this machine's byte order. Its Variables are the cfg_*
// constants of config.h, to be set before the program is loaded into the kernel.
func Load() (*ebpf.CollectionSpec, error) { return loadObject() }

// LoadHandoff reads the compiled tcx program for this machine's byte order. Its map `counters` is to be
// replaced by that of the XDP program. It loads on Linux 6.9 and later.
func LoadHandoff() (*ebpf.CollectionSpec, error) { return loadHandoff() }

// ShieldQuiet is how many windows of time must be quiet before a shield comes down: limits.h.
const ShieldQuiet = 32

// WindowShift is ticks to windows of time: limits.h.
const WindowShift = 7

// Raised says whether this CPU's shield is up at a tick, where off is the program's cfg_shield_off. XDP
// changes its state only with a packet; this is what it would find. Twin of shield_guard in limits.h.
func (s *Shield) Raised(now uint64, off uint32) bool {
	quiet := s.Quiet
	if passed := uint32(now>>WindowShift) - s.Epoch; passed > 0 {
		if s.Syns < off {
			quiet += passed
		} else {
			quiet = passed - 1
		}
	}
	return s.Up != 0 && quiet < ShieldQuiet
}

// MACWords is a MAC address in the form of cfg_mac: halfwords, as they lie in the frame.
func MACWords(mac [6]byte) (words [3]uint16) {
	for i := range words {
		words[i] = binary.NativeEndian.Uint16(mac[2*i:])
	}
	return words
}

// LocalSlot is the first slot that an address may be in; word is the IPv4 address as it lies in
// memory, or the four words of an IPv6 address XORed. Twin of local_slot in config.h.
func LocalSlot(word uint32) uint32 { return word * 0x9e3779b1 >> 22 }

// SketchHash finds the counter of a flow among the 1<<bits of the sketch: word SketchHash/16 of its map,
// 4 bits from bit SketchHash%16*4 on. Words are remote and local address as they lie in the packet, each
// one or four, and ports the remote and the local port likewise. Twin of sketch_hash in flows.h.
func (c *Control) SketchHash(words []uint32, ports uint32, bits int) uint32 {
	join := func(i int) uint64 {
		var b [8]byte
		binary.NativeEndian.PutUint32(b[:], words[i])
		binary.NativeEndian.PutUint32(b[4:], words[i+1])
		return binary.NativeEndian.Uint64(b[:])
	}
	x := join(0) * c.SketchKey[0]
	if len(words) == 8 {
		x += join(2)*c.SketchKey[1] + (uint64(ports)+join(6))*c.SketchKey[2] + join(4)
	} else {
		x += uint64(ports) * c.SketchKey[2]
	}
	return uint32(x >> (64 - bits))
}

// EncodeHandshake writes a handshake record as it lies in memory: the inverse of DecodeHandshake.
func EncodeHandshake(meta []byte, h *Handshake) {
	_ = meta[HandshakeSize-1]
	binary.NativeEndian.PutUint32(meta[0:], h.Magic)
	binary.NativeEndian.PutUint32(meta[4:], h.Iss)
	binary.NativeEndian.PutUint32(meta[8:], h.Irs)
	binary.NativeEndian.PutUint32(meta[12:], h.TsOffset)
	binary.NativeEndian.PutUint32(meta[16:], h.RttTicks)
	binary.NativeEndian.PutUint16(meta[20:], h.Mss)
	meta[22], meta[23] = h.SndWscale, h.Flags
}

// IsHandshake says whether the HandshakeSize bytes in front of a frame are a handshake record.
func IsHandshake(meta []byte) bool {
	return binary.NativeEndian.Uint32(meta) == HandshakeMagic
}

// DecodeHandshake reads a handshake record as it lies in memory.
func DecodeHandshake(meta []byte) (h Handshake) {
	_ = meta[HandshakeSize-1]
	h.Magic = binary.NativeEndian.Uint32(meta[0:])
	h.Iss = binary.NativeEndian.Uint32(meta[4:])
	h.Irs = binary.NativeEndian.Uint32(meta[8:])
	h.TsOffset = binary.NativeEndian.Uint32(meta[12:])
	h.RttTicks = binary.NativeEndian.Uint32(meta[16:])
	h.Mss = binary.NativeEndian.Uint16(meta[20:])
	h.SndWscale, h.Flags = meta[22], meta[23]
	return h
}
