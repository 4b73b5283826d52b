// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"container/heap"
	"crypto/sha256"
	"fmt"
	"hash"
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

// A link carries segments one way.
type link struct {
	delay     time.Duration
	jitter    time.Duration // random extra delay: reorders
	bandwidth int           // bytes per second
	queue     int           // bytes that may wait for the bandwidth
	loss, dup float64
	freeAt    Time // when the last byte accepted has left
}

// A host is one end: a connection with an application that writes size bytes, reads all there is, and closes.
type host struct {
	t    *testing.T
	name string
	c    Conn
	peer *host
	out  link

	size     int // to write
	written  int
	read     int
	sent     hash.Hash
	received hash.Hash
	readRate int // most bytes per turn; 0: all
	pause    time.Duration
	pausedTo Time
	sawEOF   bool
	closed   bool
	wireEdge Seq // right edge as the peer has seen it
	haveEdge bool
}

// A sim is two hosts and what is between them, in virtual time.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	now     Time
	packets packetHeap
	n       int
	hosts   [2]*host
	drop    func(from *host, s *wire.Segment) bool
	steps   int
}

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
	server, client := handshakes(sc.hs)
	for i, hs := range []Handshake{client, server} {
		h := &host{
			t: t, name: [2]string{"client", "server"}[i], out: sc.link[i], size: sc.size[i],
			sent: sha256.New(), received: sha256.New(),
			readRate: sc.readRate[i], pause: sc.pause[i],
		}
		h.c.Open(sc.cfg[i], hs, s.now)
		h.c.SetNoDelay(!sc.nagle)
		s.hosts[i] = h
	}
	s.hosts[0].peer, s.hosts[1].peer = s.hosts[1], s.hosts[0]
	// The client has the window from the SYN/ACK, and its final ACK is on its way.
	cl := &s.hosts[0].c
	cl.sndWnd, cl.maxSndWnd = server.RcvWnd, server.RcvWnd
	cl.set(flagAckNow)
	return s
}

// send puts a segment on the link.
func (s *sim) send(from *host, seg *wire.Segment, data []byte) {
	if s.drop != nil && s.drop(from, seg) {
		return
	}
	l := &from.out
	size := len(data) + 66
	start := max(s.now, l.freeAt)
	backlog := int(start.Sub(s.now).Seconds() * float64(l.bandwidth))
	if backlog > l.queue || s.rng.Float64() < l.loss {
		return
	}
	l.freeAt = start.Add(time.Duration(float64(size) / float64(l.bandwidth) * 1e9))
	copies := 1
	if s.rng.Float64() < l.dup {
		copies = 2
	}
	for range copies {
		at := l.freeAt.Add(l.delay)
		if l.jitter > 0 {
			at = at.Add(time.Duration(s.rng.Int64N(int64(l.jitter))))
		}
		s.n++
		p := &packet{at: at, n: s.n, to: from.peer, seg: *seg, data: data}
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
	var buf [8192]byte
	for h.written < h.size {
		n := min(len(buf), h.size-h.written, h.c.SendSpace()+1) // a byte too many: it is cut short
		for i := range buf[:n] {
			buf[i] = byte((h.written + i) * 2654435761 >> 16) // known by position: a short Write changes nothing
		}
		got := h.c.Write(buf[:n])
		h.sent.Write(buf[:got])
		h.written += got
		if got < n {
			break
		}
	}
	if now >= h.pausedTo {
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
			h.received.Write(buf[:got])
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
	case c.pipe() < 0:
		return fmt.Errorf("pipe is %d", c.pipe())
	case c.rcvAdv.Less(c.rcvNxt):
		return fmt.Errorf("RCV.NXT %d is beyond the window's edge %d", c.rcvNxt, c.rcvAdv)
	case c.Unsent() < 0:
		return fmt.Errorf("unsent is %d", c.Unsent())
	case c.cwnd.Cwnd < c.cwnd.MSS:
		return fmt.Errorf("cwnd is %d, less than a segment of %d", c.cwnd.Cwnd, c.cwnd.MSS)
	case c.outstanding() > 0 && c.rtxAt == Never && c.state != StateClosed:
		return fmt.Errorf("%d octets are outstanding and no timer runs", c.outstanding())
	case int(c.snd.size) > int(c.sendTuner.bound):
		return fmt.Errorf("send buffer holds %d of %d", c.snd.size, c.cfg.SendBuffer)
	case int(c.rcv.ready) > max(int(c.recvBound), 65535):
		return fmt.Errorf("receive buffer holds %d of %d", c.rcv.ready, c.cfg.RecvBuffer)
	case c.rcv.ready == 0 && c.rcv.ooo == nil && c.rcv.head != nil:
		return fmt.Errorf("an empty receive buffer holds chunks")
	case c.snd.size == 0 && c.snd.head != nil:
		return fmt.Errorf("an empty send buffer holds chunks")
	}
	for _, s := range []*rangeSet{c.sacked, c.rcv.ooo} {
		for i, r := range s.ranges() {
			if !r.left.Less(r.right) || i > 0 && !s.r[i-1].right.Less(r.left) {
				return fmt.Errorf("ranges %v are not in order", s.ranges())
			}
		}
	}
	for i, r := range c.rcv.ooo.ranges() {
		if r.left.LessEq(c.rcvNxt) || c.rcvAdv.Less(r.right) {
			return fmt.Errorf("out-of-order range %d is %v, not between RCV.NXT %d and %d", i, r, c.rcvNxt, c.rcvAdv)
		}
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
	}
	for _, h := range s.hosts {
		if h.c.Deadline() <= s.now {
			h.c.Tick(s.now)
			h.check()
		}
		s.serve(h)
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
		case [32]byte(h.sent.Sum(nil)) != [32]byte(h.peer.received.Sum(nil)):
			return fmt.Errorf("%s: what arrived is not what was written", h.name)
		case c.cfg.Pool.InUse() != 0:
			return fmt.Errorf("%s: %d chunks were not given back", h.name, c.cfg.Pool.InUse())
		}
	}
	return nil
}
