// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/vmtest/lab"
)

// Clients of all kinds of TCP, on a good wire and on one that loses frames: what is not agreed on is not used.
func TestAClientWithoutAnOptionIsServedWithoutIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		sysctl []string // set to 0 on the client
		lossy  bool
	}{
		{"no timestamps", []string{"tcp_timestamps"}, false},
		{"no SACK", []string{"tcp_sack"}, false},
		{"no window scale", []string{"tcp_window_scaling"}, false},
		{"none of them", []string{"tcp_timestamps", "tcp_sack", "tcp_window_scaling"}, false},
		{"no timestamps, 1 % lost", []string{"tcp_timestamps"}, true},
		{"no SACK, 1 % lost", []string{"tcp_sack"}, true},
		{"none of them, 1 % lost", []string{"tcp_timestamps", "tcp_sack", "tcp_window_scaling"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{PlainClient: c.lossy})
			if err := l.Client.Offload(false); err != nil {
				t.Fatal(err)
			}
			off := map[string]bool{}
			for _, name := range c.sysctl {
				off[name] = true
				if err := l.Client.SetSysctl("net.ipv4."+name, "0"); err != nil {
					t.Fatal(err)
				}
			}
			f := families(l)[len(c.sysctl)/2] // of either family some
			expected, size := []finding(nil), 1_000_000
			if c.lossy {
				expected = lossy
				im := impair(t, l, impairment{v4: f.client.Is4()})
				defer func() {
					if im.dropped(t) == 0 {
						t.Error("nothing was lost")
					}
				}()
				im.set(t, 0.01, 0)
			}
			attach(t, l)
			tap := record(t, l, expected...)
			client := httpClient(t, l, time.Minute)
			if err := download(client, f, int64(size)); err != nil {
				t.Error(err)
			}
			if err := upload(client, f, payload(5, size)); err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections()
			tr := tap.rest()
			tr.checkServer(t)
			synack := tr.first(t, "SYN/ACK", func(s segment) bool { return s.flags == flagSYN|flagACK })
			if synack.timestamps == off["tcp_timestamps"] || synack.sack == off["tcp_sack"] || (synack.wscale >= 0) == off["tcp_window_scaling"] {
				t.Errorf("the SYN/ACK has timestamps %t, SACK %t, window scale %d", synack.timestamps, synack.sack, synack.wscale)
			}
			for _, s := range tr {
				if s.timestamps && off["tcp_timestamps"] || s.sackBlocks > 0 && off["tcp_sack"] {
					t.Fatalf("an option that was not agreed on: %v", s)
				}
			}
		})
	}
}

func TestATinySegmentSizeIsKept(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	if err := l.Client.Offload(false); err != nil {
		t.Fatal(err)
	}
	attach(t, l)
	for _, f := range families(l) {
		for _, mss := range []int{88, 400, 1000} { // the kernel takes no less than 88
			// Thousands of small frames at once are more than the rings of a busy machine hold.
			tap := record(t, l, lossy...)
			d := &net.Dialer{Timeout: patience, Control: maxSegment(mss)}
			tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return l.Client.DialWith(ctx, d, network, addr)
			}}
			client := &http.Client{Transport: tr, Timeout: patience}
			if err := download(client, f, 200_000); err != nil {
				t.Errorf("%s, MSS %d: %v", f.name, mss, err)
			}
			if err := upload(client, f, payload(9, 200_000)); err != nil {
				t.Errorf("%s, MSS %d: %v", f.name, mss, err)
			}
			client.CloseIdleConnections()
			seen := tap.rest()
			seen.checkServer(t)
			if syn := seen.first(t, "SYN", func(s segment) bool { return s.flags == flagSYN }); int(syn.mss) != mss {
				t.Fatalf("%s: the client's SYN has MSS %d, want %d", f.name, syn.mss, mss)
			}
			largest := 0
			for _, s := range seen {
				if !s.outgoing {
					largest = max(largest, len(s.payload))
				}
			}
			if largest > mss-12 || largest < 32 { // 12 are the timestamps'
				t.Errorf("%s: the largest segment to a client with MSS %d has %d bytes", f.name, mss, largest)
			}
		}
	}
}

// A client of 1981: no option at all, one segment at a time, a small window, and nothing that a kernel would do for it.
func TestAClientThatKnowsNoOptionsIsServed(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	attach(t, l)
	raws := newSender(t, l.Client)
	for _, f := range families(l) {
		t.Run(f.name, func(t *testing.T) {
			tap, err := l.Client.Capture(lab.CaptureOptions{Buffer: 1 << 12})
			if err != nil {
				t.Fatal(err)
			}
			defer tap.Close()
			const n = 20_000
			r := raw{to: l.Server.MAC, from: l.Client.MAC, src: spoofed(f.server.Is4(), 7), dst: f.serverPort(8080), seq: 500, flags: flagSYN}
			send := func() {
				t.Helper()
				if err := raws.send(r.frame()); err != nil {
					t.Fatal(err)
				}
			}
			next := func(what string) segment {
				t.Helper()
				for timeout := time.After(patience); ; {
					select {
					case p := <-tap.Packets():
						if s, ok := decode(p); ok && !s.outgoing && s.dst == r.src {
							if s.timestamps || s.sack || s.wscale >= 0 && s.flags&flagSYN == 0 || s.flags&flagRST != 0 {
								t.Fatalf("%s: not to a client without options: %v", what, s)
							}
							return s
						}
					case <-timeout:
						t.Fatalf("never came: %s", what)
					}
				}
			}
			send()
			synack := next("the SYN/ACK")
			if synack.flags != flagSYN|flagACK || synack.ack != 501 || synack.wscale >= 0 || synack.window == 0 {
				t.Fatalf("the SYN/ACK: %v, window %d, scale %d", synack, synack.window, synack.wscale)
			}
			r.seq, r.ack, r.flags = 501, synack.seq+1, flagACK
			send()
			r.flags, r.payload = flagACK|flagPSH, fmt.Appendf(nil, "GET /bytes?n=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", n)
			send()
			r.seq, r.flags, r.payload = r.seq+uint32(len(r.payload)), flagACK, nil
			var got bytes.Buffer
			for fin := false; !fin; {
				s := next("more of the answer")
				if s.ack != r.seq {
					continue // before it had the request
				}
				most := 536 // RFC 9293, 3.7.1: MUST-15
				if !f.server.Is4() {
					most = 1220
				}
				if len(s.payload) > most {
					t.Fatalf("a segment of %d bytes to a client that offered no MSS", len(s.payload))
				}
				if s.seq != r.ack {
					continue // again, or out of order
				}
				got.Write(s.payload)
				r.ack, fin = s.end(), s.flags&flagFIN != 0
				if len(s.payload) > 0 || fin {
					send()
				}
			}
			r.flags = flagFIN | flagACK
			send()
			for s := next("the ACK of the FIN"); s.ack != r.seq+1; s = next("the ACK of the FIN") {
			}
			head, body, _ := strings.Cut(got.String(), "\r\n\r\n")
			want := make([]byte, n)
			_, _ = new(stream).Read(want) // can't fail
			if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || body != string(want) {
				t.Errorf("%d bytes of body, want %d; head:\n%s", len(body), n, head)
			}
		})
	}
}
