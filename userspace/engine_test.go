// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// peer is a client that speaks TCP one segment at a time, as the test tells it to.
type peer struct {
	t        *testing.T
	link     *memLink
	flows    *memFlows
	engine   *Engine
	listener *Listener
	client   netip.Addr
	tags     []byte                    // VLAN tags
	mangle   func(frame []byte) []byte // nil: frames are sent as they are
	flow     wire.Flow                 // as the engine sees it
	template wire.Template
	record   bpf.Handshake
}

const peerIRS, peerISS = 500, 900_000 // the client's and the engine's ISN

func newPeer(t *testing.T, backlog int, more ...Link) *peer {
	p := &peer{
		t: t, link: newMemLink(), flows: &memFlows{flows: map[wire.Flow]bool{}},
		client: netip.MustParseAddr("192.0.2.2"),
	}
	p.flows.keys.Valid = 1
	var err error
	links := append([]Link{p.link}, more...)
	p.engine, err = New(Config{Links: links, Flows: p.flows, MTU: 1500, Backlog: backlog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.engine.Close(0) })
	if p.listener, err = p.engine.Listen(netip.MustParseAddrPort("192.0.2.1:80")); err != nil {
		t.Fatal(err)
	}
	p.from(40000)
	return p
}

// from makes p speak from another port.
func (p *peer) from(port uint16) {
	// The frame that the template replies to: from server to client.
	frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, p.tags...)
	if p.client.Is4() {
		frame = append(frame, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0)
		frame = append(frame, netip.MustParseAddr("192.0.2.1").AsSlice()...)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64)
		frame = append(frame, netip.MustParseAddr("2001:db8::1").AsSlice()...)
	}
	frame = append(frame, p.client.AsSlice()...)
	frame = binary.BigEndian.AppendUint16(frame, 80)
	frame = binary.BigEndian.AppendUint16(frame, port)
	frame = append(frame, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0)
	var w wire.Packet
	if err := wire.Parse(frame, &w); err != nil {
		p.t.Fatal(err)
	}
	p.template = wire.NewTemplate(&w)
	p.flow = wire.Flow{Remote: w.Flow.Local, Local: w.Flow.Remote, RemotePort: port, LocalPort: 80}
	p.record = bpf.Handshake{Magic: bpf.HandshakeMagic, Iss: peerISS, Irs: peerIRS, Mss: 1460, Flags: bpf.HandshakeSACK}
}

// send sends a segment, after XDP recorded the flow if there is a record.
func (p *peer) send(flags wire.Flags, seq, ack uint32, payload string, record *bpf.Handshake) {
	s := wire.Segment{Seq: seq, Ack: ack, Flags: flags, Window: 65535, PayloadLen: len(payload), WScale: -1}
	frame := make([]byte, 1522)
	h := p.template.HeaderLen(&s)
	copy(frame[h:], payload)
	frame = frame[:p.template.Marshal(frame, &s)]
	if record != nil {
		p.flows.add(p.flow)
	}
	if p.mangle != nil {
		frame = p.mangle(frame)
	}
	p.link.deliver(frame, record)
}

// connect finishes a handshake and accepts the connection.
func (p *peer) connect() net.Conn {
	p.t.Helper()
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", &p.record)
	c, err := p.listener.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *peer) want(s wire.Packet, flags wire.Flags, seq, ack uint32, payload string) {
	p.t.Helper()
	g := &s.Segment
	if g.Flags != flags || g.Seq != seq || g.Ack != ack || string(g.Payload) != payload {
		p.t.Fatalf("the engine sent %v seq %d ack %d %q, want %v seq %d ack %d %q",
			g.Flags, g.Seq, g.Ack, g.Payload, flags, seq, ack, payload)
	}
}

func (p *peer) stats(what string, get func(Stats) uint64, want uint64) {
	p.t.Helper()
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		if got := get(p.engine.Stats()); got == want {
			return
		} else if time.Now().After(deadline) {
			p.t.Fatalf("%s: %d, want %d", what, got, want)
		}
	}
}

func TestISN500AndTenBytesAreAcknowledgedWith511OnTheAnswersData(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "0123456789", nil)
	b := make([]byte, 20)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "0123456789" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	p.want(p.link.next(t), wire.ACK|wire.PSH, peerISS+1, 511, "answer")
	p.link.quiet(t)
	hs := c.(*Conn).Handshake()
	if hs.ClientISN != 500 || hs.ServerISN != peerISS || !hs.SACK || hs.Timestamps || hs.ClientWScale != -1 || hs.Remote.Port() != 40000 {
		t.Errorf("handshake %+v", hs)
	}
}

func TestTheFirstDataOpensTheConnectionWhenTheFinalAckWasLost(t *testing.T) {
	p := newPeer(t, 0)
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "hello", &p.record)
	c, err := p.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("read %q, %v", b, err)
	}
}

func TestARecordIsReadOnlyOnce(t *testing.T) {
	p := newPeer(t, 0)
	p.connect()
	// The next frame comes into the same chunk, without a record of its own, on another flow.
	p.from(40001)
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", nil)
	p.want(p.link.next(t), wire.RST, peerISS+1, 0, "")
	p.stats("no connection", func(s Stats) uint64 { return s.NoConnection }, 1)
}

func TestASegmentOfNoConnectionIsResetAndItsFlowForgotten(t *testing.T) {
	p := newPeer(t, 0)
	p.flows.add(p.flow)
	p.send(wire.ACK, 7, 77, "", nil)
	p.want(p.link.next(t), wire.RST, 77, 0, "")
	if p.flows.has(p.flow) {
		t.Error("the flow is still in XDP's table")
	}
}

func TestASynOnAFlowOfAnEarlierProcessIsAnsweredAtOnce(t *testing.T) {
	p := newPeer(t, 0)
	p.flows.add(p.flow)
	p.send(wire.SYN, 7, 0, "", nil)
	got := p.link.next(t)
	if got.Segment.Flags != wire.SYN|wire.ACK || got.Segment.Ack != 8 {
		t.Fatalf("the engine sent %v ack %d", got.Segment.Flags, got.Segment.Ack)
	}
	if p.flows.has(p.flow) {
		t.Error("the flow is still in XDP's table, so the final ACK would not open a new one")
	}
	offer := bpf.Offer{Remote: p.flow.RemoteAddr(), Local: p.flow.LocalAddr(), WScale: -1}
	h, why := bpf.CheckCookie(&p.flows.keys, offer, got.Segment.Seq, 7, 0)
	if why != bpf.RedirectOpened {
		t.Fatalf("XDP would say %v of the engine's cookie", why)
	}
	p.record = h
	p.send(wire.ACK, 8, h.Iss+1, "", &p.record)
	if _, err := p.listener.Accept(); err != nil {
		t.Fatal(err)
	}
	p.stats("SYN/ACKs", func(s Stats) uint64 { return s.SynAcks }, 1)
}

func TestASynThatNobodyListensForIsNotAnswered(t *testing.T) {
	p := newPeer(t, 0)
	if err := p.listener.Close(); err != nil {
		t.Fatal(err)
	}
	p.flows.add(p.flow)
	p.send(wire.SYN, 7, 0, "", nil)
	p.link.quiet(t)
	if p.flows.has(p.flow) {
		t.Error("the flow is still in XDP's table")
	}
}

func TestASynThatContradictsItselfIsNotAnswered(t *testing.T) {
	p := newPeer(t, 0)
	for _, flags := range []wire.Flags{wire.SYN | wire.FIN, wire.SYN | wire.RST, wire.SYN | wire.ACK} {
		p.send(flags, 7, 0, "", nil)
	}
	p.link.quiet(t)
	p.stats("no connection", func(s Stats) uint64 { return s.NoConnection }, 3)
}

func TestAFullBacklogDropsTheFinalAckAndTakesItLater(t *testing.T) {
	p := newPeer(t, 1)
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", &p.record)
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 1)
	p.from(40001)
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", &p.record)
	p.stats("refused", func(s Stats) uint64 { return s.RefusedBacklog }, 1)
	p.link.quiet(t)
	if _, err := p.listener.Accept(); err != nil {
		t.Fatal(err)
	}
	p.send(wire.ACK|wire.PSH, peerIRS+1, peerISS+1, "hi", &p.record)
	if c, err := p.listener.Accept(); err != nil || c.RemoteAddr().(*net.TCPAddr).Port != 40001 {
		t.Fatalf("accepted %v, %v", c, err)
	}
}

// closeActively ends the connection from our side, until TIME-WAIT.
func (p *peer) closeActively(c net.Conn) {
	p.t.Helper()
	if err := c.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.want(p.link.next(p.t), wire.FIN|wire.ACK, peerISS+1, peerIRS+1, "")
	p.send(wire.FIN|wire.ACK, peerIRS+1, peerISS+2, "", nil)
	p.want(p.link.next(p.t), wire.ACK, peerISS+2, peerIRS+2, "")
	p.stats("waiting", func(s Stats) uint64 { return uint64(s.Waiting) }, 1)
}

func TestASynTakesThePlaceOfTimeWaitWithACookieOfTheKeysInUse(t *testing.T) {
	p := newPeer(t, 0)
	p.closeActively(p.connect())
	p.send(wire.SYN, 70_000_000, 0, "", nil)
	got := p.link.next(t)
	if got.Segment.Flags != wire.SYN|wire.ACK || got.Segment.Ack != 70_000_001 || got.Segment.MSS != 1460 || got.Segment.Window != bpf.Window {
		t.Fatalf("the engine sent %+v", got.Segment)
	}
	offer := bpf.Offer{Remote: p.flow.RemoteAddr(), Local: p.flow.LocalAddr(), WScale: -1}
	h, why := bpf.CheckCookie(&p.flows.keys, offer, got.Segment.Seq, 70_000_000, 0)
	if why != bpf.RedirectOpened || h.Mss != 536 {
		t.Errorf("XDP would say %v and MSS %d of the engine's cookie", why, h.Mss)
	}
	if p.flows.has(p.flow) {
		t.Error("the old flow is still in XDP's table, so the final ACK would not open a new one")
	}
	p.record = h
	p.send(wire.ACK, 70_000_001, h.Iss+1, "", &p.record)
	c, err := p.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if by := c.(*Conn).Handshake().AnsweredBy; by != "engine" {
		t.Errorf("answered by %q, want the engine", by)
	}
}

func TestAnOldSynInTimeWaitIsNotANewConnection(t *testing.T) {
	p := newPeer(t, 0)
	p.closeActively(p.connect())
	p.send(wire.SYN, 1, 0, "", nil) // older than what TIME-WAIT has seen
	if got := p.link.next(t); got.Segment.Flags != wire.ACK {
		t.Errorf("the engine sent %v, want a challenge ACK (RFC 5961, 4)", got.Segment.Flags)
	}
}

func TestALateCopyOfTheFirstDataDoesNotOpenASecondConnection(t *testing.T) {
	p := newPeer(t, 0)
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "GET", &p.record)
	c, err := p.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.send(wire.FIN|wire.ACK, 504, peerISS+1, "", nil)
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for s := p.link.next(t); !s.Segment.Flags.Has(wire.FIN); s = p.link.next(t) {
	}
	p.send(wire.ACK, 505, peerISS+2, "", nil)
	p.stats("waiting", func(s Stats) uint64 { return uint64(s.Waiting) }, 1)
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "GET", &p.record)
	p.link.quiet(t)
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 1)
}

func TestTheWaitingQueueIsBoundedAndDropsTheOldest(t *testing.T) {
	var w waiting
	conns := make([]Conn, maxWaiting+2)
	for i := range conns {
		w.push(&conns[i], tcp.Time(i))
	}
	w.remove(&conns[1])
	if got := w.expired(-1); got != &conns[0] {
		t.Error("with one too many, the oldest must go")
	}
	w.remove(&conns[0])
	if got := w.expired(1); got != nil {
		t.Error("at the bound and before its time nobody must go")
	}
	if got := w.expired(2); got != &conns[2] {
		t.Error("when its time is over the oldest must go")
	}
}

func TestAFlowThatNeverBecameAConnectionIsSweptTheSecondTime(t *testing.T) {
	p := newPeer(t, 0)
	p.connect()
	live := p.flow
	p.from(40001)
	p.flows.add(p.flow)
	suspects := p.engine.sweepOnce(nil)
	if !p.flows.has(p.flow) || len(suspects) != 1 {
		t.Fatalf("the first sweep must only suspect: %v", suspects)
	}
	if again := p.engine.sweepOnce(suspects); p.flows.has(p.flow) || len(again) != 0 {
		t.Error("the second sweep must delete it")
	}
	if !p.flows.has(live) {
		t.Error("the flow of a live connection was swept")
	}
}

func TestAResetReachesAReaderAsECONNRESET(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	p.send(wire.RST, peerIRS+1, 0, "", nil)
	_, err := c.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "read" || !isConnReset(err) {
		t.Errorf("read: %v", err)
	}
	p.stats("closed by reset", func(s Stats) uint64 { return s.ClosedReset }, 1)
}

func TestALateSegmentDoesNotReopenAConnectionThatWasReset(t *testing.T) {
	p := newPeer(t, 0)
	p.connect()
	p.send(wire.RST, peerIRS+1, 0, "", nil)
	p.stats("closed by reset", func(s Stats) uint64 { return s.ClosedReset }, 1)
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "late", &p.record)
	p.link.quiet(t)
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 1)
}

func TestASegmentAfterOurAbortIsResetAgainAndDoesNotReopen(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	c.(*Conn).abort()
	if got := p.link.next(t); !got.Segment.Flags.Has(wire.RST) {
		t.Fatalf("the engine sent %v, want RST", got.Segment.Flags)
	}
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "more", &p.record)
	p.want(p.link.next(t), wire.RST, peerISS+1, 0, "")
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 1)
}

func TestABadChecksumIsCountedAndLosesNothing(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	s := wire.Segment{Seq: 501, Ack: peerISS + 1, Flags: wire.ACK, Window: 65535, PayloadLen: 3, WScale: -1}
	frame := make([]byte, 100)
	copy(frame[p.template.HeaderLen(&s):], "abc")
	frame = frame[:p.template.Marshal(frame, &s)]
	frame[len(frame)-1] ^= 1
	p.link.deliver(frame, nil)
	p.stats("bad checksums", func(s Stats) uint64 { return s.BadChecksums }, 1)
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 3)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of what was corrupted: %v", err)
	}
}

func TestNothingIsLostWhenAllTransmitChunksAreInFlight(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	s := p.engine.shards[0]
	s.mu.Lock()
	held := p.link.freeTx
	p.link.freeTx = nil
	s.mu.Unlock()
	if _, err := c.Write([]byte("patience")); err != nil {
		t.Fatal(err)
	}
	p.link.quiet(t)
	s.mu.Lock()
	p.link.freeTx = held
	s.mu.Unlock()
	p.want(p.link.next(t), wire.ACK|wire.PSH, peerISS+1, peerIRS+1, "patience")
}

func TestCloseSendsFINsAndThenResetsWhatIsLeft(t *testing.T) {
	p := newPeer(t, 0)
	p.connect()
	go p.engine.Close(100 * time.Millisecond)
	p.want(p.link.next(t), wire.FIN|wire.ACK, peerISS+1, peerIRS+1, "")
	for {
		if s := p.link.next(t); s.Segment.Flags.Has(wire.RST) {
			return
		}
	}
}

func TestSegmentsOnAnotherQueueReachTheirConnection(t *testing.T) {
	second := newMemLink()
	p := newPeer(t, 0, second)
	first := p.link
	c := p.connect()
	p.link = second
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "with a record", &p.record)
	p.send(wire.ACK|wire.PSH, 514, peerISS+1, ", without", nil)
	b := make([]byte, 22)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "with a record, without" {
		t.Fatalf("read %q, %v", b, err)
	}
	second.quiet(t)
	if _, err := c.Write([]byte("ok")); err != nil {
		t.Fatal(err)
	}
	for s := first.next(t); s.Segment.PayloadLen == 0; s = first.next(t) { // the delayed ACK may come first
	}
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 1)
	p.stats("strays", func(s Stats) uint64 { return s.Strays }, 2)
	if !p.flows.has(p.flow) {
		t.Error("the flow was deleted from XDP's table")
	}
}

func TestAFlowHasNoOwnerOnceItIsForgotten(t *testing.T) {
	second := newMemLink()
	p := newPeer(t, 1, second)
	p.send(wire.ACK, 7, 77, "", nil) // of no connection
	p.link.next(t)
	p.connect()
	p.link = second
	p.from(40001)
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", &p.record)
	p.from(40002)
	p.send(wire.ACK, peerIRS+1, peerISS+1, "", &p.record) // refused: the backlog is full
	p.stats("refused", func(s Stats) uint64 { return s.RefusedBacklog }, 1)
	if n := p.engine.owners.claims(); n != 2 {
		t.Errorf("%d flows have an owner, want the 2 that are open", n)
	}
	for _, s := range p.engine.shards {
		s.mu.Lock()
		for c := range s.conns.all() {
			s.forget(c)
		}
		s.mu.Unlock()
	}
	if n := p.engine.owners.claims(); n != 0 {
		t.Errorf("%d flows have an owner, want none", n)
	}
}

func TestStraysBeyondTheBoundAreLostAndCounted(t *testing.T) {
	s := &shard{link: newMemLink()}
	for i := range maxStrays + 1 {
		if ok := s.handOver([]byte("x"), nil); ok != (i < maxStrays) {
			t.Fatalf("frame %d: taken %v", i, ok)
		}
	}
	if n := len(s.takeStrays()); n != maxStrays {
		t.Errorf("%d frames waited", n)
	}
}

func TestAListenerIsFoundByAddressFirstAndThenByPort(t *testing.T) {
	p := newPeer(t, 0)
	all, err := p.engine.Listen(netip.AddrPortFrom(netip.Addr{}, 80))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.engine.listener(netip.MustParseAddrPort("192.0.2.1:80")); got != p.listener {
		t.Error("the listener of the address must have it")
	}
	if got := p.engine.listener(netip.MustParseAddrPort("[2001:db8::1]:80")); got != all {
		t.Error("the listener of the port must have all other addresses")
	}
	wide, err := p.engine.ListenPrefix(netip.MustParsePrefix("198.51.0.0/16"), 80)
	if err != nil {
		t.Fatal(err)
	}
	long, err := p.engine.ListenPrefix(netip.MustParsePrefix("198.51.100.0/24"), 80)
	if err != nil {
		t.Fatal(err)
	}
	one, err := p.engine.Listen(netip.MustParseAddrPort("198.51.100.7:80"))
	if err != nil {
		t.Fatal(err)
	}
	v6, err := p.engine.ListenPrefix(netip.MustParsePrefix("2001:db8:51::/48"), 80)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]*Listener{
		"198.51.100.7:80": one, "198.51.100.8:80": long, "198.51.101.8:80": wide, "198.52.0.1:80": all,
		"[2001:db8:51::1]:80": v6, "[2001:db8:52::1]:80": all, "198.51.100.8:81": nil,
	} {
		if got := p.engine.listener(netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s has the listener of %v, want that of %v", addr, got.place, want.place)
		}
	}
	if _, err := p.engine.ListenPrefix(netip.MustParsePrefix("198.51.100.9/24"), 80); err == nil {
		t.Error("two listeners have the same prefix and port")
	}
	if _, err := p.engine.ListenPrefix(netip.Prefix{}, 80); err == nil {
		t.Error("no prefix at all is a prefix")
	}
	if got := long.Addr().String(); got != "198.51.100.0:80" {
		t.Errorf("the prefix's listener is at %s", got)
	}
	if err := long.Close(); err != nil {
		t.Fatal(err)
	}
	if got := p.engine.listener(netip.MustParseAddrPort("198.51.100.8:80")); got != wide {
		t.Error("where a listener is closed, the next shorter prefix must have its connections")
	}
	if got := p.engine.listener(netip.MustParseAddrPort("192.0.2.1:81")); got != nil {
		t.Error("nobody listens on port 81")
	}
	if _, err := p.engine.Listen(netip.MustParseAddrPort("[::ffff:192.0.2.1]:80")); err == nil {
		t.Error("the same address in another form was given twice")
	}
	if err := p.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if got := p.engine.listener(netip.MustParseAddrPort("192.0.2.1:80")); got != all {
		t.Error("a closed listener must not be found")
	}
}

func isConnReset(err error) bool {
	var sys *os.SyscallError
	return errors.As(err, &sys) && sys.Err.Error() == "connection reset by peer"
}
