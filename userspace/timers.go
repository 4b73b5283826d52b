// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"math/bits"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// timers says which of a shard's connections must be looked at when. It is a hierarchical timing wheel (Varghese and
// Lauck, 1987, scheme 7): the time of a deadline, in ticks, is a number of eight digits to the base of 64. A
// connection is filed under the highest digit in which that number differs from the present's, so a slot of level n
// spans 64^n ticks. When the present reaches a slot of a higher level, what is in it is filed again, further down. A
// deadline as far away as the clock can count has its place like any other.
//
//	level 0: 64 slots of 131 µs    2: of 537 ms    4: of 37 min    6: of 104 days
//	      1:       of 8.4 ms       3: of 34 s      5: of 39 h      7: of 18 years
//
// Filing and taking out touch one slot; a connection without deadline is nowhere. Nobody is early, and late by a tick at most.
//
// An entry is only ever moved earlier: when it comes up and the real deadline turns out to be later, it goes back in. So
// restarting a timer for every segment costs a comparison.
type timers struct {
	present  uint64 // tick up to which all has been looked at
	nonEmpty uint8  // bit n: level n has entries
	occupied [timerLevels]uint64
	slots    [timerLevels << timerBits]connList
	// The slot that due has begun to empty, whatever is filed below it meanwhile.
	draining     bool
	drainingSlot int16
}

const (
	timerTick   = 17 // shift from nanoseconds to ticks: a fraction of the millisecond that delayed ACKs are counted in
	timerBits   = 6  // of a digit
	timerLevels = 8  // 48 bits; what is left of 63 bits of nanoseconds is 46
	noTimer     = -1 // Conn.slot of one that is not filed
)

// schedule makes sure that c is looked at by its deadline.
func (t *timers) schedule(c *Conn, now tcp.Time) {
	deadline := c.deadline()
	if deadline == tcp.Never || c.slot != noTimer && c.when <= deadline {
		return
	}
	t.remove(c)
	t.advance(now)
	t.file(c, deadline)
}

func (t *timers) file(c *Conn, deadline tcp.Time) {
	tick := max(t.present, (uint64(max(deadline, 0))+1<<timerTick-1)>>timerTick)
	level := max(0, bits.Len64(tick^t.present)-1) / timerBits
	digit := tick >> (level * timerBits) % (1 << timerBits)
	c.when = deadline
	c.slot = int16(level<<timerBits | int(digit))
	t.slots[c.slot].push(c)
	t.occupied[level] |= 1 << digit
	t.nonEmpty |= 1 << level
}

func (t *timers) remove(c *Conn) {
	if c.slot == noTimer {
		return
	}
	slot := &t.slots[c.slot]
	slot.remove(c)
	if slot.head == nil {
		t.draining = t.draining && c.slot != t.drainingSlot
		level := c.slot >> timerBits
		if t.occupied[level] &^= 1 << (c.slot % (1 << timerBits)); t.occupied[level] == 0 {
			t.nonEmpty &^= 1 << level
		}
	}
	c.slot = noTimer
}

// first is the slot that comes next, and the tick that it begins with. There must be one.
func (t *timers) first() (slot int16, tick uint64) {
	if t.draining {
		return t.drainingSlot, t.present
	}
	// All of a level comes before all of the next, since it shares the present's digit there.
	level := bits.TrailingZeros8(t.nonEmpty)
	digit := bits.TrailingZeros64(t.occupied[level])
	tick = t.present>>((level+1)*timerBits)<<timerBits | uint64(digit)
	return int16(level<<timerBits | digit), tick << (level * timerBits)
}

// next is when due must be called next.
func (t *timers) next() tcp.Time {
	if t.nonEmpty == 0 {
		return tcp.Never
	}
	_, tick := t.first()
	return tcp.Time(min(tick<<timerTick, uint64(tcp.Never)))
}

// advance moves the present to now, if nothing is due before.
func (t *timers) advance(now tcp.Time) {
	if t.next() > now {
		t.present = max(t.present, uint64(now)>>timerTick)
	}
}

// due takes out a connection whose time has come; nil if there is none, or if work is used up: of that, each connection that
// is touched costs one.
func (t *timers) due(now tcp.Time, work *int) *Conn {
	for t.next() <= now {
		// What is filed again does not come into this slot: a deadline after now is beyond its first tick.
		slot, tick := t.first()
		t.present = tick
		t.draining, t.drainingSlot = true, slot
		for c := t.slots[slot].head; c != nil; c = t.slots[slot].head {
			if *work <= 0 {
				return nil
			}
			*work--
			t.remove(c)
			deadline := c.deadline()
			if deadline <= now {
				return c
			}
			if deadline != tcp.Never {
				t.file(c, deadline)
			}
		}
	}
	t.advance(now)
	return nil
}
