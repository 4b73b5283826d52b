// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// io.Copy uses ReadFrom and WriteTo where there are such, and then has no buffer of its own that every byte is copied into
// and out of. What a connection reads from is given memory of its send buffer to read into, and what it
// writes to gets slices of its receive buffer. The shard's lock is not held meanwhile: that memory belongs to the call.

var (
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)

// ReadFrom sends all that r gives until io.EOF, and says how much of it is in the send buffer when it returns. From a TCP
// connection of the kernel or from a file it reads up to 64 KiB at a time. What r gives when the connection takes no more is lost.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	limited, ok := r.(*io.LimitedReader) // io.CopyN, http.ServeContent
	if !ok {
		limited = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	before := limited.N
	var err error
	switch source := limited.R.(type) {
	case *net.TCPConn:
		err = c.readFromKernel(source, limited)
	case *os.File:
		err = c.readFromKernel(source, limited)
	default:
		err = c.readFrom(limited)
	}
	return before - limited.N, err
}

// readFrom reads one slice at a time: what has come must not wait for what may come.
func (c *Conn) readFrom(r *io.LimitedReader) error {
	if r.N <= 0 {
		return nil
	}
	source := r.R
	var f tcp.Fill
	defer c.commit(&f, 0) // if source panics
	err := c.reserve(&f, min(r.N, tcp.FillSlice))
	for err == nil {
		room := f.Slices()[0]
		n, end := source.Read(room)
		if n < 0 || n > len(room) {
			return fmt.Errorf("%T.Read of %d bytes returned a count of %d", source, len(room), n)
		}
		more := int64(0)
		if end == nil {
			more = min(r.N-int64(n), tcp.FillSlice)
		}
		var took int
		took, err = c.commitAndReserve(&f, n, more)
		r.N -= int64(took)
		if err == nil && more <= 0 {
			if end == io.EOF {
				end = nil
			}
			return end
		}
	}
	return err
}

// readFromKernel fills many slices with one system call, and holds none while it waits for the source.
func (c *Conn) readFromKernel(source syscall.Conn, r *io.LimitedReader) error {
	raw, err := source.SyscallConn()
	if err != nil {
		return err
	}
	for r.N > 0 {
		var n int
		var readErr, writeErr error
		err := raw.Read(func(fd uintptr) bool {
			var f tcp.Fill
			if writeErr = c.reserve(&f, r.N); writeErr != nil {
				return true
			}
			for n, readErr = unix.Readv(int(fd), f.Slices()); readErr == unix.EINTR; {
				n, readErr = unix.Readv(int(fd), f.Slices())
			}
			n = max(n, 0)
			var took int
			took, writeErr = c.commit(&f, n)
			r.N -= int64(took)
			return readErr != unix.EAGAIN
		})
		switch {
		case writeErr != nil:
			return writeErr
		case err != nil:
			return err // the source was closed, or its deadline has passed
		case readErr != nil:
			return os.NewSyscallError("readv", readErr)
		case n == 0:
			return nil
		}
	}
	return nil
}

// commitAndReserve is one after the other, under the lock once if there is room at once.
func (c *Conn) commitAndReserve(f *tcp.Fill, n int, limit int64) (took int, err error) {
	s := c.shard
	s.mu.Lock()
	took, err = c.commitLocked(f, n)
	done := err != nil || limit <= 0 || c.tcp.Reserve(f, int(limit))
	s.unlock()
	if !done {
		err = c.reserve(f, limit)
	}
	return took, err
}

// reserve waits until the connection takes data, and gives memory for some, limit bytes at most.
func (c *Conn) reserve(f *tcp.Fill, limit int64) error {
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	for {
		if err := c.mayWrite(); err != nil {
			return err
		}
		if c.tcp.Reserve(f, int(min(limit, math.MaxInt32))) {
			return nil
		}
		c.waitWrite()
	}
}

// commit sends n bytes of f, and gives the rest back. It takes all of them, unless there is an error.
func (c *Conn) commit(f *tcp.Fill, n int) (took int, err error) {
	if len(f.Slices()) == 0 {
		return 0, nil
	}
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	return c.commitLocked(f, n)
}

func (c *Conn) commitLocked(f *tcp.Fill, n int) (took int, err error) {
	err = c.mayWrite()
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // what has been read before the deadline is sent after it
		n = 0
	}
	if took = c.tcp.Commit(f, n); took > 0 {
		c.drive()
	}
	return took, err
}

// WriteTo writes all that arrives to w, until the peer's FIN. What was given to w when it fails is lost.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	var d tcp.Drain
	defer c.giveBack(&d) // if w panics
	for {
		if err := c.take(&d); err != nil {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		n, err := writeAll(w, d.Slices())
		c.giveBack(&d)
		total += n
		if err != nil {
			return total, err
		}
	}
}

// take waits for bytes.
func (c *Conn) take(d *tcp.Drain) error {
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	for {
		if err := c.mayRead(); err != nil {
			return err
		}
		if c.tcp.Take(d) > 0 {
			c.drive() // the window has opened: perhaps worth telling
			return nil
		}
		if err := c.nothingComes(); err != nil {
			return err
		}
		c.waitRead()
	}
}

func (c *Conn) giveBack(d *tcp.Drain) {
	if len(d.Slices()) == 0 {
		return
	}
	s := c.shard
	s.mu.Lock()
	defer s.unlock()
	c.tcp.GiveBack(d)
}

// writeAll writes slices one after the other, where w is a socket of the kernel with one system call.
func writeAll(w io.Writer, slices [][]byte) (total int64, err error) {
	switch w.(type) {
	case *net.TCPConn, *net.UnixConn:
		buffers := net.Buffers(slices)
		return buffers.WriteTo(w)
	}
	for _, b := range slices {
		n, err := w.Write(b)
		total += int64(n)
		switch {
		case err != nil:
			return total, err
		case n != len(b):
			return total, io.ErrShortWrite
		}
	}
	return total, nil
}
