// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// polling says who waits for a shard's frames: its loop, or for a time the reader of a connection.
//
// The loop has to wake a reader for what it took in. That costs more than all else about a small segment, because the Go
// runtime then wakes a second thread as well, in case there is more to do. So when nothing happens but on one connection, whose
// reader is back before long every time, that reader waits for frames itself, and takes them in, when it finds nothing to read.
// The loop stands by: it looks every standByTick whether the reader has stayed away, and then takes over again.
//
// The shard's lock covers all of it. At any time one goroutine at most is in Link.Wait: the one that set busy.
type polling struct {
	busy   bool  // somebody waits for frames
	reader *Conn // whose reader it is; nil: the loop, or nobody
	rounds uint  // how often readers have begun to wait

	solo  *Conn // the connection that alone had input,
	turns int   // in so many turns
	quick int   // how many turns make its reader eligible

	parked bool      // the loop sleeps until it is called
	call   sync.Cond // of the loop
}

const (
	standByTick = 200 * time.Microsecond
	quickMin    = 16
	quickMax    = 1 << 14
)

// noteTurn takes in whose input this turn has had.
func (p *polling) noteTurn(dirty []*Conn) {
	switch {
	case len(dirty) == 0:
	case len(dirty) == 1 && dirty[0] == p.solo:
		p.turns++
	case len(dirty) == 1:
		p.solo, p.turns, p.quick = dirty[0], 1, quickMin
	default:
		p.solo, p.turns = nil, 0
	}
}

// standBy returns when it is the loop's turn to wait for frames, and for how long. The lock is not held.
func (s *shard) standBy() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.polling
	for lent := false; p.busy || lent; {
		// The reader comes and goes. It is away for too long if nobody waits for frames, and nobody has begun to.
		seen, idle := p.rounds, p.busy
		s.mu.Unlock()
		tick := unix.NsecToTimespec(int64(standByTick))
		_ = unix.Nanosleep(&tick, nil) // a timer of Go's would wait for a millisecond
		s.mu.Lock()
		lent = true
		switch {
		case s.engine.stopping():
			lent, p.busy = false, false
		case p.rounds != seen:
		case !p.busy:
			p.turns, p.quick = 0, min(2*p.quick, quickMax) // not as quick as it seemed
			lent = false
		case idle:
			p.parked = true // nothing happens: the reader calls when it leaves
			p.call.Wait()
			p.parked = false
		}
	}
	p.busy, p.reader = true, nil
	return s.timeout()
}

// mayPoll reports whether c's reader should wait for frames itself. Its deadline is among the shard's timers, which it then sees to.
func (s *shard) mayPoll(c *Conn) bool {
	p := &s.polling
	return !p.busy && p.solo == c && p.turns >= p.quick && !s.engine.stopping()
}

// poll waits for frames in the place of the loop, and takes them in. The lock is held, but not meanwhile.
func (s *shard) poll(c *Conn) {
	p := &s.polling
	p.busy, p.reader = true, c
	p.rounds++
	timeout := s.timeout()
	s.unlock()
	_, err := s.link.Wait(timeout)
	s.mu.Lock()
	s.takeTurn()
	if p.parked {
		p.call.Signal()
	}
	if err != nil {
		c.canRead.Wait() // the loop finds that out for itself, and ends all connections
	}
}

// recall has c's reader look up, should it be the one that waits for frames.
func (s *shard) recall(c *Conn) {
	if s.polling.reader == c {
		s.link.Wake()
	}
}

// recallLoop ends the loop's standing by, when the engine stops.
func (s *shard) recallLoop() {
	s.mu.Lock()
	s.polling.call.Broadcast()
	s.mu.Unlock()
	s.link.Wake()
}
