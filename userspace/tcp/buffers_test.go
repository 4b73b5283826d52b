// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
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

// A connection's buffers, filled and drained in every way there is, are held to models.
func TestWhatIsFilledInAndDrainedIsWhatIsSentAndReceived(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		var c Conn
		cfg := DefaultConfig()
		cfg.RecvBuffer, cfg.SendBuffer = 100_000, 100_000
		if seed%2 == 1 {
			cfg.Pool = NewPool(40)
		}
		c.Open(cfg, Handshake{MSS: 1460, RcvWnd: 65535, SACK: true}, 0)
		random := func(b []byte) []byte {
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return b
		}
		var sent, received []byte
		var fill Fill
		var drain Drain
		draining := []byte(nil)
		for range 3000 {
			switch r.IntN(8) {
			case 0:
				b := random(make([]byte, r.IntN(9000)))
				sent = append(sent, b[:c.Write(b)]...)
			case 1:
				if len(fill.Slices()) > 0 {
					n := 0
					for _, b := range fill.Slices() {
						n += len(b)
						sent = append(sent, random(b)...)
					}
					rest := r.IntN(n + 1)
					sent = sent[:len(sent)-rest]
					if took := c.Commit(&fill, n-rest); took != n-rest {
						t.Fatalf("seed %d: %d taken, want %d", seed, took, n-rest)
					}
				} else if c.Reserve(&fill, 1+r.IntN(40_000)) != (len(fill.Slices()) > 0) {
					t.Fatalf("seed %d: Reserve has lied", seed)
				}
			case 2: // some is acknowledged
				n := r.IntN(len(sent) + 1)
				c.snd.drop(n, cfg.Pool)
				sent = sent[n:]
			case 3:
				off := r.IntN(len(sent) + 1)
				dst := make([]byte, r.IntN(len(sent)-off+1))
				c.snd.copyAt(dst, off)
				if !bytes.Equal(dst, sent[off:off+len(dst)]) {
					t.Fatalf("seed %d: other bytes would be sent", seed)
				}
			case 4, 5: // a segment, now and then with the one before it missing
				b := random(make([]byte, 1+r.IntN(1400)))
				room := cfg.RecvBuffer - c.Buffered()
				if len(b) > room {
					continue
				}
				if late := r.IntN(len(b)); r.IntN(3) == 0 && late > 0 {
					c.store(c.rcvNxt.Add(late), b[late:], 0)
				}
				if before := c.Buffered(); c.store(c.rcvNxt, b, 0) {
					if c.Buffered()-before < len(b) {
						t.Fatalf("seed %d: bytes were lost", seed)
					}
					received = append(received, b...)
				}
				c.rcv.releaseOOO(cfg.Pool)
				c.rcv.releaseIfEmpty(cfg.Pool)
			case 6:
				b := make([]byte, r.IntN(9000))
				n := c.Read(b)
				if !bytes.Equal(b[:n], received[:n]) {
					t.Fatalf("seed %d: other bytes were read", seed)
				}
				received = received[n:]
			case 7:
				if draining != nil {
					if !bytes.Equal(bytes.Join(drain.Slices(), nil), draining) {
						t.Fatalf("seed %d: bytes changed while they were being written", seed)
					}
					c.GiveBack(&drain)
					draining = nil
				} else if n := c.Take(&drain); n > 0 {
					draining, received = received[:n], received[n:]
				}
			}
			if c.Buffered() != len(received) || c.Unacked() != len(sent) {
				t.Fatalf("seed %d: %d and %d bytes, want %d and %d", seed, c.Buffered(), c.Unacked(), len(received), len(sent))
			}
			// Two neighbours hold more than fits into one.
			if chunks := chainLen(c.snd.head); chunks > 2+2*len(sent)/chunkSize+1 {
				t.Fatalf("seed %d: %d chunks for %d bytes", seed, chunks, len(sent))
			}
		}
		c.Commit(&fill, 0)
		c.GiveBack(&drain)
		c.Abort()
		if n := cfg.Pool.InUse(); n != 0 {
			t.Errorf("seed %d: %d chunks left", seed, n)
		}
	}
}

func chainLen(c *chunk) (n int) {
	for ; c != nil; c = c.next {
		n++
	}
	return n
}

func TestEveryBoundCountsItsRefusals(t *testing.T) {
	t.Run("too many holes", func(t *testing.T) {
		s := newScript(t)
		for i := range maxRanges + 2 {
			s.in(wire.ACK, 10+20*i, 0, "x")
		}
		if got := s.cfg.Pool.Refusals(); got != (Refusals{OutOfOrder: 2}) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a hole when memory is short, but not what can be read", func(t *testing.T) {
		s := newScript(t, func(_ *Handshake, cfg *Config) { cfg.Pool = NewPool(8) })
		var others []*chunk
		for range 6 {
			others = append(others, s.cfg.Pool.get())
		}
		s.in(wire.ACK, 50_000, 0, "far")
		s.in(wire.ACK, 5, 0, "world")
		s.in(wire.ACK, 0, 0, "hello")
		if got := s.read(); got != "hello" {
			t.Errorf("read %q", got)
		}
		if got := s.cfg.Pool.Refusals(); got != (Refusals{OutOfOrder: 2}) {
			t.Errorf("%+v", got)
		}
		for _, c := range others {
			s.cfg.Pool.put(c)
		}
		s.in(wire.ACK, 5, 0, "world")
		if got := s.read(); got != "world" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("beyond the window", func(t *testing.T) {
		s := newScript(t)
		s.in(wire.ACK, 60_000, 0, "wholly")
		s.in(wire.ACK, 59_998, 0, "in part")
		if got := s.cfg.Pool.Refusals(); got != (Refusals{ReceiveBuffer: 2}) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("the send buffer", func(t *testing.T) {
		s := newScript(t)
		s.write(s.cfg.SendBuffer)
		if n := s.c.Write([]byte("x")); n != 0 {
			t.Errorf("it took %d more", n)
		}
		if got := s.cfg.Pool.Refusals(); got != (Refusals{SendBuffer: 1}) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("all memory", func(t *testing.T) {
		s := newScript(t, func(_ *Handshake, cfg *Config) { cfg.Pool = NewPool(1) })
		other := s.cfg.Pool.get()
		s.in(wire.ACK, 0, 0, "x")
		if got := s.cfg.Pool.Refusals(); got != (Refusals{Memory: 1}) {
			t.Errorf("%+v", got)
		}
		s.cfg.Pool.put(other)
	})
}
