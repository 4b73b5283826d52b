// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestTransfersSurviveABadWire(t *testing.T) {
	for _, w := range []struct {
		name        string
		drop, delay float64
		queues      int
		size        int
	}{
		{"1 % lost", 0.01, 0, 1, 10_000_000},
		{"5 % lost", 0.05, 0, 1, 3_000_000},
		{"1 % overtaken", 0, 0.01, 1, 10_000_000},
		{"1 % lost and 1 % overtaken", 0.01, 0.01, 1, 3_000_000},
		{"1 % lost, four queues", 0.01, 0, 4, 3_000_000},
	} {
		for i, version := range []string{"IPv4", "IPv6"} {
			t.Run(w.name+" "+version, func(t *testing.T) {
				t.Parallel()
				l := lab.ForTest(t, lab.Options{PlainClient: true, Queues: w.queues})
				if err := l.Client.Offload(false); err != nil {
					t.Fatal(err)
				}
				f := families(l)[i]
				im := impair(t, l, impairment{v4: i == 0})
				attach(t, l)
				im.set(t, w.drop, w.delay)
				for _, way := range []struct {
					name string
					run  func() error
				}{
					{"down", func() error { return download(httpClient(t, l, time.Minute), f, int64(w.size)) }},
					{"up", func() error { return upload(httpClient(t, l, time.Minute), f, payload(3, w.size)) }},
				} {
					start := time.Now()
					if err := way.run(); err != nil {
						t.Fatalf("%s: %v", way.name, err)
					}
					t.Logf("%s: %v; so far %d frames lost, %d overtaken", way.name, time.Since(start).Round(time.Millisecond), im.dropped(t), im.delayed(t))
				}
				// Some 40 of each at the least are to be expected.
				if w.drop > 0 && im.dropped(t) < 12 || w.delay > 0 && im.delayed(t) < 12 {
					t.Errorf("%d frames lost and %d overtaken: the wire was not bad", im.dropped(t), im.delayed(t))
				}
			})
		}
	}
}

// The figures of the long tests: what CI has time for, and more by hand, see the flags.
var (
	echoBytes = flag.Int64("proof.bytes", 40_000_000, "bytes that go both ways over a bad wire")
	churnTime = flag.Duration("proof.churn", 6*time.Second, "how long connections come and go")
)

// Everything that a wire may do at once, to a transfer that goes both ways at once.
func TestABadWireHarmsNoByteOfALongTransfer(t *testing.T) {
	for i, version := range []string{"IPv4", "IPv6"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{PlainClient: true})
			if err := l.Client.Offload(false); err != nil {
				t.Fatal(err)
			}
			f := families(l)[i]
			im := impair(t, l, impairment{v4: i == 0})
			attach(t, l, "--listen", ":8080=echo")
			im.harm(t, 0.001, 0.001, 0.001)
			c := dial(t, l, f.addr(8080))
			limit := patience + time.Duration(*echoBytes/1_000_000)*time.Second // a megabyte a second
			if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			sent := make(chan error, 1)
			go func() {
				_, err := io.CopyBuffer(c, struct{ io.Reader }{io.LimitReader(new(stream), *echoBytes)}, make([]byte, 256<<10))
				sent <- errors.Join(err, c.CloseWrite())
			}()
			h := sha256.New()
			n, err := io.Copy(h, c)
			took := time.Since(start)
			if err := errors.Join(err, <-sent); err != nil || n != *echoBytes {
				t.Fatalf("%d of %d bytes came back: %v", n, *echoBytes, err)
			}
			if got := hex.EncodeToString(h.Sum(nil)); got != streamSum(n) {
				t.Errorf("other bytes came back than were sent: sum %s, want %s", got, streamSum(n))
			}
			t.Logf("%d MB each way in %v; %d frames lost, %d overtaken, %d doubled", n/1_000_000, took.Round(time.Millisecond),
				im.dropped(t), im.delayed(t), im.doubled(t))
			// There are 1,400 bytes in a frame, and a chance of 1 in 1,000: a fifth of what is to be expected.
			if least := uint64(n / 1400 * 2 / 1000 / 5); im.dropped(t) < least || im.delayed(t) < least || im.doubled(t) < least {
				t.Errorf("the wire was not bad: %d frames lost, %d overtaken, %d doubled", im.dropped(t), im.delayed(t), im.doubled(t))
			}
		})
	}
}

// Of a handshake with cookies any one packet may be lost: nobody keeps state to send it again but the client.
func TestAHandshakeSurvivesTheLossOfAnyOfItsPackets(t *testing.T) {
	for _, loss := range []struct {
		name      string
		flags     byte
		direction uint32
		within    time.Duration // dial, echo and all; a SYN is tried again after a second
	}{
		{"the SYN", flagSYN, toServer, 3 * time.Second},
		{"the SYN/ACK", flagSYN | flagACK, toClient, 3 * time.Second},
		{"the final ACK", flagACK, toServer, 800 * time.Millisecond},
	} {
		for i, version := range []string{"IPv4", "IPv6"} {
			t.Run(loss.name+" "+version, func(t *testing.T) {
				t.Parallel()
				l := lab.ForTest(t, lab.Options{PlainClient: true})
				f := families(l)[i]
				im := impair(t, l, impairment{v4: i == 0, flags: loss.flags})
				d := attach(t, l, "--listen", ":8080=echo")
				tap := record(t, l, lossy...)
				im.lose(t, loss.direction, 1)
				start := time.Now()
				c := dial(t, l, f.addr(8080))
				if err := echo(c, payload(1, 5000)); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > loss.within {
					t.Errorf("took %v, want at most %v", took, loss.within)
				}
				if n := im.dropped(t); n != 1 {
					t.Errorf("%d frames were lost, want 1", n)
				}
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(c); err != nil {
					t.Fatal(err)
				}
				tap.until("both FINs acknowledged", lastAck()).checkServer(t)
				if s := d.scrape(); s.opened() != 1 {
					t.Errorf("%v connections were opened, want 1", s.opened())
				}
			})
		}
	}
}

func TestAConnectionCutOffForAWhileGoesOn(t *testing.T) {
	// With several queues the kernel picks another one after a time-out (sk_rethink_txhash): the flow's
	// frames then arrive where they never did before.
	for _, queues := range []int{1, 4} {
		for i, version := range []string{"IPv4", "IPv6"} {
			t.Run(fmt.Sprintf("%d queues %s", queues, version), func(t *testing.T) {
				t.Parallel()
				l := lab.ForTest(t, lab.Options{PlainClient: true, Queues: queues})
				if err := l.Client.Offload(false); err != nil {
					t.Fatal(err)
				}
				f := families(l)[i]
				im := impair(t, l, impairment{v4: i == 0})
				attach(t, l, "--listen", ":8080=echo")
				c := dial(t, l, f.addr(8080))
				if err := echo(c, payload(5, 1000)); err != nil {
					t.Fatal(err)
				}
				im.set(t, 1, 0)
				done := make(chan error, 1)
				go func() { done <- echo(c, payload(6, 1_000_000)) }()
				time.Sleep(time.Second)
				lost := im.dropped(t)
				im.set(t, 0, 0)
				if err := <-done; err != nil {
					t.Error(err)
				}
				for range 3 { // all is acknowledged: the kernel may move the flow now
					if err := echo(c, payload(7, 1000)); err != nil {
						t.Error(err)
					}
				}
				if lost < 2 {
					t.Errorf("%d frames were lost: there was no cut", lost)
				}
			})
		}
	}
}
