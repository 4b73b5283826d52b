// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestAClientsResetEndsItsConnectionAndNoOther(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=discard")
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			before := d.scrape()
			tap := record(t, l, outrun...)
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
