// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestAClientsResetEndsItsConnectionAndNoOther(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=discard")
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			before := d.scrape()
			tap := record(t, l)
			client := httpClient(t, l, patience)

			down := dial(t, l, f.addr(8080))
			if _, err := io.WriteString(down, "GET /bytes?n=1000000000 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, down, 1_000_000); err != nil {
				t.Fatal(err)
			}
			up := dial(t, l, f.addr(8081))
			if _, err := up.Write(payload(1, 1_000_000)); err != nil {
				t.Fatal(err)
			}
			if _, err := fetch(client, f.url("/")); err != nil {
				t.Fatal(err)
			}
			for _, c := range []interface{ SetLinger(int) error }{down, up} {
				if err := c.SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			down.Close()
			up.Close()
			s := d.eventually("two more resets", func(s samples) bool { return s.closed("reset") == before.closed("reset")+2 })
			if s.open() != 1 {
				t.Errorf("%v connections open, want the 1 that was not reset", s.open())
			}
			if _, err := fetch(client, f.url("/")); err != nil {
				t.Errorf("the other connection: %v", err)
			}
			client.CloseIdleConnections()
			d.eventually("the last one closed", func(s samples) bool { return s.open() == 0 })
			if n := d.scrape()["xdptcp_resets_sent_total"] - before["xdptcp_resets_sent_total"]; n != 0 {
				t.Errorf("the server answered with %v RSTs", n)
			}
			tap.rest().checkServer(t)
		})
	}
}

func TestAHalfClosedConnectionGivesBackEverything(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=echo")
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			// The client's direction is closed long before the last byte has come back.
			for _, size := range []int{0, 1, 100_000, 3_000_000} {
				c := dial(t, l, f.addr(8080))
				b := payload(uint64(size), size)
				sent := make(chan error, 1)
				go func() {
					_, err := c.Write(b)
					sent <- errors.Join(err, c.CloseWrite())
				}()
				got, err := io.ReadAll(c)
				if err := errors.Join(err, <-sent); err != nil {
					t.Fatalf("%d bytes: after %d: %v", size, len(got), err)
				}
				if !bytes.Equal(got, b) {
					t.Errorf("%d bytes: %d came back, or other ones", size, len(got))
				}
				c.Close()
			}
		})
	}
	s := d.eventually("all closed", func(s samples) bool { return s.open() == 0 })
	if s.closed("clean") != s.opened() {
		t.Errorf("%v of %v ended cleanly", s.closed("clean"), s.opened())
	}
}

func TestWritingToAClosedConnectionIsAnsweredWithAReset(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			c := dial(t, l, f.addr(8080))
			if _, err := io.WriteString(c, "GET /bytes?n=8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(c); err != nil { // the server's FIN has come
				t.Fatal(err)
			}
			var err error
			for start := time.Now(); err == nil && time.Since(start) < patience; time.Sleep(10 * time.Millisecond) {
				_, err = c.Write(make([]byte, 100))
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("writing on: %v, want a reset", err)
			}
		})
	}
}

func TestAClientThatVanishesHarmsNobody(t *testing.T) {
	for i, version := range []string{"IPv4", "IPv6"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{PlainClient: true})
			d := attach(t, l)
			f := families(l)[i]
			const port = 45000
			w := impair(t, l, impairment{v4: f.client.Is4(), clientPort: port})
			gone, err := dialFrom(l, f.from(port), f.addr(8080), patience)
			if err != nil {
				t.Fatal(err)
			}
			defer gone.Close()
			if _, err := io.WriteString(gone, "GET /bytes?n=1000000000 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, gone, 1_000_000); err != nil {
				t.Fatal(err)
			}
			w.set(t, 1, 0) // from now on nothing of it comes or goes
			client := httpClient(t, l, patience)
			for range 100 {
				start := time.Now()
				if _, err := fetch(client, f.url("/bytes?n=10000")); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("another client waited %v", took)
				}
			}
			if w.dropped(t) == 0 {
				t.Error("nothing was swallowed: the client has not vanished")
			}
			client.CloseIdleConnections()
			d.eventually("none but the vanished open", func(s samples) bool { return s.open() == 1 })
			if err := download(&http.Client{Transport: &http.Transport{DialContext: l.Client.Dial, DisableKeepAlives: true}, Timeout: patience}, f, 5_000_000); err != nil {
				t.Error(err)
			}
		})
	}
}

// A process that is killed takes its sockets with it; its kernel says so.
func TestAKilledClientsConnectionsEnd(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	const each = 3
	var curls []*lab.Cmd
	for _, f := range families(l) {
		for range each {
			c := l.Client.Command("curl", "--silent", "--output", "/dev/null", "--limit-rate", "1M", f.url("/bytes?n=1000000000"))
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			curls = append(curls, c)
		}
	}
	d.eventually("all of them connected", func(s samples) bool { return s.open() == 2*each })
	for _, c := range curls {
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait() // killed: that is its error
	}
	s := d.eventually("none open", func(s samples) bool { return s.open() == 0 })
	if s.closed("reset") != 2*each {
		t.Errorf("%v ended by reset, %v cleanly; want all %d by reset", s.closed("reset"), s.closed("clean"), 2*each)
	}
}

// A client that loses its memory (a crash and a restart, say) knows nothing of the connection that the server
// has with it, and takes the same port again (RFC 9293, 3.5.1; RFC 5961, 4).
func TestAClientThatHasForgottenItsConnectionConnectsAgainFromTheSamePort(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=echo")
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			before := d.scrape()
			const port = 45000
			c, err := dialFrom(l, f.from(port), f.addr(8080), patience)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(echo(c, payload(1, 1000)), forget(c)); err != nil {
				t.Fatal(err)
			}
			if s := d.scrape(); s.open() != before.open()+1 {
				t.Fatalf("%v connections open: the server has heard that the client forgot", s.open()-before.open())
			}
			again, err := dialFrom(l, f.from(port), f.addr(8080), patience)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if err := echo(again, payload(2, 100_000)); err != nil {
				t.Error(err)
			}
			if s := d.scrape(); s.opened() != before.opened()+2 || s.closed("reset") != before.closed("reset")+1 {
				t.Errorf("%v connections opened, %v ended by reset; want 2, 1", s.opened()-before.opened(), s.closed("reset")-before.closed("reset"))
			}
		})
	}
}

// forget closes a socket without a segment sent.
func forget(c *net.TCPConn) error {
	sock, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(setOption(sock, unix.SOL_TCP, unix.TCP_REPAIR, 1), c.Close())
}
