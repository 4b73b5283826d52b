// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// The worked example of every TCP book: an ISN takes one number, each byte one, a FIN one.
func TestEveryByteOnTheWireTakesOneNumber(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l, "--listen", ":8080=echo")
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			tap := record(t, l)
			c := dial(t, l, f.addr(8080))
			if err := echo(c, []byte("ten bytes.")); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Fatalf("after the echo: %q, %v", rest, err)
			}
			tr := tap.until("both FINs acknowledged", lastAck())
			tr.checkServer(t)

			client := func(flags byte, n int) func(segment) bool {
				return func(s segment) bool { return s.outgoing && s.flags&^flagPSH == flags && len(s.payload) == n }
			}
			server := func(flags byte, n int) func(segment) bool {
				return func(s segment) bool { return !s.outgoing && s.flags&^flagPSH == flags && len(s.payload) == n }
			}
			isn := tr.first(t, "SYN", client(flagSYN, 0)).seq
			synack := tr.first(t, "SYN/ACK", server(flagSYN|flagACK, 0))
			iss := synack.seq
			for _, want := range []struct {
				what     string
				got      segment
				seq, ack uint32
			}{
				{"SYN/ACK", synack, iss, isn + 1},
				{"the client's final ACK", tr.first(t, "final ACK", client(flagACK, 0)), isn + 1, iss + 1},
				{"the client's 10 bytes", tr.first(t, "the client's data", client(flagACK, 10)), isn + 1, iss + 1},
				{"the server's 10 bytes", tr.first(t, "the server's data", server(flagACK, 10)), iss + 1, isn + 11},
				{"the client's FIN", tr.first(t, "the client's FIN", client(flagACK|flagFIN, 0)), isn + 11, iss + 11},
				{"the server's FIN", tr.first(t, "the server's FIN", server(flagACK|flagFIN, 0)), iss + 11, isn + 12},
				{"the last ACK", tr[len(tr)-1], isn + 12, iss + 12},
			} {
				if want.got.seq != want.seq || want.got.ack != want.ack {
					t.Errorf("%s: seq ISN%+d, ack ISN%+d; want %+d, %+d", want.what,
						int32(want.got.seq-want.seq), int32(want.got.ack-want.ack), 0, 0)
				}
			}
			if synack.window == 0 {
				t.Error("the SYN/ACK has a window of 0")
			}
			tr.first(t, "nothing but what there must be", func(segment) bool { return len(tr) <= 11 })
		})
	}
}

// delayedAck is the engine's DelayedAck, less what the clocks on the way may differ.
const delayedAck = 40*time.Millisecond - 5*time.Millisecond

func TestAcknowledgmentsRideOnData(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	const requests = 200
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			tap := record(t, l)
			client := httpClient(t, l, patience)
			// Or a busy machine has it dial again before it knows that the connection is idle.
			client.Transport.(*http.Transport).MaxConnsPerHost = 1
			for range requests {
				if _, err := fetch(client, f.url("/bytes?n=100")); err != nil {
					t.Fatal(err)
				}
			}
			client.CloseIdleConnections()
			tr := tap.until("both FINs acknowledged", lastAck())
			tr.checkServer(t)

			// Between an ACK of its own and the request it acknowledges there must be the delayed-ACK
			// time-out: the answer came too late to carry it.
			var responses, pure int
			var syns []segment
			var asked time.Time
			fin := false
			for _, s := range tr {
				switch {
				case s.outgoing && s.flags == flagSYN:
					syns = append(syns, s)
				case s.outgoing && s.flags&flagFIN != 0:
					fin = true
				case s.outgoing && len(s.payload) > 0:
					asked = s.at
				case !s.outgoing && len(s.payload) > 0:
					responses++
				case !s.outgoing && s.pureAck() && !fin:
					pure++
					if waited := s.at.Sub(asked); waited < delayedAck {
						t.Errorf("a pure ACK %v after the request: %v", waited, s)
					}
				}
			}
			if len(syns) != 1 || responses < requests {
				t.Errorf("SYNs %v, %d segments with answers; want one SYN and at least %d answers", syns, responses, requests)
			}
			t.Logf("%d requests, %d answers, %d pure ACKs", requests, responses, pure)
		})
	}
}
