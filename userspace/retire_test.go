// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"io"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// leavesAlone sends what a retired engine must leave to its successor: a handshake, and a SYN and a segment without
// record on flows that it does not have. before is how many such segments it has left alone already.
func (p *peer) leavesAlone(before uint64) {
	p.t.Helper()
	p.from(40001)
	p.send(wire.ACK|wire.PSH, peerIRS+1, peerISS+1, "hello", &p.record)
	handshake := p.flow
	p.from(40002)
	p.flows.add(p.flow)
	p.send(wire.SYN, 7, 0, "", nil)
	p.send(wire.ACK, 8, 88, "", nil)
	p.stats("left alone", func(s Stats) uint64 { return s.LeftAlone }, before+3)
	p.link.quiet(p.t)
	if !p.flows.has(handshake) || !p.flows.has(p.flow) {
		p.t.Error("a flow that is the successor's was deleted")
	}
	p.from(40000)
}

func TestARetiredEngineServesWhatItHasAndLeavesTheRestAlone(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect()
	p.engine.Retire()
	p.leavesAlone(0)

	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "still", nil)
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "still" {
		t.Fatalf("read %q, %v", b, err)
	}
	if _, err := c.Write([]byte("here")); err != nil {
		t.Fatal(err)
	}
	for s := p.link.next(t); string(s.Segment.Payload) != "here"; s = p.link.next(t) { // the delayed ACK may come first
	}
	p.stats("opened", func(s Stats) uint64 { return s.Opened }, 1)
	p.stats("no connection", func(s Stats) uint64 { return s.NoConnection }, 0)
}

func TestARetiredEngineStillHandsOverStrays(t *testing.T) {
	second := newMemLink()
	p := newPeer(t, 0, second)
	c := p.connect()
	p.engine.Retire()
	p.link = second
	p.leavesAlone(0)
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	p.send(wire.ACK|wire.PSH, 501, peerISS+1, "stray", nil)
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "stray" {
		t.Fatalf("read %q, %v", b, err)
	}
}

func TestARetiredEngineDoesNotSweep(t *testing.T) {
	p := newPeer(t, 0)
	p.flows.add(p.flow)
	suspects := p.engine.sweepOnce(nil)
	p.engine.Retire()
	p.engine.sweepOnce(suspects)
	if !p.flows.has(p.flow) {
		t.Error("the flow was swept: it may be the successor's")
	}
	p.stats("swept", func(s Stats) uint64 { return s.Swept }, 0)
}

func TestCloseDeletesTheFlowsOfItsConnectionsAndNoOthers(t *testing.T) {
	p := newPeer(t, 0)
	p.closeActively(p.connect())
	waiting := p.flow
	p.from(40003)
	p.connect()
	open := p.flow
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.engine.Close(500 * time.Millisecond)
	}()
	if s := p.link.next(t); !s.Segment.Flags.Has(wire.FIN) {
		t.Fatalf("the engine sent %v, want FIN", s.Segment.Flags)
	}
	// While it waits for the FIN's acknowledgment, what is new is its successor's.
	p.leavesAlone(0)
	if !p.flows.has(open) {
		t.Error("a connection lost its flow while it was being closed")
	}
	<-closed
	if p.flows.has(open) || p.flows.has(waiting) {
		t.Error("the flow of a connection is still in XDP's table")
	}
	for _, port := range []uint16{40001, 40002} {
		if p.from(port); !p.flows.has(p.flow) {
			t.Errorf("the flow of port %d was deleted, and the engine never had it", port)
		}
	}
}
