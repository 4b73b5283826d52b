// SPDX-License-Identifier: Apache-2.0

package afxdp

import (
	"math"
	"runtime"
	"sync/atomic"
	"testing"
)

// newFakeRings returns both ends of one ring in ordinary memory, with the indices at start.
func newFakeRings(size int, start uint32) (*producer[uint64], *consumer[uint64]) {
	words := new([3]uint32)
	words[0], words[1] = start, start
	r := ring[uint64]{
		producer: &words[0], consumer: &words[1], flags: &words[2],
		entries: make([]uint64, size), mask: uint32(size - 1),
		ours: start, theirs: start,
	}
	return &producer[uint64]{r}, &consumer[uint64]{r}
}

var ringStarts = map[string]uint32{
	"from zero":                        0,
	"across the wrap of 2^32":          math.MaxUint32 - 5,
	"across the sign bit":              math.MaxInt32 - 5,
	"from an index that is not a slot": 7,
}

func TestRingKeepsOrderAndCount(t *testing.T) {
	for name, start := range ringStarts {
		t.Run(name, func(t *testing.T) {
			const size = 8
			p, c := newFakeRings(size, start)
			next, want := uint64(0), uint64(0)
			to := make([]uint64, size)
			// Every pair of fill level and batch that fits, several times round the ring.
			for step := range 200 {
				put := step % (size + 1)
				room := p.room(put)
				if wantRoom := size - int(next-want); room < min(put, wantRoom) || room > wantRoom {
					t.Fatalf("step %d: room(%d) = %d, want %d", step, put, room, wantRoom)
				}
				put = min(put, room)
				for i := range put {
					p.set(i, next)
					next++
				}
				p.publish(put)
				if got := int(c.pending()); got != int(next-want) {
					t.Fatalf("step %d: pending %d, want %d", step, got, next-want)
				}
				n := c.pop(to[:(step*3)%(size+1)])
				for _, v := range to[:n] {
					if v != want {
						t.Fatalf("step %d: popped %d, want %d", step, v, want)
					}
					want++
				}
			}
			if next < 3*size {
				t.Fatalf("only %d entries went through", next)
			}
		})
	}
}

func TestRingIsFullAtItsSizeAndEmptyAtNothing(t *testing.T) {
	for name, start := range ringStarts {
		t.Run(name, func(t *testing.T) {
			p, c := newFakeRings(4, start)
			if n := c.pop(make([]uint64, 4)); n != 0 {
				t.Fatalf("popped %d from an empty ring", n)
			}
			for i := range 4 {
				p.set(i, uint64(i))
			}
			p.publish(4)
			if n := p.room(1); n != 0 {
				t.Fatalf("room for %d in a full ring", n)
			}
			if n := c.pop(make([]uint64, 3)); n != 3 {
				t.Fatalf("popped %d of 3", n)
			}
			if n := p.room(4); n != 3 {
				t.Fatalf("room for %d after 3 were taken", n)
			}
		})
	}
}

func TestZeroRingHasNeitherRoomNorEntries(t *testing.T) {
	p := producer[uint64]{ring[uint64]{consumer: new(uint32)}}
	c := consumer[uint64]{ring[uint64]{producer: new(uint32)}}
	if p.room(1) != 0 || c.pop(make([]uint64, 1)) != 0 {
		t.Fatal("a ring without entries gave some")
	}
}

func TestRingReadsNeedWakeup(t *testing.T) {
	p, _ := newFakeRings(4, 0)
	if p.needWakeup() {
		t.Fatal("flag seen that is not set")
	}
	atomic.StoreUint32(p.flags, 1)
	if !p.needWakeup() {
		t.Fatal("flag not seen")
	}
}

// Under -race this checks the contract itself: entries and payload are plain memory, and only the
// atomic indices order them between the two goroutines.
func TestRingHandsEntriesBetweenThreads(t *testing.T) {
	const size, total = 64, 100_000
	p, c := newFakeRings(size, math.MaxUint32-total/2)
	// The frames that the entries name. Twice as many as entries: pop gives the entry back at
	// once, and the frame is read after that.
	payload := make([]uint64, 2*size)
	go func() {
		for sent := uint64(0); sent < total; {
			n := min(p.room(16), 16, int(total-sent))
			for i := range n {
				payload[sent%(2*size)] = ^sent
				p.set(i, sent)
				sent++
			}
			if n > 0 {
				p.publish(n)
			} else {
				runtime.Gosched()
			}
		}
	}()
	var got [1]uint64
	for want := uint64(0); want < total; {
		if c.pop(got[:]) == 0 {
			runtime.Gosched()
			continue
		}
		if got[0] != want || payload[want%(2*size)] != ^want {
			t.Fatalf("entry %d: got %d with payload %#x", want, got[0], payload[want%(2*size)])
		}
		want++
	}
}
