// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"net/netip"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A stubLink is a Link for one goroutine that calls turn itself: it gives the frame in its first chunk when told to, keeps the
// last one sent, and allocates nothing. Nobody waits on it but the engine's loop, for the end.
type stubLink struct {
	umem   [2 * memChunk]byte
	length int // of the frame to receive next; 0: none
	sent   afxdp.Desc
	frames int // sent
	left   int // on the TX ring
	end    chan struct{}
}

func (l *stubLink) Receive(d []afxdp.Desc) int {
	if l.length == 0 {
		return 0
	}
	d[0] = afxdp.Desc{Addr: memHeadroom, Len: uint32(l.length)}
	l.length = 0
	return 1
}

func (l *stubLink) Frame(d afxdp.Desc) []byte          { return l.umem[d.Addr:][:d.Len] }
func (l *stubLink) Meta(d afxdp.Desc, n int) []byte    { return l.umem[d.Addr-uint64(n) : d.Addr] }
func (l *stubLink) Recycle([]afxdp.Desc)               {}
func (l *stubLink) Alloc() (afxdp.Desc, bool)          { return afxdp.Desc{Addr: memChunk, Len: memChunk}, true }
func (l *stubLink) Free(afxdp.Desc)                    {}
func (l *stubLink) Transmit(d []afxdp.Desc) int        { l.sent = d[0]; l.frames++; return 1 }
func (l *stubLink) Flush() error                       { l.left = 0; return nil }
func (l *stubLink) Pending() int                       { return l.left }
func (l *stubLink) Wait(d time.Duration) (bool, error) { <-l.end; return true, nil }
func (l *stubLink) Wake()                              { closeOnce(l.end) }
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// requests is a connection over a stubLink: the client's requests are made in place, and what comes of them is in one goroutine.
type requests struct {
	peer    *peer
	link    *stubLink
	shard   *shard
	conn    *Conn
	segment wire.Segment
	request [1448]byte
	buf     [4096]byte
}

func newRequests(tb testing.TB) *requests {
	r := &requests{link: &stubLink{end: make(chan struct{})}}
	flows := &memFlows{flows: map[wire.Flow]bool{}}
	engine, err := New(Config{Links: []Link{r.link}, Flows: flows, MTU: 1500})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { engine.Close(0) })
	listener, err := engine.Listen(netip.MustParseAddrPort("192.0.2.1:80"))
	if err != nil {
		tb.Fatal(err)
	}
	r.peer = &peer{client: netip.MustParseAddr("192.0.2.2"), flows: flows, engine: engine}
	r.peer.from(40000)
	r.shard = engine.shards[0]
	r.segment = wire.Segment{Seq: peerIRS + 1, Ack: peerISS + 1, Flags: wire.ACK, Window: 65535, WScale: -1}
	r.put(0)
	record := r.peer.record
	bpf.EncodeHandshake(r.link.umem[memHeadroom-bpf.HandshakeSize:memHeadroom], &record)
	r.shard.turn()
	c, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	r.conn = c.(*Conn)
	return r
}

// put makes the client's next segment, with n bytes, the one to be received.
func (r *requests) put(n int) {
	frame := r.link.umem[memHeadroom:memChunk]
	r.segment.PayloadLen = n
	copy(frame[r.peer.template.HeaderLen(&r.segment):], r.request[:n])
	r.link.length = r.peer.template.Marshal(frame, &r.segment)
	r.segment.Seq += uint32(n)
}

// The device had no room for all of it, or a Flush has had enough: the loop is woken for that.
func TestATurnSendsWhatIsLeftOnTheRing(t *testing.T) {
	r := newRequests(t)
	r.link.left = 3
	r.shard.turn()
	if r.link.left != 0 {
		t.Errorf("%d frames are still there after a turn that sent nothing", r.link.left)
	}
}

// exchange is a request of n bytes and its answer of m, up to a segment.
func (r *requests) exchange(tb testing.TB, n, m int) {
	r.put(n)
	r.shard.turn()
	if got, err := r.conn.Read(r.buf[:]); got != n || err != nil {
		tb.Fatalf("read %d bytes, %v; want %d", got, err, n)
	}
	frames := r.link.frames
	if _, err := r.conn.Write(r.buf[:m]); err != nil {
		tb.Fatal(err)
	}
	if r.link.frames != frames+1 {
		tb.Fatalf("%d frames for an answer", r.link.frames-frames)
	}
	r.segment.Ack += uint32(m)
}

func TestARequestAndItsAnswerCostTheEngineNoAllocation(t *testing.T) {
	r := newRequests(t)
	r.exchange(t, 100, 1000)
	if n := testing.AllocsPerRun(1000, func() { r.exchange(t, 100, 1000) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAReceivedSegmentCostsTheEngineNoAllocation(t *testing.T) {
	r := newRequests(t)
	receive := func() {
		r.put(1448)
		r.shard.turn()
		if _, err := r.conn.Read(r.buf[:]); err != nil {
			t.Fatal(err)
		}
	}
	receive()
	if n := testing.AllocsPerRun(1000, receive); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What the engine adds to the core and the link: from a frame on the ring to the answer's frame on the ring.
func BenchmarkRequestThroughTheEngine(b *testing.B) {
	r := newRequests(b)
	b.ReportAllocs()
	for b.Loop() {
		r.exchange(b, 40, 129)
	}
}

// A batchFlows is a FlowTable that counts its batches.
type batchFlows struct {
	memFlows
	batches []int
}

func (b *batchFlows) DeleteAll(flows []wire.Flow) error {
	b.batches = append(b.batches, len(flows))
	for _, f := range flows {
		if err := b.Delete(f); err != nil {
			return err
		}
	}
	return nil
}

func TestTheFlowsOfManyConnectionsAreDeletedTogether(t *testing.T) {
	p := newPeer(t, 0)
	table := &batchFlows{memFlows: memFlows{flows: p.flows.flows}}
	p.engine.cfg.Flows = table
	for port := range uint16(3) {
		p.from(40000 + port)
		p.connect()
	}
	p.engine.Close(0)
	if len(table.batches) != 1 || table.batches[0] != 3 || len(table.flows) != 0 {
		t.Errorf("batches of %v, and %d flows are left", table.batches, len(table.flows))
	}
}
