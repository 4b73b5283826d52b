// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/xdptcp/xdptcp/loader"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// An inProcess engine is the product as a library: its connections are in this process, where their
// methods can be called.
type inProcess struct {
	lab       *lab.Lab
	responder *loader.Responder
	engine    *userspace.Engine
	listener  *userspace.Listener

	dialing sync.Mutex // one pipe at a time, so that what is accepted is what was dialled
}

func newInProcess(t *testing.T, backlog int) *inProcess {
	t.Helper()
	p := &inProcess{lab: lab.ForTest(t, lab.Options{})}
	t.Cleanup(func() {
		if p.engine != nil {
			p.engine.Close(time.Second)
		}
		if p.responder != nil {
			p.responder.Close()
		}
	})
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if err := p.lab.Server.Do(func() (err error) {
		p.responder, err = loader.Prepare(loader.Options{
			Interface: p.lab.Server.Iface, Services: []loader.Service{{Port: 8080, Action: "test"}}, Log: log,
		})
		if err != nil {
			return err
		}
		cfg := userspace.Config{
			Flows: p.responder.FlowTable(), MTU: p.responder.MTU(),
			PartialChecksums: p.responder.PartialChecksums(), Backlog: backlog, Log: log,
		}
		for _, s := range p.responder.Sockets() {
			cfg.Links = append(cfg.Links, s)
		}
		if p.engine, err = userspace.New(cfg); err != nil {
			return err
		}
		if p.listener, err = p.engine.Listen(netip.AddrPortFrom(netip.Addr{}, 8080)); err != nil {
			return err
		}
		return p.responder.Attach()
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// pipe connects: ours is xdptcp's end, theirs the kernel's.
func (p *inProcess) pipe(f family) (ours *userspace.Conn, theirs *net.TCPConn, err error) {
	p.dialing.Lock()
	defer p.dialing.Unlock()
	ctx, err := dialFrom(p.lab, netip.AddrPort{}, f.addr(8080), patience)
	if err != nil {
		return nil, nil, err
	}
	theirs = ctx
	if err := theirs.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	c, err := p.listener.Accept()
	if err != nil {
		return nil, nil, err
	}
	if c.RemoteAddr().String() != theirs.LocalAddr().String() {
		return nil, nil, fmt.Errorf("accepted %v, dialled from %v", c.RemoteAddr(), theirs.LocalAddr())
	}
	return c.(*userspace.Conn), theirs, nil
}

func TestOurConnIsANetConnToTheLetter(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	for _, f := range families(p.lab) {
		t.Run(f.name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				ours, theirs, err := p.pipe(f)
				if err != nil {
					return nil, nil, nil, err
				}
				return ours, theirs, func() { ours.Close(); theirs.Close() }, nil
			})
		})
	}
	if st := p.engine.Stats(); st.Opened == 0 || st.BadChecksums+st.BadFrames > 0 {
		t.Errorf("engine: %+v", st)
	}
}

func TestOurConnHalfClosesFirst(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	for _, f := range families(p.lab) {
		t.Run(f.name, func(t *testing.T) {
			ours, theirs, err := p.pipe(f)
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			defer theirs.Close()
			if _, err := ours.Write([]byte("the last words")); err != nil {
				t.Fatal(err)
			}
			if err := ours.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := ours.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("Write after CloseWrite: %v, want EPIPE", err)
			}
			if b, err := io.ReadAll(theirs); err != nil || string(b) != "the last words" {
				t.Fatalf("the client read %q, %v", b, err)
			}
			// The other direction goes on.
			want := payload(1, 2_000_000)
			sent := make(chan error, 1)
			go func() {
				_, err := theirs.Write(want)
				sent <- errors.Join(err, theirs.CloseWrite())
			}()
			got, err := io.ReadAll(ours)
			if err := errors.Join(err, <-sent); err != nil || !bytes.Equal(got, want) {
				t.Errorf("after our half-close: %d of %d bytes, %v", len(got), len(want), err)
			}
		})
	}
}

func TestErrorsAreThoseThatUsersOfPackageNetKnow(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	for _, f := range families(p.lab) {
		t.Run(f.name, func(t *testing.T) {
			ours, theirs, err := p.pipe(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := ours.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, err = ours.Read(make([]byte, 1))
			if ne := net.Error(nil); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("Read past its deadline: %v", err)
			}
			if err := ours.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			if err := abort(theirs); err != nil {
				t.Fatal(err)
			}
			_ = ours.SetReadDeadline(time.Now().Add(patience)) // a reset may have come: its error is the next one
			if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Read after the client's reset: %v, want ECONNRESET", err)
			}
			if _, err := ours.Write(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("Write after the client's reset: %v, want ECONNRESET", err)
			}
			ours.Close()
			if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read after Close: %v, want net.ErrClosed", err)
			}
		})
	}
}

// With nobody accepting, connections beyond the backlog wait at the client's expense, and come in
// once there is room.
func TestAFullBacklogRefusesAndLetsInLater(t *testing.T) {
	t.Parallel()
	const backlog, clients = 4, 10
	p := newInProcess(t, backlog)
	f := families(p.lab)[0]
	var theirs []*net.TCPConn
	for i := range clients {
		c, err := dialFrom(p.lab, netip.AddrPort{}, f.addr(8080), patience) // the SYN/ACK comes from XDP
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		theirs = append(theirs, c)
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for start := time.Now(); p.engine.Stats().RefusedBacklog < clients-backlog; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("engine: %+v", p.engine.Stats())
		}
	}
	if st := p.engine.Stats(); st.Opened != backlog {
		t.Errorf("%d connections were opened, want the backlog's %d", st.Opened, backlog)
	}
	// Accept them all: those that were refused come in with their next retransmission.
	seen := map[byte]bool{}
	accepted := make(chan byte, clients)
	go func() {
		for range clients {
			c, err := p.listener.Accept()
			if err != nil {
				return // the test is over
			}
			b := make([]byte, 1)
			_ = c.SetReadDeadline(time.Now().Add(patience)) // Read would tell
			if _, err := io.ReadFull(c, b); err != nil {
				t.Errorf("%v: %v", c.RemoteAddr(), err)
			}
			c.Close()
			accepted <- b[0]
		}
	}()
	for range clients {
		select {
		case b := <-accepted:
			seen[b] = true
		case <-time.After(patience):
			t.Fatalf("%d of %d came in", len(seen), clients)
		}
	}
	if len(seen) != clients {
		t.Errorf("%d different clients came in, want %d", len(seen), clients)
	}
	for i, c := range theirs {
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
}

// A client that has heard nothing but the SYN/ACK proves the cookie with every segment. When such a
// connection is reset, those still on their way must not be taken for another handshake.
func TestAConnectionThatWasResetIsNotBornAgain(t *testing.T) {
	t.Parallel()
	p := newInProcess(t, 0)
	const rounds = 25
	for i, f := range families(p.lab) {
		t.Run(f.name, func(t *testing.T) {
			for range rounds {
				ours, theirs, err := p.pipe(f)
				if err != nil {
					t.Fatal(err)
				}
				sent := make(chan error, 1)
				go func() {
					_, err := theirs.Write(make([]byte, 50_000_000))
					sent <- err
				}()
				if _, err := io.ReadFull(ours, make([]byte, 500_000)); err != nil {
					t.Fatal(err)
				}
				ours.Close() // with bytes unread: a reset
				if err := <-sent; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("the client's Write ended with %v, want a reset", err)
				}
				theirs.Close()
			}
			st := p.engine.Stats()
			if want := uint64(rounds * (i + 1)); st.Opened != want || st.ClosedAborted != want {
				t.Errorf("%d connections were opened, %d aborted, %d reset by the client; want %d, all aborted", st.Opened, st.ClosedAborted, st.ClosedReset, want)
			}
		})
	}
}
