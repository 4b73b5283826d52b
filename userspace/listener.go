// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"net"
	"net/netip"
	"sync"
)

// A Listener accepts the connections to one port. It is a net.Listener.
type Listener struct {
	engine *Engine
	place  place
	queue  chan *Conn // complete connections, waiting for Accept
	done   chan struct{}
	once   sync.Once
	mu     sync.Mutex // orders offer and Close, so that no connection is left in the queue
}

var _ net.Listener = (*Listener)(nil)

func newListener(e *Engine, at place, backlog int) *Listener {
	return &Listener{engine: e, place: at, queue: make(chan *Conn, backlog), done: make(chan struct{})}
}

// offer queues a new connection; false: the backlog is full or the listener closed.
func (l *Listener) offer(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.queue <- c:
		return true
	default:
		return false
	}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close stops listening. Connections that nobody has accepted are reset; the others go on.
func (l *Listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed})
	l.once.Do(func() {
		err = nil
		l.engine.mu.Lock()
		if l.engine.listeners[l.place] == l {
			delete(l.engine.listeners, l.place)
		}
		l.engine.mu.Unlock()
		l.mu.Lock()
		close(l.done)
		l.mu.Unlock()
		for {
			select {
			case c := <-l.queue:
				c.abort()
			default:
				return
			}
		}
	})
	return err
}

// Addr is what was given to Listen, or the first address of what was given to ListenPrefix. The zero
// address stands for all.
func (l *Listener) Addr() net.Addr {
	if !l.place.prefix.IsValid() {
		return &net.TCPAddr{IP: net.IPv6unspecified, Port: int(l.place.port)}
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.place.prefix.Addr(), l.place.port))
}
