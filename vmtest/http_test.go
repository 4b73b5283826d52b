// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

func TestCurlFetchesThePage(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			stdout, stderr, code := finish(t, l.Client.Command("curl", "--silent", "--show-error", "--max-time", "20", "--include", f.url("/")))
			if code != 0 {
				t.Fatalf("curl: exit code %d: %s", code, stderr)
			}
			head, body, _ := strings.Cut(stdout, "\r\n\r\n")
			if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(head, "Content-Type: text/html") {
				t.Errorf("head:\n%s", head)
			}
			for _, part := range []string{"<!DOCTYPE html>", "xdptcp", f.client.String(), "</html>"} {
				if !strings.Contains(strings.ToLower(body), strings.ToLower(part)) {
					t.Errorf("the page has no %q in it:\n%s", part, body)
				}
			}
		})
	}
}

func TestThePageTellsTheNumbersThatWereOnTheWire(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			tap := record(t, l)
			stdout, stderr, code := finish(t, l.Client.Command("curl", "--silent", "--show-error", "--max-time", "20", f.url("/json")))
			if code != 0 {
				t.Fatalf("curl: exit code %d: %s", code, stderr)
			}
			tr := tap.until("the client's ACK of the server's FIN", lastAck())
			syn := tr.first(t, "SYN", func(s segment) bool { return s.flags == flagSYN })
			synack := tr.first(t, "SYN/ACK", func(s segment) bool { return s.flags == flagSYN|flagACK })
			tr.checkServer(t)

			var got struct {
				Connection struct {
					Remote       string `json:"remote"`
					Local        string `json:"local"`
					AnsweredBy   string `json:"answered_by"`
					ClientISN    uint32 `json:"client_isn"`
					ServerISN    uint32 `json:"server_isn"`
					MSS          uint16 `json:"mss"`
					ClientWScale *int   `json:"client_wscale"`
					ServerWScale *int   `json:"server_wscale"`
					SACK         bool   `json:"sack"`
					Timestamps   bool   `json:"timestamps"`
				} `json:"connection"`
			}
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatalf("%v:\n%s", err, stdout)
			}
			c := got.Connection
			if c.ClientISN != syn.seq || c.ServerISN != synack.seq {
				t.Errorf("/json has ISNs %d and %d, on the wire were %d and %d", c.ClientISN, c.ServerISN, syn.seq, synack.seq)
			}
			if c.Remote != syn.src.String() || c.Local != syn.dst.String() || c.AnsweredBy != "xdp" {
				t.Errorf("/json has %s > %s by %q, on the wire was %v > %v", c.Remote, c.Local, c.AnsweredBy, syn.src, syn.dst)
			}
			if c.MSS != syn.mss || c.SACK != syn.sack || c.Timestamps != syn.timestamps ||
				c.ClientWScale == nil || *c.ClientWScale != syn.wscale || c.ServerWScale == nil || *c.ServerWScale != synack.wscale {
				t.Errorf("/json: %s\nSYN on the wire: MSS %d, SACK %t, timestamps %t, window scale %d; SYN/ACK: window scale %d",
					stdout, syn.mss, syn.sack, syn.timestamps, syn.wscale, synack.wscale)
			}
		})
	}
}

// lastAck recognizes the end of a connection: both FINs and the ACK of the later.
func lastAck() func(segment) bool {
	var client, server uint32 // numbers after the FINs
	var clientDone, serverDone, clientFin, serverFin bool
	return func(s segment) bool {
		switch {
		case s.outgoing:
			if s.flags&flagFIN != 0 {
				client, clientFin = s.end(), true
			}
			clientDone = clientDone || serverFin && s.flags&flagACK != 0 && s.ack == server
		default:
			if s.flags&flagFIN != 0 {
				server, serverFin = s.end(), true
			}
			serverDone = serverDone || clientFin && s.flags&flagACK != 0 && s.ack == client
		}
		return clientDone && serverDone
	}
}
