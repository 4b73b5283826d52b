// SPDX-License-Identifier: Apache-2.0

package tcp

import "github.com/xdptcp/xdptcp/userspace/wire"

// inputText is the seventh and eighth step of RFC 9293, 3.10.7.4: an acceptable segment's bytes and FIN.
func (c *Conn) inputText(s *wire.Segment, seq Seq, now Time) {
	fin := s.Flags.Has(wire.FIN)
	if s.PayloadLen == 0 && !fin {
		return
	}
	switch c.state {
	case StateEstablished, StateFinWait1, StateFinWait2:
	default:
		return // after the peer's FIN there is nothing new
	}

	data := s.Payload[:s.PayloadLen]
	end := seq.Add(len(data))
	// Cut off what is old …
	if seq.Less(c.rcvNxt) {
		c.set(flagAckNow)
		old := int(c.rcvNxt.Sub(seq))
		c.dsack = seqRange{seq, minSeq(end, c.rcvNxt)}
		data = data[min(old, len(data)):]
		seq = c.rcvNxt
	}
	// … and what is beyond the window, or beyond a FIN that has overtaken it.
	limit := c.rcvAdv
	if c.has(flagFinSeen) {
		limit = minSeq(limit, c.finSeq)
	}
	if limit.Less(end) {
		c.set(flagAckNow)
		fin = false
		data = data[:max(0, int(limit.Sub(seq)))]
		end = limit
	}
	if len(data) > 0 {
		if c.has(flagOrphan) {
			c.abort(ErrAborted) // RFC 1122, 4.2.2.13
			return
		}
		if !c.store(seq, data, now) {
			return
		}
	}
	if fin && !c.has(flagFinSeen) && c.rcvNxt.LessEq(end) {
		c.set(flagFinSeen)
		c.finSeq = end
		c.set(flagAckNow)
	}
	if c.has(flagFinSeen) && c.rcvNxt == c.finSeq {
		c.inputFIN(now)
	}
}

// store keeps bytes that are in the window, at their place. False: there was no room after all.
func (c *Conn) store(seq Seq, data []byte, now Time) bool {
	c.rcvMSS = max(c.rcvMSS, min(int32(len(data)), c.mss))
	end := seq.Add(len(data))
	if seq != c.rcvNxt {
		c.set(flagAckNow) // RFC 5681, 4.2: at once, so that the peer counts duplicates
		c.stats.outOfOrder++
		return c.storeOutOfOrder(seq, end, data)
	}
	if c.has(flagCloseRead) {
		c.rcvNxt = end
		c.scheduleAck(now)
		return true
	}
	if !c.rcv.write(int(c.rcv.ready), data, c.cfg.Pool) {
		c.stats.poolDrops++
		return false
	}
	if c.rcv.ooo != nil {
		c.set(flagAckNow) // RFC 5681, 4.2: it fills a hole, or part of one
		ooo := c.rcv.ooo
		if ooo.r[0].left.LessEq(end) {
			end = maxSeq(end, ooo.r[0].right)
			// Ranges do not touch, but this segment may have reached into more than one.
			for _, r := range ooo.ranges()[1:] {
				if r.left.LessEq(end) {
					end = maxSeq(end, r.right)
				}
			}
		}
		ooo.cut(end)
		if ooo.n == 0 {
			c.rcv.releaseOOO(c.cfg.Pool)
		}
	}
	n := int(end.Sub(c.rcvNxt))
	c.rcv.ready += int32(n)
	c.rcvNxt = end
	c.stats.bytesIn += uint64(n)
	c.tuneRecvBuffer(now)
	c.scheduleAck(now)
	return true
}

func (c *Conn) storeOutOfOrder(seq, end Seq, data []byte) bool {
	if c.has(flagCloseRead) {
		return false // it would have to be remembered only to be thrown away; it comes again
	}
	// Write first: a range in the set is a promise that its bytes are there.
	if !c.rcv.write(int(c.rcv.ready)+int(seq.Sub(c.rcvNxt)), data, c.cfg.Pool) {
		c.stats.poolDrops++
		return false
	}
	if c.rcv.ooo == nil {
		c.rcv.ooo = c.cfg.Pool.getSet()
	}
	added, ok := c.rcv.ooo.add(seq, end)
	if !ok {
		return false // too many holes
	}
	c.rcv.ooo.touch(seq)
	if added == 0 {
		c.dsack = seqRange{seq, end} // RFC 2883, 4.2
	}
	return true
}

// scheduleAck is RFC 9293, 3.8.6.3: every second full-size segment at once, less than that a little later.
func (c *Conn) scheduleAck(now Time) {
	if c.rcvNxt.Sub(c.lastAckSent) >= 2*c.rcvMSS {
		c.set(flagAckNow)
	} else if c.ackAt == Never {
		c.ackAt = now.Add(c.cfg.DelayedAck)
	}
}

// inputFIN is the peer's FIN, with all before it received (RFC 9293, 3.10.7.4, eighth).
func (c *Conn) inputFIN(now Time) {
	c.rcvNxt = c.finSeq.Add(1)
	c.rcvAdv = maxSeq(c.rcvAdv, c.rcvNxt) // the FIN may have been allowed in at the very edge
	c.set(flagEOF | flagAckNow)
	c.rcv.releaseOOO(c.cfg.Pool)
	c.rcv.releaseIfEmpty(c.cfg.Pool)
	switch c.state {
	case StateEstablished:
		c.state = StateCloseWait
	case StateFinWait1:
		c.state = StateClosing // our FIN's ACK would have come first
	case StateFinWait2:
		c.timeWait(now)
	}
}
