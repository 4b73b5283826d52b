// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// Clients that do not keep up, and clients that have little to say. Each of them has the whole of its bytes in the end, and
// a client beside it does not notice.
func TestASlowClientGetsEveryByteAndDelaysNobody(t *testing.T) {
	for _, pace := range []struct {
		name    string
		size    int
		receive int           // the client's receive buffer; 0: the kernel's
		pause   time.Duration // before the first byte is read
		read    int           // bytes at a time …
		every   time.Duration // … with this between
		write   int           // bytes at a time; 0: all at once
		closed  bool          // the window is shut for a while, and probed
		shrunk  bool          // the window is taken back
	}{
		{"a slow reader", 400_000, 8 << 10, 0, 8 << 10, 20 * time.Millisecond, 0, false, false},
		{"a reader that sleeps, its window shut, and then wants all", 4_000_000, 0, 3 * time.Second, 1 << 20, 0, 0, true, false},
		// Linux counts the memory that frames take, and drops what it has promised to take.
		{"a reader that sleeps, with less memory than its window says", 1_000_000, 16 << 10, 2 * time.Second, 1 << 20, 0, 0, false, true},
		{"a writer of single bytes", 300, 0, 0, 1 << 10, 0, 1, false, false},
		{"a slow writer of odd pieces", 50_000, 0, 0, 1 << 20, 0, 777, false, false},
	} {
		t.Run(pace.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			if err := l.Client.Offload(false); err != nil {
				t.Fatal(err)
			}
			d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=echo")
			for _, f := range families(l) {
				var expected []finding
				if pace.receive > 0 { // what the client's kernel promised to take and dropped comes again
					expected = lossy
				}
				tap := record(t, l, expected...)
				dialer := &net.Dialer{Timeout: patience}
				if pace.receive > 0 { // before the window is agreed on, so that it is never taken back
					dialer.Control = func(_, _ string, c syscall.RawConn) error {
						return setOption(c, unix.SOL_SOCKET, unix.SO_RCVBUF, pace.receive)
					}
				}
				conn, err := l.Client.DialWith(t.Context(), dialer, "tcp", f.addr(8081))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				c := conn.(*net.TCPConn)
				if err := c.SetDeadline(time.Now().Add(3 * patience)); err != nil {
					t.Fatal(err)
				}
				want := payload(uint64(pace.size), pace.size)
				sent := make(chan error, 1)
				go func() {
					piece := pace.write
					if piece == 0 {
						piece = len(want)
					}
					for at := 0; at < len(want); at += piece {
						if _, err := c.Write(want[at:min(at+piece, len(want))]); err != nil {
							sent <- err
							return
						}
						if pace.write > 0 {
							time.Sleep(time.Millisecond)
						}
					}
					sent <- c.CloseWrite()
				}()
				others := make(chan error, 1)
				go func() {
					client := httpClient(t, l, patience)
					var err error
					for range 20 {
						err = errors.Join(err, download(client, f, 10_000))
					}
					client.CloseIdleConnections()
					others <- err
				}()
				time.Sleep(pace.pause)
				var got bytes.Buffer
				for {
					n, err := io.CopyN(&got, c, int64(pace.read))
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatalf("%s: after %d bytes: %v", f.name, int64(got.Len())+n, err)
					}
					time.Sleep(pace.every)
				}
				if err := errors.Join(<-sent, <-others); err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%s: %d of %d bytes came back, or other ones", f.name, got.Len(), len(want))
				}
				c.Close()
				d.eventually("all closed", func(s samples) bool { return s.open() == 0 })
				tr := tap.rest()
				tr.checkServer(t)
				probes := tr.probes()
				t.Logf("%s: %d probes of a shut window", f.name, probes)
				if pace.closed && (probes < 2 || probes > 30) {
					t.Errorf("%s: %d probes of the shut window in %v", f.name, probes, pace.pause)
				}
				if again := tr.unheard(); pace.shrunk && len(again) > 0 {
					t.Errorf("%s: the client did not hear our acknowledgments, and sent again: %v", f.name, again)
				}
			}
			if s := d.scrape(); s.closed("clean") != s.opened() {
				t.Errorf("%v of %v connections ended cleanly", s.closed("clean"), s.opened())
			}
		})
	}
}

// probes counts the single bytes that the server sent into a window that was shut.
func (tr trace) probes() (n int) {
	shut := map[uint16]bool{} // by client's port
	for _, s := range tr {
		switch {
		case s.outgoing && s.flags&flagACK != 0:
			shut[s.src.Port()] = s.window == 0
		case !s.outgoing && shut[s.dst.Port()] && len(s.payload) == 1:
			n++
		}
	}
	return n
}

// unheard are the client's segments that the server had acknowledged long before.
func (tr trace) unheard() (again trace) {
	type acked struct {
		upTo uint32
		at   time.Time
	}
	acks := map[uint16][]acked{} // by client's port, in order
	for _, s := range tr {
		if !s.outgoing {
			acks[s.dst.Port()] = append(acks[s.dst.Port()], acked{s.ack, s.at})
			continue
		}
		for _, a := range acks[s.src.Port()] {
			if len(s.payload) > 0 && int32(a.upTo-s.end()) >= 0 {
				if s.at.Sub(a.at) > 100*time.Millisecond {
					again = append(again, s)
				}
				break
			}
		}
	}
	return again
}
