// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestTenThousandConnectionsAreOpenAtOnce(t *testing.T) {
	t.Parallel()
	const n, width = 10_000, 64
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=echo")
	allowFiles(t, n+2000)
	fams := families(l)
	conns := make([]*net.TCPConn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	start := time.Now()
	if err := all(n, width, func(i int) (err error) {
		if conns[i], err = dialTo(l, fams[i%2].addr(8080)); err != nil {
			return err
		}
		if err := conns[i].SetDeadline(time.Now().Add(6 * patience)); err != nil {
			return err
		}
		return echo(conns[i], payload(uint64(i), 100+i%1000))
	}); err != nil {
		t.Fatal(err)
	}
	opened := time.Since(start)
	s := d.scrape()
	if s.open() != n || s.opened() != n || flows(t, l.Server) != n {
		t.Errorf("%v connections open, %v opened, %d flows; want %d", s.open(), s.opened(), flows(t, l.Server), n)
	}
	// All of them are alive, and none has another's bytes.
	if err := all(n, width, func(i int) error {
		c := conns[n-1-i]
		if err := echo(c, payload(uint64(n+i), 200)); err != nil {
			return err
		}
		return c.CloseWrite()
	}); err != nil {
		t.Error(err)
	}
	if err := all(n, width, func(i int) error {
		rest, err := io.Copy(io.Discard, conns[i])
		if err == nil && rest > 0 {
			err = errors.New("more came back than was sent")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	s = d.eventually("no connection open", func(s samples) bool { return s.open() == 0 })
	if s.closed("clean") != n {
		t.Errorf("%v of %d ended cleanly", s.closed("clean"), n)
	}
	s.expectNoHonestDrops(t)
	t.Logf("open and echoed after %v, all over after %v", opened.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
}

// allowFiles lets this process have so many files open.
func allowFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur >= n {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: max(n, limit.Max), Max: max(n, limit.Max)}); err != nil {
		t.Fatalf("open files: %d are allowed, the test needs %d: %v", limit.Cur, n, err)
	}
}

// Connections of every kind come and go on few ports, so that each port is used again and again; on another queue
// each time, too.
func TestConnectionsChurnForAWhile(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Queues: 2})
	d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=echo")
	for name, value := range map[string]string{"net.ipv4.ip_local_port_range": "40000 43999", "net.ipv4.tcp_tw_reuse": "1"} {
		if err := l.Client.SetSysctl(name, value); err != nil {
			t.Fatal(err)
		}
	}
	fams := families(l)
	var mu sync.Mutex
	done, failed := map[string]int{}, 0
	kinds := []struct {
		name string
		run  func(f family, i int) error
	}{
		{"closed by the client", func(f family, i int) error { return closeFirst(l, f.addr(8081), uint64(i)) }},
		{"closed by the server", func(f family, _ int) error { return serverClosesFirst(l, netip.AddrPort{}, f.addr(8080)) }},
		{"reset by the client", func(f family, i int) error {
			c, err := dialTo(l, f.addr(8081))
			if err != nil {
				return err
			}
			return errors.Join(echo(c, payload(uint64(i), 500)), abort(c))
		}},
		{"closed without a word", func(f family, _ int) error {
			c, err := dialTo(l, f.addr(8081))
			if err != nil {
				return err
			}
			return c.Close()
		}},
	}
	var running sync.WaitGroup
	until := time.Now().Add(*churnTime)
	for worker := range 16 {
		running.Go(func() {
			for i := worker; time.Now().Before(until); i += 16 {
				k, f := kinds[i/16%len(kinds)], fams[i%2]
				err := k.run(f, i)
				mu.Lock()
				done[k.name]++
				if err != nil {
					if failed++; failed <= 5 {
						t.Errorf("%s, over %s, number %d: %v", k.name, f.name, i, err)
					}
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	total := 0
	for name, n := range done {
		total += n
		if n < 50 {
			t.Errorf("%s: %d connections in %v", name, n, *churnTime)
		}
	}
	s := d.eventually("no connection open", func(s samples) bool { return s.open() == 0 })
	if s.opened() != float64(total) || s.closed("timeout")+s.closed("aborted") > 0 {
		t.Errorf("%d connections were made; the engine opened %v: ended cleanly %v, by reset %v, aborted %v, timeout %v", total,
			s.opened(), s.closed("clean"), s.closed("reset"), s.closed("aborted"), s.closed("timeout"))
	}
	t.Logf("%d connections in %v: %v", total, *churnTime, done)
}
