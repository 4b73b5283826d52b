// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// burstFrame is a TCP segment over IPv4 of any length, as far as the kernel looks at it.
func burstFrame(b []byte, payload int) Burst {
	const headers = 14 + 20 + 20
	clear(b[:headers])
	copy(b, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00")
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+payload))
	copy(ip[12:], "\xc0\x00\x02\x01\xc0\x00\x02\x02")
	tcp := ip[20:]
	tcp[12], tcp[13] = 5<<4, 0x10
	return Burst{Len: headers + payload, Headers: headers, TCP: 34, MSS: 1460}
}

func TestABurstArrivesAsSegments(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{TxFrames: 16, Bursts: true})
	arrived := l.countArrivals(t) // an XDP program at the peer, so the device does not take it whole
	if s.ZeroCopy() || len(s.Burst()) != MaxBurst {
		t.Fatalf("no room for a burst: %d bytes", len(s.Burst()))
	}
	before := arrived(t)
	must(t, s.TransmitBurst(burstFrame(s.Burst(), 10*1460+100), 11))
	must(t, s.TransmitBurst(burstFrame(s.Burst(), 44*1460), 44))
	if got := arrived(t) - before; got != 55 {
		t.Errorf("%d frames arrived, want 55", got)
	}
	want := uint64(54*1460 + 100 + 55*54)
	if st := get(s.Stats())(t); st.TxBursts != 2 || st.TxFrames != 55 || st.TxBytes != want {
		t.Errorf("counted %+v", st)
	}
	wantChunksAccounted(t, s)
}

func TestWhoDoesNotAskForBurstsHasNone(t *testing.T) {
	l := newLab(t)
	if s := l.open(t, Config{}); s.Burst() != nil {
		t.Error("there is room for one")
	}
}

func TestABurstGoesBehindWhatIsOnTheRing(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{TxFrames: 16, Bursts: true})
	arrived := l.countArrivals(t)
	before := arrived(t)
	d, _ := s.Alloc()
	d.Len = 60
	fillFrame(s.Frame(d), true, 1)
	s.Transmit([]Desc{d})
	must(t, s.TransmitBurst(burstFrame(s.Burst(), 2*1460), 2))
	if got := arrived(t) - before; got != 3 || s.Pending() != 0 {
		t.Errorf("%d frames arrived, %d are on the ring", got, s.Pending())
	}
	// While another goroutine is at the ring, who knows what is still there?
	if !s.flushing.enter() {
		t.Fatal("somebody is flushing")
	}
	if err := s.TransmitBurst(burstFrame(s.Burst(), 2*1460), 2); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a burst beside another goroutine's flush: %v", err)
	}
	s.flushing.leave()
}

func TestAKernelThatRefusesABurstSaysSo(t *testing.T) {
	l := newLab(t)
	s := l.open(t, Config{TxFrames: 16, Bursts: true})
	b := burstFrame(s.Burst(), 2*1460)
	b.MSS = 0
	if err := s.TransmitBurst(b, 2); !errors.Is(err, unix.EINVAL) {
		t.Errorf("no segment size: %v", err)
	}
	if st := get(s.Stats())(t); st.TxBursts != 0 || st.TxFrames != 0 {
		t.Errorf("counted %+v", st)
	}
}

// Whatever somebody wanted done is done by the time that nobody is inside any more.
func TestATurnstileLosesNobody(t *testing.T) {
	var gate turnstile
	var wanted, done atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20000 {
				wanted.Add(1)
				if !gate.enter() {
					continue
				}
				for {
					done.Store(wanted.Load())
					if gate.leave() {
						break
					}
				}
			}
		})
	}
	all.Wait()
	if gate.taken() || done.Load() != wanted.Load() {
		t.Errorf("%d of %d done, still taken: %v", done.Load(), wanted.Load(), gate.taken())
	}
}

func TestATurnstileKeepsNobodyForEver(t *testing.T) {
	for name, row := range map[string]struct {
		others, calls int // who come while the one inside is at it, each time one; how often it does it
		through       bool
	}{
		"nobody comes":    {0, 1, true},
		"two come":        {2, 3, true},
		"they don't stop": {1000, 5, false},
	} {
		var gate turnstile
		calls := 0
		through := gate.enter() && gate.do(5, func() {
			calls++
			if calls <= row.others && gate.enter() {
				t.Errorf("%s: two are inside", name)
			}
		})
		if calls != row.calls || through != row.through || gate.taken() {
			t.Errorf("%s: %d calls, through %t, still taken %t", name, calls, through, gate.taken())
		}
	}
}
