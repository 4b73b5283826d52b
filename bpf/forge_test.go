// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"flag"
	"math"
	"math/bits"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// What a forged connection costs, in ACKs: cookie.h computes it, and this is how often it happens.
//
// Of CI's 2^21 ACKs per format, 2^-3 are expected to have a right MAC, 2^-6 with strict cookies; what has
// power there is how many of the MAC's bits match by chance (TestMACBitsMatchByChance). A long run,
//
//	go test ./bpf -run RandomAcks -v -timeout 1h -forge.acks=1073741824
//
// expects 64 right MACs, 8 with strict cookies, and of the 64 with timestamps 2^-10 to be accepted; the
// program, which gets a quarter, a quarter of that.
var forgeAcks = flag.Uint64("forge.acks", 1<<21, "random ACKs per format that the twin checks; the program checks a quarter")

// A format is one of the ways in which a cookie travels.
type format struct {
	name       string
	timestamps bool
	strict     uint64
	bits       int // of the ISN that are judged
}

var formats = []format{
	{"with timestamps", true, 0, 24},
	{"without timestamps", false, 0, 24},
	{"without timestamps, strict", false, 1, 27},
}

// checkRate fails if chance gives so few, or so many, in less than one of 10^5 runs. The seeds are fixed, so
// a test that passed goes on to pass.
func checkRate(t *testing.T, what string, got, of uint64, bits float64) {
	t.Helper()
	expected := float64(of) / math.Exp2(bits)
	t.Logf("%s: %d of %d, expected %.3g", what, got, of, expected)
	if least, most := poisson(expected, got); least < 1e-5 || most < 1e-5 {
		t.Errorf("%s: %d of %d, expected %.3g: by chance that would be one of %.1g runs", what, got, of, expected, 1/min(least, most))
	}
}

// poisson is how probable it is to see n or more, and n or fewer, of what is expected so often.
func poisson(expected float64, n uint64) (orMore, orFewer float64) {
	at := func(k uint64) float64 {
		gamma, _ := math.Lgamma(float64(k) + 1)
		return math.Exp(float64(k)*math.Log(expected) - expected - gamma)
	}
	below := 0.0
	for k := range n {
		below += at(k)
	}
	return 1 - below, below + at(n)
}

// inParallel gives each CPU its share of n, under a number of its own.
func inParallel(n uint64, do func(worker int, n uint64)) {
	workers := runtime.GOMAXPROCS(0)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() { do(w, n/uint64(workers)) })
	}
	group.Wait()
}

// Random ACKs, checked by the twin: 2^-24 have a right MAC, 2^-27 with strict cookies. With timestamps 2^-16
// of those have one that is young enough: 2^-40 in all.
func TestRandomAcksAreRefusedAtTheComputedRate(t *testing.T) {
	for i, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			k := testKeys()
			k.Valid, k.Strict = 15, f.strict
			var lock sync.Mutex
			var right, accepted uint64
			start := time.Now()
			inParallel(*forgeAcks, func(worker int, n uint64) {
				r := random(uint64(100*i + worker))
				matched, opened := uint64(0), uint64(0)
				o := exampleOffer()
				o.Timestamps = f.timestamps
				for range n {
					v := r.Uint64()
					o.Remote = netip.AddrPortFrom(families[v>>16&1].client.Addr(), uint16(v))
					o.Local = families[v>>16&1].server
					o.TSEcr = uint32(v >> 20)
					switch _, why := CheckCookie(k, o, r.Uint32(), uint32(v>>32), 5000); why {
					case RedirectOpened:
						matched++
						opened++
					case DropBadTimestamp:
						matched++
					}
				}
				lock.Lock()
				defer lock.Unlock()
				right += matched
				accepted += opened
			})
			t.Logf("%d ACKs in %v", *forgeAcks, time.Since(start).Round(time.Millisecond))
			checkRate(t, "right MACs", right, *forgeAcks, float64(f.bits))
			if f.timestamps {
				checkRate(t, "accepted", accepted, *forgeAcks, 40)
			}
		})
	}
}

// The same through the program, with ACKs that carry a byte of data, so that no checksum hides one whose
// cookie is right.
func TestTheProgramRefusesRandomAcks(t *testing.T) {
	acks := *forgeAcks / 4
	for i, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			var lock sync.Mutex
			var sum [ReasonCount]uint64
			programs := make([]*program, runtime.GOMAXPROCS(0))
			for w := range programs {
				k := testKeys()
				k.Valid, k.Strict = 15, f.strict
				programs[w] = load(t, options{shared: true})
				programs[w].setKeys(k)
			}
			start := time.Now()
			played := uint64(0)
			inParallel(acks, func(worker int, n uint64) {
				counts, err := programs[worker].refuseRandom(uint64(200*i+worker), n, f.timestamps)
				if err != nil {
					t.Error(err)
				}
				lock.Lock()
				defer lock.Unlock()
				played += n
				for i := range sum {
					sum[i] += counts[i]
				}
			})
			t.Logf("%d ACKs in %v", played, time.Since(start).Round(time.Millisecond))
			right := sum[RedirectOpened] + sum[DropBadTimestamp]
			if n := right + sum[DropBadCookie]; n != played {
				t.Errorf("%d of %d are accounted for: %v", n, played, sum)
			}
			checkRate(t, "right MACs", right, played, float64(f.bits))
			if f.timestamps {
				checkRate(t, "accepted", sum[RedirectOpened], played, 40)
			}
		})
	}
}

// refuseRandom runs n random ACKs through the program, and tells the counters.
func (p *program) refuseRandom(seed, n uint64, timestamps bool) ([ReasonCount]uint64, error) {
	r := random(seed)
	type prepared struct {
		segment
		frame []byte
		at    int // of TCP
	}
	var acks []prepared
	for _, f := range families {
		s := f.segment(ack, nil)
		s.payload = []byte{1}
		if timestamps {
			s.options = slices.Concat(nop, nop, optTS(0, 0))
		}
		frame, _, at := s.build()
		acks = append(acks, prepared{s, frame, at})
	}
	out := make([]byte, 512)
	for i := range n {
		a := acks[i&1]
		binary.BigEndian.PutUint16(a.frame[a.at:], uint16(r.Uint32()))
		binary.BigEndian.PutUint64(a.frame[a.at+4:], r.Uint64()) // both numbers
		if timestamps {
			binary.BigEndian.PutUint32(a.frame[a.at+28:], r.Uint32())
		}
		res, err := testRun(p.Xdptcp.FD(), a.frame, xdpMD{DataEnd: uint32(len(a.frame))}, out)
		if err != nil {
			return [ReasonCount]uint64{}, err
		}
		if res.verdict == xdpRedirect { // opened: not to be known when the same port comes again
			if err := p.forget(flow{netip.AddrPortFrom(a.src.Addr(), be16(a.frame[a.at:])), a.dst}); err != nil {
				return [ReasonCount]uint64{}, err
			}
		}
	}
	return p.mem.counters(), nil
}

// Whatever a forger puts there, one in 2^24 cookies is right: with the low byte given, exactly one
// of the values of the others. Of the 64 values of what a client says of itself all are, or those 8
// without window scale and SACK.
func TestOneCookieInTwoToThe24IsRight(t *testing.T) {
	for _, f := range formats {
		k := testKeys()
		k.Strict = f.strict
		o := exampleOffer()
		o.Timestamps = f.timestamps
		iss, tsval, _ := MakeCookie(k, o, 77, 5000)
		o.TSEcr = tsval
		// All values of 18 bits, then of each of the other 6 alone: what a mask of fewer bits lets through shows.
		accepted := 0
		for i := range uint32(1 << 18) {
			if _, why := CheckCookie(k, o, iss&0xfc0000ff|i<<8, 77, 5000); why == RedirectOpened {
				accepted++
			}
		}
		if accepted != 1 {
			t.Errorf("%s: %d of 2^18 cookies are right, want one", f.name, accepted)
		}
		for bit := 26; bit < 32; bit++ {
			if _, why := CheckCookie(k, o, iss^1<<bit, 77, 5000); why != DropBadCookie {
				t.Errorf("%s, bit %d: %s", f.name, bit, reasonNames[why])
			}
		}
		for opts := range uint32(64) {
			want := RedirectOpened
			if f.strict != 0 && opts&7 != 0 {
				want = DropBadCookie
			}
			if _, why := CheckCookie(k, o, iss^opts<<2, 77, 5000); why != want {
				t.Errorf("%s, opts %d: %s, want %s", f.name, opts, reasonNames[why], reasonNames[want])
			}
		}
	}
}

// A forger may know other cookies, of connections that differ in as little as a port or a number. They tell
// nothing: the first k bits of two MACs are the same as often as chance has it, for every k, and so is
// each bit alone. A MAC that mixes badly, or has a bit that depends on nothing, fails.
func TestMACBitsMatchByChance(t *testing.T) {
	const n = 1 << 20
	k := testKeys()
	for _, timestamps := range []bool{true, false} {
		var leading [25]uint64 // by how many at least
		var each [32]uint64
		o := exampleOffer()
		o.Timestamps = timestamps
		previous := uint32(0)
		for i := range uint32(n) {
			o.Remote = netip.AddrPortFrom(families[i%2].client.Addr(), uint16(i>>1))
			o.Local = families[i%2].server
			iss, _, _ := MakeCookie(k, o, i>>8, 5000)
			differs := iss ^ previous // of the same offer, so of the MACs and masks
			previous = iss
			for n := min(bits.LeadingZeros32(differs), 24); n > 0; n-- {
				leading[n]++
			}
			for bit := range each {
				each[bit] += uint64(^differs >> bit & 1)
			}
		}
		check := func(what string, bit int, got uint64, expected float64) {
			if off := math.Abs(float64(got) - expected); off > 5*math.Sqrt(expected)+5 {
				t.Errorf("timestamps %v: %s %d in %d of %d MACs, want about %.0f", timestamps, what, bit, got, n, expected)
			}
		}
		for bits := 1; bits <= 19; bits++ {
			check("the same first bits, at least", bits, leading[bits], math.Ldexp(n, -bits))
		}
		for bit := 2; bit < 32; bit++ { // all that the MAC and the mask of opts have
			check("the same bit", bit, each[bit], n/2)
		}
	}
}

// With the right cookie and a random echoed timestamp, 2^16 of 2^32 are accepted.
func TestRandomTimestampsAreRefusedAtTheComputedRate(t *testing.T) {
	const n = 1 << 21
	r := random(3)
	k := testKeys()
	o := exampleOffer()
	iss, _, _ := MakeCookie(k, o, 77, 5000)
	accepted := uint64(0)
	for range n {
		o.TSEcr = r.Uint32()
		if _, why := CheckCookie(k, o, iss, 77, 5000); why == RedirectOpened {
			accepted++
		} else if why != DropBadTimestamp {
			t.Fatal(reasonNames[why])
		}
	}
	checkRate(t, "accepted", accepted, n, 16)
}
