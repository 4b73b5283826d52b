// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// fakeCounters are Counters that a test sets.
type fakeCounters struct {
	mu      sync.Mutex
	reasons [bpf.ReasonCount]uint64
	engine  userspace.Stats
	err     error
	reads   int
}

func (f *fakeCounters) Reasons() ([bpf.ReasonCount]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.err != nil {
		return [bpf.ReasonCount]uint64{}, f.err
	}
	return f.reasons, nil
}

func (f *fakeCounters) Engine() userspace.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.engine
}

func (f *fakeCounters) set(g func(*fakeCounters)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g(f)
}

var errGone = errors.New("map is gone")

// An xdpListener makes accepted connections look as if XDP had answered them.
type xdpListener struct {
	net.Listener
	handshake userspace.Handshake
	info      tcp.Info
}

func (l *xdpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &xdpConn{c, l}, nil
}

type xdpConn struct {
	net.Conn
	l *xdpListener
}

func (c *xdpConn) Handshake() userspace.Handshake { return c.l.handshake }
func (c *xdpConn) Info() tcp.Info                 { return c.l.info }

// A wrapper hides a connection, as tls.Conn does.
type wrapper struct{ net.Conn }

func (w wrapper) NetConn() net.Conn { return w.Conn }

// linuxHandshake is the handshake of a Linux client: all options.
func linuxHandshake() userspace.Handshake {
	return userspace.Handshake{
		Remote: netip.MustParseAddrPort("192.0.2.7:51234"), Local: netip.MustParseAddrPort("198.51.100.1:8080"),
		Queue: 0, ClientISN: 500, ServerISN: 3735928559, MSS: 1460, ClientWScale: 7, ServerWScale: 7,
		SACK: true, Timestamps: true, ECN: true, Duration: 8 << 20, HasDuration: true, AnsweredBy: "xdp",
		Opened: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
	}
}

func linuxInfo() tcp.Info {
	return tcp.Info{
		State: tcp.StateEstablished, MSS: 1448, RTT: 8123456, Cwnd: 14480, SndWnd: 64256, RcvWnd: 65535,
		BytesIn: 10, BytesOut: 20000, SegsIn: 9, SegsOut: 16, PureAcksOut: 1,
	}
}
