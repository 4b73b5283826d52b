// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"sync"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// bulk is the size of the large transfers. The race detector makes both ends several times slower.
const bulk = 100_000_000

func TestLargeTransfersArriveWhole(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	body := payload(1, bulk)
	for _, f := range families(l) {
		for _, way := range []struct {
			name string
			run  func() error
		}{
			{"down", func() error { return download(httpClient(t, l, time.Minute), f, bulk) }},
			{"up", func() error { return upload(httpClient(t, l, time.Minute), f, body) }},
		} {
			t.Run(f.name+" "+way.name, func(t *testing.T) {
				start := time.Now()
				if err := way.run(); err != nil {
					t.Fatal(err)
				}
				took := time.Since(start)
				t.Logf("%d MB in %v: %.2f Gbit/s, sums and all", bulk/1_000_000, took.Round(time.Millisecond), bulk*8/took.Seconds()/1e9)
			})
		}
	}
}

func TestSeveralTransfersAtOnceDoNotMix(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	d := attach(t, l, "--listen", ":8080=http", "--listen", ":8081=echo")
	client := httpClient(t, l, time.Minute)
	fams := families(l)
	const size = 4_000_000
	var running sync.WaitGroup
	for i := range 4 {
		f := fams[i%2]
		for _, w := range []struct {
			what string
			run  func() error
		}{
			{"down", func() error { return download(client, f, int64(size+1000*i+i)) }},
			{"up", func() error { return upload(client, f, payload(uint64(10+i), size+1000*i+i)) }},
			{"both ways", func() error {
				c, err := dialTo(l, f.addr(8081))
				if err != nil {
					return err
				}
				defer c.Close()
				return echo(c, payload(uint64(20+i), size+1000*i+i))
			}},
		} {
			running.Go(func() {
				if err := w.run(); err != nil {
					t.Errorf("%s, number %d over %s: %v", w.what, i, f.name, err)
				}
			})
		}
	}
	running.Wait()
	client.CloseIdleConnections()
	d.eventually("all connections over, and cleanly", func(s samples) bool { return s.open() == 0 })
	if s := d.scrape(); s.closed("clean") != s.opened() {
		t.Errorf("%v of %v connections ended cleanly", s.closed("clean"), s.opened())
	}
}
