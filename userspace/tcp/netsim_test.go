// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A packet is a segment with a copy of its payload, on its way.
type packet struct {
	at   Time
	n    int // breaks ties, so that a run depends on its seed alone
	to   *host
	seg  wire.Segment
	data []byte
}

type packetHeap []*packet

func (h packetHeap) Len() int { return len(h) }
func (h packetHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h packetHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *packetHeap) Push(x any)   { *h = append(*h, x.(*packet)) }
func (h *packetHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	*h = old[:len(old)-1]
	return p
}

// A host is one end: a connection with an application that writes size bytes, reads all there is, and closes.
type host struct {
	t    *testing.T
	name string
	c    Conn
	peer *host
	out  *link

	size     int // to write
	written  int
	read     int
	readRate int // most bytes per turn; 0: all
	pause    time.Duration
	pausedTo Time
	sawEOF   bool
	closed   bool
	due      bool // something has happened to it
	trusted  bool // invariants are not checked: they take more time than all else
	wireEdge Seq  // right edge as the peer has seen it
	haveEdge bool
}

// A sim is pairs of hosts and what is between them, in virtual time. In hosts, a client comes before its server.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	now     Time
	packets packetHeap
	n       int
	hosts   []*host
	drop    func(from *host, s *wire.Segment) bool
	steps   int
}

// pattern is what the applications write: the byte at each place of the stream is known, so the reader can tell whether every
// byte has come once and in order. Its length is a prime, so that no shift by segments or chunks goes unnoticed.
var pattern = func() []byte {
	p := make([]byte, 65521+8192)
	for i := range p {
		p[i] = byte(i % 65521 * 2654435761 >> 16)
	}
	return p
}()

// patternAt is the next n bytes of the stream from off on.
func patternAt(off, n int) []byte { return pattern[off%65521:][:n] }

// simConfig is what a seed decides.
type simConfig struct {
	hs       Handshake
	cfg      [2]*Config
	link     [2]link
	size     [2]int
	readRate [2]int
	pause    [2]time.Duration
	nagle    bool
}

// handshakes gives both ends' view of one handshake. The one of the active opener is the passive one's, turned round.
func handshakes(hs Handshake) (server, client Handshake) {
	server, client = hs, hs
	client.ISS, client.IRS = hs.IRS, hs.ISS
	client.SndWScale, client.RcvWScale = hs.RcvWScale, hs.SndWScale
	client.TSOffset = hs.TSOffset * 7
	return server, client
}

func newSim(t *testing.T, seed uint64, sc simConfig) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: Time(time.Second)}
	s.connect(sc, &sc.link[0], &sc.link[1])
	return s
}

// connect adds a pair of hosts. The client sends by up, the server by down.
func (s *sim) connect(sc simConfig, up, down *link) (client, server *host) {
	serverHS, clientHS := handshakes(sc.hs)
	pair := [2]*host{}
	for i, hs := range []Handshake{clientHS, serverHS} {
		h := &host{
			t: s.t, name: [2]string{"client", "server"}[i], out: [2]*link{up, down}[i], size: sc.size[i],
			readRate: sc.readRate[i], pause: sc.pause[i],
		}
		h.c.Open(sc.cfg[i], hs, s.now)
		h.c.SetNoDelay(!sc.nagle)
		pair[i] = h
	}
	client, server = pair[0], pair[1]
	client.peer, server.peer = server, client
	// The client has the window from the SYN/ACK, and its final ACK is on its way.
	client.c.sndWnd, client.c.maxSndWnd = serverHS.RcvWnd, serverHS.RcvWnd
	client.c.set(flagAckNow)
	s.hosts = append(s.hosts, client, server)
	return client, server
}

// send puts a segment on the link.
func (s *sim) send(from *host, seg *wire.Segment, data []byte) {
	if s.drop != nil && s.drop(from, seg) {
		return
	}
	times, copies := from.out.carry(s.rng, len(data), s.now)
	for _, at := range times[:copies] {
		s.n++
		p := &packet{at: at, n: s.n, to: from.peer, seg: *seg, data: data}
		if from.out.corrupt > 0 && s.rng.Float64() < from.out.corrupt {
			var unnoticed bool
			if p.seg, p.data, unnoticed = corrupted(s.rng, seg, data); !unnoticed {
				continue
			}
		}
		p.seg.Payload = p.data
		heap.Push(&s.packets, p)
	}
}

// serve lets h's application work, and sends what comes of it.
func (s *sim) serve(h *host) {
	h.application(s.now)
	var seg wire.Segment
	for n := 0; h.c.Output(&seg, s.now); n++ {
		if n > 10000 {
			h.t.Fatalf("%s: Output does not end", h.name)
		}
		data := make([]byte, seg.PayloadLen)
		h.c.CopyPayload(data, &seg)
		h.checkOutput(&seg)
		s.send(h, &seg, data)
		h.check()
	}
}

// application writes, reads and closes.
func (h *host) application(now Time) {
	for h.written < h.size {
		n := min(8192, h.size-h.written, h.c.SendSpace()+1) // a byte too many: it is cut short
		got := h.c.Write(patternAt(h.written, n))
		h.written += got
		if got < n {
			break
		}
	}
	if now >= h.pausedTo {
		var buf [8192]byte
		budget := h.readRate
		for {
			n := len(buf)
			if h.readRate > 0 {
				n = min(n, budget)
			}
			got := h.c.Read(buf[:n])
			if got == 0 {
				break
			}
			if !bytes.Equal(buf[:got], patternAt(h.read, got)) {
				h.t.Fatalf("%s: the %d bytes from %d on are not what was written", h.name, got, h.read)
			}
			h.read += got
			budget -= got
		}
		h.pausedTo = now.Add(h.pause)
	}
	if h.c.ReadClosed() {
		h.sawEOF = true
	}
	if h.written == h.size && !h.closed {
		h.closed = true
		h.c.CloseWrite()
	}
}

// check holds h's connection to what must be true at any time.
func (h *host) check() {
	h.t.Helper()
	if h.trusted {
		return
	}
	if err := h.c.invariants(); err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	if h.read > h.peer.written {
		h.t.Fatalf("%s has read %d bytes of %d written", h.name, h.read, h.peer.written)
	}
}

// checkOutput looks at a segment as the peer will.
func (h *host) checkOutput(s *wire.Segment) {
	h.t.Helper()
	if s.Flags.Has(wire.RST) {
		return
	}
	unit := int32(1)<<h.c.rcvWScale - 1
	edge := Seq(s.Ack).Add(int(s.Window) << h.c.rcvWScale)
	if h.haveEdge && edge.Sub(h.wireEdge) < -unit {
		h.t.Fatalf("%s: the window's right edge went back by %d, more than its unit of %d", h.name, h.wireEdge.Sub(edge), unit)
	}
	if !h.haveEdge || h.wireEdge.Less(edge) {
		h.wireEdge, h.haveEdge = edge, true
	}
	if opts := s.NSACK * 8; s.PayloadLen+opts > int(h.c.mss)+4 && s.NSACK > 0 || s.PayloadLen > int(h.c.mss) {
		h.t.Fatalf("%s: segment of %d bytes with %d SACK blocks is above the MSS %d", h.name, s.PayloadLen, s.NSACK, h.c.mss)
	}
}

// invariants are what must be true of a connection between any two calls.
func (c *Conn) invariants() error {
	switch {
	case c.sndNxt.Less(c.sndUna):
		return fmt.Errorf("SND.NXT %d is before SND.UNA %d", c.sndNxt, c.sndUna)
	case c.pipe() < 0 || c.pipe() > c.outstanding():
		return fmt.Errorf("pipe is %d of %d", c.pipe(), c.outstanding())
	case c.rcvAdv.Less(c.rcvNxt):
		return fmt.Errorf("RCV.NXT %d is beyond the window's edge %d", c.rcvNxt, c.rcvAdv)
	case c.Unsent() < 0:
		return fmt.Errorf("unsent is %d", c.Unsent())
	case c.cwnd.Cwnd < c.cwnd.MSS:
		return fmt.Errorf("cwnd is %d, less than a segment of %d", c.cwnd.Cwnd, c.cwnd.MSS)
	case c.outstanding() > 0 && c.rtxAt == Never && c.state != StateClosed:
		return fmt.Errorf("%d octets are outstanding and no timer runs", c.outstanding())
	case int(c.snd.size) > max(c.cfg.SendBuffer, c.cfg.SendBufferMax):
		return fmt.Errorf("send buffer holds %d of %d", c.snd.size, c.cfg.SendBuffer)
	case int(c.rcv.ready) > max(int(c.recvBound), 65535):
		return fmt.Errorf("receive buffer holds %d of %d", c.rcv.ready, c.cfg.RecvBuffer)
	case c.rcv.ready == 0 && c.rcv.ooo == nil && c.rcv.head != nil:
		return fmt.Errorf("an empty receive buffer holds chunks")
	case c.snd.size == 0 && c.snd.head != nil:
		return fmt.Errorf("an empty send buffer holds chunks")
	}
	for i, r := range c.rcv.ooo.ranges() {
		if !r.left.Less(r.right) || i > 0 && !c.rcv.ooo.r[i-1].right.Less(r.left) {
			return fmt.Errorf("ranges %v are not in order", c.rcv.ooo.ranges())
		}
	}
	for i, r := range c.rcv.ooo.ranges() {
		if r.left.LessEq(c.rcvNxt) || c.rcvAdv.Less(r.right) {
			return fmt.Errorf("out-of-order range %d is %v, not between RCV.NXT %d and %d", i, r, c.rcvNxt, c.rcvAdv)
		}
	}
	return c.scoreboardInvariants()
}

// scoreboardInvariants counts the scoreboard again.
func (c *Conn) scoreboardInvariants() error {
	f := c.flight
	if (f != nil) != (c.outstanding() > 0) && c.state != StateClosed {
		return fmt.Errorf("%d octets are outstanding, but the scoreboard is %v", c.outstanding(), f)
	}
	if f == nil {
		if c.recovery != recoveryNone && c.state != StateClosed {
			return fmt.Errorf("recovery %d of nothing", c.recovery)
		}
		return nil
	}
	at := c.sndUna
	var octets [3]int32
	var records, segs, flying int32
	var firstLost, last *record
	for r := f.first; r != nil; r = r.next {
		if r.left != at || !r.left.Less(r.right) {
			return fmt.Errorf("record [%d,%d) where one from %d on belongs", r.left, r.right, at)
		}
		if last != nil && last.state == sacked && r.state == sacked {
			return fmt.Errorf("two records with SACK side by side at %d", r.left)
		}
		octets[r.state] += int32(r.len())
		records++
		switch {
		case r.state == sacked:
			segs += r.segs
		case r.state == lost && firstLost == nil:
			firstLost = r
		case r.state == inFlight:
			flying++
		}
		at, last = r.right, r
	}
	switch {
	case at != c.sndNxt || f.last != last:
		return fmt.Errorf("the scoreboard ends at %d, and SND.NXT is %d", at, c.sndNxt)
	case octets != [3]int32{inFlight: f.pipe, lost: f.lostOctets, sacked: f.sackedOctets} || segs != f.sackedSegs || records != f.records:
		return fmt.Errorf("%v octets, %d segments with SACK, %d records: it says %d, %d, %d, %d, %d",
			octets, segs, records, f.pipe, f.lostOctets, f.sackedOctets, f.sackedSegs, f.records)
	case f.lost != firstLost:
		return fmt.Errorf("first lost is %v and should be %v", f.lost, firstLost)
	case records > 66+4*int32(c.outstanding())/int32(minMSS):
		return fmt.Errorf("%d records for %d octets", records, c.outstanding())
	}
	var older *record
	for r := f.oldest; r != nil; r = r.newer {
		if r.state != inFlight || r.older != older || older != nil && r.at < older.at {
			return fmt.Errorf("the list by time is out of order at %d", r.left)
		}
		flying--
		older = r
	}
	if flying != 0 || f.newest != older {
		return fmt.Errorf("%d records are missing in the list by time", flying)
	}
	return nil
}

// step goes to the next thing that happens; false if nothing will.
func (s *sim) step() bool {
	next := Never
	if len(s.packets) > 0 {
		next = s.packets[0].at
	}
	for _, h := range s.hosts {
		next = min(next, h.c.Deadline())
		if h.c.Buffered() > 0 {
			next = min(next, h.pausedTo)
		}
	}
	if next == Never {
		return false
	}
	s.now = max(s.now, next)
	s.steps++
	for len(s.packets) > 0 && s.packets[0].at <= s.now {
		p := heap.Pop(&s.packets).(*packet)
		p.to.c.Input(&p.seg, s.now)
		p.to.check()
		p.to.due = true
	}
	for _, h := range s.hosts {
		if h.c.Deadline() <= s.now {
			h.c.Tick(s.now)
			h.check()
			h.due = true
		}
		if h.due || h.c.Buffered() > 0 && h.pausedTo <= s.now {
			h.due = false
			s.serve(h)
		}
	}
	return true
}

// run goes on until both ends are done.
func (s *sim) run() {
	for _, h := range s.hosts {
		s.serve(h)
	}
	for s.steps < 2_000_000 && s.step() {
	}
}

// until goes on to a point in time.
func (s *sim) until(end Time) {
	for s.now < end && s.step() {
	}
}

// finished checks that all was delivered and both ends closed in peace.
func (s *sim) finished() error {
	for _, h := range s.hosts {
		c := &h.c
		switch {
		case c.State() != StateClosed && c.State() != StateTimeWait:
			return fmt.Errorf("%s ends in %v after %v and %d steps: %+v", h.name, c.State(), s.now.Sub(0), s.steps, c.Info())
		case c.Err() != nil:
			return fmt.Errorf("%s: %v", h.name, c.Err())
		case h.written != h.size || h.peer.read != h.size:
			return fmt.Errorf("%s wrote %d of %d, the peer read %d", h.name, h.written, h.size, h.peer.read)
		case !h.sawEOF:
			return fmt.Errorf("%s never saw the end", h.name)
		case c.cfg.Pool.InUse() != 0:
			return fmt.Errorf("%s: %d chunks were not given back", h.name, c.cfg.Pool.InUse())
		}
	}
	return nil
}
