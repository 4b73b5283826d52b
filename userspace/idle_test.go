// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// segmentOf writes a segment of client i to port 80 of 192.0.2.1 into a buffer.
func segmentOf(i uint32, b []byte, s *wire.Segment) []byte {
	// The frame that it replies to.
	reply := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1}
	reply = binary.BigEndian.AppendUint32(reply, 10<<24|i>>12)
	reply = append(reply, 0, 80)
	reply = binary.BigEndian.AppendUint16(reply, uint16(20000+i&0xfff))
	reply = append(reply, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0)
	var p wire.Packet
	if err := wire.Parse(reply, &p); err != nil {
		panic(err)
	}
	t := wire.NewTemplate(&p)
	return b[:t.Marshal(b, s)]
}

// A crowd is a Link with clients behind it, of whom each opens a connection with its first request and acknowledges the
// answer. Then they are silent.
type crowd struct {
	first, n uint32       // its clients are first to first+n-1
	asked    uint32       // how many of them have sent their request
	listens  atomic.Bool  // that which they connect to
	served   atomic.Int64 // of them: how many have their answer
	acked    uint32
	umem     []byte
	wake     chan struct{}
}

const (
	crowdChunk = 256
	request    = "GET / HTTP/1.1\r\n\r\n"
	answer     = "HTTP/1.1 204 No Content\r\n\r\n"
)

func newCrowd(first, n uint32) *crowd {
	return &crowd{first: first, n: n, umem: make([]byte, (batchSize+1)*crowdChunk), wake: make(chan struct{}, 1)}
}

func (l *crowd) Receive(list []afxdp.Desc) (n int) {
	for ; n < len(list); n++ {
		at := uint64(n * crowdChunk)
		chunk := l.umem[at : at+crowdChunk]
		var frame []byte
		switch {
		case !l.listens.Load():
			return n
		case l.acked < uint32(l.served.Load()): // connections are accepted in the order of their requests
			frame = l.segment(chunk, l.acked, peerIRS+1+uint32(len(request)), peerISS+1+uint32(len(answer)), "")
			l.acked++
		case l.asked < l.n && l.asked < uint32(l.served.Load())+512: // no more than the backlog holds
			bpf.EncodeHandshake(chunk[:bpf.HandshakeSize], &bpf.Handshake{
				Magic: bpf.HandshakeMagic, Iss: peerISS, Irs: peerIRS, Mss: 1460, Flags: bpf.HandshakeSACK,
			})
			frame = l.segment(chunk, l.asked, peerIRS+1, peerISS+1, request)
			l.asked++
		default:
			return n
		}
		list[n] = afxdp.Desc{Addr: at + bpf.HandshakeSize, Len: uint32(len(frame))}
	}
	return n
}

func (l *crowd) segment(chunk []byte, i, seq, ack uint32, payload string) []byte {
	s := wire.Segment{Seq: seq, Ack: ack, Flags: wire.ACK, Window: 65535, PayloadLen: len(payload), WScale: -1}
	copy(chunk[bpf.HandshakeSize+54:], payload)
	return segmentOf(l.first+i, chunk[bpf.HandshakeSize:], &s)
}

func (l *crowd) Frame(d afxdp.Desc) []byte       { return l.umem[d.Addr : d.Addr+uint64(d.Len)] }
func (l *crowd) Meta(d afxdp.Desc, n int) []byte { return l.umem[d.Addr-uint64(n) : d.Addr] }
func (l *crowd) Recycle([]afxdp.Desc)            {}
func (l *crowd) Alloc() (afxdp.Desc, bool) {
	return afxdp.Desc{Addr: batchSize * crowdChunk, Len: crowdChunk}, true
}
func (l *crowd) Free(afxdp.Desc)                {}
func (l *crowd) Transmit(list []afxdp.Desc) int { return len(list) }
func (l *crowd) Flush() error                   { return nil }
func (l *crowd) Pending() int                   { return 0 }
func (l *crowd) Wait(timeout time.Duration) (bool, error) {
	select {
	case <-l.wake:
	case <-time.After(min(timeout, time.Millisecond)):
	}
	return true, nil
}

func (l *crowd) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// memory is what the process has from the system for its heap, and how much of it is resident.
func memory(t testing.TB) (heap, resident int) {
	debug.FreeOSMemory() // after a garbage collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscanf(rss, "%d kB", &resident); err != nil {
		t.Fatal(err)
	}
	return int(m.HeapInuse + m.StackInuse), resident << 10
}

// crowded makes an engine with n connections that have had a request each and are idle, and gives what it and its heap
// grew by, per connection. The connections are spread over two shards.
func crowded(t testing.TB, n uint32) (heap, resident float64) {
	links := []*crowd{newCrowd(0, n/2), newCrowd(n/2, n/2)}
	engine, err := New(Config{
		Links: []Link{links[0], links[1]}, Flows: &memFlows{flows: map[wire.Flow]bool{}}, MTU: 1500, PartialChecksums: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close(0)
	conns := make([]net.Conn, 0, n) // the application's own
	heapBefore, residentBefore := memory(t)
	listener, err := engine.Listen(netip.MustParseAddrPort("192.0.2.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	links[0].listens.Store(true)
	links[1].listens.Store(true)
	b := make([]byte, 100)
	for range n {
		c, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Read(b); err != nil || string(b[:got]) != request {
			t.Fatalf("read %q, %v", b[:got], err)
		}
		if _, err := c.Write([]byte(answer)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if crowd := links[0]; c.(*Conn).shard.link == Link(crowd) {
			crowd.served.Add(1)
		} else {
			links[1].served.Add(1)
		}
	}
	// All is acknowledged: no buffer is held any more.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		st := engine.Stats()
		if st.BufferBytes == 0 && st.Open == int(n) && st.SegmentsIn >= 2*uint64(n) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the connections are not idle: %+v", st)
		}
	}
	for _, s := range engine.shards {
		s.mu.Lock()
		s.tcp.Pool.Trim(0) // what TrimUnused does in a while
		s.mu.Unlock()
	}
	heapAfter, residentAfter := memory(t)
	runtime.KeepAlive(conns)
	return float64(heapAfter-heapBefore) / float64(n), float64(residentAfter-residentBefore) / float64(n)
}

func TestAnIdleConnectionCostsLessThanAKibibyte(t *testing.T) {
	heap, resident := crowded(t, 20_000)
	t.Logf("%.0f bytes of heap per connection, %.0f resident", heap, resident)
	if heap > 1024 {
		t.Errorf("an idle connection costs %.0f bytes", heap)
	}
}

// BenchmarkMillionIdle makes a million connections, and prints what each costs. All of them must fit into 2 GiB.
func BenchmarkMillionIdle(b *testing.B) {
	const conns = 1_000_000
	for b.Loop() {
		heap, resident := crowded(b, conns)
		b.ReportMetric(heap, "heap-B/conn")
		b.ReportMetric(resident, "rss-B/conn")
		if total := resident * conns; total > 2<<30 {
			b.Errorf("they take %.0f MiB", total/(1<<20))
		}
	}
}
