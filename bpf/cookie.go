// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// How long a cookie with timestamps is accepted, and by how much the clocks of hosts that share their
// keys may differ, in ticks.
const (
	CookieLifeTicks = 64512
	CookieSkewTicks = 1024
)

const (
	keyGenerations = 4
	tsWScaleBits   = 2
	tsWScaleMask   = 1<<tsWScaleBits - 1
	tsECN          = 1 << tsWScaleBits
	tsOptionMask   = tsECN | tsWScaleMask
)

var mssClasses = [8]uint16{64, 536, 1220, 1360, 1400, 1440, 1460, 8960}

// Offer is what a SYN offers, or what a cookie carries of it.
type Offer struct {
	MSS           uint16
	WScale        int8 // -1: not offered
	SACK          bool
	Timestamps    bool
	ECN           bool
	TSVal, TSEcr  uint32
	Remote, Local netip.AddrPort
}

// MakeCookie is the twin of cookie_make in cookie.h: the ISN and TSval that answer a SYN with
// sequence number irs at tick now (CLOCK_MONOTONIC ns >> TickShift). The offer comes back as it is
// granted: without timestamps, ECN and small window scales are not; with strict keys neither scale nor SACK is.
func MakeCookie(k *CookieKeys, o Offer, irs, now uint32) (iss, tsval uint32, granted Offer) {
	generation := k.Current & (keyGenerations - 1)
	peer := cookiePeer(k, o.Remote, o.Local)
	hash := sipWords(&k.Key[generation], 2, 4, cookieBlock(peer, irs))
	if k.Strict != 0 && !o.Timestamps {
		o.SACK, o.WScale = false, -1
	}
	opts := mssClass(o.MSS) << 3
	if o.SACK {
		opts |= 1
	}
	if o.Timestamps {
		scale := uint32(o.WScale + 1)
		now += uint32(k.Clock)
		ticks := now&^tsOptionMask | scale&tsWScaleMask
		if o.ECN {
			ticks |= tsECN
		}
		if int32(ticks-now) > 0 {
			ticks -= tsOptionMask + 1
		}
		tsval = uint32(peer) + ticks
		opts |= scale >> tsWScaleBits << 1
	} else {
		o.ECN = false
		class := wscaleClass(o.WScale)
		if class == 0 {
			o.WScale = -1
		}
		opts |= class << 1
	}
	return cookieMAC(hash, o.Timestamps) ^ opts<<2 | generation, tsval, o
}

// CheckCookie is the twin of cookie_check in cookie.h. o says who sends to whom and which
// timestamps the final ACK has; iss is the number it acknowledges minus one, irs its own minus one.
// The reason is RedirectOpened, or why the ACK is refused.
func CheckCookie(k *CookieKeys, o Offer, iss, irs, now uint32) (Handshake, Reason) {
	generation := iss & (keyGenerations - 1)
	if k.Valid>>generation&1 == 0 {
		return Handshake{}, DropExpiredKey
	}
	peer := cookiePeer(k, o.Remote, o.Local)
	hash := sipWords(&k.Key[generation], 2, 4, cookieBlock(peer, irs))
	opts := cookieMAC(hash, o.Timestamps) ^ iss
	if opts>>8 != 0 {
		return Handshake{}, DropBadCookie
	}
	opts >>= 2
	if k.Strict != 0 && !o.Timestamps && opts&7 != 0 {
		return Handshake{}, DropBadCookie
	}
	h := Handshake{Magic: HandshakeMagic, Iss: iss, Irs: irs, Mss: mssClasses[opts>>3&7]}
	if opts&1 != 0 {
		h.Flags |= HandshakeSACK
	}
	scale := opts >> 1 & 3
	if !o.Timestamps {
		if scale > 0 {
			h.Flags |= HandshakeWScale
			h.SndWscale = [4]uint8{0, 2, 6, 8}[scale]
		}
		return h, RedirectOpened
	}
	sent := o.TSEcr - uint32(peer)
	age := int32(now + uint32(k.Clock) - sent)
	if age < -CookieSkewTicks || age >= CookieLifeTicks {
		return Handshake{}, DropBadTimestamp
	}
	h.TsOffset = uint32(peer) + uint32(k.Clock)
	if age < 0 {
		h.TsOffset -= uint32(age)
		age = 0
	}
	h.RttTicks = uint32(age)
	h.Flags |= HandshakeTimestamps
	if sent&tsECN != 0 {
		h.Flags |= HandshakeECN
	}
	if scale = scale<<tsWScaleBits | sent&tsWScaleMask; scale > 0 {
		h.Flags |= HandshakeWScale
		h.SndWscale = uint8(scale - 1)
	}
	return h, RedirectOpened
}

// TimestampOffset is what our timestamps towards this peer start from.
func TimestampOffset(k *CookieKeys, remote, local netip.AddrPort) uint32 {
	return uint32(cookiePeer(k, remote, local)) + uint32(k.Clock)
}

func cookiePeer(k *CookieKeys, remote, local netip.AddrPort) uint64 {
	return siphash(&k.Timestamp, 1, 3, appendTuple(nil, remote, local))
}

func cookieMAC(hash uint64, timestamps bool) uint32 {
	if !timestamps {
		hash >>= 32
	}
	return uint32(hash) &^ 3
}

func mssClass(mss uint16) (class uint32) {
	for i, least := range mssClasses {
		if mss >= least {
			class = uint32(i)
		}
	}
	return class
}

func wscaleClass(wscale int8) uint32 {
	switch {
	case wscale >= 8:
		return 3
	case wscale >= 6:
		return 2
	case wscale >= 2:
		return 1
	}
	return 0
}

// appendTuple lays addresses and ports out as they lie in the packet.
func appendTuple(b []byte, remote, local netip.AddrPort) []byte {
	b = append(b, remote.Addr().Unmap().AsSlice()...)
	b = append(b, local.Addr().Unmap().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	return binary.BigEndian.AppendUint16(b, local.Port())
}

// cookieBlock takes the client's ISN as it lies in the packet.
func cookieBlock(peer uint64, irs uint32) uint64 {
	return peer ^ uint64(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, irs)))<<32
}

// siphash is SipHash-c-d of msg, whose length is a multiple of 4. The program loads its words in the
// machine's byte order, so does this; on a little-endian machine it is the standard function.
func siphash(k *SiphashKey, c, d int, msg []byte) uint64 {
	var words []uint64
	last := uint64(len(msg)) << 56
	for ; len(msg) >= 8; msg = msg[8:] {
		words = append(words, binary.NativeEndian.Uint64(msg))
	}
	if len(msg) >= 4 {
		last |= uint64(binary.NativeEndian.Uint32(msg))
	}
	return sipWords(k, c, d, append(words, last)...)
}

// sipWords is SipHash-c-d of blocks, of which the last would carry the message's length.
func sipWords(k *SiphashKey, c, d int, words ...uint64) uint64 {
	start := k.state()
	v0, v1, v2, v3 := start.V0, start.V1, start.V2, start.V3
	round := func() {
		v0 += v1
		v2 += v3
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v1
		v0 += v3
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 = bits.RotateLeft64(v2, 32)
	}
	for _, m := range words {
		v3 ^= m
		for range c {
			round()
		}
		v0 ^= m
	}
	v2 ^= 0xff
	for range d {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}
