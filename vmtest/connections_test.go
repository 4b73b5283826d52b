// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// dialTo connects from any port of the client's.
func dialTo(l *lab.Lab, addr string) (*net.TCPConn, error) {
	return dialFrom(l, netip.AddrPort{}, addr, patience)
}

func TestManyConnectionsAtOnceEachGetTheirOwnBytes(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=echo")
	fams := families(l)
	const n, size = 200, 50_000
	conns := make([]*net.TCPConn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	if err := all(n, 32, func(i int) (err error) {
		conns[i], err = dialTo(l, fams[i%2].addr(8080))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// All of them send before any of them reads.
	var failed sync.Map
	var running sync.WaitGroup
	for i, c := range conns {
		running.Go(func() {
			if err := echo(c, payload(uint64(i), size+i)); err != nil {
				failed.Store(i, err)
			}
		})
	}
	running.Wait()
	failed.Range(func(i, err any) bool { t.Errorf("connection %v: %v", i, err); return true })
	if s := d.scrape(); s.open() != n || s.opened() != n {
		t.Errorf("%v connections open and %v opened, want %d", s.open(), s.opened(), n)
	}
}

func TestConnectionsComeAndGoWithoutFailure(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=echo")
	fams := families(l)
	const n = 2000
	if err := all(n, 16, func(i int) error {
		f := fams[i/2%2]
		if i%2 == 0 {
			return closeFirst(l, f.addr(8081), uint64(i))
		}
		return serverClosesFirst(l, netip.AddrPort{}, f.addr(8080))
	}); err != nil {
		t.Fatal(err)
	}
	s := d.eventually("no connection open", func(s samples) bool { return s.open() == 0 })
	if s.opened() != n || s.closed("clean") != n {
		t.Errorf("opened %v, ended cleanly %v, by reset %v, aborted %v, timeout %v; want %d, all cleanly",
			s.opened(), s.closed("clean"), s.closed("reset"), s.closed("aborted"), s.closed("timeout"), n)
	}
	s.expectNoHonestDrops(t)
}

// expectNoHonestDrops checks that XDP dropped nothing, where all clients were honest.
func (s samples) expectNoHonestDrops(t *testing.T) {
	t.Helper()
	for name, n := range s {
		if strings.HasPrefix(name, "xdptcp_packets_total") && strings.Contains(name, `verdict="drop"`) && n > 0 {
			t.Errorf("packets of honest clients were dropped: %s %v", name, n)
		}
	}
}

// closeFirst talks to an echo and is the first to close.
func closeFirst(l *lab.Lab, addr string, seed uint64) error {
	c, err := dialTo(l, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := echo(c, payload(seed, 300)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n > 0 {
		return fmt.Errorf("after closing: %d bytes, %w", n, err)
	}
	return nil
}

// serverClosesFirst asks for something, and that the server close the connection after it.
func serverClosesFirst(l *lab.Lab, from netip.AddrPort, addr string) error {
	c, err := dialFrom(l, from, addr, patience)
	for start := time.Now(); errors.Is(err, syscall.EADDRNOTAVAIL) && time.Since(start) < patience; {
		// The client's last connection from this port is in LAST-ACK, for as long as its FIN is unanswered.
		time.Sleep(time.Millisecond)
		c, err = dialFrom(l, from, addr, patience)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /bytes?n=8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	want := make([]byte, 8)
	_, _ = new(stream).Read(want) // can't fail
	if !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(answer), "\r\n\r\n"+string(want)) {
		return fmt.Errorf("answer: %q", answer)
	}
	return nil
}

func TestAPortIsUsableAgainRightAfterTheServerClosed(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	const rounds = 5
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			tap := record(t, l, "reused_ports")
			from := netip.AddrPortFrom(f.client, 45678)
			for i := range rounds {
				start := time.Now()
				if err := serverClosesFirst(l, from, f.addr(8080)); err != nil {
					t.Fatalf("round %d: %v", i, err)
				}
				if took := time.Since(start); took > 500*time.Millisecond {
					t.Errorf("round %d: took %v: the SYN was not answered at once", i, took)
				}
			}
			tr := tap.rest()
			tr.checkServer(t)
			syns := 0
			for _, s := range tr {
				if s.flags == flagSYN {
					syns++
				}
				if s.flags&flagRST != 0 {
					t.Errorf("a RST: %v", s)
				}
			}
			if syns != rounds {
				t.Errorf("%d SYNs for %d connections", syns, rounds)
			}
		})
	}
	s := d.scrape()
	if s.opened() != 2*rounds {
		t.Errorf("%v connections were opened, want %d", s.opened(), 2*rounds)
	}
	s.expectNoHonestDrops(t)
	if by := s[`xdptcp_synacks_total{by="engine"}`]; by != 2*(rounds-1) {
		t.Errorf("%v SYNs were answered from TIME-WAIT, want %d", by, 2*(rounds-1))
	}
}

func TestAKeepAliveConnectionServesManyRequests(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			before := d.scrape().opened()
			client := httpClient(t, l, patience)
			for i := range 100 {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, f.url(fmt.Sprintf("/bytes?n=%d", i*37)), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				if resp.Body.Close(); err != nil || n != int64(i*37) {
					t.Fatalf("request %d: %d bytes, %v", i, n, err)
				}
			}
			if got := d.scrape().opened() - before; got != 1 {
				t.Errorf("%v connections for 100 requests", got)
			}
		})
	}
}
