// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// A rangeSet is held to a model: one bool for each number.
func TestARangeSetIsASet(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		base := Seq(r.Uint32())
		const span = 400
		var set rangeSet
		var model [span]bool
		for range 60 {
			left := r.IntN(span)
			right := left + r.IntN(min(12, span-left+1))
			if r.IntN(10) == 0 {
				set.cut(base.Add(left))
				clear(model[:left])
			} else {
				fresh := 0
				for i := left; i < right; i++ {
					if !model[i] {
						fresh++
					}
				}
				added, ok := set.add(base.Add(left), base.Add(right))
				if ok {
					for i := left; i < right; i++ {
						model[i] = true
					}
					if added != fresh {
						t.Fatalf("seed %d: %d added, want %d", seed, added, fresh)
					}
				} else if set.n != maxRanges || added != 0 {
					t.Fatalf("seed %d: refused with %d ranges", seed, set.n)
				}
			}
			for i := range model {
				if _, in := set.find(base.Add(i)); in != model[i] {
					t.Fatalf("seed %d: number %d is in: %v; ranges %v", seed, i, in, set.ranges())
				}
			}
			for i, x := range set.ranges() {
				if !x.left.Less(x.right) || i > 0 && !set.r[i-1].right.Less(x.left) {
					t.Fatalf("seed %d: ranges %v", seed, set.ranges())
				}
			}
		}
	}
}

func TestASendBufferKeepsBytesInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	pool := NewPool(0)
	var sb sendBuffer
	var model []byte
	for range 3000 {
		switch r.IntN(3) {
		case 0:
			b := make([]byte, r.IntN(9000))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			n := sb.append(b, 50000, pool)
			if want := min(len(b), 50000-len(model)); n != want {
				t.Fatalf("took %d, want %d", n, want)
			}
			model = append(model, b[:n]...)
		case 1:
			off := r.IntN(len(model) + 1)
			dst := make([]byte, r.IntN(len(model)-off+1))
			sb.copyAt(dst, off)
			if !bytes.Equal(dst, model[off:off+len(dst)]) {
				t.Fatal("other bytes")
			}
		case 2:
			n := r.IntN(len(model) + 1)
			sb.drop(n, pool)
			model = model[n:]
		}
		if held, want := pool.InUse(), (len(model)+chunkSize-1)/chunkSize; held < want || held > want+1 {
			t.Fatalf("%d chunks for %d bytes", held, len(model))
		}
	}
	sb.drop(len(model), pool)
	if pool.InUse() != 0 {
		t.Errorf("%d chunks left", pool.InUse())
	}
}

func TestThePoolGivesWhatItHas(t *testing.T) {
	p := NewPool(2)
	a, b := p.get(), p.get()
	if p.get() != nil || p.Refusals().Memory != 1 || p.InUse() != 2 {
		t.Errorf("%d in use, %d refused", p.InUse(), p.Refusals().Memory)
	}
	p.put(a)
	if p.get() != a {
		t.Error("what was given back is not used again")
	}
	p.putAll(a)
	p.put(b)
	if p.Free() != 2 || p.InUse() != 0 {
		t.Errorf("%d free, %d in use", p.Free(), p.InUse())
	}
	p.Trim(1)
	if p.Free() != 1 {
		t.Errorf("%d free after Trim", p.Free())
	}
}

func TestWhatIsFreeForLongGoesBack(t *testing.T) {
	p := NewPool(0)
	var held []*chunk
	take := func(n int) {
		for range n {
			held = append(held, p.get())
		}
	}
	give := func() {
		for _, c := range held {
			p.put(c)
		}
		held = nil
	}
	take(100)
	give()
	p.TrimUnused() // it has not been free for long yet
	if p.Free() != 100 {
		t.Errorf("%d free, want all 100", p.Free())
	}
	take(30)
	give()
	p.TrimUnused()
	if p.Free() != 30 {
		t.Errorf("%d free, want the 30 that were needed since", p.Free())
	}
	take(3 * maxTrim)
	give()
	p.TrimUnused()
	for i := range 3 {
		if p.TrimUnused(); p.Free() != (2-i)*maxTrim {
			t.Errorf("%d free after %d times", p.Free(), i+1)
		}
	}
	p.putSet(p.getSet())
	if p.TrimUnused(); p.freeSets == nil {
		t.Error("a rangeSet that was just needed went back")
	}
	if p.TrimUnused(); p.freeSets != nil {
		t.Error("a rangeSet that nobody needed was kept")
	}
}
