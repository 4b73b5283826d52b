// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A Link moves the frames of one queue. *afxdp.Socket is the one that matters; its comments are the
// contract. All methods but Wait, Flush and Wake are called with the shard's lock held.
type Link interface {
	Receive([]afxdp.Desc) int
	Frame(afxdp.Desc) []byte
	Meta(d afxdp.Desc, n int) []byte
	Recycle([]afxdp.Desc)
	Alloc() (afxdp.Desc, bool)
	Free(afxdp.Desc)
	Transmit([]afxdp.Desc) int
	Pending() int
	Flush() error
	Wait(time.Duration) (bool, error)
	Wake()
}

// FlowTable is XDP's table of flows, which only user space deletes from.
type FlowTable interface {
	// Delete forgets a flow. That there is none is not an error.
	Delete(wire.Flow) error
	// Flows calls f for each flow until it returns false.
	Flows(f func(wire.Flow) bool) error
	// Keys are the cookie keys in use: the engine answers a SYN itself where it reuses TIME-WAIT.
	Keys() *bpf.CookieKeys
}

// A batchDeleter is a FlowTable that forgets many flows at the cost of one.
type batchDeleter interface {
	DeleteAll([]wire.Flow) error
}

// Config tells New what to run.
type Config struct {
	Links []Link    // one per queue, in the order of the queues
	Flows FlowTable // XDP's
	MTU   int       // of the interface: bounds the segments we send
	// PartialChecksums accepts segments whose checksum covers the pseudo-header only, as peers on
	// the same host leave them (veth, virtio).
	PartialChecksums bool
	// Backlog bounds, for each listener, the connections that wait for Accept. 0: 1024.
	Backlog int
	// Memory bounds the bytes that all connections together hold in buffers. 0: 1 GiB. At the bound
	// a Write waits, and what a peer sends is dropped and counted until readers have drained theirs. From
	// three quarters of it on, what comes out of order is not kept. (TCP has the bounds of each connection.)
	Memory int
	// TCP is the model for each shard's configuration (its Pool is not used: each shard has its
	// own). nil: tcp.DefaultConfig.
	TCP *tcp.Config
	Log *slog.Logger // nil: slog.Default
}

// An Engine serves the connections of one interface.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	clock  clock
	shards []*shard
	loops  sync.WaitGroup
	stop   chan struct{}
	lost   chan error
	closed sync.Once
	owners owners
	// flowHash is that of all tables of flows.
	flowHash  *flowHash
	mu        sync.RWMutex
	listeners map[place]*Listener
}

// New starts an engine. It takes over the links' frames at once, but the links stay the caller's to
// close, after Close.
func New(cfg Config) (*Engine, error) {
	if len(cfg.Links) == 0 {
		return nil, errors.New("engine: no links: there must be one per RX queue")
	}
	if cfg.Flows == nil {
		return nil, errors.New("engine: no flow table")
	}
	if cfg.MTU < 576 {
		return nil, fmt.Errorf("engine: MTU %d is too small for TCP: at least 576", cfg.MTU)
	}
	if cfg.Backlog == 0 {
		cfg.Backlog = 1024
	}
	if cfg.Memory == 0 {
		cfg.Memory = 1 << 30
	}
	if cfg.TCP == nil {
		cfg.TCP = tcp.DefaultConfig()
	}
	if cfg.TCP.RecvBuffer < bpf.Window {
		return nil, fmt.Errorf("engine: a receive buffer of %d bytes cannot hold the window of %d that the SYN/ACK promises",
			cfg.TCP.RecvBuffer, bpf.Window)
	}
	if err := cfg.TCP.Validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	e := &Engine{
		cfg:       cfg,
		log:       cfg.Log,
		clock:     newClock(),
		flowHash:  newFlowHash(),
		stop:      make(chan struct{}),
		lost:      make(chan error, len(cfg.Links)),
		listeners: make(map[place]*Listener),
	}
	for queue, link := range cfg.Links {
		e.shards = append(e.shards, newShard(e, queue, link))
	}
	e.owners = newOwners(e.flowHash, e.shards)
	for _, s := range e.shards {
		e.loops.Add(1)
		go s.loop()
	}
	e.loops.Add(1)
	go e.sweep()
	return e, nil
}

// Retire leaves everything new to a successor, from when it returns until the engine is closed: handshakes and segments
// of flows that the engine does not have are neither answered nor deleted from XDP's table, so a client's next segment
// is the successor's, and proves the cookie to it again. Existing connections go on. It cannot be taken back.
func (e *Engine) Retire() {
	for _, s := range e.shards {
		s.retire()
	}
}

// AbortFlows resets the connections whose remote address matches, as when a list of denied clients has changed, and
// says how many they were. IPv4 addresses come in their plain form. match is called with locks held: it must be quick,
// and call nothing of the engine. Whoever may not come back must be kept out by XDP before.
func (e *Engine) AbortFlows(match func(remote netip.Addr) bool) (n int) {
	for _, s := range e.shards {
		n += s.abortFrom(match)
	}
	return n
}

// Close retires the engine and ends it. Listeners are closed, every connection gets its FIN, and up to grace is given
// for what was written to arrive; the rest is reset. The flows of all connections are deleted from XDP's table, those
// that are over included, and no others.
func (e *Engine) Close(grace time.Duration) {
	e.closed.Do(func() {
		e.Retire()
		e.mu.Lock()
		listeners := e.listeners
		e.listeners = make(map[place]*Listener)
		e.mu.Unlock()
		for _, l := range listeners {
			l.Close()
		}
		for _, s := range e.shards {
			s.closeConns()
		}
		for deadline := time.Now().Add(grace); time.Now().Before(deadline) && e.Stats().Open > 0; {
			time.Sleep(5 * time.Millisecond)
		}
		close(e.stop)
		for _, s := range e.shards {
			s.abortConns()
			s.recallLoop()
		}
		e.loops.Wait()
		for _, s := range e.shards {
			s.forgetAll()
		}
	})
}

// stopping reports whether Close is past the grace.
func (e *Engine) stopping() bool {
	select {
	case <-e.stop:
		return true
	default:
		return false
	}
}

// Lost tells of queues that can't be served any more, mostly because their interface is gone. Their
// connections have been reset; Close remains to be called.
func (e *Engine) Lost() <-chan error { return e.lost }
