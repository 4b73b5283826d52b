// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// sick waits until the engine says that it is not healthy. No call may take long.
func sick(t *testing.T, e *Engine, within time.Duration) string {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		before := time.Now()
		err := e.Healthy()
		if took := time.Since(before); took > 500*time.Millisecond {
			t.Fatalf("Healthy blocked for %v", took)
		}
		if err != nil {
			return err.Error()
		}
	}
	t.Fatalf("Healthy noticed nothing within %v", within)
	panic("unreachable")
}

func TestALockThatIsNotGivenBackIsToldByItsQueue(t *testing.T) {
	t.Parallel()
	p := newPeer(t, 0, newMemLink(), newMemLink())
	if err := p.engine.Healthy(); err != nil {
		t.Fatal(err)
	}
	s := p.engine.shards[2]
	s.mu.Lock()
	start := time.Now()
	err := sick(t, p.engine, 5*time.Second)
	s.mu.Unlock()
	if !strings.Contains(err, "queue 2: the shard's lock has been held for ") {
		t.Errorf("got %q", err)
	}
	if after := time.Since(start); after < hungAfter {
		t.Errorf("it was told after %v already", after)
	}
	for deadline := time.Now().Add(5 * time.Second); p.engine.Healthy() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("with the lock given back, the engine is still not healthy")
		}
	}
}

// A hungLink is a memLink whose Wait does not return.
type hungLink struct {
	*memLink
	release chan struct{}
}

func (l hungLink) Wait(time.Duration) (bool, error) {
	<-l.release
	return false, nil
}

func TestALoopThatDoesNotTurnIsToldByItsQueue(t *testing.T) {
	t.Parallel()
	link := hungLink{newMemLink(), make(chan struct{})}
	p := newPeer(t, 0, link)
	defer close(link.release) // before newPeer's Close
	err := sick(t, p.engine, 10*time.Second)
	if !strings.Contains(err, "queue 1: the shard's loop has made no turn for ") {
		t.Errorf("got %q", err)
	}
}

func TestAnIdleEngineIsHealthy(t *testing.T) {
	t.Parallel()
	p := newPeer(t, 0)
	// Longer than a loop may go without a turn: it must wake by itself.
	for deadline := time.Now().Add(maxSleep + hungAfter + 500*time.Millisecond); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err := p.engine.Healthy(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABusyEngineIsHealthy(t *testing.T) {
	p := newPeer(t, 0)
	const conns = 4
	stop := make(chan struct{})
	var busy sync.WaitGroup
	until := func(f func()) { // f again and again, until the test is over
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	for i := range conns {
		p.from(40000 + uint16(i))
		c := p.connect()
		busy.Go(func() { _, _ = io.Copy(io.Discard, c) })
		until(func() { _ = c.(*Conn).Info() }) // contends for the lock as a service does
	}
	for range runtime.GOMAXPROCS(0) {
		until(func() {}) // takes the CPU away
	}
	frames := 0
	until(func() {
		time.Sleep(100 * time.Microsecond)
		p.link.mu.Lock()
		room := len(p.link.freeRx)
		p.link.mu.Unlock()
		if room < memChunks/4 {
			return // as the RX ring would be full
		}
		p.from(40000 + uint16(frames%conns))
		p.send(wire.ACK|wire.PSH, 501+uint32(frames/conns), peerISS+1, "x", nil)
		frames++
	})
	for start := time.Now(); time.Since(start) < 2500*time.Millisecond || p.engine.Stats().SegmentsIn < 50; time.Sleep(10 * time.Millisecond) {
		if err := p.engine.Healthy(); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	p.engine.Close(0)
	busy.Wait()
	if err := p.engine.Healthy(); err == nil {
		t.Error("a closed engine must not be called healthy")
	}
}
