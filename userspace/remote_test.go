// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"sync"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A remote is a whole TCP at the other end of a memLink, for what a peer's single segments can't show. It reads all that comes
// and sends what it is told to.
type remote struct {
	p    *peer
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	tcp  tcp.Conn
	send []byte // not yet taken by tcp
	fin  bool   // after send
	got  []byte
	eof  bool
}

// newRemote goes on with the connection that p has just made.
func newRemote(t testing.TB, p *peer) *remote {
	r := &remote{p: p, stop: make(chan struct{})}
	r.tcp.Open(tcp.DefaultConfig(), tcp.Handshake{ISS: peerIRS, IRS: peerISS, MSS: 1460, RcvWnd: 65535, SACK: true}, r.now())
	// The engine's window was in its SYN/ACK.
	r.tcp.Input(&wire.Segment{Seq: peerISS + 1, Ack: peerIRS + 1, Flags: wire.ACK, Window: 65535, WScale: -1}, r.now())
	r.done.Go(r.run)
	t.Cleanup(func() {
		close(r.stop)
		r.done.Wait()
	})
	return r
}

func (r *remote) now() tcp.Time { return tcp.Time(time.Now().UnixNano()) }

func (r *remote) run() {
	timer := time.NewTicker(time.Millisecond)
	defer timer.Stop()
	for {
		select {
		case <-r.stop:
			return
		case frame := <-r.p.link.sent:
			r.input(frame)
			for more := true; more; {
				select {
				case frame := <-r.p.link.sent:
					r.input(frame)
				default:
					more = false
				}
			}
		case <-timer.C:
		}
		r.turn()
	}
}

func (r *remote) input(frame []byte) {
	var p wire.Packet
	if err := wire.Parse(frame, &p); err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tcp.Input(&p.Segment, r.now())
}

func (r *remote) turn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.tcp.Deadline() <= now {
		r.tcp.Tick(now)
	}
	var b [4096]byte
	for n := r.tcp.Read(b[:]); n > 0; n = r.tcp.Read(b[:]) {
		r.got = append(r.got, b[:n]...)
	}
	r.eof = r.tcp.ReadClosed()
	r.send = r.send[r.tcp.Write(r.send):]
	if r.fin && len(r.send) == 0 {
		r.tcp.CloseWrite()
	}
	for r.p.link.room() && r.output(now) {
	}
}

func (r *remote) output(now tcp.Time) bool {
	var s wire.Segment
	if !r.tcp.Output(&s, now) {
		return false
	}
	frame := make([]byte, 1522)
	h := r.p.template.HeaderLen(&s)
	r.tcp.CopyPayload(frame[h:h+s.PayloadLen], &s)
	r.p.link.deliver(frame[:r.p.template.Marshal(frame, &s)], nil)
	return true
}

// say sends b, and a FIN behind it if that is the end.
func (r *remote) say(b []byte, end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send, r.fin = append(r.send, b...), end
}

// heard waits until n bytes have come, and gives them.
func (r *remote) heard(t testing.TB, n int) []byte {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		got := r.got
		r.mu.Unlock()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes arrived, want %d", len(got), n)
		}
	}
}
