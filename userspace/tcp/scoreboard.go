// SPDX-License-Identifier: Apache-2.0

package tcp

// A record is the last transmission of some octets that have not been acknowledged: one segment's, as a rule.
type record struct {
	left, right Seq  // left is SND.UNA or after it
	at          Time // of the transmission
	state       recordState
	resent      bool // it was not the first transmission: an ACK may be for an earlier one (Karn)
	blurred     bool // more than one segment, of which at is the last one's time
	segs        int32

	next         *record // by sequence number; in the pool, too
	older, newer *record // by time: only those inFlight
}

// recordState says where a record's octets are taken to be.
type recordState uint8

const (
	inFlight recordState = iota // in the network
	lost                        // to be sent again
	sacked                      // with the peer (RFC 2018)
)

func (r *record) len() int { return int(r.right.Sub(r.left)) }

// A scoreboard is all that is known about the octets between SND.UNA and SND.NXT: when they were sent (RFC 8985), which of them have
// arrived (RFC 6675's scoreboard), and how the recovery of the others goes. It comes from the pool with the first octet sent, and
// goes back with the last one acknowledged.
//
//	first                                       last
//	[lost] -> [ sacked ] -> [lost] -> [inFlight] -> [inFlight]
//	^ SND.UNA                                                ^ SND.NXT
//
// A segment is a record. But what the peer holds is joined, so looking for a place takes as long as there are holes.
type scoreboard struct {
	first, last    *record // by sequence number
	oldest, newest *record // of those inFlight, by time
	lost           *record // the first one lost
	records        int32

	// Octets in each state, and segments sacked.
	pipe, lostOctets, sackedOctets, sackedSegs int32

	dupAcks  uint8
	dupBytes int32 // without SACK: what duplicate ACKs say has left the network
	rttSeq   Seq   // the round trip that the estimator has had a sample of ends here

	timerAt  Time // of the reordering timer, or of the probe; Never when off
	timerTLP bool

	rack rack
	tlp  tailProbe
	prr  prr
	undo undo
	frto frtoState

	// congestionEvent has reduced cwnd for what is before reducedTo.
	reduced   bool
	reducedTo Seq

	next *scoreboard // in the pool
}

// getScoreboard gives an empty scoreboard.
func (p *Pool) getScoreboard() *scoreboard {
	f := p.freeScoreboards
	if f == nil {
		f = new(scoreboard)
	}
	p.freeScoreboards = f.next
	// What counts records is zero since the last one has gone. prr is set when recovery begins; of the rest, flags are enough.
	f.dupAcks, f.dupBytes = 0, 0
	f.timerAt, f.timerTLP = Never, false
	f.rack.at, f.rack.rtt, f.rack.inRound = 0, 0, false
	f.tlp = tailProbe{}
	f.undo.active = false
	f.frto = frtoOff
	f.reduced = false
	return f
}

// putScoreboard takes a scoreboard back with all its records.
func (p *Pool) putScoreboard(f *scoreboard) {
	for f.first != nil {
		f.dropFirst(p)
	}
	f.next = p.freeScoreboards
	p.freeScoreboards = f
}

func (p *Pool) getRecord() *record {
	r := p.freeRecords
	if r == nil {
		return new(record)
	}
	p.freeRecords = r.next
	p.nfreeRecords--
	return r
}

func (p *Pool) putRecord(r *record) {
	r.next = p.freeRecords
	p.freeRecords = r
	p.nfreeRecords++
}

// calm reports that nothing is known or suspected to be missing.
func (f *scoreboard) calm() bool {
	return f.lostOctets|f.sackedOctets|f.dupBytes == 0 && !f.tlp.out && !f.undo.active
}

// reducedBefore reports whether congestionEvent has reduced cwnd for the window that begins at una.
func (f *scoreboard) reducedBefore(una Seq) bool { return f.reduced && una.Less(f.reducedTo) }

// crowded is the bound on records: on average one for each quarter of a segment's octets, besides the first 64. It takes an
// application that writes byte by byte, or a peer that acknowledges so, to get there.
func (f *scoreboard) crowded(mss int) bool {
	return f.records >= 64 && int(f.records-64)*mss > 4*int(f.pipe+f.lostOctets+f.sackedOctets)
}

// push notes a segment of new octets.
func (f *scoreboard) push(left, right Seq, mss int, now Time, pool *Pool) {
	n := int32(right.Sub(left))
	f.pipe += n
	if r := f.last; r != nil && r.state == inFlight && !r.resent && f.crowded(mss) {
		r.right = right
		r.blurred = true
		f.unlink(r)
		f.link(r, now)
		return
	}
	r := pool.getRecord()
	*r = record{left: left, right: right, at: now, segs: 1}
	if f.last == nil {
		f.first = r
	} else {
		f.last.next = r
	}
	f.last = r
	f.records++
	f.link(r, now)
}

// link makes r the newest transmission.
func (f *scoreboard) link(r *record, now Time) {
	r.at = now
	r.older, r.newer = f.newest, nil
	if f.newest == nil {
		f.oldest = r
	} else {
		f.newest.newer = r
	}
	f.newest = r
}

// unlink takes r out of the list by time.
func (f *scoreboard) unlink(r *record) {
	if r.older == nil {
		f.oldest = r.newer
	} else {
		r.older.newer = r.newer
	}
	if r.newer == nil {
		f.newest = r.older
	} else {
		r.newer.older = r.older
	}
}

// leave takes r's octets out of the state that it is in.
func (f *scoreboard) leave(r *record) {
	n := int32(r.len())
	switch r.state {
	case inFlight:
		f.pipe -= n
		f.unlink(r)
	case lost:
		f.lostOctets -= n
		if f.lost == r {
			f.lost = f.nextLost(r.next)
		}
	case sacked:
		f.sackedOctets -= n
		f.sackedSegs -= r.segs
	}
}

// nextLost is the first lost record from r on.
func (f *scoreboard) nextLost(r *record) *record {
	if f.lostOctets == 0 {
		return nil
	}
	for r != nil && r.state != lost {
		r = r.next
	}
	return r
}

// markLost takes a record in flight for lost.
func (f *scoreboard) markLost(r *record) {
	f.leave(r)
	r.state = lost
	f.lostOctets += int32(r.len())
	if f.lost == nil || r.left.Less(f.lost.left) {
		f.lost = r
	}
}

// markSent is the retransmission of r, which is not sacked.
func (f *scoreboard) markSent(r *record, now Time) {
	f.leave(r)
	r.state = inFlight
	r.resent = true
	f.pipe += int32(r.len())
	f.link(r, now)
}

// markSacked is the arrival of r.
func (f *scoreboard) markSacked(r *record) {
	f.leave(r)
	r.state = sacked
	f.sackedOctets += int32(r.len())
	f.sackedSegs += r.segs
}

// markAllLost takes all for lost that is in flight.
func (f *scoreboard) markAllLost() {
	for f.oldest != nil {
		f.markLost(f.oldest)
	}
}

// forgetSACK takes all that was sacked for lost: the peer has thrown it away (RFC 2018, 8).
func (f *scoreboard) forgetSACK() {
	for r := f.first; r != nil; r = r.next {
		if r.state == sacked {
			f.leave(r)
			r.state = lost
			f.lostOctets += int32(r.len())
		}
	}
	f.lost = f.nextLost(f.first)
}

// markNoneLost takes all that is lost for in flight, since it was sent.
func (f *scoreboard) markNoneLost() {
	for f.lost != nil {
		r := f.lost
		f.leave(r)
		r.state = inFlight
		f.pipe += int32(r.len())
		// To its place in time.
		after := f.newest
		for after != nil && sentAfter(after.at, after.right, r.at, r.right) {
			after = after.older
		}
		r.older = after
		if after == nil {
			r.newer, f.oldest = f.oldest, r
		} else {
			r.newer, after.newer = after.newer, r
		}
		if r.newer == nil {
			f.newest = r
		} else {
			r.newer.older = r
		}
	}
}

// split makes two records of r, the second of which begins at seq.
func (f *scoreboard) split(r *record, seq Seq, pool *Pool) {
	n := pool.getRecord()
	*n = *r
	n.left, r.right = seq, seq
	n.segs = 1
	if r.state == sacked {
		f.sackedSegs++
	}
	r.next = n
	if f.last == r {
		f.last = n
	}
	f.records++
	if r.state == inFlight {
		n.older, r.newer = r, n
		if n.newer == nil {
			f.newest = n
		} else {
			n.newer.older = n
		}
	}
}

// join takes the record behind r, which is in the same state and not inFlight, into r.
func (f *scoreboard) join(r *record, pool *Pool) {
	n := r.next
	if f.lost == n {
		f.lost = r
	}
	r.right = n.right
	r.segs += n.segs
	r.resent = r.resent || n.resent
	r.next = n.next
	if f.last == n {
		f.last = r
	}
	f.records--
	pool.putRecord(n)
}

// dropFirst forgets the first record.
func (f *scoreboard) dropFirst(pool *Pool) {
	r := f.first
	f.leave(r)
	f.first = r.next
	if r.next == nil {
		f.last = nil
	}
	f.records--
	pool.putRecord(r)
}

// trimFirst forgets the octets of the first record that are before seq.
func (f *scoreboard) trimFirst(seq Seq) {
	r := f.first
	n := int32(seq.Sub(r.left))
	r.left = seq
	switch r.state {
	case inFlight:
		f.pipe -= n
	case lost:
		f.lostOctets -= n
	case sacked:
		f.sackedOctets -= n
	}
}

// releaseFlight gives the scoreboard back.
func (c *Conn) releaseFlight() {
	if c.flight != nil {
		c.cfg.Pool.putScoreboard(c.flight)
		c.flight = nil
	}
}
