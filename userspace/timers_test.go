// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// timed is a connection of no shard that wants to be looked at by a time.
func timed(deadline tcp.Time) *Conn {
	return &Conn{slot: noTimer, readDeadline: deadline, writeDeadline: tcp.Never}
}

// oneTick is how late they may be.
const oneTick = tcp.Time(1 << timerTick)

// dueAll takes out all that is due, with as much work as it takes.
func dueAll(t *timers, now tcp.Time) (due []*Conn) {
	work := 1 << 30
	for c := t.due(now, &work); c != nil; c = t.due(now, &work) {
		due = append(due, c)
	}
	return due
}

func TestADeadlineComesUpInTimeHoweverFarItIs(t *testing.T) {
	const boot = tcp.Time(1_234_567_890_123)
	for _, start := range []tcp.Time{0, boot, boot &^ (1<<(timerTick+6) - 1), 1<<62 - 1} {
		for _, wait := range []time.Duration{
			0, 1, time.Microsecond, 131 * time.Microsecond, time.Millisecond, 8388 * time.Microsecond, 40 * time.Millisecond,
			time.Second, 34 * time.Second, time.Hour, 40 * time.Hour, 365 * 24 * time.Hour, 60 * 365 * 24 * time.Hour,
		} {
			t.Run(fmt.Sprintf("%v after %d", wait, start), func(t *testing.T) {
				var w timers
				c := timed(start.Add(wait))
				w.schedule(c, start)
				looks := 0
				for now := w.next(); ; now = w.next() {
					if now == tcp.Never {
						t.Fatal("it is lost")
					}
					due := dueAll(&w, now)
					if len(due) == 0 {
						if looks++; looks > timerLevels {
							t.Fatal("it is looked at again and again")
						}
						continue
					}
					if due[0] != c || now < c.readDeadline || now > max(c.readDeadline, start)+oneTick {
						t.Errorf("it came up %v late", now.Sub(c.readDeadline))
					}
					break
				}
				if w.next() != tcp.Never || w.nonEmpty != 0 {
					t.Error("something is left")
				}
			})
		}
	}
}

func TestADeadlineThatNeverComesIsNowhere(t *testing.T) {
	var w timers
	w.schedule(timed(tcp.Never), 5)
	if w.next() != tcp.Never {
		t.Error("it is in the wheel")
	}
	c := timed(tcp.Never - 1)
	w.schedule(c, 5)
	if due := dueAll(&w, tcp.Never-2); len(due) != 0 {
		t.Error("the last moment of all has come early")
	}
	w.remove(c)
	if w.next() != tcp.Never {
		t.Error("it was not taken out")
	}
}

func TestATimerThatIsRestartedIsFiledAgainOnlyWhenItComesUp(t *testing.T) {
	var w timers
	c := timed(1000 * oneTick)
	w.schedule(c, 0)
	slot := c.slot
	c.readDeadline = 5000 * oneTick
	w.schedule(c, 0)
	if c.slot != slot {
		t.Error("a later deadline moved it")
	}
	if due := dueAll(&w, 1000*oneTick); len(due) != 0 {
		t.Error("it came up before its new deadline")
	}
	if due := dueAll(&w, 5000*oneTick); len(due) != 1 {
		t.Error("it did not come up at its new deadline")
	}
	w.schedule(c, 5000*oneTick)
	if due := dueAll(&w, 5000*oneTick); len(due) != 1 {
		t.Error("a deadline that has passed does not come up at once")
	}
}

func TestNoTurnLooksAtMoreThanItsShare(t *testing.T) {
	var w timers
	const conns, share = 1000, 64
	left := map[*Conn]bool{}
	for i := range conns {
		// All in one slot of level 2 at first.
		c := timed(70*64*oneTick + tcp.Time(i%3)*oneTick)
		w.schedule(c, 0)
		left[c] = true
	}
	now := 70 * 64 * oneTick
	for turn := 0; len(left) > 0; turn++ {
		if turn > 10*conns/share {
			t.Fatalf("%d never came up", len(left))
		}
		work := share
		for c := w.due(now, &work); c != nil; c = w.due(now, &work) {
			if c.readDeadline > now {
				t.Fatal("one came up early")
			}
			delete(left, c)
		}
		if work < 0 {
			t.Fatal("it did more than its share")
		}
		if work == 0 && w.next() > now {
			t.Fatal("what is left is put off")
		}
		if work > 0 {
			now += oneTick
		}
		if turn == 3 { // one is filed in the middle, and one of those that wait is taken out
			c := timed(now + oneTick/2)
			w.schedule(c, now)
			left[c] = true
			for c := range left {
				if c.slot != noTimer {
					w.remove(c)
					delete(left, c)
					break
				}
			}
		}
	}
}

// The wheel is held to a model that knows everything: nobody is early, nobody is late, nobody is forgotten.
func TestTheWheelIsAsGoodAsLookingAtEveryone(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 7))
		var w timers
		now := tcp.Time(r.Uint64N(1 << 60))
		conns := make([]*Conn, 50)
		for i := range conns {
			conns[i] = timed(tcp.Never)
		}
		for range 3000 {
			c := conns[r.IntN(len(conns))]
			switch r.IntN(4) {
			case 0, 1: // a new deadline, of any magnitude, sometimes in the past
				c.readDeadline = max(0, now+tcp.Time(r.Uint64N(1<<(5+r.IntN(52))))-1000)
				w.schedule(c, now)
			case 2:
				c.readDeadline = tcp.Never
				if r.IntN(2) == 0 {
					w.remove(c)
				}
			case 3: // time goes by, at most until something is due; or the loop was late
				next := tcp.Never
				for _, c := range conns {
					next = min(next, c.readDeadline)
				}
				if at := w.next(); next != tcp.Never && at > next+oneTick && at > now+oneTick {
					t.Fatalf("seed %d: it would sleep until %d, and one is due at %d", seed, at, next)
				}
				now = max(now, min(w.next(), now+tcp.Time(r.Uint64N(1<<40))))
				if r.IntN(10) == 0 {
					now += tcp.Time(r.Uint64N(1 << 45))
				}
				for work := 1 + r.IntN(20); ; {
					c := w.due(now, &work)
					if c == nil {
						if work > 0 {
							break
						}
						work = 1 + r.IntN(20)
						continue
					}
					if c.readDeadline > now {
						t.Fatalf("seed %d: one is early", seed)
					}
					c.readDeadline = tcp.Never
				}
				for _, c := range conns {
					if c.readDeadline != tcp.Never && c.readDeadline+oneTick <= now {
						t.Fatalf("seed %d: one is late by %v", seed, now.Sub(c.readDeadline))
					}
				}
			}
		}
	}
}

func TestATimerCostsNoAllocation(t *testing.T) {
	var w timers
	c := timed(0)
	now := tcp.Time(0)
	if n := testing.AllocsPerRun(1000, func() {
		c.readDeadline = now.Add(time.Second)
		w.schedule(c, now)
		now = now.Add(2 * time.Second)
		work := 100
		for w.due(now, &work) != nil {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// connHeap is what timers was before: to be compared with.
type connHeap []*Conn

func (t connHeap) Len() int           { return len(t) }
func (t connHeap) Less(i, j int) bool { return t[i].when < t[j].when }
func (t connHeap) Swap(i, j int)      { t[i], t[j] = t[j], t[i]; t[i].slot0(i); t[j].slot0(j) }
func (t *connHeap) Push(x any)        { c := x.(*Conn); c.slot0(len(*t)); *t = append(*t, c) }
func (t *connHeap) Pop() any {
	old := *t
	c := old[len(old)-1]
	*t = old[:len(old)-1]
	return c
}
func (c *Conn) slot0(i int) { c.opened = tcp.Time(i) } // any field that is wide enough

// BenchmarkTimers puts a connection's timer in, and takes that which comes first out, with so many others that have
// theirs: the usual mix of delayed acknowledgments, retransmissions and idle times.
func BenchmarkTimers(b *testing.B) {
	waits := func(n int) []time.Duration {
		r := rand.New(rand.NewPCG(1, 1))
		list := make([]time.Duration, n)
		for i := range list {
			list[i] = []time.Duration{40 * time.Millisecond, 250 * time.Millisecond, 60 * time.Second, 2 * time.Hour}[r.IntN(4)]
			list[i] += time.Duration(r.IntN(int(time.Millisecond)))
		}
		return list
	}
	for _, n := range []int{10, 10_000, 1_000_000} {
		wait := waits(n)
		conns := make([]*Conn, n)
		for i := range conns {
			conns[i] = timed(tcp.Time(wait[i]))
		}
		// A restart: out, and in again with another deadline; and with every eighth, what is due comes up.
		b.Run(fmt.Sprintf("wheel/%d", n), func(b *testing.B) {
			var w timers
			now := tcp.Time(0)
			for i, c := range conns {
				c.slot, c.readDeadline = noTimer, now.Add(wait[i])
				w.schedule(c, now)
			}
			i := 0
			for b.Loop() {
				i++
				now += 1000
				c := conns[i*7919%n]
				w.remove(c)
				c.readDeadline = now.Add(wait[i%n])
				w.schedule(c, now)
				if i%8 == 0 {
					work := 1000
					for c := w.due(now, &work); c != nil; c = w.due(now, &work) {
						c.readDeadline = now.Add(wait[i%n])
						w.schedule(c, now)
					}
				}
			}
		})
		b.Run(fmt.Sprintf("heap/%d", n), func(b *testing.B) {
			var h connHeap
			now := tcp.Time(0)
			for i, c := range conns {
				c.when = now.Add(wait[i])
				heap.Push(&h, c)
			}
			i := 0
			for b.Loop() {
				i++
				now += 1000
				c := conns[i*7919%n]
				heap.Remove(&h, int(c.opened))
				c.when = now.Add(wait[i%n])
				heap.Push(&h, c)
				if i%8 == 0 {
					for h[0].when <= now {
						h[0].when = now.Add(wait[i%n])
						heap.Fix(&h, 0)
					}
				}
			}
		})
	}
}
