// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
)

// The reference implementation's vectors (github.com/veorq/SipHash; the same as in Linux's
// siphash_kunit.c, and for 1-3 in Rust's core library): key 00 01 … 0f, message 00 01 … n-1.
var siphashVectors = []struct {
	c, d, n int
	want    uint64
}{
	{2, 4, 0, 0x726fdb47dd0e0e31},
	{2, 4, 4, 0xcf2794e0277187b7},
	{2, 4, 8, 0x93f5f5799a932462},
	{2, 4, 12, 0x751e8fbc860ee5fb},
	{2, 4, 16, 0x3f2acc7f57c29bdb},
	{2, 4, 40, 0x0e3ea96b5304a7d0},
	{1, 3, 0, 0xabac0158050fc4dc},
	{1, 3, 12, 0x78a384b157b4d9a2},
	{1, 3, 36, 0x2cf508d3ada26206},
	{1, 3, 40, 0xc1d2363299e41531},
}

func siphashMessage(n int) []byte {
	msg := make([]byte, n)
	for i := range msg {
		msg[i] = byte(i)
	}
	return msg
}

func TestSipHashVectors(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the twin loads words in the machine's order, the vectors are little-endian")
	}
	key := &SiphashKey{K0: 0x0706050403020100, K1: 0x0f0e0d0c0b0a0908}
	for _, v := range siphashVectors {
		if got := siphash(key, v.c, v.d, siphashMessage(v.n)); got != v.want {
			t.Errorf("SipHash-%d-%d of %d bytes is %#x, want %#x", v.c, v.d, v.n, got, v.want)
		}
	}
}

// A source of handshakes that repeats from run to run.
func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func randomAddr(r *rand.Rand, like netip.Addr) netip.Addr {
	b := like.AsSlice()
	for i := len(b) / 2; i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// randomOptions draws what a SYN may offer, in one of the layouts that the program reads by different
// ways, and tells the offer.
func randomOptions(r *rand.Rand) ([]byte, Offer) {
	o := Offer{MSS: uint16(r.Uint32N(9200)) + 1, WScale: int8(r.IntN(16)) - 1, SACK: r.IntN(2) == 0, Timestamps: r.IntN(2) == 0}
	if r.IntN(2) == 0 {
		o.SACK, o.Timestamps, o.WScale = true, true, max(o.WScale, 0)
		return linuxOptions(o.MSS, byte(o.WScale)), o
	}
	parts := [][]byte{optMSS(o.MSS)}
	if o.WScale >= 0 {
		parts = append(parts, slices.Concat(nop, optWS(byte(o.WScale))))
	}
	if o.SACK {
		parts = append(parts, slices.Concat(nop, nop, optSACK))
	}
	if o.Timestamps {
		parts = append(parts, slices.Concat(nop, nop, optTS(clientTSVal, 0)))
	}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return slices.Concat(parts...), o
}

var twinHandshakes = flag.Int("twin.handshakes", 100_000, "random handshakes in which twin and program are compared")

// The program and its Go twin make the same cookies and read the same out of them: random
// addresses, ports, ISNs, keys, generations and offers, all the way through the program.
func TestTwinAgreesWithProgram(t *testing.T) {
	handshakes := *twinHandshakes
	p := load(t, options{shared: true})
	r := random(1)
	before := p.counters()
	opened, refused := 0, 0
	k := testKeys()
	for i := range handshakes {
		if i%100 == 0 {
			k.Current = r.Uint32N(4)
			k.Valid = 1<<k.Current | r.Uint32N(16)
			for j := range k.Key {
				k.Key[j] = SiphashKey{K0: r.Uint64(), K1: r.Uint64()}
			}
			k.Timestamp = SiphashKey{K0: r.Uint64(), K1: r.Uint64()}
			k.Strict = r.Uint64N(2)
			p.setKeys(k)
		}
		f := families[i%2]
		opts, o := randomOptions(r)
		s := f.syn(opts)
		s.src = netip.AddrPortFrom(randomAddr(r, s.src.Addr()), uint16(r.Uint32()))
		s.seq = r.Uint32()
		if o.ECN = r.IntN(2) == 0; o.ECN {
			s.flags |= ece | cwr
		}
		o.Remote, o.Local = s.src, s.dst

		first := ticks()
		res := p.runUncounted(s.frame(), xdpMD{})
		last := ticks()
		if res.verdict != xdpTx {
			t.Fatalf("handshake %d: %s", i, verdictNames[res.verdict])
		}
		synack := cookieOf(res.frame[ethLen+f.ipLen:])
		agree := false
		var iss, tsval uint32
		for now := first; now != last+1 && !agree; now++ {
			iss, tsval, _ = MakeCookie(k, o, s.seq, now)
			agree = iss == synack.seq && tsval == synack.tsval
		}
		if !agree {
			t.Fatalf("handshake %d, %+v: program %#x %#x, twin %#x %#x", i, o, synack.seq, synack.tsval, iss, tsval)
		}

		synack.segment = segment{to: clientMAC, from: serverMAC, src: s.dst, dst: s.src, seq: synack.seq}
		a := answer(synack, s.seq+1)
		if r.IntN(4) == 0 { // change something in the ACK: both must refuse, or read the same
			a.ack ^= 1 << r.IntN(32)
		}
		first = ticks()
		res = p.runUncounted(a.frame(), xdpMD{})
		last = ticks()
		h, why := CheckCookie(k, offerOf(a), a.ack-1, a.seq-1, first)
		if (why == RedirectOpened) != (res.verdict == xdpRedirect) {
			t.Fatalf("handshake %d: %s, the twin says %s", i, verdictNames[res.verdict], reasonNames[why])
		}
		if why != RedirectOpened {
			refused++
			continue
		}
		opened++
		checkRecord(t, k, a, res.meta, first, last)
		if got, found := p.flow(a); i%64 == 0 && (!found || !bytes.Equal(record(got), res.meta)) {
			t.Fatalf("handshake %d: flow table %+v (%v), record %+v", i, got, found, h)
		}
		must(t, p.forget(flow{a.src, a.dst}))
	}
	after := p.counters()
	if n := after[RedirectOpened] - before[RedirectOpened]; n != uint64(opened) {
		t.Errorf("%d flows opened, %d counted", opened, n)
	}
	if n := after[DropBadCookie] + after[DropExpiredKey] - before[DropBadCookie] - before[DropExpiredKey]; n != uint64(refused) {
		t.Errorf("%d ACKs refused, %d counted", refused, n)
	}
	if refused < handshakes/20 || opened < handshakes/2 {
		t.Errorf("%d opened, %d refused: not the mixture that this test is for", opened, refused)
	}
}

// cookieOf reads what a SYN/ACK's TCP header has of the cookie: the sequence number and TSval.
func cookieOf(tcp []byte) (p packet) {
	p.seq = binary.BigEndian.Uint32(tcp[4:])
	if i := bytes.Index(tcp[24:min(len(tcp), 28)], []byte{8, 10}); i >= 0 {
		p.tsval = binary.BigEndian.Uint32(tcp[24+i+2:])
	}
	return p
}

func exampleOffer() Offer {
	f := families[0]
	return Offer{MSS: 1460, WScale: 7, SACK: true, Timestamps: true, Remote: f.client, Local: f.server}
}

// The SYN/ACK's TSval is never ahead of the clock that the engine goes on with, at most seven ticks
// behind it, and never goes back: whatever the window scale and ECN, also where the tick wraps.
func TestTSValFollowsTheClock(t *testing.T) {
	k := testKeys()
	o := exampleOffer()
	offset := TimestampOffset(k, o.Remote, o.Local)
	for scale := int8(-1); scale <= 14; scale++ {
		o.WScale, o.ECN = scale, scale%3 == 0
		for _, start := range []uint32{0, 1000, 1<<31 - 20, math.MaxUint32 - 20} {
			var previous uint32
			for i := range uint32(64) {
				now := start + i
				_, tsval, _ := MakeCookie(k, o, 1, now)
				if behind := now - (tsval - offset); behind > 7 {
					t.Fatalf("window scale %d, tick %#x: TSval is %d ticks behind", scale, now, int32(behind))
				}
				if i > 0 && int32(tsval-previous) < 0 {
					t.Fatalf("window scale %d, tick %#x: TSval goes back by %d", scale, now, previous-tsval)
				}
				previous = tsval
			}
		}
	}
}

// A client that takes a port out of TIME-WAIT compares our TSval with that of the connection before
// (PAWS), which had another ISN, and perhaps another key.
func TestTimestampOffsetDependsOnPortsAlone(t *testing.T) {
	k := testKeys()
	o := exampleOffer()
	_, want, _ := MakeCookie(k, o, 1, 5000)
	for generation := range uint32(4) {
		k.Current = generation
		for irs := range uint32(100) {
			if _, got, _ := MakeCookie(k, o, irs*0x9e3779b9, 5000); got != want {
				t.Fatalf("generation %d, ISN %d: TSval %#x, was %#x", generation, irs, got, want)
			}
		}
	}
	seen := map[uint32]string{TimestampOffset(k, o.Remote, o.Local): "itself"}
	for name, other := range map[string]Offer{
		"another client":      {Remote: netip.AddrPortFrom(o.Remote.Addr().Next(), o.Remote.Port()), Local: o.Local},
		"another client port": {Remote: netip.AddrPortFrom(o.Remote.Addr(), 40001), Local: o.Local},
		"another server":      {Remote: o.Remote, Local: netip.AddrPortFrom(o.Local.Addr().Next(), o.Local.Port())},
		"another server port": {Remote: o.Remote, Local: netip.AddrPortFrom(o.Local.Addr(), 444)},
	} {
		offset := TimestampOffset(k, other.Remote, other.Local)
		if clash, ok := seen[offset]; ok {
			t.Errorf("%s has the same offset as %s", name, clash)
		}
		seen[offset] = name
	}
}

// A SYN/ACK's sequence number tells nothing about the offer: opts is masked by the hash.
func TestOffersAreMasked(t *testing.T) {
	k := testKeys()
	var ones [32]int
	const n = 20_000
	for irs := range uint32(n) {
		iss, _, _ := MakeCookie(k, exampleOffer(), irs, 5000)
		for bit := range ones {
			ones[bit] += int(iss >> bit & 1)
		}
	}
	for bit := 2; bit < 32; bit++ {
		if math.Abs(float64(ones[bit])-n/2) > 5*math.Sqrt(n)/2 {
			t.Errorf("bit %d of the ISN is set in %d of %d", bit, ones[bit], n)
		}
	}
}

// A record is written and read as the program lays it out (checkRecord compares that with record).
func TestHandshakeRecord(t *testing.T) {
	h := Handshake{
		Magic: HandshakeMagic, Iss: 0x01020304, Irs: 0x05060708, TsOffset: 0x090a0b0c, RttTicks: 0x0d0e0f10,
		Mss: 0x1112, SndWscale: 0x13, Flags: 0x14,
	}
	b := make([]byte, HandshakeSize)
	EncodeHandshake(b, &h)
	if want := record(h); !bytes.Equal(b, want) {
		t.Errorf("encoded %x, want %x", b, want)
	}
	if got := DecodeHandshake(b); got != h {
		t.Errorf("decoded %+v, want %+v", got, h)
	}
	if !IsHandshake(b) {
		t.Error("is no record")
	}
	clear(b[:4]) // what a reader does, so that a stale record is not read twice
	if IsHandshake(b) {
		t.Error("is a record without the magic number")
	}
}

// define finds the value of a #define in a header.
func define(t *testing.T, file, name string) uint64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^#define ` + name + `\s+(\w+)`).FindStringSubmatch(header(t, file))
	if m == nil {
		t.Fatalf("no %s in %s", name, file)
	}
	v, err := strconv.ParseUint(strings.TrimRight(m[1], "uUlL"), 0, 64)
	must(t, err)
	return v
}

func TestConstantsAreThoseOfTheHeaders(t *testing.T) {
	spec, err := Load()
	must(t, err)
	variable := func(name string, bytes int) uint64 {
		b := make([]byte, bytes)
		must(t, spec.Variables[name].Get(b))
		if bytes == 1 {
			return uint64(b[0])
		}
		return uint64(binary.NativeEndian.Uint16(b))
	}
	for _, c := range []struct {
		name string
		goes uint64
		c    uint64
	}{
		{"HandshakeMagic", HandshakeMagic, define(t, "types.h", "HANDSHAKE_MAGIC")},
		{"HandshakeSize and Handshake", HandshakeSize, uint64(unsafe.Sizeof(Handshake{}))},
		{"HandshakeSize and flows4", HandshakeSize, uint64(spec.Maps["flows4"].ValueSize)},
		{"HandshakeSize and flows6", HandshakeSize, uint64(spec.Maps["flows6"].ValueSize)},
		{"Flow4", uint64(unsafe.Sizeof(Flow4{})), uint64(spec.Maps["flows4"].KeySize)},
		{"Flow6", uint64(unsafe.Sizeof(Flow6{})), uint64(spec.Maps["flows6"].KeySize)},
		{"CookieKeys", uint64(unsafe.Sizeof(objectCookieKeys{})), uint64(spec.Maps["keys"].ValueSize)},
		{"TickShift", TickShift, define(t, "cookie.h", "TICK_SHIFT")},
		{"CookieLifeTicks", CookieLifeTicks, define(t, "cookie.h", "COOKIE_LIFE_TICKS")},
		{"tsWScaleBits", tsWScaleBits, define(t, "cookie.h", "TS_WSCALE_BITS")},
		{"keyGenerations", keyGenerations, define(t, "types.h", "KEY_GENERATIONS")},
		{"len(CookieKeys.Key)", uint64(len(CookieKeys{}.Key)), define(t, "types.h", "KEY_GENERATIONS")},
		{"len(mssClasses)", uint64(len(mssClasses)), define(t, "cookie.h", "MSS_CLASSES")},
		{"LocalSlots", LocalSlots, 1 << define(t, "config.h", "LOCAL_SLOTS_LOG")},
		{"LocalSlots and locals4", LocalSlots, uint64(spec.Maps["locals4"].MaxEntries)},
		{"LocalSlots and locals6", LocalSlots, uint64(spec.Maps["locals6"].MaxEntries)},
		{"LocalProbes", LocalProbes, define(t, "config.h", "LOCAL_PROBES")},
		{"LocalSlot", uint64(LocalSlot(1)), define(t, "config.h", "LOCAL_MULTIPLIER") >> (32 - define(t, "config.h", "LOCAL_SLOTS_LOG"))},
		{"MaxServices", MaxServices, 8 * uint64(spec.Maps["ports"].ValueSize)},
		{"MaxQueues", MaxQueues, uint64(spec.Maps["sockets"].MaxEntries)},
		{"ReasonCount", uint64(ReasonCount), uint64(spec.Maps["counters"].MaxEntries)},
		{"Window", Window, variable("cfg_window", 2)},
		{"WindowScale", WindowScale, variable("cfg_wscale", 1)},
	} {
		if c.goes != c.c {
			t.Errorf("%s: %#x in Go, %#x in C", c.name, c.goes, c.c)
		}
	}
	for _, m := range []string{"flows4", "flows6"} {
		if spec.Maps[m].Type != ebpf.Hash { // an LRU would evict live connections
			t.Errorf("%s is a %v", m, spec.Maps[m].Type)
		}
	}
	_, list, _ := strings.Cut(header(t, "cookie.h"), "mss_class[MSS_CLASSES] = {")
	list, _, _ = strings.Cut(list, "}")
	if got, want := fmt.Sprint(mssClasses), "["+strings.ReplaceAll(strings.TrimSpace(list), ",", "")+"]"; got != want {
		t.Errorf("MSS classes: %s in Go, %s in C", got, want)
	}
	for scale, class := range []uint32{0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3} {
		if got := wscaleClass(int8(scale)); got != class {
			t.Errorf("window scale %d is of class %d, want %d", scale, got, class)
		}
	}
}

// Two hosts with the same keys booted at different times, and their clocks differ a little: each opens
// what the other answered, and neither's timestamps go back from the SYN/ACK's.
func TestHostsWithTheSameKeysShareTheirClock(t *testing.T) {
	p := load(t, options{})
	maker, checker := testKeys(), testKeys()
	checker.Clock = 5_000_000 // the maker booted so many ticks later
	p.setKeys(checker)
	for i, c := range []struct {
		ahead  int32 // ticks by which the maker's clock is ahead of the checker's
		reason Reason
	}{
		{-CookieLifeTicks, DropBadTimestamp}, {-1000, RedirectOpened}, {0, RedirectOpened}, {500, RedirectOpened},
		{CookieSkewTicks - 100, RedirectOpened}, {CookieSkewTicks + 100, DropBadTimestamp},
	} {
		for _, f := range families {
			t.Run(fmt.Sprintf("%s, %d ticks ahead", f.name, c.ahead), func(t *testing.T) {
				p := p.with(t)
				s := f.syn(nil)
				s.src = netip.AddrPortFrom(s.src.Addr(), uint16(50000+i))
				o := Offer{MSS: 1460, WScale: 7, SACK: true, Timestamps: true, Remote: s.src, Local: s.dst}
				maker.Clock = checker.Clock + uint64(int64(c.ahead))
				iss, tsval, _ := MakeCookie(maker, o, s.seq, ticks())
				synack := packet{segment: segment{src: s.dst, dst: s.src, to: clientMAC, from: serverMAC, seq: iss}, tsval: tsval}
				a := answer(synack, s.seq+1)
				if c.reason != RedirectOpened {
					p.expect(a.frame(), c.reason)
					return
				}
				h := p.open(t, checker, a)
				if behind := int32(tsval - h.TsOffset - ticks()); behind > 0 {
					t.Errorf("the engine's timestamps start %d ticks behind the SYN/ACK's", behind)
				}
			})
		}
	}
}
