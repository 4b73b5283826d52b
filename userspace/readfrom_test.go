// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
	"github.com/xdptcp/xdptcp/userspace/wire"
)

// text is n bytes of which no two stretches are alike.
func text(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// holdsNothing waits until no connection holds buffers.
func (p *peer) holdsNothing() {
	p.t.Helper()
	p.stats("bytes in buffers", func(s Stats) uint64 { return uint64(s.BufferBytes) }, 0)
}

// inFile gives a file with these bytes in it.
func inFile(t *testing.T, b []byte) *os.File {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// kernelPair gives both ends of a TCP connection of the kernel.
func kernelPair(t testing.TB) (a, b *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestReadFromSendsAllThatItsSourceGives(t *testing.T) {
	big, small := text(1_000_000), text(3000)
	for _, tc := range []struct {
		name   string
		source func(t *testing.T) io.Reader
		want   []byte
	}{
		{"memory", func(*testing.T) io.Reader { return bytes.NewReader(big) }, big},
		{"something that gives one byte at a time", func(*testing.T) io.Reader { return iotest.OneByteReader(bytes.NewReader(small)) }, small},
		{"something that gives its last bytes with the EOF", func(*testing.T) io.Reader { return iotest.DataErrReader(bytes.NewReader(small)) }, small},
		{"nothing", func(*testing.T) io.Reader { return bytes.NewReader(nil) }, nil},
		{"a file", func(t *testing.T) io.Reader { return inFile(t, big) }, big},
		{"an empty file", func(t *testing.T) io.Reader { return inFile(t, nil) }, nil},
		{"a part of a file", func(t *testing.T) io.Reader { return io.LimitReader(inFile(t, big), 123_456) }, big[:123_456]},
		{"a part of memory", func(*testing.T) io.Reader { return io.LimitReader(bytes.NewReader(big), 4321) }, big[:4321]},
		{"a connection of the kernel that pauses", func(t *testing.T) io.Reader {
			a, b := kernelPair(t)
			go func() {
				_, _ = a.Write(big[:300_001])
				time.Sleep(20 * time.Millisecond)
				_, _ = a.Write(big[300_001:])
				a.Close()
			}()
			return b
		}, big},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, 0)
			c := p.connect()
			r := newRemote(t, p)
			// A header before, as from an HTTP server.
			if _, err := c.Write([]byte("header")); err != nil {
				t.Fatal(err)
			}
			n, err := c.(io.ReaderFrom).ReadFrom(tc.source(t))
			if err != nil || n != int64(len(tc.want)) {
				t.Fatalf("ReadFrom says %d, %v, want %d", n, err, len(tc.want))
			}
			if _, err := c.Write([]byte("trailer")); err != nil {
				t.Fatal(err)
			}
			want := append(append([]byte("header"), tc.want...), "trailer"...)
			if got := r.heard(t, len(want)); !bytes.Equal(got, want) {
				t.Fatalf("other bytes arrived: %d, want %d", len(got), len(want))
			}
			p.holdsNothing()
		})
	}
}

// A blockedReader gives what it is sent, and says when it is asked.
type blockedReader struct {
	asked chan []byte // what it is to read into
	give  chan func([]byte) (int, error)
}

func newBlockedReader() *blockedReader {
	return &blockedReader{make(chan []byte), make(chan func([]byte) (int, error))}
}

func (r *blockedReader) Read(b []byte) (int, error) {
	r.asked <- b
	return (<-r.give)(b)
}

func TestReadFromWhen(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name   string
		during func(p *peer, c *Conn) // while the source is being read
		give   func([]byte) (int, error)
		want   error
		sent   string
	}{
		{"the source fails", func(*peer, *Conn) {}, func(b []byte) (int, error) { return copy(b, "half"), broken }, broken, "half"},
		{"the connection is closed", func(_ *peer, c *Conn) { _ = c.Close() },
			func(b []byte) (int, error) { return copy(b, "late"), nil }, net.ErrClosed, ""},
		{"our direction is closed", func(_ *peer, c *Conn) { _ = c.CloseWrite() },
			func(b []byte) (int, error) { return copy(b, "late"), nil }, syscall.EPIPE, ""},
		{"the peer resets", func(p *peer, _ *Conn) {
			p.send(wire.RST, peerIRS+1, 0, "", nil)
			p.stats("resets", func(s Stats) uint64 { return s.ClosedReset }, 1)
		}, func(b []byte) (int, error) { return copy(b, "late"), nil }, syscall.ECONNRESET, ""},
		{"the deadline passes", func(_ *peer, c *Conn) { _ = c.SetWriteDeadline(time.Now().Add(-1)) },
			func(b []byte) (int, error) { return copy(b, "just"), nil }, os.ErrDeadlineExceeded, "just"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, 0)
			c := p.connect().(*Conn)
			source := newBlockedReader()
			type result struct {
				n   int64
				err error
			}
			done := make(chan result, 1)
			go func() {
				n, err := c.ReadFrom(source)
				done <- result{n, err}
			}()
			<-source.asked
			tc.during(p, c)
			source.give <- tc.give
			if got := <-done; got.n != int64(len(tc.sent)) || !errors.Is(got.err, tc.want) {
				t.Errorf("ReadFrom says %d, %v, want %d, %v", got.n, got.err, len(tc.sent), tc.want)
			}
			if tc.sent != "" {
				p.want(p.link.next(t), wire.ACK|wire.PSH, peerISS+1, peerIRS+1, tc.sent)
				p.send(wire.ACK, peerIRS+1, peerISS+1+uint32(len(tc.sent)), "", nil)
			}
			p.holdsNothing()
		})
	}
}

func TestMemoryThatASourceReadsIntoIsNobodyElses(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	source := newBlockedReader()
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadFrom(source)
		done <- err
	}()
	lent := <-source.asked
	p.send(wire.RST, peerIRS+1, 0, "", nil)
	p.stats("resets", func(s Stats) uint64 { return s.ClosedReset }, 1)
	// Another connection receives now, and would get the chunk if it were free.
	p.from(40001)
	other := p.connect()
	p.send(wire.ACK|wire.PSH, peerIRS+1, peerISS+1, "mine", nil)
	p.stats("segments", func(s Stats) uint64 { return s.SegmentsIn }, 4)
	source.give <- func(b []byte) (int, error) { return copy(b, "overwritten"), nil }
	if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ReadFrom says %v", err)
	}
	b := make([]byte, 10)
	if n, err := other.Read(b); err != nil || string(b[:n]) != "mine" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if len(lent) == 0 {
		t.Error("the source was given no room")
	}
	p.holdsNothing()
}

func TestASourceOrSinkThatPanicsLeavesNothingBehind(t *testing.T) {
	p := newPeer(t, 0)
	c := p.connect().(*Conn)
	panics := func(f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Error("it did not panic")
			}
		}()
		f()
	}
	panics(func() { _, _ = c.ReadFrom(panicking{}) })
	p.send(wire.ACK|wire.PSH, peerIRS+1, peerISS+1, "boo", nil)
	panics(func() { _, _ = c.WriteTo(panicking{}) })
	p.holdsNothing()
	if _, err := c.Write([]byte("alive")); err != nil {
		t.Error(err)
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error)  { panic("read") }
func (panicking) Write([]byte) (int, error) { panic("write") }

func TestReadFromWaitsForRoomUntilTheDeadline(t *testing.T) {
	p := newPeer(t, 0) // that acknowledges nothing
	c := p.connect().(*Conn)
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.ReadFrom(bytes.NewReader(text(1 << 20)))
	if bound := p.engine.cfg.TCP.SendBuffer; !errors.Is(err, os.ErrDeadlineExceeded) || n > int64(bound) || n <= int64(bound-tcp.FillSlice) {
		t.Errorf("ReadFrom says %d, %v, want what fits into the send buffer's %d", n, err, bound)
	}
	p.stats("send buffer full", func(s Stats) uint64 { return s.SendBufferFull }, 1)
}

func TestWriteToGivesAllThatArrives(t *testing.T) {
	want := text(1_000_000)
	t.Run("memory", func(t *testing.T) {
		p := newPeer(t, 0)
		c := p.connect()
		newRemote(t, p).say(want, true)
		var got bytes.Buffer
		if n, err := c.(io.WriterTo).WriteTo(&got); err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("WriteTo says %d, %v, and wrote %d bytes, want %d", n, err, got.Len(), len(want))
		}
		p.holdsNothing()
	})
	t.Run("a connection of the kernel", func(t *testing.T) {
		p := newPeer(t, 0)
		c := p.connect()
		newRemote(t, p).say(want, true)
		a, b := kernelPair(t)
		got := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(b)
			got <- all
		}()
		n, err := io.Copy(a, onlyWriterTo{c.(*Conn)})
		a.Close()
		if all := <-got; err != nil || n != int64(len(want)) || !bytes.Equal(all, want) {
			t.Errorf("Copy says %d, %v, and wrote %d bytes, want %d", n, err, len(all), len(want))
		}
		p.holdsNothing()
	})
}

// onlyWriterTo keeps io.Copy from looking at anything else.
type onlyWriterTo struct{ c *Conn }

func (o onlyWriterTo) Read([]byte) (int, error)           { panic("io.Copy has not used WriteTo") }
func (o onlyWriterTo) WriteTo(w io.Writer) (int64, error) { return o.c.WriteTo(w) }

// A sink does with what is written to it as it is told.
type sink func([]byte) (int, error)

func (s sink) Write(b []byte) (int, error) { return s(b) }

func TestWriteToWhen(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name  string
		write func(p *peer, c *Conn) sink
		n     int64
		want  error
	}{
		{"the sink fails", func(*peer, *Conn) sink { return func([]byte) (int, error) { return 2, broken } }, 2, broken},
		{"the sink writes less than it was given", func(*peer, *Conn) sink { return func([]byte) (int, error) { return 3, nil } }, 3, io.ErrShortWrite},
		{"the connection is closed", func(_ *peer, c *Conn) sink {
			return func(b []byte) (int, error) { _ = c.Close(); return len(b), nil }
		}, 5, net.ErrClosed},
		{"the peer resets", func(p *peer, _ *Conn) sink {
			return func(b []byte) (int, error) {
				p.send(wire.RST, peerIRS+6, 0, "", nil)
				return len(b), nil
			}
		}, 5, syscall.ECONNRESET},
		{"reading is closed", func(_ *peer, c *Conn) sink {
			return func(b []byte) (int, error) { _ = c.CloseRead(); return len(b), nil }
		}, 5, nil},
		{"the deadline passes", func(_ *peer, c *Conn) sink {
			return func(b []byte) (int, error) { return len(b), c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) }
		}, 5, os.ErrDeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, 0)
			c := p.connect().(*Conn)
			p.send(wire.ACK|wire.PSH, peerIRS+1, peerISS+1, "hello", nil)
			if n, err := c.WriteTo(tc.write(p, c)); n != tc.n || !errors.Is(err, tc.want) {
				t.Errorf("WriteTo says %d, %v, want %d, %v", n, err, tc.n, tc.want)
			}
			p.holdsNothing()
		})
	}
}

func TestBytesOnTheirWayToASinkStayWhatTheyAre(t *testing.T) {
	for _, tc := range []struct {
		name string
		// hole: what arrives out of order is in the same chunk as what is being written.
		hole bool
	}{{"alone in their chunk", false}, {"beside what came out of order", true}} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeer(t, 0)
			c := p.connect().(*Conn)
			if tc.hole {
				p.send(wire.ACK|wire.PSH, peerIRS+1+10, peerISS+1, "later", nil)
			}
			p.send(wire.ACK|wire.PSH, peerIRS+1, peerISS+1, "hello", nil)
			p.stats("segments", func(s Stats) uint64 { return s.BytesIn }, map[bool]uint64{false: 5, true: 10}[tc.hole])
			var got []byte
			_, err := c.WriteTo(sink(func(b []byte) (int, error) {
				if len(got) == 0 {
					p.send(wire.ACK|wire.PSH, peerIRS+6, peerISS+1, "world", nil)
					if !tc.hole {
						p.send(wire.ACK|wire.PSH, peerIRS+11, peerISS+1, "later", nil)
					}
					p.send(wire.FIN|wire.ACK, peerIRS+16, peerISS+1, "", nil)
					p.stats("segments", func(s Stats) uint64 { return s.BytesIn }, 15)
					_ = c.CloseWrite()
				}
				got = append(got, b...)
				return len(b), nil
			}))
			if err != nil || string(got) != "helloworldlater" {
				t.Errorf("%q arrived, %v", got, err)
			}
			p.holdsNothing()
		})
	}
}
