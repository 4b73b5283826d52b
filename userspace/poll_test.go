// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// alone is a connection on which nothing but a ping-pong has happened, until its reader waits for frames itself.
type alone struct {
	*peer
	conn     *Conn
	seq, ack uint32
	echoed   chan error    // the end of the echo
	stay     chan struct{} // while the test holds it, the echo stays away from Read
}

func newAlone(t *testing.T) *alone {
	p := newPeer(t, 0)
	a := &alone{peer: p, conn: p.connect().(*Conn), seq: 501, ack: peerISS + 1, echoed: make(chan error, 1), stay: make(chan struct{}, 1)}
	go func() {
		b := make([]byte, 1)
		for {
			if _, err := a.conn.Read(b); err != nil {
				a.echoed <- err
				return
			}
			if _, err := a.conn.Write(b); err != nil {
				a.echoed <- err
				return
			}
			a.stay <- struct{}{}
			<-a.stay
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); !a.polls(); {
		if time.Now().After(deadline) {
			t.Fatal("the reader never waits for frames itself")
		}
		a.ping()
	}
	return a
}

func (a *alone) ping() {
	a.t.Helper()
	a.send(wire.ACK|wire.PSH, a.seq, a.ack, "x", nil)
	a.seq++
	a.want(a.link.next(a.t), wire.ACK|wire.PSH, a.ack, a.seq, "x")
	a.ack++
}

// polls reports whether the connection's reader is the one that waits for frames, or comes to be it soon.
func (a *alone) polls() bool {
	s := a.conn.shard
	for range 20 {
		s.mu.Lock()
		is := s.polling.busy && s.polling.reader == a.conn
		s.mu.Unlock()
		if is {
			return true
		}
		time.Sleep(100 * time.Microsecond)
	}
	return false
}

func (a *alone) ends(want error) {
	a.t.Helper()
	select {
	case err := <-a.echoed:
		if !errors.Is(err, want) {
			a.t.Errorf("Read ends with %v, want %v", err, want)
		}
	case <-time.After(5 * time.Second):
		a.t.Fatal("Read does not end")
	}
}

func TestTheReaderThatWaitsForFramesTakesInThoseOfOthersToo(t *testing.T) {
	a := newAlone(t)
	a.from(40001)
	c := a.connect()
	a.send(wire.ACK|wire.PSH, 501, peerISS+1, "hello", nil)
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestTheReaderThatWaitsForFramesWakesOtherReadersAtOnce(t *testing.T) {
	a := newAlone(t)
	first := a.flow.RemotePort
	a.from(40001)
	c := a.connect()
	got := make(chan error, 1)
	best := time.Hour
	for seq := uint32(501); seq < 506; seq++ {
		go func() {
			_, err := c.Read(make([]byte, 1))
			got <- err
		}()
		for a.from(first); !a.polls(); {
			a.ping()
		}
		a.from(40001)
		start := time.Now()
		a.send(wire.ACK|wire.PSH, seq, peerISS+1, "x", nil)
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
		a.link.next(t) // the delayed acknowledgment
	}
	// Not only when something else happens: the acknowledgments are due within 40 ms.
	if best > 10*time.Millisecond {
		t.Errorf("at best, the other reader has its data after %v", best)
	}
}

func TestWhenTheReaderStaysAwayTheLoopTakesOver(t *testing.T) {
	a := newAlone(t)
	a.stay <- struct{}{} // no more Read after the next answer
	a.ping()
	a.from(40001)
	c := a.connect()
	a.send(wire.ACK|wire.PSH, 501, peerISS+1, "hello", nil)
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	<-a.stay
}

func TestAReaderThatWaitsForFramesHearsOfWhatHappensToItsConnection(t *testing.T) {
	for _, row := range []struct {
		name string
		do   func(*alone)
		want error
	}{
		{"a read deadline", func(a *alone) { _ = a.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) }, os.ErrDeadlineExceeded},
		{"a read deadline that is over", func(a *alone) { _ = a.conn.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"its Close", func(a *alone) { _ = a.conn.Close() }, net.ErrClosed},
		{"its CloseRead", func(a *alone) { _ = a.conn.CloseRead() }, io.EOF},
		{"the peer's FIN", func(a *alone) { a.send(wire.ACK|wire.FIN, a.seq, a.ack, "", nil) }, io.EOF},
		{"the engine's Close", func(a *alone) { a.engine.Close(0) }, net.ErrClosed},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAlone(t)
			row.do(a)
			a.ends(row.want)
		})
	}
}
