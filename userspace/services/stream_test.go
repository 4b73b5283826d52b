// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

// serve runs a service on a TCP port of this host until the test ends.
func serve(t *testing.T, s Service) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, ln)
	return ln.Addr().String()
}

func serveOn(t *testing.T, s Service, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve after Shutdown: %v", err)
		}
	})
}

func mustNew(t *testing.T, action string, env Env) Service {
	t.Helper()
	if env.Log == nil {
		env.Log = quiet
	}
	s, err := New(action, env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func TestActions(t *testing.T) {
	if got := strings.Join(Actions(), " "); got != "discard echo http" {
		t.Errorf("Actions: %s", got)
	}
	for _, action := range Actions() {
		if _, err := New(action, Env{}); err != nil {
			t.Error(err)
		}
	}
	_, err := New("ftp", Env{})
	if err == nil || !strings.Contains(err.Error(), "discard, echo, http") {
		t.Errorf("error %v does not say what there is", err)
	}
}

func TestEchoSendsBackEverythingAndThenEndsToo(t *testing.T) {
	addr := serve(t, mustNew(t, "echo", Env{}))
	for _, size := range []int{0, 1, smallBuffer - 1, smallBuffer, smallBuffer + 1, largeBuffer, 3*largeBuffer + 7, 5 << 20} {
		sent := make([]byte, size&^7+8)
		fillBytes(sent, 0)
		sent = sent[:size]
		c := dial(t, addr)
		go func() {
			_, _ = c.Write(sent) // an error shows as missing bytes
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes: got %d back, error %v", size, len(got), err)
		}
	}
}

func TestEchoAnswersBeforeTheEnd(t *testing.T) {
	c := dial(t, serve(t, mustNew(t, "echo", Env{})))
	buf := make([]byte, smallBuffer)
	for _, size := range []int{1, smallBuffer, smallBuffer, 3, smallBuffer, 1} { // in and out of the large buffer
		if _, err := c.Write(buf[:size]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf[:size]); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
}

func TestDiscardReadsToTheEndAndSaysNothing(t *testing.T) {
	c := dial(t, serve(t, mustNew(t, "discard", Env{})))
	if _, err := c.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%d bytes, error %v, want a clean end", len(got), err)
	}
}

func TestIdleClientsAreLetGo(t *testing.T) {
	for _, action := range []string{"echo", "discard", "http"} {
		t.Run(action, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipeListener()
				serveOn(t, mustNew(t, action, Env{}), ln)
				c := ln.dial()
				start := time.Now()
				if n, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("read %d bytes, error %v, want the end", n, err)
				}
				if after := time.Since(start); after > idleTimeout {
					t.Errorf("let go after %v", after)
				}
			})
		})
	}
}

func TestBusyClientsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		serveOn(t, mustNew(t, "echo", Env{}), ln)
		c := ln.dial()
		for range 20 {
			time.Sleep(idleTimeout / 2)
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
	})
}

func TestAClientThatDoesNotReadIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		serveOn(t, mustNew(t, "echo", Env{}), ln)
		c := ln.dial()
		start := time.Now()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, err := c.Write([]byte("and now?")) // the echo of hello is still in its way
		if err == nil || time.Since(start) > idleTimeout {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
	})
}

func TestShutdownEndsConnectionsPolitely(t *testing.T) {
	for _, action := range Actions() {
		s := mustNew(t, action, Env{})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve(ln) }()
		var c net.Conn
		if action == "echo" { // and be sure that it has been accepted
			c = dial(t, ln.Addr().String())
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("%s: Shutdown: %v", action, err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("%s: Serve: %v", action, err)
		}
		if action == "echo" {
			if n, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: read %d, error %v, want the end", action, n, err)
			}
		}
		if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			t.Errorf("%s: still accepts", action)
		}
		if err := s.Serve(newPipeListener()); err != nil {
			t.Errorf("%s: Serve after Shutdown: %v", action, err)
		}
	}
}

func TestShutdownDoesNotWaitLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustNew(t, "echo", Env{})
		ln := newPipeListener()
		go s.Serve(ln)
		c := ln.dial()
		if _, err := c.Write([]byte("hello")); err != nil { // whose echo we never read
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("the connection was not closed: %v", err)
		}
	})
}

func TestServeEndsWithItsListener(t *testing.T) {
	for _, action := range Actions() {
		s := mustNew(t, action, Env{})
		ln := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- s.Serve(ln) }()
		ln.Close()
		if err := <-served; err != nil {
			t.Errorf("%s: %v", action, err)
		}
	}
}

func TestAcceptErrorsThatPassAreWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			err   error
			fatal bool
		}{
			{os.NewSyscallError("accept", syscall.EMFILE), false},
			{os.NewSyscallError("accept", syscall.EINVAL), true},
		} {
			ln := newPipeListener()
			ln.failures = []error{tt.err, tt.err, tt.err}
			s := mustNew(t, "discard", Env{})
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			if tt.fatal {
				if err := <-served; !errors.Is(err, tt.err) {
					t.Errorf("%v: Serve: %v", tt.err, err)
				}
				continue
			}
			ln.dial().Close()
			ln.Close()
			if err := <-served; err != nil {
				t.Errorf("%v: Serve: %v", tt.err, err)
			}
		}
	})
}

// A pipeListener accepts in-memory connections, which virtual time knows.
type pipeListener struct {
	conns    chan net.Conn
	done     chan struct{}
	failures []error // that Accept has before it works
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipeListener) Accept() (net.Conn, error) {
	if len(l.failures) > 0 {
		err := l.failures[0]
		l.failures = l.failures[1:]
		return nil, err
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.done:
		return net.ErrClosed
	default:
		close(l.done)
		return nil
	}
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero} }
