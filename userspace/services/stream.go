// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A stream is a service that treats all connections alike: one goroutine each.
type stream struct {
	log    *slog.Logger
	idle   time.Duration
	handle func(*client) error // returns when the client is done; the stream closes the connection

	mu        sync.Mutex
	stopping  bool
	listeners map[net.Listener]bool
	clients   map[*client]bool
	serving   sync.WaitGroup // Add only with the lock held and while not stopping
}

func newStream(env Env, handle func(*client) error) *stream {
	return &stream{
		log: env.Log, idle: idleTimeout, handle: handle,
		listeners: map[net.Listener]bool{}, clients: map[*client]bool{},
	}
}

// Serve implements Service.
func (s *stream) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return closeListener(ln)
	}
	s.listeners[ln] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	for backoff := time.Duration(0); ; {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			backoff = 0
			s.start(conn)
		case errors.Is(err, net.ErrClosed):
			return nil
		case outOfFiles(err): // passes when a connection ends
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			s.log.Warn("accept", "err", err, "retry", backoff)
			time.Sleep(backoff)
		default:
			return err
		}
	}
}

func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS)
}

func (s *stream) start(conn net.Conn) {
	c := &client{conn: conn, idle: s.idle}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		conn.Close()
		return
	}
	s.clients[c] = true
	s.serving.Go(func() { s.run(c) })
}

func (s *stream) run(c *client) {
	err := s.handle(c)
	c.conn.Close() // an error says that it is closed already
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		level := slog.LevelWarn
		if clientsDoing(err) {
			level = slog.LevelDebug
		}
		s.log.Log(context.Background(), level, "connection", "remote", c.conn.RemoteAddr(), "err", err)
	}
}

// clientsDoing says whether a connection's end is nothing that an operator must know of.
func clientsDoing(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ETIMEDOUT)
}

// Shutdown implements Service.
func (s *stream) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for ln := range s.listeners {
		_ = closeListener(ln) // nothing is left to be done about it
	}
	for c := range s.clients {
		c.finish()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.clients {
		c.conn.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

func closeListener(ln net.Listener) error {
	if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// A client is a connection with an idle time-out.
type client struct {
	conn net.Conn
	idle time.Duration

	mu        sync.Mutex
	finishing bool
	deadline  time.Time // that the connection has
}

// active moves the deadline. It does so only when a quarter of the time has gone by, since moving it
// costs a timer and this is called for every read and write.
func (c *client) active() error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline.Sub(now) > c.idle-c.idle/4 {
		return nil
	}
	c.deadline = now.Add(c.idle)
	if c.finishing {
		return c.conn.SetWriteDeadline(c.deadline)
	}
	return c.conn.SetDeadline(c.deadline)
}

// finish makes the client's Read report the end of the stream.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishing = true
	_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // an error says that it is closed already
}

func (c *client) read(b []byte) (int, error) {
	if err := c.active(); err != nil {
		return 0, err
	}
	n, err := c.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.finishing {
			err = io.EOF
		}
	}
	return n, err
}

func (c *client) write(b []byte) error {
	if err := c.active(); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// closeWrite ends our direction, if the connection has two.
func (c *client) closeWrite() error {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Sizes of the buffers that connections read into. Most have little to say at a time: the small one
// is on the goroutine's stack. Who fills it gets a large one from the pool, and gives it back with
// the first read that would have fitted the small one.
const (
	smallBuffer = 1 << 10
	largeBuffer = 64 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// receive calls f with all that the client sends, and returns nil at the end of the stream.
func (c *client) receive(f func([]byte) error) error {
	var small [smallBuffer]byte
	buf := small[:]
	var large *[largeBuffer]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for {
		n, err := c.read(buf)
		if n > 0 {
			if err := f(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case large == nil && n == smallBuffer:
			large = largeBuffers.Get().(*[largeBuffer]byte)
			buf = large[:]
		case large != nil && n <= smallBuffer:
			largeBuffers.Put(large)
			large, buf = nil, small[:]
		}
	}
}
