// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// batchSize is how many received frames are processed before anything is sent: acknowledgments are
// decided once for all of them (RFC 9293, 3.10.7.4: MUST-58, MUST-59).
const batchSize = 64

// maxDue bounds how many connections whose time has come are looked at before the next batch of frames.
const maxDue = 4 * batchSize

// trimEvery is for how long nobody must have needed a buffer's memory before it goes back to the garbage collector. It is no
// more than maxSleep, after which an idle shard makes a turn.
const trimEvery = time.Second

// poolChunk is what a tcp.Pool hands out, in bytes.
const poolChunk = 4096

// A shard is what one queue's frames lead to: its link, its connections, their timers and buffers.
type shard struct {
	engine *Engine
	queue  int
	tcp    tcp.Config // its Pool is this shard's

	mu      sync.Mutex // covers all below, and every tcp.Conn of the shard
	link    Link
	conns   connTable
	timers  timers
	waiting waiting
	stalled []*Conn // have output, but there was no free TX chunk
	stats   Stats
	retired bool // Engine.Retire
	// strays has a lock of its own: other shards write to it.
	strays strays
	// answered are the ISNs of the latest SYN/ACKs that the engine sent: only to tell who answered.
	answered [64]uint32
	// sleepUntil is when the loop will wake by itself; who sets an earlier timer wakes it. 0: it is awake.
	sleepUntil tcp.Time
	health     health
	trimAt     tcp.Time      // when the pool gives back what nobody needs
	txErrors   atomic.Uint64 // failed flushes

	// Reused for every batch, so that nothing is allocated per packet.
	descs   [batchSize]afxdp.Desc
	packet  wire.Packet
	icmp    wire.ICMPError
	record  bpf.Handshake
	out     wire.Segment
	sending [1]afxdp.Desc
	burst   burst
	gone    []wire.Flow // of dropped connections, to be deleted from XDP's table
	dirty   []*Conn     // had input or a timer in this turn: output is due
	wake    []*Conn     // have goroutines to wake before the lock is released
	polling polling
	unsent  bool // there are frames on the TX ring, to be flushed when the lock is released
}

func newShard(e *Engine, queue int, link Link) *shard {
	s := &shard{engine: e, queue: queue, link: link, tcp: *e.cfg.TCP, conns: newConnTable(e.flowHash)}
	s.tcp.Pool = tcp.NewPool(max(1, e.cfg.Memory/len(e.cfg.Links)/poolChunk))
	if l, ok := link.(burstLink); ok && l.Burst() != nil {
		s.burst.link = l
	}
	s.polling.call.L = &s.mu
	s.health.turned.Store(int64(e.clock.now()))
	return s
}

// loop drives the shard until the engine stops.
func (s *shard) loop() {
	defer s.engine.loops.Done()
	for {
		timeout := s.standBy()
		if s.engine.stopping() {
			return
		}
		if _, err := s.link.Wait(timeout); err != nil {
			s.abortConns()
			s.engine.lost <- fmt.Errorf("queue %d is lost: %w", s.queue, err)
			return
		}
		if s.engine.stopping() {
			return
		}
		for s.turn() == batchSize {
		}
		// Who was woken runs now, on this thread, and not on another one that must be woken for it first.
		runtime.Gosched()
	}
}

// maxSleep bounds the loop's sleep: a link notices on a time-out that its device is gone.
const maxSleep = time.Second

// timeout is how long the loop may sleep.
func (s *shard) timeout() time.Duration {
	now := s.engine.clock.now()
	s.sleepUntil = min(now.Add(maxSleep), s.timers.next(), s.waiting.next())
	if len(s.stalled) > 0 {
		return 200 * time.Microsecond
	}
	return max(0, s.sleepUntil.Sub(now))
}

// turn processes one batch of frames and what is due, and returns how many frames there were.
func (s *shard) turn() int {
	s.mu.Lock()
	defer s.unlock()
	return s.takeTurn()
}

// takeTurn is turn for who holds the lock, and calls unlock.
func (s *shard) takeTurn() int {
	s.sleepUntil = 0 // awake: nobody needs to wake the loop for an earlier timer
	s.polling.busy, s.polling.reader = false, nil
	s.unsent = s.unsent || s.link.Pending() > 0 // the device had no room, or another Flush left them to us
	now := s.engine.clock.now()
	s.health.turned.Store(int64(now))
	n := s.link.Receive(s.descs[:])
	for _, d := range s.descs[:n] {
		s.input(s.link.Frame(d), s.takeRecord(d), now)
	}
	s.link.Recycle(s.descs[:n])
	strays := s.takeStrays()
	for i := range strays {
		s.inputStray(&strays[i], now)
	}
	work := maxDue
	for c := s.timers.due(now, &work); c != nil; c = s.timers.due(now, &work) {
		s.event(c, c.tcp.Tick(now)|c.expire(now))
	}
	if len(s.stalled) > 0 {
		stalled := s.stalled
		s.stalled = nil
		for _, c := range stalled {
			c.stalled = false
			s.markDirty(c)
		}
	}
	s.polling.noteTurn(s.dirty)
	for i, c := range s.dirty {
		c.dirty = false
		s.dirty[i] = nil
		s.output(c, now)
	}
	s.dirty = s.dirty[:0]
	s.expire(now)
	if s.trimAt <= now {
		s.tcp.Pool.TrimUnused()
		s.strays.trim()
		s.trimAt = now.Add(trimEvery)
	}
	return n
}

// unlock wakes the goroutines that have something to do, releases the lock, and has what is on the TX ring sent. They are
// woken late, because woken earlier they would only run into the lock. And it is sent without the lock, because that takes long.
func (s *shard) unlock() {
	for i, c := range s.wake {
		s.wake[i] = nil
		c.wakeUp()
	}
	s.wake = s.wake[:0]
	unsent := s.unsent
	s.unsent = false
	s.mu.Unlock()
	if unsent {
		s.flush()
	}
}

// owes reports whether unlock has more to do than to release the lock: who waits for a condition must have done that before.
func (s *shard) owes() bool { return s.unsent || len(s.wake) > 0 }

// input takes one frame in, with the handshake record that came with it (nil: none).
func (s *shard) input(frame []byte, record *bpf.Handshake, now tcp.Time) {
	p := &s.packet
	if err := wire.Parse(frame, p); err != nil {
		if err == wire.ErrNotTCP {
			s.inputICMP(frame, now)
		} else {
			s.stats.BadFrames++
		}
		return
	}
	if !s.checksumOK(p) {
		s.stats.BadChecksums++
		return
	}
	c := s.conns.get(&p.Flow)
	if c == nil && s.retired {
		if owner := s.engine.owners.elsewhere(&p.Flow, s); owner != nil {
			s.stray(owner, frame, record)
		} else {
			s.stats.LeftAlone++
		}
		return
	}
	if c == nil {
		if owner := s.engine.owners.claim(&p.Flow, s); owner != s {
			s.stray(owner, frame, record)
			return
		}
	}
	s.stats.SegmentsIn++
	s.stats.BytesIn += uint64(p.Segment.PayloadLen)
	if c == nil {
		if c = s.admit(p, record, now); c == nil {
			s.engine.owners.release(&p.Flow)
			return
		}
	}
	if isSYN(&p.Segment) && c.reusable(&p.Segment) {
		s.forget(c)
		s.answerSYN(p)
		return
	}
	if c.inWaiting {
		if c.tcp.State() == tcp.StateClosed {
			s.duplicate(c, p)
			return
		}
		if p.Segment.Flags.Has(wire.FIN) { // RFC 9293, 3.10.7.4, eighth: restart the time-wait time-out
			s.waiting.remove(c)
			s.waiting.push(c, now+waitingTime)
		}
	}
	s.event(c, c.tcp.Input(&p.Segment, now))
}

// isSYN reports whether a segment asks for a new connection, with nothing that contradicts it.
func isSYN(s *wire.Segment) bool {
	return s.Flags&(wire.SYN|wire.ACK|wire.RST|wire.FIN) == wire.SYN
}

// inputStray takes in a frame that another shard has handed over.
func (s *shard) inputStray(item *stray, now tcp.Time) {
	var record *bpf.Handshake
	if item.hasRecord {
		record = &item.record
	}
	s.input(item.frame, record, now)
}

// stray hands a frame to the shard that has its flow.
func (s *shard) stray(owner *shard, frame []byte, record *bpf.Handshake) {
	s.stats.Strays++
	if !owner.handOver(frame, record) {
		s.stats.StraysLost++
	}
}

func (s *shard) checksumOK(p *wire.Packet) bool {
	if s.engine.cfg.PartialChecksums {
		return p.Checksum() != wire.ChecksumBad
	}
	return p.ChecksumFull()
}

// duplicate deals with a segment of a connection that is over: one that was on its way, or one of a
// client that has not heard of our reset.
func (s *shard) duplicate(c *Conn, p *wire.Packet) {
	if err := c.tcp.Err(); err == nil || err == tcp.ErrReset || !tcp.Reset(&p.Segment, &s.out) {
		return
	}
	s.send(&c.template, &s.out)
}

// noConnection answers a segment of a flow that the engine does not have, and forgets the flow: an earlier process may
// have left it, or the ring was full when it was opened.
func (s *shard) noConnection(p *wire.Packet) {
	s.stats.NoConnection++
	s.deleteFlow(p.Flow)
	if p.Segment.Flags.Has(wire.SYN) {
		// No RST: with the flow gone, the client's final ACK, or its next SYN, is XDP's again.
		if isSYN(&p.Segment) && s.engine.listener(p.Flow.LocalAddr()) != nil {
			s.answerSYN(p)
		}
		return
	}
	if !tcp.Reset(&p.Segment, &s.out) {
		return
	}
	t := wire.NewTemplate(p)
	s.send(&t, &s.out)
}

// admit makes the connection that a handshake record announces. nil: there is no record, or the
// connection is refused; both are counted.
func (s *shard) admit(p *wire.Packet, record *bpf.Handshake, now tcp.Time) *Conn {
	// XDP reads its table while another CPU may be reusing the entry: the record must fit the segment.
	if record == nil || record.Iss+1 != p.Segment.Ack {
		s.noConnection(p)
		return nil
	}
	l := s.engine.listener(p.Flow.LocalAddr())
	if l == nil {
		s.stats.RefusedListener++
		s.noConnection(p)
		return nil
	}
	c := newConn(s, p, record, now)
	if slices.Contains(s.answered[:], record.Iss) {
		c.agreed.flags |= byEngine
	}
	if !l.offer(c) {
		// Dropped, not reset: the client's next segment proves the cookie again.
		s.stats.RefusedBacklog++
		return nil
	}
	c.tcp.Open(&s.tcp, c.tcpHandshake(record, p.Flow.IsIPv4()), now)
	s.conns.add(c)
	s.stats.Opened++
	if record.Flags&bpf.HandshakeTimestamps != 0 {
		s.stats.handshake(record.RttTicks)
	}
	return c
}

// event does what an Input or Tick asks for, and notes that output may be due.
func (s *shard) event(c *Conn, ev tcp.Event) {
	s.markDirty(c)
	if ev != 0 {
		c.notify(ev)
	}
	if ev&tcp.Closed != 0 {
		c.ended = true
	}
}

func (s *shard) markDirty(c *Conn) {
	if !c.dirty {
		c.dirty = true
		s.dirty = append(s.dirty, c)
	}
}

// output puts all that a connection has to send now on the TX ring, or sends it in bursts; unlock flushes.
func (s *shard) output(c *Conn, now tcp.Time) {
	retransmits := c.tcp.Retransmits()
	for {
		d, ok := s.link.Alloc()
		if !ok {
			s.flush() // in copy mode that completes what is in flight
			if d, ok = s.link.Alloc(); !ok {
				s.stats.TxNoChunk++
				if !c.stalled {
					c.stalled = true
					s.stalled = append(s.stalled, c)
					if s.sleepUntil > now {
						s.link.Wake()
					}
				}
				break
			}
		}
		if !s.collect(c, now) {
			s.link.Free(d)
			break
		}
		frame := s.link.Frame(d)
		if h := c.template.HeaderLen(&s.out); s.out.PayloadLen > 0 {
			c.tcp.CopyPayload(frame[h:h+s.out.PayloadLen], &s.out)
		}
		s.transmit(d, c.template.Marshal(frame, &s.out))
	}
	s.stats.Retransmits += c.tcp.Retransmits() - retransmits
	s.settle(c, now)
}

// settle follows a connection's state after it was driven: its timer, and whether it is over.
func (s *shard) settle(c *Conn, now tcp.Time) {
	switch c.tcp.State() {
	case tcp.StateClosed, tcp.StateTimeWait:
		s.timers.remove(c)
		if !c.over {
			c.over = true
			s.leave(c, now)
		}
	default:
		s.schedule(c, now)
	}
}

// schedule sees to it that a connection is looked at by its deadline, even if the loop would sleep on.
func (s *shard) schedule(c *Conn, now tcp.Time) {
	s.timers.schedule(c, now)
	if next := s.timers.next(); next < s.sleepUntil {
		s.sleepUntil = next
		s.link.Wake()
	}
}

// leave counts how a connection ended. However it did, it waits for its old duplicates: those of a
// client that never heard more than our SYN carry the handshake's record, and would open it again.
func (s *shard) leave(c *Conn, now tcp.Time) {
	switch c.tcp.Err() {
	case nil:
		s.stats.ClosedClean++
	case tcp.ErrReset:
		s.stats.ClosedReset++
	case tcp.ErrTimeout:
		s.stats.ClosedTimeout++
	default:
		s.stats.ClosedAborted++
	}
	if !c.forgotten {
		s.waiting.push(c, now+waitingTime)
	}
}

// expire forgets the connections that have waited for long enough, or are too many: some of them, before the next batch of frames.
func (s *shard) expire(now tcp.Time) {
	if s.waiting.next() > now {
		return
	}
	for c := s.waiting.expired(now); c != nil && len(s.gone) < maxDue; c = s.waiting.expired(now) {
		s.drop(c)
	}
	s.deleteGone()
}

// forget drops all that the shard has of a connection, and XDP's flow with it.
func (s *shard) forget(c *Conn) {
	s.drop(c)
	s.deleteGone()
}

// drop is forget without the flow, which deleteGone deletes.
func (s *shard) drop(c *Conn) {
	if !s.conns.remove(c) {
		return
	}
	c.forgotten = true
	s.waiting.remove(c)
	s.timers.remove(c)
	s.gone = append(s.gone, c.flow())
}

// deleteGone deletes the flows of dropped connections. It is called before the next frame is looked at: a flow that was opened
// anew must not be deleted for the old one's sake. They are released last: whoever claims one then must find XDP's table clean.
func (s *shard) deleteGone() {
	if table, ok := s.engine.cfg.Flows.(batchDeleter); ok && len(s.gone) > 1 {
		if err := table.DeleteAll(s.gone); err != nil {
			s.engine.log.Warn("flows not deleted from XDP's table", "flows", len(s.gone), "err", err)
		}
	} else {
		for _, f := range s.gone {
			s.deleteFlow(f)
		}
	}
	for i := range s.gone {
		s.engine.owners.release(&s.gone[i])
	}
	s.gone = s.gone[:0]
}

func (s *shard) deleteFlow(f wire.Flow) {
	if err := s.engine.cfg.Flows.Delete(f); err != nil {
		s.engine.log.Warn("flow not deleted from XDP's table", "flow", f.String(), "err", err)
	}
}

// send transmits a segment without payload that belongs to no connection.
func (s *shard) send(t *wire.Template, seg *wire.Segment) {
	d, ok := s.link.Alloc()
	if !ok {
		s.stats.TxNoChunk++
		return
	}
	s.transmit(d, t.Marshal(s.link.Frame(d), seg))
}

// transmit puts a finished frame on the ring, and counts s.out, which it was made from.
func (s *shard) transmit(d afxdp.Desc, length int) {
	s.stats.SegmentsOut++
	s.stats.BytesOut += uint64(s.out.PayloadLen)
	switch {
	case s.out.Flags.Has(wire.RST):
		s.stats.ResetsOut++
	case s.out.PayloadLen == 0 && !s.out.Flags.Any(wire.SYN|wire.FIN):
		s.stats.PureAcksOut++
	}
	d.Len = uint32(length)
	s.sending[0] = d
	s.link.Transmit(s.sending[:])
	s.unsent = true
}

// flush needs no lock.
func (s *shard) flush() {
	if err := s.link.Flush(); err != nil {
		s.txErrors.Add(1)
		s.engine.log.Debug("transmit", "queue", s.queue, "err", err)
	}
}

func (s *shard) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// retire leaves all that is unknown to a successor from now on.
func (s *shard) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
}

// closeConns ends every connection the polite way.
func (s *shard) closeConns() {
	s.each(func(c *Conn, now tcp.Time) bool {
		c.closed = true
		c.tcp.Close(now)
		return true
	})
}

// abortConns resets what is still there.
func (s *shard) abortConns() {
	s.each(func(c *Conn, _ tcp.Time) bool {
		c.closed = true
		c.tcp.Abort()
		return true
	})
}

// abortFrom resets the connections of the remote addresses that match, and says how many they were.
func (s *shard) abortFrom(match func(netip.Addr) bool) int {
	return s.each(func(c *Conn, _ tcp.Time) bool {
		if !match(c.flow().RemoteAddr().Addr()) {
			return false
		}
		c.ended = true
		c.tcp.Abort()
		return true
	})
}

// each calls f for every connection that is not over, sends what comes of it if f says true, and counts those.
func (s *shard) each(f func(*Conn, tcp.Time) bool) (n int) {
	s.mu.Lock()
	defer s.unlock()
	now := s.engine.clock.now()
	for c := range s.conns.all() {
		if c.inWaiting || !f(c, now) {
			continue
		}
		n++
		c.notify(tcp.Readable | tcp.Writable | tcp.Closed)
		s.output(c, now)
	}
	return n
}

// forgetAll drops every connection, and deletes their flows from XDP's table.
func (s *shard) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns.all() {
		s.drop(c)
		if len(s.gone) >= 1024 {
			s.deleteGone()
		}
	}
	s.deleteGone()
}
